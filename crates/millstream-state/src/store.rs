//! All operator states of one query: installed, discarded, checkpointed and restored together.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use futures::future::BoxFuture;
use millstream_core::batch::BatchId;
use millstream_core::disk::SharedDisk;
use millstream_core::{Error, Result};

use crate::checkpoint::read::{read_manifest, read_operators};
use crate::checkpoint::write::{Capture, Stored};
use crate::checkpoint::{MANIFEST, PART, SEGMENTS};
use crate::operator::{OperatorState, StateInfo};

/// An operator's state, shared between the operator and the store.
pub type SharedState = Arc<Mutex<dyn OperatorState>>;

/// All operator states of one query, by name (a fingerprint of what the operator keeps). A runner's
/// [`millstream_core::runner::RunnerState`] delegates to it.
///
/// Checkpoints lie in a directory of their own, which nothing else writes to.
pub struct StateStore {
    disk: SharedDisk,
    dir: PathBuf,
    operators: BTreeMap<String, SharedState>,
    stored: Arc<Mutex<StoredFiles>>,
}

/// What is known of the files.
#[derive(Debug, Default)]
struct StoredFiles {
    /// The files of each manifest that was written or read.
    manifests: HashMap<String, Vec<String>>,
    /// The newest checkpoint: the segments in memory know themselves stored in its files, if in any.
    newest: Option<String>,
    /// A checkpoint is being written.
    writing: bool,
}

/// Says that a checkpoint is being written, until it is done or its future is dropped.
struct Writing(Arc<Mutex<StoredFiles>>);

impl Drop for Writing {
    fn drop(&mut self) {
        lock(&self.0).writing = false;
    }
}

/// Locks, also where a thread panicked while it held the lock: its batch is then discarded before the next.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StateStore {
    /// No operators yet; checkpoints lie in `dir`, which is created when it is needed.
    pub fn new(disk: SharedDisk, dir: impl Into<PathBuf>) -> Self {
        Self { disk, dir: dir.into(), operators: BTreeMap::new(), stored: Arc::default() }
    }

    /// Takes in an operator's state under its name.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] where another operator has the name.
    pub fn register(&mut self, name: &str, state: SharedState) -> Result<()> {
        if self.operators.contains_key(name) {
            return Err(Error::query(format!(
                "two operators of the query keep their state under the name {name}: give one of them another name"
            )));
        }
        self.operators.insert(name.to_string(), state);
        Ok(())
    }

    /// What was staged becomes the state, of every operator.
    pub fn install_all(&self) {
        for state in self.operators.values() {
            lock(state).install();
        }
    }

    /// What was staged is forgotten, of every operator.
    pub fn discard_all(&self) {
        for state in self.operators.values() {
            lock(state).discard();
        }
    }

    /// The operators' names with what they keep, by name.
    pub fn describe(&self) -> Vec<(String, StateInfo)> {
        self.operators.iter().map(|(name, state)| (name.clone(), lock(state).describe())).collect()
    }

    /// One operator's installed state as rows; `None` where there is no such operator.
    pub fn table(&self, name: &str) -> Result<Option<Vec<RecordBatch>>> {
        self.operators.get(name).map(|state| lock(state).table()).transpose()
    }

    /// Captures the installed state at once; the future stores what no earlier checkpoint has stored, and
    /// answers the manifest's name. As [`millstream_core::runner::RunnerState::checkpoint`].
    ///
    /// The future encodes what it writes: spawn it, so that the next batches run beside it. Dropped, it
    /// leaves files that the next [`StateStore::retain`] removes.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Bug`] while another checkpoint is being written.
    pub fn checkpoint(&mut self, batch: BatchId) -> Result<BoxFuture<'static, Result<String>>> {
        let mut operators = BTreeMap::new();
        for (name, state) in &self.operators {
            let mut state = lock(state);
            operators.insert(name.clone(), (state.describe().kind, state.changes().map_err(|e| e.at(name))?));
        }
        if std::mem::replace(&mut lock(&self.stored).writing, true) {
            return Err(Error::bug("a checkpoint was begun while another was being written"));
        }
        let writing = Writing(Arc::clone(&self.stored));
        let (disk, dir) = (Arc::clone(&self.disk), self.dir.clone());
        Ok(Box::pin(async move {
            let Stored { name, files } = Capture { batch, operators }.store(disk, dir).await?;
            let mut stored = lock(&writing.0);
            stored.manifests.insert(name.clone(), files);
            stored.newest = Some(name.clone());
            drop(stored);
            Ok(name)
        }))
    }

    /// As [`millstream_core::runner::RunnerState::restore`].
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Corrupt`] for a file that is missing or not what was written, by name;
    /// [`millstream_core::ErrorKind::Query`] where the operators, or their tables, are not those of the
    /// checkpoint. The state is then what it was, unless an operator failed to take over what was read.
    pub fn restore(&mut self, manifest: &str) -> Result<()> {
        let read = read_manifest(self.disk.as_ref(), &self.dir, manifest)?;
        read.check(manifest, &self.describe().into_iter().collect())?;
        let mut restored = read_operators(self.disk.as_ref(), &self.dir, &read)?;
        for (name, state) in &self.operators {
            let saved = restored.remove(name).unwrap_or_default();
            lock(state).restore(saved).map_err(|e| e.at(format!("restoring {name} from {manifest}")))?;
        }
        let mut stored = lock(&self.stored);
        stored.manifests.insert(manifest.to_string(), read.files.into_iter().map(|f| f.name).collect());
        stored.newest = Some(manifest.to_string());
        Ok(())
    }

    /// As [`millstream_core::runner::RunnerState::retain`]. While a checkpoint is being written nothing is
    /// removed; the next call will.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Corrupt`] where one of these manifests is missing or not what was
    /// written: nothing is removed then.
    pub fn retain(&mut self, manifests: &[String]) -> Result<()> {
        let mut stored = lock(&self.stored);
        if stored.writing {
            return Ok(());
        }
        let kept: BTreeSet<String> = manifests.iter().cloned().chain(stored.newest.clone()).collect();
        stored.manifests.retain(|name, _| kept.contains(name));
        for name in &kept {
            if !stored.manifests.contains_key(name) {
                let read = read_manifest(self.disk.as_ref(), &self.dir, name)?;
                stored.manifests.insert(name.clone(), read.files.into_iter().map(|f| f.name).collect());
            }
        }
        let needed: BTreeSet<&String> =
            stored.manifests.iter().flat_map(|(m, files)| files.iter().chain([m])).collect();
        let failed = |e: std::io::Error| {
            let dir = self.dir.display();
            Error::config(format!("old checkpoints in {dir} cannot be removed: see to its permissions")).caused_by(e)
        };
        for path in self.disk.list(&self.dir).map_err(failed)? {
            let Some(name) = path.file_name().and_then(|n| n.to_str()).map(String::from) else { continue };
            let ours = [SEGMENTS, MANIFEST, PART].iter().any(|ending| name.ends_with(ending));
            if ours && !needed.contains(&name) {
                self.disk.remove(&self.dir.join(&name)).map_err(failed)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for StateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operators: Vec<&String> = self.operators.keys().collect();
        f.debug_struct("StateStore").field("dir", &self.dir).field("operators", &operators).finish_non_exhaustive()
    }
}
