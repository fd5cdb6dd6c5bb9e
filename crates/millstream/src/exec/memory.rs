//! What the state of an operator is called, how long it is kept, and what may be missing in its input.

use std::sync::Arc;

use datafusion::common::DataFusionError;
use millstream_core::Error;

use super::changes::state_error;

/// How long the keys of each input are remembered when nothing touches them (`state.ttl`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lifetime {
    /// For each input, in microseconds; `None` where keys are kept as long as the query. An operator over one input
    /// looks at the first.
    pub idle_us: [Option<i64>; 2],
    /// Whether anything in the query forgets: then a row can be taken back that nobody remembers, which is ignored.
    pub forgetful: bool,
}

/// What an operator's memory is called and how it is kept.
#[derive(Clone, Debug)]
pub struct Memory {
    /// The name of the state within the query.
    pub name: Arc<str>,
    /// How long keys are remembered.
    pub lifetime: Lifetime,
    /// The tables below it that are changelogs without a key, for errors.
    pub changelogs: Arc<[String]>,
}

impl Memory {
    /// What is to be done with a row that is taken back and that never came, as far as is known here: it is ignored
    /// where the query forgets.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Input`] where it does not.
    pub(super) fn unknown_row(&self, operator: &str) -> Result<(), DataFusionError> {
        if self.lifetime.forgetful {
            return Ok(());
        }
        let (tables, which) = match self.changelogs.as_ref() {
            [] => (String::new(), "the table whose rows change".to_string()),
            [table] => (format!(", {table},"), table.clone()),
            tables => (format!(" ({})", tables.join(", ")), tables.join(", or ")),
        };
        Err(state_error(Error::input(format!(
            "{operator} ({}) is to take back a row that never came: a changelog that it reads{tables} is not complete, or the \
             row was rejected when it came, because a result of it failed (it is in $rejected then). A changelog that is \
             not complete begins after that row was made, or takes back a row that differs from the one it gave. Declare \
             a PRIMARY KEY (..) NOT ENFORCED on {which}: then the last row of each key is kept, and what is missing does \
             no harm; and guard what fails (NULLIF, TRY_CAST, CASE)",
            self.name
        ))))
    }

    /// For how long the keys of an input are remembered.
    pub(super) fn idle_us(&self, input: usize) -> Option<i64> {
        self.lifetime.idle_us.get(input).copied().flatten()
    }
}

/// A memory of this name that is kept for ever.
impl<T: Into<Arc<str>>> From<T> for Memory {
    fn from(name: T) -> Self {
        Self { name: name.into(), lifetime: Lifetime::default(), changelogs: Arc::from(vec![]) }
    }
}
