//! A vector that grows in chunks: it never moves what it holds, so that growth costs the same at ten
//! entries and at ten million.

/// Entries a chunk.
const CHUNK: usize = 1 << 16;

/// A growing array of entries, each `width` values wide. The first chunk grows like a `Vec`, so that a small
/// table stays small.
#[derive(Debug)]
pub(crate) struct Chunked<T> {
    chunks: Vec<Vec<T>>,
    width: usize,
    fill: T,
}

impl<T: Clone> Chunked<T> {
    /// No entries; new ones are filled with `fill`.
    pub(crate) fn new(width: usize, fill: T) -> Self {
        Self { chunks: Vec::new(), width, fill }
    }

    /// Makes entry `i` exist, and every one before it.
    pub(crate) fn grow_to(&mut self, i: usize) {
        let (chunk, row) = (i / CHUNK, i % CHUNK);
        while self.chunks.len() <= chunk {
            let whole = CHUNK * self.width;
            if let Some(last) = self.chunks.last_mut() {
                last.resize(whole, self.fill.clone());
            }
            let room = if self.chunks.is_empty() { 0 } else { whole };
            self.chunks.push(Vec::with_capacity(room));
        }
        if let Some(last) = self.chunks.get_mut(chunk) {
            let need = (row + 1) * self.width;
            if last.len() < need {
                last.resize(need, self.fill.clone());
            }
        }
    }

    /// The first value of entry `i`; the fill where there is no such entry.
    #[inline]
    pub(crate) fn get(&self, i: usize) -> T {
        self.chunks.get(i / CHUNK).and_then(|c| c.get((i % CHUNK) * self.width)).unwrap_or(&self.fill).clone()
    }

    /// Sets the first value of entry `i`, which exists.
    #[inline]
    pub(crate) fn set(&mut self, i: usize, value: T) {
        let width = self.width;
        if let Some(at) = self.chunks.get_mut(i / CHUNK).and_then(|c| c.get_mut((i % CHUNK) * width)) {
            *at = value;
        }
    }

    /// Entry `i`; empty where there is no such entry.
    #[inline]
    pub(crate) fn entry(&self, i: usize) -> &[T] {
        let start = (i % CHUNK) * self.width;
        self.chunks.get(i / CHUNK).and_then(|c| c.get(start..start + self.width)).unwrap_or_default()
    }

    /// Entry `i`, to be written; empty where there is no such entry.
    #[inline]
    pub(crate) fn entry_mut(&mut self, i: usize) -> &mut [T] {
        let start = (i % CHUNK) * self.width;
        let width = self.width;
        self.chunks.get_mut(i / CHUNK).and_then(|c| c.get_mut(start..start + width)).unwrap_or_default()
    }

    /// Bytes allocated.
    pub(crate) fn bytes(&self) -> usize {
        let entries: usize = self.chunks.iter().map(Vec::capacity).sum();
        entries * size_of::<T>() + self.chunks.capacity() * size_of::<Vec<T>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_values_across_chunks() {
        let mut c = Chunked::new(3, 7u8);
        c.grow_to(2 * CHUNK + 5);
        c.entry_mut(CHUNK).copy_from_slice(&[1, 2, 3]);
        c.set(CHUNK - 1, 9);
        assert_eq!(c.entry(CHUNK), [1, 2, 3]);
        assert_eq!(c.entry(CHUNK - 1), [9, 7, 7]);
        assert_eq!(c.get(2 * CHUNK + 5), 7);
        assert!(c.entry(2 * CHUNK + 6).is_empty());
    }
}
