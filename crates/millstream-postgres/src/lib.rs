//! The `postgres` connector: a table of PostgreSQL as a sink that is exactly once, and as a table that is looked up by key.
//!
//! [`sink()`] makes the sink that a table's options name, and touches nothing: it connects when it is opened. One
//! transaction a batch holds the rows and the marker, which is moved from the batch before by compare-and-set; an owner
//! that was taken over moves nothing and stores nothing. No state of a session is relied on, so that a pool in
//! transaction mode may stand between.

mod changes;
mod connect;
mod copy;
mod encode;
mod failure;
mod guess;
mod lookup;
mod marker;
mod name;
mod numeric;
mod settings;
mod sink;
mod statement;
mod table;
mod tls;
mod wire;
mod writing;

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use millstream_core::sink::{Guarantee, OutputKind, Sink};
use millstream_core::{Error, Result};
use millstream_io::TableSpec;
use millstream_io::sink::Description;

use self::settings::Settings;
use self::table::{Wanted, has_place};

pub use self::lookup::Lookup;
pub use self::sink::PostgresSink;

/// The connectors of this crate: `jdbc` is Flink's name for it.
pub const CONNECTORS: &[&str] = &["postgres", "jdbc"];

/// The sink of a table for one query. `schema` is what will be published: with the `op` column where the output is a
/// changelog.
///
/// # Errors
/// [`millstream_core::ErrorKind::Config`] where an option is not known or means nothing, a changelog meets a table
/// without a PRIMARY KEY, or a column has no type in PostgreSQL.
pub fn sink(spec: &TableSpec, _query: &str, kind: OutputKind, schema: SchemaRef) -> Result<Box<dyn Sink>> {
    let built = millstream_io::sink::refuse_partitions(spec).and_then(|()| build(spec, kind, &schema));
    let built = built.map(|sink| Box::new(sink) as _);
    let built = built.and_then(|built| spec.options.finish().map(|()| built));
    built.map_err(|e| e.at(format_args!("table '{}'", spec.name)))
}

/// What the table does as a sink, without making one.
///
/// # Errors
/// [`millstream_core::ErrorKind::Config`] where an option means nothing.
pub fn describe(spec: &TableSpec) -> Result<Description> {
    spec.options.get("connector");
    let settings = Settings::new(spec).map_err(|e| e.at(format_args!("table '{}'", spec.name)))?;
    let how = match spec.primary_key.as_slice() {
        [] => "rows are added".to_string(),
        key => format!("upserts and deletes by {}", key.join(", ")),
    };
    let text = format!("postgres {} in {} ({how}, in one transaction a batch)", settings.table, settings.endpoint);
    Ok(Description { guarantee: Guarantee::ExactlyOnce, text })
}

fn build(spec: &TableSpec, kind: OutputKind, schema: &SchemaRef) -> Result<PostgresSink> {
    spec.options.get("connector");
    let settings = Settings::new(spec)?;
    if kind == OutputKind::Changelog && spec.primary_key.is_empty() {
        return Err(Error::config(
            "the query changes rows that it has emitted, and the table has no PRIMARY KEY by which they could be found: \
             declare 'PRIMARY KEY (..) NOT ENFORCED' in CREATE TABLE over the columns by which the query groups",
        ));
    }
    let columns = schema.fields().iter().skip(usize::from(kind == OutputKind::Changelog));
    let schema = Arc::new(Schema::new(columns.cloned().collect::<Vec<_>>()));
    if schema.fields().is_empty() {
        return Err(Error::config("a table without columns can't be written to"));
    }
    for field in schema.fields() {
        if !has_place(field.data_type()) {
            return Err(Error::config(format!(
                "the column '{}' is {}, for which PostgreSQL has no type: CAST it to STRING in the query",
                field.name(),
                field.data_type()
            )));
        }
    }
    if let Some(missing) = spec.primary_key.iter().find(|column| schema.field_with_name(column).is_err()) {
        return Err(Error::config(format!("the column '{missing}' of the PRIMARY KEY is not among the columns")));
    }
    let wanted = Wanted { schema, declared: spec.schema.clone(), key: spec.primary_key.clone() };
    Ok(PostgresSink::new(settings, kind, wanted))
}
