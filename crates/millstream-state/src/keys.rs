//! Keys that were looked up once, to be read and written without looking again.

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take_arrays;
use millstream_core::{Error, Result};

use crate::encode::EncodedKeys;
use crate::index::NO_SLOT;

/// Distinct keys, and where a table has them.
///
/// They belong to the table that looked them up, within a batch, and until keys come to it by another call than
/// one with these `Keys`: what is read and written by stale ones is refused as a bug.
#[derive(Debug)]
pub struct Keys {
    /// As they are stored.
    pub(crate) columns: Vec<ArrayRef>,
    pub(crate) encoded: EncodedKeys,
    /// The slot of each, or [`NO_SLOT`].
    pub(crate) slots: Vec<u32>,
    /// When they were looked up.
    pub(crate) epoch: Epoch,
}

/// Counts how often keys got slots, or gave them back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Epoch(u64);

impl Epoch {
    pub(crate) fn end(&mut self) {
        self.0 += 1;
    }
}

impl Keys {
    /// How many they are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The slot of one of them, or [`NO_SLOT`].
    #[inline]
    pub(crate) fn slot(&self, at: u32) -> u32 {
        self.slots.get(at as usize).copied().unwrap_or(NO_SLOT)
    }

    /// Whether a table in this epoch has given them their slots.
    pub(crate) fn check(&self, epoch: Epoch) -> Result<()> {
        if self.epoch == epoch { Ok(()) } else { Err(Error::bug("keys of state were used after others came or went")) }
    }

    /// The slots of some of them, or of all.
    pub(crate) fn slots_of(&self, picks: Option<&[u32]>) -> Vec<u32> {
        match picks {
            Some(picks) => picks.iter().map(|at| self.slot(*at)).collect(),
            None => self.slots.clone(),
        }
    }

    fn is_all(&self, picks: &[u32]) -> bool {
        picks.len() == self.len() && picks.iter().copied().eq(0..self.len() as u32)
    }

    /// The columns of some of them, or of all.
    pub(crate) fn columns_of(&self, picks: Option<&[u32]>) -> Result<Vec<ArrayRef>> {
        match picks {
            Some(picks) if self.is_all(picks) => Ok(self.columns.clone()),
            Some(picks) => Ok(take_arrays(&self.columns, &UInt32Array::from(picks.to_vec()), None)?),
            None => Ok(self.columns.clone()),
        }
    }
}
