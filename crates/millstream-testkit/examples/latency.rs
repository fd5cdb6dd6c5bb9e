//! What the loop adds to a disk: one-row batches over a real log, beside the machine's own fdatasync.
//!
//! `cargo run --release -p millstream-testkit --example latency`

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use millstream_core::clock::SystemClock;
use millstream_core::disk::{Disk, RealDisk};
use millstream_core::query::{Query, QueryConfig, QuerySource};
use millstream_core::sink::Guarantee;
use millstream_testkit::memory::{Event, MemoryRunner, MemorySink, MemorySource, SinkStore, SourceStore};

const BATCHES: usize = 2000;

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |per_mille: usize| times.get(times.len() * per_mille / 1000).copied().unwrap_or_default();
    println!("{what}: p50 {:?}, p90 {:?}, p99 {:?}", at(500), at(900), at(990));
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).map_or_else(|| std::env::temp_dir().join("millstream-latency"), Into::into);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir)?;
    let mut file = RealDisk.open(&dir.join("plain"))?;
    let mut plain = Vec::new();
    for _ in 0..BATCHES {
        let begin = Instant::now();
        file.append(&[b'x'; 600])?;
        file.syncer().sync().await?;
        plain.push(begin.elapsed());
    }

    let (source, sink) = (SourceStore::followed(), SinkStore::new(Guarantee::ExactlyOnce));
    let sources =
        vec![QuerySource { name: "s".into(), source: Arc::new(MemorySource::new(&source)), event_time: true }];
    let disk = Arc::new(RealDisk);
    let runner = MemoryRunner::new(sources.clone(), 0).checkpointed(disk.clone(), dir.join("log/state"));
    let config = QueryConfig::new("latency", dir.join("log"));
    let (runner, sink) = (Box::new(runner), Box::new(MemorySink::new(&sink)));
    let handle = Query { config, sources, runner, sink, disk, clock: Arc::new(SystemClock) }.start().await?;
    let mut batches = handle.progress();
    let mut query = Vec::new();
    for n in 0..BATCHES {
        let begin = Instant::now();
        source.append("p", [Event::row(n as i64, "k", 1)]);
        batches.next().await.ok_or("the query has ended")?;
        query.push(begin.elapsed());
    }
    handle.stop().await?;
    print("append and fdatasync", plain);
    print("a batch of one row  ", query);
    Ok(())
}
