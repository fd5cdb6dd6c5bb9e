//! What operators remember, as tables for a person: `state.<operator>`, out of the newest checkpoint of each query.
//!
//! A checkpoint is some time behind a query that runs, and of one that was stopped cleanly it is the last word. `check`
//! says what the operators of a query are called.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use millstream_core::disk::RealDisk;
use millstream_core::{Error, Result};
use millstream_state::{StoredTable, stored_tables};

/// The name of the table that lists the others, and what theirs begin with.
const STATE: &str = "state";

/// The states of queries, given with the directories of their logs, as tables by name: `state.<operator>` is what an
/// operator keeps under its first table, `state.<operator>.<table>` each of its tables. Where two queries have an operator
/// of one name, `state.<query>.<operator>`. `state` lists them all.
///
/// # Errors
/// Where a checkpoint can't be read.
pub fn tables(queries: &[(String, PathBuf)]) -> Result<Vec<(String, Arc<dyn TableProvider>)>> {
    let mut stored: Vec<(String, StoredTable)> = vec![];
    let mut owners: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (query, log_dir) in queries {
        for table in
            stored_tables(&RealDisk, &log_dir.with_file_name(STATE)).map_err(|e| e.at(format!("query {query}")))?
        {
            let owners = owners.entry(table.operator.clone()).or_default();
            if owners.last() != Some(query) {
                owners.push(query.clone());
            }
            stored.push((query.clone(), table));
        }
    }
    let mut tables: Vec<(String, Arc<dyn TableProvider>)> = vec![];
    let mut named: Vec<(String, usize)> = vec![];
    for (number, (query, table)) in stored.iter().enumerate() {
        let shared = owners.get(&table.operator).is_some_and(|owners| owners.len() > 1);
        let operator = match shared {
            true => format!("{STATE}.{query}.{}", table.operator),
            false => format!("{STATE}.{}", table.operator),
        };
        let is_first = number
            .checked_sub(1)
            .and_then(|n| stored.get(n))
            .is_none_or(|(before_query, before)| (before_query, &before.operator) != (query, &table.operator));
        let provider = provider(table)?;
        if is_first {
            tables.push((operator.clone(), Arc::clone(&provider)));
        }
        let name = format!("{operator}.{}", table.table);
        named.push((name.clone(), number));
        tables.push((name, provider));
    }
    tables.push((STATE.to_string(), list(&stored, &named)?));
    Ok(tables)
}

fn provider(table: &StoredTable) -> Result<Arc<dyn TableProvider>> {
    mem_table(Arc::clone(&table.schema), table.rows.clone())
}

fn mem_table(schema: Arc<Schema>, rows: Vec<RecordBatch>) -> Result<Arc<dyn TableProvider>> {
    let table = MemTable::try_new(schema, vec![rows]);
    Ok(Arc::new(table.map_err(|e| Error::bug("what an operator keeps makes no table").caused_by(e))?))
}

/// Every table with whose it is and how large.
fn list(stored: &[(String, StoredTable)], named: &[(String, usize)]) -> Result<Arc<dyn TableProvider>> {
    let text = |name| Field::new(name, DataType::Utf8, false);
    let number = |name| Field::new(name, DataType::UInt64, false);
    let fields = vec![text("query"), text("operator"), text("kind"), text("table"), number("rows"), number("batch")];
    let schema = Arc::new(Schema::new(fields));
    let of = |(name, at): &(String, usize)| stored.get(*at).map(|(query, table)| (name.clone(), query.clone(), table));
    let rows: Vec<_> = named.iter().filter_map(of).collect();
    let texts = |text: &dyn Fn(&(String, String, &StoredTable)) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(text)))
    };
    let numbers = |number: &dyn Fn(&StoredTable) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|(.., table)| number(table))))
    };
    let columns = vec![
        texts(&|r| r.1.clone()),
        texts(&|r| r.2.operator.clone()),
        texts(&|r| r.2.kind.clone()),
        texts(&|r| r.0.clone()),
        numbers(&|t| t.rows.iter().map(|b| b.num_rows() as u64).sum()),
        numbers(&|t| t.batch),
    ];
    mem_table(Arc::clone(&schema), vec![RecordBatch::try_new(schema, columns)?])
}
