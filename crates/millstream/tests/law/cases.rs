//! Rows by hand, each awkward for one kind of query, cut as finely as they can be.

use crate::Case;
use crate::data::Row;
use crate::queries::{Late, Query};

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
    };
    (0..).zip(floats).map(row).collect()
}

async fn holds(sql: &str, tables: usize, t: Vec<Row>, u: Vec<Row>) {
    for (rows_max, restart_after) in [(Some(1), None), (Some(3), Some(2)), (None, None)] {
        let query = Query { sql: sql.to_string(), tables, late: Late::Never, rounding: false };
        let (partitions, others) = (vec![t.clone()], if tables == 2 { vec![u.clone()] } else { vec![] });
        let case = Case { seed: 1, query, partitions, others, rows_max, restart_after };
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
