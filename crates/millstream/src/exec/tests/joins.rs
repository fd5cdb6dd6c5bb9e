//! Joins of one table with itself, in every cut, with batches that fail and processes that end.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use datafusion::common::{JoinType, ScalarValue};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use millstream_core::watermark::END_OF_TIME;

use super::harness::*;
use crate::changelog::is_weighted;
use crate::exec::{Expiry, Interval, Join, JoinExec, ScanExec};

const KINDS: [(JoinType, &str); 8] = [
    (JoinType::Inner, "JOIN"),
    (JoinType::Left, "LEFT JOIN"),
    (JoinType::Right, "RIGHT JOIN"),
    (JoinType::Full, "FULL JOIN"),
    (JoinType::LeftSemi, "LEFT SEMI JOIN"),
    (JoinType::LeftAnti, "LEFT ANTI JOIN"),
    (JoinType::RightSemi, "RIGHT SEMI JOIN"),
    (JoinType::RightAnti, "RIGHT ANTI JOIN"),
];

fn column(name: &str, side: usize) -> Arc<dyn PhysicalExpr> {
    let index = schema().index_of(name).unwrap();
    Arc::new(Column::new(name, index + side * schema().fields().len()))
}

fn compare(left: Arc<dyn PhysicalExpr>, op: Operator, right: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
    Arc::new(BinaryExpr::new(left, op, right))
}

fn output(kind: JoinType) -> Schema {
    let all: Vec<Arc<Field>> =
        schema().fields().iter().map(|f| Arc::new(f.as_ref().clone().with_nullable(true))).collect();
    let sides = if matches!(kind, JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full) { 2 } else { 1 };
    Schema::new((0..sides).flat_map(|_| all.clone()).collect::<Vec<_>>())
}

/// The table, joined with those of its rows in which `b` is true.
fn plan(join: &Join) -> Arc<dyn ExecutionPlan> {
    let scan = || Arc::new(ScanExec::new(0, schema())) as Arc<dyn ExecutionPlan>;
    let some = Arc::new(FilterExec::try_new(column("b", 0), scan()).unwrap());
    Arc::new(JoinExec::try_new("join", [scan(), some], join.clone(), &output(join.kind)).unwrap())
}

fn on(kind: JoinType, filter: Option<Arc<dyn PhysicalExpr>>) -> Join {
    let on = vec![(column("k", 0), column("k", 0))];
    Join { kind, on, filter, null_equals_null: false, null_aware: false, interval: None }
}

/// Rows with the sum of their weights.
fn add(rows: &mut BTreeMap<String, i64>, batches: &[RecordBatch]) {
    for batch in batches {
        let weighted = is_weighted(batch.schema_ref());
        let columns = batch.num_columns() - usize::from(weighted);
        let shown = batch.project(&(0..columns).collect::<Vec<_>>()).unwrap();
        for (row, values) in values(&[shown]).iter().enumerate() {
            let weight = if weighted { batch.column(columns).as_primitive::<Int64Type>().value(row) } else { 1 };
            *rows.entry(format!("{values:?}")).or_default() += weight;
        }
    }
    rows.retain(|_, weight| *weight != 0);
}

async fn holds(join: Join, sql: &str, seed: u64) {
    let mut random = Random(seed);
    let n = 1 + random.below(90) as usize;
    let rows = rows(&mut random, n);
    let times = rows.column_by_name("ts").unwrap().as_primitive::<TimestampMicrosecondType>();
    let mut expected = BTreeMap::new();
    add(&mut expected, &oracle(sql, &rows).await);
    let mut stream = Stream::new(move || plan(&join));
    let mut found = BTreeMap::new();
    let cuts = cuts(&mut random, n);
    let mut latest = i64::MIN;
    for (number, cut) in cuts.windows(2).enumerate() {
        let part = rows.slice(cut[0], cut[1] - cut[0]);
        let inputs = chunks(&mut random, &part);
        latest = (cut[0]..cut[1]).map(|row| times.value(row)).fold(latest, i64::max);
        let last = number + 2 == cuts.len();
        let frontier = if last { Some(END_OF_TIME) } else { (latest > i64::MIN).then(|| latest - DELAY) };
        let batches = stream.batch(&mut random, inputs, frontier).await;
        add(&mut found, &batches);
        assert!(found.values().all(|weight| *weight > 0), "seed {seed}: more was taken back than given: {sql}");
    }
    assert_eq!(found, expected, "seed {seed}: {sql}");
}

#[tokio::test]
async fn every_kind_of_join_adds_up_to_the_answer_in_every_cut() {
    for seed in 0..6 {
        for (kind, words) in KINDS {
            let sql = format!("SELECT * FROM t a {words} (SELECT * FROM t WHERE b) c ON a.k = c.k");
            holds(on(kind, None), &sql, seed).await;
            let filter = compare(column("v", 0), Operator::Lt, column("v", 1));
            holds(on(kind, Some(filter)), &format!("{sql} AND a.v < c.v"), seed).await;
        }
    }
}

#[tokio::test]
async fn joins_in_an_interval_forget_rows_and_still_add_up() {
    let within = 3 * SECOND;
    for seed in 100..106 {
        for (kind, words) in KINDS {
            let length = Arc::new(Literal::new(ScalarValue::new_interval_mdn(0, 0, within * 1000)));
            let until = compare(column("ts", 0), Operator::Plus, length);
            let filter = compare(
                compare(column("ts", 0), Operator::LtEq, column("ts", 1)),
                Operator::And,
                compare(column("ts", 1), Operator::LtEq, until),
            );
            let ts = schema().index_of("ts").unwrap();
            let expiries = [within + 2, 2].map(|offset_us| Expiry { column: ts, offset_us });
            let interval = Some(Interval { expiries, granule_us: SECOND / 2 });
            let sql = format!(
                "SELECT * FROM t a {words} (SELECT * FROM t WHERE b) c \
                 ON a.k = c.k AND c.ts BETWEEN a.ts AND a.ts + INTERVAL '3 seconds'"
            );
            holds(Join { interval, ..on(kind, Some(filter)) }, &sql, seed).await;
        }
    }
}

#[tokio::test]
async fn what_an_interval_has_passed_is_forgotten() {
    let ts = schema().index_of("ts").unwrap();
    let filter = compare(column("ts", 0), Operator::Eq, column("ts", 1));
    let interval = Some(Interval { expiries: [Expiry { column: ts, offset_us: 2 }; 2], granule_us: SECOND });
    let join = Join { interval, ..on(JoinType::Left, Some(filter)) };
    let mut stream = Stream::new(move || plan(&join));
    let mut random = Random(7);
    let rows = rows(&mut random, 400);
    let times = rows.column_by_name("ts").unwrap().as_primitive::<TimestampMicrosecondType>().clone();
    let mut most = 0;
    for from in (0..400).step_by(20) {
        let latest = (0..from + 20).map(|row| times.value(row)).max().unwrap();
        stream.run(vec![rows.slice(from, 20)], Some(latest - DELAY)).await;
        stream.install();
        let kept: usize = stream.state.lock().unwrap().describe().tables.iter().map(|t| t.rows).sum();
        most = most.max(kept);
    }
    assert!(most < 200, "{most} rows and keys are kept of 800");
    stream.run(vec![], Some(END_OF_TIME)).await;
    stream.install();
    let kept: usize = stream.state.lock().unwrap().describe().tables.iter().map(|t| t.rows).sum();
    assert_eq!(kept, 0);
}

/// A million rows on each side, each with one partner. Run it alone, in a release build:
/// `cargo test --release joins::a_million -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "measures"]
async fn a_million_rows_with_a_million() {
    const ROWS: i64 = 1_000_000;
    const BATCH: i64 = 50_000;
    let fields = |name: &str| {
        Arc::new(Schema::new(vec![
            Field::new(format!("{name}k"), DataType::Int64, false),
            Field::new(format!("{name}v"), DataType::Int64, false),
        ])) as SchemaRef
    };
    let (left, right) = (fields("l"), fields("r"));
    let both: Vec<_> = left.fields().iter().chain(right.fields()).cloned().collect();
    let key = |name: &str| Arc::new(Column::new(name, 0)) as Arc<dyn PhysicalExpr>;
    let join = Join { on: vec![(key("lk"), key("rk"))], ..on(JoinType::Inner, None) };
    let scan = |number, schema| Arc::new(ScanExec::new(number, schema)) as Arc<dyn ExecutionPlan>;
    let scans = [scan(0, left.clone()), scan(1, right.clone())];
    let exec = JoinExec::try_new("join", scans, join, &Schema::new(both)).unwrap();
    let state = exec.state();
    let plan: Arc<dyn ExecutionPlan> = Arc::new(exec);
    let base = datafusion::prelude::SessionContext::new().task_ctx();
    let (mut pairs, begun) = (0, std::time::Instant::now());
    for from in (0..ROWS).step_by(BATCH as usize) {
        let rows = |schema: &SchemaRef, shift: i64| {
            let keys = (from..from + BATCH).map(|i| (i * 7 + shift) % ROWS);
            let keys = Arc::new(Int64Array::from_iter_values(keys));
            RecordBatch::try_new(Arc::clone(schema), vec![keys.clone(), keys]).unwrap()
        };
        let inputs = vec![vec![rows(&left, 0)], vec![rows(&right, 3_500_003)]];
        let batch = crate::exec::BatchContext { inputs, ..Default::default() };
        let output = datafusion::physical_plan::collect(plan.clone(), batch.task_context(&base)).await.unwrap();
        pairs += output.iter().map(RecordBatch::num_rows).sum::<usize>();
        state.lock().unwrap().install();
    }
    let seconds = begun.elapsed().as_secs_f64();
    let bytes: usize = state.lock().unwrap().describe().tables.iter().map(|t| t.bytes).sum();
    eprintln!(
        "{pairs} pairs of 2 x {ROWS} rows: {:.2} M input rows/s, {:.0} bytes a row kept",
        2.0 * ROWS as f64 / seconds / 1e6,
        bytes as f64 / (2 * ROWS) as f64
    );
    assert_eq!(pairs as i64, ROWS);
}
