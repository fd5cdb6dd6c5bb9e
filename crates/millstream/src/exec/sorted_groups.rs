//! Byte strings in order within groups, each with a small value: in memory, and undone where a batch is.
//!
//! A group is found by the hash of its key, so that a change costs the same among ten groups and among ten million. What
//! a group holds is one run of bytes in order as long as it is short, which is read from its start at the price of one
//! look into memory; a longer one is a tree. One map of everything in order would need some twenty such looks.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::hash::BuildHasher;
use std::marker::PhantomData;

use datafusion::common::Result as DfResult;
use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};

/// A run is a tree when it gets longer than this.
const RUN_BYTES: usize = 1 << 10;
/// Groups from which on they lie in shards, so that no insertion hashes all of them again.
const LARGE: usize = 1 << 14;
const SHARDS: usize = 128;
/// What an entry of a tree costs beside its bytes: the pointer, the value, and its share of a node.
const TREE_ENTRY_BYTES: usize = 48;

/// What is kept with each byte string.
pub trait Kept: Copy {
    /// How many bytes it takes.
    const BYTES: usize;
    /// Writes it.
    fn write(self, to: &mut Vec<u8>);
    /// Reads it from as many bytes.
    fn read(from: &[u8]) -> Self;
}

/// Groups of byte strings in order.
pub struct SortedGroups<V> {
    shards: Vec<HashTable<Slot<V>>>,
    hasher: DefaultHashBuilder,
    len: usize,
    bytes: usize,
    undo: Vec<Undo<V>>,
}

struct Slot<V> {
    hash: u64,
    group: Group<V>,
}

enum Group<V> {
    /// The length of the key and the key; then of each entry its length, its bytes and its value.
    Run(Box<[u8]>),
    Tree(Box<Tree<V>>),
}

struct Tree<V> {
    key: Box<[u8]>,
    entries: BTreeMap<Box<[u8]>, V>,
}

/// What was there before a change.
enum Undo<V> {
    /// The whole group; nothing but its key, where there was none.
    Run(Box<[u8]>),
    /// One entry.
    Entry { key: Box<[u8]>, bytes: Box<[u8]>, before: Option<V> },
}

impl<V: Kept> SortedGroups<V> {
    /// No groups.
    pub fn new() -> Self {
        let shards = vec![HashTable::new()];
        Self { shards, hasher: DefaultHashBuilder::default(), len: 0, bytes: 0, undo: vec![] }
    }

    /// The entries of a group, in order.
    pub fn entries(&self, key: &[u8]) -> Entries<'_, V> {
        let hash = self.hasher.hash_one(key);
        let same = |slot: &Slot<V>| slot.hash == hash && slot.group.key() == key;
        let slot = self.shards.get(shard_of(hash, self.shards.len())).and_then(|shard| shard.find(hash, same));
        match slot.map(|slot| &slot.group) {
            None => Entries::Run(Run { rest: &[], of: PhantomData }),
            Some(Group::Run(run)) => Entries::Run(Run { rest: split_run(run).1, of: PhantomData }),
            Some(Group::Tree(tree)) => Entries::Tree(tree.entries.iter()),
        }
    }

    /// Changes the value of a byte string of a group: from nothing, or to nothing, where it is not there.
    ///
    /// # Errors
    /// That of `change`; nothing is changed then.
    pub fn change(
        &mut self,
        key: &[u8],
        bytes: &[u8],
        change: impl FnOnce(Option<V>) -> DfResult<Option<V>>,
    ) -> DfResult<()> {
        if self.len >= LARGE && self.shards.len() == 1 {
            self.split();
        }
        let hash = self.hasher.hash_one(key);
        let place = shard_of(hash, self.shards.len());
        let Some(shard) = self.shards.get_mut(place) else { return Ok(()) };
        let same = |slot: &Slot<V>| slot.hash == hash && slot.group.key() == key;
        let mut slot = match shard.entry(hash, same, |slot| slot.hash) {
            Entry::Occupied(slot) => slot,
            Entry::Vacant(slot) => {
                if let Some(value) = change(None)? {
                    let run = splice(&empty_run(key), KEY_AT + key.len(), 0, Some((bytes, value)));
                    self.undo.push(Undo::Run(empty_run(key)));
                    self.bytes += run.len() + size_of::<Slot<V>>();
                    self.len += 1;
                    slot.insert(Slot { hash, group: Group::Run(run) });
                }
                return Ok(());
            }
        };
        let (undo, grown) = slot.get_mut().group.change(bytes, change)?;
        self.bytes = self.bytes.saturating_add_signed(grown);
        self.undo.extend(undo);
        if slot.get().group.is_empty() {
            self.bytes = self.bytes.saturating_sub(slot.get().group.bytes() + size_of::<Slot<V>>());
            self.len -= 1;
            slot.remove();
        }
        Ok(())
    }

    /// What was changed stays.
    pub fn install(&mut self) {
        self.undo.clear();
        self.undo.shrink_to(LARGE);
    }

    /// What was changed since is as it was.
    pub fn discard(&mut self) {
        let undo = std::mem::take(&mut self.undo);
        for before in undo.into_iter().rev() {
            match before {
                Undo::Run(run) => self.put_back(run),
                // The change itself can't fail.
                Undo::Entry { key, bytes, before } => _ = self.change(&key, &bytes, |_| Ok(before)),
            }
        }
        self.undo.clear();
    }

    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        self.bytes
    }

    fn put_back(&mut self, run: Box<[u8]>) {
        let (key, entries) = split_run(&run);
        let (hash, gone) = (self.hasher.hash_one(key), entries.is_empty());
        let place = shard_of(hash, self.shards.len());
        let Some(shard) = self.shards.get_mut(place) else { return };
        let same = |slot: &Slot<V>| slot.hash == hash && slot.group.key() == key;
        if let Ok(slot) = shard.find_entry(hash, same) {
            self.bytes = self.bytes.saturating_sub(slot.get().group.bytes() + size_of::<Slot<V>>());
            self.len -= 1;
            slot.remove();
        }
        if !gone {
            self.bytes += run.len() + size_of::<Slot<V>>();
            self.len += 1;
            shard.insert_unique(hash, Slot { hash, group: Group::Run(run) }, |slot| slot.hash);
        }
    }

    fn split(&mut self) {
        let mut shards: Vec<HashTable<Slot<V>>> = vec![];
        shards.resize_with(SHARDS, || HashTable::with_capacity(2 * LARGE / SHARDS));
        for slot in self.shards.iter_mut().flat_map(HashTable::drain) {
            if let Some(shard) = shards.get_mut(shard_of(slot.hash, SHARDS)) {
                shard.insert_unique(slot.hash, slot, |slot| slot.hash);
            }
        }
        self.shards = shards;
    }
}

/// A table takes the position from the low bits and a tag from the top: the shard is told by those between.
fn shard_of(hash: u64, shards: usize) -> usize {
    (hash >> 40) as usize & (shards - 1)
}

impl<V: Kept> Group<V> {
    fn key(&self) -> &[u8] {
        match self {
            Self::Run(run) => split_run(run).0,
            Self::Tree(tree) => &tree.key,
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Run(run) => split_run(run).1.is_empty(),
            Self::Tree(tree) => tree.entries.is_empty(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Run(run) => run.len(),
            Self::Tree(tree) => tree.key.len() + tree.entries.keys().map(|k| k.len() + TREE_ENTRY_BYTES).sum::<usize>(),
        }
    }

    /// Changes an entry: answers what was there before, if it was changed, and by how many bytes the group grew.
    fn change(
        &mut self,
        bytes: &[u8],
        change: impl FnOnce(Option<V>) -> DfResult<Option<V>>,
    ) -> DfResult<(Option<Undo<V>>, isize)> {
        match self {
            Self::Run(run) => {
                let (at, length, before) = locate::<V>(run, bytes);
                let after = change(before)?;
                if before.is_none() && after.is_none() {
                    return Ok((None, 0));
                }
                let new = splice(run, at, length, after.map(|value| (bytes, value)));
                let size = run.len();
                let old = std::mem::replace(run, new);
                if run.len() > RUN_BYTES {
                    *self = Self::Tree(Box::new(Tree::of(run)));
                }
                Ok((Some(Undo::Run(old)), self.bytes() as isize - size as isize))
            }
            Self::Tree(tree) => {
                let before = tree.entries.get(bytes).copied();
                let after = change(before)?;
                let size = (bytes.len() + TREE_ENTRY_BYTES) as isize;
                let grown = match after {
                    Some(value) => {
                        tree.entries.insert(bytes.into(), value);
                        if before.is_none() { size } else { 0 }
                    }
                    None if before.is_none() => return Ok((None, 0)),
                    None => {
                        tree.entries.remove(bytes);
                        -size
                    }
                };
                Ok((Some(Undo::Entry { key: tree.key.clone(), bytes: bytes.into(), before }), grown))
            }
        }
    }
}

impl<V: Kept> Tree<V> {
    fn of(run: &[u8]) -> Self {
        let (key, rest) = split_run(run);
        let entries = Run { rest, of: PhantomData }.map(|(bytes, value)| (Box::from(bytes), value));
        Self { key: key.into(), entries: entries.collect() }
    }
}

/// Where a run's key begins.
const KEY_AT: usize = size_of::<u32>();

fn empty_run(key: &[u8]) -> Box<[u8]> {
    let mut run = Vec::with_capacity(KEY_AT + key.len());
    run.extend_from_slice(&(key.len() as u32).to_le_bytes());
    run.extend_from_slice(key);
    run.into()
}

/// The key of a run, and its entries.
fn split_run(run: &[u8]) -> (&[u8], &[u8]) {
    sized(run).unwrap_or_default()
}

/// Bytes that their length stands before, and what follows them.
fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

/// Where an entry is, how long, and its value; or where it would be.
fn locate<V: Kept>(run: &[u8], bytes: &[u8]) -> (usize, usize, Option<V>) {
    let mut entries = Run::<V> { rest: split_run(run).1, of: PhantomData };
    loop {
        let at = run.len() - entries.rest.len();
        match entries.next() {
            Some((other, _)) if other < bytes => {}
            Some((other, value)) if other == bytes => {
                return (at, run.len() - entries.rest.len() - at, Some(value));
            }
            _ => return (at, 0, None),
        }
    }
}

/// The run with an entry in the place of some bytes.
fn splice<V: Kept>(run: &[u8], at: usize, length: usize, entry: Option<(&[u8], V)>) -> Box<[u8]> {
    let (before, after) = (run.get(..at).unwrap_or_default(), run.get(at + length..).unwrap_or_default());
    let size = entry.map_or(0, |(bytes, _)| size_of::<u32>() + bytes.len() + V::BYTES);
    let mut new = Vec::with_capacity(before.len() + size + after.len());
    new.extend_from_slice(before);
    if let Some((bytes, value)) = entry {
        new.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        new.extend_from_slice(bytes);
        value.write(&mut new);
    }
    new.extend_from_slice(after);
    new.into()
}

/// The entries of a group, in order.
#[derive(Clone)]
pub enum Entries<'a, V> {
    /// Of a run.
    Run(Run<'a, V>),
    /// Of a tree.
    Tree(btree_map::Iter<'a, Box<[u8]>, V>),
}

/// The entries of a run.
pub struct Run<'a, V> {
    rest: &'a [u8],
    of: PhantomData<V>,
}

impl<V> Clone for Run<'_, V> {
    fn clone(&self) -> Self {
        Self { rest: self.rest, of: PhantomData }
    }
}

impl<'a, V: Kept> Iterator for Run<'a, V> {
    type Item = (&'a [u8], V);

    fn next(&mut self) -> Option<Self::Item> {
        let (bytes, rest) = sized(self.rest)?;
        let (value, rest) = rest.split_at_checked(V::BYTES)?;
        self.rest = rest;
        Some((bytes, V::read(value)))
    }
}

impl<'a, V: Kept> Iterator for Entries<'a, V> {
    type Item = (&'a [u8], V);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Run(run) => run.next(),
            Self::Tree(tree) => tree.next().map(|(bytes, value)| (bytes.as_ref(), *value)),
        }
    }
}

impl<V: Kept> std::fmt::Debug for SortedGroups<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SortedGroups").field("groups", &self.len).field("bytes", &self.bytes).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Kept for i64 {
        const BYTES: usize = 8;

        fn write(self, to: &mut Vec<u8>) {
            to.extend_from_slice(&self.to_le_bytes());
        }

        fn read(from: &[u8]) -> Self {
            Self::from_le_bytes(*from.first_chunk().unwrap())
        }
    }

    fn all(groups: &SortedGroups<i64>) -> Vec<(u8, Vec<u8>, i64)> {
        let of = |key: u8| groups.entries(&[key]).map(move |(bytes, value)| (key, bytes.to_vec(), value));
        (0..=u8::MAX).flat_map(of).collect()
    }

    /// Against one sorted map of all, with discards; long entries make trees of some groups.
    #[test]
    fn groups_hold_what_one_sorted_map_would_whatever_is_discarded() {
        let seed = 0x5eed_u64;
        let mut state = seed;
        let mut below = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        let mut groups = SortedGroups::<i64>::new();
        let mut model: BTreeMap<(u8, Vec<u8>), i64> = BTreeMap::new();
        for step in 0..2000 {
            let before = model.clone();
            for _ in 0..below(20) {
                let (key, long) = (below(6) as u8, below(2) == 0);
                let bytes: Vec<u8> =
                    (0..=below(3)).map(|_| below(7) as u8).chain(vec![9; if long { 90 } else { 0 }]).collect();
                let value = (below(3) > 0).then(|| below(1000) as i64);
                groups
                    .change(&[key], &bytes, |was| {
                        assert_eq!(was, model.get(&(key, bytes.clone())).copied(), "seed {seed}, step {step}");
                        Ok(value)
                    })
                    .unwrap();
                match value {
                    Some(value) => model.insert((key, bytes), value),
                    None => model.remove(&(key, bytes)),
                };
            }
            if below(3) == 0 {
                groups.discard();
                model = before;
            } else {
                groups.install();
            }
            let expected: Vec<_> = model.iter().map(|((key, bytes), value)| (*key, bytes.clone(), *value)).collect();
            assert_eq!(all(&groups), expected, "seed {seed}, step {step}");
        }
        let keys: Vec<_> = model.into_keys().collect();
        for (key, bytes) in keys {
            groups.change(&[key], &bytes, |_| Ok(None)).unwrap();
        }
        assert_eq!((groups.len, groups.memory_bytes()), (0, 0));
    }

    #[test]
    fn many_groups_lie_in_shards_and_are_found() {
        let mut groups = SortedGroups::<i64>::new();
        for n in 0..(2 * LARGE as u64) {
            groups.change(&n.to_be_bytes(), b"x", |_| Ok(Some(n as i64))).unwrap();
        }
        assert_eq!(groups.shards.len(), SHARDS);
        assert!((0..(2 * LARGE as u64)).all(|n| groups.entries(&n.to_be_bytes()).eq([(&b"x"[..], n as i64)])));
        groups.discard();
        assert_eq!((groups.len, groups.memory_bytes()), (0, 0));
    }
}
