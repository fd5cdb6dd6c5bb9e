//! Random histories of a table with many rows a key against a list of rows.
#![allow(clippy::unwrap_used)]

mod disk;
mod history;

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt64Type};
use history::{Modelled, Turn, turns};
use millstream_core::Result;
use millstream_state::{Changes, Keys, MultiTable, OperatorState, Restored, RowId, StateInfo, TableInfo};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    /// Inserts rows of these keys.
    Insert(Vec<u8>),
    /// Out of the rows of these keys, removes those whose value has this remainder by 3.
    Remove(Vec<u8>, i64),
    RemoveKeys(Vec<u8>),
    /// Adds a million to the rows of these keys with an even value.
    Update(Vec<u8>),
    Then(Turn),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let keys = || prop::collection::vec(0..9u8, 1..14);
    let step = prop_oneof![
        7 => keys().prop_map(Step::Insert),
        5 => (keys(), 0..3i64).prop_map(|(k, r)| Step::Remove(k, r)),
        1 => keys().prop_map(Step::RemoveKeys),
        2 => keys().prop_map(Step::Update),
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
        Ok(Changes::new().multi("side", &self.0))
    }
    fn restore(&mut self, mut saved: Restored) -> Result<()> {
        saved.multi("side", &mut self.0)
    }
    fn describe(&self) -> StateInfo {
        StateInfo { kind: "rows".into(), tables: TableInfo::multi("side", &self.0).into() }
    }
    fn table(&self) -> Result<Vec<RecordBatch>> {
        self.0.scan().collect()
    }
}

/// (sequence, key, value), by sequence; and the next sequence.
type Model = (Vec<(u64, Option<String>, i64)>, u64);

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
        let values = Schema::new(vec![Field::new("v", DataType::Int64, true)]);
        let table = MultiTable::new(Arc::new(keys), Arc::new(values)).unwrap();
        Self { state: Modelled::new(Table(table)), clock: 0 }
    }

    fn step(&mut self, step: &Step) {
        let table = self.state.table.clone();
        let lock = || table.lock().unwrap();
        match step {
            Step::Insert(numbers) => {
                let keys: Vec<_> = numbers.iter().map(|k| key(*k)).collect();
                let values: Vec<i64> = (0..keys.len() as i64).map(|i| i * 7 % 5).collect();
                for (key, value) in keys.iter().zip(&values) {
                    self.state.staged.0.push((self.state.staged.1, key.clone(), *value));
                    self.state.staged.1 += 1;
                }
                let distinct = distinct(numbers);
                let of_row = keys.iter().map(|key| distinct.iter().position(|d| d == key).unwrap() as u32);
                let mut found = lock().0.find(&column(&distinct), distinct.len()).unwrap();
                let values = [Arc::new(Int64Array::from(values)) as ArrayRef];
                lock().0.insert(&mut found, &of_row.collect::<Vec<_>>(), &values).unwrap();
            }
            Step::Remove(keys, rest) => {
                let keys = distinct(keys);
                let (mut found, ids) = self.ids(&keys, |v| v % 3 == *rest);
                lock().0.remove(&mut found, &ids).unwrap();
                self.state.staged.0.retain(|(_, k, v)| !keys.contains(k) || v % 3 != *rest);
            }
            Step::RemoveKeys(keys) => {
                let keys = distinct(keys);
                let mut found = lock().0.find(&column(&keys), keys.len()).unwrap();
                lock().0.remove_keys(&mut found).unwrap();
                self.state.staged.0.retain(|(_, k, _)| !keys.contains(k));
            }
            Step::Update(keys) => {
                let keys = distinct(keys);
                let (_, ids) = self.ids(&keys, |v| v % 2 == 0);
                let held = |sequence: &u64| self.state.staged.0.iter().find(|r| r.0 == *sequence).unwrap().2;
                let sequences = lock().0.sequences(&ids).unwrap();
                let values = Int64Array::from_iter_values(sequences.iter().map(|s| held(s) + 1_000_000));
                lock().0.update(&ids, &[Arc::new(values)]).unwrap();
                let changed = |r: &&mut (u64, Option<String>, i64)| keys.contains(&r.1) && r.2 % 2 == 0;
                self.state.staged.0.iter_mut().filter(changed).for_each(|r| r.2 += 1_000_000);
            }
            Step::Then(turn) => {
                self.clock += 1;
                self.state.turn(turn, self.clock);
            }
        }
    }

    fn ids(&self, keys: &[Option<String>], wanted: impl Fn(i64) -> bool) -> (Keys, Vec<RowId>) {
        let table = &self.state.table.lock().unwrap().0;
        let keys = table.find(&column(keys), keys.len()).unwrap();
        let found = table.get(&keys, |_| true).unwrap();
        let values = found.values[0].as_primitive::<Int64Type>().values().to_vec();
        let ids = found.ids.into_iter().zip(values).filter(|(_, v)| wanted(*v)).map(|(id, _)| id).collect();
        (keys, ids)
    }

    fn check(&self) {
        let table = &self.state.table.lock().unwrap().0;
        let keys = distinct(&(0..9).rev().collect::<Vec<_>>());
        let at = table.find(&column(&keys), keys.len()).unwrap();
        let found = table.get(&at, |_| true).unwrap();
        assert!(found.keys.is_sorted());
        let values = found.values[0].as_primitive::<Int64Type>().values();
        let sequences = table.sequences(&found.ids).unwrap();
        let rows = sequences.into_iter().zip(&found.keys).zip(values);
        let mut got: Vec<_> = rows.map(|((sequence, k), v)| (sequence, keys[*k as usize].clone(), *v)).collect();
        got.sort();
        assert_eq!(got, self.state.staged.0, "get");
        let counts = table.counts(&at).unwrap();
        let expected = keys.iter().map(|k| self.state.staged.0.iter().filter(|r| r.1 == *k).count() as u32);
        assert_eq!(counts, expected.collect::<Vec<_>>());
        assert_eq!(scanned(&mut table.scan()), self.state.installed.0, "scan");
        assert_eq!(scanned(&mut table.scan_staged()), self.state.staged.0, "scan_staged");
        assert_eq!(table.len(), self.state.installed.0.len());
    }
}

fn scanned(batches: &mut dyn Iterator<Item = Result<RecordBatch>>) -> Vec<(u64, Option<String>, i64)> {
    let mut rows = vec![];
    for batch in batches {
        let batch = batch.unwrap();
        let (k, v) = (batch.column(0).as_string::<i32>(), batch.column(1).as_primitive::<Int64Type>());
        let sequence = batch.column(2).as_primitive::<UInt64Type>();
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
