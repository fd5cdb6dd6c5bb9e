//! The default layout: one file a batch and table partition, for readers that know nothing of us.
//!
//! Publishing writes every file aside under a hidden name, makes it durable, puts the marker that lists the
//! files in place (the moment at which the batch is published), and renames the files. What a crash leaves
//! half done, `open` finishes where the marker lists it and removes where it does not. A listed file that
//! lies under neither name was taken away by a reader after it had been in place; that is no error.
//!
//! Never removes a file whose name is not of this query's own making.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use millstream_core::batch::BatchId;
use millstream_core::sink::{Marker, Output, Owner, Permit};
use millstream_core::{Error, Result};

use super::durable::{create_dirs, dir_of, failed, remove, rename, sync_each};
use super::marker::DirMarker;
use super::names::{DirNames, Named};
use super::ownership::{Lock, check_claim, check_next, not_open, taken_over};
use super::partition::Partitioning;
use super::rows::FileFormat;
use crate::failpoint::io_fail_point;

/// A directory that one query fills with files.
pub(super) struct FilePerBatch {
    dir: PathBuf,
    names: DirNames,
    partitioning: Partitioning,
    format: FileFormat,
    /// What the marker on disk says; `None` while the sink is not open.
    marker: Option<DirMarker>,
}

impl FilePerBatch {
    pub(super) fn new(dir: PathBuf, query: &str, partitioning: Partitioning, format: FileFormat) -> Self {
        let names = DirNames::new(query, format.extension());
        Self { dir, names, partitioning, format, marker: None }
    }

    pub(super) fn open(&mut self, owner: &Owner) -> Result<Option<Marker>> {
        self.marker = None;
        if self.dir.is_file() {
            return Err(Error::config(format!(
                "'path' = '{}' is a file, and this sink writes a directory of files: choose another 'path', or set \
                 'sink.layout' = 'append'",
                self.dir.display()
            )));
        }
        let mut unsynced = BTreeSet::new();
        create_dirs(&self.dir, &mut unsynced)?;
        sync_each(&unsynced)?;
        let lock_path = self.dir.join(self.names.lock());
        let mut lock = Lock::take(&lock_path)?;
        self.step("sink.open.locked")?;
        let marker_path = self.dir.join(self.names.marker());
        let marker = match DirMarker::read(&marker_path)? {
            Some(recorded) => {
                check_claim(&recorded.owner, owner, &self.dir)?;
                self.put_in_place(&recorded.files)?;
                self.step("sink.open.renamed")?;
                self.sweep(recorded.batch)?;
                recorded.claimed_by(owner.clone())
            }
            None => {
                self.refuse_foreign_files()?;
                DirMarker::empty(owner.clone())
            }
        };
        self.step("sink.open.swept")?;
        marker.write(&marker_path)?;
        lock.name_holder(owner, &lock_path)?;
        self.step("sink.open.claimed")?;
        let answer = marker.marker();
        self.marker = Some(marker);
        Ok(answer)
    }

    pub(super) fn publish(&mut self, permit: &Permit, output: &Output) -> Result<()> {
        let Some(last) = self.marker.take() else { return Err(not_open(&self.dir)) };
        let marker_path = self.dir.join(self.names.marker());
        let _lock = Lock::take(&self.dir.join(self.names.lock()))?;
        if DirMarker::read(&marker_path)?.as_ref() != Some(&last) {
            return Err(taken_over(&last.owner, &self.dir));
        }
        check_next(&last.owner, last.batch, permit, &self.dir)?;

        let mut files = Vec::new();
        if let Err(error) = self.write_aside(permit.marker().batch, output, &mut files) {
            // Nothing names them yet. What cannot be removed now is swept by the next `open`.
            for file in &files {
                let _ = remove(&self.aside(file));
            }
            return Err(error);
        }
        self.step("sink.after_temp")?;
        let marker = DirMarker::published(permit.marker(), files);
        marker.write(&marker_path)?;
        self.step("sink.after_marker")?;
        self.put_in_place(&marker.files)?;
        self.step("sink.after_publish")?;
        self.marker = Some(marker);
        Ok(())
    }

    /// Publishing leaves nothing that is not durable.
    pub(super) fn flush(&self) -> Result<()> {
        self.step("sink.flushed")
    }

    pub(super) fn close(&mut self) {
        self.marker = None;
    }

    /// Writes the rows under hidden names, durably, and says what the files shall be called.
    fn write_aside(&mut self, batch: BatchId, output: &Output, files: &mut Vec<String>) -> Result<()> {
        self.step("sink.before_temp")?;
        let mut unsynced = BTreeSet::new();
        for (index, (partition, rows)) in self.partitioning.split(&output.batches)?.into_iter().enumerate() {
            let name = self.names.rows(batch, index);
            let file = if partition.is_empty() { name } else { format!("{partition}/{name}") };
            let path = self.aside(&file);
            create_dirs(dir_of(&path), &mut unsynced)?;
            files.push(file);
            let mut handle = File::create(&path).map_err(|e| failed("create", &path, e))?;
            let written = self.format.write(&mut handle, self.partitioning.file_schema(), &rows);
            written.map_err(|e| e.at(&path))?;
            self.step("sink.written_temp")?;
            unsynced.insert(dir_of(&path).to_path_buf());
            unsynced.insert(path);
        }
        // IMPORTANT: the rows and their hidden names are durable before a marker lists them. Only so does a
        // file that lies under neither name mean that a reader took it.
        sync_each(&unsynced)
    }

    /// Renames what is not at its name yet, durably.
    fn put_in_place(&self, files: &[String]) -> Result<()> {
        let mut dirs = BTreeSet::new();
        for file in files {
            let (aside, path) = (self.aside(file), self.dir.join(file));
            if aside.exists() {
                rename(&aside, &path)?;
                self.step("sink.after_rename")?;
            }
            let dir = dir_of(&path);
            if !dirs.contains(dir) && dir.is_dir() {
                dirs.insert(dir.to_path_buf());
            }
        }
        sync_each(&dirs)
    }

    /// Removes what this query wrote beyond its marker.
    fn sweep(&self, last: Option<BatchId>) -> Result<()> {
        let mut dirs = BTreeSet::new();
        self.own_files(&self.dir, 0, &mut |path, named| {
            let stays = matches!(named, Named::Rows(batch) if last.is_some_and(|last| batch <= last));
            if !stays && remove(path)? {
                dirs.insert(dir_of(path).to_path_buf());
            }
            Ok(())
        })?;
        sync_each(&dirs)
    }

    /// Without a marker, files that are called as this query's would be are somebody else's.
    fn refuse_foreign_files(&self) -> Result<()> {
        self.own_files(&self.dir, 0, &mut |path, _| {
            Err(Error::config(format!(
                "{} is called as a file of this query would be, but {} is not there to say which batches the directory \
                 holds. Bring the marker back, or move the files away, or choose another 'path'",
                path.display(),
                self.names.marker()
            )))
        })
    }

    fn own_files(&self, dir: &Path, depth: usize, visit: &mut dyn FnMut(&Path, Named) -> Result<()>) -> Result<()> {
        let entries = fs::read_dir(dir).map_err(|e| failed("list", dir, e))?;
        for entry in entries {
            let entry = entry.map_err(|e| failed("list", dir, e))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if depth == self.partitioning.depth() {
                if let Some(named) = self.names.read(name) {
                    visit(&entry.path(), named)?;
                }
            } else if self.partitioning.owns_dir(name, depth) && entry.path().is_dir() {
                self.own_files(&entry.path(), depth + 1, visit)?;
            }
        }
        Ok(())
    }

    /// Where a file lies until it is in place.
    fn aside(&self, file: &str) -> PathBuf {
        let (dir, name) = file.rsplit_once('/').unwrap_or(("", file));
        self.dir.join(dir).join(DirNames::temporary(name))
    }

    fn step(&self, name: &str) -> Result<()> {
        io_fail_point(name).map_err(|e| failed("write", &self.dir, e))
    }
}
