//! The rows of each key of a [`crate::MultiTable`]: by the key's slot, its id and the slots of its rows.
//!
//! It holds nothing that the tables don't, and spares looking for them: a key's rows are found by its slot, and
//! a key with one row, the most frequent kind, takes 16 bytes.

use arrow::array::AsArray;
use arrow::datatypes::{UInt32Type, UInt64Type};
use hashbrown::HashMap;
use millstream_core::{Error, Result};

use crate::chunked::Chunked;
use crate::index::NO_SLOT;
use crate::segment::SEGMENT_WEIGHT;
use crate::table::KeyedTable;

/// The lists, with what the batch has changed so far.
#[derive(Debug)]
pub(crate) struct Lists {
    heads: Chunked<Head>,
    /// The rows of keys that have several.
    long: Chunked<Vec<u32>>,
    free: Vec<u32>,
    /// Lists ever made in `long`.
    ever: u32,
    /// Rows that the lists in `long` have room for.
    room: usize,
    /// Changes of the batch, in order.
    undo: Vec<(u32, Undo)>,
}

/// One key's list.
#[derive(Clone, Copy, Debug)]
struct Head {
    id: u64,
    count: u32,
    /// Of one row its slot, of several the number of their list.
    at: u32,
}

const NONE: Head = Head { id: 0, count: 0, at: 0 };

#[derive(Clone, Copy, Debug)]
enum Undo {
    Named(u64),
    Pushed,
    Popped(u32),
}

impl Lists {
    pub(crate) fn new() -> Self {
        let (heads, long) = (Chunked::new(1, NONE), Chunked::new(1, Vec::new()));
        Self { heads, long, free: Vec::new(), ever: 0, room: 0, undo: Vec::new() }
    }

    /// The lists of a table that was restored: `keys` hold an id and a count, `rows` are by id and number.
    pub(crate) fn restored(keys: &KeyedTable, rows: &KeyedTable) -> Result<Self> {
        let mut lists = Self::new();
        let mut of_id: HashMap<u64, (u32, u32)> = HashMap::with_capacity(keys.len);
        let mut starts = 0u32;
        for (segment, live) in keys.live() {
            let columns = segment.columns().get(keys.layout.key_count()..).unwrap_or_default();
            let [ids, counts] = columns else { return Err(corrupt()) };
            let (ids, counts) = (ids.as_primitive::<UInt64Type>(), counts.as_primitive::<UInt32Type>());
            for (row, key) in live {
                let (id, count) = (ids.value(row), counts.value(row));
                lists.heads.grow_to(key as usize);
                lists.heads.set(key as usize, Head { id, ..NONE });
                of_id.insert(id, (key, starts));
                starts = starts.checked_add(count).ok_or_else(corrupt)?;
            }
        }
        if starts as usize != rows.len {
            return Err(corrupt());
        }
        lists.fill(rows, &of_id, starts)?;
        lists.undo = Vec::new();
        Ok(lists)
    }

    fn fill(&mut self, rows: &KeyedTable, of_id: &HashMap<u64, (u32, u32)>, total: u32) -> Result<()> {
        let mut slots = vec![NO_SLOT; total as usize];
        let mut keys = vec![NO_SLOT; total as usize];
        for (segment, live) in rows.live() {
            let [ids, numbers, ..] = segment.columns() else { return Err(corrupt()) };
            let (ids, numbers) = (ids.as_primitive::<UInt64Type>(), numbers.as_primitive::<UInt32Type>());
            for (row, slot) in live {
                let (key, start) = of_id.get(&ids.value(row)).copied().ok_or_else(corrupt)?;
                let at = start.checked_add(numbers.value(row)).ok_or_else(corrupt)? as usize;
                let (Some(to), Some(of)) = (slots.get_mut(at), keys.get_mut(at)) else { return Err(corrupt()) };
                (*to, *of) = (slot, key);
            }
        }
        for (key, slot) in keys.into_iter().zip(slots) {
            if slot == NO_SLOT {
                return Err(corrupt());
            }
            self.add(key, slot)?;
        }
        Ok(())
    }

    /// How many rows a key has: none, where it has no slot.
    #[inline]
    pub(crate) fn count(&self, key: u32) -> u32 {
        self.heads.get(key as usize).count
    }

    /// The id of a key that has rows.
    #[inline]
    pub(crate) fn id(&self, key: u32) -> u64 {
        self.heads.get(key as usize).id
    }

    /// The slots of a key's rows, in order.
    pub(crate) fn rows(&self, key: u32) -> &[u32] {
        match self.heads.entry(key as usize) {
            [Head { count: 0, .. }] => &[],
            [Head { count: 1, at, .. }] => std::slice::from_ref(at),
            [Head { at, .. }] => self.long.entry(*at as usize).first().map(Vec::as_slice).unwrap_or_default(),
            _ => &[],
        }
    }

    /// Gives a key that has no rows its id.
    pub(crate) fn name(&mut self, key: u32, id: u64) {
        self.heads.grow_to(key as usize);
        if let [head] = self.heads.entry_mut(key as usize) {
            self.undo.push((key, Undo::Named(head.id)));
            head.id = id;
        }
    }

    /// Adds a row to a key that has an id, at its end.
    pub(crate) fn push(&mut self, key: u32, row: u32) -> Result<()> {
        self.add(key, row)?;
        self.undo.push((key, Undo::Pushed));
        Ok(())
    }

    /// Takes the last row of a key.
    pub(crate) fn pop(&mut self, key: u32) -> Option<u32> {
        let row = self.take(key)?;
        self.undo.push((key, Undo::Popped(row)));
        Some(row)
    }

    /// What was staged becomes the state.
    pub(crate) fn install(&mut self) {
        match self.undo.capacity() > SEGMENT_WEIGHT {
            true => self.undo = Vec::new(),
            false => self.undo.clear(),
        }
    }

    /// What was staged is forgotten.
    pub(crate) fn discard(&mut self) {
        for (key, undo) in std::mem::take(&mut self.undo).into_iter().rev() {
            match undo {
                Undo::Pushed => _ = self.take(key),
                // A key that has been as long before can be so again.
                Undo::Popped(row) => _ = self.add(key, row),
                Undo::Named(id) => {
                    if let [head] = self.heads.entry_mut(key as usize) {
                        head.id = id;
                    }
                }
            }
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        let small = self.free.capacity() * size_of::<u32>() + self.undo.capacity() * size_of::<(u32, Undo)>();
        self.heads.bytes() + self.long.bytes() + self.room * size_of::<u32>() + small
    }

    fn add(&mut self, key: u32, row: u32) -> Result<()> {
        let [head] = self.heads.entry_mut(key as usize) else { return Err(Error::bug("a row of a key without an id")) };
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

    fn take(&mut self, key: u32) -> Option<u32> {
        let [head] = self.heads.entry_mut(key as usize) else { return None };
        let row = match head.count {
            0 => return None,
            1 => head.at,
            count => {
                let [rows] = self.long.entry_mut(head.at as usize) else { return None };
                let row = rows.pop()?;
                if count == 2 {
                    let first = rows.pop()?;
                    self.room -= rows.capacity();
                    *rows = Vec::new();
                    self.free.push(head.at);
                    head.at = first;
                } else if rows.capacity() > 4 * rows.len() {
                    self.room -= rows.capacity();
                    rows.shrink_to(2 * rows.len());
                    self.room += rows.capacity();
                }
                row
            }
        };
        head.count -= 1;
        Some(row)
    }
}

fn corrupt() -> Error {
    Error::corrupt("a checkpoint holds rows of state that don't fit their keys")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_grow_and_shrink_and_a_discard_brings_back_what_was_there() {
        let mut lists = Lists::new();
        lists.name(3, 30);
        (0..5).for_each(|row| lists.push(3, row).unwrap());
        lists.name(7, 70);
        lists.push(7, 9).unwrap();
        lists.install();
        while lists.pop(3).is_some() {}
        lists.name(3, 31);
        lists.push(3, 12).unwrap();
        lists.push(7, 13).unwrap();
        assert_eq!((lists.rows(3), lists.id(3), lists.rows(7)), (&[12][..], 31, &[9, 13][..]));
        lists.discard();
        assert_eq!((lists.rows(3), lists.id(3), lists.rows(7)), (&[0, 1, 2, 3, 4][..], 30, &[9][..]));
        assert_eq!((lists.count(0), lists.rows(u32::MAX)), (0, &[][..]));
    }

    #[test]
    fn lists_that_come_and_go_leave_nothing_behind() {
        let mut lists = Lists::new();
        let mut bytes = [0; 2];
        for round in 0..2_000u32 {
            let key = round % 10;
            lists.name(key, 1);
            (0..50).for_each(|row| lists.push(key, row).unwrap());
            lists.install();
            while lists.pop(key).is_some() {}
            lists.install();
            let half = usize::from(round > 1_000);
            bytes[half] = bytes[half].max(lists.bytes());
        }
        assert_eq!(lists.room, 0);
        assert!(bytes[1] <= bytes[0], "{bytes:?}");
    }
}
