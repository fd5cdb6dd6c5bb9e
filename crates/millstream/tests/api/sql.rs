//! SQL that a session streams: table functions, volatility, UNNEST, constants, and what ends in an error.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{Result as DfResult, ScalarValue, plan_err};
use datafusion::datasource::MemTable;
use datafusion::logical_expr::{Expr, Volatility, create_udaf};
use millstream::prelude::*;
use millstream::sql::StreamTable;

use crate::memory::{MemorySink, MemoryTable, Rows, Stored};
use crate::{clicks, session_over, text, udf};

/// What a query streams, in batches of so many rows, and then once more from its state.
pub async fn streamed(frame: &StreamFrame, rows: u64) -> Result<Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    let stored = Stored::default();
    for _ in 0..2 {
        let writer = frame.write_stream().sink(Box::new(MemorySink::new(&stored))).state_dir(dir.path());
        writer.max_batch_rows(rows).start().await?.wait().await?;
    }
    Ok(text(&stored.rows()))
}

async fn refused(session: &Session, sql: &str) -> String {
    let error = match session.sql(sql) {
        Ok(frame) => frame.compile().await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind(), ErrorKind::Query, "{error}");
    error.to_string()
}

/// `numbers(n)`: the numbers below n, as rows that are there; `clicks_of(seconds)`: a stream.
#[derive(Debug)]
struct Numbers;

fn number(args: &[Expr]) -> DfResult<i64> {
    match args {
        [Expr::Literal(ScalarValue::Int64(Some(n)), _)] => Ok(*n),
        _ => plan_err!("numbers takes a number"),
    }
}

impl TableFunctionImpl for Numbers {
    fn call_with_args(&self, args: TableFunctionArgs) -> DfResult<Arc<dyn TableProvider>> {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..number(args.exprs())?));
        let rows = RecordBatch::try_new(Arc::clone(&schema), vec![column])?;
        Ok(Arc::new(MemTable::try_new(schema, vec![vec![rows]])?))
    }
}

#[derive(Debug)]
struct Clicks;

impl TableFunctionImpl for Clicks {
    fn call_with_args(&self, args: TableFunctionArgs) -> DfResult<Arc<dyn TableProvider>> {
        let rows = Rows::of(clicks(number(args.exprs())?));
        Ok(Arc::new(StreamTable::of("clicks_of", Arc::new(MemoryTable::bounded(&rows)))))
    }
}

#[tokio::test]
async fn a_table_function_gives_its_rows_once_or_is_a_stream() {
    let session = session_over(MemoryTable::bounded(&Rows::of(clicks(4))));
    session.register_udtf("numbers", Arc::new(Numbers));
    session.register_udtf("clicks_of", Arc::new(Clicks));
    let once = session.sql("SELECT n FROM numbers(1 + 2)").unwrap();
    assert_eq!(streamed(&once, 1).await.unwrap(), ["0", "1", "2"]);
    let joined = session.sql("SELECT c.n, c.user FROM clicks c JOIN numbers(3) k ON c.n = k.n").unwrap();
    assert_eq!(streamed(&joined, 3).await.unwrap(), ["0 user0", "1 user1", "2 user2"]);
    let both = "SELECT a.n FROM clicks_of(1) a JOIN clicks_of(2) b ON a.n = b.n - 2";
    let both = session.sql(both).unwrap();
    assert_eq!(streamed(&both, 2).await.unwrap(), text(&both.collect().await.unwrap()));
    assert_eq!(streamed(&both, 2).await.unwrap(), ["0", "1", "2", "3"]);
    let error = refused(&session, "SELECT n FROM nubmers(3)").await;
    assert!(error.contains("there is no table function 'nubmers'; did you mean 'numbers'?"), "{error}");
}

#[tokio::test]
async fn a_volatile_function_of_any_kind_is_refused_by_its_name() {
    let session = session_over(MemoryTable::bounded(&Rows::of(clicks(1))));
    session.register_udf(udf("dice", Volatility::Volatile)).unwrap();
    session.register_udf(udf("steady", Volatility::Stable)).unwrap();
    let accumulator = |volatility| {
        let sum = datafusion::functions_aggregate::sum::sum_udaf();
        let number = Arc::new(DataType::Int64);
        let new = Arc::new(move |args: datafusion::logical_expr::function::AccumulatorArgs<'_>| sum.accumulator(args));
        create_udaf("pick", vec![DataType::Int64], number.clone(), volatility, new, Arc::new(vec![DataType::Int64]))
    };
    session.register_udaf(accumulator(Volatility::Volatile)).unwrap();
    for sql in [
        "SELECT dice(n) FROM clicks",
        "SELECT user FROM clicks WHERE dice(n) > 1",
        "SELECT user, pick(n) FROM clicks GROUP BY user",
        "SELECT pick(n) OVER (PARTITION BY user ORDER BY at) FROM clicks",
    ] {
        let error = refused(&session, sql).await;
        assert!(error.contains("() gives another value each time"), "{sql}: {error}");
    }
    let steady = session.sql("SELECT steady(n) FROM clicks WHERE n = 3").unwrap();
    assert_eq!(streamed(&steady, 1).await.unwrap(), ["6"]);
    session.register_udaf(accumulator(Volatility::Immutable)).unwrap();
    let picked = session.sql("SELECT user, pick(n) FROM clicks GROUP BY user").unwrap();
    assert_eq!(picked.compile().await.unwrap().exactness.to_string(), "exact");
}

#[tokio::test]
async fn constants_are_written_once_and_never_again() {
    let session = Session::new().unwrap();
    let values = session.sql("SELECT * FROM (VALUES (1, 'a'), (2, 'b')) AS v(n, s)").unwrap();
    assert_eq!(streamed(&values, 1).await.unwrap(), ["1 a", "2 b"]);
    let one = session.sql("SELECT 1 + 1").unwrap();
    assert_eq!(streamed(&one, 1).await.unwrap(), ["2"]);
}

/// Orders whose arrays are NULL, empty, or have NULLs in them.
const ORDERS: [(i64, Option<&[Option<i64>]>); 5] =
    [(1, Some(&[Some(7), None, Some(7)])), (2, Some(&[])), (3, None), (4, Some(&[Some(9)])), (5, Some(&[None]))];

async fn orders(session: &Session, dir: &std::path::Path) {
    let list = |n: &Option<i64>| n.map_or("null".to_string(), |n| n.to_string());
    let row = |n: &Option<i64>| match n {
        Some(n) => format!("{{\"a\":{n},\"b\":\"x{n}\"}}"),
        None => "null".to_string(),
    };
    let array = |of: &[Option<i64>], show: &dyn Fn(&Option<i64>) -> String| {
        format!("[{}]", of.iter().map(show).collect::<Vec<_>>().join(","))
    };
    let mut lines = String::new();
    for (id, items) in ORDERS {
        let shown =
            |show: &dyn Fn(&Option<i64>) -> String| items.map_or("null".to_string(), |items| array(items, show));
        lines += &format!("{{\"id\":{id},\"tags\":{},\"items\":{}}}\n", shown(&list), shown(&row));
    }
    std::fs::write(dir.join("orders.ndjson"), lines).unwrap();
    let declared = format!(
        "CREATE TABLE orders (id BIGINT, tags ARRAY<BIGINT>, items ARRAY<ROW<a BIGINT, b VARCHAR>>)
         WITH ('connector' = 'filesystem', 'path' = '{}/orders.ndjson', 'format' = 'json')",
        dir.display()
    );
    session.sql(&declared).unwrap();
}

#[tokio::test]
async fn unnest_in_from_gives_each_element_beside_its_row_in_every_cut() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::new().unwrap();
    orders(&session, dir.path()).await;
    let shown = |n: &Option<i64>| n.map_or(String::new(), |n| n.to_string());
    let elements = |left: bool, columns: &dyn Fn(usize, Option<&Option<i64>>) -> String| {
        let mut rows = vec![];
        for (id, items) in ORDERS {
            let items = items.unwrap_or_default();
            rows.extend(items.iter().enumerate().map(|(n, item)| format!("{id} {}", columns(n + 1, Some(item)))));
            if left && items.is_empty() {
                rows.push(format!("{id} {}", columns(0, None)));
            }
        }
        rows.sort();
        rows
    };
    let tag = |_: usize, tag: Option<&Option<i64>>| tag.map_or(String::new(), shown);
    let numbered = |n: usize, item: Option<&Option<i64>>| match item {
        Some(item) => format!("{} {n}", shown(item)),
        None => " ".to_string(),
    };
    let columns = |_: usize, item: Option<&Option<i64>>| match item {
        Some(Some(n)) => format!("{n} x{n}"),
        _ => " ".to_string(),
    };
    let some = |rows: Vec<String>| rows.into_iter().filter(|row| row.ends_with('9')).collect::<Vec<_>>();
    for (sql, expected) in [
        ("SELECT id, x FROM orders CROSS JOIN UNNEST(tags) AS t(x)", elements(false, &tag)),
        ("SELECT id, x FROM orders, UNNEST(tags) AS t(x)", elements(false, &tag)),
        ("SELECT o.id, t.x FROM orders AS o, LATERAL UNNEST(o.tags) AS t(x)", elements(false, &tag)),
        ("SELECT id, x FROM orders LEFT JOIN UNNEST(tags) AS t(x) ON TRUE", elements(true, &tag)),
        ("SELECT id, x FROM orders JOIN UNNEST(tags) AS t(x) ON x > 8", some(elements(false, &tag))),
        ("SELECT id, a, b FROM orders CROSS JOIN UNNEST(items)", elements(false, &columns)),
        ("SELECT id, i.p, i.q FROM orders CROSS JOIN UNNEST(items) AS i(p, q)", elements(false, &columns)),
        ("SELECT id, p, q FROM orders LEFT JOIN UNNEST(items) AS i(p, q) ON TRUE", elements(true, &columns)),
        ("SELECT id, x, n FROM orders CROSS JOIN UNNEST(tags) WITH ORDINALITY AS t(x, n)", elements(false, &numbered)),
        (
            "SELECT id, x, n FROM orders LEFT JOIN UNNEST(tags) WITH ORDINALITY AS t(x, n) ON TRUE",
            elements(true, &numbered),
        ),
    ] {
        let frame = session.sql(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
        assert_eq!(text(&frame.collect().await.unwrap()), expected, "{sql}");
        for rows in [1, 2, 100] {
            assert_eq!(streamed(&frame, rows).await.unwrap(), expected, "{sql}");
        }
    }
    let twice =
        "SELECT id, x, y FROM orders CROSS JOIN UNNEST(tags) AS t(x) CROSS JOIN UNNEST(tags) AS u(y) WHERE id = 1";
    assert_eq!(streamed(&session.sql(twice).unwrap(), 2).await.unwrap().len(), 9);
    let counted = "SELECT x, count(*) FROM orders CROSS JOIN UNNEST(tags) AS t(x) GROUP BY x EMIT FINAL";
    assert_eq!(streamed(&session.sql(counted).unwrap(), 1).await.unwrap(), [" 2", "7 2", "9 1"]);
    let error = refused(&session, "SELECT id, x FROM orders CROSS JOIN UNNEST(id) AS t(x)").await;
    assert!(error.contains("UNNEST takes an ARRAY or a MAP"), "{error}");
}

#[tokio::test]
async fn the_final_answer_of_a_source_that_never_ends_is_refused() {
    let session = session_over(MemoryTable::followed(&Rows::of(clicks(1))));
    let error = refused(&session, "SELECT user, count(*) FROM clicks GROUP BY user EMIT FINAL").await;
    assert!(error.contains("clicks is followed: it never does"), "{error}");
}

#[tokio::test]
async fn a_row_that_is_taken_back_and_never_came_is_an_error_of_the_input() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::new().unwrap();
    let change = "{\"op\":\"u\",\"before\":{\"id\":1,\"n\":5},\"after\":{\"id\":1,\"n\":6}}\n";
    std::fs::write(dir.path().join("t.ndjson"), change).unwrap();
    for (table, key) in [("t", ""), ("k", ", PRIMARY KEY (id) NOT ENFORCED")] {
        let declared = format!(
            "CREATE TABLE {table} (id BIGINT, n BIGINT{key})
             WITH ('connector' = 'filesystem', 'path' = '{}/t.ndjson', 'format' = 'debezium-json')",
            dir.path().display()
        );
        session.sql(&declared).unwrap();
    }
    let queries = [
        ("an aggregate", "SELECT n, count(*) FROM t GROUP BY n"),
        ("an aggregate", "SELECT max(n) FROM t"),
        ("a join", "SELECT a.n FROM t a JOIN t b ON a.id = b.id"),
        ("a join", "SELECT a.n FROM t a LEFT JOIN t b ON a.id = b.id"),
        ("a join", "SELECT a.n FROM t a WHERE EXISTS (SELECT 1 FROM t b WHERE a.id = b.id)"),
        ("a ranking", "SELECT n FROM t ORDER BY n LIMIT 2"),
        ("a set operation", "SELECT n FROM t INTERSECT ALL SELECT id FROM t"),
        ("EMIT FINAL", "SELECT n FROM t EMIT FINAL"),
    ];
    for (what, sql) in queries {
        let error = streamed(&session.sql(sql).unwrap(), 10).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input, "{sql}: {error}");
        let message = error.to_string();
        assert!(message.contains(&format!("{what} (")), "{sql}: {message}");
        assert!(message.contains("Declare a PRIMARY KEY (..) NOT ENFORCED on t"), "{sql}: {message}");
        let keyed = sql.replace("FROM t", "FROM k").replace("JOIN t", "JOIN k");
        streamed(&session.sql(&keyed).unwrap(), 10).await.unwrap_or_else(|e| panic!("{keyed}: {e}"));
        let forgetful = session.sql(sql).unwrap().state_ttl(Duration::from_secs(3600));
        streamed(&forgetful, 10).await.unwrap_or_else(|e| panic!("{sql}, forgetful: {e}"));
    }
}

#[tokio::test]
async fn every_state_that_can_grow_says_what_would_bound_it_and_how_long_it_lasts() {
    let session = session_over(MemoryTable::followed(&Rows::of(clicks(1))));
    session
        .sql("CREATE TABLE prices (id BIGINT, n BIGINT, PRIMARY KEY (id) NOT ENFORCED) WITH ('connector' = 'datagen')")
        .unwrap();
    let queries = [
        "SELECT user, count(*) FROM clicks GROUP BY user",
        "SELECT DISTINCT user FROM clicks",
        "SELECT user, max(c) FROM (SELECT user, n, count(*) AS c FROM clicks GROUP BY user, n) GROUP BY user",
        "SELECT a.n FROM clicks a JOIN clicks b ON a.user = b.user",
        "SELECT a.n FROM clicks a LEFT JOIN clicks b ON a.user = b.user",
        "SELECT a.n FROM clicks a WHERE EXISTS (SELECT 1 FROM clicks b WHERE a.n = b.n)",
        "SELECT user, n FROM (SELECT *, row_number() OVER (PARTITION BY user ORDER BY n) AS r FROM clicks) WHERE r <= 3",
        "SELECT id, n FROM (SELECT *, rank() OVER (PARTITION BY n ORDER BY id) AS r FROM prices) WHERE r <= 3",
        "SELECT user, n, lead(n) OVER (PARTITION BY user ORDER BY at) FROM clicks",
        "SELECT id FROM prices WHERE n > 3",
        "SELECT user FROM clicks INTERSECT SELECT user FROM clicks WHERE n > 3",
        "SELECT user FROM clicks EXCEPT ALL SELECT user FROM clicks WHERE n > 3",
    ];
    for sql in queries {
        let compiled = session.sql(sql).unwrap().compile().await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        let lines = millstream::plan::describe_state(&compiled);
        assert!(lines.iter().all(|line| line.contains("SET 'state.ttl', would bound it")), "{sql}: {lines:#?}");
        let bounded = session.sql(sql).unwrap().state_ttl(Duration::from_secs(7200)).compile().await.unwrap();
        let lines = millstream::plan::describe_state(&bounded);
        let told = lines.iter().all(|line| line.contains("until nothing has touched it for 2 h"));
        assert!(told && !lines.iter().any(|line| line.contains("for ever")), "{sql}: {lines:#?}");
        assert_eq!(bounded.exactness.to_string(), "clock");
    }
    for (sql, bound) in [
        ("SELECT count(DISTINCT user) FROM clicks", "a window would bound it"),
        ("SELECT n FROM clicks WHERE n > (SELECT avg(n) FROM clicks)", "would bound it"),
        ("SELECT user, n FROM prices ORDER BY n LIMIT 3", "would bound it"),
        ("SELECT user, count(*) OVER (PARTITION BY user ORDER BY at) FROM clicks", "would bound it"),
    ] {
        let Ok(frame) = session.sql(&sql.replace("user, n FROM prices", "id, n FROM prices")) else { panic!("{sql}") };
        let lines = millstream::plan::describe_state(&frame.compile().await.unwrap());
        assert!(lines.iter().any(|line| line.contains(bound)), "{sql}: {lines:#?}");
    }
}

#[tokio::test]
async fn a_hint_sets_the_lifetime_of_its_table_and_one_for_no_table_is_refused() {
    let session = session_over(MemoryTable::bounded(&Rows::of(clicks(4))));
    let states = async |sql: &str| -> Vec<String> {
        let compiled = session.sql(sql).unwrap().compile().await.unwrap();
        millstream::plan::describe_state(&compiled)
    };
    let lines = states(
        "SET 'state.ttl' = '1 d';
         SELECT /*+ STATE_TTL('a' = '2 h', 'b' = '0') */ a.n FROM clicks a JOIN clicks b ON a.user = b.user",
    )
    .await;
    assert!(lines[0].contains("a left row until nothing has touched it for 2 h; a right row for ever"), "{lines:?}");
    let lines = states(
        "SET 'state.ttl' = '0'; SELECT /*+ STATE_TTL('clicks' = '30 min') */ user, count(*) FROM clicks GROUP BY user",
    )
    .await;
    assert!(lines[0].contains("until nothing has touched it for 30 min"), "{lines:?}");
    for (hint, reason) in [
        ("STATE_TTL('c' = '1 h')", "STATE_TTL names 'c', but no join has it for a side"),
        ("STATE_TTL('clicks' = 'soon')", "'soon' is no length of time"),
        ("STATE_TTL('clicks' '1 h')", "STATE_TTL is written so"),
    ] {
        let error = refused(&session, &format!("SELECT /*+ {hint} */ user, count(*) FROM clicks GROUP BY user")).await;
        assert!(error.contains(reason) && error.contains("SQL:1:8"), "{hint}: {error}");
    }
    let over = "SET 'state.ttl' = '1 h'; SELECT sum(n) OVER (PARTITION BY user ORDER BY at) FROM clicks";
    assert!(refused(&session, over).await.contains("'state.ttl' has no meaning here"));
}

#[tokio::test]
async fn columns_of_one_name_are_inserted_by_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let session = session_over(MemoryTable::bounded(&Rows::of(clicks(1))));
    let out = dir.path().join("out");
    let sql = format!(
        "CREATE TABLE twice (a BIGINT, b VARCHAR, c BIGINT, d BIGINT) WITH ('connector' = 'filesystem', 'path' = '{}', 'format' = 'csv');
         INSERT INTO twice SELECT n, CAST(n AS VARCHAR), n, n + 1 FROM clicks WHERE n < 2
         UNION ALL SELECT n, CAST(n AS VARCHAR), n, n FROM clicks WHERE n = 3;",
        out.display()
    );
    let writer = session.sql(&sql).unwrap().write_stream().state_dir(dir.path().join("state"));
    writer.start().await.unwrap().wait().await.unwrap();
    let mut lines: Vec<String> = vec![];
    for file in std::fs::read_dir(&out).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "csv") {
            lines.extend(std::fs::read_to_string(path).unwrap().lines().map(str::to_string));
        }
    }
    lines.sort();
    assert_eq!(lines, ["0,0,0,1", "1,1,1,2", "3,3,3,3"]);
    let error = session.sql("INSERT INTO twice SELECT n, n, nope, n FROM clicks").unwrap_err().to_string();
    assert!(error.contains("there is no column 'nope'"), "{error}");
}
