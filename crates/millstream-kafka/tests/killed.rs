//! Processes that publish are killed at random and at chosen places, and stopped and continued; brokers are killed. A
//! reader that knows nothing of us sees every batch once.
//!
//! `MILLSTREAM_KILLS` sets how many kills (default 20).

#![allow(clippy::unwrap_used, clippy::panic)]

mod broker;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use broker::{Broker, broker, script, unique};
use millstream_core::batch::BatchId;
use millstream_core::digest::Digest;
use millstream_core::sink::{Marker, Output, OutputKind, Owner, Permit, Sink};
use millstream_core::{Error, ErrorKind};
use millstream_io::TableSpec;

/// The rows of a batch: more than one partition, and not the same number every time.
fn rows_of(batch: u64) -> std::ops::Range<u64> {
    0..3 + batch * 7 % 40
}

fn output(batch: u64) -> Output {
    let schema = Arc::new(Schema::new(vec![
        Field::new("batch", DataType::Int64, false),
        Field::new("row", DataType::Int64, false),
    ]));
    let rows = Int64Array::from_iter_values(rows_of(batch).map(|row| row as i64));
    let batches = Int64Array::from_value(batch as i64, rows.len());
    let rows = RecordBatch::try_new(schema.clone(), vec![Arc::new(batches), Arc::new(rows)]).unwrap();
    Output { schema, kind: OutputKind::Append, batches: vec![rows] }
}

/// Publishes batch after batch, as the loop of a query does. Run by the tests here, as a process of its own.
#[tokio::test]
#[ignore = "a process that the other tests start"]
async fn worker() {
    let argument = |name: &str| std::env::var(format!("WORKER_{name}")).unwrap();
    let (topic, servers, until) = (argument("TOPIC"), argument("SERVERS"), argument("UNTIL").parse::<u64>().unwrap());
    let epoch: u64 = argument("EPOCH").parse().unwrap();
    let owner = Owner { query: "kill".into(), incarnation: "5b2c7a52".into(), epoch };
    let schema = output(1).schema;
    let options = [
        ("connector", "kafka"),
        ("topic", topic.as_str()),
        ("properties.bootstrap.servers", servers.as_str()),
        ("format", "json"),
        ("key.format", "json"),
        ("key.fields", "row"),
    ];
    let spec = TableSpec {
        name: "t".into(),
        schema: schema.clone(),
        options: options.into_iter().collect(),
        partitioned_by: vec![],
        primary_key: vec![],
        base_dir: "/".into(),
    };
    let mut sink = millstream_kafka::sink(&spec, "kill", OutputKind::Append, schema).unwrap();
    let mut last = open(&mut *sink, &owner).await;
    println!("opened {}", last.unwrap_or(0));
    while last.unwrap_or(0) < until {
        let batch = last.unwrap_or(0) + 1;
        let marker = Marker { owner: owner.clone(), batch: BatchId(batch), digest: Digest(batch) };
        println!("publishing {batch}");
        match sink.publish(&Permit::unchecked(marker, last.map(BatchId)), &output(batch)).await {
            Ok(()) => last = Some(batch),
            Err(error) if error.kind() == ErrorKind::Retry => last = open(&mut *sink, &owner).await,
            Err(error) => stop(&error),
        }
        println!("published {}", last.unwrap_or(0));
    }
    println!("end");
}

async fn open(sink: &mut dyn Sink, owner: &Owner) -> Option<u64> {
    let begun = Instant::now();
    loop {
        match sink.open(owner).await {
            Ok(marker) => {
                let digest = marker.as_ref().map(|m| m.digest.0);
                assert_eq!(digest, marker.as_ref().map(|m| m.batch.0), "the marker is of another batch");
                return marker.map(|m| m.batch.0);
            }
            Err(error) if error.kind() == ErrorKind::Retry && begun.elapsed() < Duration::from_secs(90) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => stop(&error),
        }
    }
}

fn stop(error: &Error) -> ! {
    println!("stopped {:?} {error}", error.kind());
    std::process::exit(7);
}

/// A worker and what it says.
struct Worker {
    child: Child,
    lines: Receiver<String>,
}

impl Worker {
    fn start(broker: &Broker, topic: &str, epoch: u64, until: u64, failpoint: Option<&str>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "worker", "--ignored", "--nocapture"]);
        command.env("WORKER_TOPIC", topic).env("WORKER_SERVERS", broker.servers());
        command.env("WORKER_EPOCH", epoch.to_string()).env("WORKER_UNTIL", until.to_string());
        if let Some(failpoint) = failpoint {
            command.env(millstream_io::failpoint::VARIABLE, failpoint);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (tell, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Self { child, lines }
    }

    /// Waits until it says something that begins so, and gives the rest of the line.
    fn says(&self, word: &str) -> String {
        loop {
            let line =
                self.lines.recv_timeout(Duration::from_secs(120)).unwrap_or_else(|_| panic!("never says {word}"));
            if let Some(rest) = line.strip_prefix(word) {
                return rest.trim().to_string();
            }
        }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Kills it and gives the last batch that it was sure of, and the one that it was at.
    fn kill(mut self) -> (u64, u64) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
        self.reached()
    }

    fn reached(&self) -> (u64, u64) {
        let (mut sure, mut at) = (0, 0);
        for line in self.lines.iter() {
            let number = |word: &str| line.strip_prefix(word).map(|rest| rest.trim().parse::<u64>().unwrap());
            if let Some(batch) = number("opened ").or(number("published ")) {
                (sure, at) = (batch, batch);
            } else if let Some(batch) = number("publishing ") {
                at = batch;
            }
            assert!(!line.starts_with("stopped"), "{line}");
        }
        (sure, at)
    }
}

/// Every row of these batches is there once, and nothing else.
fn check_once(broker: &Broker, topic: &str, batches: u64) {
    let mut seen = BTreeMap::new();
    for record in broker.read(topic) {
        let row: serde_json::Value = serde_json::from_str(record.value()).unwrap();
        *seen.entry((row["batch"].as_u64().unwrap(), row["row"].as_u64().unwrap())).or_insert(0) += 1;
    }
    let wanted: BTreeMap<_, _> =
        (1..=batches).flat_map(|batch| rows_of(batch).map(move |row| ((batch, row), 1))).collect();
    let missing = wanted.keys().filter(|row| !seen.contains_key(*row)).count();
    let doubled = seen.values().filter(|times| **times > 1).count();
    assert_eq!((missing, doubled), (0, 0), "missing and doubled rows of {batches} batches");
    assert_eq!(seen, wanted);
}

fn random(seed: &mut u64, below: u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed % below
}

#[test]
fn every_batch_is_seen_once_however_often_its_process_is_killed() {
    let kills: u64 = std::env::var("MILLSTREAM_KILLS").map_or(20, |n| n.parse().unwrap());
    let mut seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64 | 1;
    println!("seed {seed}");
    let topic = broker().topic("kill", 3, &[]);
    let places = [
        "kafka.open.fenced",
        "kafka.open.claimed",
        "kafka.publish.begin",
        "kafka.publish.sent",
        "kafka.publish.committed",
    ];
    let (mut sure, mut at) = (0, 0);
    for epoch in 1..=kills {
        let place = places[random(&mut seed, places.len() as u64) as usize];
        let failpoint = (epoch % 2 == 0).then(|| match place.starts_with("kafka.open") {
            true => place.to_string(),
            false => format!("{place}:{}", 1 + random(&mut seed, 5)),
        });
        let mut worker = Worker::start(broker(), &topic, epoch, u64::MAX, failpoint.as_deref());
        let (now_sure, now_at) = match failpoint {
            Some(_) => {
                worker.child.wait().unwrap();
                worker.reached()
            }
            None => {
                let recovered: u64 = worker.says("opened").parse().unwrap();
                assert!((sure..=at).contains(&recovered), "recovered {recovered}, where {sure} to {at} can be");
                std::thread::sleep(Duration::from_micros(random(&mut seed, 120_000)));
                let (sure, at) = worker.kill();
                (sure.max(recovered), at.max(recovered))
            }
        };
        (sure, at) = (sure.max(now_sure), at.max(now_at));
    }
    let worker = Worker::start(broker(), &topic, kills + 1, at + 3, None);
    worker.says("end");
    println!("{kills} kills, {} batches", at + 3);
    check_once(broker(), &topic, at + 3);
}

#[test]
fn a_process_that_was_stopped_and_taken_over_publishes_nothing_when_it_goes_on() {
    let topic = broker().topic("stop", 2, &[]);
    let mut first = Worker::start(broker(), &topic, 1, u64::MAX, None);
    first.says("published 3");
    first.signal("STOP");
    let second = Worker::start(broker(), &topic, 2, u64::MAX, None);
    let taken: u64 = second.says("opened").parse().unwrap();
    assert!(taken >= 3);
    second.says(&format!("published {}", taken + 3));
    first.signal("CONT");
    let why = first.says("stopped");
    assert!(why.starts_with("Owned") && why.contains("epoch 2"), "{why}");
    assert_eq!(first.child.wait().unwrap().code(), Some(7));
    let (_, at) = second.kill();
    let third = Worker::start(broker(), &topic, 3, at + 2, None);
    third.says("end");
    check_once(broker(), &topic, at + 2);
}

#[test]
fn every_batch_is_seen_once_when_the_broker_is_killed() {
    // A broker of its own, since others use the shared one.
    let own = Broker::start("killed");
    let topic = unique("broker-kill");
    own.make_topic(&topic, 3, &[]);
    let mut seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64 | 1;
    println!("seed {seed}");
    let worker = Worker::start(&own, &topic, 1, u64::MAX, None);
    let mut published: u64 = worker.says("opened").parse().unwrap();
    for _ in 0..2 {
        worker.says(&format!("published {}", published + 3));
        std::thread::sleep(Duration::from_micros(random(&mut seed, 30_000)));
        script("killed", &["kill"]);
        script("killed", &["start"]);
        // Whatever was said before is of before.
        published = worker
            .lines
            .try_iter()
            .filter_map(|l| l.strip_prefix("published ")?.parse().ok())
            .last()
            .unwrap_or(published + 3);
    }
    // It may say nothing more before it dies.
    let said: u64 = worker.says("published").parse().unwrap();
    let at = worker.kill().1.max(said);
    let last = Worker::start(&own, &topic, 2, at + 2, None);
    last.says("end");
    check_once(&own, &topic, at + 2);
    script("killed", &["stop"]);
}
