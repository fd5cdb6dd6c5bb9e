//! Which rows are late: written without a look at the engine.

use crate::data::Row;
use crate::queries::Late;

/// The declared delay of the watermark.
pub const DELAY_MS: i64 = 5_000;

/// Which rows of a partition are late.
///
/// A row is late when its earliest window had closed by the watermark of its own partition before it; or, for
/// queries that close a row's own time, when it is behind that watermark.
pub fn late(rows: &[Row], rule: Late) -> Vec<bool> {
    let mut watermark = i64::MIN;
    let judged = rows.iter().map(|row| {
        let is_late = match rule {
            Late::Never => false,
            Late::Window(window) => window.first_end(row.ts_ms) <= watermark,
            Late::OwnTime => row.ts_ms < watermark,
            Late::Instant => row.ts_ms <= watermark,
        };
        watermark = watermark.max(row.ts_ms - DELAY_MS);
        is_late
    });
    judged.collect()
}

/// The rows that take part, by partition, and how many do not.
pub fn split(partitions: &[Vec<Row>], rule: Late) -> (Vec<Vec<Row>>, u64) {
    let mut left_out = 0;
    let accepted = partitions.iter().map(|rows| {
        let judged = late(rows, rule);
        left_out += judged.iter().filter(|late| **late).count() as u64;
        rows.iter().zip(judged).filter(|(_, late)| !late).map(|(row, _)| row.clone()).collect()
    });
    (accepted.collect(), left_out)
}
