//! Tables of files whose offers are cut at random.

use std::path::Path;
use std::sync::{Arc, Mutex};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use millstream::Result;
use millstream::core::batch::{Positions, Range};
use millstream::core::sink::{OutputKind, Sink};
use millstream::core::source::{Boundedness, ChunkStream, Limit, Offer, Source, SourceTable};
use millstream::io::TableSpec;
use millstream::sql::{BuiltIn, Connectors};

use crate::yardstick::Random;

/// The connectors that are built in, with offers of so many rows at the most.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    pub seed: u64,
    pub rows_max: u64,
}

impl Connectors for Cut {
    fn source(&self, table: &TableSpec) -> Result<Arc<dyn SourceTable>> {
        Ok(Arc::new(CutTable { whole: BuiltIn.source(table)?, cut: *self }))
    }

    fn infer(&self, path: &str, base_dir: &Path) -> Result<TableSpec> {
        BuiltIn.infer(path, base_dir)
    }

    fn sink(&self, table: &TableSpec, query: &str, kind: OutputKind, schema: SchemaRef) -> Result<Box<dyn Sink>> {
        BuiltIn.sink(table, query, kind, schema)
    }
}

#[derive(Debug)]
struct CutTable {
    whole: Arc<dyn SourceTable>,
    cut: Cut,
}

impl SourceTable for CutTable {
    fn schema(&self) -> SchemaRef {
        self.whole.schema()
    }

    fn source(&self, projection: &[usize]) -> Result<Arc<dyn Source>> {
        let random = Mutex::new(Random::new(self.cut.seed));
        Ok(Arc::new(CutSource { whole: self.whole.source(projection)?, random, rows_max: self.cut.rows_max }))
    }
}

#[derive(Debug)]
struct CutSource {
    whole: Arc<dyn Source>,
    random: Mutex<Random>,
    rows_max: u64,
}

#[async_trait]
impl Source for CutSource {
    fn schema(&self) -> SchemaRef {
        self.whole.schema()
    }

    fn boundedness(&self) -> Boundedness {
        self.whole.boundedness()
    }

    async fn offer(&self, from: &Positions, limit: Limit) -> Result<Offer> {
        let rows = 1 + self.random.lock().unwrap().below(self.rows_max);
        self.whole.offer(from, Limit { rows: rows.min(limit.rows), ..limit }).await
    }

    async fn open(&self, range: &Range) -> Result<ChunkStream> {
        self.whole.open(range).await
    }

    async fn ready(&self) {
        self.whole.ready().await
    }

    async fn release(&self, below: &Positions) -> Result<()> {
        self.whole.release(below).await
    }
}
