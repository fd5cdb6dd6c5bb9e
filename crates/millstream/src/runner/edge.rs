//! The edge of a source: which rows take part in the answer, and why the others do not.
//!
//! Every row is judged once, by its own event time, its partition's watermark before it and the frontier
//! that its batch's intent recorded. Neither the cut into batches nor the number of threads has a say.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use millstream_core::batch::{DropKind, Dropped, PartitionId, Place};
use millstream_core::query::OnError;
use millstream_core::source::{Chunk, RawRows};
use millstream_core::{Error, Result};

use super::event_time::EventTime;
use crate::plan::LateBound;

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
    /// What is done about a row whose event time can't be computed.
    pub on_error: OnError,
    /// Rows of the partition that are left out because an expression fails on them.
    pub left_out: LeftOut<'a>,
}

/// A judged chunk.
pub struct Judged {
    /// The rows that are used.
    pub rows: RecordBatch,
    /// Their places.
    pub places: Vec<Place>,
    /// Which of the rows at their places they are, where some rows were left out.
    pub parts: Option<Vec<Option<u32>>>,
    /// The others.
    pub dropped: Vec<Dropped>,
    /// The records of all of them, where the source has them.
    pub raw: Option<Arc<dyn RawRows>>,
    /// Those dropped rows that the source has no record of: what is shown of them are the columns that are read.
    pub shown_in_part: Vec<Place>,
}

/// As much of a dropped row as is kept.
const RAW_BYTES_MAX: usize = 64 * 1024;

enum Verdict {
    Used,
    Rejected(String),
    Late(String),
}

impl Gate<'_> {
    /// Judges a chunk's rows, in order.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Row`] where an event time can't be computed and the query stops on errors.
    pub fn judge(&mut self, chunk: Chunk) -> Result<Judged> {
        let Chunk { rows, places, rejected, raw } = chunk;
        let mut dropped: Vec<Dropped> = rejected
            .into_iter()
            .map(|r| {
                let raw = String::from_utf8_lossy(&r.raw).into_owned();
                self.dropped(DropKind::Rejected, r.place, r.reason, raw)
            })
            .collect();
        // Rows that are left out go first: the event time of one of them may be what fails.
        let mut judged = Judged { rows, places, parts: None, dropped: vec![], raw, shown_in_part: vec![] };
        self.leave_out(&mut judged, &mut dropped)?;
        judged.dropped = dropped;
        let Some(times) = self.times(&judged.rows)? else { return Ok(judged) };
        let mut keep: Option<Vec<bool>> = None;
        for (row, (place, time)) in judged.places.iter().zip(times).enumerate() {
            let verdict = match time {
                Ok(time_us) => self.verdict(time_us),
                Err(error) => self.failed(*place, &error)?,
            };
            let (kind, reason) = match verdict {
                Verdict::Used => continue,
                Verdict::Rejected(reason) => (DropKind::Rejected, reason),
                Verdict::Late(reason) => (DropKind::Late, reason),
            };
            keep.get_or_insert_with(|| vec![true; judged.rows.num_rows()])[row] = false;
            let shown = raw_of(judged.raw.as_deref(), *place).unwrap_or_else(|| {
                judged.shown_in_part.push(*place);
                as_json(&judged.rows, row)
            });
            judged.dropped.push(self.dropped(kind, *place, reason, shown));
        }
        let Some(keep) = keep else { return Ok(judged) };
        // Which rows of their records they are is known before some of them go.
        let parts = judged.parts.take().unwrap_or_else(|| parts(&judged.places));
        judged.parts = Some(kept(parts, &keep));
        judged.places = kept(judged.places, &keep);
        judged.rows = filter_record_batch(&judged.rows, &BooleanArray::from(keep))?;
        judged.dropped.sort_by_key(|d| d.place);
        Ok(judged)
    }

    /// What becomes of a row whose event time can't be computed.
    fn failed(&self, place: Place, error: &Error) -> Result<Verdict> {
        let column = self.edge.event_time.as_ref().map_or("", |event_time| event_time.column.as_str());
        let reason = format!("the event time {column} can't be computed: {error}");
        if self.on_error == OnError::Stop {
            let Place { offset, row } = place;
            return Err(Error::row(format!(
                "source \"{}\", {}, row {row}, offset {offset}: {reason}. The query stops here because of 'on-error' = \
                 'stop': mend the row, guard the expression, or start with 'on-error' = 'reject'",
                self.edge.source, self.partition,
            )));
        }
        Ok(Verdict::Rejected(reason))
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

    fn leave_out(&self, judged: &mut Judged, dropped: &mut Vec<Dropped>) -> Result<()> {
        if self.left_out.0.is_empty() || !judged.places.iter().any(|place| self.left_out.0.contains_key(place)) {
            return Ok(());
        }
        let parts = parts(&judged.places);
        let left_out = judged.places.iter().zip(&parts).map(|(place, part)| self.left_out.of(*place, *part));
        let left_out: Vec<Option<&Dropped>> = left_out.collect();
        dropped.extend(left_out.iter().flatten().map(|row| (*row).clone()));
        let keep: Vec<bool> = left_out.iter().map(Option::is_none).collect();
        judged.parts = Some(kept(parts, &keep));
        judged.places = kept(std::mem::take(&mut judged.places), &keep);
        judged.rows = filter_record_batch(&judged.rows, &BooleanArray::from(keep))?;
        Ok(())
    }

    /// The event time of each row, or why it has none; nothing where the table has no event time.
    fn times(&self, rows: &RecordBatch) -> Result<Option<Vec<Result<Option<i64>>>>> {
        let Some(event_time) = &self.edge.event_time else { return Ok(None) };
        let mut times = Vec::with_capacity(rows.num_rows());
        event_time.each(rows, &mut times)?;
        Ok(Some(times))
    }

    fn dropped(&self, kind: DropKind, place: Place, reason: String, raw: String) -> Dropped {
        let (source, partition) = (self.edge.source.clone(), self.partition.clone());
        Dropped { kind, source, partition, place, part: None, reason, raw }
    }
}

impl Judged {
    /// Which of the rows at its place a row is, where there are several.
    pub fn part(&self, row: usize) -> Option<u32> {
        match &self.parts {
            Some(parts) => parts.get(row).copied().flatten(),
            None => parts(&self.places).get(row).copied().flatten(),
        }
    }
}

fn kept<T>(rows: Vec<T>, keep: &[bool]) -> Vec<T> {
    rows.into_iter().zip(keep).filter(|(_, keep)| **keep).map(|(row, _)| row).collect()
}

/// For each row, which of the rows at its place it is, where there are several: they follow each other.
fn parts(places: &[Place]) -> Vec<Option<u32>> {
    let part = |of: &[Place]| match of.len() {
        1 => vec![None],
        several => (0u32..).take(several).map(Some).collect(),
    };
    places.chunk_by(|a, b| a == b).flat_map(part).collect()
}

/// Rows of a partition that are left out, by place.
#[derive(Debug, Default)]
pub struct LeftOut<'a>(HashMap<Place, Vec<&'a Dropped>>);

impl<'a> LeftOut<'a> {
    /// Those of the rows that are of the partition.
    pub fn of_partition(left_out: &'a [Dropped], source: &str, partition: &PartitionId) -> Self {
        let mut found: HashMap<Place, Vec<&Dropped>> = HashMap::new();
        for row in left_out.iter().filter(|d| d.source == source && d.partition == *partition) {
            found.entry(row.place).or_default().push(row);
        }
        Self(found)
    }

    fn of(&self, place: Place, part: Option<u32>) -> Option<&'a Dropped> {
        self.0.get(&place)?.iter().copied().find(|row| row.part.is_none() || row.part == part)
    }
}

/// The record at a place as text, no more of it than is kept.
pub fn raw_of(raw: Option<&dyn RawRows>, place: Place) -> Option<String> {
    let bytes = raw?.raw(place)?;
    Some(String::from_utf8_lossy(bytes.get(..RAW_BYTES_MAX).unwrap_or(&bytes)).into_owned())
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
