//! The contract of a table that is looked up by key: the other side of a join that asks for rows as they are now.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;

use crate::error::Result;

/// The first column of an answer: `UInt32`, never null, the row of the keys that the answer belongs to.
pub const KEY_ROW: &str = "key_row";

/// Answers the rows of a table by key.
///
/// An answer is what the table holds when it is asked, or, where the table keeps a cache, what it held at most so long
/// ago as its options say. It is no function of the keys: whoever wants a batch to give the same rows when it is run
/// again records the answers.
///
/// **Concurrency.** Calls may overlap. A call that is dropped leaves nothing behind.
///
/// **Errors.** [`crate::ErrorKind::Retry`] where the same call may work later, [`crate::ErrorKind::Config`] where the
/// table is not what was declared, [`crate::ErrorKind::Input`] where it holds a value that the declared type can't.
#[async_trait]
pub trait LookupTable: Send + Sync {
    /// The columns of the table that are answered.
    fn schema(&self) -> SchemaRef;

    /// The places in [`LookupTable::schema`] of the columns by which is asked.
    fn key(&self) -> &[usize];

    /// The rows that have one of these keys. The columns of `keys` are those of [`LookupTable::key`], in that order and
    /// of their types. The answer has the columns of [`answer_schema`]; a key that is in several rows of `keys` is
    /// answered for each of them, one with a NULL is answered by no row. Answers are in the order of the rows of `keys`.
    async fn get(&self, keys: &RecordBatch) -> Result<RecordBatch>;
}

/// The columns of an answer: [`KEY_ROW`], and then those of the table.
pub fn answer_schema(table: &Schema) -> SchemaRef {
    let key_row = Arc::new(Field::new(KEY_ROW, DataType::UInt32, false));
    Arc::new(Schema::new(std::iter::once(key_row).chain(table.fields().iter().cloned()).collect::<Vec<_>>()))
}
