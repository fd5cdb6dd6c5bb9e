//! Records to rows: value, key and metadata of the same record become the columns of one row.
//!
//! A record whose value or key is no row is rejected whole. What a chunk holds follows from its records alone.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryBuilder, BooleanArray, Int32Array, Int64Array, MapBuilder, MapFieldNames, RecordBatch,
    RecordBatchOptions, StringArray, StringBuilder, TimestampMillisecondArray, UInt64Array,
};
use arrow::compute::{cast, filter_record_batch, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream_core::batch::Place;
use millstream_core::format::{Decoder, Format};
use millstream_core::source::{Chunk, Rejected};
use millstream_core::{Error, Result};
use millstream_io::{METADATA_KEY, TableSpec, options::nearest};

use super::buffer::{Slice, Stored};
use crate::avro::AvroFormat;
use crate::table::{Fields, Layout, PartFormat};

/// The metadata that a column may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Metadata {
    Topic,
    Partition,
    Offset,
    Timestamp,
    Headers,
    Key,
}

const METADATA: [(&str, Metadata); 6] = [
    ("topic", Metadata::Topic),
    ("partition", Metadata::Partition),
    ("offset", Metadata::Offset),
    ("timestamp", Metadata::Timestamp),
    ("headers", Metadata::Headers),
    ("key", Metadata::Key),
];

/// Where a column comes from.
#[derive(Clone, Debug)]
enum Origin {
    /// The n-th column that the value's decoder gives.
    Value(usize),
    /// The n-th column that the key's decoder gives.
    Key(usize),
    Metadata(Metadata, DataType),
}

/// How the records of a table become rows; makes a [`RowBuilder`] a partition.
#[derive(Clone, Debug)]
pub(super) struct RowReader {
    schema: SchemaRef,
    origins: Vec<Origin>,
    value: (Arc<dyn Format>, SchemaRef),
    key: Option<(Arc<dyn Format>, SchemaRef)>,
    /// The format takes a blank line for no record at all; but a record that holds one is there.
    lines: bool,
}

/// All columns of a table, before some of them are asked for.
#[derive(Clone, Debug)]
pub(super) struct TableRows {
    schema: SchemaRef,
    value: (Arc<dyn Format>, SchemaRef),
    key: Option<(Arc<dyn Format>, SchemaRef)>,
    prefix: String,
    lines: bool,
}

impl TableRows {
    /// Tries the formats with the columns.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where a format or a metadata column can't be.
    pub(super) fn new(spec: &TableSpec, layout: &Layout) -> Result<Self> {
        let is_key = |field: &Field| layout.key_columns.iter().any(|key| key == field.name());
        let prefix = layout.key.as_ref().map(|key| key.prefix().to_string()).unwrap_or_default();
        let (mut value, mut key) = (vec![], vec![]);
        for field in spec.schema.fields() {
            match field.metadata().get(METADATA_KEY) {
                Some(name) => check_metadata(field, name)?,
                None if is_key(field) && layout.fields == Fields::ExceptKey => {
                    let name = field.name().strip_prefix(&prefix).unwrap_or(field.name());
                    key.push(field.as_ref().clone().with_name(name));
                }
                None => value.push(field.as_ref().clone()),
            }
        }
        let value: SchemaRef = Arc::new(Schema::new(value));
        let key: SchemaRef = Arc::new(Schema::new(key));
        let key = match &layout.key {
            Some(format) if !key.fields().is_empty() => {
                let made = read_format(format, &key).map_err(|e| e.at("the key's format"))?;
                Some((made, key))
            }
            _ => None,
        };
        let value = (read_format(&layout.value, &value)?, value);
        let lines = matches!(layout.value.format(), "json" | "ndjson" | "csv");
        Ok(Self { schema: spec.schema.clone(), value, key, prefix, lines })
    }

    /// The reader of some columns.
    pub(super) fn project(&self, projection: &[usize]) -> Result<RowReader> {
        let schema = Arc::new(self.schema.project(projection)?);
        let (mut origins, mut values, mut keys) = (vec![], vec![], vec![]);
        for field in schema.fields() {
            let name = field.name().strip_prefix(&self.prefix).unwrap_or(field.name());
            let of_key = self.key.as_ref().and_then(|(_, key)| key.index_of(name).ok());
            let of_value = self.value.1.index_of(field.name()).ok();
            origins.push(match (field.metadata().get(METADATA_KEY), of_value, of_key) {
                (Some(name), ..) => Origin::Metadata(metadata(name)?, field.data_type().clone()),
                (None, Some(at), _) => {
                    values.push(at);
                    Origin::Value(values.len() - 1)
                }
                (None, None, Some(at)) => {
                    keys.push(at);
                    Origin::Key(keys.len() - 1)
                }
                (None, None, None) => return Err(Error::bug(format!("the column '{}' is nowhere", field.name()))),
            });
        }
        let project = |(format, schema): &(Arc<dyn Format>, SchemaRef), at: &[usize]| -> Result<_> {
            Ok((format.clone(), Arc::new(schema.project(at)?)))
        };
        let key = self.key.as_ref().map(|key| project(key, &keys)).transpose()?;
        Ok(RowReader { schema, origins, value: project(&self.value, &values)?, key, lines: self.lines })
    }
}

fn read_format(format: &PartFormat, schema: &SchemaRef) -> Result<Arc<dyn Format>> {
    match format.format() {
        "csv" if format.options().get("csv.header").is_some_and(|header| header == "true") => {
            Err(Error::config("'csv.header' means nothing for records: each one is a row"))
        }
        "debezium-json" => Err(Error::config(
            "'debezium-json' can't be read from Kafka yet: declare before, after and op as columns of 'json', and choose \
             among them in the query",
        )),
        "avro-confluent" => {
            let (registry, _) = format.registry()?;
            Ok(Arc::new(AvroFormat::new(registry, schema)?))
        }
        _ => millstream_io::format::format(format.options(), schema),
    }
}

fn metadata(name: &str) -> Result<Metadata> {
    METADATA.iter().find(|(known, _)| *known == name).map(|(_, metadata)| *metadata).ok_or_else(|| {
        let names = METADATA.map(|(name, _)| name);
        let hint = nearest(name, names.into_iter()).map(|near| format!("; did you mean '{near}'?")).unwrap_or_default();
        Error::config(format!("a record has no metadata '{name}': it has {}{hint}", names.join(", ")))
    })
}

fn check_metadata(field: &Field, name: &str) -> Result<()> {
    use DataType as T;
    let is_text = |t: &T| matches!(t, T::Utf8 | T::LargeUtf8 | T::Utf8View);
    let is_bytes = |t: &T| matches!(t, T::Binary | T::LargeBinary | T::BinaryView);
    let t = field.data_type();
    let (fits, wanted) = match metadata(name)? {
        Metadata::Topic => (is_text(t), "STRING"),
        Metadata::Partition => (matches!(t, T::Int32 | T::Int64), "INT or BIGINT"),
        Metadata::Offset => (matches!(t, T::Int64 | T::UInt64), "BIGINT"),
        Metadata::Timestamp => (matches!(t, T::Timestamp(..)), "TIMESTAMP(3) or TIMESTAMP_LTZ(3)"),
        Metadata::Key => (is_bytes(t) || is_text(t), "BYTES or STRING"),
        Metadata::Headers => {
            let entries = match t {
                T::Map(entries, _) => entries.data_type().clone(),
                _ => T::Null,
            };
            let fits = match &entries {
                T::Struct(fields) => {
                    matches!(fields.as_ref(), [k, v] if is_text(k.data_type()) && is_bytes(v.data_type()))
                }
                _ => false,
            };
            (fits, "MAP<STRING, BYTES>")
        }
    };
    if fits {
        return Ok(());
    }
    Err(Error::config(format!("the column '{}' holds the metadata '{name}': declare it as {wanted}", field.name())))
}

impl RowReader {
    pub(super) fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// Whether somebody asked for the headers.
    pub(super) fn wants_headers(&self) -> bool {
        self.origins.iter().any(|origin| matches!(origin, Origin::Metadata(Metadata::Headers, _)))
    }

    /// Makes chunks of one partition's records.
    pub(super) fn builder(&self, topic: &str, partition: i32) -> Result<RowBuilder> {
        let (format, schema) = &self.value;
        let value = format.decoder(schema.clone())?;
        let key = self.key.as_ref().map(|(format, schema)| format.decoder(schema.clone())).transpose()?;
        Ok(RowBuilder { reader: self.clone(), topic: topic.to_string(), partition, value, key })
    }
}

/// Makes chunks of one partition's records.
pub(super) struct RowBuilder {
    reader: RowReader,
    topic: String,
    partition: i32,
    value: Box<dyn Decoder>,
    key: Option<Box<dyn Decoder>>,
}

impl RowBuilder {
    /// The chunk of these records.
    pub(super) fn chunk(&mut self, slices: &[Slice]) -> Result<Chunk> {
        let mut rejected = vec![];
        let records: Vec<Stored<'_>> =
            slices.iter().flat_map(|s| s.rows.clone().filter_map(|at| s.block.get(at))).collect();
        for record in &records {
            // No row number: an offset says it all, and is never the first line of a file.
            let place = Place { offset: record.offset, row: record.offset };
            let missing = |reason: &str| Rejected { place, reason: reason.into(), raw: vec![] };
            let Some(value) = record.value else {
                rejected
                    .push(missing("the record has no value (a tombstone), and is no row of a table that only grows"));
                continue;
            };
            if let Some(key) = &mut self.key {
                let Some(bytes) = record.key else {
                    rejected.push(missing("the record has no key, and the key's columns come from it"));
                    continue;
                };
                let before = key.len();
                key.push(bytes, place);
                if key.len() == before {
                    continue;
                }
            }
            let before = self.value.len();
            self.value.push(value, place);
            if self.reader.lines && value.trim_ascii().is_empty() && self.value.len() == before {
                rejected.push(Rejected { place, reason: "the record is empty".into(), raw: value.to_vec() });
            }
        }
        let mut value = self.value.finish()?;
        let key = self.key.as_mut().map(|key| key.finish()).transpose()?;
        if let Some(key) = &key {
            keep(&mut value, &key.places)?;
        }
        rejected.extend(value.rejected);
        if let Some(key) = &key {
            rejected
                .extend(key.rejected.iter().map(|r| Rejected { reason: format!("key: {}", r.reason), ..r.clone() }));
        }
        rejected.sort_by_key(|r| r.place);
        // A record is rejected once, whatever of it is wrong.
        rejected.dedup_by_key(|r| r.place);
        let columns = self.reader.origins.iter().map(|origin| match origin {
            Origin::Value(at) => column(&value.rows, *at),
            Origin::Key(at) => match &key {
                Some(key) => take_places(&column(&key.rows, *at)?, &key.places, &value.places),
                None => Err(Error::bug("a column of the key without a key")),
            },
            Origin::Metadata(metadata, data_type) => self.metadata(*metadata, data_type, &records, &value.places),
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(value.places.len()));
        let rows = RecordBatch::try_new_with_options(self.reader.schema.clone(), columns, &options)?;
        Ok(Chunk { rows, places: value.places, rejected })
    }

    fn metadata(
        &self,
        metadata: Metadata,
        data_type: &DataType,
        records: &[Stored<'_>],
        places: &[Place],
    ) -> Result<ArrayRef> {
        let of_rows = places.iter().filter_map(|place| {
            records.binary_search_by_key(&place.offset, |record| record.offset).ok().and_then(|at| records.get(at))
        });
        let array: ArrayRef = match metadata {
            Metadata::Topic => Arc::new(StringArray::from_iter_values(of_rows.map(|_| self.topic.as_str()))),
            Metadata::Partition => Arc::new(Int32Array::from_iter_values(of_rows.map(|_| self.partition))),
            Metadata::Offset => Arc::new(Int64Array::from_iter_values(of_rows.map(|r| r.offset.cast_signed()))),
            Metadata::Timestamp => Arc::new(TimestampMillisecondArray::from_iter(of_rows.map(|r| r.timestamp_ms))),
            Metadata::Key => {
                let text = matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
                match text {
                    // Bytes that are no text are shown as such, and don't fail the row: the key is not its value.
                    true => Arc::new(StringArray::from_iter(of_rows.map(|r| r.key.map(String::from_utf8_lossy)))),
                    false => Arc::new(arrow::array::BinaryArray::from_iter(of_rows.map(|r| r.key))),
                }
            }
            Metadata::Headers => return headers(data_type, of_rows),
        };
        match array.data_type() == data_type {
            true => Ok(array),
            false => Ok(cast(&array, data_type)?),
        }
    }
}

/// Leaves out the rows at other places: their keys were rejected.
fn keep(value: &mut Chunk, places: &[Place]) -> Result<()> {
    if value.places == places || value.places.iter().all(|place| places.binary_search(place).is_ok()) {
        return Ok(());
    }
    let wanted: Vec<bool> = value.places.iter().map(|place| places.binary_search(place).is_ok()).collect();
    value.rows = filter_record_batch(&value.rows, &BooleanArray::from(wanted.clone()))?;
    let mut wanted = wanted.into_iter();
    value.places.retain(|_| wanted.next().unwrap_or(false));
    Ok(())
}

fn column(rows: &RecordBatch, at: usize) -> Result<ArrayRef> {
    rows.columns().get(at).cloned().ok_or_else(|| Error::bug("a decoder gave too few columns"))
}

/// The values at some of the places, which are all among `have`. Both ascend.
fn take_places(array: &ArrayRef, have: &[Place], wanted: &[Place]) -> Result<ArrayRef> {
    if have == wanted {
        return Ok(array.clone());
    }
    let indices = UInt64Array::from_iter(wanted.iter().map(|place| have.binary_search(place).ok().map(|at| at as u64)));
    Ok(take(array, &indices, None)?)
}

fn headers<'a>(data_type: &DataType, records: impl Iterator<Item = &'a Stored<'a>>) -> Result<ArrayRef> {
    let DataType::Map(entries, _) = data_type else { return Err(Error::bug("headers are a map")) };
    let DataType::Struct(fields) = entries.data_type() else { return Err(Error::bug("a map has entries")) };
    let name = |at: usize| fields.get(at).map(|field| field.name().clone()).unwrap_or_default();
    let names = MapFieldNames { entry: entries.name().clone(), key: name(0), value: name(1) };
    let mut map = MapBuilder::new(Some(names), StringBuilder::new(), BinaryBuilder::new());
    for record in records {
        // A map has a key once; of headers of the same name the last one counts, as for Flink.
        let last = |name: &str| record.headers.iter().rposition(|(other, _)| other == name);
        for (_, (name, value)) in record.headers.iter().enumerate().filter(|(at, (name, _))| last(name) == Some(*at)) {
            map.keys().append_value(name);
            map.values().append_option(value.as_deref());
        }
        map.append(true)?;
    }
    let map: ArrayRef = Arc::new(map.finish());
    match map.data_type() == data_type {
        true => Ok(map),
        false => Ok(cast(&map, data_type)?),
    }
}
