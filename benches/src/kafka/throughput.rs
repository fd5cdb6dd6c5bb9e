//! CPU per event of Kafka -> filter -> blackhole and Kafka -> windows -> Kafka, beside programs with the same client: one
//! that takes the records and looks at none, and one that is written by hand for the question.

use std::path::Path;
use std::process::Command;

use super::Broker;
use crate::answer::{Comparison, compare};
use crate::args::Settings;
use crate::data::{self, Amount};
use crate::engine::{Engine, run_directory};
use crate::process::{Process, Usage};
use crate::stats::median;
use crate::table::{Table, against, count};
use crate::{Result, Verdict};

const BID: &str = "auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, \
                   `dateTime` TIMESTAMP(3), extra VARCHAR, \
                   WATERMARK FOR `dateTime` AS `dateTime` - INTERVAL '4' SECOND";

/// One question: what it is measured beside, and the most that one may cost for the other's one.
struct Case {
    name: &'static str,
    peer: &'static str,
    budget: f64,
    columns: &'static str,
    query: &'static str,
    /// Whether the answer is a topic.
    writes: bool,
}

const CASES: [Case; 2] = [
    Case {
        name: "kafka -> filter -> blackhole",
        peer: "kafka-filter",
        budget: 2.0,
        columns: "auction BIGINT, price BIGINT",
        query: "SELECT auction, price FROM bid WHERE auction % 123 = 0",
        writes: false,
    },
    Case {
        name: "kafka -> windows -> kafka",
        peer: "kafka-windows",
        budget: 3.0,
        columns: "auction BIGINT, num BIGINT, window_start TIMESTAMP(3), window_end TIMESTAMP(3)",
        query: "SELECT auction, count(*) AS num, window_start, window_end \
                FROM TABLE(HOP(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '2' SECOND, INTERVAL '10' SECOND)) \
                GROUP BY auction, window_start, window_end",
        writes: true,
    },
];

impl Case {
    fn sql(&self, servers: &str, input: &str, output: &str) -> String {
        let kafka = |topic: &str, more: &str| {
            format!(
                "WITH ('connector' = 'kafka', 'topic' = '{topic}', 'properties.bootstrap.servers' = '{servers}', \
                 'format' = 'json'{more});\n"
            )
        };
        let source = kafka(input, ", 'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset'");
        let sink = if self.writes { kafka(output, "") } else { "WITH ('connector' = 'blackhole');\n".to_string() };
        format!(
            "CREATE TABLE bid ({BID}) {source}CREATE TABLE answer ({}) {sink}INSERT INTO answer\n{};\n",
            self.columns, self.query
        )
    }
}

#[derive(Default)]
struct Measured {
    engine: Vec<Usage>,
    bare: Vec<Usage>,
    peer: Vec<Usage>,
    answer: Option<String>,
}

/// Measures and prints.
///
/// # Errors
/// Where the broker, the engine or a program fails.
pub fn run(settings: &Settings, engine: &Engine) -> Result<Verdict> {
    let broker = Broker::find(settings)?;
    let input = data::bids(settings, Amount::Bytes(settings.sized(200 << 20, 20 << 20)))?;
    let topic = broker.topic("bids", 1)?;
    broker.fill(&topic, &input.path)?;
    let title = format!("Kafka, CPU per event beside programs with the same client (median of {})", settings.runs);
    let mut table = Table::new(
        &title,
        &[
            "query",
            "events",
            "engine us",
            "bare loop us",
            "by hand us",
            "over bare",
            "",
            "over by hand",
            "",
            "budget",
            "engine wall",
            "by hand wall",
            "answer",
        ],
    );
    let mut verdict = Verdict::Right;
    for case in &CASES {
        eprintln!("{}: {} runs of each", case.name, settings.runs);
        let measured = measure(settings, engine, &broker, case, &topic)?;
        if let Some(different) = &measured.answer {
            println!("{}: the answers differ: {different}", case.name);
            verdict = Verdict::Wrong;
        }
        table.row(row(case, input.rows, &measured));
    }
    broker.delete(&[&topic])?;
    table.print();
    println!(
        "A bare loop takes the records and looks at none; by hand they are decoded, and answered in transactions."
    );
    Ok(verdict)
}

fn measure(settings: &Settings, engine: &Engine, broker: &Broker, case: &Case, topic: &str) -> Result<Measured> {
    let mut measured = Measured::default();
    for n in 0..settings.runs {
        let dir = run_directory(settings, case.peer)?;
        let (ours, theirs) = (broker.topic("ours", 1)?, broker.topic("theirs", 1)?);
        let peer = |name: &str| -> Result<Usage> {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["peer", name, &broker.servers, topic, &theirs]);
            Process::start(&mut command, &dir.path().join("peer.log"))?.wait(engine.timeout())
        };
        let run_engine = || engine.run(dir.path(), &case.sql(&broker.servers, topic, &ours), &[]);
        // By turns, each first every other time: neither always finds the warmer machine.
        if n % 2 == 0 {
            measured.engine.push(run_engine()?);
            measured.bare.push(peer("kafka-bare")?);
            measured.peer.push(peer(case.peer)?);
        } else {
            measured.peer.push(peer(case.peer)?);
            measured.bare.push(peer("kafka-bare")?);
            measured.engine.push(run_engine()?);
        }
        if case.writes && measured.answer.is_none() {
            measured.answer = different(broker, dir.path(), &ours, &theirs)?;
        }
        broker.delete(&[&ours, &theirs])?;
    }
    Ok(measured)
}

/// What differs in the two topics.
fn different(broker: &Broker, dir: &Path, ours: &str, theirs: &str) -> Result<Option<String>> {
    let (our_rows, their_rows) = (dir.join("ours.ndjson"), dir.join("theirs.ndjson"));
    broker.dump(ours, &our_rows)?;
    broker.dump(theirs, &their_rows)?;
    match compare(&our_rows, &their_rows)? {
        Comparison::Same { lines: 0 } => Ok(Some("there are none".into())),
        Comparison::Same { .. } => Ok(None),
        Comparison::Different(what) => Ok(Some(what)),
    }
}

fn row(case: &Case, events: u64, measured: &Measured) -> Vec<String> {
    let us = |usages: &[Usage]| -> Vec<f64> {
        usages.iter().map(|usage| usage.cpu_s * 1e6 / events.max(1) as f64).collect()
    };
    let wall = |usages: &[Usage]| median(&usages.iter().map(|usage| usage.wall_s).collect::<Vec<_>>());
    let (engine, bare, peer) = (us(&measured.engine), us(&measured.bare), us(&measured.peer));
    let over = |other: &[f64]| -> f64 {
        median(&engine.iter().zip(other).map(|(engine, other)| engine / other.max(1e-9)).collect::<Vec<_>>())
    };
    vec![
        case.name.into(),
        count(events),
        format!("{:.3}", median(&engine)),
        format!("{:.3}", median(&bare)),
        format!("{:.3}", median(&peer)),
        format!("{:.2}x", over(&bare)),
        against(over(&bare), case.budget),
        format!("{:.2}x", over(&peer)),
        against(over(&peer), case.budget),
        format!("{:.1}x", case.budget),
        format!("{:.2} s", wall(&measured.engine)),
        format!("{:.2} s", wall(&measured.peer)),
        match (&measured.answer, case.writes) {
            (Some(_), _) => "DIFFERENT".into(),
            (None, true) => "same".into(),
            (None, false) => "-".into(),
        },
    ]
}
