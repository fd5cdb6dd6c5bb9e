//! The dropped rows of a pipeline's own queries, as a source for another of its queries.
//!
//! A partition is a query, a position the number of a batch: what a query drops of a batch is known, for ever, once
//! the batch has committed, and is stored before that. A range is some whole batches. The table is planned before
//! the queries run, so it learns of their logs ([`DroppedTable::feed`]) when they have started.
//!
//! While both run, the log keeps what was not read yet ([`DroppedTable::readers`]), beside what its retention keeps.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use futures::StreamExt;
use millstream_core::batch::{BatchId, DropKind, Dropped, PartitionId, Place, Position, Positions, Range};
use millstream_core::disk::RealDisk;
use millstream_core::log::{DroppedReaders, read_dropped};
use millstream_core::query::{QueryState, QueryStatus};
use millstream_core::source::{Boundedness, Chunk, ChunkStream, Limit, Offer, Source, SourceTable};
use millstream_core::{Error, Result};
use tokio::sync::watch;

/// Rows that come one by one are read together: each look at the log costs some milliseconds.
const PAUSE: Duration = Duration::from_millis(20);

/// A query whose dropped rows are read.
#[derive(Clone, Debug)]
pub struct Feed {
    /// Its name.
    pub query: String,
    /// The directory of its log.
    pub log_dir: PathBuf,
    /// What it says of itself.
    pub status: watch::Receiver<QueryStatus>,
}

impl Feed {
    fn is_over(status: &QueryStatus) -> bool {
        matches!(status.state, QueryState::Ended | QueryState::Stopped | QueryState::Failed { .. })
    }
}

/// What a query says that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    committed: BatchId,
    /// Rows of this table since the first batch; `None` before the first batch of this process.
    dropped: Option<u64>,
    ended: bool,
}

impl Said {
    /// Whether no more rows can have come between the two.
    fn has_no_more_than(&self, then: &Self) -> bool {
        match self.dropped {
            Some(_) => self.dropped == then.dropped,
            None => then.dropped.is_none() && self.committed == then.committed,
        }
    }
}

/// `<source>$rejected` or `<query>$late` as a table that rows are streamed from.
#[derive(Clone, Debug)]
pub struct DroppedTable(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    of: String,
    kind: DropKind,
    boundedness: OnceLock<Boundedness>,
    feeds: OnceLock<Feeds>,
    /// The sources that read it, each with what it will not read again: batches by query.
    readers: Mutex<Vec<Weak<Mutex<Positions>>>>,
}

/// Everybody in a pipeline who reads what one of its queries drops.
#[derive(Debug)]
struct Readers {
    query: PartitionId,
    tables: Vec<DroppedTable>,
}

impl DroppedReaders for Readers {
    fn passed(&self) -> BatchId {
        let passed = self.tables.iter().flat_map(|table| {
            let mut readers = table.0.readers.lock().unwrap_or_else(PoisonError::into_inner);
            readers.retain(|reader| reader.strong_count() > 0);
            readers.iter().filter_map(Weak::upgrade).collect::<Vec<_>>()
        });
        let of_query = |reader: Arc<Mutex<Positions>>| {
            let passed = reader.lock().unwrap_or_else(PoisonError::into_inner);
            passed.get(&self.query).map_or(0, |position| position.offset)
        };
        BatchId(passed.map(of_query).min().unwrap_or(u64::MAX))
    }
}

#[derive(Debug)]
struct Feeds {
    feeds: Vec<Feed>,
    patience: Patience,
}

impl Inner {
    fn said_by(&self, status: &QueryStatus) -> Said {
        let ended = status.state == QueryState::Ended;
        let Some(progress) = &status.progress else {
            let recovered = status.recovery.as_ref().and_then(|recovery| match status.state {
                // The last batch of the log may have died in the midst of writing what it dropped. Until it was run
                // again, only what lies under the checkpoint is known to be whole.
                QueryState::Recovering | QueryState::Retrying { .. } | QueryState::Failed { .. } => recovery.checkpoint,
                QueryState::Running | QueryState::Resting | QueryState::Stopped | QueryState::Ended => {
                    Some(recovery.last)
                }
            });
            return Said { committed: recovered.unwrap_or_default(), dropped: None, ended };
        };
        let rejected = || progress.totals.iter().filter(|a| a.source == self.of).map(|a| a.rejected).sum();
        let dropped = match self.kind {
            DropKind::Rejected => rejected(),
            DropKind::Late => progress.totals.iter().map(|a| a.late).sum(),
        };
        Said { committed: progress.batch, dropped: Some(dropped), ended }
    }
}

/// What an offer does while the other queries still run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// It has what there is.
    Now,
    /// It waits until they have run out of rows: for a pipeline that stops when all is read.
    UntilTheyStop,
}

impl DroppedTable {
    /// The rejected rows of a source, or the late ones of a query.
    pub fn new(of: impl Into<String>, kind: DropKind) -> Self {
        let (boundedness, feeds) = (OnceLock::new(), OnceLock::new());
        Self(Arc::new(Inner { of: of.into(), kind, boundedness, feeds, readers: Mutex::default() }))
    }

    /// The source or the query whose rows it has.
    pub fn of(&self) -> (&str, DropKind) {
        (&self.0.of, self.0.kind)
    }

    /// Those who read what this query drops in any of these tables, for its log: it keeps what they have not read.
    pub fn readers(query: &str, tables: Vec<DroppedTable>) -> Arc<dyn DroppedReaders> {
        Arc::new(Readers { query: PartitionId::from(query), tables })
    }

    /// Whether the queries that drop the rows end.
    pub fn ends(&self, boundedness: Boundedness) {
        self.0.boundedness.get_or_init(|| boundedness);
    }

    /// The queries that drop the rows, now that they run.
    pub fn feed(&self, feeds: Vec<Feed>, patience: Patience) {
        self.0.feeds.get_or_init(|| Feeds { feeds, patience });
    }
}

impl SourceTable for DroppedTable {
    fn schema(&self) -> SchemaRef {
        super::schema()
    }

    fn source(&self, projection: &[usize]) -> Result<Arc<dyn Source>> {
        let schema = Arc::new(super::schema().project(projection)?);
        let (table, projection) = (Arc::clone(&self.0), projection.to_vec());
        let passed = Arc::new(Mutex::new(Positions::default()));
        table.readers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&passed));
        Ok(Arc::new(DroppedSource { table, projection, schema, passed, quiet: Mutex::default() }))
    }
}

#[derive(Debug)]
struct DroppedSource {
    table: Arc<Inner>,
    projection: Vec<usize>,
    schema: SchemaRef,
    passed: Arc<Mutex<Positions>>,
    /// By query: past this batch there is nothing, as long as it says no more than this.
    quiet: Mutex<BTreeMap<String, (u64, Said)>>,
}

impl DroppedSource {
    fn feeds(&self) -> Result<&Feeds> {
        self.table.feeds.get().ok_or_else(|| {
            Error::config(format!(
                "the dropped rows of {} are streamed within a pipeline that drops them: put both INSERTs into one file",
                self.table.of
            ))
        })
    }

    fn quiet(&self) -> MutexGuard<'_, BTreeMap<String, (u64, Said)>> {
        self.quiet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing is to be found past this batch: then the log needn't be read.
    fn is_quiet(&self, feed: &Feed, past: u64, said: Said) -> bool {
        self.quiet().get(&feed.query).is_some_and(|(at, then)| *at == past && said.has_no_more_than(then))
    }

    fn is_read(&self, feed: &Feed, past: u64, said: Said) {
        self.quiet().insert(feed.query.clone(), (past, said));
    }

    /// What the query dropped of the batches after one, up to another: those rows that this table is of.
    fn rows(&self, feed: &Feed, after: BatchId, last: BatchId) -> Result<Vec<(BatchId, Dropped)>> {
        let Inner { of, kind, .. } = &*self.table;
        let mut rows = read_dropped(&RealDisk, &feed.log_dir, after)?;
        rows.retain(|(batch, row)| {
            *batch <= last && row.kind == *kind && (*kind == DropKind::Late || row.source == *of)
        });
        Ok(rows)
    }
}

#[async_trait]
impl Source for DroppedSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn boundedness(&self) -> Boundedness {
        self.table.boundedness.get().copied().unwrap_or(Boundedness::Followed)
    }

    async fn offer(&self, from: &Positions, limit: Limit) -> Result<Offer> {
        let Feeds { feeds, patience } = self.feeds()?;
        let mut offer = Offer { closed: true, ..Offer::default() };
        let mut left = limit.rows.max(1);
        for feed in feeds {
            let mut status = feed.status.clone();
            if *patience == Patience::UntilTheyStop {
                // An error means that the query is gone with its handle: over, too.
                let _ = status.wait_for(Feed::is_over).await;
            }
            let said = self.table.said_by(&status.borrow());
            let partition = PartitionId::from(&feed.query);
            let start = from.get(&partition).copied().unwrap_or_default();
            let mut at = start.offset;
            if left > 0 && !self.is_quiet(feed, at, said) {
                let rows = self.rows(feed, BatchId(at), said.committed)?;
                let (end, count) = cut(&rows, left);
                if let Some(end) = end {
                    let (end, stamp) = (Position { offset: end.0, row: 0 }, String::new());
                    offer.ranges.push(Range { partition: partition.clone(), start, end, stamp, lost: 0 });
                    at = end.offset;
                }
                left = left.saturating_sub(count);
                if count == rows.len() as u64 {
                    self.is_read(feed, at, said);
                }
            }
            if said.ended && self.is_quiet(feed, at, said) {
                offer.finished.push(partition.clone());
                self.is_read(feed, at, said);
            }
            offer.partitions.push(partition);
        }
        Ok(offer)
    }

    async fn open(&self, range: &Range) -> Result<ChunkStream> {
        let feeds = &self.feeds()?.feeds;
        let feed = feeds.iter().find(|feed| feed.query == range.partition.as_str());
        let feed = feed.ok_or_else(|| {
            Error::input(format!(
                "the log says that rows dropped by the query {} were read, and there is no such query any more",
                range.partition
            ))
        })?;
        let (after, last) = (BatchId(range.start.offset), BatchId(range.end.offset));
        let rows: Vec<_> =
            self.rows(feed, after, last)?.into_iter().map(|(batch, row)| (feed.query.clone(), batch, row)).collect();
        let mut places: Vec<Place> = Vec::with_capacity(rows.len());
        for (_, batch, _) in &rows {
            let row = places.last().filter(|place| place.offset == batch.0).map_or(0, |place| place.row + 1);
            places.push(Place { offset: batch.0, row });
        }
        let rows = super::record_batch(&rows)?.project(&self.projection)?;
        let chunk = Chunk { rows, places, rejected: vec![], raw: None };
        Ok(futures::stream::once(std::future::ready(Ok(chunk))).boxed())
    }

    async fn release(&self, below: &Positions) -> Result<()> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner).clone_from(below);
        Ok(())
    }

    async fn ready(&self) {
        let Some(Feeds { feeds, .. }) = self.table.feeds.get() else { return std::future::pending().await };
        if feeds.is_empty() {
            return std::future::pending().await;
        }
        let changed = feeds.iter().map(|feed| {
            let mut status = feed.status.clone();
            Box::pin(async move {
                let news = |status: &QueryStatus| {
                    let said = self.table.said_by(status);
                    self.quiet()
                        .get(&feed.query)
                        .is_none_or(|(_, then)| then.ended != said.ended || !said.has_no_more_than(then))
                };
                if status.wait_for(news).await.is_err() {
                    std::future::pending::<()>().await;
                }
            })
        });
        futures::future::select_all(changed).await;
        tokio::time::sleep(PAUSE).await;
    }
}

/// The batch up to which rows are taken, so that there are about as many as are wanted, and how many they are. Batches
/// are taken whole.
fn cut(rows: &[(BatchId, Dropped)], wanted: u64) -> (Option<BatchId>, u64) {
    let (mut end, mut count) = (None, 0);
    for (batch, _) in rows {
        if count >= wanted && end != Some(*batch) {
            break;
        }
        end = Some(*batch);
        count += 1;
    }
    (end, count)
}
