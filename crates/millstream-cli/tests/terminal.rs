//! What a person sees at a terminal, or in a script that reads what the binary says.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on says where")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

fn millstream(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.args(args).current_dir(dir).env("HOME", dir).stdin(Stdio::null());
    command
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What a statement at the command line says; it must succeed.
fn sql(dir: &TempDir, text: &str) -> String {
    let output = millstream(dir.path(), &["sql", "-c", text]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

/// A directory with a file of four rows: one is no JSON, one has a text where a number is declared.
fn lab() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let rows = "{\"k\":\"a\",\"v\":1,\"m\":{\"u\":5}}\nnot json\n{\"k\":\"b\",\"v\":\"x\"}\n{\"k\":\"c\",\"v\":2,\"m\":{\"w\":1}}\n";
    fs::write(dir.path().join("in.ndjson"), rows).unwrap();
    dir
}

const TABLE: &str = "CREATE TABLE t (k VARCHAR, v INT, m MAP<VARCHAR, INT>) WITH ('connector' = 'filesystem', \
                     'path' = 'in.ndjson', 'format' = 'json');\n";

#[test]
fn rows_that_an_answer_leaves_out_are_counted_below_it() {
    let dir = lab();
    let shown = sql(&dir, &format!("{TABLE} SELECT count(*), sum(v) FROM t"));
    assert!(
        shown.contains("2 rows were rejected, by the columns that the query reads; first in.ndjson:2: "),
        "{shown}"
    );
    let shown = sql(&dir, &format!("{TABLE} SELECT count(*) FROM t"));
    assert!(shown.contains("1 row was rejected, by the columns that the query reads; first in.ndjson:2: "), "{shown}");
    // A table that is read twice is left out of once.
    let shown = sql(&dir, &format!("{TABLE} SELECT count(*) FROM t a JOIN t b ON a.v = b.v"));
    assert!(shown.contains("2 rows were rejected"), "{shown}");
    assert!(!sql(&dir, "SELECT 1").contains("rejected"));
}

#[test]
fn the_clock_can_be_asked_in_a_batch_and_says_the_same_throughout() {
    let dir = lab();
    let shown = sql(
        &dir,
        &format!(
            "{TABLE} SELECT count(DISTINCT now()) AS nows, max(current_timestamp) > TIMESTAMP '2020-01-01 00:00:00' AS \
             late, max(current_date) > DATE '2020-01-01' AS day, max(current_time) IS NULL AS none FROM t; \
             SELECT PROCTIME() IS NULL AS none_either"
        ),
    );
    assert!(shown.contains("| 1    | true | true | false |") && shown.contains("| false       |"), "{shown}");
}

#[test]
fn the_value_of_a_key_is_taken_out_of_a_map_that_came_in_json() {
    let shown = sql(&lab(), &format!("{TABLE} SELECT k, m['u'] AS u FROM t WHERE k <> 'b' ORDER BY k"));
    assert!(shown.contains("| a | 5    |") && shown.contains("| c | NULL |"), "{shown}");
}

#[test]
fn a_batch_over_a_generator_does_not_wait_for_its_clock() {
    let begun = Instant::now();
    let shown = sql(
        &lab(),
        "CREATE TABLE g (n INT) WITH ('connector' = 'datagen', 'rows-per-second' = '1', 'number-of-rows' = '300'); \
         SELECT count(*) AS n FROM g",
    );
    assert!(shown.contains("| 300 |") && begun.elapsed() < Duration::from_secs(100), "{:?} {shown}", begun.elapsed());
}

#[test]
fn verifying_a_demo_that_never_ran_says_so_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let output = millstream(dir.path(), &["demo", "--verify"]).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert!(said(&output).contains("the demo has not run here yet"), "{}", said(&output));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// What comes of a command whose output nobody reads.
fn unread(dir: &TempDir, args: &[&str]) -> Output {
    let mut child = millstream(dir.path(), args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    child.wait_with_output().unwrap()
}

#[test]
fn where_nobody_reads_any_more_commands_end_quietly_and_the_print_sink_fails() {
    let dir = lab();
    let sink = "CREATE TABLE p (k VARCHAR) WITH ('connector' = 'print');\nINSERT INTO p SELECT k FROM t;";
    fs::write(dir.path().join("p.sql"), format!("{TABLE}{sink}")).unwrap();
    fs::write(dir.path().join("q.sql"), format!("{TABLE}{}", sink.replace("print", "blackhole"))).unwrap();
    let select = format!("{TABLE} SELECT * FROM t");
    for args in [&["sql", "-c", &select][..], &["check", "p.sql"], &["run", "q.sql"], &["status", "q.sql"]] {
        let output = unread(&dir, args);
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {}", said(&output));
    }
    let output = unread(&dir, &["run", "p.sql"]);
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    assert!(said(&output).contains("whoever read the output has gone"), "{}", said(&output));
}

#[test]
fn a_script_from_stdin_is_answered_to_its_end_and_its_errors_are_the_exit_code() {
    let dir = lab();
    let answer = |script: &str| {
        let mut child = millstream(dir.path(), &["sql"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let output = answer("SELECT 1 AS one;\nSELECT 2 AS two");
    assert!(output.status.success() && said(&output).contains("| two |"), "{}", said(&output));
    let output = answer("SELECT nonsense;");
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    for (statement, reason) in [("RESET 'nonsense'", "no setting 'nonsense'"), ("EXPLAIN ANALYZE SELECT 1", "ANALYZE")]
    {
        let output = answer(statement);
        assert!(!output.status.success() && said(&output).contains(reason), "{}", said(&output));
    }
}

#[test]
fn a_select_in_a_file_that_is_run_is_refused_at_its_place() {
    let dir = lab();
    fs::write(dir.path().join("q.sql"), format!("{TABLE}SELECT * FROM t;\n")).unwrap();
    let output = millstream(dir.path(), &["run", "q.sql"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(said(&output).contains("q.sql:2:1: nobody would see the answer of a SELECT"), "{}", said(&output));
}

#[test]
fn what_a_connector_refuses_is_shown_at_the_option() {
    let dir = lab();
    let source = |options: &str| format!("CREATE TABLE t (k VARCHAR) WITH (\n{options});\n");
    let read = "INSERT INTO o SELECT k FROM t;";
    let good = "'connector' = 'filesystem', 'path' = 'in.ndjson', 'format' = 'json'";
    let sink = |options: &str| format!("CREATE TABLE o (k VARCHAR) WITH (\n{options});\n");
    let print = sink("'connector' = 'print'");
    for (sql, place) in [
        (
            source(good)
                + &sink("'connector' = 'filesystem', 'path' = 'o', 'format' = 'json', 'sink.layout' = 'apend'"),
            "q.sql:4:62: ",
        ),
        (source(good) + &sink("'connector' = 'print', 'foo' = '1'"), "q.sql:4:24: "),
        (source(good) + &sink("'connector' = 'datagen'"), "q.sql:4:15: "),
        (source(&good.replace("json", "jsn")) + &print, "q.sql:2:"),
        (source("'connector' = 'filesystem', 'pth' = 'in.ndjson', 'format' = 'json'") + &print, "q.sql:2:29: "),
        (source("'conector' = 'filesystem'") + &print, "q.sql:2:1: "),
    ] {
        fs::write(dir.path().join("q.sql"), format!("{sql}{read}")).unwrap();
        let output = millstream(dir.path(), &["check", "q.sql"]).output().unwrap();
        assert_eq!(output.status.code(), Some(4), "{}", said(&output));
        assert!(said(&output).contains(place) && said(&output).contains('^'), "{place} {sql} {}", said(&output));
    }
    fs::write(dir.path().join("q.sql"), source(good) + &sink("'connector' = 'datagen'") + read).unwrap();
    let shown = said(&millstream(dir.path(), &["check", "q.sql"]).output().unwrap());
    assert!(shown.contains("'postgres'") && shown.contains("'kafka'"), "{shown}");
}

#[test]
fn a_pipeline_is_found_by_its_file_under_the_name_that_it_gives_itself() {
    let dir = lab();
    let file = format!(
        "SET 'pipeline.name' = 'visits';\n{TABLE}CREATE TABLE o (k VARCHAR, v INT) WITH ('connector' = 'blackhole');\n\
         INSERT INTO o SELECT k, v FROM t;"
    );
    fs::write(dir.path().join("pn.sql"), file).unwrap();
    assert!(millstream(dir.path(), &["run", "pn.sql"]).output().unwrap().status.success());
    let output = millstream(dir.path(), &["status", "pn.sql"]).output().unwrap();
    assert!(said(&output).contains("o: ended at"), "{}", said(&output));
    let select = ["sql", "--state", "pn.sql", "-c", "SELECT count(*) AS n FROM \"t$rejected\""];
    let output = millstream(dir.path(), &select).output().unwrap();
    assert!(said(&output).contains("| 2 |"), "{}", said(&output));
}

#[test]
fn status_tells_a_pipeline_that_runs_from_one_that_died() {
    let dir = lab();
    let sql = "CREATE TABLE g (n INT) WITH ('connector' = 'datagen', 'rows-per-second' = '100');\n\
               CREATE TABLE o (n INT) WITH ('connector' = 'blackhole');\nINSERT INTO o SELECT n FROM g;";
    fs::write(dir.path().join("q.sql"), sql).unwrap();
    let mut running = millstream(dir.path(), &["run", "q.sql", "--quiet"]).stdout(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    let status = |wanted: &str| loop {
        let shown = said(&millstream(dir.path(), &["status", "q.sql"]).output().unwrap());
        if shown.contains(wanted) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{shown}");
    };
    status("o: running: owner");
    running.kill().unwrap();
    running.wait().unwrap();
    status("o: died; started again, it goes on: owner");
}

#[test]
fn help_says_what_the_demo_does() {
    let dir = tempfile::tempdir().unwrap();
    let help = said(&millstream(dir.path(), &["demo", "--help"]).output().unwrap());
    assert!(help.contains("Everything is written below millstream-demo/"), "{help}");
    let help = said(&millstream(dir.path(), &["--help"]).output().unwrap());
    assert!(help.starts_with("Exactly-once stream processing") && help.contains("Show it working"), "{help}");
}
