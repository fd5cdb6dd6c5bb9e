//! The batch log.
