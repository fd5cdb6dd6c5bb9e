//! A transactional producer: one transaction a batch, with every way that it can end told apart.
//!
//! `commit_transaction` and `flush` of the Rust client poll in steps of 100 ms while records are in flight. So the C
//! client is asked to flush, which sends what waits for company and returns when nothing is in flight, and the transaction
//! is committed then: 4-6 ms. Only records that could not be delivered are reported, to a thread of the producer's own.

use std::time::{Duration, Instant};

use millstream_core::{Error, ErrorKind, Result};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};

use super::marker::CALL_TIMEOUT;
use super::rows::Record;
use crate::client::{Connection, Reports};
use crate::native;

/// How often it is looked, while records are in flight, whether something went wrong.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// How long one transaction may take, from its first record to its end.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a transaction did not come to its good end.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another producer has the same transactional id now.
    Fenced,
    /// Anything else: whether it is stored is for the marker to say.
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// Sends records to one topic, in transactions or without.
pub(super) struct RecordProducer {
    producer: ThreadedProducer<Reports>,
    reports: Reports,
    connection: Connection,
}

/// What a topic's producer is told unless the table says otherwise: records of a batch wait for each other, and its last
/// ones for nobody, as they are flushed.
const DEFAULTS: [(&str, &str); 3] =
    [("linger.ms", "5"), ("queue.buffering.max.messages", "500000"), ("batch.num.messages", "10000")];

impl RecordProducer {
    /// A producer that retries without doubling, but knows no transactions.
    pub(super) fn plain(connection: &Connection) -> Result<Self> {
        Self::new(connection, &[("enable.idempotence", "true"), ("partitioner", "murmur2_random")])
    }

    /// The producer of this transactional id. Whoever had it before is fenced, and what they had begun has ended.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] where the password or certificate is wrong; [`ErrorKind::Retry`] where the cluster doesn't
    /// answer.
    pub(super) fn transactional(connection: &Connection, id: &str) -> Result<Self> {
        let made = Self::new(
            connection,
            &[
                ("transactional.id", id),
                ("partitioner", "murmur2_random"),
                // Of consumers, and heeded where this client is asked for the end of a log: the real end.
                ("isolation.level", "read_uncommitted"),
            ],
        )?;
        let begun = Instant::now();
        loop {
            match made.producer.init_transactions(Duration::from_millis(200)) {
                Ok(()) => break,
                Err(KafkaError::Transaction(e))
                    if e.is_retriable() && begun.elapsed() < CALL_TIMEOUT && !made.reports.hopeless() => {}
                Err(e) => {
                    let what = format!("no transaction can be begun on {}", connection.servers());
                    return Err(made.failed(&what, &e));
                }
            }
        }
        made.reports.forget();
        Ok(made)
    }

    fn new(connection: &Connection, own: &[(&str, &str)]) -> Result<Self> {
        let reports = Reports::default();
        let own: Vec<_> = own.iter().copied().chain([("delivery.report.only.error", "true")]).collect();
        let producer = connection.client(&DEFAULTS, &own, &reports)?;
        Ok(Self { producer, reports, connection: connection.clone() })
    }

    /// The end of a partition's log, whatever is open in it.
    pub(super) fn end(&self, topic: &str, partition: i32) -> Result<i64> {
        let watermarks = self.producer.client().fetch_watermarks(topic, partition, CALL_TIMEOUT);
        let what = format!("the end of {topic}-{partition} is unknown");
        watermarks.map(|(_, end)| end).map_err(|e| self.failed(&what, &e))
    }

    /// The topic is there, or the cluster makes it.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] where it is not there.
    pub(super) fn ensure_topic(&self, topic: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            let metadata = self.producer.client().fetch_metadata(Some(topic), CALL_TIMEOUT).map_err(|e| {
                self.failed(&format!("the cluster {} can't be asked for '{topic}'", self.connection.servers()), &e)
            })?;
            let found = metadata.topics().iter().find(|t| t.name() == topic);
            let error = found.and_then(|t| t.error());
            if found.is_some_and(|t| !t.partitions().is_empty()) && error.is_none() {
                return Ok(());
            }
            if begun.elapsed() > Duration::from_secs(5) {
                let why = error.map(|e| format!(" ({})", Code::from(e))).unwrap_or_default();
                return Err(Error::config(format!(
                    "the topic '{topic}' is not on {}, and the cluster makes none by itself{why}: make it",
                    self.connection.servers()
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends what `records` gives in one transaction.
    pub(super) fn transact(&self, records: impl FnOnce(&Self) -> Result<(), Failure>) -> Result<(), Failure> {
        let begun = Instant::now();
        self.producer.begin_transaction().map_err(|e| self.lost("a transaction can't be begun", &e))?;
        let sent = records(self).and_then(|()| self.delivered(begun));
        if let Err(failure) = sent {
            return Err(self.abort(failure));
        }
        self.commit(begun)
    }

    /// Sends what `records` gives and waits until all of it was taken.
    pub(super) fn deliver(&self, records: impl FnOnce(&Self) -> Result<(), Failure>) -> Result<(), Failure> {
        let begun = Instant::now();
        self.reports.forget();
        records(self)?;
        self.delivered(begun)
    }

    /// Hands one record to the client.
    pub(super) fn send(&self, record: &Record<'_>) -> Result<(), Failure> {
        let mut out = BaseRecord::<[u8], [u8]>::to(record.topic);
        out.key = record.key;
        out.payload = record.value;
        out.partition = record.partition;
        out.timestamp = record.timestamp_ms;
        if !record.headers.is_empty() {
            let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
            for (key, value) in &record.headers {
                headers = headers.insert(Header { key, value: value.as_deref() });
            }
            out.headers = Some(headers);
        }
        let mut begun = None;
        loop {
            match self.producer.send(out) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(Code::QueueFull), back))
                    if begun.get_or_insert_with(Instant::now).elapsed() < CALL_TIMEOUT =>
                {
                    out = back;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((KafkaError::MessageProduction(code), _)) => return Err(self.undeliverable(code, record.topic)),
                Err((e, _)) => return Err(self.lost("a record can't be sent", &e)),
            }
        }
    }

    /// Waits until the cluster has taken everything.
    fn delivered(&self, begun: Instant) -> Result<(), Failure> {
        while !native::flush(&self.producer, LOOK_AGAIN_AFTER) {
            if self.reports.undelivered().is_some() || self.producer.client().fatal_error().is_some() {
                break;
            }
            if begun.elapsed() > TRANSACTION_TIMEOUT {
                let heard =
                    self.reports.heard().map(|heard| format!("; last heard: {}", heard.text)).unwrap_or_default();
                let text = format!("the records of a batch were not taken within {TRANSACTION_TIMEOUT:?}{heard}");
                return Err(Error::retry(self.connection.scrub(text)).into());
            }
        }
        match (self.fenced(), self.reports.undelivered()) {
            (true, _) => Err(Failure::Fenced),
            (false, Some(code)) => Err(self.undeliverable(code, "")),
            (false, None) => Ok(()),
        }
    }

    fn commit(&self, begun: Instant) -> Result<(), Failure> {
        loop {
            match self.producer.commit_transaction(CALL_TIMEOUT) {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(e)) if e.is_retriable() && begun.elapsed() < TRANSACTION_TIMEOUT => {}
                Err(KafkaError::Transaction(e)) if e.txn_requires_abort() => {
                    let failure = match self.reports.undelivered() {
                        Some(code) => self.undeliverable(code, ""),
                        None => self.lost("a transaction was refused", &KafkaError::Transaction(e)),
                    };
                    return Err(self.abort(failure));
                }
                Err(e) => return Err(self.lost("whether a transaction was committed is unknown", &e)),
            }
        }
    }

    /// Gives the transaction up. Where even that fails, the next owner of the id does it.
    fn abort(&self, failure: Failure) -> Failure {
        if !matches!(failure, Failure::Fenced) && self.producer.abort_transaction(Duration::from_secs(5)).is_err() {
            return if self.fenced() { Failure::Fenced } else { failure };
        }
        failure
    }

    fn fenced(&self) -> bool {
        let fatal = self.producer.client().fatal_error();
        matches!(fatal, Some((Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch, _)))
    }

    /// What may go well another time, unless somebody else has the id.
    fn lost(&self, what: &str, error: &KafkaError) -> Failure {
        let code = match error {
            KafkaError::Transaction(e) => Some(e.code()),
            other => other.rdkafka_error_code(),
        };
        let fenced = matches!(code, Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch));
        if fenced || self.fenced() { Failure::Fenced } else { self.failed(what, error).into() }
    }

    fn failed(&self, what: &str, error: &KafkaError) -> Error {
        let code = match error {
            KafkaError::Transaction(e) => e.code(),
            other => other.rdkafka_error_code().unwrap_or(Code::Unknown),
        };
        self.connection.failed(kind_of(code), what, error, Some(&self.reports))
    }

    fn undeliverable(&self, code: Code, topic: &str) -> Failure {
        let hint = match code {
            Code::MessageSizeTooLarge | Code::InvalidMessageSize => {
                ": a row is larger than the topic takes; raise max.message.bytes of the topic and \
                 'properties.message.max.bytes', or select less"
            }
            Code::TopicAuthorizationFailed => ": grant Write on the topic and on the topic of markers",
            _ => "",
        };
        let to = if topic.is_empty() { String::new() } else { format!(" to '{topic}'") };
        Error::new(kind_of(code), format!("a record can't be written{to}: {code}{hint}")).into()
    }
}

/// What has to happen after such an error.
fn kind_of(code: Code) -> ErrorKind {
    match code {
        Code::MessageSizeTooLarge
        | Code::InvalidMessageSize
        | Code::MessageBatchTooLarge
        | Code::InvalidRecord
        | Code::PolicyViolation
        | Code::InvalidTimestamp => ErrorKind::Sink,
        Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::InvalidTransactionTimeout
        | Code::Authentication
        | Code::SaslAuthenticationFailed => ErrorKind::Config,
        _ => ErrorKind::Retry,
    }
}
