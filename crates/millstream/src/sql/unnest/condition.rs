//! `LEFT JOIN UNNEST(array) AS t(e) ON condition`: only the elements that meet the condition are unnested, so that a row
//! without one is left with NULLs.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::functions::core::expr_fn::get_field;
use datafusion::functions_nested::array_filter::array_filter_higher_order_function;
use datafusion::functions_nested::expr_fn::map_entries;
use datafusion::logical_expr::expr::{HigherOrderFunction, Lambda, LambdaVariable};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, ExprSchemable, Extension, Join, LogicalPlan};

use super::Beside;

/// The element that a condition looks at.
const ELEMENT: &str = "$element";

/// The same join over the elements that meet its condition; `None` where they can't be told by themselves: of several arrays
/// beside each other, numbered ones, or by a subquery.
pub(super) fn met(join: &Join) -> Result<Option<Join>> {
    let Some(beside) = renamed(&join.right).filter(|beside| !beside.ordinality) else { return Ok(None) };
    let [array] = beside.arrays.as_slice() else { return Ok(None) };
    let array = match array.get_type(&DFSchema::empty())? {
        DataType::Map(..) => map_entries(array.clone()),
        _ => array.clone(),
    };
    let element = match array.get_type(&DFSchema::empty())? {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => item,
        _ => return Ok(None),
    };
    let variable = Expr::LambdaVariable(LambdaVariable::new(ELEMENT.to_string(), Some(Arc::clone(&element))));
    let column = |index: usize| match element.data_type() {
        DataType::Struct(fields) => fields.get(index).map(|field| get_field(variable.clone(), field.name().as_str())),
        _ => Some(variable.clone()),
    };
    let equal = join.on.iter().map(|(left, right)| left.clone().eq(right.clone()));
    let Some(condition) = conjunction(equal.chain(join.filter.clone())) else { return Ok(None) };
    if condition.exists(|part| Ok(matches!(part, Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_))))? {
        return Ok(None);
    }
    let condition = condition.transform_up(|part| {
        let Expr::Column(name) = &part else { return Ok(Transformed::no(part)) };
        let of_element = join.right.schema().index_of_column(name).ok().and_then(column);
        Ok(of_element.map_or_else(|| Transformed::no(part), Transformed::yes))
    })?;
    let lambda = Expr::Lambda(Lambda::new(vec![ELEMENT.to_string()], condition.data));
    let call = HigherOrderFunction::new(array_filter_higher_order_function(), vec![array, lambda]);
    let arrays = vec![Expr::HigherOrderFunction(call)];
    let met = LogicalPlan::Extension(Extension { node: Arc::new(Beside { arrays, ..beside.clone() }) });
    let right = join.right.as_ref().clone().transform_up(|node| match node {
        LogicalPlan::Extension(_) => Ok(Transformed::yes(met.clone())),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(Some(Join { right: Arc::new(right.data), on: vec![], filter: None, ..join.clone() }))
}

/// The elements behind names alone: their columns are in the order of the plan's.
fn renamed(plan: &LogicalPlan) -> Option<&Beside> {
    match plan {
        LogicalPlan::Extension(node) => node.node.as_any().downcast_ref(),
        LogicalPlan::SubqueryAlias(node) => renamed(&node.input),
        LogicalPlan::Subquery(node) => renamed(&node.subquery),
        LogicalPlan::Projection(node) => {
            let in_order = node.expr.iter().enumerate().all(|(index, expr)| match expr.clone().unalias() {
                Expr::Column(column) => node.input.schema().index_of_column(&column).ok() == Some(index),
                _ => false,
            });
            in_order.then(|| renamed(&node.input))?
        }
        _ => None,
    }
}
