//! What window functions keep: the rows that wait, and of each partition its counts and what later frames look back at.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::common::{Result as DfResult, internal_err};
use millstream_core::watermark::END_OF_TIME;
use millstream_state::{Changes, KeyedTable, OperatorState, Restored, StateInfo, TableInfo};

use super::super::changes::state_error;
use super::super::waiting::Waiting;
use super::framed::Framed;
use super::pages::{Pages, Span, numbers};
use super::running::Running;
use super::{Due, Over, OverFunction};

const PARTITIONS: &str = "partitions";
const CLOSED: &str = "closed";
const SWEPT: &str = "swept";
const NEXT: &str = "next";

/// The columns of a partition's state that are always there.
const COUNTS: usize = 3;

/// Those that say which rows are kept.
const SPAN: usize = 2;

/// The state of window functions.
#[derive(Debug)]
pub struct OverState {
    /// The rows that are not due yet.
    pub waiting: Waiting,
    /// By partition: how many rows and sets of peers came, when the last one was due, where rows are kept its number and
    /// the first of them, the states of the accumulators. `None` where partitions end with their rows.
    partitions: Option<KeyedTable>,
    /// The rows that are kept.
    pub pages: Option<Pages>,
    /// How many of a partition's first rows are kept.
    head: usize,
    /// The number of the next partition: installed and staged.
    next: [u64; 2],
    /// How long a partition is kept after its last row; `None`: for ever.
    expires_us: Option<i64>,
    /// The frontier up to which rows were due: installed and staged.
    closed: [Option<i64>; 2],
    /// The frontier at which partitions were last looked through: installed and staged.
    swept: [Option<i64>; 2],
}

/// What is known of the partitions whose rows are due.
#[derive(Debug, Default)]
pub struct Before {
    /// Which partitions are known, ascending.
    pub found: Vec<usize>,
    rows: Vec<i64>,
    peers: Vec<i64>,
    /// Which rows are kept of each partition, known or new.
    pub spans: Vec<Span>,
    /// The states of the accumulators.
    pub states: Vec<ArrayRef>,
}

impl Before {
    /// How many rows of a partition came before, and how many sets of peers.
    pub fn counts(&self, partition: usize) -> (u64, u64) {
        let Ok(at) = self.found.binary_search(&partition) else { return (0, 0) };
        let count = |of: &[i64]| of.get(at).map_or(0, |n| n.unsigned_abs());
        (count(&self.rows), count(&self.peers))
    }
}

impl OverState {
    /// Nothing yet.
    pub fn try_new(
        input: &SchemaRef,
        keys: &SchemaRef,
        over: &Over,
        framed: &Framed,
        running: &[Running],
    ) -> DfResult<Self> {
        let number = |name: &str| Arc::new(Field::new(name, DataType::Int64, false));
        let pages = framed.pages()?;
        let mut fields = vec![number("$rows"), number("$peers"), number("$last")];
        if pages.is_some() {
            fields.extend([number("$partition"), number("$from")]);
        }
        fields.extend(running.iter().flat_map(Running::state_fields).cloned());
        let values = Arc::new(Schema::new(fields));
        let table = || KeyedTable::new(Arc::clone(keys), values).map_err(state_error);
        let keep = over.keep.unwrap_or_default();
        let framed = |f: &OverFunction| matches!(f, OverFunction::Framed(_) | OverFunction::Sliding { .. });
        let only_framed = over.functions.iter().all(framed);
        Ok(Self {
            waiting: Waiting::try_new(input)?,
            partitions: over.keep.is_some().then(table).transpose()?,
            pages,
            head: keep.head,
            next: [0, 0],
            expires_us: keep.tail_us.filter(|_| only_framed && keep.head == 0 && keep.tail == 0),
            closed: [None, None],
            swept: [None, None],
        })
    }

    /// A row that is due already is a fault of ours: the edge of the source drops late rows.
    pub fn check_not_late(&self, first: Option<i64>) -> DfResult<()> {
        match (first, self.closed[1]) {
            (Some(first), Some(closed)) if first <= closed => internal_err!(
                "a row reached a window function after its time had passed: its time is {first} us, the frontier was {closed} us"
            ),
            _ => Ok(()),
        }
    }

    /// What is known of these partitions.
    pub fn before(&mut self, keys: &[ArrayRef], partitions: usize) -> DfResult<Before> {
        let Some(table) = &self.partitions else { return Ok(Before::default()) };
        let found = table.get(keys, partitions).map_err(state_error)?;
        let (rows, peers) = (counts(&found.values, 0), counts(&found.values, 1));
        let mut states = found.values;
        let rest = states.split_off(COUNTS.min(states.len()));
        let (spans, states) = match self.pages {
            None => (vec![], rest),
            Some(_) => {
                let known = rows.iter().zip(counts(&rest, 0)).zip(counts(&rest, 1));
                let known = known.map(|((rows, id), from)| span_of(id, *rows, from));
                let mut known = found.rows.iter().zip(known).peekable();
                let (head, next) = (self.head, &mut self.next[1]);
                let spans = (0..partitions).map(|partition| match known.next_if(|(p, _)| **p == partition) {
                    Some((_, span)) => span,
                    None => {
                        *next += 1;
                        Span { id: *next, rows: 0, from: head }
                    }
                });
                (spans.collect(), rest.into_iter().skip(SPAN).collect())
            }
        };
        Ok(Before { found: found.rows, rows, peers, spans, states })
    }

    /// Stages what is known of the partitions after the rows that were due.
    pub fn remember(&mut self, due: &Due, before: &Before, kept: Vec<Span>, states: Vec<ArrayRef>) -> DfResult<()> {
        let Some(table) = &mut self.partitions else { return Ok(()) };
        let (mut rows, mut peers, mut last) = (vec![], vec![], vec![]);
        for (partition, range) in due.ranges.iter().enumerate() {
            let (row, peer) = before.counts(partition);
            let new = range.clone().filter(|at| !due.ties(range, *at)).count();
            rows.push(row as i64 + range.len() as i64);
            peers.push(peer as i64 + new as i64);
            let sorted = due.sorted.get(range.clone()).unwrap_or_default();
            let at = sorted.iter().filter_map(|row| due.instants.values().get(*row as usize)).max();
            last.push(at.copied().unwrap_or(i64::MIN));
        }
        let mut values: Vec<ArrayRef> = [rows, peers, last].map(|n| Arc::new(Int64Array::from(n)) as ArrayRef).into();
        if self.pages.is_some() {
            values.extend([numbers(kept.iter().map(|s| s.id as usize)), numbers(kept.iter().map(|s| s.from))]);
        }
        values.extend(states);
        table.put(&due.keys, &values, due.partitions).map_err(state_error)
    }

    /// Stages how far rows were due. Partitions whose rows are all behind every later frame are forgotten: they
    /// are looked for whenever the frontier has moved by the length of the frame, so that each is looked at a
    /// few times at most.
    pub fn close(&mut self, frontier: Option<i64>) -> DfResult<()> {
        self.closed[1] = self.closed[1].max(frontier);
        let (Some(frontier), Some(expires_us)) = (frontier.filter(|f| *f < END_OF_TIME), self.expires_us) else {
            return Ok(());
        };
        let swept = *self.swept[1].get_or_insert(frontier);
        if frontier.saturating_sub(swept) <= expires_us {
            return Ok(());
        }
        self.swept[1] = Some(frontier);
        let Some(table) = &mut self.partitions else { return Ok(()) };
        let since = frontier.saturating_sub(expires_us).saturating_sub(1);
        let columns = table.keys().fields().len();
        let (mut gone, mut spans): (Vec<(Vec<ArrayRef>, usize)>, Vec<Span>) = (vec![], vec![]);
        for batch in table.scan_staged() {
            let batch = batch.map_err(state_error)?;
            let last = batch.columns().get(columns + COUNTS - 1).and_then(|c| c.as_primitive_opt::<Int64Type>());
            let Some(last) = last else { return internal_err!("a partition has no last row") };
            let old = last.values().iter().map(|last| Some(*last < since)).collect();
            let batch = arrow::compute::filter_record_batch(&batch, &old)?;
            if batch.num_rows() == 0 {
                continue;
            }
            let (keys, values) = batch.columns().split_at(columns);
            let [rows, ids, froms] = [0, COUNTS, COUNTS + 1].map(|column| counts(values, column));
            spans.extend(rows.into_iter().zip(ids).zip(froms).map(|((rows, id), from)| span_of(id, rows, from)));
            gone.push((keys.to_vec(), batch.num_rows()));
        }
        gone.iter().try_for_each(|(keys, rows)| table.remove(keys, *rows).map_err(state_error))?;
        self.pages.as_mut().map_or(Ok(()), |pages| pages.forget(&spans))
    }
}

/// A column of numbers of some partitions.
fn counts(values: &[ArrayRef], column: usize) -> Vec<i64> {
    let column = values.get(column).and_then(|c| c.as_primitive_opt::<Int64Type>());
    column.map(|c| c.values().to_vec()).unwrap_or_default()
}

fn span_of(id: i64, rows: i64, from: i64) -> Span {
    Span { id: id.unsigned_abs(), rows: rows.unsigned_abs() as usize, from: from.unsigned_abs() as usize }
}

impl OperatorState for OverState {
    fn install(&mut self) {
        self.waiting.install();
        self.partitions.iter_mut().for_each(KeyedTable::install);
        self.pages.iter_mut().for_each(Pages::install);
        self.next[0] = self.next[1];
        self.closed[0] = self.closed[1];
        self.swept[0] = self.swept[1];
    }

    fn discard(&mut self) {
        self.waiting.discard();
        self.partitions.iter_mut().for_each(KeyedTable::discard);
        self.pages.iter_mut().for_each(Pages::discard);
        self.next[1] = self.next[0];
        self.closed[1] = self.closed[0];
        self.swept[1] = self.swept[0];
    }

    fn changes(&mut self) -> millstream_core::Result<Changes> {
        let mut changes = self.waiting.capture(Changes::new());
        if let Some(table) = &self.partitions {
            changes = changes.keyed(PARTITIONS, table);
        }
        if let Some(pages) = &self.pages {
            changes = pages.capture(changes).note(NEXT, self.next[0].to_string());
        }
        for (name, value) in [(CLOSED, self.closed[0]), (SWEPT, self.swept[0])] {
            if let Some(value) = value {
                changes = changes.note(name, value.to_string());
            }
        }
        Ok(changes)
    }

    fn restore(&mut self, mut saved: Restored) -> millstream_core::Result<()> {
        self.waiting.restore(&mut saved)?;
        if let Some(table) = &mut self.partitions {
            saved.keyed(PARTITIONS, table)?;
        }
        if let Some(pages) = &mut self.pages {
            pages.restore(&mut saved)?;
        }
        let number = |name: &str| {
            saved.note(name).map(str::parse::<i64>).transpose().map_err(|e| {
                millstream_core::Error::corrupt(format!("the checkpoint does not say '{name}' in a number"))
                    .caused_by(e)
            })
        };
        let (closed, swept) = (number(CLOSED)?, number(SWEPT)?);
        let next = number(NEXT)?.map_or(0, i64::unsigned_abs);
        self.next = [next, next];
        self.closed = [closed, closed];
        self.swept = [swept, swept];
        Ok(())
    }

    fn describe(&self) -> StateInfo {
        let mut tables = vec![self.waiting.info()];
        tables.extend(self.partitions.iter().map(|t| TableInfo::keyed(PARTITIONS, t)));
        tables.extend(self.pages.iter().map(Pages::info));
        StateInfo { kind: "window functions".to_string(), tables }
    }

    fn table(&self) -> millstream_core::Result<Vec<RecordBatch>> {
        match &self.partitions {
            Some(table) => table.scan().collect(),
            None => self.waiting.scan().collect(),
        }
    }
}
