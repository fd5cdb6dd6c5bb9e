//! The edge of a source: which rows take part in the answer, and why the others do not.
//!
//! Every row is judged once, by its own event time, its partition's watermark before it and the frontier
//! that its batch's intent recorded. Neither the cut into batches nor the number of threads has a say.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use datafusion::physical_plan::PhysicalExpr;
use millstream_core::Result;
use millstream_core::batch::{DropKind, Dropped, PartitionId, Place};
use millstream_core::source::Chunk;

use super::row_error;
use crate::plan::LateBound;

/// The event time of a source's rows.
#[derive(Clone, Debug)]
pub struct EventTime {
    /// The column's name, for messages.
    pub column: String,
    /// The event time of a row, over the columns that are read.
    pub expr: Arc<dyn PhysicalExpr>,
    /// The watermark is the largest event time minus this, in microseconds.
    pub delay_us: i64,
}

/// What a source's rows are judged by.
#[derive(Clone, Debug)]
pub struct Edge {
    /// The source's name in the query.
    pub source: String,
    /// The event time, where the table declares a watermark.
    pub event_time: Option<EventTime>,
    /// When a row is late.
    pub bound: LateBound,
    /// An event time further ahead of the batch time than this is rejected: one bad clock must not make
    /// everything else late. In microseconds.
    pub ahead_us_max: i64,
}

/// The rows of one partition in one batch, as they are judged one chunk after the other.
pub struct Gate<'a> {
    /// The rules.
    pub edge: &'a Edge,
    /// The partition.
    pub partition: &'a PartitionId,
    /// The partition's watermark so far.
    pub watermark: Option<i64>,
    /// The frontier before the batch.
    pub frontier: Option<i64>,
    /// The batch time.
    pub time_us: i64,
    /// Rows of the partition that are left out because an expression fails on them, by place.
    pub left_out: HashMap<Place, &'a Dropped>,
}

/// A judged chunk.
pub struct Judged {
    /// The rows that are used.
    pub rows: RecordBatch,
    /// Their places.
    pub places: Vec<Place>,
    /// The others.
    pub dropped: Vec<Dropped>,
}

enum Verdict {
    Used,
    Rejected(String),
    Late(String),
}

impl Gate<'_> {
    /// Judges a chunk's rows, in order.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Row`] where the event time can't be computed.
    pub fn judge(&mut self, chunk: Chunk) -> Result<Judged> {
        let Chunk { rows, places, rejected } = chunk;
        let mut dropped: Vec<Dropped> = rejected
            .into_iter()
            .map(|r| {
                let raw = String::from_utf8_lossy(&r.raw).into_owned();
                self.dropped(DropKind::Rejected, r.place, r.reason, raw)
            })
            .collect();
        // Rows that are left out go first: the event time of one of them may be what fails.
        let (rows, places) = self.leave_out(rows, places, &mut dropped)?;
        let Some(times) = self.times(&rows)? else { return Ok(Judged { rows, places, dropped }) };
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let mut keep: Option<Vec<bool>> = None;
        for (row, place) in places.iter().enumerate() {
            let verdict = self.verdict(times.is_valid(row).then(|| times.value(row)));
            let (kind, reason) = match verdict {
                Verdict::Used => continue,
                Verdict::Rejected(reason) => (DropKind::Rejected, reason),
                Verdict::Late(reason) => (DropKind::Late, reason),
            };
            keep.get_or_insert_with(|| vec![true; rows.num_rows()])[row] = false;
            dropped.push(self.dropped(kind, *place, reason, as_json(&rows, row)));
        }
        let Some(keep) = keep else { return Ok(Judged { rows, places, dropped }) };
        let places = places.into_iter().zip(&keep).filter(|(_, keep)| **keep).map(|(place, _)| place).collect();
        let rows = filter_record_batch(&rows, &BooleanArray::from(keep))?;
        dropped.sort_by_key(|d| d.place);
        Ok(Judged { rows, places, dropped })
    }

    fn verdict(&mut self, time_us: Option<i64>) -> Verdict {
        let Some(event_time) = &self.edge.event_time else { return Verdict::Used };
        let Some(time_us) = time_us else {
            return Verdict::Rejected(format!("the event time {} is NULL", event_time.column));
        };
        if time_us > self.time_us.saturating_add(self.edge.ahead_us_max) {
            let (at, now) = (show(time_us), show(self.time_us));
            return Verdict::Rejected(format!(
                "the event time {} = {at} is too far ahead of the clock, {now}",
                event_time.column
            ));
        }
        let passed = self.watermark.max(self.frontier);
        let late = self.edge.bound.is_some() && passed.is_some_and(|passed| self.edge.bound.of(time_us) <= passed);
        self.watermark = self.watermark.max(Some(time_us.saturating_sub(event_time.delay_us)));
        if !late {
            return Verdict::Used;
        }
        let (at, passed) = (show(time_us), show(passed.unwrap_or_default()));
        Verdict::Late(format!("the event time {} = {at} came when the watermark was {passed}", event_time.column))
    }

    fn leave_out(
        &self,
        rows: RecordBatch,
        places: Vec<Place>,
        dropped: &mut Vec<Dropped>,
    ) -> Result<(RecordBatch, Vec<Place>)> {
        if self.left_out.is_empty() || !places.iter().any(|p| self.left_out.contains_key(p)) {
            return Ok((rows, places));
        }
        let keep: Vec<bool> = places.iter().map(|p| !self.left_out.contains_key(p)).collect();
        dropped.extend(places.iter().filter_map(|p| self.left_out.get(p)).map(|d| (*d).clone()));
        let places = places.into_iter().zip(&keep).filter(|(_, keep)| **keep).map(|(place, _)| place).collect();
        Ok((filter_record_batch(&rows, &BooleanArray::from(keep))?, places))
    }

    fn times(&self, rows: &RecordBatch) -> Result<Option<Arc<dyn Array>>> {
        let Some(event_time) = &self.edge.event_time else { return Ok(None) };
        let values = event_time.expr.evaluate(rows).and_then(|v| v.into_array(rows.num_rows())).map_err(row_error)?;
        let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
        // The zone is a way of showing a timestamp; the instant is the same without.
        let plain = match values.data_type() {
            DataType::Timestamp(unit, Some(_)) => cast(&values, &DataType::Timestamp(*unit, None))?,
            _ => values,
        };
        Ok(Some(if plain.data_type() == &micros { plain } else { cast(&plain, &micros)? }))
    }

    fn dropped(&self, kind: DropKind, place: Place, reason: String, raw: String) -> Dropped {
        let (source, partition) = (self.edge.source.clone(), self.partition.clone());
        Dropped { kind, source, partition, place, reason, raw }
    }
}

/// The rows of a batch that are left out, by source and partition.
pub fn left_out_of<'a>(left_out: &'a [Dropped], source: &str, partition: &PartitionId) -> HashMap<Place, &'a Dropped> {
    let of_partition = left_out.iter().filter(|d| d.source == source && d.partition == *partition);
    of_partition.map(|d| (d.place, d)).collect()
}

/// A row as one JSON object.
pub fn as_json(rows: &RecordBatch, row: usize) -> String {
    let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
    let written = writer.write(&rows.slice(row, 1)).and_then(|()| writer.finish());
    match written {
        Ok(()) => String::from_utf8_lossy(&writer.into_inner()).trim_end().to_string(),
        Err(error) => format!("(the row can't be shown: {error})"),
    }
}

/// An instant as a person reads it.
pub fn show(time_us: i64) -> String {
    match chrono::DateTime::from_timestamp_micros(time_us) {
        Some(time) => time.format("%Y-%m-%d %H:%M:%S%.f").to_string(),
        None => format!("{time_us} us"),
    }
}
