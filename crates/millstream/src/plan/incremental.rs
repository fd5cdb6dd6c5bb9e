//! The rewrite that makes a plan incremental: what each node's output is, from the leaves up.
//!
//! A stream's edge is insert-only (every row is a new row of the answer and carries no weight) or a changelog
//! (a last column, the weight, says how often the row is added or taken away). An aggregate over an unbounded
//! input becomes a [`StreamAggregate`]; a projection over a changelog carries the weight along. What is not
//! handled here is refused: nothing is ever passed through because it was forgotten.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::logical_expr::{
    Aggregate, Expr, Filter, LogicalPlan, Projection, SubqueryAlias, Union, Unnest, col, lit,
};

use super::nodes::{StreamAggregate, WindowGroup, extension};
use super::refuse::Refusal;
use super::window_group;
use crate::changelog::WEIGHT;
use crate::exec::{EmitMode as WindowEmit, GroupColumn};
use crate::window::{WindowKind, WindowPart, WindowSpec, WindowTable};

/// What a column of an edge is known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnFact {
    /// Nothing special.
    Plain,
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

type Rewritten = Result<Edge, Refusal>;

/// The incremental form of an optimized plan.
pub fn rewrite(plan: &LogicalPlan, emit: EmitMode) -> Rewritten {
    if emit == EmitMode::Final {
        return Err(Refusal::new(
            "FINAL",
            "EMIT FINAL is not supported yet",
            "leave it out: windows are answered once, and the last change of a changelog is the final answer",
        ));
    }
    Rewrite { emit }.node(plan)
}

struct Rewrite {
    emit: EmitMode,
}

impl Rewrite {
    fn node(&self, plan: &LogicalPlan) -> Rewritten {
        if let Some(refusal) = Refusal::of_expressions(plan) {
            return Err(refusal);
        }
        match plan {
            LogicalPlan::TableScan(_) | LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => Ok(insert_only(plan)),
            LogicalPlan::Projection(node) => self.projection(node),
            LogicalPlan::Filter(node) => self.filter(node),
            LogicalPlan::SubqueryAlias(node) => self.alias(node),
            LogicalPlan::Union(node) => self.union(node),
            LogicalPlan::Unnest(node) => self.unnest(node),
            LogicalPlan::Aggregate(node) => self.aggregate(node),
            LogicalPlan::Extension(node) => match node.node.as_any().downcast_ref::<WindowTable>() {
                Some(window) => self.window_table(window),
                None => Err(Refusal::bug(format!("unknown node {}", node.node.name()))),
            },
            other => Err(Refusal::of_node(other)),
        }
    }

    fn projection(&self, node: &Projection) -> Rewritten {
        let input = self.node(&node.input)?;
        let mut exprs = node.expr.clone();
        let columns: Vec<Option<usize>> = exprs.iter().map(|e| source_column(e, input.plan.schema())).collect();
        let mut facts: Vec<_> =
            columns.iter().map(|c| c.and_then(|c| input.facts.get(c).copied()).unwrap_or(ColumnFact::Plain)).collect();
        let key = input.key.as_ref().and_then(|key| {
            key.iter().map(|k| columns.iter().position(|c| *c == Some(*k))).collect::<Option<Vec<_>>>()
        });
        if input.changelog {
            exprs.push(weight_of(&input.plan));
            facts.push(ColumnFact::Plain);
        }
        let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input.plan))?);
        Ok(Edge { plan, changelog: input.changelog, key, facts })
    }

    fn filter(&self, node: &Filter) -> Rewritten {
        let input = self.node(&node.input)?;
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
        Ok(Edge { plan: LogicalPlan::Union(union), changelog, key: None, facts })
    }

    fn unnest(&self, node: &Unnest) -> Rewritten {
        let input = self.node(&node.input)?;
        if input.changelog {
            return Err(Refusal::new(
                "UNNEST",
                "UNNEST over a result that changes is not supported yet",
                "unnest the rows first and aggregate what comes out",
            ));
        }
        let unnest = Unnest::try_new(Arc::new(input.plan), node.exec_columns.clone(), node.options.clone())?;
        let facts = node.dependency_indices.iter().map(|i| input.facts.get(*i).copied());
        let facts = facts.map(|f| f.unwrap_or(ColumnFact::Plain)).collect();
        Ok(Edge { plan: LogicalPlan::Unnest(unnest), changelog: false, key: None, facts })
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
        let time = node.time_index()?;
        let of_rows = !matches!(input.facts.get(time), Some(ColumnFact::Window { .. }));
        let spec = node.spec;
        let parts = [WindowPart::Start, WindowPart::End, WindowPart::Time];
        let mut facts = input.facts.clone();
        facts.extend(parts.map(|part| ColumnFact::Window { part, spec, of_rows }));
        let plan = extension(WindowTable::try_new(input.plan, node.time.clone(), spec)?);
        Ok(Edge { plan, changelog: false, key: None, facts })
    }

    fn aggregate(&self, node: &Aggregate) -> Rewritten {
        let input = self.node(&node.input)?;
        if input.changelog {
            return Err(Refusal::new(
                "GROUP BY",
                "an aggregate over a result that changes is not supported yet",
                "aggregate the rows themselves, or aggregate per window (TUMBLE, HOP, CUMULATE) first: windows emit once",
            ));
        }
        if node.group_expr.iter().any(|e| matches!(e, Expr::GroupingSet(_))) {
            return Err(Refusal::new(
                "GROUP BY",
                "GROUPING SETS, CUBE and ROLLUP are not supported yet",
                "write one INSERT for each grouping",
            ));
        }
        let (windows, keys) = window_group::split(&node.group_expr, &input);
        let has_window = window_group::determines_window(&windows);
        if !has_window {
            return self.keyed(node, input);
        }
        let emit = if self.emit == EmitMode::Changes { WindowEmit::Changes } else { WindowEmit::OnClose };
        let (plan, group, keys) = match window_group::fuse(&windows, &keys, node, &input, emit)? {
            Some(fused) => fused,
            None => window_group::by_columns(&windows, node, &input, emit)?,
        };
        let fact = |c: &GroupColumn| window_group::fact_of(*c, &windows);
        let mut facts: Vec<_> = if group.columns.iter().any(|c| !matches!(c, GroupColumn::Key(_))) {
            group.columns.iter().map(fact).collect()
        } else {
            window_group::facts_of_keys(&node.group_expr, &input)
        };
        facts.resize(node.schema.fields().len(), ColumnFact::Plain);
        self.stream_aggregate(node, plan, keys, Some(group), facts)
    }

    fn keyed(&self, node: &Aggregate, input: Edge) -> Rewritten {
        if self.emit == EmitMode::OnWindowClose {
            return Err(Refusal::new(
                "GROUP BY",
                "EMIT ON WINDOW CLOSE, but the groups have no window that could close",
                "group by window_start and window_end of TUMBLE, HOP or CUMULATE, or leave the EMIT out",
            ));
        }
        let facts = vec![ColumnFact::Plain; node.schema.fields().len()];
        self.stream_aggregate(node, input.plan, node.group_expr.clone(), None, facts)
    }

    fn stream_aggregate(
        &self,
        node: &Aggregate,
        input: LogicalPlan,
        keys: Vec<Expr>,
        window: Option<WindowGroup>,
        mut facts: Vec<ColumnFact>,
    ) -> Rewritten {
        let mut fields: Vec<_> = node.schema.iter().map(|(q, f)| (q.cloned(), Arc::clone(f))).collect();
        let changelog = window.as_ref().is_none_or(|w| w.emit == WindowEmit::Changes);
        if changelog {
            fields.push((None, Arc::new(Field::new(WEIGHT, DataType::Int64, false))));
            facts.push(ColumnFact::Plain);
        }
        let schema = Arc::new(DFSchema::new_with_metadata(fields, node.schema.metadata().clone())?);
        let name = state_name(&input, &keys, &node.aggr_expr, window.as_ref());
        let aggregates = node.aggr_expr.clone();
        let key = Some((0..node.group_expr.len()).collect());
        let plan = extension(StreamAggregate { input, keys, aggregates, window, schema, name });
        Ok(Edge { plan, changelog, key, facts })
    }
}

fn insert_only(plan: &LogicalPlan) -> Edge {
    let facts = vec![ColumnFact::Plain; plan.schema().fields().len()];
    Edge { plan: plan.clone(), changelog: false, key: None, facts }
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
fn weight_of(plan: &LogicalPlan) -> Expr {
    let schema = plan.schema();
    let last = schema.fields().len().saturating_sub(1);
    Expr::Column(Column::from(schema.qualified_field(last)))
}

fn with_weight_one(plan: LogicalPlan) -> Result<LogicalPlan, Refusal> {
    let mut exprs: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
    exprs.push(lit(ScalarValue::Int64(Some(1))).alias(WEIGHT));
    Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan))?))
}

/// What the state of an aggregate is called: its kind, and a hash over its keys, functions, window and lineage.
fn state_name(input: &LogicalPlan, keys: &[Expr], aggregates: &[Expr], window: Option<&WindowGroup>) -> String {
    let list = |exprs: &[Expr]| exprs.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let kind = if window.is_some() { "window" } else { "aggregate" };
    let window = window.map(|w| format!("{} {:?} {:?}", w.spec, w.columns, w.emit)).unwrap_or_default();
    let text = format!("{}|{}|{window}|{}", list(keys), list(aggregates), input.display_indent());
    format!("{kind}-{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
}

fn window_word(spec: WindowSpec) -> &'static str {
    match spec.kind {
        WindowKind::Tumble { .. } => "TUMBLE",
        WindowKind::Hop { .. } => "HOP",
        WindowKind::Cumulate { .. } => "CUMULATE",
    }
}

/// A column by its bare name, whatever its case.
pub fn bare(name: &str) -> Expr {
    col(Column::new_unqualified(name))
}
