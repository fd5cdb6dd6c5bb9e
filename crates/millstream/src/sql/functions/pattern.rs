//! Patterns of Java's `DateTimeFormatter`, as DATE_FORMAT takes them: `yyyy-MM-dd HH:mm:ss.SSS`.
//!
//! A run of one letter is one field, padded with zeros to the run's length. Text between single quotes, and
//! everything that is no letter, stands for itself.

use std::fmt::Write;

use chrono::{DateTime, Datelike, Timelike, Utc};

/// A pattern, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Number(Field, usize),
    /// The last two digits of the year.
    ShortYear,
    /// Digits of the second's fraction.
    Fraction(usize),
    MonthName(Length),
    WeekdayName(Length),
    HalfOfDay,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Year,
    Month,
    Day,
    DayOfYear,
    Hour24,
    Hour12,
    Minute,
    Second,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Short,
    Full,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

impl Pattern {
    /// Reads a pattern; the error says which letter is none.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut pieces = vec![];
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if c == '\'' {
                pieces.push(Piece::Literal(quoted(&mut chars)));
            } else if c.is_ascii_alphabetic() {
                let mut count = 1;
                while chars.next_if_eq(&c).is_some() {
                    count += 1;
                }
                pieces.push(field(c, count).ok_or_else(|| {
                    format!(
                        "'{}' is no field of a date: they are yyyy MM dd HH hh mm ss SSS a E D",
                        String::from(c).repeat(count)
                    )
                })?);
            } else {
                pieces.push(Piece::Literal(c.into()));
            }
        }
        Ok(Self(pieces))
    }

    /// Appends a time, in UTC.
    pub fn write(&self, time: &DateTime<Utc>, out: &mut String) {
        for piece in &self.0 {
            // Writing to a String can't fail.
            let _ = match piece {
                Piece::Literal(text) => out.write_str(text),
                Piece::Number(field, width) => write!(out, "{:0width$}", number(*field, time), width = *width),
                Piece::ShortYear => write!(out, "{:02}", time.year().rem_euclid(100)),
                Piece::Fraction(digits) => {
                    let nanos = format!("{:09}", time.nanosecond() % 1_000_000_000);
                    write!(out, "{:0<width$}", nanos.get(..*digits).unwrap_or(&nanos), width = *digits)
                }
                Piece::MonthName(length) => out.write_str(named(&MONTHS, time.month0() as usize, *length)),
                Piece::WeekdayName(length) => {
                    out.write_str(named(&WEEKDAYS, time.weekday().num_days_from_monday() as usize, *length))
                }
                Piece::HalfOfDay => out.write_str(if time.hour() < 12 { "AM" } else { "PM" }),
            };
        }
    }
}

/// Text up to the closing quote; two quotes are one.
fn quoted(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let mut text = String::new();
    while let Some(c) = chars.next() {
        if c == '\'' && chars.next_if_eq(&'\'').is_none() {
            return if text.is_empty() { "'".to_string() } else { text };
        }
        text.push(c);
    }
    text
}

fn field(letter: char, count: usize) -> Option<Piece> {
    let number = |field| Some(Piece::Number(field, count));
    match (letter, count) {
        ('y' | 'u', 2) => Some(Piece::ShortYear),
        ('y' | 'u', 1..=9) => number(Field::Year),
        ('M' | 'L', 1..=2) => number(Field::Month),
        ('M' | 'L', 3) => Some(Piece::MonthName(Length::Short)),
        ('M' | 'L', 4) => Some(Piece::MonthName(Length::Full)),
        ('d', 1..=2) => number(Field::Day),
        ('D', 1..=3) => number(Field::DayOfYear),
        ('H', 1..=2) => number(Field::Hour24),
        ('h', 1..=2) => number(Field::Hour12),
        ('m', 1..=2) => number(Field::Minute),
        ('s', 1..=2) => number(Field::Second),
        ('S', 1..=9) => Some(Piece::Fraction(count)),
        ('a', 1) => Some(Piece::HalfOfDay),
        ('E', 1..=3) => Some(Piece::WeekdayName(Length::Short)),
        ('E', 4) => Some(Piece::WeekdayName(Length::Full)),
        _ => None,
    }
}

fn number(field: Field, time: &DateTime<Utc>) -> i64 {
    match field {
        Field::Year => i64::from(time.year()),
        Field::Month => i64::from(time.month()),
        Field::Day => i64::from(time.day()),
        Field::DayOfYear => i64::from(time.ordinal()),
        Field::Hour24 => i64::from(time.hour()),
        Field::Hour12 => i64::from(time.hour12().1),
        Field::Minute => i64::from(time.minute()),
        Field::Second => i64::from(time.second()),
    }
}

fn named<const N: usize>(names: &[&'static str; N], n: usize, length: Length) -> &'static str {
    let name = names.get(n).copied().unwrap_or_default();
    match length {
        Length::Full => name,
        Length::Short => name.get(..3).unwrap_or(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pattern: &str, micros: i64) -> String {
        let mut out = String::new();
        Pattern::read(pattern).unwrap().write(&DateTime::from_timestamp_micros(micros).unwrap(), &mut out);
        out
    }

    #[test]
    fn fields_are_padded_to_the_length_of_their_run() {
        let time = 1_700_000_000_123_456;
        assert_eq!(shown("yyyy-MM-dd HH:mm:ss.SSS", time), "2023-11-14 22:13:20.123");
        assert_eq!(shown("d/M/yy h:mm a", time), "14/11/23 10:13 PM");
        assert_eq!(shown("EEE, dd MMMM yyyy 'at' HH'h'", time), "Tue, 14 November 2023 at 22h");
        assert_eq!(shown("yyyyMMdd''SSSSSS", -1), "19691231'999999");
        assert_eq!(shown("DDD", 0), "001");
    }

    #[test]
    fn a_letter_that_is_no_field_is_named() {
        let error = Pattern::read("yyyy-QQ").unwrap_err();
        assert!(error.starts_with("'QQ' is no field of a date"), "{error}");
    }
}
