//! Checkpoints: what is written, what survives a crash, and what is refused.
#![allow(clippy::unwrap_used)]

mod disk;

use std::ops::Bound;
use std::sync::{Arc, Mutex};

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use disk::MemDisk;
use futures::executor::block_on;
use millstream_core::batch::BatchId;
use millstream_core::{ErrorKind, Result};
use millstream_state::{Changes, KeyedTable, OperatorState, PanedTable, Restored, StateInfo, StateStore, TableInfo};

/// Pane, key, value.
type Rows = Vec<(i64, i64, i64)>;

/// An operator with a table, a paned table and a note.
struct Op {
    sums: KeyedTable,
    panes: PanedTable,
    next: i64,
}

impl Op {
    fn new(value: DataType) -> Self {
        let keys = Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, true)]));
        let values = Arc::new(Schema::new(vec![Field::new("v", value, true)]));
        let sums = KeyedTable::new(keys.clone(), values.clone()).unwrap();
        Self { sums, panes: PanedTable::new(keys, values).unwrap(), next: 0 }
    }

    fn put(&mut self, keys: std::ops::Range<i64>, value: i64) {
        let rows = (keys.end - keys.start) as usize;
        let values: ArrayRef = Arc::new(Int64Array::from(vec![value; rows]));
        let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(keys));
        self.sums.put(std::slice::from_ref(&keys), std::slice::from_ref(&values), rows).unwrap();
        self.panes.put(value / 10 * 10, &[keys], &[values], rows).unwrap();
        self.next += 1;
    }

    fn remove(&mut self, keys: std::ops::Range<i64>) {
        let rows = (keys.end - keys.start) as usize;
        self.sums.remove(&[Arc::new(Int64Array::from_iter_values(keys))], rows).unwrap();
    }

    /// Everything, in the order of scanning.
    fn rows(&self) -> Rows {
        let rows = |pane: i64, batch: RecordBatch| {
            let (k, v) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_primitive::<Int64Type>());
            (0..batch.num_rows()).map(|i| (pane, k.value(i), v.value(i))).collect::<Vec<_>>()
        };
        let mut all: Vec<_> = self.sums.scan().flat_map(|b| rows(-1, b.unwrap())).collect();
        all.extend(self.panes.scan().flat_map(|b| {
            let (pane, batch) = b.unwrap();
            rows(pane, batch)
        }));
        all.push((-2, self.next, 0));
        all
    }
}

impl OperatorState for Op {
    fn install(&mut self) {
        self.sums.install();
        self.panes.install();
    }

    fn discard(&mut self) {
        self.sums.discard();
        self.panes.discard();
    }

    fn changes(&mut self) -> Result<Changes> {
        let changes = Changes::new().keyed("sums", &self.sums).paned("panes", &self.panes);
        Ok(changes.note("next", self.next.to_string()))
    }

    fn restore(&mut self, mut saved: Restored) -> Result<()> {
        saved.keyed("sums", &mut self.sums)?;
        saved.paned("panes", &mut self.panes)?;
        self.next = saved.note("next").unwrap().parse().unwrap();
        Ok(())
    }

    fn describe(&self) -> StateInfo {
        let tables = vec![TableInfo::keyed("sums", &self.sums), TableInfo::paned("panes", &self.panes)];
        StateInfo { kind: "test aggregate".into(), tables }
    }

    fn table(&self) -> Result<Vec<RecordBatch>> {
        self.sums.scan().collect()
    }
}

fn store(disk: &MemDisk, name: &str, value: DataType) -> (StateStore, Arc<Mutex<Op>>) {
    let op = Arc::new(Mutex::new(Op::new(value)));
    let mut store = StateStore::new(Arc::new(disk.clone()), "/state");
    store.register(name, op.clone()).unwrap();
    (store, op)
}

fn checkpoint(store: &mut StateStore, batch: u64) -> Result<String> {
    block_on(store.checkpoint(BatchId(batch))?)
}

#[test]
fn every_kept_checkpoint_restores_exactly_and_the_rest_is_removed() {
    let disk = MemDisk::default();
    let (mut s, op) = store(&disk, "op", DataType::Int64);
    let mut kept: Vec<(String, Rows)> = Vec::new();
    for n in 0..60i64 {
        let mut o = op.lock().unwrap();
        o.put(n * 7 % 50..n * 7 % 50 + 20, n);
        o.remove(n % 30..n % 30 + 3);
        o.panes.drop_below(n - 25);
        drop(o);
        s.install_all();
        if n % 3 == 0 {
            let name = checkpoint(&mut s, n as u64).unwrap();
            kept.push((name, op.lock().unwrap().rows()));
            if kept.len() > 4 {
                kept.remove(1);
            }
            s.retain(&kept.iter().map(|k| k.0.clone()).collect::<Vec<_>>()).unwrap();
        }
    }
    assert_eq!(disk.names().iter().filter(|n| n.ends_with(".json")).count(), kept.len());
    for (name, rows) in &kept {
        let (mut s, op) = store(&disk, "op", DataType::Int64);
        s.restore(name).unwrap();
        assert_eq!(op.lock().unwrap().rows(), *rows, "{name}");
    }
    // Only the last one kept: the files of the others go.
    let files = disk.names().len();
    s.retain(&[kept[3].0.clone()]).unwrap();
    assert!(disk.names().len() < files);
    let (mut s, _) = store(&disk, "op", DataType::Int64);
    s.restore(&kept[3].0).unwrap();
    assert_eq!(s.restore(&kept[0].0).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_restored_state_goes_on_as_the_one_that_was_never_stopped() {
    let disk = MemDisk::default();
    let (mut s, op) = store(&disk, "op", DataType::Int64);
    let step = |op: &Mutex<Op>, n: i64| {
        let mut o = op.lock().unwrap();
        o.put(n * 13 % 90..n * 13 % 90 + 1 + n % 40, n);
        o.remove(n % 50..n % 50 + 2);
        o.install();
    };
    (0..300).for_each(|n| step(&op, n));
    let name = checkpoint(&mut s, 300).unwrap();
    let (mut again, restored) = store(&disk, "op", DataType::Int64);
    again.restore(&name).unwrap();
    for n in 300..700 {
        step(&op, n);
        step(&restored, n);
        if n % 50 == 0 {
            checkpoint(&mut s, n as u64).unwrap();
        }
        assert_eq!(op.lock().unwrap().rows(), restored.lock().unwrap().rows(), "after batch {n}");
    }
}

#[test]
fn what_a_checkpoint_captures_is_not_changed_by_the_batches_that_run_beside_it() {
    let disk = MemDisk::default();
    let (mut s, op) = store(&disk, "op", DataType::Int64);
    op.lock().unwrap().put(0..100, 1);
    s.install_all();
    let rows = op.lock().unwrap().rows();
    let future = s.checkpoint(BatchId(1)).unwrap();
    for n in 0..50 {
        op.lock().unwrap().put(0..100, n);
        s.install_all();
    }
    assert_eq!(s.checkpoint(BatchId(2)).err().unwrap().kind(), ErrorKind::Bug);
    s.retain(&[]).unwrap();
    let name = block_on(future).unwrap();
    let (mut s, op) = store(&disk, "op", DataType::Int64);
    s.restore(&name).unwrap();
    assert_eq!(op.lock().unwrap().rows(), rows);
}

#[test]
fn a_checkpoint_writes_only_what_came_since_the_one_before() {
    let disk = MemDisk::default();
    let (mut s, op) = store(&disk, "op", DataType::Int64);
    op.lock().unwrap().put(0..60_000, 1);
    s.install_all();
    checkpoint(&mut s, 1).unwrap();
    let before = disk.bytes();
    op.lock().unwrap().put(0..100, 2);
    s.install_all();
    checkpoint(&mut s, 2).unwrap();
    let wrote = disk.bytes() - before;
    assert!(before > 1_900_000 && wrote < 20_000, "{before} bytes, then {wrote}");
}

#[test]
fn a_crash_at_any_step_of_a_checkpoint_leaves_the_one_before_and_the_next_attempt_works() {
    // The machine crashes, or only the process.
    assert!(crash_at_every_step(MemDisk::crash) > 10);
    assert!(crash_at_every_step(|disk| disk.fail_after(usize::MAX)) > 10);
}

/// Answers how many steps there were.
fn crash_at_every_step(crash: impl Fn(&MemDisk)) -> usize {
    let mut at = 0;
    loop {
        let disk = MemDisk::default();
        let (mut s, op) = store(&disk, "op", DataType::Int64);
        op.lock().unwrap().put(0..50, 1);
        s.install_all();
        let first = checkpoint(&mut s, 1).unwrap();
        let first_rows = op.lock().unwrap().rows();
        op.lock().unwrap().put(25..75, 12);
        op.lock().unwrap().remove(0..5);
        s.install_all();
        let second_rows = op.lock().unwrap().rows();
        disk.fail_after(at);
        let outcome = checkpoint(&mut s, 2);
        crash(&disk);
        let (mut s, op) = store(&disk, "op", DataType::Int64);
        if let Ok(second) = outcome {
            s.restore(&second).unwrap();
            assert_eq!(op.lock().unwrap().rows(), second_rows);
            return at;
        }
        s.restore(&first).unwrap();
        assert_eq!(op.lock().unwrap().rows(), first_rows, "crash at step {at}");
        op.lock().unwrap().put(25..75, 12);
        op.lock().unwrap().remove(0..5);
        s.install_all();
        let second = checkpoint(&mut s, 2).unwrap();
        s.retain(std::slice::from_ref(&second)).unwrap();
        assert!(disk.names().iter().all(|n| !n.ends_with(".tmp")), "{:?}", disk.names());
        let (mut s, op) = store(&disk, "op", DataType::Int64);
        s.restore(&second).unwrap();
        assert_eq!(op.lock().unwrap().rows(), second_rows, "crash at step {at}");
        at += 1;
    }
}

#[test]
fn a_checkpoint_that_failed_or_was_dropped_does_not_hinder_the_next() {
    let disk = MemDisk::default();
    let (mut s, op) = store(&disk, "op", DataType::Int64);
    op.lock().unwrap().put(0..50, 1);
    s.install_all();
    let steps = disk.steps();
    drop(s.checkpoint(BatchId(1)).unwrap());
    disk.fail_after(4);
    let error = checkpoint(&mut s, 1).unwrap_err();
    assert!(error.to_string().contains("/state/segments-000000000001-0-"), "{error}");
    assert!(disk.steps() > steps);
    disk.fail_after(1000);
    let name = checkpoint(&mut s, 1).unwrap();
    s.retain(std::slice::from_ref(&name)).unwrap();
    let (mut again, restored) = store(&disk, "op", DataType::Int64);
    again.restore(&name).unwrap();
    assert_eq!(op.lock().unwrap().rows(), restored.lock().unwrap().rows());
}

#[test]
fn a_missing_or_changed_file_is_reported_by_name_as_corrupt() {
    type Damage = fn(Vec<u8>) -> Option<Vec<u8>>;
    let damages: [Damage; 4] = [
        |_| None,
        |mut bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            Some(bytes)
        },
        |mut bytes| {
            bytes.truncate(bytes.len() - 10);
            Some(bytes)
        },
        |_| Some(Vec::new()),
    ];
    for damage in damages {
        let disk = MemDisk::default();
        let (mut s, op) = store(&disk, "op", DataType::Int64);
        op.lock().unwrap().put(0..50, 1);
        s.install_all();
        let name = checkpoint(&mut s, 1).unwrap();
        for file in disk.names() {
            let copy = MemDisk::default();
            block_on(checkpoint_copy(&disk, &copy));
            copy.damage(&file, damage);
            let (mut s, op) = store(&copy, "op", DataType::Int64);
            let error = s.restore(&name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(error.to_string().contains(&file), "{error}");
            assert_eq!(op.lock().unwrap().rows().len(), 1, "a failed restore changes nothing");
        }
    }
}

async fn checkpoint_copy(from: &MemDisk, to: &MemDisk) {
    use millstream_core::disk::Disk;
    for name in from.names() {
        let path = std::path::Path::new("/state").join(name);
        to.open(&path).unwrap().append(&from.read(&path).unwrap()).unwrap();
    }
}

#[test]
fn the_state_of_another_query_is_refused_naming_operators_and_columns_of_both_sides() {
    let disk = MemDisk::default();
    let (mut s, op) = store(&disk, "aggregate-1", DataType::Int64);
    op.lock().unwrap().put(0..5, 1);
    s.install_all();
    let name = checkpoint(&mut s, 1).unwrap();
    let (mut other, _) = store(&disk, "aggregate-2", DataType::Int64);
    let error = other.restore(&name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Query);
    let message = error.to_string();
    assert!(message.contains("aggregate-1 (test aggregate)") && message.contains("aggregate-2"), "{message}");
    let (mut other, _) = store(&disk, "aggregate-1", DataType::Utf8);
    let error = other.restore(&name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Query);
    let message = error.to_string();
    assert!(message.contains("(v Utf8), in the checkpoint (v Int64)"), "{message}");
}

#[test]
fn one_row_batches_with_a_checkpoint_every_thousand_keep_the_directory_small() {
    let disk = MemDisk::default();
    let (mut s, op) = store(&disk, "op", DataType::Int64);
    let (mut files, mut bytes) = ([0; 2], [0; 2]);
    for n in 0..20_000i64 {
        op.lock().unwrap().put(n % 500..n % 500 + 1, n % 7);
        s.install_all();
        if n % 1000 == 999 {
            let name = checkpoint(&mut s, n as u64).unwrap();
            s.retain(&[name]).unwrap();
            let half = usize::from(n >= 10_000);
            files[half] = files[half].max(disk.names().len());
            bytes[half] = bytes[half].max(disk.bytes());
        }
    }
    assert!(files[1] <= files[0].max(20), "{files:?} files");
    assert!(bytes[1] <= 2 * bytes[0], "{bytes:?} bytes");
}

#[test]
fn a_later_format_is_refused_with_both_versions() {
    let disk = MemDisk::default();
    let (mut s, _) = store(&disk, "op", DataType::Int64);
    let name = checkpoint(&mut s, 1).unwrap();
    let text = br#"{"format":99,"engine":"7.0.0","somewhere":"else"}"#;
    disk.damage(&name, |_| Some(text.to_vec()));
    let renamed = format!("checkpoint-000000000001-{:08x}.json", crc32fast::hash(text));
    block_on(async {
        use millstream_core::disk::Disk;
        disk.rename(
            std::path::Path::new("/state").join(&name).as_path(),
            &std::path::Path::new("/state").join(&renamed),
        )
        .unwrap();
    });
    let error = s.restore(&renamed).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("format 99") && error.to_string().contains("7.0.0"), "{error}");
}

#[test]
fn two_operators_of_one_name_are_refused() {
    let (mut s, op) = store(&MemDisk::default(), "op", DataType::Int64);
    assert_eq!(s.register("op", op).unwrap_err().kind(), ErrorKind::Query);
}

#[test]
fn dropped_panes_are_gone_within_the_batch_and_come_back_when_it_is_discarded() {
    let (s, op) = store(&MemDisk::default(), "op", DataType::Int64);
    for n in [1, 11, 21] {
        op.lock().unwrap().put(0..2, n);
    }
    s.install_all();
    let rows = op.lock().unwrap().rows();
    let panes = |op: &Op| op.panes.panes(..).map(|(p, t)| (p, t.len())).collect::<Vec<_>>();
    {
        let mut o = op.lock().unwrap();
        assert_eq!(panes(&o), [(0, 2), (10, 2), (20, 2)]);
        assert_eq!(o.panes.panes(5..=10).map(|p| p.0).collect::<Vec<_>>(), [10]);
        assert_eq!(o.panes.panes((Bound::Included(20), Bound::Excluded(5))).count(), 0);
        o.panes.drop_below(20);
        assert_eq!(panes(&o), [(20, 2)]);
        let one: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        assert!(o.panes.get(10, std::slice::from_ref(&one), 1).unwrap().rows.is_empty());
        let error = o.panes.put(10, std::slice::from_ref(&one), std::slice::from_ref(&one), 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Bug);
    }
    s.discard_all();
    assert_eq!(op.lock().unwrap().rows(), rows);
    op.lock().unwrap().panes.drop_below(20);
    s.install_all();
    assert_eq!(panes(&op.lock().unwrap()), [(20, 2)]);
    assert_eq!(op.lock().unwrap().panes.len(), 2);
}

#[test]
fn the_state_can_be_read_as_a_table() {
    let (s, op) = store(&MemDisk::default(), "op", DataType::Int64);
    op.lock().unwrap().put(0..2, 5);
    s.install_all();
    let batches = s.table("op").unwrap().unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
    assert!(s.table("other").unwrap().is_none());
    assert_eq!(s.describe()[0].1.tables[0].rows, 2);
}

#[test]
fn keys_are_the_same_in_every_encoding() {
    use arrow::compute::cast;
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let encodings = [DataType::Utf8, DataType::LargeUtf8, DataType::Utf8View, dictionary];
    let plain: ArrayRef =
        Arc::new(StringArray::from(vec![Some("a"), None, Some(""), Some("a long one, past inlining")]));
    for declared in &encodings {
        let schema = Arc::new(Schema::new(vec![Field::new("s", declared.clone(), true)]));
        let mut table = KeyedTable::new(schema.clone(), schema).unwrap();
        let column = cast(&plain, declared).unwrap();
        table.put(std::slice::from_ref(&column), std::slice::from_ref(&column), 4).unwrap();
        table.install();
        for other in &encodings {
            let found = table.get(&[cast(&plain, other).unwrap()], 4).unwrap();
            assert_eq!(found.rows, [0, 1, 2, 3]);
            assert_eq!(found.values[0].data_type(), declared);
            assert_eq!(cast(&found.values[0], &DataType::Utf8).unwrap().as_ref(), plain.as_ref() as &dyn Array);
        }
    }
}
