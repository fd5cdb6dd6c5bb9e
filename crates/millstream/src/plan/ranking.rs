//! Rankings: top-N, ORDER BY with LIMIT, DISTINCT ON, and every window function that can't be answered once.
//!
//! They are maintained: what comes out is a changelog. Where only the first ranks are asked for (a filter on
//! ROW_NUMBER, RANK or DENSE_RANK, or a LIMIT), only they are answered.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DFSchemaRef, Result, ScalarValue, internal_err};
use datafusion::functions_window::row_number::row_number_udwf;
use datafusion::logical_expr::expr::{Sort, WindowFunction};
use datafusion::logical_expr::{
    Distinct, DistinctOn, Expr, FetchType, Filter, Limit, LogicalPlan, Operator, Projection, SkipType,
    UserDefinedLogicalNodeCore, Window, col, lit,
};

use super::clock;
use super::incremental::{ColumnFact, Edge, EmitMode, Rewrite, Rewritten, source_column};
use super::lifetime::named;
use super::nodes::extension;
use super::over::{self, call, check_one_window, fingerprint, rank_kind};
use super::refuse::Refusal;
use crate::changelog::WEIGHT;
use crate::exec::{Head, Lifetime, RankKind};

/// The column of a rank that the query does not name.
const RANK: &str = "$rank";

/// Window functions over rows that may go again, or that no order of time helps: a changelog.
///
/// The output is the input's columns without a weight, one for each function, and the weight.
#[derive(Clone, Debug)]
pub struct StreamRanking {
    /// The rows.
    pub input: LogicalPlan,
    /// Whether the input has a weight.
    pub changelog: bool,
    /// The functions, all with one PARTITION BY and one ORDER BY.
    pub functions: Vec<Expr>,
    /// The ranks that are asked for, where the others need not be known.
    pub head: Option<Head>,
    /// Whether no two rows of a partition tie.
    pub total: bool,
    /// How long a partition is remembered.
    pub lifetime: Lifetime,
    /// The columns of the output.
    pub schema: DFSchemaRef,
    /// What the state is called.
    pub name: String,
}

/// The first rows of an insert-only input.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StreamLimit {
    /// The rows.
    pub input: LogicalPlan,
    /// How many are left out first.
    pub skip: u64,
    /// How many are passed on then.
    pub fetch: u64,
    /// What the state is called.
    pub name: String,
}

/// The last rank of each window expression that a filter above lets through, by node.
pub type Limits = HashMap<*const Window, Vec<(usize, u64)>>;

/// Finds the filters on ranks.
pub fn limits(plan: &LogicalPlan) -> Result<Limits> {
    let mut limits = Limits::new();
    plan.apply(|node| {
        if let LogicalPlan::Filter(filter) = node {
            for (column, limit) in bounds(&filter.predicate) {
                let at = filter.input.schema().index_of_column(column).ok();
                if let Some((window, function)) = at.and_then(|at| rank_at(&filter.input, at)) {
                    limits.entry(window).or_default().push((function, limit));
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(limits)
}

/// Columns that a condition bounds from above: `rn <= 3`, `rn < 4`, `rn = 1`, and what AND joins.
fn bounds(predicate: &Expr) -> Vec<(&Column, u64)> {
    let Expr::BinaryExpr(binary) = predicate else {
        return match predicate {
            Expr::Between(between) if !between.negated => {
                column(&between.expr).zip(number(&between.high)).into_iter().collect()
            }
            _ => vec![],
        };
    };
    let (left, right) = (binary.left.as_ref(), binary.right.as_ref());
    match binary.op {
        Operator::And => bounds(left).into_iter().chain(bounds(right)).collect(),
        Operator::LtEq | Operator::Eq => column(left).zip(number(right)).into_iter().collect(),
        Operator::Lt => column(left).zip(number(right).map(|n| n.saturating_sub(1))).into_iter().collect(),
        Operator::GtEq => column(right).zip(number(left)).into_iter().collect(),
        Operator::Gt => column(right).zip(number(left).map(|n| n.saturating_sub(1))).into_iter().collect(),
        _ => vec![],
    }
}

fn column(expr: &Expr) -> Option<&Column> {
    match expr {
        Expr::Column(column) => Some(column),
        // The rank is unsigned, and compared as what the literal is. As a text, '10' is less than '3'.
        Expr::Cast(cast) if cast.field.data_type().is_integer() => column(&cast.expr),
        _ => None,
    }
}

fn number(expr: &Expr) -> Option<u64> {
    let Expr::Literal(value, _) = expr else { return None };
    // A rank below 2.5 may be 2: only a whole number is what a cast makes of it.
    if !value.data_type().is_integer() {
        return None;
    }
    match value.cast_to(&DataType::Int64).ok()? {
        // A rank is at least 1: below that nothing passes, and one rank is enough to say so.
        ScalarValue::Int64(Some(n)) => Some(n.max(0).unsigned_abs()),
        _ => None,
    }
}

/// The window node and the function behind a column, where nothing but names lies between.
fn rank_at(plan: &LogicalPlan, at: usize) -> Option<(*const Window, usize)> {
    match plan {
        LogicalPlan::Window(node) => {
            let function = at.checked_sub(node.input.schema().fields().len())?;
            rank_kind(node.window_expr.get(function)?)?;
            Some((std::ptr::from_ref(node), function))
        }
        LogicalPlan::Projection(node) => rank_at(&node.input, source_column(node.expr.get(at)?, node.input.schema())?),
        LogicalPlan::SubqueryAlias(node) => rank_at(&node.input, at),
        LogicalPlan::Filter(node) => rank_at(&node.input, at),
        _ => None,
    }
}

/// The plan with every DISTINCT ON as what it means: the first row of each key.
///
/// To be called on a plan as it was planned, before types are coerced.
pub fn distinct_on_as_rank(plan: LogicalPlan) -> Result<LogicalPlan> {
    let done = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Distinct(Distinct::On(on)) => first_of_each(on).map(Transformed::yes),
        node => Ok(Transformed::no(node)),
    })?;
    Ok(done.data)
}

fn first_of_each(on: DistinctOn) -> Result<LogicalPlan> {
    let order = on.sort_expr.unwrap_or_default();
    let order = order.into_iter().filter(|by| !on.on_expr.contains(&by.expr)).collect();
    let window = Window::try_new(vec![row_number(on.on_expr, order).alias(RANK)], on.input)?;
    let first = Filter::try_new(bare(RANK).eq(lit(1_u64)), Arc::new(LogicalPlan::Window(window)))?;
    let select = on.select_expr.into_iter().zip(on.schema.iter()).map(|(expr, (qualifier, field))| {
        let named = expr.qualified_name() == (qualifier.cloned(), field.name().clone());
        if named { expr } else { expr.alias_qualified(qualifier.cloned(), field.name()) }
    });
    Ok(LogicalPlan::Projection(Projection::try_new(select.collect(), Arc::new(LogicalPlan::Filter(first)))?))
}

fn bare(name: &str) -> Expr {
    col(Column::new_unqualified(name))
}

pub(super) fn row_number(partition_by: Vec<Expr>, order_by: Vec<Sort>) -> Expr {
    let mut function = WindowFunction::new(row_number_udwf(), vec![]);
    function.params.partition_by = partition_by;
    function.params.order_by = order_by;
    Expr::WindowFunction(Box::new(function))
}

impl Rewrite {
    /// Window functions: once where they can be answered once, else maintained.
    pub(super) fn window(&self, node: &Window) -> Rewritten {
        let input = self.node(&node.input)?;
        let first = check_one_window(&node.window_expr)?;
        if let Some(edge) = self.by_arrival(node, self.head(node), &input)? {
            return Ok(edge);
        }
        let sorted = first.params.order_by.iter().map(|by| &by.expr);
        check_order("OVER", sorted.chain(&first.params.partition_by), &node.input)?;
        if let Some(edge) = over::in_windows(node, &input, first)? {
            return Ok(edge);
        }
        let head = self.head(node);
        if head.is_none()
            && let Some(edge) = over::in_event_time(node, &input, first, &self.lifetimes)?
        {
            return Ok(edge);
        }
        self.ranking(node.window_expr.clone(), head, input)
    }

    fn head(&self, node: &Window) -> Option<Head> {
        // The other functions must be answered by the same rows.
        if !node.window_expr.iter().all(|f| rank_kind(f).is_some()) {
            return None;
        }
        let limits = self.limits.get(&std::ptr::from_ref(node))?;
        let (function, limit) = limits.iter().min_by_key(|(_, limit)| *limit)?;
        let kind = rank_kind(node.window_expr.get(*function)?)?;
        Some(Head { kind, limit: *limit })
    }

    pub(super) fn ranking(&self, functions: Vec<Expr>, head: Option<Head>, input: Edge) -> Rewritten {
        Refusal::check_clock(&functions, "in a ranking")?;
        if self.emit == EmitMode::OnWindowClose {
            return Err(Refusal::new(
                "EMIT",
                "EMIT ON WINDOW CLOSE, but the ranking has no window that could close",
                "PARTITION BY window_start, window_end of TUMBLE, HOP or CUMULATE, or leave the EMIT out",
            ));
        }
        let total = over::is_total(&functions, &input);
        let Edge { plan: input, changelog, .. } = input;
        let rows = input.schema().fields().len() - usize::from(changelog);
        let first = check_one_window(&functions)?;
        let keys = first.params.partition_by.iter().map(|e| source_column(e, input.schema()));
        // One row of each partition has a given ROW_NUMBER.
        let number = functions.iter().position(|f| rank_kind(f) == Some(RankKind::RowNumber));
        let one = head.is_some_and(|h| h == Head { kind: RankKind::RowNumber, limit: 1 });
        let number = number.map(|n| n + rows).filter(|_| !one);
        let key = keys.collect::<Option<Vec<_>>>().filter(|_| one || number.is_some());
        let key = key.map(|key| key.into_iter().chain(number).collect());
        let text = functions.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let name = format!("ranking-{:016x}", fingerprint(&format!("{text}|{head:?}|{}", input.display_indent())));
        let schema = schema_of(&input, changelog, &functions)?;
        let facts = vec![ColumnFact::Plain; schema.fields().len()];
        let lifetime = match first.params.partition_by.is_empty() {
            true => Lifetime { idle_us: [None; 2], ..self.lifetimes.of_any() },
            false => self.lifetimes.of_any(),
        };
        let name = named(name, lifetime);
        let plan = extension(StreamRanking { input, changelog, functions, head, total, lifetime, schema, name });
        Ok(Edge { plan, changelog: true, key, facts, lag_us: None })
    }

    /// LIMIT: after ORDER BY the best rows, as they change; else the first ones that come.
    pub(super) fn limit(&self, node: &Limit) -> Rewritten {
        let (SkipType::Literal(skip), FetchType::Literal(fetch)) = (node.get_skip_type()?, node.get_fetch_type()?)
        else {
            return Err(Refusal::new("LIMIT", "LIMIT and OFFSET take numbers on a stream", "write them as literals"));
        };
        let (skip, fetch) = (skip as u64, fetch.map(|f| f as u64));
        match node.input.as_ref() {
            LogicalPlan::Sort(sort) => {
                let fetch = fetch.into_iter().chain(sort.fetch.map(|f| f as u64)).min();
                let input = self.node(&sort.input)?;
                check_order("ORDER BY", sort.expr.iter().map(|by| &by.expr), &sort.input)?;
                self.best(sort.expr.clone(), skip, fetch, input)
            }
            // What is ordered by need not be selected: the rows are chosen first.
            LogicalPlan::Projection(select) if matches!(select.input.as_ref(), LogicalPlan::Sort(_)) => {
                let limit =
                    Limit { skip: node.skip.clone(), fetch: node.fetch.clone(), input: Arc::clone(&select.input) };
                self.project(select, self.limit(&limit)?)
            }
            _ => {
                let input = self.node(&node.input)?;
                if input.changelog {
                    return self.best(vec![], skip, fetch, input);
                }
                let text = format!("{skip}|{fetch:?}|{}", input.plan.display_indent());
                let name = format!("limit-{:016x}", fingerprint(&text));
                let fetch = fetch.unwrap_or(u64::MAX);
                let Edge { plan: input, key, facts, lag_us, .. } = input;
                let plan = extension(StreamLimit { input, skip, fetch, name });
                Ok(Edge { plan, changelog: false, key, facts, lag_us })
            }
        }
    }

    /// The rows of ranks `skip + 1 ..= skip + fetch`, without their ranks.
    fn best(&self, order: Vec<Sort>, skip: u64, fetch: Option<u64>, input: Edge) -> Rewritten {
        let Some(fetch) = fetch else {
            return Err(Refusal::new(
                "OFFSET",
                "OFFSET without a LIMIT over an input that never ends would keep every row for ever",
                "add a LIMIT, or leave out what was written when it is read",
            ));
        };
        let (columns, key) = (input.plan.schema().columns(), input.key.clone());
        let rows = columns.len() - usize::from(input.changelog);
        let facts = vec![ColumnFact::Plain; rows + 1];
        let head = Head { kind: RankKind::RowNumber, limit: skip.saturating_add(fetch) };
        let edge = self.ranking(vec![row_number(vec![], order).alias(RANK)], Some(head), input)?;
        let mut plan = edge.plan;
        if skip > 0 {
            plan = LogicalPlan::Filter(Filter::try_new(bare(RANK).gt(lit(skip)), Arc::new(plan))?);
        }
        let select = columns.into_iter().take(rows).map(Expr::Column).chain([bare(WEIGHT)]);
        let plan = LogicalPlan::Projection(Projection::try_new(select.collect(), Arc::new(plan))?);
        Ok(Edge { plan, changelog: true, key, facts, lag_us: None })
    }
}

/// Refuses an order by the clock.
fn check_order<'a>(word: &str, exprs: impl IntoIterator<Item = &'a Expr>, input: &LogicalPlan) -> Result<(), Refusal> {
    if !exprs.into_iter().any(|e| reads_clock(e, input)) {
        return Ok(());
    }
    Err(Refusal::new(
        word,
        "an order by the clock would change with the cut into batches, and a row could not be found again",
        "order by the event time (WATERMARK FOR ..), or by a column; ROW_NUMBER() .. ORDER BY a PROCTIME() column takes = 1, for \
         the first row that comes, or the last",
    ))
}

/// Whether an expression, or a column of a projection that it reads, asks for the time of the batch.
fn reads_clock(expr: &Expr, input: &LogicalPlan) -> bool {
    let mut found = false;
    let walked = expr.apply(|e| {
        found |= match e {
            Expr::ScalarFunction(call) => clock::is_replayable(&call.func),
            Expr::Column(column) => match (input, input.schema().index_of_column(column)) {
                (LogicalPlan::Projection(node), Ok(at)) => {
                    node.expr.get(at).is_some_and(|e| reads_clock(e, &node.input))
                }
                (LogicalPlan::SubqueryAlias(node), Ok(at)) => {
                    let column = Expr::Column(node.input.schema().qualified_field(at).into());
                    reads_clock(&column, &node.input)
                }
                (LogicalPlan::Filter(node), Ok(_)) => reads_clock(e, &node.input),
                _ => false,
            },
            _ => false,
        };
        Ok(TreeNodeRecursion::Continue)
    });
    found || walked.is_err()
}

fn schema_of(input: &LogicalPlan, changelog: bool, functions: &[Expr]) -> Result<DFSchemaRef> {
    let window = Window::try_new(functions.to_vec(), Arc::new(input.clone()))?;
    let mut fields: Vec<_> = window.schema.iter().map(|(q, f)| (q.cloned(), Arc::clone(f))).collect();
    if changelog {
        fields.remove(input.schema().fields().len() - 1);
    }
    fields.push((None, Arc::new(Field::new(WEIGHT, DataType::Int64, false))));
    Ok(Arc::new(DFSchema::new_with_metadata(fields, input.schema().metadata().clone())?))
}

impl StreamRanking {
    /// PARTITION BY and ORDER BY.
    pub fn window(&self) -> Option<&WindowFunction> {
        self.functions.first().and_then(call)
    }

    /// Whether only the best rows are kept: nothing is ever taken away from the input.
    pub fn keeps_best(&self) -> Option<Head> {
        self.head.filter(|_| !self.changelog)
    }

    /// Whether the best rows of a key are kept as a list, which is written anew when one of them changes.
    pub fn keeps_lists(&self) -> Option<Head> {
        /// More rows a key than this are kept in order instead, and so are ranks that any number of rows can share.
        const LIST_MAX: u64 = 1000;
        let few = |h: &Head| h.kind == RankKind::RowNumber && h.limit <= LIST_MAX;
        self.keeps_best().filter(few).filter(|_| self.functions.len() == 1)
    }

    fn identity(&self) -> (&LogicalPlan, &[Expr], &String) {
        (&self.input, &self.functions, &self.name)
    }
}

impl PartialEq for StreamRanking {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for StreamRanking {}

impl PartialOrd for StreamRanking {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.name.partial_cmp(&other.name)
    }
}

impl Hash for StreamRanking {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl UserDefinedLogicalNodeCore for StreamRanking {
    fn name(&self) -> &str {
        "StreamRanking"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.functions.clone()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let list = self.functions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        write!(f, "StreamRanking: {list}")?;
        if let Some(head) = self.head {
            write!(f, ", {:?} <= {}", head.kind, head.limit)?;
        }
        write!(f, ", state={}", self.name)
    }

    fn with_exprs_and_inputs(&self, functions: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        let Some(input) = inputs.pop() else { return internal_err!("a ranking has one input") };
        let schema = schema_of(&input, self.changelog, &functions)?;
        Ok(Self { input, functions, schema, ..self.clone() })
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        // The columns after those of the rows are not the input's, whose last one is its weight.
        let columns = self.input.schema().fields().len();
        let rows = columns - usize::from(self.changelog);
        let weight = self.changelog.then_some(rows);
        let passed: Vec<usize> = output_columns.iter().copied().filter(|c| *c < rows).chain(weight).collect();
        over::necessary(&self.input, &self.functions, &passed)
    }
}

impl PartialOrd for StreamLimit {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.name.partial_cmp(&other.name)
    }
}

impl UserDefinedLogicalNodeCore for StreamLimit {
    fn name(&self) -> &str {
        "StreamLimit"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![]
    }

    fn prevent_predicate_push_down_columns(&self) -> std::collections::HashSet<String> {
        self.input.schema().fields().iter().map(|f| f.name().clone()).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "StreamLimit: skip={}, fetch={}, state={}", self.skip, self.fetch, self.name)
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        let Some(input) = inputs.pop() else { return internal_err!("a limit has one input") };
        Ok(Self { input, ..self.clone() })
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![output_columns.to_vec()])
    }
}
