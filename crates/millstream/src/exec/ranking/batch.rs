//! The rows of a batch as bytes, partition by partition.

use std::hash::BuildHasher;
use std::ops::Range;

use datafusion::arrow::row::Rows;
use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};

use super::super::ordered::Change;
use super::super::over::sort_into;

/// How rows come and go, each named once: those of a partition beside each other, and in order.
#[derive(Debug)]
pub struct BatchRows {
    /// The partition of each row of the batch.
    partition: Option<Rows>,
    /// What each row is ordered by, and the row.
    bytes: Vec<u8>,
    changes: Vec<Place>,
    /// A row of each partition, and the partition's changes.
    partitions: Vec<(usize, Range<usize>)>,
}

/// Where a row lies, and how often it comes.
#[derive(Clone, Debug)]
struct Place {
    from: usize,
    /// Where the row begins, after what it is ordered by.
    row: usize,
    to: usize,
    delta: i64,
}

impl BatchRows {
    /// Puts rows together out of their parts: each is empty where there is none.
    pub fn new(
        partition: Option<Rows>,
        order: &Option<Rows>,
        row: &Option<Rows>,
        rows: usize,
        weight: impl Fn(usize) -> i64,
    ) -> Self {
        let (mut bytes, mut places) = (vec![], Vec::with_capacity(rows));
        for at in 0..rows {
            let from = bytes.len();
            bytes.extend_from_slice(part(order, at));
            let row_from = bytes.len();
            bytes.extend_from_slice(part(row, at));
            places.push(Place { from, row: row_from, to: bytes.len(), delta: weight(at) });
        }
        let of = |place: &Place| bytes.get(place.from..place.to).unwrap_or_default();
        let of_row = |row: usize| places.get(row).map(of).unwrap_or_default();
        let (numbers, firsts) = numbered(&partition, rows);
        let (sorted, ranges) = sort_into(&numbers, firsts.len(), |a, b| of_row(a).cmp(of_row(b)));
        let mut changes: Vec<Place> = Vec::with_capacity(rows);
        let mut partitions = Vec::with_capacity(firsts.len());
        for (first, range) in firsts.into_iter().zip(ranges) {
            let from = changes.len();
            let own = sorted.get(range).unwrap_or_default().iter().filter_map(|row| places.get(*row as usize));
            for place in own {
                match changes.get_mut(from..).and_then(<[Place]>::last_mut) {
                    Some(last) if of(last) == of(place) => last.delta += place.delta,
                    _ => changes.push(place.clone()),
                }
            }
            if changes.iter().skip(from).any(|place| place.delta != 0) {
                partitions.push((first as usize, from..changes.len()));
            } else {
                changes.truncate(from);
            }
        }
        Self { partition, bytes, changes, partitions }
    }

    /// The partitions that are changed, as bytes, each with its changes.
    pub fn partitions(&self) -> impl Iterator<Item = (&[u8], impl Iterator<Item = Change<'_>> + Clone)> {
        self.partitions.iter().map(|(row, changes)| {
            let changes = self.changes.get(changes.clone()).unwrap_or_default().iter();
            let changes = changes.filter(|place| place.delta != 0).map(|place| Change {
                bytes: self.bytes.get(place.from..place.to).unwrap_or_default(),
                row: (place.row - place.from) as u32,
                delta: place.delta,
            });
            (part(&self.partition, *row), changes)
        })
    }
}

fn part(rows: &Option<Rows>, row: usize) -> &[u8] {
    rows.as_ref().map_or(&[], |rows| rows.row(row).data())
}

/// The number of each row's partition, in the order in which partitions first come, and those first rows.
fn numbered(partition: &Option<Rows>, rows: usize) -> (Vec<usize>, Vec<u32>) {
    let Some(partition) = partition else { return (vec![0; rows], vec![0]) };
    let hasher = DefaultHashBuilder::default();
    let mut numbers: HashTable<(u64, usize)> = HashTable::with_capacity(rows);
    let (mut of_row, mut firsts) = (Vec::with_capacity(rows), Vec::<u32>::new());
    for row in 0..rows {
        let bytes = partition.row(row);
        let hash = hasher.hash_one(bytes.data());
        let first = |number: usize| firsts.get(number).copied().unwrap_or_default() as usize;
        let same = |other: &(u64, usize)| other.0 == hash && partition.row(first(other.1)) == bytes;
        let number = match numbers.entry(hash, same, |other| other.0) {
            Entry::Occupied(entry) => entry.get().1,
            Entry::Vacant(entry) => {
                let number = entry.insert((hash, firsts.len())).get().1;
                firsts.push(row as u32);
                number
            }
        };
        of_row.push(number);
    }
    (of_row, firsts)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};
    use datafusion::arrow::row::{RowConverter, SortField};

    use super::*;

    fn rows(values: &[i64]) -> Option<Rows> {
        let column: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
        let converter = RowConverter::new(vec![SortField::new(column.data_type().clone())]).unwrap();
        Some(converter.convert_columns(&[column]).unwrap())
    }

    #[test]
    fn rows_of_a_partition_are_in_order_and_named_once() {
        let weights = [1, 1, -1, 1, 1, -1];
        let batch = BatchRows::new(rows(&[7, 5, 7, 7, 5, 6]), &rows(&[2, 9, 1, 2, 9, 0]), &rows(&[4; 6]), 6, |row| {
            weights[row]
        });
        let order = |bytes: &[u8]| bytes[8];
        let all: Vec<Vec<(u8, i64)>> =
            batch.partitions().map(|(_, c)| c.map(|c| (order(c.bytes), c.delta)).collect()).collect();
        assert_eq!(all, [vec![(1, -1), (2, 2)], vec![(9, 2)], vec![(0, -1)]]);
    }

    #[test]
    fn a_partition_whose_changes_cancel_out_is_not_named() {
        let weights = [1, 1, -1];
        let batch = BatchRows::new(rows(&[1, 2, 1]), &None, &rows(&[3, 3, 3]), 3, |row| weights[row]);
        assert_eq!(batch.partitions().count(), 1);
        let none = BatchRows::new(None, &rows(&[]), &rows(&[]), 0, |_| 1);
        assert_eq!(none.partitions().count(), 0);
    }
}
