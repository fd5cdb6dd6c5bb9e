//! Patterns of Java's `DateTimeFormatter`, as DATE_FORMAT and TO_TIMESTAMP take them: `yyyy-MM-dd HH:mm:ss.SSS`.
//!
//! A run of one letter is one field, padded with zeros to the run's length. Text between single quotes, and
//! everything that is no letter, stands for itself, except the brackets that Java has reserved.

use std::fmt::Write;

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, Timelike, Utc, Weekday};

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
            } else if "[]{}#".contains(c) {
                return Err(format!(
                    "'{c}' of a pattern is not supported: quote it, '{c}', where it stands for itself"
                ));
            } else {
                pieces.push(Piece::Literal(c.into()));
            }
        }
        Ok(Self(pieces))
    }

    /// The time that a text says; `None` where the text is not of this form, or says a day that does not exist. What
    /// the pattern has not is that of 1970-01-01 00:00:00.
    pub fn parse(&self, text: &str) -> Option<NaiveDateTime> {
        let mut found = Found::default();
        let mut rest = text;
        for (n, piece) in self.0.iter().enumerate() {
            let digits_follow =
                matches!(self.0.get(n + 1), Some(Piece::Number(..) | Piece::ShortYear | Piece::Fraction(_)));
            rest = found.take(piece, rest, digits_follow)?;
        }
        if rest.is_empty() { found.time() } else { None }
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

/// What a text said so far.
#[derive(Default)]
struct Found {
    year: Option<i32>,
    month: Option<u32>,
    day: Option<u32>,
    day_of_year: Option<u32>,
    hour: Option<u32>,
    hour_of_half: Option<u32>,
    afternoon: Option<bool>,
    minute: u32,
    second: u32,
    nanosecond: u32,
    weekday: Option<usize>,
}

impl Found {
    /// What is left of the text after this piece.
    fn take<'a>(&mut self, piece: &Piece, text: &'a str, digits_follow: bool) -> Option<&'a str> {
        match piece {
            Piece::Literal(literal) => text.strip_prefix(literal.as_str()),
            Piece::ShortYear => {
                let (year, rest) = digits(text, 2, 2)?;
                self.year = Some(2000 + i32::try_from(year).ok()?);
                Some(rest)
            }
            Piece::Fraction(count) => {
                let (fraction, rest) = digits(text, *count, *count)?;
                self.nanosecond = fraction.checked_mul(10_u32.checked_pow(9 - u32::try_from(*count).ok()?)?)?;
                Some(rest)
            }
            Piece::Number(field, width) => {
                // As in Java: one letter takes the digits that come, two take two, and a year of four takes more
                // unless the next field follows at once.
                let most = match (*width, field) {
                    (1, _) | (3.., Field::Year) if !digits_follow => 9,
                    (width, _) => width,
                };
                let (value, rest) = digits(text, *width, most)?;
                self.set(*field, value)?;
                Some(rest)
            }
            Piece::MonthName(length) => {
                let (month, rest) = name(&MONTHS, text, *length)?;
                self.month = u32::try_from(month + 1).ok();
                Some(rest)
            }
            Piece::WeekdayName(length) => {
                let (weekday, rest) = name(&WEEKDAYS, text, *length)?;
                self.weekday = Some(weekday);
                Some(rest)
            }
            Piece::HalfOfDay => {
                let half = text.get(..2)?.to_ascii_uppercase();
                self.afternoon = Some(half == "PM");
                if half == "AM" || half == "PM" { text.get(2..) } else { None }
            }
        }
    }

    fn set(&mut self, field: Field, value: u32) -> Option<()> {
        match field {
            Field::Year => self.year = Some(i32::try_from(value).ok()?),
            Field::Month => self.month = Some(value),
            Field::Day => self.day = Some(value),
            Field::DayOfYear => self.day_of_year = Some(value),
            Field::Hour24 => self.hour = Some(value),
            Field::Hour12 => self.hour_of_half = Some(value).filter(|h| (1..=12).contains(h)),
            Field::Minute => self.minute = value,
            Field::Second => self.second = value,
        }
        if field == Field::Hour12 { self.hour_of_half.map(drop) } else { Some(()) }
    }

    fn time(&self) -> Option<NaiveDateTime> {
        let year = self.year.unwrap_or(1970);
        let date = match self.day_of_year {
            Some(day) if self.month.is_none() && self.day.is_none() => NaiveDate::from_yo_opt(year, day)?,
            _ => NaiveDate::from_ymd_opt(year, self.month.unwrap_or(1), self.day.unwrap_or(1))?,
        };
        let hour = match (self.hour, self.hour_of_half) {
            (Some(hour), _) => hour,
            (None, Some(hour)) => hour % 12 + if self.afternoon == Some(true) { 12 } else { 0 },
            (None, None) => 0,
        };
        let agrees = self.weekday.is_none_or(|w| Weekday::try_from(w as u8).is_ok_and(|w| w == date.weekday()));
        let time = NaiveTime::from_hms_nano_opt(hour, self.minute, self.second, self.nanosecond)?;
        agrees.then(|| date.and_time(time))
    }
}

/// A number of so many digits, and what follows it.
fn digits(text: &str, least: usize, most: usize) -> Option<(u32, &str)> {
    let count = text.bytes().take(most).take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at_checked(count)?;
    if count < least { None } else { Some((digits.parse().ok()?, rest)) }
}

/// The place of the name that the text begins with, and what follows it.
fn name<'a, const N: usize>(names: &[&'static str; N], text: &'a str, length: Length) -> Option<(usize, &'a str)> {
    (0..N).find_map(|n| Some((n, text.strip_prefix(named(names, n, length))?)))
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

    fn parsed(pattern: &str, text: &str) -> Option<String> {
        Pattern::read(pattern).unwrap().parse(text).map(|t| t.to_string())
    }

    #[test]
    fn a_text_of_the_patterns_form_is_read_and_any_other_is_none() {
        let some = |text: &str| Some(text.to_string());
        assert_eq!(parsed("yyyy-MM-dd HH:mm:ss.SSS", "2023-11-14 22:13:20.123"), some("2023-11-14 22:13:20.123"));
        assert_eq!(parsed("yyyyMMddHHmm", "202311142213"), some("2023-11-14 22:13:00"));
        assert_eq!(parsed("d/M/yy h:mm a", "14/1/23 12:13 AM"), some("2023-01-14 00:13:00"));
        assert_eq!(parsed("h a", "12 PM"), some("1970-01-01 12:00:00"));
        assert_eq!(parsed("EEE, dd MMMM yyyy 'at' HH'h'", "Tue, 14 November 2023 at 22h"), some("2023-11-14 22:00:00"));
        assert_eq!(parsed("yyyy-DDD", "2024-366"), some("2024-12-31 00:00:00"));
        assert_eq!(parsed("EEE yyyy-MM-dd", "Mon 2023-11-14"), None);
        assert_eq!(parsed("yyyy-MM-dd", "2023-1-14"), None);
        assert_eq!(parsed("yyyy-MM-dd", "2023-02-30"), None);
        assert_eq!(parsed("yyyy-MM-dd", "2023-02-03 "), None);
        assert_eq!(parsed("yyyy-MM-dd", ""), None);
        assert_eq!(parsed("yyyy", "２０２３"), None);
    }

    #[test]
    fn brackets_are_refused_because_java_would_not_take_them_as_they_are() {
        assert!(Pattern::read("yyyy[-MM]").unwrap_err().contains("is not supported"));
    }

    #[test]
    fn a_letter_that_is_no_field_is_named() {
        let error = Pattern::read("yyyy-QQ").unwrap_err();
        assert!(error.starts_with("'QQ' is no field of a date"), "{error}");
    }
}
