//! The columns of a table as they are declared, as they are stored, and the way between.
//!
//! Stored types have no dictionaries (each segment would carry one of its own), and every stored value can be
//! NULL, because a removed key is stored as a key with NULL values.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use millstream_core::{Error, Result};

use crate::encode::KeyEncoder;
use crate::index::NO_SLOT;
use crate::keys::{Epoch, Keys};

/// The columns of one table, shared by all its panes.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) keys: SchemaRef,
    pub(crate) values: SchemaRef,
    /// Keys, then values, as declared.
    pub(crate) shown: SchemaRef,
    /// Keys, then values, as stored.
    pub(crate) stored: SchemaRef,
    pub(crate) encoder: KeyEncoder,
}

impl Layout {
    pub(crate) fn new(keys: SchemaRef, values: SchemaRef) -> Result<Self> {
        let declared: Vec<FieldRef> = keys.fields().iter().chain(values.fields()).cloned().collect();
        let stored: Vec<Field> =
            declared.iter().map(|f| Field::new(f.name(), stored_type(f.data_type()), true)).collect();
        let types: Vec<DataType> = stored.iter().take(keys.fields().len()).map(|f| f.data_type().clone()).collect();
        let encoder = KeyEncoder::new(&types)?;
        let shown = Arc::new(Schema::new(declared));
        Ok(Self { keys, values, shown, stored: Arc::new(Schema::new(stored)), encoder })
    }

    pub(crate) fn key_count(&self) -> usize {
        self.keys.fields().len()
    }

    /// Key columns as they are stored.
    fn store_keys(&self, keys: &[ArrayRef], rows: usize) -> Result<Vec<ArrayRef>> {
        store("key", keys, rows, self.stored.fields().get(..self.key_count()).unwrap_or_default())
    }

    /// Keys that were not looked up yet.
    pub(crate) fn keys_of(&self, keys: &[ArrayRef], rows: usize, epoch: Epoch) -> Result<Keys> {
        let columns = self.store_keys(keys, rows)?;
        let encoded = self.encoder.encode(&columns, rows)?;
        Ok(Keys { columns, encoded, slots: vec![NO_SLOT; rows], epoch })
    }

    /// Value columns as they are stored.
    pub(crate) fn store_values(&self, values: &[ArrayRef], rows: usize) -> Result<Vec<ArrayRef>> {
        store("value", values, rows, self.stored.fields().get(self.key_count()..).unwrap_or_default())
    }

    /// The value columns of removed keys.
    pub(crate) fn no_values(&self, rows: usize) -> Vec<ArrayRef> {
        self.stored.fields().iter().skip(self.key_count()).map(|f| new_null_array(f.data_type(), rows)).collect()
    }

    /// Where the value columns are among the stored ones.
    pub(crate) fn value_columns(&self) -> Range<usize> {
        self.key_count()..self.stored.fields().len()
    }

    /// A stored value column as it is declared; `at` is its number among the values.
    pub(crate) fn show_value(&self, at: usize, column: ArrayRef) -> Result<ArrayRef> {
        self.values.fields().get(at).map_or_else(|| Err(Error::bug("state has no such value")), |f| show(column, f))
    }

    /// Stored keys and values as a batch of the declared types.
    pub(crate) fn show(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
        let columns: Result<Vec<ArrayRef>> =
            columns.into_iter().zip(self.shown.fields()).map(|(column, field)| show(column, field)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.shown), columns?, &options)?)
    }
}

fn show(column: ArrayRef, field: &FieldRef) -> Result<ArrayRef> {
    if column.data_type() == field.data_type() { Ok(column) } else { Ok(cast(&column, field.data_type())?) }
}

fn store(what: &str, columns: &[ArrayRef], rows: usize, fields: &[FieldRef]) -> Result<Vec<ArrayRef>> {
    if columns.len() != fields.len() {
        let (got, want) = (columns.len(), fields.len());
        return Err(Error::bug(format!("state was given {got} {what} columns, and is declared with {want}")));
    }
    let one = |(column, field): (&ArrayRef, &FieldRef)| {
        if column.len() != rows {
            let (name, got) = (field.name(), column.len());
            return Err(Error::bug(format!("state was given {got} rows of {what} column {name}, not {rows}")));
        }
        let (got, want) = (column.data_type(), field.data_type());
        if got == want {
            Ok(Arc::clone(column))
        } else if plain(got).equals_datatype(&plain(want)) {
            Ok(cast(column, want)?)
        } else {
            Err(Error::bug(format!(
                "state was given {what} column {} of type {got}, and is declared with {want}",
                field.name()
            )))
        }
    };
    columns.iter().zip(fields).map(one).collect()
}

/// The type without dictionaries and run-end encoding.
fn stored_type(data_type: &DataType) -> DataType {
    let inner = |f: &FieldRef| Arc::new(f.as_ref().clone().with_data_type(stored_type(f.data_type())));
    match data_type {
        DataType::Dictionary(_, value) => stored_type(value),
        DataType::RunEndEncoded(_, value) => stored_type(value.data_type()),
        DataType::List(f) => DataType::List(inner(f)),
        DataType::LargeList(f) => DataType::LargeList(inner(f)),
        DataType::FixedSizeList(f, n) => DataType::FixedSizeList(inner(f), *n),
        DataType::Map(f, sorted) => DataType::Map(inner(f), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        other => other.clone(),
    }
}

/// The type without its encoding: what makes two columns hold the same values.
fn plain(data_type: &DataType) -> DataType {
    match stored_type(data_type) {
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        other => other,
    }
}
