//! The key index: from a key to its slot, a small number that is reused when the key is gone.
//!
//! A hash table of slots; the keys themselves lie beside it, by slot, in the form that their types allow.
//! Past some thousand keys it is split into shards by hash, so that one insertion never re-hashes more than
//! a shard.

use std::ops::Range;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use millstream_core::{Error, Result};

use crate::encode::{EncodedKeys, KeyEncoder};
use crate::key_store::{ByteStore, KeyStore, PackedStore, WordStore};

/// No slot: the key is not there. It bounds a table at 2^32 - 1 keys.
pub(crate) const NO_SLOT: u32 = u32::MAX;

/// Shards of a large index.
const SHARDS: usize = 128;
/// Keys that are looked up together.
const BLOCK: usize = 256;
/// Keys from which on an index is large.
const LARGE: usize = 1 << 14;

/// The index of one table, in the form that its key types allow.
#[derive(Debug)]
pub(crate) enum KeyIndex {
    /// Nothing is looked up by key: whoever has a key knows its slot.
    Slots(Slots),
    Words(Index<WordStore>),
    Packed(Index<PackedStore>),
    Bytes(Index<ByteStore>),
}

macro_rules! each {
    ($self:expr, $index:ident => $body:expr) => {
        match $self {
            KeyIndex::Slots($index) => $body,
            KeyIndex::Words($index) => $body,
            KeyIndex::Packed($index) => $body,
            KeyIndex::Bytes($index) => $body,
        }
    };
}

impl KeyIndex {
    pub(crate) fn new(encoder: &KeyEncoder) -> Self {
        match encoder {
            KeyEncoder::Word => Self::Words(Index::new(WordStore::new())),
            KeyEncoder::Packed { stride, .. } => Self::Packed(Index::new(PackedStore::new(*stride))),
            KeyEncoder::Text | KeyEncoder::Row(_) => Self::Bytes(Index::new(ByteStore::new())),
        }
    }

    /// The slot of each key, or [`NO_SLOT`].
    pub(crate) fn find_all(&self, keys: &EncodedKeys, rows: usize) -> Result<Vec<u32>> {
        match (self, keys) {
            (Self::Words(index), EncodedKeys::Words(keys)) => Ok(index.find_all(keys, rows)),
            (Self::Packed(index), EncodedKeys::Packed(keys)) => Ok(index.find_all(keys, rows)),
            (Self::Bytes(index), EncodedKeys::Bytes(keys)) => Ok(index.find_all(keys, rows)),
            _ => Err(Error::bug("keys of another encoding than the index's")),
        }
    }

    /// The slot of each key. A key that was not there gets one, which is added to `new`, also where a later
    /// key fails.
    pub(crate) fn insert_all(&mut self, keys: &EncodedKeys, rows: usize, new: &mut Vec<u32>) -> Result<Vec<u32>> {
        match (self, keys) {
            (Self::Words(index), EncodedKeys::Words(keys)) => index.insert_all(keys, rows, new),
            (Self::Packed(index), EncodedKeys::Packed(keys)) => index.insert_all(keys, rows, new),
            (Self::Bytes(index), EncodedKeys::Bytes(keys)) => index.insert_all(keys, rows, new),
            _ => Err(Error::bug("keys of another encoding than the index's")),
        }
    }

    /// Gives a slot to each key that has none in `slots`; the new slots are added to `new`, also where a later key
    /// fails.
    pub(crate) fn insert_missing(
        &mut self,
        keys: &EncodedKeys,
        rows: impl Iterator<Item = usize>,
        slots: &mut [u32],
        new: &mut Vec<u32>,
    ) -> Result<()> {
        match (self, keys) {
            (Self::Words(index), EncodedKeys::Words(keys)) => index.insert_missing(keys, rows, slots, new),
            (Self::Packed(index), EncodedKeys::Packed(keys)) => index.insert_missing(keys, rows, slots, new),
            (Self::Bytes(index), EncodedKeys::Bytes(keys)) => index.insert_missing(keys, rows, slots, new),
            _ => Err(Error::bug("keys of another encoding than the index's")),
        }
    }

    /// A slot for each key, none of which is there yet and no two of which are equal: nothing is looked up. The
    /// keys' buffers are kept as long as the table, by its segments or by the index.
    pub(crate) fn insert_unique(&mut self, keys: &EncodedKeys, rows: usize) -> Result<Vec<u32>> {
        match (self, keys) {
            (Self::Words(index), EncodedKeys::Words(keys)) => index.insert_unique(keys, rows),
            (Self::Packed(index), EncodedKeys::Packed(keys)) => index.insert_unique(keys, rows),
            (Self::Bytes(index), EncodedKeys::Bytes(keys)) => index.insert_unique(keys, rows),
            _ => Err(Error::bug("keys of another encoding than the index's")),
        }
    }

    /// Slots for so many keys, for a table that looks nothing up.
    pub(crate) fn new_slots(&mut self, keys: usize) -> Result<Vec<u32>> {
        match self {
            Self::Slots(slots) => (0..keys).map(|_| slots.take()).collect(),
            _ => Err(Error::bug("a table that is looked up by key was asked for slots without keys")),
        }
    }

    /// Forgets the keys: from now on whoever has one knows its slot.
    pub(crate) fn forget_keys(&mut self) {
        *self = Self::Slots(std::mem::take(each!(self, index => index.slots())));
    }

    /// Takes a key out; its slot is free for another.
    pub(crate) fn remove(&mut self, slot: u32) {
        each!(self, index => index.remove(slot));
    }

    /// Room for so many keys.
    pub(crate) fn reserve(&mut self, keys: usize) {
        each!(self, index => index.reserve(keys));
    }

    pub(crate) fn bytes(&self) -> usize {
        each!(self, index => index.bytes())
    }
}

/// A hash table of slots over keys by slot. An entry holds 32 bits of the key's hash above its slot, so that
/// growing does not read the keys.
#[derive(Debug)]
pub(crate) struct Index<S> {
    shards: Vec<HashTable<u64>>,
    store: S,
    slots: Slots,
    len: usize,
}

/// The slots of a table: small numbers, used again.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    free: Vec<u32>,
    /// Slots ever given out.
    ever: u32,
}

impl Slots {
    /// A slot that was given back, or the next one.
    fn take(&mut self) -> Result<u32> {
        match self.free.pop() {
            Some(slot) => Ok(slot),
            None if self.ever == NO_SLOT => Err(full()),
            None => {
                self.ever += 1;
                Ok(self.ever - 1)
            }
        }
    }

    fn remove(&mut self, slot: u32) {
        self.free.push(slot);
    }

    fn slots(&mut self) -> &mut Self {
        self
    }

    fn reserve(&mut self, _keys: usize) {}

    fn bytes(&self) -> usize {
        self.free.capacity() * size_of::<u32>()
    }
}

fn full() -> Error {
    Error::config(format!(
        "a table of state holds {NO_SLOT} keys, and no more fit: bound the state (a window, an interval in a join)"
    ))
}

/// Spreads the 32 bits over a word: the table takes the position from its low bits and a tag from the top.
#[inline]
fn spread(hash: u32) -> u64 {
    let wide = u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    wide ^ (wide >> 32)
}

#[inline]
fn entry_hash(entry: &u64) -> u64 {
    spread((entry >> 32) as u32)
}

impl<S: KeyStore> Index<S> {
    fn new(store: S) -> Self {
        Self { shards: vec![HashTable::new()], store, slots: Slots::default(), len: 0 }
    }

    #[inline]
    fn shard(&self, hash: u32) -> usize {
        hash as usize & (self.shards.len() - 1)
    }

    fn find_all(&self, keys: &S::Keys, rows: usize) -> Vec<u32> {
        let mut found = Vec::with_capacity(rows);
        for from in (0..rows).step_by(BLOCK) {
            self.find_block(keys, from..rows.min(from + BLOCK), &mut found);
        }
        found
    }

    fn find(&self, keys: &S::Keys, row: usize, hash: u32) -> u32 {
        let same = |entry: &u64| (entry >> 32) as u32 == hash && self.store.equals(*entry as u32, keys, row);
        let entry = self.shards.get(self.shard(hash)).and_then(|shard| shard.find(spread(hash), same));
        entry.map_or(NO_SLOT, |entry| *entry as u32)
    }

    /// Finds a block of keys in two passes. In a large index every step waits for memory; steps that do not
    /// depend on each other wait together.
    fn find_block(&self, keys: &S::Keys, rows: Range<usize>, found: &mut Vec<u32>) {
        let first = found.len();
        for row in rows.clone() {
            let hash = S::hash(keys, row);
            let shard = self.shards.get(self.shard(hash));
            let entry = shard.and_then(|shard| shard.find(spread(hash), |entry| (entry >> 32) as u32 == hash));
            found.push(entry.map_or(NO_SLOT, |entry| *entry as u32));
        }
        for (row, slot) in rows.zip(found.iter_mut().skip(first)) {
            // Another key of the same 32 bits: look again, at the keys.
            if *slot != NO_SLOT && !self.store.equals(*slot, keys, row) {
                *slot = self.find(keys, row, S::hash(keys, row));
            }
        }
    }

    fn insert_all(&mut self, keys: &S::Keys, rows: usize, new: &mut Vec<u32>) -> Result<Vec<u32>> {
        let mut found = Vec::with_capacity(rows);
        for from in (0..rows).step_by(BLOCK) {
            let block = from..rows.min(from + BLOCK);
            self.find_block(keys, block.clone(), &mut found);
            self.insert_missing(keys, block, &mut found, new)?;
        }
        Ok(found)
    }

    fn insert_missing(
        &mut self,
        keys: &S::Keys,
        rows: impl Iterator<Item = usize>,
        slots: &mut [u32],
        new: &mut Vec<u32>,
    ) -> Result<()> {
        for row in rows {
            if let Some(slot) = slots.get_mut(row).filter(|slot| **slot == NO_SLOT) {
                *slot = self.insert(keys, row, new)?;
            }
        }
        Ok(())
    }

    fn insert_unique(&mut self, keys: &S::Keys, rows: usize) -> Result<Vec<u32>> {
        if self.len + rows >= LARGE && self.shards.len() == 1 {
            self.split();
        }
        let mut slots = Vec::with_capacity(rows);
        for row in 0..rows {
            let hash = S::hash(keys, row);
            let slot = self.slots.take()?;
            let shard = self.shard(hash);
            let Some(shard) = self.shards.get_mut(shard) else {
                return Err(Error::bug("an index without shards"));
            };
            shard.insert_unique(spread(hash), u64::from(hash) << 32 | u64::from(slot), entry_hash);
            self.len += 1;
            slots.push(slot);
        }
        self.store.write_kept(&slots, keys);
        Ok(slots)
    }

    fn insert(&mut self, keys: &S::Keys, row: usize, new: &mut Vec<u32>) -> Result<u32> {
        if self.len >= LARGE && self.shards.len() == 1 {
            self.split();
        }
        let hash = S::hash(keys, row);
        let shard = self.shard(hash);
        let Some(shard) = self.shards.get_mut(shard) else {
            return Err(Error::bug("an index without shards"));
        };
        let store = &self.store;
        let same = |entry: &u64| (entry >> 32) as u32 == hash && store.equals(*entry as u32, keys, row);
        let entry = match shard.entry(spread(hash), same, entry_hash) {
            // An earlier row is the same key.
            Entry::Occupied(entry) => return Ok(*entry.get() as u32),
            Entry::Vacant(entry) => entry,
        };
        let slot = self.slots.take()?;
        entry.insert(u64::from(hash) << 32 | u64::from(slot));
        self.store.write(slot, keys, row);
        self.len += 1;
        new.push(slot);
        Ok(slot)
    }

    fn remove(&mut self, slot: u32) {
        let hash = self.store.hash_of(slot);
        let shard = self.shard(hash);
        let Some(shard) = self.shards.get_mut(shard) else { return };
        if let Ok(entry) = shard.find_entry(spread(hash), |entry| *entry as u32 == slot) {
            entry.remove();
            self.store.clear(slot);
            self.slots.remove(slot);
            self.len -= 1;
        }
    }

    fn slots(&mut self) -> &mut Slots {
        &mut self.slots
    }

    fn split(&mut self) {
        let mut shards: Vec<HashTable<u64>> = Vec::new();
        shards.resize_with(SHARDS, || HashTable::with_capacity(2 * LARGE / SHARDS));
        for entry in self.shards.iter_mut().flat_map(HashTable::drain) {
            if let Some(shard) = shards.get_mut((entry >> 32) as usize & (SHARDS - 1)) {
                shard.insert_unique(entry_hash(&entry), entry, entry_hash);
            }
        }
        self.shards = shards;
    }

    fn reserve(&mut self, keys: usize) {
        if keys >= LARGE && self.shards.len() == 1 {
            self.split();
        }
        let each = keys / self.shards.len();
        for shard in &mut self.shards {
            // Shards differ by a few standard deviations: a little room saves a re-hash of most of them.
            let room = each + if each > 64 { each / 32 } else { 0 };
            shard.reserve(room.saturating_sub(shard.len()), entry_hash);
        }
    }

    fn bytes(&self) -> usize {
        let tables: usize = self.shards.iter().map(|s| s.allocation_size() + size_of::<HashTable<u64>>()).sum();
        tables + self.store.bytes() + self.slots.bytes()
    }
}
