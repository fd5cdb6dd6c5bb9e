//! A case, streamed by the real loop and answered in batch by DataFusion.

use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use millstream::core::sink::{OutputKind, Sink};
use millstream::core::source::SourceTable;
use millstream::io::TableSpec;
use millstream::sql::{BuiltIn, Connectors, PlannedQuery, Planner};
use millstream::{Error, Result};

use crate::Case;
use crate::data::{CutTable, Row, SQL, batch};
use crate::queries::Query;
use crate::yardstick::{Floats, Interruption, Published, Rows, Run, added_up, batch_answer, ran};

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

/// How the answers of a query are compared.
pub fn floats(query: &Query) -> Floats {
    if query.rounding { Floats::Rounded } else { Floats::Exactly }
}

/// The answer over these rows at once.
pub async fn in_batch(query: &Query, accepted: [&[Vec<Row>]; 2]) -> Result<Rows> {
    in_batch_as(query, accepted, floats(query)).await
}

/// The same, with floats as they are to be shown.
pub async fn in_batch_as(query: &Query, accepted: [&[Vec<Row>]; 2], floats: Floats) -> Result<Rows> {
    let (planner, planned) = plan(query, cut(accepted, 0, None))?;
    batch_answer(&planner, &planned, floats).await
}

/// The answer of the stream: everything it emitted, added up.
pub async fn streamed(case: &Case) -> Result<Answer> {
    let dir = tempfile::tempdir().map_err(|e| Error::bug("no temporary directory").caused_by(e))?;
    let published = Published::default();
    let run = async |seed: u64, interruption: Option<Interruption>| {
        let (planner, planned) = plan(&case.query, cut([&case.partitions, &case.others], seed, case.rows_max))?;
        ran(&Run::new(&planner, &planned, dir.path(), &published), interruption).await
    };
    let stop = case.restart_after.map(|batches| Interruption::Stop { batches });
    let mut late = run(case.seed, stop).await?;
    if stop.is_some() {
        late = run(case.seed + 1, None).await?;
    }
    Ok(Answer { rows: added_up(&published, floats(&case.query))?, late })
}
