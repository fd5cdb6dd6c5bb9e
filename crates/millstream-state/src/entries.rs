//! The hash table of a key index: words in one array, found by stepping from a first place to the next.
//!
//! A word holds 32 bits of a key's hash above its slot, so that growing does not read the keys, and nearly every look-up
//! reads one line of memory. It is that line which a large table waits for: [`Entries::first`] reads it without looking
//! at it, so that the reads of many keys are under way at once.

use crate::index::NO_SLOT;

/// No entry; no key has [`NO_SLOT`].
const EMPTY: u64 = u64::MAX;
/// Places of the smallest table.
const PLACES_MIN: usize = 4;

/// Slots by hash. There are as many places as a power of two, at most three quarters of them taken.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    words: Vec<u64>,
    len: usize,
}

#[inline]
pub(crate) fn entry(hash: u32, slot: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(slot)
}

#[inline]
pub(crate) fn hash_of(entry: u64) -> u32 {
    (entry >> 32) as u32
}

/// Spreads the 32 bits over a word: keys of one shard differ in their lower bits only by it.
#[inline]
fn spread(hash: u32) -> usize {
    let wide = u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (wide ^ (wide >> 32)) as usize
}

impl Entries {
    pub(crate) fn with_capacity(keys: usize) -> Self {
        let mut entries = Self::default();
        entries.reserve(keys);
        entries
    }

    #[inline]
    fn mask(&self) -> usize {
        self.words.len().wrapping_sub(1)
    }

    #[inline]
    fn word(&self, at: usize) -> u64 {
        self.words.get(at).copied().unwrap_or(EMPTY)
    }

    /// The word that a search for this hash begins with.
    #[inline]
    pub(crate) fn first(&self, hash: u32) -> u64 {
        self.word(spread(hash) & self.mask())
    }

    /// The slot of the first entry of this hash, where `first` is the word that [`Entries::first`] answered.
    #[inline]
    pub(crate) fn find_from(&self, first: u64, hash: u32) -> u32 {
        if first == EMPTY {
            NO_SLOT
        } else if hash_of(first) == hash {
            first as u32
        } else {
            self.find(hash, |_| true)
        }
    }

    /// The slot of this hash for which `same` holds.
    #[inline]
    pub(crate) fn find(&self, hash: u32, same: impl Fn(u32) -> bool) -> u32 {
        self.seek(hash, same).unwrap_or(NO_SLOT)
    }

    /// As [`Entries::find`]; else the place at which a search ends.
    #[inline]
    fn seek(&self, hash: u32, same: impl Fn(u32) -> bool) -> Result<u32, usize> {
        let mask = self.mask();
        let mut at = spread(hash) & mask;
        // There is an empty place, or no place at all.
        loop {
            match self.word(at) {
                EMPTY => return Err(at),
                word if hash_of(word) == hash && same(word as u32) => return Ok(word as u32),
                _ => at = (at + 1) & mask,
            }
        }
    }

    /// The slot for which `same` holds; else the one that `new` makes, which is then here.
    #[inline]
    pub(crate) fn find_or_insert<E>(
        &mut self,
        hash: u32,
        same: impl Fn(u32) -> bool,
        new: impl FnOnce() -> Result<u32, E>,
    ) -> Result<Place, E> {
        self.grow_for_one();
        match self.seek(hash, same) {
            Ok(slot) => Ok(Place::Found(slot)),
            Err(at) => {
                let slot = new()?;
                self.set(at, entry(hash, slot));
                self.len += 1;
                Ok(Place::New(slot))
            }
        }
    }

    /// Takes in an entry that is not here.
    pub(crate) fn insert_unique(&mut self, entry: u64) {
        self.grow_for_one();
        self.place(entry);
        self.len += 1;
    }

    fn place(&mut self, entry: u64) {
        if let Err(at) = self.seek(hash_of(entry), |_| false) {
            self.set(at, entry);
        }
    }

    #[inline]
    fn set(&mut self, at: usize, entry: u64) {
        if let Some(word) = self.words.get_mut(at) {
            *word = entry;
        }
    }

    /// Takes an entry out; answers whether it was here.
    pub(crate) fn remove(&mut self, hash: u32, slot: u32) -> bool {
        let (mask, gone) = (self.mask(), entry(hash, slot));
        let mut hole = spread(hash) & mask;
        loop {
            match self.word(hole) {
                EMPTY => return false,
                word if word == gone => break,
                _ => hole = (hole + 1) & mask,
            }
        }
        // What a search would now miss moves into the hole.
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let word = self.word(at);
            if word == EMPTY {
                break;
            }
            let begin = spread(hash_of(word)) & mask;
            if at.wrapping_sub(begin) & mask >= at.wrapping_sub(hole) & mask {
                self.set(hole, word);
                hole = at;
            }
        }
        self.set(hole, EMPTY);
        self.len -= 1;
        true
    }

    /// All entries; none is left.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = u64> + use<> {
        std::mem::take(self).words.into_iter().filter(|word| *word != EMPTY)
    }

    /// Room for so many keys in all.
    pub(crate) fn reserve(&mut self, keys: usize) {
        let places = (keys * 4).div_ceil(3).next_power_of_two().max(PLACES_MIN);
        if places > self.words.len() {
            let words = std::mem::replace(&mut self.words, vec![EMPTY; places]);
            words.into_iter().filter(|word| *word != EMPTY).for_each(|word| self.place(word));
        }
    }

    #[inline]
    fn grow_for_one(&mut self) {
        if (self.len + 1) * 4 > self.words.len() * 3 {
            self.reserve((self.len + 1).max(self.words.len()));
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.words.capacity() * size_of::<u64>()
    }
}

/// Where a key was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Found(u32),
    New(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes that meet often: a few places, and some that are the same.
    fn hash(key: u32) -> u32 {
        key / 3 * 7919 % 50
    }

    #[test]
    fn what_was_put_in_and_not_taken_out_is_found() {
        let mut entries = Entries::default();
        let mut model = std::collections::BTreeSet::new();
        let mut random = 1u32;
        for _ in 0..20_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let key = (random >> 8) % 200;
            if random % 5 < 2 {
                assert_eq!(entries.remove(hash(key), key), model.remove(&key));
            } else {
                let expected = if model.insert(key) { Place::New(key) } else { Place::Found(key) };
                let place = entries.find_or_insert(hash(key), |slot| slot == key, || Ok::<_, ()>(key));
                assert_eq!(place, Ok(expected));
            }
            assert_eq!(entries.len, model.len());
        }
        for key in 0..200 {
            let found = entries.find(hash(key), |slot| slot == key);
            assert_eq!(found != NO_SLOT, model.contains(&key), "{key}");
            let some = entries.find_from(entries.first(hash(key)), hash(key));
            assert_eq!(some != NO_SLOT, model.iter().any(|k| hash(*k) == hash(key)), "{key}");
        }
        let mut slots: Vec<u32> = entries.drain().map(|entry| entry as u32).collect();
        slots.sort_unstable();
        assert_eq!(slots, model.into_iter().collect::<Vec<_>>());
        assert_eq!((entries.len, entries.find(1, |_| true)), (0, NO_SLOT));
    }

    #[test]
    fn room_that_was_asked_for_is_not_made_again() {
        let mut entries = Entries::with_capacity(1_000);
        let bytes = entries.bytes();
        (0..1_000).for_each(|slot| entries.insert_unique(entry(hash(slot), slot)));
        assert_eq!(entries.bytes(), bytes);
        entries.insert_unique(entry(9, 1_000));
        (1_001..2_000).for_each(|slot| entries.insert_unique(entry(slot * 31, slot)));
        assert_eq!(entries.find(999 / 3 * 7919 % 50, |slot| slot == 999), 999);
        assert!(entries.len == 2_000 && entries.words.len() == 4_096);
    }
}
