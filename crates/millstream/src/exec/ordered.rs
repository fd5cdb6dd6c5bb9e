//! Rows in order, with how often each is there: they come, and they go by what they hold.
//!
//! ```text
//! rows     $id -> the row as bytes, how often it is there     a table of state: what a checkpoint holds
//! order    partition, ORDER BY, the row -> $id, count         in memory: rebuilt from the bytes after a restore
//! ```
//!
//! The bytes compare as the rows do, so that the first rows of a partition are found without a look at the
//! others. Rows that tie in ORDER BY stand in the order of their columns.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryArray, Int64Array, RecordBatch, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt32Type, UInt64Type};
use datafusion::common::Result as DfResult;
use millstream_core::Error;
use millstream_state::{Changes, KeyedTable, OperatorState, Restored, StateInfo, TableInfo};

use super::changes::state_error;
use super::idle::{self, Idle, TOUCHED};
use super::memory::Memory;
use super::rank::{Counter, RankKind};

const ROWS: &str = "rows";
const NEXT: &str = "next";

/// What an entry costs in memory beside its bytes: the counted box, and its share of the tree.
const ENTRY_BYTES: usize = 80;

/// A row as bytes: its partition, what it is ordered by, and the row itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// All of them.
    pub bytes: Arc<[u8]>,
    /// Where the row begins.
    pub row: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    id: u64,
    count: i64,
    row: u32,
}

/// Rows in order.
#[derive(Debug)]
pub struct OrderedRows {
    order: BTreeMap<Arc<[u8]>, Entry>,
    table: KeyedTable,
    bytes: usize,
    /// The id of the next new row: installed and staged.
    next: [u64; 2],
    /// What the batch changed, as it was before.
    journal: Vec<(Arc<[u8]>, Option<Entry>)>,
    /// The partitions that can be forgotten, as bytes.
    idle: Option<Idle>,
}

/// The first rows of a partition: to the end, or to a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// How rows are counted.
    pub kind: RankKind,
    /// The last rank.
    pub limit: u64,
}

/// Which ranks are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// How they are counted.
    pub kinds: &'a [RankKind],
    /// The last of them.
    pub head: Option<Head>,
    /// Whether rows past them are of no more use.
    pub prunes: bool,
}

/// How the ranks of a partition were changed.
#[derive(Debug, Default)]
pub struct Reranked {
    /// Rows that had other ranks, or went.
    pub gone: Vec<(Key, Counter)>,
    /// Rows that have other ranks, or came.
    pub come: Vec<(Key, Counter)>,
    /// Rows that are of no more use, with how often they go.
    pub beyond: Vec<(Key, i64)>,
}

/// A count along the rows of a partition.
#[derive(Default)]
struct Walk<'a> {
    counter: Counter,
    last: Option<&'a [u8]>,
    /// The ranks that are asked for are passed.
    over: bool,
}

impl<'a> Walk<'a> {
    /// Counts a row that is ordered by these bytes; `None` where its rank is not asked for.
    fn next(&mut self, tied: &'a [u8], head: Option<Head>) -> Option<Counter> {
        if self.over {
            return None;
        }
        self.counter.count(self.last == Some(tied));
        self.last = Some(tied);
        self.over = head.is_some_and(|head| self.counter.rank(head.kind) > head.limit);
        (!self.over).then_some(self.counter)
    }
}

impl OrderedRows {
    /// No rows. A partition is forgotten where nothing touches it for `idle_us`.
    pub fn try_new(idle_us: Option<i64>) -> DfResult<Self> {
        let keys = Schema::new(vec![Field::new("$id", DataType::UInt64, false)]);
        let values = Schema::new(vec![
            Field::new("$bytes", DataType::Binary, false),
            Field::new("$count", DataType::Int64, false),
            Field::new("$row", DataType::UInt32, false),
        ]);
        let table = KeyedTable::new(Arc::new(keys), Arc::new(values)).map_err(state_error)?;
        let partitions = Schema::new(vec![Field::new("$partition", DataType::Binary, false)]);
        let idle = Idle::try_new(&Arc::new(partitions), idle_us)?;
        Ok(Self { order: BTreeMap::new(), table, bytes: 0, next: [0, 0], journal: vec![], idle })
    }

    /// Stages that rows have touched these partitions, each named once.
    pub fn touch(&mut self, time_us: i64, partitions: &[Arc<[u8]>]) -> DfResult<()> {
        let Some(idle) = &mut self.idle else { return Ok(()) };
        let keys: [ArrayRef; 1] = [Arc::new(BinaryArray::from_iter_values(partitions))];
        idle.touch(time_us, &keys, partitions.len())
    }

    /// Stages that partitions are forgotten which nothing has touched for long.
    pub fn forget(&mut self, time_us: i64, memory: &Memory) -> DfResult<()> {
        let gone = self.idle.as_mut().map(|idle| idle.due(time_us)).transpose()?.flatten();
        let partitions = gone.as_ref().and_then(|gone| gone.keys.first()).and_then(|keys| keys.as_binary_opt::<i32>());
        let mut changes = vec![];
        for partition in partitions.into_iter().flatten().flatten() {
            let range = self.order.range::<[u8], _>((Bound::Included(partition), Bound::Unbounded));
            let rows = range.take_while(|(bytes, _)| bytes.starts_with(partition));
            changes.extend(rows.map(|(bytes, e)| (Key { bytes: Arc::clone(bytes), row: e.row }, -e.count)));
        }
        self.change(changes.into_iter(), memory)
    }

    /// The first rows of a partition, each as often as it is there.
    pub fn head(&self, partition: &[u8], head: Option<Head>) -> Vec<Key> {
        let mut rows: Vec<Key> = vec![];
        let mut counter = Counter::default();
        let range = (Bound::Included(partition), Bound::Unbounded);
        for (bytes, entry) in self.order.range::<[u8], _>(range) {
            if !bytes.starts_with(partition) {
                break;
            }
            for _ in 0..entry.count {
                let ties = rows.last().is_some_and(|last| last.order() == bytes.get(..entry.row as usize));
                counter.count(ties);
                if head.is_some_and(|h| counter.rank(h.kind) > h.limit) {
                    return rows;
                }
                rows.push(Key { bytes: Arc::clone(bytes), row: entry.row });
            }
        }
        rows
    }

    /// How the ranks of a partition were changed by `changes`, which are staged already: its own, in order, each row
    /// named once. Of the rows only those are answered whose ranks are others now.
    pub fn reranked(&self, partition: &[u8], changes: &[(Key, i64)], asked: &Asked<'_>) -> Reranked {
        let mut reranked = Reranked::default();
        let [mut was, mut is] = [Walk::default(), Walk::default()];
        let mut changes = changes.iter().peekable();
        let range = (Bound::Included(partition), Bound::Unbounded);
        let rows = self.order.range::<[u8], _>(range).take_while(|(bytes, _)| bytes.starts_with(partition));
        let mut rows = rows.peekable();
        loop {
            // A row that is gone is named by its change only.
            let order = match (rows.peek(), changes.peek()) {
                (Some((bytes, _)), Some((key, _))) => bytes.as_ref().cmp(key.bytes.as_ref()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            let change = if order.is_ge() { changes.next() } else { None };
            let there = if order.is_le() { rows.next() } else { None };
            let Some((bytes, row)) =
                there.map(|(bytes, e)| (bytes, e.row)).or(change.map(|(key, _)| (&key.bytes, key.row)))
            else {
                break;
            };
            let after = there.map_or(0, |(_, entry)| entry.count);
            let before = after - change.map_or(0, |(_, delta)| *delta);
            let key = || Key { bytes: Arc::clone(bytes), row };
            let tied = bytes.get(..row as usize).unwrap_or_default();
            let mut beyond = 0;
            for n in 0..before.max(after) {
                let old = if n < before { was.next(tied, asked.head) } else { None };
                let new = if n < after { is.next(tied, asked.head) } else { None };
                beyond += i64::from(n < after && new.is_none());
                if let (Some(old), Some(new)) = (&old, &new)
                    && asked.kinds.iter().all(|kind| old.rank(*kind) == new.rank(*kind))
                {
                    continue;
                }
                reranked.gone.extend(old.map(|counter| (key(), counter)));
                reranked.come.extend(new.map(|counter| (key(), counter)));
            }
            if asked.prunes && beyond > 0 {
                reranked.beyond.push((key(), -beyond));
            }
            if !asked.prunes && was.over && is.over {
                break;
            }
        }
        reranked
    }

    /// Stages changes: how often each of these rows comes (or goes, below zero). Each is named once a call.
    ///
    /// # Errors
    /// Where a row goes that is not there, unless the query forgets.
    pub fn change(&mut self, changes: impl Iterator<Item = (Key, i64)>, memory: &Memory) -> DfResult<()> {
        let mut put: Vec<(Arc<[u8]>, Entry)> = vec![];
        let mut removed: Vec<u64> = vec![];
        for (key, delta) in changes.filter(|(_, delta)| *delta != 0) {
            let before = self.order.get(&key.bytes).copied();
            let mut count = before.map_or(0, |e| e.count) + delta;
            if count < 0 {
                memory.unknown_row("a ranking")?;
                count = 0;
            }
            if count == 0 && before.is_none() {
                continue;
            }
            self.journal.push((Arc::clone(&key.bytes), before));
            match before {
                Some(entry) if count == 0 => {
                    self.order.remove(&key.bytes);
                    self.bytes -= key.bytes.len();
                    removed.push(entry.id);
                }
                before => {
                    let id = before.map_or(self.next[1], |e| e.id);
                    if before.is_none() {
                        self.next[1] += 1;
                        self.bytes += key.bytes.len();
                    }
                    let entry = Entry { id, count, row: key.row };
                    put.push((Arc::clone(&key.bytes), entry));
                    self.order.insert(key.bytes, entry);
                }
            }
        }
        if !removed.is_empty() {
            let count = removed.len();
            let ids: [ArrayRef; 1] = [Arc::new(UInt64Array::from(removed))];
            self.table.remove(&ids, count).map_err(state_error)?;
        }
        if !put.is_empty() {
            let ids: [ArrayRef; 1] = [Arc::new(UInt64Array::from_iter_values(put.iter().map(|(_, e)| e.id)))];
            let values: [ArrayRef; 3] = [
                Arc::new(BinaryArray::from_iter_values(put.iter().map(|(bytes, _)| bytes.as_ref()))),
                Arc::new(Int64Array::from_iter_values(put.iter().map(|(_, e)| e.count))),
                Arc::new(UInt32Array::from_iter_values(put.iter().map(|(_, e)| e.row))),
            ];
            self.table.put(&ids, &values, put.len()).map_err(state_error)?;
        }
        Ok(())
    }

    fn rebuild(&mut self) -> millstream_core::Result<()> {
        self.order.clear();
        self.journal.clear();
        // The map is built of sorted rows at once, not row by row.
        let mut entries: Vec<(Arc<[u8]>, Entry)> = Vec::with_capacity(self.table.len());
        for batch in self.table.scan() {
            let batch = batch?;
            let column = |c: usize| batch.columns().get(c);
            let ids = column(0).and_then(|c| c.as_primitive_opt::<UInt64Type>());
            let bytes = column(1).and_then(|c| c.as_binary_opt::<i32>());
            let counts = column(2).and_then(|c| c.as_primitive_opt::<Int64Type>());
            let rows = column(3).and_then(|c| c.as_primitive_opt::<UInt32Type>());
            let (Some(ids), Some(bytes), Some(counts), Some(rows)) = (ids, bytes, counts, rows) else {
                return Err(Error::corrupt("the rows of a ranking have other columns than they were stored with"));
            };
            for (((id, bytes), count), row) in ids.values().iter().zip(bytes).zip(counts.values()).zip(rows.values()) {
                entries.push((bytes.unwrap_or_default().into(), Entry { id: *id, count: *count, row: *row }));
            }
        }
        self.bytes = entries.iter().map(|(bytes, _)| bytes.len()).sum();
        self.order = entries.into_iter().collect();
        Ok(())
    }
}

impl Key {
    /// The partition and what the row is ordered by: equal where rows tie.
    pub fn order(&self) -> Option<&[u8]> {
        self.bytes.get(..self.row as usize)
    }

    /// The row.
    pub fn row(&self) -> &[u8] {
        self.bytes.get(self.row as usize..).unwrap_or_default()
    }
}

impl OperatorState for OrderedRows {
    fn install(&mut self) {
        self.table.install();
        self.idle.iter_mut().for_each(Idle::install);
        self.next[0] = self.next[1];
        self.journal.clear();
    }

    fn discard(&mut self) {
        self.table.discard();
        self.idle.iter_mut().for_each(Idle::discard);
        self.next[1] = self.next[0];
        // What was changed twice was first what it is to be again.
        let mut before = HashMap::new();
        for (bytes, entry) in self.journal.drain(..).rev() {
            before.insert(bytes, entry);
        }
        for (bytes, entry) in before {
            let now = match entry {
                Some(entry) => self.order.insert(Arc::clone(&bytes), entry),
                None => self.order.remove(&bytes),
            };
            match (entry, now) {
                (Some(_), None) => self.bytes += bytes.len(),
                (None, Some(_)) => self.bytes -= bytes.len(),
                _ => {}
            }
        }
    }

    fn changes(&mut self) -> millstream_core::Result<Changes> {
        let changes = Changes::new().keyed(ROWS, &self.table).note(NEXT, self.next[0].to_string());
        Ok(idle::changes(changes, TOUCHED, self.idle.as_ref()))
    }

    fn restore(&mut self, mut saved: Restored) -> millstream_core::Result<()> {
        saved.keyed(ROWS, &mut self.table)?;
        idle::restore(&mut saved, TOUCHED, self.idle.as_mut())?;
        let next = saved.note(NEXT).and_then(|n| n.parse().ok());
        let next = next.ok_or_else(|| Error::corrupt("the checkpoint does not number the rows of a ranking"))?;
        self.next = [next, next];
        self.rebuild()
    }

    fn describe(&self) -> StateInfo {
        let mut info = TableInfo::keyed(ROWS, &self.table);
        info.bytes += self.bytes + self.order.len() * ENTRY_BYTES;
        let tables = [info].into_iter().chain(idle::describe(TOUCHED, self.idle.as_ref())).collect();
        StateInfo { kind: "ranking".to_string(), tables }
    }

    fn table(&self) -> millstream_core::Result<Vec<RecordBatch>> {
        self.table.scan().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row of one partition: what it is ordered by, and what tells it from those that tie.
    fn key(order: u8, row: u32) -> Key {
        let bytes: Vec<u8> = [order].into_iter().chain(row.to_be_bytes()).collect();
        Key { bytes: bytes.into(), row: 1 }
    }

    fn rerank(rows: &mut OrderedRows, changes: &[(Key, i64)], prunes: bool) -> Reranked {
        rows.change(changes.iter().cloned(), &Memory::from("t")).unwrap();
        let head = Some(Head { kind: RankKind::Rank, limit: 2 });
        let reranked = rows.reranked(&[], changes, &Asked { kinds: &[RankKind::Rank], head, prunes });
        rows.change(reranked.beyond.iter().cloned(), &Memory::from("t")).unwrap();
        rows.install();
        reranked
    }

    #[test]
    fn one_more_of_many_rows_that_tie_is_one_change() {
        let mut rows = OrderedRows::try_new(None).unwrap();
        let many: Vec<_> = (0..10_000).map(|n| (key(1, n * 2), 1)).collect();
        assert_eq!(rerank(&mut rows, &many, true).come.len(), 10_000);
        let more = rerank(&mut rows, &[(key(1, 5001), 1)], true);
        assert_eq!((more.gone.len(), more.come.len()), (0, 1));
    }

    #[test]
    fn rows_past_the_ranks_that_are_asked_for_are_kept_only_where_a_better_one_can_go() {
        for prunes in [true, false] {
            let mut rows = OrderedRows::try_new(None).unwrap();
            rerank(&mut rows, &[(key(5, 0), 1), (key(6, 0), 2), (key(7, 0), 1)], prunes);
            assert_eq!(rows.order.len(), if prunes { 2 } else { 3 });
            // A better row moves 5 to the second place, and the two of 6 out.
            let better = rerank(&mut rows, &[(key(4, 0), 1)], prunes);
            let ranks = |of: &[(Key, Counter)]| {
                of.iter().map(|(k, c)| (k.bytes[0], c.rank(RankKind::Rank))).collect::<Vec<_>>()
            };
            assert_eq!(ranks(&better.gone), [(5, 1), (6, 2), (6, 2)]);
            assert_eq!(ranks(&better.come), [(4, 1), (5, 2)]);
            assert_eq!(rows.order.len(), if prunes { 2 } else { 4 });
        }
        let mut rows = OrderedRows::try_new(None).unwrap();
        rerank(&mut rows, &[(key(5, 0), 1), (key(6, 0), 1), (key(7, 0), 1)], false);
        let gone = rerank(&mut rows, &[(key(5, 0), -1)], false);
        assert_eq!((gone.gone.len(), gone.come.len()), (2, 2));
    }
}
