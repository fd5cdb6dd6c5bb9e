//! The rows that a batch job left out because they can't be decoded: how many, and where the first one lies.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use millstream_core::batch::PartitionId;
use millstream_core::source::Rejected;

/// What was left out of an answer. It is complete when the answer has ended.
#[derive(Clone, Debug, Default)]
pub struct RejectedRows(Arc<Mutex<Vec<Scanned>>>);

/// One reading of one table.
#[derive(Debug)]
struct Scanned {
    table: String,
    count: u64,
    first: Option<String>,
}

/// Where one reading of a table notes what it left out.
#[derive(Clone, Debug)]
pub(super) struct Note {
    all: RejectedRows,
    scan: usize,
}

impl RejectedRows {
    /// A table is read.
    pub(super) fn scan(&self, table: &str) -> Note {
        let mut scans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        scans.push(Scanned { table: table.to_string(), count: 0, first: None });
        Note { all: self.clone(), scan: scans.len() - 1 }
    }

    /// How many there were, and the place and the reason of the first one; `None` where there was none. A table that
    /// is read more than once counts once.
    pub fn summary(&self) -> Option<(u64, String)> {
        let scans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tables: BTreeMap<&str, u64> = BTreeMap::new();
        for scan in scans.iter() {
            let count = tables.entry(&scan.table).or_default();
            *count = scan.count.max(*count);
        }
        let first = scans.iter().find_map(|scan| scan.first.clone())?;
        Some((tables.values().sum(), first))
    }
}

impl Note {
    /// These rows of a partition were left out.
    pub(super) fn add(&self, partition: &PartitionId, rejected: &[Rejected]) {
        let mut scans = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(scan), Some(row)) = (scans.get_mut(self.scan), rejected.first()) else { return };
        scan.count += rejected.len() as u64;
        scan.first.get_or_insert_with(|| format!("{partition}:{}: {}", row.place.row + 1, row.reason));
    }
}
