//! `millstream status`: what a stopped or running pipeline has done, read from its batch logs.

use std::path::{Path, PathBuf};

use clap::Args;
use millstream::core::batch::Account;
use millstream::core::disk::RealDisk;
use millstream::core::log::{LogStatus, is_running, read_status};
use millstream::core::watermark::{END_OF_EVENT_TIME, END_OF_TIME};
use millstream::pipeline::query_dirs;
use millstream::runner::edge::show;
use millstream::{Error, Result};
use serde_json::{Value, json};

use crate::out::say;
use crate::table::thousands;

/// Arguments of `status`.
#[derive(Args)]
pub struct Status {
    /// The state directory of the pipeline (`run --state`), or the name of its SQL file.
    dir: PathBuf,
    /// One JSON object for scripts.
    #[arg(long)]
    json: bool,
}

impl Status {
    /// Reads and shows it; the pipeline may be running.
    pub fn run(self) -> Result<()> {
        let dir = state_dir(&self.dir)?;
        let mut queries = vec![];
        for (name, path) in query_dirs(&dir)? {
            if let Some(status) = read_status(&RealDisk, &path)? {
                queries.push((name, status, is_running(&path)));
            }
        }
        if queries.is_empty() {
            return Err(Error::config(format!(
                "{} holds no batch log: name the directory of `run --state`",
                dir.display()
            )));
        }
        if self.json {
            let queries: Vec<Value> = queries.iter().map(|(name, status, runs)| as_json(name, status, *runs)).collect();
            say!("{}", json!({ "queries": queries }));
            return Ok(());
        }
        for (name, status, runs) in &queries {
            print(name, status, *runs);
        }
        Ok(())
    }
}

/// A state directory, or the one that belongs to an SQL file.
pub fn state_dir(named: &Path) -> Result<PathBuf> {
    if named.is_file() { millstream::pipeline::state_dir_of(named) } else { Ok(named.to_path_buf()) }
}

fn print(name: &str, status: &LogStatus, runs: bool) {
    let state = match &status.stopped {
        Some(stopped) if stopped.ended => format!("ended at {}", show(stopped.time_us)),
        Some(stopped) => format!("stopped at {}", show(stopped.time_us)),
        None => {
            let what = if runs { "running" } else { "died; started again, it goes on" };
            format!("{what}: owner {} since {}", status.owner.holder, show(status.owner.since_us))
        }
    };
    say!("{name}: {state}");
    let intended = status.last_intent.as_ref().map_or(status.committed, |i| i.batch);
    say!("  batches     {} committed, {} intended", thousands(status.committed.0), thousands(intended.0));
    say!("  rows out    {}", thousands(status.rows_out));
    say!("  watermark   {}", watermark(status.timeline.frontier()));
    for account in &status.totals {
        say!("  {}", account_line(account));
    }
    if let Some((batch, lag)) = status.last_commit.as_ref().and_then(|commit| Some((commit.batch, commit.lag?))) {
        say!("  lag         {} past batch {batch}", thousands(lag));
    }
    let checkpoints: Vec<_> =
        status.checkpoints.iter().map(|(batch, at)| format!("batch {batch} at {}", show(*at))).collect();
    say!("  checkpoints {}", if checkpoints.is_empty() { "none yet".to_string() } else { checkpoints.join(", ") });
    say!("  incarnation {} epoch {}", status.identity.incarnation, status.owner.epoch);
}

/// The account of a source in one line; it says so where it does not add up.
pub fn account_line(account: &Account) -> String {
    let mut line = format!(
        "{:<11} read {} = used {} + rejected {} + late {}",
        account.source,
        thousands(account.read),
        thousands(account.used),
        thousands(account.rejected),
        thousands(account.late)
    );
    if account.lost > 0 {
        line.push_str(&format!(" (lost before they could be read: {})", thousands(account.lost)));
    }
    if !account.balances() {
        line.push_str("  THE ACCOUNT DOES NOT ADD UP");
    }
    line
}

/// A frontier as a person reads it.
pub fn watermark(frontier: Option<i64>) -> String {
    match frontier {
        None => "none yet".to_string(),
        Some(END_OF_TIME) => "the end of the input".to_string(),
        Some(END_OF_EVENT_TIME) => "the end of all event times".to_string(),
        Some(time_us) => show(time_us),
    }
}

fn as_json(name: &str, status: &LogStatus, runs: bool) -> Value {
    json!({
        "query": name,
        "incarnation": status.identity.incarnation,
        "epoch": status.owner.epoch,
        "running": runs,
        "stopped": status.stopped.is_some(),
        "ended": status.stopped.as_ref().is_some_and(|s| s.ended),
        "committed": status.committed.0,
        "intended": status.last_intent.as_ref().map_or(status.committed, |i| i.batch).0,
        "rows_out": status.rows_out,
        "watermark_us": status.timeline.frontier(),
        "account": status.totals,
        "positions": status.positions,
        "lag": status.last_commit.as_ref().and_then(|commit| commit.lag),
        "checkpoints": status.checkpoints.iter().map(|(batch, at)| json!({"batch": batch.0, "time_us": at})).collect::<Vec<_>>(),
    })
}
