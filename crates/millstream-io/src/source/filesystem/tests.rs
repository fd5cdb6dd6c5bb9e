use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use futures::{FutureExt, TryStreamExt};
use millstream_core::ErrorKind;
use millstream_core::batch::{Place, Position};
use millstream_core::format::Decoder;
use millstream_core::source::Rejected;
use proptest::prelude::*;

use super::segment::LINE_BYTES_MAX;
use super::*;

/// Each line is a row of one string; a line that begins with `!` is rejected.
#[derive(Debug)]
struct Plain;

struct PlainDecoder {
    schema: SchemaRef,
    lines: Vec<String>,
    places: Vec<Place>,
    rejected: Vec<Rejected>,
}

impl Format for Plain {
    fn decoder(&self, schema: SchemaRef) -> Result<Box<dyn Decoder>> {
        Ok(Box::new(PlainDecoder { schema, lines: vec![], places: vec![], rejected: vec![] }))
    }
}

impl Decoder for PlainDecoder {
    fn push(&mut self, record: &[u8], place: Place) {
        if record.starts_with(b"!") {
            self.rejected.push(Rejected { place, reason: "bad".into(), raw: record.into() });
        } else {
            self.lines.push(String::from_utf8_lossy(record).into_owned());
            self.places.push(place);
        }
    }

    fn len(&self) -> usize {
        self.lines.len()
    }

    fn finish(&mut self) -> Result<Chunk> {
        let lines = std::mem::take(&mut self.lines);
        let count = RecordBatchOptions::new().with_row_count(Some(lines.len()));
        let columns: Vec<ArrayRef> =
            self.schema.fields().iter().map(|_| Arc::new(StringArray::from(lines.clone())) as ArrayRef).collect();
        Ok(Chunk {
            rows: RecordBatch::try_new_with_options(self.schema.clone(), columns, &count)?,
            places: std::mem::take(&mut self.places),
            rejected: std::mem::take(&mut self.rejected),
            raw: None,
        })
    }
}

const ALL: Limit = Limit { rows: u64::MAX, bytes: u64::MAX };

fn table(dir: &Path, options: &[(&str, &str)]) -> Result<FilesystemTable> {
    let spec = TableSpec {
        name: "t".into(),
        schema: Arc::new(Schema::new(vec![Field::new("line", DataType::Utf8, true)])),
        options: options.iter().copied().collect(),
        partitioned_by: vec![],
        primary_key: vec![],
        base_dir: dir.into(),
    };
    FilesystemTable::new(&spec, Some(Arc::new(Plain)))
}

fn bounded(dir: &Path, path: &str) -> Arc<dyn Source> {
    table(dir, &[("path", path)]).unwrap().source(&[0]).unwrap()
}

fn followed(dir: &Path, path: &str) -> Arc<dyn Source> {
    table(dir, &[("path", path), ("source.monitor-interval", "1 h")]).unwrap().source(&[0]).unwrap()
}

type Row = (String, Place, String);

/// The rows of a range with their partition; rejected ones too, in the order of their places.
async fn rows(source: &Arc<dyn Source>, range: &Range) -> Result<Vec<Row>> {
    let chunks: Vec<Chunk> = source.open(range).await?.try_collect().await?;
    let mut rows = Vec::new();
    for chunk in &chunks {
        assert_eq!(chunk.rows.num_rows(), chunk.places.len());
        let lines = chunk.rows.column(0).as_any().downcast_ref::<StringArray>().unwrap();
        for (i, place) in chunk.places.iter().enumerate() {
            rows.push((range.partition.to_string(), *place, lines.value(i).to_string()));
        }
        for r in &chunk.rejected {
            rows.push((range.partition.to_string(), r.place, String::from_utf8_lossy(&r.raw).into_owned()));
        }
    }
    rows.sort_by_key(|r| r.1);
    let sizes: Vec<_> = chunks.iter().map(|c| c.places.len() + c.rejected.len()).collect();
    assert!(sizes.iter().rev().skip(1).all(|n| *n == rows::CHUNK_ROWS), "chunks of a fixed size: {sizes:?}");
    Ok(rows)
}

/// Reads on from these positions until nothing is offered.
async fn drain(source: &Arc<dyn Source>, at: &mut Positions, limit: Limit) -> Result<(Vec<Row>, Vec<Range>)> {
    let (mut all, mut ranges) = (Vec::new(), Vec::new());
    loop {
        let offer = source.offer(at, limit).await?;
        if offer.ranges.is_empty() {
            return Ok((all, ranges));
        }
        for range in offer.ranges {
            assert_eq!(range.start, at.get(&range.partition).copied().unwrap_or_default());
            assert!(range.start.offset < range.end.offset);
            all.extend(rows(source, &range).await?);
            at.insert(range.partition.clone(), range.end);
            ranges.push(range);
        }
    }
}

/// The next rows of a followed source, whenever they come.
async fn next_rows(source: &Arc<dyn Source>, at: &mut Positions) -> Vec<Row> {
    loop {
        source.ready().await;
        let (found, _) = drain(source, at, ALL).await.unwrap();
        if !found.is_empty() {
            return found;
        }
    }
}

async fn read_all(source: &Arc<dyn Source>) -> Vec<Row> {
    drain(source, &mut Positions::new(), ALL).await.unwrap().0
}

fn texts(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|r| r.2.as_str()).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn append(path: &Path, text: &str) {
    fs::OpenOptions::new().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// The rows that a file should give: an independent reading of the rules.
fn expected(name: &str, text: &str) -> Vec<Row> {
    let mut offset = 0;
    let mut rows = Vec::new();
    for (row, whole) in text.split_inclusive('\n').enumerate() {
        let line = whole.trim_end_matches('\n');
        let line = line.strip_suffix('\r').unwrap_or(line);
        let line = if row == 0 { line.trim_start_matches('\u{feff}') } else { line };
        rows.push((name.to_string(), Place { offset, row: row as u64 }, line.to_string()));
        offset += whole.len() as u64;
    }
    rows
}

#[tokio::test]
async fn a_file_gives_its_rows_with_places_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let text = "\u{feff}a\r\n\n!b\n  \nc";
    fs::write(dir.path().join("x.ndjson"), text).unwrap();
    let source = bounded(dir.path(), "x.ndjson");
    let offer = source.offer(&Positions::new(), ALL).await.unwrap();
    assert!(offer.closed);
    assert_eq!(offer.partitions, ["x.ndjson".into()]);
    assert_eq!(offer.finished, ["x.ndjson".into()]);
    assert_eq!(offer.lag, Some(0));
    assert_eq!(offer.ranges[0].end, Position { offset: text.len() as u64, row: 5 });
    assert_eq!(rows(&source, &offer.ranges[0]).await.unwrap(), expected("x.ndjson", text));
}

#[tokio::test]
async fn a_projection_of_no_columns_still_counts_rows() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("x"), "a\nb\n").unwrap();
    let source = table(dir.path(), &[("path", "x")]).unwrap().source(&[]).unwrap();
    let offer = source.offer(&Positions::new(), ALL).await.unwrap();
    let chunks: Vec<_> = source.open(&offer.ranges[0]).await.unwrap().try_collect().await.unwrap();
    assert_eq!(chunks[0].rows.num_rows(), 2);
    assert_eq!(chunks[0].rows.num_columns(), 0);
}

#[tokio::test]
async fn nothing_at_the_path_is_an_input_error_that_says_where_it_looked() {
    let dir = tempfile::tempdir().unwrap();
    let error = bounded(dir.path(), "*.ndjson").offer(&Positions::new(), ALL).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.message().contains("'*.ndjson'"), "{error}");
}

#[tokio::test]
async fn a_small_limit_is_shared_by_all_files_and_one_row_is_always_offered() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        fs::write(dir.path().join(name), "123456789\n".repeat(100)).unwrap();
    }
    let source = bounded(dir.path(), ".");
    let offer = source.offer(&Positions::new(), Limit { rows: 30, bytes: u64::MAX }).await.unwrap();
    assert_eq!(offer.ranges.iter().map(|r| r.end.row).collect::<Vec<_>>(), [10, 10, 10]);
    assert_eq!(offer.lag, Some(3000 - 300));
    let offer = source.offer(&Positions::new(), Limit { rows: 9, bytes: 45 }).await.unwrap();
    assert_eq!(offer.ranges.iter().map(|r| r.end.row).sum::<u64>(), 4);
    let offer = source.offer(&Positions::new(), Limit { rows: 9, bytes: 1 }).await.unwrap();
    assert_eq!(offer.ranges.iter().map(|r| r.end.row).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn what_was_offered_and_not_taken_is_offered_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "1\n2\n3\n").unwrap();
    let source = bounded(dir.path(), "a");
    let first = source.offer(&Positions::new(), ALL).await.unwrap();
    let again = source.offer(&Positions::new(), ALL).await.unwrap();
    assert_eq!(first.ranges, again.ranges);
}

#[tokio::test]
async fn packed_files_are_unpacked_by_their_first_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let text = (0..30_000).map(|i| format!("line {i}\n")).collect::<String>();
    let (half, rest) = text.split_at(text.len() / 2);
    fs::write(dir.path().join("a.gz"), [gzip(half.as_bytes()), gzip(rest.as_bytes())].concat()).unwrap();
    fs::write(dir.path().join("b"), gzip(text.as_bytes())).unwrap();
    fs::write(dir.path().join("c.zst"), zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
    let source = bounded(dir.path(), ".");
    let (mut all, ranges) =
        drain(&source, &mut Positions::new(), Limit { rows: 10_000, bytes: u64::MAX }).await.unwrap();
    all.sort();
    let mut wanted: Vec<_> = ["a.gz", "b", "c.zst"].iter().flat_map(|n| expected(n, &text)).collect();
    wanted.sort();
    assert_eq!(all, wanted);
    // In another process, whatever range is asked for first.
    let other = bounded(dir.path(), ".");
    let range = ranges.iter().rfind(|r| r.partition.as_str() == "c.zst" && r.start.offset > 0).unwrap();
    assert_eq!(rows(&other, range).await.unwrap(), rows(&source, range).await.unwrap());
}

#[tokio::test]
async fn an_offer_larger_than_what_is_kept_in_memory_is_read_from_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let text: String = (0..60_000).map(|i| format!("{} {i:06}\n", "x".repeat(100))).collect();
    fs::write(dir.path().join("a"), &text).unwrap();
    fs::write(dir.path().join("b.gz"), gzip(text.as_bytes())).unwrap();
    let wanted: Vec<_> = ["a", "b.gz"].iter().map(|n| expected(n, &text)).collect();
    for rows_max in [u64::MAX, 70_000] {
        let source = bounded(dir.path(), ".");
        let limit = Limit { rows: rows_max, bytes: u64::MAX };
        let (mut all, ranges) = drain(&source, &mut Positions::new(), limit).await.unwrap();
        all.sort();
        assert!(all == wanted.concat(), "the rows with {rows_max} a batch");
        for range in ranges.iter().rev() {
            let name = usize::from(range.partition.as_str() != "a");
            let lines = range.start.row as usize..range.end.row as usize;
            assert!(rows(&source, range).await.unwrap() == wanted[name][lines], "{range:?} again");
        }
    }
}

#[tokio::test]
async fn a_directory_that_is_moved_into_a_followed_one_is_read() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("in")).unwrap();
    fs::create_dir_all(dir.path().join("aside/day=1")).unwrap();
    fs::write(dir.path().join("aside/day=1/x"), "1\n").unwrap();
    // What happens before the new directory is watched too is found at the next interval.
    let options = [("path", "in"), ("source.monitor-interval", "100 ms")];
    let source = table(dir.path(), &options).unwrap().source(&[0]).unwrap();
    let mut at = Positions::new();
    assert!(drain(&source, &mut at, ALL).await.unwrap().0.is_empty());
    fs::rename(dir.path().join("aside/day=1"), dir.path().join("in/day=1")).unwrap();
    assert_eq!(texts(&next_rows(&source, &mut at).await), ["1"]);
    append(&dir.path().join("in/day=1/x"), "2\n");
    assert_eq!(texts(&next_rows(&source, &mut at).await), ["2"]);
}

#[tokio::test]
async fn a_relative_path_is_woken_as_soon_as_something_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let up: std::path::PathBuf = std::env::current_dir().unwrap().components().skip(1).map(|_| "..").collect();
    let base = up.join(dir.path().canonicalize().unwrap().strip_prefix("/").unwrap());
    fs::create_dir(dir.path().join("gl")).unwrap();
    for (n, path) in ["gl", "gl/*.ndjson", "./gl", "gl/../gl", "gl/log.ndjson"].into_iter().enumerate() {
        fs::write(dir.path().join("gl/log.ndjson"), "1\n").unwrap();
        // The interval is an hour.
        let source = followed(&base, path);
        let mut at = Positions::new();
        assert_eq!(texts(&drain(&source, &mut at, ALL).await.unwrap().0), ["1"], "{path}");
        append(&dir.path().join("gl/log.ndjson"), "2\n");
        let woken = tokio::time::timeout(Duration::from_secs(10), next_rows(&source, &mut at)).await;
        assert_eq!(texts(&woken.expect(path)), ["2"], "{n} {path}");
    }
}

#[tokio::test]
async fn an_unreadable_directory_under_a_glob_is_an_error() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("x"), "1\n").unwrap();
    }
    let closed = dir.path().join("b");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    // For root everything is readable.
    if fs::read_dir(&closed).is_err() {
        let error = bounded(dir.path(), "*/*").offer(&Positions::new(), ALL).await.unwrap_err();
        assert!(error.message().contains("could not be listed"), "{error}");
    }
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test]
async fn without_a_watch_a_change_is_found_at_the_next_interval() {
    let dir = tempfile::tempdir().unwrap();
    // The directory is not there to be watched.
    let options = [("path", "later/"), ("source.monitor-interval", "5 ms")];
    let source = table(dir.path(), &options).unwrap().source(&[0]).unwrap();
    let mut at = Positions::new();
    assert!(drain(&source, &mut at, ALL).await.unwrap().0.is_empty());
    fs::create_dir(dir.path().join("later")).unwrap();
    fs::write(dir.path().join("later/x"), "1\n").unwrap();
    assert_eq!(texts(&next_rows(&source, &mut at).await), ["1"]);
}

#[tokio::test]
async fn a_followed_file_that_was_read_and_removed_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "1\n").unwrap();
    let source = followed(dir.path(), ".");
    let mut at = Positions::new();
    drain(&source, &mut at, ALL).await.unwrap();
    fs::remove_file(dir.path().join("a")).unwrap();
    while source.offer(&at, ALL).await.unwrap().finished != ["a".into()] {
        source.ready().await;
    }
    assert_eq!(followed(dir.path(), ".").offer(&at, ALL).await.unwrap().finished, ["a".into()]);
}

#[tokio::test]
async fn a_truncated_archive_names_the_file_and_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let text = (0..100_000u32).map(|i| format!("{}\n", i.wrapping_mul(2_654_435_761))).collect::<String>();
    let packed = gzip(text.as_bytes());
    let zst = zstd::encode_all(text.as_bytes(), 1).unwrap();
    for (name, bytes) in [("x.gz", &packed[..packed.len() - 10]), ("y.zst", &zst[..zst.len() / 2]), ("z.gz", b"")] {
        fs::write(dir.path().join(name), bytes).unwrap();
        let source = bounded(dir.path(), name);
        let error = drain(&source, &mut Positions::new(), ALL).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input);
        assert!(error.message().contains(name) && error.message().contains("write it again"), "{error}");
    }
}

#[tokio::test]
async fn of_many_small_files_an_offer_takes_many_and_says_of_each_once_that_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..500 {
        fs::write(dir.path().join(format!("f{n:03}")), format!("{n}\n")).unwrap();
    }
    let source = bounded(dir.path(), ".");
    let (mut at, mut finished, mut offers) = (Positions::new(), Vec::new(), 0);
    loop {
        let offer = source.offer(&at, ALL).await.unwrap();
        // What was not taken is said again, the ends of files too.
        assert_eq!(format!("{:?}", source.offer(&at, ALL).await.unwrap()), format!("{offer:?}"));
        finished.extend(offer.finished);
        if offer.ranges.is_empty() {
            break;
        }
        offers += 1;
        for range in &offer.ranges {
            assert_eq!(rows(&source, range).await.unwrap().len(), 1);
        }
        at.extend(offer.ranges.iter().map(|range| (range.partition.clone(), range.end)));
    }
    assert!(offers <= 4, "{offers}");
    assert_eq!(finished.iter().collect::<BTreeSet<_>>().len(), 500);
    assert!(finished.len() <= 2 * 500, "{}", finished.len());
    assert_eq!(drain(&source, &mut Positions::new(), ALL).await.unwrap().0.len(), 500);
}

#[tokio::test]
async fn a_line_of_20_mib_is_rejected_and_the_next_one_read() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(20 << 20);
    fs::write(dir.path().join("a"), format!("1\n{long}\n2\n\n3\n{long}")).unwrap();
    let source = bounded(dir.path(), "a");
    let (found, ranges) = drain(&source, &mut Positions::new(), ALL).await.unwrap();
    assert_eq!(found.iter().map(|r| r.2.len()).collect::<Vec<_>>(), [1, 64 << 10, 1, 0, 1, 64 << 10]);
    assert_eq!(found[2].1, Place { offset: 2 + (20 << 20) + 1, row: 2 });
    assert_eq!(found[5].1.row, 5);
    let other = bounded(dir.path(), "a");
    assert_eq!(rows(&other, &ranges[0]).await.unwrap(), found);
    let (one_by_one, _) = drain(&source, &mut Positions::new(), Limit { rows: 1, bytes: 1 }).await.unwrap();
    assert_eq!(one_by_one, found);
}

#[tokio::test]
async fn a_line_of_exactly_the_maximum_is_a_row() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), format!("{}\n", "x".repeat(LINE_BYTES_MAX))).unwrap();
    let source = bounded(dir.path(), "a");
    assert_eq!(read_all(&source).await[0].2.len(), LINE_BYTES_MAX);
}

#[tokio::test]
async fn a_growing_file_gives_whole_lines_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    fs::write(&path, "a\nb").unwrap();
    let source = followed(dir.path(), "log");
    let mut at = Positions::new();
    assert_eq!(texts(&drain(&source, &mut at, ALL).await.unwrap().0), ["a"]);
    append(&path, "b");
    source.ready().await;
    assert!(drain(&source, &mut at, ALL).await.unwrap().0.is_empty());
    append(&path, "\nc\nd");
    let found = next_rows(&source, &mut at).await;
    assert_eq!(texts(&found), ["bb", "c"]);
    assert_eq!(found[1].1, Place { offset: 5, row: 2 });
    let offer = source.offer(&at, ALL).await.unwrap();
    assert!(!offer.closed && offer.finished.is_empty());
}

#[tokio::test]
async fn a_followed_directory_finds_new_files_and_reads_packed_ones_to_their_end() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("in")).unwrap();
    let source = followed(dir.path(), "in/*");
    let mut at = Positions::new();
    assert!(drain(&source, &mut at, ALL).await.unwrap().0.is_empty());
    fs::write(dir.path().join("in/.part"), gzip(b"1\n2")).unwrap();
    fs::rename(dir.path().join("in/.part"), dir.path().join("in/a.gz")).unwrap();
    assert_eq!(texts(&next_rows(&source, &mut at).await), ["1", "2"]);
    assert_eq!(source.offer(&at, ALL).await.unwrap().finished, ["in/a.gz".into()]);
}

#[tokio::test]
async fn many_growing_files_each_get_their_turn() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..40 {
        fs::write(dir.path().join(format!("{i:02}")), "x\n".repeat(1000)).unwrap();
    }
    let source = followed(dir.path(), ".");
    let mut at = Positions::new();
    for _ in 0..3 {
        let offer = source.offer(&at, Limit { rows: 160, bytes: u64::MAX }).await.unwrap();
        at.extend(offer.ranges.into_iter().map(|r| (r.partition, r.end)));
    }
    assert_eq!(at.len(), 40);
}

#[tokio::test]
async fn a_range_of_a_file_that_grew_or_was_touched_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    fs::write(&path, "a\nb\n").unwrap();
    let (found, ranges) = drain(&followed(dir.path(), "log"), &mut Positions::new(), ALL).await.unwrap();
    append(&path, "c\n");
    assert_eq!(rows(&followed(dir.path(), "log"), &ranges[0]).await.unwrap(), found);
    fs::write(&path, "a\nb\n").unwrap();
    assert_eq!(rows(&bounded(dir.path(), "log"), &ranges[0]).await.unwrap(), found);
}

#[tokio::test]
async fn a_range_of_a_file_that_changed_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    fs::write(&path, "aa\nbb\n").unwrap();
    let (_, ranges) = drain(&bounded(dir.path(), "log"), &mut Positions::new(), ALL).await.unwrap();
    let cases: [(&str, &dyn Fn()); 4] = [
        ("rewritten", &|| fs::write(&path, "aa\nxb\ncc\n").unwrap()),
        ("no longer holds", &|| fs::write(&path, "aa\n").unwrap()),
        ("rewritten", &|| fs::write(&path, "aa\nbb ccc\n").unwrap()),
        ("vanished", &|| fs::remove_file(&path).unwrap()),
    ];
    for (what, change) in cases {
        change();
        let error = rows(&bounded(dir.path(), "log"), &ranges[0]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input);
        let text = error.to_string();
        assert!(text.contains(what) && text.contains("log") && text.contains("6 bytes"), "{text}");
    }
}

#[tokio::test]
async fn a_followed_file_that_shrinks_or_is_replaced_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    fs::write(&path, "a\nb\n").unwrap();
    let source = followed(dir.path(), "log");
    let mut at = Positions::new();
    drain(&source, &mut at, ALL).await.unwrap();
    fs::write(dir.path().join("new"), "1\n2\n3\n4\n").unwrap();
    fs::rename(dir.path().join("new"), &path).unwrap();
    let error = loop {
        source.ready().await;
        if let Err(error) = source.offer(&at, ALL).await {
            break error;
        }
    };
    assert!(error.message().contains("replaced"), "{error}");
    fs::write(&path, "1\n").unwrap();
    let error = followed(dir.path(), "log").offer(&at, ALL).await.unwrap_err();
    assert!(error.message().contains("shrunk"), "{error}");
    fs::write(&path, "1111111\n").unwrap();
    let error = followed(dir.path(), "log").offer(&at, ALL).await.unwrap_err();
    assert!(error.message().contains("no line ends there"), "{error}");
}

/// A source that goes on where another one was after these ranges.
fn resumed(dir: &Path, path: &str, at: &Positions, ranges: &[Range]) -> Arc<dyn Source> {
    let source = followed(dir, path);
    source.resume(at, &ranges.iter().map(|r| (r.partition.clone(), r.stamp.clone())).collect());
    source
}

#[tokio::test]
async fn a_file_that_was_rotated_while_nobody_looked_is_an_error_though_its_lines_fit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    fs::write(&path, "a1\na2\n").unwrap();
    let mut at = Positions::new();
    let (_, ranges) = drain(&followed(dir.path(), "log"), &mut at, ALL).await.unwrap();
    append(&path, "a3\n");
    let (found, _) = drain(&resumed(dir.path(), "log", &at, &ranges), &mut at.clone(), ALL).await.unwrap();
    assert_eq!(texts(&found), ["a3"]);
    // As long as before, and longer.
    for text in ["b1\nb2\n", "b1\nb2\nb3\nb4\n"] {
        fs::remove_file(&path).unwrap();
        fs::write(&path, text).unwrap();
        let error = drain(&resumed(dir.path(), "log", &at, &ranges), &mut at.clone(), ALL).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input);
        assert!(error.message().contains("'log' was rewritten"), "{error}");
    }
}

#[tokio::test]
async fn a_file_that_is_rewritten_in_place_while_it_is_followed_is_an_error() {
    for text in ["b1\nb2\n", "b1\nb2\nb3\n"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "a1\na2\n").unwrap();
        let source = followed(dir.path(), "log");
        let mut at = Positions::new();
        drain(&source, &mut at, ALL).await.unwrap();
        fs::write(&path, text).unwrap();
        let error = loop {
            source.ready().await;
            if let Err(error) = drain(&source, &mut at, ALL).await {
                break error;
            }
        };
        assert!(error.message().contains("'log' was rewritten"), "{error}");
    }
}

#[tokio::test]
async fn a_packed_file_that_was_read_and_exchanged_is_an_error_and_one_that_was_touched_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.gz");
    fs::write(&path, gzip(b"1\n2\n")).unwrap();
    let source = followed(dir.path(), ".");
    let mut at = Positions::new();
    let (_, ranges) = drain(&source, &mut at, ALL).await.unwrap();
    fs::File::options().append(true).open(&path).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    for source in [source, resumed(dir.path(), ".", &at, &ranges)] {
        loop {
            source.ready().now_or_never();
            let offer = source.offer(&at, ALL).await.unwrap();
            assert!(offer.ranges.is_empty());
            if offer.finished == ["log.gz".into()] {
                break;
            }
        }
    }
    fs::write(&path, gzip(b"1\n3\n")).unwrap();
    let error = resumed(dir.path(), ".", &at, &ranges).offer(&at, ALL).await.unwrap_err();
    assert!(error.message().contains("'log.gz' was rewritten"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_renamed_within_a_followed_directory_is_not_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("app.log"), dir.path().join("app.log.1"));
    fs::write(&old, "1\n2\n").unwrap();
    let source = followed(dir.path(), ".");
    let mut at = Positions::new();
    let (_, ranges) = drain(&source, &mut at, ALL).await.unwrap();
    fs::rename(&old, &new).unwrap();
    let error = loop {
        source.ready().await;
        if let Err(error) = drain(&source, &mut at, ALL).await {
            break error;
        }
    };
    assert!(error.message().contains("'app.log' was read and is now called 'app.log.1'"), "{error}");
    let error = resumed(dir.path(), ".", &at, &ranges).offer(&at, ALL).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Input && error.message().contains("is now called"), "{error}");
    // Another file may take the name and the inode of one that was removed.
    fs::remove_file(&new).unwrap();
    fs::write(&new, "3\n").unwrap();
    let source = resumed(dir.path(), ".", &at, &ranges);
    assert_eq!(texts(&drain(&source, &mut at, ALL).await.unwrap().0), ["3"]);
}

#[tokio::test]
async fn a_bounded_file_that_was_begun_and_vanished_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "1\n").unwrap();
    let at = Positions::from([("b".into(), Position { offset: 2, row: 1 })]);
    let error = bounded(dir.path(), ".").offer(&at, ALL).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.message().contains("'b'"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_appended_line_is_offered_soon_after_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    fs::write(&path, "").unwrap();
    let source = followed(dir.path(), "log");
    let mut at = Positions::new();
    drain(&source, &mut at, ALL).await.unwrap();
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    let mut times = Vec::new();
    for i in 0..200 {
        let begin = Instant::now();
        file.write_all(format!("line {i}\n").as_bytes()).unwrap();
        loop {
            source.ready().await;
            let offer = source.offer(&at, ALL).await.unwrap();
            if let Some(range) = offer.ranges.first() {
                times.push(begin.elapsed());
                at.insert(range.partition.clone(), range.end);
                break;
            }
        }
    }
    times.sort();
    println!("append to offer: p50 {:?}, p99 {:?}", times[100], times[198]);
    assert!(times[100] < Duration::from_millis(20), "p50 {:?}", times[100]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_cut_of_the_offers_gives_the_whole_files(
        files in prop::collection::vec(
            prop::collection::vec(("[a-z!]{0,12}", prop_oneof!["\n", "\r\n", "\n\n", " \n"]), 0..60), 1..5),
        limits in prop::collection::vec((1u64..9, 1u64..60), 1..8),
        open_ended in any::<bool>(),
        packed in any::<bool>(),
        restart_every in 1usize..9,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut wanted = BTreeMap::new();
        for (i, lines) in files.iter().enumerate() {
            let mut text: String = lines.iter().map(|(line, end)| format!("{line}{end}")).collect();
            if open_ended {
                text = text.trim_end().to_string();
            }
            let name = format!("f{i}");
            let bytes = if packed && i % 2 == 0 { gzip(text.as_bytes()) } else { text.clone().into_bytes() };
            fs::write(dir.path().join(&name), bytes).unwrap();
            wanted.insert(name.clone(), expected(&name, &text));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut source = bounded(dir.path(), ".");
            let (mut at, mut found, mut ranges) = (Positions::new(), BTreeMap::<String, Vec<Row>>::new(), Vec::new());
            let mut finished = BTreeSet::new();
            for turn in 0.. {
                if turn % restart_every == 0 {
                    source = bounded(dir.path(), ".");
                }
                let (rows_max, bytes_max) = limits[turn % limits.len()];
                let offer = source.offer(&at, Limit { rows: rows_max, bytes: bytes_max }).await.unwrap();
                prop_assert!(offer.closed);
                finished.extend(offer.finished);
                let mut count = 0;
                for range in &offer.ranges {
                    let found_here = rows(&source, range).await.unwrap();
                    count += found_here.len() as u64;
                    found.entry(range.partition.to_string()).or_default().extend(found_here);
                    at.insert(range.partition.clone(), range.end);
                }
                let bytes: u64 = offer.ranges.iter().map(|r| r.end.offset - r.start.offset).sum();
                prop_assert!(count <= rows_max);
                prop_assert!(bytes <= bytes_max || count == 1, "{bytes} bytes, {count} rows");
                if offer.ranges.is_empty() {
                    prop_assert_eq!(finished.len(), files.len());
                    break;
                }
                ranges.extend(offer.ranges);
            }
            for (name, rows) in &wanted {
                prop_assert_eq!(found.get(name).cloned().unwrap_or_default(), rows.clone());
            }
            let other = bounded(dir.path(), ".");
            for range in ranges.iter().rev() {
                let name = range.partition.as_str();
                let inside = |r: &&Row| (range.start.offset..range.end.offset).contains(&r.1.offset);
                let again: Vec<_> = wanted[name].iter().filter(inside).cloned().collect();
                prop_assert_eq!(rows(&other, range).await.unwrap(), again);
            }
            Ok(())
        })?;
    }
}

mod formats {
    //! The same promises with the real formats.

    use std::fs::File;

    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;
    use millstream_testkit::conformance::source::{Expected, check};
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;

    use super::super::super::source_table;
    use super::*;

    fn spec(dir: &Path, options: &[(&str, &str)]) -> TableSpec {
        let fields = vec![Field::new("n", DataType::Int64, true), Field::new("s", DataType::Utf8, true)];
        TableSpec {
            name: "t".into(),
            schema: Arc::new(Schema::new(fields)),
            options: [("connector", "filesystem")].iter().chain(options).copied().collect(),
            partitioned_by: vec![],
            primary_key: vec![],
            base_dir: dir.into(),
        }
    }

    async fn promises(dir: &Path, options: &[(&str, &str)], rows: u64, rejected: u64) {
        let expected = Expected { rows: Some(rows), rejected: Some(rejected) };
        check(|| source_table(&spec(dir, options))?.source(&[1, 0]), expected).await.unwrap();
    }

    #[tokio::test]
    async fn ndjson_files_keep_the_promises_of_a_source() {
        let dir = tempfile::tempdir().unwrap();
        let text: String = (0..50).map(|i| format!("{{\"n\":{i},\"s\":\"{}\"}}\n\n", "x".repeat(i % 9))).collect();
        fs::write(dir.path().join("a.ndjson"), format!("\u{feff}{text}broken\r\n{{\"n\":\"x\"}}")).unwrap();
        fs::write(dir.path().join("b.ndjson.gz"), gzip(text.as_bytes())).unwrap();
        fs::write(dir.path().join("c.ndjson.zst"), zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
        fs::write(dir.path().join("d.ndjson"), "").unwrap();
        promises(dir.path(), &[("path", "*.ndjson*"), ("format", "json")], 150, 2).await;
        let followed = [("path", "."), ("format", "json"), ("source.monitor-interval", "1 h")];
        promises(dir.path(), &followed, 150, 1).await;
    }

    #[tokio::test]
    async fn a_line_of_nothing_but_white_space_is_a_row_where_the_format_says_so() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "1\tx\n\t\n\n").unwrap();
        let tabs = [("path", "a"), ("format", "csv"), ("csv.field-delimiter", "\\t")];
        promises(dir.path(), &tabs, 2, 0).await;
        let lines = |format: &str, path: &str| TableSpec {
            schema: Arc::new(Schema::new(vec![Field::new("s", DataType::Utf8, true)])),
            ..spec(dir.path(), &[("path", path), ("format", format)])
        };
        fs::write(dir.path().join("b"), "x\n\n \n").unwrap();
        for (format, rows) in [("raw", 3), ("csv", 3)] {
            let expected = Expected { rows: Some(rows), rejected: Some(0) };
            check(|| source_table(&lines(format, "b"))?.source(&[0]), expected).await.unwrap();
        }
    }

    #[tokio::test]
    async fn csv_files_with_a_header_keep_the_promises_of_a_source() {
        let dir = tempfile::tempdir().unwrap();
        let text: String = (0..60).map(|i| format!("{i},x{i}\n")).collect();
        fs::write(dir.path().join("a.csv"), format!("n,s\n{text}1,2,3\n")).unwrap();
        fs::write(dir.path().join("b.csv"), format!("n,s\n{text}")).unwrap();
        promises(dir.path(), &[("path", "."), ("format", "csv"), ("csv.header", "true")], 120, 1).await;
    }

    fn write_parquet(path: &Path, from: i64, rows: i64) {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + rows));
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|i| format!("x{i}"))));
        let batch = RecordBatch::try_from_iter([("n", numbers), ("s", texts)]).unwrap();
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(40)).build();
        let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    #[tokio::test]
    async fn parquet_files_keep_the_promises_of_a_source() {
        let dir = tempfile::tempdir().unwrap();
        write_parquet(&dir.path().join("a.parquet"), 0, 100);
        write_parquet(&dir.path().join("b.parquet"), 100, 90);
        write_parquet(&dir.path().join("c.parquet"), 0, 0);
        promises(dir.path(), &[("path", "."), ("format", "parquet")], 190, 0).await;
        let followed = [("path", "."), ("format", "parquet"), ("source.monitor-interval", "1 h")];
        promises(dir.path(), &followed, 190, 0).await;
    }

    fn write_avro(path: &Path, from: i64, rows: i64) {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + rows));
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|i| format!("x{i}"))));
        let batch = RecordBatch::try_from_iter([("n", numbers), ("s", texts)]).unwrap();
        let file = File::create(path).unwrap();
        let mut writer = arrow_avro::writer::AvroWriter::new(file, batch.schema().as_ref().clone()).unwrap();
        (0..batch.num_rows()).step_by(40).for_each(|at| {
            writer.write(&batch.slice(at, 40.min(batch.num_rows() - at))).unwrap();
        });
        writer.finish().unwrap();
    }

    #[tokio::test]
    async fn avro_files_keep_the_promises_of_a_source() {
        let dir = tempfile::tempdir().unwrap();
        write_avro(&dir.path().join("a.avro"), 0, 100);
        write_avro(&dir.path().join("b.avro"), 100, 90);
        write_avro(&dir.path().join("c.avro"), 0, 0);
        promises(dir.path(), &[("path", "."), ("format", "avro")], 190, 0).await;
        let followed = [("path", "."), ("format", "avro"), ("source.monitor-interval", "1 h")];
        promises(dir.path(), &followed, 190, 0).await;
    }

    #[tokio::test]
    async fn an_avro_file_that_changed_or_is_cut_short_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.avro");
        write_avro(&path, 0, 100);
        let fresh = || {
            let options = [("path", "a.avro"), ("format", "avro")];
            source_table(&spec(dir.path(), &options)).unwrap().source(&[0]).unwrap()
        };
        let range = fresh().offer(&Positions::new(), ALL).await.unwrap().ranges.remove(0);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole).unwrap();
        let chunks: Vec<Chunk> = fresh().open(&range).await.unwrap().try_collect().await.unwrap();
        assert_eq!(chunks[0].rows.column(0).as_primitive::<Int64Type>().value(99), 99);
        write_avro(&path, 1, 100);
        let error = fresh().open(&range).await.err().unwrap();
        assert!(error.kind() == ErrorKind::Input && error.message().contains("a.avro"), "{error}");
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let error = fresh().offer(&Positions::new(), ALL).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Input && error.message().contains("a.avro"), "{error}");
    }

    #[tokio::test]
    async fn a_parquet_file_that_changed_or_is_cut_short_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        write_parquet(&path, 0, 100);
        let fresh = || {
            source_table(&spec(dir.path(), &[("path", "a.parquet"), ("format", "parquet")]))
                .unwrap()
                .source(&[0])
                .unwrap()
        };
        let range = fresh().offer(&Positions::new(), ALL).await.unwrap().ranges.remove(0);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole).unwrap();
        let chunks: Vec<Chunk> = fresh().open(&range).await.unwrap().try_collect().await.unwrap();
        assert_eq!(chunks[0].rows.column(0).as_primitive::<Int64Type>().value(99), 99);
        write_parquet(&path, 1, 100);
        let error = fresh().open(&range).await.err().unwrap();
        assert!(error.kind() == ErrorKind::Input && error.message().contains("a.parquet"), "{error}");
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let error = fresh().offer(&Positions::new(), ALL).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Input && error.message().contains("a.parquet"), "{error}");
    }

    #[tokio::test]
    async fn a_followed_directory_reads_a_parquet_file_that_is_moved_in() {
        let dir = tempfile::tempdir().unwrap();
        let options = [("path", "."), ("format", "parquet"), ("source.monitor-interval", "1 h")];
        let source = source_table(&spec(dir.path(), &options)).unwrap().source(&[0]).unwrap();
        assert!(source.offer(&Positions::new(), ALL).await.unwrap().ranges.is_empty());
        write_parquet(&dir.path().join(".a"), 0, 10);
        fs::rename(dir.path().join(".a"), dir.path().join("a")).unwrap();
        let offer = loop {
            source.ready().await;
            let offer = source.offer(&Positions::new(), ALL).await.unwrap();
            if !offer.ranges.is_empty() {
                break offer;
            }
        };
        assert_eq!((offer.ranges[0].end.offset, offer.finished.len()), (10, 1));
    }

    #[tokio::test]
    async fn files_named_in_a_query_are_tables_with_the_columns_they_have() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("logs")).unwrap();
        fs::write(dir.path().join("logs/a.ndjson"), "{\"n\":1}\n").unwrap();
        fs::write(dir.path().join("logs/b.ndjson.gz"), gzip(b"{\"n\":2.5,\"s\":\"x\"}\nbroken\n")).unwrap();
        fs::write(dir.path().join("x.csv"), "id,name\n1,a\n").unwrap();
        fs::write(dir.path().join("y.csv"), "id,name\n2,b\n").unwrap();
        write_parquet(&dir.path().join("z.parquet"), 0, 10);
        for (path, wanted, rows) in [
            ("logs/*", "n Float64, s Utf8View", 2),
            ("logs", "n Float64, s Utf8View", 2),
            ("*.csv", "id Int64, name Utf8View", 2),
            ("z.parquet", "n Int64, s Utf8", 10),
        ] {
            let spec = infer_table(path, dir.path()).unwrap();
            let fields: Vec<_> =
                spec.schema.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
            assert_eq!(fields.join(", "), wanted);
            let source = source_table(&spec).unwrap().source(&[0, 1]).unwrap();
            let offer = source.offer(&Positions::new(), ALL).await.unwrap();
            let mut found = 0;
            for range in &offer.ranges {
                let chunks: Vec<Chunk> = source.open(range).await.unwrap().try_collect().await.unwrap();
                found += chunks.iter().map(|c| c.rows.num_rows()).sum::<usize>();
            }
            assert_eq!(found, rows, "{path}");
        }
        fs::write(dir.path().join("logs/c.txt"), "hello\n").unwrap();
        for path in ["logs/c.txt", "logs", "nothing/*.csv"] {
            let error = infer_table(path, dir.path()).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Config | ErrorKind::Input), "{error}");
        }
    }

    #[test]
    fn an_unknown_connector_or_option_is_named_with_its_neighbour() {
        let dir = Path::new(".");
        let mut other = spec(dir, &[]);
        other.options = [("connector", "datagn")].into_iter().collect();
        let error = source_table(&other).unwrap_err().to_string();
        assert!(error.contains("did you mean 'datagen'") && error.contains("'nexmark'"), "{error}");
        let error = source_table(&spec(dir, &[("path", "x"), ("format", "json"), ("source.monitr-interval", "1 s")]));
        assert!(error.unwrap_err().message().contains("'source.monitor-interval'"));
    }
}
