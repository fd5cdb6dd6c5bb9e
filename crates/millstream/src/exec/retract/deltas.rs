//! By how much each value of each group is more or less often there: the rows of a batch, summed up and in order.

use std::ops::Range;

use arrow::array::BinaryArray;

/// So many values are compared where they lie.
const FEW: usize = 20;

/// The distinct pairs of group and value of a batch, with the sums of their weights, which are not 0: by group, and in
/// the order of the values.
pub struct Deltas {
    /// The rows' values, as bytes that are ordered as values are.
    values: BinaryArray,
    /// A row that has the value, for each pair.
    rows: Vec<u32>,
    weights: Vec<i64>,
    /// The first pair of each group, and the end of the last one's.
    starts: Vec<u32>,
}

impl Deltas {
    /// Of rows with these values (as bytes that are ordered as they are), groups (below `total`) and weights, of which those count that `counts` answers so.
    pub fn of(
        values: BinaryArray,
        groups: &[usize],
        weights: &[i64],
        total: usize,
        counts: impl Fn(usize) -> bool,
    ) -> Self {
        let mut starts = vec![0u32; total + 2];
        let counted = |(row, (group, weight)): (usize, (&usize, &i64))| {
            (*weight != 0 && counts(row)).then_some((row as u32, *group))
        };
        let counted = || groups.iter().zip(weights).enumerate().filter_map(counted);
        // Two places on, so that each start can be moved along while its rows are put down.
        for (_, group) in counted() {
            if let Some(start) = starts.get_mut(group + 2) {
                *start += 1;
            }
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        let mut rows = vec![0u32; sum as usize];
        for (row, group) in counted() {
            if let Some(start) = starts.get_mut(group + 1) {
                if let Some(place) = rows.get_mut(*start as usize) {
                    *place = row;
                }
                *start += 1;
            }
        }
        starts.truncate(total + 1);
        let mut deltas = Self { values, rows, weights: Vec::with_capacity(sum as usize), starts };
        deltas.sum_up(weights);
        deltas
    }

    /// Sorts the rows of each group, which are beside each other, and makes one of those that are equal.
    fn sum_up(&mut self, weights: &[i64]) {
        let Self { values, rows, weights: sums, starts } = self;
        let value = |row: u32| values.value(row as usize);
        let weight = |row: u32| weights.get(row as usize).copied().unwrap_or_default();
        let (mut from, mut kept) = (0, 0);
        for start in starts.iter_mut().skip(1) {
            let to = *start as usize;
            match rows.get_mut(from..to).unwrap_or_default() {
                [] | [_] => {}
                few if few.len() <= FEW => few.sort_unstable_by(|a, b| value(*a).cmp(value(*b))),
                many => many.sort_by_cached_key(|row| (beginning(value(*row)), value(*row))),
            }
            let mut at = from;
            while let Some(row) = rows.get(at).copied().filter(|_| at < to) {
                let mut sum = weight(row);
                at += 1;
                while let Some(same) = rows.get(at).copied().filter(|same| at < to && value(*same) == value(row)) {
                    sum += weight(same);
                    at += 1;
                }
                if let Some(place) = rows.get_mut(kept).filter(|_| sum != 0) {
                    *place = row;
                    sums.push(sum);
                    kept += 1;
                }
            }
            from = to;
            *start = kept as u32;
        }
        rows.truncate(kept);
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// The pairs of a group.
    pub fn of_group(&self, group: usize) -> Range<usize> {
        match self.starts.get(group..group + 2) {
            Some([from, to]) => *from as usize..*to as usize,
            _ => 0..0,
        }
    }

    /// The value of a pair, as bytes.
    pub fn bytes(&self, pair: usize) -> &[u8] {
        self.rows.get(pair).map_or(&[], |row| self.values.value(*row as usize))
    }

    /// A row of the batch that has the value of a pair.
    pub fn row(&self, pair: usize) -> u32 {
        self.rows.get(pair).copied().unwrap_or_default()
    }

    /// By how much a pair is more often there.
    pub fn weight(&self, pair: usize) -> i64 {
        self.weights.get(pair).copied().unwrap_or_default()
    }
}

/// The first bytes as a number: most values differ in it, and it is compared without a look at them.
fn beginning(value: &[u8]) -> u128 {
    let mut first = [0; 16];
    first.iter_mut().zip(value).for_each(|(to, byte)| *to = *byte);
    u128::from_be_bytes(first)
}
