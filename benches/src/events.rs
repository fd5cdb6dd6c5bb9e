//! CPU per event, the engine beside a hand-written program: the same input, the same answer, by turns.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::answer::{Comparison, compare, lines};
use crate::args::Settings;
use crate::data::{self, Amount, Input};
use crate::engine::{Engine, json_table, run_directory};
use crate::process::{Process, Usage};
use crate::stats::median;
use crate::table::{Table, against, bytes, count};
use crate::{Result, Verdict};

const STATELESS: f64 = 2.0;
const STATEFUL: f64 = 3.0;

const BID: &str = "auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, \
                   `dateTime` TIMESTAMP(3), extra VARCHAR, \
                   WATERMARK FOR `dateTime` AS `dateTime` - INTERVAL '4' SECOND";

/// One question: the SQL, the peer, and the most that one may cost for the other's one.
struct Case {
    name: &'static str,
    peer: &'static str,
    input: Kind,
    budget: f64,
    table: &'static str,
    columns: &'static str,
    answer: &'static str,
    query: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bids,
    MillionWords,
    Words,
    Lines,
}

const CASES: [Case; 7] = [
    Case {
        name: "q0",
        peer: "q0",
        input: Kind::Bids,
        budget: STATELESS,
        table: "bid",
        columns: BID,
        answer: "auction BIGINT, bidder BIGINT, price BIGINT, `dateTime` TIMESTAMP(3), extra VARCHAR",
        query: "SELECT auction, bidder, price, `dateTime`, extra FROM bid",
    },
    Case {
        name: "q2",
        peer: "q2",
        input: Kind::Bids,
        budget: STATELESS,
        table: "bid",
        columns: BID,
        answer: "auction BIGINT, price BIGINT",
        query: "SELECT auction, price FROM bid WHERE auction % 123 = 0",
    },
    // The published query joins these counts with their maximum.
    Case {
        name: "q5",
        peer: "q5",
        input: Kind::Bids,
        budget: STATEFUL,
        table: "bid",
        columns: BID,
        answer: "auction BIGINT, num BIGINT, window_start TIMESTAMP(3), window_end TIMESTAMP(3)",
        query: "SELECT auction, count(*) AS num, window_start, window_end \
                FROM TABLE(HOP(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '2' SECOND, INTERVAL '10' SECOND)) \
                GROUP BY auction, window_start, window_end",
    },
    Case {
        name: "q7",
        peer: "q7",
        input: Kind::Bids,
        budget: STATEFUL,
        table: "bid",
        columns: BID,
        answer: "window_start TIMESTAMP(3), window_end TIMESTAMP(3), price BIGINT",
        query: "SELECT window_start, window_end, max(price) AS price \
                FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '10' SECOND)) \
                GROUP BY window_start, window_end",
    },
    Case {
        name: "million-words",
        peer: "words",
        input: Kind::MillionWords,
        budget: STATEFUL,
        table: "words",
        columns: "word VARCHAR",
        answer: "word VARCHAR, cnt BIGINT",
        query: "SELECT word, count(*) AS cnt FROM words GROUP BY word",
    },
    Case {
        name: "words",
        peer: "words",
        input: Kind::Words,
        budget: STATEFUL,
        table: "words",
        columns: "word VARCHAR",
        answer: "word VARCHAR, cnt BIGINT",
        query: "SELECT word, count(*) AS cnt FROM words GROUP BY word",
    },
    Case {
        name: "lines",
        peer: "lines",
        input: Kind::Lines,
        budget: STATEFUL,
        table: "lines",
        columns: "line VARCHAR",
        answer: "word VARCHAR, cnt BIGINT",
        query: "SELECT word, count(*) AS cnt \
                FROM (SELECT unnest(string_to_array(line, ' ')) AS word FROM lines) GROUP BY word",
    },
];

impl Case {
    fn sql(&self, input: &Path, output: &Path) -> String {
        let source = json_table(self.table, self.columns, input, "");
        let sink = json_table("answer", self.answer, output, "");
        format!("{source}{sink}INSERT INTO answer\n{};\n", self.query)
    }
}

/// Runs the cases and prints them.
///
/// # Errors
/// Where inputs cannot be generated. A case that fails is a row of the table.
pub fn run(settings: &Settings, engine: &Engine) -> Result<Verdict> {
    if let Some(unknown) = settings.only.iter().find(|name| CASES.iter().all(|case| case.name != **name)) {
        let names: Vec<_> = CASES.iter().map(|case| case.name).collect();
        return Err(format!("--only {unknown}: there are {}", names.join(", ")).into());
    }
    let asked = |case: &&Case| settings.only.is_empty() || settings.only.iter().any(|name| name == case.name);
    let mut table = Table::new(
        &format!("CPU per event: engine beside a hand-written program (median of {})", settings.runs),
        &[
            "query",
            "events",
            "input",
            "engine us",
            "peer us",
            "ratio",
            "least .. most",
            "budget",
            "",
            "engine wall",
            "peer wall",
            "engine rss",
            "lines out",
            "answer",
        ],
    );
    let mut verdict = Verdict::Right;
    for case in CASES.iter().filter(asked) {
        let input = input(settings, case.input)?;
        eprintln!("{}: {} runs of each", case.name, settings.runs);
        let sql = |input: &Path, output: &Path| case.sql(input, output);
        match run_turns(settings, engine, case.name, Some(case.peer), &input.path, &sql) {
            Ok(measured) => {
                if measured.answer.is_err() {
                    verdict = Verdict::Wrong;
                }
                table.row(row(case, &input, &measured));
            }
            Err(error) => {
                verdict = Verdict::Wrong;
                println!("{}: failed: {error}", case.name);
                table.row(vec![case.name.into(), count(input.rows), bytes(input.bytes), "failed".into()]);
            }
        }
    }
    table.print();
    if !settings.peers_only {
        start_up(settings, engine)?;
    }
    Ok(verdict)
}

fn input(settings: &Settings, kind: Kind) -> Result<Input> {
    let large = Amount::Bytes(settings.sized(200 << 20, 20 << 20));
    match kind {
        Kind::Bids => data::bids(settings, large),
        Kind::MillionWords => data::words(settings, Amount::Rows(settings.sized(1_000_000, 100_000))),
        Kind::Words => data::words(settings, large),
        Kind::Lines => data::lines(settings, large),
    }
}

/// What the runs of one question used.
pub struct Measured {
    /// Each run of the engine.
    pub engine: Vec<Usage>,
    /// Each run of the hand-written program.
    pub peer: Vec<Usage>,
    /// Lines of the engine's output, or what is wrong with it.
    pub answer: std::result::Result<u64, String>,
}

/// Runs the engine, and the hand-written program where there is one, by turns, and compares their answers. `sql` makes
/// the pipeline of an input and an output.
///
/// # Errors
/// Where a run does not end well.
pub fn run_turns(
    settings: &Settings,
    engine: &Engine,
    name: &str,
    peer_name: Option<&str>,
    input: &Path,
    sql: &dyn Fn(&Path, &Path) -> String,
) -> Result<Measured> {
    let mut measured = Measured { engine: Vec::new(), peer: Vec::new(), answer: Ok(0) };
    for n in 0..settings.runs {
        let dir = run_directory(settings, name)?;
        let (engine_out, peer_out) = (dir.path().join("out"), dir.path().join("peer.ndjson"));
        let mut run_engine = || -> Result<()> {
            if !settings.peers_only {
                measured.engine.push(engine.run(dir.path(), &sql(input, &engine_out), &[])?);
            }
            Ok(())
        };
        let mut run_peer = || -> Result<()> {
            if let Some(name) = peer_name {
                measured.peer.push(peer(name, input, &peer_out, dir.path(), engine)?);
            }
            Ok(())
        };
        // By turns, each first every other time: neither always finds the warmer machine.
        if n % 2 == 0 {
            run_engine()?;
            run_peer()?;
        } else {
            run_peer()?;
            run_engine()?;
        }
        if settings.peers_only || measured.answer.is_err() {
            continue;
        }
        measured.answer = match peer_name {
            None => Ok(lines(&engine_out)?),
            Some(_) => match compare(&engine_out, &peer_out)? {
                Comparison::Same { lines } => Ok(lines),
                Comparison::Different(what) => Err(what),
            },
        };
    }
    Ok(measured)
}

/// Runs a hand-written program as a process of its own.
///
/// # Errors
/// Where it does not end well.
pub fn peer(name: &str, input: &Path, output: &Path, dir: &Path, engine: &Engine) -> Result<Usage> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("peer").arg(name).args::<[PathBuf; 2], _>([input.into(), output.into()]);
    Process::start(&mut command, &dir.join("peer.log"))?.wait(engine.timeout())
}

fn row(case: &Case, input: &Input, measured: &Measured) -> Vec<String> {
    let per_event = |usages: &[Usage]| -> Vec<f64> {
        usages.iter().map(|usage| usage.cpu_s * 1e6 / input.rows.max(1) as f64).collect()
    };
    let wall = |usages: &[Usage]| median(&usages.iter().map(|usage| usage.wall_s).collect::<Vec<_>>());
    let (engine, peer) = (per_event(&measured.engine), per_event(&measured.peer));
    let mut cells = vec![case.name.to_string(), count(input.rows), bytes(input.bytes)];
    if engine.is_empty() {
        cells.extend(["-".into(), format!("{:.3}", median(&peer))]);
        cells.extend(["-", "-", "-", "-", "-"].map(String::from));
        cells.push(format!("{:.2} s", wall(&measured.peer)));
        return cells;
    }
    let ratios: Vec<f64> = engine.iter().zip(&peer).map(|(engine, peer)| engine / peer.max(1e-9)).collect();
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    let rss = measured.engine.iter().map(|usage| usage.rss_bytes_max).max().unwrap_or(0);
    cells.extend([
        format!("{:.3}", median(&engine)),
        format!("{:.3}", median(&peer)),
        format!("{:.2}x", median(&ratios)),
        format!("{least:.2} .. {most:.2}"),
        format!("{:.1}x", case.budget),
        against(median(&ratios), case.budget),
        format!("{:.2} s", wall(&measured.engine)),
        format!("{:.2} s", wall(&measured.peer)),
        bytes(rss),
    ]);
    match &measured.answer {
        Ok(lines) => cells.extend([count(*lines), "same".into()]),
        Err(what) => {
            println!("{}: the answers differ: {what}", case.name);
            cells.extend(["-".into(), "DIFFERENT".into()]);
        }
    }
    cells
}

/// What a run costs before its first event: it is within the numbers above, and weighs on small inputs.
fn start_up(settings: &Settings, engine: &Engine) -> Result<()> {
    let input = data::bids(settings, Amount::Rows(1))?;
    let [case, ..] = &CASES;
    let mut usages = Vec::new();
    for _ in 0..settings.runs {
        let dir = run_directory(settings, "start-up")?;
        match engine.run(dir.path(), &case.sql(&input.path, &dir.path().join("out")), &[]) {
            Ok(usage) => usages.push(usage),
            Err(error) => {
                println!("start-up: failed: {error}");
                return Ok(());
            }
        }
    }
    let of = |value: fn(&Usage) -> f64| median(&usages.iter().map(value).collect::<Vec<_>>());
    let (cpu, wall) = (of(|usage| usage.cpu_s * 1e3), of(|usage| usage.wall_s * 1e3));
    println!("Start-up and end, over one event (within the numbers above): {cpu:.1} ms of CPU, {wall:.1} ms.");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(cpu_s: f64) -> Usage {
        Usage { cpu_s, wall_s: 1.0, rss_bytes_max: 1_000_000 }
    }

    #[test]
    fn a_row_shows_the_median_of_the_ratios_against_the_budget() {
        let input = Input { path: PathBuf::new(), rows: 1_000_000, bytes: 1_000_000 };
        let measured = Measured {
            engine: vec![usage(2.0), usage(3.0), usage(9.0)],
            peer: vec![usage(1.0), usage(1.0), usage(1.0)],
            answer: Ok(5),
        };
        let [case, ..] = &CASES;
        let cells = row(case, &input, &measured).join(",");
        assert_eq!(
            cells,
            "q0,1 000 000,1.0 MB,3.000,1.000,3.00x,2.00 .. 9.00,2.0x,missed by 50 %,1.00 s,1.00 s,1.0 MB,5,same"
        );
    }

    #[test]
    fn every_case_names_its_input_and_its_answer() {
        for case in &CASES {
            let sql = case.sql(Path::new("/in.ndjson"), Path::new("/out"));
            assert!(sql.starts_with(&format!("CREATE TABLE {} (", case.table)), "{sql}");
            assert!(sql.contains("'/in.ndjson'") && sql.contains("'/out'"), "{sql}");
            assert!(sql.contains(&format!("FROM {}", case.table)) || sql.contains("TABLE bid"), "{sql}");
        }
    }
}
