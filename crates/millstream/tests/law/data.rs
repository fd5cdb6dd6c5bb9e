//! Generated rows with everything that is awkward in them, and a source that cuts them at random.

use std::sync::{Arc, Mutex};

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, ListArray, RecordBatch, StringViewArray,
    TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use millstream::core::batch::{PartitionId, Place, Position, Positions, Range};
use millstream::core::source::{Boundedness, Chunk, ChunkStream, Limit, Offer, Source, SourceTable};

use crate::yardstick::Random;

/// The columns of every generated table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub k: Option<&'static str>,
    pub n: Option<i64>,
    pub x: Option<f64>,
    pub d: Option<i128>,
    pub b: Option<bool>,
    pub l: Option<Vec<Option<i64>>>,
    pub ts_ms: i64,
}

pub const SQL: &str = "k VARCHAR, n BIGINT, x DOUBLE, d DECIMAL(12, 2), b BOOLEAN, l ARRAY<BIGINT>, ts TIMESTAMP(3)";

pub fn schema() -> SchemaRef {
    let item = Arc::new(Field::new("item", DataType::Int64, true));
    Arc::new(Schema::new(vec![
        Field::new("k", DataType::Utf8View, true),
        Field::new("n", DataType::Int64, true),
        Field::new("x", DataType::Float64, true),
        Field::new("d", DataType::Decimal128(12, 2), true),
        Field::new("b", DataType::Boolean, true),
        Field::new("l", DataType::List(item), true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Millisecond, None), true),
    ]))
}

pub fn batch(rows: &[Row]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|r| r.k).collect::<StringViewArray>()),
        Arc::new(rows.iter().map(|r| r.n).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| r.x).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|r| r.d).collect::<Decimal128Array>().with_precision_and_scale(12, 2).unwrap()),
        Arc::new(rows.iter().map(|r| r.b).collect::<BooleanArray>()),
        Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(rows.iter().map(|r| r.l.clone()))),
        Arc::new(rows.iter().map(|r| Some(r.ts_ms)).collect::<TimestampMillisecondArray>()),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// The partitions of a table: ties, nulls, NaN, empty strings, disorder within and beyond the delay.
pub fn partitions(random: &mut Random) -> Vec<Vec<Row>> {
    let partitions = 1 + random.below(3);
    (0..partitions)
        .map(|_| {
            let rows = random.below(60);
            let mut clock_ms = 1_577_836_800_000 + random.below(20_000) as i64;
            (0..rows)
                .map(|_| {
                    clock_ms += random.below(1_500) as i64;
                    row(random, clock_ms)
                })
                .collect()
        })
        .collect()
}

fn row(random: &mut Random, clock_ms: i64) -> Row {
    let behind = match random.below(10) {
        0..6 => 0,
        6..9 => random.below(4_000) as i64,
        _ => random.below(40_000) as i64,
    };
    let keys = ["", "a", "b", "a longer key that is no inline view", "ä"];
    let floats = [0.0, -0.0, 1.5, -2.25, f64::NAN, f64::INFINITY, 1e300, 0.1];
    let list = (0..random.below(4)).map(|_| (!random.one_in(5)).then(|| random.below(5) as i64)).collect();
    Row {
        k: (!random.one_in(8)).then(|| *random.pick(&keys)),
        n: (!random.one_in(8)).then(|| random.below(7) as i64 - 3),
        x: (!random.one_in(8)).then(|| *random.pick(&floats)),
        d: (!random.one_in(8)).then(|| i128::from(random.below(100_000)) - 50_000),
        b: (!random.one_in(8)).then(|| random.one_in(2)),
        l: (!random.one_in(8)).then_some(list),
        ts_ms: clock_ms - behind,
    }
}

/// A table in memory whose offers are cut by a seed.
#[derive(Debug)]
pub struct CutTable {
    pub partitions: Arc<Vec<RecordBatch>>,
    pub seed: u64,
    /// Rows at the most that an offer takes of a partition; `None`: everything at once.
    pub rows_max: Option<u64>,
}

impl SourceTable for CutTable {
    fn schema(&self) -> SchemaRef {
        schema()
    }

    fn source(&self, projection: &[usize]) -> millstream::Result<Arc<dyn Source>> {
        let partitions = self.partitions.iter().map(|p| p.project(projection).unwrap()).collect();
        let schema = Arc::new(schema().project(projection).unwrap());
        let random = Mutex::new(Random::new(self.seed));
        Ok(Arc::new(CutSource { partitions, schema, random, rows_max: self.rows_max }))
    }
}

#[derive(Debug)]
struct CutSource {
    partitions: Vec<RecordBatch>,
    schema: SchemaRef,
    random: Mutex<Random>,
    rows_max: Option<u64>,
}

#[async_trait]
impl Source for CutSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn boundedness(&self) -> Boundedness {
        Boundedness::Bounded
    }

    async fn offer(&self, from: &Positions, limit: Limit) -> millstream::Result<Offer> {
        let mut random = self.random.lock().unwrap();
        let mut offer = Offer { closed: true, ..Offer::default() };
        let mut left = limit.rows;
        for (i, rows) in self.partitions.iter().enumerate() {
            let id = PartitionId::from(format!("p{i}"));
            let start = from.get(&id).copied().unwrap_or_default();
            let there = rows.num_rows() as u64 - start.offset;
            let take = match self.rows_max {
                None => there,
                // Some partitions are not read in this round, but one always is.
                Some(max) => random.below(max + 1).max(u64::from(offer.ranges.is_empty())),
            };
            let take = take.min(there).min(left);
            left -= take;
            let end = Position { offset: start.offset + take, row: start.row + take };
            if take > 0 {
                offer.ranges.push(Range { partition: id.clone(), start, end, stamp: String::new(), lost: 0 });
            }
            if end.offset == rows.num_rows() as u64 {
                offer.finished.push(id.clone());
            }
            offer.partitions.push(id);
        }
        Ok(offer)
    }

    async fn open(&self, range: &Range) -> millstream::Result<ChunkStream> {
        let index: usize = range.partition.as_str()[1..].parse().unwrap();
        let (start, end) = (range.start.offset, range.end.offset);
        let rows = self.partitions[index].slice(start as usize, (end - start) as usize);
        let places = (start..end).map(|offset| Place { offset, row: offset }).collect();
        Ok(Box::pin(futures::stream::iter([Ok(Chunk { rows, places, rejected: vec![], raw: None })])))
    }
}
