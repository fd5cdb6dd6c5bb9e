//! Runs batches on this machine: read and judge the rows, then run the compiled plan over them.
//!
//! The rows of a batch are read whole before the plan runs (a batch is bounded in rows and bytes), so that
//! the frontier after the batch is known when the operators see its rows, and a window can close in the batch
//! whose rows moved the watermark past it.

mod constant;
pub mod edge;
pub mod event_time;
mod side;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use datafusion::common::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt, stream};
use millstream_core::batch::{Account, BatchId, DropKind, Dropped, PartitionId, Place, Range, SourceIntent};
use millstream_core::query::OnError;
use millstream_core::runner::{Outcome, Runner, RunnerState, Task, UsedRow};
use millstream_core::sink::{Output, OutputKind};
use millstream_core::source::{ChunkStream, Source, SourceTable};
use millstream_core::watermark::END_OF_TIME;
use millstream_core::{Error, ErrorKind, Result};
use millstream_state::StateStore;

use self::edge::{Edge, Gate, Judged, LeftOut, as_json, raw_of};
pub use self::side::Side;
use self::side::Sides;
use crate::changelog;
use crate::exec::{self, Asked, BatchContext};
use crate::plan::{BatchTime, Compiled, TimeDomain};

/// A source of a query, with what its rows are judged by.
#[derive(Clone, Debug)]
pub struct Input {
    /// The table that it reads some columns of.
    pub table: Arc<dyn SourceTable>,
    /// Where the rows come from.
    pub source: Arc<dyn Source>,
    /// What they are judged by.
    pub edge: Edge,
    /// The scans of the plan that read it: the scan's number, and its columns among those that are read.
    pub scans: Vec<(usize, Vec<usize>)>,
    /// After how long a partition that was read to its end no longer holds the watermark back.
    pub idle_timeout: Option<Duration>,
}

impl Input {
    /// Shows all columns of the dropped rows at these places, of which the query reads only some: a row that can't be
    /// seen can't be mended. The range is read once more for it.
    async fn show_whole(
        &self,
        range: &Range,
        places: Vec<Place>,
        dropped: impl Iterator<Item = &mut Dropped>,
    ) -> Result<()> {
        let columns = self.table.schema().fields().len();
        if places.is_empty() || self.source.schema().fields().len() == columns {
            return Ok(());
        }
        let mut rows: BTreeMap<Place, &mut Dropped> =
            dropped.filter(|row| places.contains(&row.place)).map(|row| (row.place, row)).collect();
        let whole = self.table.source(&(0..columns).collect::<Vec<_>>())?;
        let mut chunks = whole.open(range).await?;
        while !rows.is_empty()
            && let Some(chunk) = chunks.try_next().await?
        {
            for (n, place) in chunk.places.iter().enumerate() {
                if let Some(row) = rows.remove(place) {
                    row.raw = as_json(&chunk.rows, n);
                }
            }
        }
        Ok(())
    }

    /// The source in a line, for a person.
    pub fn describe(&self) -> String {
        let columns: Vec<_> = self.source.schema().fields().iter().map(|f| f.name().clone()).collect();
        let event_time = match &self.edge.event_time {
            Some(time) => format!("event time {}, watermark {} ms behind", time.column, time.delay_us / 1000),
            None => "no event time".to_string(),
        };
        let late = match &self.edge.bound {
            bound if bound.is_row_time() => "a row is late when the watermark has passed its time",
            bound if bound.is_some() => "a row is late when its first window has closed",
            _ => "no row is late",
        };
        format!("{}: reads {}; {event_time}; {late}", self.edge.source, columns.join(", "))
    }
}

/// Runs the batches of one compiled query.
pub struct LocalRunner {
    inputs: Vec<Input>,
    plan: Arc<dyn ExecutionPlan>,
    sides: Sides,
    /// What this process was answered in the newest batch.
    asked: (BatchId, Arc<Asked>),
    scans: usize,
    kind: OutputKind,
    key: Option<Vec<usize>>,
    time: BatchTime,
    time_domain: TimeDomain,
    context: Arc<TaskContext>,
    states: StateStore,
    /// Partitions that are read and decoded at once.
    parallelism: usize,
    on_error: OnError,
    /// The columns of the answer that may not be NULL, with their names.
    not_null: Vec<(usize, String)>,
}

/// What was read of all sources.
struct Read {
    rows: Vec<Vec<RecordBatch>>,
    account: Vec<Account>,
    watermarks: BTreeMap<String, BTreeMap<PartitionId, i64>>,
    dropped: Vec<Dropped>,
    /// The row that was asked for with `find`, as it stood.
    found: Option<UsedRow>,
}

/// How many of the used rows are still wanted, and which one is looked for.
struct Wanted {
    left: u64,
    find: Option<u64>,
}

impl LocalRunner {
    /// A runner of a compiled query; its states are kept in `states`.
    ///
    /// # Errors
    /// [`ErrorKind::Bug`] where two operators have one name.
    pub fn new(compiled: &Compiled, mut states: StateStore) -> Result<Self> {
        for (name, state) in exec::states(&compiled.physical) {
            states.register(&name, state)?;
        }
        let sides = Sides::new(compiled.sides.clone());
        if let Some(state) = sides.state() {
            states.register("tables", state)?;
        }
        Ok(Self {
            inputs: compiled.inputs.clone(),
            plan: Arc::clone(&compiled.physical),
            sides,
            asked: Default::default(),
            scans: compiled.scans,
            kind: compiled.kind,
            key: compiled.key.clone(),
            time: compiled.time.clone(),
            time_domain: compiled.time_domain,
            context: Arc::clone(&compiled.context),
            states,
            parallelism: 1,
            on_error: OnError::Reject,
            not_null: vec![],
        })
    }

    /// Reads and decodes so many partitions at once. The rows and their order stay the same.
    pub fn with_parallelism(mut self, parallelism: usize) -> Self {
        self.parallelism = parallelism.max(1);
        self
    }

    /// What is done about a row whose event time can't be computed; it is rejected where nothing is said.
    pub fn with_on_error(mut self, on_error: OnError) -> Self {
        self.on_error = on_error;
        self
    }

    /// A NULL in one of these columns of the answer is an error, like that of an expression that fails.
    pub fn with_not_null(mut self, columns: &[String]) -> Self {
        let schema = self.plan.schema();
        let found = columns.iter().filter_map(|name| Some((schema.index_of(name).ok()?, name.clone())));
        self.not_null = found.collect();
        self
    }

    async fn read(&self, task: Task<'_>, find: Option<u64>) -> Result<Read> {
        let mut read = Read {
            rows: vec![Vec::new(); self.scans],
            account: vec![],
            watermarks: BTreeMap::new(),
            dropped: vec![],
            found: None,
        };
        let mut wanted = Wanted { left: task.rows(), find };
        for part in &task.intent.sources {
            let input = self.inputs.iter().find(|i| i.edge.source == part.source);
            let input = input.ok_or_else(|| {
                Error::bug(format!("the intent names a source {} that the plan has not", part.source))
            })?;
            self.read_source(input, part, task, &mut wanted, &mut read).await?;
        }
        Ok(read)
    }

    async fn read_source(
        &self,
        input: &Input,
        part: &SourceIntent,
        task: Task<'_>,
        wanted: &mut Wanted,
        read: &mut Read,
    ) -> Result<()> {
        let mut account = Account { source: part.source.clone(), ..Account::default() };
        let mut watermarks = BTreeMap::new();
        let ahead = if part.ranges.len() > 1 { self.parallelism } else { 1 };
        // Boxed, so that the futures are of one type whatever they borrow.
        let opening: Vec<BoxFuture<'static, Result<ChunkStream>>> = part
            .ranges
            .iter()
            .map(|range| Box::pin(open(Arc::clone(&input.source), range.clone(), ahead)) as _)
            .collect();
        let mut opened = stream::iter(opening).buffered(ahead);
        for range in &part.ranges {
            account.lost += range.lost;
            let mut gate = Gate {
                edge: &input.edge,
                partition: &range.partition,
                watermark: task.timeline.watermark(&part.source, range.partition.as_str()),
                frontier: task.intent.frontier,
                time_us: task.intent.time_us,
                on_error: self.on_error,
                left_out: LeftOut::of_partition(task.left_out, &part.source, &range.partition),
            };
            let Some(mut chunks) = opened.try_next().await? else { break };
            let (before, mut shown_in_part) = (read.dropped.len(), vec![]);
            // Rows that are not run over still have a say in the event time after the batch.
            while (wanted.left > 0 || !task.time_stands())
                && read.found.is_none()
                && let Some(chunk) = chunks.next().await
            {
                let mut judged = gate.judge(chunk?)?;
                shown_in_part.append(&mut judged.shown_in_part);
                if let Some(place) = keep(judged, &gate, input, wanted, &mut account, read)? {
                    shown_in_part.push(place);
                }
            }
            let found = read.found.as_mut().map(|found| &mut found.row).filter(|row| row.partition == range.partition);
            let dropped = read.dropped.iter_mut().skip(before).chain(found);
            input.show_whole(range, shown_in_part, dropped).await?;
            if let Some(watermark) = gate.watermark {
                watermarks.insert(range.partition.clone(), watermark);
            }
        }
        read.account.push(account);
        read.watermarks.insert(part.source.clone(), watermarks);
        Ok(())
    }

    /// What an INSERT into a table with NOT NULL columns promises of every row.
    fn check_not_null(&self, rows: &[RecordBatch]) -> Result<()> {
        for (column, name) in &self.not_null {
            if rows.iter().any(|rows| rows.columns().get(*column).is_some_and(|c| c.logical_null_count() > 0)) {
                return Err(Error::row(format!(
                    "the column {name} of the answer is NULL, and its table declares it NOT NULL"
                )));
            }
        }
        Ok(())
    }

    /// What the batch was answered: when it was run before, or in this process.
    fn asked(&mut self, task: Task<'_>) -> Result<Arc<Asked>> {
        if let Some(answers) = task.answers {
            return Ok(Arc::new(Asked::recorded(answers)?));
        }
        if self.asked.0 != task.intent.batch {
            self.asked = (task.intent.batch, Arc::default());
        }
        Ok(Arc::clone(&self.asked.1))
    }

    /// The frontier that the operators see: after all rows of the batch.
    fn frontier_after(&self, task: Task<'_>, read: &Read) -> Option<i64> {
        let over_clock = self.time_domain == TimeDomain::Processing;
        if task.time_stands() {
            return if over_clock { None } else { task.intent.frontier };
        }
        let mut after = task.timeline.clone();
        after.advance(task.intent, &read.watermarks);
        match after.frontier() {
            Some(END_OF_TIME) => Some(END_OF_TIME),
            // A row of the next batch may have the same time.
            _ if over_clock => Some(clock_ms(task.intent.time_us).saturating_sub(1)),
            frontier => frontier,
        }
    }

    async fn execute(&self, context: BatchContext) -> Result<Vec<RecordBatch>> {
        let context = context.task_context(&self.context);
        let plan = reset_plan_states(Arc::clone(&self.plan)).map_err(row_error)?;
        let mut output = vec![];
        for partition in 0..plan.properties().output_partitioning().partition_count() {
            let mut stream = plan.execute(partition, Arc::clone(&context)).map_err(row_error)?;
            while let Some(batch) = stream.next().await {
                let batch = batch.map_err(row_error)?;
                if batch.num_rows() > 0 {
                    output.push(batch);
                }
            }
        }
        Ok(output)
    }

    fn output(&self, rows: Vec<RecordBatch>) -> Result<Output> {
        let schema = self.plan.schema();
        if self.kind == OutputKind::Append {
            return Ok(Output { schema, kind: self.kind, batches: rows });
        }
        let rows = changelog::consolidate(&rows, &schema)?;
        let key = self.key.as_deref();
        let batches = rows.iter().map(|r| changelog::to_ops(r, key)).collect::<Result<Vec<_>>>()?;
        Ok(Output { schema: changelog::ops_schema(&schema), kind: self.kind, batches })
    }
}

/// The chunks of a range; where several are read at once, decoded by a task of its own.
async fn open(source: Arc<dyn Source>, range: Range, at_once: usize) -> Result<ChunkStream> {
    if at_once == 1 {
        return source.open(&range).await;
    }
    let chunks = tokio::spawn(async move { source.open(&range).await?.try_collect::<Vec<_>>().await });
    let chunks = chunks.await.map_err(|e| Error::bug("a task that decodes rows died").caused_by(e))??;
    Ok(stream::iter(chunks.into_iter().map(Ok)).boxed())
}

/// Sorts the rows of a judged chunk into the batch, up to as many as are wanted. Answers the place of the row that was
/// asked for, where it was found here and the source has no record of it.
fn keep(
    judged: Judged,
    gate: &Gate<'_>,
    input: &Input,
    wanted: &mut Wanted,
    account: &mut Account,
    read: &mut Read,
) -> Result<Option<Place>> {
    let mut shown_in_part = None;
    let count = judged.rows.num_rows() as u64;
    if let Some(n) = wanted.find {
        if n < count && read.found.is_none() {
            let row = usize::try_from(n).unwrap_or(usize::MAX);
            let place = judged.places.get(row).copied().unwrap_or_default();
            let (source, partition) = (input.edge.source.clone(), gate.partition.clone());
            let raw = raw_of(judged.raw.as_deref(), place).unwrap_or_else(|| {
                shown_in_part = Some(place);
                as_json(&judged.rows, row)
            });
            let (kind, part, reason) = (DropKind::Rejected, judged.part(row), String::new());
            let row = Dropped { kind, source, partition, place, part, reason, raw };
            read.found = Some(UsedRow { row });
        }
        wanted.find = n.checked_sub(count);
    }
    let used = count.min(wanted.left);
    wanted.left -= used;
    let rejected = judged.dropped.iter().filter(|d| d.kind == DropKind::Rejected).count() as u64;
    account.used += used;
    account.rejected += rejected;
    account.late += judged.dropped.len() as u64 - rejected;
    account.read += used + judged.dropped.len() as u64;
    read.dropped.extend(judged.dropped);
    if used > 0 {
        let rows = judged.rows.slice(0, usize::try_from(used).unwrap_or(usize::MAX));
        for (scan, columns) in &input.scans {
            let projected = rows.project(columns)?;
            read.rows.get_mut(*scan).ok_or_else(|| Error::bug("a scan is not in the plan"))?.push(projected);
        }
    }
    Ok(shown_in_part)
}

#[async_trait]
impl Runner for LocalRunner {
    async fn pin(&mut self) -> Result<BTreeMap<String, String>> {
        self.sides.versions()
    }

    fn due_us(&self) -> Option<i64> {
        if self.time_domain == TimeDomain::Event {
            return None;
        }
        // The frontier is behind the clock, which counts in milliseconds.
        let due_us = exec::due_us(&self.plan)?.saturating_add(1);
        Some(clock_ms(due_us.saturating_add(999)))
    }

    async fn run(&mut self, task: Task<'_>) -> Result<Outcome> {
        self.time.set(task.intent.batch, task.intent.time_us);
        let asked = self.asked(task)?;
        let mut read = self.read(task, None).await?;
        let renewed = self.sides.renew(task.intent, &asked, &mut read.rows).await?;
        let frontier = self.frontier_after(task, &read);
        let (batch, time_us, inputs) = (task.intent.batch, task.intent.time_us, read.rows);
        let context = BatchContext { batch, time_us, frontier, inputs, renewed, asked: Arc::clone(&asked) };
        let rows = self.execute(context).await?;
        self.check_not_null(&rows)?;
        let output = self.output(rows)?;
        let answers = asked.to_record()?;
        let Read { account, watermarks, dropped, .. } = read;
        Ok(Outcome { output, account, watermarks, dropped, answers })
    }

    async fn used_row(&mut self, task: Task<'_>, n: u64) -> Result<Option<UsedRow>> {
        Ok(self.read(Task { probe: None, ..task }, Some(n)).await?.found)
    }

    fn install(&mut self) {
        self.states.install_all();
    }

    fn discard(&mut self) {
        self.states.discard_all();
    }

    fn state(&mut self) -> Option<&mut dyn RunnerState> {
        Some(self)
    }
}

#[async_trait]
impl RunnerState for LocalRunner {
    fn checkpoint(&mut self, batch: BatchId) -> Result<BoxFuture<'static, Result<String>>> {
        self.states.checkpoint(batch)
    }

    async fn restore(&mut self, manifest: &str) -> Result<()> {
        self.states.restore(manifest)
    }

    fn retain(&mut self, manifests: &[String]) -> Result<()> {
        self.states.retain(manifests)
    }
}

/// The time of a batch as PROCTIME() answers it: whole milliseconds, in microseconds.
fn clock_ms(time_us: i64) -> i64 {
    time_us.saturating_sub(time_us.rem_euclid(1000))
}

/// What an error of the plan means: mostly that an expression fails on a row.
pub fn row_error(error: DataFusionError) -> Error {
    let kind = match error.find_root() {
        DataFusionError::Internal(_) | DataFusionError::SchemaError(..) | DataFusionError::Plan(_) => ErrorKind::Bug,
        DataFusionError::ResourcesExhausted(_) => ErrorKind::Config,
        DataFusionError::External(inner) => match inner.downcast_ref::<Error>() {
            // It says itself what happened.
            Some(inner) => return Error::new(inner.kind(), inner.to_string()),
            None => ErrorKind::Row,
        },
        _ => ErrorKind::Row,
    };
    Error::new(kind, error.strip_backtrace())
}
