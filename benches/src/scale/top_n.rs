//! De-duplication and the three best rows of each key, over 10 million keys with two rows on average.
//!
//! All keys come once. Then a quarter of them comes four times more, each time with larger values: the last row of
//! these is the best one, and two of their five are not among the best three.

use super::{EPOCH, Totals, bytes_a_key, millions, run_totals, wrong};
use crate::args::Settings;
use crate::data;
use crate::engine::{Engine, json_table};
use crate::table::{Table, bytes, count};
use crate::{Result, Verdict};

const FEW: u64 = 1000;

struct Case {
    name: &'static str,
    rows: &'static str,
    expected: fn(u64) -> Totals,
}

const CASES: [Case; 6] = [
    Case {
        name: "keep-first",
        rows: "SELECT k, v FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY k ORDER BY ts) AS n FROM event) AS x WHERE n = 1",
        expected: firsts,
    },
    Case {
        name: "keep-last",
        rows: "SELECT k, v FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY k ORDER BY ts DESC) AS n FROM event) AS x WHERE n = 1",
        expected: |keys| Totals {
            sum: firsts(keys).sum + data::REPEATS as i64 * data::STEP * keys as i64 / 4,
            ..firsts(keys)
        },
    },
    Case {
        name: "top-3",
        rows: "SELECT k, v FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY k ORDER BY v DESC) AS n FROM event) AS x WHERE n <= 3",
        expected: |keys| {
            // Of a key that repeats the 4th, 3rd and 2nd time are the best: 9 steps, and three times what it began with.
            let firsts = firsts(keys);
            Totals { rows: firsts.rows * 3 / 2, sum: firsts.sum * 3 / 2 + 9 * data::STEP * keys as i64 / 4 }
        },
    },
    Case { name: "DISTINCT ON", rows: "SELECT DISTINCT ON (k) k, v FROM event ORDER BY k, ts", expected: firsts },
    Case {
        name: "DEDUP, within a day",
        rows: "SELECT k, v FROM DEDUP(event, DESCRIPTOR(k), DESCRIPTOR(ts), INTERVAL '1' DAY)",
        expected: firsts,
    },
    Case {
        name: "SELECT DISTINCT",
        rows: "SELECT DISTINCT k, 1 AS v FROM event",
        expected: |keys| Totals { rows: keys as i64, sum: keys as i64 },
    },
];

/// A row for each key, as it comes first: with the key's last three digits.
fn firsts(keys: u64) -> Totals {
    let keys = keys as i64;
    Totals { rows: keys, sum: keys / 1000 * (999 * 1000 / 2) }
}

/// Measures and prints.
///
/// # Errors
/// Where the engine fails.
pub fn run(settings: &Settings, engine: &Engine) -> Result<Verdict> {
    let many = settings.sized(10_000_000, 1_000_000);
    let rows = 2 * many;
    let mut table = Table::new(
        &format!("De-duplication and top-N over {} rows of NDJSON", count(rows)),
        &["query", "keys", "rows/s a core", "CPU", "wall", "rss", "bytes a key"],
    );
    let mut verdict = Verdict::Right;
    for case in CASES.iter().filter(|c| settings.only.is_empty() || settings.only.iter().any(|o| o == c.name)) {
        let mut few_usage = None;
        for keys in [FEW * 4, many] {
            let input = data::repeated(settings, keys, rows)?;
            let columns = "k BIGINT, v BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts";
            let source = json_table("event", columns, &input.path, EPOCH);
            let (usage, answered) = run_totals(settings, engine, &source, case.rows, "v")?;
            if keys == many && wrong(case.name, answered, (case.expected)(keys)) {
                verdict = Verdict::Wrong;
            }
            let each = few_usage.map(|few| format!("{:.0}", bytes_a_key(&usage, &few, many - FEW * 4)));
            table.row(vec![
                case.name.to_string(),
                count(keys),
                millions(rows, &usage),
                format!("{:.2} s", usage.cpu_s),
                format!("{:.2} s", usage.wall_s),
                bytes(usage.rss_bytes_max),
                each.unwrap_or_default(),
            ]);
            few_usage = Some(usage);
        }
    }
    table.print();
    Ok(verdict)
}
