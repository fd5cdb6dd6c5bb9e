//! Random numbers that are a function of a seed, a row and a use: every row can be made without the ones
//! before it.

/// A short stream of random numbers.
///
/// The mixing is that of SplitMix64: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
/// Generators", OOPSLA 2014.
#[derive(Clone, Copy, Debug)]
pub(super) struct Random(u64);

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Random {
    /// The numbers of a row; `lane` tells the uses within the row apart, so that none depends on another.
    pub(super) fn new(seed: u64, row: u64, lane: u64) -> Self {
        let row = mixed(seed.wrapping_add(row.wrapping_add(1).wrapping_mul(GOLDEN)));
        Self(mixed(row ^ lane.wrapping_mul(GOLDEN).rotate_left(17)))
    }

    /// The next number.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mixed(self.0)
    }

    /// A number below `n`; 0 where `n` is 0.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// A number of `min..=max`.
    pub(super) fn between(&mut self, min: i128, max: i128) -> i128 {
        let span = max.wrapping_sub(min) as u128;
        match u64::try_from(span).ok().and_then(|s| s.checked_add(1)) {
            Some(n) => min + i128::from(self.below(n)),
            None => {
                let wide = (u128::from(self.next()) << 64) | u128::from(self.next());
                min.wrapping_add(span.checked_add(1).map_or(wide, |n| wide % n) as i128)
            }
        }
    }

    /// A number of `0.0..1.0`.
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Whether an event of this probability happens.
    pub(super) fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// One of some values; the default where there are none.
    pub(super) fn pick<T: Copy + Default>(&mut self, values: &[T]) -> T {
        values.get(self.below(values.len() as u64) as usize).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_depends_on_seed_row_and_lane_and_on_nothing_else() {
        let first = |seed, row, lane| Random::new(seed, row, lane).next();
        assert_eq!(first(1, 2, 3), first(1, 2, 3));
        let all = [first(1, 2, 3), first(2, 1, 3), first(1, 3, 2), first(1, 2, 4), first(0, 0, 0)];
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
        // A recorded range must give the same rows in every later version.
        assert_eq!(Random::new(42, 7, 1).next(), GOLDEN_VECTOR);
    }

    const GOLDEN_VECTOR: u64 = 2_251_544_640_113_688_383;

    #[test]
    fn numbers_stay_in_their_bounds_and_reach_both_ends() {
        let mut random = Random::new(1, 1, 1);
        let found: std::collections::BTreeSet<_> = (0..1000).map(|_| random.between(-2, 2)).collect();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [-2, -1, 0, 1, 2]);
        assert!((0..1000).all(|_| (0.0..1.0).contains(&random.unit())));
        let wide = (i128::MIN, i128::MAX);
        assert_ne!(random.between(wide.0, wide.1), random.between(wide.0, wide.1));
    }
}
