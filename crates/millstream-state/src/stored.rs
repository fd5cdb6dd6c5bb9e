//! The newest checkpoint of a query as rows, for a person: read without the query that wrote it.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream_core::Result;
use millstream_core::disk::Disk;

use crate::checkpoint::manifest::TableEntry;
use crate::checkpoint::read::{read_manifest, read_operators};
use crate::checkpoint::{MANIFEST, manifest_batch};
use crate::operator::{Restored, next_of};
use crate::paned::PanedTable;
use crate::table::KeyedTable;

/// The column that says which pane a row of a paned table is in.
const PANE: &str = "$pane";

/// One table of one operator, as a checkpoint holds it.
#[derive(Clone, Debug)]
pub struct StoredTable {
    /// The operator's name within the query.
    pub operator: String,
    /// What the operator keeps, for a person.
    pub kind: String,
    /// The table's name within the operator.
    pub table: String,
    /// The batch that the checkpoint was made after.
    pub batch: u64,
    /// The columns: `$pane` where the table has panes, those of the key, those of the values.
    pub schema: SchemaRef,
    /// The rows.
    pub rows: Vec<RecordBatch>,
}

/// The tables of the newest checkpoint in a directory of states, by operator; none where there is no checkpoint. The
/// query may be running.
///
/// # Errors
/// [`millstream_core::ErrorKind::Corrupt`] where a file is missing or not what was written;
/// [`millstream_core::ErrorKind::Config`] where it was written by a newer version, or can't be read.
pub fn stored_tables(disk: &dyn Disk, dir: &Path) -> Result<Vec<StoredTable>> {
    let Some(manifest) = newest(disk, dir) else { return Ok(vec![]) };
    let manifest = read_manifest(disk, dir, &manifest)?;
    let mut operators = read_operators(disk, dir, &manifest)?;
    let mut tables = vec![];
    for (name, operator) in &manifest.operators {
        let Some(restored) = operators.get_mut(name) else { continue };
        for (table, entry) in &operator.tables {
            let (schema, rows) = match restored.note(&next_of(table)) {
                Some(_) => many_rows(restored, table, entry)?,
                None => rows_of_table(restored, table, entry)?,
            };
            tables.push(StoredTable {
                operator: name.clone(),
                kind: operator.kind.clone(),
                table: table.clone(),
                batch: manifest.batch,
                schema,
                rows,
            });
        }
    }
    Ok(tables)
}

/// The name of the newest manifest.
fn newest(disk: &dyn Disk, dir: &Path) -> Option<String> {
    // Where there is no directory there is no checkpoint yet.
    let names = disk.list(dir).unwrap_or_default();
    let names = names.iter().filter_map(|path| path.file_name()?.to_str());
    let manifests = names.filter(|name| name.ends_with(MANIFEST));
    manifests.filter_map(|name| Some((manifest_batch(name)?, name))).max().map(|(_, name)| name.to_string())
}

/// A table of at most one row a key.
fn rows_of_table(saved: &mut Restored, name: &str, entry: &TableEntry) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let (keys, values) = schemas(saved, name, entry);
    if !entry.paned {
        let mut table = KeyedTable::new(keys, values)?;
        let schema = Arc::clone(&table.layout.shown);
        saved.keyed(name, &mut table)?;
        return Ok((schema, table.scan().collect::<Result<_>>()?));
    }
    let mut table = PanedTable::new(keys, values)?;
    let mut fields = vec![Arc::new(Field::new(PANE, DataType::Int64, false))];
    fields.extend(table.layout.shown.fields().iter().cloned());
    let schema = Arc::new(Schema::new(fields));
    saved.paned(name, &mut table)?;
    let with_pane = |batch: Result<(i64, RecordBatch)>| {
        let (pane, batch) = batch?;
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_value(pane, batch.num_rows()))];
        columns.extend(batch.columns().iter().cloned());
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options)?)
    };
    let rows = table.scan().map(with_pane).collect::<Result<_>>()?;
    Ok((schema, rows))
}

/// A side of a table of any number of rows a key: the sequences of its rows come last.
fn many_rows(saved: &mut Restored, name: &str, entry: &TableEntry) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let (schema, rows) = rows_of_table(saved, name, entry)?;
    let order: Vec<usize> = (1..schema.fields().len()).chain([0]).collect();
    let rows = rows.iter().map(|batch| Ok(batch.project(&order)?)).collect::<Result<_>>()?;
    Ok((Arc::new(schema.project(&order)?), rows))
}

/// The columns of a table: their names as the manifest has them, their types as they are stored.
fn schemas(saved: &Restored, name: &str, entry: &TableEntry) -> (SchemaRef, SchemaRef) {
    let segments = saved.tables.get(name).into_iter().flat_map(|panes| panes.values()).flat_map(|p| &p.segments);
    let stored: Vec<DataType> =
        segments.take(1).flat_map(|s| s.columns().iter().map(|c| c.data_type().clone())).collect();
    let column = |(at, (name, named)): (usize, &(String, String))| {
        let written = || DataType::from_str(named).unwrap_or(DataType::Utf8);
        Field::new(name, stored.get(at).cloned().unwrap_or_else(written), true)
    };
    let schema = |columns: &[(String, String)], from: usize| -> SchemaRef {
        Arc::new(Schema::new((from..).zip(columns).map(column).collect::<Vec<_>>()))
    };
    (schema(&entry.keys, 0), schema(&entry.values, entry.keys.len()))
}
