//! What each operation of each envelope gives, and what is rejected and why.

use std::path::PathBuf;

use arrow::util::pretty::pretty_format_batches;

use super::*;
use crate::format::of_table as format_of;

fn spec(format: &str, primary_key: &[&str], options: &[(&str, &str)]) -> TableSpec {
    TableSpec {
        name: "t".to_string(),
        schema: Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, primary_key.is_empty()),
            Field::new("name", DataType::Utf8View, false),
            Field::new("on", DataType::Boolean, true),
        ])),
        options: options.iter().copied().chain([("format", format)]).collect(),
        partitioned_by: vec![],
        primary_key: primary_key.iter().map(ToString::to_string).collect(),
        base_dir: PathBuf::new(),
    }
}

fn decode_with(spec: &TableSpec, columns: &[usize], records: &[&str]) -> Chunk {
    let (format, schema) = format_of(spec).unwrap();
    assert_eq!(schema.fields().last().unwrap().name(), WEIGHT);
    let schema = Arc::new(schema.project(columns).unwrap());
    let mut decoder = format.decoder(schema).unwrap();
    for (row, record) in (0..).zip(records) {
        decoder.push(record.as_bytes(), Place { offset: row * 10, row });
    }
    let len = decoder.len();
    let chunk = decoder.finish().unwrap();
    assert_eq!((len, len), (chunk.rows.num_rows(), chunk.places.len()));
    chunk
}

fn decode(format: &str, primary_key: &[&str], records: &[&str]) -> Chunk {
    decode_with(&spec(format, primary_key, &[]), &[0, 1, 2, 3], records)
}

/// The rows, a line each, with the number of the record that each is of.
fn rows(chunk: &Chunk) -> Vec<String> {
    let table = pretty_format_batches(std::slice::from_ref(&chunk.rows)).unwrap().to_string();
    let lines = table.lines().skip(3).filter(|line| line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join(" ");
    lines.zip(&chunk.places).map(|(line, place)| format!("{}: {}", place.row, cells(line).trim_end())).collect()
}

fn reason(format: &str, primary_key: &[&str], record: &str) -> String {
    let chunk = decode(format, primary_key, &[r#"null"#, record]);
    assert_eq!(rows(&chunk), Vec::<String>::new(), "{record}");
    let [rejected] = chunk.rejected.as_slice() else { panic!("{record} was not rejected once") };
    assert_eq!((rejected.place.row, rejected.raw.as_slice()), (1, record.as_bytes()));
    rejected.reason.clone()
}

const CHANGES: [&str; 9] = [
    r#"{"before":null,"after":{"id":1,"name":"ann","on":true},"op":"c","ts_ms":1,"source":{"a":[1]}}"#,
    r#"{"after":{"id":2,"name":"bob"},"op":"r"}"#,
    r#"{"before":{"id":1,"name":"ann","on":true},"after":{"id":1,"name":"anna","on":null},"op":"u"}"#,
    "null",
    "  ",
    r#"{"before":{"id":2,"name":"bob"},"after":null,"op":"d"}"#,
    r#"{"schema":{"type":"struct"},"payload":{"before":null,"after":{"id":3,"name":"eve"},"op":"c"}}"#,
    r#"{"schema":null,"payload":null}"#,
    r#"{"op":"m","message":{}}"#,
];

#[test]
fn debezium_operations_are_rows_that_come_and_go_at_the_place_of_their_record() {
    let chunk = decode("debezium-json", &[], &CHANGES);
    assert_eq!(chunk.rejected, []);
    let expected =
        ["0: 1 ann true 1", "1: 2 bob  1", "2: 1 ann true -1", "2: 1 anna  1", "5: 2 bob  -1", "6: 3 eve  1"];
    assert_eq!(rows(&chunk), expected);
}

#[test]
fn columns_that_nobody_asks_for_are_stepped_over_and_the_weight_stays() {
    let of = |columns: &[usize]| rows(&decode_with(&spec("debezium-json", &[], &[]), columns, &CHANGES[..3]));
    assert_eq!(of(&[1, 3]), ["0: ann 1", "1: bob 1", "2: ann -1", "2: anna 1"]);
    assert_eq!(of(&[3]), ["0: 1", "1: 1", "2: -1", "2: 1"]);
    let none = decode_with(&spec("debezium-json", &[], &[]), &[], &CHANGES[..3]);
    assert_eq!((none.rows.num_columns(), none.rows.num_rows()), (0, 4));
}

#[test]
fn debezium_without_the_old_row_is_rejected_unless_there_is_a_key() {
    let update = r#"{"before":null,"after":{"id":1,"name":"anna"},"op":"u"}"#;
    let why = reason("debezium-json", &[], update);
    assert!(why.contains("REPLICA IDENTITY FULL") && why.contains("PRIMARY KEY"), "{why}");
    assert_eq!(rows(&decode("debezium-json", &["id"], &[update])), ["0: 1 anna  1"]);

    let delete = r#"{"before":{"id":1},"op":"d"}"#;
    assert!(reason("debezium-json", &[], delete).contains("in 'before': field 'name': is missing"));
    assert_eq!(rows(&decode("debezium-json", &["id"], &[delete])), ["0: 1   -1"]);
    // A row that comes is whole all the same, and one that goes has its key.
    assert!(reason("debezium-json", &["id"], r#"{"after":{"id":1},"op":"c"}"#).contains("'name'"));
    assert!(reason("debezium-json", &["id"], r#"{"before":{"name":"a"},"op":"d"}"#).contains("'id'"));
    assert!(reason("debezium-json", &["id"], r#"{"before":null,"op":"d"}"#).contains("a delete whose 'before'"));
}

#[test]
fn a_record_with_one_bad_row_is_rejected_as_a_whole() {
    let half = r#"{"before":{"id":1,"name":"ann"},"after":{"id":"x","name":"anna"},"op":"u"}"#;
    assert!(reason("debezium-json", &[], half).starts_with("in 'after': field 'id'"));
    let chunk = decode("debezium-json", &[], &[CHANGES[0], half, CHANGES[1]]);
    assert_eq!(rows(&chunk), ["0: 1 ann true 1", "2: 2 bob  1"]);
    assert_eq!(chunk.rejected.len(), 1);
}

#[test]
fn what_is_no_debezium_envelope_is_rejected_with_what_is_wrong() {
    let says = |record: &str, what: &str| {
        let why = reason("debezium-json", &[], record);
        assert!(why.contains(what), "{record}: {why}");
    };
    says(r#"{"id":1,"name":"ann"}"#, "'op' is missing");
    says(r#"{"op":"x"}"#, "op 'x'");
    says(r#"{"op":"t"}"#, "TRUNCATE");
    says(r#"{"op":"c","after":null}"#, "'after'");
    says(r#"{"op":"c","after":[1]}"#, "in 'after'");
    says(r#"{"op":"c","#, "not JSON");
    says("7", "not an envelope");
}

#[test]
fn an_envelope_is_read_however_it_is_written() {
    let ways = [
        r#" { "op" : "u" , "before" : { "id" : 1, "name" : "a}\"" } , "after" : {"id":2,"name":"b"} } "#,
        r#"{"\u006fp":"u","before":{"id":1,"name":"a}\""},"after":{"id":2,"name":"b"}}"#,
        r#"{"op":"\u0075","before":{"id":1,"name":"a}\""},"after":{"id":2,"name":"b"},"x":[{}, "\\"]}"#,
        r#"{"after":{"name":"b","id":2},"source":null,"before":{"name":"a}\"","id":1},"op":"u"}"#,
    ];
    for way in ways {
        let rows = rows(&decode("debezium-json", &[], &[way]));
        assert_eq!(rows, ["0: 1 a}\"  -1", "0: 2 b  1"], "{way}");
    }
    for twice in [
        r#"{"op":"c","op":"d","after":{"id":1,"name":"a"}}"#,
        r#"{"before":null,"op":"c","after":{"id":2,"name":"b"},"before":null}"#,
    ] {
        assert!(reason("debezium-json", &[], twice).contains("duplicate field"), "{twice}");
    }
    for torn in [r#"{"op":"c","after":{"id":1,"name":"a"}"#, r#"{"op":"c","after":{"id":1,"name":"a"}} x"#] {
        assert!(reason("debezium-json", &[], torn).starts_with("not JSON"), "{torn}");
    }
}

#[test]
fn schema_include_says_where_the_envelope_is() {
    let of = |include: &str, record: &str| {
        decode_with(&spec("debezium-json", &[], &[("debezium-json.schema-include", include)]), &[0, 3], &[record])
    };
    assert_eq!(rows(&of("true", CHANGES[6])), ["0: 3 1"]);
    assert!(of("true", CHANGES[0]).rejected[0].reason.contains("'payload' is missing"));
    assert!(of("false", CHANGES[6]).rejected[0].reason.contains("'op' is missing"));
}

#[test]
fn options_that_would_drop_rows_silently_are_refused() {
    for (format, option) in
        [("debezium-json", "debezium-json.ignore-parse-errors"), ("canal-json", "canal-json.ignore-parse-errors")]
    {
        let error = format_of(&spec(format, &[], &[(option, "true")])).unwrap_err().to_string();
        assert!(error.contains("$rejected"), "{error}");
        format_of(&spec(format, &[], &[(option, "false")])).unwrap();
    }
}

#[test]
fn canal_operations_are_rows_that_come_and_go_and_its_texts_are_what_the_columns_are() {
    let chunk = decode(
        "canal-json",
        &[],
        &[
            r#"{"data":[{"id":"1","name":"1","on":"1"},{"id":"2","name":"b\"","on":"0"}],"type":"INSERT","isDdl":false}"#,
            r#"{"data":[{"id":"1","name":"x","on":"1"},{"id":"3","name":"b"}],"old":[{"name":"1"},{"id":"2"}],"type":"UPDATE"}"#,
            r#"{"data":[{"id":3,"name":"b","on":null}],"type":"DELETE"}"#,
            r#"{"data":null,"type":"CREATE","sql":"..","isDdl":true}"#,
        ],
    );
    assert_eq!(chunk.rejected, []);
    let expected = [
        "0: 1 1 true 1",
        "0: 2 b\" false 1",
        "1: 1 1 true -1",
        "1: 1 x true 1",
        "1: 2 b  -1",
        "1: 3 b  1",
        "2: 3 b  -1",
    ];
    assert_eq!(rows(&chunk), expected);
}

#[test]
fn what_is_no_canal_envelope_is_rejected_with_what_is_wrong() {
    let says = |record: &str, what: &str| {
        let why = reason("canal-json", &[], record);
        assert!(why.contains(what), "{record}: {why}");
    };
    says(r#"{"data":[{"id":"1","name":"a"}]}"#, "'type' is missing");
    says(r#"{"type":"INSERT","data":null}"#, "without 'data'");
    says(r#"{"type":"UPDATE","data":[{"id":"1","name":"a"}]}"#, "'old'");
    says(r#"{"type":"INSERT","data":[{"id":"1","name":"a"},{"id":"one","name":"a"}]}"#, "in 'data': field 'id'");
    says(r#"{"type":"TRUNCATE"}"#, "TRUNCATE");
}

#[test]
fn canal_records_of_other_tables_are_passed_over() {
    let of = |table: &str| {
        let include = [("canal-json.database.include", "shop"), ("canal-json.table.include", "users")];
        let record =
            format!(r#"{{"type":"INSERT","data":[{{"id":"1","name":"a"}}],"database":"shop","table":"{table}"}}"#);
        decode_with(&spec("canal-json", &[], &include), &[0, 3], &[&record])
    };
    assert_eq!(rows(&of("users")), ["0: 1 1"]);
    assert_eq!((of("orders").places.len(), of("orders").rejected.len()), (0, 0));
    let error = format_of(&spec("canal-json", &[], &[("canal-json.table.include", "user.*")])).unwrap_err();
    assert!(error.to_string().contains("regular expressions"), "{error}");
}
