//! How a batch changes the answer of a join.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::take_arrays;
use datafusion::common::{Result as DfResult, internal_err};
use millstream_state::RowId;

use super::super::BatchContext;
use super::super::changes::state_error;
use super::super::grouping::Grouping;
use super::null_aware;
use super::pairs::{Pair, Single};
use super::side::{ByGroup, Delta, NO_GROUP, Old};
use super::state::{Found, JoinState, Kept};
use super::{Plan, Preserve};
use crate::changelog;

/// A batch, as a join sees it.
pub(super) struct Step {
    pub deltas: [Delta; 2],
    /// The distinct keys of both.
    pub keys: Vec<ArrayRef>,
    pub groups: usize,
    /// Where these keys are kept, if anything is.
    found: Option<Found>,
    /// The rows of the same keys that were there before.
    old: [Old; 2],
    /// How many rows of each key a side had, where that is asked for.
    counts: [Vec<i64>; 2],
    /// How many partners the rows of each key have, before and after, where there is no residual condition.
    before: [Vec<i64>; 2],
    after: [Vec<i64>; 2],
    /// With one: how many partners each new row has, and by how many those of each old one change.
    pub new_partners: [Vec<i64>; 2],
    old_partners: [Vec<i64>; 2],
}

impl Plan {
    /// The changes of the answer; what is to be remembered is staged.
    pub(super) fn run(
        &self,
        state: &mut JoinState,
        inputs: [&[RecordBatch]; 2],
        batch: &BatchContext,
    ) -> DfResult<Vec<RecordBatch>> {
        let mut output = vec![];
        let frontier = batch.frontier;
        self.forget(state, batch.time_us)?;
        let deltas = [self.delta(0, inputs[0])?, self.delta(1, inputs[1])?];
        if deltas.iter().any(|d| d.rows > 0) {
            let mut step = self.step(Some(state), deltas, &mut output)?;
            self.touch(state, &step, batch.time_us)?;
            self.apply(state, &mut step, frontier, &mut output)?;
        }
        self.expire(state, frontier, &mut output)?;
        match self.is_changelog() {
            true => changelog::consolidate(&output, &self.output).map_err(state_error),
            false => Ok(output),
        }
    }

    /// Puts out how the answer changes. Without a state there was nothing before.
    pub(super) fn step(
        &self,
        state: Option<&mut JoinState>,
        mut deltas: [Delta; 2],
        output: &mut Vec<RecordBatch>,
    ) -> DfResult<Step> {
        let mut grouping = Grouping::try_new(&self.keys)?;
        let [left, right] = &mut deltas;
        left.intern(&mut grouping, self.join.null_equals_null || self.join.null_aware)?;
        right.intern(&mut grouping, self.join.null_equals_null)?;
        let mut totals = None;
        if let (true, Some(state)) = (self.join.null_aware, state.as_deref()) {
            let (before, after) = (state.totals.staged, state.totals.staged.after(right));
            if before.differs(after) {
                null_aware::intern_all(state, &mut grouping)?;
            }
            totals = Some((before, after));
        }
        let groups = grouping.len();
        let keys = grouping.keys()?;
        let mut step = Step {
            deltas,
            keys,
            groups,
            found: Default::default(),
            old: Default::default(),
            counts: Default::default(),
            before: Default::default(),
            after: Default::default(),
            new_partners: Default::default(),
            old_partners: Default::default(),
        };
        if let Some(state) = state.as_deref() {
            step.found = Some(state.find(&step.keys, groups).map_err(state_error)?);
            self.count(state, &mut step)?;
        } else {
            step.after = [step.deltas[1].sums(groups), step.deltas[0].sums(groups)];
            step.before = [vec![0; groups], vec![0; groups]];
        }
        if let Some((before, after)) = totals {
            step.before[0] = before.partners(&step.keys, &step.before[0]);
            step.after[0] = after.partners(&step.keys, &step.after[0]);
        }
        if let Some(state) = state {
            state.totals.staged = totals.map_or(state.totals.staged, |(_, after)| after);
            self.fetch(state, &mut step)?;
        }
        self.pair(&mut step, output)?;
        for side in [0, 1] {
            self.preserved(side, &step, output)?;
        }
        Ok(step)
    }

    /// The partners of each key, where all rows of a key are partners.
    fn count(&self, state: &JoinState, step: &mut Step) -> DfResult<()> {
        for (side, other) in [(0, 1), (1, 0)] {
            // A side that is only counted has to know its counts to change them.
            let counted = matches!(state.sides[other].kept, Kept::Counts(_));
            if counted || (self.preserves(side).is_some() && self.join.filter.is_none()) {
                let counts = state.counts(other, found(&mut step.found)?).map_err(state_error)?;
                let sums = step.deltas[other].sums(step.groups);
                step.after[side] = counts.iter().zip(sums).map(|(before, sum)| before + sum).collect();
                step.before[side].clone_from(&counts);
                step.counts[other] = counts;
            }
        }
        Ok(())
    }

    /// Fetches the rows of before that this batch pairs, changes or takes back.
    fn fetch(&self, state: &JoinState, step: &mut Step) -> DfResult<()> {
        for (side, other) in [(0, 1), (1, 0)] {
            if matches!(state.sides[side].kept, Kept::Counts(_)) {
                continue;
            }
            let mut wanted = vec![false; step.groups];
            let mut want = |group: u32| {
                if let Some(wanted) = wanted.get_mut(group as usize) {
                    *wanted = true;
                }
            };
            let own = &step.deltas[side];
            own.gone().for_each(|row| want(own.group(row)));
            if self.pairs || self.join.filter.is_some() {
                step.deltas[other].groups.iter().for_each(|group| want(*group));
            } else if self.preserves(side).is_some() {
                let turned = |(before, after): (&i64, &i64)| (*before > 0) != (*after > 0);
                let turned = step.before[side].iter().zip(&step.after[side]).map(turned);
                (0u32..).zip(turned).filter(|(_, turned)| *turned).for_each(|(group, _)| want(group));
            }
            let keys = &found(&mut step.found)?.rows;
            let mut old = Old::fetch(&state.rows, &state.sides[side], keys, &wanted)?;
            old.take_back(&mut step.deltas[side], step.groups, &self.memory)?;
            step.old[side] = old;
        }
        Ok(())
    }

    /// `dL x R_old`, then `L_new x dR`.
    fn pair(&self, step: &mut Step, output: &mut Vec<RecordBatch>) -> DfResult<()> {
        if !self.pairs && self.join.filter.is_none() {
            return Ok(());
        }
        let Step { deltas: [left, right], old: [old_left, old_right], groups, .. } = &*step;
        let mut new = [vec![0i64; left.rows], vec![0i64; right.rows]];
        let mut changed = [vec![0i64; old_left.ids.len()], vec![0i64; old_right.ids.len()]];
        let [new_left, new_right] = &mut new;
        let [changed_left, changed_right] = &mut changed;
        let add = |counts: &mut Vec<i64>, row: u32, n: i64| {
            if let Some(count) = counts.get_mut(row as usize) {
                *count += n;
            }
        };

        let by_group = ByGroup::new(&old_right.groups, *groups, |_| true);
        let rows = (0..left.rows as u32).map(|row| (row, left.group(row), left.weight(row)));
        let pairs = rows.flat_map(|(l, group, weight)| by_group.of(group).iter().map(move |r| (l, *r, weight)));
        self.product(&left.columns, &old_right.columns, pairs, output, |(l, r, weight)| {
            add(new_left, l, 1);
            add(changed_right, r, weight);
        })?;

        let by_group = ByGroup::new(&left.groups, *groups, |row| left.weight(row) > 0);
        let rows = || (0..right.rows as u32).map(|row| (row, right.group(row), right.weight(row)));
        let pairs = rows().flat_map(|(r, group, weight)| by_group.of(group).iter().map(move |l| (*l, r, weight)));
        self.product(&left.columns, &right.columns, pairs, output, |(l, r, weight)| {
            add(new_left, l, weight);
            add(new_right, r, 1);
        })?;

        let by_group = ByGroup::new(&old_left.groups, *groups, |row| !old_left.is_gone(row));
        let pairs = rows().flat_map(|(r, group, weight)| by_group.of(group).iter().map(move |l| (*l, r, weight)));
        self.product(&old_left.columns, &right.columns, pairs, output, |(l, r, weight): Pair| {
            add(changed_left, l, weight);
            add(new_right, r, 1);
        })?;
        step.new_partners = new;
        step.old_partners = changed;
        Ok(())
    }

    /// What changes in what the join says of single rows of a side.
    fn preserved(&self, side: usize, step: &Step, output: &mut Vec<RecordBatch>) -> DfResult<()> {
        let Some(preserve) = self.preserves(side) else { return Ok(()) };
        let (delta, old) = (&step.deltas[side], &step.old[side]);
        let mut singles = vec![];
        let mut say = |row: u32, weight: i64, partners: i64| {
            let matched = partners > 0;
            let said = match preserve {
                Preserve::Padded | Preserve::Unmatched => !matched,
                Preserve::Matched => matched,
                Preserve::Marked => true,
            };
            if said {
                singles.push(Single { row, weight, matched });
            }
        };
        let waits = self.at_expiry(side);
        let mut removed = old.removed.iter();
        for row in 0..delta.rows as u32 {
            let (group, weight) = (delta.group(row), delta.weight(row));
            if group == NO_GROUP {
                say(row, weight, 0);
            } else if weight > 0 && !waits {
                say(row, weight, self.partners(side, step, row));
            } else if weight < 0
                && let Some(was) = removed.next()
            {
                say(row, weight, self.partners_before(side, step, *was));
            }
        }
        self.singles(side, &delta.columns, &singles, output)?;
        if waits {
            return Ok(());
        }

        let mut singles = vec![];
        for row in (0..old.ids.len() as u32).filter(|row| !old.is_gone(*row)) {
            let (before, after) = (self.partners_before(side, step, row) > 0, self.partners_after(side, step, row) > 0);
            if before == after {
                continue;
            }
            let mut say = |weight, matched| singles.push(Single { row, weight, matched });
            match preserve {
                Preserve::Padded | Preserve::Unmatched => say(if after { -1 } else { 1 }, false),
                Preserve::Matched => say(if after { 1 } else { -1 }, true),
                Preserve::Marked => {
                    say(-1, before);
                    say(1, after);
                }
            }
        }
        self.singles(side, &old.columns, &singles, output)
    }

    /// How many partners a new row has.
    pub(super) fn partners(&self, side: usize, step: &Step, row: u32) -> i64 {
        match &self.join.filter {
            Some(_) => at(&step.new_partners[side], row),
            None => at(&step.after[side], step.deltas[side].group(row)),
        }
    }

    fn partners_before(&self, side: usize, step: &Step, row: u32) -> i64 {
        match &self.join.filter {
            Some(_) => step.old[side].partners(row),
            None => at(&step.before[side], step.old[side].group(row)),
        }
    }

    fn partners_after(&self, side: usize, step: &Step, row: u32) -> i64 {
        match &self.join.filter {
            Some(_) => step.old[side].partners(row) + at(&step.old_partners[side], row),
            None => at(&step.after[side], step.old[side].group(row)),
        }
    }

    /// Stages that keys are forgotten which nothing has touched for long.
    fn forget(&self, state: &mut JoinState, time_us: i64) -> DfResult<()> {
        for side in [0, 1] {
            let Some(idle) = &mut state.sides[side].idle else { continue };
            if let Some(gone) = idle.due(time_us)? {
                state.forget(side, &gone.keys, gone.count).map_err(state_error)?;
            }
        }
        Ok(())
    }

    /// Stages that the rows of a batch have touched their keys.
    fn touch(&self, state: &mut JoinState, step: &Step, time_us: i64) -> DfResult<()> {
        for (held, delta) in state.sides.iter_mut().zip(&step.deltas) {
            let Some(idle) = &mut held.idle else { continue };
            let groups: Vec<u32> = delta.groups.iter().copied().filter(|group| *group != NO_GROUP).collect();
            let (keys, count) = step.keys_of(&groups)?;
            idle.touch(time_us, &keys, count)?;
        }
        Ok(())
    }

    /// Stages what is to be remembered.
    fn apply(
        &self,
        state: &mut JoinState,
        step: &mut Step,
        frontier: Option<i64>,
        output: &mut Vec<RecordBatch>,
    ) -> DfResult<()> {
        for side in [0, 1] {
            if matches!(state.sides[side].kept, Kept::Counts(_)) {
                let sums = step.deltas[side].sums(step.groups);
                if step.counts[side].iter().zip(&sums).any(|(count, sum)| count + sum < 0) {
                    self.memory.unknown_row("a join")?;
                }
                let keys = found(&mut step.found)?;
                state.sides[side].put_counts(keys, &step.counts[side], &sums).map_err(state_error)?;
                continue;
            }
            self.update(state, side, step)?;
            let kept = self.kept(side, step, frontier, output)?;
            self.insert(state, side, step, kept)?;
        }
        Ok(())
    }

    /// New counts of old rows, and old rows that go.
    fn update(&self, state: &mut JoinState, side: usize, step: &mut Step) -> DfResult<()> {
        let old = &step.old[side];
        let JoinState { rows: table, sides, .. } = state;
        let (counted, number) = (sides[side].counted, sides[side].rows().map_err(state_error)?);
        // Where rows never go, it only matters that there is a partner.
        let saturates = !self.is_changelog();
        if counted {
            let changed = |row: &u32| {
                let (before, change) = (old.partners(*row), at(&step.old_partners[side], *row));
                change != 0 && !old.is_gone(*row) && !(saturates && before > 0)
            };
            let rows: Vec<u32> = (0..old.ids.len() as u32).filter(changed).collect();
            if !rows.is_empty() {
                let ids: Option<Vec<RowId>> = rows.iter().map(|row| old.ids.get(*row as usize).copied()).collect();
                let Some(ids) = ids else { return internal_err!("a row of a join has no id") };
                let after = rows.iter().map(|row| old.partners(*row) + at(&step.old_partners[side], *row));
                let after = Int64Array::from_iter_values(after);
                let mut values = take_arrays(&old.columns, &UInt32Array::from(rows.clone()), None)?;
                values.push(Arc::new(after));
                table.update(number, &ids, &values).map_err(state_error)?;
            }
        }
        if !old.removed.is_empty() {
            let ids: Vec<RowId> = old.removed.iter().filter_map(|row| old.ids.get(*row as usize).copied()).collect();
            table.remove(number, &found(&mut step.found)?.rows, &ids).map_err(state_error)?;
        }
        Ok(())
    }

    /// Stages new rows.
    fn insert(&self, state: &mut JoinState, side: usize, step: &mut Step, rows: Vec<u32>) -> DfResult<()> {
        let delta = &step.deltas[side];
        let JoinState { rows: table, sides, .. } = state;
        let held = &mut sides[side];
        let all = rows.len() == delta.rows;
        let of_row: Vec<u32> = rows.iter().map(|row| delta.group(*row)).collect();
        let picks = UInt32Array::from(rows);
        let mut values = if all { delta.columns.clone() } else { take_arrays(&delta.columns, &picks, None)? };
        if held.counted {
            let partners = picks.values().iter().map(|row| at(&step.new_partners[side], *row));
            values.push(Arc::new(Int64Array::from_iter_values(partners)));
        }
        let number = held.rows().map_err(state_error)?;
        table.insert(number, &mut found(&mut step.found)?.rows, &of_row, &values).map_err(state_error)?;
        self.remember_expiries(held, side, step, picks.values())
    }
}

impl Step {
    /// The distinct keys of the groups of some rows, and how many they are.
    fn keys_of(&self, groups: &[u32]) -> DfResult<(Vec<ArrayRef>, usize)> {
        let mut chosen = vec![false; self.groups];
        for group in groups {
            match chosen.get_mut(*group as usize) {
                Some(chosen) => *chosen = true,
                None => return internal_err!("a row without a group"),
            }
        }
        let chosen: UInt32Array = (0u32..).zip(chosen).filter(|(_, chosen)| *chosen).map(|(group, _)| group).collect();
        Ok((take_arrays(&self.keys, &chosen, None)?, chosen.len()))
    }
}

/// Where the keys of a batch are kept.
fn found(keys: &mut Option<Found>) -> DfResult<&mut Found> {
    match keys {
        Some(keys) => Ok(keys),
        None => internal_err!("a join that keeps nothing has nothing to look up"),
    }
}

fn at(counts: &[i64], index: u32) -> i64 {
    counts.get(index as usize).copied().unwrap_or(0)
}
