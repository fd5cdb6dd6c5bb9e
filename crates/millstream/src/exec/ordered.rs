//! Rows in order, with how often each is there: they come, and they go by what they hold.
//!
//! ```text
//! rows     $id -> the row as bytes, how often it is there            a table of state: what a checkpoint holds
//! order    partition -> ORDER BY, the row, in order -> $id, count    in memory: rebuilt from the bytes after a restore
//! ```
//!
//! The bytes compare as the rows do, so that the first rows of a partition are found without a look at the
//! others. Rows that tie in ORDER BY stand in the order of their columns.

use std::cmp::Ordering;
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
use super::sorted_groups::{Kept, SortedGroups};

const ROWS: &str = "rows";
const NEXT: &str = "next";

/// A row as bytes: what it is ordered by, and the row itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// All of them.
    pub bytes: Box<[u8]>,
    /// Where the row begins.
    pub row: u32,
}

/// How often a row comes, or goes, below zero.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// What it is ordered by, and the row.
    pub bytes: &'a [u8],
    /// Where the row begins.
    pub row: u32,
    /// How often.
    pub delta: i64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    id: u64,
    count: i64,
    row: u32,
}

impl Kept for Entry {
    const BYTES: usize = 20;

    fn write(self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.id.to_le_bytes());
        to.extend_from_slice(&self.count.to_le_bytes());
        to.extend_from_slice(&self.row.to_le_bytes());
    }

    fn read(from: &[u8]) -> Self {
        let word = |at: usize| from.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b));
        let row = from.get(16..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b));
        Self { id: word(0), count: word(8) as i64, row }
    }
}

/// Rows in order.
#[derive(Debug)]
pub struct OrderedRows {
    order: SortedGroups<Entry>,
    table: KeyedTable,
    /// The id of the next new row: installed and staged.
    next: [u64; 2],
    pending: Pending,
    /// The partitions that can be forgotten, as bytes.
    idle: Option<Idle>,
}

/// Changes of the table that are not staged yet: of no row more than one.
#[derive(Debug, Default)]
struct Pending {
    ids: Vec<u64>,
    /// The bytes of the rows: of a row its partition, what it is ordered by and the row, up to `ends`.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    counts: Vec<i64>,
    /// Where ORDER BY begins, and where the row does.
    orders: Vec<u32>,
    rows: Vec<u32>,
    /// Ids of rows that are gone: a new row takes the place of one of them.
    free: Vec<u64>,
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

/// How the ranks of partitions were changed.
#[derive(Debug, Default)]
pub struct Reranked {
    /// Rows that had other ranks, or went.
    pub gone: Ranked,
    /// Rows that have other ranks, or came.
    pub come: Ranked,
    /// Whether a row is there more than once: then it can be among both with the same rank.
    pub repeats: bool,
}

/// Rows and how they were counted.
#[derive(Debug, Default)]
pub struct Ranked {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// The count up to and with each.
    pub counters: Vec<Counter>,
}

impl Ranked {
    fn push(&mut self, row: &[u8], counter: Counter) {
        self.bytes.extend_from_slice(row);
        self.ends.push(self.bytes.len());
        self.counters.push(counter);
    }

    /// The rows, as bytes.
    pub fn rows(&self) -> impl Iterator<Item = &[u8]> {
        let from = [0].into_iter().chain(self.ends.iter().copied());
        from.zip(&self.ends).map(|(from, to)| self.bytes.get(from..*to).unwrap_or_default())
    }
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
            Field::new("$order", DataType::UInt32, false),
            Field::new("$row", DataType::UInt32, false),
        ]);
        let table = KeyedTable::new(Arc::new(keys), Arc::new(values)).map_err(state_error)?;
        let partitions = Schema::new(vec![Field::new("$partition", DataType::Binary, false)]);
        let idle = Idle::try_new(&Arc::new(partitions), idle_us)?;
        Ok(Self { order: SortedGroups::new(), table, next: [0, 0], pending: Pending::default(), idle })
    }

    /// Stages that rows have touched these partitions, each named once.
    pub fn touch<'a>(&mut self, time_us: i64, partitions: impl Iterator<Item = &'a [u8]>) -> DfResult<()> {
        let Some(idle) = &mut self.idle else { return Ok(()) };
        let partitions = BinaryArray::from_iter_values(partitions);
        let count = partitions.iter().len();
        let keys: [ArrayRef; 1] = [Arc::new(partitions)];
        idle.touch(time_us, &keys, count)
    }

    /// Stages that partitions are forgotten which nothing has touched for long.
    pub fn forget(&mut self, time_us: i64, memory: &Memory) -> DfResult<()> {
        let gone = self.idle.as_mut().map(|idle| idle.due(time_us)).transpose()?.flatten();
        let partitions = gone.as_ref().and_then(|gone| gone.keys.first()).and_then(|keys| keys.as_binary_opt::<i32>());
        for partition in partitions.into_iter().flatten().flatten() {
            let rows: Vec<(Key, i64)> = self
                .order
                .entries(partition)
                .map(|(bytes, e)| (Key { bytes: bytes.into(), row: e.row }, -e.count))
                .collect();
            self.change(partition, rows.iter().map(|(key, delta)| key.change(*delta)), memory)?;
        }
        self.store()
    }

    /// The first rows of a partition, each as often as it is there.
    pub fn head(&self, partition: &[u8], head: Option<Head>) -> Vec<Key> {
        let mut rows: Vec<Key> = vec![];
        let mut counter = Counter::default();
        for (bytes, entry) in self.order.entries(partition) {
            for _ in 0..entry.count {
                let ties = rows.last().is_some_and(|last| last.order() == bytes.get(..entry.row as usize));
                counter.count(ties);
                if head.is_some_and(|h| counter.rank(h.kind) > h.limit) {
                    return rows;
                }
                rows.push(Key { bytes: bytes.into(), row: entry.row });
            }
        }
        rows
    }

    /// How the ranks of a partition were changed by `changes`, which are made already: its own, in order, each row
    /// named once. Of the rows only those are answered whose ranks are others now. What comes back are rows that are of no
    /// more use, with how often they go.
    pub fn reranked<'a>(
        &self,
        partition: &[u8],
        changes: impl Iterator<Item = Change<'a>>,
        asked: &Asked<'_>,
        to: &mut Reranked,
    ) -> Vec<(Key, i64)> {
        let mut useless = vec![];
        let [mut was, mut is] = [Walk::default(), Walk::default()];
        let mut changes = changes.peekable();
        let mut rows = self.order.entries(partition).peekable();
        loop {
            // A row that is gone is named by its change only.
            let order = match (rows.peek(), changes.peek()) {
                (Some((bytes, _)), Some(change)) => bytes.cmp(&change.bytes),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            let change = if order.is_ge() { changes.next() } else { None };
            let there = if order.is_le() { rows.next() } else { None };
            let Some((bytes, row)) = there.map(|(b, e)| (b, e.row)).or(change.map(|c| (c.bytes, c.row))) else { break };
            let after = there.map_or(0, |(_, entry)| entry.count);
            let before = after - change.map_or(0, |change| change.delta);
            let (tied, own) = bytes.split_at_checked(row as usize).unwrap_or_default();
            let mut beyond = 0;
            to.repeats |= before.max(after) > 1;
            for n in 0..before.max(after) {
                let old = if n < before { was.next(tied, asked.head) } else { None };
                let new = if n < after { is.next(tied, asked.head) } else { None };
                beyond += i64::from(n < after && new.is_none());
                if let (Some(old), Some(new)) = (&old, &new)
                    && asked.kinds.iter().all(|kind| old.rank(*kind) == new.rank(*kind))
                {
                    continue;
                }
                old.into_iter().for_each(|counter| to.gone.push(own, counter));
                new.into_iter().for_each(|counter| to.come.push(own, counter));
            }
            if asked.prunes && beyond > 0 {
                useless.push((Key { bytes: bytes.into(), row }, -beyond));
            }
            if !asked.prunes && was.over && is.over {
                break;
            }
        }
        useless
    }

    /// Makes changes of a partition, to be stored by [`OrderedRows::store`]. Each row is named once before that.
    ///
    /// # Errors
    /// Where a row goes that is not there, unless the query forgets.
    pub fn change<'a>(
        &mut self,
        partition: &[u8],
        changes: impl Iterator<Item = Change<'a>>,
        memory: &Memory,
    ) -> DfResult<()> {
        let Self { order, pending, next, .. } = self;
        for change in changes.filter(|change| change.delta != 0) {
            order.change(partition, change.bytes, |before| {
                let mut count = before.map_or(0, |e| e.count) + change.delta;
                if count < 0 {
                    memory.unknown_row("a ranking")?;
                    count = 0;
                }
                if count == 0 {
                    pending.free.extend(before.map(|entry| entry.id));
                    return Ok(None);
                }
                let id = before.map(|entry| entry.id).or_else(|| pending.free.pop()).unwrap_or_else(|| {
                    next[1] += 1;
                    next[1] - 1
                });
                let entry = Entry { id, count, row: change.row };
                pending.put(partition, change.bytes, entry);
                Ok(Some(entry))
            })?;
        }
        Ok(())
    }

    /// Stages the changes that were made.
    pub fn store(&mut self) -> DfResult<()> {
        let pending = std::mem::take(&mut self.pending);
        if !pending.free.is_empty() {
            let count = pending.free.len();
            let ids: [ArrayRef; 1] = [Arc::new(UInt64Array::from(pending.free))];
            self.table.remove(&ids, count).map_err(state_error)?;
        }
        if !pending.ids.is_empty() {
            let count = pending.ids.len();
            let from = [0].into_iter().chain(pending.ends.iter().copied());
            let bytes = from.zip(&pending.ends).map(|(from, to)| pending.bytes.get(from..*to).unwrap_or_default());
            let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values(bytes));
            let counts: ArrayRef = Arc::new(Int64Array::from(pending.counts));
            let [orders, rows] = [pending.orders, pending.rows].map(|n| Arc::new(UInt32Array::from(n)) as ArrayRef);
            let ids: [ArrayRef; 1] = [Arc::new(UInt64Array::from(pending.ids))];
            self.table.put(&ids, &[bytes, counts, orders, rows], count).map_err(state_error)?;
        }
        Ok(())
    }

    fn rebuild(&mut self) -> millstream_core::Result<()> {
        (self.order, self.pending) = (SortedGroups::new(), Pending::default());
        for batch in self.table.scan() {
            let batch = batch?;
            let column = |c: usize| batch.columns().get(c);
            let number = |c: usize| column(c).and_then(|c| c.as_primitive_opt::<UInt32Type>());
            let ids = column(0).and_then(|c| c.as_primitive_opt::<UInt64Type>());
            let bytes = column(1).and_then(|c| c.as_binary_opt::<i32>());
            let counts = column(2).and_then(|c| c.as_primitive_opt::<Int64Type>());
            let (Some(ids), Some(bytes), Some(counts), Some(orders), Some(rows)) =
                (ids, bytes, counts, number(3), number(4))
            else {
                return Err(Error::corrupt("the rows of a ranking have other columns than they were stored with"));
            };
            let places = orders.values().iter().zip(rows.values());
            for (((id, bytes), count), (order, row)) in ids.values().iter().zip(bytes).zip(counts.values()).zip(places)
            {
                let (partition, bytes) =
                    bytes.unwrap_or_default().split_at_checked(*order as usize).unwrap_or_default();
                let entry = Entry { id: *id, count: *count, row: row.saturating_sub(*order) };
                // It can't fail: the answer is there.
                _ = self.order.change(partition, bytes, |_| Ok(Some(entry)));
            }
            self.order.install();
        }
        Ok(())
    }
}

impl Pending {
    fn put(&mut self, partition: &[u8], bytes: &[u8], entry: Entry) {
        self.bytes.extend_from_slice(partition);
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
        self.ids.push(entry.id);
        self.counts.push(entry.count);
        self.orders.push(partition.len() as u32);
        self.rows.push(partition.len() as u32 + entry.row);
    }
}

impl Key {
    /// What the row is ordered by: equal where rows of a partition tie.
    pub fn order(&self) -> Option<&[u8]> {
        self.bytes.get(..self.row as usize)
    }

    /// The row.
    pub fn row(&self) -> &[u8] {
        self.bytes.get(self.row as usize..).unwrap_or_default()
    }

    /// The row, as it comes so often.
    pub fn change(&self, delta: i64) -> Change<'_> {
        Change { bytes: &self.bytes, row: self.row, delta }
    }
}

impl OperatorState for OrderedRows {
    fn install(&mut self) {
        self.table.install();
        self.idle.iter_mut().for_each(Idle::install);
        self.next[0] = self.next[1];
        self.order.install();
    }

    fn discard(&mut self) {
        self.table.discard();
        self.idle.iter_mut().for_each(Idle::discard);
        self.next[1] = self.next[0];
        self.order.discard();
        self.pending = Pending::default();
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
        info.bytes += self.order.memory_bytes();
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
        let memory = Memory::from("t");
        let changes: Vec<Change<'_>> = changes.iter().map(|(key, delta)| key.change(*delta)).collect();
        rows.change(&[], changes.iter().copied(), &memory).unwrap();
        rows.store().unwrap();
        let head = Some(Head { kind: RankKind::Rank, limit: 2 });
        let mut reranked = Reranked::default();
        let asked = Asked { kinds: &[RankKind::Rank], head, prunes };
        let beyond = rows.reranked(&[], changes.iter().copied(), &asked, &mut reranked);
        rows.change(&[], beyond.iter().map(|(key, delta)| key.change(*delta)), &memory).unwrap();
        rows.store().unwrap();
        rows.install();
        reranked
    }

    fn held(rows: &OrderedRows) -> usize {
        assert_eq!(rows.order.entries(&[]).count(), rows.table.len());
        rows.table.len()
    }

    #[test]
    fn one_more_of_many_rows_that_tie_is_one_change() {
        let mut rows = OrderedRows::try_new(None).unwrap();
        let many: Vec<_> = (0..10_000).map(|n| (key(1, n * 2), 1)).collect();
        assert_eq!(rerank(&mut rows, &many, true).come.counters.len(), 10_000);
        let more = rerank(&mut rows, &[(key(1, 5001), 1)], true);
        assert_eq!((more.gone.counters.len(), more.come.counters.len()), (0, 1));
    }

    #[test]
    fn rows_past_the_ranks_that_are_asked_for_are_kept_only_where_a_better_one_can_go() {
        for prunes in [true, false] {
            let mut rows = OrderedRows::try_new(None).unwrap();
            rerank(&mut rows, &[(key(5, 1), 1), (key(6, 0), 2), (key(7, 0), 1)], prunes);
            assert_eq!(held(&rows), if prunes { 2 } else { 3 });
            // A better row moves 5 to the second place, and the two of 6 out.
            let better = rerank(&mut rows, &[(key(4, 0), 1)], prunes);
            let ranks = |of: &Ranked| of.counters.iter().map(|c| c.rank(RankKind::Rank)).collect::<Vec<_>>();
            assert_eq!(ranks(&better.gone), [1, 2, 2]);
            assert_eq!(ranks(&better.come), [1, 2]);
            let tells = |of: &Ranked| of.rows().map(|row| row.to_vec()).collect::<Vec<_>>();
            assert_eq!(tells(&better.come), [0u32.to_be_bytes(), 1u32.to_be_bytes()]);
            assert_eq!(held(&rows), if prunes { 2 } else { 4 });
        }
        let mut rows = OrderedRows::try_new(None).unwrap();
        rerank(&mut rows, &[(key(5, 0), 1), (key(6, 0), 1), (key(7, 0), 1)], false);
        let gone = rerank(&mut rows, &[(key(5, 0), -1)], false);
        assert_eq!((gone.gone.counters.len(), gone.come.counters.len()), (2, 2));
    }
}
