//! The keys of an index, by slot, in the form that their types allow.

use xxhash_rust::xxh3::xxh3_64;

use crate::chunked::Chunked;
use crate::encode::{ByteKeys, Packed, Words};
use crate::hash::mix;
use crate::index::NO_SLOT;

/// Keys by slot.
pub(crate) trait KeyStore {
    /// The keys of one call.
    type Keys;
    fn hash(keys: &Self::Keys, row: usize) -> u32;
    fn hash_of(&self, slot: u32) -> u32;
    fn equals(&self, slot: u32, keys: &Self::Keys, row: usize) -> bool;
    fn write(&mut self, slot: u32, keys: &Self::Keys, row: usize);
    fn clear(&mut self, slot: u32);
    fn bytes(&self) -> usize;
}

/// Keys of at most 8 bytes.
#[derive(Debug)]
pub(crate) struct WordStore {
    words: Chunked<u64>,
    /// The slot of the NULL key.
    null: u32,
}

const NULL_HASH: u32 = 0x6E75_6C6C;

#[inline]
fn word_hash(word: u64) -> u32 {
    (mix(word) >> 32) as u32
}

#[inline]
fn bytes_hash(bytes: &[u8]) -> u32 {
    (xxh3_64(bytes) >> 32) as u32
}

impl WordStore {
    pub(crate) fn new() -> Self {
        Self { words: Chunked::new(1, 0), null: NO_SLOT }
    }
}

impl KeyStore for WordStore {
    type Keys = Words;

    #[inline]
    fn hash(keys: &Words, row: usize) -> u32 {
        keys.get(row).map_or(NULL_HASH, word_hash)
    }

    fn hash_of(&self, slot: u32) -> u32 {
        if slot == self.null { NULL_HASH } else { word_hash(self.words.get(slot as usize)) }
    }

    #[inline]
    fn equals(&self, slot: u32, keys: &Words, row: usize) -> bool {
        match keys.get(row) {
            Some(word) => slot != self.null && self.words.get(slot as usize) == word,
            None => slot == self.null,
        }
    }

    fn write(&mut self, slot: u32, keys: &Words, row: usize) {
        self.words.grow_to(slot as usize);
        match keys.get(row) {
            Some(word) => self.words.set(slot as usize, word),
            None => self.null = slot,
        }
    }

    fn clear(&mut self, slot: u32) {
        if slot == self.null {
            self.null = NO_SLOT;
        }
    }

    fn bytes(&self) -> usize {
        self.words.bytes()
    }
}

/// Keys of one width.
#[derive(Debug)]
pub(crate) struct PackedStore {
    keys: Chunked<u8>,
}

impl PackedStore {
    pub(crate) fn new(stride: usize) -> Self {
        Self { keys: Chunked::new(stride, 0) }
    }
}

impl KeyStore for PackedStore {
    type Keys = Packed;

    #[inline]
    fn hash(keys: &Packed, row: usize) -> u32 {
        bytes_hash(keys.get(row))
    }

    fn hash_of(&self, slot: u32) -> u32 {
        bytes_hash(self.keys.entry(slot as usize))
    }

    #[inline]
    fn equals(&self, slot: u32, keys: &Packed, row: usize) -> bool {
        self.keys.entry(slot as usize) == keys.get(row)
    }

    fn write(&mut self, slot: u32, keys: &Packed, row: usize) {
        self.keys.grow_to(slot as usize);
        let (to, key) = (self.keys.entry_mut(slot as usize), keys.get(row));
        if to.len() == key.len() {
            to.copy_from_slice(key);
        }
    }

    fn clear(&mut self, _slot: u32) {}

    fn bytes(&self) -> usize {
        self.keys.bytes()
    }
}

/// Keys of any length: up to 15 bytes in place, longer ones in a box.
#[derive(Debug)]
pub(crate) struct ByteStore {
    /// 15 bytes of key and its length; or [`BOXED`] for the length, and the number of the box.
    short: Chunked<u8>,
    long: Vec<Box<[u8]>>,
    long_free: Vec<u32>,
    long_bytes: usize,
    /// The slot of the NULL key.
    null: u32,
}

const SHORT_MAX: usize = 15;
const BOXED: u8 = u8::MAX;

impl ByteStore {
    pub(crate) fn new() -> Self {
        Self {
            short: Chunked::new(SHORT_MAX + 1, 0),
            long: Vec::new(),
            long_free: Vec::new(),
            long_bytes: 0,
            null: NO_SLOT,
        }
    }

    fn box_of(entry: &[u8]) -> Option<usize> {
        match entry.split_last() {
            Some((&BOXED, [a, b, c, d, ..])) => Some(u32::from_le_bytes([*a, *b, *c, *d]) as usize),
            _ => None,
        }
    }

    #[inline]
    fn key(&self, slot: u32) -> &[u8] {
        let entry = self.short.entry(slot as usize);
        if let Some(boxed) = Self::box_of(entry) {
            return self.long.get(boxed).map_or(&[], |key| key);
        }
        let len = entry.last().copied().unwrap_or_default();
        entry.get(..usize::from(len)).unwrap_or_default()
    }
}

impl KeyStore for ByteStore {
    type Keys = ByteKeys;

    #[inline]
    fn hash(keys: &ByteKeys, row: usize) -> u32 {
        keys.get(row).map_or(NULL_HASH, bytes_hash)
    }

    fn hash_of(&self, slot: u32) -> u32 {
        if slot == self.null { NULL_HASH } else { bytes_hash(self.key(slot)) }
    }

    #[inline]
    fn equals(&self, slot: u32, keys: &ByteKeys, row: usize) -> bool {
        match keys.get(row) {
            Some(key) => slot != self.null && self.key(slot) == key,
            None => slot == self.null,
        }
    }

    fn write(&mut self, slot: u32, keys: &ByteKeys, row: usize) {
        self.short.grow_to(slot as usize);
        let Some(key) = keys.get(row) else {
            self.null = slot;
            return;
        };
        let mut entry = [0u8; SHORT_MAX + 1];
        if let Some(to) = entry.get_mut(..key.len()).filter(|_| key.len() <= SHORT_MAX) {
            to.copy_from_slice(key);
            entry[SHORT_MAX] = key.len() as u8;
        } else {
            // There are no more boxes than slots, so that their number fits.
            let boxed = self.long_free.pop().unwrap_or(self.long.len() as u32);
            self.long_bytes += key.len();
            match self.long.get_mut(boxed as usize) {
                Some(free) => *free = key.into(),
                None => self.long.push(key.into()),
            }
            entry[..4].copy_from_slice(&boxed.to_le_bytes());
            entry[SHORT_MAX] = BOXED;
        }
        self.short.entry_mut(slot as usize).copy_from_slice(&entry);
    }

    fn clear(&mut self, slot: u32) {
        if slot == self.null {
            self.null = NO_SLOT;
        }
        let boxed = Self::box_of(self.short.entry(slot as usize));
        if let Some(key) = boxed.and_then(|boxed| self.long.get_mut(boxed)) {
            self.long_bytes -= key.len();
            *key = Box::default();
            self.long_free.extend(boxed.map(|boxed| boxed as u32));
        }
        self.short.entry_mut(slot as usize).fill(0);
    }

    fn bytes(&self) -> usize {
        // An allocation of its own costs about 16 bytes beside what it holds.
        let boxes = self.long.capacity() * size_of::<Box<[u8]>>() + (self.long.len() - self.long_free.len()) * 16;
        self.short.bytes() + boxes + self.long_bytes + self.long_free.capacity() * size_of::<u32>()
    }
}
