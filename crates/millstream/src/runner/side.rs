//! Tables that are read whole, as they are when a batch runs.
//!
//! Before a batch is decided, each table is asked for its version, which the intent pins: that costs no more than a look at
//! its files. A batch reads the table where that version is not the one it has, and what it read is recorded with the
//! batch; so a batch that is run again never looks at the files. Which version it has is state like any other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use futures::StreamExt;
use millstream_core::batch::{Intent, Positions};
use millstream_core::source::{Limit, Source, SourceTable};
use millstream_core::{Error, Result};
use millstream_state::{Changes, OperatorState, Restored, StateInfo};

use crate::changelog::{last_of_keys, net_rows};
use crate::exec::{Asked, May, TableVersion};

/// Rows at the most that are read at once.
const LIMIT: Limit = Limit { rows: 65_536, bytes: 16 << 20 };

/// How often a table is read that changes while it is read.
const READS_MAX: u32 = 10;

/// The version of a table that does not say which one it is: it is read once.
const ONCE: &str = "once";

/// A table that is read whole.
#[derive(Clone, Debug)]
pub struct Side {
    /// What it is called in intents and records.
    pub name: String,
    /// The scan of the plan that its rows are for.
    pub scan: usize,
    /// Where they come from.
    pub table: Arc<dyn SourceTable>,
    /// The columns that are read: those that are wanted, the rest of the key, the weight.
    pub columns: Vec<usize>,
    /// Where the PRIMARY KEY is among them: its last row counts.
    pub key: Vec<usize>,
    /// Whether the last column that is read is a weight.
    pub weighted: bool,
    /// How many columns are wanted.
    pub wanted: usize,
    /// The columns of the scan.
    pub schema: SchemaRef,
}

/// All of them, and the versions that are kept.
#[derive(Debug)]
pub(super) struct Sides {
    sides: Vec<Side>,
    kept: Arc<Mutex<Versions>>,
}

/// By name: installed, and what is staged beside it.
#[derive(Debug, Default)]
struct Versions {
    installed: BTreeMap<String, String>,
    staged: BTreeMap<String, String>,
}

impl Sides {
    pub(super) fn new(sides: Vec<Side>) -> Self {
        let names = sides.iter().map(|side| (side.name.clone(), String::new())).collect();
        Self { sides, kept: Arc::new(Mutex::new(Versions { installed: names, staged: BTreeMap::new() })) }
    }

    /// Which versions are kept; `None` where there is no such table.
    pub(super) fn state(&self) -> Option<Arc<Mutex<dyn OperatorState>>> {
        (!self.sides.is_empty()).then(|| Arc::clone(&self.kept) as _)
    }

    /// The versions there are now.
    pub(super) fn versions(&self) -> Result<BTreeMap<String, String>> {
        self.sides.iter().map(|side| Ok((side.name.clone(), side.version()?))).collect()
    }

    /// Puts the rows of the tables into their scans that are not what is kept, and answers which scans those are.
    pub(super) async fn renew(
        &self,
        intent: &Intent,
        asked: &Asked,
        scans: &mut [Vec<RecordBatch>],
    ) -> Result<Vec<usize>> {
        let mut renewed = vec![];
        for side in &self.sides {
            let kept = self.kept().installed.get(&side.name).cloned();
            let table = match asked.table(&side.name) {
                Some(table) => table,
                None if kept.as_ref() == intent.pinned.get(&side.name) => continue,
                None if asked.may() == May::Never => {
                    return Err(Error::diverged(format!(
                        "the batch, run again, reads the table '{}', which it did not read before: start with what ran \
                         before",
                        side.name
                    )));
                }
                None => {
                    let table = side.read().await.map_err(|e| e.at(format!("the table '{}'", side.name)))?;
                    asked.put_table(&side.name, table.clone());
                    table
                }
            };
            self.kept().staged.insert(side.name.clone(), table.version);
            let scan = scans.get_mut(side.scan).ok_or_else(|| Error::bug("a scan is not in the plan"))?;
            *scan = vec![table.rows.with_schema(Arc::clone(&side.schema))?];
            renewed.push(side.scan);
        }
        Ok(renewed)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Versions> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Side {
    fn version(&self) -> Result<String> {
        let versioned = self.table.versioned();
        versioned.map_or_else(|| Ok(ONCE.to_string()), |versioned| versioned.version())
    }

    /// All rows, of one version.
    async fn read(&self) -> Result<TableVersion> {
        let mut version = self.version()?;
        for _ in 0..READS_MAX {
            let rows = read_all(self.table.source_at_once(&self.columns)?).await;
            let after = self.version()?;
            if after == version {
                return Ok(TableVersion { version, rows: self.net(&rows?)? });
            }
            version = after;
        }
        Err(Error::retry("the table changes all the time while it is read"))
    }

    /// What is left of rows that change, and of these the columns that are wanted.
    fn net(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let rows = match (self.key.as_slice(), self.weighted) {
            ([], false) => rows.clone(),
            ([], true) => net_rows(std::slice::from_ref(rows), &rows.schema())?,
            (key, _) => last_of_keys(rows, key)?,
        };
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let columns = rows.columns().iter().take(self.wanted).cloned().collect();
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }
}

/// All rows of a source that ends.
async fn read_all(source: Arc<dyn Source>) -> Result<RecordBatch> {
    let (mut rows, mut positions) = (vec![], Positions::new());
    let (mut partitions, mut finished) = (BTreeSet::new(), BTreeSet::new());
    loop {
        let offer = source.offer(&positions, LIMIT).await?;
        partitions.extend(offer.partitions);
        finished.extend(offer.finished);
        if offer.ranges.is_empty() {
            if offer.closed && partitions.is_subset(&finished) {
                return Ok(concat_batches(&source.schema(), &rows)?);
            }
            source.ready().await;
        }
        for range in offer.ranges {
            let mut chunks = source.open(&range).await?;
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk?;
                if let Some(bad) = chunk.rejected.first() {
                    return Err(Error::input(format!(
                        "{}, row {}: {}. A table that is joined FOR SYSTEM_TIME AS OF PROCTIME() has no $rejected: mend the row",
                        range.partition,
                        bad.place.row + 1,
                        bad.reason
                    )));
                }
                rows.push(chunk.rows);
            }
            positions.insert(range.partition, range.end);
        }
    }
}

impl OperatorState for Versions {
    fn install(&mut self) {
        self.installed.append(&mut self.staged);
    }

    fn discard(&mut self) {
        self.staged.clear();
    }

    fn changes(&mut self) -> Result<Changes> {
        Ok(self.installed.iter().fold(Changes::new(), |changes, (name, version)| changes.note(name, version)))
    }

    fn restore(&mut self, saved: Restored) -> Result<()> {
        self.staged.clear();
        for (name, version) in &mut self.installed {
            *version = saved.note(name).unwrap_or_default().to_string();
        }
        Ok(())
    }

    fn describe(&self) -> StateInfo {
        StateInfo { kind: "versions of tables".to_string(), tables: vec![] }
    }

    fn table(&self) -> Result<Vec<RecordBatch>> {
        Ok(vec![])
    }
}
