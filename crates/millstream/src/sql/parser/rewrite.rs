//! Flink's forms that sqlparser does not know, put into forms it does.
//!
//! Tokens are never moved, and what is put in has the place of what it stands for: an error still points at the
//! text as it was written. What becomes of functions is said in [`super::forms`].

use std::collections::BTreeSet;

use datafusion::sql::sqlparser::ast::{
    Expr, Fetch, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, LimitClause, ObjectName, Query, Select,
    SelectItem, TableFactor, Value,
};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::{as_of, clauses, words};
use crate::sql::diagnostic::SqlError;

/// The functions whose first argument is a table.
const WINDOW_FUNCTIONS: [&str; 4] = ["TUMBLE", "HOP", "CUMULATE", "SESSION"];

/// The same tokens without the word TABLE before the first argument of a window function, with a comma in the place
/// of PARTITION BY after that argument of SESSION, and with the clauses of functions as arguments.
pub fn tokens(tokens: &[TokenWithSpan]) -> Result<Vec<TokenWithSpan>, SqlError> {
    let mut kept: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    for (n, token) in tokens.iter().enumerate() {
        if words::is(&token.token, "TABLE") && follows_window_function(tokens, n) {
            continue;
        }
        if words::is(&token.token, "PARTITION") && follows_table_of_session(tokens, n) {
            kept.push(TokenWithSpan { token: Token::Comma, span: token.span });
            continue;
        }
        if n.checked_sub(1).is_some_and(|before| follows_table_of_session(tokens, before)) {
            continue;
        }
        kept.push(token.clone());
    }
    clauses::tokens(&as_of::tokens(&kept)?)
}

/// Whether the n-th token is `SESSION ( [TABLE] name here BY`.
fn follows_table_of_session(tokens: &[TokenWithSpan], n: usize) -> bool {
    let at = |i: usize| tokens.get(i).map(|t| &t.token);
    let here = at(n).is_some_and(|t| words::is(t, "PARTITION")) && at(n + 1).is_some_and(|t| words::is(t, "BY"));
    if !here {
        return false;
    }
    let named = |t: &Token| matches!(t, Token::Word(_) | Token::Period) && !words::is(t, "TABLE");
    let from = (0..n).rev().find(|i| !at(*i).is_some_and(named)).unwrap_or_default();
    let from = if at(from).is_some_and(|t| words::is(t, "TABLE")) { from.checked_sub(1) } else { Some(from) };
    let before = |k: usize| from.and_then(|from| from.checked_sub(k)).and_then(at);
    match before(0) {
        Some(Token::LParen) => before(1).is_some_and(|t| words::is(t, "SESSION")),
        Some(Token::RArrow) => before(2) == Some(&Token::LParen) && before(3).is_some_and(|t| words::is(t, "SESSION")),
        _ => false,
    }
}

/// Whether the n-th token is `TUMBLE ( here` or `TUMBLE ( DATA => here`.
fn follows_window_function(tokens: &[TokenWithSpan], n: usize) -> bool {
    let before = |k: usize| n.checked_sub(k).and_then(|i| tokens.get(i)).map(|t| &t.token);
    let opens = match before(1) {
        Some(Token::LParen) => 2,
        Some(Token::RArrow) if before(3) == Some(&Token::LParen) => 4,
        _ => return false,
    };
    before(opens).is_some_and(|t| WINDOW_FUNCTIONS.iter().any(|f| words::is(t, f)))
}

/// What parses, or fails to parse with no telling words, and has no meaning here yet.
pub fn refuse_unsupported(tokens: &[TokenWithSpan]) -> Result<(), SqlError> {
    const FORMS: [(&[&str], &str); 2] = [
        (&["MATCH_RECOGNIZE"], "MATCH_RECOGNIZE is not supported yet: there is nothing near that works"),
        (&["TABLESAMPLE"], "TABLESAMPLE gives other rows each time: filter by a hash of a column instead"),
    ];
    for n in 0..tokens.len() {
        let rest = tokens.get(n..).unwrap_or_default();
        if let Some((words, reason)) = FORMS.iter().find(|(words, _)| words::begins(rest, words)) {
            let span = super::span_of(rest.get(..words.len()).unwrap_or_default());
            return Err(SqlError::new(span, *reason));
        }
    }
    Ok(())
}

/// `FETCH FIRST n ROWS ONLY` is LIMIT. With PERCENT or TIES it is left for DataFusion to refuse.
pub fn fetch_as_limit(query: &mut Query) {
    let Some(Fetch { with_ties: false, percent: false, quantity }) = &query.fetch else { return };
    let one = || Expr::Value(Value::Number("1".to_string(), false).with_empty_span());
    let first = Some(quantity.clone().unwrap_or_else(one));
    match &mut query.limit_clause {
        None => query.limit_clause = Some(LimitClause::LimitOffset { limit: first, offset: None, limit_by: vec![] }),
        Some(LimitClause::LimitOffset { limit, .. }) if limit.is_none() => *limit = first,
        Some(_) => return,
    }
    query.fetch = None;
}

/// `SELECT person.name` over a column `person` of type ROW is called `name`, as in Flink; DataFusion would call
/// it `person[name]`. A name that the SELECT has already is left alone.
pub fn name_fields_of_rows(select: &mut Select) {
    let mut relations = BTreeSet::new();
    for table in &select.from {
        relation_names(&table.relation, &mut relations);
        for join in &table.joins {
            relation_names(&join.relation, &mut relations);
        }
    }
    let names: Vec<Option<String>> = select.projection.iter().map(output_name).collect();
    for (n, item) in select.projection.iter_mut().enumerate() {
        let SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) = item else { continue };
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else { continue };
        let of_relation = relations.contains(&first.value);
        let unique = names.iter().enumerate().all(|(m, name)| m == n || name.as_ref() != Some(&last.value));
        if unique && (!of_relation || parts.len() > 2) {
            let alias = Ident { span: last.span, ..last.clone() };
            *item = SelectItem::ExprWithAlias { expr: Expr::CompoundIdentifier(parts.clone()), alias };
        }
    }
}

fn output_name(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::UnnamedExpr(Expr::Identifier(ident)) => Some(ident.value.clone()),
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => parts.last().map(|p| p.value.clone()),
        SelectItem::ExprWithAlias { alias, .. } => Some(alias.value.clone()),
        _ => None,
    }
}

fn relation_names(factor: &TableFactor, names: &mut BTreeSet<String>) {
    let last = |name: &ObjectName| name.0.last().and_then(|p| p.as_ident()).map(|i| i.value.clone());
    let (alias, name) = match factor {
        TableFactor::Table { name, alias, .. } => (alias, last(name)),
        TableFactor::Derived { alias, .. }
        | TableFactor::TableFunction { alias, .. }
        | TableFactor::Function { alias, .. }
        | TableFactor::UNNEST { alias, .. } => (alias, None),
        TableFactor::NestedJoin { table_with_joins, alias } => {
            relation_names(&table_with_joins.relation, names);
            for join in &table_with_joins.joins {
                relation_names(&join.relation, names);
            }
            (alias, None)
        }
        _ => return,
    };
    match alias {
        Some(alias) => names.insert(alias.name.value.clone()),
        None => name.is_some_and(|n| names.insert(n)),
    };
    // A window function over a table keeps the table's name.
    if let TableFactor::TableFunction { expr: Expr::Function(function), alias: None } = factor
        && let FunctionArguments::List(list) = &function.args
    {
        names.extend(list.args.iter().filter_map(table_argument));
    }
    if let TableFactor::Table { args: Some(args), alias: None, .. } = factor {
        names.extend(args.args.iter().filter_map(table_argument));
    }
}

fn table_argument(arg: &FunctionArg) -> Option<String> {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Identifier(ident)))
        | FunctionArg::Named { arg: FunctionArgExpr::Expr(Expr::Identifier(ident)), .. } => Some(ident.value.clone()),
        _ => None,
    }
}
