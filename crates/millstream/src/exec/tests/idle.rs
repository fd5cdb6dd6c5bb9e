//! State that is forgotten when nothing touches it: against models that know nothing of granules of state, in every cut,
//! with batches that fail and processes that end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{SortOptions, take_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::common::JoinType;
use datafusion::physical_expr::PhysicalSortExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;

use super::harness::*;
use crate::changelog;
use crate::exec::*;

const MINUTE: i64 = 60 * SECOND;
const TTL: i64 = 16 * MINUTE;

fn memory(idle_us: [Option<i64>; 2]) -> Memory {
    Memory { lifetime: Lifetime { idle_us, forgetful: true }, ..Memory::from("t") }
}

/// The first minute that is remembered at this time.
fn remembered(now: i64) -> i64 {
    (now - TTL).div_euclid(MINUTE)
}

/// Rows of `k` and `v`, in a table of one of the harness's schemas.
fn some(all: &RecordBatch, of: &[u32]) -> RecordBatch {
    take_record_batch(all, &UInt32Array::from(of.to_vec())).unwrap()
}

fn number(rows: &RecordBatch, column: &str, row: u32) -> Option<i64> {
    let column = rows.column_by_name(column).unwrap().as_primitive::<Int64Type>();
    column.is_valid(row as usize).then(|| column.value(row as usize))
}

/// Batches with the times at which they run: mostly a little later than the one before, at times much later.
fn batches(random: &mut Random, rows: usize) -> Vec<(i64, Vec<u32>)> {
    let mut now = 1_000 * MINUTE + random.below(MINUTE as u64) as i64;
    let mut batches = vec![];
    let mut next = 0;
    while next < rows {
        now += match random.below(6) {
            0 => 0,
            1 => TTL + random.below(3 * MINUTE as u64) as i64 - MINUTE,
            _ => random.below(4 * MINUTE as u64) as i64,
        };
        let to = (next + random.below(8) as usize).min(rows);
        batches.push((now, (next as u32..to as u32).collect()));
        next = to;
    }
    batches
}

fn added(batches: &[RecordBatch]) -> BTreeMap<String, i64> {
    let mut rows = BTreeMap::new();
    for row in values(batches) {
        let (weight, row) = row.split_last().unwrap();
        let datafusion::common::ScalarValue::Int64(Some(weight)) = weight else { panic!("{weight:?} is no weight") };
        *rows.entry(format!("{row:?}")).or_default() += weight;
    }
    rows.retain(|_, weight| *weight != 0);
    rows
}

/// What a batch says, out of the answers before and after it, where each is there once.
fn difference(before: &[String], after: &[String]) -> BTreeMap<String, i64> {
    let mut rows = BTreeMap::new();
    before.iter().for_each(|row| *rows.entry(row.clone()).or_default() -= 1);
    after.iter().for_each(|row| *rows.entry(row.clone()).or_default() += 1);
    rows.retain(|_, weight| *weight != 0);
    rows
}

#[derive(Default)]
struct Group {
    minute: i64,
    values: Vec<Option<i64>>,
}

impl Group {
    fn answer(&self, key: Option<i64>) -> Option<String> {
        let there: Vec<i64> = self.values.iter().flatten().copied().collect();
        let shown = |n: Option<i64>| format!("Int64({})", n.map_or("NULL".to_string(), |n| n.to_string()));
        let distinct = there.iter().collect::<BTreeSet<_>>().len() as i64;
        let sum = (!there.is_empty()).then(|| there.iter().sum());
        let columns = [key, Some(self.values.len() as i64), sum, Some(distinct), there.iter().max().copied()];
        (!self.values.is_empty()).then(|| format!("[{}]", columns.map(shown).join(", ")))
    }
}

const SQL: &str = "SELECT k, count(*), sum(v), count(DISTINCT v), max(v) FROM t GROUP BY k";

#[tokio::test]
async fn a_group_that_no_row_touches_begins_anew() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let all = rows(&mut random, 150);
        let query = query(SQL).await.unwrap();
        let mut stream = Stream::new(move || {
            let scan = Arc::new(ScanExec::new(0, schema()));
            let aggregates = query.aggregates.clone();
            let aggregate = KeyedAggregate { keys: query.groups.clone(), standing: vec![], aggregates };
            let memory = memory([Some(TTL), None]);
            Arc::new(KeyedAggregateExec::try_new(memory, scan, aggregate, &query.output).unwrap())
        });
        let mut model: BTreeMap<Option<i64>, Group> = BTreeMap::new();
        for (number_of, (now, of)) in batches(&mut random, 150).into_iter().enumerate() {
            model.retain(|_, group| group.minute >= remembered(now));
            let touched: BTreeSet<Option<i64>> = of.iter().map(|row| number(&all, "k", *row)).collect();
            let answer = |model: &BTreeMap<_, Group>| -> Vec<String> {
                touched.iter().filter_map(|k| model.get(k).and_then(|group: &Group| group.answer(*k))).collect()
            };
            let before = answer(&model);
            for row in &of {
                let group = model.entry(number(&all, "k", *row)).or_default();
                group.minute = now.div_euclid(MINUTE);
                group.values.push(number(&all, "v", *row));
            }
            let expected = difference(&before, &answer(&model));
            stream.time_us = now;
            let said = stream.batch(&mut random, vec![some(&all, &of)], None).await;
            assert_eq!(added(&said), expected, "seed {seed}, batch {number_of}");
            let info = stream.state.lock().unwrap().describe();
            let groups = info.tables.iter().find(|t| t.name == "groups").unwrap();
            assert_eq!(groups.rows, model.len(), "seed {seed}: what is forgotten is not kept");
            let pairs: usize = model.values().map(|g| g.values.iter().collect::<BTreeSet<_>>().len()).sum();
            let kept = info.tables.iter().find(|t| t.name.starts_with("distinct")).unwrap();
            assert_eq!(kept.rows, pairs, "seed {seed}: nor are its values");
        }
    }
}

#[tokio::test]
async fn a_group_of_rows_that_come_and_go_begins_anew_and_ignores_what_it_forgot() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let all = rows(&mut random, 150);
        let query = query(SQL).await.unwrap();
        let mut stream = Stream::new(move || {
            let scan = Arc::new(ScanExec::new(0, changelog::with_weight(&schema())));
            let (keys, weight) = (query.groups.clone(), schema().fields().len());
            let aggregates = query.aggregates.clone();
            let aggregate = RetractAggregate { keys, weight, last: None, lag_us: 0, standing: vec![], aggregates };
            let memory = memory([Some(TTL), None]);
            Arc::new(RetractAggregateExec::try_new(memory, scan, aggregate, &query.output).unwrap())
        });
        // A group holds whole rows here: each is taken back at most once, whether it is still known or not.
        let mut model: BTreeMap<Option<i64>, (i64, BTreeSet<u32>)> = BTreeMap::new();
        let mut there: Vec<u32> = vec![];
        for (number_of, (now, of)) in batches(&mut random, 150).into_iter().enumerate() {
            model.retain(|_, (minute, _)| *minute >= remembered(now));
            let mut changes: Vec<(u32, i64)> = of.iter().map(|row| (*row, 1)).collect();
            for _ in 0..random.below(6).min(there.len() as u64) {
                changes.push((there.swap_remove(random.below(there.len() as u64) as usize), -1));
            }
            there.extend(of);
            let touched: BTreeSet<Option<i64>> = changes.iter().map(|(row, _)| number(&all, "k", *row)).collect();
            let values = |rows: &BTreeSet<u32>| rows.iter().map(|row| number(&all, "v", *row)).collect();
            let answer = |model: &BTreeMap<Option<i64>, (i64, BTreeSet<u32>)>| -> Vec<String> {
                let group = |k| model.get(k).map(|(_, rows)| Group { minute: 0, values: values(rows) });
                touched.iter().filter_map(|k| group(k).and_then(|g| g.answer(*k))).collect()
            };
            let before = answer(&model);
            // What is taken back of a group that is known, but was forgotten since that row came, makes its counts
            // meaningless: only what the engine says of other groups is compared.
            let mut strange = BTreeSet::new();
            for (row, weight) in &changes {
                let key = number(&all, "k", *row);
                let minute = now.div_euclid(MINUTE);
                if *weight > 0 {
                    let group = model.entry(key).or_default();
                    group.0 = minute;
                    group.1.insert(*row);
                }
            }
            for (row, _) in changes.iter().filter(|(_, weight)| *weight < 0) {
                let key = number(&all, "k", *row);
                let Some((minute, rows)) = model.get_mut(&key) else { continue };
                match rows.remove(row) {
                    true => *minute = now.div_euclid(MINUTE),
                    false => drop(strange.insert(key)),
                }
            }
            let expected = difference(&before, &answer(&model));
            model.retain(|_, (_, rows)| !rows.is_empty());
            stream.time_us = now;
            let mut columns: Vec<ArrayRef> =
                some(&all, &changes.iter().map(|(row, _)| *row).collect::<Vec<_>>()).columns().to_vec();
            columns.push(Arc::new(Int64Array::from_iter_values(changes.iter().map(|(_, weight)| *weight))));
            let input = RecordBatch::try_new(changelog::with_weight(&schema()), columns).unwrap();
            let said = added(&stream.batch(&mut random, vec![input], None).await);
            if !strange.is_empty() {
                // From here on the group's numbers are those of no rows: the case has shown what it can.
                break;
            }
            assert_eq!(said, expected, "seed {seed}, batch {number_of}");
            let info = stream.state.lock().unwrap().describe();
            assert_eq!(info.tables[0].rows, model.len(), "seed {seed}: what is forgotten is not kept");
        }
    }
}

#[tokio::test]
async fn strange_rows_that_are_taken_back_never_make_a_forgetful_group_fail() {
    for seed in 0..30 {
        let mut random = Random(seed);
        let all = rows(&mut random, 60);
        let query = query(SQL).await.unwrap();
        let mut stream = Stream::new(move || {
            let scan = Arc::new(ScanExec::new(0, changelog::with_weight(&schema())));
            let (keys, weight) = (query.groups.clone(), schema().fields().len());
            let aggregates = query.aggregates.clone();
            let aggregate = RetractAggregate { keys, weight, last: None, lag_us: 0, standing: vec![], aggregates };
            Arc::new(RetractAggregateExec::try_new(memory([Some(TTL), None]), scan, aggregate, &query.output).unwrap())
        });
        let mut now = 0;
        let mut sum: BTreeMap<String, i64> = BTreeMap::new();
        for _ in 0..30 {
            now += random.below(5 * MINUTE as u64) as i64;
            stream.time_us = now;
            let of: Vec<(u32, i64)> =
                (0..random.below(9)).map(|_| (random.below(60) as u32, 1 - 2 * random.below(2) as i64)).collect();
            let mut columns: Vec<ArrayRef> =
                some(&all, &of.iter().map(|(row, _)| *row).collect::<Vec<_>>()).columns().to_vec();
            columns.push(Arc::new(Int64Array::from_iter_values(of.iter().map(|(_, weight)| *weight))));
            let input = RecordBatch::try_new(changelog::with_weight(&schema()), columns).unwrap();
            for (row, weight) in added(&stream.batch(&mut random, vec![input], None).await) {
                *sum.entry(row).or_default() += weight;
            }
        }
        assert!(sum.values().all(|weight| *weight >= 0), "seed {seed}: a row was taken back that was never answered");
    }
}

fn column(name: &str) -> Arc<dyn datafusion::physical_expr::PhysicalExpr> {
    Arc::new(Column::new(name, schema().index_of(name).unwrap()))
}

#[tokio::test]
async fn the_best_row_of_a_key_is_forgotten_and_answered_again() {
    for seed in 0..30 {
        let mut random = Random(seed);
        let all = rows(&mut random, 150);
        let mut fields: Vec<Arc<Field>> = schema().fields().to_vec();
        fields.push(Arc::new(Field::new("rank", DataType::UInt64, false)));
        let output: SchemaRef = changelog::with_weight(&Schema::new(fields));
        let mut stream = Stream::new(move || {
            let options = SortOptions { descending: true, nulls_first: false };
            let order = vec![PhysicalSortExpr { expr: column("id"), options }];
            let top = TopN { partition: vec![column("k")], order, kind: RankKind::RowNumber, limit: 1 };
            let scan = Arc::new(ScanExec::new(0, schema()));
            Arc::new(TopNExec::try_new(memory([Some(TTL), None]), scan, top, Arc::clone(&output)).unwrap())
        });
        // The last row of each key, by `id`.
        let mut model: BTreeMap<Option<i64>, (i64, u32)> = BTreeMap::new();
        for (now, of) in batches(&mut random, 150) {
            model.retain(|_, (minute, _)| *minute >= remembered(now));
            let before = model.clone();
            for row in &of {
                model.insert(number(&all, "k", *row), (now.div_euclid(MINUTE), *row));
            }
            let (mut gone, mut come) = (0, 0);
            for (key, (_, row)) in &model {
                match before.get(key) {
                    Some((_, old)) if old == row => {}
                    Some(_) => (gone, come) = (gone + 1, come + 1),
                    None => come += 1,
                }
            }
            stream.time_us = now;
            let said = stream.batch(&mut random, vec![some(&all, &of)], None).await;
            let weights = values(&said).into_iter().filter_map(|row| row.last().cloned());
            let plus = weights.filter(|w| *w == datafusion::common::ScalarValue::Int64(Some(1))).count();
            let total: usize = said.iter().map(RecordBatch::num_rows).sum();
            assert_eq!((total - plus, plus), (gone, come), "seed {seed}");
            assert_eq!(stream.state.lock().unwrap().describe().tables[0].rows, model.len(), "seed {seed}");
        }
    }
}

/// The rows of `t`, joined with those of them in which `b` is true, by `k`; each side is forgotten after its own time.
fn join(kind: JoinType) -> Arc<dyn ExecutionPlan> {
    let scan = || Arc::new(ScanExec::new(0, schema())) as Arc<dyn ExecutionPlan>;
    let some = datafusion::physical_plan::filter::FilterExec::try_new(column("b"), scan()).unwrap();
    let nullable = |f: &Arc<Field>| Arc::new(f.as_ref().clone().with_nullable(true));
    let both = schema().fields().iter().chain(schema().fields().iter()).map(nullable).collect::<Vec<_>>();
    let on = vec![(column("k"), column("k"))];
    let join = Join { kind, on, filter: None, null_equals_null: false, null_aware: false, interval: None };
    let memory = memory([Some(TTL), None]);
    Arc::new(JoinExec::try_new(memory, [scan(), Arc::new(some)], join, &Schema::new(both)).unwrap())
}

#[tokio::test]
async fn a_side_of_a_join_forgets_its_rows_and_the_other_one_remembers() {
    for (seed, kind) in (0..24).flat_map(|seed| [(seed, JoinType::Inner), (seed, JoinType::Left)]) {
        let mut random = Random(seed);
        let all = rows(&mut random, 120);
        let truth = all.column_by_name("b").unwrap().as_boolean().clone();
        let is_right = |row: u32| truth.is_valid(row as usize) && truth.value(row as usize);
        let mut stream = Stream::new(move || join(kind));
        // The left rows of each key, with how many partners each has found; the right rows, which stay.
        let mut left: BTreeMap<i64, (i64, Vec<(u32, usize)>)> = BTreeMap::new();
        let mut right: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        for (number_of, (now, of)) in batches(&mut random, 120).into_iter().enumerate() {
            left.retain(|_, (minute, _)| *minute >= remembered(now));
            let mut expected: BTreeMap<(u32, Option<u32>), i64> = BTreeMap::new();
            let mut say = |l: u32, r: Option<u32>, weight: i64| *expected.entry((l, r)).or_default() += weight;
            for row in of.iter().copied() {
                match number(&all, "k", row) {
                    None => say(row, None, 1),
                    Some(k) => {
                        let group = left.entry(k).or_default();
                        group.0 = now.div_euclid(MINUTE);
                        let partners = right.get(&k).cloned().unwrap_or_default();
                        partners.iter().for_each(|r| say(row, Some(*r), 1));
                        if partners.is_empty() {
                            say(row, None, 1);
                        }
                        group.1.push((row, partners.len()));
                    }
                }
            }
            for row in of.iter().copied().filter(|row| is_right(*row)) {
                let Some(k) = number(&all, "k", row) else { continue };
                for (l, partners) in left.get_mut(&k).into_iter().flat_map(|group| &mut group.1) {
                    say(*l, Some(row), 1);
                    if *partners == 0 {
                        say(*l, None, -1);
                    }
                    *partners += 1;
                }
                right.entry(k).or_default().push(row);
            }
            expected.retain(|(_, r), weight| *weight != 0 && (r.is_some() || kind == JoinType::Left));
            stream.time_us = now;
            let said = stream.batch(&mut random, vec![some(&all, &of)], None).await;
            let mut found: BTreeMap<(u32, Option<u32>), i64> = BTreeMap::new();
            for batch in &said {
                let ids = |column: usize| batch.column(column).as_primitive::<Int64Type>().clone();
                let (l, r) = (ids(0), ids(schema().fields().len()));
                let weights = changelog::is_weighted(batch.schema_ref()).then(|| ids(batch.num_columns() - 1));
                for row in 0..batch.num_rows() {
                    let r = r.is_valid(row).then(|| r.value(row) as u32);
                    let weight = weights.as_ref().map_or(1, |w| w.value(row));
                    *found.entry((l.value(row) as u32, r)).or_default() += weight;
                }
            }
            found.retain(|_, weight| *weight != 0);
            assert_eq!(found, expected, "seed {seed}, {kind}, batch {number_of}");
        }
    }
}

#[tokio::test]
async fn what_a_batch_forgets_is_what_was_touched_in_a_granule_and_not_all_that_is_kept() {
    let query = query("SELECT id, count(*) FROM t GROUP BY id").await.unwrap();
    let mut stream = Stream::new(move || {
        let scan = Arc::new(ScanExec::new(0, schema()));
        let aggregate =
            KeyedAggregate { keys: query.groups.clone(), standing: vec![], aggregates: query.aggregates.clone() };
        let memory = memory([Some(TTL), None]);
        Arc::new(KeyedAggregateExec::try_new(memory, scan, aggregate, &query.output).unwrap())
    });
    let all = rows(&mut Random(3), 320);
    let kept = |stream: &Stream| stream.state.lock().unwrap().describe().tables[0].rows;
    // Ten keys a minute: after the sixteenth, and the one that is under way, ten go for ten that come.
    for minute in 0..32 {
        stream.time_us = minute * MINUTE;
        stream.run(vec![all.slice(minute as usize * 10, 10)], None).await;
        stream.install();
        assert_eq!(kept(&stream), (minute as usize + 1).min(17) * 10, "minute {minute}");
    }
    // A clock that was put back forgets nothing, and what it touches is not older than the rest.
    stream.time_us = 0;
    stream.run(vec![all.slice(0, 10)], None).await;
    stream.install();
    assert_eq!(kept(&stream), 180);
    stream.time_us = 31 * MINUTE;
    stream.run(vec![], None).await;
    stream.install();
    assert_eq!(kept(&stream), 180);
}
