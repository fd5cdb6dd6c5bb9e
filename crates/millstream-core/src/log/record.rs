//! The forms of the records. They are stored: a field is added with a default, and never changes its meaning.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::batch::{Account, Amend, BatchId, Commit, Intent};
use crate::query::intend::{SourcePositions, SourceStamps};
use crate::watermark::Timeline;

/// Who a query is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its name.
    pub query: String,
    /// A UUID: another one with the same name is another query.
    pub incarnation: String,
    /// When it was created: microseconds since 1970-01-01 UTC.
    pub created_us: i64,
}

/// What a query is made of, as of one start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// Its text.
    pub sql: String,
    /// A fingerprint of the plan's meaning and of the form of its state. Another one needs `adopt`.
    pub plan: String,
    /// The version of the engine that runs it.
    pub engine: String,
    /// The session's time zone. Another one needs `adopt`.
    pub time_zone: String,
    /// What shapes the rows and is not in the plan: options of the sources, watermarks. Other ones need `adopt`.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Partitions of the stateful part. Another number needs `adopt`.
    pub partitions: u64,
}

/// One process's ownership of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ownership {
    /// Greater with every owner: the number of its first segment.
    pub epoch: u64,
    /// The process, for a person.
    pub holder: String,
    /// Since when: microseconds since 1970-01-01 UTC.
    pub since_us: i64,
}

/// How much of the segment before counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct After {
    /// The segment before.
    pub segment: u64,
    /// Bytes of it that are part of the log.
    pub len: u64,
}

/// What every segment begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The segment's number.
    pub segment: u64,
    /// The segment before it; `None` in the first.
    pub after: Option<After>,
    /// Who the query is.
    pub identity: Identity,
    /// Who writes this segment.
    pub owner: Ownership,
    /// What the query is made of.
    pub epoch: Epoch,
}

/// From where a query can go on: everything that is known after a batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The batch.
    pub batch: BatchId,
    /// When its state was captured: microseconds since 1970-01-01 UTC, not before the time of the batch.
    pub time_us: i64,
    /// What the runner needs to restore its state; `None` where it keeps none.
    pub manifest: Option<String>,
    /// How far each source was read.
    pub positions: SourcePositions,
    /// What the sources recorded of the partitions when they were last read.
    #[serde(default, skip_serializing_if = "SourceStamps::is_empty")]
    pub stamps: SourceStamps,
    /// The event time.
    pub timeline: Timeline,
    /// The account since the first batch, per source.
    pub totals: Vec<Account>,
    /// Rows published since the first batch.
    pub rows_out: u64,
    /// The last batch that was published: a sink must have at least this one.
    pub published: Option<BatchId>,
    /// The first segment that has something after this batch: older ones are not needed.
    pub segment: u64,
    /// The batches of the older checkpoints that are kept beside this one.
    #[serde(default)]
    pub kept: Vec<BatchId>,
}

/// The query stopped cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// When: microseconds since 1970-01-01 UTC.
    pub time_us: i64,
    /// Every source has ended: there is nothing more to do.
    pub ended: bool,
}

/// A record as it is read.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record {
    Header(Header),
    Intent(Intent),
    Amend(Amend),
    Commit(Commit),
    Checkpoint(Checkpoint),
    Stopped(Stopped),
}

/// A record as it is written.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RecordRef<'a> {
    Header(&'a Header),
    Intent(&'a Intent),
    Amend(&'a Amend),
    Commit(&'a Commit),
    Checkpoint(&'a Checkpoint),
    Stopped(&'a Stopped),
}
