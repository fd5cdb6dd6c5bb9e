//! CREATE TABLE: types, computed columns, event time, options.

use datafusion::arrow::datatypes::TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::source_as_provider;

use super::*;
use crate::window::{EPOCH_KEY, is_event_time, watermark_delay};

fn spec(text: &str) -> TableSpec {
    plan(text).tables.pop().unwrap()
}

fn type_of(sql: &str) -> DataType {
    spec(&format!("CREATE TABLE t (c {sql})")).schema.field(0).data_type().clone()
}

/// The stream that the plan scans.
fn scanned(query: &PlannedQuery) -> StreamTable {
    let mut found = None;
    query
        .plan
        .apply(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                let provider = source_as_provider(&scan.source)?;
                found = (provider.as_ref() as &dyn std::any::Any).downcast_ref::<StreamTable>().cloned();
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .unwrap();
    found.unwrap()
}

#[test]
fn flinks_types_are_arrows() {
    let utc = || Some("UTC".into());
    for (sql, expected) in [
        ("INT", DataType::Int32),
        ("FLOAT", DataType::Float32),
        ("DOUBLE PRECISION", DataType::Float64),
        ("VARCHAR(20)", DataType::Utf8View),
        ("STRING", DataType::Utf8View),
        ("BYTES", DataType::Binary),
        ("DECIMAL", DataType::Decimal128(10, 0)),
        ("DECIMAL(23, 3)", DataType::Decimal128(23, 3)),
        ("DATE", DataType::Date32),
        ("TIMESTAMP", DataType::Timestamp(Microsecond, None)),
        ("TIMESTAMP(0)", DataType::Timestamp(Second, None)),
        ("TIMESTAMP(3)", DataType::Timestamp(Millisecond, None)),
        ("TIMESTAMP(6) WITHOUT TIME ZONE", DataType::Timestamp(Microsecond, None)),
        ("TIMESTAMP(9)", DataType::Timestamp(Nanosecond, None)),
        ("TIMESTAMP_LTZ(3)", DataType::Timestamp(Millisecond, utc())),
        ("TIMESTAMP(3) WITH LOCAL TIME ZONE", DataType::Timestamp(Millisecond, utc())),
    ] {
        assert_eq!(type_of(sql), expected, "{sql}");
    }
}

#[test]
fn rows_arrays_and_maps_nest() {
    let row = type_of("ROW<a INT NOT NULL, b ARRAY<ROW(`key` STRING, `value` MAP<STRING, ARRAY<INT>>)>>");
    let DataType::Struct(fields) = &row else { panic!("{row}") };
    assert!(!fields[0].is_nullable());
    let DataType::List(item) = fields[1].data_type() else { panic!("{row}") };
    let DataType::Struct(inner) = item.data_type() else { panic!("{row}") };
    assert_eq!((inner[0].name().as_str(), inner[1].name().as_str()), ("key", "value"));
    let DataType::Map(entries, _) = inner[1].data_type() else { panic!("{row}") };
    let DataType::Struct(entries) = entries.data_type() else { panic!("{row}") };
    assert!(matches!(entries[1].data_type(), DataType::List(_)));
    assert!(matches!(type_of("ARRAY<ARRAY<ARRAY<INT>>>"), DataType::List(_)));
}

#[test]
fn a_type_that_is_not_there_names_its_neighbour() {
    let error = try_plan("CREATE TABLE t (\n  a BIGNIT\n)").unwrap_err().to_string();
    assert_eq!(error, "q.sql:2:5: there is no type BIGNIT; did you mean 'BIGINT'?\n 2 |   a BIGNIT\n   |     ^^^^^^");
}

#[test]
fn columns_may_be_called_like_words_of_sql() {
    let text = "CREATE TABLE t (key INT, value STRING, timestamp TIMESTAMP(3), user STRING, `order` INT, date DATE, count INT)";
    let names: Vec<_> = spec(text).schema.fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["key", "value", "timestamp", "user", "order", "date", "count"]);
    plan(&format!(
        "{text}; SELECT key, value, timestamp, user, upper(t.user), `order`, date, count FROM t WHERE key > 1 AND user = 'x'"
    ));
}

#[test]
fn every_clause_of_create_table_is_kept() {
    let spec = spec(
        "-- a table
         CREATE TEMPORARY TABLE t (
            id BIGINT COMMENT 'the id', day STRING NOT NULL, at TIMESTAMP(3),
            CONSTRAINT pk PRIMARY KEY (id, day) NOT ENFORCED
         ) COMMENT 'all of it' PARTITIONED BY (day)
         WITH ('connector' = 'filesystem', 'path' = 'out', 'json.epoch.at' = 'ms', sink.layout = 'append');",
    );
    assert_eq!((spec.primary_key.join(","), spec.partitioned_by.join(",")), ("id,day".into(), "day".into()));
    assert!(!spec.schema.field(0).is_nullable(), "the columns of a key can't be NULL");
    assert_eq!(spec.schema.field(2).metadata()[EPOCH_KEY], "ms");
    assert_eq!((spec.options.get("path"), spec.options.get("sink.layout")), (Some("out"), Some("append")));
    assert_eq!(spec.base_dir, Path::new("/data"));
    for option in ["connector", "path", "sink.layout"] {
        spec.options.get(option);
    }
    spec.options.finish().unwrap();
}

#[test]
fn a_watermark_marks_its_column_and_is_known_to_the_scan() {
    let query = query("SELECT * FROM payments");
    let table = scanned(&query);
    let watermark = table.watermark.unwrap();
    assert_eq!((watermark.column.as_str(), watermark.delay_us), ("paid", 4_000_000));
    assert_eq!(watermark.expr.to_string(), "paid");
    let field = query.plan.schema().field_with_unqualified_name("paid").unwrap();
    assert!(is_event_time(field));
    assert_eq!(watermark_delay(field), Some(4_000_000));
}

#[test]
fn a_computed_column_is_a_projection_and_can_be_the_event_time() {
    let query = plan(
        "CREATE TABLE t (
            kind INT, a ROW<at TIMESTAMP(3)>, b ROW<at TIMESTAMP(3)>,
            at AS CASE WHEN kind = 0 THEN a.at ELSE b.at END,
            double AS kind * 2,
            WATERMARK FOR at AS at - INTERVAL '1' MINUTE
         ) WITH ('connector' = 'blackhole');
         SELECT double, at, kind FROM t",
    )
    .queries
    .pop()
    .unwrap();
    let table = scanned(&query);
    let physical: Vec<_> = table.spec.schema.fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(physical, ["kind", "a", "b"]);
    let watermark = table.watermark.unwrap();
    assert_eq!((watermark.column.as_str(), watermark.delay_us), ("at", 60_000_000));
    assert!(watermark.expr.column_refs().iter().all(|c| c.relation.is_none()));
    assert!(is_event_time(query.plan.schema().field(1)));
    assert_eq!(query.plan.schema().field(0).name(), "double");
}

#[test]
fn a_watermark_that_is_no_constant_delay_is_refused() {
    let with = |columns: &str| try_plan(&format!("CREATE TABLE t (\n  {columns}\n)")).unwrap_err().to_string();
    let error = with("a TIMESTAMP(3), b INT, WATERMARK FOR a AS a - b * INTERVAL '1' SECOND");
    assert!(error.starts_with("q.sql:2:45:"), "{error}");
    let error = with("a TIMESTAMP(3), b TIMESTAMP(3), WATERMARK FOR a AS b - INTERVAL '1' SECOND");
    assert!(error.contains("a watermark stays a constant time behind: write a - INTERVAL '5' SECOND, or a"), "{error}");
    let error = with("a BIGINT, WATERMARK FOR a AS a");
    assert!(error.contains("the event time 'a' is Int64: it must be a TIMESTAMP"), "{error}");
    let error = with("a TIMESTAMP(3), WATERMARK FOR A AS A");
    assert!(error.contains("there is no column 'A' in this table; did you mean 'a'?"), "{error}");
}

#[test]
fn options_and_keys_that_name_no_column_are_refused() {
    let error = try_plan("CREATE TABLE t (at TIMESTAMP(3)) WITH ('json.epoch.att' = 'ms')").unwrap_err().to_string();
    assert!(error.starts_with("q.sql:1:40: there is no column 'att' in this table; did you mean 'at'?"), "{error}");
    let error = try_plan("CREATE TABLE t (id INT, PRIMARY KEY (idd) NOT ENFORCED)").unwrap_err().to_string();
    assert!(error.starts_with("q.sql:1:38: there is no column 'idd'"), "{error}");
}

#[test]
fn metadata_columns_say_what_they_hold_and_which_are_only_read() {
    let spec = spec(
        "CREATE TABLE t (id INT, ts TIMESTAMP(3) METADATA FROM 'timestamp', \"partition\" BIGINT METADATA VIRTUAL, \
         WATERMARK FOR ts AS ts - INTERVAL '1' SECOND) WITH ('connector' = 'kafka')",
    );
    let metadata = |column: usize, key: &str| spec.schema.field(column).metadata().get(key).cloned();
    assert_eq!(metadata(0, millstream_io::METADATA_KEY), None);
    assert_eq!(metadata(1, millstream_io::METADATA_KEY).as_deref(), Some("timestamp"));
    assert!(is_event_time(spec.schema.field(1)));
    assert_eq!(metadata(1, millstream_io::VIRTUAL_KEY), None);
    assert_eq!(metadata(2, millstream_io::METADATA_KEY).as_deref(), Some("partition"));
    assert_eq!(metadata(2, millstream_io::VIRTUAL_KEY).as_deref(), Some("true"));
}
