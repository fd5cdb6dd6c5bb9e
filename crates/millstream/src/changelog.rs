//! changelog.
