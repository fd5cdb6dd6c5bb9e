//! Which files a path stands for, and what their partitions are called.
//!
//! A path is a file, a directory (every file below it), or a glob. Names that begin with `.` or `_` are
//! passed over in directories, so that what is being written, markers and checkpoints are not read.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use millstream_core::batch::PartitionId;
use millstream_core::{Error, Result};

use super::identity::io_error;

/// How deep a directory is followed: a bound for loops of symbolic links.
const DEPTH_MAX: usize = 32;

/// The files of a table.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    base: PathBuf,
    written: String,
    kind: ListingKind,
}

#[derive(Clone, Debug)]
enum ListingKind {
    File(PathBuf),
    Directory(PathBuf),
    Glob { pattern: glob::Pattern, root: PathBuf },
}

impl Listing {
    /// What the option 'path' stands for. Whether it is a file or a directory is looked up once, here.
    pub(super) fn new(written: &str, base_dir: &Path) -> Result<Self> {
        let bare = written.strip_prefix("file://").unwrap_or(written);
        if bare.is_empty() {
            return Err(Error::config("the option 'path' is empty: give a file, a directory or a glob"));
        }
        let base = plain(base_dir);
        let path = plain(&base.join(bare));
        let is_directory = path.is_dir();
        let kind = if !is_directory && !path.exists() && bare.contains(['*', '?', '[']) {
            let text = path.to_string_lossy();
            let pattern = glob::Pattern::new(&text)
                .map_err(|e| Error::config(format!("the option 'path' = '{written}' is no glob")).caused_by(e))?;
            ListingKind::Glob { pattern, root: fixed_part(&path) }
        } else if is_directory || bare.ends_with('/') {
            ListingKind::Directory(path)
        } else {
            ListingKind::File(path)
        };
        Ok(Self { base, written: written.to_string(), kind })
    }

    /// The directory whose entries decide which files there are, and whether those below it count too.
    pub(super) fn watched(&self) -> (PathBuf, bool) {
        match &self.kind {
            ListingKind::File(path) => (path.parent().map(here).unwrap_or_default(), false),
            ListingKind::Directory(path) => (here(path), true),
            ListingKind::Glob { pattern, root } => {
                let deeper = Path::new(pattern.as_str()).components().count() > root.components().count() + 1;
                (here(root), deeper)
            }
        }
    }

    /// Every file, by the name of its partition.
    pub(super) fn files(&self) -> Result<BTreeMap<PartitionId, PathBuf>> {
        let mut found = Vec::new();
        match &self.kind {
            ListingKind::File(path) if path.is_file() => found.push(path.clone()),
            ListingKind::File(_) => {}
            ListingKind::Directory(path) => walk(path, 0, &mut found)?,
            ListingKind::Glob { pattern, .. } => {
                let entries = glob::glob_with(pattern.as_str(), glob_options())
                    .map_err(|e| Error::config(format!("'{pattern}' is no glob")).caused_by(e))?;
                for entry in entries {
                    let path = match entry {
                        Ok(path) => plain(&path),
                        // It went while the list was made.
                        Err(e) if e.error().kind() == std::io::ErrorKind::NotFound => continue,
                        Err(e) => {
                            let path = e.path().to_path_buf();
                            return Err(io_error(&path, "listed", e.into()));
                        }
                    };
                    found.extend(Some(path).filter(|p| p.is_file()));
                }
            }
        }
        Ok(found.into_iter().map(|path| (self.name_of(&path), path)).collect())
    }

    /// Whether a file at this path would be one of the table's.
    pub(super) fn matches(&self, path: &Path) -> bool {
        let path = plain(path);
        match &self.kind {
            ListingKind::File(file) => path == *file,
            ListingKind::Directory(root) => path
                .strip_prefix(root)
                .is_ok_and(|rest| rest.components().all(|c| matches!(c, Component::Normal(n) if !is_hidden(n)))),
            ListingKind::Glob { pattern, .. } => pattern.matches_path_with(&path, glob_options()),
        }
    }

    /// The partition of a file: its path as a person would write it, relative to where the query's paths are.
    pub(super) fn name_of(&self, path: &Path) -> PartitionId {
        let path = plain(path);
        let short = path.strip_prefix(&self.base).ok().filter(|p| !p.as_os_str().is_empty()).unwrap_or(&path);
        PartitionId::from(short.to_string_lossy())
    }

    /// The file of a partition.
    pub(super) fn path_of(&self, partition: &PartitionId) -> PathBuf {
        self.base.join(partition.as_str())
    }

    /// The error where nothing is there to read.
    pub(super) fn nothing_found(&self) -> Error {
        let root = self.watched().0;
        let near = std::fs::read_dir(&root).map_or_else(
            |_| format!("the directory '{}' is not there", root.display()),
            |_| format!("looked in '{}'", root.display()),
        );
        Error::input(format!("no file is found at the path '{}' ({near}): correct the option 'path'", self.written))
    }
}

/// The path without `.` components.
pub(super) fn plain(path: &Path) -> PathBuf {
    path.components().filter(|c| !matches!(c, Component::CurDir)).collect()
}

/// The path, with the working directory spelt out where it is empty.
fn here(path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_path_buf() }
}

/// The directories of a glob before its first wildcard.
fn fixed_part(path: &Path) -> PathBuf {
    let is_fixed = |c: &Component<'_>| !c.as_os_str().to_string_lossy().contains(['*', '?', '[']);
    path.components().take_while(is_fixed).collect()
}

fn glob_options() -> glob::MatchOptions {
    glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true }
}

fn is_hidden(name: &OsStr) -> bool {
    matches!(name.as_encoded_bytes().first(), Some(b'.' | b'_'))
}

fn walk(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    if depth > DEPTH_MAX {
        return Err(Error::input(format!("the directory '{}' is too deep: is it a loop of links?", dir.display())));
    }
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io_error(dir, "listed", e)),
    };
    for entry in entries {
        let entry = entry.map_err(|e| io_error(dir, "listed", e))?;
        if is_hidden(&entry.file_name()) {
            continue;
        }
        let path = entry.path();
        // Follows links; a link that leads nowhere is no file.
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => walk(&path, depth + 1, found)?,
            Ok(metadata) if metadata.is_file() => found.push(path),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(listing: &Listing) -> Vec<String> {
        listing.files().unwrap().into_keys().map(|id| id.to_string()).collect()
    }

    #[test]
    fn a_directory_gives_its_files_sorted_without_hidden_ones() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("logs/day=2")).unwrap();
        std::fs::create_dir_all(dir.path().join("logs/_temporary")).unwrap();
        for name in ["logs/b", "logs/a", "logs/.hidden", "logs/_SUCCESS", "logs/day=2/c", "logs/_temporary/d"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let listing = Listing::new("logs", dir.path()).unwrap();
        assert_eq!(names(&listing), ["logs/a", "logs/b", "logs/day=2/c"]);
        assert!(listing.matches(&dir.path().join("logs/day=3/x")));
        assert!(!listing.matches(&dir.path().join("logs/_temporary/x")));
        assert!(!listing.matches(&dir.path().join("other/x")));
    }

    #[test]
    fn a_glob_gives_what_it_matches_and_knows_where_to_watch() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("logs")).unwrap();
        for name in ["logs/b.ndjson", "logs/a.ndjson", "logs/a.csv"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let listing = Listing::new("./logs/*.ndjson", dir.path()).unwrap();
        assert_eq!(names(&listing), ["logs/a.ndjson", "logs/b.ndjson"]);
        assert_eq!(listing.watched(), (dir.path().join("logs"), false));
        assert!(listing.matches(&dir.path().join("logs/new.ndjson")));
        assert!(!listing.matches(&dir.path().join("logs/new.csv")));
        assert_eq!(listing.path_of(&"logs/a.csv".into()), dir.path().join("logs/a.csv"));
    }

    #[test]
    fn a_path_outside_the_base_keeps_its_whole_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x"), "").unwrap();
        let path = dir.path().join("x");
        let listing = Listing::new(&format!("file://{}", path.display()), Path::new("elsewhere")).unwrap();
        assert_eq!(names(&listing), [path.to_string_lossy()]);
        assert_eq!(listing.path_of(&listing.name_of(&path)), path);
    }
}
