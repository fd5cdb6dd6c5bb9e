//! What updates of a hash map cost the machine itself: nothing is read and nothing is written but the map.

use hashbrown::HashMap;

use crate::data::changing::{Changing, value};
use crate::{Result, sys};

/// Loads a map with count and sum of so many keys, updates keys all over it, and prints the nanoseconds an update.
///
/// # Errors
/// Where a key is not there.
pub fn updates(keys: u64, updates: u64) -> Result<()> {
    let table = Changing::new(keys);
    let mut map: HashMap<u64, (i64, i64)> = HashMap::new();
    for n in 0..keys {
        let key = table.loaded(n);
        map.insert(key, (1, value(key, 0)));
    }
    // The keys are made before the clock starts.
    let updates: Vec<(u64, i64)> = (0..updates).map(|n| table.updated(n)).map(|(k, r)| (k, value(k, r))).collect();
    let started = sys::cpu_s();
    for (key, change) in &updates {
        let (count, sum) = map.get_mut(key).ok_or("a key that is updated is not there")?;
        (*count, *sum) = (*count + 1, *sum + change);
    }
    let ns = (sys::cpu_s() - started) * 1e9 / updates.len().max(1) as f64;
    let total: i64 = map.values().map(|(count, sum)| count ^ sum).fold(0, i64::wrapping_add);
    println!("{ns:.1} ns an update, {total}");
    Ok(())
}
