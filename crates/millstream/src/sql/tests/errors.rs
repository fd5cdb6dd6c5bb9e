//! What a wrong text is answered with: the place, the line with its caret, the reason, the remedy.

use super::*;

#[test]
fn a_column_in_the_wrong_case_gets_a_did_you_mean_under_its_place() {
    assert_eq!(
        fails("SELECT card,\n       AMOUNT\nFROM payments"),
        "q.sql:2:8: there is no column 'AMOUNT'; did you mean 'amount'?\n 2 |        AMOUNT\n   |        ^^^^^^"
    );
    let error = fails("SELECT p.Paid FROM payments AS p");
    assert!(error.starts_with("q.sql:1:8: there is no column 'Paid' in 'p'; did you mean 'paid'?"), "{error}");
}

#[test]
fn a_table_in_the_wrong_case_gets_a_did_you_mean_under_its_place() {
    assert_eq!(
        fails("SELECT card FROM Payments WHERE card > 1"),
        "q.sql:1:18: there is no table 'Payments'; did you mean 'payments'?\n \
         1 | SELECT card FROM Payments WHERE card > 1\n   |                  ^^^^^^^^"
    );
    let error = fails("INSERT INTO Sums SELECT 1, 2, 3");
    assert!(error.starts_with("q.sql:1:13: there is no table 'Sums'; did you mean 'sums'?"), "{error}");
}

#[test]
fn an_alias_that_is_not_in_from_is_named() {
    let error = fails("SELECT q.card FROM payments p");
    assert!(error.starts_with("q.sql:1:8: there is no table 'q' in this FROM; did you mean 'p'?"), "{error}");
}

#[test]
fn what_does_not_parse_is_shown_where_it_stops() {
    assert_eq!(
        fails("SELECT card\nFORM payments"),
        "q.sql:2:6: expected the end of the statement, found: payments\n 2 | FORM payments\n   |      ^^^^^^^^"
    );
    assert_eq!(
        fails("SELECT card FROM"),
        "q.sql:1:17: expected identifier, found the end of the statement\n 1 | SELECT card FROM\n   |                 ^"
    );
    let error = fails("SELEKT 1");
    assert!(error.starts_with("q.sql:1:1: no statement begins with SELEKT; did you mean 'SELECT'?"), "{error}");
    let error = fails("SELECT 'open");
    assert!(error.starts_with("q.sql:1:8: Unterminated string literal"), "{error}");
}

#[test]
fn a_function_that_is_not_there_names_its_neighbour() {
    let error = fails("SELECT uper(shop.name) FROM payments");
    assert!(error.starts_with("q.sql:1:8: there is no function 'uper'; did you mean 'upper'?"), "{error}");
}

#[test]
fn a_group_window_that_is_no_group_is_refused_with_the_form_that_works() {
    let error = fails("SELECT card, TUMBLE(paid, INTERVAL '10' SECOND) FROM payments GROUP BY card");
    assert!(error.starts_with("q.sql:1:14: TUMBLE goes into FROM: FROM TUMBLE("), "{error}");
    let error = fails("SELECT card, SESSION_START(paid, INTERVAL '1' SECOND) FROM payments GROUP BY card");
    assert!(error.starts_with("q.sql:1:14: SESSION goes into FROM: FROM SESSION("), "{error}");
    let error = fails("SELECT * FROM SESSION(payments, paid)");
    assert!(error.starts_with("q.sql:1:15: the arguments are SESSION(table [PARTITION BY key], time, gap)"), "{error}");
}

#[test]
fn windows_over_what_is_no_event_time_are_refused_with_the_reason() {
    let windowed = |from: &str, time: &str| {
        fails(&format!("CREATE VIEW v AS {from}; SELECT * FROM TUMBLE(v, {time}, INTERVAL '10' SECOND)"))
    };
    let error = windowed("SELECT CAST(paid AS TIMESTAMP(3)) AS t FROM payments", "t");
    assert!(error.contains("'t' is no event time, so that no window over it would ever close"), "{error}");
    assert!(error.contains("declare WATERMARK FOR t"), "{error}");
    let error = windowed("SELECT * FROM payments", "card");
    assert!(error.contains("'card' is Int64 and no timestamp"), "{error}");
    let error = windowed("SELECT * FROM payments", "Paid");
    assert!(error.contains("there is no column 'Paid' in the table; did you mean 'paid'?"), "{error}");
}

#[test]
fn lengths_that_make_no_windows_are_shown_where_they_stand() {
    assert_eq!(
        fails("SELECT * FROM HOP(payments, paid, INTERVAL '10' SECOND, INTERVAL '2' SECOND)"),
        "q.sql:1:44: the slide (10 s) is longer than the size (2 s), so that rows would fall between the windows: HOP takes \
         the slide first, then the size\n \
         1 | SELECT * FROM HOP(payments, paid, INTERVAL '10' SECOND, INTERVAL '2' SECOND)\n   \
         |                                            ^^^^"
    );
    let error = fails("SELECT * FROM TUMBLE(payments, paid, INTERVAL '1' MONTH)");
    assert!(error.contains("months and years are not all of one length"), "{error}");
    let error = fails("SELECT * FROM TUMBLE(payments, paid, INTERVAL '1' MICROSECOND)");
    assert!(error.contains("finer than the time column"), "{error}");
    let error = fails("SELECT * FROM TUMBLE(payments, paid)");
    assert!(
        error.starts_with("q.sql:1:15: the argument SIZE is missing: TUMBLE(table, time, size [, offset])"),
        "{error}"
    );
}

#[test]
fn an_insert_whose_columns_do_not_fit_says_which() {
    let error = fails("INSERT INTO sums SELECT card, amount FROM payments");
    let expected = "q.sql:1:18: the query has 2 columns, but 3 are written to in 'sums': card, total, until";
    assert!(error.starts_with(expected), "{error}");
    assert_eq!(
        fails("INSERT INTO sums SELECT card, shop.name, paid FROM payments"),
        "q.sql:1:31: column 2 is Utf8View, but 'total' is Decimal128(38, 2): write CAST(.. AS ..)\n \
         1 | INSERT INTO sums SELECT card, shop.name, paid FROM payments\n   |                               ^^^^^^^^^"
    );
    let error = fails("INSERT INTO sums (card, Total) SELECT card, amount FROM payments");
    assert!(error.starts_with("q.sql:1:25: there is no column 'Total' in 'sums'; did you mean 'total'?"), "{error}");
}

#[test]
fn types_that_do_not_compare_are_refused_when_planned() {
    let error = fails("SELECT card FROM payments WHERE paid > shop");
    assert!(error.contains("expressions have incompatible types"), "{error}");
}

#[test]
fn a_source_that_can_not_be_opened_is_shown_where_it_is_declared() {
    let error = fails("CREATE TABLE t (a INT) WITH ('connector' = 'refused');\nSELECT a FROM t");
    assert!(error.starts_with("q.sql:1:14: table 't': the option 'path' is missing"), "{error}");
    let error = try_plan("SELECT * FROM 'missing/*.ndjson'").unwrap_err();
    assert_eq!(error.kind(), millstream_core::ErrorKind::Input);
    assert!(error.to_string().starts_with("q.sql:1:15: no file matches missing/*.ndjson"), "{error}");
}

#[test]
fn a_join_as_of_a_time_that_can_not_be_answered_is_shown_with_what_works() {
    let joined = |join: &str| fails(&format!("SELECT * FROM payments p {join}"));
    let error = joined("RIGHT JOIN sums FOR SYSTEM_TIME AS OF p.paid AS s ON p.card = s.card");
    assert!(error.starts_with("q.sql:1:37: a RIGHT JOIN FOR SYSTEM_TIME AS OF can't be answered"), "{error}");
    assert!(error.contains("write JOIN or LEFT JOIN with ON"), "{error}");
    let error = joined("FULL JOIN sums FOR SYSTEM_TIME AS OF p.paid AS s ON p.card = s.card");
    assert!(error.contains("a FULL JOIN FOR SYSTEM_TIME AS OF can't be answered"), "{error}");
    let error = joined("JOIN sums FOR SYSTEM_TIME AS OF p.paid AS s USING (card)");
    assert!(error.contains("is joined by its key"), "{error}");
    let error = fails("SELECT * FROM payments FOR SYSTEM_TIME AS OF paid");
    assert!(error.starts_with("q.sql:1:24: FOR SYSTEM_TIME AS OF stands behind the name of a table"), "{error}");
    let error = joined("JOIN (SELECT 1) FOR SYSTEM_TIME AS OF p.paid AS s ON p.card = s.card");
    assert!(error.contains("FOR SYSTEM_TIME AS OF stands behind the name of a table"), "{error}");
    let error = joined("JOIN sums FOR SYSTEM_TIME AS OF p.card AS s ON p.card = s.card");
    assert!(error.contains("p.card is no event time"), "{error}");
    let error = joined("JOIN sums FOR SYSTEM_TIME AS OF p.paid AS s ON p.card = s.card");
    assert!(error.contains("declare its PRIMARY KEY (..) NOT ENFORCED and WATERMARK"), "{error}");
    let error = joined("JOIN sums FOR SYSTEM_TIME AS OF PROCTIME() AS s ON p.card > s.card");
    assert!(error.contains("has no equality between a column of it and the left side"), "{error}");
    let error = joined("JOIN nothing FOR SYSTEM_TIME AS OF PROCTIME() AS s ON p.card = s.card");
    assert!(error.starts_with("q.sql:1:31: there is no table 'nothing'"), "{error}");
    let error = fails(
        "CREATE VIEW v AS SELECT * FROM sums; SELECT * FROM payments p JOIN v FOR SYSTEM_TIME AS OF PROCTIME() ON p.card = v.card",
    );
    assert!(error.contains("'v' is a view, and FOR SYSTEM_TIME AS OF reads a table"), "{error}");
    let error = fails(
        "CREATE TABLE v (a VARCHAR, b VARCHAR, ts TIMESTAMP(3), WATERMARK FOR ts AS ts, PRIMARY KEY (a, b) NOT ENFORCED)
         WITH ('connector' = 'datagen');
         SELECT * FROM payments p JOIN v FOR SYSTEM_TIME AS OF p.paid ON CAST(p.card AS VARCHAR) = v.a",
    );
    assert!(error.contains("the join does not say what b equals: add b = .. to ON"), "{error}");
}

#[test]
fn what_flink_has_and_we_have_not_says_so_at_its_place() {
    let error = fails("CREATE FUNCTION shout AS 'org.example.Shout'");
    assert!(error.starts_with("q.sql:1:17: the function 'shout' is not built in"), "{error}");
    let error = fails("INSERT OVERWRITE sums SELECT 1, 2, 3");
    assert!(error.contains("INSERT OVERWRITE has no meaning on a stream"), "{error}");
    let error = fails("CREATE TABLE t (a INT METADATA FROM 'offset') WITH ('connector' = 'datagen')");
    assert!(error.starts_with("q.sql:1:17: the connector 'datagen' has no METADATA"), "{error}");
}

#[test]
fn names_that_are_taken_are_refused_unless_told_otherwise() {
    let error = fails("CREATE TABLE sums (a INT)");
    assert!(error.starts_with("q.sql:1:14: there is a table or view 'sums' already"), "{error}");
    plan(&format!("{PAYMENTS} CREATE TABLE IF NOT EXISTS sums (a INT); CREATE OR REPLACE VIEW sums AS SELECT 1 AS a"));
}

#[test]
fn a_statement_set_holds_inserts_and_is_closed() {
    let error = fails("BEGIN STATEMENT SET; SELECT 1; END;");
    assert!(error.starts_with("q.sql:1:22: a STATEMENT SET holds INSERT statements only"), "{error}");
    let error = fails("EXECUTE STATEMENT SET BEGIN INSERT INTO sums SELECT 1, 2, CAST(NULL AS TIMESTAMP(3));");
    assert!(error.contains("is never closed: add END;"), "{error}");
}

#[test]
fn tabs_before_the_place_keep_the_caret_under_it() {
    let error = fails("SELECT card\n\tFROM\tPayments");
    assert!(error.ends_with(" 2 | \tFROM\tPayments\n   | \t    \t^^^^^^^^"), "{error}");
}

#[test]
fn an_error_found_later_is_shown_in_the_statement() {
    let query = query("SELECT card, amount FROM payments ORDER BY amount");
    let error = query.error_at_word("ORDER", "an unbounded table can't be sorted");
    assert!(error.to_string().contains("| SELECT card, amount FROM payments ORDER BY amount"), "{error}");
    assert!(error.to_string().ends_with("^^^^^"), "{error}");
}

#[test]
fn clauses_that_nobody_would_heed_are_refused_at_their_place() {
    let refused = |sql: &str, begins: &str| {
        let error = fails(sql);
        assert!(error.starts_with(begins), "{sql}\n{error}");
    };
    refused("SELECT card FROM payments PREWHERE amount > 1", "q.sql:1:27: PREWHERE is not supported: write the");
    refused(
        "SELECT card FROM payments START WITH amount = 1 CONNECT BY PRIOR amount = amount",
        "q.sql:1:49: CONNECT BY is not supported",
    );
    refused(
        "SELECT card, count(*) FROM payments GROUP BY card WITH TOTALS",
        "q.sql:1:51: WITH TOTALS is not supported: a row of totals is what GROUP BY GROUPING SETS",
    );
    refused(
        "SELECT card, count(*) FROM payments GROUP BY card WITH ROLLUP",
        "q.sql:1:51: WITH ROLLUP is not supported: write GROUP BY ROLLUP (..)",
    );
    refused("SELECT card FROM payments PARTITION (p0)", "q.sql:1:38: PARTITION (..) of a table is not supported");
    refused("SELECT card FROM payments WITH (nolock)", "q.sql:1:27: WITH is not supported: of a table in FROM");
    refused("SELECT card FROM payments FOR UPDATE", "q.sql:1:27: FOR is not supported");
    refused("SELECT card FROM payments FOR XML AUTO", "q.sql:1:27: FOR XML is not supported");
    refused("SELECT card FROM payments FOR JSON AUTO", "q.sql:1:27: FOR JSON is not supported");
    refused("SELECT card FROM payments SETTINGS max_threads = 1", "q.sql:1:27: SETTINGS is not supported");
    refused("SELECT card FROM payments FORMAT JSON", "q.sql:1:27: FORMAT is not supported");
    refused(
        "SELECT card FROM (SELECT card FROM payments\nPREWHERE amount > 1) AS p",
        "q.sql:2:1: PREWHERE is not supported",
    );
}

#[test]
fn a_recursion_is_refused_at_its_with_and_says_what_works() {
    let error = fails("SELECT 1;\nWITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT n FROM r");
    assert!(error.starts_with("q.sql:2:1: WITH RECURSIVE is not supported"), "{error}");
    assert!(error.contains("as many joins as there are levels"), "{error}");
}

#[test]
fn drop_takes_the_kind_that_it_names_and_nothing_else() {
    let mut planner = Planner::new(Arc::new(Nothing), "/data").unwrap();
    planner.plan("payments.sql", PAYMENTS).unwrap();
    planner.plan("v.sql", "CREATE VIEW v AS SELECT card FROM payments").unwrap();
    let mut drop = |sql: &str| planner.plan("q.sql", sql).map(|_| ()).map_err(|e| e.to_string());
    let error = drop("DROP FUNCTION payments").unwrap_err();
    assert!(error.starts_with("q.sql:1:15: 'payments' is no function but a table: write DROP TABLE"), "{error}");
    let error = drop("DROP VIEW payments").unwrap_err();
    assert!(error.starts_with("q.sql:1:11: 'payments' is no view but a table"), "{error}");
    let error = drop("DROP TABLE v").unwrap_err();
    assert!(error.starts_with("q.sql:1:12: 'v' is no table but a view: write DROP VIEW"), "{error}");
    drop("DROP FUNCTION IF EXISTS payments; DROP VIEW IF EXISTS payments").unwrap();
    drop("SELECT card FROM payments; DROP VIEW v; DROP TABLE payments").unwrap();
    let error = drop("DROP TABLE payments").unwrap_err();
    assert!(error.starts_with("q.sql:1:12: there is no table 'payments'"), "{error}");
}

#[test]
fn a_row_in_too_many_windows_is_refused() {
    let error = fails("SELECT * FROM HOP(payments, paid, INTERVAL '0.001' SECOND, INTERVAL '10000' DAY)");
    assert!(error.contains("a row would be in 864000000000 windows, and 100000 are the most"), "{error}");
    let error = fails("SELECT * FROM CUMULATE(payments, paid, INTERVAL '0.001' SECOND, INTERVAL '10000' DAY)");
    assert!(error.contains("choose a longer step"), "{error}");
}

#[test]
fn an_interval_beyond_all_timestamps_is_refused() {
    let error = fails("SELECT * FROM TUMBLE(payments, paid, INTERVAL '999999999' DAY)");
    assert!(error.contains("longer than 292,000 years"), "{error}");
}

#[test]
fn long_chains_are_planned_and_longer_ones_refused_without_a_crash() {
    let mut planner = Planner::new(Arc::new(Nothing), "/data").unwrap();
    planner.plan("payments.sql", PAYMENTS).unwrap();
    let or = |terms: usize| {
        let terms: Vec<_> = (0..terms).map(|n| format!("amount * 2 = {n}")).collect();
        format!("SELECT card FROM payments WHERE {}", terms.join(" OR "))
    };
    let plus = |terms: usize| format!("SELECT {} AS x FROM payments", vec!["amount"; terms].join(" + "));
    let union = |terms: usize| vec!["SELECT card FROM payments"; terms].join(" UNION ALL ");
    let nested = |depth: usize| {
        let (open, close) = ("ARRAY<".repeat(depth), ">".repeat(depth));
        format!("CREATE TABLE t{depth} (x {open}INT{close}) WITH ('connector' = 'filesystem')")
    };
    for sql in [or(900), plus(900), union(800), nested(90)] {
        planner.plan("q.sql", &sql).unwrap();
    }
    for sql in [or(30_000), plus(30_000)] {
        let error = planner.plan("q.sql", &sql).unwrap_err().to_string();
        assert!(error.contains("an expression is nested 1000 deep at the most"), "{}", &error[..200]);
    }
    let error = planner.plan("q.sql", &union(20_000)).unwrap_err().to_string();
    assert!(error.contains("queries are put together"), "{}", &error[..200]);
    let error = planner.plan("q.sql", &nested(1600)).unwrap_err().to_string();
    assert!(error.contains("types are nested 100 deep at the most"), "{}", &error[..200]);
}
