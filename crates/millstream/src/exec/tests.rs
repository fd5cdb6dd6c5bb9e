//! The oracle: what the operators answer, batch by batch, adds up to what plain DataFusion answers over all
//! rows at once, for any cut of the rows into batches.

mod functions;
mod harness;
mod idle;
mod joins;
mod keyed;
mod nodes;
mod rankings;
mod retract;
mod sessions;
mod windows;
