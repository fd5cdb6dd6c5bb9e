//! DISTINCT inside an aggregate: the rows whose value is new in their group.
//!
//! It is done in two levels. A table remembers which values each group has seen; the aggregate itself, without
//! DISTINCT, is given the rows that bring a new one. So a large set costs what a batch brings, not what it
//! has grown to, and values are taken in the order in which they first came: a replay sums floats in the same
//! order, which a hash set does not.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt32Array, UInt64Array};
use arrow::compute::take_arrays;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use datafusion::common::{Result as DfResult, internal_err};

use super::accumulate::{Aggregates, Portion};
use super::grouping::Grouping;

/// The key columns of the table behind one DISTINCT: those of its groups, then the values.
pub fn seen_keys(groups: &SchemaRef, aggregates: &Aggregates, set: usize, input: &Schema) -> DfResult<SchemaRef> {
    let mut fields = groups.fields().to_vec();
    let values = aggregates.distinct().get(set).map(|d| d.values.as_slice()).unwrap_or_default();
    for (i, value) in values.iter().enumerate() {
        fields.push(Arc::new(Field::new(format!("$value.{i}"), value.data_type(input)?, true)));
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// Restricts DISTINCT aggregates to the rows whose value is new in their group.
///
/// `unseen` is asked once for each of [`Aggregates::distinct`]: out of distinct pairs of group and value, it
/// answers which no earlier batch has seen, and remembers them.
pub fn keep_first(
    aggregates: &Aggregates,
    portions: &mut [Portion],
    mut unseen: impl FnMut(usize, &[usize], &[ArrayRef]) -> DfResult<Vec<bool>>,
) -> DfResult<()> {
    let mut masks: Vec<Vec<BooleanArray>> = vec![Vec::new(); portions.len()];
    for (set, distinct) in aggregates.distinct().iter().enumerate() {
        let pairs = Pairs::of(distinct.aggregate, distinct.values.len(), portions)?;
        let new = if pairs.groups.is_empty() { vec![] } else { unseen(set, &pairs.groups, &pairs.values)? };
        for (masks, (portion, mask)) in masks.iter_mut().zip(portions.iter().zip(pairs.masks(&new, portions))) {
            debug_assert_eq!(portion.groups.len(), mask.len());
            masks.push(BooleanArray::from(mask));
        }
    }
    for (portion, masks) in portions.iter_mut().zip(&masks) {
        aggregates.keep_first(&mut portion.arguments, masks)?;
    }
    Ok(())
}

/// The distinct pairs of group and value of a batch, in the order of their first rows.
struct Pairs {
    groups: Vec<usize>,
    values: Vec<ArrayRef>,
    /// The first row of each: portion, row.
    first: Vec<(usize, usize)>,
}

impl Pairs {
    fn of(aggregate: usize, values: usize, portions: &[Portion]) -> DfResult<Self> {
        let mut pairs: Option<Grouping> = None;
        let mut first: Vec<Option<(usize, usize)>> = Vec::new();
        for (number, portion) in portions.iter().enumerate() {
            let Some(arguments) = portion.arguments.get(aggregate) else {
                return internal_err!("a DISTINCT belongs to no aggregate");
            };
            let counted: Option<UInt32Array> = arguments
                .filter
                .as_ref()
                .map(|f| (0u32..).zip(f.values().iter()).filter_map(|(row, counts)| counts.then_some(row)).collect());
            let mut columns: Vec<ArrayRef> =
                vec![Arc::new(UInt64Array::from_iter_values(portion.groups.iter().map(|g| *g as u64)))];
            columns.extend(arguments.values.iter().take(values).cloned());
            if let Some(counted) = &counted {
                columns = take_arrays(&columns, counted, None)?;
            }
            let rows = columns.first().map_or(0, |c| c.len());
            let pairs = match &mut pairs {
                Some(pairs) => pairs,
                None => pairs.insert(Grouping::try_new(&schema_of(&columns))?),
            };
            let interned = pairs.intern(&columns, rows)?;
            first.resize(pairs.len(), None);
            for (i, pair) in interned.into_iter().enumerate() {
                if let Some(first @ None) = first.get_mut(pair) {
                    *first = Some((number, counted.as_ref().map_or(i, |c| c.value(i) as usize)));
                }
            }
        }
        let first = first.into_iter().flatten().collect();
        let mut columns = pairs.map(Grouping::keys).transpose()?.unwrap_or_default();
        if columns.is_empty() {
            return Ok(Self { groups: vec![], values: vec![], first });
        }
        let groups = columns.remove(0);
        let groups = groups.as_primitive::<UInt64Type>().values().iter().map(|g| *g as usize).collect();
        Ok(Self { groups, values: columns, first })
    }

    /// For each portion, the rows that are the first of a new pair.
    fn masks(&self, new: &[bool], portions: &[Portion]) -> Vec<Vec<bool>> {
        let mut masks: Vec<Vec<bool>> = portions.iter().map(|p| vec![false; p.groups.len()]).collect();
        for ((portion, row), new) in self.first.iter().zip(new) {
            if let Some(mask) = masks.get_mut(*portion).and_then(|m| m.get_mut(*row)) {
                *mask = *new;
            }
        }
        masks
    }
}

fn schema_of(columns: &[ArrayRef]) -> SchemaRef {
    let field = |(i, c): (usize, &ArrayRef)| Field::new(i.to_string(), DataType::clone(c.data_type()), true);
    Arc::new(Schema::new(columns.iter().enumerate().map(field).collect::<Vec<_>>()))
}
