//! How each aggregate follows a changelog.
//!
//! What is a sum over the rows takes their weights: counts, and sums and averages of integers and decimals
//! ([`super::weighted`]). Float sums are no such thing (a NaN would never leave again, and rounding would add up), so
//! they are computed anew from the group's values, as is every function that is not named here.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, UInt64Array};
use arrow::buffer::NullBuffer;
use arrow::compute::{cast, take, take_arrays};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::{Result as DfResult, internal_datafusion_err, internal_err};
use datafusion::functions_aggregate::average::Avg;
use datafusion::functions_aggregate::bool_and_or::{BoolAnd, BoolOr};
use datafusion::functions_aggregate::count::Count;
use datafusion::functions_aggregate::min_max::{Max, Min};
use datafusion::functions_aggregate::sum::Sum;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::CastExpr;
use millstream_state::Found;

use super::super::accumulate::{Aggregate, Aggregates, Arguments, Portion, evaluate_all, evaluate_filter};
use super::super::memory::Memory;
use super::bag::{Bag, BagSpec, Moved, Values};
use super::tree::{Roots, Which};
use super::weighted::{Before, Rows, counts, sums};

/// The aggregates of one operator, and the values that they share.
#[derive(Debug)]
pub struct Measures {
    all: Vec<Measure>,
    bags: Vec<BagSpec>,
}

/// One aggregate.
#[derive(Debug)]
pub struct Measure {
    kind: Kind,
    /// The function itself, alone.
    function: Arc<Aggregates>,
    result: FieldRef,
    /// What is counted or summed.
    arguments: Vec<Arc<dyn PhysicalExpr>>,
    filter: Option<Arc<dyn PhysicalExpr>>,
    /// The values it has to tell apart: an index of [`Measures::bags`].
    bag: Option<usize>,
    distinct: bool,
    /// What it keeps of a group.
    columns: Vec<FieldRef>,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    /// How many rows have arguments that are not NULL.
    Count,
    /// A sum of this type.
    Sum(DataType),
    /// A sum and a count.
    Avg {
        /// The sum's type here.
        kept: DataType,
        /// The sum's type for DataFusion, which divides.
        given: DataType,
    },
    /// How many are true, of how many.
    And,
    Or,
    /// An end of the values.
    Extreme(Which),
    /// All of the values, anew.
    Anew,
}

impl Measures {
    /// The aggregates over an input of this schema.
    ///
    /// # Errors
    /// Where DataFusion can't build an accumulator for one of them.
    pub fn try_new(aggregates: &[Aggregate], input: &SchemaRef) -> DfResult<Self> {
        let mut measures = Self { all: vec![], bags: vec![] };
        for (index, aggregate) in aggregates.iter().enumerate() {
            let function = Arc::new(Aggregates::try_new(std::slice::from_ref(aggregate), input)?);
            let expressions = aggregate.function.expressions();
            let (kind, arguments) = kind_of(aggregate, &function, &expressions, input)?;
            let (filter, result) = (aggregate.filter.clone(), aggregate.function.field());
            let distinct = aggregate.function.is_distinct();
            let bag = match &kind {
                Kind::Extreme(_) => {
                    let argument =
                        expressions.first().cloned().ok_or_else(|| internal_datafusion_err!("min of nothing"))?;
                    let (values, filter) = (vec![argument], filter.clone());
                    Some(measures.bag(BagSpec { values, filter, nulls: false, told: false }))
                }
                Kind::Anew => {
                    let mut values = expressions.clone();
                    values.extend(aggregate.function.order_bys().iter().map(|by| Arc::clone(&by.expr)));
                    Some(measures.bag(BagSpec { values, filter: filter.clone(), nulls: true, told: false }))
                }
                _ if distinct => {
                    let values = arguments.clone();
                    Some(measures.bag(BagSpec { values, filter: filter.clone(), nulls: false, told: true }))
                }
                _ => None,
            };
            let columns = kind.columns(index, result.data_type());
            measures.all.push(Measure { kind, function, result, arguments, filter, bag, distinct, columns });
        }
        Ok(measures)
    }

    fn bag(&mut self, spec: BagSpec) -> usize {
        match self.bags.iter().position(|b| b.same_values(&spec)) {
            Some(place) => {
                if let Some(bag) = self.bags.get_mut(place) {
                    bag.told |= spec.told;
                }
                place
            }
            None => {
                self.bags.push(spec);
                self.bags.len() - 1
            }
        }
    }

    /// The aggregates.
    pub fn all(&self) -> &[Measure] {
        &self.all
    }

    /// The values that are kept.
    pub fn bags(&self) -> &[BagSpec] {
        &self.bags
    }

    /// The types of the answer.
    pub fn result_types(&self) -> impl Iterator<Item = &DataType> {
        self.all.iter().map(|m| m.result.data_type())
    }

    /// Every expression that is evaluated over the input.
    pub fn expressions(&self) -> impl Iterator<Item = &Arc<dyn PhysicalExpr>> {
        let measures = self.all.iter().flat_map(|m| m.arguments.iter().chain(&m.filter));
        measures.chain(self.bags.iter().flat_map(|b| b.values.iter().chain(&b.filter)))
    }

    /// The answers of groups, of whom `columns` were kept: a column for each aggregate.
    pub fn answers(&self, columns: &[ArrayRef], rows: usize) -> DfResult<Vec<ArrayRef>> {
        let mut from = 0;
        let mut answers = vec![];
        for measure in &self.all {
            let to = from + measure.columns.len();
            let Some(columns) = columns.get(from..to) else { return internal_err!("a group keeps too few columns") };
            answers.push(measure.answer(columns, rows)?);
            from = to;
        }
        Ok(answers)
    }
}

impl Kind {
    fn columns(&self, index: usize, result: &DataType) -> Vec<FieldRef> {
        let types = match self {
            Self::Count => vec![DataType::Int64],
            Self::Sum(sum) | Self::Avg { kept: sum, .. } => vec![DataType::Int64, sum.clone()],
            Self::And | Self::Or => vec![DataType::Int64, DataType::Int64],
            Self::Extreme(_) | Self::Anew => vec![result.clone()],
        };
        let field = |(i, t)| Arc::new(Field::new(format!("${index}.{i}"), t, true));
        types.into_iter().enumerate().map(field).collect()
    }
}

type Arg = Vec<Arc<dyn PhysicalExpr>>;

/// How an aggregate is computed, and what it is given.
fn kind_of(aggregate: &Aggregate, alone: &Aggregates, arguments: &Arg, input: &SchemaRef) -> DfResult<(Kind, Arg)> {
    let function = aggregate.function.fun().inner();
    let first = arguments.first();
    let argument = first.map(|a| a.data_type(input)).transpose()?.unwrap_or(DataType::Null);
    let same = || arguments.clone();
    let state: Vec<DataType> = alone.state_fields().map(|f| f.data_type().clone()).collect();
    Ok(match (&argument, state.as_slice()) {
        _ if function.is::<Count>() => (Kind::Count, same()),
        (_, [sum]) if function.is::<Sum>() && is_exact(sum) => (Kind::Sum(sum.clone()), same()),
        (_, [_, sum]) if function.is::<Avg>() && is_exact(sum) => {
            (Kind::Avg { kept: sum.clone(), given: sum.clone() }, same())
        }
        (DataType::Float64, [_, DataType::Float64]) if function.is::<Avg>() => {
            match first.and_then(|a| whole(a, input)) {
                Some(whole) => {
                    let kept = DataType::Decimal128(38, 0);
                    (Kind::Avg { kept, given: DataType::Float64 }, vec![whole])
                }
                None => (Kind::Anew, vec![]),
            }
        }
        (DataType::Boolean, _) if function.is::<BoolAnd>() => (Kind::And, same()),
        (DataType::Boolean, _) if function.is::<BoolOr>() => (Kind::Or, same()),
        (t, _) if function.is::<Min>() && !t.is_nested() => (Kind::Extreme(Which::First), vec![]),
        (t, _) if function.is::<Max>() && !t.is_nested() => (Kind::Extreme(Which::Last), vec![]),
        _ => (Kind::Anew, vec![]),
    })
}

fn is_exact(sum: &DataType) -> bool {
    matches!(sum, DataType::Int64 | DataType::UInt64) || sum.is_decimal()
}

/// The whole numbers that are averaged as floats.
fn whole(argument: &Arc<dyn PhysicalExpr>, input: &SchemaRef) -> Option<Arc<dyn PhysicalExpr>> {
    let cast = argument.downcast_ref::<CastExpr>()?;
    cast.expr().data_type(input).ok()?.is_integer().then(|| Arc::clone(cast.expr()))
}

impl Measure {
    /// What it keeps of a group.
    pub fn columns(&self) -> &[FieldRef] {
        &self.columns
    }

    /// The values it has to tell apart.
    pub fn bag(&self) -> Option<usize> {
        self.bag
    }

    /// Whether it only adds up weights.
    pub fn is_linear(&self) -> bool {
        !matches!(self.kind, Kind::Extreme(_) | Kind::Anew)
    }

    /// The rows of a batch that count.
    pub fn rows(&self, rows: &RecordBatch, weights: &[i64], groups: &[usize]) -> DfResult<Rows> {
        let values = evaluate_all(&self.arguments, rows)?;
        let mut weights = weights.to_vec();
        if let Some(counts) = &self.filter {
            let mask = evaluate_filter(counts, rows)?;
            weights.iter_mut().zip(mask.values()).for_each(|(weight, counts)| *weight *= i64::from(counts));
        }
        Ok(Rows { groups: groups.to_vec(), weights, values })
    }

    /// The values that appeared or went, as rows.
    pub fn distinct_rows(&self, moved: Moved) -> Rows {
        Rows { groups: moved.groups, weights: moved.weights, values: moved.values }
    }

    /// Adds rows to what was kept: the columns of all `total` groups.
    pub fn add(&self, before: Before<'_>, rows: &Rows, total: usize, memory: &Memory) -> DfResult<Vec<ArrayRef>> {
        let counts = counts(before, rows, total, memory)?;
        let second = match (&self.kind, rows.values.first()) {
            (Kind::Count, _) => return Ok(vec![Arc::new(counts)]),
            (Kind::Sum(kept) | Kind::Avg { kept, .. }, Some(values)) => {
                sums(kept, before, rows, &cast(values, kept)?, total)?
            }
            (Kind::And | Kind::Or, Some(values)) => {
                let values =
                    values.as_boolean_opt().ok_or_else(|| internal_datafusion_err!("a condition is boolean"))?;
                let ones: ArrayRef = Arc::new(values.iter().map(|v| v.map(i64::from)).collect::<Int64Array>());
                sums(&DataType::Int64, before, rows, &ones, total)?
            }
            _ => return internal_err!("{} is no sum of weights", self.result.name()),
        };
        Ok(vec![Arc::new(counts), second])
    }

    /// Reads the answer of `total` groups off their values.
    pub fn read(&self, bag: &Bag, roots: &Roots<'_>, total: usize) -> DfResult<Vec<ArrayRef>> {
        let answer = match self.kind {
            Kind::Extreme(end) => {
                let Values { columns, groups, .. } = bag.values(roots, end)?;
                let values = columns.into_iter().next();
                let values = values.ok_or_else(|| internal_datafusion_err!("a group has values"))?;
                in_order(values, &groups, total)?
            }
            _ => self.anew(bag.values(roots, Which::All)?, total)?,
        };
        Ok(vec![conform(answer, self.result.data_type())?])
    }

    fn anew(&self, Values { columns, groups, counts }: Values, total: usize) -> DfResult<ArrayRef> {
        let (mut places, mut repeated) = (vec![], vec![]);
        for (row, (group, count)) in groups.iter().zip(&counts).enumerate() {
            for _ in 0..if self.distinct { 1 } else { *count } {
                places.push(row as u64);
                repeated.push(*group);
            }
        }
        let values = take_arrays(&columns, &UInt64Array::from(places), None)?;
        let portions = match repeated.is_empty() {
            true => vec![],
            false => vec![Portion { groups: repeated, arguments: vec![Arguments { values, filter: None }] }],
        };
        let none = Found { rows: vec![], values: vec![] };
        let state = self.function.accumulate(&none, portions, total)?;
        let mut answers = self.function.evaluate(&state, total)?;
        answers.pop().ok_or_else(|| internal_datafusion_err!("an aggregate has an answer"))
    }

    fn answer(&self, columns: &[ArrayRef], rows: usize) -> DfResult<ArrayRef> {
        let Some(first) = columns.first() else { return internal_err!("an aggregate keeps at least a column") };
        if matches!(self.kind, Kind::Extreme(_) | Kind::Anew) {
            return Ok(Arc::clone(first));
        }
        let result = self.result.data_type();
        let Some(counts) = first.as_primitive_opt::<Int64Type>() else { return internal_err!("a count is a number") };
        let some = NullBuffer::from_iter(counts.values().iter().map(|n| *n > 0));
        let answer: ArrayRef = match (&self.kind, columns.get(1)) {
            (Kind::Count, _) => Arc::clone(first),
            (Kind::Sum(_), Some(sums)) => masked(sums, &some)?,
            (Kind::Avg { given, .. }, Some(sums)) => {
                let state: Vec<DataType> = self.function.state_fields().map(|f| f.data_type().clone()).collect();
                let [count, sum] = state.as_slice() else { return internal_err!("an average keeps a count and a sum") };
                if sum != given {
                    return internal_err!("an average sums up as {sum}, not {given}");
                }
                let (counts, sums) = (cast(first, count)?, cast(sums, sum)?);
                let state = [masked(&counts, &some)?, masked(&sums, &some)?];
                let mut answers = self.function.evaluate(&state, rows)?;
                answers.pop().ok_or_else(|| internal_datafusion_err!("an aggregate has an answer"))?
            }
            (Kind::And | Kind::Or, Some(trues)) => {
                let Some(trues) = trues.as_primitive_opt::<Int64Type>() else {
                    return internal_err!("a count is a number");
                };
                let and = self.kind == Kind::And;
                let holds = |(all, trues): (&i64, &i64)| if and { trues == all } else { *trues > 0 };
                let values = counts.values().iter().zip(trues.values()).map(holds).collect();
                Arc::new(BooleanArray::new(values, Some(some)))
            }
            _ => return internal_err!("{} keeps too few columns", self.result.name()),
        };
        conform(answer, result)
    }
}

/// The values of groups, in the order of the groups; NULL for those that have none.
fn in_order(values: ArrayRef, groups: &[usize], total: usize) -> DfResult<ArrayRef> {
    if groups.len() == total && groups.is_sorted() {
        return Ok(values);
    }
    let mut places: Vec<Option<u64>> = vec![None; total];
    for (row, group) in groups.iter().enumerate() {
        if let Some(place) = places.get_mut(*group) {
            *place = Some(row as u64);
        }
    }
    Ok(take(&values, &UInt64Array::from(places), None)?)
}

/// The column with NULL where there is nothing.
fn masked(column: &ArrayRef, some: &NullBuffer) -> DfResult<ArrayRef> {
    let data = column.to_data().into_builder().nulls(Some(some.clone())).build()?;
    Ok(arrow::array::make_array(data))
}

fn conform(column: ArrayRef, to: &DataType) -> DfResult<ArrayRef> {
    if column.data_type() == to { Ok(column) } else { Ok(cast(&column, to)?) }
}
