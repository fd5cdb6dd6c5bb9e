//! Produced record to committed record, as a reader of what is committed sees it: one record at a time, answered by the
//! engine and by a hand-written loop of transactions, by turns.

use std::process::Command;
use std::time::{Duration, Instant};

use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, ThreadedProducer};
use serde_json::Value;

use super::{Broker, assign, consumer, producer, send};
use crate::args::Settings;
use crate::engine::{Engine, run_directory};
use crate::machine::Pace;
use crate::process::Process;
use crate::stats::{Random, percentile};
use crate::table::{Table, against};
use crate::{Result, Verdict};

const BUDGET: f64 = 1.5;
const WARM_UP: usize = 50;
/// Each of the two answers so many times, by turns.
const ROUNDS: usize = 4;
/// An answer that takes longer is no latency, it is a fault.
const PATIENCE: Duration = Duration::from_secs(30);
/// Transactions that follow each other at once wait for each other in the client: the light load is lighter.
const PAUSE: Duration = Duration::from_millis(20);

/// Measures and prints.
///
/// # Errors
/// Where the broker, the engine or the program fails, or answers with another row.
pub fn run(settings: &Settings, engine: &Engine) -> Result<Verdict> {
    let broker = Broker::find(settings)?;
    let events = settings.sized(1000, 100);
    let dir = run_directory(settings, "kafka-latency")?;
    let (mut ours, mut theirs) = (Lane::new(&broker, "engine", 1)?, Lane::new(&broker, "by-hand", 2)?);
    let mut process = engine.start(dir.path(), &ours.sql(&broker.servers), &["--trigger", &settings.trigger])?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["peer", "kafka-echo", &broker.servers, &theirs.input, &theirs.output]);
    let mut peer = Process::start(&mut command, &dir.path().join("peer.log"))?;
    ours.round(WARM_UP, &mut process)?;
    theirs.round(WARM_UP, &mut peer)?;
    let (mut engine_us, mut peer_us) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        engine_us.extend(ours.round(events / ROUNDS, &mut process)?);
        peer_us.extend(theirs.round(events / ROUNDS, &mut peer)?);
    }
    process.terminate(engine.timeout())?;
    peer.terminate(engine.timeout())?;
    broker.delete(&[&ours.input, &ours.output, &theirs.input, &theirs.output])?;

    let title = format!("Kafka, one-row batches: {} events of each", engine_us.len());
    let mut table = Table::new(&title, &["ms from produced to seen committed", "p50", "p90", "p99", "most"]);
    for (name, us) in [("the engine", &engine_us), ("a hand-written loop of transactions", &peer_us)] {
        let ms = |share: f64| format!("{:.2}", percentile(us, share) / 1000.0);
        table.row(vec![name.into(), ms(0.5), ms(0.9), ms(0.99), ms(1.0)]);
    }
    table.print();
    let over = |share: f64| percentile(&engine_us, share) / percentile(&peer_us, share).max(1e-9);
    println!(
        "The engine over the loop: p50 {:.2}x, {}; p99 {:.2}x, {} (budget {BUDGET}x).",
        over(0.5),
        against(over(0.5), BUDGET),
        over(0.99),
        against(over(0.99), BUDGET)
    );
    Ok(Verdict::Right)
}

/// A topic of events and one of answers.
struct Lane {
    input: String,
    output: String,
    producer: ThreadedProducer<DefaultProducerContext>,
    consumer: BaseConsumer,
    next: u64,
    random: Random,
}

impl Lane {
    fn new(broker: &Broker, name: &str, outputs: i32) -> Result<Self> {
        let (input, output) = (broker.topic(&format!("{name}-in"), 1)?, broker.topic(&format!("{name}-out"), outputs)?);
        let consumer = consumer(&broker.servers)?;
        assign(&consumer, &output)?;
        let producer = producer(&broker.servers, &[])?;
        Ok(Self { input, output, producer, consumer, next: 0, random: Random::new(7) })
    }

    fn sql(&self, servers: &str) -> String {
        let table = |name: &str, topic: &str, more: &str| {
            format!(
                "CREATE TABLE {name} (id BIGINT, v BIGINT) WITH ('connector' = 'kafka', 'topic' = '{topic}', \
                 'properties.bootstrap.servers' = '{servers}', 'format' = 'json'{more});\n"
            )
        };
        format!(
            "{}{}INSERT INTO answer SELECT id, v + 1 AS v FROM event;\n",
            table("event", &self.input, ", 'scan.startup.mode' = 'earliest-offset'"),
            table("answer", &self.output, "")
        )
    }

    /// Microseconds from event to answer, of as many events.
    fn round(&mut self, events: usize, process: &mut Process) -> Result<Vec<f64>> {
        let mut latencies = Vec::with_capacity(events);
        for _ in 0..events {
            std::thread::sleep(PAUSE);
            Pace::Paused.wait(&mut self.random);
            let event = format!("{{\"id\":{0},\"v\":{0}}}", self.next);
            let before = Instant::now();
            send(&self.producer, BaseRecord::<[u8], [u8]>::to(&self.input).partition(0).payload(event.as_bytes()))?;
            self.expect(process)?;
            latencies.push(before.elapsed().as_secs_f64() * 1e6);
        }
        Ok(latencies)
    }

    fn expect(&mut self, process: &mut Process) -> Result<()> {
        let begun = Instant::now();
        loop {
            match self.consumer.poll(Duration::from_millis(100)) {
                // The other partition says where the loop has come to.
                Some(Ok(message)) if message.partition() == 0 => {
                    check(message.payload().unwrap_or_default(), self.next)?;
                    self.next += 1;
                    return Ok(());
                }
                Some(Ok(_)) | None | Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) => return Err(error.into()),
            }
            if process.ended()?.is_some() {
                return Err("it ended before it answered".into());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("event {} is not answered after {} s", self.next, PATIENCE.as_secs()).into());
            }
        }
    }
}

/// The answer to event `id` is `{"id": id, "v": id + 1}`.
fn check(answer: &[u8], id: u64) -> Result<()> {
    let row: Value = serde_json::from_slice(answer)?;
    let number = |name: &str| row.get(name).and_then(Value::as_u64);
    if number("id") == Some(id) && number("v") == Some(id + 1) {
        return Ok(());
    }
    Err(format!("the answer to event {id} is {row}").into())
}
