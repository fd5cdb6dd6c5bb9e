//! Rows to records: which columns are the key, which the value, and what a change means.
//!
//! | connector, format | `+I` `+U` | `-U` | `-D` |
//! |---|---|---|---|
//! | kafka | a record | refused | refused |
//! | kafka, debezium-json | `{"before":null,"after":{..},"op":"c"}` | `{"before":{..},"after":null,"op":"d"}` | the same |
//! | upsert-kafka | key and value | the key without a value, unless a later row of the batch has the key | the same |
//!
//! Of the changes that one batch makes to a key of 'upsert-kafka', the last one is written.

use std::collections::HashMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use millstream_core::sink::{Output, OutputKind};
use millstream_core::{Error, Result};
use millstream_io::{METADATA_KEY, TableSpec, VIRTUAL_KEY};

use super::encode::{Encoded, PartEncoder};
use crate::table::{Connector, Fields, Layout};

/// One record, as it is handed to the client.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) topic: &'a str,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) partition: Option<i32>,
    pub(super) timestamp_ms: Option<i64>,
    pub(super) headers: Vec<(String, Option<Vec<u8>>)>,
}

/// What the rows of an output become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Append,
    Changes,
    Upsert,
}

/// Makes records of rows.
pub(super) struct RowEncoder {
    meaning: Meaning,
    /// Whether the first column is `op`.
    kind: OutputKind,
    key: Option<PartEncoder>,
    value: PartEncoder,
    timestamp: Option<usize>,
    headers: Option<usize>,
}

impl RowEncoder {
    /// Finds out which columns go where.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] or [`millstream_core::ErrorKind::Query`] where they can't.
    pub(super) fn new(spec: &TableSpec, layout: &Layout, kind: OutputKind, schema: &SchemaRef) -> Result<Self> {
        let debezium = layout.value.format() == "debezium-json";
        let meaning = match (layout.connector, kind) {
            (Connector::Upsert, _) => Meaning::Upsert,
            (Connector::Kafka, _) if debezium => Meaning::Changes,
            (Connector::Kafka, OutputKind::Append) => Meaning::Append,
            (Connector::Kafka, OutputKind::Changelog) => {
                return Err(Error::query(format!(
                    "the query takes rows back, which plain records of '{}' can't say: use 'connector' = 'upsert-kafka' \
                     with a PRIMARY KEY, or 'format' = 'debezium-json', or end the query with EMIT ON WINDOW CLOSE",
                    layout.value.format()
                )));
            }
        };
        let mut columns = vec![];
        let (mut timestamp, mut headers) = (None, None);
        for (at, field) in schema.fields().iter().enumerate().skip(usize::from(kind == OutputKind::Changelog)) {
            let declared = spec.schema.field_with_name(field.name()).unwrap_or(field);
            let read_only = declared.metadata().contains_key(VIRTUAL_KEY);
            match declared.metadata().get(METADATA_KEY).map(String::as_str) {
                None => columns.push(at),
                Some(_) if read_only => {}
                Some("timestamp") if matches!(field.data_type(), DataType::Timestamp(..)) => timestamp = Some(at),
                Some("headers") if is_headers(field.data_type()) => headers = Some(at),
                Some(other) => {
                    return Err(Error::config(format!(
                        "the column '{}' of type {} can't be written as METADATA FROM '{other}': 'timestamp' is written from \
                         a TIMESTAMP and 'headers' from a MAP<STRING, BYTES>; declare the others METADATA VIRTUAL",
                        field.name(),
                        field.data_type()
                    )));
                }
            }
        }
        let named = |at: &usize| schema.fields().get(*at).map(|field| field.name().as_str()).unwrap_or_default();
        let is_key = |at: &usize| layout.key_columns.iter().any(|key| key == named(at));
        let key: Vec<usize> = columns.iter().copied().filter(is_key).collect();
        let value = match layout.fields {
            Fields::All => columns,
            Fields::ExceptKey => columns.into_iter().filter(|at| !is_key(at)).collect(),
        };
        let key = match &layout.key {
            Some(format) => Some(PartEncoder::new(format, schema, key)?),
            None => None,
        };
        Ok(Self { meaning, kind, key, value: PartEncoder::new(&layout.value, schema, value)?, timestamp, headers })
    }

    /// Hands every record of the output over, in order.
    pub(super) fn records<E: From<Error>>(
        &mut self,
        output: &Output,
        topic: &str,
        mut send: impl FnMut(Record<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut upserts = vec![];
        for rows in output.batches.iter().filter(|rows| rows.num_rows() > 0) {
            let keys = self.key.as_mut().map(|key| key.encode(rows)).transpose()?;
            let values = self.value.encode(rows)?;
            let rows = Rows::new(self, rows, keys, values, topic)?;
            match self.meaning {
                Meaning::Append => (0..rows.len).try_for_each(|row| send(rows.record(row, rows.values.get(row))))?,
                Meaning::Changes => rows.changes(&mut send)?,
                Meaning::Upsert => {
                    upserts.push(rows);
                    continue;
                }
            }
            let Rows { keys, values, .. } = rows;
            self.value.reuse(values);
            if let (Some(key), Some(keys)) = (&mut self.key, keys) {
                key.reuse(keys);
            }
        }
        let mut last = HashMap::new();
        for (batch, rows) in upserts.iter().enumerate() {
            for row in 0..rows.len {
                last.insert(rows.key(row), (batch, row));
            }
        }
        for (batch, rows) in upserts.iter().enumerate() {
            for row in (0..rows.len).filter(|row| last.get(&rows.key(*row)) == Some(&(batch, *row))) {
                let value = if rows.is_taken_back(row) { None } else { rows.values.get(row) };
                send(rows.record(row, value))?;
            }
        }
        Ok(())
    }
}

fn is_headers(data_type: &DataType) -> bool {
    let DataType::Map(entries, _) = data_type else { return false };
    let DataType::Struct(fields) = entries.data_type() else { return false };
    let is_text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let is_bytes = |t: &DataType| matches!(t, DataType::Binary | DataType::LargeBinary | DataType::BinaryView);
    matches!(fields.as_ref(), [key, value] if is_text(key.data_type()) && is_bytes(value.data_type()))
}

/// The encoded rows of one record batch.
struct Rows<'a> {
    len: usize,
    keys: Option<Encoded>,
    values: Encoded,
    ops: Option<Vec<&'a str>>,
    timestamps: Option<arrow::array::ArrayRef>,
    headers: Option<&'a arrow::array::MapArray>,
    topic: &'a str,
}

impl<'a> Rows<'a> {
    fn new(
        encoder: &RowEncoder,
        rows: &'a RecordBatch,
        keys: Option<Encoded>,
        values: Encoded,
        topic: &'a str,
    ) -> Result<Self> {
        let ops = match encoder.kind {
            OutputKind::Append => None,
            OutputKind::Changelog => {
                let ops = rows.columns().first().and_then(|op| op.as_string_opt::<i32>());
                let ops = ops.ok_or_else(|| Error::bug("the first column of a changelog is no text"))?;
                Some(ops.iter().map(Option::unwrap_or_default).collect())
            }
        };
        let column = |at: Option<usize>| at.and_then(|at| rows.columns().get(at));
        let milliseconds = DataType::Timestamp(TimeUnit::Millisecond, None);
        let timestamps = column(encoder.timestamp).map(|array| cast(array, &milliseconds)).transpose();
        let headers = column(encoder.headers).and_then(|array| array.as_map_opt());
        let timestamps = timestamps.map_err(Error::from)?;
        Ok(Self { len: rows.num_rows(), keys, values, ops, timestamps, headers, topic })
    }

    fn key(&self, row: usize) -> Option<&[u8]> {
        self.keys.as_ref().and_then(|keys| keys.get(row))
    }

    fn is_taken_back(&self, row: usize) -> bool {
        self.ops.as_ref().and_then(|ops| ops.get(row)).is_some_and(|op| op.starts_with('-'))
    }

    fn record<'r>(&'r self, row: usize, value: Option<&'r [u8]>) -> Record<'r> {
        Record {
            topic: self.topic,
            key: self.key(row),
            value,
            partition: None,
            timestamp_ms: self.timestamp(row),
            headers: self.headers.map(|map| headers(map, row)).unwrap_or_default(),
        }
    }

    fn timestamp(&self, row: usize) -> Option<i64> {
        let times = self.timestamps.as_ref()?.as_primitive_opt::<arrow::datatypes::TimestampMillisecondType>()?;
        times.is_valid(row).then(|| times.value(row))
    }

    fn changes<E>(&self, send: &mut impl FnMut(Record<'_>) -> Result<(), E>) -> Result<(), E> {
        let mut envelope = Vec::new();
        for row in 0..self.len {
            let value = self.values.get(row).unwrap_or(b"null");
            envelope.clear();
            let (before, after) = match self.is_taken_back(row) {
                true => (value, &b"null"[..]),
                false => (&b"null"[..], value),
            };
            let op: &[u8] = if self.is_taken_back(row) { b",\"op\":\"d\"}" } else { b",\"op\":\"c\"}" };
            for part in [b"{\"before\":", before, b",\"after\":", after, op] {
                envelope.extend_from_slice(part);
            }
            send(self.record(row, Some(&envelope)))?;
        }
        Ok(())
    }
}

fn headers(map: &arrow::array::MapArray, row: usize) -> Vec<(String, Option<Vec<u8>>)> {
    if map.is_null(row) {
        return vec![];
    }
    let entries = map.value(row);
    let [keys, values] = entries.columns() else { return vec![] };
    let (Ok(keys), Ok(values)) = (cast(keys, &DataType::Utf8), cast(values, &DataType::Binary)) else { return vec![] };
    let (keys, values) = (keys.as_string::<i32>(), values.as_binary::<i32>());
    let pairs = keys.iter().zip(values.iter());
    pairs.filter_map(|(key, value)| Some((key?.to_string(), value.map(<[u8]>::to_vec)))).collect()
}
