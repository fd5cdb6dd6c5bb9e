//! The keys of a [`crate::MultiTable`]: an index that knows where each key's lists are.
//!
//! It is not stored: the rows hold their keys, and it is made anew when they are restored. A key is here as long as
//! it has rows on some side.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{Schema, SchemaRef};
use millstream_core::Result;

use crate::index::KeyIndex;
use crate::keys::{Epoch, Keys};
use crate::layout::Layout;

/// Keys and their slots, with what the batch has changed so far.
#[derive(Debug)]
pub(crate) struct KeySet {
    layout: Arc<Layout>,
    index: KeyIndex,
    /// Keys in the installed state.
    len: usize,
    epoch: Epoch,
    /// Slots of keys that had none.
    new: Vec<u32>,
    /// Slots of keys that have lost all rows of a side; some have others, or have new ones.
    bare: Vec<u32>,
}

impl KeySet {
    pub(crate) fn new(keys: SchemaRef) -> Result<Self> {
        Ok(Self::with_layout(Arc::new(Layout::new(keys, Arc::new(Schema::empty()))?)))
    }

    fn with_layout(layout: Arc<Layout>) -> Self {
        let index = KeyIndex::new(&layout.encoder);
        Self { layout, index, len: 0, epoch: Epoch::default(), new: Vec::new(), bare: Vec::new() }
    }

    /// The same columns, and no key. Keys that were looked up before are stale.
    pub(crate) fn clear(&mut self) {
        let mut epoch = self.epoch;
        epoch.end();
        *self = Self { epoch, ..Self::with_layout(Arc::clone(&self.layout)) };
    }

    /// The columns of a key.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.layout.keys
    }

    /// Keys in the installed state.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Slots are below this number.
    pub(crate) fn slots_end(&self) -> u32 {
        self.index.slots_end()
    }

    /// Looks distinct keys up (`rows` of them). Sees what is staged.
    pub(crate) fn find(&self, keys: &[ArrayRef], rows: usize) -> Result<Keys> {
        let mut keys = self.layout.keys_of(keys, rows, self.epoch)?;
        keys.slots = self.index.find_all(&keys.encoded, rows)?;
        Ok(keys)
    }

    /// Whether these keys were looked up here, and none has come or gone since.
    pub(crate) fn check(&self, keys: &Keys) -> Result<()> {
        keys.check(self.epoch)
    }

    /// Gives slots to those of these keys that have none.
    pub(crate) fn insert(&mut self, keys: &mut Keys, picks: &[u32]) -> Result<()> {
        keys.check(self.epoch)?;
        let new = self.new.len();
        let rows = picks.iter().map(|at| *at as usize);
        let inserted = self.index.insert_missing(&keys.encoded, rows, &mut keys.slots, &mut self.new);
        if self.new.len() > new {
            self.epoch.end();
            keys.epoch = self.epoch;
        }
        inserted
    }

    /// The slot of each of these keys, which are stored in this form, and are here from now on.
    pub(crate) fn restore(&mut self, columns: &[ArrayRef], rows: usize) -> Result<Vec<u32>> {
        let mut new = Vec::new();
        let slots = self.index.insert_all(&self.layout.encoder.encode(columns, rows)?, rows, &mut new)?;
        self.len += new.len();
        Ok(slots)
    }

    /// A key has lost all rows of a side.
    pub(crate) fn may_go(&mut self, slot: u32) {
        self.bare.push(slot);
    }

    /// What was staged becomes the state: keys without rows go.
    pub(crate) fn install(&mut self, is_bare: impl Fn(u32) -> bool) {
        let mut bare = std::mem::take(&mut self.bare);
        bare.sort_unstable();
        bare.dedup();
        bare.retain(|slot| is_bare(*slot));
        if !bare.is_empty() {
            self.epoch.end();
        }
        self.len = self.len + self.new.len() - bare.len();
        bare.iter().for_each(|slot| self.index.remove(*slot));
        self.new = Vec::new();
    }

    /// What was staged is forgotten.
    pub(crate) fn discard(&mut self) {
        self.bare.clear();
        let new = std::mem::take(&mut self.new);
        if !new.is_empty() {
            self.epoch.end();
        }
        new.iter().for_each(|slot| self.index.remove(*slot));
    }

    pub(crate) fn bytes(&self) -> usize {
        self.index.bytes() + (self.new.capacity() + self.bare.capacity()) * size_of::<u32>()
    }
}
