//! A table with any number of rows a key: one side of a join, the rows of a group that can be taken back.
//!
//! It is made of two tables of one row a key, which stage, install, discard and store what it holds:
//!
//! ```text
//! keys    key          -> id, count         the rows of a key are numbered 0 .. count
//! rows    id, number   -> values, sequence
//! ```
//!
//! A key's id never changes while the key has rows, and is never given to another key. A row that is removed
//! leaves no hole: the last row of the key takes its number. So a key's rows are found by counting, without
//! reading one to find the next; and each keeps the *sequence* that it got when it came, which tells the order
//! of insertion over the whole table.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array, UInt64Array};
use arrow::compute::{interleave, take_arrays};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, UInt32Type, UInt64Type};
use hashbrown::HashMap;
use millstream_core::{Error, Result};

use crate::index::KeyIndex;
use crate::table::KeyedTable;

/// The last column of [`MultiTable::scan`]: when the row came, counted over the table.
pub const SEQUENCE: &str = "$sequence";

/// A row of a [`MultiTable`]: good until the next change of its key's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId {
    key: u64,
    number: u32,
    sequence: u64,
}

impl RowId {
    /// When the row came: larger than that of every row that came before it.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

/// The rows of the keys that were asked for.
#[derive(Clone, Debug)]
pub struct FoundRows {
    /// Which of the keys each row belongs to: indices into them, ascending.
    pub keys: Vec<u32>,
    /// The rows, to remove or update them.
    pub ids: Vec<RowId>,
    /// The value columns of the rows, in that order.
    pub values: Vec<ArrayRef>,
}

/// Keyed rows: any number of rows a key, equal ones too.
///
/// Keys are equal as in a [`KeyedTable`], changes are staged as there, and a batch reads its own writes.
/// The rows of a key come in an order that is a function of the calls alone; sort by
/// [`RowId::sequence`] for the order in which they came.
#[derive(Debug)]
pub struct MultiTable {
    pub(crate) keys: KeyedTable,
    pub(crate) rows: KeyedTable,
    values: SchemaRef,
    /// The sequence of the next row, staged and installed.
    next: u64,
    pub(crate) next_installed: u64,
}

/// A key that has rows.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Its index among the keys asked for.
    at: u32,
    id: u64,
    count: u32,
}

impl MultiTable {
    /// An empty table. `keys` may have no columns: all rows are then of one key.
    ///
    /// # Errors
    /// As [`KeyedTable::new`].
    pub fn new(keys: SchemaRef, values: SchemaRef) -> Result<Self> {
        let entry = [Field::new("$id", DataType::UInt64, false), Field::new("$count", DataType::UInt32, false)];
        let place = [Field::new("$id", DataType::UInt64, false), Field::new("$number", DataType::UInt32, false)];
        let mut stored: Vec<FieldRef> = values.fields().to_vec();
        stored.push(Arc::new(Field::new(SEQUENCE, DataType::UInt64, false)));
        Ok(Self {
            keys: KeyedTable::new(keys, Arc::new(Schema::new(entry.to_vec())))?,
            rows: KeyedTable::new(Arc::new(Schema::new(place.to_vec())), Arc::new(Schema::new(stored)))?,
            values,
            next: 0,
            next_installed: 0,
        })
    }

    /// The columns of a key.
    pub fn keys(&self) -> &SchemaRef {
        self.keys.keys()
    }

    /// The columns of the values.
    pub fn values(&self) -> &SchemaRef {
        &self.values
    }

    /// All rows of distinct keys (`rows` of them). Sees what is staged.
    pub fn get(&self, keys: &[ArrayRef], rows: usize) -> Result<FoundRows> {
        let entries = self.entries(keys, rows)?;
        let total = entries.iter().map(|e| e.count as usize).sum();
        let mut found = Vec::with_capacity(total);
        let mut ids = Vec::with_capacity(total);
        let mut numbers = Vec::with_capacity(total);
        for entry in &entries {
            found.resize(found.len() + entry.count as usize, entry.at);
            ids.resize(found.len(), entry.id);
            numbers.extend(0..entry.count);
        }
        let (values, sequences) = self.read(ids.clone(), numbers.clone())?;
        let ids = ids.into_iter().zip(numbers).zip(sequences.values());
        let ids = ids.map(|((key, number), sequence)| RowId { key, number, sequence: *sequence }).collect();
        Ok(FoundRows { keys: found, ids, values })
    }

    /// How many rows each of distinct keys has (`rows` of them). Sees what is staged.
    pub fn counts(&self, keys: &[ArrayRef], rows: usize) -> Result<Vec<u32>> {
        let mut counts = vec![0; rows];
        for entry in self.entries(keys, rows)? {
            if let Some(count) = counts.get_mut(entry.at as usize) {
                *count = entry.count;
            }
        }
        Ok(counts)
    }

    /// Stages new rows (`rows` of them), each with its key: a key may come more than once.
    pub fn insert(&mut self, keys: &[ArrayRef], values: &[ArrayRef], rows: usize) -> Result<()> {
        if rows == 0 {
            return Ok(());
        }
        let (of_row, first) = self.distinct(keys, rows)?;
        let distinct = first.len();
        let keys = if distinct == rows { keys.to_vec() } else { take_arrays(keys, &UInt32Array::from(first), None)? };
        self.insert_rows(&keys, distinct, &of_row, values)
    }

    /// Like [`MultiTable::insert`], where the keys are known to be distinct (`count` of them): a row for each
    /// of `of_row`, which says the key that it belongs to. A key may have no row among them.
    pub fn insert_rows(&mut self, keys: &[ArrayRef], count: usize, of_row: &[u32], values: &[ArrayRef]) -> Result<()> {
        let rows = of_row.len();
        if rows == 0 {
            return Ok(());
        }
        let mut entries: Vec<Option<Entry>> = vec![None; count];
        for entry in self.entries(keys, count)? {
            if let Some(at) = entries.get_mut(entry.at as usize) {
                *at = Some(entry);
            }
        }
        let mut changed = vec![false; count];
        let sequences = self.next..self.next + rows as u64;
        self.next = sequences.end;
        let (mut ids, mut numbers) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        for (at, sequence) in of_row.iter().zip(sequences.clone()) {
            let at = *at as usize;
            let (Some(entry), Some(changed)) = (entries.get_mut(at), changed.get_mut(at)) else {
                return Err(Error::bug("a row of state without a key"));
            };
            *changed = true;
            // The sequence of its first row is a number that no other key can have.
            let entry = entry.get_or_insert(Entry { at: at as u32, id: sequence, count: 0 });
            ids.push(entry.id);
            numbers.push(entry.count);
            entry.count = entry.count.checked_add(1).ok_or_else(|| Error::config("a key of state has 2^32 rows"))?;
        }
        let mut values = values.to_vec();
        values.push(Arc::new(UInt64Array::from_iter_values(sequences)));
        self.rows.put(&place(ids, numbers), &values, rows)?;
        let entries: Vec<Entry> = entries.into_iter().zip(changed).filter_map(|(e, c)| e.filter(|_| c)).collect();
        if entries.len() == count {
            return self.put_entries(keys, &entries);
        }
        self.put_entries(&of_entries(keys, &entries)?, &entries)
    }

    /// Stages new values for rows that are there. They keep their place and their sequence.
    pub fn update(&mut self, ids: &[RowId], values: &[ArrayRef]) -> Result<()> {
        let place = place(ids.iter().map(|i| i.key).collect(), ids.iter().map(|i| i.number).collect());
        let mut values = values.to_vec();
        values.push(Arc::new(UInt64Array::from_iter_values(ids.iter().map(|i| i.sequence))));
        self.rows.put(&place, &values, ids.len())
    }

    /// Stages the removal of rows. `keys` are distinct keys (`rows` of them): those of the rows, in any order,
    /// and maybe others.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Bug`] for a row that is not there, or whose key is not among `keys`.
    pub fn remove(&mut self, keys: &[ArrayRef], rows: usize, ids: &[RowId]) -> Result<()> {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        let mut left = self.entries(keys, rows)?;
        let places: HashMap<u64, usize> = left.iter().enumerate().map(|(place, entry)| (entry.id, place)).collect();
        let (mut holes, mut movers, mut dropped) = (Places::default(), Places::default(), Places::default());
        let mut changed = Vec::new();
        for gone in ids.chunk_by(|a, b| a.key == b.key) {
            let key = gone.first().map_or(0, |g| g.key);
            let entry = places.get(&key).and_then(|place| left.get_mut(*place));
            let Some(entry) = entry.filter(|e| gone.last().is_some_and(|last| last.number < e.count)) else {
                return Err(Error::bug("a row of state was removed that is not there"));
            };
            let before = entry.count;
            entry.count -= gone.len() as u32;
            changed.push(*entry);
            let tail = gone.partition_point(|g| g.number < entry.count);
            let (inside, tail) = gone.split_at(tail);
            let is_gone = |n: &u32| tail.binary_search_by_key(n, |g| g.number).is_ok();
            inside.iter().for_each(|g| holes.push(key, g.number));
            (entry.count..before).filter(|n| !is_gone(n)).for_each(|n| movers.push(key, n));
            (entry.count..before).for_each(|n| dropped.push(key, n));
        }
        if !holes.ids.is_empty() {
            let count = holes.ids.len();
            let (mut values, sequences) = self.read(movers.ids, movers.numbers)?;
            values.push(Arc::new(sequences));
            self.rows.put(&place(holes.ids, holes.numbers), &values, count)?;
        }
        let count = dropped.ids.len();
        self.rows.remove(&place(dropped.ids, dropped.numbers), count)?;
        self.put_counts(keys, changed)
    }

    /// Stages the removal of all rows of distinct keys (`rows` of them). It is no error where there are none.
    pub fn remove_keys(&mut self, keys: &[ArrayRef], rows: usize) -> Result<()> {
        let mut entries = self.entries(keys, rows)?;
        let mut dropped = Places::default();
        for entry in &mut entries {
            (0..entry.count).for_each(|n| dropped.push(entry.id, n));
            entry.count = 0;
        }
        let count = dropped.ids.len();
        self.rows.remove(&place(dropped.ids, dropped.numbers), count)?;
        self.put_counts(keys, entries)
    }

    /// Rows in the installed state.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether the installed state holds no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Keys that have rows, in the installed state.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// Bytes held, with the indexes and what is staged.
    pub fn memory_bytes(&self) -> usize {
        self.keys.memory_bytes() + self.rows.memory_bytes()
    }

    /// Every row of the installed state, in batches: key columns, value columns, then [`SEQUENCE`]. As
    /// [`KeyedTable::scan`].
    pub fn scan(&self) -> impl Iterator<Item = Result<RecordBatch>> + '_ {
        self.join(self.keys.scan(), self.rows.scan())
    }

    /// Like [`MultiTable::scan`], with what is staged.
    pub fn scan_staged(&self) -> impl Iterator<Item = Result<RecordBatch>> + '_ {
        self.join(self.keys.scan_staged(), self.rows.scan_staged())
    }

    /// Every key that has rows, as staged: a batch holds the key columns, and two of our own.
    pub fn scan_keys_staged(&self) -> impl Iterator<Item = Result<RecordBatch>> + '_ {
        self.keys.scan_staged()
    }

    /// What was staged becomes the state.
    pub fn install(&mut self) {
        self.next_installed = self.next;
        self.keys.install();
        self.rows.install();
    }

    /// What was staged is forgotten.
    pub fn discard(&mut self) {
        self.next = self.next_installed;
        self.keys.discard();
        self.rows.discard();
    }

    /// Goes on after a restore: both tables are what they were.
    pub(crate) fn go_on_from(&mut self, next: u64) {
        self.next = next;
        self.next_installed = next;
    }

    /// Those of distinct keys that have rows.
    fn entries(&self, keys: &[ArrayRef], rows: usize) -> Result<Vec<Entry>> {
        let found = self.keys.get(keys, rows)?;
        let [ids, counts] = found.values.as_slice() else { return Err(Error::bug("a key's entry has two columns")) };
        let (ids, counts) = (ids.as_primitive::<UInt64Type>().values(), counts.as_primitive::<UInt32Type>().values());
        let entries = found.rows.iter().zip(ids.iter().zip(counts));
        Ok(entries.map(|(at, (id, count))| Entry { at: *at as u32, id: *id, count: *count }).collect())
    }

    /// The number of each row's key among the distinct ones, in the order of their first rows; and those rows.
    fn distinct(&self, keys: &[ArrayRef], rows: usize) -> Result<(Vec<u32>, Vec<u32>)> {
        let layout = &self.keys.layout;
        let encoded = layout.encoder.encode(&layout.store_keys(keys, rows)?, rows)?;
        let of_row = KeyIndex::new(&layout.encoder).insert_all(&encoded, rows, &mut Vec::new())?;
        let mut first = Vec::new();
        for (row, key) in (0u32..).zip(&of_row) {
            // A new index hands its slots out in order.
            if *key as usize == first.len() {
                first.push(row);
            }
        }
        Ok((of_row, first))
    }

    /// Writes the entries of these keys, all of them.
    fn put_entries(&mut self, keys: &[ArrayRef], entries: &[Entry]) -> Result<()> {
        let ids = UInt64Array::from_iter_values(entries.iter().map(|e| e.id));
        let counts = UInt32Array::from_iter_values(entries.iter().map(|e| e.count));
        self.keys.put(keys, &[Arc::new(ids), Arc::new(counts)], entries.len())
    }

    /// Writes entries whose counts are smaller than before; those without rows go.
    fn put_counts(&mut self, keys: &[ArrayRef], entries: Vec<Entry>) -> Result<()> {
        let (gone, kept): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|e| e.count == 0);
        if !gone.is_empty() {
            self.keys.remove(&of_entries(keys, &gone)?, gone.len())?;
        }
        if kept.is_empty() { Ok(()) } else { self.put_entries(&of_entries(keys, &kept)?, &kept) }
    }

    /// The values and sequences of rows that are there.
    fn read(&self, ids: Vec<u64>, numbers: Vec<u32>) -> Result<(Vec<ArrayRef>, UInt64Array)> {
        let rows = ids.len();
        let mut found = self.rows.get(&place(ids, numbers), rows)?;
        match found.values.pop() {
            Some(sequences) if found.rows.len() == rows => {
                Ok((found.values, sequences.as_primitive::<UInt64Type>().clone()))
            }
            _ => Err(Error::bug("a key of state counts rows that are not there")),
        }
    }

    /// Rows with their keys before them.
    fn join<'a>(
        &self,
        keys: impl Iterator<Item = Result<RecordBatch>> + 'a,
        rows: impl Iterator<Item = Result<RecordBatch>> + 'a,
    ) -> Box<dyn Iterator<Item = Result<RecordBatch>> + 'a> {
        let mut fields: Vec<FieldRef> = self.keys.keys().fields().to_vec();
        fields.extend(self.rows.values().fields().iter().cloned());
        match Owners::of(keys, self.keys.keys().fields().len(), Arc::new(Schema::new(fields))) {
            Ok(owners) => Box::new(rows.map(move |rows| owners.join(&rows?))),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }
}

/// The keys of these entries.
fn of_entries(keys: &[ArrayRef], entries: &[Entry]) -> Result<Vec<ArrayRef>> {
    Ok(take_arrays(keys, &UInt32Array::from_iter_values(entries.iter().map(|e| e.at)), None)?)
}

#[derive(Debug, Default)]
struct Places {
    ids: Vec<u64>,
    numbers: Vec<u32>,
}

impl Places {
    fn push(&mut self, id: u64, number: u32) {
        self.ids.push(id);
        self.numbers.push(number);
    }
}

fn place(ids: Vec<u64>, numbers: Vec<u32>) -> [ArrayRef; 2] {
    [Arc::new(UInt64Array::from(ids)), Arc::new(UInt32Array::from(numbers))]
}

/// The keys of a table, by id.
struct Owners {
    columns: Vec<Vec<ArrayRef>>,
    of: HashMap<u64, (usize, usize)>,
    schema: SchemaRef,
}

impl Owners {
    fn of(keys: impl Iterator<Item = Result<RecordBatch>>, columns: usize, schema: SchemaRef) -> Result<Self> {
        let mut owners = Self { columns: vec![Vec::new(); columns], of: HashMap::new(), schema };
        for (number, batch) in keys.enumerate() {
            let batch = batch?;
            for (to, column) in owners.columns.iter_mut().zip(batch.columns()) {
                to.push(Arc::clone(column));
            }
            let ids = batch.columns().get(columns).map(|c| c.as_primitive::<UInt64Type>().values().to_vec());
            owners.of.extend(ids.unwrap_or_default().into_iter().enumerate().map(|(row, id)| (id, (number, row))));
        }
        Ok(owners)
    }

    fn join(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let ids = rows.columns().first().ok_or_else(|| Error::bug("a row of state has an id"))?;
        let owners = ids.as_primitive::<UInt64Type>().values().iter().map(|id| self.of.get(id).copied());
        let owners = owners.collect::<Option<Vec<_>>>().ok_or_else(|| Error::bug("a row of state has no key"))?;
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for column in &self.columns {
            let parts: Vec<_> = column.iter().map(AsRef::as_ref).collect();
            columns.push(interleave(&parts, &owners)?);
        }
        columns.extend(rows.columns().iter().skip(2).cloned());
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }
}

#[cfg(test)]
mod tests;
