//! What is recorded of a file, so that a range that is read again is known to be the same bytes.
//!
//! A range's stamp looks like this: `size=1048576 modified=1718000000123456789 hash=00f1e2d3c4b5a697
//! node=97f1a2c3d4e5b608 mark=1048576:5a1de0c7b2f39648`: the file's size in bytes, its modification time in
//! nanoseconds since 1970, a hash of the range itself (of the footer, for a Parquet file), what tells the file
//! from others whatever its name is, and its mark: a hash of the beginning and the end of so many first bytes.
//! A file whose size and time are as recorded is taken for the same. Where they are not, the bytes of the range
//! decide: a file that has grown, was touched, or was copied elsewhere still answers for its ranges; one that was
//! shrunk or rewritten does not. The mark says the same of everything before a position without reading it all.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use millstream_core::{Error, ErrorKind};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// So many bytes at the beginning, and so many at the end, stand for everything before a position.
const MARKED_BYTES: u64 = 4 << 10;

/// What the file system says of a file at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FileIdentity {
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since 1970-01-01 UTC.
    pub modified_ns: u64,
    /// Device and inode; zero where there is no such thing.
    pub node: (u64, u64),
    /// When the file was made, in nanoseconds since 1970; zero where the file system does not say.
    born_ns: u64,
}

impl FileIdentity {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let ns = |time: std::io::Result<SystemTime>| {
            let since = time.ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        };
        let (modified_ns, born_ns) = (ns(metadata.modified()), ns(metadata.created()));
        Self { size: metadata.len(), modified_ns, node: node(metadata), born_ns }
    }

    /// What stays the same when the file is renamed, and after a restart of the machine.
    pub(super) fn lasting(&self) -> u64 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.node.1.to_le_bytes());
        bytes[8..].copy_from_slice(&self.born_ns.to_le_bytes());
        xxh3_64(&bytes)
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

/// What stands for the first bytes of a file: two files that differ in them differ in it, save by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// So many bytes.
    pub until: u64,
    hash: u64,
}

impl Mark {
    /// Of the first bytes of the file at this path; `None` where there are fewer, or there is no file.
    pub(super) fn of(path: &Path, until: u64) -> Result<Option<Self>, Error> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error(path, "opened", e)),
        };
        let length = until.min(MARKED_BYTES);
        let (mut hash, mut bytes) = (Xxh3::new(), [0; MARKED_BYTES as usize]);
        let bytes = &mut bytes[..length as usize];
        for begin in [0, until - length] {
            let read = file.seek(SeekFrom::Start(begin)).and_then(|_| file.read_exact(bytes));
            match read {
                Ok(()) => hash.update(bytes),
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(e) => return Err(io_error(path, "read", e)),
            }
        }
        Ok(Some(Self { until, hash: hash.digest() }))
    }

    /// Whether the file at this path begins with the bytes that this is of.
    pub(super) fn holds(&self, path: &Path) -> Result<bool, Error> {
        Ok(Self::of(path, self.until)? == Some(*self))
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:016x}", self.until, self.hash)
    }
}

impl FromStr for Mark {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (until, hash) = text.split_once(':').ok_or(())?;
        Ok(Self { until: until.parse().map_err(drop)?, hash: u64::from_str_radix(hash, 16).map_err(drop)? })
    }
}

/// What a range carries of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub size: u64,
    pub modified_ns: u64,
    pub hash: u64,
    /// [`FileIdentity::lasting`]; nothing in what an older version wrote.
    pub node: Option<u64>,
    /// Of everything before the end of the range, or of the whole file where it is read whole.
    pub mark: Option<Mark>,
}

impl Stamp {
    pub(super) fn new(file: FileIdentity, hash: u64, mark: Mark) -> Self {
        let node = Some(file.lasting());
        Self { size: file.size, modified_ns: file.modified_ns, hash, node, mark: Some(mark) }
    }

    /// Whether the file system says of the file what it said when the range was offered.
    pub(super) fn is_unchanged(&self, file: &FileIdentity) -> bool {
        self.size == file.size && self.modified_ns == file.modified_ns
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "size={} modified={} hash={:016x}", self.size, self.modified_ns, self.hash)?;
        if let Some(node) = self.node {
            write!(f, " node={node:016x}")?;
        }
        self.mark.map_or(Ok(()), |mark| write!(f, " mark={mark}"))
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
                node: field("node").and_then(|node| u64::from_str_radix(node, 16).ok()),
                mark: field("mark").and_then(|mark| mark.parse().ok()),
            })
        };
        parsed().ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("'{text}' is no stamp of a file")))
    }
}

/// The error for a file that is not what was recorded.
pub(super) fn changed(path: &Path, what: &str, recorded: &Stamp, found: Option<&FileIdentity>) -> Error {
    let found = match found {
        Some(file) => format!("it is now {} bytes, modified {}", file.size, utc(file.modified_ns)),
        None => "it is not there any more".to_string(),
    };
    Error::input(format!(
        "the file '{}' {what}: a batch that has to be read again recorded {} bytes, modified {}; {found}. Put the file \
         back as it was, or start the query anew with another state directory",
        path.display(),
        recorded.size,
        utc(recorded.modified_ns),
    ))
}

/// A time as a person reads it.
fn utc(ns: u64) -> String {
    let ns = i64::try_from(ns).unwrap_or(i64::MAX);
    chrono::DateTime::from_timestamp_nanos(ns).format("%Y-%m-%d %H:%M:%S%.3f UTC").to_string()
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
