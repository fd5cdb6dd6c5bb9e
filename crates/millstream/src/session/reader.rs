//! A table by its options: `read_stream().format("json").option("path", "logs/*.ndjson").load()`.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::TableReference;
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::LogicalPlanBuilder;
use millstream_core::{Error, Result};
use millstream_io::TableSpec;

use super::stream_table;
use crate::frame::{Room, StreamFrame, connector_of, of_datafusion};

/// Describes a table to be read; [`StreamReader::load`] opens it.
///
/// ```
/// use millstream::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("logs.ndjson");
/// # std::fs::write(&path, "{\"level\": \"warn\"}\n{\"level\": \"info\"}\n").unwrap();
/// let session = Session::new()?;
/// let logs = session.read_stream().name("logs").format("json").option("path", path.to_string_lossy()).load()?;
/// let warnings = logs.filter(col("level").eq(lit("warn")))?;
/// assert_eq!(warnings.collect().await?.iter().map(|rows| rows.num_rows()).sum::<usize>(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct StreamReader {
    room: Room,
    name: Option<String>,
    format: Option<String>,
    options: Vec<(String, String)>,
    schema: Option<SchemaRef>,
}

impl StreamReader {
    pub(super) fn new(room: Room) -> Self {
        Self { room, name: None, format: None, options: vec![], schema: None }
    }

    /// `json`, `csv`, `parquet` or `avro` for files, else the name of a connector: `datagen`, `nexmark`.
    pub fn format(mut self, format: impl Into<String>) -> Self {
        self.format = Some(format.into());
        self
    }

    /// An option of the connector or the format, as in WITH of CREATE TABLE.
    pub fn option(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.push((name.into(), value.into()));
        self
    }

    /// The columns. Files that have none declared get those that they seem to have.
    pub fn schema(mut self, schema: SchemaRef) -> Self {
        self.schema = Some(schema);
        self
    }

    /// What the table is called in plans, in the account and in the log; the format where it is not given. Two
    /// tables of one query have different names.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Opens the table.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where the format or the columns are missing, or the connector doesn't
    /// know an option; [`millstream_core::ErrorKind::Input`] where there are no files to tell the columns from.
    pub fn load(self) -> Result<StreamFrame> {
        let Some(format) = &self.format else {
            return Err(Error::config("nothing says what is read: call format(\"json\"), or that of a connector"));
        };
        let name = self.name.clone().unwrap_or_else(|| format.clone());
        let options = connector_of(format).into_iter().chain(self.options.clone()).collect();
        let schema = match &self.schema {
            Some(schema) => Arc::clone(schema),
            None => self.inferred()?,
        };
        let base_dir = self.room.base_dir.clone();
        let spec = TableSpec {
            name: name.clone(),
            schema,
            options,
            partitioned_by: vec![],
            primary_key: vec![],
            base_dir: base_dir.clone(),
        };
        let source = self.room.connectors.source(&spec)?;
        let table = stream_table(&name, source, spec.options, base_dir);
        let scan = LogicalPlanBuilder::scan(TableReference::bare(name), provider_as_source(Arc::new(table)), None);
        let plan = scan.and_then(|scan| scan.build()).map_err(of_datafusion)?;
        Ok(StreamFrame::new(plan, self.room))
    }

    fn inferred(&self) -> Result<SchemaRef> {
        match self.options.iter().find(|(name, _)| name == "path") {
            Some((_, path)) => Ok(self.room.connectors.infer(path, &self.room.base_dir)?.schema),
            None => Err(Error::config(
                "the columns are not known: call schema(..), or give files with option(\"path\", ..)",
            )),
        }
    }
}
