//! Which sessions are open, and which rows they hold: in memory, and undone step by step where a batch fails.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::Result as DfResult;

use super::super::retract::canonical;

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
        let columns = columns.iter().map(canonical).collect::<DfResult<Vec<_>>>()?;
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
    /// A session was made out of these.
    Made { key: Key, now: i64, of: Vec<(i64, Session)> },
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
}

impl OpenSessions {
    /// None.
    pub fn new(gap: i64) -> Self {
        Self { gap, by_key: HashMap::new(), by_end: BTreeSet::new(), rows: 0, steps: vec![] }
    }

    /// Adds a row. Answers the sessions whose bounds it changed as they were, with their rows.
    pub fn insert(&mut self, key: &Key, time: i64, row: u64) -> Vec<(Bounds, Vec<u64>)> {
        self.rows += 1;
        let end = time.saturating_add(self.gap);
        let sessions = self.by_key.entry(Arc::clone(key)).or_default();
        // Sessions of a key do not touch, so that those the row touches follow each other.
        let touched: Vec<i64> =
            sessions.range(..=end).rev().take_while(|(_, s)| s.end >= time).map(|(start, _)| *start).collect();
        if let [start] = touched[..] {
            return self.join(key, start, time, row).into_iter().collect();
        }
        let of: Vec<(i64, Session)> =
            touched.into_iter().rev().filter_map(|start| sessions.remove(&start).map(|s| (start, s))).collect();
        let mut made = Session { end, rows: vec![] };
        let mut now = time;
        let mut before = vec![];
        for (start, session) in &of {
            self.by_end.remove(&(session.end, Arc::clone(key), *start));
            now = now.min(*start);
            made.end = made.end.max(session.end);
            made.rows.extend(&session.rows);
            before.push((Bounds { start: *start, end: session.end }, session.rows.clone()));
        }
        made.rows.push(row);
        self.by_end.insert((made.end, Arc::clone(key), now));
        sessions.insert(now, made);
        self.steps.push(Step::Made { key: Arc::clone(key), now, of });
        before
    }

    /// Adds a row to one session, which begins earlier or ends later for it, or stays as it was.
    fn join(&mut self, key: &Key, start: i64, time: i64, row: u64) -> Option<(Bounds, Vec<u64>)> {
        let sessions = self.by_key.get_mut(key)?;
        let mut session = sessions.remove(&start)?;
        let before = Bounds { start, end: session.end };
        let after = Bounds { start: start.min(time), end: session.end.max(time.saturating_add(self.gap)) };
        let rows = session.rows.len();
        self.steps.push(Step::Grew { key: Arc::clone(key), now: after.start, start, end: session.end, rows });
        let changed = (before != after).then(|| (before, session.rows.clone()));
        if changed.is_some() {
            self.by_end.remove(&(before.end, Arc::clone(key), before.start));
            self.by_end.insert((after.end, Arc::clone(key), after.start));
        }
        session.rows.push(row);
        session.end = after.end;
        sessions.insert(after.start, session);
        changed
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
    }

    /// What was staged is forgotten.
    pub fn discard(&mut self) {
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
            Step::Made { key, now, of } => {
                let Some(sessions) = self.by_key.get_mut(&key) else { return };
                if let Some(made) = sessions.remove(&now) {
                    self.by_end.remove(&(made.end, Arc::clone(&key), now));
                }
                self.rows -= 1;
                for (start, session) in of {
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
