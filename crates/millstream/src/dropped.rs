//! The rows that are not part of an answer, as tables: `<source>$rejected` and `<query>$late`.
//!
//! [`tables`] reads them for a person, from a state directory; a [`DroppedTable`] lets another query of the same
//! pipeline stream them (a dead letter file, a topic).

mod stream;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use millstream_core::batch::{BatchId, DropKind, Dropped};
use millstream_core::disk::RealDisk;
use millstream_core::log::read_dropped;
use millstream_core::{Error, Result};

pub use stream::{DroppedTable, Feed, Patience};

/// The columns of both tables. `line` counts from 1; `offset` is the source's own coordinate.
pub fn schema() -> SchemaRef {
    let text = |name| Field::new(name, DataType::Utf8, false);
    let number = |name| Field::new(name, DataType::UInt64, false);
    Arc::new(Schema::new(vec![
        text("query"),
        number("batch"),
        text("partition"),
        number("line"),
        number("offset"),
        text("reason"),
        text("raw"),
    ]))
}

/// Whose rows a name means: `x$rejected` and `q$late`; `None` for any other name.
pub fn parse_name(name: &str) -> Option<(&str, DropKind)> {
    let rejected = name.strip_suffix("$rejected").map(|source| (source, DropKind::Rejected));
    rejected.or_else(|| name.strip_suffix("$late").map(|query| (query, DropKind::Late)))
}

/// The dropped rows of queries, given with the directories of their logs, as tables by name. They may be running.
///
/// A source that several queries read has a row for each of them, told apart by `query`.
///
/// # Errors
/// Where a directory or the stored rows can't be read.
pub fn tables(queries: &[(String, PathBuf)]) -> Result<Vec<(String, Arc<dyn TableProvider>)>> {
    let mut rows: BTreeMap<String, Vec<(String, BatchId, Dropped)>> = BTreeMap::new();
    for (query, dir) in queries {
        rows.entry(format!("{query}$late")).or_default();
        if let Some(status) = millstream_core::log::read_status(&RealDisk, dir)? {
            for account in &status.totals {
                rows.entry(format!("{}$rejected", account.source)).or_default();
            }
        }
        for (batch, row) in read_dropped(&RealDisk, dir, BatchId(0))? {
            let table = match row.kind {
                DropKind::Rejected => format!("{}$rejected", row.source),
                DropKind::Late => format!("{query}$late"),
            };
            rows.entry(table).or_default().push((query.clone(), batch, row));
        }
    }
    let table = |(name, rows): (String, Vec<_>)| {
        let table = MemTable::try_new(schema(), vec![vec![record_batch(&rows)?]]);
        let table = table.map_err(|e| Error::bug("dropped rows make no table").caused_by(e))?;
        Ok((name, Arc::new(table) as _))
    };
    rows.into_iter().map(table).collect()
}

fn record_batch(rows: &[(String, BatchId, Dropped)]) -> Result<RecordBatch> {
    let texts = |text: fn(&(String, BatchId, Dropped)) -> &str| -> ArrayRef {
        Arc::new(rows.iter().map(|r| Some(text(r))).collect::<StringArray>())
    };
    let numbers = |number: fn(&(String, BatchId, Dropped)) -> u64| -> ArrayRef {
        Arc::new(rows.iter().map(|r| Some(number(r))).collect::<UInt64Array>())
    };
    let columns = vec![
        texts(|r| &r.0),
        numbers(|r| r.1.0),
        texts(|r| r.2.partition.as_str()),
        numbers(|r| r.2.place.row + 1),
        numbers(|r| r.2.place.offset),
        texts(|r| &r.2.reason),
        texts(|r| &r.2.raw),
    ];
    Ok(RecordBatch::try_new(schema(), columns)?)
}
