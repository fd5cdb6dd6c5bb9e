//! Formats: bytes of records to Arrow rows and back.
//!
//! A record that is no row of the declared schema is rejected with its reason and never fails a batch;
//! nothing is rounded, wrapped or guessed silently. Options carry Flink's names where Flink has them.

pub mod avro;
mod changelog;
pub mod csv;
mod infer;
pub mod json;
mod leaf;
pub mod parquet;
pub mod raw;
mod scalar;
mod text;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use millstream_core::batch::Place;
use millstream_core::format::{Encoder, Format};
use millstream_core::source::Rejected;
use millstream_core::{Error, Result};

use crate::{Options, TableSpec};

pub use changelog::WEIGHT;
pub use infer::infer;
pub use leaf::{EPOCH_KEY, JSON_KEY};

/// The format of a table, and the columns that it gives: those that were declared and, where it is a changelog
/// (`debezium-json`, `canal-json`), a last one, [`WEIGHT`]. A source of records needs no more to read both.
///
/// # Errors
/// As [`format()`].
pub fn of_table(spec: &TableSpec) -> Result<(Arc<dyn Format>, SchemaRef)> {
    match changelog::of_table(spec)? {
        Some(changelog) => Ok(changelog),
        None => Ok((format(&spec.options, &spec.schema)?, Arc::clone(&spec.schema))),
    }
}

/// The format that the options name, for rows of this schema: one without changes.
///
/// # Errors
/// [`millstream_core::ErrorKind::Config`] where `format` is missing or unknown, an option of the format is not
/// understood, or the schema has a type that the format can't give.
pub fn format(options: &Options, schema: &SchemaRef) -> Result<Arc<dyn Format>> {
    match options.required("format")?.to_ascii_lowercase().as_str() {
        "json" | "ndjson" => Ok(Arc::new(json::JsonFormat::new(options, schema)?)),
        "csv" => Ok(Arc::new(csv::CsvFormat::new(options, schema)?)),
        "raw" => Ok(Arc::new(raw::RawFormat::new(schema)?)),
        other @ ("debezium-json" | "canal-json") => {
            Err(Error::config(format!("the format '{other}' is a changelog, which can't be read from here")))
        }
        other => Err(unknown(other)),
    }
}

/// What writes rows of this schema in the format that the options name.
///
/// # Errors
/// [`millstream_core::ErrorKind::Config`] where `format` is missing or unknown, or an option of the format is not
/// understood.
pub fn encoder(options: &Options, schema: &SchemaRef) -> Result<Box<dyn Encoder>> {
    match options.required("format")?.to_ascii_lowercase().as_str() {
        "json" | "ndjson" => Ok(Box::new(json::JsonEncoder::new(options, schema)?)),
        "csv" => Ok(Box::new(csv::CsvEncoder::new(options, schema)?)),
        other => {
            let nearest = crate::options::nearest(other, ["json", "csv"].into_iter());
            let hint = nearest.map(|nearest| format!("; did you mean '{nearest}'?")).unwrap_or_default();
            Err(Error::config(format!(
                "the format '{other}' can't be written row by row: choose 'json' or 'csv'{hint}"
            )))
        }
    }
}

fn unknown(name: &str) -> Error {
    let nearest = crate::options::nearest(
        name,
        ["json", "csv", "parquet", "avro", "raw", "debezium-json", "canal-json"].into_iter(),
    );
    let hint = nearest.map(|nearest| format!("; did you mean '{nearest}'?")).unwrap_or_default();
    Error::config(format!(
        "the format '{name}' is not known: records are read as 'json', 'csv', 'raw', 'debezium-json' or \
                           'canal-json'{hint}"
    ))
}

/// Flink drops bad rows silently where it is told to; here they are kept, so there is nothing to be told.
fn refuse_silence(options: &Options, name: &str) -> Result<()> {
    match options.parsed::<bool>(name)? {
        Some(true) => Err(Error::config(format!(
            "'{name}' = 'true' is not supported: bad rows never stop a query and are never dropped silently, they go \
             to the table <source>$rejected; remove the option"
        ))),
        _ => Ok(()),
    }
}

/// The record without the byte order mark that a file may begin with.
fn strip_mark(record: &[u8], place: Place) -> &[u8] {
    if place.row == 0 { record.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(record) } else { record }
}

/// As much of a rejected record as is kept.
const RAW_BYTES_MAX: usize = 64 * 1024;

fn rejected(record: &[u8], place: Place, reason: String) -> Rejected {
    Rejected { place, reason, raw: record.get(..RAW_BYTES_MAX).unwrap_or(record).to_vec() }
}

#[cfg(test)]
mod generate;
#[cfg(test)]
mod round_trip;
