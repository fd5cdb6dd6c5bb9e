//! The law: for every query and every way of cutting the input into batches, what was streamed adds up to what
//! DataFusion answers in batch over the same rows.
//!
//! Rows, queries and cuts are generated from a seed; the tables only grow, or change; now and then the query is stopped,
//! or killed, and goes on from its checkpoint. Which rows are late says a model of its own. A failing case is made smaller
//! and shown as an `.slt` file, which runs as it is below `tests/slt`; `MILLSTREAM_LAW_SEED=n` runs that query again,
//! `MILLSTREAM_LAW_CASES=n` runs about so many cases.

#![allow(clippy::unwrap_used, clippy::panic)]

mod as_of;
mod case;
mod cases;
mod changes;
mod data;
mod fallible;
mod joins;
mod merged;
mod model;
mod nexmark;
mod queries;
mod slt;
mod stream;
#[allow(dead_code, unused_imports, reason = "each test that shares it needs some of it")]
#[path = "../yardstick/mod.rs"]
mod yardstick;

use case::{Case, Input};
use data::Kind;
use queries::{Late, Query};
use stream::Prepared;
use yardstick::Random;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|n| n.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn what_was_streamed_adds_up_to_the_batch_answer() {
    case::hold("one table", Query::random, 250);
}

#[test]
fn what_was_joined_adds_up_to_the_batch_answer() {
    case::hold("two tables", joins::random, 250);
}

#[test]
fn what_was_joined_by_merged_columns_adds_up_to_the_batch_answer() {
    case::hold("merged columns", |random| merged::random(random).with_kinds(random), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merged_column_is_the_first_of_both_that_is_there() {
    for seed in 0..crate::number("MILLSTREAM_LAW_CASES").map_or(100, |cases| cases / 10) {
        let mut random = Random::new(seed);
        let (merged, spelled) = merged::pair(&mut random);
        let input = Input::random(&mut random, &merged);
        let spelled = Query { sql: spelled, ..merged.clone() };
        let mut answers = vec![];
        for query in [&merged, &spelled] {
            let prepared = Prepared::new(query).await.unwrap_or_else(|e| panic!("seed {seed}: {}: {e}", query.sql));
            let answer = prepared.in_batch(input.tables()).await;
            answers.push(answer.unwrap_or_else(|e| panic!("seed {seed}: {}: {e}", query.sql)));
        }
        let difference = yardstick::difference(&answers[1], &answers[0]);
        assert_eq!(difference, None, "seed {seed}: {} is not {}", merged.sql, spelled.sql);
    }
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
        let partitions = data::partitions(&mut random, Kind::Rows);
        for (keys, seconds) in [("k", 0), ("n", 1), ("n, b", 5), ("k", 60)] {
            let horizon = format!("INTERVAL '{seconds}' SECOND");
            let dedup = format!("SELECT * FROM DEDUP((SELECT {columns} FROM t), DESCRIPTOR({keys}), ts, {horizon})");
            let lag = format!(
                "SELECT {columns} FROM (SELECT {columns}, lag(ts) OVER (PARTITION BY {keys} ORDER BY ts, {total}) AS last FROM t) \
                 WHERE last IS NULL OR ts > last + {horizon}"
            );
            let answer = |sql: String| {
                let query = Query { sql, tables: 1, late: Late::Never, rounding: false, kinds: [Kind::Rows; 2] };
                let input = Input { partitions: partitions.clone(), others: vec![] };
                async move { Prepared::new(&query).await.unwrap().in_batch(input.tables()).await.unwrap() }
            };
            let difference = yardstick::difference(&answer(lag).await, &answer(dedup).await);
            assert_eq!(difference, None, "keys {keys}, {seconds} s, seed {seed}");
        }
    }
}
