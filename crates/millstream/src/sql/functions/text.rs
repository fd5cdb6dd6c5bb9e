//! Functions of text.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, Int64Builder, StringViewArray, StringViewBuilder,
};
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err, internal_err, plan_err};
use regex::Regex;

use super::Argument::{Integer, Text};
use super::Builtin;
use super::rows::{integer, integers, text as text_of};

pub fn functions() -> Vec<Builtin> {
    vec![
        Builtin::new("split_index", &[Text, Text, Integer], DataType::Utf8View, split_index),
        Builtin::new("regexp_extract", &[Text, Text, Integer], DataType::Utf8View, regexp_extract)
            .optional(1)
            .checked(check_regex),
        Builtin::new("locate", &[Text, Text, Integer], DataType::Int64, locate).optional(1),
        Builtin::new("count_char", &[Text, Text], DataType::Int64, count_char),
    ]
}

/// The part with this number, counted from 0, of the text cut at the separator; NULL where there is none.
fn split_index(args: &[ArrayRef]) -> Result<ArrayRef> {
    let [text, separator, index] = args else { return internal_err!("SPLIT_INDEX takes three arguments") };
    let (text, separator) = (text.as_string_view(), separator.as_string_view());
    let index = index.as_primitive::<Int64Type>();
    let mut out = StringViewBuilder::with_capacity(text.len());
    for ((text, separator), index) in text.iter().zip(separator).zip(index) {
        out.append_option(part(text, separator, index));
    }
    Ok(Arc::new(out.finish()))
}

fn part<'a>(text: Option<&'a str>, separator: Option<&str>, index: Option<i64>) -> Option<&'a str> {
    let (text, separator, index) = (text?, separator?, usize::try_from(index?).ok()?);
    // A text is not cut by nothing: it is its own only part.
    match separator.is_empty() {
        true => (index == 0).then_some(text),
        false => text.split(separator).nth(index),
    }
}

/// What the group with this number matched, 0 for all of it; NULL where it matched nothing.
fn regexp_extract(args: &[ArrayRef]) -> Result<ArrayRef> {
    let (text, pattern, group) = match args {
        [text, pattern] => (text, pattern, None),
        [text, pattern, group] => (text, pattern, Some(group.as_primitive::<Int64Type>())),
        _ => return internal_err!("REGEXP_EXTRACT takes two or three arguments"),
    };
    let (text, pattern) = (text.as_string_view(), pattern.as_string_view());
    let mut out = StringViewBuilder::with_capacity(text.len());
    let mut compiled: Option<(&str, Regex)> = None;
    for row in 0..text.len() {
        let group = group.map_or(Some(0), |g| value(g, row).and_then(|g| usize::try_from(g).ok()));
        let (Some(text), Some(pattern), Some(group)) = (string(text, row), string(pattern, row), group) else {
            out.append_null();
            continue;
        };
        if compiled.as_ref().is_none_or(|(of, _)| *of != pattern) {
            compiled = Some((pattern, regex(pattern)?));
        }
        let captures = compiled.as_ref().and_then(|(_, regex)| regex.captures(text));
        out.append_option(captures.and_then(|c| c.get(group)).map(|m| m.as_str()));
    }
    Ok(Arc::new(out.finish()))
}

fn string(array: &StringViewArray, row: usize) -> Option<&str> {
    array.is_valid(row).then(|| array.value(row))
}

fn value(array: &Int64Array, row: usize) -> Option<i64> {
    array.is_valid(row).then(|| array.value(row))
}

fn regex(pattern: &str) -> Result<Regex> {
    match Regex::new(pattern) {
        Ok(regex) => Ok(regex),
        Err(e) => exec_err!("'{pattern}' is no regular expression: {e}"),
    }
}

fn check_regex(args: &[Option<&ScalarValue>]) -> Result<()> {
    let pattern = args.get(1).copied().flatten().and_then(|p| p.try_as_str()).flatten();
    match pattern.map(regex) {
        Some(Err(DataFusionError::Execution(reason))) => plan_err!("REGEXP_EXTRACT: {reason}"),
        _ => Ok(()),
    }
}

/// The place of a text in another, counted from 1, at or after a third argument; 0 where it is not in it.
fn locate(args: &[ArrayRef]) -> Result<ArrayRef> {
    integers(args, |row| {
        let from = if args.len() > 2 { integer(args, 2, row) } else { Some(1) };
        let (Some(part), Some(whole), Some(from)) = (text_of(args, 0, row), text_of(args, 1, row), from) else {
            return Ok(None);
        };
        let Some(before) = from.checked_sub(1).and_then(|n| usize::try_from(n).ok()) else { return Ok(Some(0)) };
        let start = match whole.char_indices().nth(before) {
            Some((start, _)) => start,
            // Right behind the end, only nothing is found.
            None if whole.chars().count() == before => whole.len(),
            None => return Ok(Some(0)),
        };
        let found = whole.get(start..).and_then(|rest| Some(rest.get(..rest.find(part)?)?.chars().count()));
        Ok(Some(found.map_or(0, |n| (before + n + 1) as i64)))
    })
}

/// How often the character occurs in the text.
fn count_char(args: &[ArrayRef]) -> Result<ArrayRef> {
    let [text, character] = args else { return internal_err!("COUNT_CHAR takes two arguments") };
    let mut out = Int64Builder::with_capacity(text.len());
    for (text, character) in text.as_string_view().iter().zip(character.as_string_view()) {
        let count = |text: &str, character: &str| character.chars().next().map_or(0, |c| text.matches(c).count());
        out.append_option(text.zip(character).map(|(text, character)| count(text, character) as i64));
    }
    Ok(Arc::new(out.finish()))
}
