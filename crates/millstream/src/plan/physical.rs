//! From the incremental logical plan to nodes that run, and the list of those that may.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::Schema;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::{DFSchema, Result, ScalarValue, internal_err};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_expr::window::{PlainAggregateWindowExpr, SlidingAggregateWindowExpr, WindowExpr};
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner, create_window_expr};

use super::final_answer::StreamFinal;
use super::grouping_sets::GroupingSets;
use super::join::{JoinTime, StreamJoin};
use super::nodes::{StreamAggregate, StreamScan};
use super::once::StreamOnce;
use super::over::{Answer, StreamOver, call, rank_kind};
use super::ranking::{StreamLimit, StreamRanking};
use super::session::StreamSession;
use super::set_op::StreamSetOp;
use super::upsert::StreamUpsert;
use crate::changelog;
use crate::exec::{
    self, Aggregate, AsOfJoin, DedupExec, FinalExec, GroupingSetsExec, Interval, Join, JoinExec, KeyedAggregate,
    KeyedAggregateExec, Lifetime, LimitExec, Lookup, LookupExec, Memory, OnceExec, Over, OverExec, OverFunction,
    Ranking, RankingExec, RetractAggregate, RetractAggregateExec, ScanExec, SessionExec, SessionTableExec, Sessions,
    SetOpExec, TableJoinExec, TopN, TopNExec, UpsertExec, VersionJoinExec, Versions, WindowAggregate,
    WindowAggregateExec, WindowJoinExec, WindowTableExec,
};
use crate::temporal::{AsOf, TemporalJoin};
use crate::window::{Dedup, SessionTable, WindowTable};

/// The nodes that are right when a plan is run once a batch. Everything else is refused.
const ALLOWED: [&str; 27] = [
    "FinalExec",
    "ScanExec",
    "SequentialExec",
    "WindowTableExec",
    "GroupingSetsExec",
    "KeyedAggregateExec",
    "RetractAggregateExec",
    "SessionExec",
    "SetOpExec",
    "WindowAggregateExec",
    "JoinExec",
    "WindowJoinExec",
    "TableJoinExec",
    "LookupExec",
    "VersionJoinExec",
    "OnceExec",
    "OverExec",
    "RankingExec",
    "TopNExec",
    "LimitExec",
    "UpsertExec",
    "DedupExec",
    "FilterExec",
    "ProjectionExec",
    "UnionExec",
    "UnnestExec",
    "PlaceholderRowExec",
];

/// Makes the physical plan, with one partition.
pub async fn plan(logical: &LogicalPlan, state: &SessionState) -> Result<Arc<dyn ExecutionPlan>> {
    let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(StreamPlanner)]);
    // DataFusion's physical rules repartition, add cooperative yields, push limits: none is for a stream.
    let config = state.config().clone().with_target_partitions(1);
    let state = SessionStateBuilder::new_from_existing(state.clone()).with_config(config);
    let state = state.with_physical_optimizer_rules(vec![]).build();
    let plan = planner.create_physical_plan(logical, &state).await?;
    let plan = exec::sequential(plan)?;
    allowed(&plan)?;
    Ok(plan)
}

fn allowed(plan: &Arc<dyn ExecutionPlan>) -> Result<()> {
    // An empty or constant relation is DataFusion's own leaf.
    if !ALLOWED.contains(&plan.name()) && !["EmptyExec", "DataSourceExec"].contains(&plan.name()) {
        return internal_err!("the plan holds {}, which is not known to be right on a stream", plan.name());
    }
    plan.children().into_iter().try_for_each(allowed)
}

/// Plans the nodes that DataFusion has no word for, in streaming and in batch.
pub struct StreamPlanner;

#[async_trait]
impl ExtensionPlanner for StreamPlanner {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        context: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        if let Some(scan) = node.as_any().downcast_ref::<StreamScan>() {
            let schema = Arc::clone(scan.schema.inner());
            return Ok(Some(Arc::new(ScanExec::new(scan.scan, schema))));
        }
        if let Some(join) = node.as_any().downcast_ref::<StreamJoin>() {
            let [left, right] = physical_inputs else { return internal_err!("a join has two inputs") };
            let exprs = Exprs { planner, session, context, schema: join.left.schema() };
            return exprs.join(join, Arc::clone(left), Arc::clone(right)).map(Some);
        }
        if let Some(join) = node.as_any().downcast_ref::<TemporalJoin>() {
            let [left, right] = physical_inputs else { return internal_err!("a join has two inputs") };
            let exprs = Exprs { planner, session, context, schema: join.left.schema() };
            return exprs.temporal(join, Arc::clone(left), Arc::clone(right)).map(Some);
        }
        let (Some(input), Some(logical)) = (physical_inputs.first(), logical_inputs.first()) else {
            return Ok(None);
        };
        if let Some(once) = node.as_any().downcast_ref::<StreamOnce>() {
            return Ok(Some(Arc::new(OnceExec::try_new(once.name.as_str(), Arc::clone(input))?)));
        }
        let exprs = Exprs { planner, session, context, schema: logical.schema() };
        if let Some(window) = node.as_any().downcast_ref::<WindowTable>() {
            let schema = Arc::clone(window.schema.inner());
            let exec = WindowTableExec::try_new(Arc::clone(input), window.time_index()?, window.spec, schema)?;
            return Ok(Some(Arc::new(exec)));
        }
        if let Some(over) = node.as_any().downcast_ref::<StreamOver>() {
            return exprs.over(over, Arc::clone(input)).map(Some);
        }
        if let Some(ranking) = node.as_any().downcast_ref::<StreamRanking>() {
            return exprs.ranking(ranking, Arc::clone(input)).map(Some);
        }
        if let Some(dedup) = node.as_any().downcast_ref::<Dedup>() {
            let (keys, time) = (dedup.key_indices()?, dedup.time_index()?);
            let exec = DedupExec::try_new(dedup.state.as_str(), Arc::clone(input), keys, time, dedup.horizon_us)?;
            return Ok(Some(Arc::new(exec)));
        }
        if let Some(upsert) = node.as_any().downcast_ref::<StreamUpsert>() {
            let (keys, output) = (upsert.keys.clone(), Arc::clone(upsert.schema.inner()));
            return Ok(Some(Arc::new(UpsertExec::try_new(
                memory(&upsert.name, upsert.lifetime, logical_inputs),
                Arc::clone(input),
                keys,
                output,
            )?)));
        }
        if let Some(last) = node.as_any().downcast_ref::<StreamFinal>() {
            let memory = memory(&last.name, last.lifetime, logical_inputs);
            return Ok(Some(Arc::new(FinalExec::try_new(memory, Arc::clone(input))?)));
        }
        if let Some(limit) = node.as_any().downcast_ref::<StreamLimit>() {
            let exec = LimitExec::try_new(limit.name.as_str(), Arc::clone(input), limit.skip, limit.fetch)?;
            return Ok(Some(Arc::new(exec)));
        }
        if let (Some(set_op), [left, right]) = (node.as_any().downcast_ref::<StreamSetOp>(), physical_inputs) {
            let rows = set_op.schema.fields().iter().take(set_op.schema.fields().len() - 1);
            let rows = Arc::new(Schema::new(rows.map(Arc::clone).collect::<Vec<_>>()));
            let inputs = [Arc::clone(left), Arc::clone(right)];
            let exec = SetOpExec::try_new(
                memory(&set_op.name, set_op.lifetime, logical_inputs),
                inputs,
                set_op.changelog,
                set_op.op,
                rows,
            )?;
            return Ok(Some(Arc::new(exec)));
        }
        if let Some(table) = node.as_any().downcast_ref::<SessionTable>() {
            let (time, keys, schema) = (table.time_index()?, table.key_indices()?, Arc::clone(table.schema.inner()));
            let exec = SessionTableExec::try_new(Arc::clone(input), time, keys, table.gap_us, schema)?;
            return Ok(Some(Arc::new(exec)));
        }
        if let Some(stream) = node.as_any().downcast_ref::<StreamSession>() {
            let (table, emit) = (&stream.table, stream.emit);
            let (time, keys, gap_us) = (table.time_index()?, table.key_indices()?, table.gap_us);
            let lag_us = stream.lag_us;
            let (sessions, rows) = (Sessions { time, keys, gap_us, lag_us, emit }, Arc::clone(table.schema.inner()));
            return Ok(Some(Arc::new(SessionExec::try_new(stream.name.as_str(), Arc::clone(input), sessions, rows)?)));
        }
        if let Some(sets) = node.as_any().downcast_ref::<GroupingSets>() {
            return exprs.grouping_sets(sets, Arc::clone(input)).map(Some);
        }
        let Some(aggregate) = node.as_any().downcast_ref::<StreamAggregate>() else { return Ok(None) };
        exprs.aggregate(aggregate, Arc::clone(input)).map(Some)
    }
}

/// PARTITION BY and ORDER BY.
type Sorted = (Vec<Arc<dyn PhysicalExpr>>, Vec<PhysicalSortExpr>);

#[derive(Clone, Copy)]
struct Exprs<'a> {
    planner: &'a dyn PhysicalPlanner,
    session: &'a dyn Session,
    context: &'a PhysicalPlanningContext,
    schema: &'a DFSchema,
}

impl Exprs<'_> {
    fn physical(&self, expr: &Expr) -> Result<Arc<dyn PhysicalExpr>> {
        self.planner.create_physical_expr(expr, self.schema, self.session, self.context)
    }

    fn join(
        &self,
        node: &StreamJoin,
        left: Arc<dyn ExecutionPlan>,
        right: Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let of_right = Exprs { schema: node.right.schema(), ..*self };
        let pair = node.pair_schema()?;
        let of_pair = Exprs { schema: &pair, ..*self };
        let on = node.on.iter().map(|(l, r)| Ok((self.physical(l)?, of_right.physical(r)?)));
        let mut join = Join {
            kind: node.kind,
            on: on.collect::<Result<_>>()?,
            filter: node.filter.as_ref().map(|f| of_pair.physical(f)).transpose()?,
            null_equals_null: node.null_equals_null,
            null_aware: node.null_aware,
            interval: None,
        };
        let (name, answer) = (node.name.as_str(), node.answer_schema());
        let memory = memory(name, node.lifetime, &[&node.left, &node.right]);
        match node.time {
            JoinTime::Unbounded => {}
            JoinTime::Interval { expiries, granule_us, .. } => {
                join.interval = Some(Interval { expiries, granule_us });
            }
            JoinTime::Windows { closes, .. } => {
                return Ok(Arc::new(WindowJoinExec::try_new(name, [left, right], join, closes, &answer)?));
            }
        }
        Ok(Arc::new(JoinExec::try_new(memory, [left, right], join, &answer)?))
    }

    fn temporal(
        &self,
        node: &TemporalJoin,
        left: Arc<dyn ExecutionPlan>,
        right: Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (on, filter) = node.keys()?;
        let of_right = Exprs { schema: node.right.schema(), ..*self };
        let pair = node.pair_schema()?;
        let of_pair = Exprs { schema: &pair, ..*self };
        let on = on.iter().map(|(l, r)| Ok((self.physical(l)?, of_right.physical(r)?)));
        let join = AsOfJoin {
            on: on.collect::<Result<_>>()?,
            filter: filter.map(|f| of_pair.physical(&f)).transpose()?,
            kind: node.kind,
            output: Arc::clone(node.schema.inner()),
            pair: Arc::clone(pair.inner()),
        };
        let name = node.state.as_str();
        match &node.as_of {
            AsOf::Now { by_key: None } => Ok(Arc::new(TableJoinExec::try_new(name, [left, right], join)?)),
            AsOf::Now { by_key: Some(by_key) } => {
                let key = by_key.key.iter().map(|k| self.physical(k)).collect::<Result<_>>()?;
                let (table, by) = (by_key.name.clone(), Arc::clone(&by_key.table));
                Ok(Arc::new(LookupExec::try_new(name, left, Lookup { table, by, key, rows: right }, join)?))
            }
            AsOf::EventTime { left: time, right: since, weighted, lag_us } => {
                let times = [self.column(time)?, of_right.column(since)?];
                let versions = Versions { times, weighted: *weighted, lag_us: *lag_us };
                Ok(Arc::new(VersionJoinExec::try_new(name, [left, right], join, versions)?))
            }
        }
    }

    /// A window function as DataFusion runs it; that it can run at all is found out here.
    fn window(&self, expr: &Expr) -> Result<Arc<dyn WindowExpr>> {
        let function = create_window_expr(expr, self.schema, self.session.execution_props(), self.context)?;
        function.create_window_fn()?;
        Ok(function)
    }

    /// PARTITION BY and ORDER BY of some window functions: all have the same.
    fn sorted(&self, functions: &[Expr]) -> Result<Sorted> {
        let Some(first) = functions.first() else { return internal_err!("there is no window function") };
        let first = self.window(first)?;
        Ok((first.partition_by().to_vec(), first.order_by().to_vec()))
    }

    fn over(&self, node: &StreamOver, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let (partition, order) = self.sorted(&node.functions)?;
        let mut functions = vec![];
        for (expr, answer) in node.functions.iter().zip(&node.answers) {
            functions.push(match answer {
                Answer::Rank(kind) => OverFunction::Rank(*kind),
                Answer::Framed => match (self.window(expr)?, self.filter(expr)?) {
                    (function, filter) if function.as_any().is::<SlidingAggregateWindowExpr>() => {
                        OverFunction::Sliding { function, filter }
                    }
                    (function, _) => OverFunction::Framed(function),
                },
                Answer::Running { peers } => {
                    let window = self.window(expr)?;
                    let Some(plain) = window.as_any().downcast_ref::<PlainAggregateWindowExpr>() else {
                        return internal_err!("an aggregate that runs from the first row on slides");
                    };
                    let function = Arc::new(plain.get_aggregate_expr().clone());
                    OverFunction::Running { function, filter: self.filter(expr)?, peers: *peers }
                }
            });
        }
        let Expr::Column(time) = &node.time else { return internal_err!("the time of a window function is a column") };
        let time = self.schema.index_of_column(time)?;
        let over = Over { partition, order, functions, time, after_us: node.after_us, keep: node.keep };
        let output = Arc::clone(node.schema.inner());
        Ok(Arc::new(OverExec::try_new(node.name.as_str(), input, over, output)?))
    }

    /// The FILTER clause of a window function.
    fn filter(&self, expr: &Expr) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        let filter = call(expr).and_then(|c| c.params.filter.as_ref());
        filter.map(|f| self.physical(f)).transpose()
    }

    fn ranking(&self, node: &StreamRanking, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let (partition, order) = self.sorted(&node.functions)?;
        let memory = memory(&node.name, node.lifetime, &[&node.input]);
        let output = Arc::clone(node.schema.inner());
        if let Some(head) = node.keeps_lists() {
            let top = TopN { partition, order, kind: head.kind, limit: head.limit };
            return Ok(Arc::new(TopNExec::try_new(memory, input, top, output)?));
        }
        let functions = node.functions.iter().map(|expr| match rank_kind(expr) {
            Some(kind) => Ok(OverFunction::Rank(kind)),
            None => self.window(expr).map(OverFunction::Framed),
        });
        let functions = functions.collect::<Result<_>>()?;
        let ranking = Ranking { partition, order, functions, head: node.head };
        Ok(Arc::new(RankingExec::try_new(memory, input, ranking, output)?))
    }

    fn column(&self, expr: &Expr) -> Result<usize> {
        let Expr::Column(column) = expr else { return internal_err!("{expr} is no column") };
        self.schema.index_of_column(column)
    }

    fn grouping_sets(&self, node: &GroupingSets, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let keys = node.keys.iter().map(|e| self.physical(&e.clone().unalias())).collect::<Result<Vec<_>>>()?;
        let number = |id: u64| ScalarValue::UInt64(Some(id)).cast_to(&node.id);
        let sets = node.sets.iter().map(|set| Ok((set.nulls.clone(), number(set.id)?))).collect::<Result<Vec<_>>>()?;
        let schema = Arc::clone(node.schema.inner());
        Ok(Arc::new(GroupingSetsExec::try_new(input, keys, sets, schema)?))
    }

    fn aggregate(&self, node: &StreamAggregate, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let keys = node.keys.iter().map(|e| self.physical(&e.clone().unalias())).collect::<Result<Vec<_>>>()?;
        let input_schema = input.schema();
        let mut aggregates = vec![];
        for expr in &node.aggregates {
            let props = self.session.execution_props();
            let lowered =
                LoweredAggregateBuilder::new(expr, self.schema, &input_schema, props, self.context).build()?;
            aggregates.push(Aggregate { function: lowered.aggregate, filter: lowered.filter });
        }
        let answer = node.answer_schema();
        let (name, memory) = (node.name.as_str(), memory(&node.name, node.lifetime, &[&node.input]));
        let standing = columns_of(&node.standing)?;
        let time = node.window.as_ref().map(|window| self.column(&window.time)).transpose()?;
        if let Some(weight) = &node.weight {
            let (weight, lag_us) = (self.column(weight)?, node.window.as_ref().map_or(0, |w| w.lag_us));
            let query = RetractAggregate { keys, weight, last: time, lag_us, standing, aggregates };
            return Ok(Arc::new(RetractAggregateExec::try_new(memory, input, query, &answer)?));
        }
        let (Some(window), Some(time)) = (&node.window, time) else {
            let query = KeyedAggregate { keys, standing, aggregates };
            return Ok(Arc::new(KeyedAggregateExec::try_new(memory, input, query, &answer)?));
        };
        let (spec, columns, emit) = (window.spec, window.columns.clone(), window.emit);
        let lag_us = window.lag_us;
        let spec = WindowAggregate { spec, time, keys, columns, aggregates, emit, lag_us };
        Ok(Arc::new(WindowAggregateExec::try_new(name, input, spec, &answer)?))
    }
}

/// What an operator's memory is called and how it is kept.
fn memory(name: &str, lifetime: Lifetime, inputs: &[&LogicalPlan]) -> Memory {
    let mut changelogs = vec![];
    inputs.iter().for_each(|input| keyless_changelogs(input, &mut changelogs));
    changelogs.dedup();
    Memory { name: name.into(), lifetime, changelogs: changelogs.into() }
}

/// The tables below a plan that say themselves which rows go: an upsert makes up for what they leave out.
fn keyless_changelogs(plan: &LogicalPlan, found: &mut Vec<String>) {
    if let LogicalPlan::Extension(node) = plan {
        match node.node.as_any() {
            node if node.is::<StreamUpsert>() => return,
            node => found.extend(
                node.downcast_ref::<StreamScan>()
                    .filter(|scan| changelog::is_weighted(scan.schema.as_arrow()))
                    .map(|scan| scan.table.clone()),
            ),
        }
    }
    plan.inputs().into_iter().for_each(|input| keyless_changelogs(input, found));
}

/// Rows of values as columns.
fn columns_of(rows: &[Vec<ScalarValue>]) -> Result<Vec<ArrayRef>> {
    let columns = rows.first().map_or(0, Vec::len);
    let column = |i: usize| ScalarValue::iter_to_array(rows.iter().filter_map(|row| row.get(i)).cloned());
    (0..columns).map(column).collect()
}
