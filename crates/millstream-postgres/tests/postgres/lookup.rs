//! Rows by key, through the cache and around it.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, TimeUnit, UInt32Type};
use arrow::util::pretty::pretty_format_batches;
use millstream_core::ErrorKind;
use millstream_core::lookup::LookupTable;
use millstream_postgres::Lookup;

use crate::server::{Database, field};

fn keys(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

fn ids(ids: &[Option<i64>]) -> RecordBatch {
    keys(vec![("id", Arc::new(Int64Array::from(ids.to_vec())))])
}

fn lookup(database: &Database, columns: Vec<Field>, key: &[&str], options: &[(&str, &str)]) -> Lookup {
    let key: Vec<_> = key.iter().map(|name| (*name).to_string()).collect();
    Lookup::new(&database.spec(columns, &[], options), &key).unwrap()
}

/// `key row: id name` of an answer.
async fn answers(lookup: &Lookup, ids: &RecordBatch) -> Vec<String> {
    let answer = lookup.get(ids).await.unwrap();
    let rows = answer.column(0).as_primitive::<UInt32Type>();
    let names = answer.column(2).as_string::<i32>();
    (0..answer.num_rows()).map(|n| format!("{}: {}", rows.value(n), names.value(n))).collect()
}

fn columns() -> Vec<Field> {
    vec![Field::new("id", DataType::Int64, false), field("name", DataType::Utf8)]
}

#[tokio::test]
async fn every_key_is_answered_for_each_of_its_rows() {
    let database = Database::new().await;
    database
        .run("CREATE TABLE t (id int, name text); INSERT INTO t VALUES (1, 'a'), (2, 'b'), (2, 'B'), (4, 'd')")
        .await;
    let lookup = lookup(&database, vec![field("id", DataType::Int32), field("name", DataType::Utf8)], &["id"], &[]);
    let asked = keys(vec![("id", Arc::new(Int32Array::from(vec![Some(4), Some(3), None, Some(2), Some(4)])))]);
    let mut found = answers(&lookup, &asked).await;
    found.sort();
    assert_eq!(found, ["0: d", "3: B", "3: b", "4: d"]);
    assert_eq!(lookup.key(), [0]);
    let none = asked.slice(0, 0);
    assert_eq!(lookup.get(&none).await.unwrap().num_rows(), 0);
}

#[tokio::test]
async fn two_columns_make_a_key_and_all_types_come_back() {
    let database = Database::new().await;
    database
        .run(
            "CREATE TYPE mood AS ENUM ('glad'); CREATE TABLE t (a int, b uuid, c numeric(12,3), d timestamptz, e date, f time, \
             g bytea, h bool, i float4, j jsonb, k mood, l int2, PRIMARY KEY (b, a)); INSERT INTO t VALUES \
             (1, '5b2c7a52-4f2d-4c0e-9d53-0c9f6a1f6b11', -12345.678, '1969-12-31 23:59:59.9995+00', '2026-01-02', '03:04:05.5', \
             '\\x00ff', true, 1.5, '{\"a\": 1}', 'glad', 7), (1, '00000000-0000-0000-0000-000000000000', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
        )
        .await;
    let zone = Some("UTC".into());
    let fields = vec![
        field("a", DataType::Int64),
        field("b", DataType::Utf8View),
        field("c", DataType::Decimal128(10, 3)),
        field("d", DataType::Timestamp(TimeUnit::Millisecond, zone)),
        field("e", DataType::Date32),
        field("f", DataType::Time64(TimeUnit::Nanosecond)),
        field("g", DataType::Binary),
        field("h", DataType::Boolean),
        field("i", DataType::Float64),
        field("j", DataType::Utf8),
        field("k", DataType::Utf8),
        field("l", DataType::Int16),
    ];
    let spec = database.spec(fields, &[], &[]);
    // The server's key is narrower than the query's: it can't be asked by what it could not hold.
    let refused =
        Lookup::new(&spec, &["a".into()]).unwrap().get(&keys(vec![("a", Arc::new(Int64Array::from(vec![1])))])).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Config);
    database.run("ALTER TABLE t ALTER COLUMN a TYPE bigint").await;
    let lookup = Lookup::new(&spec, &["b".into(), "a".into()]).unwrap();
    let uuids = StringArray::from(vec!["5B2C7A52-4F2D-4C0E-9D53-0C9F6A1F6B11", "00000000-0000-0000-0000-000000000000"]);
    let asked = keys(vec![("b", Arc::new(uuids)), ("a", Arc::new(Int64Array::from(vec![1, 1])))]);
    let answer = lookup.get(&asked).await.unwrap();
    let text = pretty_format_batches(&[answer]).unwrap().to_string();
    let cells = |n: usize| {
        text.lines().nth(n).unwrap().split('|').map(str::trim).collect::<Vec<_>>().join(" ").trim().to_string()
    };
    let expected = "0 1 5b2c7a52-4f2d-4c0e-9d53-0c9f6a1f6b11 -12345.678 1969-12-31T23:59:59.999Z 2026-01-02 03:04:05.500 00ff true 1.5 {\"a\": 1} glad 7";
    assert_eq!(cells(3), expected);
    assert!(cells(4).starts_with("1 1 00000000-0000-0000-0000-000000000000"), "{text}");
}

#[tokio::test]
async fn the_cache_answers_for_a_while_and_without_it_the_table_does() {
    let database = Database::new().await;
    database.run("CREATE TABLE t (id bigint PRIMARY KEY, name text); INSERT INTO t VALUES (1, 'a')").await;
    let cached = [("lookup.cache", "PARTIAL"), ("lookup.partial-cache.expire-after-write", "300 ms")];
    let cached = lookup(&database, columns(), &["id"], &cached);
    let fresh = lookup(&database, columns(), &["id"], &[]);
    let asked = ids(&[Some(1), Some(2)]);
    assert_eq!(answers(&cached, &asked).await, ["0: a"]);
    assert_eq!(answers(&fresh, &asked).await, ["0: a"]);
    database.run("UPDATE t SET name = 'A'; INSERT INTO t VALUES (2, 'b')").await;
    assert_eq!(answers(&fresh, &asked).await, ["0: A", "1: b"]);
    assert_eq!(answers(&cached, &asked).await, ["0: a"], "what is known is not asked for, a missing key neither");
    tokio::time::sleep(std::time::Duration::from_millis(310)).await;
    assert_eq!(answers(&cached, &asked).await, ["0: A", "1: b"]);
}

#[tokio::test]
async fn a_connection_that_broke_while_it_rested_is_made_again() {
    let database = Database::new().await;
    database.run("CREATE TABLE t (id bigint PRIMARY KEY, name text); INSERT INTO t VALUES (1, 'a')").await;
    let name = format!("resting-{}", database.schema);
    let url = format!("{}?application_name={name}", database.url);
    let spec = crate::server::spec(&url, &format!("{}.t", database.schema), columns(), &[], &[]);
    let lookup = Lookup::new(&spec, &["id".into()]).unwrap();
    for _ in 0..3 {
        assert_eq!(answers(&lookup, &ids(&[Some(1)])).await, ["0: a"]);
        let cut = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{name}'");
        assert_eq!(database.rows(&cut).await, ["t"]);
    }
}

#[tokio::test]
async fn what_can_not_be_looked_up_is_refused() {
    let database = Database::new().await;
    database.run("CREATE TABLE t (id bigint, name numeric, p point)").await;
    let error = |columns: Vec<Field>, key: &str, options: &[(&str, &str)]| {
        Lookup::new(&database.spec(columns, &[], options), &[key.to_string()]).err().unwrap().to_string()
    };
    assert!(error(columns(), "idd", &[]).contains("the key 'idd' is no column"));
    assert!(error(columns(), "id", &[("lookup.cache", "FULL")]).contains("'NONE', 'PARTIAL'"));
    assert!(error(columns(), "id", &[("lookup.partial-cache.max-rows", "5")]).contains("'lookup.cache' = 'PARTIAL'"));
    let says = async |columns: Vec<Field>, words: &str| {
        let lookup = lookup(&database, columns, &["id"], &[]);
        let error = lookup.get(&ids(&[Some(1)])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(words), "{error}");
    };
    let id = || field("id", DataType::Int64);
    says(vec![id(), field("name", DataType::Int64)], "\"name\" is numeric in the table").await;
    says(vec![id(), field("nam", DataType::Utf8)], "there is 'name'").await;
    // Read as text, anything is.
    let text = lookup(&database, vec![id(), field("p", DataType::Utf8)], &["id"], &[]);
    database.run("INSERT INTO t VALUES (1, 123456789.5, '(1,2)')").await;
    assert_eq!(answers(&text, &ids(&[Some(1)])).await, ["0: (1,2)"]);
    let small = lookup(&database, vec![id(), field("name", DataType::Decimal128(5, 1))], &["id"], &[]);
    let error = small.get(&ids(&[Some(1)])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().contains("'name'"), "{error}");
}
