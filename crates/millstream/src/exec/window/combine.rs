//! Panes, merged into the windows that they make up.
//!
//! A window that hops covers many panes, and shares all but the newest with the one before it. Merging them
//! anew for every window costs size/slide times the keys. So stretches of 2, 4, 8, .. panes are merged once
//! and kept: a window is then made of at most twice the logarithm of its panes. A stretch begins at a
//! multiple of its length, counted from 1970: what is merged with what depends on the panes alone, not on
//! when a window was asked for, so that a replay rounds floats in the same way.
//!
//! Only panes that can't change any more are merged: all windows that are made here have closed.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use datafusion::common::Result as DfResult;
use millstream_state::KeyedTable;

use super::super::accumulate::{Accumulators, Aggregates};
use super::super::changes::state_error;
use super::super::grouping::Grouping;
use super::state::{Merged, WindowState};
use crate::window::WindowSpec;

/// Groups with their state.
#[derive(Clone, Debug)]
pub struct Groups {
    /// How many there are.
    pub rows: usize,
    /// The key columns.
    pub keys: Vec<ArrayRef>,
    /// The state columns.
    pub state: Vec<ArrayRef>,
}

impl Groups {
    /// All groups of a table, with what is staged.
    pub fn scan(table: &KeyedTable) -> DfResult<Self> {
        let mut batches = table.scan_staged().collect::<millstream_core::Result<Vec<_>>>().map_err(state_error)?;
        let batch = match batches.pop() {
            Some(batch) if batches.is_empty() => batch,
            Some(batch) => {
                let schema = batch.schema();
                batches.push(batch);
                concat_batches(&schema, &batches)?
            }
            None => return Ok(Self { rows: 0, keys: vec![], state: vec![] }),
        };
        Ok(Self::of(&batch, table.keys().fields().len()))
    }

    fn of(batch: &RecordBatch, keys: usize) -> Self {
        let (keys, state) = batch.columns().split_at(keys.min(batch.num_columns()));
        Self { rows: batch.num_rows(), keys: keys.to_vec(), state: state.to_vec() }
    }
}

/// Merges panes of one batch into windows.
pub struct Combine<'a> {
    /// The windows.
    pub spec: WindowSpec,
    /// The key columns.
    pub keys: &'a SchemaRef,
    /// What is aggregated.
    pub aggregates: &'a Arc<Aggregates>,
    /// The panes.
    pub state: &'a mut WindowState,
}

impl Combine<'_> {
    /// The keys of a window, and their answers. `None` where the window has no rows.
    pub fn window(&mut self, panes: Range<i64>) -> DfResult<Option<(Vec<ArrayRef>, Vec<ArrayRef>)>> {
        let mut parts = Vec::new();
        let (mut from, to) = (self.index(panes.start), self.index(panes.end));
        while from < to {
            let level = from.trailing_zeros().min((to - from).ilog2());
            parts.extend(self.stretch(from, level)?);
            from += 1 << level;
        }
        match &parts[..] {
            [] => Ok(None),
            [groups] => {
                let results = self.aggregates.evaluate(&groups.state, groups.rows)?;
                Ok(Some((groups.keys.clone(), results)))
            }
            parts => {
                let (keys, accumulators) = self.merge(parts)?;
                Ok(Some((keys, accumulators.evaluate()?)))
            }
        }
    }

    /// The groups of the `2^level` panes from one on; `None` where they hold nothing.
    fn stretch(&mut self, from: i64, level: u32) -> DfResult<Option<Arc<Groups>>> {
        let (start, end) = (self.pane(from), self.pane(from.saturating_add(1 << level)));
        let mut panes = self.state.groups.panes(start..end);
        let (first, second) = (panes.next(), panes.next());
        let Some((_, table)) = first else { return Ok(None) };
        if second.is_none() {
            return Ok(Some(Arc::new(Groups::scan(table)?)).filter(|g| g.rows > 0));
        }
        drop(panes);
        if let Some(merged) = self.state.merged.get(&(start, level)) {
            return Ok(Some(Arc::clone(&merged.groups)));
        }
        let half = level.saturating_sub(1);
        let halves = [self.stretch(from, half)?, self.stretch(from + (1 << half), half)?];
        let parts: Vec<Arc<Groups>> = halves.into_iter().flatten().collect();
        let groups = match &parts[..] {
            [] => return Ok(None),
            [groups] => return Ok(Some(Arc::clone(groups))),
            parts => {
                let (keys, accumulators) = self.merge(parts)?;
                let state = accumulators.state()?;
                let rows = keys.first().or(state.first()).map_or(1, |c| c.len());
                Arc::new(Groups { rows, keys, state })
            }
        };
        self.state.merged.insert((start, level), Merged { groups: Arc::clone(&groups), staged: true });
        Ok(Some(groups))
    }

    /// Groups with equal keys become one.
    fn merge(&self, parts: &[Arc<Groups>]) -> DfResult<(Vec<ArrayRef>, Accumulators)> {
        let mut grouping = Grouping::try_new(self.keys)?;
        let mut accumulators = self.aggregates.accumulators()?;
        for part in parts {
            let groups = grouping.intern(&part.keys, part.rows)?;
            accumulators.merge(&part.state, &groups, grouping.len())?;
        }
        Ok((grouping.keys()?, accumulators))
    }

    /// The number of the pane that starts there, counted from 1970.
    fn index(&self, pane: i64) -> i64 {
        pane.saturating_sub(self.spec.pane_of(0)).div_euclid(self.spec.pane_us().max(1))
    }

    fn pane(&self, index: i64) -> i64 {
        index.saturating_mul(self.spec.pane_us()).saturating_add(self.spec.pane_of(0))
    }
}
