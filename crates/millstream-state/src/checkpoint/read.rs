//! Reading a checkpoint back.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::ipc::reader::FileReader;
use millstream_core::disk::{Disk, ReadSeek};
use millstream_core::{Error, Result};

use super::manifest::{FileEntry, Manifest, SegmentEntry};
use super::{MANIFEST, open_file};
use crate::operator::{PaneCapture, Restored};
use crate::segment::{Saved, SavedFile, Segment};

/// Threads that read a checkpoint, at most.
const THREADS: usize = 4;

/// What is wanted of each file, by its number.
type Wanted = HashMap<usize, Vec<SegmentEntry>>;
/// What was read, by file and record batch.
type Found = HashMap<(usize, usize), Arc<Segment>>;

/// Reads a manifest by its name.
pub(crate) fn read_manifest(disk: &dyn Disk, dir: &Path, name: &str) -> Result<Manifest> {
    let crc32 = name.strip_suffix(MANIFEST).and_then(|n| n.rsplit('-').next());
    let crc32 = crc32.and_then(|hex| u32::from_str_radix(hex, 16).ok()).filter(|_| !name.contains(['/', '\\']));
    let crc32 = crc32.ok_or_else(|| Error::corrupt(format!("`{name}` is no name of a checkpoint's manifest")))?;
    let mut bytes = Vec::new();
    let read = open_file(disk, dir, name, crc32)?.read_to_end(&mut bytes);
    read.map_err(|e| Error::config(format!("the checkpoint {name} cannot be read: see to the disk")).caused_by(e))?;
    Manifest::parse(name, &bytes)
}

/// Reads the state of every operator.
pub(crate) fn read_operators(disk: &dyn Disk, dir: &Path, manifest: &Manifest) -> Result<BTreeMap<String, Restored>> {
    let wanted = wanted(manifest);
    let mut read = read_files(disk, dir, manifest, &wanted)?;
    let mut operators = BTreeMap::new();
    for (name, operator) in &manifest.operators {
        let mut restored = Restored { tables: HashMap::new(), notes: operator.notes.clone() };
        for (table_name, table) in &operator.tables {
            let mut panes = BTreeMap::new();
            for pane in &table.panes {
                let segment = |s: &SegmentEntry| {
                    let segment = read.remove(&(s.file, s.batch));
                    segment.ok_or_else(|| {
                        Error::corrupt(format!("the checkpoint of batch {} names a segment twice", manifest.batch))
                    })
                };
                let segments = pane.segments.iter().map(segment).collect::<Result<_>>()?;
                panes.insert(pane.pane, PaneCapture { keys: pane.keys, segments });
            }
            restored.tables.insert(table_name.clone(), panes);
        }
        operators.insert(name.clone(), restored);
    }
    Ok(operators)
}

/// The segments that are wanted, by file and record batch. Decoding is work: the files are shared out to threads.
fn read_files(disk: &dyn Disk, dir: &Path, manifest: &Manifest, wanted: &Wanted) -> Result<Found> {
    let files: Vec<(usize, &FileEntry)> = manifest.files.iter().enumerate().collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS).min(files.len()).max(1);
    let share = |thread: usize| -> Result<Found> {
        let mut read = Found::new();
        for (number, file) in files.iter().skip(thread).step_by(threads) {
            let entries = wanted.get(number).map(Vec::as_slice).unwrap_or_default();
            let segments = read_segments(disk, dir, file, entries)?;
            read.extend(entries.iter().zip(segments).map(|(e, segment)| ((*number, e.batch), Arc::new(segment))));
        }
        Ok(read)
    };
    let shares: Vec<Result<Found>> = std::thread::scope(|scope| {
        let share = &share;
        let others: Vec<_> = (1..threads).map(|thread| scope.spawn(move || share(thread))).collect();
        let mine = share(0);
        let panicked = |_| Err(Error::bug("a thread that reads a checkpoint panicked"));
        std::iter::once(mine).chain(others.into_iter().map(|o| o.join().unwrap_or_else(panicked))).collect()
    });
    let mut read = Found::new();
    for share in shares {
        read.extend(share?);
    }
    Ok(read)
}

/// The segments that the manifest names, by file, in the order of their record batches.
fn wanted(manifest: &Manifest) -> Wanted {
    let mut wanted = Wanted::new();
    let tables = manifest.operators.values().flat_map(|o| o.tables.values());
    for segment in tables.flat_map(|t| &t.panes).flat_map(|p| &p.segments) {
        wanted.entry(segment.file).or_default().push(*segment);
    }
    for segments in wanted.values_mut() {
        segments.sort_unstable_by_key(|s| s.batch);
    }
    wanted
}

fn read_segments(disk: &dyn Disk, dir: &Path, file: &FileEntry, entries: &[SegmentEntry]) -> Result<Vec<Segment>> {
    let path = dir.join(&file.name);
    let broken =
        |what: String| Error::corrupt(format!("the checkpoint file {} {what}: restore it from a copy", path.display()));
    let open = open_file(disk, dir, &file.name, file.crc32)?;
    let saved = Arc::new(SavedFile { name: file.name.clone(), bytes: file.bytes, crc32: file.crc32 });
    let mut reader = FileReader::try_new(open, None).map_err(|e| broken("is no Arrow file".into()).caused_by(e))?;
    let mut segment = |entry: &SegmentEntry| -> Result<Segment> {
        let batch = read_batch(&mut reader, entry.batch)
            .map_err(|e| broken(format!("cannot be read at record batch {}", entry.batch)).caused_by(e))?;
        let batch = batch.filter(|b| b.num_rows() == entry.rows && entry.removed <= entry.rows);
        let batch = batch.ok_or_else(|| broken(format!("holds other rows in record batch {}", entry.batch)))?;
        let place = Saved { file: Arc::clone(&saved), batch: entry.batch };
        Ok(Segment::restored(batch.columns().to_vec(), entry.rows, entry.removed, entry.bytes, place))
    };
    entries.iter().map(&mut segment).collect()
}

fn read_batch(
    reader: &mut FileReader<Box<dyn ReadSeek>>,
    batch: usize,
) -> Result<Option<RecordBatch>, arrow::error::ArrowError> {
    if batch >= reader.num_batches() {
        return Ok(None);
    }
    reader.set_index(batch)?;
    reader.next().transpose()
}
