//! `WindowTable`: the logical node behind TUMBLE, HOP and CUMULATE, and the facts it leaves on its columns.
//!
//! The node stands for "each row once per window that holds it". It is never run as that: the planner turns
//! it, together with the aggregate above it, into panes. The facts ride on field metadata, because that
//! survives the optimizer.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::{Column, DFSchema, DFSchemaRef, Result, TableReference, internal_err, plan_err};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};
use serde::{Deserialize, Serialize};

use super::WindowSpec;

/// The metadata key of a column that a window function added: a [`WindowColumn`] as JSON.
pub const WINDOW_KEY: &str = "millstream.window";

/// The metadata key of an event-time column: how far its watermark stays behind, in microseconds.
pub const WATERMARK_KEY: &str = "millstream.watermark";

/// The metadata key of a timestamp column that is a number in the source: `s`, `ms`, `us` or `ns` since 1970.
pub const EPOCH_KEY: &str = "millstream.epoch";

/// The metadata key of every column that is an event time: one with a watermark, or `window_time`.
///
/// Unlike the delay it is the same for all of them, so that it survives a UNION ALL of sources whose delays differ.
pub const EVENT_TIME_KEY: &str = "millstream.event-time";

/// The metadata key of a column that is PROCTIME(): its watermark is the clock.
pub const PROCESSING_TIME_KEY: &str = "millstream.processing-time";

/// Whether the column is the time of the batch, or the `window_time` of a window over it.
pub fn is_processing_time(field: &Field) -> bool {
    timestamp(field).is_some_and(|f| f.metadata().contains_key(PROCESSING_TIME_KEY))
}

/// Whether windows can be made over the column.
pub fn orders_windows(field: &Field) -> bool {
    is_event_time(field) || is_processing_time(field)
}

/// The delay of a source's event-time column in microseconds; `None` where the column has no watermark.
pub fn watermark_delay(field: &Field) -> Option<i64> {
    timestamp(field)?.metadata().get(WATERMARK_KEY)?.parse().ok()
}

/// Whether the column is an event time.
pub fn is_event_time(field: &Field) -> bool {
    timestamp(field).is_some_and(|f| f.metadata().contains_key(EVENT_TIME_KEY))
}

/// The same field as an event time whose watermark stays `delay_us` behind.
pub fn with_watermark(field: &Field, delay_us: i64) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.insert(WATERMARK_KEY.to_string(), delay_us.to_string());
    metadata.insert(EVENT_TIME_KEY.to_string(), "true".to_string());
    field.clone().with_metadata(metadata)
}

/// The field, if it is a timestamp: a cast to another type keeps the metadata, but not what it says.
fn timestamp(field: &Field) -> Option<&Field> {
    matches!(field.data_type(), DataType::Timestamp(..)).then_some(field)
}

/// Which of the three columns that a window function adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WindowPart {
    /// `window_start`.
    Start,
    /// `window_end`.
    End,
    /// `window_time`: the last millisecond of the window, an event time itself.
    Time,
}

/// What a column says of the window it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WindowColumn {
    /// The windows.
    pub spec: WindowSpec,
    /// Which end of the window the column holds.
    pub part: WindowPart,
    /// The event-time column that put the rows into windows, as it was called below the window function.
    pub time: String,
}

impl WindowColumn {
    /// What the field says; `None` where it is no column of a window.
    pub fn of(field: &Field) -> Option<Self> {
        serde_json::from_str(timestamp(field)?.metadata().get(WINDOW_KEY)?).ok()
    }
}

/// A table whose rows are put into windows: the input's columns, then `window_start`, `window_end` and
/// `window_time`, each of the time column's type and never null.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WindowTable {
    /// The table.
    pub input: LogicalPlan,
    /// The event-time column of the input.
    pub time: Column,
    /// The windows.
    pub spec: WindowSpec,
    /// The input's columns and the three of the window.
    pub schema: DFSchemaRef,
}

impl WindowTable {
    /// The names of the columns that are added, in their order.
    pub const COLUMNS: [(&str, WindowPart); 3] =
        [("window_start", WindowPart::Start), ("window_end", WindowPart::End), ("window_time", WindowPart::Time)];

    /// Puts the rows of `input` into windows by its column `time`.
    ///
    /// # Errors
    /// Where the column is not there, is no event time, or the input has columns of these names already.
    pub fn try_new(input: LogicalPlan, time: Column, spec: WindowSpec) -> Result<Self> {
        let index = input.schema().index_of_column(&time)?;
        let field = input.schema().field(index);
        if !orders_windows(field) {
            return plan_err!("the column '{}' is no event time: declare WATERMARK FOR it", time.name);
        }
        let added = added_columns(field, &time, input.schema(), spec)?;
        let mut fields: Vec<(Option<TableReference>, FieldRef)> =
            input.schema().iter().map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field))).collect();
        fields.extend(added.into_iter().map(|field| (None, field)));
        let schema = DFSchema::new_with_metadata(fields, input.schema().metadata().clone())?;
        Ok(Self { input, time, spec, schema: Arc::new(schema) })
    }

    /// The index of the time column in the input.
    ///
    /// # Errors
    /// Never, for a node that was made by [`WindowTable::try_new`].
    pub fn time_index(&self) -> Result<usize> {
        self.input.schema().index_of_column(&self.time)
    }
}

/// The three columns of a window, over a time column of the input.
///
/// # Errors
/// Where the input has columns of these names already.
pub fn added_columns(field: &Field, time: &Column, input: &DFSchema, spec: WindowSpec) -> Result<Vec<FieldRef>> {
    let (data_type, origin) = (field.data_type().clone(), origin(field, time));
    let mut fields = vec![];
    for (name, part) in WindowTable::COLUMNS {
        if input.fields().iter().any(|f| f.name() == name) {
            return plan_err!("the table has a column '{name}' already: give it another name (AS ..)");
        }
        let facts = WindowColumn { spec, part, time: origin.clone() };
        let facts =
            serde_json::to_string(&facts).map_err(|e| datafusion::error::DataFusionError::External(e.into()))?;
        let mut metadata = std::collections::HashMap::from([(WINDOW_KEY.to_string(), facts)]);
        if part == WindowPart::Time {
            let key = if is_processing_time(field) { PROCESSING_TIME_KEY } else { EVENT_TIME_KEY };
            metadata.insert(key.to_string(), "true".to_string());
        }
        fields.push(Arc::new(Field::new(name, data_type.clone(), false).with_metadata(metadata)));
    }
    Ok(fields)
}

fn origin(field: &Field, time: &Column) -> String {
    match WindowColumn::of(field) {
        Some(window) => window.time,
        None => time.flat_name(),
    }
}

impl PartialOrd for WindowTable {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match self.input.partial_cmp(&other.input) {
            Some(Ordering::Equal) => (&self.time, &self.spec).partial_cmp(&(&other.time, &other.spec)),
            order => order,
        }
    }
}

impl UserDefinedLogicalNodeCore for WindowTable {
    fn name(&self) -> &str {
        "WindowTable"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![Expr::Column(self.time.clone())]
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        Self::COLUMNS.iter().map(|(name, _)| (*name).to_string()).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "WindowTable: {} over {}", self.spec, self.time)
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        match (<[Expr; 1]>::try_from(exprs), <[LogicalPlan; 1]>::try_from(inputs)) {
            (Ok([Expr::Column(time)]), Ok([input])) => Self::try_new(input, time, self.spec),
            _ => internal_err!("WindowTable takes one input and its time column"),
        }
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let columns = self.input.schema().fields().len();
        let mut needed: Vec<usize> = output_columns.iter().copied().filter(|i| *i < columns).collect();
        needed.push(self.time_index().ok()?);
        needed.sort_unstable();
        needed.dedup();
        Some(vec![needed])
    }
}

/// Microseconds of a timestamp in this unit, rounded down.
pub fn micros_from(value: i64, unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => value.saturating_mul(1_000_000),
        TimeUnit::Millisecond => value.saturating_mul(1_000),
        TimeUnit::Microsecond => value,
        TimeUnit::Nanosecond => value.div_euclid(1_000),
    }
}

/// A timestamp in this unit of so many microseconds, rounded down.
pub fn micros_to(us: i64, unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => us.div_euclid(1_000_000),
        TimeUnit::Millisecond => us.div_euclid(1_000),
        TimeUnit::Microsecond => us,
        TimeUnit::Nanosecond => us.saturating_mul(1_000),
    }
}
