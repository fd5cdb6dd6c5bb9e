//! Window functions that DataFusion answers, over the rows that are kept of a partition and those that are due.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, StructArray, UInt32Array, new_null_array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{concat, interleave, take, take_arrays};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::common::{Result as DfResult, internal_datafusion_err};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::window::WindowExpr;

use super::super::waiting::instants;
use super::state::Before;
use super::{Due, Keep, Over, OverFunction, nullable};

/// The functions, and the columns that they read.
#[derive(Debug)]
pub struct Framed {
    functions: Vec<Arc<dyn WindowExpr>>,
    keep: Option<Keep>,
    time: usize,
    after_us: i64,
    /// The input's columns, all nullable: those that no function reads are null in rows that are kept.
    schema: SchemaRef,
    /// The columns that are kept.
    columns: Vec<usize>,
}

/// The rows of all partitions, each with what is kept of it before what is due.
struct Laid {
    rows: RecordBatch,
    /// A partition's rows, and the first that is due.
    parts: Vec<(Range<usize>, usize)>,
}

impl Framed {
    pub fn new(over: &Over, input: &Schema) -> Self {
        let framed = |f: &OverFunction| match f {
            OverFunction::Framed(function) => Some(Arc::clone(function)),
            _ => None,
        };
        let functions: Vec<_> = over.functions.iter().filter_map(framed).collect();
        let mut columns = vec![over.time];
        for function in &functions {
            let all = function.all_expressions();
            let read = all.args.iter().chain(&all.partition_by_exprs).chain(&all.order_by_exprs);
            columns.extend(read.flat_map(collect_columns).map(|c| c.index()));
        }
        columns.sort_unstable();
        columns.dedup();
        let keep = over.keep.filter(|_| !functions.is_empty());
        Self { functions, keep, time: over.time, after_us: over.after_us, schema: nullable(input), columns }
    }

    /// The column of the state that holds the rows that are kept; `None` where none are.
    pub fn state_field(&self) -> Option<FieldRef> {
        self.keep.map(|_| Arc::new(Field::new("$kept", DataType::List(self.item()), true)))
    }

    fn item(&self) -> FieldRef {
        Arc::new(Field::new_list_field(DataType::Struct(self.kept_fields()), true))
    }

    fn kept_fields(&self) -> Fields {
        self.columns.iter().filter_map(|c| self.schema.fields().get(*c).cloned()).collect()
    }

    /// The answers for the rows that are due, in the order of the partitions, and what is kept of each.
    pub fn answer(
        &self,
        due: &Due,
        before: &Before,
        frontier: Option<i64>,
    ) -> DfResult<(Vec<ArrayRef>, Option<ArrayRef>)> {
        if self.functions.is_empty() {
            return Ok((vec![], None));
        }
        let laid = self.lay(due, before)?;
        let mut wanted = Vec::with_capacity(due.sorted.len());
        for (range, first) in &laid.parts {
            wanted.extend(*first as u32..range.end as u32);
        }
        let wanted = UInt32Array::from(wanted);
        let mut answers = Vec::with_capacity(self.functions.len());
        for function in &self.functions {
            let parts =
                laid.parts.iter().map(|(range, _)| function.evaluate(&laid.rows.slice(range.start, range.len())));
            let parts = parts.collect::<DfResult<Vec<_>>>()?;
            let all = concat(&parts.iter().map(|p| p.as_ref()).collect::<Vec<_>>())?;
            answers.push(if wanted.len() == all.len() { all } else { take(&all, &wanted, None)? });
        }
        let kept = self.keep.map(|keep| self.kept(&laid, keep, frontier)).transpose()?;
        Ok((answers, kept))
    }

    fn lay(&self, due: &Due, before: &Before) -> DfResult<Laid> {
        let (kept, lengths) = self.unpack(due, before)?;
        let mut parts = Vec::with_capacity(due.partitions);
        let mut order: Vec<(usize, usize)> = Vec::with_capacity(kept.num_rows() + due.sorted.len());
        let mut next = 0;
        for (range, length) in due.ranges.iter().zip(lengths) {
            let from = order.len();
            order.extend((next..next + length).map(|row| (0, row)));
            next += length;
            let first = order.len();
            order.extend(due.sorted.get(range.clone()).unwrap_or_default().iter().map(|row| (1, *row as usize)));
            parts.push((from..order.len(), first));
        }
        let columns = match kept.num_rows() {
            0 => take_arrays(due.rows.columns(), &due.sorted_indices(), None)?,
            _ => {
                let pairs = kept.columns().iter().zip(due.rows.columns());
                pairs.map(|(old, new)| interleave(&[old.as_ref(), new.as_ref()], &order)).collect::<Result<_, _>>()?
            }
        };
        Ok(Laid { rows: RecordBatch::try_new(Arc::clone(&self.schema), columns)?, parts })
    }

    /// The rows that are kept, and how many each partition has.
    fn unpack(&self, due: &Due, before: &Before) -> DfResult<(RecordBatch, Vec<usize>)> {
        let mut lengths = vec![0; due.partitions];
        let none = || RecordBatch::new_empty(Arc::clone(&self.schema));
        let Some(lists) = before.kept.as_ref().filter(|_| self.keep.is_some()) else { return Ok((none(), lengths)) };
        let lists: &ListArray =
            lists.as_list_opt().ok_or_else(|| internal_datafusion_err!("rows are kept as a list"))?;
        for (at, partition) in before.found.iter().enumerate() {
            if let Some(length) = lengths.get_mut(*partition) {
                *length = lists.value_length(at) as usize;
            }
        }
        let offsets = lists.value_offsets();
        let (from, to) = (offsets.first().copied().unwrap_or(0), offsets.last().copied().unwrap_or(0));
        let rows = lists.values().slice(from as usize, (to - from) as usize);
        let rows = rows.as_struct_opt().ok_or_else(|| internal_datafusion_err!("what is kept are rows"))?;
        if rows.is_empty() {
            return Ok((none(), lengths));
        }
        let column = |(c, field): (usize, &FieldRef)| match self.columns.binary_search(&c) {
            Ok(at) => Arc::clone(rows.column(at)),
            Err(_) => new_null_array(field.data_type(), rows.len()),
        };
        let columns = self.schema.fields().iter().enumerate().map(column).collect();
        Ok((RecordBatch::try_new(Arc::clone(&self.schema), columns)?, lengths))
    }

    /// The rows that later frames can look back at.
    fn kept(&self, laid: &Laid, keep: Keep, frontier: Option<i64>) -> DfResult<ArrayRef> {
        let since = keep.tail_us.zip(frontier).map(|(tail, frontier)| frontier.saturating_sub(tail).saturating_sub(1));
        let at = instants(&laid.rows, self.time, self.after_us)?;
        let mut rows: Vec<u32> = Vec::new();
        let mut lengths = Vec::with_capacity(laid.parts.len());
        for (range, _) in &laid.parts {
            let from = rows.len();
            let tail = range.end.saturating_sub(keep.tail).max(range.start);
            let recent = since.map_or(range.end, |since| {
                let times = at.values().get(range.clone()).unwrap_or_default();
                range.start + times.partition_point(|t| *t < since)
            });
            // The first rows of what is kept are the first of the partition: none was dropped before them.
            let head = (range.start + keep.head).min(range.end);
            let tail = tail.min(recent).max(head);
            rows.extend((range.start..head).chain(tail..range.end).map(|row| row as u32));
            lengths.push(rows.len() - from);
        }
        let columns = self.columns.iter().filter_map(|c| laid.rows.columns().get(*c).cloned()).collect::<Vec<_>>();
        let columns = take_arrays(&columns, &UInt32Array::from(rows), None)?;
        let rows = StructArray::try_new(self.kept_fields(), columns, None)?;
        let offsets = OffsetBuffer::from_lengths(lengths);
        Ok(Arc::new(ListArray::try_new(self.item(), offsets, Arc::new(rows), None)?))
    }
}
