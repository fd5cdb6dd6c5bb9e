//! The marker: what was published last, in a table beside the rows and moved in their transaction.
//!
//! ```text
//! SELECT * FROM millstream_markers;
//!  target            | query  | incarnation  | epoch | batch | digest           | published_at
//!  "public"."totals" | totals | 5f0c1d2e-..  |     3 |    42 | 0123456789abcdef | 2026-01-02 03:04:05+00
//! ```
//!
//! Only a move from the batch before, by the owner who opened the sink last, finds the row: whoever was fenced moves
//! nothing, and stores nothing.

use millstream_core::batch::BatchId;
use millstream_core::digest::Digest;
use millstream_core::sink::{Marker, Owner, Permit};
use millstream_core::{Error, ErrorKind, Result};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use crate::copy::begin_briefly;
use crate::failure::failed;
use crate::name::TableName;
use crate::table::{Table, create_once, value};

/// The table's name where no other one is given.
pub(crate) const TABLE: &str = "millstream_markers";

/// How long an owner that takes over waits for a transaction that is just moving the marker.
const LOCK_TIMEOUT: &str = "10s";

/// The row of one query and one target.
#[derive(Clone, Debug)]
pub(crate) struct MarkerRow {
    /// The marker table, in quotes.
    table: String,
    target: String,
}

/// The parameters of a move, before those of the rows.
pub(crate) const MOVE_PARAMETERS: usize = 7;

/// A move as parameters of a statement.
pub(crate) struct Move<'a> {
    batch: i64,
    digest: String,
    target: &'a str,
    query: &'a str,
    incarnation: &'a str,
    epoch: i64,
    previous: Option<i64>,
}

impl Move<'_> {
    pub(crate) fn parameters(&self) -> [(&(dyn ToSql + Sync), Type); MOVE_PARAMETERS] {
        [
            (&self.batch, Type::INT8),
            (&self.digest, Type::TEXT),
            (&self.target, Type::TEXT),
            (&self.query, Type::TEXT),
            (&self.incarnation, Type::TEXT),
            (&self.epoch, Type::INT8),
            (&self.previous, Type::INT8),
        ]
    }
}

impl MarkerRow {
    /// Finds or creates the marker table.
    pub(crate) async fn prepare(client: &Client, table: &TableName, target: &Table) -> Result<Self> {
        let here = || format!("the marker table {table}");
        let found = match Table::find(client, table).await.map_err(|e| e.at(here()))? {
            Some(found) => found,
            None => {
                let sql = format!(
                    "CREATE TABLE IF NOT EXISTS {table} (target text NOT NULL, query text NOT NULL, incarnation text NOT \
                     NULL, epoch bigint NOT NULL, batch bigint, digest text, published_at timestamptz NOT NULL DEFAULT \
                     now(), PRIMARY KEY (target, query)) WITH (fillfactor = 20)"
                );
                create_once(client, &sql).await.map_err(|e| e.at(here()))?;
                let found = Table::find(client, table).await.map_err(|e| e.at(here()))?;
                found.ok_or_else(|| {
                    Error::config(format!("{} was created and is not found: check the search_path", here()))
                })?
            }
        };
        Ok(Self { table: found.name, target: target.name.clone() })
    }

    /// The owner takes the row: earlier epochs move nothing from now on. Waits for a move that is under way, so that
    /// what it answers does not change any more.
    ///
    /// # Errors
    /// [`ErrorKind::Owned`] where a later owner or another incarnation has it.
    pub(crate) async fn claim(&self, client: &Client, owner: &Owner) -> Result<Option<Marker>> {
        let here = || format!("the marker of query '{}' in {} can't be taken", owner.query, self.table);
        let sql = format!(
            "INSERT INTO {} AS m (target, query, incarnation, epoch) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (target, query) DO UPDATE SET epoch = EXCLUDED.epoch \
             WHERE m.incarnation = EXCLUDED.incarnation AND m.epoch <= EXCLUDED.epoch RETURNING m.batch, m.digest",
            self.table
        );
        let begin = format!("{}; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'", begin_briefly());
        let epoch = signed(owner.epoch)?;
        client.batch_execute(&begin).await.map_err(|e| failed(here(), e))?;
        let parameters: [(&(dyn ToSql + Sync), Type); 4] = [
            (&self.target, Type::TEXT),
            (&owner.query, Type::TEXT),
            (&owner.incarnation, Type::TEXT),
            (&epoch, Type::INT8),
        ];
        let rows = client.query_typed(&sql, &parameters).await.map_err(|e| failed(here(), e))?;
        client.batch_execute("COMMIT").await.map_err(|e| failed(here(), e))?;
        let Some(row) = rows.first() else {
            return Err(match self.read(client, owner).await? {
                None => Error::retry(format!("{}: it was removed meanwhile", here())),
                Some((theirs, _)) => owned(&self.target, &theirs, owner),
            });
        };
        stored(value(row, 0)?, value(row, 1)?, owner)
    }

    /// A move found no row. That is right where an earlier attempt stored the batch and its answer was lost.
    ///
    /// # Errors
    /// [`ErrorKind::Owned`] where another owner has taken over.
    pub(crate) async fn already_there(&self, client: &Client, permit: &Permit) -> Result<()> {
        let ours = permit.marker();
        let Some((theirs, marker)) = self.read(client, &ours.owner).await? else {
            return Err(Error::owned(format!(
                "the marker of query '{}' for {} was removed from {} while the query ran: this run must stop",
                ours.owner.query, self.target, self.table
            )));
        };
        if theirs != ours.owner {
            return Err(owned(&self.target, &theirs, &ours.owner));
        }
        let found = marker.as_ref().map(|marker| (marker.batch, marker.digest));
        if found == Some((ours.batch, ours.digest)) {
            return Ok(());
        }
        let text = |batch: Option<BatchId>| batch.map_or("no batch".to_string(), |batch| format!("batch {batch}"));
        let found = found.map(|(batch, _)| batch);
        let says = format!(
            "the marker in {} says {}, where {} was expected before batch {}",
            self.table,
            text(found),
            text(permit.previous()),
            ours.batch
        );
        // It only moves forward by publishing: by a run that took the same epoch, from a copy of the state directory.
        if found > permit.previous() {
            return Err(Error::owned(format!(
                "{says}: another run of query '{}', from a copy of this state directory, has published. Stop one of the two; \
                 this one has published nothing since",
                ours.owner.query
            )));
        }
        Err(Error::new(
            ErrorKind::Sink,
            format!(
                "{says}: it was changed by hand, or the database was put back. Start the query again: what is missing is \
                 published again as far as it can be run again"
            ),
        ))
    }

    async fn read(&self, client: &Client, owner: &Owner) -> Result<Option<(Owner, Option<Marker>)>> {
        let sql =
            format!("SELECT incarnation, epoch, batch, digest FROM {} WHERE target = $1 AND query = $2", self.table);
        let rows = client.query_typed(&sql, &[(&self.target, Type::TEXT), (&owner.query, Type::TEXT)]).await;
        let rows = rows.map_err(|e| failed(format_args!("the marker in {} can't be read", self.table), e))?;
        let Some(row) = rows.first() else { return Ok(None) };
        let epoch: i64 = value(row, 1)?;
        let epoch = u64::try_from(epoch).map_err(|_| self.damaged())?;
        let theirs = Owner { query: owner.query.clone(), incarnation: value(row, 0)?, epoch };
        let marker = stored(value(row, 2)?, value(row, 3)?, &theirs)?;
        Ok(Some((theirs, marker)))
    }

    fn damaged(&self) -> Error {
        Error::corrupt(format!(
            "the marker in {} is not what was written: put the table back from a backup",
            self.table
        ))
    }

    /// A move by this permit.
    pub(crate) fn moving<'a>(&'a self, permit: &'a Permit) -> Result<Move<'a>> {
        let marker = permit.marker();
        Ok(Move {
            batch: signed(marker.batch.0)?,
            digest: marker.digest.to_string(),
            target: &self.target,
            query: &marker.owner.query,
            incarnation: &marker.owner.incarnation,
            epoch: signed(marker.owner.epoch)?,
            previous: permit.previous().map(|batch| signed(batch.0)).transpose()?,
        })
    }

    /// The statement that moves the marker; its parameters are those of [`Move`]. It changes one row, or none where
    /// the marker is not where it must be.
    pub(crate) fn move_sql(&self) -> String {
        format!(
            "UPDATE {} SET batch = $1, digest = $2, published_at = now() WHERE target = $3 AND query = $4 \
             AND incarnation = $5 AND epoch = $6 AND batch IS NOT DISTINCT FROM $7",
            self.table
        )
    }

    /// A statement that changes nothing and whose commit is durable together with everything before it.
    pub(crate) fn touch_sql(&self) -> String {
        format!("UPDATE {} SET published_at = published_at WHERE target = $1 AND query = $2", self.table)
    }

    pub(crate) fn target(&self) -> &String {
        &self.target
    }
}

fn owned(target: &str, theirs: &Owner, ours: &Owner) -> Error {
    if theirs.incarnation != ours.incarnation {
        return Error::owned(format!(
            "{target} holds the output of query '{}', incarnation {}; this is incarnation {}, which knows nothing of those \
             rows. Start with the state directory that belongs to them, or choose another 'table-name' or query name; to \
             begin anew, empty the table and delete the row of {target} from {TABLE}",
            theirs.query, theirs.incarnation, ours.incarnation
        ));
    }
    Error::owned(format!(
        "{target} was taken over by a later run of query '{}' (epoch {}; this one has epoch {}): this run must stop",
        theirs.query, theirs.epoch, ours.epoch
    ))
}

fn stored(batch: Option<i64>, digest: Option<String>, owner: &Owner) -> Result<Option<Marker>> {
    let (Some(batch), Some(digest)) = (batch, digest) else { return Ok(None) };
    let parsed = u64::try_from(batch).ok().zip(u64::from_str_radix(&digest, 16).ok());
    let (batch, digest) = parsed.ok_or_else(|| {
        Error::corrupt(format!(
            "the marker says batch {batch} with digest '{digest}': put its table back from a backup"
        ))
    })?;
    Ok(Some(Marker { owner: owner.clone(), batch: BatchId(batch), digest: Digest(digest) }))
}

fn signed(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|_| Error::bug(format!("the number {number} has no place in a marker")))
}
