//! What one side of a join brings in a batch, and what it had before.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::buffer::NullBuffer;
use arrow::compute::{concat_batches, take_arrays};
use arrow::datatypes::Int64Type;
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::{Result as DfResult, internal_err};
use millstream_state::{Keys, MultiTable, RowId};

use super::super::accumulate::evaluate_all;
use super::super::changes::state_error;
use super::super::grouping::Grouping;
use super::super::memory::Memory;
use super::Plan;
use super::state::Side;
use crate::changelog;

/// The group of a row whose key can't match.
pub const NO_GROUP: u32 = u32::MAX;

/// The rows of groups: a list for each group, one after the other.
#[derive(Debug, Default)]
pub struct ByGroup {
    starts: Vec<u32>,
    rows: Vec<u32>,
}

impl ByGroup {
    /// Sorts rows by their group; within a group they stay in order. `keep` says which rows count.
    pub fn new(of_row: &[u32], groups: usize, keep: impl Fn(u32) -> bool) -> Self {
        let mut starts = vec![0u32; groups + 1];
        let kept = || (0u32..).zip(of_row).filter(|(row, group)| **group != NO_GROUP && keep(*row));
        for (_, group) in kept() {
            if let Some(start) = starts.get_mut(*group as usize + 1) {
                *start += 1;
            }
        }
        let mut total = 0;
        for start in &mut starts {
            total += *start;
            *start = total;
        }
        let mut next = starts.clone();
        let mut rows = vec![0; total as usize];
        for (row, group) in kept() {
            if let Some(at) = next.get_mut(*group as usize) {
                if let Some(to) = rows.get_mut(*at as usize) {
                    *to = row;
                }
                *at += 1;
            }
        }
        Self { starts, rows }
    }

    /// The rows of a group.
    #[inline]
    pub fn of(&self, group: u32) -> &[u32] {
        let group = group as usize;
        match (self.starts.get(group), self.starts.get(group.wrapping_add(1))) {
            (Some(from), Some(to)) => self.rows.get(*from as usize..*to as usize).unwrap_or_default(),
            _ => &[],
        }
    }
}

/// The changes of one side: each row once for each time that it comes or goes.
#[derive(Debug)]
pub struct Delta {
    pub columns: Vec<ArrayRef>,
    pub rows: usize,
    /// 1 or -1 for each row; `None` where all come.
    pub weights: Option<Vec<i64>>,
    pub keys: Vec<ArrayRef>,
    /// The group of each row's key.
    pub groups: Vec<u32>,
}

impl Delta {
    pub fn weight(&self, row: u32) -> i64 {
        self.weights.as_ref().map_or(1, |w| w.get(row as usize).copied().unwrap_or(1))
    }

    pub fn group(&self, row: u32) -> u32 {
        self.groups.get(row as usize).copied().unwrap_or(NO_GROUP)
    }

    /// The rows that go.
    pub fn gone(&self) -> impl Iterator<Item = u32> + '_ {
        let weights = self.weights.as_deref().unwrap_or_default();
        (0u32..).zip(weights).filter(|(_, weight)| **weight < 0).map(|(row, _)| row)
    }

    /// The sum of the weights of each group.
    pub fn sums(&self, groups: usize) -> Vec<i64> {
        let mut sums = vec![0; groups];
        for (row, group) in (0u32..).zip(&self.groups) {
            if let Some(sum) = sums.get_mut(*group as usize) {
                *sum += self.weight(row);
            }
        }
        sums
    }

    /// Numbers the keys of the rows. Without `nulls`, a row with a NULL in its key has no group.
    pub fn intern(&mut self, grouping: &mut Grouping, nulls: bool) -> DfResult<()> {
        let valid = if nulls { None } else { valid(&self.keys) };
        let number = |groups: Vec<usize>| groups.into_iter().map(|g| g as u32);
        let Some(valid) = valid else {
            self.groups = number(grouping.intern(&self.keys, self.rows)?).collect();
            return Ok(());
        };
        let rows: Vec<u32> = valid.valid_indices().map(|row| row as u32).collect();
        let keys = take_arrays(&self.keys, &UInt32Array::from(rows.clone()), None)?;
        self.groups = vec![NO_GROUP; self.rows];
        for (row, group) in rows.iter().zip(number(grouping.intern(&keys, rows.len())?)) {
            if let Some(at) = self.groups.get_mut(*row as usize) {
                *at = group;
            }
        }
        Ok(())
    }
}

/// The rows in which no key is NULL; `None` where none is NULL anywhere.
fn valid(keys: &[ArrayRef]) -> Option<NullBuffer> {
    let nulls = keys.iter().fold(None, |nulls, key| NullBuffer::union(nulls.as_ref(), key.logical_nulls().as_ref()));
    nulls.filter(|n| n.null_count() > 0)
}

impl Plan {
    /// The changes that a side's batches bring, without groups yet.
    pub(super) fn delta(&self, side: usize, batches: &[RecordBatch]) -> DfResult<Delta> {
        let (Some(schema), Some(columns)) = (self.inputs.get(side), self.columns.get(side)) else {
            return internal_err!("a join has two sides");
        };
        let weighted = changelog::is_weighted(schema);
        let mut all = match batches {
            [one] => one.clone(),
            many => concat_batches(schema, many)?,
        };
        let mut weights = None;
        if weighted && weights_of(&all)?.values().iter().any(|w| *w != 1) {
            let whole = changelog::consolidate(&[all], schema).map_err(state_error)?;
            all = one_by_one(&concat_batches(schema, &whole)?)?;
            weights = Some(weights_of(&all)?.values().to_vec());
        }
        let on = self.join.on.iter().map(|(l, r)| Arc::clone(if side == 0 { l } else { r })).collect::<Vec<_>>();
        let keys = evaluate_all(&on, &all)?;
        let rows = all.num_rows();
        let columns = all.columns().iter().take(columns.fields().len()).cloned().collect();
        Ok(Delta { columns, rows, weights, keys, groups: vec![] })
    }
}

fn weights_of(batch: &RecordBatch) -> DfResult<&Int64Array> {
    match batch.columns().last().and_then(|c| c.as_primitive_opt::<Int64Type>()) {
        Some(weights) => Ok(weights),
        None => internal_err!("a changelog ends with its weights"),
    }
}

/// Each row as often as its weight says, with a weight of 1 or -1.
fn one_by_one(batch: &RecordBatch) -> DfResult<RecordBatch> {
    let weights = weights_of(batch)?;
    if weights.values().iter().all(|w| w.unsigned_abs() == 1) {
        return Ok(batch.clone());
    }
    let mut rows = Vec::new();
    let mut ones = Vec::new();
    for (row, weight) in (0u32..).zip(weights.values()) {
        for _ in 0..weight.unsigned_abs() {
            rows.push(row);
            ones.push(weight.signum());
        }
    }
    let mut columns = take_arrays(batch.columns(), &UInt32Array::from(rows), None)?;
    columns.pop();
    columns.push(Arc::new(Int64Array::from(ones)));
    Ok(RecordBatch::try_new(batch.schema(), columns)?)
}

/// The rows that a side had before the batch, of some groups.
#[derive(Debug, Default)]
pub struct Old {
    pub columns: Vec<ArrayRef>,
    pub ids: Vec<RowId>,
    pub groups: Vec<u32>,
    /// How many partners each row has, where that is kept.
    pub partners: Option<Int64Array>,
    /// The rows that this batch takes away, one for each that goes in the delta, in that order.
    pub removed: Vec<u32>,
    /// Which rows these are; empty where there are none.
    gone: Vec<bool>,
}

impl Old {
    /// The rows of the groups that `wanted` names; `keys` are those of all groups.
    pub fn fetch(table: &MultiTable, side: &Side, keys: &Keys, wanted: &[bool]) -> DfResult<Self> {
        let wanted = |group: u32| wanted.get(group as usize).copied().unwrap_or(false);
        let found = table.get(side.rows().map_err(state_error)?, keys, wanted).map_err(state_error)?;
        let mut columns = found.values;
        let partners = if side.counted { columns.pop().map(|c| c.as_primitive::<Int64Type>().clone()) } else { None };
        Ok(Self { columns, ids: found.ids, groups: found.keys, partners, removed: vec![], gone: vec![] })
    }

    pub fn is_gone(&self, row: u32) -> bool {
        self.gone.get(row as usize).copied().unwrap_or(false)
    }

    pub fn group(&self, row: u32) -> u32 {
        self.groups.get(row as usize).copied().unwrap_or(NO_GROUP)
    }

    pub fn partners(&self, row: u32) -> i64 {
        self.partners.as_ref().map_or(0, |p| p.values().get(row as usize).copied().unwrap_or(0))
    }

    /// Finds the rows that go: for each, one that is equal to it in every column. One that is not there no longer goes,
    /// where the query forgets.
    pub(super) fn take_back(&mut self, delta: &mut Delta, groups: usize, memory: &Memory) -> DfResult<()> {
        let gone: Vec<u32> = delta.gone().filter(|row| delta.group(*row) != NO_GROUP).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let mut changed = vec![false; groups];
        for row in &gone {
            if let Some(changed) = changed.get_mut(delta.group(*row) as usize) {
                *changed = true;
            }
        }
        let candidates = (0u32..).zip(&self.groups).filter(|(_, g)| changed.get(**g as usize) == Some(&true));
        let candidates: Vec<u32> = candidates.map(|(row, _)| row).collect();
        self.gone = vec![false; self.ids.len()];
        let found: Vec<Option<u32>> = if delta.columns.is_empty() {
            matched(&gone, &candidates, |row| (delta.group(row), &[][..]), |old| (self.group(old), &[][..]))
        } else {
            let fields = delta.columns.iter().map(|c| SortField::new(c.data_type().clone())).collect();
            let converter = RowConverter::new(fields)?;
            let encode = |columns: &[ArrayRef], rows: &[u32]| -> DfResult<_> {
                Ok(converter.convert_columns(&take_arrays(columns, &UInt32Array::from(rows.to_vec()), None)?)?)
            };
            let (new, old) = (encode(&delta.columns, &gone)?, encode(&self.columns, &candidates)?);
            let places: Vec<u32> = (0..gone.len() as u32).collect();
            let held: Vec<u32> = (0..candidates.len() as u32).collect();
            let of = |places: &[u32], place: u32| places.get(place as usize).copied().unwrap_or_default();
            let found = matched(
                &places,
                &held,
                |place| (delta.group(of(&gone, place)), new.row(place as usize).data()),
                |place| (self.group(of(&candidates, place)), old.row(place as usize).data()),
            );
            found.into_iter().map(|place| place.map(|place| of(&candidates, place))).collect()
        };
        for (row, _) in gone.iter().zip(&found).filter(|(_, found)| found.is_none()) {
            memory.unknown_row("a join")?;
            if let Some(weight) = delta.weights.as_mut().and_then(|w| w.get_mut(*row as usize)) {
                *weight = 0;
            }
        }
        self.removed = found.into_iter().flatten().collect();
        for row in &self.removed {
            if let Some(gone) = self.gone.get_mut(*row as usize) {
                *gone = true;
            }
        }
        Ok(())
    }
}

/// For each of the rows that go, one of the held rows that is equal, where there is one; each is taken once.
fn matched<'a>(
    gone: &[u32],
    held: &[u32],
    new: impl Fn(u32) -> (u32, &'a [u8]),
    old: impl Fn(u32) -> (u32, &'a [u8]),
) -> Vec<Option<u32>> {
    let mut equal: HashMap<(u32, &[u8]), Vec<u32>> = HashMap::with_capacity(held.len());
    // The newest is taken first, which is the last of the key's rows as a rule: nothing has to move.
    held.iter().for_each(|row| equal.entry(old(*row)).or_default().push(*row));
    gone.iter().map(|row| equal.get_mut(&new(*row)).and_then(Vec::pop)).collect()
}
