//! Where reading begins and where it ends: the options 'scan.startup.mode' and 'scan.bounded.mode', and the answers of
//! the cluster to them.

use std::collections::BTreeMap;

use millstream_core::{Error, ErrorKind, Result};
use millstream_io::Options;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use super::cluster::{CALL_TIMEOUT, Cluster};

/// A partition: topic and number.
pub(super) type TopicPartition = (String, i32);

/// A place in a log that the options name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Earliest,
    Latest,
    /// The first record of this time, in milliseconds since 1970, or of a later one.
    Timestamp(i64),
    /// By partition.
    Specific(BTreeMap<i32, u64>),
    /// Where the consumer group of 'properties.group.id' stands; the beginning where it has none.
    Group,
}

/// Where a table is read from and to.
#[derive(Clone, Debug)]
pub(super) struct Scan {
    pub(super) from: Mark,
    /// The end; `None` where the table is followed.
    pub(super) until: Option<Mark>,
}

#[derive(Clone, Copy)]
enum Word {
    Earliest,
    Latest,
    Timestamp,
    Specific,
    Group,
    Unbounded,
}

impl Scan {
    /// Reads the options.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] where one is wrong or missing.
    pub(super) fn new(options: &Options) -> Result<Self> {
        let words = [
            ("earliest-offset", Word::Earliest),
            ("latest-offset", Word::Latest),
            ("timestamp", Word::Timestamp),
            ("specific-offsets", Word::Specific),
            ("group-offsets", Word::Group),
        ];
        let from = options.one_of("scan.startup.mode", &words)?.unwrap_or(Word::Earliest);
        let words = [
            ("unbounded", Word::Unbounded),
            ("latest-offset", Word::Latest),
            ("timestamp", Word::Timestamp),
            ("specific-offsets", Word::Specific),
            ("group-offsets", Word::Group),
        ];
        let until = options.one_of("scan.bounded.mode", &words)?.unwrap_or(Word::Unbounded);
        let from = mark(options, "scan.startup", from)?.unwrap_or(Mark::Earliest);
        Ok(Self { from, until: mark(options, "scan.bounded", until)? })
    }
}

fn mark(options: &Options, prefix: &str, word: Word) -> Result<Option<Mark>> {
    Ok(Some(match word {
        Word::Unbounded => return Ok(None),
        Word::Earliest => Mark::Earliest,
        Word::Latest => Mark::Latest,
        Word::Timestamp => {
            let name = format!("{prefix}.timestamp-millis");
            options.required(&name)?;
            Mark::Timestamp(options.parsed(&name)?.unwrap_or_default())
        }
        Word::Specific => {
            let name = format!("{prefix}.specific-offsets");
            let text = options.required(&name)?;
            Mark::Specific(specific(text).ok_or_else(|| {
                Error::config(format!(
                    "the option '{name}' = '{text}': write 'partition:0,offset:42;partition:1,offset:300'"
                ))
            })?)
        }
        Word::Group => {
            options.required("properties.group.id")?;
            Mark::Group
        }
    }))
}

fn specific(text: &str) -> Option<BTreeMap<i32, u64>> {
    let pair = |text: &str| {
        let (partition, offset) = text.trim().split_once(',')?;
        let partition = partition.trim().strip_prefix("partition:")?.trim().parse().ok()?;
        Some((partition, offset.trim().strip_prefix("offset:")?.trim().parse().ok()?))
    };
    text.split(';').filter(|part| !part.trim().is_empty()).map(pair).collect()
}

impl Cluster {
    /// What a mark means now, by partition.
    ///
    /// # Errors
    /// [`ErrorKind::Retry`] where the cluster doesn't answer, [`ErrorKind::Config`] where the mark names no offset.
    pub(super) fn offsets(&self, mark: &Mark, of: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, u64>> {
        match mark {
            Mark::Earliest => of.iter().map(|tp| Ok((tp.clone(), self.watermarks(tp)?.0))).collect(),
            Mark::Latest => of.iter().map(|tp| Ok((tp.clone(), self.watermarks(tp)?.1))).collect(),
            Mark::Specific(offsets) => {
                let offset = |tp: &TopicPartition| match offsets.get(&tp.1) {
                    Some(offset) => Ok((tp.clone(), *offset)),
                    None => Err(Error::config(format!(
                        "the specific offsets name none for partition {} of '{}'",
                        tp.1, tp.0
                    ))),
                };
                of.iter().map(offset).collect()
            }
            Mark::Timestamp(time) => {
                let list = self.list(of, Offset::Offset(*time))?;
                let found = self.client.offsets_for_times(list, CALL_TIMEOUT);
                self.or_watermark(found, of, |tp| Ok(self.watermarks(tp)?.1))
            }
            Mark::Group => {
                let list = self.list(of, Offset::Invalid)?;
                let found = self.client.committed_offsets(list, CALL_TIMEOUT);
                self.or_watermark(found, of, |tp| Ok(self.watermarks(tp)?.0))
            }
        }
    }

    fn list(&self, of: &[TopicPartition], offset: Offset) -> Result<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for (topic, partition) in of {
            list.add_partition_offset(topic, *partition, offset)
                .map_err(|e| self.failed(ErrorKind::Bug, "an offset is none", &e))?;
        }
        Ok(list)
    }

    fn or_watermark(
        &self,
        found: Result<TopicPartitionList, KafkaError>,
        of: &[TopicPartition],
        otherwise: impl Fn(&TopicPartition) -> Result<u64>,
    ) -> Result<BTreeMap<TopicPartition, u64>> {
        let found = found.map_err(|e| self.failed(ErrorKind::Retry, "the offsets to begin with are unknown", &e))?;
        let mut offsets = BTreeMap::new();
        for tp in of {
            let offset = match found.find_partition(&tp.0, tp.1).map(|element| element.offset()) {
                Some(Offset::Offset(offset)) => u64::try_from(offset).unwrap_or(0),
                _ => otherwise(tp)?,
            };
            offsets.insert(tp.clone(), offset);
        }
        Ok(offsets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_read_as_flink_writes_them() {
        let wanted = BTreeMap::from([(0, 42), (1, 300)]);
        assert_eq!(specific("partition:0,offset:42;partition:1,offset:300"), Some(wanted));
        assert_eq!(specific("partition:0"), None);
    }

    #[test]
    fn what_a_mode_needs_is_asked_for() {
        let scan = |options: &[(&str, &str)]| Scan::new(&options.iter().copied().collect());
        assert_eq!(scan(&[]).unwrap().from, Mark::Earliest);
        assert!(scan(&[]).unwrap().until.is_none());
        let error = scan(&[("scan.startup.mode", "timestamp")]).unwrap_err().to_string();
        assert!(error.contains("'scan.startup.timestamp-millis' is missing"), "{error}");
        let error = scan(&[("scan.startup.mode", "group-offsets")]).unwrap_err().to_string();
        assert!(error.contains("'properties.group.id'"), "{error}");
        assert!(scan(&[("scan.bounded.mode", "earliest-offset")]).is_err());
    }
}
