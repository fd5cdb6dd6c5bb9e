//! The life of a batch: intend, run, publish, commit.
//!
//! This crate holds the protocol that makes a stream exactly-once, and nothing else: it knows Arrow's
//! record batches, but no engine, no SQL, no file format and no broker. What it needs of the world comes
//! through five contracts that a stranger can implement: [`source::Source`], [`sink::Sink`],
//! [`runner::Runner`], [`disk::Disk`] and [`clock::Clock`].

pub mod batch;
pub mod clock;
pub mod digest;
pub mod disk;
pub mod error;
pub mod format;
pub mod log;
pub mod lookup;
pub mod query;
pub mod runner;
pub mod sink;
pub mod source;
pub mod watermark;

pub use error::{Error, ErrorKind, Result};
