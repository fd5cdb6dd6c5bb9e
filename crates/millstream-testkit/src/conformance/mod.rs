//! The promises of the contracts, checked on any implementation.
//!
//! Each suite takes a factory: what it makes twice stands for two processes, one after the other, over the same
//! storage. A broken promise is an error of kind [`millstream_core::ErrorKind::Bug`] that names it.

pub mod runner;
pub mod sink;
pub mod source;

use millstream_core::{Error, Result};

/// The promise holds, or is named with what was seen instead.
fn promise(holds: bool, what: &str, seen: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::bug(format!("broken promise: {what}; {}", seen()))) }
}
