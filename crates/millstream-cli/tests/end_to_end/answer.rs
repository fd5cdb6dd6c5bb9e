//! The batch answer: what plain DataFusion says over the records that were committed, and which of them take part,
//! worked out here without the engine.

use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::prelude::SessionContext;
use serde_json::Value;

use crate::broker::Seen;

/// What the tables declare: `WATERMARK FOR ts AS ts - INTERVAL '2' SECOND`.
const DELAY_MS: i64 = 2_000;

/// A record of either topic that can be read.
#[derive(Clone, Debug)]
struct Row {
    partition: i32,
    offset: i64,
    id: String,
    card: String,
    /// Of a payment: the amount; of a login: the device.
    rest: String,
    ms: i64,
}

/// The records of one topic, as one query sees them.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    used: Vec<Row>,
    late: Vec<Row>,
    rejected: Vec<String>,
    /// The smallest of the partitions' watermarks.
    frontier_ms: i64,
}

/// When a query finds a row late.
#[derive(Clone, Copy, Debug)]
pub enum Late {
    Never,
    /// When the watermark has reached its own time.
    Own,
    /// When the watermark has passed its own time.
    Passed,
    /// When the watermark has passed the end of its window of so many milliseconds.
    Window(i64),
}

impl Judged {
    pub fn of(records: &[Seen], late: Late) -> Self {
        let mut judged = Self { frontier_ms: i64::MAX, ..Self::default() };
        let mut partitions: Vec<i32> = records.iter().map(|r| r.partition).collect();
        partitions.dedup();
        for partition in partitions {
            let mut watermark_ms = i64::MIN;
            for record in records.iter().filter(|r| r.partition == partition) {
                let Some(row) = parse(record) else {
                    judged.rejected.push(record.value().to_string());
                    continue;
                };
                let ms = row.ms;
                let bound = match late {
                    Late::Never => i64::MAX,
                    Late::Own => ms,
                    Late::Passed => ms + 1,
                    Late::Window(size) => (ms.div_euclid(size) + 1) * size,
                };
                let rows = if bound <= watermark_ms { &mut judged.late } else { &mut judged.used };
                rows.push(row);
                watermark_ms = watermark_ms.max(ms - DELAY_MS);
            }
            judged.frontier_ms = judged.frontier_ms.min(watermark_ms);
        }
        judged
    }

    /// Up to where everything is final, in milliseconds.
    pub fn frontier_ms(&self) -> i64 {
        self.frontier_ms
    }

    /// Read, used, rejected, late.
    pub fn account(&self) -> [u64; 4] {
        let [used, rejected, late] = [self.used.len(), self.rejected.len(), self.late.len()].map(|n| n as u64);
        [used + rejected + late, used, rejected, late]
    }

    pub fn rejected(&self) -> Vec<String> {
        self.rejected.clone()
    }

    /// The places of the late rows.
    pub fn late(&self) -> Vec<String> {
        self.late.iter().map(|row| format!("{}|{}|{}", row.partition, row.offset, row.id)).collect()
    }

    fn table(&self) -> RecordBatch {
        let text = |of: fn(&Row) -> &str| Arc::new(StringArray::from_iter_values(self.used.iter().map(of))) as ArrayRef;
        // A payment's amount in cents; 0 of a login, whose rest is no number.
        let cents = |row: &Row| row.rest.replace('.', "").parse().unwrap_or(0);
        let amounts = Decimal128Array::from_iter_values(self.used.iter().map(cents));
        let amounts = amounts.with_precision_and_scale(12, 2).unwrap();
        let partitions = Int32Array::from_iter_values(self.used.iter().map(|row| row.partition));
        let times = Int64Array::from_iter_values(self.used.iter().map(|row| row.ms));
        RecordBatch::try_from_iter([
            ("partition", Arc::new(partitions) as ArrayRef),
            ("id", text(|row| &row.id)),
            ("card", text(|row| &row.card)),
            ("device", text(|row| &row.rest)),
            ("amount", Arc::new(amounts)),
            ("ms", Arc::new(times)),
        ])
        .unwrap()
    }
}

fn parse(record: &Seen) -> Option<Row> {
    let value: Value = serde_json::from_str(record.value()).ok()?;
    let text = |name: &str| value[name].as_str().map(str::to_string);
    // As it is written, digit for digit.
    let amount = || record.value().split("\"amount\":").nth(1)?.split(',').next().map(str::to_string);
    let time = chrono::NaiveDateTime::parse_from_str(value["ts"].as_str()?, "%Y-%m-%dT%H:%M:%S%.f").ok()?;
    Some(Row {
        partition: record.partition,
        offset: record.offset,
        id: text("id")?,
        card: text("card")?,
        rest: text("device").or_else(amount)?,
        ms: time.and_utc().timestamp_millis(),
    })
}

/// Tables and the answers of plain DataFusion over them.
pub struct Batch {
    context: SessionContext,
}

impl Batch {
    pub fn new(tables: &[(&str, &Judged)]) -> Self {
        let context = SessionContext::new();
        for (name, rows) in tables {
            context.register_batch(*name, rows.table()).unwrap();
        }
        Self { context }
    }

    /// The rows of the answer, sorted, with `~` for NULL.
    pub fn rows(&self, sql: &str) -> Vec<String> {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let collect = async { self.context.sql(sql).await.unwrap().collect().await.unwrap() };
        let batches = runtime.block_on(collect);
        let options = FormatOptions::default().with_null("~");
        let mut rows = vec![];
        for batch in &batches {
            let cells: Vec<_> =
                batch.columns().iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options).unwrap()).collect();
            let row = |n: usize| cells.iter().map(|c| c.value(n).to_string()).collect::<Vec<_>>().join("|");
            rows.extend((0..batch.num_rows()).map(row));
        }
        rows.sort();
        rows
    }
}
