//! The answers of the rows that are due, over the rows that they look back at: the frames of rows that were answered
//! are not built again.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::filter;
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::logical_expr::window_state::WindowFrameContext;
use datafusion::logical_expr::{Accumulator, WindowFrameBound, WindowFrameUnits};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::window::{SlidingAggregateWindowExpr, StandardWindowExpr, WindowExpr};

use super::super::accumulate::evaluate_filter;

/// A window function over rows of which the first ones are only looked back at.
#[derive(Clone, Debug)]
pub struct Function {
    /// The function, as DataFusion has planned it.
    pub window: Arc<dyn WindowExpr>,
    /// The FILTER clause of an aggregate over a frame that moves.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
}

impl Function {
    /// The answers from the row `first` on; `rows` is one partition, in its order, as far as its frames reach.
    pub fn answer(&self, rows: &RecordBatch, first: usize) -> DfResult<ArrayRef> {
        let any = self.window.as_any();
        // A frame of GROUPS is counted from its first group on.
        let looks_back = first > 0 && self.window.get_window_frame().units != WindowFrameUnits::Groups;
        if let (true, Some(aggregate)) = (looks_back, any.downcast_ref::<SlidingAggregateWindowExpr>()) {
            return self.slide(aggregate, rows, first);
        }
        if let (true, Some(standard)) = (looks_back, any.downcast_ref::<StandardWindowExpr>()) {
            let mut evaluator = standard.get_standard_func_expr().create_evaluator()?;
            if evaluator.uses_window_frame() {
                let mut values = self.window.evaluate_args(rows)?;
                let mut frames = Frames::new(self.window.as_ref(), rows, first)?;
                values.extend(frames.order_by.iter().cloned());
                let answers = (first..rows.num_rows()).map(|row| evaluator.evaluate(&values, &frames.of(row)?));
                return ScalarValue::iter_to_array(answers.collect::<DfResult<Vec<_>>>()?);
            }
        }
        Ok(self.window.evaluate(rows)?.slice(first, rows.num_rows() - first))
    }

    /// An aggregate: what enters the frame is added, what leaves it is taken away. It begins with the whole frame of
    /// the first row, so that the answers of a batch follow from what is kept and from nothing else.
    fn slide(&self, aggregate: &SlidingAggregateWindowExpr, rows: &RecordBatch, first: usize) -> DfResult<ArrayRef> {
        let function = aggregate.get_aggregate_expr();
        let mask = self.filter.as_ref().map(|condition| evaluate_filter(condition, rows)).transpose()?;
        let values = Values { columns: self.window.evaluate_args(rows)?, mask };
        let mut frames = Frames::new(self.window.as_ref(), rows, first)?;
        let mut accumulator = function.create_sliding_accumulator()?;
        let mut last: Option<Range<usize>> = None;
        let mut answers = Vec::with_capacity(rows.num_rows() - first);
        for row in first..rows.num_rows() {
            let frame = frames.of(row)?;
            let held = last.unwrap_or(frame.start..frame.start);
            if frame.is_empty() {
                values.retract(accumulator.as_mut(), held)?;
                answers.push(function.default_value(function.field().data_type())?);
            } else {
                values.update(accumulator.as_mut(), held.end.max(frame.start)..frame.end)?;
                values.retract(accumulator.as_mut(), held.start..frame.start.min(held.end))?;
                answers.push(accumulator.evaluate()?);
            }
            last = Some(frame);
        }
        ScalarValue::iter_to_array(answers)
    }
}

/// The arguments of an aggregate, and which rows it counts.
struct Values {
    columns: Vec<ArrayRef>,
    mask: Option<BooleanArray>,
}

impl Values {
    fn of(&self, range: &Range<usize>) -> DfResult<Vec<ArrayRef>> {
        let of = |column: &ArrayRef| {
            let rows = column.slice(range.start, range.len());
            match &self.mask {
                Some(mask) => Ok(filter(&rows, &mask.slice(range.start, range.len()))?),
                None => Ok(rows),
            }
        };
        self.columns.iter().map(of).collect()
    }

    fn update(&self, accumulator: &mut dyn Accumulator, range: Range<usize>) -> DfResult<()> {
        if range.is_empty() { Ok(()) } else { accumulator.update_batch(&self.of(&range)?) }
    }

    fn retract(&self, accumulator: &mut dyn Accumulator, range: Range<usize>) -> DfResult<()> {
        if range.is_empty() { Ok(()) } else { accumulator.retract_batch(&self.of(&range)?) }
    }
}

/// The frame of each row, one after the other.
struct Frames {
    context: WindowFrameContext,
    order_by: Vec<ArrayRef>,
    rows: usize,
    /// Where the search for the next frame begins.
    last: Range<usize>,
}

impl Frames {
    fn new(window: &dyn WindowExpr, rows: &RecordBatch, first: usize) -> DfResult<Self> {
        let frame = Arc::clone(window.get_window_frame());
        let order_by = window.order_by_columns(rows)?.into_iter().map(|c| c.values).collect();
        let options = window.order_by().iter().map(|o| o.options).collect();
        // The frame of a row ends behind the row where it ends with it: what comes before need not be searched.
        let ends_with_row = matches!(frame.end_bound, WindowFrameBound::CurrentRow);
        let last = 0..if ends_with_row { first } else { 0 };
        let rows = rows.num_rows();
        Ok(Self { context: WindowFrameContext::new(frame, options), order_by, rows, last })
    }

    fn of(&mut self, row: usize) -> DfResult<Range<usize>> {
        let frame = self.context.calculate_range(&self.order_by, &self.last, self.rows, row)?;
        self.last = frame.clone();
        Ok(frame)
    }
}
