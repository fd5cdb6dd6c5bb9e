//! The binary as a child process, in a directory of its own.

#![allow(dead_code, reason = "each test binary uses its own share of this")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Nothing here takes so long, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command of the binary, with its working directory here and its output in files there.
pub struct Millstream<'a> {
    dir: &'a Path,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

/// What a command left.
#[derive(Debug)]
pub struct Done {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The command must have succeeded.
    pub fn ok(self) -> Self {
        assert!(self.status.success(), "{:?}\n{}\n{}", self.status, self.stdout, self.stderr);
        self
    }

    /// The command must have failed so, and said all of this.
    pub fn fails_with(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code(), Some(code), "{}\n{}", self.stdout, self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "'{word}' is not said in:\n{}", self.stderr);
        }
        self
    }
}

/// A command that runs.
pub struct Process {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl<'a> Millstream<'a> {
    pub fn new(dir: &'a Path, args: &[&str]) -> Self {
        Self { dir, args: args.iter().map(|a| (*a).to_string()).collect(), env: vec![] }
    }

    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.push((name.to_string(), value.to_string()));
        self
    }

    pub fn spawn(self) -> Process {
        static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let logs = self.dir.join("logs");
        fs::create_dir_all(&logs).unwrap();
        let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (stdout, stderr) = (logs.join(format!("{n:06}.out")), logs.join(format!("{n:06}.err")));
        let child = Command::new(env!("CARGO_BIN_EXE_millstream"))
            .args(&self.args)
            .envs(self.env)
            .current_dir(self.dir)
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
        Process { child, stdout, stderr }
    }

    /// Runs to the end.
    pub fn run(self) -> Done {
        self.spawn().wait()
    }
}

impl Process {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end; one that hangs is killed, and fails the test.
    pub fn wait(mut self) -> Done {
        let until = Instant::now() + PATIENCE;
        while !self.ended() {
            if Instant::now() > until {
                self.child.kill().unwrap();
                let done = self.done();
                panic!("it hangs:\n{}\n{}", done.stdout, done.stderr);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.done()
    }

    /// SIGKILL.
    pub fn kill(mut self) -> Done {
        self.child.kill().unwrap();
        self.done()
    }

    /// SIGTERM or SIGINT.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.is_ok(), "{sent:?}");
    }

    /// Waits for something, as long as it runs.
    pub fn until(&mut self, mut there: impl FnMut() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !there() && !self.ended() {
            assert!(Instant::now() < until, "what was waited for does not come:\n{}", read(&self.stderr));
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    fn done(&mut self) -> Done {
        let status = self.child.wait().unwrap();
        Done { status, stdout: read(&self.stdout), stderr: read(&self.stderr) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Where an assertion failed it may still run.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `status --json` says of the only query.
pub fn status(dir: &Path, state: &str) -> Value {
    let done = Millstream::new(dir, &["status", state, "--json"]).run().ok();
    let mut status: Value = serde_json::from_str(&done.stdout).unwrap();
    status["queries"][0].take()
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
