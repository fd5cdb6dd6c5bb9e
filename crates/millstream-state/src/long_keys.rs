//! Keys that are too long to lie in place: runs of bytes, each given back whole.
//!
//! An allocation for every key would cost more than the key, in time and in memory. So keys lie one behind the other
//! in runs; a run is either one of ours, or the buffer of a segment that was read back, which holds the keys anyway.
//! When less than half of a run is used, its keys move on and it is given back.

use arrow::buffer::Buffer;

/// A run of ours is closed when it holds so many bytes.
const RUN_BYTES: usize = 1 << 20;

/// Where a key lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    run: u32,
    from: u32,
    len: u32,
}

impl Address {
    pub(crate) const BYTES: usize = 12;

    pub(crate) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        for (to, part) in bytes.chunks_exact_mut(4).zip([self.run, self.from, self.len]) {
            to.copy_from_slice(&part.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        let part = |at: usize| {
            let part = bytes.get(at..at + 4).and_then(|part| part.try_into().ok());
            part.map_or(0, u32::from_le_bytes)
        };
        Self { run: part(0), from: part(4), len: part(8) }
    }
}

/// The keys.
#[derive(Debug, Default)]
pub(crate) struct LongKeys {
    runs: Vec<Run>,
    free: Vec<u32>,
    /// The run of ours that is not closed.
    open: Option<u32>,
}

#[derive(Debug, Default)]
struct Run {
    bytes: Bytes,
    /// Bytes of keys that are there.
    live: usize,
    /// The slots whose keys were put here; some have gone.
    slots: Vec<u32>,
}

#[derive(Debug)]
enum Bytes {
    Own(Vec<u8>),
    Shared(Buffer),
}

impl Default for Bytes {
    fn default() -> Self {
        Self::Own(Vec::new())
    }
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(buffer) => buffer,
        }
    }
}

impl LongKeys {
    #[inline]
    pub(crate) fn get(&self, key: Address) -> &[u8] {
        let from = key.from as usize;
        let run = self.runs.get(key.run as usize);
        run.and_then(|run| run.bytes.as_slice().get(from..from + key.len as usize)).unwrap_or_default()
    }

    /// Holds the key of a slot.
    pub(crate) fn push(&mut self, slot: u32, key: &[u8]) -> Address {
        let number = match self.open {
            Some(number) => number,
            None => self.hold(Bytes::default()),
        };
        self.open = Some(number);
        let Some(run) = self.runs.get_mut(number as usize) else { return Address { run: 0, from: 0, len: 0 } };
        if let Bytes::Own(bytes) = &mut run.bytes {
            if run.live == 0 {
                // All that was here has gone.
                bytes.clear();
                run.slots.clear();
            }
            bytes.extend_from_slice(key);
            if bytes.len() >= RUN_BYTES {
                self.open = None;
            }
        }
        let from = run.bytes.as_slice().len() - key.len();
        run.live += key.len();
        run.slots.push(slot);
        Address { run: number, from: from as u32, len: key.len() as u32 }
    }

    /// Holds keys that lie in a buffer which somebody else keeps: `keys` are their slots, and where they begin and end.
    pub(crate) fn share(
        &mut self,
        buffer: &Buffer,
        keys: impl Iterator<Item = (u32, usize, usize)>,
    ) -> Vec<(u32, Address)> {
        let number = self.hold(Bytes::Shared(buffer.clone()));
        let address = |(slot, from, len)| (slot, Address { run: number, from: from as u32, len: len as u32 });
        let held: Vec<_> = keys.map(address).collect();
        if let Some(run) = self.runs.get_mut(number as usize) {
            run.live = held.iter().map(|(_, key)| key.len as usize).sum();
            run.slots = held.iter().map(|(slot, _)| *slot).collect();
        }
        held
    }

    /// Forgets a key. Where its run is of little use now, answers the slots whose keys may still lie there: those that
    /// do are to be pushed again, and the run to be dropped.
    pub(crate) fn remove(&mut self, key: Address) -> Option<(u32, Vec<u32>)> {
        let run = self.runs.get_mut(key.run as usize)?;
        run.live = run.live.saturating_sub(key.len as usize);
        if self.open == Some(key.run) || run.live >= run.bytes.as_slice().len() / 2 {
            return None;
        }
        Some((key.run, std::mem::take(&mut run.slots)))
    }

    /// Whether a key lies in this run.
    pub(crate) fn lies_in(key: Address, run: u32) -> bool {
        key.run == run
    }

    pub(crate) fn drop_run(&mut self, number: u32) {
        if let Some(run) = self.runs.get_mut(number as usize) {
            *run = Run::default();
            self.free.push(number);
        }
    }

    /// Bytes allocated; those of shared buffers are counted by who else keeps them.
    pub(crate) fn bytes(&self) -> usize {
        let run = |run: &Run| {
            let own = match &run.bytes {
                Bytes::Own(bytes) => bytes.capacity(),
                Bytes::Shared(buffer) if buffer.strong_count() > 1 => 0,
                Bytes::Shared(buffer) => buffer.capacity(),
            };
            own + run.slots.capacity() * size_of::<u32>()
        };
        self.runs.iter().map(run).sum::<usize>() + self.runs.capacity() * size_of::<Run>()
    }

    fn hold(&mut self, bytes: Bytes) -> u32 {
        let run = Run { bytes, live: 0, slots: Vec::new() };
        match self.free.pop() {
            Some(number) => {
                if let Some(at) = self.runs.get_mut(number as usize) {
                    *at = run;
                }
                number
            }
            None => {
                // A run holds a key at least, so that there are no more runs than slots.
                self.runs.push(run);
                (self.runs.len() - 1) as u32
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn keys_are_found_until_they_go_and_runs_of_little_use_are_given_back() {
        let text: Vec<u8> = (0..4_000u32).flat_map(|n| format!("{n:0>50}").into_bytes()).collect();
        let buffer = Buffer::from_vec(text);
        let mut keys = LongKeys::default();
        let shared = keys.share(&buffer, (0..4_000).map(|n| (n, n as usize * 50, 50)));
        let mut places: HashMap<u32, Address> = shared.into_iter().collect();
        for slot in 4_000..60_000 {
            places.insert(slot, keys.push(slot, format!("{slot:0>50}").as_bytes()));
        }
        let full = keys.bytes();
        for slot in (0..60_000).filter(|slot| slot % 8 != 0) {
            let Some(key) = places.remove(&slot) else { continue };
            let Some((run, left)) = keys.remove(key) else { continue };
            for slot in left {
                if let Some(key) = places.get(&slot).copied().filter(|key| LongKeys::lies_in(*key, run)) {
                    let text = keys.get(key).to_vec();
                    places.insert(slot, keys.push(slot, &text));
                }
            }
            keys.drop_run(run);
        }
        for (slot, key) in &places {
            assert_eq!(keys.get(*key), format!("{slot:0>50}").as_bytes());
        }
        assert_eq!(places.len(), 7_500);
        assert!(keys.bytes() < full / 3, "{} of {full}", keys.bytes());
        assert_eq!(buffer.strong_count(), 1, "the shared buffer is let go");
    }
}
