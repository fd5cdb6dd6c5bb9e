//! What an operator shows of its state, so that all operators of a query can be checkpointed and read.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use millstream_core::{Error, Result};

use crate::layout::Layout;
use crate::multi::{MultiTable, Side};
use crate::paned::PanedTable;
use crate::segment::Segment;
use crate::table::KeyedTable;

/// The state of one operator.
///
/// It may hold several tables, each under a name of its own within the operator. `changes`, `restore` and
/// `describe` name the same tables, always.
pub trait OperatorState: Send {
    /// What was staged becomes the state.
    fn install(&mut self);

    /// What was staged is forgotten.
    fn discard(&mut self);

    /// The installed state, captured for a checkpoint: cheap, because segments are shared. Segments that a
    /// checkpoint has stored are not stored again, so that only what changed is written.
    fn changes(&mut self) -> Result<Changes>;

    /// Makes the state what it was when `changes` captured it.
    fn restore(&mut self, saved: Restored) -> Result<()>;

    /// Its tables, their schemas and sizes.
    fn describe(&self) -> StateInfo;

    /// The installed state as rows, for a person.
    fn table(&self) -> Result<Vec<RecordBatch>>;
}

/// The captured state of one operator.
#[derive(Debug, Default)]
pub struct Changes {
    pub(crate) tables: BTreeMap<String, TableCapture>,
    pub(crate) notes: BTreeMap<String, String>,
}

/// The captured state of one table.
#[derive(Debug)]
pub(crate) struct TableCapture {
    pub(crate) layout: Arc<Layout>,
    /// By pane; a table without panes is one pane, 0.
    pub(crate) panes: Vec<(i64, PaneCapture)>,
    pub(crate) paned: bool,
}

/// The segments of one pane, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct PaneCapture {
    /// Keys that are there.
    pub(crate) keys: usize,
    pub(crate) segments: Vec<Arc<Segment>>,
}

impl Changes {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a table under its name within the operator.
    pub fn keyed(mut self, name: &str, table: &KeyedTable) -> Self {
        let panes = vec![(0, table.capture())];
        let capture = TableCapture { layout: Arc::clone(&table.layout), panes, paned: false };
        self.tables.insert(name.to_string(), capture);
        self
    }

    /// Adds a paned table under its name within the operator.
    pub fn paned(mut self, name: &str, table: &PanedTable) -> Self {
        let panes = table.installed().map(|(pane, table)| (pane, table.capture())).collect();
        let capture = TableCapture { layout: Arc::clone(&table.layout), panes, paned: true };
        self.tables.insert(name.to_string(), capture);
        self
    }

    /// Adds a table of many rows a key: its sides, under their names within the operator.
    pub fn multi(self, names: &[&str], table: &MultiTable) -> Self {
        let add = |changes: Self, (name, side): (&&str, &Side)| {
            changes.keyed(name, &side.rows).note(&next_of(name), side.next_installed.to_string())
        };
        names.iter().zip(table.sides()).fold(self, add)
    }

    /// Keeps a small value beside the tables (a counter, a JSON object).
    pub fn note(mut self, name: &str, value: impl Into<String>) -> Self {
        self.notes.insert(name.to_string(), value.into());
        self
    }
}

/// Where a side of a [`MultiTable`] keeps the sequence of its next row.
pub(crate) fn next_of(name: &str) -> String {
    format!("{name}.next")
}

/// What a checkpoint held of one operator.
#[derive(Debug, Default)]
pub struct Restored {
    pub(crate) tables: HashMap<String, BTreeMap<i64, PaneCapture>>,
    pub(crate) notes: BTreeMap<String, String>,
}

impl Restored {
    /// Makes a table what it was under this name.
    pub fn keyed(&mut self, name: &str, table: &mut KeyedTable) -> Result<()> {
        let pane = self.take(name)?.remove(&0).unwrap_or_default();
        *table = KeyedTable::restored(Arc::clone(&table.layout), &pane)?;
        Ok(())
    }

    /// Makes a paned table what it was under this name.
    pub fn paned(&mut self, name: &str, table: &mut PanedTable) -> Result<()> {
        *table = PanedTable::restored(Arc::clone(&table.layout), &self.take(name)?)?;
        Ok(())
    }

    /// Makes a table of many rows a key what its sides were under these names.
    pub fn multi(&mut self, names: &[&str], table: &mut MultiTable) -> Result<()> {
        let mut next = Vec::with_capacity(names.len());
        for (name, side) in names.iter().zip(table.sides_mut()) {
            self.keyed(name, &mut side.rows)?;
            let sequence = self.note(&next_of(name)).and_then(|next| next.parse().ok());
            let corrupt = || Error::corrupt(format!("a checkpoint does not count the rows of {name}"));
            next.push(sequence.ok_or_else(corrupt)?);
        }
        table.go_on_from(&next)
    }

    /// The value that was kept under this name.
    pub fn note(&self, name: &str) -> Option<&str> {
        self.notes.get(name).map(String::as_str)
    }

    fn take(&mut self, name: &str) -> Result<BTreeMap<i64, PaneCapture>> {
        self.tables.remove(name).ok_or_else(|| {
            Error::bug(format!("an operator restores a table {name} that it does not describe, or restores it twice"))
        })
    }
}

/// An operator's state, described.
#[derive(Clone, Debug, Default)]
pub struct StateInfo {
    /// What is kept, for a person: `window aggregate`, `dedup`.
    pub kind: String,
    /// Its tables.
    pub tables: Vec<TableInfo>,
}

/// One table of an operator.
#[derive(Clone, Debug)]
pub struct TableInfo {
    /// Its name within the operator.
    pub name: String,
    /// The columns of a key.
    pub keys: SchemaRef,
    /// The columns of the values.
    pub values: SchemaRef,
    /// Panes; `None` where the table has none.
    pub panes: Option<usize>,
    /// Keys in the installed state.
    pub rows: usize,
    /// Bytes held.
    pub bytes: usize,
}

impl TableInfo {
    /// Describes a table.
    pub fn keyed(name: &str, table: &KeyedTable) -> Self {
        Self {
            name: name.to_string(),
            keys: Arc::clone(table.keys()),
            values: Arc::clone(table.values()),
            panes: None,
            rows: table.len(),
            bytes: table.memory_bytes(),
        }
    }

    /// Describes the sides of a table of many rows a key. What leads to the rows is counted with the first.
    pub fn multi(names: &[&str], table: &MultiTable) -> Vec<Self> {
        let mut index = table.index_bytes();
        let of = |(name, side): (&&str, &Side)| {
            let rows = Self::keyed(name, &side.rows);
            Self { bytes: rows.bytes + std::mem::take(&mut index), ..rows }
        };
        names.iter().zip(table.sides()).map(of).collect()
    }

    /// Describes a paned table.
    pub fn paned(name: &str, table: &PanedTable) -> Self {
        Self {
            name: name.to_string(),
            keys: Arc::clone(table.keys()),
            values: Arc::clone(table.values()),
            panes: Some(table.installed().count()),
            rows: table.len(),
            bytes: table.memory_bytes(),
        }
    }
}
