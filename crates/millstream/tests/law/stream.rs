//! A case, streamed by the real loop and answered in batch by DataFusion.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int64Type, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use futures::StreamExt;
use millstream::batch::answer;
use millstream::changelog::from_ops;
use millstream::core::clock::SystemClock;
use millstream::core::disk::{RealDisk, SharedDisk};
use millstream::core::log::read_status;
use millstream::core::query::{Query as CoreQuery, QueryConfig, QuerySource};
use millstream::core::sink::{Guarantee, Marker, Output, OutputKind, Owner, Permit, Sink};
use millstream::core::source::{Limit, SourceTable};
use millstream::io::TableSpec;
use millstream::pipeline::emit_mode;
use millstream::plan::compile;
use millstream::runner::LocalRunner;
use millstream::sql::{BuiltIn, Connectors, PlannedQuery, Planner};
use millstream::state::StateStore;
use millstream::{Error, Result};

use crate::Case;
use crate::data::{CutTable, Row, SQL, batch};
use crate::model::Rows;
use crate::queries::Query;

/// What a stream gave.
pub struct Answer {
    pub rows: Rows,
    pub late: u64,
}

#[derive(Debug)]
struct Cut {
    /// The partitions of `t`, and those of `u`.
    tables: [Arc<Vec<RecordBatch>>; 2],
    seed: u64,
    rows_max: Option<u64>,
}

impl Connectors for Cut {
    fn source(&self, table: &TableSpec) -> Result<Arc<dyn SourceTable>> {
        let which = usize::from(table.name == "u");
        let (partitions, rows_max) = (Arc::clone(&self.tables[which]), self.rows_max);
        let seed = self.seed + which as u64 * 1_000_003;
        Ok(Arc::new(CutTable { partitions, seed, rows_max }))
    }

    fn infer(&self, path: &str, _base_dir: &Path) -> Result<TableSpec> {
        Err(Error::input(format!("there is no {path}")))
    }

    fn sink(&self, table: &TableSpec, query: &str, kind: OutputKind, schema: SchemaRef) -> Result<Box<dyn Sink>> {
        BuiltIn.sink(table, query, kind, schema)
    }
}

fn plan(query: &Query, cut: Cut) -> Result<(Planner, PlannedQuery)> {
    let mut planner = Planner::new(Arc::new(cut), ".")?;
    let delay = crate::model::DELAY_MS / 1000;
    let table = |name: &str| {
        format!(
            "CREATE TABLE {name} ({SQL}, WATERMARK FOR ts AS ts - INTERVAL '{delay}' SECOND) WITH ('connector' = 'cut');"
        )
    };
    let text = format!("{}\n{}\n{};", table("t"), table("u"), query.sql);
    let planned = planner.plan("law", &text)?.queries.pop().ok_or_else(|| Error::bug("the text has a query"))?;
    Ok((planner, planned))
}

fn cut(tables: [&[Vec<Row>]; 2], seed: u64, rows_max: Option<u64>) -> Cut {
    Cut { tables: tables.map(|t| Arc::new(t.iter().map(|rows| batch(rows)).collect())), seed, rows_max }
}

/// The answer over these rows at once.
pub async fn in_batch(query: &Query, accepted: [&[Vec<Row>]; 2]) -> Result<Rows> {
    let (planner, planned) = plan(query, cut(accepted, 0, None))?;
    batch_answer(&planner, &planned, query.rounding).await
}

/// What DataFusion answers at once.
pub async fn batch_answer(planner: &Planner, planned: &PlannedQuery, rounding: bool) -> Result<Rows> {
    let mut rows = Rows::new();
    let failed = |e| planned.error(&e);
    let mut batches = answer(planned.plan.clone(), planner.state(), &BTreeMap::new()).await.map_err(failed)?;
    while let Some(batch) = batches.next().await {
        add(&mut rows, &batch.map_err(failed)?, rounding, None);
    }
    rows.retain(|_, n| *n != 0);
    Ok(rows)
}

/// The answer of the stream: everything it emitted, added up.
pub async fn streamed(case: &Case) -> Result<Answer> {
    let dir = tempfile::tempdir().map_err(|e| Error::bug("no temporary directory").caused_by(e))?;
    let collected = Arc::new(Mutex::new(Vec::new()));
    let run = async |seed: u64, stop_after: Option<u64>| {
        let (planner, planned) = plan(&case.query, cut([&case.partitions, &case.others], seed, case.rows_max))?;
        run(&planner, &planned, dir.path(), LIMIT, stop_after, &collected).await
    };
    let mut late = run(case.seed, case.restart_after).await?;
    if case.restart_after.is_some() {
        late = run(case.seed + 1, None).await?;
    }
    Ok(Answer { rows: added_up(&collected, case.query.rounding)?, late })
}

/// What was emitted, added up.
pub fn added_up(collected: &Mutex<Vec<Output>>, rounding: bool) -> Result<Rows> {
    let mut rows = Rows::new();
    for output in collected.lock().unwrap().iter() {
        for batch in &output.batches {
            match output.kind {
                OutputKind::Append => add(&mut rows, batch, rounding, None),
                OutputKind::Changelog => {
                    let weighted = from_ops(batch)?;
                    let weight = weighted.column(weighted.num_columns() - 1).clone();
                    let columns: Vec<usize> = (0..weighted.num_columns() - 1).collect();
                    add(&mut rows, &weighted.project(&columns)?, rounding, Some(&weight));
                }
            }
        }
    }
    rows.retain(|_, n| *n != 0);
    Ok(rows)
}

/// What a batch holds, where nothing else says so.
pub const LIMIT: Limit = Limit { rows: 64 << 10, bytes: 64 << 20 };

/// Runs until the input ends, or stops after so many batches; answers how many rows were late so far.
pub async fn run(
    planner: &Planner,
    planned: &PlannedQuery,
    dir: &Path,
    limit: Limit,
    stop_after: Option<u64>,
    collected: &Arc<Mutex<Vec<Output>>>,
) -> Result<u64> {
    let compiled = compile(planned.plan.clone(), emit_mode(planned.emit), planner.state()).await;
    let compiled = compiled.map_err(|r| r.at(planned))?;
    let disk: SharedDisk = Arc::new(RealDisk);
    let states = StateStore::new(Arc::clone(&disk), dir.join("state"));
    let sources = compiled.inputs.iter().map(|i| QuerySource {
        name: i.edge.source.clone(),
        source: Arc::clone(&i.source),
        event_time: i.edge.event_time.is_some(),
    });
    let query = CoreQuery {
        config: QueryConfig { limit, ..QueryConfig::new("law", dir.join("log")) },
        sources: sources.collect(),
        runner: Box::new(LocalRunner::new(&compiled, states)?),
        sink: Box::new(Collect(Arc::clone(collected))),
        disk,
        clock: Arc::new(SystemClock),
    };
    let handle = query.start().await?;
    if let Some(stop_after) = stop_after {
        let mut batches = handle.progress().take(stop_after as usize);
        while batches.next().await.is_some() {}
        handle.stopper().stop();
    }
    handle.wait().await?;
    let status = read_status(&RealDisk, &dir.join("log"))?.ok_or_else(|| Error::bug("the query left a log"))?;
    let totals = status.totals;
    assert!(totals.iter().all(|a| a.balances()), "the account adds up: {totals:?}");
    assert!(totals.iter().all(|a| a.rejected == 0), "no row fails: {totals:?}");
    Ok(totals.iter().map(|a| a.late).sum())
}

/// Keeps every output.
struct Collect(Arc<Mutex<Vec<Output>>>);

#[async_trait]
impl Sink for Collect {
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    async fn open(&mut self, _owner: &Owner) -> Result<Option<Marker>> {
        Ok(None)
    }

    async fn publish(&mut self, _permit: &Permit, output: &Output) -> Result<()> {
        self.0.lock().unwrap().push(output.clone());
        Ok(())
    }
}

/// Adds rows to an answer, each with its weight.
fn add(rows: &mut Rows, batch: &RecordBatch, rounding: bool, weights: Option<&ArrayRef>) {
    let options = FormatOptions::default().with_null("NULL");
    let cells: Vec<_> = batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
    for row in 0..batch.num_rows() {
        let mut line = vec![];
        for (column, cell) in batch.columns().iter().zip(&cells) {
            line.push(match column.data_type() {
                DataType::Float64 if column.is_valid(row) => {
                    let value = column.as_primitive::<Float64Type>().value(row);
                    // The sign of zero is not part of the answer: which zero came first depends on the cut.
                    let value = if value == 0.0 { 0.0 } else { value };
                    // A little aside, so that a sum of halves is not on the edge between two texts.
                    if rounding && value.abs() < 1e9 { format!("{:.7}", value + 3e-9) } else { format!("{value:?}") }
                }
                _ => cell.value(row).to_string(),
            });
        }
        let weight = weights.map_or(1, |w| w.as_primitive::<Int64Type>().value(row));
        *rows.entry(line.join(" | ")).or_default() += weight;
    }
}
