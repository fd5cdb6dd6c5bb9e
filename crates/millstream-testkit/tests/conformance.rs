//! The suites pass what keeps the contracts, and name what doesn't.

use std::sync::Arc;

use async_trait::async_trait;
use millstream_core::Result;
use millstream_core::batch::{PartitionId, Positions, Range};
use millstream_core::query::QuerySource;
use millstream_core::runner::Runner;
use millstream_core::sink::{Guarantee, Marker, Output, Owner, Permit, Sink};
use millstream_core::source::{Boundedness, ChunkStream, Limit, Offer, Source};
use millstream_testkit::conformance::runner::RunnerCase;
use millstream_testkit::conformance::sink::SinkStorage;
use millstream_testkit::conformance::source::Expected;
use millstream_testkit::conformance::{runner, sink, source};
use millstream_testkit::memory::{Event, MemoryRunner, MemorySink, MemorySource, SinkStore, SourceStore};
use millstream_testkit::sim::{Platter, Process, SimDisk};

fn store() -> SourceStore {
    let mut events: Vec<_> = (0..40).map(|n| Event::row(n - 7 * (n % 4), format!("k{}", n % 3), n)).collect();
    events.insert(11, Event::Malformed("?".into()));
    let (a, b) = events.split_at(30);
    SourceStore::bounded([("a".into(), a.to_vec()), ("b".into(), b.to_vec()), ("c".into(), vec![])])
}

#[tokio::test]
async fn the_memory_source_keeps_its_contract() {
    let store = store();
    let fresh = || Ok(Arc::new(MemorySource::new(&store)) as Arc<dyn Source>);
    source::check(fresh, Expected { rows: Some(40), rejected: Some(1) }).await.unwrap();
}

#[tokio::test]
async fn a_source_with_fewer_rows_than_expected_is_named() {
    let store = store();
    let fresh = || Ok(Arc::new(MemorySource::new(&store)) as Arc<dyn Source>);
    let error = source::check(fresh, Expected { rows: Some(41), rejected: None }).await.unwrap_err();
    assert!(error.to_string().contains("broken promise: every row is read"), "{error}");
}

/// What a [`Forgetful`] source does wrong.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Limit,
    Start,
    Finished,
}

#[derive(Debug)]
struct Faulty(MemorySource, Fault);

#[async_trait]
impl Source for Faulty {
    fn schema(&self) -> arrow::datatypes::SchemaRef {
        self.0.schema()
    }

    fn boundedness(&self) -> Boundedness {
        self.0.boundedness()
    }

    async fn offer(&self, from: &Positions, limit: Limit) -> Result<Offer> {
        let more = Limit { rows: limit.rows + 1, ..limit };
        let mut offer = self.0.offer(from, if let Fault::Limit = self.1 { more } else { limit }).await?;
        match self.1 {
            Fault::Start => offer.ranges.iter_mut().for_each(|r| r.start = Default::default()),
            Fault::Finished => offer.finished.retain(|id| *id != PartitionId::from("c")),
            Fault::Limit => {}
        }
        Ok(offer)
    }

    async fn open(&self, range: &Range) -> Result<ChunkStream> {
        self.0.open(range).await
    }
}

#[tokio::test]
async fn a_source_that_breaks_a_promise_is_named() {
    let store = store();
    for (fault, promise) in [
        (Fault::Limit, "an offer respects the limit"),
        (Fault::Start, "a range begins where the last one ended"),
        (Fault::Finished, "its partitions are finished"),
    ] {
        let fresh = || Ok(Arc::new(Faulty(MemorySource::new(&store), fault)) as Arc<dyn Source>);
        let error = source::check(fresh, Expected::default()).await.unwrap_err();
        assert!(error.to_string().contains(promise), "{fault:?}: {error}");
    }
}

struct Storage(SinkStore);

#[async_trait]
impl SinkStorage for Storage {
    fn sink(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(MemorySink::new(&self.0)))
    }

    async fn read(&self) -> Result<Vec<i64>> {
        let rows = self.0.rows();
        Ok(rows.iter().filter_map(|row| row.split(' ').next()?.parse().ok()).collect())
    }
}

#[tokio::test]
async fn the_memory_sinks_keep_their_contract() {
    for guarantee in [Guarantee::ExactlyOnce, Guarantee::AtLeastOnce] {
        sink::check(|| Ok(Box::new(Storage(SinkStore::new(guarantee))))).await.unwrap();
    }
}

/// Claims to be exactly once, and is not.
struct Boastful(MemorySink);

#[async_trait]
impl Sink for Boastful {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    async fn open(&mut self, owner: &Owner) -> Result<Option<Marker>> {
        self.0.open(owner).await
    }

    async fn publish(&mut self, permit: &Permit, output: &Output) -> Result<()> {
        self.0.publish(permit, output).await
    }
}

struct BoastfulStorage(Storage);

#[async_trait]
impl SinkStorage for BoastfulStorage {
    fn sink(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(Boastful(MemorySink::new(&self.0.0))))
    }

    async fn read(&self) -> Result<Vec<i64>> {
        self.0.read().await
    }
}

#[tokio::test]
async fn a_sink_that_forgets_its_marker_is_named() {
    let fresh =
        || Ok(Box::new(BoastfulStorage(Storage(SinkStore::new(Guarantee::AtLeastOnce)))) as Box<dyn SinkStorage>);
    let error = sink::check(fresh).await.unwrap_err();
    assert!(error.to_string().contains("a closed sink remembers its marker"), "{error}");
}

fn case(platter: &Platter, delay_us: i64) -> Result<RunnerCase<Box<dyn Runner>>> {
    let source = Arc::new(MemorySource::new(&store()));
    let sources = vec![QuerySource { name: "s".into(), source, event_time: true }];
    let disk = Arc::new(SimDisk::new(platter, &Process::immortal()));
    let runner = MemoryRunner::new(sources.clone(), delay_us).checkpointed(disk, "/state");
    Ok(RunnerCase { runner: Box::new(runner), sources })
}

#[tokio::test]
async fn the_memory_runner_keeps_its_contract() {
    let platter = Platter::default();
    runner::check(|| case(&platter, 5)).await.unwrap();
}

#[tokio::test]
async fn a_runner_that_answers_otherwise_another_time_is_named() {
    let platter = Platter::default();
    let calls = std::sync::atomic::AtomicI64::new(0);
    let fresh = || case(&platter, calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) * 10);
    let error = runner::check(fresh).await.unwrap_err();
    assert!(error.to_string().contains("the same task from the same state gives the same answer"), "{error}");
}
