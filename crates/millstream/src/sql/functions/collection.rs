//! Arrays and maps: made of text, and taken apart.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, ListBuilder, MapBuilder, MapFieldNames, StringBuilder, StringViewBuilder, UInt64Array,
};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::{Result, exec_err, internal_err, plan_err};

use super::Argument::{Any, Text};
use super::rows::{count, text};
use super::{Builtin, Returns};

pub fn functions() -> Vec<Builtin> {
    vec![
        Builtin::new("split", &[Text, Text], DataType::new_list(DataType::Utf8View, true), split),
        Builtin::new("str_to_map", &[Text, Text, Text], texts_by_text(), str_to_map).optional(2),
        Builtin::new("element", &[Any], Returns::Of(item_type), element),
    ]
}

/// The parts of a text between separators, which are no patterns; each character where the separator is empty.
fn split(args: &[ArrayRef]) -> Result<ArrayRef> {
    let mut out = ListBuilder::new(StringViewBuilder::new());
    for row in 0..count(args) {
        let (Some(text), Some(separator)) = (text(args, 0, row), text(args, 1, row)) else {
            out.append_null();
            continue;
        };
        if separator.is_empty() {
            let mut buffer = [0; 4];
            text.chars().for_each(|c| out.values().append_value(c.encode_utf8(&mut buffer)));
        } else {
            text.split(separator).for_each(|part| out.values().append_value(part));
        }
        out.append(true);
    }
    Ok(Arc::new(out.finish()))
}

fn texts_by_text() -> DataType {
    let fields = vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, true)];
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(fields.into()), false)), false)
}

/// `a=1,b=2` as a map. Of a key that comes twice the last value counts; one without a value has NULL.
fn str_to_map(args: &[ArrayRef]) -> Result<ArrayRef> {
    let names = MapFieldNames { entry: "entries".into(), key: "key".into(), value: "value".into() };
    let mut out = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    for row in 0..count(args) {
        let between = if args.len() > 1 { text(args, 1, row) } else { Some(",") };
        let within = if args.len() > 2 { text(args, 2, row) } else { Some("=") };
        let (Some(text), Some(between), Some(within)) = (text(args, 0, row), between, within) else {
            out.append(false)?;
            continue;
        };
        for (key, value) in pairs(text, between, within) {
            out.keys().append_value(key);
            out.values().append_option(value);
        }
        out.append(true)?;
    }
    Ok(Arc::new(out.finish()))
}

fn pairs<'a>(text: &'a str, between: &str, within: &str) -> Vec<(&'a str, Option<&'a str>)> {
    let mut pairs: Vec<(&str, Option<&str>)> = vec![];
    let parts = if between.is_empty() { vec![text] } else { text.split(between).collect() };
    for part in parts {
        let (key, value) = match part.split_once(within).filter(|_| !within.is_empty()) {
            Some((key, value)) => (key, Some(value)),
            None => (part, None),
        };
        match pairs.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => *known = value,
            None => pairs.push((key, value)),
        }
    }
    pairs
}

fn item_type(given: &[DataType]) -> Result<DataType> {
    match given {
        [DataType::List(item)] => Ok(item.data_type().clone()),
        [DataType::Null] => Ok(DataType::Null),
        _ => plan_err!("'ELEMENT' takes an array"),
    }
}

/// The only element of an array; NULL where it is empty.
fn element(args: &[ArrayRef]) -> Result<ArrayRef> {
    let [array] = args else { return internal_err!("ELEMENT takes one argument") };
    let Some(lists) = array.as_list_opt::<i32>() else { return Ok(Arc::clone(array)) };
    let mut places: Vec<Option<u64>> = Vec::with_capacity(lists.len());
    for (row, bounds) in lists.value_offsets().windows(2).enumerate() {
        let [start, end] = bounds else { return internal_err!("a list has two bounds") };
        places.push(match end - start {
            _ if lists.is_null(row) => None,
            0 => None,
            1 => u64::try_from(*start).ok(),
            many => return exec_err!("ELEMENT: the array has {many} elements, not one: take one by its place, a[1]"),
        });
    }
    Ok(take(lists.values(), &UInt64Array::from(places), None)?)
}
