//! What is said on the terminal. Nobody has to listen: where the reader has gone (`| head`), nothing more is said, and
//! nothing else changes.

use std::fmt::Arguments;
use std::io::Write;

/// A line to stdout; whether somebody still reads.
pub fn line(text: Arguments<'_>) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_fmt(text).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()).is_ok()
}

/// A line to stderr.
pub fn aside(text: Arguments<'_>) {
    let mut out = std::io::stderr().lock();
    // There is nowhere left to complain.
    let _ = out.write_fmt(text).and_then(|()| out.write_all(b"\n"));
}

/// `println!` that never panics; whether somebody still reads.
macro_rules! say {
    ($($text:tt)*) => { $crate::out::line(format_args!($($text)*)) };
}

/// `eprintln!` that never panics.
macro_rules! complain {
    ($($text:tt)*) => { $crate::out::aside(format_args!($($text)*)) };
}

pub(crate) use {complain, say};
