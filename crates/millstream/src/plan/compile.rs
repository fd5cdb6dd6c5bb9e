//! A planned query, compiled: the sources it reads, the plan it runs, and what is known of its answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::source_as_provider;
use datafusion::execution::{SessionState, TaskContext};
use datafusion::logical_expr::{LogicalPlan, TableScan};
use datafusion::physical_plan::ExecutionPlan;
use millstream_core::sink::OutputKind;
use millstream_core::source::{Boundedness, Source};

use super::clock::{self, BatchTime};
use super::exactness::{Exactness, exactness};
use super::final_answer::StreamFinal;
use super::guard::{guard, guard_inputs};
use super::incremental::{self, EmitMode};
use super::join::StreamJoin;
use super::late::{self, LateBound};
use super::lifetime::Lifetimes;
use super::nodes::{StreamAggregate, StreamScan, extension};
use super::once::StreamOnce;
use super::over::StreamOver;
use super::physical;
use super::ranking::{self, StreamLimit, StreamRanking};
use super::refuse::Refusal;
use super::rules;
use super::session::StreamSession;
use super::set_op::StreamSetOp;
use super::time_domain::TimeDomain;
use super::upsert::StreamUpsert;
use crate::changelog::is_weighted;
use crate::runner::edge::Edge;
use crate::runner::event_time::EventTime;
use crate::runner::{Input, Side};
use crate::sql::{AsOfTable, Reading, StreamTable, asks_queries, of_optimizer};
use crate::stack::on_large_stack;
use crate::temporal::TemporalJoin;
use crate::window::Dedup;

/// One day: how far ahead of the batch time an event time may be.
const AHEAD_US_MAX: i64 = 86_400_000_000;

/// A query that is ready to run.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The sources, each read once however often the query names it.
    pub inputs: Vec<Input>,
    /// The tables that they are the sources of.
    pub tables: Vec<Arc<StreamTable>>,
    /// The incremental plan, for people.
    pub logical: LogicalPlan,
    /// The plan that runs.
    pub physical: Arc<dyn ExecutionPlan>,
    /// The tables that are read whole, as they are when a batch runs.
    pub sides: Vec<Side>,
    /// How many scans the plan has.
    pub scans: usize,
    /// What the rows of the output mean.
    pub kind: OutputKind,
    /// The columns that are unique among the rows of the answer, where that is known; counted without `op`.
    pub key: Option<Vec<usize>>,
    /// The columns that a sink gets, `op` included where the output is a changelog.
    pub output: SchemaRef,
    /// What `now()` answers.
    pub time: BatchTime,
    /// What moves the frontier.
    pub time_domain: TimeDomain,
    /// What the plan is run with.
    pub context: Arc<TaskContext>,
    /// How the answer compares with the batch answer.
    pub exactness: Exactness,
    /// Whether all sources end.
    pub boundedness: Boundedness,
}

impl Compiled {
    /// The same query once more: its operators remember nothing, as after a restart.
    ///
    /// # Errors
    /// As [`compile`].
    pub async fn afresh(&self, state: &SessionState) -> Result<Self, Refusal> {
        let physical = on_large_stack(|| futures::executor::block_on(physical::plan(&self.logical, state)))?;
        Ok(Self { physical: physical?, ..self.clone() })
    }
}

/// What is asked of a query beside its plan.
#[derive(Debug, Default)]
pub struct Asked {
    /// When it answers.
    pub emit: EmitMode,
    /// How long it remembers.
    pub lifetimes: Lifetimes,
}

impl From<EmitMode> for Asked {
    fn from(emit: EmitMode) -> Self {
        Self { emit, ..Self::default() }
    }
}

/// Compiles a query's plan as it was planned from SQL.
///
/// # Errors
/// A [`Refusal`] where the query has no incremental meaning, or where a source can't be read.
pub async fn compile(plan: LogicalPlan, asked: impl Into<Asked>, state: &SessionState) -> Result<Compiled, Refusal> {
    let asked = asked.into();
    on_large_stack(|| futures::executor::block_on(compile_here(plan, asked, state)))?
}

async fn compile_here(plan: LogicalPlan, asked: Asked, state: &SessionState) -> Result<Compiled, Refusal> {
    let Asked { emit, lifetimes } = asked;
    let time = BatchTime::default();
    let (plan, uses_clock) = clock::bind(plan, &time)?;
    let plan = rules::analyze(ranking::distinct_on_as_rank(plan)?, state)?;
    refuse_early(&plan)?;
    // A table that can't be streamed may still become constant rows: what is wrong with it is said when it has not.
    let named = used_tables(&plan).unwrap_or_default();
    let asks = asks_queries(&plan);
    let plan = guard_inputs(rules::optimize(plan, state).map_err(|e| of_optimizer(e, asks))?)?;
    let forgets = lifetimes.forgets();
    let time_domain = TimeDomain::of(&plan)?;
    let edge = incremental::rewrite(&plan, emit, time_domain, lifetimes)?;
    let plan = guard(rules::prune(edge.plan, state)?)?;
    let bounds = if time_domain == TimeDomain::Event { late::bounds(&plan)? } else { BTreeMap::new() };
    let exactness = exactness(&plan, uses_clock || forgets)?;
    let tables = match used_tables(&plan)? {
        used if used.is_empty() => unread(named),
        used => used,
    };
    let mut inputs = vec![];
    for table in tables.values() {
        inputs.push(table.input(bounds.get(&table.table.name).cloned().unwrap_or_default(), state)?);
    }
    let read: Vec<Arc<StreamTable>> = tables.values().map(|used| Arc::clone(&used.table)).collect();
    if inputs.is_empty() {
        inputs.push(Input::constant());
    }
    let followed = inputs.iter().find(|i| i.source.boundedness() == Boundedness::Followed);
    if let (EmitMode::Final, Some(input)) = (emit, followed) {
        return Err(Refusal::new(
            "FINAL",
            format!("EMIT FINAL answers when the input ends, and {} is followed: it never does", input.edge.source),
            "leave it out and take the changes as they come, group by windows, which are answered when they close, or read \
             a source that ends",
        ));
    }
    let boundedness = if followed.is_some() { Boundedness::Followed } else { Boundedness::Bounded };
    let (logical, scans, sides) = number_scans(tell_apart(plan)?, &tables, &mut inputs)?;
    let physical = physical::plan(&logical, state).await?;
    let kind = if edge.changelog { OutputKind::Changelog } else { OutputKind::Append };
    let output = match kind {
        OutputKind::Append => physical.schema(),
        OutputKind::Changelog => crate::changelog::ops_schema(&physical.schema()),
    };
    let context = Arc::new(TaskContext::from(state));
    let key = edge.key;
    let tables = read;
    Ok(Compiled {
        inputs,
        tables,
        sides,
        logical,
        physical,
        scans,
        kind,
        key,
        output,
        time,
        time_domain,
        context,
        exactness,
        boundedness,
    })
}

/// Refuses what DataFusion's rules would rewrite into something else, or stumble over.
fn refuse_early(plan: &LogicalPlan) -> Result<(), Refusal> {
    let mut refusal = None;
    plan.apply_with_subqueries(|node| {
        refusal = refusal.take().or_else(|| Refusal::of_scalar_subqueries(node));
        Ok(TreeNodeRecursion::Continue)
    })?;
    refusal.map_or(Ok(()), Err)
}

/// A table and which of its columns the query reads, over all its scans.
struct UsedTable {
    table: Arc<StreamTable>,
    columns: BTreeSet<usize>,
}

impl UsedTable {
    fn projection(&self) -> Vec<usize> {
        self.columns.iter().copied().collect()
    }

    fn input(&self, bound: LateBound, state: &SessionState) -> Result<Input, Refusal> {
        let source: Arc<dyn Source> = self.table.source.source(&self.projection()).map_err(Refusal::from)?;
        let event_time = match self.table.event_time() {
            None => None,
            Some(watermark) => {
                let schema = source.schema();
                let columns = DFSchema::try_from(schema.as_ref().clone())?;
                let expr = state.create_physical_expr(watermark.expr.clone(), &columns)?;
                let column = watermark.column.clone();
                Some(EventTime::try_new(column, expr, &schema, watermark.delay_us)?)
            }
        };
        let edge = Edge { source: self.table.name.clone(), event_time, bound, ahead_us_max: AHEAD_US_MAX };
        let idle_timeout = millstream_io::source::idle_timeout(&self.table.spec)?;
        Ok(Input { table: Arc::clone(&self.table.source), source, edge, scans: vec![], idle_timeout })
    }
}

/// The tables of a query whose answer needs no row of them (`WHERE FALSE`): they are counted, and it ends when they do.
fn unread(mut tables: BTreeMap<String, UsedTable>) -> BTreeMap<String, UsedTable> {
    for used in tables.values_mut() {
        used.columns = watermark_columns(&used.table).into_iter().collect();
    }
    tables
}

pub(super) fn stream_table(scan: &TableScan) -> Result<Arc<StreamTable>, Refusal> {
    let provider = source_as_provider(&scan.source)?;
    let Some(table) = (provider.as_ref() as &dyn std::any::Any).downcast_ref::<StreamTable>() else {
        return Err(Refusal::new(
            scan.table_name.table(),
            format!("{} is a table that can't be streamed", scan.table_name),
            "declare it with CREATE TABLE .. WITH ('connector' = ..)",
        ));
    };
    Ok(Arc::new(table.clone()))
}

/// The table of a scan that is read as of a time.
fn as_of_table(scan: &TableScan) -> datafusion::common::Result<Option<AsOfTable>> {
    let provider = source_as_provider(&scan.source)?;
    Ok((provider.as_ref() as &dyn std::any::Any).downcast_ref::<AsOfTable>().cloned())
}

impl Side {
    /// A table that is read whole for a scan; `None` where it is asked by key.
    fn of(table: &AsOfTable, scan: &TableScan, number: usize) -> Option<Self> {
        let Reading::Rows(source) = &table.reading else { return None };
        let schema = source.schema();
        let all: Vec<usize> = (0..table.spec.schema.fields().len()).collect();
        let mut columns = scan.projection.clone().unwrap_or(all);
        let wanted = columns.len();
        let key: Vec<usize> = table.spec.primary_key.iter().filter_map(|name| schema.index_of(name).ok()).collect();
        columns.extend(key.iter().filter(|k| !columns.contains(k)).copied().collect::<Vec<_>>());
        let key = key.iter().filter_map(|k| columns.iter().position(|c| c == k)).collect();
        let weighted = is_weighted(&schema) && !is_weighted(&table.spec.schema);
        columns.extend(weighted.then(|| schema.fields().len().saturating_sub(1)));
        let name = format!("{}#{number}", table.spec.name);
        let rows = Arc::clone(scan.projected_schema.inner());
        Some(Self { name, scan: number, table: Arc::clone(source), columns, key, weighted, wanted, schema: rows })
    }
}

fn used_tables(plan: &LogicalPlan) -> Result<BTreeMap<String, UsedTable>, Refusal> {
    let mut tables: BTreeMap<String, UsedTable> = BTreeMap::new();
    let mut failed = None;
    plan.apply_with_subqueries(|node| {
        if matches!(node, LogicalPlan::Extension(node) if node.node.as_any().is::<StreamOnce>()) {
            return Ok(TreeNodeRecursion::Jump);
        }
        let LogicalPlan::TableScan(scan) = node else { return Ok(TreeNodeRecursion::Continue) };
        if as_of_table(scan)?.is_some() {
            return Ok(TreeNodeRecursion::Continue);
        }
        match stream_table(scan) {
            Err(refusal) => failed = Some(refusal),
            Ok(table) if tables.get(&table.name).is_some_and(|used| used.table.changes() != table.changes()) => {
                failed = Some(Refusal::new(
                    "SYSTEM_TIME",
                    format!("'{}' is read both with all its versions and as it changes", table.name),
                    "declare it a second time under another name, and read each of the two in one way",
                ));
            }
            Ok(table) => {
                let all = 0..table.source.schema().fields().len();
                let of_watermark = watermark_columns(&table);
                let used = tables
                    .entry(table.name.clone())
                    .or_insert_with(|| UsedTable { table, columns: of_watermark.into_iter().collect() });
                match &scan.projection {
                    Some(columns) => used.columns.extend(columns),
                    None => used.columns.extend(all),
                }
            }
        }
        Ok(if failed.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    failed.map_or(Ok(tables), Err)
}

fn watermark_columns(table: &StreamTable) -> Vec<usize> {
    let schema = table.source.schema();
    let Some(watermark) = table.event_time() else { return vec![] };
    watermark.expr.column_refs().iter().filter_map(|c| schema.index_of(&c.name).ok()).collect()
}

/// Gives every scan its number and tells the inputs which scans they feed.
fn number_scans(
    plan: LogicalPlan,
    tables: &BTreeMap<String, UsedTable>,
    inputs: &mut [Input],
) -> Result<(LogicalPlan, usize, Vec<Side>), Refusal> {
    let (mut next, mut sides) = (0, vec![]);
    let numbered = plan.transform_up(|node| {
        let LogicalPlan::TableScan(scan) = &node else { return Ok(Transformed::no(node)) };
        if let Some(table) = as_of_table(scan)? {
            let Some(side) = Side::of(&table, scan, next) else { return Ok(Transformed::no(node)) };
            let node = StreamScan { scan: next, table: table.spec.name, schema: Arc::clone(&scan.projected_schema) };
            sides.push(side);
            next += 1;
            return Ok(Transformed::yes(extension(node)));
        }
        let name = source_as_provider(&scan.source)
            .ok()
            .and_then(|p| (p.as_ref() as &dyn std::any::Any).downcast_ref::<StreamTable>().map(|t| t.name.clone()));
        // The rows of a table function: DataFusion's own.
        let Some(name) = name else { return Ok(Transformed::no(node)) };
        let all: Vec<usize> = (0..scan.source.schema().fields().len()).collect();
        let wanted = scan.projection.as_ref().unwrap_or(&all);
        if let (Some(table), Some(input)) = (tables.get(&name), inputs.iter_mut().find(|i| i.edge.source == name)) {
            let read = table.projection();
            let columns = wanted.iter().filter_map(|c| read.binary_search(c).ok()).collect();
            input.scans.push((next, columns));
        }
        let node = StreamScan { scan: next, table: name, schema: Arc::clone(&scan.projected_schema) };
        next += 1;
        Ok(Transformed::yes(extension(node)))
    })?;
    Ok((numbered.data, next, sides))
}

/// Gives operators that keep the same of the same rows names of their own.
fn tell_apart(plan: LogicalPlan) -> Result<LogicalPlan, Refusal> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let named = plan.transform_up(|node| {
        let LogicalPlan::Extension(inner) = &node else { return Ok(Transformed::no(node)) };
        let node_of = inner.node.as_any();
        let mut own = |name: &str| {
            let count = seen.entry(name.to_string()).or_default();
            *count += 1;
            (*count > 1).then(|| format!("{name}-{count}"))
        };
        let renamed = if let Some(of) = node_of.downcast_ref::<StreamAggregate>() {
            own(&of.name).map(|name| extension(StreamAggregate { name, ..of.clone() }))
        } else if let Some(of) = node_of.downcast_ref::<StreamJoin>() {
            own(&of.name).map(|name| extension(StreamJoin { name, ..of.clone() }))
        } else if let Some(of) = node_of.downcast_ref::<StreamOnce>() {
            own(&of.name).map(|name| extension(StreamOnce { name, ..of.clone() }))
        } else if let Some(of) = node_of.downcast_ref::<StreamOver>() {
            own(&of.name).map(|name| extension(StreamOver { name, ..of.clone() }))
        } else if let Some(of) = node_of.downcast_ref::<StreamRanking>() {
            own(&of.name).map(|name| extension(StreamRanking { name, ..of.clone() }))
        } else if let Some(of) = node_of.downcast_ref::<StreamUpsert>() {
            own(&of.name).map(|name| extension(StreamUpsert { name, ..of.clone() }))
        } else if let Some(of) = node_of.downcast_ref::<StreamLimit>() {
            own(&of.name).map(|name| extension(StreamLimit { name, ..of.clone() }))
        } else if let Some(of) = node_of.downcast_ref::<Dedup>() {
            own(&of.state).map(|state| extension(Dedup { state, ..of.clone() }))
        } else if let Some(of) = node_of.downcast_ref::<StreamSession>() {
            own(&of.name).map(|name| extension(StreamSession { name, ..of.clone() }))
        } else if let Some(of) = node_of.downcast_ref::<StreamSetOp>() {
            own(&of.name).map(|name| extension(StreamSetOp { name, ..of.clone() }))
        } else if let Some(of) = node_of.downcast_ref::<StreamFinal>() {
            own(&of.name).map(|name| extension(StreamFinal { name, ..of.clone() }))
        } else if let Some(of) = node_of.downcast_ref::<TemporalJoin>() {
            own(&of.state).map(|state| extension(TemporalJoin { state, ..of.clone() }))
        } else {
            None
        };
        Ok(renamed.map_or_else(|| Transformed::no(node.clone()), Transformed::yes))
    })?;
    Ok(named.data)
}
