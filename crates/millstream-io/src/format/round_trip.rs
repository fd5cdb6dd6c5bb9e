//! What is written is read back, whatever it is.

use std::sync::Arc;

use arrow::array::RecordBatch;
use millstream_core::batch::Place;

use super::generate::{Rng, Scope, rows, schema};
use super::*;

fn assert_reads_back(options: &Options, rows: &RecordBatch, seed: u64) {
    let schema = rows.schema();
    let mut encoder = encoder(options, &schema).unwrap();
    let mut decoder = format(options, &schema).unwrap().decoder(Arc::clone(&schema)).unwrap();
    let mut whole = Vec::new();
    for row in 0..rows.num_rows() {
        let mut record = Vec::new();
        encoder.encode(&rows.slice(row, 1), &mut record).unwrap();
        whole.extend_from_slice(&record);
        assert_eq!(record.pop(), Some(b'\n'));
        decoder.push(&record, Place { offset: 0, row: row as u64 + 1 });
    }
    let mut at_once = Vec::new();
    encoder.encode(rows, &mut at_once).unwrap();
    assert_eq!(at_once, whole, "seed {seed}");
    let chunk = decoder.finish().unwrap();
    assert!(chunk.rejected.is_empty(), "seed {seed}: {:?}", chunk.rejected);
    assert_eq!(&chunk.rows, rows, "seed {seed}: {}", String::from_utf8_lossy(&whole));
}

#[test]
fn json_reads_back_what_it_wrote() {
    let options: Options = [("format", "json")].into_iter().collect();
    let sparse: Options = [("format", "json"), ("json.encode.ignore-null-fields", "true")].into_iter().collect();
    for seed in 0..400 {
        let mut rng = Rng(seed);
        let schema = schema(&mut rng, Scope::Ours);
        let rows = rows(&mut rng, &schema, 20, Scope::Ours);
        assert_reads_back(if seed % 4 == 0 { &sparse } else { &options }, &rows, seed);
    }
}

#[test]
fn csv_reads_back_what_it_wrote_in_every_dialect() {
    let dialects: [&[(&str, &str)]; 4] = [
        &[],
        &[("csv.null-literal", "NULL"), ("csv.field-delimiter", ";")],
        &[("csv.escape-character", "\\"), ("csv.allow-comments", "true")],
        &[("csv.quote-character", "'"), ("csv.field-delimiter", "\\t"), ("csv.null-literal", "a")],
    ];
    for seed in 0..400 {
        let mut rng = Rng(seed);
        let schema = schema(&mut rng, Scope::Ours);
        let rows = rows(&mut rng, &schema, 20, Scope::Ours);
        let dialect = dialects[rng.below(dialects.len())];
        let options: Options = [("format", "csv")].iter().chain(dialect).copied().collect();
        assert_reads_back(&options, &rows, seed);
    }
}

#[test]
fn timestamps_of_far_years_read_back() {
    use arrow::array::{ArrayRef, Date32Array, TimestampMillisecondArray};
    let times: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![
        -62_167_219_200_001,
        -999_999_999_999_999,
        253_402_300_800_000,
        9_999_999_999_999_999,
        0,
    ]));
    let dates: ArrayRef = Arc::new(Date32Array::from(vec![-719_529, 2_932_897, -1_000_000, 90_000_000, 0]));
    let rows = RecordBatch::try_from_iter([("t", times), ("d", dates)]).unwrap();
    for name in ["json", "csv"] {
        assert_reads_back(&[("format", name)].into_iter().collect(), &rows, 0);
    }
}

#[test]
fn every_other_type_of_a_result_is_written_somehow() {
    use arrow::array::{ArrayRef, DictionaryArray, DurationSecondArray, FixedSizeListArray, NullArray};
    use arrow::datatypes::{Int32Type, Int64Type};
    let dictionary: ArrayRef = Arc::new(["x", "y\"", "x"].into_iter().collect::<DictionaryArray<Int32Type>>());
    let lists = (0..3).map(|n| Some([Some(n), None]));
    let lists: ArrayRef = Arc::new(FixedSizeListArray::from_iter_primitive::<Int64Type, _, _>(lists, 2));
    let durations: ArrayRef = Arc::new(DurationSecondArray::from(vec![60, 0, -1]));
    let nulls: ArrayRef = Arc::new(NullArray::new(3));
    let rows = RecordBatch::try_from_iter([("d", dictionary), ("l", lists), ("p", durations), ("n", nulls)]).unwrap();
    let mut out = Vec::new();
    let json: Options = [("format", "json")].into_iter().collect();
    encoder(&json, &rows.schema()).unwrap().encode(&rows, &mut out).unwrap();
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "{\"d\":\"x\",\"l\":[0,null],\"p\":\"PT60S\",\"n\":null}\n\
         {\"d\":\"y\\\"\",\"l\":[1,null],\"p\":\"P0D\",\"n\":null}\n\
         {\"d\":\"x\",\"l\":[2,null],\"p\":\"-PT1S\",\"n\":null}\n"
    );
    let csv: Options = [("format", "csv"), ("csv.header", "true")].into_iter().collect();
    let mut encoder = encoder(&csv, &rows.schema()).unwrap();
    let mut out = encoder.header().unwrap();
    encoder.encode(&rows.slice(0, 2), &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "d,l,p,n\nx,\"[0,null]\",PT60S,\n\"y\"\"\",\"[1,null]\",P0D,\n");
}

#[test]
fn only_formats_of_rows_write_rows() {
    let schema = Arc::new(arrow::datatypes::Schema::empty());
    let options: Options = [("format", "parquet")].into_iter().collect();
    assert!(encoder(&options, &schema).is_err());
}
