//! Checkpoints on disk: files of segments, and a manifest that names them.
//!
//! - `segments-<batch>-<n>-<crc32>.arrow`: segments of one table, an Arrow IPC file, one record batch each:
//!   key columns, then value columns. It is written once and never changed.
//! - `checkpoint-<batch>-<crc32>.json`: a manifest (see [`manifest`]). It is written, and durable, after
//!   everything it names.
//!
//! A file is written under a name ending in `.tmp`, made durable and then renamed, so that a file under its
//! own name is whole. The names hold a checksum of what is in them: a checkpoint that is taken again after a
//! crash writes over a file only with the same bytes.

pub(crate) mod manifest;
pub(crate) mod read;
pub(crate) mod write;

use std::path::Path;

use millstream_core::disk::Disk;
use millstream_core::{Error, Result};

/// The ending of a segment file.
pub(crate) const SEGMENTS: &str = ".arrow";
/// The ending of a manifest.
pub(crate) const MANIFEST: &str = ".json";
/// The ending of a file that is not whole yet.
pub(crate) const PART: &str = ".tmp";

/// Writes a whole file. Its name is durable after the directory was synced.
pub(crate) async fn write_file(disk: &dyn Disk, dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = dir.join(name);
    let part = dir.join(format!("{name}{PART}"));
    let failed = |e: std::io::Error| {
        Error::config(format!(
            "the checkpoint file {} cannot be written: make room, or see to its permissions",
            path.display()
        ))
        .caused_by(e)
    };
    let mut file = disk.open(&part).map_err(failed)?;
    // An attempt that was cut short may have left something.
    file.truncate(0).map_err(failed)?;
    file.append(bytes).map_err(failed)?;
    file.syncer().sync().await.map_err(failed)?;
    disk.rename(&part, &path).map_err(failed)
}

/// Reads a whole file and checks it.
///
/// # Errors
/// [`millstream_core::ErrorKind::Corrupt`] where it is missing or not what was written.
pub(crate) fn read_file(disk: &dyn Disk, dir: &Path, name: &str, crc32: u32) -> Result<Vec<u8>> {
    let path = dir.join(name);
    let bytes = disk.read(&path).map_err(|e| {
        let path = path.display();
        let message = match e.kind() {
            std::io::ErrorKind::NotFound => {
                return Error::corrupt(format!(
                    "the checkpoint file {path} is missing: restore it from a copy, or begin with an older checkpoint"
                ));
            }
            _ => format!("the checkpoint file {path} cannot be read: see to its permissions and to the disk"),
        };
        Error::config(message).caused_by(e)
    })?;
    let found = crc32fast::hash(&bytes);
    if found == crc32 {
        return Ok(bytes);
    }
    Err(Error::corrupt(format!(
        "the checkpoint file {} is not what was written ({} bytes with checksum {found:08x}, written with {crc32:08x}): \
         restore it from a copy, or begin with an older checkpoint",
        path.display(),
        bytes.len(),
    )))
}
