//! What a batch was answered by tables that are read as they are, and the form in which that is stored.
//!
//! ```text
//! {"tables":[{"name":"side","version":"side.csv 120 1718000000123456789","bytes":1040}],"lookups":[{"name":"lookup-3f..","bytes":[880,1204]}]}
//! <the parts, one after the other, each an Arrow IPC stream>
//! ```
//! A lookup's parts are the keys that were asked and the rows they were answered, in turn.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use arrow::row::{OwnedRow, RowConverter, SortField};
use millstream_core::runner::Answers;
use millstream_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// Whether something may be asked that was not asked before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum May {
    /// The batch is run for the first time.
    #[default]
    Ask,
    /// It was run before, and is answered as it was then.
    Never,
}

/// All rows of a table, and what it was when it had them.
#[derive(Clone, Debug)]
pub struct TableVersion {
    /// The version.
    pub version: String,
    /// The rows.
    pub rows: RecordBatch,
}

/// What a batch was answered.
#[derive(Debug, Default)]
pub struct Asked {
    may: May,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    tables: BTreeMap<String, TableVersion>,
    lookups: BTreeMap<String, Known>,
    /// Something is there that is not stored.
    fresh: bool,
}

/// What one lookup knows.
#[derive(Debug, Default)]
struct Known {
    /// Keys, and the rows they were answered.
    parts: Vec<(RecordBatch, RecordBatch)>,
    keys: HashSet<OwnedRow>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Head {
    tables: Vec<TableHead>,
    lookups: Vec<LookupHead>,
}

#[derive(Debug, Serialize, Deserialize)]
struct TableHead {
    name: String,
    version: String,
    bytes: usize,
}

#[derive(Debug, Serialize, Deserialize)]
struct LookupHead {
    name: String,
    bytes: Vec<usize>,
}

impl Asked {
    /// What was recorded; nothing more may be asked.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Corrupt`] where it can't be read.
    pub fn recorded(answers: &Answers) -> Result<Self> {
        let unreadable = || Error::corrupt("what a batch was answered by the tables it looks up is not understood");
        let line = answers.0.iter().position(|byte| *byte == b'\n').ok_or_else(unreadable)?;
        let (head, mut rest) = answers.0.split_at(line);
        let head: Head = serde_json::from_slice(head).map_err(|e| unreadable().caused_by(e))?;
        rest = rest.get(1..).unwrap_or_default();
        let mut part = |bytes: usize| {
            let (part, after) = rest.split_at_checked(bytes).ok_or_else(unreadable)?;
            rest = after;
            decode(part)
        };
        let mut said = Said::default();
        for TableHead { name, version, bytes } in head.tables {
            said.tables.insert(name, TableVersion { version, rows: part(bytes)? });
        }
        for LookupHead { name, bytes } in head.lookups {
            let known = said.lookups.entry(name).or_default();
            for pair in bytes.chunks_exact(2) {
                let [keys, answer] = pair else { continue };
                known.add(part(*keys)?, part(*answer)?)?;
            }
        }
        Ok(Self { may: May::Never, said: Mutex::new(said) })
    }

    /// What was answered and is not recorded, in the form to be stored; `None` where there is nothing.
    ///
    /// # Errors
    /// A fault of our own.
    pub fn to_record(&self) -> Result<Option<Answers>> {
        let said = self.said();
        if !said.fresh {
            return Ok(None);
        }
        let (mut head, mut parts) = (Head::default(), vec![]);
        for (name, TableVersion { version, rows }) in &said.tables {
            let bytes = encode(rows, &mut parts)?;
            head.tables.push(TableHead { name: name.clone(), version: version.clone(), bytes });
        }
        for (name, known) in &said.lookups {
            let mut bytes = vec![];
            for (keys, answer) in &known.parts {
                bytes.extend([encode(keys, &mut parts)?, encode(answer, &mut parts)?]);
            }
            head.lookups.push(LookupHead { name: name.clone(), bytes });
        }
        let mut record = serde_json::to_vec(&head).map_err(|e| Error::bug("unwritable answers").caused_by(e))?;
        record.push(b'\n');
        record.extend(parts);
        Ok(Some(Answers(record.into())))
    }

    /// Whether something may be asked that was not asked before.
    pub fn may(&self) -> May {
        self.may
    }

    /// A table as it was read in this batch.
    pub fn table(&self, name: &str) -> Option<TableVersion> {
        self.said().tables.get(name).cloned()
    }

    /// A table was read.
    pub fn put_table(&self, name: &str, table: TableVersion) {
        let mut said = self.said();
        said.tables.insert(name.to_string(), table);
        said.fresh = true;
    }

    /// Which of these distinct keys a lookup has not asked for.
    pub(super) fn unknown(&self, lookup: &str, keys: &[ArrayRef]) -> Result<Vec<u32>> {
        let rows = key_rows(keys)?;
        let said = self.said();
        let known = said.lookups.get(lookup);
        let new = |row: &OwnedRow| known.is_none_or(|known| !known.keys.contains(row));
        Ok((0u32..).zip(&rows).filter(|(_, row)| new(row)).map(|(n, _)| n).collect())
    }

    /// A lookup was answered.
    pub(super) fn put_answer(&self, lookup: &str, keys: RecordBatch, answer: RecordBatch) -> Result<()> {
        let mut said = self.said();
        said.lookups.entry(lookup.to_string()).or_default().add(keys, answer)?;
        said.fresh = true;
        Ok(())
    }

    /// Everything that a lookup was answered.
    pub(super) fn answers(&self, lookup: &str) -> Vec<(RecordBatch, RecordBatch)> {
        self.said().lookups.get(lookup).map(|known| known.parts.clone()).unwrap_or_default()
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn add(&mut self, keys: RecordBatch, answer: RecordBatch) -> Result<()> {
        self.keys.extend(key_rows(keys.columns())?);
        self.parts.push((keys, answer));
        Ok(())
    }
}

fn key_rows(keys: &[ArrayRef]) -> Result<Vec<OwnedRow>> {
    let fields = keys.iter().map(|key| SortField::new(key.data_type().clone())).collect();
    let rows = RowConverter::new(fields)?.convert_columns(keys)?;
    Ok(rows.iter().map(|row| row.owned()).collect())
}

fn encode(rows: &RecordBatch, out: &mut Vec<u8>) -> Result<usize> {
    let before = out.len();
    let mut writer = StreamWriter::try_new(&mut *out, &rows.schema())?;
    writer.write(rows)?;
    writer.finish()?;
    drop(writer);
    Ok(out.len() - before)
}

fn decode(bytes: &[u8]) -> Result<RecordBatch> {
    let reader = StreamReader::try_new(bytes, None)?;
    let schema: SchemaRef = reader.schema();
    let batches = reader.collect::<std::result::Result<Vec<_>, _>>()?;
    match <[RecordBatch; 1]>::try_from(batches) {
        Ok([only]) => Ok(only),
        Err(batches) => Ok(arrow::compute::concat_batches(&Arc::clone(&schema), &batches)?),
    }
}
