//! Reads a range that is no longer at hand: of a batch that is run again, in this process or another.
//!
//! A range is read to its end by position, never by count: control records and aborted transactions use offsets.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use millstream_core::{Error, ErrorKind, Result};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{Offset, TopicPartitionList};

use super::buffer::{Block, Slice, Spares};
use super::cluster;
use super::start::TopicPartition;
use crate::client::{Connection, Reports};
use crate::native::{Fetched, Fetcher};

/// How long a range may give nothing.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Readers that are kept for the next range.
const POOL_MAX: usize = 4;

/// Readers that nobody uses now.
#[derive(Clone)]
pub(super) struct Readers {
    connection: Connection,
    with_headers: bool,
    spares: Arc<Spares>,
    idle: Arc<Mutex<Vec<Reader>>>,
}

struct Reader {
    fetcher: Fetcher,
    reports: Reports,
}

impl Readers {
    pub(super) fn new(connection: &Connection, with_headers: bool) -> Self {
        Self { connection: connection.clone(), with_headers, spares: Arc::default(), idle: Arc::default() }
    }

    /// Begins to read the records of a partition from `from` up to `to`. Blocks.
    pub(super) fn open(&self, tp: &TopicPartition, from: u64, to: u64) -> Result<RangeRead> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let reader = match idle {
            Some(reader) => reader,
            None => {
                let reports = Reports::default();
                let consumer = cluster::consumer(&self.connection, &[("fetch.wait.max.ms", "10")], &reports)?;
                Reader { fetcher: Fetcher::new(consumer), reports }
            }
        };
        let mut list = TopicPartitionList::new();
        let offset = Offset::Offset(i64::try_from(from).unwrap_or(i64::MAX));
        let assigned =
            list.add_partition_offset(&tp.0, tp.1, offset).and_then(|()| reader.fetcher.consumer().assign(&list));
        let what = format!("{}-{} can't be read from offset {from}", tp.0, tp.1);
        assigned.map_err(|e| self.connection.failed(ErrorKind::Retry, &what, &e, Some(&reader.reports)))?;
        Ok(RangeRead {
            readers: self.clone(),
            reader: Some(reader),
            tp: tp.clone(),
            from,
            to,
            position: from,
            pending: VecDeque::new(),
        })
    }
}

/// A range that is being read.
pub(super) struct RangeRead {
    readers: Readers,
    reader: Option<Reader>,
    tp: TopicPartition,
    from: u64,
    to: u64,
    position: u64,
    pending: VecDeque<Slice>,
}

impl Drop for RangeRead {
    fn drop(&mut self) {
        let Some(reader) = self.reader.take() else { return };
        if reader.fetcher.consumer().unassign().is_ok() {
            let mut idle = self.readers.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < POOL_MAX {
                idle.push(reader);
            }
        }
    }
}

impl RangeRead {
    /// The next so many records, less only at the end of the range. Blocks.
    ///
    /// # Errors
    /// [`ErrorKind::Input`] where the records are gone, [`ErrorKind::Retry`] where the cluster doesn't answer.
    pub(super) fn next(&mut self, records: usize) -> Result<Vec<Slice>> {
        let mut heard = Instant::now();
        while self.pending.iter().map(|slice| slice.rows.len()).sum::<usize>() < records && self.position < self.to {
            let before = self.position;
            self.take()?;
            if self.position > before {
                heard = Instant::now();
            } else if heard.elapsed() > SILENCE_MAX {
                let what = format!("{}-{} gives nothing past offset {}", self.tp.0, self.tp.1, self.position);
                let reports = self.reader.as_ref().map(|reader| &reader.reports);
                let error = KafkaError::Global(Code::OperationTimedOut);
                return Err(self.readers.connection.failed(ErrorKind::Retry, &what, &error, reports));
            }
        }
        Ok(take_rows(&mut self.pending, records))
    }

    fn take(&mut self) -> Result<()> {
        let Self { reader: Some(reader), tp, to, position, pending, readers, .. } = self else {
            return Err(Error::bug("a range is read after its end"));
        };
        let mut block = Block::within(&readers.spares);
        let mut failure = None;
        reader.fetcher.take(Duration::from_millis(20), |fetched| match fetched {
            Fetched::Record(record) if record.topic() == tp.0 && record.partition() == tp.1 => {
                let offset = record.offset();
                if offset >= *position && offset < *to {
                    let headers = readers.with_headers.then(|| record.headers());
                    block.push(offset, record.timestamp_ms(), record.key(), record.value(), headers);
                }
                *position = (*position).max(offset + 1);
            }
            Fetched::End { topic, partition, offset } if topic == tp.0 && partition == tp.1 => {
                *position = (*position).max(offset);
            }
            Fetched::Failed { topic, partition, code, text } if topic == tp.0 && partition == tp.1 => {
                failure = Some((code, text));
            }
            _ => {}
        });
        if block.len() > 0 {
            let rows = 0..block.len();
            pending.push_back(Slice { block: Arc::new(block), rows });
        }
        match failure {
            Some((Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation, _)) => {
                Err(gone(&self.tp, self.from, self.to))
            }
            _ => Ok(()),
        }
    }
}

/// The first so many rows.
pub(super) fn take_rows(pending: &mut VecDeque<Slice>, records: usize) -> Vec<Slice> {
    let (mut taken, mut left) = (vec![], records);
    while left > 0 {
        let Some(first) = pending.front_mut() else { break };
        let count = first.rows.len().min(left);
        let middle = first.rows.start + count;
        taken.push(Slice { block: first.block.clone(), rows: first.rows.start..middle });
        first.rows.start = middle;
        left -= count;
        if first.rows.is_empty() {
            pending.pop_front();
        }
    }
    taken
}

/// The records of a recorded range are not there any more.
pub(super) fn gone((topic, partition): &TopicPartition, from: u64, to: u64) -> Error {
    Error::input(format!(
        "records of {topic}-{partition} between the offsets {from} and {to}, which a recorded batch has read, are gone: \
         retention or compaction has removed them, or the topic was made again. Restore the topic, or start the query anew \
         in another directory"
    ))
}
