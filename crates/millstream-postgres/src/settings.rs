//! The options of a table, taken one by one.

use std::time::Duration;

use millstream_core::{Error, Result};
use millstream_io::TableSpec;

use crate::connect::Endpoint;
use crate::name::TableName;

/// How long one call may take where the options do not say.
const TIMEOUT: Duration = Duration::from_secs(300);

/// What the options of a table that is written to say.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) endpoint: Endpoint,
    pub(crate) table: TableName,
    pub(crate) create: bool,
    pub(crate) marker_table: Option<TableName>,
    pub(crate) timeout: Duration,
}

impl Settings {
    /// Takes the options; touches nothing.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where one is missing or means nothing.
    pub(crate) fn new(spec: &TableSpec) -> Result<Self> {
        let options = &spec.options;
        if !spec.partitioned_by.is_empty() {
            return Err(Error::config(
                "PARTITIONED BY is for files: leave it out, and let PostgreSQL partition the table where it is large",
            ));
        }
        // The same table may be looked up by another query.
        options.with_prefix("lookup.");
        let marker_table = options.get("sink.marker-table");
        let timeout = options.duration("sink.timeout")?.unwrap_or(TIMEOUT);
        if timeout < Duration::from_secs(1) {
            return Err(Error::config(
                "the option 'sink.timeout' is less than a second: no transaction would come to its end",
            ));
        }
        Ok(Self {
            endpoint: Endpoint::new(options, &spec.base_dir)?,
            table: TableName::parse("table-name", options.required("table-name")?)?,
            create: options.one_of("sink.create-table", &[("true", true), ("false", false)])?.unwrap_or(false),
            marker_table: marker_table.map(|text| TableName::parse("sink.marker-table", text)).transpose()?,
            timeout,
        })
    }
}
