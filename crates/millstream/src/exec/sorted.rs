//! Aggregates that rely on sorted input.
//!
//! `nth_value(x, 2 ORDER BY y)`, and every function of a stranger with an ORDER BY, is promised its rows in
//! order. Over a stream the order is known when the answer is asked for: the rows are kept as they came, and
//! sorted then. Rows that tie stay in the order in which they came.

use std::fmt;
use std::mem::size_of_val;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StructArray, UInt32Array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{SortColumn, concat, lexsort_to_indices, take};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, SchemaRef};
use datafusion::common::{Result as DfResult, ScalarValue, internal_datafusion_err, internal_err};
use datafusion::logical_expr::Accumulator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

/// Keeps the rows of one group; its state is a list of them.
pub struct SortedAccumulator {
    function: Arc<AggregateFunctionExpr>,
    /// A row, as an element of the list that is the state.
    item: FieldRef,
    chunks: Vec<StructArray>,
}

impl SortedAccumulator {
    /// An accumulator without rows; `state` is the one of [`SortedAccumulator::state_fields`].
    pub fn try_new(function: &Arc<AggregateFunctionExpr>, state: &DataType) -> DfResult<Self> {
        let DataType::List(item) = state else {
            return internal_err!("the state of {} is a list, not {state}", function.name());
        };
        Ok(Self { function: Arc::clone(function), item: Arc::clone(item), chunks: Vec::new() })
    }

    /// The state: one column, a list of the arguments and what they are ordered by.
    pub fn state_fields(
        function: &AggregateFunctionExpr,
        arguments: &[Arc<dyn PhysicalExpr>],
        input: &SchemaRef,
    ) -> DfResult<Vec<FieldRef>> {
        let types = arguments.iter().map(|e| e.data_type(input)).collect::<DfResult<Vec<_>>>()?;
        let item = Field::new_list_field(DataType::Struct(row_fields(types.iter())), true);
        Ok(vec![Arc::new(Field::new(function.name(), DataType::List(Arc::new(item)), true))])
    }

    /// All rows in the order in which they came: the arguments, then what they are ordered by.
    fn rows(&self) -> DfResult<Option<StructArray>> {
        let chunks: Vec<&dyn Array> = self.chunks.iter().map(|c| c as &dyn Array).collect();
        if chunks.is_empty() {
            return Ok(None);
        }
        Ok(Some(concat(&chunks)?.as_struct().clone()))
    }

    fn sorted(&self, rows: &StructArray) -> DfResult<Vec<ArrayRef>> {
        let by = self.function.order_bys();
        let columns = rows.columns();
        let arguments = columns.len().saturating_sub(by.len());
        let mut sort: Vec<SortColumn> = columns
            .iter()
            .skip(arguments)
            .zip(by)
            .map(|(values, by)| SortColumn { values: Arc::clone(values), options: Some(by.options) })
            .collect();
        // The sort is not stable: the place of a row decides between those that tie.
        let places = UInt32Array::from_iter_values(0..u32::try_from(rows.len()).unwrap_or(u32::MAX));
        sort.push(SortColumn { values: Arc::new(places), options: None });
        let order = lexsort_to_indices(&sort, None)?;
        columns.iter().map(|c| Ok(take(c, &order, None)?)).collect()
    }
}

impl Accumulator for SortedAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        if values.first().is_some_and(|v| !v.is_empty()) {
            let fields = row_fields(values.iter().map(|v| v.data_type()));
            self.chunks.push(StructArray::try_new(fields, values.to_vec(), None)?);
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        let Some(lists) = states.first().and_then(|s| s.as_list_opt::<i32>()) else {
            return internal_err!("the state of {} is a list", self.function.name());
        };
        for list in (0..lists.len()).filter(|i| lists.is_valid(*i)).map(|i| lists.value(i)) {
            let rows = list.as_struct_opt().ok_or_else(|| internal_datafusion_err!("a state holds rows"))?;
            if !rows.is_empty() {
                self.chunks.push(rows.clone());
            }
        }
        Ok(())
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        let item = Arc::clone(&self.item);
        let list = match self.rows()? {
            Some(rows) => ListArray::try_new(item, OffsetBuffer::from_lengths([rows.len()]), Arc::new(rows), None)?,
            None => ListArray::new_null(item, 1),
        };
        Ok(vec![ScalarValue::List(Arc::new(list))])
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        let mut accumulator = self.function.create_accumulator()?;
        if let Some(rows) = self.rows()? {
            accumulator.update_batch(&self.sorted(&rows)?)?;
        }
        accumulator.evaluate()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.chunks.iter().map(|c| c.get_array_memory_size()).sum::<usize>()
    }
}

impl fmt::Debug for SortedAccumulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SortedAccumulator({})", self.function.name())
    }
}

fn row_fields<'a>(types: impl Iterator<Item = &'a DataType>) -> Fields {
    types.enumerate().map(|(i, t)| Field::new(i.to_string(), t.clone(), true)).collect()
}
