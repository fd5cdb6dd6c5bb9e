//! Functions, run by DataFusion over constants.

use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::SessionContext;

use super::*;

pub async fn answer(sql: &str) -> Result<Vec<String>, String> {
    let mut planner = Planner::new(Arc::new(Nothing), "/data").unwrap();
    let plan = planner.plan("q.sql", sql).map_err(|e| e.to_string())?.queries.pop().unwrap().plan;
    let context = SessionContext::new_with_state(planner.state().clone());
    let frame = context.execute_logical_plan(plan).await.map_err(|e| e.to_string())?;
    let batches = frame.collect().await.map_err(|e| e.to_string())?;
    let table = pretty_format_batches(&batches).unwrap().to_string();
    let rows = table.lines().skip(3).filter(|l| l.starts_with('|'));
    Ok(rows.map(|l| l.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join(",")).collect())
}

pub async fn one(expr: &str) -> String {
    answer(&format!("SELECT {expr} AS x")).await.unwrap_or_else(|e| panic!("{expr}: {e}")).pop().unwrap()
}

#[tokio::test]
async fn functions_of_times() {
    assert_eq!(one("DATE_FORMAT(TIMESTAMP '2026-03-04 05:06:07', 'yyyy-MM-dd HH:mm')").await, "2026-03-04 05:06");
    assert_eq!(one("DATE_FORMAT('2026-03-04 05:06:07', 'HH:mm:ss')").await, "05:06:07");
    assert_eq!(one("HOUR(TIMESTAMP '2026-03-04 05:06:07')").await, "5");
    assert_eq!(one("DAYOFWEEK(DATE '2026-03-01')").await, "1");
    assert_eq!(one("TO_TIMESTAMP_LTZ(1500, 3)").await, "1970-01-01T00:00:01.500Z");
    assert_eq!(one("TO_TIMESTAMP_LTZ(2, 0)").await, "1970-01-01T00:00:02Z");
    assert_eq!(one("HOUR(TO_TIMESTAMP_LTZ(3600, 0))").await, "1");
    assert_eq!(one("UNIX_TIMESTAMP('1970-01-02 00:00:00')").await, "86400");
}

#[tokio::test]
async fn functions_of_text() {
    assert_eq!(one("SPLIT_INDEX('a/b/c', '/', 1)").await, "b");
    assert_eq!(one("coalesce(SPLIT_INDEX('a/b/c', '/', 3), 'none')").await, "none");
    assert_eq!(one("coalesce(SPLIT_INDEX('a/b/c', '/', -1), 'none')").await, "none");
    assert_eq!(one("REGEXP_EXTRACT('x&id=7', '(&|^)id=([^&]*)', 2)").await, "7");
    assert_eq!(one("REGEXP_EXTRACT('b', '(a)?(b)', 2)").await, "b");
    assert_eq!(one("coalesce(REGEXP_EXTRACT('x', 'y'), 'none')").await, "none");
    assert_eq!(one("count_char('coconut', 'c')").await, "2");
}

#[tokio::test]
async fn functions_of_columns_go_row_by_row() {
    let sql = "SELECT SPLIT_INDEX(a, ',', n) AS x, DATE_FORMAT(t, p) AS y, MOD(n + 3, 2) AS z
               FROM (VALUES ('q,r', 0, TIMESTAMP '2026-01-01 00:00:00', 'yyyy'), ('q,r', 1, NULL, 'MM')) AS v(a, n, t, p)";
    assert_eq!(answer(sql).await.unwrap(), ["q,2026,1", "r,,0"]);
}

#[tokio::test]
async fn if_computes_only_the_branch_that_is_taken() {
    let sql = "SELECT IF(n = 0, -1, 10 / n) AS x FROM (VALUES (0), (5)) AS v(n)";
    assert_eq!(answer(sql).await.unwrap(), ["-1", "2"]);
}

#[tokio::test]
async fn a_cast_to_a_timestamp_computes() {
    let sql = "SELECT CAST(t AS TIMESTAMP(0)) AS a, CAST(t AS TIMESTAMP_LTZ(3)) AS b
               FROM (VALUES (CAST('2026-01-01 00:00:00.123456' AS TIMESTAMP))) AS v(t)";
    assert_eq!(answer(sql).await.unwrap(), ["2026-01-01T00:00:00,2026-01-01T00:00:00.123Z"]);
}

#[tokio::test]
async fn approximate_functions_take_their_parameter_as_a_decimal() {
    let sql = "SELECT approx_percentile_cont(n, 0.5) AS x FROM (VALUES (1), (2), (3)) AS v(n)";
    assert_eq!(answer(sql).await.unwrap(), ["2.0"]);
}

#[tokio::test]
async fn wrong_arguments_are_refused_where_the_call_is_planned() {
    let error = answer("SELECT DATE_FORMAT(TIMESTAMP '2026-01-01 00:00:00', 'QQ')").await.unwrap_err();
    assert!(error.contains("'QQ' is no field of a date"), "{error}");
    let error = answer("SELECT REGEXP_EXTRACT('a', '(', 1)").await.unwrap_err();
    assert!(error.contains("is no regular expression"), "{error}");
    let error = answer("SELECT SPLIT_INDEX('a', 1)").await.unwrap_err();
    assert!(error.contains("SPLIT_INDEX"), "{error}");
}
