//! What a program can do: frames, sources and sinks and functions of its own, and the life of a stream.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "api/clock.rs"]
mod clock;
#[path = "api/memory.rs"]
mod memory;
#[path = "api/proctime.rs"]
mod proctime;
#[path = "api/rankings.rs"]
mod rankings;
#[path = "api/sql.rs"]
mod sql;

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use arrow::util::display::array_value_to_string;
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{Accumulator, ColumnarValue, ScalarUDF, Volatility, create_udaf, create_udf};
use futures::StreamExt;
use memory::{MemorySink, MemoryTable, Rows, Stored};
use millstream::core::batch::BatchId;
use millstream::core::disk::RealDisk;
use millstream::core::log::read_dropped;
use millstream::prelude::*;

const SECOND_MS: i64 = 1000;

/// Each row as text, sorted.
fn text(batches: &[RecordBatch]) -> Vec<String> {
    let row = |rows: &RecordBatch, n: usize| {
        let values: Vec<_> = rows.columns().iter().map(|c| array_value_to_string(c, n).unwrap()).collect();
        values.join(" ")
    };
    let mut lines: Vec<_> = batches.iter().flat_map(|rows| (0..rows.num_rows()).map(move |n| row(rows, n))).collect();
    lines.sort();
    lines
}

/// Clicks of three users, somewhat out of order, over `seconds`.
fn clicks(seconds: i64) -> Vec<(i64, String, i64)> {
    let at = |n: i64| n * 250 - (n * 7 % 5) * 100;
    (0..seconds * 4).map(|n| (at(n) + SECOND_MS, format!("user{}", n % 3), n)).collect()
}

fn session_over(table: MemoryTable) -> Session {
    let session = Session::new().unwrap();
    session.register_source("clicks", Arc::new(table), Some(("at", Duration::from_secs(1)))).unwrap();
    session
}

fn per_window(session: &Session) -> StreamFrame {
    let clicks = session.table("clicks").unwrap();
    let windows = clicks.window("at", tumble(Duration::from_secs(2))).unwrap();
    let groups = [col("window_start"), col("window_end"), col("user")];
    windows.aggregate(groups, [count(lit(1)).alias("clicks"), sum(col("n")).alias("total")]).unwrap()
}

fn udf(name: &str, volatility: Volatility) -> ScalarUDF {
    let twice = |args: &[ColumnarValue]| {
        let arrays = ColumnarValue::values_to_arrays(args)?;
        let numbers = arrays[0].as_primitive::<Int64Type>();
        Ok(ColumnarValue::Array(Arc::new(Int64Array::from_iter(numbers.iter().map(|n| n.map(|n| n * 2))))))
    };
    create_udf(name, vec![DataType::Int64], DataType::Int64, volatility, Arc::new(twice))
}

#[tokio::test]
async fn a_windowed_count_over_a_custom_source_streams_what_collect_answers() {
    let dir = tempfile::tempdir().unwrap();
    let rows = Rows::of(clicks(20));
    let counts = per_window(&session_over(MemoryTable::bounded(&rows)));
    let stored = Stored::default();
    let sink = Box::new(MemorySink::new(&stored));
    let stream = counts.write_stream().sink(sink).state_dir(dir.path()).max_batch_rows(7).start().await.unwrap();
    let status = stream.wait().await.unwrap();

    let expected = text(&counts.collect().await.unwrap());
    assert!(expected.len() > 20, "{expected:?}");
    assert_eq!(text(&stored.rows()), expected);
    let account = status.progress.unwrap().totals.clone();
    assert_eq!((account[0].source.as_str(), account[0].read, account[0].used), ("clicks", 80, 80));
    assert_eq!(status.state, QueryState::Ended);
}

#[tokio::test]
async fn files_and_generated_rows_stream_what_collect_answers() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::new().unwrap();
    let events = "CREATE TABLE Events (kind BIGINT, at TIMESTAMP(3), kindName AS CONCAT('kind', CAST(kind AS STRING)),
                  WATERMARK FOR at AS at - INTERVAL '1' SECOND)
                  WITH ('connector' = 'datagen', 'number-of-rows' = '500', 'rows-per-second' = '0', 'fields.kind.min' = '1',
                        'fields.kind.max' = '3', 'fields.at.step' = '200 ms', 'fields.at.jitter' = '900 ms')";
    assert!(session.sql(events).unwrap().collect().await.unwrap().iter().all(|rows| rows.num_rows() == 0));
    let hopping = hop(Duration::from_secs(5), Duration::from_secs(10));
    let counts = session.table("Events").unwrap().window("at", hopping).unwrap();
    let groups = [col("window_start"), col("window_end"), col("kindName")];
    let counts = counts.aggregate(groups, [count(lit(1)).alias("events")]).unwrap();

    let writer = counts.write_stream().format("json").path(dir.path().join("out")).partition_by(["kindName"]);
    let writer = writer.state_dir(dir.path().join("state")).query_name("kinds").trigger(Trigger::AvailableNow);
    writer.max_batch_rows(100).start().await.unwrap().wait().await.unwrap();
    assert!(dir.path().join("state/kinds/log").is_dir());
    assert!(dir.path().join("out/kindName=kind1").is_dir());

    let files = session.read_stream().format("json").option("path", format!("{}/out/*/*.ndjson", dir.path().display()));
    let written = files.load().unwrap().select([col("events")]).unwrap().collect().await.unwrap();
    let expected = counts.select([col("events")]).unwrap().collect().await.unwrap();
    assert_eq!(text(&written), text(&expected));
}

#[tokio::test]
async fn collect_waits_for_a_source_that_takes_its_time() {
    let session = Session::new().unwrap();
    let numbers = "CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '60',
                   'rows-per-second' = '2000', 'fields.n.kind' = 'sequence', 'fields.n.start' = '1')";
    session.sql(numbers).unwrap();
    let counted = session.sql("SELECT count(*), sum(n) FROM numbers").unwrap().collect().await.unwrap();
    assert_eq!(text(&counted), ["60 1830"]);
}

#[tokio::test]
async fn a_stopped_stream_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let rows = Rows::of(clicks(10));
    let stored = Stored::default();
    let counts = per_window(&session_over(MemoryTable::followed(&rows)));
    let writer =
        || counts.write_stream().sink(Box::new(MemorySink::new(&stored))).state_dir(dir.path()).max_batch_rows(9);

    let stream = writer().start().await.unwrap();
    let mut batches = stream.progress();
    let mut used = 0;
    while used < 40 {
        used += batches.next().await.unwrap().account[0].used;
    }
    assert_eq!(stream.stop().await.unwrap().state, QueryState::Stopped);
    let before = stored.rows().len();
    assert!(before > 0);

    let later = clicks(20).split_off(40);
    rows.append(later);
    rows.finish();
    let status = writer().start().await.unwrap().wait().await.unwrap();
    assert_eq!(status.state, QueryState::Ended);
    assert_eq!(status.progress.unwrap().totals[0].read, 80);
    let expected = per_window(&session_over(MemoryTable::bounded(&rows))).collect().await.unwrap();
    assert_eq!(text(&stored.rows()), text(&expected));
    assert!(stored.rows().len() > before);
}

#[tokio::test]
async fn a_stream_whose_sink_failed_after_it_had_stored_goes_on_without_a_row_doubled() {
    let dir = tempfile::tempdir().unwrap();
    let rows = Rows::of(clicks(20));
    let stored = Stored::default();
    let counts = per_window(&session_over(MemoryTable::bounded(&rows)));
    let writer = |sink| counts.write_stream().sink(Box::new(sink)).state_dir(dir.path()).max_batch_rows(11);

    let failing = MemorySink::new(&stored).failing_after(2);
    let error = writer(failing).start().await.unwrap().wait().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Sink, "{error}");
    assert!(error.to_string().contains("the disk of the test is full"), "{error}");
    assert_eq!(stored.batches(), 2);

    let status = writer(MemorySink::new(&stored)).start().await.unwrap().wait().await.unwrap();
    assert!(status.recovery.unwrap().replayed > 0);
    assert_eq!(text(&stored.rows()), text(&counts.collect().await.unwrap()));
}

#[tokio::test]
async fn a_function_of_the_program_is_the_same_in_sql_and_in_frames() {
    let dir = tempfile::tempdir().unwrap();
    let session = session_over(MemoryTable::bounded(&Rows::of(clicks(5))));
    let twice = udf("twice", Volatility::Immutable);
    session.register_udf(twice.clone()).unwrap();

    let in_sql = session.sql("SELECT user, twice(n) AS doubled FROM clicks WHERE n < 3").unwrap();
    let in_frame = session.table("clicks").unwrap().filter(col("n").lt(lit(3))).unwrap();
    let in_frame = in_frame.select([col("user"), twice.call(vec![col("n")]).alias("doubled")]).unwrap();
    let stored = Stored::default();
    let writer = in_sql.write_stream().sink(Box::new(MemorySink::new(&stored))).state_dir(dir.path());
    writer.start().await.unwrap().wait().await.unwrap();

    assert_eq!(text(&stored.rows()), ["user0 0", "user1 2", "user2 4"]);
    assert_eq!(text(&in_frame.collect().await.unwrap()), text(&stored.rows()));
}

/// The distance between the largest and the smallest number.
#[derive(Debug, Default)]
struct Spread(Option<(i64, i64)>);

impl Spread {
    fn take(&mut self, low: Option<i64>, high: Option<i64>) {
        if let (Some(low), Some(high)) = (low, high) {
            let (l, h) = self.0.unwrap_or((low, high));
            self.0 = Some((l.min(low), h.max(high)));
        }
    }
}

impl Accumulator for Spread {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        values[0].as_primitive::<Int64Type>().iter().for_each(|n| self.take(n, n));
        Ok(())
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        Ok(ScalarValue::Int64(self.0.map(|(low, high)| high - low)))
    }

    fn size(&self) -> usize {
        size_of::<Self>()
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Int64(self.0.map(|r| r.0)), ScalarValue::Int64(self.0.map(|r| r.1))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        let (low, high) = (states[0].as_primitive::<Int64Type>(), states[1].as_primitive::<Int64Type>());
        low.iter().zip(high).for_each(|(low, high)| self.take(low, high));
        Ok(())
    }
}

#[tokio::test]
async fn an_aggregate_function_of_the_program_streams_what_collect_answers() {
    let dir = tempfile::tempdir().unwrap();
    let session = session_over(MemoryTable::bounded(&Rows::of(clicks(20))));
    let number = Arc::new(DataType::Int64);
    let states = Arc::new(vec![DataType::Int64, DataType::Int64]);
    let new = Arc::new(|_: AccumulatorArgs<'_>| Ok(Box::<Spread>::default() as Box<dyn Accumulator>));
    let spread = create_udaf("spread", vec![DataType::Int64], number, Volatility::Immutable, new, states);
    session.register_udaf(spread).unwrap();
    let spreads = "SELECT window_start, window_end, user, spread(n) AS spread
                   FROM HOP(clicks, at, INTERVAL '1' SECOND, INTERVAL '4' SECOND) GROUP BY window_start, window_end, user";
    let spreads = session.sql(spreads).unwrap();
    let stored = Stored::default();
    let writer = spreads.write_stream().sink(Box::new(MemorySink::new(&stored))).state_dir(dir.path());
    writer.max_batch_rows(7).start().await.unwrap().wait().await.unwrap();
    let expected = text(&spreads.collect().await.unwrap());
    assert!(expected.iter().any(|row| row.ends_with(" 12")), "{expected:?}");
    assert_eq!(text(&stored.rows()), expected);
}

#[tokio::test]
async fn a_function_that_changes_its_mind_is_refused_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let session = session_over(MemoryTable::bounded(&Rows::of(clicks(5))));
    session.register_udf(udf("dice", Volatility::Volatile)).unwrap();
    let frame = session.sql("SELECT dice(n) AS x FROM clicks").unwrap();
    let error = frame.write_stream().format("print").state_dir(dir.path()).start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Query);
    assert!(error.to_string().contains("dice() gives another value each time"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn progress_tells_every_batch_and_adds_up() {
    let dir = tempfile::tempdir().unwrap();
    let counts = per_window(&session_over(MemoryTable::bounded(&Rows::of(clicks(20)))));
    let stored = Stored::default();
    let writer = counts.write_stream().sink(Box::new(MemorySink::new(&stored))).state_dir(dir.path());
    let stream = writer.max_batch_rows(10).start().await.unwrap();
    let batches: Vec<_> = stream.progress().collect().await;
    assert!(batches.len() >= 8, "{}", batches.len());
    assert_eq!(batches.iter().map(|b| b.rows_in).sum::<u64>(), 80);
    assert_eq!(batches.iter().map(|b| b.rows_out).sum::<u64>(), text(&stored.rows()).len() as u64);
    assert!(batches.iter().all(|b| b.account.iter().all(|a| a.balances())));
    stream.wait().await.unwrap();
}

#[tokio::test]
async fn a_watermark_can_be_put_on_a_computed_column_of_a_frame() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::new().unwrap();
    session.register_source("clicks", Arc::new(MemoryTable::bounded(&Rows::of(clicks(20)))), None).unwrap();
    let frame = session.table("clicks").unwrap().filter(col("n").gt(lit(4))).unwrap();
    let later = col("at") + lit(ScalarValue::new_interval_dt(0, 500));
    let frame = frame.with_column("shifted", later).unwrap();
    let frame = frame.with_watermark("shifted", Duration::from_secs(2)).unwrap();
    let counts = frame.window("shifted", cumulate(Duration::from_secs(1), Duration::from_secs(4))).unwrap();
    let counts = counts.aggregate([col("window_start"), col("window_end")], [count(lit(1)).alias("clicks")]).unwrap();
    let stored = Stored::default();
    let writer = counts.write_stream().sink(Box::new(MemorySink::new(&stored))).state_dir(dir.path());
    let status = writer.max_batch_rows(9).start().await.unwrap().wait().await.unwrap();
    assert_eq!(status.progress.unwrap().totals[0].late, 0);
    assert!(text(&stored.rows()).len() > 10);
    assert_eq!(text(&stored.rows()), text(&counts.collect().await.unwrap()));
}

#[tokio::test]
async fn a_row_beyond_the_watermark_of_a_frame_is_late_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::new().unwrap();
    let mut rows = clicks(10);
    rows.push((SECOND_MS, "user0".to_string(), 99));
    session.register_source("clicks", Arc::new(MemoryTable::bounded(&Rows::of(rows))), None).unwrap();
    let clicks = session.table("clicks").unwrap().with_watermark("at", Duration::from_secs(1)).unwrap();
    session.register_view("timed", &clicks).unwrap();
    let counts = session.sql(
        "SELECT window_start, window_end, count(*) AS c FROM TUMBLE(timed, at, INTERVAL '2' SECOND)
                              GROUP BY window_start, window_end",
    );
    let stored = Stored::default();
    let writer = counts.unwrap().write_stream().sink(Box::new(MemorySink::new(&stored))).state_dir(dir.path());
    let status = writer.max_batch_rows(8).start().await.unwrap().wait().await.unwrap();
    let totals = status.progress.unwrap().totals.clone();
    assert_eq!((totals[0].read, totals[0].used, totals[0].late), (41, 40, 1));
}

#[tokio::test]
async fn a_quotient_of_sums_that_fails_as_its_window_closes_stops_the_stream_and_rejects_no_innocent_row() {
    let at = [0, 15, 16, 17, 18, 31].map(|s| s * SECOND_MS);
    for cut in 1..=at.len() as u64 {
        let dir = tempfile::tempdir().unwrap();
        let session = Session::new().unwrap();
        let rows = at.iter().map(|at| (*at, "user".to_string(), i64::from(*at > 0))).collect();
        let table = Arc::new(MemoryTable::bounded(&Rows::of(rows)));
        session.register_source("clicks", table, Some(("at", Duration::ZERO))).unwrap();
        let quotients = session.sql(
            "SELECT window_end, sum(n) / sum(n) AS q FROM TUMBLE(clicks, at, INTERVAL '10' SECOND)
             GROUP BY window_start, window_end",
        );
        let stored = Stored::default();
        let writer = quotients.unwrap().write_stream().sink(Box::new(MemorySink::new(&stored)));
        let stream = writer.state_dir(dir.path()).query_name("q").max_batch_rows(cut).start().await.unwrap();
        let done = stream.wait().await;
        let dropped = read_dropped(&RealDisk, &dir.path().join("q/log"), BatchId(0)).unwrap();
        let places: Vec<_> = dropped.iter().map(|(_, row)| row.place.row).collect();
        match done {
            // The row that makes the quotient fail was taken in with an earlier batch.
            Err(error) => {
                assert!(cut == 1, "cut by {cut}: {error}");
                assert!(error.to_string().contains("fails on a result"), "cut by {cut}: {error}");
                assert!(places.is_empty(), "cut by {cut}: {dropped:?}");
            }
            Ok(_) => {
                assert_eq!(places, [0], "cut by {cut}: {dropped:?}");
                assert_eq!(text(&stored.rows()).len(), 2, "cut by {cut}");
            }
        }
    }
}

#[tokio::test]
async fn aggregates_without_a_window_stream_their_changes_and_a_union_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let session = session_over(MemoryTable::bounded(&Rows::of(clicks(3))));
    let (low, high) = (col("n").lt(lit(2)), col("n").gt_eq(lit(9)));
    let clicks = session.table("clicks").unwrap();
    let both = clicks.clone().filter(low).unwrap().union(clicks.filter(high).unwrap()).unwrap();
    let counts = both.aggregate([col("user")], [count(lit(1)).alias("clicks")]).unwrap();
    let stored = Stored::default();
    let writer = counts.write_stream().sink(Box::new(MemorySink::new(&stored))).state_dir(dir.path());
    writer.start().await.unwrap().wait().await.unwrap();
    assert_eq!(text(&stored.rows()), ["+I user0 2", "+I user1 2", "+I user2 1"]);
    assert_eq!(text(&counts.collect().await.unwrap()), ["user0 2", "user1 2", "user2 1"]);
}

#[tokio::test]
async fn a_row_whose_event_time_can_not_be_computed_is_rejected_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let statements = format!(
        "CREATE TABLE events (n BIGINT, ts AS to_timestamp_millis(1000000 / n), WATERMARK FOR ts AS ts)
         WITH ('connector' = 'filesystem', 'path' = '{}', 'format' = 'json');
         SELECT n FROM events;",
        dir.path().join("events.ndjson").display()
    );
    let lines: String = [5, 4, 0, 3, 0, 2].iter().map(|n| format!("{{\"n\":{n}}}\n")).collect();
    std::fs::write(dir.path().join("events.ndjson"), lines).unwrap();
    let stored = Stored::default();
    let writer =
        Session::new().unwrap().sql(&statements).unwrap().write_stream().sink(Box::new(MemorySink::new(&stored)));
    let stream = writer.state_dir(dir.path()).query_name("q").start().await.unwrap();
    stream.wait().await.unwrap();
    let dropped = read_dropped(&RealDisk, &dir.path().join("q/log"), BatchId(0)).unwrap();
    assert_eq!(dropped.iter().map(|(_, row)| row.place.row).collect::<Vec<_>>(), [2, 4], "{dropped:?}");
    assert!(dropped.iter().all(|(_, row)| row.reason.contains("Divide by zero")), "{dropped:?}");
    assert_eq!(text(&stored.rows()), ["2", "3", "4", "5"]);
}

#[tokio::test]
async fn an_insert_is_a_frame_that_knows_its_table() {
    let dir = tempfile::tempdir().unwrap();
    let session = session_over(MemoryTable::bounded(&Rows::of(clicks(2))));
    let out = dir.path().join("out");
    let text_of = format!(
        "CREATE TABLE firsts (who STRING, n BIGINT) WITH ('connector' = 'filesystem', 'path' = '{}', 'format' = 'csv');
         INSERT INTO firsts SELECT user, n FROM clicks WHERE n < 2;",
        out.display()
    );
    let frame = session.sql(&text_of).unwrap();
    frame.write_stream().state_dir(dir.path().join("state")).start().await.unwrap().wait().await.unwrap();
    assert!(dir.path().join("state/firsts").is_dir());
    assert_eq!(text(&session.table("firsts").unwrap().collect().await.unwrap()), ["user0 0", "user1 1"]);
}

#[tokio::test]
async fn what_is_missing_or_wrong_is_said_with_what_to_do() {
    let rows = Rows::of(clicks(2));
    let session = session_over(MemoryTable::bounded(&rows));
    let clicks = || session.table("clicks").unwrap();
    let says = |error: Error, kind: ErrorKind, words: &str| {
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    };
    says(clicks().write_stream().start().await.unwrap_err(), ErrorKind::Config, "call state_dir(..)");
    let nowhere = clicks().write_stream().state_dir("never-made").start().await.unwrap_err();
    says(nowhere, ErrorKind::Config, "nothing says where the rows go");
    says(clicks().filter(col("User").eq(lit("x"))).unwrap_err(), ErrorKind::Query, "User");
    says(clicks().window("n", tumble(Duration::from_secs(1))).unwrap_err(), ErrorKind::Query, "with_watermark(\"n\"");
    says(clicks().window("when", tumble(Duration::from_secs(1))).unwrap_err(), ErrorKind::Query, "no column 'when'");
    let slide_first = clicks().window("at", hop(Duration::from_secs(9), Duration::from_secs(3)));
    says(slide_first.unwrap_err(), ErrorKind::Query, "the slide first");
    says(clicks().with_watermark("at", Duration::ZERO).unwrap_err(), ErrorKind::Query, "has a watermark already");
    says(clicks().with_watermark("n", Duration::ZERO).unwrap_err(), ErrorKind::Query, "must be a timestamp");
    says(session.sql("SELECT 1; SELECT 2").unwrap_err(), ErrorKind::Query, "2 queries");
    says(session.sql("SELECT x FROM clicks").unwrap_err(), ErrorKind::Query, "'x'");
    let again = session.register_source("clicks", Arc::new(MemoryTable::bounded(&rows)), None);
    says(again.unwrap_err(), ErrorKind::Query, "already");
    let endless = session_over(MemoryTable::followed(&rows)).table("clicks").unwrap().collect().await;
    says(endless.unwrap_err(), ErrorKind::Query, "followed for ever");
    let constant = session.sql("SELECT 1 AS one").unwrap();
    let declared = session.sql("CREATE VIEW nothing AS SELECT 1 AS one").unwrap();
    let stream = declared.write_stream().format("print").state_dir("never-made").start().await;
    says(stream.unwrap_err(), ErrorKind::Query, "reads no table");
    assert_eq!(text(&constant.collect().await.unwrap()), ["1"]);
    assert!(!std::path::Path::new("never-made").exists());
}

#[tokio::test]
async fn two_tables_of_one_name_in_a_query_are_refused() {
    let session = Session::new().unwrap();
    let numbers = |rows: &str| {
        let reader = session.read_stream().format("datagen").option("number-of-rows", rows);
        let schema = arrow::datatypes::Schema::new(vec![arrow::datatypes::Field::new("n", DataType::Int64, true)]);
        reader.schema(Arc::new(schema)).load().unwrap()
    };
    let both = numbers("1").union(numbers("2")).unwrap();
    let error = both.explain().await.unwrap_err();
    assert!(error.to_string().contains("are called 'datagen'"), "{error}");
    let plan = numbers("1").filter(col("n").gt(lit(0))).unwrap().explain().await.unwrap();
    assert!(plan.contains("state: none") && plan.contains("answer: exact"), "{plan}");
}
