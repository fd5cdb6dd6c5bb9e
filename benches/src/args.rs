//! The command line. Few enough words that reading them by hand is the light thing to do.

use std::path::PathBuf;
use std::time::Duration;

use crate::Result;

/// What `--help` prints.
pub const USAGE: &str = "\
Measures the millstream binary against its budgets.

  cargo run --release -p millstream-bench -- [PART..] [OPTIONS]

PARTS (all of them without any, or with `all`)
  events          CPU per event beside a hand-written program: q0, q2, q5, q7, word counts
  nexmark         all questions of Nexmark: CPU per event, memory; six beside a hand-written program
  joins           input rows a second and core of joins, beside hand-written hash joins
  latency         one-row batches, file to growing file: event-in to answer-on-disk
  small-batches   100 thousand one-row batches: are time and memory flat?
  keys            10 million keys: bytes a key
  distinct        COUNT(DISTINCT ..) of 10 million values: rows a second, bytes a value
  top-n           de-duplication and top three over 10 million keys: rows a second, bytes a key
  retractions     aggregates over rows that come and go, beside insert-only ones
  flat            time a changed row with 10 thousand to 10 million keys
  restart         kill -9 with 1 GB of state: seconds to the next batch
  kafka           CPU per event from and to Kafka, beside programs with the same client (needs --features kafka)
  kafka-latency   one-row batches: produced record to committed record (needs --features kafka)
  postgres        rows a second of the PostgreSQL sink beside COPY alone (needs --features postgres)
  machine         only describes the machine and its fsync

OPTIONS
  --quick         a tenth of everything, to see that it works; no numbers to quote
  --binary PATH   the engine [default: `millstream` beside this program]
  --data DIR      generated inputs, kept, and the runs [default: millstream-bench in the temporary directory]
  --runs N        runs of each program, the median counts; of `flat` at most 3 [default: 5, quick 3]
  --only A,B      only these rows of `events`, `nexmark`, `joins`, `top-n`, `retractions` and `flat`
  --trigger T     the trigger of the pipelines that follow a file [default: continuous]
  --peers-only    `events` without the engine
  --kafka SERVERS use this broker [default: one that tests/services/kafka.sh starts]
  --postgres URL  use this database [default: one that tests/services/postgres.sh starts]
  --keep          keep the directories of the runs
  --timeout S     seconds a run may take [default: 3600]
";

/// What to do.
#[derive(Debug)]
pub enum Command {
    /// Print the usage.
    Help,
    /// Measure.
    Run(Settings),
}

/// One part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// CPU per event.
    Events,
    /// Nexmark's questions.
    Nexmark,
    /// Rows a second of joins.
    Joins,
    /// Latency of one-row batches.
    Latency,
    /// Flatness over many one-row batches.
    SmallBatches,
    /// Memory a key.
    Keys,
    /// Distinct counts.
    Distinct,
    /// De-duplication and top-N.
    TopN,
    /// Aggregates over rows that come and go.
    Retractions,
    /// Time a changed row over the number of keys.
    Flat,
    /// Time to restart.
    Restart,
    /// CPU per event from and to Kafka.
    Kafka,
    /// Latency of one-row batches from and to Kafka.
    KafkaLatency,
    /// Rows a second into PostgreSQL.
    Postgres,
}

impl Part {
    const ALL: [Self; 14] = [
        Self::Events,
        Self::Nexmark,
        Self::Joins,
        Self::Latency,
        Self::SmallBatches,
        Self::Keys,
        Self::Distinct,
        Self::TopN,
        Self::Retractions,
        Self::Flat,
        Self::Restart,
        Self::Kafka,
        Self::KafkaLatency,
        Self::Postgres,
    ];

    /// All that this program was built with.
    fn built() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|part| part.feature().is_none_or(|(_, built)| built))
    }

    /// The feature that it needs, and whether it is there.
    fn feature(self) -> Option<(&'static str, bool)> {
        match self {
            Self::Kafka | Self::KafkaLatency => Some(("kafka", cfg!(feature = "kafka"))),
            Self::Postgres => Some(("postgres", cfg!(feature = "postgres"))),
            _ => None,
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Nexmark => "nexmark",
            Self::Joins => "joins",
            Self::Latency => "latency",
            Self::SmallBatches => "small-batches",
            Self::Keys => "keys",
            Self::Distinct => "distinct",
            Self::TopN => "top-n",
            Self::Retractions => "retractions",
            Self::Flat => "flat",
            Self::Restart => "restart",
            Self::Kafka => "kafka",
            Self::KafkaLatency => "kafka-latency",
            Self::Postgres => "postgres",
        }
    }
}

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// In this order; none where only the machine is described.
    pub parts: Vec<Part>,
    /// A tenth of everything.
    pub quick: bool,
    /// The engine, where it was named.
    pub binary: Option<PathBuf>,
    /// Where inputs are kept and runs take place.
    pub data: PathBuf,
    /// Runs of each program in `events`.
    pub runs: usize,
    /// Rows of `events`, `nexmark`, `joins`, `top-n`, `retractions` and `flat`; all where empty.
    pub only: Vec<String>,
    /// The trigger of pipelines that follow a file.
    pub trigger: String,
    /// `events` without the engine.
    pub peers_only: bool,
    /// A broker, where one was named.
    pub kafka: Option<String>,
    /// The URL of a database, where one was named.
    pub postgres: Option<String>,
    /// Keep the directories of runs.
    pub keep: bool,
    /// How long a run may take.
    pub timeout: Duration,
}

impl Settings {
    /// One of two sizes.
    pub fn sized<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// Reads the command line.
///
/// # Errors
/// A word that is not known, or an option without its value.
pub fn parse(words: &[String]) -> Result<Command> {
    let mut settings = Settings {
        parts: Vec::new(),
        quick: false,
        binary: None,
        data: std::env::temp_dir().join("millstream-bench"),
        runs: 0,
        only: Vec::new(),
        trigger: "continuous".into(),
        peers_only: false,
        kafka: None,
        postgres: None,
        keep: false,
        timeout: Duration::from_secs(3600),
    };
    let mut machine_only = false;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a value; see --help"));
        match word.as_str() {
            "--help" | "-h" | "help" => return Ok(Command::Help),
            "--quick" => settings.quick = true,
            "--peers-only" => settings.peers_only = true,
            "--keep" => settings.keep = true,
            "--binary" => settings.binary = Some(value()?.into()),
            "--data" => settings.data = value()?.into(),
            "--runs" => settings.runs = value()?.parse().map_err(|e| format!("--runs: {e}"))?,
            "--only" => settings.only = value()?.split(',').map(|name| name.trim().to_string()).collect(),
            "--kafka" => settings.kafka = Some(value()?.clone()),
            "--postgres" => settings.postgres = Some(value()?.clone()),
            "--trigger" => settings.trigger.clone_from(value()?),
            "--timeout" => {
                settings.timeout = Duration::from_secs(value()?.parse().map_err(|e| format!("--timeout: {e}"))?);
            }
            "machine" => machine_only = true,
            "all" => settings.parts.extend(Part::built()),
            other => match Part::ALL.into_iter().find(|part| part.name() == other) {
                Some(part) => match part.feature() {
                    Some((feature, false)) => {
                        return Err(format!("'{other}' is not built in: add --features {feature}").into());
                    }
                    _ => settings.parts.push(part),
                },
                None => return Err(format!("'{other}' is not known here; see --help").into()),
            },
        }
    }
    if settings.parts.is_empty() && !machine_only {
        settings.parts.extend(Part::built());
    }
    if settings.runs == 0 {
        settings.runs = settings.sized(5, 3);
    }
    Ok(Command::Run(settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(line: &str) -> Settings {
        let words: Vec<_> = line.split_whitespace().map(String::from).collect();
        match parse(&words).unwrap() {
            Command::Run(settings) => settings,
            Command::Help => panic!("{line} asks for no help"),
        }
    }

    #[test]
    fn without_a_part_all_of_them_are_run() {
        assert_eq!(settings("--quick").parts, Part::built().collect::<Vec<_>>());
        assert!(settings("").parts.len() >= 5);
        assert_eq!(settings("").runs, 5);
        assert_eq!(settings("--quick").runs, 3);
    }

    #[test]
    fn parts_and_options_mix_freely() {
        let settings = settings("keys --data /x restart --only q0,q2 --runs 2");
        assert_eq!(settings.parts, [Part::Keys, Part::Restart]);
        assert_eq!(settings.data, PathBuf::from("/x"));
        assert_eq!(settings.only, ["q0", "q2"]);
        assert_eq!(settings.runs, 2);
    }

    #[test]
    fn describing_the_machine_runs_no_part() {
        assert!(settings("machine").parts.is_empty());
    }

    #[test]
    fn an_unknown_word_is_named() {
        let error = parse(&["latencies".into()]).unwrap_err().to_string();
        assert!(error.contains("'latencies'"), "{error}");
        assert!(parse(&["--data".into()]).is_err());
    }
}
