//! JSON in text columns: SQL's functions, Spark's GET_JSON_OBJECT, and the operators `->` and `->>`.
//!
//! The operators and the functions `json_..` with a key in each argument are datafusion-functions-json's. Its
//! `json_get`, whose answer has another type in each row, stays out: no sink has a column for that. The parser
//! puts the clauses of SQL's functions (RETURNING, ON EMPTY, ..) into arguments.

mod build;
mod document;
mod path;

use std::borrow::Cow;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, new_null_array};
use datafusion::arrow::compute::kernels::zip::zip;
use datafusion::arrow::compute::{CastOptions, cast, cast_with_options};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{DFSchema, Result, ScalarValue, exec_err, plan_err};
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::sql::sqlparser::ast::BinaryOperator;
use datafusion_functions_json::udfs;

use super::Argument::{Any, Text};
use super::rows::{conditions, count, text, texts};
use super::{Builtin, Returns};
use document::{Json, Kind};
use path::{Path, Reached};

pub fn functions() -> Vec<Builtin> {
    let value = Returns::Of(|given| Ok(given.get(4).cloned().unwrap_or(DataType::Utf8View)));
    let mut functions = vec![
        Builtin::new("json_value", &[Text, Text, Text, Text, Any, Any, Any], value, json_value)
            .optional(5)
            .checked(check_path),
        Builtin::new("json_query", &[Text, Text, Text, Text, Text], DataType::Utf8View, json_query)
            .optional(3)
            .checked(check_path),
        Builtin::new("json_exists", &[Text, Text, Text], DataType::Boolean, json_exists)
            .optional(1)
            .checked(check_path),
        Builtin::new("get_json_object", &[Text, Text], DataType::Utf8View, get_json_object).checked(check_path),
        Builtin::new("is_json", &[Text, Text], DataType::Boolean, is_json),
        Builtin::new("json_quote", &[Text], DataType::Utf8View, |args| {
            texts(args, |row| Ok(text(args, 0, row).map(|t| build::quoted(t).into())))
        }),
        Builtin::new("json_unquote", &[Text], DataType::Utf8View, |args| {
            texts(args, |row| Ok(text(args, 0, row).map(unquoted)))
        }),
    ];
    functions.extend(build::functions());
    functions
}

/// Adds datafusion-functions-json's functions whose answer has one type, and the operators.
pub fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    let functions = [
        udfs::json_get_bool_udf(),
        udfs::json_get_float_udf(),
        udfs::json_get_int_udf(),
        udfs::json_get_json_udf(),
        udfs::json_get_array_udf(),
        udfs::json_get_str_udf(),
        udfs::json_as_text_udf(),
        udfs::json_contains_udf(),
        udfs::json_length_udf(),
        udfs::json_object_keys_udf(),
    ];
    for function in functions {
        registry.register_udf(function)?;
    }
    registry.register_expr_planner(Arc::new(Operators))
}

/// `->` answers JSON as text, `->>` a value as text.
#[derive(Debug)]
struct Operators;

impl ExprPlanner for Operators {
    fn plan_binary_op(&self, expr: RawBinaryExpr, _schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let function = match expr.op {
            BinaryOperator::Arrow => udfs::json_get_json_udf(),
            BinaryOperator::LongArrow => udfs::json_as_text_udf(),
            _ => return Ok(PlannerResult::Original(expr)),
        };
        let call = ScalarFunction::new_udf(function, vec![expr.left, expr.right]);
        Ok(PlannerResult::Planned(Expr::ScalarFunction(call)))
    }
}

fn check_path(args: &[Option<&ScalarValue>]) -> Result<()> {
    match args.get(1).copied().flatten().and_then(|p| p.try_as_str()).flatten().map(Path::read) {
        Some(Err(reason)) => plan_err!("{reason}"),
        _ => Ok(()),
    }
}

/// The path of the row before, because it is mostly that of the next.
#[derive(Default)]
struct Paths<'a>(Option<(&'a str, Path)>);

impl<'a> Paths<'a> {
    fn get(&mut self, text: &'a str) -> Result<&Path> {
        let read = match self.0.take() {
            Some((of, path)) if of == text => path,
            _ => Path::read(text).or_else(|reason| exec_err!("{reason}"))?,
        };
        Ok(&self.0.insert((text, read)).1)
    }
}

/// What was found where a function looked.
enum Found<T> {
    Value(T),
    Empty,
    /// The text is no JSON, or a strict path leads nowhere, or what it leads to is of another kind.
    Wrong(&'static str),
}

/// `None` where an argument is NULL; then whether the path is lax, and what it leads to.
fn look<'a>(args: &'a [ArrayRef], row: usize, paths: &mut Paths<'a>) -> Result<Option<(bool, Found<Reached<'a>>)>> {
    let (Some(json), Some(path)) = (text(args, 0, row), text(args, 1, row)) else { return Ok(None) };
    let path = paths.get(path)?;
    let Some(json) = Json::read(json) else { return Ok(Some((path.lax, Found::Wrong("the text is no JSON")))) };
    let found = match path.follow(json) {
        Reached::Nothing if path.lax => Found::Empty,
        Reached::Nothing => Found::Wrong("the path leads nowhere"),
        reached => Found::Value(reached),
    };
    Ok(Some((path.lax, found)))
}

/// A scalar, as SQL's JSON_VALUE: the arguments are JSON, path, what to do where it is empty, what to do on an
/// error, a NULL of the type to return, and the two defaults.
fn json_value(args: &[ArrayRef]) -> Result<ArrayRef> {
    let rows = count(args);
    let mut paths = Paths::default();
    let mut empty = vec![false; rows];
    let mut wrong = vec![None; rows];
    let values = texts(args, |row| {
        let found = match look(args, row, &mut paths)? {
            None => return Ok(None),
            Some((lax, found)) => scalar(lax, found),
        };
        match (found, empty.get_mut(row), wrong.get_mut(row)) {
            (Found::Value(value), ..) => return Ok(Some(Cow::Owned(value))),
            (Found::Empty, Some(empty), _) => *empty = true,
            (Found::Wrong(reason), _, Some(wrong)) => *wrong = Some(reason),
            _ => {}
        }
        Ok(None)
    })?;
    let to = args.get(4).map_or(DataType::Utf8View, |a| a.data_type().clone());
    let cast_values = cast_with_options(&values, &to, &CastOptions { safe: true, ..CastOptions::default() })?;
    for (row, wrong) in wrong.iter_mut().enumerate() {
        if values.is_valid(row) && cast_values.is_null(row) {
            *wrong = Some("the value is not of the type to return");
        }
    }
    let errors: Vec<bool> = wrong.iter().map(Option::is_some).collect();
    let answer = instead(args, 2, &BooleanArray::from(empty), cast_values, 5, |_| "there is no value")?;
    instead(args, 3, &BooleanArray::from(errors), answer, 6, |row| wrong.get(row).copied().flatten().unwrap_or(""))
}

/// The answer with what was asked for in the rows of the mask: an error, or the default.
fn instead<'a>(
    args: &[ArrayRef],
    behaviour: usize,
    mask: &BooleanArray,
    answer: ArrayRef,
    default: usize,
    reason: impl Fn(usize) -> &'a str,
) -> Result<ArrayRef> {
    let Some(row) = mask.iter().position(|m| m == Some(true)) else { return Ok(answer) };
    match (text(args, behaviour, row), args.get(default)) {
        (Some("error"), _) => exec_err!("JSON_VALUE: {}: {}", reason(row), shortened(args, row)),
        (Some("default"), Some(default)) => {
            let default = cast(default, answer.data_type())?;
            Ok(zip(mask, &default, &answer)?)
        }
        _ => Ok(zip(mask, &new_null_array(answer.data_type(), answer.len()), &answer)?),
    }
}

fn shortened(args: &[ArrayRef], row: usize) -> String {
    text(args, 0, row).unwrap_or_default().chars().take(80).collect()
}

fn scalar(lax: bool, found: Found<Reached<'_>>) -> Found<String> {
    match found {
        Found::Empty => Found::Empty,
        Found::Wrong(reason) => Found::Wrong(reason),
        Found::Value(Reached::One(json)) if json.kind() == Kind::Scalar => Found::Value(json.text()),
        Found::Value(Reached::One(json)) if json.kind() == Kind::Null => Found::Empty,
        Found::Value(_) if lax => Found::Empty,
        Found::Value(_) => Found::Wrong("the path leads to an object or an array"),
    }
}

/// An object or an array as text, as SQL's JSON_QUERY: the arguments are JSON, path, wrapper, what to do where it is
/// empty, and what to do on an error.
fn json_query(args: &[ArrayRef]) -> Result<ArrayRef> {
    let mut paths = Paths::default();
    texts(args, |row| {
        let found = match look(args, row, &mut paths)? {
            None => return Ok(None),
            Some((lax, found)) => structure(lax, found, text(args, 2, row).unwrap_or("without")),
        };
        let (behaviour, reason) = match found {
            Found::Value(json) => return Ok(Some(json.into())),
            Found::Empty => (text(args, 3, row), "there is no value"),
            Found::Wrong(reason) => (text(args, 4, row), reason),
        };
        match behaviour {
            Some("error") => exec_err!("JSON_QUERY: {reason}: {}", shortened(args, row)),
            Some("array") => Ok(Some("[]".into())),
            Some("object") => Ok(Some("{}".into())),
            _ => Ok(None),
        }
    })
}

fn structure(lax: bool, found: Found<Reached<'_>>, wrapper: &str) -> Found<String> {
    let (json, kind) = match found {
        Found::Empty => return Found::Empty,
        Found::Wrong(reason) => return Found::Wrong(reason),
        Found::Value(Reached::One(json)) => {
            let mut out = String::new();
            json.write(&mut out);
            (out, json.kind())
        }
        Found::Value(Reached::Many(many)) => {
            let mut out = String::from("[");
            for (n, json) in many.into_iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                json.write(&mut out);
            }
            out.push(']');
            (out, Kind::Array)
        }
        Found::Value(Reached::Nothing) => return Found::Empty,
    };
    match (wrapper, kind) {
        (_, Kind::Null) if wrapper == "without" => Found::Empty,
        ("unconditional", _) => Found::Value(format!("[{json}]")),
        ("conditional", Kind::Scalar | Kind::Object | Kind::Null) => Found::Value(format!("[{json}]")),
        (_, Kind::Array | Kind::Object) => Found::Value(json),
        _ if lax => Found::Empty,
        _ => Found::Wrong("the path leads to a scalar"),
    }
}

/// Whether there is something at a path; the third argument says what to answer on an error.
fn json_exists(args: &[ArrayRef]) -> Result<ArrayRef> {
    let mut paths = Paths::default();
    conditions(args, |row| {
        let wrong = match look(args, row, &mut paths)? {
            None => return Ok(None),
            Some((_, Found::Value(Reached::One(json)))) => return Ok(Some(json.kind() != Kind::Null)),
            Some((_, Found::Value(Reached::Many(many)))) => return Ok(Some(!many.is_empty())),
            Some((_, Found::Value(Reached::Nothing) | Found::Empty)) => return Ok(Some(false)),
            Some((_, Found::Wrong(reason))) => reason,
        };
        match text(args, 2, row) {
            Some("true") => Ok(Some(true)),
            Some("unknown") => Ok(None),
            Some("error") => exec_err!("JSON_EXISTS: {wrong}: {}", shortened(args, row)),
            _ => Ok(Some(false)),
        }
    })
}

/// What is at a path, as text: a string without its quotes. NULL where nothing is, or the text is no JSON.
fn get_json_object(args: &[ArrayRef]) -> Result<ArrayRef> {
    let mut paths = Paths::default();
    texts(args, |row| {
        let Some((_, Found::Value(reached))) = look(args, row, &mut paths)? else { return Ok(None) };
        Ok(match reached {
            Reached::One(json) if json.kind() == Kind::Null => None,
            Reached::One(json) if json.kind() == Kind::Scalar => Some(json.text().into()),
            Reached::Many(many) if many.is_empty() => None,
            reached => match structure(true, Found::Value(reached), "without") {
                Found::Value(json) => Some(json.into()),
                _ => None,
            },
        })
    })
}

/// Whether a text is JSON, of a kind.
fn is_json(args: &[ArrayRef]) -> Result<ArrayRef> {
    conditions(args, |row| {
        let (Some(json), Some(kind)) = (text(args, 0, row), text(args, 1, row)) else { return Ok(None) };
        let found = Json::read(json).map(Json::kind);
        Ok(Some(match kind {
            "OBJECT" => found == Some(Kind::Object),
            "ARRAY" => found == Some(Kind::Array),
            "SCALAR" => matches!(found, Some(Kind::Scalar | Kind::Null)),
            _ => found.is_some(),
        }))
    })
}

/// A JSON string as text; a text that is none stays as it is.
fn unquoted(text: &str) -> Cow<'_, str> {
    match text.starts_with('"').then(|| serde_json::from_str::<String>(text)) {
        Some(Ok(text)) => Cow::Owned(text),
        _ => Cow::Borrowed(text),
    }
}
