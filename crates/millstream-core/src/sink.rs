//! The contract of a sink: it takes the output of a batch whole, once.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::batch::BatchId;
use crate::digest::Digest;
use crate::error::Result;

/// What a reader of the sink can count on, whatever dies and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarantee {
    /// Every row once: the rows and the marker are stored together, or their names are determined.
    ExactlyOnce,
    /// Every key's newest row: writing it twice changes nothing.
    EffectivelyOnce,
    /// Every row at least once.
    AtLeastOnce,
}

/// What the rows of an output mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// Each row is a new row of the answer.
    Append,
    /// The first column is `op` (Utf8, never null): `+I`, `-U`, `+U` or `-D`.
    Changelog,
}

/// The rows of one batch.
#[derive(Clone, Debug)]
pub struct Output {
    /// The schema of every batch, the `op` column of a changelog included.
    pub schema: SchemaRef,
    /// What the rows mean.
    pub kind: OutputKind,
    /// The rows. Their order within a changelog matters, of an append output it does not.
    pub batches: Vec<RecordBatch>,
}

impl Output {
    /// Rows in all.
    pub fn rows(&self) -> u64 {
        self.batches.iter().map(|b| b.num_rows() as u64).sum()
    }
}

/// Who publishes: one run of one query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The query's name.
    pub query: String,
    /// The query's incarnation: another one with the same name is another query.
    pub incarnation: String,
    /// Greater with every process that has owned the query: a smaller one is fenced.
    pub epoch: u64,
}

/// What a sink remembers of the last batch it took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Who published it.
    pub owner: Owner,
    /// The batch.
    pub batch: BatchId,
    /// The hash of its rows.
    pub digest: Digest,
}

/// The permission to publish one batch. Only the loop makes one, from an intent that is stored.
#[derive(Clone, Debug)]
pub struct Permit {
    pub(crate) marker: Marker,
    pub(crate) previous: Option<BatchId>,
}

impl Permit {
    /// A permit that nothing stands behind: for conformance suites and a sink's own tests. A query must never
    /// publish with one.
    pub fn unchecked(marker: Marker, previous: Option<BatchId>) -> Self {
        Self { marker, previous }
    }

    /// What the sink's marker must say after the batch.
    pub fn marker(&self) -> &Marker {
        &self.marker
    }

    /// What the sink's marker must say before it. Batches without rows are not published, so this may be
    /// more than one behind.
    pub fn previous(&self) -> Option<BatchId> {
        self.previous
    }
}

/// Takes the output of a batch whole, once.
///
/// **Order.** `open` comes first and once; then `publish` with ascending batches; `flush` at any time between;
/// `close` last. Calls never overlap.
///
/// **Once.** After `publish` of batch N returned, a reader sees its rows, and after a crash `open` answers a
/// marker of N, or of an earlier batch from which on everything is published again with the same rows: the
/// sink then removes what it has beyond its marker. After `flush` returned, the marker survives a loss of
/// power.
///
/// **Errors.** [`crate::ErrorKind::Retry`] where nothing is known to be stored and the same call may work
/// later; [`crate::ErrorKind::Owned`] where another owner has taken over; [`crate::ErrorKind::Sink`] else.
/// After an error the loop calls `open` again before it publishes again.
#[async_trait]
pub trait Sink: Send {
    /// What a reader can count on.
    fn guarantee(&self) -> Guarantee;

    /// Takes the sink over for this owner, fences earlier ones, and says what was published last by this
    /// incarnation: `None` where nothing was, or where the sink keeps no marker.
    async fn open(&mut self, owner: &Owner) -> Result<Option<Marker>>;

    /// Stores the rows and the marker, all or nothing.
    async fn publish(&mut self, permit: &Permit, output: &Output) -> Result<()>;

    /// Makes everything that was published survive a loss of power.
    async fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    /// The query stops cleanly.
    async fn close(&mut self) -> Result<()> {
        Ok(())
    }
}
