//! What a program begins with: tables, functions, and the frames over them.
//!
//! A [`Session`] is to streams what DataFusion's `SessionContext` is to batches. It knows tables (declared in SQL,
//! or sources of the program's own), views and functions, and answers [`StreamFrame`]s over them. It runs nothing
//! by itself: a frame does, when it is collected or when its stream is started.
//!
//! Names keep their case, in SQL and in frames.

mod reader;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use datafusion::catalog::TableFunctionImpl;
use datafusion::common::TableReference;
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::{AggregateUDF, LogicalPlanBuilder, ScalarUDF};
use millstream_core::source::SourceTable;
use millstream_core::{Error, Result};
use millstream_io::{Options, TableSpec};

pub use reader::StreamReader;

use crate::changelog::without_weight;
use crate::frame::{Room, StreamFrame, TableAsOf, of_datafusion, with_event_time};
use crate::sql::parser::AS_OF;
use crate::sql::{BuiltIn, Catalog, Connectors, Planner, StreamTable};

/// Tables, views and functions, and the frames over them. A clone is the same session.
///
/// ```
/// use millstream::prelude::*;
///
/// # fn main() -> Result<()> {
/// let session = Session::new()?;
/// session.sql("CREATE TABLE n (i BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '10')")?;
/// let frame = session.table("n")?.filter(col("i").gt(lit(0)))?;
/// assert_eq!(frame.schema().fields().len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Session {
    planner: Arc<Mutex<Planner>>,
    connectors: Arc<dyn Connectors>,
    base_dir: PathBuf,
}

impl Session {
    /// A session with the connectors of this crate. Relative paths are relative to the working directory.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Bug`] where DataFusion can't be set up.
    pub fn new() -> Result<Self> {
        Self::with_connectors(Arc::new(BuiltIn), ".")
    }

    /// A session with connectors of the caller's, which `'connector' = ..` of CREATE TABLE then names. One that adds
    /// to the built-in ones asks [`BuiltIn`] for what it doesn't know itself. Relative paths are relative to
    /// `base_dir`.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn with_connectors(connectors: Arc<dyn Connectors>, base_dir: impl Into<PathBuf>) -> Result<Self> {
        let base_dir = base_dir.into();
        let planner = Planner::new(Arc::clone(&connectors), &base_dir)?;
        Ok(Self { planner: Arc::new(Mutex::new(planner)), connectors, base_dir })
    }

    /// Takes in SQL. What it declares (CREATE TABLE, CREATE VIEW) stays in the session; its query is answered as a
    /// frame. A text that only declares gives a frame without rows. The frame of an INSERT knows its table: its
    /// [`StreamFrame::write_stream`] needs no format.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] with the place in the text; or where there are several queries in it.
    pub fn sql(&self, text: &str) -> Result<StreamFrame> {
        let mut frames = self.queries(text)?;
        match (frames.pop(), frames.len()) {
            (Some(frame), 0) => Ok(frame),
            (None, _) => {
                let nothing = LogicalPlanBuilder::empty(false).build().map_err(of_datafusion)?;
                Ok(StreamFrame::new(nothing, self.room(&self.planner())))
            }
            (Some(_), more) => Err(Error::query(format!(
                "the text has {} queries, and a frame is one: use Session::queries",
                more + 1
            ))),
        }
    }

    /// Takes in SQL with any number of queries: a frame for each SELECT and INSERT, in the order of the text.
    ///
    /// # Errors
    /// As [`Session::sql`]. What was declared before the error stays.
    pub fn queries(&self, text: &str) -> Result<Vec<StreamFrame>> {
        let mut planner = self.planner();
        let planned = planner.plan("SQL", text)?;
        let room = self.room(&planner);
        let frame = |query| StreamFrame::of_query(query, room.clone());
        Ok(planned.queries.into_iter().map(frame).collect())
    }

    /// A table or view, or files by their path: all rows, all columns.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] where there is none of this name, or what its connector says.
    pub fn table(&self, name: &str) -> Result<StreamFrame> {
        let planner = self.planner();
        let table = planner.catalog().table(name).map_err(|e| Error::new(e.kind, e.message))?;
        let scan = LogicalPlanBuilder::scan(TableReference::bare(name), table, None).and_then(|scan| scan.build());
        Ok(StreamFrame::new(scan.map_err(of_datafusion)?, self.room(&planner)))
    }

    /// A declared table as it was at the time of each row that is joined with it: see [`StreamFrame::join_as_of`].
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] where there is no such table, or it is a view.
    pub fn table_as_of(&self, name: &str) -> Result<TableAsOf> {
        let table = self.planner().catalog().table(&format!("{name}{AS_OF}"));
        let table = table.map_err(|e| Error::new(e.kind, e.message))?;
        let scan = LogicalPlanBuilder::scan(TableReference::bare(name), table, None).and_then(|scan| scan.build());
        Ok(TableAsOf::new(scan.map_err(of_datafusion)?))
    }

    /// A table by its options, without declaring it: files, a generator, or a connector of the caller's.
    pub fn read_stream(&self) -> StreamReader {
        StreamReader::new(self.room(&self.planner()))
    }

    /// Makes a source of the program's own a table. `watermark` names its event-time column, a timestamp, and how
    /// far rows may be out of order: a row that is further behind can be late. The log knows the source by this
    /// name: after a restart it must be the same source.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] where the name is taken, or the column is none or no timestamp.
    pub fn register_source(
        &self,
        name: &str,
        source: Arc<dyn SourceTable>,
        watermark: Option<(&str, Duration)>,
    ) -> Result<()> {
        let planner = self.planner();
        is_free(planner.catalog(), name)?;
        let table = stream_table(name, source, Options::default(), self.base_dir.clone());
        let table = match watermark {
            Some((column, delay)) => with_event_time(table, column, delay)?,
            None => table,
        };
        planner.catalog().add_provider(name, Arc::new(table));
        Ok(())
    }

    /// Gives a frame a name that SQL and [`Session::table`] can use.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] where the name is taken.
    pub fn register_view(&self, name: &str, frame: &StreamFrame) -> Result<()> {
        let planner = self.planner();
        is_free(planner.catalog(), name)?;
        planner.catalog().add_view(name, frame.logical_plan().clone());
        Ok(())
    }

    /// Adds a scalar function, as DataFusion's `SessionContext` does. It must be immutable or stable: one that gives
    /// another value each time is refused when a query with it starts, because a batch that is run again would give
    /// other rows.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] where DataFusion refuses it.
    pub fn register_udf(&self, function: ScalarUDF) -> Result<()> {
        self.planner().state_mut().register_udf(Arc::new(function)).map(drop).map_err(of_datafusion)
    }

    /// Adds an aggregate function. Its accumulator's state is what a stream keeps between batches.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] where DataFusion refuses it.
    pub fn register_udaf(&self, function: AggregateUDF) -> Result<()> {
        self.planner().state_mut().register_udaf(Arc::new(function)).map(drop).map_err(of_datafusion)
    }

    /// Adds a table function, as DataFusion's `SessionContext` does: `FROM name(1, 'a')`. Its arguments are constants. It is
    /// called when a query is planned, and answers with a table: rows that are there (a `MemTable`) come once, in the first
    /// batch, and must be the same whenever it is called with the same arguments; a stream is made with
    /// [`StreamTable::of`].
    pub fn register_udtf(&self, name: &str, function: Arc<dyn TableFunctionImpl>) {
        self.planner().state_mut().register_udtf(name, function);
    }

    fn room(&self, planner: &Planner) -> Room {
        let (connectors, base_dir) = (Arc::clone(&self.connectors), self.base_dir.clone());
        Room { state: Arc::new(planner.state().clone()), connectors, base_dir }
    }

    fn planner(&self) -> MutexGuard<'_, Planner> {
        self.planner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_free(catalog: &Catalog, name: &str) -> Result<()> {
    match catalog.contains(name) {
        false => Ok(()),
        true => {
            Err(Error::query(format!("there is a table or view '{name}' already: choose another name, or DROP it")))
        }
    }
}

fn stream_table(name: &str, source: Arc<dyn SourceTable>, options: Options, base_dir: PathBuf) -> StreamTable {
    let spec = TableSpec {
        name: name.to_string(),
        schema: without_weight(&source.schema()),
        options,
        partitioned_by: vec![],
        primary_key: vec![],
        base_dir,
    };
    StreamTable { name: name.to_string(), spec, watermark: None, source }
}
