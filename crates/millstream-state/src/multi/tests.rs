use arrow::array::{AsArray, Int64Array, StringArray};
use arrow::datatypes::Int64Type;

use super::*;

fn table() -> MultiTable {
    let keys = Schema::new(vec![Field::new("k", DataType::Utf8, true)]);
    let values = Schema::new(vec![Field::new("v", DataType::Int64, true)]);
    MultiTable::new(Arc::new(keys), Arc::new(values)).unwrap()
}

fn texts(keys: &[&str]) -> Vec<ArrayRef> {
    vec![Arc::new(StringArray::from(keys.to_vec()))]
}

fn ints(values: &[i64]) -> Vec<ArrayRef> {
    vec![Arc::new(Int64Array::from(values.to_vec()))]
}

fn get(table: &MultiTable, keys: &[&str]) -> Vec<(usize, i64)> {
    let found = table.get(&texts(keys), keys.len()).unwrap();
    let values = found.values[0].as_primitive::<Int64Type>().values().to_vec();
    found.keys.iter().map(|k| *k as usize).zip(values).collect()
}

fn remove(table: &mut MultiTable, keys: &[&str], values: &[i64]) {
    let found = table.get(&texts(keys), keys.len()).unwrap();
    let held = found.values[0].as_primitive::<Int64Type>().values();
    let ids: Vec<RowId> =
        found.ids.iter().zip(held).filter(|(_, held)| values.contains(held)).map(|(id, _)| *id).collect();
    table.remove(&texts(keys), keys.len(), &ids).unwrap();
}

#[test]
fn keys_that_repeat_in_one_call_get_all_their_rows() {
    let mut t = table();
    t.insert(&texts(&["a", "b", "a", "a"]), &ints(&[1, 2, 3, 1]), 4).unwrap();
    assert_eq!(get(&t, &["b", "c", "a"]), [(0, 2), (2, 1), (2, 3), (2, 1)]);
    assert_eq!((t.len(), t.key_count()), (0, 0));
    t.install();
    t.insert(&texts(&["b"]), &ints(&[4]), 1).unwrap();
    assert_eq!(t.counts(&texts(&["b", "c", "a"]), 3).unwrap(), [2, 0, 3]);
    assert_eq!((t.len(), t.key_count()), (4, 2));
}

#[test]
fn the_last_rows_fill_the_holes_and_keep_their_sequence() {
    let mut t = table();
    t.insert(&texts(&["a"; 6]), &ints(&[0, 1, 2, 3, 4, 5]), 6).unwrap();
    t.install();
    remove(&mut t, &["x", "a"], &[0, 2, 5]);
    assert_eq!(get(&t, &["a"]), [(0, 3), (0, 1), (0, 4)]);
    let found = t.get(&texts(&["a"]), 1).unwrap();
    assert_eq!(found.ids.iter().map(RowId::sequence).collect::<Vec<_>>(), [3, 1, 4]);
    t.discard();
    assert_eq!(get(&t, &["a"]).len(), 6);
}

#[test]
fn a_key_without_rows_leaves_nothing_and_may_come_back() {
    let mut t = table();
    t.insert(&texts(&["a", "b"]), &ints(&[1, 2]), 2).unwrap();
    t.install();
    remove(&mut t, &["a", "b"], &[1]);
    t.remove_keys(&texts(&["c", "b"]), 2).unwrap();
    assert_eq!(get(&t, &["a", "b"]), []);
    t.install();
    assert_eq!((t.len(), t.key_count()), (0, 0));
    t.insert(&texts(&["a"]), &ints(&[7]), 1).unwrap();
    assert_eq!(get(&t, &["a"]), [(0, 7)]);
}

#[test]
fn an_updated_row_keeps_its_place_and_its_sequence() {
    let mut t = table();
    t.insert(&texts(&["a"; 3]), &ints(&[1, 2, 3]), 3).unwrap();
    let before = t.get(&texts(&["a"]), 1).unwrap().ids;
    t.update(&before[1..2], &ints(&[20])).unwrap();
    assert_eq!(get(&t, &["a"]), [(0, 1), (0, 20), (0, 3)]);
    assert_eq!(t.get(&texts(&["a"]), 1).unwrap().ids, before);
}

#[test]
fn a_row_that_is_not_there_cannot_be_removed() {
    let mut t = table();
    t.insert(&texts(&["a", "b"]), &ints(&[1, 2]), 2).unwrap();
    let ids = t.get(&texts(&["a"]), 1).unwrap().ids;
    let error = t.remove(&texts(&["b"]), 1, &ids).unwrap_err();
    assert!(error.to_string().contains("not there"), "{error}");
}

#[test]
fn without_key_columns_all_rows_are_of_one_key() {
    let values = Schema::new(vec![Field::new("v", DataType::Int64, true)]);
    let mut t = MultiTable::new(Arc::new(Schema::empty()), Arc::new(values)).unwrap();
    t.insert(&[], &ints(&[1, 2]), 2).unwrap();
    t.insert(&[], &ints(&[3]), 1).unwrap();
    t.install();
    let found = t.get(&[], 1).unwrap();
    assert_eq!(found.values[0].as_primitive::<Int64Type>().values(), &[1, 2, 3]);
    assert_eq!(t.scan().map(|b| b.unwrap().num_rows()).sum::<usize>(), 3);
}
