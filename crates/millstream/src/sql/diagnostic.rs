//! Where in the SQL something is wrong, and how that is shown.
//!
//! Every error of this room ends up as one [`Error`] of kind `Query` that names file, line and column, shows
//! the line with a caret under the place, and says the reason and the remedy. Line and column count from 1,
//! columns in characters.

use std::fmt::Write;
use std::sync::Arc;

use datafusion::common::{Column, DataFusionError, SchemaError};
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, TokenizerError};
use millstream_core::{Error, ErrorKind};
use millstream_io::options::nearest;
use millstream_io::secret::hidden;

use super::planner_errors::{of_another_query, place_of_clause, place_of_quoted_word, place_of_subquery, plain, said};

/// A text of SQL and what it is called: the path of its file, or `<sql>`.
#[derive(Debug, PartialEq, Eq)]
pub struct SourceText {
    name: String,
    text: String,
}

impl SourceText {
    /// A text with its name.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), text: text.into() })
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All of it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The part that the span covers; nothing where it lies outside.
    pub fn slice(&self, span: Span) -> &str {
        self.text.get(self.offset(span.start)..self.offset(span.end)).unwrap_or_default()
    }

    fn offset(&self, at: Location) -> usize {
        let mut start = 0;
        for (n, line) in self.text.split_inclusive('\n').enumerate() {
            if n as u64 + 1 == at.line {
                let column = at.column.saturating_sub(1) as usize;
                return start + line.char_indices().nth(column).map_or(line.len(), |(i, _)| i);
            }
            start += line.len();
        }
        self.text.len()
    }

    /// An error about this place of the text. Without a place it only names the text.
    pub fn error(&self, span: Option<Span>, message: &str) -> Error {
        Error::query(self.render(span, message))
    }

    /// The same for an error that was made elsewhere: its kind stays.
    pub fn error_of(&self, error: &SqlError) -> Error {
        Error::new(error.kind, self.render(error.span, &error.message))
    }

    fn render(&self, span: Option<Span>, message: &str) -> String {
        let place = span.filter(|s| s.start.line > 0);
        let line = place.and_then(|s| self.text.lines().nth(s.start.line as usize - 1).map(|l| (s, l)));
        let Some((span, line)) = line else { return format!("{}: {message}", self.name) };
        let (row, column) = (span.start.line, span.start.column.max(1) as usize);
        let line = without_secrets(line);
        let length = line.chars().count();
        let end = if span.end.line == row { span.end.column as usize } else { length + 1 };
        let carets = end.min(length + 1).saturating_sub(column).max(1);
        // Tabs are repeated, so that the carets stand under their place however wide a tab is.
        let indent: String = line.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let gutter = row.to_string();
        let mut out = format!("{}:{row}:{column}: {message}\n", self.name);
        let _ = writeln!(out, " {gutter} | {line}");
        let _ = write!(out, " {} | {indent}{}", " ".repeat(gutter.len()), "^".repeat(carets));
        out
    }
}

/// The line with the values of options that may be secrets blotted out, as long as it was. References to secrets stay.
fn without_secrets(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut key = "";
    for (n, part) in line.split('\'').enumerate() {
        let quoted = n % 2 == 1;
        if n > 0 {
            out.push('\'');
        }
        let secret = quoted && !key.is_empty() && hidden(key, part) != part;
        if secret {
            out.extend(part.chars().map(|_| '*'));
        } else {
            out.push_str(part);
        }
        match (quoted, part.trim()) {
            (true, _) if secret => {}
            (true, _) => key = part,
            // A value follows its key after this; a quote within a value is written twice.
            (false, "=" | "") => {}
            (false, _) => key = "",
        }
    }
    out
}

/// What is wrong with a text of SQL, and where in it: what this room's functions answer before the text is at
/// hand to render it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlError {
    /// The place; `None` where it is not known.
    pub span: Option<Span>,
    /// What is wrong, why, and what works.
    pub message: String,
    /// What has to be fixed: the query, mostly.
    pub kind: ErrorKind,
}

impl SqlError {
    /// Something is wrong at this place.
    pub fn new(span: Span, message: impl Into<String>) -> Self {
        let span = (span != Span::empty()).then_some(span);
        Self { span, message: message.into(), kind: ErrorKind::Query }
    }

    /// Something is wrong somewhere.
    pub fn somewhere(message: impl Into<String>) -> Self {
        Self { span: None, message: message.into(), kind: ErrorKind::Query }
    }

    /// The same error at this place, unless it has one.
    pub fn or_at(mut self, span: Span) -> Self {
        self.span = self.span.or((span != Span::empty()).then_some(span));
        self
    }

    /// What DataFusion's planner found wrong; `tokens` are those of the statement.
    pub fn from_datafusion(error: &DataFusionError, tokens: &[TokenWithSpan]) -> Self {
        let mut found = from_datafusion(error);
        if found.span.is_none() {
            found = of_another_query(found, tokens);
        }
        if found.span.is_none() && found.message.contains("subquery") {
            found.span = place_of_subquery(tokens);
        }
        if found.span.is_none() {
            found.span =
                place_of_quoted_word(&found.message, tokens).or_else(|| place_of_clause(&found.message, tokens));
        }
        found
    }

    /// What the parser found wrong; `tokens` are those of the statement.
    pub fn from_parser(error: &ParserError, tokens: &[TokenWithSpan]) -> Self {
        let (ParserError::ParserError(text) | ParserError::TokenizerError(text)) = error else {
            return Self::somewhere("the statement is nested too deeply: split it with WITH or CREATE VIEW");
        };
        let (message, at) = split_location(text);
        let message = message.replacen("Expected: ", "expected ", 1);
        // What stands at the end of a statement has no location: the error is after its last token.
        let token = match at {
            Some(at) => tokens.iter().find(|t| t.span.start == at).map(|t| t.span),
            None => tokens.iter().rfind(|t| t.token != Token::EOF).map(|t| Span::new(t.span.end, t.span.end)),
        };
        let span = token.or(at.map(|at| Span::new(at, at)));
        Self { span, message: message.replace("found: EOF", "found the end of the statement"), kind: ErrorKind::Query }
    }
}

impl std::fmt::Display for SqlError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for SqlError {}

impl From<SqlError> for DataFusionError {
    fn from(error: SqlError) -> Self {
        Self::External(Box::new(error))
    }
}

impl From<TokenizerError> for SqlError {
    fn from(error: TokenizerError) -> Self {
        Self::new(Span::new(error.location, error.location), error.message)
    }
}

/// An error that was met on behalf of some place of the SQL: a source that can't be opened.
impl From<Error> for SqlError {
    fn from(error: Error) -> Self {
        Self { span: None, message: error.to_string(), kind: error.kind() }
    }
}

fn split_location(text: &str) -> (&str, Option<Location>) {
    let parsed = text.rfind(" at Line: ").and_then(|at| {
        let (line, column) = text.get(at + " at Line: ".len()..)?.split_once(", Column: ")?;
        Some((text.get(..at)?, Location::new(line.parse().ok()?, column.trim().parse().ok()?)))
    });
    parsed.map_or((text, None), |(message, at)| (message, Some(at)))
}

/// The span as the parser counts it.
pub fn parser_span(span: datafusion::common::Span) -> Span {
    let at = |l: datafusion::common::Location| Location::new(l.line, l.column);
    Span::new(at(span.start), at(span.end))
}

fn from_datafusion(error: &DataFusionError) -> SqlError {
    match error {
        DataFusionError::Diagnostic(diagnostic, inner) => {
            let found = from_datafusion(inner);
            // Where two expressions don't go together, the notes have the places.
            let place = diagnostic.span.or_else(|| diagnostic.notes.iter().find_map(|n| n.span));
            let span = found.span.or(place.map(parser_span));
            let kept = inner_is_ours(inner);
            SqlError {
                span,
                message: if kept { found.message } else { said(&with_notes(diagnostic)) },
                kind: found.kind,
            }
        }
        DataFusionError::Context(_, inner) => from_datafusion(inner),
        DataFusionError::Shared(inner) => from_datafusion(inner),
        DataFusionError::Collection(all) => match all.first() {
            Some(first) => from_datafusion(first),
            None => SqlError::somewhere("the statement can't be planned"),
        },
        DataFusionError::External(inner) => match (inner.downcast_ref::<SqlError>(), inner.downcast_ref::<Error>()) {
            (Some(ours), _) => ours.clone(),
            (None, Some(core)) => SqlError { span: None, message: core.to_string(), kind: core.kind() },
            (None, None) => SqlError::somewhere(inner.to_string()),
        },
        DataFusionError::SchemaError(schema, _) => from_schema_error(schema),
        DataFusionError::NotImplemented(what) => {
            let what = said(&plain(what));
            let complete = ["not", "Unsupported", "unsupported", "can't"].iter().any(|word| what.contains(word));
            SqlError::somewhere(if complete {
                what
            } else {
                format!("{what} is not supported: docs/sql.md says what is")
            })
        }
        other => SqlError::somewhere(said(&plain(&other.message()))),
    }
}

/// Whether our own message says more than DataFusion's diagnostic.
fn inner_is_ours(error: &DataFusionError) -> bool {
    match error {
        DataFusionError::External(_) => true,
        DataFusionError::SchemaError(schema, _) => {
            matches!(schema.as_ref(), SchemaError::FieldNotFound { .. } | SchemaError::AmbiguousReference { .. })
        }
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => inner_is_ours(inner),
        _ => false,
    }
}

fn with_notes(diagnostic: &datafusion::common::Diagnostic) -> String {
    if let Some(name) = diagnostic.message.strip_prefix("Invalid function '").and_then(|m| m.strip_suffix('\'')) {
        return no_such_function(name, diagnostic);
    }
    let mut message = diagnostic.message.clone();
    let notes = diagnostic.notes.iter().map(|n| &n.message).chain(diagnostic.helps.iter().map(|h| &h.message));
    for note in notes {
        message.push_str("; ");
        message.push_str(note);
    }
    message
}

fn no_such_function(name: &str, diagnostic: &datafusion::common::Diagnostic) -> String {
    if let Some(reason) = super::functions::refusal(name) {
        return reason.to_string();
    }
    let near = diagnostic.notes.iter().find_map(|n| n.message.strip_prefix("Possible function '")?.strip_suffix('\''));
    format!("there is no function '{name}'{}", did_you_mean(name, near.into_iter()))
}

fn from_schema_error(error: &SchemaError) -> SqlError {
    let at = |column: &Column| column.spans().first().map(parser_span);
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let message = match &field.relation {
                Some(relation) => no_such_column(&field.name, Some(relation.table()), valid_fields),
                None => no_such_column(&field.name, None, valid_fields),
            };
            SqlError { span: at(field), message, kind: ErrorKind::Query }
        }
        SchemaError::AmbiguousReference { field } => SqlError {
            span: at(field),
            message: format!(
                "the column '{}' is in more than one of the tables: write it with the table's name before it",
                field.name
            ),
            kind: ErrorKind::Query,
        },
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
            SqlError::somewhere(format!("there are two columns '{name}': give one of them another name (AS ..)"))
        }
    }
}

fn no_such_column(name: &str, relation: Option<&str>, valid: &[Column]) -> String {
    let relations: Vec<&str> = valid.iter().filter_map(|c| c.relation.as_ref().map(|r| r.table())).collect();
    if let Some(relation) = relation
        && !relations.contains(&relation)
    {
        let hint = did_you_mean(relation, relations.into_iter());
        return format!("there is no table '{relation}' in this FROM{hint}");
    }
    let columns: Vec<&str> = valid
        .iter()
        .filter(|c| relation.is_none() || c.relation.as_ref().map(|r| r.table()) == relation)
        .map(|c| c.name.as_str())
        .collect();
    let place = relation.map(|r| format!(" in '{r}'")).unwrap_or_default();
    let hint = did_you_mean(name, columns.iter().copied());
    if hint.is_empty() && !columns.is_empty() && columns.len() <= 20 {
        return format!("there is no column '{name}'{place}; there are {}", columns.join(", "));
    }
    format!("there is no column '{name}'{place}{hint}")
}

/// `; did you mean 'X'?`, or nothing. A name that differs by case only goes before any other.
pub fn did_you_mean<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> String {
    let candidates: Vec<&str> = candidates.collect();
    let same = candidates.iter().copied().find(|c| c.eq_ignore_ascii_case(name));
    match same.or_else(|| nearest(name, candidates.into_iter())) {
        Some(candidate) => format!("; did you mean '{candidate}'?"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_no_password() {
        let line =
            "CREATE TABLE t (n INT) WITH ('user'='u', 'password' = 's''é', 'x.secret'='${env:X}', 'path'='p') BAD";
        let text = SourceText::new("q.sql", line);
        let at = |column| Location::new(1, column);
        let shown = text.error(Some(Span::new(at(84), at(87))), "what is this?").to_string();
        assert!(!shown.contains('é') && shown.contains("'${env:X}', 'path'='p') BAD"), "{shown}");
        assert_eq!(without_secrets(line).chars().count(), line.chars().count());
        assert_eq!(without_secrets("WITH ('sasl.PASSWORD'='open"), "WITH ('sasl.PASSWORD'='****");
    }
}
