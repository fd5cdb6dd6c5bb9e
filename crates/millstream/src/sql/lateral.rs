//! `FROM t CROSS JOIN UNNEST(t.a) AS u(e)`: a row of `t` for each of its own elements.
//!
//! DataFusion plans it as a join with a subquery that refers to `t`, and can't run that. Here the subquery is laid over
//! `t` itself: every node of it passes the columns of `t` on. What it does with a row needs no other row, so that it is
//! the same in batch and on a stream. `LEFT JOIN UNNEST(..) ON TRUE` keeps a row without elements: its list is one NULL.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result, ScalarValue, TableReference};
use datafusion::functions_nested::expr_fn::cardinality;
use datafusion::logical_expr::{
    Expr, ExprSchemable, Join, JoinType, LogicalPlan, LogicalPlanBuilder, Unnest, lit, when,
};

/// The plan with each lateral UNNEST over the table that it refers to.
///
/// # Errors
/// Where DataFusion refuses a node: a bug.
pub fn over_its_table(plan: LogicalPlan) -> Result<LogicalPlan> {
    let done = plan.transform_up_with_subqueries(|node| {
        let laid = match &node {
            LogicalPlan::Join(join) if join.on.is_empty() => laid_over(join)?,
            _ => None,
        };
        Ok(laid.map_or_else(|| Transformed::no(node), Transformed::yes))
    })?;
    Ok(done.data)
}

fn laid_over(join: &Join) -> Result<Option<LogicalPlan>> {
    let (mut right, mut alias) = (join.right.as_ref(), None);
    while let LogicalPlan::SubqueryAlias(node) = right {
        alias = alias.or_else(|| Some(node.alias.clone()));
        right = &node.input;
    }
    let LogicalPlan::Subquery(subquery) = right else { return Ok(None) };
    let rows = Rows { plan: &join.left, keep_all: join.join_type == JoinType::Left };
    let filter = join.filter.as_ref().filter(|filter| **filter != lit(true));
    let wanted = matches!(join.join_type, JoinType::Inner) || (rows.keep_all && filter.is_none());
    let Some(rows) = (if wanted { over(&subquery.subquery, rows, &[])? } else { None }) else { return Ok(None) };
    let kept = join.left.schema().fields().len();
    let columns = rows.schema().columns();
    let (own, elements) = columns.split_at(kept.min(columns.len()));
    let named = own.iter().cloned().map(Expr::Column);
    let elements = elements.iter().map(|column| named_as(column, alias.as_ref()));
    let builder = LogicalPlanBuilder::from(rows.clone()).project(named.chain(elements))?;
    let plan = match filter {
        Some(filter) => builder.filter(filter.clone())?.build()?,
        None => builder.build()?,
    };
    Ok(Some(plan))
}

fn named_as(column: &Column, alias: Option<&TableReference>) -> Expr {
    let name = column.name.clone();
    Expr::Column(column.clone()).alias_qualified(alias.cloned(), name)
}

/// What a subquery is laid over.
#[derive(Clone, Copy)]
struct Rows<'a> {
    plan: &'a LogicalPlan,
    /// A row without elements is kept.
    keep_all: bool,
}

/// The subquery with these rows in the place of its one row without columns; `None` where it is no UNNEST of them.
///
/// `unnested` names the lists that the node above takes apart.
fn over(node: &LogicalPlan, rows: Rows<'_>, unnested: &[Column]) -> Result<Option<LogicalPlan>> {
    match node {
        LogicalPlan::EmptyRelation(empty) if empty.produce_one_row => Ok(Some(rows.plan.clone())),
        LogicalPlan::SubqueryAlias(alias) => over(&alias.input, rows, unnested),
        LogicalPlan::Projection(projection) => {
            let Some(input) = over(&projection.input, rows, &[])? else { return Ok(None) };
            let mut exprs: Vec<Expr> = rows.plan.schema().columns().into_iter().map(Expr::Column).collect();
            for expr in &projection.expr {
                let Some(list) = with_columns_of(expr, rows.plan.schema())? else { return Ok(None) };
                let name = expr.schema_name().to_string();
                let padded = rows.keep_all && unnested.iter().any(|column| column.name == name);
                exprs.push(if padded { padded_list(list, &name, rows.plan.schema())? } else { list });
            }
            LogicalPlanBuilder::from(input).project(exprs)?.build().map(Some)
        }
        LogicalPlan::Unnest(unnest) => {
            let Some(input) = over(&unnest.input, rows, &unnest.exec_columns)? else { return Ok(None) };
            let unnest = Unnest::try_new(Arc::new(input), unnest.exec_columns.clone(), unnest.options.clone())?;
            Ok(Some(LogicalPlan::Unnest(unnest)))
        }
        _ => Ok(None),
    }
}

/// The list, or one NULL where it has no elements.
fn padded_list(list: Expr, name: &str, rows: &DFSchema) -> Result<Expr> {
    let DataType::List(element) = list.get_type(rows)? else { return Ok(list) };
    let one = [ScalarValue::try_from(element.data_type())?];
    let one = ScalarValue::List(ScalarValue::new_list_nullable(&one, element.data_type()));
    let list = list.unalias();
    let padded = when(cardinality(list.clone()).gt(lit(0_u64)), list).otherwise(Expr::Literal(one, None))?;
    Ok(padded.alias(name))
}

/// The expression with its references to these rows as columns; `None` where it refers to others.
fn with_columns_of(expr: &Expr, rows: &DFSchema) -> Result<Option<Expr>> {
    let mut strange = false;
    expr.apply(|e| {
        strange |= matches!(e, Expr::OuterReferenceColumn(_, column) if !rows.has_column(column));
        Ok(TreeNodeRecursion::Continue)
    })?;
    if strange {
        return Ok(None);
    }
    let columns = expr.clone().transform(|e| match e {
        Expr::OuterReferenceColumn(_, column) => Ok(Transformed::yes(Expr::Column(column))),
        e => Ok(Transformed::no(e)),
    })?;
    Ok(Some(columns.data))
}
