//! The rows that later frames look back at, in pages of a partition.
//!
//! ```text
//! kept    ($partition, $page) -> the rows of the page, as a list
//! ```
//!
//! The rows of a partition are numbered as they come. Page `p` holds those from `64 p` on, as far as a frame can still
//! reach them; the first rows, where a function asks for them, have a page of their own. A batch writes the rows that
//! are new (and those of the page that they go on with), and removes the pages that no frame reaches any more: what is
//! between is not touched.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, ListArray, MutableArrayData, StructArray, UInt64Array, make_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields, Schema};
use datafusion::common::{Result as DfResult, internal_datafusion_err, internal_err};
use millstream_state::{Changes, KeyedTable, Restored, TableInfo};

use super::super::changes::state_error;

/// Rows of a page, at most: what a batch of one row writes again.
const PAGE: usize = 64;

/// The page of the first rows of a partition.
const HEAD: u64 = u64::MAX;

/// The name of the table within its operator.
const TABLE: &str = "kept";

/// Which rows of a partition are kept: the first ones, and those from `from` on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The partition's number.
    pub id: u64,
    /// How many rows came.
    pub rows: usize,
    /// The first one that a frame can reach, beside the first rows of the partition.
    pub from: usize,
}

/// The rows that are kept.
#[derive(Debug)]
pub struct Pages {
    table: KeyedTable,
    fields: Fields,
    /// How many of the first rows are kept.
    head: usize,
}

/// Rows of some partitions, one after the other: a column for each that is kept.
pub struct Kept {
    pub columns: Vec<ArrayRef>,
    /// The rows of each partition, in pieces: stretches of `columns`.
    pub pieces: Vec<Vec<Range<usize>>>,
}

/// What becomes of a partition: where it was, where it is now, and where its rows are: those that were kept and the new
/// ones, from this place of some columns on.
pub struct Moved {
    pub before: Span,
    pub after: Span,
    pub start: usize,
}

impl Pages {
    /// No rows; they have these columns. Of each partition the first `head` rows are kept.
    pub fn try_new(fields: Fields, head: usize) -> DfResult<Self> {
        let number = |name: &str| Field::new(name, DataType::UInt64, false);
        let keys = Arc::new(Schema::new(vec![number("$partition"), number("$page")]));
        let item = Arc::new(Field::new_list_field(DataType::Struct(fields.clone()), true));
        let values = Arc::new(Schema::new(vec![Field::new("$rows", DataType::List(item), true)]));
        Ok(Self { table: KeyedTable::new(keys, values).map_err(state_error)?, fields, head })
    }

    /// The rows that are kept of these partitions.
    pub fn read(&self, spans: &[Span]) -> DfResult<Kept> {
        let (mut keys, mut wanted) = (Keys::default(), vec![]);
        for (partition, span) in spans.iter().enumerate() {
            if self.head > 0 && span.rows > 0 {
                keys.push(span.id, HEAD);
                wanted.push((partition, 0..self.head.min(span.rows)));
            }
            for page in self.pages(span) {
                keys.push(span.id, page as u64);
                wanted.push((partition, span.from.max(page * PAGE)..span.rows.min((page + 1) * PAGE)));
            }
        }
        let mut pieces = vec![vec![]; spans.len()];
        let found = self.table.get(&keys.columns(), keys.len()).map_err(state_error)?;
        if found.rows.len() != wanted.len() {
            return internal_err!("{} pages of rows are asked for, {} are kept", wanted.len(), found.rows.len());
        }
        let lists = found.values.first().and_then(|c| c.as_list_opt::<i32>());
        let lists = lists.ok_or_else(|| internal_datafusion_err!("rows are kept as lists"))?;
        let rows = lists.values().as_struct_opt();
        let rows = rows.ok_or_else(|| internal_datafusion_err!("what is kept are rows"))?;
        // The rows that are wanted of a page are its last ones.
        for ((partition, numbers), end) in wanted.into_iter().zip(lists.value_offsets().iter().skip(1)) {
            let end = *end as usize;
            let from = end.checked_sub(numbers.len());
            let from = from.ok_or_else(|| internal_datafusion_err!("a page of rows is not whole"))?;
            if let Some(pieces) = pieces.get_mut(partition) {
                pieces.push(from..end);
            }
        }
        Ok(Kept { columns: rows.columns().to_vec(), pieces })
    }

    /// The pages of the rows that are kept, without the first ones.
    fn pages(&self, span: &Span) -> Range<usize> {
        if span.rows > span.from { span.from / PAGE..span.rows.div_ceil(PAGE) } else { 0..0 }
    }

    /// Stages what becomes of partitions: `columns` have their rows.
    pub fn write(&mut self, moved: &[Moved], columns: &[ArrayRef]) -> DfResult<()> {
        let (mut put, mut gone) = (Keys::default(), Keys::default());
        let mut ranges = vec![];
        for Moved { before, after, start } in moved {
            // Where a row lies, by its number.
            let head = self.head.min(before.rows);
            let first = if before.rows >= self.head { before.from } else { before.rows };
            let place = |number: usize| match number < head {
                true => start + number,
                false => start + head + (number - first),
            };
            if before.rows < self.head && after.rows > before.rows {
                put.push(after.id, HEAD);
                ranges.push(place(0)..place(self.head.min(after.rows) - 1) + 1);
            }
            for page in self.pages(before).filter(|page| after.rows.min((page + 1) * PAGE) <= after.from) {
                gone.push(before.id, page as u64);
            }
            let new = Span { from: after.from.max(before.rows / PAGE * PAGE), ..*after };
            for page in self.pages(&new) {
                let (from, to) = (new.from.max(page * PAGE), new.rows.min((page + 1) * PAGE));
                put.push(after.id, page as u64);
                ranges.push(place(from)..place(to - 1) + 1);
            }
        }
        self.table.remove(&gone.columns(), gone.len()).map_err(state_error)?;
        let pages = self.lists(&ranges, columns)?;
        self.table.put(&put.columns(), &[pages], put.len()).map_err(state_error)
    }

    fn lists(&self, ranges: &[Range<usize>], columns: &[ArrayRef]) -> DfResult<ArrayRef> {
        let pieces: Vec<(usize, Range<usize>)> = ranges.iter().map(|range| (0, range.clone())).collect();
        let columns = columns.iter().map(|column| pieced(&[column], &pieces)).collect::<DfResult<_>>()?;
        let rows = StructArray::try_new(self.fields.clone(), columns, None)?;
        let item = Arc::new(Field::new_list_field(DataType::Struct(self.fields.clone()), true));
        let offsets = OffsetBuffer::from_lengths(ranges.iter().map(Range::len));
        Ok(Arc::new(ListArray::try_new(item, offsets, Arc::new(rows), None)?))
    }

    /// Stages that nothing is kept of partitions.
    pub fn forget(&mut self, spans: &[Span]) -> DfResult<()> {
        let mut gone = Keys::default();
        for span in spans {
            if self.head > 0 && span.rows > 0 {
                gone.push(span.id, HEAD);
            }
            self.pages(span).for_each(|page| gone.push(span.id, page as u64));
        }
        self.table.remove(&gone.columns(), gone.len()).map_err(state_error)
    }

    pub fn install(&mut self) {
        self.table.install();
    }

    pub fn discard(&mut self) {
        self.table.discard();
    }

    pub fn capture(&self, changes: Changes) -> Changes {
        changes.keyed(TABLE, &self.table)
    }

    pub fn restore(&mut self, saved: &mut Restored) -> millstream_core::Result<()> {
        saved.keyed(TABLE, &mut self.table)
    }

    pub fn info(&self) -> TableInfo {
        TableInfo::keyed(TABLE, &self.table)
    }
}

/// Keys of pages.
#[derive(Default)]
struct Keys {
    partitions: Vec<u64>,
    pages: Vec<u64>,
}

impl Keys {
    fn push(&mut self, partition: u64, page: u64) {
        self.partitions.push(partition);
        self.pages.push(page);
    }

    fn len(&self) -> usize {
        self.pages.len()
    }

    fn columns(&self) -> [ArrayRef; 2] {
        [&self.partitions, &self.pages].map(|numbers| Arc::new(UInt64Array::from(numbers.clone())) as ArrayRef)
    }
}

/// An array of pieces of others, which are of one type: the number of the array and its rows.
pub fn pieced(arrays: &[&ArrayRef], pieces: &[(usize, Range<usize>)]) -> DfResult<ArrayRef> {
    if let [(array, range)] = pieces
        && let Some(array) = arrays.get(*array)
    {
        return Ok(array.slice(range.start, range.len()));
    }
    let data: Vec<_> = arrays.iter().map(|array| array.to_data()).collect();
    let rows = pieces.iter().map(|(_, range)| range.len()).sum();
    let mut out = MutableArrayData::new(data.iter().collect(), false, rows);
    for (array, range) in pieces {
        out.try_extend(*array, range.start, range.end)?;
    }
    Ok(make_array(out.freeze()))
}

/// Numbers of rows and partitions as a column of the state.
pub fn numbers(of: impl Iterator<Item = usize>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(of.map(|n| i64::try_from(n).unwrap_or(i64::MAX))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps the first `head` rows and the last `tail`, as rows come in batches of these sizes.
    fn keeps(head: usize, tail: usize, batches: &[usize]) {
        let fields = Fields::from(vec![Field::new("n", DataType::Int64, true)]);
        let mut pages = Pages::try_new(fields, head).unwrap();
        let mut span = Span { id: 7, rows: 0, from: head };
        for (number, batch) in batches.iter().enumerate() {
            let kept = pages.read(&[span]).unwrap();
            let values = kept.columns[0].as_primitive::<arrow::datatypes::Int64Type>();
            let mut rows: Vec<i64> =
                kept.pieces[0].iter().flat_map(|piece| values.values()[piece.clone()].to_vec()).collect();
            let reach = span.rows.saturating_sub(tail).max(head);
            let want: Vec<i64> =
                (0..span.rows as i64).filter(|row| (*row as usize) < head || *row as usize >= reach).collect();
            assert_eq!(rows, want, "head {head}, tail {tail}, {batches:?} after {number}");
            rows.extend(span.rows as i64..(span.rows + batch) as i64);
            let all = span.rows + batch;
            let after = Span { rows: all, from: all.saturating_sub(tail).max(head), ..span };
            let column: ArrayRef = Arc::new(Int64Array::from(rows));
            pages.write(&[Moved { before: span, after, start: 0 }], &[column]).unwrap();
            if number % 3 == 2 {
                // A batch that fails leaves the rows as they were.
                pages.discard();
            } else {
                pages.install();
                span = after;
            }
        }
        assert!(pages.info().rows <= tail / PAGE + 3, "{} pages for {tail} rows", pages.info().rows);
        pages.forget(&[span]).unwrap();
        pages.install();
        assert_eq!(pages.info().rows, 0, "head {head}, tail {tail}, {batches:?}");
    }

    #[test]
    fn rows_are_kept_as_long_as_a_frame_reaches_them_and_no_page_is_left_behind() {
        for head in [0, 1, 3, 64, 70] {
            for tail in [0, 1, 5, 63, 64, 65, 200] {
                for batches in [vec![1; 150], vec![10; 40], vec![200, 1, 1, 64, 63, 65, 1], vec![64; 8], vec![2, 500]] {
                    keeps(head, tail, &batches);
                }
            }
        }
    }
}
