//! Reads the segments of a log in their order, without a lock.

use std::io;
use std::path::Path;

use crate::disk::Disk;
use crate::error::{Error, Result};

use super::frame::{Frame, Frames, VERSION, scan};
use super::history::History;
use super::paths::Sequence;
use super::record::{Header, Record};

/// What can be done about a log that can't be read.
const REMEDY: &str = "Put the file back from a copy of the directory; or start anew in another directory with an empty \
                      sink; what the sink has stands";

/// Reads what a log says; `None` where there is none.
///
/// # Errors
/// [`crate::ErrorKind::Corrupt`] with file and byte where a record can't be read and it is no torn tail.
pub fn read_history(disk: &dyn Disk, dir: &Path) -> Result<Option<History>> {
    let mut history: Option<History> = None;
    let mut last: Option<Segment> = None;
    for number in Sequence::Log.list(disk, dir)? {
        let Some(segment) = Segment::read(disk, dir, number)? else { continue };
        let Some(header) = segment.header()? else { continue };
        let history = history.get_or_insert_with(History::default);
        match (header.after, last.take()) {
            (Some(after), Some(before)) if after.segment == before.number => before.fold(after.len, history)?,
            (None, None) => {}
            (after, before) => {
                // Older segments were removed. Some may be left where the removal was not durable: without the
                // ones between they say nothing.
                let missing = after.map_or(0, |after| after.segment);
                let hole = before.map(|_| file_name(missing));
                *history = History { hole: hole.or(after.map(|_| file_name(missing))), ..History::default() };
            }
        }
        last = Some(segment);
    }
    if let (Some(history), Some(last)) = (&mut history, last) {
        let len = last.torn_or_whole()?;
        last.fold(len, history)?;
    }
    Ok(history)
}

fn file_name(segment: u64) -> String {
    Sequence::Log.segment(Path::new(""), segment).display().to_string()
}

/// Reads a segment; `None` where it was removed meanwhile.
pub(super) fn read_file(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>> {
    match disk.read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            Err(Error::config(format!("{} can't be read: check its permissions", path.display())).caused_by(error))
        }
    }
}

/// That a file can't be read here.
pub(super) fn corrupt(path: &Path, at: u64, what: &str) -> Error {
    Error::corrupt(format!("{}, byte {at}: {what}. {REMEDY}", path.display()))
}

/// That a whole record can't be understood.
pub(super) fn unreadable(path: &Path, frame: &Frame, error: serde_json::Error) -> Error {
    if frame.version > VERSION {
        let version = frame.version;
        return Error::config(format!(
            "{}, byte {}: the record has form {version}, this version of Millstream reads up to {VERSION}: use the newer one",
            path.display(),
            frame.at,
        ));
    }
    corrupt(path, frame.at, "the record is whole but not understood").caused_by(error)
}

struct Segment {
    number: u64,
    path: std::path::PathBuf,
    bytes: Vec<u8>,
    found: Frames,
}

impl Segment {
    fn read(disk: &dyn Disk, dir: &Path, number: u64) -> Result<Option<Self>> {
        let path = Sequence::Log.segment(dir, number);
        let Some(bytes) = read_file(disk, &path)? else { return Ok(None) };
        let found = scan(&bytes);
        Ok(Some(Self { number, path, bytes, found }))
    }

    /// The first record; `None` where the segment was never born: its header is torn and nothing follows.
    fn header(&self) -> Result<Option<Header>> {
        let found = &self.found;
        let Some(first) = found.frames.first() else {
            return match found.whole_after {
                None => Ok(None),
                Some(_) => Err(corrupt(&self.path, 0, "the header can't be read")),
            };
        };
        match self.parse(first)? {
            Record::Header(header) => Ok(Some(header)),
            _ => Err(corrupt(&self.path, 0, "the segment doesn't begin with its header")),
        }
    }

    /// The bytes of the last segment that count.
    fn torn_or_whole(&self) -> Result<u64> {
        let found = &self.found;
        match found.whole_after {
            None => Ok(found.len),
            Some(after) => Err(corrupt(
                &self.path,
                found.len,
                &format!("a record can't be read, and it is no torn end: another one follows at byte {after}"),
            )),
        }
    }

    fn parse(&self, frame: &Frame) -> Result<Record> {
        serde_json::from_slice(frame.json(&self.bytes)).map_err(|e| unreadable(&self.path, frame, e))
    }

    /// Takes in the records before this byte.
    fn fold(&self, len: u64, history: &mut History) -> Result<()> {
        let found = &self.found;
        if found.len < len {
            let what = format!("a record can't be read, though {len} bytes were once durable");
            return Err(corrupt(&self.path, found.len, &what));
        }
        for frame in found.frames.iter().take_while(|frame| frame.at < len) {
            let record = self.parse(frame)?;
            history.apply(record).map_err(|e| corrupt(&self.path, frame.at, e.message()))?;
        }
        history.end = (self.number, len);
        Ok(())
    }
}
