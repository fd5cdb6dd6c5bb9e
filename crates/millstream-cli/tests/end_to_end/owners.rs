//! Two engines on one pipeline: one works, the other says who holds it, whatever they share: the state directory, a copy
//! of it, or only the output.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::broker::broker;
use crate::process::{Millstream, Process};
use crate::services::Postgres;

const OWNED: i32 = 5;
const CORRUPT: i32 = 6;
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
enum Into {
    Kafka,
    Postgres,
}

/// A topic that is fed all the time, and a pipeline that copies it.
struct Lab {
    dir: tempfile::TempDir,
    into: Into,
    output: String,
    postgres: Postgres,
    stop: Arc<AtomicBool>,
    feeding: Option<JoinHandle<i64>>,
}

impl Lab {
    fn new(into: Into) -> Self {
        let (dir, postgres) = (tempfile::tempdir().unwrap(), Postgres::start("main"));
        let input = broker().topic("numbers", 2, &[]);
        let kafka = |topic: &str| {
            let servers = broker().servers();
            format!(
                "'connector' = 'kafka', 'topic' = '{topic}', 'properties.bootstrap.servers' = '{servers}', 'format' = 'json'"
            )
        };
        let (output, sink) = match into {
            Into::Kafka => {
                let topic = broker().topic("copied", 2, &[]);
                let sink = kafka(&topic);
                (topic, sink)
            }
            Into::Postgres => {
                // A schema of the name that the connector's tests sweep up after an hour.
                let schema = format!("t{}_0", std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos());
                postgres.rows(&format!("CREATE SCHEMA {schema}"));
                let table = format!("{schema}.copied");
                let url = &postgres.url;
                let sink = format!(
                    "'connector' = 'postgres', 'url' = '{url}', 'table-name' = '{table}', 'sink.create-table' = 'true'"
                );
                (table, sink)
            }
        };
        let sql = format!(
            "CREATE TABLE numbers (id BIGINT) WITH ({});\nCREATE TABLE copied (id BIGINT) WITH ({sink});\n\
             INSERT INTO copied SELECT id FROM numbers;\n",
            kafka(&input)
        );
        std::fs::write(dir.path().join("q.sql"), sql).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let feeding = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || feed(&input, &stop)
        });
        Self { dir, into, output, postgres, stop, feeding: Some(feeding) }
    }

    fn command(&self, state: &str, more: &[&str]) -> Process {
        let args = ["run", "q.sql", "--quiet", "--state", state];
        Millstream::new(self.dir.path(), &[&args, more].concat()).spawn()
    }

    /// An engine that has published.
    fn working(&self, state: &str) -> Process {
        let mut engine = self.command(state, &[]);
        let before = self.found().len();
        self.published_after(before, &mut engine);
        engine
    }

    /// Waits until there are more rows.
    fn published_after(&self, rows: usize, engine: &mut Process) {
        let until = Instant::now() + PATIENCE;
        while self.found().len() <= rows {
            assert!(!engine.ended() && Instant::now() < until, "nothing is published:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What all engines said, in order.
    fn said(&self) -> String {
        let logs = std::fs::read_dir(self.dir.path().join("logs")).unwrap().map(|entry| entry.unwrap().path());
        let mut logs: Vec<_> = logs.collect();
        logs.sort();
        let text = |log: &std::path::PathBuf| format!("{}:\n{}", log.display(), std::fs::read_to_string(log).unwrap());
        logs.iter().map(text).collect()
    }

    fn copy(&self, from: &str, to: &str) {
        let copied = Command::new("cp").args(["-a", from, to]).current_dir(self.dir.path()).status();
        assert!(copied.unwrap().success());
    }

    /// The numbers that a plain client sees, sorted.
    fn found(&self) -> Vec<i64> {
        let mut numbers: Vec<i64> = match self.into {
            Into::Kafka => {
                let id = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["id"].as_i64().unwrap();
                broker().read(&self.output).iter().map(|seen| id(seen.value())).collect()
            }
            Into::Postgres => {
                let (schema, _) = self.output.split_once('.').unwrap();
                let there = self
                    .postgres
                    .rows(&format!("SELECT 1 FROM pg_tables WHERE schemaname = '{schema}' AND tablename = 'copied'"));
                if there.is_empty() {
                    return vec![];
                }
                let rows = self.postgres.rows(&format!("SELECT id FROM {}", self.output));
                rows.iter().map(|id| id.parse().unwrap()).collect()
            }
        };
        numbers.sort_unstable();
        numbers
    }

    /// Reads to the end with this state; then every number is there once.
    fn ends_well(mut self, state: &str) {
        self.stop.store(true, Ordering::Relaxed);
        let count = self.feeding.take().unwrap().join().unwrap();
        self.command(state, &["--trigger", "available-now"]).wait().ok();
        assert_eq!(self.found(), (0..count).collect::<Vec<_>>(), "{:?}", self.into);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Sends numbers until it is told to stop, and answers how many.
fn feed(topic: &str, stop: &AtomicBool) -> i64 {
    let producer = broker().producer();
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..10 {
            producer.send(topic, (n % 2) as i32, None, Some(&format!("{{\"id\":{n}}}")));
            n += 1;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    producer.delivered();
    n
}

/// What an engine says that has met another one.
fn refused(engine: Process, words: &[&str]) {
    engine.wait().fails_with(OWNED, words);
}

fn a_second_engine_is_refused(into: Into) {
    let lab = Lab::new(into);
    let mut first = lab.working("state");
    let holder = format!("is owned by process {}", first.id());
    refused(lab.command("state", &[]), &[&holder, "stop it first"]);
    // With a state of its own it meets the first one's rows.
    refused(lab.command("another", &[]), &["holds the output of query 'copied'", "which knows nothing of those rows"]);
    lab.published_after(lab.found().len(), &mut first);
    first.signal("TERM");
    first.wait().ok();
    lab.ends_well("state");
}

#[test]
fn a_second_engine_with_the_same_topic_or_state_is_told_who_has_it_and_does_no_harm() {
    a_second_engine_is_refused(Into::Kafka);
}

#[test]
fn a_second_engine_with_the_same_table_or_state_is_told_who_has_it_and_does_no_harm() {
    a_second_engine_is_refused(Into::Postgres);
}

fn a_stopped_engine_is_taken_over(into: Into) {
    let lab = Lab::new(into);
    for round in 0..3 {
        // Each takes over with a copy of what the one before had when it was stopped: another machine with its disk.
        let (state, copy) = (format!("state{round}"), format!("state{}", round + 1));
        let first = lab.working(&state);
        std::thread::sleep(Duration::from_millis(37 * round));
        first.signal("STOP");
        let holder = format!("is owned by process {}", first.id());
        refused(lab.command(&state, &[]), &[&holder]);
        lab.copy(&state, &copy);
        let mut second = lab.working(&copy);
        let before = lab.found();
        first.signal("CONT");
        refused(first, &["was taken over by a later run of query 'copied'", "this run must stop"]);
        lab.published_after(before.len(), &mut second);
        second.kill();
    }
    lab.ends_well("state3");
}

#[test]
fn a_stopped_engine_that_was_taken_over_publishes_nothing_to_kafka_when_it_goes_on() {
    a_stopped_engine_is_taken_over(Into::Kafka);
}

#[test]
fn a_stopped_engine_that_was_taken_over_publishes_nothing_to_postgres_when_it_goes_on() {
    a_stopped_engine_is_taken_over(Into::Postgres);
}

/// Two copies of one state are the same owner to every marker: only the batches tell them apart.
fn of_twins_one_goes_on(into: Into) {
    let lab = Lab::new(into);
    let first = lab.working("state0");
    first.signal("TERM");
    first.wait().ok();
    let mut state = "state0".to_string();
    for round in 1..4 {
        let twins = [format!("{state}a"), format!("{state}b")];
        twins.iter().for_each(|twin| lab.copy(&state, twin));
        let mut engines = twins.each_ref().map(|twin| lab.command(twin, &[]));
        let until = Instant::now() + PATIENCE;
        while !engines.iter_mut().any(Process::ended) {
            assert!(Instant::now() < until, "both go on");
            std::thread::sleep(Duration::from_millis(20));
        }
        // Whoever is left works.
        let [mut a, b] = engines;
        let (mut left, refused, own) = if a.ended() { (b, a, &twins[1]) } else { (a, b, &twins[0]) };
        let why = refused.wait();
        // One that opens the sink after the other has published finds its own log behind the sink.
        assert!(matches!(why.code(), Some(OWNED | CORRUPT)), "round {round}: {why:?}");
        let said = why.stderr.to_lowercase();
        assert!(said.contains("another run") && said.contains("stop one of the two"), "round {round}: {why:?}");
        lab.published_after(lab.found().len(), &mut left);
        left.signal("TERM");
        left.wait().ok();
        state.clone_from(own);
    }
    lab.ends_well(&state);
}

#[test]
fn of_two_engines_with_copies_of_one_state_one_goes_on_in_a_topic() {
    of_twins_one_goes_on(Into::Kafka);
}

#[test]
fn of_two_engines_with_copies_of_one_state_one_goes_on_in_a_table() {
    of_twins_one_goes_on(Into::Postgres);
}
