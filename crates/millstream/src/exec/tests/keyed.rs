//! GROUP BY without a window, against plain DataFusion.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};

use super::harness::*;
use crate::changelog;
use crate::exec::{KeyedAggregate, KeyedAggregateExec, ScanExec};

async fn stream(sql: &str) -> datafusion::common::Result<Stream> {
    let query = query(sql).await?;
    Ok(Stream::new(move || {
        let scan = Arc::new(ScanExec::new(0, schema()));
        let keys = query.groups.clone();
        let aggregate = KeyedAggregate { keys, standing: vec![], aggregates: query.aggregates.clone() };
        Arc::new(KeyedAggregateExec::try_new("t", scan, aggregate, &query.output).unwrap())
    }))
}

/// Runs the query over a random cut of the rows and compares the sum of its changes with the batch answer.
pub async fn check(sql: &str, keys: usize, tolerance: Tolerance, seed: u64, n: usize) {
    let mut random = Random(seed);
    let all = rows(&mut random, n);
    let mut stream = stream(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    let cuts = cuts(&mut random, n);
    let at = random.below(cuts.len() as u64) as usize;
    let mut changes: Vec<RecordBatch> = vec![];
    for (i, cut) in cuts.windows(2).enumerate() {
        let input = chunks(&mut random, &all.slice(cut[0], cut[1] - cut[0]));
        changes.extend(stream.batch(&mut random, input, None).await);
        if i == at || i + 2 == cuts.len() {
            let what = format!("{sql}, seed {seed}, after {} rows", cut[1]);
            let sum = changelog::consolidate(&changes, &stream.plan.schema()).unwrap();
            let got: Vec<RecordBatch> = sum.iter().map(without_weight).collect();
            let want = oracle(sql, &all.slice(0, cut[1])).await;
            assert_same(&want, &got, keys, tolerance, &what);
        }
    }
}

/// The rows of an answer, each of which must be there once.
pub fn without_weight(batch: &RecordBatch) -> RecordBatch {
    let (weight, rest) = batch.columns().split_last().unwrap();
    let weight: &Int64Array = weight.as_any().downcast_ref().unwrap();
    assert!(weight.values().iter().all(|w| *w == 1), "the changes do not add up to rows: {batch:?}");
    batch.project(&(0..rest.len()).collect::<Vec<_>>()).unwrap()
}

#[tokio::test]
async fn changes_add_up_to_the_batch_answer_for_any_cut() {
    let sql = "SELECT k, count(*), sum(v), avg(g), min(s), max(d) FROM t GROUP BY k";
    for seed in 0..20 {
        check(sql, 1, Tolerance::Rounding, seed, 300).await;
    }
}

#[tokio::test]
async fn null_nan_and_zero_keys_group_as_in_a_batch() {
    for seed in 0..10 {
        check("SELECT f, count(*) FROM t GROUP BY f", 1, Tolerance::Rounding, seed, 150).await;
        check("SELECT f, s, b, sum(v) FROM t GROUP BY f, s, b", 3, Tolerance::Rounding, seed, 300).await;
    }
}

#[tokio::test]
async fn an_expression_can_be_a_key() {
    for seed in 0..5 {
        check("SELECT v % 3, upper(s), count(*) FROM t GROUP BY v % 3, upper(s)", 2, Tolerance::Rounding, seed, 300)
            .await;
    }
}

#[tokio::test]
async fn distinct_rows_are_a_group_by_without_aggregates() {
    for seed in 0..10 {
        check("SELECT k, s FROM t GROUP BY k, s", 2, Tolerance::Rounding, seed, 300).await;
    }
}

#[tokio::test]
async fn without_keys_there_is_one_row_from_the_first_batch_on() {
    let sql = "SELECT count(*), sum(v), min(s), avg(g), count(DISTINCT s), array_agg(v) FROM t";
    for seed in 0..10 {
        check(sql, 0, Tolerance::Rounding, seed, 100).await;
    }
    let mut stream = stream("SELECT count(*), sum(v) FROM t").await.unwrap();
    let first = stream.run(vec![], None).await;
    stream.install();
    assert_eq!(lines(&first), ["[Int64(0), Int64(NULL), Int64(1)]"]);
    assert_eq!(lines(&stream.run(vec![], None).await), [""; 0], "an empty batch changes nothing");
}

#[tokio::test]
async fn an_answer_that_stays_the_same_is_not_emitted() {
    let mut stream = stream("SELECT max(v) FROM t").await.unwrap();
    let all = rows(&mut Random(1), 300);
    stream.run(vec![all.clone()], None).await;
    stream.install();
    assert!(stream.run(vec![all], None).await.is_empty());
}

#[tokio::test]
async fn old_rows_are_taken_away_before_new_ones_are_added() {
    let mut stream = stream("SELECT k, count(*) FROM t GROUP BY k").await.unwrap();
    let all = rows(&mut Random(5), 40);
    stream.run(vec![all.slice(0, 30)], None).await;
    stream.install();
    let output = whole(&stream.run(vec![all.slice(30, 10)], None).await, &stream.plan.schema());
    let weights: &Int64Array = output.columns().last().unwrap().as_any().downcast_ref().unwrap();
    assert!(weights.values().is_sorted() && weights.values().contains(&-1));
}
