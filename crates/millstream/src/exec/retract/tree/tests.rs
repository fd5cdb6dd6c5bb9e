//! Trees against one sorted map of everything.

use std::collections::BTreeMap;

use std::ops::Range;

use arrow::array::{BinaryArray, Int64Array};
use datafusion::arrow::row::{RowConverter, SortField};

use super::super::deltas::Deltas;
use super::*;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

type Model = BTreeMap<(usize, Vec<u8>), u64>;

/// A tree with the roots of its groups, and what it should hold.
struct Groups {
    tree: Tree,
    roots: Vec<Vec<u8>>,
    model: Model,
}

impl Groups {
    fn new(groups: usize) -> Self {
        Self { tree: Tree::try_new().unwrap(), roots: vec![vec![]; groups], model: Model::new() }
    }

    /// Makes changes of group, value and weight; the weights are checked against what is there.
    fn change(&mut self, changes: &[(usize, Vec<u8>, i64)]) {
        let converter = RowConverter::new(vec![SortField::new(DataType::Binary)]).unwrap();
        let values: ArrayRef = Arc::new(BinaryArray::from_iter_values(changes.iter().map(|(_, value, _)| value)));
        let groups: Vec<usize> = changes.iter().map(|(group, ..)| *group).collect();
        let weights: Vec<i64> = changes.iter().map(|(.., weight)| *weight).collect();
        let rows = converter.convert_columns(&[values]).unwrap().try_into_binary().unwrap();
        let deltas = Deltas::of(rows, &groups, &weights, self.roots.len(), |_| true);
        let roots = Roots { pages: self.roots.iter().map(Vec::as_slice).collect(), slots: &Slots::One };
        let mut expected: Vec<(u64, u64)> = vec![];
        let mut sums: BTreeMap<(usize, Vec<u8>), i64> = BTreeMap::new();
        changes.iter().for_each(|(group, value, weight)| *sums.entry((*group, value.clone())).or_default() += weight);
        for (key, sum) in sums.into_iter().filter(|(_, sum)| *sum != 0) {
            let before = self.model.get(&key).copied().unwrap_or(0);
            let after = before.saturating_add_signed(sum);
            expected.push((before, after));
            match after {
                0 => _ = self.model.remove(&key),
                after => _ = self.model.insert(key, after),
            }
        }
        let roots = self.tree.change(&roots, &deltas, |pair, before| {
            assert_eq!(before, expected[pair].0);
            Ok(expected[pair].1)
        });
        self.roots = roots.unwrap().iter().map(|root| root.unwrap().to_vec()).collect();
    }

    fn roots(&self) -> Roots<'_> {
        Roots { pages: self.roots.iter().map(Vec::as_slice).collect(), slots: &Slots::One }
    }

    fn told(&self, which: Which) -> Vec<(usize, Vec<u8>, u64)> {
        let mut told = vec![];
        self.tree
            .walk(&self.roots(), which, |group, bytes, number| told.push((group, bytes.to_vec(), number)))
            .unwrap();
        // Groups come in any order, their values in order.
        told.sort_by_key(|(group, ..)| *group);
        told
    }

    /// Compares what is told with the model. Values that are compared as rows are in the order of their bytes.
    fn check(&self, what: &str) {
        let converter = RowConverter::new(vec![SortField::new(DataType::Binary)]).unwrap();
        let bytes = |value: &Vec<u8>| {
            let value: ArrayRef = Arc::new(BinaryArray::from_iter_values([value]));
            converter.convert_columns(&[value]).unwrap().row(0).data().to_vec()
        };
        let all: Vec<_> = self.model.iter().map(|((group, value), n)| (*group, bytes(value), *n)).collect();
        assert_eq!(self.told(Which::All), all, "{what}");
        let ends = |last: bool| {
            let mut ends: BTreeMap<usize, (usize, Vec<u8>, u64)> = BTreeMap::new();
            for entry in &all {
                if last || !ends.contains_key(&entry.0) {
                    ends.insert(entry.0, entry.clone());
                }
            }
            ends.into_values().collect::<Vec<_>>()
        };
        assert_eq!(self.told(Which::First), ends(false), "{what}");
        assert_eq!(self.told(Which::Last), ends(true), "{what}");
    }

    /// How many pages the groups' trees have: all that there are.
    fn pages(&self) -> usize {
        let mut pages = 0;
        let mut level: Vec<Vec<u8>> = self.roots.clone();
        while !level.is_empty() {
            let tall = level.iter().filter(|page| page::level(page) > 0);
            let ids: Vec<(usize, u64)> = tall.flat_map(|page| page::entries(page)).map(|(_, id)| (0, id)).collect();
            pages += ids.len();
            let below = self.tree.read(&Slots::One, ids.into_iter()).unwrap();
            level = below.iter().map(|page| page.unwrap().to_vec()).collect();
            assert!(level.iter().all(|page| !page::is_empty(page)));
        }
        pages
    }

    fn height(&self, group: usize) -> u8 {
        page::level(&self.roots[group])
    }

    fn installed(&mut self, what: &str) {
        self.tree.install();
        assert_eq!(self.tree.pages.table.len(), self.pages(), "{what}");
    }
}

/// Groups grow from nothing to thousands of values and shrink again, with batches that are discarded.
fn grow_and_shrink(seed: u64, most: u64, value: impl Fn(&mut Random) -> Vec<u8>) -> u8 {
    let mut random = Random(seed);
    let mut groups = Groups::new(4);
    let mut height = 0;
    for step in 0..160 {
        let what = format!("seed {seed}, step {step}");
        let (before, roots) = (groups.model.clone(), groups.roots.clone());
        let shrinks = step >= 80;
        let mut changes = vec![];
        for _ in 0..random.below(most) {
            // Group 0 gets most of them, group 3 few.
            let group = [0, 0, 0, 0, 0, 1, 1, 2, 2, 3][random.below(10) as usize];
            if shrinks || random.below(4) == 0 {
                let from = groups.model.range((group, value(&mut random))..(group + 1, vec![]));
                if let Some(((_, value), count)) = from.into_iter().next() {
                    // Once a batch: then there are as many as the model says.
                    if !changes.iter().any(|(g, v, _)| *g == group && v == value) {
                        changes.push((group, value.clone(), -(random.below(*count) as i64 + 1)));
                    }
                }
            } else {
                let value = value(&mut random);
                if !changes.iter().any(|(g, v, _)| *g == group && *v == value) {
                    changes.extend([(group, value.clone(), 3), (group, value, -1 - random.below(2) as i64)]);
                }
            }
        }
        groups.change(&changes);
        if step % 10 == 0 {
            groups.check(&what);
        }
        if random.below(4) == 0 {
            groups.tree.discard();
            (groups.model, groups.roots) = (before, roots);
            assert_eq!(groups.tree.pages.table.len(), groups.pages(), "{what}");
        } else {
            groups.installed(&what);
        }
        height = height.max(groups.height(0));
    }
    groups.check(&format!("seed {seed}, before the end"));
    let rest: Vec<_> = groups.model.iter().map(|((group, v), n)| (*group, v.clone(), -(*n as i64))).collect();
    groups.change(&rest);
    groups.installed("all gone");
    assert!(groups.roots.iter().all(Vec::is_empty) && groups.tree.pages.table.is_empty(), "seed {seed}");
    height
}

#[test]
fn groups_that_grow_and_shrink_hold_what_one_sorted_map_would_whatever_is_discarded() {
    for seed in 0..4 {
        let short = |random: &mut Random| random.below(50_000).to_be_bytes().to_vec();
        assert!(grow_and_shrink(seed, 400, short) >= 2);
        let long = |random: &mut Random| [vec![9; 300 + random.below(300) as usize], short(random)].concat();
        assert!(grow_and_shrink(seed, 60, long) >= 2);
    }
}

#[test]
fn a_group_of_few_values_has_no_page_and_one_that_was_large_goes_back_to_that() {
    let mut groups = Groups::new(1);
    let values = |of: Range<u64>, weight| of.map(move |n| (0, n.to_be_bytes().to_vec(), weight)).collect::<Vec<_>>();
    groups.change(&values(0..20, 1));
    groups.installed("small");
    assert_eq!((groups.height(0), groups.pages()), (0, 0));
    groups.change(&values(20..100_000, 1));
    groups.installed("large");
    assert!(groups.height(0) >= 2 && groups.height(0) <= 4, "{}", groups.height(0));
    groups.change(&values(50..100_000, -1));
    groups.installed("fewer");
    assert!(groups.pages() < 5);
    groups.change(&values(3..50, -1));
    groups.installed("small again");
    groups.check("small again");
    assert_eq!((groups.height(0), groups.pages()), (0, 0));
}

#[test]
fn one_change_of_a_large_group_writes_a_page_or_two() {
    let mut groups = Groups::new(1);
    groups.change(&(0..100_000u64).map(|n| (0, (2 * n).to_be_bytes().to_vec(), 1)).collect::<Vec<_>>());
    groups.installed("large");
    for n in [0u64, 7, 99_999, 150_001, 199_999] {
        let mut staged = Staged::new();
        let converter = RowConverter::new(vec![SortField::new(DataType::Binary)]).unwrap();
        let value: ArrayRef = Arc::new(BinaryArray::from_iter_values([n.to_be_bytes()]));
        let deltas =
            Deltas::of(converter.convert_columns(&[value]).unwrap().try_into_binary().unwrap(), &[0], &[1], 1, |_| {
                true
            });
        let roots = Roots { pages: vec![&groups.roots[0]], slots: &Slots::One };
        let levels = groups.tree.descend(&roots, &deltas).unwrap();
        assert!(levels.iter().all(|level| level.nodes.len() == 1) && levels.len() <= 5, "{n}: {}", levels.len());
        groups.tree.ascend(levels, &deltas, &mut |_, before| Ok(before + 1), &mut staged).unwrap();
        assert!((1..=3).contains(&staged.len()), "{n}: {}", staged.len());
        groups.tree.discard();
    }
}

#[test]
fn groups_that_are_removed_leave_no_page() {
    let mut groups = Groups::new(3);
    let value = |n: i64| n.to_be_bytes().to_vec();
    groups.change(&(0..9_000).map(|n| ((n % 3) as usize, value(n), 1)).collect::<Vec<_>>());
    groups.installed("three groups");
    let roots = groups.roots.clone();
    let roots = Roots { pages: roots.iter().map(Vec::as_slice).collect(), slots: &Slots::One };
    groups.tree.remove(&roots.filtered(|group| group != 1)).unwrap();
    groups.tree.install();
    groups.roots[0].clear();
    groups.roots[2].clear();
    groups.model.retain(|(group, _), _| *group == 1);
    groups.installed("one group");
    groups.check("one group");
}

#[test]
fn rows_of_equal_values_are_summed_up_in_order_and_those_that_cancel_out_are_left_out() {
    let converter = RowConverter::new(vec![SortField::new(DataType::Int64)]).unwrap();
    let values: ArrayRef = Arc::new(Int64Array::from(vec![5, 3, 5, 4, 3, 5, 1]));
    let rows = converter.convert_columns(&[values]).unwrap().try_into_binary().unwrap();
    let deltas = Deltas::of(rows, &[2, 0, 2, 0, 0, 0, 2], &[1, 1, 2, -1, -1, 0, 7], 4, |row| row != 6);
    let of = |group| deltas.of_group(group).map(|at| (deltas.row(at), deltas.weight(at))).collect::<Vec<_>>();
    assert_eq!([of(0), of(1), of(2), of(3)], [vec![(3, -1)], vec![], vec![(0, 3)], vec![]]);
    assert_eq!(deltas.len(), 2);
}
