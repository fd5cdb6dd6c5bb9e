//! The thread that follows the partitions of a table, and what it has fetched.
//!
//! It is always ahead of the batches, as far as memory allows ([`BUFFER_BYTES_MAX`]), so that a small batch never waits
//! for a fetch. Only this thread moves where a partition is fetched from: what it is handed by the client is then of the
//! place where it stands.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millstream_core::{Error, ErrorKind, Result};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::Notify;

use super::buffer::{Block, Buffer, Spares};
use super::cluster;
use super::start::TopicPartition;
use crate::client::{Connection, Reports};
use crate::native::{Fetched, FetchedRecord, Fetcher};

/// Bytes of records at the most that wait for a batch, over all partitions; the client holds some more.
const BUFFER_BYTES_MAX: usize = 32 << 20;

/// How long the thread waits for a record before it looks what else is to do.
const TAKE_WAIT: Duration = Duration::from_millis(100);

/// Why a partition can't be read on.
#[derive(Clone, Debug)]
pub(super) struct Broken {
    pub(super) code: Code,
    pub(super) text: String,
}

/// What was fetched.
#[derive(Debug, Default)]
pub(super) struct Fetch {
    pub(super) buffers: BTreeMap<TopicPartition, Buffer>,
    pub(super) broken: BTreeMap<TopicPartition, Broken>,
    /// Log ends as the last fetch saw them.
    pub(super) ends: BTreeMap<TopicPartition, u64>,
    /// The thread has ended, and why.
    ended: Option<String>,
    moves: Vec<(TopicPartition, Option<u64>)>,
}

impl Fetch {
    fn bytes(&self) -> usize {
        self.buffers.values().map(Buffer::bytes).sum()
    }
}

struct Shared {
    fetch: Mutex<Fetch>,
    room: Condvar,
    changed: Notify,
    stop: AtomicBool,
    fetcher: Fetcher,
    reports: Reports,
    with_headers: bool,
    spares: Arc<Spares>,
}

/// Follows partitions until it is dropped.
pub(super) struct Tail {
    shared: Arc<Shared>,
}

impl Tail {
    /// `wait_ms`: how long the cluster may wait before it says that there is nothing. A record is never waited with.
    pub(super) fn start(connection: &Connection, with_headers: bool, wait_ms: &str) -> Result<Self> {
        let reports = Reports::default();
        let consumer = cluster::consumer(connection, &[("fetch.wait.max.ms", wait_ms)], &reports)?;
        let shared = Arc::new(Shared {
            fetch: Mutex::default(),
            room: Condvar::new(),
            changed: Notify::new(),
            stop: AtomicBool::new(false),
            fetcher: Fetcher::new(consumer),
            reports,
            with_headers,
            spares: Arc::default(),
        });
        let tail = Self { shared: shared.clone() };
        let thread = std::thread::Builder::new().name("kafka tail".into()).spawn(move || shared.run());
        thread.map_err(|e| Error::retry("no thread can be started to follow Kafka").caused_by(e))?;
        Ok(tail)
    }

    /// What was fetched.
    ///
    /// # Errors
    /// [`ErrorKind::Bug`] where the thread has ended.
    pub(super) fn fetch(&self) -> Result<MutexGuard<'_, Fetch>> {
        let fetch = self.shared.fetch();
        match &fetch.ended {
            Some(why) => Err(Error::bug(format!("the thread that follows Kafka has ended: {why}"))),
            None => Ok(fetch),
        }
    }

    /// Fetches a partition from where the buffer stands; what was fetched of it is forgotten.
    pub(super) fn assign(&self, fetch: &mut Fetch, tp: &TopicPartition, buffer: Buffer) {
        let from = buffer.position();
        fetch.moves.push((tp.clone(), (!buffer.is_complete()).then_some(from)));
        fetch.buffers.insert(tp.clone(), buffer);
        fetch.broken.remove(tp);
        self.shared.fetcher.wake();
    }

    /// There is room again.
    pub(super) fn released(&self) {
        self.shared.room.notify_all();
    }

    /// Resolves when something was fetched since the last time.
    pub(super) async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// Wakes whoever waits for `changed`.
    pub(super) fn wake(&self) {
        self.shared.changed.notify_one();
    }

    /// What the client complains of, where nothing comes.
    pub(super) fn complaint(&self) -> Option<(ErrorKind, String)> {
        let heard = self.shared.reports.heard()?;
        Some((if heard.hopeless { ErrorKind::Config } else { ErrorKind::Retry }, heard.text))
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.room.notify_all();
        self.shared.fetcher.wake();
    }
}

/// What one take gave of a partition.
struct Taken {
    /// The client's own name of the topic. It may free a topic and use the address for another one: it holds for one take.
    topic_id: usize,
    tp: TopicPartition,
    block: Block,
}

impl Taken {
    fn of(record: &FetchedRecord<'_>, spares: &Arc<Spares>) -> Self {
        let tp = (record.topic().to_string(), record.partition());
        Self { topic_id: record.topic_id(), tp, block: Block::within(spares) }
    }

    fn holds(&self, record: &FetchedRecord<'_>) -> bool {
        self.tp.1 == record.partition() && self.topic_id == record.topic_id()
    }
}

impl Shared {
    fn fetch(&self) -> MutexGuard<'_, Fetch> {
        self.fetch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        while !self.stop.load(Ordering::SeqCst) {
            if let Err(error) = self.apply_moves() {
                self.fetch().ended = Some(error.to_string());
                self.changed.notify_one();
                return;
            }
            self.wait_for_room();
            self.take();
        }
    }

    /// Begins to fetch where it was asked to.
    fn apply_moves(&self) -> Result<(), KafkaError> {
        let moves = std::mem::take(&mut self.fetch().moves);
        for ((topic, partition), to) in moves {
            let consumer = self.fetcher.consumer();
            let mut list = TopicPartitionList::new();
            list.add_partition(&topic, partition);
            if consumer.assignment()?.find_partition(&topic, partition).is_some() {
                consumer.incremental_unassign(&list)?;
            }
            let Some(to) = to else { continue };
            let offset = Offset::Offset(i64::try_from(to).unwrap_or(i64::MAX));
            list.set_partition_offset(&topic, partition, offset)?;
            consumer.incremental_assign(&list)?;
        }
        Ok(())
    }

    fn wait_for_room(&self) {
        let mut fetch = self.fetch();
        while fetch.bytes() > BUFFER_BYTES_MAX && fetch.moves.is_empty() && !self.stop.load(Ordering::SeqCst) {
            let waited = self.room.wait_timeout(fetch, TAKE_WAIT).unwrap_or_else(PoisonError::into_inner);
            fetch = waited.0;
        }
    }

    fn take(&self) {
        let mut blocks: Vec<Taken> = vec![];
        let mut last = 0;
        let mut reached: Vec<(TopicPartition, u64)> = vec![];
        let mut broken: Vec<(TopicPartition, Broken)> = vec![];
        self.fetcher.take(TAKE_WAIT, |fetched| match fetched {
            Fetched::Record(record) => {
                // Records of a partition come in runs.
                if !blocks.get(last).is_some_and(|taken| taken.holds(&record)) {
                    last = blocks.iter().position(|taken| taken.holds(&record)).unwrap_or_else(|| {
                        blocks.push(Taken::of(&record, &self.spares));
                        blocks.len() - 1
                    });
                }
                let Some(Taken { block, .. }) = blocks.get_mut(last) else { return };
                let headers = self.with_headers.then(|| record.headers());
                block.push(record.offset(), record.timestamp_ms(), record.key(), record.value(), headers);
            }
            Fetched::End { topic, partition, offset } => reached.push(((topic.to_string(), partition), offset)),
            Fetched::Failed { topic, partition, code, text } => {
                broken.push(((topic.to_string(), partition), Broken { code, text }));
            }
        });
        if blocks.is_empty() && reached.is_empty() && broken.is_empty() {
            return;
        }
        let mut fetch = self.fetch();
        let mut complete = vec![];
        // What was asked to move meanwhile stands elsewhere: this is of the place where it stood.
        let moving: Vec<TopicPartition> = fetch.moves.iter().map(|(tp, _)| tp.clone()).collect();
        for Taken { tp, block, .. } in blocks {
            block.close();
            if moving.contains(&tp) {
                continue;
            }
            if let Some(buffer) = fetch.buffers.get_mut(&tp) {
                buffer.push(block);
                if buffer.is_complete() {
                    complete.push(tp.clone());
                }
            }
            if let Some(end) = self.fetcher.known_end(&tp.0, tp.1) {
                fetch.ends.insert(tp, end);
            }
        }
        for (tp, offset) in reached.into_iter().filter(|(tp, _)| !moving.contains(tp)) {
            if let Some(buffer) = fetch.buffers.get_mut(&tp) {
                buffer.reached(offset);
                if buffer.is_complete() {
                    complete.push(tp);
                }
            }
        }
        for (tp, why) in broken.into_iter().filter(|(tp, _)| !moving.contains(tp)) {
            if fetch.buffers.contains_key(&tp) && !passes(why.code) {
                fetch.broken.insert(tp, why);
            }
        }
        fetch.moves.extend(complete.into_iter().map(|tp| (tp, None)));
        drop(fetch);
        self.changed.notify_one();
    }
}

/// What the client goes on after by itself.
fn passes(code: Code) -> bool {
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::NetworkException
            | Code::OffsetNotAvailable
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::KafkaStorageError
            | Code::ReplicaNotAvailable
    )
}
