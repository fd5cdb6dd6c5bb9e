//! The manifest of a checkpoint: which segments make up the state of which operator.
//!
//! ```json
//! {
//!   "format": 1, "engine": "0.1.0", "batch": 12,
//!   "files": [{"name": "segments-000000000012-0-89abcdef.arrow", "bytes": 2048, "crc32": 2309737967}],
//!   "operators": {
//!     "aggregate-5f2a": {
//!       "kind": "window aggregate",
//!       "tables": {
//!         "groups": {
//!           "keys": [["k", "Int64"]], "values": [["sum", "Float64"]], "paned": true,
//!           "panes": [{"pane": 600, "keys": 2, "segments": [[0, 0, 3, 1, 112]]}]
//!         }
//!       },
//!       "notes": {"next": "7"}
//!     }
//!   }
//! }
//! ```
//! A segment is `[file, record batch, rows, removed, bytes]`: its place (the file by its number in `files`),
//! its rows, how many of them, at the start, are removed keys, and the bytes it weighs.

use std::collections::BTreeMap;

use arrow::datatypes::Fields;
use millstream_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::operator::StateInfo;

/// The version of the form that is written, and the newest that can be read.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    pub(crate) engine: String,
    pub(crate) batch: u64,
    pub(crate) files: Vec<FileEntry>,
    pub(crate) operators: BTreeMap<String, OperatorEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FileEntry {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) crc32: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OperatorEntry {
    pub(crate) kind: String,
    pub(crate) tables: BTreeMap<String, TableEntry>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) notes: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TableEntry {
    pub(crate) keys: Vec<(String, String)>,
    pub(crate) values: Vec<(String, String)>,
    pub(crate) paned: bool,
    pub(crate) panes: Vec<PaneEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PaneEntry {
    pub(crate) pane: i64,
    pub(crate) keys: usize,
    pub(crate) segments: Vec<SegmentEntry>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(from = "(usize, usize, usize, usize, usize)", into = "(usize, usize, usize, usize, usize)")]
pub(crate) struct SegmentEntry {
    pub(crate) file: usize,
    pub(crate) batch: usize,
    pub(crate) rows: usize,
    pub(crate) removed: usize,
    pub(crate) bytes: usize,
}

impl From<(usize, usize, usize, usize, usize)> for SegmentEntry {
    fn from((file, batch, rows, removed, bytes): (usize, usize, usize, usize, usize)) -> Self {
        Self { file, batch, rows, removed, bytes }
    }
}

impl From<SegmentEntry> for (usize, usize, usize, usize, usize) {
    fn from(s: SegmentEntry) -> Self {
        (s.file, s.batch, s.rows, s.removed, s.bytes)
    }
}

impl Manifest {
    pub(crate) fn new(batch: u64) -> Self {
        let engine = env!("CARGO_PKG_VERSION").to_string();
        Self { format: FORMAT, engine, batch, files: Vec::new(), operators: BTreeMap::new() }
    }

    /// Reads a manifest.
    pub(crate) fn parse(name: &str, bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
            #[serde(default)]
            engine: String,
        }
        let unreadable = |e| Error::corrupt(format!("the checkpoint {name} is no manifest")).caused_by(e);
        let version: Version = serde_json::from_slice(bytes).map_err(unreadable)?;
        if version.format > FORMAT {
            return Err(Error::config(format!(
                "the checkpoint {name} has format {} and was written by Millstream {}; this is Millstream {}, which \
                 reads formats up to {FORMAT}: run the newer one",
                version.format,
                version.engine,
                env!("CARGO_PKG_VERSION")
            )));
        }
        serde_json::from_slice(bytes).map_err(unreadable)
    }

    /// Refuses a query whose operators are not those of this checkpoint, by name.
    pub(crate) fn check(&self, name: &str, operators: &BTreeMap<String, StateInfo>) -> Result<()> {
        let saved: Vec<&String> = self.operators.keys().collect();
        let asked: Vec<&String> = operators.keys().collect();
        if saved != asked {
            let describe = |names: &[&String], kind: &dyn Fn(&str) -> String| match names {
                [] => "none".to_string(),
                _ => names.iter().map(|n| format!("{n} ({})", kind(n))).collect::<Vec<_>>().join(", "),
            };
            let saved_kind = |n: &str| self.operators.get(n).map(|o| o.kind.clone()).unwrap_or_default();
            let asked_kind = |n: &str| operators.get(n).map(|o| o.kind.clone()).unwrap_or_default();
            let (left, right): (Vec<&String>, Vec<&String>) = (
                saved.iter().copied().filter(|n| !asked.contains(n)).collect(),
                asked.iter().copied().filter(|n| !saved.contains(n)).collect(),
            );
            return Err(Error::query(format!(
                "the checkpoint {name} is of another query. Only the checkpoint has: {}. Only the query has: {}. Run \
                 the query that wrote it, or start this one with a new state directory",
                describe(&left, &saved_kind),
                describe(&right, &asked_kind)
            )));
        }
        for (operator, info) in operators {
            let Some(saved) = self.operators.get(operator) else { continue };
            saved.check(info).map_err(|difference| {
                Error::query(format!(
                    "the checkpoint {name} holds other state for the operator {operator} ({}) than the query keeps: \
                     {difference}. Run the query that wrote it, or start this one with a new state directory",
                    info.kind
                ))
            })?;
        }
        Ok(())
    }
}

impl OperatorEntry {
    fn check(&self, info: &StateInfo) -> Result<(), String> {
        let asked: Vec<&str> = info.tables.iter().map(|t| t.name.as_str()).collect();
        if self.tables.len() != asked.len() || asked.iter().any(|t| !self.tables.contains_key(*t)) {
            let saved: Vec<&String> = self.tables.keys().collect();
            return Err(format!("its tables are {asked:?}, in the checkpoint {saved:?}"));
        }
        for table in &info.tables {
            let Some(saved) = self.tables.get(&table.name) else { continue };
            if saved.paned != table.panes.is_some() {
                return Err(format!("table {} has panes on one side only", table.name));
            }
            for (what, saved, asked) in
                [("keys", &saved.keys, table.keys.fields()), ("values", &saved.values, table.values.fields())]
            {
                let asked = columns(asked);
                if *saved != asked {
                    let show = |c: &[(String, String)]| {
                        c.iter().map(|(n, t)| format!("{n} {t}")).collect::<Vec<_>>().join(", ")
                    };
                    return Err(format!(
                        "the {what} of table {} are ({}), in the checkpoint ({})",
                        table.name,
                        show(&asked),
                        show(saved)
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Names and types of columns.
pub(crate) fn columns(fields: &Fields) -> Vec<(String, String)> {
    fields.iter().map(|f| (f.name().clone(), f.data_type().to_string())).collect()
}
