//! Is the time of a changed row flat, from 10 thousand keys to 10 million?
//!
//! A followed directory gets a file of all keys, then, when the engine rests, a file of updates that are spread over
//! all of them, and is read in batches of one size, in which no key comes twice. CPU is counted from the moment that the
//! updates come to the line that answers the last of them, with the checkpoints that are made meanwhile. A hash map
//! that is updated by a loop (`peer map-updates`) shows what a larger table loses to the caches of the machine.

use std::fs::hard_link;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{COLUMNS, EPOCH, Totals, totals};
use crate::args::Settings;
use crate::data::changing::{Changing, value};
use crate::data::{self, Input};
use crate::engine::{Engine, json_table, run_directory};
use crate::process::Process;
use crate::table::{Table, bytes, count};
use crate::tail::Tail;
use crate::{Result, Verdict};

/// Fewer than the least number of keys, so that none comes twice in a batch.
const BATCH: u64 = 8192;
/// Runs of each, at the most: the median counts. A run with few keys takes a quarter of a second, and scatters.
const RUNS: usize = 3;
/// More than this between the least number of keys and the most is not flat.
const FLAT: f64 = 3.0;
/// The engine rests when it used less than this share of a core for as long.
const REST: (Duration, f64) = (Duration::from_millis(500), 0.05);
/// Updates of the hash map for each one of the engine: they take nanoseconds.
const MAP_UPDATES: u64 = 10;
const REST_MAX: Duration = Duration::from_secs(60);
/// An engine that answers nothing for so long has answered what it will.
const SILENCE: Duration = Duration::from_secs(60);

struct Shape {
    name: &'static str,
    /// Whether the rows are upserts, each a change of a row, or only come.
    upserts: bool,
    /// Whether there is a table to be joined with.
    joined: bool,
    rows: &'static str,
    sum: &'static str,
    /// The rows of a group's values.
    answer: fn(&[i64]) -> Vec<i64>,
}

const SHAPES: [Shape; 7] = [
    Shape {
        name: "one group (nothing is kept a key)",
        upserts: false,
        joined: false,
        rows: "SELECT count(*) AS c, max(ts) AS m FROM event",
        sum: "c",
        answer: |_| vec![],
    },
    Shape {
        name: "keep-last",
        upserts: false,
        joined: false,
        rows: "SELECT k, v FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY k ORDER BY ts DESC) AS n FROM event) AS x WHERE n = 1",
        sum: "v",
        answer: |values| values.to_vec(),
    },
    Shape {
        name: "count, sum over upserts",
        upserts: true,
        joined: false,
        rows: "SELECT g, count(*) AS c, sum(v) AS s FROM event GROUP BY g",
        sum: "c + s",
        answer: |values| vec![values.len() as i64 + values.iter().sum::<i64>()],
    },
    Shape {
        name: "min, max over upserts",
        upserts: true,
        joined: false,
        rows: "SELECT g, min(v) AS a, max(v) AS b FROM event GROUP BY g",
        sum: "a + b",
        answer: |values| vec![values.iter().min().unwrap_or(&0) + values.iter().max().unwrap_or(&0)],
    },
    Shape {
        // The sum tells the answers of two batches apart, where so many values come as go.
        name: "count(DISTINCT v) over upserts",
        upserts: true,
        joined: false,
        rows: "SELECT g, count(DISTINCT v) AS d, sum(v) AS s FROM event GROUP BY g",
        sum: "d + s",
        answer: |values| {
            let distinct = values.iter().collect::<std::collections::HashSet<_>>().len() as i64;
            vec![distinct + values.iter().sum::<i64>()]
        },
    },
    Shape {
        name: "top-3 over upserts",
        upserts: true,
        joined: false,
        rows: "SELECT g, v FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY g ORDER BY v DESC) AS n FROM event) AS x WHERE n <= 3",
        sum: "v",
        answer: |values| {
            let mut values = values.to_vec();
            values.sort_unstable_by(|a, b| b.cmp(a));
            values.truncate(3);
            values
        },
    },
    Shape {
        name: "join of upserts",
        upserts: true,
        joined: true,
        rows: "SELECT event.k, event.v AS v, other.v AS w FROM event JOIN other ON event.k = other.k",
        sum: "v + w",
        // The other side is the table as it was loaded: see `Shape::expected`.
        answer: |values| values.to_vec(),
    },
];

impl Shape {
    fn is_wanted(&self, settings: &Settings) -> bool {
        settings.only.is_empty() || settings.only.iter().any(|o| self.name.starts_with(o.as_str()))
    }

    /// The totals after so many updates.
    fn expected(&self, table: &Changing, updates: u64) -> Totals {
        if !self.upserts && self.sum == "c" {
            return Totals { rows: 1, sum: (table.keys + updates) as i64 };
        }
        let group = |group| (self.answer)(&table.group(group, updates).collect::<Vec<_>>());
        let mut totals = Totals::of((0..table.groups()).flat_map(group));
        if self.joined {
            totals.sum += (0..table.keys).map(|key| value(key, 0)).sum::<i64>();
        }
        totals
    }

    fn sql(&self, inputs: &Path, loaded: &Input, output: &Path) -> String {
        let key = if self.upserts { ", PRIMARY KEY (k) NOT ENFORCED" } else { "" };
        let options = format!("{EPOCH}, 'source.monitor-interval' = '10 ms'");
        let mut sql = json_table("event", &format!("{COLUMNS}{key}"), inputs, &options);
        if self.joined {
            sql += &json_table("other", COLUMNS, &loaded.path, EPOCH);
        }
        sql + &totals(self.rows, self.sum, output)
    }
}

/// What an update cost.
#[derive(Clone, Copy, Debug)]
struct Cost {
    cpu_us: f64,
    batch_ms: f64,
    rss_bytes: u64,
}

/// Measures and prints.
///
/// # Errors
/// Where the engine fails.
pub fn run(settings: &Settings, engine: &Engine) -> Result<Verdict> {
    let sizes: &[u64] =
        if settings.quick { &[10_000, 100_000, 1_000_000] } else { &[10_000, 100_000, 1_000_000, 10_000_000] };
    let updates = settings.sized(500_000, 100_000);
    let mut columns = vec!["CPU us an update (ms a batch)".to_string()];
    columns.extend(sizes.iter().map(|keys| format!("{} keys", count(*keys))));
    columns.extend(["most over least".to_string(), "rss".to_string()]);
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let title = format!("Time an update, {} of them all over the keys in batches of {}", count(updates), count(BATCH));
    let mut table = Table::new(&title, &columns);
    table.row(map_row(sizes, updates)?);
    let mut verdict = Verdict::Right;
    for shape in SHAPES.iter().filter(|shape| shape.is_wanted(settings)) {
        let mut cells = vec![shape.name.to_string()];
        let mut costs = vec![];
        for keys in sizes {
            match median_of(settings, engine, shape, &Changing::new(*keys), updates) {
                Ok(cost) => {
                    cells.push(format!("{:.2} ({:.1})", cost.cpu_us, cost.batch_ms));
                    costs.push(cost);
                }
                Err(error) => {
                    println!("WRONG: {} with {} keys: {error}", shape.name, count(*keys));
                    verdict = Verdict::Wrong;
                    cells.push("WRONG".to_string());
                }
            }
        }
        let ratio = ratio(&costs.iter().map(|cost| cost.cpu_us).collect::<Vec<_>>());
        cells.push(format!("{ratio:.2}x, {}", if ratio <= FLAT { "flat" } else { "NOT flat" }));
        cells.push(costs.last().map(|cost| bytes(cost.rss_bytes)).unwrap_or_default());
        table.row(cells);
    }
    table.print();
    println!("CPU with the checkpoints meanwhile; flat is at most {FLAT}x from the fewest keys to the most.");
    Ok(verdict)
}

/// The last over the first.
fn ratio(costs: &[f64]) -> f64 {
    match costs {
        [first, .., last] => last / first.max(1e-9),
        _ => 1.0,
    }
}

fn map_row(sizes: &[u64], updates: u64) -> Result<Vec<String>> {
    let mut cells = vec!["a hash map by hand".to_string()];
    let mut costs = vec![];
    for keys in sizes {
        let arguments = ["peer", "map-updates", &keys.to_string(), &(MAP_UPDATES * updates).to_string()];
        let said = Command::new(std::env::current_exe()?).args(arguments).stderr(Stdio::inherit()).output()?;
        let said = String::from_utf8(said.stdout)?;
        let ns = said.split_whitespace().next().and_then(|n| n.parse::<f64>().ok());
        let ns = ns.ok_or_else(|| format!("the hand-written map said: {said}"))?;
        cells.push(format!("{ns:.0} ns"));
        costs.push(ns);
    }
    cells.push(format!("{:.2}x", ratio(&costs)));
    Ok(cells)
}

/// The run whose CPU is the median.
fn median_of(settings: &Settings, engine: &Engine, shape: &Shape, table: &Changing, updates: u64) -> Result<Cost> {
    let runs = 0..settings.runs.min(RUNS);
    let mut costs = runs.map(|_| measure(settings, engine, shape, table, updates)).collect::<Result<Vec<_>>>()?;
    costs.sort_by(|a, b| a.cpu_us.total_cmp(&b.cpu_us));
    costs.get(costs.len() / 2).copied().ok_or_else(|| "there was no run".into())
}

/// What an update costs over so many keys.
///
/// # Errors
/// Where the engine fails, or does not answer what is right.
fn measure(settings: &Settings, engine: &Engine, shape: &Shape, table: &Changing, updates: u64) -> Result<Cost> {
    let loaded = data::loaded(settings, table)?;
    let updated = data::updates(settings, table, updates)?;
    let dir = run_directory(settings, "flat")?;
    let (inputs, output) = (dir.path().join("in"), dir.path().join("out.ndjson"));
    std::fs::create_dir(&inputs)?;
    hard_link(&loaded.path, inputs.join("0.ndjson"))?;
    let sql = shape.sql(&inputs, &loaded, &output);
    let batch = BATCH.to_string();
    let mut process = engine.start(dir.path(), &sql, &["--trigger", &settings.trigger, "--max-batch-rows", &batch])?;
    let mut tail = Tail::open(&output, &mut process, engine.timeout())?;
    let expected = shape.expected(table, 0);
    answered(&mut tail, &mut process, expected, engine.timeout())?;
    rest(&process);

    let (cpu_s, started) = (process.cpu_s(), Instant::now());
    hard_link(&updated.path, inputs.join("1.ndjson"))?;
    let expected = shape.expected(table, updates);
    answered(&mut tail, &mut process, expected, engine.timeout())?;
    let (wall_s, cpu_s) = (started.elapsed().as_secs_f64(), cpu_s.zip(process.cpu_s()).map(|(from, to)| to - from));
    let rss_bytes = process.rss_bytes().unwrap_or(0);
    process.kill()?;
    let cpu_us = cpu_s.ok_or("the engine is gone")? * 1e6 / updates as f64;
    Ok(Cost { cpu_us, batch_ms: wall_s * 1e3 / updates.div_ceil(BATCH) as f64, rss_bytes })
}

/// Reads until these totals are answered.
fn answered(tail: &mut Tail, process: &mut Process, expected: Totals, timeout: Duration) -> Result<()> {
    let mut last = Totals::default();
    while last != expected {
        let lines = tail.next_lines(process, SILENCE.min(timeout));
        for line in lines.map_err(|e| format!("{e}: the last answer is {last:?}, {expected:?} is right"))? {
            last = Totals::of_line(&line)?.unwrap_or(last);
        }
    }
    Ok(())
}

/// Waits until the engine does nothing more: until its checkpoint is written.
fn rest(process: &Process) {
    let deadline = Instant::now() + REST_MAX;
    while Instant::now() < deadline {
        let before = process.cpu_s().unwrap_or(0.0);
        std::thread::sleep(REST.0);
        if process.cpu_s().unwrap_or(0.0) - before <= REST.0.as_secs_f64() * REST.1 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_totals_of_each_shape_change_with_the_updates() {
        let table = Changing::new(1000);
        for shape in &SHAPES {
            let at: Vec<Totals> = [0, 1, 500, 1500].map(|updates| shape.expected(&table, updates)).into();
            assert!(
                at.windows(2).all(|pair| pair[0].sum != pair[1].sum) || shape.name.starts_with("min"),
                "{}",
                shape.name
            );
        }
    }

    #[test]
    fn what_is_flat_is_told_by_the_last_over_the_first() {
        assert_eq!(ratio(&[2.0, 9.0, 3.0]), 1.5);
        assert_eq!(ratio(&[2.0]), 1.0);
    }
}
