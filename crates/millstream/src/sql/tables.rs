//! What a name stands for once it is found: tables whose rows are streamed, or read as of a time, and plans.
//!
//! DataFusion's planner scans them; it never executes them, the plan room replaces the scan.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::{Result as PlanResult, TableReference, internal_err};
use datafusion::datasource::{TableProvider, TableType};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableSource};
use datafusion::physical_plan::ExecutionPlan;
use millstream_core::source::SourceTable;
use millstream_io::{Options, TableSpec};

use super::catalog::Connectors;
use super::diagnostic::SqlError;
use crate::changelog::{is_weighted, without_weight};

/// The event time of a table.
#[derive(Clone, Debug)]
pub struct Watermark {
    /// The event-time column, physical or computed.
    pub column: String,
    /// How far the watermark stays behind the largest time seen, in microseconds.
    pub delay_us: i64,
    /// The event time of a row, over the table's physical columns.
    pub expr: Expr,
}

/// A table that rows are streamed from, as the planner scans it: its physical columns only.
#[derive(Clone, Debug)]
pub struct StreamTable {
    /// The table's name.
    pub name: String,
    /// As it was declared. The schema's event-time column says that it is one, in its metadata.
    pub spec: TableSpec,
    /// Its event time, where it has one.
    pub watermark: Option<Watermark>,
    /// What rows are read from.
    pub source: Arc<dyn SourceTable>,
}

impl StreamTable {
    /// A stream of the caller's own, without an event time: what a table function can answer with.
    pub fn of(name: &str, source: Arc<dyn SourceTable>) -> Self {
        let spec = TableSpec {
            name: name.to_string(),
            schema: without_weight(&source.schema()),
            options: Options::default(),
            partitioned_by: vec![],
            primary_key: vec![],
            base_dir: PathBuf::new(),
        };
        Self { name: name.to_string(), spec, watermark: None, source }
    }

    /// Whether its rows come and go: its source then has one column more than were declared, the weight.
    pub fn is_changelog(&self) -> bool {
        is_weighted(&self.source.schema()) && !is_weighted(&self.spec.schema)
    }

    /// The columns of its PRIMARY KEY.
    pub fn primary_key(&self) -> Vec<usize> {
        self.spec.primary_key.iter().filter_map(|name| self.source.schema().index_of(name).ok()).collect()
    }

    /// Whether a row can be taken back by a later one.
    pub fn changes(&self) -> bool {
        self.is_changelog() || !self.spec.primary_key.is_empty()
    }

    /// Its event time, where its rows are judged by it. Rows that change are not: no window closes over them, and one
    /// that is taken back may be known by its key alone.
    pub fn event_time(&self) -> Option<&Watermark> {
        self.watermark.as_ref().filter(|_| !self.changes())
    }
}

#[async_trait]
impl TableProvider for StreamTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.spec.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        _projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        internal_err!("the scan of the stream '{}' was not replaced by one that reads batches", self.name)
    }
}

/// A table as the right side of `FOR SYSTEM_TIME AS OF`: it is read as of a time, and not streamed.
#[derive(Clone, Debug)]
pub struct AsOfTable {
    /// As it was declared. The schema's event-time column says that it is one, in its metadata.
    pub spec: TableSpec,
    /// Its event time, where it has one.
    pub watermark: Option<Watermark>,
    /// How it is read.
    pub reading: Reading,
}

/// How a table is read as of a time.
#[derive(Clone, Debug)]
pub enum Reading {
    /// All its rows.
    Rows(Arc<dyn SourceTable>),
    /// By key: these connectors make the table that is asked.
    Keys(Arc<dyn Connectors>),
}

#[async_trait]
impl TableProvider for AsOfTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.spec.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        _projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        internal_err!("the scan of '{}' as of a time was not replaced", self.spec.name)
    }
}

/// A table as CREATE TABLE declares it.
#[derive(Clone, Debug)]
pub struct Declared {
    /// Its physical columns and its options.
    pub spec: TableSpec,
    /// Its event time, where it has one.
    pub watermark: Option<Watermark>,
    /// All columns in their order, computed ones as expressions over the physical ones. Empty where all
    /// columns are physical.
    pub projection: Vec<Expr>,
}

/// What is scanned under this name: the table's physical columns, and the computed ones over them.
pub(super) fn scanned(
    name: &str,
    table: &Declared,
    source: Arc<dyn TableSource>,
) -> Result<Arc<dyn TableSource>, SqlError> {
    if table.projection.is_empty() {
        return Ok(source);
    }
    // As it stands: a name in a string would be made lower-case.
    let plan = LogicalPlanBuilder::scan(TableReference::bare(name), source, None)
        .and_then(|scan| scan.project(table.projection.clone())?.build())
        .map_err(|e| SqlError::from_datafusion(&e, &[]))?;
    Ok(Arc::new(Derived::new(plan)))
}

/// A table that is a plan: a view, or a declared table with computed columns.
pub(super) struct Derived {
    plan: LogicalPlan,
    schema: SchemaRef,
}

impl Derived {
    pub(super) fn new(plan: LogicalPlan) -> Self {
        let schema: &Schema = plan.schema().as_arrow();
        Self { schema: Arc::new(schema.clone()), plan }
    }
}

impl TableSource for Derived {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn get_logical_plan(&self) -> Option<Cow<'_, LogicalPlan>> {
        Some(Cow::Borrowed(&self.plan))
    }
}
