//! The nodes that keep no state, and what all nodes answer.

use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, TimestampMillisecondArray, TimestampSecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit, TimestampMillisecondType};
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionContext;

use super::harness::*;
use crate::exec::event_time::micros;
use crate::exec::{BatchContext, ScanExec, WindowTableExec};
use crate::window::WindowSpec;

async fn execute(plan: Arc<dyn ExecutionPlan>, inputs: Vec<Vec<RecordBatch>>) -> Vec<RecordBatch> {
    let context = BatchContext { inputs, ..Default::default() }.task_context(&SessionContext::new().task_ctx());
    collect(plan, context).await.unwrap()
}

#[tokio::test]
async fn a_scan_reads_the_rows_of_its_number() {
    let (a, b) = (rows(&mut Random(1), 5), rows(&mut Random(2), 7));
    let read = execute(Arc::new(ScanExec::new(1, schema())), vec![vec![a], vec![b.clone()]]).await;
    assert_eq!(lines(&read), lines(&[b]));
}

#[tokio::test]
async fn a_plan_outside_of_a_batch_says_so() {
    let error = collect(Arc::new(ScanExec::new(0, schema())), SessionContext::new().task_ctx()).await.unwrap_err();
    assert!(error.to_string().contains("outside of a batch"), "{error}");
}

#[tokio::test]
async fn rows_are_repeated_for_every_window_that_holds_them() {
    let time = DataType::Timestamp(TimeUnit::Millisecond, None);
    let input =
        Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false), Field::new("ts", time.clone(), true)]));
    let mut fields = input.fields().to_vec();
    for name in ["window_start", "window_end", "window_time"] {
        fields.push(Arc::new(Field::new(name, time.clone(), false)));
    }
    let n = 3000;
    let times = TimestampMillisecondArray::from_iter((0..n).map(|i| if i == 7 { None } else { Some(i * 10 - 5000) }));
    let rows =
        RecordBatch::try_new(Arc::clone(&input), vec![Arc::new(Int64Array::from_iter_values(0..n)), Arc::new(times)])
            .unwrap();
    let scan = Arc::new(ScanExec::new(0, input));
    let spec = WindowSpec::hop(SECOND, 5 * SECOND);
    let node = WindowTableExec::try_new(scan, 1, spec, Arc::new(Schema::new(fields))).unwrap();
    let got = execute(Arc::new(node), vec![vec![rows]]).await;
    assert!(got.len() > 1, "many copies come in several batches");
    let mut seen = vec![0; n as usize];
    for batch in &got {
        let column = |i: usize| batch.column(i).as_primitive::<TimestampMillisecondType>().values().to_vec();
        let (time, start, end, last) = (column(1), column(2), column(3), column(4));
        for row in 0..batch.num_rows() {
            assert!(start[row] <= time[row] && time[row] < end[row] && start[row].rem_euclid(1000) == 0);
            assert_eq!((end[row] - start[row], end[row] - last[row]), (5000, 1));
            let n = batch.column(0).as_primitive::<arrow::datatypes::Int64Type>().value(row);
            seen[n as usize] += 1;
        }
    }
    let expected: Vec<i32> = (0..n).map(|i| if i == 7 { 0 } else { 5 }).collect();
    assert_eq!(seen, expected);
}

#[test]
fn times_of_every_unit_are_rounded_towards_the_past() {
    let seconds = TimestampSecondArray::from(vec![Some(-2), None]);
    assert_eq!(micros(&seconds).unwrap(), Int64Array::from(vec![Some(-2_000_000), None]));
    let nanos = arrow::array::TimestampNanosecondArray::from(vec![-1, 1999]);
    assert_eq!(micros(&nanos).unwrap(), Int64Array::from(vec![-1, 1]));
    assert!(micros(&Int64Array::from(vec![1])).is_err());
    assert_eq!(nanos.null_count(), 0);
}
