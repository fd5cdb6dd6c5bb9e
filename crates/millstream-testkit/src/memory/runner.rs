//! Running counts by key, and sums in tumbling windows, over [`super::MemorySource`]s; and what a world outside that
//! answers otherwise each time says of the keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use millstream_core::batch::{Account, BatchId, DropKind, Dropped, PartitionId, Place};
use millstream_core::disk::SharedDisk;
use millstream_core::query::QuerySource;
use millstream_core::runner::{Answers, Outcome, ProbeTime, Runner, RunnerState, Task, UsedRow};
use millstream_core::sink::{Output, OutputKind};
use millstream_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::sim::Process;

/// The length of a window in microseconds.
pub const WINDOW_US: i64 = 10;

/// A value on which the runner's expression fails.
pub const POISON: i64 = i64::MIN;

/// A value that makes the result of its window fail, when that closes.
pub const SPOILT: i64 = i64::MIN + 1;

/// The end of the window of an event time.
pub fn window_end(ts: i64) -> i64 {
    (ts.div_euclid(WINDOW_US) + 1) * WINDOW_US
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Memory {
    counts: BTreeMap<String, i64>,
    /// By window end and key.
    windows: BTreeMap<i64, BTreeMap<String, i64>>,
    /// The version and the content of a table that is read whole.
    table: (String, i64),
    /// The sum of what was answered.
    answered: i64,
}

/// The kind of the rows that say what a key was answered: their values depend on when it was asked.
pub const ASKED: &str = "asked";

/// Tables outside: each question is answered otherwise than the one before.
#[derive(Clone, Debug, Default)]
pub struct Outside(Arc<AtomicI64>);

impl Outside {
    fn ask(&self) -> i64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    /// The version of the table that is read whole: it changes now and then.
    fn version(&self) -> String {
        (self.0.load(Ordering::Relaxed) / 5).to_string()
    }
}

/// What a batch was answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Said {
    /// The table with its version, where it was read.
    table: Option<(String, i64)>,
    keys: BTreeMap<String, i64>,
}

/// Counts events by key as they come (`count key n`), and sums their values by key and window (`window key sum end`).
#[derive(Debug)]
pub struct MemoryRunner {
    sources: Vec<QuerySource>,
    delay_us: i64,
    memory: Memory,
    staged: Option<Memory>,
    store: Option<Store>,
    process: Process,
    /// The longest that a run takes.
    slow_ms: u64,
    outside: Option<Outside>,
    /// What this process was answered in the newest batch.
    said: (BatchId, Said),
}

/// Where checkpoints lie.
#[derive(Clone, Debug)]
struct Store {
    disk: SharedDisk,
    dir: PathBuf,
}

/// One row as the runner meets it.
enum Met<'a> {
    Used { ts: i64, key: &'a str, value: i64, row: Dropped },
    Dropped(Dropped),
}

impl MemoryRunner {
    /// A runner over these sources, whose watermarks are so far behind their newest event. Without checkpoints.
    pub fn new(sources: Vec<QuerySource>, delay_us: i64) -> Self {
        let (memory, process) = (Memory::default(), Process::immortal());
        let (outside, said) = (None, Default::default());
        Self { sources, delay_us, memory, staged: None, store: None, process, slow_ms: 0, outside, said }
    }

    /// The same, with checkpoints in this directory.
    pub fn checkpointed(mut self, disk: SharedDisk, dir: impl Into<PathBuf>) -> Self {
        self.store = Some(Store { disk, dir: dir.into() });
        self
    }

    /// The same, for a process that may die, with runs that take up to so many simulated milliseconds.
    pub fn of(mut self, process: &Process, slow_ms: u64) -> Self {
        (self.process, self.slow_ms) = (process.clone(), slow_ms);
        self
    }

    /// The same, asking these tables for every key of a batch.
    pub fn asking(mut self, outside: &Outside) -> Self {
        self.outside = Some(outside.clone());
        self
    }

    /// What is known of the answers to this task, and whether more may be asked.
    fn said(&mut self, task: Task<'_>) -> Result<(Said, May)> {
        let Some(outside) = &self.outside else { return Ok(Default::default()) };
        if let Some(answers) = task.answers {
            let said = serde_json::from_slice(&answers.0).map_err(|e| Error::bug("no answers").caused_by(e))?;
            return Ok((said, May::Never));
        }
        let batch = task.intent.batch;
        if self.said.0 != batch {
            self.said = (batch, Said::default());
        }
        let said = &mut self.said.1;
        if task.intent.pinned.get("table") != Some(&self.memory.table.0) && said.table.is_none() {
            said.table = Some((outside.version(), outside.ask()));
        }
        Ok((said.clone(), May::Ask))
    }

    /// Meets every row of a task in log order, until `meet` answers that it is enough.
    async fn walk(
        &self,
        task: Task<'_>,
        mut meet: impl FnMut(usize, Met<'_>) -> Result<Enough>,
    ) -> Result<BTreeMap<String, BTreeMap<PartitionId, i64>>> {
        let mut watermarks: BTreeMap<String, BTreeMap<PartitionId, i64>> = BTreeMap::new();
        // A probe with the event time after the batch goes through rows that it no longer meets.
        let mut enough = false;
        for (i, part) in task.intent.sources.iter().enumerate() {
            let Some(source) = self.sources.iter().find(|s| s.name == part.source) else {
                return Err(Error::bug(format!("no source \"{}\"", part.source)));
            };
            for range in &part.ranges {
                let mut watermark = task.timeline.watermark(&part.source, range.partition.as_str());
                let mut chunks = source.source.open(range).await?;
                while let Some(chunk) = chunks.try_next().await? {
                    let dropped = |kind, place: Place, reason: &str, raw: String| Dropped {
                        kind,
                        source: part.source.clone(),
                        partition: range.partition.clone(),
                        place,
                        part: None,
                        reason: reason.to_string(),
                        raw,
                    };
                    for bad in &chunk.rejected {
                        let raw = String::from_utf8_lossy(&bad.raw).into_owned();
                        if !enough {
                            meet(i, Met::Dropped(dropped(DropKind::Rejected, bad.place, &bad.reason, raw)))?;
                        }
                    }
                    let (ts, keys, values) = (
                        chunk.rows.column(0).as_primitive::<Int64Type>(),
                        chunk.rows.column(1).as_string::<i32>(),
                        chunk.rows.column(2).as_primitive::<Int64Type>(),
                    );
                    for (n, place) in chunk.places.iter().enumerate() {
                        let (ts, key, value) = (ts.value(n), keys.value(n), values.value(n));
                        let raw = || format!("{ts} {key} {value}");
                        let known = |d: &&Dropped| {
                            d.source == part.source && d.partition == range.partition && d.place == *place
                        };
                        let met = if let Some(left_out) = task.left_out.iter().find(known) {
                            Met::Dropped(left_out.clone())
                        } else if source.event_time && Some(window_end(ts)) <= watermark.max(task.intent.frontier) {
                            Met::Dropped(dropped(DropKind::Late, *place, "the window is closed", raw()))
                        } else {
                            Met::Used { ts, key, value, row: dropped(DropKind::Rejected, *place, "", raw()) }
                        };
                        if source.event_time {
                            watermark = watermark.max(Some(ts - self.delay_us));
                        }
                        if !enough && meet(i, met)? == Enough::Yes {
                            enough = true;
                            if task.probe.is_none_or(|probe| probe.time == ProbeTime::Before) {
                                return Ok(watermarks);
                            }
                        }
                    }
                }
                if let Some(watermark) = watermark {
                    watermarks.entry(part.source.clone()).or_default().insert(range.partition.clone(), watermark);
                }
            }
        }
        Ok(watermarks)
    }
}

/// Whether something may be asked that was not asked before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum May {
    Ask,
    #[default]
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Enough {
    Yes,
    No,
}

#[async_trait]
impl Runner for MemoryRunner {
    async fn pin(&mut self) -> Result<BTreeMap<String, String>> {
        Ok(self.outside.iter().map(|outside| ("table".to_string(), outside.version())).collect())
    }

    async fn run(&mut self, task: Task<'_>) -> Result<Outcome> {
        if self.slow_ms > 0 {
            tokio::time::sleep(Duration::from_millis(self.process.below(self.slow_ms + 1))).await;
        }
        let (mut said, may) = self.said(task)?;
        let mut memory = self.memory.clone();
        if let Some(table) = &said.table {
            memory.table = table.clone();
        }
        let outside = self.outside.clone();
        let mut answer = Answer::default();
        let mut dropped = Vec::new();
        let mut account: Vec<_> =
            task.intent.sources.iter().map(|s| Account { source: s.source.clone(), ..Account::default() }).collect();
        let mut used = 0;
        let walked = self
            .walk(task, |source, met| {
                if task.rows() == used {
                    return Ok(Enough::Yes);
                }
                let Some(account) = account.get_mut(source) else { return Ok(Enough::Yes) };
                account.read += 1;
                match met {
                    Met::Dropped(row) => {
                        match row.kind {
                            DropKind::Late => account.late += 1,
                            DropKind::Rejected => account.rejected += 1,
                        }
                        dropped.push(row);
                    }
                    Met::Used { value: POISON, .. } => return Err(Error::row("the value is poison")),
                    Met::Used { ts, key, value, .. } => {
                        account.used += 1;
                        used += 1;
                        let count = memory.counts.entry(key.to_string()).or_default();
                        *count += 1;
                        answer.push("count", key, *count, 0);
                        if let Some(outside) = &outside {
                            let known = said.keys.get(key).copied();
                            let value = match (known, may) {
                                (Some(value), _) => value,
                                (None, May::Ask) => outside.ask(),
                                (None, May::Never) => return Err(Error::diverged("a key was not asked for before")),
                            };
                            said.keys.insert(key.to_string(), value);
                            memory.answered += value;
                            answer.push(ASKED, key, memory.answered + memory.table.1, 0);
                        }
                        let sum = memory.windows.entry(window_end(ts)).or_default().entry(key.to_string()).or_default();
                        *sum = if value == SPOILT || *sum == SPOILT { SPOILT } else { *sum + value };
                    }
                }
                Ok(Enough::No)
            })
            .await;
        if may == May::Ask {
            self.said.1 = said.clone();
        }
        let watermarks = walked?;
        let mut after = task.timeline.clone();
        after.advance(task.intent, &watermarks);
        let frontier = if task.time_stands() { task.intent.frontier } else { after.frontier() };
        while let Some(window) = memory.windows.first_entry().filter(|w| Some(*w.key()) <= frontier) {
            let (end, sums) = window.remove_entry();
            if sums.values().any(|sum| *sum == SPOILT) {
                return Err(Error::row("the sum is spoilt"));
            }
            sums.iter().for_each(|(key, sum)| answer.push("window", key, *sum, end));
        }
        self.staged = Some(memory);
        let mut answers = None;
        if may == May::Ask && said != Said::default() {
            let json = serde_json::to_vec(&said).map_err(|e| Error::bug("unwritable answers").caused_by(e))?;
            answers = Some(Answers(json.into()));
        }
        Ok(Outcome { output: answer.output()?, account, watermarks, dropped, answers })
    }

    async fn used_row(&mut self, task: Task<'_>, n: u64) -> Result<Option<UsedRow>> {
        let (mut seen, mut found) = (0, None);
        self.walk(task, |_, met| {
            if let Met::Used { row, .. } = met {
                if seen == n {
                    found = Some(UsedRow { row });
                    return Ok(Enough::Yes);
                }
                seen += 1;
            }
            Ok(Enough::No)
        })
        .await?;
        Ok(found)
    }

    fn install(&mut self) {
        if let Some(staged) = self.staged.take() {
            self.memory = staged;
        }
    }

    fn discard(&mut self) {
        self.staged = None;
    }

    fn state(&mut self) -> Option<&mut dyn RunnerState> {
        self.store.is_some().then_some(self as &mut dyn RunnerState)
    }
}

#[async_trait]
impl RunnerState for MemoryRunner {
    fn checkpoint(&mut self, batch: BatchId) -> Result<BoxFuture<'static, Result<String>>> {
        let Some(Store { disk, dir }) = self.store.clone() else { return Err(Error::bug("no place for checkpoints")) };
        let json = serde_json::to_vec(&self.memory).map_err(|e| Error::bug("unwritable state").caused_by(e))?;
        Ok(async move {
            let failed = |e: std::io::Error| Error::config("the checkpoint can't be written").caused_by(e);
            disk.create_dir(&dir).map_err(failed)?;
            // Never twice the same name: what is half written may still be there.
            let taken = disk.list(&dir).map_err(failed)?;
            let free = |n: &u32| !taken.contains(&PathBuf::from(format!("state-{batch}-{n}")));
            let name = format!("state-{batch}-{}", (0..).find(free).unwrap_or_default());
            let mut file = disk.open(&dir.join(&name)).map_err(failed)?;
            file.append(&json).map_err(failed)?;
            file.syncer().sync().await.map_err(failed)?;
            disk.sync_dir(&dir).await.map_err(failed)?;
            Ok(format!("{name} {:08x}", crc32fast::hash(&json)))
        }
        .boxed())
    }

    async fn restore(&mut self, manifest: &str) -> Result<()> {
        let Some(Store { disk, dir }) = &self.store else { return Err(Error::bug("no place for checkpoints")) };
        let corrupt = |what: &str| Error::corrupt(format!("{}/{manifest}: {what}", dir.display()));
        let (name, crc) = manifest.split_once(' ').ok_or_else(|| corrupt("no manifest"))?;
        let json = disk.read(&dir.join(Path::new(name))).map_err(|e| corrupt("the file can't be read").caused_by(e))?;
        if format!("{:08x}", crc32fast::hash(&json)) != crc {
            return Err(corrupt("the file is not what was written"));
        }
        self.memory = serde_json::from_slice(&json).map_err(|e| corrupt("the file is no state").caused_by(e))?;
        Ok(())
    }

    fn retain(&mut self, manifests: &[String]) -> Result<()> {
        let Some(Store { disk, dir }) = &self.store else { return Ok(()) };
        let failed = |e: std::io::Error| Error::config("old checkpoints can't be removed").caused_by(e);
        for name in disk.list(dir).map_err(failed)? {
            let text = name.display().to_string();
            let kept = manifests.iter().any(|m| m.split_once(' ').is_some_and(|(name, _)| name == text));
            if text.starts_with("state-") && !kept {
                disk.remove(&dir.join(name)).map_err(failed)?;
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Answer {
    kinds: Vec<&'static str>,
    keys: Vec<String>,
    values: Vec<i64>,
    ends: Vec<i64>,
}

impl Answer {
    fn push(&mut self, kind: &'static str, key: &str, value: i64, end: i64) {
        self.kinds.push(kind);
        self.keys.push(key.to_string());
        self.values.push(value);
        self.ends.push(end);
    }

    fn output(self) -> Result<Output> {
        let schema: SchemaRef = Arc::new(Schema::new(vec![
            Field::new("kind", DataType::Utf8, false),
            Field::new("key", DataType::Utf8, false),
            Field::new("value", DataType::Int64, false),
            Field::new("end", DataType::Int64, false),
        ]));
        let columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(StringArray::from(self.kinds)),
            Arc::new(StringArray::from(self.keys)),
            Arc::new(Int64Array::from(self.values)),
            Arc::new(Int64Array::from(self.ends)),
        ];
        let batches = vec![RecordBatch::try_new(schema.clone(), columns)?];
        Ok(Output { schema, kind: OutputKind::Append, batches })
    }
}
