//! PARTITIONED BY: which directory a row belongs to, named as Hive names them.
//!
//! `dt=2026-01-01/country=de/`: the columns are told by the directory and left out of the files. NULL and
//! the empty string are `__HIVE_DEFAULT_PARTITION__`, as in Hive and Flink, so a reader cannot tell the two
//! apart in a partition column.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{can_cast_types, cast, take_record_batch};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use millstream_core::{Error, Result};

use crate::options::nearest;

const DEFAULT_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";

/// The rows of a batch by the directory they belong to; the empty name is the output's own directory.
pub(super) type Split = BTreeMap<String, Vec<RecordBatch>>;

/// How rows are spread over directories.
#[derive(Clone, Debug)]
pub(super) struct Partitioning {
    columns: Vec<(String, usize)>,
    kept: Vec<usize>,
    file_schema: SchemaRef,
}

impl Partitioning {
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where a column is not there, has no text form, or none is left.
    pub(super) fn new(schema: &Schema, columns: &[String]) -> Result<Self> {
        let names = || schema.fields().iter().map(|field| field.name().as_str());
        let mut found = Vec::with_capacity(columns.len());
        for column in columns {
            let Some((index, field)) = schema.column_with_name(column) else {
                let hint = nearest(column, names()).map(|n| format!("; did you mean '{n}'?")).unwrap_or_default();
                return Err(Error::config(format!("PARTITIONED BY names '{column}', which is no column{hint}")));
            };
            if !can_cast_types(field.data_type(), &DataType::Utf8) || field.data_type().is_nested() {
                let kind = field.data_type();
                return Err(Error::config(format!(
                    "PARTITIONED BY names '{column}', whose type {kind} has no text form for a directory's name"
                )));
            }
            found.push((column.clone(), index));
        }
        let kept: Vec<_> = (0..schema.fields().len()).filter(|i| !found.iter().any(|(_, p)| p == i)).collect();
        if kept.is_empty() {
            return Err(Error::config("PARTITIONED BY names every column: at least one must be left for the files"));
        }
        let file_schema = Arc::new(schema.project(&kept)?);
        Ok(Self { columns: found, kept, file_schema })
    }

    /// The columns of the files.
    pub(super) fn file_schema(&self) -> &SchemaRef {
        &self.file_schema
    }

    /// How many directories deep the files lie.
    pub(super) fn depth(&self) -> usize {
        self.columns.len()
    }

    /// Whether a directory's name is one of this table's, at this depth.
    pub(super) fn owns_dir(&self, name: &str, depth: usize) -> bool {
        let Some((column, _)) = self.columns.get(depth) else { return false };
        name.strip_prefix(&escape(column)).is_some_and(|rest| rest.starts_with('='))
    }

    /// Spreads the rows; their order within a directory stays.
    pub(super) fn split(&self, batches: &[RecordBatch]) -> Result<Split> {
        let mut split = Split::new();
        for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
            let kept = batch.project(&self.kept)?;
            if self.columns.is_empty() {
                split.entry(String::new()).or_default().push(kept);
                continue;
            }
            for (dir, rows) in self.rows_by_dir(batch)? {
                let all = rows.len() == kept.num_rows();
                let part = if all { kept.clone() } else { take_record_batch(&kept, &UInt32Array::from(rows))? };
                split.entry(dir).or_default().push(part);
            }
        }
        Ok(split)
    }

    fn rows_by_dir(&self, batch: &RecordBatch) -> Result<BTreeMap<String, Vec<u32>>> {
        let texts: Vec<(String, ArrayRef)> = self
            .columns
            .iter()
            .map(|(name, index)| Ok((escape(name), cast(batch.column(*index), &DataType::Utf8)?)))
            .collect::<Result<_>>()?;
        let mut rows_by_dir: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        let mut dir = String::new();
        for row in 0..batch.num_rows() {
            dir.clear();
            for (name, values) in &texts {
                let separator = if dir.is_empty() { "" } else { "/" };
                let values = values.as_string::<i32>();
                let value = Some(row).filter(|row| values.is_valid(*row)).map(|row| values.value(row));
                let value = value.filter(|text| !text.is_empty()).map_or(DEFAULT_PARTITION.to_string(), escape);
                // Writing to a string cannot fail.
                let _ = write!(dir, "{separator}{name}={value}");
            }
            let row = u32::try_from(row).map_err(|_| Error::bug("a record batch of more than 2^32 rows"))?;
            match rows_by_dir.get_mut(&dir) {
                Some(rows) => rows.push(row),
                None => drop(rows_by_dir.insert(dir.clone(), vec![row])),
            }
        }
        Ok(rows_by_dir)
    }
}

/// A text as a part of a directory's name: what Hive's `FileUtils.escapePathName` escapes is written `%XX`.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_control() || "\"#%'*/:=?\\{}[]^".contains(c) {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{:02X}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use arrow::array::{Date32Array, Int64Array, StringArray};
    use arrow::datatypes::Field;

    use super::*;

    fn batch() -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("dt", DataType::Date32, true),
            Field::new("n", DataType::Int64, false),
            Field::new("city", DataType::Utf8, true),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Date32Array::from(vec![Some(20_454), None, Some(20_454), Some(20_454)])),
            Arc::new(Int64Array::from(vec![1, 2, 3, 4])),
            Arc::new(StringArray::from(vec![Some("a/b=c"), Some(""), Some("a/b=c"), Some("Köln 7%")])),
        ];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    #[test]
    fn rows_go_to_hive_directories_with_null_and_odd_characters_escaped() {
        let batch = batch();
        let partitioning = Partitioning::new(&batch.schema(), &["dt".into(), "city".into()]).unwrap();
        let split = partitioning.split(std::slice::from_ref(&batch)).unwrap();
        let found: Vec<(&str, Vec<i64>)> = split
            .iter()
            .map(|(dir, parts)| {
                let numbers = parts.iter().flat_map(|part| {
                    assert_eq!(part.num_columns(), 1);
                    part.column(0).as_primitive::<arrow::datatypes::Int64Type>().values().to_vec()
                });
                (dir.as_str(), numbers.collect())
            })
            .collect();
        let expected = vec![
            ("dt=2026-01-01/city=Köln 7%25", vec![4]),
            ("dt=2026-01-01/city=a%2Fb%3Dc", vec![1, 3]),
            ("dt=__HIVE_DEFAULT_PARTITION__/city=__HIVE_DEFAULT_PARTITION__", vec![2]),
        ];
        assert_eq!(found, expected);
        assert!(partitioning.owns_dir("dt=2026-01-01", 0) && !partitioning.owns_dir("dt=2026-01-01", 1));
    }

    #[test]
    fn a_column_that_is_not_there_gets_a_did_you_mean_and_no_column_left_is_refused() {
        let schema = batch().schema();
        let error = Partitioning::new(&schema, &["City".into()]).unwrap_err().to_string();
        assert_eq!(error, "PARTITIONED BY names 'City', which is no column; did you mean 'city'?");
        let all = ["dt", "n", "city"].map(String::from);
        assert!(Partitioning::new(&schema, &all).is_err());
    }
}
