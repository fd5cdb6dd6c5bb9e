//! A table with any number of rows a key, on one or more sides: both sides of a join, the rows of a table that is
//! joined with.
//!
//! ```text
//! keys     key -> slot                        one index for all sides
//! lists    slot, side -> rows of the key      ([`crate::lists`])
//! rows     sequence -> values                 a table for each side
//! ```
//!
//! A row's *sequence* is its number over all rows that its side ever got: its name, and the order of a key's rows. Only
//! the rows are stored. They hold their key, among their values where it is one of them; the index and the lists are
//! made anew when a table is restored.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array, UInt64Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, UInt64Type};
use millstream_core::{Error, Result};

use crate::key_set::KeySet;
use crate::keys::Keys;
use crate::lists::{Head, Lists};
use crate::table::KeyedTable;

/// The last column of [`MultiTable::scan`]: when the row came, counted over its side.
pub const SEQUENCE: &str = "$sequence";

/// A row of a [`MultiTable`], under the [`Keys`] by which it was found: good until it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId {
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

/// The rows of one side, as they are declared.
#[derive(Clone, Debug)]
pub struct SideSchema {
    /// The columns of a row.
    pub values: SchemaRef,
    /// For each column of the key the column of the values that is the same, if there is one.
    pub keys: Vec<Option<usize>>,
}

/// Keyed rows: any number of rows a key, equal ones too, on sides that are numbered from 0.
///
/// Keys are equal as in a [`KeyedTable`], changes are staged as there, and a batch reads its own writes.
/// The rows of a key come in the order in which they were inserted.
///
/// Keys are looked up once for all sides ([`MultiTable::find`]); what a batch reads and writes of them is told by what
/// was found.
#[derive(Debug)]
pub struct MultiTable {
    keys: KeySet,
    lists: Lists,
    sides: Vec<Side>,
}

/// The rows of one side.
#[derive(Debug)]
pub(crate) struct Side {
    /// By sequence. The values are those that are declared, then the columns of the key that are not among them.
    pub(crate) rows: KeyedTable,
    values: SchemaRef,
    /// Where each column of the key is among the stored values.
    keys: Vec<usize>,
    /// The column of the key that a value is equal to, bit by bit.
    same: Vec<Option<usize>>,
    /// The sequence of the next row, staged and installed.
    next: u64,
    pub(crate) next_installed: u64,
}

impl MultiTable {
    /// An empty table. `keys` may have no columns: all rows are then of one key.
    ///
    /// # Errors
    /// As [`KeyedTable::new`].
    pub fn new(keys: SchemaRef, sides: Vec<SideSchema>) -> Result<Self> {
        let (lists, keys) = (Lists::new(sides.len()), KeySet::new(keys)?);
        let sides = sides.into_iter().map(|side| Side::new(keys.schema(), side)).collect::<Result<_>>()?;
        Ok(Self { keys, lists, sides })
    }

    /// The columns of a key.
    pub fn keys(&self) -> &SchemaRef {
        self.keys.schema()
    }

    pub(crate) fn sides(&self) -> &[Side] {
        &self.sides
    }

    pub(crate) fn sides_mut(&mut self) -> &mut [Side] {
        &mut self.sides
    }

    fn side(&self, side: usize) -> Result<&Side> {
        self.sides.get(side).ok_or_else(no_side)
    }

    fn side_mut(&mut self, side: usize) -> Result<&mut Side> {
        self.sides.get_mut(side).ok_or_else(no_side)
    }

    /// Looks distinct keys up (`rows` of them). Sees what is staged.
    pub fn find(&self, keys: &[ArrayRef], rows: usize) -> Result<Keys> {
        self.keys.find(keys, rows)
    }

    /// All rows, on one side, of those of the keys that are wanted.
    pub fn get(&self, side: usize, keys: &Keys, wanted: impl Fn(u32) -> bool) -> Result<FoundRows> {
        self.keys.check(keys)?;
        // All heads first: in a large table each is waited for, and these do not depend on each other.
        let at = (0u32..).zip(&keys.slots).filter(|(at, _)| wanted(*at));
        let heads: Vec<(u32, Head)> = at.map(|(at, slot)| (at, self.lists.head(side, *slot))).collect();
        let (mut found, mut ids, mut slots) = (Vec::new(), Vec::new(), Vec::new());
        for (at, head) in &heads {
            let rows = self.lists.rows(head);
            slots.extend_from_slice(rows);
            ids.extend(rows.iter().map(|slot| RowId { at: *at, slot: *slot }));
            found.resize(slots.len(), *at);
        }
        let values = self.side(side)?.values_at(&slots, &found, keys)?;
        Ok(FoundRows { keys: found, ids, values })
    }

    /// How many rows each of the keys has on one side.
    pub fn counts(&self, side: usize, keys: &Keys) -> Result<Vec<u32>> {
        self.keys.check(keys)?;
        Ok(keys.slots.iter().map(|key| self.lists.count(side, *key)).collect())
    }

    /// When each of these rows came: larger than for every row of its side that came before it.
    pub fn sequences(&self, side: usize, ids: &[RowId]) -> Result<Vec<u64>> {
        let column = self.side(side)?.sequences_at(&slots_of(ids))?;
        Ok(column.as_primitive::<UInt64Type>().values().to_vec())
    }

    /// Stages new rows of one side: one for each of `of_row`, which says the key that it belongs to. A key may have
    /// none among them, or several.
    pub fn insert(&mut self, side: usize, keys: &mut Keys, of_row: &[u32], values: &[ArrayRef]) -> Result<()> {
        let rows = of_row.len();
        if rows == 0 {
            return Ok(());
        }
        if of_row.iter().any(|at| *at as usize >= keys.len()) {
            return Err(Error::bug("a row of state without a key"));
        }
        self.keys.insert(keys, of_row)?;
        let held = self.sides.get_mut(side).ok_or_else(no_side)?;
        let slots = held.rows.new_slots(rows)?;
        for (at, slot) in of_row.iter().zip(&slots) {
            self.lists.push(side, keys.slot(*at), *slot)?;
        }
        let mut values = values.to_vec();
        let columns = || keys.columns_of(Some(of_row));
        values.extend(if held.stores_keys() { held.stored_keys(columns()?) } else { vec![] });
        let sequences = held.next..held.next + rows as u64;
        held.next = sequences.end;
        held.rows.write(slots, vec![Arc::new(UInt64Array::from_iter_values(sequences))], &values)
    }

    /// Stages new values for rows of one side that are there. They keep their key, their place and their sequence.
    pub fn update(&mut self, side: usize, ids: &[RowId], values: &[ArrayRef]) -> Result<()> {
        let held = self.side_mut(side)?;
        let slots = slots_of(ids);
        let declared = held.values.fields().len();
        let mut values = values.to_vec();
        values.extend(held.rows.stored_at(1 + declared..1 + held.rows.values().fields().len(), &slots)?);
        let sequences = held.sequences_at(&slots)?;
        held.rows.write(slots, vec![sequences], &values)
    }

    /// Stages the removal of rows of one side that were found by these keys.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Bug`] for a row that is not there.
    pub fn remove(&mut self, side: usize, keys: &Keys, ids: &[RowId]) -> Result<()> {
        self.keys.check(keys)?;
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        for gone in ids.chunk_by(|a, b| a.at == b.at) {
            let key = keys.slot(gone.first().map_or(u32::MAX, |first| first.at));
            let is_gone = |slot: &u32| gone.binary_search_by_key(slot, |row| row.slot).is_ok();
            let head = self.lists.head(side, key);
            let rows = self.lists.rows(&head);
            let kept: Vec<u32> = rows.iter().filter(|slot| !is_gone(slot)).copied().collect();
            if kept.len() + gone.len() != rows.len() {
                return Err(Error::bug("a row of state was removed that is not there"));
            }
            if kept.is_empty() {
                self.keys.may_go(key);
            }
            self.lists.replace(side, key, kept)?;
        }
        self.side_mut(side)?.take_away(slots_of(&ids))
    }

    /// Stages the removal of all rows of keys on one side. It is no error where there are none.
    pub fn remove_keys(&mut self, side: usize, keys: &Keys) -> Result<()> {
        self.keys.check(keys)?;
        let mut gone = Vec::new();
        for key in &keys.slots {
            let head = self.lists.head(side, *key);
            let rows = self.lists.rows(&head);
            if !rows.is_empty() {
                gone.extend_from_slice(rows);
                self.keys.may_go(*key);
                self.lists.replace(side, *key, Vec::new())?;
            }
        }
        self.side_mut(side)?.take_away(gone)
    }

    /// Rows of all sides in the installed state.
    pub fn len(&self) -> usize {
        self.sides.iter().map(|side| side.rows.len()).sum()
    }

    /// Whether the installed state holds no row.
    pub fn is_empty(&self) -> bool {
        self.sides.iter().all(|side| side.rows.is_empty())
    }

    /// Keys that have rows on some side, in the installed state.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// Bytes held, with the index and what is staged.
    pub fn memory_bytes(&self) -> usize {
        self.index_bytes() + self.sides.iter().map(|side| side.rows.memory_bytes()).sum::<usize>()
    }

    /// Bytes of what leads to the rows.
    pub(crate) fn index_bytes(&self) -> usize {
        self.keys.bytes() + self.lists.bytes()
    }

    /// Every row of one side in the installed state, in batches: key columns, value columns, then [`SEQUENCE`]. As
    /// [`KeyedTable::scan`].
    pub fn scan(&self, side: usize) -> impl Iterator<Item = Result<RecordBatch>> + '_ {
        self.sides.get(side).into_iter().flat_map(|held| held.rows.scan().map(|rows| held.shown(&rows?, self.keys())))
    }

    /// Like [`MultiTable::scan`], with what is staged.
    pub fn scan_staged(&self, side: usize) -> impl Iterator<Item = Result<RecordBatch>> + '_ {
        let shown = |held: &Side, rows: Result<RecordBatch>| held.shown(&rows?, self.keys());
        self.sides.get(side).into_iter().flat_map(move |held| held.rows.scan_staged().map(move |r| shown(held, r)))
    }

    /// What was staged becomes the state.
    pub fn install(&mut self) {
        for side in &mut self.sides {
            side.next_installed = side.next;
            side.rows.install();
        }
        self.lists.install();
        self.keys.install(|key| self.lists.is_bare(key));
    }

    /// What was staged is forgotten.
    pub fn discard(&mut self) {
        for side in &mut self.sides {
            side.next = side.next_installed;
            side.rows.discard();
        }
        self.lists.discard();
        self.keys.discard();
    }
}

impl Side {
    fn new(keys: &SchemaRef, side: SideSchema) -> Result<Self> {
        let SideSchema { values, keys: among } = side;
        let mut stored: Vec<FieldRef> = values.fields().to_vec();
        let (mut at, mut same) = (Vec::new(), vec![None; stored.len()]);
        for (number, key) in keys.fields().iter().enumerate() {
            let value = among.get(number).copied().flatten();
            let value = value.filter(|v| values.fields().get(*v).is_some_and(|f| f.data_type() == key.data_type()));
            at.push(value.unwrap_or(stored.len()));
            match value.and_then(|value| same.get_mut(value)) {
                Some(same) => *same = is_told_by_key(key.data_type()).then_some(number),
                None => stored.push(Arc::clone(key)),
            }
        }
        let name = Schema::new(vec![Field::new(SEQUENCE, DataType::UInt64, false)]);
        let mut rows = KeyedTable::new(Arc::new(name), Arc::new(Schema::new(stored)))?;
        rows.index.forget_keys();
        Ok(Self { rows, values, keys: at, same, next: 0, next_installed: 0 })
    }

    /// Whether rows hold columns of their key beside their values.
    fn stores_keys(&self) -> bool {
        self.rows.values().fields().len() > self.values.fields().len()
    }

    /// Of the columns of keys, those that are held beside the values.
    fn stored_keys(&self, keys: Vec<ArrayRef>) -> Vec<ArrayRef> {
        let beside = |at: &usize| *at >= self.values.fields().len();
        keys.into_iter().zip(&self.keys).filter(|(_, at)| beside(at)).map(|(key, _)| key).collect()
    }

    fn sequences_at(&self, slots: &[u32]) -> Result<ArrayRef> {
        let column = self.rows.stored_at(0..1, slots)?.pop();
        column
            .filter(|c| *c.data_type() == DataType::UInt64)
            .ok_or_else(|| Error::bug("a row of state has no sequence"))
    }

    /// The values of rows; `of_row` says which of the keys each belongs to.
    fn values_at(&self, slots: &[u32], of_row: &[u32], keys: &Keys) -> Result<Vec<ArrayRef>> {
        let there = (1usize..).zip(&self.same).filter(|(_, same)| same.is_none()).map(|(at, _)| at);
        let mut there = self.rows.stored_at(there, slots)?.into_iter();
        let of_row = UInt32Array::from(of_row.to_vec());
        let column = |(value, same): (usize, &Option<usize>)| {
            let stored = match same.and_then(|key| keys.columns.get(key)) {
                // The key was read already; the row, as a rule, is far away.
                Some(key) => take(key, &of_row, None)?,
                None => there.next().ok_or_else(|| Error::bug("a row of state lacks a value"))?,
            };
            self.rows.layout.show_value(value, stored)
        };
        self.same.iter().enumerate().map(column).collect()
    }

    /// Stages that rows go.
    fn take_away(&mut self, slots: Vec<u32>) -> Result<()> {
        if slots.is_empty() {
            return Ok(());
        }
        let sequences = self.sequences_at(&slots)?;
        self.rows.take_away(slots, vec![sequences])
    }

    /// Stored rows with their keys before them.
    fn shown(&self, rows: &RecordBatch, keys: &SchemaRef) -> Result<RecordBatch> {
        let declared = self.values.fields().len();
        let mut fields: Vec<FieldRef> = keys.fields().to_vec();
        fields.extend(self.values.fields().iter().cloned());
        fields.extend(rows.schema_ref().fields().first().cloned());
        let columns = self.keys.iter().map(|at| at + 1).chain(1..=declared).chain([0]);
        let columns: Option<Vec<ArrayRef>> = columns.map(|at| rows.columns().get(at).cloned()).collect();
        let columns = columns.ok_or_else(|| Error::bug("a row of state lacks a column"))?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?)
    }
}

/// Whether values of this type that are equal as keys are equal in every bit.
fn is_told_by_key(data_type: &DataType) -> bool {
    use DataType::{Binary, BinaryView, LargeBinary, LargeUtf8, Utf8, Utf8View};
    match data_type {
        DataType::Boolean | Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView => true,
        other => other.is_integer() || other.is_temporal() || other.is_decimal(),
    }
}

fn no_side() -> Error {
    Error::bug("a side that a table of state does not have")
}

fn slots_of(ids: &[RowId]) -> Vec<u32> {
    ids.iter().map(|row| row.slot).collect()
}

mod restore;
#[cfg(test)]
mod tests;
