//! Signals that ask the process to stop.

use millstream::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask the process to stop: SIGINT and SIGTERM.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on they stop nothing by themselves, and none is missed.
    pub fn listen() -> Result<Self> {
        let no_signals = |e| Error::bug("signals can't be listened for").caused_by(e);
        let interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate()).map_err(no_signals)? })
    }

    /// Returns when one has come.
    pub async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Returns when the process is asked to stop.
pub async fn signalled() -> Result<()> {
    Signals::listen()?.received().await;
    Ok(())
}
