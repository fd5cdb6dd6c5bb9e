//! All files of a source: what is there, and whose turn it is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use millstream_core::batch::{PartitionId, Position, Positions, Range, Stamps};
use millstream_core::source::{Limit, Offer};
use millstream_core::{Error, Result};

use super::columnar::{Numbered, verified};
use super::cursor::Cursor;
use super::file::{Holding, OneFile};
use super::identity::{FileIdentity, Stamp};
use super::input::Packing;
use super::lines::LineReader;
use super::listing::{Listing, plain};
use super::rows::RangeLines;

/// So many files share the limit of an offer.
const SHARERS_MAX: usize = 16;

/// So many files are read from in one offer, where they are small.
const SERVED_MAX: usize = 128;

/// So many files are held open.
const OPEN_MAX: usize = 256;

/// All files of a source.
#[derive(Debug)]
pub(super) struct Files {
    listing: Listing,
    holding: Holding,
    followed: bool,
    /// Whether each file is read to its end before the next one is.
    in_order: bool,
    listed: bool,
    partitions: BTreeMap<PartitionId, OneFile>,
    /// Counts the offers.
    offers: u64,
    /// The offer that found positions moved last: what the one before it said was taken.
    moved: u64,
    /// The sum of the positions at the last offer.
    read: u64,
    /// The limit of the last offer, and among how many files it was shared out.
    shared: Option<(Limit, u64)>,
    /// Readers that were left at the end of a range, for whoever opens the next one.
    spare: BTreeMap<PartitionId, LineReader>,
    /// What was recorded of the partitions that a query went on with, and that were not found yet.
    resumed: BTreeMap<PartitionId, Stamp>,
}

/// A range that is being opened.
pub(super) enum Opened {
    Lines(RangeLines),
    Rows(Arc<Numbered>),
}

/// A range that is being put together.
struct Serving {
    id: PartitionId,
    cursor: Cursor,
}

impl Files {
    pub(super) fn new(listing: Listing, holding: Holding, followed: bool) -> Self {
        let (in_order, listed, partitions, offers, moved, read, shared, spare, resumed) = Default::default();
        Self { listing, holding, followed, in_order, listed, partitions, offers, moved, read, shared, spare, resumed }
    }

    /// A query goes on; so the ranges were recorded that ended last.
    pub(super) fn resume(&mut self, stamps: &Stamps) {
        // What a stamp does not say can't be compared.
        self.resumed = stamps.iter().filter_map(|(id, stamp)| Some((id.clone(), stamp.parse().ok()?))).collect();
    }

    /// Each file is read to its end before the next one is, in the order of their names.
    pub(super) fn one_after_the_other(&mut self) {
        self.in_order = true;
    }

    /// Looks at what may have changed: at these paths, or at all of them.
    pub(super) fn refresh(&mut self, changed: Option<HashSet<PathBuf>>) -> Result<()> {
        if !self.listed || (self.followed && changed.is_none()) {
            let found = self.listing.files()?;
            if found.is_empty() && !self.followed {
                return Err(self.listing.nothing_found());
            }
            for (_, file) in self.partitions.iter_mut().filter(|(id, _)| !found.contains_key(*id)) {
                file.miss();
            }
            for (id, path) in found {
                self.look_at(id, path)?;
            }
            self.listed = true;
        } else if self.followed {
            for path in changed.into_iter().flatten() {
                let path = plain(&path);
                self.look_at(self.listing.name_of(&path), path)?;
            }
        }
        Ok(())
    }

    fn look_at(&mut self, id: PartitionId, path: PathBuf) -> Result<()> {
        let metadata = FileIdentity::at(&path)?;
        match (self.partitions.get_mut(&id), metadata) {
            (Some(file), Some(seen)) => file.look(seen)?,
            (Some(file), None) => file.miss(),
            (None, Some(seen)) => {
                self.partitions.insert(id, OneFile::new(path, seen, self.holding, self.followed)?);
            }
            (None, None) => {}
        }
        Ok(())
    }

    /// What there is past these positions. Whether there is more than was offered is the second answer.
    pub(super) fn offer(&mut self, from: &Positions, limit: Limit) -> Result<(Offer, bool)> {
        if !self.followed
            && self.offers == 0
            && let Some(id) = from.keys().find(|id| !self.partitions.contains_key(*id))
        {
            return Err(vanished(id));
        }
        self.offers += 1;
        let read = from.values().fold(0u64, |sum, at| sum.wrapping_add(at.offset));
        if read < std::mem::replace(&mut self.read, read) {
            // Somebody begins anew.
            self.partitions.values_mut().for_each(|file| file.settled = None);
        }
        let mut kept = 0;
        let mut waiting = Vec::new();
        let mut moved = false;
        // There may be thousands that nothing happens to: they cost no look-up.
        for (id, file) in self.partitions.iter_mut().filter(|(_, file)| file.settled.is_none()) {
            let at = from.get(id).copied().unwrap_or_default();
            if at != file.last {
                file.last = at;
                file.moved = self.offers;
                moved = true;
            }
            let held = file.trim(at);
            kept += held;
            if let Some(stamp) = self.resumed.remove(id) {
                file.resume(at, &stamp);
            }
            file.check(id, at)?;
            if file.has_more(at) {
                waiting.push((file.moved, id.clone(), at));
            } else if held == 0 {
                file.settled = Some(self.offers);
            }
        }
        if moved {
            self.moved = self.offers;
        }
        self.refuse_renamed(from, &waiting)?;
        if self.followed && !self.in_order && waiting.len() > SHARERS_MAX {
            // Who was served longest ago comes first, so that each gets its turn.
            waiting.sort_by_key(|(moved, ..)| *moved);
        }
        // An offer that is repeated shares as it did, though some files turned out to be empty.
        if moved || self.shared.is_none_or(|(last, _)| last != limit) {
            let sharers = if self.in_order { 1 } else { waiting.len().clamp(1, SHARERS_MAX) };
            self.shared = Some((limit, sharers as u64));
        }
        let waiting = waiting.into_iter().map(|(_, id, at)| (id, at)).collect();
        let (serving, more) = self.serve(waiting, limit, &mut kept)?;
        Ok((self.describe(from, serving)?, more))
    }

    /// No file that was read in part or whole is read again because it got another name.
    fn refuse_renamed(&self, from: &Positions, waiting: &[(u64, PartitionId, Position)]) -> Result<()> {
        let fresh = waiting.iter().filter(|(.., at)| at.offset == 0 && self.followed);
        let mut fresh = fresh.filter_map(|(_, id, _)| self.partitions.get_key_value(id)).peekable();
        if fresh.peek().is_none() {
            return Ok(());
        }
        let begun = |id: &PartitionId| from.get(id).is_some_and(|at| at.offset > 0);
        let here = self.partitions.iter().filter(|(_, file)| file.last.offset > 0);
        let here = here.filter_map(|(id, file)| Some((file.seen().lasting(), (id, file.known()?.mark))));
        let before = self.resumed.iter().filter(|(id, _)| begun(id));
        let before = before.filter_map(|(id, stamp)| Some((stamp.node?, (id, stamp.mark?))));
        let known: HashMap<_, _> = before.chain(here).collect();
        for (id, file) in fresh {
            let Some((name, mark)) = known.get(&file.seen().lasting()) else { continue };
            let path = self.listing.path_of(name);
            // Two names of one file are two partitions.
            let still_there = FileIdentity::at(&path)?.is_some_and(|there| there.node == file.seen().node);
            if !still_there && mark.holds(file.path())? {
                return Err(renamed(name, id));
            }
        }
        Ok(())
    }

    /// Takes rows of up to [`SHARERS_MAX`] files that have more than their share, and of as many smaller ones as the limit
    /// has room for, up to [`SERVED_MAX`]; then what is left over.
    fn serve(
        &mut self,
        waiting: Vec<(PartitionId, Position)>,
        mut left: Limit,
        kept: &mut usize,
    ) -> Result<(Vec<Serving>, bool)> {
        let total = waiting.len();
        let sharers = self.shared.map_or(1, |(_, sharers)| sharers);
        let share = Limit { rows: (left.rows / sharers).max(1), bytes: left.bytes / sharers };
        let mut serving: Vec<Serving> = Vec::new();
        let (mut passed, mut unfinished) = (0, 0);
        for (id, at) in waiting {
            let held_up = self.in_order && serving.last().is_some_and(|s| s.cursor.more);
            let full = serving.len() == SERVED_MAX || unfinished == SHARERS_MAX;
            if full || left.rows == 0 || held_up {
                break;
            }
            passed += 1;
            let mut cursor = Cursor::new(at);
            self.take(&id, &mut cursor, &mut left, share, kept)?;
            unfinished += usize::from(cursor.more);
            if cursor.more || !cursor.is_empty() {
                serving.push(Serving { id, cursor });
            }
        }
        for Serving { id, cursor } in serving.iter_mut().filter(|s| s.cursor.more) {
            let all = left;
            self.take(id, cursor, &mut left, all, kept)?;
        }
        if serving.iter().all(|s| s.cursor.is_empty()) {
            // The next row is larger than the limit: it is offered alone.
            for Serving { id, cursor } in &mut serving {
                let Some(file) = self.partitions.get_mut(id) else { continue };
                if file.take_one(cursor, kept)? {
                    break;
                }
            }
        }
        let more = passed < total || serving.iter().any(|s| s.cursor.more);
        serving.retain(|s| !s.cursor.is_empty());
        self.close_some(&serving);
        Ok((serving, more))
    }

    fn take(
        &mut self,
        id: &PartitionId,
        cursor: &mut Cursor,
        left: &mut Limit,
        share: Limit,
        kept: &mut usize,
    ) -> Result<()> {
        let Some(file) = self.partitions.get_mut(id) else { return Ok(()) };
        let given = Limit { rows: share.rows.min(left.rows), bytes: share.bytes.min(left.bytes) };
        let mut rest = given;
        let taken = file.take(cursor, &mut rest, kept);
        left.rows -= given.rows - rest.rows;
        left.bytes -= given.bytes - rest.bytes;
        taken
    }

    fn close_some(&mut self, serving: &[Serving]) {
        let open = self.partitions.values().filter(|f| f.is_open()).count();
        if open > OPEN_MAX {
            let served: HashSet<_> = serving.iter().map(|s| &s.id).collect();
            for (_, file) in self.partitions.iter_mut().filter(|(id, _)| !served.contains(id)) {
                file.close();
            }
        }
    }

    /// What is known of a file is said until the positions move, which is when it was taken.
    fn describe(&mut self, from: &Positions, serving: Vec<Serving>) -> Result<Offer> {
        let mut offer = Offer { closed: !self.followed, lag: Some(0), ..Offer::default() };
        let mut serving: BTreeMap<_, _> = serving.into_iter().map(|s| (s.id, s.cursor)).collect();
        let moved = self.moved;
        let untold = |file: &OneFile| file.settled.is_none_or(|settled| settled >= moved);
        for (id, file) in self.partitions.iter_mut().filter(|(_, file)| untold(file)) {
            let mut at = from.get(id).copied().unwrap_or_default();
            if let Some(cursor) = serving.remove(id) {
                at = cursor.at;
                let stamp = file.stamp(id, &cursor)?.to_string();
                offer.ranges.push(Range { partition: id.clone(), start: cursor.start, end: at, stamp, lost: 0 });
            }
            if !from.contains_key(id) {
                offer.partitions.push(id.clone());
            }
            if file.is_finished(at) {
                file.close();
                offer.finished.push(id.clone());
            } else {
                offer.lag = offer.lag.zip(file.behind(at)).map(|(all, more)| all.saturating_add(more));
            }
        }
        // What has vanished holds nothing more; nobody should wait for it. What vanishes later stays among the files.
        if self.moved <= 1 {
            offer.finished.extend(from.keys().filter(|id| !self.partitions.contains_key(*id)).cloned());
        }
        Ok(offer)
    }

    /// What a range is read from.
    pub(super) fn open(&mut self, range: &Range) -> Result<Opened> {
        let known = self.partitions.get_mut(&range.partition);
        let path = match &known {
            Some(file) => file.path().to_path_buf(),
            None => self.listing.path_of(&range.partition),
        };
        if let Holding::Rows(stored) = self.holding {
            let file = known.and_then(|file| file.numbered());
            return Ok(Opened::Rows(verified(stored, &path, range, file)?));
        }
        let text = known.and_then(OneFile::text);
        let cached = text.map(|text| text.opened(range.start, range.end)).unwrap_or_default();
        let spare = self.spare.remove(&range.partition);
        Ok(Opened::Lines(RangeLines::new(path, range, cached, spare)?))
    }

    /// Takes a reader back that stands at the end of a range.
    pub(super) fn give_back(&mut self, id: &PartitionId, reader: Option<LineReader>) {
        // A plain file is entered anywhere; only coming to a place of a packed one is dear.
        if let Some(reader) = reader.filter(|r| r.packing() != Packing::None) {
            if self.spare.len() >= SHARERS_MAX {
                self.spare.pop_first();
            }
            self.spare.insert(id.clone(), reader);
        }
    }
}

fn vanished(id: &PartitionId) -> Error {
    Error::input(format!(
        "the file '{id}' was begun, but is not there any more: put it back, or start the query anew with another \
         state directory"
    ))
}

fn renamed(before: &PartitionId, now: &PartitionId) -> Error {
    Error::input(format!(
        "the file '{before}' was read and is now called '{now}': its rows would be read again. Rename it back, or move it \
         out of what the table reads; a log that is rotated is followed by its own name, not with what it was"
    ))
}
