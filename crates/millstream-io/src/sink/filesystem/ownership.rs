//! Who may write an output: the latest owner, and nobody else.
//!
//! Taking over and publishing exclude each other by an advisory lock on a hidden file, held for as long as one
//! call takes. A later owner never waits for an earlier one to end: it takes over between two calls, and the
//! earlier one finds out in its next call, under the lock, before it writes anything.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use millstream_core::batch::BatchId;
use millstream_core::sink::{Owner, Permit};
use millstream_core::{Error, Result};

use super::durable::{FileId, failed};

/// How often a lock is tried for before its holder is taken to hang, and the rest between two tries: 10 s.
const TRIES_MAX: u32 = 2000;
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// The lock of one output, held until it is dropped or its process dies.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock, after whoever is in the middle of a call.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Owned`] that names the holder where it does not let go.
    pub(super) fn take(path: &Path) -> Result<Self> {
        for _ in 0..TRIES_MAX {
            let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
            let file = opened.map_err(|e| failed("open the lock file", path, e))?;
            match file.try_lock() {
                // A lock on a file that was removed meanwhile excludes nobody.
                Ok(()) if is_in_place(path, &file) => return Ok(Self { file }),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => std::thread::sleep(TRY_AGAIN_AFTER),
                Err(TryLockError::Error(e)) => return Err(failed("lock", path, e)),
            }
        }
        let holder = fs::read_to_string(path).unwrap_or_default();
        let holder = if holder.trim().is_empty() { "another process" } else { holder.trim() };
        Err(Error::owned(format!(
            "{holder} holds {} and does not let go: stop it, then start this query again",
            path.display()
        )))
    }

    /// Notes for a person who holds it.
    pub(super) fn name_holder(&mut self, owner: &Owner, path: &Path) -> Result<()> {
        let Owner { query, incarnation, epoch } = owner;
        let process = std::process::id();
        let holder = format!("process {process} (query '{query}', incarnation {incarnation}, epoch {epoch})\n");
        let written = self.file.set_len(0).and_then(|()| self.file.write_all(holder.as_bytes()));
        written.map_err(|e| failed("write the lock file", path, e))
    }
}

fn is_in_place(path: &Path, file: &File) -> bool {
    let held = file.metadata().map(|held| FileId::from(&held));
    let there = fs::metadata(path).map(|there| FileId::from(&there));
    matches!((held, there), (Ok(held), Ok(there)) if held == there)
}

/// The error of an owner that finds another one in its place.
pub(super) fn taken_over(owner: &Owner, output: &Path) -> Error {
    Error::owned(format!(
        "another run has taken {} over from query '{}' (epoch {}), or its marker was removed: this run must stop",
        output.display(),
        owner.query,
        owner.epoch
    ))
}

/// Whether `claimant` may take over what `recorded` wrote last.
///
/// # Errors
/// [`millstream_core::ErrorKind::Owned`] where it is an earlier owner, or another query.
pub(super) fn check_claim(recorded: &Owner, claimant: &Owner, output: &Path) -> Result<()> {
    let output = output.display();
    if recorded.incarnation != claimant.incarnation {
        return Err(Error::owned(format!(
            "{output} holds the output of query '{}', incarnation {}; this is query '{}', incarnation {}, which knows \
             nothing of those rows. Start with the state directory that belongs to them, or choose another 'path', \
             or move what is there away",
            recorded.query, recorded.incarnation, claimant.query, claimant.incarnation
        )));
    }
    if recorded.epoch > claimant.epoch {
        return Err(Error::owned(format!(
            "{output} was taken over by a later run of query '{}' (epoch {}; this one has epoch {}): this run must stop",
            recorded.query, recorded.epoch, claimant.epoch
        )));
    }
    Ok(())
}

/// Moves the marker by compare-and-set: whether the permit's batch is the one that comes next.
///
/// # Errors
/// [`millstream_core::ErrorKind::Owned`] where the sink's marker says something else than the permit expects.
pub(super) fn check_next(owner: &Owner, last: Option<BatchId>, permit: &Permit, output: &Path) -> Result<()> {
    let marker = permit.marker();
    if marker.owner != *owner || permit.previous() != last || last.is_some_and(|last| last >= marker.batch) {
        let name = |batch: Option<BatchId>| batch.map_or("none".to_string(), |batch| batch.to_string());
        return Err(Error::owned(format!(
            "batch {} of query '{}' (epoch {}) was to follow batch {} in {}, but batch {} is the last one there \
             (epoch {}): another run of the query has published. Stop one of the two",
            marker.batch,
            marker.owner.query,
            marker.owner.epoch,
            name(permit.previous()),
            output.display(),
            name(last),
            owner.epoch,
        )));
    }
    Ok(())
}

/// The error of a call that comes before `open`, or after an error without `open` again.
pub(super) fn not_open(output: &Path) -> Error {
    Error::bug(format!("the sink of {} was used before it was opened", output.display()))
}
