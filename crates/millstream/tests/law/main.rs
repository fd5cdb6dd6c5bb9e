//! The law: for every query and every way of cutting the input into batches, what was streamed adds up to what
//! DataFusion answers in batch over the same rows.
//!
//! Rows, queries and cuts are generated from a seed; now and then the query is stopped and continued from its
//! checkpoint. Which rows are late says a model of its own. A failing case is made smaller before it is shown;
//! `MILLSTREAM_LAW_SEED=n` runs that one again, `MILLSTREAM_LAW_CASES=n` runs more.

#![allow(clippy::unwrap_used, clippy::panic)]

mod data;
mod model;
mod queries;
mod random;
mod stream;

use data::Row;
use queries::Query;
use random::Random;

/// Everything that a case is made of.
#[derive(Clone, Debug)]
struct Case {
    seed: u64,
    query: Query,
    partitions: Vec<Vec<Row>>,
    rows_max: Option<u64>,
    /// After how many batches the query is stopped and started again; `None`: never.
    restart_after: Option<u64>,
}

impl Case {
    fn random(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let query = Query::random(&mut random);
        let partitions = data::partitions(&mut random);
        let rows_max = *random.pick(&[Some(1), Some(2), Some(7), Some(30), None]);
        let restart_after = random.one_in(3).then(|| random.below(12));
        Self { seed, query, partitions, rows_max, restart_after }
    }

    /// What is wrong, if the law does not hold.
    async fn broken(&self) -> Option<String> {
        let (accepted, late) = model::split(&self.partitions, self.query.window);
        let expected = match stream::in_batch(&self.query, &accepted).await {
            Ok(rows) => rows,
            Err(error) => return Some(format!("the batch answer failed: {error}")),
        };
        match stream::streamed(self).await {
            Err(error) => Some(format!("the stream failed: {error}")),
            Ok(answer) if answer.late != late => Some(format!("{} rows were late, the model says {late}", answer.late)),
            Ok(answer) => model::difference(&expected, &answer.rows),
        }
    }

    /// The same failure with as few rows as can be found in a bounded number of tries.
    async fn shrunk(mut self) -> Self {
        let mut tries = 0;
        let mut size = self.partitions.iter().map(Vec::len).max().unwrap_or(0);
        while size > 0 {
            for partition in 0..self.partitions.len() {
                let mut at = 0;
                while at < self.partitions[partition].len() && tries < 300 {
                    tries += 1;
                    let mut smaller = self.clone();
                    let end = (at + size).min(smaller.partitions[partition].len());
                    smaller.partitions[partition].drain(at..end);
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
    let seeds = match number("MILLSTREAM_LAW_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MILLSTREAM_LAW_CASES").unwrap_or(250),
    };
    let cases = seeds.end - seeds.start;
    let (mut failures, mut batches) = (0, 0);
    for seed in seeds {
        let case = Case::random(seed);
        if case.broken().await.is_none() {
            batches += 1;
            continue;
        }
        failures += 1;
        let case = case.shrunk().await;
        let why = case.broken().await.unwrap_or_else(|| "it no longer fails".to_string());
        eprintln!(
            "seed {} breaks the law: {}\n  cut {:?}, restart {:?}",
            case.seed, case.query.sql, case.rows_max, case.restart_after
        );
        for (i, rows) in case.partitions.iter().enumerate() {
            rows.iter().for_each(|row| eprintln!("  p{i} {row:?}"));
        }
        eprintln!("{why}\n");
        if failures == 10 {
            break;
        }
    }
    assert_eq!(failures, 0, "of {cases} cases; {batches} held");
}
