//! `.slt` files, run in three ways: what the target `slt` does for the files below it, and the law for a case that it
//! has written down.

mod cut;
mod database;
mod rows;

use std::path::Path;

use sqllogictest::{Record, Runner, parse_file};

pub use database::{Column, Database, Mode};

/// Every record of the file, in every mode. All that is wrong is said, not only the first.
///
/// # Errors
/// What is wrong, with the seed.
pub fn held(path: &Path, seed: u64) -> Result<(), String> {
    let mut wrong = String::new();
    for mode in [Mode::Batch, Mode::Cut, Mode::Killed] {
        let mut runner = Runner::new(move || async move { Database::new(mode, seed) });
        for record in parse_file::<Column>(path).map_err(|e| e.to_string())? {
            if matches!(record, Record::Halt { .. }) {
                break;
            }
            if let Err(error) = runner.run(record) {
                wrong += &format!("{mode}: {}\n\n", error.display(false));
            }
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(format!("{wrong}MILLSTREAM_SLT_SEED={seed}")),
    }
}
