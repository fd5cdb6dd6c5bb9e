//! Window functions over rows that come and go: of each partition that a batch touches, the answers before and
//! after, as a changelog.
//!
//! The rows are kept in order ([`OrderedRows`]). Where all functions are ranks, a touched partition is walked along its
//! order, as far as ranks are asked for, and only rows whose rank has changed are answered; any other window function is
//! answered anew over the whole partition. Rows past the last rank that is asked for are forgotten where none can go,
//! and those of a partition that nothing has touched for its lifetime ([`super::idle`]).
//!
//! Rows that tie in ORDER BY stand in the order of their columns: an order that does not depend on the cut.

mod batch;

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::compute::{cast, concat as concat_arrays};
use arrow::datatypes::{Int64Type, Schema, SchemaRef};
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::{Result as DfResult, internal_datafusion_err, internal_err, not_impl_err};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;

use self::batch::BatchRows;
use super::BatchContext;
use super::accumulate::evaluate_all;
use super::changes::state_error;
use super::memory::Memory;
use super::ordered::{Asked, Head, Key, OrderedRows, Ranked, Reranked};
use super::over::OverFunction;
use super::rank::{Counter, RankKind};
use super::stateful::{Operator, StatefulExec};
use super::top_n::nullable;
use super::waiting::concat;
use crate::changelog;

/// Window functions with one PARTITION BY and one ORDER BY.
#[derive(Clone, Debug)]
pub struct Ranking {
    /// PARTITION BY.
    pub partition: Vec<Arc<dyn PhysicalExpr>>,
    /// ORDER BY.
    pub order: Vec<PhysicalSortExpr>,
    /// The functions; none of them runs.
    pub functions: Vec<OverFunction>,
    /// Only the first ranks are asked for, and all functions can be answered from them.
    pub head: Option<Head>,
}

/// Window functions over a changelog, or over rows that only come, as a changelog.
#[derive(Debug)]
pub struct RankingExec {
    ranking: Ranking,
    partition: RowConverter,
    order: RowConverter,
    row: RowConverter,
    memory: Memory,
    input: SchemaRef,
    /// The input's columns without a weight, all nullable.
    rows: SchemaRef,
    /// With the functions and the weight.
    output: SchemaRef,
}

impl RankingExec {
    /// Answers window functions. The input can have a weight as its last column; `output` is the input's other
    /// columns, one for each function, and the weight.
    ///
    /// # Errors
    /// Where a type has no order.
    pub fn try_new(
        memory: impl Into<Memory>,
        input: Arc<dyn ExecutionPlan>,
        ranking: Ranking,
        output: SchemaRef,
    ) -> DfResult<StatefulExec> {
        let schema = input.schema();
        let weight = usize::from(changelog::is_weighted(&schema));
        let columns = schema.fields().iter().take(schema.fields().len() - weight).cloned().collect::<Vec<_>>();
        let rows = nullable(&Schema::new(columns));
        if output.fields().len() != rows.fields().len() + ranking.functions.len() + 1 {
            return internal_err!("window functions add a column each to those of their input, not {output}");
        }
        let fields = ranking.partition.iter().map(|e| Ok(SortField::new(e.data_type(&schema)?)));
        let partition = converter(fields.collect::<DfResult<_>>()?)?;
        let fields = ranking.order.iter();
        let fields = fields.map(|by| Ok(SortField::new_with_options(by.expr.data_type(&schema)?, by.options)));
        let order = converter(fields.collect::<DfResult<_>>()?)?;
        let row = converter(rows.fields().iter().map(|f| SortField::new(f.data_type().clone())).collect())?;
        let memory = memory.into();
        let state = OrderedRows::try_new(memory.idle_us(0).filter(|_| !ranking.partition.is_empty()))?;
        let name = Arc::clone(&memory.name);
        let operator = Self { ranking, partition, order, row, memory, input: schema, rows, output };
        Ok(StatefulExec::new(name, [input], operator, state))
    }
}

fn converter(fields: Vec<SortField>) -> DfResult<RowConverter> {
    if !RowConverter::supports_fields(&fields) {
        return not_impl_err!("a ranking over a column that can't be ordered: leave maps and unions out of the SELECT");
    }
    Ok(RowConverter::new(fields)?)
}

impl Operator<1> for RankingExec {
    type State = OrderedRows;

    const NAME: &'static str = "RankingExec";

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.output)
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        let ranking = &self.ranking;
        ranking.partition.iter().chain(ranking.order.iter().map(|by| &by.expr)).collect()
    }

    fn detail(&self) -> String {
        let functions = self.output.fields().iter().skip(self.rows.fields().len()).take(self.ranking.functions.len());
        let functions: Vec<_> = functions.map(|c| c.name().as_str()).collect();
        let head = self.ranking.head.map(|head| format!(", {:?} <= {}", head.kind, head.limit));
        format!("functions=[{}]{}", functions.join(", "), head.unwrap_or_default())
    }

    fn run(
        &self,
        state: &mut OrderedRows,
        [batches]: [Vec<RecordBatch>; 1],
        context: &TaskContext,
    ) -> DfResult<Vec<RecordBatch>> {
        let time_us = BatchContext::of(context)?.time_us;
        state.forget(time_us, &self.memory)?;
        let rows = concat(&self.input, &batches)?;
        if rows.num_rows() == 0 {
            return Ok(vec![]);
        }
        let changed = self.changed(&rows)?;
        state.touch(time_us, changed.partitions().map(|(partition, _)| partition))?;
        if let Some(kinds) = self.kinds() {
            return self.rerank(state, &changed, &kinds);
        }
        let head = self.ranking.head;
        let before: Vec<Vec<Key>> = changed.partitions().map(|(partition, _)| state.head(partition, head)).collect();
        let (mut gone, mut come) = (vec![], vec![]);
        for ((partition, changes), before) in changed.partitions().zip(before) {
            state.change(partition, changes, &self.memory)?;
            let after = state.head(partition, head);
            if before != after {
                gone.push(before);
                come.push(after);
            }
        }
        state.store()?;
        let changes = [(gone, -1), (come, 1)].into_iter().map(|(rows, weight)| self.answer(&rows, weight));
        let changes = changes.collect::<DfResult<Vec<_>>>()?;
        changelog::consolidate(&changes, &self.output).map_err(state_error)
    }
}

impl RankingExec {
    /// The functions, where all of them are ranks.
    fn kinds(&self) -> Option<Vec<RankKind>> {
        let kind = |function: &OverFunction| match function {
            OverFunction::Rank(kind) => Some(*kind),
            _ => None,
        };
        self.ranking.functions.iter().map(kind).collect()
    }

    /// The rows whose ranks are others after the changes, partition by partition.
    fn rerank(&self, state: &mut OrderedRows, changed: &BatchRows, kinds: &[RankKind]) -> DfResult<Vec<RecordBatch>> {
        let head = self.ranking.head;
        // What only comes moves other rows back, and those past the last rank never return.
        let asked = Asked { kinds, head, prunes: head.is_some() && !changelog::is_weighted(&self.input) };
        let (mut reranked, mut useless) = (Reranked::default(), vec![]);
        for (partition, changes) in changed.partitions() {
            state.change(partition, changes.clone(), &self.memory)?;
            let beyond = state.reranked(partition, changes, &asked, &mut reranked);
            if !beyond.is_empty() {
                useless.push((partition, beyond));
            }
        }
        state.store()?;
        for (partition, beyond) in useless {
            state.change(partition, beyond.iter().map(|(key, delta)| key.change(*delta)), &self.memory)?;
        }
        state.store()?;
        let rows = |(ranked, weight): (&Ranked, i64)| {
            let mut columns = self.decode(ranked.rows(), ranked.counters.len())?.columns().to_vec();
            columns.extend(kinds.iter().map(|kind| {
                Arc::new(UInt64Array::from_iter_values(ranked.counters.iter().map(|c| c.rank(*kind)))) as ArrayRef
            }));
            columns.push(Arc::new(Int64Array::from_value(weight, ranked.counters.len())));
            Ok(RecordBatch::try_new(Arc::clone(&self.output), columns)?)
        };
        let changes = [(&reranked.gone, -1), (&reranked.come, 1)].into_iter();
        let changes =
            changes.filter(|(ranked, _)| !ranked.counters.is_empty()).map(rows).collect::<DfResult<Vec<_>>>()?;
        // A row that is there once has one rank before and another after: nothing cancels out.
        match reranked.repeats {
            true => changelog::consolidate(&changes, &self.output).map_err(state_error),
            false => Ok(changes),
        }
    }

    /// How often each row of the batch comes or goes.
    fn changed(&self, rows: &RecordBatch) -> DfResult<BatchRows> {
        let columns = self.rows.fields().len();
        let weights: Option<Int64Array> = match rows.num_columns() > columns {
            true => rows.columns().get(columns).and_then(|c| c.as_primitive_opt::<Int64Type>()).cloned(),
            false => None,
        };
        let order: Vec<_> = self.ranking.order.iter().map(|by| Arc::clone(&by.expr)).collect();
        let partition = encode(&self.partition, &evaluate_all(&self.ranking.partition, rows)?)?;
        let order = encode(&self.order, &evaluate_all(&order, rows)?)?;
        let values: Vec<ArrayRef> = rows.columns().iter().take(columns).cloned().collect();
        let values = encode(&self.row, &values)?;
        let weight = |row| weights.as_ref().map_or(1, |w| w.value(row));
        Ok(BatchRows::new(partition, &order, &values, rows.num_rows(), weight))
    }

    /// The answers over the rows of some partitions, all with the same weight.
    fn answer(&self, partitions: &[Vec<Key>], weight: i64) -> DfResult<RecordBatch> {
        let rows = self.decode(partitions.iter().flatten().map(Key::row), partitions.iter().map(Vec::len).sum())?;
        let mut ranges: Vec<Range<usize>> = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let from = ranges.last().map_or(0, |r| r.end);
            ranges.push(from..from + partition.len());
        }
        let counters = counters(partitions);
        let mut columns = rows.columns().to_vec();
        for function in &self.ranking.functions {
            columns.push(match function {
                OverFunction::Rank(kind) => {
                    Arc::new(UInt64Array::from_iter_values(counters.iter().map(|c| c.rank(*kind))))
                }
                OverFunction::Framed(function) => {
                    let field = self.output.fields().get(columns.len());
                    let field = field.ok_or_else(|| internal_datafusion_err!("a window function has no column"))?;
                    let parts = ranges.iter().filter(|r| !r.is_empty());
                    let parts = parts.map(|r| function.evaluate(&rows.slice(r.start, r.len())));
                    let parts = parts.collect::<DfResult<Vec<_>>>()?;
                    match parts.is_empty() {
                        true => arrow::array::new_empty_array(field.data_type()),
                        false => concat_arrays(&parts.iter().map(|p| p.as_ref()).collect::<Vec<_>>())?,
                    }
                }
                OverFunction::Running { .. } | OverFunction::Sliding { .. } => {
                    return internal_err!("over a changelog nothing runs");
                }
            });
        }
        columns.push(Arc::new(Int64Array::from_value(weight, rows.num_rows())));
        Ok(RecordBatch::try_new(Arc::clone(&self.output), columns)?)
    }

    fn decode<'a>(&self, rows: impl Iterator<Item = &'a [u8]>, count: usize) -> DfResult<RecordBatch> {
        let parser = self.row.parser();
        let columns = match self.rows.fields().is_empty() {
            true => vec![],
            false => self.row.convert_rows(rows.map(|row| parser.parse(row)))?,
        };
        let columns = columns.into_iter().zip(self.rows.fields()).map(|(column, field)| {
            let same = column.data_type() == field.data_type();
            if same { Ok(column) } else { Ok(cast(&column, field.data_type())?) }
        });
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let columns = columns.collect::<DfResult<_>>()?;
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.rows), columns, &options)?)
    }
}

fn encode(converter: &RowConverter, columns: &[ArrayRef]) -> DfResult<Option<datafusion::arrow::row::Rows>> {
    if columns.is_empty() {
        return Ok(None);
    }
    Ok(Some(converter.convert_columns(columns)?))
}

fn counters(partitions: &[Vec<Key>]) -> Vec<Counter> {
    let mut counters = vec![];
    for partition in partitions {
        let mut counter = Counter::default();
        let mut last: Option<&Key> = None;
        for key in partition {
            counter.count(last.is_some_and(|last| last.order() == key.order()));
            counters.push(counter);
            last = Some(key);
        }
    }
    counters
}
