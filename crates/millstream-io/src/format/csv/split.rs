//! A CSV record to its fields.

use super::Dialect;

/// Finds the fields of a record; keeps its buffers from one to the next.
#[derive(Debug)]
pub(crate) struct Splitter {
    delimiter: u8,
    quote: Option<u8>,
    escape: Option<u8>,
    spans: Vec<Span>,
}

/// Where a field stands, without its quotes.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: usize,
    end: usize,
    quoted: bool,
    /// It has quotes or escapes within.
    escaped: bool,
}

/// A field as it is meant.
#[derive(Debug)]
pub(crate) struct Cell<'a> {
    pub(crate) text: &'a str,
    pub(crate) quoted: bool,
}

impl Splitter {
    pub(crate) fn new(dialect: &Dialect) -> Self {
        Self { delimiter: dialect.delimiter, quote: dialect.quote, escape: dialect.escape, spans: Vec::new() }
    }

    /// Fields of the record that was split last.
    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Finds the fields, or says why there are none.
    pub(crate) fn split(&mut self, text: &str) -> Result<(), String> {
        self.spans.clear();
        let bytes = text.as_bytes();
        let quote = self.quote.unwrap_or(self.delimiter);
        let escape = self.escape.unwrap_or(quote);
        let plain = (self.quote.is_none() && self.escape.is_none()) || memchr::memchr2(quote, escape, bytes).is_none();
        if plain {
            let mut start = 0;
            for end in memchr::memchr_iter(self.delimiter, bytes).chain([bytes.len()]) {
                self.spans.push(Span { start, end, quoted: false, escaped: false });
                start = end + 1;
            }
            return Ok(());
        }
        let mut at = 0;
        loop {
            let quoted = self.quote.is_some() && bytes.get(at).copied() == self.quote;
            let span = if quoted { self.quoted(bytes, at + 1)? } else { self.bare(bytes, at) };
            self.spans.push(span);
            at = span.end + usize::from(quoted);
            match bytes.get(at) {
                None => return Ok(()),
                Some(byte) if *byte == self.delimiter => at += 1,
                Some(_) => return Err(format!("not CSV at byte {}: something follows a closing quote", at + 1)),
            }
        }
    }

    fn bare(&self, bytes: &[u8], start: usize) -> Span {
        let (mut at, mut escaped) = (start, false);
        while let Some(byte) = bytes.get(at).copied().filter(|byte| *byte != self.delimiter) {
            if Some(byte) == self.escape {
                escaped = true;
                at += 1;
            }
            at += 1;
        }
        Span { start, end: at.min(bytes.len()), quoted: false, escaped }
    }

    fn quoted(&self, bytes: &[u8], start: usize) -> Result<Span, String> {
        let (mut at, mut escaped) = (start, false);
        loop {
            match bytes.get(at).copied() {
                None => return Err(format!("not CSV at byte {start}: a quote is opened and not closed in the line")),
                byte if byte == self.escape => {
                    escaped = true;
                    at += 2;
                }
                byte if byte == self.quote => {
                    if bytes.get(at + 1).copied() != self.quote {
                        return Ok(Span { start, end: at, quoted: true, escaped });
                    }
                    escaped = true;
                    at += 2;
                }
                Some(_) => at += 1,
            }
        }
    }

    /// The field with this number; an empty one where there is none.
    pub(crate) fn cell<'a>(&self, text: &'a str, place: usize, scratch: &'a mut String) -> Cell<'a> {
        let Some(span) = self.spans.get(place) else { return Cell { text: "", quoted: false } };
        let raw = text.get(span.start..span.end).unwrap_or_default();
        if !span.escaped {
            return Cell { text: raw, quoted: span.quoted };
        }
        scratch.clear();
        let mut letters = raw.chars();
        while let Some(letter) = letters.next() {
            if self.escape.is_some_and(|escape| letter == char::from(escape)) {
                scratch.extend(letters.next().map(|letter| match letter {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    other => other,
                }));
            } else {
                scratch.push(letter);
                if span.quoted && self.quote.is_some_and(|quote| letter == char::from(quote)) {
                    letters.next();
                }
            }
        }
        Cell { text: scratch, quoted: span.quoted }
    }
}
