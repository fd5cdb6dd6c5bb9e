//! Keyed rows by pane: an ordered map from a pane (a window's end, say) to a table that is dropped whole.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_empty_array};
use arrow::datatypes::SchemaRef;
use millstream_core::{Error, Result};

use crate::keys::{Epoch, Keys};
use crate::layout::Layout;
use crate::table::{Found, KeyedTable};

/// An ordered map from pane to [`KeyedTable`]. Panes come to be by `put` and go by `drop_below`, both
/// staged like the rows themselves.
#[derive(Debug)]
pub struct PanedTable {
    pub(crate) layout: Arc<Layout>,
    panes: BTreeMap<i64, KeyedTable>,
    /// Panes that this batch has changed.
    changed: BTreeSet<i64>,
    /// Panes that this batch has made.
    new: BTreeSet<i64>,
    /// Panes below this one are dropped by this batch.
    floor: Option<i64>,
}

impl PanedTable {
    /// No panes. `keys` may have no columns: a pane then has at most one row.
    ///
    /// # Errors
    /// As [`KeyedTable::new`].
    pub fn new(keys: SchemaRef, values: SchemaRef) -> Result<Self> {
        Ok(Self::with_panes(Arc::new(Layout::new(keys, values)?), BTreeMap::new()))
    }

    pub(crate) fn with_panes(layout: Arc<Layout>, panes: BTreeMap<i64, KeyedTable>) -> Self {
        Self { layout, panes, changed: BTreeSet::new(), new: BTreeSet::new(), floor: None }
    }

    /// The columns of a key, without the pane.
    pub fn keys(&self) -> &SchemaRef {
        &self.layout.keys
    }

    /// The columns of the values.
    pub fn values(&self) -> &SchemaRef {
        &self.layout.values
    }

    /// As [`KeyedTable::find`], within a pane.
    pub fn find(&self, pane: i64, keys: &[ArrayRef], rows: usize) -> Result<Keys> {
        match self.pane(pane) {
            Some(table) => table.find(keys, rows),
            None => self.layout.keys_of(keys, rows, Epoch::default()),
        }
    }

    /// As [`KeyedTable::read`], within a pane.
    pub fn read(&self, pane: i64, keys: &Keys) -> Result<Found> {
        match self.pane(pane) {
            Some(table) => table.read(keys),
            None => {
                let values = self.layout.values.fields().iter().map(|f| new_empty_array(f.data_type())).collect();
                Ok(Found { rows: Vec::new(), values })
            }
        }
    }

    /// As [`KeyedTable::get`], within a pane.
    pub fn get(&self, pane: i64, keys: &[ArrayRef], rows: usize) -> Result<Found> {
        self.read(pane, &self.find(pane, keys, rows)?)
    }

    /// As [`KeyedTable::put`], within a pane.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Bug`] for a pane that the same batch has dropped.
    pub fn put(&mut self, pane: i64, keys: &[ArrayRef], values: &[ArrayRef], rows: usize) -> Result<()> {
        self.pane_to_change(pane)?.put(keys, values, rows)
    }

    /// As [`KeyedTable::put_at`], within a pane.
    ///
    /// # Errors
    /// As [`PanedTable::put`].
    pub fn put_at(&mut self, pane: i64, keys: &mut Keys, picks: Option<&[u32]>, values: &[ArrayRef]) -> Result<()> {
        self.pane_to_change(pane)?.put_at(keys, picks, values)
    }

    /// A pane that is there or comes to be.
    fn pane_to_change(&mut self, pane: i64) -> Result<&mut KeyedTable> {
        if let Some(floor) = self.floor.filter(|floor| pane < *floor) {
            return Err(Error::bug(format!("a row for pane {pane}, when panes below {floor} were dropped")));
        }
        self.changed.insert(pane);
        Ok(self.panes.entry(pane).or_insert_with(|| {
            self.new.insert(pane);
            KeyedTable::with_layout(Arc::clone(&self.layout))
        }))
    }

    /// As [`KeyedTable::remove`], within a pane.
    pub fn remove(&mut self, pane: i64, keys: &[ArrayRef], rows: usize) -> Result<()> {
        match self.panes.get_mut(&pane) {
            Some(table) if self.floor.is_none_or(|floor| pane >= floor) => {
                self.changed.insert(pane);
                table.remove(keys, rows)
            }
            _ => Ok(()),
        }
    }

    /// As [`KeyedTable::remove_at`], within a pane.
    pub fn remove_at(&mut self, pane: i64, keys: &Keys, picks: Option<&[u32]>) -> Result<()> {
        match self.panes.get_mut(&pane) {
            Some(table) if self.floor.is_none_or(|floor| pane >= floor) => {
                self.changed.insert(pane);
                table.remove_at(keys, picks)
            }
            _ => Ok(()),
        }
    }

    /// The panes of a range, ascending, as staged: with the new ones, without the dropped ones.
    /// [`KeyedTable::scan_staged`] reads their rows.
    pub fn panes(&self, range: impl RangeBounds<i64>) -> impl DoubleEndedIterator<Item = (i64, &KeyedTable)> {
        let low = match range.start_bound() {
            Bound::Included(low) => Some(*low),
            Bound::Excluded(low) => low.checked_add(1),
            Bound::Unbounded => Some(i64::MIN),
        };
        let high = match range.end_bound() {
            Bound::Included(high) => Some(*high),
            Bound::Excluded(high) => high.checked_sub(1),
            Bound::Unbounded => Some(i64::MAX),
        };
        let low = low.map(|low| low.max(self.floor.unwrap_or(i64::MIN)));
        let range = low.zip(high).filter(|(low, high)| low <= high);
        range.into_iter().flat_map(|(low, high)| self.panes.range(low..=high)).map(|(pane, table)| (*pane, table))
    }

    /// One pane, as staged.
    pub fn pane(&self, pane: i64) -> Option<&KeyedTable> {
        self.panes.get(&pane).filter(|_| self.floor.is_none_or(|floor| pane >= floor))
    }

    /// Stages the removal of every pane below this one.
    pub fn drop_below(&mut self, pane: i64) {
        self.floor = self.floor.max(Some(pane));
    }

    /// Keys in the installed state, over all panes.
    pub fn len(&self) -> usize {
        self.panes.values().map(KeyedTable::len).sum()
    }

    /// Whether the installed state holds no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held, with the indexes and what is staged.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.panes.values().map(KeyedTable::memory_bytes).sum::<usize>()
    }

    /// The installed state, pane by pane, ascending: as [`KeyedTable::scan`].
    pub fn scan(&self) -> impl Iterator<Item = Result<(i64, RecordBatch)>> + '_ {
        self.panes.iter().flat_map(|(pane, table)| table.scan().map(|batch| Ok((*pane, batch?))))
    }

    /// The panes of the installed state.
    pub(crate) fn installed(&self) -> impl Iterator<Item = (i64, &KeyedTable)> {
        self.panes.iter().filter(|(pane, _)| !self.new.contains(pane)).map(|(pane, table)| (*pane, table))
    }

    /// What was staged becomes the state.
    pub fn install(&mut self) {
        if let Some(floor) = self.floor.take() {
            self.panes = self.panes.split_off(&floor);
        }
        for pane in std::mem::take(&mut self.changed) {
            if let Some(table) = self.panes.get_mut(&pane) {
                table.install();
                if table.is_bare() {
                    self.panes.remove(&pane);
                }
            }
        }
        self.new.clear();
    }

    /// What was staged is forgotten.
    pub fn discard(&mut self) {
        self.floor = None;
        for pane in std::mem::take(&mut self.changed) {
            if self.new.contains(&pane) {
                self.panes.remove(&pane);
            } else if let Some(table) = self.panes.get_mut(&pane) {
                table.discard();
            }
        }
        self.new.clear();
    }
}
