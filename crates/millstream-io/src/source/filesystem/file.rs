//! One file of a source: what it is, what was seen of it, and how far it can be read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_core::batch::{PartitionId, Position};
use millstream_core::source::Limit;
use millstream_core::{Error, Result};

use super::columnar::{Numbered, RowFile, Stored};
use super::cursor::Cursor;
use super::identity::{FileIdentity, Mark, Stamp};
use super::input::Packing;
use super::lines::LastLine;
use super::text::{Extent, TextFile};

/// What the files of a table hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holding {
    Lines,
    Rows(Stored),
}

/// One file of a source.
#[derive(Debug)]
pub(super) struct OneFile {
    path: PathBuf,
    followed: bool,
    /// How its lines are packed; `None` while it is empty, which says nothing.
    packing: Option<Packing>,
    seen: FileIdentity,
    /// It is another one than it was when it was begun.
    replaced: bool,
    gone: bool,
    /// What was read before the position, where that is known.
    known: Option<Read>,
    /// What will have been read where the last offer is taken.
    offered: Option<Read>,
    /// Where, and as the file system then described it, the file was last found to hold what is known.
    verified: Option<(u64, FileIdentity)>,
    /// When its position last moved, in offers.
    pub moved: u64,
    /// Where it was read up to at the last offer.
    pub last: Position,
    /// The offer that found it read to its end, as long as nothing else is seen of it: its position can't move.
    pub settled: Option<u64>,
    content: Content,
}

/// What stands for the part of a file that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Read {
    /// Up to this offset, which counts as the positions do.
    at: u64,
    pub mark: Mark,
}

#[derive(Debug)]
enum Content {
    Lines(TextFile),
    Rows(RowFile),
}

impl Content {
    fn new(holding: Holding) -> Self {
        match holding {
            Holding::Lines => Self::Lines(TextFile::default()),
            Holding::Rows(stored) => Self::Rows(RowFile::new(stored)),
        }
    }

    fn holding(&self) -> Holding {
        match self {
            Self::Lines(_) => Holding::Lines,
            Self::Rows(rows) => Holding::Rows(rows.stored()),
        }
    }
}

impl OneFile {
    pub(super) fn new(path: PathBuf, seen: FileIdentity, holding: Holding, followed: bool) -> Result<Self> {
        let content = Content::new(holding);
        let (packing, moved, last, known, offered) = Default::default();
        let (replaced, gone, verified, settled) = Default::default();
        let mut file = Self {
            path,
            followed,
            packing,
            seen,
            replaced,
            gone,
            known,
            offered,
            verified,
            moved,
            last,
            settled,
            content,
        };
        file.look(seen)?;
        Ok(file)
    }

    /// The file was found so.
    pub(super) fn look(&mut self, seen: FileIdentity) -> Result<()> {
        let another = if self.is_whole() { self.is_another_whole(seen)? } else { self.seen.node != seen.node };
        if self.gone || another {
            self.replaced |= another;
            self.gone = false;
            self.packing = None;
            self.content = Content::new(self.content.holding());
            self.settled = None;
        }
        if self.seen != seen {
            self.settled = None;
        }
        self.seen = seen;
        let lines = self.content.holding() == Holding::Lines;
        if lines && self.packing.is_none() && (seen.size > 0 || !self.followed) {
            self.packing = Some(Packing::at(&self.path)?);
        }
        Ok(())
    }

    /// A file that is read once is the same as long as its content is: it may be touched, or copied to its place again.
    fn is_another_whole(&self, seen: FileIdentity) -> Result<bool> {
        let begun = self.offered.or(self.known);
        Ok(self.seen != seen
            && match begun {
                Some(begun) => begun.mark.until != seen.size || !begun.mark.holds(&self.path)?,
                None => true,
            })
    }

    /// The file was not found.
    pub(super) fn miss(&mut self) {
        if !self.gone {
            self.gone = true;
            self.settled = None;
        }
    }

    pub(super) fn seen(&self) -> FileIdentity {
        self.seen
    }

    /// What was read before the position, where that is known.
    pub(super) fn known(&self) -> Option<Read> {
        self.known
    }

    /// The query goes on at this position; so the range was recorded that ends there.
    pub(super) fn resume(&mut self, at: Position, stamp: &Stamp) {
        self.known = stamp.mark.map(|mark| Read { at: at.offset, mark });
    }

    /// What is recorded of a range that was taken.
    pub(super) fn stamp(&mut self, id: &PartitionId, cursor: &Cursor) -> Result<Stamp> {
        // IMPORTANT: what was taken is marked first and what lies before it compared then, so that a file that was
        // rewritten before the mark was read is found out.
        let until = if self.is_whole() { self.seen.size } else { cursor.at.offset };
        let Some(mark) = Mark::of(&self.path, until)? else {
            return Err(unlike(id, "was shrunk while it was read", cursor.start));
        };
        self.verify(id, cursor.start)?;
        self.offered = Some(Read { at: cursor.at.offset, mark });
        // What was marked just now need not be compared in the next offer.
        self.verified = Some((cursor.at.offset, self.seen));
        Ok(Stamp::new(self.seen, self.hash(cursor), mark))
    }

    /// The file holds what was read of it up to this position.
    fn verify(&mut self, id: &PartitionId, at: Position) -> Result<()> {
        let whole = self.is_whole();
        match self.known {
            _ if at.offset == 0 => return Ok(()),
            Some(known) if (whole && known.mark.until != self.seen.size) || !known.mark.holds(&self.path)? => {
                self.content = Content::new(self.content.holding());
                return Err(unlike(id, "was rewritten", at));
            }
            Some(_) => {}
            // What is recorded of older versions, or by hand: what is there is taken for it.
            None => {
                let until = if whole { self.seen.size } else { at.offset };
                self.known = Mark::of(&self.path, until)?.map(|mark| Read { at: at.offset, mark });
            }
        }
        self.verified = Some((at.offset, self.seen));
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes what fits into the limit, from which it takes off what it took.
    pub(super) fn take(&mut self, cursor: &mut Cursor, limit: &mut Limit, kept: &mut usize) -> Result<()> {
        let extent = self.extent();
        match &mut self.content {
            Content::Lines(text) => text.take(cursor, limit, extent.of(&self.path), kept),
            Content::Rows(rows) => rows.take(cursor, limit, &self.path, self.seen.size),
        }
    }

    /// Takes the next row, however large; whether there was one.
    pub(super) fn take_one(&mut self, cursor: &mut Cursor, kept: &mut usize) -> Result<bool> {
        let extent = self.extent();
        match &mut self.content {
            Content::Lines(text) => text.take_one(cursor, extent.of(&self.path), kept),
            Content::Rows(rows) => rows.take_one(cursor, &self.path, self.seen.size),
        }
    }

    /// The hash that a range's stamp carries.
    pub(super) fn hash(&self, cursor: &Cursor) -> u64 {
        match &self.content {
            Content::Lines(_) => cursor.hash(),
            Content::Rows(rows) => rows.hash(),
        }
    }

    /// Everything below this position is left behind. Answers how much memory is held.
    pub(super) fn trim(&mut self, below: Position) -> usize {
        let Content::Lines(text) = &mut self.content else { return 0 };
        text.trim(below.offset);
        text.size()
    }

    /// Whether it is held open.
    pub(super) fn is_open(&self) -> bool {
        matches!(&self.content, Content::Lines(text) if text.has_reader())
    }

    /// Lets go of the file; it is opened again where it is read again.
    pub(super) fn close(&mut self) {
        if let Content::Lines(text) = &mut self.content {
            text.close();
        }
    }

    pub(super) fn text(&mut self) -> Option<&mut TextFile> {
        match &mut self.content {
            Content::Lines(text) => Some(text),
            Content::Rows(_) => None,
        }
    }

    pub(super) fn numbered(&self) -> Option<Arc<Numbered>> {
        match &self.content {
            Content::Lines(_) => None,
            Content::Rows(rows) => rows.file(),
        }
    }

    /// Something may be past this position.
    pub(super) fn has_more(&self, at: Position) -> bool {
        !self.gone && !self.is_read_up_to(at)
    }

    /// Nothing will ever be past this position.
    pub(super) fn is_finished(&self, at: Position) -> bool {
        if self.gone {
            return self.is_read_up_to(at) || at.offset == 0;
        }
        self.is_read_up_to(at) && (!self.followed || self.is_whole())
    }

    /// Bytes past this position, where that is known.
    pub(super) fn behind(&self, at: Position) -> Option<u64> {
        match &self.content {
            Content::Rows(rows) => Some(rows.behind(at, self.seen.size)),
            Content::Lines(_) if self.is_whole() => None,
            Content::Lines(_) => Some(self.seen.size.saturating_sub(at.offset)),
        }
    }

    /// The file is still the one that was read up to this position.
    pub(super) fn check(&mut self, id: &PartitionId, at: Position) -> Result<()> {
        if let Some(taken) = self.offered.take_if(|offered| offered.at == at.offset) {
            self.known = Some(taken);
        }
        self.known.take_if(|known| known.at != at.offset);
        if at.offset == 0 {
            self.replaced = false;
            return Ok(());
        }
        let what = if self.gone && !self.is_read_up_to(at) {
            "vanished before it was read to its end"
        } else if self.replaced {
            "was replaced by another one of the same name"
        } else if !self.is_whole() && at.offset > self.seen.size {
            "was shrunk"
        } else if !self.gone
            && self.verified != Some((at.offset, self.seen))
            && (self.is_whole() || self.is_read_up_to(at))
        {
            // What grows and is read on is verified once it was read.
            return self.verify(id, at);
        } else {
            return Ok(());
        };
        let size = if self.gone { 0 } else { self.seen.size };
        Err(unlike(id, &format!("{what} (it is now {size} bytes)"), at))
    }

    /// It is read once, and never grows.
    fn is_whole(&self) -> bool {
        match self.content {
            Content::Rows(_) => self.seen.size > 0,
            Content::Lines(_) => !matches!(self.packing, None | Some(Packing::None)),
        }
    }

    fn is_read_up_to(&self, at: Position) -> bool {
        match &self.content {
            Content::Rows(rows) if self.is_whole() => rows.end() == Some(at.offset),
            Content::Lines(text) if self.is_whole() => text.unpacked_end() == Some(at.offset),
            // A file that is not written yet; in a bounded source it is an error to be read.
            Content::Rows(_) => self.followed,
            Content::Lines(_) => at.offset >= self.seen.size,
        }
    }

    fn extent(&self) -> Reach {
        let last = if self.followed && !self.is_whole() { LastLine::Waits } else { LastLine::Counts };
        Reach { until: if self.is_whole() { u64::MAX } else { self.seen.size }, last }
    }
}

fn unlike(id: &PartitionId, what: &str, at: Position) -> Error {
    Error::input(format!(
        "the file '{id}' {what}, after it was read up to byte {}. Put it back as it was, or start the query anew with \
         another state directory; a file that is read while it grows must only be appended to, and one that is full \
         keeps its name",
        at.offset
    ))
}

/// How far the lines of a file can be read.
struct Reach {
    until: u64,
    last: LastLine,
}

impl Reach {
    fn of<'a>(&self, path: &'a Path) -> Extent<'a> {
        Extent { path, until: self.until, last: self.last }
    }
}
