//! Debezium's envelope, one change a record:
//!
//! ```json
//! {"before":{"id":1,"name":"ann"},"after":{"id":1,"name":"anna"},"op":"u","ts_ms":1700000000000,"source":{}}
//! ```
//!
//! `op` is `c` (created), `r` (read by a snapshot), `u` (updated) or `d` (deleted). Where the converter adds its
//! schema, the envelope is the field `payload` beside a field `schema`.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{Envelope, Rows, not_an_envelope};
use crate::Options;
use millstream_core::Result;

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

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow, default)]
    op: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    before: Option<&'a RawValue>,
    #[serde(borrow, default)]
    after: Option<&'a RawValue>,
    /// There, though it may be `null`.
    #[serde(borrow, default, deserialize_with = "raw")]
    payload: Option<&'a RawValue>,
}

fn raw<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

fn read(text: &[u8]) -> std::result::Result<Record<'_>, String> {
    serde_json::from_slice(text).map_err(|e| not_an_envelope("Debezium", &e))
}

impl Envelope for Debezium {
    fn open(&self, record: &[u8], rows: &mut Rows) -> std::result::Result<(), String> {
        let outer = read(record)?;
        let inner = match (self.schema_include, outer.payload) {
            (Some(false), _) | (None, None) => outer,
            (None, Some(_)) if outer.op.is_some() => outer,
            (_, Some(payload)) if payload.get() == "null" => return Ok(()),
            (_, Some(payload)) => read(payload.get().as_bytes())?,
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
                    Some(before) => rows.go(before.get(), "before")?,
                    None if self.keyed => {}
                    None => return Err(before_missing("an update")),
                }
                rows.come(after(&inner)?, "after")
            }
            "d" => match inner.before {
                Some(before) => rows.go(before.get(), "before"),
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
    record.after.map(RawValue::get).ok_or_else(|| "'after' is missing or null: the new row is not known".to_string())
}

fn before_missing(what: &str) -> String {
    format!(
        "{what} whose 'before' is missing or null: the old row is not known. Let the database log it (PostgreSQL: ALTER \
         TABLE .. REPLICA IDENTITY FULL), or declare the table's PRIMARY KEY: then an update needs no old row, and a \
         delete only the key of one"
    )
}
