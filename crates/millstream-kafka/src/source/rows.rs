//! Records to rows: value, key and metadata of the same record become the columns of one row.
//!
//! A record whose value or key is no row is rejected whole. What a chunk holds follows from its records alone.
//!
//! Of 'upsert-kafka' the columns of the key come from the record's key, whatever the value says of them: by it a topic is
//! compacted. A record without a value takes the key's row away: a row of which only the key is known, with the weight -1.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::compute::{filter_record_batch, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream_core::batch::Place;
use millstream_core::format::{Decoder, Format};
use millstream_core::source::{Chunk, RawRows, Rejected};
use millstream_core::{Error, Result};
use millstream_io::format::WEIGHT;
use millstream_io::{METADATA_KEY, TableSpec};

use super::buffer::{Slice, Stored};
use super::metadata::{self, Metadata};
use crate::avro::AvroFormat;
use crate::table::{Connector, Fields, Layout, PartFormat};

/// What a record without a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tombstone {
    /// No row.
    Rejected,
    /// Nothing: it follows the delete that a changelog has told already.
    SaysNothing,
    /// The end of its key's row.
    Delete,
}

/// Where a column comes from.
#[derive(Clone, Debug)]
enum Origin {
    /// The n-th column that the value's decoder gives.
    Value(usize),
    /// The n-th column that the key's decoder gives.
    Key(usize),
    Metadata(Metadata, DataType),
    /// Whether the row comes or goes.
    Weight,
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
    tombstone: Tombstone,
}

/// All columns of a table, before some of them are asked for.
#[derive(Clone, Debug)]
pub(super) struct TableRows {
    /// With the weight, where rows go.
    schema: SchemaRef,
    /// The table's columns that come from the record's key.
    of_key: Vec<String>,
    tombstone: Tombstone,
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
        let upsert = layout.connector == Connector::Upsert;
        let is_key = |field: &Field| layout.key_columns.iter().any(|key| key == field.name());
        let prefix = layout.key.as_ref().map(|key| key.prefix().to_string()).unwrap_or_default();
        let (mut value, mut key, mut of_key) = (vec![], vec![], vec![]);
        for field in spec.schema.fields() {
            if let Some(name) = field.metadata().get(METADATA_KEY) {
                metadata::check(field, name)?;
                continue;
            }
            if is_key(field) && (upsert || layout.fields == Fields::ExceptKey) {
                let name = field.name().strip_prefix(&prefix).unwrap_or(field.name());
                key.push(field.as_ref().clone().with_name(name));
                of_key.push(field.name().clone());
            }
            if !is_key(field) || layout.fields == Fields::All {
                value.push(field.as_ref().clone());
            }
        }
        let key: SchemaRef = Arc::new(Schema::new(key));
        let key = match &layout.key {
            Some(format) if !key.fields().is_empty() => {
                let made = read_format(format, &key).map_err(|e| e.at("the key's format"))?;
                Some((made, key))
            }
            _ => None,
        };
        let value = value_format(spec, layout, Arc::new(Schema::new(value)))?;
        let lines = has_lines(&layout.value);
        let changes = value.1.field_with_name(WEIGHT).is_ok();
        let tombstone = match (upsert, changes) {
            (true, _) => Tombstone::Delete,
            (false, true) => Tombstone::SaysNothing,
            (false, false) => Tombstone::Rejected,
        };
        let schema = if upsert || changes { with_weight(spec, &value.1, upsert) } else { spec.schema.clone() };
        Ok(Self { schema, of_key, tombstone, value, key, prefix, lines })
    }

    /// All columns.
    pub(super) fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// The reader of some columns.
    pub(super) fn project(&self, projection: &[usize]) -> Result<RowReader> {
        let schema = Arc::new(self.schema.project(projection)?);
        let (mut origins, mut values, mut keys) = (vec![], vec![], vec![]);
        for field in schema.fields() {
            let name = field.name().strip_prefix(&self.prefix).unwrap_or(field.name());
            let of_key = self.of_key.contains(field.name());
            let of_key = self.key.as_ref().filter(|_| of_key).and_then(|(_, key)| key.index_of(name).ok());
            let of_value = self.value.1.index_of(field.name()).ok();
            origins.push(match (field.metadata().get(METADATA_KEY), of_key, of_value) {
                (Some(name), ..) => Origin::Metadata(metadata::named(name)?, field.data_type().clone()),
                (None, Some(at), _) => {
                    keys.push(at);
                    Origin::Key(keys.len() - 1)
                }
                (None, None, Some(at)) => {
                    values.push(at);
                    Origin::Value(values.len() - 1)
                }
                (None, None, None) if field.name() == WEIGHT => Origin::Weight,
                (None, None, None) => return Err(Error::bug(format!("the column '{}' is nowhere", field.name()))),
            });
        }
        let project = |(format, schema): &(Arc<dyn Format>, SchemaRef), at: &[usize]| -> Result<_> {
            Ok((format.clone(), Arc::new(schema.project(at)?)))
        };
        let key = self.key.as_ref().map(|key| project(key, &keys)).transpose()?;
        let value = project(&self.value, &values)?;
        Ok(RowReader { schema, origins, value, key, lines: self.lines, tombstone: self.tombstone })
    }
}

/// The format of the value, and the columns that it gives: the weight among them where it is a changelog.
fn value_format(spec: &TableSpec, layout: &Layout, schema: SchemaRef) -> Result<(Arc<dyn Format>, SchemaRef)> {
    let changelog = matches!(layout.value.format(), "debezium-json" | "canal-json");
    if !changelog {
        return Ok((read_format(&layout.value, &schema)?, schema));
    }
    if layout.connector == Connector::Upsert {
        return Err(Error::config(format!(
            "a record of 'upsert-kafka' is the newest row of its key, and '{}' tells of changes: read it with \
             'connector' = 'kafka', where a PRIMARY KEY means the same",
            layout.value.format()
        )));
    }
    let options = layout.value.options().clone();
    millstream_io::format::of_table(&TableSpec { schema, options, ..spec.clone() })
}

/// The table's columns as they are read where rows go, and the weight.
fn with_weight(spec: &TableSpec, value: &SchemaRef, upsert: bool) -> SchemaRef {
    let fields = spec.schema.fields().iter().map(|field| {
        let key = spec.primary_key.contains(field.name()) || field.metadata().contains_key(METADATA_KEY);
        match value.field_with_name(field.name()) {
            // Of a row that goes only the key is known.
            Ok(_) if upsert && !key => Arc::new(field.as_ref().clone().with_nullable(true)),
            Ok(read) if !upsert => Arc::new(read.clone()),
            _ => field.clone(),
        }
    });
    let weight = Arc::new(Field::new(WEIGHT, DataType::Int64, false));
    Arc::new(Schema::new_with_metadata(fields.chain([weight]).collect::<Vec<_>>(), spec.schema.metadata().clone()))
}

/// The format takes a blank line for no record at all.
fn has_lines(format: &PartFormat) -> bool {
    matches!(format.format(), "json" | "ndjson" | "csv" | "debezium-json" | "canal-json")
}

fn read_format(format: &PartFormat, schema: &SchemaRef) -> Result<Arc<dyn Format>> {
    match format.format() {
        "csv" if format.options().get("csv.header").is_some_and(|header| header == "true") => {
            Err(Error::config("'csv.header' means nothing for records: each one is a row"))
        }
        "avro-confluent" => {
            let (registry, _) = format.registry()?;
            Ok(Arc::new(AvroFormat::new(registry, schema)?))
        }
        _ => millstream_io::format::format(format.options(), schema),
    }
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
        let (mut rejected, mut gone) = (vec![], vec![]);
        let records: Vec<Stored<'_>> =
            slices.iter().flat_map(|s| s.rows.clone().filter_map(|at| s.block.get(at))).collect();
        for record in &records {
            // No row number: an offset says it all, and is never the first line of a file.
            let place = Place { offset: record.offset, row: record.offset };
            match self.push(record, place) {
                Ok(Taken::Value) => {}
                Ok(Taken::Key) => gone.push(place),
                Err(Some(reason)) => {
                    let raw = record.value.or(record.key).unwrap_or_default().to_vec();
                    rejected.push(Rejected { place, reason: reason.into(), raw });
                }
                Err(None) => {}
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
        let rows = Rows::new(value.rows, value.places, gone);
        let columns = self.reader.origins.iter().map(|origin| match origin {
            Origin::Value(at) => rows.value(*at),
            Origin::Key(at) => match &key {
                Some(key) => take_places(&column(&key.rows, *at)?, &key.places, &rows.places),
                None => Err(Error::bug("a column of the key without a key")),
            },
            Origin::Metadata(metadata, data_type) => {
                metadata::array(*metadata, data_type, (&self.topic, self.partition), &records, &rows.places)
            }
            Origin::Weight => Ok(rows.weights()),
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.places.len()));
        let batch = RecordBatch::try_new_with_options(self.reader.schema.clone(), columns, &options)?;
        Ok(Chunk { rows: batch, places: rows.places, rejected, raw: Some(Arc::new(Records(slices.to_vec()))) })
    }

    /// Hands a record to its decoders: what of it is there, or else why it is no row; `None` where a decoder will say
    /// why, or where nothing was said.
    fn push(&mut self, record: &Stored<'_>, place: Place) -> std::result::Result<Taken, Option<&'static str>> {
        match (record.value, self.reader.tombstone) {
            (None, Tombstone::SaysNothing) => return Err(None),
            (None, Tombstone::Rejected) => {
                return Err(Some(
                    "the record has no value (a tombstone), and is no row of a table that only grows: 'upsert-kafka' takes \
                     the row of its key away",
                ));
            }
            _ => {}
        }
        if let Some(key) = &mut self.key {
            let bytes = record.key.ok_or("the record has no key, and the key's columns come from it")?;
            let before = key.len();
            key.push(bytes, place);
            if key.len() == before {
                return Err(bytes.trim_ascii().is_empty().then_some("key: it is empty"));
            }
        }
        let Some(value) = record.value else { return Ok(Taken::Key) };
        let before = self.value.len();
        self.value.push(value, place);
        if self.reader.lines && value.trim_ascii().is_empty() && self.value.len() == before {
            return Err(Some("the record is empty"));
        }
        Ok(Taken::Value)
    }
}

/// What of a record is a row.
enum Taken {
    Value,
    Key,
}

/// The rows of a chunk: those that have values, and between them those of which only the key is known.
struct Rows {
    values: RecordBatch,
    places: Vec<Place>,
    /// For each row where its values are; nothing where all rows have values, in their order.
    order: Option<UInt64Array>,
}

impl Rows {
    fn new(values: RecordBatch, places: Vec<Place>, gone: Vec<Place>) -> Self {
        if gone.is_empty() {
            return Self { values, places, order: None };
        }
        let mut all: Vec<(Place, Option<u64>)> = places.into_iter().zip((0u64..).map(Some)).collect();
        all.extend(gone.into_iter().map(|place| (place, None)));
        all.sort_by_key(|(place, _)| *place);
        let (places, order): (Vec<Place>, Vec<Option<u64>>) = all.into_iter().unzip();
        Self { values, places, order: Some(UInt64Array::from(order)) }
    }

    fn value(&self, at: usize) -> Result<ArrayRef> {
        let values = column(&self.values, at)?;
        self.order.as_ref().map_or_else(|| Ok(values.clone()), |order| Ok(take(&values, order, None)?))
    }

    fn weights(&self) -> ArrayRef {
        let weight = |row| if self.order.as_ref().is_some_and(|order| order.is_null(row)) { -1 } else { 1 };
        Arc::new(Int64Array::from_iter_values((0..self.places.len()).map(weight)))
    }
}

/// The records that a chunk was made of: ascending offsets.
#[derive(Debug)]
struct Records(Vec<Slice>);

impl RawRows for Records {
    fn raw(&self, place: Place) -> Option<Vec<u8>> {
        let stored = self.0.iter().flat_map(|s| s.rows.clone().filter_map(|at| s.block.get(at)));
        let record = stored.take_while(|r| r.offset <= place.offset).find(|r| r.offset == place.offset)?;
        record.value.map(<[u8]>::to_vec)
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
