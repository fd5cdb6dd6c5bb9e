use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::*;

fn schema() -> SchemaRef {
    with_weight(&Schema::new(vec![Field::new("k", DataType::Utf8, true), Field::new("n", DataType::Int64, true)]))
}

fn changes(rows: &[(Option<&str>, i64, i64)]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|r| r.0).collect::<StringArray>()),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.1))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.2))),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

fn ops(batch: &RecordBatch) -> Vec<String> {
    let (op, k) = (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
    let n = batch.column(2).as_primitive::<Int64Type>();
    let key = |i: usize| if k.is_null(i) { "NULL" } else { k.value(i) };
    (0..batch.num_rows()).map(|i| format!("{} {} {}", op.value(i), key(i), n.value(i))).collect()
}

#[test]
fn weights_of_equal_rows_are_added_and_zeros_dropped() {
    let first = changes(&[(Some("a"), 1, 1), (None, 2, 1), (Some("b"), 3, 1)]);
    let second = changes(&[(Some("a"), 1, -1), (Some("a"), 9, 1), (None, 2, 1), (Some("c"), 3, -1)]);
    let sum = consolidate(&[first, second], &schema()).unwrap();
    assert_eq!(sum, [changes(&[(Some("c"), 3, -1), (None, 2, 2), (Some("b"), 3, 1), (Some("a"), 9, 1)])]);
    let nothing = changes(&[(Some("a"), 1, 1), (Some("a"), 1, -1)]);
    assert!(consolidate(&[nothing], &schema()).unwrap().is_empty());
    assert!(consolidate(&[], &schema()).unwrap().is_empty());
}

#[test]
fn with_a_key_a_row_that_goes_and_one_that_comes_are_an_update() {
    let batch = changes(&[
        (Some("a"), 1, -1),
        (Some("gone"), 5, -1),
        (None, 7, -1),
        (Some("new"), 1, 1),
        (Some("a"), 2, 1),
        (None, 8, 1),
    ]);
    let shown = to_ops(&batch, Some(&[0])).unwrap();
    let expected = ["-U a 1", "+U a 2", "-D gone 5", "-U NULL 7", "+U NULL 8", "+I new 1"];
    assert_eq!(ops(&shown), expected);
    let none = to_ops(&changes(&[]), Some(&[0])).unwrap();
    assert_eq!((none.num_rows(), none.schema()), (0, ops_schema(&schema())));
}

#[test]
fn without_a_key_rows_come_and_go_as_often_as_their_weight_says() {
    let batch = changes(&[(Some("a"), 1, -2), (Some("b"), 2, 3), (Some("c"), 3, 1)]);
    let shown = to_ops(&batch, None).unwrap();
    assert_eq!(ops(&shown), ["-D a 1", "-D a 1", "+I b 2", "+I b 2", "+I b 2", "+I c 3"]);
}

#[test]
fn operations_fold_back_to_the_changes() {
    let batch = changes(&[(Some("a"), 1, -2), (Some("a"), 4, 1), (None, 2, 3)]);
    for key in [None, Some(&[0][..])] {
        let back = from_ops(&to_ops(&batch, key).unwrap()).unwrap();
        assert_eq!(consolidate(&[back], &schema()).unwrap(), std::slice::from_ref(&batch));
    }
}

#[test]
fn a_batch_without_weight_is_refused() {
    let batch = changes(&[]).project(&[0, 1]).unwrap();
    assert!(to_ops(&batch, None).is_err());
    assert!(consolidate(std::slice::from_ref(&batch), &batch.schema()).is_err());
}

#[test]
fn a_key_without_columns_is_one_key() {
    let shown = to_ops(&changes(&[(Some("a"), 1, -1), (Some("b"), 2, 1)]), Some(&[])).unwrap();
    assert_eq!(ops(&shown), ["-U a 1", "+U b 2"]);
}
