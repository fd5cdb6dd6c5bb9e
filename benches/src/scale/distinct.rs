//! COUNT(DISTINCT ..) of 10 million values, in one group and in a thousand.

use super::{Totals, bytes_a_key, millions, run_totals, wrong};
use crate::args::Settings;
use crate::data;
use crate::engine::{Engine, json_table};
use crate::table::{Table, bytes, count};
use crate::{Result, Verdict};

const FEW: u64 = 1000;
/// Of `v` in the input.
const GROUPS: u64 = 1000;

struct Case {
    name: &'static str,
    rows: &'static str,
    /// The number of groups, with as many values.
    groups: u64,
}

const CASES: [Case; 2] = [
    Case { name: "count(DISTINCT k)", rows: "SELECT count(DISTINCT k) AS n FROM event", groups: 1 },
    Case {
        name: "count(DISTINCT k) GROUP BY v",
        rows: "SELECT v, count(DISTINCT k) AS n FROM event GROUP BY v",
        groups: GROUPS,
    },
];

/// Measures and prints.
///
/// # Errors
/// Where the engine fails.
pub fn run(settings: &Settings, engine: &Engine) -> Result<Verdict> {
    let many = settings.sized(10_000_000, 1_000_000);
    let mut table = Table::new(
        &format!("COUNT(DISTINCT ..) over {} rows of NDJSON", count(many)),
        &["query", "values", "rows/s a core", "CPU", "wall", "rss", "bytes a value"],
    );
    let mut verdict = Verdict::Right;
    for case in CASES {
        let mut few_usage = None;
        for values in [FEW, many] {
            let input = data::keyed(settings, values, many)?;
            let source = json_table("event", "k BIGINT, v BIGINT", &input.path, "");
            let (usage, answered) = run_totals(settings, engine, &source, case.rows, "n")?;
            // Rows of one value are of one group too: `v` counts rows as the values do.
            let expected = Totals { rows: case.groups as i64, sum: values as i64 };
            if wrong(case.name, answered, expected) {
                verdict = Verdict::Wrong;
            }
            let each = few_usage.map(|few| format!("{:.0}", bytes_a_key(&usage, &few, many - FEW)));
            table.row(vec![
                case.name.to_string(),
                count(values),
                millions(many, &usage),
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
