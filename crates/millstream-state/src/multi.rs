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
//! leaves no hole: the last row of the key takes its number. Each row keeps the *sequence* that it got when it
//! came, which tells the order of insertion over the whole table.
//!
//! The rows are not looked up: [`crate::lists`] knows the rows of each key. It is made anew when a table is
//! restored.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array, UInt64Array};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, UInt64Type};
use hashbrown::HashMap;
use millstream_core::{Error, Result};

use crate::keys::Keys;
use crate::lists::Lists;
use crate::table::KeyedTable;

/// The last column of [`MultiTable::scan`]: when the row came, counted over the table.
pub const SEQUENCE: &str = "$sequence";

/// A row of a [`MultiTable`], under the [`Keys`] by which it was found: good until the next change of its key's
/// rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId {
    key: u64,
    number: u32,
    /// Its key among those that were looked up.
    at: u32,
    slot: u32,
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
/// [`MultiTable::sequences`] for the order in which they came.
///
/// Keys are looked up once ([`MultiTable::find`]); what a batch reads and writes of them is told by what was found.
#[derive(Debug)]
pub struct MultiTable {
    pub(crate) keys: KeyedTable,
    pub(crate) rows: KeyedTable,
    lists: Lists,
    values: SchemaRef,
    /// The sequence of the next row, staged and installed.
    next: u64,
    pub(crate) next_installed: u64,
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
        let mut rows = KeyedTable::new(Arc::new(Schema::new(place.to_vec())), Arc::new(Schema::new(stored)))?;
        rows.index.forget_keys();
        Ok(Self {
            keys: KeyedTable::new(keys, Arc::new(Schema::new(entry.to_vec())))?,
            rows,
            lists: Lists::new(),
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

    /// Looks distinct keys up (`rows` of them). Sees what is staged.
    pub fn find(&self, keys: &[ArrayRef], rows: usize) -> Result<Keys> {
        self.keys.find(keys, rows)
    }

    /// All rows of those of the keys that are wanted.
    pub fn get(&self, keys: &Keys, wanted: impl Fn(u32) -> bool) -> Result<FoundRows> {
        keys.check(self.keys.epoch())?;
        let (mut found, mut ids, mut slots) = (Vec::new(), Vec::new(), Vec::new());
        for (at, key) in (0u32..).zip(&keys.slots).filter(|(at, _)| wanted(*at)) {
            let rows = self.lists.rows(*key);
            if rows.is_empty() {
                continue;
            }
            let id = self.lists.id(*key);
            ids.extend((0u32..).zip(rows).map(|(number, slot)| RowId { key: id, number, at, slot: *slot }));
            slots.extend(rows);
            found.resize(slots.len(), at);
        }
        let values = self.rows.values_at(0..self.values.fields().len(), &slots)?;
        Ok(FoundRows { keys: found, ids, values })
    }

    /// How many rows each of the keys has.
    pub fn counts(&self, keys: &Keys) -> Result<Vec<u32>> {
        keys.check(self.keys.epoch())?;
        Ok(keys.slots.iter().map(|key| self.lists.count(*key)).collect())
    }

    /// When each of these rows came: larger than for every row that came before it.
    pub fn sequences(&self, ids: &[RowId]) -> Result<Vec<u64>> {
        let column = self.values.fields().len();
        let columns = self.rows.values_at(column..column + 1, &slots_of(ids))?;
        let sequences = columns.first().and_then(|c| c.as_primitive_opt::<UInt64Type>());
        Ok(sequences.ok_or_else(|| Error::bug("a row of state has no sequence"))?.values().to_vec())
    }

    /// Stages new rows: one for each of `of_row`, which says the key that it belongs to. A key may have none among
    /// them, or several.
    pub fn insert(&mut self, keys: &mut Keys, of_row: &[u32], values: &[ArrayRef]) -> Result<()> {
        let rows = of_row.len();
        if rows == 0 {
            return Ok(());
        }
        let mut has_new = vec![false; keys.len()];
        for at in of_row {
            *has_new.get_mut(*at as usize).ok_or_else(|| Error::bug("a row of state without a key"))? = true;
        }
        let picks: Vec<u32> = (0u32..).zip(has_new).filter(|(_, new)| *new).map(|(at, _)| at).collect();
        self.keys.insert_at(keys, Some(&picks))?;
        let sequences = self.next..self.next + rows as u64;
        self.next = sequences.end;
        let slots = self.rows.new_slots(rows)?;
        let mut places = Places::default();
        for ((at, slot), sequence) in of_row.iter().zip(&slots).zip(sequences.clone()) {
            let key = keys.slot(*at);
            let number = self.lists.count(key);
            if number == 0 {
                // The sequence of its first row is a number that no other key can have.
                self.lists.name(key, sequence);
            }
            places.push(self.lists.id(key), number);
            self.lists.push(key, *slot)?;
        }
        let mut values = values.to_vec();
        values.push(Arc::new(UInt64Array::from_iter_values(sequences)));
        self.rows.write(slots, places.columns(), &values)?;
        self.put_entries(keys, &picks)
    }

    /// Stages new values for rows that are there. They keep their place and their sequence.
    pub fn update(&mut self, ids: &[RowId], values: &[ArrayRef]) -> Result<()> {
        let mut values = values.to_vec();
        values.push(Arc::new(UInt64Array::from(self.sequences(ids)?)));
        self.rows.write(slots_of(ids), ids.iter().collect::<Places>().columns(), &values)
    }

    /// Stages the removal of rows that were found by these keys.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Bug`] for a row that is not there.
    pub fn remove(&mut self, keys: &mut Keys, ids: &[RowId]) -> Result<()> {
        keys.check(self.keys.epoch())?;
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        let (mut holes, mut movers, mut dropped) = (Vec::new(), Vec::new(), Vec::new());
        let mut changed = Vec::new();
        for gone in ids.chunk_by(|a, b| a.key == b.key) {
            let [first, ..] = gone else { continue };
            let (at, key) = (first.at, keys.slot(first.at));
            let rows = self.lists.rows(key);
            let is_there = |row: &RowId| rows.get(row.number as usize) == Some(&row.slot) && row.at == at;
            if self.lists.id(key) != first.key || !gone.iter().all(is_there) {
                return Err(Error::bug("a row of state was removed that is not there"));
            }
            let left = rows.len() - gone.len();
            let tail = gone.partition_point(|g| (g.number as usize) < left);
            let (inside, tail) = gone.split_at(tail);
            let row = |(number, slot): (u32, &u32)| RowId { number, slot: *slot, ..*first };
            let last: Vec<RowId> = (0u32..).zip(rows).skip(left).map(row).collect();
            let is_gone = |row: &&RowId| tail.binary_search_by_key(&row.number, |g| g.number).is_ok();
            holes.extend(inside);
            movers.extend(last.iter().filter(|row| !is_gone(row)));
            dropped.extend(&last);
            changed.push(at);
            last.iter().for_each(|_| _ = self.lists.pop(key));
        }
        if !holes.is_empty() {
            let values = self.rows.values_at(0..self.values.fields().len() + 1, &slots_of(&movers))?;
            self.rows.write(slots_of(&holes), holes.iter().collect::<Places>().columns(), &values)?;
        }
        self.drop_rows(keys, &dropped, changed)
    }

    /// Stages the removal of all rows of keys. It is no error where there are none.
    pub fn remove_keys(&mut self, keys: &mut Keys) -> Result<()> {
        keys.check(self.keys.epoch())?;
        let (mut dropped, mut changed) = (Vec::new(), Vec::new());
        for (at, key) in (0u32..).zip(&keys.slots) {
            let id = self.lists.id(*key);
            let rows = (0u32..).zip(self.lists.rows(*key));
            dropped.extend(rows.map(|(number, slot)| RowId { key: id, number, at, slot: *slot }));
            while self.lists.pop(*key).is_some() {
                if changed.last() != Some(&at) {
                    changed.push(at);
                }
            }
        }
        self.drop_rows(keys, &dropped, changed)
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
        self.keys.memory_bytes() + self.rows.memory_bytes() + self.lists.bytes()
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
        self.lists.install();
    }

    /// What was staged is forgotten.
    pub fn discard(&mut self) {
        self.next = self.next_installed;
        self.keys.discard();
        self.rows.discard();
        self.lists.discard();
    }

    /// Goes on after a restore: both tables are what they were, and the rows are still looked up.
    pub(crate) fn go_on_from(&mut self, next: u64) -> Result<()> {
        self.next = next;
        self.next_installed = next;
        self.lists = Lists::restored(&self.keys, &self.rows)?;
        self.rows.index.forget_keys();
        Ok(())
    }

    /// Stages that rows go, of keys whose lists have shrunk already.
    fn drop_rows(&mut self, keys: &mut Keys, dropped: &[RowId], changed: Vec<u32>) -> Result<()> {
        if dropped.is_empty() {
            return Ok(());
        }
        self.rows.take_away(slots_of(dropped), dropped.iter().collect::<Places>().columns())?;
        let (gone, kept): (Vec<u32>, Vec<u32>) =
            changed.into_iter().partition(|at| self.lists.count(keys.slot(*at)) == 0);
        if !gone.is_empty() {
            self.keys.remove_at(keys, Some(&gone))?;
        }
        if kept.is_empty() { Ok(()) } else { self.put_entries(keys, &kept) }
    }

    /// Writes the entries of these keys, which have rows.
    fn put_entries(&mut self, keys: &mut Keys, picks: &[u32]) -> Result<()> {
        let of = |at: &u32| keys.slot(*at);
        let ids = UInt64Array::from_iter_values(picks.iter().map(|at| self.lists.id(of(at))));
        let counts = UInt32Array::from_iter_values(picks.iter().map(|at| self.lists.count(of(at))));
        self.keys.put_at(keys, Some(picks), &[Arc::new(ids), Arc::new(counts)])
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

fn slots_of(ids: &[RowId]) -> Vec<u32> {
    ids.iter().map(|row| row.slot).collect()
}

/// The keys of rows.
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

    fn columns(self) -> Vec<ArrayRef> {
        vec![Arc::new(UInt64Array::from(self.ids)), Arc::new(UInt32Array::from(self.numbers))]
    }
}

impl<'a> FromIterator<&'a RowId> for Places {
    fn from_iter<I: IntoIterator<Item = &'a RowId>>(rows: I) -> Self {
        let mut places = Self::default();
        rows.into_iter().for_each(|row| places.push(row.key, row.number));
        places
    }
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
