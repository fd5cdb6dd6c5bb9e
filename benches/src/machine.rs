//! What the numbers were measured on: cores, kernel, memory, file system, and how long its fsync takes.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Result;
use crate::args::Settings;
use crate::stats::{Random, percentile};
use crate::table::{Table, bytes};

/// Prints the machine.
///
/// # Errors
/// Where the directory of the data cannot be written.
pub fn describe(settings: &Settings) -> Result<()> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = field(&read("/proc/cpuinfo"), "model name");
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let memory = memory.trim_end_matches(" kB").parse::<u64>().map(|kb| bytes(kb * 1024)).unwrap_or_default();
    let times = settings.sized(1000, 200);
    let mut table = Table::new("Machine", &["what", "value"]);
    let mut row = |what: &str, value: String| table.row(vec![what.to_string(), value]);
    row("cores", std::thread::available_parallelism().map(|n| n.to_string()).unwrap_or_default());
    row("cpu", cpu);
    row("kernel", read("/proc/sys/kernel/osrelease").trim().to_string());
    row("memory", memory);
    row("file system", file_system(&read("/proc/mounts"), &settings.data.canonicalize()?));
    row("load before (1, 5, 15 min)", read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "));
    for (name, pace) in [("with pauses of 1 to 3 ms", Pace::Paused), ("back to back", Pace::BackToBack)] {
        let us = append_latencies_us(&settings.data, times, pace)?;
        let (p50, p99) = (percentile(&us, 0.5) / 1000.0, percentile(&us, 0.99) / 1000.0);
        row(&format!("one-line append + fdatasync, {name}"), format!("p50 {p50:.3} ms, p99 {p99:.3} ms"));
    }
    row("sizes", settings.sized("full", "quick: no numbers to quote").to_string());
    if cfg!(debug_assertions) {
        row("build", "dev: the peers are slow, ratios mean nothing".to_string());
    }
    table.print();
    Ok(())
}

/// How one thing follows another. A disk that is asked again at once may answer much later than one that
/// had a moment: both are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// After a pause of 1 to 3 ms.
    Paused,
    /// At once.
    BackToBack,
}

impl Pace {
    /// Waits as long as it says.
    pub fn wait(self, random: &mut Random) {
        if self == Self::Paused {
            std::thread::sleep(Duration::from_micros(1000 + random.below(2000)));
        }
    }
}

/// Microseconds that appending one line and making it durable takes, each time, on this file system.
///
/// # Errors
/// Where the directory cannot be written.
pub fn append_latencies_us(dir: &Path, times: usize, pace: Pace) -> Result<Vec<f64>> {
    let mut random = Random::new(11);
    let mut file = tempfile::tempfile_in(dir)?;
    let mut latencies = Vec::with_capacity(times);
    for i in 0..times {
        let line = format!("{{\"id\":{i},\"v\":{i}}}\n");
        pace.wait(&mut random);
        let before = Instant::now();
        file.write_all(line.as_bytes())?;
        file.sync_data()?;
        latencies.push(before.elapsed().as_secs_f64() * 1e6);
    }
    Ok(latencies)
}

fn field(text: &str, name: &str) -> String {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_string()).next().unwrap_or_default()
}

/// The type of the file system that is mounted nearest above the path.
fn file_system(mounts: &str, path: &Path) -> String {
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.nth(1)?, words.next()?))
    });
    let above = mounts.filter(|(mount, _)| path.starts_with(mount));
    above.max_by_key(|(mount, _)| mount.len()).map(|(_, kind)| kind.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_tells_the_file_system() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\nproc /proc proc rw 0 0\n";
        assert_eq!(file_system(mounts, Path::new("/tmp/x")), "tmpfs");
        assert_eq!(file_system(mounts, Path::new("/tmpx")), "ext4");
    }

    #[test]
    fn a_field_is_found_by_its_name() {
        assert_eq!(field("MemFree: 1 kB\nMemTotal:   16 kB\n", "MemTotal"), "16 kB");
        assert_eq!(field("", "MemTotal"), "");
    }

    #[test]
    fn every_append_is_timed() {
        let dir = tempfile::tempdir().unwrap();
        let latencies = append_latencies_us(dir.path(), 3, Pace::BackToBack).unwrap();
        assert_eq!(latencies.len(), 3);
        assert!(latencies.iter().all(|us| *us > 0.0));
    }
}
