//! The one error of Millstream. Its kinds name the remedy, so that a caller can act on them.

use std::fmt;

/// What has to happen before the same thing can work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Try again: the cause passes by itself (a connection dropped, a time-out).
    Retry,
    /// Fix the input: a file is missing, truncated, or changed under a recorded range.
    Input,
    /// Fix the query: it does not parse, plan, or mean anything on a stream.
    Query,
    /// Fix an option, a path or a permission.
    Config,
    /// Another process owns the log or the sink, or has taken it over.
    Owned,
    /// What is on disk is not what was written.
    Corrupt,
    /// A batch, run again, gave other rows than were published.
    Diverged,
    /// The sink refused for good, or stayed away longer than was tolerated.
    Sink,
    /// A row makes an expression fail. The loop finds the row and leaves it out.
    Row,
    /// A fault of Millstream's own.
    Bug,
}

/// What happened, where, and what to do next.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of this kind. The message says what happened, where, and what to do next.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// The same error, with what caused it.
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error, with the place it happened put before its message.
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// What has to happen before the same thing can work.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message without its causes.
    pub fn message(&self) -> &str {
        &self.message
    }
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident),* $(,)?) => {
        impl Error { $( $(#[$doc])* pub fn $name(message: impl Into<String>) -> Self { Self::new(ErrorKind::$kind, message) } )* }
    };
}
constructors! {
    /// An [`ErrorKind::Retry`].
    retry => Retry,
    /// An [`ErrorKind::Input`].
    input => Input,
    /// An [`ErrorKind::Query`].
    query => Query,
    /// An [`ErrorKind::Config`].
    config => Config,
    /// An [`ErrorKind::Owned`].
    owned => Owned,
    /// An [`ErrorKind::Corrupt`].
    corrupt => Corrupt,
    /// An [`ErrorKind::Diverged`].
    diverged => Diverged,
    /// An [`ErrorKind::Sink`].
    sink => Sink,
    /// An [`ErrorKind::Row`].
    row => Row,
    /// An [`ErrorKind::Bug`].
    bug => Bug,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut cause = self.source.as_deref().map(|e| e as &dyn std::error::Error);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn std::error::Error + 'static))
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::bug("arrow refused a record batch").caused_by(error)
    }
}
