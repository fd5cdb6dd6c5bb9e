//! The values of each group, with how often each of them is there.
//!
//! A batch adds weights to pairs of group and value. What comes of it is which values appeared and which went, which is
//! all that a DISTINCT aggregate has to be told; and the values in their order ([`Tree`]), of which a minimum is the first,
//! and from which every function can be computed anew. What is kept of a group lies in its own row, as far as it fits.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, BooleanArray, UInt64Array};
use arrow::compute::{and, is_not_null, take_arrays};
use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::Result as DfResult;
use datafusion::physical_expr::PhysicalExpr;

use super::super::accumulate::{evaluate_all, evaluate_filter};
use super::super::grouping::canonical;
use super::super::memory::Memory;
use super::Touched;
use super::deltas::Deltas;
use super::tree::{Roots, Tree, Which};

/// What is kept.
#[derive(Clone, Debug)]
pub struct BagSpec {
    /// The values that are told apart, over the input.
    pub values: Vec<Arc<dyn PhysicalExpr>>,
    /// The rows that count.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// Whether a value with a NULL in it counts.
    pub nulls: bool,
    /// Whether an aggregate has to be told which values appear and go.
    pub told: bool,
}

impl BagSpec {
    /// Whether the other keeps the same values.
    pub fn same_values(&self, other: &Self) -> bool {
        self.values == other.values && self.filter == other.filter && self.nulls == other.nulls
    }
}

/// What a batch changed.
#[derive(Debug)]
pub struct Changes {
    /// What each touched group keeps in its row.
    pub roots: BinaryArray,
    /// The values of the batch's rows.
    values: Vec<ArrayRef>,
    /// A row with each value that appeared or went.
    rows: Vec<u64>,
    /// Its group.
    groups: Vec<usize>,
    /// Whether it came (+1) or went (-1).
    weights: Vec<i64>,
}

/// Pairs of group and value that appeared (+1) or went (-1).
#[derive(Debug)]
pub struct Moved {
    /// The group of each.
    pub groups: Vec<usize>,
    /// The values.
    pub values: Vec<ArrayRef>,
    /// Whether it came or went.
    pub weights: Vec<i64>,
}

/// Values of groups: columns, and the group of each and how often it is there.
pub struct Values {
    /// The values.
    pub columns: Vec<ArrayRef>,
    /// The group of each.
    pub groups: Vec<usize>,
    /// How often each is there.
    pub counts: Vec<u64>,
}

/// The values of all groups, beside what their rows keep.
#[derive(Debug)]
pub struct Bag {
    /// The pages of groups with many values.
    pub tree: Tree,
    converter: RowConverter,
}

impl Bag {
    /// No values yet.
    pub fn try_new(spec: &BagSpec, input: &Schema) -> DfResult<Self> {
        let fields = spec.values.iter().map(|value| Ok(SortField::new(value.data_type(input)?)));
        let converter = RowConverter::new(fields.collect::<DfResult<_>>()?)?;
        Ok(Self { tree: Tree::try_new()?, converter })
    }

    /// Adds the weights of a batch to the values below the roots of the touched groups.
    pub(super) fn update(
        &mut self,
        spec: &BagSpec,
        touched: &Touched,
        (rows, weights): (&RecordBatch, &[i64]),
        roots: &Roots<'_>,
        memory: &Memory,
    ) -> DfResult<Changes> {
        let values = evaluate_all(&spec.values, rows)?.iter().map(canonical).collect::<Vec<_>>();
        let counts = counting(spec, rows, &values)?;
        let counts = |row: usize| counts.as_ref().is_none_or(|counts| counts.value(row));
        let bytes = self.converter.convert_columns(&values)?.try_into_binary()?;
        let pairs = Deltas::of(bytes, &touched.of_row, weights, touched.total, counts);
        let mut moved = vec![0i64; if spec.told { pairs.len() } else { 0 }];
        let roots = self.tree.change(roots, &pairs, |pair, before| {
            let mut after = before as i64 + pairs.weight(pair);
            if after < 0 {
                memory.unknown_row("an aggregate")?;
                after = 0;
            }
            if let Some(moved) = moved.get_mut(pair) {
                *moved = i64::from(after > 0) - i64::from(before > 0);
            }
            Ok(after as u64)
        })?;
        let mut changes = Changes { roots, values, rows: vec![], groups: vec![], weights: vec![] };
        if spec.told {
            for group in 0..touched.total {
                for pair in pairs.of_group(group) {
                    if let Some(weight) = moved.get(pair).filter(|weight| **weight != 0) {
                        changes.rows.push(u64::from(pairs.row(pair)));
                        changes.groups.push(group);
                        changes.weights.push(*weight);
                    }
                }
            }
        }
        Ok(changes)
    }

    /// The smallest or largest value of each group that has one, or all values in their order.
    pub fn values(&self, roots: &Roots<'_>, which: Which) -> DfResult<Values> {
        // One of each group, as far as it is known beforehand.
        let room = if which == Which::All { 0 } else { roots.len() };
        let (mut bytes, mut ends) = (Vec::with_capacity(16 * room), Vec::with_capacity(room));
        let (mut groups, mut counts) = (Vec::with_capacity(room), Vec::with_capacity(room));
        self.tree.walk(roots, which, |group, value, count| {
            bytes.extend_from_slice(value);
            ends.push(bytes.len());
            groups.push(group);
            counts.push(count);
        })?;
        let parser = self.converter.parser();
        let starts = [0].into_iter().chain(ends.iter().copied());
        let rows = starts.zip(&ends).map(|(from, to)| parser.parse(bytes.get(from..*to).unwrap_or_default()));
        Ok(Values { columns: self.converter.convert_rows(rows)?, groups, counts })
    }
}

impl Changes {
    /// Which values appeared and which went, where this is told.
    pub fn moved(&self) -> DfResult<Moved> {
        let values = take_arrays(&self.values, &UInt64Array::from(self.rows.clone()), None)?;
        Ok(Moved { groups: self.groups.clone(), values, weights: self.weights.clone() })
    }
}

/// The rows of a batch that count; `None` for all.
fn counting(spec: &BagSpec, rows: &RecordBatch, values: &[ArrayRef]) -> DfResult<Option<BooleanArray>> {
    let mut mask = spec.filter.as_ref().map(|counts| evaluate_filter(counts, rows)).transpose()?;
    for value in values.iter().filter(|v| !spec.nulls && v.logical_null_count() > 0) {
        let there = is_not_null(value)?;
        mask = Some(match mask {
            Some(mask) => and(&mask, &there)?,
            None => there,
        });
    }
    Ok(mask)
}
