//! What the documentation shows is what the binary does.
//!
//! Every page of `docs/`, and the README, is run from top to bottom in a directory of its own. A fenced block says
//! in its first line what it is:
//!
//! | block | |
//! |---|---|
//! | ` ```ndjson file=visits.ndjson ` (any language) | a file that is written, also into directories |
//! | ` ```sql setup ` | declarations that every later block of the page begins with, until the next setup |
//! | ` ```sql ` | run: by `millstream run` where it holds an INSERT, else by `millstream sql -c` |
//! | ` ```sql batch-rows=2 ` | the same in batches of so many rows |
//! | ` ```sql file=pipeline.sql ` | written, and run by a later block of commands |
//! | ` ```sql ignore ` | not run |
//! | ` ```sh run ` | commands, with `millstream` in the PATH |
//! | ` ```text ` | after a block that was run: what it must have printed |
//! | ` ```ndjson out=alerts.ndjson ` (any language) | what that file must hold by then |
//!
//! A row of a table whose first cell is `` `INSERT ..` `` or `` `SELECT ..` `` and whose second cell begins with a
//! quoted reason must be refused by `check` with that reason. Lengths of time are not compared.
//!
//! Each directory of `examples/` that needs no service (one with a `run.sh` does) holds `pipeline.sql`, its data, and `show.sql`, whose answer after the pipeline has
//! run must be `expected.txt`.

// A test says what is wrong by panicking, in its helpers too.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const MILLSTREAM: &str = env!("CARGO_BIN_EXE_millstream");

#[test]
fn the_readme_does_what_it_says() {
    assert!(run_page(&root().join("README.md")) >= 4);
}

#[test]
fn the_quick_start_does_what_it_says() {
    assert!(run_page(&root().join("docs/quickstart.md")) >= 12);
}

#[test]
fn every_statement_of_the_sql_reference_does_what_it_says() {
    assert!(run_page(&root().join("docs/sql.md")) >= 70);
}

#[test]
fn every_function_gives_what_its_page_says() {
    assert!(run_page(&root().join("docs/functions.md")) >= 14);
}

#[test]
fn every_connector_does_what_its_page_says() {
    assert!(run_page(&root().join("docs/connectors.md")) >= 18);
}

#[test]
fn the_guarantees_page_shows_what_happens() {
    assert!(run_page(&root().join("docs/guarantees.md")) >= 4);
}

#[test]
fn every_example_gives_its_expected_answer() {
    let mut examples: Vec<PathBuf> =
        fs::read_dir(root().join("examples")).unwrap().map(|e| e.unwrap().path()).collect();
    examples.retain(|path| path.is_dir() && !path.join("run.sh").exists());
    examples.sort();
    assert!(examples.len() >= 3, "{examples:?}");
    for example in examples {
        let dir = tempfile::tempdir().unwrap();
        copy(&example, dir.path());
        let ran = millstream(dir.path(), &["run", "--quiet", "--trigger", "available-now", "pipeline.sql"]);
        assert!(ran.status.success(), "{}: {}", example.display(), printed(&ran));
        let show = fs::read_to_string(example.join("show.sql")).unwrap();
        let shown = millstream(dir.path(), &["sql", "--state", "pipeline.sql", "-c", &show]);
        let expected = fs::read_to_string(example.join("expected.txt")).unwrap();
        assert_eq!(normal(&printed(&shown)), normal(&expected), "{}", example.display());
    }
}

#[test]
fn the_links_of_the_pages_lead_somewhere() {
    let mut pages = vec![root().join("README.md"), root().join("ARCHITECTURE.md"), root().join("CONTRIBUTING.md")];
    pages.extend(fs::read_dir(root().join("docs")).unwrap().map(|e| e.unwrap().path()));
    let mut broken = vec![];
    for page in pages.iter().filter(|p| p.extension().is_some_and(|e| e == "md")) {
        let text = fs::read_to_string(page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            // The measured numbers are written by the benchmark, which not every tree has run.
            if file.is_empty() || file.contains("://") || file.ends_with("performance.md") {
                continue;
            }
            if !page.parent().unwrap().join(file).exists() {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A fenced block, or a row of a table that shows what is refused.
enum Part {
    Block { line: usize, language: String, words: Vec<String>, body: String },
    Refused { line: usize, sql: String, reason: String },
}

fn parts(page: &str) -> Vec<Part> {
    let mut parts = vec![];
    let mut lines = page.lines().enumerate();
    while let Some((n, line)) = lines.next() {
        if let Some(info) = line.strip_prefix("```") {
            let mut words = info.split_whitespace().map(String::from);
            let language = words.next().unwrap_or_default();
            let body: String =
                lines.by_ref().map(|(_, l)| l).take_while(|l| *l != "```").map(|l| format!("{l}\n")).collect();
            parts.push(Part::Block { line: n + 1, language, words: words.collect(), body });
        } else if line.starts_with("| `INSERT ") || line.starts_with("| `SELECT ") {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            let reason = cells.get(1).and_then(|c| c.strip_prefix('"')).and_then(|c| c.split('"').next());
            let sql = cells[0].trim_matches('`').to_string();
            let reason = reason.unwrap_or_else(|| panic!("line {}: no reason in quotes", n + 1)).to_string();
            parts.push(Part::Refused { line: n + 1, sql, reason });
        }
    }
    parts
}

/// Runs a page; how many things of it were run and looked at.
fn run_page(path: &Path) -> usize {
    let page = fs::read_to_string(path).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (mut setup, mut last, mut count) = (String::new(), None, 0);
    for part in parts(&page) {
        match part {
            Part::Refused { line, sql, reason } => {
                let place = format!("{}:{line}", path.display());
                let script = if sql.starts_with("INSERT") { sql } else { format!("INSERT INTO shown {sql}") };
                fs::write(dir.path().join("refused.sql"), format!("{setup}\n{script};")).unwrap();
                let output = millstream(dir.path(), &["check", "refused.sql"]);
                let error = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.code(), Some(3), "{place}: it is not refused: {script}\n{}", printed(&output));
                assert!(error.contains(&reason), "{place}: another reason is given for {script}:\n{error}");
                count += 1;
            }
            Part::Block { line, language, words, body } => {
                let place = format!("{}:{line}", path.display());
                let word = |name: &str| words.iter().find_map(|w| w.strip_prefix(name)?.strip_prefix('='));
                let is = |name: &str| words.iter().any(|w| w == name);
                if let Some(file) = word("file") {
                    let file = dir.path().join(file);
                    fs::create_dir_all(file.parent().unwrap()).unwrap();
                    fs::write(file, body).unwrap();
                } else if let Some(file) = word("out") {
                    let found = fs::read_to_string(dir.path().join(file));
                    let found =
                        found.unwrap_or_else(|e| panic!("{place}: {file}: {e}; there are {:?}", files(dir.path())));
                    assert_eq!(found, body, "{place}: {file}");
                    count += 1;
                } else if language == "sql" && is("setup") {
                    setup = body;
                } else if language == "sql" && !is("ignore") {
                    let script = format!("{setup}{body}");
                    last = Some(run_sql(dir.path(), line, &script, word("batch-rows")));
                    count += 1;
                    let (success, printed) = last.as_ref().unwrap();
                    assert!(*success, "{place}: {printed}");
                } else if language == "sh" && is("run") {
                    let path = format!(
                        "{}:{}",
                        Path::new(MILLSTREAM).parent().unwrap().display(),
                        std::env::var("PATH").unwrap()
                    );
                    let ran = Command::new("sh").args(["-c", &body]).env("PATH", path).current_dir(dir.path()).output();
                    let ran = ran.unwrap();
                    last = Some((true, printed(&ran)));
                    count += 1;
                } else if language == "text" {
                    let (_, printed) = last.as_ref().unwrap_or_else(|| panic!("{place}: nothing was run before"));
                    let account = body.contains("= used");
                    assert_eq!(shown(printed, account), shown(&body, account), "{place}");
                    count += 1;
                }
            }
        }
    }
    count
}

fn run_sql(dir: &Path, line: usize, script: &str, batch_rows: Option<&str>) -> (bool, String) {
    let output = if script.contains("INSERT INTO") {
        let name = format!("line-{line}.sql");
        fs::write(dir.join(&name), script).unwrap();
        millstream(dir, &["run", "--quiet", "--max-batch-rows", batch_rows.unwrap_or("65536"), &name])
    } else {
        millstream(dir, &["sql", "-c", script])
    };
    (output.status.success(), printed(&output))
}

fn millstream(dir: &Path, args: &[&str]) -> Output {
    Command::new(MILLSTREAM).args(args).current_dir(dir).output().unwrap()
}

fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What is compared of an answer: its rows; the summary of a run only where the page shows it.
fn shown(text: &str, summary: bool) -> Vec<String> {
    let lines = normal(text).into_iter();
    lines.filter(|l| summary || !(l.contains(": ended") || l.contains("= used"))).collect()
}

/// The lines without lengths of time and space at their ends.
fn normal(text: &str) -> Vec<String> {
    let line = |line: &str| match line.split_once(" after ") {
        Some((before, after)) if before.ends_with("was read") || before.ends_with("stopped") => {
            let rest = after.find(" at batch").map_or("", |n| &after[n..]);
            format!("{before} after ..{rest}")
        }
        _ => line.trim_end().to_string(),
    };
    text.lines().map(line).map(|l| without_fingerprints(&l)).filter(|l| !l.is_empty()).collect()
}

/// State is named by a fingerprint, `window-0123456789abcdef`, which a page need not follow.
fn without_fingerprints(line: &str) -> String {
    let is_fingerprint = |part: &&str| {
        part.get(..16).is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit())) && !part.starts_with(' ')
    };
    let mut parts = line.split('-');
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        out.push('-');
        out.push_str(if is_fingerprint(&part) { &part[16..] } else { part });
    }
    out
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|e| (e.path(), e.file_name())).unwrap();
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().map(|e| e.unwrap().path());
    entries.flat_map(|p| if p.is_dir() { files(&p) } else { vec![p] }).collect()
}
