//! Files that a query names instead of a table: `FROM 'logs/*.ndjson'`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use millstream_core::batch::{PartitionId, Position};
use millstream_core::{Error, Result};

use super::input::Packing;
use super::lines::{LastLine, LineReader};
use super::listing::Listing;
use super::segment::Segment;
use crate::format::avro::AvroFile;
use crate::format::parquet::ParquetFile;
use crate::{Options, TableSpec};

/// So many files are sampled, and of each so many lines.
const FILES_SAMPLED: usize = 8;
const LINES_SAMPLED: usize = 500;

/// The table of the files at a path, as their endings and a sample of their rows say.
///
/// The format is told by the ending: `.ndjson`, `.jsonl` or `.json` (one object a line), `.csv` (with a header
/// line), `.parquet`, `.avro`; text may be packed, with `.gz` or `.zst` after it. Rows that do not fit what the sample
/// says are rejected like any other.
///
/// # Errors
/// [`millstream_core::ErrorKind::Config`] where the endings say nothing or differ;
/// [`millstream_core::ErrorKind::Input`] where there is no file, or no column can be told from what it holds.
pub fn infer_table(path_or_glob: &str, base_dir: &Path) -> Result<TableSpec> {
    let listing = Listing::new(path_or_glob, base_dir)?;
    let files = listing.files()?;
    if files.is_empty() {
        return Err(listing.nothing_found());
    }
    let format = format_of(&files)?;
    let mut options = vec![("connector", "filesystem"), ("path", path_or_glob), ("format", format)];
    if format == "csv" {
        options.push(("csv.header", "true"));
    }
    let options: Options = options.into_iter().collect();
    let schema: SchemaRef = match (format, files.values().next()) {
        ("parquet", Some(first)) => ParquetFile::open(first)?.schema().clone(),
        ("avro", Some(first)) => AvroFile::open(first)?.columns()?,
        _ => Arc::new(columns(&options, &files).map_err(|e| e.at(format!("'{path_or_glob}'")))?),
    };
    Ok(TableSpec {
        name: path_or_glob.to_string(),
        schema,
        options,
        partitioned_by: Vec::new(),
        primary_key: Vec::new(),
        base_dir: base_dir.to_path_buf(),
    })
}

fn columns(options: &Options, files: &BTreeMap<PartitionId, PathBuf>) -> Result<arrow::datatypes::Schema> {
    let header = options.get("csv.header").is_some();
    let mut sample: Vec<Segment> = Vec::new();
    let mut lines: Vec<(usize, usize)> = Vec::new();
    for (n, path) in files.values().take(FILES_SAMPLED).enumerate() {
        let mut reader = LineReader::open(path, Position::default())?;
        let Some(segment) = reader.next(u64::MAX, LastLine::Counts)? else { continue };
        let says_something = |line: &usize| {
            let line = segment.row(*line);
            line.too_long.is_none() && !line.bytes.trim_ascii().is_empty()
        };
        let rows = (0..segment.lines()).filter(says_something);
        // The header counts once.
        let headers = usize::from(header && n > 0);
        lines.extend(rows.take(LINES_SAMPLED).skip(headers).map(|line| (sample.len(), line)));
        sample.push(segment);
    }
    let record = |(segment, line): &(usize, usize)| Some(sample.get(*segment)?.row(*line).bytes);
    crate::format::infer(options, lines.iter().filter_map(record))
}

fn format_of(files: &BTreeMap<PartitionId, PathBuf>) -> Result<&'static str> {
    let mut found: Option<(&PartitionId, &'static str)> = None;
    for (id, path) in files {
        let format = ending(path).ok_or_else(|| {
            Error::config(format!(
                "the ending of '{id}' does not say what the file holds: it is read as it is with .ndjson, .jsonl, .json, \
                 .csv, .parquet or .avro (text also with .gz or .zst after it); else declare it with CREATE TABLE"
            ))
        })?;
        match found {
            Some((first, other)) if other != format => {
                return Err(Error::config(format!(
                    "'{first}' is {other} and '{id}' is {format}: one table holds files of one format; name the files \
                     more narrowly, such as '*.ndjson'"
                )));
            }
            _ => found = Some((id, format)),
        }
    }
    found.map(|(_, format)| format).ok_or_else(|| Error::bug("no files to tell a format from"))
}

fn ending(path: &Path) -> Option<&'static str> {
    let packed = Packing::of_name(path) != Packing::None;
    let bare = if packed { path.file_stem().map(Path::new)? } else { path };
    match bare.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "ndjson" | "jsonl" | "json" => Some("json"),
        "csv" => Some("csv"),
        "parquet" if !packed => Some("parquet"),
        "avro" if !packed => Some("avro"),
        _ => None,
    }
}
