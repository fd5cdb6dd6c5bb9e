//! The digest of a batch: a multiset hash over its rows.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A sum of row hashes: it does not depend on the order of rows, nor on how strings are encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(pub u64);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
