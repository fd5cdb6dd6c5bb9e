//! The names of merged columns, where a SELECT says them.

use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Expr, Ident, ObjectName, SelectItem, WildcardAdditionalOptions,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use super::{Scope, Visible};
use crate::sql::diagnostic::SqlError;
use crate::sql::parser::change_outermost;

/// An item of SELECT, whose columns keep their names.
pub fn named(item: SelectItem, scope: &Scope) -> Result<Vec<SelectItem>, SqlError> {
    let under_name = |column: &Visible| match &column.value {
        value @ (Expr::Identifier(_) | Expr::CompoundIdentifier(_)) => SelectItem::UnnamedExpr(value.clone()),
        value => SelectItem::ExprWithAlias { expr: value.clone(), alias: Ident::with_quote('"', &column.name) },
    };
    Ok(match item {
        SelectItem::Wildcard(options) => {
            let left_out = left_out(&options)?;
            scope.columns.iter().filter(|column| !left_out.contains(&column.name)).map(under_name).collect()
        }
        SelectItem::UnnamedExpr(Expr::Identifier(name)) if let Some(value) = scope.merged(&name.value) => {
            let column = Visible { name: name.value.clone(), value: at(value, name.span), merged: true };
            vec![under_name(&column)]
        }
        SelectItem::UnnamedExpr(mut expr) => {
            name_columns(&mut expr, scope);
            vec![SelectItem::UnnamedExpr(expr)]
        }
        SelectItem::ExprWithAlias { mut expr, alias } => {
            name_columns(&mut expr, scope);
            vec![SelectItem::ExprWithAlias { expr, alias }]
        }
        other => vec![other],
    })
}

/// The columns that a star leaves out.
fn left_out(options: &WildcardAdditionalOptions) -> Result<Vec<String>, SqlError> {
    if options.opt_replace.is_some() || options.opt_rename.is_some() || options.opt_ilike.is_some() {
        let reason = "a star beside USING or NATURAL takes EXCLUDE (..) alone: name the columns in SELECT";
        return Err(SqlError::new(options.wildcard_token.0.span, reason));
    }
    let mut names: Vec<String> = vec![];
    let last = |name: &ObjectName| Some(name.0.last()?.as_ident()?.value.clone());
    match &options.opt_exclude {
        Some(ExcludeSelectItem::Single(name)) => names.extend(last(name)),
        Some(ExcludeSelectItem::Multiple(all)) => names.extend(all.iter().filter_map(last)),
        None => {}
    }
    if let Some(except) = &options.opt_except {
        names
            .extend(std::iter::once(&except.first_element).chain(&except.additional_elements).map(|n| n.value.clone()));
    }
    Ok(names)
}

/// An expression whose merged columns are named.
pub fn name_columns(expr: &mut Expr, scope: &Scope) {
    change_outermost(expr, |expr| name_column(expr, scope));
}

/// The same, of the expression itself.
pub fn name_column(expr: &mut Expr, scope: &Scope) {
    if let Expr::Identifier(name) = expr
        && let Some(value) = scope.merged(&name.value)
    {
        *expr = at(value, name.span);
    }
}

/// A merged column, at the place of its name.
fn at(value: &Expr, span: Span) -> Expr {
    let mut value = value.clone();
    change_outermost(&mut value, |expr| match expr {
        Expr::Identifier(name) => name.span = span,
        Expr::CompoundIdentifier(parts) => parts.iter_mut().for_each(|part| part.span = span),
        _ => {}
    });
    value
}

/// What an item of SELECT is called.
pub fn output_name(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::UnnamedExpr(Expr::Identifier(name)) => Some(name.value.clone()),
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => parts.last().map(|name| name.value.clone()),
        SelectItem::ExprWithAlias { alias, .. } => Some(alias.value.clone()),
        _ => None,
    }
}
