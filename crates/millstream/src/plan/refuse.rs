//! What has no incremental meaning here, said before anything runs: the word in the SQL, why, and what works.

use datafusion::common::DataFusionError;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan, Subquery, Volatility};
use datafusion::sql::sqlparser::tokenizer::Span;

use millstream_core::Error;

use super::clock;
use crate::sql::diagnostic::parser_span;
use crate::sql::{PlannedQuery, SUBQUERY, SqlError};

/// A query that can't be streamed.
#[derive(Debug)]
pub enum Refusal {
    /// It has a construct that is refused.
    Construct {
        /// The word of the SQL that the construct is recognised by.
        word: String,
        /// Why it is refused.
        reason: String,
        /// The nearest thing that works.
        instead: String,
    },
    /// Something at a place that is known: a hint that nothing is found for, a subquery.
    Hint {
        /// Its place.
        span: Span,
        /// Why it is refused, and what to write.
        message: String,
    },
    /// DataFusion did not accept the plan.
    Plan(Box<DataFusionError>),
    /// A source can't be read.
    Source(millstream_core::Error),
    /// A fault of our own.
    Bug(String),
}

impl From<millstream_core::Error> for Refusal {
    fn from(error: millstream_core::Error) -> Self {
        Self::Source(error)
    }
}

impl From<DataFusionError> for Refusal {
    fn from(error: DataFusionError) -> Self {
        Self::Plan(Box::new(error))
    }
}

impl Refusal {
    /// A construct that is refused.
    pub fn new(word: impl Into<String>, reason: impl Into<String>, instead: impl Into<String>) -> Self {
        Self::Construct { word: word.into(), reason: reason.into(), instead: instead.into() }
    }

    /// A fault of our own.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::Bug(message.into())
    }

    /// The refusal as an error with its place in the text of the query.
    pub fn at(self, query: &PlannedQuery) -> Error {
        match self {
            Self::Construct { word, reason, instead } => {
                let word = word.split(' ').next().unwrap_or(&word).to_string();
                query.error_at_word(&word, &format!("{reason}; {instead}"))
            }
            Self::Hint { span, message } => query.error_at(span, &message),
            Self::Plan(error) => query.error(&error),
            Self::Source(error) => error,
            Self::Bug(message) => Error::bug(format!("{message}; this is a fault of millstream's own")),
        }
    }

    /// Why a node that no rewrite exists for is refused.
    pub fn of_node(plan: &LogicalPlan) -> Self {
        const LATER: &str = "is not supported on a stream yet";
        match plan {
            LogicalPlan::Sort(_) => Self::new(
                "ORDER BY",
                "ORDER BY over an input that never ends would never answer",
                "add a LIMIT for the first rows as they change, leave it out and sort what was written, or use millstream sql over files, which end",
            ),
            LogicalPlan::RecursiveQuery(_) => {
                Self::new("RECURSIVE", format!("WITH RECURSIVE {LATER}"), "write the steps as views")
            }
            LogicalPlan::Subquery(of) => subquery(of),
            other => {
                Self::new("SELECT", format!("{} {LATER}", other.display()), "see docs/sql.md for what can be streamed")
            }
        }
    }

    /// Why a scalar subquery of this node is refused: it could have more than one row.
    pub fn of_scalar_subqueries(plan: &LogicalPlan) -> Option<Self> {
        let many = |e: &Expr| match e {
            // One that looks at the row is an aggregate: the analyzer has seen to it.
            Expr::ScalarSubquery(s) if s.outer_ref_columns.is_empty() => s.subquery.max_rows().is_none_or(|n| n > 1),
            _ => false,
        };
        let found = plan.expressions().iter().any(|e| e.exists(|e| Ok(many(e))).unwrap_or(true));
        found.then(|| {
            Self::new(
                "SELECT",
                "a subquery that stands for one value could have more than one row, which is an error in SQL",
                "aggregate it without GROUP BY (SELECT max(x) FROM ..), or join with it",
            )
        })
    }

    /// Refuses functions of the clock, and random(), in expressions that are computed once more when a row is taken
    /// back: they would give another value then, and what was emitted would stay for ever. `place` says where they
    /// stand, and whose rows those are.
    pub fn check_clock<'a>(exprs: impl IntoIterator<Item = &'a Expr>, place: &str) -> Result<(), Self> {
        let mut name = None;
        for expr in exprs {
            expr.apply(|e| {
                if let Expr::ScalarFunction(call) = e
                    && clock::is_replayable(&call.func)
                {
                    name = Some(call.func.name().to_string());
                    return Ok(TreeNodeRecursion::Stop);
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        let Some(name) = name else { return Ok(()) };
        let reason = format!(
            "{name}() has another value in each batch, and it stands {place}, whose rows can be taken back: what was \
             emitted with an earlier value could not be found again"
        );
        Err(Self::new(
            name,
            reason,
            "ask for it before the rows are grouped, joined or ranked (in a subquery over the table), or put them into \
             windows that are answered once, on close",
        ))
    }

    /// Why an expression of this node is refused, if one is.
    pub fn of_expressions(plan: &LogicalPlan) -> Option<Self> {
        let mut refusal = None;
        for expr in plan.expressions() {
            let _ = expr.apply(|e| {
                refusal = of_expression(e);
                Ok(if refusal.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
            });
            if refusal.is_some() {
                break;
            }
        }
        refusal
    }
}

fn of_expression(expr: &Expr) -> Option<Refusal> {
    match expr {
        Expr::ScalarSubquery(of) => Some(subquery(of)),
        Expr::Exists(of) => Some(subquery(&of.subquery)),
        Expr::InSubquery(of) => Some(subquery(&of.subquery)),
        Expr::SetComparison(of) => Some(subquery(&of.subquery)),
        Expr::ScalarFunction(call)
            if call.func.signature().volatility == Volatility::Volatile && !clock::is_replayable(&call.func) =>
        {
            Some(Refusal::new(
                call.func.name(),
                format!(
                    "{}() gives another value each time: a batch that is run again would give other rows",
                    call.func.name()
                ),
                "derive the value from the row, for example md5(..) of its key columns",
            ))
        }
        Expr::AggregateFunction(call) if call.func.signature().volatility == Volatility::Volatile => {
            Some(volatile(call.func.name()))
        }
        Expr::WindowFunction(call) if call.fun.signature().volatility == Volatility::Volatile => {
            Some(volatile(call.fun.name()))
        }
        _ => None,
    }
}

fn volatile(name: &str) -> Refusal {
    Refusal::new(
        name,
        format!("{name}() gives another value each time: a batch that is run again would give other rows"),
        "declare its volatility as Immutable or Stable if it answers the same to the same rows",
    )
}

fn subquery(of: &Subquery) -> Refusal {
    let first = |spans: &datafusion::common::Spans| spans.first().map(parser_span);
    let mut span = first(&of.spans);
    let _ = of.subquery.apply_with_subqueries(|node| {
        for expr in node.expressions() {
            let found = expr.column_refs().into_iter().filter_map(|column| first(&column.spans));
            span = span.into_iter().chain(found).min_by_key(|s| (s.start.line, s.start.column));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    match span {
        Some(span) => Refusal::Hint { span, message: SUBQUERY.to_string() },
        None => Refusal::Plan(Box::new(SqlError::somewhere(SUBQUERY).into())),
    }
}
