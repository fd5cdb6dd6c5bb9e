//! Random rows, random cuts, and the query taken from the SQL that the oracle answers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use arrow::array::*;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::datasource::MemTable;
use datafusion::execution::SessionStateBuilder;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use millstream_core::batch::BatchId;
use millstream_core::disk::RealDisk;
use millstream_state::{OperatorState, StateStore};
use tempfile::TempDir;

use crate::exec::*;

/// SplitMix64: the same rows for the same seed, everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

const WORDS: [&str; 7] = ["", "a", "stone", "water", "a word that is longer than twelve bytes", "Ä", "fire"];
const FLOATS: [f64; 7] = [0.0, -0.0, 1.5, -2.25, f64::NAN, 1e6, 0.1];

/// Columns for every kind of aggregate; `id` is unique and ascending, `ts` comes out of order by a little.
/// `ws` and `we` are filled in by the oracle of windows.
pub fn schema() -> SchemaRef {
    let ts = DataType::Timestamp(TimeUnit::Microsecond, None);
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("k", DataType::Int64, true),
        Field::new("s", DataType::Utf8View, true),
        Field::new("f", DataType::Float64, true),
        Field::new("v", DataType::Int64, true),
        Field::new("g", DataType::Float64, true),
        Field::new("u", DataType::Utf8, true),
        Field::new("b", DataType::Boolean, true),
        Field::new("d", DataType::Decimal128(12, 2), true),
        Field::new("ts", ts.clone(), false),
        Field::new("ws", ts.clone(), false),
        Field::new("we", ts, false),
    ]))
}

pub const SECOND: i64 = 1_000_000;

/// How far a row's time can be behind the largest one before it.
pub const DELAY: i64 = 2 * SECOND;

pub fn rows(random: &mut Random, n: usize) -> RecordBatch {
    // Times begin before 1970, and some neighbours are far apart.
    let mut now = -20 * SECOND;
    let mut times = Vec::new();
    for _ in 0..n {
        now += random.below(400_000) as i64;
        if random.one_in(60) {
            now += random.below(40) as i64 * SECOND;
        }
        times.push(now - random.below(DELAY as u64) as i64);
    }
    let keys = 1 + random.below(12);
    let mut opt = |null: u64| if random.one_in(null) { None } else { Some(random.next()) };
    let k: Int64Array = (0..n).map(|_| opt(9).map(|r| (r % keys) as i64)).collect();
    let s: StringViewArray = (0..n).map(|_| opt(7).map(|r| WORDS[(r % 7) as usize])).collect();
    let f: Float64Array = (0..n).map(|_| opt(7).map(|r| FLOATS[(r % 7) as usize])).collect();
    let v: Int64Array = (0..n).map(|_| opt(6).map(|r| (r % 50) as i64 - 20)).collect();
    let g: Float64Array = (0..n).map(|_| opt(8).map(|r| (r % 2000) as f64 / 7.0 - 100.0)).collect();
    let u: StringArray = (0..n).map(|_| opt(5).map(|r| WORDS[(r % 7) as usize])).collect();
    let b: BooleanArray = (0..n).map(|_| opt(6).map(|r| r % 3 == 0)).collect();
    let d: Decimal128Array = (0..n).map(|_| opt(6).map(|r| (r % 100_000) as i128 - 3)).collect();
    let d = d.with_precision_and_scale(12, 2).unwrap();
    let ts = TimestampMicrosecondArray::from(times);
    let id = Int64Array::from_iter_values(0..n as i64);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(id),
        Arc::new(k),
        Arc::new(s),
        Arc::new(f),
        Arc::new(v),
        Arc::new(g),
        Arc::new(u),
        Arc::new(b),
        Arc::new(d),
        Arc::new(ts.clone()),
        Arc::new(ts.clone()),
        Arc::new(ts),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// A stretch of rows, in record batches of random sizes, some of them empty.
pub fn chunks(random: &mut Random, rows: &RecordBatch) -> Vec<RecordBatch> {
    let mut chunks = Vec::new();
    let mut from = 0;
    while from < rows.num_rows() {
        let n = (random.below(40) as usize).min(rows.num_rows() - from);
        chunks.push(rows.slice(from, n));
        from += n;
    }
    chunks
}

/// Where the rows are cut into batches: single rows, large and empty batches among them.
pub fn cuts(random: &mut Random, rows: usize) -> Vec<usize> {
    let largest = [1, 3, 30, 200, rows][random.below(5) as usize];
    let mut cuts = vec![0];
    while cuts[cuts.len() - 1] < rows {
        let n = random.below(largest as u64 + 2) as usize;
        cuts.push((cuts[cuts.len() - 1] + n).min(rows));
    }
    if random.one_in(3) {
        cuts.push(rows);
    }
    cuts
}

thread_local! {
    // A context takes longer to make than a small query takes to run; a test has a thread of its own.
    static ORACLE: SessionContext =
        SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    static PLANNER: SessionContext = SessionContext::new_with_state(
        SessionStateBuilder::new()
            .with_config(SessionConfig::new().with_target_partitions(1))
            .with_default_features()
            .with_optimizer_rules(vec![Arc::new(SimplifyExpressions::new())])
            .with_physical_optimizer_rules(vec![])
            .build(),
    );
}

fn with_table(context: &SessionContext, rows: Vec<RecordBatch>) -> SessionContext {
    context.deregister_table("t").unwrap();
    context.register_table("t", Arc::new(MemTable::try_new(schema(), vec![rows]).unwrap())).unwrap();
    context.clone()
}

/// Plain DataFusion's answer over these rows.
pub async fn oracle(sql: &str, rows: &RecordBatch) -> Vec<RecordBatch> {
    let context = ORACLE.with(|context| with_table(context, vec![rows.clone()]));
    context.sql(sql).await.unwrap().collect().await.unwrap()
}

/// The parts of the aggregate in a query, over the columns of [`schema`].
pub struct Query {
    pub groups: Vec<Arc<dyn datafusion::physical_expr::PhysicalExpr>>,
    pub aggregates: Vec<Aggregate>,
    pub output: SchemaRef,
}

/// Reads `SELECT keys, aggregates FROM t GROUP BY keys`. `Err` where DataFusion does not accept it.
pub async fn query(sql: &str) -> datafusion::common::Result<Query> {
    let context = PLANNER.with(|context| with_table(context, vec![]));
    let frame = context.sql(sql).await?;
    let plan = frame.create_physical_plan().await?;
    let partial = deepest(&plan).expect("the query aggregates");
    let aggregate = partial.downcast_ref::<AggregateExec>().unwrap();
    assert_eq!(aggregate.input().schema().fields().len(), schema().fields().len(), "no column was pruned");
    let functions = aggregate.aggr_expr().iter().zip(aggregate.filter_expr());
    let groups = aggregate.group_expr().input_exprs();
    let mut output: Vec<_> = aggregate.schema().fields().iter().take(groups.len()).cloned().collect();
    output.extend(aggregate.aggr_expr().iter().map(|f| f.field()));
    Ok(Query {
        groups,
        aggregates: functions
            .map(|(f, filter)| Aggregate { function: Arc::clone(f), filter: filter.clone() })
            .collect(),
        output: Arc::new(Schema::new(output)),
    })
}

/// The window functions of a query over the columns of [`schema`], from the first node that has any.
pub async fn window_expressions(sql: &str) -> Vec<Arc<dyn datafusion::physical_expr::window::WindowExpr>> {
    let context = PLANNER.with(|context| with_table(context, vec![]));
    let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    fn all(plan: &Arc<dyn ExecutionPlan>, found: &mut Vec<Arc<dyn datafusion::physical_expr::window::WindowExpr>>) {
        if let Some(node) = plan.downcast_ref::<datafusion::physical_plan::windows::WindowAggExec>() {
            found.extend(node.window_expr().iter().cloned());
        }
        if let Some(node) = plan.downcast_ref::<datafusion::physical_plan::windows::BoundedWindowAggExec>() {
            found.extend(node.window_expr().iter().cloned());
        }
        plan.children().into_iter().for_each(|child| all(child, found));
    }
    let mut found = vec![];
    all(&plan, &mut found);
    found
}

fn deepest(plan: &Arc<dyn ExecutionPlan>) -> Option<&Arc<dyn ExecutionPlan>> {
    let below = plan.children().into_iter().find_map(deepest);
    below.or_else(|| plan.is::<AggregateExec>().then_some(plan))
}

type MakePlan = Box<dyn Fn() -> Arc<dyn ExecutionPlan>>;

/// A compiled plan over one scan, run batch by batch.
pub struct Stream {
    pub plan: Arc<dyn ExecutionPlan>,
    pub state: Arc<Mutex<dyn OperatorState>>,
    make: MakePlan,
    store: StateStore,
    dir: TempDir,
    base: Arc<datafusion::execution::TaskContext>,
    batch: u64,
    /// The time of the next batch.
    pub time_us: i64,
}

impl Stream {
    pub fn new(make: impl Fn() -> Arc<dyn ExecutionPlan> + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (plan, state, store) = Self::begin(&make, &dir);
        let base = ORACLE.with(SessionContext::task_ctx);
        Self { plan, state, make: Box::new(make), store, dir, base, batch: 0, time_us: 0 }
    }

    fn begin(
        make: &dyn Fn() -> Arc<dyn ExecutionPlan>,
        dir: &TempDir,
    ) -> (Arc<dyn ExecutionPlan>, Arc<Mutex<dyn OperatorState>>, StateStore) {
        let plan = make();
        let (name, state) = states(&plan).pop().expect("the plan keeps state");
        let mut store = StateStore::new(Arc::new(RealDisk), dir.path());
        store.register(&name, Arc::clone(&state)).unwrap();
        (plan, state, store)
    }

    /// A process ends and another one takes over: the plan is compiled anew and its state restored.
    pub async fn restart(&mut self) {
        let manifest = self.store.checkpoint(BatchId(self.batch)).unwrap().await.unwrap();
        let before = lines(&self.state.lock().unwrap().table().unwrap());
        (self.plan, self.state, self.store) = Self::begin(&*self.make, &self.dir);
        self.store.restore(&manifest).unwrap();
        assert_eq!(lines(&self.state.lock().unwrap().table().unwrap()), before);
    }

    /// Runs a batch; what it stages is neither installed nor discarded.
    pub async fn run(&mut self, inputs: Vec<RecordBatch>, frontier: Option<i64>) -> Vec<RecordBatch> {
        let batch = BatchContext {
            batch: BatchId(self.batch + 1),
            time_us: self.time_us,
            frontier,
            inputs: vec![inputs],
            ..BatchContext::default()
        };
        let plan = reset_plan_states(Arc::clone(&self.plan)).unwrap();
        collect(plan, batch.task_context(&self.base)).await.unwrap()
    }

    /// As [`Stream::run`], where the batch may fail.
    pub async fn try_run(&mut self, inputs: Vec<RecordBatch>) -> datafusion::common::Result<Vec<RecordBatch>> {
        self.try_run_at(inputs, None).await
    }

    /// As [`Stream::try_run`], with a frontier.
    pub async fn try_run_at(
        &mut self,
        inputs: Vec<RecordBatch>,
        frontier: Option<i64>,
    ) -> datafusion::common::Result<Vec<RecordBatch>> {
        let batch = BatchContext {
            batch: BatchId(self.batch + 1),
            time_us: self.time_us,
            frontier,
            inputs: vec![inputs],
            ..BatchContext::default()
        };
        collect(reset_plan_states(Arc::clone(&self.plan))?, batch.task_context(&self.base)).await
    }

    pub fn install(&mut self) {
        self.batch += 1;
        self.state.lock().unwrap().install();
    }

    pub fn discard(&mut self) {
        self.state.lock().unwrap().discard();
    }

    /// Runs a batch. Sometimes it fails after other rows first and is run again; sometimes the process ends
    /// after it.
    pub async fn batch(
        &mut self,
        random: &mut Random,
        inputs: Vec<RecordBatch>,
        frontier: Option<i64>,
    ) -> Vec<RecordBatch> {
        if random.one_in(4) {
            let prefix = inputs.iter().take(inputs.len() / 2).cloned().collect();
            self.run(prefix, frontier).await;
            self.discard();
            let first = self.run(inputs.clone(), frontier).await;
            self.discard();
            let second = self.run(inputs, frontier).await;
            assert_eq!(lines(&first), lines(&second), "a batch that was discarded and run again gave other rows");
            self.install();
            return second;
        }
        let output = self.run(inputs, frontier).await;
        self.install();
        if random.one_in(12) {
            self.restart().await;
        }
        output
    }
}

/// Rows as text, sorted: floats to the last bit.
pub fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let mut lines: Vec<String> = values(batches).iter().map(|row| format!("{row:?}")).collect();
    lines.sort();
    lines
}

/// Rows as values.
pub fn values(batches: &[RecordBatch]) -> Vec<Vec<ScalarValue>> {
    let row = |batch: &RecordBatch, row: usize| -> Vec<ScalarValue> {
        batch.columns().iter().map(|c| ScalarValue::try_from_array(c, row).unwrap()).collect()
    };
    batches.iter().flat_map(|b| (0..b.num_rows()).map(move |r| row(b, r))).collect()
}

/// How far two answers can be apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    Rounding,
    /// Lists hold the same elements in any order.
    AnyOrder,
    /// An approximation, of values that spread so far.
    Spread(f64),
}

/// Compares answers by their keys, the first columns, which must be unique.
pub fn assert_same(want: &[RecordBatch], got: &[RecordBatch], keys: usize, tolerance: Tolerance, what: &str) {
    let by_key = |batches: &[RecordBatch]| {
        let mut map = HashMap::new();
        for row in values(batches) {
            let key = format!("{:?}", &row[..keys]).replace("-0.0", "0.0");
            assert!(map.insert(key.clone(), row).is_none(), "{what}: the key {key} is there twice");
        }
        map
    };
    let (want, mut got) = (by_key(want), by_key(got));
    for (key, want) in want {
        let got = got.remove(&key).unwrap_or_else(|| panic!("{what}: no row for {key}, which is {want:?}"));
        for (want, got) in want.iter().zip(&got).skip(keys) {
            assert!(same(want, got, tolerance), "{what}: {key} is {want:?}, and not {got:?}");
        }
    }
    assert!(got.is_empty(), "{what}: rows that should not be there: {got:?}");
}

fn same(want: &ScalarValue, got: &ScalarValue, tolerance: Tolerance) -> bool {
    match (want, got) {
        (ScalarValue::Float64(Some(a)), ScalarValue::Float64(Some(b))) => {
            let spread = if let Tolerance::Spread(spread) = tolerance { spread } else { 0.0 };
            a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= spread.max(1e-9 * (1.0 + a.abs().max(b.abs())))
        }
        (ScalarValue::UInt64(Some(a)), ScalarValue::UInt64(Some(b))) if matches!(tolerance, Tolerance::Spread(_)) => {
            a.abs_diff(*b) <= 1 + a / 10
        }
        (ScalarValue::List(a), ScalarValue::List(b)) if tolerance == Tolerance::AnyOrder => {
            a.is_null(0) == b.is_null(0) && elements(&a.value(0)) == elements(&b.value(0))
        }
        (ScalarValue::LargeUtf8(Some(a)), ScalarValue::LargeUtf8(Some(b))) if tolerance == Tolerance::AnyOrder => {
            let sorted = |s: &str| {
                let mut parts: Vec<String> = s.split(',').map(String::from).collect();
                parts.sort();
                parts
            };
            sorted(a) == sorted(b)
        }
        (a, b) => format!("{a:?}") == format!("{b:?}"),
    }
}

fn elements(array: &ArrayRef) -> Vec<String> {
    let mut all: Vec<String> =
        (0..array.len()).map(|i| format!("{:?}", ScalarValue::try_from_array(array, i).unwrap())).collect();
    all.sort();
    all
}

/// All rows in one batch.
pub fn whole(batches: &[RecordBatch], schema: &SchemaRef) -> RecordBatch {
    concat_batches(schema, batches).unwrap()
}
