//! One file of Parquet or Avro: a position is a row number, and the file is read once it is whole.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use millstream_core::batch::{self, Position};
use millstream_core::source::{Chunk, Limit};
use millstream_core::{Error, Result};
use xxhash_rust::xxh3::xxh3_64;

use super::cursor::Cursor;
use super::identity::{FileIdentity, Stamp, changed, io_error};
use crate::format::avro::{AvroChunks, AvroFile};
use crate::format::parquet::{ParquetFile, ParquetRows};

/// So many bytes at the end of the file stand for the whole. Of Parquet they name where every column lies, with its
/// smallest and largest value; of Avro they end with a mark that every file has of its own.
const FOOTER_BYTES: u64 = 64 << 10;

/// How rows with numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    Parquet,
    Avro,
}

/// A file whose rows have numbers.
#[derive(Debug)]
pub(super) enum Numbered {
    Parquet(ParquetFile),
    Avro(AvroFile),
}

/// Some of its rows, chunk by chunk.
pub(super) enum NumberedRows {
    Parquet(ParquetRows),
    Avro(AvroChunks),
}

impl Numbered {
    pub(super) fn open(stored: Stored, path: &Path) -> Result<Self> {
        Ok(match stored {
            Stored::Parquet => Self::Parquet(ParquetFile::open(path)?),
            Stored::Avro => Self::Avro(AvroFile::open(path)?),
        })
    }

    fn rows(&self) -> u64 {
        match self {
            Self::Parquet(file) => file.rows(),
            Self::Avro(file) => file.rows(),
        }
    }

    pub(super) fn read(&self, schema: &SchemaRef, rows: Range<u64>, chunk_rows: usize) -> Result<NumberedRows> {
        Ok(match self {
            Self::Parquet(file) => NumberedRows::Parquet(file.read(schema, rows, chunk_rows)?),
            Self::Avro(file) => NumberedRows::Avro(file.read(schema, rows, chunk_rows)?),
        })
    }
}

impl NumberedRows {
    pub(super) fn next(&mut self) -> Result<Option<Chunk>> {
        match self {
            Self::Parquet(rows) => rows.next().transpose(),
            Self::Avro(rows) => rows.next().transpose(),
        }
    }
}

/// A file whose rows have numbers, once it is known how many.
#[derive(Debug)]
pub(super) struct RowFile {
    stored: Stored,
    footer: Option<Footer>,
}

#[derive(Clone, Debug)]
struct Footer {
    file: Arc<Numbered>,
    hash: u64,
    /// Rows lie this far apart on average.
    row_bytes: u64,
}

impl RowFile {
    pub(super) fn new(stored: Stored) -> Self {
        Self { stored, footer: None }
    }

    pub(super) fn stored(&self) -> Stored {
        self.stored
    }

    /// Takes rows up to the limit, from which it takes off what it took.
    pub(super) fn take(&mut self, cursor: &mut Cursor, limit: &mut Limit, path: &Path, size: u64) -> Result<()> {
        let footer = self.footer(path, size)?;
        let left = footer.file.rows().saturating_sub(cursor.at.offset);
        let rows = left.min(limit.rows).min(limit.bytes / footer.row_bytes);
        limit.rows -= rows;
        limit.bytes -= rows * footer.row_bytes;
        cursor.at = position(cursor.at.offset + rows);
        cursor.more = rows < left;
        Ok(())
    }

    /// Takes the next row; whether there was one.
    pub(super) fn take_one(&mut self, cursor: &mut Cursor, path: &Path, size: u64) -> Result<bool> {
        let one = cursor.at.offset < self.footer(path, size)?.file.rows();
        cursor.at = position(cursor.at.offset + u64::from(one));
        Ok(one)
    }

    /// How many rows there are, once that is known.
    pub(super) fn end(&self) -> Option<u64> {
        Some(self.footer.as_ref()?.file.rows())
    }

    /// About how many bytes lie past this position.
    pub(super) fn behind(&self, at: Position, size: u64) -> u64 {
        let rest = |footer: &Footer| footer.file.rows().saturating_sub(at.offset).saturating_mul(footer.row_bytes);
        self.footer.as_ref().map_or(size, rest)
    }

    /// What stands for the file's content in a stamp.
    pub(super) fn hash(&self) -> u64 {
        self.footer.as_ref().map_or(0, |footer| footer.hash)
    }

    /// The file, where its footer was read.
    pub(super) fn file(&self) -> Option<Arc<Numbered>> {
        Some(self.footer.as_ref()?.file.clone())
    }

    fn footer(&mut self, path: &Path, size: u64) -> Result<&Footer> {
        let footer = match self.footer.take() {
            Some(footer) => footer,
            None => {
                let file = Numbered::open(self.stored, path)?;
                let row_bytes = (size / file.rows().max(1)).max(1);
                Footer { file: Arc::new(file), hash: footer_hash(path)?, row_bytes }
            }
        };
        Ok(self.footer.insert(footer))
    }
}

fn position(row: u64) -> Position {
    Position { offset: row, row }
}

fn footer_hash(path: &Path) -> Result<u64> {
    let failed = |e| io_error(path, "read", e);
    let mut file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(FOOTER_BYTES))).map_err(failed)?;
    let mut footer = Vec::new();
    file.take(FOOTER_BYTES).read_to_end(&mut footer).map_err(failed)?;
    Ok(xxh3_64(&footer))
}

/// The file of a range, which is what it was when the range was offered.
pub(super) fn verified(
    stored: Stored,
    path: &Path,
    range: &batch::Range,
    known: Option<Arc<Numbered>>,
) -> Result<Arc<Numbered>> {
    let stamp: Stamp = range.stamp.parse().map_err(|e: Error| e.at(format!("a range of '{}'", range.partition)))?;
    let Some(found) = FileIdentity::at(path)? else { return Err(changed(path, "vanished", &stamp, None)) };
    if !stamp.is_unchanged(&found) && (stamp.size != found.size || stamp.hash != footer_hash(path)?) {
        return Err(changed(path, "was rewritten", &stamp, Some(&found)));
    }
    match known {
        Some(file) => Ok(file),
        None => Ok(Arc::new(Numbered::open(stored, path)?)),
    }
}
