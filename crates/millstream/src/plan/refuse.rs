//! What has no incremental meaning here, said before anything runs: the word in the SQL, why, and what works.

use datafusion::common::DataFusionError;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, JoinType, LogicalPlan, Volatility};

use millstream_core::Error;

use super::clock;
use crate::sql::PlannedQuery;

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
            Self::Plan(error) => query.error(&error),
            Self::Source(error) => error,
            Self::Bug(message) => Error::bug(format!("{message}; this is a fault of millstream's own")),
        }
    }

    /// Why a node that no rewrite exists for is refused.
    pub fn of_node(plan: &LogicalPlan) -> Self {
        const LATER: &str = "is not supported on a stream yet";
        match plan {
            LogicalPlan::Join(join) => {
                let kind = match join.join_type {
                    JoinType::LeftSemi | JoinType::RightSemi | JoinType::LeftAnti | JoinType::RightAnti => {
                        "a semi or anti join"
                    }
                    _ => "a join",
                };
                Self::new(
                    "JOIN",
                    format!("{kind} {LATER}"),
                    "join when the results are read, or aggregate each side by itself",
                )
            }
            LogicalPlan::Window(_) => Self::new(
                "OVER",
                format!("a window function (OVER) {LATER}"),
                "aggregate per TUMBLE, HOP or CUMULATE window with GROUP BY window_start, window_end",
            ),
            LogicalPlan::Sort(_) => Self::new(
                "ORDER BY",
                "ORDER BY over an input that never ends would never answer",
                "leave it out and sort what was written, or use millstream sql over files, which end",
            ),
            LogicalPlan::Limit(_) => Self::new(
                "LIMIT",
                format!("LIMIT {LATER}: which rows come first depends on how the input is cut"),
                "leave it out, or limit what was written",
            ),
            LogicalPlan::RecursiveQuery(_) => {
                Self::new("RECURSIVE", format!("WITH RECURSIVE {LATER}"), "write the steps as views")
            }
            LogicalPlan::Distinct(_) => Self::new(
                "DISTINCT ON",
                format!("DISTINCT ON {LATER}"),
                "group by the columns and take first_value(..) of the others",
            ),
            LogicalPlan::Subquery(_) => subquery(),
            other => {
                Self::new("SELECT", format!("{} {LATER}", other.display()), "see docs/sql.md for what can be streamed")
            }
        }
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
        Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_) => Some(subquery()),
        Expr::ScalarFunction(call)
            if call.func.signature().volatility == Volatility::Volatile && !clock::is_batch_time(&call.func) =>
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
        _ => None,
    }
}

fn subquery() -> Refusal {
    Refusal::new(
        "SELECT",
        "a subquery in an expression is not supported on a stream yet: its value would be that of one batch",
        "put the value into the query as a constant, or write both results and compare them when they are read",
    )
}
