//! Hints: comments that begin with `+`, as `/*+ STATE_TTL('orders' = '1 d', 'o' = '2 h') */`.
//!
//! Only STATE_TTL is read. Other hints of Flink's speak of how it runs a query, not of what it answers, and are comments.

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, Tokenizer};

use super::words;
use crate::settings::parse_ttl;
use crate::sql::diagnostic::SqlError;

/// How long the keys of a table are remembered that nothing touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateHint {
    /// The table's name or alias.
    pub table: String,
    /// In microseconds; `None` for ever.
    pub idle_us: Option<i64>,
    /// The hint's place.
    pub span: Span,
}

/// The hints that the text of a comment holds.
///
/// # Errors
/// Where it is a STATE_TTL of another form.
pub fn parse(comment: &str, span: Span) -> Result<Vec<StateHint>, SqlError> {
    let Some(text) = comment.strip_prefix('+') else { return Ok(vec![]) };
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, text).tokenize() else { return Ok(vec![]) };
    let tokens: Vec<Token> = tokens.into_iter().filter(|t| !matches!(t, Token::Whitespace(_))).collect();
    let Some(at) = tokens.iter().position(|token| words::is(token, "STATE_TTL")) else { return Ok(vec![]) };
    let expects =
        || SqlError::new(span, "STATE_TTL is written so: /*+ STATE_TTL('orders' = '1 d', 'items' = '2 h') */");
    let mut tokens = tokens.into_iter().skip(at + 1);
    if tokens.next() != Some(Token::LParen) {
        return Err(expects());
    }
    let mut hints: Vec<StateHint> = vec![];
    loop {
        let (table, eq, length) = (tokens.next(), tokens.next(), tokens.next());
        let table = table.and_then(text_of).ok_or_else(expects)?;
        let length = length.and_then(text_of).filter(|_| eq == Some(Token::Eq)).ok_or_else(expects)?;
        let idle = parse_ttl(&length).ok_or_else(|| {
            SqlError::new(span, format!("'{length}' is no length of time, as '1 h' is, in STATE_TTL of '{table}'"))
        })?;
        if hints.iter().any(|hint| hint.table == table) {
            return Err(SqlError::new(span, format!("STATE_TTL names '{table}' twice")));
        }
        hints.push(StateHint { table, idle_us: idle, span });
        match tokens.next() {
            Some(Token::Comma) => {}
            Some(Token::RParen) => return Ok(hints),
            _ => return Err(expects()),
        }
    }
}

fn text_of(token: Token) -> Option<String> {
    match token {
        Token::SingleQuotedString(text) | Token::DoubleQuotedString(text) => Some(text),
        Token::Word(word) => Some(word.value),
        _ => None,
    }
}
