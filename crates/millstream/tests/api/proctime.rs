//! Windows over PROCTIME(): by the times of the batches that were recorded, and closed by the clock alone.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use millstream::core::clock::Clock;
use millstream::core::query::{Query, QueryConfig, QueryHandle, QuerySource};
use millstream::core::runner::{Outcome, Runner, RunnerState, Task, UsedRow};
use millstream::core::source::Limit;
use millstream::plan::{Exactness, describe_state};
use millstream::runner::LocalRunner;
use millstream::state::StateStore;

use super::*;

const START_US: i64 = 1_700_000_000_000_123;

/// A clock that moves each time it is looked at, and at once to where somebody sleeps.
#[derive(Debug)]
struct Moving {
    now_us: AtomicI64,
    step_us: i64,
}

#[async_trait]
impl Clock for Moving {
    fn now_us(&self) -> i64 {
        self.now_us.fetch_add(self.step_us, Ordering::Relaxed)
    }

    fn elapsed(&self) -> Duration {
        Duration::from_micros((self.now_us.load(Ordering::Relaxed) - START_US) as u64)
    }

    async fn sleep(&self, duration: Duration) {
        self.now_us.fetch_add(duration.as_micros() as i64, Ordering::Relaxed);
        tokio::task::yield_now().await;
    }
}

/// The time of each batch, and the rows that it read.
type Recorded = Arc<Mutex<BTreeMap<u64, (i64, std::ops::Range<usize>)>>>;

/// A runner that notes what it is given.
struct Noting(LocalRunner, Recorded);

#[async_trait]
impl Runner for Noting {
    fn due_us(&self) -> Option<i64> {
        self.0.due_us()
    }

    async fn run(&mut self, task: Task<'_>) -> Result<Outcome, Error> {
        let ranges = task.intent.sources.iter().flat_map(|s| &s.ranges);
        let rows = ranges.map(|r| r.start.row as usize..r.end.row as usize).next().unwrap_or_default();
        let noted = (task.intent.time_us, rows);
        let before = self.1.lock().unwrap().insert(task.intent.batch.0, noted.clone());
        assert!(before.is_none_or(|before| before == noted), "a batch that is run again has its time and its rows");
        self.0.run(task).await
    }

    async fn used_row(&mut self, task: Task<'_>, n: u64) -> Result<Option<UsedRow>, Error> {
        self.0.used_row(task, n).await
    }

    fn install(&mut self) {
        self.0.install();
    }

    fn discard(&mut self) {
        self.0.discard();
    }

    fn state(&mut self) -> Option<&mut dyn RunnerState> {
        self.0.state()
    }
}

/// Starts a query over the table `clicks`.
async fn start(
    table: MemoryTable,
    sql: &str,
    dir: &Path,
    stored: &Stored,
    clock: &Arc<Moving>,
    recorded: &Recorded,
) -> QueryHandle {
    let session = session_over(table);
    let compiled = session.sql(sql).unwrap().compile().await.unwrap();
    assert_eq!(compiled.exactness, Exactness::Clock);
    let states = StateStore::new(Arc::new(RealDisk), dir.join("state"));
    let sources = compiled.inputs.iter().map(|i| QuerySource {
        name: i.edge.source.clone(),
        source: Arc::clone(&i.source),
        event_time: i.edge.event_time.is_some(),
    });
    let limit = Limit { rows: 3, bytes: 1 << 20 };
    let query = Query {
        config: QueryConfig { limit, ..QueryConfig::new("q", dir.join("log")) },
        sources: sources.collect(),
        runner: Box::new(Noting(LocalRunner::new(&compiled, states).unwrap(), Arc::clone(recorded))),
        sink: Box::new(MemorySink::new(stored)),
        disk: Arc::new(RealDisk),
        clock: Arc::clone(clock) as _,
    };
    query.start().await.unwrap()
}

fn moving(step_us: i64) -> Arc<Moving> {
    Arc::new(Moving { now_us: AtomicI64::new(START_US), step_us })
}

/// What the recorded batches make of windows of this length that begin every slide: start, end, user, how many.
fn by_hand(rows: &[(i64, String, i64)], recorded: &Recorded, slide_ms: i64, size_ms: i64) -> Vec<String> {
    let mut counts: BTreeMap<(i64, &str), i64> = BTreeMap::new();
    for (time_us, range) in recorded.lock().unwrap().values() {
        let ms = time_us.div_euclid(1000);
        for (_, user, _) in &rows[range.clone()] {
            let last = ms.div_euclid(slide_ms) * slide_ms;
            let starts = (0..).map(|n| last - n * slide_ms).take_while(|start| start + size_ms > ms);
            starts.for_each(|start| *counts.entry((start, user)).or_default() += 1);
        }
    }
    let mut lines: Vec<_> = counts.iter().map(|((s, user), n)| format!("{s} {} {user} {n}", s + size_ms)).collect();
    lines.sort();
    lines
}

fn windows(function: &str) -> String {
    format!(
        "SELECT CAST(EXTRACT(EPOCH FROM window_start) * 1000 AS BIGINT) AS s,
            CAST(EXTRACT(EPOCH FROM window_end) * 1000 AS BIGINT) AS e, user, count(*) AS n
         FROM {function} GROUP BY window_start, window_end, user"
    )
}

#[tokio::test]
async fn windows_over_the_clock_hold_the_rows_of_the_batches_that_were_recorded_though_the_process_dies() {
    let rows = clicks(40);
    let view = "(SELECT *, PROCTIME() AS p FROM clicks)";
    for (function, slide_ms, size_ms) in [
        (format!("TUMBLE({view}, DESCRIPTOR(p), INTERVAL '1' SECOND)"), 1000, 1000),
        (format!("HOP({view}, DESCRIPTOR(p), INTERVAL '1' SECOND, INTERVAL '4' SECOND)"), 1000, 4000),
    ] {
        let (dir, stored, recorded) = (tempfile::tempdir().unwrap(), Stored::default(), Recorded::default());
        let (sql, clock) = (windows(&function), moving(61_003));
        for batches in [7, 21] {
            let (sql, stored, clock, recorded) = (sql.clone(), stored.clone(), clock.clone(), recorded.clone());
            let (dir, table) = (dir.path().to_path_buf(), MemoryTable::bounded(&Rows::of(rows.clone())));
            let killed = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let handle = runtime.block_on(async {
                    let handle = start(table, &sql, &dir, &stored, &clock, &recorded).await;
                    let mut seen = handle.progress().take(batches);
                    while seen.next().await.is_some() {}
                    handle
                });
                // IMPORTANT: the runtime first. A handle that is dropped stops its query cleanly.
                drop(runtime);
                drop(handle);
            });
            killed.join().unwrap();
        }
        let table = MemoryTable::bounded(&Rows::of(rows.clone()));
        start(table, &sql, dir.path(), &stored, &clock, &recorded).await.wait().await.unwrap();
        let times: Vec<i64> = recorded.lock().unwrap().values().map(|(time_us, _)| *time_us).collect();
        assert!(times.is_sorted() && times.last().unwrap() - times[0] > 3_000_000, "{times:?}");
        assert_eq!(text(&stored.rows()), by_hand(&rows, &recorded, slide_ms, size_ms), "{function}");
    }
}

#[tokio::test]
async fn a_window_over_the_clock_closes_when_its_time_comes_though_no_row_does() {
    let view = "(SELECT *, PROCTIME() AS p FROM clicks)";
    for function in [
        format!("TUMBLE({view}, DESCRIPTOR(p), INTERVAL '1' HOUR)"),
        format!("HOP({view}, DESCRIPTOR(p), INTERVAL '20' MINUTE, INTERVAL '1' HOUR)"),
        format!("CUMULATE({view}, DESCRIPTOR(p), INTERVAL '20' MINUTE, INTERVAL '1' HOUR)"),
        format!("SESSION({view}, user, DESCRIPTOR(p), INTERVAL '20' MINUTE)"),
    ] {
        let (dir, stored, recorded) = (tempfile::tempdir().unwrap(), Stored::default(), Recorded::default());
        let rows = Rows::of(vec![(1000, "ann".into(), 1), (2000, "bob".into(), 2)]);
        let table = MemoryTable::followed(&rows);
        let handle = start(table, &windows(&function), dir.path(), &stored, &moving(1), &recorded).await;
        let windows = if function.starts_with("TUMBLE") || function.starts_with("SESSION") { 1 } else { 3 };
        let mut seen = handle.progress();
        while stored.rows().iter().map(RecordBatch::num_rows).sum::<usize>() < 2 * windows {
            assert!(seen.next().await.is_some(), "{function}: the query has stopped");
        }
        let batches = recorded.lock().unwrap().len();
        assert_eq!(batches, 1 + windows, "{function}: a batch with the rows, and one for each window that ends");
        for (n, (time_us, _)) in recorded.lock().unwrap().values().enumerate().skip(1) {
            let waited_min = (time_us - START_US) / 60_000_000;
            assert!(
                (20 * (n as i64 - 1)..=60 + 1).contains(&waited_min),
                "{function}: batch {n} after {waited_min} min"
            );
        }
        handle.stop().await.unwrap();
    }
}

#[tokio::test]
async fn what_has_no_meaning_over_the_clock_is_refused_and_what_is_kept_is_said_in_its_words() {
    let session = session_over(MemoryTable::bounded(&Rows::of(clicks(1))));
    let view = "(SELECT *, PROCTIME() AS p FROM clicks)";
    let both = format!(
        "SELECT a.n, b.n FROM (SELECT window_end, count(*) AS n FROM TUMBLE({view}, DESCRIPTOR(p), INTERVAL '1' SECOND)
            GROUP BY window_start, window_end) a
         JOIN (SELECT window_end, count(*) AS n FROM TUMBLE(clicks, DESCRIPTOR(at), INTERVAL '1' SECOND)
            GROUP BY window_start, window_end) b ON a.window_end = b.window_end"
    );
    let error = session.sql(&both).unwrap().compile().await.unwrap_err().to_string();
    assert!(error.contains("some windows of the query are over event time and others over PROCTIME()"), "{error}");
    let deduped = format!("SELECT user FROM DEDUP({view}, DESCRIPTOR(user), DESCRIPTOR(p), INTERVAL '1' SECOND)");
    let error = session.sql(&deduped).unwrap_err().to_string();
    assert!(error.contains("DEDUP remembers for a horizon of event time"), "{error}");
    let sql = windows(&format!("TUMBLE({view}, DESCRIPTOR(p), INTERVAL '1' SECOND)"));
    let lines = describe_state(&session.sql(&sql).unwrap().compile().await.unwrap());
    assert!(lines[0].contains("until the clock passes its last window"), "{lines:?}");
}
