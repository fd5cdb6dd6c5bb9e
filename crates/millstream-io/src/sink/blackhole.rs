//! The 'blackhole' connector: rows are counted and dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use millstream_core::Result;
use millstream_core::sink::{Guarantee, Marker, Output, Owner, Permit, Sink};

/// What a blackhole has swallowed, shared with whoever asks.
#[derive(Clone, Debug, Default)]
pub struct Swallowed {
    batches: Arc<AtomicU64>,
    rows: Arc<AtomicU64>,
}

impl Swallowed {
    /// Batches published.
    pub fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    /// Rows published.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }
}

/// Counts rows and drops them. It keeps no marker: what is run again is counted again.
#[derive(Debug, Default)]
pub struct BlackholeSink {
    swallowed: Swallowed,
}

impl BlackholeSink {
    /// The counts, which go on counting.
    pub fn swallowed(&self) -> Swallowed {
        self.swallowed.clone()
    }
}

#[async_trait]
impl Sink for BlackholeSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    async fn open(&mut self, _owner: &Owner) -> Result<Option<Marker>> {
        Ok(None)
    }

    async fn publish(&mut self, _permit: &Permit, output: &Output) -> Result<()> {
        self.swallowed.batches.fetch_add(1, Ordering::Relaxed);
        self.swallowed.rows.fetch_add(output.rows(), Ordering::Relaxed);
        Ok(())
    }
}
