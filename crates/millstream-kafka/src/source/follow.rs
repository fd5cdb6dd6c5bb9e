//! What is known of the topics of a table, and what is offered of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use millstream_core::batch::{Position, Positions, Range};
use millstream_core::source::{Limit, Offer};
use millstream_core::{Error, ErrorKind, Result};
use rdkafka::error::RDKafkaErrorCode as Code;

use super::buffer::{Buffer, Slice};
use super::cluster::{Cluster, LOOK_AGAIN_AFTER, SEEN_WITHIN};
use super::range::{RangeRead, Readers, gone};
use super::reading::{START, Stamp};
use super::rows::RowReader;
use super::start::{Mark, Scan, TopicPartition};
use super::tail::{Fetch, Tail};
use super::{Lost, id_of, partition_of};
use crate::native::TopicFacts;
use crate::table::Topics;

/// Everything behind a source; its calls to the cluster block.
pub(super) struct Inner {
    pub(super) cluster: Cluster,
    pub(super) readers: Readers,
    pub(super) rows: RowReader,
    pub(super) topics: Topics,
    pub(super) scan: Scan,
    pub(super) lost: Lost,
    pub(super) discovery: Duration,
    pub(super) follow: Mutex<Follow>,
}

/// What is known of the topics.
#[derive(Default)]
pub(super) struct Follow {
    tail: Option<Arc<Tail>>,
    /// The ids of the topics.
    ids: BTreeMap<String, u128>,
    /// Where partitions begin that no position is of.
    starts: BTreeMap<TopicPartition, u64>,
    /// Ranges that say where reading begins, until they are taken.
    marks: BTreeMap<TopicPartition, Range>,
    untils: BTreeMap<TopicPartition, u64>,
    last: BTreeMap<TopicPartition, (u64, u64)>,
    lost: BTreeMap<TopicPartition, u64>,
    pub(super) looked: Option<Instant>,
    pub(super) looking: bool,
    failure: Option<Error>,
}

/// What came of looking what there is.
pub(super) enum Outcome {
    /// And whether nothing more is under way.
    Offer(Offer, bool),
    Broken(TopicPartition, u64),
}

impl Inner {
    pub(super) fn follow(&self) -> MutexGuard<'_, Follow> {
        self.follow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tail(&self) -> Option<Arc<Tail>> {
        self.follow().tail.clone()
    }

    /// Finds the partitions and where each of them begins and ends, and begins to fetch.
    pub(super) fn begin(&self, from: &Positions) -> Result<Arc<Tail>> {
        let read = from.keys().filter_map(|id| partition_of(id).ok()).map(|(topic, _)| topic);
        let facts = self.cluster.topics(&self.names(read.collect())?)?;
        if let (Topics::Matching(pattern), true) = (&self.topics, facts.is_empty()) {
            return Err(Error::input(format!(
                "no topic on {} matches 'topic-pattern' = '{}': make one, or look for a slip in the pattern",
                self.cluster.connection.servers(),
                pattern.text()
            )));
        }
        let all = partitions(&facts);
        let unread: Vec<_> = all.iter().filter(|tp| !from.contains_key(&id_of(tp))).cloned().collect();
        // A query that has begun knows every place that was chosen: the others hold only what came later.
        let mark = if from.is_empty() { &self.scan.from } else { &Mark::Earliest };
        let starts = self.cluster.offsets(mark, &unread)?;
        let untils = match &self.scan.until {
            Some(mark) => self.cluster.offsets(mark, &all)?,
            None => BTreeMap::new(),
        };
        let ends = self.cluster.offsets(&Mark::Latest, &all)?;
        // A bounded table is over when the cluster says that there is nothing more.
        let wait_ms = if self.scan.until.is_some() { "10" } else { "500" };
        let tail = Arc::new(Tail::start(&self.cluster.connection, self.rows.wants_headers(), wait_ms)?);
        let mut follow = self.follow();
        if let Some(tail) = &follow.tail {
            return Ok(tail.clone());
        }
        follow.ids = facts.iter().map(|topic| (topic.name.clone(), topic.id)).collect();
        if *mark != Mark::Earliest {
            for (tp, start) in starts.iter().filter(|(_, start)| **start > 0) {
                let row = fingerprint(follow.ids.get(&tp.0).copied().unwrap_or(0));
                let at = |offset| Position { offset, row };
                let range =
                    Range { partition: id_of(tp), start: at(start - 1), end: at(*start), stamp: START.into(), lost: 0 };
                follow.marks.insert(tp.clone(), range);
            }
        }
        (follow.starts, follow.untils, follow.looked) = (starts, untils, Some(Instant::now()));
        let mut fetch = tail.fetch()?;
        for tp in &all {
            let position = from.get(&id_of(tp)).map(|p| p.offset).or(follow.starts.get(tp).copied()).unwrap_or(0);
            let first_end = ends.get(tp).copied().unwrap_or(0);
            tail.assign(&mut fetch, tp, Buffer::new(position, follow.untils.get(tp).copied(), first_end));
        }
        drop(fetch);
        follow.tail = Some(tail.clone());
        Ok(tail)
    }

    /// The topics to look at: where they are known by a pattern, those that are there, and those that were `read`, which
    /// are missed when they are gone.
    fn names(&self, read: BTreeSet<String>) -> Result<Vec<String>> {
        let pattern = match &self.topics {
            Topics::Named(names) => return Ok(names.clone()),
            Topics::Matching(pattern) => pattern,
        };
        let begun = Instant::now();
        loop {
            let names: BTreeSet<String> =
                self.cluster.matching(pattern)?.into_iter().chain(read.iter().cloned()).collect();
            // As for a topic that is named: it may have been made just now.
            if !names.is_empty() || begun.elapsed() >= SEEN_WITHIN {
                return Ok(names.into_iter().collect());
            }
            std::thread::sleep(LOOK_AGAIN_AFTER);
        }
    }

    /// Finds new partitions, and topics that are others now.
    pub(super) fn look(&self) {
        let known = self.follow().ids.keys().cloned().collect();
        let found = self.names(known).and_then(|names| self.cluster.topics(&names));
        let mut follow = self.follow();
        (follow.looking, follow.looked) = (false, Some(Instant::now()));
        match found.and_then(|facts| self.compare(&mut follow, &facts)) {
            Ok(()) => {}
            // What is away comes back; what was fetched meanwhile is good.
            Err(error) if error.kind() == ErrorKind::Retry => {}
            Err(error) => {
                follow.failure = Some(error);
                follow.tail.iter().for_each(|tail| tail.wake());
            }
        }
    }

    fn compare(&self, follow: &mut Follow, facts: &[TopicFacts]) -> Result<()> {
        for topic in facts {
            match follow.ids.get(&topic.name) {
                Some(id) if *id != topic.id => return Err(made_again(&topic.name)),
                _ => {}
            }
        }
        // A bounded table is what it was when it was looked at first.
        let Some(tail) = follow.tail.clone().filter(|_| self.scan.until.is_none()) else { return Ok(()) };
        follow.ids.extend(facts.iter().map(|topic| (topic.name.clone(), topic.id)));
        let mut fetch = tail.fetch()?;
        for tp in partitions(facts) {
            if !fetch.buffers.contains_key(&tp) {
                let start = self.cluster.watermarks(&tp).map_or(0, |(low, _)| low);
                follow.starts.insert(tp.clone(), start);
                tail.assign(&mut fetch, &tp, Buffer::new(start, None, 0));
            }
        }
        Ok(())
    }

    /// What has been fetched past these positions.
    pub(super) fn try_offer(&self, tail: &Tail, from: &Positions, limit: Limit) -> Result<Outcome> {
        let mut follow = self.follow();
        if let Some(failure) = follow.failure.take() {
            return Err(failure);
        }
        let mut fetch = tail.fetch()?;
        let all: Vec<TopicPartition> = fetch.buffers.keys().cloned().collect();
        let mut settled = true;
        let mut waiting = vec![];
        for tp in &all {
            let id = follow.ids.get(&tp.0).copied().unwrap_or(0);
            let position = match from.get(&id_of(tp)) {
                Some(position) if position.row != 0 && id != 0 && position.row != fingerprint(id) => {
                    return Err(made_again(&tp.0));
                }
                Some(position) => {
                    follow.marks.remove(tp);
                    position.offset
                }
                None => follow.starts.get(tp).copied().unwrap_or(0),
            };
            let lost = follow.lost.get(tp).map_or(0, |first| first.saturating_sub(position));
            align(tail, &mut fetch, tp, position + lost);
            if fetch.broken.contains_key(tp) {
                return Ok(Outcome::Broken(tp.clone(), position));
            }
            let Some(buffer) = fetch.buffers.get(tp) else { continue };
            settled &= buffer.settled();
            if buffer.count_from(position) > 0 {
                waiting.push((tp.clone(), position, lost));
            }
        }
        let mut offer = Offer { partitions: all.iter().map(id_of).collect(), ..Offer::default() };
        offer.ranges = follow.marks.values().cloned().collect();
        waiting.retain(|(tp, ..)| !follow.marks.contains_key(tp));
        offer.ranges.extend(ranges(&mut follow, &fetch, &waiting, limit));
        self.finish(&mut offer, &fetch, &follow, from);
        tail.released();
        Ok(Outcome::Offer(offer, settled))
    }

    /// What is left beside the offered ranges.
    fn finish(&self, offer: &mut Offer, fetch: &Fetch, follow: &Follow, from: &Positions) {
        let mut lag = 0;
        offer.closed = self.scan.until.is_some();
        for (tp, buffer) in &fetch.buffers {
            let id = id_of(tp);
            let read = offer.ranges.iter().find(|range| range.partition == id).map(|range| range.end.offset);
            let start = follow.starts.get(tp).copied().unwrap_or(0);
            let at = read.or(from.get(&id).map(|position| position.offset)).unwrap_or(start);
            let waiting = buffer.count_from(at);
            let end = buffer.until().or(fetch.ends.get(tp).copied()).unwrap_or(0);
            lag += waiting + if buffer.caught_up() { 0 } else { end.saturating_sub(buffer.position()) };
            if offer.closed && waiting == 0 && buffer.is_complete() {
                offer.finished.push(id);
            }
        }
        offer.lag = Some(lag);
    }

    /// The records of a range, where all of them are still here.
    pub(super) fn at_hand(&self, tp: &TopicPartition, range: &Range, stamp: &Stamp) -> Option<Vec<Slice>> {
        let follow = self.follow();
        if follow.ids.get(&tp.0) != Some(&stamp.id) {
            return None;
        }
        let tail = follow.tail.clone()?;
        let fetch = tail.fetch().ok()?;
        fetch.buffers.get(tp)?.read(range.start.offset + range.lost..range.end.offset)
    }

    pub(super) fn reopen(&self, tp: &TopicPartition, id: u128, from: u64, to: u64) -> Result<RangeRead> {
        let facts = self.cluster.topics(std::slice::from_ref(&tp.0))?;
        if facts.iter().any(|topic| topic.id != id) {
            return Err(gone(tp, from, to).at(format!("the topic '{}' was deleted and made again", tp.0)));
        }
        self.readers.open(tp, from, to)
    }

    /// Finds out why a partition can't be read on, and goes on behind what is lost where that is wanted.
    pub(super) fn mend(&self, tail: &Tail, tp: &TopicPartition, position: u64) -> Result<()> {
        let (topic, partition) = tp;
        // It says so where the topic is gone or another one now.
        let facts = self.cluster.topics(std::slice::from_ref(topic))?;
        let mut follow = self.follow();
        if facts.iter().any(|found| follow.ids.get(topic) != Some(&found.id)) {
            return Err(made_again(topic));
        }
        let Some(why) = tail.fetch()?.broken.get(tp).cloned() else { return Ok(()) };
        let (low, end) = self.cluster.watermarks(tp)?;
        let out_of_range = matches!(why.code, Code::AutoOffsetReset | Code::OffsetOutOfRange);
        match (out_of_range, self.lost) {
            (true, Lost::Fail) if position < low => Err(Error::input(format!(
                "records of {topic}-{partition} were removed before they were read: it begins at offset {low} now, and was \
                 to be read from {position}. Let the topic keep its records for longer (retention.ms); to go on without \
                 them, counted as lost, set 'scan.lost' = 'count'"
            ))),
            (true, Lost::Count) if position < low => {
                follow.lost.insert(tp.clone(), low);
                let mut fetch = tail.fetch()?;
                let until = fetch.buffers.get(tp).and_then(|buffer| buffer.until());
                tail.assign(&mut fetch, tp, Buffer::new(low, until, end));
                Ok(())
            }
            (true, _) if position > end => Err(Error::input(format!(
                "{topic}-{partition} ends at offset {end}, and was read up to {position}: the log has lost its end, or was \
                 replaced. Start the query anew in another directory, or restore the topic"
            ))),
            (_, _) if matches!(why.code, Code::TopicAuthorizationFailed) => {
                Err(Error::config(format!("the topic '{topic}' may not be read: grant Read and Describe on it")))
            }
            _ => {
                let mut fetch = tail.fetch()?;
                let until = fetch.buffers.get(tp).and_then(|buffer| buffer.until());
                tail.assign(&mut fetch, tp, Buffer::new(position, until, end));
                let text =
                    format!("{topic}-{partition} can't be read at offset {position}: {} ({})", why.text, why.code);
                Err(Error::retry(self.cluster.connection.scrub(text)))
            }
        }
    }
}

fn made_again(topic: &str) -> Error {
    Error::input(format!(
        "the topic '{topic}' is another one than the one that was read: it was deleted and made again. Its offsets mean \
         other records now; start the query anew in another directory"
    ))
}

fn partitions(facts: &[TopicFacts]) -> Vec<TopicPartition> {
    facts.iter().flat_map(|topic| topic.partitions.iter().map(|p| (topic.name.clone(), *p))).collect()
}

/// What is fetched of a partition begins at the position.
fn align(tail: &Tail, fetch: &mut Fetch, tp: &TopicPartition, position: u64) {
    let Some(buffer) = fetch.buffers.get_mut(tp) else { return };
    if buffer.start() <= position && position <= buffer.position() {
        buffer.release(position);
    } else if !(buffer.is_complete() && position >= buffer.position()) {
        let until = buffer.until();
        tail.assign(fetch, tp, Buffer::new(position, until, 0));
    }
}

/// Shares the limit among the partitions that have something, and makes their ranges.
fn ranges(follow: &mut Follow, fetch: &Fetch, waiting: &[(TopicPartition, u64, u64)], limit: Limit) -> Vec<Range> {
    let mut left = limit;
    let mut last = BTreeMap::new();
    let mut ranges = vec![];
    // IMPORTANT: those that were offered and not taken come first, so that what was offered is offered again.
    let offered = |tp: &TopicPartition, position: u64| {
        follow.last.get(tp).filter(|(from, _)| *from == position).map_or(0, |(_, end)| *end)
    };
    let mut order: Vec<_> = waiting.iter().map(|w| (offered(&w.0, w.1) == 0, w)).collect();
    order.sort_by_key(|(fresh, _)| *fresh);
    for (n, (_, (tp, position, lost))) in order.iter().enumerate() {
        let Some(buffer) = fetch.buffers.get(tp) else { continue };
        let others = (order.len() - n) as u64;
        // A batch has at least one row, however large.
        let first = if ranges.is_empty() { 1 } else { 0 };
        let share = |left: u64| left.div_ceil(others);
        let (rows, bytes) = (share(left.rows).max(first), share(left.bytes));
        let at_least = offered(tp, *position).max(if first == 1 { *position + 1 } else { 0 });
        let mut cut = buffer.cut(*position, rows, bytes, at_least);
        if cut.is_none() && ranges.is_empty() {
            cut = buffer.cut(*position, 1, u64::MAX, 0);
        }
        let Some(cut) = cut else { continue };
        left.rows = left.rows.saturating_sub(cut.rows);
        left.bytes = left.bytes.saturating_sub(cut.bytes);
        let id = follow.ids.get(&tp.0).copied().unwrap_or(0);
        let at = |offset| Position { offset, row: fingerprint(id) };
        last.insert(tp.clone(), (*position, cut.end));
        let stamp = Stamp { id, records: cut.rows }.to_string();
        ranges.push(Range { partition: id_of(tp), start: at(*position), end: at(cut.end), stamp, lost: *lost });
    }
    follow.last = last;
    ranges.sort_by(|a, b| a.partition.cmp(&b.partition));
    ranges
}

/// What is left of a topic's id in a position; 0 where nothing is known.
fn fingerprint(id: u128) -> u64 {
    // Positions are stored as JSON, whose readers may know floats only.
    (id ^ (id >> 64)) as u64 & ((1 << 53) - 1)
}
