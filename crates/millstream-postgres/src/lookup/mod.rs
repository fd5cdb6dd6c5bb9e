//! Rows of a table by key, as they are now or as they were a short while ago.
//!
//! All keys of a call that are not in the cache are asked for by one statement, in one round trip: each key column is
//! an array parameter, and a number says which key an answer belongs to. The statement is not prepared, so that a pool
//! in transaction mode may stand between.

mod cache;
mod decode;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use millstream_core::lookup::{LookupTable, answer_schema};
use millstream_core::{Error, ErrorKind, Result};
use millstream_io::TableSpec;
use tokio_postgres::types::{FromSql, ToSql, Type};

use self::cache::{Cache, RawRow};
use self::decode::{asked, column};
use crate::connect::{Endpoint, Session};
use crate::encode::{array_of, canonical, writer};
use crate::failure::failed;
use crate::name::{TableName, quoted};
use crate::statement::Value;
use crate::table::{Table, Target, value};
use crate::wire::{meant, sql_name};

/// How many rows are remembered where the options do not say.
const CACHE_ROWS: usize = 10_000;
/// How long they are remembered where the options do not say.
const EXPIRE_AFTER: Duration = Duration::from_secs(60);
/// How long one call may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A table of PostgreSQL that is looked up by key.
pub struct Lookup {
    endpoint: Endpoint,
    table: TableName,
    schema: SchemaRef,
    key: Vec<usize>,
    cache: Option<Mutex<Cache>>,
    /// The connections that rest.
    idle: Mutex<Vec<Ready>>,
}

/// A connection with the table as it was found there.
struct Ready {
    session: Session,
    key: Vec<Target>,
    sql: String,
}

impl Lookup {
    /// A table that is looked up by these columns; touches nothing before the first key is asked for. The answers have
    /// the columns of the table as it was declared.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] where an option is not known or means nothing, or a key is no column.
    pub fn new(spec: &TableSpec, key: &[String]) -> Result<Self> {
        let lookup = Self::from_options(spec, key).and_then(|lookup| spec.options.finish().map(|()| lookup));
        lookup.map_err(|e| e.at(format_args!("table '{}'", spec.name)))
    }

    fn from_options(spec: &TableSpec, key: &[String]) -> Result<Self> {
        let options = &spec.options;
        options.get("connector");
        // The same table may be written to by another query.
        options.with_prefix("sink.");
        let places = key.iter().map(|name| {
            let place = spec.schema.index_of(name).ok();
            place.ok_or_else(|| Error::config(format!("the key '{name}' is no column of the table")))
        });
        let key = places.collect::<Result<Vec<_>>>()?;
        if key.is_empty() {
            return Err(Error::config("a table is looked up by at least one column"));
        }
        let cached = options.one_of("lookup.cache", &[("NONE", false), ("PARTIAL", true)])?.unwrap_or(false);
        let rows_max = options.parsed("lookup.partial-cache.max-rows")?;
        let expire_after = options.duration("lookup.partial-cache.expire-after-write")?;
        if !cached && (rows_max.is_some() || expire_after.is_some()) {
            return Err(Error::config(
                "'lookup.partial-cache.*' is for 'lookup.cache' = 'PARTIAL': add it, or leave them out",
            ));
        }
        let cache = Cache::new(rows_max.unwrap_or(CACHE_ROWS), expire_after.unwrap_or(EXPIRE_AFTER));
        Ok(Self {
            endpoint: Endpoint::new(options, &spec.base_dir)?,
            table: TableName::parse("table-name", options.required("table-name")?)?,
            schema: spec.schema.clone(),
            key,
            cache: cached.then(|| Mutex::new(cache)),
            idle: Mutex::default(),
        })
    }

    async fn connected(&self) -> Result<Ready> {
        let session = self.endpoint.connect().await?;
        let client = session.client()?;
        let table = Table::find(client, &self.table).await?;
        let table =
            table.ok_or_else(|| Error::config(format!("the table {} is not there: check 'table-name'", self.table)))?;
        let types = table.types(client, &self.schema).await?;
        let mut columns = Vec::new();
        for (field, (pg, text)) in self.schema.fields().iter().zip(&types) {
            let asked = asked(field.data_type(), &pg.name).ok_or_else(|| {
                Error::config(format!(
                    "the column {} is {} in the table {} and can't be read as {}: declare it as {}",
                    quoted(field.name()),
                    text,
                    table.name,
                    sql_name(field.data_type()),
                    meant(pg).unwrap_or_else(|| "STRING".into())
                ))
            })?;
            columns.push(format!("t.{}::{asked}", quoted(field.name())));
        }
        let (mut asks, mut on, mut key) = (Vec::new(), Vec::new(), Vec::new());
        for (n, place) in self.key.iter().enumerate() {
            let (Some(field), Some((pg, text))) = (self.schema.fields().get(*place), types.get(*place)) else {
                return Err(Error::bug("a key is no column"));
            };
            asks.push(format!("unnest(${}) AS k{n}", n + 2));
            on.push(format!("t.{} = k.k{n}", quoted(field.name())));
            key.push(table.key_target(field, pg, text)?);
        }
        let sql = format!(
            "SELECT k.n, {} FROM (SELECT unnest($1) AS n, {}) AS k JOIN {} AS t ON {}",
            columns.join(", "),
            asks.join(", "),
            table.name,
            on.join(" AND ")
        );
        Ok(Ready { session, key, sql })
    }

    /// The rows of these rows of keys, each with its number among them. A connection that broke while it rested is
    /// made again: nothing is lost by asking twice.
    async fn ask(&self, keys: &[ArrayRef], rows: &[usize]) -> Result<Vec<(usize, RawRow)>> {
        let rested = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(ready) = rested {
            match self.ask_by(ready, keys, rows).await {
                Err(error) if error.kind() == ErrorKind::Retry => {}
                answered => return answered,
            }
        }
        let ready = self.connected().await?;
        self.ask_by(ready, keys, rows).await
    }

    async fn ask_by(&self, ready: Ready, keys: &[ArrayRef], rows: &[usize]) -> Result<Vec<(usize, RawRow)>> {
        let numbers: Vec<i32> = (0..rows.len()).filter_map(|n| i32::try_from(n).ok()).collect();
        let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> = vec![(&numbers, Type::INT4_ARRAY)];
        let mut values = Vec::new();
        for (column, target) in keys.iter().zip(&ready.key) {
            let column = canonical(column, &target.wire)?;
            let write = writer(&column, &target.wire)?;
            let mut bytes = Vec::new();
            array_of(target.oid, rows.len(), false, &mut bytes, |out| {
                rows.iter().try_for_each(|row| write(*row, out))
            })?;
            values.push((Value::new(bytes), target.many.clone()));
        }
        parameters.extend(values.iter().map(|(value, kind)| (value as &(dyn ToSql + Sync), kind.clone())));
        let answered = ready.session.client()?.query_typed(&ready.sql, &parameters).await;
        let answered = answered.map_err(|e| failed(format_args!("the table {} can't be looked up", self.table), e))?;
        let mut found = Vec::with_capacity(answered.len());
        for row in &answered {
            let n: i32 = value(row, 0)?;
            let cells = (1..row.len()).map(|n| Ok(value::<Option<Raw<'_>>>(row, n)?.map(|raw| raw.0.into())));
            found.push((usize::try_from(n).unwrap_or_default(), cells.collect::<Result<Vec<_>>>()?.into()));
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(ready);
        Ok(found)
    }

    /// What is known of these keys.
    fn known(&self, keys: &[&[u8]]) -> Vec<Option<Arc<[RawRow]>>> {
        let Some(cache) = &self.cache else { return vec![None; keys.len()] };
        let (mut cache, now) = (cache.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        keys.iter().map(|key| cache.get(key, now)).collect()
    }

    fn remember(&self, key: &[u8], rows: Arc<[RawRow]>, asked: Instant) {
        if let Some(cache) = &self.cache {
            cache.lock().unwrap_or_else(PoisonError::into_inner).put(key, rows, asked);
        }
    }

    async fn answer(&self, keys: &RecordBatch) -> Result<RecordBatch> {
        // Each key is asked for once. Here only equal bytes are equal: another spelling is another question.
        let nullable = keys.columns().iter().map(|column| column.logical_nulls()).collect::<Vec<_>>();
        let (bytes, ends) = key_bytes(keys.columns())?;
        let mut places: HashMap<&[u8], usize> = HashMap::new();
        let (mut distinct, mut first_rows, mut place_of_row) = (Vec::new(), Vec::new(), Vec::new());
        let mut start = 0;
        for (row, end) in ends.iter().enumerate() {
            let key = bytes.get(start..*end).unwrap_or_default();
            start = *end;
            if nullable.iter().flatten().any(|nulls| nulls.is_null(row)) {
                place_of_row.push(None);
                continue;
            }
            let place = *places.entry(key).or_insert_with(|| {
                distinct.push(key);
                first_rows.push(row);
                distinct.len() - 1
            });
            place_of_row.push(Some(place));
        }
        let mut answers = self.known(&distinct);
        let unknown: Vec<usize> = (0..answers.len()).filter(|n| answers.get(*n).is_some_and(Option::is_none)).collect();
        if !unknown.is_empty() {
            let asked = Instant::now();
            let rows: Vec<usize> = unknown.iter().filter_map(|n| first_rows.get(*n).copied()).collect();
            let mut found: Vec<Vec<RawRow>> = vec![Vec::new(); unknown.len()];
            for (n, row) in self.ask(keys.columns(), &rows).await? {
                found.get_mut(n).ok_or_else(|| Error::bug("an answer belongs to no key"))?.push(row);
            }
            for (place, rows) in unknown.into_iter().zip(found) {
                let rows: Arc<[RawRow]> = rows.into();
                if let (Some(answer), Some(key)) = (answers.get_mut(place), distinct.get(place)) {
                    self.remember(key, Arc::clone(&rows), asked);
                    *answer = Some(rows);
                }
            }
        }
        let mut key_rows = Vec::new();
        let mut rows = Vec::new();
        for (row, place) in place_of_row.into_iter().enumerate() {
            let answer = place.and_then(|place| answers.get(place)).and_then(Option::as_ref);
            for raw in answer.into_iter().flat_map(|rows| rows.iter()) {
                key_rows.push(u32::try_from(row).map_err(|_| Error::bug("more keys than there can be in a batch"))?);
                rows.push(raw);
            }
        }
        let mut columns: Vec<ArrayRef> = vec![Arc::new(UInt32Array::from(key_rows))];
        for (n, field) in self.schema.fields().iter().enumerate() {
            let values = rows.iter().map(|row| row.get(n).and_then(Option::as_deref));
            let place = || format!("the column '{}' of {}", field.name(), self.table);
            let made = column(field.data_type(), values).map_err(|e| e.at(place()))?;
            if !field.is_nullable() && made.null_count() > 0 {
                return Err(Error::input(format!("{} is NULL in a row, and declared NOT NULL", place())));
            }
            columns.push(made);
        }
        Ok(RecordBatch::try_new(answer_schema(&self.schema), columns)?)
    }
}

#[async_trait]
impl LookupTable for Lookup {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn key(&self) -> &[usize] {
        &self.key
    }

    async fn get(&self, keys: &RecordBatch) -> Result<RecordBatch> {
        if keys.num_columns() != self.key.len() {
            return Err(Error::bug(format!(
                "{} key columns came to a lookup by {}",
                keys.num_columns(),
                self.key.len()
            )));
        }
        let answered = tokio::time::timeout(TIMEOUT, self.answer(keys)).await;
        answered.unwrap_or_else(|_| {
            Err(Error::retry(format!("{} was not answered by for {} s", self.table, TIMEOUT.as_secs())))
        })
    }
}

/// The bytes of any type.
struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> std::result::Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// The rows of keys as bytes, and where each ends.
fn key_bytes(columns: &[ArrayRef]) -> Result<(Vec<u8>, Vec<usize>)> {
    let fields = columns.iter().map(|column| arrow::row::SortField::new(column.data_type().clone())).collect();
    let converter = arrow::row::RowConverter::new(fields)?;
    let rows = converter.convert_columns(columns)?;
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for row in &rows {
        bytes.extend_from_slice(row.as_ref());
        ends.push(bytes.len());
    }
    Ok((bytes, ends))
}
