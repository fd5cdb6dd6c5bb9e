//! The law over topics that change: what was streamed, through kills and from the log, adds up to what DataFusion answers
//! over the same topic at once, and to the table that its history made.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use futures::StreamExt;
use millstream::batch::answer;
use millstream::changelog::from_ops;
use millstream::pipeline::emit_mode;
use millstream::plan::compile;
use millstream::runner::LocalRunner;
use millstream::sql::{BuiltIn, Connectors, PlannedQuery, Planner};
use millstream::state::StateStore;
use millstream_core::clock::SystemClock;
use millstream_core::disk::{RealDisk, SharedDisk};
use millstream_core::query::{Query, QueryConfig, QuerySource};
use millstream_core::sink::{Guarantee, Marker, Output, OutputKind, Owner, Permit, Sink};
use millstream_core::source::{Limit, SourceTable};
use millstream_core::{Error, Result};
use millstream_io::TableSpec;

use super::broker::{Sender, broker};

/// Rows, and how often each is there.
type Rows = BTreeMap<String, i64>;

const PARTITIONS: i32 = 3;

const QUERIES: [&str; 9] = [
    "SELECT id, name, n FROM d",
    "SELECT id, name, n FROM k",
    "SELECT id, name, n FROM u",
    "SELECT name, count(*) AS c, sum(n) AS s FROM d GROUP BY name",
    "SELECT name, count(*) AS c, max(n) AS m FROM u WHERE n > 1 GROUP BY name",
    "SELECT 1 AS one FROM u",
    "SELECT k.id, u.n, d.name FROM k JOIN u ON k.id = u.id LEFT JOIN d ON d.id = u.id AND d.n >= u.n",
    "SELECT id, n FROM (SELECT id, n, row_number() OVER (ORDER BY n DESC, id) AS r FROM u) WHERE r <= 3",
    "SELECT id FROM u WHERE id NOT IN (SELECT id FROM d WHERE n > 2)",
];

/// A generator of numbers: a step of PCG's state, and its high bits.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

#[derive(Debug)]
struct WithKafka;

impl Connectors for WithKafka {
    fn source(&self, table: &TableSpec) -> Result<Arc<dyn SourceTable>> {
        millstream_kafka::source_table(table)
    }

    fn infer(&self, path: &str, _: &Path) -> Result<TableSpec> {
        Err(Error::input(format!("there is no {path}")))
    }

    fn sink(&self, table: &TableSpec, query: &str, kind: OutputKind, schema: SchemaRef) -> Result<Box<dyn Sink>> {
        BuiltIn.sink(table, query, kind, schema)
    }
}

/// `d`: Debezium with whole rows; `k`: the same with a key, told twice and without old rows; `u`: upserts.
struct Topics {
    d: String,
    k: String,
    u: String,
}

impl Topics {
    fn new() -> Self {
        let topic = |name| broker().topic(name, PARTITIONS, &[]);
        Self { d: topic("law-d"), k: topic("law-k"), u: topic("law-u") }
    }

    fn sql(&self) -> String {
        let columns = "id BIGINT, name VARCHAR, n BIGINT NOT NULL";
        let with = |topic: &str, more: &str| {
            let servers = broker().servers();
            format!(
                "WITH ('topic' = '{topic}', 'properties.bootstrap.servers' = '{servers}', 'scan.bounded.mode' = \
                 'latest-offset', {more});\n"
            )
        };
        let key = "PRIMARY KEY (id) NOT ENFORCED";
        let debezium = "'connector' = 'kafka', 'format' = 'debezium-json'";
        let upsert = "'connector' = 'upsert-kafka', 'key.format' = 'json', 'value.format' = 'json'";
        format!(
            "CREATE TABLE d ({columns}) {}CREATE TABLE k ({columns}, {key}) {}CREATE TABLE u ({columns}, {key}) {}",
            with(&self.d, debezium),
            with(&self.k, debezium),
            with(&self.u, upsert)
        )
    }

    fn plan(&self, sql: &str) -> (Planner, PlannedQuery) {
        let mut planner = Planner::new(Arc::new(WithKafka), ".").unwrap();
        let planned = planner.plan("changes", &format!("{}{sql};", self.sql()));
        (planner, planned.unwrap().queries.pop().unwrap())
    }

    /// A history of a table, written to all three; what is in it in the end.
    fn history(&self, random: &mut Random) -> Rows {
        let mut rows: BTreeMap<u64, (&str, u64)> = BTreeMap::new();
        let plain = broker().producer();
        let transactions = broker().transactional(&super::broker::unique("law"));
        for round in 0..8 {
            // What is aborted never was.
            if round % 4 == 1 {
                transactions.begin();
                self.change(random, &mut rows.clone(), &transactions, 9);
                transactions.abort();
            }
            transactions.begin();
            self.change(random, &mut rows, &transactions, 9);
            transactions.commit();
            self.change(random, &mut rows, &plain, 9);
            plain.delivered();
        }
        rows.into_iter().map(|(id, (name, n))| (format!("{id} | {name} | {n}"), 1)).collect()
    }

    fn change(&self, random: &mut Random, rows: &mut BTreeMap<u64, (&str, u64)>, to: &Sender, changes: usize) {
        for _ in 0..changes {
            let id = random.below(9);
            let new = (["", "ann", "bob"][random.below(3) as usize], random.below(6));
            let json = |(name, n): (&str, u64)| format!(r#"{{"id":{id},"name":"{name}","n":{n}}}"#);
            let partition = (id % PARTITIONS as u64) as i32;
            let (key, after) = (format!(r#"{{"id":{id}}}"#), json(new));
            let delete = random.below(3) == 0;
            let old = rows.get(&id).copied();
            let (whole, short) = match old {
                None if delete => continue,
                None => (format!(r#"{{"before":null,"after":{after},"op":"c"}}"#), None),
                Some(old) if delete => {
                    let whole = format!(r#"{{"before":{},"after":null,"op":"d"}}"#, json(old));
                    (whole, Some(format!(r#"{{"before":{key},"op":"d"}}"#)))
                }
                Some(old) => {
                    let whole = format!(r#"{{"before":{},"after":{after},"op":"u"}}"#, json(old));
                    (whole, Some(format!(r#"{{"before":null,"after":{after},"op":"u"}}"#)))
                }
            };
            to.send(&self.d, partition, Some(&key), Some(&whole));
            (0..1 + random.below(2)).for_each(|_| {
                let value = short.as_ref().filter(|_| random.below(2) == 0).unwrap_or(&whole);
                to.send(&self.k, partition, Some(&key), Some(value));
            });
            if delete {
                rows.remove(&id);
                to.send(&self.d, partition, Some(&key), None);
                to.send(&self.u, partition, Some(&key), None);
            } else {
                rows.insert(id, new);
                to.send(&self.u, partition, Some(&key), Some(&after));
            }
        }
    }
}

/// A sink in memory that outlives its query.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<(Option<Marker>, Vec<Output>)>>);

#[async_trait]
impl Sink for Kept {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    async fn open(&mut self, _: &Owner) -> Result<Option<Marker>> {
        Ok(self.0.lock().unwrap().0.clone())
    }

    async fn publish(&mut self, permit: &Permit, output: &Output) -> Result<()> {
        let mut kept = self.0.lock().unwrap();
        kept.0 = Some(permit.marker().clone());
        kept.1.push(output.clone());
        Ok(())
    }
}

impl Kept {
    /// What was published, added up.
    fn rows(&self) -> Rows {
        let mut rows = Rows::new();
        for output in &self.0.lock().unwrap().1 {
            for batch in &output.batches {
                match output.kind {
                    OutputKind::Append => add(&mut rows, batch, false),
                    OutputKind::Changelog => add(&mut rows, &from_ops(batch).unwrap(), true),
                }
            }
        }
        rows.retain(|_, n| *n != 0);
        rows
    }
}

fn add(rows: &mut Rows, batch: &RecordBatch, weighted: bool) {
    let options = FormatOptions::default().with_null("NULL");
    let columns = batch.num_columns() - usize::from(weighted);
    let cells: Vec<_> =
        batch.columns().iter().take(columns).map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
    for row in 0..batch.num_rows() {
        let line: Vec<String> = cells.iter().map(|cell| cell.value(row).to_string()).collect();
        let weight = if weighted { batch.column(columns).as_primitive::<Int64Type>().value(row) } else { 1 };
        *rows.entry(line.join(" | ")).or_default() += weight;
    }
}

async fn in_batch(topics: &Topics, sql: &str) -> Rows {
    let (planner, planned) = topics.plan(sql);
    let mut rows = Rows::new();
    let mut batches = answer(planned.plan, planner.state(), &BTreeMap::new()).await.unwrap();
    while let Some(batch) = batches.next().await {
        add(&mut rows, &batch.unwrap(), false);
    }
    rows
}

/// Streams to the end; or dies after so many batches, with nothing put in order.
fn stream(topics: &Topics, sql: &str, dir: &Path, kept: &Kept, rows: u64, die_after: Option<usize>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let done = runtime.block_on(async {
        let (planner, planned) = topics.plan(sql);
        let compiled = compile(planned.plan.clone(), emit_mode(planned.emit), planner.state()).await;
        let compiled = compiled.map_err(|r| r.at(&planned))?;
        let disk: SharedDisk = Arc::new(RealDisk);
        let states = StateStore::new(Arc::clone(&disk), dir.join("state"));
        let sources = compiled.inputs.iter().map(|i| QuerySource {
            name: i.edge.source.clone(),
            source: Arc::clone(&i.source),
            event_time: i.edge.event_time.is_some(),
        });
        let limit = Limit { rows, bytes: 64 << 20 };
        let query = Query {
            config: QueryConfig { limit, ..QueryConfig::new("law", dir.join("log")) },
            sources: sources.collect(),
            runner: Box::new(LocalRunner::new(&compiled, states)?),
            sink: Box::new(kept.clone()),
            disk,
            clock: Arc::new(SystemClock),
        };
        let handle = query.start().await?;
        match die_after {
            None => handle.wait().await.map(|_| ()),
            Some(batches) => {
                let mut progress = handle.progress().take(batches);
                while progress.next().await.is_some() {}
                // The tasks end with their runtime, wherever they are.
                std::mem::forget(handle);
                Ok(())
            }
        }
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(10));
    done
}

#[test]
fn changes_that_were_streamed_from_a_topic_through_kills_add_up_to_the_batch_answer() {
    let seed = std::env::var("MILLSTREAM_LAW_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(7);
    let mut random = Random(seed);
    let topics = Topics::new();
    let made = topics.history(&mut random);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (number, sql) in QUERIES.iter().enumerate() {
        let expected = runtime.block_on(in_batch(&topics, sql));
        if number < 3 {
            assert_eq!(expected, made, "seed {seed}: {sql} in batch");
        }
        let (dir, kept) = (tempfile::tempdir().unwrap(), Kept::default());
        let rows = [1, 5, 40, 1 << 20][random.below(4) as usize];
        let deaths = random.below(3);
        for _ in 0..deaths {
            let batches = random.below(9) as usize;
            stream(&topics, sql, dir.path(), &kept, rows, Some(batches)).unwrap();
        }
        stream(&topics, sql, dir.path(), &kept, rows, None)
            .unwrap_or_else(|e| panic!("seed {seed}, {rows} rows, {deaths} deaths: {sql}: {e}"));
        assert_eq!(kept.rows(), expected, "seed {seed}, {rows} rows, {deaths} deaths: {sql}");
    }
}
