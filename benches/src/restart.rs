//! Killed with 1 GB of state: how long until the next batch is answered?
//!
//! Long keys, almost every one new, are counted; a row is answered only where its key came before (`HAVING
//! count(*) > 1`), so the output stays small, and an answer of 2 proves that the state was there. Three kills:
//! in the middle of the load, right after its end, and after a rest in which the engine can put itself in
//! order. The clock runs from the start of the process to a new answer in the sink.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::args::Settings;
use crate::data::{self, REPEAT_EVERY, long_key};
use crate::engine::{self, Engine, json_table, run_directory, size_bytes};
use crate::process::Process;
use crate::table::{Table, against, bytes, count};
use crate::tail::{growing_file, still_running};
use crate::{Result, Verdict};

const BUDGET_S: f64 = 5.0;
const REST: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(1);

/// Measures and prints.
///
/// # Errors
/// Where the engine fails.
pub fn run(settings: &Settings, engine: &Engine) -> Result<Verdict> {
    let rows = settings.sized(8_000_000, 400_000);
    let load = data::state_load(settings, rows)?;
    let dir = run_directory(settings, "restart")?;
    let inputs = dir.path().join("in");
    std::fs::create_dir(&inputs)?;
    let linked = inputs.join("load.ndjson");
    std::fs::hard_link(&load.path, &linked).or_else(|_| std::fs::copy(&load.path, &linked).map(|_| ()))?;
    let probes = File::create(inputs.join("probes.ndjson"))?;
    let mut scene = Scene { settings, engine, dir: dir.path(), inputs, probes, probed: 0 };
    let mut table = Table::new(
        &format!("Restart after kill -9: count of {} keys of 100 bytes", count(rows)),
        &["killed", "state on disk", "rss", "s to the next answer", "budget", ""],
    );
    let loaded = rows / REPEAT_EVERY;

    let mut process = scene.start()?;
    let first = scene.answered(&mut process, 1)?;
    table.row(vec!["(first start, no state)".into(), String::new(), String::new(), format!("{first:.2}")]);
    scene.answered(&mut process, loaded * 9 / 10)?;
    let mut killed = scene.kill(&mut process)?;
    process = scene.start()?;
    let seconds = scene.answered(&mut process, killed.answers + 1)?;
    table.row(killed.row("at nine tenths of the load", seconds));

    scene.answered(&mut process, loaded)?;
    killed = scene.kill(&mut process)?;
    scene.probe()?;
    process = scene.start()?;
    let seconds = scene.answered(&mut process, killed.answers + 1)?;
    table.row(killed.row("right after the load", seconds));

    std::thread::sleep(REST);
    killed = scene.kill(&mut process)?;
    scene.probe()?;
    process = scene.start()?;
    let seconds = scene.answered(&mut process, killed.answers + 1)?;
    table.row(killed.row("after 5 s of rest", seconds));
    process.terminate(engine.timeout())?;
    table.print();
    println!("The files are in the page cache, as they are after a crash of a process.");
    scene.verify(loaded + scene.probed)
}

struct Scene<'a> {
    settings: &'a Settings,
    engine: &'a Engine,
    dir: &'a Path,
    inputs: PathBuf,
    probes: File,
    probed: u64,
}

/// What a killed process left.
struct Killed {
    answers: u64,
    state_bytes: u64,
    rss_bytes: u64,
}

impl Killed {
    fn row(&self, when: &str, seconds: f64) -> Vec<String> {
        vec![
            when.to_string(),
            bytes(self.state_bytes),
            bytes(self.rss_bytes),
            format!("{seconds:.2}"),
            format!("{BUDGET_S} s"),
            against(seconds, BUDGET_S),
        ]
    }
}

impl Scene<'_> {
    fn output(&self) -> PathBuf {
        self.dir.join("out.ndjson")
    }

    fn start(&self) -> Result<Process> {
        let sql = format!(
            "{}{}INSERT INTO answer SELECT k, count(*) AS cnt, sum(v) AS total FROM event GROUP BY k HAVING count(*) > 1;\n",
            json_table("event", "k VARCHAR, v BIGINT", &self.inputs, ", 'source.monitor-interval' = '10 ms'"),
            json_table("answer", "k VARCHAR, cnt BIGINT, total BIGINT", &self.output(), ", 'sink.layout' = 'append'"),
        );
        self.engine.start(self.dir, &sql, &["--trigger", &self.settings.trigger])
    }

    /// Seconds from the start of the process until there are as many answers.
    fn answered(&self, process: &mut Process, answers: u64) -> Result<f64> {
        let deadline = Instant::now() + self.engine.timeout();
        while self.answers()? < answers {
            still_running(process, deadline, &self.output())?;
            std::thread::sleep(POLL);
        }
        Ok(process.started().elapsed().as_secs_f64())
    }

    /// Whole lines of the output; it is small, and may become shorter when it is opened again.
    fn answers(&self) -> Result<u64> {
        let Some(file) = growing_file(&self.output()) else { return Ok(0) };
        Ok(std::fs::read(file)?.iter().filter(|byte| **byte == b'\n').count() as u64)
    }

    fn kill(&self, process: &mut Process) -> Result<Killed> {
        let rss_bytes = process.rss_bytes().unwrap_or(0);
        process.kill()?;
        Ok(Killed { answers: self.answers()?, state_bytes: size_bytes(&engine::state(self.dir)), rss_bytes })
    }

    /// Appends a row whose key came once, early in the load.
    fn probe(&mut self) -> Result<()> {
        writeln!(self.probes, "{{\"k\":\"{}\",\"v\":1}}", long_key(self.probed))?;
        self.probed += 1;
        Ok(())
    }

    /// Every repeated key was answered once, with both of its rows.
    fn verify(&self, expected: u64) -> Result<Verdict> {
        let text = match growing_file(&self.output()) {
            Some(file) => std::fs::read_to_string(file)?,
            None => String::new(),
        };
        match wrong(&text, expected)? {
            None => Ok(Verdict::Right),
            Some(what) => {
                println!("WRONG: {what}");
                Ok(Verdict::Wrong)
            }
        }
    }
}

fn wrong(text: &str, expected: u64) -> Result<Option<String>> {
    let mut keys = HashSet::new();
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).map_err(|e| format!("{line}: {e}"))?;
        let number = |name: &str| row.get(name).and_then(Value::as_i64);
        if number("cnt") != Some(2) || number("total") != Some(2) {
            return Ok(Some(format!("an answer without both of its rows: {line}")));
        }
        let key = row.get("k").and_then(Value::as_str).unwrap_or_default();
        if !keys.insert(key.to_string()) {
            return Ok(Some(format!("an answer came twice: {line}")));
        }
    }
    if keys.len() as u64 == expected {
        return Ok(None);
    }
    Ok(Some(format!("{} keys were answered, {expected} were repeated", keys.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_a_doubled_and_a_forgotten_row_are_seen() {
        let line = |key: &str, n: i64| format!("{{\"op\":\"+I\",\"k\":\"{key}\",\"cnt\":{n},\"total\":{n}}}\n");
        let both = [line("a", 2), line("b", 2)].concat();
        assert_eq!(wrong(&both, 2).unwrap(), None);
        assert!(wrong(&both, 3).unwrap().is_some());
        assert!(wrong(&[line("a", 2), line("a", 2)].concat(), 2).unwrap().is_some());
        assert!(wrong(&[line("a", 2), line("b", 3)].concat(), 2).unwrap().is_some());
    }
}
