//! Answers by key, for a while: the least recently used one makes room, and none is older than the options say.
//!
//! Time is passed in. Bounded in rows; a key without rows counts as one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A row in the server's binary form; `None` is NULL.
pub(super) type RawRow = Arc<[Option<Box<[u8]>>]>;

/// The answers that are remembered.
#[derive(Debug)]
pub(super) struct Cache {
    rows_max: usize,
    expire_after: Duration,
    rows: usize,
    /// Grows with every use.
    clock: u64,
    entries: HashMap<Box<[u8]>, Entry>,
    /// The keys by their last use.
    uses: BTreeMap<u64, Box<[u8]>>,
}

#[derive(Debug)]
struct Entry {
    rows: Arc<[RawRow]>,
    written: Instant,
    used: u64,
}

impl Cache {
    pub(super) fn new(rows_max: usize, expire_after: Duration) -> Self {
        Self { rows_max, expire_after, rows: 0, clock: 0, entries: HashMap::new(), uses: BTreeMap::new() }
    }

    /// The rows of a key, where they are known and young enough.
    pub(super) fn get(&mut self, key: &[u8], now: Instant) -> Option<Arc<[RawRow]>> {
        let entry = self.entries.get_mut(key)?;
        if now.saturating_duration_since(entry.written) >= self.expire_after {
            self.remove(key);
            return None;
        }
        self.clock += 1;
        if let Some(key) = self.uses.remove(&entry.used) {
            self.uses.insert(self.clock, key);
        }
        entry.used = self.clock;
        Some(Arc::clone(&entry.rows))
    }

    /// Remembers the rows of a key, in place of what was known.
    pub(super) fn put(&mut self, key: &[u8], rows: Arc<[RawRow]>, now: Instant) {
        self.remove(key);
        if weight(&rows) > self.rows_max {
            return;
        }
        self.clock += 1;
        self.rows += weight(&rows);
        self.uses.insert(self.clock, key.into());
        self.entries.insert(key.into(), Entry { rows, written: now, used: self.clock });
        while self.rows > self.rows_max {
            let Some((_, oldest)) = self.uses.pop_first() else { return };
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(entry) = self.entries.remove(key) {
            self.uses.remove(&entry.used);
            self.rows -= weight(&entry.rows);
        }
    }
}

fn weight(rows: &[RawRow]) -> usize {
    rows.len().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize) -> Arc<[RawRow]> {
        vec![RawRow::from(vec![None]); n].into()
    }

    #[test]
    fn the_least_recently_used_key_makes_room() {
        let now = Instant::now();
        let mut cache = Cache::new(3, Duration::from_secs(9));
        cache.put(b"a", rows(1), now);
        cache.put(b"b", rows(0), now);
        cache.put(b"c", rows(1), now);
        assert!(cache.get(b"a", now).is_some());
        cache.put(b"d", rows(1), now);
        assert!(cache.get(b"b", now).is_none());
        assert_eq!(cache.get(b"a", now).unwrap().len(), 1);
        cache.put(b"e", rows(3), now);
        assert!(cache.get(b"a", now).is_none() && cache.get(b"d", now).is_none());
        assert_eq!(cache.get(b"e", now).unwrap().len(), 3);
        cache.put(b"f", rows(4), now);
        assert!(cache.get(b"f", now).is_none(), "more rows than fit are not remembered");
        assert_eq!((cache.rows, cache.uses.len(), cache.entries.len()), (3, 1, 1));
    }

    #[test]
    fn an_answer_that_is_too_old_is_forgotten() {
        let now = Instant::now();
        let mut cache = Cache::new(3, Duration::from_secs(9));
        cache.put(b"a", rows(1), now);
        assert!(cache.get(b"a", now + Duration::from_secs(8)).is_some());
        assert!(cache.get(b"a", now + Duration::from_secs(9)).is_none());
        assert_eq!((cache.rows, cache.uses.len(), cache.entries.len()), (0, 0, 0));
    }
}
