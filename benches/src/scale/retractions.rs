//! Aggregates over rows that come and go, beside the same aggregate over as many rows that only come.
//!
//! What is counted is the rows that meet the aggregate: an update is two of them, the old row that goes and the new
//! one that comes. CPU is that of the whole process, so what makes a changelog of the input (the last row of each
//! key that a table with a PRIMARY KEY remembers, the aggregate below the aggregate, twice the JSON) is within it.

use std::collections::HashSet;

use super::{COLUMNS, EPOCH, Totals, millions, run_totals, wrong};
use crate::args::Settings;
use crate::data::changing::{Changing, GROUP, value};
use crate::data::{self, Form, Input};
use crate::engine::{Engine, json_table};
use crate::process::Usage;
use crate::table::{Table, bytes, count};
use crate::{Result, Verdict};

/// The least share of the insert-only rate.
const BUDGET: f64 = 0.5;

struct Aggregate {
    name: &'static str,
    select: &'static str,
    sum: &'static str,
    /// Of the values of a group.
    answer: fn(&[i64]) -> i64,
}

const AGGREGATES: [Aggregate; 3] = [
    Aggregate {
        name: "count, sum",
        select: "SELECT g, count(*) AS a, sum(v) AS b FROM",
        sum: "a + b",
        answer: |values| values.len() as i64 + values.iter().sum::<i64>(),
    },
    Aggregate {
        name: "min, max",
        select: "SELECT g, min(v) AS a, max(v) AS b FROM",
        sum: "a + b",
        answer: |values| values.iter().min().unwrap_or(&0) + values.iter().max().unwrap_or(&0),
    },
    Aggregate {
        name: "count(DISTINCT v)",
        select: "SELECT g, count(DISTINCT v % 100) AS a FROM",
        sum: "a",
        answer: |values| values.iter().map(|v| v % 100).collect::<HashSet<_>>().len() as i64,
    },
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Inserts,
    Debezium,
    Upserts,
    Aggregate,
}

impl Over {
    const ALL: [Self; 4] = [Self::Inserts, Self::Debezium, Self::Upserts, Self::Aggregate];

    fn name(self) -> &'static str {
        match self {
            Self::Inserts => "rows that only come",
            Self::Debezium => "debezium-json, before and after",
            Self::Upserts => "a table with a PRIMARY KEY",
            Self::Aggregate => "an aggregate: sum(v) GROUP BY k, g",
        }
    }

    /// So many rows meet the aggregate, by so many updates.
    fn updates(self, table: &Changing, rows: u64) -> u64 {
        let updates = rows - table.keys;
        if self == Self::Inserts { updates } else { updates / 2 }
    }

    fn source(self, input: &Input) -> String {
        match self {
            Self::Inserts | Self::Aggregate => json_table("event", COLUMNS, &input.path, EPOCH),
            Self::Upserts => {
                json_table("event", &format!("{COLUMNS}, PRIMARY KEY (k) NOT ENFORCED"), &input.path, EPOCH)
            }
            Self::Debezium => json_table("event", "k BIGINT, g BIGINT, v BIGINT", &input.path, "")
                .replace("'format' = 'json'", "'format' = 'debezium-json'"),
        }
    }

    fn rows(self) -> &'static str {
        match self {
            Self::Aggregate => "(SELECT k, g, sum(v) AS v FROM event GROUP BY k, g) AS x",
            _ => "event",
        }
    }

    /// The values that a key has in the end.
    fn values(self, key: u64, rounds: u64) -> Vec<i64> {
        match self {
            Self::Inserts => (0..=rounds).map(|round| value(key, round)).collect(),
            Self::Aggregate => vec![(0..=rounds).map(|round| value(key, round)).sum()],
            Self::Debezium | Self::Upserts => vec![value(key, rounds)],
        }
    }

    fn expected(self, table: &Changing, updates: u64, aggregate: &Aggregate) -> Totals {
        let group = |group: u64| {
            let keys = group * GROUP..((group + 1) * GROUP).min(table.keys);
            let values: Vec<i64> = keys.flat_map(|key| self.values(key, table.rounds(key, updates))).collect();
            (aggregate.answer)(&values)
        };
        Totals::of((0..table.groups()).map(group))
    }
}

/// Measures and prints.
///
/// # Errors
/// Where the engine fails.
pub fn run(settings: &Settings, engine: &Engine) -> Result<Verdict> {
    let rows = settings.sized(8_000_000, 800_000);
    let table = Changing::new(rows / 20);
    let mut printed = Table::new(
        &format!("Aggregates over {} rows that come and go, {} groups", count(rows), count(table.groups())),
        &["aggregate", "over", "events read", "rows/s a core", "CPU", "wall", "rss", "of insert-only", "budget"],
    );
    let mut verdict = Verdict::Right;
    for aggregate in AGGREGATES
        .iter()
        .filter(|a| settings.only.is_empty() || settings.only.iter().any(|o| a.name.starts_with(o.as_str())))
    {
        let mut alone: Option<Usage> = None;
        for over in Over::ALL {
            let updates = over.updates(&table, rows);
            let form = if over == Over::Debezium { Form::Debezium } else { Form::Rows };
            let input = data::loaded_and_updated(settings, &table, updates, form)?;
            let query = format!("{} {} GROUP BY g", aggregate.select, over.rows());
            let (usage, answered) = run_totals(settings, engine, &over.source(&input), &query, aggregate.sum)?;
            let what = format!("{} over {}", aggregate.name, over.name());
            if wrong(&what, answered, over.expected(&table, updates, aggregate)) {
                verdict = Verdict::Wrong;
            }
            let share = alone.map(|alone| alone.cpu_s / usage.cpu_s.max(1e-9));
            printed.row(vec![
                aggregate.name.to_string(),
                over.name().to_string(),
                count(input.rows),
                millions(rows, &usage),
                format!("{:.2} s", usage.cpu_s),
                format!("{:.2} s", usage.wall_s),
                bytes(usage.rss_bytes_max),
                share.map(|share| format!("{share:.2}")).unwrap_or_default(),
                share.map(|share| if share >= BUDGET { "met" } else { "missed" }).unwrap_or_default().to_string(),
            ]);
            alone = alone.or(Some(usage));
        }
    }
    printed.print();
    println!("An update is two rows; the budget is half of the rate over rows that only come.");
    Ok(verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_rows_meet_the_aggregate_whatever_they_come_out_of() {
        let table = Changing::new(100);
        assert_eq!(Over::Inserts.updates(&table, 1000), 900);
        assert_eq!(Over::Upserts.updates(&table, 1000), 450);
    }

    #[test]
    fn what_is_expected_of_an_aggregate_is_what_its_rows_add_up_to() {
        let table = Changing::new(8);
        let [sum, ..] = &AGGREGATES;
        let all = |updates: u64| {
            let updated = (0..updates).map(|n| table.updated(n)).map(|(key, round)| value(key, round) + 1);
            (0..8).map(|n| value(table.loaded(n), 0) + 1).chain(updated).sum::<i64>()
        };
        assert_eq!(Over::Inserts.expected(&table, 13, sum), Totals { rows: 2, sum: all(13) });
        assert_eq!(Over::Upserts.expected(&table, 0, sum), Totals { rows: 2, sum: all(0) });
    }
}
