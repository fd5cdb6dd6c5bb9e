//! Which sessions are open, and which rows they hold: in memory, and undone step by step where a batch fails.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::Result as DfResult;

use super::super::grouping::canonical;

/// A key as bytes, which are equal where the values are.
pub type Key = Arc<[u8]>;

/// Makes keys of columns.
#[derive(Debug)]
pub struct Keys(Option<RowConverter>);

impl Keys {
    /// Keys of columns of these types; one key where there are none.
    pub fn try_new(types: impl Iterator<Item = DataType>) -> DfResult<Self> {
        let fields: Vec<SortField> = types.map(SortField::new).collect();
        Ok(Self(if fields.is_empty() { None } else { Some(RowConverter::new(fields)?) }))
    }

    /// The key of each row.
    pub fn of(&self, columns: &[ArrayRef], rows: usize) -> DfResult<Vec<Key>> {
        let Some(converter) = &self.0 else { return Ok(vec![Key::from([]); rows]) };
        let columns = columns.iter().map(canonical).collect::<Vec<_>>();
        Ok(converter.convert_columns(&columns)?.iter().map(|row| Key::from(row.data())).collect())
    }
}

/// Where a session begins and ends: microseconds, the end without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bounds {
    /// The time of its first row.
    pub start: i64,
    /// One gap after the time of its last row.
    pub end: i64,
}

#[derive(Debug)]
struct Session {
    end: i64,
    rows: Vec<u64>,
}

/// A step that can be taken back.
#[derive(Debug)]
enum Step {
    /// A row was added to the session that is now there, which was this: its start, its end, how many rows.
    Grew { key: Key, now: i64, start: i64, end: i64, rows: usize },
    /// A session was made: out of the largest that the row touched, which had this start, this end and so many rows,
    /// and of the others.
    Made { key: Key, now: i64, base: Option<(i64, i64, usize)>, others: Vec<(i64, Session)> },
    /// A session was closed.
    Closed { key: Key, start: i64, session: Session },
}

/// The open sessions of all keys. Those of one key never touch.
#[derive(Debug)]
pub struct OpenSessions {
    gap: i64,
    by_key: HashMap<Key, BTreeMap<i64, Session>>,
    by_end: BTreeSet<(i64, Key, i64)>,
    rows: usize,
    steps: Vec<Step>,
    /// Where it is asked for, what the batch has changed.
    changed: Option<Changed>,
}

/// The sessions whose bounds a batch has changed.
#[derive(Debug, Default)]
struct Changed {
    /// As they were before the batch, with their rows.
    before: Vec<(Bounds, Vec<u64>)>,
    /// Those that are not what was there before the batch, by key and start.
    fresh: HashSet<(Key, i64)>,
}

impl OpenSessions {
    /// None. Where `tells`, [`OpenSessions::before`] can be asked.
    pub fn new(gap: i64, tells: bool) -> Self {
        let changed = tells.then(Changed::default);
        Self { gap, by_key: HashMap::new(), by_end: BTreeSet::new(), rows: 0, steps: vec![], changed }
    }

    /// The sessions whose bounds the batch has changed as they were before it, with their rows: those of before the
    /// batch, and maybe newer ones.
    pub fn before(&self) -> &[(Bounds, Vec<u64>)] {
        self.changed.as_ref().map(|c| c.before.as_slice()).unwrap_or_default()
    }

    /// Adds a row.
    pub fn insert(&mut self, key: &Key, time: i64, row: u64) {
        self.rows += 1;
        let end = time.saturating_add(self.gap);
        let sessions = self.by_key.entry(Arc::clone(key)).or_default();
        // Sessions of a key do not touch, so that those the row touches follow each other.
        let touched: Vec<i64> =
            sessions.range(..=end).rev().take_while(|(_, s)| s.end >= time).map(|(start, _)| *start).collect();
        if let [start] = touched[..] {
            self.join(key, start, time, row);
            return;
        }
        let mut of: Vec<(i64, Session)> =
            touched.into_iter().rev().filter_map(|start| sessions.remove(&start).map(|s| (start, s))).collect();
        for (start, session) in &of {
            self.by_end.remove(&(session.end, Arc::clone(key), *start));
            if let Some(changed) = &mut self.changed {
                changed.was(key, Bounds { start: *start, end: session.end }, &session.rows);
            }
        }
        let now = of.iter().map(|(start, _)| *start).fold(time, i64::min);
        let end = of.iter().map(|(_, session)| session.end).fold(end, i64::max);
        // The largest one takes the rows of the others, so that rows that join again and again are few.
        let largest = (0..of.len()).max_by_key(|i| of.get(*i).map(|(_, s)| s.rows.len()));
        let base = largest.map(|largest| of.swap_remove(largest));
        let (base, mut rows) = match base {
            Some((start, session)) => (Some((start, session.end, session.rows.len())), session.rows),
            None => (None, vec![]),
        };
        of.iter().for_each(|(_, session)| rows.extend(&session.rows));
        rows.push(row);
        self.by_end.insert((end, Arc::clone(key), now));
        sessions.insert(now, Session { end, rows });
        if let Some(changed) = &mut self.changed {
            changed.fresh.insert((Arc::clone(key), now));
        }
        self.steps.push(Step::Made { key: Arc::clone(key), now, base, others: of });
    }

    /// Adds a row to one session, which begins earlier or ends later for it, or stays as it was.
    fn join(&mut self, key: &Key, start: i64, time: i64, row: u64) {
        let Some(sessions) = self.by_key.get_mut(key) else { return };
        let Some(mut session) = sessions.remove(&start) else { return };
        let before = Bounds { start, end: session.end };
        let after = Bounds { start: start.min(time), end: session.end.max(time.saturating_add(self.gap)) };
        let rows = session.rows.len();
        self.steps.push(Step::Grew { key: Arc::clone(key), now: after.start, start, end: session.end, rows });
        if before != after {
            self.by_end.remove(&(before.end, Arc::clone(key), before.start));
            self.by_end.insert((after.end, Arc::clone(key), after.start));
            if let Some(changed) = &mut self.changed {
                changed.was(key, before, &session.rows);
                changed.fresh.insert((Arc::clone(key), after.start));
            }
        }
        session.rows.push(row);
        session.end = after.end;
        sessions.insert(after.start, session);
    }

    /// The bounds of the session that holds a time.
    pub fn of(&self, key: &Key, time: i64) -> Option<Bounds> {
        let (start, session) = self.by_key.get(key)?.range(..=time).next_back()?;
        (session.end > time).then_some(Bounds { start: *start, end: session.end })
    }

    /// The rows of a session.
    pub fn rows(&self, key: &Key, bounds: Bounds) -> &[u64] {
        let session = self.by_key.get(key).and_then(|sessions| sessions.get(&bounds.start));
        session.map(|s| s.rows.as_slice()).unwrap_or_default()
    }

    /// The end of the session that ends first.
    pub fn first_end(&self) -> Option<i64> {
        self.by_end.first().map(|(end, ..)| *end)
    }

    /// Takes out the session that ends first, where it ends by then, with its rows in the order in which they came.
    pub fn close(&mut self, frontier: i64) -> Option<(Bounds, Vec<u64>)> {
        let (end, ..) = self.by_end.first()?;
        if *end > frontier {
            return None;
        }
        let (end, key, start) = self.by_end.pop_first()?;
        let sessions = self.by_key.get_mut(&key)?;
        let session = sessions.remove(&start)?;
        if sessions.is_empty() {
            self.by_key.remove(&key);
        }
        let mut rows = session.rows.clone();
        rows.sort_unstable();
        self.rows -= rows.len();
        self.steps.push(Step::Closed { key, start, session });
        Some((Bounds { start, end }, rows))
    }

    /// What was staged becomes the state.
    pub fn install(&mut self) {
        self.steps.clear();
        self.changed = self.changed.take().map(|_| Changed::default());
    }

    /// What was staged is forgotten.
    pub fn discard(&mut self) {
        self.changed = self.changed.take().map(|_| Changed::default());
        for step in std::mem::take(&mut self.steps).into_iter().rev() {
            self.take_back(step);
        }
    }

    fn take_back(&mut self, step: Step) {
        match step {
            Step::Grew { key, now, start, end, rows } => {
                let Some(sessions) = self.by_key.get_mut(&key) else { return };
                let Some(mut session) = sessions.remove(&now) else { return };
                self.by_end.remove(&(session.end, Arc::clone(&key), now));
                self.rows -= session.rows.len() - rows;
                session.rows.truncate(rows);
                session.end = end;
                sessions.insert(start, session);
                self.by_end.insert((end, key, start));
            }
            Step::Made { key, now, base, others } => {
                let Some(sessions) = self.by_key.get_mut(&key) else { return };
                let made = sessions.remove(&now);
                if let Some(made) = &made {
                    self.by_end.remove(&(made.end, Arc::clone(&key), now));
                }
                self.rows -= 1;
                let mut restored = others;
                if let (Some((start, end, rows)), Some(made)) = (base, made) {
                    let mut of = made.rows;
                    of.truncate(rows);
                    restored.push((start, Session { end, rows: of }));
                }
                for (start, session) in restored {
                    self.by_end.insert((session.end, Arc::clone(&key), start));
                    sessions.insert(start, session);
                }
                if sessions.is_empty() {
                    self.by_key.remove(&key);
                }
            }
            Step::Closed { key, start, session } => {
                self.rows += session.rows.len();
                self.by_end.insert((session.end, Arc::clone(&key), start));
                self.by_key.entry(key).or_default().insert(start, session);
            }
        }
    }

    /// Bytes held, about.
    pub fn memory_bytes(&self) -> usize {
        self.rows * size_of::<u64>() + self.by_end.len() * 128
    }
}

impl Changed {
    /// A session is no longer what it was. Its rows are noted once a batch, however often it changes.
    fn was(&mut self, key: &Key, bounds: Bounds, rows: &[u64]) {
        if !self.fresh.remove(&(Arc::clone(key), bounds.start)) {
            self.before.push((bounds, rows.to_vec()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::from([1u8])
    }

    #[test]
    fn a_session_that_grows_row_by_row_is_noted_once_a_batch_and_as_it_was_before_it() {
        let mut open = OpenSessions::new(10, true);
        (0..1000).for_each(|n| open.insert(&key(), n as i64, n));
        assert!(open.before().is_empty());
        open.install();
        (1000..2000).for_each(|n| open.insert(&key(), n as i64, n));
        let [(bounds, rows)] = open.before() else { panic!("{:?}", open.before().len()) };
        assert_eq!((*bounds, rows.len()), (Bounds { start: 0, end: 1009 }, 1000));
        open.install();
        assert!(open.before().is_empty());
        let mut silent = OpenSessions::new(10, false);
        (0..10).for_each(|n| silent.insert(&key(), n as i64, n));
        assert!(silent.before().is_empty());
    }

    #[test]
    fn sessions_that_one_row_joins_are_what_they_were_when_it_is_taken_back() {
        let mut open = OpenSessions::new(10, true);
        // [0, 13) of two rows, [20, 30) and [40, 61) of three.
        for (row, time) in [0, 3, 20, 40, 45, 51].into_iter().enumerate() {
            open.insert(&key(), time, row as u64);
        }
        open.install();
        let before: Vec<_> = [0, 20, 40].map(|t| open.of(&key(), t)).to_vec();
        open.insert(&key(), 12, 6);
        open.insert(&key(), 30, 7);
        assert_eq!(open.of(&key(), 15), Some(Bounds { start: 0, end: 61 }));
        assert_eq!(open.before().len(), 3);
        let (_, rows) = open.close(61).unwrap();
        assert_eq!(rows, [0, 1, 2, 3, 4, 5, 6, 7]);
        open.discard();
        assert_eq!([0, 20, 40].map(|t| open.of(&key(), t)).to_vec(), before);
        let mut closed = vec![];
        while let Some((bounds, rows)) = open.close(100) {
            closed.push((bounds.start, bounds.end, rows));
        }
        assert_eq!(closed, [(0, 13, vec![0, 1]), (20, 30, vec![2]), (40, 61, vec![3, 4, 5])]);
    }
}
