//! What the law is held for: a query, rows, a way of cutting them, and where the process ends and is started again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::data::{self, Kind, Row};
use crate::model;
use crate::queries::{Late, Query};
use crate::slt;
use crate::stream::Prepared;
use crate::yardstick::{self, Interruption, LIMIT, Random, Rows};

/// How many inputs each query is asked over, and how often each of them is streamed.
const INPUTS: u64 = 2;
const LIVES: u64 = 4;

/// The rows of the tables.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// The partitions of `t`.
    pub partitions: Vec<Vec<Row>>,
    /// Those of `u`; none where the query has no use for it.
    pub others: Vec<Vec<Row>>,
}

impl Input {
    pub fn random(random: &mut Random, query: &Query) -> Self {
        let [t, u] = query.kinds;
        let partitions = data::partitions(random, t);
        let others = if query.tables == 2 { data::partitions(random, u) } else { vec![] };
        Self { partitions, others }
    }

    /// The rows that take part, and how many are late.
    pub fn split(&self, late: Late) -> (Self, u64) {
        let (partitions, left_out) = model::split(&self.partitions, late);
        let (others, others_left_out) = model::split(&self.others, late);
        (Self { partitions, others }, left_out + others_left_out)
    }

    pub fn tables(&self) -> [&[Vec<Row>]; 2] {
        [&self.partitions, &self.others]
    }

    fn partition(&mut self, number: usize) -> &mut Vec<Row> {
        let own = self.partitions.len();
        if number < own { &mut self.partitions[number] } else { &mut self.others[number - own] }
    }

    fn longest(&self) -> usize {
        self.partitions.iter().chain(&self.others).map(Vec::len).max().unwrap_or(0)
    }
}

/// How rows are cut into batches, and what ends the process on the way.
#[derive(Clone, Debug)]
pub struct Life {
    pub seed: u64,
    /// Rows at the most that an offer takes of a partition; `None`: everything at once.
    pub rows_max: Option<u64>,
    /// Rows at the most that a batch holds.
    pub limit: u64,
    /// Whether there is a checkpoint after every batch; otherwise only where the query is stopped.
    pub often: bool,
    /// After each of them the query is started again.
    pub interruptions: Vec<Interruption>,
}

impl Life {
    pub fn random(random: &mut Random) -> Self {
        let seed = random.next() >> 1;
        let rows_max = *random.pick(&[Some(1), Some(2), Some(4), Some(7), Some(30), None]);
        let limit = *random.pick(&[5, 20, LIMIT.rows, LIMIT.rows, LIMIT.rows]);
        let interruptions = (0..random.below(4) / 2 + random.below(2)).map(|_| match random.below(2) {
            0 => Interruption::Stop { batches: random.below(12) },
            _ => Interruption::Kill { batches: random.below(12), steps: random.below(40) },
        });
        let interruptions = interruptions.collect();
        Self { seed, rows_max, limit, often: random.one_in(2), interruptions }
    }
}

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    pub query: Query,
    pub input: Input,
    pub life: Life,
}

impl Case {
    pub fn random(seed: u64, query: impl Fn(&mut Random) -> Query) -> Self {
        let mut random = Random::new(seed);
        let query = query(&mut random);
        let input = Input::random(&mut random, &query);
        Self { query, input, life: Life::random(&mut random) }
    }

    /// What is wrong, if the law does not hold.
    pub async fn broken(&self) -> Option<String> {
        let prepared = match Prepared::new(&self.query).await {
            Ok(prepared) => prepared,
            Err(error) => return Some(format!("the query is refused: {error}")),
        };
        match expected(&prepared, &self.query, &self.input).await {
            Ok(expected) => broken(&prepared, &self.input, &self.life, &expected).await,
            Err(why) => Some(why),
        }
    }

    /// The same failure with as few rows as can be found in a bounded number of tries.
    async fn shrunk(mut self) -> Self {
        let mut tries = 0;
        let mut size = self.input.longest();
        while size > 0 {
            for partition in 0..self.input.partitions.len() + self.input.others.len() {
                let mut at = 0;
                while at < self.input.partition(partition).len() && tries < 300 {
                    tries += 1;
                    let mut smaller = self.clone();
                    let end = (at + size).min(smaller.input.partition(partition).len());
                    smaller.input.partition(partition).drain(at..end);
                    let broken = smaller.broken().await;
                    // A row whose coming was left out cannot go.
                    if broken.is_some_and(|why| !why.contains("the batch answer failed")) {
                        self = smaller;
                    } else {
                        at += size;
                    }
                }
            }
            size /= 2;
        }
        self
    }
}

/// What the stream is to add up to, and how many rows are to be late.
struct Expected {
    rows: Rows,
    late: u64,
}

async fn expected(prepared: &Prepared, query: &Query, input: &Input) -> Result<Expected, String> {
    let (accepted, late) = input.split(query.late);
    match prepared.in_batch(accepted.tables()).await {
        Ok(rows) => Ok(Expected { rows, late }),
        Err(error) => Err(format!("the batch answer failed: {error}")),
    }
}

async fn broken(prepared: &Prepared, input: &Input, life: &Life, expected: &Expected) -> Option<String> {
    match prepared.streamed(input, life).await {
        Err(error) => Some(format!("the stream failed: {error}")),
        Ok(answer) if answer.late != expected.late => {
            Some(format!("{} rows were late, the model says {}", answer.late, expected.late))
        }
        Ok(answer) if answer.rejected > 0 => Some(format!("{} rows failed", answer.rejected)),
        Ok(answer) => yardstick::difference(&expected.rows, &answer.rows),
    }
}

/// How many cases were run, and what they were.
#[derive(Debug, Default)]
struct Account {
    queries: AtomicU64,
    of_changes: AtomicU64,
    cases: AtomicU64,
    restarts: AtomicU64,
    failures: AtomicU64,
}

/// Holds the law for this many generated queries, each over several inputs, cuts and restarts.
pub fn hold(what: &str, query: impl Fn(&mut Random) -> Query + Sync, queries: u64) {
    let seeds = match crate::number("MILLSTREAM_LAW_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..crate::number("MILLSTREAM_LAW_CASES").map_or(queries, |cases| cases.div_ceil(2 * INPUTS * LIVES)),
    };
    let (account, next, enough) = (Account::default(), AtomicU64::new(seeds.start), AtomicBool::new(false));
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        while !enough.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            if let Some((case, why)) = runtime.block_on(held(seed, &query, &account)) {
                let (text, why) = runtime.block_on(async {
                    let case = case.shrunk().await;
                    (slt::file(&case).await, case.broken().await.unwrap_or(why))
                });
                eprintln!("seed {seed} breaks the law:\n\n{text}\n{why}\n");
                enough.store(account.failures.fetch_add(1, Ordering::Relaxed) >= 9, Ordering::Relaxed);
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    let ran = format!(
        "{what}: {} cases of {} queries, {} of them over tables that change, with {} restarts",
        count(&account.cases),
        count(&account.queries),
        count(&account.of_changes),
        count(&account.restarts),
    );
    // Past what the test harness captures: it is what a person wants to know of a test that passes.
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{ran}\n"));
    assert_eq!(count(&account.failures), 0, "seeds break the law; {ran}");
}

/// The first case of a seed that fails, and why.
async fn held(seed: u64, query: impl Fn(&mut Random) -> Query, account: &Account) -> Option<(Case, String)> {
    let mut random = Random::new(seed);
    let mut query = query(&mut random);
    let mut prepared = Prepared::new(&query).await;
    // Not everything has a meaning over rows that change.
    if query.kinds != [Kind::Rows; 2] && prepared.as_ref().is_err_and(|e| e.to_string().contains("no meaning here")) {
        query.kinds = [Kind::Rows; 2];
        prepared = Prepared::new(&query).await;
    }
    let add = |of: &AtomicU64, n: usize| {
        of.fetch_add(n as u64, Ordering::Relaxed);
    };
    add(&account.queries, 1);
    add(&account.of_changes, usize::from(query.kinds != [Kind::Rows; 2]));
    for _ in 0..INPUTS {
        let input = Input::random(&mut random, &query);
        let life = Life::random(&mut random);
        let failed = |life: Life, why: String| Some((Case { query: query.clone(), input: input.clone(), life }, why));
        let prepared = match &prepared {
            Ok(prepared) => prepared,
            Err(error) => return failed(life, format!("the query is refused: {error}")),
        };
        let expected = match expected(prepared, &query, &input).await {
            Ok(expected) => expected,
            Err(why) => return failed(life, why),
        };
        for number in 0..LIVES {
            let life = if number == 0 { life.clone() } else { Life::random(&mut random) };
            add(&account.cases, 1);
            add(&account.restarts, life.interruptions.len());
            if let Some(why) = broken(prepared, &input, &life, &expected).await {
                return failed(life, why);
            }
        }
    }
    None
}
