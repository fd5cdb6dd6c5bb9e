//! What CSV reads, and what it rejects with which reason.

use arrow::array::AsArray;
use arrow::array::types::Int64Type;
use arrow::datatypes::{DataType, Schema, TimeUnit};

use super::*;
use crate::format::format;

fn decode(options: &[(&str, &str)], fields: Vec<Field>, projection: &[usize], records: &[&str]) -> Chunk {
    let schema = Arc::new(Schema::new(fields));
    let options: Options = [("format", "csv")].iter().chain(options).copied().collect();
    let format = format(&options, &schema).unwrap();
    options.finish().unwrap();
    let mut decoder = format.decoder(Arc::new(schema.project(projection).unwrap())).unwrap();
    for (row, record) in records.iter().enumerate() {
        decoder.push(record.as_bytes(), Place { offset: row as u64 * 10, row: row as u64 });
    }
    decoder.finish().unwrap()
}

fn table() -> Vec<Field> {
    vec![
        Field::new("id", DataType::Int64, false),
        Field::new("name", DataType::Utf8View, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, None), true),
    ]
}

fn names(chunk: &Chunk, column: usize) -> Vec<Option<String>> {
    chunk.rows.column(column).as_string_view().iter().map(|name| name.map(String::from)).collect()
}

fn some(text: &str) -> Option<String> {
    Some(text.to_string())
}

#[test]
fn quotes_nulls_and_spaces_mean_what_rfc_4180_and_sql_say() {
    let records = [
        "\u{feff}1,plain,2026-01-02 03:04:05\r",
        r#"2,"a ""quoted"", one",2026-01-02T03:04:05Z"#,
        "3,,",
        r#"4,"","#,
        " 5 , spaced ,",
        "",
        "6,it's \"so\",",
    ];
    let chunk = decode(&[], table(), &[0, 1, 2], &records);
    assert!(chunk.rejected.is_empty(), "{:?}", chunk.rejected);
    assert_eq!(chunk.rows.column(0).as_primitive::<Int64Type>().values().to_vec(), [1, 2, 3, 4, 5, 6]);
    let expected = [some("plain"), some("a \"quoted\", one"), None, some(""), some(" spaced "), some("it's \"so\"")];
    assert_eq!(names(&chunk, 1), expected);
    assert_eq!(chunk.places[5].row, 6);
}

#[test]
fn bad_records_say_what_is_wrong_and_leave_no_trace() {
    let records = [
        "1,a,",
        "2,b",
        "3,c,,d",
        "x,c,",
        "4,\"open,",
        "5,\"a\"b,",
        ",n,",
        "6,z,soon",
        "99999999999999999999,a,",
        "7,ok,",
    ];
    let chunk = decode(&[], table(), &[1, 2, 0], &records);
    assert_eq!(names(&chunk, 0), [some("a"), some("ok")]);
    let reasons: Vec<_> = chunk.rejected.iter().map(|rejected| rejected.reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "wrong number of fields: 3 are declared, found 2",
            "wrong number of fields: 3 are declared, found 4",
            "field 'id': wrong type: BIGINT is declared, found 'x'",
            "not CSV at byte 3: a quote is opened and not closed in the line",
            "not CSV at byte 6: something follows a closing quote",
            "field 'id': is NULL, but declared NOT NULL",
            "field 'at': wrong type: TIMESTAMP(3) is declared, found 'soon'",
            "field 'id': number out of range: 99999999999999999999 does not fit BIGINT exactly",
        ]
    );
}

#[test]
fn columns_are_found_by_their_declared_place() {
    let chunk = decode(&[], table(), &[1], &["1,a,", "not a number,b,not a time"]);
    // Only what the query uses is read.
    assert_eq!(names(&chunk, 0), [some("a"), some("b")]);
    assert_eq!(decode(&[], table(), &[], &["1,a,", "2"]).rows.num_rows(), 1);
}

#[test]
fn a_header_is_no_row_and_one_with_other_names_is_rejected() {
    let header = [("csv.header", "true")];
    let chunk = decode(&header, table(), &[0, 1, 2], &["ID, name,\"at\"", "1,a,"]);
    assert_eq!((chunk.rows.num_rows(), chunk.rejected.len()), (1, 0));
    let chunk = decode(&header, table(), &[0, 1, 2], &["name,id,at", "1,a,"]);
    assert_eq!((chunk.rows.num_rows(), chunk.rejected.len()), (1, 1));
    assert!(chunk.rejected[0].reason.contains("(id, name, at) are declared, found (name, id, at)"));
}

#[test]
fn flinks_options_choose_the_dialect() {
    let options = [
        ("csv.field-delimiter", "\\t"),
        ("csv.quote-character", "'"),
        ("csv.escape-character", "\\"),
        ("csv.null-literal", "n/a"),
        ("csv.allow-comments", "true"),
    ];
    let records = ["# a comment", "1\t'it\\'s'\tn/a", "2\tn/a\t", "3\t'n/a'\t", "4\ta\\\tb\\\\\t", "5\t\t"];
    let chunk = decode(&options, table(), &[0, 1, 2], &records);
    assert!(chunk.rejected.is_empty(), "{:?}", chunk.rejected);
    assert_eq!(names(&chunk, 1), [some("it's"), None, some("n/a"), some("a\tb\\"), some("")]);
}

#[test]
fn a_header_below_a_comment_is_no_row_wherever_a_range_begins() {
    let options = [("csv.header", "true"), ("csv.allow-comments", "true")];
    let texts = || vec![Field::new("id", DataType::Utf8View, true), Field::new("name", DataType::Utf8View, true)];
    let chunk = decode(&options, texts(), &[0, 1], &["# made by hand", "id,name", "1,a", "name,id"]);
    assert_eq!(names(&chunk, 0), [some("1"), some("name")]);
    let header_only = decode(&[("csv.header", "true")], texts(), &[0, 1], &["id,name", "id,name"]);
    assert_eq!(names(&header_only, 0), [some("id")], "where no comment can be, the first line is the header");
}

#[test]
fn a_dialect_that_contradicts_itself_is_refused() {
    let schema = Arc::new(Schema::new(table()));
    let refused = |name: &str, value: &str| {
        let options: Options = [("format", "csv"), (name, value)].into_iter().collect();
        format(&options, &schema).unwrap_err().to_string()
    };
    assert!(refused("csv.field-delimiter", "\"").contains("differ"));
    assert!(refused("csv.field-delimiter", "::").contains("one ASCII character"));
    assert!(refused("csv.ignore-parse-errors", "true").contains("$rejected"));
}
