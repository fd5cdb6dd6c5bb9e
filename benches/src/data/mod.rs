//! The inputs: generated once from fixed seeds, kept, the same on every machine.
//!
//! A file gets its name when it is whole; the name says what is in it. A change of a generator is a new
//! `VERSION`.

mod bids;
pub mod changing;
mod words;

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::Result;
use crate::args::Settings;
use changing::Changing;

const VERSION: u32 = 1;

/// A generated file.
#[derive(Clone, Debug)]
pub struct Input {
    /// Where it lies.
    pub path: PathBuf,
    /// Its lines.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
}

/// How much to generate.
#[derive(Clone, Copy, Debug)]
pub enum Amount {
    /// As many rows.
    Rows(u64),
    /// Rows until there are as many bytes.
    Bytes(u64),
}

impl Amount {
    fn reached(self, rows: u64, bytes: u64) -> bool {
        match self {
            Self::Rows(n) => rows >= n,
            Self::Bytes(n) => bytes >= n,
        }
    }
}

/// Bids as Nexmark makes them.
///
/// # Errors
/// Where the file can't be written.
pub fn bids(settings: &Settings, amount: Amount) -> Result<Input> {
    let mut generator = bids::Bids::new();
    kept(settings, "bids", amount, move |line| generator.line(line))
}

/// Persons, auctions and bids as the engine's `nexmark` source makes them, one event a row; `make` is called with a
/// directory for the rows where there is no such file yet.
///
/// # Errors
/// Where the file can't be written.
pub fn nexmark(settings: &Settings, events: u64, make: impl FnOnce(&Path) -> Result<()>) -> Result<Input> {
    let path = settings.data.join(format!("nexmark-{events}-rows-v{VERSION}.ndjson"));
    if !path.exists() {
        eprintln!("generating {}", path.display());
        let unfinished = path.with_extension("unfinished");
        // Of an attempt that was cut short.
        let _ = std::fs::remove_file(&unfinished);
        make(&unfinished)?;
        File::open(&unfinished)?.sync_all()?;
        std::fs::rename(unfinished, &path)?;
    }
    let (rows, bytes) = count(&path)?;
    Ok(Input { path, rows, bytes })
}

/// One word a row: `{"word":".."}`.
///
/// # Errors
/// Where the file can't be written.
pub fn words(settings: &Settings, amount: Amount) -> Result<Input> {
    let mut generator = words::Words::new();
    kept(settings, "words", amount, move |line| generator.word_line(line))
}

/// Lines of text: `{"line":".. .. .."}`.
///
/// # Errors
/// Where the file can't be written.
pub fn lines(settings: &Settings, amount: Amount) -> Result<Input> {
    let mut generator = words::Words::new();
    kept(settings, "lines", amount, move |line| generator.text_line(line))
}

/// `{"k":..,"v":..}` with this many distinct keys, which come in no order and, once all were there, again.
///
/// # Errors
/// Where the file can't be written.
pub fn keyed(settings: &Settings, keys: u64, rows: u64) -> Result<Input> {
    let mut row = 0;
    kept(settings, &format!("keyed-{keys}"), Amount::Rows(rows), move |line| {
        // An odd factor maps the numbers below a power of two one to one: distinct, and in no order.
        let key = ((row % keys.max(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15)) & ((1 << 40) - 1);
        write!(line, "{{\"k\":{key},\"v\":{}}}", row % 1000)?;
        row += 1;
        Ok(())
    })
}

/// How often a quarter of the keys of [`repeated`] come again, and by how much their value grows each time.
pub const REPEATS: u64 = 4;
/// See [`REPEATS`].
pub const STEP: i64 = 1000;

/// All keys once, in no order; then the lowest quarter of them, four times more: `{"k":..,"v":..,"ts":..}`. So many rows
/// as there are keys come once more, and where `rows` asks for more than that, all of it begins again.
///
/// # Errors
/// Where the file can't be written.
pub fn repeated(settings: &Settings, keys: u64, rows: u64) -> Result<Input> {
    let (all, again) = (changing::Shuffle::new(keys, 3), changing::Shuffle::new((keys / REPEATS).max(1), 4));
    let mut row = 0;
    kept(settings, &format!("repeated-{keys}"), Amount::Rows(rows), |line| {
        let place = row % (2 * keys);
        let (key, times) = match place.checked_sub(keys) {
            None => (all.at(place), 0),
            Some(place) => (again.at(place % (keys / REPEATS).max(1)), place / (keys / REPEATS).max(1) + 1),
        };
        write!(line, "{{\"k\":{key},\"v\":{},\"ts\":{row}}}", times * STEP as u64 + key % 1000)?;
        row += 1;
        Ok(())
    })
}

/// The rows that a table is loaded with.
///
/// # Errors
/// Where the file can't be written.
pub fn loaded(settings: &Settings, table: &Changing) -> Result<Input> {
    let mut n = 0;
    kept(settings, &format!("loaded-{}", table.keys), Amount::Rows(table.keys), |line| {
        changing::row(line, table.loaded(n), 0, n)?;
        n += 1;
        Ok(())
    })
}

/// The updates that come to it.
///
/// # Errors
/// Where the file can't be written.
pub fn updates(settings: &Settings, table: &Changing, updates: u64) -> Result<Input> {
    let mut n = 0;
    kept(settings, &format!("updates-{}", table.keys), Amount::Rows(updates), |line| {
        let (key, round) = table.updated(n);
        changing::row(line, key, round, table.keys + n)?;
        n += 1;
        Ok(())
    })
}

/// Writes a row of numbers.
type WriteRow = fn(&mut Vec<u8>, u64, u64, u64) -> std::io::Result<()>;

/// The rows that a table is loaded with and the updates after them in one file, as they are or in Debezium's envelope.
///
/// # Errors
/// Where the file can't be written.
pub fn loaded_and_updated(settings: &Settings, table: &Changing, updates: u64, form: Form) -> Result<Input> {
    let mut n = 0u64;
    let (name, write): (_, WriteRow) = match form {
        Form::Rows => ("changing", changing::row),
        Form::Debezium => ("debezium", changing::envelope),
    };
    kept(settings, &format!("{name}-{}", table.keys), Amount::Rows(table.keys + updates), |line| {
        let (key, round) = match n.checked_sub(table.keys) {
            None => (table.loaded(n), 0),
            Some(n) => table.updated(n),
        };
        write(line, key, round, n)?;
        n += 1;
        Ok(())
    })
}

/// How a row is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Rows,
    /// In an envelope with the row before.
    Debezium,
}

/// Long text keys, almost every row another one: `{"k":"..","v":1}`. See [`repeats`].
///
/// # Errors
/// Where the file can't be written.
pub fn state_load(settings: &Settings, rows: u64) -> Result<Input> {
    let mut row = 0;
    kept(settings, "state-load", Amount::Rows(rows), move |line| {
        write!(line, "{{\"k\":\"{}\",\"v\":1}}", long_key(if repeats(row) { row - REPEAT_EVERY / 2 } else { row }))?;
        row += 1;
        Ok(())
    })
}

/// One row in so many of [`state_load`] has the key of an earlier row.
pub const REPEAT_EVERY: u64 = 20_000;

/// Whether this row of [`state_load`] repeats a key.
pub fn repeats(row: u64) -> bool {
    row % REPEAT_EVERY == REPEAT_EVERY - 1
}

/// The key of a row of [`state_load`]: 100 bytes.
pub fn long_key(row: u64) -> String {
    let mixed = row.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let other = mixed.rotate_left(32).wrapping_mul(0x94d0_49bb_1331_11eb);
    format!("{mixed:016x}-account-of-a-customer-with-a-long-name-{other:016x}-{row:027}")
}

fn kept(
    settings: &Settings,
    name: &str,
    amount: Amount,
    line: impl FnMut(&mut Vec<u8>) -> std::io::Result<()>,
) -> Result<Input> {
    let size = match amount {
        Amount::Rows(n) => format!("{n}-rows"),
        Amount::Bytes(n) => format!("{n}-bytes"),
    };
    let path = settings.data.join(format!("{name}-{size}-v{VERSION}.ndjson"));
    if !path.exists() {
        eprintln!("generating {}", path.display());
        generate(&path, amount, line).map_err(|e| format!("{} cannot be generated: {e}", path.display()))?;
    }
    // Counting the rows reads the file once: nobody is measured while he waits for the disk.
    let (rows, bytes) = count(&path)?;
    Ok(Input { path, rows, bytes })
}

fn generate(
    path: &Path,
    amount: Amount,
    mut line: impl FnMut(&mut Vec<u8>) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let unfinished = path.with_extension("unfinished");
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&unfinished)?);
    let (mut rows, mut bytes) = (0, 0);
    let mut buffer = Vec::new();
    while !amount.reached(rows, bytes) {
        buffer.clear();
        line(&mut buffer)?;
        buffer.push(b'\n');
        file.write_all(&buffer)?;
        rows += 1;
        bytes += buffer.len() as u64;
    }
    // What is not written yet would be written while somebody is measured.
    file.into_inner()?.sync_all()?;
    std::fs::rename(unfinished, path)
}

fn count(path: &Path) -> Result<(u64, u64)> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    let (mut rows, mut bytes) = (0, 0);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((rows, bytes));
        }
        let part = buffer.get(..read).unwrap_or_default();
        rows += part.iter().filter(|byte| **byte == b'\n').count() as u64;
        bytes += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::args::{Command, parse};

    fn in_directory(dir: &Path) -> Settings {
        match parse(&["--data".into(), dir.display().to_string()]).unwrap() {
            Command::Run(settings) => settings,
            Command::Help => panic!("no help was asked for"),
        }
    }

    #[test]
    fn a_file_is_generated_once_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let settings = in_directory(dir.path());
        let first = words(&settings, Amount::Bytes(10_000)).unwrap();
        assert!(first.bytes >= 10_000 && first.rows > 100, "{first:?}");
        let modified = first.path.metadata().unwrap().modified().unwrap();
        let again = words(&settings, Amount::Bytes(10_000)).unwrap();
        assert_eq!((again.rows, again.bytes), (first.rows, first.bytes));
        assert_eq!(again.path.metadata().unwrap().modified().unwrap(), modified);
    }

    #[test]
    fn keys_are_as_many_as_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let input = keyed(&in_directory(dir.path()), 700, 2000).unwrap();
        let text = std::fs::read_to_string(input.path).unwrap();
        let keys: HashSet<i64> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["k"].as_i64().unwrap())
            .collect();
        assert_eq!((keys.len(), input.rows), (700, 2000));
    }

    #[test]
    fn a_long_key_is_100_bytes_and_its_own() {
        let keys: HashSet<String> = (0..1000).map(long_key).collect();
        assert_eq!(keys.len(), 1000);
        assert!(keys.iter().all(|key| key.len() == 100), "{:?}", keys.iter().next());
        assert!(repeats(REPEAT_EVERY - 1) && !repeats(REPEAT_EVERY));
    }
}
