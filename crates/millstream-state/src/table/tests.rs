use arrow::array::{AsArray, Int64Array, StringArray, StringViewArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};

use super::*;

fn table() -> KeyedTable {
    let keys = Schema::new(vec![Field::new("k", DataType::Int64, true)]);
    let values = Schema::new(vec![Field::new("v", DataType::Int64, true), Field::new("s", DataType::Utf8, true)]);
    KeyedTable::new(Arc::new(keys), Arc::new(values)).unwrap()
}

fn ints(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

fn put(table: &mut KeyedTable, keys: &[i64], value: i64) {
    let text: ArrayRef = Arc::new(StringArray::from_iter_values(keys.iter().map(|k| format!("{k}/{value}"))));
    let values = [ints(keys.iter().map(|_| value)), text];
    table.put(&[ints(keys.iter().copied())], &values, keys.len()).unwrap();
}

fn get(table: &KeyedTable, keys: &[i64]) -> Vec<(i64, i64, String)> {
    let found = table.get(&[ints(keys.iter().copied())], keys.len()).unwrap();
    let (v, s) = (found.values[0].as_primitive::<Int64Type>(), found.values[1].as_string::<i32>());
    found.rows.iter().enumerate().map(|(i, row)| (keys[*row], v.value(i), s.value(i).to_string())).collect()
}

/// Rows in the log, dead ones too.
fn rows(table: &KeyedTable) -> usize {
    table.log.order.iter().map(|n| table.log.get(*n).unwrap().segment.rows).sum()
}

fn row(key: i64, value: i64) -> (i64, i64, String) {
    (key, value, format!("{key}/{value}"))
}

#[test]
fn a_batch_reads_its_own_writes_and_discard_forgets_them() {
    let mut t = table();
    put(&mut t, &[1, 2, 3], 10);
    assert_eq!(get(&t, &[3, 4, 1]), [row(3, 10), row(1, 10)]);
    assert_eq!((t.len(), t.scan().count(), t.scan_staged().count()), (0, 0, 1));
    t.install();
    put(&mut t, &[2, 4], 20);
    t.remove(&[ints([1, 9])], 2).unwrap();
    assert_eq!(get(&t, &[1, 2, 3, 4]), [row(2, 20), row(3, 10), row(4, 20)]);
    t.discard();
    assert_eq!(get(&t, &[1, 2, 3, 4]), [row(1, 10), row(2, 10), row(3, 10)]);
    assert_eq!(t.len(), 3);
}

#[test]
fn a_key_removed_and_put_again_in_one_batch_is_there() {
    let mut t = table();
    put(&mut t, &[1], 10);
    t.install();
    t.remove(&[ints([1])], 1).unwrap();
    put(&mut t, &[1], 20);
    t.remove(&[ints([1])], 1).unwrap();
    put(&mut t, &[1], 30);
    t.install();
    assert_eq!(get(&t, &[1]), [row(1, 30)]);
    assert_eq!(t.len(), 1);
}

#[test]
fn a_hundred_thousand_one_row_batches_stay_flat_in_segments_and_memory() {
    let mut t = table();
    let (mut segments, mut bytes) = (0, [0; 2]);
    for n in 0..100_000i64 {
        put(&mut t, &[n % 1000], n);
        t.install();
        segments = segments.max(t.log.order.len());
        if n > 2000 {
            let half = usize::from(n > 50_000);
            bytes[half] = bytes[half].max(t.memory_bytes());
        }
    }
    assert_eq!(t.len(), 1000);
    assert!(segments <= 64, "{segments} segments");
    assert!(bytes[1] <= bytes[0] + bytes[0] / 10, "{bytes:?}");
    assert!(bytes[1] < 4 << 20, "{bytes:?}");
    assert_eq!(get(&t, &[7]), [row(7, 99_007)]);
}

#[test]
fn keys_that_come_and_go_leave_nothing_behind() {
    let mut t = table();
    put(&mut t, &[-1], 0);
    t.install();
    let mut bytes = [0; 2];
    for n in 0..400i64 {
        let keys: Vec<i64> = (n * 500..(n + 1) * 500).collect();
        put(&mut t, &keys, n);
        if n > 0 {
            t.remove(&[ints((n - 1) * 500..n * 500)], 500).unwrap();
        }
        t.install();
        bytes[usize::from(n > 200)] = bytes[usize::from(n > 200)].max(t.memory_bytes());
    }
    assert_eq!(t.len(), 501);
    assert!(bytes[1] <= bytes[0] + bytes[0] / 10, "{bytes:?}");
    assert!(rows(&t) <= 2 * 501 + (1 << 14), "{} rows", rows(&t));
    assert_eq!(get(&t, &[-1]), [row(-1, 0)]);
}

#[test]
fn large_puts_are_cut_and_compaction_keeps_every_row() {
    let mut t = table();
    for n in 0..6 {
        let keys: Vec<i64> = (0..150_000).map(|k| k * (1 + n % 2)).collect();
        put(&mut t, &keys, n);
        t.install();
    }
    assert!(rows(&t) <= 2 * t.len() + (1 << 14) + 150_000, "{} rows for {} keys", rows(&t), t.len());
    assert!(t.log.order.iter().all(|n| t.log.get(*n).unwrap().segment.rows <= 1 << 17));
    assert_eq!(t.len(), 225_000);
    assert_eq!(get(&t, &[0, 1, 149_999, 299_998]), [row(0, 5), row(1, 4), row(149_999, 4), row(299_998, 5)]);
    let scanned: usize = t.scan().map(|b| b.unwrap().num_rows()).sum();
    assert_eq!(scanned, 225_000);
}

#[test]
fn a_slice_of_a_large_batch_does_not_keep_the_batch() {
    let mut t = table();
    let large = ints(0..100_000);
    let text: ArrayRef = Arc::new(StringArray::from_iter_values((0..100_000).map(|k| format!("text {k}"))));
    t.put(&[large.slice(500, 1)], &[large.slice(500, 1), text.slice(500, 1)], 1).unwrap();
    t.install();
    let held: usize = t.log.get(0).unwrap().segment.columns().iter().map(|c| c.get_buffer_memory_size()).sum();
    assert!(held < 1000, "{held} bytes");
}

#[test]
fn columns_that_do_not_fit_the_declaration_are_refused_by_name() {
    let mut t = table();
    let error = t.put(&[ints([1])], &[ints([1]), ints([1])], 1).unwrap_err();
    assert!(error.to_string().contains("value column s of type Int64"), "{error}");
    let error = t.get(&[ints([1, 2])], 1).unwrap_err();
    assert!(error.to_string().contains("2 rows of key column k"), "{error}");
}

/// Rows in the order of scanning.
fn scanned(table: &KeyedTable) -> Vec<(i64, i64)> {
    let rows = |batch: RecordBatch| {
        let (k, v) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_primitive::<Int64Type>());
        k.values().iter().copied().zip(v.values().iter().copied()).collect::<Vec<_>>()
    };
    table.scan().flat_map(|batch| rows(batch.unwrap())).collect()
}

/// Large enough to merge, to compact and to cut, unlike the histories of `tests/model.rs`.
#[test]
fn a_long_random_history_agrees_with_a_map_and_with_its_own_restore() {
    for seed in 1..3u64 {
        let mut random = seed;
        let mut next = |below: u64| {
            random = crate::key_store::mix(random.wrapping_add(0x9E37_79B9_7F4A_7C15));
            (random % below) as i64
        };
        let mut t = table();
        let (mut installed, mut staged) = (std::collections::BTreeMap::new(), std::collections::BTreeMap::new());
        for n in 0..200i64 {
            let size = [1, 30, 800, 6000][next(4) as usize];
            let (from, step) = (next(20_000), 1 + next(3));
            let keys: Vec<i64> = (0..size).map(|i| from + i * step).collect();
            put(&mut t, &keys, n);
            staged.extend(keys.iter().map(|k| (*k, n)));
            let from = next(20_000);
            let gone = from..from + [0, 1, 100, 5000][next(4) as usize];
            t.remove(&[ints(gone.clone())], (gone.end - gone.start) as usize).unwrap();
            staged.retain(|k, _| !gone.contains(k));
            if next(5) == 0 {
                t.discard();
                staged.clone_from(&installed);
            } else {
                t.install();
                installed.clone_from(&staged);
            }
            assert!(rows(&t) <= 2 * t.len() + (1 << 14) + (1 << 16), "{} rows", rows(&t));
            assert!(t.log.order.len() <= 80, "{} segments", t.log.order.len());
            if n % 20 == 0 {
                let mut found = scanned(&t);
                let again = KeyedTable::restored(Arc::clone(&t.layout), &t.capture()).unwrap();
                assert_eq!(found, scanned(&again), "seed {seed}, batch {n}");
                let live = |t: &KeyedTable| t.log.order.iter().map(|n| t.log.get(*n).unwrap().live).collect::<Vec<_>>();
                assert_eq!(live(&t), live(&again), "seed {seed}, batch {n}");
                found.sort_unstable();
                assert_eq!(found, installed.clone().into_iter().collect::<Vec<_>>(), "seed {seed}, batch {n}");
                if n % 40 == 0 {
                    t = again;
                }
            }
        }
    }
}

#[test]
fn dead_rows_of_large_values_are_shed_by_their_bytes() {
    let values = Arc::new(Schema::new(vec![Field::new("s", DataType::Utf8View, true)]));
    let mut t = KeyedTable::new(table().keys().clone(), values).unwrap();
    let text = "x".repeat(100_000);
    let mut bytes = 0;
    for n in 0..1000 {
        // Half of the keys are never written again, so that no segment dies whole.
        let keys = ints([n % 5, 1000 + n.min(50)]);
        t.put(&[keys], &[Arc::new(StringViewArray::from(vec![text.as_str(); 2]))], 2).unwrap();
        t.install();
        bytes = bytes.max(t.memory_bytes());
    }
    assert!(bytes < 4 * 56 * text.len(), "{bytes} bytes");
}
