//! Behind a pool in transaction mode, where each transaction may meet another session.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::{DataType, Field};
use millstream_core::ErrorKind;
use millstream_core::sink::OutputKind;

use crate::server::{Database, Publisher, ops, spec};

/// The pool's URL. Where there is no pgbouncer nothing is tested, which is said once, however the output is kept.
fn pool() -> Option<String> {
    static URL: OnceLock<Option<String>> = OnceLock::new();
    let start = || {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/services/pgbouncer.sh");
        let done = Command::new(path).arg("start").output().unwrap();
        if done.status.success() {
            return Some(String::from_utf8(done.stdout).unwrap().trim().to_string());
        }
        let why = String::from_utf8_lossy(&done.stderr).trim().to_string();
        let _ = writeln!(std::io::stderr(), "NOT TESTED, sinks behind a pool: {why}");
        None
    };
    URL.get_or_init(start).clone()
}

#[tokio::test]
async fn many_sinks_share_two_sessions_and_every_row_is_there_once() {
    let Some(url) = pool() else { return };
    let database = Database::new().await;
    let publish = async |n: i64| {
        let (kind, key) = if n % 2 == 0 { (OutputKind::Append, &[][..]) } else { (OutputKind::Changelog, &["id"][..]) };
        let table = format!("{}.t{n}", database.schema);
        let columns = vec![Field::new("id", DataType::Int64, false)];
        let spec = spec(&url, &table, columns, key, &[("sink.create-table", "true")]);
        let mut sink = Publisher::new(&spec, kind, 1).unwrap();
        sink.open().await.unwrap();
        for batch in 0..12 {
            let rows = [1, 3, 700, 20_000][batch as usize % 4];
            let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(batch * 100_000..batch * 100_000 + rows));
            let op = (kind == OutputKind::Changelog).then(|| ops(&vec!["+I"; rows as usize]));
            sink.publish(op.into_iter().chain([ids]).collect()).await.unwrap();
        }
        sink.sink.close().await.unwrap();
        let rows = format!("SELECT count(*), count(DISTINCT id) FROM {table}");
        assert_eq!(database.rows(&rows).await, [format!("{0}|{0}", 3 * (1 + 3 + 700 + 20_000))]);
    };
    futures::future::join_all((0..6).map(publish)).await;
}

#[tokio::test]
async fn a_failed_batch_leaves_nothing_behind_in_a_session() {
    let Some(url) = pool() else { return };
    let database = Database::new().await;
    database.run("CREATE TABLE t (id bigint CHECK (id >= 0))").await;
    let table = format!("{}.t", database.schema);
    let spec = spec(&url, &table, vec![Field::new("id", DataType::Int64, true)], &[], &[]);
    let mut sink = Publisher::new(&spec, OutputKind::Append, 1).unwrap();
    let ids = |from: i64| vec![Arc::new(Int64Array::from_iter_values(from..from + 1000)) as ArrayRef];
    for round in 0..5 {
        sink.open().await.unwrap();
        assert_eq!(sink.publish(ids(-1)).await.unwrap_err().kind(), ErrorKind::Sink);
        sink.open().await.unwrap();
        sink.publish(ids(round * 1000)).await.unwrap();
    }
    assert_eq!(database.rows("SELECT count(*) FROM t").await, ["5000"]);
}
