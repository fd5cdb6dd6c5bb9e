//! Rows of made-up values, each a function of the seed and the row's number.
//!
//! | option | |
//! |---|---|
//! | `rows-per-second` | as the wall clock goes, from when the query starts; default 10000, 0 for as fast as can be |
//! | `number-of-rows` | default: no end |
//! | `seed`, `partitions` | default 0 and 1 |
//! | `fields.<f>.kind` | `random` (default), `sequence`, or `time` (default of timestamps) |
//! | `fields.<f>.min`, `.max` | of a random number, both included |
//! | `fields.<f>.length` | of a random text, bytes (default 100) or array (default 3) |
//! | `fields.<f>.values` | choose from this list: `'a, b, c'` |
//! | `fields.<f>.null-rate` | this share of the rows is NULL, 0 to 1 |
//! | `fields.<f>.start`, `.end` | of a sequence, which ends the source; of a time: the first one |
//! | `fields.<f>.step` | of a time: how far it advances in a row; default what `rows-per-second` makes of it |
//! | `fields.<f>.jitter` | of a time: rows lie up to so far behind the advancing time, each by chance |
//! | `fields.<f>.max-past` | of a random timestamp: at most so far before `start` |
//!
//! Times begin at 2026-01-01 00:00:00 where nothing else is said, and not with the wall clock: a row that is
//! made again is the same row. The fields of a ROW are `fields.<f>.<inner>`, the elements of an ARRAY
//! `fields.<f>.element`.

mod column;

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use millstream_core::source::{Chunk, SourceTable};
use millstream_core::{Error, Result};

use super::generated::{GeneratedTable, Generator, Numbered, Supply};
use crate::TableSpec;
use column::{Column, Context};

const RATE_DEFAULT: f64 = 10_000.0;

/// The table that the options describe.
pub(super) fn table(spec: &TableSpec) -> Result<Arc<dyn SourceTable>> {
    let options = &spec.options;
    let mut supply = Supply::of(options, RATE_DEFAULT)?;
    let mut context = Context {
        options,
        seed: options.parsed("seed")?.unwrap_or(0),
        step_us: 1e6 / supply.rows_per_second.unwrap_or(1000.0),
        lanes: 0,
        rows_max: None,
    };
    if spec.schema.fields().is_empty() {
        return Err(Error::config(format!("the table '{}' has no columns: declare some to generate", spec.name)));
    }
    let columns: Result<Vec<_>> =
        spec.schema.fields().iter().map(|f| Column::new(f, &format!("fields.{}", f.name()), &mut context)).collect();
    let seed = context.seed;
    supply.rows = supply.rows.into_iter().chain(context.rows_max).min();
    Ok(Arc::new(GeneratedTable::new(Datagen { seed, columns: columns?, schema: spec.schema.clone() }, supply)))
}

#[derive(Debug)]
struct Datagen {
    seed: u64,
    columns: Vec<Column>,
    schema: SchemaRef,
}

impl Generator for Datagen {
    fn identity(&self) -> String {
        format!("{} {:?}", self.seed, self.columns)
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn row_bytes(&self) -> u64 {
        self.columns.iter().map(Column::bytes).sum::<u64>().max(1)
    }

    fn rows(&self, projection: &[usize], schema: &SchemaRef, rows: &[Numbered]) -> Result<Chunk> {
        let numbers: Vec<_> = rows.iter().map(|r| r.number).collect();
        let wanted = projection.iter().filter_map(|i| Some((self.columns.get(*i)?, self.schema.fields().get(*i)?)));
        let arrays: Result<Vec<_>> = wanted.map(|(c, f)| c.array(f.data_type(), self.seed, &numbers)).collect();
        let count = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        Ok(Chunk {
            rows: RecordBatch::try_new_with_options(schema.clone(), arrays?, &count)?,
            places: rows.iter().map(|r| r.place).collect(),
            rejected: Vec::new(),
            raw: None,
        })
    }
}

#[cfg(test)]
mod tests;
