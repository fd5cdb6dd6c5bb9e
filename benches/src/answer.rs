//! Whether two outputs are the same answer: as multisets of rows, whatever the order of rows and columns.
//!
//! A changelog counts for what it adds up to: `+I` and `+U` add a row, `-U` and `-D` take it away. A missing
//! field is a NULL, and a time is a time however it is spelt.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::Result;
use crate::event_time::parse_ms;

/// How two outputs compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The same rows.
    Same {
        /// As many as there are lines in the engine's output, of a changelog too.
        lines: u64,
    },
    /// Other rows: some of them, each with how often more (or less) the engine has it.
    Different(String),
}

/// Compares what the engine wrote (a file, or the files of a directory) with what the peer wrote.
///
/// # Errors
/// Where one cannot be read or a line is no JSON object.
pub fn compare(engine: &Path, peer: &Path) -> Result<Comparison> {
    let (mut engine_sum, mut peer_sum) = (Sum::default(), Sum::default());
    rows(engine, |row| engine_sum.add(&row))?;
    rows(peer, |row| peer_sum.add(&row))?;
    if engine_sum.same_rows(&peer_sum) {
        return Ok(Comparison::Same { lines: engine_sum.lines });
    }
    // Only now is it worth holding every row.
    let mut net: HashMap<u128, (i64, String)> = HashMap::new();
    let mut add = |row: Row, sign: i64| {
        let entry = net.entry(row.hash()).or_insert_with(|| (0, row.text.clone()));
        entry.0 += sign * row.weight;
    };
    rows(engine, |row| add(row, 1))?;
    rows(peer, |row| add(row, -1))?;
    let mut differing: Vec<_> = net.into_values().filter(|(weight, _)| *weight != 0).collect();
    differing.sort_by(|a, b| a.1.cmp(&b.1));
    let shown: Vec<_> = differing.iter().take(4).map(|(weight, text)| format!("{weight:+} {text}")).collect();
    Ok(Comparison::Different(format!("{} rows differ: {}", differing.len(), shown.join("; "))))
}

/// Lines of an output: a file, or the files of a directory.
///
/// # Errors
/// Where it cannot be read or a line is no JSON object.
pub fn lines(path: &Path) -> Result<u64> {
    let mut sum = Sum::default();
    rows(path, |row| sum.add(&row))?;
    Ok(sum.lines)
}

/// A sum of hashes: the order of rows does not matter, and what a changelog takes back cancels out.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    hashes: u128,
    rows: i64,
    lines: u64,
}

impl Sum {
    fn add(&mut self, row: &Row) {
        self.hashes = self.hashes.wrapping_add((row.hash() as i128).wrapping_mul(row.weight.into()) as u128);
        self.rows += row.weight;
        self.lines += 1;
    }

    fn same_rows(&self, other: &Self) -> bool {
        (self.hashes, self.rows) == (other.hashes, other.rows)
    }
}

struct Row {
    text: String,
    weight: i64,
}

impl Row {
    fn read(line: &str) -> Result<Self> {
        let fields: BTreeMap<String, Value> = serde_json::from_str(line).map_err(|e| format!("{line}: {e}"))?;
        let mut weight = 1;
        let mut text = String::new();
        for (name, value) in &fields {
            match value {
                Value::Null => continue,
                Value::String(op) if name == "op" => match op.as_str() {
                    "+I" | "+U" => {}
                    "-U" | "-D" => weight = -1,
                    other => return Err(format!("'{other}' is no kind of change, in {line}").into()),
                },
                Value::String(value) => match parse_ms(value) {
                    Some(ms) => text.push_str(&format!("{name}=@{ms} ")),
                    None => text.push_str(&format!("{name}={value:?} ")),
                },
                other => text.push_str(&format!("{name}={other} ")),
            }
        }
        Ok(Self { text, weight })
    }

    fn hash(&self) -> u128 {
        let half = |seed: u8| {
            let mut hasher = DefaultHasher::new();
            (seed, &self.text).hash(&mut hasher);
            u128::from(hasher.finish())
        };
        half(1) << 64 | half(2)
    }
}

fn rows(path: &Path, mut each: impl FnMut(Row)) -> Result<()> {
    for file in files(path)? {
        for line in BufReader::with_capacity(1 << 20, File::open(&file)?).lines() {
            let line = line?;
            if !line.is_empty() {
                each(Row::read(&line).map_err(|e| format!("{}: {e}", file.display()))?);
            }
        }
    }
    Ok(())
}

/// The files of an output as any plain reader would find them: what begins with a dot is not seen.
///
/// # Errors
/// Where a directory cannot be read.
pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            found.extend(files(&entry.path())?);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(engine: &str, peer: &str) -> Comparison {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("out"), dir.path().join("peer.ndjson"));
        std::fs::create_dir(&a).unwrap();
        // One file a batch, and one that is not finished.
        for (i, line) in engine.lines().enumerate() {
            std::fs::write(a.join(format!("q-{i}.ndjson")), format!("{line}\n")).unwrap();
        }
        std::fs::write(a.join(".q-9.ndjson.tmp"), "{\"half").unwrap();
        std::fs::write(&b, peer).unwrap();
        compare(&a, &b).unwrap()
    }

    #[test]
    fn order_spelling_and_nulls_do_not_matter() {
        let engine = "{\"a\":1,\"t\":\"2026-01-01T00:00:00Z\",\"n\":null}\n{\"a\":2}\n";
        let peer = "{\"a\":2}\n{\"t\":\"2026-01-01 00:00:00.000\",\"a\":1}\n";
        assert_eq!(compared(engine, peer), Comparison::Same { lines: 2 });
    }

    #[test]
    fn a_changelog_is_what_it_adds_up_to() {
        let engine = "{\"op\":\"+I\",\"w\":\"a\",\"n\":1}\n{\"op\":\"-U\",\"w\":\"a\",\"n\":1}\n\
                      {\"op\":\"+U\",\"w\":\"a\",\"n\":2}\n{\"op\":\"+I\",\"w\":\"b\",\"n\":1}\n{\"op\":\"-D\",\"w\":\"b\",\"n\":1}\n";
        assert_eq!(compared(engine, "{\"w\":\"a\",\"n\":2}\n"), Comparison::Same { lines: 5 });
    }

    #[test]
    fn a_row_too_many_a_row_too_few_and_another_value_are_seen() {
        for (engine, peer) in [
            ("{\"a\":1}\n{\"a\":1}\n", "{\"a\":1}\n"),
            ("", "{\"a\":1}\n"),
            ("{\"a\":1}\n", "{\"a\":2}\n"),
            ("{\"a\":1}\n", "{\"a\":\"1\"}\n"),
            ("{\"a\":1}\n{\"a\":4}\n", "{\"a\":2}\n{\"a\":3}\n"),
            ("{\"op\":\"+I\",\"a\":1}\n{\"op\":\"-D\",\"a\":2}\n", ""),
        ] {
            assert!(matches!(compared(engine, peer), Comparison::Different(_)), "{engine} {peer}");
        }
        let Comparison::Different(what) = compared("{\"a\":1}\n{\"a\":1}\n", "{\"a\":1}\n") else { panic!("same") };
        assert_eq!(what, "1 rows differ: +1 a=1 ");
    }
}
