//! The law: for every query and every way of cutting the input into batches, what was streamed adds up to what
//! DataFusion answers in batch over the same rows.
//!
//! Rows, queries and cuts are generated from a seed; now and then the query is stopped and continued from its
//! checkpoint. Which rows are late says a model of its own. A failing case is made smaller and shown as an `.slt`
//! file, which runs as it is below `tests/slt`; `MILLSTREAM_LAW_SEED=n` runs that one again, `MILLSTREAM_LAW_CASES=n` runs more.

#![allow(clippy::unwrap_used, clippy::panic)]

mod as_of;
mod cases;
mod changes;
mod data;
mod joins;
mod model;
mod nexmark;
mod queries;
mod slt;
mod stream;
#[allow(dead_code, unused_imports, reason = "each test that shares it needs some of it")]
#[path = "../yardstick/mod.rs"]
mod yardstick;

use data::Row;
use queries::{Late, Query};
use yardstick::Random;

/// Everything that a case is made of.
#[derive(Clone, Debug)]
struct Case {
    seed: u64,
    query: Query,
    /// The rows of the table `t`.
    partitions: Vec<Vec<Row>>,
    /// The rows of the table `u`; empty where the query has no use for it.
    others: Vec<Vec<Row>>,
    rows_max: Option<u64>,
    /// After how many batches the query is stopped and started again; `None`: never.
    restart_after: Option<u64>,
}

impl Case {
    fn random(seed: u64, query: impl Fn(&mut Random) -> Query) -> Self {
        let mut random = Random::new(seed);
        let query = query(&mut random);
        let partitions = data::partitions(&mut random);
        let others = if query.tables == 2 { data::partitions(&mut random) } else { vec![] };
        let rows_max = *random.pick(&[Some(1), Some(2), Some(7), Some(30), None]);
        let restart_after = random.one_in(3).then(|| random.below(12));
        Self { seed, query, partitions, others, rows_max, restart_after }
    }

    /// What is wrong, if the law does not hold.
    async fn broken(&self) -> Option<String> {
        let (accepted, late) = model::split(&self.partitions, self.query.late);
        let (others, late_others) = model::split(&self.others, self.query.late);
        let late = late + late_others;
        let expected = match stream::in_batch(&self.query, [&accepted, &others]).await {
            Ok(rows) => rows,
            Err(error) => return Some(format!("the batch answer failed: {error}")),
        };
        match stream::streamed(self).await {
            Err(error) => Some(format!("the stream failed: {error}")),
            Ok(answer) if answer.late != late => Some(format!("{} rows were late, the model says {late}", answer.late)),
            Ok(answer) => yardstick::difference(&expected, &answer.rows),
        }
    }

    fn partition(&mut self, number: usize) -> &mut Vec<Row> {
        let own = self.partitions.len();
        if number < own { &mut self.partitions[number] } else { &mut self.others[number - own] }
    }

    /// The same failure with as few rows as can be found in a bounded number of tries.
    async fn shrunk(mut self) -> Self {
        let mut tries = 0;
        let mut size = self.partitions.iter().chain(&self.others).map(Vec::len).max().unwrap_or(0);
        while size > 0 {
            for partition in 0..self.partitions.len() + self.others.len() {
                let mut at = 0;
                while at < self.partition(partition).len() && tries < 300 {
                    tries += 1;
                    let mut smaller = self.clone();
                    let end = (at + size).min(smaller.partition(partition).len());
                    smaller.partition(partition).drain(at..end);
                    if smaller.broken().await.is_some() {
                        self = smaller;
                    } else {
                        at += size;
                    }
                }
            }
            size /= 2;
        }
        self
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|n| n.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_streamed_adds_up_to_the_batch_answer() {
    hold(Query::random, 250).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_joined_adds_up_to_the_batch_answer() {
    hold(joins::random, 250).await;
}

async fn hold(query: impl Fn(&mut Random) -> Query, cases: u64) {
    let seeds = match number("MILLSTREAM_LAW_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MILLSTREAM_LAW_CASES").unwrap_or(cases),
    };
    let cases = seeds.end - seeds.start;
    let (mut failures, mut batches) = (0, 0);
    for seed in seeds {
        let case = Case::random(seed, &query);
        if case.broken().await.is_none() {
            batches += 1;
            continue;
        }
        failures += 1;
        let case = case.shrunk().await;
        let why = case.broken().await.unwrap_or_else(|| "it no longer fails".to_string());
        eprintln!("seed {} breaks the law:\n\n{}", case.seed, slt::file(&case).await);
        eprintln!("{why}\n");
        if failures == 10 {
            break;
        }
    }
    assert_eq!(failures, 0, "of {cases} cases; {batches} held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_case_that_is_written_down_as_an_slt_file_holds_there_too() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 0..24 {
        let case = match seed % 2 {
            0 => Case::random(seed, Query::random),
            _ => Case::random(seed, joins::random),
        };
        let (path, text) = (dir.path().join(format!("{seed}.slt")), slt::file(&case).await);
        std::fs::write(&path, &text).unwrap();
        let held = tokio::task::spawn_blocking(move || yardstick::slt::held(&path, seed)).await.unwrap();
        held.unwrap_or_else(|wrong| panic!("{text}\n{wrong}"));
    }
}

/// A query with words around it, where they have a meaning there.
async fn hold_with(words: impl Fn(&str) -> String, query: impl Fn(&mut Random) -> Query, cases: u64, at_least: u64) {
    let mut held = 0;
    for seed in 0..cases {
        let worded = |random: &mut Random| {
            let query = query(random);
            Query { sql: words(&query.sql), ..query }
        };
        let case = Case::random(seed, worded);
        match case.broken().await {
            None => held += 1,
            Some(why) if why.contains("has no meaning here") => {}
            Some(why) => panic!("seed {seed}: {}: {why}", case.query.sql),
        }
    }
    assert!(held >= at_least, "{held} of {cases} were answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_ttl_that_no_key_outlives_changes_no_answer() {
    let words = |sql: &str| format!("SET 'state.ttl' = '10 d'; {sql}");
    hold_with(words, Query::random, 80, 60).await;
    hold_with(words, joins::random, 80, 60).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_final_answer_is_the_batch_answer_whatever_the_cut() {
    let words = |sql: &str| format!("{sql} EMIT FINAL");
    let plain = |query: Query| Query { sql: query.sql.trim_end_matches(" EMIT CHANGES").to_string(), ..query };
    hold_with(words, |random| plain(Query::random(random)), 80, 80).await;
    hold_with(words, |random| plain(joins::random(random)), 60, 60).await;
}

#[tokio::test]
async fn dedup_is_what_lag_says_of_the_last_row_of_a_key() {
    let columns = "k, n, d, b, ts";
    let total = "k NULLS FIRST, n NULLS FIRST, d NULLS FIRST, b NULLS FIRST";
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let partitions = data::partitions(&mut random);
        for (keys, seconds) in [("k", 0), ("n", 1), ("n, b", 5), ("k", 60)] {
            let horizon = format!("INTERVAL '{seconds}' SECOND");
            let dedup = format!("SELECT * FROM DEDUP((SELECT {columns} FROM t), DESCRIPTOR({keys}), ts, {horizon})");
            let lag = format!(
                "SELECT {columns} FROM (SELECT {columns}, lag(ts) OVER (PARTITION BY {keys} ORDER BY ts, {total}) AS last FROM t) \
                 WHERE last IS NULL OR ts > last + {horizon}"
            );
            let answer = |sql: String| {
                let query = Query { sql, tables: 1, late: Late::Never, rounding: false };
                let partitions = partitions.clone();
                async move { stream::in_batch(&query, [&partitions, &[]]).await.unwrap() }
            };
            let difference = yardstick::difference(&answer(lag).await, &answer(dedup).await);
            assert_eq!(difference, None, "keys {keys}, {seconds} s, seed {seed}");
        }
    }
}
