//! A case, streamed by the real loop and answered in batch by DataFusion.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use millstream::core::sink::{OutputKind, Sink};
use millstream::core::source::{Limit, SourceTable};
use millstream::io::TableSpec;
use millstream::plan::Compiled;
use millstream::sql::{BuiltIn, Connectors, PlannedQuery, Planner};
use millstream::{Error, Result};

use crate::case::{Input, Life};
use crate::data::{CutTable, Row, SQL, batch};
use crate::queries::Query;
use crate::yardstick::{
    Floats, LIMIT, MemoryDisk, Published, Random, Rows, Run, added_up, batch_answer, compiled, ran,
};

/// What a stream gave.
pub struct Answer {
    pub rows: Rows,
    pub late: u64,
    /// How many rows failed.
    pub rejected: u64,
}

/// The tables `t` and `u`.
#[derive(Clone, Debug)]
struct Tables([CutTable; 2]);

impl Connectors for Tables {
    fn source(&self, table: &TableSpec) -> Result<Arc<dyn SourceTable>> {
        let [t, u] = &self.0;
        Ok(Arc::new(if table.name == "u" { u.clone() } else { t.clone() }))
    }

    fn infer(&self, path: &str, _base_dir: &Path) -> Result<TableSpec> {
        Err(Error::input(format!("there is no {path}")))
    }

    fn sink(&self, table: &TableSpec, query: &str, kind: OutputKind, schema: SchemaRef) -> Result<Box<dyn Sink>> {
        BuiltIn.sink(table, query, kind, schema)
    }
}

/// How the answers of a query are compared.
pub fn floats(query: &Query) -> Floats {
    if query.rounding { Floats::Rounded } else { Floats::Exactly }
}

/// A query that is planned once, over tables whose rows are put there before each run: planning is most of what a case
/// costs.
pub struct Prepared {
    floats: Floats,
    tables: Tables,
    planner: Planner,
    planned: PlannedQuery,
    compiled: Compiled,
}

impl Prepared {
    /// # Errors
    /// Why the query is refused.
    pub async fn new(query: &Query) -> Result<Self> {
        let tables = Tables(query.kinds.map(CutTable::new));
        let mut planner = Planner::new(Arc::new(tables.clone()), ".")?;
        let delay = crate::model::DELAY_MS / 1000;
        let table = |(name, kind): (&str, crate::data::Kind)| {
            let constraint = kind.constraint();
            format!(
                "CREATE TABLE {name} ({SQL}, WATERMARK FOR ts AS ts - INTERVAL '{delay}' SECOND{constraint}) WITH ('connector' = 'cut');"
            )
        };
        let [t, u] = query.kinds;
        let text = format!("{}\n{}\n{};", table(("t", t)), table(("u", u)), query.sql);
        let planned = planner.plan("law", &text)?.queries.pop().ok_or_else(|| Error::bug("the text has a query"))?;
        let compiled = compiled(&planner, &planned).await?;
        Ok(Self { floats: floats(query), tables, planner, planned, compiled })
    }

    fn fill(&self, [t, u]: [&[Vec<Row>]; 2], seed: u64, rows_max: Option<u64>) {
        for (number, (table, rows)) in (0..).zip(self.tables.0.iter().zip([t, u])) {
            let mut content = table.content.lock().unwrap();
            content.partitions = rows.iter().map(|rows| batch(rows, table.kind)).collect();
            content.random = Random::new(seed + number * 1_000_003);
            content.rows_max = rows_max;
        }
    }

    /// The answer over these rows at once.
    pub async fn in_batch(&self, accepted: [&[Vec<Row>]; 2]) -> Result<Rows> {
        self.in_batch_as(accepted, self.floats).await
    }

    /// The same, with floats as they are to be shown.
    pub async fn in_batch_as(&self, accepted: [&[Vec<Row>]; 2], floats: Floats) -> Result<Rows> {
        self.fill(accepted, 0, None);
        batch_answer(&self.planner, &self.planned, floats).await
    }

    /// The answer of the stream: everything it emitted, added up.
    pub async fn streamed(&self, input: &Input, life: &Life) -> Result<Answer> {
        let (disk, published) = (MemoryDisk::default(), Published::default());
        let (mut late, mut rejected) = (0, 0);
        for (number, interruption) in (0..).zip(life.interruptions.iter().copied().map(Some).chain([None])) {
            self.fill([&input.partitions, &input.others], life.seed + number, life.rows_max);
            let mut run = Run::new(&self.planner, &self.planned, Path::new("law"), &published);
            run.disk = Arc::new(disk.clone());
            let compiled = self.compiled.afresh(self.planner.state()).await.map_err(|r| r.at(&self.planned))?;
            run.compiled = Some(compiled);
            run.config.limit = Limit { rows: life.limit, ..LIMIT };
            // A stream that rests waits for company before it commits: here there is none.
            run.config.commit_linger = Duration::ZERO;
            if life.often {
                run.config.checkpoint_work = Duration::ZERO;
            }
            run.fails = true;
            late = ran(&run, interruption).await?;
            if interruption.is_none() {
                rejected = run.accounts()?.iter().map(|a| a.rejected).sum();
            }
        }
        Ok(Answer { rows: added_up(&published, self.floats)?, late, rejected })
    }
}
