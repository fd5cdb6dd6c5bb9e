//! The rows of each key of a [`crate::MultiTable`]: by the key's slot and a side, the slots of its rows.
//!
//! It holds nothing that the tables don't, and spares looking for them: a key's rows are found by its slot, and
//! a key with one row a side, the most frequent kind, takes 8 bytes a side.

use millstream_core::{Error, Result};

use crate::chunked::Chunked;
use crate::segment::SEGMENT_WEIGHT;

/// The lists, with what the batch has changed so far.
#[derive(Debug)]
pub(crate) struct Lists {
    /// By key, one for each side: they lie together, because a join looks at both.
    heads: Chunked<Head>,
    /// The rows of keys that have several.
    long: Chunked<Vec<u32>>,
    free: Vec<u32>,
    /// Lists ever made in `long`.
    ever: u32,
    /// Rows that the lists in `long` have room for.
    room: usize,
    /// Changes of the batch, in order.
    undo: Vec<Undo>,
    /// The lists that were replaced, in that order.
    replaced: Vec<Vec<u32>>,
}

/// One key's list on one side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    count: u32,
    /// Of one row its slot, of several the number of their list.
    at: u32,
}

const NONE: Head = Head { count: 0, at: 0 };

#[derive(Clone, Copy, Debug)]
struct Undo {
    side: u32,
    key: u32,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Pushed,
    Replaced,
}

impl Lists {
    pub(crate) fn new(sides: usize) -> Self {
        let (heads, long) = (Chunked::new(sides, NONE), Chunked::new(1, Vec::new()));
        Self { heads, long, free: Vec::new(), ever: 0, room: 0, undo: Vec::new(), replaced: Vec::new() }
    }

    /// How many rows a key has on a side: none, where it has no slot.
    #[inline]
    pub(crate) fn count(&self, side: usize, key: u32) -> u32 {
        self.head(side, key).count
    }

    /// Whether a key has rows on any side.
    pub(crate) fn is_bare(&self, key: u32) -> bool {
        self.heads.entry(key as usize).iter().all(|head| head.count == 0)
    }

    /// What leads to the rows of a key.
    #[inline]
    pub(crate) fn head(&self, side: usize, key: u32) -> Head {
        self.heads.entry(key as usize).get(side).copied().unwrap_or(NONE)
    }

    /// The slots of the rows that a head leads to, in the order in which they came.
    #[inline]
    pub(crate) fn rows<'a>(&'a self, head: &'a Head) -> &'a [u32] {
        match head {
            Head { count: 0, .. } => &[],
            Head { count: 1, at } => std::slice::from_ref(at),
            Head { at, .. } => self.long.entry(*at as usize).first().map(Vec::as_slice).unwrap_or_default(),
        }
    }

    /// Adds a row to a key, at the end.
    pub(crate) fn push(&mut self, side: usize, key: u32, row: u32) -> Result<()> {
        self.add(side, key, row)?;
        self.undo.push(Undo { side: side as u32, key, what: What::Pushed });
        Ok(())
    }

    /// Gives a key these rows in place of those that it has.
    pub(crate) fn replace(&mut self, side: usize, key: u32, rows: Vec<u32>) -> Result<()> {
        let before = self.set(side, key, rows)?;
        self.undo.push(Undo { side: side as u32, key, what: What::Replaced });
        self.replaced.push(before);
        Ok(())
    }

    /// What was staged becomes the state.
    pub(crate) fn install(&mut self) {
        self.replaced = Vec::new();
        match self.undo.capacity() > SEGMENT_WEIGHT {
            true => self.undo = Vec::new(),
            false => self.undo.clear(),
        }
    }

    /// What was staged is forgotten.
    pub(crate) fn discard(&mut self) {
        let mut replaced = std::mem::take(&mut self.replaced);
        for Undo { side, key, what } in std::mem::take(&mut self.undo).into_iter().rev() {
            match what {
                What::Pushed => self.pop(side as usize, key),
                // A key that has been as long before can be so again.
                What::Replaced => _ = self.set(side as usize, key, replaced.pop().unwrap_or_default()),
            }
        }
    }

    /// Puts the rows of every key of a side into the order of these numbers of theirs.
    pub(crate) fn sort(&mut self, side: usize, keys: u32, number: impl Fn(u32) -> u64) {
        for key in 0..keys {
            let Head { count: 2.., at } = self.head(side, key) else { continue };
            if let [rows] = self.long.entry_mut(at as usize) {
                rows.sort_unstable_by_key(|row| number(*row));
            }
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        let small = self.free.capacity() * size_of::<u32>() + self.undo.capacity() * size_of::<Undo>();
        self.heads.bytes() + self.long.bytes() + self.room * size_of::<u32>() + small
    }

    /// As [`Lists::push`], never to be discarded.
    pub(crate) fn add(&mut self, side: usize, key: u32, row: u32) -> Result<()> {
        self.heads.grow_to(key as usize);
        let Some(head) = self.heads.entry_mut(key as usize).get_mut(side) else { return Err(no_side()) };
        match head.count {
            0 => head.at = row,
            1 => {
                let list = match self.free.pop() {
                    Some(list) => list,
                    None => {
                        self.ever += 1;
                        self.ever - 1
                    }
                };
                self.long.grow_to(list as usize);
                if let [rows] = self.long.entry_mut(list as usize) {
                    *rows = Vec::with_capacity(2);
                    rows.extend([head.at, row]);
                    self.room += rows.capacity();
                }
                head.at = list;
            }
            u32::MAX => return Err(Error::config("a key of state has 2^32 rows: bound the state")),
            _ => {
                if let [rows] = self.long.entry_mut(head.at as usize) {
                    self.room -= rows.capacity();
                    rows.push(row);
                    self.room += rows.capacity();
                }
            }
        }
        head.count += 1;
        Ok(())
    }

    /// Takes the last row of a key.
    fn pop(&mut self, side: usize, key: u32) {
        let Some(head) = self.heads.entry_mut(key as usize).get_mut(side) else { return };
        match head.count {
            0 => return,
            1 => {}
            count => {
                let [rows] = self.long.entry_mut(head.at as usize) else { return };
                rows.pop();
                if let (2, [first]) = (count, rows.as_slice()) {
                    let first = *first;
                    self.room -= rows.capacity();
                    *rows = Vec::new();
                    self.free.push(head.at);
                    head.at = first;
                }
            }
        }
        head.count -= 1;
    }

    /// Gives a key these rows, and answers those that it had.
    fn set(&mut self, side: usize, key: u32, rows: Vec<u32>) -> Result<Vec<u32>> {
        let Some(head) = self.heads.entry_mut(key as usize).get_mut(side) else { return Err(no_side()) };
        let before = match *head {
            Head { count: 0, .. } => vec![],
            Head { count: 1, at } => vec![at],
            Head { at, .. } => {
                let [long] = self.long.entry_mut(at as usize) else { return Err(no_side()) };
                self.room -= long.capacity();
                self.free.push(at);
                std::mem::take(long)
            }
        };
        *head = NONE;
        if rows.len() < 2 {
            return rows.first().map_or(Ok(()), |row| self.add(side, key, *row)).map(|()| before);
        }
        let count = u32::try_from(rows.len()).map_err(|_| Error::config("a key of state has 2^32 rows"))?;
        let list = self.free.pop().unwrap_or(self.ever);
        self.ever = self.ever.max(list + 1);
        *head = Head { count, at: list };
        self.long.grow_to(list as usize);
        if let [long] = self.long.entry_mut(list as usize) {
            *long = rows;
            self.room += long.capacity();
        }
        Ok(before)
    }
}

fn no_side() -> Error {
    Error::bug("a row of a side that a table of state does not have")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(lists: &Lists, side: usize, key: u32) -> Vec<u32> {
        lists.rows(&lists.head(side, key)).to_vec()
    }

    #[test]
    fn lists_grow_and_shrink_and_a_discard_brings_back_what_was_there() {
        let mut lists = Lists::new(2);
        (0..5).for_each(|row| lists.push(0, 3, row).unwrap());
        lists.push(1, 7, 9).unwrap();
        lists.install();
        lists.replace(0, 3, vec![0, 2, 4]).unwrap();
        lists.push(0, 3, 8).unwrap();
        assert_eq!(rows(&lists, 0, 3), [0, 2, 4, 8]);
        lists.replace(0, 3, vec![]).unwrap();
        lists.push(0, 3, 12).unwrap();
        lists.push(1, 7, 13).unwrap();
        lists.push(0, 9, 1).unwrap();
        lists.push(0, 9, 2).unwrap();
        assert_eq!((rows(&lists, 0, 3), rows(&lists, 1, 7)), (vec![12], vec![9, 13]));
        assert_eq!((lists.is_bare(3), lists.is_bare(8)), (false, true));
        lists.discard();
        assert_eq!((rows(&lists, 0, 3), rows(&lists, 1, 7)), (vec![0, 1, 2, 3, 4], vec![9]));
        assert_eq!((lists.count(0, 9), lists.count(0, 7), rows(&lists, 0, u32::MAX)), (0, 0, vec![]));
        assert!(lists.is_bare(9));
    }

    #[test]
    fn lists_that_come_and_go_leave_nothing_behind() {
        let mut lists = Lists::new(1);
        let mut bytes = [0; 2];
        for round in 0..2_000u32 {
            let key = round % 10;
            (0..50).for_each(|row| lists.push(0, key, row).unwrap());
            lists.install();
            lists.replace(0, key, vec![1, 2]).unwrap();
            lists.replace(0, key, vec![]).unwrap();
            lists.install();
            let half = usize::from(round > 1_000);
            bytes[half] = bytes[half].max(lists.bytes());
        }
        assert_eq!(lists.room, 0);
        assert!(bytes[1] <= bytes[0], "{bytes:?}");
    }
}
