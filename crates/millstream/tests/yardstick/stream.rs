//! A planned query, answered in batch by DataFusion, and run by the real loop until its input ends.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::StreamExt;
use millstream::batch::answer;
use millstream::changelog::from_ops;
use millstream::core::batch::Account;
use millstream::core::clock::SystemClock;
use millstream::core::disk::{RealDisk, SharedDisk};
use millstream::core::log::read_status;
use millstream::core::query::{Query, QueryConfig, QueryHandle, QuerySource};
use millstream::core::sink::{Guarantee, Marker, Output, OutputKind, Owner, Permit, Sink};
use millstream::core::source::Limit;
use millstream::pipeline::asked;
use millstream::plan::{Compiled, compile};
use millstream::runner::LocalRunner;
use millstream::sql::{PlannedQuery, Planner};
use millstream::state::StateStore;
use millstream::{Error, Result};

use super::answer::{Floats, Rows, add};

/// What a batch holds, where nothing else says so.
pub const LIMIT: Limit = Limit { rows: 64 << 10, bytes: 64 << 20 };

/// What DataFusion answers at once.
pub async fn batch_answer(planner: &Planner, planned: &PlannedQuery, floats: Floats) -> Result<Rows> {
    let mut rows = Rows::new();
    let failed = |e| planned.error(&e);
    let mut batches = answer(planned.plan.clone(), planner.state(), &BTreeMap::new()).await.map_err(failed)?;
    while let Some(batch) = batches.next().await {
        add(&mut rows, &batch.map_err(failed)?, floats, None);
    }
    rows.retain(|_, n| *n != 0);
    Ok(rows)
}

/// A query, ready to run.
///
/// # Errors
/// Why it is refused.
pub async fn compiled(planner: &Planner, planned: &PlannedQuery) -> Result<Compiled> {
    compile(planned.plan.clone(), asked(planned), planner.state()).await.map_err(|r| r.at(planned))
}

/// What a query has published, whatever died on the way.
#[derive(Clone, Debug, Default)]
pub struct Published(Arc<Mutex<(Vec<Output>, Option<Marker>)>>);

impl Published {
    /// Rows and changes in the order in which they were published.
    pub fn outputs(&self) -> Vec<Output> {
        self.0.lock().unwrap().0.clone()
    }
}

/// What was published, added up.
pub fn added_up(published: &Published, floats: Floats) -> Result<Rows> {
    let mut rows = Rows::new();
    for output in published.outputs() {
        for batch in &output.batches {
            match output.kind {
                OutputKind::Append => add(&mut rows, batch, floats, None),
                OutputKind::Changelog => {
                    let weighted = from_ops(batch)?;
                    let weight = weighted.column(weighted.num_columns() - 1).clone();
                    let columns: Vec<usize> = (0..weighted.num_columns() - 1).collect();
                    add(&mut rows, &weighted.project(&columns)?, floats, Some(&weight));
                }
            }
        }
    }
    rows.retain(|_, n| *n != 0);
    Ok(rows)
}

/// What ends a run before its input does.
#[derive(Clone, Copy, Debug)]
pub enum Interruption {
    /// A clean stop after so many batches.
    Stop { batches: u64 },
    /// The process dies after so many batches, and so many steps of the one it is at.
    Kill { batches: u64, steps: u64 },
}

/// A run of a query.
pub struct Run<'a> {
    pub planner: &'a Planner,
    pub planned: &'a PlannedQuery,
    /// Where its log and its state are.
    pub dir: &'a Path,
    pub config: QueryConfig,
    pub published: &'a Published,
    /// What the log and the state are written to.
    pub disk: SharedDisk,
    /// The query, where it has been compiled already: its operators remember nothing yet.
    pub compiled: Option<Compiled>,
    /// Whether rows may fail.
    pub fails: bool,
}

impl<'a> Run<'a> {
    /// A run with everything as it usually is.
    pub fn new(planner: &'a Planner, planned: &'a PlannedQuery, dir: &'a Path, published: &'a Published) -> Self {
        let config = QueryConfig { limit: LIMIT, ..QueryConfig::new("q", dir.join("log")) };
        Self { planner, planned, dir, config, published, disk: Arc::new(RealDisk), compiled: None, fails: false }
    }

    /// Runs until the input ends, or is interrupted. What was killed is not finished, and not cleaned up.
    ///
    /// A kill wants a thread without a runtime.
    pub async fn start(&self) -> Result<QueryHandle> {
        let compiled = match &self.compiled {
            Some(compiled) => compiled.clone(),
            None => compiled(self.planner, self.planned).await?,
        };
        let disk = Arc::clone(&self.disk);
        let states = StateStore::new(Arc::clone(&disk), self.dir.join("state"));
        let sources = compiled.inputs.iter().map(|i| QuerySource {
            name: i.edge.source.clone(),
            source: Arc::clone(&i.source),
            event_time: i.edge.event_time.is_some(),
        });
        let query = Query {
            config: self.config.clone(),
            sources: sources.collect(),
            runner: Box::new(LocalRunner::new(&compiled, states)?),
            sink: Box::new(Collect(self.published.clone())),
            disk,
            clock: Arc::new(SystemClock),
        };
        query.start().await
    }

    /// What became of the rows of each source, by the log.
    pub fn accounts(&self) -> Result<Vec<Account>> {
        let status = read_status(self.disk.as_ref(), &self.dir.join("log"))?;
        let accounts = status.ok_or_else(|| Error::bug("the query left no log"))?.totals;
        match accounts.iter().find(|a| !a.balances() || a.rejected > 0 && !self.fails) {
            None => Ok(accounts),
            Some(account) => {
                Err(Error::bug(format!("every row is accounted for, and fails only where it may: {account:?}")))
            }
        }
    }

    /// Runs on a thread of its own, which dies with everything that runs there.
    pub fn killed(&self, batches: u64, steps: u64) -> Result<()> {
        let dead = || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|e| Error::bug("no runtime").caused_by(e))?;
            let handle = runtime.block_on(async {
                let handle = self.start().await?;
                let mut seen = handle.progress().take(batches as usize);
                while seen.next().await.is_some() {}
                for _ in 0..steps {
                    tokio::task::yield_now().await;
                }
                Ok::<_, Error>(handle)
            })?;
            // IMPORTANT: the runtime first. A handle that is dropped stops its query cleanly.
            drop(runtime);
            drop(handle);
            Ok(())
        };
        std::thread::scope(|scope| scope.spawn(dead).join()).map_err(|_| Error::bug("the killed run panicked"))?
    }
}

/// Runs until the input ends, with an interruption first, if any; answers how many rows were late in all.
pub async fn ran(run: &Run<'_>, interruption: Option<Interruption>) -> Result<u64> {
    match interruption {
        Some(Interruption::Kill { batches, steps }) => {
            run.killed(batches, steps)?;
            return Ok(0);
        }
        Some(Interruption::Stop { batches }) => {
            let handle = run.start().await?;
            let mut seen = handle.progress().take(batches as usize);
            while seen.next().await.is_some() {}
            handle.stop().await?;
        }
        None => {
            run.start().await?.wait().await?;
        }
    }
    Ok(run.accounts()?.iter().map(|a| a.late).sum())
}

/// Keeps every output with its marker, as an exactly-once sink does.
struct Collect(Published);

#[async_trait]
impl Sink for Collect {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    async fn open(&mut self, owner: &Owner) -> Result<Option<Marker>> {
        let marker = self.0.0.lock().unwrap().1.clone();
        Ok(marker.filter(|m| m.owner.incarnation == owner.incarnation))
    }

    async fn publish(&mut self, permit: &Permit, output: &Output) -> Result<()> {
        // A place where a process can die on either side of what is stored.
        tokio::task::yield_now().await;
        {
            let (outputs, marker) = &mut *self.0.0.lock().unwrap();
            let last = marker.as_ref().map(|m| m.batch);
            if last != permit.previous() {
                let message = format!("{:?} after {:?}, but {last:?} is there", permit.marker(), permit.previous());
                return Err(Error::bug(message));
            }
            outputs.push(output.clone());
            *marker = Some(permit.marker().clone());
        }
        tokio::task::yield_now().await;
        Ok(())
    }
}
