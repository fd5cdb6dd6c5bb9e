//! Segments: immutable runs of rows, and the log of them that a table is.
//!
//! A segment holds key columns, then value columns. Its first rows may be keys that were *removed*; they hide
//! older rows of the same key from whoever replays the log in order. A segment in memory is all there is so
//! far; its columns are read here only, so that a cold one can come to lie on disk.

use std::fmt;
use std::sync::{Arc, OnceLock};

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, MutableArrayData, UInt32Array, make_array, new_empty_array};
use arrow::compute::{interleave, take};
use arrow::datatypes::DataType;
use millstream_core::{Error, Result};

use crate::index::NO_SLOT;
use crate::layout::Layout;

/// Rows (or their weight in bytes) from which on a segment is left alone until it is half dead.
pub(crate) const SEGMENT_WEIGHT: usize = 1 << 16;
/// Bytes that weigh as much as a row.
const BYTES_PER_WEIGHT: usize = 256;

/// Rows that never change.
pub(crate) struct Segment {
    columns: Vec<ArrayRef>,
    /// Rows, with the removed ones.
    pub(crate) rows: usize,
    /// Rows at the start that are removed keys.
    pub(crate) removed: usize,
    /// Bytes of the columns.
    pub(crate) bytes: usize,
    /// Where a checkpoint has stored it.
    pub(crate) saved: OnceLock<Saved>,
}

/// A segment's place in a file of a checkpoint.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    pub(crate) file: Arc<SavedFile>,
    /// The record batch within the file.
    pub(crate) batch: usize,
}

/// A file of segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SavedFile {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) crc32: u32,
}

impl Segment {
    /// Takes columns over as they are.
    pub(crate) fn new(columns: Vec<ArrayRef>, rows: usize, removed: usize) -> Self {
        let bytes = columns.iter().map(|c| buffer_bytes(&c.to_data())).sum();
        Self { columns, rows, removed, bytes, saved: OnceLock::new() }
    }

    /// A segment that was read back: its weight is what it was.
    pub(crate) fn restored(columns: Vec<ArrayRef>, rows: usize, removed: usize, bytes: usize, saved: Saved) -> Self {
        Self { columns, rows, removed, bytes, saved: OnceLock::from(saved) }
    }

    pub(crate) fn columns(&self) -> &[ArrayRef] {
        &self.columns
    }

    /// Rows, or more where they are large.
    pub(crate) fn weight(&self) -> usize {
        self.rows.max(self.bytes / BYTES_PER_WEIGHT)
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, removed, bytes, .. } = self;
        write!(f, "Segment {{ rows: {rows}, removed: {removed}, bytes: {bytes} }}")
    }
}

/// A place in the log: a segment's number in the upper half, a row in the lower.
pub(crate) const NOWHERE: u64 = u64::MAX;

pub(crate) fn place(segment: u32, row: usize) -> u64 {
    u64::from(segment) << 32 | row as u64
}

pub(crate) fn segment_of(place: u64) -> u32 {
    (place >> 32) as u32
}

/// A segment in the log.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) segment: Arc<Segment>,
    /// The slot of each row's key; `NO_SLOT` for a removed key.
    pub(crate) slots: Vec<u32>,
    /// Rows that are their key's newest.
    pub(crate) live: usize,
}

/// The segments of a table. A segment's number is reused when it is gone; `order` is the order of replay.
#[derive(Debug, Default)]
pub(crate) struct SegmentLog {
    held: Vec<Option<Held>>,
    free: Vec<u32>,
    pub(crate) order: Vec<u32>,
}

impl SegmentLog {
    /// Holds a segment all of whose rows, but the removed ones, are live. It is not in the order yet.
    pub(crate) fn hold(&mut self, segment: Arc<Segment>, slots: Vec<u32>) -> Result<u32> {
        let live = segment.rows - segment.removed;
        let held = Some(Held { segment, slots, live });
        if let Some(number) = self.free.pop() {
            if let Some(at) = self.held.get_mut(number as usize) {
                *at = held;
            }
            return Ok(number);
        }
        let number = u32::try_from(self.held.len()).ok().filter(|n| *n != NO_SLOT);
        let number = number.ok_or_else(|| Error::bug("a table of state has 2^32 segments"))?;
        self.held.push(held);
        Ok(number)
    }

    /// The slots of a segment that was held before they were known.
    pub(crate) fn set_slots(&mut self, number: u32, slots: Vec<u32>) {
        if let Some(Some(held)) = self.held.get_mut(number as usize) {
            held.slots = slots;
        }
    }

    /// Puts a held segment into the order, at this position.
    pub(crate) fn order_at(&mut self, position: usize, number: u32) {
        self.order.insert(position.min(self.order.len()), number);
    }

    /// Lets go of segments, in the order or not.
    pub(crate) fn release(&mut self, numbers: &[u32]) {
        for number in numbers {
            if self.held.get_mut(*number as usize).and_then(Option::take).is_some() {
                self.free.push(*number);
                self.order.retain(|n| n != number);
            }
        }
    }

    pub(crate) fn get(&self, number: u32) -> Option<&Held> {
        self.held.get(number as usize)?.as_ref()
    }

    /// A row of this segment is no longer its key's newest. Answers whether the segment has become useless.
    pub(crate) fn bury(&mut self, place: u64) -> bool {
        match self.held.get_mut(segment_of(place) as usize) {
            Some(Some(held)) => {
                held.live = held.live.saturating_sub(1);
                held.live == 0 && held.segment.removed == 0
            }
            _ => false,
        }
    }

    /// These columns at these places.
    pub(crate) fn gather(
        &self,
        layout: &Layout,
        columns: impl Iterator<Item = usize>,
        places: &[u64],
    ) -> Result<Vec<ArrayRef>> {
        let mut dense = vec![NO_SLOT; self.held.len()];
        let mut parts: Vec<&Segment> = Vec::new();
        let mut picks: Vec<(usize, usize)> = Vec::with_capacity(places.len());
        for place in places {
            let number = segment_of(*place);
            let (Some(part), Some(held)) = (dense.get_mut(number as usize), self.get(number)) else {
                return Err(Error::bug("a key of state points at a segment that is gone"));
            };
            if *part == NO_SLOT {
                *part = parts.len() as u32;
                parts.push(&held.segment);
            }
            picks.push((*part as usize, (*place & u64::from(u32::MAX)) as usize));
        }
        pick(layout, columns, &parts, &picks)
    }

    pub(crate) fn bytes(&self) -> usize {
        let rows: usize =
            self.held.iter().flatten().map(|h| h.segment.bytes + h.slots.capacity() * size_of::<u32>()).sum();
        rows + self.held.capacity() * size_of::<Option<Held>>()
    }
}

/// The rows `(part, row)` of these segments, column by column.
pub(crate) fn pick(
    layout: &Layout,
    columns: impl Iterator<Item = usize>,
    parts: &[&Segment],
    picks: &[(usize, usize)],
) -> Result<Vec<ArrayRef>> {
    let lacks = || Error::bug("a segment of state lacks a column");
    let column = |c: usize| -> Result<ArrayRef> {
        let field = layout.stored.fields().get(c).ok_or_else(lacks)?;
        let arrays: Option<Vec<&dyn Array>> = parts.iter().map(|s| s.columns.get(c).map(AsRef::as_ref)).collect();
        match arrays.ok_or_else(lacks)?.as_slice() {
            [] => Ok(new_empty_array(field.data_type())),
            [one] => Ok(take(*one, &UInt32Array::from_iter_values(picks.iter().map(|p| p.1 as u32)), None)?),
            many => Ok(interleave(many, picks)?),
        }
    };
    columns.map(column).collect()
}

/// The same values in memory of their own: a slice of a large batch would keep all of it.
pub(crate) fn own(column: &ArrayRef) -> ArrayRef {
    let data = column.to_data();
    match column.data_type() {
        DataType::Utf8View => {
            let views = column.as_string_view();
            let used = views.total_buffer_bytes_used() + views.len() * 16;
            if is_wasteful(&data, used) { Arc::new(views.gc()) } else { Arc::clone(column) }
        }
        DataType::BinaryView => {
            let views = column.as_binary_view();
            let used = views.total_buffer_bytes_used() + views.len() * 16;
            if is_wasteful(&data, used) { Arc::new(views.gc()) } else { Arc::clone(column) }
        }
        nested if nested.is_nested() => make_array(own_views(copy(&data))),
        _ => match data.get_slice_memory_size() {
            Ok(used) if !is_wasteful(&data, used) => Arc::clone(column),
            _ => make_array(copy(&data)),
        },
    }
}

fn is_wasteful(data: &ArrayData, used: usize) -> bool {
    data.get_buffer_memory_size() > 2 * used + 256
}

fn copy(data: &ArrayData) -> ArrayData {
    let mut to = MutableArrayData::new(vec![data], false, data.len());
    // It fails where offsets overflow, which a copy of what did not overflow cannot do.
    match to.try_extend(0, 0, data.len()) {
        Ok(()) => to.freeze(),
        Err(_) => data.clone(),
    }
}

/// Copies string views that lie within other types.
fn own_views(data: ArrayData) -> ArrayData {
    match data.data_type() {
        DataType::Utf8View | DataType::BinaryView => own(&make_array(data)).to_data(),
        nested if nested.is_nested() => {
            let children = data.child_data().iter().cloned().map(own_views).collect();
            // The children hold the same values as before, so that it cannot fail.
            data.clone().into_builder().child_data(children).build().unwrap_or(data)
        }
        _ => data,
    }
}

fn buffer_bytes(data: &ArrayData) -> usize {
    let buffers: usize = data.buffers().iter().map(|b| b.len()).sum();
    let nulls = data.nulls().map_or(0, |n| n.len().div_ceil(8));
    buffers + nulls + data.child_data().iter().map(buffer_bytes).sum::<usize>()
}
