//! The same query as a batch job: what plain DataFusion answers over a source that ends.
//!
//! It is the yardstick of every streamed answer, and what `millstream sql` runs over files.

mod rejected;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::{TableType, provider_as_source, source_as_provider};
use datafusion::execution::context::QueryPlanner;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};
use futures::{StreamExt, TryStreamExt};
use millstream_core::Error;
use millstream_core::batch::{BatchId, PartitionId, Place, Positions};
use millstream_core::clock::{Clock, SystemClock};
use millstream_core::source::{Boundedness, Limit, Source, SourceTable};

pub use rejected::RejectedRows;

use self::rejected::Note;
use crate::changelog::{last_of_keys, net_rows};
use crate::plan::{
    BatchTime, StreamPlanner, arrival_in_batch, bind_clock, distinct_on_as_rank, guard, guard_inputs, temporal_in_batch,
};
use crate::set_op::CountedSetOp;
use crate::sql::{StreamTable, asks_queries, of_optimizer};
use crate::stack::on_large_stack;
use crate::temporal::TemporalJoin;

/// Rows at the most that are read at once.
const LIMIT: Limit = Limit { rows: 65_536, bytes: 16 << 20 };

/// How long, and how often, a source may have nothing before its end.
const IDLE_MAX: Duration = Duration::from_secs(10);
const IDLE_ROUNDS_MAX: u32 = 100;

/// Plans queries for batch: DataFusion's own planner, and our window tables.
#[derive(Debug, Default)]
pub struct BatchPlanner;

#[async_trait]
impl QueryPlanner for BatchPlanner {
    async fn create_physical_plan(&self, plan: &LogicalPlan, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(StreamPlanner)])
            .create_physical_plan(plan, session)
            .await
    }
}

/// How much of a table's source is read, and what of it takes part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Read up to these positions; to the end of the source where it is `None`.
    pub upto: Option<Positions>,
    /// Rows that are left out, by partition and place. Rows that can't be decoded are left out by the source.
    pub skip: BTreeMap<PartitionId, BTreeSet<Place>>,
}

/// The rows of a plan over tables that end; `extents` says by table name how much of them is read.
///
/// # Errors
/// Whatever DataFusion answers, and an error that names a table that is followed without an extent.
pub async fn answer(
    plan: LogicalPlan,
    state: &SessionState,
    extents: &BTreeMap<String, Extent>,
) -> Result<SendableRecordBatchStream> {
    answer_and_note(plan, state, extents, &RejectedRows::default()).await
}

/// The same, and what is left out because it can't be decoded is noted.
///
/// # Errors
/// As [`answer`].
pub async fn answer_and_note(
    plan: LogicalPlan,
    state: &SessionState,
    extents: &BTreeMap<String, Extent>,
    rejected: &RejectedRows,
) -> Result<SendableRecordBatchStream> {
    // The whole job is one batch: its time is when it begins.
    let time = BatchTime::default();
    time.set(BatchId(1), SystemClock.now_us());
    let (plan, _) = bind_clock(plan, &time)?;
    let plan = plan.transform_down_with_subqueries(|node| match &node {
        LogicalPlan::Extension(extension) => match extension.node.as_any().downcast_ref::<TemporalJoin>() {
            Some(join) if join.state.is_empty() => Ok(Transformed::yes(temporal_in_batch(join)?)),
            _ => Ok(Transformed::no(node)),
        },
        _ => Ok(Transformed::no(node)),
    })?;
    let plan = plan.data.transform_up_with_subqueries(|node| {
        if let LogicalPlan::Extension(extension) = &node
            && let Some(counted) = extension.node.as_any().downcast_ref::<CountedSetOp>()
        {
            return Ok(Transformed::yes(counted.in_batch()?));
        }
        let LogicalPlan::TableScan(mut scan) = node else { return Ok(Transformed::no(node)) };
        let provider = source_as_provider(&scan.source)?;
        let Some(table) = (provider.as_ref() as &dyn Any).downcast_ref::<StreamTable>() else {
            return Ok(Transformed::no(LogicalPlan::TableScan(scan)));
        };
        let extent = extents.get(&table.name).cloned().unwrap_or_default();
        let table = BatchTable {
            name: table.name.clone(),
            source: Arc::clone(&table.source),
            schema: provider.schema(),
            extent,
            net: Net::of(table),
            rejected: rejected.clone(),
        };
        scan.source = provider_as_source(Arc::new(table));
        Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
    })?;
    let planned = on_large_stack(|| {
        let plan = arrival_in_batch(distinct_on_as_rank(plan.data)?)?;
        let optimized = state.optimize(&plan).map_err(|e| of_optimizer(e, asks_queries(&plan)))?;
        let plan = guard(guard_inputs(optimized)?)?;
        futures::executor::block_on(BatchPlanner.create_physical_plan(&plan, state))
    });
    let plan = planned.map_err(|e| DataFusionError::External(Box::new(e)))??;
    execute_stream(plan, Arc::new(TaskContext::from(state)))
}

/// A table that is read as a batch.
#[derive(Debug)]
struct BatchTable {
    name: String,
    source: Arc<dyn SourceTable>,
    schema: SchemaRef,
    extent: Extent,
    net: Option<Net>,
    rejected: RejectedRows,
}

/// What is left in the end of a table whose rows change.
#[derive(Clone, Debug)]
struct Net {
    /// The PRIMARY KEY, of which the last row counts. Without one the weights of equal rows add up.
    key: Vec<usize>,
    /// The weight's column in the source, where it has one.
    weight: Option<usize>,
}

impl Net {
    fn of(table: &StreamTable) -> Option<Self> {
        let columns = table.source.schema().fields().len();
        let weight = table.is_changelog().then(|| columns.saturating_sub(1));
        table.changes().then(|| Self { key: table.primary_key(), weight })
    }

    /// The columns to read for these, which come first, and where the key is among them.
    fn read(&self, projection: &[usize]) -> (Vec<usize>, Vec<usize>) {
        let mut read = projection.to_vec();
        read.extend(self.key.iter().filter(|k| !projection.contains(k)));
        let key = self.key.iter().filter_map(|k| read.iter().position(|column| column == k)).collect();
        read.extend(self.weight);
        (read, key)
    }
}

#[async_trait]
impl TableProvider for BatchTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let projection = projection.unwrap_or(&all);
        let (read, key) = self.net.as_ref().map_or_else(|| (projection.to_vec(), vec![]), |net| net.read(projection));
        let source = self.source.source_at_once(&read).map_err(external)?;
        if source.boundedness() == Boundedness::Followed && self.extent.upto.is_none() {
            let name = &self.name;
            return Err(external(Error::query(format!(
                "the table {name} is followed for ever: its answer as a batch would never come"
            ))));
        }
        let schema = Arc::new(self.schema.project(projection)?);
        let net = self.net.as_ref().map(|_| key);
        let (extent, note) = (self.extent.clone(), self.rejected.scan(&self.name));
        let partition = WholeSource { source, schema: Arc::clone(&schema), extent, net, note };
        let partition = Arc::new(partition);
        Ok(Arc::new(StreamingTableExec::try_new(schema, vec![partition], None, vec![], false, None)?))
    }
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

#[derive(Debug)]
struct WholeSource {
    source: Arc<dyn Source>,
    schema: SchemaRef,
    extent: Extent,
    /// Where the table's rows change: where the key is among the columns that are read.
    net: Option<Vec<usize>>,
    note: Note,
}

/// The rows that are left in the end: the first columns of them.
fn net(batches: &[RecordBatch], read: &SchemaRef, key: &[usize], schema: &SchemaRef) -> Result<RecordBatch> {
    let rows = match key {
        [] => net_rows(batches, read).map_err(external)?,
        key => last_of_keys(&concat_batches(read, batches)?, key).map_err(external)?,
    };
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    let columns = rows.columns().iter().take(schema.fields().len()).cloned().collect();
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

impl PartitionStream for WholeSource {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let state = Some(Reading::of(Arc::clone(&self.source), self.note.clone()));
        let (extent, schema) = (Arc::new(self.extent.clone()), Arc::clone(&self.schema));
        let rounds = futures::stream::try_unfold(state, move |state| {
            let extent = Arc::clone(&extent);
            async move {
                let Some(reading) = state else { return Ok(None) };
                next(reading, &extent).await.map_err(external)
            }
        });
        // The declared schema carries metadata that the source knows nothing of.
        let rows = rounds.map_ok(|rows| futures::stream::iter(rows.into_iter().map(Ok::<_, DataFusionError>)));
        let rows = rows.try_flatten();
        if let Some(key) = self.net.clone() {
            let (read, schema) = (self.source.schema(), Arc::clone(&self.schema));
            let rows = futures::stream::once(async move {
                let batches: Vec<RecordBatch> = rows.try_collect().await?;
                net(&batches, &read, &key, &schema)
            });
            return Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows));
        }
        let rows = rows.and_then(move |rows| {
            std::future::ready(rows.with_schema(Arc::clone(&schema)).map_err(DataFusionError::from))
        });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows.boxed()))
    }
}

/// How far a source has been read.
struct Reading {
    source: Arc<dyn Source>,
    positions: Positions,
    partitions: BTreeSet<PartitionId>,
    finished: BTreeSet<PartitionId>,
    closed: bool,
    /// How often it had nothing since it last gave something.
    idle: u32,
    note: Note,
}

impl Reading {
    fn of(source: Arc<dyn Source>, note: Note) -> Self {
        let (partitions, finished) = (BTreeSet::new(), BTreeSet::new());
        Self { source, positions: Positions::new(), partitions, finished, closed: false, idle: 0, note }
    }

    fn done(&self, extent: &Extent) -> bool {
        let read = |id: &PartitionId| self.positions.get(id).map_or(0, |p| p.offset);
        let reached = extent.upto.as_ref().is_some_and(|upto| upto.iter().all(|(id, end)| read(id) >= end.offset));
        reached || (self.closed && self.partitions.is_subset(&self.finished))
    }

    /// Waits until there may be more: a source may take its time, as a generator that gives so many rows a second.
    async fn wait(&mut self) -> millstream_core::Result<()> {
        self.idle += 1;
        let ready = tokio::time::timeout(IDLE_MAX, self.source.ready()).await;
        if ready.is_err() || self.idle > IDLE_ROUNDS_MAX {
            let message =
                "a source has not given the rows that were to be read, and gives no more: bring back what is missing";
            return Err(Error::input(message));
        }
        Ok(())
    }
}

type Round = (Vec<RecordBatch>, Option<Reading>);

/// What a source has past some positions, until it has nothing more.
async fn next(mut reading: Reading, extent: &Extent) -> millstream_core::Result<Option<Round>> {
    let mut rows = vec![];
    let mut progressed = false;
    let offer = reading.source.offer(&reading.positions, LIMIT).await?;
    reading.partitions.extend(offer.partitions);
    reading.finished.extend(offer.finished);
    reading.closed |= offer.closed;
    for mut range in offer.ranges {
        let end = extent.upto.as_ref().map(|upto| upto.get(&range.partition).copied().unwrap_or_default());
        if end.is_some_and(|end| end.offset <= range.start.offset) {
            continue;
        }
        // A range that reaches past the extent is cut there: its end is a place between two rows.
        range.end = end.map_or(range.end, |end| range.end.min(end));
        progressed = true;
        let mut chunks = reading.source.open(&range).await?;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            reading.note.add(&range.partition, &chunk.rejected);
            match extent.skip.get(&range.partition) {
                None => rows.push(chunk.rows),
                Some(skip) => {
                    let keep: Vec<bool> = chunk.places.iter().map(|p| !skip.contains(p)).collect();
                    rows.push(arrow::compute::filter_record_batch(&chunk.rows, &keep.into())?);
                }
            }
        }
        reading.positions.insert(range.partition.clone(), range.end);
    }
    match progressed {
        true => reading.idle = 0,
        false if reading.done(extent) => return Ok(None),
        false => reading.wait().await?,
    }
    Ok(Some((rows, Some(reading))))
}

/// Whether a plan reads a source that is followed for ever.
///
/// # Errors
/// What the source says where it can't be read.
pub fn is_followed(plan: &LogicalPlan) -> millstream_core::Result<bool> {
    let mut sources = vec![];
    let walked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = source_as_provider(&scan.source)
            && let Some(table) = (provider.as_ref() as &dyn Any).downcast_ref::<StreamTable>()
        {
            sources.push(table.source.source(&[]));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.map_err(|e| Error::bug("a plan can't be walked").caused_by(e))?;
    sources
        .into_iter()
        .try_fold(false, |followed, source| Ok(followed || source?.boundedness() == Boundedness::Followed))
}
