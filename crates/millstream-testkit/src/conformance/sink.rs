//! The promises of [`millstream_core::sink::Sink`].

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use millstream_core::batch::BatchId;
use millstream_core::digest::Digest;
use millstream_core::sink::{Guarantee, Marker, Output, OutputKind, Owner, Permit, Sink};
use millstream_core::{Error, ErrorKind, Result};

use super::promise;

/// One storage that a sink writes to, and that a plain reader can read.
#[async_trait]
pub trait SinkStorage: Send + Sync {
    /// A sink over this storage, as another process would make it.
    fn sink(&self) -> Result<Box<dyn Sink>>;

    /// The column `id` of every row that a plain reader sees now, in any order. A reader that knows nothing of us:
    /// for a changelog it takes `+I` rows.
    async fn read(&self) -> Result<Vec<i64>>;

    /// What is written: [`schema`] of this kind.
    fn kind(&self) -> OutputKind {
        OutputKind::Append
    }
}

/// The columns that the suite writes: `id BIGINT NOT NULL, name TEXT`, after `op` in a changelog.
pub fn schema(kind: OutputKind) -> SchemaRef {
    let columns = vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8, true)];
    let op = (kind == OutputKind::Changelog).then(|| Field::new("op", DataType::Utf8, false));
    Arc::new(Schema::new(op.into_iter().chain(columns).collect::<Vec<_>>()))
}

/// An output of these ids, in batches of two rows.
pub fn output(kind: OutputKind, ids: std::ops::Range<i64>) -> Result<Output> {
    let schema = schema(kind);
    let ids: Vec<_> = ids.collect();
    let batches = ids.chunks(2).map(|ids| {
        let names = ids.iter().map(|id| (id % 3 != 0).then(|| format!("name, of \"{id}\"")));
        let op =
            (kind == OutputKind::Changelog).then(|| Arc::new(StringArray::from(vec!["+I"; ids.len()])) as ArrayRef);
        let columns: [ArrayRef; 2] =
            [Arc::new(Int64Array::from(ids.to_vec())), Arc::new(names.collect::<StringArray>())];
        RecordBatch::try_new(schema.clone(), op.into_iter().chain(columns).collect())
    });
    Ok(Output { batches: batches.collect::<std::result::Result<_, _>>()?, schema, kind })
}

/// Checks a sink. `fresh` makes new, empty storage.
///
/// Checked: a new storage has no marker; rows can be read when `publish` has returned; a sink that was dropped without
/// a word answers a marker from which everything can be published again, and has removed what lies beyond it; after
/// `flush` that marker is of the last batch; publishing goes on over batches without rows; an earlier owner is fenced;
/// another incarnation is not told this one's marker; nothing is ever seen twice by a reader of a sink that is exactly
/// or effectively once.
///
/// # Errors
/// The first broken promise, or what the sink itself answered.
pub async fn check<F>(fresh: F) -> Result<()>
where
    F: Fn() -> Result<Box<dyn SinkStorage>>,
{
    published_rows_are_read(&*fresh()?).await.map_err(|e| e.at("published rows"))?;
    for flushed in [Flushed::Yes, Flushed::No] {
        for after in 1..=BATCHES.len() {
            let place = format!("dropped after {after} batches, flushed: {flushed:?}");
            a_dropped_sink_is_taken_up(&*fresh()?, after, flushed).await.map_err(|e| e.at(place))?;
        }
    }
    a_republished_batch_is_seen_once(&*fresh()?).await.map_err(|e| e.at("published again"))?;
    an_earlier_owner_is_fenced(&*fresh()?).await.map_err(|e| e.at("two owners"))?;
    another_incarnation_is_another_query(&*fresh()?).await.map_err(|e| e.at("another incarnation"))
}

/// The batches that the suite publishes; 3 and 4 have no rows.
const BATCHES: [(u64, std::ops::Range<i64>); 5] = [(1, 0..3), (2, 3..8), (5, 8..9), (6, 9..300), (7, 300..302)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flushed {
    Yes,
    No,
}

fn owner(epoch: u64) -> Owner {
    Owner { query: "conformance".into(), incarnation: "5b2c7a52-4f2d-4c0e-9d53-0c9f6a1f6b11".into(), epoch }
}

async fn publish(storage: &dyn SinkStorage, sink: &mut dyn Sink, epoch: u64, n: usize) -> Result<Marker> {
    let Some((batch, ids)) = BATCHES.get(n).cloned() else { return Err(Error::bug("no such batch")) };
    let output = output(storage.kind(), ids)?;
    let marker = Marker { owner: owner(epoch), batch: BatchId(batch), digest: Digest::of(&output.batches)? };
    let previous = n.checked_sub(1).and_then(|n| BATCHES.get(n)).map(|(batch, _)| BatchId(*batch));
    sink.publish(&Permit::unchecked(marker.clone(), previous), &output).await?;
    Ok(marker)
}

/// The reader sees the first so many batches: exactly, or at least.
async fn reads(storage: &dyn SinkStorage, sink: &dyn Sink, batches: usize) -> Result<()> {
    let wanted: Vec<i64> = BATCHES.iter().take(batches).flat_map(|(_, ids)| ids.clone()).collect();
    let mut seen = BTreeMap::new();
    for id in storage.read().await? {
        *seen.entry(id).or_insert(0) += 1;
    }
    let missing: Vec<_> = wanted.iter().filter(|id| !seen.contains_key(id)).collect();
    promise(missing.is_empty(), "a reader sees what was published", || format!("ids {missing:?} are missing"))?;
    if sink.guarantee() == Guarantee::AtLeastOnce {
        return Ok(());
    }
    let more: Vec<_> = seen.iter().filter(|(id, n)| **n > 1 || !wanted.contains(id)).collect();
    promise(more.is_empty(), "a reader sees every row once, and none that was taken back", || {
        format!("seen (id, times): {more:?}")
    })
}

async fn published_rows_are_read(storage: &dyn SinkStorage) -> Result<()> {
    let mut sink = storage.sink()?;
    let marker = sink.open(&owner(1)).await?;
    promise(marker.is_none(), "a new storage has no marker", || format!("{marker:?}"))?;
    for n in 0..BATCHES.len() {
        publish(storage, &mut *sink, 1, n).await?;
        reads(storage, &*sink, n + 1).await?;
    }
    sink.flush().await?;
    sink.close().await?;
    drop(sink);
    let mut sink = storage.sink()?;
    let marker = sink.open(&owner(2)).await?;
    if sink.guarantee() == Guarantee::ExactlyOnce {
        promise(marker.is_some(), "a closed sink remembers its marker", || "there is none".into())?;
    }
    reads(storage, &*sink, BATCHES.len()).await
}

async fn a_dropped_sink_is_taken_up(storage: &dyn SinkStorage, after: usize, flushed: Flushed) -> Result<()> {
    let mut sink = storage.sink()?;
    sink.open(&owner(1)).await?;
    let mut last = None;
    for n in 0..after {
        last = Some(publish(storage, &mut *sink, 1, n).await?);
    }
    if flushed == Flushed::Yes {
        sink.flush().await?;
    }
    drop(sink);

    let mut sink = storage.sink()?;
    let marker = sink.open(&owner(2)).await?;
    let kept = match &marker {
        None if sink.guarantee() == Guarantee::ExactlyOnce && flushed == Flushed::Yes => {
            return promise(false, "a marker survives a crash after flush", || "there is none".into());
        }
        // Without a marker only an uncommitted batch would be published again: here there is none.
        None if sink.guarantee() != Guarantee::ExactlyOnce => after,
        None => 0,
        Some(marker) => {
            let same = |m: &Marker| m.batch == marker.batch && m.digest == marker.digest;
            let fits = marker.owner.incarnation == owner(1).incarnation
                && (flushed == Flushed::No || last.as_ref().is_some_and(same));
            promise(fits, "the marker is of the last flushed batch or a later one", || {
                format!("{marker:?} where {last:?} was published last")
            })?;
            let at = BATCHES.iter().take(after).position(|(batch, _)| BatchId(*batch) == marker.batch);
            match at {
                Some(at) => at + 1,
                None => return promise(false, "the marker is of a published batch", || format!("{marker:?}")),
            }
        }
    };
    reads(storage, &*sink, kept).await?;
    for n in kept..BATCHES.len() {
        publish(storage, &mut *sink, 2, n).await?;
        reads(storage, &*sink, n + 1).await?;
    }
    sink.close().await?;
    reads(storage, &*sink, BATCHES.len()).await
}

/// A sink that answered an error is opened again: its marker says where to go on.
async fn a_republished_batch_is_seen_once(storage: &dyn SinkStorage) -> Result<()> {
    let mut sink = storage.sink()?;
    sink.open(&owner(1)).await?;
    publish(storage, &mut *sink, 1, 0).await?;
    publish(storage, &mut *sink, 1, 1).await?;
    let marker = sink.open(&owner(1)).await?;
    if sink.guarantee() == Guarantee::ExactlyOnce {
        let at = marker.as_ref().map(|m| m.batch.0);
        promise(at == Some(2), "a sink that is opened again by its owner says what it has", || format!("{marker:?}"))?;
    }
    publish(storage, &mut *sink, 1, 2).await?;
    reads(storage, &*sink, 3).await
}

async fn an_earlier_owner_is_fenced(storage: &dyn SinkStorage) -> Result<()> {
    let mut zombie = storage.sink()?;
    if zombie.guarantee() != Guarantee::ExactlyOnce {
        return Ok(());
    }
    zombie.open(&owner(1)).await?;
    publish(storage, &mut *zombie, 1, 0).await?;
    zombie.flush().await?;
    let mut sink = storage.sink()?;
    sink.open(&owner(2)).await?;
    let refused = publish(storage, &mut *zombie, 1, 1).await;
    promise(
        matches!(&refused, Err(e) if e.kind() == ErrorKind::Owned),
        "an owner that was taken over can't publish: ErrorKind::Owned",
        || format!("{refused:?}"),
    )?;
    drop(zombie);
    reads(storage, &*sink, 1).await?;
    publish(storage, &mut *sink, 2, 1).await?;
    reads(storage, &*sink, 2).await?;
    let refused = storage.sink()?.open(&owner(1)).await;
    promise(
        matches!(&refused, Err(e) if e.kind() == ErrorKind::Owned),
        "an owner that was taken over can't open the sink again: ErrorKind::Owned",
        || format!("{refused:?}"),
    )?;
    reads(storage, &*sink, 2).await
}

async fn another_incarnation_is_another_query(storage: &dyn SinkStorage) -> Result<()> {
    let mut sink = storage.sink()?;
    sink.open(&owner(1)).await?;
    publish(storage, &mut *sink, 1, 0).await?;
    sink.close().await?;
    drop(sink);
    let other = Owner { incarnation: "00000000-0000-4000-8000-000000000000".into(), ..owner(1) };
    let mut sink = storage.sink()?;
    match sink.open(&other).await {
        Ok(marker) => {
            promise(marker.is_none(), "another incarnation is not told this one's marker", || format!("{marker:?}"))
        }
        Err(error) if error.kind() == ErrorKind::Owned || error.kind() == ErrorKind::Config => {
            reads(storage, &*sink, 1).await
        }
        Err(error) => Err(error),
    }
}
