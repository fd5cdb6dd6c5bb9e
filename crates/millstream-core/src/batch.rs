//! What a batch is: plain values, versioned where they are stored.
//!
//! A batch is decided once, by its [`Intent`]: the ranges of every source partition, the batch time and
//! the watermark it starts from. Run again, the same intent gives the same rows.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::Digest;

/// The number of a batch within its query: 1, 2, 3, without gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BatchId(pub u64);

impl BatchId {
    /// The batch after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The name of a partition within its source: a file's path, a topic and partition, a generator's number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(Arc<str>);

impl PartitionId {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<S: AsRef<str>> From<S> for PartitionId {
    fn from(name: S) -> Self {
        Self(name.as_ref().into())
    }
}

impl Borrow<str> for PartitionId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for PartitionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for PartitionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

/// A place between two rows of a partition.
///
/// Positions of one partition are ordered by `offset`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The source's own coordinate: bytes into a text file, rows into a Parquet file, a Kafka offset.
    pub offset: u64,
    /// Rows (lines) of the partition before this place, where the source counts them. A source that counts none may keep
    /// here what tells one partition of a name from another (a topic that was deleted and made again); else 0.
    pub row: u64,
}

/// How far each partition of one source was read. A partition that is not in the map was not begun.
pub type Positions = BTreeMap<PartitionId, Position>;

/// The stamp of the last range that was read of each partition of one source, where it has one.
pub type Stamps = BTreeMap<PartitionId, String>;

/// The rows of one partition that belong to a batch: from `start`, up to but without `end`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The partition.
    pub partition: PartitionId,
    /// The first place that belongs to the range.
    pub start: Position,
    /// The first place that no longer does.
    pub end: Position,
    /// What the source recorded of the partition's identity when it offered the range (a file's size and
    /// modification time, a topic's id), so that `open` can tell that something else lies there now.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stamp: String,
    /// Rows that were gone before they could be read.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What a batch reads of one source, and what became known of that source's partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceIntent {
    /// The source's name in the query.
    pub source: String,
    /// At most one range a partition, in the order in which they are read.
    pub ranges: Vec<Range>,
    /// Partitions seen for the first time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub discovered: Vec<PartitionId>,
    /// Partitions that stepped aside: read to their end and resting for longer than the idle time-out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub idle: Vec<PartitionId>,
    /// The source has had no partition for longer than the idle time-out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resting: bool,
    /// Partitions that hold nothing after this batch, and never will.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finished: Vec<PartitionId>,
    /// No partition can be added any more: the source ends when all of them are finished.
    #[serde(default)]
    pub closed: bool,
}

/// The decision what a batch is. Made once, stored before its output is published, never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The batch.
    pub batch: BatchId,
    /// What `now()` answers within the batch: microseconds since 1970-01-01 UTC.
    pub time_us: i64,
    /// The frontier before the batch: event time in microseconds. `None` while a partition has none yet.
    pub frontier: Option<i64>,
    /// What is read of each source, in the order in which the query names them.
    pub sources: Vec<SourceIntent>,
    /// The version of each table that is read as it is, by its name: what it was before the batch.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pinned: BTreeMap<String, String>,
}

/// Rows of a batch that are left out because an expression fails on them, found after the intent was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amend {
    /// The batch.
    pub batch: BatchId,
    /// The rows, with the reasons.
    pub left_out: Vec<Dropped>,
}

/// What came of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// The batch.
    pub batch: BatchId,
    /// The hash of the published rows.
    pub digest: Digest,
    /// Rows published.
    pub rows_out: u64,
    /// The account of the batch, per source.
    pub account: Vec<Account>,
    /// The watermarks of the partitions read, after the batch: per source, event time in microseconds.
    pub watermarks: BTreeMap<String, BTreeMap<PartitionId, i64>>,
    /// How much more there was to read when the batch was decided, in the sources' own measure (records, else bytes),
    /// where they know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
}

/// What became of the rows of one source: `read = used + rejected + late`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The source's name in the query.
    pub source: String,
    /// Rows read.
    pub read: u64,
    /// Rows that took part in the answer.
    pub used: u64,
    /// Rows left out because they are malformed, or because an expression fails on them.
    pub rejected: u64,
    /// Rows left out because the watermark had passed them.
    pub late: u64,
    /// Rows that were gone before they could be read; not part of `read`.
    #[serde(default)]
    pub lost: u64,
}

impl Account {
    /// Whether the account adds up.
    pub fn balances(&self) -> bool {
        self.read == self.used + self.rejected + self.late
    }

    /// Adds the counts of another batch of the same source.
    pub fn add(&mut self, other: &Account) {
        self.read += other.read;
        self.used += other.used;
        self.rejected += other.rejected;
        self.late += other.late;
        self.lost += other.lost;
    }
}

/// Where a row lies within its partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The source's own coordinate of the row's first byte or record.
    pub offset: u64,
    /// The row's (line's) number within the partition, counted from 0.
    pub row: u64,
}

/// Why a row is not part of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DropKind {
    /// Malformed, or an expression fails on it: it is in `<source>$rejected`.
    Rejected,
    /// The watermark had passed it: it is in `<query>$late`.
    Late,
}

/// A row that is not part of the answer: what it was, where it lay, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Rejected or late.
    pub kind: DropKind,
    /// The source's name in the query.
    pub source: String,
    /// The partition.
    pub partition: PartitionId,
    /// The row's place in it.
    pub place: Place,
    /// Which of the rows of the record at that place it is, counted from 0, where the record holds several: the old and the
    /// new row of a change. All of them where it is `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<u32>,
    /// Why, for a person.
    pub reason: String,
    /// The row as it stood in the source, or as JSON where its bytes are no longer at hand. Bytes that are
    /// no UTF-8 are shown as U+FFFD.
    pub raw: String,
}
