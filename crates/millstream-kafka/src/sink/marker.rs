//! The marker of a query: which batch is the last one in the topic, and who may write the next.
//!
//! A marker is a record of a compacted topic, written in the transaction that holds the batch's records. Its key is the
//! transactional id, its partition follows from the key alone, so that partitions that are added later change nothing:
//!
//! ```text
//! key    millstream-orders-alerts
//! value  {"version":1,"owner":{"query":"alerts","incarnation":"5f0c..","epoch":2},"batch":17,"digest":81985529216486895}
//! ```
//!
//! `batch` is null before the first one. A new owner writes the marker that it found with itself as the owner, so that
//! an earlier one is refused before it can fence anybody.

use std::ops::Range;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use millstream_core::batch::BatchId;
use millstream_core::digest::Digest;
use millstream_core::sink::{Marker, Owner};
use millstream_core::{Error, ErrorKind, Result};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use crate::client::{Connection, Reports, ask};

const VERSION: u32 = 1;

/// Partitions of the marker topic that are used. Never changes: a marker would be looked for elsewhere.
const PARTITIONS: u64 = 16;

/// What one call to the cluster may take.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How often it is looked whether a topic that was made is there.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// How long the end of what is committed may take to follow a commit, before it is looked what is hidden.
const STABLE_AFTER: Duration = Duration::from_millis(100);

/// How long other queries' open transactions may hide ours: the time after which the broker aborts them by default.
const HIDDEN_MAX: Duration = Duration::from_secs(70);

/// What the marker topic holds for one query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    version: u32,
    pub(super) owner: Owner,
    pub(super) batch: Option<BatchId>,
    digest: Digest,
}

impl Claim {
    /// A batch is there.
    pub(super) fn published(marker: &Marker) -> Self {
        Self { version: VERSION, owner: marker.owner.clone(), batch: Some(marker.batch), digest: marker.digest }
    }

    /// The same, or nothing yet, in the hands of this owner.
    pub(super) fn taken_over(found: Option<&Self>, owner: &Owner) -> Self {
        let (batch, digest) = found.map_or((None, Digest::default()), |found| (found.batch, found.digest));
        Self { version: VERSION, owner: owner.clone(), batch, digest }
    }

    /// What the loop is told.
    pub(super) fn marker(&self) -> Option<Marker> {
        Some(Marker { owner: self.owner.clone(), batch: self.batch?, digest: self.digest })
    }

    /// Whether it says of the batches what `found` says, so that it is the same to this owner whether it was committed.
    fn changes_nothing(&self, found: Option<&Self>, owner: &Owner, topic: &str) -> bool {
        let (batch, digest) = found.map_or((None, Digest::default()), |found| (found.batch, found.digest));
        (self.batch, self.digest) == (batch, digest) && self.check(owner, topic).is_ok()
    }

    pub(super) fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::bug("a marker can't be written").caused_by(e))
    }

    /// Whether `claimant` may take over.
    ///
    /// # Errors
    /// [`ErrorKind::Owned`] where it is an earlier owner, or another query.
    pub(super) fn check(&self, claimant: &Owner, topic: &str) -> Result<()> {
        let Owner { query, incarnation, epoch } = &self.owner;
        if *incarnation != claimant.incarnation {
            return Err(Error::owned(format!(
                "the topic '{topic}' holds the output of query '{query}', incarnation {incarnation}; this is query '{}', \
                 incarnation {}, which knows nothing of those rows. Start with the state directory that belongs to them, \
                 give the query another name, or set another 'sink.transactional-id-prefix'",
                claimant.query, claimant.incarnation
            )));
        }
        if *epoch > claimant.epoch {
            return Err(Error::owned(format!(
                "the topic '{topic}' was taken over by a later run of query '{query}' (epoch {epoch}; this one has epoch \
                 {}): this run must stop",
                claimant.epoch
            )));
        }
        Ok(())
    }
}

/// Where the marker of one query lies.
#[derive(Clone, Debug)]
pub(super) struct MarkerPlace {
    pub(super) topic: String,
    pub(super) key: String,
    pub(super) partition: i32,
}

impl MarkerPlace {
    pub(super) fn new(topic: &str, key: &str) -> Self {
        let partition = xxhash_rust::xxh3::xxh3_64(key.as_bytes()) % PARTITIONS;
        Self { topic: topic.into(), key: key.into(), partition: i32::try_from(partition).unwrap_or(0) }
    }

    /// Makes the topic where it is missing.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] where it is missing and can't be made, or has too few partitions.
    pub(super) fn ensure(&self, connection: &Connection, reader: &MarkerReader) -> Result<()> {
        let (begun, mut made) = (Instant::now(), false);
        loop {
            let MarkerReader { consumer, reports } = reader;
            let asked = ask(consumer, reports, CALL_TIMEOUT, |wait| consumer.fetch_metadata(Some(&self.topic), wait));
            let metadata = asked.map_err(|e| {
                let what =
                    format!("the cluster {} can't be asked for the topic '{}'", connection.servers(), self.topic);
                connection.failed(ErrorKind::Retry, &what, &e, Some(&reader.reports))
            })?;
            let found = metadata.topics().iter().find(|topic| topic.name() == self.topic);
            let partitions = found.filter(|topic| topic.error().is_none()).map(|topic| topic.partitions());
            let partitions = partitions.unwrap_or_default();
            let ready = partitions.iter().all(|partition| partition.error().is_none());
            match partitions.len() as u64 {
                PARTITIONS.. if ready => return Ok(()),
                0 if !made => {
                    self.make(connection)?;
                    made = true;
                }
                // The leaders of a topic just made take a moment.
                0 | PARTITIONS.. if begun.elapsed() < CALL_TIMEOUT => std::thread::sleep(LOOK_AGAIN_AFTER),
                0 | PARTITIONS.. => {
                    return Err(Error::retry(format!("the topic '{}' has no leaders", self.topic)));
                }
                few => {
                    return Err(Error::config(format!(
                        "the topic '{}' has {few} partitions, and the markers of queries need {PARTITIONS}: add partitions, \
                         or name another topic with 'sink.marker-topic'",
                        self.topic
                    )));
                }
            }
        }
    }

    fn make(&self, connection: &Connection) -> Result<()> {
        let reports = Reports::default();
        let admin: AdminClient<Reports> = connection.client(&[], &[], &reports)?;
        let replication = TopicReplication::Fixed(-1); // the cluster's own default
        let topic = NewTopic::new(&self.topic, PARTITIONS as i32, replication)
            .set("cleanup.policy", "compact")
            .set("segment.bytes", "16777216")
            .set("min.cleanable.dirty.ratio", "0.1");
        let options = AdminOptions::new().operation_timeout(Some(CALL_TIMEOUT));
        let made = block_on(admin.create_topics(&[topic], &options));
        let what = format!("the topic '{}', which holds the markers of queries, can't be made", self.topic);
        let results = made.map_err(|e| connection.failed(ErrorKind::Retry, &what, &e, Some(&reports)))?;
        match results.into_iter().find_map(|result| result.err()) {
            None | Some((_, RDKafkaErrorCode::TopicAlreadyExists)) => Ok(()),
            Some((_, code)) => Err(Error::config(format!(
                "{what}: {code}. Let it be made by somebody who may, with {PARTITIONS} partitions and \
                 cleanup.policy=compact, or name another with 'sink.marker-topic'"
            ))),
        }
    }

    /// What is committed now; what is hidden behind an open transaction is not seen.
    ///
    /// # Errors
    /// [`ErrorKind::Retry`] where the cluster doesn't answer; [`ErrorKind::Corrupt`] where the marker can't be read.
    pub(super) fn committed(&self, connection: &Connection, reader: &MarkerReader) -> Result<Option<Claim>> {
        let (low, stable) = self.bounds(connection, reader)?;
        self.values(connection, reader, low..stable)?.pop().map(|value| self.claim(&value)).transpose()
    }

    /// The marker as it will stay, for an owner whose `init_transactions` has ended everything that was open under the id,
    /// when the partition's log ended at `end`.
    ///
    /// IMPORTANT: a marker of ours may lie behind an open transaction of another query, and a stale one would let a batch
    /// be published twice. So what is hidden is waited for, unless it says the same whether it was committed or not.
    ///
    /// # Errors
    /// [`ErrorKind::Retry`] where the cluster doesn't answer, or another transaction hides what must be seen;
    /// [`ErrorKind::Corrupt`] where the marker can't be read.
    pub(super) fn settled(
        &self,
        connection: &Connection,
        reader: &MarkerReader,
        owner: &Owner,
        end: i64,
    ) -> Result<Option<Claim>> {
        let begun = Instant::now();
        let (mut found, mut read_to, mut judged_from) = (None, 0, None);
        loop {
            let (low, stable) = self.bounds(connection, reader)?;
            if let Some(value) = self.values(connection, reader, low.max(read_to)..stable)?.pop() {
                found = Some(self.claim(&value)?);
            }
            read_to = read_to.max(stable);
            if stable >= end {
                return Ok(found);
            }
            if begun.elapsed() >= STABLE_AFTER && judged_from.replace(stable) != Some(stable) {
                let everything = MarkerReader::new(connection, "read_uncommitted")?;
                let hidden = self.values(connection, &everything, stable..end)?;
                let changes_nothing = |value: &Vec<u8>| {
                    self.claim(value).is_ok_and(|hidden| hidden.changes_nothing(found.as_ref(), owner, &self.topic))
                };
                if hidden.iter().all(changes_nothing) {
                    return Ok(found);
                }
            }
            if begun.elapsed() >= HIDDEN_MAX {
                return Err(self.hidden(connection, stable));
            }
            std::thread::sleep(LOOK_AGAIN_AFTER);
        }
    }

    fn hidden(&self, connection: &Connection, from: i64) -> Error {
        let Self { topic, partition, .. } = self;
        Error::retry(format!(
            "a transaction is open in partition {partition} of the topic '{topic}' since offset {from}, for longer than {} \
             seconds, and hides whether this query has published: end its producer. Where it has none any more, the \
             broker forgot to end it: `kafka-transactions.sh --bootstrap-server {} abort --topic {topic} --partition \
             {partition} --start-offset {from}`",
            HIDDEN_MAX.as_secs(),
            connection.servers(),
        ))
    }

    /// The first offset that is there, and the last stable one.
    fn bounds(&self, connection: &Connection, reader: &MarkerReader) -> Result<(i64, i64)> {
        let MarkerReader { consumer, reports } = reader;
        ask(consumer, reports, CALL_TIMEOUT, |wait| consumer.fetch_watermarks(&self.topic, self.partition, wait))
            .map_err(|e| self.unread(connection, reader, &e))
    }

    fn unread(&self, connection: &Connection, reader: &MarkerReader, error: &KafkaError) -> Error {
        let what = format!("the markers in '{}' can't be read", self.topic);
        connection.failed(ErrorKind::Retry, &what, error, Some(&reader.reports))
    }

    /// The values of the key at these offsets, the oldest first.
    fn values(&self, connection: &Connection, reader: &MarkerReader, offsets: Range<i64>) -> Result<Vec<Vec<u8>>> {
        if offsets.is_empty() {
            return Ok(vec![]);
        }
        let unread = |e: &KafkaError| self.unread(connection, reader, e);
        let consumer = &reader.consumer;
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(&self.topic, self.partition, Offset::Offset(offsets.start))
            .map_err(|e| unread(&e))?;
        consumer.assign(&from).map_err(|e| unread(&e))?;
        let found = self.scan(consumer, offsets.end);
        consumer.unassign().map_err(|e| unread(&e))?;
        found.map_err(|e| unread(&e))
    }

    fn claim(&self, value: &[u8]) -> Result<Claim> {
        let corrupt = || {
            Error::corrupt(format!(
                "the marker '{}' in the topic '{}' can't be read: which batches were published is unknown. Was it written \
                 by a later version, or by something else?",
                self.key, self.topic
            ))
        };
        let claim: Claim = serde_json::from_slice(value).map_err(|e| corrupt().caused_by(e))?;
        if claim.version == VERSION { Ok(claim) } else { Err(corrupt()) }
    }

    /// The values of the key before `end`, from where the consumer stands. All of them are there to be read.
    fn scan(&self, consumer: &BaseConsumer<Reports>, end: i64) -> KafkaResult<Vec<Vec<u8>>> {
        let mut found = vec![];
        let mut heard_of = Instant::now();
        loop {
            // A poll moves the position over control records, but does not return for them.
            match consumer.poll(Duration::from_millis(2)) {
                Some(Ok(record)) => {
                    heard_of = Instant::now();
                    if record.offset() < end && record.key() == Some(self.key.as_bytes()) {
                        found.extend(record.payload().map(<[u8]>::to_vec));
                    }
                    if record.offset() + 1 >= end {
                        return Ok(found);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) | None => {}
                Some(Err(e)) if heard_of.elapsed() >= CALL_TIMEOUT => return Err(e),
                Some(Err(_)) => {}
            }
            let position = consumer.position()?;
            let position = position.elements().first().map(|element| element.offset());
            if matches!(position, Some(Offset::Offset(position)) if position >= end) {
                return Ok(found);
            }
            if heard_of.elapsed() >= CALL_TIMEOUT {
                return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut));
            }
        }
    }
}

/// Reads markers.
pub(super) struct MarkerReader {
    consumer: BaseConsumer<Reports>,
    pub(super) reports: Reports,
}

impl MarkerReader {
    /// `isolation` is what the client calls so: `read_committed` or `read_uncommitted`.
    pub(super) fn new(connection: &Connection, isolation: &str) -> Result<Self> {
        let reports = Reports::default();
        let own = [
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", "earliest"),
            ("isolation.level", isolation),
            ("fetch.wait.max.ms", "10"),
            ("fetch.min.bytes", "1"),
            ("allow.auto.create.topics", "false"),
        ];
        Ok(Self { consumer: connection.client(&[("group.id", "millstream")], &own, &reports)?, reports })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(epoch: u64) -> Owner {
        Owner { query: "q".into(), incarnation: "a".into(), epoch }
    }

    #[test]
    fn an_earlier_owner_and_another_incarnation_are_refused() {
        let claim = Claim::taken_over(None, &owner(2));
        assert!(claim.check(&owner(2), "t").is_ok() && claim.check(&owner(3), "t").is_ok());
        assert_eq!(claim.check(&owner(1), "t").unwrap_err().kind(), ErrorKind::Owned);
        let other = Owner { incarnation: "b".into(), ..owner(3) };
        assert_eq!(claim.check(&other, "t").unwrap_err().kind(), ErrorKind::Owned);
    }

    #[test]
    fn a_marker_lies_where_it_always_lay() {
        assert_eq!(MarkerPlace::new("m", "millstream-orders-alerts").partition, 10);
        let claim = Claim::published(&Marker { owner: owner(1), batch: BatchId(7), digest: Digest(9) });
        let text = r#"{"version":1,"owner":{"query":"q","incarnation":"a","epoch":1},"batch":7,"digest":9}"#;
        assert_eq!(String::from_utf8(claim.to_bytes().unwrap()).unwrap(), text);
    }
}
