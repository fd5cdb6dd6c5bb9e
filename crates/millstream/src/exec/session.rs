//! SESSION: rows are kept until their session closes, then put out with its bounds.
//!
//! A row joins the sessions of its key that it touches, and makes them one. Once the frontier has reached a session's
//! end, no row can join it any more (a row is late by its own time): its rows go out, once, insert-only. With EMIT
//! CHANGES they go out at once, and again with the new bounds, their old ones taken away, whenever the session grows.
//!
//! The input is insert-only. State is the rows of open sessions; which sessions there are is rebuilt from them.

mod open;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::{concat, concat_batches, take_arrays};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{Result as DfResult, internal_datafusion_err, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use millstream_state::{Changes, KeyedTable, OperatorState, Restored, StateInfo, TableInfo};

use self::open::{Bounds, Key, Keys, OpenSessions};
use super::changes::state_error;
use super::event_time::{micros, timestamps, window_time};
use super::stateful::{Operator, StatefulExec};
use super::window::behind;
use super::{BatchContext, EmitMode};
use crate::changelog;
use crate::window::Length;

/// What puts rows into sessions.
#[derive(Clone, Debug)]
pub struct Sessions {
    /// The event-time column of the input.
    pub time: usize,
    /// The columns that sessions are told apart by.
    pub keys: Vec<usize>,
    /// The gap that ends a session, in microseconds.
    pub gap_us: i64,
    /// How far rows can be behind the frontier when they come, in microseconds.
    pub lag_us: i64,
    /// When rows go out.
    pub emit: EmitMode,
}

/// `SELECT * FROM SESSION(..)` over a stream.
#[derive(Debug)]
pub struct SessionExec {
    sessions: Sessions,
    input: SchemaRef,
    /// With the weight, where it is a changelog.
    output: SchemaRef,
}

impl SessionExec {
    /// Puts the rows of `input` into sessions. `rows` has the input's columns, then `window_start`, `window_end` and
    /// `window_time`; with [`EmitMode::Changes`] the node's own schema adds [`changelog::WEIGHT`].
    ///
    /// # Errors
    /// Where the schema is not of this form, or keys can't be compared.
    pub fn try_new(
        name: impl Into<Arc<str>>,
        input: Arc<dyn ExecutionPlan>,
        sessions: Sessions,
        rows: SchemaRef,
    ) -> DfResult<StatefulExec> {
        let schema = input.schema();
        if rows.fields().len() != schema.fields().len() + 3 {
            return internal_err!("sessions have the columns of their input and three more, not {rows}");
        }
        let state = SessionState::try_new(&schema, &sessions)?;
        let output = match sessions.emit {
            EmitMode::OnClose => rows,
            EmitMode::Changes => changelog::with_weight(&rows),
        };
        let operator = Self { sessions, input: schema, output };
        Ok(StatefulExec::new(name, [input], operator, state))
    }
}

/// Rows that go out: which, with which bounds, how often.
#[derive(Default)]
struct Out {
    rows: Vec<u64>,
    bounds: Vec<Bounds>,
    weights: Vec<i64>,
}

impl Out {
    fn push(&mut self, row: u64, bounds: Bounds, weight: i64) {
        self.rows.push(row);
        self.bounds.push(bounds);
        self.weights.push(weight);
    }
}

impl Operator<1> for SessionExec {
    type State = SessionState;

    const NAME: &'static str = "SessionExec";

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.output)
    }

    fn detail(&self) -> String {
        let emit = if self.sessions.emit == EmitMode::OnClose { "on close" } else { "changes" };
        format!("gap {}, emit={emit}", Length(self.sessions.gap_us))
    }

    fn due_us(&self, state: &SessionState) -> Option<i64> {
        let end = state.open.first_end().filter(|_| self.sessions.emit == EmitMode::OnClose)?;
        Some(end.saturating_add(self.sessions.lag_us))
    }

    fn run(
        &self,
        state: &mut SessionState,
        [batches]: [Vec<RecordBatch>; 1],
        context: &TaskContext,
    ) -> DfResult<Vec<RecordBatch>> {
        let frontier = BatchContext::of(context)?.frontier.map(|f| behind(f, self.sessions.lag_us));
        let rows = &concat_batches(&self.input, &batches)?;
        let first = state.next[1];
        self.check_not_late(state, rows)?;
        // Where the bounds of rows that were here before the batch change, what they were.
        let mut before: HashMap<u64, Bounds> = HashMap::new();
        let (times, keys) = state.times_and_keys(&self.sessions, rows)?;
        for (row, key) in keys.iter().enumerate() {
            state.open.insert(key, times.value(row), first + row as u64);
        }
        for (bounds, ids) in state.open.before() {
            before.extend(ids.iter().filter(|id| **id < first).map(|id| (*id, *bounds)));
        }
        state.next[1] = first + rows.num_rows() as u64;
        let mut out = Out::default();
        if self.sessions.emit == EmitMode::Changes {
            changed(&state.open, &keys, &times, &before, first, &mut out);
        }
        let mut closed: Vec<u64> = vec![];
        while let Some((bounds, ids)) = frontier.and_then(|frontier| state.open.close(frontier)) {
            for id in &ids {
                if self.sessions.emit == EmitMode::OnClose {
                    out.push(*id, bounds, 1);
                }
            }
            closed.extend(ids);
        }
        let output = self.rows(state, rows, first, &out)?;
        state.store(rows, first, &mut closed)?;
        state.closed[1] = state.closed[1].max(frontier);
        Ok(output)
    }
}

impl SessionExec {
    fn check_not_late(&self, state: &SessionState, rows: &RecordBatch) -> DfResult<()> {
        let column = rows.columns().get(self.sessions.time);
        let times = micros(column.ok_or_else(|| internal_datafusion_err!("the time column is not there"))?)?;
        if times.null_count() > 0 {
            return internal_err!("a row without event time reached a session: it should have been rejected");
        }
        match (arrow::compute::min(&times), state.closed[1]) {
            (Some(first), Some(closed)) if first <= closed => internal_err!(
                "a row reached a session after the frontier had passed it: its time is {first} us, the frontier was \
                 {closed} us"
            ),
            _ => Ok(()),
        }
    }

    /// The rows that go out, out of those that were kept and those of the batch.
    fn rows(&self, state: &SessionState, batch: &RecordBatch, first: u64, out: &Out) -> DfResult<Vec<RecordBatch>> {
        if out.rows.is_empty() {
            return Ok(vec![]);
        }
        let mut kept: Vec<u64> = out.rows.iter().copied().filter(|id| *id < first).collect();
        kept.sort_unstable();
        kept.dedup();
        let found = state.rows.get(&[Arc::new(UInt64Array::from(kept.clone()))], kept.len()).map_err(state_error)?;
        if found.rows.len() != kept.len() {
            return internal_err!("a session has lost rows");
        }
        let parts = found.values.iter().zip(batch.columns());
        let all = parts.map(|(kept, new)| Ok(concat(&[kept.as_ref(), new.as_ref()])?)).collect::<DfResult<Vec<_>>>()?;
        let place = |id: &u64| match id.checked_sub(first) {
            Some(new) => (kept.len() as u64 + new) as u32,
            None => kept.binary_search(id).unwrap_or_default() as u32,
        };
        let places: UInt32Array = out.rows.iter().map(place).collect();
        let mut columns = take_arrays(&all, &places, None)?;
        let starts: Int64Array = out.bounds.iter().map(|b| b.start).collect();
        let ends: Int64Array = out.bounds.iter().map(|b| b.end).collect();
        let times: Int64Array = ends.unary(window_time);
        let fields = self.output.fields().iter().skip(columns.len());
        for (bound, field) in [starts, ends, times].iter().zip(fields) {
            columns.push(timestamps(bound, field.data_type())?);
        }
        if self.sessions.emit == EmitMode::Changes {
            columns.push(Arc::new(Int64Array::from(out.weights.clone())));
        }
        Ok(vec![RecordBatch::try_new(Arc::clone(&self.output), columns)?])
    }
}

/// The rows of the sessions that the batch's rows are in, where their bounds are new.
fn changed(
    open: &OpenSessions,
    keys: &[Key],
    times: &Int64Array,
    before: &HashMap<u64, Bounds>,
    first: u64,
    out: &mut Out,
) {
    let mut sessions: Vec<(&Key, Bounds)> = vec![];
    for (key, time) in keys.iter().zip(times.values()) {
        sessions.extend(open.of(key, *time).map(|bounds| (key, bounds)));
    }
    sessions.sort_unstable();
    sessions.dedup();
    for (key, bounds) in sessions {
        for id in open.rows(key, bounds) {
            match before.get(id) {
                Some(old) if *old != bounds => {
                    out.push(*id, *old, -1);
                    out.push(*id, bounds, 1);
                }
                None if *id >= first => out.push(*id, bounds, 1),
                _ => {}
            }
        }
    }
}

/// The rows of open sessions, by the number in which they came.
#[derive(Debug)]
pub(super) struct SessionState {
    rows: KeyedTable,
    sessions: Sessions,
    converter: Keys,
    open: OpenSessions,
    /// The number of the next row, installed and staged.
    next: [u64; 2],
    /// The frontier up to which sessions were closed, installed and staged.
    closed: [Option<i64>; 2],
}

const NEXT: &str = "next";
const CLOSED: &str = "closed";

impl SessionState {
    fn try_new(input: &Schema, sessions: &Sessions) -> DfResult<Self> {
        let number = Arc::new(Schema::new(vec![Field::new("$row", DataType::UInt64, true)]));
        let nullable = |f: &Arc<Field>| f.as_ref().clone().with_nullable(true);
        let values = Arc::new(Schema::new(input.fields().iter().map(nullable).collect::<Vec<_>>()));
        let rows = KeyedTable::new(number, values).map_err(state_error)?;
        let types = sessions.keys.iter().filter_map(|k| input.fields().get(*k)).map(|f| f.data_type().clone());
        let converter = Keys::try_new(types)?;
        let open = OpenSessions::new(sessions.gap_us, sessions.emit == EmitMode::Changes);
        Ok(Self { rows, sessions: sessions.clone(), converter, open, next: [0, 0], closed: [None, None] })
    }

    fn times_and_keys(&self, sessions: &Sessions, rows: &RecordBatch) -> DfResult<(Int64Array, Vec<Key>)> {
        let column = |i: usize| {
            rows.columns().get(i).cloned().ok_or_else(|| internal_datafusion_err!("column {i} is not there"))
        };
        let keys = sessions.keys.iter().map(|k| column(*k)).collect::<DfResult<Vec<_>>>()?;
        Ok((micros(&column(sessions.time)?)?, self.converter.of(&keys, rows.num_rows())?))
    }

    /// Stages the rows of the batch that stay, and the removal of those that were closed.
    fn store(&mut self, rows: &RecordBatch, first: u64, closed: &mut [u64]) -> DfResult<()> {
        closed.sort_unstable();
        let (kept, new) = closed.split_at(closed.partition_point(|id| *id < first));
        let stays: Vec<u64> =
            (first..first + rows.num_rows() as u64).filter(|id| new.binary_search(id).is_err()).collect();
        if !kept.is_empty() {
            let ids: ArrayRef = Arc::new(UInt64Array::from(kept.to_vec()));
            self.rows.remove(&[ids], kept.len()).map_err(state_error)?;
        }
        if !stays.is_empty() {
            let places = UInt64Array::from_iter_values(stays.iter().map(|id| id - first));
            let values = take_arrays(rows.columns(), &places, None)?;
            let ids: ArrayRef = Arc::new(UInt64Array::from(stays));
            self.rows.put(&[Arc::clone(&ids)], &values, ids.len()).map_err(state_error)?;
        }
        Ok(())
    }

    /// Finds the sessions of the rows that are there.
    fn reopen(&mut self) -> DfResult<()> {
        self.open = OpenSessions::new(self.sessions.gap_us, self.sessions.emit == EmitMode::Changes);
        let mut rows: Vec<(u64, Key, i64)> = vec![];
        for batch in self.rows.scan() {
            let batch = batch.map_err(state_error)?;
            let ids = batch.columns().first().and_then(|c| c.as_any().downcast_ref::<UInt64Array>().cloned());
            let ids = ids.ok_or_else(|| internal_datafusion_err!("a row has a number"))?;
            let values = batch.project(&(1..batch.num_columns()).collect::<Vec<_>>())?;
            let (times, keys) = self.times_and_keys(&self.sessions, &values)?;
            rows.extend(ids.values().iter().zip(keys).zip(times.values()).map(|((id, key), time)| (*id, key, *time)));
        }
        rows.sort_unstable_by_key(|(id, ..)| *id);
        for (id, key, time) in rows {
            self.open.insert(&key, time, id);
        }
        self.open.install();
        Ok(())
    }
}

impl OperatorState for SessionState {
    fn install(&mut self) {
        self.rows.install();
        self.open.install();
        self.next[0] = self.next[1];
        self.closed[0] = self.closed[1];
    }

    fn discard(&mut self) {
        self.rows.discard();
        self.open.discard();
        self.next[1] = self.next[0];
        self.closed[1] = self.closed[0];
    }

    fn changes(&mut self) -> millstream_core::Result<Changes> {
        let changes = Changes::new().keyed("rows", &self.rows).note(NEXT, self.next[0].to_string());
        Ok(match self.closed[0] {
            Some(closed) => changes.note(CLOSED, closed.to_string()),
            None => changes,
        })
    }

    fn restore(&mut self, mut saved: Restored) -> millstream_core::Result<()> {
        let corrupt =
            |what: &str| millstream_core::Error::corrupt(format!("the checkpoint of a session has no {what}"));
        saved.keyed("rows", &mut self.rows)?;
        let next = saved.note(NEXT).map_or(Ok(0), str::parse).map_err(|e| corrupt("number of rows").caused_by(e))?;
        let closed = saved.note(CLOSED).map(str::parse).transpose();
        let closed = closed.map_err(|e: std::num::ParseIntError| corrupt("frontier").caused_by(e))?;
        (self.next, self.closed) = ([next, next], [closed, closed]);
        self.reopen().map_err(|e| corrupt("rows that can be put into sessions").caused_by(e))
    }

    fn describe(&self) -> StateInfo {
        let mut rows = TableInfo::keyed("rows", &self.rows);
        rows.bytes += self.open.memory_bytes();
        StateInfo { kind: "sessions".to_string(), tables: vec![rows] }
    }

    fn table(&self) -> millstream_core::Result<Vec<RecordBatch>> {
        self.rows.scan().collect()
    }
}
