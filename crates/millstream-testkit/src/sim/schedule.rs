//! One seed, one life of a query: crashes, faults and restarts, until it has come to its end; compared with the
//! uninterrupted run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millstream_core::batch::{Account, BatchId, Dropped};
use millstream_core::disk::Disk;
use millstream_core::log::{read_dropped, read_status};
use millstream_core::query::{
    Query, QueryConfig, QueryHandle, QuerySource, QueryStatus, Retention, RetryPolicy, Trigger,
};
use millstream_core::sink::Guarantee;
use millstream_core::source::Limit;
use millstream_core::{Error, ErrorKind, Result};

use super::{DiskFaults, Fate, Platter, Process, Random, SimClock, SimDisk, World};
use crate::memory::{
    ASKED, Event, MemoryRunner, MemorySink, MemorySource, Outside, POISON, SinkFaults, SinkStore, SourceFaults,
    SourceStore,
};

/// What a query under simulation reads and how it runs. Each process of it is made from this.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The sources, by name.
    pub sources: Vec<(String, SourceStore)>,
    /// How the query runs; its directory is on the simulated disk.
    pub config: QueryConfig,
    /// How far the watermark is behind the newest event.
    pub delay_us: i64,
    /// The longest that a run takes, in simulated milliseconds.
    pub slow_ms: u64,
    /// How often sources fail.
    pub source_faults: SourceFaults,
    /// How often the sink fails.
    pub sink_faults: SinkFaults,
    /// The tables outside that are asked for every key, where any are.
    pub outside: Option<Outside>,
}

/// What can be seen from outside when a query has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The rows of the sink, sorted.
    pub rows: Vec<String>,
    /// The account.
    pub totals: Vec<Account>,
    /// The dropped rows, sorted.
    pub dropped: Vec<Dropped>,
}

/// A query, its disk and its sink, in a world where everything can go wrong.
#[derive(Debug)]
pub struct Life {
    /// What is run.
    pub scenario: Scenario,
    /// The world.
    pub world: World,
    /// The disk.
    pub platter: Platter,
    /// The sink.
    pub sink: SinkStore,
    /// What happened, for a person who has the seed.
    pub diary: Vec<String>,
    clock: Arc<SimClock>,
}

impl Life {
    /// A life that has not begun. It needs a tokio runtime whose time is paused.
    pub fn new(scenario: Scenario, seed: u64, guarantee: Guarantee) -> Self {
        Self {
            scenario,
            world: World::new(seed),
            platter: Platter::default(),
            sink: SinkStore::new(guarantee),
            diary: Vec::new(),
            clock: Arc::new(SimClock::start()),
        }
    }

    /// Where the log lies on the simulated disk.
    pub fn dir(&self) -> PathBuf {
        self.scenario.config.dir.clone()
    }

    /// The disk as this process sees it.
    pub fn disk(&self, process: &Process) -> Arc<dyn Disk> {
        Arc::new(SimDisk::new(&self.platter, process))
    }

    /// The query as this process runs it.
    pub fn query(&self, process: &Process) -> Query {
        let scenario = &self.scenario;
        let sources = || {
            let source = |(name, store): &(String, SourceStore)| QuerySource {
                name: name.clone(),
                source: Arc::new(MemorySource::of(store, process, scenario.source_faults)),
                event_time: true,
            };
            scenario.sources.iter().map(source).collect::<Vec<_>>()
        };
        let disk = self.disk(process);
        let runner = MemoryRunner::new(sources(), scenario.delay_us)
            .checkpointed(disk.clone(), scenario.config.dir.join("state"))
            .of(process, scenario.slow_ms);
        let runner = match &scenario.outside {
            Some(outside) => runner.asking(outside),
            None => runner,
        };
        Query {
            config: scenario.config.clone(),
            sources: sources(),
            runner: Box::new(runner),
            sink: Box::new(MemorySink::of(&self.sink, process, scenario.sink_faults)),
            disk,
            clock: self.clock.clone(),
        }
    }

    /// Starts a process.
    pub async fn start(&self) -> (Process, Result<QueryHandle>) {
        let process = self.world.boot();
        let query = self.query(&process);
        (process, query.start().await)
    }

    /// Runs a process until it ends, whatever its end is.
    pub async fn run(&mut self) -> Result<QueryStatus> {
        let (_, handle) = self.start().await;
        let done = match handle {
            Ok(handle) => handle.wait().await,
            Err(error) => Err(error),
        };
        self.diary.push(match &done {
            Ok(status) => format!("ended: {:?}", status.state),
            Err(error) => format!("died at step {}: {error}", self.world.steps()),
        });
        done
    }

    /// The power fails, of the machine and of the sink.
    pub fn lose_power(&mut self) {
        let process = self.world.boot();
        self.platter.lose_power(&process);
        self.sink.lose_power(&process);
        self.diary.push("power lost".into());
    }

    /// What can be seen from outside.
    ///
    /// # Errors
    /// What can't be read, an account that doesn't add up, and rows that the log doesn't know.
    pub fn answer(&self) -> Result<Answer> {
        let answer = self.unchecked_answer()?;
        let disk = SimDisk::new(&self.platter, &self.world.boot());
        let logged = read_status(&disk, &self.dir())?.map_or(0, |status| status.rows_out);
        if answer.rows.len() as u64 != logged {
            return Err(Error::bug(format!("{} rows in the sink, {logged} in the log", answer.rows.len())));
        }
        Ok(answer)
    }

    /// What can be seen from outside, of a sink that may have rows twice.
    ///
    /// # Errors
    /// What can't be read, and an account that doesn't add up.
    pub fn unchecked_answer(&self) -> Result<Answer> {
        let disk = SimDisk::new(&self.platter, &self.world.boot());
        let status = read_status(&disk, &self.dir())?.ok_or_else(|| Error::bug("there is no log"))?;
        let mut dropped: Vec<_> =
            read_dropped(&disk, &self.dir(), BatchId(0))?.into_iter().map(|(_, row)| row).collect();
        dropped.sort_by(|a, b| (&a.source, &a.partition, a.place).cmp(&(&b.source, &b.partition, b.place)));
        for account in &status.totals {
            let named = dropped.iter().filter(|row| row.source == account.source).count() as u64;
            if !account.balances() || named != account.rejected + account.late {
                return Err(Error::corrupt(format!("{account:?} doesn't add up, with {named} dropped rows")));
            }
        }
        Ok(Answer { rows: comparable(self.sink.rows()), totals: status.totals, dropped })
    }
}

/// Rows without what depends on when it was asked: that a batch is answered once is a matter of its digest, which the
/// query checks when it runs the batch again.
fn comparable(rows: Vec<String>) -> Vec<String> {
    let cut = |row: String| match row.split_once(ASKED) {
        Some((before, after)) => {
            let key = after.split_whitespace().next().unwrap_or_default();
            format!("{before}{ASKED} {key}")
        }
        None => row,
    };
    let mut rows: Vec<_> = rows.into_iter().map(cut).collect();
    rows.sort();
    rows
}

/// Runs something in a runtime whose time is paused: it passes only when everybody waits.
///
/// # Errors
/// As what is run; or the runtime's own.
pub fn simulate<T>(life: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.map_err(|e| Error::bug("no runtime").caused_by(e))?.block_on(life)
}

/// A scenario of this seed: one or two sources of one to three partitions, with ties, late, malformed and poisonous
/// rows, cut and checkpointed in every way.
pub fn scenario(seed: u64) -> Scenario {
    let random = &mut Random::new(seed);
    let sources = 1 + random.below(2);
    let sources = (0..sources).map(|n| {
        let partitions = 1 + random.below(3);
        let partitions = (0..partitions).map(|p| (format!("p{p}").into(), events(random)));
        (format!("s{n}"), SourceStore::bounded(partitions.collect::<Vec<_>>()))
    });
    let sources = sources.collect();
    let mut config = QueryConfig::new("simulated", "/log");
    config.incarnation = Some("5b2c7a52-4f2d-4c0e-9d53-0c9f6a1f6b11".into());
    config.limit = Limit { rows: 1 + random.below(9), bytes: 1 << 20 };
    config.trigger =
        random.pick(Trigger::Continuous, &[Trigger::AvailableNow, Trigger::Interval(Duration::from_millis(3))]);
    config.checkpoint_work = Duration::from_millis(random.pick(0, &[1, 5, 1 << 20]));
    let segment = 300 + random.below(6000);
    config.retention = Retention { log_segment_bytes: segment, dropped_bytes: 1 << 20 };
    let give_up_after = Duration::from_secs(random.pick(300, &[1]));
    config.retry = RetryPolicy { first: Duration::from_millis(50), max: Duration::from_secs(1), give_up_after };
    Scenario {
        sources,
        config,
        delay_us: random.below(25) as i64,
        slow_ms: random.pick(0, &[3]),
        source_faults: SourceFaults::default(),
        sink_faults: SinkFaults::default(),
        outside: random.chance(500).then(Outside::default),
    }
}

fn events(random: &mut Random) -> Vec<Event> {
    let rows = random.below(16);
    let mut time = 0;
    let mut event = |_| {
        time += random.below(6) as i64;
        match random.below(40) {
            0 => return Event::Malformed(format!("no event {time}")),
            1 => return Event::row(time, "k", POISON),
            _ => {}
        }
        let ts = time - random.pick(0, &[0, 0, 0, 9, 30]);
        Event::row(ts, format!("k{}", random.below(3)), random.below(100) as i64)
    };
    (0..rows).map(&mut event).collect()
}

/// What a scenario answers when nothing goes wrong.
///
/// # Errors
/// Why it doesn't.
pub fn uninterrupted(scenario: &Scenario) -> Result<Answer> {
    let scenario =
        Scenario { source_faults: SourceFaults::default(), sink_faults: SinkFaults::default(), ..scenario.clone() };
    simulate(async {
        let mut life = Life::new(scenario, 0, Guarantee::ExactlyOnce);
        life.run().await?;
        life.answer()
    })
}

/// What may go wrong in a schedule beside crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// What a query must survive: then the answer is the uninterrupted one.
    Survivable,
    /// Bits flip too: then a clear error is as good, if nothing is lost or doubled.
    BitFlips,
}

/// How a schedule came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Came {
    /// Processes that died.
    pub deaths: u64,
    /// The query refused to go on, with a clear error.
    pub refused: bool,
}

/// More deaths than a schedule has.
const DEATHS_MAX: u64 = 10;

/// Runs the schedule of a seed.
///
/// # Errors
/// What was not as promised, with everything that had happened.
pub fn schedule(seed: u64, harm: Harm) -> Result<Came> {
    let scenario = scenario(seed);
    let reference = uninterrupted(&scenario).map_err(|e| e.at(format_args!("seed {seed}, uninterrupted")))?;
    let released = scenario.sources.iter().map(|(name, store)| (name.clone(), store.partitions()));
    // The uninterrupted run has released its input: this one gets the same rows afresh.
    let fresh = released.map(|(name, partitions)| (name, SourceStore::bounded(partitions))).collect();
    simulate(async move {
        let mut life = Life::new(Scenario { sources: fresh, ..scenario }, seed, Guarantee::ExactlyOnce);
        let came = live(&mut life, seed, harm, &reference).await;
        came.map_err(|e| e.at(format_args!("seed {seed}, {harm:?}\n{}\n", life.diary.join("\n"))))
    })
}

async fn live(life: &mut Life, seed: u64, harm: Harm, reference: &Answer) -> Result<Came> {
    let random = &mut Random::new(seed ^ 0xdead);
    let mut came = Came::default();
    let deaths = random.below(DEATHS_MAX);
    loop {
        let last = came.deaths >= deaths;
        if last {
            life.world.fail_disks(DiskFaults::default());
            (life.scenario.sink_faults, life.scenario.source_faults) = Default::default();
            life.scenario.config.retry.give_up_after = Duration::from_secs(300);
        } else {
            let rare = |random: &mut Random| random.pick(0, &[0, 5, 30]);
            life.world.fail_disks(DiskFaults { write: rare(random), sync: rare(random) });
            life.scenario.sink_faults =
                SinkFaults { before: 10 * rare(random), after: 10 * rare(random), slow: 10 * rare(random) };
            life.scenario.source_faults = SourceFaults { away: 5 * rare(random) };
        }
        let process = life.world.boot();
        if !last {
            let fate = random.pick(Fate::DieBefore, &[Fate::DieAfter]);
            let window = random.pick(12, &[60, 200]);
            life.world.die_at(random.below(window), fate);
        }
        let query = life.query(&process);
        let done = match query.start().await {
            Ok(handle) => handle.wait().await,
            Err(error) => Err(error),
        };
        match done {
            Ok(status) => {
                life.diary.push(format!("ended: {:?}", status.state));
                if last {
                    break;
                }
            }
            Err(error) => {
                life.diary.push(format!("{:?} at step {}: {error}", error.kind(), life.world.steps()));
                check_error(life, &error, harm, reference)?;
                if last {
                    return Ok(Came { refused: true, ..came });
                }
            }
        }
        came.deaths += 1;
        if random.chance(400) {
            life.lose_power();
        }
        if harm == Harm::BitFlips && random.chance(300) {
            let flipped = life.platter.flip_a_bit(&process);
            life.diary.push(format!("flipped {flipped:?}"));
        }
    }
    let answer = match life.answer() {
        // The flipped bit lies where only a reader of the log meets it; in the last record of dropped rows it looks
        // like a torn end, and shows as an account that doesn't add up.
        Err(error) if harm == Harm::BitFlips && error.kind() == ErrorKind::Corrupt => {
            nothing_doubled(life, reference)?;
            return Ok(Came { refused: true, ..came });
        }
        answer => answer?,
    };
    same(&answer, reference, harm)?;
    Ok(came)
}

/// An error that a process may die of.
fn check_error(life: &Life, error: &Error, harm: Harm, reference: &Answer) -> Result<()> {
    nothing_doubled(life, reference)?;
    let expected = life.world.is_dead()
        || match error.kind() {
            // A disk that failed; a sink or a source that stayed away.
            ErrorKind::Config | ErrorKind::Sink | ErrorKind::Retry => true,
            // A flipped bit in the last record of answers looks like a torn end: the batch is asked anew.
            ErrorKind::Corrupt => harm == Harm::BitFlips,
            ErrorKind::Diverged => harm == Harm::BitFlips && life.scenario.outside.is_some(),
            _ => false,
        };
    if expected { Ok(()) } else { Err(Error::bug(format!("a process died of {:?}: {error}", error.kind()))) }
}

/// Whatever happened: a reader sees rows of the answer, none of them twice.
fn nothing_doubled(life: &Life, reference: &Answer) -> Result<()> {
    let mut left: BTreeMap<String, i64> = BTreeMap::new();
    reference.rows.iter().for_each(|row| *left.entry(row.clone()).or_default() += 1);
    for row in comparable(life.sink.rows()) {
        let left = left.entry(row.clone()).or_default();
        *left -= 1;
        if *left < 0 {
            return Err(Error::bug(format!("the row \"{row}\" is in the sink once more than in the answer")));
        }
    }
    Ok(())
}

fn same(answer: &Answer, reference: &Answer, harm: Harm) -> Result<()> {
    let differs = |what: &str, is: String, was: String| {
        Err(Error::bug(format!("{what} differ from the uninterrupted run:\n  {is}\n  where it has\n  {was}")))
    };
    if answer.rows != reference.rows {
        return differs("rows", format!("{:?}", answer.rows), format!("{:?}", reference.rows));
    }
    if answer.totals != reference.totals {
        return differs("accounts", format!("{:?}", answer.totals), format!("{:?}", reference.totals));
    }
    // A flipped bit in the last record of dropped rows looks like a torn end.
    if answer.dropped != reference.dropped && harm == Harm::Survivable {
        return differs("dropped rows", format!("{:?}", answer.dropped), format!("{:?}", reference.dropped));
    }
    Ok(())
}
