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
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt64Array};
use arrow::compute::{concat_batches, take_arrays};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use futures::future::join;
use futures::{StreamExt, TryStreamExt, stream};
use millstream_core::sink::{Guarantee, Marker, Output, OutputKind, Owner, Permit, Sink};
use millstream_core::{Error, Result};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use crate::changes::{Changes, last_per_key};
use crate::connect::Session;
use crate::copy::{Copy, Outcome, begin, copy, give_up};
use crate::encode::canonical;
use crate::failure::failed;
use crate::guess::Guess;
use crate::marker::{MarkerRow, Move};
use crate::name::TableName;
use crate::settings::Settings;
use crate::statement::{Found, Rows, Statement};
use crate::table::{Table, Wanted, value};
use crate::writing::Writing;

/// From how many rows on COPY is faster than one statement, its more round trips included.
const COPY_FROM_ROWS: u64 = 512;

/// Statements of a transaction that are on their way at the same time: the next one is made and sent while the server works
/// on one.
const ON_THEIR_WAY: usize = 2;

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
            let count = batch.num_rows();
            let changes = match self.writing.key.is_empty() {
                true => Changes { puts: (0..count).collect(), deletes: vec![] },
                false => last_per_key(&columns, &self.writing.key, &self.writing.targets, ops, count)?,
            };
            let rows = Rows::new(&self.writing, &columns, &changes)?;
            let copied = self.copy_new(client, &columns, &rows, &moving);
            let mut outcome = self.all_new.attempt(self.can_copy(&changes), copied).await?;
            if outcome == Outcome::Refused {
                let updated = self.update(client, &rows, &moving);
                outcome = self.all_known.attempt(rows.can_update(), updated).await?;
            }
            match outcome {
                Outcome::Refused => self.apply(client, &rows, &moving).await?,
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

    /// Whether these rows can be copied if their keys are new.
    fn can_copy(&self, changes: &Changes) -> bool {
        self.writing.index.is_some() && changes.puts.len() as u64 >= COPY_FROM_ROWS && changes.deletes.is_empty()
    }

    /// Copies rows whose keys seem to be new; those of the table's own keys are not for this.
    async fn copy_new(
        &self,
        client: &Client,
        columns: &[ArrayRef],
        rows: &Rows<'_>,
        moving: &Move<'_>,
    ) -> Result<Outcome> {
        let Some(index) = self.writing.index else { return Ok(Outcome::Refused) };
        let (probe, puts) = (Some(rows.probe(index)?), rows.puts());
        let all = columns.first().is_some_and(|column| column.len() == puts.len());
        let batch = match all && puts.is_sorted() {
            true => columns.to_vec(),
            false => take_arrays(columns, &UInt64Array::from_iter_values(puts.iter().map(|row| *row as u64)), None)?,
        };
        let begin = begin(self.timeout) + BY_INDEX;
        let rows = Copy { client, writing: &self.writing, batches: &[batch], begin, probe };
        copy(rows, (moving, &self.marker.move_sql())).await
    }

    /// Updates rows whose keys all seem to be known. Where one is not, nothing was stored: a row must not be written twice,
    /// as triggers would see it twice.
    async fn update(&self, client: &Client, rows: &Rows<'_>, moving: &Move<'_>) -> Result<Outcome> {
        self.begin(client).await?;
        let known = stream::iter(0..rows.statements()).map(|n| self.update_part(client, rows, n));
        let mut known = known.buffered(ON_THEIR_WAY);
        while let Some(known) = known.try_next().await? {
            if !known {
                return give_up(client).await;
            }
        }
        let moved = client.execute_typed(&self.marker.move_sql(), &moving.parameters()).await;
        let moved = moved.map_err(|e| failed("the marker can't be moved", e))? == 1;
        end(client, moved).await?;
        Ok(if moved { Outcome::Moved } else { Outcome::NotMoved })
    }

    /// Answers whether the keys of the n-th statement are all known.
    async fn update_part(&self, client: &Client, rows: &Rows<'_>, n: usize) -> Result<bool> {
        let (statement, found) = rows.update(n)?;
        let plan = match found {
            Found::Singly => "SET LOCAL enable_hashjoin = off; SET LOCAL enable_nestloop = on",
            Found::InRange => "SET LOCAL enable_hashjoin = on; SET LOCAL enable_nestloop = off",
        };
        let parameters = parameters(&statement);
        let (planned, changed) =
            join(client.batch_execute(plan), client.execute_typed(&statement.sql, &parameters)).await;
        planned.map_err(|e| self.failed(e))?;
        Ok(changed.map_err(|e| self.failed(e))? == statement.rows)
    }

    /// Stores and deletes by statements; one is a transaction by itself.
    async fn apply(&self, client: &Client, rows: &Rows<'_>, moving: &Move<'_>) -> Result<bool> {
        if rows.statements() == 1 {
            return self.apply_part(client, rows, 0, moving).await;
        }
        self.begin(client).await?;
        let parts = stream::iter(0..rows.statements()).map(|n| self.apply_part(client, rows, n, moving));
        let moved = parts.buffered(ON_THEIR_WAY).try_fold(false, |_, moved| async move { Ok(moved) }).await?;
        end(client, moved).await?;
        Ok(moved)
    }

    async fn begin(&self, client: &Client) -> Result<()> {
        client.batch_execute(&(begin(self.timeout) + BY_INDEX)).await.map_err(|e| self.failed(e))
    }

    fn failed(&self, error: tokio_postgres::Error) -> Error {
        failed(format_args!("the rows can't be stored in {}", self.writing.table), error)
    }

    /// Runs the n-th statement; answers whether it moved the marker.
    async fn apply_part(&self, client: &Client, rows: &Rows<'_>, n: usize, moving: &Move<'_>) -> Result<bool> {
        let statement = rows.statement(n, &self.marker)?;
        let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> = Vec::with_capacity(statement.values.len() + 8);
        if statement.moves {
            parameters.extend(moving.parameters());
        }
        parameters.extend(self::parameters(&statement));
        let changed = client.execute_typed(&statement.sql, &parameters).await.map_err(|e| {
            // Somebody else added a key meanwhile, or the table has rules: the other way may work.
            let refused = self.writing.merge && e.code().is_some_and(|c| matches!(c.code(), "23505" | "0A000"));
            let error = self.failed(e);
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
        let begun = client.batch_execute(&(begin(self.timeout) + "; SET LOCAL synchronous_commit = on")).await;
        begun.map_err(|e| failed(here(), e))?;
        let parameters: [(&(dyn ToSql + Sync), Type); 2] =
            [(self.marker.target(), Type::TEXT), (&self.owner.query, Type::TEXT)];
        let touched = client.execute_typed(&self.marker.touch_sql(), &parameters).await;
        touched.map_err(|e| failed(here(), e))?;
        client.batch_execute("COMMIT").await.map_err(|e| failed(here(), e))
    }
}

/// Ends a transaction of several steps: all is stored, or nothing where the marker could not be moved.
async fn end(client: &Client, moved: bool) -> Result<()> {
    let end = if moved { "COMMIT" } else { "ROLLBACK" };
    client.batch_execute(end).await.map_err(|e| failed("the transaction can't be ended", e))
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
