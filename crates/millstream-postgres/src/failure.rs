//! What an error of the server or of the connection means for the loop.
//!
//! [`ErrorKind::Retry`] is what passes by itself: a connection that broke, a server that restarts or is full, a
//! transaction that lost against another one. None of these says that a batch is stored; where the answer to a
//! COMMIT was lost, the marker says it when the sink is opened again. An option, a password or a permission is
//! [`ErrorKind::Config`]. Everything else is [`ErrorKind::Sink`]: the same rows would be refused again.

use std::error::Error as StdError;
use std::fmt::Display;

use millstream_core::{Error, ErrorKind};

/// The error of a step, for example "the rows can't be copied".
pub(crate) fn failed(what: impl Display, error: tokio_postgres::Error) -> Error {
    let Some(said) = error.as_db_error() else {
        let kind = kind_of_connection(&error);
        let remedy =
            if kind == ErrorKind::Retry { "" } else { "; check 'url', 'username', 'password' and the TLS options" };
        return Error::new(kind, format!("{what}{remedy}")).caused_by(error);
    };
    let code = said.code().code();
    let mut message = format!("{what}: PostgreSQL says: {} (SQLSTATE {code})", said.message());
    let more = [("detail", said.detail()), ("hint", said.hint()), ("where", said.where_())];
    for (name, text) in more.into_iter().filter_map(|(name, text)| Some((name, text?))) {
        message.push_str(&format!("; {name}: {}", text.trim_end()));
    }
    if let Some(remedy) = remedy(code) {
        message.push_str(&format!(". {remedy}"));
    }
    Error::new(kind_of_state(code), message)
}

/// The kind that a SQLSTATE stands for.
fn kind_of_state(code: &str) -> ErrorKind {
    match code {
        // Serialization failure, deadlock, lock time-out, cancelled or out of time, a standby that can't be written.
        "40001" | "40P01" | "55P03" | "57014" | "25006" | "25P03" => ErrorKind::Retry,
        // Shut down by an administrator, crashed, starting up, idle for too long.
        "57P01" | "57P02" | "57P03" | "57P05" => ErrorKind::Retry,
        // Wrong password, no such database or schema, no permission.
        "3D000" | "3F000" | "42501" => ErrorKind::Config,
        _ => match code.get(..2) {
            Some("28") => ErrorKind::Config,
            // The connection; the disk, memory or connections are used up; the operating system failed.
            Some("08" | "53" | "58") => ErrorKind::Retry,
            _ => ErrorKind::Sink,
        },
    }
}

fn remedy(code: &str) -> Option<&'static str> {
    Some(match code {
        "53100" => "The server's disk is full: make room, the batch is then published",
        "53300" => "The server has no connection left: raise max_connections or use a pool",
        "42501" => "Grant the user what is missing",
        "28P01" | "28000" => "Check 'username', 'password' and the server's pg_hba.conf",
        "3D000" => "Create the database, or check 'url'",
        "42P01" | "42703" => "The table was changed while the query ran: put it back and start the query again",
        "23502" | "23503" | "23505" | "23514" | "23P01" => {
            "A constraint of the table refuses a row: change the query, or drop the constraint"
        }
        "22021" | "22P05" => "PostgreSQL can't hold the character U+0000 in text: replace it in the query",
        _ => return None,
    })
}

/// An error that no server sent.
fn kind_of_connection(error: &tokio_postgres::Error) -> ErrorKind {
    let text = error.to_string();
    if ["authentication error", "invalid configuration", "invalid connection string"].contains(&text.as_str()) {
        return ErrorKind::Config;
    }
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.downcast_ref::<rustls::Error>().is_some_and(is_for_good)
            || error.to_string() == "server does not support TLS"
        {
            return ErrorKind::Config;
        }
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = match inner {
            Some(inner) => Some(inner as &dyn StdError),
            None => error.source(),
        };
    }
    ErrorKind::Retry
}

/// Whether the two sides will never agree.
fn is_for_good(error: &rustls::Error) -> bool {
    use rustls::Error::{AlertReceived, InvalidCertificate, NoCertificatesPresented, PeerIncompatible};
    matches!(error, InvalidCertificate(_) | NoCertificatesPresented | PeerIncompatible(_) | AlertReceived(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_tried_again_and_nothing_else() {
        for code in ["40001", "40P01", "53100", "53300", "57P01", "57P03", "08006", "58030", "55P03"] {
            assert_eq!(kind_of_state(code), ErrorKind::Retry, "{code}");
        }
        for code in ["28P01", "3D000", "42501"] {
            assert_eq!(kind_of_state(code), ErrorKind::Config, "{code}");
        }
        for code in ["23505", "22P02", "42P01", "21000", "XX000"] {
            assert_eq!(kind_of_state(code), ErrorKind::Sink, "{code}");
        }
    }
}
