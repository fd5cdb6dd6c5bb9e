//! What the process answers to a script.

use std::process::ExitCode;

use millstream::ErrorKind;

/// The exit codes, for `--help`.
pub const HELP: &str = "Exit codes: 0 done, 1 a fault of millstream's own, 2 wrong arguments, 3 bad SQL, \
4 bad configuration, 5 refused by an owner, 6 corrupt state, 7 a failing sink, 8 unreadable input, \
9 a batch gave other rows when it was run again.";

/// The exit code for a kind of error.
pub fn code(kind: ErrorKind) -> ExitCode {
    ExitCode::from(match kind {
        ErrorKind::Query => 3,
        ErrorKind::Config => 4,
        ErrorKind::Owned => 5,
        ErrorKind::Corrupt => 6,
        ErrorKind::Sink => 7,
        ErrorKind::Input | ErrorKind::Retry | ErrorKind::Row => 8,
        ErrorKind::Diverged => 9,
        _ => 1,
    })
}
