//! Texts to values: numbers, decimals, dates, times, timestamps, base64.
//!
//! Shared by JSON and CSV, so that one text means the same in both. Nothing here rounds or wraps silently,
//! save that digits of a second finer than the column keeps are cut off, as SQL does.

use arrow::datatypes::TimeUnit;

/// Why a text is no value of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// It reads as something else.
    Malformed,
    /// It reads as the type's kind of value, but the type can't hold it exactly.
    OutOfRange,
}

/// Powers of ten that an `f64` holds exactly.
const EXACT_POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// The nearest `f64` to `mantissa / 10^fraction`, where one division gives it exactly (Clinger's fast path).
#[inline]
pub(crate) fn exact_f64(mantissa: u64, fraction: u32) -> Option<f64> {
    if mantissa > 1 << 53 {
        return None;
    }
    EXACT_POWERS.get(fraction as usize).map(|power| mantissa as f64 / power)
}

/// A finite `f64` from a number's text.
pub(crate) fn float64(text: &str) -> Result<f64, Misfit> {
    let value: f64 = text.parse().map_err(|_| Misfit::Malformed)?;
    if value.is_finite() { Ok(value) } else { Err(Misfit::OutOfRange) }
}

/// A finite `f32` from a number's text, rounded once.
pub(crate) fn float32(text: &str) -> Result<f32, Misfit> {
    let value: f32 = text.parse().map_err(|_| Misfit::Malformed)?;
    if value.is_finite() { Ok(value) } else { Err(Misfit::OutOfRange) }
}

/// The floats that are no numbers, by the names that they are written with.
pub(crate) fn not_a_number(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" | "inf" => Some(f64::INFINITY),
        "-Infinity" | "-inf" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// A whole number from a text such as `12`, `-3`, `1.0` or `2e3`.
pub(crate) fn integer(text: &str, min: i64, max: i64) -> Result<i64, Misfit> {
    let value = match text.parse::<i64>() {
        Ok(value) => value,
        Err(_) => i64::try_from(decimal(text, 38, 0)?).map_err(|_| Misfit::OutOfRange)?,
    };
    if (min..=max).contains(&value) { Ok(value) } else { Err(Misfit::OutOfRange) }
}

/// A whole number of the whole `u64` range.
pub(crate) fn unsigned(text: &str) -> Result<u64, Misfit> {
    match text.parse::<u64>() {
        Ok(value) => Ok(value),
        Err(_) => u64::try_from(decimal(text, 38, 0)?).map_err(|_| Misfit::OutOfRange),
    }
}

/// The number times `10^scale`, exactly; a digit past the scale other than 0 is out of range.
pub(crate) fn decimal(text: &str, precision: u8, scale: i8) -> Result<i128, Misfit> {
    let (negative, rest) = match text.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let mut mantissa: u128 = 0;
    // Zeros are held back until a digit follows them: trailing zeros never count as digits.
    let (mut digits, mut zeros, mut exponent, mut any) = (0i64, 0i64, 0i64, false);
    let mut point = false;
    let mut rest = rest.iter();
    for byte in rest.by_ref() {
        match byte {
            b'0'..=b'9' => {
                any = true;
                exponent -= i64::from(point);
                if *byte == b'0' {
                    zeros += 1;
                    continue;
                }
                let shift = if digits == 0 { 1 } else { zeros + 1 };
                digits += shift;
                zeros = 0;
                if digits > 38 {
                    // Too many digits for any decimal; what follows only has to be well-formed.
                    digits = 39;
                    continue;
                }
                mantissa = mantissa * 10u128.pow(shift as u32) + u128::from(byte - b'0');
            }
            b'.' if !point => point = true,
            b'e' | b'E' if any => {
                let text = std::str::from_utf8(rest.as_slice()).map_err(|_| Misfit::Malformed)?;
                let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
                if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(Misfit::Malformed);
                }
                let limit = if text.starts_with('-') { -1_000_000 } else { 1_000_000 };
                exponent += text.parse::<i64>().unwrap_or(limit).clamp(-1_000_000, 1_000_000);
                break;
            }
            _ => return Err(Misfit::Malformed),
        }
    }
    if !any {
        return Err(Misfit::Malformed);
    }
    if digits == 0 {
        return Ok(0);
    }
    let shift = exponent + zeros + i64::from(scale);
    if digits > 38 || shift < 0 || digits + shift > i64::from(precision) {
        return Err(Misfit::OutOfRange);
    }
    let power = u32::try_from(shift).ok().and_then(|shift| 10u128.checked_pow(shift)).ok_or(Misfit::OutOfRange)?;
    let value = i128::try_from(mantissa * power).map_err(|_| Misfit::OutOfRange)?;
    Ok(if negative { -value } else { value })
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar, where there is such a date.
///
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
#[inline]
fn days(year: i64, month: u32, day: u32) -> Option<i64> {
    const LENGTHS: [u32; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut length = *LENGTHS.get(month.wrapping_sub(1) as usize)?;
    if month == 2 && year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) {
        length = 29;
    }
    if day == 0 || day > length {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (i64::from(month) + if month > 2 { -3 } else { 9 }) + 2) / 5 + i64::from(day) - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

/// The date (year, month, day) that lies so many days after 1970-01-01: `days` turned around.
pub(crate) fn civil(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = (of_year - (153 * shifted + 2) / 5 + 1) as u32;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 } as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[inline]
fn two(bytes: &[u8], at: usize) -> Option<u32> {
    let tens = bytes.get(at)?.wrapping_sub(b'0');
    let ones = bytes.get(at + 1)?.wrapping_sub(b'0');
    (tens <= 9 && ones <= 9).then_some(u32::from(tens) * 10 + u32::from(ones))
}

/// A date, and how many bytes it takes: `2026-01-02`, or a sign and up to six digits of a year.
#[inline]
fn date_prefix(bytes: &[u8]) -> Option<(i64, usize)> {
    let (year, at) = match bytes.first()? {
        sign @ (b'+' | b'-') => {
            let digits = bytes.iter().skip(1).take(7).take_while(|b| b.is_ascii_digit()).count();
            if !(4..=6).contains(&digits) {
                return None;
            }
            let year = bytes.iter().skip(1).take(digits).fold(0i64, |n, b| n * 10 + i64::from(b - b'0'));
            (if *sign == b'-' { -year } else { year }, 1 + digits)
        }
        _ => (i64::from(two(bytes, 0)? * 100 + two(bytes, 2)?), 4),
    };
    if bytes.get(at) != Some(&b'-') || bytes.get(at + 3) != Some(&b'-') {
        return None;
    }
    Some((days(year, two(bytes, at + 1)?, two(bytes, at + 4)?)?, at + 6))
}

/// Days since 1970-01-01.
pub(crate) fn date(bytes: &[u8]) -> Option<i64> {
    date_prefix(bytes).filter(|(_, length)| *length == bytes.len()).map(|(days, _)| days)
}

/// A time of day as seconds and nanoseconds, and how many bytes it takes: `03:04`, `03:04:05`, `03:04:05.678`.
#[inline]
fn time_prefix(bytes: &[u8]) -> Option<(i64, i64, usize)> {
    let (hour, minute) = (two(bytes, 0)?, two(bytes, 3)?);
    if bytes.get(2) != Some(&b':') || hour > 23 || minute > 59 {
        return None;
    }
    let mut seconds = i64::from(hour * 3600 + minute * 60);
    if bytes.get(5) != Some(&b':') {
        return Some((seconds, 0, 5));
    }
    let second = two(bytes, 6)?;
    if second > 59 {
        return None;
    }
    seconds += i64::from(second);
    if !matches!(bytes.get(8), Some(b'.' | b',')) {
        return Some((seconds, 0, 8));
    }
    let (mut nanos, mut unit, mut at) = (0i64, 100_000_000i64, 9);
    while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
        nanos += i64::from(digit - b'0') * unit;
        unit /= 10;
        at += 1;
    }
    (at > 9).then_some((seconds, nanos, at))
}

/// The time of day in a unit.
pub(crate) fn time(bytes: &[u8], unit: TimeUnit) -> Option<i64> {
    let (seconds, nanos, length) = time_prefix(bytes)?;
    let per_second = per_second(unit);
    (length == bytes.len()).then(|| seconds * per_second + nanos / (1_000_000_000 / per_second))
}

/// The zone's distance from UTC in seconds: nothing, `Z`, `+01:00`, `+0100`, `+01`, with or without a space.
#[inline]
fn zone(bytes: &[u8]) -> Option<i64> {
    let bytes = match bytes {
        [] => return Some(0),
        [b'Z' | b'z'] => return Some(0),
        [b' ', rest @ ..] => rest,
        rest => rest,
    };
    let sign = match bytes.first()? {
        b'Z' | b'z' if bytes.len() == 1 => return Some(0),
        b'U' if bytes == b"UTC" => return Some(0),
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let hours = two(bytes, 1)?;
    let minutes = match bytes.len() {
        3 => 0,
        5 => two(bytes, 3)?,
        6 if bytes.get(3) == Some(&b':') => two(bytes, 4)?,
        _ => return None,
    };
    (hours <= 23 && minutes <= 59).then(|| sign * i64::from(hours * 3600 + minutes * 60))
}

/// A point in time in a unit since 1970-01-01 UTC, from ISO-8601 or SQL text. A text without a zone is UTC;
/// one with a zone is moved to UTC.
#[inline]
pub(crate) fn timestamp(bytes: &[u8], unit: TimeUnit) -> Result<i64, Misfit> {
    let (days, at) = date_prefix(bytes).ok_or(Misfit::Malformed)?;
    let rest = bytes.get(at..).unwrap_or_default();
    let (mut seconds, mut nanos) = (days * 86_400, 0);
    if let [separator, rest @ ..] = rest {
        let (of_day, fraction, length) =
            time_prefix(rest).filter(|_| matches!(separator, b'T' | b't' | b' ')).ok_or(Misfit::Malformed)?;
        let offset = zone(rest.get(length..).unwrap_or_default()).ok_or(Misfit::Malformed)?;
        seconds += of_day - offset;
        nanos = fraction;
    }
    let per_second = per_second(unit);
    let whole = i128::from(seconds) * i128::from(per_second) + i128::from(nanos / (1_000_000_000 / per_second));
    i64::try_from(whole).map_err(|_| Misfit::OutOfRange)
}

/// A number of one unit in another; what is finer than the target is cut off towards the past.
#[inline]
pub(crate) fn convert(value: i64, from: TimeUnit, to: TimeUnit) -> Result<i64, Misfit> {
    let (from, to) = (per_second(from), per_second(to));
    if to >= from { value.checked_mul(to / from).ok_or(Misfit::OutOfRange) } else { Ok(value.div_euclid(from / to)) }
}

/// A point in time from a number that counts a unit since 1970-01-01 UTC, in another unit.
pub(crate) fn epoch(text: &str, from: TimeUnit, to: TimeUnit) -> Result<i64, Misfit> {
    if let Ok(value) = text.parse() {
        return convert(value, from, to);
    }
    // A fraction (`1767323045.123` seconds): exactly, in the finest unit there is.
    let finest = i128::from(1_000_000_000 / per_second(from));
    let scale = finest.ilog10() as i8;
    let nanos = match decimal(text, 38, scale) {
        Err(Misfit::OutOfRange) => decimal(cut_fraction(text, scale as usize), 38, scale)?,
        other => other?,
    };
    i64::try_from(nanos.div_euclid(i128::from(1_000_000_000 / per_second(to)))).map_err(|_| Misfit::OutOfRange)
}

/// The number without what stands after so many digits of its fraction.
fn cut_fraction(text: &str, digits: usize) -> &str {
    let end = text.find('.').map_or(text.len(), |point| point + 1 + digits);
    if text.contains(['e', 'E']) { text } else { text.get(..end).unwrap_or(text) }
}

/// How many of a unit make a second.
#[inline]
pub(crate) fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends the bytes that a base64 text (RFC 4648, either alphabet, padding optional) stands for.
pub(crate) fn base64_decode(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let text = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    for four in text.chunks(4) {
        let mut bits = 0u32;
        for byte in four {
            let six = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' | b'-' => 62,
                b'/' | b'_' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(six);
        }
        match four.len() {
            4 => out.extend([(bits >> 16) as u8, (bits >> 8) as u8, bits as u8]),
            3 => out.extend([(bits >> 10) as u8, (bits >> 2) as u8]),
            2 => out.push((bits >> 4) as u8),
            _ => return None,
        }
    }
    Some(())
}

/// Appends bytes as base64 with padding.
pub(crate) fn base64_encode(bytes: &[u8], out: &mut Vec<u8>) {
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for i in 0..4 {
            let symbol = BASE64.get((bits >> (18 - 6 * i)) as usize & 63).copied().unwrap_or(b'=');
            out.push(if i <= three.len() { symbol } else { b'=' });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact_or_refused() {
        assert_eq!(decimal("12.34", 10, 2), Ok(1234));
        assert_eq!(decimal("-0.5", 10, 2), Ok(-50));
        assert_eq!(decimal("1.2300", 10, 2), Ok(123));
        assert_eq!(decimal("1.234", 10, 2), Err(Misfit::OutOfRange));
        assert_eq!(decimal("12e-1", 10, 2), Ok(120));
        assert_eq!(decimal("1E3", 10, 2), Ok(100_000));
        assert_eq!(decimal("99999999.99", 10, 2), Ok(9_999_999_999));
        assert_eq!(decimal("100000000", 10, 2), Err(Misfit::OutOfRange));
        assert_eq!(decimal("0.000e99999999999", 3, 1), Ok(0));
        assert_eq!(decimal("1e-99999999999", 3, 1), Err(Misfit::OutOfRange));
        assert_eq!(decimal("99999999999999999999999999999999999999", 38, 0), Ok(10i128.pow(38) - 1));
        assert_eq!(decimal("100000000000000000000000000000000000001", 38, 0), Err(Misfit::OutOfRange));
        assert_eq!(decimal("1000000000000000000000000000000000000000000e-10", 38, 0), Ok(10i128.pow(32)));
        assert_eq!(decimal("1200", 4, -2), Ok(12));
        for text in ["", "-", ".", "1e", "1e+", "1.2.3", "abc", "1 "] {
            assert_eq!(decimal(text, 10, 2), Err(Misfit::Malformed), "{text}");
        }
    }

    #[test]
    fn dates_agree_with_chrono_over_eight_centuries() {
        let epoch = chrono::NaiveDate::from_ymd_opt(1970, 1, 1).unwrap();
        for n in (-200_000i64..200_000).step_by(7) {
            let text = (epoch + chrono::Duration::days(n)).format("%Y-%m-%d").to_string();
            assert_eq!(date(text.as_bytes()), Some(n), "{text}");
            let (y, m, d) = civil(n);
            assert_eq!(format!("{y:04}-{m:02}-{d:02}"), text);
        }
        for text in ["2023-02-29", "2023-13-01", "2023-00-10", "2023-04-31", "2023-1-1", "20230101", "2023-01-01x"] {
            assert_eq!(date(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn timestamps_read_in_every_usual_writing() {
        let at = |text: &str| timestamp(text.as_bytes(), TimeUnit::Millisecond);
        let expected = Ok(1_767_323_045_123);
        for text in [
            "2026-01-02 03:04:05.123",
            "2026-01-02T03:04:05.123",
            "2026-01-02T03:04:05.123Z",
            "2026-01-02T03:04:05.123999Z",
            "2026-01-02T04:04:05.123+01:00",
            "2026-01-02T04:04:05,123+0100",
            "2026-01-01 22:04:05.123 -05",
            "2026-01-02 03:04:05.123 UTC",
            "+2026-01-02T03:04:05.123",
        ] {
            assert_eq!(at(text), expected, "{text}");
        }
        assert_eq!(at("1969-12-31T23:59:59.999"), Ok(-1));
        assert_eq!(at("2026-01-02"), Ok(1_767_312_000_000));
        for text in ["", "2026-01-02T", "2026-01-02T3:04:05", "2026-01-02T24:00:00", "2026-01-02T03:04:05.", "now"] {
            assert_eq!(at(text), Err(Misfit::Malformed), "{text}");
        }
        assert_eq!(timestamp(b"2300-01-01T00:00:00", TimeUnit::Nanosecond), Err(Misfit::OutOfRange));
    }

    #[test]
    fn base64_round_trips_for_every_length() {
        for n in 0..50u8 {
            let bytes: Vec<u8> = (0..n).map(|i| i.wrapping_mul(37) ^ n).collect();
            let (mut text, mut back) = (Vec::new(), Vec::new());
            base64_encode(&bytes, &mut text);
            assert_eq!(text.len() % 4, 0);
            assert_eq!(base64_decode(&text, &mut back), Some(()));
            assert_eq!(back, bytes);
        }
        let mut text = Vec::new();
        base64_encode(b"any carnal pleas", &mut text);
        assert_eq!(text, b"YW55IGNhcm5hbCBwbGVhcw==");
        assert_eq!(base64_decode(b"a", &mut Vec::new()), None);
        assert_eq!(base64_decode(b"ab!=", &mut Vec::new()), None);
    }
}
