//! A query whose answer is shown while it runs and kept nowhere.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use millstream_core::clock::SystemClock;
use millstream_core::disk::{RealDisk, SharedDisk};
use millstream_core::query::{Query, QueryConfig, QueryHandle, QueryStatus};
use millstream_core::sink::{Guarantee, Marker, Output, OutputKind, Owner, Permit, Sink};
use millstream_core::{Error, Result};
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
    _dir: LiveDir,
}

/// A directory of its own, removed with the query.
#[derive(Debug)]
struct LiveDir(PathBuf);

impl LiveDir {
    /// One that was not there before: what a process of the same number once left behind is never gone on with.
    fn new() -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let failed = |e| Error::config("no temporary directory can be made: set TMPDIR").caused_by(e);
        loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let dir = std::env::temp_dir().join(format!("millstream-{}-{n}", std::process::id()));
            match std::fs::create_dir(&dir) {
                Ok(()) => return Ok(Self(dir)),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(failed(e)),
            }
        }
    }
}

impl Drop for LiveDir {
    fn drop(&mut self) {
        // What can't be removed is the temporary directory's to clear.
        std::fs::remove_dir_all(&self.0).ok();
    }
}

impl LiveQuery {
    /// Starts a compiled query. Its log lies in a temporary directory that is removed when it stops.
    ///
    /// # Errors
    /// Where the directory can't be made or the query doesn't start.
    pub async fn start(compiled: Compiled) -> Result<Self> {
        let temporary = LiveDir::new()?;
        let dir = &temporary.0;
        let disk: SharedDisk = Arc::new(RealDisk);
        let states = StateStore::new(Arc::clone(&disk), dir.join("state"));
        let (sender, rows) = mpsc::channel(WAITING_MAX);
        let mut config = QueryConfig::new("live", dir.join("log"));
        config.idle_timeouts = idle_timeouts(&compiled);
        let (sources, kind) = (query_sources(&compiled), compiled.kind);
        let runner = Box::new(LocalRunner::new(&compiled, states)?);
        let sink = Box::new(ChannelSink(sender));
        let handle = Query { config, sources, runner, sink, disk, clock: Arc::new(SystemClock) }.start().await?;
        Ok(Self { rows, handle: Some(handle), kind, _dir: temporary })
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

    /// Rows that were rejected so far.
    pub fn rejected(&self) -> u64 {
        let progress = self.status().and_then(|status| status.progress);
        progress.map_or(0, |progress| progress.totals.iter().map(|total| total.rejected).sum())
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
        let Self { rows, handle, _dir, .. } = self;
        // A batch that waits for a reader must not hold the end up.
        drop(rows);
        match handle {
            Some(handle) => handle.stop().await.map(drop),
            None => Ok(()),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_querys_directory_is_new_and_goes_with_it() {
        let first = LiveDir::new().unwrap();
        // As another process of this number, which was killed, would have left them.
        let number = first.0.to_string_lossy().rsplit_once('-').unwrap().1.parse::<u64>().unwrap();
        let left: Vec<_> = (1..4)
            .map(|n| std::env::temp_dir().join(format!("millstream-{}-{}", std::process::id(), number + n)))
            .filter(|dir| std::fs::create_dir(dir).is_ok())
            .collect();
        let next = LiveDir::new().unwrap();
        assert!(!left.is_empty() && !left.contains(&next.0) && next.0 != first.0);
        let gone = next.0.clone();
        drop(next);
        assert!(!gone.exists() && left.iter().all(|dir| dir.exists()));
        left.iter().for_each(|dir| std::fs::remove_dir(dir).unwrap());
    }
}
