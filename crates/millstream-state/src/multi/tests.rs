use arrow::array::{AsArray, Float64Array, Int64Array, StringArray};
use arrow::datatypes::{Float64Type, Int64Type};

use super::*;

fn table() -> MultiTable {
    let keys = Schema::new(vec![Field::new("k", DataType::Utf8, true)]);
    MultiTable::new(Arc::new(keys), vec![side()]).unwrap()
}

fn side() -> SideSchema {
    SideSchema { values: Arc::new(Schema::new(vec![Field::new("v", DataType::Int64, true)])), keys: vec![] }
}

fn texts(keys: &[&str]) -> Vec<ArrayRef> {
    vec![Arc::new(StringArray::from(keys.to_vec()))]
}

fn ints(values: &[i64]) -> Vec<ArrayRef> {
    vec![Arc::new(Int64Array::from(values.to_vec()))]
}

fn insert(table: &mut MultiTable, keys: &[&str], values: &[i64]) {
    let mut distinct = keys.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let of_row: Vec<u32> = keys.iter().map(|k| distinct.binary_search(k).unwrap() as u32).collect();
    let mut found = find(table, &distinct);
    table.insert(0, &mut found, &of_row, &ints(values)).unwrap();
}

fn find(table: &MultiTable, keys: &[&str]) -> Keys {
    table.find(&texts(keys), keys.len()).unwrap()
}

fn rows(table: &MultiTable, keys: &[&str]) -> FoundRows {
    table.get(0, &find(table, keys), |_| true).unwrap()
}

fn get(table: &MultiTable, keys: &[&str]) -> Vec<(usize, i64)> {
    let found = rows(table, keys);
    let values = found.values[0].as_primitive::<Int64Type>().values().to_vec();
    found.keys.iter().map(|k| *k as usize).zip(values).collect()
}

fn remove(table: &mut MultiTable, keys: &[&str], values: &[i64]) {
    let keys = find(table, keys);
    let found = table.get(0, &keys, |_| true).unwrap();
    let held = found.values[0].as_primitive::<Int64Type>().values();
    let ids: Vec<RowId> =
        found.ids.iter().zip(held).filter(|(_, held)| values.contains(held)).map(|(id, _)| *id).collect();
    table.remove(0, &keys, &ids).unwrap();
}

#[test]
fn keys_that_repeat_in_one_call_get_all_their_rows() {
    let mut t = table();
    insert(&mut t, &["a", "b", "a", "a"], &[1, 2, 3, 1]);
    assert_eq!(get(&t, &["b", "c", "a"]), [(0, 2), (2, 1), (2, 3), (2, 1)]);
    assert_eq!((t.len(), t.key_count()), (0, 0));
    t.install();
    insert(&mut t, &["b"], &[4]);
    assert_eq!(t.counts(0, &find(&t, &["b", "c", "a"])).unwrap(), [2, 0, 3]);
    assert_eq!((t.len(), t.key_count()), (4, 2));
}

#[test]
fn the_rows_that_are_left_keep_their_order() {
    let mut t = table();
    insert(&mut t, &["a"; 6], &[0, 1, 2, 3, 4, 5]);
    t.install();
    remove(&mut t, &["x", "a"], &[0, 2, 5]);
    assert_eq!(get(&t, &["a"]), [(0, 1), (0, 3), (0, 4)]);
    assert_eq!(t.sequences(0, &rows(&t, &["a"]).ids).unwrap(), [1, 3, 4]);
    t.discard();
    assert_eq!(get(&t, &["a"]).len(), 6);
}

#[test]
fn a_key_without_rows_leaves_nothing_and_may_come_back() {
    let mut t = table();
    insert(&mut t, &["a", "b"], &[1, 2]);
    t.install();
    remove(&mut t, &["a", "b"], &[1]);
    let keys = find(&t, &["c", "b"]);
    t.remove_keys(0, &keys).unwrap();
    assert_eq!(get(&t, &["a", "b"]), []);
    t.install();
    assert_eq!((t.len(), t.key_count()), (0, 0));
    insert(&mut t, &["a"], &[7]);
    assert_eq!(get(&t, &["a"]), [(0, 7)]);
}

#[test]
fn an_updated_row_keeps_its_place_and_its_sequence() {
    let mut t = table();
    insert(&mut t, &["a"; 3], &[1, 2, 3]);
    let before = rows(&t, &["a"]).ids;
    t.update(0, &before[1..2], &ints(&[20])).unwrap();
    assert_eq!(get(&t, &["a"]), [(0, 1), (0, 20), (0, 3)]);
    assert_eq!(rows(&t, &["a"]).ids, before);
    assert_eq!(t.sequences(0, &before).unwrap(), [0, 1, 2]);
}

#[test]
fn a_row_that_is_not_there_cannot_be_removed() {
    let mut t = table();
    insert(&mut t, &["a", "b"], &[1, 2]);
    let ids = rows(&t, &["a"]).ids;
    let other = find(&t, &["b"]);
    let error = t.remove(0, &other, &ids).unwrap_err();
    assert!(error.to_string().contains("not there"), "{error}");
}

#[test]
fn without_key_columns_all_rows_are_of_one_key() {
    let mut t = MultiTable::new(Arc::new(Schema::empty()), vec![side()]).unwrap();
    let mut one = t.find(&[], 1).unwrap();
    t.insert(0, &mut one, &[0, 0], &ints(&[1, 2])).unwrap();
    t.insert(0, &mut one, &[0], &ints(&[3])).unwrap();
    t.install();
    let found = t.get(0, &one, |_| true).unwrap();
    assert_eq!(found.values[0].as_primitive::<Int64Type>().values(), &[1, 2, 3]);
    assert_eq!(t.scan(0).map(|b| b.unwrap().num_rows()).sum::<usize>(), 3);
}

#[test]
fn keys_that_were_looked_up_before_others_came_are_refused() {
    let mut t = table();
    let (mut early, mut late) = (find(&t, &["a"]), find(&t, &["a", "b"]));
    t.insert(0, &mut late, &[0], &ints(&[1])).unwrap();
    let error = t.insert(0, &mut early, &[0], &ints(&[2])).unwrap_err();
    assert!(error.to_string().contains("after others came or went"), "{error}");
    t.insert(0, &mut late, &[1, 0], &ints(&[3, 4])).unwrap();
    assert_eq!(t.counts(0, &late).unwrap(), [2, 1]);
    t.discard();
    assert!(t.get(0, &late, |_| true).is_err());
    assert_eq!(get(&t, &["a", "b"]), []);
}

#[test]
fn a_key_stays_as_long_as_one_side_has_rows_of_it() {
    let keys = Schema::new(vec![Field::new("k", DataType::Utf8, true)]);
    let mut t = MultiTable::new(Arc::new(keys), vec![side(), side()]).unwrap();
    let mut ab = find(&t, &["a", "b"]);
    t.insert(0, &mut ab, &[0, 1], &ints(&[1, 2])).unwrap();
    t.insert(1, &mut ab, &[0], &ints(&[3])).unwrap();
    t.install();
    t.remove_keys(0, &ab).unwrap();
    t.install();
    assert_eq!((t.len(), t.key_count()), (1, 1));
    assert!(t.get(1, &ab, |_| true).is_err(), "b is gone, and its slot may be another's");
    let ab = find(&t, &["a", "b"]);
    assert_eq!((t.counts(0, &ab).unwrap(), t.counts(1, &ab).unwrap()), (vec![0, 0], vec![1, 0]));
}

#[test]
fn a_value_that_is_the_key_comes_back_as_it_was_also_where_equal_keys_differ_in_their_bits() {
    let float = |name| Field::new(name, DataType::Float64, true);
    let held = SideSchema { values: Arc::new(Schema::new(vec![float("x")])), keys: vec![Some(0)] };
    let mut t = MultiTable::new(Arc::new(Schema::new(vec![float("k")])), vec![held]).unwrap();
    let floats = |values: &[f64]| vec![Arc::new(Float64Array::from(values.to_vec())) as ArrayRef];
    let mut zero = t.find(&floats(&[0.0]), 1).unwrap();
    t.insert(0, &mut zero, &[0, 0], &floats(&[-0.0, 0.0])).unwrap();
    let found = t.get(0, &zero, |_| true).unwrap();
    let bits = found.values[0].as_primitive::<Float64Type>().values().iter().map(|v| v.to_bits());
    assert_eq!(bits.collect::<Vec<_>>(), [(-0.0f64).to_bits(), 0]);
}
