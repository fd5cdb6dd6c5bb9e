//! What was fetched of a partition and not yet released: pure bookkeeping, no client.
//!
//! A [`Buffer`] holds every committed record from `start` to `position`, without a gap. Offsets that are missing in
//! between are of control records and of aborted transactions, or were compacted away.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The memory of blocks that were let go, for those that come: fresh memory costs the kernel more than the copying of the
/// records into it.
#[derive(Debug, Default)]
pub(super) struct Spares {
    parts: Mutex<Vec<Parts>>,
    /// Bytes of the last block: the next one is about as large.
    last_bytes: AtomicUsize,
}

impl Spares {
    /// Blocks at the most that are kept.
    const COUNT_MAX: usize = 64;
    /// Bytes at the most of one that is kept.
    const BYTES_MAX: usize = 2 << 20;

    fn take(&self) -> Parts {
        let spare = self.parts.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = self.last_bytes.load(Ordering::Relaxed).min(Self::BYTES_MAX);
        // A little more, or the last record of every other block would move all of them.
        spare.unwrap_or_else(|| Parts { bytes: Vec::with_capacity(bytes + bytes / 8), ..Parts::default() })
    }

    fn give(&self, mut parts: Parts) {
        parts.bytes.clear();
        parts.entries.clear();
        parts.headers.clear();
        let mut all = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if parts.bytes.capacity() <= Self::BYTES_MAX && all.len() < Self::COUNT_MAX {
            all.push(parts);
        }
    }
}

/// The records of one partition that came together. Never changed.
#[derive(Debug, Default)]
pub(super) struct Block {
    parts: Parts,
    /// Where the memory goes afterwards.
    spares: Option<Arc<Spares>>,
}

#[derive(Debug, Default)]
struct Parts {
    /// Key and value of each record, one behind the other.
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// Of every record, or of none.
    headers: Vec<Headers>,
}

/// Where a record lies, in a few bytes: there may be millions of them.
#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: u64,
    timestamp_ms: i64,
    start: usize,
    key_len: u32,
    value_len: u32,
}

/// Instead of a length or a time: there is none. The client knows no part of a record that is so long, and no time before
/// 1970.
const NO_LEN: u32 = u32::MAX;
const NO_TIME: i64 = i64::MIN;

/// A record's headers, in its order.
pub(super) type Headers = Vec<(String, Option<Vec<u8>>)>;

/// A record within a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored<'a> {
    pub(super) offset: u64,
    pub(super) timestamp_ms: Option<i64>,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: &'a [(String, Option<Vec<u8>>)],
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(spares) = self.spares.take() {
            spares.give(std::mem::take(&mut self.parts));
        }
    }
}

impl Block {
    /// An empty one in memory that was used before, where there is some.
    pub(super) fn within(spares: &Arc<Spares>) -> Self {
        Self { parts: spares.take(), spares: Some(spares.clone()) }
    }

    /// It is full: how much it holds says how much the next one will.
    pub(super) fn close(&self) {
        if let Some(spares) = &self.spares {
            spares.last_bytes.store(self.bytes(), Ordering::Relaxed);
        }
    }

    /// Appends a record. Headers are given of all records of a block, or of none.
    pub(super) fn push(
        &mut self,
        offset: u64,
        timestamp_ms: Option<i64>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: Option<Headers>,
    ) {
        let Parts { bytes, entries, headers: all } = &mut self.parts;
        let start = bytes.len();
        let mut keep = |part: Option<&[u8]>| {
            bytes.extend_from_slice(part.unwrap_or_default());
            part.map_or(NO_LEN, |part| u32::try_from(part.len()).unwrap_or(NO_LEN))
        };
        let (key_len, value_len) = (keep(key), keep(value));
        entries.push(Entry { offset, timestamp_ms: timestamp_ms.unwrap_or(NO_TIME), start, key_len, value_len });
        all.extend(headers);
    }

    pub(super) fn len(&self) -> usize {
        self.parts.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.parts.bytes.len()
    }

    pub(super) fn last_offset(&self) -> Option<u64> {
        self.parts.entries.last().map(|entry| entry.offset)
    }

    /// The record of this number.
    pub(super) fn get(&self, at: usize) -> Option<Stored<'_>> {
        let Entry { offset, timestamp_ms, start, key_len, value_len } = *self.parts.entries.get(at)?;
        let part = |start: usize, len: u32| match len {
            NO_LEN => None,
            len => self.parts.bytes.get(start..start + len as usize),
        };
        let value_start = start + if key_len == NO_LEN { 0 } else { key_len as usize };
        Some(Stored {
            offset,
            timestamp_ms: (timestamp_ms != NO_TIME).then_some(timestamp_ms),
            key: part(start, key_len),
            value: part(value_start, value_len),
            headers: self.parts.headers.get(at).map(Vec::as_slice).unwrap_or_default(),
        })
    }

    /// The number of the first record at or past the offset.
    pub(super) fn lower_bound(&self, offset: u64) -> usize {
        self.parts.entries.partition_point(|entry| entry.offset < offset)
    }

    /// The entries of these records, for their offsets and sizes.
    fn entries(&self, rows: Range<usize>) -> &[Entry] {
        self.parts.entries.get(rows).unwrap_or_default()
    }
}

impl Entry {
    fn size(&self) -> u64 {
        let len = |len: u32| if len == NO_LEN { 0 } else { u64::from(len) };
        len(self.key_len) + len(self.value_len)
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
            for entry in slice.block.entries(slice.rows) {
                let size = entry.size();
                let Cut { rows, bytes, .. } = cut.unwrap_or(Cut { end: from, rows: 0, bytes: 0 });
                let fits = rows < rows_max && bytes.saturating_add(size) <= bytes_max;
                if !fits && entry.offset >= at_least {
                    return cut;
                }
                cut = Some(Cut { end: entry.offset + 1, rows: rows + 1, bytes: bytes + size });
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
        offsets.iter().for_each(|o| block.push(*o, None, Some(b"key"), Some(b"value.."), None));
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
    fn a_block_holds_what_it_was_given_whatever_its_memory_held_before() {
        let spares = Arc::new(Spares::default());
        let header = |name: &str| Some(vec![(name.to_string(), None)]);
        for round in 0..3u64 {
            let mut block = Block::within(&spares);
            assert_eq!((block.len(), block.bytes()), (0, 0));
            block.push(round, Some(0), None, Some(b"long value"), header("a"));
            block.push(round + 1, None, Some(b""), None, header("b"));
            block.push(round + 2, Some(-1), Some(b"k"), Some(b""), header("c"));
            let all: Vec<_> = (0..3).map(|at| block.get(at).unwrap()).collect();
            assert!(block.get(3).is_none());
            let times: Vec<_> = all.iter().map(|r| r.timestamp_ms).collect();
            assert_eq!(times, [Some(0), None, Some(-1)]);
            let keys: [Option<&[u8]>; 3] = [None, Some(b""), Some(b"k")];
            let values: [Option<&[u8]>; 3] = [Some(b"long value"), None, Some(b"")];
            assert_eq!(all.iter().map(|r| r.key).collect::<Vec<_>>(), keys);
            assert_eq!(all.iter().map(|r| r.value).collect::<Vec<_>>(), values);
            let headers: Vec<_> = all.iter().map(|r| r.headers[0].0.as_str()).collect();
            assert_eq!(headers, ["a", "b", "c"]);
        }
        assert_eq!(spares.parts.lock().unwrap().len(), 1);
        let mut large = Block::within(&spares);
        large.push(0, None, None, Some(&vec![0; Spares::BYTES_MAX + 1]), None);
        drop(large);
        assert!(spares.parts.lock().unwrap().is_empty());
    }

    #[test]
    fn what_was_fetched_twice_is_here_once() {
        let mut buffer = Buffer::new(0, None, 0);
        buffer.push(block(&[0, 1]));
        buffer.push(block(&[0, 1]));
        assert_eq!(buffer.count_from(0), 2);
    }
}
