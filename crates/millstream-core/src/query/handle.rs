//! Watches and stops a running query.

use std::future::Future;
use std::sync::Arc;

use futures::Stream;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::{Error, Result};

use super::progress::{Board, Progress, QueryState, QueryStatus};

/// A running query. Where the handle and every [`Stopper`] of it are dropped, the query stops cleanly by itself.
#[derive(Debug)]
pub struct QueryHandle {
    stopper: Stopper,
    board: Board,
    task: JoinHandle<Result<()>>,
}

/// Stops a query from elsewhere: a signal handler, another task.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<watch::Sender<bool>>);

impl Stopper {
    /// Asks the query to finish its batch, checkpoint, commit, and close its sink.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl QueryHandle {
    pub(super) fn spawn(
        run: impl Future<Output = Result<()>> + Send + 'static,
        stop: watch::Sender<bool>,
        board: Board,
    ) -> Self {
        let seen = board.clone();
        let task = tokio::spawn(async move {
            let done = run.await;
            if let Err(error) = &done {
                seen.state(QueryState::Failed { error: error.to_string() });
            }
            done
        });
        Self { stopper: Stopper(Arc::new(stop)), board, task }
    }

    /// The query at this moment.
    pub fn status(&self) -> QueryStatus {
        self.board.status.borrow().clone()
    }

    /// The query's status whenever it changes.
    pub fn watch(&self) -> watch::Receiver<QueryStatus> {
        self.board.status.subscribe()
    }

    /// Every batch from now on. A listener that is too slow misses some; the totals stay right.
    pub fn progress(&self) -> impl Stream<Item = Arc<Progress>> + Send + Unpin + use<> {
        let batches = self.board.progress.subscribe();
        // The board's status outlives its batches: its end is the end of the stream.
        let ended = self.watch();
        Box::pin(futures::stream::unfold((batches, ended), |(mut batches, mut ended)| async move {
            loop {
                let over = ended.wait_for(|s| {
                    matches!(s.state, QueryState::Stopped | QueryState::Ended | QueryState::Failed { .. })
                });
                let batch = tokio::select! {
                    biased;
                    batch = batches.recv() => batch,
                    _ = over => return None,
                };
                match batch {
                    Ok(batch) => return Some((batch, (batches, ended))),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        }))
    }

    /// Something that stops the query from elsewhere.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Finishes the batch, checkpoints, commits, and closes the sink.
    ///
    /// # Errors
    /// As [`QueryHandle::wait`].
    pub async fn stop(self) -> Result<QueryStatus> {
        self.stopper.stop();
        self.wait().await
    }

    /// Waits until the query has ended, was stopped, or has failed.
    ///
    /// # Errors
    /// Why it failed. It can be started again, and goes on where it died.
    pub async fn wait(self) -> Result<QueryStatus> {
        let Self { stopper, board, task } = self;
        let done = task.await;
        drop(stopper);
        done.map_err(|e| Error::bug("the query's task died").caused_by(e))??;
        let status = board.status.borrow().clone();
        Ok(status)
    }
}
