//! The letters of JSON (RFC 8259): white space, strings, numbers, and values that nobody asked for.
//!
//! Accepts what serde_json accepts and refuses what it refuses, without looking at more than the bytes.

use std::ops::Range;

/// Why a record is no row.
#[derive(Debug)]
pub(crate) enum Fail {
    /// It is not JSON, from this byte on.
    Syntax { at: usize, what: &'static str },
    /// It is JSON, but the value of a field is not what was declared.
    Value(Box<Mismatch>),
}

/// What is wrong with the value of a field.
#[derive(Debug)]
pub(crate) struct Mismatch {
    /// The way to the field, such as `user.tags[2]`.
    pub(crate) path: String,
    /// What was declared and what was found.
    pub(crate) what: String,
}

impl Fail {
    /// A mismatch at the value itself; callers put the path before it.
    pub(crate) fn value(what: String) -> Self {
        Self::Value(Box::new(Mismatch { path: String::new(), what }))
    }

    /// The same failure, seen from the object that holds the field.
    pub(crate) fn in_field(mut self, name: &str) -> Self {
        if let Self::Value(mismatch) = &mut self {
            let dot = if mismatch.path.is_empty() || mismatch.path.starts_with('[') { "" } else { "." };
            mismatch.path = format!("{name}{dot}{}", mismatch.path);
        }
        self
    }

    /// The same failure, seen from the array or map that holds the element.
    pub(crate) fn in_element(mut self, element: impl std::fmt::Display) -> Self {
        if let Self::Value(mismatch) = &mut self {
            let dot = if mismatch.path.is_empty() || mismatch.path.starts_with('[') { "" } else { "." };
            mismatch.path = format!("[{element}]{dot}{}", mismatch.path);
        }
        self
    }
}

pub(crate) type Read<T = ()> = Result<T, Fail>;

/// A number as it stands, and its digits where they fit.
pub(crate) struct Number<'a> {
    pub(crate) text: &'a str,
    pub(crate) negative: bool,
    /// The digits as one whole number and how many of them stand after the point, where there are at most
    /// 19 digits and no exponent.
    pub(crate) simple: Option<(u64, u32)>,
}

/// A place within a record.
pub(crate) struct Cursor<'a> {
    pub(crate) text: &'a str,
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
    /// Where strings with escapes are put together.
    pub(crate) scratch: String,
}

/// The place of the next quote, backslash or control character from a place of UTF-8 bytes: where a string
/// ends, or can't go on as it stands.
#[inline]
pub(crate) fn string_end(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = ONES << 7;
    // Eight bytes at a time (Mycroft's test for a zero byte in a word). Borrows run upwards only, so the lowest
    // bit that is set tells the truth.
    while let Some(eight) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*eight);
        let quote = word ^ (ONES * 0x22);
        let escape = word ^ (ONES * 0x5c);
        let found = (quote.wrapping_sub(ONES) & !quote)
            | (escape.wrapping_sub(ONES) & !escape)
            | (word.wrapping_sub(ONES * 0x20) & !word);
        let found = found & HIGHS;
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while let Some(byte) = bytes.get(at) {
        if matches!(byte, b'"' | b'\\' | 0..=0x1f) {
            break;
        }
        at += 1;
    }
    at
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str, scratch: String) -> Self {
        Self { text, bytes: text.as_bytes(), at: 0, scratch }
    }

    pub(crate) fn fail<T>(&self, what: &'static str) -> Read<T> {
        Err(Fail::Syntax { at: self.at, what })
    }

    #[inline]
    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    #[inline]
    pub(crate) fn span(&self, range: Range<usize>) -> &'a str {
        self.text.get(range).unwrap_or_default()
    }

    /// Steps over white space.
    #[inline]
    pub(crate) fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Steps over these bytes if they come next.
    #[inline]
    pub(crate) fn take(&mut self, bytes: &[u8]) -> bool {
        let found = self.rest().starts_with(bytes);
        if found {
            self.at += bytes.len();
        }
        found
    }

    #[inline]
    pub(crate) fn string_end(&self) -> usize {
        string_end(self.bytes, self.at)
    }

    /// The string whose first quote was stepped over, if it has no escapes; steps past its last quote. Else
    /// stays where it is.
    #[inline]
    pub(crate) fn plain_string(&mut self) -> Option<&'a str> {
        let end = self.string_end();
        if self.bytes.get(end) != Some(&b'"') {
            return None;
        }
        let text = self.text.get(self.at..end)?;
        self.at = end + 1;
        Some(text)
    }

    /// The string whose first quote was stepped over; steps past its last quote.
    pub(crate) fn string(&mut self) -> Read<&str> {
        if let Some(text) = self.plain_string() {
            return Ok(text);
        }
        self.scratch.clear();
        loop {
            let end = self.string_end();
            self.scratch.push_str(self.text.get(self.at..end).unwrap_or_default());
            self.at = end;
            match self.peek() {
                None => return self.fail("a string is not closed"),
                Some(b'"') => break,
                Some(b'\\') => {
                    let c = self.escape()?;
                    self.scratch.push(c);
                }
                Some(_) => return self.fail("a control character stands in a string unescaped"),
            }
        }
        self.at += 1;
        Ok(&self.scratch)
    }

    fn escape(&mut self) -> Read<char> {
        let start = self.at;
        self.at += 2;
        Ok(match self.bytes.get(start + 1) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let unit = self.hex4()?;
                let code = match unit {
                    0xD800..=0xDBFF if self.take(b"\\u") => match self.hex4()? {
                        low @ 0xDC00..=0xDFFF => 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00),
                        _ => unit,
                    },
                    unit => unit,
                };
                match char::from_u32(code) {
                    Some(c) => c,
                    None => return Err(Fail::Syntax { at: start, what: "half of a surrogate pair stands alone" }),
                }
            }
            None => return Err(Fail::Syntax { at: start, what: "a string is not closed" }),
            Some(_) => return Err(Fail::Syntax { at: start, what: "a backslash escapes what needs no escape" }),
        })
    }

    pub(crate) fn hex4(&mut self) -> Read<u32> {
        let digits = self.rest().first_chunk::<4>().filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let Some(digits) = digits else { return self.fail("\\u needs four hexadecimal digits") };
        self.at += 4;
        Ok(digits.iter().fold(0, |code, digit| code << 4 | char::from(*digit).to_digit(16).unwrap_or(0)))
    }

    /// A whole number of at most 18 digits that ends where its digits end; else stays where it is.
    #[inline]
    pub(crate) fn plain_integer(&mut self) -> Option<i64> {
        let rest = self.rest();
        let negative = rest.first() == Some(&b'-');
        let digits = if negative { rest.get(1..)? } else { rest };
        let (mut value, mut length) = (0i64, 0);
        for byte in digits {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                break;
            }
            value = value.wrapping_mul(10).wrapping_add(i64::from(digit));
            length += 1;
        }
        let leading_zero = length > 1 && digits.first() == Some(&b'0');
        if length == 0 || length > 18 || leading_zero || matches!(digits.get(length), Some(b'.' | b'e' | b'E')) {
            return None;
        }
        self.at += length + usize::from(negative);
        Some(if negative { -value } else { value })
    }

    /// A number, wherever the grammar says that there is one.
    pub(crate) fn number(&mut self) -> Read<Number<'a>> {
        let start = self.at;
        let negative = self.take(b"-");
        let (mut mantissa, mut digits, mut fraction, mut exponent) = (0u64, 0u32, 0u32, false);
        let mut step = |cursor: &mut Self| -> u32 {
            let before = cursor.at;
            while let Some(digit @ b'0'..=b'9') = cursor.peek() {
                mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
                cursor.at += 1;
            }
            (cursor.at - before) as u32
        };
        let whole = self.at;
        match step(self) {
            0 => return self.fail("a value is expected"),
            1 => {}
            _ if self.bytes.get(whole) == Some(&b'0') => {
                return Err(Fail::Syntax { at: whole, what: "a number begins with 0" });
            }
            n => digits = n,
        }
        if self.take(b".") {
            fraction = step(self);
            if fraction == 0 {
                return self.fail("digits are expected after the decimal point");
            }
        }
        digits = digits.max(1) + fraction;
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            exponent = true;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            if step(self) == 0 {
                return self.fail("digits are expected in the exponent");
            }
        }
        let simple = (digits <= 19 && !exponent).then_some((mantissa, fraction));
        Ok(Number { text: self.span(start..self.at), negative, simple })
    }

    /// The value that begins here, in a few words for a message.
    pub(crate) fn describe(&self) -> String {
        const SHOWN_CHARS_MAX: usize = 40;
        let mut end = Cursor { text: self.text, bytes: self.bytes, at: self.at, scratch: String::new() };
        let kind = match self.peek() {
            Some(b'"') => "the string ",
            Some(b'{') => return "an object".into(),
            Some(b'[') => return "an array".into(),
            Some(b't' | b'f') => "the boolean ",
            Some(b'n') => return "null".into(),
            Some(b'-' | b'0'..=b'9') => "the number ",
            _ => return "no value".into(),
        };
        let value = end.skip().map(|()| self.span(self.at..end.at)).unwrap_or_default();
        match value.char_indices().nth(SHOWN_CHARS_MAX) {
            Some((cut, _)) => format!("{kind}{}...", value.get(..cut).unwrap_or_default()),
            None => format!("{kind}{value}"),
        }
    }
}
