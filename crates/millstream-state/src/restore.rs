//! Capturing a table, and making one from what was captured.
//!
//! Segments are replayed in their order: a row takes the place of an older row of its key, a removed key
//! takes the older row away. What comes of it is the table that was captured, segment by segment and live
//! row by live row, so that it goes on exactly as that one would have.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_core::Result;

use crate::index::NO_SLOT;
use crate::layout::Layout;
use crate::operator::PaneCapture;
use crate::paned::PanedTable;
use crate::segment::{NOWHERE, Segment, place};
use crate::table::KeyedTable;

impl KeyedTable {
    /// The installed state: its segments, shared.
    pub(crate) fn capture(&self) -> PaneCapture {
        let held = self.log.order.iter().filter_map(|number| self.log.get(*number));
        PaneCapture { keys: self.len, segments: held.map(|h| Arc::clone(&h.segment)).collect() }
    }

    pub(crate) fn restored(layout: Arc<Layout>, pane: &PaneCapture) -> Result<Self> {
        let mut table = Self::with_layout(layout);
        table.index.reserve(pane.keys);
        // A key of its own for every row: then no row can take another one's place, and none is looked for.
        let rows: usize = pane.segments.iter().map(|segment| segment.rows).sum();
        let removed: usize = pane.segments.iter().map(|segment| segment.removed).sum();
        let keys = if removed == 0 && rows == pane.keys { Keys::Unique } else { Keys::Repeated };
        for segment in &pane.segments {
            table.replay(segment, keys)?;
        }
        Ok(table)
    }

    fn replay(&mut self, segment: &Arc<Segment>, unique: Keys) -> Result<()> {
        let keys = segment.columns().get(..self.layout.key_count()).unwrap_or_default();
        let removed: Vec<_> = keys.iter().map(|k| k.slice(0, segment.removed)).collect();
        let encoded = self.layout.encoder.encode(&removed, segment.removed)?;
        for slot in self.index.find_all(&encoded, segment.removed)? {
            let before = if slot == NO_SLOT { NOWHERE } else { self.places.get(slot as usize) };
            if before != NOWHERE {
                self.log.bury(before);
                self.places.set(slot as usize, NOWHERE);
                self.index.remove(slot);
                self.len -= 1;
            }
        }
        let rows = segment.rows - segment.removed;
        let put: Vec<_> = keys.iter().map(|k| k.slice(segment.removed, rows)).collect();
        let encoded = self.layout.encoder.encode(&put, rows)?;
        let mut slots = vec![NO_SLOT; segment.removed];
        slots.extend(match unique {
            Keys::Unique => self.index.insert_unique(&encoded, rows)?,
            Keys::Repeated => self.index.insert_all(&encoded, rows, &mut Vec::new())?,
        });
        let number = self.log.hold(Arc::clone(segment), Vec::new())?;
        for (row, slot) in slots.iter().enumerate().skip(segment.removed) {
            self.places.grow_to(*slot as usize);
            let before = self.places.get(*slot as usize);
            if before == NOWHERE {
                self.len += 1;
            } else {
                self.log.bury(before);
            }
            self.places.set(*slot as usize, place(number, row));
        }
        self.log.set_slots(number, slots);
        self.log.order_at(usize::MAX, number);
        Ok(())
    }
}

/// Whether a key may be in several of the captured rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    Unique,
    Repeated,
}

impl PanedTable {
    pub(crate) fn restored(layout: Arc<Layout>, panes: &BTreeMap<i64, PaneCapture>) -> Result<Self> {
        let restore =
            |(pane, capture): (&i64, &PaneCapture)| Ok((*pane, KeyedTable::restored(Arc::clone(&layout), capture)?));
        let panes = panes.iter().map(restore).collect::<Result<_>>()?;
        Ok(Self::with_panes(layout, panes))
    }
}
