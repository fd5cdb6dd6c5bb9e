//! Finding the keys of rows that were read back.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::UInt64Type;
use millstream_core::{Error, Result};

use super::{MultiTable, Side};
use crate::key_set::KeySet;
use crate::lists::Lists;
use crate::segment::Segment;

/// What was met while the rows of a side were gone through in the order of their log.
struct Met {
    /// The sequence of each row, by slot.
    sequences: Vec<u64>,
    newest: u64,
    /// Whether they ascended: the log may hold older rows behind newer ones.
    sorted: bool,
}

impl MultiTable {
    /// Goes on after a restore of all rows: finds their keys. `next` are the sequences of the next rows.
    pub(crate) fn go_on_from(&mut self, next: &[u64]) -> Result<()> {
        let Self { keys, lists, sides } = self;
        keys.clear();
        *lists = Lists::new(sides.len());
        for (number, (side, next)) in sides.iter_mut().zip(next).enumerate() {
            (side.next, side.next_installed) = (*next, *next);
            side.rows.index.forget_keys();
            let mut met = Met { sequences: Vec::new(), newest: 0, sorted: true };
            for (segment, live) in side.rows.live() {
                let rows: Vec<(usize, u32)> = live.collect();
                side.find_again(segment, &rows, keys, &mut met, |key, slot| lists.add(number, key, slot))?;
            }
            if !met.sorted {
                let sequence = |slot: u32| met.sequences.get(slot as usize).copied().unwrap_or_default();
                lists.sort(number, keys.slots_end(), sequence);
            }
        }
        Ok(())
    }
}

impl Side {
    /// Finds the keys of some rows of a segment, which are given with their slots.
    fn find_again(
        &self,
        segment: &Segment,
        rows: &[(usize, u32)],
        keys: &mut KeySet,
        met: &mut Met,
        mut add: impl FnMut(u32, u32) -> Result<()>,
    ) -> Result<()> {
        let picks = UInt32Array::from_iter_values(rows.iter().map(|(row, _)| *row as u32));
        let column = |at: usize| -> Result<ArrayRef> {
            match segment.columns().get(at) {
                Some(column) if rows.len() == segment.rows => Ok(Arc::clone(column)),
                Some(column) => Ok(take(column, &picks, None)?),
                None => Err(Error::corrupt("a checkpoint holds a row of state without its key")),
            }
        };
        let columns = self.keys.iter().map(|at| column(at + 1)).collect::<Result<Vec<_>>>()?;
        let of_row = keys.restore(&columns, rows.len())?;
        let sequences = column(0)?;
        let sequences = sequences.as_primitive::<UInt64Type>().values();
        for ((key, (_, slot)), sequence) in of_row.iter().zip(rows).zip(sequences) {
            add(*key, *slot)?;
            met.sorted &= *sequence >= met.newest;
            met.newest = *sequence;
            let at = *slot as usize;
            if met.sequences.len() <= at {
                met.sequences.resize(at + 1, 0);
            }
            met.sequences.get_mut(at).into_iter().for_each(|of| *of = *sequence);
        }
        Ok(())
    }
}
