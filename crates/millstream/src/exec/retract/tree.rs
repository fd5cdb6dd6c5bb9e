//! The values of each group in their order: a tree of pages ([`page`]) whose root lies in the group's own row.
//!
//! A group of few values is its root and nothing else: it is found, read and written with the group. Past
//! [`ROOT_BYTES`] the root names pages of their own, which are rows of a table, and those may name further ones, so that
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

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, UInt64Array};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::Result as DfResult;
use millstream_core::Error;
use millstream_state::{Changes, PanedTable, Restored, TableInfo};

use super::super::changes::state_error;
use super::deltas::Deltas;
use super::page;
use super::slots::{Slots, SlottedTable};

/// The longest root that holds values itself.
const ROOT_BYTES: usize = 512;
/// The longest page of values.
const LEAF_BYTES: usize = 384;
/// The longest page of pages: read with every change below it, and written only when one of them is cut or goes.
const INNER_BYTES: usize = 1024;
/// Pages of one, at least, when a page of pages is cut: however long their first values are, a tree stays low.
const FAN_MIN: usize = 4;

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

/// A page that a batch looks at.
struct Node {
    group: usize,
    id: u64,
    /// The changes that belong below it.
    changes: Range<usize>,
    /// Its place in the level above.
    parent: usize,
}

struct Level {
    nodes: Vec<Node>,
    pages: BinaryArray,
}

/// What is in the place of a page that was cut, or is gone: the first bytes and the number of each page.
struct Replaced {
    parent: usize,
    id: u64,
    by: Vec<(Vec<u8>, u64)>,
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

    /// Changes how often values are there. `change` is told which of the changes it is and the number before, and answers
    /// the number after. What comes back are the new roots.
    ///
    /// # Errors
    /// That of `change`.
    pub fn change(
        &mut self,
        roots: &Roots<'_>,
        changes: &Deltas,
        mut change: impl FnMut(usize, u64) -> DfResult<u64>,
    ) -> DfResult<BinaryArray> {
        let mut staged = Staged::new();
        let levels = self.descend(roots, changes)?;
        let mut tall = self.ascend(levels, changes, &mut change, &mut staged)?.into_iter().peekable();
        let mut bytes: Vec<u8> = Vec::with_capacity(roots.pages.iter().map(|r| r.len() + 16).sum());
        let mut offsets: Vec<i32> = Vec::with_capacity(roots.pages.len() + 1);
        offsets.push(0);
        for (group, root) in roots.pages.iter().enumerate() {
            let (from, here) = (bytes.len(), changes.of_group(group));
            if here.is_empty() {
                bytes.extend_from_slice(root);
            } else if let Some((_, root)) = tall.next_if(|(tall, _)| *tall == group) {
                bytes.extend_from_slice(&root);
            } else {
                bytes.push(0);
                page::merge(root, here.map(|at| (at, changes.bytes(at))), &mut bytes, &mut change)?;
                let root = bytes.get(from..).unwrap_or_default();
                if page::is_empty(root) {
                    bytes.truncate(from);
                } else if root.len() > ROOT_BYTES {
                    let root = self.root(group, root.to_vec(), &mut staged);
                    bytes.truncate(from);
                    bytes.extend_from_slice(&root);
                }
            }
            offsets.push(i32::try_from(bytes.len()).map_err(|_| too_long())?);
        }
        self.store(staged, roots.slots)?;
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        Ok(BinaryArray::try_new(offsets, Buffer::from_vec(bytes), None)?)
    }

    /// The pages that changes belong to, from the roots down; nothing of groups that are their root.
    fn descend(&self, roots: &Roots<'_>, changes: &Deltas) -> DfResult<Vec<Level>> {
        let tall = roots.pages.iter().enumerate().filter(|(_, root)| page::level(root) > 0);
        let node = |group| Node { group, id: 0, changes: changes.of_group(group), parent: 0 };
        let nodes: Vec<Node> = tall.map(|(group, _)| node(group)).filter(|n| !n.changes.is_empty()).collect();
        let pages = nodes.iter().map(|n| roots.pages.get(n.group).copied().unwrap_or_default());
        let pages = BinaryArray::from_iter_values(pages);
        let mut levels = vec![];
        let mut level = Level { nodes, pages };
        while !level.nodes.is_empty() {
            let mut nodes = vec![];
            for (place, (node, page)) in level.nodes.iter().zip(level.pages.iter().flatten()).enumerate() {
                if page::level(page) > 0 {
                    route(place, node, page, changes, &mut nodes);
                }
            }
            let pages = self.read(roots.slots, nodes.iter().map(|node| (node.group, node.id)))?;
            levels.push(std::mem::replace(&mut level, Level { nodes, pages }));
        }
        Ok(levels)
    }

    /// Makes the changes, from the lowest pages up: the new roots, by group.
    fn ascend(
        &mut self,
        mut levels: Vec<Level>,
        changes: &Deltas,
        change: &mut impl FnMut(usize, u64) -> DfResult<u64>,
        staged: &mut Staged,
    ) -> DfResult<Vec<(usize, Vec<u8>)>> {
        let (mut roots, mut below): (_, Vec<Replaced>) = (vec![], vec![]);
        while let Some(Level { nodes, pages }) = levels.pop() {
            let mut children = std::mem::take(&mut below).into_iter().peekable();
            for (place, (node, page)) in nodes.iter().zip(pages.iter().flatten()).enumerate() {
                let mut new = page::empty(page::level(page));
                if page::level(page) == 0 {
                    let here = node.changes.clone().map(|at| (at, changes.bytes(at)));
                    page::merge(page, here, &mut new, &mut *change)?;
                } else {
                    for (bytes, id) in page::entries(page) {
                        match children.next_if(|child| child.parent == place && child.id == id) {
                            None => page::push(&mut new, bytes, id),
                            Some(child) => child.by.iter().for_each(|(first, id)| page::push(&mut new, first, *id)),
                        }
                    }
                }
                if levels.is_empty() {
                    roots.push((node.group, self.root(node.group, new, staged)));
                } else if new != page {
                    let by = self.paged(node, new, staged);
                    below.extend(by.map(|by| Replaced { parent: node.parent, id: node.id, by }));
                }
            }
        }
        Ok(roots)
    }

    /// Stages what a page holds now. Answers the pages that are in its place, where it is no longer one.
    fn paged(&mut self, node: &Node, new: Vec<u8>, staged: &mut Staged) -> Option<Vec<(Vec<u8>, u64)>> {
        if page::is_empty(&new) {
            staged.insert(node.id, (node.group, None));
            return Some(vec![]);
        }
        let pieces = cut(&new);
        if pieces.len() < 2 {
            staged.insert(node.id, (node.group, Some(new)));
            return None;
        }
        let mut by = vec![];
        for piece in pieces {
            let id = if by.is_empty() { node.id } else { self.number() };
            by.push((first_of(&piece), id));
            staged.insert(id, (node.group, Some(piece)));
        }
        Some(by)
    }

    /// The root of a group that was changed: where it is too long, a page of the pages that it is cut into; where it has
    /// one page only that the batch writes, that page.
    fn root(&mut self, group: usize, mut root: Vec<u8>, staged: &mut Staged) -> Vec<u8> {
        if page::is_empty(&root) {
            return vec![];
        }
        while page::level(&root) > 0 {
            let mut pages = page::entries(&root).map(|(_, id)| id);
            let only = pages.next().filter(|_| pages.next().is_none());
            let Some(page) = only.and_then(|id| staged.get_mut(&id)?.1.take()) else { break };
            root = page;
        }
        loop {
            let fits = page::level(&root) == 0 && root.len() <= ROOT_BYTES;
            let pieces = if fits { vec![] } else { cut(&root) };
            if pieces.len() < 2 {
                return root;
            }
            let mut above = page::empty(page::level(&root).saturating_add(1));
            for piece in pieces {
                let id = self.number();
                page::push(&mut above, &first_of(&piece), id);
                staged.insert(id, (group, Some(piece)));
            }
            root = above;
        }
    }

    /// The number of a new page.
    fn number(&mut self) -> u64 {
        self.next[1] += 1;
        self.next[1] - 1
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

/// The pages below one to which changes belong: the values of each are at least its first bytes, save those of the first.
fn route(place: usize, node: &Node, page: &[u8], changes: &Deltas, to: &mut Vec<Node>) {
    let mut children = page::entries(page).peekable();
    let Range { mut start, end } = node.changes;
    while let Some((_, id)) = children.next().filter(|_| start < end) {
        let next = children.peek().map(|(first, _)| *first);
        let stop = (start..end).find(|at| next.is_some_and(|next| changes.bytes(*at) >= next)).unwrap_or(end);
        if stop > start {
            to.push(Node { group: node.group, id, changes: start..stop, parent: place });
        }
        start = stop;
    }
}

/// What a page is cut into where it is too long; nothing where it is not.
fn cut(page: &[u8]) -> Vec<Vec<u8>> {
    let (most, entries_min) = if page::level(page) == 0 { (LEAF_BYTES, 1) } else { (INNER_BYTES, FAN_MIN) };
    if page.len() <= most { vec![] } else { page::split(page, most, entries_min) }
}

fn first_of(page: &[u8]) -> Vec<u8> {
    page::entries(page).next().map(|(bytes, _)| bytes.to_vec()).unwrap_or_default()
}

fn too_long() -> datafusion::common::DataFusionError {
    state_error(Error::config(
        "the values of the groups that one batch touches take more than 2 GB: lower batch.max-rows".to_string(),
    ))
}

#[cfg(test)]
mod tests;
