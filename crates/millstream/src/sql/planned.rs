//! A query as it was planned, and its errors with their places in the text.

use std::sync::Arc;

use datafusion::common::DataFusionError;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator};
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};
use millstream_core::{Error, ErrorKind};
use millstream_io::TableSpec;

use super::diagnostic::{self, SourceText, SqlError};
use super::option_place::OptionPlaces;
use super::parser::{Emit, StateHint};
use crate::settings::Settings;

/// A query that is to be run, or explained.
#[derive(Clone, Debug)]
pub struct PlannedQuery {
    /// Its name: that of the table it writes to, or `query`; numbered where it is taken.
    pub name: String,
    /// The statement as it was written.
    pub sql: String,
    /// The table that it writes to; `None` where its answer is shown.
    pub sink: Option<TableSpec>,
    /// When its answer is given; `None` where that is left to the query's kind.
    pub emit: Option<Emit>,
    /// It is to be explained, not run.
    pub explain: bool,
    /// What SET said before it.
    pub settings: Settings,
    /// What hints say of how long tables are remembered.
    pub hints: Vec<StateHint>,
    /// Its plan, neither analyzed nor optimized. Where there is a sink, it has the sink's columns.
    pub plan: LogicalPlan,
    pub(super) source: Arc<SourceText>,
    pub(super) span: Span,
    pub(super) tokens: Vec<TokenWithSpan>,
    pub(super) options: OptionPlaces,
}

impl PlannedQuery {
    /// The statement's place in the text.
    pub fn span(&self) -> Span {
        self.span
    }

    /// The text it stands in.
    pub fn source(&self) -> &SourceText {
        &self.source
    }

    /// An error that DataFusion found in the plan, with its place in the text.
    pub fn error(&self, error: &DataFusionError) -> Error {
        let error = SqlError::from_datafusion(error, &self.tokens);
        self.source.error_of(&error.or_at(self.first_token()))
    }

    /// An error that an expression of the query met on a row: it names the expression where only one can be meant.
    pub fn error_of_run(&self, error: &DataFusionError) -> Error {
        let found = SqlError::from_datafusion(error, &[]);
        if found.span.is_some() || found.kind != ErrorKind::Query {
            return self.source.error_of(&found);
        }
        let divisions = if found.message.contains("Divide by zero") { divisions(&self.plan) } else { vec![] };
        let advice = "Guard it where it may fail: NULLIF(x, 0), TRY_CAST, CASE; a stream would leave the row out";
        match divisions.as_slice() {
            [] => self.source.error(None, &format!("an expression fails on a row: {}. {advice}", found.message)),
            [one] => self.error_at_expr(one, &format!("'{}' divides by zero on a row. {advice}", one.human_display())),
            [first, ..] => {
                let several =
                    divisions.iter().map(|d| format!("'{}'", d.human_display())).collect::<Vec<_>>().join(", ");
                self.error_at_expr(first, &format!("one of {several} divides by zero on a row. {advice}"))
            }
        }
    }

    /// An error about a place in the text.
    pub fn error_at(&self, span: Span, message: &str) -> Error {
        self.source.error(Some(span), message)
    }

    /// An error of the sink that the query writes to, at the option of the table that it is about.
    pub fn error_of_sink(&self, error: &Error) -> Error {
        let table = self.sink.as_ref().map(|sink| sink.name.as_str()).unwrap_or_default();
        let message = error.to_string();
        let span = self.options.find(table, &message).unwrap_or(self.first_token());
        self.source.error_of(&SqlError { span: Some(span), message, kind: error.kind() })
    }

    /// An error about an expression of the plan, at the first of its columns that knows its place.
    pub fn error_at_expr(&self, expr: &Expr, message: &str) -> Error {
        let spans = expr.column_refs().into_iter().filter_map(|c| c.spans().first()).map(diagnostic::parser_span);
        let span = spans.min_by_key(|s| (s.start.line, s.start.column));
        self.source.error(Some(span.unwrap_or(self.first_token())), message)
    }

    /// An error about a word of the statement (`ORDER`, `LIMIT`, a function's name), at its first place there; at
    /// the statement's first word where it is not.
    pub fn error_at_word(&self, word: &str, message: &str) -> Error {
        let is_word = |t: &&TokenWithSpan| matches!(&t.token, Token::Word(w) if w.value.eq_ignore_ascii_case(word));
        let span = self.tokens.iter().find(is_word).map_or(self.first_token(), |t| t.span);
        self.source.error(Some(span), message)
    }

    fn first_token(&self) -> Span {
        self.tokens.first().map_or(self.span, |t| t.span)
    }
}

/// The divisions of a plan that can be by zero.
fn divisions(plan: &LogicalPlan) -> Vec<Expr> {
    let mut found: Vec<Expr> = vec![];
    let _ = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                if let Expr::BinaryExpr(BinaryExpr { op: Operator::Divide | Operator::Modulo, right, .. }) = part
                    && !right.column_refs().is_empty()
                    && !found.contains(part)
                {
                    found.push(part.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    found
}
