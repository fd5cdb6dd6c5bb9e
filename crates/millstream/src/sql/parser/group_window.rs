//! Flink's older form of windows, `GROUP BY k, TUMBLE(ts, INTERVAL '10' SECOND)`, put into the one in FROM.
//!
//! `SELECT k, SESSION_START(ts, i) .. FROM t GROUP BY k, SESSION(ts, i)` becomes
//! `SELECT k, window_start .. FROM SESSION(t, k, ts, i) GROUP BY k, window_start, window_end, window_time`. It is done
//! where FROM is one table, a query or a view; anything else stays as it was, and is refused with the form that works.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, GroupByExpr, Ident,
    ObjectName, Select, TableAlias, TableFactor, VisitMut, VisitorMut,
};

/// The functions, with the number of lengths that they take.
const WINDOWS: [(&str, usize); 3] = [("TUMBLE", 1), ("HOP", 2), ("SESSION", 1)];

/// A window in GROUP BY.
struct GroupWindow {
    name: Ident,
    time: Expr,
    lengths: Vec<FunctionArg>,
}

/// Puts the window of a GROUP BY into FROM.
pub fn into_from(select: &mut Select) {
    let GroupByExpr::Expressions(exprs, modifiers) = &select.group_by else { return };
    let windows: Vec<(usize, GroupWindow)> =
        exprs.iter().enumerate().filter_map(|(i, e)| group_window(e).map(|w| (i, w))).collect();
    let [(place, window)] = windows.as_slice() else { return };
    let keys: Vec<Expr> = exprs.iter().enumerate().filter(|(i, _)| i != place).map(|(_, e)| e.clone()).collect();
    let [from] = select.from.as_mut_slice() else { return };
    if !from.joins.is_empty() || !modifiers.is_empty() {
        return;
    }
    let Some(relation) = windowed(&from.relation, window, &keys) else { return };
    from.relation = relation;
    let mut exprs = keys;
    exprs.extend(["window_start", "window_end", "window_time"].map(|n| column(n, &window.name)));
    select.group_by = GroupByExpr::Expressions(exprs, vec![]);
    let mut bounds = BoundsOf { name: window.name.value.to_ascii_uppercase() };
    for item in &mut select.projection {
        let _ = VisitMut::visit(item, &mut bounds);
    }
    if let Some(having) = &mut select.having {
        let _ = VisitMut::visit(having, &mut bounds);
    }
}

fn column(name: &str, at: &Ident) -> Expr {
    Expr::Identifier(Ident { value: name.to_string(), quote_style: None, span: at.span })
}

fn group_window(expr: &Expr) -> Option<GroupWindow> {
    let Expr::Function(function) = expr else { return None };
    let [part] = function.name.0.as_slice() else { return None };
    let name = part.as_ident()?.clone();
    let (_, lengths) = WINDOWS.iter().find(|(w, _)| name.value.eq_ignore_ascii_case(w))?;
    let FunctionArguments::List(list) = &function.args else { return None };
    let (first, rest) = list.args.split_first()?;
    let FunctionArg::Unnamed(FunctionArgExpr::Expr(time)) = first else { return None };
    let time = unqualified(time).filter(|_| rest.len() == *lengths)?;
    Some(GroupWindow { name, time, lengths: rest.to_vec() })
}

/// The column by its own name: in the function there is one table.
fn unqualified(expr: &Expr) -> Option<Expr> {
    match expr {
        Expr::Identifier(_) => Some(expr.clone()),
        Expr::CompoundIdentifier(parts) => parts.last().cloned().map(Expr::Identifier),
        _ => None,
    }
}

/// The table in the window.
fn windowed(relation: &TableFactor, window: &GroupWindow, keys: &[Expr]) -> Option<TableFactor> {
    let (table, alias) = match relation {
        TableFactor::Table { name, alias, args: None, .. } => {
            let parts: Option<Vec<Ident>> = name.0.iter().map(|p| p.as_ident().cloned()).collect();
            let parts = parts?;
            let alias = alias.clone().or_else(|| parts.last().map(|p| named(p.clone())));
            let table = match <[Ident; 1]>::try_from(parts) {
                Ok([part]) => Expr::Identifier(part),
                Err(parts) => Expr::CompoundIdentifier(parts),
            };
            (table, alias)
        }
        TableFactor::Derived { lateral: false, subquery, alias, .. } => {
            (Expr::Subquery(subquery.clone()), alias.clone())
        }
        _ => return None,
    };
    let unnamed = |expr: Expr| FunctionArg::Unnamed(FunctionArgExpr::Expr(expr));
    let mut args = vec![unnamed(table)];
    if window.name.value.eq_ignore_ascii_case("session") {
        // The sessions are those of each group.
        for key in keys {
            args.push(unnamed(unqualified(key)?));
        }
    }
    args.push(unnamed(window.time.clone()));
    args.extend(window.lengths.iter().cloned());
    let function = Function {
        name: ObjectName::from(vec![window.name.clone()]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: vec![] }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    };
    Some(TableFactor::TableFunction { expr: Expr::Function(function), alias })
}

fn named(name: Ident) -> TableAlias {
    TableAlias { explicit: true, name, columns: vec![], at: None }
}

/// Turns `SESSION_START(..)` and the like into the column that it is.
struct BoundsOf {
    name: String,
}

impl VisitorMut for BoundsOf {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr
            && let [part] = function.name.0.as_slice()
            && let Some(ident) = part.as_ident()
            && let Some(bound) = ident.value.to_ascii_uppercase().strip_prefix(&self.name)
        {
            let name = match bound {
                "_START" => "window_start",
                "_END" => "window_end",
                "_ROWTIME" => "window_time",
                _ => return ControlFlow::Continue(()),
            };
            *expr = column(name, ident);
        }
        ControlFlow::Continue(())
    }
}
