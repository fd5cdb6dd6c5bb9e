//! What a person meets when something is wrong: the exit code, the message, and that nothing is lost by it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on says where")]

#[path = "kill/process.rs"]
mod process;

use std::fs;
use std::path::{Path, PathBuf};

use process::{Millstream, Process, status};
use serde_json::Value;
use tempfile::TempDir;

const ROWS: usize = 400;

/// Sums by key over windows, from a file of lines to a growing file.
fn sql(source: &str, sink: &str) -> String {
    format!(
        "CREATE TABLE payments (id BIGINT, k VARCHAR, v BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts)\n\
         WITH ('connector' = 'filesystem', 'path' = 'in.ndjson', 'format' = 'json'{source});\n\
         CREATE TABLE sums (k VARCHAR, window_end TIMESTAMP(3), n BIGINT, total BIGINT)\n\
         WITH ('connector' = 'filesystem', 'format' = 'json', {sink});\n\
         INSERT INTO sums SELECT k, window_end, count(*), sum(v)\n\
         FROM TUMBLE(payments, ts, INTERVAL '10' SECOND) GROUP BY k, window_start, window_end;\n"
    )
}

const APPENDED: &str = "'path' = 'out.ndjson', 'sink.layout' = 'append'";
const FOLLOWED: &str = ", 'source.monitor-interval' = '10 ms'";

/// One row a second; every hundredth line is malformed.
fn input(rows: std::ops::Range<usize>) -> String {
    rows.map(|i| match i % 100 {
        7 => format!("{{\"id\": {i}, \"k\"\n"),
        _ => format!(
            "{{\"id\":{i},\"k\":\"k{}\",\"v\":{i},\"ts\":\"2026-01-01 00:{:02}:{:02}\"}}\n",
            i % 3,
            i / 60,
            i % 60
        ),
    })
    .collect()
}

fn lab(sql: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("q.sql"), sql).unwrap();
    fs::write(dir.path().join("in.ndjson"), input(0..ROWS)).unwrap();
    dir
}

fn run<'a>(dir: &'a TempDir, more: &[&str]) -> Millstream<'a> {
    let args = ["run", "q.sql", "--state", "state", "--max-batch-rows", "20", "--quiet"];
    Millstream::new(dir.path(), &[&args, more].concat())
}

/// The answer as it is when nothing goes wrong.
fn undisturbed(rows: usize) -> Vec<String> {
    let dir = lab(&sql("", APPENDED));
    fs::write(dir.path().join("in.ndjson"), input(0..rows)).unwrap();
    run(&dir, &[]).run().ok();
    lines(&dir.path().join("out.ndjson"))
}

fn lines(path: &Path) -> Vec<String> {
    let mut lines: Vec<String> = fs::read_to_string(path).unwrap_or_default().lines().map(str::to_string).collect();
    lines.sort();
    lines
}

fn files(dir: &Path, begins: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(begins));
    let mut files: Vec<_> = entries.filter(named).collect();
    files.sort();
    files
}

/// A pipeline that follows its file and has read all of it.
fn following(dir: &TempDir) -> Process {
    let mut process = run(dir, &[]).spawn();
    let log = dir.path().join("state/sums/log");
    let read = || {
        let status = millstream_core::log::read_status(&millstream_core::disk::RealDisk, &log).ok().flatten();
        status.is_some_and(|s| s.totals.iter().map(|a| a.read).sum::<u64>() == ROWS as u64)
    };
    process.until(read);
    assert!(!process.ended(), "a followed file has no end");
    process
}

#[test]
fn sql_with_a_fault_is_refused_with_a_caret_and_code_3() {
    let dir = lab(&sql("", APPENDED).replace("count(*)", "cuont(*)"));
    let caret = format!("{}^^^^^", " ".repeat("INSERT INTO sums SELECT k, window_end, ".len()));
    let words =
        ["q.sql:5:40: there is no function 'cuont'", " 5 | INSERT INTO sums SELECT k, window_end, cuont(*)", &caret];
    for command in ["run", "check"] {
        Millstream::new(dir.path(), &[command, "q.sql"]).run().fails_with(3, &words);
    }
    assert!(!dir.path().join("out.ndjson").exists());
}

#[test]
fn a_window_over_a_join_is_refused_with_its_place_the_reason_and_what_works() {
    let columns = "(id BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) WITH ('connector' = 'datagen')";
    let two = format!(
        "CREATE TABLE a {columns};\nCREATE TABLE b {columns};\n\
         CREATE TABLE o (n BIGINT) WITH ('connector' = 'blackhole');\n\
         CREATE VIEW j AS SELECT a.id, a.ts FROM a JOIN b ON a.id = b.id;\n"
    );
    let over = "SELECT count(*) FROM TUMBLE(j, ts, INTERVAL '1' MINUTE) GROUP BY window_start, window_end";
    let dir = lab(&format!("{two}INSERT INTO o {over};"));
    let words =
        ["q.sql:5:36: a window over a join that keeps its rows for ever", "bound the join in event time", "^^^^"];
    Millstream::new(dir.path(), &["check", "q.sql"]).run().fails_with(3, &words);
}

#[test]
fn an_option_that_nobody_knows_is_code_4_and_gets_a_did_you_mean() {
    let dir = lab(&sql(", 'source.monitor-intervall' = '1 s'", APPENDED));
    let words = ["payments", "'source.monitor-intervall' is not known", "did you mean 'source.monitor-interval'?"];
    run(&dir, &[]).run().fails_with(4, &words);
}

#[test]
fn a_second_owner_is_refused_with_code_5_and_told_who_the_first_is() {
    let dir = lab(&sql(FOLLOWED, APPENDED));
    let first = following(&dir);
    let holder = format!("process {}", first.id());
    run(&dir, &[]).run().fails_with(5, &["state/sums/log is owned by", &holder, "stop it first"]);
    let before = lines(&dir.path().join("out.ndjson"));
    // The first one was not disturbed.
    first.signal("TERM");
    first.wait().ok();
    assert_eq!(lines(&dir.path().join("out.ndjson")), before);
}

#[test]
fn a_sink_that_another_state_directory_filled_is_refused_with_code_5() {
    let dir = lab(&sql("", APPENDED));
    run(&dir, &[]).run().ok();
    let before = lines(&dir.path().join("out.ndjson"));
    let other = ["run", "q.sql", "--state", "other", "--quiet"];
    Millstream::new(dir.path(), &other).run().fails_with(5, &["out.ndjson", "holds the output of query 'sums'"]);
    assert_eq!(lines(&dir.path().join("out.ndjson")), before);
}

#[test]
fn a_flipped_bit_within_the_log_is_code_6_and_what_was_published_stands() {
    let dir = lab(&sql("", APPENDED));
    run(&dir, &[]).run().ok();
    let log = files(&dir.path().join("state/sums/log"), "log-").remove(0);
    let sound = fs::read(&log).unwrap();
    let mut bytes = sound.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&log, &bytes).unwrap();
    run(&dir, &[]).run().fails_with(6, &["log-00000001.seg"]);
    assert_eq!(lines(&dir.path().join("out.ndjson")), undisturbed(ROWS));
    // With the log put back it is as if nothing had been.
    fs::write(&log, &sound).unwrap();
    run(&dir, &[]).run().ok();
    assert_eq!(lines(&dir.path().join("out.ndjson")), undisturbed(ROWS));
}

#[test]
fn a_log_that_ends_before_what_the_sink_has_is_code_6() {
    let dir = lab(&sql("", APPENDED));
    run(&dir, &[]).run().ok();
    let log = files(&dir.path().join("state/sums/log"), "log-").remove(0);
    let bytes = fs::read(&log).unwrap();
    fs::write(&log, &bytes[..bytes.len() / 2]).unwrap();
    run(&dir, &[]).run().fails_with(6, &["the sink has batch", "records of the log are lost"]);
    assert_eq!(lines(&dir.path().join("out.ndjson")), undisturbed(ROWS));
}

#[test]
fn a_log_whose_last_record_is_torn_goes_on() {
    let dir = lab(&sql("", APPENDED));
    run(&dir, &[]).run().ok();
    let log = files(&dir.path().join("state/sums/log"), "log-").remove(0);
    let bytes = fs::read(&log).unwrap();
    fs::write(&log, &bytes[..bytes.len() - 3]).unwrap();
    run(&dir, &[]).run().ok();
    assert_eq!(lines(&dir.path().join("out.ndjson")), undisturbed(ROWS));
    assert_eq!(status(dir.path(), "state")["account"][0]["read"], ROWS);
}

#[test]
fn a_truncated_checkpoint_is_passed_over_for_an_older_one_and_said() {
    let dir = lab(&sql(FOLLOWED, APPENDED));
    let path = dir.path().join("in.ndjson");
    for rows in [100, 200, 300] {
        fs::write(&path, input(0..rows)).unwrap();
        run(&dir, &["--trigger", "available-now"]).run().ok();
    }
    let manifests = files(&dir.path().join("state/sums/state"), "checkpoint-");
    assert_eq!(manifests.len(), 2, "{manifests:?}");
    let bytes = fs::read(&manifests[1]).unwrap();
    fs::write(&manifests[1], &bytes[..bytes.len() / 2]).unwrap();
    fs::write(&path, input(0..ROWS)).unwrap();
    let done = run(&dir, &["--trigger", "available-now"]).run().ok();
    assert!(done.stdout.contains("a newer checkpoint was passed over: "), "{}", done.stdout);
    assert!(done.stdout.contains("restored the checkpoint of batch"), "{}", done.stdout);
    let all = undisturbed(ROWS);
    let closed: Vec<String> = all.iter().filter(|line| window_end(line) <= "2026-01-01T00:06:39").cloned().collect();
    assert_eq!(lines(&dir.path().join("out.ndjson")), closed);
}

#[test]
fn without_any_checkpoint_and_with_a_log_that_begins_later_it_is_code_6() {
    let dir = lab(&sql(FOLLOWED, APPENDED));
    let path = dir.path().join("in.ndjson");
    for rows in [100, 200, 300] {
        fs::write(&path, input(0..rows)).unwrap();
        run(&dir, &["--trigger", "available-now"]).run().ok();
    }
    let before = lines(&dir.path().join("out.ndjson"));
    for manifest in files(&dir.path().join("state/sums/state"), "checkpoint-") {
        fs::write(manifest, "").unwrap();
    }
    let failed = run(&dir, &["--trigger", "available-now"]).run();
    assert_eq!(failed.code(), Some(6), "{failed:?}");
    assert!(failed.stderr.contains("checkpoint"), "{}", failed.stderr);
    assert_eq!(lines(&dir.path().join("out.ndjson")), before);
}

fn window_end(line: &str) -> &str {
    line.split("\"window_end\":\"").nth(1).and_then(|rest| rest.get(..19)).unwrap()
}

#[test]
fn a_sink_whose_directory_is_a_file_or_cannot_be_written_is_code_7() {
    let dir = lab(&sql("", "'path' = 'taken/out'"));
    fs::write(dir.path().join("taken"), "by a file").unwrap();
    run(&dir, &[]).run().fails_with(7, &["taken", "choose another 'path'"]);
    // A directory that nobody can write into, whoever this test runs as.
    let dir = lab(&sql("", "'path' = '/proc/millstream/out'"));
    run(&dir, &[]).run().fails_with(7, &["cannot create the directory /proc/millstream"]);
}

#[test]
fn a_read_only_sink_directory_is_code_7_and_once_it_can_be_written_the_answer_is_whole() {
    use std::os::unix::fs::PermissionsExt;
    let dir = lab(&sql("", "'path' = 'locked/out.ndjson', 'sink.layout' = 'append'"));
    let locked = dir.path().join("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(locked.join("probe"), "").is_ok() {
        // Nothing is read-only for root.
        return;
    }
    run(&dir, &[]).run().fails_with(7, &["locked", "give this user the right to write there"]);
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o755)).unwrap();
    run(&dir, &[]).run().ok();
    assert_eq!(lines(&locked.join("out.ndjson")), undisturbed(ROWS));
}

#[test]
fn a_full_disk_under_the_sink_is_code_7_and_with_room_again_the_answer_is_whole() {
    for point in ["sink.append.half_written:3:disk-full", "sink.append.written:5:disk-full"] {
        let dir = lab(&sql("", APPENDED));
        run(&dir, &[]).env("MILLSTREAM_FAILPOINT", point).run().fails_with(7, &["out.ndjson", "make room"]);
        assert!(lines(&dir.path().join("out.ndjson")).len() < undisturbed(ROWS).len());
        run(&dir, &[]).run().ok();
        assert_eq!(lines(&dir.path().join("out.ndjson")), undisturbed(ROWS), "{point}");
    }
}

#[test]
fn a_file_that_changed_under_a_recorded_range_is_code_8_and_named() {
    let dir = lab(&sql("", APPENDED));
    let killed = run(&dir, &[]).env("MILLSTREAM_FAILPOINT", "sink.append.synced:6").run();
    assert_eq!(killed.code(), None, "{killed:?}");
    let (path, text) = (dir.path().join("in.ndjson"), input(0..ROWS));
    fs::write(&path, text.replacen("\"v\":3,", "\"v\":4,", 1)).unwrap();
    run(&dir, &[]).run().fails_with(8, &["the file 'in.ndjson' was rewritten", "Put the file back"]);
    // As it was, it goes on.
    fs::write(&path, text).unwrap();
    run(&dir, &[]).run().ok();
    assert_eq!(lines(&dir.path().join("out.ndjson")), undisturbed(ROWS));
}

#[test]
fn a_file_that_is_not_there_is_code_8() {
    let dir = lab(&sql("", APPENDED));
    fs::remove_file(dir.path().join("in.ndjson")).unwrap();
    run(&dir, &[]).run().fails_with(8, &["in.ndjson"]);
}

#[test]
fn status_says_how_much_there_was_left_to_read() {
    let dir = lab(&sql(FOLLOWED, APPENDED));
    let bytes = fs::metadata(dir.path().join("in.ndjson")).unwrap().len();
    let mut before = bytes;
    // Batches of 20 of the 400 rows.
    for step in ["30", "60"] {
        run(&dir, &["--trigger", "available-now"]).env("MILLSTREAM_DIE_AT_STEP", step).run();
        let lag = status(dir.path(), "state")["lag"].as_u64().unwrap();
        assert!(lag > 0 && lag < before, "{lag} of {before}");
        before = lag;
    }
    run(&dir, &["--trigger", "available-now"]).run().ok();
    assert_eq!(status(dir.path(), "state")["lag"], 0);
    let said = Millstream::new(dir.path(), &["status", "state"]).run().ok().stdout;
    assert!(said.contains("  lag         0 past batch 2"), "{said}");
}

#[test]
fn sigterm_and_sigint_end_it_cleanly_with_a_checkpoint() {
    for signal in ["TERM", "INT"] {
        let dir = lab(&sql(FOLLOWED, APPENDED));
        let process = following(&dir);
        assert_eq!(status(dir.path(), "state")["stopped"], false);
        process.signal(signal);
        let done = process.wait().ok();
        assert!(done.stdout.contains("sums: stopped after"), "{}", done.stdout);
        let status = status(dir.path(), "state");
        assert_eq!(status["stopped"], true, "{status}");
        assert_eq!(status["ended"], false, "{status}");
        let checkpoints = status["checkpoints"].as_array().unwrap();
        assert_eq!(checkpoints.last().map(|c| &c["batch"]), Some(&status["committed"]), "{status}");
        // Nothing is left to run again.
        let again = run(&dir, &["--trigger", "available-now"]).run().ok();
        assert!(again.stdout.contains("ran 0 batches again"), "{}", again.stdout);
    }
}

#[test]
fn a_file_is_a_table_for_sql() {
    let dir = lab("");
    let question = "SELECT k, count(*) AS n, sum(v) AS total FROM 'rows.ndjson' GROUP BY k ORDER BY k";
    fs::write(dir.path().join("rows.ndjson"), "{\"k\":\"a\",\"v\":1}\n{\"k\":\"b\",\"v\":2}\n{\"k\":\"a\",\"v\":3}\n")
        .unwrap();
    let done = Millstream::new(dir.path(), &["sql", "-c", question]).run().ok();
    assert!(done.stdout.contains("| a | 2 | 4     |\n| b | 1 | 2     |"), "{}", done.stdout);
    assert!(done.stdout.contains("2 rows"), "{}", done.stdout);
    let wrong = Millstream::new(dir.path(), &["sql", "-c", "SELECT K FROM 'rows.ndjson'"]).run();
    wrong.fails_with(3, &["there is no column 'K'", "did you mean 'k'?", "^"]);
}

#[test]
fn rejected_rows_can_be_selected_while_the_pipeline_runs_and_after_it_stopped() {
    let dir = lab(&sql(FOLLOWED, APPENDED));
    let rejected = || {
        let question = "SELECT line, raw FROM \"payments$rejected\" ORDER BY line";
        Millstream::new(dir.path(), &["sql", "--state", "state", "-c", question]).run().ok().stdout
    };
    let process = following(&dir);
    let running = rejected();
    for line in [8, 108, 208, 308] {
        let row = format!("| {line:<4} | {{\"id\": {}, \"k\"", line - 1);
        assert!(running.contains(&row), "{row} is not in\n{running}");
    }
    assert!(running.contains("4 rows"), "{running}");
    process.signal("TERM");
    process.wait().ok();
    assert_eq!(rejected(), running);
}

#[test]
fn status_of_a_directory_without_a_pipeline_is_code_4() {
    let dir = lab("");
    Millstream::new(dir.path(), &["status", "nowhere"]).run().fails_with(4, &["nowhere"]);
}

#[test]
fn the_demo_is_killed_and_goes_on_and_its_whole_answer_is_verified() {
    let dir = lab("");
    let alerts = dir.path().join("millstream-demo/alerts.ndjson");
    let mut killed = Millstream::new(dir.path(), &["demo", "--plain"]).spawn();
    killed.until(|| !lines(&alerts).is_empty());
    assert_eq!(killed.kill().code(), None, "it was not killed");
    let done = Millstream::new(dir.path(), &["demo", "--plain", "--seconds", "3"]).run().ok();
    assert!(done.stdout.contains("alerts: continues after batch"), "{}", done.stdout);
    let verified = Millstream::new(dir.path(), &["demo", "--verify"]).run().ok();
    assert!(verified.stdout.contains("verified: nothing lost, nothing doubled"), "{}", verified.stdout);
    let status: Value = status(dir.path(), "millstream-demo/state");
    let count = |name: &str| status["account"][0][name].as_u64().unwrap();
    assert!(count("rejected") > 0 && count("late") > 0, "the demo drops rows on purpose: {status}");
    assert_eq!(count("read"), count("used") + count("rejected") + count("late"));
    // A line that is lost, or doubled, is found.
    let text = fs::read_to_string(&alerts).unwrap();
    let first = text.lines().next().unwrap();
    fs::write(&alerts, text.replacen(first, &first.replacen("\"card\":\"", "\"card\":\"x", 1), 1)).unwrap();
    let wrong = Millstream::new(dir.path(), &["demo", "--verify"]).run();
    assert!(!wrong.status.success(), "{wrong:?}");
}

#[test]
fn an_expression_that_fails_on_a_row_of_a_batch_job_is_named_at_its_place() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("t.ndjson"), "{\"n\":1,\"v\":2}\n{\"n\":1,\"v\":0}\n").unwrap();
    let refused = |sql: &str, words: &[&str]| {
        Millstream::new(dir.path(), &["sql", "-c", sql]).run().fails_with(3, words);
    };
    refused(
        "SELECT n,\n 10 / v AS x FROM 't.ndjson' WHERE n > 0",
        &["command line:2:7: '10 / t.ndjson.v' divides by zero on a row", "NULLIF"],
    );
    refused(
        "SELECT CAST('a' || v AS INT) FROM 't.ndjson'",
        &["command line: an expression fails on a row: ", "TRY_CAST"],
    );
}
