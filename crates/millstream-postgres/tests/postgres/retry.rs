//! What passes by itself is tried again, and is told from what does not.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::{DataType, Field};
use millstream_core::ErrorKind;
use millstream_core::sink::OutputKind;

use crate::kill::mortal;
use crate::server::{Database, Publisher, field, open, refused, script, spec, start};

fn ids(ids: impl IntoIterator<Item = i64>) -> Vec<ArrayRef> {
    vec![Arc::new(Int64Array::from_iter_values(ids))]
}

async fn ready(database: &Database, key: &[&str], options: &[(&str, &str)]) -> Publisher {
    database.run("CREATE TABLE t (id bigint PRIMARY KEY)").await;
    open(&database.spec(vec![Field::new("id", DataType::Int64, false)], key, options), OutputKind::Append).await
}

#[tokio::test]
async fn a_connection_that_was_cut_is_made_again() {
    let database = Database::new().await;
    for (key, rows) in [(&[][..], 1), (&[][..], 2000), (&["id"][..], 40_000)] {
        database.run("DROP TABLE IF EXISTS t, millstream_markers").await;
        let name = format!("cut-{}-{rows}", key.len());
        let url = format!("{}?application_name={name}", database.url);
        database.run("CREATE TABLE t (id bigint PRIMARY KEY)").await;
        let spec =
            spec(&url, &format!("{}.t", database.schema), vec![Field::new("id", DataType::Int64, false)], key, &[]);
        let mut sink = open(&spec, OutputKind::Append).await;
        sink.publish(ids(0..rows)).await.unwrap();
        let cut = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{name}'");
        assert_eq!(database.rows(&cut).await, ["t"]);
        let error = sink.publish(ids(rows..2 * rows)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
        sink.open().await.unwrap();
        sink.publish(ids(rows..2 * rows)).await.unwrap();
        assert_eq!(database.rows("SELECT count(*) FROM t").await, [(2 * rows).to_string()]);
    }
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_left_and_its_batch_is_there_once() {
    let database = Database::new().await;
    let mut sink = ready(&database, &["id"], &[("sink.timeout", "1 s")]).await;
    sink.publish(ids([1])).await.unwrap();
    // Somebody else holds the row for longer than is waited.
    database.run("ALTER TABLE t ADD COLUMN x int; BEGIN; UPDATE t SET x = 1 WHERE id = 1").await;
    let error = sink.publish(ids([1, 2])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
    assert!(error.to_string().contains("did not answer for 1 s"), "{error}");
    database.run("ROLLBACK").await;
    // The statement that was left alone may come to its end: opening waits for it and says so.
    sink.open().await.unwrap();
    if sink.last.unwrap().0 == 1 {
        sink.publish(ids([1, 2])).await.unwrap();
    }
    assert_eq!(sink.last.unwrap().0, 2);
    assert_eq!(database.rows("SELECT count(*) FROM t").await, ["2"]);
}

#[tokio::test]
async fn a_serialization_failure_is_tried_again() {
    let database = Database::new().await;
    database.run("CREATE TABLE t (id bigint PRIMARY KEY)").await;
    let fail = "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         RAISE EXCEPTION 'this time' USING ERRCODE = TG_ARGV[0]; END $$";
    database.run(fail).await;
    let spec = database.spec(vec![field("id", DataType::Int64)], &["id"], &[]);
    for (state, kind) in [
        ("40001", ErrorKind::Retry),
        ("40P01", ErrorKind::Retry),
        ("53100", ErrorKind::Retry),
        ("23514", ErrorKind::Sink),
        ("42501", ErrorKind::Config),
    ] {
        for rows in [1, 17_000] {
            database.run("TRUNCATE t; DROP TABLE IF EXISTS millstream_markers").await;
            let mut sink = open(&spec, OutputKind::Append).await;
            sink.publish(ids([0])).await.unwrap();
            database.run(&format!("CREATE TRIGGER fails BEFORE INSERT ON t FOR EACH ROW WHEN (new.id = {rows}) EXECUTE FUNCTION fail('{state}')")).await;
            let error = sink.publish(ids(1..=rows)).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains("this time"), "{error}");
            database.run("DROP TRIGGER fails ON t").await;
            assert_eq!(database.rows("SELECT count(*) FROM t").await, ["1"]);
            sink.open().await.unwrap();
            sink.publish(ids(1..=rows)).await.unwrap();
            assert_eq!(database.rows("SELECT count(*) FROM t").await, [(rows + 1).to_string()]);
        }
    }
}

#[tokio::test]
async fn a_server_that_is_stopped_is_waited_for() {
    let (url, _lock) = mortal().await;
    let database = Database::at(&url).await;
    let mut sink = ready(&database, &[], &[]).await;
    sink.publish(ids([1])).await.unwrap();
    script("stop", "mortal").unwrap();
    assert_eq!(sink.publish(ids([2])).await.unwrap_err().kind(), ErrorKind::Retry);
    assert_eq!(sink.open().await.unwrap_err().kind(), ErrorKind::Retry);
    start("mortal");
    assert_eq!(sink.open().await.unwrap().unwrap().batch.0, 1);
    sink.publish(ids([2])).await.unwrap();
}

#[tokio::test]
async fn what_was_flushed_survives_a_server_that_delays_its_commits() {
    let (url, _lock) = mortal().await;
    let database = Database::at(&url).await;
    database.run("CREATE TABLE t (id bigint)").await;
    let lazy = format!("{url}?options=-c%20synchronous_commit%3Doff");
    let spec = spec(&lazy, &format!("{}.t", database.schema), vec![field("id", DataType::Int64)], &[], &[]);
    let mut sink = open(&spec, OutputKind::Append).await;
    for n in 0..20 {
        sink.publish(ids([n])).await.unwrap();
    }
    sink.sink.flush().await.unwrap();
    script("kill", "mortal").unwrap();
    start("mortal");
    assert_eq!(sink.open().await.unwrap().unwrap().batch.0, 20);
}

#[tokio::test]
async fn a_user_that_may_not_write_is_told_what_to_grant() {
    let database = Database::new().await;
    let user = format!("u{}", database.schema);
    database
        .run(&format!(
            "CREATE TABLE t (id bigint); CREATE ROLE {user} LOGIN; GRANT USAGE ON SCHEMA {} TO {user}",
            database.schema
        ))
        .await;
    let table = format!("{}.t", database.schema);
    let spec = spec(&database.url, &table, vec![field("id", DataType::Int64)], &[], &[("username", &user)]);
    let error = refused(&spec).await;
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("millstream_markers") && error.to_string().contains("42501"), "{error}");
    database.run(&format!("DROP OWNED BY {user}; DROP ROLE {user}")).await;
}
