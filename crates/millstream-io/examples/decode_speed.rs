//! How fast records become rows: this crate beside arrow-json and a hand-written serde_json struct.
//!
//! Run with `cargo run -p millstream-io --example decode_speed --release`. Prints million records a second on
//! one thread (by its CPU time, where the system tells it), the best of five runs, for records like the bids of Nexmark (about 190 bytes, 7 fields).

// A measurement that can't be made has nothing to tell.
#![allow(clippy::expect_used)]

use std::borrow::Cow;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::builder::{Int64Builder, StringViewBuilder, TimestampMillisecondBuilder};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use millstream_core::batch::Place;
use millstream_io::Options;
use millstream_io::format::{encoder, format};

const RECORDS: usize = 500_000;
const CHUNK_ROWS: usize = 8192;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let compact = records(|n, seed| line(n, seed, ""));
    let spaced = records(|n, seed| line(n, seed, " "));
    let swapped = records(|n, seed| {
        let text = line(n, seed, "");
        // Every third record has its first two fields the other way round and an escape in a string.
        if n % 3 != 0 {
            text
        } else {
            text.replace("\"Apple\"", "\"App\\u006ce\"").replacen("{\"auction\"", "{\"b\":1,\"auction\"", 1)
        }
    });
    let bytes: usize = compact.iter().map(Vec::len).sum();
    println!("{RECORDS} records of {} bytes on average, one thread, best of 5", bytes / RECORDS);
    let all = schema(&["auction", "bidder", "price", "channel", "url", "date_time", "extra"]);
    let six = schema(&["auction", "bidder", "price", "channel", "url", "date_time"]);
    let three = schema(&["auction", "price", "date_time"]);
    measure("millstream json, 7 of 7 columns", || ours("json", &all, &all, &compact));
    measure("millstream json, 6 of 7 columns", || ours("json", &all, &six, &compact));
    measure("millstream json, 3 of 7 columns", || ours("json", &all, &three, &compact));
    measure("millstream json, 6 of 7, spaces after : and ,", || ours("json", &all, &six, &spaced));
    measure("millstream json, 6 of 7, a third is irregular", || ours("json", &all, &six, &swapped));
    measure("arrow-json, 6 of 7 columns", || arrow_json(&six, &compact));
    measure("arrow-json, 3 of 7 columns", || arrow_json(&three, &compact));
    measure("serde_json struct -> builders, 6 of 7 columns", || serde_struct(&compact));
    measure("serde_json struct only, no columns made", || serde_only(&compact));
    let rows = rows(&all, &compact)?;
    for (name, label) in [("json", "write json, 7 columns"), ("csv", "write csv, 7 columns")] {
        measure(label, || write(name, &rows).1);
    }
    let (csv, _) = write("csv", &rows);
    let csv: Vec<Vec<u8>> = csv.split(|byte| *byte == b'\n').filter(|l| !l.is_empty()).map(<[u8]>::to_vec).collect();
    measure("millstream csv, 7 of 7 columns", || ours("csv", &all, &all, &csv));
    measure("millstream csv, 3 of 7 columns", || ours("csv", &all, &three, &csv));
    Ok(())
}

fn schema(names: &[&str]) -> SchemaRef {
    let field = |name: &&str| match *name {
        "date_time" => Field::new(*name, DataType::Timestamp(TimeUnit::Millisecond, None), true),
        "channel" | "url" | "extra" => Field::new(*name, DataType::Utf8View, true),
        _ => Field::new(*name, DataType::Int64, true),
    };
    Arc::new(Schema::new(names.iter().map(field).collect::<Vec<_>>()))
}

fn records(line: impl Fn(u64, &mut u64) -> String) -> Vec<Vec<u8>> {
    let mut seed = 9;
    (0..RECORDS as u64).map(|n| line(n, &mut seed).into_bytes()).collect()
}

/// splitmix64
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn line(n: u64, seed: &mut u64, space: &str) -> String {
    let channel = ["Google", "Facebook", "Baidu", "Apple"][(next(seed) % 4) as usize];
    let (auction, bidder, price) = (next(seed) % 1000, next(seed) % 100_000, next(seed) % 10_000_000);
    let (second, milli) = (n / 1000 % 60, n % 1000);
    format!(
        "{{\"auction\":{space}{auction},{space}\"bidder\":{space}{bidder},{space}\"price\":{space}{price},{space}\
         \"channel\":{space}\"{channel}\",{space}\"url\":{space}\"https://www.nexmark.com/item.htm?query=1&channel_id={}\"\
         ,{space}\"date_time\":{space}\"2026-01-02 03:04:{second:02}.{milli:03}\",{space}\"extra\":{space}\"{:x}{:x}\"}}",
        next(seed) % 10_000,
        next(seed),
        next(seed)
    )
}

fn measure(name: &str, mut run: impl FnMut() -> usize) {
    let mut best = f64::MAX;
    for _ in 0..5 {
        let start = (cpu_seconds(), Instant::now());
        assert_eq!(run(), RECORDS, "{name}");
        let wall = start.1.elapsed().as_secs_f64();
        best = best.min(cpu_seconds().zip(start.0).map_or(wall, |(end, start)| end - start));
    }
    println!("{name:50} {:6.2} M/s  {:5.0} ns a record", RECORDS as f64 / best / 1e6, best * 1e9 / RECORDS as f64);
}

/// What this thread has run for, as Linux counts it.
fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse::<f64>().ok().map(|nanos| nanos / 1e9)
}

fn ours(name: &str, declared: &SchemaRef, wanted: &SchemaRef, records: &[Vec<u8>]) -> usize {
    let options: Options = [("format", name)].into_iter().collect();
    let format = format(&options, declared).expect("the format");
    let mut decoder = format.decoder(Arc::clone(wanted)).expect("a decoder");
    let mut rows = 0;
    for chunk in records.chunks(CHUNK_ROWS) {
        for record in chunk {
            decoder.push(record, Place { offset: 0, row: 1 });
        }
        rows += black_box(decoder.finish().expect("a chunk")).rows.num_rows();
    }
    rows
}

fn rows(schema: &SchemaRef, records: &[Vec<u8>]) -> Result<Vec<RecordBatch>, Box<dyn std::error::Error>> {
    let options: Options = [("format", "json")].into_iter().collect();
    let mut decoder = format(&options, schema)?.decoder(Arc::clone(schema))?;
    let mut batches = vec![];
    for chunk in records.chunks(CHUNK_ROWS) {
        for record in chunk {
            decoder.push(record, Place::default());
        }
        batches.push(decoder.finish()?.rows);
    }
    Ok(batches)
}

fn write(name: &str, rows: &[RecordBatch]) -> (Vec<u8>, usize) {
    let options: Options = [("format", name)].into_iter().collect();
    let mut out = Vec::with_capacity(RECORDS * 200);
    let mut written = 0;
    for batch in rows {
        let mut encoder = encoder(&options, &batch.schema()).expect("an encoder");
        encoder.encode(batch, &mut out).expect("rows that can be written");
        written += batch.num_rows();
    }
    (black_box(out), written)
}

fn arrow_json(schema: &SchemaRef, records: &[Vec<u8>]) -> usize {
    let builder = arrow::json::ReaderBuilder::new(Arc::clone(schema)).with_batch_size(CHUNK_ROWS);
    let mut decoder = builder.build_decoder().expect("a decoder");
    let mut rows = 0;
    for chunk in records.chunks(CHUNK_ROWS) {
        for record in chunk {
            decoder.decode(record).expect("JSON");
        }
        rows += decoder.flush().expect("a batch").map_or(0, |batch| black_box(batch).num_rows());
    }
    rows
}

#[derive(serde::Deserialize)]
struct Bid<'a> {
    auction: i64,
    bidder: i64,
    price: i64,
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    url: Cow<'a, str>,
    #[serde(borrow)]
    date_time: Cow<'a, str>,
}

fn serde_only(records: &[Vec<u8>]) -> usize {
    let bids = records.iter().map(|record| serde_json::from_slice::<Bid>(record).expect("a bid"));
    bids.filter(|bid| black_box(bid).auction >= 0).count()
}

fn serde_struct(records: &[Vec<u8>]) -> usize {
    let mut rows = 0;
    for chunk in records.chunks(CHUNK_ROWS) {
        let (mut auction, mut bidder, mut price) = (Int64Builder::new(), Int64Builder::new(), Int64Builder::new());
        let (mut channel, mut url) = (StringViewBuilder::new(), StringViewBuilder::new());
        let mut time = TimestampMillisecondBuilder::new();
        for record in chunk {
            let bid: Bid = serde_json::from_slice(record).expect("a bid");
            auction.append_value(bid.auction);
            bidder.append_value(bid.bidder);
            price.append_value(bid.price);
            channel.append_value(&bid.channel);
            url.append_value(&bid.url);
            let at = chrono::NaiveDateTime::parse_from_str(&bid.date_time, "%Y-%m-%d %H:%M:%S%.f").expect("a time");
            time.append_value(at.and_utc().timestamp_millis());
        }
        let columns: [ArrayRef; 6] = [
            Arc::new(auction.finish()),
            Arc::new(bidder.finish()),
            Arc::new(price.finish()),
            Arc::new(channel.finish()),
            Arc::new(url.finish()),
            Arc::new(time.finish()),
        ];
        rows += black_box(&columns)[0].len();
    }
    rows
}
