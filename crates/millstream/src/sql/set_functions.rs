//! The calls in FROM that INTERSECT ALL and EXCEPT ALL are put into by the parser.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{Extension, LogicalPlan};
use datafusion::sql::sqlparser::ast::{Expr, FunctionArg, FunctionArgExpr, Query, TableFactor};

use super::parser::{EXCEPT_ALL, INTERSECT_ALL};
use crate::set_op::{CountedOp, CountedSetOp};

/// Plans set operations that count.
#[derive(Debug)]
pub struct SetFunctions;

impl RelationPlanner for SetFunctions {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let Some((op, left, right)) = call(&relation) else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let derived = |query: &Query| TableFactor::Derived {
            lateral: false,
            subquery: Box::new(query.clone()),
            alias: None,
            sample: None,
        };
        let (left, right) = (context.plan(derived(left))?, context.plan(derived(right))?);
        let node = CountedSetOp::try_new(left, right, op)?;
        let plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, None))))
    }
}

fn call(relation: &TableFactor) -> Option<(CountedOp, &Query, &Query)> {
    let TableFactor::Table { name, args: Some(args), .. } = relation else { return None };
    let op = match name.0.as_slice() {
        [part] => match part.as_ident()?.value.as_str() {
            INTERSECT_ALL => CountedOp::Intersect,
            EXCEPT_ALL => CountedOp::Except,
            _ => return None,
        },
        _ => return None,
    };
    let [left, right] = args.args.as_slice() else { return None };
    Some((op, subquery(left)?, subquery(right)?))
}

fn subquery(arg: &FunctionArg) -> Option<&Query> {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Subquery(query))) => Some(query),
        _ => None,
    }
}
