//! A growing file, read as it grows: whole lines only.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::process::Process;
use crate::sys::Watch;
use crate::{Result, answer};

/// What has not been seen of a growing file.
#[derive(Debug)]
pub struct Tail {
    file: File,
    watch: Watch,
    unfinished: Vec<u8>,
    path: PathBuf,
}

impl Tail {
    /// Begins at the start of the output as soon as its file is there; a file, or the one file of a directory.
    ///
    /// # Errors
    /// Where the process that shall write it ends, or does not write it in time.
    pub fn open(output: &Path, writer: &mut Process, timeout: Duration) -> Result<Self> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(path) = growing_file(output) {
                let watch = Watch::new(&path)?;
                return Ok(Self { file: File::open(&path)?, watch, unfinished: Vec::new(), path });
            }
            still_running(writer, deadline, output)?;
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The lines that have come since the last call; it does not wait.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn lines(&mut self) -> Result<Vec<String>> {
        self.file.read_to_end(&mut self.unfinished)?;
        let Some(end) = self.unfinished.iter().rposition(|byte| *byte == b'\n') else { return Ok(Vec::new()) };
        let rest = self.unfinished.split_off(end + 1);
        let whole = std::mem::replace(&mut self.unfinished, rest);
        Ok(String::from_utf8(whole)?.lines().map(String::from).collect())
    }

    /// Waits for at least one line, woken by the write that brings it.
    ///
    /// # Errors
    /// Where the process that shall write it ends, or does not write it in time.
    pub fn next_lines(&mut self, writer: &mut Process, timeout: Duration) -> Result<Vec<String>> {
        let deadline = Instant::now() + timeout;
        loop {
            let lines = self.lines()?;
            if !lines.is_empty() {
                return Ok(lines);
            }
            // Asked only where nothing came, so the usual case is one wake-up and one read; and once more read
            // before its end is believed, for its last words.
            if let Err(gone) = still_running(writer, deadline, &self.path) {
                let lines = self.lines()?;
                return if lines.is_empty() { Err(gone) } else { Ok(lines) };
            }
            self.watch.wait(Duration::from_millis(200))?;
        }
    }

    /// Makes durable what was read: an upper bound of when it was.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn sync(&self) -> Result<()> {
        Ok(self.file.sync_data()?)
    }
}

/// The file of an output with one growing file, if it is there yet.
pub fn growing_file(output: &Path) -> Option<PathBuf> {
    if output.is_file() {
        return Some(output.to_path_buf());
    }
    if output.is_dir() { answer::files(output).ok()?.into_iter().next() } else { None }
}

/// # Errors
/// Where the process has ended, or the time is up.
pub fn still_running(writer: &mut Process, deadline: Instant, output: &Path) -> Result<()> {
    if writer.ended()?.is_some() {
        return Err(format!("the engine ended and {} lacks an answer", output.display()).into());
    }
    if Instant::now() >= deadline {
        return Err(format!("no answer in {} in time", output.display()).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn lines_come_whole_and_once_as_they_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out.ndjson");
        let mut shell = Command::new("sh");
        shell.args(["-c", "printf 'one\\ntw' > $0; sleep 0.05; printf 'o\\nthree\\n' >> $0; exec sleep 5"]).arg(&out);
        let mut writer = Process::start(&mut shell, &dir.path().join("log")).unwrap();
        let timeout = Duration::from_secs(5);
        let mut tail = Tail::open(&out, &mut writer, timeout).unwrap();
        let mut lines = Vec::new();
        while lines.len() < 3 {
            lines.extend(tail.next_lines(&mut writer, timeout).unwrap());
        }
        assert_eq!(lines, ["one", "two", "three"]);
        writer.kill().unwrap();
        assert!(tail.next_lines(&mut writer, timeout).is_err(), "nobody writes any more");
    }

    #[test]
    fn a_writer_that_fails_is_an_error_and_no_endless_wait() {
        let dir = tempfile::tempdir().unwrap();
        let mut shell = Command::new("sh");
        let mut writer = Process::start(shell.args(["-c", "exit 1"]), &dir.path().join("log")).unwrap();
        assert!(Tail::open(&dir.path().join("none"), &mut writer, Duration::from_secs(5)).is_err());
    }
}
