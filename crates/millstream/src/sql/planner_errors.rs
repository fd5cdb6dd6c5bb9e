//! What DataFusion says of a query that it can't plan, as a reader of SQL understands it, and where that stands.

use datafusion::common::DataFusionError;
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use super::diagnostic::SqlError;

/// Why a subquery that is related to the rows around it is refused, and what works.
pub const SUBQUERY: &str = "this subquery can't become a join: it is related to the row around it by more than equality, or over \
     two queries, or within a LIMIT, a DISTINCT or another subquery. Relate it by equality alone, or write the join itself (JOIN .. \
     ON .., with GROUP BY for an aggregate); ROW_NUMBER() .. <= n ranks where it has a LIMIT";

/// What an error of the optimizer means, over a plan with or without subqueries. The names in the plan were found before:
/// what is not found any more was lost when a subquery became a join.
pub fn of_optimizer(error: DataFusionError, asks_queries: bool) -> DataFusionError {
    match error.find_root() {
        DataFusionError::SchemaError(..) if asks_queries => SqlError::somewhere(SUBQUERY).into(),
        _ => error,
    }
}

/// Whether a plan has subqueries that are to become joins.
pub fn asks_queries(plan: &LogicalPlan) -> bool {
    let of = |expr: &Expr| {
        matches!(expr, Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_) | Expr::SetComparison(_))
    };
    let asks = |node: &LogicalPlan| {
        matches!(node, LogicalPlan::Subquery(_))
            || node.expressions().iter().any(|e| e.exists(|e| Ok(of(e))).unwrap_or(true))
    };
    plan.exists(|node| Ok(asks(node))).unwrap_or(true)
}

/// DataFusion's message as one that a reader of SQL understands: what it prints of its own structures says nothing to him.
pub(super) fn said(message: &str) -> String {
    if message.starts_with("Correlated scalar subquery must be aggregated") {
        return "a subquery that stands for one value, and looks at the row around it, has to be an aggregate: (SELECT max(x) \
                FROM .. WHERE ..), which is the value itself where there is one row"
            .to_string();
    }
    let of_plan = "Physical plan does not support logical expression ";
    if let Some(at) = message.find(of_plan) {
        let what = message.get(at + of_plan.len()..).unwrap_or_default();
        let subquery = ["Exists", "InSubquery", "OuterReferenceColumn", "ScalarSubquery", "SetComparison"]
            .iter()
            .any(|w| what.starts_with(w));
        return match subquery {
            true => SUBQUERY.to_string(),
            false => format!("{} can't stand here", name_of(what)),
        };
    }
    if let Some(plainly) = wrong_types(message).or_else(|| wrong_count(message)).or_else(|| missing(message)) {
        return plainly;
    }
    let markers = ["Unsupported ast node in sqltorel: ", "Unsupported ast node ", "Unsupported JOIN operator "];
    if let Some(what) = markers.iter().find_map(|marker| message.split_once(marker)) {
        return format!("{} is not supported: docs/sql.md says what is", name_of(what.1));
    }
    let message = message.strip_prefix("Internal error: ").unwrap_or(message);
    match message.find(" { ") {
        Some(dump) => {
            let before = message.get(..dump).unwrap_or_default();
            before.rsplit_once(": ").map_or(before, |(before, _)| before).to_string()
        }
        None => message.to_string(),
    }
}

/// The first word of what DataFusion prints of a structure.
fn name_of(dump: &str) -> &str {
    dump.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default()
}

/// `Function 'sum' requires Decimal, but received String (DataType: ..)`, once or for each of several types.
fn wrong_types(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("Function '")?;
    let name = rest.split('\'').next()?;
    let mut takes: Vec<&str> = vec![];
    for part in message.split(" requires ").skip(1) {
        let kind = part.split(", but received ").next()?;
        if !takes.contains(&kind) {
            takes.push(kind);
        }
    }
    let given = message.split(", but received ").nth(1)?.split(" (DataType").next()?;
    if takes.is_empty() {
        return None;
    }
    Some(format!("'{name}' takes {}, and is given {given}: CAST or TRY_CAST it", takes.join(" or ")))
}

/// `UNION queries have different number of columns; left has 1 columns whereas right has 2 columns`, and rows of VALUES.
fn wrong_count(message: &str) -> Option<String> {
    let numbers = |text: &str| -> Vec<usize> {
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
    };
    if let Some((operation, sides)) = message.split_once(" queries have different number of columns") {
        let [left, right] = *numbers(sides).as_slice() else { return None };
        return Some(format!(
            "{operation} needs as many columns on both sides: there are {left} before it and {right} after it"
        ));
    }
    let rows = message.split_once("Inconsistent data length across values list")?.1;
    let [here, row, first] = *numbers(rows).as_slice() else { return None };
    Some(format!("the rows of VALUES need as many values each: the first has {first}, row {} has {here}", row + 1))
}

/// `The window w is not defined!`, `Placeholder '$1' was not provided a value for execution`.
fn missing(message: &str) -> Option<String> {
    if let Some((window, _)) = message.strip_prefix("The window ").and_then(|rest| rest.split_once(" is not defined")) {
        return Some(format!("there is no window '{window}': name it behind the query, WINDOW {window} AS (..)"));
    }
    let parameter = message.strip_prefix("Placeholder '")?.split_once('\'')?.0;
    Some(format!("'{parameter}' is a parameter, and nobody gives it a value here: write the value"))
}

/// DataFusion's message without what it puts before it and after it.
pub(super) fn plain(message: &str) -> String {
    let message = message.lines().map(str::trim_end).collect::<Vec<_>>().join(" ");
    let cut = message.find("This issue was likely caused by").unwrap_or(message.len());
    message.get(..cut).unwrap_or(&message).trim_end_matches(['.', ' ']).to_string()
}

/// A table that is missing where it is named, and is in FROM elsewhere: a subquery sees the query right around it.
pub(super) fn of_another_query(error: SqlError, tokens: &[TokenWithSpan]) -> SqlError {
    let missing = error.message.strip_prefix("there is no table '").and_then(|rest| rest.split_once("' in this FROM"));
    let Some((table, _)) = missing else { return error };
    let is = |token: &TokenWithSpan| matches!(&token.token, Token::Word(w) if w.value == table);
    let dotted = |pair: &&[TokenWithSpan]| match pair {
        [name, dot] => is(name) && dot.token == Token::Period,
        _ => false,
    };
    let places: Vec<Span> = tokens.windows(2).filter(dotted).filter_map(|pair| Some(pair.first()?.span)).collect();
    let named = tokens.iter().filter(|token| is(token)).count();
    match places.last() {
        Some(place) if named > places.len() => SqlError::new(
            *place,
            format!(
                "there is no table '{table}' in this FROM: it is in that of another query, and a subquery looks at the query \
                 right around it, no further: join there with what it needs"
            ),
        ),
        _ => error,
    }
}

/// The first subquery.
pub(super) fn place_of_subquery(tokens: &[TokenWithSpan]) -> Option<Span> {
    let is = |token: &TokenWithSpan, word: &str| matches!(&token.token, Token::Word(w) if w.value.eq_ignore_ascii_case(word));
    let opens = |pair: &[TokenWithSpan]| match pair {
        [open, select] => open.token == Token::LParen && is(select, "SELECT"),
        _ => false,
    };
    tokens.windows(2).find(|pair| opens(pair)).and_then(|pair| pair.last()).map(|select| select.span)
}

/// The first of the words in capitals of a message that the statement has too: `not allowed in the WHERE clause`.
pub(super) fn place_of_clause(message: &str, tokens: &[TokenWithSpan]) -> Option<Span> {
    let words = message.split(|c: char| !c.is_ascii_uppercase()).filter(|w| w.len() > 2 && *w != "SELECT");
    // Or it begins with the word itself.
    words.chain(message.split(' ').take(1)).find_map(|word| {
        let is_word = |t: &&TokenWithSpan| matches!(&t.token, Token::Word(w) if w.value.eq_ignore_ascii_case(word));
        tokens.iter().find(is_word).map(|t| t.span)
    })
}

/// Some of DataFusion's errors have no place, but quote the word that they are about.
pub(super) fn place_of_quoted_word(message: &str, tokens: &[TokenWithSpan]) -> Option<Span> {
    let quoted = message.split(['\'', '"', '`']).skip(1).step_by(2);
    let mut words = quoted.flat_map(|q| q.split(|c: char| !c.is_alphanumeric() && c != '_')).filter(|w| !w.is_empty());
    words.find_map(|word| {
        let is_word = |t: &&TokenWithSpan| matches!(&t.token, Token::Word(w) if w.value.eq_ignore_ascii_case(word));
        tokens.iter().find(is_word).map(|t| t.span)
    })
    .or_else(|| {
        let is_parameter = |t: &&TokenWithSpan| matches!(&t.token, Token::Placeholder(p) if message.starts_with(&format!("'{p}'")));
        tokens.iter().find(is_parameter).map(|t| t.span)
    })
    .or_else(|| {
        // A path in FROM is text to the parser, and loses its place there.
        let is_path = |t: &&TokenWithSpan| matches!(&t.token, Token::SingleQuotedString(s) if message.contains(s.as_str()) && s.len() > 3);
        tokens.iter().find(is_path).map(|t| t.span)
    })
    .or_else(|| {
        let mut texts = message.split('\'').skip(1).step_by(2);
        texts.find_map(|text| {
            let is_text = |t: &&TokenWithSpan| matches!(&t.token, Token::SingleQuotedString(s) if s == text);
            tokens.iter().find(is_text).map(|t| t.span)
        })
    })
}
