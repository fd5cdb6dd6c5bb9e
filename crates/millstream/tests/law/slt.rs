//! A case as an `.slt` file: its tables, its rows with those that are late, its query, and what it answers in batch.

use std::fmt::Write as _;

use crate::case::Case;
use crate::data::{Kind, Row, SQL};
use crate::model::{DELAY_MS, late};
use crate::stream::{Prepared, floats};
use crate::yardstick::{Floats, answer};

/// The text of the file.
pub async fn file(case: &Case) -> String {
    let Case { query, input, life } = case;
    let mut text = format!("# {life:?}\n");
    for (name, partitions, kind) in [("t", &input.partitions, query.kinds[0]), ("u", &input.others, query.kinds[1])] {
        let delay = DELAY_MS / 1000;
        let watermark = format!("WATERMARK FOR ts AS ts - INTERVAL '{delay}' SECOND{}", kind.constraint());
        let format = if kind == Kind::Rows { "" } else { " WITH ('format' = 'debezium-json')" };
        write!(text, "\nstatement ok\nCREATE TABLE {name} ({SQL}, {watermark}){format}\n").unwrap();
        for rows in partitions.iter().filter(|rows| !rows.is_empty()) {
            let lines =
                rows.iter().zip(late(rows, query.late)).map(|(row, late)| format!("  {}", values(row, late, kind)));
            let lines: Vec<_> = lines.collect();
            let op = if kind == Kind::Rows { "" } else { ", op" };
            write!(text, "\nstatement ok\nINSERT INTO {name} (k, n, x, d, b, l, ts, late{op}) VALUES\n").unwrap();
            writeln!(text, "{}", lines.join(",\n")).unwrap();
        }
    }
    let (accepted, _) = input.split(query.late);
    write!(text, "\nquery ? rowsort\n{}\n----\n", query.sql).unwrap();
    let shown = if floats(query) == Floats::Rounded { Floats::Shown } else { floats(query) };
    let answered = async { Prepared::new(query).await?.in_batch_as(accepted.tables(), shown).await };
    match answered.await {
        Ok(rows) => answer::lines(&rows).unwrap().iter().for_each(|row| writeln!(text, "{}", row.join(" ")).unwrap()),
        Err(error) => writeln!(text, "the batch answer failed: {error}").unwrap(),
    }
    text
}

fn values(row: &Row, late: bool, kind: Kind) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let cells = [
        row.k.map(quoted),
        row.n.map(|n| n.to_string()),
        row.x.map(number),
        row.d.map(|d| format!("{}{}.{:02}", if d < 0 { "-" } else { "" }, d.abs() / 100, d.abs() % 100)),
        row.b.map(|b| b.to_string()),
        row.l.as_ref().map(|l| {
            let elements: Vec<_> = l.iter().map(|e| e.map_or("NULL".to_string(), |e| e.to_string())).collect();
            format!("ARRAY[{}]", elements.join(", "))
        }),
        chrono::DateTime::from_timestamp_millis(row.ts_ms).map(|at| at.format("'%Y-%m-%d %H:%M:%S%.3f'").to_string()),
        Some(late.to_string()),
    ];
    let op = (kind != Kind::Rows).then(|| Some(if row.goes { "'-D'" } else { "'+I'" }.to_string()));
    let cells: Vec<_> = cells.into_iter().chain(op).map(|cell| cell.unwrap_or_else(|| "NULL".to_string())).collect();
    format!("({})", cells.join(", "))
}

/// A DOUBLE as it is written in JSON; the values that JSON lacks are texts there.
fn number(x: f64) -> String {
    match x {
        x if x.is_nan() => "'NaN'".to_string(),
        x if x.is_infinite() => format!("'{}Infinity'", if x < 0.0 { "-" } else { "" }),
        x => format!("{x:?}"),
    }
}
