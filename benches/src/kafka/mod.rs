//! Kafka: the clients of the driver and of the hand-written programs, and a broker for them.

pub mod latency;
pub mod throughput;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};

use crate::Result;
use crate::args::Settings;
use crate::service::Service;

pub const T30: Duration = Duration::from_secs(30);

/// A broker: the one that was named, or one that is started and stays while it is used.
pub struct Broker {
    pub servers: String,
    _service: Option<Service>,
}

impl Broker {
    /// Finds it.
    ///
    /// # Errors
    /// Where none can be started.
    pub fn find(settings: &Settings) -> Result<Self> {
        if let Some(servers) = &settings.kafka {
            return Ok(Self { servers: servers.clone(), _service: None });
        }
        let environment = [("MILLSTREAM_KAFKA", "bench"), ("KAFKA_JAVA_OPTS", "-server"), ("KAFKA_HEAP", "1g")];
        let service = Service::start("kafka.sh", &["start", "--while-used"], &environment)?;
        let servers = service.fact("BOOTSTRAP")?.to_string();
        Ok(Self { servers, _service: Some(service) })
    }

    /// A new topic with a name that nobody else has.
    pub fn topic(&self, name: &str, partitions: i32) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
        let topic = format!("bench-{name}-{now}");
        let admin: AdminClient<DefaultClientContext> = self.config().create()?;
        let new = NewTopic::new(&topic, partitions, TopicReplication::Fixed(1));
        let options = AdminOptions::new().operation_timeout(Some(T30));
        for made in wait(admin.create_topics(&[new], &options))? {
            made.map_err(|(topic, code)| format!("the topic {topic} can't be made: {code}"))?;
        }
        Ok(topic)
    }

    /// Deletes topics, whose space is wanted for others.
    pub fn delete(&self, topics: &[&str]) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.config().create()?;
        wait(admin.delete_topics(topics, &AdminOptions::new().operation_timeout(Some(T30))))?;
        Ok(())
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers);
        config
    }

    /// Writes each line of a file as a record.
    pub fn fill(&self, topic: &str, file: &Path) -> Result<()> {
        let producer = producer(&self.servers, &[("linger.ms", "5"), ("batch.size", "1000000")])?;
        let mut lines = BufReader::with_capacity(1 << 20, File::open(file)?);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            let value = line.strip_suffix(b"\n").unwrap_or(&line);
            send(&producer, BaseRecord::<[u8], [u8]>::to(topic).payload(value))?;
            line.clear();
        }
        delivered(&producer);
        Ok(())
    }

    /// Writes what is committed in a topic as lines of a file.
    pub fn dump(&self, topic: &str, file: &Path) -> Result<()> {
        let consumer = consumer(&self.servers)?;
        let mut open = assign(&consumer, topic)?;
        let mut out = std::io::BufWriter::new(File::create(file)?);
        while open > 0 {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    out.write_all(message.payload().unwrap_or_default())?;
                    out.write_all(b"\n")?;
                }
                Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
                Some(Err(error)) => return Err(error.into()),
                None => {}
            }
        }
        Ok(out.flush()?)
    }
}

/// The broker's answer is waited for on this thread, which has nothing else to do.
fn wait<T>(call: impl Future<Output = std::result::Result<T, KafkaError>>) -> Result<T> {
    use std::task::{Context, Poll, Waker};
    let mut call = std::pin::pin!(call);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match call.as_mut().poll(&mut context) {
            Poll::Ready(done) => return Ok(done?),
            Poll::Pending => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// A consumer of what is committed, set as the engine's is.
///
/// # Errors
/// Where the client refuses the configuration.
pub fn consumer(servers: &str) -> Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    for (key, value) in [
        ("bootstrap.servers", servers),
        ("group.id", "bench"),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("auto.offset.reset", "error"),
        ("isolation.level", "read_committed"),
        ("enable.partition.eof", "true"),
        ("fetch.min.bytes", "1"),
        ("fetch.queue.backoff.ms", "5"),
    ] {
        config.set(key, value);
    }
    Ok(config.create()?)
}

/// Gives the consumer all partitions of a topic, from their first records on. Answers how many they are.
///
/// # Errors
/// Where the broker doesn't answer.
pub fn assign(consumer: &BaseConsumer, topic: &str) -> Result<usize> {
    let metadata = consumer.fetch_metadata(Some(topic), T30)?;
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
        list.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    Ok(list.count())
}

/// A producer that does not wait for company, unless it is set so.
///
/// # Errors
/// Where the client refuses the configuration.
pub fn producer(servers: &str, more: &[(&str, &str)]) -> Result<ThreadedProducer<DefaultProducerContext>> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers).set("enable.idempotence", "true").set("linger.ms", "0");
    for (key, value) in more {
        config.set(*key, *value);
    }
    Ok(config.create()?)
}

/// Hands a record over, as soon as there is room for it.
///
/// # Errors
/// Where the client does not take it.
pub fn send(producer: &ThreadedProducer<DefaultProducerContext>, mut record: BaseRecord<'_, [u8], [u8]>) -> Result<()> {
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => record = back,
            Err((error, _)) => return Err(error.into()),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until the broker has everything: `flush` and `commit_transaction` would wait in steps of 100 ms.
pub fn delivered(producer: &ThreadedProducer<DefaultProducerContext>) {
    while producer.in_flight_count() > 0 {
        std::thread::sleep(Duration::from_micros(100));
    }
}
