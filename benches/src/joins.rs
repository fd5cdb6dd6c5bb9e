//! Joins: input rows a second and core, beside a hand-written hash join of the same rows.
//!
//! The rows are made by the engine's `datagen` source, whose sequences cost next to nothing: what is measured is the join,
//! not a format. `reading alone` says what is left of it without one. The hand-written program makes the same rows.

use std::path::Path;

use crate::args::Settings;
use crate::engine::Engine;
use crate::events::{Measured, run_turns};
use crate::process::Usage;
use crate::stats::median;
use crate::table::{Table, against, bytes, count};
use crate::{Result, Verdict};

/// Two million rows a second.
const BUDGET_US: f64 = 0.5;

/// One join.
struct Case {
    name: &'static str,
    shown: &'static str,
    peer: Option<&'static str>,
    /// The key of the row with the number `i` on either side, of `{n}` rows.
    keys: [&'static str; 2],
    query: &'static str,
}

const WINDOWS: &str = "SELECT count(*) AS pairs, sum(a.v) AS lefts, sum(b.v) AS rights \
    FROM TUMBLE(l, ts, INTERVAL '10' SECOND) a JOIN TUMBLE(r, ts, INTERVAL '10' SECOND) b \
    ON a.window_start = b.window_start AND a.window_end = b.window_end AND a.k = b.k";

const CASES: [Case; 4] = [
    Case {
        name: "none",
        shown: "reading alone",
        peer: None,
        keys: ["i * 7919 % {n}", "(i * 6007 + 12345) % {n}"],
        query: "SELECT count(*) AS pairs, sum(v) AS lefts, max(k) AS rights FROM (SELECT * FROM l UNION ALL SELECT * FROM r)",
    },
    Case {
        name: "inner",
        shown: "by a key, 1:1, nothing forgotten",
        peer: Some("join-inner"),
        keys: ["i * 7919 % {n}", "(i * 6007 + 12345) % {n}"],
        query: "SELECT count(*) AS pairs, sum(l.v) AS lefts, sum(r.v) AS rights FROM l JOIN r ON l.k = r.k",
    },
    Case {
        name: "interval",
        shown: "by a key, within 10 s",
        peer: Some("join-interval"),
        keys: ["i", "i - i * 7919 % 10000"],
        query: "SELECT count(*) AS pairs, sum(l.v) AS lefts, sum(r.v) AS rights FROM l JOIN r ON l.k = r.k \
                AND r.ts BETWEEN l.ts AND l.ts + INTERVAL '10' SECOND",
    },
    Case {
        name: "window",
        shown: "by a key, in windows of 10 s",
        peer: Some("join-window"),
        keys: ["i", "i - i % 10000 + i * 7919 % 10000"],
        query: WINDOWS,
    },
];

/// Measures and prints.
///
/// # Errors
/// Where the number of rows can't be written down. A join that fails is a row of the table.
pub fn run(settings: &Settings, engine: &Engine) -> Result<Verdict> {
    let rows = settings.sized(10_000_000u64, 500_000);
    // What the hand-written programs read: how many rows to make.
    let input = settings.data.join(format!("joins-{rows}.txt"));
    std::fs::write(&input, rows.to_string())?;
    let mut table = Table::new(
        &format!("Joins: {} rows a side (median of {})", count(rows), settings.runs),
        &[
            "join",
            "engine us/row",
            "M rows/s a core",
            "budget",
            "peer us/row",
            "ratio",
            "engine wall",
            "rss",
            "peer rss",
            "answer",
        ],
    );
    let mut verdict = Verdict::Right;
    for case in &CASES {
        if !settings.only.is_empty() && !settings.only.iter().any(|name| name == case.name) {
            continue;
        }
        eprintln!("{}: {} runs", case.name, settings.runs);
        let sql = |_: &Path, out: &Path| case.sql(rows, out);
        match run_turns(settings, engine, case.name, case.peer, &input, &sql) {
            Ok(measured) => {
                if measured.answer.is_err() {
                    verdict = Verdict::Wrong;
                }
                table.row(row(case, 2 * rows, &measured));
            }
            Err(error) => {
                verdict = Verdict::Wrong;
                println!("{}: failed: {error}", case.name);
                table.row(vec![case.shown.into(), "failed".into()]);
            }
        }
    }
    table.print();
    Ok(verdict)
}

impl Case {
    fn sql(&self, rows: u64, output: &Path) -> String {
        let side = |(name, key): (&str, &str)| {
            let key = key.replace("{n}", &rows.to_string());
            format!(
                "CREATE TABLE {name}s (i BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) WITH ('connector' = 'datagen', \
                 'number-of-rows' = '{rows}', 'rows-per-second' = '0', 'fields.i.kind' = 'sequence', 'fields.i.start' = '0', \
                 'fields.ts.step' = '1 ms');\nCREATE VIEW {name} AS SELECT {key} AS k, i AS v, ts FROM {name}s;\n"
            )
        };
        let sides: String = ["l", "r"].into_iter().zip(self.keys).map(side).collect();
        let sink = crate::engine::json_table("answer", "pairs BIGINT, lefts BIGINT, rights BIGINT", output, "");
        format!("{sides}{sink}INSERT INTO answer {};\n", self.query)
    }
}

fn row(case: &Case, rows: u64, measured: &Measured) -> Vec<String> {
    let per_row =
        |usages: &[Usage]| -> Vec<f64> { usages.iter().map(|u| u.cpu_s * 1e6 / rows.max(1) as f64).collect() };
    let rss = |usages: &[Usage]| bytes(usages.iter().map(|usage| usage.rss_bytes_max).max().unwrap_or(0));
    let (engine, peer) = (per_row(&measured.engine), per_row(&measured.peer));
    let us = median(&engine);
    let ratios: Vec<f64> = engine.iter().zip(&peer).map(|(engine, peer)| engine / peer.max(1e-9)).collect();
    let wall = median(&measured.engine.iter().map(|usage| usage.wall_s).collect::<Vec<_>>());
    let of_peer = |text: String| if peer.is_empty() { String::new() } else { text };
    vec![
        case.shown.to_string(),
        format!("{us:.3}"),
        format!("{:.2}", 1.0 / us.max(1e-9)),
        of_peer(against(us, BUDGET_US)),
        of_peer(format!("{:.3}", median(&peer))),
        of_peer(format!("{:.2}x", median(&ratios))),
        format!("{wall:.2} s"),
        rss(&measured.engine),
        of_peer(rss(&measured.peer)),
        match &measured.answer {
            Ok(_) => of_peer("same".into()),
            Err(what) => {
                println!("{}: the answers differ: {what}", case.name);
                "DIFFERENT".into()
            }
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_reads_both_sides_and_knows_how_many_rows_there_are() {
        let sql = CASES[1].sql(1000, Path::new("/tmp/out"));
        assert!(sql.contains("CREATE VIEW r AS SELECT (i * 6007 + 12345) % 1000 AS k"), "{sql}");
        assert!(sql.contains("'number-of-rows' = '1000'") && sql.ends_with("ON l.k = r.k;\n"), "{sql}");
    }
}
