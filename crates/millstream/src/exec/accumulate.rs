//! The aggregates of a query, evaluated over groups.
//!
//! DataFusion's accumulators do the arithmetic; this file decides which of them is used, what is given to
//! it, and what its state looks like as columns. State is merged before rows are added, and rows are added
//! in their order, so that an aggregate which depends on the order answers as it does over all rows at once.
//!
//! `retract_batch` is never called: it is first-in-first-out, whatever value it is given.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt64Array};
use arrow::compute::{cast, prep_null_mask_filter, take_arrays};
use arrow::datatypes::{Field, FieldRef, SchemaRef};
use datafusion::common::{Result as DfResult, internal_datafusion_err, internal_err};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::{GroupsAccumulatorAdapter, PhysicalExpr};

use millstream_state::Found;

use super::sorted::SortedAccumulator;

/// One aggregate of a query: `sum(price) FILTER (WHERE price > 0)`.
#[derive(Clone, Debug)]
pub struct Aggregate {
    /// The function with its arguments, DISTINCT and ORDER BY, over the input's columns.
    pub function: Arc<AggregateFunctionExpr>,
    /// The FILTER clause.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
}

/// How one aggregate is computed.
#[derive(Debug)]
struct Computed {
    /// The function without DISTINCT, which is done before it.
    function: Arc<AggregateFunctionExpr>,
    /// Its arguments, then the expressions it orders by.
    arguments: Vec<Arc<dyn PhysicalExpr>>,
    filter: Option<Arc<dyn PhysicalExpr>>,
    /// The set of values seen that makes it DISTINCT: an index of [`Aggregates::distinct`].
    distinct: Option<usize>,
    /// DataFusion's accumulator relies on sorted input; it is kept as rows and sorted when it is asked.
    sorted: bool,
    /// The columns of its state.
    state: Vec<FieldRef>,
    result: FieldRef,
}

/// The arguments of a DISTINCT: several aggregates can share them.
#[derive(Debug)]
pub struct Distinct {
    /// The values that are told apart.
    pub values: Vec<Arc<dyn PhysicalExpr>>,
    /// The FILTER clause.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// The first aggregate that has it: its evaluated arguments begin with the values.
    pub aggregate: usize,
}

/// The aggregates of one operator.
#[derive(Debug)]
pub struct Aggregates {
    input: SchemaRef,
    computed: Vec<Computed>,
    distinct: Vec<Distinct>,
}

/// What one record batch gives to one aggregate.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// The arguments, then what it orders by.
    pub values: Vec<ArrayRef>,
    /// The rows that count; all of them where there is no filter. Never null.
    pub filter: Option<BooleanArray>,
}

/// A record batch of the input, taken apart.
#[derive(Clone, Debug)]
pub struct Portion {
    /// The group of each row.
    pub groups: Vec<usize>,
    /// What each aggregate is given.
    pub arguments: Vec<Arguments>,
}

/// Functions whose answer does not depend on the order of the rows, but for the rounding of floats, and for DataFusion's
/// min and max of floats, which are no order where there is a NaN.
const COMMUTATIVE: &str = "approx_distinct approx_median approx_percentile_cont approx_percentile_cont_with_weight \
    avg bit_and bit_or bit_xor bool_and bool_or corr count covar_pop covar_samp max median min percentile_cont \
    regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy stddev stddev_pop \
    sum var var_pop";

/// Functions that sort what they are given themselves, where they have an ORDER BY.
const SELF_SORTING: [&str; 4] = ["array_agg", "first_value", "last_value", "string_agg"];

impl Aggregates {
    /// The aggregates over an input of this schema.
    ///
    /// # Errors
    /// Where DataFusion can't build an accumulator for one of them.
    pub fn try_new(aggregates: &[Aggregate], input: &SchemaRef) -> DfResult<Self> {
        let mut distinct: Vec<Distinct> = Vec::new();
        let mut computed = Vec::with_capacity(aggregates.len());
        for (index, aggregate) in aggregates.iter().enumerate() {
            let result = aggregate.function.field();
            let function = plain(&aggregate.function, input)?;
            let values = function.expressions();
            let set = aggregate.function.is_distinct().then(|| {
                let same = |d: &Distinct| d.values == values && d.filter == aggregate.filter;
                distinct.iter().position(same).unwrap_or_else(|| {
                    let filter = aggregate.filter.clone();
                    distinct.push(Distinct { values: values.clone(), filter, aggregate: index });
                    distinct.len() - 1
                })
            });
            let order = function.order_bys();
            let name = function.fun().name();
            let sorted =
                !order.is_empty() && !SELF_SORTING.contains(&name) && !function.fun().supports_within_group_clause();
            let mut arguments = values;
            arguments.extend(order.iter().map(|by| Arc::clone(&by.expr)));
            let state = if sorted {
                SortedAccumulator::state_fields(&function, &arguments, input)?
            } else {
                function.state_fields()?
            };
            let state = state
                .iter()
                .enumerate()
                .map(|(i, f)| Arc::new(Field::new(format!("${index}.{i}"), f.data_type().clone(), true)))
                .collect();
            let filter = aggregate.filter.clone();
            computed.push(Computed { function, arguments, filter, distinct: set, sorted, state, result });
        }
        Ok(Self { input: Arc::clone(input), computed, distinct })
    }

    /// The columns of the state, in the order in which [`Accumulators::state`] gives them. All are nullable.
    pub fn state_fields(&self) -> impl Iterator<Item = &FieldRef> {
        self.computed.iter().flat_map(|c| &c.state)
    }

    /// The columns of the answer.
    pub fn result_fields(&self) -> impl Iterator<Item = &FieldRef> {
        self.computed.iter().map(|c| &c.result)
    }

    /// The sets of values that make aggregates DISTINCT.
    pub fn distinct(&self) -> &[Distinct] {
        &self.distinct
    }

    /// Every expression that is evaluated over the input.
    pub fn expressions(&self) -> impl Iterator<Item = &Arc<dyn PhysicalExpr>> {
        self.computed.iter().flat_map(|c| c.arguments.iter().chain(&c.filter))
    }

    /// Whether states of disjoint sets of rows can be merged in any order, without those rows.
    ///
    /// False for what depends on the order of rows, for functions nobody knows, and for DISTINCT.
    pub fn mergeable(&self) -> bool {
        let known = |c: &Computed| COMMUTATIVE.split_whitespace().any(|name| name == c.function.fun().name());
        let commutes = |c: &Computed| c.distinct.is_none() && known(c);
        self.computed.iter().all(commutes)
    }

    /// What a record batch of the input gives to each aggregate.
    pub fn arguments(&self, batch: &RecordBatch) -> DfResult<Vec<Arguments>> {
        self.computed
            .iter()
            .map(|c| {
                let values = evaluate_all(&c.arguments, batch)?;
                let filter = c.filter.as_ref().map(|f| evaluate_filter(f, batch)).transpose()?;
                Ok(Arguments { values, filter })
            })
            .collect()
    }

    /// Restricts the arguments of DISTINCT aggregates to the rows where their value is new.
    ///
    /// `first` holds a mask for each of [`Aggregates::distinct`], which honours the filter already.
    pub fn keep_first(&self, arguments: &mut [Arguments], first: &[BooleanArray]) -> DfResult<()> {
        for (computed, arguments) in self.computed.iter().zip(arguments) {
            if let Some(set) = computed.distinct {
                let mask = first.get(set).ok_or_else(|| internal_datafusion_err!("a DISTINCT has no mask"))?;
                arguments.filter = Some(mask.clone());
            }
        }
        Ok(())
    }

    /// Accumulators without groups.
    pub fn accumulators(self: &Arc<Self>) -> DfResult<Accumulators> {
        let accumulators = self.computed.iter().map(Computed::accumulator).collect::<DfResult<Vec<_>>>()?;
        Ok(Accumulators { aggregates: Arc::clone(self), accumulators })
    }

    /// Adds the rows of a batch to the state so far, which is known of the groups `found`, and answers the new
    /// state of all `total` groups. There must be a group.
    pub fn accumulate(
        self: &Arc<Self>,
        found: &Found,
        mut portions: Vec<Portion>,
        total: usize,
    ) -> DfResult<Vec<ArrayRef>> {
        let mut accumulators = self.accumulators()?;
        let order = Order::of(&found.rows, &mut portions, total);
        if !found.rows.is_empty() {
            let groups: Vec<usize> = (0..found.rows.len()).collect();
            accumulators.merge(&found.values, &groups, found.rows.len())?;
        }
        for (portion, met) in portions.iter().zip(&order.met) {
            accumulators.update(&portion.arguments, &portion.groups, *met)?;
        }
        if order.met.last().copied().unwrap_or(found.rows.len()) < total {
            self.without_rows(&mut accumulators, total)?;
        }
        let state = accumulators.state()?;
        Ok(match order.numbers {
            Some(numbers) => take_arrays(&state, &UInt64Array::from(numbers), None)?,
            None => state,
        })
    }

    /// Makes groups of which there are no rows.
    fn without_rows(&self, accumulators: &mut Accumulators, total: usize) -> DfResult<()> {
        let none = RecordBatch::new_empty(Arc::clone(&self.input));
        let mut arguments = self.arguments(&none)?;
        for arguments in &mut arguments {
            // Without a filter, an accumulator takes it that every group has a row.
            arguments.filter = Some(BooleanArray::from(Vec::<bool>::new()));
        }
        accumulators.update(&arguments, &[], total)
    }

    /// The answers of groups whose state is given, a row each.
    pub fn evaluate(self: &Arc<Self>, state: &[ArrayRef], rows: usize) -> DfResult<Vec<ArrayRef>> {
        if rows == 0 {
            return Ok(self.result_fields().map(|f| arrow::array::new_empty_array(f.data_type())).collect());
        }
        let groups: Vec<usize> = (0..rows).collect();
        let mut accumulators = self.accumulators()?;
        accumulators.merge(state, &groups, rows)?;
        accumulators.evaluate()
    }
}

impl Computed {
    fn accumulator(&self) -> DfResult<Box<dyn GroupsAccumulator>> {
        let function = Arc::clone(&self.function);
        if let (true, Some(state)) = (self.sorted, self.state.first()) {
            let state = state.data_type().clone();
            return Ok(Box::new(GroupsAccumulatorAdapter::new(move || {
                Ok(Box::new(SortedAccumulator::try_new(&function, &state)?) as _)
            })));
        }
        if function.groups_accumulator_supported() {
            return function.create_groups_accumulator();
        }
        Ok(Box::new(GroupsAccumulatorAdapter::new(move || function.create_accumulator())))
    }
}

/// Accumulators over the groups `0..total`.
pub struct Accumulators {
    aggregates: Arc<Aggregates>,
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
}

impl Accumulators {
    /// Adds states, which hold a row for each of `groups`. Every group below `total` has had a row by then.
    pub fn merge(&mut self, state: &[ArrayRef], groups: &[usize], total: usize) -> DfResult<()> {
        let mut from = 0;
        for (computed, accumulator) in self.aggregates.computed.iter().zip(&mut self.accumulators) {
            let to = from + computed.state.len();
            let Some(columns) = state.get(from..to) else {
                return internal_err!("a state has {} columns, aggregates need more", state.len());
            };
            accumulator.merge_batch(columns, groups, total)?;
            from = to;
        }
        Ok(())
    }

    /// Adds rows: `groups` says of each to which group it belongs.
    fn update(&mut self, arguments: &[Arguments], groups: &[usize], total: usize) -> DfResult<()> {
        for (arguments, accumulator) in arguments.iter().zip(&mut self.accumulators) {
            accumulator.update_batch(&arguments.values, groups, arguments.filter.as_ref(), total)?;
        }
        Ok(())
    }

    /// The state of every group, in the types of [`Aggregates::state_fields`]. There must be a group.
    pub fn state(mut self) -> DfResult<Vec<ArrayRef>> {
        let mut columns = Vec::new();
        for (computed, accumulator) in self.aggregates.computed.iter().zip(&mut self.accumulators) {
            let state = accumulator.state(EmitTo::All)?;
            if state.len() != computed.state.len() {
                return internal_err!("{} has a state of {} columns", computed.function.name(), state.len());
            }
            for (column, field) in state.into_iter().zip(&computed.state) {
                columns.push(conform(column, field)?);
            }
        }
        Ok(columns)
    }

    /// The answer of every group, in the types of [`Aggregates::result_fields`]. There must be a group.
    pub fn evaluate(mut self) -> DfResult<Vec<ArrayRef>> {
        let results = self.aggregates.computed.iter().map(|c| &c.result);
        let evaluate = |(field, accumulator): (&FieldRef, &mut Box<dyn GroupsAccumulator>)| {
            conform(accumulator.evaluate(EmitTo::All)?, field)
        };
        results.zip(&mut self.accumulators).map(evaluate).collect()
    }
}

/// The numbers that groups have for the accumulators.
///
/// An accumulator takes it that every group it is told of has had a row: it fails to answer NULL for a group
/// of which only NULLs come later. So the groups are numbered as they are met: those with a state first,
/// then by their first rows.
struct Order {
    /// The number of each group; `None` where they keep their own.
    numbers: Option<Vec<u64>>,
    /// How many groups are met up to and with each portion.
    met: Vec<usize>,
}

impl Order {
    /// Renumbers the groups of the portions.
    fn of(found: &[usize], portions: &mut [Portion], total: usize) -> Self {
        if found.len() == total {
            return Self { numbers: None, met: vec![total; portions.len()] };
        }
        const UNMET: u64 = u64::MAX;
        let mut numbers = vec![UNMET; total];
        let mut next = 0;
        let mut number = |group: usize| match numbers.get_mut(group) {
            Some(number) => {
                if *number == UNMET {
                    *number = next;
                    next += 1;
                }
                *number as usize
            }
            None => group,
        };
        found.iter().for_each(|group| _ = number(*group));
        let mut most = found.len();
        let mut met = Vec::with_capacity(portions.len());
        for portion in portions {
            for group in &mut portion.groups {
                *group = number(*group);
                most = most.max(*group + 1);
            }
            met.push(most);
        }
        (0..total).for_each(|group| _ = number(group));
        let kept = numbers.iter().zip(0..).all(|(number, group)| *number == group);
        Self { numbers: (!kept).then_some(numbers), met }
    }
}

/// The same function without DISTINCT, and without believing that its input is sorted.
fn plain(function: &Arc<AggregateFunctionExpr>, input: &SchemaRef) -> DfResult<Arc<AggregateFunctionExpr>> {
    let mut plain = Arc::clone(function);
    if function.is_distinct() {
        let built = AggregateExprBuilder::new(Arc::new(function.fun().clone()), function.expressions())
            .order_by(function.order_bys().to_vec())
            .schema(Arc::clone(input))
            .alias(function.name())
            .with_ignore_nulls(function.ignore_nulls())
            .with_reversed(function.is_reversed())
            .build()?;
        plain = Arc::new(built);
    }
    if !plain.order_bys().is_empty()
        && let Some(unsorted) = Arc::clone(&plain).with_beneficial_ordering(false)?
    {
        plain = Arc::new(unsorted);
    }
    Ok(plain)
}

/// Evaluates expressions over a record batch, a column each.
pub fn evaluate_all(expressions: &[Arc<dyn PhysicalExpr>], batch: &RecordBatch) -> DfResult<Vec<ArrayRef>> {
    expressions.iter().map(|e| e.evaluate(batch)?.into_array(batch.num_rows())).collect()
}

/// The rows for which a condition is true: not false, and not null.
pub fn evaluate_filter(condition: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> DfResult<BooleanArray> {
    let values = condition.evaluate(batch)?.into_array(batch.num_rows())?;
    let Some(mask) = values.as_boolean_opt() else {
        return internal_err!("a FILTER is a condition, not {}", values.data_type());
    };
    Ok(if mask.null_count() > 0 { prep_null_mask_filter(mask) } else { mask.clone() })
}

/// Accumulators differ in how they name what is in a list; a table of state wants one type.
fn conform(column: ArrayRef, field: &FieldRef) -> DfResult<ArrayRef> {
    if column.data_type() == field.data_type() { Ok(column) } else { Ok(cast(&column, field.data_type())?) }
}
