//! Imports run downwards only: between the crates, and between the rooms of the engine.
//!
//! The tables here are the order. A new room or a new edge is a line here, and a reason to think twice: a room lists
//! only rooms below it, so that there can't be a circle.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms of the engine from the top down, and what each may import.
///
/// `session` and `frame` are what a program uses, `pipeline` what a file of SQL becomes. `batch` is the yardstick and
/// shares only planning with the stream. `plan` makes from SQL's plans what `runner` runs; `exec` knows neither: an
/// operator sees rows, windows and weights.
const ROOMS: [(&str, &[&str]); 16] = [
    ("session", &["frame", "pipeline", "sql", "changelog"]),
    ("frame", &["pipeline", "batch", "plan", "sql", "window"]),
    ("pipeline", &["dropped", "runner", "plan", "sql", "settings"]),
    ("dropped", &[]),
    ("kept", &[]),
    ("batch", &["plan", "sql", "set_op", "temporal", "changelog", "stack"]),
    ("runner", &["plan", "exec", "changelog"]),
    ("plan", &["sql", "exec", "window", "changelog", "set_op", "temporal", "stack"]),
    ("sql", &["window", "settings", "set_op", "temporal", "changelog", "stack"]),
    ("exec", &["window", "changelog"]),
    ("settings", &[]),
    ("window", &[]),
    ("set_op", &[]),
    ("temporal", &[]),
    ("changelog", &[]),
    ("stack", &[]),
];

/// Files that import upwards, what they import, and why that is borne.
const BORNE: [(&str, &str, &str); 1] =
    [("plan/compile.rs", "runner", "a compiled query holds the runner's inputs and edges, which are plain values")];

/// Which of our crates a crate may depend on; tests and benchmarks aside.
const CRATES: [(&str, &[&str]); 8] = [
    (
        "millstream-cli",
        &[
            "millstream",
            "millstream-kafka",
            "millstream-postgres",
            "millstream-state",
            "millstream-io",
            "millstream-core",
        ],
    ),
    ("millstream-kafka", &["millstream-io", "millstream-core"]),
    ("millstream-postgres", &["millstream-io", "millstream-core"]),
    ("millstream", &["millstream-state", "millstream-io", "millstream-core"]),
    ("millstream-testkit", &["millstream-core"]),
    ("millstream-state", &["millstream-core"]),
    ("millstream-io", &["millstream-core"]),
    ("millstream-core", &[]),
];

/// The crates that may know the engine.
const ENGINE: [&str; 2] = ["millstream", "millstream-cli"];

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = vec![];
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// The code of a line: comments hold no imports.
fn code(line: &str) -> &str {
    if line.trim_start().starts_with("//") { "" } else { line }
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// How many modules below the crate's root a file's module lies: 1 for `plan/mod.rs` and `plan.rs`.
fn depth(file: &Path) -> usize {
    let stem = file.file_stem().unwrap().to_str().unwrap();
    file.components().count() - usize::from(stem == "mod")
}

/// The rooms that a line names from the crate's root: by `crate::room`, or by enough `super::` to get there.
fn named(line: &str, depth: usize) -> Vec<String> {
    let mut rooms = vec![];
    for (at, _) in line.match_indices("crate::") {
        if !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            rooms.extend(heads(&line[at + "crate::".len()..]));
        }
    }
    let up = "super::".repeat(depth);
    if let Some(at) = line.find(&up) {
        rooms.extend(heads(&line[at + up.len()..]));
    }
    rooms
}

/// The first names of `a::b` or of each of `{a::b, c}`.
fn heads(path: &str) -> Vec<String> {
    let Some(group) = path.strip_prefix('{') else { return vec![identifier(path).to_string()] };
    let mut level = 0_i32;
    let mut parts = vec![String::new()];
    for c in group.chars() {
        level += i32::from(c == '{') - i32::from(c == '}');
        if c == ',' && level == 0 {
            parts.push(String::new());
        } else if level < 0 {
            break;
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts.iter().map(|part| identifier(part.trim()).to_string()).collect()
}

/// What is wrong with a file's imports, each with its line; and which of the borne ones it has.
fn faults(file: &Path, text: &str) -> (Vec<String>, BTreeSet<usize>) {
    let first = file.components().next().unwrap().as_os_str().to_str().unwrap();
    let room = first.strip_suffix(".rs").unwrap_or(first);
    let (_, allowed) = ROOMS.iter().find(|(name, _)| *name == room).unwrap();
    let (mut faults, mut borne) = (vec![], BTreeSet::new());
    // An import may be spread over several lines: it is judged whole, at its first line.
    let mut open: Option<(usize, String)> = None;
    for (n, line) in text.lines().enumerate() {
        let (start, mut statement) = open.take().unwrap_or((n, String::new()));
        statement.push_str(code(line));
        if statement.trim_start().starts_with("use ") && !statement.contains(';') {
            open = Some((start, statement));
            continue;
        }
        for other in named(&statement, depth(file)) {
            let is_room = ROOMS.iter().any(|(name, _)| *name == other);
            if !is_room || other == room || allowed.contains(&other.as_str()) {
                continue;
            }
            match BORNE.iter().position(|(f, to, _)| Path::new(f) == file && *to == other) {
                Some(known) => drop(borne.insert(known)),
                None => faults.push(format!("{}:{}: {room} must not import {other}", file.display(), start + 1)),
            }
        }
    }
    (faults, borne)
}

#[test]
fn the_rooms_of_the_engine_import_downwards_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut all, mut borne) = (vec![], BTreeSet::new());
    for path in rust_files(&src) {
        let file = path.strip_prefix(&src).unwrap();
        let is_test = file.components().any(|c| ["tests", "tests.rs"].iter().any(|t| c.as_os_str() == *t));
        if file == Path::new("lib.rs") || is_test {
            continue;
        }
        let (faults, known) = faults(file, &fs::read_to_string(&path).unwrap());
        all.extend(faults);
        borne.extend(known);
    }
    assert!(all.is_empty(), "imports that run upwards:\n{}", all.join("\n"));
    assert_eq!(borne.len(), BORNE.len(), "a borne import is gone: take it off the list");
}

#[test]
fn every_room_is_in_the_table_and_lists_only_rooms_below_it() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let declared: BTreeSet<_> =
        lib.lines().filter_map(|l| l.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';')).collect();
    assert_eq!(declared, ROOMS.iter().map(|(name, _)| *name).collect());
    for (n, (room, allowed)) in ROOMS.iter().enumerate() {
        for other in *allowed {
            assert!(
                ROOMS[n + 1..].iter().any(|(below, _)| below == other),
                "{room} lists {other}, which is not below it"
            );
        }
    }
}

#[test]
fn an_import_that_runs_upwards_is_found_however_it_is_written() {
    let found = |file: &str, text: &str| faults(Path::new(file), text).0;
    let expected = vec!["exec/scan.rs:2: exec must not import plan".to_string()];
    assert_eq!(found("exec/scan.rs", "use std::fmt;\nuse crate::plan::Compiled;\n"), expected);
    assert_eq!(found("exec/scan.rs", "\nlet x = crate::plan::compile();\n"), expected);
    assert_eq!(found("exec/scan.rs", "\nuse crate::{window::{A, B}, plan::Compiled};\n"), expected);
    assert_eq!(found("exec/scan.rs", "\nuse crate::{\n    window,\n    plan,\n};\n"), expected);
    assert_eq!(found("exec/scan.rs", "\nuse super::super::plan;\n"), expected);
    assert_eq!(found("exec/mod.rs", "use super::sql::Planner;\n").len(), 1);
    assert!(
        found("exec/scan.rs", "// use crate::plan;\nuse crate::window::WindowSpec;\nuse super::node;\n").is_empty()
    );
}

/// The names in the `[dependencies]` of a manifest, with their lines.
fn dependencies(manifest: &str) -> Vec<(usize, &str)> {
    let mut inside = false;
    let mut names = vec![];
    for (n, line) in manifest.lines().enumerate() {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if inside && !line.trim().is_empty() && !line.starts_with('#') {
            let end = line.find(['.', ' ', '=']).unwrap_or(line.len());
            names.push((n + 1, &line[..end]));
        }
    }
    names
}

#[test]
fn the_crates_depend_downwards_only_and_the_engine_is_known_at_the_top() {
    let found: BTreeSet<_> =
        fs::read_dir(crates()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(found, CRATES.iter().map(|(name, _)| (*name).to_string()).collect(), "a crate is not in the table");
    let mut faults = vec![];
    for (name, allowed) in CRATES {
        let manifest = fs::read_to_string(crates().join(name).join("Cargo.toml")).unwrap();
        for (line, dependency) in dependencies(&manifest) {
            let ours = dependency.starts_with("millstream") && !allowed.contains(&dependency);
            let engine = dependency.starts_with("datafusion") && !ENGINE.contains(&name);
            if ours || engine {
                faults.push(format!("crates/{name}/Cargo.toml:{line}: {name} must not depend on {dependency}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_protocol_mentions_no_engine() {
    let mut faults = vec![];
    for path in rust_files(&crates().join("millstream-core/src")) {
        for (n, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            if line.to_lowercase().contains("datafusion") {
                faults.push(format!("{}:{}: {line}", path.display(), n + 1));
            }
        }
    }
    assert!(faults.is_empty(), "the core must not know DataFusion:\n{}", faults.join("\n"));
}
