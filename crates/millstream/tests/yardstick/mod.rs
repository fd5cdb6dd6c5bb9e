//! What the tests of SQL share: a query answered in batch by DataFusion, the same query run by the real loop in
//! batches of any size, stopped, killed and started again, and both answers as rows of text that can be compared.
//!
//! It must never look into the engine for what is right: the batch answer is.

pub mod answer;
pub mod disk;
pub mod random;
pub mod slt;
pub mod stream;

pub use answer::{Floats, Rows, difference};
pub use disk::MemoryDisk;
pub use random::Random;
pub use stream::{Interruption, LIMIT, Published, Run, added_up, batch_answer, compiled, ran};
