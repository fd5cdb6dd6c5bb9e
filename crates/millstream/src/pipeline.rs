//! A file of SQL as queries that run: compiled before anything starts, started together.
//!
//! Each INSERT is a query of its own: it has its own batches, its own log below the pipeline's state
//! directory, and its own account.

mod live;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use millstream_core::clock::SystemClock;
use millstream_core::disk::{RealDisk, SharedDisk};
use millstream_core::log::Epoch;
use millstream_core::query::{Query, QueryConfig, QueryHandle, QuerySource, Stopper, Trigger};
use millstream_core::sink::{Guarantee, OutputKind, Sink};
use millstream_core::source::{Limit, SourceTable};
use millstream_core::{Error, Result};
use millstream_io::TableSpec;
use millstream_state::StateStore;

pub use live::LiveQuery;

use crate::plan::{Compiled, EmitMode, compile};
use crate::runner::{Input, LocalRunner};
use crate::sql::{Connectors, Emit, Planner};

/// The queries of a file.
#[derive(Debug)]
pub struct Pipeline {
    /// The file's name without its ending.
    pub name: String,
    /// Where the state lies unless somebody says otherwise.
    pub state_dir: PathBuf,
    /// Its INSERTs, in order.
    pub queries: Vec<PipelineQuery>,
}

/// One INSERT, compiled.
#[derive(Debug)]
pub struct PipelineQuery {
    /// Its name: that of the table it inserts into, numbered where several do.
    pub name: String,
    /// Its text.
    pub sql: String,
    /// What runs.
    pub compiled: Compiled,
    /// The table it inserts into.
    pub sink: TableSpec,
}

/// How a pipeline runs.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The directory of logs and checkpoints; the pipeline's own where it is not given.
    pub state_dir: Option<PathBuf>,
    /// When a batch begins.
    pub trigger: Trigger,
    /// How much a batch may hold.
    pub limit: Limit,
    /// Go on where a batch, run again, gives other rows than were published.
    pub accept_divergence: bool,
    /// Go on from the state of a query with another name or plan.
    pub adopt: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        let limit = Limit { rows: 65_536, bytes: 64 << 20 };
        Self { state_dir: None, trigger: Trigger::Continuous, limit, accept_divergence: false, adopt: false }
    }
}

/// Queries that run.
#[derive(Debug)]
pub struct Running {
    /// By name, in the order of the file.
    pub queries: Vec<(String, QueryHandle)>,
}

/// The state directory of a file of SQL: `.millstream/<name of the file>` beside where the process was started.
pub fn default_state_dir(file: &Path) -> PathBuf {
    let name = file.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_else(|| "pipeline".into());
    Path::new(".millstream").join(name)
}

/// The log directories below a state directory, by query name.
///
/// # Errors
/// [`millstream_core::ErrorKind::Config`] where the directory can't be read.
pub fn query_dirs(state_dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let unreadable = |e| Error::config(format!("{} can't be read", state_dir.display())).caused_by(e);
    let mut dirs = vec![];
    for entry in std::fs::read_dir(state_dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if entry.path().is_dir() {
            dirs.push((entry.file_name().to_string_lossy().into_owned(), log_dir(&entry.path())));
        }
    }
    dirs.sort();
    Ok(dirs)
}

fn log_dir(query_dir: &Path) -> PathBuf {
    query_dir.join("log")
}

impl Pipeline {
    /// Reads, plans and compiles a file. Relative paths in it are relative to the working directory.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] with the place in the SQL, or what its tables' connectors say.
    pub async fn load(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file)
            .map_err(|e| Error::config(format!("{} can't be read", file.display())).caused_by(e))?;
        Self::from_sql(&file.display().to_string(), &text, Path::new("."), default_state_dir(file)).await
    }

    /// Plans and compiles SQL that was read from `name`.
    ///
    /// # Errors
    /// As [`Pipeline::load`].
    pub async fn from_sql(name: &str, text: &str, base_dir: &Path, state_dir: PathBuf) -> Result<Self> {
        let mut planner = planner(base_dir)?;
        let planned = planner.plan(name, text)?;
        let mut queries = vec![];
        for query in planned.queries {
            // EXPLAIN INSERT asks what would run.
            let (Some(sink), false) = (query.sink.clone(), query.explain) else { continue };
            let emit = emit_mode(query.emit);
            let compiled = compile(query.plan.clone(), emit, planner.state()).await.map_err(|r| r.at(&query))?;
            queries.push(PipelineQuery { name: query.name.clone(), sql: query.sql.clone(), compiled, sink });
        }
        if queries.is_empty() {
            return Err(Error::query(format!("{name} has no INSERT INTO .. SELECT: there is nothing to run")));
        }
        Ok(Self { name: name.to_string(), state_dir, queries })
    }

    /// Starts every query. They go on where their logs end.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Owned`] where another process runs one of them; then none is left running.
    pub async fn start(self, options: &RunOptions) -> Result<Running> {
        let state_dir = options.state_dir.clone().unwrap_or(self.state_dir);
        let mut running = Running { queries: vec![] };
        for query in self.queries {
            let name = query.name.clone();
            match query.start(&state_dir, options).await {
                Ok(handle) => running.queries.push((name, handle)),
                Err(error) => {
                    running.stop().await.ok();
                    return Err(error.at(format!("query {name}")));
                }
            }
        }
        Ok(running)
    }
}

/// A planner that knows the connectors of this crate.
///
/// # Errors
/// [`millstream_core::ErrorKind::Bug`] where the session can't be set up.
pub fn planner(base_dir: &Path) -> Result<Planner> {
    Planner::new(Arc::new(BuiltIn), base_dir)
}

/// The connectors that need no service.
#[derive(Clone, Copy, Debug, Default)]
pub struct BuiltIn;

impl Connectors for BuiltIn {
    fn source(&self, spec: &TableSpec) -> Result<Arc<dyn SourceTable>> {
        millstream_io::source::source_table(spec)
    }

    fn infer(&self, path: &str, base_dir: &Path) -> Result<TableSpec> {
        millstream_io::source::infer_table(path, base_dir)
    }
}

/// What `EMIT ..` of the SQL asks for.
pub fn emit_mode(emit: Option<Emit>) -> EmitMode {
    match emit {
        None => EmitMode::Default,
        Some(Emit::Changes) => EmitMode::Changes,
        Some(Emit::OnWindowClose) => EmitMode::OnWindowClose,
        Some(Emit::Final) => EmitMode::Final,
    }
}

impl PipelineQuery {
    /// The sink, not yet opened.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where its options don't fit.
    pub fn sink(&self) -> Result<Box<dyn Sink>> {
        let schema = Arc::clone(&self.compiled.output);
        millstream_io::sink::sink(&self.sink, &self.name, self.compiled.kind, schema)
            .map_err(|e| e.at(format!("table {}", self.sink.name)))
    }

    /// What a reader of the sink can count on.
    ///
    /// # Errors
    /// As [`PipelineQuery::sink`].
    pub fn guarantee(&self) -> Result<Guarantee> {
        Ok(self.sink()?.guarantee())
    }

    async fn start(self, state_dir: &Path, options: &RunOptions) -> Result<QueryHandle> {
        let sink = self.sink()?;
        let Self { name, sql, compiled, .. } = self;
        ReadyQuery { name, sql, compiled, sink }.start(state_dir, options).await
    }
}

/// A compiled query with its sink, from SQL or from a program.
pub(crate) struct ReadyQuery {
    /// Its name, and that of its directory.
    pub(crate) name: String,
    /// What it computes, for a person who finds its log.
    pub(crate) sql: String,
    /// What runs.
    pub(crate) compiled: Compiled,
    /// Where the answer goes.
    pub(crate) sink: Box<dyn Sink>,
}

impl ReadyQuery {
    /// Starts it, with its log and its state below `state_dir`.
    pub(crate) async fn start(self, state_dir: &Path, options: &RunOptions) -> Result<QueryHandle> {
        let dir = state_dir.join(&self.name);
        let disk: SharedDisk = Arc::new(RealDisk);
        let states = StateStore::new(Arc::clone(&disk), dir.join("state"));
        let mut config = QueryConfig::new(&self.name, log_dir(&dir));
        config.epoch = self.epoch();
        config.limit = options.limit;
        config.trigger = options.trigger;
        config.accept_divergence = options.accept_divergence;
        config.adopt = options.adopt;
        config.idle_timeouts = idle_timeouts(&self.compiled);
        let sources = query_sources(&self.compiled);
        let runner = Box::new(LocalRunner::new(&self.compiled, states)?);
        let clock = Arc::new(SystemClock);
        Query { config, sources, runner, sink: self.sink, disk, clock }.start().await
    }

    fn epoch(&self) -> Epoch {
        let kind = match self.compiled.kind {
            OutputKind::Append => "append",
            OutputKind::Changelog => "changelog",
        };
        // The meaning of the plan: what it reads and how it is computed, not how it was optimized.
        let plan = format!("{kind} {}", self.compiled.logical.display_indent());
        Epoch {
            sql: self.sql.clone(),
            plan: format!("{:016x}", xxhash_rust::xxh3::xxh3_64(plan.as_bytes())),
            engine: env!("CARGO_PKG_VERSION").to_string(),
            time_zone: "UTC".to_string(),
            options: BTreeMap::new(),
            partitions: 1,
        }
    }
}

fn idle_timeouts(compiled: &Compiled) -> BTreeMap<String, Duration> {
    compiled.inputs.iter().filter_map(|i| Some((i.edge.source.clone(), i.idle_timeout?))).collect()
}

fn query_sources(compiled: &Compiled) -> Vec<QuerySource> {
    let source = |input: &Input| QuerySource {
        name: input.edge.source.clone(),
        source: Arc::clone(&input.source),
        event_time: input.edge.event_time.is_some(),
    };
    compiled.inputs.iter().map(source).collect()
}

impl Running {
    /// Things that stop the queries from elsewhere.
    pub fn stoppers(&self) -> Vec<Stopper> {
        self.queries.iter().map(|(_, handle)| handle.stopper()).collect()
    }

    /// Finishes the batches, checkpoints, commits, and closes the sinks.
    ///
    /// # Errors
    /// As [`Running::wait`].
    pub async fn stop(self) -> Result<()> {
        self.stoppers().iter().for_each(Stopper::stop);
        self.wait().await
    }

    /// Waits until every query has ended, was stopped, or has failed. When one fails, the others stop cleanly.
    ///
    /// # Errors
    /// The first failure.
    pub async fn wait(self) -> Result<()> {
        let stoppers = self.stoppers();
        let waits = self.queries.into_iter().map(|(name, handle)| {
            let stoppers = &stoppers;
            async move {
                let done = handle.wait().await.map_err(|e| e.at(format!("query {name}")));
                if done.is_err() {
                    stoppers.iter().for_each(Stopper::stop);
                }
                done.map(drop)
            }
        });
        futures::future::join_all(waits).await.into_iter().collect()
    }
}
