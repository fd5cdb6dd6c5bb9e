//! GROUP BY, made incremental: over rows or over a changelog, per window or not, by one set of keys or by several.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::utils::grouping_set_to_exprlist;
use datafusion::logical_expr::{Aggregate, Expr, GroupingSet, LogicalPlan};

use super::grouping_sets::{GROUPING_ID, GroupingSets, Mask};
use super::incremental::{ColumnFact, Edge, EmitMode, OVER_CHANGES, Rewrite, Rewritten, bare, weight_of};
use super::lifetime::named;
use super::nodes::{StreamAggregate, WindowGroup, extension};
use super::refuse::Refusal;
use super::window_group::{self, Windows};
use crate::changelog::WEIGHT;
use crate::exec::{EmitMode as WindowEmit, GroupColumn, Lifetime};

/// The groups of an aggregate, as they are asked for.
struct Groups {
    /// The group expressions, each once.
    exprs: Vec<Expr>,
    /// What they are of the input: a window column that is masked nowhere, or something else.
    windows: Windows,
    /// The sets of expressions that are grouped by, where there are several.
    sets: Option<Vec<Mask>>,
}

impl Groups {
    fn of(node: &Aggregate, input: &Edge) -> Result<Self, Refusal> {
        let exprs: Vec<Expr> = grouping_set_to_exprlist(&node.group_expr)?.into_iter().cloned().collect();
        let sets = match node.group_expr.as_slice() {
            [Expr::GroupingSet(set)] => Some(masks(set, &exprs)),
            _ => None,
        };
        let (mut windows, _) = window_group::split(&exprs, input);
        for (i, window) in windows.iter_mut().enumerate() {
            if sets.iter().flatten().any(|mask| mask.nulls.get(i).copied().unwrap_or(true)) {
                *window = None;
            }
        }
        Ok(Self { exprs, windows, sets })
    }

    /// The expressions that are no window columns.
    fn keys(&self) -> Vec<Expr> {
        self.exprs.iter().zip(&self.windows).filter(|(_, w)| w.is_none()).map(|(e, _)| e.clone()).collect()
    }

    /// The sets, over the expressions that are no window columns.
    fn sets_of_keys(&self) -> Option<Vec<Mask>> {
        let of_keys = |mask: &Mask| Mask {
            nulls: mask.nulls.iter().zip(&self.windows).filter(|(_, w)| w.is_none()).map(|(n, _)| *n).collect(),
            id: mask.id,
        };
        self.sets.as_ref().map(|sets| sets.iter().map(of_keys).collect())
    }
}

/// Which expressions each set leaves out, with the number that DataFusion gives it.
fn masks(set: &GroupingSet, exprs: &[Expr]) -> Vec<Mask> {
    let sets: Vec<Vec<bool>> = match set {
        GroupingSet::GroupingSets(sets) => {
            sets.iter().map(|set| exprs.iter().map(|e| !set.contains(e)).collect()).collect()
        }
        GroupingSet::Rollup(_) => (0..=exprs.len()).map(|n| (0..exprs.len()).map(|i| i >= n).collect()).collect(),
        GroupingSet::Cube(_) => {
            (0..1u64 << exprs.len()).map(|bits| (0..exprs.len()).map(|i| bits >> i & 1 == 0).collect()).collect()
        }
    };
    let number = |(place, nulls): (usize, &Vec<bool>)| {
        let ordinal = sets.iter().take(place).filter(|earlier| *earlier == nulls).count() as u64;
        let bits = nulls.iter().fold(0u64, |bits, null| bits << 1 | u64::from(*null));
        Mask { nulls: nulls.clone(), id: bits | ordinal << nulls.len() }
    };
    sets.iter().enumerate().map(number).collect()
}

impl Rewrite {
    /// GROUP BY.
    pub(super) fn aggregate(&self, node: &Aggregate) -> Rewritten {
        let input = self.node(&node.input)?;
        if input.changelog {
            Refusal::check_clock(node.group_expr.iter().chain(&node.aggr_expr), OVER_CHANGES)?;
        }
        let groups = Groups::of(node, &input)?;
        if groups.exprs.len() > 32 && groups.sets.is_some() {
            return Err(Refusal::new(
                "GROUP BY",
                "grouping sets over more than 32 expressions are not supported",
                "group by fewer expressions",
            ));
        }
        // Where rows can come back at any time, no group of a changelog is ever done.
        let endless = input.changelog && input.lag_us.is_none();
        if endless || !window_group::determines_window(&groups.windows) {
            return self.keyed(node, input, groups);
        }
        let lag_us = input.lag_us.unwrap_or(0);
        let changes = input.changelog || self.emit == EmitMode::Changes;
        let emit = if changes { WindowEmit::Changes } else { WindowEmit::OnClose };
        let fused = match input.changelog {
            true => None,
            false => window_group::fuse(&groups.windows, &groups.keys(), node, &input, emit)?,
        };
        let (plan, mut window, keys, sets) = match fused {
            Some((plan, window, keys)) => (plan, window, keys, groups.sets_of_keys()),
            None => match window_group::by_columns(&groups.windows, &groups.exprs, &input, emit)? {
                Some((plan, window, keys)) => (plan, window, keys, groups.sets.clone()),
                None => return self.keyed(node, input, groups),
            },
        };
        window.lag_us = lag_us;
        let mut facts: Vec<_> = if window.columns.iter().any(|c| !matches!(c, GroupColumn::Key(_))) {
            window.columns.iter().map(|c| window_group::fact_of(*c, &groups.windows)).collect()
        } else {
            window_group::facts_of_keys(&groups.windows)
        };
        facts.resize(node.schema.fields().len(), ColumnFact::Plain);
        let weight = input.changelog.then(|| weight_of(&input.plan));
        let Some(sets) = sets else {
            return self
                .stream_aggregate(node, Parts { plan, keys, weight, window: Some(window), facts, standing: vec![] });
        };
        window.columns.push(GroupColumn::Key(keys.len()));
        let (plan, keys) = by_sets(node, plan, keys, sets)?;
        self.stream_aggregate(node, Parts { plan, keys, weight, window: Some(window), facts, standing: vec![] })
    }

    fn keyed(&self, node: &Aggregate, input: Edge, groups: Groups) -> Rewritten {
        if self.emit == EmitMode::OnWindowClose {
            return Err(Refusal::new(
                "GROUP BY",
                "EMIT ON WINDOW CLOSE, but the groups have no window that could close",
                "group by window_start and window_end of TUMBLE, HOP or CUMULATE, or leave the EMIT out",
            ));
        }
        let facts = vec![ColumnFact::Plain; node.schema.fields().len()];
        let weight = input.changelog.then(|| weight_of(&input.plan));
        let Some(sets) = groups.sets else {
            let parts = Parts { plan: input.plan, keys: groups.exprs, weight, window: None, facts, standing: vec![] };
            return self.stream_aggregate(node, parts);
        };
        let standing = standing(node, &groups.exprs, &sets)?;
        let (plan, keys) = by_sets(node, input.plan, groups.exprs, sets)?;
        self.stream_aggregate(node, Parts { plan, keys, weight, window: None, facts, standing })
    }

    fn stream_aggregate(&self, node: &Aggregate, parts: Parts) -> Rewritten {
        let Parts { plan: input, keys, weight, window, mut facts, standing } = parts;
        let mut fields: Vec<_> = node.schema.iter().map(|(q, f)| (q.cloned(), Arc::clone(f))).collect();
        let changelog = window.as_ref().is_none_or(|w| w.emit == WindowEmit::Changes);
        if changelog {
            fields.push((None, Arc::new(Field::new(WEIGHT, DataType::Int64, false))));
            facts.push(ColumnFact::Plain);
        }
        let schema = Arc::new(DFSchema::new_with_metadata(fields, node.schema.metadata().clone())?);
        let lifetime = match window {
            None => self.lifetimes.of_aggregate(&node_input(&input)),
            Some(_) => Lifetime { idle_us: [None; 2], ..self.lifetimes.of_any() },
        };
        let name = named(state_name(&input, &keys, &node.aggr_expr, &weight, window.as_ref()), lifetime);
        let aggregates = node.aggr_expr.clone();
        let key = Some((0..node.schema.fields().len() - aggregates.len()).collect());
        let lag_us = window.as_ref().map(|w| w.lag_us);
        let plan =
            extension(StreamAggregate { input, keys, aggregates, weight, window, standing, lifetime, schema, name });
        Ok(Edge { plan, changelog, key, facts, lag_us })
    }
}

/// The rows that an aggregate is over, below what makes a row of each grouping set.
fn node_input(input: &LogicalPlan) -> LogicalPlan {
    match input {
        LogicalPlan::Extension(node) if node.node.as_any().is::<GroupingSets>() => {
            node.node.inputs().first().map_or_else(|| input.clone(), |below| (*below).clone())
        }
        _ => input.clone(),
    }
}

/// What an incremental aggregate is made of.
struct Parts {
    plan: LogicalPlan,
    keys: Vec<Expr>,
    weight: Option<Expr>,
    window: Option<WindowGroup>,
    facts: Vec<ColumnFact>,
    standing: Vec<Vec<ScalarValue>>,
}

/// The input, each row once for every set of keys, and the keys that are then grouped by.
fn by_sets(
    node: &Aggregate,
    input: LogicalPlan,
    keys: Vec<Expr>,
    sets: Vec<Mask>,
) -> Result<(LogicalPlan, Vec<Expr>), Refusal> {
    let id = grouping_id(node)?;
    let mut by: Vec<Expr> = (0..keys.len()).map(|i| bare(&GroupingSets::key_name(i))).collect();
    by.push(bare(GROUPING_ID));
    Ok((extension(GroupingSets::try_new(input, keys, sets, id)?), by))
}

/// The type of the number that tells the sets apart.
fn grouping_id(node: &Aggregate) -> Result<DataType, Refusal> {
    let field = node.schema.field_with_unqualified_name(Aggregate::INTERNAL_GROUPING_ID)?;
    Ok(field.data_type().clone())
}

/// The groups of the empty sets: they are there without a row.
fn standing(node: &Aggregate, exprs: &[Expr], sets: &[Mask]) -> Result<Vec<Vec<ScalarValue>>, Refusal> {
    let id = grouping_id(node)?;
    let mut standing = vec![];
    for set in sets.iter().filter(|set| set.nulls.iter().all(|null| *null)) {
        let mut row = vec![];
        for field in node.schema.fields().iter().take(exprs.len()) {
            row.push(ScalarValue::try_new_null(field.data_type())?);
        }
        row.push(ScalarValue::UInt64(Some(set.id)).cast_to(&id)?);
        standing.push(row);
    }
    Ok(standing)
}

/// What the state of an aggregate is called: its kind, and a hash over its keys, functions, window and lineage.
fn state_name(
    input: &LogicalPlan,
    keys: &[Expr],
    aggregates: &[Expr],
    weight: &Option<Expr>,
    window: Option<&WindowGroup>,
) -> String {
    let list = |exprs: &[Expr]| exprs.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let kind = match (weight, window) {
        (Some(_), _) => "retract",
        (None, Some(_)) => "window",
        (None, None) => "aggregate",
    };
    let window = window.map(|w| format!("{} {:?} {:?}", w.spec, w.columns, w.emit)).unwrap_or_default();
    let text = format!("{}|{}|{window}|{}", list(keys), list(aggregates), input.display_indent());
    format!("{kind}-{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
}
