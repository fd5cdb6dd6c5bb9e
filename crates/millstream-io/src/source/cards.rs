//! The stream of the demonstration: card transactions as lines of JSON, some of them bad on purpose.
//!
//! The columns are [`schema`]. A line is a function of seed and number, and is decoded by the JSON format
//! like any other, so that a malformed one is rejected with its place and text.
//!
//! | option | |
//! |---|---|
//! | `rows-per-second` | as the wall clock goes; default 1000, 0 for as fast as can be |
//! | `number-of-rows` | default: no end |
//! | `time-scale` | seconds of event time in a second of the wall clock; default 1 |
//! | `cards` | default: so many that each is used about once in a minute of event time |
//! | `seed`, `partitions` | default 0 and 1 |
//!
//! What a query can find: event time advances evenly from 2026-01-01 00:00:00, most rows lie up to two
//! seconds behind it. About every half minute of event time a card is stolen: it pays 12 small sums within
//! some fifteen seconds, or 3 sums of 2,000 to 5,000. One row in a thousand is 3 to 10 minutes late, one in
//! a thousand is malformed in one of six ways.

use std::io::Write;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use chrono::{DateTime, Datelike, Timelike};
use millstream_core::format::Format;
use millstream_core::source::{Chunk, SourceTable};
use millstream_core::{Error, Result};

use super::generated::{GeneratedTable, Generator, Numbered, Supply};
use super::random::Random;
use crate::TableSpec;
use crate::format::json::JsonFormat;

/// 2026-01-01 00:00:00 UTC, in milliseconds.
const START_MS: i64 = 1_767_225_600_000;

/// Most rows lie behind the advancing time by less than this.
const DISORDER_MS: u64 = 2_000;

const LATE: f64 = 0.001;
const MALFORMED: f64 = 0.001;
const ABROAD: f64 = 0.03;

/// Transactions of a stolen card: many small ones, or a few large ones.
const MANY: u64 = 12;
const FEW: u64 = 3;

const RATE_DEFAULT: f64 = 1000.0;

const MERCHANTS: [&str; 16] = [
    "Corner Bakery",
    "City Transport",
    "Green Grocer",
    "Bookshop on Main",
    "Night Pharmacy",
    "Fuel Stop 24",
    "Cinema Lux",
    "Noodle House",
    "Garden Centre",
    "Shoe Repair",
    "Online Music",
    "Coffee & Co",
    "Hardware Depot",
    "Pet Supplies",
    "Taxi Central",
    "Hotel Harbour",
];

const COUNTRIES: [&str; 10] = ["DE", "FR", "GB", "IT", "ES", "NL", "PL", "SE", "US", "JP"];

/// The columns: `tx_id BIGINT, card VARCHAR, merchant VARCHAR, amount DECIMAL(10,2), country VARCHAR,
/// ts TIMESTAMP(3)`.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("tx_id", DataType::Int64, true),
        Field::new("card", DataType::Utf8, true),
        Field::new("merchant", DataType::Utf8, true),
        Field::new("amount", DataType::Decimal128(10, 2), true),
        Field::new("country", DataType::Utf8, true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Millisecond, None), true),
    ]))
}

/// The table that the options describe. Its columns are declared like those of any JSON table.
pub(super) fn table(spec: &TableSpec) -> Result<Arc<dyn SourceTable>> {
    let options = &spec.options;
    let supply = Supply::of(options, RATE_DEFAULT)?;
    let scale = options.parsed::<f64>("time-scale")?.unwrap_or(1.0);
    if !(scale > 0.0 && scale.is_finite()) {
        return Err(Error::config("the option 'time-scale' is a number above 0"));
    }
    let step_ms = 1000.0 * scale / supply.rows_per_second.unwrap_or(RATE_DEFAULT);
    let cards = options.parsed::<u64>("cards")?.unwrap_or(((60_000.0 / step_ms) as u64).clamp(100, 1_000_000));
    options.one_of("format", &[("json", ())])?;
    let lines = Lines {
        seed: options.parsed("seed")?.unwrap_or(0),
        cards: cards.max(1),
        step_ms,
        block: ((30_000.0 / step_ms) as u64).max(4 * MANY),
    };
    let format = JsonFormat::new(options, &spec.schema)?;
    Ok(Arc::new(GeneratedTable::new(Cards { lines, schema: spec.schema.clone(), format }, supply)))
}

#[derive(Debug)]
struct Cards {
    lines: Lines,
    schema: SchemaRef,
    format: JsonFormat,
}

impl Generator for Cards {
    fn identity(&self) -> String {
        format!("{:?}", self.lines)
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn row_bytes(&self) -> u64 {
        128
    }

    fn rows(&self, _: &[usize], schema: &SchemaRef, rows: &[Numbered]) -> Result<Chunk> {
        let mut decoder = self.format.decoder(schema.clone())?;
        let mut line = Vec::with_capacity(256);
        for row in rows {
            line.clear();
            self.lines.write(row.number, &mut line);
            decoder.push(&line, row.place);
        }
        decoder.finish()
    }
}

/// The lines of JSON.
#[derive(Debug)]
struct Lines {
    seed: u64,
    cards: u64,
    /// Event time between two rows.
    step_ms: f64,
    /// Within so many rows one card is stolen.
    block: u64,
}

struct Transaction {
    card: u64,
    merchant: &'static str,
    cents: u64,
    country: &'static str,
    time_ms: i64,
}

/// What the random numbers are used for.
mod lane {
    pub(super) const ORDINARY: u64 = 0;
    pub(super) const TIME: u64 = 1;
    pub(super) const THEFT: u64 = 2;
    pub(super) const HOME: u64 = 3;
    pub(super) const FAULT: u64 = 4;
}

impl Lines {
    fn write(&self, number: u64, line: &mut Vec<u8>) {
        let transaction = self.stolen(number).unwrap_or_else(|| self.ordinary(number));
        let mut fault = Random::new(self.seed, number, lane::FAULT);
        if fault.chance(MALFORMED) {
            write_malformed(number, &transaction, fault.below(6), line);
        } else {
            write_line(number, &transaction, &amount(transaction.cents), line);
        }
    }

    fn time_ms(&self, number: u64) -> i64 {
        let mut random = Random::new(self.seed, number, lane::TIME);
        let even = START_MS.saturating_add((number as f64 * self.step_ms) as i64);
        let behind = if random.chance(LATE) { 180_000 + random.below(420_000) } else { random.below(DISORDER_MS) };
        even - behind as i64
    }

    fn ordinary(&self, number: u64) -> Transaction {
        let mut random = Random::new(self.seed, number, lane::ORDINARY);
        let card = random.below(self.cards);
        let home = Random::new(self.seed, card, lane::HOME).pick(&COUNTRIES);
        let country = if random.chance(ABROAD) { random.pick(&COUNTRIES) } else { home };
        // Between 2 and 200, small sums more often than large ones.
        let cents = (200.0 * 100f64.powf(random.unit())) as u64;
        Transaction { card, merchant: random.pick(&MERCHANTS), cents, country, time_ms: self.time_ms(number) }
    }

    /// The row as one of the thief's, where it is one.
    fn stolen(&self, number: u64) -> Option<Transaction> {
        let mut random = Random::new(self.seed, number / self.block, lane::THEFT);
        let card = random.below(self.cards);
        let large = random.chance(0.4);
        let gap = (self.block / (2 * MANY)).max(1);
        let first = random.below(self.block - MANY * gap);
        let since = (number % self.block).checked_sub(first).filter(|since| since % gap == 0)?;
        let times = if large { FEW } else { MANY };
        if since / gap >= times {
            return None;
        }
        let country = random.pick(&COUNTRIES);
        let mut each = Random::new(self.seed, number, lane::ORDINARY);
        let cents = if large { 200_000 + each.below(300_000) } else { 100 + each.below(1900) };
        Some(Transaction { card, merchant: each.pick(&MERCHANTS), cents, country, time_ms: self.time_ms(number) })
    }
}

fn amount(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

fn write_line(number: u64, t: &Transaction, amount: &str, line: &mut Vec<u8>) {
    // Writing to memory does not fail.
    let _ = write!(
        line,
        r#"{{"tx_id":{number},"card":"{}","merchant":"{}","amount":{amount},"country":"{}","ts":"{}"}}"#,
        Card(t.card),
        t.merchant,
        t.country,
        Time(t.time_ms)
    );
}

fn write_malformed(number: u64, t: &Transaction, kind: u64, line: &mut Vec<u8>) {
    match kind {
        0 => {
            write_line(number, t, &amount(t.cents), line);
            line.truncate(line.len() / 2);
        }
        1 => write_line(number, t, "\"n/a\"", line),
        2 => write_line(number, t, "123456789012.00", line),
        3 => line.extend_from_slice(b"### terminal restarted ###"),
        4 => {
            write_line(number, t, &amount(t.cents), line);
            if let Some(at) = memchr::memmem::find(line, b"merchant\":\"")
                && let Some(byte) = line.get_mut(at + 12)
            {
                *byte = 0xff;
            }
        }
        _ => {
            let _ = write!(line, r#"{{"tx_id":{number},"card":"{}","amount":{}}}"#, Card(t.card), amount(t.cents));
        }
    }
}

struct Card(u64);

impl std::fmt::Display for Card {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let n = self.0;
        write!(f, "4000-{:04}-{:04}-{:04}", n / 100_000_000 % 10_000, n / 10_000 % 10_000, n % 10_000)
    }
}

struct Time(i64);

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let t = DateTime::from_timestamp_millis(self.0).unwrap_or_default();
        let ms = t.timestamp_subsec_millis();
        let (h, m, s) = (t.hour(), t.minute(), t.second());
        write!(f, "{:04}-{:02}-{:02} {h:02}:{m:02}:{s:02}.{ms:03}", t.year(), t.month(), t.day())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::array::AsArray;
    use arrow::datatypes::{Decimal128Type, TimestampMillisecondType};
    use millstream_testkit::conformance;

    use super::super::generated::tests::read;
    use super::*;
    use crate::Options;

    fn cards(options: &[(&str, &str)]) -> Arc<dyn SourceTable> {
        let options: Options = options.iter().copied().collect();
        let base_dir = Default::default();
        let (partitioned_by, primary_key) = (vec![], vec![]);
        table(&TableSpec { name: "tx".into(), schema: schema(), options, partitioned_by, primary_key, base_dir })
            .unwrap()
    }

    #[tokio::test]
    async fn the_stream_keeps_the_promises_of_a_source() {
        let options = [("number-of-rows", "400"), ("rows-per-second", "0"), ("partitions", "2"), ("seed", "3")];
        conformance::source::check(|| cards(&options).source(&[0, 1, 2, 3, 4, 5]), Default::default()).await.unwrap();
    }

    #[tokio::test]
    async fn thefts_late_rows_and_every_kind_of_malformed_line_can_be_found() {
        let chunks =
            read(&*cards(&[("number-of-rows", "120000"), ("rows-per-second", "0"), ("time-scale", "10")]), &[1, 3, 5])
                .await;
        let rejected: Vec<_> = chunks.iter().flat_map(|c| &c.rejected).collect();
        assert!((60..200).contains(&rejected.len()), "{} malformed", rejected.len());
        let reasons: std::collections::BTreeSet<_> = rejected.iter().map(|r| r.reason.clone()).collect();
        assert!(reasons.len() >= 4, "{reasons:?}");
        let mut newest = i64::MIN;
        let (mut late, mut disorder) = (0, 0);
        let mut minutes: BTreeMap<(String, i64), (u64, i128)> = BTreeMap::new();
        for chunk in &chunks {
            let columns = (chunk.rows.column(0).as_string::<i32>(), chunk.rows.column(1), chunk.rows.column(2));
            let amounts = columns.1.as_primitive::<Decimal128Type>();
            let times = columns.2.as_primitive::<TimestampMillisecondType>();
            for (i, time) in times.iter().enumerate() {
                let Some(time) = time else { continue };
                newest = newest.max(time);
                late += u64::from(time < newest - 60_000);
                disorder += u64::from(time < newest);
                let minute = minutes.entry((columns.0.value(i).into(), time / 30_000)).or_default();
                *minute = (minute.0 + 1, minute.1 + amounts.value(i));
            }
        }
        assert!((60..200).contains(&late), "{late} late");
        assert!(disorder > 50_000);
        let many = minutes.values().filter(|(count, _)| *count >= 8).count();
        let large = minutes.values().filter(|(_, sum)| *sum >= 350_000).count();
        assert!((8..25).contains(&many) && (8..25).contains(&large), "{many} with many, {large} with a large sum");
    }

    #[test]
    fn a_card_and_a_time_are_written_as_people_write_them() {
        assert_eq!(Card(42).to_string(), "4000-0000-0000-0042");
        assert_eq!(Time(START_MS + 1_234).to_string(), "2026-01-01 00:00:01.234");
    }
}
