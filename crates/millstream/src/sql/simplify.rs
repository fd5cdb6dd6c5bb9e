//! DataFusion's simplifier, kept from joining IN lists as though nothing were NULL.
//!
//! DataFusion 55 makes `k IN ('a') AND k IN ('b')` FALSE, `k NOT IN ('a') OR k NOT IN ('b')` TRUE, and takes the items of
//! one list out of the other, where the answer is unknown for a NULL, or beside a NULL in a list. While it simplifies, the
//! values that such lists are asked for look like different ones; what is joined rightly (`k IN ('a') OR k IN ('b')`) is
//! still joined.

use std::collections::HashMap;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr::{Cast, InList, ScalarFunction, TryCast};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, LogicalPlan, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// [`SimplifyExpressions`], by its name.
#[derive(Debug, Default)]
pub struct Simplify(SimplifyExpressions);

impl OptimizerRule for Simplify {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let parted = parted(plan)?;
        let simplified = self.0.rewrite(parted.data, config)?;
        if parted.transformed { simplified.transform_data(together) } else { Ok(simplified) }
    }
}

/// The plan of a node whose lists that must not be joined are asked for different values.
fn parted(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let names = NamePreserver::new(&plan);
    plan.map_expressions(|expr| {
        let clashing = clashing(&expr);
        if clashing.is_empty() {
            return Ok(Transformed::no(expr));
        }
        let (name, mut number) = (names.save(&expr), 0);
        let parted = expr.transform_up(|part| {
            let clashes = subject(&part).is_some_and(|asked| clashing.contains(asked.value));
            number += usize::from(clashes);
            Ok(if clashes { Transformed::yes(part_of(part, number)) } else { Transformed::no(part) })
        })?;
        Ok(parted.update_data(|expr| name.restore(expr)))
    })
}

fn part_of(expr: Expr, number: usize) -> Expr {
    let apart = |value: Box<Expr>| {
        let function = ScalarUDF::from(Apart { number, signature: Signature::any(1, Volatility::Immutable) });
        Box::new(Expr::ScalarFunction(ScalarFunction::new_udf(function.into(), vec![*value])))
    };
    match expr {
        Expr::InList(list) => Expr::InList(InList { expr: apart(list.expr), ..list }),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_constant(&left) => {
            Expr::BinaryExpr(BinaryExpr { left, op, right: apart(right) })
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            Expr::BinaryExpr(BinaryExpr { left: apart(left), op, right })
        }
        other => other,
    }
}

/// The same plan, whose lists are asked for what they were.
fn together(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    plan.map_expressions(|expr| {
        expr.transform_up(|part| match part {
            Expr::ScalarFunction(mut call) if call.func.inner().is::<Apart>() => match call.args.pop() {
                Some(value) => Ok(Transformed::yes(value)),
                None => Ok(Transformed::no(Expr::ScalarFunction(call))),
            },
            part => Ok(Transformed::no(part)),
        })
    })
}

/// The value that a list, or a comparison that may become one, asks for.
struct Asked<'a> {
    value: &'a Expr,
    negated: bool,
    list: bool,
}

fn subject(expr: &Expr) -> Option<Asked<'_>> {
    match expr {
        Expr::InList(InList { expr, negated, .. }) => Some(Asked { value: plain(expr), negated: *negated, list: true }),
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::Eq | Operator::NotEq), right }) => {
            let negated = *op == Operator::NotEq;
            match (is_constant(left), is_constant(right)) {
                (false, true) => Some(Asked { value: plain(left), negated, list: false }),
                (true, false) => Some(Asked { value: plain(right), negated, list: false }),
                _ => None,
            }
        }
        _ => None,
    }
}

fn is_constant(expr: &Expr) -> bool {
    expr.column_refs().is_empty()
}

/// What a value is compared as may be forgotten.
fn plain(mut value: &Expr) -> &Expr {
    while let Expr::Cast(Cast { expr, .. }) | Expr::TryCast(TryCast { expr, .. }) = value {
        value = expr;
    }
    value
}

/// How often a value is asked for, and whether it is in one chain of ORs, or of ANDs of what is negated.
#[derive(Default)]
struct Count {
    lists: usize,
    comparisons: usize,
    chain: Option<usize>,
    elsewhere: bool,
}

impl Count {
    fn clashes(&self) -> bool {
        // Two comparisons in an OR become a list.
        self.lists + self.comparisons / 2 > 1 && self.elsewhere
    }
}

/// The values that are asked for in lists that DataFusion would join wrongly.
fn clashing(expr: &Expr) -> Vec<Expr> {
    let mut found = HashMap::new();
    let mut chains = 0;
    count(expr, None, &mut chains, &mut found);
    found.into_iter().filter(|(_, count)| count.clashes()).map(|(value, _)| value.clone()).collect()
}

fn count<'a>(
    expr: &'a Expr,
    chain: Option<(usize, Operator)>,
    chains: &mut usize,
    found: &mut HashMap<&'a Expr, Count>,
) {
    if let Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) = expr {
        let chain = chain.filter(|(_, of)| of == op).unwrap_or_else(|| {
            *chains += 1;
            (*chains, *op)
        });
        count(left, Some(chain), chains, found);
        count(right, Some(chain), chains, found);
        return;
    }
    if let Some(asked) = subject(expr) {
        let count = found.entry(asked.value).or_default();
        count.lists += usize::from(asked.list);
        count.comparisons += usize::from(!asked.list);
        let joined = chain.filter(|(_, op)| (*op == Operator::And) == asked.negated).map(|(chain, _)| chain);
        count.elsewhere |= joined.is_none() || count.chain.is_some_and(|first| Some(first) != joined);
        count.chain = joined;
    }
    let _ = expr.apply_children(|child| {
        count(child, None, chains, found);
        Ok(TreeNodeRecursion::Continue)
    });
}

/// A value, as one of its own.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Apart {
    number: usize,
    signature: Signature,
}

impl ScalarUDFImpl for Apart {
    fn name(&self) -> &str {
        "apart"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        Ok(args.first().cloned().unwrap_or(DataType::Null))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        match args.arg_fields.first() {
            Some(field) => Ok(field.clone()),
            None => datafusion::common::internal_err!("a value that is told apart is one"),
        }
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.pop() {
            Some(value) => Ok(value),
            None => datafusion::common::internal_err!("a value that is told apart is one"),
        }
    }
}
