//! UNNEST in FROM: a row for each element of an array, beside the row that the array is in.
//!
//! ```sql
//! FROM orders CROSS JOIN UNNEST(items) AS t(id, amount)        -- an array of ROW gives its columns
//! FROM orders, LATERAL UNNEST(tags) WITH ORDINALITY AS t(tag, n)
//! FROM orders LEFT JOIN UNNEST(tags) AS t(tag) ON TRUE         -- also orders without a tag
//! ```
//!
//! DataFusion plans UNNEST of an array that is known. One that looks at the table beside it is planned as a [`Beside`],
//! which never runs: when the join that it stands in has been planned, [`beside_rows`] puts a projection and an `Unnest`
//! of the table itself in its place.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{
    Column, DFSchema, DFSchemaRef, JoinType, NullHandling, Result, ScalarValue, UnnestOptions, plan_err,
};
use datafusion::functions::core::expr_fn::get_field;
use datafusion::functions_nested::expr_fn::{array_length, gen_series, map_entries};
use datafusion::logical_expr::expr_rewriter::strip_outer_reference;
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{
    Expr, ExprSchemable, Extension, Join, LogicalPlan, LogicalPlanBuilder, UserDefinedLogicalNodeCore, lit, when,
};
use datafusion::sql::sqlparser::ast::{Expr as SqlExpr, FunctionArg, FunctionArgExpr, TableAlias, TableFactor};

/// The column that counts, where nothing else names it.
const ORDINALITY: &str = "ordinality";

/// Plans UNNEST of an array in the table beside it, and WITH ORDINALITY.
#[derive(Debug)]
pub struct UnnestBeside;

impl RelationPlanner for UnnestBeside {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let Some((array, ordinality, alias)) = call(&relation) else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let array = context.sql_to_expr(array.clone(), &DFSchema::empty())?;
        if !array.contains_outer() && !ordinality {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        }
        let name = match alias {
            Some(alias) => alias.name.value.clone(),
            None => "unnest".to_string(),
        };
        let node = Beside::try_new(array, ordinality, &name)?;
        let plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias.cloned()))))
    }
}

/// `UNNEST(array) [WITH ORDINALITY] [AS alias]`, also behind LATERAL.
fn call(relation: &TableFactor) -> Option<(&SqlExpr, bool, Option<&TableAlias>)> {
    match relation {
        TableFactor::UNNEST { alias, array_exprs, with_offset: false, with_ordinality, .. } => {
            let [array] = array_exprs.as_slice() else { return None };
            Some((array, *with_ordinality, alias.as_ref()))
        }
        TableFactor::Function { name, args, with_ordinality, alias, .. }
            if name.to_string().eq_ignore_ascii_case("UNNEST") =>
        {
            let [FunctionArg::Unnamed(FunctionArgExpr::Expr(array))] = args.as_slice() else { return None };
            Some((array, *with_ordinality, alias.as_ref()))
        }
        _ => None,
    }
}

/// The elements of an array that is in the row beside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Beside {
    array: Expr,
    ordinality: bool,
    schema: DFSchemaRef,
}

impl Beside {
    fn try_new(array: Expr, ordinality: bool, name: &str) -> Result<Self> {
        let mut fields: Vec<Field> = match array.get_type(&DFSchema::empty())? {
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                match columns_of(item.data_type()) {
                    Some(columns) => columns.iter().map(|c| c.as_ref().clone()).collect(),
                    None => vec![Field::new(name, item.data_type().clone(), true)],
                }
            }
            DataType::Map(entries, _) => match columns_of(entries.data_type()) {
                Some(columns) => columns.iter().map(|c| c.as_ref().clone()).collect(),
                None => return plan_err!("a MAP has keys and values"),
            },
            other => return plan_err!("UNNEST takes an ARRAY or a MAP, and {array} is {other}"),
        };
        if ordinality {
            fields.push(Field::new(ORDINALITY, DataType::Int64, true));
        }
        let fields =
            fields.into_iter().map(|f| (None, Arc::new(f.with_nullable(true).with_metadata(Default::default()))));
        let schema = Arc::new(DFSchema::new_with_metadata(fields.collect(), Default::default())?);
        Ok(Self { array, ordinality, schema })
    }

    /// How many columns an element has; `None` where it is one itself.
    fn columns(&self) -> Vec<FieldRef> {
        let count = self.schema.fields().len() - usize::from(self.ordinality);
        self.schema.fields().iter().take(count).cloned().collect()
    }
}

/// The columns of an element that is a ROW.
fn columns_of(element: &DataType) -> Option<&Fields> {
    match element {
        DataType::Struct(columns) => Some(columns),
        _ => None,
    }
}

impl PartialOrd for Beside {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.array.partial_cmp(&other.array)
    }
}

impl UserDefinedLogicalNodeCore for Beside {
    fn name(&self) -> &str {
        "Unnest"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![self.array.clone()]
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Unnest: {}", self.array)
    }

    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, _: Vec<LogicalPlan>) -> Result<Self> {
        Ok(Self { array: exprs.pop().unwrap_or_else(|| self.array.clone()), ..self.clone() })
    }
}

/// Every [`Beside`] as an `Unnest` of the table that it stands beside.
///
/// # Errors
/// Where one stands beside no table, or is joined by a condition that leaves rows without an element to be told.
pub fn beside_rows(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut number = 0;
    let rewritten = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Join(join) => match beside(&join.right) {
            Some(beside) => {
                number += 1;
                Ok(Transformed::yes(unnest(&join, &beside.clone(), number)?))
            }
            None => Ok(Transformed::no(LogicalPlan::Join(join))),
        },
        // One whose array is constant, WITH ORDINALITY, stands alone.
        LogicalPlan::Extension(node) if is_alone(node.node.as_any().downcast_ref::<Beside>()) => {
            number += 1;
            let Some(beside) = node.node.as_any().downcast_ref::<Beside>() else {
                return Ok(Transformed::no(LogicalPlan::Extension(node)));
            };
            let targets = beside.schema.iter().map(|(q, f)| (q.cloned(), Arc::clone(f))).collect::<Vec<_>>();
            let one = LogicalPlanBuilder::empty(true).build()?;
            Ok(Transformed::yes(elements(one, beside, JoinType::Inner, &targets, number)?))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(rewritten.data)
}

fn is_alone(beside: Option<&Beside>) -> bool {
    beside.is_some_and(|beside| !beside.array.contains_outer())
}

/// The elements behind nothing but names.
fn beside(plan: &LogicalPlan) -> Option<&Beside> {
    match plan {
        LogicalPlan::Extension(node) => node.node.as_any().downcast_ref::<Beside>(),
        LogicalPlan::SubqueryAlias(node) => beside(&node.input),
        LogicalPlan::Subquery(node) => beside(&node.subquery),
        // `AS t(a, b)` renames the columns.
        LogicalPlan::Projection(node) => {
            let renames = node.expr.iter().all(|e| matches!(e.clone().unalias(), Expr::Column(_)));
            beside(&node.input).filter(|_| renames)
        }
        _ => None,
    }
}

fn unnest(join: &Join, beside: &Beside, number: usize) -> Result<LogicalPlan> {
    let conditions: Vec<Expr> = join.filter.iter().cloned().collect();
    let always = conditions.iter().all(|c| *c == lit(true)) && join.on.is_empty();
    if !matches!(join.join_type, JoinType::Inner | JoinType::Left) {
        return plan_err!("UNNEST is joined by CROSS JOIN, JOIN or LEFT JOIN");
    }
    if join.join_type == JoinType::Left && !always {
        return plan_err!("LEFT JOIN UNNEST(..) takes ON TRUE: put the condition into WHERE");
    }
    let targets: Vec<_> = join.right.schema().iter().map(|(q, f)| (q.cloned(), Arc::clone(f))).collect();
    let plan = elements(join.left.as_ref().clone(), beside, join.join_type, &targets, number)?;
    let mut plan = LogicalPlanBuilder::from(plan);
    if !always {
        for (left, right) in &join.on {
            plan = plan.filter(left.clone().eq(right.clone()))?;
        }
        for condition in conditions {
            plan = plan.filter(condition)?;
        }
    }
    plan.build()
}

type Target = (Option<datafusion::common::TableReference>, FieldRef);

/// The rows of a plan, each once for every element, with the element's columns under these names.
fn elements(
    rows: LogicalPlan,
    beside: &Beside,
    kind: JoinType,
    targets: &[Target],
    number: usize,
) -> Result<LogicalPlan> {
    let (element, ordinal) = (format!("$element{number}"), format!("$ordinal{number}"));
    let mut array = strip_outer_reference(beside.array.clone());
    if matches!(array.get_type(rows.schema())?, DataType::Map(..)) {
        array = map_entries(array);
    }
    let count = || array_length(array.clone());
    let numbers = gen_series(lit(1_i64), datafusion::logical_expr::cast(count(), DataType::Int64), lit(1_i64));
    // The numbers of an array without elements are none, not 1 and 0.
    let numbers = when(count().gt(lit(0_i64)), numbers.clone())
        .otherwise(Expr::Literal(ScalarValue::try_from(&numbers.get_type(rows.schema())?)?, None))?;
    let columns = rows.schema().columns();
    let mut exprs: Vec<Expr> = columns.iter().cloned().map(Expr::Column).collect();
    exprs.push(array.clone().alias(&element));
    let mut unnested = vec![Column::new_unqualified(&element)];
    if beside.ordinality {
        exprs.push(numbers.alias(&ordinal));
        unnested.push(Column::new_unqualified(&ordinal));
    }
    // What has no element keeps its row in a LEFT JOIN.
    let null_handling = match kind {
        JoinType::Left => NullHandling::PreserveAndExpandEmpty,
        _ => NullHandling::Drop,
    };
    let options = UnnestOptions::new().with_null_handling(null_handling);
    let plan = LogicalPlanBuilder::from(rows).project(exprs)?.unnest_columns_with_options(unnested, options)?;
    let is_row = matches!(plan.schema().field_with_unqualified_name(&element)?.data_type(), DataType::Struct(_));
    let value = || Expr::Column(Column::new_unqualified(&element));
    let mut values: Vec<Expr> = match is_row {
        true => beside.columns().iter().map(|c| get_field(value(), c.name().as_str())).collect(),
        false => vec![value()],
    };
    if beside.ordinality {
        values.push(Expr::Column(Column::new_unqualified(&ordinal)));
    }
    let mut select: Vec<Expr> = columns.into_iter().map(Expr::Column).collect();
    for (value, (qualifier, field)) in values.into_iter().zip(targets) {
        select.push(value.alias_qualified(qualifier.clone(), field.name()));
    }
    plan.project(select)?.build()
}
