//! Formats, sources and sinks that need no service: files, generators, the terminal.
//!
//! Everything here implements the contracts of `millstream-core` and could have been written by a stranger:
//! it knows no engine and no SQL.

pub mod failpoint;
pub mod format;
pub mod options;
pub mod secret;
pub mod sink;
pub mod source;

use std::path::PathBuf;

use arrow::datatypes::SchemaRef;

pub use options::Options;

/// The key of a field's metadata that says what the column holds of a record beside its value: the `key` of
/// `METADATA FROM 'key'`.
pub const METADATA_KEY: &str = "millstream.metadata";

/// The key of a field's metadata that, with the value `true`, makes a metadata column one that is only read
/// (`METADATA VIRTUAL`): an INSERT knows nothing of it.
pub const VIRTUAL_KEY: &str = "millstream.virtual";

/// A table as it was declared: what `CREATE TABLE name (..) WITH (..)` says of it.
#[derive(Clone, Debug)]
pub struct TableSpec {
    /// The table's name.
    pub name: String,
    /// Its physical columns; computed columns are not among them. A field that is not nullable is NOT NULL.
    pub schema: SchemaRef,
    /// The `WITH` options, `connector` and `format` among them.
    pub options: Options,
    /// The columns of `PARTITIONED BY`.
    pub partitioned_by: Vec<String>,
    /// The columns of the PRIMARY KEY.
    pub primary_key: Vec<String>,
    /// What relative paths are relative to.
    pub base_dir: PathBuf,
}
