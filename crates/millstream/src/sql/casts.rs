//! Casts that would lose more than digits.
//!
//! A time that is cast to fewer digits is the one before it, also before 1970, as FLOOR and windows have it: arrow rounds
//! to 1970. A DOUBLE that is too large for a FLOAT is an error of its row, as any other number that does not fit, and
//! NULL in TRY_CAST: arrow makes it infinite.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::{
    ArrowTimestampType, DataType, FieldRef, Float64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType,
};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue, exec_err, internal_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Cast, ColumnarValue, Expr, ExprSchemable, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, TryCast, Volatility,
};
use datafusion::optimizer::analyzer::AnalyzerRule;

/// Puts what a cast loses right before the cast.
#[derive(Debug)]
pub struct Casts;

impl AnalyzerRule for Casts {
    fn name(&self) -> &str {
        "casts"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let done = plan.transform_up_with_subqueries(|node| {
            let (names, schema) = (NamePreserver::new(&node), merge_schema(&node.inputs()));
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                Ok(expr.transform_up(|part| before(part, &schema))?.update_data(|expr| name.restore(expr)))
            })
        })?;
        Ok(done.data)
    }
}

/// An expression over these columns, as the rule leaves it: for one that is computed without a plan.
pub fn exact(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    Ok(expr.transform_up(|part| before(part, schema))?.data)
}

fn before(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let (inner, to, tries) = match &expr {
        Expr::Cast(Cast { expr, field }) => (expr, field.data_type(), false),
        Expr::TryCast(TryCast { expr, field }) => (expr, field.data_type(), true),
        _ => return Ok(Transformed::no(expr)),
    };
    let kind = match (inner.get_type(schema), to) {
        (Ok(DataType::Timestamp(from, _)), DataType::Timestamp(to, _)) if per(from) > per(*to) => {
            Kind::Down(per(from) / per(*to))
        }
        (Ok(DataType::Float64), DataType::Float32) => Kind::Fits { or_null: tries },
        _ => return Ok(Transformed::no(expr)),
    };
    let made = matches!(inner.as_ref(), Expr::ScalarFunction(call) if call.func.inner().is::<BeforeCast>());
    if made {
        return Ok(Transformed::no(expr));
    }
    let with = |inner: Box<Expr>| {
        let function = BeforeCast { kind, signature: Signature::any(1, Volatility::Immutable) };
        Box::new(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::from(function)), vec![*inner])))
    };
    Ok(Transformed::yes(match expr {
        Expr::Cast(Cast { expr, field }) => Expr::Cast(Cast { expr: with(expr), field }),
        Expr::TryCast(TryCast { expr, field }) => Expr::TryCast(TryCast { expr: with(expr), field }),
        other => other,
    }))
}

/// How many of a unit are a second.
fn per(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// A time goes down to a multiple of this.
    Down(i64),
    /// A number is one that a FLOAT can hold.
    Fits {
        /// One that does not is NULL, and no error.
        or_null: bool,
    },
}

/// What is done with a value before it is cast.
#[derive(Debug, PartialEq, Eq, Hash)]
struct BeforeCast {
    kind: Kind,
    signature: Signature,
}

impl ScalarUDFImpl for BeforeCast {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Down(_) => "round_down",
            Kind::Fits { .. } => "as_float",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        Ok(args.first().cloned().unwrap_or(DataType::Null))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        match args.arg_fields {
            [field] => Ok(match self.kind {
                Kind::Fits { or_null: true } => Arc::new(field.as_ref().clone().with_nullable(true)),
                _ => Arc::clone(field),
            }),
            _ => internal_err!("one value is cast"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [value] = args.args.as_slice() else { return internal_err!("one value is cast") };
        let constant = matches!(value, ColumnarValue::Scalar(_));
        let values = value.to_array(args.number_rows)?;
        let values = match self.kind {
            Kind::Down(step) => down(&values, step)?,
            Kind::Fits { or_null } => fitting(&values, or_null)?,
        };
        Ok(match constant && !values.is_empty() {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&values, 0)?),
            false => ColumnarValue::Array(values),
        })
    }
}

fn down(times: &ArrayRef, step: i64) -> Result<ArrayRef> {
    fn of<T: ArrowTimestampType>(times: &ArrayRef, step: i64) -> ArrayRef {
        let down = times.as_primitive::<T>().unary::<_, T>(|time| time.saturating_sub(time.rem_euclid(step)));
        Arc::new(down.with_data_type(times.data_type().clone()))
    }
    Ok(match times.data_type() {
        DataType::Timestamp(TimeUnit::Millisecond, _) => of::<TimestampMillisecondType>(times, step),
        DataType::Timestamp(TimeUnit::Microsecond, _) => of::<TimestampMicrosecondType>(times, step),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => of::<TimestampNanosecondType>(times, step),
        other => return internal_err!("{other} has no digits to lose"),
    })
}

fn fitting(numbers: &ArrayRef, or_null: bool) -> Result<ArrayRef> {
    let numbers = numbers.as_primitive::<Float64Type>();
    let fits = |number: f64| !number.is_finite() || (number as f32).is_finite();
    if or_null {
        return Ok(Arc::new(numbers.unary_opt::<_, Float64Type>(|number| fits(number).then_some(number))));
    }
    match numbers.iter().flatten().find(|number| !fits(*number)) {
        Some(large) => exec_err!("Cast error: {large:e} is too large for a FLOAT"),
        None => Ok(Arc::new(numbers.clone())),
    }
}
