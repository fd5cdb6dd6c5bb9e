//! What a file of SQL says beside its queries: settings, and queries that read what others dropped.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on says where")]

#[path = "kill/process.rs"]
mod process;

use std::fs;
use std::path::Path;

use process::Millstream;
use tempfile::TempDir;

const ROWS: usize = 300;

/// Sums over windows, and two files for what is not part of them.
fn sql(source: &str) -> String {
    format!(
        "CREATE TABLE payments (id BIGINT, v BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts)\n\
         WITH ('connector' = 'filesystem', 'path' = 'in.ndjson', 'format' = 'json'{source});\n\
         CREATE TABLE sums (window_end TIMESTAMP(3), total BIGINT)\n\
         WITH ('connector' = 'filesystem', 'format' = 'json', 'path' = 'sums.ndjson', 'sink.layout' = 'append');\n\
         CREATE TABLE bad (place VARCHAR, reason VARCHAR, raw VARCHAR)\n\
         WITH ('connector' = 'filesystem', 'format' = 'json', 'path' = 'bad.ndjson', 'sink.layout' = 'append');\n\
         CREATE TABLE tardy (line BIGINT, raw VARCHAR)\n\
         WITH ('connector' = 'filesystem', 'format' = 'json', 'path' = 'tardy.ndjson', 'sink.layout' = 'append');\n\
         INSERT INTO bad SELECT \"partition\" || ':' || CAST(line AS VARCHAR), reason, raw FROM payments$rejected;\n\
         INSERT INTO sums SELECT window_end, sum(100 / v) FROM TUMBLE(payments, ts, INTERVAL '10' SECOND)\n\
         GROUP BY window_start, window_end;\n\
         INSERT INTO tardy SELECT line, raw FROM sums$late;\n"
    )
}

/// A row a second. Every 50th is malformed, every 30th a minute late, every 70th divides by zero.
fn input(rows: std::ops::Range<usize>) -> String {
    let time = |s: usize| format!("2026-01-01 {:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
    rows.map(|i| match i {
        _ if i % 50 == 7 => format!("{{\"id\": {i}, \"v\"\n"),
        _ if i % 30 == 29 && i > 100 => format!("{{\"id\":{i},\"v\":1,\"ts\":\"{}\"}}\n", time(i - 60)),
        _ if i % 70 == 11 => format!("{{\"id\":{i},\"v\":0,\"ts\":\"{}\"}}\n", time(i)),
        _ => format!("{{\"id\":{i},\"v\":{},\"ts\":\"{}\"}}\n", i % 9 + 1, time(i)),
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
    Millstream::new(dir.path(), &[&["run", "q.sql", "--quiet", "--max-batch-rows", "10"], more].concat())
}

fn lines(dir: &TempDir, file: &str) -> Vec<String> {
    let text = fs::read_to_string(dir.path().join(file)).unwrap_or_default();
    let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
    lines.sort();
    lines
}

fn count(from: std::ops::Range<usize>, is: impl Fn(usize) -> bool) -> usize {
    from.filter(|i| is(*i)).count()
}

fn is_bad(i: usize) -> bool {
    i % 50 == 7 || (!is_late(i) && i % 70 == 11)
}

fn is_late(i: usize) -> bool {
    i % 50 != 7 && i % 30 == 29 && i > 100
}

/// All three outputs, sorted.
fn outputs(dir: &TempDir) -> Vec<Vec<String>> {
    ["sums.ndjson", "bad.ndjson", "tardy.ndjson"].map(|file| lines(dir, file)).to_vec()
}

fn undisturbed() -> Vec<Vec<String>> {
    let dir = lab(&sql(""));
    run(&dir, &[]).run().ok();
    outputs(&dir)
}

#[test]
fn what_a_query_drops_is_written_by_another_one_with_its_place_and_reason() {
    let all = undisturbed();
    let (bad, tardy) = (&all[1], &all[2]);
    assert_eq!(bad.len(), count(0..ROWS, is_bad), "{bad:#?}");
    assert_eq!(tardy.len(), count(0..ROWS, is_late), "{tardy:#?}");
    assert!(bad.iter().any(|line| line.contains("in.ndjson:8") && line.contains("raw")), "{bad:#?}");
    assert!(bad.iter().any(|line| line.contains("in.ndjson:12\"") && line.contains("ivide by zero")), "{bad:#?}");
    assert!(tardy.iter().all(|line| line.contains("2026-01-01")), "{tardy:#?}");
}

#[test]
fn killed_at_any_step_the_dropped_rows_are_written_once() {
    let expected = undisturbed();
    for step in (1..160).step_by(7) {
        let dir = lab(&sql(""));
        run(&dir, &[]).env("MILLSTREAM_DIE_AT_STEP", step).run();
        run(&dir, &[]).run().ok();
        assert_eq!(outputs(&dir), expected, "died at step {step}");
    }
}

#[test]
fn killed_at_any_step_large_dropped_rows_of_one_batch_are_all_written_once() {
    const BAD: usize = 40;
    let sql = "CREATE TABLE t (id BIGINT) WITH ('connector' = 'filesystem', 'path' = 'in.ndjson', 'format' = 'json');\n\
               CREATE TABLE o (id BIGINT)\n\
               WITH ('connector' = 'filesystem', 'format' = 'json', 'path' = 'o.ndjson', 'sink.layout' = 'append');\n\
               CREATE TABLE bad (line BIGINT, size BIGINT)\n\
               WITH ('connector' = 'filesystem', 'format' = 'json', 'path' = 'bad.ndjson', 'sink.layout' = 'append');\n\
               INSERT INTO o SELECT id FROM t;\n\
               INSERT INTO bad SELECT line, octet_length(raw) FROM t$rejected;\n";
    for step in 1.. {
        let dir = lab(sql);
        fs::write(dir.path().join("in.ndjson"), format!("{}\n", "x".repeat(60_000)).repeat(BAD)).unwrap();
        let run = || Millstream::new(dir.path(), &["run", "q.sql", "--quiet"]);
        let died = run().env("MILLSTREAM_DIE_AT_STEP", step).run();
        run().run().ok();
        assert_eq!(lines(&dir, "bad.ndjson").len(), BAD, "died at step {step}");
        if died.code() == Some(0) {
            assert!(step > 10, "the steps are not counted");
            break;
        }
    }
}

#[test]
fn with_trigger_available_now_the_dropped_rows_of_the_same_run_are_written() {
    let dir = lab(&sql(", 'source.monitor-interval' = '10 ms'"));
    run(&dir, &["--trigger", "available-now"]).run().ok();
    assert_eq!(lines(&dir, "bad.ndjson").len(), count(0..ROWS, is_bad));
    let mut file = fs::OpenOptions::new().append(true).open(dir.path().join("in.ndjson")).unwrap();
    std::io::Write::write_all(&mut file, input(ROWS..2 * ROWS).as_bytes()).unwrap();
    run(&dir, &["--trigger", "available-now"]).run().ok();
    assert_eq!(lines(&dir, "bad.ndjson").len(), count(0..2 * ROWS, is_bad));
    assert_eq!(lines(&dir, "tardy.ndjson").len(), count(0..2 * ROWS, is_late));
}

#[test]
fn a_followed_source_has_its_dropped_rows_written_while_it_runs() {
    let dir = lab(&sql(", 'source.monitor-interval' = '10 ms'"));
    let mut process = run(&dir, &[]).spawn();
    process.until(|| lines(&dir, "bad.ndjson").len() == count(0..ROWS, is_bad));
    process.until(|| lines(&dir, "tardy.ndjson").len() == count(0..ROWS, is_late));
    assert!(!process.ended());
    process.signal("TERM");
    process.wait().ok();
    let mut process = run(&dir, &[]).spawn();
    let mut file = fs::OpenOptions::new().append(true).open(dir.path().join("in.ndjson")).unwrap();
    std::io::Write::write_all(&mut file, input(ROWS..2 * ROWS).as_bytes()).unwrap();
    process.until(|| lines(&dir, "bad.ndjson").len() == count(0..2 * ROWS, is_bad));
    process.signal("TERM");
    process.wait().ok();
    assert_eq!(lines(&dir, "bad.ndjson").len(), count(0..2 * ROWS, is_bad), "nothing twice");
}

#[test]
fn dropped_rows_that_no_query_of_the_file_drops_are_refused() {
    let from = |table: &str| sql("").replace("payments$rejected", table);
    let refused = |table: &str, words: &[&str]| {
        let dir = lab(&from(table));
        Millstream::new(dir.path(), &["check", "q.sql"]).run().fails_with(3, words);
    };
    refused("bad$rejected", &["q.sql:9", "no other INSERT reads bad"]);
    refused("payments$late", &["q.sql:9", "no other INSERT of this file is called so: there are sums"]);
}

#[test]
fn settings_reach_the_queries_after_them_and_the_command_line_wins() {
    let stop = |dir: &TempDir| run(dir, &[]).run();
    let dir = lab(&format!("SET 'on-error' = 'stop';\n{}", sql("")));
    stop(&dir).fails_with(8, &["in.ndjson", "ivide by zero"]);
    // One batch holds everything where nothing says otherwise; ten rows each make thirty of them.
    let dir = lab(&format!("SET 'batch.max-rows' = '10';\nSET 'pipeline.name' = 'cards';\n{}", sql("")));
    Millstream::new(dir.path(), &["run", "q.sql", "--quiet"]).run().ok();
    assert!(batches(dir.path(), ".millstream/cards") >= 30);
    let dir = lab(&format!("SET 'batch.max-rows' = '10';\n{}", sql("")));
    Millstream::new(dir.path(), &["run", "q.sql", "--quiet", "--max-batch-rows", "1000"]).run().ok();
    assert!(batches(dir.path(), ".millstream/q") < 5);
}

fn batches(dir: &Path, state: &str) -> u64 {
    let done = Millstream::new(dir, &["status", state, "--json"]).run().ok();
    let status: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    let sums = status["queries"].as_array().unwrap().iter().find(|q| q["query"] == "sums").unwrap();
    sums["committed"].as_u64().unwrap_or_else(|| panic!("{sums}"))
}

#[test]
fn a_setting_that_nobody_knows_is_refused_at_its_place() {
    let dir = lab(&format!("SET 'on-eror' = 'stop';\n{}", sql("")));
    Millstream::new(dir.path(), &["check", "q.sql"])
        .run()
        .fails_with(4, &["q.sql:1:1", "there is no setting 'on-eror'", "did you mean 'on-error'?"]);
}

#[test]
fn a_primary_key_that_is_not_the_querys_own_is_refused() {
    let file = |key: &str, select: &str| {
        lab(&format!(
            "CREATE TABLE payments (id BIGINT, v BIGINT, ts TIMESTAMP(3)) WITH ('connector' = 'filesystem', 'path' = \
             'in.ndjson', 'format' = 'json');\n\
             CREATE TABLE counts (v BIGINT, n BIGINT, PRIMARY KEY ({key}) NOT ENFORCED) WITH ('connector' = 'blackhole');\n\
             INSERT INTO counts {select};\n"
        ))
    };
    let check = |dir: &TempDir| Millstream::new(dir.path(), &["check", "q.sql"]).run();
    check(&file("v", "SELECT v, count(*) FROM payments GROUP BY v")).ok();
    check(&file("n", "SELECT v, count(*) FROM payments GROUP BY v"))
        .fails_with(3, &["counts", "PRIMARY KEY (n)", "unique by (v)"]);
    check(&file("v", "SELECT v / 2, count(*) FROM payments GROUP BY v"))
        .fails_with(3, &["no columns of the query's answer are known to be unique"]);
    // Rows that only come are kept by their key, whatever it is: the newest one stays.
    check(&file("v", "SELECT v, id FROM payments")).ok();
}

#[test]
fn random_values_differ_by_row_and_are_the_same_when_a_batch_is_run_again() {
    let dir = lab(
        "CREATE TABLE payments (id BIGINT) WITH ('connector' = 'filesystem', 'path' = 'in.ndjson', 'format' = 'json');\n\
         CREATE TABLE out (id BIGINT, r DOUBLE, s DOUBLE, u VARCHAR)\n\
         WITH ('connector' = 'filesystem', 'format' = 'json', 'path' = 'out.ndjson', 'sink.layout' = 'append');\n\
         INSERT INTO out SELECT id, random() AS r, random() AS s, uuid() FROM payments;\n",
    );
    // Died after the batch was published, before that was known: the digest of the re-run is compared.
    for step in [9, 14, 17, 22] {
        run(&dir, &[]).env("MILLSTREAM_DIE_AT_STEP", step).run();
    }
    run(&dir, &[]).run().ok();
    let rows = lines(&dir, "out.ndjson");
    let rows: Vec<serde_json::Value> = rows.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let distinct = |column: &str| rows.iter().map(|r| r[column].to_string()).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(rows.len(), count(0..ROWS, |i| i % 50 != 7));
    assert_eq!((distinct("r").len(), distinct("u").len()), (rows.len(), rows.len()));
    assert!(rows.iter().all(|r| r["r"] != r["s"] && (0.0..1.0).contains(&r["r"].as_f64().unwrap())));
    let mean = rows.iter().map(|r| r["r"].as_f64().unwrap()).sum::<f64>() / rows.len() as f64;
    assert!((0.4..0.6).contains(&mean), "{mean}");
}

/// Users as a database tells of them: some come, change their team, and go; some records are told twice, and one is bad.
fn changes(rows: usize) -> String {
    let row = |i: usize, team: usize| format!("{{\"id\":{i},\"team\":\"t{team}\"}}");
    let mut text = String::new();
    for i in 0..rows {
        let created = format!("{{\"before\":null,\"after\":{},\"op\":\"c\"}}\n", row(i, i % 3));
        text += &created.repeat(1 + i % 2);
        if i >= 10 && i % 4 == 0 {
            text += &format!("{{\"before\":null,\"after\":{},\"op\":\"u\"}}\n", row(i - 10, 7));
        }
        if i >= 10 && i % 5 == 0 {
            text += &format!("{{\"before\":{{\"id\":{}}},\"after\":null,\"op\":\"d\"}}\nnull\n", i - 9);
        }
    }
    text + "{\"before\":null,\"after\":null,\"op\":\"d\"}\n"
}

/// The lines that are left of a file of changes with their operations.
fn left(dir: &TempDir, file: &str) -> Vec<String> {
    let mut rows: std::collections::BTreeMap<String, i64> = std::collections::BTreeMap::new();
    for line in lines(dir, file) {
        let (op, row) = line.split_once(',').unwrap();
        *rows.entry(row.to_string()).or_default() += if op.contains('+') { 1 } else { -1 };
    }
    assert!(rows.values().all(|n| *n == 0 || *n == 1), "{rows:#?}");
    rows.into_iter().filter(|(_, n)| *n == 1).map(|(row, _)| row).collect()
}

#[test]
fn killed_at_any_step_the_changes_of_a_database_are_applied_once() {
    let users = "CREATE TABLE users (id BIGINT, team VARCHAR NOT NULL, PRIMARY KEY (id) NOT ENFORCED)\n\
                 WITH ('connector' = 'filesystem', 'path' = 'users.ndjson', 'format' = 'debezium-json');\n";
    let pipeline = format!(
        "{users}CREATE TABLE teams (team VARCHAR, n BIGINT)\n\
         WITH ('connector' = 'filesystem', 'format' = 'csv', 'path' = 'teams.csv', 'sink.layout' = 'append');\n\
         CREATE TABLE low (id BIGINT, team VARCHAR)\n\
         WITH ('connector' = 'filesystem', 'format' = 'csv', 'path' = 'low.csv', 'sink.layout' = 'append');\n\
         INSERT INTO teams SELECT team, count(*) FROM users GROUP BY team;\n\
         INSERT INTO low SELECT id, team FROM users WHERE id < 40 AND team <> 't7';\n"
    );
    let lab = || {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("q.sql"), &pipeline).unwrap();
        fs::write(dir.path().join("users.ndjson"), changes(60)).unwrap();
        dir
    };
    let dir = lab();
    run(&dir, &[]).run().ok();
    let expected = [left(&dir, "teams.csv"), left(&dir, "low.csv")];
    // As the database has it.
    let mut table: std::collections::BTreeMap<usize, usize> = std::collections::BTreeMap::new();
    for i in 0..60 {
        table.insert(i, i % 3);
        if i >= 10 && i % 4 == 0 {
            table.insert(i - 10, 7);
        }
        if i >= 10 && i % 5 == 0 {
            table.remove(&(i - 9));
        }
    }
    let mut low: Vec<String> =
        table.iter().filter(|(i, t)| **i < 40 && **t != 7).map(|(i, t)| format!("{i},t{t}")).collect();
    low.sort();
    assert_eq!(expected[1], low);
    for team in [0, 1, 2, 7] {
        let n = table.values().filter(|t| **t == team).count();
        assert!(expected[0].contains(&format!("t{team},{n}")), "{:?}", expected[0]);
    }
    // And so does one who asks for it at once.
    let ask = format!("{users}SELECT 'n=' || count(*) || ' s=' || sum(id) AS said FROM users");
    let said = Millstream::new(dir.path(), &["sql", "-c", &ask]).run().ok().stdout;
    assert!(said.contains(&format!("n={} s={}", table.len(), table.keys().sum::<usize>())), "{said}");
    for step in (1..120).step_by(9) {
        let dir = lab();
        run(&dir, &[]).env("MILLSTREAM_DIE_AT_STEP", step).run();
        run(&dir, &[]).run().ok();
        assert_eq!([left(&dir, "teams.csv"), left(&dir, "low.csv")], expected, "died at step {step}");
    }
}

/// A table that is read from a file of lines, and one that is written as a growing file.
fn tables(columns: &str, sink: &str) -> String {
    format!(
        "CREATE TABLE t ({columns}) WITH ('connector' = 'filesystem', 'path' = 'in.ndjson', 'format' = 'json');\n\
         CREATE TABLE o ({sink})\n\
         WITH ('connector' = 'filesystem', 'format' = 'json', 'path' = 'o.ndjson', 'sink.layout' = 'append');\n"
    )
}

/// What a file of rejected or late rows needs to be written.
const LETTERS: &str = "CREATE TABLE bad (line BIGINT, reason VARCHAR, raw VARCHAR)\n\
    WITH ('connector' = 'filesystem', 'format' = 'json', 'path' = 'bad.ndjson', 'sink.layout' = 'append');\n";

fn with_input(sql: &str, input: &str) -> TempDir {
    let dir = lab(sql);
    fs::write(dir.path().join("in.ndjson"), input).unwrap();
    dir
}

fn change(dir: &TempDir, sql: &str) {
    fs::write(dir.path().join("q.sql"), sql).unwrap();
}

fn raws(dir: &TempDir) -> Vec<String> {
    let field = |line: &String| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        row["raw"].as_str().unwrap().to_string()
    };
    lines(dir, "bad.ndjson").iter().map(field).collect()
}

#[test]
fn a_row_whose_computed_event_time_fails_is_rejected_with_its_place_and_the_stream_goes_on() {
    let declared = "s VARCHAR, ts AS CAST(s AS TIMESTAMP(3)), WATERMARK FOR ts AS ts";
    let queries = "INSERT INTO o SELECT s FROM t;\nINSERT INTO bad SELECT line, reason, raw FROM t$rejected;\n";
    let sql = format!("{}{LETTERS}{queries}", tables(declared, "s VARCHAR"));
    let good = |n: usize| format!("{{\"s\":\"2026-01-01 00:00:{n:02}\"}}\n");
    let input = format!("{}{}{{\"s\":\"garbage\"}}\n{}", good(1), good(2), good(3));
    let dir = with_input(&sql, &input);
    Millstream::new(dir.path(), &["run", "q.sql", "--quiet"]).run().ok();
    assert_eq!(lines(&dir, "o.ndjson").len(), 3);
    let bad = lines(&dir, "bad.ndjson");
    assert_eq!(bad.len(), 1, "{bad:?}");
    assert!(bad[0].contains("\"line\":3") && bad[0].contains("the event time ts can't be computed"), "{bad:?}");
    assert_eq!(raws(&dir), ["{\"s\":\"garbage\"}"]);
}

#[test]
fn a_computed_event_time_that_fails_stops_a_query_that_stops_on_errors_and_names_the_row() {
    let declared = "s VARCHAR, ts AS CAST(s AS TIMESTAMP(3)), WATERMARK FOR ts AS ts";
    let sql = format!("SET 'on-error' = 'stop';\n{}INSERT INTO o SELECT s FROM t;\n", tables(declared, "s VARCHAR"));
    let dir = with_input(&sql, "{\"s\":\"2026-01-01 00:00:01\"}\n{\"s\":\"garbage\"}\n");
    let words = ["in.ndjson", "row 1", "the event time ts can't be computed", "'on-error' = 'stop'"];
    Millstream::new(dir.path(), &["run", "q.sql", "--quiet"]).run().fails_with(8, &words);
}

#[test]
fn a_dropped_row_is_kept_as_it_stood_whatever_the_query_reads_of_it() {
    let declared = "id BIGINT, v BIGINT, note VARCHAR, ts TIMESTAMP(3), WATERMARK FOR ts AS ts";
    let queries = "INSERT INTO o SELECT window_end, sum(100 / v) FROM TUMBLE(t, ts, INTERVAL '1' SECOND)\n\
                   GROUP BY window_start, window_end;\n\
                   INSERT INTO bad SELECT line, reason, raw FROM t$rejected;\n\
                   INSERT INTO bad SELECT line, reason, raw FROM o$late;\n";
    let letters = LETTERS.replace(", 'sink.layout' = 'append'", "").replace("bad.ndjson", "bad");
    let sql = format!("{}{letters}{queries}", tables(declared, "e TIMESTAMP(3), n BIGINT"));
    let dropped = [
        "{\"id\": 2, \"v\": 1, \"note\": \"no time\", \"ts\": null, \"more\": [1]}",
        "{\"id\": 3, \"v\": 1, \"note\": \"late\", \"ts\": \"2026-01-01 00:00:01\"}",
        "{\"id\": 4, \"v\": 0, \"note\": \"zero\", \"ts\": \"2026-01-01 00:00:10\"}",
        "{\"id\": 5, \"v\": 1, \"note\": \"far\", \"ts\": \"2926-01-01 00:00:10\"}",
    ];
    let first = "{\"id\":1,\"v\":1,\"note\":\"n\",\"ts\":\"2026-01-01 00:00:10\"}";
    let dir = with_input(&sql, &format!("{first}\n{}\n", dropped.join("\n")));
    Millstream::new(dir.path(), &["run", "q.sql", "--quiet"]).run().ok();
    let mut raws = vec![];
    for file in fs::read_dir(dir.path().join("bad")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|e| e == "ndjson") {
            for line in fs::read_to_string(path).unwrap().lines() {
                let row: serde_json::Value = serde_json::from_str(line).unwrap();
                raws.push(row["raw"].as_str().unwrap().to_string());
            }
        }
    }
    raws.sort();
    assert_eq!(raws, dropped);
}

#[test]
fn a_dropped_row_of_a_source_without_text_has_all_its_columns() {
    let sql = "CREATE TABLE t (id BIGINT, v BIGINT, ts TIMESTAMP(3)) WITH ('connector' = 'datagen', \
               'rows-per-second' = '0', 'number-of-rows' = '3', 'fields.id.kind' = 'sequence', \
               'fields.id.start' = '0', 'fields.id.end' = '9', 'fields.v.min' = '7', 'fields.v.max' = '7');\n\
               CREATE TABLE o (n BIGINT)\n\
               WITH ('connector' = 'filesystem', 'format' = 'json', 'path' = 'o.ndjson', 'sink.layout' = 'append');\n";
    let queries = "INSERT INTO o SELECT 10 / id FROM t;\nINSERT INTO bad SELECT line, reason, raw FROM t$rejected;\n";
    let dir = with_input(&format!("{sql}{LETTERS}{queries}"), "");
    Millstream::new(dir.path(), &["run", "q.sql", "--quiet"]).run().ok();
    let raws = raws(&dir);
    assert!(raws.len() == 1 && raws[0].contains("\"id\":0,\"v\":7"), "{raws:?}");
}

#[test]
fn of_a_change_that_fails_on_one_of_its_rows_the_other_is_used_whatever_the_cut() {
    let tables = tables("id BIGINT, v BIGINT", "n BIGINT").replacen("'json'", "'debezium-json'", 1);
    let queries = "INSERT INTO o SELECT sum(10 / v) FROM t EMIT FINAL;\nINSERT INTO p SELECT 10 / v FROM t EMIT FINAL;\n\
                   INSERT INTO bad SELECT line, reason, raw FROM t$rejected;\n";
    let p = "CREATE TABLE p (n BIGINT)\n\
             WITH ('connector' = 'filesystem', 'format' = 'json', 'path' = 'p.ndjson', 'sink.layout' = 'append');\n";
    let row = |id: u32, v: u32| format!("{{\"id\":{id},\"v\":{v}}}");
    let change =
        |before: &str, after: &str, op: &str| format!("{{\"before\":{before},\"after\":{after},\"op\":\"{op}\"}}\n");
    let input = [
        change("null", &row(1, 0), "c"),
        change(&row(1, 0), &row(1, 5), "u"),
        change("null", &row(2, 2), "c"),
        change("null", &row(3, 1), "c"),
        change(&row(3, 1), &row(3, 0), "u"),
        change(&row(3, 0), &row(3, 10), "u"),
        change("null", &row(4, 0), "c"),
        change(&row(4, 0), "null", "d"),
    ];
    for cut in ["1", "2", "3", "100"] {
        let dir = with_input(&format!("{tables}{p}{LETTERS}{queries}"), &input.concat());
        Millstream::new(dir.path(), &["run", "q.sql", "--quiet", "--max-batch-rows", cut]).run().ok();
        assert_eq!(lines(&dir, "o.ndjson"), ["{\"n\":8}"], "cut {cut}");
        assert_eq!(lines(&dir, "p.ndjson"), ["{\"n\":1}", "{\"n\":2}", "{\"n\":5}"], "cut {cut}");
        // Each of the two queries rejects three rows that come, and the same three when they go.
        assert_eq!(lines(&dir, "bad.ndjson").len(), 12, "cut {cut}");
    }
}

#[test]
fn an_adoption_that_does_not_fit_leaves_the_log_to_the_query_that_it_was_of() {
    let declared = "k VARCHAR, v BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts";
    let sql = |aggregate: &str| {
        let tables = tables(declared, "k VARCHAR, e TIMESTAMP(3), n BIGINT")
            .replace("'format' = 'json');", "'format' = 'json', 'source.monitor-interval' = '10 ms');");
        format!(
            "{tables}INSERT INTO o SELECT k, window_end, {aggregate} FROM TUMBLE(t, ts, INTERVAL '10' SECOND)\n\
             GROUP BY k, window_start, window_end;\n"
        )
    };
    let row = |s: usize| format!("{{\"k\":\"a\",\"v\":{s},\"ts\":\"2026-01-01 00:00:{s:02}\"}}\n");
    let dir = with_input(&sql("sum(v)"), &(row(1) + &row(2)));
    let now = ["run", "q.sql", "--quiet", "--trigger", "available-now"];
    Millstream::new(dir.path(), &now).run().ok();
    change(&dir, &sql("count(DISTINCT v)"));
    Millstream::new(dir.path(), &[&now[..], &["--adopt"]].concat()).run().fails_with(3, &[]);
    change(&dir, &sql("sum(v)"));
    fs::write(dir.path().join("in.ndjson"), row(1) + &row(2) + &row(15)).unwrap();
    Millstream::new(dir.path(), &now).run().ok();
    let answer = lines(&dir, "o.ndjson");
    assert!(answer.len() == 1 && answer[0].contains("\"n\":3"), "{answer:?}");
}

#[test]
fn another_watermark_or_another_path_is_another_query_that_can_be_adopted() {
    let sql = |behind: &str, path: &str| {
        let declared = format!("v BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '{behind}' SECOND");
        let tables = tables(&declared, "e TIMESTAMP(3), n BIGINT");
        let followed = "'format' = 'json', 'source.monitor-interval' = '10 ms');";
        let tables = tables.replace("'format' = 'json');", followed).replace("in.ndjson", path);
        format!(
            "{tables}INSERT INTO o SELECT window_end, sum(v) FROM TUMBLE(t, ts, INTERVAL '10' SECOND)\n\
             GROUP BY window_start, window_end;\n"
        )
    };
    let dir = with_input(&sql("10", "in.ndjson"), "{\"v\":1,\"ts\":\"2026-01-01 00:00:01\"}\n");
    let now = ["run", "q.sql", "--quiet", "--trigger", "available-now"];
    Millstream::new(dir.path(), &now).run().ok();
    change(&dir, &sql("3600", "in.ndjson"));
    let words = ["t: WATERMARK FOR ts", "10000 ms", "3600000 ms", "--adopt"];
    Millstream::new(dir.path(), &now).run().fails_with(3, &words);
    change(&dir, &sql("10", "other.ndjson"));
    fs::write(dir.path().join("other.ndjson"), "").unwrap();
    Millstream::new(dir.path(), &now).run().fails_with(3, &["t: 'path' = 'in.ndjson', not 'other.ndjson'"]);
    change(&dir, &sql("3600", "in.ndjson"));
    Millstream::new(dir.path(), &[&now[..], &["--adopt"]].concat()).run().ok();
    Millstream::new(dir.path(), &now).run().ok();
}

#[test]
fn two_writers_of_one_growing_file_are_refused_by_check() {
    let sql = tables("v BIGINT", "v BIGINT");
    let sql = format!("{sql}INSERT INTO o SELECT v FROM t;\nINSERT INTO o SELECT v + 1 FROM t;\n");
    let dir = with_input(&sql, "{\"v\":1}\n");
    let words = ["q.sql:5:8", "the query o writes to", "o.ndjson"];
    Millstream::new(dir.path(), &["check", "q.sql"]).run().fails_with(3, &words);
}

#[test]
fn a_query_that_reads_what_it_writes_is_refused_by_check() {
    let sql = "CREATE TABLE t (v BIGINT) WITH ('connector' = 'filesystem', 'path' = 'd', 'format' = 'json', \
               'source.monitor-interval' = '10 ms');\nINSERT INTO t SELECT v + 1 FROM t;\n";
    let dir = with_input(sql, "");
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("d/a.ndjson"), "{\"v\":1}\n").unwrap();
    let words = ["q.sql:2:8", "t reads from", "would be fed by its own answer"];
    Millstream::new(dir.path(), &["check", "q.sql"]).run().fails_with(3, &words);
}

#[test]
fn a_sink_that_can_not_be_is_found_before_any_other_query_writes() {
    let sql = tables("v BIGINT", "v BIGINT");
    let wrong = "CREATE TABLE p (v BIGINT) WITH ('connector' = 'print', 'print.fromat' = 'json');\n";
    let sql = format!("{sql}{wrong}INSERT INTO o SELECT v FROM t;\nINSERT INTO p SELECT v FROM t;\n");
    let dir = with_input(&sql, "{\"v\":1}\n");
    Millstream::new(dir.path(), &["run", "q.sql", "--quiet"]).run().fails_with(4, &["print.fromat"]);
    assert!(!dir.path().join("o.ndjson").exists() && !dir.path().join(".millstream").exists());
}

#[test]
fn a_null_for_a_column_that_is_not_null_is_rejected() {
    let queries = "INSERT INTO o SELECT v FROM t;\nINSERT INTO bad SELECT line, reason, raw FROM t$rejected;\n";
    let sql = format!("{}{LETTERS}{queries}", tables("v BIGINT", "v BIGINT NOT NULL"));
    let dir = with_input(&sql, "{\"v\":1}\n{\"v\":null}\n{\"v\":3}\n{}\n");
    Millstream::new(dir.path(), &["run", "q.sql", "--quiet"]).run().ok();
    assert_eq!(lines(&dir, "o.ndjson"), ["{\"v\":1}", "{\"v\":3}"]);
    let bad = lines(&dir, "bad.ndjson");
    assert!(bad.len() == 2 && bad.iter().all(|b| b.contains("the column v of the answer is NULL")), "{bad:?}");
}

#[test]
fn names_that_would_leave_the_state_directory_are_refused() {
    let check = |sql: &str, code: i32, words: &[&str]| {
        let dir = with_input(sql, "{\"v\":1}\n");
        Millstream::new(dir.path(), &["check", "q.sql"]).run().fails_with(code, words);
        Millstream::new(dir.path(), &["run", "q.sql"]).run().fails_with(code, words);
    };
    let named = tables("v BIGINT", "v BIGINT").replace("TABLE o", "TABLE `../../evil`");
    check(&format!("{named}INSERT INTO `../../evil` SELECT v FROM t;\n"), 3, &["'../../evil' is no name"]);
    let rest = format!("{}INSERT INTO o SELECT v FROM t;\n", tables("v BIGINT", "v BIGINT"));
    check(&format!("SET 'pipeline.name' = '../x';\n{rest}"), 4, &["pipeline.name", "'../x' is no name"]);
    check(&format!("SET 'pipeline.name' = '';\n{rest}"), 4, &["pipeline.name", "'' is no name"]);
}

#[test]
fn explain_of_an_insert_prints_the_plan_and_changes_nothing_else() {
    let tables = tables("v BIGINT", "v BIGINT");
    let dir = with_input(&format!("{tables}EXPLAIN INSERT INTO o SELECT v FROM t;\n"), "{\"v\":1}\n");
    let done = Millstream::new(dir.path(), &["run", "q.sql"]).run().ok();
    assert!(done.stdout.contains("plan") && done.stdout.contains("t: reads v"), "{}", done.stdout);
    assert!(!dir.path().join("o.ndjson").exists());
    change(&dir, &format!("{tables}EXPLAIN INSERT INTO o SELECT v FROM t;\nINSERT INTO o SELECT v FROM t;\n"));
    let done = Millstream::new(dir.path(), &["run", "q.sql"]).run().ok();
    assert!(done.stdout.contains("t: reads v"), "{}", done.stdout);
    assert!(dir.path().join(".millstream/q/o").exists() && !dir.path().join(".millstream/q/o_2").exists());
    let sql = format!("{tables}EXPLAIN INSERT INTO o SELECT v FROM t");
    let done = Millstream::new(dir.path(), &["sql", "-c", &sql]).run().ok();
    assert!(done.stdout.contains("t: reads v"), "{}", done.stdout);
}

#[test]
fn a_select_in_a_file_that_is_run_is_refused_because_nobody_would_see_its_answer() {
    let sql = tables("v BIGINT", "v BIGINT");
    let dir = with_input(&format!("{sql}INSERT INTO o SELECT v FROM t;\n  SELECT v FROM t;\n"), "{\"v\":1}\n");
    let words = ["q.sql:5:3", "nobody would see the answer", "millstream sql"];
    Millstream::new(dir.path(), &["run", "q.sql"]).run().fails_with(3, &words);
    change(&dir, &format!("{sql}EXPLAIN SELECT v FROM t;\n"));
    let done = Millstream::new(dir.path(), &["run", "q.sql"]).run().ok();
    assert!(done.stdout.contains("t: reads v"), "{}", done.stdout);
}

#[test]
fn dropped_rows_are_kept_until_the_query_that_reads_them_has_them() {
    let settings = "SET 'rejected.max-bytes' = '64kb';\nSET 'log.segment-bytes' = '16kb';\n";
    let queries = "INSERT INTO o SELECT v FROM t;\nINSERT INTO bad SELECT line, reason, raw FROM t$rejected;\n";
    let sql = format!("{settings}{}{LETTERS}{queries}", tables("v BIGINT", "v BIGINT"));
    let dir = with_input(&sql, &"not a row\n".repeat(3_000));
    let now = ["run", "q.sql", "--quiet", "--max-batch-rows", "100", "--trigger", "available-now"];
    Millstream::new(dir.path(), &now).run().ok();
    assert_eq!(lines(&dir, "bad.ndjson").len(), 3_000);
}

#[test]
fn long_chains_run_and_do_not_crash() {
    let plus = vec!["v"; 900].join(" + ");
    let or: Vec<_> = (0..900).map(|n| format!("v * 3 = {n}")).collect();
    let union = vec!["SELECT v FROM t"; 300].join(" UNION ALL ");
    let sql = format!("{}INSERT INTO o SELECT {plus} FROM t WHERE {}", tables("v BIGINT", "v BIGINT"), or.join(" OR "));
    let dir = with_input(&sql, "{\"v\":1}\n");
    Millstream::new(dir.path(), &["run", "q.sql", "--quiet"]).run().ok();
    assert_eq!(lines(&dir, "o.ndjson"), ["{\"v\":900}"]);
    let dir = with_input(&format!("{}INSERT INTO o {union}", tables("v BIGINT", "v BIGINT")), "{\"v\":1}\n");
    Millstream::new(dir.path(), &["run", "q.sql", "--quiet"]).run().ok();
    assert_eq!(lines(&dir, "o.ndjson").len(), 300);
}
