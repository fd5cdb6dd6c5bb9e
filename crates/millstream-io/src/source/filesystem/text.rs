//! One text file: what of it was scanned, and how far an offer may go.
//!
//! What an offer scans stays in memory until it was opened and left behind, so that no byte is read and no
//! line end is looked for twice.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use millstream_core::batch::Position;
use millstream_core::source::Limit;
use millstream_core::{Error, Result};

use super::cursor::Cursor;
use super::input::Packing;
use super::lines::{LastLine, LineReader};
use super::segment::Segment;

/// So much is kept in memory of all files of a source, beside one segment a file that is being read. Less in
/// tests, which would otherwise need large files to come to it.
const KEPT_BYTES_MAX: usize = if cfg!(test) { 2 << 20 } else { 64 << 20 };

/// What may be read of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent<'a> {
    pub path: &'a Path,
    /// Bytes that are there; of a packed file it is not known how many they are unpacked.
    pub until: u64,
    pub last: LastLine,
}

/// The scanned lines of one file.
#[derive(Debug, Default)]
pub(super) struct TextFile {
    /// Ascending; there may be holes where not everything was kept.
    segments: VecDeque<Arc<Segment>>,
    reader: Option<LineReader>,
    /// How many bytes there are unpacked, once all were read.
    unpacked_end: Option<u64>,
    /// The end of the furthest range that was opened.
    opened_to: u64,
}

impl TextFile {
    /// Takes whole lines up to the limit, from which it takes off what it took.
    pub(super) fn take(
        &mut self,
        cursor: &mut Cursor,
        limit: &mut Limit,
        extent: Extent<'_>,
        kept: &mut usize,
    ) -> Result<()> {
        loop {
            let Some((segment, line)) = self.line(cursor, extent, kept)? else {
                cursor.more = false;
                return Ok(());
            };
            let fit = segment.fit(line, limit.rows, limit.bytes);
            if fit.lines == 0 {
                cursor.more = true;
                return Ok(());
            }
            limit.rows -= fit.lines as u64;
            limit.bytes -= fit.bytes;
            cursor.take(&segment, line, fit);
        }
    }

    /// Takes the next row, however long it is; whether there was one.
    pub(super) fn take_one(&mut self, cursor: &mut Cursor, extent: Extent<'_>, kept: &mut usize) -> Result<bool> {
        let Some((segment, line)) = self.line(cursor, extent, kept)? else { return Ok(false) };
        let fit = segment.one(line);
        cursor.take(&segment, line, fit);
        Ok(true)
    }

    /// How many unpacked bytes a packed file holds, once it was read to its end.
    pub(super) fn unpacked_end(&self) -> Option<u64> {
        self.unpacked_end
    }

    pub(super) fn has_reader(&self) -> bool {
        self.reader.is_some()
    }

    /// Closes the file; it is opened again where it is read again.
    pub(super) fn close(&mut self) {
        self.reader = None;
    }

    /// Memory held.
    pub(super) fn size(&self) -> usize {
        self.segments.iter().map(|s| s.size()).sum()
    }

    /// Forgets what was opened and lies below this offset.
    pub(super) fn trim(&mut self, below: u64) {
        let below = below.min(self.opened_to);
        while self.segments.front().is_some_and(|s| s.end().offset <= below) {
            self.segments.pop_front();
        }
    }

    /// The segments that hold lines of a range, which is being opened.
    pub(super) fn opened(&mut self, start: Position, end: Position) -> VecDeque<Arc<Segment>> {
        self.opened_to = self.opened_to.max(end.offset);
        let holds = |s: &&Arc<Segment>| s.start().offset < end.offset && s.end().offset > start.offset;
        self.segments.iter().filter(holds).cloned().collect()
    }

    /// The line at the cursor: its segment and index there. Reads on where it must.
    fn line(
        &mut self,
        cursor: &mut Cursor,
        extent: Extent<'_>,
        kept: &mut usize,
    ) -> Result<Option<(Arc<Segment>, usize)>> {
        if let Some((segment, line)) = cursor.current() {
            if *line < segment.lines() {
                return Ok(Some((segment.clone(), *line)));
            }
            if *kept > KEPT_BYTES_MAX {
                self.forget(&segment.clone(), kept);
            }
        }
        let at = cursor.at;
        if let Some(segment) =
            self.segments.iter().rfind(|s| s.start().offset <= at.offset && at.offset < s.end().offset)
        {
            let line = segment.line_at(at.offset).ok_or_else(|| no_line_begins(extent.path, at))?;
            return Ok(Some((segment.clone(), line)));
        }
        Ok(self.read_on(at, extent, kept)?.map(|segment| (segment, 0)))
    }

    fn read_on(&mut self, at: Position, extent: Extent<'_>, kept: &mut usize) -> Result<Option<Arc<Segment>>> {
        if self.unpacked_end == Some(at.offset) || at.offset >= extent.until {
            return Ok(None);
        }
        let reader = match &mut self.reader {
            Some(reader) if reader.position().offset == at.offset => reader,
            _ => {
                // What was scanned past this place would be scanned again.
                self.segments.retain(|s| s.end().offset <= at.offset);
                self.reader.insert(LineReader::open(extent.path, at)?)
            }
        };
        let packed = reader.packing() != Packing::None;
        // A packed file has no more lines to wait for, and its size says nothing of how many bytes it holds.
        let (until, last) = if packed { (u64::MAX, LastLine::Counts) } else { (extent.until, extent.last) };
        let next = match reader.next(until, last) {
            Ok(next) => next,
            Err(e) => {
                self.reader = None;
                return Err(e);
            }
        };
        if packed && reader.is_at_end() {
            self.unpacked_end = Some(reader.position().offset);
            self.reader = None;
        }
        let segment = next.map(Arc::new);
        if let Some(segment) = &segment {
            *kept += segment.size();
            self.segments.push_back(segment.clone());
        }
        Ok(segment)
    }

    fn forget(&mut self, segment: &Arc<Segment>, kept: &mut usize) {
        if let Some(index) = self.segments.iter().position(|s| Arc::ptr_eq(s, segment)) {
            self.segments.remove(index);
            *kept = kept.saturating_sub(segment.size());
        }
    }
}

fn no_line_begins(path: &Path, at: Position) -> Error {
    Error::input(format!(
        "no line begins at byte {} of the file '{}', although it was read up to there: it was rewritten; put it back \
         as it was, or start the query anew with another state directory",
        at.offset,
        path.display()
    ))
}
