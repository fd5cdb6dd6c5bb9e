//! Rows a second of the PostgreSQL sink beside a bare COPY of the same rows in the same run, the server's CPU time a row of
//! both, and the time of one-row batches beside a hand-written INSERT.
//!
//! The bare COPY sends bytes that the server itself made, one transaction a batch: it pays for no encoding and keeps no
//! marker. The sink is called as the loop calls it, with rows that are there. Each time a key is known, its row has other
//! values than the one that is stored. An upsert written by hand stands beside: a COPY of such bytes into a temporary table,
//! and INSERT .. ON CONFLICT from there.

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

use crate::args::Settings;
use crate::service::Service;
use crate::stats::{median, percentile};
use crate::table::{Table, count};
use crate::{Result, Verdict};

/// What follows the columns of a table with a key, as the sink creates it.
const KEY: &str = ", PRIMARY KEY (id)) WITH (fillfactor = 50)";

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

/// Rows of these ids, with other values each time.
fn rows(ids: impl Iterator<Item = i64> + Clone, time: i64) -> Result<RecordBatch> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(ids.clone())),
        Arc::new(StringArray::from_iter_values(ids.clone().map(|n| format!("customer number {n}")))),
        Arc::new(
            Decimal128Array::from_iter_values(ids.clone().map(|n| i128::from((n + time) % 1_000_000)))
                .with_precision_and_scale(10, 2)?,
        ),
        Arc::new(TimestampMicrosecondArray::from_iter_values(
            ids.clone().map(|n| 1_767_225_600_000_000 + (n + time) * 1000),
        )),
        Arc::new(Float64Array::from_iter_values(ids.map(|n| (n + time) as f64 / 3.0))),
    ];
    Ok(RecordBatch::try_new(schema(), columns)?)
}

struct Bench {
    url: String,
    client: Client,
    rows: i64,
    batches: i64,
}

/// What it took to store all rows.
#[derive(Clone, Copy)]
struct Took {
    rows_s: f64,
    /// Of the server's process for the connection; nothing where it can't be asked, or runs elsewhere.
    cpu_us: Option<f64>,
}

/// Where the rows of a batch lie in the table.
#[derive(Clone, Copy)]
enum Keys {
    Close,
    Apart,
}

struct Publisher {
    sink: Box<dyn Sink>,
    owner: Owner,
    last: Option<BatchId>,
}

impl Publisher {
    async fn publish(&mut self, batch: RecordBatch) -> Result<Duration> {
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
    async fn table(&self, name: &str, key: &str) -> Result<()> {
        self.client
            .batch_execute(&format!("DROP TABLE IF EXISTS {name}; CREATE TABLE {name} ({COLUMNS}{key}; CHECKPOINT"))
            .await?;
        Ok(())
    }

    async fn sink(&self, table: &str, key: &[&str]) -> Result<Publisher> {
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

    /// Nanoseconds on a processor of the server's process for the sink's connection, or for this one.
    async fn server_ns(&self, of_sink: bool) -> Option<i64> {
        let whose = if of_sink { "application_name = 'millstream'" } else { "pid = pg_backend_pid()" };
        let ns = "split_part(pg_read_file('/proc/' || pid || '/schedstat'), ' ', 1)::bigint";
        // An earlier sink's may be on its way out.
        let sql = format!("SELECT {ns} FROM pg_stat_activity WHERE {whose} ORDER BY backend_start DESC LIMIT 1");
        self.client.query_one(&sql, &[]).await.ok()?.get(0)
    }

    fn took(&self, wall: Duration, cpu_ns: Option<i64>) -> Took {
        let rows = (self.rows * self.batches) as f64;
        Took { rows_s: rows / wall.as_secs_f64(), cpu_us: cpu_ns.map(|ns| ns as f64 / 1e3 / rows) }
    }

    /// Rows a second of the sink, whose batches are of neighbours, or of rows from everywhere in the table.
    async fn published(&self, publisher: &mut Publisher, keys: Keys, time: i64) -> Result<Took> {
        let mut took = Duration::ZERO;
        let before = self.server_ns(true).await;
        for n in 0..self.batches {
            let batch = match keys {
                Keys::Close => rows(n * self.rows..(n + 1) * self.rows, time)?,
                Keys::Apart => rows((0..self.rows).map(|row| row * self.batches + n), time)?,
            };
            took += publisher.publish(batch).await?;
        }
        Ok(self.took(took, since(before, self.server_ns(true).await)))
    }

    /// Rows a second of a bare COPY into a table; with more statements to run then, in its transaction.
    async fn copied(&self, table: &str, keys: Keys, then: Option<&str>) -> Result<Took> {
        let (mut took, mut cpu) = (Duration::ZERO, Some(0));
        for n in 0..self.batches {
            let ids = match keys {
                Keys::Close => format!("id >= {} AND id < {}", n * self.rows, (n + 1) * self.rows),
                Keys::Apart => format!("id % {} = {n}", self.batches),
            };
            let other = match (then, keys) {
                (None, _) => 0,
                (_, Keys::Close) => 1,
                (_, Keys::Apart) => 2,
            };
            let select = format!(
                "COPY (SELECT id, name, (amount + {other})::numeric(10,2), at, x FROM bench_append WHERE {ids} ORDER BY id) TO STDOUT \
                 (FORMAT binary)"
            );
            let pieces: Vec<_> = self.client.copy_out(&select).await?.try_collect().await?;
            let bytes = pieces.concat();
            let before = self.server_ns(false).await;
            let begun = Instant::now();
            if then.is_some() {
                self.client.batch_execute("BEGIN").await?;
            }
            let mut sink = pin!(
                self.client.copy_in::<_, Cursor<Vec<u8>>>(&format!("COPY {table} FROM STDIN (FORMAT binary)")).await?
            );
            for piece in bytes.chunks(128 << 10) {
                sink.send(Cursor::new(piece.to_vec())).await?;
            }
            sink.as_mut().finish().await?;
            if let Some(then) = then {
                self.client.batch_execute(&format!("{then}; COMMIT")).await?;
            }
            took += begun.elapsed();
            cpu = cpu.zip(since(before, self.server_ns(false).await)).map(|(all, ns)| all + ns);
        }
        Ok(self.took(took, cpu))
    }

    /// Rows a second of an upsert as it is written by hand.
    async fn upserted_by_hand(&self, table: &str, keys: Keys) -> Result<Took> {
        let aside = format!("CREATE TEMPORARY TABLE bench_aside (LIKE {table}) ON COMMIT DELETE ROWS");
        self.client.batch_execute(&format!("DROP TABLE IF EXISTS bench_aside; {aside}")).await?;
        let upsert = format!(
            "INSERT INTO {table} SELECT * FROM bench_aside ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name, \
             amount = EXCLUDED.amount, at = EXCLUDED.at, x = EXCLUDED.x"
        );
        self.copied("bench_aside", keys, Some(&upsert)).await
    }
}

fn since(before: Option<i64>, after: Option<i64>) -> Option<i64> {
    Some(after? - before?)
}

/// A run each.
#[derive(Default)]
struct Rates {
    append: Vec<Took>,
    copy: Vec<Took>,
    fresh: Vec<Took>,
    known: Vec<Took>,
    again: Vec<Took>,
    apart: Vec<Took>,
    by_hand: Vec<Took>,
    apart_by_hand: Vec<Took>,
    /// Of COPY into a table with a key.
    copy_key: Vec<Took>,
}

/// What the sink makes of a budget: at least half of COPY.
const SHARE: f64 = 0.5;

/// What the rows of the table that are no sink end with.
const BY_HAND: &str = "by hand";

/// Measures and prints.
///
/// # Errors
/// Where the database fails.
pub fn run(settings: &Settings) -> Result<Verdict> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(settings))
}

async fn measure(settings: &Settings) -> Result<Verdict> {
    let url = match &settings.postgres {
        Some(url) => url.clone(),
        None => Service::start("postgres.sh", &["start", "bench"], &[])?.said().to_string(),
    };
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    let bench = Bench { url, client, rows: 65_536, batches: settings.sized(16, 4) };
    let mut rates = Rates::default();
    for _ in 0..settings.runs {
        bench.run(&mut rates).await?;
    }
    let title = format!(
        "PostgreSQL sink beside COPY alone: {} batches of {} rows of 5 columns (median of {})",
        bench.batches, bench.rows, settings.runs
    );
    let mut table = Table::new(
        &title,
        &[
            "rows/s",
            "sink",
            "COPY alone",
            "share",
            "least .. most",
            "share >= 0.5",
            "server CPU us a row",
            "COPY alone",
            "share",
        ],
    );
    let mut share_row = |name: &str, sink: &[Took], copy: &[Took]| {
        let over = |share: &dyn Fn(&Took, &Took) -> Option<f64>| -> Vec<f64> {
            sink.iter().zip(copy).filter_map(|(sink, copy)| share(sink, copy)).collect()
        };
        let shares = over(&|sink, copy| Some(sink.rows_s / copy.rows_s.max(1e-9)));
        let cpu_shares = over(&|sink, copy| Some(copy.cpu_us? / sink.cpu_us?.max(1e-9)));
        let (least, most) = (percentile(&shares, 0.0), percentile(&shares, 1.0));
        let share = median(&shares);
        let judged = if name.ends_with(BY_HAND) {
            "-".into()
        } else if share >= SHARE {
            "met".into()
        } else {
            format!("missed by {:.0} %", (1.0 - share / SHARE) * 100.0)
        };
        let number = |all: &[Took]| count(median(&all.iter().map(|took| took.rows_s).collect::<Vec<_>>()) as u64);
        let or_dash = |values: Vec<f64>| if values.is_empty() { "-".into() } else { format!("{:.2}", median(&values)) };
        let cpu = |all: &[Took]| or_dash(all.iter().filter_map(|took| took.cpu_us).collect());
        table.row(vec![
            name.into(),
            number(sink),
            number(copy),
            format!("{share:.2}"),
            format!("{least:.2} .. {most:.2}"),
            judged,
            cpu(sink),
            cpu(copy),
            or_dash(cpu_shares),
        ]);
    };
    share_row("append", &rates.append, &rates.copy);
    share_row("upsert of new keys", &rates.fresh, &rates.copy_key);
    share_row("upsert of known keys, the first time", &rates.known, &rates.copy_key);
    share_row("upsert of known keys, again", &rates.again, &rates.copy_key);
    share_row("upsert of known keys, each batch from everywhere", &rates.apart, &rates.copy_key);
    share_row(&format!("known keys, {BY_HAND}"), &rates.by_hand, &rates.copy_key);
    share_row(&format!("known keys, each batch from everywhere, {BY_HAND}"), &rates.apart_by_hand, &rates.copy_key);
    table.print();
    let mut table = Table::new("PostgreSQL, one-row batches", &["ms", "p50", "p99"]);
    let times = settings.sized(1000, 200);
    for (key, name) in [(&[][..], "appended by the sink"), (&["id"][..], "upserted by the sink")] {
        let [sink, insert] = bench.one_row(key, times).await?;
        for (name, times) in [(name, sink), ("bare prepared INSERT", insert)] {
            let ms = |share: f64| format!("{:.2}", percentile(&times, share));
            table.row(vec![name.into(), ms(0.5), ms(0.99)]);
        }
    }
    table.print();
    bench
        .client
        .batch_execute("DROP TABLE bench_append, bench_copy, bench_upsert, bench_one, millstream_markers")
        .await?;
    Ok(Verdict::Right)
}

impl Bench {
    /// Each of them once, in the same minutes.
    async fn run(&self, rates: &mut Rates) -> Result<()> {
        self.table("bench_append", ")").await?;
        let mut publisher = self.sink("bench_append", &[]).await?;
        rates.append.push(self.published(&mut publisher, Keys::Close, 0).await?);
        self.table("bench_copy", ")").await?;
        rates.copy.push(self.copied("bench_copy", Keys::Close, None).await?);
        self.table("bench_upsert", KEY).await?;
        let mut publisher = self.sink("bench_upsert", &["id"]).await?;
        rates.fresh.push(self.published(&mut publisher, Keys::Close, 0).await?);
        rates.known.push(self.published(&mut publisher, Keys::Close, 1).await?);
        rates.again.push(self.published(&mut publisher, Keys::Close, 2).await?);
        rates.apart.push(self.published(&mut publisher, Keys::Apart, 3).await?);
        rates.by_hand.push(self.upserted_by_hand("bench_upsert", Keys::Close).await?);
        rates.apart_by_hand.push(self.upserted_by_hand("bench_upsert", Keys::Apart).await?);
        self.table("bench_copy", KEY).await?;
        rates.copy_key.push(self.copied("bench_copy", Keys::Close, None).await?);
        Ok(())
    }

    /// Milliseconds of one-row batches, and of a hand-written INSERT.
    async fn one_row(&self, key: &[&str], times: i64) -> Result<[Vec<f64>; 2]> {
        self.table("bench_one", if key.is_empty() { ")" } else { KEY }).await?;
        let mut publisher = self.sink("bench_one", key).await?;
        let mut sink = Vec::new();
        for n in 0..times {
            sink.push(publisher.publish(rows(n..n + 1, 0)?).await?.as_secs_f64() * 1e3);
        }
        let statement = self.client.prepare("INSERT INTO bench_one (id, name, x) VALUES ($1, $2, $3)").await?;
        let mut insert = Vec::new();
        for n in times..2 * times {
            let begun = Instant::now();
            self.client.execute(&statement, &[&n, &format!("customer number {n}"), &0.5f64]).await?;
            insert.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        Ok([sink, insert])
    }
}
