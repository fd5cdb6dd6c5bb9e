//! Outputs, read as somebody reads them who knows nothing of Millstream: lines and files, no marker, no journal.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::data::canonical;

/// How an output lies on the disk.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A growing NDJSON file.
    Append,
    /// A growing NDJSON file of changes; its rows are what is left of them.
    Changelog,
    /// NDJSON, a file a batch.
    Json,
    /// CSV, a file a batch, the first column in the names of the directories.
    PartitionedCsv,
    /// Parquet, a file a batch.
    Parquet,
}

/// The rows at this path, sorted, in these columns.
pub fn rows(kind: Kind, path: &Path, columns: &[&str]) -> Result<Vec<String>, String> {
    let mut rows = match kind {
        Kind::Append => json_lines(path, columns)?,
        Kind::Changelog => fold(json_lines(path, &[&["op"], columns].concat())?)?,
        Kind::Json => each(path, "ndjson", |file| json_lines(file, columns))?,
        Kind::PartitionedCsv => each(path, "csv", csv_lines)?,
        Kind::Parquet => each(path, "parquet", |file| parquet(file, columns))?,
    };
    rows.sort();
    Ok(rows)
}

/// The rows of a whole NDJSON file. Half a line is no output that may be left behind.
fn json_lines(path: &Path, columns: &[&str]) -> Result<Vec<String>, String> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(format!("{}: {e}", path.display())),
    };
    if !text.is_empty() && !text.ends_with('\n') {
        return Err(format!("{} ends within a line", path.display()));
    }
    let mut rows = vec![];
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).map_err(|e| format!("{}: {e} in {line}", path.display()))?;
        let text = |column: &&str| match &row[*column] {
            Value::String(text) => canonical(text),
            other => other.to_string(),
        };
        if row.as_object().is_none_or(|object| object.len() != columns.len()) {
            return Err(format!("{}: other columns than {columns:?}: {line}", path.display()));
        }
        rows.push(columns.iter().map(text).collect::<Vec<_>>().join("|"));
    }
    Ok(rows)
}

/// What is left of changes: each takes away only what is there.
fn fold(changes: Vec<String>) -> Result<Vec<String>, String> {
    let mut there: BTreeMap<String, i64> = BTreeMap::new();
    for change in changes {
        let (op, row) = change.split_once('|').ok_or("a change without a row")?;
        let count = there.entry(row.to_string()).or_default();
        *count += match op {
            "+I" | "+U" => 1,
            "-U" | "-D" => -1,
            _ => return Err(format!("no such change: {change}")),
        };
        if *count < 0 {
            return Err(format!("{change} takes away what is not there"));
        }
    }
    Ok(there.into_iter().flat_map(|(row, n)| (0..n).map(move |_| row.clone())).collect())
}

fn csv_lines(file: &Path) -> Result<Vec<String>, String> {
    let dir = file.parent().and_then(Path::file_name).and_then(|n| n.to_str()).unwrap_or_default();
    let (_, first) = dir.split_once('=').ok_or_else(|| format!("{} is in no partition", file.display()))?;
    let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let row = |line: &str| {
        let fields = std::iter::once(first.to_string()).chain(line.split(',').map(field));
        fields.collect::<Vec<_>>().join("|")
    };
    Ok(text.lines().map(row).collect())
}

fn field(text: &str) -> String {
    if text.is_empty() { "null".to_string() } else { canonical(text) }
}

fn parquet(file: &Path, columns: &[&str]) -> Result<Vec<String>, String> {
    let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
    let opened = fs::File::open(file).map_err(|e| failed(&e))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(opened).and_then(|b| b.build()).map_err(|e| failed(&e))?;
    let mut rows = vec![];
    for batch in reader {
        let batch = batch.map_err(|e| failed(&e))?;
        let options = FormatOptions::default().with_null("null");
        let columns: Vec<_> = columns
            .iter()
            .map(|name| ArrayFormatter::try_new(batch.column_by_name(name).unwrap().as_ref(), &options).unwrap())
            .collect();
        let text = |row: usize| columns.iter().map(move |c| canonical(&c.value(row).to_string()));
        rows.extend((0..batch.num_rows()).map(|row| text(row).collect::<Vec<_>>().join("|")));
    }
    Ok(rows)
}

/// The rows of every file that is to be seen below a directory.
fn each(
    dir: &Path,
    extension: &str,
    read: impl Fn(&Path) -> Result<Vec<String>, String>,
) -> Result<Vec<String>, String> {
    let (mut rows, mut dirs) = (vec![], vec![dir.to_path_buf()]);
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()).filter(|path: &PathBuf| !hidden(path)) {
            match path.extension().and_then(|e| e.to_str()) {
                _ if path.is_dir() => dirs.push(path),
                Some(found) if found == extension => rows.extend(read(&path)?),
                _ => return Err(format!("{} is no output", path.display())),
            }
        }
    }
    Ok(rows)
}

fn hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}
