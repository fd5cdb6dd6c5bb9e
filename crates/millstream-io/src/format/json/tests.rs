//! What each type reads, what is rejected and why; and, over generated records, that arrow-json reads the
//! same and that serde_json accepts the same.

use std::collections::HashMap;

use arrow::array::AsArray;
use arrow::array::types::{Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMillisecondType};
use arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit};
use arrow::util::pretty::pretty_format_batches;

use super::*;
use crate::format::{EPOCH_KEY, JSON_KEY, format};

fn field(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

fn decode(fields: Vec<Field>, records: &[&str]) -> Chunk {
    let schema = Arc::new(Schema::new(fields));
    let options: Options = [("format", "json")].into_iter().collect();
    let mut decoder = format(&options, &schema).unwrap().decoder(schema).unwrap();
    for (row, record) in records.iter().enumerate() {
        decoder.push(record.as_bytes(), Place { offset: row as u64 * 100, row: row as u64 });
    }
    let len = decoder.len();
    let chunk = decoder.finish().unwrap();
    assert_eq!((len, len), (chunk.rows.num_rows(), chunk.places.len()));
    assert_eq!(decoder.len(), 0);
    chunk
}

fn reason(fields: Vec<Field>, record: &str) -> String {
    let chunk = decode(fields, &[record]);
    assert_eq!(chunk.rows.num_rows(), 0, "{record} was accepted");
    assert_eq!(chunk.rejected[0].raw, record.as_bytes());
    chunk.rejected[0].reason.clone()
}

fn shown(chunk: &Chunk) -> String {
    pretty_format_batches(std::slice::from_ref(&chunk.rows)).unwrap().to_string()
}

#[test]
fn fields_are_found_in_any_order_and_writing() {
    let chunk = decode(
        vec![field("a", DataType::Int64), field("b", DataType::Utf8View)],
        &[
            "\u{feff}{\"a\":1,\"b\":\"x\"}\r",
            r#"{"a":2,"b":"y"}"#,
            r#" { "b" : "z" , "c":[1,{"d":null}],"a" : 3 } "#,
            r#"{"b":"w"}"#,
            "{}",
            "",
            "  \r",
            r#"{"\u0061":7,"a":8,"b":"lo\u006eg \ud83d\ude00 and more\n"}"#,
            r#"{"a":null,"b":null}"#,
        ],
    );
    assert!(chunk.rejected.is_empty(), "{:?}", chunk.rejected);
    let a: Vec<_> = chunk.rows.column(0).as_primitive::<Int64Type>().iter().collect();
    assert_eq!(a, [Some(1), Some(2), Some(3), None, None, Some(8), None]);
    let b: Vec<_> = chunk.rows.column(1).as_string_view().iter().collect();
    let long = "long 😀 and more\n";
    assert_eq!(b, [Some("x"), Some("y"), Some("z"), Some("w"), None, Some(long), None]);
    let rows: Vec<_> = chunk.places.iter().map(|place| place.row).collect();
    assert_eq!(rows, [0, 1, 2, 3, 4, 7, 8]);
}

#[test]
fn a_rejected_record_leaves_no_trace_in_any_column() {
    let point = DataType::Struct(Fields::from(vec![field("x", DataType::Int32), field("tag", DataType::Utf8View)]));
    let list = DataType::List(Arc::new(Field::new("item", DataType::Int64, false)));
    let fields = vec![
        field("s", DataType::Utf8View),
        field("p", point),
        field("l", list),
        field("n", DataType::Boolean),
        Field::new("last", DataType::Int64, false),
    ];
    let good = r#"{"s":"a long enough string","p":{"x":1,"tag":"t"},"l":[1,2],"n":null,"last":1}"#;
    let clean = decode(fields.clone(), &[good, good, good]);
    let chunk = decode(
        fields,
        &[
            good,
            r#"{"s":"bad","p":{"x":1,"tag":"another long string"},"l":[1,2],"n":true}"#,
            r#"{"s":"bad","p":{"x":"1"},"l":[1,null],"n":true,"last":5}"#,
            good,
            r#"{"s":"bad","p":null,"l":[1,2,3],"n":true,"last":null}"#,
            r#"{"s":"bad","p":{"x":5},"l":[7,8"#,
            r#"{"s":"bad","p":{"x":5},"l":[7,8],"last":4} x"#,
            good,
        ],
    );
    assert_eq!(chunk.rejected.len(), 5);
    assert_eq!(chunk.rows, clean.rows);
}

#[test]
fn reasons_say_where_what_and_what_was_found() {
    let int = || vec![field("a", DataType::Int32)];
    assert_eq!(reason(int(), "{"), "not JSON at column 2: a field name in quotes is expected");
    assert_eq!(reason(int(), r#"{"a":1"#), "not JSON at column 7: the record ends within an object");
    assert_eq!(reason(int(), r#"{"a":1} {"#), "not JSON at column 9: something follows the object");
    assert_eq!(reason(int(), r#"{"b":"1}"#), "not JSON at column 9: a string is not closed");
    assert_eq!(reason(int(), r#"[1]"#), "not JSON at column 1: an object is expected");
    assert_eq!(reason(int(), r#"{"a":01}"#), "not JSON at column 6: a number begins with 0");
    assert_eq!(reason(int(), r#"{"a":tru}"#), "not JSON at column 6: a value is expected");
    assert_eq!(reason(int(), r#"{"a":"12"}"#), r#"field 'a': wrong type: INT is declared, found the string "12""#);
    assert_eq!(reason(int(), r#"{"a":[1]}"#), "field 'a': wrong type: INT is declared, found an array");
    assert_eq!(
        reason(int(), r#"{"a":3000000000}"#),
        "field 'a': number out of range: 3000000000 does not fit INT exactly"
    );
    assert_eq!(reason(int(), r#"{"a":1.5}"#), "field 'a': number out of range: 1.5 does not fit INT exactly");
    // What is not JSON is said before what has the wrong type.
    assert_eq!(reason(int(), r#"{"a":"12","b":}"#), "not JSON at column 15: a value is expected");
    let required = vec![Field::new("a", DataType::Int32, false)];
    assert_eq!(reason(required.clone(), "{}"), "field 'a': is missing, but declared NOT NULL");
    assert_eq!(reason(required, r#"{"a":null}"#), "field 'a': is NULL, but declared NOT NULL");
    let nested = DataType::List(Arc::new(field("item", DataType::Struct(Fields::from(int())))));
    assert_eq!(
        reason(vec![field("l", nested)], r#"{"l":[{"a":1},{"a":true}]}"#),
        "field 'l[1].a': wrong type: INT is declared, found the boolean true"
    );
    let time = || vec![field("t", DataType::Timestamp(TimeUnit::Millisecond, None))];
    assert_eq!(
        reason(time(), r#"{"t":1700000000000}"#),
        "field 't': wrong type: TIMESTAMP(3) is declared, found the number 1700000000000; for epoch numbers declare \
         their unit (the table's option 'json.epoch.<column>': 's', 'ms', 'us' or 'ns')"
    );
    assert_eq!(
        reason(time(), r#"{"t":"yesterday"}"#),
        r#"field 't': wrong type: TIMESTAMP(3) is declared, found the string "yesterday""#
    );
}

#[test]
fn an_empty_object_does_not_make_a_lone_brace_one() {
    let chunk = decode(vec![field("a", DataType::Int64)], &["{}", "}", "{}", r#"{"a":1}"#, "}"]);
    assert_eq!((chunk.rows.num_rows(), chunk.rejected.len()), (3, 2));
}

#[test]
fn invalid_utf8_is_rejected_wherever_it_stands() {
    let schema = Arc::new(Schema::new(vec![field("a", DataType::Int64)]));
    let mut decoder = JsonFormat.decoder(schema).unwrap();
    decoder.push(b"{\"a\":1,\"z\":\"\xff\"}", Place::default());
    let chunk = decoder.finish().unwrap();
    assert_eq!(chunk.rejected[0].reason, "invalid UTF-8 at byte 13");
    assert_eq!(chunk.rows.num_rows(), 0);
}

#[test]
fn numbers_are_exact_or_rejected() {
    let chunk = decode(
        vec![
            field("i", DataType::Int32),
            field("d", DataType::Decimal128(20, 4)),
            field("f", DataType::Float64),
            field("u", DataType::UInt64),
        ],
        &[
            r#"{"i":-2147483648,"d":1234567890123456.7891,"f":0.1,"u":18446744073709551615}"#,
            r#"{"i":1e3,"d":"12.50","f":-1e-7,"u":1.0}"#,
            r#"{"i":2147483648}"#,
            r#"{"d":0.00001}"#,
            r#"{"d":"12345678901234567"}"#,
            r#"{"d":"x"}"#,
            r#"{"f":1e999}"#,
            r#"{"u":-1}"#,
            r#"{"f":"NaN","i":-0}"#,
        ],
    );
    assert_eq!(chunk.rejected.len(), 6);
    assert_eq!(chunk.rejected[1].reason, "field 'd': number out of range: 0.00001 does not fit DECIMAL(20, 4) exactly");
    let ints: Vec<_> = chunk.rows.column(0).as_primitive::<Int32Type>().iter().collect();
    assert_eq!(ints, [Some(i32::MIN), Some(1000), Some(0)]);
    let decimals: Vec<_> = chunk.rows.column(1).as_primitive::<Decimal128Type>().iter().collect();
    assert_eq!(decimals, [Some(12_345_678_901_234_567_891), Some(125_000), None]);
    let floats = chunk.rows.column(2).as_primitive::<Float64Type>();
    assert_eq!((floats.value(0), floats.value(1)), (0.1, -1e-7));
    assert!(floats.value(2).is_nan());
}

#[test]
fn epoch_numbers_are_read_where_their_unit_is_declared() {
    let declared = |unit: &str, to: TimeUnit| {
        let metadata = HashMap::from([(EPOCH_KEY.to_string(), unit.to_string())]);
        field("t", DataType::Timestamp(to, None)).with_metadata(metadata)
    };
    let records = [r#"{"t":1767323045}"#, r#"{"t":"2026-01-02T03:04:05Z"}"#, r#"{"t":1767323045.12345678901}"#];
    let chunk = decode(vec![declared("s", TimeUnit::Millisecond)], &records);
    assert!(chunk.rejected.is_empty(), "{:?}", chunk.rejected);
    let values = chunk.rows.column(0).as_primitive::<TimestampMillisecondType>().values().to_vec();
    assert_eq!(values, [1_767_323_045_000, 1_767_323_045_000, 1_767_323_045_123]);
    let chunk = decode(vec![declared("ns", TimeUnit::Millisecond)], &[r#"{"t":-1}"#]);
    assert_eq!(chunk.rows.column(0).as_primitive::<TimestampMillisecondType>().value(0), -1);
    let chunk = decode(vec![declared("s", TimeUnit::Nanosecond)], &[r#"{"t":99999999999}"#]);
    assert!(chunk.rejected[0].reason.contains("out of range"), "{:?}", chunk.rejected);
    let schema = Arc::new(Schema::new(vec![declared("minutes", TimeUnit::Second)]));
    assert!(JsonFormat.decoder(schema).is_err());
}

#[test]
fn nested_values_dates_times_bytes_and_any_text() {
    let entries = Fields::from(vec![Field::new("key", DataType::Utf8, false), field("value", DataType::Int64)]);
    let map = DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries), false)), false);
    let any = field("any", DataType::Utf8View).with_metadata(HashMap::from([(JSON_KEY.into(), "any".into())]));
    let list = DataType::List(Arc::new(field("item", DataType::Utf8)));
    let chunk = decode(
        vec![
            field("m", map),
            any,
            field("l", list),
            field("d", DataType::Date32),
            field("t", DataType::Time64(TimeUnit::Microsecond)),
            field("b", DataType::Binary),
        ],
        &[
            r#"{"m":{"a":1,"b":null,"a":2},"any":{"x": 1},"l":["x",null,"\""],"d":"2026-01-02","t":"03:04:05.5","b":"AQI="}"#,
            r#"{"m":{},"any":"text","l":[],"d":"1969-12-31","t":"23:59","b":""}"#,
            r#"{"any":12.50}"#,
        ],
    );
    assert!(chunk.rejected.is_empty(), "{:?}", chunk.rejected);
    let expected = "\
+--------------+----------+-----------+------------+------------+------+
| m            | any      | l         | d          | t          | b    |
+--------------+----------+-----------+------------+------------+------+
| {a: 2, b: }  | {\"x\": 1} | [x, , \"]   | 2026-01-02 | 03:04:05.500 | 0102 |
| {}           | text     | []        | 1969-12-31 | 23:59:00   |      |
|              | 12.50    |           |            |            |      |
+--------------+----------+-----------+------------+------------+------+";
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").replace('-', "");
    assert_eq!(squeeze(&shown(&chunk)), squeeze(expected));
}

#[test]
fn no_columns_still_count_rows_and_reject() {
    let chunk = decode(vec![], &[r#"{"a":1}"#, "{", r#"{"a":2}"#]);
    assert_eq!((chunk.rows.num_rows(), chunk.rejected.len()), (2, 1));
}

#[test]
fn names_that_are_data_do_not_grow_the_memory_of_names() {
    let mut object = Object::new(&Fields::from(vec![field("a", DataType::Int64)])).unwrap();
    for n in 0..5000 {
        let text = format!(r#"{{"k{n}":1,"a":{n}}}"#);
        object.read(&mut Cursor::new(&text, String::new())).unwrap();
    }
    assert_eq!(object.rows(), 5000);
    assert!(object.remembered() <= 512);
}

#[test]
fn options_of_flink_are_understood_or_refused_with_the_reason() {
    let schema = Arc::new(Schema::new(vec![field("a", DataType::Int64)]));
    let with = |name: &str, value: &str| {
        let options: Options = [("format", "json"), (name, value)].into_iter().collect();
        format(&options, &schema).and_then(|_| options.finish())
    };
    assert!(with("json.timestamp-format.standard", "ISO-8601").is_ok());
    assert!(with("json.ignore-parse-errors", "false").is_ok());
    let error = with("json.ignore-parse-errors", "true").unwrap_err().to_string();
    assert!(error.contains("$rejected"), "{error}");
    assert!(with("json.timestamp-format.standard", "RFC").is_err());
    let options: Options = [("format", "jsn")].into_iter().collect();
    let error = format(&options, &schema).unwrap_err().to_string();
    assert!(error.contains("did you mean 'json'"), "{error}");
    let interval = Arc::new(Schema::new(vec![field("i", DataType::Duration(TimeUnit::Second))]));
    let options: Options = [("format", "json")].into_iter().collect();
    assert!(format(&options, &interval).is_err());
}
