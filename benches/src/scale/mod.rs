//! Many keys: distinct counts, de-duplication, top-N and aggregates over rows that come and go.
//!
//! Each part puts an aggregate of one row over what it measures: the number of its rows and a sum, which are known.
//! So every answer is checked, and little is written. What that aggregate costs is in the numbers.
//!
//! Inputs are NDJSON: of the formats that the engine reads it costs the least CPU a row of whole numbers.

pub mod distinct;
pub mod flat;
pub mod retractions;
pub mod top_n;

use std::path::Path;

use serde_json::Value;

use crate::Result;
use crate::answer;
use crate::args::Settings;
use crate::engine::{Engine, json_table, run_directory};
use crate::process::Usage;

/// The columns of the tables of [`crate::data::changing`].
const COLUMNS: &str = "k BIGINT, g BIGINT, v BIGINT, ts TIMESTAMP(3)";
/// `ts` counts milliseconds.
const EPOCH: &str = ", 'json.epoch.ts' = 'ms'";

/// How many rows an answer has, and what they add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    rows: i64,
    sum: i64,
}

impl Totals {
    /// Of rows that are each a number.
    fn of(rows: impl Iterator<Item = i64>) -> Self {
        rows.fold(Self::default(), |t, row| Self { rows: t.rows + 1, sum: t.sum + row })
    }

    /// Out of a line of the output; `None` where it is taken back.
    fn of_line(line: &str) -> Result<Option<Self>> {
        let row: Value = serde_json::from_str(line).map_err(|e| format!("{line}: {e}"))?;
        let number = |name: &str| row.get(name).and_then(Value::as_i64).unwrap_or(0);
        let comes = matches!(row.get("op").and_then(Value::as_str), Some("+I" | "+U") | None);
        Ok(comes.then(|| Self { rows: number("n"), sum: number("total") }))
    }
}

/// The sink of the totals, and the query that fills it from `rows`, whose columns are summed as `sum` says.
fn totals(rows: &str, sum: &str, output: &Path) -> String {
    format!(
        "{}INSERT INTO answer SELECT count(*) AS n, sum({sum}) AS total FROM ({rows}) AS r;\n",
        json_table("answer", "n BIGINT, total BIGINT", output, ", 'sink.layout' = 'append'"),
    )
}

/// Runs `tables` and the totals of a query over what is there; the totals are the last ones.
fn run_totals(settings: &Settings, engine: &Engine, tables: &str, rows: &str, sum: &str) -> Result<(Usage, Totals)> {
    let dir = run_directory(settings, "scale")?;
    let output = dir.path().join("out.ndjson");
    let usage = engine.run(dir.path(), &format!("{tables}{}", totals(rows, sum, &output)), &[])?;
    let mut last = Totals::default();
    for file in answer::files(&output).unwrap_or_else(|_| vec![output.clone()]) {
        for line in std::fs::read_to_string(file)?.lines() {
            last = Totals::of_line(line)?.unwrap_or(last);
        }
    }
    Ok((usage, last))
}

/// What more keys add, a key.
fn bytes_a_key(many: &Usage, few: &Usage, keys: u64) -> f64 {
    many.rss_bytes_max.saturating_sub(few.rss_bytes_max) as f64 / keys.max(1) as f64
}

/// Millions of rows a second of one core.
fn millions(rows: u64, usage: &Usage) -> String {
    format!("{:.2} M", rows as f64 / usage.cpu_s.max(1e-9) / 1e6)
}

/// Says that an answer is wrong.
fn wrong(what: &str, answered: Totals, expected: Totals) -> bool {
    if answered != expected {
        println!("WRONG: {what} answered {answered:?}, it is {expected:?}.");
    }
    answered != expected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_taken_back_is_no_total() {
        let line = |op: &str| Totals::of_line(&format!("{{\"op\":\"{op}\",\"n\":3,\"total\":7}}")).unwrap();
        assert_eq!((line("+U"), line("-U")), (Some(Totals { rows: 3, sum: 7 }), None));
        assert_eq!(Totals::of([3, 4].into_iter()), Totals { rows: 2, sum: 7 });
    }
}
