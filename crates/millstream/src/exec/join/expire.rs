//! Forgetting: rows go when the frontier has passed what they could still be joined with.
//!
//! Beside the rows lies a calendar: by stretch of time, the keys that have a row to forget in it. When the
//! frontier has passed a stretch, the rows of its keys are looked at, those that are due are forgotten, and
//! those of them that never found a partner are answered, where the join asks for them.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::take_arrays;
use arrow::datatypes::Int64Type;
use datafusion::common::{Result as DfResult, internal_err};
use millstream_core::watermark::END_OF_TIME;

use super::super::changes::state_error;
use super::super::event_time::micros;
use super::super::grouping::Grouping;
use super::delta::Step;
use super::pairs::Single;
use super::side::NO_GROUP;
use super::state::{JoinState, Side};
use super::{Expiry, Interval, Plan};

impl Expiry {
    /// When each row is done. One whose time is NULL is done at once: it can't match.
    pub(super) fn times(&self, columns: &[ArrayRef]) -> DfResult<Vec<i64>> {
        let Some(column) = columns.get(self.column) else {
            return internal_err!("a join forgets by a column that is not there");
        };
        let times: Int64Array = micros(column)?;
        Ok(times.iter().map(|t| t.map_or(i64::MIN, |t| t.saturating_add(self.offset_us))).collect())
    }
}

impl Plan {
    fn expiry(&self, side: usize) -> Option<(Expiry, i64)> {
        let Interval { expiries, granule_us } = self.join.interval.as_ref()?;
        expiries.get(side).map(|e| (*e, *granule_us))
    }

    /// The new rows that are kept. Those that are done already are answered, if they have no partner.
    pub(super) fn kept(
        &self,
        side: usize,
        step: &Step,
        frontier: Option<i64>,
        output: &mut Vec<RecordBatch>,
    ) -> DfResult<Vec<u32>> {
        let delta = &step.deltas[side];
        let new = (0..delta.rows as u32).filter(|row| delta.group(*row) != NO_GROUP && delta.weight(*row) > 0);
        let Some((expiry, _)) = self.expiry(side) else { return Ok(new.collect()) };
        let times = expiry.times(&delta.columns)?;
        let done = |row: &u32| {
            let time = times.get(*row as usize).copied().unwrap_or(i64::MIN);
            time == i64::MIN || frontier.is_some_and(|frontier| time <= frontier)
        };
        let (done, kept): (Vec<u32>, Vec<u32>) = new.partition(done);
        if self.at_expiry(side) {
            let alone = done.into_iter().filter(|row| self.partners(side, step, *row) == 0);
            let alone: Vec<Single> = alone.map(|row| Single { row, weight: 1, matched: false }).collect();
            self.singles(side, &delta.columns, &alone, output)?;
        }
        Ok(kept)
    }

    /// Writes into the calendar when these new rows are to be forgotten.
    pub(super) fn remember_expiries(&self, held: &mut Side, side: usize, step: &Step, rows: &[u32]) -> DfResult<()> {
        let (Some((expiry, granule_us)), Some(calendar)) = (self.expiry(side), &mut held.expiries) else {
            return Ok(());
        };
        let delta = &step.deltas[side];
        let times = expiry.times(&delta.columns)?;
        let mut panes: BTreeMap<i64, BTreeSet<u32>> = BTreeMap::new();
        for row in rows {
            let time = times.get(*row as usize).copied().unwrap_or(i64::MIN);
            panes.entry(time.div_euclid(granule_us.max(1))).or_default().insert(delta.group(*row));
        }
        for (pane, groups) in panes {
            let count = groups.len();
            let keys = take_arrays(&step.keys, &UInt32Array::from_iter_values(groups), None)?;
            calendar.put(pane, &keys, &[], count).map_err(state_error)?;
        }
        Ok(())
    }

    /// Forgets what is done at this frontier.
    pub(super) fn expire(
        &self,
        state: &mut JoinState,
        frontier: Option<i64>,
        output: &mut Vec<RecordBatch>,
    ) -> DfResult<()> {
        let Some(frontier) = frontier else { return Ok(()) };
        let JoinState { rows: table, sides, .. } = state;
        for (side, held) in sides.iter_mut().enumerate() {
            let Some((expiry, granule_us)) = self.expiry(side) else { continue };
            // Stretches that end at the frontier or before it: the numbers below that of the frontier.
            let due = if frontier == END_OF_TIME { END_OF_TIME } else { frontier.div_euclid(granule_us.max(1)) };
            let Some(keys) = self.due_keys(held, due)? else { continue };
            let rows = keys.first().map_or(1, |k| k.len());
            let number = held.rows().map_err(state_error)?;
            let keys = table.find(&keys, rows).map_err(state_error)?;
            let found = table.get(number, &keys, |_| true).map_err(state_error)?;
            let mut columns = found.values;
            let partners = if held.counted { columns.pop() } else { None };
            let times = expiry.times(&columns)?;
            let done: Vec<u32> =
                (0u32..).zip(&times).filter(|(_, time)| **time <= frontier).map(|(row, _)| row).collect();
            if self.at_expiry(side) {
                let partners = partners.as_ref().map(|p| p.as_primitive::<Int64Type>());
                let alone = |row: &u32| partners.is_none_or(|p| p.value(*row as usize) == 0);
                let alone = done.iter().copied().filter(alone);
                let alone: Vec<Single> = alone.map(|row| Single { row, weight: 1, matched: false }).collect();
                self.singles(side, &columns, &alone, output)?;
            }
            let ids: Vec<_> = done.iter().filter_map(|row| found.ids.get(*row as usize).copied()).collect();
            table.remove(number, &keys, &ids).map_err(state_error)?;
            if let Some(calendar) = &mut held.expiries {
                calendar.drop_below(due);
            }
        }
        Ok(())
    }

    /// The distinct keys of the calendar below a pane.
    fn due_keys(&self, held: &Side, due: i64) -> DfResult<Option<Vec<ArrayRef>>> {
        let Some(calendar) = &held.expiries else { return Ok(None) };
        let mut grouping = Grouping::try_new(&self.keys)?;
        let mut some = false;
        for (_, pane) in calendar.panes(..due) {
            for batch in pane.scan_staged() {
                let batch = batch.map_err(state_error)?;
                some |= batch.num_rows() > 0;
                grouping.intern(batch.columns(), batch.num_rows())?;
            }
        }
        if some { grouping.keys().map(Some) } else { Ok(None) }
    }
}
