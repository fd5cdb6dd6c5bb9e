//! The batch log: what was decided, what came of it, and from where to go on.
//!
//! One append-only sequence of records in segment files `log-<n>.seg`. A record is one line: the version of its
//! form, the CRC-32 and the length of its JSON, the JSON. Nothing is ever written twice or in place:
//!
//! ```text
//! 1 5f0c6a1e 402 {"header":{"segment":1,"identity":{"query":"alerts","incarnation":"5b2c7a52-…"},"owner":{"epoch":1,…},…}}
//! 1 91b7d0c2 211 {"intent":{"batch":1,"time_us":1700000000000000,"frontier":null,"sources":[{"source":"tx",…}]}}
//! 1 0be2a977 188 {"commit":{"batch":1,"digest":1234567,"rows_out":3,"account":[…],"watermarks":{…}}}
//! 1 77ab3c10 209 {"intent":{"batch":2,…}}
//! 1 c02d5a4b 160 {"amend":{"batch":2,"left_out":[{"kind":"rejected",…,"reason":"Divide by zero error",…}]}}
//! 1 3a0e1d55 640 {"checkpoint":{"batch":1,"manifest":"…","positions":{…},"timeline":{…},"totals":[…],…}}
//! ```
//!
//! **Segments.** Each begins with a header: the identity of the query, its owner, its epoch, and the length of the
//! segment before it that counts. A process that takes the log over begins a new segment; whatever lies beyond the
//! counted length of an older one (a torn record, or what an owner wrote that was taken over) is not part of the log.
//! So nothing is ever cut, and a process that was taken over can't disturb the log.
//!
//! **Damage.** A last segment may end in a record that is not whole: it was being written when the process died, and
//! nobody was told that it is durable. Anything else that can't be read is [`crate::ErrorKind::Corrupt`].
//!
//! **Retention.** The newest two checkpoints are kept; segments that neither of them needs are removed.
//!
//! **Dropped rows** lie beside the log in `dropped-<n>.seg`, in the same form, durable before the commit of their
//! batch; they have a retention of their own.
//!
//! **Answers** of tables that are read as they are lie beside the log in `answers-<n>.seg`, durable before anything of
//! their batch is published, and kept as long as a batch may be run again.
//!
//! Reading needs no lock and works beside a running pipeline: [`read_status`], [`read_dropped`].

mod answers;
mod dropped;
mod frame;
mod history;
mod paths;
mod read;
mod record;
mod status;
mod write;

pub(crate) use answers::AnswerLog;
pub(crate) use dropped::DroppedLog;
pub use dropped::{DroppedReaders, read_dropped};
pub(crate) use history::CHECKPOINTS_KEPT;
pub use history::{Entry, History};
pub use read::read_history;
pub use record::{After, Checkpoint, Epoch, Header, Identity, Ownership, Stopped};
pub(crate) use status::add;
pub use status::{LogStatus, is_running, read_status};
pub(crate) use write::{BatchLog, LogConfig};
