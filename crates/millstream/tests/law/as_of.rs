//! Joins FOR SYSTEM_TIME AS OF: of an event time, compared with a model for every cut; of the time of the batch, with a
//! table that changes while the query is killed between what was recorded and what is published.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringViewArray, UInt32Array};
use arrow::datatypes::{Int64Type, SchemaRef};
use async_trait::async_trait;
use millstream::core::batch::BatchId;
use millstream::core::clock::SystemClock;
use millstream::core::disk::{RealDisk, SharedDisk};
use millstream::core::lookup::{LookupTable, answer_schema};
use millstream::core::query::{Query, QueryConfig, QuerySource};
use millstream::core::sink::{Guarantee, Marker, Output, OutputKind, Owner, Permit, Sink};
use millstream::core::source::{Limit, SourceTable};
use millstream::io::TableSpec;
use millstream::pipeline::emit_mode;
use millstream::plan::{Exactness, compile, describe_state};
use millstream::runner::LocalRunner;
use millstream::sql::{BuiltIn, Connectors, LookupConnectors, PlannedQuery, Planner};
use millstream::state::StateStore;
use millstream::{Error, Result};

use crate::model::DELAY_MS;
use crate::yardstick::{
    Floats, Interruption, LIMIT, MemoryDisk, Published, Random, Rows, Run, added_up, batch_answer, difference, ran,
};

/// `v`: changes told as Debezium does, with the time of each in the row; `w`: the same as upserts.
const TABLES: &str = "
    CREATE TABLE l (id BIGINT, n BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND)
    WITH ('connector' = 'filesystem', 'path' = 'left', 'format' = 'json');
    CREATE TABLE v (id BIGINT, name VARCHAR, n BIGINT, since TIMESTAMP(3), PRIMARY KEY (id) NOT ENFORCED,
        WATERMARK FOR since AS since - INTERVAL '5' SECOND)
    WITH ('connector' = 'filesystem', 'path' = 'changes', 'format' = 'debezium-json');
    CREATE TABLE w (id INT, name VARCHAR, n BIGINT, since_ms BIGINT, since AS to_timestamp_millis(since_ms),
        WATERMARK FOR since AS since - INTERVAL '5' SECOND, PRIMARY KEY (id) NOT ENFORCED)
    WITH ('connector' = 'filesystem', 'path' = 'upserts', 'format' = 'json');
";

/// A query, whether it asks `v`, whether rows without a version stay, and what else must be true of a pair.
type Asked = (&'static str, bool, bool, fn(i64, i64) -> bool);

const QUERIES: [Asked; 4] = [
    ("SELECT l.n, v.name FROM l JOIN v FOR SYSTEM_TIME AS OF l.ts ON l.id = v.id", true, false, |_, _| true),
    (
        "SELECT l.n, x.name FROM l LEFT JOIN v FOR SYSTEM_TIME AS OF l.ts AS x ON x.id = l.id AND x.n <= l.n % 5",
        true,
        true,
        |left, right| right <= left % 5,
    ),
    ("SELECT a.n, w.name FROM l AS a LEFT JOIN w FOR SYSTEM_TIME AS OF a.ts ON a.id = w.id", false, true, |_, _| true),
    (
        "SELECT a.n, b.name FROM (SELECT * FROM l WHERE n >= 0) a JOIN w FOR SYSTEM_TIME AS OF a.ts AS b ON b.id = a.id WHERE b.n > -1",
        false,
        false,
        |_, _| true,
    ),
];

const START_MS: i64 = 1_577_836_800_000;

#[derive(Clone, Debug)]
struct Left {
    id: Option<i64>,
    n: i64,
    ts: i64,
}

#[derive(Clone, Debug)]
struct Change {
    id: i64,
    /// `None`: deleted.
    row: Option<(String, i64)>,
    since: i64,
    old: Option<(String, i64, i64)>,
}

fn stamp(ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(ms).unwrap().format("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

/// Files of rows, in the order of their lines. Times tie, go back within the delay, and now and then beyond it. A key is
/// in one file.
fn generate(random: &mut Random) -> (Vec<Vec<Left>>, Vec<Vec<Change>>) {
    let mut number = 0;
    let time = |random: &mut Random, clock: &mut i64| {
        *clock += random.below(4) as i64 * 500;
        *clock - *random.pick(&[0, 0, 0, 500, 3_000, 4_500, 20_000])
    };
    let mut clock = START_MS;
    let left = (0..1 + random.below(3)).map(|_| {
        clock = START_MS + random.below(5_000) as i64;
        let rows = (0..random.below(50)).map(|_| {
            number += 1;
            let ts = time(random, &mut clock);
            Left { id: (!random.one_in(9)).then(|| random.below(6) as i64), n: number, ts }
        });
        rows.collect()
    });
    let left: Vec<Vec<Left>> = left.collect();
    let files = 1 + random.below(2) as i64;
    let right = (0..files).map(|file| {
        clock = START_MS + random.below(5_000) as i64;
        let mut rows: BTreeMap<i64, (String, i64, i64)> = BTreeMap::new();
        let changes = (0..random.below(50)).map(|_| {
            number += 1;
            let since = time(random, &mut clock);
            let id = random.below(3) as i64 * files + file;
            let old = rows.get(&id).cloned();
            let row = (old.is_none() || !random.one_in(4)).then(|| (format!("r{number}"), random.below(4) as i64));
            match &row {
                Some((name, n)) => rows.insert(id, (name.clone(), *n, since)),
                None => rows.remove(&id),
            };
            Change { id, row, since, old }
        });
        changes.collect()
    });
    (left, right.collect())
}

fn write(dir: &Path, left: &[Vec<Left>], right: &[Vec<Change>]) {
    for folder in ["left", "changes", "upserts"] {
        std::fs::create_dir(dir.join(folder)).unwrap();
        // A folder without a file is no table.
        std::fs::write(dir.join(folder).join("z.ndjson"), "").unwrap();
    }
    for (file, rows) in left.iter().enumerate() {
        let lines: String = rows.iter().fold(String::new(), |mut text, row| {
            let id = row.id.map_or("null".to_string(), |id| id.to_string());
            writeln!(text, "{{\"id\":{id},\"n\":{},\"ts\":\"{}\"}}", row.n, stamp(row.ts)).unwrap();
            text
        });
        std::fs::write(dir.join(format!("left/{file}.ndjson")), lines).unwrap();
    }
    for (file, rows) in right.iter().enumerate() {
        let (mut changes, mut upserts) = (String::new(), String::new());
        for Change { id, row, since, old } in rows {
            let image = |name: &str, n: i64, since: i64| {
                format!("{{\"id\":{id},\"name\":\"{name}\",\"n\":{n},\"since\":\"{}\"}}", stamp(since))
            };
            let before = old.as_ref();
            let line = match (before, row) {
                (None, Some((name, n))) => format!("{{\"after\":{},\"op\":\"c\"}}", image(name, *n, *since)),
                (Some((o, m, s)), Some((name, n))) => {
                    format!("{{\"before\":{},\"after\":{},\"op\":\"u\"}}", image(o, *m, *s), image(name, *n, *since))
                }
                // The row that goes says when.
                (Some((o, m, _)), None) => format!("{{\"before\":{},\"op\":\"d\"}}", image(o, *m, *since)),
                (None, None) => continue,
            };
            writeln!(changes, "{line}").unwrap();
            if let Some((name, n)) = row {
                writeln!(upserts, "{{\"id\":{id},\"name\":\"{name}\",\"n\":{n},\"since_ms\":{since}}}").unwrap();
            }
        }
        std::fs::write(dir.join(format!("changes/{file}.ndjson")), changes).unwrap();
        std::fs::write(dir.join(format!("upserts/{file}.ndjson")), upserts).unwrap();
    }
}

/// The rows that are not behind the watermark of their own file, and how many are.
fn timely<T: Clone>(files: &[Vec<T>], time: impl Fn(&T) -> i64) -> (Vec<Vec<T>>, Vec<T>) {
    let mut late = vec![];
    let kept = files.iter().map(|rows| {
        let (mut watermark, mut kept) = (i64::MIN, vec![]);
        for row in rows {
            if time(row) <= watermark {
                late.push(row.clone())
            } else {
                kept.push(row.clone())
            }
            watermark = watermark.max(time(row) - DELAY_MS);
        }
        kept
    });
    (kept.collect(), late)
}

/// What SQL says: each row with the last version of its key that is not after it.
fn model(query: Asked, left: &[Vec<Left>], right: &[Vec<Change>]) -> Rows {
    let (_, _, outer, passes) = query;
    let mut rows = Rows::new();
    for row in left.iter().flatten() {
        let of_key = right.iter().flatten().filter(|change| Some(change.id) == row.id && change.since <= row.ts);
        // The last of those that are equally late.
        let version = of_key.max_by_key(|change| change.since).and_then(|change| change.row.as_ref());
        match version.filter(|(_, n)| passes(row.n, *n)) {
            Some((name, _)) => *rows.entry(vec![row.n.to_string(), name.clone()]).or_default() += 1,
            None if outer => *rows.entry(vec![row.n.to_string(), "NULL".to_string()]).or_default() += 1,
            None => {}
        }
    }
    rows
}

fn plan(sql: &str, dir: &Path) -> (Planner, PlannedQuery) {
    let mut planner = Planner::new(Arc::new(BuiltIn), dir).unwrap();
    let planned = planner.plan("as of", &format!("{TABLES}{sql};")).unwrap_or_else(|e| panic!("{sql}: {e}"));
    (planner, planned.queries.into_iter().next_back().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_row_meets_the_version_of_its_time_however_the_input_is_cut() {
    let seeds = match crate::number("MILLSTREAM_LAW_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..crate::number("MILLSTREAM_LAW_CASES").map_or(40, |cases| cases.div_ceil(100)),
    };
    for seed in seeds {
        let mut random = Random::new(seed);
        let (left, right) = generate(&mut random);
        let files = tempfile::tempdir().unwrap();
        write(files.path(), &left, &right);
        for query in QUERIES {
            let (sql, changes, ..) = query;
            // Upserts know no deletes.
            let keep = |change: &Change| changes || change.row.is_some();
            let right: Vec<Vec<Change>> =
                right.iter().map(|rows| rows.iter().filter(|c| keep(c)).cloned().collect()).collect();
            let (planner, planned) = plan(sql, files.path());
            let in_batch =
                batch_answer(&planner, &planned, Floats::Exactly).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
            let said = difference(&model(query, &left, &right), &in_batch);
            assert_eq!(said, None, "seed {seed}, in batch: {sql}");

            let (state, disk) = (tempfile::tempdir().unwrap(), MemoryDisk::default());
            let published = Published::default();
            let limit = Limit { rows: *random.pick(&[1, 2, 7, LIMIT.rows]), ..LIMIT };
            let interruption = match random.below(3) {
                0 => None,
                1 => Some(Interruption::Stop { batches: random.below(12) }),
                _ => Some(Interruption::Kill { batches: random.below(12), steps: random.below(8) }),
            };
            let mut late = 0;
            for interruption in interruption.map(Some).into_iter().chain([None]) {
                let (planner, planned) = plan(sql, files.path());
                let mut run = Run::new(&planner, &planned, state.path(), &published);
                run.disk = Arc::new(disk.clone());
                run.config.limit = limit;
                run.config.commit_linger = Duration::ZERO;
                late = ran(&run, interruption).await.unwrap_or_else(|e| panic!("seed {seed}: {sql}: {e}"));
            }
            let (timely_left, late_left) = timely(&left, |row| row.ts);
            let (timely_right, late_right) = timely(&right, |change| change.since);
            let case = format!("seed {seed}, {} rows, {interruption:?}: {sql}", limit.rows);
            let expected = model(query, &timely_left, &timely_right);
            assert_eq!(difference(&expected, &added_up(&published, Floats::Exactly).unwrap()), None, "{case}");
            assert_eq!(late, (late_left.len() + late_right.len()) as u64, "late rows, {case}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_over_versions_closes_with_the_rows_that_waited() {
    let files = tempfile::tempdir().unwrap();
    let left: Vec<Left> = (0..200).map(|n| Left { id: Some(n % 3), n, ts: START_MS + n * 700 }).collect();
    let right: Vec<Change> = (0..60)
        .map(|n| Change { id: n % 3, row: Some((format!("r{}", n / 9), 1)), since: START_MS + n * 2_000, old: None })
        .collect();
    write(files.path(), &[left], &[right]);
    let sql = "SELECT name, window_start, count(*) AS c FROM TUMBLE(
            (SELECT l.ts AS ts, v.name AS name FROM l JOIN v FOR SYSTEM_TIME AS OF l.ts ON l.id = v.id), DESCRIPTOR(ts),
            INTERVAL '10' SECOND) GROUP BY name, window_start, window_end";
    let (planner, planned) = plan(sql, files.path());
    let expected = batch_answer(&planner, &planned, Floats::Exactly).await.unwrap();
    assert!(expected.len() > 10, "{expected:?}");
    let compiled = compile(planned.plan.clone(), emit_mode(planned.emit), planner.state()).await;
    let compiled = compiled.map_err(|r| r.at(&planned)).unwrap();
    assert_eq!(compiled.exactness, Exactness::Exact);
    let state = describe_state(&compiled).join("\n");
    assert!(state.contains("as of l.ts: the rows of both sides that the watermark has not passed"), "{state}");
    for rows in [1, 13, LIMIT.rows] {
        let state = tempfile::tempdir().unwrap();
        let published = Published::default();
        let mut run = Run::new(&planner, &planned, state.path(), &published);
        run.config.limit = Limit { rows, ..LIMIT };
        ran(&run, None).await.unwrap();
        assert_eq!(difference(&expected, &added_up(&published, Floats::Exactly).unwrap()), None, "{rows} rows a batch");
    }
}

/// A table by key that answers otherwise each time: the number of the question.
#[derive(Clone, Debug, Default)]
struct Moving(Arc<AtomicI64>);

struct MovingTable {
    moving: Moving,
    schema: SchemaRef,
    key: Vec<usize>,
}

impl LookupConnectors for Moving {
    fn is_lookup(&self, table: &TableSpec) -> bool {
        table.options.get("connector") == Some("moving")
    }

    fn lookup(&self, table: &TableSpec, key: &[String]) -> Result<Arc<dyn LookupTable>> {
        let schema = Arc::clone(&table.schema);
        let key = key.iter().map(|name| schema.index_of(name).unwrap()).collect();
        Ok(Arc::new(MovingTable { moving: self.clone(), schema, key }))
    }
}

impl Connectors for Moving {
    fn source(&self, table: &TableSpec) -> Result<Arc<dyn SourceTable>> {
        BuiltIn.source(table)
    }

    fn infer(&self, path: &str, base_dir: &Path) -> Result<TableSpec> {
        BuiltIn.infer(path, base_dir)
    }

    fn sink(&self, table: &TableSpec, query: &str, kind: OutputKind, schema: SchemaRef) -> Result<Box<dyn Sink>> {
        BuiltIn.sink(table, query, kind, schema)
    }

    fn lookups(&self) -> Option<&dyn LookupConnectors> {
        Some(self)
    }
}

#[async_trait]
impl LookupTable for MovingTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn key(&self) -> &[usize] {
        &self.key
    }

    /// Two rows for each key but 3, one of them for another spelling that is not equal.
    async fn get(&self, keys: &RecordBatch) -> Result<RecordBatch> {
        let question = self.moving.0.fetch_add(1, Ordering::SeqCst);
        if question % 5 == 4 {
            return Err(Error::retry("the table is away for a moment"));
        }
        let asked = keys.column(0).as_primitive::<Int64Type>();
        let distinct: std::collections::BTreeSet<_> = asked.iter().collect();
        assert_eq!(distinct.len(), asked.len(), "each key is asked for once");
        assert!(!distinct.contains(&None), "nobody has no key");
        let rows: Vec<(u32, i64)> = (0u32..)
            .zip(asked.values())
            .filter(|(_, id)| **id != 3)
            .flat_map(|(n, id)| [(n, *id), (n, -id - 1)])
            .collect();
        let column = |name: &str| -> ArrayRef {
            match name {
                "id" => Arc::new(rows.iter().map(|(_, id)| Some(*id)).collect::<Int64Array>()),
                _ => Arc::new(
                    rows.iter().map(|(_, id)| Some(format!("{id} at {question}"))).collect::<StringViewArray>(),
                ),
            }
        };
        let mut columns: Vec<ArrayRef> = vec![Arc::new(rows.iter().map(|(n, _)| Some(*n)).collect::<UInt32Array>())];
        columns.extend(self.schema.fields().iter().map(|f| column(f.name())));
        Ok(RecordBatch::try_new(answer_schema(&self.schema), columns).unwrap())
    }
}

/// What a transactional sink has, and what it was shown.
#[derive(Clone, Default)]
struct Store(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    batches: Vec<(Marker, Output)>,
    shown: BTreeMap<BatchId, Vec<String>>,
    /// The batch at which the process dies before anything of it is there.
    dies_at: Option<BatchId>,
}

struct Transactional(Store);

fn lines(output: &Output) -> Vec<String> {
    let text = arrow::util::pretty::pretty_format_batches(&output.batches).unwrap().to_string();
    text.lines().map(String::from).collect()
}

#[async_trait]
impl Sink for Transactional {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    async fn open(&mut self, _: &Owner) -> Result<Option<Marker>> {
        Ok(self.0.0.lock().unwrap().batches.last().map(|(marker, _)| marker.clone()))
    }

    async fn publish(&mut self, permit: &Permit, output: &Output) -> Result<()> {
        let mut kept = self.0.0.lock().unwrap();
        let batch = permit.marker().batch;
        let rows = lines(output);
        let before = kept.shown.insert(batch, rows.clone());
        assert!(before.is_none_or(|before| before == rows), "batch {batch}, run again, has the same rows");
        if kept.dies_at == Some(batch) {
            kept.dies_at = None;
            return Err(Error::sink("killed"));
        }
        kept.batches.push((permit.marker().clone(), output.clone()));
        Ok(())
    }
}

/// Runs until the input ends or the process dies.
async fn live(moving: &Moving, sql: &str, base: &Path, state: &Path, store: &Store, rows: u64) -> Result<()> {
    let mut planner = Planner::new(Arc::new(moving.clone()), base)?;
    let planned = planner.plan("live", sql)?.queries.pop().unwrap();
    let compiled = compile(planned.plan.clone(), emit_mode(planned.emit), planner.state()).await;
    let compiled = compiled.map_err(|r| r.at(&planned))?;
    assert_eq!(compiled.exactness, Exactness::Clock);
    let disk: SharedDisk = Arc::new(RealDisk);
    let sources = compiled.inputs.iter().map(|i| QuerySource {
        name: i.edge.source.clone(),
        source: Arc::clone(&i.source),
        event_time: i.edge.event_time.is_some(),
    });
    let sources = sources.collect();
    let runner = Box::new(LocalRunner::new(&compiled, StateStore::new(Arc::clone(&disk), state.join("state")))?);
    let config = QueryConfig { limit: Limit { rows, ..LIMIT }, ..QueryConfig::new("live", state.join("log")) };
    let sink = Box::new(Transactional(store.clone()));
    Query { config, sources, runner, sink, disk, clock: Arc::new(SystemClock) }.start().await?.wait().await.map(drop)
}

const STREAM: &str = "
    CREATE TABLE t (id BIGINT, n BIGINT) WITH ('connector' = 'filesystem', 'path' = 't.csv', 'format' = 'csv');
    CREATE TABLE by_key (id BIGINT, name VARCHAR) WITH ('connector' = 'moving');
    CREATE TABLE side (key BIGINT, `value` VARCHAR) WITH ('connector' = 'filesystem', 'path' = 'side', 'format' = 'csv');
";

fn stream_of(base: &Path, rows: i64) {
    let lines: String = (0..rows).fold(String::new(), |mut text, n| {
        let id = if n % 7 == 6 { String::new() } else { (n % 5).to_string() };
        writeln!(text, "{id},{n}").unwrap();
        text
    });
    std::fs::write(base.join("t.csv"), lines).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_was_killed_after_its_answers_were_recorded_has_the_same_rows_though_the_table_changed() {
    let sql = format!(
        "{STREAM} SELECT t.n, k.name, s.`value` FROM (SELECT *, PROCTIME() AS now FROM t) AS t
         LEFT JOIN by_key FOR SYSTEM_TIME AS OF t.now AS k ON t.id = k.id
         JOIN side FOR SYSTEM_TIME AS OF t.now AS s ON mod(t.n, 2) = s.key;"
    );
    let (base, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    stream_of(base.path(), 60);
    std::fs::create_dir(base.path().join("side")).unwrap();
    let side = |text: &str| std::fs::write(base.path().join("side/s.csv"), text).unwrap();
    side("0,even 0\n1,odd 0\n");
    let (moving, store) = (Moving::default(), Store::default());
    for (life, batch) in [1, 2, 5, 5, 9].into_iter().enumerate() {
        store.0.lock().unwrap().dies_at = Some(BatchId(batch));
        let died = live(&moving, &sql, base.path(), state.path(), &store, 6).await.unwrap_err();
        assert!(died.to_string().contains("killed"), "{died}");
        // While nobody runs, the table becomes another one, and even another file.
        side(&format!("0,even {}\n1,odd {}\n1,more\n", life + 1, life + 1));
    }
    live(&moving, &sql, base.path(), state.path(), &store, 6).await.unwrap();
    let kept = store.0.lock().unwrap();
    let numbers: Vec<u64> = kept.batches.iter().map(|(marker, _)| marker.batch.0).collect();
    assert_eq!(numbers, (1..=10).collect::<Vec<_>>());
    let text = kept.batches.iter().flat_map(|(_, output)| lines(output)).collect::<Vec<_>>().join("\n");
    // In its fourth life the query only ran batch 5 again, with the table that it had met before.
    for (life, met) in [true, true, true, false, true, true].into_iter().enumerate() {
        assert_eq!(text.contains(&format!("even {life} ")), met, "the table as it was in life {life}: {text}");
    }
}
