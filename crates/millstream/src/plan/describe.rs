//! What a plan keeps between batches, and for how long, in a line for each operator.

use datafusion::common::JoinType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::compile::Compiled;
use super::final_answer::StreamFinal;
use super::join::{JoinTime, StreamJoin, join_keys, stream_join};
use super::lifetime::until;
use super::nodes::StreamAggregate;
use super::over::{self, StreamOver};
use super::ranking::{StreamLimit, StreamRanking};
use super::session::StreamSession;
use super::set_op::StreamSetOp;
use super::time_domain::TimeDomain;
use super::upsert::StreamUpsert;
use crate::changelog::is_weighted;
use crate::exec::{EmitMode as WindowEmit, Expiry, RankKind};
use crate::temporal::{AsOf, TemporalJoin};
use crate::window::{Dedup, Length};

/// A line for each operator that keeps state; one that says so where there is none.
pub fn describe_state(compiled: &Compiled) -> Vec<String> {
    let mut lines = vec![];
    let walked = compiled.logical.apply(|node| {
        if let LogicalPlan::Extension(node) = node {
            let node = node.node.as_any();
            lines.extend(node.downcast_ref().map(of_aggregate));
            lines.extend(node.downcast_ref().map(of_over));
            lines.extend(node.downcast_ref().map(of_ranking));
            lines.extend(node.downcast_ref().map(of_limit));
            lines.extend(node.downcast_ref().map(of_upsert));
            lines.extend(node.downcast_ref().map(of_dedup));
            lines.extend(node.downcast_ref().map(StreamSession::describe));
            lines.extend(node.downcast_ref().map(StreamSetOp::describe));
            lines.extend(node.downcast_ref().map(StreamFinal::describe));
            lines.extend(node.downcast_ref().map(of_temporal));
        }
        if let Some(join) = stream_join(node) {
            lines.push(of_join(join));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    if walked.is_err() || lines.is_empty() {
        lines.push("none".to_string());
    }
    match compiled.time_domain {
        TimeDomain::Event => lines,
        TimeDomain::Processing => lines.iter().map(|line| line.replace("the watermark", "the clock")).collect(),
    }
}

/// The incremental plan, a line a node, from the answer down: what each does, and what it hands on, rows that stay or
/// changes.
pub fn describe_nodes(compiled: &Compiled) -> Vec<String> {
    let mut lines = vec![];
    add_node(&compiled.logical, 0, &mut lines);
    lines
}

fn add_node(plan: &LogicalPlan, depth: usize, lines: &mut Vec<String>) {
    let hands_on = if is_weighted(plan.schema().as_arrow()) { "changelog" } else { "insert-only" };
    lines.push(format!("{:1$}{2} => {hands_on}", "", 2 * depth, plan.display()));
    plan.inputs().into_iter().for_each(|input| add_node(input, depth + 1, lines));
}

fn of_aggregate(node: &StreamAggregate) -> String {
    let keys: Vec<_> = node.keys.iter().map(ToString::to_string).collect();
    let keys = if keys.is_empty() { "one row".to_string() } else { format!("a row for each ({})", keys.join(", ")) };
    let values = match node.weight {
        Some(_) => ", with the values that DISTINCT, min, max and the like tell apart".to_string(),
        None => all_values(&node.aggregates),
    };
    match &node.window {
        Some(_) if node.weight.is_some() => {
            format!("{}: {keys}{values}, until the watermark passes its window; answered as it changes", node.name)
        }
        None if node.keys.is_empty() && (node.weight.is_some() || tells_values_apart(node)) => {
            format!(
                "{}: one row, with the values that it has to tell apart, for ever: it grows with their number; a window \
                 would bound it",
                node.name
            )
        }
        None if node.keys.is_empty() => format!("{}: one row, for ever", node.name),
        None => {
            let gone = if node.weight.is_some() { ", until its last row goes," } else { "," };
            let until = until(node.lifetime, 0, "it grows with the number of groups; a window");
            format!("{}: {keys}{values}{gone} {until}", node.name)
        }
        Some(window) => {
            let emit = match window.emit {
                WindowEmit::OnClose => "answered once, on close",
                WindowEmit::Changes => "answered as it changes",
            };
            format!(
                "{}: {keys}{values} in each pane of {}, until the watermark passes its last window; {emit}",
                node.name, window.spec
            )
        }
    }
}

/// The functions that keep every value they are given, if there are any.
fn all_values(aggregates: &[Expr]) -> String {
    const KEEP_ALL: [&str; 3] = ["array_agg", "median", "percentile_cont"];
    let name = |e: &Expr| match e.clone().unalias() {
        Expr::AggregateFunction(call) => Some(call.func.name().to_string()),
        _ => None,
    };
    let mut names: Vec<String> =
        aggregates.iter().filter_map(name).filter(|n| KEEP_ALL.contains(&n.as_str())).collect();
    names.sort_unstable();
    names.dedup();
    match names.is_empty() {
        true => String::new(),
        false => format!(", with every value of {}, written anew with each batch that brings one", names.join(", ")),
    }
}

/// Whether the values themselves are kept, which a DISTINCT and the collecting functions ask for.
fn tells_values_apart(node: &StreamAggregate) -> bool {
    const COLLECT: [&str; 5] = ["array_agg", "string_agg", "median", "percentile_cont", "nth_value"];
    let tells = |e: &Expr| match e.clone().unalias() {
        Expr::AggregateFunction(call) => call.params.distinct || COLLECT.contains(&call.func.name()),
        _ => false,
    };
    node.aggregates.iter().any(tells)
}

fn of_join(node: &StreamJoin) -> String {
    let kind = node.kind.to_string().to_lowercase();
    let on = match (node.on.is_empty(), &node.filter) {
        (false, _) => format!("on {}", join_keys(&node.on)),
        (true, Some(filter)) => format!("of every row with every row, on {filter}"),
        (true, None) => "of every row with every row".to_string(),
    };
    let kept = match node.time {
        JoinTime::Unbounded => of_unbounded(node),
        JoinTime::Windows { spec, .. } => {
            format!(
                "the rows of both sides in each window of {spec}, until the watermark passes its end; answered once, on close"
            )
        }
        JoinTime::Interval { expiries: [left, right], .. } => {
            let (left, right) = (moment(&node.left, left), moment(&node.right, right));
            format!("a left row until the watermark passes {left}, a right row until it passes {right}")
        }
    };
    format!("{}: {kind} join {on}: {kept}", node.name)
}

fn of_unbounded(node: &StreamJoin) -> String {
    let counted = node.filter.is_none();
    let kept = match node.kind {
        JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark if counted => {
            "the rows of the left side and, of the right side, how many there are of each key"
        }
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark if counted => {
            "the rows of the right side and, of the left side, how many there are of each key"
        }
        _ => "the rows of both sides",
    };
    let growth = match node.changelogs {
        [true, true] => "it follows the size of its inputs, which change; fewer rows of them, by WHERE",
        _ => {
            "it grows with its inputs; a bound in event time (b.ts BETWEEN a.ts AND a.ts + INTERVAL ..), or windows \
             on both sides joined on window_start and window_end"
        }
    };
    if node.on.is_empty() {
        return format!("{kept}, for ever: {growth}, would bound it");
    }
    match node.lifetime.idle_us {
        [left, right] if left == right => format!("{kept}, {}", until(node.lifetime, 0, growth)),
        _ => format!(
            "{kept}; a left row {}; a right row {}",
            until(node.lifetime, 0, growth),
            until(node.lifetime, 1, growth)
        ),
    }
}

/// When a row is done, in the words of the query.
fn moment(side: &LogicalPlan, expiry: Expiry) -> String {
    let schema = side.schema();
    let column = schema.columns().get(expiry.column).map(ToString::to_string).unwrap_or_default();
    match expiry.offset_us {
        0 => column,
        us if us < 0 => format!("{column} - {}", Length(-us)),
        us => format!("{column} + {}", Length(us)),
    }
}

fn of_over(node: &StreamOver) -> String {
    let name = &node.name;
    let Some(keep) = node.keep else {
        return format!(
            "{name}: the rows of open windows, until the watermark passes their end; answered once, on close"
        );
    };
    let keys = partition(node.functions.first());
    let mut kept = vec![];
    if keep.head > 0 {
        kept.push(format!("the first {}", rows(keep.head as u64)));
    }
    if keep.tail > 0 {
        kept.push(format!("the last {}", rows(keep.tail as u64)));
    }
    if let Some(us) = keep.tail_us.filter(|us| *us > 0) {
        kept.push(format!("the rows of the last {} ms", us / 1000));
    }
    if node.answers.iter().any(|a| !matches!(a, over::Answer::Framed)) {
        kept.push("the functions so far".to_string());
    }
    let waits =
        format!("{name}: the rows that the watermark has not passed; answered once, in the order of {}", node.time);
    let in_time = kept.len() == 1 && keep.tail_us.is_some_and(|us| us > 0);
    match (kept.is_empty(), in_time) {
        (true, _) => waits,
        (false, true) => format!("{waits}; {} for {keys}, until the watermark passes them", kept.join(", ")),
        (false, false) => {
            format!(
                "{waits}; {} for {keys}, for ever: it grows with the number of partitions; a frame in time (RANGE \
                 BETWEEN INTERVAL .. PRECEDING AND CURRENT ROW), or a window in PARTITION BY, would bound it",
                kept.join(", ")
            )
        }
    }
}

fn of_ranking(node: &StreamRanking) -> String {
    let (name, keys) = (&node.name, partition(node.functions.first()));
    let one_partition = node.window().is_none_or(|w| w.params.partition_by.is_empty());
    let ties = |kind: RankKind| if kind == RankKind::RowNumber { "" } else { " and those that tie" };
    match (node.keeps_best(), node.head) {
        (Some(head), _) => format!(
            "{name}: the best {}{} for {keys}, {}",
            rows(head.limit),
            ties(head.kind),
            match one_partition {
                true => "for ever".to_string(),
                false => until(node.lifetime, 0, "it grows with the number of partitions; a window in PARTITION BY"),
            }
        ),
        (None, Some(head)) => format!(
            "{name}: every row in order, as long as it is in the input, {}; a change looks at the first {}{} for {keys}",
            rows_of_ranking(node, one_partition, "it follows the size of the input; fewer rows of it, by WHERE"),
            rows(head.limit),
            ties(head.kind)
        ),
        (None, None) => format!(
            "{name}: every row in order, as long as it is in the input, {}; a change answers the whole partition anew, \
             for {keys}",
            rows_of_ranking(
                node,
                one_partition,
                "a filter on its rank, or an ORDER BY that begins with the event time"
            )
        ),
    }
}

fn rows_of_ranking(node: &StreamRanking, one_partition: bool, growth: &str) -> String {
    match one_partition {
        true => format!("for ever: {growth}, would bound it"),
        false => until(node.lifetime, 0, growth),
    }
}

fn of_upsert(node: &StreamUpsert) -> String {
    let keys = node.key_names().join(", ");
    format!(
        "{}: the last row of each ({keys}) of {}, until it is deleted, {}",
        node.name,
        node.table,
        until(node.lifetime, 0, "it follows the size of the table; rows that delete")
    )
}

fn of_limit(node: &StreamLimit) -> String {
    format!("{}: one number, how many rows came", node.name)
}

fn of_dedup(node: &Dedup) -> String {
    let keys = node.keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    format!(
        "{}: the rows that the watermark has not passed; the last time of each ({keys}), until the watermark is {} past it",
        node.state,
        Length(node.horizon_us)
    )
}

fn of_temporal(node: &TemporalJoin) -> String {
    let (name, kind) = (&node.state, node.kind.to_string().to_lowercase());
    let on = &node.condition;
    match &node.as_of {
        AsOf::Now { by_key: None } => format!(
            "{name}: {kind} join on {on}, with the table as it is when the batch runs: all its rows, read again when it has \
             changed; it follows the size of the table"
        ),
        AsOf::Now { by_key: Some(by_key) } => format!(
            "{name}: {kind} join on {on}, with what {} answers when the batch runs: nothing; the answers are recorded with \
             the batch",
            by_key.name
        ),
        AsOf::EventTime { left, .. } => format!(
            "{name}: {kind} join on {on}, as of {left}: the rows of both sides that the watermark has not passed; the last row \
             of each key, until it is deleted: it follows the size of the table"
        ),
    }
}

fn rows(n: u64) -> String {
    if n == 1 { "row".to_string() } else { format!("{n} rows") }
}

/// What a window function is partitioned by.
fn partition(function: Option<&Expr>) -> String {
    let keys = function.and_then(over::call).map(|c| c.params.partition_by.as_slice()).unwrap_or_default();
    if keys.is_empty() {
        return "all rows together".to_string();
    }
    format!("each ({})", keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}
