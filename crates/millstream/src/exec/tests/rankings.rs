//! Window functions, rankings, DEDUP and LIMIT, batch by batch, with batches that fail and processes that end.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::{SortOptions, concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::window::WindowExpr;
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};

use super::harness::*;
use crate::changelog::{self, consolidate};
use crate::exec::*;

fn column(name: &str) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new_with_schema(name, &schema()).unwrap())
}

/// `a, -b`: ascending, and descending with NULLs first, as in SQL.
fn order(columns: &[&str]) -> Vec<PhysicalSortExpr> {
    let by = |name: &&str| {
        let (name, descending) = name.strip_prefix('-').map_or((*name, false), |name| (name, true));
        PhysicalSortExpr::new(column(name), SortOptions { descending, nulls_first: descending })
    };
    columns.iter().map(by).collect()
}

/// The columns of the input, then functions of these types, then perhaps the weight.
fn output(functions: &[DataType], weight: bool) -> SchemaRef {
    let mut fields = schema().fields().to_vec();
    fields.extend((0..).zip(functions).map(|(i, t)| Arc::new(Field::new(format!("f{i}"), t.clone(), true))));
    let plain = Schema::new(fields);
    if weight { changelog::with_weight(&plain) } else { Arc::new(plain) }
}

fn scan(schema: SchemaRef) -> Arc<ScanExec> {
    Arc::new(ScanExec::new(0, schema))
}

/// The rows that changes add up to, as text.
fn sum(changes: &[RecordBatch], schema: &SchemaRef) -> Vec<String> {
    let mut rows = vec![];
    for batch in consolidate(changes, schema).unwrap() {
        let weights = batch.column(batch.num_columns() - 1).as_primitive::<Int64Type>().clone();
        let plain = batch.project(&(0..batch.num_columns() - 1).collect::<Vec<_>>()).unwrap();
        for row in 0..plain.num_rows() {
            assert!(weights.value(row) > 0, "a row was taken back more often than it came: {plain:?}");
            let line = lines(&[plain.slice(row, 1)]);
            (0..weights.value(row)).for_each(|_| rows.extend(line.clone()));
        }
    }
    rows.sort();
    rows
}

/// The largest time so far, less the delay.
fn watermark(rows: &RecordBatch) -> Option<i64> {
    let times = rows.column_by_name("ts").unwrap().as_primitive::<TimestampMicrosecondType>();
    arrow::compute::max(times).map(|t| t - DELAY)
}

/// Compares the changes after each batch with the oracle over the rows so far.
async fn check_changes(mut stream: Stream, sql: &str, seed: u64) {
    let mut random = Random(seed);
    let all = rows(&mut random, 150);
    let mut changes = vec![];
    for cut in cuts(&mut random, all.num_rows()).windows(2) {
        let input = chunks(&mut random, &all.slice(cut[0], cut[1] - cut[0]));
        changes.extend(stream.batch(&mut random, input, None).await);
        if cut[1] == all.num_rows() || random.one_in(5) {
            let want = lines(&oracle(sql, &all.slice(0, cut[1])).await);
            assert_eq!(sum(&changes, &stream.plan.schema()), want, "{sql}, seed {seed}, after {} rows", cut[1]);
        }
    }
}

fn top(kind: RankKind, limit: u64, by: &'static [&'static str], keys: &'static [&'static str]) -> Stream {
    Stream::new(move || {
        let partition = keys.iter().map(|k| column(k)).collect();
        let top = TopN { partition, order: order(by), kind, limit };
        Arc::new(TopNExec::try_new("t", scan(schema()), top, output(&[DataType::UInt64], true)).unwrap())
    })
}

#[tokio::test]
async fn the_best_row_of_a_key_is_replaced_by_a_better_one() {
    for seed in 0..15 {
        let sql =
            "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY k, s ORDER BY v DESC, id) r FROM t) WHERE r = 1";
        check_changes(top(RankKind::RowNumber, 1, &["-v", "id"], &["k", "s"]), sql, seed).await;
    }
}

#[tokio::test]
async fn the_first_and_the_last_row_by_time_are_those_of_a_batch() {
    for seed in 0..10 {
        let sql = "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY ts, id) r FROM t) WHERE r = 1";
        check_changes(top(RankKind::RowNumber, 1, &["ts", "id"], &["k"]), sql, seed).await;
        let sql =
            "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY ts DESC, id) r FROM t) WHERE r = 1";
        check_changes(top(RankKind::RowNumber, 1, &["-ts", "id"], &["k"]), sql, seed).await;
    }
}

#[tokio::test]
async fn rows_that_tie_are_counted_in_the_order_of_the_log() {
    for seed in 0..10 {
        let sql = "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY s, id) r FROM t) WHERE r <= 3";
        check_changes(top(RankKind::RowNumber, 3, &["s"], &["k"]), sql, seed).await;
    }
}

#[tokio::test]
async fn ranks_keep_all_rows_that_tie() {
    for seed in 0..10 {
        let sql = "SELECT * FROM (SELECT *, rank() OVER (PARTITION BY b ORDER BY v) r FROM t) WHERE r <= 4";
        check_changes(top(RankKind::Rank, 4, &["v"], &["b"]), sql, seed).await;
        let sql = "SELECT * FROM (SELECT *, dense_rank() OVER (ORDER BY v DESC) r FROM t) WHERE r <= 2";
        check_changes(top(RankKind::DenseRank, 2, &["-v"], &[]), sql, seed).await;
    }
}

/// The window functions of a query, as DataFusion plans them.
async fn functions(sql: &str) -> Vec<Arc<dyn WindowExpr>> {
    window_expressions(sql).await
}

async fn ranking(sql: &str, input: SchemaRef, keys: &'static [&'static str], by: &'static [&'static str]) -> Stream {
    let functions = functions(sql).await;
    Stream::new(move || {
        let types: Vec<_> = functions.iter().map(|f| f.field().unwrap().data_type().clone()).collect();
        let framed = functions.iter().map(|f| OverFunction::Framed(Arc::clone(f))).collect();
        let partition = keys.iter().map(|k| column(k)).collect();
        let ranking = Ranking { partition, order: order(by), functions: framed, head: None };
        Arc::new(RankingExec::try_new("t", scan(Arc::clone(&input)), ranking, output(&types, true)).unwrap())
    })
}

const LOOKS_FORWARD: &str = "SELECT *, lead(v) OVER w a, ntile(3) OVER w b1, sum(v) OVER (PARTITION BY k ORDER BY v, id \
    ROWS BETWEEN 1 PRECEDING AND 2 FOLLOWING) c FROM t WINDOW w AS (PARTITION BY k ORDER BY v, id)";

#[tokio::test]
async fn functions_that_look_forward_are_answered_anew_as_rows_come() {
    for seed in 0..8 {
        check_changes(ranking(LOOKS_FORWARD, schema(), &["k"], &["v", "id"]).await, LOOKS_FORWARD, seed).await;
    }
}

/// Runs rows of which some go again, and answers the changes and the rows that are left.
async fn come_and_go(stream: &mut Stream, random: &mut Random) -> (Vec<RecordBatch>, RecordBatch) {
    let all = rows(random, 120);
    let weighted = changelog::with_weight(&schema());
    let with = |rows: &RecordBatch, weight: i64| {
        let mut columns = rows.columns().to_vec();
        columns.push(Arc::new(Int64Array::from_value(weight, rows.num_rows())));
        RecordBatch::try_new(Arc::clone(&weighted), columns).unwrap()
    };
    let mut here: Vec<RecordBatch> = vec![];
    let mut changes = vec![];
    for cut in cuts(random, all.num_rows()).windows(2) {
        let mut input = vec![];
        while !here.is_empty() && random.one_in(2) {
            let gone = here.remove(random.below(here.len() as u64) as usize);
            input.push(with(&gone, -1));
        }
        for row in cut[0]..cut[1] {
            let row = all.slice(row, 1);
            // Some come twice, some come and go within the batch.
            match random.below(6) {
                0 => input.extend([with(&row, 1), with(&row, -1)]),
                1 => {
                    input.push(with(&row, 2));
                    here.extend([row.clone(), row]);
                }
                _ => {
                    input.push(with(&row, 1));
                    here.push(row);
                }
            }
        }
        changes.extend(stream.batch(random, input, None).await);
    }
    (changes, concat_batches(&schema(), &here).unwrap())
}

#[tokio::test]
async fn a_row_that_goes_gives_its_rank_to_the_next() {
    for seed in 0..12 {
        let mut random = Random(seed);
        let head = Some(Head { kind: RankKind::Rank, limit: 3 });
        let mut stream = Stream::new(move || {
            let ranks = vec![OverFunction::Rank(RankKind::Rank), OverFunction::Rank(RankKind::DenseRank)];
            let ranking = Ranking { partition: vec![column("k")], order: order(&["-v"]), functions: ranks, head };
            let input = scan(changelog::with_weight(&schema()));
            let output = output(&[DataType::UInt64, DataType::UInt64], true);
            Arc::new(RankingExec::try_new("t", input, ranking, output).unwrap())
        });
        let (changes, left) = come_and_go(&mut stream, &mut random).await;
        let sql = "SELECT * FROM (SELECT *, rank() OVER w r, dense_rank() OVER w d1 FROM t \
                   WINDOW w AS (PARTITION BY k ORDER BY v DESC)) WHERE r <= 3";
        assert_eq!(sum(&changes, &stream.plan.schema()), lines(&oracle(sql, &left).await), "seed {seed}");
    }
}

#[tokio::test]
async fn functions_over_rows_that_come_and_go_are_those_of_the_rows_that_are_left() {
    for seed in 0..8 {
        let mut random = Random(seed);
        let mut stream = ranking(LOOKS_FORWARD, changelog::with_weight(&schema()), &["k"], &["v", "id"]).await;
        let (changes, left) = come_and_go(&mut stream, &mut random).await;
        let want = lines(&oracle(LOOKS_FORWARD, &left).await);
        assert_eq!(sum(&changes, &stream.plan.schema()), want, "seed {seed}");
    }
}

#[tokio::test]
async fn a_row_that_was_never_there_can_not_be_taken_back() {
    let mut stream = ranking(LOOKS_FORWARD, changelog::with_weight(&schema()), &["k"], &["v", "id"]).await;
    let row = rows(&mut Random(1), 1);
    let mut columns = row.columns().to_vec();
    columns.push(Arc::new(Int64Array::from(vec![-1])));
    let row = RecordBatch::try_new(changelog::with_weight(&schema()), columns).unwrap();
    let error = stream.try_run(vec![row]).await.unwrap_err();
    assert!(error.to_string().contains("take back a row that never came"), "{error}");
}

/// Runs rows with a frontier behind them to the end, and compares everything that came out with the oracle.
async fn check_in_time(mut stream: Stream, sql: &str, seed: u64) {
    let mut random = Random(seed);
    let all = rows(&mut random, 150);
    let (mut out, mut last) = (vec![], None);
    for cut in cuts(&mut random, all.num_rows()).windows(2) {
        let input = chunks(&mut random, &all.slice(cut[0], cut[1] - cut[0]));
        let frontier = watermark(&all.slice(0, cut[1]));
        let output = stream.batch(&mut random, input, frontier).await;
        for batch in &output {
            let times = batch.column_by_name("ts").unwrap().as_primitive::<TimestampMicrosecondType>();
            assert!(times.values().is_sorted(), "rows leave in the order of their times");
            assert!(
                times.values().iter().all(|t| Some(*t) <= frontier && Some(*t) > last),
                "a row left too early or late"
            );
        }
        out.extend(output);
        last = last.max(frontier);
    }
    out.extend(stream.batch(&mut random, vec![], Some(millstream_core::watermark::END_OF_TIME)).await);
    assert_eq!(lines(&out), lines(&oracle(sql, &all).await), "{sql}, seed {seed}");
}

#[tokio::test]
async fn rows_in_event_time_are_answered_once_and_in_order() {
    let sql = "SELECT *, sum(v) OVER (PARTITION BY k ORDER BY ts, id ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) a, \
               lag(v) OVER (PARTITION BY k ORDER BY ts, id) b1 FROM t";
    let framed = functions(sql).await;
    for seed in 0..10 {
        let framed = framed.clone();
        let stream = Stream::new(move || {
            let types: Vec<_> = framed.iter().map(|f| f.field().unwrap().data_type().clone()).collect();
            let functions = framed.iter().map(|f| OverFunction::Framed(Arc::clone(f))).collect();
            let keep = Some(Keep { tail: 2, tail_us: Some(0), ..Keep::default() });
            let over = Over {
                partition: vec![column("k")],
                order: order(&["ts", "id"]),
                functions,
                time: 9,
                after_us: 0,
                keep,
            };
            Arc::new(OverExec::try_new("t", scan(schema()), over, output(&types, false)).unwrap())
        });
        check_in_time(stream, sql, seed).await;
    }
}

#[tokio::test]
async fn partitions_behind_their_frame_are_forgotten() {
    let sql = "SELECT *, count(*) OVER (PARTITION BY id % 20 ORDER BY ts RANGE BETWEEN INTERVAL '3' SECOND PRECEDING AND CURRENT ROW) a FROM t";
    let framed = functions(sql).await;
    let make = move || -> Arc<dyn datafusion::physical_plan::ExecutionPlan> {
        let function = Arc::clone(&framed[0]);
        let partition = function.partition_by().to_vec();
        let keep = Some(Keep { tail_us: Some(3 * SECOND), ..Keep::default() });
        let functions = vec![OverFunction::Framed(function)];
        let over = Over { partition, order: order(&["ts"]), functions, time: 9, after_us: 0, keep };
        Arc::new(OverExec::try_new("t", scan(schema()), over, output(&[DataType::Int64], false)).unwrap())
    };
    for seed in 0..5 {
        check_in_time(Stream::new(make.clone()), sql, seed).await;
    }
    let mut stream = Stream::new(make);
    let all = rows(&mut Random(7), 60);
    stream.run(vec![all.clone()], watermark(&all)).await;
    stream.install();
    let kept = |stream: &Stream| stream.state.lock().unwrap().describe().tables[1].rows;
    assert!(kept(&stream) > 0);
    let later = watermark(&all).map(|w| w + 20 * SECOND);
    stream.run(vec![], later).await;
    stream.install();
    assert_eq!(kept(&stream), 0, "no frame can reach them any more");
    assert_eq!(stream.state.lock().unwrap().describe().tables[2].rows, 0, "nor the rows of these partitions");
}

#[tokio::test]
async fn repeated_rows_are_left_out_within_the_horizon_and_forgotten_after_it() {
    for (seed, horizon) in (0..12).zip([0, 1, SECOND, 5 * SECOND].iter().cycle()) {
        let horizon = *horizon;
        let make = move || -> Arc<dyn datafusion::physical_plan::ExecutionPlan> {
            Arc::new(DedupExec::try_new("t", scan(schema()), vec![1], 9, horizon).unwrap())
        };
        let sql = format!(
            "SELECT id, k, s, f, v, g, u, b, d, ts, ws, we FROM (SELECT *, lag(ts) OVER (PARTITION BY k ORDER BY ts, id) AS last FROM t) \
             WHERE last IS NULL OR ts > last + INTERVAL '{horizon}' MICROSECOND"
        );
        check_in_time(Stream::new(make), &sql, seed).await;
        let mut stream = Stream::new(make);
        let all = rows(&mut Random(seed), 50);
        stream.run(vec![all.clone()], watermark(&all)).await;
        stream.install();
        stream.run(vec![], watermark(&all).map(|w| w + 3 * horizon.max(SECOND) + DELAY)).await;
        stream.install();
        let later = stream.run(vec![], watermark(&all).map(|w| w + 9 * horizon.max(SECOND) + DELAY)).await;
        stream.install();
        assert!(later.is_empty());
        assert!(stream.state.lock().unwrap().describe().tables.iter().all(|t| t.rows == 0), "nothing is kept");
    }
}

#[tokio::test]
async fn a_limit_counts_rows_over_batches_and_restarts() {
    for seed in 0..10 {
        let mut random = Random(seed);
        let all = rows(&mut random, 60);
        let (skip, fetch) = (random.below(20), random.below(50));
        let mut stream = Stream::new(move || Arc::new(LimitExec::try_new("t", scan(schema()), skip, fetch).unwrap()));
        let mut out = vec![];
        for cut in cuts(&mut random, all.num_rows()).windows(2) {
            let input = chunks(&mut random, &all.slice(cut[0], cut[1] - cut[0]));
            out.extend(stream.batch(&mut random, input, None).await);
        }
        let (skip, fetch) = (skip as usize, fetch as usize);
        assert_eq!(lines(&out), lines(&[all.slice(skip, fetch.min(60 - skip))]), "seed {seed}");
    }
}

/// Rows a second, and bytes a key, over many keys: `cargo test -- --ignored --nocapture ten_million_keys`.
#[tokio::test]
#[ignore = "a measurement"]
async fn ten_million_keys() {
    let keys: u64 = std::env::var("MILLSTREAM_KEYS").map_or(1_000_000, |n| n.parse().unwrap());
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("v", DataType::Int64, false),
        Field::new("ts", DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None), false),
    ];
    let narrow = Arc::new(Schema::new(fields));
    let by = |name: &str, descending: bool, schema: &Schema| {
        let column = Arc::new(Column::new_with_schema(name, schema).unwrap());
        PhysicalSortExpr::new(column, SortOptions { descending, nulls_first: descending })
    };
    let rows = |random: &mut Random, batch: u64| {
        let n = 100_000_usize;
        let ids = Int64Array::from_iter_values((0..n).map(|_| random.below(keys) as i64));
        let values = Int64Array::from_iter_values((0..n).map(|_| random.below(1 << 40) as i64));
        let ts = (0..n).map(|i| (batch as i64 * n as i64 + i as i64) * 100);
        let ts = arrow::array::TimestampMicrosecondArray::from_iter_values(ts);
        RecordBatch::try_new(Arc::clone(&narrow), vec![Arc::new(ids), Arc::new(values), Arc::new(ts)]).unwrap()
    };
    for (name, limit) in [("keep-last", 1_u64), ("top-1 by value", 1), ("top-3", 3), ("dedup", 0)] {
        let schema = Arc::clone(&narrow);
        let mut stream = Stream::new(move || {
            let input = scan(Arc::clone(&schema));
            if limit == 0 {
                return Arc::new(DedupExec::try_new("t", input, vec![0], 2, i64::from(u32::MAX)).unwrap());
            }
            let mut fields = schema.fields().to_vec();
            fields.push(Arc::new(Field::new("r", DataType::UInt64, true)));
            let output = changelog::with_weight(&Schema::new(fields));
            let order = vec![by(if name == "keep-last" { "ts" } else { "v" }, true, &schema)];
            let partition: Vec<Arc<dyn PhysicalExpr>> = vec![Arc::new(Column::new("id", 0))];
            let top = TopN { partition, order, kind: RankKind::RowNumber, limit };
            Arc::new(TopNExec::try_new("t", input, top, output).unwrap())
        });
        let mut random = Random(1);
        let (mut spent, mut count) = (std::time::Duration::ZERO, 0);
        for batch in 0..keys * 2 / 100_000 {
            let rows = rows(&mut random, batch);
            count += rows.num_rows();
            let frontier = Some((batch as i64 + 1) * 10_000_000 - 1_000_000);
            let start = Instant::now();
            stream.run(vec![rows], frontier).await;
            stream.install();
            spent += start.elapsed();
        }
        let tables = stream.state.lock().unwrap().describe().tables;
        let (held, bytes) = tables.iter().fold((0, 0), |(rows, bytes), t| (rows + t.rows, bytes + t.bytes));
        let rate = count as f64 / spent.as_secs_f64() / 1e6;
        eprintln!("{name}: {rate:.2} M rows/s over {keys} keys, {held} rows kept, {} bytes each", bytes / held.max(1));
    }
}

#[tokio::test]
async fn a_row_behind_the_frontier_is_a_fault_that_is_named() {
    let mut stream = Stream::new(|| Arc::new(DedupExec::try_new("t", scan(schema()), vec![1], 9, 5).unwrap()));
    let all = rows(&mut Random(3), 20);
    stream.run(vec![all.clone()], watermark(&all)).await;
    stream.install();
    let late = filter_record_batch(&all, &(0..20).map(|i| Some(i == 0)).collect()).unwrap();
    assert_eq!(late.column(9).null_count(), 0);
    let error = stream.try_run_at(vec![late], watermark(&all)).await.unwrap_err();
    assert!(error.to_string().contains("after its time had passed"), "{error}");
}

#[tokio::test]
#[ignore = "a measurement: what a batch of one row costs, by the rows that its frame keeps"]
async fn a_batch_of_one_row_under_a_long_frame() {
    for kept in [1_000, 100_000] {
        let sql = format!(
            "SELECT *, sum(v) OVER (ORDER BY ts ROWS BETWEEN {kept} PRECEDING AND CURRENT ROW) a, \
             min(v) OVER (ORDER BY ts ROWS BETWEEN {kept} PRECEDING AND CURRENT ROW) b1 FROM t"
        );
        let framed = functions(&sql).await;
        let mut stream = Stream::new(move || {
            let functions = framed.iter().map(|f| OverFunction::Framed(Arc::clone(f))).collect();
            let keep = Some(Keep { tail: kept, tail_us: Some(0), ..Keep::default() });
            let over = Over { partition: vec![], order: order(&["ts"]), functions, time: 9, after_us: 0, keep };
            let types = [DataType::Int64, DataType::Int64];
            Arc::new(OverExec::try_new("t", scan(schema()), over, output(&types, false)).unwrap())
        });
        let all = rows(&mut Random(1), kept + 40);
        let ascending = TimestampMicrosecondArray::from_iter_values(1..=all.num_rows() as i64);
        let mut columns = all.columns().to_vec();
        columns[9] = Arc::new(ascending);
        let all = RecordBatch::try_new(schema(), columns).unwrap();
        stream.run(vec![all.slice(0, kept)], Some(kept as i64)).await;
        stream.install();
        let mut times = vec![];
        for row in kept..kept + 40 {
            let began = std::time::Instant::now();
            stream.run(vec![all.slice(row, 1)], Some(row as i64 + 1)).await;
            stream.install();
            times.push(began.elapsed());
        }
        times.sort();
        println!("{kept} rows kept: median {:?}, most {:?}", times[20], times[39]);
    }
}
