//! The layout 'append': one growing NDJSON or CSV file.
//!
//! Publishing appends the rows, makes them durable (the one fsync of the path), and appends a record of how
//! far the file reaches now to the journal beside it. `open` cuts the file to the newest record, so that what
//! a crash left behind it is written once more and not twice. A reader that looks while a batch is being
//! appended can see its first rows, and half a line at the very end, as with any growing file.
//!
//! Never cuts off what this query did not write: a file without a journal must be empty, a file that grew
//! after a clean stop is refused, and so is one that changed while it was open.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use millstream_core::batch::BatchId;
use millstream_core::digest::Digest;
use millstream_core::format::Encoder;
use millstream_core::sink::{Marker, Output, Owner, Permit};
use millstream_core::{Error, Result};

use super::durable::{FileId, create_dirs, dir_of, failed, sync, sync_each};
use super::journal::{self, Journal, Record, Recorded};
use super::names::FileNames;
use super::ownership::{Lock, check_claim, check_next, not_open, taken_over};
use super::rows::{WRITE_BYTES, WriteError, append_text};
use crate::failpoint::{io_fail_point, torn_write};

/// A file that one query appends to.
pub(super) struct AppendedFile {
    path: PathBuf,
    names: FileNames,
    encoder: Box<dyn Encoder>,
    open: Option<Open>,
    buffer: Vec<u8>,
}

/// What is held between `open` and `close`, or until an error.
struct Open {
    owner: Owner,
    data: File,
    id: FileId,
    journal: Journal,
    last: Record,
}

impl AppendedFile {
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where the path names no file.
    pub(super) fn new(path: PathBuf, encoder: Box<dyn Encoder>) -> Result<Self> {
        let names = FileNames::new(&path).ok_or_else(|| {
            Error::config(format!("'path' = '{}' names no file to append to: end it in a file's name", path.display()))
        })?;
        Ok(Self { path, names, encoder, open: None, buffer: Vec::new() })
    }

    pub(super) fn open(&mut self, owner: &Owner) -> Result<Option<Marker>> {
        self.open = None;
        if self.path.is_dir() {
            return Err(Error::config(format!(
                "'path' = '{}' is a directory, and with 'sink.layout' = 'append' it names one file: add a file's name",
                self.path.display()
            )));
        }
        let mut unsynced = BTreeSet::new();
        create_dirs(dir_of(&self.path), &mut unsynced)?;
        sync_each(&unsynced)?;
        let mut lock = Lock::take(&self.names.lock)?;
        self.step("sink.open.locked")?;
        let bytes = match fs::metadata(&self.path) {
            Ok(metadata) => metadata.len(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
            Err(e) => return Err(failed("look at", &self.path, e)),
        };
        let recorded = journal::read(&self.names.journal)?;
        let last = self.recover(recorded.as_ref(), bytes, owner)?;
        let (data, id) = self.cut_to(last.bytes)?;
        self.step("sink.open.truncated")?;
        let claim = Record { epoch: owner.epoch, closed: false, ..last };
        let journal = Journal::create(self.names.clone(), owner.clone(), claim)?;
        lock.name_holder(owner, &self.names.lock)?;
        self.step("sink.open.claimed")?;
        self.open = Some(Open { owner: owner.clone(), data, id, journal, last: claim });
        Ok(claim.marker(owner))
    }

    pub(super) fn publish(&mut self, permit: &Permit, output: &Output) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Err(not_open(&self.path)) };
        let _lock = Lock::take(&self.names.lock)?;
        let last = open.last.marker(&open.owner).map(|marker| marker.batch);
        check_next(&open.owner, last, permit, &self.path)?;
        open.check_untouched(&self.path)?;
        match self.store(&mut open, permit.marker(), output) {
            Ok(record) => open.last = record,
            Err(error) => {
                // The rows are not published: they should not be seen either. Where this fails too, the
                // next `open` cuts them off.
                let _ = open.data.set_len(open.last.bytes);
                return Err(error);
            }
        }
        self.step("sink.append.marked")?;
        self.open = Some(open);
        Ok(())
    }

    pub(super) fn flush(&self) -> Result<()> {
        let Some(open) = &self.open else { return Err(not_open(&self.path)) };
        open.journal.sync()?;
        self.step("sink.flushed")
    }

    pub(super) fn close(&mut self) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let _lock = Lock::take(&self.names.lock)?;
        open.check_untouched(&self.path)?;
        open.journal.append(Record { closed: true, ..open.last })?;
        open.journal.sync()
    }

    /// Which record holds, for a file of so many bytes.
    fn recover(&self, recorded: Option<&Recorded>, bytes: u64, owner: &Owner) -> Result<Record> {
        let path = self.path.display();
        let Some(Recorded { owner: recorded_owner, records }) = recorded else {
            if bytes > 0 {
                return Err(Error::config(format!(
                    "{path} holds {bytes} bytes that no query recorded, and they will not be touched: move the file \
                     away, or choose another 'path'"
                )));
            }
            let (batch, digest) = (BatchId(0), Digest::default());
            return Ok(Record { batch, digest, epoch: owner.epoch, bytes: 0, closed: false });
        };
        check_claim(recorded_owner, owner, &self.path)?;
        let Some(last) = records.iter().rev().find(|record| record.bytes <= bytes) else {
            let needed = records.iter().map(|record| record.bytes).min().unwrap_or_default();
            return Err(Error::corrupt(format!(
                "{path} holds {bytes} bytes, but at least {needed} were published to it: it was cut, replaced or \
                 removed. Bring the file back, or remove its journal {} and the query's state directory and begin again",
                self.names.journal.display()
            )));
        };
        if last.closed && bytes > last.bytes {
            return Err(Error::config(format!(
                "{path} was {} bytes long when query '{}' stopped and is {bytes} now: somebody else wrote to it. Move \
                 what was added to another file, or choose another 'path'",
                last.bytes, recorded_owner.query
            )));
        }
        Ok(*last)
    }

    /// Opens the file with exactly so many bytes in it, durably.
    fn cut_to(&self, bytes: u64) -> Result<(File, FileId)> {
        let existed = self.path.exists();
        let opened = OpenOptions::new().append(true).create(true).open(&self.path).and_then(|file| {
            if file.metadata()?.len() > bytes {
                file.set_len(bytes)?;
            }
            file.sync_all()?;
            let id = FileId::from(&file.metadata()?);
            Ok((file, id))
        });
        let opened = opened.map_err(|e| failed("open for appending", &self.path, e))?;
        if !existed {
            sync(dir_of(&self.path))?;
        }
        Ok(opened)
    }

    fn store(&mut self, open: &mut Open, marker: &Marker, output: &Output) -> Result<Record> {
        let written = self.append(open, output).map_err(|e| e.at(&self.path))?;
        self.step("sink.append.written")?;
        // IMPORTANT: the rows are durable before a record says that they are there.
        open.data.sync_data().map_err(|e| failed("make durable", &self.path, e))?;
        self.step("sink.append.synced")?;
        let record = Record {
            batch: marker.batch,
            digest: marker.digest,
            epoch: marker.owner.epoch,
            bytes: open.last.bytes + written,
            closed: false,
        };
        open.journal.append(record)?;
        Ok(record)
    }

    /// Appends the rows, after the header where they are the first; answers how many bytes that made.
    fn append(&mut self, open: &mut Open, output: &Output) -> Result<u64, WriteError> {
        self.buffer.clear();
        self.buffer.shrink_to(2 * WRITE_BYTES);
        if open.last.bytes == 0 && output.rows() > 0 {
            self.buffer = self.encoder.header()?;
        }
        let mut written = append_text(self.encoder.as_mut(), &output.batches, &mut self.buffer, &mut open.data)?;
        written += self.buffer.len() as u64;
        torn_write("sink.append.half_written", &mut open.data, &self.buffer)?;
        Ok(written)
    }

    fn step(&self, name: &str) -> Result<()> {
        io_fail_point(name).map_err(|e| failed("write", &self.path, e))
    }
}

impl Open {
    /// The file is the one that was opened, and nobody else appended to it: two looks at inodes, no I/O.
    fn check_untouched(&self, path: &Path) -> Result<()> {
        if !self.journal.is_in_place() {
            return Err(taken_over(&self.owner, path));
        }
        let there = fs::metadata(path).ok().filter(|there| FileId::from(there) == self.id);
        let Some(there) = there else {
            return Err(Error::sink(format!(
                "{} was removed or replaced while this query was appending to it: put the file back and start again (a \
                 growing file cannot be rotated)",
                path.display()
            )));
        };
        if there.len() != self.last.bytes {
            return Err(Error::sink(format!(
                "{} is {} bytes long, but this query has written {}: somebody else writes to it. Stop them, or choose \
                 another 'path'",
                path.display(),
                there.len(),
                self.last.bytes
            )));
        }
        Ok(())
    }
}
