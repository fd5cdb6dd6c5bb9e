//! Every path of the log's directory.

use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::error::{Error, Result};

/// The sequences of segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sequence {
    Log,
    Dropped,
    Answers,
}

impl Sequence {
    fn prefix(self) -> &'static str {
        match self {
            Self::Log => "log-",
            Self::Dropped => "dropped-",
            Self::Answers => "answers-",
        }
    }

    /// The path of a segment.
    pub(super) fn segment(self, dir: &Path, number: u64) -> PathBuf {
        dir.join(format!("{}{number:08}.seg", self.prefix()))
    }

    /// The numbers of the segments there are, ascending.
    pub(super) fn list(self, disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>> {
        let names = disk.list(dir).map_err(|e| {
            Error::config(format!("{} can't be listed: check its permissions", dir.display())).caused_by(e)
        })?;
        let number = |name: &PathBuf| {
            name.file_name()?.to_str()?.strip_prefix(self.prefix())?.strip_suffix(".seg")?.parse().ok()
        };
        let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}

/// The file whose lock is the ownership of the log.
pub(super) fn lock(dir: &Path) -> PathBuf {
    dir.join("lock")
}
