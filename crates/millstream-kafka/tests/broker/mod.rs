//! A real broker for tests, started once and shared by everything that tests: `tests/services/kafka.sh`.
//!
//! A process that uses it holds a shared lock on a file; a minute after the last one is gone the broker stops.

#![allow(dead_code)] // each test binary uses some of it

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};

const T30: Duration = Duration::from_secs(30);

/// How to reach the broker.
pub struct Broker {
    facts: BTreeMap<String, String>,
    _in_use: File,
}

static SHARED: OnceLock<Broker> = OnceLock::new();

/// The script, with the environment of one instance.
pub fn script(instance: &str, arguments: &[&str]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/services/kafka.sh");
    let output = Command::new(path).args(arguments).env("MILLSTREAM_KAFKA", instance).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    String::from_utf8(output.stdout).unwrap()
}

/// The broker that all tests share.
pub fn broker() -> &'static Broker {
    SHARED.get_or_init(|| Broker::start("shared"))
}

/// The schema registry that all tests share: its address.
pub fn registry() -> &'static str {
    static REGISTRY: OnceLock<(String, File)> = OnceLock::new();
    let start = || {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/services/registry.sh");
        let output = Command::new(path).args(["start", "--while-used"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        let text = String::from_utf8(output.stdout).unwrap();
        let fact = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_string();
        (fact("URL="), fact("USERS="))
    };
    let hold = || {
        let in_use = File::open(start().1).unwrap();
        in_use.lock_shared().unwrap();
        // It may have stopped between the start and the lock.
        (start().0, in_use)
    };
    &REGISTRY.get_or_init(hold).0
}

impl Broker {
    /// Starts an instance, or finds it running.
    pub fn start(instance: &str) -> Self {
        let first = Self::facts(instance);
        let in_use = File::open(&first["USERS"]).unwrap();
        in_use.lock_shared().unwrap();
        // It may have stopped between the start and the lock.
        Self { facts: Self::facts(instance), _in_use: in_use }
    }

    fn facts(instance: &str) -> BTreeMap<String, String> {
        let text = script(instance, &["start", "--while-used"]);
        text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
    }

    pub fn fact(&self, name: &str) -> &str {
        &self.facts[name]
    }

    pub fn servers(&self) -> &str {
        self.fact("BOOTSTRAP")
    }

    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.servers());
        config
    }

    /// A topic with a name of its own.
    pub fn topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) -> String {
        let topic = unique(name);
        self.make_topic(&topic, partitions, settings);
        topic
    }

    pub fn make_topic(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> = self.config().create().unwrap();
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        for (key, value) in settings {
            new = new.set(key, value);
        }
        let made = block_on(admin.create_topics(&[new], &AdminOptions::new().operation_timeout(Some(T30)))).unwrap();
        assert!(made.iter().all(Result::is_ok), "{made:?}");
        // The broker answers before everybody who asks it sees the topic.
        let until = Instant::now() + T30;
        let seen = || {
            let found = admin.inner().fetch_metadata(Some(topic), T30).unwrap();
            found.topics().iter().any(|t| t.error().is_none() && t.partitions().len() == partitions as usize)
        };
        while !seen() {
            assert!(Instant::now() < until, "the topic {topic} was made, and is not there");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn delete_topic(&self, topic: &str) {
        let admin: AdminClient<DefaultClientContext> = self.config().create().unwrap();
        let options = AdminOptions::new().operation_timeout(Some(T30));
        let deleted = block_on(admin.delete_topics(&[topic], &options)).unwrap();
        assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    }

    /// Everything below these offsets goes, as by retention.
    pub fn delete_before(&self, topic: &str, partition: i32, offset: i64) {
        let admin: AdminClient<DefaultClientContext> = self.config().create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
        block_on(admin.delete_records(&list, &AdminOptions::new().operation_timeout(Some(T30)))).unwrap();
    }

    pub fn add_partitions(&self, topic: &str, count: usize) {
        use rdkafka::admin::NewPartitions;
        let admin: AdminClient<DefaultClientContext> = self.config().create().unwrap();
        let new = [NewPartitions::new(topic, count)];
        let options = AdminOptions::new().operation_timeout(Some(T30));
        let made = block_on(admin.create_partitions(new.iter(), &options)).unwrap();
        assert!(made.iter().all(Result::is_ok), "{made:?}");
    }

    pub fn consumer(&self, isolation: &str) -> BaseConsumer {
        let mut config = self.config();
        for (key, value) in [
            ("group.id", "tests"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "error"),
            ("enable.partition.eof", "true"),
            ("fetch.wait.max.ms", "10"),
            ("isolation.level", isolation),
        ] {
            config.set(key, value);
        }
        config.create().unwrap()
    }

    /// Every committed record of a topic, by partition and offset: a reader that knows nothing of us.
    pub fn read(&self, topic: &str) -> Vec<Seen> {
        self.read_with(topic, "read_committed")
    }

    pub fn read_with(&self, topic: &str, isolation: &str) -> Vec<Seen> {
        let (all, consumer) = (self.consumer("read_uncommitted"), self.consumer(isolation));
        let metadata = consumer.fetch_metadata(Some(topic), T30).unwrap();
        let partitions: Vec<i32> = metadata.topics()[0].partitions().iter().map(|p| p.id()).collect();
        let mut seen = vec![];
        for partition in partitions {
            // The end of what is committed follows a commit by some milliseconds.
            let end = all.fetch_watermarks(topic, partition, T30).unwrap().1;
            let until = SystemTime::now() + Duration::from_secs(20);
            while consumer.fetch_watermarks(topic, partition, T30).unwrap().1 < end && isolation == "read_committed" {
                assert!(SystemTime::now() < until, "a transaction stays open in {topic}-{partition}");
            }
            let low = consumer.fetch_watermarks(topic, partition, T30).unwrap().0;
            read_range(&consumer, topic, partition, low, end, &mut seen);
        }
        seen
    }

    /// A producer without transactions.
    pub fn producer(&self) -> Sender {
        let mut config = self.config();
        config.set("linger.ms", "0").set("enable.idempotence", "true").set("partitioner", "murmur2_random");
        Sender { producer: config.create().unwrap() }
    }

    /// A producer with transactions.
    pub fn transactional(&self, id: &str) -> Sender {
        let mut config = self.config();
        config.set("linger.ms", "0").set("transactional.id", id);
        let producer: ThreadedProducer<DefaultProducerContext> = config.create().unwrap();
        producer.init_transactions(T30).unwrap();
        Sender { producer }
    }
}

/// A name that nobody else has.
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    format!("{name}-{time}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Seen {
    pub fn value(&self) -> &str {
        std::str::from_utf8(self.value.as_deref().unwrap()).unwrap()
    }
}

fn read_range(consumer: &BaseConsumer, topic: &str, partition: i32, low: i64, end: i64, seen: &mut Vec<Seen>) {
    if low >= end {
        return;
    }
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(low)).unwrap();
    consumer.assign(&list).unwrap();
    loop {
        match consumer.poll(Duration::from_millis(1)) {
            Some(Ok(m)) if m.offset() >= end => return,
            Some(Ok(m)) => seen.push(Seen {
                partition,
                offset: m.offset(),
                timestamp_ms: m.timestamp().to_millis(),
                key: m.key().map(<[u8]>::to_vec),
                value: m.payload().map(<[u8]>::to_vec),
                headers: m.headers().map_or(vec![], |headers| {
                    headers.iter().map(|h| (h.key.to_string(), h.value.map(<[u8]>::to_vec))).collect()
                }),
            }),
            Some(Err(KafkaError::PartitionEOF(_))) | None => {}
            Some(Err(e)) => panic!("{e}"),
        }
        let position = consumer.position().unwrap().elements()[0].offset();
        if matches!(position, Offset::Offset(position) if position >= end) {
            return;
        }
    }
}

/// A producer.
pub struct Sender {
    pub producer: ThreadedProducer<DefaultProducerContext>,
}

impl Sender {
    pub fn send(&self, topic: &str, partition: i32, key: Option<&str>, value: Option<&str>) {
        let mut record = BaseRecord::<str, str>::to(topic).partition(partition);
        record.key = key;
        record.payload = value;
        self.producer.send(record).map_err(|(e, _)| e).unwrap();
    }

    /// Everything that was sent was taken.
    pub fn delivered(&self) {
        while self.producer.in_flight_count() > 0 {
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    pub fn begin(&self) {
        self.producer.begin_transaction().unwrap();
    }

    pub fn commit(&self) {
        self.delivered();
        self.producer.commit_transaction(T30).unwrap();
    }

    pub fn abort(&self) {
        self.delivered();
        self.producer.abort_transaction(T30).unwrap();
    }
}
