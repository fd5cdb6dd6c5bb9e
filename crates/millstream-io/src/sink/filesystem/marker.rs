//! The marker of a directory: what was published last, and which files are on their way to their names.
//!
//! Putting it in place is the moment at which a batch is published: what it lists is moved to its name then,
//! or when the directory is opened the next time. `.millstream-<query>.json`:
//!
//! ```text
//! {"crc32":"1c291ca3","marker":{"version":1,"owner":{"query":"alerts","incarnation":"5f0c..","epoch":2},
//!  "batch":17,"digest":81985529216486895,"files":["dt=2026-01-01/alerts-000000000017-0.ndjson"]}}
//! ```

use std::path::Path;

use millstream_core::batch::BatchId;
use millstream_core::digest::Digest;
use millstream_core::sink::{Marker, Owner};
use millstream_core::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::durable;

const VERSION: u32 = 1;

/// What a directory remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DirMarker {
    version: u32,
    /// Who wrote it.
    pub(super) owner: Owner,
    /// The last batch; `None` before the first one.
    pub(super) batch: Option<BatchId>,
    /// The hash of its rows.
    digest: Digest,
    /// Its files below the directory, by their final names.
    pub(super) files: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Sealed<'a> {
    crc32: String,
    #[serde(borrow)]
    marker: &'a RawValue,
}

impl DirMarker {
    /// Nothing was published.
    pub(super) fn empty(owner: Owner) -> Self {
        Self { version: VERSION, owner, batch: None, digest: Digest::default(), files: Vec::new() }
    }

    /// A batch is published once its files are at their names.
    pub(super) fn published(marker: &Marker, files: Vec<String>) -> Self {
        Self { version: VERSION, owner: marker.owner.clone(), batch: Some(marker.batch), digest: marker.digest, files }
    }

    /// The same batch in the hands of another owner, all its files in place.
    pub(super) fn claimed_by(self, owner: Owner) -> Self {
        Self { owner, files: Vec::new(), ..self }
    }

    /// What the loop is told.
    pub(super) fn marker(&self) -> Option<Marker> {
        let batch = self.batch?;
        Some(Marker { owner: self.owner.clone(), batch, digest: self.digest })
    }

    /// Reads it; `None` where there is none.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Corrupt`] where it is not what was written.
    pub(super) fn read(path: &Path) -> Result<Option<Self>> {
        let Some(bytes) = durable::read(path)? else { return Ok(None) };
        let corrupt = |what: &str| {
            Error::corrupt(format!(
                "the marker {} {what}: which batches are in its directory is unknown. Restore the file from a backup, \
                 or move the directory away and let the query begin again with an empty state directory",
                path.display()
            ))
        };
        let sealed: Sealed<'_> = serde_json::from_slice(&bytes).map_err(|e| corrupt("cannot be read").caused_by(e))?;
        if sealed.crc32 != checksum(sealed.marker.get()) {
            return Err(corrupt("does not match its checksum"));
        }
        let marker: Self =
            serde_json::from_str(sealed.marker.get()).map_err(|e| corrupt("cannot be read").caused_by(e))?;
        if marker.version != VERSION {
            return Err(corrupt(&format!("has version {}, this Millstream reads {VERSION}", marker.version)));
        }
        Ok(Some(marker))
    }

    /// Puts it in place, durably. IMPORTANT: everything it lists is durable before.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let bug = |e| Error::bug("a marker cannot be written as JSON").caused_by(e);
        let marker = serde_json::value::to_raw_value(self).map_err(bug)?;
        let sealed = Sealed { crc32: checksum(marker.get()), marker: &marker };
        let bytes = serde_json::to_vec(&sealed).map_err(bug)?;
        durable::replace(path, &path.with_extension("json.tmp"), &bytes)
    }
}

fn checksum(text: &str) -> String {
    format!("{:08x}", crc32fast::hash(text.as_bytes()))
}
