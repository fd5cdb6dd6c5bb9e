//! A file of SQL as queries that run: compiled before anything starts, started together.
//!
//! Each INSERT is a query of its own: it has its own batches, its own log below the pipeline's state
//! directory, and its own account.

mod dead_letters;
pub(crate) mod identity;
mod live;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use millstream_core::clock::SystemClock;
use millstream_core::disk::{RealDisk, SharedDisk};
use millstream_core::log::{DroppedReaders, Epoch};
use millstream_core::query::{Query, QueryConfig, QueryHandle, QuerySource, Stopper, Trigger};
use millstream_core::sink::{Guarantee, OutputKind, Sink};
use millstream_core::{Error, Result};
use millstream_io::TableSpec;
use millstream_state::StateStore;

pub use live::LiveQuery;

use self::dead_letters::{DeadLetters, reads_dropped_rows};
use self::identity::{Location, check_name, has_one_writer};
use crate::plan::{Asked, Compiled, EmitMode, Lifetimes, compile};
use crate::runner::{Input, LocalRunner};
use crate::settings::Settings;
use crate::sql::{Connectors, Emit, PlannedQuery, Planner};

/// The queries of a file.
#[derive(Debug)]
pub struct Pipeline {
    /// The file's name without its ending.
    pub name: String,
    /// Where the state lies unless somebody says otherwise.
    pub state_dir: PathBuf,
    /// Its INSERTs, in order; those that read dropped rows last.
    pub queries: Vec<PipelineQuery>,
    /// What EXPLAIN asks about, compiled and not run: by name, in order.
    pub explained: Vec<(String, Compiled)>,
    dead_letters: Arc<DeadLetters>,
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
    /// What SET said before it.
    pub settings: Settings,
    connectors: Arc<dyn Connectors>,
}

/// How a pipeline runs.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// The directory of logs and checkpoints; the pipeline's own where it is not given.
    pub state_dir: Option<PathBuf>,
    /// When a batch begins; as `SET 'execution.trigger'` says where it is not given.
    pub trigger: Option<Trigger>,
    /// How many rows a batch may hold; as `SET 'batch.max-rows'` says where it is not given.
    pub max_batch_rows: Option<u64>,
    /// Partitions that are read and decoded at once; as `SET 'parallelism.default'` says where it is not given.
    pub parallelism: Option<usize>,
    /// Go on where a batch, run again, gives other rows than were published.
    pub accept_divergence: bool,
    /// Go on from the state of a query with another name or plan.
    pub adopt: bool,
}

/// Queries that run.
#[derive(Debug)]
pub struct Running {
    /// By name, in the order of the file.
    pub queries: Vec<(String, QueryHandle)>,
}

/// The state directory of a file of SQL: `.millstream/<name of the file>` below where the process was started.
pub fn default_state_dir(file: &Path) -> PathBuf {
    let name = file.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_else(|| "pipeline".into());
    Path::new(".millstream").join(name)
}

/// The state directory of a file of SQL, as its SET 'pipeline.name' says or by its name.
///
/// # Errors
/// [`millstream_core::ErrorKind::Config`] where the file can't be read; [`millstream_core::ErrorKind::Query`] where it
/// can't be parsed.
pub fn state_dir_of(file: &Path) -> Result<PathBuf> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| Error::config(format!("{} can't be read", file.display())).caused_by(e))?;
    let settings = crate::sql::settings_of(&file.display().to_string(), &text)?;
    Ok(named_state_dir(&settings, file))
}

fn named_state_dir(settings: &Settings, file: &Path) -> PathBuf {
    match settings.get("pipeline.name") {
        Some(name) => Path::new(".millstream").join(name),
        None => default_state_dir(file),
    }
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
    pub async fn load(file: &Path, connectors: Arc<dyn Connectors>) -> Result<Self> {
        let text = std::fs::read_to_string(file)
            .map_err(|e| Error::config(format!("{} can't be read", file.display())).caused_by(e))?;
        Self::from_sql(&file.display().to_string(), &text, Path::new("."), connectors).await
    }

    /// Plans and compiles SQL that was read from `name`.
    ///
    /// # Errors
    /// As [`Pipeline::load`].
    pub async fn from_sql(name: &str, text: &str, base_dir: &Path, connectors: Arc<dyn Connectors>) -> Result<Self> {
        let mut planner = Planner::new(Arc::clone(&connectors), base_dir)?;
        let dead_letters = Arc::new(DeadLetters::default());
        planner.catalog_mut().imply(Arc::clone(&dead_letters) as _);
        let planned = planner.plan(name, text)?;
        let (mut queries, mut explained): (Vec<PipelineQuery>, _) = (vec![], vec![]);
        // IMPORTANT: what reads dropped rows comes last, because it ends when the others do.
        let (last, first): (Vec<_>, Vec<_>) = planned.queries.into_iter().partition(|q| reads_dropped_rows(&q.plan));
        for query in first.into_iter().chain(last) {
            if reads_dropped_rows(&query.plan) && !query.explain {
                dead_letters.resolve(&queries).map_err(|e| query.error_at_word("FROM", e.message()))?;
            }
            let compiled = || compile(query.plan.clone(), asked(&query), planner.state());
            if query.explain {
                explained.push((query.name.clone(), compiled().await.map_err(|r| r.at(&query))?));
                continue;
            }
            let Some(sink) = query.sink.clone() else {
                return Err(query.error_at_word(
                    "SELECT",
                    "nobody would see the answer of a SELECT in a file that is run: write INSERT INTO a table before it, \
                     or ask with millstream sql",
                ));
            };
            check_name(&query.name).map_err(|e| query.error_at_word("INSERT", e.message()))?;
            let compiled = compiled().await.map_err(|r| r.at(&query))?;
            check_places(&sink, &compiled, &queries).map_err(|e| query.error_at_word("INTO", e.message()))?;
            let PlannedQuery { name, sql, settings, .. } = query.clone();
            let connectors = Arc::clone(&connectors);
            let running = PipelineQuery { name, sql, compiled, sink, settings, connectors };
            // Made only to be judged: it touches nothing before it is opened.
            running.sink().map_err(|e| query.error_of_sink(&e))?;
            queries.push(running);
        }
        if queries.is_empty() && explained.is_empty() {
            return Err(Error::query(format!("{name} has no INSERT INTO .. SELECT: there is nothing to run")));
        }
        if let Some(name) = planned.settings.get("pipeline.name") {
            check_name(name).map_err(|e| e.at("SET 'pipeline.name'"))?;
        }
        let state_dir = named_state_dir(&planned.settings, Path::new(name));
        Ok(Self { name: name.to_string(), state_dir, queries, explained, dead_letters })
    }

    /// Starts every query. They go on where their logs end.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Owned`] where another process runs one of them; then none is left running.
    pub async fn start(self, options: &RunOptions) -> Result<Running> {
        let state_dir = options.state_dir.clone().unwrap_or(self.state_dir);
        let mut running = Running { queries: vec![] };
        // IMPORTANT: all of them before the first one starts. What is wrong with the last must not be found out when the
        // others have written.
        let sinks = self.queries.iter().map(PipelineQuery::sink).collect::<Result<Vec<_>>>()?;
        for (query, sink) in self.queries.into_iter().zip(sinks) {
            let name = query.name.clone();
            self.dead_letters.feed(&query, &running.queries, &state_dir, query.config(&state_dir, options)?.trigger);
            let readers = self.dead_letters.readers(&name);
            match query.start(sink, readers, &state_dir, options).await {
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

/// What `EMIT ..` of the SQL asks for.
pub fn emit_mode(emit: Option<Emit>) -> EmitMode {
    match emit {
        None => EmitMode::Default,
        Some(Emit::Changes) => EmitMode::Changes,
        Some(Emit::OnWindowClose) => EmitMode::OnWindowClose,
        Some(Emit::Final) => EmitMode::Final,
    }
}

/// What the SQL asks of a query beside its plan: EMIT, `state.ttl` and hints.
pub fn asked(query: &PlannedQuery) -> Asked {
    let lifetimes = Lifetimes::new(query.settings.state_ttl_us(), query.hints.clone());
    Asked { emit: emit_mode(query.emit), lifetimes }
}

impl PipelineQuery {
    /// The sink, not yet opened.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where its options don't fit.
    pub fn sink(&self) -> Result<Box<dyn Sink>> {
        let schema = Arc::clone(&self.compiled.output);
        self.check_primary_key()?;
        self.connectors
            .sink(&self.sink, &self.name, self.compiled.kind, schema)
            .map_err(|e| e.at(format!("table {}", self.sink.name)))
    }

    /// A sink with a PRIMARY KEY keeps one row a key, so the rows of the answer must be told apart by it.
    fn check_primary_key(&self) -> Result<()> {
        let TableSpec { name, schema, primary_key, .. } = &self.sink;
        if primary_key.is_empty() || self.compiled.kind == OutputKind::Append {
            return Ok(());
        }
        let declared = primary_key.join(", ");
        let refused = |why: String| {
            Err(Error::query(format!(
                "the table {name} has the PRIMARY KEY ({declared}), and {why}: rows of the answer would overwrite each \
                 other. Declare the key that the query has, or no key and take the changelog"
            )))
        };
        let Some(key) = &self.compiled.key else {
            return refused("no columns of the query's answer are known to be unique".to_string());
        };
        let column = |c: &usize| schema.fields().get(*c).map(|f| f.name().clone()).unwrap_or_default();
        let key: Vec<String> = key.iter().map(column).collect();
        if key.iter().all(|column| primary_key.contains(column)) {
            return Ok(());
        }
        refused(format!("the query's answer is unique by ({})", key.join(", ")))
    }

    /// What a reader of the sink can count on.
    ///
    /// # Errors
    /// As [`PipelineQuery::sink`].
    pub fn guarantee(&self) -> Result<Guarantee> {
        Ok(self.sink()?.guarantee())
    }

    fn config(&self, state_dir: &Path, options: &RunOptions) -> Result<QueryConfig> {
        configure(&self.name, &self.settings, state_dir, options)
    }

    async fn start(
        self,
        sink: Box<dyn Sink>,
        readers: Option<Arc<dyn DroppedReaders>>,
        state_dir: &Path,
        options: &RunOptions,
    ) -> Result<QueryHandle> {
        let mut config = self.config(state_dir, options)?;
        config.dropped_readers = readers;
        let parallelism = options.parallelism.unwrap_or_else(|| self.settings.parallelism());
        let not_null = not_null(&self.sink);
        let Self { sql, compiled, .. } = self;
        ReadyQuery { config, parallelism, sql, compiled, sink, not_null }.start().await
    }
}

/// Refuses two queries where only one can write, and a query that would read what it writes.
fn check_places(sink: &TableSpec, compiled: &Compiled, others: &[PipelineQuery]) -> Result<()> {
    let Some(place) = Location::of(sink) else { return Ok(()) };
    if let Some(source) = compiled.tables.iter().find(|t| Location::of(&t.spec).is_some_and(|s| place.feeds(&s))) {
        return Err(Error::query(format!(
            "{} reads from {place} what {} writes there: it would be fed by its own answer for ever. Write to another place",
            source.name, sink.name
        )));
    }
    let writes = |other: &&PipelineQuery| has_one_writer(&other.sink) || has_one_writer(sink);
    let other = others.iter().filter(writes).find(|other| Location::of(&other.sink).as_ref() == Some(&place));
    match other {
        Some(other) => Err(Error::query(format!(
            "the query {} writes to {place} already, and with 'sink.layout' = 'append' one query writes the file: put both \
             into one INSERT with UNION ALL, or give each a file of its own",
            other.name
        ))),
        None => Ok(()),
    }
}

/// The columns of a sink that are declared NOT NULL.
pub(crate) fn not_null(sink: &TableSpec) -> Vec<String> {
    sink.schema.fields().iter().filter(|f| !f.is_nullable()).map(|f| f.name().clone()).collect()
}

/// How a query of this name runs: as SET says, unless the options say otherwise.
pub(crate) fn configure(
    name: &str,
    settings: &Settings,
    state_dir: &Path,
    options: &RunOptions,
) -> Result<QueryConfig> {
    let mut config = QueryConfig::new(name, log_dir(&state_dir.join(name)));
    settings.apply(&mut config)?;
    config.limit.rows = options.max_batch_rows.unwrap_or(config.limit.rows);
    config.trigger = options.trigger.unwrap_or(config.trigger);
    config.accept_divergence = options.accept_divergence;
    config.adopt = options.adopt;
    Ok(config)
}

/// A compiled query with its sink, from SQL or from a program.
pub(crate) struct ReadyQuery {
    /// How it runs.
    pub(crate) config: QueryConfig,
    /// Partitions that are read and decoded at once.
    pub(crate) parallelism: usize,
    /// What it computes, for a person who finds its log.
    pub(crate) sql: String,
    /// What runs.
    pub(crate) compiled: Compiled,
    /// Where the answer goes.
    pub(crate) sink: Box<dyn Sink>,
    /// Columns of the answer that may not be NULL.
    pub(crate) not_null: Vec<String>,
}

impl ReadyQuery {
    /// Starts it. Its state lies beside its log.
    pub(crate) async fn start(self) -> Result<QueryHandle> {
        let epoch = self.epoch();
        let Self { mut config, parallelism, compiled, sink, not_null, .. } = self;
        let disk: SharedDisk = Arc::new(RealDisk);
        let states = StateStore::new(Arc::clone(&disk), config.dir.with_file_name("state"));
        config.epoch = epoch;
        config.idle_timeouts = idle_timeouts(&compiled);
        let sources = query_sources(&compiled);
        let runner = LocalRunner::new(&compiled, states)?.with_parallelism(parallelism);
        let runner = Box::new(runner.with_on_error(config.on_error).with_not_null(&not_null));
        let clock = Arc::new(SystemClock);
        Query { config, sources, runner, sink, disk, clock }.start().await
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
            options: identity::options(&self.compiled),
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
