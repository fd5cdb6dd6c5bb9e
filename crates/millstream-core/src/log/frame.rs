//! One record as bytes: `version crc32 length json\n`.

use std::ops::Range;

use serde::Serialize;

use crate::error::{Error, Result};

/// The version of the records' form that is written. Older ones are read for ever.
pub(super) const VERSION: u32 = 1;

/// Appends a record.
pub(super) fn encode(record: &impl Serialize, out: &mut Vec<u8>) -> Result<()> {
    frame(&json(record)?, out);
    Ok(())
}

/// A record as JSON.
pub(super) fn json(record: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(record).map_err(|e| Error::bug("a record can't be written as JSON").caused_by(e))
}

/// Appends a record that is made already.
pub(super) fn frame(record: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{VERSION} {:08x} {} ", crc32fast::hash(record), record.len()).as_bytes());
    out.extend_from_slice(record);
    out.push(b'\n');
}

/// Where a whole record lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Bytes before it.
    pub at: u64,
    pub version: u32,
    json: Range<usize>,
}

impl Frame {
    /// The record's JSON, of the bytes that were scanned.
    pub(super) fn json<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(self.json.clone()).unwrap_or_default()
    }
}

/// What a segment holds.
#[derive(Debug)]
pub(super) struct Frames {
    /// The whole records before the first damage.
    pub frames: Vec<Frame>,
    /// Bytes up to the end of the last of them.
    pub len: u64,
    /// Where the first damage is followed by a whole record: then it is no torn tail.
    pub whole_after: Option<u64>,
}

/// Splits a segment into its records.
pub(super) fn scan(bytes: &[u8]) -> Frames {
    let mut frames = Vec::new();
    let mut at = 0;
    while let Some((frame, end)) = parse(bytes, at) {
        frames.push(frame);
        at = end;
    }
    // A record begins the file or follows a line end: only there is it worth looking for another one.
    let rest = bytes.get(at..).unwrap_or_default();
    let starts = rest.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(i, _)| at + i + 1);
    let whole_after = starts.into_iter().find(|start| parse(bytes, *start).is_some()).map(|start| start as u64);
    Frames { frames, len: at as u64, whole_after }
}

/// The record that begins here, and where it ends.
fn parse(bytes: &[u8], at: usize) -> Option<(Frame, usize)> {
    let (version, next) = field(bytes, at)?;
    let (crc, next) = field(bytes, next)?;
    let (length, start) = field(bytes, next)?;
    let end = start.checked_add(length.parse().ok()?)?;
    let json = bytes.get(start..end)?;
    let whole = bytes.get(end) == Some(&b'\n') && u32::from_str_radix(crc, 16).ok()? == crc32fast::hash(json);
    whole.then_some((Frame { at: at as u64, version: version.parse().ok()?, json: start..end }, end + 1))
}

/// The word that begins here and ends at a space.
fn field(bytes: &[u8], at: usize) -> Option<(&str, usize)> {
    const LONGEST: usize = 20;
    let rest = bytes.get(at..)?;
    let len = rest.iter().take(LONGEST + 1).position(|byte| *byte == b' ')?;
    Some((std::str::from_utf8(rest.get(..len)?).ok()?, at + len + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Vec<u8> {
        let mut bytes = Vec::new();
        for n in [1, 22, 333] {
            encode(&serde_json::json!({ "n": n }), &mut bytes).unwrap();
        }
        bytes
    }

    #[test]
    fn the_form_of_a_record_is_pinned_down() {
        let mut bytes = Vec::new();
        encode(&serde_json::json!({ "n": 1 }), &mut bytes).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), "1 d44b3b7e 7 {\"n\":1}\n");
    }

    #[test]
    fn a_file_cut_anywhere_keeps_its_whole_records_and_is_a_torn_tail() {
        let bytes = three();
        for cut in 0..bytes.len() {
            let found = scan(&bytes[..cut]);
            let ends: Vec<_> = bytes[..cut].iter().enumerate().filter(|(_, b)| **b == b'\n').collect();
            assert_eq!(found.frames.len(), ends.len(), "cut at {cut}");
            assert_eq!(found.whole_after, None, "cut at {cut}");
        }
        assert_eq!(scan(&bytes).frames.len(), 3);
    }

    #[test]
    fn any_flipped_bit_is_noticed_and_told_from_a_torn_tail() {
        let bytes = three();
        let last = scan(&bytes).frames[2].at as usize;
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let found = scan(&flipped);
            // The case of a hexadecimal digit says nothing, and a version has no checksum of its own.
            let same = |(a, b): (&Frame, Frame)| a.json(&flipped) == b.json(&bytes);
            if found.frames.len() == 3 && found.frames.iter().zip(scan(&bytes).frames).all(same) {
                continue;
            }
            assert!(found.frames.len() < 3, "bit {bit}");
            let before_the_last = bit / 8 < last - 1;
            assert_eq!(found.whole_after.is_some(), before_the_last, "bit {bit}");
        }
    }
}
