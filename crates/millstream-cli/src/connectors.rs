//! Every connector that this binary was built with.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use millstream::core::lookup::LookupTable;
use millstream::core::sink::{OutputKind, Sink};
use millstream::core::source::SourceTable;
use millstream::io::options::nearest;
use millstream::io::{TableSpec, sink, source};
use millstream::sql::{BuiltIn, Connectors, LookupConnectors};
use millstream::{Error, Result};

const KAFKA: [&str; 2] = ["kafka", "upsert-kafka"];

/// The connectors of this binary: the same for every command.
pub fn installed() -> Arc<dyn Connectors> {
    Arc::new(Installed)
}

#[derive(Debug)]
struct Installed;

/// The crate that a table's connector is in.
enum Home {
    BuiltIn,
    Kafka,
    Postgres,
}

impl Home {
    fn of(table: &TableSpec) -> Self {
        match table.options.get("connector") {
            Some(name) if KAFKA.contains(&name) => Self::Kafka,
            Some(name) if millstream_postgres::CONNECTORS.contains(&name) => Self::Postgres,
            _ => Self::BuiltIn,
        }
    }
}

impl Connectors for Installed {
    fn source(&self, table: &TableSpec) -> Result<Arc<dyn SourceTable>> {
        match Home::of(table) {
            Home::BuiltIn => {
                known(table, "reads rows", &[&source::CONNECTORS, &KAFKA]).and_then(|()| BuiltIn.source(table))
            }
            Home::Kafka => kafka_source(table),
            Home::Postgres => Err(Error::config(
                "PostgreSQL is written to or looked up, not streamed: join the table FOR SYSTEM_TIME AS OF PROCTIME(), read \
                 what was exported, or stream its changes through Kafka",
            )),
        }
    }

    fn infer(&self, path: &str, base_dir: &Path) -> Result<TableSpec> {
        BuiltIn.infer(path, base_dir)
    }

    fn sink(&self, table: &TableSpec, query: &str, kind: OutputKind, schema: SchemaRef) -> Result<Box<dyn Sink>> {
        match Home::of(table) {
            Home::BuiltIn => {
                known(table, "is written to", &[sink::CONNECTORS, &KAFKA, millstream_postgres::CONNECTORS])?;
                BuiltIn.sink(table, query, kind, schema)
            }
            Home::Kafka => kafka_sink(table, query, kind, schema),
            Home::Postgres => millstream_postgres::sink(table, query, kind, schema),
        }
    }

    fn lookups(&self) -> Option<&dyn LookupConnectors> {
        Some(self)
    }
}

impl LookupConnectors for Installed {
    fn is_lookup(&self, table: &TableSpec) -> bool {
        matches!(Home::of(table), Home::Postgres)
    }

    fn lookup(&self, table: &TableSpec, key: &[String]) -> Result<Arc<dyn LookupTable>> {
        Ok(Arc::new(millstream_postgres::Lookup::new(table, key)?))
    }
}

/// Where the table names a connector, it is one of these.
fn known(table: &TableSpec, what: &str, connectors: &[&[&str]]) -> Result<()> {
    let all = || connectors.iter().flat_map(|some| some.iter().copied());
    match table.options.get("connector") {
        Some(name) if !all().any(|known| known == name) => {
            let hint = nearest(name, all()).map(|near| format!("; did you mean '{near}'?")).unwrap_or_default();
            let all: Vec<_> = all().map(|known| format!("'{known}'")).collect();
            let message = format!("there is no connector '{name}' that {what}: there are {}{hint}", all.join(", "));
            Err(Error::config(message).at(format_args!("table '{}'", table.name)))
        }
        _ => Ok(()),
    }
}

#[cfg(feature = "kafka")]
fn kafka_source(table: &TableSpec) -> Result<Arc<dyn SourceTable>> {
    millstream_kafka::source_table(table)
}

#[cfg(feature = "kafka")]
fn kafka_sink(table: &TableSpec, query: &str, kind: OutputKind, schema: SchemaRef) -> Result<Box<dyn Sink>> {
    millstream_kafka::sink(table, query, kind, schema)
}

#[cfg(not(feature = "kafka"))]
fn kafka_source(_: &TableSpec) -> Result<Arc<dyn SourceTable>> {
    Err(without_kafka())
}

#[cfg(not(feature = "kafka"))]
fn kafka_sink(_: &TableSpec, _: &str, _: OutputKind, _: SchemaRef) -> Result<Box<dyn Sink>> {
    Err(without_kafka())
}

#[cfg(not(feature = "kafka"))]
fn without_kafka() -> Error {
    Error::config(
        "this binary was built without the Kafka client: build it with `cargo build --release --features kafka`, \
         which takes perl and make beside the C compiler",
    )
}
