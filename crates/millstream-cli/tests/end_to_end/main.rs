//! The whole architecture against the real things: Kafka -> windows and joins -> PostgreSQL and Kafka, with the engine,
//! the broker and the database killed at random moments, under a producer with transactions of its own. At the end
//! both outputs, read by clients that know nothing of us, are what plain DataFusion answers over the committed records.
//!
//! `MILLSTREAM_KILLS` says how often the engine is killed (100; a tenth as often each the broker and the database),
//! `MILLSTREAM_SEED` repeats the random choices of a run.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on says where")]

mod answer;
#[path = "../../../millstream-kafka/tests/broker/mod.rs"]
mod broker;
#[allow(dead_code, reason = "shared with the kill test over files")]
#[path = "../kill/data.rs"]
mod data;
mod feed;
mod kills;
mod owners;
#[path = "../kill/process.rs"]
mod process;
mod services;
