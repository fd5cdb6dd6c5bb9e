//! The key index: from a key to its slot, a small number that is reused when the key is gone.
//!
//! A hash table of slots ([`crate::entries`]); the keys themselves lie beside it, by slot, in the form that their types
//! allow.
//! Past some thousand keys it is split into shards by hash, so that one insertion never re-hashes more than
//! a shard.

use std::hint::black_box;
use std::ops::Range;

use millstream_core::{Error, Result};

use crate::encode::{EncodedKeys, KeyEncoder};
use crate::entries::{Entries, Place, entry, hash_of};
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

    /// Slots are below this number.
    pub(crate) fn slots_end(&self) -> u32 {
        each!(self, index => index.slots_ever())
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

/// Hash tables of slots over keys by slot.
#[derive(Debug)]
pub(crate) struct Index<S> {
    shards: Vec<Entries>,
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

    fn slots_ever(&self) -> u32 {
        self.ever
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

impl<S: KeyStore> Index<S> {
    fn new(store: S) -> Self {
        Self { shards: vec![Entries::default()], store, slots: Slots::default(), len: 0 }
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
        let same = |slot| self.store.equals(slot, keys, row);
        self.shards.get(self.shard(hash)).map_or(NO_SLOT, |shard| shard.find(hash, same))
    }

    /// Finds a block of keys in three passes. In a large index every step waits for memory; steps that do not
    /// depend on each other, nor on what an earlier one has found, wait together.
    fn find_block(&self, keys: &S::Keys, rows: Range<usize>, found: &mut Vec<u32>) {
        let begin = found.len();
        let mut firsts = [(0u32, 0u64); BLOCK];
        for (row, first) in rows.clone().zip(&mut firsts) {
            let hash = S::hash(keys, row);
            *first = (hash, self.first(hash));
        }
        for (_, (hash, first)) in rows.clone().zip(&firsts) {
            let shard = self.shards.get(self.shard(*hash));
            found.push(shard.map_or(NO_SLOT, |shard| shard.find_from(*first, *hash)));
        }
        for ((row, slot), (hash, _)) in rows.zip(found.iter_mut().skip(begin)).zip(&firsts) {
            // Another key of the same 32 bits: look again, at the keys.
            if *slot != NO_SLOT && !self.store.equals(*slot, keys, row) {
                *slot = self.find(keys, row, *hash);
            }
        }
    }

    #[inline]
    fn first(&self, hash: u32) -> u64 {
        self.shards.get(self.shard(hash)).map_or(0, |shard| shard.first(hash))
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
        let mut rows = rows.fuse();
        let mut block = Vec::with_capacity(BLOCK);
        loop {
            block.clear();
            block.extend(rows.by_ref().take(BLOCK));
            if block.is_empty() {
                return Ok(());
            }
            let missing = |row: &usize| slots.get(*row) == Some(&NO_SLOT);
            // Read for nothing but to have the lines at hand when the keys are put there.
            let read = block.iter().filter(|row| missing(row)).map(|row| self.first(S::hash(keys, *row)));
            black_box(read.fold(0, |all, first| all ^ first));
            for row in &block {
                if let Some(slot) = slots.get_mut(*row).filter(|slot| **slot == NO_SLOT) {
                    *slot = self.insert(keys, *row, new)?;
                }
            }
        }
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
            shard.insert_unique(entry(hash, slot));
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
        let (store, slots) = (&self.store, &mut self.slots);
        let place = shard.find_or_insert(hash, |slot| store.equals(slot, keys, row), || slots.take())?;
        let slot = match place {
            // An earlier row is the same key.
            Place::Found(slot) => return Ok(slot),
            Place::New(slot) => slot,
        };
        self.store.write(slot, keys, row);
        self.len += 1;
        new.push(slot);
        Ok(slot)
    }

    fn remove(&mut self, slot: u32) {
        let hash = self.store.hash_of(slot);
        let shard = self.shard(hash);
        let Some(shard) = self.shards.get_mut(shard) else { return };
        if shard.remove(hash, slot) {
            self.store.clear(slot);
            self.slots.remove(slot);
            self.len -= 1;
        }
    }

    fn slots(&mut self) -> &mut Slots {
        &mut self.slots
    }

    fn slots_ever(&self) -> u32 {
        self.slots.ever
    }

    fn split(&mut self) {
        let mut shards: Vec<Entries> = Vec::new();
        shards.resize_with(SHARDS, || Entries::with_capacity(2 * LARGE / SHARDS));
        for entry in self.shards.iter_mut().flat_map(Entries::drain) {
            if let Some(shard) = shards.get_mut(hash_of(entry) as usize & (SHARDS - 1)) {
                shard.insert_unique(entry);
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
            shard.reserve(room);
        }
    }

    fn bytes(&self) -> usize {
        let tables: usize = self.shards.iter().map(Entries::bytes).sum();
        tables + self.store.bytes() + self.slots.bytes()
    }
}
