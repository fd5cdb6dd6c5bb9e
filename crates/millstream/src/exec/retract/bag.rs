//! The values of each group, with how often each of them is there.
//!
//! A batch adds weights to pairs of group and value; what comes of it is which values appeared and which went,
//! which is all that a DISTINCT aggregate has to be told. Where a function has to see the values themselves, they
//! are kept in their order as well.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, UInt32Array, UInt64Array};
use arrow::compute::{and, filter, is_not_null, take_arrays};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt64Type};
use arrow::record_batch::RecordBatch;
use datafusion::common::{Result as DfResult, internal_err};
use datafusion::physical_expr::PhysicalExpr;
use millstream_state::{PanedTable, Restored, TableInfo};

use super::super::accumulate::{evaluate_all, evaluate_filter};
use super::super::changes::state_error;
use super::super::grouping::Grouping;
use super::super::idle::Forgotten;
use super::super::memory::Memory;
use super::Touched;
use super::ordered::{Ordered, canonical};
use super::slots::SlottedTable;

/// What is kept.
#[derive(Clone, Debug)]
pub struct BagSpec {
    /// The values that are told apart, over the input.
    pub values: Vec<Arc<dyn PhysicalExpr>>,
    /// The rows that count.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// Whether a value with a NULL in it counts.
    pub nulls: bool,
    /// Whether a function has to see the values.
    pub ordered: bool,
}

impl BagSpec {
    /// Whether the other keeps the same values.
    pub fn same_values(&self, other: &Self) -> bool {
        self.values == other.values && self.filter == other.filter && self.nulls == other.nulls
    }
}

/// What a batch changed: pairs of group and value that appeared (+1) or went (-1).
#[derive(Debug)]
pub struct Changes {
    /// The group of each.
    pub groups: Vec<usize>,
    /// The values.
    pub values: Vec<ArrayRef>,
    /// Whether it came or went.
    pub weights: Vec<i64>,
    /// Whether a value was taken away that was not there, which was ignored.
    pub ignored: bool,
}

/// The values of all groups.
#[derive(Debug)]
pub struct Bag {
    table: SlottedTable,
    ordered: Option<Ordered>,
}

impl Bag {
    /// No values yet.
    pub fn try_new(spec: &BagSpec, groups: &SchemaRef, input: &Schema) -> DfResult<Self> {
        let mut fields = groups.fields().to_vec();
        for (i, value) in spec.values.iter().enumerate() {
            fields.push(Arc::new(Field::new(format!("$value.{i}"), value.data_type(input)?, true)));
        }
        let ordered = match spec.ordered {
            true => Some(Ordered::try_new(groups.fields().len(), &fields)?),
            false => None,
        };
        let counts = Arc::new(Schema::new(vec![Field::new("$count", DataType::Int64, true)]));
        let table = PanedTable::new(Arc::new(Schema::new(fields)), counts).map_err(state_error)?;
        Ok(Self { table: SlottedTable { table }, ordered })
    }

    /// Adds the weights of a batch.
    pub(super) fn update(
        &mut self,
        spec: &BagSpec,
        touched: &Touched,
        rows: &RecordBatch,
        weights: &[i64],
        memory: &Memory,
    ) -> DfResult<Changes> {
        let pairs = Pairs::of(spec, touched, rows, weights)?;
        let count = pairs.weights.len();
        let slots = touched.slots.take(&pairs.groups);
        let mut keys = take_arrays(&touched.keys, &pairs.groups, None)?;
        keys.extend(pairs.values.iter().cloned());
        let mut at = self.table.find(&slots, &keys, count)?;
        let mut ignored = memory.lifetime.forgetful && weights.contains(&0);
        let (mut before, mut after) = (vec![0i64; count], vec![0i64; count]);
        if self.ordered.is_none() {
            let found = self.table.read(&at)?;
            if let Some(counts) = found.values.first().and_then(|c| c.as_primitive_opt::<Int64Type>()) {
                for (row, n) in found.rows.iter().zip(counts.values()) {
                    if let Some(before) = before.get_mut(*row) {
                        *before = *n;
                    }
                }
            }
        }
        let mut rows = before.iter_mut().zip(&mut after).zip(&pairs.weights);
        let mut add = |known: Option<i64>| {
            let Some(((before, after), weight)) = rows.next() else { return Ok(0) };
            *before = known.unwrap_or(*before);
            *after = *before + weight;
            if *after < 0 {
                memory.unknown_row("an aggregate")?;
                (*after, ignored) = (0, true);
            }
            Ok(*after)
        };
        match &mut self.ordered {
            // What is kept in order knows how often each value was there.
            Some(ordered) => ordered.change(&keys, |row| slots.of(row), |before| add(Some(before)))?,
            None => (0..count).try_for_each(|_| add(None).map(drop))?,
        }
        for present in [true, false] {
            let places: Vec<u32> = (0u32..).zip(&after).filter(|(_, n)| (**n > 0) == present).map(|(i, _)| i).collect();
            if places.is_empty() {
                continue;
            }
            if present {
                let counts = after.iter().copied().filter(|n| *n > 0).collect::<Int64Array>();
                self.table.put_at(&mut at, &places, &[Arc::new(counts)])?;
            } else {
                self.table.remove_at(&at, &places)?;
            }
        }
        let moved = |(b, a): (&i64, &i64)| i64::from(*a > 0) - i64::from(*b > 0);
        let moved: Vec<i64> = before.iter().zip(&after).map(moved).collect();
        Ok(Changes { ignored, ..pairs.changes(&moved)? })
    }

    /// Stages that the values of groups are forgotten, whichever slot they are in; `groups` are the columns of their keys.
    pub fn forget(&mut self, gone: &Forgotten, groups: &SchemaRef) -> DfResult<()> {
        let (table, columns) = (&self.table.table, self.table.table.keys().fields().len());
        let mut found = vec![];
        for (slot, pane) in table.panes(..) {
            let values = gone.beginnings(groups, columns, pane.scan_staged())?;
            found.extend(values.into_iter().map(|(keys, count)| (slot, keys, count)));
        }
        for (slot, keys, count) in found {
            self.table.table.remove(slot, &keys, count).map_err(state_error)?;
            if let Some(ordered) = &mut self.ordered {
                ordered.set(&keys, &vec![0; count], |_| slot)?;
            }
        }
        Ok(())
    }

    /// The values in their order.
    ///
    /// # Errors
    /// A fault, where they are not kept so.
    pub fn ordered(&self) -> DfResult<&Ordered> {
        match &self.ordered {
            Some(ordered) => Ok(ordered),
            None => internal_err!("the values are not kept in their order"),
        }
    }

    /// The table that is checkpointed.
    pub fn table(&self) -> &PanedTable {
        &self.table.table
    }

    /// Stages the removal of slots.
    pub fn drop_below(&mut self, slot: i64) {
        self.table.table.drop_below(slot);
        self.ordered.iter_mut().for_each(|o| o.drop_below(slot));
    }

    /// What was staged becomes the state.
    pub fn install(&mut self) {
        self.table.table.install();
        self.ordered.iter_mut().for_each(Ordered::install);
    }

    /// What was staged is forgotten.
    pub fn discard(&mut self) {
        self.table.table.discard();
        self.ordered.iter_mut().for_each(Ordered::discard);
    }

    /// Makes the values what they were under this name.
    pub fn restore(&mut self, name: &str, saved: &mut Restored) -> millstream_core::Result<()> {
        saved.paned(name, &mut self.table.table)?;
        if let Some(ordered) = &mut self.ordered {
            let batches = self.table.table.scan().map(|batch| batch.map_err(state_error));
            ordered.restore(batches).map_err(|e| {
                millstream_core::Error::corrupt("a checkpoint holds values that can't be sorted").caused_by(e)
            })?;
        }
        Ok(())
    }

    /// Its table, described.
    pub fn describe(&self, name: &str) -> TableInfo {
        let mut info = TableInfo::paned(name, &self.table.table);
        info.bytes += self.ordered.as_ref().map_or(0, Ordered::memory_bytes);
        info
    }
}

/// The distinct pairs of group and value of a batch, with the sums of their weights, which are not 0.
struct Pairs {
    groups: UInt64Array,
    values: Vec<ArrayRef>,
    weights: Vec<i64>,
}

impl Pairs {
    fn of(spec: &BagSpec, touched: &Touched, rows: &RecordBatch, weights: &[i64]) -> DfResult<Self> {
        let values = evaluate_all(&spec.values, rows)?.iter().map(canonical).collect::<Vec<_>>();
        let groups = UInt64Array::from_iter_values(touched.of_row.iter().map(|g| *g as u64));
        let mut columns: Vec<ArrayRef> = vec![Arc::new(groups)];
        columns.extend(values);
        let mut weights = Int64Array::from(weights.to_vec());
        let mut mask = spec.filter.as_ref().map(|counts| evaluate_filter(counts, rows)).transpose()?;
        for value in columns.iter().skip(1).filter(|v| !spec.nulls && v.logical_null_count() > 0) {
            let there = is_not_null(value)?;
            mask = Some(match mask {
                Some(mask) => and(&mask, &there)?,
                None => there,
            });
        }
        if let Some(mask) = mask {
            weights = filter(&weights, &mask)?.as_primitive::<Int64Type>().clone();
            columns = columns.iter().map(|c| Ok(filter(c, &mask)?)).collect::<DfResult<_>>()?;
        }
        let field = |(i, c): (usize, &ArrayRef)| Field::new(i.to_string(), DataType::clone(c.data_type()), true);
        let schema = Arc::new(Schema::new(columns.iter().enumerate().map(field).collect::<Vec<_>>()));
        let mut pairs = Grouping::try_new(&schema)?;
        let of_row = if weights.is_empty() { vec![] } else { pairs.intern(&columns, weights.len())? };
        let mut sums = vec![0i64; pairs.len()];
        for (pair, weight) in of_row.iter().zip(weights.values()) {
            if let Some(sum) = sums.get_mut(*pair) {
                *sum += weight;
            }
        }
        let kept: UInt32Array = (0u32..).zip(&sums).filter(|(_, sum)| **sum != 0).map(|(i, _)| i).collect();
        let mut columns = take_arrays(&pairs.keys()?, &kept, None)?;
        let groups = columns.remove(0).as_primitive::<UInt64Type>().clone();
        sums.retain(|sum| *sum != 0);
        Ok(Self { groups, values: columns, weights: sums })
    }

    /// Those that moved.
    fn changes(self, moved: &[i64]) -> DfResult<Changes> {
        let places: UInt64Array = (0u64..).zip(moved).filter(|(_, m)| **m != 0).map(|(i, _)| i).collect();
        let groups = places.values().iter().map(|p| self.groups.value(*p as usize) as usize).collect();
        let weights = moved.iter().copied().filter(|m| *m != 0).collect();
        Ok(Changes { groups, values: take_arrays(&self.values, &places, None)?, weights, ignored: false })
    }
}
