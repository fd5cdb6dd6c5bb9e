//! What trusts Millstream: conformance suites for sources, sinks and runners, and the simulation of the protocol.
//!
//! A connector's author calls [`conformance::source::check`] or [`conformance::sink::check`] from a test; both
//! answer an error that says which promise was broken and how. [`memory`] has a source, a runner and a sink whose
//! insides a test can see; [`sim`] has a disk, a clock and faults that follow from a seed.

pub mod conformance;
pub mod memory;
pub mod sim;
