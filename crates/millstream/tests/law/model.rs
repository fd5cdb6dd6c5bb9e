//! Which rows are late, and when two answers are the same: written without a look at the engine.

use std::collections::BTreeMap;

use crate::data::Row;
use crate::queries::Late;

/// The declared delay of the watermark.
pub const DELAY_MS: i64 = 5_000;

/// The rows that take part, by partition, and how many do not.
///
/// A row is late when its earliest window had closed by the watermark of its own partition before it; or, for
/// queries that close a row's own time, when it is behind that watermark.
pub fn split(partitions: &[Vec<Row>], rule: Late) -> (Vec<Vec<Row>>, u64) {
    let mut late = 0;
    let accepted = partitions.iter().map(|rows| {
        let mut watermark = i64::MIN;
        let mut kept = vec![];
        for row in rows {
            let is_late = match rule {
                Late::Never => false,
                Late::Window(window) => window.first_end(row.ts_ms) <= watermark,
                Late::OwnTime => row.ts_ms < watermark,
                Late::Instant => row.ts_ms <= watermark,
            };
            if is_late {
                late += 1;
            } else {
                kept.push(row.clone());
            }
            watermark = watermark.max(row.ts_ms - DELAY_MS);
        }
        kept
    });
    (accepted.collect(), late)
}

/// Rows as text, with how often each is in the answer.
pub type Rows = BTreeMap<String, i64>;

/// How two answers differ, if they do.
pub fn difference(expected: &Rows, found: &Rows) -> Option<String> {
    let mut lines = vec![];
    for row in expected.keys().chain(found.keys()).collect::<std::collections::BTreeSet<_>>() {
        let (e, f) = (expected.get(row).copied().unwrap_or(0), found.get(row).copied().unwrap_or(0));
        if e != f {
            lines.push(format!("  {row}: in batch {e} times, streamed {f} times"));
        }
    }
    (!lines.is_empty()).then(|| lines.join("\n"))
}
