//! GROUP BY over a changelog: rows come, come twice and go, and the answer is that of plain DataFusion over what is
//! left of them.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;

use super::harness::*;
use super::keyed::without_weight;
use crate::changelog;
use crate::exec::{Lifetime, Memory, RetractAggregate, RetractAggregateExec, ScanExec};

async fn stream(sql: &str) -> datafusion::common::Result<Stream> {
    stream_with(sql, Memory::from("t")).await
}

async fn stream_with(sql: &str, memory: Memory) -> datafusion::common::Result<Stream> {
    let query = query(sql).await?;
    Ok(Stream::new(move || {
        let scan = Arc::new(ScanExec::new(0, changelog::with_weight(&schema())));
        let (keys, weight) = (query.groups.clone(), schema().fields().len());
        let aggregates = query.aggregates.clone();
        let aggregate = RetractAggregate { keys, weight, last: None, lag_us: 0, standing: vec![], aggregates };
        Arc::new(RetractAggregateExec::try_new(memory.clone(), scan, aggregate, &query.output).unwrap())
    }))
}

/// These rows of the table, each with its weight.
fn changes(rows: &RecordBatch, of: &[(u32, i64)]) -> RecordBatch {
    let taken = take_record_batch(rows, &UInt32Array::from_iter_values(of.iter().map(|(row, _)| *row))).unwrap();
    let mut columns: Vec<ArrayRef> = taken.columns().to_vec();
    columns.push(Arc::new(Int64Array::from_iter_values(of.iter().map(|(_, weight)| *weight))));
    RecordBatch::try_new(changelog::with_weight(&schema()), columns).unwrap()
}

/// Runs the query over random changes and compares the sum of what it says with the batch answer over what is left.
pub async fn check(sql: &str, keys: usize, tolerance: Tolerance, seed: u64, n: usize) {
    let mut random = Random(seed);
    let all = rows(&mut random, n);
    let mut stream = stream(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    let mut left = vec![0i64; n];
    let mut said: Vec<RecordBatch> = vec![];
    let batches = 2 + random.below(8);
    let check_at = random.below(batches);
    for batch in 0..batches {
        let emptied = random.one_in(5);
        let mut of = vec![];
        for (row, left) in left.iter_mut().enumerate() {
            let weight = match (*left, random.below(4)) {
                (0, 0) => 1 + random.below(2) as i64,
                (present, _) if present > 0 && emptied => -present,
                (present, 0) if present > 0 => -1 - random.below(present as u64) as i64,
                // What comes and goes within a batch was never there.
                (_, 1) if random.one_in(6) => {
                    of.extend([(row as u32, 1), (row as u32, -1)]);
                    continue;
                }
                _ => continue,
            };
            *left += weight;
            of.push((row as u32, weight));
        }
        let whole = changes(&all, &of);
        let input = chunks(&mut random, &whole);
        said.extend(stream.batch(&mut random, input, None).await);
        if batch == check_at || batch + 1 == batches {
            let what = format!("{sql}, seed {seed}, after batch {batch}");
            let sum = changelog::consolidate(&said, &stream.plan.schema()).unwrap();
            let got: Vec<RecordBatch> = sum.iter().map(without_weight).collect();
            let there = left.iter().enumerate().flat_map(|(row, n)| (0..*n).map(move |_| row as u32));
            let there = take_record_batch(&all, &UInt32Array::from_iter_values(there)).unwrap();
            assert_same(&oracle(sql, &there).await, &got, keys, tolerance, &what);
        }
    }
}

#[tokio::test]
async fn what_is_left_of_the_rows_is_answered_for_any_keys() {
    for seed in 0..15 {
        let sql = "SELECT k, count(*), sum(v), avg(v), avg(d), sum(d), min(s), max(d), sum(g) FROM t GROUP BY k";
        check(sql, 1, Tolerance::Rounding, seed, 200).await;
        let sql = "SELECT f, s, b, sum(v), min(g), max(u) FROM t GROUP BY f, s, b";
        check(sql, 3, Tolerance::Rounding, seed, 120).await;
        check("SELECT k, s FROM t GROUP BY k, s", 2, Tolerance::Rounding, seed, 120).await;
    }
}

#[tokio::test]
async fn without_keys_the_row_stays_when_all_rows_are_gone() {
    let sql = "SELECT count(*), sum(v), max(s), avg(g), count(DISTINCT s) FROM t";
    for seed in 0..10 {
        check(sql, 0, Tolerance::Rounding, seed, 60).await;
    }
    let mut stream = stream("SELECT count(*), sum(v) FROM t").await.unwrap();
    let all = rows(&mut Random(3), 10);
    let first = stream.run(vec![], None).await;
    stream.install();
    assert_eq!(lines(&first), ["[Int64(0), Int64(NULL), Int64(1)]"]);
    stream.run(vec![changes(&all, &[(0, 1), (1, 1)])], None).await;
    stream.install();
    let last = stream.run(vec![changes(&all, &[(1, -1), (0, -1)])], None).await;
    assert!(lines(&last).contains(&"[Int64(0), Int64(NULL), Int64(1)]".to_string()), "{:?}", lines(&last));
}

#[tokio::test]
async fn a_row_that_was_never_there_is_a_fault_and_no_answer() {
    let stream = stream("SELECT k, count(*), max(v) FROM t GROUP BY k").await.unwrap();
    let all = rows(&mut Random(3), 10);
    let batch = crate::exec::BatchContext { inputs: vec![vec![changes(&all, &[(0, -1)])]], ..Default::default() };
    let context = batch.task_context(&datafusion::prelude::SessionContext::new().task_ctx());
    let error = datafusion::physical_plan::collect(Arc::clone(&stream.plan), context).await.unwrap_err();
    assert!(error.to_string().contains("take back a row that never came"), "{error}");
}

/// How many rows a table of the state has.
fn rows_of(stream: &Stream, table: &str) -> usize {
    let described = stream.state.lock().unwrap().describe();
    described.tables.iter().find(|t| t.name == table).unwrap().rows
}

#[tokio::test]
async fn groups_of_thousands_of_values_are_answered_as_small_ones_are() {
    for seed in 0..4 {
        let sql = "SELECT min(id), max(id), count(DISTINCT id), min(g), count(DISTINCT g), sum(g), max(s) FROM t";
        check(sql, 0, Tolerance::Rounding, seed, 3000).await;
        let sql = "SELECT b, min(id), max(id), count(DISTINCT id), min(g) FILTER (WHERE v > 0) FROM t GROUP BY b";
        check(sql, 1, Tolerance::Rounding, seed, 3000).await;
    }
}

#[tokio::test]
async fn a_value_that_was_never_there_is_a_fault_in_a_group_of_any_size_and_changes_nothing() {
    let all = rows(&mut Random(3), 2000);
    for n in [1, 20, 1500] {
        let mut stream = stream("SELECT count(*), min(id), max(id) FROM t").await.unwrap();
        let come: Vec<_> = (0..n).map(|row| (row, 1)).collect();
        stream.run(vec![changes(&all, &come)], None).await;
        stream.install();
        stream.restart().await;
        let error = stream.try_run(vec![changes(&all, &[(0, -1), (1900, -1), (1901, 1)])]).await.unwrap_err();
        assert!(error.to_string().contains("take back a row that never came"), "{error}");
        stream.discard();
        let last = stream.run(vec![changes(&all, &[(1902, 1)])], None).await;
        let answer = format!("[Int64({}), Int64(0), Int64(1902), Int64(1)]", n + 1);
        assert!(lines(&last).contains(&answer), "{answer} is not in {:?}", lines(&last));
    }
}

#[tokio::test]
async fn a_large_group_that_is_forgotten_or_goes_leaves_nothing_behind() {
    let lifetime = Lifetime { idle_us: [Some(16 * SECOND), None], forgetful: true };
    let memory = Memory { lifetime, ..Memory::from("t") };
    let sql = "SELECT b, min(id), count(DISTINCT id) FROM t GROUP BY b";
    let mut stream = stream_with(sql, memory).await.unwrap();
    let all = rows(&mut Random(3), 2000);
    let whole: Vec<_> = (0..2000).map(|row| (row, 1)).collect();
    stream.run(vec![changes(&all, &whole)], None).await;
    stream.install();
    assert!(rows_of(&stream, "values.0") > 30 && rows_of(&stream, "groups") == 3);
    stream.restart().await;
    stream.time_us = 60 * SECOND;
    stream.run(vec![], None).await;
    stream.discard();
    assert!(rows_of(&stream, "values.0") > 30 && rows_of(&stream, "groups") == 3);
    stream.run(vec![], None).await;
    stream.install();
    assert_eq!((rows_of(&stream, "values.0"), rows_of(&stream, "groups")), (0, 0));
    // Rows that are known go together with one that is not, and take the group with them by its count.
    stream.run(vec![changes(&all, &whole)], None).await;
    stream.install();
    let gone: Vec<_> = (1..2000).map(|row| (row, -1)).chain([(1, -1), (2, -1), (3, -1), (4, -1)]).collect();
    stream.run(vec![changes(&all, &gone)], None).await;
    stream.install();
    assert!(rows_of(&stream, "values.0") == 0 && rows_of(&stream, "groups") <= 1);
}
