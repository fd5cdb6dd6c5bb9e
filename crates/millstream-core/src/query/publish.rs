//! Publishing a batch once, with a sink that may be away or may have stored it before it failed.

use crate::batch::BatchId;
use crate::error::{Error, ErrorKind, Result};
use crate::sink::{Guarantee, Marker, Permit};

use super::retry::Pauses;
use super::run::{Ran, Run};

impl Run {
    /// Gives a batch to the sink. A batch without rows is not published.
    pub(super) async fn publish(&mut self, batch: BatchId, ran: &Ran) -> Result<()> {
        if ran.outcome.output.rows() == 0 {
            return Ok(());
        }
        let previous = self.known.published;
        let marker = Marker { owner: self.owner.clone(), batch, digest: ran.digest };
        let permit = Permit { marker, previous };
        let mut pauses = Pauses::default();
        loop {
            let error = match self.sink.publish(&permit, &ran.outcome.output).await {
                Ok(()) => break,
                Err(error) if error.kind() != ErrorKind::Retry => {
                    return Err(error.at(format_args!("the sink refused batch {batch}")));
                }
                Err(error) => error,
            };
            self.pause(&mut pauses, "publishing", error).await.map_err(gave_up)?;
            // It may have stored the batch before it failed: its marker says so.
            let found = self.open_sink().await?;
            if self.already_there(found, &permit)? {
                break;
            }
        }
        self.known.published = Some(batch);
        Ok(())
    }

    /// Opens the sink, as often as it takes.
    pub(super) async fn open_sink(&mut self) -> Result<Option<Marker>> {
        let mut pauses = Pauses::default();
        loop {
            let error = match self.sink.open(&self.owner).await {
                Ok(marker) => return self.check_marker(marker),
                Err(error) if error.kind() != ErrorKind::Retry => {
                    return Err(error.at("the sink can't be opened"));
                }
                Err(error) => error,
            };
            self.pause(&mut pauses, "opening the sink", error).await.map_err(gave_up)?;
        }
    }

    /// Flushes the sink, as often as it takes.
    pub(super) async fn flush_sink(&mut self) -> Result<()> {
        let mut pauses = Pauses::default();
        loop {
            let error = match self.sink.flush().await {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() != ErrorKind::Retry => return Err(error.at("the sink can't be flushed")),
                Err(error) => error,
            };
            self.pause(&mut pauses, "flushing the sink", error).await.map_err(gave_up)?;
            let found = self.open_sink().await?;
            let has = found.as_ref().map(|m| m.batch);
            if self.sink.guarantee() == Guarantee::ExactlyOnce && has < self.known.published {
                return Err(gone_back(has, self.known.published));
            }
        }
    }

    /// A marker of somebody else is none of ours.
    fn check_marker(&self, marker: Option<Marker>) -> Result<Option<Marker>> {
        let Some(found) = &marker else { return Ok(marker) };
        let (their, our) = (&found.owner, &self.owner);
        if their.incarnation != our.incarnation || their.epoch > our.epoch {
            return Err(Error::owned(format!(
                "the sink belongs to the query \"{}\", incarnation {}, owner {}; this is incarnation {}, owner {}: give \
                 this query a sink of its own, or stop the other one",
                their.query, their.incarnation, their.epoch, our.incarnation, our.epoch,
            )));
        }
        Ok(marker)
    }

    /// Whether a sink that failed has the batch all the same.
    fn already_there(&self, found: Option<Marker>, permit: &Permit) -> Result<bool> {
        let Some(found) = found else {
            if permit.previous.is_some() && self.sink.guarantee() == Guarantee::ExactlyOnce {
                return Err(gone_back(None, permit.previous));
            }
            return Ok(false);
        };
        if found.batch == permit.marker.batch {
            return match found.digest == permit.marker.digest {
                true => Ok(true),
                // Of this very owner, and not of this run: whoever has a copy of the log takes the same epoch.
                false => Err(Error::owned(format!(
                    "the sink has other rows of batch {} (digest {}) than this run gave it (digest {}): another run of the \
                     query, from a copy of this log, has published. Stop one of the two; this one has published nothing \
                     since",
                    found.batch, found.digest, permit.marker.digest
                ))),
            };
        }
        if Some(found.batch) < permit.previous && self.sink.guarantee() != Guarantee::AtLeastOnce {
            return Err(gone_back(Some(found.batch), permit.previous));
        }
        Ok(false)
    }
}

/// The sink's own fault, for good.
fn gave_up(error: Error) -> Error {
    Error::sink("the sink stayed away: see to it and start the query again, nothing is lost").caused_by(error)
}

fn gone_back(has: Option<BatchId>, published: Option<BatchId>) -> Error {
    let text = |batch: Option<BatchId>| batch.map_or("none".to_string(), |batch| format!("batch {batch}"));
    Error::sink(format!(
        "the sink has lost what it had taken: it has {}, where {} was published. Start the query again: what is missing is \
         published again as far as it can be run again",
        text(has),
        text(published),
    ))
}
