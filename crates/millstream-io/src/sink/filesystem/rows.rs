//! Rows to the bytes of one whole file: text through an encoder, Parquet and Avro through their own writers.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use millstream_core::format::Encoder;
use millstream_core::{Error, Result};

use super::durable::failed;
use crate::format::avro::AvroWriter;
use crate::format::parquet::ParquetWriter;

/// What text is collected before it is handed to the file system.
pub(super) const WRITE_BYTES: usize = 1 << 20;

/// The format of an output's files.
pub(super) enum FileFormat {
    /// NDJSON or CSV.
    Text {
        /// Writes the rows.
        encoder: Box<dyn Encoder>,
        /// What the files' names end with.
        extension: &'static str,
    },
    /// Parquet.
    Parquet,
    /// Avro.
    Avro,
}

/// Why a file was not written.
pub(super) enum WriteError {
    /// The file system refused.
    Io(std::io::Error),
    /// The rows have no place in the format.
    Format(millstream_core::Error),
}

impl WriteError {
    /// The error of writing to this file.
    pub(super) fn at(self, path: &Path) -> Error {
        match self {
            Self::Io(error) => failed("write", path, error),
            Self::Format(error) => error.at(path.display()),
        }
    }
}

impl From<std::io::Error> for WriteError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<millstream_core::Error> for WriteError {
    fn from(error: millstream_core::Error) -> Self {
        Self::Format(error)
    }
}

impl FileFormat {
    /// What the files' names end with, without a dot.
    pub(super) fn extension(&self) -> &'static str {
        match self {
            Self::Text { extension, .. } => extension,
            Self::Parquet => "parquet",
            Self::Avro => "avro",
        }
    }

    /// Writes a whole file.
    pub(super) fn write(
        &mut self,
        file: &mut File,
        schema: &SchemaRef,
        batches: &[RecordBatch],
    ) -> Result<(), WriteError> {
        match self {
            Self::Text { encoder, .. } => {
                let mut bytes = encoder.header()?;
                append_text(encoder.as_mut(), batches, &mut bytes, file)?;
                Ok(file.write_all(&bytes)?)
            }
            Self::Parquet => write_parquet(file, schema, batches),
            Self::Avro => write_avro(file, schema, batches),
        }
    }
}

/// Writes text in large pieces; what is less than one is left in `bytes`.
pub(super) fn append_text(
    encoder: &mut dyn Encoder,
    batches: &[RecordBatch],
    bytes: &mut Vec<u8>,
    file: &mut File,
) -> Result<u64, WriteError> {
    let mut written = 0;
    for batch in batches {
        encoder.encode(batch, bytes)?;
        if bytes.len() >= WRITE_BYTES {
            file.write_all(bytes)?;
            written += bytes.len() as u64;
            bytes.clear();
        }
    }
    Ok(written)
}

fn write_parquet(file: &mut File, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<(), WriteError> {
    let mut writer = ParquetWriter::new(schema.clone())?;
    for batch in batches {
        writer.write(batch)?;
    }
    Ok(file.write_all(&writer.finish()?)?)
}

fn write_avro(file: &mut File, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<(), WriteError> {
    let mut writer = AvroWriter::new(schema)?;
    for batch in batches {
        writer.write(batch)?;
    }
    Ok(file.write_all(&writer.finish()?)?)
}
