//! Files as a source: one partition a file, a position is a byte of its unpacked content and a line number.
//!
//! `path` is a file, a directory (the files below it, sorted; names that begin with `.` or `_` are passed
//! over; one that is not there yet is written with a `/` at its end) or a glob. Text (NDJSON, CSV) is read line by
//! line; a line is a record, so a quoted CSV field can't hold a line end. Whether an empty line is a row, the format
//! decides: it is none in JSON, and in CSV of several columns. Gzip and zstd are told by their first bytes.
//!
//! A source is bounded, and then all its files and their sizes are known from the first offer, or it follows
//! (`source.monitor-interval`): files may appear, and plain text files may grow. A growing file is read up
//! to its last line end; packed files, Parquet and Avro files are read once, so they must be moved in whole, under
//! another name before (`mv .part-1 part-1`). New bytes are found as soon as the operating system tells of
//! them and else at the next interval.
//!
//! It never reads past the bytes that a file held when the range was offered, and it never gives rows of a
//! file that changed under a recorded range: that is an [`millstream_core::ErrorKind::Input`].

mod columnar;
mod cursor;
mod file;
mod files;
mod identity;
mod infer;
mod input;
mod lines;
mod listing;
mod rows;
mod segment;
mod text;
mod watch;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use millstream_core::batch::{PartitionId, Positions, Range, Stamps};
use millstream_core::clock::{Clock, SystemClock};
use millstream_core::format::Format;
use millstream_core::source::{Boundedness, Chunk, ChunkStream, Limit, Offer, Source, SourceTable, Versioned};
use millstream_core::{Error, Result};

use crate::TableSpec;
use crate::format::avro::AvroRows;
use columnar::{NumberedRows, Stored};
use file::Holding;
use files::{Files, Opened};
use identity::FileIdentity;
pub use infer::infer_table;
use listing::Listing;
use rows::{CHUNK_ROWS, Rows};
use watch::{Changes, Watch};

/// Above so many unread bytes an offer reads on another thread, so that it doesn't hold up this one.
const INLINE_BYTES_MAX: u64 = 4 << 20;

/// What the files hold.
#[derive(Clone, Debug)]
enum Content {
    /// Lines, and what decodes them.
    Lines(Arc<dyn Format>),
    /// Rows with numbers.
    Rows(Stored),
}

/// A table of files.
#[derive(Debug)]
pub struct FilesystemTable {
    schema: SchemaRef,
    content: Content,
    listing: Listing,
    interval: Option<Duration>,
    /// Whether each file is read to its end before the next one is.
    in_order: bool,
}

impl FilesystemTable {
    /// The table of files that the options describe, whose lines this format decodes; Parquet files where
    /// there is none.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where an option is missing or wrong.
    pub fn new(spec: &TableSpec, format: Option<Arc<dyn Format>>) -> Result<Self> {
        Self::of(spec, format.map_or(Content::Rows(Stored::Parquet), Content::Lines))
    }

    fn of(spec: &TableSpec, content: Content) -> Result<Self> {
        let listing = Listing::new(spec.options.required("path")?, &spec.base_dir)?;
        let interval = spec.options.duration("source.monitor-interval")?;
        // What the table is as a sink is the sink's to judge.
        spec.options.with_prefix("sink.");
        if let Some(column) = spec.partitioned_by.first() {
            return Err(Error::config(format!(
                "a table PARTITIONED BY ({column}, ..) can't be read: its partition columns are in the names of its \
                 directories; declare a table without them to read its files"
            )));
        }
        if interval.is_some_and(|i| i.is_zero()) {
            return Err(Error::config("the option 'source.monitor-interval' is zero: give a time, such as '1 s'"));
        }
        Ok(Self { schema: spec.schema.clone(), content, listing, interval, in_order: false })
    }
}

impl Versioned for FilesystemTable {
    /// The files, by name, size, time and inode: `2 files 00f1e2d3c4b5a697`.
    fn version(&self) -> Result<String> {
        let files = self.listing.files()?;
        if files.is_empty() {
            return Err(self.listing.nothing_found());
        }
        let mut text = String::new();
        for (id, path) in &files {
            let seen = FileIdentity::at(path)?;
            text.push_str(&format!("{id} {seen:?}\n"));
        }
        Ok(format!("{} files {:016x}", files.len(), xxhash_rust::xxh3::xxh3_64(text.as_bytes())))
    }
}

impl SourceTable for FilesystemTable {
    fn versioned(&self) -> Option<&dyn Versioned> {
        Some(self)
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn source(&self, projection: &[usize]) -> Result<Arc<dyn Source>> {
        let schema = Arc::new(self.schema.project(projection)?);
        let changes = Arc::new(Changes::default());
        // IMPORTANT: the watch begins before the first listing, so that nothing falls between the two.
        let watch = self.interval.and_then(|_| Watch::start(&self.listing, &changes));
        let holding = match &self.content {
            Content::Lines(_) => Holding::Lines,
            Content::Rows(stored) => Holding::Rows(*stored),
        };
        let mut files = Files::new(self.listing.clone(), holding, self.interval.is_some());
        if self.in_order {
            files.one_after_the_other();
        }
        Ok(Arc::new(FilesystemSource {
            schema,
            content: self.content.clone(),
            files: Arc::new(Mutex::new(files)),
            interval: self.interval,
            changes,
            _watch: watch,
            unread: Arc::new(AtomicU64::new(u64::MAX)),
            clock: Arc::new(SystemClock),
        }))
    }
}

struct FilesystemSource {
    schema: SchemaRef,
    content: Content,
    files: Arc<Mutex<Files>>,
    interval: Option<Duration>,
    changes: Arc<Changes>,
    _watch: Option<Watch>,
    /// Bytes that were left over by the last offer.
    unread: Arc<AtomicU64>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for FilesystemSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilesystemSource").field("schema", &self.schema).field("interval", &self.interval).finish()
    }
}

fn locked(files: &Mutex<Files>) -> MutexGuard<'_, Files> {
    files.lock().unwrap_or_else(PoisonError::into_inner)
}

fn offer(files: &Mutex<Files>, changes: &Changes, unread: &AtomicU64, from: &Positions, limit: Limit) -> Result<Offer> {
    let mut files = locked(files);
    let changed = changes.take();
    let offered = files.refresh(changed).and_then(|()| files.offer(from, limit));
    let (offer, more) = offered.inspect_err(|_| changes.all())?;
    unread.store(offer.lag.unwrap_or(u64::MAX), Ordering::Relaxed);
    if more {
        changes.wake();
    }
    Ok(offer)
}

#[async_trait]
impl Source for FilesystemSource {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn boundedness(&self) -> Boundedness {
        if self.interval.is_some() { Boundedness::Followed } else { Boundedness::Bounded }
    }

    async fn offer(&self, from: &Positions, limit: Limit) -> Result<Offer> {
        let little = self.unread.load(Ordering::Relaxed) <= INLINE_BYTES_MAX || limit.bytes <= INLINE_BYTES_MAX;
        if little || tokio::runtime::Handle::try_current().is_err() {
            return offer(&self.files, &self.changes, &self.unread, from, limit);
        }
        let (files, changes, unread) = (self.files.clone(), self.changes.clone(), self.unread.clone());
        let from = from.clone();
        let read = tokio::task::spawn_blocking(move || offer(&files, &changes, &unread, &from, limit));
        read.await.map_err(|e| Error::bug("the thread that reads files stopped").caused_by(e))?
    }

    async fn open(&self, range: &Range) -> Result<ChunkStream> {
        let opened = locked(&self.files).open(range)?;
        let reading = match (opened, &self.content) {
            (Opened::Lines(lines), Content::Lines(format)) => {
                let rows = Rows::new(lines, format.decoder(self.schema.clone())?);
                Reading::Lines { rows, files: self.files.clone(), id: range.partition.clone() }
            }
            (Opened::Rows(file), Content::Rows(_)) => {
                Reading::Rows(file.read(&self.schema, range.start.offset..range.end.offset, CHUNK_ROWS)?)
            }
            _ => return Err(Error::bug("a file is read in another format than its table has")),
        };
        Ok(Box::pin(futures::stream::try_unfold(reading, |mut reading| async move {
            Ok(reading.next()?.map(|chunk| (chunk, reading)))
        })))
    }

    fn resume(&self, _at: &Positions, stamps: &Stamps) {
        locked(&self.files).resume(stamps);
    }

    async fn ready(&self) {
        let Some(interval) = self.interval else { return self.changes.woken().await };
        tokio::select! {
            () = self.changes.woken() => {}
            () = self.clock.sleep(interval) => self.changes.all(),
        }
    }
}

/// A range that is being read.
enum Reading {
    Lines { rows: Rows, files: Arc<Mutex<Files>>, id: PartitionId },
    Rows(NumberedRows),
}

impl Reading {
    fn next(&mut self) -> Result<Option<Chunk>> {
        match self {
            Self::Rows(rows) => rows.next(),
            Self::Lines { rows, files, id } => {
                let chunk = rows.next()?;
                if chunk.is_none() {
                    locked(files).give_back(id, rows.take_reader());
                }
                Ok(chunk)
            }
        }
    }
}

/// The table of files that the options describe, in the format that they name.
pub(super) fn table(spec: &TableSpec) -> Result<Arc<dyn SourceTable>> {
    let (content, schema) = match spec.options.get("format").map(str::to_ascii_lowercase).as_deref() {
        Some("parquet") => (Content::Rows(Stored::Parquet), spec.schema.clone()),
        Some("avro") => {
            AvroRows::new(&spec.schema)?;
            (Content::Rows(Stored::Avro), spec.schema.clone())
        }
        _ => crate::format::of_table(spec).map(|(format, schema)| (Content::Lines(format), schema))?,
    };
    // The last row of a key counts, so it must not depend on how the rows are cut which of them that is; and a row of a
    // changelog comes before it goes.
    let in_order = !spec.primary_key.is_empty() || schema.fields().len() > spec.schema.fields().len();
    Ok(Arc::new(FilesystemTable { schema, in_order, ..FilesystemTable::of(spec, content)? }))
}
