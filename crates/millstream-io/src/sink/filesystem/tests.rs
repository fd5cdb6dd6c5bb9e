//! Crashes, full disks, takeovers and refusals, read back with plain readers.

use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use async_trait::async_trait;
use millstream_core::batch::BatchId;
use millstream_core::digest::Digest;
use millstream_core::sink::{Marker, Output, OutputKind, Owner, Permit, Sink};
use millstream_core::{ErrorKind, Result};
use millstream_testkit::conformance::sink::{SinkStorage, check, output, schema};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;
use tempfile::TempDir;

use super::{FilesystemSink, Layout};
use crate::TableSpec;
use crate::failpoint::{Fate, script::run};
use crate::failpoint::{SINK_POINTS, VARIABLE, script};

/// One way to lay rows out on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Json,
    Csv,
    Parquet,
    Avro,
    Partitioned,
    AppendJson,
    AppendCsv,
}

const WAYS: [Way; 7] =
    [Way::Json, Way::Csv, Way::Parquet, Way::Avro, Way::Partitioned, Way::AppendJson, Way::AppendCsv];

impl Way {
    fn format(self) -> &'static str {
        match self {
            Way::Json | Way::AppendJson | Way::Partitioned => "json",
            Way::Csv | Way::AppendCsv => "csv",
            Way::Parquet => "parquet",
            Way::Avro => "avro",
        }
    }

    fn appends(self) -> bool {
        matches!(self, Way::AppendJson | Way::AppendCsv)
    }
}

struct Place {
    dir: TempDir,
    way: Way,
    kind: OutputKind,
}

impl Place {
    fn new(way: Way) -> Self {
        // In memory where that can be: an fsync is then free, and what it orders is the same.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self { dir: dir.unwrap(), way, kind: OutputKind::Append }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join(if self.way.appends() { "deep/out.txt" } else { "deep/out" })
    }

    fn hidden(&self, name: &str) -> PathBuf {
        self.path().with_file_name(format!(".millstream-out.txt.{name}"))
    }

    fn spec(&self) -> TableSpec {
        spec_of(&self.path(), self.way, self.kind)
    }

    fn sink(&self) -> FilesystemSink {
        FilesystemSink::new(&self.spec(), "q", &schema(self.kind)).unwrap()
    }

    /// The ids that a reader sees who knows nothing of us, sorted.
    fn read(&self) -> Vec<i64> {
        read(&self.path(), self.way)
    }
}

pub(super) fn spec_of(path: &Path, way: Way, kind: OutputKind) -> TableSpec {
    let layout = if way.appends() { "append" } else { "files" };
    let path = path.to_str().unwrap();
    let mut options =
        vec![("connector", "filesystem"), ("path", path), ("format", way.format()), ("sink.layout", layout)];
    if way.format() == "csv" {
        options.push(("csv.header", "true"));
    }
    TableSpec {
        name: "t".into(),
        schema: schema(kind),
        options: options.into_iter().collect(),
        partitioned_by: if way == Way::Partitioned { vec!["name".into()] } else { vec![] },
        primary_key: vec![],
        base_dir: PathBuf::new(),
    }
}

fn read(path: &Path, way: Way) -> Vec<i64> {
    let mut ids = Vec::new();
    for file in visible_files(path) {
        match way {
            Way::Parquet => {
                let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(file).unwrap()).unwrap();
                reader.build().unwrap().for_each(|batch| ids.extend(ids_of(&batch.unwrap())));
            }
            Way::Avro => {
                let file = std::io::BufReader::new(File::open(file).unwrap());
                let reader = arrow_avro::reader::ReaderBuilder::new().build(file).unwrap();
                reader.for_each(|batch| ids.extend(ids_of(&batch.unwrap())));
            }
            Way::Csv | Way::AppendCsv => ids.extend(csv_ids(&file)),
            Way::Json | Way::Partitioned | Way::AppendJson => {
                for line in fs::read_to_string(file).unwrap().lines() {
                    let row: serde_json::Value = serde_json::from_str(line).unwrap();
                    ids.push(row["id"].as_i64().unwrap());
                }
            }
        }
    }
    ids.sort_unstable();
    ids
}

fn csv_ids(file: &Path) -> Vec<i64> {
    let bytes = fs::read(file).unwrap();
    if bytes.is_empty() {
        return Vec::new();
    }
    let format = arrow::csv::reader::Format::default().with_header(true);
    let (inferred, _) = format.infer_schema(bytes.as_slice(), Some(1)).unwrap();
    let fields: Vec<_> = inferred
        .fields()
        .iter()
        .map(|f| Field::new(f.name(), if f.name() == "id" { DataType::Int64 } else { DataType::Utf8 }, true))
        .collect();
    let reader = arrow::csv::ReaderBuilder::new(Arc::new(Schema::new(fields))).with_header(true);
    reader.build(bytes.as_slice()).unwrap().flat_map(|batch| ids_of(&batch.unwrap())).collect()
}

fn ids_of(batch: &RecordBatch) -> Vec<i64> {
    batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().values().to_vec()
}

/// What `**/*` names: nothing that begins with a dot.
fn visible_files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_path_buf()];
    }
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let seen = entries.map(|e| e.unwrap()).filter(|e| !e.file_name().to_str().unwrap().starts_with('.'));
    seen.flat_map(|entry| visible_files(&entry.path())).collect()
}

#[async_trait]
impl SinkStorage for Place {
    fn sink(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(Place::sink(self)))
    }

    async fn read(&self) -> Result<Vec<i64>> {
        Ok(Place::read(self))
    }

    fn kind(&self) -> OutputKind {
        self.kind
    }
}

#[test]
fn every_way_keeps_the_contract_of_a_sink() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for way in WAYS {
        for kind in [OutputKind::Append, OutputKind::Changelog] {
            let fresh = || Ok(Box::new(Place { kind, ..Place::new(way) }) as Box<dyn SinkStorage>);
            runtime.block_on(check(fresh)).map_err(|e| e.at(format!("{way:?} {kind:?}"))).unwrap();
        }
    }
}

/// Batch and ids; there is no row in batch 3.
const BATCHES: [(u64, Range<i64>); 4] = [(1, 0..3), (2, 3..4), (4, 4..9), (5, 9..11)];

fn owner(epoch: u64) -> Owner {
    Owner { query: "q".into(), incarnation: "one".into(), epoch }
}

fn batch(n: usize, epoch: u64) -> (Permit, Output) {
    let (id, ids) = BATCHES[n].clone();
    let output = output(OutputKind::Append, ids).unwrap();
    let digest = Digest::of(&output.batches).unwrap();
    let previous = n.checked_sub(1).map(|n| BatchId(BATCHES[n].0));
    (Permit::unchecked(Marker { owner: owner(epoch), batch: BatchId(id), digest }, previous), output)
}

fn ids_up_to(n: usize) -> Vec<i64> {
    BATCHES[..n].iter().flat_map(|(_, ids)| ids.clone()).collect()
}

fn published(marker: Option<&Marker>) -> usize {
    marker.map_or(0, |marker| BATCHES.iter().position(|(batch, _)| BatchId(*batch) == marker.batch).unwrap() + 1)
}

/// What the loop does with a sink, from `open` to `close`.
fn drive(layout: &mut Layout, epoch: u64, read: &dyn Fn() -> Vec<i64>) -> Result<()> {
    let marker = layout.open(&owner(epoch))?;
    let first = published(marker.as_ref());
    assert_eq!(read(), ids_up_to(first), "after open");
    for n in first..BATCHES.len() {
        let (permit, output) = batch(n, epoch);
        layout.publish(&permit, &output)?;
        assert_eq!(read(), ids_up_to(n + 1), "after batch {n}");
        if n == 1 {
            layout.flush()?;
        }
    }
    layout.flush()?;
    layout.close()
}

fn drive_place(place: &Place, epoch: u64) -> Result<()> {
    drive(&mut place.sink().layout.lock().unwrap(), epoch, &|| place.read())
}

/// Lets the n-th place that is reached have this fate.
fn at(n: u64, fate: Fate) -> impl FnMut(&str) -> Fate {
    let mut reached = 0;
    move |_: &str| {
        reached += 1;
        if reached == n { fate } else { Fate::GoOn }
    }
}

#[test]
fn dying_at_every_step_and_at_every_pair_of_steps_leaves_each_row_once() {
    for way in WAYS {
        for first in 1.. {
            let mut died = false;
            for second in 1.. {
                let place = Place::new(way);
                died = run(at(first, Fate::Die), || drive_place(&place, 1).unwrap()).is_none();
                if !way.appends() {
                    place.read(); // Whole files only.
                }
                let died_again = run(at(second, Fate::Die), || drive_place(&place, 2).unwrap()).is_none();
                drive_place(&place, 3).unwrap();
                assert_eq!(place.read(), ids_up_to(BATCHES.len()), "{way:?}, steps {first} and {second}");
                // The steps of a recovery come first; what follows them is alike for most, and so are the formats.
                let alike = !matches!(way, Way::Partitioned | Way::AppendJson);
                if !died_again || !died || alike || (first % 9 != 0 && second >= 6) {
                    break;
                }
            }
            if !died {
                assert!(first > 20, "{way:?} has only {first} steps");
                break;
            }
        }
    }
}

/// Lets the place with this name have this fate.
fn at_place(name: &'static str, fate: Fate) -> impl FnMut(&str) -> Fate {
    move |reached: &str| if reached == name { fate } else { Fate::GoOn }
}

/// A loss of power may keep any of the renames that follow the marker, and lose the others.
#[test]
fn whichever_renames_a_loss_of_power_keeps_the_rest_is_put_in_place_too() {
    for kept in 0..8u32 {
        let place = Place::new(Way::Partitioned);
        let died = run(at_place("sink.after_marker", Fate::Die), || drive_place(&place, 1).unwrap());
        assert!(died.is_none());
        let mut aside = Vec::new();
        for dir in fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().path()).filter(|path| path.is_dir()) {
            aside.extend(fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()));
        }
        assert_eq!(aside.len(), 3, "batch 1 has three names");
        for path in aside.iter().enumerate().filter(|(n, _)| kept & (1 << n) != 0).map(|(_, path)| path) {
            let name = path.file_name().unwrap().to_str().unwrap();
            let name = name.strip_prefix('.').unwrap().strip_suffix(".tmp").unwrap();
            fs::rename(path, path.with_file_name(name)).unwrap();
        }
        let marker = place.sink().layout.lock().unwrap().open(&owner(2)).unwrap();
        assert_eq!((published(marker.as_ref()), place.read()), (1, ids_up_to(1)));
        drive_place(&place, 3).unwrap();
        assert_eq!(place.read(), ids_up_to(BATCHES.len()));
    }
}

/// Every name below a directory.
fn all_names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    let below = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() { all_names(&entry.path()) } else { vec![name] }
    };
    entries.flat_map(below).collect()
}

#[test]
fn opening_removes_what_lies_beyond_the_marker_and_nothing_else() {
    for way in [Way::Json, Way::Partitioned] {
        let place = Place::new(way);
        let marker = place.path().join(".millstream-q.json");
        assert!(run(at_place("sink.after_temp", Fate::Die), || drive_place(&place, 1).unwrap()).is_none());
        fs::write(place.path().join("notes.txt"), "{\"id\":-1}\n").unwrap();
        assert!(all_names(&place.path()).iter().any(|name| name.ends_with(".tmp")));
        let before = place.sink();
        assert_eq!(before.layout.lock().unwrap().open(&owner(2)).unwrap(), None);
        assert!(!all_names(&place.path()).iter().any(|name| name.ends_with(".tmp")));

        // The marker as it was before the last batch: what a disk leaves that orders renames otherwise.
        let mut layout = before.layout.lock().unwrap();
        for n in 0..2 {
            let old = fs::read(&marker).unwrap();
            let (permit, output) = batch(n, 2);
            layout.publish(&permit, &output).unwrap();
            if n == 1 {
                fs::write(&marker, old).unwrap();
            }
        }
        let (permit, output) = batch(2, 2);
        assert_eq!(layout.publish(&permit, &output).unwrap_err().kind(), ErrorKind::Owned, "the marker was moved");
        let answer = layout.open(&owner(2)).unwrap();
        assert_eq!(published(answer.as_ref()), 1);
        assert_eq!(place.read(), [-1, 0, 1, 2], "batch 2 is gone, the notes and batch 1 are not");
    }
}

#[test]
fn a_disk_that_is_full_at_any_step_is_told_and_opening_again_goes_on() {
    for way in WAYS {
        for n in 1.. {
            let place = Place::new(way);
            let sink = place.sink();
            let mut layout = sink.layout.lock().unwrap();
            let full = run(at(n, Fate::DiskFull), || drive(&mut layout, 1, &|| place.read())).unwrap();
            let Err(error) = full else { break };
            assert_eq!(error.kind(), ErrorKind::Sink, "{error}");
            assert!(error.to_string().contains("make room on its disk"), "{error}");
            let seen = place.read();
            let whole = (0..=BATCHES.len()).any(|n| seen == ids_up_to(n));
            assert!(whole || way == Way::Partitioned, "{way:?}, step {n}: half a batch is seen: {seen:?}");
            let (permit, output) = batch(0, 1);
            if layout.open(&owner(0)).is_err() {
                assert!(layout.publish(&permit, &output).is_err(), "before it is opened again");
            }
            drive(&mut layout, 1, &|| place.read()).unwrap();
            assert_eq!(place.read(), ids_up_to(BATCHES.len()), "{way:?}, step {n}");
        }
    }
}

/// What happens next to a sink in the property test.
#[derive(Clone, Debug)]
enum Happening {
    Publish,
    Flush,
    Reopen,
    Die(u64),
    DiskFull(u64),
    /// The journal keeps this share of the bytes that were not made durable, in 1/255.
    PowerLoss(u8),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => Just(Happening::Publish),
        1 => Just(Happening::Flush),
        1 => Just(Happening::Reopen),
        3 => (1..12u64).prop_map(Happening::Die),
        1 => (1..12u64).prop_map(Happening::DiskFull),
        2 => any::<u8>().prop_map(Happening::PowerLoss),
    ]
}

/// A sink, and what its readers may see.
struct Model {
    place: Place,
    sink: Option<FilesystemSink>,
    epoch: u64,
    next: usize,
    durable: usize,
    journal_durable: u64,
}

impl Model {
    fn new(way: Way) -> Self {
        let mut model = Self { place: Place::new(way), sink: None, epoch: 0, next: 0, durable: 0, journal_durable: 0 };
        model.open();
        model
    }

    fn batch(&self, n: usize) -> (Permit, Output) {
        let output = output(OutputKind::Append, self.ids(n)).unwrap();
        let digest = Digest::of(&output.batches).unwrap();
        let previous = (n > 0).then_some(BatchId(n as u64));
        let marker = Marker { owner: owner(self.epoch), batch: BatchId(n as u64 + 1), digest };
        (Permit::unchecked(marker, previous), output)
    }

    /// Some batches have many rows, some one, some none.
    fn ids(&self, n: usize) -> Range<i64> {
        let sizes = [1, 3, 0, 40, 1];
        let before: i64 = (0..n).map(|n| sizes[n % sizes.len()]).sum();
        before..before + sizes[n % sizes.len()]
    }

    fn journal_bytes(&self) -> u64 {
        fs::metadata(self.place.hidden("journal")).map_or(0, |metadata| metadata.len())
    }

    fn open(&mut self) {
        self.epoch += 1;
        let sink = self.sink.take().unwrap_or_else(|| self.place.sink());
        let marker = sink.layout.lock().unwrap().open(&owner(self.epoch)).unwrap();
        let next = marker.as_ref().map_or(0, |marker| marker.batch.0 as usize);
        if let Some(marker) = marker {
            assert_eq!(marker.digest, self.batch(next - 1).0.marker().digest);
        }
        assert!(next >= self.durable, "a flushed batch is forgotten");
        assert!(next <= self.next + 1, "a batch that was never published");
        (self.next, self.durable) = (next, next);
        self.journal_durable = self.journal_bytes();
        self.sink = Some(sink);
        self.check();
    }

    fn check(&self) {
        let wanted: Vec<_> = (0..self.next).flat_map(|n| self.ids(n)).collect();
        assert_eq!(self.place.read(), wanted);
    }

    fn step(&mut self, happening: &Happening) {
        let sink = self.sink.clone().unwrap();
        let (permit, output) = self.batch(self.next);
        let publish = move || sink.layout.lock().unwrap().publish(&permit, &output);
        match happening {
            Happening::Publish => {
                publish().unwrap();
                self.next += 1;
                self.check();
            }
            Happening::Flush => {
                self.sink.as_ref().unwrap().layout.lock().unwrap().flush().unwrap();
                self.durable = self.next;
                self.journal_durable = self.journal_bytes();
            }
            Happening::Reopen => self.open(),
            Happening::Die(n) => {
                if let Some(Ok(())) = script::run(at(*n, Fate::Die), publish) {
                    self.next += 1;
                }
                self.sink = None;
                self.open();
            }
            Happening::DiskFull(n) => {
                match script::run(at(*n, Fate::DiskFull), publish).unwrap() {
                    Ok(()) => self.next += 1,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Sink),
                }
                self.open();
            }
            Happening::PowerLoss(share) => {
                self.sink = None;
                if self.place.way.appends() {
                    let lost = self.journal_bytes() - self.journal_durable;
                    let kept = self.journal_durable + lost * u64::from(*share) / 255;
                    File::options().write(true).open(self.place.hidden("journal")).unwrap().set_len(kept).unwrap();
                }
                self.open();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_in_whatever_order_each_row_is_seen_once(
        way in prop::sample::select(WAYS.to_vec()),
        happenings in prop::collection::vec(happening(), 1..25),
    ) {
        let mut model = Model::new(way);
        for happening in &happenings {
            model.step(happening);
        }
        model.open();
    }
}

const CHILD: &str = "sink::filesystem::tests::a_process_that_is_killed";
const CHILD_PLACE: &str = "MILLSTREAM_TEST_PLACE";

/// The body of the process that the next test kills; by itself it does nothing.
#[test]
fn a_process_that_is_killed() {
    let Ok(place) = std::env::var(CHILD_PLACE) else { return };
    let (way, path) = place.split_once(' ').unwrap();
    let way = WAYS.into_iter().find(|w| format!("{w:?}") == way).unwrap();
    let spec = spec_of(Path::new(path), way, OutputKind::Append);
    let sink = FilesystemSink::new(&spec, "q", &schema(OutputKind::Append)).unwrap();
    drive(&mut sink.layout.lock().unwrap(), 1, &|| read(Path::new(path), way)).unwrap();
}

#[test]
fn a_process_killed_with_sigkill_at_any_fail_point_leaves_each_row_once() {
    use std::os::unix::process::ExitStatusExt;
    let mut killed = Vec::new();
    for way in [Way::Partitioned, Way::AppendJson] {
        for (point, count) in SINK_POINTS.iter().flat_map(|point| [(point, 1), (point, 2)]) {
            let place = Place::new(way);
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", CHILD, "--test-threads=1"]).env(VARIABLE, format!("{point}:{count}"));
            child.env(CHILD_PLACE, format!("{way:?} {}", place.path().display()));
            let done = child.output().unwrap();
            match done.status.signal() {
                Some(9) => killed.push(*point),
                _ => assert!(done.status.success(), "{way:?} {point}: {done:?}"),
            }
            drive_place(&place, 2).unwrap();
            assert_eq!(place.read(), ids_up_to(BATCHES.len()), "{way:?} {point}");
        }
    }
    // These are reached only where something was published before, or after thousands of batches.
    let others = ["sink.open.renamed", "sink.journal.rewritten"];
    for point in SINK_POINTS.iter().filter(|point| !others.contains(point)) {
        assert!(killed.contains(point), "{point} was never reached: {killed:?}");
    }
}

fn refusal(place: &Place, owner: &Owner) -> millstream_core::Error {
    place.sink().layout.lock().unwrap().open(owner).unwrap_err()
}

#[test]
fn another_incarnation_is_refused_by_an_error_that_names_both() {
    for way in WAYS {
        let place = Place::new(way);
        drive_place(&place, 1).unwrap();
        let error = refusal(&place, &Owner { incarnation: "two".into(), ..owner(9) });
        assert_eq!(error.kind(), ErrorKind::Owned);
        let text = error.to_string();
        assert!(text.contains("incarnation one") && text.contains("incarnation two"), "{text}");
        assert!(text.contains("the state directory that belongs") && text.contains("another 'path'"), "{text}");
        assert_eq!(place.read(), ids_up_to(BATCHES.len()));
    }
}

#[test]
fn a_permit_that_does_not_follow_the_marker_is_refused_as_owned() {
    for way in WAYS {
        let place = Place::new(way);
        let sink = place.sink();
        let mut layout = sink.layout.lock().unwrap();
        for n in [1, 0] {
            layout.open(&owner(1)).unwrap();
            let (permit, output) = batch(n, 1);
            let answer = layout.publish(&permit, &output);
            assert_eq!(answer.err().map(|e| e.kind()), (n == 1).then_some(ErrorKind::Owned));
        }
        let (permit, output) = batch(0, 1);
        assert_eq!(layout.publish(&permit, &output).unwrap_err().kind(), ErrorKind::Owned, "twice");
        assert_eq!(place.read(), ids_up_to(1));
    }
}

#[test]
fn somebody_elses_file_is_never_cut() {
    let place = Place::new(Way::AppendJson);
    fs::create_dir_all(place.path().parent().unwrap()).unwrap();
    fs::write(place.path(), "{\"id\":1}\n").unwrap();
    let error = refusal(&place, &owner(1));
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("holds 9 bytes that no query recorded"), "{error}");
    assert_eq!(fs::read_to_string(place.path()).unwrap(), "{\"id\":1}\n");
    // An empty one is as good as none.
    fs::write(place.path(), "").unwrap();
    drive_place(&place, 1).unwrap();
}

#[test]
fn a_file_that_grew_after_a_clean_stop_is_refused_and_left_as_it_is() {
    let place = Place::new(Way::AppendCsv);
    drive_place(&place, 1).unwrap();
    let mut text = fs::read_to_string(place.path()).unwrap();
    text.push_str("77,by hand\n");
    fs::write(place.path(), &text).unwrap();
    let error = refusal(&place, &owner(2));
    assert!(error.kind() == ErrorKind::Config && error.to_string().contains("somebody else wrote to it"), "{error}");
    assert_eq!(fs::read_to_string(place.path()).unwrap(), text);
}

#[test]
fn a_file_that_is_shorter_than_every_record_is_corrupt_with_both_lengths() {
    let place = Place::new(Way::AppendJson);
    drive_place(&place, 1).unwrap();
    place.sink().layout.lock().unwrap().open(&owner(2)).unwrap();
    let bytes = fs::metadata(place.path()).unwrap().len();
    fs::remove_file(place.path()).unwrap();
    let error = refusal(&place, &owner(3));
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let wanted = format!("holds 0 bytes, but at least {bytes} were published");
    assert!(error.to_string().contains(&wanted), "{error}");
}

#[test]
fn a_file_that_is_replaced_or_written_to_while_it_is_open_stops_the_sink() {
    let spoil: [fn(&Path); 2] = [
        |path| {
            let copy = fs::read(path).unwrap();
            fs::remove_file(path).unwrap();
            fs::write(path, copy).unwrap();
        },
        |path| fs::write(path, "more than there was in it before, by a good deal and then some\n".repeat(9)).unwrap(),
    ];
    for spoil in spoil {
        let place = Place::new(Way::AppendJson);
        let sink = place.sink();
        let mut layout = sink.layout.lock().unwrap();
        layout.open(&owner(1)).unwrap();
        let (permit, output) = batch(0, 1);
        layout.publish(&permit, &output).unwrap();
        spoil(&place.path());
        let before = fs::read(place.path()).unwrap();
        let (permit, output) = batch(1, 1);
        let error = layout.publish(&permit, &output).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Sink, "{error}");
        assert_eq!(fs::read(place.path()).unwrap(), before);
    }
}

#[test]
fn files_without_a_marker_are_somebody_elses() {
    let place = Place::new(Way::Json);
    drive_place(&place, 1).unwrap();
    fs::remove_file(place.path().join(".millstream-q.json")).unwrap();
    let error = refusal(&place, &owner(2));
    assert!(error.kind() == ErrorKind::Config && error.to_string().contains("Bring the marker back"), "{error}");
    assert_eq!(place.read(), ids_up_to(BATCHES.len()));
}

#[test]
fn a_reader_may_take_files_away() {
    let place = Place::new(Way::Json);
    drive_place(&place, 1).unwrap();
    visible_files(&place.path()).iter().for_each(|file| fs::remove_file(file).unwrap());
    let marker = place.sink().layout.lock().unwrap().open(&owner(2)).unwrap();
    assert_eq!(published(marker.as_ref()), BATCHES.len());
    assert!(place.read().is_empty());
}

#[test]
fn two_queries_share_a_directory_but_not_a_file() {
    let (files, file) = (Place::new(Way::Json), Place::new(Way::AppendJson));
    let other = |place: &Place| FilesystemSink::new(&place.spec(), "q-2", &schema(place.kind)).unwrap();
    let other_owner = Owner { query: "q-2".into(), incarnation: "two".into(), epoch: 1 };
    for place in [&files, &file] {
        drive_place(place, 1).unwrap();
        let opened = other(place).layout.lock().unwrap().open(&other_owner);
        match place.way {
            Way::Json => assert_eq!(opened.unwrap(), None),
            _ => assert!(opened.unwrap_err().to_string().contains("query 'q', incarnation one")),
        }
        drive_place(place, 2).unwrap();
        assert_eq!(place.read(), ids_up_to(BATCHES.len()));
    }
}

#[test]
fn a_flipped_bit_in_a_marker_is_corrupt() {
    for way in [Way::Json, Way::AppendJson] {
        let place = Place::new(way);
        drive_place(&place, 1).unwrap();
        let marker = if way.appends() { place.hidden("journal") } else { place.path().join(".millstream-q.json") };
        let whole = fs::read(&marker).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            fs::write(&marker, bytes).unwrap();
            match place.sink().layout.lock().unwrap().open(&owner(2)) {
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "bit in byte {at}: {error}"),
                // A record of the journal is passed over: an earlier one holds.
                Ok(marker) => {
                    assert!(way.appends(), "bit in byte {at}");
                    assert_eq!(place.read(), ids_up_to(published(marker.as_ref())));
                }
            }
            if way.appends() {
                // What was cut is published again, so that the next bit meets the same files.
                fs::write(&marker, &whole).unwrap();
                drop(fs::remove_dir_all(place.path().parent().unwrap()));
                drive_place(&place, 1).unwrap();
            }
        }
    }
}

#[test]
fn what_cannot_be_written_is_an_error_with_the_path_and_the_remedy() {
    // A directory below a file, and a directory of the kernel's: both refuse root too.
    let file = tempfile::NamedTempFile::new().unwrap();
    for below in [file.path().join("out"), PathBuf::from("/proc/self/out")] {
        for way in [Way::Json, Way::AppendJson] {
            let spec = spec_of(&below.join("x"), way, OutputKind::Append);
            let sink = FilesystemSink::new(&spec, "q", &schema(OutputKind::Append)).unwrap();
            let error = sink.layout.lock().unwrap().open(&owner(1)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Sink, "{error}");
            let named = below.parent().unwrap().to_str().unwrap();
            assert!(error.to_string().contains(named), "{error}");
        }
    }
    for (way, layout) in [(Way::Json, "is a file"), (Way::AppendJson, "is a directory")] {
        let path = if way.appends() { std::env::temp_dir() } else { file.path().to_path_buf() };
        let sink = FilesystemSink::new(&spec_of(&path, way, OutputKind::Append), "q", &schema(OutputKind::Append));
        let error = sink.unwrap().layout.lock().unwrap().open(&owner(1)).unwrap_err();
        assert!(error.kind() == ErrorKind::Config && error.to_string().contains(layout), "{error}");
    }
}

#[test]
fn nothing_is_left_behind_but_rows_and_two_hidden_files() {
    for way in WAYS {
        let place = Place::new(way);
        drive_place(&place, 1).unwrap();
        let dir = if way.appends() { place.path().parent().unwrap().to_path_buf() } else { place.path() };
        let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let hidden: Vec<_> = names.filter(|name| name.starts_with('.')).collect();
        assert_eq!(hidden.len(), 2, "{way:?}: {hidden:?}");
    }
}
