//! Where the rows of a batch belong: which slot of time, which key.
//!
//! A *slot* is the unit in which a window aggregate keeps its state: a window, named by its end, or a pane,
//! named by its start. A *cell* is one key within one slot: what is aggregated. Cells are numbered slot by
//! slot, in the order of time, so that the state of a slot is one stretch of the columns.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::{take_arrays, take_record_batch};
use datafusion::common::{Result as DfResult, internal_err};
use hashbrown::HashMap;

use super::super::grouping::Grouping;
use crate::window::{WindowKind, WindowSpec};

/// What state is kept by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// By window: a row is given to each of its windows. Right for every aggregate.
    Windows,
    /// By pane: a row is given to one pane, and panes are merged when a window closes. For aggregates whose
    /// states can be merged, where a row is in several windows.
    Panes,
}

/// The cells of a batch.
#[derive(Debug)]
pub struct Cells {
    /// How many there are.
    pub total: usize,
    /// The slots, ascending, with their cells.
    pub slots: Vec<(i64, Range<usize>)>,
    /// The key of each cell.
    pub keys: Vec<ArrayRef>,
    /// For each record batch, the cell of each row.
    pub rows: Vec<Vec<usize>>,
}

impl Cells {
    /// The cells of a batch without rows.
    pub fn none() -> Self {
        Self { total: 0, slots: vec![], keys: vec![], rows: vec![] }
    }
}

/// Collects the rows of a batch.
pub struct CellsBuilder {
    spec: WindowSpec,
    layout: Layout,
    /// Slots in the order in which they were met.
    slots: Vec<i64>,
    places: HashMap<i64, u32>,
    keys: Grouping,
    /// For each record batch, of each row: its slot's place, and its key.
    rows: Vec<(Vec<u32>, Vec<usize>)>,
}

impl CellsBuilder {
    /// No rows yet.
    pub fn new(spec: WindowSpec, layout: Layout, keys: Grouping) -> Self {
        Self { spec, layout, slots: Vec::new(), places: HashMap::new(), keys, rows: Vec::new() }
    }

    /// Puts rows into slots, by their times in microseconds. A row that belongs to several slots is repeated.
    pub fn place(&mut self, batch: &RecordBatch, times: &Int64Array) -> DfResult<(RecordBatch, Vec<u32>)> {
        if times.null_count() > 0 {
            return internal_err!("a row without event time reached a window: it should have been rejected");
        }
        let spec = self.spec;
        let mut places = Vec::with_capacity(times.len());
        // Times come nearly in order: most rows belong where the one before them does.
        let (mut from, mut to, mut place) = (0, 0, 0);
        match (self.layout, spec.kind) {
            (Layout::Windows, WindowKind::Tumble { .. }) => {
                for t in times.values() {
                    if *t < from || *t >= to {
                        (from, to) = (spec.pane_of(*t), spec.first_end(*t));
                        place = self.slot(to);
                    }
                    places.push(place);
                }
            }
            (Layout::Panes, _) => {
                for t in times.values() {
                    if *t < from || *t >= to {
                        from = spec.pane_of(*t);
                        to = from.saturating_add(spec.pane_us());
                        place = self.slot(from);
                    }
                    places.push(place);
                }
            }
            (Layout::Windows, _) => {
                let mut repeated = Vec::with_capacity(times.len());
                for (row, t) in (0u32..).zip(times.values()) {
                    for (_, end) in spec.windows_of(*t) {
                        places.push(self.slot(end));
                        repeated.push(row);
                    }
                }
                return Ok((take_record_batch(batch, &UInt32Array::from(repeated))?, places));
            }
        }
        Ok((batch.clone(), places))
    }

    /// Adds the rows of a record batch, which were placed, with their keys.
    pub fn push(&mut self, places: Vec<u32>, keys: &[ArrayRef]) -> DfResult<()> {
        let keys = self.keys.intern(keys, places.len())?;
        self.rows.push((places, keys));
        Ok(())
    }

    fn slot(&mut self, slot: i64) -> u32 {
        let next = self.slots.len() as u32;
        let place = *self.places.entry(slot).or_insert(next);
        if place == next {
            self.slots.push(slot);
        }
        place
    }

    /// Numbers the cells.
    pub fn build(self) -> DfResult<Cells> {
        let keys = self.keys.len();
        if let [slot] = self.slots[..] {
            // All rows lie in one slot: a cell is a key.
            let rows = self.rows.into_iter().map(|(_, keys)| keys).collect();
            return Ok(Cells { total: keys, slots: vec![(slot, 0..keys)], keys: self.keys.keys()?, rows });
        }
        let count = self.rows.iter().map(|(places, _)| places.len()).sum::<usize>();
        let mut numbers = Numbers::new(self.slots.len(), keys, count);
        // The slot and key of each cell, as they are met.
        let mut cells: Vec<(u32, usize)> = Vec::new();
        let mut rows: Vec<Vec<usize>> = Vec::with_capacity(self.rows.len());
        for (places, row_keys) in &self.rows {
            let of_row = |(place, key): (&u32, &usize)| {
                let cell = numbers.of(*place, *key, cells.len());
                if cell == cells.len() {
                    cells.push((*place, *key));
                }
                cell
            };
            rows.push(places.iter().zip(row_keys).map(of_row).collect());
        }
        let mut order: Vec<usize> = (0..cells.len()).collect();
        let slot_of = |cell: &usize| cells.get(*cell).and_then(|(place, _)| self.slots.get(*place as usize)).copied();
        order.sort_by_key(slot_of);
        let mut renumbered = vec![0; order.len()];
        let mut slots: Vec<(i64, Range<usize>)> = Vec::with_capacity(self.slots.len());
        for (number, cell) in order.iter().enumerate() {
            if let Some(renumbered) = renumbered.get_mut(*cell) {
                *renumbered = number;
            }
            let slot = slot_of(cell).unwrap_or_default();
            match slots.last_mut() {
                Some((last, range)) if *last == slot => range.end = number + 1,
                _ => slots.push((slot, number..number + 1)),
            }
        }
        for row in rows.iter_mut().flatten() {
            *row = renumbered.get(*row).copied().unwrap_or_default();
        }
        let key_of = |cell: &usize| cells.get(*cell).map_or(0, |(_, key)| *key as u64);
        let taken = UInt64Array::from_iter_values(order.iter().map(key_of));
        Ok(Cells { total: order.len(), slots, keys: take_arrays(&self.keys.keys()?, &taken, None)?, rows })
    }
}

/// Numbers pairs of slot and key: in a matrix where most of it is used, else in a map.
enum Numbers {
    Matrix { keys: usize, cells: Vec<u32> },
    Map(HashMap<(u32, usize), usize>),
}

impl Numbers {
    fn new(slots: usize, keys: usize, rows: usize) -> Self {
        match slots.checked_mul(keys) {
            Some(size) if size <= rows.saturating_mul(4) + 1024 => Self::Matrix { keys, cells: vec![u32::MAX; size] },
            _ => Self::Map(HashMap::with_capacity(rows.min(1 << 16))),
        }
    }

    /// The number of a cell: `next` where it has none yet.
    fn of(&mut self, place: u32, key: usize, next: usize) -> usize {
        match self {
            Self::Matrix { keys, cells } => match cells.get_mut(place as usize * *keys + key) {
                Some(cell) => {
                    if *cell == u32::MAX {
                        *cell = next as u32;
                    }
                    *cell as usize
                }
                None => next,
            },
            Self::Map(cells) => *cells.entry((place, key)).or_insert(next),
        }
    }
}
