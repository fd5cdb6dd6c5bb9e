//! Durable steps, counted, so that a test can kill the process, or fill the disk, at each of them.
//!
//! A step is a moment just before something that outlives the process changes: a write, a cut, a rename, an fsync.
//! `MILLSTREAM_DIE_AT_STEP=n` kills the process with SIGKILL at its `n`-th step; `MILLSTREAM_FULL_AT_STEP=n` answers
//! "no space left on device" there and at every later step. Nothing else is ever changed by either. While
//! neither is set a step costs one load and one branch, so the steps are compiled in always: what is killed in a test
//! is the program that is shipped.

use std::io;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The variable that says at which step the process dies.
pub const DIE_VARIABLE: &str = "MILLSTREAM_DIE_AT_STEP";

/// The variable that says from which step on the disk is full.
pub const FULL_VARIABLE: &str = "MILLSTREAM_FULL_AT_STEP";

/// What was asked for.
#[derive(Debug)]
struct Armed {
    die_at: u64,
    full_at: u64,
    reached: AtomicU64,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

/// A durable step is about to be taken.
///
/// # Errors
/// [`io::ErrorKind::StorageFull`] where a test says that the disk is full by now.
pub fn step() -> io::Result<()> {
    let Some(armed) = ARMED.get_or_init(Armed::from_environment) else { return Ok(()) };
    armed.reach()
}

/// Whether steps are counted at all: only then is a write worth being cut in two, so that one can die in its middle.
pub(super) fn counted() -> bool {
    ARMED.get_or_init(Armed::from_environment).is_some()
}

/// Sends SIGKILL to the process, through a shell: the library has no other safe way to the signal.
pub fn die() -> ! {
    // Only without a shell is the abort reached; SIGABRT runs no destructor either.
    let _ = Command::new("sh").args(["-c", "kill -9 $PPID"]).status();
    std::process::abort()
}

impl Armed {
    fn from_environment() -> Option<Self> {
        let number = |name| std::env::var(name).ok().and_then(|text| text.trim().parse().ok());
        Self::new(number(DIE_VARIABLE), number(FULL_VARIABLE))
    }

    fn new(die_at: Option<u64>, full_at: Option<u64>) -> Option<Self> {
        if die_at.is_none() && full_at.is_none() {
            return None;
        }
        let never = u64::MAX;
        Some(Self { die_at: die_at.unwrap_or(never), full_at: full_at.unwrap_or(never), reached: AtomicU64::new(0) })
    }

    fn reach(&self) -> io::Result<()> {
        let step = self.reached.fetch_add(1, Ordering::SeqCst) + 1;
        // Another thread must not take its own step while the one that dies is still sending the signal.
        if step >= self.die_at {
            die()
        }
        if step >= self.full_at { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_full_from_the_step_that_was_asked_for() {
        let armed = Armed::new(None, Some(3)).unwrap();
        let answers: Vec<bool> = (0..4).map(|_| armed.reach().is_ok()).collect();
        assert_eq!(answers, [true, true, false, false]);
    }

    #[test]
    fn nothing_is_counted_where_nothing_was_asked_for() {
        assert!(Armed::new(None, None).is_none());
    }
}
