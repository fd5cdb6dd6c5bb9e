//! A way to store a batch that is fast where it fits, which only trying tells.

use std::sync::atomic::{AtomicU32, Ordering};

use millstream_core::Result;

use crate::copy::Outcome;

/// Whether the next batch may go a certain way: after one that could not, fewer and fewer of those that follow are tried.
#[derive(Debug, Default)]
pub(crate) struct Guess {
    skip: AtomicU32,
    step: AtomicU32,
}

impl Guess {
    /// Batches at the most that are not tried in a row.
    const SKIP_MAX: u32 = 64;

    /// Goes the way where it may fit and is due, and learns from what comes of it.
    pub(crate) async fn attempt(&self, fits: bool, way: impl Future<Output = Result<Outcome>>) -> Result<Outcome> {
        if !fits || !self.is_due() {
            return Ok(Outcome::Refused);
        }
        let outcome = way.await?;
        self.learn(outcome);
        Ok(outcome)
    }

    fn is_due(&self) -> bool {
        let skip = self.skip.load(Ordering::Relaxed);
        self.skip.store(skip.saturating_sub(1), Ordering::Relaxed);
        skip == 0
    }

    fn learn(&self, outcome: Outcome) {
        let step = match outcome {
            Outcome::Refused => (2 * self.step.load(Ordering::Relaxed)).clamp(1, Self::SKIP_MAX),
            Outcome::Moved | Outcome::NotMoved => 0,
        };
        self.step.store(step, Ordering::Relaxed);
        self.skip.store(step, Ordering::Relaxed);
    }
}
