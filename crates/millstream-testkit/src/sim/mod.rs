//! A world that follows from a seed: time, a disk, and everything that can go wrong with them.

mod clock;
mod disk;
mod random;
pub mod schedule;
mod world;

pub use clock::SimClock;
pub use disk::{Platter, SimDisk};
pub use random::Random;
pub use world::{DiskFaults, Fate, Process, World};
