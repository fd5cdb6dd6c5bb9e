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

use std::io;
use std::path::Path;

use millstream_core::disk::{Disk, ReadSeek};
use millstream_core::{Error, Result};

/// The ending of a segment file.
pub(crate) const SEGMENTS: &str = ".arrow";
/// The ending of a manifest.
pub(crate) const MANIFEST: &str = ".json";
/// The ending of a file that is not whole yet.
pub(crate) const PART: &str = ".tmp";

/// A file is checked in parts of so many bytes.
const READ_BYTES: usize = 1 << 18;

/// The batch that a manifest of this name was made after.
pub(crate) fn manifest_batch(name: &str) -> Option<u64> {
    name.strip_prefix("checkpoint-")?.split('-').next()?.parse().ok()
}

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

/// Opens a file whose content was checked.
///
/// # Errors
/// [`millstream_core::ErrorKind::Corrupt`] where it is missing or not what was written.
pub(crate) fn open_file(disk: &dyn Disk, dir: &Path, name: &str, crc32: u32) -> Result<Box<dyn ReadSeek>> {
    let path = dir.join(name);
    let failed = |e: io::Error| {
        let path = path.display();
        let message = match e.kind() {
            io::ErrorKind::NotFound => {
                return Error::corrupt(format!(
                    "the checkpoint file {path} is missing: restore it from a copy, or begin with an older checkpoint"
                ));
            }
            _ => format!("the checkpoint file {path} cannot be read: see to its permissions and to the disk"),
        };
        Error::config(message).caused_by(e)
    };
    let mut file = disk.reader(&path).map_err(failed)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut part = vec![0; READ_BYTES];
    let mut bytes = 0;
    loop {
        let read = match file.read(&mut part) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(failed)?,
        };
        hasher.update(part.get(..read).unwrap_or_default());
        bytes += read;
        if read == 0 {
            break;
        }
    }
    let found = hasher.finalize();
    if found == crc32 {
        file.rewind().map_err(failed)?;
        return Ok(file);
    }
    Err(Error::corrupt(format!(
        "the checkpoint file {} is not what was written ({bytes} bytes with checksum {found:08x}, written with \
         {crc32:08x}): restore it from a copy, or begin with an older checkpoint",
        path.display(),
    )))
}
