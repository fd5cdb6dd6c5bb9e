//! `JOIN t FOR SYSTEM_TIME AS OF e AS a ON c`, which sqlparser's general dialect does not know.
//!
//! The tokens become `JOIN "$as_of"(t, "$as_of_time"(e)) AS a ON c`. Once that is parsed, the relation becomes the table
//! `t$as_of`, by which name the catalog knows what it is asked for, and the condition `"$as_of_time"(e) AND (c)`, where
//! `e` can be planned over the rows of the left side.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, FunctionArg, FunctionArgExpr, Ident, Join, JoinConstraint, JoinOperator, ObjectName,
    ObjectNamePart, Select, Spanned, TableAlias, TableFactor, TableWithJoins,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use super::words;
use crate::sql::diagnostic::SqlError;

/// What the name of a table ends with that is read as of a time.
pub const AS_OF: &str = "$as_of";

/// The function that stands for the time in the condition of the join.
pub const AS_OF_TIME: &str = "$as_of_time";

const WORDS: [&str; 4] = ["FOR", "SYSTEM_TIME", "AS", "OF"];

const PLACE: &str = "FOR SYSTEM_TIME AS OF stands behind the name of a table that is joined, which is read as it is for each row \
                     of the other: write FROM a JOIN t FOR SYSTEM_TIME AS OF a.ts ON a.id = t.id";

/// The same tokens with each such table as a function.
pub fn tokens(tokens: &[TokenWithSpan]) -> Result<Vec<TokenWithSpan>, SqlError> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut n = 0;
    while let Some(token) = tokens.get(n) {
        let rest = tokens.get(n..).unwrap_or_default();
        if !words::begins(rest, &WORDS) {
            out.push(token.clone());
            n += 1;
            continue;
        }
        let span = super::span_of(rest.get(..WORDS.len()).unwrap_or_default());
        let name = table_name(&mut out).ok_or_else(|| SqlError::new(span, PLACE))?;
        let time = rest.get(WORDS.len()..).unwrap_or_default();
        let length = expression(time)?;
        let at = |token: Token| TokenWithSpan { token, span };
        let call = |name: &str| [at(Token::make_word(name, None)), at(Token::LParen)];
        out.extend(call(AS_OF));
        out.extend(name);
        out.push(at(Token::Comma));
        out.extend(call(AS_OF_TIME));
        out.extend(time.get(..length).unwrap_or_default().iter().cloned());
        out.extend([at(Token::RParen), at(Token::RParen)]);
        n += WORDS.len() + length;
    }
    Ok(out)
}

/// Takes the name behind the last JOIN off.
fn table_name(out: &mut Vec<TokenWithSpan>) -> Option<Vec<TokenWithSpan>> {
    let of_name = |t: &TokenWithSpan| matches!(t.token, Token::Word(_) | Token::Period) && !words::is(&t.token, "JOIN");
    let start = out.iter().rposition(|t| !of_name(t)).map_or(0, |at| at + 1);
    let joined = start.checked_sub(1).and_then(|at| out.get(at)).is_some_and(|t| words::is(&t.token, "JOIN"));
    let words = out.get(start..).unwrap_or_default().split(|t| t.token == Token::Period);
    let one_name = words.into_iter().all(|part| part.len() == 1);
    (joined && start < out.len() && one_name).then(|| out.split_off(start))
}

/// How many tokens the expression at the beginning is.
fn expression(tokens: &[TokenWithSpan]) -> Result<usize, SqlError> {
    let dialect = GenericDialect {};
    let mut parser = Parser::new(&dialect).with_tokens_with_locations(tokens.to_vec());
    parser.parse_expr().map_err(|e| SqlError::from_parser(&e, tokens))?;
    Ok(parser.index().min(tokens.len()))
}

/// Puts the times of such joins into their conditions.
pub fn joins(select: &mut Select) -> ControlFlow<SqlError> {
    select.from.iter_mut().try_for_each(table_with_joins)
}

fn table_with_joins(table: &mut TableWithJoins) -> ControlFlow<SqlError> {
    if let Some(span) = span_of(&table.relation) {
        return ControlFlow::Break(SqlError::new(span, PLACE));
    }
    nested(&mut table.relation)?;
    for join in &mut table.joins {
        nested(&mut join.relation)?;
        if let Err(error) = one(join) {
            return ControlFlow::Break(error);
        }
    }
    ControlFlow::Continue(())
}

fn nested(factor: &mut TableFactor) -> ControlFlow<SqlError> {
    match factor {
        TableFactor::NestedJoin { table_with_joins: inner, .. } => table_with_joins(inner),
        _ => ControlFlow::Continue(()),
    }
}

fn one(join: &mut Join) -> Result<(), SqlError> {
    let Some(span) = span_of(&join.relation) else { return Ok(()) };
    let what_works = "write JOIN or LEFT JOIN with ON";
    let constraint = match &mut join.join_operator {
        JoinOperator::Join(c) | JoinOperator::Inner(c) | JoinOperator::Left(c) | JoinOperator::LeftOuter(c) => c,
        other => {
            let kind = match other {
                JoinOperator::Right(_) | JoinOperator::RightOuter(_) => "a RIGHT JOIN",
                JoinOperator::FullOuter(_) => "a FULL JOIN",
                JoinOperator::CrossJoin(_) => "a CROSS JOIN",
                _ => "this join",
            };
            let reason = format!(
                "{kind} FOR SYSTEM_TIME AS OF can't be answered: the table is only read for the rows of the left side; {what_works}"
            );
            return Err(SqlError::new(span, reason));
        }
    };
    let JoinConstraint::On(condition) = constraint else {
        let reason =
            format!("a table that is read FOR SYSTEM_TIME AS OF is joined by its key: {what_works} t.id = a.id");
        return Err(SqlError::new(span, reason));
    };
    let TableFactor::Table { name, alias, args, .. } = &mut join.relation else { return Ok(()) };
    let arguments = args.take().map(|args| args.args).unwrap_or_default();
    let mut arguments = arguments.into_iter().filter_map(argument);
    let (Some(table), Some(time)) = (arguments.next().and_then(last_ident), arguments.next()) else {
        return Err(SqlError::new(span, PLACE));
    };
    if alias.is_none() {
        let (explicit, name, columns, at) = (true, table.clone(), vec![], None);
        *alias = Some(TableAlias { explicit, name, columns, at });
    }
    let named = Ident { value: format!("{}{AS_OF}", table.value), ..table };
    *name = ObjectName(vec![ObjectNamePart::Identifier(named)]);
    let condition_of_join = std::mem::replace(condition, time.clone());
    *condition = Expr::BinaryOp {
        left: Box::new(time),
        op: BinaryOperator::And,
        right: Box::new(Expr::Nested(Box::new(condition_of_join))),
    };
    Ok(())
}

/// The place of a table that is read as of a time, where it is one.
fn span_of(factor: &TableFactor) -> Option<Span> {
    let TableFactor::Table { name, args: Some(args), .. } = factor else { return None };
    let [part] = name.0.as_slice() else { return None };
    let named = part.as_ident().is_some_and(|ident| ident.value == AS_OF);
    let table = args.args.first().cloned().and_then(argument);
    named.then(|| table.map_or(name.span(), |table| table.span()))
}

fn argument(argument: FunctionArg) -> Option<Expr> {
    match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    }
}

fn last_ident(expr: Expr) -> Option<Ident> {
    match expr {
        Expr::Identifier(ident) => Some(ident),
        Expr::CompoundIdentifier(mut parts) => parts.pop(),
        _ => None,
    }
}
