//! The sink: rows and marker in one transaction a batch.
//!
//! | output | how it is stored | round trips |
//! |---|---|---|
//! | append, few rows | one statement with the marker's move | 1 |
//! | append | COPY, then the marker's move | 4 |
//! | rows of new keys, many | COPY, then the marker's move | 4 |
//! | rows of known keys, many | UPDATE, then the marker's move | 3, and one a statement |
//! | append or changelog with a PRIMARY KEY | one statement with the marker's move, or several in a transaction | 1, or one a statement and 2 |
//!
//! After an error the connection is dropped: a transaction that was open there ends without effect. Where the answer to
//! a COMMIT was lost, [`Sink::open`] finds out from the marker, whose row it locks, so that a commit that is still
//! under way is waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt64Array};
use arrow::compute::{concat_batches, take_arrays};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use futures::future::join;
use millstream_core::sink::{Guarantee, Marker, Output, OutputKind, Owner, Permit, Sink};
use millstream_core::{Error, Result};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use crate::changes::{Changes, last_per_key};
use crate::connect::Session;
use crate::copy::{Copy, Outcome, begin, copy, give_up};
use crate::encode::canonical;
use crate::failure::failed;
use crate::marker::{MarkerRow, Move};
use crate::name::TableName;
use crate::settings::Settings;
use crate::statement::{Rows, Statement, Writing};
use crate::table::{Table, Wanted, value};

/// From how many rows on COPY is faster than one statement, its more round trips included.
const COPY_FROM_ROWS: u64 = 512;

/// Each statement looks its keys up in the index. The planner would rather read the whole table, once a statement, as long
/// as it is not much larger than the batch; and would rather compile it, in more time than it takes.
const BY_INDEX: &str = "; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_seqscan = off; \
    SET LOCAL jit = off";

/// Writes to a table of PostgreSQL, exactly once.
pub struct PostgresSink {
    settings: Settings,
    kind: OutputKind,
    wanted: Wanted,
    /// MERGE was refused where ON CONFLICT may work.
    no_merge: bool,
    open: Option<Open>,
}

/// A sink that is connected, and whose table was checked.
struct Open {
    session: Session,
    owner: Owner,
    writing: Writing,
    marker: MarkerRow,
    timeout: Duration,
    /// Commits return before they are durable.
    lazy: bool,
    merge_refused: AtomicBool,
    all_new: Guess,
    all_known: Guess,
}

/// Whether the next batch may be of new keys, or of known ones only: after one that was not, fewer and fewer of those that
/// follow are tried.
#[derive(Debug, Default)]
struct Guess {
    skip: AtomicU32,
    step: AtomicU32,
}

impl Guess {
    /// Batches at the most that are not tried in a row.
    const SKIP_MAX: u32 = 64;

    fn is_due(&self) -> bool {
        let skip = self.skip.load(Ordering::Relaxed);
        self.skip.store(skip.saturating_sub(1), Ordering::Relaxed);
        skip == 0
    }

    fn learn(&self, outcome: Outcome) {
        let step = match outcome {
            Outcome::Refused => (2 * self.step.load(Ordering::Relaxed)).clamp(1, Self::SKIP_MAX),
            Outcome::Moved | Outcome::NotMoved => 0,
        };
        self.step.store(step, Ordering::Relaxed);
        self.skip.store(step, Ordering::Relaxed);
    }
}

impl PostgresSink {
    pub(crate) fn new(settings: Settings, kind: OutputKind, wanted: Wanted) -> Self {
        Self { settings, kind, wanted, no_merge: false, open: None }
    }

    async fn opened(&self, owner: &Owner) -> Result<(Open, Option<Marker>)> {
        let Settings { endpoint, table: name, .. } = &self.settings;
        let session = endpoint.connect().await?;
        let client = session.client()?;
        let mut table = Table::find(client, name).await?;
        if table.is_none() && self.settings.create {
            Table::create(client, name, &self.wanted).await?;
            table = Table::find(client, name).await?;
        }
        let table = table.ok_or_else(|| {
            Error::config(format!(
                "the table {name} is not there: create it, add 'sink.create-table' = 'true', or check 'table-name' and the \
                 search_path"
            ))
        })?;
        let (targets, index) = table.check(client, &self.wanted).await?;
        let marker_table = match &self.settings.marker_table {
            Some(name) => name.clone(),
            None => TableName { schema: Some(table.schema_name.clone()), name: crate::marker::TABLE.into() },
        };
        let marker = MarkerRow::prepare(client, &marker_table, &table).await?;
        const FACTS: &str = "SELECT current_setting('synchronous_commit') = 'off', current_setting('server_version_num')::int >= 150000";
        let facts = client.query_typed_one(FACTS, &[]).await.map_err(|e| failed("the settings can't be read", e))?;
        let (lazy, can_merge): (bool, bool) = (value(&facts, 0)?, value(&facts, 1)?);
        let stored = marker.claim(client, owner).await?;
        let key = self.wanted.key.iter().map(|name| {
            let at = targets.iter().position(|target| target.name == *name);
            at.ok_or_else(|| Error::bug(format!("the key column '{name}' is not written")))
        });
        let key = key.collect::<Result<_>>()?;
        let writing = Writing { table: table.name, key, index, merge: can_merge && !self.no_merge, targets };
        let (timeout, merge_refused) = (self.settings.timeout, AtomicBool::new(false));
        let (owner, all_new, all_known) = (owner.clone(), Guess::default(), Guess::default());
        let open = Open { session, owner, writing, marker, timeout, lazy, merge_refused, all_new, all_known };
        Ok((open, stored))
    }
}

#[async_trait]
impl Sink for PostgresSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    async fn open(&mut self, owner: &Owner) -> Result<Option<Marker>> {
        self.open = None;
        let (open, stored) = bounded(self.settings.timeout, self.opened(owner)).await?;
        self.open = Some(open);
        Ok(stored)
    }

    async fn publish(&mut self, permit: &Permit, output: &Output) -> Result<()> {
        // Where the call fails or is dropped, so is the connection.
        let open = self.open.take().ok_or_else(not_open)?;
        let published = bounded(self.settings.timeout, open.publish(permit, output, self.kind)).await;
        if open.merge_refused.load(Ordering::Relaxed) {
            self.no_merge = true;
        }
        published?;
        self.open = Some(open);
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        let open = self.open.take().ok_or_else(not_open)?;
        bounded(self.settings.timeout, open.flush()).await?;
        self.open = Some(open);
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        if let Some(open) = self.open.take() {
            bounded(self.settings.timeout, open.flush()).await?;
            open.session.close().await;
        }
        Ok(())
    }
}

fn not_open() -> Error {
    Error::retry("the sink is not connected to PostgreSQL")
}

/// Nothing is waited for without end: a server that hangs is left, and asked again.
async fn bounded<T>(timeout: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(timeout, call).await.unwrap_or_else(|_| {
        Err(Error::retry(format!(
            "PostgreSQL did not answer for {} s: see what it waits for in pg_stat_activity, or raise 'sink.timeout'",
            timeout.as_secs()
        )))
    })
}

impl Open {
    async fn publish(&self, permit: &Permit, output: &Output, kind: OutputKind) -> Result<()> {
        let client = self.session.client()?;
        let moving = self.marker.moving(permit)?;
        let moved = if self.writing.key.is_empty() && output.rows() >= COPY_FROM_ROWS {
            let batches = output.batches.iter().map(|batch| self.columns(batch.columns()));
            let batches = batches.collect::<Result<Vec<_>>>()?;
            let begin = begin(self.timeout);
            let rows = Copy { client, writing: &self.writing, batches: &batches, begin, probe: None };
            copy(rows, (&moving, &self.marker.move_sql())).await? == Outcome::Moved
        } else {
            let batch = one_batch(&output.schema, &output.batches)?;
            let (ops, columns) = match kind {
                OutputKind::Append => (None, batch.columns()),
                OutputKind::Changelog => {
                    let (op, rest) =
                        batch.columns().split_first().ok_or_else(|| Error::bug("a changelog has no 'op'"))?;
                    (Some(op), rest)
                }
            };
            let columns = self.columns(columns)?;
            let rows = batch.num_rows();
            let changes = match self.writing.key.is_empty() {
                true => Changes { puts: (0..rows).collect(), deletes: vec![] },
                false => last_per_key(&columns, &self.writing.key, &self.writing.targets, ops, rows)?,
            };
            let mut outcome = self.copy_new(client, &columns, &changes, &moving).await?;
            if outcome == Outcome::Refused {
                outcome = self.update_known(client, &columns, &changes, &moving).await?;
            }
            match outcome {
                Outcome::Refused => self.apply(client, &columns, &changes, &moving).await?,
                outcome => outcome == Outcome::Moved,
            }
        };
        if !moved {
            self.marker.already_there(client, permit).await?;
        }
        Ok(())
    }

    /// The columns in the form in which they are written.
    fn columns(&self, columns: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        if columns.len() != self.writing.targets.len() {
            return Err(Error::bug(format!(
                "{} columns came to a sink of {}",
                columns.len(),
                self.writing.targets.len()
            )));
        }
        let columns = columns.iter().zip(&self.writing.targets).map(|(column, target)| {
            if target.not_null && column.logical_null_count() > 0 {
                return Err(Error::sink(format!(
                    "the column '{}' is NULL in a row, and NOT NULL in the table {}: leave such rows out, or COALESCE",
                    target.name, self.writing.table
                )));
            }
            canonical(column, &target.wire).map_err(|e| e.at(format_args!("the column '{}'", target.name)))
        });
        columns.collect()
    }

    /// Copies rows whose keys seem to be new; those of the table's own keys are not for this.
    async fn copy_new(
        &self,
        client: &Client,
        columns: &[ArrayRef],
        changes: &Changes,
        moving: &Move<'_>,
    ) -> Result<Outcome> {
        let Changes { puts, deletes } = changes;
        let Some(index) = self.writing.index else { return Ok(Outcome::Refused) };
        if (puts.len() as u64) < COPY_FROM_ROWS || !deletes.is_empty() || !self.all_new.is_due() {
            return Ok(Outcome::Refused);
        }
        let probe = Some(Rows::new(&self.writing, columns, changes)?.probe(index)?);
        let all = columns.first().is_some_and(|column| column.len() == puts.len());
        let batch = match all && puts.is_sorted() {
            true => columns.to_vec(),
            false => take_arrays(columns, &UInt64Array::from_iter_values(puts.iter().map(|row| *row as u64)), None)?,
        };
        let begin = begin(self.timeout) + BY_INDEX;
        let rows = Copy { client, writing: &self.writing, batches: &[batch], begin, probe };
        let copied = copy(rows, (moving, &self.marker.move_sql())).await?;
        self.all_new.learn(copied);
        Ok(copied)
    }

    /// Updates rows whose keys all seem to be known. Where one is not, nothing was stored: a row must not be written twice,
    /// as triggers would see it twice.
    async fn update_known(
        &self,
        client: &Client,
        columns: &[ArrayRef],
        changes: &Changes,
        moving: &Move<'_>,
    ) -> Result<Outcome> {
        let rows = Rows::new(&self.writing, columns, changes)?;
        // What fits in one statement takes one round trip by the other way.
        if rows.statements() < 2 || !rows.can_update() || !self.all_known.is_due() {
            return Ok(Outcome::Refused);
        }
        let outcome = self.update(client, &rows, moving).await?;
        self.all_known.learn(outcome);
        Ok(outcome)
    }

    async fn update(&self, client: &Client, rows: &Rows<'_>, moving: &Move<'_>) -> Result<Outcome> {
        let here = || format!("the rows can't be stored in {}", self.writing.table);
        let begin = begin(self.timeout) + BY_INDEX;
        let (begun, first) = join(client.batch_execute(&begin), async { rows.update(0) }).await;
        begun.map_err(|e| failed(here(), e))?;
        let (mut current, count) = (first?, rows.statements());
        for n in 1..=count {
            // As in `apply`.
            let next = async { (n < count).then(|| rows.update(n)).transpose() };
            let (statement, wanted) = &current;
            let parameters = parameters(statement);
            let (changed, next) = join(client.execute_typed(&statement.sql, &parameters), next).await;
            if changed.map_err(|e| failed(here(), e))? != *wanted {
                return give_up(client).await;
            }
            if let Some(next) = next? {
                current = next;
            }
        }
        let moved = client.execute_typed(&self.marker.move_sql(), &moving.parameters()).await;
        let moved = moved.map_err(|e| failed("the marker can't be moved", e))? == 1;
        let end = if moved { "COMMIT" } else { "ROLLBACK" };
        client.batch_execute(end).await.map_err(|e| failed("the transaction can't be ended", e))?;
        Ok(if moved { Outcome::Moved } else { Outcome::NotMoved })
    }

    /// Stores and deletes by statements; one is a transaction by itself.
    async fn apply(&self, client: &Client, columns: &[ArrayRef], changes: &Changes, moving: &Move<'_>) -> Result<bool> {
        let rows = Rows::new(&self.writing, columns, changes)?;
        let count = rows.statements();
        let mut current = rows.statement(0, &self.marker)?;
        if count == 1 {
            return self.run(client, &current, moving).await;
        }
        let here = || format!("the rows can't be stored in {}", self.writing.table);
        let begin = begin(self.timeout) + BY_INDEX;
        client.batch_execute(&begin).await.map_err(|e| failed(here(), e))?;
        let mut moved = false;
        for n in 1..=count {
            // The next statement is made while the server works on this one.
            let next = async { (n < count).then(|| rows.statement(n, &self.marker)).transpose() };
            let (ran, next) = join(self.run(client, &current, moving), next).await;
            moved = ran?;
            if let Some(next) = next? {
                current = next;
            }
        }
        let end = if moved { "COMMIT" } else { "ROLLBACK" };
        client.batch_execute(end).await.map_err(|e| failed("the transaction can't be ended", e))?;
        Ok(moved)
    }

    /// Runs a statement; answers whether it moved the marker.
    async fn run(&self, client: &Client, statement: &Statement, moving: &Move<'_>) -> Result<bool> {
        let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> = Vec::with_capacity(statement.values.len() + 8);
        if statement.moves {
            parameters.extend(moving.parameters());
        }
        parameters.extend(self::parameters(statement));
        let changed = client.execute_typed(&statement.sql, &parameters).await.map_err(|e| {
            // Somebody else added a key meanwhile, or the table has rules: the other way may work.
            let refused = self.writing.merge && e.code().is_some_and(|c| matches!(c.code(), "23505" | "0A000"));
            let error = failed(format_args!("the rows can't be stored in {}", self.writing.table), e);
            if !refused || self.writing.key.is_empty() {
                return error;
            }
            self.merge_refused.store(true, Ordering::Relaxed);
            Error::retry("MERGE was refused, INSERT .. ON CONFLICT is tried").caused_by(error)
        })?;
        Ok(statement.moves && changed > 0)
    }

    async fn flush(&self) -> Result<()> {
        if !self.lazy {
            return Ok(());
        }
        let client = self.session.client()?;
        let here = || "the transactions can't be made durable";
        let begun = client.batch_execute("BEGIN; SET LOCAL synchronous_commit = on").await;
        begun.map_err(|e| failed(here(), e))?;
        let parameters: [(&(dyn ToSql + Sync), Type); 2] =
            [(self.marker.target(), Type::TEXT), (&self.owner.query, Type::TEXT)];
        let touched = client.execute_typed(&self.marker.touch_sql(), &parameters).await;
        touched.map_err(|e| failed(here(), e))?;
        client.batch_execute("COMMIT").await.map_err(|e| failed(here(), e))
    }
}

fn parameters(statement: &Statement) -> Vec<(&(dyn ToSql + Sync), Type)> {
    statement.values.iter().map(|(value, kind)| (value as &(dyn ToSql + Sync), kind.clone())).collect()
}

fn one_batch(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<RecordBatch> {
    match batches {
        [batch] => Ok(batch.clone()),
        batches => Ok(concat_batches(&Arc::clone(schema), batches)?),
    }
}
