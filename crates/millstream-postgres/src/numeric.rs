//! PostgreSQL's `numeric`, exactly, in its binary form.
//!
//! ```text
//! int16 groups, int16 weight of the first group, uint16 sign (0 or 0x4000), uint16 digits after the point,
//! then the groups: int16 of four decimal digits each, the point between weight 0 and weight -1
//! ```

use arrow::datatypes::DataType;
use millstream_core::{Error, Result};

const NEGATIVE: u16 = 0x4000;

/// The digits of a type in all and after the point; `None` where it is no exact number.
pub(crate) fn digits(data_type: &DataType) -> Option<(u8, i8)> {
    use DataType as D;
    Some(match data_type {
        D::Int8 | D::UInt8 => (3, 0),
        D::Int16 | D::UInt16 => (5, 0),
        D::Int32 | D::UInt32 => (10, 0),
        D::Int64 => (19, 0),
        D::UInt64 => (20, 0),
        // A scale below zero would need a numeric of its own kind: nothing makes one.
        D::Decimal32(p, s) | D::Decimal64(p, s) | D::Decimal128(p, s) | D::Decimal256(p, s) if *s >= 0 => (*p, *s),
        _ => return None,
    })
}

/// The digits in all and after the point that a column's modifier allows; `None` where it allows any.
pub(crate) fn modifier(modifier: i32) -> Option<(i32, i32)> {
    let bits = modifier.checked_sub(4).filter(|bits| *bits >= 0)?;
    // The scale is a signed number of 11 bits.
    Some(((bits >> 16) & 0xffff, ((bits & 0x7ff) ^ 1024) - 1024))
}

/// Appends the value, without a length before it.
pub(crate) fn write(value: i128, scale: u8, out: &mut Vec<u8>) {
    let mut rest = value.unsigned_abs();
    // At most 39 digits make 11 groups, the last of them filled up.
    let mut groups = [0u16; 12];
    let mut count = 0;
    let partial = u32::from(scale % 4);
    let mut push = |group: u128| {
        if let (Some(slot), Ok(group)) = (groups.get_mut(count), u16::try_from(group)) {
            *slot = group;
            count += 1;
        }
    };
    if partial > 0 {
        let unit = 10u128.pow(partial);
        push(rest % unit * 10u128.pow(4 - partial));
        rest /= unit;
    }
    // Most values fit a machine word, whose division is many times faster.
    while rest > u128::from(u64::MAX) {
        push(rest % 10_000);
        rest /= 10_000;
    }
    let mut rest = rest as u64;
    while rest > 0 {
        push(u128::from(rest % 10_000));
        rest /= 10_000;
    }
    write_groups(groups.get(..count).unwrap_or_default(), value < 0, scale, out);
}

/// Appends the value of decimal digits, for numbers wider than a machine knows.
///
/// # Errors
/// [`millstream_core::ErrorKind::Bug`] where they are none.
pub(crate) fn write_digits(text: &str, scale: u8, out: &mut Vec<u8>) -> Result<()> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let padding = (4 - usize::from(scale) % 4) % 4;
    let mut padded = digits.as_bytes().to_vec();
    padded.resize(padded.len() + padding, b'0');
    let mut groups = Vec::with_capacity(padded.len() / 4 + 1);
    for group in padded.rchunks(4) {
        let number = std::str::from_utf8(group).ok().and_then(|text| text.parse::<u16>().ok());
        groups.push(number.ok_or_else(|| Error::bug(format!("a decimal is written '{text}'")))?);
    }
    write_groups(&groups, negative, scale, out);
    Ok(())
}

/// `groups` begins with the last one; groups of the part after the point are among them in full.
fn write_groups(groups: &[u16], negative: bool, scale: u8, out: &mut Vec<u8>) {
    let after_point = i16::from(scale.div_ceil(4));
    let zeros_last = groups.iter().take_while(|group| **group == 0).count();
    let zeros_first = groups.iter().rev().take_while(|group| **group == 0).count();
    let kept = groups.get(zeros_last..groups.len().saturating_sub(zeros_first)).unwrap_or_default();
    let top = i16::try_from(groups.len() - zeros_first).unwrap_or_default();
    let weight = if kept.is_empty() { 0 } else { top - after_point - 1 };
    out.extend_from_slice(&(kept.len() as u16).to_be_bytes());
    out.extend_from_slice(&weight.to_be_bytes());
    out.extend_from_slice(&(if negative && !kept.is_empty() { NEGATIVE } else { 0 }).to_be_bytes());
    out.extend_from_slice(&u16::from(scale).to_be_bytes());
    for group in kept.iter().rev() {
        out.extend_from_slice(&group.to_be_bytes());
    }
}

/// Reads a value as a whole number of units of 10^-scale; `None` where it has more digits than that, or is not finite.
pub(crate) fn read(bytes: &[u8], scale: u8) -> Option<i128> {
    let mut words = bytes.chunks_exact(2).filter_map(|word| Some(u16::from_be_bytes(word.try_into().ok()?)));
    let (count, weight, sign, _) = (words.next()?, words.next()? as i16, words.next()?, words.next()?);
    if sign != 0 && sign != NEGATIVE {
        return None;
    }
    let mut value = 0i128;
    for (i, group) in words.take(usize::from(count)).enumerate() {
        // The group counts 10^(4 * (weight - i)), in units of 10^-scale.
        let exponent = 4 * (i32::from(weight) - i32::try_from(i).ok()?) + i32::from(scale);
        let group = i128::from(group);
        let part = match u32::try_from(exponent) {
            Ok(exponent) if group == 0 => group * i128::from(exponent == 0),
            Ok(exponent) => group.checked_mul(10i128.checked_pow(exponent)?)?,
            Err(_) => {
                let unit = 10i128.checked_pow(exponent.unsigned_abs())?;
                if group % unit != 0 {
                    return None;
                }
                group / unit
            }
        };
        value = value.checked_add(part)?;
    }
    Some(if sign == NEGATIVE { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(value: i128, scale: u8) -> Vec<u16> {
        let mut out = Vec::new();
        write(value, scale, &mut out);
        assert_eq!(read(&out, scale), Some(value));
        let mut same = Vec::new();
        write_digits(&value.to_string(), scale, &mut same).unwrap();
        assert_eq!(out, same, "{value} at {scale}");
        out.chunks(2).map(|word| u16::from_be_bytes(word.try_into().unwrap())).collect()
    }

    #[test]
    fn values_are_written_as_the_server_writes_them() {
        assert_eq!(words(0, 2), [0, 0, 0, 2]);
        assert_eq!(words(12_345_678, 0), [2, 1, 0, 0, 1234, 5678]);
        assert_eq!(words(-10_000, 0), [1, 1, 0x4000, 0, 1]);
        assert_eq!(words(314, 2), [2, 0, 0, 2, 3, 1400]);
        assert_eq!(words(5, 6), [1, 0xfffe, 0, 6, 500]);
        assert_eq!(words(100, 2), [1, 0, 0, 2, 1]);
    }

    #[test]
    fn every_scale_comes_back_exactly() {
        for value in [1, -1, 9_999, 10_000, 10_001, i128::from(u64::MAX) + 7, 10i128.pow(38) - 1, -(10i128.pow(38) - 1)]
        {
            for scale in 0..=38 {
                words(value, scale);
            }
        }
    }
}
