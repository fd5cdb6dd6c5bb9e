//! The values of each group in their order: a tree of pages ([`page`]) whose root lies in the group's own row.
//!
//! A group of few values is its root and nothing else: it is found, read and written with the group. A root that gets
//! too long ([`change`]) names pages of their own, which are rows of a table, and those may name further ones, so that
//! a change rewrites a page or two of a group of any size:
//!
//! ```text
//! pages    $page -> $entries
//! ```
//!
//! Pages are read and written level by level, for all groups of a batch at once. A page is cut where it has grown too
//! long, and goes when it is empty, not before: merging pages that have become short costs more than it saves (Johnson
//! and Shasha, "B-trees with inserts and deletes: why free-at-empty is better than merge-at-half", 1993).
//!
//! Nothing is held but what the table holds, so a batch is discarded with the table's changes and a checkpoint is restored
//! with the table.

mod change;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::Result as DfResult;
use millstream_core::Error;
use millstream_state::{Changes, PanedTable, Restored, TableInfo};

use super::super::changes::state_error;
use super::page;
use super::slots::{Slots, SlottedTable};

/// The pages that don't fit into the rows of their groups.
#[derive(Debug)]
pub struct Tree {
    pages: SlottedTable,
    /// The number of the next page: in the installed state, and as staged.
    next: [u64; 2],
}

/// Groups: their roots, and the slot of each.
pub struct Roots<'a> {
    pages: Vec<&'a [u8]>,
    slots: &'a Slots,
}

/// Which values of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The smallest.
    First,
    /// The largest.
    Last,
    /// All, in order.
    All,
}

/// The group of each page that the batch writes, and what it holds: nothing where it goes.
type Staged = BTreeMap<u64, (usize, Option<Vec<u8>>)>;

impl<'a> Roots<'a> {
    /// The roots of `total` groups, of which those in `found` have one in `column`.
    pub fn of(column: Option<&'a ArrayRef>, found: &[usize], total: usize, slots: &'a Slots) -> Self {
        let mut pages: Vec<&[u8]> = vec![&[]; total];
        if let Some(column) = column.and_then(|c| c.as_binary_opt::<i32>()) {
            for (row, group) in found.iter().enumerate() {
                if let Some(page) = pages.get_mut(*group).filter(|_| row < column.len()) {
                    *page = column.value(row);
                }
            }
        }
        Self { pages, slots }
    }

    /// The root of every group.
    pub fn all(column: &'a BinaryArray, slots: &'a Slots) -> Self {
        Self { pages: column.iter().map(Option::unwrap_or_default).collect(), slots }
    }

    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// The same groups, some of which have no values.
    pub fn filtered(mut self, kept: impl Fn(usize) -> bool) -> Self {
        self.pages.iter_mut().enumerate().filter(|(group, _)| !kept(*group)).for_each(|(_, page)| *page = &[]);
        self
    }
}

impl Tree {
    /// No pages.
    pub fn try_new() -> DfResult<Self> {
        let keys = Schema::new(vec![Field::new("$page", DataType::UInt64, false)]);
        let values = Schema::new(vec![Field::new("$entries", DataType::Binary, false)]);
        let table = PanedTable::new(Arc::new(keys), Arc::new(values)).map_err(state_error)?;
        Ok(Self { pages: SlottedTable { table }, next: [0, 0] })
    }

    fn store(&mut self, staged: Staged, slots: &Slots) -> DfResult<()> {
        if staged.is_empty() {
            return Ok(());
        }
        let groups: UInt64Array = staged.values().map(|(group, _)| *group as u64).collect();
        let ids: [ArrayRef; 1] = [Arc::new(staged.keys().copied().collect::<UInt64Array>())];
        let mut at = self.pages.find(&slots.take(&groups), &ids, groups.len())?;
        let numbered = || (0u32..).zip(staged.values());
        let written: Vec<u32> = numbered().filter(|(_, (_, page))| page.is_some()).map(|(i, _)| i).collect();
        let gone: Vec<u32> = numbered().filter(|(_, (_, page))| page.is_none()).map(|(i, _)| i).collect();
        if !written.is_empty() {
            let pages = staged.values().filter_map(|(_, page)| page.as_deref());
            self.pages.put_at(&mut at, &written, &[Arc::new(BinaryArray::from_iter_values(pages))])?;
        }
        if gone.is_empty() { Ok(()) } else { self.pages.remove_at(&at, &gone) }
    }

    /// The pages with these numbers, each of a group.
    fn read(&self, slots: &Slots, nodes: impl Iterator<Item = (usize, u64)>) -> DfResult<BinaryArray> {
        let (groups, ids): (Vec<u64>, Vec<u64>) = nodes.map(|(group, id)| (group as u64, id)).unzip();
        let count = ids.len();
        if count == 0 {
            return Ok(BinaryArray::from_iter_values(std::iter::empty::<&[u8]>()));
        }
        let ids: [ArrayRef; 1] = [Arc::new(UInt64Array::from(ids))];
        let found = self.pages.read(&self.pages.find(&slots.take(&groups.into()), &ids, count)?)?;
        let pages = found.values.first().and_then(|c| c.as_binary_opt::<i32>()).filter(|pages| pages.len() == count);
        pages.cloned().ok_or_else(|| state_error(Error::corrupt("a group's values name a page that is not there")))
    }

    /// Tells of values: the group, the bytes, and how often they are there. Those of a group come in order; groups don't.
    pub fn walk(&self, roots: &Roots<'_>, which: Which, mut found: impl FnMut(usize, &[u8], u64)) -> DfResult<()> {
        let mut nodes: Vec<(usize, u64)> = vec![];
        let mut visit = |group: usize, page: &[u8], nodes: &mut Vec<(usize, u64)>| {
            let mut tell = |(bytes, number)| match page::level(page) {
                0 => found(group, bytes, number),
                _ => nodes.push((group, number)),
            };
            let mut entries = page::entries(page);
            match which {
                Which::First => entries.next().into_iter().for_each(&mut tell),
                Which::Last => entries.last().into_iter().for_each(&mut tell),
                Which::All => entries.by_ref().for_each(&mut tell),
            }
        };
        roots.pages.iter().enumerate().for_each(|(group, root)| visit(group, root, &mut nodes));
        while !nodes.is_empty() {
            let level = std::mem::take(&mut nodes);
            let pages = self.read(roots.slots, level.iter().copied())?;
            level.iter().zip(pages.iter().flatten()).for_each(|((group, _), page)| visit(*group, page, &mut nodes));
        }
        Ok(())
    }

    /// Stages the removal of all pages below these roots.
    pub fn remove(&mut self, roots: &Roots<'_>) -> DfResult<()> {
        let mut gone = Staged::new();
        let mut level: Vec<(usize, u64)> = vec![];
        let below = |group: usize, page: &[u8], to: &mut Vec<(usize, u64)>| {
            if page::level(page) > 0 {
                to.extend(page::entries(page).map(|(_, id)| (group, id)));
            }
        };
        roots.pages.iter().enumerate().for_each(|(group, root)| below(group, root, &mut level));
        while !level.is_empty() {
            let pages = self.read(roots.slots, level.iter().copied())?;
            gone.extend(level.iter().map(|(group, id)| (*id, (*group, None))));
            let mut next = vec![];
            level.iter().zip(pages.iter().flatten()).for_each(|((group, _), page)| below(*group, page, &mut next));
            level = next;
        }
        self.store(gone, roots.slots)
    }

    /// Stages the removal of slots.
    pub fn drop_below(&mut self, slot: i64) {
        self.pages.table.drop_below(slot);
    }

    /// What was staged becomes the state.
    pub fn install(&mut self) {
        self.pages.table.install();
        self.next[0] = self.next[1];
    }

    /// What was staged is forgotten.
    pub fn discard(&mut self) {
        self.pages.table.discard();
        self.next[1] = self.next[0];
    }

    /// Adds the pages to a checkpoint under this name.
    pub fn changes(&self, name: &str, changes: Changes) -> Changes {
        changes.paned(name, &self.pages.table).note(&next_of(name), self.next[0].to_string())
    }

    /// Makes the pages what they were under this name.
    pub fn restore(&mut self, name: &str, saved: &mut Restored) -> millstream_core::Result<()> {
        saved.paned(name, &mut self.pages.table)?;
        let next = saved.note(&next_of(name)).and_then(|next| next.parse().ok());
        let next = next.ok_or_else(|| Error::corrupt(format!("the checkpoint does not number the pages of {name}")))?;
        self.next = [next, next];
        Ok(())
    }

    /// The table of the pages, described.
    pub fn describe(&self, name: &str) -> TableInfo {
        TableInfo::paned(name, &self.pages.table)
    }
}

fn next_of(name: &str) -> String {
    format!("{name}.next")
}

#[cfg(test)]
mod tests;
