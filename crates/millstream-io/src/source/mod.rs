//! Where rows come from: files, and generators that need nothing.

pub mod cards;
mod datagen;
pub mod filesystem;
mod generated;
pub mod nexmark;
mod random;

use std::sync::Arc;
use std::time::Duration;

use millstream_core::source::SourceTable;
use millstream_core::{Error, Result};

use crate::TableSpec;
use crate::options::nearest;

pub use filesystem::infer_table;

/// The sources of this crate.
pub const CONNECTORS: [&str; 4] = ["filesystem", "datagen", "nexmark", "demo-cards"];

/// The table that a declaration describes, to be read from.
///
/// # Errors
/// [`millstream_core::ErrorKind::Config`] where 'connector' names none that can be read from, or an option is
/// missing, wrong or unknown.
pub fn source_table(spec: &TableSpec) -> Result<Arc<dyn SourceTable>> {
    let built = match spec.options.required("connector") {
        Ok("filesystem") => filesystem::table(spec),
        Ok("datagen") => datagen::table(spec),
        Ok("nexmark") => nexmark::table(spec),
        Ok("demo-cards") => cards::table(spec),
        Ok(other) => Err(unknown(other)),
        Err(e) => Err(e),
    };
    idle_timeout(spec)?;
    let table = built.map_err(|e| e.at(format!("the table '{}'", spec.name)))?;
    spec.options.finish().map_err(|e| e.at(format!("the table '{}'", spec.name)))?;
    Ok(table)
}

/// After how long a partition that was read to its end no longer holds the watermark back: the option
/// 'scan.watermark.idle-timeout', one minute where it is not set, never where it is 0.
///
/// # Errors
/// [`millstream_core::ErrorKind::Config`] where it is no length of time.
pub fn idle_timeout(spec: &TableSpec) -> Result<Option<Duration>> {
    let set =
        spec.options.duration("scan.watermark.idle-timeout").map_err(|e| e.at(format!("the table '{}'", spec.name)))?;
    Ok(Some(set.unwrap_or(Duration::from_secs(60))).filter(|timeout| !timeout.is_zero()))
}

fn unknown(name: &str) -> Error {
    let hint = nearest(name, CONNECTORS.into_iter()).map(|n| format!("; did you mean '{n}'?")).unwrap_or_default();
    let all = CONNECTORS.map(|c| format!("'{c}'")).join(", ");
    Error::config(format!("no connector '{name}' reads rows: there are {all}{hint}"))
}
