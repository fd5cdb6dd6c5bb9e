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

use std::time::{Duration, Instant};

use futures::executor::block_on;
use millstream_core::batch::BatchId;
use millstream_core::digest::Digest;
use millstream_core::sink::{Marker, Owner};
use millstream_core::{Error, ErrorKind, Result};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
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

/// Which end of the marker's partition a reader must have come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UpTo {
    /// What is committed now; what is hidden behind an open transaction is not seen.
    Committed,
    /// At least this offset. IMPORTANT: after `init_transactions` it must be the end of the log, since a marker of ours
    /// may lie behind an open transaction of another query, and a stale one would let a batch be published twice.
    Offset(i64),
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

    /// What the topic holds for the query.
    ///
    /// # Errors
    /// [`ErrorKind::Retry`] where the cluster doesn't answer, or another transaction hides what must be seen;
    /// [`ErrorKind::Corrupt`] where the marker can't be read.
    pub(super) fn read(&self, connection: &Connection, reader: &MarkerReader, up_to: UpTo) -> Result<Option<Claim>> {
        let MarkerReader { consumer, reports } = reader;
        let what = format!("the markers in '{}' can't be read", self.topic);
        let retry = |e: &KafkaError| connection.failed(ErrorKind::Retry, &what, e, Some(reports));
        let (low, committed) =
            ask(consumer, reports, CALL_TIMEOUT, |wait| consumer.fetch_watermarks(&self.topic, self.partition, wait))
                .map_err(|e| retry(&e))?;
        let end = match up_to {
            UpTo::Committed => committed,
            UpTo::Offset(end) => end,
        };
        if low >= end {
            return Ok(None);
        }
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(&self.topic, self.partition, Offset::Offset(low)).map_err(|e| retry(&e))?;
        consumer.assign(&from).map_err(|e| retry(&e))?;
        let found = self.scan(consumer, end, retry);
        consumer.unassign().map_err(|e| retry(&e))?;
        let Some(bytes) = found? else { return Ok(None) };
        let corrupt = || {
            Error::corrupt(format!(
                "the marker '{}' in the topic '{}' can't be read: which batches were published is unknown. Was it written \
                 by a later version, or by something else?",
                self.key, self.topic
            ))
        };
        let claim: Claim = serde_json::from_slice(&bytes).map_err(|e| corrupt().caused_by(e))?;
        if claim.version == VERSION { Ok(Some(claim)) } else { Err(corrupt()) }
    }

    /// The newest value of the key before `end`.
    fn scan(
        &self,
        consumer: &BaseConsumer<Reports>,
        end: i64,
        retry: impl Fn(&KafkaError) -> Error,
    ) -> Result<Option<Vec<u8>>> {
        let mut found = None;
        let begun = Instant::now();
        loop {
            // A poll moves the position over control records, but does not return for them.
            match consumer.poll(Duration::from_millis(2)) {
                Some(Ok(record)) => {
                    if record.key() == Some(self.key.as_bytes()) {
                        found = record.payload().map(<[u8]>::to_vec);
                    }
                    if record.offset() + 1 >= end {
                        return Ok(found);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) | None => {}
                Some(Err(e)) if begun.elapsed() >= CALL_TIMEOUT => return Err(retry(&e)),
                Some(Err(_)) => {}
            }
            let position = consumer.position().map_err(|e| retry(&e))?;
            let position = position.elements().first().map(|element| element.offset());
            if matches!(position, Some(Offset::Offset(position)) if position >= end) {
                return Ok(found);
            }
            if begun.elapsed() >= HIDDEN_MAX {
                return Err(Error::retry(format!(
                    "a transaction is open in partition {} of the topic '{}' for longer than {} seconds, and hides whether \
                     this query has published: end its producer",
                    self.partition,
                    self.topic,
                    HIDDEN_MAX.as_secs()
                )));
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
    pub(super) fn new(connection: &Connection) -> Result<Self> {
        let reports = Reports::default();
        let own = [
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", "earliest"),
            ("isolation.level", "read_committed"),
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
