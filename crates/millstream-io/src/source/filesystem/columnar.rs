//! One Parquet file: a position is a row number, and the file is read once it is whole.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use millstream_core::batch::{Position, Range};
use millstream_core::source::Limit;
use millstream_core::{Error, Result};
use xxhash_rust::xxh3::xxh3_64;

use super::cursor::Cursor;
use super::identity::{FileIdentity, Stamp, changed, io_error};
use crate::format::parquet::ParquetFile;

/// So many bytes at the end of the file stand for the whole: they name where every column lies, with its
/// smallest and largest value.
const FOOTER_BYTES: u64 = 64 << 10;

/// A Parquet file, once its footer was read.
#[derive(Debug, Default)]
pub(super) struct RowFile {
    footer: Option<Footer>,
}

#[derive(Clone, Debug)]
struct Footer {
    file: Arc<ParquetFile>,
    hash: u64,
    /// Rows lie this far apart on average.
    row_bytes: u64,
}

impl RowFile {
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
    pub(super) fn file(&self) -> Option<Arc<ParquetFile>> {
        Some(self.footer.as_ref()?.file.clone())
    }

    fn footer(&mut self, path: &Path, size: u64) -> Result<&Footer> {
        let footer = match self.footer.take() {
            Some(footer) => footer,
            None => {
                let file = ParquetFile::open(path)?;
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
pub(super) fn verified(path: &Path, range: &Range, known: Option<Arc<ParquetFile>>) -> Result<Arc<ParquetFile>> {
    let stamp: Stamp = range.stamp.parse().map_err(|e: Error| e.at(format!("a range of '{}'", range.partition)))?;
    let Some(found) = FileIdentity::at(path)? else { return Err(changed(path, "vanished", &stamp, None)) };
    if !stamp.is_unchanged(&found) && (stamp.size != found.size || stamp.hash != footer_hash(path)?) {
        return Err(changed(path, "was rewritten", &stamp, Some(&found)));
    }
    match known {
        Some(file) => Ok(file),
        None => Ok(Arc::new(ParquetFile::open(path)?)),
    }
}
