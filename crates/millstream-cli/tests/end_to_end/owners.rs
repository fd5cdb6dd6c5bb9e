//! Two engines on one pipeline.
