//! The keys of an index, by slot, in the form that their types allow.

use xxhash_rust::xxh3::xxh3_64;

use crate::chunked::Chunked;
use crate::encode::{ByteKeys, Packed, Words};
use crate::index::NO_SLOT;
use crate::long_keys::{Address, LongKeys};

/// Keys by slot.
pub(crate) trait KeyStore {
    /// The keys of one call.
    type Keys;
    fn hash(keys: &Self::Keys, row: usize) -> u32;
    fn hash_of(&self, slot: u32) -> u32;
    fn equals(&self, slot: u32, keys: &Self::Keys, row: usize) -> bool;
    fn write(&mut self, slot: u32, keys: &Self::Keys, row: usize);
    /// Writes the keys of some slots, whose buffers are kept as long as their table.
    fn write_kept(&mut self, slots: &[u32], keys: &Self::Keys) {
        (0..).zip(slots).for_each(|(row, slot)| self.write(*slot, keys, row));
    }
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

/// Spreads every bit of a word over all of it: the finalizer of MurmurHash3.
#[inline]
pub(crate) fn mix(mut word: u64) -> u64 {
    word ^= word >> 33;
    word = word.wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    word ^= word >> 33;
    word = word.wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    word ^ (word >> 33)
}

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

/// Keys of any length: up to 15 bytes in place, longer ones in runs.
#[derive(Debug)]
pub(crate) struct ByteStore {
    /// 15 bytes of key and its length; or the address of a long key, and [`LONG`] for the length.
    short: Chunked<u8>,
    long: LongKeys,
    /// The slot of the NULL key.
    null: u32,
}

const SHORT_MAX: usize = 15;
const LONG: u8 = u8::MAX;

impl ByteStore {
    pub(crate) fn new() -> Self {
        Self { short: Chunked::new(SHORT_MAX + 1, 0), long: LongKeys::default(), null: NO_SLOT }
    }

    fn address(entry: &[u8]) -> Option<Address> {
        match entry.split_last() {
            Some((&LONG, address)) => Some(Address::of_bytes(address)),
            _ => None,
        }
    }

    fn set_address(&mut self, slot: u32, address: Address) {
        let mut entry = [LONG; SHORT_MAX + 1];
        if let Some(to) = entry.get_mut(..Address::BYTES) {
            to.copy_from_slice(&address.to_bytes());
        }
        self.short.entry_mut(slot as usize).copy_from_slice(&entry);
    }

    #[inline]
    fn key(&self, slot: u32) -> &[u8] {
        let entry = self.short.entry(slot as usize);
        if let Some(address) = Self::address(entry) {
            return self.long.get(address);
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
        match entry.get_mut(..key.len()).filter(|_| key.len() <= SHORT_MAX) {
            Some(to) => {
                to.copy_from_slice(key);
                entry[SHORT_MAX] = key.len() as u8;
                self.short.entry_mut(slot as usize).copy_from_slice(&entry);
            }
            None => {
                let address = self.long.push(slot, key);
                self.set_address(slot, address);
            }
        }
    }

    fn write_kept(&mut self, slots: &[u32], keys: &ByteKeys) {
        let is_long = |row: usize| keys.get(row).is_some_and(|key| key.len() > SHORT_MAX);
        let long: usize =
            (0..slots.len()).filter(|row| is_long(*row)).filter_map(|row| keys.get(row)).map(<[u8]>::len).sum();
        let shared = match keys {
            ByteKeys::Small(array) if long > 0 && long >= array.values().len() / 2 => array,
            _ => return (0..).zip(slots).for_each(|(row, slot)| self.write(*slot, keys, row)),
        };
        if let Some(last) = slots.iter().max() {
            self.short.grow_to(*last as usize);
        }
        for (row, slot) in slots.iter().enumerate().filter(|(row, _)| !is_long(*row)) {
            self.write(*slot, keys, row);
        }
        let place = |(row, slot): (usize, &u32)| match shared.value_offsets().get(row..row + 2) {
            Some([from, to]) if is_long(row) => Some((*slot, *from as usize, (to - from) as usize)),
            _ => None,
        };
        for (slot, address) in self.long.share(shared.values(), slots.iter().enumerate().filter_map(place)) {
            self.set_address(slot, address);
        }
    }

    fn clear(&mut self, slot: u32) {
        if slot == self.null {
            self.null = NO_SLOT;
        }
        let address = Self::address(self.short.entry(slot as usize));
        self.short.entry_mut(slot as usize).fill(0);
        let Some((run, slots)) = address.and_then(|address| self.long.remove(address)) else { return };
        for slot in slots {
            let address = Self::address(self.short.entry(slot as usize));
            if let Some(address) = address.filter(|address| LongKeys::lies_in(*address, run)) {
                let key = self.long.get(address).to_vec();
                let address = self.long.push(slot, &key);
                self.set_address(slot, address);
            }
        }
        self.long.drop_run(run);
    }

    fn bytes(&self) -> usize {
        self.short.bytes() + self.long.bytes()
    }
}
