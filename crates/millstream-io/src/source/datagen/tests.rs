use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Decimal128Type, Field, Int32Type, Int64Type, Schema, TimeUnit};
use arrow::datatypes::{Fields, TimestampMillisecondType};
use millstream_core::ErrorKind;
use millstream_testkit::conformance;

use super::super::generated::tests::read;
use super::*;
use crate::Options;

fn datagen(fields: Vec<Field>, options: &[(&str, &str)]) -> Result<Arc<dyn SourceTable>> {
    let options: Options = options.iter().copied().collect();
    let spec = TableSpec {
        name: "t".into(),
        schema: Arc::new(Schema::new(fields)),
        options,
        partitioned_by: vec![],
        primary_key: vec![],
        base_dir: Default::default(),
    };
    let table = table(&spec)?;
    spec.options.finish()?;
    Ok(table)
}

fn every_type() -> Vec<Field> {
    let row = Fields::from(vec![Field::new("a", DataType::Int16, true), Field::new("b", DataType::Utf8, true)]);
    let types = [
        DataType::Boolean,
        DataType::Int8,
        DataType::Int64,
        DataType::UInt64,
        DataType::Float32,
        DataType::Float64,
        DataType::Decimal128(10, 2),
        DataType::Utf8,
        DataType::Utf8View,
        DataType::Binary,
        DataType::Date32,
        DataType::Time64(TimeUnit::Microsecond),
        DataType::Timestamp(TimeUnit::Millisecond, None),
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::Struct(row),
        DataType::List(Arc::new(Field::new("element", DataType::Int32, true))),
    ];
    types.into_iter().enumerate().map(|(i, t)| Field::new(format!("f{i}"), t, true)).collect()
}

#[tokio::test]
async fn every_type_keeps_the_promises_of_a_source() {
    let all: Vec<_> = (0..every_type().len()).collect();
    let options =
        [("number-of-rows", "120"), ("rows-per-second", "0"), ("partitions", "2"), ("fields.f1.null-rate", "0.5")];
    let fresh = || datagen(every_type(), &options)?.source(&all);
    conformance::source::check(fresh, Default::default()).await.unwrap();
}

#[tokio::test]
async fn values_lie_where_the_options_say() {
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("n", DataType::Int32, true),
        Field::new("price", DataType::Decimal128(10, 2), true),
        Field::new("name", DataType::Utf8, true),
        Field::new("city", DataType::Utf8, true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Millisecond, None), true),
    ];
    let options = [
        ("rows-per-second", "100"),
        ("fields.id.kind", "sequence"),
        ("fields.id.start", "5"),
        ("fields.id.end", "10004"),
        ("fields.n.min", "-3"),
        ("fields.n.max", "3"),
        ("fields.n.null-rate", "0.25"),
        ("fields.price.min", "0.50"),
        ("fields.price.max", "1.5"),
        ("fields.name.length", "7"),
        ("fields.city.values", "Rome, Oslo"),
        ("fields.ts.start", "2026-05-01 00:00:00"),
        ("fields.ts.jitter", "2 s"),
    ];
    let table = datagen(fields, &options).unwrap();
    let source = table.source(&[0, 1, 2, 3, 4, 5]).unwrap();
    assert_eq!(source.boundedness(), millstream_core::source::Boundedness::Bounded);
    let position = |offset| millstream_core::batch::Position { offset, row: offset };
    let stamp = source.offer(&Default::default(), millstream_core::source::Limit { rows: 1, bytes: 1 }).await.unwrap();
    let mut range = stamp.ranges[0].clone();
    range.end = position(10_000);
    let chunks: Vec<Chunk> = futures::TryStreamExt::try_collect(source.open(&range).await.unwrap()).await.unwrap();
    assert_eq!(chunks.iter().map(|c| c.places.len()).collect::<Vec<_>>(), [8192, 1808]);
    let rows = arrow::compute::concat_batches(&chunks[0].rows.schema(), chunks.iter().map(|c| &c.rows)).unwrap();
    let ids = rows.column(0).as_primitive::<Int64Type>();
    assert_eq!((ids.value(0), ids.value(9_999)), (5, 10_004));
    let n = rows.column(1).as_primitive::<Int32Type>();
    assert!((2000..3000).contains(&n.null_count()), "{}", n.null_count());
    let found: std::collections::BTreeSet<_> = n.iter().flatten().collect();
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [-3, -2, -1, 0, 1, 2, 3]);
    let prices = rows.column(2).as_primitive::<Decimal128Type>();
    assert!(prices.values().iter().all(|p| (50..=150).contains(p)));
    assert!(rows.column(3).as_string::<i32>().iter().all(|s| s.unwrap().len() == 7));
    let oslo = rows.column(4).as_string::<i32>().iter().filter(|s| *s == Some("Oslo")).count();
    assert!((4000..6000).contains(&oslo));
    let times = rows.column(5).as_primitive::<TimestampMillisecondType>();
    let behind = times.iter().enumerate().map(|(i, t)| 1_777_593_600_000 + i as i64 * 10 - t.unwrap());
    let (least, most) = behind.fold((i64::MAX, i64::MIN), |(a, b), x| (a.min(x), b.max(x)));
    assert!((0..10).contains(&least) && (1_950..=2_000).contains(&most), "{least} {most}");
}

#[tokio::test]
async fn a_projection_does_not_change_the_values() {
    let options = [("number-of-rows", "100"), ("rows-per-second", "0")];
    let table = datagen(every_type(), &options).unwrap();
    let all = read(&*table, &(0..16).collect::<Vec<_>>()).await;
    for i in 0..16 {
        assert_eq!(read(&*table, &[i]).await[0].rows.column(0), all[0].rows.column(i));
    }
    assert_eq!(read(&*table, &[]).await[0].rows.num_rows(), 100);
}

#[test]
fn options_that_make_no_sense_are_refused_by_name() {
    let int = || vec![Field::new("n", DataType::Int32, false)];
    let cases = [
        ("fields.n.min", "x", "fields.n.min"),
        ("fields.n.max", "99999999999", "fields.n.max"),
        ("fields.n.null-rate", "0.1", "NOT NULL"),
        ("fields.n.kind", "time", "timestamps"),
        ("fields.n.kind", "rnadom", "'random'"),
        ("fields.m.min", "1", "fields.m.min"),
        ("partitions", "0", "1 to 1024"),
    ];
    for (name, value, wanted) in cases {
        let error = datagen(int(), &[(name, value)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.message().contains(wanted), "{error}");
    }
}

#[tokio::test]
async fn a_sequence_past_the_largest_number_of_its_type_is_an_error() {
    let bytes = || vec![Field::new("n", DataType::Int8, true)];
    let options = |rows| [("fields.n.kind", "sequence"), ("number-of-rows", rows), ("rows-per-second", "0")];
    for (rows, fits) in [("128", true), ("129", false)] {
        let source = datagen(bytes(), &options(rows)).unwrap().source(&[0]).unwrap();
        let all = millstream_core::source::Limit { rows: 1000, bytes: 1 << 20 };
        let range = source.offer(&Default::default(), all).await.unwrap().ranges.remove(0);
        let chunks: Result<Vec<Chunk>> = futures::TryStreamExt::try_collect(source.open(&range).await.unwrap()).await;
        assert_eq!(chunks.is_ok(), fits, "{rows}");
        if let Err(error) = chunks {
            assert!(error.message().contains("has come to 127"), "{error}");
        }
    }
}
