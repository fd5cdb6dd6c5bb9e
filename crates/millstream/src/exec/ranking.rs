//! Window functions over rows that come and go: of each partition that a batch touches, the answers before and
//! after, as a changelog.
//!
//! The rows are kept in order ([`OrderedRows`]). Where all functions are ranks, a touched partition is walked along its
//! order, as far as ranks are asked for, and only rows whose rank has changed are answered; any other window function is
//! answered anew over the whole partition. Rows past the last rank that is asked for are forgotten where none can go,
//! and those of a partition that nothing has touched for its lifetime ([`super::idle`]).
//!
//! Rows that tie in ORDER BY stand in the order of their columns: an order that does not depend on the cut.

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
use hashbrown::HashMap;

use super::BatchContext;
use super::accumulate::evaluate_all;
use super::changes::state_error;
use super::memory::Memory;
use super::ordered::{Asked, Head, Key, OrderedRows};
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

/// A row of a batch as bytes, and where its partition ends.
type Changed = HashMap<Arc<[u8]>, (u32, u32, i64)>;

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
        let mut changed: Vec<_> = changed.into_iter().filter(|(_, (.., delta))| *delta != 0).collect();
        changed.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut partitions: Vec<Arc<[u8]>> = vec![];
        for (bytes, (partition, ..)) in &changed {
            let partition = bytes.get(..*partition as usize).unwrap_or_default();
            if partitions.last().is_none_or(|last| last.as_ref() != partition) {
                partitions.push(partition.into());
            }
        }
        state.touch(time_us, &partitions)?;
        if let Some(kinds) = self.kinds() {
            let changed: Vec<_> =
                changed.into_iter().map(|(bytes, (_, row, delta))| (Key { bytes, row }, delta)).collect();
            return self.rerank(state, &partitions, &changed, &kinds);
        }
        let head = self.ranking.head;
        let before: Vec<Vec<Key>> = partitions.iter().map(|p| state.head(p, head)).collect();
        state.change(changed.into_iter().map(|(bytes, (_, row, delta))| (Key { bytes, row }, delta)), &self.memory)?;
        let (mut gone, mut come) = (vec![], vec![]);
        for (partition, before) in partitions.iter().zip(before) {
            let after = state.head(partition, head);
            if before != after {
                gone.push(before);
                come.push(after);
            }
        }
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
    fn rerank(
        &self,
        state: &mut OrderedRows,
        partitions: &[Arc<[u8]>],
        changed: &[(Key, i64)],
        kinds: &[RankKind],
    ) -> DfResult<Vec<RecordBatch>> {
        state.change(changed.iter().cloned(), &self.memory)?;
        let head = self.ranking.head;
        // What only comes moves other rows back, and those past the last rank never return.
        let asked = Asked { kinds, head, prunes: head.is_some() && !changelog::is_weighted(&self.input) };
        let (mut gone, mut come, mut beyond) = (vec![], vec![], vec![]);
        let mut rest = changed;
        for partition in partitions {
            let (own, others) = rest.split_at(rest.partition_point(|(key, _)| key.bytes.starts_with(partition)));
            rest = others;
            let reranked = state.reranked(partition, own, &asked);
            gone.extend(reranked.gone);
            come.extend(reranked.come);
            beyond.extend(reranked.beyond);
        }
        state.change(beyond.into_iter(), &self.memory)?;
        let rows = |(rows, weight): (Vec<(Key, Counter)>, i64)| {
            let (keys, counters): (Vec<Key>, Vec<Counter>) = rows.into_iter().unzip();
            let mut columns = self.decode(&[keys])?.columns().to_vec();
            columns.extend(kinds.iter().map(|kind| {
                Arc::new(UInt64Array::from_iter_values(counters.iter().map(|c| c.rank(*kind)))) as ArrayRef
            }));
            columns.push(Arc::new(Int64Array::from_value(weight, counters.len())));
            Ok(RecordBatch::try_new(Arc::clone(&self.output), columns)?)
        };
        let changes = [(gone, -1), (come, 1)].into_iter().map(rows).collect::<DfResult<Vec<_>>>()?;
        changelog::consolidate(&changes, &self.output).map_err(state_error)
    }

    /// How often each row of the batch comes or goes.
    fn changed(&self, rows: &RecordBatch) -> DfResult<Changed> {
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
        let part = |rows: &Option<datafusion::arrow::row::Rows>, row: usize, to: &mut Vec<u8>| {
            to.extend_from_slice(rows.as_ref().map_or(&[], |rows| rows.row(row).data()));
            to.len() as u32
        };
        let mut changed = Changed::with_capacity(rows.num_rows());
        let mut bytes = vec![];
        for row in 0..rows.num_rows() {
            bytes.clear();
            let partition = part(&partition, row, &mut bytes);
            let at = part(&order, row, &mut bytes);
            part(&values, row, &mut bytes);
            let weight = weights.as_ref().map_or(1, |w| w.value(row));
            match changed.get_mut(bytes.as_slice()) {
                Some((.., delta)) => *delta += weight,
                None => {
                    changed.insert(bytes.as_slice().into(), (partition, at, weight));
                }
            }
        }
        Ok(changed)
    }

    /// The answers over the rows of some partitions, all with the same weight.
    fn answer(&self, partitions: &[Vec<Key>], weight: i64) -> DfResult<RecordBatch> {
        let rows = self.decode(partitions)?;
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

    fn decode(&self, partitions: &[Vec<Key>]) -> DfResult<RecordBatch> {
        let parser = self.row.parser();
        let count = partitions.iter().map(Vec::len).sum();
        let columns = match self.rows.fields().is_empty() {
            true => vec![],
            false => self.row.convert_rows(partitions.iter().flatten().map(|key| parser.parse(key.row())))?,
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
