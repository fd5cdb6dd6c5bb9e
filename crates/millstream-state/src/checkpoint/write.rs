//! Writing a checkpoint: the segments that no earlier one has stored, then the manifest.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::ipc::writer::FileWriter;
use millstream_core::batch::BatchId;
use millstream_core::disk::SharedDisk;
use millstream_core::{Error, Result};

use super::manifest::{FileEntry, Manifest, OperatorEntry, PaneEntry, SegmentEntry, TableEntry, columns};
use super::{MANIFEST, SEGMENTS, write_file};
use crate::layout::Layout;
use crate::operator::{Changes, TableCapture};
use crate::segment::{Saved, SavedFile, Segment};

/// A file is closed when it holds so many bytes of segments.
const FILE_BYTES: usize = 16 << 20;

/// What a checkpoint is made of, captured at once.
pub(crate) struct Capture {
    pub(crate) batch: BatchId,
    /// By operator: what it is, for a person, and its state.
    pub(crate) operators: BTreeMap<String, (String, Changes)>,
}

/// A stored checkpoint.
pub(crate) struct Stored {
    /// The name of its manifest.
    pub(crate) name: String,
    /// The files it needs, without the manifest.
    pub(crate) files: Vec<String>,
}

impl Capture {
    /// Stores it. Everything is durable when it answers; before that, no older checkpoint is touched.
    pub(crate) async fn store(self, disk: SharedDisk, dir: PathBuf) -> Result<Stored> {
        disk.create_dir(&dir).map_err(|e| {
            let dir = dir.display();
            Error::config(format!(
                "the directory {dir} for checkpoints cannot be created: make room, or see to its permissions"
            ))
            .caused_by(e)
        })?;
        let mut written = Written { places: BTreeMap::new(), files: 0 };
        for table in self.operators.values().flat_map(|(_, changes)| changes.tables.values()) {
            for group in groups(table) {
                let bytes = encode(&table.layout, &group)?;
                let crc32 = crc32fast::hash(&bytes);
                let name = format!("segments-{:012}-{}-{crc32:08x}{SEGMENTS}", self.batch.0, written.files);
                write_file(disk.as_ref(), &dir, &name, &bytes).await?;
                written.add(Arc::new(SavedFile { name, bytes: bytes.len() as u64, crc32 }), &group);
                // Encoding is work: let others have their turn between two files.
                tokio::task::yield_now().await;
            }
        }
        // IMPORTANT: the segments' names are durable before the manifest names them.
        let sync_failed = |e| {
            let dir = dir.display();
            Error::config(format!("{dir} cannot be made durable: make room, or see to its disk")).caused_by(e)
        };
        if written.files > 0 {
            disk.sync_dir(&dir).await.map_err(sync_failed)?;
        }
        let manifest = self.manifest(&written)?;
        let bytes = serde_json::to_vec(&manifest)
            .map_err(|e| Error::bug("a checkpoint's manifest cannot be written as JSON").caused_by(e))?;
        let name = format!("checkpoint-{:012}-{:08x}{MANIFEST}", self.batch.0, crc32fast::hash(&bytes));
        write_file(disk.as_ref(), &dir, &name, &bytes).await?;
        disk.sync_dir(&dir).await.map_err(sync_failed)?;
        self.remember(&written);
        Ok(Stored { name, files: manifest.files.into_iter().map(|f| f.name).collect() })
    }

    fn segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        let tables = self.operators.values().flat_map(|(_, changes)| changes.tables.values());
        tables.flat_map(|t| &t.panes).flat_map(|(_, pane)| &pane.segments)
    }

    /// Only now, when the whole checkpoint is durable, later ones may build on its files.
    fn remember(&self, written: &Written) {
        for segment in self.segments() {
            if let Some(saved) = written.places.get(&Arc::as_ptr(segment).addr()) {
                // Another checkpoint cannot have stored it meanwhile: there is one at a time.
                let _ = segment.saved.set(saved.clone());
            }
        }
    }

    fn manifest(&self, written: &Written) -> Result<Manifest> {
        let mut manifest = Manifest::new(self.batch.0);
        let mut numbers: HashMap<String, usize> = HashMap::new();
        let files = &mut manifest.files;
        let mut entry = |segment: &Arc<Segment>| -> Result<SegmentEntry> {
            let saved = segment.saved.get().or_else(|| written.places.get(&Arc::as_ptr(segment).addr()));
            let saved = saved.ok_or_else(|| Error::bug("a checkpoint has left out a segment"))?;
            let file = *numbers.entry(saved.file.name.clone()).or_insert_with(|| {
                let SavedFile { name, bytes, crc32 } = saved.file.as_ref().clone();
                files.push(FileEntry { name, bytes, crc32 });
                files.len() - 1
            });
            let Segment { rows, removed, bytes, .. } = **segment;
            Ok(SegmentEntry { file, batch: saved.batch, rows, removed, bytes })
        };
        for (operator, (kind, changes)) in &self.operators {
            let mut tables = BTreeMap::new();
            for (name, table) in &changes.tables {
                let pane = |(pane, capture): &(i64, crate::operator::PaneCapture)| -> Result<PaneEntry> {
                    let segments = capture.segments.iter().map(&mut entry).collect::<Result<_>>()?;
                    Ok(PaneEntry { pane: *pane, keys: capture.keys, segments })
                };
                let panes = table.panes.iter().map(pane).collect::<Result<_>>()?;
                let (keys, values) = (columns(table.layout.keys.fields()), columns(table.layout.values.fields()));
                tables.insert(name.clone(), TableEntry { keys, values, paned: table.paned, panes });
            }
            let entry = OperatorEntry { kind: kind.clone(), tables, notes: changes.notes.clone() };
            manifest.operators.insert(operator.clone(), entry);
        }
        Ok(manifest)
    }
}

/// What this checkpoint has written so far.
struct Written {
    /// By the segment's address, which stays its own while the capture holds it.
    places: BTreeMap<usize, Saved>,
    files: usize,
}

impl Written {
    fn add(&mut self, file: Arc<SavedFile>, segments: &[Arc<Segment>]) {
        self.files += 1;
        for (batch, segment) in segments.iter().enumerate() {
            self.places.insert(Arc::as_ptr(segment).addr(), Saved { file: Arc::clone(&file), batch });
        }
    }
}

/// The segments of a table that no checkpoint has stored, by the file they go into.
fn groups(table: &TableCapture) -> Vec<Vec<Arc<Segment>>> {
    let mut groups: Vec<Vec<Arc<Segment>>> = Vec::new();
    let mut bytes = FILE_BYTES;
    for segment in table.panes.iter().flat_map(|(_, pane)| &pane.segments).filter(|s| s.saved.get().is_none()) {
        if bytes >= FILE_BYTES {
            groups.push(Vec::new());
            bytes = 0;
        }
        bytes += segment.bytes;
        if let Some(group) = groups.last_mut() {
            group.push(Arc::clone(segment));
        }
    }
    groups
}

fn encode(layout: &Layout, segments: &[Arc<Segment>]) -> Result<Vec<u8>> {
    let bytes: usize = segments.iter().map(|s| s.bytes + 1024).sum();
    let mut writer = FileWriter::try_new(Vec::with_capacity(bytes), &layout.stored)?;
    for segment in segments {
        let options = RecordBatchOptions::new().with_row_count(Some(segment.rows));
        let columns = segment.columns().to_vec();
        writer.write(&RecordBatch::try_new_with_options(Arc::clone(&layout.stored), columns, &options)?)?;
    }
    Ok(writer.into_inner()?)
}
