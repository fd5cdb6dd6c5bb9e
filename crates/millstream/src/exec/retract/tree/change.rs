//! Changing the values of groups: down the trees of pages to where they belong, and up again with what has become of the
//! pages.

use std::ops::Range;

use arrow::array::BinaryArray;
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use datafusion::common::{DataFusionError, Result as DfResult};
use millstream_core::Error;

use super::super::super::changes::state_error;
use super::super::deltas::Deltas;
use super::super::page;
use super::{Roots, Staged, Tree};

/// The longest root that holds values itself.
const ROOT_BYTES: usize = 512;
/// The longest page of values.
const LEAF_BYTES: usize = 384;
/// The longest page of pages: read with every change below it, and written only when one of them is cut or goes.
const INNER_BYTES: usize = 1024;
/// Pages of one, at least, when a page of pages is cut: however long their first values are, a tree stays low.
const FAN_MIN: usize = 4;

/// A page that a batch looks at.
pub(super) struct Node {
    group: usize,
    id: u64,
    /// The changes that belong below it.
    changes: Range<usize>,
    /// Its place in the level above.
    parent: usize,
}

pub(super) struct Level {
    pub(super) nodes: Vec<Node>,
    pages: BinaryArray,
}

/// What is in the place of a page that was cut, or is gone: the first bytes and the number of each page.
struct Replaced {
    parent: usize,
    id: u64,
    by: Vec<(Vec<u8>, u64)>,
}

impl Tree {
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
    pub(super) fn descend(&self, roots: &Roots<'_>, changes: &Deltas) -> DfResult<Vec<Level>> {
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
    pub(super) fn ascend(
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

fn too_long() -> DataFusionError {
    state_error(Error::config(
        "the values of the groups that one batch touches take more than 2 GB: lower batch.max-rows".to_string(),
    ))
}
