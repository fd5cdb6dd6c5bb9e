//! A range in the making.

use std::sync::Arc;

use millstream_core::batch::Position;
use xxhash_rust::xxh3::Xxh3;

use super::segment::{Fit, Segment};

/// How far an offer has come in one file.
pub(super) struct Cursor {
    pub start: Position,
    pub at: Position,
    /// There is more than was taken.
    pub more: bool,
    /// Of a text file: what was taken, for the stamp.
    hash: Xxh3,
    /// Of a text file: the segment that the cursor stands in, and the line.
    current: Option<(Arc<Segment>, usize)>,
}

impl Cursor {
    pub(super) fn new(start: Position) -> Self {
        Self { start, at: start, more: false, hash: Xxh3::new(), current: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at.offset == self.start.offset
    }

    /// The hash of the lines that were taken.
    pub(super) fn hash(&self) -> u64 {
        self.hash.digest()
    }

    pub(super) fn current(&self) -> Option<&(Arc<Segment>, usize)> {
        self.current.as_ref()
    }

    /// Takes lines of a segment.
    pub(super) fn take(&mut self, segment: &Arc<Segment>, line: usize, fit: Fit) {
        segment.hash(line, fit.lines, &mut self.hash);
        self.at = segment.position(line + fit.lines);
        self.current = Some((segment.clone(), line + fit.lines));
    }
}
