mod errors;
mod functions;
mod nexmark;
mod queries;
mod run;
mod tables;

use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream_core::Error;
use millstream_core::sink::{OutputKind, Sink};
use millstream_core::source::{Source, SourceTable};
use millstream_io::{Options, TableSpec};

use super::*;

/// Tables that have their columns and no rows.
#[derive(Debug)]
struct Nothing;

#[derive(Debug)]
struct NothingOf(SchemaRef);

impl Connectors for Nothing {
    fn source(&self, table: &TableSpec) -> Result<Arc<dyn SourceTable>> {
        match table.options.get("connector") {
            Some("refused") => Err(Error::config("the option 'path' is missing: add it to WITH (..)")),
            _ => Ok(Arc::new(NothingOf(Arc::clone(&table.schema)))),
        }
    }

    fn infer(&self, path: &str, base_dir: &Path) -> Result<TableSpec> {
        if path.contains("missing") {
            return Err(Error::input(format!("no file matches {path}")));
        }
        let schema = Schema::new(vec![Field::new("line", DataType::Utf8View, true)]);
        Ok(TableSpec {
            name: path.to_string(),
            schema: Arc::new(schema),
            options: Options::default(),
            partitioned_by: vec![],
            primary_key: vec![],
            base_dir: base_dir.to_path_buf(),
        })
    }

    fn sink(&self, table: &TableSpec, query: &str, kind: OutputKind, schema: SchemaRef) -> Result<Box<dyn Sink>> {
        BuiltIn.sink(table, query, kind, schema)
    }
}

impl SourceTable for NothingOf {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0)
    }

    fn source(&self, _projection: &[usize]) -> Result<Arc<dyn Source>> {
        Err(Error::bug("these tables are not read"))
    }
}

/// Card payments with an event time, and a sink for sums.
const PAYMENTS: &str = "
    CREATE TABLE payments (
        card BIGINT,
        amount DECIMAL(10, 2),
        shop ROW<name VARCHAR, city STRING>,
        paid TIMESTAMP(3),
        WATERMARK FOR paid AS paid - INTERVAL '4' SECOND
    ) WITH ('connector' = 'filesystem', 'path' = 'payments.ndjson', 'format' = 'json');
    CREATE TABLE sums (card BIGINT, total DECIMAL(38, 2), until TIMESTAMP(3)) WITH ('connector' = 'blackhole');
";

fn try_plan(text: &str) -> Result<Pipeline> {
    plan_file("q.sql", text, "/data", Arc::new(Nothing))
}

fn plan(text: &str) -> Pipeline {
    try_plan(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// The plan of the last query, after PAYMENTS.
fn query(text: &str) -> PlannedQuery {
    plan(&format!("{PAYMENTS}{text}")).queries.pop().unwrap()
}

/// The error of the text after PAYMENTS, with its lines counted from the text's first.
fn fails(text: &str) -> String {
    let mut planner = Planner::new(Arc::new(Nothing), "/data").unwrap();
    planner.plan("payments.sql", PAYMENTS).unwrap();
    planner.plan("q.sql", text).unwrap_err().to_string()
}
