//! The connector against a real PostgreSQL, which `tests/services/postgres.sh` starts. What is missing for it is said
//! in one line by the test that fails.

// A test says what is wrong by panicking, in its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod conformance;
mod full_disk;
mod kill;
mod lookup;
mod pooled;
mod publish;
mod refused;
mod retry;
mod server;
mod tls;
mod types;
