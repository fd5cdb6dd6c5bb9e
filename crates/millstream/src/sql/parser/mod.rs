//! Text to statements: sqlparser's grammar, and Flink's streaming words around it.
//!
//! A text is tokenized once and cut at its semicolons; each statement is then parsed from its own tokens, so
//! that every span is a place in the text. Queries go through sqlparser, after `rewrite` has put the few
//! forms it does not know into forms it does, without moving a token. Nothing here looks at a catalog.

mod as_of;
mod clauses;
mod complete;
mod distinct_from;
mod forms;
mod group_window;
mod hints;
mod json_operators;
mod lateral;
mod membership;
mod other_dialects;
mod outermost;
mod qualify;
mod rewrite;
mod scalars;
mod set_operations;
mod similar;
mod statement;
mod table;
#[cfg(test)]
mod tests;
mod tuples;
mod types;
mod words;

use std::fmt;

use datafusion::arrow::datatypes::DataType;
use datafusion::sql::sqlparser::ast::{Expr, Ident, Query};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan, Tokenizer, Whitespace};

use super::diagnostic::{SourceText, SqlError};
pub use as_of::{AS_OF, AS_OF_TIME};
pub use complete::Places;
pub use forms::expression as rewrite_expression;
pub use hints::StateHint;
pub use outermost::change_outermost;
pub use qualify::by_alias;
pub use set_operations::{EXCEPT_ALL, INTERSECT_ALL};
pub use types::from_sql_type;

/// Something with its place in the text.
#[derive(Clone, Debug, PartialEq)]
pub struct Spanned<T> {
    /// The thing.
    pub node: T,
    /// Its place.
    pub span: Span,
}

/// One statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// `CREATE TABLE`.
    CreateTable(Box<CreateTable>),
    /// `CREATE VIEW`.
    CreateView(Box<CreateView>),
    /// `CREATE FUNCTION name AS 'class'`.
    CreateFunction(Ident),
    /// `INSERT INTO`.
    Insert(Box<Insert>),
    /// `SET key = value`.
    Set {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// `RESET key`.
    Reset(String),
    /// `DROP TABLE`, `DROP VIEW`, `DROP FUNCTION`.
    Drop {
        /// Its kind.
        what: Dropped,
        /// What is dropped.
        name: Ident,
        /// It need not be there.
        if_exists: bool,
    },
    /// `EXPLAIN` of a query or of an INSERT.
    Explain(Box<Statement>),
    /// A query whose answer is shown.
    Query(Box<StreamQuery>),
}

/// What DROP says that a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// A table.
    Table,
    /// A view.
    View,
    /// A function.
    Function,
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Table => "table",
            Self::View => "view",
            Self::Function => "function",
        })
    }
}

/// When an answer is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emit {
    /// `EMIT CHANGES`: as it changes, as a changelog.
    Changes,
    /// `EMIT ON WINDOW CLOSE`: once, when the watermark has passed the window.
    OnWindowClose,
    /// `EMIT FINAL`: once, when the input has ended.
    Final,
}

/// A query and when its answer is given.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamQuery {
    /// The query.
    pub query: Box<Query>,
    /// When its answer is given; `None` where that is left to the query's kind.
    pub emit: Option<Emit>,
    /// The query's place, without EMIT.
    pub span: Span,
}

/// `INSERT INTO table [(columns)] query`.
#[derive(Clone, Debug, PartialEq)]
pub struct Insert {
    /// The table.
    pub table: Ident,
    /// The columns that are written; all of them in their order where there are none.
    pub columns: Vec<Ident>,
    /// What is written.
    pub query: StreamQuery,
}

/// `CREATE [TEMPORARY] VIEW name [(columns)] AS query`.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateView {
    /// The name.
    pub name: Ident,
    /// What its columns are called; as in the query where there are none.
    pub columns: Vec<Ident>,
    /// The query.
    pub query: StreamQuery,
    /// What is to happen where the name is taken.
    pub existing: Existing,
}

/// What CREATE does where the name is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It fails.
    Refuse,
    /// `IF NOT EXISTS`: what is there stays.
    Keep,
    /// `OR REPLACE`: what is there goes.
    Replace,
}

/// `CREATE TABLE name (..) [PARTITIONED BY (..)] WITH (..)`.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateTable {
    /// The name.
    pub name: Ident,
    /// What is to happen where the name is taken.
    pub existing: Existing,
    /// The columns, in their order.
    pub columns: Vec<Column>,
    /// `WATERMARK FOR column AS expr`.
    pub watermark: Option<WatermarkClause>,
    /// `PRIMARY KEY (..) NOT ENFORCED`.
    pub primary_key: Vec<Ident>,
    /// `PARTITIONED BY (..)`.
    pub partitioned_by: Vec<Ident>,
    /// `WITH ('key' = 'value', ..)`.
    pub options: Vec<(Spanned<String>, Spanned<String>)>,
}

/// A column of CREATE TABLE.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The name.
    pub name: Ident,
    /// Where its values come from.
    pub kind: ColumnKind,
}

/// Where the values of a column come from.
#[derive(Clone, Debug, PartialEq)]
pub enum ColumnKind {
    /// From the source.
    Physical {
        /// The type.
        data_type: DataType,
        /// Whether it may be NULL.
        nullable: bool,
        /// What it holds of a record beside its value, where it is such a column.
        metadata: Option<Metadata>,
    },
    /// From an expression over the physical columns.
    Computed(Box<Expr>),
}

/// `METADATA [FROM 'key'] [VIRTUAL]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The connector's name for it; the column's own where none is given.
    pub key: String,
    /// It is only read: an INSERT knows nothing of it.
    pub read_only: bool,
}

/// `WATERMARK FOR column AS expr`.
#[derive(Clone, Debug, PartialEq)]
pub struct WatermarkClause {
    /// The event-time column.
    pub column: Ident,
    /// `column - INTERVAL ..`.
    pub expr: Expr,
    /// The expression's place.
    pub span: Span,
}

/// A statement with its tokens.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The statement.
    pub statement: Statement,
    /// Its place, without the semicolon.
    pub span: Span,
    /// Its tokens.
    pub tokens: Vec<TokenWithSpan>,
    /// Its hints `/*+ STATE_TTL(..) */`.
    pub hints: Vec<StateHint>,
}

/// The statements of a text.
///
/// # Errors
/// The first place that is no SQL, or SQL that can't mean anything here.
pub fn parse(source: &SourceText) -> Result<Vec<Parsed>, SqlError> {
    let mut statements = vec![];
    let mut set: Option<Span> = None;
    for (mut tokens, hints) in split(source.text())? {
        let span = span_of(&tokens);
        if let Some(length) = words::starts_statement_set(&tokens) {
            if set.is_some() {
                return Err(SqlError::new(span, "a STATEMENT SET can't hold another one: close the first with END"));
            }
            set = Some(span);
            tokens.drain(..length);
            if tokens.is_empty() {
                continue;
            }
        }
        if set.is_some() && words::is_end(&tokens) {
            set = None;
            continue;
        }
        let statement = statement::parse(source, &tokens)?;
        let span = span_of(&tokens);
        if set.is_some() && !matches!(statement, Statement::Insert(_)) {
            return Err(SqlError::new(span, "a STATEMENT SET holds INSERT statements only: close it with END first"));
        }
        statements.push(Parsed { statement, span, tokens, hints });
    }
    match set {
        Some(span) => Err(SqlError::new(span, "the STATEMENT SET that begins here is never closed: add END;")),
        None => Ok(statements),
    }
}

/// The tokens of a statement, without white space and comments, and its hints.
type Cut = (Vec<TokenWithSpan>, Vec<StateHint>);

/// The text of each statement, cut at the semicolons.
fn split(text: &str) -> Result<Vec<Cut>, SqlError> {
    let tokens = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location()?;
    let mut statements = vec![(vec![], vec![])];
    for token in tokens {
        let Some((statement, hints)) = statements.last_mut() else { break };
        match &token.token {
            Token::Whitespace(Whitespace::MultiLineComment(text)) => hints.extend(hints::parse(text, token.span)?),
            Token::Whitespace(_) | Token::EOF => {}
            Token::SemiColon => statements.push((vec![], vec![])),
            _ => statement.push(token),
        }
    }
    statements.retain(|(tokens, _)| !tokens.is_empty());
    Ok(statements)
}

/// From the first token to the last.
pub fn span_of(tokens: &[TokenWithSpan]) -> Span {
    match (tokens.first(), tokens.last()) {
        (Some(first), Some(last)) => Span::new(first.span.start, last.span.end),
        _ => Span::empty(),
    }
}
