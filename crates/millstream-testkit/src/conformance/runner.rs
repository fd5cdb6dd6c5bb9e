//! The promises of [`millstream_core::runner::Runner`].

use std::task::{Context, Waker};

use millstream_core::batch::{BatchId, Dropped, Intent};
use millstream_core::digest::Digest;
use millstream_core::query::QuerySource;
use millstream_core::query::intend::{Offered, SourcePositions, advance, intend, share, worth_running};
use millstream_core::runner::{Outcome, Probe, ProbeTime, Runner, Task};
use millstream_core::source::Limit;
use millstream_core::watermark::Timeline;
use millstream_core::{ErrorKind, Result};

use super::promise;

/// A runner and the bounded sources that it reads.
#[derive(Debug)]
pub struct RunnerCase<R> {
    /// The runner, without state.
    pub runner: R,
    /// What it reads, in the order in which the query names them. The data doesn't change during the check.
    pub sources: Vec<QuerySource>,
}

/// More batches than any test's data needs.
const BATCHES_MAX: u64 = 10_000;

/// What a batch gave, as far as a replay must give it again.
#[derive(Clone, Debug, PartialEq)]
struct Answer {
    digest: Digest,
    rows: u64,
    account: Vec<millstream_core::batch::Account>,
    watermarks:
        std::collections::BTreeMap<String, std::collections::BTreeMap<millstream_core::batch::PartitionId, i64>>,
    dropped: Vec<Dropped>,
}

/// One batch of the uninterrupted run.
struct Step {
    intent: Intent,
    before: Timeline,
    answer: Answer,
}

/// Checks a runner. `fresh` makes it again, with the same storage for its checkpoints; each one is dropped before the
/// next is made. The data has no row on which an expression fails.
///
/// Checked, for batches of 1, 3 and 50 rows: the account balances and names what was dropped; the same batches give
/// the same answers in another runner, after a run that was discarded, after one whose future was dropped, and after a
/// restore from each checkpoint; a prefix of a batch leaves the state alone; `used_row` counts the rows that are used.
///
/// # Errors
/// The first broken promise, or what the runner itself answered.
pub async fn check<F>(fresh: F) -> Result<()>
where
    F: Fn() -> Result<RunnerCase<Box<dyn Runner>>>,
{
    for rows in [1, 3, 50] {
        let place = format!("with {rows} rows a batch");
        check_cut(&fresh, Limit { rows, bytes: 1 << 40 }).await.map_err(|e| e.at(place))?;
    }
    Ok(())
}

async fn check_cut<F>(fresh: &F, limit: Limit) -> Result<()>
where
    F: Fn() -> Result<RunnerCase<Box<dyn Runner>>>,
{
    let steps = uninterrupted(fresh()?, limit).await?;
    replay_with_disturbances(fresh()?, &steps).await.map_err(|e| e.at("run again"))?;
    // Each checkpoint that is taken here is restored later: with many batches, only some of them.
    let every = (steps.len() / 8).max(1);
    let mut runner = fresh()?.runner;
    if runner.state().is_none() {
        return Ok(());
    }
    let mut manifests = Vec::new();
    for (n, step) in steps.iter().enumerate() {
        run(&mut *runner, step, "the same task").await?;
        runner.install();
        if n % every == 0
            && let Some(state) = runner.state()
        {
            let manifest = state.checkpoint(step.intent.batch)?.await?;
            manifests.push((n, manifest));
            let kept: Vec<_> = manifests.iter().map(|(_, manifest)| manifest.clone()).collect();
            if let Some(state) = runner.state() {
                state.retain(&kept)?;
            }
        }
    }
    drop(runner);
    for (n, manifest) in &manifests {
        let mut runner = fresh()?.runner;
        if let Some(state) = runner.state() {
            state.restore(manifest).await?;
        }
        for step in steps.iter().skip(n + 1) {
            run(&mut *runner, step, &format!("after a restore of batch {}", n + 1)).await?;
            runner.install();
        }
    }
    a_foreign_manifest_is_refused(&mut *fresh()?.runner, &steps).await
}

async fn a_foreign_manifest_is_refused(runner: &mut dyn Runner, steps: &[Step]) -> Result<()> {
    let Some(state) = runner.state() else { return Ok(()) };
    let refused = state.restore("no manifest of this runner").await;
    promise(
        matches!(&refused, Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Query)),
        "a manifest that is none is ErrorKind::Corrupt",
        || format!("{refused:?}"),
    )?;
    // The loop then begins with an older one, or anew.
    for step in steps.iter().take(3) {
        run(runner, step, "after a restore that was refused").await?;
        runner.install();
    }
    Ok(())
}

/// Runs everything once, and writes down what was run and what it gave.
async fn uninterrupted(case: RunnerCase<Box<dyn Runner>>, limit: Limit) -> Result<Vec<Step>> {
    let RunnerCase { mut runner, sources } = case;
    let limit = share(limit, sources.len());
    let mut timeline = Timeline::new(sources.iter().map(|s| (s.name.as_str(), s.event_time)));
    let mut positions = SourcePositions::new();
    let mut steps = Vec::new();
    for n in 1..=BATCHES_MAX {
        let mut offered = Vec::new();
        for source in &sources {
            let from = positions.get(&source.name).cloned().unwrap_or_default();
            let offer = source.source.offer(&from, limit).await?;
            offered.push(Offered { source: source.name.clone(), offer, ..Offered::default() });
        }
        let intent = intend(BatchId(n), 1_700_000_000_000_000 + n as i64, &timeline, &positions, offered)?;
        if !worth_running(&intent, &timeline) {
            break;
        }
        let outcome = runner
            .run(Task { intent: &intent, timeline: &timeline, left_out: &[], probe: None, answers: None })
            .await?;
        runner.install();
        let before = timeline.clone();
        timeline.advance(&intent, &outcome.watermarks);
        advance(&mut positions, &intent);
        let answer = answer(&intent, outcome)?;
        steps.push(Step { intent, before, answer });
    }
    promise(timeline.ended(), "bounded sources come to their end", || format!("{timeline:?}"))?;
    Ok(steps)
}

/// Checks what an outcome must always be.
fn answer(intent: &Intent, outcome: Outcome) -> Result<Answer> {
    let names: Vec<_> = outcome.account.iter().map(|a| &a.source).collect();
    let wanted: Vec<_> = intent.sources.iter().map(|s| &s.source).collect();
    promise(names == wanted, "the account has every source, in the order of the intent", || format!("{names:?}"))?;
    for account in &outcome.account {
        promise(account.balances(), "read = used + rejected + late", || format!("{account:?}"))?;
        let dropped = outcome.dropped.iter().filter(|d| d.source == account.source).count() as u64;
        promise(dropped == account.rejected + account.late, "every row that is not used is named", || {
            format!("{dropped} dropped rows, but {account:?}")
        })?;
    }
    let schema = outcome.output.schema.fields();
    let fits = outcome.output.batches.iter().all(|b| b.schema_ref().fields() == schema);
    promise(fits, "every batch of an output has its schema", || format!("{schema:?}"))?;
    let mut dropped = outcome.dropped;
    dropped.sort_by(|a, b| (&a.source, &a.partition, a.place).cmp(&(&b.source, &b.partition, b.place)));
    Ok(Answer {
        digest: Digest::of(&outcome.output.batches)?,
        rows: outcome.output.rows(),
        account: outcome.account,
        watermarks: outcome.watermarks,
        dropped,
    })
}

fn task(step: &Step) -> Task<'_> {
    Task { intent: &step.intent, timeline: &step.before, left_out: &[], probe: None, answers: None }
}

/// Runs a step, and compares.
async fn run(runner: &mut dyn Runner, step: &Step, when: &str) -> Result<()> {
    let again = answer(&step.intent, runner.run(task(step)).await?)?;
    promise(again == step.answer, "the same task from the same state gives the same answer", || {
        format!("{when}, batch {}: {again:?} instead of {:?}", step.intent.batch, step.answer)
    })
}

async fn replay_with_disturbances(case: RunnerCase<Box<dyn Runner>>, steps: &[Step]) -> Result<()> {
    let mut runner = case.runner;
    for (n, step) in steps.iter().enumerate() {
        match n % 3 {
            0 => {
                run(&mut *runner, step, "before a discard").await?;
                runner.discard();
            }
            1 => {
                let mut started = runner.run(task(step));
                let _ = started.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                drop(started);
                runner.discard();
            }
            _ => prefixes(&mut *runner, step).await?,
        }
        run(&mut *runner, step, "after a disturbance").await?;
        runner.install();
    }
    Ok(())
}

async fn prefixes(runner: &mut dyn Runner, step: &Step) -> Result<()> {
    let used: u64 = step.answer.account.iter().map(|a| a.used).sum();
    for time in [ProbeTime::Before, ProbeTime::After] {
        for rows in [0, used / 2, used] {
            let outcome = runner.run(Task { probe: Some(Probe { rows, time }), ..task(step) }).await?;
            runner.discard();
            let seen: u64 = outcome.account.iter().map(|a| a.used).sum();
            promise(seen == rows, "a probe runs over so many used rows", || format!("{seen} instead of {rows}"))?;
            let (watermarks, whole) = (&outcome.watermarks, &step.answer.watermarks);
            let after = time == ProbeTime::Before || watermarks == whole;
            promise(after, "a probe has the event time that it asks for", || format!("{watermarks:?}, not {whole:?}"))?;
        }
    }
    if let Some(last) = used.checked_sub(1) {
        let row = runner.used_row(task(step), last).await?;
        runner.discard();
        promise(row.is_some(), "used_row counts the rows that are used", || format!("no row {last} of {used}"))?;
    }
    let beyond = runner.used_row(task(step), used).await?;
    runner.discard();
    promise(beyond.is_none(), "used_row answers None past the last", || format!("row {used} of {used}: {beyond:?}"))
}
