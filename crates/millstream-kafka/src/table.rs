//! What the options of a table say of its topic, whichever way it is used: key, value, formats, topic.

use std::fmt;
use std::path::PathBuf;

use millstream_core::{Error, Result};
use millstream_io::{METADATA_KEY, Options, TableSpec};
use regex::Regex;

use crate::avro::Registry;

/// Which of the two connectors a table names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connector {
    /// Every record is a row.
    Kafka,
    /// Every record is the newest row of its key, or its end.
    Upsert,
}

/// Which columns the value holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fields {
    All,
    ExceptKey,
}

/// A format with its own options.
#[derive(Clone, Debug)]
pub(crate) struct PartFormat {
    format: String,
    options: Options,
    prefix: String,
    /// What a schema registry calls the schema, unless the table says otherwise.
    subject: String,
    base_dir: PathBuf,
    /// How the options begin in the table, for messages: `key.`, `value.` or nothing.
    place: &'static str,
}

impl PartFormat {
    /// The format's name, in small letters.
    pub(crate) fn format(&self) -> &str {
        &self.format
    }

    /// Its options by the names that the format knows.
    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// The options for what writes rows: Debezium's rows are JSON within an envelope.
    pub(crate) fn row_options(&self) -> Options {
        if self.format != "debezium-json" {
            return self.options.clone();
        }
        self.options.get("debezium-json.schema-include");
        let own = self.options.with_prefix("debezium-json.").into_iter();
        let renamed = own
            .filter(|(k, _)| *k != "debezium-json.schema-include")
            .map(|(k, v)| (k.replacen("debezium-json.", "json.", 1), v.to_string()));
        renamed.chain([("format".to_string(), "json".to_string())]).collect()
    }

    /// What the names of the columns begin with that the names in the record don't.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The schema registry that the options name, and what it calls the schema.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where an option is missing or wrong.
    pub(crate) fn registry(&self) -> Result<(Registry, String)> {
        let subject = self.options.get("avro-confluent.subject").unwrap_or(&self.subject).to_string();
        Ok((Registry::new(&self.options, &self.base_dir)?, subject))
    }

    /// An option of the format that is not known is an error.
    pub(crate) fn finish(&self) -> Result<()> {
        if self.place.is_empty() {
            return Ok(());
        }
        self.options.finish().map_err(|e| e.at(format!("among the options that begin with '{}'", self.place)))
    }
}

/// Which topics a table is of.
#[derive(Clone, Debug)]
pub(crate) enum Topics {
    Named(Vec<String>),
    /// Those whose names it matches, at any time.
    Matching(TopicPattern),
}

/// A regular expression that a topic's whole name matches.
#[derive(Clone, Debug)]
pub(crate) struct TopicPattern {
    text: String,
    regex: Regex,
}

impl TopicPattern {
    fn new(text: &str) -> Result<Self> {
        let regex = Regex::new(&format!("^(?:{text})$")).map_err(|e| {
            Error::config(format!(
                "the option 'topic-pattern' = '{text}' is no regular expression that is understood here (look-around and \
                 back-references of Java are not)"
            ))
            .caused_by(e)
        })?;
        Ok(Self { text: text.to_string(), regex })
    }

    /// Whether the topic is one of the table's. The cluster's own, which begin with two underscores, are meant only where
    /// the pattern begins so.
    pub(crate) fn matches(&self, topic: &str) -> bool {
        (!topic.starts_with("__") || self.text.starts_with("__")) && self.regex.is_match(topic)
    }

    /// As it is written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(names) => f.write_str(&names.join(";")),
            Self::Matching(pattern) => f.write_str(&pattern.text),
        }
    }
}

impl Topics {
    fn new(options: &Options) -> Result<Self> {
        let names = match (options.get("topic"), options.get("topic-pattern")) {
            (Some(_), Some(_)) => {
                return Err(Error::config("'topic' and 'topic-pattern' exclude each other: leave one of them out"));
            }
            (None, Some(pattern)) => return Ok(Self::Matching(TopicPattern::new(pattern)?)),
            (Some(names), None) => names,
            (None, None) => options.required("topic")?,
        };
        let names: Vec<String> = names.split(';').map(|t| t.trim().to_string()).collect();
        if names.iter().any(String::is_empty) {
            return Err(Error::config("the option 'topic' is empty, or has an empty name in it"));
        }
        Ok(Self::Named(names))
    }

    /// The topic that a schema registry names schemas after, unless the table says otherwise.
    fn first(&self) -> &str {
        match self {
            Self::Named(names) => names.first().map(String::as_str).unwrap_or_default(),
            Self::Matching(_) => "",
        }
    }
}

/// Key and value of a table's records.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) connector: Connector,
    pub(crate) topics: Topics,
    pub(crate) key_columns: Vec<String>,
    pub(crate) key: Option<PartFormat>,
    pub(crate) value: PartFormat,
    pub(crate) fields: Fields,
}

impl Layout {
    /// Reads the options.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where one is missing, wrong, or fits another one badly.
    pub(crate) fn new(spec: &TableSpec) -> Result<Self> {
        let options = &spec.options;
        let connector = match options.required("connector")? {
            "upsert-kafka" => Connector::Upsert,
            _ => Connector::Kafka,
        };
        let topics = Topics::new(options)?;
        let topic = topics.first();
        let place = Place { subject: format!("{topic}-value"), base_dir: spec.base_dir.clone() };
        let value = value_format(options, place)?;
        let keys = sub_options(options, "key.");
        let key_columns = key_columns(spec, connector, keys.get("fields"))?;
        let words = [("ALL", Fields::All), ("EXCEPT_KEY", Fields::ExceptKey)];
        let fields = options.one_of("value.fields-include", &words)?.unwrap_or(Fields::All);
        let prefix = keys.get("fields-prefix").unwrap_or_default().to_string();
        if !prefix.is_empty() && fields == Fields::All {
            return Err(Error::config("'key.fields-prefix' wants 'value.fields-include' = 'EXCEPT_KEY'"));
        }
        if let Some(key) = key_columns.iter().find(|key| !key.starts_with(&prefix)) {
            return Err(Error::config(format!("the key's column '{key}' does not begin with the prefix '{prefix}'")));
        }
        let key = match (keys.get("format"), key_columns.is_empty()) {
            (None, true) => None,
            (None, false) => return Err(Error::config("the option 'key.format' is missing: add it to WITH (..)")),
            (Some(_), true) => {
                return Err(Error::config("'key.format' is set, but no column is the key: set 'key.fields' = 'a;b'"));
            }
            (Some(format), false) => {
                let place = Place { subject: format!("{topic}-key"), base_dir: spec.base_dir.clone() };
                let key = part(format, keys.clone(), "key.", place);
                Some(PartFormat { prefix, ..key })
            }
        };
        Ok(Self { connector, topics, key_columns, key, value, fields })
    }

    /// No option of a format is left over.
    pub(crate) fn finish(&self) -> Result<()> {
        self.value.finish()?;
        self.key.as_ref().map_or(Ok(()), PartFormat::finish)
    }
}

/// What a format with a schema registry needs to know.
struct Place {
    subject: String,
    base_dir: PathBuf,
}

fn part(format: &str, options: Options, begin: &'static str, place: Place) -> PartFormat {
    let format = format.to_ascii_lowercase();
    let Place { subject, base_dir } = place;
    PartFormat { format, options, prefix: String::new(), subject, base_dir, place: begin }
}

fn value_format(options: &Options, place: Place) -> Result<PartFormat> {
    match (options.get("format"), options.get("value.format")) {
        (Some(_), Some(_)) => {
            Err(Error::config("'format' and 'value.format' are the same option: leave one of them out"))
        }
        (Some(format), None) => Ok(part(format, options.clone(), "", place)),
        (None, Some(format)) => {
            let own = options.with_prefix("value.").into_iter();
            let own: Options = own.map(|(k, v)| (k.strip_prefix("value.").unwrap_or(k), v)).collect();
            own.get("fields-include");
            own.get("format");
            Ok(part(format, own, "value.", place))
        }
        (None, None) => Err(Error::config("the option 'format' is missing: add it to WITH (..)")),
    }
}

/// The options that begin with `prefix`, without it.
fn sub_options(options: &Options, prefix: &str) -> Options {
    options.with_prefix(prefix).into_iter().map(|(k, v)| (k.strip_prefix(prefix).unwrap_or(k), v)).collect()
}

fn key_columns(spec: &TableSpec, connector: Connector, fields: Option<&str>) -> Result<Vec<String>> {
    if connector == Connector::Upsert {
        if fields.is_some() {
            return Err(Error::config("'upsert-kafka' has the PRIMARY KEY as its key: remove 'key.fields'"));
        }
        if spec.primary_key.is_empty() {
            return Err(Error::config("'upsert-kafka' needs a key: declare PRIMARY KEY (..) NOT ENFORCED"));
        }
        return Ok(spec.primary_key.clone());
    }
    let names: Vec<String> =
        fields.unwrap_or_default().split(';').map(|f| f.trim().to_string()).filter(|f| !f.is_empty()).collect();
    for name in &names {
        let field = spec.schema.field_with_name(name).map_err(|_| {
            let near = millstream_io::options::nearest(name, spec.schema.fields().iter().map(|f| f.name().as_str()));
            let hint = near.map(|near| format!("; did you mean '{near}'?")).unwrap_or_default();
            Error::config(format!("'key.fields' names '{name}', which is no column of the table{hint}"))
        })?;
        if field.metadata().contains_key(METADATA_KEY) {
            return Err(Error::config(format!("'key.fields' names '{name}', which is a METADATA column")));
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn layout(options: &[(&str, &str)], primary_key: &[&str]) -> Result<Layout> {
        let columns = vec![Field::new("k_id", DataType::Int64, false), Field::new("v", DataType::Utf8, true)];
        Layout::new(&TableSpec {
            name: "t".into(),
            schema: Arc::new(Schema::new(columns)),
            options: options.iter().copied().chain([("topic", "a; b")]).collect(),
            partitioned_by: vec![],
            primary_key: primary_key.iter().map(|k| k.to_string()).collect(),
            base_dir: "/".into(),
        })
    }

    #[test]
    fn key_and_value_have_formats_and_options_of_their_own() {
        let layout = layout(
            &[
                ("connector", "kafka"),
                ("value.format", "json"),
                ("value.json.timestamp-format.standard", "SQL"),
                ("key.format", "csv"),
                ("key.csv.field-delimiter", "|"),
                ("key.fields", "k_id"),
                ("key.fields-prefix", "k_"),
                ("value.fields-include", "EXCEPT_KEY"),
            ],
            &[],
        )
        .unwrap();
        assert!(matches!(&layout.topics, Topics::Named(names) if *names == ["a", "b"]));
        assert_eq!(layout.key_columns, ["k_id"]);
        assert_eq!(layout.value.options().get("json.timestamp-format.standard"), Some("SQL"));
        assert_eq!(layout.key.unwrap().options().get("csv.field-delimiter"), Some("|"));
        assert_eq!(layout.fields, Fields::ExceptKey);
    }

    #[test]
    fn neither_secrets_nor_what_they_are_made_of_are_shown() {
        // It is set in every process.
        let path = std::env::var("PATH").unwrap();
        let options = [
            ("connector", "kafka"),
            ("format", "avro-confluent"),
            ("avro-confluent.url", "http://ann:hunter2@registry"),
            ("avro-confluent.basic-auth.user-info", "ann:hunter2"),
            ("properties.bootstrap.servers", "localhost:1"),
            ("properties.sasl.username", "ann"),
            ("properties.sasl.password", "${env:PATH}"),
            ("properties.ssl.key.password", "hunter2"),
        ];
        let layout = layout(&options, &[]).unwrap();
        let table = crate::source_table(&TableSpec {
            name: "t".into(),
            schema: Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)])),
            options: options.into_iter().chain([("topic", "a")]).collect(),
            partitioned_by: vec![],
            primary_key: vec![],
            base_dir: "/".into(),
        });
        let shown = format!("{layout:?} {:?} {:?}", table.unwrap(), layout.value.registry().unwrap().0);
        assert!(!shown.contains("hunter2") && !shown.contains(&path), "{shown}");
        assert!(shown.contains("${env:PATH}") && shown.contains("http://***@registry"), "{shown}");
    }

    #[test]
    fn a_pattern_is_of_whole_names_and_not_of_the_clusters_own() {
        let pattern = TopicPattern::new("orders-.*|old").unwrap();
        let matching = ["orders-1", "orders-", "old", "older", "my-orders-1", "__orders-1"].map(|t| pattern.matches(t));
        assert_eq!(matching, [true, true, true, false, false, false]);
        assert!(!TopicPattern::new(".*").unwrap().matches("__consumer_offsets"));
        assert!(TopicPattern::new("__mine-.*").unwrap().matches("__mine-1"));
        let error = TopicPattern::new("(?!x)y").unwrap_err().to_string();
        assert!(error.contains("'topic-pattern' = '(?!x)y'"), "{error}");
        let both = layout(&[("connector", "kafka"), ("format", "json"), ("topic-pattern", "x")], &[]).unwrap_err();
        assert!(both.to_string().contains("exclude each other"), "{both}");
    }

    #[test]
    fn a_key_that_does_not_fit_is_refused() {
        let refusal = |options: &[(&str, &str)]| layout(options, &[]).unwrap_err().to_string();
        let kafka = [("connector", "kafka"), ("format", "json")];
        let with = |more: &[(&'static str, &'static str)]| [&kafka[..], more].concat();
        assert!(refusal(&with(&[("key.fields", "k_idd"), ("key.format", "raw")])).contains("did you mean 'k_id'"));
        assert!(refusal(&with(&[("key.fields", "k_id")])).contains("'key.format' is missing"));
        assert!(refusal(&with(&[("key.format", "raw")])).contains("'key.fields'"));
        assert!(
            refusal(&[("connector", "upsert-kafka"), ("format", "json"), ("key.format", "raw")])
                .contains("PRIMARY KEY")
        );
        assert!(refusal(&[("connector", "kafka")]).contains("'format' is missing"));
    }
}
