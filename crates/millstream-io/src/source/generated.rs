//! What all generators share: partitions, how much is due, and ranges cut into chunks.
//!
//! A generator gives the row of a number; it keeps nothing from one row to the next. The rows are dealt out
//! to the partitions in turn: row `i` of partition `p` of `n` is row `i * n + p` of the whole. An offset
//! counts the rows of its partition.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use millstream_core::batch::{PartitionId, Place, Position, Positions, Range};
use millstream_core::clock::{Clock, SystemClock};
use millstream_core::source::{Boundedness, Chunk, ChunkStream, Limit, Offer, Source, SourceTable};
use millstream_core::{Error, Result};
use xxhash_rust::xxh3::xxh3_64;

use crate::Options;

/// Rows of a chunk.
const CHUNK_ROWS: u64 = 8192;

/// A shorter sleep is not worth being woken for.
const SLEEP_MIN: Duration = Duration::from_millis(1);

/// Makes rows from their numbers.
pub(super) trait Generator: Send + Sync + Debug {
    /// Everything that the rows depend on beside the schema, as a text that is the same in every process.
    fn identity(&self) -> String;

    /// All columns.
    fn schema(&self) -> SchemaRef;

    /// About how large a row is.
    fn row_bytes(&self) -> u64;

    /// The rows of these numbers, in the columns of these indices.
    fn rows(&self, projection: &[usize], schema: &SchemaRef, rows: &[Numbered]) -> Result<Chunk>;
}

/// A row to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbered {
    /// Its number over all partitions.
    pub number: u64,
    /// Its place in its partition.
    pub place: Place,
}

/// How many rows there are, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Supply {
    /// Rows over all partitions; `None` for ever more.
    pub rows: Option<u64>,
    /// Rows a second; `None` for as fast as they are read.
    pub rows_per_second: Option<f64>,
    /// After the last row, wait for ever instead of ending.
    pub stays_open: bool,
    pub partitions: u64,
}

impl Supply {
    /// The options 'number-of-rows', 'rows-per-second' and 'partitions'.
    pub(super) fn of(options: &Options, rows_per_second: f64) -> Result<Self> {
        let rate = options.parsed::<f64>("rows-per-second")?.unwrap_or(rows_per_second);
        if !(rate >= 0.0 && rate.is_finite()) {
            return Err(Error::config("the option 'rows-per-second' is a number, or 0 for as fast as can be"));
        }
        Ok(Self {
            rows: options.parsed("number-of-rows")?,
            rows_per_second: (rate > 0.0).then_some(rate),
            stays_open: false,
            partitions: partitions(options)?,
        })
    }

    fn rows_of(&self, partition: u64, below: u64) -> u64 {
        below.saturating_sub(partition).div_ceil(self.partitions)
    }
}

/// The option 'partitions'.
pub(super) fn partitions(options: &Options) -> Result<u64> {
    match options.parsed::<u64>("partitions")?.unwrap_or(1) {
        n @ 1..=1024 => Ok(n),
        n => Err(Error::config(format!("the option 'partitions' = '{n}': it is a number from 1 to 1024"))),
    }
}

/// A table whose rows are made when they are read.
#[derive(Debug)]
pub(super) struct GeneratedTable {
    generator: Arc<dyn Generator>,
    supply: Supply,
}

impl GeneratedTable {
    pub(super) fn new(generator: impl Generator + 'static, supply: Supply) -> Self {
        Self { generator: Arc::new(generator), supply }
    }

    fn source_at(&self, projection: &[usize], supply: Supply, clock: Arc<dyn Clock>) -> Result<GeneratedSource> {
        let all = self.generator.schema();
        let rows = Arc::new(Projected {
            schema: Arc::new(all.project(projection)?),
            projection: projection.to_vec(),
            generator: self.generator.clone(),
            partitions: supply.partitions,
        });
        let stamp = format!("{:016x}", xxh3_64(self.generator.identity().as_bytes()));
        let ids = (0..supply.partitions).map(|p| PartitionId::from(p.to_string())).collect();
        let pace = Mutex::new(None);
        Ok(GeneratedSource { rows, supply, stamp, ids, pace, more: AtomicBool::new(false), clock })
    }
}

impl SourceTable for GeneratedTable {
    fn schema(&self) -> SchemaRef {
        self.generator.schema()
    }

    fn source(&self, projection: &[usize]) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(self.source_at(projection, self.supply, Arc::new(SystemClock))?))
    }

    fn source_at_once(&self, projection: &[usize]) -> Result<Arc<dyn Source>> {
        let unpaced = Supply { rows_per_second: None, ..self.supply };
        Ok(Arc::new(self.source_at(projection, unpaced, Arc::new(SystemClock))?))
    }
}

#[derive(Debug)]
struct Projected {
    schema: SchemaRef,
    projection: Vec<usize>,
    generator: Arc<dyn Generator>,
    partitions: u64,
}

impl Projected {
    fn chunk(&self, partition: u64, from: u64, to: u64) -> Result<Chunk> {
        let numbered = |row: u64| Numbered {
            number: row.saturating_mul(self.partitions).saturating_add(partition),
            place: Place { offset: row, row },
        };
        let rows: Vec<_> = (from..to).map(numbered).collect();
        self.generator.rows(&self.projection, &self.schema, &rows)
    }
}

struct GeneratedSource {
    rows: Arc<Projected>,
    supply: Supply,
    stamp: String,
    ids: Vec<PartitionId>,
    /// When the first offer was made, and how many rows had been read before.
    pace: Mutex<Option<(i64, u64)>>,
    /// The last offer left out rows that were due.
    more: AtomicBool,
    clock: Arc<dyn Clock>,
}

impl Debug for GeneratedSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GeneratedSource").field("rows", &self.rows).field("supply", &self.supply).finish()
    }
}

impl GeneratedSource {
    fn pace(&self, read: u64) -> (i64, u64) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        *pace.get_or_insert_with(|| (self.clock.now_us(), read))
    }

    /// Rows, over all partitions, that may have been read by now.
    fn due(&self, read: u64) -> u64 {
        let all = self.supply.rows.unwrap_or(u64::MAX);
        let Some(rate) = self.supply.rows_per_second else { return all };
        let (began, before) = self.pace(read);
        let seconds = self.clock.now_us().saturating_sub(began).max(0) as f64 / 1e6;
        all.min(before.saturating_add((seconds * rate) as u64).saturating_add(1))
    }

    fn partition(&self, id: &PartitionId) -> Result<u64> {
        let found = id.as_str().parse().ok().filter(|p| *p < self.supply.partitions);
        found.ok_or_else(|| {
            Error::input(format!(
                "a batch recorded rows of partition {id}, but the generator has {} partitions: set the option \
                 'partitions' as it was, or start the query anew with another state directory",
                self.supply.partitions
            ))
        })
    }
}

#[async_trait]
impl Source for GeneratedSource {
    fn schema(&self) -> SchemaRef {
        self.rows.schema.clone()
    }

    fn boundedness(&self) -> Boundedness {
        let ends = self.supply.rows.is_some() && !self.supply.stays_open;
        if ends { Boundedness::Bounded } else { Boundedness::Followed }
    }

    async fn offer(&self, from: &Positions, limit: Limit) -> Result<Offer> {
        let at = |id: &PartitionId| from.get(id).map_or(0, |p| p.offset);
        let due = self.due(self.ids.iter().map(at).sum());
        let bounded = self.boundedness() == Boundedness::Bounded;
        let mut left = limit.rows.min(limit.bytes / self.rows.generator.row_bytes().max(1)).max(1);
        let mut offer = Offer { closed: true, lag: Some(0), partitions: self.ids.clone(), ..Offer::default() };
        let mut more = false;
        // The partition that is furthest behind comes first, so that a small limit is fair.
        let mut order: Vec<_> = (0..).zip(&self.ids).map(|(p, id)| (at(id), p, id)).collect();
        order.sort_by_key(|(at, p, _)| (*at, *p));
        let count = order.len() as u64;
        for (i, (at, p, id)) in (0..).zip(order) {
            let share = left.div_ceil(count - i);
            let there = self.supply.rows_of(p, due);
            let end = there.min(at.saturating_add(share)).max(at);
            left -= end - at;
            more |= end < there;
            offer.lag = offer.lag.map(|lag| lag.saturating_add(there.saturating_sub(end)));
            if end > at {
                let position = |offset| Position { offset, row: offset };
                let (start, end) = (position(at), position(end));
                offer.ranges.push(Range { partition: id.clone(), start, end, stamp: self.stamp.clone(), lost: 0 });
            }
            if bounded && self.supply.rows.is_some_and(|all| end >= self.supply.rows_of(p, all)) {
                offer.finished.push(id.clone());
            }
        }
        if self.supply.rows_per_second.is_none() && self.supply.rows.is_none() {
            offer.lag = None;
        }
        offer.ranges.sort_by_key(|r| self.ids.iter().position(|id| *id == r.partition));
        self.more.store(more, Ordering::Release);
        Ok(offer)
    }

    async fn open(&self, range: &Range) -> Result<ChunkStream> {
        let partition = self.partition(&range.partition)?;
        if range.stamp != self.stamp {
            return Err(Error::input(format!(
                "the options of the generator changed under rows {} to {} of partition {partition} that a batch \
                 recorded: set them as they were, or start the query anew with another state directory",
                range.start.offset, range.end.offset
            )));
        }
        let (rows, end) = (self.rows.clone(), range.end.offset);
        let chunks = futures::stream::try_unfold(range.start.offset, move |at| {
            let rows = rows.clone();
            async move {
                let to = end.min(at.saturating_add(CHUNK_ROWS));
                if at >= to { Ok(None) } else { rows.chunk(partition, at, to).map(|chunk| Some((chunk, to))) }
            }
        });
        Ok(Box::pin(chunks))
    }

    async fn ready(&self) {
        if self.more.load(Ordering::Acquire) {
            return;
        }
        let Some(rate) = self.supply.rows_per_second else {
            // Without a rate everything is due at once: there will never be more.
            return std::future::pending().await;
        };
        let (began, _) = self.pace(0);
        let rows = self.clock.now_us().saturating_sub(began).max(0) as f64 / 1e6 * rate;
        let wait = Duration::try_from_secs_f64((rows.floor() + 1.0 - rows) / rate).unwrap_or(Duration::MAX);
        self.clock.sleep(wait.max(SLEEP_MIN)).await;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::AtomicI64;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Field, Schema};
    use futures::TryStreamExt;
    use millstream_core::ErrorKind;
    use millstream_testkit::conformance;

    use super::*;

    /// All chunks of all rows of a table.
    pub(in super::super) async fn read(table: &dyn SourceTable, projection: &[usize]) -> Vec<Chunk> {
        let source = table.source(projection).unwrap();
        let limit = Limit { rows: u64::MAX, bytes: u64::MAX };
        let offer = source.offer(&Positions::new(), limit).await.unwrap();
        let mut chunks = Vec::new();
        for range in &offer.ranges {
            chunks.extend(source.open(range).await.unwrap().try_collect::<Vec<_>>().await.unwrap());
        }
        chunks
    }

    #[derive(Debug)]
    struct Numbers;

    impl Generator for Numbers {
        fn identity(&self) -> String {
            "numbers".into()
        }

        fn schema(&self) -> SchemaRef {
            Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
        }

        fn row_bytes(&self) -> u64 {
            8
        }

        fn rows(&self, _: &[usize], schema: &SchemaRef, rows: &[Numbered]) -> Result<Chunk> {
            let values = Int64Array::from_iter_values(rows.iter().map(|r| r.number as i64));
            let rows_ = RecordBatch::try_new(schema.clone(), vec![Arc::new(values) as ArrayRef])?;
            Ok(Chunk { rows: rows_, places: rows.iter().map(|r| r.place).collect(), rejected: vec![], raw: None })
        }
    }

    #[derive(Debug, Default)]
    struct Stopped(AtomicI64);

    #[async_trait]
    impl Clock for Stopped {
        fn now_us(&self) -> i64 {
            self.0.load(Ordering::SeqCst)
        }

        fn elapsed(&self) -> Duration {
            Duration::from_micros(self.0.load(Ordering::SeqCst) as u64)
        }

        async fn sleep(&self, duration: Duration) {
            self.0.fetch_add(duration.as_micros() as i64, Ordering::SeqCst);
        }
    }

    fn supply(rows: Option<u64>, rate: Option<f64>, partitions: u64) -> Supply {
        Supply { rows, rows_per_second: rate, stays_open: false, partitions }
    }

    const ALL: Limit = Limit { rows: u64::MAX, bytes: u64::MAX };

    #[tokio::test]
    async fn a_bounded_generator_keeps_the_promises_of_a_source() {
        for (rows, partitions) in [(0, 1), (1, 3), (103, 3), (8_200, 1)] {
            let expected = conformance::source::Expected { rows: Some(rows), rejected: Some(0) };
            let fresh = || GeneratedTable::new(Numbers, supply(Some(rows), None, partitions)).source(&[0]);
            conformance::source::check(fresh, expected).await.unwrap();
        }
    }

    #[tokio::test]
    async fn rows_become_due_with_the_clock_and_go_on_from_where_they_were() {
        let clock = Arc::new(Stopped::default());
        let table = GeneratedTable::new(Numbers, supply(None, Some(100.0), 2));
        let source = table.source_at(&[0], table.supply, clock.clone()).unwrap();
        let position = |offset| Position { offset, row: offset };
        let mut at = Positions::from([("0".into(), position(500)), ("1".into(), position(500))]);
        let offer = source.offer(&at, ALL).await.unwrap();
        assert_eq!(offer.ranges.len(), 1, "the first row is due at once");
        clock.0.store(1_000_000, Ordering::SeqCst);
        let offer = source.offer(&at, ALL).await.unwrap();
        assert_eq!(offer.ranges.iter().map(|r| r.end.offset - 500).collect::<Vec<_>>(), [51, 50]);
        at.extend(offer.ranges.into_iter().map(|r| (r.partition, r.end)));
        assert!(source.offer(&at, ALL).await.unwrap().ranges.is_empty());
        source.ready().await;
        assert_eq!(source.offer(&at, ALL).await.unwrap().ranges.len(), 1);
        assert_eq!(clock.0.load(Ordering::SeqCst), 1_010_000);
    }

    #[tokio::test]
    async fn read_at_once_every_row_is_due_and_is_the_row_that_a_paced_reading_gives() {
        let table = GeneratedTable::new(Numbers, supply(Some(1000), Some(1.0), 1));
        let (at_once, paced) = (table.source_at_once(&[0]).unwrap(), table.source(&[0]).unwrap());
        let offer = at_once.offer(&Positions::new(), ALL).await.unwrap();
        assert_eq!((offer.ranges[0].end.offset, offer.finished.len()), (1000, 1));
        assert!(paced.open(&offer.ranges[0]).await.is_ok());
    }

    #[tokio::test]
    async fn other_options_under_a_recorded_range_are_an_error() {
        let table = GeneratedTable::new(Numbers, supply(Some(9), None, 3));
        let source = table.source(&[0]).unwrap();
        let mut range = source.offer(&Positions::new(), ALL).await.unwrap().ranges.remove(2);
        let fewer = GeneratedTable::new(Numbers, supply(Some(9), None, 2)).source(&[0]).unwrap();
        assert_eq!(fewer.open(&range).await.err().unwrap().kind(), ErrorKind::Input);
        range.stamp = "0".into();
        assert_eq!(source.open(&range).await.err().unwrap().kind(), ErrorKind::Input);
    }
}
