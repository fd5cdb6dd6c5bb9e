//! Kafka as source and as sink.
//!
//! The connectors 'kafka' and 'upsert-kafka', with Flink's names for their options. The sink is transactional: the
//! records of a batch and the marker of the batch are one transaction. Nothing outside of this crate knows the client
//! (librdkafka), so that it can be exchanged.

mod avro;
mod client;
mod native;
mod sink;
mod source;
mod table;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use millstream_core::Result;
use millstream_core::sink::{Guarantee, OutputKind, Sink};
use millstream_core::source::SourceTable;
use millstream_io::TableSpec;
use millstream_io::sink::Description;

pub use sink::KafkaSink;
pub use source::KafkaTable;

/// The connectors of this crate.
pub const CONNECTORS: &[&str] = &["kafka", "upsert-kafka"];

/// The table that a declaration describes, to be read from. It talks to nobody before it is read.
///
/// # Errors
/// [`millstream_core::ErrorKind::Config`] where an option is missing, wrong or unknown.
pub fn source_table(spec: &TableSpec) -> Result<Arc<dyn SourceTable>> {
    let built = KafkaTable::new(spec);
    let built = built.and_then(|built| spec.options.finish().map(|()| built));
    built.map(|table| Arc::new(table) as _).map_err(|e| e.at(format_args!("the table '{}'", spec.name)))
}

/// The sink of a table for one query. `schema` is what will be published: with the `op` column where the output is a
/// changelog.
///
/// # Errors
/// [`millstream_core::ErrorKind::Config`] where an option is missing, not known or means nothing, and
/// [`millstream_core::ErrorKind::Query`] where the topic can't say what the rows mean.
pub fn sink(spec: &TableSpec, query: &str, kind: OutputKind, schema: SchemaRef) -> Result<Box<dyn Sink>> {
    let built = millstream_io::sink::refuse_partitions(spec).and_then(|()| KafkaSink::new(spec, query, kind, &schema));
    let built = built.and_then(|built| spec.options.finish().map(|()| built));
    built.map(|sink| Box::new(sink) as _).map_err(|e| e.at(format_args!("table '{}'", spec.name)))
}

/// What the table does as a sink, without making one and without looking its secrets up.
///
/// # Errors
/// [`millstream_core::ErrorKind::Config`] where an option is missing, not known or means nothing.
pub fn describe(spec: &TableSpec) -> Result<Description> {
    let described = || {
        let layout = table::Layout::new(spec)?;
        let guarantee = sink::guarantee(spec)?;
        let how = match guarantee {
            Guarantee::AtLeastOnce => "at least once",
            _ => "one transaction a batch",
        };
        let text = format!("kafka {} ({}, {how})", layout.topics, layout.value.format());
        Ok(Description { guarantee, text })
    };
    described().map_err(|e: millstream_core::Error| e.at(format_args!("table '{}'", spec.name)))
}
