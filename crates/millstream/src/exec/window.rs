//! GROUP BY window: the rows of each window, by key, without a copy of a row.
//!
//! Emitted when a window closes, that is when the frontier has reached its end: each window that has rows
//! once, in the order of the windows, insert-only. Or, with EMIT CHANGES, as a changelog whenever a window's
//! answer changes. Either way the state of a window is dropped when it closes.
//!
//! The input is insert-only and holds no row that is late: one that belongs to a window that was closed is
//! a fault, and reported as one.

mod cells;
mod combine;
mod emit;
mod state;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{Result as DfResult, internal_datafusion_err, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use millstream_core::watermark::END_OF_TIME;

use self::cells::{Cells, CellsBuilder, Layout};
use self::state::WindowState;
use super::BatchContext;
use super::accumulate::{Aggregate, Aggregates, Portion, evaluate_all};
use super::distinct::keep_first;
use super::event_time::micros;
use super::grouping::Grouping;
use super::stateful::{Operator, StatefulExec};
use crate::changelog;
use crate::window::{WindowKind, WindowSpec};

/// When a window aggregate answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EmitMode {
    /// Once, when the window closes: insert-only.
    #[default]
    OnClose,
    /// Whenever the answer changes: a changelog.
    Changes,
}

/// One of the group columns of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupColumn {
    /// `window_start`.
    Start,
    /// `window_end`.
    End,
    /// `window_time`: the last millisecond of the window.
    Time,
    /// A key: an index of [`WindowAggregate::keys`].
    Key(usize),
}

/// What a window aggregate computes.
#[derive(Clone, Debug)]
pub struct WindowAggregate {
    /// The windows.
    pub spec: WindowSpec,
    /// The event-time column of the input.
    pub time: usize,
    /// The keys beside the window, over the input.
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    /// The group columns of the answer, in their order.
    pub columns: Vec<GroupColumn>,
    /// The aggregates, over the input.
    pub aggregates: Vec<Aggregate>,
    /// How far rows can be behind the frontier when they come: windows close so much later. In microseconds.
    pub lag_us: i64,
    /// When it answers.
    pub emit: EmitMode,
}

/// `SELECT window_end, k, sum(x) .. GROUP BY window_start, window_end, k` over an insert-only input.
#[derive(Debug)]
pub struct WindowAggregateExec {
    spec: WindowSpec,
    time: usize,
    groups: Vec<Arc<dyn PhysicalExpr>>,
    columns: Vec<GroupColumn>,
    aggregates: Arc<Aggregates>,
    emit: EmitMode,
    lag_us: i64,
    layout: Layout,
    keys: SchemaRef,
    /// With the weight, where it is a changelog.
    output: SchemaRef,
}

impl WindowAggregateExec {
    /// Aggregates the windows of the input.
    ///
    /// `name` names the state within the query. `output` is the schema of the answer: a column for each of
    /// [`WindowAggregate::columns`], then one for each aggregate. With [`EmitMode::Changes`] the node's own
    /// schema adds [`changelog::WEIGHT`].
    ///
    /// # Errors
    /// Where DataFusion can't build an accumulator, or the types don't fit the output.
    pub fn try_new(
        name: impl Into<Arc<str>>,
        input: Arc<dyn ExecutionPlan>,
        query: WindowAggregate,
        output: &Schema,
    ) -> DfResult<StatefulExec> {
        let WindowAggregate { spec, time, keys: groups, columns, aggregates, emit, lag_us } = query;
        let schema = input.schema();
        let aggregates = Arc::new(Aggregates::try_new(&aggregates, &schema)?);
        let keys = key_schema(&groups, &columns, &schema, output)?;
        let expected = columns.len() + aggregates.result_fields().count();
        if time >= schema.fields().len() || output.fields().len() != expected {
            return internal_err!("a window aggregate of {expected} columns does not answer {output}");
        }
        let panes = emit == EmitMode::OnClose && !matches!(spec.kind, WindowKind::Tumble { .. });
        let layout = if panes && aggregates.mergeable() { Layout::Panes } else { Layout::Windows };
        let state = WindowState::try_new(&keys, &aggregates, &schema)?;
        let output = match emit {
            EmitMode::OnClose => Arc::new(output.clone()),
            EmitMode::Changes => changelog::with_weight(output),
        };
        let operator = Self { spec, time, groups, columns, aggregates, emit, lag_us, layout, keys, output };
        Ok(StatefulExec::new(name, [input], operator, state))
    }
}

/// The frontier as it is for rows that come so much later. At the end of time no row comes.
pub(super) fn behind(frontier: i64, lag_us: i64) -> i64 {
    if frontier == END_OF_TIME { frontier } else { frontier.saturating_sub(lag_us) }
}

impl Operator<1> for WindowAggregateExec {
    type State = WindowState;

    const NAME: &'static str = "WindowAggregateExec";

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.output)
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.groups.iter().chain(self.aggregates.expressions()).collect()
    }

    fn detail(&self) -> String {
        let name = |f: &Arc<arrow::datatypes::Field>| f.name().clone();
        let keys: Vec<String> = self.keys.fields().iter().map(name).collect();
        let results: Vec<String> = self.aggregates.result_fields().map(name).collect();
        let emit = if self.emit == EmitMode::OnClose { "on close" } else { "changes" };
        let (spec, keys, results) = (self.spec, keys.join(", "), results.join(", "));
        format!("{spec}, by=[{keys}], aggregates=[{results}], emit={emit}")
    }

    fn due_us(&self, state: &WindowState) -> Option<i64> {
        let (slot, _) = state.groups.panes(..).next().filter(|_| self.emit == EmitMode::OnClose)?;
        let end = match (self.layout, state.closed()) {
            (Layout::Windows, _) => slot,
            // The windows of a pane are answered one after the other.
            (Layout::Panes, closed) => self.spec.first_end(closed.map_or(slot, |closed| slot.max(closed))),
        };
        Some(end.saturating_add(self.lag_us))
    }

    fn run(
        &self,
        state: &mut WindowState,
        [batches]: [Vec<RecordBatch>; 1],
        context: &TaskContext,
    ) -> DfResult<Vec<RecordBatch>> {
        let frontier = BatchContext::of(context)?.frontier.map(|f| behind(f, self.lag_us));
        let (cells, mut portions) = self.place(&batches)?;
        self.check_not_late(&cells, state.closed())?;
        keep_first(&self.aggregates, &mut portions, |set, of, values| state.unseen(set, &cells, of, values))?;
        let found = state.found(&cells)?;
        let after = match cells.total {
            0 => vec![],
            total => self.aggregates.accumulate(&found, portions, total)?,
        };
        let output = match (self.emit, self.layout) {
            (EmitMode::Changes, _) => self.emit_changes(state, &cells, &found, &after, frontier)?,
            (EmitMode::OnClose, Layout::Windows) => self.close_windows(state, &cells, &after, frontier)?,
            (EmitMode::OnClose, Layout::Panes) => self.close_panes(state, &cells, &after, frontier)?,
        };
        state.close(frontier);
        Ok(output)
    }
}

impl WindowAggregateExec {
    /// Puts the rows into cells, and evaluates what the aggregates are given.
    fn place(&self, batches: &[RecordBatch]) -> DfResult<(Cells, Vec<Portion>)> {
        let mut builder = CellsBuilder::new(self.spec, self.layout, Grouping::try_new(&self.keys)?);
        let mut arguments = Vec::with_capacity(batches.len());
        for batch in batches.iter().filter(|b| b.num_rows() > 0) {
            let time = batch.columns().get(self.time);
            let time = time.ok_or_else(|| internal_datafusion_err!("the time column is not there"))?;
            let (batch, places) = builder.place(batch, &micros(time)?)?;
            builder.push(places, &evaluate_all(&self.groups, &batch)?)?;
            arguments.push(self.aggregates.arguments(&batch)?);
        }
        let mut cells = if arguments.is_empty() { Cells::none() } else { builder.build()? };
        let rows = std::mem::take(&mut cells.rows).into_iter();
        let portions = rows.zip(arguments).map(|(groups, arguments)| Portion { groups, arguments }).collect();
        Ok((cells, portions))
    }

    fn check_not_late(&self, cells: &Cells, closed: Option<i64>) -> DfResult<()> {
        let (Some((slot, _)), Some(closed)) = (cells.slots.first(), closed) else { return Ok(()) };
        let end = match self.layout {
            Layout::Windows => *slot,
            Layout::Panes => self.spec.first_end(*slot),
        };
        if end <= closed {
            return internal_err!(
                "a row reached {} after its window had closed: the window ends at {end} us, the frontier was {closed} us",
                self.spec
            );
        }
        Ok(())
    }
}

/// The columns of a key, under the names that they have in the answer.
fn key_schema(
    groups: &[Arc<dyn PhysicalExpr>],
    columns: &[GroupColumn],
    input: &Schema,
    output: &Schema,
) -> DfResult<SchemaRef> {
    let name = |key: usize| {
        let place = columns.iter().position(|c| *c == GroupColumn::Key(key));
        place.and_then(|place| output.fields().get(place)).map_or_else(|| format!("$key.{key}"), |f| f.name().clone())
    };
    let names: Vec<String> = (0..groups.len()).map(name).collect();
    super::aggregate::key_schema(groups, input, names.iter().map(String::as_str))
}
