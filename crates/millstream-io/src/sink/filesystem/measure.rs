//! What one durable batch of one row costs, beside the machine's own fsync:
//! `cargo test -p millstream-io measure -- --ignored --nocapture` (with `TMPDIR` on the disk to be measured).

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use millstream_core::batch::BatchId;
use millstream_core::digest::Digest;
use millstream_core::sink::{Marker, Output, OutputKind, Owner, Permit, Sink};
use millstream_testkit::conformance::sink::{output, schema};

use super::FilesystemSink;
use super::tests::{Way, spec_of};

const BATCHES: u64 = 500;

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("{what:44} p50 {:7.1} us  p99 {:8.1} us", p50.as_secs_f64() * 1e6, p99.as_secs_f64() * 1e6);
}

fn batches() -> (Owner, impl FnMut() -> (Permit, Output)) {
    let owner = Owner { query: "q".into(), incarnation: "one".into(), epoch: 1 };
    let output = output(OutputKind::Append, 1..2).unwrap();
    let (mut last, by) = (0, owner.clone());
    let next = move || {
        let previous = (last > 0).then_some(BatchId(last));
        last += 1;
        let marker = Marker { owner: by.clone(), batch: BatchId(last), digest: Digest(last) };
        (Permit::unchecked(marker, previous), output.clone())
    };
    (owner, next)
}

fn timed(batches: u64, mut call: impl FnMut()) -> Vec<Duration> {
    (0..batches)
        .map(|_| {
            let begin = Instant::now();
            call();
            begin.elapsed()
        })
        .collect()
}

#[test]
#[ignore = "a measurement: minutes on a slow disk"]
fn measure_one_row_batches() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let mut file = File::create(dir.path().join("plain")).unwrap();
        let plain = timed(BATCHES, || {
            file.write_all(b"{\"id\":1,\"name\":\"name, of\"}\n").unwrap();
            file.sync_data().unwrap();
        });
        report("write and fdatasync, nothing else", plain);
        let new = |way, name: &str| {
            let path = dir.path().join(format!("{name}-{round}"));
            FilesystemSink::new(&spec_of(&path, way, OutputKind::Append), "q", &schema(OutputKind::Append)).unwrap()
        };
        for (way, name) in [(Way::AppendJson, "append"), (Way::Json, "files")] {
            let sink = new(way, &format!("{name}-inline"));
            let mut layout = sink.layout.lock().unwrap();
            let (owner, mut next) = batches();
            layout.open(&owner).unwrap();
            let times = timed(BATCHES, || {
                let (permit, output) = next();
                layout.publish(&permit, &output).unwrap();
            });
            report(&format!("{name}, inline"), times);
            for (threads, runtime) in [
                ("current thread", tokio::runtime::Builder::new_current_thread().build().unwrap()),
                ("2 workers", tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap()),
            ] {
                let mut sink = new(way, &format!("{name}-{threads}"));
                let (owner, mut next) = batches();
                runtime.block_on(sink.open(&owner)).unwrap();
                let times = runtime.block_on(async {
                    let mut times = Vec::new();
                    for _ in 0..BATCHES {
                        let (permit, output) = next();
                        let begin = Instant::now();
                        sink.publish(&permit, &output).await.unwrap();
                        times.push(begin.elapsed());
                    }
                    times
                });
                report(&format!("{name}, spawn_blocking from {threads}"), times);
            }
        }
    }
}
