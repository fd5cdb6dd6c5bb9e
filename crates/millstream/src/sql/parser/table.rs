//! CREATE TABLE, after those two words.

use datafusion::sql::sqlparser::ast::Ident;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, Word};

use super::statement::{Parsing, idents, name};
use super::types::Types;
use super::{Column, ColumnKind, CreateTable, Existing, Metadata, Spanned, WatermarkClause, words};
use crate::sql::diagnostic::{SourceText, SqlError};

/// Parses from the table's name on.
pub fn parse(source: &SourceText, p: &mut Parser<'_>, existing: Existing) -> Parsing<CreateTable> {
    let name = name(p)?;
    let mut table = CreateTable {
        name,
        existing,
        columns: vec![],
        watermark: None,
        primary_key: vec![],
        partitioned_by: vec![],
        options: vec![],
    };
    if p.consume_token(&Token::LParen) && !p.consume_token(&Token::RParen) {
        loop {
            element(p, &mut table)?;
            if !p.consume_token(&Token::Comma) {
                break;
            }
        }
        p.expect_token(&Token::RParen)?;
    }
    comment(p)?;
    for (words, reason) in [
        ("LIKE", "CREATE TABLE .. LIKE is not supported: write the columns out"),
        ("AS", "CREATE TABLE .. AS SELECT is not supported: declare the table, then INSERT INTO it"),
        ("DISTRIBUTED", "DISTRIBUTED BY is not supported: leave it out"),
    ] {
        if words::next_is(p, words) {
            return Err(SqlError::new(p.peek_token().span, reason).into());
        }
    }
    if words::take(p, &["PARTITIONED", "BY"]) {
        table.partitioned_by = idents(p)?;
    }
    if words::take(p, &["WITH"]) {
        table.options = options(source, p)?;
    }
    Ok(table)
}

/// A column, or a clause among the columns.
fn element(p: &mut Parser<'_>, table: &mut CreateTable) -> Parsing<()> {
    let second = p.peek_nth_token(1).token;
    if words::next_is(p, "WATERMARK") && words::is(&second, "FOR") {
        return watermark(p, table);
    }
    if words::next_is(p, "CONSTRAINT") && words::is(&p.peek_nth_token(2).token, "PRIMARY") {
        p.next_token();
        p.next_token();
    }
    if words::next_is(p, "PRIMARY") && words::is(&p.peek_nth_token(1).token, "KEY") {
        let span = p.peek_token().span;
        words::expect(p, &["PRIMARY", "KEY"])?;
        let key = idents(p)?;
        words::take(p, &["NOT", "ENFORCED"]);
        return set_key(table, key, span);
    }
    if words::next_is(p, "UNIQUE") && second == Token::LParen {
        let reason = "UNIQUE is not supported: a PRIMARY KEY (..) NOT ENFORCED is";
        return Err(SqlError::new(p.peek_token().span, reason).into());
    }
    column(p, table)
}

fn set_key(table: &mut CreateTable, key: Vec<Ident>, span: Span) -> Parsing<()> {
    if !table.primary_key.is_empty() {
        return Err(SqlError::new(span, "the table has a PRIMARY KEY already: a table has one").into());
    }
    table.primary_key = key;
    Ok(())
}

fn watermark(p: &mut Parser<'_>, table: &mut CreateTable) -> Parsing<()> {
    let start = p.peek_token().span;
    words::expect(p, &["WATERMARK", "FOR"])?;
    let column = p.parse_identifier()?;
    words::expect(p, &["AS"])?;
    let first = p.peek_token().span;
    let expr = p.parse_expr()?;
    let span = Span::new(first.start, p.get_current_token().span.end);
    if table.watermark.is_some() {
        return Err(SqlError::new(start, "the table has a WATERMARK already: a table has one event time").into());
    }
    table.watermark = Some(WatermarkClause { column, expr, span });
    Ok(())
}

fn column(p: &mut Parser<'_>, table: &mut CreateTable) -> Parsing<()> {
    let name = p.parse_identifier()?;
    if words::take(p, &["AS"]) {
        let expr = p.parse_expr()?;
        comment(p)?;
        table.columns.push(Column { name, kind: ColumnKind::Computed(Box::new(expr)) });
        return Ok(());
    }
    let (data_type, mut nullable) = Types::default().parse(p)?;
    let mut metadata = None;
    loop {
        let next = p.peek_token();
        if words::take(p, &["NOT", "NULL"]) {
            nullable = false;
        } else if words::take(p, &["PRIMARY", "KEY"]) {
            words::take(p, &["NOT", "ENFORCED"]);
            set_key(table, vec![name.clone()], next.span)?;
        } else if words::next_is(p, "METADATA") {
            if metadata.is_some() {
                return Err(SqlError::new(next.span, "the column is METADATA already").into());
            }
            metadata = Some(metadata_of(p, &name)?);
        } else if words::next_is(p, "DEFAULT") {
            let reason = "DEFAULT is not supported: a computed column (name AS COALESCE(..)) does the same";
            return Err(SqlError::new(next.span, reason).into());
        } else {
            break;
        }
    }
    comment(p)?;
    table.columns.push(Column { name, kind: ColumnKind::Physical { data_type, nullable, metadata } });
    Ok(())
}

/// `METADATA [FROM 'key'] [VIRTUAL]`.
fn metadata_of(p: &mut Parser<'_>, column: &Ident) -> Parsing<Metadata> {
    words::expect(p, &["METADATA"])?;
    let key = match words::take(p, &["FROM"]) {
        true => p.parse_literal_string()?,
        false => column.value.clone(),
    };
    Ok(Metadata { key, read_only: words::take(p, &["VIRTUAL"]) })
}

/// `COMMENT 'text'`, or nothing.
pub fn comment(p: &mut Parser<'_>) -> Parsing<()> {
    if words::take(p, &["COMMENT"]) {
        p.parse_literal_string()?;
    }
    Ok(())
}

/// `('key' = 'value', ..)`.
fn options(source: &SourceText, p: &mut Parser<'_>) -> Parsing<Vec<(Spanned<String>, Spanned<String>)>> {
    p.expect_token(&Token::LParen)?;
    let mut options: Vec<(Spanned<String>, Spanned<String>)> = vec![];
    while p.peek_token().token != Token::RParen {
        let key = option_key(source, p)?;
        p.expect_token(&Token::Eq)?;
        let value = p.next_token();
        let text = match &value.token {
            Token::SingleQuotedString(text) | Token::DoubleQuotedString(text) => text.clone(),
            Token::Number(..) | Token::Word(_) => source.slice(value.span).trim_matches('"').to_string(),
            _ => return Ok(p.expected("a value in single quotes", value)?),
        };
        if options.iter().any(|(k, _)| k.node == key.node) {
            return Err(SqlError::new(key.span, format!("the option '{}' is given twice", key.node)).into());
        }
        options.push((key, Spanned { node: text, span: value.span }));
        if !p.consume_token(&Token::Comma) {
            break;
        }
    }
    p.expect_token(&Token::RParen)?;
    Ok(options)
}

/// `'a.b-c'`, `"a.b-c"` or `a.b-c`.
pub fn option_key(source: &SourceText, p: &mut Parser<'_>) -> Parsing<Spanned<String>> {
    let first = p.next_token();
    let mut span = first.span;
    match &first.token {
        Token::SingleQuotedString(text) => return Ok(Spanned { node: text.clone(), span }),
        Token::Word(Word { quote_style: Some(_), value, .. }) => return Ok(Spanned { node: value.clone(), span }),
        Token::Word(_) => {}
        _ => return Ok(p.expected("the name of an option", first)?),
    }
    while matches!(p.peek_token().token, Token::Period | Token::Minus) {
        p.next_token();
        span = Span::new(span.start, p.next_token().span.end);
    }
    Ok(Spanned { node: source.slice(span).to_string(), span })
}
