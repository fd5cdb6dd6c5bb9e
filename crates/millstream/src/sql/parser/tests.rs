use proptest::prelude::*;

use super::*;

fn statements(text: &str) -> Vec<Parsed> {
    let source = SourceText::new("t.sql", text);
    parse(&source).unwrap_or_else(|e| panic!("{}", source.error_of(&e)))
}

#[test]
fn every_statement_keeps_its_place() {
    let text = "-- first\nSET a = 1;\n\n  SELECT 'a;b' -- not; here\n  FROM t ;\n";
    let source = SourceText::new("t.sql", text);
    let places: Vec<_> = statements(text).iter().map(|s| source.slice(s.span).to_string()).collect();
    assert_eq!(places, ["SET a = 1", "SELECT 'a;b' -- not; here\n  FROM t"]);
}

#[test]
fn emit_is_taken_off_the_end_and_is_no_alias() {
    let emit = |text: &str| match statements(text).remove(0).statement {
        Statement::Query(query) => query.emit,
        other => panic!("{other:?}"),
    };
    assert_eq!(emit("SELECT * FROM t EMIT CHANGES"), Some(Emit::Changes));
    assert_eq!(emit("SELECT * FROM t emit on window close"), Some(Emit::OnWindowClose));
    assert_eq!(emit("SELECT * FROM t GROUP BY a EMIT FINAL"), Some(Emit::Final));
    assert_eq!(emit("SELECT emit FROM t emit"), None);
}

#[test]
fn the_word_table_stays_where_it_opens_a_table_function() {
    let text = "SELECT * FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(c), INTERVAL '1' SECOND)) JOIN hop ON true";
    assert!(matches!(statements(text)[0].statement, Statement::Query(_)));
}

#[test]
fn a_text_of_comments_is_no_statement() {
    assert!(statements("-- nothing\n ; ;\n/* at all */").is_empty());
}

#[test]
fn insert_takes_columns_and_queries_in_parentheses() {
    let insert = |text: &str| match statements(text).remove(0).statement {
        Statement::Insert(insert) => insert.columns.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(insert("INSERT INTO t (a, b) SELECT 1, 2"), 2);
    assert_eq!(insert("INSERT INTO t (SELECT 1, 2)"), 0);
    assert_eq!(insert("INSERT INTO t VALUES (1, 2), (3, 4)"), 0);
    assert_eq!(insert("INSERT INTO cat.db.t WITH x AS (SELECT 1) SELECT * FROM x"), 0);
}

fn word() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "CREATE",
        "TABLE",
        "VIEW",
        "t",
        "(",
        ")",
        ",",
        "a",
        "INT",
        "ROW",
        "<",
        ">",
        ">>",
        "ARRAY",
        "MAP",
        "AS",
        "WATERMARK",
        "FOR",
        "-",
        "INTERVAL",
        "'1'",
        "SECOND",
        "WITH",
        "=",
        "PRIMARY",
        "KEY",
        "SELECT",
        "FROM",
        "*",
        "TUMBLE",
        "DESCRIPTOR",
        "INSERT",
        "INTO",
        "SET",
        "EMIT",
        "CHANGES",
        ";",
        "BEGIN",
        "STATEMENT",
        "END",
        "EXECUTE",
        "GROUP",
        "BY",
        ".",
        "TIMESTAMP",
        "=>",
        "\n",
        "\"q\"",
        "`b`",
        "'",
        "1.5",
        "é",
        "NOT",
        "NULL",
        "DROP",
        "EXPLAIN",
        "VALUES",
        "IF",
        "CAST",
        "CASE",
    ])
}

proptest! {
    #[test]
    fn no_soup_of_words_panics_and_every_error_can_be_shown(words in prop::collection::vec(word(), 0..25)) {
        let source = SourceText::new("t.sql", words.join(" "));
        if let Err(error) = parse(&source) {
            prop_assert!(source.error_of(&error).to_string().starts_with("t.sql"));
        }
    }
}
