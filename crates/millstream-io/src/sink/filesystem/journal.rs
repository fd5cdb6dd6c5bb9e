//! The markers of a growing file: a hidden journal beside it, of records of one size.
//!
//! A record is appended after the rows it speaks of are durable, without waiting for its own way to the
//! disk: a loss of power may cost the newest records, and the batches they name are then published again.
//! Every record carries a checksum that is seeded with the header's, so a record of another journal does not
//! pass. The journal is rewritten when it holds [`RECORDS_MAX`] records, and whenever it is opened.
//!
//! ```text
//! {"version":1,"query":"alerts","incarnation":"5f0c.."} 1c291ca3
//! 0000000000000011 0123456789abcdef 0000000000000002 00000000000004d2 o 9a0e6b1c
//! batch            digest           epoch            bytes in the file| checksum
//!                                                                     o open, c closed
//! ```

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use millstream_core::batch::BatchId;
use millstream_core::digest::Digest;
use millstream_core::sink::{Marker, Owner};
use millstream_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::durable::{self, FileId, failed, replace};
use super::names::FileNames;

const VERSION: u32 = 1;

/// Records a journal holds before it is rewritten: 0.3 MB, and two fsyncs in so many batches.
const RECORDS_MAX: usize = 4096;

const RECORD_BYTES: usize = 79;

/// Whose journal it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    version: u32,
    query: String,
    incarnation: String,
}

/// How far the file reaches after a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// The batch; 0 before the first one.
    pub(super) batch: BatchId,
    /// The hash of its rows.
    pub(super) digest: Digest,
    /// The epoch of the owner who wrote it.
    pub(super) epoch: u64,
    /// Bytes of the file that are published.
    pub(super) bytes: u64,
    /// Whether the owner has stopped: nothing of this query follows in the file.
    pub(super) closed: bool,
}

/// What was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recorded {
    /// Who wrote it last.
    pub(super) owner: Owner,
    /// The valid records, oldest first; at least one.
    pub(super) records: Vec<Record>,
}

/// A journal that is being appended to.
#[derive(Debug)]
pub(super) struct Journal {
    names: FileNames,
    owner: Owner,
    file: File,
    id: FileId,
    seed: u32,
    records: usize,
}

impl Journal {
    /// Puts a journal with one record in the place of what was there, durably.
    pub(super) fn create(names: FileNames, owner: Owner, record: Record) -> Result<Self> {
        let header = Header { version: VERSION, query: owner.query.clone(), incarnation: owner.incarnation.clone() };
        let header = serde_json::to_string(&header).map_err(|e| Error::bug("a journal's header").caused_by(e))?;
        let seed = crc32fast::hash(header.as_bytes());
        let mut bytes = format!("{header} {seed:08x}\n").into_bytes();
        bytes.extend_from_slice(record.text(seed).as_bytes());
        replace(&names.journal, &names.journal_temporary, &bytes)?;
        let opened = OpenOptions::new().append(true).open(&names.journal).and_then(|file| {
            let id = FileId::from(&file.metadata()?);
            Ok((file, id))
        });
        let (file, id) = opened.map_err(|e| failed("open", &names.journal, e))?;
        Ok(Self { names, owner, file, id, seed, records: 1 })
    }

    /// Appends a record; durable after [`Journal::sync`].
    pub(super) fn append(&mut self, record: Record) -> Result<()> {
        if self.records >= RECORDS_MAX {
            *self = Self::create(self.names.clone(), self.owner.clone(), record)?;
            return crate::failpoint::io_fail_point("sink.journal.rewritten")
                .map_err(|e| failed("write", &self.names.journal, e));
        }
        self.records += 1;
        let written = self.file.write_all(record.text(self.seed).as_bytes());
        written.map_err(|e| failed("write", &self.names.journal, e))
    }

    /// Makes every record durable.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| failed("make durable", &self.names.journal, e))
    }

    /// Whether the name still stands for this journal.
    pub(super) fn is_in_place(&self) -> bool {
        std::fs::metadata(&self.names.journal).is_ok_and(|there| FileId::from(&there) == self.id)
    }
}

/// Reads a journal; `None` where there is none.
///
/// # Errors
/// [`millstream_core::ErrorKind::Corrupt`] where its header or every record is not what was written.
pub(super) fn read(path: &Path) -> Result<Option<Recorded>> {
    let Some(bytes) = durable::read(path)? else { return Ok(None) };
    let corrupt = |what: &str| {
        Error::corrupt(format!(
            "the journal {} {what}: how much of the file beside it is published is unknown. Restore the journal from a \
             backup, or move the file and its journal away and let the query begin again with an empty state directory",
            path.display()
        ))
    };
    let line_end = bytes.iter().position(|b| *b == b'\n').ok_or_else(|| corrupt("has no header"))?;
    let (line, rest) = bytes.split_at(line_end + 1);
    let line = std::str::from_utf8(line).ok().and_then(|line| line.trim_end().rsplit_once(' '));
    let (text, checksum) = line.ok_or_else(|| corrupt("has no header"))?;
    let seed = crc32fast::hash(text.as_bytes());
    if checksum != format!("{seed:08x}") {
        return Err(corrupt("does not match its checksum"));
    }
    let header: Header = serde_json::from_str(text).map_err(|e| corrupt("has no header").caused_by(e))?;
    if header.version != VERSION {
        return Err(corrupt(&format!("has version {}, this Millstream reads {VERSION}", header.version)));
    }
    let records: Vec<_> = rest.chunks(RECORD_BYTES).filter_map(|chunk| Record::read(chunk, seed)).collect();
    let epoch = records.iter().map(|record| record.epoch).max().ok_or_else(|| corrupt("has no valid record"))?;
    let owner = Owner { query: header.query, incarnation: header.incarnation, epoch };
    Ok(Some(Recorded { owner, records }))
}

impl Record {
    /// What the loop is told; `None` before the first batch.
    pub(super) fn marker(&self, owner: &Owner) -> Option<Marker> {
        let batch = (self.batch != BatchId(0)).then_some(self.batch)?;
        Some(Marker { owner: Owner { epoch: self.epoch, ..owner.clone() }, batch, digest: self.digest })
    }

    fn text(&self, seed: u32) -> String {
        let state = if self.closed { 'c' } else { 'o' };
        let fields =
            format!("{:016x} {:016x} {:016x} {:016x} {state}", self.batch.0, self.digest.0, self.epoch, self.bytes);
        let checksum = seeded(seed, fields.as_bytes());
        format!("{fields} {checksum:08x}\n")
    }

    fn read(chunk: &[u8], seed: u32) -> Option<Self> {
        let (fields, checksum) = std::str::from_utf8(chunk).ok()?.strip_suffix('\n')?.rsplit_once(' ')?;
        if chunk.len() != RECORD_BYTES || checksum != format!("{:08x}", seeded(seed, fields.as_bytes())) {
            return None;
        }
        let mut fields = fields.split(' ');
        let mut number = || u64::from_str_radix(fields.next()?, 16).ok();
        let (batch, digest, epoch, bytes) = (number()?, number()?, number()?, number()?);
        let closed = fields.next()? == "c";
        Some(Self { batch: BatchId(batch), digest: Digest(digest), epoch, bytes, closed })
    }
}

fn seeded(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(batch: u64, bytes: u64) -> Record {
        Record { batch: BatchId(batch), digest: Digest(7), epoch: 3, bytes, closed: false }
    }

    fn journal(dir: &Path) -> (Journal, FileNames) {
        let names = FileNames::new(&dir.join("out.ndjson")).unwrap();
        let owner = Owner { query: "q".into(), incarnation: "i".into(), epoch: 3 };
        (Journal::create(names.clone(), owner, record(0, 0)).unwrap(), names)
    }

    #[test]
    fn records_are_of_one_size_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, names) = journal(dir.path());
        journal.append(record(1, 10)).unwrap();
        journal.append(Record { closed: true, ..record(u64::MAX, u64::MAX) }).unwrap();
        let recorded = read(&names.journal).unwrap().unwrap();
        assert_eq!(recorded.owner.epoch, 3);
        let expected = [record(0, 0), record(1, 10), Record { closed: true, ..record(u64::MAX, u64::MAX) }];
        assert_eq!(recorded.records, expected);
    }

    #[test]
    fn a_torn_tail_and_a_flipped_bit_cost_their_records_only() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, names) = journal(dir.path());
        for batch in 1..=4 {
            journal.append(record(batch, batch * 10)).unwrap();
        }
        let mut bytes = std::fs::read(&names.journal).unwrap();
        bytes.truncate(bytes.len() - 5);
        let second = bytes.len() - 3 * RECORD_BYTES + 10;
        bytes[second] ^= 1;
        std::fs::write(&names.journal, bytes).unwrap();
        let batches: Vec<_> = read(&names.journal).unwrap().unwrap().records.iter().map(|r| r.batch.0).collect();
        assert_eq!(batches, [0, 1, 3], "4 is torn, 2 is flipped");
    }

    #[test]
    fn the_journal_stays_small_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, names) = journal(dir.path());
        for batch in 1..=3 * RECORDS_MAX as u64 {
            journal.append(record(batch, batch)).unwrap();
        }
        assert!(std::fs::metadata(&names.journal).unwrap().len() < (RECORDS_MAX * RECORD_BYTES + 200) as u64);
        let last = *read(&names.journal).unwrap().unwrap().records.last().unwrap();
        assert_eq!(last, record(3 * RECORDS_MAX as u64, 3 * RECORDS_MAX as u64));
    }

    #[test]
    fn a_record_of_another_incarnation_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let (_, names) = journal(dir.path());
        let mut bytes = std::fs::read(&names.journal).unwrap();
        bytes.extend_from_slice(record(9, 900).text(0xdead_beef).as_bytes());
        std::fs::write(&names.journal, bytes).unwrap();
        assert_eq!(read(&names.journal).unwrap().unwrap().records, [record(0, 0)]);
    }
}
