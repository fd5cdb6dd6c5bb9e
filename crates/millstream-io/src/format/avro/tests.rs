use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Decimal128Array, Int64Array, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema as ArrowSchema};
use millstream_core::ErrorKind;

use super::*;

fn rows(from: i64, count: i64) -> RecordBatch {
    let ids = from..from + count;
    let decimals = Decimal128Array::from_iter_values(ids.clone().map(|n| i128::from(-n) * 7));
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(ids.clone())), false),
        ("name", Arc::new(StringArray::from_iter(ids.clone().map(|n| (n % 3 > 0).then(|| format!("n{n}"))))), true),
        ("d", Arc::new(decimals.with_precision_and_scale(12, 3).unwrap()), true),
        ("at", Arc::new(TimestampMillisecondArray::from_iter_values(ids.map(|n| 1_700_000_000_000 + n))), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

/// A file of blocks of 30 rows.
fn file(dir: &Path, count: i64, codec: Option<CompressionCodec>) -> PathBuf {
    let schema = rows(0, 1).schema();
    let builder = WriterBuilder::new(schema.as_ref().clone()).with_compression(codec);
    let mut writer = builder.build::<_, AvroOcfFormat>(Vec::new()).unwrap();
    (0..count).step_by(30).for_each(|from| writer.write(&rows(from, 30.min(count - from))).unwrap());
    writer.finish().unwrap();
    let path = dir.join("rows.avro");
    std::fs::write(&path, writer.into_inner()).unwrap();
    path
}

fn read(file: &AvroFile, schema: &SchemaRef, range: std::ops::Range<u64>) -> Vec<Chunk> {
    file.read(schema, range, 8).unwrap().map(Result::unwrap).collect()
}

#[test]
fn any_range_gives_its_rows_with_every_codec() {
    let dir = tempfile::tempdir().unwrap();
    let codecs =
        [None, Some(CompressionCodec::Deflate), Some(CompressionCodec::Snappy), Some(CompressionCodec::ZStandard)];
    for codec in codecs {
        let file = AvroFile::open(&file(dir.path(), 100, codec)).unwrap();
        assert_eq!(file.rows(), 100);
        let expected = rows(0, 100);
        for (start, end) in [(0, 100), (0, 1), (29, 31), (30, 60), (59, 100), (99, 100), (45, 46)] {
            let mut at = start;
            for chunk in read(&file, &expected.schema(), start..end) {
                assert!(chunk.rows.num_rows() <= 8 && chunk.rejected.is_empty(), "{:?}", chunk.rejected);
                assert_eq!(chunk.rows, expected.slice(at as usize, chunk.rows.num_rows()), "{codec:?}");
                chunk.places.iter().enumerate().for_each(|(n, place)| assert_eq!(place.row, at + n as u64));
                at += chunk.places.len() as u64;
            }
            assert_eq!(at, end);
        }
        let none = Arc::new(ArrowSchema::empty());
        assert_eq!(read(&file, &none, 10..75).iter().map(|c| c.rows.num_rows()).sum::<usize>(), 65);
    }
}

#[test]
fn another_version_of_the_schema_is_resolved_and_what_is_no_row_is_rejected_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = AvroFile::open(&file(dir.path(), 40, None)).unwrap();
    // A column less, one that the writer did not know, another order, and a name that must be there.
    let declared: SchemaRef = Arc::new(ArrowSchema::new(vec![
        Field::new("added", DataType::Utf8, true),
        Field::new("name", DataType::Utf8, false),
        Field::new("id", DataType::Int32, false),
    ]));
    let chunks = read(&file, &declared, 0..40);
    let rejected: Vec<u64> = chunks.iter().flat_map(|c| &c.rejected).map(|r| r.place.row).collect();
    assert_eq!(rejected, (0..40).filter(|n| n % 3 == 0).collect::<Vec<_>>());
    let first = chunks.iter().flat_map(|c| &c.rejected).next().unwrap();
    assert!(first.reason.contains("name") && !first.raw.is_empty(), "{first:?}");
    assert_eq!(chunks[0].rows.column(1).as_string::<i32>().value(0), "n1");
    // A type that the writer's can't become: every row says so, and none fails the file.
    let declared: SchemaRef = Arc::new(ArrowSchema::new(vec![Field::new(
        "id",
        DataType::List(Arc::new(Field::new("item", DataType::Int64, true))),
        true,
    )]));
    let chunks = read(&file, &declared, 0..40);
    assert_eq!(chunks.iter().map(|c| c.rejected.len()).sum::<usize>(), 40);
}

#[test]
fn a_file_that_is_cut_short_or_no_avro_is_an_error_that_names_it_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), 100, Some(CompressionCodec::Snappy));
    let bytes = std::fs::read(&path).unwrap();
    for bytes in [&bytes[..bytes.len() - 10], &bytes[..bytes.len() / 2], &bytes[..20], b"hello", b""] {
        std::fs::write(&path, bytes).unwrap();
        let error = AvroFile::open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input);
        assert!(error.to_string().contains("rows.avro") && error.to_string().contains("write it again"), "{error}");
    }
    // A block is damaged, its frame is not: its checksum tells.
    let mut damaged = bytes.clone();
    let at = damaged.len() - 40;
    damaged[at] ^= 1;
    std::fs::write(&path, damaged).unwrap();
    let schema = rows(0, 1).schema();
    let error = AvroFile::open(&path).unwrap().read(&schema, 0..100, 8).unwrap().find_map(Result::err).unwrap();
    assert!(error.kind() == ErrorKind::Input && error.to_string().contains("rows.avro"), "{error}");
    let error = AvroFile::open(Path::new("/nowhere.avro")).unwrap_err().to_string();
    assert!(error.contains("/nowhere.avro"), "{error}");
}

#[test]
fn a_damaged_file_never_panics() {
    let dir = tempfile::tempdir().unwrap();
    for codec in [None, Some(CompressionCodec::Deflate), Some(CompressionCodec::ZStandard)] {
        let path = file(dir.path(), 100, codec);
        let bytes = std::fs::read(&path).unwrap();
        for at in (0..bytes.len()).step_by(7) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x55;
            std::fs::write(&path, &damaged).unwrap();
            let Ok(file) = AvroFile::open(&path) else { continue };
            for chunk in file.read(&rows(0, 1).schema(), 5..95, 16).unwrap() {
                let Err(error) = chunk else { continue };
                assert_eq!(error.kind(), ErrorKind::Input, "{error}");
                break;
            }
        }
    }
}

#[test]
fn an_unknown_codec_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.avro");
    let header = b"Obj\x01\x02\x14avro.codec\x04xz\x000123456789abcdef";
    std::fs::write(&path, header).unwrap();
    let error = AvroFile::open(&path).unwrap_err().to_string();
    assert!(error.contains("'xz'") && error.contains("deflate"), "{error}");
}

#[test]
fn what_is_written_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let expected = rows(0, 10_000);
    let mut writer = AvroWriter::new(&expected.schema()).unwrap();
    writer.write(&expected).unwrap();
    let path = dir.path().join("w.avro");
    std::fs::write(&path, writer.finish().unwrap()).unwrap();
    let file = AvroFile::open(&path).unwrap();
    let chunk = file.read(&expected.schema(), 5000..6000, 2000).unwrap().next().unwrap().unwrap();
    assert_eq!(chunk.rows, expected.slice(5000, 1000));
    assert_eq!(chunk.rows.column(0).as_primitive::<Int64Type>().value(0), 5000);
}

#[test]
fn a_file_says_its_columns_and_they_read_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let file = AvroFile::open(&file(dir.path(), 40, None)).unwrap();
    let columns = file.columns().unwrap();
    let shown: Vec<_> = columns.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
    assert_eq!(shown, ["id Int64", "name Utf8View", "d Decimal128(38, 3)", "at Timestamp(ms)"]);
    let chunks = read(&file, &columns, 0..40);
    assert!(chunks.iter().all(|chunk| chunk.rejected.is_empty()));
    assert_eq!(chunks.iter().map(|chunk| chunk.rows.num_rows()).sum::<usize>(), 40);
}

#[test]
fn the_columns_of_a_schema_are_its_fields_or_it_is_said_which_is_none() {
    let columns = |fields: &str| {
        let text = format!(r#"{{"type":"record","name":"r","fields":[{fields}]}}"#);
        Schema::parse(&text).unwrap().columns().map(|columns| {
            let shown = columns.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type()));
            shown.collect::<Vec<_>>().join(", ")
        })
    };
    let shown = columns(
        r#"{"name":"a","type":["null",{"type":"array","items":"int"}]},
           {"name":"b","type":{"type":"record","name":"s","fields":[{"name":"c","type":{"type":"int","logicalType":"date"}}]}},
           {"name":"e","type":{"type":"enum","name":"e","symbols":["x"]}},
           {"name":"t","type":{"type":"long","logicalType":"timestamp-micros"}},
           {"name":"f","type":{"type":"fixed","name":"f","size":4}}"#,
    );
    let wanted = "a List(Int32), b Struct(\"c\": Date32), e Utf8View, t Timestamp(µs, \"UTC\"), f Binary";
    assert_eq!(shown.unwrap(), wanted);
    let union = columns(r#"{"name":"a","type":["int","string"]}"#).unwrap_err();
    assert!(union.contains("'a' is a union"), "{union}");
    let itself = columns(r#"{"name":"next","type":["null","r"]}"#).unwrap_err();
    assert!(itself.contains("'next'") && itself.contains("holds itself"), "{itself}");
}
