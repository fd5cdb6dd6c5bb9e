//! What a window aggregate answers: windows that close, or what changed in them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::compute::{concat, concat_batches, take_arrays};
use datafusion::common::{Result as DfResult, internal_datafusion_err};
use millstream_state::Found;

use super::super::changes::{Changed, state_error};
use super::super::event_time::{timestamps, window_time};
use super::cells::Cells;
use super::combine::{Combine, Groups};
use super::state::{WindowState, slice};
use super::{EmitMode, GroupColumn, WindowAggregateExec};
use crate::window::{WindowKind, WindowSpec};

/// Rows that are evaluated at once, and put out as a batch, at least where there are so many.
const ROWS: usize = 8192;

impl WindowAggregateExec {
    /// State by window: what was open and ends at the frontier or before it is put out and dropped.
    pub(super) fn close_windows(
        &self,
        state: &mut WindowState,
        cells: &Cells,
        after: &[ArrayRef],
        frontier: Option<i64>,
    ) -> DfResult<Vec<RecordBatch>> {
        let closes = |end: i64| frontier.is_some_and(|frontier| end <= frontier);
        // Where a window comes and goes within the batch, its rows never become state.
        let mut closing: BTreeMap<i64, Option<Range<usize>>> = BTreeMap::new();
        for (end, range) in &cells.slots {
            if closes(*end) && state.groups.pane(*end).is_none() {
                closing.insert(*end, Some(range.clone()));
            } else {
                stage(state, *end, cells, after, range)?;
            }
        }
        if let Some(frontier) = frontier {
            closing.extend(state.groups.panes(..=frontier).map(|(end, _)| (end, None)));
        }
        let mut output = Vec::new();
        let mut pending = Pending::default();
        for (end, fresh) in closing {
            match (fresh, state.groups.pane(end)) {
                (Some(range), _) => pending.push_fresh(end, range),
                (None, Some(table)) => pending.push_stored(end, Groups::scan(table)?),
                (None, None) => {}
            }
            if pending.ends.len() >= ROWS {
                output.extend(self.evaluate(std::mem::take(&mut pending), cells, after)?);
            }
        }
        output.extend(self.evaluate(pending, cells, after)?);
        if let Some(frontier) = frontier {
            state.drop_below(frontier.saturating_add(1));
        }
        Ok(output)
    }

    /// State by pane: the windows that end after the last frontier, up to this one, are merged and put out.
    pub(super) fn close_panes(
        &self,
        state: &mut WindowState,
        cells: &Cells,
        after: &[ArrayRef],
        frontier: Option<i64>,
    ) -> DfResult<Vec<RecordBatch>> {
        for (pane, range) in &cells.slots {
            stage(state, *pane, cells, after, range)?;
        }
        let closed = state.closed();
        let Some(frontier) = frontier.filter(|frontier| closed.is_none_or(|closed| *frontier > closed)) else {
            return Ok(vec![]);
        };
        let (ends, needed) = closing(&self.spec, state.groups.panes(..).map(|(pane, _)| pane), closed, frontier);
        let mut combine = Combine { spec: self.spec, keys: &self.keys, aggregates: &self.aggregates, state };
        let mut output = Output::default();
        for end in ends {
            if let Some((keys, results)) = combine.window(start_of(&self.spec, end)..end)? {
                let rows = keys.first().or(results.first()).map_or(1, |c| c.len());
                output.push(self.rows(&Int64Array::from_value(end, rows), keys, results, None)?)?;
            }
        }
        state.drop_below(needed);
        output.finish()
    }

    /// State by window: what changed is put out; what ends at the frontier or before it is dropped.
    pub(super) fn emit_changes(
        &self,
        state: &mut WindowState,
        cells: &Cells,
        found: &Found,
        after: &[ArrayRef],
        frontier: Option<i64>,
    ) -> DfResult<Vec<RecordBatch>> {
        let mut output = vec![];
        if cells.total > 0 {
            let stays = |end: i64| frontier.is_none_or(|frontier| end > frontier);
            for (end, range) in cells.slots.iter().filter(|(end, _)| stays(*end)) {
                stage(state, *end, cells, after, range)?;
            }
            let old = self.aggregates.evaluate(&found.values, found.rows.len())?;
            let new = self.aggregates.evaluate(after, cells.total)?;
            let changed = Changed::between(&old, &new, &found.rows, cells.total)?;
            let ends: Vec<i64> = cells.slots.iter().flat_map(|(end, range)| range.clone().map(|_| *end)).collect();
            let old_ends: Int64Array = found.rows.iter().filter_map(|cell| ends.get(*cell)).copied().collect();
            let old_keys = take_arrays(&cells.keys, &changed.places, None)?;
            let gone = self.rows(&old_ends, old_keys, old, Some(-1))?;
            let come = self.rows(&Int64Array::from(ends), cells.keys.clone(), new, Some(1))?;
            output = changed.rows(&gone, &come)?;
        }
        if let Some(frontier) = frontier {
            state.drop_below(frontier.saturating_add(1));
        }
        Ok(output)
    }

    /// The answers of windows that close.
    fn evaluate(&self, pending: Pending, cells: &Cells, after: &[ArrayRef]) -> DfResult<Option<RecordBatch>> {
        let rows = pending.ends.len();
        if rows == 0 {
            return Ok(None);
        }
        let of = |part: Part| match part {
            Part::Fresh(range) => {
                let (from, rows) = (range.start, range.len());
                (slice(&cells.keys, from, rows), slice(after, from, rows))
            }
            Part::Stored(groups) => (groups.keys, groups.state),
        };
        let (keys, states): (Vec<_>, Vec<_>) = pending.parts.into_iter().map(of).unzip();
        let results = self.aggregates.evaluate(&concat_columns(states)?, rows)?;
        Ok(Some(self.rows(&Int64Array::from(pending.ends), concat_columns(keys)?, results, None)?))
    }

    /// Rows of the answer: the windows by their ends, the keys, the results, and the weight of a changelog.
    fn rows(
        &self,
        ends: &Int64Array,
        keys: Vec<ArrayRef>,
        results: Vec<ArrayRef>,
        weight: Option<i64>,
    ) -> DfResult<RecordBatch> {
        debug_assert_eq!(weight.is_some(), self.emit == EmitMode::Changes);
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.output.fields().len());
        for (column, field) in self.columns.iter().zip(self.output.fields()) {
            let bound: Int64Array = match column {
                GroupColumn::Start => ends.unary(|end| start_of(&self.spec, end)),
                GroupColumn::End => ends.clone(),
                GroupColumn::Time => ends.unary(window_time),
                GroupColumn::Key(key) => {
                    let key = keys.get(*key).ok_or_else(|| internal_datafusion_err!("there is no key {key}"))?;
                    columns.push(Arc::clone(key));
                    continue;
                }
            };
            columns.push(timestamps(&bound, field.data_type())?);
        }
        columns.extend(results);
        columns.extend(weight.map(|w| Arc::new(Int64Array::from_value(w, ends.len())) as ArrayRef));
        let options = RecordBatchOptions::new().with_row_count(Some(ends.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.output), columns, &options)?)
    }
}

/// Windows that close and wait to be evaluated together.
#[derive(Default)]
struct Pending {
    /// For each row, the end of its window.
    ends: Vec<i64>,
    parts: Vec<Part>,
}

enum Part {
    /// Cells of the batch.
    Fresh(Range<usize>),
    /// Groups that were state.
    Stored(Groups),
}

impl Pending {
    fn push_fresh(&mut self, end: i64, range: Range<usize>) {
        self.ends.extend(range.clone().map(|_| end));
        match self.parts.last_mut() {
            Some(Part::Fresh(last)) if last.end == range.start => last.end = range.end,
            _ => self.parts.push(Part::Fresh(range)),
        }
    }

    fn push_stored(&mut self, end: i64, groups: Groups) {
        if groups.rows > 0 {
            self.ends.extend(std::iter::repeat_n(end, groups.rows));
            self.parts.push(Part::Stored(groups));
        }
    }
}

/// Collects small batches into larger ones.
#[derive(Default)]
struct Output {
    done: Vec<RecordBatch>,
    pending: Vec<RecordBatch>,
    rows: usize,
}

impl Output {
    fn push(&mut self, batch: RecordBatch) -> DfResult<()> {
        self.rows += batch.num_rows();
        self.pending.push(batch);
        if self.rows >= ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> DfResult<()> {
        if let Some(first) = self.pending.first() {
            self.done.push(concat_batches(&first.schema(), &self.pending)?);
        }
        self.pending.clear();
        self.rows = 0;
        Ok(())
    }

    fn finish(mut self) -> DfResult<Vec<RecordBatch>> {
        self.flush()?;
        Ok(self.done)
    }
}

fn stage(state: &mut WindowState, slot: i64, cells: &Cells, after: &[ArrayRef], range: &Range<usize>) -> DfResult<()> {
    let (from, rows) = (range.start, range.len());
    state.groups.put(slot, &slice(&cells.keys, from, rows), &slice(after, from, rows), rows).map_err(state_error)
}

/// The start of the window that ends there.
fn start_of(spec: &WindowSpec, end: i64) -> i64 {
    match spec.kind {
        WindowKind::Tumble { size_us } | WindowKind::Hop { size_us, .. } => end.saturating_sub(size_us),
        WindowKind::Session { gap_us } => end.saturating_sub(gap_us),
        WindowKind::Cumulate { .. } => spec.windows_of(end.saturating_sub(1)).next().map_or(end, |(start, _)| start),
    }
}

/// The ends of the windows that close after `closed`, up to `frontier`, and the first pane that is needed after that.
/// Panes are ascending, and asked for only as far as they can have a window that closes.
fn closing(
    spec: &WindowSpec,
    panes: impl Iterator<Item = i64>,
    closed: Option<i64>,
    frontier: i64,
) -> (BTreeSet<i64>, i64) {
    let (mut ends, mut needed) = (BTreeSet::new(), i64::MAX);
    for pane in panes {
        if spec.last_end(pane) > frontier {
            needed = needed.min(pane);
        }
        if spec.first_end(pane) > frontier {
            break;
        }
        ends.extend(ends_between(spec, pane, closed, frontier));
    }
    (ends, needed)
}

/// The ends of a pane's windows that lie after `closed`, up to `frontier`.
fn ends_between(spec: &WindowSpec, pane: i64, closed: Option<i64>, frontier: i64) -> impl Iterator<Item = i64> + use<> {
    let stride = match spec.kind {
        WindowKind::Tumble { size_us } => size_us,
        WindowKind::Hop { slide_us, .. } => slide_us,
        WindowKind::Cumulate { step_us, .. } => step_us,
        WindowKind::Session { gap_us } => gap_us,
    };
    let (first, last) = (spec.first_end(pane), spec.last_end(pane).min(frontier));
    let past = closed.filter(|c| *c >= first).map_or(0, |c| (c.saturating_sub(first)) / stride + 1);
    let first = first.saturating_add(past.saturating_mul(stride));
    std::iter::successors(Some(first), move |end| end.checked_add(stride)).take_while(move |end| *end <= last)
}

/// Parts with the same columns, one below the other.
fn concat_columns(mut parts: Vec<Vec<ArrayRef>>) -> DfResult<Vec<ArrayRef>> {
    if parts.len() == 1 {
        return Ok(parts.pop().unwrap_or_default());
    }
    let count = parts.first().map_or(0, Vec::len);
    let column = |column: usize| {
        let parts: Vec<&dyn Array> = parts.iter().filter_map(|p| p.get(column)).map(|c| c.as_ref()).collect();
        Ok(concat(&parts)?)
    };
    (0..count).map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panes_are_looked_at_as_far_as_they_can_have_a_window_that_closes() {
        let spec = WindowSpec { kind: WindowKind::Hop { slide_us: 2, size_us: 10 }, offset_us: 0 };
        let looked_at = std::cell::Cell::new(0);
        let panes = (0..1_000_000).map(|n| {
            looked_at.set(looked_at.get() + 1);
            n * 2
        });
        // The first windows that hold the rows of pane 2n end at 2n + 2.
        let (ends, needed) = closing(&spec, panes, Some(20), 25);
        assert_eq!(ends.into_iter().collect::<Vec<_>>(), [22, 24]);
        // The window [16, 26) is the next one to close.
        assert_eq!(needed, 16);
        assert_eq!(looked_at.get(), 13);
    }
}
