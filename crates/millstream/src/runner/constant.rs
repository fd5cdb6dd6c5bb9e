//! The source of a query that reads none (INSERT INTO .. VALUES): it has no rows, and it ends with its first batch.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use futures::StreamExt;
use millstream_core::Result;
use millstream_core::batch::{Positions, Range};
use millstream_core::source::{Boundedness, ChunkStream, Limit, Offer, Source, SourceTable};

use super::Input;
use super::edge::Edge;
use crate::plan::LateBound;

/// What `status` calls the source.
const NAME: &str = "constant";

#[derive(Debug)]
struct Constant;

#[async_trait]
impl Source for Constant {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::empty())
    }

    fn boundedness(&self) -> Boundedness {
        Boundedness::Bounded
    }

    async fn offer(&self, _from: &Positions, _limit: Limit) -> Result<Offer> {
        // That it ends is what makes its one batch.
        Ok(Offer { closed: true, ..Offer::default() })
    }

    async fn open(&self, _range: &Range) -> Result<ChunkStream> {
        Ok(futures::stream::empty().boxed())
    }
}

impl SourceTable for Constant {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::empty())
    }

    fn source(&self, _projection: &[usize]) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(Self))
    }
}

impl Input {
    /// The input of a query over constants only.
    pub fn constant() -> Self {
        let edge = Edge { source: NAME.to_string(), event_time: None, bound: LateBound::default(), ahead_us_max: 0 };
        Self { table: Arc::new(Constant), source: Arc::new(Constant), edge, scans: vec![], idle_timeout: None }
    }
}
