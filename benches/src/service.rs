//! The services that a part is measured with: started by the scripts of the tests, and kept while they are used.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::Command;

use crate::Result;

/// A running service.
#[derive(Debug)]
pub struct Service {
    said: String,
    facts: BTreeMap<String, String>,
    /// A service stops some time after the last lock on this file is gone.
    _in_use: Option<File>,
}

impl Service {
    /// Starts it, or finds it running.
    ///
    /// # Errors
    /// What the script says: what is not installed here, for one.
    pub fn start(script: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        let first = Self::ask(script, arguments, environment)?;
        let Some(users) = first.facts.get("USERS") else { return Ok(first) };
        let in_use = File::open(users)?;
        in_use.lock_shared()?;
        // It may have stopped between the start and the lock.
        Ok(Self { _in_use: Some(in_use), ..Self::ask(script, arguments, environment)? })
    }

    fn ask(script: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/services").join(script);
        let mut command = Command::new(&path);
        let done = command.args(arguments).envs(environment.iter().copied()).output();
        let done = done.map_err(|e| format!("{} can't be run: {e}", path.display()))?;
        if !done.status.success() {
            return Err(String::from_utf8_lossy(&done.stderr).trim().to_string().into());
        }
        let said = String::from_utf8(done.stdout)?.trim().to_string();
        let facts = said.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
        Ok(Self { said, facts, _in_use: None })
    }

    /// What it said under this name.
    ///
    /// # Errors
    /// Where it said nothing of it.
    #[cfg(feature = "kafka")]
    pub fn fact(&self, name: &str) -> Result<&str> {
        let fact = self.facts.get(name).map(String::as_str);
        fact.ok_or_else(|| format!("the service did not say its {name}: {}", self.said).into())
    }

    /// All that it said.
    #[cfg(feature = "postgres")]
    pub fn said(&self) -> &str {
        &self.said
    }
}
