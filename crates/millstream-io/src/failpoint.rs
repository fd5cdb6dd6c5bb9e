//! Places where a test can kill the process, or fill the disk, at an exact step.
//!
//! `MILLSTREAM_FAILPOINT=name:count` kills the process with SIGKILL the `count`-th time the place `name` is
//! reached (`name` alone: the first time); `name:count:disk-full` answers "no space left on device" there
//! instead, where the place is one that can fail. Nothing else is ever changed by it. While the variable is
//! not set a place costs two loads and two branches, so the places are compiled in always: what is killed in
//! a test is the program that is shipped.
//!
//! Each place is also one of the steps that [`millstream_core::disk::step`] counts.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use millstream_core::disk::step;

/// The variable that arms a place.
pub const VARIABLE: &str = "MILLSTREAM_FAILPOINT";

/// The places within the sinks, each between two durable steps, in the order in which they are reached.
pub const SINK_POINTS: &[&str] = &[
    "sink.open.locked",
    "sink.open.renamed",
    "sink.open.swept",
    "sink.open.truncated",
    "sink.open.claimed",
    "sink.before_temp",
    "sink.written_temp",
    "sink.after_temp",
    "sink.marker_temp",
    "sink.after_marker",
    "sink.after_rename",
    "sink.after_publish",
    "sink.append.half_written",
    "sink.append.written",
    "sink.append.synced",
    "sink.append.marked",
    "sink.journal.rewritten",
    "sink.flushed",
];

/// Kills the process here if this place is armed.
pub fn fail_point(name: &str) {
    if matches!(reached(name), Fate::Die) {
        die();
    }
}

/// Kills the process here, or fails as a full disk does, if this place is armed.
///
/// # Errors
/// [`io::ErrorKind::StorageFull`] where the place is armed to.
pub fn io_fail_point(name: &str) -> io::Result<()> {
    match reached(name) {
        Fate::GoOn => Ok(()),
        Fate::Die => die(),
        Fate::DiskFull => Err(io::ErrorKind::StorageFull.into()),
    }
}

/// Writes `bytes`; where this place is armed, only half of them before the process dies or the disk is full.
///
/// # Errors
/// What the writer says, or [`io::ErrorKind::StorageFull`] where the place is armed to.
pub fn torn_write(name: &str, to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    match reached(name) {
        Fate::GoOn => to.write_all(bytes),
        fate => {
            let (half, _) = bytes.split_at(bytes.len() / 2);
            to.write_all(half)?;
            match fate {
                Fate::Die => die(),
                _ => Err(io::ErrorKind::StorageFull.into()),
            }
        }
    }
}

/// What happens at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    GoOn,
    Die,
    DiskFull,
}

/// An armed place.
#[derive(Debug)]
struct Armed {
    name: String,
    at: u64,
    fate: Fate,
    reached: AtomicU64,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

fn reached(name: &str) -> Fate {
    #[cfg(test)]
    if let Some(fate) = script::ask(name) {
        return fate;
    }
    if step::step().is_err() {
        return Fate::DiskFull;
    }
    let armed = ARMED.get_or_init(|| std::env::var(VARIABLE).ok().and_then(|text| parse(&text)));
    armed.as_ref().map_or(Fate::GoOn, |armed| armed.reach(name))
}

impl Armed {
    fn reach(&self, name: &str) -> Fate {
        let hit = self.name == name && self.reached.fetch_add(1, Ordering::Relaxed) + 1 == self.at;
        if hit { self.fate } else { Fate::GoOn }
    }
}

fn parse(text: &str) -> Option<Armed> {
    let mut parts = text.trim().split(':');
    let name = parts.next().filter(|name| !name.is_empty())?.to_string();
    let at = parts.next().map_or(Some(1), |count| count.parse().ok())?;
    let fate = match parts.next() {
        None | Some("kill") => Fate::Die,
        Some("disk-full") => Fate::DiskFull,
        Some(_) => return None,
    };
    Some(Armed { name, at, fate, reached: AtomicU64::new(0) })
}

fn die() -> ! {
    #[cfg(test)]
    script::die();
    step::die()
}

/// What a test says shall happen at the places that its own thread reaches.
#[cfg(test)]
pub(crate) mod script {
    use std::cell::RefCell;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    use super::Fate;

    type Script = Box<dyn FnMut(&str) -> Fate>;

    thread_local! {
        static SCRIPT: RefCell<Option<Script>> = const { RefCell::new(None) };
    }

    struct Killed;

    pub(super) fn ask(name: &str) -> Option<Fate> {
        assert!(!name.starts_with("sink.") || super::SINK_POINTS.contains(&name), "{name} is not in SINK_POINTS");
        SCRIPT.with_borrow_mut(|script| script.as_mut().map(|script| script(name)))
    }

    /// Dies where a script runs, and only there.
    pub(super) fn die() {
        if SCRIPT.with_borrow(Option::is_some) {
            resume_unwind(Box::new(Killed))
        }
    }

    /// Runs `body` with `script` deciding at each place; `None` where it died at one. Nothing in the sinks
    /// cleans up while it unwinds, so what is left on disk is what a kill leaves.
    pub(crate) fn run<T>(script: impl FnMut(&str) -> Fate + 'static, body: impl FnOnce() -> T) -> Option<T> {
        SCRIPT.set(Some(Box::new(script)));
        let answer = catch_unwind(AssertUnwindSafe(body));
        SCRIPT.set(None);
        match answer {
            Ok(answer) => Some(answer),
            Err(cause) if cause.is::<Killed>() => None,
            Err(cause) => resume_unwind(cause),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_th_time_a_place_is_reached_is_the_one_that_dies() {
        let armed = parse("sink.after_temp:2").unwrap();
        assert_eq!(armed.reach("sink.after_temp"), Fate::GoOn);
        assert_eq!(armed.reach("sink.after_marker"), Fate::GoOn);
        assert_eq!(armed.reach("sink.after_temp"), Fate::Die);
        assert_eq!(armed.reach("sink.after_temp"), Fate::GoOn);
    }

    #[test]
    fn a_name_alone_dies_at_once_and_nonsense_arms_nothing() {
        assert_eq!(parse("a").unwrap().reach("a"), Fate::Die);
        assert_eq!(parse("a:1:disk-full").unwrap().reach("a"), Fate::DiskFull);
        assert!(parse("").is_none());
        assert!(parse("a:many").is_none());
    }
}
