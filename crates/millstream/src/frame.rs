//! A table that may never end, and what is computed from it: a DataFrame in DataFusion's manner.
//!
//! A [`StreamFrame`] is a plan and nothing more. The same frame is answered once over input that ends
//! ([`StreamFrame::collect`]), or streamed into a sink, batch by batch, exactly once
//! ([`StreamFrame::write_stream`]); both give the same answer. Expressions are DataFusion's.

mod as_of;
mod event_time;
mod writer;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::{Column, DataFusionError};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, LogicalPlanBuilder};
use futures::TryStreamExt;
use millstream_core::{Error, Result};

pub use as_of::TableAsOf;
pub use event_time::with_event_time;
pub use millstream_core::query::QueryHandle as StreamHandle;
pub use writer::StreamWriter;

use crate::batch::answer;
use crate::pipeline::emit_mode;
use crate::plan::{Asked, Compiled, EmitMode, Lifetimes, Refusal, compile, describe_nodes, describe_state};
use crate::sql::{Connectors, PlannedQuery, SqlError};
use crate::window::{Dedup, WindowKind, WindowSpec, WindowTable, is_event_time, micros_from, micros_to};

/// What a frame was made in: the session's functions, its connectors, and what relative paths are relative to.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    pub(crate) state: Arc<SessionState>,
    pub(crate) connectors: Arc<dyn Connectors>,
    pub(crate) base_dir: PathBuf,
}

/// A table that may never end. Cheap to clone; each method gives a new frame.
///
/// ```
/// use millstream::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let session = Session::new()?;
/// session.sql("CREATE TABLE bids (item BIGINT, price BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '100',
///              'fields.item.min' = '1', 'fields.item.max' = '2', 'fields.price.kind' = 'sequence', 'fields.price.start' = '1')")?;
/// let highest = session
///     .table("bids")?
///     .filter(col("price").lt_eq(lit(50)))?
///     .with_column("cents", col("price") * lit(100))?
///     .aggregate([], [max(col("cents")).alias("highest"), count(lit(1)).alias("bids")])?;
/// assert!(highest.explain().await?.contains("one row, for ever")); // what a stream would keep
/// let rows = highest.collect().await?; // the generated table ends
/// assert!(format!("{rows:?}").contains("5000"), "{rows:?}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct StreamFrame {
    plan: LogicalPlan,
    room: Room,
    emit: EmitMode,
    /// The SQL that the plan was written as, as long as it is that plan.
    /// How long keys are remembered that nothing touches; `None` for ever.
    state_ttl_us: Option<i64>,
    query: Option<Arc<PlannedQuery>>,
}

/// A column by its name, which keeps its case; `table.column` where two tables have it.
///
/// DataFusion's own `col` makes names lower-case unless they are quoted.
pub fn col(name: impl Into<String>) -> Expr {
    Expr::Column(Column::from_qualified_name_ignore_case(name))
}

/// Windows of this size, one after the other. Lengths of windows are cut to whole microseconds.
pub fn tumble(size: Duration) -> WindowSpec {
    WindowSpec::tumble(micros(size))
}

/// A window of `size` that begins every `slide`, at most the size.
pub fn hop(slide: Duration, size: Duration) -> WindowSpec {
    WindowSpec::hop(micros(slide), micros(size))
}

/// Windows that share their start and end every `step`, up to `size`, a multiple of the step.
pub fn cumulate(step: Duration, size: Duration) -> WindowSpec {
    WindowSpec::cumulate(micros(step), micros(size))
}

fn micros(length: Duration) -> i64 {
    i64::try_from(length.as_micros()).unwrap_or(i64::MAX)
}

impl StreamFrame {
    pub(crate) fn new(plan: LogicalPlan, room: Room) -> Self {
        Self { plan, room, emit: EmitMode::Default, state_ttl_us: None, query: None }
    }

    pub(crate) fn of_query(query: PlannedQuery, room: Room) -> Self {
        let (plan, emit, state_ttl_us) = (query.plan.clone(), emit_mode(query.emit), query.settings.state_ttl_us());
        Self { plan, room, emit, state_ttl_us, query: Some(Arc::new(query)) }
    }

    /// The columns. That of an event time says so in its metadata.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(self.plan.schema().inner())
    }

    /// The plan, neither analyzed nor optimized.
    pub fn logical_plan(&self) -> &LogicalPlan {
        &self.plan
    }

    fn then<E>(self, step: impl FnOnce(LogicalPlanBuilder) -> Result<LogicalPlanBuilder, E>) -> Result<Self>
    where
        E: Into<DataFusionError>,
    {
        let plan = step(LogicalPlanBuilder::from(self.plan)).map_err(Into::into).and_then(LogicalPlanBuilder::build);
        Ok(Self { plan: plan.map_err(of_datafusion)?, query: None, ..self })
    }

    /// These expressions of each row.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] where a column is not there or types don't fit; so do all methods here.
    pub fn select(self, columns: impl IntoIterator<Item = Expr>) -> Result<Self> {
        let columns: Vec<Expr> = columns.into_iter().collect();
        self.then(|plan| plan.project(columns))
    }

    /// The rows for which this is true.
    ///
    /// # Errors
    /// As [`StreamFrame::select`].
    pub fn filter(self, predicate: Expr) -> Result<Self> {
        self.then(|plan| plan.filter(predicate))
    }

    /// All columns and one more; in the place of the one that has its name, where there is one.
    ///
    /// # Errors
    /// As [`StreamFrame::select`].
    pub fn with_column(self, name: &str, value: Expr) -> Result<Self> {
        let mut replaced = false;
        let columns = self.plan.schema().iter().map(|(table, field)| {
            let replace = field.name() == name;
            replaced |= replace;
            if replace { value.clone().alias(name) } else { Expr::Column(Column::from((table, field))) }
        });
        let mut columns: Vec<Expr> = columns.collect();
        if !replaced {
            columns.push(value.alias(name));
        }
        self.then(|plan| plan.project(columns))
    }

    /// The same rows as a table of this name: its columns are `name.column`.
    ///
    /// # Errors
    /// As [`StreamFrame::select`].
    pub fn alias(self, name: &str) -> Result<Self> {
        self.then(|plan| plan.alias(datafusion::common::TableReference::bare(name)))
    }

    /// The rows of both; the columns are matched by their place.
    ///
    /// # Errors
    /// As [`StreamFrame::select`], and where the numbers of columns differ.
    pub fn union(self, other: Self) -> Result<Self> {
        self.then(|plan| plan.union(other.plan))
    }

    /// Each row once, however often it comes.
    ///
    /// # Errors
    /// As [`StreamFrame::select`].
    pub fn distinct(self) -> Result<Self> {
        self.then(LogicalPlanBuilder::distinct)
    }

    /// Makes a column the event time, with a watermark this far behind the latest one: a row that comes after the
    /// watermark closed its window is late and goes to `<query>$late`.
    ///
    /// The watermark belongs to the table that is read and sees all its rows, those too that the frame filters out.
    /// The column is one of that table, or computed from a row of it.
    ///
    /// ```
    /// # use millstream::prelude::*;
    /// use millstream::datafusion::prelude::to_timestamp_millis;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// # let session = Session::new()?;
    /// # session.sql("CREATE TABLE logins (ms BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '30',
    /// #              'fields.ms.kind' = 'sequence', 'fields.ms.start' = '1')")?;
    /// let logins = session.table("logins")?.with_column("at", to_timestamp_millis(vec![col("ms")]))?;
    /// let timed = logins.with_watermark("at", Duration::from_secs(5))?;
    /// let counts = timed
    ///     .window("at", hop(Duration::from_millis(5), Duration::from_millis(10)))?
    ///     .aggregate([col("window_start"), col("window_end")], [count(lit(1)).alias("logins")])?;
    /// # let windows: usize = counts.collect().await?.iter().map(|rows| rows.num_rows()).sum();
    /// # assert_eq!(windows, 8);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] where the column is no timestamp, comes from an aggregate or from several
    /// tables, or the table has a watermark already.
    pub fn with_watermark(self, column: &str, delay: Duration) -> Result<Self> {
        let index = self.column(column)?;
        let plan = event_time::with_watermark(self.plan, index, delay)?;
        Ok(Self { plan, query: None, ..self })
    }

    /// Puts each row into its windows by its event time `time`: a row for each window, with three more columns of
    /// the time's type: `window_start`, `window_end` (exclusive) and `window_time`, the event time of what is
    /// computed from the window.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] where the column is no event time, or a length doesn't fit.
    pub fn window(self, time: &str, windows: WindowSpec) -> Result<Self> {
        let windows = windows.checked()?;
        let (table, field) = self.plan.schema().qualified_field(self.column(time)?);
        if !is_event_time(field) {
            return Err(Error::query(format!(
                "'{time}' is no event time, so that no window over it would ever close: call with_watermark(\"{time}\", ..) \
                 first, and pass the column on unchanged"
            )));
        }
        if let DataType::Timestamp(unit, _) = field.data_type()
            && let Some(us) = lengths(windows).into_iter().find(|us| micros_from(micros_to(*us, *unit), *unit) != *us)
        {
            let length = crate::window::Length(us);
            return Err(Error::query(format!(
                "{length} is finer than the column '{time}', which counts in {unit:?}s: cast it to a finer timestamp first"
            )));
        }
        let time = Column::from((table, field));
        let node = WindowTable::try_new(self.plan, time, windows).map_err(of_datafusion)?;
        let plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
        Ok(Self { plan, query: None, ..self })
    }

    /// Leaves out the rows that repeat an earlier one: producers that send again, say, with a UUID in each event.
    ///
    /// The rows are taken in the order of their event time `time`. A row is passed on unless one with the same `keys`
    /// came at most `horizon` before it. A stream passes a row on when the watermark is past it, and remembers a key
    /// until the watermark is the horizon past its last row; rows that come behind the watermark are late.
    ///
    /// ```
    /// # use millstream::prelude::*;
    /// use millstream::datafusion::prelude::to_timestamp_millis;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// # let session = Session::new()?;
    /// # session.sql("CREATE TABLE events (ms BIGINT, id BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '30',
    /// #              'fields.ms.kind' = 'sequence', 'fields.ms.start' = '1', 'fields.id.min' = '7', 'fields.id.max' = '7')")?;
    /// let events = session.table("events")?.with_column("at", to_timestamp_millis(vec![col("ms")]))?;
    /// let once = events.with_watermark("at", Duration::from_secs(5))?.dedup(&["id"], "at", Duration::from_secs(60))?;
    /// # assert_eq!(once.collect().await?.iter().map(|rows| rows.num_rows()).sum::<usize>(), 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] where a column is not there, or `time` is no event time.
    pub fn dedup(self, keys: &[&str], time: &str, horizon: Duration) -> Result<Self> {
        let at = |name: &str| Ok(Column::from(self.plan.schema().qualified_field(self.column(name)?)));
        let columns = keys.iter().map(|key| at(key)).collect::<Result<Vec<_>>>()?;
        let time = at(time)?;
        let node = Dedup::try_new(self.plan, columns, time, micros(horizon)).map_err(of_datafusion)?;
        let plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
        Ok(Self { plan, query: None, ..self })
    }

    /// A row for each group. Groups with `window_start` and `window_end` among them are answered once, when the
    /// watermark closes the window; others whenever they change, as a changelog.
    ///
    /// # Errors
    /// As [`StreamFrame::select`].
    pub fn aggregate(
        self,
        groups: impl IntoIterator<Item = Expr>,
        aggregates: impl IntoIterator<Item = Expr>,
    ) -> Result<Self> {
        let groups: Vec<Expr> = groups.into_iter().collect();
        let aggregates: Vec<Expr> = aggregates.into_iter().collect();
        self.then(|plan| plan.aggregate(groups, aggregates))
    }

    /// When windows are answered: on close, or as they change.
    pub fn emit(self, emit: EmitMode) -> Self {
        Self { emit, ..self }
    }

    /// The plan as it would be streamed, what it keeps as state, and how its answer compares with that of
    /// [`StreamFrame::collect`].
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] where it can't be streamed, with the reason and what works.
    pub async fn explain(&self) -> Result<String> {
        let compiled = self.compile().await?;
        let state = describe_state(&compiled).join("\n       ");
        let nodes = describe_nodes(&compiled).join("\n");
        Ok(format!("{nodes}\nstate: {state}\nanswer: {}", compiled.exactness))
    }

    /// All rows of the answer, as a batch job over tables that end: what the stream has answered when they have
    /// ended, without late rows being left out. Nothing is remembered.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] where a table is followed for ever; what the source says where it can't
    /// be read.
    pub async fn collect(&self) -> Result<Vec<RecordBatch>> {
        let rows = answer(self.plan.clone(), &self.room.state, &BTreeMap::new()).await;
        let rows = rows.map_err(|e| self.placed(&e))?;
        rows.try_collect().await.map_err(|e| self.placed(&e))
    }

    /// Forgets what it keeps of a key (of a GROUP BY, a join, a ranking, an upsert, a set operation) that no row has
    /// touched for so long, by the time of the batches: the key then begins anew, and nothing is taken back. As `SET
    /// 'state.ttl'`. The answer depends on the cut into batches then.
    pub fn state_ttl(mut self, ttl: std::time::Duration) -> Self {
        self.state_ttl_us = i64::try_from(ttl.as_micros()).ok().filter(|us| *us > 0);
        self
    }

    /// Streams the answer into a sink: say which, then [`StreamWriter::start`].
    pub fn write_stream(&self) -> StreamWriter {
        StreamWriter::new(self.clone())
    }

    /// What runs.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] where it can't be streamed.
    pub async fn compile(&self) -> Result<Compiled> {
        event_time::check_tables(&self.plan)?;
        compile(self.plan.clone(), self.asked(), &self.room.state).await.map_err(|refusal| {
            match (&self.query, refusal) {
                (Some(query), refusal) => refusal.at(query),
                (None, Refusal::Construct { reason, instead, .. }) => Error::query(format!("{reason}; {instead}")),
                (None, Refusal::Hint { message, .. }) => Error::query(message),
                (None, Refusal::Plan(error)) => of_datafusion(*error),
                (None, Refusal::Source(error)) => error,
                (None, Refusal::Bug(message)) => Error::bug(format!("{message}; this is a fault of millstream's own")),
            }
        })
    }

    fn asked(&self) -> Asked {
        let hints = self.query.as_ref().map(|query| query.hints.clone()).unwrap_or_default();
        Asked { emit: self.emit, lifetimes: Lifetimes::new(self.state_ttl_us, hints) }
    }

    fn placed(&self, error: &DataFusionError) -> Error {
        match &self.query {
            Some(query) => query.error(error),
            None => readable(error),
        }
    }

    /// The index of a column by its bare name.
    fn column(&self, name: &str) -> Result<usize> {
        let schema = self.plan.schema();
        let mut found = schema.fields().iter().enumerate().filter(|(_, f)| f.name() == name);
        match (found.next(), found.next()) {
            (Some((index, _)), None) => Ok(index),
            (Some(_), Some(_)) => {
                Err(Error::query(format!("there are several columns '{name}': select one of them first")))
            }
            (None, _) => {
                let names: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                Err(Error::query(format!("there is no column '{name}'; there are {}", names.join(", "))))
            }
        }
    }
}

fn lengths(windows: WindowSpec) -> [i64; 3] {
    let (step, size) = match windows.kind {
        WindowKind::Tumble { size_us } => (size_us, size_us),
        WindowKind::Hop { slide_us, size_us } => (slide_us, size_us),
        WindowKind::Cumulate { step_us, size_us } => (step_us, size_us),
        WindowKind::Session { gap_us } => (gap_us, gap_us),
    };
    [step, size, windows.offset_us]
}

/// DataFusion's error, or ours that it carries, in our words.
fn readable(error: &DataFusionError) -> Error {
    let SqlError { message, kind, .. } = SqlError::from_datafusion(error, &[]);
    Error::new(kind, message)
}

/// As [`readable`], for `map_err`.
pub(crate) fn of_datafusion(error: DataFusionError) -> Error {
    readable(&error)
}

/// The options that a format stands for.
pub(crate) fn connector_of(format: &str) -> Vec<(String, String)> {
    let option = |name: &str, value: &str| (name.to_string(), value.to_string());
    match format {
        "json" | "csv" | "parquet" | "avro" => vec![option("connector", "filesystem"), option("format", format)],
        connector => vec![option("connector", connector)],
    }
}
