//! A join with a table of PostgreSQL as it is: killed between what it answered and what is published, it is answered the
//! same, though the table has changed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on says where")]

#[path = "kill/process.rs"]
mod process;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use process::Millstream;

/// The URL of the server that tests share.
fn server() -> String {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/services/postgres.sh");
    let done = Command::new(script).args(["start", "main"]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim().to_string()
}

fn psql(url: &str, sql: &str) {
    let done = Command::new("psql").args([url, "-v", "ON_ERROR_STOP=1", "-qc", sql]).output();
    let done = done.unwrap_or_else(|e| panic!("psql is missing: install 'postgresql-client': {e}"));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn sql(url: &str, table: &str, cache: &str) -> String {
    format!(
        "CREATE TABLE rides (id BIGINT, driver INT) WITH ('connector' = 'filesystem', 'path' = 'rides.ndjson', 'format' = 'json');
         CREATE TABLE drivers (id BIGINT, name VARCHAR, city VARCHAR, shout AS upper(city))
         WITH ('connector' = 'postgres', 'url' = '{url}', 'table-name' = '{table}'{cache});
         CREATE TABLE out (id BIGINT, name VARCHAR, city VARCHAR)
         WITH ('connector' = 'filesystem', 'path' = 'out.ndjson', 'format' = 'json', 'sink.layout' = 'append');
         INSERT INTO out SELECT r.id, d.name, d.shout FROM rides r
         LEFT JOIN drivers FOR SYSTEM_TIME AS OF PROCTIME() AS d ON r.driver = d.id AND d.city <> 'nowhere';"
    )
}

#[test]
fn a_batch_that_was_killed_before_it_was_published_has_the_rows_that_the_database_answered_first() {
    let url = server();
    let table = format!("lookup_{}", std::process::id());
    psql(
        &url,
        &format!("DROP TABLE IF EXISTS {table}; CREATE TABLE {table} (id bigint PRIMARY KEY, name text, city text)"),
    );
    for (cache, step) in [("", "half_written"), (", 'lookup.cache' = 'PARTIAL'", "written"), ("", "synced")] {
        psql(
            &url,
            &format!(
                "DELETE FROM {table}; INSERT INTO {table} VALUES (1, 'ann', 'Oslo'), (2, 'bob', 'Rome'), (3, 'eve', 'nowhere')"
            ),
        );
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("q.sql"), sql(&url, &table, cache)).unwrap();
        let rides: String = (0..6).map(|n| format!("{{\"id\":{n},\"driver\":{}}}\n", n % 4 + 1)).collect();
        fs::write(dir.path().join("rides.ndjson"), rides).unwrap();
        let run = || Millstream::new(dir.path(), &["run", "q.sql", "--quiet", "--max-batch-rows", "2"]);
        let died = run().env("MILLSTREAM_FAILPOINT", format!("sink.append.{step}:2")).run();
        assert_eq!(died.code(), None, "killed: {}", died.stderr);
        // Nobody runs, and the table becomes another one. Rides 2 and 3 were answered already.
        psql(
            &url,
            &format!(
                "UPDATE {table} SET name = 'new ' || name, city = 'Riga'; INSERT INTO {table} VALUES (4, 'max', 'Bonn')"
            ),
        );
        run().run().ok();
        let out = fs::read_to_string(dir.path().join("out.ndjson")).unwrap();
        let expected = "{\"id\":0,\"name\":\"ann\",\"city\":\"OSLO\"}\n\
                        {\"id\":1,\"name\":\"bob\",\"city\":\"ROME\"}\n\
                        {\"id\":2,\"name\":null,\"city\":null}\n\
                        {\"id\":3,\"name\":null,\"city\":null}\n\
                        {\"id\":4,\"name\":\"new ann\",\"city\":\"RIGA\"}\n\
                        {\"id\":5,\"name\":\"new bob\",\"city\":\"RIGA\"}\n";
        assert_eq!(out, expected, "killed at {step}");
        // In batch the table is asked as it is.
        let shown = "SELECT r.id, d.name FROM rides r JOIN drivers FOR SYSTEM_TIME AS OF PROCTIME() AS d ON r.driver = d.id \
                     ORDER BY r.id";
        let declared = sql(&url, &table, cache);
        let declared = declared.split("INSERT INTO").next().unwrap();
        let batch = Millstream::new(dir.path(), &["sql", "-c", &format!("{declared}{shown}")]).run().ok();
        for name in ["new ann", "new bob", "new eve", "max"] {
            assert!(batch.stdout.contains(name), "{}", batch.stdout);
        }
        let checked = Millstream::new(dir.path(), &["check", "q.sql"]).run().ok();
        assert!(checked.stdout.contains("answer     clock"), "{}", checked.stdout);
        assert!(checked.stdout.contains("the answers are recorded with the batch"), "{}", checked.stdout);
    }
    psql(&url, &format!("DROP TABLE {table}"));
}

#[test]
fn a_table_that_can_only_be_looked_up_says_so_where_it_is_streamed() {
    let dir = tempfile::tempdir().unwrap();
    let stream = sql("postgresql://nobody@127.0.0.1:1/none", "t", "")
        .replace("LEFT JOIN drivers FOR SYSTEM_TIME AS OF PROCTIME() AS d", "LEFT JOIN drivers AS d");
    fs::write(dir.path().join("q.sql"), stream).unwrap();
    fs::write(dir.path().join("rides.ndjson"), "").unwrap();
    let refused = Millstream::new(dir.path(), &["check", "q.sql"]).run();
    assert!(refused.stderr.contains("join the table FOR SYSTEM_TIME AS OF PROCTIME()"), "{}", refused.stderr);
    let changed =
        sql("postgresql://nobody@127.0.0.1:1/none", "t", "").replace("ON r.driver = d.id", "ON r.driver = abs(d.id)");
    fs::write(dir.path().join("q.sql"), changed).unwrap();
    let refused = Millstream::new(dir.path(), &["check", "q.sql"]).run();
    assert!(refused.stderr.contains("no column of it alone is compared with the left side"), "{}", refused.stderr);
}
