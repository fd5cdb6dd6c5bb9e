//! Processes that are killed: the publisher, the server, both. Each batch is in the table once.
//!
//! The publisher is this test binary, started again as a child with its work in the environment.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::{DataType, Field};
use millstream_core::ErrorKind;
use millstream_core::batch::BatchId;
use millstream_core::sink::OutputKind;
use millstream_io::TableSpec;

use crate::server::{Database, Publisher, field, ops, script, spec, start};

/// Says to the child what it is to do: `url table kind epoch batches`.
const WORK: &str = "MILLSTREAM_POSTGRES_CHILD";
const OWNED: i32 = 42;
/// Nothing here takes so long, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

fn table(url: &str, table: &str, kind: OutputKind) -> TableSpec {
    let key: &[&str] = if kind == OutputKind::Changelog { &["id"] } else { &[] };
    let columns = vec![field("id", DataType::Int64), Field::new("batch", DataType::Int64, true)];
    spec(url, table, columns, key, &[("sink.create-table", "true")])
}

/// The rows of a batch: (op, id, batch). Most are few; some are many, and take several statements or a COPY.
fn rows(kind: OutputKind, batch: i64) -> Vec<(&'static str, i64, i64)> {
    let many = batch % 20 == 7;
    match kind {
        OutputKind::Append => {
            (0..if many { 3000 } else { 1 + batch % 3 }).map(|n| ("+I", batch * 10_000 + n, batch)).collect()
        }
        OutputKind::Changelog => {
            let mut rows = vec![("+U", batch % 17, batch), ("-D", (batch + 5) % 17, batch)];
            rows.extend((0..if many { 17_000 } else { 1 }).map(|n| ("+I", 1000 + batch * 100_000 + n, batch)));
            rows
        }
    }
}

fn columns(kind: OutputKind, batch: i64) -> Vec<ArrayRef> {
    let rows = rows(kind, batch);
    let ids = Int64Array::from_iter_values(rows.iter().map(|row| row.1));
    let batches = Int64Array::from_iter_values(rows.iter().map(|row| row.2));
    let op = (kind == OutputKind::Changelog).then(|| ops(&rows.iter().map(|row| row.0).collect::<Vec<_>>()));
    op.into_iter().chain([Arc::new(ids) as ArrayRef, Arc::new(batches)]).collect()
}

/// `count|sum of ids|sum of batches` of the table after these batches.
fn expected(kind: OutputKind, batches: i64) -> String {
    let mut table = std::collections::BTreeMap::new();
    for batch in 1..=batches {
        for (op, id, batch) in rows(kind, batch) {
            match op {
                "-D" => table.remove(&id),
                _ => table.insert(id, batch),
            };
        }
    }
    format!("{}|{}|{}", table.len(), table.keys().sum::<i64>(), table.values().sum::<i64>())
}

/// Publishes until so many batches are there, and tries again as the loop does.
async fn publish_all(publisher: &mut Publisher, batches: i64) -> millstream_core::Result<()> {
    let mut is_open = false;
    loop {
        let step = match is_open {
            false => publisher.open().await.map(|_| is_open = true),
            true => {
                let next = publisher.last.unwrap_or_default().next().0 as i64;
                if next > batches {
                    return publisher.sink.close().await;
                }
                publisher.publish(columns(publisher.kind, next)).await
            }
        };
        match step {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Retry => {
                is_open = false;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// What the child runs; nothing where it is none.
#[tokio::test]
async fn child() {
    let Ok(work) = std::env::var(WORK) else { return };
    let work: Vec<_> = work.split(' ').collect();
    let [url, name, kind, epoch, batches] = work[..] else { panic!("{work:?}") };
    let kind = if kind == "append" { OutputKind::Append } else { OutputKind::Changelog };
    let mut publisher = Publisher::new(&table(url, name, kind), kind, epoch.parse().unwrap()).unwrap();
    match publish_all(&mut publisher, batches.parse().unwrap()).await {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::Owned => std::process::exit(OWNED),
        Err(error) => panic!("{error}"),
    }
}

struct Publishing(Child);

impl Publishing {
    fn start(url: &str, name: &str, kind: OutputKind, epoch: u64, batches: i64) -> Self {
        let word = if kind == OutputKind::Append { "append" } else { "changelog" };
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child", "--nocapture"])
            .env(WORK, format!("{url} {name} {word} {epoch} {batches}"))
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    /// Its exit code, where it has ended.
    fn ended(&mut self) -> Option<i32> {
        self.0.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
    }

    async fn wait(&mut self) -> i32 {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(code) = self.ended() {
                return code;
            }
            assert!(Instant::now() < until, "the publisher hangs");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Small random numbers, from a seed that is printed.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = std::env::var("MILLSTREAM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(now | 1);
        println!("MILLSTREAM_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// `MILLSTREAM_KILLS` times as many.
fn times() -> u64 {
    std::env::var("MILLSTREAM_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(12)
}

async fn is_there(url: &str, name: &str, kind: OutputKind, batches: i64) {
    let client = crate::server::connect(url).await;
    let sums = format!("SELECT count(*), coalesce(sum(id), 0), coalesce(sum(batch), 0) FROM {name}");
    assert_eq!(crate::server::rows(&client, &sums).await, [expected(kind, batches)]);
    let marker =
        format!("SELECT batch FROM millstream_markers WHERE target LIKE '%{}%'", name.rsplit('.').next().unwrap());
    let schema = name.split('.').next().unwrap();
    client.batch_execute(&format!("SET search_path = {schema}")).await.unwrap();
    assert_eq!(crate::server::rows(&client, &marker).await, [batches.to_string()]);
}

async fn publishers_are_killed(kind: OutputKind) {
    let database = Database::new().await;
    let name = format!("{}.killed", database.schema);
    let mut random = Random::new();
    let mut batches = 0;
    for epoch in 1..=times() {
        batches += 40;
        let mut child = Publishing::start(&database.url, &name, kind, epoch, batches);
        tokio::time::sleep(Duration::from_millis(30 + random.below(250))).await;
        let _ = child.0.kill();
        child.0.wait().unwrap();
    }
    let mut child = Publishing::start(&database.url, &name, kind, times() + 1, batches);
    assert_eq!(child.wait().await, 0);
    is_there(&database.url, &name, kind, batches).await;
}

#[tokio::test]
async fn publishers_that_are_killed_add_their_rows_once() {
    publishers_are_killed(OutputKind::Append).await;
}

#[tokio::test]
async fn publishers_that_are_killed_upsert_and_delete_once() {
    publishers_are_killed(OutputKind::Changelog).await;
}

/// A server that is killed again and again belongs to one test at a time, of all processes.
pub async fn mortal() -> (String, std::fs::File) {
    let file = std::fs::File::create(std::env::temp_dir().join("millstream-postgres-mortal.lock")).unwrap();
    let lock = tokio::task::spawn_blocking(move || {
        file.lock().unwrap();
        file
    });
    let lock = lock.await.unwrap();
    (start("mortal"), lock)
}

async fn the_server_dies(verb: &str, kind: OutputKind) {
    let (url, _lock) = mortal().await;
    let database = Database::at(&url).await;
    let name = format!("{}.killed", database.schema);
    let mut random = Random::new();
    let batches = 250;
    let mut child = Publishing::start(&url, &name, kind, 1, batches);
    for _ in 0..times().div_ceil(4) {
        tokio::time::sleep(Duration::from_millis(150 + random.below(300))).await;
        script(verb, "mortal").unwrap();
        start("mortal");
    }
    assert_eq!(child.wait().await, 0);
    is_there(&url, &name, kind, batches).await;
}

#[tokio::test]
async fn a_server_that_is_killed_while_rows_are_added_has_them_once() {
    the_server_dies("kill", OutputKind::Append).await;
}

#[tokio::test]
async fn a_server_that_is_killed_while_rows_are_upserted_has_them_once() {
    the_server_dies("kill", OutputKind::Changelog).await;
}

#[tokio::test]
async fn a_server_that_is_restarted_at_once_has_the_rows_once() {
    the_server_dies("stop", OutputKind::Append).await;
    the_server_dies("stop", OutputKind::Changelog).await;
}

async fn a_stopped_owner_is_taken_over(kind: OutputKind) {
    let database = Database::new().await;
    let mut random = Random::new();
    for round in 0..times().div_ceil(4) {
        let name = format!("{}.stopped{round}", database.schema);
        let mut zombie = Publishing::start(&database.url, &name, kind, 1, 1_000_000);
        tokio::time::sleep(Duration::from_millis(100 + random.below(300))).await;
        zombie.signal("-STOP");
        let mut publisher = Publisher::new(&table(&database.url, &name, kind), kind, 2).unwrap();
        publish_all(&mut publisher, 0).await.unwrap();
        let batches = publisher.last.map_or(0, |batch| batch.0) as i64 + 15;
        let last = BatchId(batches as u64);
        publish_all(&mut publisher, batches).await.unwrap();
        assert_eq!(publisher.last, Some(last));
        zombie.signal("-CONT");
        assert_eq!(zombie.wait().await, OWNED, "the stopped owner was not told");
        is_there(&database.url, &name, kind, batches).await;
    }
}

#[tokio::test]
async fn an_owner_that_was_stopped_and_taken_over_adds_nothing() {
    a_stopped_owner_is_taken_over(OutputKind::Append).await;
}

#[tokio::test]
async fn an_owner_that_was_stopped_and_taken_over_upserts_nothing() {
    a_stopped_owner_is_taken_over(OutputKind::Changelog).await;
}
