//! Canal's envelope, one statement a record:
//!
//! ```json
//! {"data":[{"id":"1","name":"anna"}],"old":[{"name":"ann"}],"type":"UPDATE","database":"shop","table":"users"}
//! ```
//!
//! `old` holds the columns that an update changed, with their values before. Canal writes every value as a text;
//! a text that is a number, or a truth value, is one where the column is declared so.

use std::borrow::Cow;
use std::collections::HashMap;

use arrow::datatypes::DataType;
use millstream_core::{Error, Result};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Envelope, Rows, not_an_envelope};
use crate::Options;

#[derive(Debug)]
pub(super) struct Canal {
    /// The database and the table that records must be of.
    include: [Option<String>; 2],
}

impl Canal {
    pub(super) fn new(options: &Options) -> Result<Self> {
        let include = |name: &str| -> Result<Option<String>> {
            let Some(text) = options.get(name) else { return Ok(None) };
            if text.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-') {
                return Ok(Some(text.to_string()));
            }
            Err(Error::config(format!(
                "the option '{name}' = '{text}': it is the one name to read, regular expressions are not supported yet"
            )))
        };
        Ok(Self { include: [include("canal-json.database.include")?, include("canal-json.table.include")?] })
    }
}

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    data: Option<Vec<Object<'a>>>,
    #[serde(borrow, default)]
    old: Option<Vec<Option<Object<'a>>>>,
    #[serde(borrow, default)]
    database: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    table: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Object<'a>(#[serde(borrow)] HashMap<Cow<'a, str>, &'a RawValue>);

impl Envelope for Canal {
    fn open(&self, record: &[u8], rows: &mut Rows) -> std::result::Result<(), String> {
        let record: Record = serde_json::from_slice(record).map_err(|e| not_an_envelope("Canal", &e))?;
        let Some(kind) = &record.kind else {
            return Err("not an envelope of Canal: 'type' is missing".to_string());
        };
        let of = [&record.database, &record.table];
        if self.include.iter().zip(of).any(|(wanted, is)| wanted.is_some() && wanted.as_deref() != is.as_deref()) {
            return Ok(());
        }
        let data = || record.data.as_deref().ok_or_else(|| format!("{kind} without 'data': the rows are not known"));
        match kind.as_ref() {
            "INSERT" => data()?.iter().try_for_each(|row| {
                let text = rows.text(row, None);
                rows.come(&text, "data")
            }),
            "DELETE" => data()?.iter().try_for_each(|row| {
                let text = rows.text(row, None);
                rows.go(&text, "data")
            }),
            "UPDATE" => {
                let (data, old) = (data()?, record.old.as_deref().unwrap_or_default());
                if old.len() != data.len() {
                    return Err(format!(
                        "UPDATE of {} rows with {} in 'old': the old rows are not known",
                        data.len(),
                        old.len()
                    ));
                }
                for (row, old) in data.iter().zip(old) {
                    let text = rows.text(row, old.as_ref());
                    rows.go(&text, "old")?;
                    let text = rows.text(row, None);
                    rows.come(&text, "data")?;
                }
                Ok(())
            }
            "TRUNCATE" => Err("TRUNCATE does not say which rows went: they are still part of the answer".to_string()),
            // Statements that change no rows.
            _ => Ok(()),
        }
    }
}

impl Rows {
    /// The columns of a row as an object, those of `old` in the place of their successors.
    fn text(&self, row: &Object, old: Option<&Object>) -> String {
        let mut text = String::from("{");
        for (name, data_type) in &self.types {
            let value = old.and_then(|old| old.0.get(name.as_str())).or_else(|| row.0.get(name.as_str()));
            let Some(value) = value else { continue };
            if text.len() > 1 {
                text.push(',');
            }
            text.push_str(&serde_json::Value::from(name.as_str()).to_string());
            text.push(':');
            text.push_str(bare(value.get(), data_type));
        }
        text.push('}');
        text
    }
}

/// A number or a truth value without the quotes that Canal puts around it; every other value as it stands.
fn bare<'a>(value: &'a str, data_type: &DataType) -> &'a str {
    let Some(inner) = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).map(str::trim) else { return value };
    match data_type {
        DataType::Boolean => match inner {
            "1" | "true" => "true",
            "0" | "false" => "false",
            _ => value,
        },
        t if t.is_integer() || t.is_floating() => {
            if serde_json::from_str::<serde_json::Number>(inner).is_ok() {
                inner
            } else {
                value
            }
        }
        _ => value,
    }
}
