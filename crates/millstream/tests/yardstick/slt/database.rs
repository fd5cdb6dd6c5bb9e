//! What sqllogictest takes for a database: the tables and rows that a file declares, and its queries answered in one
//! of three ways.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::DataType;
use millstream::core::source::Limit;
use millstream::pipeline::emit_mode;
use millstream::plan::compile;
use millstream::sql::{BuiltIn, Connectors, PlannedQuery, Planner};
use millstream::{Error, Result};
use sqllogictest::{ColumnType, DB, DBOutput};
use tempfile::TempDir;

use super::cut::Cut;
use super::rows::{inserted, lines};
use crate::yardstick::answer::lines as lines_of;
use crate::yardstick::{Floats, Interruption, LIMIT, Published, Random, Rows, Run, added_up, batch_answer, ran};

/// How a query is answered.
#[derive(Clone, Copy, Debug, PartialEq, Hash)]
pub enum Mode {
    /// By DataFusion, at once.
    Batch,
    /// Streamed, in batches of random sizes.
    Cut,
    /// The same, killed after a random number of batches, and started again.
    Killed,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Batch => "batch",
            Self::Cut => "cut",
            Self::Killed => "killed",
        })
    }
}

/// The letter of a column: B a truth value, I a whole number, R another number, T text, D a date or a time, P a
/// timestamp, ? anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column(char);

impl ColumnType for Column {
    fn from_char(letter: char) -> Option<Self> {
        Some(Self(letter))
    }

    fn to_char(&self) -> char {
        self.0
    }
}

impl From<&DataType> for Column {
    fn from(data_type: &DataType) -> Self {
        Self(match data_type {
            DataType::Boolean => 'B',
            integer if integer.is_integer() => 'I',
            number if number.is_numeric() => 'R',
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => 'T',
            DataType::Date32 | DataType::Date64 | DataType::Time32(_) | DataType::Time64(_) => 'D',
            DataType::Timestamp(..) => 'P',
            _ => '?',
        })
    }
}

/// The tables of a file. Everything is planned anew for every query, as a program that is started again does.
pub struct Database {
    mode: Mode,
    seed: u64,
    runtime: tokio::runtime::Runtime,
    /// What was declared, in the order of the file.
    declared: Vec<String>,
    /// The partitions of each table, and how many of its rows are late.
    tables: BTreeMap<String, (usize, u64)>,
    dir: TempDir,
}

impl DB for Database {
    type Error = Error;
    type ColumnType = Column;

    fn run(&mut self, sql: &str) -> Result<DBOutput<Column>> {
        if let Some((table, insert)) = inserted(sql) {
            let (mut planner, _) = self.planned("")?;
            let tables = planner.plan("file", "")?.tables;
            let spec = tables.iter().find(|t| t.name == table);
            let spec = spec.ok_or_else(|| Error::input(format!("there is no table {table}")))?;
            let mut lines = lines(&insert, spec)?;
            let (partitions, late) = self.tables.entry(table.clone()).or_default();
            *partitions += 1;
            *late += lines.iter().filter(|line| line.late).count() as u64;
            if self.mode == Mode::Batch {
                lines.retain(|line| !line.late);
            }
            let text: String = lines.iter().map(|line| format!("{}\n", line.text)).collect();
            let path = self.dir.path().join(&table).join(format!("{partitions:03}.ndjson"));
            std::fs::write(path, text).map_err(|e| Error::input("a partition can't be written").caused_by(e))?;
            return Ok(DBOutput::StatementComplete(lines.len() as u64));
        }
        let sql = self.with_options(sql);
        match self.planned(&sql)? {
            (_, None) => {
                self.declared.push(sql);
                Ok(DBOutput::StatementComplete(0))
            }
            (planner, Some(planned)) => {
                // The columns have their types after the analyzer, which puts both sides of a UNION into one.
                let plan = planner.state().optimize(&planned.plan).unwrap_or(planned.plan);
                let types = plan.schema().fields().iter().map(|f| Column::from(f.data_type())).collect();
                let rows = lines_of(&self.answered(&sql)?).map_err(Error::bug)?;
                Ok(DBOutput::Rows { types, rows })
            }
        }
    }

    fn engine_name(&self) -> &str {
        match self.mode {
            Mode::Batch => "batch",
            Mode::Cut => "cut",
            Mode::Killed => "killed",
        }
    }
}

impl Database {
    pub fn new(mode: Mode, seed: u64) -> Result<Self> {
        let no_runtime = |e| Error::bug("no runtime").caused_by(e);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let dir = tempfile::tempdir().map_err(|e| Error::bug("no directory").caused_by(e))?;
        let (declared, tables) = (vec![], BTreeMap::new());
        Ok(Self { mode, seed, runtime: runtime.map_err(no_runtime)?, declared, tables, dir })
    }

    /// A table that names no connector is one of files, below this database's directory, in JSON where nothing else
    /// is said.
    fn with_options(&self, sql: &str) -> String {
        let mut words = sql.split(|c: char| c.is_whitespace() || c == '(').filter(|w| !w.is_empty());
        let is_table = words.next().is_some_and(|w| w.eq_ignore_ascii_case("CREATE"))
            && words.next().is_some_and(|w| w.eq_ignore_ascii_case("TABLE"));
        let Some(name) = words.next().filter(|_| is_table && !sql.contains("'connector'")) else {
            return sql.to_string();
        };
        let _ = std::fs::create_dir_all(self.dir.path().join(name));
        let format = if sql.contains("'format'") { "" } else { ", 'format' = 'json'" };
        let options = format!("'connector' = 'filesystem', 'path' = '{name}'{format}");
        match sql.split_once("WITH (") {
            Some((before, after)) => format!("{before}WITH ({options}, {after}"),
            None => format!("{sql} WITH ({options})"),
        }
    }

    /// What was declared and then this, planned; its query, if it is one.
    fn planned(&self, sql: &str) -> Result<(Planner, Option<PlannedQuery>)> {
        self.planned_over(Arc::new(BuiltIn), sql)
    }

    fn planned_over(&self, connectors: Arc<dyn Connectors>, sql: &str) -> Result<(Planner, Option<PlannedQuery>)> {
        let mut planner = Planner::new(connectors, self.dir.path())?;
        for declared in &self.declared {
            planner.plan("file", declared)?;
        }
        let planned = planner.plan("query", sql)?.queries.pop();
        Ok((planner, planned))
    }

    fn query(&self, cut: Cut, sql: &str) -> Result<(Planner, PlannedQuery)> {
        let (planner, planned) = self.planned_over(Arc::new(cut), sql)?;
        Ok((planner, planned.ok_or_else(|| Error::bug("it was a query"))?))
    }

    fn answered(&self, sql: &str) -> Result<Rows> {
        let mut hasher = DefaultHasher::new();
        (self.seed, self.mode, sql).hash(&mut hasher);
        let mut random = Random::new(hasher.finish());
        let rows_max = *random.pick(&[1, 2, 4, LIMIT.rows]);
        let cut = Cut { seed: random.next(), rows_max };
        let published = Published::default();
        let state = tempfile::tempdir().map_err(|e| Error::bug("no directory").caused_by(e))?;
        let run = |interruption: Option<Interruption>, cut: Cut, often: bool| -> Result<u64> {
            let (planner, planned) = self.query(cut, sql)?;
            let mut run = Run::new(&planner, &planned, state.path(), &published);
            run.config.limit = Limit { rows: 1 + rows_max * 2, ..LIMIT };
            // A stream that rests waits for company before it commits: here there is none.
            run.config.commit_linger = Duration::ZERO;
            if often {
                run.config.checkpoint_work = Duration::ZERO;
            }
            if let Some(Interruption::Kill { batches, steps }) = interruption {
                run.killed(batches, steps)?;
                return Ok(0);
            }
            self.runtime.block_on(ran(&run, None))?;
            self.lateness(&run)
        };
        match self.mode {
            Mode::Batch => {
                let (planner, planned) = self.query(cut, sql)?;
                return self.runtime.block_on(async {
                    // What a stream refuses has no answer here, in whichever mode.
                    let compiled = compile(planned.plan.clone(), emit_mode(planned.emit), planner.state()).await;
                    compiled.map_err(|r| r.at(&planned))?;
                    let (planner, planned) = self.planned(sql)?;
                    let planned = planned.ok_or_else(|| Error::bug("it was a query"))?;
                    batch_answer(&planner, &planned, Floats::Shown).await
                });
            }
            Mode::Cut => run(None, cut, random.one_in(2))?,
            Mode::Killed => {
                let kill = Interruption::Kill { batches: random.below(6), steps: random.below(40) };
                let often = random.one_in(2);
                run(Some(kill), cut, often)?;
                run(None, Cut { seed: random.next(), ..cut }, often)?
            }
        };
        added_up(&published, Floats::Shown)
    }

    /// As many rows are late as the file says.
    fn lateness(&self, run: &Run<'_>) -> Result<u64> {
        for account in run.accounts()? {
            let (_, late) = self.tables.get(&account.source).copied().unwrap_or_default();
            if account.late != late {
                return Err(Error::bug(format!("{late} rows are late by the file, by the stream: {account:?}")));
            }
        }
        Ok(0)
    }
}
