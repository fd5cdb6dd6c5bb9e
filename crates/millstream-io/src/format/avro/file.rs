//! One file of Avro: a header with the schema of its writer, and blocks of records, each with their number and its size, so
//! that a row is found by its number without reading those before it (Apache Avro 1.12, "Object Container Files").
//!
//! ```text
//! Obj 1 | metadata: avro.schema, avro.codec | sync | rows bytes <data> sync | rows bytes <data> sync | ..
//! ```
//!
//! A file that is cut short or damaged is an error that names it: never rows that were not written.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use millstream_core::batch::Place;
use millstream_core::source::Chunk;
use millstream_core::{Error, Result};

use super::{AvroRows, Schema};

const MAGIC: &[u8; 4] = b"Obj\x01";

/// Bytes of a header's entry, and of a block when it is unpacked: more is taken for damage.
const HEADER_BYTES_MAX: u64 = 64 << 20;
const BLOCK_BYTES_MAX: u64 = 1 << 30;

/// How blocks are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Codec {
    Null,
    Deflate,
    Snappy,
    Zstandard,
}

/// Where some rows lie.
#[derive(Clone, Copy, Debug)]
struct Block {
    first: u64,
    rows: u64,
    at: u64,
    bytes: u64,
}

/// A file of Avro whose header was read, and of each block where it lies.
#[derive(Clone, Debug)]
pub struct AvroFile {
    path: PathBuf,
    writer: Arc<Schema>,
    codec: Codec,
    blocks: Arc<[Block]>,
    rows: u64,
}

impl AvroFile {
    /// Reads the header, and steps over the blocks.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Input`] that names the file, where it can't be opened or is no whole file of Avro.
    pub fn open(path: &Path) -> Result<Self> {
        let mut input = Input::open(path)?;
        let size = input.file.get_ref().metadata().map_err(|e| broken(path, e))?.len();
        if &input.array::<4>()? != MAGIC {
            return Err(broken(path, "it does not begin as one"));
        }
        let (mut schema, mut codec) = (None, Codec::Null);
        for (name, value) in input.metadata()? {
            match name.as_slice() {
                b"avro.schema" => {
                    let text = String::from_utf8(value).map_err(|e| broken(path, e))?;
                    schema = Some(Schema::parse(&text).map_err(|e| broken(path, format!("its schema: {e}")))?);
                }
                b"avro.codec" => codec = codec_of(path, &value)?,
                _ => {}
            }
        }
        let writer = Arc::new(schema.ok_or_else(|| broken(path, "it has no schema"))?);
        let sync = input.array::<16>()?;
        let (mut blocks, mut rows) = (Vec::new(), 0_u64);
        while input.at < size {
            let (count, bytes) = (input.size()?, input.size()?);
            let block = Block { first: rows, rows: count, at: input.at, bytes };
            input.skip(bytes, size)?;
            if input.array::<16>()? != sync {
                return Err(broken(path, format!("the block at byte {} does not end where it says", block.at)));
            }
            rows =
                rows.checked_add(count).ok_or_else(|| broken(path, "its blocks count more rows than there can be"))?;
            if count > 0 {
                blocks.push(block);
            }
        }
        Ok(Self { path: path.to_path_buf(), writer, codec, blocks: blocks.into(), rows })
    }

    /// The columns that its records fill.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where one of its fields is no column.
    pub fn columns(&self) -> Result<SchemaRef> {
        let columns = self.writer.columns();
        Ok(Arc::new(columns.map_err(|why| Error::config(format!("the file '{}': {why}", self.path.display())))?))
    }

    /// How many rows it has.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The rows with these numbers, in chunks of at most `chunk_rows`, in the columns of `schema`.
    ///
    /// Only the blocks that hold the rows are read. The same range gives the same chunks.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Input`] where the file can't be opened and, from the iterator, where it is damaged.
    pub fn read(&self, schema: &SchemaRef, rows: Range<u64>, chunk_rows: usize) -> Result<AvroChunks> {
        let block = self.blocks.partition_point(|block| block.first + block.rows <= rows.start);
        Ok(AvroChunks {
            file: self.clone(),
            input: Input::open(&self.path)?,
            rows: AvroRows::new(schema)?,
            next: rows.start,
            end: rows.end.min(self.rows),
            chunk_rows: chunk_rows.max(1) as u64,
            block,
            open: None,
        })
    }
}

fn codec_of(path: &Path, name: &[u8]) -> Result<Codec> {
    match name {
        b"null" => Ok(Codec::Null),
        b"deflate" => Ok(Codec::Deflate),
        b"snappy" => Ok(Codec::Snappy),
        b"zstandard" => Ok(Codec::Zstandard),
        other => Err(Error::input(format!(
            "{}: its blocks are packed with '{}', which is not read here: write it with deflate, snappy or zstandard",
            path.display(),
            String::from_utf8_lossy(other)
        ))),
    }
}

fn broken(path: &Path, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::input(format!(
        "{}: this is no whole file of Avro (cut short while it was written, damaged, or another format): write it again, or \
         move it away",
        path.display()
    ))
    .caused_by(why)
}

/// The rows of a range, chunk by chunk.
#[derive(Debug)]
pub struct AvroChunks {
    file: AvroFile,
    input: Input,
    rows: AvroRows,
    next: u64,
    end: u64,
    chunk_rows: u64,
    /// The block to read next.
    block: usize,
    open: Option<Open>,
}

/// A block that was read: what of it is left, and the number of the row that this begins with.
#[derive(Debug)]
struct Open {
    bytes: Vec<u8>,
    at: usize,
    next: u64,
    end: u64,
}

impl Iterator for AvroChunks {
    type Item = Result<Chunk>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        let chunk = self.chunk();
        if chunk.is_err() {
            // What comes after it is not known to be what it seems.
            self.end = self.next;
        }
        Some(chunk)
    }
}

impl AvroChunks {
    fn chunk(&mut self) -> Result<Chunk> {
        let until = self.end.min(self.next + self.chunk_rows);
        while self.next < until {
            let open = match &mut self.open {
                Some(open) if open.next < open.end => open,
                _ => {
                    let opened = self.open_block()?;
                    self.open.insert(opened)
                }
            };
            let bytes = open.bytes.get(open.at..).unwrap_or_default();
            let number = open.next;
            let rest = if number < self.next {
                super::transcode::skip(&self.file.writer, bytes)
            } else {
                self.next += 1;
                self.rows.push_first(&self.file.writer, bytes, Place { offset: number, row: number })
            };
            let rest = rest.map_err(|e| broken(&self.file.path, format!("row {number}: {e}")))?.len();
            open.at = open.bytes.len() - rest;
            open.next += 1;
            if open.next == open.end && rest > 0 {
                return Err(broken(&self.file.path, format!("{rest} bytes follow row {number} in its block")));
            }
        }
        self.rows.finish()
    }

    fn open_block(&mut self) -> Result<Open> {
        let path = &self.file.path;
        let block = self.file.blocks.get(self.block);
        let block = *block.ok_or_else(|| broken(path, format!("it ends at row {}", self.next)))?;
        self.block += 1;
        let mut packed = vec![0; usize::try_from(block.bytes).map_err(|e| broken(path, e))?];
        self.input.file.seek(SeekFrom::Start(block.at)).map_err(|e| broken(path, e))?;
        self.input.file.read_exact(&mut packed).map_err(|e| broken(path, e))?;
        let bytes = unpack(self.file.codec, packed)
            .map_err(|e| broken(path, format!("the block at byte {}: {e}", block.at)))?;
        Ok(Open { bytes, at: 0, next: block.first, end: block.first + block.rows })
    }
}

fn unpack(codec: Codec, packed: Vec<u8>) -> std::result::Result<Vec<u8>, String> {
    let bounded = |reader: &mut dyn Read| {
        let mut bytes = Vec::new();
        reader.take(BLOCK_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        if bytes.len() as u64 > BLOCK_BYTES_MAX { Err("it is too large".to_string()) } else { Ok(bytes) }
    };
    match codec {
        Codec::Null => Ok(packed),
        Codec::Deflate => bounded(&mut flate2::read::DeflateDecoder::new(packed.as_slice())),
        Codec::Zstandard => {
            bounded(&mut zstd::stream::read::Decoder::new(packed.as_slice()).map_err(|e| e.to_string())?)
        }
        Codec::Snappy => {
            let (body, sum) = packed.split_last_chunk::<4>().ok_or("it is too short")?;
            let len = snap::raw::decompress_len(body).map_err(|e| e.to_string())?;
            if len as u64 > BLOCK_BYTES_MAX {
                return Err("it is too large".into());
            }
            let bytes = snap::raw::Decoder::new().decompress_vec(body).map_err(|e| e.to_string())?;
            if crc32fast::hash(&bytes) != u32::from_be_bytes(*sum) {
                return Err("its checksum is another one".into());
            }
            Ok(bytes)
        }
    }
}

/// A file that is read from its start, which knows where it is.
#[derive(Debug)]
struct Input {
    path: PathBuf,
    file: BufReader<File>,
    at: u64,
}

impl Input {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| {
            Error::input(format!("{}: the file of Avro can't be opened; is it there and readable?", path.display()))
                .caused_by(error)
        })?;
        Ok(Self { path: path.to_path_buf(), file: BufReader::new(file), at: 0 })
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.file.read_exact(bytes).map_err(|e| broken(&self.path, e))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// A zigzag number of variable length.
    fn long(&mut self) -> Result<i64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array::<1>()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()));
            }
        }
        Err(broken(&self.path, "a number is longer than ten bytes"))
    }

    /// A number that counts something.
    fn size(&mut self) -> Result<u64> {
        let value = self.long()?;
        u64::try_from(value).map_err(|_| broken(&self.path, format!("{value} is no size")))
    }

    fn bytes(&mut self) -> Result<Vec<u8>> {
        let len = self.size()?;
        if len > HEADER_BYTES_MAX {
            return Err(broken(&self.path, "its header is too large"));
        }
        let mut bytes = Vec::new();
        let read = (&mut self.file).take(len).read_to_end(&mut bytes).map_err(|e| broken(&self.path, e))?;
        self.at += read as u64;
        if read as u64 == len { Ok(bytes) } else { Err(broken(&self.path, "its header ends too early")) }
    }

    /// The entries of the header's map, which come in blocks.
    fn metadata(&mut self) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut entries = Vec::new();
        loop {
            let mut count = self.long()?;
            if count == 0 {
                return Ok(entries);
            }
            if count < 0 {
                // The bytes of the block, for those who step over it.
                self.long()?;
                count = count.saturating_neg();
            }
            for _ in 0..count {
                entries.push((self.bytes()?, self.bytes()?));
            }
        }
    }

    fn skip(&mut self, bytes: u64, size: u64) -> Result<()> {
        let left = size.saturating_sub(self.at);
        let step = i64::try_from(bytes).ok().filter(|_| bytes <= left);
        let step = step.ok_or_else(|| broken(&self.path, format!("a block of {bytes} bytes lies in {left}")))?;
        self.file.seek_relative(step).map_err(|e| broken(&self.path, e))?;
        self.at += bytes;
        Ok(())
    }
}
