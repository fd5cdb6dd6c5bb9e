//! Tables whose rows change: what a scan of one is in a stream.
//!
//! A changelog without a PRIMARY KEY is taken as it is: its source says which rows come and which go. A table with a
//! PRIMARY KEY becomes a [`StreamUpsert`], which keeps the last row of each key, so that a change that is told twice,
//! or that has no old row, is still the one change that it is. Of each row only what the query reads is kept, and the
//! key.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::{Column, DFSchema, DFSchemaRef, Result, internal_err};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{
    Expr, LogicalPlan, Projection, TableScan, TableScanBuilder, UserDefinedLogicalNodeCore,
};

use super::incremental::{ColumnFact, Edge, Rewritten};
use super::lifetime::named;
use super::nodes::extension;
use super::refuse::Refusal;
use crate::changelog::WEIGHT;
use crate::exec::Lifetime;
use crate::sql::StreamTable;

/// The scan of a table whose rows change.
pub(super) fn rewrite(scan: &TableScan, table: &StreamTable, lifetime: Lifetime) -> Rewritten {
    if !scan.filters.is_empty() || scan.fetch.is_some() {
        return Err(Refusal::bug(format!("the scan of {} filters rows before it knows the last ones", table.name)));
    }
    let all: Vec<usize> = (0..scan.source.schema().fields().len()).collect();
    let wanted = scan.projection.as_ref().unwrap_or(&all);
    let key = table.primary_key();
    let mut read = wanted.clone();
    read.extend(key.iter().filter(|k| !wanted.contains(k)));
    let rows = read.len();
    if table.is_changelog() {
        read.push(table.source.schema().fields().len().saturating_sub(1));
    }
    // As the source has it: with the weight, and with NULLs in rows of which only the key is known.
    let mut whole = table.clone();
    whole.spec.schema = table.source.schema();
    let scanned = provider_as_source(Arc::new(whole));
    let builder = TableScanBuilder::new(scan.table_name.clone(), scanned);
    let plan = LogicalPlan::TableScan(builder.with_projection(Some(read.clone())).build()?);
    if key.is_empty() {
        let facts = vec![ColumnFact::Plain; rows + 1];
        return Ok(Edge { plan, changelog: true, key: None, facts, lag_us: None });
    }
    let position = |k: &usize| read.iter().position(|column| column == k);
    let keys = key.iter().map(position).collect::<Option<Vec<_>>>();
    let keys = keys.ok_or_else(|| Refusal::bug(format!("the key of {} is not read", table.name)))?;
    let declared = scan.source.schema();
    let fields = read.iter().take(rows).map(|c| (Some(scan.table_name.clone()), Arc::new(declared.field(*c).clone())));
    let weight = (None, Arc::new(Field::new(WEIGHT, DataType::Int64, false)));
    let schema = DFSchema::new_with_metadata(fields.chain([weight]).collect(), declared.metadata().clone())?;
    let upsert = StreamUpsert::new(plan, table.name.clone(), keys.clone(), Arc::new(schema), lifetime);
    let mut plan = extension(upsert);
    if rows > wanted.len() {
        let columns = (0..wanted.len()).chain([rows]);
        let exprs = columns.map(|c| Expr::Column(Column::from(plan.schema().qualified_field(c)))).collect();
        plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan))?);
    }
    let key = Some(keys).filter(|keys| keys.iter().all(|k| *k < wanted.len()));
    Ok(Edge { plan, changelog: true, key, facts: vec![ColumnFact::Plain; wanted.len() + 1], lag_us: None })
}

/// The last row of each key of a table. Its output is the columns of the rows and the weight.
#[derive(Clone, Debug)]
pub struct StreamUpsert {
    /// The rows as they are read, with a weight where some of them go.
    pub input: LogicalPlan,
    /// The table's name.
    pub table: String,
    /// The columns of the key.
    pub keys: Vec<usize>,
    /// The columns of the output.
    pub schema: DFSchemaRef,
    /// How long a key is remembered.
    pub lifetime: Lifetime,
    /// What the state is called.
    pub name: String,
}

impl StreamUpsert {
    fn new(input: LogicalPlan, table: String, keys: Vec<usize>, schema: DFSchemaRef, lifetime: Lifetime) -> Self {
        let columns: Vec<String> = schema.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
        let text = format!("{table}|{keys:?}|{}", columns.join(","));
        let name = format!("upsert-{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()));
        Self { input, table, keys, schema, lifetime, name: named(name, lifetime) }
    }

    /// The names of the key's columns.
    pub fn key_names(&self) -> Vec<&str> {
        self.keys.iter().filter_map(|k| self.schema.fields().get(*k)).map(|f| f.name().as_str()).collect()
    }

    fn identity(&self) -> (&LogicalPlan, &Vec<usize>, &String) {
        (&self.input, &self.keys, &self.name)
    }
}

impl PartialEq for StreamUpsert {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for StreamUpsert {}

impl PartialOrd for StreamUpsert {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.name.partial_cmp(&other.name)
    }
}

impl Hash for StreamUpsert {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl UserDefinedLogicalNodeCore for StreamUpsert {
    fn name(&self) -> &str {
        "StreamUpsert"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![]
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "StreamUpsert: {} by ({}), state={}", self.table, self.key_names().join(", "), self.name)
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        match inputs.pop() {
            Some(input) => Ok(Self { input, ..self.clone() }),
            None => internal_err!("upserts have one input"),
        }
    }

    fn necessary_children_exprs(&self, _output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![(0..self.input.schema().fields().len()).collect()])
    }
}
