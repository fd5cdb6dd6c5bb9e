//! Is told by the operating system that files appear or grow.
//!
//! Only a wish to be quick: whatever is missed here is found when the directory is listed again.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::ModifyKind;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::listing::Listing;

/// Above so many changed files it is cheaper to list them all.
const CHANGED_PATHS_MAX: usize = 4096;

/// What changed since it was last asked for.
#[derive(Debug, Default)]
pub(super) struct Changes {
    paths: Mutex<HashSet<PathBuf>>,
    all: AtomicBool,
    wake: Notify,
}

impl Changes {
    /// Everything is to be listed again when somebody looks next.
    pub(super) fn all(&self) {
        self.all.store(true, Ordering::Release);
    }

    /// The paths that changed; `None` where everything is to be listed again.
    pub(super) fn take(&self) -> Option<HashSet<PathBuf>> {
        let paths = std::mem::take(&mut *self.paths.lock().unwrap_or_else(PoisonError::into_inner));
        let all = self.all.swap(false, Ordering::AcqRel);
        (!all && paths.len() <= CHANGED_PATHS_MAX).then_some(paths)
    }

    /// Lets the one who waits go on.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Resolves after the next change, or at once where there was one since the last time.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    fn add(&self, event: Event, listing: &Listing) {
        let names = event.kind.is_create() || matches!(event.kind, EventKind::Modify(ModifyKind::Name(_)));
        // What is in a new directory may have come before it was watched.
        if event.need_rescan() || (names && event.paths.iter().any(|p| p.is_dir())) {
            self.all();
            return self.wake();
        }
        // Our own opening and reading of files is reported too.
        if event.kind.is_access() {
            return;
        }
        let mut known = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.len();
        if before <= CHANGED_PATHS_MAX {
            known.extend(event.paths.into_iter().filter(|p| listing.matches(p)));
        }
        if known.len() > before {
            drop(known);
            self.wake.notify_one();
        }
    }
}

/// Watches the files of a table until it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    _watcher: RecommendedWatcher,
}

impl Watch {
    /// `None` where the operating system can't (too many watches, a network file system).
    pub(super) fn start(listing: &Listing, changes: &Arc<Changes>) -> Option<Self> {
        let (directory, deep) = listing.watched();
        let (listing, changes) = (listing.clone(), changes.clone());
        // Paths are reported from the root on, however the directory was written; the listing has them as written.
        let (written, whole) = (directory.clone(), std::env::current_dir().ok()?.join(&directory));
        let as_written = move |path: PathBuf| path.strip_prefix(&whole).map(|rest| written.join(rest)).unwrap_or(path);
        let report = move |event: notify::Result<Event>| match event {
            Ok(event) => {
                let paths = event.paths.into_iter().map(&as_written).collect();
                changes.add(Event { paths, ..event }, &listing);
            }
            Err(_) => {
                changes.all();
                changes.wake();
            }
        };
        let mut watcher = notify::recommended_watcher(report).ok()?;
        let mode = if deep { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
        watcher.watch(&directory, mode).ok()?;
        Some(Self { _watcher: watcher })
    }
}
