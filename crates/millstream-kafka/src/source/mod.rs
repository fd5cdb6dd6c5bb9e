//! The source of 'kafka': a partition of a topic is a partition, a position is an offset.
//!
//! A thread follows all partitions and is ahead of the batches ([`tail`]); an offer takes from what it has fetched and asks
//! nobody. So an offered range ends at most where the committed records end, and what lies in it is known: the number of
//! its records is part of the range's stamp, with the topic's id. A range that is read again, from memory or from the
//! cluster ([`range`]), gives the same records or an error, never others.
//!
//! **Identity.** A position carries a fingerprint of the topic's id in its `row`, as Kafka counts no rows. So a topic that
//! was deleted and made again is told from the one that was read, after a restart too.
//!
//! **Changes.** A changelog (`debezium-json`, `canal-json`, or 'upsert-kafka') has a last column, the weight. The order of
//! the rows of a key is that of its partition: who writes a key always to the same partition, as every producer does that
//! places records by key, loses nothing by reading partitions side by side.
//!
//! **Topics by a pattern.** They are looked for as partitions are: a topic that is made later is read from its first record.
//! One that was read and is gone is an error, as it is for a topic that is named.
//!
//! **Where it begins.** Where reading doesn't begin at a partition's first record, the first offer holds a range before the
//! place where it begins, stamped `start`, which gives no rows: so the place is stored with the first batch, and a restart
//! doesn't choose another. Partitions found later begin at their first record.

mod buffer;
mod cluster;
mod follow;
mod metadata;
mod range;
mod reading;
mod rows;
mod start;
mod tail;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use millstream_core::batch::{PartitionId, Positions, Range};
use millstream_core::source::{Boundedness, ChunkStream, Limit, Offer, Source, SourceTable};
use millstream_core::{Error, Result};
use millstream_io::TableSpec;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use self::cluster::Cluster;
use self::follow::{Inner, Outcome};
use self::range::Readers;
use self::reading::{From, Reading, START, Stamp};
use self::rows::TableRows;
use self::start::{Scan, TopicPartition};
use crate::client::Connection;
use crate::table::{Layout, Topics};

/// How long an offer waits for the first fetch of a partition.
const FIRST_FETCH_MAX: Duration = Duration::from_secs(5);

/// How often topics are looked at, for new partitions and for whether they are still the same.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(1);

/// What to do where records were gone before they could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    Fail,
    Count,
}

/// A table over topics.
#[derive(Debug)]
pub struct KafkaTable {
    schema: SchemaRef,
    connection: Connection,
    topics: Topics,
    rows: TableRows,
    scan: Scan,
    lost: Lost,
    discovery: Duration,
}

impl KafkaTable {
    /// The table that the options describe; talks to nobody.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where an option is missing or wrong.
    pub fn new(spec: &TableSpec) -> Result<Self> {
        let layout = Layout::new(spec)?;
        let connection = Connection::new(&spec.options, &spec.base_dir)?;
        let scan = Scan::new(&spec.options)?;
        let words = [("fail", Lost::Fail), ("count", Lost::Count)];
        let lost = spec.options.one_of("scan.lost", &words)?.unwrap_or(Lost::Fail);
        let discovery = spec.options.duration("scan.topic-partition-discovery.interval")?;
        // Of the core: asking makes it known.
        spec.options.get("scan.watermark.idle-timeout");
        spec.options.with_prefix("sink.");
        let rows = TableRows::new(spec, &layout)?;
        layout.finish()?;
        Ok(Self {
            schema: rows.schema(),
            connection,
            topics: layout.topics,
            rows,
            scan,
            lost,
            discovery: discovery.filter(|d| !d.is_zero()).unwrap_or(DISCOVERY_INTERVAL),
        })
    }
}

impl SourceTable for KafkaTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn source(&self, projection: &[usize]) -> Result<Arc<dyn Source>> {
        let rows = self.rows.project(projection)?;
        let readers = Readers::new(&self.connection, rows.wants_headers());
        let inner = Inner {
            cluster: Cluster::new(&self.connection)?,
            readers,
            rows,
            topics: self.topics.clone(),
            scan: self.scan.clone(),
            lost: self.lost,
            discovery: self.discovery,
            follow: Mutex::default(),
        };
        Ok(Arc::new(KafkaSource { inner: Arc::new(inner) }))
    }
}

/// Follows topics.
struct KafkaSource {
    inner: Arc<Inner>,
}

impl fmt::Debug for KafkaSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSource").field("topics", &self.inner.topics).finish_non_exhaustive()
    }
}

#[async_trait]
impl Source for KafkaSource {
    fn schema(&self) -> SchemaRef {
        self.inner.rows.schema()
    }

    fn boundedness(&self) -> Boundedness {
        if self.inner.scan.until.is_some() { Boundedness::Bounded } else { Boundedness::Followed }
    }

    async fn offer(&self, from: &Positions, limit: Limit) -> Result<Offer> {
        let begun = Instant::now();
        let tail = match self.inner.tail() {
            Some(tail) => tail,
            None => {
                let from = from.clone();
                self.blocking(move |inner| inner.begin(&from)).await?
            }
        };
        self.look_around();
        loop {
            let (offer, settled) = match self.inner.try_offer(&tail, from, limit)? {
                Outcome::Offer(offer, settled) => (offer, settled),
                Outcome::Broken(tp, position) => {
                    let tail = tail.clone();
                    self.blocking(move |inner| inner.mend(&tail, &tp, position)).await?;
                    continue;
                }
            };
            let waited = begun.elapsed();
            if settled || !offer.ranges.is_empty() {
                return Ok(offer);
            }
            if waited >= FIRST_FETCH_MAX {
                return match tail.complaint() {
                    Some((kind, text)) => {
                        let servers = self.inner.cluster.connection.servers();
                        let text = format!("nothing can be fetched from {servers}; last heard: {text}");
                        Err(Error::new(kind, self.inner.cluster.connection.scrub(text)))
                    }
                    None => Ok(offer),
                };
            }
            let _ = tokio::time::timeout(FIRST_FETCH_MAX - waited, tail.changed()).await;
        }
    }

    async fn open(&self, range: &Range) -> Result<ChunkStream> {
        if range.stamp == START {
            return Ok(Box::pin(futures::stream::empty()));
        }
        let tp = partition_of(&range.partition)?;
        let stamp = Stamp::parse(&range.stamp)?;
        let at_hand = self.inner.at_hand(&tp, range, &stamp);
        let (first, last) = (range.start.offset + range.lost, range.end.offset);
        let from = match at_hand {
            Some(slices) => From::Memory(slices.into()),
            None => {
                let (tp, id) = (tp.clone(), stamp.id);
                From::Cluster(Box::new(self.blocking(move |inner| inner.reopen(&tp, id, first, last)).await?))
            }
        };
        let builder = self.inner.rows.builder(&tp.0, tp.1)?;
        let reading = Reading { from, builder, tp, first, last, wanted: stamp.records, given: 0, done: false };
        Ok(Box::pin(futures::stream::try_unfold(reading, |mut reading| async move {
            let (chunk, reading) = match &reading.from {
                From::Memory(_) => (reading.next()?, reading),
                From::Cluster(_) => {
                    let read = tokio::task::spawn_blocking(move || reading.next().map(|chunk| (chunk, reading))).await;
                    read.map_err(|e| Error::bug("the thread that reads Kafka stopped").caused_by(e))??
                }
            };
            Ok(chunk.map(|chunk| (chunk, reading)))
        })))
    }

    async fn ready(&self) {
        let Some(tail) = self.inner.tail() else { return };
        let _ = tokio::time::timeout(self.inner.discovery, tail.changed()).await;
    }

    async fn release(&self, below: &Positions) -> Result<()> {
        // Only where somebody named a group: for tools that watch it, never for us.
        if self.inner.cluster.connection.property("group.id").is_none() {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        for (id, position) in below {
            let (topic, partition) = partition_of(id)?;
            let offset = Offset::Offset(i64::try_from(position.offset).unwrap_or(i64::MAX));
            // A group that can't be written doesn't hold up a query.
            let _ = list.add_partition_offset(&topic, partition, offset);
        }
        if list.count() > 0 {
            let _ = self.inner.cluster.client.commit(&list, CommitMode::Async);
        }
        Ok(())
    }
}

impl KafkaSource {
    async fn blocking<T: Send + 'static>(&self, call: impl FnOnce(&Inner) -> Result<T> + Send + 'static) -> Result<T> {
        let inner = self.inner.clone();
        let done = tokio::task::spawn_blocking(move || call(&inner)).await;
        done.map_err(|e| Error::bug("a call of the Kafka source did not come to its end").caused_by(e))?
    }

    /// Looks at the topics again, beside everything else, where it is due.
    fn look_around(&self) {
        let mut follow = self.inner.follow();
        let due = follow.looked.is_none_or(|looked| looked.elapsed() >= self.inner.discovery);
        if !due || follow.looking {
            return;
        }
        follow.looking = true;
        let inner = self.inner.clone();
        tokio::task::spawn_blocking(move || inner.look());
    }
}

/// The name of a partition: `orders-3`.
fn id_of((topic, partition): &TopicPartition) -> PartitionId {
    PartitionId::from(format!("{topic}-{partition}"))
}

fn partition_of(id: &PartitionId) -> Result<TopicPartition> {
    let parts = id.as_str().rsplit_once('-').and_then(|(topic, n)| Some((topic.to_string(), n.parse().ok()?)));
    parts.ok_or_else(|| Error::bug(format!("'{id}' is no partition of a topic")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_has_a_name_even_where_its_topic_has_dashes() {
        let tp = ("a-b-1".to_string(), 12);
        assert_eq!(id_of(&tp).as_str(), "a-b-1-12");
        assert_eq!(partition_of(&id_of(&tp)).unwrap(), tp);
    }
}
