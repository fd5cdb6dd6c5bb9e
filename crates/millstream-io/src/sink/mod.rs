//! Sinks that need no service: files, the terminal, nothing.
//!
//! [`sink`] makes the one that a table's options name, and touches nothing: a sink begins its work when it is
//! opened. [`describe`] says what a reader can count on, for `check`.

pub mod blackhole;
pub mod filesystem;
pub mod print;

use arrow::datatypes::SchemaRef;
use millstream_core::sink::{Guarantee, OutputKind, Sink};
use millstream_core::{Error, Result};

use crate::TableSpec;
use crate::options::nearest;

pub use blackhole::BlackholeSink;
pub use filesystem::FilesystemSink;
pub use print::{PrintFormat, PrintSink};

/// The sinks of this crate.
pub const CONNECTORS: &[&str] = &["filesystem", "print", "blackhole"];

/// What a table does as a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// What a reader can count on.
    pub guarantee: Guarantee,
    /// What is written and where, for a person.
    pub text: String,
}

/// The sink of a table for one query. `schema` is what will be published: with the `op` column where the
/// output is a changelog.
///
/// # Errors
/// [`millstream_core::ErrorKind::Config`] where the connector or an option is not known or means nothing.
pub fn sink(spec: &TableSpec, query: &str, kind: OutputKind, schema: SchemaRef) -> Result<Box<dyn Sink>> {
    let built: Result<Box<dyn Sink>> = match spec.options.required("connector")? {
        "filesystem" => FilesystemSink::new(spec, query, &schema).map(|sink| Box::new(sink) as _),
        "print" => refuse_partitions(spec)
            .and_then(|()| PrintSink::from_options(&spec.options, kind, &schema))
            .map(|sink| Box::new(sink) as _),
        "blackhole" => refuse_partitions(spec).map(|()| Box::new(BlackholeSink::default()) as _),
        other => Err(unknown(other)),
    };
    let built = built.and_then(|built| spec.options.finish().map(|()| built));
    built.map_err(|e| e.at(format_args!("table '{}'", spec.name)))
}

/// For a sink that has no use for PARTITIONED BY: it must not be thought to do something.
///
/// # Errors
/// [`millstream_core::ErrorKind::Config`] where the table is declared with it.
pub fn refuse_partitions(spec: &TableSpec) -> Result<()> {
    if spec.partitioned_by.is_empty() {
        return Ok(());
    }
    Err(Error::config(format!(
        "PARTITIONED BY ({}) puts the rows of files into directories, and this connector writes no files: remove it",
        spec.partitioned_by.join(", ")
    )))
}

/// What the table does as a sink, without making one.
///
/// # Errors
/// [`millstream_core::ErrorKind::Config`] where the connector or an option is not known or means nothing.
pub fn describe(spec: &TableSpec) -> Result<Description> {
    let described = match spec.options.required("connector")? {
        "filesystem" => filesystem::describe(spec).map(|text| (Guarantee::ExactlyOnce, text)),
        "print" => Ok((Guarantee::AtLeastOnce, "print to the terminal".to_string())),
        "blackhole" => Ok((Guarantee::AtLeastOnce, "blackhole: rows are counted and dropped".to_string())),
        other => Err(unknown(other)),
    };
    let (guarantee, text) = described.map_err(|e| e.at(format_args!("table '{}'", spec.name)))?;
    Ok(Description { guarantee, text })
}

fn unknown(connector: &str) -> Error {
    let hint = match nearest(connector, CONNECTORS.iter().copied()) {
        Some(near) => format!("did you mean '{near}'?"),
        None => "it can be 'filesystem', 'print' or 'blackhole'".to_string(),
    };
    Error::config(format!("there is no sink for the connector '{connector}': {hint}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn spec(options: &[(&str, &str)]) -> TableSpec {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        TableSpec {
            name: "t".into(),
            schema,
            options: options.iter().copied().collect(),
            partitioned_by: vec![],
            primary_key: vec![],
            base_dir: "/nowhere".into(),
        }
    }

    fn refusal(options: &[(&str, &str)]) -> String {
        let spec = spec(options);
        let schema = spec.schema.clone();
        sink(&spec, "q", OutputKind::Append, schema).err().unwrap().to_string()
    }

    #[test]
    fn a_connector_or_an_option_that_nobody_knows_gets_a_did_you_mean() {
        let error = refusal(&[("connector", "filesytem")]);
        assert_eq!(error, "table 't': there is no sink for the connector 'filesytem': did you mean 'filesystem'?");
        let error = refusal(&[("connector", "print"), ("print.fromat", "json")]);
        assert_eq!(error, "table 't': the option 'print.fromat' is not known here; did you mean 'print.format'?");
        let error = refusal(&[("connector", "datagen")]);
        assert!(error.ends_with("it can be 'filesystem', 'print' or 'blackhole'"), "{error}");
    }

    #[test]
    fn partitions_of_what_writes_no_files_are_refused() {
        for connector in ["print", "blackhole"] {
            let mut spec = spec(&[("connector", connector)]);
            spec.partitioned_by = vec!["n".into()];
            let schema = spec.schema.clone();
            let error = sink(&spec, "q", OutputKind::Append, schema).err().unwrap().to_string();
            assert!(error.contains("PARTITIONED BY (n)"), "{error}");
        }
    }

    #[test]
    fn layouts_that_cannot_be_are_refused_before_anything_is_touched() {
        let parquet = [("connector", "filesystem"), ("path", "o"), ("format", "parquet"), ("sink.layout", "append")];
        assert!(refusal(&parquet).contains("a file of Parquet or Avro cannot grow"));
        assert!(refusal(&[("connector", "filesystem"), ("format", "json")]).contains("'path' is missing"));
        assert!(refusal(&[("connector", "filesystem"), ("path", "s3://b/k"), ("format", "json")]).contains("s3://b/k"));
    }

    #[test]
    fn a_sink_says_its_guarantee_before_it_is_opened() {
        let options = [("connector", "filesystem"), ("path", "out"), ("format", "json"), ("source.x", "1")];
        let spec = spec(&options);
        let description = describe(&spec).unwrap();
        assert_eq!(description.guarantee, Guarantee::ExactlyOnce);
        assert_eq!(description.text, "filesystem /nowhere/out (json, one file a batch)");
        let schema = spec.schema.clone();
        assert_eq!(sink(&spec, "q", OutputKind::Append, schema).unwrap().guarantee(), Guarantee::ExactlyOnce);
    }
}
