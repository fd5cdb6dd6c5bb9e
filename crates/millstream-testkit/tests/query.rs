//! The loop, step by step: add rows, expect an answer, crash, restart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millstream_core::batch::BatchId;
use millstream_core::clock::SystemClock;
use millstream_core::disk::RealDisk;
use millstream_core::log::{read_dropped, read_status};
use millstream_core::query::{Query, QueryConfig, QuerySource, Trigger};
use millstream_core::sink::Guarantee;
use millstream_core::source::Limit;
use millstream_testkit::memory::{Event, MemoryRunner, MemorySink, MemorySource, SinkStore, SourceStore};

fn sources(store: &SourceStore) -> Vec<QuerySource> {
    vec![QuerySource { name: "events".into(), source: Arc::new(MemorySource::new(store)), event_time: true }]
}

fn query(config: QueryConfig, source: &SourceStore, sink: &SinkStore) -> Query {
    let disk = Arc::new(RealDisk);
    let runner = MemoryRunner::new(sources(source), 2).checkpointed(disk.clone(), config.dir.join("state"));
    Query {
        config,
        sources: sources(source),
        runner: Box::new(runner),
        sink: Box::new(MemorySink::new(sink)),
        disk,
        clock: Arc::new(SystemClock),
    }
}

#[tokio::test]
async fn a_bounded_stream_on_a_real_disk_is_answered_once_and_started_again_does_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut events: Vec<_> = (0..50).map(|n| Event::row(n, if n % 2 == 0 { "a" } else { "b" }, n)).collect();
    events.insert(7, Event::Malformed("?".into()));
    events.push(Event::row(3, "late", 1));
    let source = SourceStore::bounded([("p".into(), events)]);
    let sink = SinkStore::new(Guarantee::ExactlyOnce);
    let mut config = QueryConfig::new("q", dir.path());
    config.limit = Limit { rows: 6, bytes: 1 << 20 };
    for _ in 0..2 {
        let status = query(config.clone(), &source, &sink).start().await.unwrap().wait().await.unwrap();
        assert_eq!(status.checkpoint, Some(BatchId(9)));
        assert_eq!(sink.rows().len(), 50 + 10);
    }
    let status = read_status(&RealDisk, dir.path()).unwrap().unwrap();
    let totals = &status.totals[0];
    assert_eq!((totals.read, totals.used, totals.rejected, totals.late), (52, 50, 1, 1));
    assert!(status.stopped.unwrap().ended);
    assert_eq!(status.owner.epoch, 2);
    assert_eq!(read_dropped(&RealDisk, dir.path(), BatchId(0)).unwrap().len(), 2);
}

#[tokio::test]
async fn a_followed_stream_answers_as_rows_come_and_stops_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let source = SourceStore::followed();
    let sink = SinkStore::new(Guarantee::ExactlyOnce);
    let mut config = QueryConfig::new("q", dir.path());
    config.trigger = Trigger::Continuous;
    config.idle_timeouts = BTreeMap::from([("events".to_string(), Duration::from_secs(60))]);
    let handle = query(config.clone(), &source, &sink).start().await.unwrap();
    let mut progress = handle.progress();
    for n in 0..20 {
        source.append("p", [Event::row(n * 10, "a", 1)]);
        let seen = futures::StreamExt::next(&mut progress).await.unwrap();
        assert_eq!(seen.batch, BatchId(n as u64 + 1));
        assert_eq!(seen.rows_in, 1);
    }
    let second = query(config, &source, &sink).start().await.err().unwrap();
    assert_eq!(second.kind(), millstream_core::ErrorKind::Owned);
    assert!(second.to_string().contains(&format!("process {}", std::process::id())), "{second}");
    let status = handle.stop().await.unwrap();
    assert_eq!(status.checkpoint, Some(BatchId(20)));
    assert_eq!(sink.rows().iter().filter(|row| row.starts_with("count")).count(), 20);
}
