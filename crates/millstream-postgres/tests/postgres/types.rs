//! Every type arrives as what it was.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Decimal256Array, DictionaryArray,
    DurationMillisecondArray, Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array,
    IntervalMonthDayNanoArray, LargeStringArray, ListArray, MapBuilder, RecordBatch, StringArray, StringBuilder,
    StringViewArray, StructArray, Time64NanosecondArray, TimestampMicrosecondArray, TimestampMillisecondArray,
    TimestampNanosecondArray, TimestampSecondArray, UInt32Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Fields, Int32Type, IntervalMonthDayNano, i256};
use millstream_core::ErrorKind;
use millstream_core::sink::OutputKind;

use crate::server::{Database, Publisher, field, open, refused};

/// A column of two values and a NULL in between.
fn cases() -> Vec<(&'static str, ArrayRef, &'static str, &'static str)> {
    let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    map.keys().append_value("k\"");
    map.values().append_value("v");
    map.append(true).unwrap();
    map.append(false).unwrap();
    map.append(true).unwrap();
    let fields: Fields = vec![field("a", DataType::Int32), field("b", DataType::Utf8)].into();
    let rows = StructArray::new(
        fields,
        vec![Arc::new(Int32Array::from(vec![Some(1), None, None])), Arc::new(StringArray::from(vec!["x\ny", "", "z"]))],
        Some(vec![true, false, true].into()),
    );
    let words: DictionaryArray<Int32Type> = vec![Some("a"), None, Some("b")].into_iter().collect();
    let list =
        ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), None, Some(3)]), None, Some(vec![])]);
    let nines = 10i128.pow(38) - 1;
    let wide = i256::from_string("-123456789012345678901234567890123456789012345678901234567890").unwrap();
    vec![
        ("boolean", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])), "true", "false"),
        ("smallint", Arc::new(Int8Array::from(vec![Some(-128), None, Some(127)])), "-128", "127"),
        ("smallint", Arc::new(Int16Array::from(vec![Some(i16::MIN), None, Some(i16::MAX)])), "-32768", "32767"),
        (
            "integer",
            Arc::new(Int32Array::from(vec![Some(i32::MIN), None, Some(i32::MAX)])),
            "-2147483648",
            "2147483647",
        ),
        (
            "bigint",
            Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(i64::MAX)])),
            "-9223372036854775808",
            "9223372036854775807",
        ),
        ("bigint", Arc::new(UInt32Array::from(vec![Some(0), None, Some(u32::MAX)])), "0", "4294967295"),
        (
            "numeric(20,0)",
            Arc::new(UInt64Array::from(vec![Some(0), None, Some(u64::MAX)])),
            "0",
            "18446744073709551615",
        ),
        ("real", Arc::new(Float32Array::from(vec![Some(1.5), None, Some(f32::NAN)])), "1.5", "NaN"),
        (
            "double precision",
            Arc::new(Float64Array::from(vec![Some(0.1), None, Some(f64::NEG_INFINITY)])),
            "0.1",
            "-Infinity",
        ),
        (
            "numeric(10,2)",
            Arc::new(
                Decimal128Array::from(vec![Some(-1_234_567_890), None, Some(5)])
                    .with_precision_and_scale(10, 2)
                    .unwrap(),
            ),
            "-12345678.90",
            "0.05",
        ),
        (
            "numeric(38,38)",
            Arc::new(Decimal128Array::from(vec![Some(nines), None, Some(1)]).with_precision_and_scale(38, 38).unwrap()),
            "0.99999999999999999999999999999999999999",
            "0.00000000000000000000000000000000000001",
        ),
        (
            "numeric(38,0)",
            Arc::new(
                Decimal128Array::from(vec![Some(nines), None, Some(-100_000_000)])
                    .with_precision_and_scale(38, 0)
                    .unwrap(),
            ),
            "99999999999999999999999999999999999999",
            "-100000000",
        ),
        (
            "numeric(70,7)",
            Arc::new(
                Decimal256Array::from(vec![Some(wide), None, Some(i256::from_i128(1))])
                    .with_precision_and_scale(70, 7)
                    .unwrap(),
            ),
            "-12345678901234567890123456789012345678901234567890123.4567890",
            "0.0000001",
        ),
        ("text", Arc::new(StringArray::from(vec![Some("ä, \"b\"\\N\n"), None, Some("")])), "ä, \"b\"\\N\n", ""),
        ("text", Arc::new(LargeStringArray::from(vec![Some("large"), None, Some("x")])), "large", "x"),
        (
            "text",
            Arc::new(StringViewArray::from(vec![Some("longer than a view holds inside"), None, Some("v")])),
            "longer than a view holds inside",
            "v",
        ),
        ("text", Arc::new(words), "a", "b"),
        (
            "bytea",
            Arc::new(BinaryArray::from(vec![Some(&[0u8, 255, 10][..]), None, Some(&[][..])])),
            "\\x00ff0a",
            "\\x",
        ),
        ("date", Arc::new(Date32Array::from(vec![Some(0), None, Some(-800_000)])), "1970-01-01", "0222-09-04 BC"),
        (
            "time without time zone",
            Arc::new(Time64NanosecondArray::from(vec![Some(86_399_999_999_000), None, Some(0)])),
            "23:59:59.999999",
            "00:00:00",
        ),
        (
            "timestamp(0) without time zone",
            Arc::new(TimestampSecondArray::from(vec![Some(1_767_323_045), None, Some(-1)])),
            "2026-01-02 03:04:05",
            "1969-12-31 23:59:59",
        ),
        (
            "timestamp(3) without time zone",
            Arc::new(TimestampMillisecondArray::from(vec![Some(1_767_323_045_678), None, Some(0)])),
            "2026-01-02 03:04:05.678",
            "1970-01-01 00:00:00",
        ),
        (
            "timestamp without time zone",
            Arc::new(TimestampMicrosecondArray::from(vec![Some(1_767_323_045_678_901), None, Some(-1)])),
            "2026-01-02 03:04:05.678901",
            "1969-12-31 23:59:59.999999",
        ),
        (
            "timestamp without time zone",
            Arc::new(TimestampNanosecondArray::from(vec![Some(1_767_323_045_678_901_000), None, Some(0)])),
            "2026-01-02 03:04:05.678901",
            "1970-01-01 00:00:00",
        ),
        (
            "timestamp(3) with time zone",
            Arc::new(
                TimestampMillisecondArray::from(vec![Some(1_767_323_045_678), None, Some(0)]).with_timezone("UTC"),
            ),
            "2026-01-02 03:04:05.678+00",
            "1970-01-01 00:00:00+00",
        ),
        (
            "interval",
            Arc::new(IntervalMonthDayNanoArray::from(vec![
                Some(IntervalMonthDayNano::new(14, -3, 4_000_000)),
                None,
                Some(IntervalMonthDayNano::new(0, 0, 0)),
            ])),
            "1 year 2 mons -3 days +00:00:00.004",
            "00:00:00",
        ),
        (
            "interval",
            Arc::new(DurationMillisecondArray::from(vec![Some(90_061_001), None, Some(0)])),
            "25:01:01.001",
            "00:00:00",
        ),
        ("integer[]", Arc::new(list), "{1,NULL,3}", "{}"),
        ("jsonb", Arc::new(rows), "{\"a\": 1, \"b\": \"x\\ny\"}", "{\"a\": null, \"b\": \"z\"}"),
        ("jsonb", Arc::new(map.finish()), "{\"k\\\"\": \"v\"}", "{}"),
    ]
}

#[tokio::test]
async fn every_type_arrives_as_it_was_by_every_way_in() {
    let database = Database::new().await;
    let cases = cases();
    let mut columns = vec![Field::new("id", DataType::Int64, false)];
    columns
        .extend(cases.iter().enumerate().map(|(n, (_, array, ..))| field(&format!("c{n}"), array.data_type().clone())));
    let first: Vec<_> =
        cases.iter().enumerate().map(|(n, case)| format!("c{n}::text = $tag${}$tag$", case.2)).collect();
    let last: Vec<_> = cases.iter().enumerate().map(|(n, case)| format!("c{n}::text = $tag${}$tag$", case.3)).collect();
    // A few rows in one statement; many by COPY; a key.
    for (way, key, copies) in [("few", &[][..], 1), ("many", &[][..], 300), ("upsert", &["id"][..], 1)] {
        let table = format!("{}.{way}", database.schema);
        let spec = crate::server::spec(&database.url, &table, columns.clone(), key, &[("sink.create-table", "true")]);
        let mut sink = open(&spec, OutputKind::Append).await;
        let batches = (0..copies).map(|copy| {
            let id: ArrayRef = Arc::new(Int64Array::from_iter_values(copy * 3..copy * 3 + 3));
            let arrays = std::iter::once(id).chain(cases.iter().map(|case| case.1.clone()));
            RecordBatch::try_new(sink.schema.clone(), arrays.collect()).unwrap()
        });
        let batches = batches.collect();
        sink.publish_batches(batches).await.unwrap();
        let made = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = '{}'::regclass AND attnum > 1 ORDER BY attnum";
        let made = database.rows(&made.replace("{}", &table)).await;
        assert_eq!(made, cases.iter().map(|case| case.0).collect::<Vec<_>>());
        for (row, texts) in [(0, &first), (2, &last)] {
            for (n, text) in texts.iter().enumerate() {
                let wrong =
                    format!("SELECT c{n}::text FROM {table} WHERE id % 3 = {row} AND ({text}) IS NOT TRUE LIMIT 1");
                assert_eq!(database.rows(&wrong).await, [""; 0], "{way}: {text}");
            }
        }
        let nulls: Vec<_> = (0..cases.len()).map(|n| format!("c{n} IS NOT NULL")).collect();
        let wrong = format!("SELECT * FROM {table} WHERE id % 3 = 1 AND ({})", nulls.join(" OR "));
        assert_eq!(database.rows(&wrong).await, [""; 0], "{way}");
        assert_eq!(database.rows(&format!("SELECT count(*) FROM {table}")).await, [(copies * 3).to_string()]);
    }
}

#[tokio::test]
async fn wider_columns_and_texts_of_another_type_take_the_values() {
    let database = Database::new().await;
    database
        .run(
            "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE DOMAIN positive AS bigint CHECK (value > 0); \
             CREATE TABLE t (a bigint, b numeric, c double precision, d numeric(20, 6), e varchar(9), f json, g jsonb, \
             h uuid, i mood, j positive, k text[], l json)",
        )
        .await;
    let text = |text: &str| Arc::new(StringArray::from(vec![text])) as ArrayRef;
    let words = ListArray::new(
        Arc::new(Field::new_list_field(DataType::Utf8, true)),
        arrow::buffer::OffsetBuffer::from_lengths([2]),
        Arc::new(StringArray::from(vec!["a", "b,c"])),
        None,
    );
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("a", Arc::new(Int16Array::from(vec![7]))),
        ("b", Arc::new(Int64Array::from(vec![-10_000]))),
        ("c", Arc::new(Float32Array::from(vec![0.5]))),
        ("d", Arc::new(Decimal128Array::from(vec![12_345]).with_precision_and_scale(10, 3).unwrap())),
        ("e", text("nine")),
        ("f", text("{\"a\":  1}")),
        ("g", text("{\"a\":  1}")),
        ("h", text("5B2C7A524F2D4C0E9D530C9F6A1F6B11")),
        ("i", text("glad")),
        ("j", Arc::new(Int32Array::from(vec![3]))),
        ("k", Arc::new(words)),
        ("l", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), None])]))),
    ];
    let fields = columns.iter().map(|(name, array)| field(name, array.data_type().clone())).collect();
    let spec = database.spec(fields, &[], &[]);
    let arrays: Vec<ArrayRef> = columns.iter().map(|(_, array)| array.clone()).collect();
    let mut sink = open(&spec, OutputKind::Append).await;
    sink.publish(arrays.clone()).await.unwrap();
    let batch = RecordBatch::try_new(sink.schema.clone(), arrays).unwrap();
    sink.publish_batches(vec![batch; 600]).await.unwrap();
    let expected = "7|-10000|0.5|12.345000|nine|{\"a\":  1}|{\"a\": 1}|5b2c7a52-4f2d-4c0e-9d53-0c9f6a1f6b11|glad|3|{a,\"b,c\"}|[1,null]|601";
    let all = "SELECT a, b, c, d, e, f::text, g, h, i, j, k, l::text, count(*) FROM t GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12";
    assert_eq!(database.rows(all).await, [expected]);
}

#[tokio::test]
async fn a_column_that_does_not_fit_is_refused_before_the_first_batch() {
    let database = Database::new().await;
    let name = format!("\"{}\".\"t\"", database.schema);
    let decimal = DataType::Decimal128(10, 2);
    let ms = DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, None);
    for (column, data_type, words) in [
        ("integer", DataType::Int64, ["is BIGINT in the query and integer", "TYPE bigint", "declare it as INT "]),
        (
            "numeric(10,1)",
            decimal,
            ["is DECIMAL(10, 2) in the query and numeric(10,1)", "TYPE numeric(10,2)", "DECIMAL(10, 1)"],
        ),
        (
            "timestamptz",
            ms.clone(),
            ["is TIMESTAMP(3) in the query and timestamp with time zone", "TYPE timestamp(3)", "TIMESTAMP_LTZ(6)"],
        ),
        ("timestamp(0)", ms, ["is TIMESTAMP(3)", "TYPE timestamp(3)", "declare it as TIMESTAMP(0)"]),
        ("text", DataType::Int32, ["is INT in the query and text", "TYPE integer", "declare it as STRING"]),
        ("point", DataType::Utf8, ["is STRING in the query and point", "TYPE text", &name]),
    ] {
        database.run(&format!("DROP TABLE IF EXISTS t; CREATE TABLE t (c {column})")).await;
        let error = refused(&database.spec(vec![field("c", data_type)], &[], &[])).await;
        assert_eq!(error.kind(), ErrorKind::Config);
        for word in words {
            assert!(error.to_string().contains(word), "'{word}' is not said in: {error}");
        }
    }
}

#[tokio::test]
async fn a_value_without_a_place_is_an_error_that_names_the_column() {
    let database = Database::new().await;
    database.run("CREATE TABLE t (u uuid, at timestamp, day date, j jsonb)").await;
    let columns: Vec<(&str, ArrayRef, &str)> = vec![
        ("u", Arc::new(StringArray::from(vec!["none"])), "the text 'none' is no UUID"),
        ("at", Arc::new(TimestampNanosecondArray::from(vec![1])), "has nanoseconds"),
        ("at", Arc::new(TimestampMicrosecondArray::from(vec![i64::MIN])), "out of PostgreSQL's range"),
        ("at", Arc::new(TimestampSecondArray::from(vec![i64::MAX])), "'at'"),
        ("day", Arc::new(Date32Array::from(vec![i32::MAX])), "SQLSTATE 22008"),
        ("j", Arc::new(StringArray::from(vec!["{"])), "SQLSTATE 22P02"),
        ("j", Arc::new(StringArray::from(vec!["\"\0\""])), "SQLSTATE 22"),
    ];
    for (name, array, word) in columns {
        let spec = database.spec(vec![field(name, array.data_type().clone())], &[], &[]);
        let mut sink = open(&spec, OutputKind::Append).await;
        let error = sink.publish(vec![array]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Sink, "{error}");
        assert!(error.to_string().contains(word), "'{word}' is not said in: {error}");
    }
    assert_eq!(database.rows("SELECT count(*) FROM t").await, ["0"]);
}

#[tokio::test]
async fn a_type_that_has_no_place_is_refused_before_anything_is_touched() {
    let inner = Arc::new(Field::new("i", DataType::Int32, true));
    let union =
        DataType::Union(arrow::datatypes::UnionFields::from_fields(vec![inner]), arrow::datatypes::UnionMode::Sparse);
    let spec = crate::server::spec("postgresql://nowhere/x", "t", vec![field("c", union)], &[], &[]);
    let error = Publisher::new(&spec, OutputKind::Append, 1).err().unwrap().to_string();
    assert!(error.contains("the column 'c' is Union"), "{error}");
}
