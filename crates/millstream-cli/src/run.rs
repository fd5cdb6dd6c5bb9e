//! `millstream run`: the queries of a file, with a line a second.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use futures::StreamExt;
use millstream::core::query::{Progress, QueryState, Trigger};
use millstream::pipeline::{Pipeline, RunOptions, Running};
use millstream::{Error, Result, settings};

use crate::check::describe_plan;
use crate::out::{complain, say};
use crate::signals::Signals;
use crate::status::{account_line, watermark};
use crate::table::{duration, thousands};

/// Arguments of `run`.
#[derive(Args)]
pub struct Run {
    /// The file of SQL.
    file: PathBuf,
    #[command(flatten)]
    pub options: Options,
}

/// What `run` and `demo` share.
#[derive(Args, Clone)]
pub struct Options {
    /// Where batch logs and checkpoints lie [default: .millstream/<name of the file>].
    #[arg(long)]
    pub state: Option<PathBuf>,
    /// Partitions that are read and decoded at once [default: what SET 'parallelism.default' says, or the cores].
    #[arg(long)]
    pub parallelism: Option<usize>,
    /// Rows that a batch may hold [default: what SET 'batch.max-rows' says, or 65536].
    #[arg(long)]
    pub max_batch_rows: Option<u64>,
    /// When a batch begins: `continuous`, `available-now` (read what is there, then stop), or an interval: '500 ms'
    /// [default: what SET 'execution.trigger' says, or continuous].
    #[arg(long, value_parser = parse_trigger)]
    pub trigger: Option<Trigger>,
    /// Go on where a batch, run again, gives other rows than were published; those stand.
    #[arg(long)]
    pub accept_divergence: bool,
    /// Go on from the state of a query with another name or plan.
    #[arg(long)]
    pub adopt: bool,
    /// No line a second, only the summary.
    #[arg(long)]
    pub quiet: bool,
}

fn parse_trigger(text: &str) -> Result<Trigger, String> {
    settings::parse_trigger(text)
        .ok_or_else(|| "it is 'continuous', 'available-now' or an interval: '500 ms'".to_string())
}

impl Options {
    /// As the library takes them.
    pub fn run_options(&self) -> Result<RunOptions> {
        if self.max_batch_rows == Some(0) {
            return Err(Error::config("--max-batch-rows is at least 1"));
        }
        if self.parallelism == Some(0) {
            return Err(Error::config("--parallelism is at least 1"));
        }
        Ok(RunOptions {
            state_dir: self.state.clone(),
            trigger: self.trigger,
            max_batch_rows: self.max_batch_rows,
            parallelism: self.parallelism,
            accept_divergence: self.accept_divergence,
            adopt: self.adopt,
        })
    }
}

impl Run {
    /// Runs until the input ends or a signal stops it.
    pub async fn run(self) -> Result<()> {
        let pipeline = Pipeline::load(&self.file, crate::connectors::installed()).await?;
        for (name, compiled) in &pipeline.explained {
            say!("{name}\n{}", describe_plan(compiled));
        }
        if pipeline.queries.is_empty() {
            return Ok(());
        }
        // IMPORTANT: before it starts. A signal that comes while it recovers must not end it in its midst.
        let signals = Signals::listen()?;
        let running = pipeline.start(&self.options.run_options()?).await?;
        follow(running, signals, self.options.quiet).await
    }
}

/// Shows a running pipeline, a line a second, stops it on SIGINT and SIGTERM, and sums up.
pub async fn follow(running: Running, mut signals: Signals, quiet: bool) -> Result<()> {
    let started = Instant::now();
    let stoppers = running.stoppers();
    tokio::spawn(async move {
        signals.received().await;
        complain!("stopping: finishing the batch, checkpointing ..");
        stoppers.iter().for_each(millstream::core::query::Stopper::stop);
    });
    let several = running.queries.len() > 1;
    let mut watches = vec![];
    let mut batches = futures::stream::SelectAll::new();
    for (name, handle) in &running.queries {
        watches.push((name.clone(), handle.watch()));
        let name = name.clone();
        batches.push(handle.progress().map(move |progress| (name.clone(), progress)));
    }
    let shown = tokio::spawn(async move {
        let mut lines: BTreeMap<String, Line> = BTreeMap::new();
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.tick().await;
        loop {
            tokio::select! {
                batch = batches.next() => match batch {
                    Some((name, progress)) => lines.entry(name).or_default().add(&progress),
                    None => return,
                },
                _ = tick.tick() => {
                    for (name, line) in &mut lines {
                        if !quiet {
                            say!("{}", line.show(several.then_some(name)));
                        }
                    }
                }
            }
        }
    });
    let mut announced = tokio::task::JoinSet::new();
    for (name, watch) in &watches {
        let (name, mut watch) = (name.clone(), watch.clone());
        announced.spawn(async move { announce(&name, &mut watch).await });
    }
    let done = running.wait().await;
    shown.await.ok();
    // How it went on is said however short the run was.
    tokio::time::timeout(Duration::from_secs(1), announced.join_all()).await.ok();
    for (name, watch) in watches {
        summary(&name, &watch.borrow(), started.elapsed());
    }
    done
}

/// Says how a query went on after a restart, and what it waits for.
async fn announce(name: &str, watch: &mut tokio::sync::watch::Receiver<millstream::core::query::QueryStatus>) {
    let (mut recovered, mut retrying) = (false, false);
    loop {
        {
            let status = watch.borrow_and_update();
            let replaying = status.state == QueryState::Recovering;
            if let (false, false, Some(recovery)) = (recovered, replaying, &status.recovery) {
                recovered = true;
                let from = recovery.checkpoint.map_or("began with no checkpoint".to_string(), |b| {
                    format!("restored the checkpoint of batch {b}")
                });
                say!(
                    "{name}: continues after batch {}: {from}, ran {} batches again, {} of them had not been published",
                    recovery.last,
                    recovery.replayed,
                    recovery.published
                );
                if let Some(why) = &recovery.passed_over {
                    say!("{name}: a newer checkpoint was passed over: {why}");
                }
            }
            match &status.state {
                QueryState::Retrying { what, error } if !retrying => {
                    retrying = true;
                    complain!("{name}: {what} fails, trying again: {error}");
                }
                QueryState::Running | QueryState::Resting => retrying = false,
                _ => {}
            }
        }
        if watch.changed().await.is_err() {
            return;
        }
    }
}

/// What a query did since its last line.
#[derive(Default)]
struct Line {
    rows_in: u64,
    rows_out: u64,
    batches: u64,
    busy: Duration,
    last: Option<Progress>,
}

impl Line {
    fn add(&mut self, progress: &Progress) {
        self.rows_in += progress.rows_in;
        self.rows_out += progress.rows_out;
        self.batches += 1;
        self.busy += progress.duration;
        self.last = Some(progress.clone());
    }

    fn show(&mut self, name: Option<&String>) -> String {
        let Some(last) = &self.last else { return "waiting for rows".to_string() };
        let mut out = name.map(|n| format!("{n}: ")).unwrap_or_default();
        out.push_str(&format!(
            "batch {} | {} rows/s in, {} out",
            last.batch,
            thousands(self.rows_in),
            thousands(self.rows_out)
        ));
        if self.batches > 0 {
            let mean = self.busy.as_secs_f64() / self.batches as f64;
            out.push_str(&format!(" | {} a batch", duration(mean)));
        }
        out.push_str(&format!(" | watermark {}", watermark(last.frontier)));
        if let Some(lag) = last.lag.filter(|lag| *lag > 0) {
            out.push_str(&format!(" | lag {}", thousands(lag)));
        }
        let (rejected, late) = last.totals.iter().fold((0, 0), |(r, l), a| (r + a.rejected, l + a.late));
        if rejected + late > 0 {
            out.push_str(&format!(" | rejected {} late {}", thousands(rejected), thousands(late)));
        }
        (self.rows_in, self.rows_out, self.batches, self.busy) = (0, 0, 0, Duration::ZERO);
        out
    }
}

fn summary(name: &str, status: &millstream::core::query::QueryStatus, elapsed: Duration) {
    let state = match &status.state {
        QueryState::Ended => "ended: all input was read",
        QueryState::Failed { .. } => "failed",
        _ => "stopped",
    };
    let Some(progress) = &status.progress else {
        say!("{name}: {state} after {}; no batch was run", duration(elapsed.as_secs_f64()));
        return;
    };
    say!(
        "{name}: {state} after {} at batch {}; {} rows out, watermark {}",
        duration(elapsed.as_secs_f64()),
        progress.batch,
        thousands(progress.total_rows_out),
        watermark(progress.frontier)
    );
    for account in &progress.totals {
        say!("  {}", account_line(account));
    }
}
