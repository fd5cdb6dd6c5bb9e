//! Keyed state: rows by key, staged by a batch, installed when the batch commits, and checkpointed
//! incrementally.
//!
//! - [`KeyedTable`] holds at most one row of values per key; [`PanedTable`] holds one such table per pane
//!   (a window's end, say), dropped whole; [`MultiTable`] holds any number of rows per key, on several
//!   sides.
//! - [`OperatorState`] is what an operator shows of its tables, and [`StateStore`] checkpoints and restores
//!   all operators of a query by name.
//!
//! A table is a segment log: a key index points at a slot, a slot at a row of an immutable Arrow segment.
//! The segments appended since the last checkpoint *are* what the next one writes.
//!
//! This crate knows Arrow and the contracts of `millstream-core`. It must never know an engine or SQL.

mod multi;
mod operator;
mod paned;
mod store;
mod table;

mod checkpoint;
mod chunked;
mod compact;
mod encode;
mod entries;
mod index;
mod key_set;
mod key_store;
mod keys;
mod layout;
mod lists;
mod long_keys;
mod restore;
mod segment;
mod stored;

pub use keys::Keys;
pub use multi::{FoundRows, MultiTable, RowId, SEQUENCE, SideSchema};
pub use operator::{Changes, OperatorState, Restored, StateInfo, TableInfo};
pub use paned::PanedTable;
pub use store::{SharedState, StateStore};
pub use stored::{StoredTable, stored_tables};
pub use table::{Found, KeyedTable};
