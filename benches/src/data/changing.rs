//! Rows of a table that changes: keys in groups, each with a value that is another in each round.
//!
//! What a table holds after so many updates is known without having it: the value of a key is a function of the
//! key and of how often it was updated, and that follows from its place in the shuffle by which updates walk the keys.

use std::io::{Result, Write};

use crate::stats::Random;

/// Keys in a group.
pub const GROUP: u64 = 4;
/// Values lie below this.
const VALUES: u64 = 100_000;

/// A permutation of the numbers below `n` that looks random, and can be asked in both directions.
///
/// A Feistel network over the next even number of bits; numbers past `n` are walked on.
#[derive(Clone, Copy, Debug)]
pub struct Shuffle {
    n: u64,
    half: u32,
    seed: u64,
}

impl Shuffle {
    /// Of the numbers below `n`, which is not 0.
    pub fn new(n: u64, seed: u64) -> Self {
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        Self { n, half: bits.div_ceil(2).max(1), seed }
    }

    /// The number at a place.
    pub fn at(&self, place: u64) -> u64 {
        self.walk(place, |x| (0..4).fold(x, |x, round| self.round(x, round)))
    }

    /// The place of a number.
    pub fn place_of(&self, number: u64) -> u64 {
        self.walk(number, |x| (0..4).rev().fold(x, |x, round| self.back(x, round)))
    }

    fn walk(&self, from: u64, step: impl Fn(u64) -> u64) -> u64 {
        let mut x = step(from % self.n);
        while x >= self.n {
            x = step(x);
        }
        x
    }

    fn round(&self, x: u64, round: u64) -> u64 {
        let (left, right) = self.halves(x);
        right << self.half | (left ^ self.mix(right, round))
    }

    fn back(&self, x: u64, round: u64) -> u64 {
        let (left, right) = self.halves(x);
        (right ^ self.mix(left, round)) << self.half | left
    }

    fn halves(&self, x: u64) -> (u64, u64) {
        (x >> self.half, x & self.mask())
    }

    fn mask(&self) -> u64 {
        (1 << self.half) - 1
    }

    fn mix(&self, half: u64, round: u64) -> u64 {
        Random::new(self.seed ^ half << 8 ^ round).next() & self.mask()
    }
}

/// A table of `keys` keys, and the updates that come to it.
#[derive(Clone, Copy, Debug)]
pub struct Changing {
    /// Keys from 0 on; [`GROUP`] of them to a group.
    pub keys: u64,
    load: Shuffle,
    updates: Shuffle,
}

impl Changing {
    /// A table of so many keys.
    pub fn new(keys: u64) -> Self {
        Self { keys, load: Shuffle::new(keys, 1), updates: Shuffle::new(keys, 2) }
    }

    /// The key of the n-th row that is loaded.
    pub fn loaded(&self, n: u64) -> u64 {
        self.load.at(n)
    }

    /// The key of the n-th update, and how often it is updated with it. All keys are updated before one is again.
    pub fn updated(&self, n: u64) -> (u64, u64) {
        (self.updates.at(n % self.keys), n / self.keys + 1)
    }

    /// How often a key was updated by the first `updates`.
    pub fn rounds(&self, key: u64, updates: u64) -> u64 {
        updates / self.keys + u64::from(self.updates.place_of(key) < updates % self.keys)
    }

    /// The values of a group after so many updates.
    pub fn group(&self, group: u64, updates: u64) -> impl Iterator<Item = i64> + '_ {
        (group * GROUP..((group + 1) * GROUP).min(self.keys)).map(move |key| value(key, self.rounds(key, updates)))
    }

    /// How many groups there are.
    pub fn groups(&self) -> u64 {
        self.keys.div_ceil(GROUP)
    }
}

/// The value of a key that was updated so often.
pub fn value(key: u64, round: u64) -> i64 {
    (Random::new(key << 20 | round).next() % VALUES) as i64
}

/// A row: `{"k":..,"g":..,"v":..,"ts":..}`.
pub fn row(line: &mut Vec<u8>, key: u64, round: u64, ts: u64) -> Result<()> {
    write!(line, "{{\"k\":{key},\"g\":{},\"v\":{},\"ts\":{ts}}}", key / GROUP, value(key, round))
}

/// The row as Debezium tells of it: of an update, with the row before.
pub fn envelope(line: &mut Vec<u8>, key: u64, round: u64, ts: u64) -> Result<()> {
    line.extend_from_slice(b"{\"before\":");
    match round.checked_sub(1) {
        Some(before) => row(line, key, before, 0)?,
        None => line.extend_from_slice(b"null"),
    }
    line.extend_from_slice(b",\"after\":");
    row(line, key, round, 0)?;
    let op = if round == 0 { 'c' } else { 'u' };
    write!(line, ",\"op\":\"{op}\",\"ts_ms\":{ts}}}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_shuffle_has_every_number_once_and_is_turned_round() {
        for n in [1, 2, 7, 1000, 4096, 10_007] {
            let shuffle = Shuffle::new(n, 5);
            let mut numbers: Vec<u64> = (0..n).map(|i| shuffle.at(i)).collect();
            assert!((0..n).all(|i| shuffle.place_of(numbers[i as usize]) == i), "{n}");
            assert!(
                n < 1000
                    || numbers.windows(2).filter(|w| w[0] < w[1]).count().abs_diff(n as usize / 2) < n as usize / 10
            );
            numbers.sort_unstable();
            assert!(numbers.into_iter().eq(0..n), "{n}");
        }
    }

    #[test]
    fn the_table_after_some_updates_is_what_the_rows_make_of_it() {
        let table = Changing::new(1000);
        let mut rows: HashMap<u64, i64> = (0..1000).map(|n| (table.loaded(n), value(table.loaded(n), 0))).collect();
        for n in 0..2345 {
            let (key, round) = table.updated(n);
            rows.insert(key, value(key, round));
        }
        assert_eq!(rows.len(), 1000);
        let groups = (0..table.groups()).flat_map(|g| table.group(g, 2345));
        assert!(groups.eq((0..1000).map(|key| rows[&key])));
    }
}
