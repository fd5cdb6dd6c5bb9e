//! Changelogs: envelopes that say how rows came, changed and went.
//!
//! A record is an envelope around one row or several. It is decoded to the declared columns and a last one,
//! [`WEIGHT`]: `+1` where a row came, `-1` where it went; an update is both, in this order: the old row goes, the new
//! one comes. All rows of a record share its place, and a record is decoded as a whole or rejected as a whole.
//!
//! Of a table with a PRIMARY KEY a row that goes needs no more than its key, so its other columns may be NULL
//! whatever was declared; and an update needs no old row. Without one the old row must be whole, as it is what is
//! taken away.

mod canal;
mod debezium;

use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream_core::batch::Place;
use millstream_core::format::{Decoder, Format};
use millstream_core::source::{Chunk, Rejected};
use millstream_core::{Error, Result};

use super::json::Objects;
use super::{refuse_silence, rejected, strip_mark};
use crate::{Options, TableSpec};

/// The name of the last column of a changelog: how often a row comes, negative where it goes.
pub const WEIGHT: &str = "$weight";

/// The format of a changelog that the table's options name, and the columns that it gives. Nothing where they name
/// another format.
///
/// # Errors
/// [`millstream_core::ErrorKind::Config`] where an option of the format is not understood, or the schema has a type
/// that the format can't give.
pub(super) fn of_table(spec: &TableSpec) -> Result<Option<(Arc<dyn Format>, SchemaRef)>> {
    let Some(name) = spec.options.get("format") else { return Ok(None) };
    let keyed = !spec.primary_key.is_empty();
    let envelope: Arc<dyn Envelope> = match name.to_ascii_lowercase().as_str() {
        "debezium-json" => {
            json_options(&spec.options, "debezium-json")?;
            Arc::new(debezium::Debezium::new(&spec.options, keyed)?)
        }
        "canal-json" => {
            json_options(&spec.options, "canal-json")?;
            Arc::new(canal::Canal::new(&spec.options)?)
        }
        _ => return Ok(None),
    };
    Objects::new(spec.schema.fields())?;
    let is_key = |field: &Field| spec.primary_key.contains(field.name());
    let needed = spec.schema.fields().iter().map(|f| {
        let coming = !f.is_nullable();
        (f.name().clone(), [coming && (!keyed || is_key(f)), coming])
    });
    let needed = needed.collect();
    let fields = spec.schema.fields().iter().map(|f| match keyed && !is_key(f) {
        true => Arc::new(f.as_ref().clone().with_nullable(true)),
        false => Arc::clone(f),
    });
    let fields: Vec<_> = fields.chain([Arc::new(Field::new(WEIGHT, DataType::Int64, false))]).collect();
    let schema = Arc::new(Schema::new_with_metadata(fields, spec.schema.metadata().clone()));
    Ok(Some((Arc::new(ChangelogFormat { envelope, needed }), schema)))
}

/// The options that both formats have, as Flink calls them.
fn json_options(options: &Options, name: &str) -> Result<()> {
    refuse_silence(options, &format!("{name}.ignore-parse-errors"))?;
    // Timestamps are read in both ways.
    options.one_of(&format!("{name}.timestamp-format.standard"), &[("ISO-8601", ()), ("SQL", ())])?;
    Ok(())
}

/// What an envelope of some kind says.
trait Envelope: Send + Sync + Debug {
    /// The rows of a record, or why it is none of this kind; no rows where it says nothing of the table's rows.
    fn open(&self, record: &[u8], rows: &mut Rows) -> Result<(), String>;
}

#[derive(Debug)]
struct ChangelogFormat {
    envelope: Arc<dyn Envelope>,
    /// By column, whether it must be there in a row that goes, and in one that comes.
    needed: Vec<(String, [bool; 2])>,
}

impl Format for ChangelogFormat {
    fn decoder(&self, schema: SchemaRef) -> Result<Box<dyn Decoder>> {
        let weight = schema.index_of(WEIGHT).ok();
        let fields: Vec<_> = schema.fields().iter().filter(|f| f.name() != WEIGHT).cloned().collect();
        let needed = |at: usize| {
            let of = |f: &Arc<Field>| self.needed.iter().any(|(name, needed)| name == f.name() && needed[at]);
            fields.iter().map(of).collect::<Vec<bool>>()
        };
        let needed = [needed(0), needed(1)];
        let types = fields.iter().map(|f| (f.name().clone(), f.data_type().clone())).collect();
        let rows = Rows { objects: Objects::new(&fields.into())?, weights: vec![], needed, types };
        let envelope = Arc::clone(&self.envelope);
        Ok(Box::new(ChangelogDecoder { schema, weight, envelope, rows, places: vec![], rejected: vec![] }))
    }
}

/// The rows of envelopes, each with its weight.
struct Rows {
    objects: Objects,
    weights: Vec<i64>,
    needed: [Vec<bool>; 2],
    types: Vec<(String, DataType)>,
}

impl Rows {
    /// A row that goes.
    fn go(&mut self, row: &str, called: &str) -> Result<(), String> {
        self.push(row, called, 0, -1)
    }

    /// A row that comes.
    fn come(&mut self, row: &str, called: &str) -> Result<(), String> {
        self.push(row, called, 1, 1)
    }

    fn push(&mut self, row: &str, called: &str, needed: usize, weight: i64) -> Result<(), String> {
        if let Some(needed) = self.needed.get(needed) {
            self.objects.demand(needed);
        }
        match self.objects.read(row.as_bytes()) {
            Ok(Some(())) => {
                self.weights.push(weight);
                Ok(())
            }
            Ok(None) => Err(format!("'{called}' is empty")),
            Err(reason) => Err(format!("in '{called}': {reason}")),
        }
    }

    fn truncate(&mut self, rows: usize) {
        self.objects.truncate(rows);
        self.weights.truncate(rows);
    }
}

struct ChangelogDecoder {
    schema: SchemaRef,
    /// Where the weight stands among the columns that are asked for, if it is.
    weight: Option<usize>,
    envelope: Arc<dyn Envelope>,
    rows: Rows,
    places: Vec<Place>,
    rejected: Vec<Rejected>,
}

impl Decoder for ChangelogDecoder {
    fn push(&mut self, record: &[u8], place: Place) {
        let text = strip_mark(record, place).trim_ascii();
        // A tombstone, which follows a delete in a compacted topic, and a blank line: nothing is said.
        if text.is_empty() || text == b"null" {
            return;
        }
        let before = self.rows.weights.len();
        match self.envelope.open(text, &mut self.rows) {
            Ok(()) => self.places.resize(self.rows.weights.len(), place),
            Err(reason) => {
                self.rows.truncate(before);
                self.rejected.push(rejected(record, place, reason));
            }
        }
    }

    fn len(&self) -> usize {
        self.rows.weights.len()
    }

    fn finish(&mut self) -> Result<Chunk> {
        let weights = std::mem::take(&mut self.rows.weights);
        let options = RecordBatchOptions::new().with_row_count(Some(weights.len()));
        let mut columns = self.rows.objects.finish()?;
        if let Some(at) = self.weight {
            if at > columns.len() {
                return Err(Error::bug("the weight of a changelog stands behind its columns"));
            }
            let weights: ArrayRef = Arc::new(Int64Array::from(weights));
            columns.insert(at, weights);
        }
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        let (places, rejected) = (std::mem::take(&mut self.places), std::mem::take(&mut self.rejected));
        Ok(Chunk { rows, places, rejected, raw: None })
    }
}

/// Why serde_json does not take a record for an envelope.
fn not_an_envelope(kind: &str, error: &serde_json::Error) -> String {
    match error.classify() {
        serde_json::error::Category::Data => format!("not an envelope of {kind}: {error}"),
        _ => format!("not JSON: {error}"),
    }
}

#[cfg(test)]
mod tests;
