//! How fast keyed state is, and how large: `cargo run --release -p millstream-state --example state_bench`.
//!
//! A table of an Int64 key and five 8-byte values. First every key is put once, then batches of a million
//! random keys (the distinct ones among them) are read, changed, put and installed, as an aggregate does.
//! Also: one-row batches, a checkpoint, and its restore. Rates are per second of CPU, so that a busy machine
//! does not matter much; latencies are what a clock says.
//!
//! Arguments: the numbers of keys, by default 1000 100000 10000000.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema};
use async_trait::async_trait;
use futures::executor::block_on;
use millstream_core::Result;
use millstream_core::batch::BatchId;
use millstream_core::disk::{Disk, DiskFile, DiskLock, Syncer};
use millstream_state::{Changes, KeyedTable, OperatorState, Restored, StateInfo, StateStore, TableInfo};

const BATCH_ROWS: usize = 1_000_000;
const BATCHES: usize = 12;

fn table() -> KeyedTable {
    let keys = Schema::new(vec![Field::new("k", DataType::Int64, true)]);
    let values = ["count", "sum", "min", "max"].map(|n| Field::new(n, DataType::Int64, true));
    let values: Vec<Field> = values.into_iter().chain([Field::new("f", DataType::Float64, true)]).collect();
    KeyedTable::new(Arc::new(keys), Arc::new(Schema::new(values))).unwrap()
}

/// Adds the keys to the state, as an aggregate does.
fn merge(table: &mut KeyedTable, keys: Vec<i64>) {
    let rows = keys.len();
    let keys: ArrayRef = Arc::new(Int64Array::from(keys));
    let found = table.get(std::slice::from_ref(&keys), rows).unwrap();
    let ints = |column: usize| {
        let mut next = vec![1i64; rows];
        let old = found.values[column].as_primitive::<Int64Type>();
        for (row, old) in found.rows.iter().zip(old.values()) {
            next[*row] += old;
        }
        Arc::new(Int64Array::from(next)) as ArrayRef
    };
    let mut floats = vec![0.5f64; rows];
    for (row, old) in found.rows.iter().zip(found.values[4].as_primitive::<Float64Type>().values()) {
        floats[*row] += old;
    }
    let values = [ints(0), ints(1), ints(2), ints(3), Arc::new(Float64Array::from(floats)) as ArrayRef];
    table.put(&[keys], &values, rows).unwrap();
    table.install();
}

fn rss_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = status.split(' ').nth(1).and_then(|p| p.parse().ok()).unwrap_or_default();
    pages * 4096.0
}

/// CPU seconds of this process so far, to a hundredth.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 = fields.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum();
    ticks / 100.0
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// The distinct keys of a random batch, in order of appearance; `rows` of them are read.
fn batch(random: &mut Random, rows: usize, keys: u64, seen: &mut [u32], stamp: u32) -> Vec<i64> {
    let mut distinct = Vec::new();
    for _ in 0..rows {
        let key = random.below(keys);
        if std::mem::replace(&mut seen[key as usize], stamp) != stamp {
            distinct.push(key as i64 * 7);
        }
    }
    distinct
}

fn run(keys: u64) {
    let before = rss_bytes();
    let mut t = table();
    let load = cpu();
    let all: Vec<u64> = (0..keys).collect();
    for part in all.chunks(BATCH_ROWS) {
        merge(&mut t, part.iter().map(|k| *k as i64 * 7).collect());
    }
    let load = (cpu() - load).max(0.01);
    drop(all);
    let loaded = (rss_bytes() - before) / keys as f64;
    let mut random = Random(88_172_645_463_325_252);
    let mut seen = vec![0u32; keys as usize];
    let (mut changed, mut spent, mut longest) = (0, 0.0, 0.0f64);
    for n in 0..BATCHES {
        let distinct = batch(&mut random, BATCH_ROWS, keys, &mut seen, n as u32 + 1);
        changed += distinct.len();
        let (start, used) = (Instant::now(), cpu());
        merge(&mut t, distinct);
        spent += cpu() - used;
        longest = longest.max(start.elapsed().as_secs_f64());
    }
    drop(seen);
    let spent = spent.max(0.01);
    println!(
        "{keys:>9} keys: load {:.2} M rows/s; batches of 1 M input rows, {:.0} k distinct: {:.2} M changed rows/s, \
         {:.2} M input rows/s (state's share only), longest {:.0} ms; {loaded:.0} bytes/key RSS loaded, {:.0} after, \
         {:.0} by its own account",
        keys as f64 / load / 1e6,
        changed as f64 / BATCHES as f64 / 1e3,
        changed as f64 / spent / 1e6,
        (BATCH_ROWS * BATCHES) as f64 / spent / 1e6,
        longest * 1e3,
        (rss_bytes() - before) / keys as f64,
        t.memory_bytes() as f64 / keys as f64,
    );
    one_row_batches(&mut t, keys, &mut random);
    checkpoint(t, keys);
}

fn one_row_batches(t: &mut KeyedTable, keys: u64, random: &mut Random) {
    let mut took: Vec<f64> = Vec::new();
    for _ in 0..100_000 {
        let key = random.below(keys) as i64 * 7;
        let start = Instant::now();
        merge(t, vec![key]);
        took.push(start.elapsed().as_secs_f64() * 1e6);
    }
    let (first, second) = took.split_at(50_000);
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (first, second) = (mean(first), mean(second));
    took.sort_unstable_by(f64::total_cmp);
    println!(
        "          100 k one-row batches: mean {first:.1} us in the first half, {second:.1} us in the second; \
         p50 {:.1}, p99 {:.1}, p99.9 {:.0}, longest {:.0} us",
        took[50_000], took[99_000], took[99_900], took[99_999]
    );
}

struct Op(KeyedTable);

impl OperatorState for Op {
    fn install(&mut self) {
        self.0.install();
    }
    fn discard(&mut self) {
        self.0.discard();
    }
    fn changes(&mut self) -> Result<Changes> {
        Ok(Changes::new().keyed("rows", &self.0))
    }
    fn restore(&mut self, mut saved: Restored) -> Result<()> {
        saved.keyed("rows", &mut self.0)
    }
    fn describe(&self) -> StateInfo {
        StateInfo { kind: "bench".into(), tables: vec![TableInfo::keyed("rows", &self.0)] }
    }
    fn table(&self) -> Result<Vec<RecordBatch>> {
        self.0.scan().collect()
    }
}

fn checkpoint(t: KeyedTable, keys: u64) {
    let dir = tempfile::tempdir().unwrap();
    let op = Arc::new(Mutex::new(Op(t)));
    let mut store = StateStore::new(Arc::new(Files), dir.path());
    store.register("op", op.clone()).unwrap();
    let start = Instant::now();
    let future = store.checkpoint(BatchId(1)).unwrap();
    let captured = start.elapsed();
    let full = block_on(future).unwrap();
    let wrote = start.elapsed().as_secs_f64();
    let bytes: u64 = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    merge(&mut op.lock().unwrap().0, (0..1000.min(keys as i64)).map(|k| k * 7).collect());
    let start = Instant::now();
    block_on(store.checkpoint(BatchId(2)).unwrap()).unwrap();
    let delta = start.elapsed();
    drop((store, op));
    let op = Arc::new(Mutex::new(Op(table())));
    let mut store = StateStore::new(Arc::new(Files), dir.path());
    store.register("op", op.clone()).unwrap();
    let (start, used) = (Instant::now(), cpu());
    store.restore(&full).unwrap();
    let (wall, restored) = (start.elapsed().as_secs_f64(), (cpu() - used).max(0.01));
    assert_eq!(op.lock().unwrap().0.len(), keys as usize);
    println!(
        "          checkpoint: captured in {captured:.0?}, {:.0} MB written in {wrote:.2} s; of 1000 changes {delta:.1?}; \
         restored in {restored:.2} s of CPU ({wall:.2} s): {:.1} M keys/s, {:.0} MB/s",
        bytes as f64 / 1e6,
        keys as f64 / restored / 1e6,
        bytes as f64 / restored / 1e6
    );
}

/// Plain files.
#[derive(Debug)]
struct Files;

#[derive(Debug)]
struct PlainFile(Arc<std::fs::File>);

#[async_trait]
impl DiskFile for PlainFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::Write::write_all(&mut self.0.as_ref(), bytes)
    }
    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn syncer(&self) -> Box<dyn Syncer> {
        Box::new(PlainFile(Arc::clone(&self.0)))
    }
}

#[async_trait]
impl Syncer for PlainFile {
    async fn sync(self: Box<Self>) -> io::Result<()> {
        self.0.sync_all()
    }
}

#[async_trait]
impl Disk for Files {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        std::fs::read_dir(dir)?.map(|e| Ok(e?.path())).collect()
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Box::new(PlainFile(Arc::new(file))))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }
    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::File::open(dir)?.sync_all()
    }
    fn lock(&self, _path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        Ok(None)
    }
}

fn main() {
    let mut keys: Vec<u64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    if keys.is_empty() {
        keys = vec![1_000, 100_000, 10_000_000];
    }
    keys.into_iter().for_each(run);
}
