//! What makes a query the one that its log is of, and where its rows come from and go to.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use millstream_core::{Error, Result};
use millstream_io::TableSpec;

use crate::plan::Compiled;

/// Options that say how fast or over which way the same rows are read. Everything else changes the rows.
const NO_MEANING: [&str; 3] = ["source.monitor-interval", "scan.watermark.idle-timeout", "properties."];
/// Never written down, wherever one of these words stands in the name of an option.
const SECRETS: [&str; 5] = ["password", "secret", "token", "jaas", "credential"];

/// What shapes the rows of a query's sources and is not in its plan: options and watermarks, by table.
pub(super) fn options(compiled: &Compiled) -> BTreeMap<String, String> {
    let mut options = BTreeMap::new();
    for table in &compiled.tables {
        let of_table = table.spec.options.clone();
        for (name, value) in of_table.with_prefix("") {
            let tells = !NO_MEANING.iter().any(|n| name.starts_with(n)) && !SECRETS.iter().any(|s| name.contains(s));
            if tells {
                options.insert(format!("{}: '{name}'", table.name), value.to_string());
            }
        }
        if let Some(watermark) = table.event_time() {
            let behind = format!("{} - {} ms", watermark.expr, watermark.delay_us / 1000);
            options.insert(format!("{}: WATERMARK FOR {}", table.name, watermark.column), behind);
        }
    }
    options
}

/// A name of which a directory is made: that of a pipeline, or of a query.
///
/// # Errors
/// [`millstream_core::ErrorKind::Config`] where the directory would be another one, or none.
pub(crate) fn check_name(name: &str) -> Result<()> {
    match name.is_empty() || name.contains(['/', '\\', '\0']) || name.starts_with('.') {
        false => Ok(()),
        true => Err(Error::config(format!(
            "'{name}' is no name for a query or a pipeline: the directory of its state is called so, which needs at least \
             one letter, no slash, and no dot at the beginning"
        ))),
    }
}

/// Where the rows of a table lie, as far as that is known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Location {
    File(PathBuf),
    Topic(String),
}

impl Location {
    pub(super) fn of(table: &TableSpec) -> Option<Self> {
        let option = |name: &str| table.options.get(name).map(str::to_string);
        match option("connector")?.as_str() {
            "filesystem" => {
                let path = option("path")?;
                let path = path.strip_prefix("file://").unwrap_or(&path);
                Some(Self::File(plain(&table.base_dir.join(path))))
            }
            "kafka" | "upsert-kafka" => {
                let servers = option("properties.bootstrap.servers").unwrap_or_default();
                Some(Self::Topic(format!("{} of {servers}", option("topic")?)))
            }
            _ => None,
        }
    }

    /// Whether what is written here is read there.
    pub(super) fn feeds(&self, source: &Self) -> bool {
        let glob = |path: &Path| path.file_name().is_some_and(|n| n.to_string_lossy().contains(['*', '?']));
        match (self, source) {
            (Self::File(sink), Self::File(source)) if glob(source) => source.parent() == Some(sink),
            (sink, source) => sink == source,
        }
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "'{}'", path.display()),
            Self::Topic(topic) => write!(f, "the topic {topic}"),
        }
    }
}

/// Whether only one query can write to the table.
pub(super) fn has_one_writer(table: &TableSpec) -> bool {
    table.options.get("sink.layout") == Some("append")
}

/// The path without `.` and `..`, so that two ways to write it are one.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if plain.file_name().is_some() => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Location {
        Location::File(plain(Path::new(path)))
    }

    #[test]
    fn a_directory_feeds_itself_however_it_is_written() {
        assert!(file("./out").feeds(&file("out")));
        assert!(file("a/../out/").feeds(&file("out")));
        assert!(file("out").feeds(&file("out/*.ndjson")));
        assert!(!file("out").feeds(&file("in/*.ndjson")));
        assert!(!file("out").feeds(&file("out2")));
    }

    #[test]
    fn names_that_would_leave_the_state_directory_are_refused() {
        for name in ["", "..", "../x", "a/b", "a\\b", ".hidden"] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(check_name("sums per day").is_ok());
    }
}
