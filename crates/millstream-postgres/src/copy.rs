//! Rows by COPY in its binary format: the fastest way in, for rows that are only added.
//!
//! The marker is moved after the rows, so that its row is locked for a moment only, whoever hangs while copying.

use std::io::Cursor;
use std::pin::pin;
use std::time::Duration;

use arrow::array::{Array, ArrayRef};
use futures::{SinkExt, join};
use millstream_core::{Error, Result};
use tokio_postgres::Client;

use crate::encode::writer;
use crate::failure::failed;
use crate::marker::Move;
use crate::statement::Writing;

/// Bytes that are sent at once.
const PIECE_BYTES: usize = 128 << 10;

const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: &[u8] = &(-1i16).to_be_bytes();

/// How long a transaction of ours may lie still: then its owner hangs, and others wait for its locks.
const IDLE_MS_MAX: u32 = 10_000;

/// What begins a transaction of several steps.
pub(crate) fn begin(timeout: Duration) -> String {
    format!(
        "BEGIN; SET LOCAL idle_in_transaction_session_timeout = {IDLE_MS_MAX}; SET LOCAL statement_timeout = {}",
        timeout.as_millis()
    )
}

/// Copies these batches, each given as its columns, moves the marker, and commits. Answers whether the marker moved;
/// where it did not, nothing is stored.
pub(crate) async fn copy(
    client: &Client,
    writing: &Writing,
    batches: &[Vec<ArrayRef>],
    moving: (&Move<'_>, &str),
    timeout: Duration,
) -> Result<bool> {
    let here = || format!("the rows can't be copied into {}", writing.table);
    let sql = format!("COPY {} ({}) FROM STDIN (FORMAT binary)", writing.table, writing.columns());
    let begin = begin(timeout);
    let (begun, prepared) = join!(client.batch_execute(&begin), client.prepare(&sql));
    begun.map_err(|e| failed(here(), e))?;
    let statement = prepared.map_err(|e| failed(here(), e))?;
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
    let (moving, move_sql) = moving;
    let parameters = moving.parameters();
    // The move is on its way while the server takes in the last rows; where they fail, so does it.
    let (copied, moved) = join!(sink.as_mut().finish(), client.execute_typed(move_sql, &parameters));
    copied.map_err(|e| failed(here(), e))?;
    let moved = moved.map_err(|e| failed("the marker can't be moved", e))?;
    // IMPORTANT: the named statement is gone before the transaction ends; behind a pool the connection is another one then.
    drop(statement);
    let end = if moved == 1 { "COMMIT" } else { "ROLLBACK" };
    client.batch_execute(end).await.map_err(|e| failed("the transaction can't be ended", e))?;
    Ok(moved == 1)
}
