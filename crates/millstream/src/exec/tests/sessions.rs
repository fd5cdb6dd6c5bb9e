//! SESSION, against sessions that are cut from the sorted rows.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::physical_plan::collect;

use super::harness::*;
use crate::changelog;
use crate::exec::{BatchContext, EmitMode, ScanExec, SessionExec, SessionTableExec, Sessions};

const TS: usize = 9;

fn with_bounds() -> SchemaRef {
    let mut fields = schema().fields().to_vec();
    for name in ["window_start", "window_end", "window_time"] {
        fields.push(Arc::new(Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, None), false)));
    }
    Arc::new(Schema::new(fields))
}

fn stream(keys: Vec<usize>, gap_us: i64, emit: EmitMode) -> Stream {
    Stream::new(move || {
        let scan = Arc::new(ScanExec::new(0, schema()));
        let sessions = Sessions { time: TS, keys: keys.clone(), gap_us, lag_us: 0, emit };
        Arc::new(SessionExec::try_new("s", scan, sessions, with_bounds()).unwrap())
    })
}

async fn in_batch(rows: &RecordBatch, keys: Vec<usize>, gap_us: i64) -> Vec<RecordBatch> {
    let scan = Arc::new(ScanExec::new(0, schema()));
    let exec = Arc::new(SessionTableExec::try_new(scan, TS, keys, gap_us, with_bounds()).unwrap());
    let batch = BatchContext { inputs: vec![vec![rows.clone()]], ..Default::default() };
    collect(exec, batch.task_context(&datafusion::prelude::SessionContext::new().task_ctx())).await.unwrap()
}

/// Streams the rows in random cuts, with batches that fail and processes that end.
async fn check(keys: Vec<usize>, gap_us: i64, emit: EmitMode, seed: u64) {
    let mut random = Random(seed);
    let all = rows(&mut random, 120);
    let times = all.column(TS).as_any().downcast_ref::<arrow::array::TimestampMicrosecondArray>().unwrap().clone();
    let mut stream = stream(keys.clone(), gap_us, emit);
    let cuts = cuts(&mut random, all.num_rows());
    let mut output: Vec<RecordBatch> = vec![];
    for cut in cuts.windows(2) {
        let input = chunks(&mut random, &all.slice(cut[0], cut[1] - cut[0]));
        let seen = times.slice(0, cut[1]).iter().flatten().max();
        // Rows are behind by less than the delay: none is at the frontier or before it.
        let frontier = seen.map(|t| t - DELAY - 1);
        output.extend(stream.batch(&mut random, input, frontier).await);
    }
    output.extend(stream.batch(&mut random, vec![], Some(i64::MAX)).await);
    let got = match emit {
        EmitMode::OnClose => lines(&output),
        EmitMode::Changes => {
            let sum = changelog::consolidate(&output, &stream.plan.schema()).unwrap();
            lines(&sum.iter().map(super::keyed::without_weight).collect::<Vec<_>>())
        }
    };
    assert_eq!(got, lines(&in_batch(&all, keys, gap_us).await), "seed {seed}, gap {gap_us}, {emit:?}");
    assert_eq!(stream.state.lock().unwrap().describe().tables[0].rows, 0, "closed sessions are forgotten");
}

#[tokio::test]
async fn sessions_are_those_of_the_sorted_rows_for_any_cut() {
    for seed in 0..12 {
        for emit in [EmitMode::OnClose, EmitMode::Changes] {
            check(vec![], 300_000, emit, seed).await;
            check(vec![1], 2 * SECOND, emit, seed).await;
            check(vec![3, 2], 8 * SECOND, emit, seed).await;
        }
    }
}
