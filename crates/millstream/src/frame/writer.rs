//! Where a frame's answer goes and how it runs: `write_stream().format("json").option("path", "out").start()`.

use std::path::PathBuf;
use std::sync::Arc;

use millstream_core::query::Trigger;
use millstream_core::sink::Sink;
use millstream_core::{Error, Result};
use millstream_io::{Options, TableSpec};

use super::{StreamFrame, StreamHandle, connector_of};
use crate::pipeline::identity::check_name;
use crate::pipeline::{ReadyQuery, RunOptions, configure, not_null};

/// What is written where; [`StreamWriter::start`] starts it.
///
/// A query is known by its name below its state directory: started again with both, it goes on where it stopped or
/// died. `millstream status` reads the same directory.
///
/// ```
/// use futures::StreamExt;
/// use millstream::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path();
/// # let session = Session::new()?;
/// # session.sql("CREATE TABLE bids (item BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '100', 'rows-per-second' = '0')")?;
/// let bids = session.table("bids")?;
/// let writer = bids.write_stream().query_name("bids").format("csv").path(dir.join("bids"));
/// let writer = writer.state_dir(dir.join("state")).trigger(Trigger::AvailableNow).max_batch_rows(30);
/// let stream = writer.start().await?;
/// let mut batches = stream.progress();
/// while let Some(batch) = batches.next().await {
///     println!("batch {}: {} rows in {:?}", batch.batch.0, batch.rows_in, batch.duration);
/// }
/// assert_eq!(stream.wait().await?.progress.map(|p| p.total_rows_out), Some(100));
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing runs before start()"]
pub struct StreamWriter {
    frame: StreamFrame,
    sink: Option<Box<dyn Sink>>,
    format: Option<String>,
    options: Vec<(String, String)>,
    partitioned_by: Vec<String>,
    name: Option<String>,
    run: RunOptions,
}

impl std::fmt::Debug for StreamWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { format, options, name, run, .. } = self;
        f.debug_struct("StreamWriter")
            .field("format", format)
            .field("options", options)
            .field("name", name)
            .field("run", run)
            .finish_non_exhaustive()
    }
}

impl StreamWriter {
    pub(super) fn new(frame: StreamFrame) -> Self {
        let (options, partitioned_by) = (vec![], vec![]);
        Self { frame, sink: None, format: None, options, partitioned_by, name: None, run: RunOptions::default() }
    }

    /// `json`, `csv`, `parquet` or `avro` for files, else the name of a connector: `print`, `blackhole`. The frame of an INSERT
    /// needs none: it goes to its table.
    pub fn format(mut self, format: impl Into<String>) -> Self {
        self.format = Some(format.into());
        self
    }

    /// An option of the sink, as in WITH of CREATE TABLE: `sink.layout`.
    pub fn option(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.push((name.into(), value.into()));
        self
    }

    /// The directory of the files.
    pub fn path(self, path: impl Into<PathBuf>) -> Self {
        let path = path.into().to_string_lossy().into_owned();
        self.option("path", path)
    }

    /// A directory for each value of these columns: `day=2026-01-01/`.
    pub fn partition_by<C: Into<String>>(mut self, columns: impl IntoIterator<Item = C>) -> Self {
        self.partitioned_by = columns.into_iter().map(Into::into).collect();
        self
    }

    /// A sink of the program's own, in the place of a format.
    pub fn sink(mut self, sink: Box<dyn Sink>) -> Self {
        self.sink = Some(sink);
        self
    }

    /// When a batch begins; [`Trigger::Continuous`] where nothing is said.
    pub fn trigger(mut self, trigger: Trigger) -> Self {
        self.run.trigger = Some(trigger);
        self
    }

    /// Where logs and checkpoints lie: below it, in a directory of the query's name.
    pub fn state_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.run.state_dir = Some(dir.into());
        self
    }

    /// The query's name; `query`, or that of the INSERT's table, where nothing is said. A program's queries have
    /// different names.
    pub fn query_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Rows at the most that a batch reads, over all sources; 65,536 where nothing is said.
    pub fn max_batch_rows(mut self, rows: u64) -> Self {
        self.run.max_batch_rows = Some(rows.max(1));
        self
    }

    /// Starts the stream on the tokio runtime of the caller. It goes on where its log ends.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where no sink or no state directory is named, or an option is wrong;
    /// [`millstream_core::ErrorKind::Query`] where the frame can't be streamed, or the directory holds the state of
    /// another query of this name; [`millstream_core::ErrorKind::Owned`] where another process runs it. What happens
    /// later, [`StreamHandle::wait`] says.
    pub async fn start(self) -> Result<StreamHandle> {
        let compiled = self.frame.compile().await?;
        let origin = self.frame.query.clone();
        let name = self.name.or_else(|| origin.as_ref().map(|q| q.name.clone())).unwrap_or_else(|| "query".to_string());
        check_name(&name)?;
        let Some(state_dir) = self.run.state_dir.clone() else {
            return Err(Error::config(format!(
                "the query '{name}' has nowhere to remember what it has published: call state_dir(..)"
            )));
        };
        let connectors = Arc::clone(&self.frame.room.connectors);
        let table = origin.as_ref().and_then(|q| q.sink.as_ref());
        let not_null = if self.sink.is_none() && self.format.is_none() { table.map(not_null) } else { None };
        let sink = match (self.sink, self.format, origin.as_ref().and_then(|q| q.sink.clone())) {
            (Some(sink), None, _) => sink,
            (Some(_), Some(format), _) => {
                return Err(Error::config(format!("both a sink and the format '{format}' are given: leave one out")));
            }
            (None, Some(format), _) => {
                let spec = TableSpec {
                    name: name.clone(),
                    schema: compiled.output.clone(),
                    options: connector_of(&format).into_iter().chain(self.options).collect::<Options>(),
                    partitioned_by: self.partitioned_by,
                    primary_key: vec![],
                    base_dir: self.frame.room.base_dir.clone(),
                };
                connectors.sink(&spec, &name, compiled.kind, compiled.output.clone())?
            }
            (None, None, Some(table)) => connectors.sink(&table, &name, compiled.kind, compiled.output.clone())?,
            (None, None, None) => {
                return Err(Error::config(
                    "nothing says where the rows go: call format(\"json\") and path(..), or sink(..)",
                ));
            }
        };
        let sql = match &origin {
            Some(query) => query.sql.clone(),
            None => self.frame.plan.display_indent().to_string(),
        };
        let settings = origin.map(|query| query.settings.clone()).unwrap_or_default();
        let config = configure(&name, &settings, &state_dir, &self.run)?;
        let parallelism = self.run.parallelism.unwrap_or_else(|| settings.parallelism());
        let not_null = not_null.unwrap_or_default();
        ReadyQuery { config, parallelism, sql, compiled, sink, not_null }.start().await
    }
}
