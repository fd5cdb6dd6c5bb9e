//! Flink's forms that sqlparser does not know, put into forms it does.
//!
//! Tokens are taken out, never moved, and expressions keep their spans: an error still points at the text as
//! it was written.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName,
    Query, Select, SelectItem, TableFactor, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::words;
use crate::sql::diagnostic::SqlError;

/// The functions whose first argument is a table.
const WINDOW_FUNCTIONS: [&str; 4] = ["TUMBLE", "HOP", "CUMULATE", "SESSION"];

/// The same tokens without the word TABLE before the first argument of a window function.
pub fn tokens(tokens: &[TokenWithSpan]) -> Vec<TokenWithSpan> {
    let mut kept = Vec::with_capacity(tokens.len());
    for (n, token) in tokens.iter().enumerate() {
        if words::is(&token.token, "TABLE") && follows_window_function(tokens, n) {
            continue;
        }
        kept.push(token.clone());
    }
    kept
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
    const FORMS: [(&[&str], &str); 3] = [
        (
            &["FOR", "SYSTEM_TIME", "AS", "OF"],
            "lookup joins (FOR SYSTEM_TIME AS OF) are not supported yet: there is nothing near that works",
        ),
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

/// Puts a parsed query into DataFusion's forms.
pub fn query(query: &mut Query) {
    let _ = VisitMut::visit(query, &mut Forms);
}

/// Puts a parsed expression into DataFusion's forms.
pub fn expression(expr: &mut Expr) {
    let _ = VisitMut::visit(expr, &mut Forms);
}

struct Forms;

impl VisitorMut for Forms {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        name_fields_of_rows(select);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr
            && let Some(form) = function_form(function)
        {
            *expr = form;
        }
        ControlFlow::Continue(())
    }
}

fn function_form(function: &Function) -> Option<Expr> {
    let [part] = function.name.0.as_slice() else { return None };
    let name = part.as_ident()?;
    match &function.args {
        // A column called user: sqlparser takes the bare word for SQL's USER.
        FunctionArguments::None if name.value.eq_ignore_ascii_case("user") => Some(Expr::Identifier(name.clone())),
        FunctionArguments::List(list) if name.value.eq_ignore_ascii_case("if") => case_of_if(&list.args),
        FunctionArguments::List(list) if name.value.eq_ignore_ascii_case("mod") => modulo(&list.args),
        _ => None,
    }
}

fn argument(arg: &FunctionArg) -> Option<Expr> {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    }
}

fn modulo(args: &[FunctionArg]) -> Option<Expr> {
    let [left, right] = args else { return None };
    let (left, right) = (Box::new(argument(left)?), Box::new(argument(right)?));
    // Each side keeps its parentheses: MOD(a + b, c) is no a + b % c.
    let (left, right) = (Box::new(Expr::Nested(left)), Box::new(Expr::Nested(right)));
    Some(Expr::Nested(Box::new(Expr::BinaryOp { left, op: BinaryOperator::Modulo, right })))
}

/// IF is CASE, so that only the branch that is taken is computed.
fn case_of_if(args: &[FunctionArg]) -> Option<Expr> {
    let [condition, then, otherwise] = args else { return None };
    Some(Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: vec![CaseWhen { condition: argument(condition)?, result: argument(then)? }],
        else_result: Some(Box::new(argument(otherwise)?)),
    })
}

/// `SELECT person.name` over a column `person` of type ROW is called `name`, as in Flink; DataFusion would call
/// it `person[name]`. A name that the SELECT has already is left alone.
fn name_fields_of_rows(select: &mut Select) {
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
