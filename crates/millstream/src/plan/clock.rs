//! What differs each time DataFusion asks, made the same when a batch is run again.
//!
//! `now()` and its kin are the batch time, the same for every row of a batch. `random()` and `uuid()` are functions of
//! the batch, the place of the call in the query and the number of the row that the call has met in the batch: another
//! value for each row, the same values in a re-run, and others where the input is cut otherwise.

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::{ArrayRef, Float64Array, StringArray};
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};
use millstream_core::batch::BatchId;

/// The batch that a compiled query is running: its time, in microseconds since 1970-01-01 UTC, and its number.
///
/// It belongs to one compiled query, whose batches never overlap.
#[derive(Clone, Debug, Default)]
pub struct BatchTime(Arc<Now>);

#[derive(Debug, Default)]
struct Now {
    time_us: AtomicI64,
    batch: AtomicU64,
    /// How often a batch was run: counts within a run begin anew with it.
    runs: AtomicU64,
    /// Calls of random() and uuid() in the query.
    sites: AtomicU64,
}

impl BatchTime {
    /// Sets the batch that runs next, and its time.
    pub fn set(&self, batch: BatchId, time_us: i64) {
        self.0.batch.store(batch.0, Ordering::Relaxed);
        self.0.time_us.store(time_us, Ordering::Relaxed);
        self.0.runs.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> i64 {
        self.0.time_us.load(Ordering::Relaxed)
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
        "random" | "uuid" if !call.func.inner().is::<RowValue>() => {
            let kind = if call.func.name() == "uuid" { RowKind::Uuid } else { RowKind::Random };
            let function = ScalarUDF::from(RowValue::new(kind, time));
            return Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(function), vec![]))));
        }
        _ => return Ok(Transformed::no(expr)),
    };
    if call.func.inner().is::<BatchTimeFunction>() {
        return Ok(Transformed::no(expr));
    }
    let (_, field) = expr.to_field(&DFSchema::empty())?;
    let function = BatchTimeFunction {
        name: call.func.name().to_string(),
        part,
        field,
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
    /// What the function that it stands for answers, with the facts that ride on it.
    field: FieldRef,
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
        Ok(self.field.data_type().clone())
    }

    fn return_field_from_args(&self, _args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        Ok(Arc::clone(&self.field))
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
        Ok(ColumnarValue::Scalar(value.cast_to(self.field.data_type())?))
    }
}

/// What a call of [`RowValue`] answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum RowKind {
    /// A number from 0 to 1, without 1.
    Random,
    /// A UUID of version 4, as text.
    Uuid,
}

/// `random()` and `uuid()`: a value for each row that the call meets.
#[derive(Debug)]
struct RowValue {
    kind: RowKind,
    time: BatchTime,
    /// The number of the call in the query.
    site: u64,
    /// The run that is counted in, and the rows that were met in it.
    met: Mutex<(u64, u64)>,
    signature: Signature,
}

impl RowValue {
    fn new(kind: RowKind, time: &BatchTime) -> Self {
        let site = time.0.sites.fetch_add(1, Ordering::Relaxed);
        let signature = Signature::nullary(Volatility::Volatile);
        Self { kind, time: time.clone(), site, met: Mutex::default(), signature }
    }

    /// The number of the first of these rows within the run.
    fn count(&self, rows: usize) -> u64 {
        let run = self.time.0.runs.load(Ordering::Relaxed);
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        if met.0 != run {
            *met = (run, 0);
        }
        let first = met.1;
        met.1 += rows as u64;
        first
    }

    fn hash(&self, row: u64, part: u64) -> u64 {
        let now = &self.time.0;
        let words = [self.time.get() as u64, now.batch.load(Ordering::Relaxed), self.site, row, part];
        let mut bytes = [0; 40];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        xxhash_rust::xxh3::xxh3_64(&bytes)
    }

    fn uuid(&self, row: u64) -> String {
        let (high, low) = (self.hash(row, 0), self.hash(row, 1));
        // The four bits of the version and the two of the variant: RFC 9562, section 5.4.
        let (high, low) = (high & !0xF000 | 0x4000, low & !(0b11 << 62) | 0b10 << 62);
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            high >> 16 & 0xFFFF,
            high & 0xFFFF,
            low >> 48,
            low & 0xFFFF_FFFF_FFFF
        )
    }
}

impl PartialEq for RowValue {
    fn eq(&self, other: &Self) -> bool {
        self.site == other.site && Arc::ptr_eq(&self.time.0, &other.time.0)
    }
}

impl Eq for RowValue {}

impl Hash for RowValue {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.site.hash(state);
    }
}

impl ScalarUDFImpl for RowValue {
    fn name(&self) -> &str {
        match self.kind {
            RowKind::Random => "random",
            RowKind::Uuid => "uuid",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _args: &[DataType]) -> Result<DataType> {
        Ok(match self.kind {
            RowKind::Random => DataType::Float64,
            RowKind::Uuid => DataType::Utf8,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let first = self.count(args.number_rows);
        let rows = first..first + args.number_rows as u64;
        let values: ArrayRef = match self.kind {
            // The 53 bits of a float's mantissa.
            RowKind::Random => Arc::new(Float64Array::from_iter_values(
                rows.map(|row| (self.hash(row, 0) >> 11) as f64 / (1u64 << 53) as f64),
            )),
            RowKind::Uuid => Arc::new(StringArray::from_iter_values(rows.map(|row| self.uuid(row)))),
        };
        Ok(ColumnarValue::Array(values))
    }
}

/// Whether a function can be replayed, though DataFusion calls it volatile.
pub fn is_replayable(function: &ScalarUDF) -> bool {
    function.inner().is::<BatchTimeFunction>() || function.inner().is::<RowValue>()
}
