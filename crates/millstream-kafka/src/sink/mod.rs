//! The sink of 'kafka' and 'upsert-kafka': a batch is one transaction, which holds the marker too.
//!
//! **Once.** The records of a batch and the marker that says so become visible together, to readers that read what is
//! committed (`isolation.level` = `read_committed`; other readers see what is aborted too). `open` takes the
//! transactional id over, which ends whatever an earlier process had begun, and then reads the marker to the end of the
//! log. A producer that was taken over can commit nothing.
//!
//! 'sink.delivery-guarantee' = 'at-least-once' does without transactions and marker: a record carries the batch in its
//! header `millstream.batch`, so that a reader can tell what it has seen.
//!
//! The client's calls block; each call of the contract runs as one piece on the runtime's blocking threads. A call that
//! is dropped half-way goes on there, and the next one waits for it.

mod encode;
mod marker;
mod producer;
mod rows;

use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use millstream_core::batch::BatchId;
use millstream_core::sink::{Guarantee, Marker, Output, OutputKind, Owner, Permit, Sink};
use millstream_core::{Error, ErrorKind, Result};
use millstream_io::TableSpec;
use millstream_io::failpoint::fail_point;

use self::marker::{Claim, MarkerPlace, MarkerReader};
use self::producer::{Failure, RecordProducer};
use self::rows::{Record, RowEncoder};
use crate::client::Connection;
use crate::table::{Layout, Topics};

/// Where the markers of queries lie unless the table says otherwise.
const MARKER_TOPIC: &str = "__millstream_markers";

/// The header that says, at least once, which batch a record is of.
const BATCH_HEADER: &str = "millstream.batch";

/// Writes records to a topic.
pub struct KafkaSink {
    guarantee: Guarantee,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    connection: Connection,
    topic: String,
    place: MarkerPlace,
    rows: RowEncoder,
    guarantee: Guarantee,
    opened: Option<Opened>,
}

struct Opened {
    owner: Owner,
    producer: RecordProducer,
    last: Option<BatchId>,
}

/// What the options say of the guarantee.
pub(crate) fn guarantee(spec: &TableSpec) -> Result<Guarantee> {
    let words = [("exactly-once", Guarantee::ExactlyOnce), ("at-least-once", Guarantee::AtLeastOnce)];
    Ok(spec.options.one_of("sink.delivery-guarantee", &words)?.unwrap_or(Guarantee::ExactlyOnce))
}

impl KafkaSink {
    /// A sink for the table's options; talks to nobody before it is opened.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] where an option means nothing, [`ErrorKind::Query`] where the rows have no place in the topic.
    pub fn new(spec: &TableSpec, query: &str, kind: OutputKind, schema: &SchemaRef) -> Result<Self> {
        let layout = Layout::new(spec)?;
        let connection = Connection::new(&spec.options, &spec.base_dir)?;
        let guarantee = guarantee(spec)?;
        let topic = match &layout.topics {
            Topics::Named(names) if let [topic] = names.as_slice() => topic,
            _ => return Err(Error::config("a table of several topics can't be written to: name one, 'topic' = 'a'")),
        };
        if let Some(column) = spec.partitioned_by.first() {
            return Err(Error::config(format!(
                "PARTITIONED BY ({column}, ..) means nothing for a topic: records are placed by their key, 'key.fields'"
            )));
        }
        spec.options.one_of("sink.partitioner", &[("default", ())])?;
        let prefix = spec.options.get("sink.transactional-id-prefix").unwrap_or("millstream");
        let id = format!("{prefix}-{topic}-{query}");
        let place = MarkerPlace::new(spec.options.get("sink.marker-topic").unwrap_or(MARKER_TOPIC), &id);
        // The same declaration may be read by another query: what only its source asks for is known here too.
        spec.options.with_prefix("scan.");
        let rows = RowEncoder::new(spec, &layout, kind, schema)?;
        layout.finish()?;
        let inner = Inner { connection, topic: topic.clone(), place, rows, guarantee, opened: None };
        Ok(Self { guarantee, inner: Arc::new(Mutex::new(inner)) })
    }

    async fn run<T: Send + 'static>(&self, call: impl FnOnce(&mut Inner) -> Result<T> + Send + 'static) -> Result<T> {
        let inner = self.inner.clone();
        let call = move || call(&mut inner.lock().unwrap_or_else(PoisonError::into_inner));
        let done = tokio::task::spawn_blocking(call).await;
        done.map_err(|e| Error::bug("a call of the Kafka sink did not come to its end").caused_by(e))?
    }
}

#[async_trait]
impl Sink for KafkaSink {
    fn guarantee(&self) -> Guarantee {
        self.guarantee
    }

    async fn open(&mut self, owner: &Owner) -> Result<Option<Marker>> {
        let owner = owner.clone();
        self.run(move |inner| inner.open(&owner)).await
    }

    async fn publish(&mut self, permit: &Permit, output: &Output) -> Result<()> {
        let (permit, output) = (permit.clone(), output.clone());
        self.run(move |inner| inner.publish(&permit, &output)).await
    }

    async fn close(&mut self) -> Result<()> {
        self.run(|inner| {
            inner.opened = None;
            Ok(())
        })
        .await
    }
}

impl Inner {
    fn open(&mut self, owner: &Owner) -> Result<Option<Marker>> {
        self.opened = None;
        if self.guarantee == Guarantee::AtLeastOnce {
            let producer = RecordProducer::plain(&self.connection)?;
            producer.ensure_topic(&self.topic)?;
            self.opened = Some(Opened { owner: owner.clone(), producer, last: None });
            return Ok(None);
        }
        let reader = MarkerReader::new(&self.connection, "read_committed")?;
        self.place.ensure(&self.connection, &reader)?;
        // IMPORTANT: before anybody is fenced, so that a process that was taken over doesn't harm the one that works.
        let seen = self.place.committed(&self.connection, &reader)?;
        seen.as_ref().map_or(Ok(()), |claim| claim.check(owner, &self.topic))?;
        let producer = RecordProducer::transactional(&self.connection, &self.place.key)?;
        fail_point("kafka.open.fenced");
        let end = producer.end(&self.place.topic, self.place.partition)?;
        let found = self.place.settled(&self.connection, &reader, owner, end)?;
        found.as_ref().map_or(Ok(()), |claim| claim.check(owner, &self.topic))?;
        producer.ensure_topic(&self.topic)?;
        if found.as_ref().map(|claim| &claim.owner) != Some(owner) {
            let claim = Claim::taken_over(found.as_ref(), owner).to_bytes()?;
            producer
                .transact(|producer| producer.send(&marker_record(&self.place, &claim)))
                .map_err(|failure| self.explain(owner, failure))?;
        }
        fail_point("kafka.open.claimed");
        let marker = found.and_then(|claim| claim.marker());
        self.opened = Some(Opened { owner: owner.clone(), producer, last: marker.as_ref().map(|m| m.batch) });
        Ok(marker)
    }

    fn publish(&mut self, permit: &Permit, output: &Output) -> Result<()> {
        // After an error the sink has to be opened again.
        let Some(mut opened) = self.opened.take() else {
            return Err(Error::bug(format!("the sink of the topic '{}' was used before it was opened", self.topic)));
        };
        let published = match self.guarantee {
            Guarantee::AtLeastOnce => self.deliver(&opened, permit, output),
            _ => self.transact(&opened, permit, output),
        };
        published.map_err(|failure| self.explain(&opened.owner, failure))?;
        opened.last = Some(permit.marker().batch);
        self.opened = Some(opened);
        Ok(())
    }

    fn transact(&mut self, opened: &Opened, permit: &Permit, output: &Output) -> Result<(), Failure> {
        check_next(opened, permit, &self.topic)?;
        let claim = Claim::published(permit.marker()).to_bytes()?;
        let Self { rows, topic, place, .. } = self;
        fail_point("kafka.publish.begin");
        opened.producer.transact(|producer| {
            rows.records(output, topic, |record| producer.send(&record))?;
            fail_point("kafka.publish.sent");
            producer.send(&marker_record(place, &claim))
        })?;
        fail_point("kafka.publish.committed");
        Ok(())
    }

    fn deliver(&mut self, opened: &Opened, permit: &Permit, output: &Output) -> Result<(), Failure> {
        let Owner { query, incarnation, .. } = &permit.marker().owner;
        let batch = format!("{query} {incarnation} {}", permit.marker().batch).into_bytes();
        let Self { rows, topic, .. } = self;
        opened.producer.deliver(|producer| {
            rows.records(output, topic, |mut record| {
                record.headers.push((BATCH_HEADER.into(), Some(batch.clone())));
                producer.send(&record)
            })
        })
    }

    /// Who has fenced us decides what to do: a later run, or an earlier one that has refused itself since.
    fn explain(&self, owner: &Owner, failure: Failure) -> Error {
        let Failure::Other(error) = failure else {
            let reader = MarkerReader::new(&self.connection, "read_committed");
            let found = reader.and_then(|reader| self.place.committed(&self.connection, &reader));
            return match found.map(|claim| claim.map_or(Ok(()), |claim| claim.check(owner, &self.topic))) {
                Ok(Err(taken_over)) => taken_over,
                Ok(Ok(())) => Error::retry(format!(
                    "another process has taken the transactional id '{}' and has not published: if it happens again, two \
                     runs of query '{}' are up; stop one",
                    self.place.key, owner.query
                )),
                Err(unknown) if unknown.kind() == ErrorKind::Retry => unknown,
                Err(unknown) => Error::owned("another process has taken this sink over").caused_by(unknown),
            };
        };
        error
    }
}

fn marker_record<'a>(place: &'a MarkerPlace, claim: &'a [u8]) -> Record<'a> {
    Record {
        topic: &place.topic,
        key: Some(place.key.as_bytes()),
        value: Some(claim),
        partition: Some(place.partition),
        timestamp_ms: None,
        headers: vec![],
    }
}

/// Moves the marker by compare-and-set: whether the permit's batch is the one that comes next.
fn check_next(opened: &Opened, permit: &Permit, topic: &str) -> Result<()> {
    let Opened { owner, last, .. } = opened;
    let marker = permit.marker();
    if marker.owner == *owner && permit.previous() == *last && last.is_none_or(|last| last < marker.batch) {
        return Ok(());
    }
    let name = |batch: Option<BatchId>| batch.map_or("none".to_string(), |batch| batch.to_string());
    Err(Error::owned(format!(
        "batch {} of query '{}' (epoch {}) was to follow batch {} in the topic '{topic}', but batch {} is the last one \
         there (epoch {}): another run of the query has published. Stop one of the two",
        marker.batch,
        marker.owner.query,
        marker.owner.epoch,
        name(permit.previous()),
        name(*last),
        owner.epoch,
    )))
}
