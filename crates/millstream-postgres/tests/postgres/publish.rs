//! What lies in the table after a batch.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field};
use millstream_core::ErrorKind;
use millstream_core::sink::{OutputKind, Owner};

use crate::server::{Database, Publisher, field, open, ops};

fn ids(ids: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(ids))
}

fn names(names: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(names.to_vec()))
}

fn columns() -> Vec<arrow::datatypes::Field> {
    vec![field("id", DataType::Int64), field("name", DataType::Utf8)]
}

#[tokio::test]
async fn few_rows_and_many_rows_are_added_alike() {
    let database = Database::new().await;
    database.run("CREATE TABLE t (name text, id bigint, at timestamptz DEFAULT now())").await;
    let spec = database.spec(columns(), &[], &[]);
    let mut sink = open(&spec, OutputKind::Append).await;
    for rows in [1, 3, 511, 512, 5000] {
        let text: Vec<_> = (0..rows).map(|n| (n % 2 == 0).then(|| format!("n{n}"))).collect();
        sink.publish(vec![ids(0..rows), Arc::new(StringArray::from(text))]).await.unwrap();
    }
    let total = "SELECT count(*), sum(id), count(name), count(at) FROM t";
    let sum: i64 = [1i64, 3, 511, 512, 5000].iter().map(|n| n * (n - 1) / 2).sum();
    assert_eq!(database.rows(total).await, [format!("6027|{sum}|{}|6027", 1 + 2 + 256 + 256 + 2500)]);
    assert_eq!(
        database.rows("SELECT target, query, epoch, batch FROM millstream_markers").await,
        [format!("\"{}\".\"t\"|q|1|5", database.schema)]
    );
}

#[tokio::test]
async fn the_last_word_about_a_key_is_what_lies_in_the_table() {
    let database = Database::new().await;
    database.run("CREATE TABLE t (id bigint PRIMARY KEY, name text, kept text DEFAULT 'kept')").await;
    let spec = database.spec(columns(), &["id"], &[]);
    let mut sink = open(&spec, OutputKind::Changelog).await;
    sink.publish(vec![ops(&["+I", "+I", "+I"]), ids([1, 2, 3]), names(&[Some("a"), Some("b"), None])]).await.unwrap();
    database.run("UPDATE t SET kept = 'mine' WHERE id = 1").await;
    let batch = ["-U", "+U", "-D", "-D", "+I", "+I", "-D"];
    let text = [Some("a"), Some("A"), Some("b"), None, Some("c"), Some("d"), Some("d")];
    sink.publish(vec![ops(&batch), ids([1, 1, 2, 3, 3, 4, 4]), names(&text)]).await.unwrap();
    assert_eq!(database.rows("SELECT * FROM t ORDER BY id").await, ["1|A|mine", "3|c|kept"]);
    sink.publish(vec![ops(&["-D", "-D"]), ids([3, 1]), names(&[None, None])]).await.unwrap();
    assert_eq!(database.rows("SELECT * FROM t").await, [""; 0]);
}

#[tokio::test]
async fn a_changelog_of_several_statements_is_one_transaction() {
    let database = Database::new().await;
    let spec = database.spec(columns(), &["id"], &[("sink.create-table", "true")]);
    let mut sink = open(&spec, OutputKind::Changelog).await;
    let rows = 40_000;
    let text: StringArray = (0..rows).map(|n| Some(format!("n{n}"))).collect();
    sink.publish(vec![ops(&vec!["+I"; 40_000]), ids(0..rows), Arc::new(text.clone())]).await.unwrap();
    assert_eq!(database.rows("SELECT count(*), sum(id), max(name) FROM t").await, ["40000|799980000|n9999"]);
    let kinds: Vec<_> = (0..rows).map(|n| if n % 2 == 0 { "-D" } else { "+U" }).collect();
    sink.publish(vec![ops(&kinds), ids(0..rows), Arc::new(text)]).await.unwrap();
    assert_eq!(database.rows("SELECT count(*), sum(id) FROM t").await, ["20000|400000000"]);
    // The server refuses a row of the last statement: nothing of the batch stays.
    database.run("ALTER TABLE t ADD CHECK (id <> 79999)").await;
    let text: StringArray = (0..rows).map(|_| Some("again")).collect();
    let error = sink.publish(vec![ops(&vec!["+I"; 40_000]), ids(40_000..80_000), Arc::new(text)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Sink);
    assert!(error.to_string().contains("SQLSTATE 23514"), "{error}");
    assert_eq!(database.rows("SELECT count(*), max(id) FROM t").await, ["20000|39999"]);
    assert_eq!(sink.open().await.unwrap().unwrap().batch.0, 2);
}

#[tokio::test]
async fn a_key_of_all_columns_and_of_two_columns_can_be_written() {
    let database = Database::new().await;
    let spec = database.spec(columns(), &["name", "id"], &[("sink.create-table", "true")]);
    let mut sink = open(&spec, OutputKind::Changelog).await;
    let rows = || vec![ids([1, 1, 2]), names(&[Some("a"), Some("b"), Some("a")])];
    sink.publish([vec![ops(&["+I"; 3])], rows()].concat()).await.unwrap();
    sink.publish([vec![ops(&["+U", "-D", "+I"])], rows()].concat()).await.unwrap();
    assert_eq!(database.rows("SELECT * FROM t ORDER BY id").await, ["1|a", "2|a"]);
}

#[tokio::test]
async fn a_null_key_is_an_error_that_names_the_column() {
    let database = Database::new().await;
    let spec = database.spec(columns(), &["name"], &[("sink.create-table", "true")]);
    let mut sink = open(&spec, OutputKind::Append).await;
    let error = sink.publish(vec![ids([1]), names(&[None])]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Sink);
    assert!(error.to_string().contains("the column 'name'"), "{error}");
    assert_eq!(database.rows("SELECT batch FROM millstream_markers").await, ["~"]);
}

#[tokio::test]
async fn an_owner_that_was_taken_over_stores_nothing_however_it_writes() {
    for (key, rows) in [(&[][..], 1), (&[][..], 2000), (&["id"][..], 1), (&["id"][..], 40_000)] {
        let database = Database::new().await;
        let spec = database.spec(columns(), key, &[("sink.create-table", "true")]);
        let mut zombie = open(&spec, OutputKind::Append).await;
        let text: StringArray = (0..rows).map(|_| Some("x")).collect();
        let batch = |from: i64| vec![ids(from..from + rows), Arc::new(text.clone()) as ArrayRef];
        zombie.publish(batch(0)).await.unwrap();
        let mut sink = Publisher::new(&spec, OutputKind::Append, 2).unwrap();
        sink.open().await.unwrap();
        let error = zombie.publish(batch(rows)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Owned, "{error}");
        assert_eq!(database.rows("SELECT count(*) FROM t").await, [rows.to_string()]);
        sink.publish(batch(rows)).await.unwrap();
        assert_eq!(database.rows("SELECT count(*) FROM t").await, [(2 * rows).to_string()]);
    }
}

#[tokio::test]
async fn two_queries_into_one_table_keep_a_marker_each() {
    let database = Database::new().await;
    let spec = database.spec(columns(), &["id"], &[("sink.create-table", "true")]);
    let query = |name: &str, epoch: u64| {
        let sink = millstream_postgres::sink(&spec, name, OutputKind::Append, spec.schema.clone()).unwrap();
        let owner = Owner { query: name.into(), incarnation: format!("of {name}"), epoch };
        Publisher { sink, schema: spec.schema.clone(), kind: OutputKind::Append, owner, last: None }
    };
    let (mut one, mut other) = (query("q", 1), query("q_2", 1));
    assert!(one.open().await.unwrap().is_none() && other.open().await.unwrap().is_none());
    one.publish(vec![ids([1]), names(&[Some("one")])]).await.unwrap();
    other.publish(vec![ids([1, 2]), names(&[Some("other"), Some("other")])]).await.unwrap();
    one.publish(vec![ids([3]), names(&[Some("one")])]).await.unwrap();
    assert_eq!(database.rows("SELECT * FROM t ORDER BY id").await, ["1|other", "2|other", "3|one"]);
    let (mut one, mut other) = (query("q", 2), query("q_2", 2));
    assert_eq!(one.open().await.unwrap().map(|marker| marker.batch.0), Some(2));
    assert_eq!(other.open().await.unwrap().map(|marker| marker.batch.0), Some(1));
}

#[tokio::test]
async fn a_batch_that_is_there_is_not_stored_again() {
    for (key, rows) in [(&[][..], 1), (&[][..], 2000), (&["id"][..], 2)] {
        let database = Database::new().await;
        let spec = database.spec(columns(), key, &[("sink.create-table", "true")]);
        let mut sink = open(&spec, OutputKind::Append).await;
        let text: StringArray = (0..rows).map(|_| Some("x")).collect();
        let batch = vec![ids(0..rows), Arc::new(text) as ArrayRef];
        sink.publish(batch.clone()).await.unwrap();
        // As if the answer had been lost, and the marker read too early.
        sink.last = None;
        sink.publish(batch).await.unwrap();
        assert_eq!(database.rows("SELECT count(*) FROM t").await, [rows.to_string()]);
        // A marker that somebody else moved is not gone on from.
        database.run("UPDATE millstream_markers SET batch = 7").await;
        let error = sink.publish(vec![ids([9]), names(&[None])]).await.unwrap_err();
        assert!(error.to_string().contains("says batch 7, where batch 1 was expected before batch 2"), "{error}");
    }
}

#[tokio::test]
async fn a_key_that_somebody_else_adds_at_the_same_time_is_upserted() {
    let database = Database::new().await;
    let spec = database.spec(columns(), &["id"], &[("sink.create-table", "true")]);
    let mut sink = open(&spec, OutputKind::Append).await;
    database.run("BEGIN; INSERT INTO t VALUES (5, 'theirs')").await;
    let batch = || vec![ids([4, 5]), names(&[Some("ours"), Some("ours")])];
    let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%MERGE%'";
    let other = crate::server::connect(&database.url).await;
    let commit = async {
        while crate::server::rows(&other, waits).await != ["t"] {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        database.run("COMMIT").await;
    };
    let (published, ()) = futures::join!(sink.publish(batch()), commit);
    assert_eq!(published.unwrap_err().kind(), ErrorKind::Retry);
    sink.open().await.unwrap();
    sink.publish(batch()).await.unwrap();
    assert_eq!(database.rows("SELECT * FROM t ORDER BY id").await, ["4|ours", "5|ours"]);
    // Another constraint refuses the row for good.
    database.run("CREATE UNIQUE INDEX ON t (name) WHERE id > 5").await;
    let error = sink.publish(vec![ids([6, 7]), names(&[Some("x"), Some("x")])]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Sink);
    assert!(error.to_string().contains("SQLSTATE 23505"), "{error}");
}

/// Many rows of these keys, each with a text of its batch.
fn many(keys: impl Iterator<Item = i64>, batch: &str) -> Vec<ArrayRef> {
    let keys: Vec<i64> = keys.collect();
    let text: ArrayRef = Arc::new(StringArray::from_iter_values(keys.iter().map(|key| format!("{batch}{key}"))));
    vec![ids(keys), text]
}

#[tokio::test]
async fn many_rows_of_new_keys_and_of_known_ones_are_upserted_alike() {
    let database = Database::new().await;
    database.run("CREATE TABLE t (id bigint PRIMARY KEY, name text, kept text DEFAULT 'kept')").await;
    let spec = database.spec(columns(), &["id"], &[]);
    let mut sink = open(&spec, OutputKind::Append).await;
    let total = "SELECT count(*), count(DISTINCT id), string_agg(DISTINCT left(name, 1), ''), count(kept) FROM t";
    // All new; twice in one batch; all known; new but for one that is not looked up; new ones again and again.
    sink.publish(many(0..5000, "a")).await.unwrap();
    assert_eq!(database.rows(total).await, ["5000|5000|a|5000"]);
    sink.publish(many((5000..8000).chain(5000..8000), "b")).await.unwrap();
    assert_eq!(database.rows(total).await, ["8000|8000|ab|8000"]);
    database.run("UPDATE t SET kept = 'mine' WHERE id = 7").await;
    sink.publish(many(0..8000, "c")).await.unwrap();
    assert_eq!(database.rows(total).await, ["8000|8000|c|8000"]);
    assert_eq!(database.rows("SELECT * FROM t WHERE id = 7").await, ["7|c7|mine"]);
    for batch in 0..6 {
        let first = 10_000 + batch * 5000;
        // The second key is known: it is none of those that are looked up.
        database.run(&format!("INSERT INTO t VALUES ({}, 'old')", first + 1)).await;
        sink.publish(many((first..first + 4000).rev(), "d")).await.unwrap();
    }
    assert_eq!(database.rows(total).await, ["32000|32000|cd|32000"]);
    assert_eq!(database.rows("SELECT kept FROM t WHERE id = 7").await, ["mine"]);
}

#[tokio::test]
async fn many_rows_of_known_keys_are_each_written_once_though_one_is_missing_or_another_run_has_taken_over() {
    let database = Database::new().await;
    let schema = &database.schema;
    database.run("CREATE TABLE t (id bigint PRIMARY KEY, name text); CREATE TABLE seen (id bigint)").await;
    database
        .run(&format!(
            "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO {schema}.seen VALUES (NEW.id); \
             RETURN NEW; END'; CREATE TRIGGER see AFTER INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION see()"
        ))
        .await;
    let spec = database.spec(columns(), &["id"], &[]);
    let mut sink = open(&spec, OutputKind::Append).await;
    let total = "SELECT count(*), count(DISTINCT id), string_agg(DISTINCT left(name, 1), ''), (SELECT count(*) FROM seen), \
                 (SELECT count(DISTINCT id) FROM seen) FROM t";
    for (before, letter) in [("SELECT", "a"), ("SELECT", "b"), ("DELETE FROM t WHERE id = 15000", "c"), ("SELECT", "d")]
    {
        database.run(&format!("{before}; TRUNCATE seen")).await;
        sink.publish(many(0..20_000, letter)).await.unwrap();
        assert_eq!(database.rows(total).await, [format!("20000|20000|{letter}|20000|20000")]);
    }
    let mut later = Publisher::new(&spec, OutputKind::Append, 2).unwrap();
    later.open().await.unwrap();
    let error = sink.publish(many(0..20_000, "e")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Owned, "{error}");
    assert_eq!(database.rows(total).await, ["20000|20000|d|20000|20000"]);
    later.publish(many(0..20_000, "f")).await.unwrap();
    assert_eq!(database.rows(total).await, ["20000|20000|f|40000|20000"]);
}

#[tokio::test]
async fn known_numbers_are_updated_and_no_others_whether_they_lie_close_or_apart() {
    let database = Database::new().await;
    database.run("CREATE DOMAIN number AS integer; CREATE TABLE t (id number PRIMARY KEY, name text)").await;
    // The odd ones lie between those that are written. Those from 20,000 on lie far apart.
    database.run("INSERT INTO t SELECT n, 'old' FROM generate_series(-20000, 19999) AS n").await;
    database.run("INSERT INTO t SELECT n * 50000, 'old' FROM generate_series(1, 20000) AS n").await;
    let columns = vec![Field::new("id", DataType::Int32, false), field("name", DataType::Utf8)];
    let mut sink = open(&database.spec(columns, &["id"], &[]), OutputKind::Append).await;
    let keys: Vec<i32> = (-10_000..10_000).map(|n| n * 2).chain((1..20_001).map(|n| n * 50_000)).collect();
    let total = "SELECT count(*), string_agg(DISTINCT left(name, 1), ''), sum((name = left(name, 1) || id)::int) FROM t \
                 GROUP BY id < 20000 AND id % 2 <> 0 ORDER BY 1";
    for letter in ["a", "b", "c"] {
        let names = StringArray::from_iter_values(keys.iter().map(|key| format!("{letter}{key}")));
        let rows: [ArrayRef; 2] = [Arc::new(Int32Array::from(keys.clone())), Arc::new(names)];
        sink.publish(rows.to_vec()).await.unwrap();
        assert_eq!(database.rows(total).await, ["20000|o|0".to_string(), format!("40000|{letter}|40000")]);
    }
}

#[tokio::test]
async fn rows_of_new_keys_are_not_copied_past_an_index_that_was_dropped_or_past_a_rule() {
    let database = Database::new().await;
    let spec = database.spec(columns(), &["id"], &[("sink.create-table", "true")]);
    let mut sink = open(&spec, OutputKind::Append).await;
    sink.publish(many(0..2000, "a")).await.unwrap();
    database.run("ALTER TABLE t DROP CONSTRAINT t_pkey").await;
    // The third row is known, and nothing but the look at the index tells.
    let keys = (2000..2002).chain([5]).chain(2002..4000);
    let _ = sink.publish(many(keys, "b")).await;
    assert_eq!(database.rows("SELECT count(*) FROM t GROUP BY id HAVING count(*) > 1").await, [""; 0]);

    database.run("DROP TABLE t; CREATE TABLE t (id bigint PRIMARY KEY, name text)").await;
    database.run("CREATE RULE r AS ON INSERT TO t WHERE NEW.id = 2 DO INSTEAD NOTHING").await;
    let mut sink = open(&spec, OutputKind::Append).await;
    let published = sink.publish(many(0..2000, "a")).await;
    assert!(published.is_err() || database.rows("SELECT count(*) FROM t WHERE id = 2").await == ["0"]);
}
