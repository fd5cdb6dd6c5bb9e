//! What is recorded of a file, so that a range that is read again is known to be the same bytes.
//!
//! A range's stamp looks like this: `size=1048576 modified=1718000000123456789 hash=00f1e2d3c4b5a697`: the
//! file's size in bytes, its modification time in nanoseconds since 1970, and a hash of the range itself
//! (of the footer, for a Parquet file). A file whose size and time are as recorded is taken for the same.
//! Where they are not, the bytes of the range decide: a file that has grown, was touched, or was copied
//! elsewhere still answers for its ranges; one that was shrunk or rewritten does not.

use std::fmt;
use std::fs::Metadata;
use std::path::Path;
use std::str::FromStr;
use std::time::UNIX_EPOCH;

use millstream_core::{Error, ErrorKind};

/// What the file system says of a file at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FileIdentity {
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since 1970-01-01 UTC.
    pub modified_ns: u64,
    /// Device and inode; zero where there is no such thing.
    pub node: (u64, u64),
}

impl FileIdentity {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let modified = metadata.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        let modified_ns = u64::try_from(modified.as_nanos()).unwrap_or(u64::MAX);
        Self { size: metadata.len(), modified_ns, node: node(metadata) }
    }

    /// Of the file at this path; `None` where there is none.
    pub(super) fn at(path: &Path) -> Result<Option<Self>, Error> {
        match std::fs::metadata(path) {
            Ok(metadata) => Ok(metadata.is_file().then(|| Self::of(&metadata))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error(path, "looked at", e)),
        }
    }
}

#[cfg(unix)]
fn node(metadata: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn node(_: &Metadata) -> (u64, u64) {
    (0, 0)
}

/// What a range carries of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub size: u64,
    pub modified_ns: u64,
    pub hash: u64,
}

impl Stamp {
    pub(super) fn new(file: FileIdentity, hash: u64) -> Self {
        Self { size: file.size, modified_ns: file.modified_ns, hash }
    }

    /// Whether the file system says of the file what it said when the range was offered.
    pub(super) fn is_unchanged(&self, file: &FileIdentity) -> bool {
        self.size == file.size && self.modified_ns == file.modified_ns
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "size={} modified={} hash={:016x}", self.size, self.modified_ns, self.hash)
    }
}

impl FromStr for Stamp {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let field = |name: &str| text.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        let parsed = || {
            Some(Self {
                size: field("size")?.parse().ok()?,
                modified_ns: field("modified")?.parse().ok()?,
                hash: u64::from_str_radix(field("hash")?, 16).ok()?,
            })
        };
        parsed().ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("'{text}' is no stamp of a file")))
    }
}

/// The error for a file that is not what was recorded.
pub(super) fn changed(path: &Path, what: &str, recorded: &Stamp, found: Option<&FileIdentity>) -> Error {
    let found = match found {
        Some(file) => format!("it is now {} bytes, modified {}", file.size, file.modified_ns),
        None => "it is not there any more".to_string(),
    };
    Error::input(format!(
        "the file '{}' {what}: a batch that has to be read again recorded {} bytes, modified {} (nanoseconds since \
         1970); {found}. Put the file back as it was, or start the query anew with another state directory",
        path.display(),
        recorded.size,
        recorded.modified_ns,
    ))
}

/// The error for a file that the operating system does not give us.
pub(super) fn io_error(path: &Path, action: &str, error: std::io::Error) -> Error {
    let (kind, advice) = match error.kind() {
        std::io::ErrorKind::NotFound => (ErrorKind::Input, "it is not there: put it back or correct the path"),
        std::io::ErrorKind::PermissionDenied => (ErrorKind::Config, "allow this user to read it"),
        std::io::ErrorKind::Interrupted | std::io::ErrorKind::TimedOut => (ErrorKind::Retry, "try again"),
        _ => (ErrorKind::Input, "check the disk and the file"),
    };
    Error::new(kind, format!("the file '{}' could not be {action}; {advice}", path.display())).caused_by(error)
}
