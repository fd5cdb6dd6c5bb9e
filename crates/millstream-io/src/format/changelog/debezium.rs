//! Debezium's envelope, one change a record:
//!
//! ```json
//! {"before":{"id":1,"name":"ann"},"after":{"id":1,"name":"anna"},"op":"u","ts_ms":1700000000000,"source":{}}
//! ```
//!
//! `op` is `c` (created), `r` (read by a snapshot), `u` (updated) or `d` (deleted). Where the converter adds its
//! schema, the envelope is the field `payload` beside a field `schema`.

use std::borrow::Cow;

use millstream_core::Result;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{Envelope, Rows, not_an_envelope};
use crate::Options;
use crate::format::json::cursor::Cursor;

#[derive(Debug)]
pub(super) struct Debezium {
    /// Whether the table has a PRIMARY KEY.
    keyed: bool,
    /// Whether the envelope is the payload of another one; where it is not said, the record tells.
    schema_include: Option<bool>,
}

impl Debezium {
    pub(super) fn new(options: &Options, keyed: bool) -> Result<Self> {
        Ok(Self { keyed, schema_include: options.parsed("debezium-json.schema-include")? })
    }
}

/// What counts of an envelope; the rows as they stand.
#[derive(Default, Deserialize)]
struct Record<'a> {
    #[serde(borrow, default)]
    op: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "row")]
    before: Option<&'a str>,
    #[serde(borrow, default, deserialize_with = "row")]
    after: Option<&'a str>,
    /// There, though it may be `null`.
    #[serde(borrow, default, deserialize_with = "raw")]
    payload: Option<&'a str>,
}

fn raw<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<&'de str>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(|value| Some(value.get()))
}

fn row<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<&'de str>, D::Error> {
    Ok(<Option<&RawValue>>::deserialize(deserializer)?.map(RawValue::get))
}

/// What is no plain envelope is left to serde_json, which knows what is wrong with it.
fn read(text: &[u8]) -> std::result::Result<Record<'_>, String> {
    match std::str::from_utf8(text).ok().and_then(read_plain) {
        Some(record) => Ok(record),
        None => serde_json::from_slice(text).map_err(|e| not_an_envelope("Debezium", &e)),
    }
}

/// An envelope whose names have no escapes, each there once: as nearly all are.
fn read_plain(text: &str) -> Option<Record<'_>> {
    let (mut record, mut cursor) = (Record::default(), Cursor::new(text, String::new()));
    cursor.space();
    let (mut before, mut seen) = (b'{', 0);
    loop {
        if !cursor.take(&[before]) {
            return None;
        }
        cursor.space();
        if !cursor.take(b"\"") {
            return None;
        }
        let name = cursor.plain_string()?;
        cursor.space();
        if !cursor.take(b":") {
            return None;
        }
        cursor.space();
        let start = cursor.at;
        cursor.skip().ok()?;
        let value = cursor.span(start..cursor.at);
        let row = (value != "null").then_some(value);
        let field = ["op", "before", "after", "payload"].iter().position(|known| *known == name);
        match field {
            Some(0) => record.op = Some(Cow::Borrowed(plain_text(value)?)),
            Some(1) => record.before = row,
            Some(2) => record.after = row,
            Some(_) => record.payload = Some(value),
            None => {}
        }
        let field = field.map_or(0, |field| 1u8 << field);
        if seen & field != 0 {
            return None;
        }
        seen |= field;
        cursor.space();
        if cursor.take(b"}") {
            cursor.space();
            return (cursor.at == text.len()).then_some(record);
        }
        before = b',';
    }
}

/// The text that stands in these quotes, where it has no escapes.
fn plain_text(value: &str) -> Option<&str> {
    value.strip_prefix('"')?.strip_suffix('"').filter(|text| !text.contains('\\'))
}

impl Envelope for Debezium {
    fn open(&self, record: &[u8], rows: &mut Rows) -> std::result::Result<(), String> {
        let outer = read(record)?;
        let inner = match (self.schema_include, outer.payload) {
            (Some(false), _) | (None, None) => outer,
            (None, Some(_)) if outer.op.is_some() => outer,
            (_, Some("null")) => return Ok(()),
            (_, Some(payload)) => read(payload.as_bytes())?,
            (Some(true), None) => {
                return Err(
                    "'payload' is missing, which 'debezium-json.schema-include' = 'true' says is there".to_string()
                );
            }
        };
        let Some(op) = &inner.op else {
            return Err("not an envelope of Debezium: 'op' is missing".to_string());
        };
        match op.as_ref() {
            "c" | "r" => rows.come(after(&inner)?, "after"),
            "u" => {
                match inner.before {
                    Some(before) => rows.go(before, "before")?,
                    None if self.keyed => {}
                    None => return Err(before_missing("an update")),
                }
                rows.come(after(&inner)?, "after")
            }
            "d" => match inner.before {
                Some(before) => rows.go(before, "before"),
                None => Err(before_missing("a delete")),
            },
            // A message that the database was asked to put into its log.
            "m" => Ok(()),
            "t" => Err("TRUNCATE (op 't') does not say which rows went: they are still part of the answer".to_string()),
            other => Err(format!("op '{other}' is none of Debezium's: c, r, u, d")),
        }
    }
}

fn after<'a>(record: &Record<'a>) -> std::result::Result<&'a str, String> {
    record.after.ok_or_else(|| "'after' is missing or null: the new row is not known".to_string())
}

fn before_missing(what: &str) -> String {
    format!(
        "{what} whose 'before' is missing or null: the old row is not known. Let the database log it (PostgreSQL: ALTER \
         TABLE .. REPLICA IDENTITY FULL), or declare the table's PRIMARY KEY: then an update needs no old row, and a \
         delete only the key of one"
    )
}
