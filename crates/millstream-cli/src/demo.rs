//! `millstream demo`: the whole thing in one command, to be killed and started again.

use std::collections::BTreeMap;
use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use futures::StreamExt;
use millstream::batch::{Extent, answer};
use millstream::core::batch::{BatchId, DropKind};
use millstream::core::disk::RealDisk;
use millstream::core::log::{read_dropped, read_status};
use millstream::core::query::{Progress, QueryState, QueryStatus};
use millstream::core::watermark::END_OF_TIME;
use millstream::pipeline::{Pipeline, RunOptions, query_dirs};
use millstream::sql::Planner;
use millstream::{Error, Result};

use crate::connectors::installed;
use crate::out::say;
use crate::status::{account_line, watermark};
use crate::table::{duration, thousands};

const SQL: &str = include_str!("../../../examples/demo.sql");
const DIR: &str = "millstream-demo";
const QUERY: &str = "alerts";

/// Show it working: card transactions, sliding windows, alerts; kill it and start it again.
///
/// Card transactions are generated; windows over them find suspicious cards; alerts go to a file and to the terminal.
///
/// The SQL is printed and lies in examples/demo.sql. Everything is written below millstream-demo/ in the working
/// directory: alerts.ndjson (the answer, one line an alert) and state/ (the batch log and checkpoints). Kill it with
/// `kill -9` at any moment and give the same command: it continues at the batch where it died. `--verify` then computes
/// the whole answer anew, in batch, and compares. Remove millstream-demo/ to begin from nothing.
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Demo {
    /// Recompute the answer in batch over the same input and compare, instead of running on.
    #[arg(long)]
    verify: bool,
    /// Stop after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Lines instead of a live view.
    #[arg(long)]
    plain: bool,
}

impl Demo {
    /// Runs or verifies the demo.
    pub async fn run(self) -> Result<()> {
        if self.verify { verify().await } else { self.show().await }
    }

    async fn show(self) -> Result<()> {
        say!("{}", SQL.trim_end());
        say!("");
        say!("writes {DIR}/alerts.ndjson and {DIR}/state; kill -9 it and start it again, then: demo --verify");
        say!("");
        fs::create_dir_all(DIR).map_err(|e| Error::config(format!("{DIR} can't be made")).caused_by(e))?;
        let running = pipeline().await?.start(&run_options()).await?;
        let stoppers = running.stoppers();
        let limit = self.seconds.map(Duration::from_secs);
        tokio::spawn(async move {
            let time_up = async {
                match limit {
                    Some(limit) => tokio::time::sleep(limit).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = crate::signals::signalled() => {}
                () = time_up => {}
            }
            stoppers.iter().for_each(millstream::core::query::Stopper::stop);
        });
        if self.plain || !std::io::stdout().is_terminal() {
            return crate::run::follow(running, crate::signals::Signals::listen()?, false).await;
        }
        let Some((_, handle)) = running.queries.first() else { return Err(Error::bug("the demo has a query")) };
        let (batches, status) = (handle.progress(), handle.watch());
        let view = tokio::spawn(async move { View::default().follow(batches, status).await });
        let done = running.wait().await;
        view.await.ok();
        done
    }
}

async fn pipeline() -> Result<Pipeline> {
    Pipeline::from_sql("examples/demo.sql", SQL, Path::new("."), installed()).await
}

fn run_options() -> RunOptions {
    RunOptions { state_dir: Some(Path::new(DIR).join("state")), ..RunOptions::default() }
}

/// The live view: redrawn in place, a few times a second.
#[derive(Default)]
struct View {
    drawn: usize,
    rows: u64,
    since: Option<Instant>,
    rate: f64,
    batch_time: Duration,
    last: Option<std::sync::Arc<Progress>>,
}

impl View {
    async fn follow(
        mut self,
        mut batches: impl futures::Stream<Item = std::sync::Arc<Progress>> + Unpin,
        status: tokio::sync::watch::Receiver<QueryStatus>,
    ) {
        let mut tick = tokio::time::interval(Duration::from_millis(250));
        loop {
            tokio::select! {
                batch = batches.next() => match batch {
                    Some(batch) => {
                        self.rows += batch.rows_in;
                        self.batch_time = batch.duration;
                        self.last = Some(batch);
                    }
                    None => {
                        self.draw(&status.borrow());
                        return;
                    }
                },
                _ = tick.tick() => {
                    let seconds = self.since.replace(Instant::now()).map_or(0.25, |s| s.elapsed().as_secs_f64());
                    self.rate = 0.7 * self.rate + 0.3 * self.rows as f64 / seconds.max(0.01);
                    self.rows = 0;
                    self.draw(&status.borrow());
                }
            }
        }
    }

    fn draw(&mut self, status: &QueryStatus) {
        let mut lines = vec![];
        if let Some(recovery) = &status.recovery {
            lines.push(format!("continued after batch {} ({} batches run again)", recovery.last, recovery.replayed));
        }
        if let Some(last) = &self.last {
            lines.push(format!(
                "batch {}   {} rows/s   {} a batch   watermark {}",
                last.batch,
                thousands(self.rate as u64),
                duration(self.batch_time.as_secs_f64()),
                watermark(last.frontier)
            ));
            lines.extend(last.totals.iter().map(account_line));
            lines.push(format!("alerts {}", thousands(last.total_rows_out)));
        }
        lines.push(String::new());
        lines.push("newest windows".to_string());
        lines.extend(newest(10));
        if matches!(status.state, QueryState::Ended | QueryState::Stopped) {
            lines.push(String::new());
            lines.push("stopped; the same command continues, demo --verify checks".to_string());
        }
        let mut out = String::new();
        if self.drawn > 0 {
            out.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for line in &lines {
            out.push_str(&format!("\x1b[2K{line}\n"));
        }
        out.push_str("\x1b[J");
        self.drawn = lines.len();
        let mut stdout = std::io::stdout().lock();
        // A terminal that went away is no reason to stop the stream.
        let _ = stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush());
    }
}

/// The last alerts of the file, as a small chart of their sums.
fn newest(count: usize) -> Vec<String> {
    use std::io::{Read, Seek, SeekFrom};
    const TAIL: u64 = 4096;
    let mut tail = String::new();
    let read = fs::File::open(Path::new(DIR).join("alerts.ndjson")).and_then(|mut file| {
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(TAIL)))?;
        let mut bytes = vec![];
        file.read_to_end(&mut bytes)?;
        tail = String::from_utf8_lossy(&bytes).into_owned();
        Ok(())
    });
    if read.is_err() {
        return vec!["none yet".to_string()];
    }
    let rows: Vec<serde_json::Value> = tail.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let text = |v: &serde_json::Value| v.as_str().map_or_else(|| v.to_string(), str::to_string);
    let sums: Vec<f64> = rows.iter().map(|r| text(&r["total"]).parse().unwrap_or(0.0)).collect();
    let largest = sums.iter().copied().fold(1.0, f64::max);
    let mut lines: Vec<String> = rows
        .iter()
        .zip(&sums)
        .rev()
        .take(count)
        .map(|(row, sum)| {
            let bar = "#".repeat((sum / largest * 30.0) as usize + 1);
            let (card, end) = (text(&row["card"]), text(&row["window_end"]));
            format!("  {card}  until {end}  {:>4} transactions  {sum:>10.2} {bar}", text(&row["transactions"]))
        })
        .collect();
    if lines.is_empty() {
        lines.push("none yet".to_string());
    }
    lines
}

/// Computes the answer anew, in batch, and compares.
async fn verify() -> Result<()> {
    let not_run = || Error::config("the demo has not run here yet: start it first, with `millstream demo`");
    let state = Path::new(DIR).join("state");
    if !state.join(QUERY).is_dir() {
        return Err(not_run());
    }
    // What a killed process left half done is finished first, as the same command would.
    let running =
        pipeline().await?.start(&run_options()).await.map_err(|e| e.at("the demo can't be verified while it runs"))?;
    running.stop().await?;

    let dir = query_dirs(&state)?.into_iter().find(|(name, _)| name == QUERY).map(|(_, dir)| dir);
    let dir: PathBuf = dir.ok_or_else(not_run)?;
    let status = read_status(&RealDisk, &dir)?.ok_or_else(not_run)?;
    let mut extents: BTreeMap<String, Extent> = BTreeMap::new();
    for (source, positions) in &status.positions {
        extents.entry(source.clone()).or_default().upto = Some(positions.clone());
    }
    let (mut rejected, mut late) = (0, 0);
    for (_, row) in read_dropped(&RealDisk, &dir, BatchId(0))? {
        match row.kind {
            DropKind::Rejected => rejected += 1,
            DropKind::Late => late += 1,
        }
        extents.entry(row.source).or_default().skip.entry(row.partition).or_default().insert(row.place);
    }
    let expected = recompute(&status, &extents).await?;
    let found = published()?;
    say!("input     {}", status.totals.iter().map(account_line).collect::<Vec<_>>().join("; "));
    say!("dropped   {rejected} rejected and {late} late rows are stored with their places");
    say!("batches   {} committed, watermark {}", status.committed, watermark(status.timeline.frontier()));
    say!("in batch  {} alerts in windows that the watermark has passed", expected.len());
    say!("streamed  {} alerts in alerts.ndjson", found.len());
    let missing = difference(&expected, &found);
    let surplus = difference(&found, &expected);
    let books = status.totals.iter().all(millstream::core::batch::Account::balances);
    if missing.is_empty() && surplus.is_empty() && books {
        say!("verified: nothing lost, nothing doubled");
        return Ok(());
    }
    for (what, rows) in [("missing", &missing), ("too many", &surplus)] {
        for row in rows.iter().take(5) {
            say!("{what}: {row}");
        }
    }
    Err(Error::corrupt(format!("{} alerts are missing and {} are too many", missing.len(), surplus.len())))
}

async fn recompute(
    status: &millstream::core::log::LogStatus,
    extents: &BTreeMap<String, Extent>,
) -> Result<Vec<String>> {
    let mut planner = Planner::new(installed(), Path::new("."))?;
    let planned = planner.plan("examples/demo.sql", SQL)?;
    let query = planned.queries.into_iter().next().ok_or_else(|| Error::bug("the demo has a query"))?;
    let failed = |e| Error::bug("the answer can't be computed in batch").caused_by(e);
    let mut rows = answer(query.plan, planner.state(), extents).await.map_err(failed)?;
    let frontier = status.timeline.frontier().unwrap_or(i64::MIN);
    let mut lines = vec![];
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(failed)?;
        for row in 0..batch.num_rows() {
            let json = millstream::runner::edge::as_json(&batch, row);
            let value: serde_json::Value = serde_json::from_str(&json).map_err(|e| Error::bug(json).caused_by(e))?;
            let end = value["window_end"].as_str().and_then(|end| end.parse::<chrono::NaiveDateTime>().ok());
            let end_us = end.map_or(i64::MAX, |end| end.and_utc().timestamp_micros());
            if frontier == END_OF_TIME || end_us <= frontier {
                lines.push(canonical(&value));
            }
        }
    }
    lines.sort();
    Ok(lines)
}

fn published() -> Result<Vec<String>> {
    let path = Path::new(DIR).join("alerts.ndjson");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(Error::sink(format!("{} can't be read", path.display())).caused_by(e)),
    };
    let mut lines = vec![];
    for (n, line) in text.lines().enumerate() {
        let value = serde_json::from_str(line)
            .map_err(|e| Error::corrupt(format!("{}:{} is no JSON", path.display(), n + 1)).caused_by(e))?;
        lines.push(canonical(&value));
    }
    lines.sort();
    Ok(lines)
}

/// The alert, whatever spelling of numbers and timestamps a writer prefers.
fn canonical(value: &serde_json::Value) -> String {
    let text = |name: &str| value[name].as_str().map_or_else(|| value[name].to_string(), str::to_string);
    let time = |name: &str| text(name).trim_end_matches(".000").replace(' ', "T");
    let total = text("total");
    format!("{} {} {} {} {total}", text("card"), time("window_start"), time("window_end"), text("transactions"))
}

/// The lines of `a` that are not in `b`, with their counts; both sorted.
fn difference(a: &[String], b: &[String]) -> Vec<String> {
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    a.iter().for_each(|line| *counts.entry(line).or_default() += 1);
    b.iter().for_each(|line| *counts.entry(line).or_default() -= 1);
    counts.into_iter().filter(|(_, n)| *n > 0).flat_map(|(line, n)| (0..n).map(move |_| line.to_string())).collect()
}
