//! Tables whose rows change: generated histories in files, streamed in cuts with a restart, and compared with
//! DataFusion in batch over the same files, and with the table that the history made.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millstream::core::source::Limit;
use millstream::sql::{BuiltIn, PlannedQuery, Planner};

use crate::yardstick::{
    Floats, Interruption, LIMIT, MemoryDisk, Published, Random, Rows, Run, added_up, batch_answer, difference, ran,
};

/// `t`: Debezium without a key; `k`: the same with one, told twice and without old rows; `u`: upserts.
const TABLES: &str = "
    CREATE TABLE t (id BIGINT NOT NULL, name VARCHAR, n BIGINT)
    WITH ('connector' = 'filesystem', 'path' = 'whole', 'format' = 'debezium-json');
    CREATE TABLE k (id BIGINT, name VARCHAR, n BIGINT NOT NULL, PRIMARY KEY (id) NOT ENFORCED)
    WITH ('connector' = 'filesystem', 'path' = 'keyed', 'format' = 'debezium-json');
    CREATE TABLE u (name VARCHAR, n BIGINT, id BIGINT, PRIMARY KEY (name, id) NOT ENFORCED)
    WITH ('connector' = 'filesystem', 'path' = 'upserts', 'format' = 'json');
";

const QUERIES: [&str; 14] = [
    "SELECT id, name, n FROM t",
    "SELECT id, name, n FROM k",
    "SELECT id, name, n FROM u",
    "SELECT name FROM t WHERE n > 3",
    "SELECT upper(name), n + 1 FROM k WHERE n > 3",
    "SELECT 1 AS one FROM t",
    "SELECT 1 AS one FROM k",
    "SELECT t.id, k.name, u.n FROM t JOIN k ON t.id = k.id LEFT JOIN u ON u.id = k.id AND u.n >= k.n",
    "SELECT a.id, b.id AS other FROM k a JOIN k b ON a.n = b.n WHERE a.id < b.id",
    "SELECT id FROM k WHERE id NOT IN (SELECT id FROM u)",
    "SELECT id, n FROM (SELECT id, n, row_number() OVER (ORDER BY n DESC, id) AS r FROM k) WHERE r <= 3",
    "SELECT id FROM t UNION ALL SELECT n FROM u UNION ALL SELECT id FROM k",
    "SELECT name, count(*) AS c, sum(n) AS s, max(n) AS m FROM k GROUP BY name",
    "SELECT name, count(*) AS c, min(n) AS m FROM t GROUP BY name",
];

type Row = (Option<&'static str>, i64);

fn json(id: i64, (name, n): Row) -> String {
    let name = name.map_or("null".to_string(), |name| format!("\"{name}\""));
    format!("{{\"id\":{id},\"name\":{name},\"n\":{n}}}")
}

/// Writes a history over three files of each table; what is in `t` and `k` in the end, and in `u`.
fn history(random: &mut Random, dir: &Path) -> [Rows; 2] {
    let mut rows: BTreeMap<i64, Row> = BTreeMap::new();
    let mut upserts: BTreeMap<(&str, i64), i64> = BTreeMap::new();
    for folder in ["whole", "keyed", "upserts"] {
        std::fs::create_dir(dir.join(folder)).unwrap();
    }
    for file in ["a", "b", "c"] {
        let (mut whole, mut keyed, mut upserted) = (String::new(), String::new(), String::new());
        for _ in 0..random.below(40) {
            let id = random.below(7) as i64;
            let new: Row = (*random.pick(&[None, Some(""), Some("ann"), Some("bob")]), random.below(6) as i64);
            let after = json(id, new);
            let (envelope, short) = match (rows.get(&id).copied(), random.one_in(3)) {
                (None, _) => {
                    rows.insert(id, new);
                    let envelope = format!("{{\"before\":null,\"after\":{after},\"op\":\"c\"}}");
                    (envelope.clone(), envelope)
                }
                (Some(old), true) => {
                    rows.remove(&id);
                    let before = json(id, old);
                    let whole = format!("{{\"before\":{before},\"after\":null,\"op\":\"d\"}}\nnull");
                    (whole, format!("{{\"before\":{{\"id\":{id}}},\"op\":\"d\"}}"))
                }
                (Some(old), false) => {
                    rows.insert(id, new);
                    let before = json(id, old);
                    let whole = format!("{{\"before\":{before},\"after\":{after},\"op\":\"u\"}}");
                    (whole, format!("{{\"before\":null,\"after\":{after},\"op\":\"u\"}}"))
                }
            };
            writeln!(whole, "{envelope}").unwrap();
            for _ in 0..1 + random.below(2) {
                writeln!(keyed, "{}", if random.one_in(2) { &envelope } else { &short }).unwrap();
            }
            let name = new.0.unwrap_or("none");
            writeln!(upserted, "{}", json(id, (Some(name), new.1))).unwrap();
            upserts.insert((name, id), new.1);
        }
        for (folder, text) in [("whole", whole), ("keyed", keyed), ("upserts", upserted)] {
            std::fs::write(dir.join(folder).join(format!("{file}.ndjson")), text).unwrap();
        }
    }
    let shown = |id: i64, name: Option<&str>, n: i64| {
        (vec![id.to_string(), name.unwrap_or("NULL").to_string(), n.to_string()], 1)
    };
    [
        rows.into_iter().map(|(id, (name, n))| shown(id, name, n)).collect(),
        upserts.into_iter().map(|((name, id), n)| shown(id, Some(name), n)).collect(),
    ]
}

fn plan(sql: &str, dir: &Path) -> (Planner, PlannedQuery) {
    let mut planner = Planner::new(Arc::new(BuiltIn), dir).unwrap();
    let planned = planner.plan("changes", &format!("{TABLES}{sql};")).unwrap().queries.pop().unwrap();
    (planner, planned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_were_streamed_add_up_to_the_batch_answer_and_to_the_table_that_they_made() {
    let seeds = match crate::number("MILLSTREAM_LAW_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..crate::number("MILLSTREAM_LAW_CASES").map_or(8, |cases| cases.div_ceil(500)),
    };
    for seed in seeds {
        let mut random = Random::new(seed);
        let files = tempfile::tempdir().unwrap();
        let [table, upserts] = history(&mut random, files.path());
        for (number, sql) in QUERIES.iter().enumerate() {
            let (planner, planned) = plan(sql, files.path());
            let expected = batch_answer(&planner, &planned, Floats::Exactly).await;
            let expected = expected.unwrap_or_else(|e| panic!("{sql}: {e}"));
            if let Some(made) = [&table, &table, &upserts].get(number) {
                assert_eq!(difference(made, &expected), None, "seed {seed}: {sql} in batch");
            }
            let (state, disk) = (tempfile::tempdir().unwrap(), MemoryDisk::default());
            let published = Published::default();
            let rows = *random.pick(&[1, 2, 7, LIMIT.rows]);
            let limit = Limit { rows, ..LIMIT };
            let stop = random.one_in(2).then(|| Interruption::Stop { batches: random.below(12) });
            for interruption in stop.map(Some).into_iter().chain([None]) {
                let (planner, planned) = plan(sql, files.path());
                let mut run = Run::new(&planner, &planned, state.path(), &published);
                run.disk = Arc::new(disk.clone());
                run.config.limit = limit;
                run.config.commit_linger = Duration::ZERO;
                let ended = ran(&run, interruption).await;
                ended.unwrap_or_else(|e| panic!("seed {seed}, {rows} rows, {stop:?}: {sql}: {e}"));
            }
            let found = added_up(&published, Floats::Exactly).unwrap();
            assert_eq!(difference(&expected, &found), None, "seed {seed}, {rows} rows, {stop:?}: {sql}");
        }
    }
}

#[tokio::test]
async fn a_row_that_goes_before_it_came_has_no_answer_in_batch() {
    let files = tempfile::tempdir().unwrap();
    history(&mut Random::new(1), files.path());
    let stray = r#"{"before":{"id":77,"name":"eve","n":1},"op":"d"}"#;
    std::fs::write(files.path().join("whole/d.ndjson"), stray).unwrap();
    let (planner, planned) = plan("SELECT id, name FROM t", files.path());
    let error = batch_answer(&planner, &planned, Floats::Exactly).await.unwrap_err().to_string();
    assert!(error.contains("(77, eve) was taken away once more often than it came"), "{error}");
    assert!(error.contains("PRIMARY KEY"), "{error}");
}
