//! `SessionTable`: the logical node behind SESSION.
//!
//! A session is a stretch of rows of one key whose times follow each other by at most the gap. It begins with its
//! first row and ends one gap after its last; a row that comes exactly one gap after another belongs to the same
//! session, as in Flink. Which session a row is in depends on the other rows, so that a session is known only once
//! the watermark has passed its end.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef};
use datafusion::common::{Column, DFSchema, DFSchemaRef, Result, TableReference, internal_err, plan_err};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};

use super::table::{EVENT_TIME_KEY, PROCESSING_TIME_KEY, WATERMARK_KEY, added_columns, orders_windows};
use super::{Length, WindowKind, WindowSpec};

/// A table whose rows are put into sessions: the input's columns, then `window_start`, `window_end` and
/// `window_time`.
///
/// Of the input's columns none is an event time any more, nor the time of the batch: rows leave a session late, in its end's time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionTable {
    /// The table.
    pub input: LogicalPlan,
    /// The event-time column of the input.
    pub time: Column,
    /// The columns that sessions are told apart by.
    pub keys: Vec<Column>,
    /// The gap that ends a session, in microseconds.
    pub gap_us: i64,
    /// The input's columns and the three of the window.
    pub schema: DFSchemaRef,
}

impl SessionTable {
    /// Puts the rows of `input` into sessions by its column `time`, for each value of `keys`.
    ///
    /// # Errors
    /// Where a column is not there, `time` is no event time, or the input has columns of these names already.
    pub fn try_new(input: LogicalPlan, time: Column, keys: Vec<Column>, gap_us: i64) -> Result<Self> {
        let field = input.schema().field(input.schema().index_of_column(&time)?);
        if !orders_windows(field) {
            return plan_err!("the column '{}' is no event time: declare WATERMARK FOR it", time.name);
        }
        for key in &keys {
            input.schema().index_of_column(key)?;
        }
        let spec = WindowSpec { kind: WindowKind::Session { gap_us }, offset_us: 0 };
        let added = added_columns(field, &time, input.schema(), spec)?;
        let rows = input.schema().iter().map(|(q, f)| (q.cloned(), no_event_time(f)));
        let fields: Vec<(Option<TableReference>, FieldRef)> =
            rows.chain(added.into_iter().map(|f| (None, f))).collect();
        let schema = DFSchema::new_with_metadata(fields, input.schema().metadata().clone())?;
        Ok(Self { input, time, keys, gap_us, schema: Arc::new(schema) })
    }

    /// The windows, as a fact of the columns.
    pub fn spec(&self) -> WindowSpec {
        WindowSpec { kind: WindowKind::Session { gap_us: self.gap_us }, offset_us: 0 }
    }

    /// The index of the time column in the input.
    ///
    /// # Errors
    /// Never, for a node that was made by [`SessionTable::try_new`].
    pub fn time_index(&self) -> Result<usize> {
        self.input.schema().index_of_column(&self.time)
    }

    /// The indices of the key columns in the input.
    ///
    /// # Errors
    /// Never, for a node that was made by [`SessionTable::try_new`].
    pub fn key_indices(&self) -> Result<Vec<usize>> {
        self.keys.iter().map(|key| self.input.schema().index_of_column(key)).collect()
    }
}

fn no_event_time(field: &FieldRef) -> FieldRef {
    if !orders_windows(field) {
        return Arc::clone(field);
    }
    let mut metadata = field.metadata().clone();
    for key in [EVENT_TIME_KEY, WATERMARK_KEY, PROCESSING_TIME_KEY] {
        metadata.remove(key);
    }
    Arc::new(Field::clone(field).with_metadata(metadata))
}

impl PartialOrd for SessionTable {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match self.input.partial_cmp(&other.input) {
            Some(Ordering::Equal) => {
                (&self.time, &self.keys, self.gap_us).partial_cmp(&(&other.time, &other.keys, other.gap_us))
            }
            order => order,
        }
    }
}

impl UserDefinedLogicalNodeCore for SessionTable {
    fn name(&self) -> &str {
        "SessionTable"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        std::iter::once(&self.time).chain(&self.keys).cloned().map(Expr::Column).collect()
    }

    // A filter decides which rows are in a session, and so where it ends: only one by key could go below.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        self.schema.fields().iter().map(|f| f.name().clone()).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let keys: Vec<String> = self.keys.iter().map(Column::flat_name).collect();
        write!(f, "SessionTable: gap {} over {} by [{}]", Length(self.gap_us), self.time, keys.join(", "))
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        let columns = exprs.into_iter().map(|e| match e {
            Expr::Column(column) => Ok(column),
            other => internal_err!("{other} is no column"),
        });
        let mut columns = columns.collect::<Result<Vec<_>>>()?;
        match (inputs.pop(), columns.is_empty()) {
            (Some(input), false) => {
                let time = columns.remove(0);
                Self::try_new(input, time, columns, self.gap_us)
            }
            _ => internal_err!("SessionTable takes one input, its time column and its keys"),
        }
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let columns = self.input.schema().fields().len();
        let mut needed: Vec<usize> = output_columns.iter().copied().filter(|i| *i < columns).collect();
        needed.push(self.time_index().ok()?);
        needed.extend(self.key_indices().ok()?);
        needed.sort_unstable();
        needed.dedup();
        Some(vec![needed])
    }
}
