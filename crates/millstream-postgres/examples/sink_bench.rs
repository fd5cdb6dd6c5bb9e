//! Rows a second of the sink beside a bare COPY of the same rows in the same run, and the time of one-row batches beside
//! a hand-written INSERT.
//!
//! ```sh
//! URL=$(tests/services/postgres.sh start)
//! cargo run --release -p millstream-postgres --example sink_bench -- "$URL" [rows a batch] [batches]
//! ```
//!
//! The bare COPY sends bytes that the server itself made, one transaction a batch: it pays for no encoding and keeps no
//! marker.

use std::io::Cursor;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    ArrayRef, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use futures::{SinkExt, TryStreamExt};
use millstream_core::batch::BatchId;
use millstream_core::digest::Digest;
use millstream_core::sink::{Marker, Output, OutputKind, Owner, Permit, Sink};
use millstream_io::TableSpec;
use tokio_postgres::{Client, NoTls};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What follows the columns of a table with a key, as the sink creates it.
const KEY: &str = ", PRIMARY KEY (id)) WITH (fillfactor = 70)";

const COLUMNS: &str = "id bigint NOT NULL, name text, amount numeric(10,2), at timestamp, x double precision";

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("name", DataType::Utf8, true),
        Field::new("amount", DataType::Decimal128(10, 2), true),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("x", DataType::Float64, true),
    ]))
}

fn rows(first: i64, count: i64) -> Result<RecordBatch, Failure> {
    let ids = first..first + count;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(ids.clone())),
        Arc::new(StringArray::from_iter_values(ids.clone().map(|n| format!("customer number {n}")))),
        Arc::new(
            Decimal128Array::from_iter_values(ids.clone().map(|n| i128::from(n % 1_000_000)))
                .with_precision_and_scale(10, 2)?,
        ),
        Arc::new(TimestampMicrosecondArray::from_iter_values(ids.clone().map(|n| 1_767_225_600_000_000 + n * 1000))),
        Arc::new(Float64Array::from_iter_values(ids.map(|n| n as f64 / 3.0))),
    ];
    Ok(RecordBatch::try_new(schema(), columns)?)
}

struct Bench {
    url: String,
    client: Client,
    rows: i64,
    batches: i64,
}

struct Publisher {
    sink: Box<dyn Sink>,
    owner: Owner,
    last: Option<BatchId>,
}

impl Publisher {
    async fn publish(&mut self, batch: RecordBatch) -> Result<Duration, Failure> {
        let n = self.last.unwrap_or_default().next();
        let output = Output { schema: schema(), kind: OutputKind::Append, batches: vec![batch] };
        let marker = Marker { owner: self.owner.clone(), batch: n, digest: Digest::of(&output.batches)? };
        let permit = Permit::unchecked(marker, self.last);
        let begun = Instant::now();
        self.sink.publish(&permit, &output).await?;
        self.last = Some(n);
        Ok(begun.elapsed())
    }
}

impl Bench {
    async fn table(&self, name: &str, key: &str) -> Result<(), Failure> {
        self.client
            .batch_execute(&format!("DROP TABLE IF EXISTS {name}; CREATE TABLE {name} ({COLUMNS}{key}; CHECKPOINT"))
            .await?;
        Ok(())
    }

    async fn sink(&self, table: &str, key: &[&str]) -> Result<Publisher, Failure> {
        let options = [("connector", "postgres"), ("url", self.url.as_str()), ("table-name", table)];
        let spec = TableSpec {
            name: table.into(),
            schema: schema(),
            options: options.into_iter().collect(),
            partitioned_by: vec![],
            primary_key: key.iter().map(|k| (*k).to_string()).collect(),
            base_dir: ".".into(),
        };
        let mut sink = millstream_postgres::sink(&spec, "bench", OutputKind::Append, schema())?;
        self.client.batch_execute("DROP TABLE IF EXISTS millstream_markers").await?;
        let owner = Owner { query: "bench".into(), incarnation: "bench".into(), epoch: 1 };
        sink.open(&owner).await?;
        Ok(Publisher { sink, owner, last: None })
    }

    /// Rows a second of the sink.
    async fn published(&self, publisher: &mut Publisher) -> Result<f64, Failure> {
        let mut took = Duration::ZERO;
        for n in 0..self.batches {
            took += publisher.publish(rows(n * self.rows, self.rows)?).await?;
        }
        Ok((self.rows * self.batches) as f64 / took.as_secs_f64())
    }

    /// Rows a second of a bare COPY.
    async fn copied(&self, table: &str, from: &str) -> Result<f64, Failure> {
        let mut took = Duration::ZERO;
        for n in 0..self.batches {
            let (first, end) = (n * self.rows, (n + 1) * self.rows);
            let select = format!(
                "COPY (SELECT * FROM {from} WHERE id >= {first} AND id < {end} ORDER BY id) TO STDOUT (FORMAT binary)"
            );
            let pieces: Vec<_> = self.client.copy_out(&select).await?.try_collect().await?;
            let bytes = pieces.concat();
            let begun = Instant::now();
            let mut sink = pin!(
                self.client.copy_in::<_, Cursor<Vec<u8>>>(&format!("COPY {table} FROM STDIN (FORMAT binary)")).await?
            );
            for piece in bytes.chunks(128 << 10) {
                sink.send(Cursor::new(piece.to_vec())).await?;
            }
            sink.as_mut().finish().await?;
            took += begun.elapsed();
        }
        Ok((self.rows * self.batches) as f64 / took.as_secs_f64())
    }
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: usize| times.get(times.len() * share / 100).map_or(0.0, |time| time.as_secs_f64() * 1e3);
    format!("p50 {:.2} ms, p99 {:.2} ms", at(50), at(99))
}

async fn one_row(bench: &Bench, key: &[&str], text: &str) -> Result<(), Failure> {
    const TIMES: i64 = 500;
    bench.table("bench_one", if key.is_empty() { ")" } else { KEY }).await?;
    let mut publisher = bench.sink("bench_one", key).await?;
    let mut times = Vec::new();
    for n in 0..TIMES {
        times.push(publisher.publish(rows(n, 1)?).await?);
    }
    println!("one row, {text:<28} {}", percentiles(times));
    let insert = bench.client.prepare("INSERT INTO bench_one (id, name, x) VALUES ($1, $2, $3)").await?;
    let mut times = Vec::new();
    for n in TIMES..2 * TIMES {
        let begun = Instant::now();
        bench.client.execute(&insert, &[&n, &format!("customer number {n}"), &0.5f64]).await?;
        times.push(begun.elapsed());
    }
    println!("one row, {:<28} {}", "bare prepared INSERT", percentiles(times));
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("the URL of a server is missing")?;
    let mut number = |default: i64| arguments.next().map_or(Ok(default), |text| text.parse());
    let (rows, batches) = (number(65_536)?, number(8)?);
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    let bench = Bench { url, client, rows, batches };
    let build = if cfg!(debug_assertions) { "dev" } else { "release" };
    println!("{build} build, {batches} batches of {rows} rows of 5 columns; rows/s");

    bench.table("bench_append", ")").await?;
    let append = bench.published(&mut bench.sink("bench_append", &[]).await?).await?;
    bench.table("bench_copy", ")").await?;
    let copy = bench.copied("bench_copy", "bench_append").await?;
    println!("append: sink {append:.0}, bare COPY {copy:.0}: {:.2}", append / copy);

    bench.table("bench_upsert", KEY).await?;
    let mut publisher = bench.sink("bench_upsert", &["id"]).await?;
    let fresh = bench.published(&mut publisher).await?;
    let again = bench.published(&mut publisher).await?;
    bench.table("bench_copy", KEY).await?;
    let copy = bench.copied("bench_copy", "bench_append").await?;
    println!("upsert of new keys: sink {fresh:.0}, bare COPY into a table with a key {copy:.0}: {:.2}", fresh / copy);
    println!("upsert of known keys: sink {again:.0}: {:.2}", again / copy);

    one_row(&bench, &[], "appended by the sink").await?;
    one_row(&bench, &["id"], "upserted by the sink").await?;
    bench.client.batch_execute("DROP TABLE bench_append, bench_copy, bench_upsert, bench_one").await?;
    Ok(())
}
