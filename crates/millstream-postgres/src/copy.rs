//! Rows by COPY in its binary format: the fastest way in, for rows that are only added.
//!
//! The marker is moved after the rows, so that its row is locked for a moment only, whoever hangs while copying.
//!
//! A table with a key takes rows by COPY where their keys are new, which costs the server 0.6 of what MERGE does. Some of the
//! keys are looked up first; where one is there, or the key's index refuses a row, nothing was stored, and the rows are
//! merged. So a query whose keys come once (windows that close) is as fast as one that only adds.

use std::io::Cursor;
use std::pin::pin;
use std::time::Duration;

use arrow::array::{Array, ArrayRef};
use futures::{SinkExt, join};
use millstream_core::{Error, Result};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use crate::encode::writer;
use crate::failure::failed;
use crate::marker::Move;
use crate::statement::Statement;
use crate::table::value;
use crate::writing::Writing;

/// Bytes that are sent at once.
const PIECE_BYTES: usize = 128 << 10;

const UNIQUE_VIOLATION: &str = "23505";

const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: &[u8] = &(-1i16).to_be_bytes();

/// How long a transaction of ours may lie still: then its owner hangs, and others wait for its locks.
const IDLE_MS_MAX: u32 = 10_000;

/// What begins a transaction of several steps.
pub(crate) fn begin(timeout: Duration) -> String {
    format!("{}; SET LOCAL statement_timeout = {}", begin_briefly(), timeout.as_millis())
}

/// What begins a transaction of steps none of which takes long.
pub(crate) fn begin_briefly() -> String {
    format!("BEGIN; SET LOCAL idle_in_transaction_session_timeout = {IDLE_MS_MAX}")
}

/// Rows on their way into a table.
pub(crate) struct Copy<'a> {
    pub(crate) client: &'a Client,
    pub(crate) writing: &'a Writing,
    /// Batches, each given as its columns.
    pub(crate) batches: &'a [Vec<ArrayRef>],
    /// What begins the transaction.
    pub(crate) begin: String,
    /// Answers whether a key is there already; none where the table has no key.
    pub(crate) probe: Option<Statement>,
}

/// What came of rows that were taken to be all of new keys, or all of known ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The rows are stored, and the marker was moved.
    Moved,
    /// The marker could not be moved: nothing is stored.
    NotMoved,
    /// They are not: nothing is stored.
    Refused,
}

/// Copies the rows, moves the marker, and commits.
pub(crate) async fn copy(rows: Copy<'_>, (moving, move_sql): (&Move<'_>, &str)) -> Result<Outcome> {
    let Copy { client, writing, batches, begin, probe } = rows;
    let here = || format!("the rows can't be copied into {}", writing.table);
    let sql = format!("COPY {} ({}) FROM STDIN (FORMAT binary)", writing.table, writing.columns());
    let (begun, known, prepared) =
        join!(client.batch_execute(&begin), is_known(client, probe.as_ref()), client.prepare(&sql));
    begun.map_err(|e| failed(here(), e))?;
    let known = known?;
    let statement = prepared.map_err(|e| failed(here(), e))?;
    if known {
        drop(statement);
        return give_up(client).await;
    }
    let sink = client.copy_in::<_, Cursor<Vec<u8>>>(&statement).await.map_err(|e| failed(here(), e))?;
    let mut sink = pin!(sink);
    let mut piece = HEADER.to_vec();
    for columns in batches {
        let writers = columns.iter().zip(&writing.targets).map(|(column, target)| writer(column, &target.wire));
        let writers = writers.collect::<Result<Vec<_>>>()?;
        let fields =
            i16::try_from(writers.len()).map_err(|_| Error::config("a table has more columns than there can be"))?;
        let rows = columns.first().map_or(0, |column| column.len());
        for row in 0..rows {
            piece.extend_from_slice(&fields.to_be_bytes());
            for (write, target) in writers.iter().zip(&writing.targets) {
                write(row, &mut piece).map_err(|e| e.at(format_args!("the column '{}'", target.name)))?;
            }
            if piece.len() >= PIECE_BYTES {
                let full = std::mem::replace(&mut piece, Vec::with_capacity(PIECE_BYTES + (PIECE_BYTES >> 2)));
                sink.send(Cursor::new(full)).await.map_err(|e| failed(here(), e))?;
            }
        }
    }
    piece.extend_from_slice(TRAILER);
    sink.send(Cursor::new(piece)).await.map_err(|e| failed(here(), e))?;
    let parameters = moving.parameters();
    // The move is on its way while the server takes in the last rows; where they fail, so does it.
    let (copied, moved) = join!(sink.as_mut().finish(), client.execute_typed(move_sql, &parameters));
    if let Err(error) = copied {
        let taken = error.code().is_some_and(|code| code.code() == UNIQUE_VIOLATION);
        if taken && probe.is_some() {
            drop(statement);
            return give_up(client).await;
        }
        return Err(failed(here(), error));
    }
    let moved = moved.map_err(|e| failed("the marker can't be moved", e))?;
    // IMPORTANT: the named statement is gone before the transaction ends; behind a pool the connection is another one then.
    drop(statement);
    let end = if moved == 1 { "COMMIT" } else { "ROLLBACK" };
    client.batch_execute(end).await.map_err(|e| failed("the transaction can't be ended", e))?;
    Ok(if moved == 1 { Outcome::Moved } else { Outcome::NotMoved })
}

/// Whether one of the keys that are asked for is in the table.
async fn is_known(client: &Client, probe: Option<&Statement>) -> Result<bool> {
    let Some(probe) = probe else { return Ok(false) };
    let parameters = probe.values.iter().map(|(value, kind)| (value as &(dyn ToSql + Sync), kind.clone()));
    let parameters: Vec<_> = parameters.collect();
    let answer = client.query_typed_one(&probe.sql, &parameters).await;
    value(&answer.map_err(|e| failed("the keys can't be looked up", e))?, 0)
}

/// Ends a transaction without effect.
pub(crate) async fn give_up(client: &Client) -> Result<Outcome> {
    client.batch_execute("ROLLBACK").await.map_err(|e| failed("the transaction can't be ended", e))?;
    Ok(Outcome::Refused)
}
