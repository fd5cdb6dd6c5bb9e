//! What becomes of staged changes in a random history, beside a model of the same: installed, discarded, kept, restored.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use futures::executor::block_on;
use millstream_core::batch::BatchId;
use millstream_state::{OperatorState, StateStore};
use proptest::prelude::*;

use crate::disk::MemDisk;

const CHECKPOINTS_KEPT: usize = 3;

#[derive(Clone, Debug)]
pub enum Turn {
    Install,
    Discard,
    Checkpoint,
    /// One of the checkpoints that are kept.
    Restore(usize),
}

pub fn turns() -> impl Strategy<Value = Turn> {
    prop_oneof![
        5 => Just(Turn::Install),
        2 => Just(Turn::Discard),
        2 => Just(Turn::Checkpoint),
        1 => (0..100usize).prop_map(Turn::Restore),
    ]
}

/// A table in its store, and what a model says is in it.
pub struct Modelled<T, M> {
    pub table: Arc<Mutex<T>>,
    store: StateStore,
    pub installed: M,
    pub staged: M,
    kept: Vec<(String, M)>,
}

impl<T: OperatorState + 'static, M: Clone + Default> Modelled<T, M> {
    pub fn new(table: T) -> Self {
        let table = Arc::new(Mutex::new(table));
        let mut store = StateStore::new(Arc::new(MemDisk::default()), "/state");
        store.register("op", table.clone()).unwrap();
        Self { table, store, installed: M::default(), staged: M::default(), kept: vec![] }
    }

    /// Takes a turn; `batch` is the one that a checkpoint is of.
    pub fn turn(&mut self, turn: &Turn, batch: u64) {
        match turn {
            Turn::Install => {
                self.store.install_all();
                self.installed = self.staged.clone();
            }
            Turn::Discard => {
                self.store.discard_all();
                self.staged = self.installed.clone();
            }
            Turn::Checkpoint => {
                let name = block_on(self.store.checkpoint(BatchId(batch)).unwrap()).unwrap();
                self.kept.push((name, self.installed.clone()));
                if self.kept.len() > CHECKPOINTS_KEPT {
                    self.kept.remove(0);
                }
                self.store.retain(&self.kept.iter().map(|k| k.0.clone()).collect::<Vec<_>>()).unwrap();
            }
            Turn::Restore(which) => {
                if let Some((name, model)) = self.kept.get(which % self.kept.len().max(1)) {
                    self.store.restore(name).unwrap();
                    self.installed = model.clone();
                    self.staged = model.clone();
                }
            }
        }
    }
}
