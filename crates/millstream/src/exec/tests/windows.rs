//! GROUP BY window, against plain DataFusion over rows that were copied into their windows one by one.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::TimestampMicrosecondType;
use millstream_core::watermark::END_OF_TIME;

use super::harness::*;
use crate::changelog;
use crate::exec::{EmitMode, GroupColumn, ScanExec, WindowAggregate, WindowAggregateExec};
use crate::window::{WindowKind, WindowSpec};

pub const SPECS: [fn() -> WindowSpec; 8] = [
    || WindowSpec::tumble(5 * SECOND),
    || WindowSpec::tumble(7 * SECOND).with_offset(3 * SECOND),
    || WindowSpec::hop(2 * SECOND, 10 * SECOND),
    || WindowSpec::hop(3 * SECOND, 7 * SECOND).with_offset(-SECOND),
    || WindowSpec::hop(SECOND, 20 * SECOND),
    || WindowSpec::hop(4 * SECOND, 4 * SECOND),
    || WindowSpec::cumulate(2 * SECOND, 10 * SECOND),
    || WindowSpec::cumulate(SECOND, 12 * SECOND).with_offset(500_000),
];

async fn stream(sql: &str, spec: WindowSpec, emit: EmitMode) -> datafusion::common::Result<Stream> {
    let query = query(sql).await?;
    let keys: Vec<_> = query.groups[2..].to_vec();
    let mut columns = vec![GroupColumn::Start, GroupColumn::End];
    columns.extend((0..keys.len()).map(GroupColumn::Key));
    let time = schema().index_of("ts").unwrap();
    let aggregate =
        WindowAggregate { spec, time, keys, columns, aggregates: query.aggregates.clone(), emit, lag_us: 0 };
    Ok(Stream::new(move || {
        let scan = Arc::new(ScanExec::new(0, schema()));
        Arc::new(WindowAggregateExec::try_new("t", scan, aggregate.clone(), &query.output).unwrap())
    }))
}

fn times(rows: &RecordBatch) -> Vec<i64> {
    let column = rows.column_by_name("ts").unwrap();
    column.as_primitive::<TimestampMicrosecondType>().values().to_vec()
}

/// Each row once for every window that holds it: found by trying, not by arithmetic of the engine.
fn expanded(rows: &RecordBatch, spec: &WindowSpec) -> RecordBatch {
    let (mut index, mut starts, mut ends) = (vec![], vec![], vec![]);
    for (row, t) in times(rows).into_iter().enumerate() {
        let mut push = |start: i64, end: i64| {
            if start <= t && t < end {
                index.push(row as u32);
                starts.push(start);
                ends.push(end);
            }
        };
        let from = |stride: i64| ((t - spec.offset_us) as f64 / stride as f64).floor() as i64;
        match spec.kind {
            WindowKind::Tumble { size_us } => {
                let start = from(size_us) * size_us + spec.offset_us;
                push(start, start + size_us);
            }
            WindowKind::Hop { slide_us, size_us } => {
                for n in from(slide_us) - size_us / slide_us - 1..=from(slide_us) + 1 {
                    push(n * slide_us + spec.offset_us, n * slide_us + spec.offset_us + size_us);
                }
            }
            WindowKind::Cumulate { step_us, size_us } => {
                let start = from(size_us) * size_us + spec.offset_us;
                (1..=size_us / step_us).for_each(|n| push(start, start + n * step_us));
            }
            WindowKind::Session { .. } => panic!("sessions are not made of panes"),
        }
    }
    let taken = take_record_batch(rows, &UInt32Array::from(index)).unwrap();
    let mut columns = taken.columns().to_vec();
    let n = columns.len();
    columns[n - 2] = Arc::new(TimestampMicrosecondArray::from(starts)) as ArrayRef;
    columns[n - 1] = Arc::new(TimestampMicrosecondArray::from(ends)) as ArrayRef;
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// The rows that are not late, and for each of them the frontier after it: some way behind the largest time.
fn accepted(random: &mut Random, all: &RecordBatch, spec: &WindowSpec) -> (RecordBatch, Vec<i64>) {
    let delay = [0, DELAY / 2, DELAY][random.below(3) as usize];
    let (mut frontier, mut kept, mut frontiers) = (i64::MIN, vec![], vec![]);
    for (row, t) in times(all).into_iter().enumerate() {
        if spec.first_end(t) > frontier {
            frontier = frontier.max(t - delay);
            kept.push(row as u32);
            frontiers.push(frontier);
        }
    }
    (take_record_batch(all, &UInt32Array::from(kept)).unwrap(), frontiers)
}

/// Runs the query over a random cut, and compares what was emitted with the batch answer: at a random place
/// the windows that have closed, at the end all of them.
pub async fn check(
    sql: &str,
    keys: usize,
    spec: WindowSpec,
    emit: EmitMode,
    tolerance: Tolerance,
    seed: u64,
    n: usize,
) {
    let mut random = Random(seed);
    let (all, frontiers) = accepted(&mut random, &rows(&mut random_rows(seed), n), &spec);
    let n = all.num_rows();
    let mut stream = stream(sql, spec, emit).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    let mut cuts = cuts(&mut random, n);
    cuts.push(n);
    let at = random.below(cuts.len() as u64) as usize;
    let mut output: Vec<RecordBatch> = vec![];
    for (i, cut) in cuts.windows(2).enumerate() {
        let last = i + 2 == cuts.len();
        let frontier = if last { Some(END_OF_TIME) } else { cut[1].checked_sub(1).map(|row| frontiers[row]) };
        let input = chunks(&mut random, &all.slice(cut[0], cut[1] - cut[0]));
        output.extend(stream.batch(&mut random, input, frontier).await);
        if i != at && !last {
            continue;
        }
        let what = format!("{sql}, {spec}, {emit:?}, seed {seed}, after {} rows", cut[1]);
        let want = oracle(sql, &expanded(&all.slice(0, cut[1]), &spec)).await;
        match emit {
            EmitMode::OnClose => {
                let frontier = frontier.unwrap_or(i64::MIN);
                let closed: Vec<RecordBatch> = want.iter().map(|b| ending_by(b, frontier)).collect();
                assert!(ends(&output).is_sorted(), "{what}: windows come in their order");
                assert_same(&closed, &output, 2 + keys, tolerance, &what);
            }
            EmitMode::Changes => {
                let sum = changelog::consolidate(&output, &stream.plan.schema()).unwrap();
                let columns = stream.plan.schema().fields().len();
                let got: Vec<_> =
                    sum.iter().map(|b| b.project(&(0..columns - 1).collect::<Vec<_>>()).unwrap()).collect();
                assert_same(&want, &got, 2 + keys, tolerance, &what);
            }
        }
    }
    let left: usize = stream.state.lock().unwrap().describe().tables.iter().map(|t| t.rows).sum();
    assert_eq!(left, 0, "{sql}, {spec}, {emit:?}: state is left when all windows have closed");
}

fn random_rows(seed: u64) -> Random {
    Random(seed.wrapping_mul(7919) + 13)
}

fn ends(batches: &[RecordBatch]) -> Vec<i64> {
    let ends = |b: &RecordBatch| b.column(1).as_primitive::<TimestampMicrosecondType>().values().to_vec();
    batches.iter().flat_map(ends).collect()
}

fn ending_by(batch: &RecordBatch, frontier: i64) -> RecordBatch {
    let ends = batch.column(1).as_primitive::<TimestampMicrosecondType>();
    let rows = (0..ends.len()).filter(|i| ends.value(*i) <= frontier).map(|i| i as u32);
    take_record_batch(batch, &UInt32Array::from_iter_values(rows)).unwrap()
}

#[tokio::test]
async fn windows_emit_on_close_what_a_batch_answers_for_any_cut() {
    let sql = "SELECT ws, we, k, count(*), sum(v), avg(g), min(s), max(d) FROM t GROUP BY ws, we, k";
    for (i, spec) in SPECS.iter().enumerate() {
        for seed in 0..5 {
            check(sql, 1, spec(), EmitMode::OnClose, Tolerance::Rounding, seed * 10 + i as u64, 300).await;
        }
    }
}

#[tokio::test]
async fn windows_emit_changes_that_add_up_to_the_batch_answer() {
    let sql = "SELECT ws, we, k, count(*), sum(v), avg(g), min(s), max(d) FROM t GROUP BY ws, we, k";
    for (i, spec) in SPECS.iter().enumerate() {
        for seed in 0..3 {
            check(sql, 1, spec(), EmitMode::Changes, Tolerance::Rounding, seed * 10 + i as u64, 300).await;
        }
    }
}

#[tokio::test]
async fn a_window_without_keys_has_one_row() {
    let sql = "SELECT ws, we, max(v), count(DISTINCT s) FROM t GROUP BY ws, we";
    for (i, spec) in SPECS.iter().enumerate() {
        check(sql, 0, spec(), EmitMode::OnClose, Tolerance::Rounding, i as u64, 300).await;
        check(sql, 0, spec(), EmitMode::Changes, Tolerance::Rounding, i as u64, 300).await;
    }
}

#[tokio::test]
async fn windows_without_aggregates_are_their_keys() {
    for (i, spec) in SPECS.iter().enumerate() {
        for sql in ["SELECT ws, we FROM t GROUP BY ws, we", "SELECT ws, we, s, f FROM t GROUP BY ws, we, s, f"] {
            let keys = if sql.contains(", s") { 2 } else { 0 };
            check(sql, keys, spec(), EmitMode::OnClose, Tolerance::Rounding, i as u64, 200).await;
        }
    }
}

#[tokio::test]
async fn aggregates_that_depend_on_order_see_the_rows_in_log_order() {
    let sql = "SELECT ws, we, k, first_value(id), last_value(id), array_agg(v), string_agg(u, ','), nth_value(id, 2) \
               FROM t GROUP BY ws, we, k";
    for (i, spec) in SPECS.iter().enumerate() {
        check(sql, 1, spec(), EmitMode::OnClose, Tolerance::Rounding, i as u64, 250).await;
        check(sql, 1, spec(), EmitMode::Changes, Tolerance::Rounding, i as u64, 250).await;
    }
}

#[tokio::test]
async fn a_row_behind_the_frontier_is_reported_as_a_fault() {
    let sql = "SELECT ws, we, count(*) FROM t GROUP BY ws, we";
    for spec in SPECS {
        let mut stream = stream(sql, spec(), EmitMode::OnClose).await.unwrap();
        let all = rows(&mut Random(3), 50);
        stream.run(vec![all.clone()], Some(END_OF_TIME)).await;
        stream.install();
        let batch =
            crate::exec::BatchContext { frontier: Some(END_OF_TIME), inputs: vec![vec![all]], ..Default::default() };
        let context = batch.task_context(&datafusion::prelude::SessionContext::new().task_ctx());
        let error = datafusion::physical_plan::collect(Arc::clone(&stream.plan), context).await.unwrap_err();
        assert!(error.to_string().contains("after its window had closed"), "{error}");
    }
}
