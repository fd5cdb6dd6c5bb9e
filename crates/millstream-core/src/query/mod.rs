//! The life of a query.
