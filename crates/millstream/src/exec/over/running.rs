//! Aggregates from the first row of a partition to the current one: an accumulator whose state is kept.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::compute::{filter, take_arrays};
use arrow::datatypes::{Field, FieldRef};
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::logical_expr::Accumulator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

use super::super::accumulate::{evaluate_all, evaluate_filter};
use super::state::Before;
use super::{Due, OverFunction};

/// One aggregate that runs along its partition.
#[derive(Debug)]
pub struct Running {
    function: Arc<AggregateFunctionExpr>,
    filter: Option<Arc<dyn PhysicalExpr>>,
    peers: bool,
    state: Vec<FieldRef>,
}

/// Those of the functions that run.
pub fn of(functions: &[OverFunction]) -> DfResult<Vec<Running>> {
    let mut running = vec![];
    for function in functions {
        let OverFunction::Running { function, filter, peers } = function else { continue };
        let number = running.len();
        let state = function.state_fields()?.into_iter().enumerate();
        let state = state.map(|(i, f)| Arc::new(Field::new(format!("${number}.{i}"), f.data_type().clone(), true)));
        let state = state.collect();
        running.push(Running { function: Arc::clone(function), filter: filter.clone(), peers: *peers, state });
    }
    Ok(running)
}

impl Running {
    /// The columns of the state.
    pub fn state_fields(&self) -> &[FieldRef] {
        &self.state
    }
}

/// The answers for the rows that are due, in the order of the partitions; and the state of each partition.
pub fn answer(running: &[Running], due: &Due, before: &Before) -> DfResult<(Vec<ArrayRef>, Vec<ArrayRef>)> {
    let (mut answers, mut states) = (vec![], vec![]);
    let mut column = 0;
    for function in running {
        let from = before.states.get(column..column + function.state.len()).unwrap_or_default();
        column += function.state.len();
        let (answer, state) = function.answer(due, before, from)?;
        answers.push(answer);
        states.extend(state);
    }
    Ok((answers, states))
}

impl Running {
    fn answer(&self, due: &Due, before: &Before, old: &[ArrayRef]) -> DfResult<(ArrayRef, Vec<ArrayRef>)> {
        let order = due.sorted_indices();
        let values = take_arrays(&evaluate_all(&self.function.expressions(), &due.rows)?, &order, None)?;
        let mask: Option<BooleanArray> = match &self.filter {
            Some(condition) => {
                let mask: ArrayRef = Arc::new(evaluate_filter(condition, &due.rows)?);
                take_arrays(&[mask], &order, None)?.first().and_then(|m| m.as_any().downcast_ref().cloned())
            }
            None => None,
        };
        let mut answers = Vec::with_capacity(due.sorted.len());
        let mut states: Vec<Vec<ScalarValue>> = vec![Vec::with_capacity(due.partitions); self.state.len()];
        let mut found = before.found.iter().enumerate().peekable();
        for (partition, range) in due.ranges.iter().enumerate() {
            let mut accumulator = self.function.create_accumulator()?;
            if let Some((at, _)) = found.next_if(|(_, p)| **p == partition) {
                let state: Vec<ArrayRef> = old.iter().map(|c| c.slice(at, 1)).collect();
                accumulator.merge_batch(&state)?;
            }
            let mut from = range.start;
            while from < range.end {
                let mut to = from + 1;
                while self.peers && to < range.end && due.ties(range, to) {
                    to += 1;
                }
                add(accumulator.as_mut(), &values, mask.as_ref(), from, to - from)?;
                let answer = accumulator.evaluate()?;
                answers.extend(std::iter::repeat_n(answer, to - from));
                from = to;
            }
            for (states, state) in states.iter_mut().zip(accumulator.state()?) {
                states.push(state);
            }
        }
        let states = states.into_iter().map(ScalarValue::iter_to_array).collect::<DfResult<_>>()?;
        Ok((ScalarValue::iter_to_array(answers)?, states))
    }
}

fn add(
    accumulator: &mut dyn Accumulator,
    values: &[ArrayRef],
    mask: Option<&BooleanArray>,
    from: usize,
    rows: usize,
) -> DfResult<()> {
    let values = values.iter().map(|v| {
        let rows_of = v.slice(from, rows);
        match mask {
            Some(mask) => Ok(filter(&rows_of, &mask.slice(from, rows))?),
            None => Ok(rows_of),
        }
    });
    accumulator.update_batch(&values.collect::<DfResult<Vec<_>>>()?)
}
