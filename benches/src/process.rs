//! A program under measurement: a child process, what it used, and its end.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::{Result, sys};

/// How often a running child is looked at.
const POLL: Duration = Duration::from_millis(2);

/// What a program used from its start to its end.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Seconds of CPU, user and system, of all threads.
    pub cpu_s: f64,
    /// Seconds that passed.
    pub wall_s: f64,
    /// The most memory it held at once.
    pub rss_bytes_max: u64,
}

/// A child process. Dropped before its end, it is killed.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    started: Instant,
    log: PathBuf,
    ended: Option<(ExitStatus, Usage)>,
}

impl Process {
    /// Starts a program, with what it says on both channels appended to the log.
    ///
    /// # Errors
    /// Where there is no such program.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let out = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let started = Instant::now();
        let child =
            command.spawn().map_err(|e| format!("{} cannot be started: {e}", command.get_program().display()))?;
        Ok(Self { pid: child.id(), started, log: log.to_path_buf(), ended: None })
    }

    /// When it was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// What it used, if it has ended.
    ///
    /// # Errors
    /// Where it ended badly: with what it said last.
    pub fn ended(&mut self) -> Result<Option<Usage>> {
        self.reap()?;
        let Some((status, usage)) = self.ended else { return Ok(None) };
        if status.success() { Ok(Some(usage)) } else { Err(self.failure(&status.to_string())) }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Where it ended badly, or not in time: it is killed then.
    pub fn wait(&mut self, timeout: Duration) -> Result<Usage> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(usage) = self.ended()? {
                return Ok(usage);
            }
            if Instant::now() >= deadline {
                self.kill()?;
                return Err(self.failure(&format!("did not end within {} s and was killed", timeout.as_secs())));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Asks it to end, and waits.
    ///
    /// # Errors
    /// Where it does not end cleanly.
    pub fn terminate(&mut self, timeout: Duration) -> Result<Usage> {
        if self.ended.is_none() {
            sys::signal(self.pid, libc::SIGTERM)?;
        }
        self.wait(timeout)
    }

    /// Kills it, at once and without asking.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.reap()?;
        while self.ended.is_none() {
            sys::signal(self.pid, libc::SIGKILL)?;
            std::thread::sleep(POLL);
            self.reap()?;
        }
        Ok(())
    }

    /// The memory it holds now; `None` where it is gone.
    pub fn rss_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
    }

    /// Seconds of CPU that it has used so far, in steps of a clock tick; `None` where it is gone.
    pub fn cpu_s(&self) -> Option<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        // The name, in parentheses, may hold anything; user and system ticks are fields 14 and 15.
        let (_, fields) = stat.rsplit_once(')')?;
        let ticks: Vec<f64> = fields.split_whitespace().skip(11).take(2).filter_map(|n| n.parse().ok()).collect();
        Some(ticks.iter().sum::<f64>() / sys::ticks_per_second())
    }

    fn reap(&mut self) -> Result<()> {
        if self.ended.is_some() {
            return Ok(());
        }
        if let Some(reaped) = sys::reap(self.pid)? {
            let usage = Usage {
                cpu_s: reaped.user_s + reaped.system_s,
                wall_s: self.started.elapsed().as_secs_f64(),
                rss_bytes_max: reaped.rss_bytes_max,
            };
            self.ended = Some((ExitStatus::from_raw(reaped.status), usage));
        }
        Ok(())
    }

    fn failure(&self, what: &str) -> Box<dyn std::error::Error + Send + Sync> {
        let said = std::fs::read(&self.log).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let last: Vec<_> = said.lines().rev().filter(|line| !line.trim().is_empty()).take(4).collect();
        let last: Vec<_> = last.into_iter().rev().collect();
        format!("{what}; it said: {}", if last.is_empty() { "nothing".into() } else { last.join(" | ") }).into()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A child must not outlive a benchmark that gave up; there is nobody left to tell of an error.
        let _ = self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (tempfile::TempDir, Process) {
        let dir = tempfile::tempdir().unwrap();
        let process = Process::start(Command::new("sh").args(["-c", script]), &dir.path().join("log")).unwrap();
        (dir, process)
    }

    #[test]
    fn the_cpu_of_a_child_is_counted() {
        let (_dir, mut busy) = shell("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done");
        let usage = busy.wait(Duration::from_secs(30)).unwrap();
        assert!(usage.cpu_s > 0.0, "{usage:?}");
        assert!(usage.rss_bytes_max > 100_000, "{usage:?}");
    }

    #[test]
    fn a_child_that_fails_is_an_error_with_what_it_said() {
        let (_dir, mut failing) = shell("echo no such table >&2; exit 3");
        let error = failing.wait(Duration::from_secs(30)).unwrap_err().to_string();
        assert!(error.contains("no such table") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_child_that_hangs_is_killed_at_its_time() {
        let (_dir, mut hanging) = shell("exec sleep 60");
        assert!(hanging.rss_bytes().is_some() && hanging.cpu_s().is_some());
        let error = hanging.wait(Duration::from_millis(20)).unwrap_err().to_string();
        assert!(error.contains("did not end"), "{error}");
        assert!(hanging.ended().is_err(), "a killed child did not end well");
    }
}
