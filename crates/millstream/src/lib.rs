//! Exactly-once stream processing on Apache DataFusion.

pub mod changelog;
pub mod exec;
pub mod frame;
pub mod plan;
pub mod runner;
pub mod session;
pub mod sql;
pub mod window;

pub use millstream_core as core;
pub use millstream_core::{Error, ErrorKind, Result};
pub use millstream_io as io;
pub use millstream_state as state;
