//! Event time: running maxima, resting partitions, the frontier. Pure arithmetic.
//!
//! The watermark of a partition after a row is the largest event time seen up to and with that row, minus
//! the declared delay. The frontier is the minimum over the active partitions of all sources that have an
//! event time; it never moves back. When every partition has finished, it is [`END_OF_TIME`], or
//! [`END_OF_EVENT_TIME`] while a source without an event time goes on; when none is active but rows may still
//! come, it is the largest of all watermarks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::batch::{Intent, PartitionId};

/// The frontier after the last row of everything: every window closes.
pub const END_OF_TIME: i64 = i64::MAX;

/// The frontier when every source with an event time has ended, and one without goes on: every window closes, and
/// what waits for the end of the input waits.
pub const END_OF_EVENT_TIME: i64 = END_OF_TIME - 1;

/// Whether a partition holds the frontier back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartitionStatus {
    /// It does.
    #[default]
    Active,
    /// It was read to its end and rests; its next row makes it active again.
    Idle,
    /// It holds nothing more and never will.
    Finished,
}

/// One partition's event time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionTime {
    /// The partition's watermark in microseconds; `None` before its first row.
    pub watermark: Option<i64>,
    /// Whether it holds the frontier back.
    pub status: PartitionStatus,
}

/// One source's event time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceTime {
    /// Every partition seen so far.
    pub partitions: BTreeMap<PartitionId, PartitionTime>,
    /// No partition can be added any more.
    pub closed: bool,
    /// No partition was found for longer than the idle time-out: it does not hold the frontier back until one is.
    #[serde(default)]
    pub resting: bool,
    /// Whether the source declares a watermark. Without one it has no say in the frontier until it ends.
    pub event_time: bool,
}

impl SourceTime {
    fn ended(&self) -> bool {
        self.closed && self.partitions.values().all(|p| p.status == PartitionStatus::Finished)
    }
}

/// The event time of a query: all partitions of all its sources. A fold over intents and commits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// By the source's name in the query.
    pub sources: BTreeMap<String, SourceTime>,
    high: Option<i64>,
}

impl Timeline {
    /// The event time of a query before its first batch; `event_time` says of each source whether it
    /// declares a watermark.
    pub fn new<'a>(sources: impl IntoIterator<Item = (&'a str, bool)>) -> Self {
        let sources = sources
            .into_iter()
            .map(|(name, event_time)| (name.to_string(), SourceTime { event_time, ..Default::default() }))
            .collect();
        Self { sources, high: None }
    }

    /// The frontier: event time in microseconds. `None` while an active partition has no watermark yet.
    pub fn frontier(&self) -> Option<i64> {
        self.high
    }

    /// Whether every source has ended.
    pub fn ended(&self) -> bool {
        self.sources.values().all(SourceTime::ended)
    }

    /// A partition's watermark, in microseconds.
    pub fn watermark(&self, source: &str, partition: &str) -> Option<i64> {
        self.sources.get(source)?.partitions.get(partition)?.watermark
    }

    /// Takes in a batch: what its intent made known of the partitions, and the watermarks after its rows.
    ///
    /// A range makes its partition active; `idle` and `finished` then apply.
    pub fn advance(&mut self, intent: &Intent, watermarks: &BTreeMap<String, BTreeMap<PartitionId, i64>>) {
        for part in &intent.sources {
            let source = self.sources.entry(part.source.clone()).or_default();
            source.closed |= part.closed;
            let read = part.ranges.iter().filter(|r| r.start.offset < r.end.offset).map(|r| &r.partition);
            for id in part.discovered.iter().chain(read) {
                source.partitions.entry(id.clone()).or_default().status = PartitionStatus::Active;
            }
            for id in &part.idle {
                source.partitions.entry(id.clone()).or_default().status = PartitionStatus::Idle;
            }
            for id in &part.finished {
                source.partitions.entry(id.clone()).or_default().status = PartitionStatus::Finished;
            }
            source.resting = (source.resting || part.resting) && source.partitions.is_empty();
        }
        for (source, partitions) in watermarks {
            let source = self.sources.entry(source.clone()).or_default();
            for (id, watermark) in partitions {
                let time = source.partitions.entry(id.clone()).or_default();
                time.watermark = time.watermark.max(Some(*watermark));
            }
        }
        self.high = self.high.max(self.now());
    }

    fn now(&self) -> Option<i64> {
        if self.ended() {
            return Some(END_OF_TIME);
        }
        let timed = || self.sources.values().filter(|s| s.event_time && !s.ended());
        if timed().next().is_none() {
            return self.sources.values().any(|s| s.event_time).then_some(END_OF_EVENT_TIME);
        }
        let open = || timed().flat_map(|s| s.partitions.values()).filter(|p| p.status != PartitionStatus::Finished);
        if timed().any(|s| s.partitions.is_empty() && !s.resting) {
            return None;
        }
        let mut active = open().filter(|p| p.status == PartitionStatus::Active).peekable();
        if active.peek().is_some() {
            return active.map(|p| p.watermark).min().flatten();
        }
        // Nothing holds it back: all that is known of rests, or has been read to its end in a source that goes on.
        timed().flat_map(|s| s.partitions.values()).filter_map(|p| p.watermark).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchId, SourceIntent};

    #[test]
    fn what_has_an_event_time_ends_though_another_source_goes_on() {
        let mut timeline = Timeline::new([("timed", true), ("untimed", false)]);
        let part = |source: &str, finished: bool| SourceIntent {
            source: source.into(),
            ranges: vec![],
            discovered: vec!["p".into()],
            idle: vec![],
            resting: false,
            finished: if finished { vec!["p".into()] } else { vec![] },
            closed: finished,
        };
        let mut after = |timed, untimed| {
            let sources = vec![part("timed", timed), part("untimed", untimed)];
            let intent = Intent { batch: BatchId(1), time_us: 0, frontier: None, sources, pinned: BTreeMap::new() };
            timeline.advance(&intent, &BTreeMap::from([("timed".into(), BTreeMap::from([("p".into(), 31)]))]));
            timeline.frontier()
        };
        assert_eq!(after(false, false), Some(31));
        assert_eq!(after(true, false), Some(END_OF_EVENT_TIME));
        assert_eq!(after(true, true), Some(END_OF_TIME));
    }
}
