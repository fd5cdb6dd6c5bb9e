//! Answers as text: a row is its cells, an answer how often each row is in it.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// Rows as text, with how often each is in the answer.
pub type Rows = BTreeMap<Vec<String>, i64>;

/// How DOUBLEs are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Floats {
    /// To the last digit.
    Exactly,
    /// To the seventh decimal: sums follow the cut in the last digits.
    Rounded,
    /// To twelve digits, and as a person writes them.
    Shown,
}

/// How two answers differ, if they do.
pub fn difference(expected: &Rows, found: &Rows) -> Option<String> {
    let mut lines = vec![];
    for row in expected.keys().chain(found.keys()).collect::<BTreeSet<_>>() {
        let (e, f) = (expected.get(row).copied().unwrap_or(0), found.get(row).copied().unwrap_or(0));
        if e != f {
            lines.push(format!("  {}: in batch {e} times, streamed {f} times", row.join(" | ")));
        }
    }
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// Every row as often as it is there, in order: as an `.slt` file has them.
///
/// # Errors
/// The row that was taken back more often than it came.
pub fn lines(rows: &Rows) -> Result<Vec<Vec<String>>, String> {
    let mut lines = vec![];
    for (row, times) in rows {
        let times = usize::try_from(*times).map_err(|_| format!("({}) is there {times} times", row.join(", ")))?;
        let cells = row.iter().map(|cell| match cell.as_str() {
            "" => "(empty)".to_string(),
            cell => cell.replace('\n', "\\n"),
        });
        lines.extend(std::iter::repeat_n(cells.collect(), times));
    }
    lines.sort_unstable();
    Ok(lines)
}

/// Adds rows to an answer, each with its weight.
pub fn add(rows: &mut Rows, batch: &RecordBatch, floats: Floats, weights: Option<&ArrayRef>) {
    let options = FormatOptions::default().with_null("NULL");
    let cells: Vec<_> = batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
    for row in 0..batch.num_rows() {
        let line = batch.columns().iter().zip(&cells).map(|(column, cell)| match column.data_type() {
            DataType::Float64 if column.is_valid(row) => {
                shown(column.as_primitive::<Float64Type>().value(row), 12, floats)
            }
            DataType::Float32 if column.is_valid(row) && floats == Floats::Shown => {
                shown(column.as_primitive::<Float32Type>().value(row).into(), 6, floats)
            }
            _ => cell.value(row).to_string(),
        });
        let weight = weights.map_or(1, |w| w.as_primitive::<Int64Type>().value(row));
        *rows.entry(line.collect()).or_default() += weight;
    }
}

fn shown(value: f64, digits: usize, floats: Floats) -> String {
    // The sign of zero is not part of the answer: which zero came first depends on the cut.
    let value = if value == 0.0 { 0.0 } else { value };
    match floats {
        // A little aside, so that a sum of halves is not on the edge between two texts.
        Floats::Rounded if value.abs() < 1e9 => format!("{:.7}", value + 3e-9),
        Floats::Shown if value.is_finite() => {
            let rounded: f64 = format!("{value:.*e}", digits - 1).parse().unwrap();
            format!("{rounded:?}")
        }
        _ => format!("{value:?}"),
    }
}
