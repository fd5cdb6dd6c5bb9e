//! Processes that live in a world and may die at any durable step.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millstream_core::{Error, Result};

use super::random::Random;

/// How often a disk fails, in 1/1000 of its calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskFaults {
    /// A write fails, after any part of it was written.
    pub write: u64,
    /// A sync fails, after which nothing is known.
    pub sync: u64,
}

/// Everything that happens to the processes of a simulation, from one seed.
#[derive(Clone, Debug)]
pub struct World(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    random: Random,
    /// Durable steps so far.
    steps: u64,
    /// The step at which everybody dies, and whether it is still done.
    death: Option<(u64, Fate)>,
    /// Processes of earlier generations are dead.
    generation: u64,
    dead: bool,
    disk_faults: DiskFaults,
}

/// What comes of a durable step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is done.
    Done,
    /// The process dies, and it is not done.
    DieBefore,
    /// It is done, and the process dies before it can know.
    DieAfter,
    /// The process is dead already.
    Dead,
}

impl World {
    /// A world of this seed in which nothing goes wrong yet.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            random: Random::new(seed),
            steps: 0,
            death: None,
            generation: 0,
            dead: false,
            disk_faults: DiskFaults::default(),
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new process, after all earlier ones have died.
    pub fn boot(&self) -> Process {
        let inner = &mut *self.inner();
        inner.generation += 1;
        inner.dead = false;
        inner.death = None;
        Process { world: Some(self.clone()), generation: inner.generation }
    }

    /// Every process dies at the n-th durable step from now (0 is the next one).
    pub fn die_at(&self, step: u64, fate: Fate) {
        let inner = &mut *self.inner();
        inner.death = Some((inner.steps + step, fate));
    }

    /// Whether the processes have died.
    pub fn is_dead(&self) -> bool {
        self.inner().dead
    }

    /// Durable steps so far.
    pub fn steps(&self) -> u64 {
        self.inner().steps
    }

    /// How often disks fail from now on.
    pub fn fail_disks(&self, faults: DiskFaults) {
        self.inner().disk_faults = faults;
    }
}

/// One process of a world. What it is given fails when it is dead.
#[derive(Clone, Debug)]
pub struct Process {
    world: Option<World>,
    generation: u64,
}

impl Process {
    /// A process outside of any world: nothing ever goes wrong.
    pub fn immortal() -> Self {
        Self { world: None, generation: 0 }
    }

    /// Counts the processes of a world.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Fails when the process is dead.
    pub fn alive(&self) -> Result<()> {
        match self.is_alive() {
            true => Ok(()),
            false => Err(Error::bug("the process is dead")),
        }
    }

    /// Whether the process lives.
    pub fn is_alive(&self) -> bool {
        self.world.as_ref().is_none_or(|world| {
            let inner = world.inner();
            !inner.dead && inner.generation == self.generation
        })
    }

    /// Does a durable step.
    pub fn step(&self) -> Fate {
        let Some(world) = &self.world else { return Fate::Done };
        let inner = &mut *world.inner();
        if inner.dead || inner.generation != self.generation {
            return Fate::Dead;
        }
        let step = inner.steps;
        inner.steps += 1;
        match inner.death {
            Some((at, fate)) if at == step => {
                inner.dead = true;
                fate
            }
            _ => Fate::Done,
        }
    }

    /// True so many times in a thousand.
    pub fn chance(&self, per_mille: u64) -> bool {
        per_mille > 0 && self.world.as_ref().is_some_and(|world| world.inner().random.chance(per_mille))
    }

    /// A random number below this one.
    pub fn below(&self, bound: u64) -> u64 {
        self.world.as_ref().map_or(0, |world| world.inner().random.below(bound))
    }

    /// How often disks fail.
    pub fn disk_faults(&self) -> DiskFaults {
        self.world.as_ref().map_or_else(DiskFaults::default, |world| world.inner().disk_faults)
    }
}
