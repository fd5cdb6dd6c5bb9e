//! The law where rows fail: the answer is that over the rows that did not, and each of the others is counted.
//!
//! Which rows fail says a model of its own, written without a look at the engine: a row that the query asks a value of that
//! there is none of. A row that a condition or a guard leaves out before is not asked.

use crate::case::{Input, Life};
use crate::data::{Kind, Row};
use crate::model;
use crate::queries::{Late, Query, ROWS, Window};
use crate::stream::Prepared;
use crate::yardstick::{self, Random};

type Is = fn(&Row) -> bool;

/// Whole numbers, and the rows that have none.
const VALUES: [(&str, Is); 7] = [
    ("10 / n", |r| r.n == Some(0)),
    ("7 % (n - 1)", |r| r.n == Some(1)),
    ("CAST(n * 100 AS TINYINT)", |r| r.n.is_some_and(|n| n.abs() > 1)),
    ("CAST(k AS BIGINT)", |r| r.k.is_some()),
    ("CAST(coalesce(CAST(n AS VARCHAR), k) AS BIGINT)", |r| r.n.is_none() && r.k.is_some()),
    ("CAST(CASE WHEN b THEN '12' ELSE k END AS INT)", |r| r.b != Some(true) && r.k.is_some()),
    ("n / (n + 2)", |r| r.n == Some(-2)),
];

/// Values that every row has, by a guard.
const GUARDED: [&str; 4] = [
    "CASE WHEN n <> 0 THEN 10 / n END",
    "10 / NULLIF(n, 0)",
    "TRY_CAST(k AS BIGINT)",
    "CASE WHEN n IS NULL OR n = 0 OR 10 / n > 3 THEN 1 ELSE 2 END",
];

/// Conditions that are true or false.
const CONDITIONS: [(&str, Is); 5] = [
    ("TRUE", |_| true),
    ("k IS NOT NULL", |r| r.k.is_some()),
    ("b IS TRUE", |r| r.b == Some(true)),
    ("coalesce(n, 0) <> 0", |r| r.n.unwrap_or(0) != 0),
    ("ts >= TIMESTAMP '2020-01-01 00:00:10'", |r| r.ts_ms >= 1_577_836_810_000),
];

/// A query, and what its rows are asked: a value by the first function of the rows that meet the second.
struct Asked {
    query: Query,
    values: Vec<Is>,
    of: Is,
}

impl Asked {
    fn random(random: &mut Random) -> Self {
        let ((f, fails), (p, of)) = (*random.pick(&VALUES), *random.pick(&CONDITIONS));
        // Another one: where two are the same, DataFusion's batch computes it for rows that the condition leaves out too.
        let (g, g_fails) = loop {
            let other = *random.pick(&VALUES);
            if other.0 != f {
                break other;
            }
        };
        let (guarded, window) = (*random.pick(&GUARDED), Window::random(random));
        let (windows, starts) = (window.sql("t", true), "window_start, window_end");
        let (mut late, mut values) = (Late::Never, vec![fails]);
        let sql = match random.below(9) {
            0 => format!("SELECT k, n, {f} AS f FROM t WHERE {p}"),
            1 => {
                values.push(g_fails);
                format!("SELECT {f} AS f, {guarded} AS s, {g} AS g FROM t WHERE {p}")
            }
            2 => format!("SELECT k, n FROM t WHERE {p} AND {f} % 2 = 0"),
            3 => format!("SELECT k, n, {guarded} AS s FROM t WHERE NOT ({p}) OR {f} % 2 = 0"),
            4 => format!("SELECT k, count(*) AS c, sum({f}) AS s, max({f}) AS m FROM t WHERE {p} GROUP BY k"),
            5 => format!("SELECT {f} AS f, count(*) AS c, min(n) AS l FROM t WHERE {p} GROUP BY {f}"),
            6 => format!("SELECT count(*) AS c, sum({f}) AS s FROM t WHERE {p}"),
            7 => {
                late = Late::Window(window);
                format!(
                    "SELECT {starts}, k, sum({f}) AS s, count(*) AS c FROM {windows} WHERE {p} GROUP BY {starts}, k"
                )
            }
            _ => {
                values.push(g_fails);
                format!("SELECT f, count(DISTINCT g) AS c FROM (SELECT {f} AS f, {g} AS g FROM t WHERE {p}) GROUP BY f")
            }
        };
        let kinds = match late == Late::Never && random.one_in(3) {
            true => [Kind::Changes, Kind::Rows],
            false => ROWS,
        };
        Self { query: Query { sql, tables: 1, late, rounding: false, kinds }, values, of }
    }

    /// Leaves the rows that are used, and counts those that are late and those that fail. A row that fails moves no
    /// watermark: its time may be what is wrong with it.
    fn judge(&self, rows: &mut Vec<Row>) -> (u64, u64) {
        let (mut late, mut rejected, mut used) = (0, 0, vec![]);
        for row in rows.drain(..) {
            used.push(row);
            if model::late(&used, self.query.late).last() == Some(&true) {
                late += 1;
            } else if used.last().is_some_and(|row| self.fails(row)) {
                rejected += 1;
            } else {
                continue;
            }
            used.pop();
        }
        *rows = used;
        (late, rejected)
    }

    fn fails(&self, row: &Row) -> bool {
        (self.of)(row) && self.values.iter().any(|fails| fails(row))
    }
}

/// How many rows were rejected, or what is wrong.
async fn held(seed: u64) -> Result<u64, String> {
    let mut random = Random::new(seed);
    let asked = Asked::random(&mut random);
    let query = &asked.query;
    let wrong = |why: String| format!("seed {seed}: {} over {:?}: {why}", query.sql, query.kinds[0]);
    let prepared = Prepared::new(query).await.map_err(|e| wrong(e.to_string()))?;
    let input = Input::random(&mut random, query);
    let (mut accepted, mut late, mut rejected) = (input.clone(), 0, 0);
    for rows in &mut accepted.partitions {
        let counts = asked.judge(rows);
        (late, rejected) = (late + counts.0, rejected + counts.1);
    }
    let expected = prepared.in_batch(accepted.tables()).await.map_err(|e| wrong(format!("in batch: {e}")))?;
    for _ in 0..3 {
        let life = Life::random(&mut random);
        let answer = prepared.streamed(&input, &life).await.map_err(|e| wrong(format!("{life:?}: {e}")))?;
        if (answer.late, answer.rejected) != (late, rejected) {
            let (late_there, rejected_there) = (answer.late, answer.rejected);
            return Err(wrong(format!(
                "late {late_there} and rejected {rejected_there}, the model says {late} and {rejected}; {life:?}; {input:?}"
            )));
        }
        if let Some(difference) = yardstick::difference(&expected, &answer.rows) {
            return Err(wrong(format!("{difference}; {life:?}; {input:?}")));
        }
    }
    Ok(rejected)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_fail_are_counted_and_the_answer_is_that_over_the_others() {
    let seeds = match crate::number("MILLSTREAM_LAW_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..crate::number("MILLSTREAM_LAW_CASES").map_or(200, |cases| cases / 6),
    };
    let (mut rejected, mut wrong, cases) = (0, vec![], seeds.end - seeds.start);
    for seed in seeds {
        match held(seed).await {
            Ok(rows) => rejected += rows,
            Err(why) => wrong.push(why),
        }
        assert!(wrong.len() < 10, "{}", wrong.join("\n"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases < 20 || rejected > cases, "{rejected} rows failed in {cases} cases");
}
