//! `.slt` files: what a query answers, written down. Each one runs three times over the same rows: in batch by
//! DataFusion, streamed in random cuts, and streamed with a kill and a restart in the middle. All three must answer
//! the expected rows.
//!
//! The files lie below this directory, one folder a topic, and are plain sqllogictest. `CREATE TABLE` without a
//! connector is a table of the file's own; `INSERT INTO .. VALUES` writes a partition of it (see `yardstick/slt/rows.rs`). A query that
//! a stream refuses is a `statement error <regex>`. The modes are labels: `skipif killed`, `onlyif batch`.
//!
//! `cargo test --test slt -- joins` runs the files with `joins` in their name. `MILLSTREAM_SLT_SEED=n` cuts and kills
//! in other places. `MILLSTREAM_SLT_COMPLETE=1` writes what DataFusion answers in batch into the files, to be read
//! before it is believed.

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code, unused_imports, reason = "each test that shares it needs some of it")]
#[path = "../yardstick/mod.rs"]
mod yardstick;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use sqllogictest::harness::{Arguments, Failed, Trial};
use sqllogictest::{
    Record, RecordOutput, Runner, StatementExpect, default_normalizer, default_validator, parse_file,
    strict_column_validator, update_record_with_output,
};

use yardstick::slt::{Column, Database, Mode, held};

/// Two cores are what everybody has.
const THREADS: usize = 2;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt");
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let seed = std::env::var("MILLSTREAM_SLT_SEED").map_or(0, |n| n.parse().unwrap());
    let complete = std::env::var_os("MILLSTREAM_SLT_COMPLETE").is_some();
    let trials = files(&root).into_iter().map(|path| {
        let name = path.strip_prefix(&root).unwrap().with_extension("").to_string_lossy().into_owned();
        Trial::test(name, move || match complete {
            true => completed(&path),
            false => held(&path, seed).map_err(Failed::from),
        })
    });
    sqllogictest::harness::run(&arguments, trials.collect()).exit()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .flat_map(|path| match path.is_dir() {
            true => files(&path),
            false => vec![path],
        })
        .filter(|path| path.extension().is_some_and(|e| e == "slt"))
        .collect();
    files.sort();
    files
}

/// Writes the batch answers into the file. What fails stays as it is.
fn completed(path: &Path) -> Result<(), Failed> {
    let mut runner = Runner::new(|| async { Database::new(Mode::Batch, 0) });
    let mut text = vec![];
    let mut wrong = String::new();
    for record in parse_file::<Column>(path)? {
        let output = futures::executor::block_on(runner.apply_record(record.clone()));
        let failed = match (&record, &output) {
            (Record::Query { loc, .. }, RecordOutput::Query { error: Some(error), .. })
            | (Record::Statement { loc, .. }, RecordOutput::Statement { error: Some(error), .. }) => {
                Some((loc, error.to_string()))
            }
            (Record::Statement { loc, expected: StatementExpect::Error(_), .. }, _) => {
                Some((loc, "it is not refused".to_string()))
            }
            _ => None,
        };
        let updated = match failed {
            Some((loc, why)) => {
                let refused = matches!(&record, Record::Statement { expected: StatementExpect::Error(e), .. } if e.is_match(&why, None));
                if !refused {
                    write!(wrong, "{loc}: {why}\n\n")?;
                }
                None
            }
            None => {
                let (same, normal) = (default_validator, default_normalizer);
                update_record_with_output(&record, &output, " ", same, normal, strict_column_validator)
            }
        };
        writeln!(text, "{}", updated.unwrap_or(record))?;
    }
    let text = String::from_utf8(text)?;
    std::fs::write(path, format!("{}\n", text.trim_end()))?;
    if wrong.is_empty() { Ok(()) } else { Err(wrong.into()) }
}
