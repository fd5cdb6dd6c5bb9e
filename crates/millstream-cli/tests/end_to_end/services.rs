//! PostgreSQL for these tests, asked with plain `psql`.

use std::fs::File;
use std::path::Path;
use std::process::Command;

/// A server that `tests/services/postgres.sh` starts.
pub struct Postgres {
    name: &'static str,
    pub url: String,
}

impl Postgres {
    pub fn start(name: &'static str) -> Self {
        Self { name, url: script(name, "start") }
    }

    /// SIGKILL for every process of it.
    pub fn kill(&self) {
        script(self.name, "kill");
    }

    /// As it was before.
    pub fn start_again(&self) {
        assert_eq!(script(self.name, "start"), self.url);
    }

    /// The rows that psql prints, sorted: `a|1`, with `~` for NULL.
    pub fn rows(&self, sql: &str) -> Vec<String> {
        let psql = Command::new("psql").args([&self.url, "-XAtq", "-P", "null=~", "-c", sql]).output();
        let done = psql.unwrap_or_else(|e| panic!("psql can't be run, install the client of PostgreSQL: {e}"));
        assert!(done.status.success(), "{sql}: {}", String::from_utf8_lossy(&done.stderr));
        let text = String::from_utf8(done.stdout).unwrap();
        let mut rows: Vec<String> = text.lines().map(str::to_string).collect();
        rows.sort();
        rows
    }
}

fn script(name: &str, verb: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/services/postgres.sh");
    let done = Command::new(path).args([verb, name]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr).trim());
    String::from_utf8(done.stdout).unwrap().trim().to_string()
}

/// Services that are killed belong to one test at a time, of all processes.
pub fn mine_alone(name: &str) -> File {
    let file = File::create(std::env::temp_dir().join(format!("millstream-{name}.lock"))).unwrap();
    file.lock().unwrap();
    file
}
