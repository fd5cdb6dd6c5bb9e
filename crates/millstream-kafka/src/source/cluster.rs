//! What is asked of the cluster beside records: topics, ends of logs, offsets of groups. Calls block.
//!
//! The client here has no assignment, so that no question of its own waits behind a fetch that is under way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_core::{Error, ErrorKind, Result};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::start::TopicPartition;
use crate::client::{Connection, Reports, ask};
use crate::native::{TopicFacts, describe_topics};
use crate::table::TopicPattern;

/// What one call to the cluster may take.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a topic may be unknown before it is taken to be missing, and how often it is looked for.
pub(super) const SEEN_WITHIN: Duration = Duration::from_secs(5);
pub(super) const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Properties of every consumer here.
const OWN: [(&str, &str); 5] = [
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "error"),
    ("enable.partition.eof", "true"),
    ("allow.auto.create.topics", "false"),
];

/// Makes a consumer. Unless the table says otherwise it sees what is committed.
pub(super) fn consumer(
    connection: &Connection,
    more: &[(&str, &str)],
    reports: &Reports,
) -> Result<BaseConsumer<Reports>> {
    let mut defaults = vec![
        ("group.id", "millstream"),
        ("isolation.level", "read_committed"),
        ("fetch.min.bytes", "1"),
        // The client's own second would be waited whenever its queue was full once.
        ("fetch.queue.backoff.ms", "5"),
        ("queued.max.messages.kbytes", "32768"),
    ];
    defaults.extend_from_slice(more);
    connection.client(&defaults, &OWN, reports)
}

/// A client that asks.
pub(super) struct Cluster {
    pub(super) client: Arc<BaseConsumer<Reports>>,
    pub(super) connection: Connection,
    reports: Reports,
}

impl Cluster {
    pub(super) fn new(connection: &Connection) -> Result<Self> {
        let reports = Reports::default();
        let client = Arc::new(consumer(connection, &[], &reports)?);
        Ok(Self { client, connection: connection.clone(), reports })
    }

    /// The topics, all of which are there, or are seen within [`SEEN_WITHIN`].
    ///
    /// # Errors
    /// [`ErrorKind::Input`] where one is not there, [`ErrorKind::Retry`] where the cluster doesn't answer.
    pub(super) fn topics(&self, names: &[String]) -> Result<Vec<TopicFacts>> {
        let begun = Instant::now();
        loop {
            match self.look(names) {
                // A broker answers who makes a topic before everybody who asks for it sees it, and forgets what it
                // knew when it starts.
                Err(error) if error.kind() == ErrorKind::Input && begun.elapsed() < SEEN_WITHIN => {
                    std::thread::sleep(LOOK_AGAIN_AFTER);
                }
                found => return found,
            }
        }
    }

    /// The names of the topics that the pattern is of, without those of the cluster's own.
    pub(super) fn matching(&self, pattern: &TopicPattern) -> Result<Vec<String>> {
        let asked =
            ask(&self.client, &self.reports, CALL_TIMEOUT, |wait| self.client.fetch_metadata(None::<&str>, wait));
        let metadata = asked.map_err(|error| {
            let what = format!("the cluster {} can't be asked for its topics", self.connection.servers());
            self.failed(ErrorKind::Retry, &what, &error)
        })?;
        let names = metadata.topics().iter().map(|topic| topic.name());
        let mut names: Vec<String> = names.filter(|name| pattern.matches(name)).map(str::to_string).collect();
        names.sort();
        Ok(names)
    }

    fn look(&self, names: &[String]) -> Result<Vec<TopicFacts>> {
        if names.is_empty() {
            return Ok(vec![]);
        }
        let servers = self.connection.servers();
        let asked = ask(&self.client, &self.reports, CALL_TIMEOUT, |wait| {
            describe_topics(&self.client, names, wait).map_err(KafkaError::Global)
        });
        let facts = asked.map_err(|error| {
            let what = format!("the cluster {servers} can't be asked for the topic '{}'", names.join("', '"));
            self.failed(ErrorKind::Retry, &what, &error)
        })?;
        for topic in &facts {
            let name = &topic.name;
            match topic.error {
                None => {}
                Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
                    return Err(Error::input(format!(
                        "the topic '{name}' is not on {servers}: make it, or name another"
                    )));
                }
                Some(Code::TopicAuthorizationFailed) => {
                    return Err(Error::config(format!(
                        "the topic '{name}' may not be read: grant Read and Describe on it"
                    )));
                }
                Some(code) => {
                    let what = format!("the topic '{name}' on {servers} can't be described");
                    return Err(self.failed(ErrorKind::Retry, &what, &KafkaError::Global(code)));
                }
            }
        }
        self.reports.forget();
        Ok(facts)
    }

    /// The first offset of a partition, and the end of what can be read.
    pub(super) fn watermarks(&self, (topic, partition): &TopicPartition) -> Result<(u64, u64)> {
        let found = ask(&self.client, &self.reports, CALL_TIMEOUT, |wait| {
            self.client.fetch_watermarks(topic, *partition, wait)
        });
        let (low, end) = found
            .map_err(|e| self.failed(ErrorKind::Retry, &format!("the ends of {topic}-{partition} are unknown"), &e))?;
        Ok((u64::try_from(low).unwrap_or(0), u64::try_from(end).unwrap_or(0)))
    }

    pub(super) fn failed(&self, kind: ErrorKind, what: &str, error: &KafkaError) -> Error {
        self.connection.failed(kind, what, error, Some(&self.reports))
    }
}
