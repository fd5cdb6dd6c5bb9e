//! Queries to plans: windows, inserts, settings, names.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};

use super::*;
use crate::window::{WindowColumn, WindowPart, WindowSpec, WindowTable, is_event_time};

fn windows(plan: &LogicalPlan) -> Vec<WindowTable> {
    let mut found = vec![];
    plan.apply(|node| {
        if let LogicalPlan::Extension(node) = node {
            found.extend(node.node.as_any().downcast_ref::<WindowTable>().cloned());
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .unwrap();
    found
}

fn only_window(from: &str) -> WindowSpec {
    let query = query(&format!("SELECT * FROM {from}"));
    let found = windows(&query.plan);
    assert_eq!((found.len(), found[0].time.name.as_str()), (1, "paid"), "{from}");
    found[0].spec
}

#[test]
fn every_form_of_a_window_function_is_the_same_window() {
    for from in [
        "TABLE(TUMBLE(TABLE payments, DESCRIPTOR(paid), INTERVAL '10' SECOND))",
        "TUMBLE(TABLE payments, DESCRIPTOR(paid), INTERVAL '10' SECOND)",
        "TUMBLE(payments, paid, INTERVAL '10' SECOND)",
        "TUMBLE(payments, paid, INTERVAL '10 seconds') AS w",
        "TABLE(TUMBLE(DATA => TABLE payments, TIMECOL => DESCRIPTOR(paid), SIZE => INTERVAL '10' SECOND)) AS w",
        "tumble((SELECT card, paid FROM payments WHERE card > 1), paid, INTERVAL '10' SECOND)",
        "TABLE(TUMBLE(TABLE (SELECT * FROM payments), DESCRIPTOR(paid), INTERVAL '10' SECOND))",
    ] {
        assert_eq!(only_window(from), WindowSpec::tumble(10_000_000), "{from}");
    }
    let hop = WindowSpec::hop(2_000_000, 10_000_000);
    assert_eq!(only_window("HOP(payments, paid, INTERVAL '2' SECOND, INTERVAL '10' SECOND)"), hop);
    let named = "HOP(DATA => TABLE payments, TIMECOL => DESCRIPTOR(paid), SIZE => INTERVAL '10' SECOND, SLIDE => INTERVAL '2' SECOND)";
    assert_eq!(only_window(named), hop);
    let cumulate = WindowSpec::cumulate(60_000_000, 3_600_000_000).with_offset(5_000_000);
    let from = "CUMULATE(payments, paid, INTERVAL '1' MINUTE, INTERVAL '1' HOUR, INTERVAL '5' SECOND)";
    assert_eq!(only_window(from), cumulate);
}

#[test]
fn a_window_can_be_over_a_name_from_with() {
    let query = query(
        "WITH large AS (SELECT card, paid FROM payments WHERE amount > 100)
         SELECT card, window_end, count(*) FROM TUMBLE(large, paid, INTERVAL '1' HOUR) GROUP BY card, window_start, window_end",
    );
    assert_eq!(windows(&query.plan).len(), 1);
}

#[test]
fn window_facts_survive_the_optimizer_up_to_the_group() {
    let query = query(
        "SELECT window_end AS until, card, sum(amount) FROM HOP(payments, paid, INTERVAL '2' SECOND, INTERVAL '10' SECOND) \
         GROUP BY window_start, window_end, card HAVING count(*) > 3",
    );
    let state = session_state().unwrap();
    let optimized = state.optimize(&query.plan).unwrap();
    let mut parts = vec![];
    optimized
        .apply(|node| {
            if let LogicalPlan::Aggregate(aggregate) = node {
                parts.extend(aggregate.schema.fields().iter().filter_map(|f| WindowColumn::of(f)).map(|w| w.part));
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .unwrap();
    assert_eq!(parts, [WindowPart::Start, WindowPart::End]);
    let facts = WindowColumn::of(query.plan.schema().field(0)).unwrap();
    assert_eq!((facts.spec, facts.time.as_str()), (WindowSpec::hop(2_000_000, 10_000_000), "payments.paid"));
}

#[test]
fn what_is_computed_from_a_window_column_is_none() {
    let query = query(
        "SELECT CAST(CAST(window_end AS DATE) AS TIMESTAMP(3)), date_trunc('hour', window_end), window_end + INTERVAL '1' SECOND,
                CAST(paid AS TIMESTAMP(3)), max(paid) OVER ()
         FROM TUMBLE(payments, paid, INTERVAL '10' SECOND)",
    );
    for field in query.plan.schema().fields() {
        assert_eq!(WindowColumn::of(field), None, "{field}");
        assert!(!is_event_time(field), "{field}");
    }
}

#[test]
fn windows_of_windows_go_over_window_time() {
    let query = query(
        "SELECT w.until, max(w.n) FROM (
            SELECT window_end AS until, window_time AS at, card, count(*) AS n
            FROM TUMBLE(payments, paid, INTERVAL '10' SECOND) GROUP BY window_start, window_end, window_time, card
         ) w GROUP BY w.until",
    );
    assert_eq!(windows(&query.plan).len(), 1);
    let nested = super::query(
        "CREATE VIEW small AS SELECT window_time AS at, card, count(*) AS n
            FROM TUMBLE(payments, paid, INTERVAL '10' SECOND) GROUP BY window_start, window_end, window_time, card;
         SELECT window_end, sum(n) FROM TUMBLE(small, at, INTERVAL '1' MINUTE) GROUP BY window_start, window_end",
    );
    assert_eq!(windows(&nested.plan).len(), 2);
}

#[test]
fn a_union_of_sources_with_other_delays_has_an_event_time() {
    let query = query(
        "CREATE TABLE refunds (card BIGINT, paid TIMESTAMP(3), WATERMARK FOR paid AS paid) WITH ('connector' = 'filesystem');
         SELECT window_end, count(*) FROM TUMBLE(
            (SELECT card, paid FROM payments UNION ALL SELECT card, paid FROM refunds), paid, INTERVAL '1' MINUTE)
         GROUP BY window_start, window_end",
    );
    assert_eq!(windows(&query.plan).len(), 1);
}

#[test]
fn an_insert_matches_columns_by_position_and_casts_them() {
    let query = query("INSERT INTO sums SELECT CAST(card AS INT), sum(amount), max(paid) FROM payments GROUP BY card");
    assert_eq!((query.name.as_str(), query.emit), ("sums", None));
    let sink = query.sink.as_ref().unwrap();
    for (planned, declared) in query.plan.schema().fields().iter().zip(sink.schema.fields()) {
        assert_eq!((planned.name(), planned.data_type()), (declared.name(), declared.data_type()));
    }
    assert!(query.sql.starts_with("INSERT INTO sums SELECT"), "{}", query.sql);
}

#[test]
fn an_insert_into_some_columns_leaves_the_others_null() {
    let query = query("INSERT INTO sums (until, card) SELECT paid, card FROM payments");
    let names: Vec<_> = query.plan.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["card", "total", "until"]);
    assert!(query.plan.display_indent().to_string().contains("Decimal128(NULL,38,2) AS total"), "{}", query.plan);
}

#[test]
fn queries_are_named_after_their_sinks_and_numbered() {
    let insert = "INSERT INTO sums SELECT card, amount, paid FROM payments";
    let pipeline = plan(&format!(
        "{PAYMENTS} {insert}; {insert} EMIT CHANGES; SELECT 1; EXECUTE STATEMENT SET BEGIN {insert}; END; SELECT 2 EMIT FINAL; \
         BEGIN STATEMENT SET; {insert} EMIT ON WINDOW CLOSE; END; EXPLAIN {insert};"
    ));
    let seen: Vec<_> = pipeline.queries.iter().map(|q| (q.name.as_str(), q.emit, q.explain)).collect();
    assert_eq!(
        seen,
        [
            ("sums", None, false),
            ("sums_2", Some(Emit::Changes), false),
            ("query", None, false),
            ("sums_3", None, false),
            ("query_2", Some(Emit::Final), false),
            ("sums_4", Some(Emit::OnWindowClose), false),
            ("sums_5", None, true),
        ]
    );
}

#[test]
fn settings_are_kept_in_either_form() {
    let pipeline = plan(
        "SET 'pipeline.name' = 'cards'; SET execution.trigger = '500 ms'; SET batch.max-rows = 1000;
         SET on-error = stop; RESET on-error; SET 'table.local-time-zone' = 'UTC'",
    );
    let of = |key| pipeline.settings.get(key);
    assert_eq!(of("pipeline.name"), Some("cards"));
    assert_eq!(of("execution.trigger"), Some("500 ms"));
    assert_eq!(of("batch.max-rows"), Some("1000"));
    assert_eq!(of("table.local-time-zone"), Some("UTC"));
    assert_eq!(of("on-error"), None);
}

#[test]
fn a_setting_holds_for_the_queries_after_it() {
    let queries = "SELECT card FROM payments; SET 'on-error' = 'stop'; SELECT card FROM payments";
    let pipeline = plan(&format!("{PAYMENTS}{queries}"));
    let set: Vec<_> = pipeline.queries.iter().map(|q| q.settings.get("on-error")).collect();
    assert_eq!(set, [None, Some("stop")]);
}

#[test]
fn fields_of_rows_are_called_by_their_own_name() {
    let query = query("SELECT shop.name, payments.shop.city, payments.card FROM payments WHERE shop.city = 'Rome'");
    let names: Vec<_> = query.plan.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["name", "city", "card"]);
    super::query("SELECT shop.city, count(*) FROM payments GROUP BY shop.city ORDER BY shop.city");
}

#[test]
fn files_are_tables_by_their_path() {
    let query = query("SELECT line FROM 'logs/*.ndjson' WHERE line LIKE '%error%'");
    assert_eq!(query.plan.schema().field(0).name(), "line");
}

#[test]
fn views_rename_their_columns_and_can_be_dropped() {
    query("CREATE VIEW v (c, a) AS SELECT card, amount FROM payments; SELECT c, a FROM v");
    let error = fails("CREATE VIEW v AS SELECT card FROM payments; DROP VIEW v; SELECT card FROM v");
    assert!(error.contains("there is no table 'v'"), "{error}");
    fails("DROP TABLE nowhere");
    query("DROP TABLE IF EXISTS nowhere; SELECT 1");
}

#[test]
fn a_number_with_a_point_is_a_decimal_and_a_bare_timestamp_microseconds() {
    let query = query("SELECT 0.908 * card AS price, CAST(paid AS TIMESTAMP), now() FROM payments");
    assert!(
        matches!(query.plan.schema().field(0).data_type(), DataType::Decimal128(_, 3)),
        "{:?}",
        query.plan.schema()
    );
    let unit = datafusion::arrow::datatypes::TimeUnit::Microsecond;
    assert_eq!(query.plan.schema().field(1).data_type(), &DataType::Timestamp(unit, None));
    let utc = query.plan.schema().field(2).data_type();
    assert!(matches!(utc, DataType::Timestamp(_, Some(zone)) if zone.as_ref() == "UTC"), "{utc}");
}

#[test]
fn arrays_unnest_in_select_and_in_from() {
    let table = "CREATE TABLE orders (id INT, tags ARRAY<STRING>) WITH ('connector' = 'filesystem');";
    query(&format!("{table} SELECT id, UNNEST(tags) AS tag FROM orders"));
    query(&format!("{table} SELECT id, tag FROM orders CROSS JOIN UNNEST(tags) AS t(tag)"));
}
