//! A query whose answer is shown while it runs and kept nowhere.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use millstream_core::Result;
use millstream_core::clock::SystemClock;
use millstream_core::disk::{RealDisk, SharedDisk};
use millstream_core::query::{Query, QueryConfig, QueryHandle, QueryStatus};
use millstream_core::sink::{Guarantee, Marker, Output, OutputKind, Owner, Permit, Sink};
use millstream_state::StateStore;
use tokio::sync::mpsc;

use super::{idle_timeouts, query_sources};
use crate::plan::Compiled;
use crate::runner::LocalRunner;

/// Batches at the most that wait to be shown.
const WAITING_MAX: usize = 16;

/// A running query and the rows it has answered.
#[derive(Debug)]
pub struct LiveQuery {
    rows: mpsc::Receiver<RecordBatch>,
    handle: Option<QueryHandle>,
    kind: OutputKind,
    dir: PathBuf,
}

impl LiveQuery {
    /// Starts a compiled query. Its log lies in a temporary directory that is removed when it stops.
    ///
    /// # Errors
    /// Where the directory can't be made or the query doesn't start.
    pub async fn start(compiled: Compiled) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("millstream-{}", uuid_of_process()));
        let disk: SharedDisk = Arc::new(RealDisk);
        let states = StateStore::new(Arc::clone(&disk), dir.join("state"));
        let (sender, rows) = mpsc::channel(WAITING_MAX);
        let mut config = QueryConfig::new("live", dir.join("log"));
        config.idle_timeouts = idle_timeouts(&compiled);
        let (sources, kind) = (query_sources(&compiled), compiled.kind);
        let runner = Box::new(LocalRunner::new(&compiled, states)?);
        let sink = Box::new(ChannelSink(sender));
        let handle = Query { config, sources, runner, sink, disk, clock: Arc::new(SystemClock) }.start().await?;
        Ok(Self { rows, handle: Some(handle), kind, dir })
    }

    /// The next rows of the answer; `None` when it has ended.
    ///
    /// # Errors
    /// Why the query failed.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        if let Some(rows) = self.rows.recv().await {
            return Ok(Some(rows));
        }
        match self.handle.take() {
            Some(handle) => handle.wait().await.map(|_| None),
            None => Ok(None),
        }
    }

    /// What the rows mean: those of a changelog begin with `op`.
    pub fn kind(&self) -> OutputKind {
        self.kind
    }

    /// What the query is doing.
    pub fn status(&self) -> Option<QueryStatus> {
        self.handle.as_ref().map(QueryHandle::status)
    }

    /// Stops it and removes what it kept.
    ///
    /// # Errors
    /// Why the query failed.
    pub async fn stop(self) -> Result<()> {
        let Self { rows, handle, dir, .. } = self;
        // A batch that waits for a reader must not hold the end up.
        drop(rows);
        let done = match handle {
            Some(handle) => handle.stop().await.map(drop),
            None => Ok(()),
        };
        std::fs::remove_dir_all(&dir).ok();
        done
    }
}

/// Tells the live queries of one process apart, and those of several.
fn uuid_of_process() -> String {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}

#[derive(Debug)]
struct ChannelSink(mpsc::Sender<RecordBatch>);

#[async_trait]
impl Sink for ChannelSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    async fn open(&mut self, _owner: &Owner) -> Result<Option<Marker>> {
        Ok(None)
    }

    async fn publish(&mut self, _permit: &Permit, output: &Output) -> Result<()> {
        for rows in &output.batches {
            // Nobody looks at the answer any more: the query is about to be stopped.
            if self.0.send(rows.clone()).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}
