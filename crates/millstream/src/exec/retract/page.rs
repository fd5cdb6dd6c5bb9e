//! A page: byte strings in order, each with a number, as one run of bytes.
//!
//! ```text
//! the page's level: 0 where the numbers say how often a value is there, else they are those of pages one level below
//! of each entry: its length, its bytes, its number
//! ```
//!
//! Lengths and numbers are written seven bits to a byte, the lowest first, the last byte below 128 (LEB128). No bytes at
//! all are a page of level 0 without entries.

use std::cmp::Ordering;

use datafusion::common::Result as DfResult;

/// The level of a page.
pub fn level(page: &[u8]) -> u8 {
    page.first().copied().unwrap_or(0)
}

/// The entries of a page, in order.
pub fn entries(page: &[u8]) -> Entries<'_> {
    Entries { rest: page.get(1..).unwrap_or_default() }
}

/// A page of this level without entries, to which they can be pushed.
pub fn empty(level: u8) -> Vec<u8> {
    vec![level]
}

/// Whether a page has no entries.
pub fn is_empty(page: &[u8]) -> bool {
    page.len() <= 1
}

/// Adds an entry after all others.
pub fn push(page: &mut Vec<u8>, bytes: &[u8], number: u64) {
    write(page, bytes.len() as u64);
    page.extend_from_slice(bytes);
    write(page, number);
}

/// Adds to `to`, which is a page of the same level, the entries of a page with some numbers changed. `changes` are byte
/// strings that ascend, and `change` is told which of them it is and the number before, 0 where it is not there; what it
/// answers is the number after, where 0 takes the entry out.
///
/// # Errors
/// That of `change`.
pub fn merge<'a>(
    page: &[u8],
    changes: impl Iterator<Item = (usize, &'a [u8])>,
    to: &mut Vec<u8>,
    mut change: impl FnMut(usize, u64) -> DfResult<u64>,
) -> DfResult<()> {
    let mut next = entries(page);
    // What is not changed is copied in stretches.
    let mut uncopied = next.rest;
    for (which, bytes) in changes {
        let (mut past, mut before) = (next.clone(), 0);
        while let Some((other, number)) = past.next() {
            match other.cmp(bytes) {
                Ordering::Less => next = past.clone(),
                Ordering::Equal => {
                    before = number;
                    break;
                }
                Ordering::Greater => {
                    past = next.clone();
                    break;
                }
            }
        }
        let after = change(which, before)?;
        if after != before {
            to.extend_from_slice(uncopied.get(..uncopied.len() - next.rest.len()).unwrap_or_default());
            if after > 0 {
                push(to, bytes, after);
            }
            next = past;
            uncopied = next.rest;
        }
    }
    to.extend_from_slice(uncopied);
    Ok(())
}

/// Cuts a page into some of about the same length below `most` bytes, each with at least so many entries but the last.
pub fn split(page: &[u8], most: usize, entries_min: usize) -> Vec<Vec<u8>> {
    let pieces = page.len().div_ceil(most.saturating_mul(3) / 4 + 1).max(2);
    let each = page.len() / pieces;
    let (mut pages, mut piece, mut count) = (vec![], empty(level(page)), 0);
    for (bytes, number) in entries(page) {
        push(&mut piece, bytes, number);
        count += 1;
        if piece.len() > each && count >= entries_min {
            pages.push(std::mem::replace(&mut piece, empty(level(page))));
            count = 0;
        }
    }
    if !is_empty(&piece) {
        pages.push(piece);
    }
    pages
}

/// The entries of a page, in order.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a [u8], u64);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (length, rest) = read(self.rest)?;
        let (bytes, rest) = rest.split_at_checked(length as usize)?;
        let (number, rest) = read(rest)?;
        self.rest = rest;
        Some((bytes, number))
    }
}

fn write(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

#[inline]
fn read(from: &[u8]) -> Option<(u64, &[u8])> {
    let (mut number, mut shift) = (0, 0);
    for (at, byte) in from.iter().enumerate() {
        number |= u64::from(byte & 0x7F) << shift;
        if *byte < 0x80 {
            return Some((number, from.get(at + 1..)?));
        }
        shift += 7;
        if shift > 63 {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(of: &[(&[u8], u64)]) -> Vec<u8> {
        let mut page = empty(0);
        of.iter().for_each(|(bytes, number)| push(&mut page, bytes, *number));
        page
    }

    #[test]
    fn numbers_of_any_size_are_read_as_they_were_written() {
        let numbers = [1, 127, 128, 300, u64::from(u32::MAX), i64::MAX as u64, u64::MAX];
        let long = vec![7; 200];
        let of: Vec<(&[u8], u64)> = numbers.iter().map(|n| (long.as_slice(), *n)).collect();
        assert!(entries(&page(&of)).eq(of));
        assert_eq!((entries(&[]).next(), entries(&[0]).next(), level(&[])), (None, None, 0));
    }

    #[test]
    fn a_merge_changes_adds_and_takes_out_entries_wherever_they_stand() {
        let before = page(&[(b"b", 1), (b"d", 2), (b"f", 3)]);
        let merged = |changes: &[(&[u8], u64, u64)]| {
            let mut to = empty(0);
            let at = changes.iter().map(|(bytes, ..)| *bytes).enumerate();
            merge(&before, at, &mut to, |which, was| {
                assert_eq!(was, changes[which].1);
                Ok(changes[which].2)
            })
            .unwrap();
            to
        };
        assert_eq!(merged(&[]), before);
        assert_eq!(
            merged(&[(b"a", 0, 9), (b"d", 2, 7), (b"g", 0, 8)]),
            page(&[(b"a", 9), (b"b", 1), (b"d", 7), (b"f", 3), (b"g", 8)])
        );
        assert_eq!(merged(&[(b"b", 1, 0), (b"c", 0, 0), (b"f", 3, 0)]), page(&[(b"d", 2)]));
        assert!(is_empty(&merged(&[(b"b", 1, 0), (b"d", 2, 0), (b"f", 3, 0)])));
    }

    #[test]
    fn a_split_keeps_all_entries_in_pages_that_are_short_enough() {
        let keys: Vec<[u8; 8]> = (0..1000u64).map(u64::to_be_bytes).collect();
        let whole = page(&keys.iter().map(|key| (key.as_slice(), 1)).collect::<Vec<_>>());
        for most in [100, 1000, whole.len() - 1] {
            let pages = split(&whole, most, 1);
            assert!(pages.len() > 1 && pages.iter().all(|page| page.len() <= most && !is_empty(page)), "{most}");
            assert!(pages.iter().flat_map(|page| entries(page)).eq(entries(&whole)), "{most}");
        }
        assert!(split(&whole, 20, 4).iter().all(|page| entries(page).count() == 4));
        assert_eq!(split(&page(&[(&[1; 50], 1)]), 20, 1).len(), 1);
    }
}
