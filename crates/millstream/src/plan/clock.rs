//! `now()` and its kin are the batch time: the same for every row of a batch, and the same when it is run again.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

/// The time of the batch that a compiled query is running, in microseconds since 1970-01-01 UTC.
///
/// It belongs to one compiled query, whose batches never overlap.
#[derive(Clone, Debug, Default)]
pub struct BatchTime(Arc<AtomicI64>);

impl BatchTime {
    /// Sets the time of the batch that runs next.
    pub fn set(&self, time_us: i64) {
        self.0.store(time_us, Ordering::Relaxed);
    }

    fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The plan with every call of the wall clock answered by the batch time, and whether there was one.
///
/// To be called on a plan as it was planned, before types are coerced.
pub fn bind(plan: LogicalPlan, time: &BatchTime) -> Result<(LogicalPlan, bool)> {
    let bound = plan.transform_up_with_subqueries(|node| {
        let bound = node.map_expressions(|expr| {
            // The column keeps the name that the query's author sees.
            let name = NamePreserver::new_for_projection().save(&expr);
            let bound = expr.transform_up(|e| bind_call(e, time))?;
            Ok(bound.update_data(|e| name.restore(e)))
        })?;
        if bound.transformed { bound.map_data(|node| node.recompute_schema()) } else { Ok(bound) }
    })?;
    Ok((bound.data, bound.transformed))
}

fn bind_call(expr: Expr, time: &BatchTime) -> Result<Transformed<Expr>> {
    let Expr::ScalarFunction(call) = &expr else { return Ok(Transformed::no(expr)) };
    let part = match call.func.name() {
        "now" | "PROCTIME" => Part::Instant,
        "current_date" => Part::Date,
        "current_time" => Part::Time,
        _ => return Ok(Transformed::no(expr)),
    };
    if call.func.inner().is::<BatchTimeFunction>() {
        return Ok(Transformed::no(expr));
    }
    let (_, field) = expr.to_field(&DFSchema::empty())?;
    let function = BatchTimeFunction {
        name: call.func.name().to_string(),
        part,
        field_type: field.data_type().clone(),
        time: time.clone(),
        // Volatile to DataFusion: it must be called for every batch and never be folded into the plan.
        signature: Signature::nullary(Volatility::Volatile),
    };
    Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::from(function)), vec![]))))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    Instant,
    Date,
    Time,
}

#[derive(Debug)]
struct BatchTimeFunction {
    name: String,
    part: Part,
    field_type: DataType,
    time: BatchTime,
    signature: Signature,
}

impl PartialEq for BatchTimeFunction {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.time.0, &other.time.0)
    }
}

impl Eq for BatchTimeFunction {}

impl Hash for BatchTimeFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for BatchTimeFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _args: &[DataType]) -> Result<DataType> {
        Ok(self.field_type.clone())
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        const DAY_US: i64 = 86_400_000_000;
        let time_us = self.time.get();
        let value = match self.part {
            Part::Instant => {
                ScalarValue::TimestampNanosecond(Some(time_us.saturating_mul(1000)), Some("+00:00".into()))
            }
            Part::Date => ScalarValue::Date32(i32::try_from(time_us.div_euclid(DAY_US)).ok()),
            Part::Time => ScalarValue::Time64Nanosecond(Some(time_us.rem_euclid(DAY_US) * 1000)),
        };
        Ok(ColumnarValue::Scalar(value.cast_to(&self.field_type)?))
    }
}

/// Whether a function is the batch time: DataFusion calls it volatile, but it can be replayed.
pub fn is_batch_time(function: &ScalarUDF) -> bool {
    function.inner().is::<BatchTimeFunction>()
}
