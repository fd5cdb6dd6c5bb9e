//! Rows by hand, each awkward for one kind of query, cut as finely as they can be.

use std::sync::Arc;

use millstream::core::source::Limit;
use millstream::sql::{BuiltIn, PlannedQuery, Planner};

use crate::case::{Case, Input, Life};
use crate::data::Row;
use crate::queries::{Late, Query, ROWS};
use crate::yardstick::{Floats, Interruption, LIMIT, Published, Run, added_up, batch_answer, difference, ran};

/// A row a second: its number, and a float.
fn rows(floats: &[f64]) -> Vec<Row> {
    let row = |(n, x): (i64, &f64)| Row {
        k: Some("a"),
        n: Some(n),
        x: Some(*x),
        d: None,
        b: None,
        l: None,
        ts_ms: 1_577_836_800_000 + n * 1000,
        goes: false,
    };
    (0..).zip(floats).map(row).collect()
}

async fn holds(sql: &str, tables: usize, t: Vec<Row>, u: Vec<Row>) {
    for (rows_max, restart_after) in [(Some(1), None), (Some(3), Some(2)), (None, None)] {
        let query = Query { sql: sql.to_string(), tables, late: Late::Never, rounding: false, kinds: ROWS };
        let (partitions, others) = (vec![t.clone()], if tables == 2 { vec![u.clone()] } else { vec![] });
        let interruptions = restart_after.into_iter().map(|batches| Interruption::Stop { batches }).collect();
        let life = Life { seed: 1, rows_max, limit: LIMIT.rows, often: false, interruptions };
        let case = Case { query, input: Input { partitions, others }, life };
        let broken = case.broken().await;
        assert_eq!(broken, None, "{sql}, cut by {rows_max:?}");
    }
}

#[tokio::test]
async fn a_ranking_is_cut_only_where_a_whole_number_says_so() {
    let numbered = "SELECT n, r FROM (SELECT n, row_number() OVER (ORDER BY n, ts) AS r FROM t)";
    let t = rows(&[0.0; 12]);
    for bound in [
        "r < 2.5",
        "r <= 2.5",
        "2.5 > r",
        "r BETWEEN 0.5 AND 2.5",
        "r < 3",
        "r <= 2",
        "r < CAST(3 AS SMALLINT)",
        "CAST(r AS VARCHAR) <= '3'",
        "CAST(r AS DOUBLE) / 2 < 1.5",
        "CAST(r AS VARCHAR) < '2'",
    ] {
        holds(&format!("{numbered} WHERE {bound}"), 1, t.clone(), vec![]).await;
    }
}

#[tokio::test]
async fn a_minus_zero_joins_a_zero_as_in_batch() {
    let (t, u) = (rows(&[0.0, -0.0, 1.0, f64::NAN]), rows(&[-0.0, 0.0, f64::NAN, -1.0]));
    for sql in [
        "SELECT a.n, b.n AS m FROM t a JOIN u b ON a.x = b.x",
        "SELECT a.n, b.n AS m FROM t a FULL JOIN u b ON a.x = b.x",
        "SELECT n FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.x = t.x)",
        "SELECT n FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.x = t.x)",
        "SELECT a.n, b.n AS m FROM t a LEFT JOIN u b ON make_array(a.x) = make_array(b.x)",
        "SELECT x FROM t INTERSECT SELECT x FROM u",
    ] {
        holds(sql, 2, t.clone(), u.clone()).await;
    }
}

#[tokio::test]
async fn a_nan_is_one_of_the_same_bits_over_a_changelog_too() {
    let t = rows(&[f64::NAN, -f64::NAN, f64::NAN, 1.0]);
    let changes = "(SELECT x, n, count(*) AS c FROM t GROUP BY x, n)";
    for sql in [
        format!("SELECT x, count(*) AS c FROM {changes} GROUP BY x"),
        format!("SELECT count(DISTINCT x) AS c FROM {changes}"),
        format!("SELECT x FROM {changes} EXCEPT ALL SELECT x FROM t WHERE n = 0"),
    ] {
        holds(&sql, 1, t.clone(), vec![]).await;
    }
}

fn plan(text: &str, dir: &std::path::Path) -> (Planner, PlannedQuery) {
    let mut planner = Planner::new(Arc::new(BuiltIn), dir).unwrap();
    let planned = planner.plan("cases", text).unwrap().queries.pop().unwrap();
    (planner, planned)
}

#[tokio::test]
async fn the_last_instant_of_a_window_is_a_second_before_its_end_where_times_are_whole_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let table = |delay_ms: u32| {
        format!(
            "CREATE TABLE t (n BIGINT, ts TIMESTAMP(0), WATERMARK FOR ts AS ts - INTERVAL '{delay_ms}' MILLISECOND)
             WITH ('connector' = 'filesystem', 'path' = 't.ndjson', 'format' = 'json');"
        )
    };
    // The watermark stands at 9.5 when the row of second 9 comes.
    let line = |(n, s): (usize, &i64)| format!("{{\"n\":{n},\"ts\":\"2026-01-01 00:00:{s:02}\"}}\n");
    let lines: String = [1, 10, 9, 12, 25, 24, 41].iter().enumerate().map(line).collect();
    std::fs::write(dir.path().join("t.ndjson"), lines).unwrap();
    let windows = "TUMBLE(t, ts, INTERVAL '10' SECOND)";
    for query in [
        format!("SELECT n, window_time, row_number() OVER (PARTITION BY window_time ORDER BY ts) AS r FROM {windows}"),
        format!("SELECT window_time, count(*) AS c FROM {windows} GROUP BY window_time"),
        format!(
            "SELECT window_time, g, count(*) AS c FROM (SELECT *, ts > window_start AS g FROM {windows}) GROUP BY window_time, g"
        ),
        format!(
            "SELECT window_time, c, lag(c) OVER (ORDER BY window_time) AS l FROM
             (SELECT window_time, count(*) AS c FROM {windows} GROUP BY window_start, window_end, window_time)"
        ),
        "SELECT n, window_time, lag(n) OVER (PARTITION BY window_time ORDER BY ts) AS l FROM SESSION(t, ts, INTERVAL '3' SECOND)".to_string(),
    ] {
        // A row is late for a session by its own time.
        let table = table(if query.contains("SESSION") { 2000 } else { 500 });
        let text = format!("{table}\n{query};");
        let (planner, planned) = plan(&text, dir.path());
        let expected = batch_answer(&planner, &planned, Floats::Exactly).await.unwrap_or_else(|e| panic!("{query}: {e}"));
        let (state, published) = (tempfile::tempdir().unwrap(), Published::default());
        let limit = Limit { rows: 1, ..LIMIT };
        let mut run = Run::new(&planner, &planned, state.path(), &published);
        run.config.limit = limit;
        let ended = ran(&run, None).await;
        assert_eq!(ended.map_err(|e| format!("{query}: {e}")), Ok(0));
        assert_eq!(difference(&expected, &added_up(&published, Floats::Exactly).unwrap()), None, "{query}");
    }
}
