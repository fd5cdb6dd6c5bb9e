//! The statements that store rows, with the rows as parameters; [`crate::writing`] makes their text.
//!
//! One statement moves the marker, stores and deletes, so that a batch that fits in one costs a single round trip and
//! is a transaction by itself:
//!
//! ```text
//! WITH moved AS (UPDATE markers SET .. WHERE .. RETURNING 1),
//! gone AS (DELETE FROM t USING (SELECT unnest($10) AS k0 FROM moved) AS d WHERE t.a = d.k0)
//! MERGE INTO t USING (SELECT unnest($8) AS c0, unnest($9) AS c1 FROM moved) AS s ON t.a = s.c0
//! WHEN MATCHED THEN UPDATE SET b = s.c1 WHEN NOT MATCHED THEN INSERT (a, b) VALUES (s.c0, s.c1)
//! ```
//!
//! Where the marker does not move, nothing is stored either, and the statement says that it changed no row. Each column
//! is one array parameter, which the server reads in less than half the time of a temporary table, and the text does not
//! depend on the number of rows; a table with array columns gets a parameter a value.
//!
//! Where all keys of a batch are known, plain UPDATE takes 0.93 of the server's time that MERGE takes. Where they are whole
//! numbers that lie close together, one walk along the index finds them in a third of the time that looking up each takes,
//! and the UPDATE takes 0.8 of what it takes then:
//!
//! ```text
//! UPDATE t SET b = s.c1 FROM (SELECT unnest($1) AS c0, unnest($2) AS c1) AS s WHERE t.a = s.c0 AND t.a BETWEEN $3 AND $4
//! ```
//!
//! MERGE takes 0.6 of the server's time that INSERT .. ON CONFLICT takes for new keys and 0.9 for known ones. It fails
//! where somebody else adds a key between its look and its insert; ON CONFLICT is then what the batch is stored with.

use std::fmt::Write as _;
use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Int16Type, Int32Type, Int64Type};
use bytes::BytesMut;
use millstream_core::{Error, Result};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::changes::Changes;
use crate::encode::{Write, array_of, writer};
use crate::marker::{MOVE_PARAMETERS, MarkerRow};
use crate::name::quoted;
use crate::writing::Writing;

/// Bytes of rows in one statement, about.
const CHUNK_BYTES: usize = 8 << 20;
/// Rows in one statement: while the server works on one, the next is made. More of them in a large table would look so
/// costly to the planner that it compiled the statement first, which takes longer than to run it.
const CHUNK_ROWS: usize = 8 << 10;
/// Values in one statement that takes them one by one; the protocol allows 65,535.
const CHUNK_VALUES: usize = 8 << 10;

/// Numbers for each row of a statement, at the most, from its least key to its greatest: in such a range there can't be
/// many rows that are not meant, whatever else is in the table.
const RANGE_PER_ROW: u64 = 2;

/// Keys that are looked up before rows are copied into a table with a key.
const PROBED_ROWS: usize = 64;

/// A value in the server's binary form; `None` is NULL.
pub(crate) struct Value(Option<Vec<u8>>);

impl Value {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(Some(bytes))
    }
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.as_ref().map_or(0, Vec::len))
    }
}

impl ToSql for Value {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        let Some(bytes) = &self.0 else { return Ok(IsNull::Yes) };
        out.extend_from_slice(bytes);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// A statement with its rows; the parameters of the marker come before them.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) sql: String,
    pub(crate) moves: bool,
    /// That are stored.
    pub(crate) rows: u64,
    pub(crate) values: Vec<(Value, Type)>,
}

/// How the rows of known keys are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Each key is looked up in the index.
    Singly,
    /// All rows from the least key to the greatest are read, and those that are meant picked.
    InRange,
}

/// The rows of a batch, column by column, and what is to be done with them.
pub(crate) struct Rows<'a> {
    writing: &'a Writing,
    columns: &'a [ArrayRef],
    writers: Vec<Write<'a>>,
    changes: &'a Changes,
    per_statement: usize,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(writing: &'a Writing, columns: &'a [ArrayRef], changes: &'a Changes) -> Result<Self> {
        let writers = columns.iter().zip(&writing.targets).map(|(column, target)| {
            writer(column, &target.wire).map_err(|e| e.at(format_args!("the column '{}'", target.name)))
        });
        let writers = writers.collect::<Result<Vec<_>>>()?;
        let rows = columns.first().map_or(0, |column| column.len()).max(1);
        let bytes: usize = columns.iter().map(|column| column.get_array_memory_size()).sum();
        let by_bytes = CHUNK_BYTES / (bytes / rows).max(1);
        let per_statement = match writing.by_column() {
            true => by_bytes.min(CHUNK_ROWS),
            false => by_bytes.min(CHUNK_VALUES / writing.targets.len().max(1)),
        };
        Ok(Self { writing, columns, writers, changes, per_statement: per_statement.max(1) })
    }

    /// How many statements it takes; at least one, for the marker.
    pub(crate) fn statements(&self) -> usize {
        self.changes.puts.len().max(self.changes.deletes.len()).div_ceil(self.per_statement).max(1)
    }

    /// These of the rows are of the n-th statement.
    fn part(&self, n: usize, rows: &'a [usize]) -> &'a [usize] {
        let start = (n * self.per_statement).min(rows.len());
        rows.get(start..(start + self.per_statement).min(rows.len())).unwrap_or_default()
    }

    pub(crate) fn puts(&self) -> &[usize] {
        &self.changes.puts
    }

    /// Whether rows whose keys are all known can be stored as [`Rows::update`] does it, and are so many that it is worth
    /// its round trips: what fits in one statement takes one by the other way.
    pub(crate) fn can_update(&self) -> bool {
        let updatable = self.writing.by_column() && self.writing.others().next().is_some();
        updatable && self.changes.deletes.is_empty() && self.statements() > 1
    }

    /// The n-th statement where all keys are taken to be known: it changes as many rows as it stores if they are. None of
    /// them moves the marker.
    ///
    /// # Errors
    /// As [`Rows::statement`].
    pub(crate) fn update(&self, n: usize) -> Result<(Statement, Found)> {
        let puts = self.part(n, &self.changes.puts);
        let mut values = Vec::new();
        self.arrays(0..self.columns.len(), puts, &mut values)?;
        let mut sql = self.writing.update();
        let range = self.range(puts);
        if let Some((index, ends)) = range {
            let target = self.writing.targets.get(index).ok_or_else(missing)?;
            let first = values.len() + 1;
            let _ = write!(sql, " AND t.{} BETWEEN ${first} AND ${}", quoted(&target.name), first + 1);
            for row in ends {
                let value = self.value(index, row, &mut Vec::new())?;
                values.push((value, target.one.clone()));
            }
        }
        let found = if range.is_some() { Found::InRange } else { Found::Singly };
        Ok((Statement { sql, moves: false, rows: puts.len() as u64, values }, found))
    }

    /// The column that is the key and the rows of its least and its greatest value, where these are close.
    fn range(&self, rows: &[usize]) -> Option<(usize, [usize; 2])> {
        let [index] = *self.writing.key.as_slice() else { return None };
        let column = self.columns.get(index)?;
        let number: &dyn Fn(usize) -> i64 = match column.data_type() {
            DataType::Int16 => &|row| column.as_primitive::<Int16Type>().value(row).into(),
            DataType::Int32 => &|row| column.as_primitive::<Int32Type>().value(row).into(),
            DataType::Int64 => &|row| column.as_primitive::<Int64Type>().value(row),
            _ => return None,
        };
        let least = rows.iter().copied().min_by_key(|row| number(*row))?;
        let greatest = rows.iter().copied().max_by_key(|row| number(*row))?;
        let close = number(greatest).abs_diff(number(least)) < RANGE_PER_ROW * rows.len() as u64;
        close.then_some((index, [least, greatest]))
    }

    /// The n-th statement; the last one moves the marker.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Sink`] where a value has no place in its column.
    pub(crate) fn statement(&self, n: usize, marker: &MarkerRow) -> Result<Statement> {
        let (puts, deletes) = (self.part(n, &self.changes.puts), self.part(n, &self.changes.deletes));
        let moves = n + 1 == self.statements();
        let first = 1 + if moves { MOVE_PARAMETERS } else { 0 };
        let mut values = Vec::new();
        if !puts.is_empty() {
            match self.writing.by_column() {
                true => self.arrays(0..self.columns.len(), puts, &mut values)?,
                false => self.singly(puts, &mut values)?,
            }
        }
        let first_key = first + values.len();
        if !deletes.is_empty() {
            for index in &self.writing.key {
                self.arrays(*index..*index + 1, deletes, &mut values)?;
            }
        }
        let mut parts = Vec::new();
        if moves {
            parts.push(format!("moved AS ({} RETURNING 1)", marker.move_sql()));
        }
        let from = if moves { " FROM moved" } else { "" };
        if !deletes.is_empty() {
            parts.push(format!("gone AS ({})", self.writing.delete(first_key, from)));
        }
        let last = match puts.len() {
            0 if moves => "SELECT FROM moved".to_string(),
            0 => "SELECT".to_string(),
            rows if self.writing.merge && !self.writing.key.is_empty() => self.writing.merge(first, rows, from),
            rows => self.writing.insert(first, rows, from),
        };
        let with = if parts.is_empty() { String::new() } else { format!("WITH {} ", parts.join(", ")) };
        Ok(Statement { sql: format!("{with}{last}"), moves, rows: puts.len() as u64, values })
    }

    /// Asks whether the key of one of some rows is in the table, or COPY is not for it: its index is no more, it has rules.
    ///
    /// # Errors
    /// As [`Rows::statement`].
    pub(crate) fn probe(&self, index: u32) -> Result<Statement> {
        let puts = &self.changes.puts;
        let step = puts.len().div_ceil(PROBED_ROWS).max(1);
        let some: Vec<usize> = puts.iter().step_by(step).copied().collect();
        let mut values = vec![(Value::new(index.to_be_bytes().to_vec()), Type::OID)];
        for column in &self.writing.key {
            self.arrays(*column..*column + 1, &some, &mut values)?;
        }
        Ok(Statement { sql: self.writing.probe(), moves: false, rows: 0, values })
    }

    /// These rows of these columns, each column an array.
    fn arrays(&self, columns: Range<usize>, rows: &[usize], values: &mut Vec<(Value, Type)>) -> Result<()> {
        for index in columns {
            let parts = (self.writers.get(index), self.columns.get(index), self.writing.targets.get(index));
            let (Some(write), Some(column), Some(target)) = parts else { return Err(missing()) };
            let mut bytes = Vec::with_capacity(rows.len() * 12 + 20);
            let has_nulls = column.null_count() > 0;
            let written = array_of(target.oid, rows.len(), has_nulls, &mut bytes, |out| {
                rows.iter().try_for_each(|row| write(*row, out))
            });
            written.map_err(|e| e.at(format_args!("the column '{}'", target.name)))?;
            values.push((Value(Some(bytes)), target.many.clone()));
        }
        Ok(())
    }

    /// These rows, value by value.
    fn singly(&self, rows: &[usize], values: &mut Vec<(Value, Type)>) -> Result<()> {
        let mut bytes = Vec::new();
        for row in rows {
            for (index, target) in self.writing.targets.iter().enumerate() {
                values.push((self.value(index, *row, &mut bytes)?, target.one.clone()));
            }
        }
        Ok(())
    }

    /// A value by itself; the buffer is scratch.
    fn value(&self, index: usize, row: usize, bytes: &mut Vec<u8>) -> Result<Value> {
        let (Some(write), Some(target)) = (self.writers.get(index), self.writing.targets.get(index)) else {
            return Err(missing());
        };
        bytes.clear();
        write(row, bytes).map_err(|e| e.at(format_args!("the column '{}'", target.name)))?;
        let (len, value) = bytes.split_first_chunk::<4>().ok_or_else(missing)?;
        Ok(Value((i32::from_be_bytes(*len) >= 0).then(|| value.to_vec())))
    }
}

fn missing() -> Error {
    Error::bug("a column of the table is not among the columns of the batch")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};

    use super::*;
    use crate::table::Target;
    use crate::wire::Wire;

    fn target(name: &str, wire: Wire, one: Type, many: Type) -> Target {
        Target { name: name.into(), wire, oid: one.oid(), one, many, not_null: true }
    }

    fn found(keys: Vec<i64>) -> Found {
        let names = StringArray::from_iter_values(keys.iter().map(|_| "a"));
        let changes = Changes { puts: (0..keys.len()).collect(), deletes: vec![] };
        let columns: [ArrayRef; 2] = [Arc::new(Int64Array::from(keys)), Arc::new(names)];
        let id = target("id", Wire::Int8, Type::INT8, Type::INT8_ARRAY);
        let name = target("name", Wire::Text, Type::TEXT, Type::TEXT_ARRAY);
        let writing = Writing { table: "t".into(), targets: vec![id, name], key: vec![0], index: Some(1), merge: true };
        let (statement, found) = Rows::new(&writing, &columns, &changes).unwrap().update(0).unwrap();
        let ranged = found == Found::InRange;
        assert_eq!(statement.sql.ends_with(r#" WHERE t."id" = s.c0 AND t."id" BETWEEN $3 AND $4"#), ranged);
        assert_eq!(statement.values.len(), if ranged { 4 } else { 2 });
        found
    }

    #[test]
    fn a_range_is_read_only_where_few_keys_fit_between_those_that_are_meant() {
        assert_eq!(found(vec![7]), Found::InRange);
        assert_eq!(found(vec![3, -2, 0]), Found::InRange);
        assert_eq!(found(vec![3, -3, 0]), Found::Singly);
        assert_eq!(found(vec![i64::MIN, i64::MAX]), Found::Singly);
    }
}
