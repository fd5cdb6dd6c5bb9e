//! Generated rows with everything that is awkward in them, and a source that cuts them at random.

use std::sync::{Arc, Mutex};

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, ListArray, RecordBatch, StringViewArray,
    TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use millstream::changelog::with_weight;
use millstream::core::batch::{PartitionId, Place, Position, Positions, Range};
use millstream::core::source::{Boundedness, Chunk, ChunkStream, Limit, Offer, Source, SourceTable};

use crate::yardstick::Random;

/// How the rows of a table come and go.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Kind {
    /// They only come.
    #[default]
    Rows,
    /// Some are taken away again, as a whole.
    Changes,
    /// Each takes the place of the one that was there at its time, which is the PRIMARY KEY, or takes it away.
    Upserts,
}

impl Kind {
    /// What its CREATE TABLE says behind the columns.
    pub fn constraint(self) -> &'static str {
        if self == Self::Upserts { ", PRIMARY KEY (ts) NOT ENFORCED" } else { "" }
    }
}

/// The columns of every generated table, and whether the row comes.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub k: Option<&'static str>,
    pub n: Option<i64>,
    pub x: Option<f64>,
    pub d: Option<i128>,
    pub b: Option<bool>,
    pub l: Option<Vec<Option<i64>>>,
    pub ts_ms: i64,
    pub goes: bool,
}

const START_MS: i64 = 1_577_836_800_000;

pub const SQL: &str = "k VARCHAR, n BIGINT, x DOUBLE, d DECIMAL(12, 2), b BOOLEAN, l ARRAY<BIGINT>, ts TIMESTAMP(3)";

pub fn schema(kind: Kind) -> SchemaRef {
    let item = Arc::new(Field::new("item", DataType::Int64, true));
    let rows = Schema::new(vec![
        Field::new("k", DataType::Utf8View, true),
        Field::new("n", DataType::Int64, true),
        Field::new("x", DataType::Float64, true),
        Field::new("d", DataType::Decimal128(12, 2), true),
        Field::new("b", DataType::Boolean, true),
        Field::new("l", DataType::List(item), true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Millisecond, None), true),
    ]);
    if kind == Kind::Rows { Arc::new(rows) } else { with_weight(&rows) }
}

pub fn batch(rows: &[Row], kind: Kind) -> RecordBatch {
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|r| r.k).collect::<StringViewArray>()),
        Arc::new(rows.iter().map(|r| r.n).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| r.x).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|r| r.d).collect::<Decimal128Array>().with_precision_and_scale(12, 2).unwrap()),
        Arc::new(rows.iter().map(|r| r.b).collect::<BooleanArray>()),
        Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(rows.iter().map(|r| r.l.clone()))),
        Arc::new(rows.iter().map(|r| Some(r.ts_ms)).collect::<TimestampMillisecondArray>()),
    ];
    if kind != Kind::Rows {
        columns.push(Arc::new(rows.iter().map(|r| if r.goes { -1 } else { 1 }).collect::<Int64Array>()));
    }
    RecordBatch::try_new(schema(kind), columns).unwrap()
}

/// The partitions of a table: ties, nulls, NaN, empty strings, disorder within and beyond the delay.
pub fn partitions(random: &mut Random, kind: Kind) -> Vec<Vec<Row>> {
    let partitions = 1 + random.below(3) as i64;
    (0..partitions)
        .map(|partition| {
            let most = *random.pick(&[8, 25, 60]);
            let rows = random.below(most);
            let mut clock_ms = START_MS + random.below(20_000) as i64;
            let mut there: Vec<Row> = vec![];
            (0..rows)
                .map(|_| {
                    clock_ms += random.below(1_500) as i64;
                    let come = row(random, clock_ms);
                    match kind {
                        Kind::Rows => come,
                        Kind::Changes => change(random, &mut there, come),
                        // A key is in one partition: between partitions nothing says which row is the later one.
                        Kind::Upserts => {
                            let ts_ms = START_MS + random.below(12) as i64 * 1_000 + partition;
                            Row { ts_ms, goes: random.one_in(4), ..come }
                        }
                    }
                })
                .collect()
        })
        .collect()
}

/// A row that comes, or one that goes again.
fn change(random: &mut Random, there: &mut Vec<Row>, come: Row) -> Row {
    if !there.is_empty() && random.one_in(3) {
        let gone = there.swap_remove(random.below(there.len() as u64) as usize);
        return Row { goes: true, ..gone };
    }
    there.push(come.clone());
    come
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
        goes: false,
    }
}

/// What a table holds at the moment, and how its offers are cut.
#[derive(Debug)]
pub struct Content {
    pub partitions: Vec<RecordBatch>,
    pub random: Random,
    /// Rows at the most that an offer takes of a partition; `None`: everything at once.
    pub rows_max: Option<u64>,
}

/// A table in memory whose offers are cut at random. What is in it can be changed between two runs.
#[derive(Clone, Debug)]
pub struct CutTable {
    pub kind: Kind,
    pub content: Arc<Mutex<Content>>,
}

impl CutTable {
    pub fn new(kind: Kind) -> Self {
        let content = Content { partitions: vec![], random: Random::new(0), rows_max: None };
        Self { kind, content: Arc::new(Mutex::new(content)) }
    }
}

impl SourceTable for CutTable {
    fn schema(&self) -> SchemaRef {
        schema(self.kind)
    }

    fn source(&self, projection: &[usize]) -> millstream::Result<Arc<dyn Source>> {
        let schema = Arc::new(schema(self.kind).project(projection).unwrap());
        Ok(Arc::new(CutSource { content: Arc::clone(&self.content), schema, projection: projection.to_vec() }))
    }
}

#[derive(Debug)]
struct CutSource {
    content: Arc<Mutex<Content>>,
    schema: SchemaRef,
    projection: Vec<usize>,
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
        let Content { partitions, random, rows_max } = &mut *self.content.lock().unwrap();
        let mut offer = Offer { closed: true, ..Offer::default() };
        let mut left = limit.rows;
        for (i, rows) in partitions.iter().enumerate() {
            let id = PartitionId::from(format!("p{i}"));
            let start = from.get(&id).copied().unwrap_or_default();
            let there = rows.num_rows() as u64 - start.offset;
            let take = match *rows_max {
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
        let rows = self.content.lock().unwrap().partitions[index].slice(start as usize, (end - start) as usize);
        let rows = rows.project(&self.projection).unwrap();
        let places = (start..end).map(|offset| Place { offset, row: offset }).collect();
        Ok(Box::pin(futures::stream::iter([Ok(Chunk { rows, places, rejected: vec![], raw: None })])))
    }
}
