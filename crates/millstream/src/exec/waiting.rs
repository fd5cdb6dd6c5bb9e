//! Rows that wait for the frontier: kept until an instant of theirs has passed, then given in its order.
//!
//! ```text
//! rows    $place -> the columns of the row      a table of state: what a checkpoint holds
//! order   (instant, $place)                     in memory: rebuilt from the instants after a restore
//! ```
//!
//! Rows of one instant come in the order in which they were put.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::{concat_batches, filter, filter_record_batch, not, take, take_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt64Type};
use datafusion::common::{Result as DfResult, internal_datafusion_err, internal_err};
use millstream_state::{Changes, KeyedTable, Restored, TableInfo};

use super::changes::state_error;

/// The key of a waiting row.
const PLACE: &str = "$place";

/// The instant that it waits for.
const INSTANT: &str = "$instant";

/// The name of the table within its operator.
const TABLE: &str = "waiting";

/// Rows by the instant that they wait for.
#[derive(Debug)]
pub struct Waiting {
    schema: SchemaRef,
    /// The name of the table within its operator.
    table: &'static str,
    rows: KeyedTable,
    order: BTreeSet<(i64, u64)>,
    /// The place of the next row: installed and staged.
    next: [u64; 2],
    came: Vec<(i64, u64)>,
    went: Vec<(i64, u64)>,
}

impl Waiting {
    /// No rows; they have these columns.
    pub fn try_new(schema: &SchemaRef) -> DfResult<Self> {
        let keys = Arc::new(Schema::new(vec![Field::new(PLACE, DataType::UInt64, false)]));
        let mut fields = vec![Arc::new(Field::new(INSTANT, DataType::Int64, false))];
        fields.extend(schema.fields().iter().cloned());
        let rows = KeyedTable::new(keys, Arc::new(Schema::new(fields))).map_err(state_error)?;
        let (came, went) = (Vec::new(), Vec::new());
        Ok(Self { schema: Arc::clone(schema), table: TABLE, rows, order: BTreeSet::new(), next: [0, 0], came, went })
    }

    /// The same under a name of its own, where an operator has several.
    pub fn called(self, table: &'static str) -> Self {
        Self { table, ..self }
    }

    /// What the number of the next row is kept under.
    fn note(&self) -> String {
        if self.table == TABLE { PLACE.to_string() } else { format!("{}.{PLACE}", self.table) }
    }

    /// The earliest instant that a row waits for.
    pub fn first(&self) -> Option<i64> {
        self.order.first().map(|(instant, _)| *instant)
    }

    /// Stages rows, each with the instant that it waits for.
    pub fn put(&mut self, instants: &Int64Array, rows: &RecordBatch) -> DfResult<()> {
        let count = rows.num_rows();
        if count == 0 {
            return Ok(());
        }
        let from = self.next[1];
        self.next[1] += count as u64;
        let places = UInt64Array::from_iter_values(from..self.next[1]);
        let mut columns: Vec<ArrayRef> = vec![Arc::new(instants.clone())];
        columns.extend(rows.columns().iter().cloned());
        self.rows.put(&[Arc::new(places) as ArrayRef], &columns, count).map_err(state_error)?;
        let came = instants.values().iter().copied().zip(from..);
        self.order.extend(came.clone());
        self.came.extend(came);
        Ok(())
    }

    /// Stages the removal of the rows whose instant is not after this one, and answers them with their
    /// instants, in order.
    pub fn take_until(&mut self, frontier: i64) -> DfResult<(Vec<i64>, RecordBatch)> {
        let rest = match frontier.checked_add(1) {
            Some(after) => self.order.split_off(&(after, 0)),
            None => BTreeSet::new(),
        };
        let due: Vec<(i64, u64)> = std::mem::replace(&mut self.order, rest).into_iter().collect();
        // IMPORTANT: before anything can fail, so that a discard finds what was taken out.
        self.went.extend(&due);
        if due.is_empty() {
            return Ok((vec![], RecordBatch::new_empty(Arc::clone(&self.schema))));
        }
        let places: [ArrayRef; 1] = [Arc::new(UInt64Array::from_iter_values(due.iter().map(|(_, place)| *place)))];
        let found = self.rows.get(&places, due.len()).map_err(state_error)?;
        if found.rows.len() != due.len() {
            return internal_err!("{} rows wait, {} are kept", due.len(), found.rows.len());
        }
        self.rows.remove(&places, due.len()).map_err(state_error)?;
        let columns = found.values.into_iter().skip(1).collect();
        let instants = due.iter().map(|(instant, _)| *instant).collect();
        Ok((instants, RecordBatch::try_new(Arc::clone(&self.schema), columns)?))
    }

    /// What was staged becomes the state.
    pub fn install(&mut self) {
        self.rows.install();
        self.next[0] = self.next[1];
        self.came.clear();
        self.went.clear();
    }

    /// What was staged is forgotten.
    pub fn discard(&mut self) {
        self.rows.discard();
        self.next[1] = self.next[0];
        self.order.extend(self.went.drain(..));
        for row in self.came.drain(..) {
            self.order.remove(&row);
        }
    }

    /// Adds the installed rows to what a checkpoint captures.
    pub fn capture(&self, changes: Changes) -> Changes {
        changes.keyed(self.table, &self.rows).note(&self.note(), self.next[0].to_string())
    }

    /// Makes the rows what they were when they were captured.
    pub fn restore(&mut self, saved: &mut Restored) -> millstream_core::Result<()> {
        saved.keyed(self.table, &mut self.rows)?;
        let next = saved.note(&self.note()).and_then(|n| n.parse().ok());
        let next =
            next.ok_or_else(|| millstream_core::Error::corrupt("the checkpoint does not number waiting rows"))?;
        self.next = [next, next];
        self.came.clear();
        self.went.clear();
        self.order.clear();
        for batch in self.rows.scan() {
            let batch = batch?;
            let column = |c: usize| batch.columns().get(c);
            let places = column(0).and_then(|c| c.as_primitive_opt::<UInt64Type>());
            let instants = column(1).and_then(|c| c.as_primitive_opt::<Int64Type>());
            let (Some(places), Some(instants)) = (places, instants) else {
                return Err(millstream_core::Error::corrupt("a waiting row has no place or no instant"));
            };
            self.order.extend(instants.values().iter().copied().zip(places.values().iter().copied()));
        }
        Ok(())
    }

    /// The table, described.
    pub fn info(&self) -> TableInfo {
        let mut info = TableInfo::keyed(self.table, &self.rows);
        // A node of a B-tree is two thirds full.
        info.bytes += self.order.len() * size_of::<(i64, u64)>() * 3 / 2;
        info
    }

    /// The installed rows, for a person.
    pub fn scan(&self) -> impl Iterator<Item = millstream_core::Result<RecordBatch>> + '_ {
        self.rows.scan()
    }
}

/// The rows that are due at the frontier, with their instants: those that have waited and new ones, in the order of
/// the instants, and of the log where those are equal. The other new rows wait.
pub fn due(
    waiting: &mut Waiting,
    rows: RecordBatch,
    at: &Int64Array,
    frontier: Option<i64>,
) -> DfResult<Option<(RecordBatch, Int64Array)>> {
    let Some(frontier) = frontier else {
        waiting.put(at, &rows)?;
        return Ok(None);
    };
    let (waited_at, waited) = waiting.take_until(frontier)?;
    let now: BooleanArray = at.values().iter().map(|at| Some(*at <= frontier)).collect();
    let (mut due, mut due_at) = (rows, at.clone());
    if now.true_count() < now.len() {
        let later = not(&now)?;
        waiting.put(&downcast(&filter(&due_at, &later)?)?, &filter_record_batch(&due, &later)?)?;
        due = filter_record_batch(&due, &now)?;
        due_at = downcast(&filter(&due_at, &now)?)?;
    }
    if waited.num_rows() > 0 {
        due = concat_batches(&waiting.schema, &[waited, due])?;
        due_at = waited_at.into_iter().chain(due_at.values().iter().copied()).collect::<Vec<i64>>().into();
    }
    if due.num_rows() == 0 {
        return Ok(None);
    }
    if !due_at.values().is_sorted() {
        let mut order: Vec<u32> = (0..due.num_rows() as u32).collect();
        order.sort_by_key(|row| due_at.values().get(*row as usize).copied());
        let order = UInt32Array::from(order);
        due = take_record_batch(&due, &order)?;
        due_at = downcast(&take(&due_at, &order, None)?)?;
    }
    Ok(Some((due, due_at)))
}

fn downcast(array: &dyn Array) -> DfResult<Int64Array> {
    array.as_any().downcast_ref().cloned().ok_or_else(|| internal_datafusion_err!("instants are 64-bit numbers"))
}

/// The rows of some batches as one.
pub fn concat(schema: &SchemaRef, batches: &[RecordBatch]) -> DfResult<RecordBatch> {
    match batches {
        [only] => Ok(only.clone()),
        batches => Ok(concat_batches(schema, batches)?),
    }
}

/// The instants of a column of event times, `add_us` later.
///
/// # Errors
/// Where one is null: the edge of the source rejects such rows.
pub fn instants(batch: &RecordBatch, column: usize, add_us: i64) -> DfResult<Int64Array> {
    let column = batch.columns().get(column);
    let column = column.ok_or_else(|| internal_datafusion_err!("the time column is not there"))?;
    let times = super::event_time::micros(column)?;
    if times.null_count() > 0 {
        return internal_err!("a row without an event time reached an operator that waits for it");
    }
    Ok(if add_us == 0 { times } else { times.unary(|t| t.saturating_add(add_us)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_fails_on_its_due_rows_leaves_them_waiting_once_it_is_discarded() {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        let mut waiting = Waiting::try_new(&schema).unwrap();
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![10, 20, 30]));
        let rows = RecordBatch::try_new(schema, vec![numbers]).unwrap();
        waiting.put(&Int64Array::from(vec![1, 2, 9]), &rows).unwrap();
        waiting.install();
        // A row that is waited for and is not there makes the batch fail.
        waiting.order.insert((2, 77));
        assert!(waiting.take_until(5).is_err());
        waiting.discard();
        assert!(waiting.order.remove(&(2, 77)));
        let (instants, rows) = waiting.take_until(5).unwrap();
        assert_eq!(instants, [1, 2]);
        assert_eq!(rows.column(0).as_primitive::<Int64Type>().values(), &[10, 20]);
    }
}
