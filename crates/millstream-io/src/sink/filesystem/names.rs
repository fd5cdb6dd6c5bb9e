//! The names of everything a filesystem sink puts on a disk: built here and nowhere else.
//!
//! ```text
//! out/alerts-000000000017-0.ndjson             rows of batch 17, its first file
//! out/dt=2026-01-01/alerts-000000000018-1.ndjson
//! out/.alerts-000000000019-0.ndjson.tmp        being written
//! out/.millstream-alerts.json                  the marker
//! out/.millstream-alerts.lock                  held while the query runs
//!
//! alerts.ndjson                                one growing file
//! .millstream-alerts.ndjson.journal            its markers
//! .millstream-alerts.ndjson.lock
//! ```
//!
//! Names that begin with a dot are not seen by `*`, nor by readers of directories of files.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use millstream_core::batch::BatchId;

/// What a file name of an output says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// Rows of this batch, in place.
    Rows(BatchId),
    /// Rows that are being written.
    Temporary,
}

/// The names of one query's files within a directory.
#[derive(Clone, Debug)]
pub(super) struct DirNames {
    query: String,
    extension: &'static str,
}

impl DirNames {
    pub(super) fn new(query: &str, extension: &'static str) -> Self {
        Self { query: escape_query(query), extension }
    }

    /// The `index`-th file of a batch.
    pub(super) fn rows(&self, batch: BatchId, index: usize) -> String {
        format!("{}-{:012}-{index}.{}", self.query, batch.0, self.extension)
    }

    /// What a file is called until it is in place.
    pub(super) fn temporary(name: &str) -> String {
        format!(".{name}.tmp")
    }

    pub(super) fn marker(&self) -> String {
        format!(".millstream-{}.json", self.query)
    }

    pub(super) fn lock(&self) -> String {
        format!(".millstream-{}.lock", self.query)
    }

    /// What this query means by the name; `None` where it is not one of its own.
    pub(super) fn read(&self, name: &str) -> Option<Named> {
        if let Some(hidden) = name.strip_prefix('.') {
            let rows = self.batch(hidden.strip_suffix(".tmp")?)?;
            return Some(rows).map(|_| Named::Temporary);
        }
        self.batch(name).map(Named::Rows)
    }

    fn batch(&self, name: &str) -> Option<BatchId> {
        let rest = name.strip_prefix(&self.query)?.strip_prefix('-')?;
        let (batch, index) = rest.strip_suffix(self.extension)?.strip_suffix('.')?.split_once('-')?;
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if batch.len() < 12 || !digits(batch) || !digits(index) {
            return None;
        }
        batch.parse().ok().map(BatchId)
    }
}

/// The names beside one growing file.
#[derive(Clone, Debug)]
pub(super) struct FileNames {
    pub(super) journal: PathBuf,
    pub(super) journal_temporary: PathBuf,
    pub(super) lock: PathBuf,
}

impl FileNames {
    /// `None` where the path ends in no name.
    pub(super) fn new(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        Some(Self {
            journal: path.with_file_name(format!(".millstream-{name}.journal")),
            journal_temporary: path.with_file_name(format!(".millstream-{name}.journal.tmp")),
            lock: path.with_file_name(format!(".millstream-{name}.lock")),
        })
    }
}

/// A query's name as a part of a file's: what is no letter, digit, `_`, or `-` is written `%XX`.
fn escape_query(query: &str) -> String {
    let mut out = String::with_capacity(query.len());
    for byte in query.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_knows_its_own_files_and_no_others() {
        let names = DirNames::new("alerts", "ndjson");
        let name = names.rows(BatchId(17), 3);
        assert_eq!(name, "alerts-000000000017-3.ndjson");
        assert_eq!(names.read(&name), Some(Named::Rows(BatchId(17))));
        assert_eq!(names.read(&DirNames::temporary(&name)), Some(Named::Temporary));
        for other in ["alerts.ndjson", "alerts-2-1.ndjson", "alerts-000000000017-3.csv", "x", ".x.tmp"] {
            assert_eq!(names.read(other), None, "{other}");
        }
        let longer = DirNames::new("alerts-000000000001", "ndjson").rows(BatchId(2), 0);
        assert_eq!(names.read(&longer), None, "another query's file, whose name begins alike");
    }

    #[test]
    fn a_query_name_cannot_leave_the_directory_nor_hide_its_files() {
        assert_eq!(DirNames::new("../a b", "csv").rows(BatchId(1), 0), "%2E%2E%2Fa%20b-000000000001-0.csv");
    }

    #[test]
    fn a_batch_beyond_twelve_digits_is_read_back() {
        let names = DirNames::new("q", "csv");
        let big = BatchId(12_345_678_901_234);
        assert_eq!(names.read(&names.rows(big, 0)), Some(Named::Rows(big)));
    }
}
