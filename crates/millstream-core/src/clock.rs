//! Time, passed in: so that a test can hold it.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;

/// The wall clock and the passing of time.
#[async_trait]
pub trait Clock: Send + Sync {
    /// Microseconds since 1970-01-01 UTC.
    ///
    /// It is for what is recorded and shown. It may be set, forward or back, while a query runs.
    fn now_us(&self) -> i64;

    /// The time since a moment before the query began. It never goes back, whatever is done to the clock.
    fn elapsed(&self) -> Duration;

    /// Returns when so much time has passed.
    async fn sleep(&self, duration: Duration);
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    fn now_us(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    }

    fn elapsed(&self) -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
