//! Window functions that DataFusion answers, over the rows that are kept of a partition and those that are due.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow::compute::{concat, take_arrays};
use arrow::datatypes::{Fields, Schema, SchemaRef};
use datafusion::common::Result as DfResult;
use datafusion::physical_expr::utils::collect_columns;

use super::super::waiting::instants;
use super::pages::{Kept, Moved, Pages, Span, pieced};
use super::sliding::Function;
use super::state::Before;
use super::{Due, Keep, Over, OverFunction, nullable};

/// The functions, and the columns that they read.
#[derive(Debug)]
pub struct Framed {
    functions: Vec<Function>,
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
            OverFunction::Framed(window) => Some(Function { window: Arc::clone(window), filter: None }),
            OverFunction::Sliding { function, filter } => {
                Some(Function { window: Arc::clone(function), filter: filter.clone() })
            }
            OverFunction::Rank(_) | OverFunction::Running { .. } => None,
        };
        let functions: Vec<_> = over.functions.iter().filter_map(framed).collect();
        let mut columns = vec![over.time];
        for Function { window, filter } in &functions {
            let all = window.all_expressions();
            let read = all.args.iter().chain(&all.partition_by_exprs).chain(&all.order_by_exprs).chain(filter);
            columns.extend(read.flat_map(collect_columns).map(|c| c.index()));
        }
        columns.sort_unstable();
        columns.dedup();
        let keep = over.keep.filter(|_| !functions.is_empty());
        Self { functions, keep, time: over.time, after_us: over.after_us, schema: nullable(input), columns }
    }

    /// Where rows are kept; `None` where none are.
    pub fn pages(&self) -> DfResult<Option<Pages>> {
        let fields: Fields = self.columns.iter().filter_map(|c| self.schema.fields().get(*c).cloned()).collect();
        self.keep.map(|keep| Pages::try_new(fields, keep.head)).transpose()
    }

    /// The answers for the rows that are due, in the order of the partitions. Stages what is kept of each from now on,
    /// and says it; nothing where nothing is kept.
    pub fn answer(
        &self,
        due: &Due,
        before: &Before,
        pages: Option<&mut Pages>,
        frontier: Option<i64>,
    ) -> DfResult<(Vec<ArrayRef>, Vec<Span>)> {
        if self.functions.is_empty() {
            return Ok((vec![], vec![]));
        }
        let kept = pages.as_ref().map(|pages| pages.read(&before.spans)).transpose()?;
        let laid = self.lay(due, kept)?;
        let mut answers = Vec::with_capacity(self.functions.len());
        for function in &self.functions {
            let parts = laid
                .parts
                .iter()
                .map(|(range, first)| function.answer(&laid.rows.slice(range.start, range.len()), first - range.start));
            let parts = parts.collect::<DfResult<Vec<_>>>()?;
            answers.push(concat(&parts.iter().map(|p| p.as_ref()).collect::<Vec<_>>())?);
        }
        let (Some(pages), Some(keep)) = (pages, self.keep) else { return Ok((answers, vec![])) };
        let moved = self.moved(&laid, before, keep, frontier)?;
        let columns: Vec<ArrayRef> = self.columns.iter().filter_map(|c| laid.rows.columns().get(*c).cloned()).collect();
        pages.write(&moved, &columns)?;
        Ok((answers, moved.iter().map(|m| m.after).collect()))
    }

    fn lay(&self, due: &Due, kept: Option<Kept>) -> DfResult<Laid> {
        let new = take_arrays(due.rows.columns(), &due.sorted_indices(), None)?;
        let kept = kept.filter(|kept| kept.pieces.iter().any(|pieces| !pieces.is_empty()));
        let Some(kept) = kept else {
            let rows = RecordBatch::try_new(Arc::clone(&self.schema), new)?;
            return Ok(Laid { rows, parts: due.ranges.iter().map(|range| (range.clone(), range.start)).collect() });
        };
        let mut parts = Vec::with_capacity(due.partitions);
        let (mut pieces, mut rows) = (vec![], 0);
        for (range, old) in due.ranges.iter().zip(kept.pieces) {
            let first = rows + old.iter().map(Range::len).sum::<usize>();
            parts.push((rows..first + range.len(), first));
            rows = first + range.len();
            pieces.extend(old.into_iter().map(|piece| (0, piece)).chain([(1, range.clone())]));
        }
        let length = kept.columns.first().map_or(0, |c| c.len());
        let columns = self.schema.fields().iter().zip(&new).enumerate().map(|(c, (field, new))| {
            let old = match self.columns.binary_search(&c).ok().and_then(|at| kept.columns.get(at)) {
                Some(old) => Arc::clone(old),
                None => new_null_array(field.data_type(), length),
            };
            pieced(&[&old, new], &pieces)
        });
        Ok(Laid { rows: RecordBatch::try_new(Arc::clone(&self.schema), columns.collect::<DfResult<_>>()?)?, parts })
    }

    /// Which rows later frames can look back at.
    fn moved(&self, laid: &Laid, before: &Before, keep: Keep, frontier: Option<i64>) -> DfResult<Vec<Moved>> {
        let since = keep.tail_us.zip(frontier).map(|(tail, frontier)| frontier.saturating_sub(tail).saturating_sub(1));
        let at = instants(&laid.rows, self.time, self.after_us)?;
        let of = |((range, first), before): (&(Range<usize>, usize), &Span)| {
            let rows = before.rows + range.len() - (first - range.start);
            // What is kept beside the first rows of the partition, with its first number.
            let tail = range.start + keep.head.min(before.rows);
            let number = if before.rows >= keep.head { before.from } else { before.rows };
            let recent = since.map_or(rows, |since| {
                let times = at.values().get(tail..range.end).unwrap_or_default();
                number + times.partition_point(|t| *t < since)
            });
            let from = rows.saturating_sub(keep.tail).min(recent).max(before.from);
            Moved { before: *before, after: Span { id: before.id, rows, from }, start: range.start }
        };
        Ok(laid.parts.iter().zip(&before.spans).map(of).collect())
    }
}
