//! The clock of a paused tokio runtime: time passes when everybody waits.

use std::time::Duration;

use async_trait::async_trait;
use millstream_core::clock::Clock;
use tokio::time::Instant;

/// The clock of the tokio runtime it was made in; with `start_paused`, time passes only when every task waits for it.
#[derive(Clone, Copy, Debug)]
pub struct SimClock {
    start: Instant,
}

/// 2023-11-14 22:13:20 UTC.
const START_US: i64 = 1_700_000_000_000_000;

impl SimClock {
    /// A clock that begins now. It needs a tokio runtime.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }
}

#[async_trait]
impl Clock for SimClock {
    fn now_us(&self) -> i64 {
        START_US + i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
