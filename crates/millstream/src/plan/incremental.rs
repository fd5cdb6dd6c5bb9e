//! The rewrite that makes a plan incremental: what each node's output is, from the leaves up.
//!
//! A stream's edge is insert-only (every row is a new row of the answer and carries no weight) or a changelog
//! (a last column, the weight, says how often the row is added or taken away). An aggregate over an unbounded
//! input becomes an aggregate whose groups live on (`aggregate.rs`); a projection over a changelog carries the weight along. What is not
//! handled here is refused: nothing is ever passed through because it was forgotten.

use std::sync::Arc;

use arrow::datatypes::FieldRef;
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::logical_expr::{
    Expr, Filter, Join, LogicalPlan, Projection, SubqueryAlias, TableScan, Union, Unnest, col, lit,
};

use super::compile::stream_table;
use super::final_answer::at_the_end;
use super::join;
use super::lifetime::Lifetimes;
use super::nodes::extension;
use super::once::StreamOnce;
use super::ranking::{self, Limits};
use super::refuse::Refusal;
use super::time_domain::TimeDomain;
use super::upsert;
use crate::changelog::WEIGHT;
use crate::set_op::CountedSetOp;
use crate::temporal::TemporalJoin;
use crate::window::{
    Dedup, EVENT_TIME_KEY, SessionTable, WindowKind, WindowPart, WindowSpec, WindowTable, is_event_time,
};

/// What a column of an edge is known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnFact {
    /// Nothing special.
    Plain,
    /// The event time of the row, as its source's edge has judged it.
    EventTime,
    /// The start, the end or the last instant of a window.
    Window {
        /// Which of the three.
        part: WindowPart,
        /// The windows it is of.
        spec: WindowSpec,
        /// Whether the window was assigned to source rows, not to the results of another window.
        of_rows: bool,
    },
}

/// A rewritten node and what is known of its output.
#[derive(Clone, Debug)]
pub struct Edge {
    /// The incremental plan.
    pub plan: LogicalPlan,
    /// Whether its last column is the weight.
    pub changelog: bool,
    /// The columns that are unique among the rows of the answer, where that is known.
    pub key: Option<Vec<usize>>,
    /// A fact for each column.
    pub facts: Vec<ColumnFact>,
    /// How far the event times of rows can be behind the frontier when they come, in microseconds; `None` where
    /// there is no bound.
    pub lag_us: Option<i64>,
}

/// How the query's results are to be emitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EmitMode {
    /// Windows on close, everything else as it changes.
    #[default]
    Default,
    /// `EMIT CHANGES`: windows too as they change.
    Changes,
    /// `EMIT ON WINDOW CLOSE`: only windows, when they close.
    OnWindowClose,
    /// `EMIT FINAL`: everything once, when the input ends.
    Final,
}

/// Where an expression stands that is computed over a changelog.
pub(super) const OVER_CHANGES: &str = "over a result that changes";

pub(super) type Rewritten = Result<Edge, Refusal>;

/// The incremental form of an optimized plan.
pub fn rewrite(plan: &LogicalPlan, emit: EmitMode, time: TimeDomain, lifetimes: Lifetimes) -> Rewritten {
    let rewrite = Rewrite { emit, time, limits: ranking::limits(plan)?, lifetimes };
    let edge = rewrite.node(plan)?;
    rewrite.lifetimes.check_hints()?;
    if emit == EmitMode::Final { Ok(at_the_end(edge, rewrite.lifetimes.of_any())?) } else { Ok(edge) }
}

/// What a rewrite knows before it starts.
pub(super) struct Rewrite {
    pub(super) emit: EmitMode,
    /// What moves the frontier.
    pub(super) time: TimeDomain,
    /// The ranks that are asked for.
    pub(super) limits: Limits,
    /// How long things are remembered.
    pub(super) lifetimes: Lifetimes,
}

impl Rewrite {
    /// The incremental form of a node and all below it.
    pub(super) fn node(&self, plan: &LogicalPlan) -> Rewritten {
        if let Some(refusal) = Refusal::of_expressions(plan) {
            return Err(refusal);
        }
        match plan {
            LogicalPlan::EmptyRelation(node) if !node.produce_one_row => Ok(self.insert_only(plan)),
            LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => {
                Ok(self.insert_only(&extension(StreamOnce::new(plan.clone()))))
            }
            LogicalPlan::TableScan(scan) if is_table_function(scan) => {
                Ok(self.insert_only(&extension(StreamOnce::new(plan.clone()))))
            }
            LogicalPlan::TableScan(scan) => match stream_table(scan)? {
                table if table.changes() => upsert::rewrite(scan, &table, self.lifetimes.of_any()),
                _ => Ok(self.insert_only(plan)),
            },
            LogicalPlan::Projection(node) => self.projection(node),
            LogicalPlan::Filter(node) => self.filter(node),
            LogicalPlan::SubqueryAlias(node) => self.alias(node),
            LogicalPlan::Union(node) => self.union(node),
            LogicalPlan::Unnest(node) => self.unnest(node),
            LogicalPlan::Aggregate(node) => self.aggregate(node),
            LogicalPlan::Window(node) => self.window(node),
            LogicalPlan::Limit(node) => self.limit(node),
            LogicalPlan::Extension(node) if node.node.as_any().is::<Dedup>() => self.dedup(node),
            LogicalPlan::Join(node) => self.whole_rows(node).unwrap_or_else(|| self.join(node)),
            LogicalPlan::Extension(node) => {
                let any = node.node.as_any();
                if let Some(window) = any.downcast_ref::<WindowTable>() {
                    self.window_table(window)
                } else if let Some(session) = any.downcast_ref::<SessionTable>() {
                    self.session(session)
                } else if let Some(join) = any.downcast_ref::<TemporalJoin>() {
                    self.temporal(join)
                } else if let Some(counted) = any.downcast_ref::<CountedSetOp>() {
                    self.counted_set_op(counted)
                } else {
                    Err(Refusal::bug(format!("unknown node {}", node.node.name())))
                }
            }
            other => Err(Refusal::of_node(other)),
        }
    }

    fn insert_only(&self, plan: &LogicalPlan) -> Edge {
        let timed = |f: &FieldRef| self.time == TimeDomain::Event && is_event_time(f);
        let fact = |f: &FieldRef| if timed(f) { ColumnFact::EventTime } else { ColumnFact::Plain };
        let facts = plan.schema().fields().iter().map(fact).collect();
        Edge { plan: plan.clone(), changelog: false, key: None, facts, lag_us: Some(0) }
    }

    fn projection(&self, node: &Projection) -> Rewritten {
        self.project(node, self.node(&node.input)?)
    }

    /// A projection of a rewritten input.
    pub(super) fn project(&self, node: &Projection, input: Edge) -> Rewritten {
        let mut exprs = node.expr.clone();
        let columns: Vec<Option<usize>> = exprs.iter().map(|e| source_column(e, input.plan.schema())).collect();
        let passed = |c: &Option<usize>| c.and_then(|c| input.facts.get(c).copied()).unwrap_or(ColumnFact::Plain);
        let declares = |e| self.time == TimeDomain::Event && declares_event_time(e);
        let fact = |(e, c)| if declares(e) { ColumnFact::EventTime } else { passed(c) };
        let mut facts: Vec<_> = exprs.iter().zip(&columns).map(fact).collect();
        let key = input.key.as_ref().and_then(|key| {
            key.iter().map(|k| columns.iter().position(|c| *c == Some(*k))).collect::<Option<Vec<_>>>()
        });
        if input.changelog {
            Refusal::check_clock(&exprs, OVER_CHANGES)?;
            exprs.push(weight_of(&input.plan));
            facts.push(ColumnFact::Plain);
        }
        let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input.plan))?);
        Ok(Edge { plan, changelog: input.changelog, key, facts, lag_us: input.lag_us })
    }

    fn join(&self, node: &Join) -> Rewritten {
        join::rewrite(node, self.node(&node.left)?, self.node(&node.right)?, &self.lifetimes)
    }

    fn filter(&self, node: &Filter) -> Rewritten {
        let input = self.node(&node.input)?;
        if input.changelog {
            Refusal::check_clock([&node.predicate], OVER_CHANGES)?;
        }
        let plan = LogicalPlan::Filter(Filter::try_new(node.predicate.clone(), Arc::new(input.plan))?);
        Ok(Edge { plan, ..input })
    }

    fn alias(&self, node: &SubqueryAlias) -> Rewritten {
        let input = self.node(&node.input)?;
        let plan = LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(Arc::new(input.plan), node.alias.clone())?);
        Ok(Edge { plan, ..input })
    }

    fn union(&self, node: &Union) -> Rewritten {
        let inputs = node.inputs.iter().map(|i| self.node(i)).collect::<Result<Vec<_>, _>>()?;
        let changelog = inputs.iter().any(|i| i.changelog);
        let columns = node.schema.fields().len();
        let lag_us = inputs.iter().map(|i| i.lag_us).try_fold(0, |lag, input| Some(lag.max(input?)));
        let inputs = inputs.into_iter().map(|input| {
            let plan = if changelog && !input.changelog { with_weight_one(input.plan)? } else { input.plan };
            Ok((Arc::new(plan), input.facts))
        });
        let inputs = inputs.collect::<Result<Vec<_>, Refusal>>()?;
        let fact_at = |c: usize| {
            let mut facts = inputs.iter().map(|(_, facts)| facts.get(c).copied().unwrap_or(ColumnFact::Plain));
            let first = facts.next().unwrap_or(ColumnFact::Plain);
            if facts.all(|f| f == first) { first } else { ColumnFact::Plain }
        };
        let mut facts: Vec<_> = (0..columns).map(fact_at).collect();
        if changelog {
            facts.push(ColumnFact::Plain);
        }
        let union = Union::try_new(inputs.iter().map(|(plan, _)| Arc::clone(plan)).collect())?;
        Ok(Edge { plan: LogicalPlan::Union(union), changelog, key: None, facts, lag_us })
    }

    fn unnest(&self, node: &Unnest) -> Rewritten {
        let input = self.node(&node.input)?;
        // The weight is a column like any other that is not unnested: each row of the list carries it along.
        let unnest = Unnest::try_new(Arc::new(input.plan), node.exec_columns.clone(), node.options.clone())?;
        let facts = unnest.dependency_indices.iter().map(|i| input.facts.get(*i).copied());
        let facts = facts.map(|f| f.unwrap_or(ColumnFact::Plain)).collect();
        Ok(Edge {
            plan: LogicalPlan::Unnest(unnest),
            changelog: input.changelog,
            key: None,
            facts,
            lag_us: input.lag_us,
        })
    }

    fn window_table(&self, node: &WindowTable) -> Rewritten {
        let input = self.node(&node.input)?;
        if input.changelog {
            return Err(Refusal::new(
                window_word(node.spec),
                "a window over a result that changes has no end: a row of a closed window could still be taken back",
                "put the window on the rows themselves, or aggregate per window first",
            ));
        }
        if input.lag_us.is_none() {
            return Err(Refusal::new(
                window_word(node.spec),
                "a window over a join that keeps its rows for ever never knows when it has them all",
                "bound the join in event time (b.ts BETWEEN a.ts AND a.ts + INTERVAL ..), or put both sides into \
                 windows and join on window_start and window_end",
            ));
        }
        let time = node.time_index()?;
        let of_rows = !matches!(input.facts.get(time), Some(ColumnFact::Window { .. }));
        let spec = node.spec;
        let parts = [WindowPart::Start, WindowPart::End, WindowPart::Time];
        let mut facts = input.facts.clone();
        facts.extend(parts.map(|part| ColumnFact::Window { part, spec, of_rows }));
        let plan = extension(WindowTable::try_new(input.plan, node.time.clone(), spec)?);
        Ok(Edge { plan, changelog: false, key: None, facts, lag_us: input.lag_us })
    }
}

/// Whether the rows are those of a table function that is no stream: they come once.
fn is_table_function(scan: &TableScan) -> bool {
    scan.table_name.table().ends_with("()") && stream_table(scan).is_err()
}

/// Whether the expression is a computed event time, as a table declares it.
fn declares_event_time(expr: &Expr) -> bool {
    let Expr::Alias(alias) = expr else { return false };
    alias.metadata.as_ref().is_some_and(|m| m.inner().contains_key(EVENT_TIME_KEY))
}

/// The input column that an expression passes on unchanged.
pub fn source_column(expr: &Expr, schema: &DFSchema) -> Option<usize> {
    match expr {
        Expr::Column(column) => schema.index_of_column(column).ok(),
        Expr::Alias(alias) => source_column(&alias.expr, schema),
        _ => None,
    }
}

/// The weight column of a changelog, as its last column is called there.
pub(super) fn weight_of(plan: &LogicalPlan) -> Expr {
    let schema = plan.schema();
    let last = schema.fields().len().saturating_sub(1);
    Expr::Column(Column::from(schema.qualified_field(last)))
}

fn with_weight_one(plan: LogicalPlan) -> Result<LogicalPlan, Refusal> {
    let mut exprs: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
    exprs.push(lit(ScalarValue::Int64(Some(1))).alias(WEIGHT));
    Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan))?))
}

fn window_word(spec: WindowSpec) -> &'static str {
    match spec.kind {
        WindowKind::Tumble { .. } => "TUMBLE",
        WindowKind::Hop { .. } => "HOP",
        WindowKind::Cumulate { .. } => "CUMULATE",
        WindowKind::Session { .. } => "SESSION",
    }
}

/// A column by its bare name, whatever its case.
pub fn bare(name: &str) -> Expr {
    col(Column::new_unqualified(name))
}
