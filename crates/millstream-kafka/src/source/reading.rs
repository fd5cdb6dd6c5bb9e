//! A range while its rows are read, and what is recorded of it.

use std::collections::VecDeque;
use std::fmt;

use millstream_core::source::Chunk;
use millstream_core::{Error, Result};

use super::buffer::Slice;
use super::range::{RangeRead, gone, take_rows};
use super::rows::RowBuilder;
use super::start::TopicPartition;

/// Records of a chunk.
const CHUNK_RECORDS: usize = 8192;

/// The stamp of a range that only says where reading begins.
pub(super) const START: &str = "start";

/// What a range records: `<topic's id> <records>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) id: u128,
    pub(super) records: u64,
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x} {}", self.id, self.records)
    }
}

impl Stamp {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let parts = text.split_once(' ').and_then(|(id, records)| {
            Some(Self { id: u128::from_str_radix(id, 16).ok()?, records: records.parse().ok()? })
        });
        parts.ok_or_else(|| {
            Error::corrupt(format!("a recorded range of Kafka has the stamp '{text}', which says nothing"))
        })
    }
}

/// Where the records of a range are.
pub(super) enum From {
    Memory(VecDeque<Slice>),
    Cluster(Box<RangeRead>),
}

/// A range that is being read.
pub(super) struct Reading {
    pub(super) from: From,
    pub(super) builder: RowBuilder,
    pub(super) tp: TopicPartition,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) wanted: u64,
    pub(super) given: u64,
    pub(super) done: bool,
}

impl Reading {
    pub(super) fn next(&mut self) -> Result<Option<Chunk>> {
        if self.done {
            return Ok(None);
        }
        let slices = match &mut self.from {
            From::Memory(slices) => take_rows(slices, CHUNK_RECORDS),
            From::Cluster(read) => read.next(CHUNK_RECORDS)?,
        };
        let count: usize = slices.iter().map(|slice| slice.rows.len()).sum();
        self.given += count as u64;
        self.done = count < CHUNK_RECORDS;
        if self.done && self.given != self.wanted {
            return Err(gone(&self.tp, self.first, self.last));
        }
        if count == 0 { Ok(None) } else { Ok(Some(self.builder.chunk(&slices)?)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_as_it_was_written() {
        let stamp = Stamp { id: u128::MAX / 3, records: 17 };
        assert_eq!(Stamp::parse(&stamp.to_string()).unwrap(), stamp);
        assert!(Stamp::parse("17").is_err());
    }
}
