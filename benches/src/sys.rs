//! The few system calls that the standard library has no words for. All `unsafe` of the benchmark is here.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// What a process used, from its start to its end, its threads included.
#[derive(Clone, Copy, Debug)]
pub struct Reaped {
    /// As `wait` gives it.
    pub status: i32,
    /// Seconds of CPU in user mode.
    pub user_s: f64,
    /// Seconds of CPU in the kernel on its behalf.
    pub system_s: f64,
    /// The most memory it held at once.
    pub rss_bytes_max: u64,
}

/// Takes a child's end, if it has ended.
///
/// The kernel begins a child's largest resident size with that of the process that started it: the
/// benchmark itself must stay small.
pub fn reap(pid: u32) -> Result<Option<Reaped>> {
    let pid = pid_t(pid)?;
    let mut status = 0;
    // SAFETY: an `rusage` is plain numbers, for which zeros are values.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to locals that outlive the call.
    let got = unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG, &raw mut usage) };
    match got {
        0 => Ok(None),
        _ if got == pid => Ok(Some(Reaped {
            status,
            user_s: seconds(usage.ru_utime),
            system_s: seconds(usage.ru_stime),
            rss_bytes_max: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
        })),
        _ => Err(Error::last_os_error()),
    }
}

fn seconds(time: libc::timeval) -> f64 {
    time.tv_sec as f64 + time.tv_usec as f64 / 1e6
}

fn pid_t(pid: u32) -> Result<libc::pid_t> {
    libc::pid_t::try_from(pid).map_err(|e| Error::new(ErrorKind::InvalidInput, e))
}

/// SIGTERM sets a flag from now on, and does nothing else.
#[cfg(feature = "kafka")]
pub fn on_terminate(stop: &std::sync::Arc<std::sync::atomic::AtomicBool>) -> Result<()> {
    use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
    static FLAG: AtomicPtr<AtomicBool> = AtomicPtr::new(std::ptr::null_mut());
    extern "C" fn set(_: libc::c_int) {
        // SAFETY: the pointer is null or to a flag that is never freed.
        if let Some(flag) = unsafe { FLAG.load(Ordering::Relaxed).as_ref() } {
            flag.store(true, Ordering::Relaxed);
        }
    }
    FLAG.store(std::sync::Arc::into_raw(std::sync::Arc::clone(stop)).cast_mut(), Ordering::Relaxed);
    let handler: extern "C" fn(libc::c_int) = set;
    // SAFETY: the handler only stores to an atomic.
    let before = unsafe { libc::signal(libc::SIGTERM, handler as libc::sighandler_t) };
    if before == libc::SIG_ERR { Err(Error::last_os_error()) } else { Ok(()) }
}

/// Sends a signal to a child that was not reaped yet.
pub fn signal(pid: u32, signal: libc::c_int) -> Result<()> {
    // SAFETY: `kill` takes no pointers.
    let done = unsafe { libc::kill(pid_t(pid)?, signal) };
    if done == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

/// Seconds of CPU that this process has used so far.
pub fn cpu_s() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local that outlives the call.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    if done == 0 { time.tv_sec as f64 + time.tv_nsec as f64 / 1e9 } else { 0.0 }
}

/// How many ticks of `/proc/PID/stat` are a second.
pub fn ticks_per_second() -> f64 {
    // SAFETY: `sysconf` takes no pointers.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    if ticks > 0 { ticks as f64 } else { 100.0 }
}

/// Wakes when a file is written to.
#[derive(Debug)]
pub struct Watch {
    fd: OwnedFd,
}

impl Watch {
    /// Watches one file that is there.
    pub fn new(path: &Path) -> Result<Self> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: no pointers; the descriptor is checked before it is owned.
        let raw = unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) };
        if raw < 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: the descriptor was just opened and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: the name ends in a NUL and outlives the call.
        let watch = unsafe { libc::inotify_add_watch(fd.as_raw_fd(), name.as_ptr(), libc::IN_MODIFY) };
        if watch < 0 { Err(Error::last_os_error()) } else { Ok(Self { fd }) }
    }

    /// Waits for a write since the last call, or for the time to pass.
    pub fn wait(&self, timeout: Duration) -> Result<()> {
        let millis = libc::c_int::try_from(timeout.as_millis()).unwrap_or(libc::c_int::MAX);
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, as said, in a local that outlives the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, millis) };
        if ready < 0 {
            let error = Error::last_os_error();
            return if error.kind() == ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        let mut events = [0u8; 4096];
        if ready > 0 {
            // SAFETY: the length is the buffer's. What is read is thrown away: that it came is the news.
            let read = unsafe { libc::read(self.fd.as_raw_fd(), events.as_mut_ptr().cast(), events.len()) };
            if read < 0 {
                let error = Error::last_os_error();
                return if error.kind() == ErrorKind::WouldBlock { Ok(()) } else { Err(error) };
            }
        }
        Ok(())
    }
}
