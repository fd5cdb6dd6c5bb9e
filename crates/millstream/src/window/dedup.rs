//! `Dedup`: the logical node behind DEDUP, in a stream and in batch.

use std::cmp::Ordering;
use std::fmt;
use std::hash::Hash;

use datafusion::common::{Column, DFSchemaRef, Result, internal_err, plan_err};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};

use super::table::is_event_time;

/// A table without the rows that repeat an earlier one.
///
/// The rows are taken in the order of their times, and rows of one time in the order of their columns. A row is
/// passed on unless one of the same keys came before it at a time that is at most the horizon earlier, whether
/// that one was passed on or not. NULLs in keys are equal. So the answer does not depend on the order in which
/// rows are read, nor on how they are cut into batches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dedup {
    /// The table.
    pub input: LogicalPlan,
    /// The columns whose values repeat.
    pub keys: Vec<Column>,
    /// The event-time column.
    pub time: Column,
    /// How long a row is remembered, in microseconds.
    pub horizon_us: i64,
    /// What the state of a stream is called; empty in batch.
    pub state: String,
}

impl Dedup {
    /// Leaves out the rows of `input` that repeat an earlier one.
    ///
    /// # Errors
    /// Where a column is not there, the time is no event time, there is no key, or the horizon is negative.
    pub fn try_new(input: LogicalPlan, keys: Vec<Column>, time: Column, horizon_us: i64) -> Result<Self> {
        let field = input.schema().qualified_field_from_column(&time)?.1;
        if !is_event_time(field) {
            return plan_err!("the column '{}' is no event time: declare WATERMARK FOR it", time.name);
        }
        if keys.is_empty() || horizon_us < 0 {
            return plan_err!("rows are told apart by at least one column, within a horizon that is not negative");
        }
        for key in &keys {
            input.schema().index_of_column(key)?;
        }
        Ok(Self { input, keys, time, horizon_us, state: String::new() })
    }

    /// The indices of the keys in the input.
    ///
    /// # Errors
    /// Never, for a node that was made by [`Dedup::try_new`].
    pub fn key_indices(&self) -> Result<Vec<usize>> {
        self.keys.iter().map(|key| self.input.schema().index_of_column(key)).collect()
    }

    /// The index of the time column in the input.
    ///
    /// # Errors
    /// As [`Dedup::key_indices`].
    pub fn time_index(&self) -> Result<usize> {
        self.input.schema().index_of_column(&self.time)
    }
}

impl PartialOrd for Dedup {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match self.input.partial_cmp(&other.input) {
            Some(Ordering::Equal) => {
                (&self.keys, &self.time, self.horizon_us).partial_cmp(&(&other.keys, &other.time, other.horizon_us))
            }
            order => order,
        }
    }
}

impl UserDefinedLogicalNodeCore for Dedup {
    fn name(&self) -> &str {
        "Dedup"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        self.keys.iter().chain([&self.time]).cloned().map(Expr::Column).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let keys = self.keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        write!(f, "Dedup: keys=[{keys}], time={}, horizon={}", self.time, super::Length(self.horizon_us))?;
        if self.state.is_empty() { Ok(()) } else { write!(f, ", state={}", self.state) }
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        let columns = exprs.into_iter().map(|e| match e {
            Expr::Column(column) => Ok(column),
            other => internal_err!("Dedup reads columns, not {other}"),
        });
        let mut keys = columns.collect::<Result<Vec<_>>>()?;
        let (Some(time), Some(input)) = (keys.pop(), inputs.pop()) else {
            return internal_err!("Dedup takes one input, keys and a time");
        };
        Ok(Self { input, keys, time, ..self.clone() })
    }

    // Every column is read: which of two rows of one time is the first is decided by all of them.
    fn necessary_children_exprs(&self, _output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![(0..self.input.schema().fields().len()).collect()])
    }
}
