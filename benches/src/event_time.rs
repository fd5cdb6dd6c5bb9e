//! `2026-01-01 00:00:00.123` to milliseconds since 1970 and back, as fast as a good program would.
//!
//! Source of the calendar: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".

use std::fmt::Write;

const DAY_MS: i64 = 86_400_000;

/// Milliseconds since 1970 (UTC) of a text: a date, `T` or a blank, a time, up to nine digits of a second
/// (what is finer than a millisecond is cut off), and perhaps a `Z`.
#[inline]
pub fn parse_ms(text: &str) -> Option<i64> {
    let bytes = text.as_bytes().strip_suffix(b"Z").unwrap_or(text.as_bytes());
    let (head, fraction) = bytes.split_at_checked(19)?;
    let [y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1, b' ' | b'T', h0, h1, b':', i0, i1, b':', s0, s1] = *head else {
        return None;
    };
    let year = number(&[y0, y1, y2, y3])?;
    let (month, day) = (number(&[m0, m1])?, number(&[d0, d1])?);
    let (hour, minute, second) = (number(&[h0, h1])?, number(&[i0, i1])?, number(&[s0, s1])?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let millis = match fraction {
        [] => 0,
        [b'.', a, b, c] => number(&[*a, *b, *c])?,
        [b'.', rest @ ..] if (1..=9).contains(&rest.len()) => {
            number(rest)?;
            let digit = |i: usize| rest.get(i).map_or(0, |b| i64::from(b - b'0'));
            digit(0) * 100 + digit(1) * 10 + digit(2)
        }
        _ => return None,
    };
    let seconds = (hour * 60 + minute) * 60 + second;
    Some(days_from_civil(year, month, day) * DAY_MS + seconds * 1000 + millis)
}

#[inline]
fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |n, b| b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0')))
}

#[inline]
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Milliseconds since 1970 (UTC) as `2026-01-01 00:00:00.123`, in place of what `out` held.
pub fn format_ms(ms: i64, out: &mut String) {
    let (days, of_day) = (ms.div_euclid(DAY_MS) + 719_468, ms.rem_euclid(DAY_MS));
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (seconds, millis) = (of_day / 1000, of_day % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    out.clear();
    // Writing to a string cannot fail.
    let _ = write!(out, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{millis:03}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_reads_as_it_was_written() {
        let mut text = String::new();
        for ms in [0, 1_767_225_600_123, -1, 951_782_400_000, 4_107_542_399_999] {
            format_ms(ms, &mut text);
            assert_eq!(parse_ms(&text), Some(ms), "{text}");
        }
        format_ms(1_767_225_600_123, &mut text);
        assert_eq!(text, "2026-01-01 00:00:00.123");
    }

    #[test]
    fn other_spellings_of_the_same_moment_agree() {
        let expected = parse_ms("2026-01-01 00:00:10.000");
        for text in
            ["2026-01-01T00:00:10", "2026-01-01T00:00:10Z", "2026-01-01 00:00:10.000000", "2026-01-01 00:00:10.0"]
        {
            assert_eq!(parse_ms(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in ["", "2026-01-01", "2026-13-01 00:00:00", "2026-01-01 00:00:00.", "2026-01-01 00:00:0x", "word"] {
            assert_eq!(parse_ms(text), None, "{text}");
        }
    }
}
