//! Event-in to answer-on-disk: one line is appended to a followed file, the answer is awaited in a growing
//! file, the next line follows.
//!
//! The clock starts before the write of the event. *Seen*: a reader of the sink's file has the whole line.
//! A sink writes before it syncs, so a second round lets the reader sync the file itself before the clock is
//! stopped: *durable* is an upper bound, a sync of the reader's own included where the engine was done.
//! Beside them, on the same file system, before and after: appending one line and `fdatasync`.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::args::Settings;
use crate::engine::{Engine, json_table, run_directory};
use crate::machine::{Pace, append_latencies_us};
use crate::process::Process;
use crate::stats::{Random, percentile};
use crate::table::{Table, against};
use crate::tail::Tail;
use crate::{Result, Verdict};

const P50_BUDGET_MS: f64 = 1.0;
const P99_BUDGET_MS: f64 = 5.0;
const WARM_UP: usize = 50;
/// An answer that takes longer is no latency, it is a fault.
const PATIENCE: Duration = Duration::from_secs(20);

/// When an answer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counts {
    /// When a reader has the whole line.
    Seen,
    /// When the reader has synced it too.
    Synced,
}

/// Measures and prints.
///
/// # Errors
/// Where the engine fails, or answers with another row.
pub fn run(settings: &Settings, engine: &Engine) -> Result<Verdict> {
    let events = settings.sized(2000, 200);
    let dir = run_directory(settings, "latency")?;
    let (input, output) = (dir.path().join("in.ndjson"), dir.path().join("out.ndjson"));
    let columns = "id BIGINT, v BIGINT";
    let sql = format!(
        "{}{}INSERT INTO answer SELECT id, v + 1 AS v FROM event;\n",
        json_table("event", columns, &input, ", 'source.monitor-interval' = '10 ms'"),
        json_table("answer", columns, &output, ", 'sink.layout' = 'append'"),
    );
    let mut paused = append_latencies_us(dir.path(), events / 2, Pace::Paused)?;
    let mut hurried = append_latencies_us(dir.path(), events / 2, Pace::BackToBack)?;
    let mut driver = Driver { file: File::create(&input)?, next: 0, random: Random::new(7) };
    let mut process = engine.start(dir.path(), &sql, &["--trigger", &settings.trigger])?;
    driver.write()?;
    let mut tail = Tail::open(&output, &mut process, PATIENCE)?;
    driver.expect(&mut tail, &mut process)?;
    driver.round(WARM_UP, Pace::Paused, Counts::Seen, &mut tail, &mut process)?;
    let seen = driver.round(events, Pace::Paused, Counts::Seen, &mut tail, &mut process)?;
    let durable = driver.round(events, Pace::Paused, Counts::Synced, &mut tail, &mut process)?;
    let before = Instant::now();
    let together = driver.round(events, Pace::BackToBack, Counts::Seen, &mut tail, &mut process)?;
    let rate = events as f64 / before.elapsed().as_secs_f64();
    process.terminate(engine.timeout())?;
    paused.extend(append_latencies_us(dir.path(), events / 2, Pace::Paused)?);
    hurried.extend(append_latencies_us(dir.path(), events / 2, Pace::BackToBack)?);

    let title = format!("One-row batches, file to growing file: {events} events a line");
    let mut table = Table::new(&title, &["ms from event-in", "p50", "p90", "p99", "most", "p50 < 1", "p99 < 5"]);
    let verdict = |us: &[f64], share: f64, budget: f64| against(percentile(us, share) / 1000.0, budget);
    for (name, us, judged) in [
        ("answer seen in the file", &seen, true),
        ("answer synced by its reader", &durable, true),
        ("answer seen, back to back", &together, true),
        ("one-line append + fdatasync", &paused, false),
        ("the same, back to back", &hurried, false),
    ] {
        let ms = |share: f64| format!("{:.3}", percentile(us, share) / 1000.0);
        let mut cells = vec![name.to_string(), ms(0.5), ms(0.9), ms(0.99), ms(1.0)];
        if judged {
            cells.extend([verdict(us, 0.5, P50_BUDGET_MS), verdict(us, 0.99, P99_BUDGET_MS)]);
        }
        table.row(cells);
    }
    table.print();
    let over = |share: f64| percentile(&durable, share) / percentile(&paused, share).max(1e-9);
    println!("Synced answer over the machine's own append: p50 {:.1}x, p99 {:.1}x.", over(0.5), over(0.99));
    println!("Back to back: {rate:.0} batches/s. The budgets are for a machine whose append takes 0.2 and 4 ms.");
    Ok(Verdict::Right)
}

struct Driver {
    file: File,
    next: u64,
    random: Random,
}

impl Driver {
    fn write(&mut self) -> Result<()> {
        // One write for one line: a follower never sees half of it.
        let line = format!("{{\"id\":{0},\"v\":{0}}}\n", self.next);
        Ok(self.file.write_all(line.as_bytes())?)
    }

    fn expect(&mut self, tail: &mut Tail, process: &mut Process) -> Result<()> {
        let lines = tail.next_lines(process, PATIENCE)?;
        let [line] = lines.as_slice() else {
            return Err(format!("{} answers to one event: {}", lines.len(), lines.join(" ")).into());
        };
        check(line, self.next)?;
        self.next += 1;
        Ok(())
    }

    /// Microseconds from event to answer, of as many events.
    fn round(
        &mut self,
        events: usize,
        pace: Pace,
        counts: Counts,
        tail: &mut Tail,
        process: &mut Process,
    ) -> Result<Vec<f64>> {
        let mut latencies = Vec::with_capacity(events);
        for _ in 0..events {
            pace.wait(&mut self.random);
            let before = Instant::now();
            self.write()?;
            self.expect(tail, process)?;
            if counts == Counts::Synced {
                tail.sync()?;
            }
            latencies.push(before.elapsed().as_secs_f64() * 1e6);
        }
        Ok(latencies)
    }
}

/// The answer to event `id` is `{"id": id, "v": id + 1}`.
fn check(line: &str, id: u64) -> Result<()> {
    let row: Value = serde_json::from_str(line)?;
    let number = |name: &str| row.get(name).and_then(Value::as_u64);
    if number("id") == Some(id) && number("v") == Some(id + 1) {
        return Ok(());
    }
    Err(format!("the answer to event {id} is {line}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_another_event_is_wrong() {
        assert!(check("{\"v\":4,\"id\":3}", 3).is_ok());
        assert!(check("{\"id\":2,\"v\":3}", 3).is_err());
        assert!(check("{\"id\":3}", 3).is_err());
    }
}
