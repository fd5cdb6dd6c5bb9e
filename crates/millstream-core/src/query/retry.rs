//! Waiting for what passes by itself: bounded, visible, and over as soon as the query is stopped.

use std::time::Duration;

use futures::FutureExt;
use tokio::sync::watch;

use crate::error::{Error, Result};

use super::progress::QueryState;
use super::run::Run;

/// Somebody wants the query to stop.
#[derive(Clone, Debug)]
pub(super) struct Stop(pub(super) watch::Receiver<bool>);

impl Stop {
    /// Whether it was asked for. A query whose handle is gone stops too.
    pub(super) fn requested(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Resolves when it is asked for.
    pub(super) async fn wait(&mut self) {
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

/// The pauses of one call that is tried again and again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pauses {
    since: Option<Duration>,
    last: Option<Duration>,
}

impl Run {
    /// Pauses because of this error, or gives it back where that was done for long enough.
    pub(super) async fn pause(&mut self, pauses: &mut Pauses, what: &str, error: Error) -> Result<()> {
        let policy = self.config.retry;
        let now = self.clock.elapsed();
        let waited = now.saturating_sub(*pauses.since.get_or_insert(now));
        if waited >= policy.give_up_after {
            let seconds = waited.as_secs();
            return Err(error.at(format_args!("{what} failed for {seconds} seconds, and is not tried any longer")));
        }
        if self.stop.requested() {
            return Err(error.at(format_args!("stopped while {what} failed and was to be tried again")));
        }
        self.board.state(QueryState::Retrying { what: what.to_string(), error: error.to_string() });
        let pause = pauses.last.map_or(policy.first, |last| (last * 2).min(policy.max));
        pauses.last = Some(pause);
        futures::select_biased! {
            () = self.stop.wait().fuse() => {}
            () = self.clock.sleep(pause).fuse() => {}
        }
        Ok(())
    }
}
