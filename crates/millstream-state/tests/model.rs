//! Random histories of a table against a `BTreeMap`, for every kind of key.
#![allow(clippy::unwrap_used)]

mod disk;
mod history;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::*;
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit};
use arrow::util::display::array_value_to_string;
use history::{Modelled, Turn, turns};
use millstream_core::Result;
use millstream_state::{Changes, KeyedTable, OperatorState, Restored, StateInfo, TableInfo};
use proptest::prelude::*;

/// Keys to choose from: columns, and for each row which key it is (two rows can be one key: 0.0 and -0.0).
struct Universe {
    columns: Vec<ArrayRef>,
    identity: Vec<usize>,
}

const KINDS: usize = 15;

fn universe(kind: usize) -> Universe {
    let distinct = |columns: Vec<ArrayRef>| {
        let rows = columns.first().map_or(1, |c| c.len());
        Universe { columns, identity: (0..rows).collect() }
    };
    let ints = |n: i64| -> ArrayRef {
        let values = (0..n).map(|i| (i != 3).then_some((i - 4) * 1_000_003)).collect::<Vec<_>>();
        Arc::new(Int64Array::from(values))
    };
    let texts = |n: i64| -> ArrayRef {
        let text = |i: i64| match i {
            0 => None,
            1 => Some(String::new()),
            2 => Some("\0".into()),
            _ => Some("é".repeat(i as usize % 20) + &i.to_string()),
        };
        Arc::new(StringArray::from((0..n).map(text).collect::<Vec<_>>()))
    };
    let floats = vec![None, Some(0.0), Some(-0.0), Some(f64::NAN), Some(f64::INFINITY), Some(-1.5), Some(f64::MIN)];
    let identity = vec![0, 1, 1, 3, 4, 5, 6];
    match kind {
        0 => distinct(vec![ints(30)]),
        1 => distinct(vec![cast(&texts(40), &DataType::Utf8).unwrap()]),
        2 => distinct(vec![cast(&texts(40), &DataType::Utf8View).unwrap()]),
        3 => {
            let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
            distinct(vec![cast(&texts(20), &dictionary).unwrap()])
        }
        4 => Universe { columns: vec![Arc::new(Float64Array::from(floats))], identity },
        5 => {
            let floats: ArrayRef = Arc::new(Float64Array::from(floats));
            let floats = cast(&floats, &DataType::Float32).unwrap();
            // f64::MIN is -inf as f32; a key of its own all the same.
            Universe { columns: vec![floats, ints(7)], identity: (0..7).collect() }
        }
        6 => distinct(vec![Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))]),
        7 => distinct(vec![ints(20), cast(&ints(20), &DataType::Timestamp(TimeUnit::Microsecond, None)).unwrap()]),
        8 => distinct(vec![texts(30), ints(30)]),
        9 => distinct(vec![Arc::new(Decimal128Array::from_iter(
            (0..20).map(|i| (i != 5).then_some(i128::MAX / 3 - i * 7)),
        ))]),
        10 => {
            let lists = (0..12).map(|i| (i != 2).then(|| (0..i % 5).map(|j| Some(j * i)).collect::<Vec<_>>()));
            let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists));
            Universe { columns: vec![lists], identity: vec![0, 1, 2, 3, 4, 0, 1, 7, 8, 9, 0, 1] }
        }
        11 => {
            let fields = vec![
                (Arc::new(Field::new("a", DataType::Int64, true)), ints(9)),
                (Arc::new(Field::new("b", DataType::Utf8, true)), texts(9)),
            ];
            distinct(vec![Arc::new(StructArray::from(fields))])
        }
        12 => distinct(vec![cast(&texts(25), &DataType::Binary).unwrap()]),
        13 => Universe { columns: vec![Arc::new(Float64Array::from(floats)), texts(7).slice(1, 1)], identity },
        _ => Universe { columns: Vec::new(), identity: vec![0] },
    }
}

impl Universe {
    fn fixed(mut self) -> Self {
        // One text for every float, so that two equal floats are one key.
        let rows = self.identity.len();
        for column in &mut self.columns {
            if column.len() == 1 && rows > 1 {
                *column = take(column, &UInt32Array::from(vec![0; rows]), None).unwrap();
            }
        }
        self
    }

    fn schema(&self) -> SchemaRef {
        let fields =
            self.columns.iter().enumerate().map(|(i, c)| Field::new(format!("k{i}"), c.data_type().clone(), true));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// The columns of these rows, each key once.
    fn keys(&self, picks: &[usize]) -> (Vec<ArrayRef>, Vec<usize>) {
        let mut seen = Vec::new();
        let mut rows = Vec::new();
        for pick in picks {
            let row = pick % self.identity.len();
            if !seen.contains(&self.identity[row]) {
                seen.push(self.identity[row]);
                rows.push(row as u32);
            }
        }
        let rows = UInt32Array::from(rows);
        (self.columns.iter().map(|c| take(c, &rows, None).unwrap()).collect(), seen)
    }

    fn text(&self, columns: &[ArrayRef], row: usize) -> String {
        let text = |c: &ArrayRef| if c.is_null(row) { "NULL".into() } else { array_value_to_string(c, row).unwrap() };
        columns.iter().map(text).collect::<Vec<_>>().join("|").replace("-0.0", "0.0")
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<usize>),
    Remove(Vec<usize>),
    /// Looks keys up once: removes every third of them, and puts the others, by what was found.
    Change(Vec<usize>),
    Then(Turn),
    /// Installs so many batches of one row each.
    Trickle(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let picks = || prop::collection::vec(0..1000usize, 1..12);
    let step = prop_oneof![
        6 => picks().prop_map(Step::Put),
        3 => picks().prop_map(Step::Remove),
        6 => picks().prop_map(Step::Change),
        10 => turns().prop_map(Step::Then),
        1 => (1..60usize).prop_map(Step::Trickle),
    ];
    prop::collection::vec(step, 1..60)
}

struct Table(KeyedTable);

impl OperatorState for Table {
    fn install(&mut self) {
        self.0.install();
    }
    fn discard(&mut self) {
        self.0.discard();
    }
    fn changes(&mut self) -> Result<Changes> {
        Ok(Changes::new().keyed("rows", &self.0))
    }
    fn restore(&mut self, mut saved: Restored) -> Result<()> {
        saved.keyed("rows", &mut self.0)
    }
    fn describe(&self) -> StateInfo {
        StateInfo { kind: "table".into(), tables: vec![TableInfo::keyed("rows", &self.0)] }
    }
    fn table(&self) -> Result<Vec<RecordBatch>> {
        self.0.scan().collect()
    }
}

/// By key: the number that was put last.
type Model = BTreeMap<usize, i64>;

struct Run {
    universe: Universe,
    state: Modelled<Table, Model>,
    clock: i64,
}

impl Run {
    fn new(kind: usize) -> Self {
        let universe = universe(kind).fixed();
        let values = Schema::new(vec![
            Field::new("n", DataType::Int64, false),
            Field::new("text", DataType::Utf8View, true),
            Field::new("list", DataType::new_list(DataType::Int32, true), true),
        ]);
        let table = Table(KeyedTable::new(universe.schema(), Arc::new(values)).unwrap());
        Self { universe, state: Modelled::new(table), clock: 0 }
    }

    fn put(&mut self, picks: &[usize]) {
        let (keys, identities) = self.universe.keys(picks);
        let rows = identities.len();
        let (n, values) = self.values(rows);
        self.state.table.lock().unwrap().0.put(&keys, &values, rows).unwrap();
        self.state.staged.extend(identities.into_iter().map(|i| (i, n)));
    }

    fn change(&mut self, picks: &[usize]) {
        let (keys, identities) = self.universe.keys(picks);
        let (gone, kept): (Vec<u32>, Vec<u32>) = (0..identities.len() as u32).partition(|at| at % 3 == 0);
        let (n, values) = self.values(kept.len());
        let table = &mut self.state.table.lock().unwrap().0;
        let mut found = table.find(&keys, identities.len()).unwrap();
        table.remove_at(&found, Some(&gone)).unwrap();
        table.put_at(&mut found, Some(&kept), &values).unwrap();
        // What was found is good for another round.
        table.remove_at(&found, Some(&gone)).unwrap();
        let read = table.read(&found).unwrap();
        assert_eq!(read.rows, kept.iter().map(|at| *at as usize).collect::<Vec<_>>());
        let there = |at: u32| identities[at as usize];
        gone.into_iter().for_each(|at| _ = self.state.staged.remove(&there(at)));
        self.state.staged.extend(kept.into_iter().map(|at| (there(at), n)));
    }

    fn values(&mut self, rows: usize) -> (i64, Vec<ArrayRef>) {
        self.clock += 1;
        let n = self.clock;
        let text = format!("the text of batch {n}");
        let list = (0..rows).map(|_| (n % 7 != 0).then(|| vec![Some(n as i32); n as usize % 3]));
        let values: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![n; rows])),
            Arc::new(StringViewArray::from(vec![text.as_str(); rows])),
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(list)),
        ];
        (n, values)
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Put(picks) => self.put(picks),
            Step::Change(picks) => self.change(picks),
            Step::Remove(picks) => {
                let (keys, identities) = self.universe.keys(picks);
                self.state.table.lock().unwrap().0.remove(&keys, identities.len()).unwrap();
                self.state.staged.retain(|k, _| !identities.contains(k));
            }
            Step::Then(turn) => self.state.turn(turn, self.clock as u64),
            Step::Trickle(batches) => {
                for n in 0..*batches {
                    self.put(&[n]);
                    self.step(&Step::Then(Turn::Install));
                }
            }
        }
    }

    fn check(&self) {
        let table = &self.state.table.lock().unwrap().0;
        let all: Vec<usize> = (0..self.universe.identity.len()).rev().collect();
        let (keys, identities) = self.universe.keys(&all);
        let found = table.get(&keys, identities.len()).unwrap();
        let n = found.values[0].as_primitive::<Int64Type>();
        let got: Model = found.rows.iter().zip(n.values()).map(|(row, n)| (identities[*row], *n)).collect();
        assert_eq!(got, self.state.staged, "get");
        assert_eq!(self.scanned(&mut table.scan()), self.state.installed, "scan");
        assert_eq!(self.scanned(&mut table.scan_staged()), self.state.staged, "scan_staged");
        assert_eq!(table.len(), self.state.installed.len());
    }

    fn scanned(&self, batches: &mut dyn Iterator<Item = Result<RecordBatch>>) -> Model {
        let mut model = Model::new();
        let width = self.universe.columns.len();
        for batch in batches {
            let batch = batch.unwrap();
            let n = batch.column(width).as_primitive::<Int64Type>();
            let text = batch.column(width + 1).as_string_view();
            let list = batch.column(width + 2).as_list::<i32>();
            for row in 0..batch.num_rows() {
                let key = self.universe.text(&batch.columns()[..width], row);
                let same = |u: &usize| self.universe.text(&self.universe.columns, *u) == key;
                let found = (0..self.universe.identity.len()).find(same).unwrap();
                let n = n.value(row);
                assert_eq!(text.value(row), format!("the text of batch {n}"));
                assert_eq!(list.is_null(row), n % 7 == 0);
                if !list.is_null(row) {
                    assert_eq!(list.value(row).as_primitive::<Int32Type>().values(), &vec![n as i32; n as usize % 3]);
                }
                assert_eq!(model.insert(self.universe.identity[found], n), None, "{key} twice");
            }
        }
        model
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_table_is_what_a_map_would_be(kind in 0..KINDS, steps in steps()) {
        let mut run = Run::new(kind);
        for step in &steps {
            run.step(step);
            run.check();
        }
    }
}

#[test]
fn nan_keys_of_one_bit_pattern_are_one_key() {
    let mut run = Run::new(4);
    run.step(&Step::Put(vec![3]));
    run.step(&Step::Then(Turn::Install));
    run.step(&Step::Put(vec![3]));
    run.step(&Step::Then(Turn::Install));
    run.check();
    assert_eq!(run.state.installed.len(), 1);
}
