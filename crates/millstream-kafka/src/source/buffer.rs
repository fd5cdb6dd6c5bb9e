//! What was fetched of a partition and not yet released: pure bookkeeping, no client.
//!
//! A [`Buffer`] holds every committed record from `start` to `position`, without a gap. Offsets that are missing in
//! between are of control records and of aborted transactions, or were compacted away.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// The records of one partition that came together. Never changed.
#[derive(Debug, Default)]
pub(super) struct Block {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    offset: u64,
    timestamp_ms: Option<i64>,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: Headers,
}

/// A record's headers, in its order.
pub(super) type Headers = Vec<(String, Option<Vec<u8>>)>;

/// A record within a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored<'a> {
    pub(super) offset: u64,
    pub(super) timestamp_ms: Option<i64>,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: &'a Headers,
}

impl Block {
    /// Appends a record.
    pub(super) fn push(
        &mut self,
        offset: u64,
        timestamp_ms: Option<i64>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: Headers,
    ) {
        let mut keep = |part: Option<&[u8]>| {
            part.map(|part| {
                let start = self.bytes.len();
                self.bytes.extend_from_slice(part);
                start..self.bytes.len()
            })
        };
        let (key, value) = (keep(key), keep(value));
        self.entries.push(Entry { offset, timestamp_ms, key, value, headers });
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn last_offset(&self) -> Option<u64> {
        self.entries.last().map(|entry| entry.offset)
    }

    /// The record of this number.
    pub(super) fn get(&self, at: usize) -> Option<Stored<'_>> {
        let Entry { offset, timestamp_ms, key, value, headers } = self.entries.get(at)?;
        let part = |span: &Option<Range<usize>>| span.clone().and_then(|span| self.bytes.get(span));
        Some(Stored { offset: *offset, timestamp_ms: *timestamp_ms, key: part(key), value: part(value), headers })
    }

    /// The number of the first record at or past the offset.
    pub(super) fn lower_bound(&self, offset: u64) -> usize {
        self.entries.partition_point(|entry| entry.offset < offset)
    }

    fn size(&self, at: usize) -> u64 {
        let entry = self.entries.get(at);
        let len = |span: &Option<Range<usize>>| span.as_ref().map_or(0, |span| span.len() as u64);
        entry.map_or(0, |entry| len(&entry.key) + len(&entry.value))
    }
}

/// Some records of a block.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    pub(super) block: Arc<Block>,
    pub(super) rows: Range<usize>,
}

/// How much of a partition fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) end: u64,
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

/// What was fetched of a partition.
#[derive(Debug)]
pub(super) struct Buffer {
    blocks: VecDeque<Arc<Block>>,
    start: u64,
    position: u64,
    /// The end was reached when the position was this.
    caught_up: bool,
    /// Where the partition ended when fetching began: until there, that nothing has come yet says nothing.
    first_end: u64,
    bytes: usize,
    /// Records at or past it are not wanted.
    until: Option<u64>,
}

impl Buffer {
    /// Nothing yet: fetching begins here.
    pub(super) fn new(start: u64, until: Option<u64>, first_end: u64) -> Self {
        let caught_up = until.is_some_and(|until| start >= until);
        Self { blocks: VecDeque::new(), start, position: start, caught_up, first_end, bytes: 0, until }
    }

    /// Everything committed below it is here.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn start(&self) -> u64 {
        self.start
    }

    pub(super) fn until(&self) -> Option<u64> {
        self.until
    }

    /// Nothing more was there when it was looked last.
    pub(super) fn caught_up(&self) -> bool {
        self.caught_up
    }

    /// What was there when fetching began has been fetched: there is nothing more to wait for.
    pub(super) fn settled(&self) -> bool {
        if self.until.is_some() { self.is_complete() } else { self.position >= self.first_end }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes records in. Those that are here already, or not wanted, are passed over.
    pub(super) fn push(&mut self, block: Block) {
        let Some(last) = block.last_offset() else { return };
        if last < self.position || self.is_complete() {
            return;
        }
        self.position = last + 1;
        self.caught_up = self.is_complete();
        self.bytes += block.bytes();
        self.blocks.push_back(Arc::new(block));
    }

    /// Everything committed below this offset was given.
    pub(super) fn reached(&mut self, offset: u64) {
        if offset >= self.position {
            self.position = offset;
            self.caught_up = true;
            self.first_end = self.first_end.min(offset);
        }
    }

    /// Whether everything that is wanted is here.
    pub(super) fn is_complete(&self) -> bool {
        self.until.is_some_and(|until| self.position >= until)
    }

    /// Lets go of what lies below.
    pub(super) fn release(&mut self, below: u64) {
        while let Some(first) = self.blocks.front().filter(|block| block.last_offset() < Some(below)) {
            self.bytes -= first.bytes();
            self.blocks.pop_front();
        }
        self.start = self.start.max(below.min(self.position));
    }

    /// As many records from `from` on as the limits allow, and up to `at_least` in any case.
    pub(super) fn cut(&self, from: u64, rows_max: u64, bytes_max: u64, at_least: u64) -> Option<Cut> {
        let mut cut: Option<Cut> = None;
        for slice in self.slices(from, self.until.unwrap_or(u64::MAX)) {
            for at in slice.rows {
                let Some(record) = slice.block.get(at) else { break };
                let size = slice.block.size(at);
                let Cut { rows, bytes, .. } = cut.unwrap_or(Cut { end: from, rows: 0, bytes: 0 });
                let fits = rows < rows_max && bytes.saturating_add(size) <= bytes_max;
                if !fits && record.offset >= at_least {
                    return cut;
                }
                cut = Some(Cut { end: record.offset + 1, rows: rows + 1, bytes: bytes + size });
            }
        }
        cut
    }

    /// Records from the offset on.
    pub(super) fn count_from(&self, from: u64) -> u64 {
        self.slices(from, self.until.unwrap_or(u64::MAX)).map(|slice| slice.rows.len() as u64).sum()
    }

    /// The records of a range, where all of them are here.
    pub(super) fn read(&self, range: Range<u64>) -> Option<Vec<Slice>> {
        let here = self.start <= range.start && range.end <= self.position;
        here.then(|| self.slices(range.start, range.end).collect())
    }

    fn slices(&self, from: u64, to: u64) -> impl Iterator<Item = Slice> {
        let first = self.blocks.partition_point(|block| block.last_offset() < Some(from));
        self.blocks.iter().skip(first).filter_map(move |block| {
            let rows = block.lower_bound(from)..block.lower_bound(to);
            (!rows.is_empty()).then(|| Slice { block: block.clone(), rows })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records at these offsets, of ten bytes each.
    fn block(offsets: &[u64]) -> Block {
        let mut block = Block::default();
        offsets.iter().for_each(|o| block.push(*o, None, Some(b"key"), Some(b"value.."), vec![]));
        block
    }

    fn offsets(slices: &[Slice]) -> Vec<u64> {
        slices.iter().flat_map(|s| s.rows.clone().map(|at| s.block.get(at).unwrap().offset)).collect()
    }

    #[test]
    fn a_cut_ends_behind_its_last_record_and_never_within_what_was_offered_before() {
        let mut buffer = Buffer::new(10, None, 0);
        buffer.push(block(&[10, 11, 14]));
        buffer.push(block(&[15, 20]));
        assert_eq!(buffer.cut(10, 4, 1000, 0), Some(Cut { end: 16, rows: 4, bytes: 40 }));
        assert_eq!(buffer.cut(10, 100, 25, 0), Some(Cut { end: 12, rows: 2, bytes: 20 }));
        assert_eq!(buffer.cut(10, 1, 1000, 15), Some(Cut { end: 15, rows: 3, bytes: 30 }));
        assert_eq!(buffer.cut(16, 9, 1000, 0), Some(Cut { end: 21, rows: 1, bytes: 10 }));
        assert_eq!(buffer.cut(21, 9, 1000, 0), None);
        assert_eq!(buffer.cut(10, 0, 1000, 0), None);
    }

    #[test]
    fn a_range_is_read_from_here_only_where_all_of_it_is_here() {
        let mut buffer = Buffer::new(10, None, 0);
        buffer.push(block(&[10, 11, 14]));
        assert_eq!(offsets(&buffer.read(11..15).unwrap()), [11, 14]);
        assert!(buffer.read(11..16).is_none() && buffer.read(9..12).is_none());
        buffer.reached(17);
        assert_eq!(offsets(&buffer.read(11..16).unwrap()), [11, 14]);
        assert!(buffer.caught_up());
        buffer.push(block(&[17, 18]));
        assert!(!buffer.caught_up());
        buffer.release(15);
        assert!(buffer.read(14..18).is_none());
        assert_eq!(offsets(&buffer.read(15..19).unwrap()), [17, 18]);
        assert_eq!(buffer.bytes(), 20);
    }

    #[test]
    fn a_bounded_partition_is_complete_at_its_end_and_gives_nothing_behind_it() {
        let mut buffer = Buffer::new(0, Some(12), 0);
        buffer.push(block(&[3, 11, 12, 13]));
        assert!(buffer.is_complete() && buffer.caught_up());
        assert_eq!(buffer.cut(0, 100, 1000, 0).unwrap().end, 12);
        assert_eq!(buffer.count_from(4), 1);
        buffer.push(block(&[14]));
        assert_eq!(buffer.position(), 14);
        assert!(Buffer::new(5, Some(5), 0).is_complete());
    }

    #[test]
    fn what_was_fetched_twice_is_here_once() {
        let mut buffer = Buffer::new(0, None, 0);
        buffer.push(block(&[0, 1]));
        buffer.push(block(&[0, 1]));
        assert_eq!(buffer.count_from(0), 2);
    }
}
