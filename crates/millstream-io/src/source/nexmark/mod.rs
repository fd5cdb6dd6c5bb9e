//! The Nexmark generator: people, auctions and bids of an auction house.
//!
//! It follows the published generator for Flink (<https://github.com/nexmark/nexmark>, `nexmark-flink`,
//! `NexmarkConfiguration`, `GeneratorConfig` and the `generator.model` package, read at commit 6b3646c) in
//! its ids, proportions, distributions and options. The original draws from one sequence of random numbers,
//! started anew in every run; here each event is a function of the seed and its number, so that the numbers
//! differ, but not what they are distributed like. The base time is fixed instead of the wall clock's.
//!
//! | option | |
//! |---|---|
//! | `first-event.rate` | events in a second of event time; default 10000. As in the original, `next-event.rate`, `rate.shape`, `rate.period` and `rate.limited` are taken, but change nothing |
//! | `events.num` | default 0: no end |
//! | `stop-at` | end after so many events all the same; default -1: don't |
//! | `keep-alive` | after the last event wait for ever; default false |
//! | `max-emit-speed` | as fast as can be (default), or as the event times say |
//! | `person.proportion`, `auction.proportion`, `bid.proportion` | default 1, 3, 46 |
//! | `person.avg-size`, `auction.avg-size`, `bid.avg-size` | about how many bytes; default 200, 500, 100 |
//! | `bid.hot-ratio.auctions`, `bid.hot-ratio.bidders`, `auction.hot-ratio.sellers` | all but one in so many go to the hot ones; default 2, 4, 4 |
//! | `seed`, `partitions`, `base-time` | not in the original; default 0, 1 and `2026-01-01 00:00:00` |

mod events;
mod model;
mod text;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int32Array, RecordBatch, RecordBatchOptions, StringArray};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit, TimestampMillisecondType};
use millstream_core::source::{Chunk, SourceTable};
use millstream_core::{Error, Result};

use super::generated::{GeneratedTable, Generator, Numbered, Supply, partitions};
use crate::options::nearest;
use crate::{Options, TableSpec};
use model::{EventKind, Model};

const MILLIS: DataType = DataType::Timestamp(TimeUnit::Millisecond, None);

/// The columns as they are published, without the computed one.
pub fn schema() -> SchemaRef {
    let field = |name: &str, data_type: DataType| Field::new(name, data_type, true);
    let columns = [EventKind::Person, EventKind::Auction, EventKind::Bid];
    let mut fields = vec![field("event_type", DataType::Int32)];
    fields.extend(columns.into_iter().map(|kind| field(kind.column(), DataType::Struct(fields_of(kind)))));
    Arc::new(Schema::new(fields))
}

fn fields_of(kind: EventKind) -> Fields {
    let fields: &[(&str, DataType)] = match kind {
        EventKind::Person => &[
            ("id", DataType::Int64),
            ("name", DataType::Utf8),
            ("emailAddress", DataType::Utf8),
            ("creditCard", DataType::Utf8),
            ("city", DataType::Utf8),
            ("state", DataType::Utf8),
            ("dateTime", MILLIS),
            ("extra", DataType::Utf8),
        ],
        EventKind::Auction => &[
            ("id", DataType::Int64),
            ("itemName", DataType::Utf8),
            ("description", DataType::Utf8),
            ("initialBid", DataType::Int64),
            ("reserve", DataType::Int64),
            ("dateTime", MILLIS),
            ("expires", MILLIS),
            ("seller", DataType::Int64),
            ("category", DataType::Int64),
            ("extra", DataType::Utf8),
        ],
        EventKind::Bid => &[
            ("auction", DataType::Int64),
            ("bidder", DataType::Int64),
            ("price", DataType::Int64),
            ("channel", DataType::Utf8),
            ("url", DataType::Utf8),
            ("dateTime", MILLIS),
            ("extra", DataType::Utf8),
        ],
    };
    fields.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true)).collect()
}

/// The table that the options describe.
pub(super) fn table(spec: &TableSpec) -> Result<Arc<dyn SourceTable>> {
    let options = &spec.options;
    let model = model(options)?;
    for unused in ["rate.shape", "rate.period", "rate.limited", "next-event.rate"] {
        options.get(unused);
    }
    let events = options.parsed::<u64>("events.num")?.filter(|n| *n > 0);
    let stop_at = options.parsed::<i64>("stop-at")?.and_then(|n| u64::try_from(n).ok());
    let supply = Supply {
        rows: events.into_iter().chain(stop_at).min(),
        rows_per_second: (!options.parsed("max-emit-speed")?.unwrap_or(true)).then(|| model.rate()),
        stays_open: options.parsed("keep-alive")?.unwrap_or(false),
        partitions: partitions(options)?,
    };
    let published = schema();
    let columns = spec.schema.fields().iter().map(|field| column(&published, field)).collect::<Result<_>>()?;
    Ok(Arc::new(GeneratedTable::new(Nexmark { model, columns, schema: spec.schema.clone() }, supply)))
}

/// The published column that a declared one names.
fn column(published: &Schema, field: &Field) -> Result<Option<EventKind>> {
    let Ok(original) = published.field_with_name(field.name()) else {
        let near = nearest(field.name(), published.fields().iter().map(|f| f.name().as_str()));
        let hint = near.map(|n| format!("; did you mean '{n}'?")).unwrap_or_default();
        return Err(Error::config(format!(
            "nexmark has no column '{}': there are event_type, person, auction and bid{hint}",
            field.name()
        )));
    };
    if !arrow::compute::can_cast_types(original.data_type(), field.data_type()) {
        return Err(Error::config(format!(
            "nexmark's column '{}' is declared with another type than the published one: {}",
            field.name(),
            original.data_type()
        )));
    }
    Ok(EventKind::of_column(field.name()))
}

fn model(options: &Options) -> Result<Model> {
    let positive = |name: &str, default: u64| match options.parsed::<u64>(name)?.unwrap_or(default) {
        0 => Err(Error::config(format!("the option '{name}' is 0: give a number above"))),
        n => Ok(n),
    };
    let size = |name: &str, default: u64| {
        let Some(text) = options.get(name) else { return Ok(default) };
        let digits = text.trim().trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
        digits
            .parse()
            .map_err(|_| Error::config(format!("the option '{name}' = '{text}': write bytes, such as '200b'")))
    };
    let base_time_ms = match options.get("base-time") {
        None => 1_767_225_600_000,
        Some(text) => {
            let strict = CastOptions { safe: false, ..CastOptions::default() };
            let time = cast_with_options(&StringArray::from(vec![text]), &MILLIS, &strict);
            let time = time.map_err(|e| Error::config(format!("the option 'base-time' = '{text}'")).caused_by(e))?;
            time.as_primitive::<TimestampMillisecondType>().value(0)
        }
    };
    Ok(Model {
        seed: options.parsed("seed")?.unwrap_or(0),
        base_time_ms,
        delay_us: 1e6 / positive("first-event.rate", 10_000)? as f64,
        people: positive("person.proportion", 1)?,
        auctions: positive("auction.proportion", 3)?,
        bids: options.parsed("bid.proportion")?.unwrap_or(46),
        person_bytes: size("person.avg-size", 200)?,
        auction_bytes: size("auction.avg-size", 500)?,
        bid_bytes: size("bid.avg-size", 100)?,
        hot_auctions: positive("bid.hot-ratio.auctions", 2)?,
        hot_bidders: positive("bid.hot-ratio.bidders", 4)?,
        hot_sellers: positive("auction.hot-ratio.sellers", 4)?,
    })
}

#[derive(Debug)]
struct Nexmark {
    model: Model,
    /// Of each declared column the event it holds; `None` for the event type.
    columns: Vec<Option<EventKind>>,
    schema: SchemaRef,
}

impl Generator for Nexmark {
    fn identity(&self) -> String {
        format!("{:?}", self.model)
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn row_bytes(&self) -> u64 {
        self.model.bytes()
    }

    fn rows(&self, projection: &[usize], schema: &SchemaRef, rows: &[Numbered]) -> Result<Chunk> {
        let arrays = projection.iter().zip(schema.fields()).map(|(i, field)| {
            let array: ArrayRef = match self.columns.get(*i).copied().flatten() {
                None => Arc::new(Int32Array::from_iter_values(
                    rows.iter().map(|row| self.model.kind(self.model.event_id(row.number)) as i32),
                )),
                Some(EventKind::Person) => events::people(&self.model, rows, fields_of(EventKind::Person))?,
                Some(EventKind::Auction) => events::auctions(&self.model, rows, fields_of(EventKind::Auction))?,
                Some(EventKind::Bid) => events::bids(&self.model, rows, fields_of(EventKind::Bid))?,
            };
            Ok(if array.data_type() == field.data_type() { array } else { cast(&array, field.data_type())? })
        });
        let arrays = arrays.collect::<Result<Vec<_>>>()?;
        let count = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        Ok(Chunk {
            rows: RecordBatch::try_new_with_options(schema.clone(), arrays, &count)?,
            places: rows.iter().map(|r| r.place).collect(),
            rejected: Vec::new(),
            raw: None,
        })
    }
}
