//! One statement from its tokens.

use datafusion::sql::sqlparser::ast::Ident;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use super::{
    CreateView, Dropped, Emit, Existing, Insert, Statement, StreamQuery, forms, rewrite, span_of, table, words,
};
use crate::sql::diagnostic::{SourceText, SqlError};

/// What parsing a part answers: sqlparser's errors carry their place as text, ours as a span.
pub type Parsing<T> = Result<T, Failure>;

/// Why parsing failed.
pub enum Failure {
    /// The parser's own words.
    Parser(ParserError),
    /// Ours.
    Sql(SqlError),
}

impl From<ParserError> for Failure {
    fn from(error: ParserError) -> Self {
        Self::Parser(error)
    }
}

impl From<SqlError> for Failure {
    fn from(error: SqlError) -> Self {
        Self::Sql(error)
    }
}

/// Parses the statement that these tokens are.
pub fn parse(source: &SourceText, tokens: &[TokenWithSpan]) -> Result<Statement, SqlError> {
    rewrite::refuse_unsupported(tokens)?;
    let (body, emit) = match words::trailing_emit(tokens) {
        Some((emit, length)) => (tokens.get(..tokens.len() - length).unwrap_or_default(), Some(emit)),
        None => (tokens, None),
    };
    let dialect = GenericDialect {};
    let mut parser = Parser::new(&dialect).with_tokens_with_locations(rewrite::tokens(body)?);
    let context = Context { source, tokens: body, emit };
    let parsed = context.statement(&mut parser).and_then(|statement| {
        if parser.peek_token().token == Token::EOF {
            return Ok(statement);
        }
        Ok(parser.expected("the end of the statement", parser.peek_token())?)
    });
    parsed.map_err(|failure| match failure {
        Failure::Sql(error) => error,
        Failure::Parser(error) => SqlError::from_parser(&error, body),
    })
}

struct Context<'a> {
    source: &'a SourceText,
    tokens: &'a [TokenWithSpan],
    emit: Option<Emit>,
}

impl Context<'_> {
    fn statement(&self, p: &mut Parser<'_>) -> Parsing<Statement> {
        if words::take(p, &["CREATE"]) {
            return self.create(p);
        }
        if words::take(p, &["INSERT"]) {
            return self.insert(p);
        }
        if words::take(p, &["SET"]) {
            return self.set(p);
        }
        if words::take(p, &["RESET"]) {
            return Ok(Statement::Reset(self.key(p)?));
        }
        if words::take(p, &["EXPLAIN"]) {
            let what = p.peek_token();
            if words::take(p, &["ANALYZE"]) {
                let reason = "EXPLAIN shows a plan without running it: leave ANALYZE out, and see what a query has done \
                              with `millstream status`";
                return Err(SqlError::new(what.span, reason).into());
            }
            let _ = words::take(p, &["PLAN", "FOR"]) || words::take(p, &["VERBOSE"]);
            let what = p.peek_token();
            return match self.statement(p)? {
                inner @ (Statement::Query(_) | Statement::Insert(_)) => Ok(Statement::Explain(Box::new(inner))),
                _ => Err(SqlError::new(what.span, "EXPLAIN takes a SELECT or an INSERT").into()),
            };
        }
        if words::take(p, &["DROP"]) {
            return self.drop(p);
        }
        let first = p.peek_token();
        let begins = ["SELECT", "WITH", "VALUES", "TABLE", "FROM"].iter().any(|w| words::is(&first.token, w));
        if begins || first.token == Token::LParen {
            return Ok(Statement::Query(Box::new(self.query(p)?)));
        }
        let known = ["CREATE", "INSERT", "SELECT", "SET", "RESET", "EXPLAIN", "DROP", "WITH", "VALUES"];
        let hint = crate::sql::diagnostic::did_you_mean(&first.token.to_string(), known.into_iter());
        Err(SqlError::new(first.span, format!("no statement begins with {}{hint}", first.token)).into())
    }

    fn create(&self, p: &mut Parser<'_>) -> Parsing<Statement> {
        let replace = words::take(p, &["OR", "REPLACE"]);
        let _ = words::take(p, &["TEMPORARY"]) || words::take(p, &["TEMP"]);
        let _ = words::take(p, &["SYSTEM"]);
        let what = p.next_token();
        let kept = words::take(p, &["IF", "NOT", "EXISTS"]);
        let existing = match (replace, kept) {
            (true, _) => Existing::Replace,
            (false, true) => Existing::Keep,
            (false, false) => Existing::Refuse,
        };
        if words::is(&what.token, "TABLE") {
            self.no_emit()?;
            return Ok(Statement::CreateTable(Box::new(table::parse(self.source, p, existing)?)));
        }
        if words::is(&what.token, "VIEW") {
            self.no_emit()?;
            let name = name(p)?;
            let columns = if p.peek_token().token == Token::LParen { idents(p)? } else { vec![] };
            table::comment(p)?;
            words::expect(p, &["AS"])?;
            let query = self.query(p)?;
            return Ok(Statement::CreateView(Box::new(CreateView { name, columns, query, existing })));
        }
        if words::is(&what.token, "FUNCTION") {
            let name = name(p)?;
            words::expect(p, &["AS"])?;
            p.parse_literal_string()?;
            if words::take(p, &["LANGUAGE"]) {
                p.next_token();
            }
            return Ok(Statement::CreateFunction(name));
        }
        let reason = format!("CREATE {} is not known here: CREATE TABLE, VIEW and FUNCTION are", what.token);
        Err(SqlError::new(what.span, reason).into())
    }

    fn insert(&self, p: &mut Parser<'_>) -> Parsing<Statement> {
        if words::next_is(p, "OVERWRITE") {
            let reason = "INSERT OVERWRITE has no meaning on a stream, whose output only grows: write INSERT INTO";
            return Err(SqlError::new(p.peek_token().span, reason).into());
        }
        words::expect(p, &["INTO"])?;
        let _ = words::take(p, &["TABLE"]);
        let table = name(p)?;
        if words::next_is(p, "PARTITION") {
            let reason = "PARTITION (..) of an INSERT is not supported: select the partition's columns instead";
            return Err(SqlError::new(p.peek_token().span, reason).into());
        }
        let next = p.peek_nth_token(1).token;
        let is_query = ["SELECT", "WITH", "VALUES"].iter().any(|w| words::is(&next, w)) || next == Token::LParen;
        let columns = if p.peek_token().token == Token::LParen && !is_query { idents(p)? } else { vec![] };
        let query = self.query(p)?;
        Ok(Statement::Insert(Box::new(Insert { table, columns, query })))
    }

    fn set(&self, p: &mut Parser<'_>) -> Parsing<Statement> {
        let key = self.key(p)?;
        if !p.consume_token(&Token::Eq) {
            words::expect(p, &["TO"])?;
        }
        let first = p.next_token();
        if let Token::SingleQuotedString(value) = &first.token {
            return Ok(Statement::Set { key, value: value.clone() });
        }
        let mut span = first.span;
        if first.token == Token::EOF {
            return Ok(p.expected("a value", first)?);
        }
        while p.peek_token().token != Token::EOF {
            span = Span::new(span.start, p.next_token().span.end);
        }
        Ok(Statement::Set { key, value: self.source.slice(span).to_string() })
    }

    /// `'a.b-c'` or `a.b-c`.
    fn key(&self, p: &mut Parser<'_>) -> Parsing<String> {
        Ok(table::option_key(self.source, p)?.node)
    }

    fn drop(&self, p: &mut Parser<'_>) -> Parsing<Statement> {
        let _ = words::take(p, &["TEMPORARY"]);
        let what = p.next_token();
        let kinds = [("TABLE", Dropped::Table), ("VIEW", Dropped::View), ("FUNCTION", Dropped::Function)];
        let Some((_, kind)) = kinds.into_iter().find(|(word, _)| words::is(&what.token, word)) else {
            let reason = format!("DROP {} is not known here: DROP TABLE and DROP VIEW are", what.token);
            return Err(SqlError::new(what.span, reason).into());
        };
        let if_exists = words::take(p, &["IF", "EXISTS"]);
        Ok(Statement::Drop { what: kind, name: name(p)?, if_exists })
    }

    fn query(&self, p: &mut Parser<'_>) -> Parsing<StreamQuery> {
        let start = p.peek_token().span;
        let mut query = p.parse_query()?;
        forms::query(&mut query, self.tokens)?;
        Ok(StreamQuery { query, emit: self.emit, span: Span::new(start.start, span_of(self.tokens).end) })
    }

    fn no_emit(&self) -> Parsing<()> {
        match self.emit {
            None => Ok(()),
            Some(_) => {
                let span = self.tokens.last().map_or(Span::empty(), |t| t.span);
                Err(SqlError::new(span, "EMIT belongs to the query that is run, after the INSERT's SELECT").into())
            }
        }
    }
}

/// A name of one part; a catalog and a database before it are let go, as there is only one.
pub fn name(p: &mut Parser<'_>) -> Parsing<Ident> {
    let mut ident = p.parse_identifier()?;
    while p.consume_token(&Token::Period) {
        ident = p.parse_identifier()?;
    }
    Ok(ident)
}

/// `(a, b, ..)`.
pub fn idents(p: &mut Parser<'_>) -> Parsing<Vec<Ident>> {
    p.expect_token(&Token::LParen)?;
    let mut idents = vec![p.parse_identifier()?];
    while p.consume_token(&Token::Comma) {
        idents.push(p.parse_identifier()?);
    }
    p.expect_token(&Token::RParen)?;
    Ok(idents)
}
