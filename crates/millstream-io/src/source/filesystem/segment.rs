//! Whole lines of a file in memory, with their ends: scanned once, read by the offer and by the rows.

use millstream_core::batch::{Place, Position};
use xxhash_rust::xxh3::Xxh3;

/// A line may be this long, without its end. A longer one is rejected.
pub(super) const LINE_BYTES_MAX: usize = 16 << 20;

/// So much is kept of a line that is too long.
pub(super) const KEPT_OF_LONG_LINE: usize = 64 << 10;

/// The byte order mark that some programs put before the first line.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Some lines that follow each other in a file.
#[derive(Debug)]
pub(super) struct Segment {
    start: Position,
    /// The lines with their ends; of a line that is too long only its beginning.
    bytes: Vec<u8>,
    /// Where each line ends in `bytes`, its line end included.
    ends: Vec<u32>,
    /// The length of the one line, its end included, where it is too long.
    too_long: Option<u64>,
}

/// How many lines fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fit {
    pub lines: usize,
    pub bytes: u64,
}

/// One line, without its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    pub place: Place,
    pub bytes: &'a [u8],
    /// Its length where it is too long; `bytes` is then its beginning.
    pub too_long: Option<u64>,
}

impl Segment {
    /// The lines in `bytes`, which end where `ends` says.
    pub(super) fn new(start: Position, bytes: Vec<u8>, ends: Vec<u32>) -> Self {
        Self { start, bytes, ends, too_long: None }
    }

    /// A single line that is too long, of which only the beginning is kept.
    pub(super) fn too_long(start: Position, beginning: Vec<u8>, length: u64) -> Self {
        let end = u32::try_from(beginning.len()).unwrap_or(u32::MAX);
        Self { start, bytes: beginning, ends: vec![end], too_long: Some(length) }
    }

    pub(super) fn start(&self) -> Position {
        self.start
    }

    pub(super) fn end(&self) -> Position {
        self.position(self.lines())
    }

    pub(super) fn lines(&self) -> usize {
        self.ends.len()
    }

    /// Memory held.
    pub(super) fn size(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * size_of::<u32>()
    }

    /// The place before the line of this index.
    pub(super) fn position(&self, line: usize) -> Position {
        let offset = match self.too_long {
            Some(length) if line > 0 => length,
            _ => self.begin(line) as u64,
        };
        Position { offset: self.start.offset + offset, row: self.start.row + line as u64 }
    }

    /// The line that begins at this offset; `None` where none does.
    pub(super) fn line_at(&self, offset: u64) -> Option<usize> {
        let within = offset.checked_sub(self.start.offset)?;
        if within == 0 {
            return Some(0);
        }
        if offset >= self.end().offset {
            return None;
        }
        let end = u32::try_from(within).ok()?;
        self.ends.binary_search(&end).ok().map(|i| i + 1)
    }

    /// A line. Whether it is a row, its format knows.
    pub(super) fn row(&self, line: usize) -> Line<'_> {
        let position = self.position(line);
        let place = Place { offset: position.offset, row: position.row };
        Line { place, bytes: self.text(line), too_long: self.too_long }
    }

    /// How many lines, from this one on, hold at most so many rows and bytes.
    pub(super) fn fit(&self, from: usize, rows: u64, bytes: u64) -> Fit {
        let begin = self.begin(from) as u64;
        if let Some(length) = self.too_long {
            let fits = from == 0 && rows > 0 && length <= bytes;
            return if fits { Fit { lines: 1, bytes: length } } else { Fit::default() };
        }
        let rest = self.ends.get(from..).unwrap_or_default();
        let by_bytes = rest.partition_point(|end| u64::from(*end) - begin <= bytes);
        let lines = by_bytes.min(usize::try_from(rows).unwrap_or(usize::MAX));
        Fit { lines, bytes: self.begin(from + lines) as u64 - begin }
    }

    /// This line, however long.
    pub(super) fn one(&self, line: usize) -> Fit {
        let lines = usize::from(line < self.lines());
        Fit { lines, bytes: self.position(line + lines).offset - self.position(line).offset }
    }

    /// Feeds these lines to the hash of a range. The same lines give the same hash however they are cut
    /// into segments.
    pub(super) fn hash(&self, from: usize, lines: usize, into: &mut Xxh3) {
        into.update(self.bytes.get(self.begin(from)..self.begin(from + lines)).unwrap_or_default());
        if let Some(length) = self.too_long {
            into.update(&length.to_le_bytes());
        }
    }

    fn begin(&self, line: usize) -> usize {
        let before = line.checked_sub(1).and_then(|i| self.ends.get(i).or(self.ends.last()));
        before.map_or(0, |end| *end as usize)
    }

    fn text(&self, line: usize) -> &[u8] {
        let text = self.bytes.get(self.begin(line)..self.begin(line + 1)).unwrap_or_default();
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if self.start.offset == 0 && line == 0 {
            return text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(text: &str, start: u64) -> Segment {
        let ends = memchr::memchr_iter(b'\n', text.as_bytes()).map(|i| i as u32 + 1).collect();
        Segment::new(Position { offset: start, row: 7 }, text.into(), ends)
    }

    #[test]
    fn lines_fit_by_count_and_bytes() {
        let lines = segment("aa\n\nbb\n \ncc\n", 10);
        assert_eq!(lines.fit(0, 1, 100), Fit { lines: 1, bytes: 3 });
        assert_eq!(lines.fit(0, 9, 6), Fit { lines: 2, bytes: 4 });
        assert_eq!(lines.fit(2, 9, 100), Fit { lines: 3, bytes: 8 });
        assert_eq!(lines.one(2), Fit { lines: 1, bytes: 3 });
        assert_eq!(lines.fit(5, 9, 9), Fit::default());
        assert_eq!(lines.position(2), Position { offset: 14, row: 9 });
        assert_eq!(lines.line_at(14), Some(2));
        assert_eq!(lines.line_at(15), None);
        assert_eq!(lines.line_at(22), None);
        assert_eq!(lines.row(1).bytes, b"");
        assert_eq!(lines.row(2).bytes, b"bb");
    }

    #[test]
    fn a_byte_order_mark_is_dropped_only_at_the_beginning_of_the_file() {
        assert_eq!(segment("\u{feff}x\r\n", 0).row(0).bytes, b"x");
        assert_eq!(segment("\u{feff}x\r\n", 4).row(0).bytes, "\u{feff}x".as_bytes());
    }

    #[test]
    fn a_line_too_long_counts_with_its_whole_length() {
        let line = Segment::too_long(Position { offset: 5, row: 1 }, b"abc".to_vec(), 1000);
        assert_eq!(line.end(), Position { offset: 1005, row: 2 });
        assert_eq!(line.fit(0, 5, 999), Fit::default());
        assert_eq!(line.one(0), Fit { lines: 1, bytes: 1000 });
        assert_eq!(line.line_at(5), Some(0));
    }
}
