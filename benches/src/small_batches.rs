//! 100 thousand one-row batches over few keys: the last must cost what the first cost, in time and memory.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::args::Settings;
use crate::data;
use crate::engine::{self, Engine, json_table, run_directory, size_bytes};
use crate::process::Process;
use crate::table::{Table, bytes, count};
use crate::tail::Tail;
use crate::{Result, Verdict};

const KEYS: u64 = 100;
const POLL: Duration = Duration::from_millis(5);
/// More than this between the first tenth and the last is not flat.
const FLAT: f64 = 1.3;

/// What is known at a moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at_s: f64,
    cpu_s: f64,
    batches: u64,
    rss_bytes: u64,
    state_bytes: u64,
}

/// Measures and prints.
///
/// # Errors
/// Where the engine fails.
pub fn run(settings: &Settings, engine: &Engine) -> Result<Verdict> {
    let rows = settings.sized(100_000, 5_000);
    let input = data::keyed(settings, KEYS, rows)?;
    let dir = run_directory(settings, "small-batches")?;
    let output = dir.path().join("out.ndjson");
    let sql = format!(
        "{}{}INSERT INTO answer SELECT k, count(*) AS cnt FROM event GROUP BY k;\n",
        json_table("event", "k BIGINT, v BIGINT", &input.path, ""),
        json_table("answer", "k BIGINT, cnt BIGINT", &output, ", 'sink.layout' = 'append'"),
    );
    let arguments = ["--trigger", "available-now", "--max-batch-rows", "1"];
    let mut process = engine.start(dir.path(), &sql, &arguments)?;
    let samples = watch(&mut process, &output, dir.path(), engine.timeout())?;
    let usage = process.wait(engine.timeout())?;

    let mut table = Table::new(
        &format!("{} batches of one row, count per key, {KEYS} keys", count(rows)),
        &["tenth that ends at", "ms a batch", "CPU us a batch", "rss", "state and log on disk"],
    );
    let shares = [0.1, 0.5, 1.0];
    let tenths: Vec<_> = shares.iter().filter_map(|share| tenth(&samples, rows, *share)).collect();
    for (share, (tenth, sample)) in shares.iter().zip(&tenths) {
        let cells = [format!("{:.0} %", share * 100.0), format!("{:.3}", tenth.ms), format!("{:.1}", tenth.cpu_us)];
        table.row([&cells[..], &[bytes(sample.rss_bytes), bytes(sample.state_bytes)]].concat());
    }
    table.print();
    let [(first, at_first), .., (last, at_last)] = tenths.as_slice() else {
        return Err("too few samples: the run was over before it was seen".into());
    };
    let flat = |ratio: f64| if ratio <= FLAT { "flat" } else { "NOT flat" };
    for (what, last, first) in [
        ("time", last.ms, first.ms),
        ("CPU", last.cpu_us, first.cpu_us),
        ("memory", at_last.rss_bytes as f64, at_first.rss_bytes as f64),
    ] {
        let ratio = last / first.max(1e-9);
        println!("Last tenth over first: {what} {ratio:.2}x, {}.", flat(ratio));
    }
    println!("In all {:.1} s, {:.1} s of CPU, most memory {}.", usage.wall_s, usage.cpu_s, bytes(usage.rss_bytes_max));
    let answered = samples.last().map_or(0, |sample| sample.batches);
    if answered != rows {
        println!("WRONG: {answered} rows were answered, there are {rows}.");
        return Ok(Verdict::Wrong);
    }
    Ok(Verdict::Right)
}

/// Samples until the process ends. A batch is one row, and one row is one `+I` or `+U` in the output.
fn watch(process: &mut Process, output: &Path, dir: &Path, timeout: Duration) -> Result<Vec<Sample>> {
    let deadline = Instant::now() + timeout;
    let mut tail = Tail::open(output, process, timeout)?;
    let (mut samples, mut batches, mut state_bytes) = (Vec::<Sample>::new(), 0, 0);
    let mut sized = Instant::now() - Duration::from_secs(1);
    loop {
        let at_s = process.started().elapsed().as_secs_f64();
        // The memory of a process that has just ended is gone: its last known one stands for it.
        let known = samples.last().map_or((0.0, 0), |sample| (sample.cpu_s, sample.rss_bytes));
        let (cpu_s, rss_bytes) = process.cpu_s().zip(process.rss_bytes()).unwrap_or(known);
        let ended = process.ended()?.is_some();
        for line in tail.lines()? {
            batches += u64::from(is_new(&line)?);
        }
        if ended || sized.elapsed() > Duration::from_millis(500) {
            (state_bytes, sized) = (size_bytes(&engine::state(dir)), Instant::now());
        }
        samples.push(Sample { at_s, cpu_s, batches, rss_bytes, state_bytes });
        if ended {
            return Ok(samples);
        }
        if Instant::now() > deadline {
            return Err(format!("not done within {} s: {batches} batches", timeout.as_secs()).into());
        }
        std::thread::sleep(POLL);
    }
}

fn is_new(line: &str) -> Result<bool> {
    let row: Value = serde_json::from_str(line).map_err(|e| format!("{line}: {e}"))?;
    Ok(matches!(row.get("op").and_then(Value::as_str), Some("+I" | "+U") | None))
}

/// What a batch cost over a tenth of the stream.
#[derive(Clone, Copy, Debug)]
struct Tenth {
    ms: f64,
    cpu_us: f64,
}

/// The tenth of the stream that ends at `share`, and the sample there.
fn tenth(samples: &[Sample], rows: u64, share: f64) -> Option<(Tenth, Sample)> {
    let reached = |share: f64| {
        let batches = (rows as f64 * share) as u64;
        samples.iter().find(|sample| sample.batches >= batches.max(1)).copied()
    };
    // Without the start-up: the first tenth begins with the first answer.
    let (from, to) = (reached(share - 0.1)?, reached(share)?);
    let batches = to.batches.checked_sub(from.batches).filter(|n| *n > 0)? as f64;
    let (ms, cpu_us) = ((to.at_s - from.at_s) * 1e3 / batches, (to.cpu_s - from.cpu_s) * 1e6 / batches);
    Some((Tenth { ms, cpu_us }, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_is_timed_between_its_ends() {
        // Ten batches a second at first, five in the second half.
        let at = |batches: u64| if batches <= 50 { batches as f64 / 10.0 } else { 5.0 + (batches - 50) as f64 / 5.0 };
        let samples: Vec<_> = (0..=100)
            .map(|batches| Sample {
                at_s: at(batches),
                cpu_s: batches as f64 / 1e6,
                batches,
                rss_bytes: batches,
                state_bytes: 0,
            })
            .collect();
        let (first, _) = tenth(&samples, 100, 0.1).unwrap();
        let (last, sample) = tenth(&samples, 100, 1.0).unwrap();
        assert!((first.ms - 100.0).abs() < 1e-6 && (last.ms - 200.0).abs() < 1e-6, "{first:?} {last:?}");
        assert!((last.cpu_us - 1.0).abs() < 1e-6, "{last:?}");
        assert_eq!(sample.rss_bytes, 100);
        assert!(tenth(&samples, 1000, 1.0).is_none(), "a stream that was not read to its end");
    }

    #[test]
    fn only_new_rows_are_batches() {
        assert!(is_new("{\"op\":\"+I\",\"k\":1}").unwrap() && is_new("{\"op\":\"+U\",\"k\":1}").unwrap());
        assert!(!is_new("{\"op\":\"-U\",\"k\":1}").unwrap());
    }
}
