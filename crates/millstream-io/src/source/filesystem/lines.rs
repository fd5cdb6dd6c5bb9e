//! Cuts the bytes of a file into segments of whole lines.
//!
//! A line never depends on how the reads fell: the same bytes from the same position give the same lines,
//! in this process and in another.

use std::path::Path;

use millstream_core::Result;
use millstream_core::batch::Position;

use super::input::{Input, Packing};
use super::segment::{KEPT_OF_LONG_LINE, LINE_BYTES_MAX, Segment};

/// So much is read at once.
const READ_BYTES: usize = 1 << 20;

/// Whether bytes after the last line end are a line once the file has no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastLine {
    /// They are: nobody will add to them.
    Counts,
    /// They wait until their line end is written.
    Waits,
}

/// Reads the lines of a file onwards.
#[derive(Debug)]
pub(super) struct LineReader {
    input: Input,
    /// The place before the bytes that are held.
    at: Position,
    /// Bytes past the last line that was given.
    held: Vec<u8>,
    /// So many of them are known to hold no line end.
    scanned: usize,
    /// How much of a line that is too long was read and not kept. `held` is then its beginning.
    dropped: Option<u64>,
    at_end: bool,
}

impl LineReader {
    /// The lines from this position on.
    pub(super) fn open(path: &Path, from: Position) -> Result<Self> {
        let input = Input::open(path, from.offset)?;
        Ok(Self { input, at: from, held: Vec::new(), scanned: 0, dropped: None, at_end: false })
    }

    /// The place of the next segment.
    pub(super) fn position(&self) -> Position {
        self.at
    }

    pub(super) fn packing(&self) -> Packing {
        self.input.packing()
    }

    /// Whether the file had no more bytes at the last read and every line was given.
    pub(super) fn is_at_end(&self) -> bool {
        self.at_end && self.held.is_empty() && self.dropped.is_none()
    }

    /// Passes over whole lines, up to this position; whether it could.
    pub(super) fn advance_to(&mut self, to: Position) -> Result<bool> {
        if to.offset == self.at.offset {
            return Ok(true);
        }
        let ahead = to.offset.checked_sub(self.at.offset).filter(|_| self.held.is_empty() && self.dropped.is_none());
        let Some(bytes) = ahead else { return Ok(false) };
        self.input.skip(bytes)?;
        self.at = to;
        Ok(true)
    }

    /// The next lines, of bytes below `until`; `None` where there is no whole one.
    pub(super) fn next(&mut self, until: u64, last: LastLine) -> Result<Option<Segment>> {
        loop {
            let taken = self.at.offset + self.held.len() as u64 + self.dropped.unwrap_or(0);
            let wanted = usize::try_from(until.saturating_sub(taken)).unwrap_or(usize::MAX).min(READ_BYTES);
            let scanned = self.scanned;
            let mut bytes = std::mem::take(&mut self.held);
            let read = match self.input.read(wanted, &mut bytes) {
                Ok(read) => read,
                Err(e) => {
                    self.held = bytes;
                    return Err(e);
                }
            };
            self.at_end = read < wanted || taken + read as u64 >= until;
            let counts = self.at_end && last == LastLine::Counts;
            if let Some(dropped) = self.dropped {
                if let Some(segment) = self.pass_long_line(bytes, scanned, dropped, counts) {
                    return Ok(Some(segment));
                }
            } else if let Some(segment) = self.cut(bytes, scanned, counts) {
                return Ok(Some(segment));
            }
            if self.at_end {
                return Ok(None);
            }
        }
    }

    /// Cuts whole lines off. The first `scanned` bytes hold no line end.
    fn cut(&mut self, mut bytes: Vec<u8>, scanned: usize, counts: bool) -> Option<Segment> {
        let fresh = bytes.get(scanned..).unwrap_or_default();
        let first = memchr::memchr(b'\n', fresh).map(|i| scanned + i);
        let length = first.unwrap_or(bytes.len());
        if length > LINE_BYTES_MAX {
            return self.pass_long_line(bytes, scanned, 0, counts);
        }
        let mut ends = Vec::new();
        if let Some(first) = first {
            let rest = bytes.get(first + 1..).unwrap_or_default();
            ends.reserve(1 + rest.len() / 64);
            ends.push(offset_of(first + 1));
            ends.extend(memchr::memchr_iter(b'\n', rest).map(|i| offset_of(first + i + 2)));
        }
        let whole = ends.last().map_or(0, |end| *end as usize);
        if counts && whole < bytes.len() {
            ends.push(offset_of(bytes.len()));
        } else {
            self.held = bytes.split_off(whole);
            self.scanned = self.held.len();
            if ends.is_empty() {
                return None;
            }
        }
        let segment = Segment::new(self.at, bytes, ends);
        self.at = segment.end();
        Some(segment)
    }

    /// Looks for the end of a line that is too long, keeping no more than its beginning.
    fn pass_long_line(&mut self, mut bytes: Vec<u8>, scanned: usize, dropped: u64, counts: bool) -> Option<Segment> {
        let end = memchr::memchr(b'\n', bytes.get(scanned..).unwrap_or_default()).map(|i| scanned + i + 1);
        if let Some(end) = end.or(counts.then_some(bytes.len())) {
            self.held = bytes.split_off(end);
            let length = dropped + bytes.len() as u64;
            bytes.truncate(KEPT_OF_LONG_LINE);
            bytes.shrink_to_fit();
            let segment = Segment::too_long(self.at, bytes, length);
            self.scanned = 0;
            self.dropped = None;
            self.at = segment.end();
            return Some(segment);
        }
        self.dropped = Some(dropped + bytes.len().saturating_sub(KEPT_OF_LONG_LINE) as u64);
        bytes.truncate(KEPT_OF_LONG_LINE);
        bytes.shrink_to_fit();
        self.scanned = bytes.len();
        self.held = bytes;
        None
    }
}

fn offset_of(index: usize) -> u32 {
    // A segment is at most a line's maximum and a read long.
    u32::try_from(index).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_reader_goes_on_in_the_middle_of_a_packed_file_without_being_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.gz");
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        (0..300_000).for_each(|i| writeln!(packed, "line {i}").unwrap());
        std::fs::write(&path, packed.finish().unwrap()).unwrap();
        let mut reader = LineReader::open(&path, Position::default()).unwrap();
        let mut segments = 0;
        while reader.next(u64::MAX, LastLine::Counts).unwrap().is_some() {
            segments += 1;
            assert!(reader.advance_to(reader.position()).unwrap(), "after segment {segments}");
        }
        assert!(segments > 2);
    }
}
