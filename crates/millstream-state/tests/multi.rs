//! Random histories of a table with many rows a key against a list of rows.
#![allow(clippy::unwrap_used)]

mod disk;
mod history;

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt64Type};
use history::{Modelled, Turn, turns};
use millstream_core::Result;
use millstream_state::{Changes, Keys, MultiTable, OperatorState, Restored, RowId, SideSchema, StateInfo, TableInfo};
use proptest::prelude::*;

/// What is done to the rows of one side.
#[derive(Clone, Debug)]
enum Step {
    /// Inserts rows of these keys.
    Insert(usize, Vec<u8>),
    /// Out of the rows of these keys, removes those whose value has this remainder by 3.
    Remove(usize, Vec<u8>, i64),
    RemoveKeys(usize, Vec<u8>),
    /// Adds a million to the rows of these keys with an even value.
    Update(usize, Vec<u8>),
    Then(Turn),
}

const NAMES: [&str; 2] = ["left", "right"];
/// The side whose rows have their key among their values, as the last of them.
const HOLDS_KEY: usize = 1;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let keys = || prop::collection::vec(0..9u8, 1..14);
    let step = prop_oneof![
        7 => (0..2usize, keys()).prop_map(|(side, k)| Step::Insert(side, k)),
        5 => (0..2usize, keys(), 0..3i64).prop_map(|(side, k, r)| Step::Remove(side, k, r)),
        1 => (0..2usize, keys()).prop_map(|(side, k)| Step::RemoveKeys(side, k)),
        2 => (0..2usize, keys()).prop_map(|(side, k)| Step::Update(side, k)),
        10 => turns().prop_map(Step::Then),
    ];
    prop::collection::vec(step, 1..60)
}

struct Table(MultiTable);

impl OperatorState for Table {
    fn install(&mut self) {
        self.0.install();
    }
    fn discard(&mut self) {
        self.0.discard();
    }
    fn changes(&mut self) -> Result<Changes> {
        Ok(Changes::new().multi(&NAMES, &self.0))
    }
    fn restore(&mut self, mut saved: Restored) -> Result<()> {
        saved.multi(&NAMES, &mut self.0)
    }
    fn describe(&self) -> StateInfo {
        StateInfo { kind: "rows".into(), tables: TableInfo::multi(&NAMES, &self.0) }
    }
    fn table(&self) -> Result<Vec<RecordBatch>> {
        self.0.scan(0).collect()
    }
}

/// For each side its rows (sequence, key, value), by sequence; and the next sequence.
type Model = [(Vec<(u64, Option<String>, i64)>, u64); 2];

struct Run {
    state: Modelled<Table, Model>,
    clock: u64,
}

fn key(number: u8) -> Option<String> {
    (number > 0).then(|| "key ".repeat(usize::from(number % 4)) + &number.to_string())
}

fn distinct(keys: &[u8]) -> Vec<Option<String>> {
    let mut distinct: Vec<u8> = vec![];
    for key in keys {
        if !distinct.contains(key) {
            distinct.push(*key);
        }
    }
    distinct.into_iter().map(key).collect()
}

fn column(keys: &[Option<String>]) -> Vec<ArrayRef> {
    vec![Arc::new(StringArray::from(keys.to_vec()))]
}

impl Run {
    fn new() -> Self {
        let keys = Schema::new(vec![Field::new("k", DataType::Utf8, true)]);
        let (v, k) = (Field::new("v", DataType::Int64, true), Field::new("k", DataType::Utf8, true));
        let side = |fields, keys| SideSchema { values: Arc::new(Schema::new(fields)), keys };
        let sides = vec![side(vec![v.clone()], vec![]), side(vec![v, k], vec![Some(1)])];
        let table = MultiTable::new(Arc::new(keys), sides).unwrap();
        Self { state: Modelled::new(Table(table)), clock: 0 }
    }

    fn step(&mut self, step: &Step) {
        let table = self.state.table.clone();
        let lock = || table.lock().unwrap();
        match step {
            Step::Insert(side, numbers) => {
                let keys: Vec<_> = numbers.iter().map(|k| key(*k)).collect();
                let values: Vec<i64> = (0..keys.len() as i64).map(|i| i * 7 % 5).collect();
                let (rows, next) = &mut self.state.staged[*side];
                for (key, value) in keys.iter().zip(&values) {
                    rows.push((*next, key.clone(), *value));
                    *next += 1;
                }
                let distinct = distinct(numbers);
                let of_row = keys.iter().map(|key| distinct.iter().position(|d| d == key).unwrap() as u32);
                let mut found = lock().0.find(&column(&distinct), distinct.len()).unwrap();
                let values = row_columns(*side, values, &keys);
                lock().0.insert(*side, &mut found, &of_row.collect::<Vec<_>>(), &values).unwrap();
            }
            Step::Remove(side, keys, rest) => {
                let keys = distinct(keys);
                let (found, ids) = self.ids(*side, &keys, |v| v % 3 == *rest);
                lock().0.remove(*side, &found, &ids).unwrap();
                self.state.staged[*side].0.retain(|(_, k, v)| !keys.contains(k) || v % 3 != *rest);
            }
            Step::RemoveKeys(side, keys) => {
                let keys = distinct(keys);
                let found = lock().0.find(&column(&keys), keys.len()).unwrap();
                lock().0.remove_keys(*side, &found).unwrap();
                self.state.staged[*side].0.retain(|(_, k, _)| !keys.contains(k));
            }
            Step::Update(side, keys) => {
                let keys = distinct(keys);
                let (_, ids) = self.ids(*side, &keys, |v| v % 2 == 0);
                let rows = &mut self.state.staged[*side].0;
                let held = |sequence: &u64| rows.iter().find(|r| r.0 == *sequence).unwrap();
                let sequences = lock().0.sequences(*side, &ids).unwrap();
                let values = sequences.iter().map(|s| held(s).2 + 1_000_000).collect();
                let of_row: Vec<_> = sequences.iter().map(|s| held(s).1.clone()).collect();
                lock().0.update(*side, &ids, &row_columns(*side, values, &of_row)).unwrap();
                let changed = |r: &&mut (u64, Option<String>, i64)| keys.contains(&r.1) && r.2 % 2 == 0;
                rows.iter_mut().filter(changed).for_each(|r| r.2 += 1_000_000);
            }
            Step::Then(turn) => {
                self.clock += 1;
                self.state.turn(turn, self.clock);
            }
        }
    }

    fn ids(&self, side: usize, keys: &[Option<String>], wanted: impl Fn(i64) -> bool) -> (Keys, Vec<RowId>) {
        let table = &self.state.table.lock().unwrap().0;
        let keys = table.find(&column(keys), keys.len()).unwrap();
        let found = table.get(side, &keys, |_| true).unwrap();
        let values = found.values[0].as_primitive::<Int64Type>().values().to_vec();
        let ids = found.ids.into_iter().zip(values).filter(|(_, v)| wanted(*v)).map(|(id, _)| id).collect();
        (keys, ids)
    }

    fn check(&self) {
        let table = &self.state.table.lock().unwrap().0;
        let keys = distinct(&(0..9).rev().collect::<Vec<_>>());
        let at = table.find(&column(&keys), keys.len()).unwrap();
        for (side, name) in NAMES.iter().enumerate() {
            let staged = &self.state.staged[side].0;
            let found = table.get(side, &at, |_| true).unwrap();
            let values = found.values[0].as_primitive::<Int64Type>().values();
            let sequences = table.sequences(side, &found.ids).unwrap();
            let rows = found.keys.iter().zip(&sequences).zip(values);
            let got: Vec<_> = rows.map(|((k, sequence), v)| (*k, *sequence, *v)).collect();
            let position = |key: &Option<String>| keys.iter().position(|k| k == key).unwrap() as u32;
            let mut expected: Vec<_> = staged.iter().map(|(s, k, v)| (position(k), *s, *v)).collect();
            expected.sort_unstable();
            assert_eq!(got, expected, "get {name}: the rows of a key in the order in which they came");
            if side == HOLDS_KEY {
                let held = found.values[1].as_string::<i32>().iter().map(|k| k.map(String::from));
                assert!(held.eq(found.keys.iter().map(|k| keys[*k as usize].clone())), "the key among the values");
            }
            let counts = table.counts(side, &at).unwrap();
            let expected = keys.iter().map(|k| staged.iter().filter(|r| r.1 == *k).count() as u32);
            assert_eq!(counts, expected.collect::<Vec<_>>());
            assert_eq!(scanned(&mut table.scan(side)), self.state.installed[side].0, "scan {name}");
            assert_eq!(scanned(&mut table.scan_staged(side)), *staged, "scan_staged {name}");
        }
        let installed = || self.state.installed.iter().flat_map(|(rows, _)| rows);
        assert_eq!(table.len(), installed().count());
        let keys: std::collections::BTreeSet<_> = installed().map(|row| &row.1).collect();
        assert_eq!(table.key_count(), keys.len());
    }
}

/// The value columns of rows of a side.
fn row_columns(side: usize, values: Vec<i64>, keys: &[Option<String>]) -> Vec<ArrayRef> {
    let mut columns = vec![Arc::new(Int64Array::from(values)) as ArrayRef];
    if side == HOLDS_KEY {
        columns.extend(column(keys));
    }
    columns
}

fn scanned(batches: &mut dyn Iterator<Item = Result<RecordBatch>>) -> Vec<(u64, Option<String>, i64)> {
    let mut rows = vec![];
    for batch in batches {
        let batch = batch.unwrap();
        let (k, v) = (batch.column(0).as_string::<i32>(), batch.column(1).as_primitive::<Int64Type>());
        let sequence = batch.columns().last().unwrap().as_primitive::<UInt64Type>();
        let row = |r: usize| (sequence.value(r), k.is_valid(r).then(|| k.value(r).to_string()), v.value(r));
        rows.extend((0..batch.num_rows()).map(row));
    }
    rows.sort();
    rows
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_table_of_many_rows_a_key_is_what_a_list_of_rows_would_be(steps in steps()) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
            run.check();
        }
    }
}
