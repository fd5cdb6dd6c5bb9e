//! The rows of one range of a text file.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_core::batch::{Place, Position, Range};
use millstream_core::format::Decoder;
use millstream_core::source::{Chunk, RawRows, Rejected};
use millstream_core::{Error, Result};
use xxhash_rust::xxh3::Xxh3;

use super::identity::{FileIdentity, Stamp, changed};
use super::lines::{LastLine, LineReader};
use super::segment::{LINE_BYTES_MAX, Line, Segment};

/// A chunk holds so many rows, rejected ones among them; the last one of a range fewer.
pub(super) const CHUNK_ROWS: usize = 8192;

/// The lines of a range, from memory where they are still there and else from the file.
#[derive(Debug)]
pub(super) struct RangeLines {
    path: PathBuf,
    at: Position,
    end: Position,
    cached: VecDeque<Arc<Segment>>,
    reader: Option<LineReader>,
}

/// Some lines of a segment.
#[derive(Debug)]
struct Stretch {
    segment: Arc<Segment>,
    next: usize,
    end: usize,
}

impl RangeLines {
    /// `spare` is a reader that may already stand before the range.
    pub(super) fn new(
        path: PathBuf,
        range: &Range,
        cached: VecDeque<Arc<Segment>>,
        spare: Option<LineReader>,
    ) -> Result<Self> {
        let lines = Self { path, at: range.start, end: range.end, cached, reader: spare };
        if !lines.is_in_memory() {
            verify(&lines.path, range)?;
        }
        Ok(lines)
    }

    fn is_in_memory(&self) -> bool {
        let mut at = self.at.offset;
        for segment in &self.cached {
            if segment.start().offset > at {
                return false;
            }
            at = at.max(segment.end().offset);
        }
        at >= self.end.offset
    }

    fn next(&mut self) -> Result<Option<Stretch>> {
        if self.at.offset >= self.end.offset {
            return Ok(None);
        }
        while self.cached.front().is_some_and(|s| s.end().offset <= self.at.offset) {
            self.cached.pop_front();
        }
        let segment = match self.cached.front() {
            Some(segment) if segment.start().offset <= self.at.offset => segment.clone(),
            later => {
                let until = later.map_or(self.end.offset, |s| s.start().offset.min(self.end.offset));
                self.read(until)?
            }
        };
        let next = segment.line_at(self.at.offset);
        let end = if segment.end().offset <= self.end.offset {
            Some(segment.lines())
        } else {
            segment.line_at(self.end.offset)
        };
        let (Some(next), Some(end)) = (next, end) else { return Err(self.rewritten()) };
        self.at = segment.position(end);
        Ok(Some(Stretch { segment, next, end }))
    }

    fn read(&mut self, until: u64) -> Result<Arc<Segment>> {
        let stands_here = match &mut self.reader {
            Some(reader) => reader.advance_to(self.at)?,
            None => false,
        };
        let reader = match &mut self.reader {
            Some(reader) if stands_here => reader,
            other => other.insert(LineReader::open(&self.path, self.at)?),
        };
        reader.next(until, LastLine::Counts)?.map(Arc::new).ok_or_else(|| self.rewritten())
    }

    fn rewritten(&self) -> Error {
        Error::input(format!(
            "the file '{}' no longer holds the lines up to byte {} that a batch recorded: it was shrunk or rewritten; \
             put it back as it was, or start the query anew with another state directory",
            self.path.display(),
            self.end.offset
        ))
    }
}

/// The range's bytes are what they were when it was offered.
fn verify(path: &Path, range: &Range) -> Result<()> {
    let stamp: Stamp = range.stamp.parse().map_err(|e: Error| e.at(format!("a range of '{}'", range.partition)))?;
    let Some(file) = FileIdentity::at(path)? else { return Err(changed(path, "vanished", &stamp, None)) };
    if stamp.is_unchanged(&file) {
        return Ok(());
    }
    let mut lines =
        RangeLines { path: path.to_path_buf(), at: range.start, end: range.end, cached: VecDeque::new(), reader: None };
    let mut hash = Xxh3::new();
    let mut read = || -> Result<()> {
        while let Some(stretch) = lines.next()? {
            stretch.segment.hash(stretch.next, stretch.end - stretch.next, &mut hash);
        }
        Ok(())
    };
    match read() {
        Ok(()) if hash.digest() == stamp.hash => Ok(()),
        Ok(()) => Err(changed(path, "was rewritten", &stamp, Some(&file))),
        Err(e) => Err(changed(path, "was changed", &stamp, Some(&file)).caused_by(e)),
    }
}

/// Decodes the lines of a range into chunks.
pub(super) struct Rows {
    lines: RangeLines,
    stretch: Option<Stretch>,
    decoder: Box<dyn Decoder>,
}

impl Rows {
    pub(super) fn new(lines: RangeLines, decoder: Box<dyn Decoder>) -> Self {
        Self { lines, stretch: None, decoder }
    }

    /// The reader, for whoever reads the next range.
    pub(super) fn take_reader(&mut self) -> Option<LineReader> {
        self.lines.reader.take()
    }

    /// The next chunk; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<Chunk>> {
        let mut too_long = Vec::new();
        let mut lines = Lines::default();
        let mut rows = 0;
        while rows < CHUNK_ROWS {
            let stretch = match &mut self.stretch {
                Some(stretch) if stretch.next < stretch.end => stretch,
                stretch => match self.lines.next()? {
                    Some(next) => stretch.insert(next),
                    None => break,
                },
            };
            lines.0.push(stretch.segment.clone());
            while stretch.next < stretch.end && rows < CHUNK_ROWS {
                let line = stretch.segment.row(stretch.next);
                stretch.next += 1;
                rows += 1;
                match line.too_long {
                    Some(length) => too_long.push(reject(line, length)),
                    None => self.decoder.push(line.bytes, line.place),
                }
            }
        }
        if rows == 0 {
            return Ok(None);
        }
        let mut chunk = self.decoder.finish()?;
        chunk.raw = Some(Arc::new(lines));
        if !too_long.is_empty() {
            chunk.rejected.append(&mut too_long);
            chunk.rejected.sort_by_key(|r| r.place);
        }
        Ok(Some(chunk))
    }
}

/// The lines that a chunk was decoded from, and some around them: ascending segments.
#[derive(Debug, Default)]
struct Lines(Vec<Arc<Segment>>);

impl RawRows for Lines {
    fn raw(&self, place: Place) -> Option<Vec<u8>> {
        let segment = self.0.iter().rfind(|s| s.start().offset <= place.offset)?;
        let line = segment.line_at(place.offset)?;
        Some(segment.row(line).bytes.to_vec())
    }
}

fn reject(line: Line<'_>, length: u64) -> Rejected {
    let reason = format!("the line is {length} bytes long; at most {LINE_BYTES_MAX} are read");
    Rejected { place: line.place, reason, raw: line.bytes.to_vec() }
}
