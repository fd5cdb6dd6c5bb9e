//! The engine as its user meets it: `millstream run pipeline.sql --state DIR ..`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Result;
use crate::args::Settings;
use crate::process::{Process, Usage};

/// The binary under measurement.
#[derive(Clone, Debug)]
pub struct Engine {
    binary: PathBuf,
    timeout: Duration,
}

impl Engine {
    /// The binary that was named, or the one beside this program.
    ///
    /// # Errors
    /// Where there is none, unless only peers are run.
    pub fn find(settings: &Settings) -> Result<Self> {
        let beside = || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("millstream"));
        let binary = settings.binary.clone().map_or_else(beside, Ok)?;
        if !binary.is_file() && !settings.peers_only {
            return Err(format!(
                "there is no engine at {}: build it with `cargo build --release -p millstream-cli`, \
                 or name one with --binary PATH",
                binary.display()
            )
            .into());
        }
        Ok(Self { binary, timeout: settings.timeout })
    }

    /// How long a run may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Starts a pipeline whose state and log lie in `dir`.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(&self, dir: &Path, sql: &str, arguments: &[&str]) -> Result<Process> {
        let file = dir.join("pipeline.sql");
        std::fs::write(&file, sql)?;
        let mut command = Command::new(&self.binary);
        command.arg("run").arg(&file).arg("--state").arg(state(dir)).args(arguments);
        Process::start(&mut command, &dir.join("engine.log"))
    }

    /// Runs a pipeline over what is there, to its end.
    ///
    /// # Errors
    /// Where it does not end well.
    pub fn run(&self, dir: &Path, sql: &str, arguments: &[&str]) -> Result<Usage> {
        let arguments = [&["--trigger", "available-now"], arguments].concat();
        self.start(dir, sql, &arguments)?.wait(self.timeout)
    }
}

/// Where a pipeline in this directory keeps its state.
pub fn state(dir: &Path) -> PathBuf {
    dir.join("state")
}

/// A new directory for a run, on the file system of the data; removed with its guard unless it is to be kept.
///
/// # Errors
/// Where it cannot be made.
pub fn run_directory(settings: &Settings, name: &str) -> Result<tempfile::TempDir> {
    let mut dir = tempfile::Builder::new().prefix(&format!("run-{name}-")).tempdir_in(&settings.data)?;
    dir.disable_cleanup(settings.keep);
    Ok(dir)
}

/// A table of NDJSON files. `options` are further `, 'name' = 'value'` of WITH.
pub fn json_table(name: &str, columns: &str, path: &Path, options: &str) -> String {
    let path = path.display().to_string().replace('\'', "''");
    format!(
        "CREATE TABLE {name} ({columns}) WITH ('connector' = 'filesystem', 'path' = '{path}', 'format' = 'json'{options});\n"
    )
}

/// What the files below a directory take on disk.
pub fn size_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    // A running engine removes files between the listing and the look: those are gone.
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size_bytes(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_in_a_path_stays_inside_the_sql() {
        let sql = json_table("t", "a BIGINT", Path::new("/tmp/it's"), ", 'sink.layout' = 'append'");
        assert!(sql.contains("'path' = '/tmp/it''s', 'format' = 'json', 'sink.layout' = 'append');"), "{sql}");
    }

    #[test]
    fn the_size_of_a_directory_counts_what_lies_below() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/x"), [0; 10]).unwrap();
        std::fs::write(dir.path().join("y"), [0; 5]).unwrap();
        assert_eq!(size_bytes(dir.path()), 15);
        assert_eq!(size_bytes(&dir.path().join("none")), 0);
    }
}
