//! Planning on a thread with a stack of its own.
//!
//! DataFusion walks expressions and plans by recursion: a long chain of OR or of UNION ALL, which people generate, needs
//! more stack than the thread of a caller has, and running out of it kills the process. What is nested deeper than
//! even this stack allows is refused by the parser ([`crate::sql::parser`]), with its place.

use std::panic::resume_unwind;
use std::thread;

use millstream_core::{Error, Result};

/// Only what is used of it takes memory.
const STACK_BYTES: usize = 512 << 20;

/// Runs this on a large stack, within the tokio runtime of the caller where there is one.
///
/// # Errors
/// [`millstream_core::ErrorKind::Config`] where the system gives no thread.
pub fn on_large_stack<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T> {
    let runtime = tokio::runtime::Handle::try_current().ok();
    thread::scope(|scope| {
        let run = || {
            let _entered = runtime.as_ref().map(tokio::runtime::Handle::enter);
            run()
        };
        let started = thread::Builder::new().name("planner".into()).stack_size(STACK_BYTES).spawn_scoped(scope, run);
        let started = started.map_err(|e| Error::config("no thread can be started to plan a query").caused_by(e))?;
        // A panic is the caller's, as if it had planned itself.
        started.join().map_err(|panic| resume_unwind(panic))
    })
}
