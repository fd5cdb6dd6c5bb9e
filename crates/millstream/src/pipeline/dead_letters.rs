//! `<source>$rejected` and `<query>$late` within a file: which of its queries drop the rows that another one reads.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use millstream_core::batch::DropKind;
use millstream_core::log::DroppedReaders;
use millstream_core::query::{QueryHandle, Trigger};
use millstream_core::source::{Boundedness, SourceTable};
use millstream_core::{Error, Result};

use super::{PipelineQuery, log_dir};
use crate::dropped::{DroppedTable, Feed, Patience, parse_name};
use crate::sql::ImpliedTables;

/// The tables of dropped rows that a file's queries read.
#[derive(Debug, Default)]
pub(super) struct DeadLetters {
    tables: Mutex<BTreeMap<String, Letters>>,
}

#[derive(Debug)]
struct Letters {
    table: DroppedTable,
    /// The queries that drop the rows.
    queries: Vec<String>,
}

impl ImpliedTables for DeadLetters {
    fn table(&self, name: &str) -> Option<Arc<dyn SourceTable>> {
        let (of, kind) = parse_name(name)?;
        let table = DroppedTable::new(of, kind);
        self.tables().insert(name.to_string(), Letters { table: table.clone(), queries: vec![] });
        Some(Arc::new(table))
    }
}

impl DeadLetters {
    /// Finds the queries that drop the rows of each table, among those that are compiled so far.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] where there are none.
    pub(super) fn resolve(&self, queries: &[PipelineQuery]) -> Result<()> {
        for (name, letters) in self.tables().iter_mut().filter(|(_, letters)| letters.queries.is_empty()) {
            let (of, kind) = letters.table.of();
            let drops = |query: &&PipelineQuery| match kind {
                DropKind::Rejected => query.compiled.inputs.iter().any(|input| input.edge.source == of),
                DropKind::Late => query.name == of,
            };
            let drop: Vec<&PipelineQuery> = queries.iter().filter(drops).collect();
            if drop.is_empty() {
                let names = queries.iter().map(|q| q.name.as_str()).collect::<Vec<_>>().join(", ");
                return Err(Error::query(match kind {
                    DropKind::Rejected => format!(
                        "{name} has the rows of {of} that a query of this file rejects, and no other INSERT reads {of}"
                    ),
                    DropKind::Late => format!(
                        "{name} has the late rows of the query {of}, and no other INSERT of this file is called so: there are {names}"
                    ),
                }));
            }
            let followed = drop.iter().any(|q| q.compiled.boundedness == Boundedness::Followed);
            letters.table.ends(if followed { Boundedness::Followed } else { Boundedness::Bounded });
            letters.queries = drop.iter().map(|q| q.name.clone()).collect();
        }
        Ok(())
    }

    /// Who reads what this query drops, where somebody does.
    pub(super) fn readers(&self, query: &str) -> Option<Arc<dyn DroppedReaders>> {
        let tables = self.tables();
        let of_query = tables.values().filter(|letters| letters.queries.iter().any(|q| q == query));
        let read: Vec<DroppedTable> = of_query.map(|letters| letters.table.clone()).collect();
        (!read.is_empty()).then(|| DroppedTable::readers(query, read))
    }

    /// Tells the tables that a query reads of the queries that run.
    pub(super) fn feed(
        &self,
        query: &PipelineQuery,
        running: &[(String, QueryHandle)],
        state_dir: &Path,
        trigger: Trigger,
    ) {
        let patience = if trigger == Trigger::AvailableNow { Patience::UntilTheyStop } else { Patience::Now };
        for input in &query.compiled.inputs {
            let tables = self.tables();
            let Some(letters) = tables.get(&input.edge.source) else { continue };
            let of = running.iter().filter(|(name, _)| letters.queries.contains(name));
            let feeds = of.map(|(name, handle)| Feed {
                query: name.clone(),
                log_dir: log_dir(&state_dir.join(name)),
                status: handle.watch(),
            });
            letters.table.feed(feeds.collect(), patience);
        }
    }

    fn tables(&self) -> MutexGuard<'_, BTreeMap<String, Letters>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a query reads rows that others drop.
pub(super) fn reads_dropped_rows(plan: &LogicalPlan) -> bool {
    let mut reads = false;
    let walked = plan.apply_with_subqueries(|node| {
        reads |= matches!(node, LogicalPlan::TableScan(scan) if parse_name(scan.table_name.table()).is_some());
        Ok(TreeNodeRecursion::Continue)
    });
    reads && walked.is_ok()
}
