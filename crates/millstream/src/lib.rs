//! Exactly-once stream processing on Apache DataFusion.
//!
//! A stream is a table that may never end. A query over it is DataFusion's: the same SQL, the same expressions, the
//! same functions. It runs in *batches* that are decided, and logged, before they run, so that after a crash the
//! same batches give the same rows, and each row of the answer is published once.
//!
//! ```
//! use millstream::prelude::*;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let dir = dir.path();
//! let session = Session::new()?;
//! session.sql("CREATE TABLE clicks (page BIGINT, at TIMESTAMP(3), WATERMARK FOR at AS at - INTERVAL '1' SECOND)
//!              WITH ('connector' = 'datagen', 'number-of-rows' = '1000', 'rows-per-second' = '0',
//!                    'fields.page.min' = '1', 'fields.page.max' = '3', 'fields.at.step' = '100 ms')")?;
//! let counts = session
//!     .table("clicks")?
//!     .window("at", tumble(Duration::from_secs(10)))?
//!     .aggregate([col("window_start"), col("window_end"), col("page")], [count(lit(1)).alias("clicks")])?;
//! let stream = counts.write_stream().format("json").path(dir.join("counts")).state_dir(dir.join("state")).start().await?;
//! stream.wait().await?; // the generated table ends; one that is followed runs until stream.stop()
//! # let answer = session.table(&format!("{}/counts/*.ndjson", dir.display()))?;
//! # let windows = answer.collect().await?.iter().map(|rows| rows.num_rows()).sum::<usize>();
//! # let expected = counts.collect().await?.iter().map(|rows| rows.num_rows()).sum::<usize>();
//! # assert_eq!((windows, windows > 20), (expected, true));
//! # Ok(())
//! # }
//! ```
//!
//! Started again with the same state directory, it goes on where it stopped, or where it was killed.
//!
//! | to | use |
//! |---|---|
//! | declare tables, plan SQL, register functions, sources and views | [`session::Session`] |
//! | compute: filter, window, aggregate, unite | [`frame::StreamFrame`] |
//! | say where the answer goes and when batches begin, and start | [`frame::StreamWriter`] |
//! | watch, stop and wait for a stream | [`frame::StreamHandle`] |
//! | run a file of SQL, as the `millstream` binary does | [`pipeline::Pipeline`] |
//! | read from something new | [`core::source::SourceTable`], or [`sql::Connectors`] to name it in SQL |
//! | write to something new | [`core::sink::Sink`] |
//!
//! Times are microseconds since 1970-01-01 UTC wherever they are numbers; their names end in `_us`. Errors are
//! [`Error`], whose [`ErrorKind`] names the remedy.

pub mod batch;
pub mod changelog;
pub mod dropped;
pub mod exec;
pub mod frame;
pub mod kept;
pub mod pipeline;
pub mod plan;
pub mod runner;
pub mod session;
pub mod set_op;
pub mod settings;
pub mod sql;
mod stack;
pub mod temporal;
pub mod window;

pub use arrow;
pub use datafusion;
pub use millstream_core as core;
pub use millstream_core::{Error, ErrorKind, Result};
pub use millstream_io as io;
pub use millstream_state as state;

/// What most programs use.
pub mod prelude {
    pub use std::time::Duration;

    pub use datafusion::functions_aggregate::expr_fn::{avg, count, max, min, sum};
    pub use datafusion::logical_expr::lit;
    pub use millstream_core::query::{Progress, QueryState, QueryStatus, Trigger};
    pub use millstream_core::{Error, ErrorKind, Result};

    pub use crate::frame::{StreamFrame, StreamHandle, StreamWriter, col, cumulate, hop, tumble};
    pub use crate::plan::EmitMode;
    pub use crate::session::{Session, StreamReader};
}
