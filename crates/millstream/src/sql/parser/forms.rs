//! The forms of functions that DataFusion has under another name, or in another form.
//!
//! Expressions keep their spans. Where a name means something else to Flink and Spark than to DataFusion, and the
//! difference would not be seen, the call is refused with both ways to write it.

mod aggregate;
mod json;
mod lengths;
pub(super) mod syntax;

use std::mem;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Array, BinaryOperator, CeilFloorKind, DataType, DateTimeField, ExactNumberInfo, Expr, Function, FunctionArg,
    FunctionArgExpr, FunctionArguments, Query, Select, Spanned, TableFactor, TimezoneInfo, UnaryOperator, Value,
    VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::{Span, TokenWithSpan};

use self::syntax::{call, case, cast, literal, plus, rename, text};
use super::clauses::IS_JSON;
use super::complete::Places;
use super::json_operators::{bind, is_json_operator, nothing};
use super::rewrite::{fetch_as_limit, name_fields_of_rows};
use super::{
    as_of, complete, distinct_from, group_window, lateral, membership, other_dialects, scalars, set_operations,
    similar, tuples,
};
use crate::sql::diagnostic::SqlError;

/// Names of Flink and Spark, and DataFusion's for the same.
const NAMES: [(&str, &str); 27] = [
    ("approx_count_distinct", "approx_distinct"),
    ("array_size", "cardinality"),
    ("ceiling", "ceil"),
    ("char", "chr"),
    ("endswith", "ends_with"),
    ("every", "bool_and"),
    ("first", "first_value"),
    ("last", "last_value"),
    ("lcase", "lower"),
    ("len", "length"),
    ("map_from_arrays", "map"),
    ("regexp", "regexp_like"),
    ("rlike", "regexp_like"),
    ("sha", "sha1"),
    ("sign", "signum"),
    ("size", "cardinality"),
    ("sort_array", "array_sort"),
    ("startswith", "starts_with"),
    ("std", "stddev_samp"),
    ("stddev_population", "stddev_pop"),
    ("stddev_sample", "stddev_samp"),
    ("truncate", "trunc"),
    ("typeof", "arrow_typeof"),
    ("ucase", "upper"),
    ("var_population", "var_pop"),
    ("variance", "var_samp"),
    ("localtime", "current_time"),
];

/// Puts a parsed query into DataFusion's forms. The tokens are those of its statement.
///
/// # Errors
/// Where a call means one thing to Flink and another to DataFusion, or a clause has no meaning here.
pub fn query(query: &mut Query, tokens: &[TokenWithSpan]) -> Result<(), SqlError> {
    done(VisitMut::visit(query, &mut Forms::new(tokens)))
}

/// Puts a parsed expression into DataFusion's forms.
///
/// # Errors
/// As `query`, of one expression.
pub fn expression(expr: &mut Expr) -> Result<(), SqlError> {
    done(VisitMut::visit(expr, &mut Forms::new(&[])))
}

fn done(flow: ControlFlow<SqlError>) -> Result<(), SqlError> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

/// Expressions are nested no deeper, and no more queries are put together: each one of them is a call within a call
/// wherever it is walked, also where batches run, on the stack of whoever runs them.
const DEPTH_MAX: usize = 1_000;

struct Forms<'a> {
    places: Places<'a>,
    depth: usize,
}

impl<'a> Forms<'a> {
    fn new(tokens: &'a [TokenWithSpan]) -> Self {
        Self { places: Places(tokens), depth: 0 }
    }
}

impl VisitorMut for Forms<'_> {
    type Break = SqlError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
        if let Err(error) = complete::query(query, self.places).and_then(|()| other_dialects::query(query)) {
            return ControlFlow::Break(error);
        }
        set_operations::counted(query);
        fetch_as_limit(query);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<SqlError> {
        let checked = complete::select(select, self.places);
        if let Err(error) = checked.and_then(|()| other_dialects::select(select, self.places)) {
            return ControlFlow::Break(error);
        }
        if let Err(error) = lengths::of_named_windows(&select.named_window) {
            return ControlFlow::Break(error);
        }
        as_of::joins(select)?;
        group_window::into_from(select);
        name_fields_of_rows(select);
        lateral::unnests(select);
        membership::select(select);
        scalars::named(select);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, table: &mut TableFactor) -> ControlFlow<SqlError> {
        let checked = complete::table(table, self.places).and_then(|()| other_dialects::table(table, self.places));
        checked.map_or_else(ControlFlow::Break, ControlFlow::Continue)
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
        self.depth += 1;
        if self.depth <= DEPTH_MAX {
            distinct_from::regrouped(expr);
            let lengths = match expr {
                Expr::Function(function) => lengths::of_call(function),
                Expr::Interval(interval) => lengths::of_interval(interval),
                _ => Ok(()),
            };
            return lengths.map_or_else(ControlFlow::Break, ControlFlow::Continue);
        }
        let reason = format!(
            "an expression is nested {DEPTH_MAX} deep at the most, and a chain of OR or + nests with each of its terms: \
             write x IN (..), put parentheses around halves of the chain, or join with a table of the values"
        );
        ControlFlow::Break(SqlError::new(first_place(expr), reason))
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
        self.depth -= 1;
        match form(expr) {
            Ok(Some(form)) => *expr = form,
            Ok(None) => {}
            Err(error) => return ControlFlow::Break(error),
        }
        ControlFlow::Continue(())
    }
}

/// Where the deepest part of a chain begins; the span of the whole would take a walk for each of its parts.
fn first_place(expr: &Expr) -> Span {
    match expr {
        Expr::BinaryOp { left, .. } => first_place(left),
        other => other.span(),
    }
}

fn form(expr: &mut Expr) -> Result<Option<Expr>, SqlError> {
    let span = expr.span();
    Ok(match expr {
        Expr::Function(function) => function_form(function)?,
        Expr::BinaryOp { op, .. } if is_json_operator(op) => match mem::replace(expr, nothing()) {
            Expr::BinaryOp { left, op, right } => Some(bind(left, op, right)),
            other => Some(other),
        },
        Expr::RLike { negated, expr, pattern, .. } => {
            let call = match json_kind(pattern) {
                Some(kind) => call("is_json", span, vec![take(expr), text(&kind)]),
                None => call("regexp_like", span, vec![take(expr), take(pattern)]),
            };
            Some(negated_if(*negated, call))
        }
        Expr::SimilarTo { negated, expr, pattern, escape_char } => {
            let pattern = similar::constant(pattern, escape_char.as_ref(), span)?;
            Some(negated_if(*negated, call("regexp_like", span, vec![take(expr), text(&pattern)])))
        }
        Expr::Floor { expr, field: CeilFloorKind::DateTimeField(unit) } if *unit != DateTimeField::NoDateTime => {
            Some(call("floor_time", span, vec![text(&unit.to_string()), take(expr)]))
        }
        Expr::Ceil { expr, field: CeilFloorKind::DateTimeField(unit) } if *unit != DateTimeField::NoDateTime => {
            Some(call("ceil_time", span, vec![text(&unit.to_string()), take(expr)]))
        }
        // DataFusion looks for the columns of a literal in the query that it stands in alone, and not in those around it.
        Expr::Array(Array { elem, .. }) => Some(call("make_array", span, mem::take(elem))),
        Expr::BinaryOp { .. } | Expr::InList { .. } => tuples::compared(expr),
        Expr::Substring { substring_from: Some(from), .. } if is_before_the_first(from) => {
            return Err(from_the_end(span));
        }
        _ => None,
    })
}

fn take(expr: &mut Expr) -> Expr {
    mem::replace(expr, nothing())
}

fn negated_if(negated: bool, expr: Expr) -> Expr {
    match negated {
        true => Expr::Nested(Box::new(Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(expr) })),
        false => expr,
    }
}

/// The kind in `x IS JSON kind`, where it is that.
fn json_kind(expr: &Expr) -> Option<String> {
    literal(expr)?.strip_prefix(IS_JSON).map(String::from)
}

/// Before the first character, which is 1.
fn is_before_the_first(expr: &Expr) -> bool {
    matches!(expr, Expr::UnaryOp { op: UnaryOperator::Minus, .. })
        || matches!(expr, Expr::Value(value) if matches!(&value.value, Value::Number(n, _) if n == "0"))
}

fn from_the_end(span: Span) -> SqlError {
    let reason = "the first character is 1: a place before it counts from the end in Flink and Spark (0 is 1 there), and from \
                  before the beginning in DataFusion and PostgreSQL. Take the last characters with RIGHT(text, n)";
    SqlError::new(span, reason)
}

fn function_form(function: &mut Function) -> Result<Option<Expr>, SqlError> {
    let [part] = function.name.0.as_slice() else { return Ok(None) };
    let Some(ident) = part.as_ident().cloned() else { return Ok(None) };
    let name = ident.value.to_ascii_lowercase();
    let span = ident.span;
    if matches!(function.args, FunctionArguments::None) {
        return Ok(match name.as_str() {
            // A column called user: sqlparser takes the bare word for SQL's USER.
            "user" => Some(Expr::Identifier(ident)),
            "localtimestamp" => Some(local_timestamp(span)),
            "localtime" => Some(call("current_time", span, vec![])),
            _ => None,
        });
    }
    if let Some((_, known)) = NAMES.iter().find(|(other, _)| *other == name) {
        rename(function, known, span);
        return Ok(None);
    }
    let Some(args) = arguments(function) else { return Ok(None) };
    if aggregate::form(function, &name, span, &args) {
        return Ok(None);
    }
    scalar_form(function, &name, span, args)
}

/// The arguments, where each is an expression.
fn arguments(function: &Function) -> Option<Vec<Expr>> {
    let FunctionArguments::List(list) = &function.args else { return None };
    list.args.iter().map(argument).collect()
}

fn argument(arg: &FunctionArg) -> Option<Expr> {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    }
}

fn local_timestamp(span: Span) -> Expr {
    cast(call("now", span, vec![]), DataType::Timestamp(Some(3), TimezoneInfo::None))
}

/// Forms of scalar functions.
fn scalar_form(function: &Function, name: &str, span: Span, args: Vec<Expr>) -> Result<Option<Expr>, SqlError> {
    let given = args.clone();
    Ok(match (name, given.as_slice()) {
        ("if", [condition, then, otherwise]) => Some(case(None, vec![(condition, then)], Some(otherwise))),
        ("mod", [left, right]) => Some(modulo(left, right)),
        ("elt", [place, texts @ ..]) if !texts.is_empty() => Some(elt(place, texts)),
        ("isnull", [value]) => Some(Expr::Nested(Box::new(Expr::IsNull(Box::new(value.clone()))))),
        ("isnotnull", [value]) => Some(Expr::Nested(Box::new(Expr::IsNotNull(Box::new(value.clone()))))),
        ("e", []) => Some(cast(text("2.718281828459045"), DataType::Double(ExactNumberInfo::None))),
        ("localtimestamp", []) => Some(local_timestamp(span)),
        ("space", [n]) => Some(call("repeat", span, vec![text(" "), n.clone()])),
        ("unix_timestamp", []) => Some(call("unix_timestamp", span, vec![call("now", span, vec![])])),
        ("unix_timestamp", [_, _]) => Some(call("seconds_of_pattern", span, args)),
        // A pattern of chrono's has percent signs, and one of Java's has none.
        ("to_timestamp", [_, pattern]) if literal(pattern).is_some_and(|p| !p.contains('%')) => {
            Some(call("timestamp_of_pattern", span, args))
        }
        ("to_date", [_, pattern]) if literal(pattern).is_some_and(|p| !p.contains('%')) => {
            Some(call("date_of_pattern", span, args))
        }
        ("timestampdiff" | "timestampadd", [Expr::Identifier(unit), rest @ ..]) => {
            let args = std::iter::once(text(&unit.value)).chain(rest.iter().cloned());
            Some(call(name, span, args.collect()))
        }
        ("datediff" | "date_diff", [_, _, _]) => {
            let reason = "a difference by a unit counts whole units in Spark, and boundaries in warehouses: use \
                          TIMESTAMPDIFF(unit, from, to), which counts whole units";
            return Err(SqlError::new(span, reason));
        }
        ("date_add", [date, length @ Expr::Interval(_)]) => Some(plus(date, BinaryOperator::Plus, length)),
        ("date_sub", [date, length @ Expr::Interval(_)]) => Some(plus(date, BinaryOperator::Minus, length)),
        ("log", [_]) => {
            let reason = "LOG of one argument is to the base e in Flink and Spark, and to the base 10 in DataFusion and \
                          PostgreSQL: write LN(x) or LOG10(x)";
            return Err(SqlError::new(span, reason));
        }
        ("regexp_replace", [_, _, _]) => {
            let reason = "REGEXP_REPLACE of three arguments replaces every match in Flink and Spark, and the first in \
                          DataFusion and PostgreSQL: add 'g' as the fourth for every match, or 'c' for the first";
            return Err(SqlError::new(span, reason));
        }
        ("substr" | "substring", [_, from, ..]) if is_before_the_first(from) => return Err(from_the_end(span)),
        ("sha2", [value, bits]) => match bits.to_string().as_str() {
            "0" | "256" => Some(sha(value, "sha256", span)),
            "224" | "384" | "512" => Some(sha(value, &format!("sha{bits}"), span)),
            _ => return Err(SqlError::new(span, "SHA2 takes the number of bits as a constant: 224, 256, 384 or 512")),
        },
        ("sha224" | "sha256" | "sha384" | "sha512", [value]) => Some(sha(value, name, span)),
        ("encode", [value, format]) => encode(value, format, span, args),
        ("decode", [_, format]) => {
            literal(format).filter(|f| !is_encoding(f)).map(|_| call("decode_charset", span, args))
        }
        ("to_base64" | "base64", [value]) => Some(call("encode", span, vec![value.clone(), text("base64pad")])),
        ("unbase64", [value]) => Some(call("decode", span, vec![value.clone(), text("base64")])),
        ("from_base64", [value]) => {
            Some(cast(call("decode", span, vec![value.clone(), text("base64")]), DataType::Varchar(None)))
        }
        ("json_object", args) => Some(json::object(function, span, args)?),
        ("json_array", args) => Some(json::array(function, span, args)),
        ("map_of", args) if args.len().is_multiple_of(2) => {
            let every_other = |from| args.iter().skip(from).step_by(2).cloned().collect();
            let array = |elem| Expr::Array(Array { elem, named: true });
            Some(call("map", span, vec![array(every_other(0)), array(every_other(1))]))
        }
        ("map_of", _) => return Err(SqlError::new(span, "MAP[..] takes a value for each key: MAP['a', 1, 'b', 2]")),
        _ => None,
    })
}

fn modulo(left: &Expr, right: &Expr) -> Expr {
    // Each side keeps its parentheses: MOD(a + b, c) is no a + b % c.
    let nested = |side: &Expr| Expr::Nested(Box::new(side.clone()));
    plus(&nested(left), BinaryOperator::Modulo, &nested(right))
}

fn elt(place: &Expr, texts: &[Expr]) -> Expr {
    let places: Vec<Expr> = (1..=texts.len()).map(|n| Expr::value(Value::Number(n.to_string(), false))).collect();
    case(Some(place), places.iter().zip(texts).collect(), None)
}

/// A digest in hexadecimal digits, as Flink and Spark answer it.
fn sha(value: &Expr, algorithm: &str, span: Span) -> Expr {
    let digest = call("digest", span, vec![value.clone(), text(algorithm)]);
    call("encode", span, vec![digest, text("hex")])
}

fn is_encoding(format: &str) -> bool {
    ["hex", "base64", "base64pad"].iter().any(|f| f.eq_ignore_ascii_case(format))
}

fn encode(value: &Expr, format: &Expr, span: Span, args: Vec<Expr>) -> Option<Expr> {
    let format = literal(format)?;
    // SHA256(x) is hexadecimal text already.
    if format.eq_ignore_ascii_case("hex")
        && let Expr::Function(inner) = value
        && inner.name.to_string() == "encode"
        && matches!(arguments(inner)?.first(), Some(Expr::Function(f)) if f.name.to_string() == "digest")
    {
        return Some(value.clone());
    }
    (!is_encoding(format)).then(|| call("encode_charset", span, args))
}
