//! The benchmark: one command that measures the `millstream` binary against its budgets.
//!
//! It generates its data once, describes the machine (its fsync too), runs the engine as a user would, as a
//! process with a file of SQL, and runs a hand-written program for the same beside it (`peer`). Answers are
//! compared before a time is believed. It never links the engine's crates, so it cannot measure anything
//! that a user would not get; but for the PostgreSQL sink, whose own share is only seen where nothing else is in the way.

mod answer;
mod args;
mod data;
mod engine;
mod event_time;
mod events;
mod joins;
#[cfg(feature = "kafka")]
mod kafka;
mod keys;
mod latency;
mod machine;
mod nexmark;
mod peer;
#[cfg(feature = "postgres")]
mod postgres;
mod process;
mod restart;
mod scale;
#[cfg(any(feature = "kafka", feature = "postgres"))]
mod service;
mod small_batches;
mod stats;
mod sys;
mod table;
mod tail;

use std::process::ExitCode;

use args::{Command, Settings};
use engine::Engine;

/// What can go wrong here is told to a person, nobody acts on its kind.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Whether everything ran and every answer was right. A missed budget is not wrong: it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// All answers were right.
    Right,
    /// An answer was wrong, or a run failed.
    Wrong,
}

impl Verdict {
    fn and(self, other: Self) -> Self {
        if self == Self::Right { other } else { self }
    }
}

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(Verdict::Right) => ExitCode::SUCCESS,
        Ok(Verdict::Wrong) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(words: Vec<String>) -> Result<Verdict> {
    // The peer is this same binary, started as a process, so that its CPU is counted as the engine's is.
    if let [first, rest @ ..] = words.as_slice()
        && first == "peer"
    {
        return peer::main(rest).map(|()| Verdict::Right);
    }
    let settings = match args::parse(&words)? {
        Command::Help => {
            print!("{}", args::USAGE);
            return Ok(Verdict::Right);
        }
        Command::Run(settings) => settings,
    };
    std::fs::create_dir_all(&settings.data)?;
    machine::describe(&settings)?;
    if settings.parts.is_empty() {
        return Ok(Verdict::Right);
    }
    let engine = Engine::find(&settings)?;
    let mut verdict = Verdict::Right;
    for part in &settings.parts {
        let done = run_part(*part, &settings, &engine);
        verdict = verdict.and(done.unwrap_or_else(|error| {
            println!("\n{}: failed: {error}", part.name());
            Verdict::Wrong
        }));
    }
    Ok(verdict)
}

fn run_part(part: args::Part, settings: &Settings, engine: &Engine) -> Result<Verdict> {
    match part {
        args::Part::Events => events::run(settings, engine),
        args::Part::Nexmark => nexmark::run(settings, engine),
        args::Part::Joins => joins::run(settings, engine),
        args::Part::Latency => latency::run(settings, engine),
        args::Part::SmallBatches => small_batches::run(settings, engine),
        args::Part::Keys => keys::run(settings, engine),
        args::Part::Distinct => scale::distinct::run(settings, engine),
        args::Part::TopN => scale::top_n::run(settings, engine),
        args::Part::Retractions => scale::retractions::run(settings, engine),
        args::Part::Flat => scale::flat::run(settings, engine),
        args::Part::Restart => restart::run(settings, engine),
        #[cfg(feature = "kafka")]
        args::Part::Kafka => kafka::throughput::run(settings, engine),
        #[cfg(feature = "kafka")]
        args::Part::KafkaLatency => kafka::latency::run(settings, engine),
        #[cfg(feature = "postgres")]
        args::Part::Postgres => postgres::run(settings),
        #[cfg(not(all(feature = "kafka", feature = "postgres")))]
        other => Err(format!("'{}' is not built in", other.name()).into()),
    }
}
