//! Exactly once, for real: the binary is killed with SIGKILL, at random moments and at every durable step, started
//! again until its input is read, and what plain readers find is compared with an answer that this test works out
//! itself.
//!
//! `MILLSTREAM_KILLS` says how many kills at random moments (200), `MILLSTREAM_SEED` repeats a run.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on says where")]

mod cases;
mod data;
mod output;
mod process;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use millstream_core::disk::RealDisk;
use millstream_core::disk::step::{DIE_VARIABLE, FULL_VARIABLE};
use millstream_core::log::read_status;

use cases::{CASES, Case, Question, Source};
use data::{Expected, Line, Rng, difference};
use output::Kind;
use process::{Done, Millstream, Process, status};

const SIGKILL: i32 = 9;
/// Cases that run at the same time.
const THREADS: usize = 2;
/// For so long a case is killed at random moments, where nobody asks for a number of kills.
const CASE_TIME: Duration = Duration::from_secs(8);

fn seed() -> u64 {
    let asked = std::env::var("MILLSTREAM_SEED").ok().map(|text| text.parse().unwrap());
    let seed = asked.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
    println!("MILLSTREAM_SEED={seed}");
    eprintln!("MILLSTREAM_SEED={seed}");
    seed
}

#[test]
fn killed_at_random_moments_and_started_again_every_answer_is_there_exactly_once() {
    let asked = std::env::var("MILLSTREAM_KILLS").ok().map(|text| text.parse::<u64>().unwrap());
    let kills = asked.unwrap_or(200);
    // Who asks for a number gets it, however long it takes.
    let seed = seed();
    let share = kills.div_ceil(CASES.len() as u64);
    let done = on_threads(CASES, |i, case| {
        let mut rng = Rng(seed.wrapping_add(i as u64));
        let (mut kills, mut runs) = (0, 0);
        let until = asked.is_none().then(|| Instant::now() + CASE_TIME);
        while kills < share && until.is_none_or(|until| Instant::now() < until) {
            kills += episode(case, &mut rng, share - kills, until);
            runs += 1;
        }
        eprintln!("{}: {kills} kills in {runs} runs", case.name());
        kills
    });
    assert!(done.iter().all(|kills| *kills > 0), "a case was never killed: {done:?}");
}

/// Runs a case over one input until it has ended, killing it up to so often; answers how often.
fn episode(case: &Case, rng: &mut Rng, kills_max: u64, until: Option<Instant>) -> u64 {
    let lines = case.lines(rng, 6_000);
    let lab = Lab::new(case, lines);
    lab.case.write_input(lab.path(), &lab.lines);
    let mut kills = 0;
    std::thread::scope(|scope| {
        let growing = case.followed().then(|| {
            let (lab, mut rng) = (&lab, rng.clone());
            scope.spawn(move || lab.case.add(lab.path(), &lab.lines, &mut rng, Duration::from_millis(3)))
        });
        loop {
            let spent = kills >= kills_max || until.is_some_and(|until| Instant::now() > until);
            let all_read = case.followed() && lab.read() == lab.lines.len() as u64;
            if spent || all_read {
                lab.finish();
                break;
            }
            let mut process = lab.start();
            let moment = rng.below(8);
            if moment > 1 {
                // What was recorded has been run again, and new batches are being decided.
                let before = lab.intended();
                let all = lab.lines.len() as u64;
                process.until(|| lab.intended() > before || lab.read() == all);
            }
            std::thread::sleep(Duration::from_millis(rng.below(if moment > 1 { 60 } else { 150 })));
            if moment > 5 && !process.ended() {
                // A clean stop makes a checkpoint; half of them are killed in its midst.
                process.signal("TERM");
                std::thread::sleep(Duration::from_millis(rng.below(8)));
                if rng.once_in(2) {
                    process.wait().ok();
                    continue;
                }
            }
            let done = process.kill();
            if done.code().is_none() {
                kills += 1;
                continue;
            }
            // It had ended before.
            done.ok();
            if lab.ended() {
                break;
            }
        }
        if let Some(growing) = growing {
            growing.join().unwrap();
        }
    });
    // However it ended: once more, to the end of what is there by now.
    lab.finish();
    lab.check(&format!("after {kills} kills"));
    let status = status(lab.path(), "state");
    let count = |name: &str| status["account"][0][name].as_u64().unwrap();
    assert_eq!(count("read"), lab.lines.len() as u64, "{status}");
    assert_eq!(count("read"), count("used") + count("rejected") + count("late"), "{status}");
    assert_eq!(status["stopped"], true, "{status}");
    kills
}

#[test]
fn killed_at_each_durable_step_and_again_while_it_recovers_nothing_is_lost_or_doubled() {
    let seed = seed();
    let cases = [
        Case { source: Source::Growing, question: Question::Tumbling, sink: Kind::Append },
        Case { source: Source::Growing, question: Question::Sliding, sink: Kind::Json },
        Case { source: Source::Growing, question: Question::Grouped, sink: Kind::Changelog },
        Case { source: Source::Growing, question: Question::Division, sink: Kind::Parquet },
        Case { source: Source::Directory, question: Question::Filter, sink: Kind::Append },
    ];
    let steps = on_threads(&cases, |i, case| {
        let mut rng = Rng(seed.wrapping_add(i as u64));
        let skip = if i < 2 { 1 } else { 3 };
        at_each_step(case, &mut rng, skip, |lab, rng, step| {
            let died = lab.up_to_here(&[(DIE_VARIABLE, step)]);
            if died.code() == Some(0) {
                return Fate::Survived;
            }
            assert!(killed(&died), "step {step}: {died:?}");
            let again = lab.up_to_here(&[(DIE_VARIABLE, 1 + rng.below(40))]);
            assert!(killed(&again) || again.code() == Some(0), "after step {step}: {again:?}");
            Fate::Hit
        })
    });
    eprintln!("steps that a run takes: {steps:?}");
    assert!(steps.iter().all(|steps| *steps > 10), "the steps are not counted: {steps:?}");
}

#[test]
fn a_disk_that_is_full_from_any_step_on_is_a_clear_error_and_with_room_again_nothing_is_lost() {
    let seed = seed();
    let cases = [
        Case { source: Source::Growing, question: Question::Tumbling, sink: Kind::Append },
        Case { source: Source::Growing, question: Question::Sliding, sink: Kind::Json },
    ];
    on_threads(&cases, |i, case| {
        let mut rng = Rng(seed.wrapping_add(i as u64));
        at_each_step(case, &mut rng, 4, |lab, _, step| {
            let failed = lab.up_to_here(&[(FULL_VARIABLE, step)]);
            if failed.code() == Some(0) {
                return Fate::Survived;
            }
            assert!(matches!(failed.code(), Some(4 | 7)), "full at step {step}: {failed:?}");
            assert!(failed.stderr.contains("make room"), "full at step {step}: {}", failed.stderr);
            Fate::Hit
        })
    });
}

enum Fate {
    Hit,
    Survived,
}

/// Lets `harm` do its worst to a run over some new lines at step 1, 2, 3 .. until a run doesn't get so far; after each
/// a run without harm must set everything right. Answers how many steps there were.
///
/// Up to `skip` - 1 steps are passed over each time, and more beyond what a test has time for.
fn at_each_step(case: &Case, rng: &mut Rng, skip: u64, mut harm: impl FnMut(&mut Lab, &mut Rng, u64) -> Fate) -> u64 {
    let mut lab = Lab::new(case, vec![]);
    lab.case.write_input(lab.path(), &[]);
    let (mut begin_ms, mut step, mut survived) = (0, 0, 0);
    loop {
        step += 1;
        let next_id = i64::try_from(lab.lines.len()).unwrap();
        let more = data::lines(rng, data::Syntax::Json, 60, next_id, &mut begin_ms);
        lab.case.add(lab.path(), &more, rng, Duration::ZERO);
        lab.lines.extend(more);
        let fate = harm(&mut lab, rng, step);
        lab.up_to_here(&[]).ok();
        lab.check(&format!("after step {step}"));
        // Not every run takes the same number of steps: one that gets through is no proof that all do.
        survived += u64::from(matches!(fate, Fate::Survived));
        if survived == 3 {
            return step;
        }
        // Beyond what a test has time for, steps are left out.
        step += rng.below(if step > 150 { skip + 8 } else { skip });
    }
}

/// A directory in which one pipeline runs over one input.
struct Lab {
    dir: tempfile::TempDir,
    case: Case,
    lines: Vec<Line>,
}

impl Lab {
    fn new(case: &Case, lines: Vec<Line>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("q.sql"), case.sql(lines.len())).unwrap();
        Self { dir, case: *case, lines }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn log(&self) -> PathBuf {
        self.path().join("state/answer/log")
    }

    fn command(&self, more: &[&str]) -> Millstream<'_> {
        let args = ["run", "q.sql", "--state", "state", "--max-batch-rows", "25", "--quiet"];
        Millstream::new(self.path(), &[&args, more].concat())
    }

    fn start(&self) -> Process {
        self.command(&[]).spawn()
    }

    /// Reads what is there, and stops.
    fn up_to_here(&self, env: &[(&str, u64)]) -> Done {
        let command = self.command(&["--trigger", "available-now"]);
        env.iter().fold(command, |command, (name, value)| command.env(name, value)).run()
    }

    /// The last batch that was decided.
    fn intended(&self) -> u64 {
        let status = read_status(&RealDisk, &self.log()).ok().flatten();
        status.and_then(|status| status.last_intent).map_or(0, |intent| intent.batch.0)
    }

    fn read(&self) -> u64 {
        let status = read_status(&RealDisk, &self.log()).ok().flatten();
        status.map_or(0, |status| status.totals.iter().map(|account| account.read).sum())
    }

    fn ended(&self) -> bool {
        let status = read_status(&RealDisk, &self.log()).ok().flatten();
        status.and_then(|status| status.stopped).is_some_and(|stopped| stopped.ended)
    }

    /// Runs until everything is read, and it has ended by itself or was asked to.
    fn finish(&self) {
        let all = self.lines.len() as u64;
        if !self.case.followed() || self.read() == all {
            self.up_to_here(&[]).ok();
            return;
        }
        // Where the file still grows, that takes until it doesn't.
        let mut process = self.start();
        process.until(|| self.read() == all);
        process.signal("TERM");
        process.wait().ok();
    }

    /// Exactly the answer is there, and the account adds up.
    fn check(&self, when: &str) {
        let expected = self.case.expected(&self.lines);
        if let Err(wrong) = self.compare(&expected) {
            let dir = self.path().with_extension("failed");
            std::fs::rename(self.path(), &dir).unwrap();
            panic!("{}: {when}: {wrong}\nit lies in {}", self.case.name(), dir.display());
        }
    }

    fn compare(&self, expected: &Expected) -> Result<(), String> {
        let found = output::rows(self.case.sink, &self.path().join(self.case.output()), self.case.columns())?;
        let (missing, surplus) = (difference(&expected.rows, &found), difference(&found, &expected.rows));
        if !missing.is_empty() || !surplus.is_empty() {
            return Err(format!("missing:\n{missing}too many:\n{surplus}"));
        }
        let status = read_status(&RealDisk, &self.log()).unwrap().unwrap();
        let [account] = status.totals.as_slice() else { return Err(format!("accounts: {:?}", status.totals)) };
        let counts = [account.read, account.used, account.rejected, account.late];
        let Expected { read, used, rejected, late, .. } = *expected;
        if counts != [read, used, rejected, late] || !account.balances() {
            return Err(format!("the account is {account:?}, and should be {:?}", [read, used, rejected, late]));
        }
        if self.ended() == self.case.followed() || status.stopped.is_none() {
            return Err(format!("it has not ended as it should: {:?}", status.stopped));
        }
        Ok(())
    }
}

fn killed(done: &Done) -> bool {
    use std::os::unix::process::ExitStatusExt;
    done.status.signal() == Some(SIGKILL)
}

/// Runs each case on one of a few threads; the answers are in the order of the cases.
fn on_threads<T: Send>(cases: &[Case], run: impl Fn(usize, &Case) -> T + Sync) -> Vec<T> {
    let (next, answers) = (Mutex::new(cases.iter().enumerate()), Mutex::new(vec![]));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let taken = next.lock().unwrap().next();
                    let Some((i, case)) = taken else { return };
                    let answer = run(i, case);
                    answers.lock().unwrap().push((i, answer));
                }
            });
        }
    });
    let mut answers = answers.into_inner().unwrap();
    answers.sort_by_key(|(i, _)| *i);
    answers.into_iter().map(|(_, answer)| answer).collect()
}
