//! Parts of URLs, and their percent signs.
//!
//! A part is the text as it stands in the URL, as Java's `URL` gives it to PARSE_URL: nothing is decoded or put
//! into another form.

use std::borrow::Cow;
use std::fmt::Write;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};

use super::Argument::Text;
use super::Builtin;
use super::rows::{text, texts};

const PARTS: [&str; 8] = ["HOST", "PATH", "QUERY", "REF", "PROTOCOL", "AUTHORITY", "FILE", "USERINFO"];

pub fn functions() -> Vec<Builtin> {
    vec![
        Builtin::new("parse_url", &[Text, Text, Text], DataType::Utf8View, parse_url).optional(1).checked(check_part),
        Builtin::new("url_encode", &[Text], DataType::Utf8View, |args| {
            texts(args, |row| Ok(text(args, 0, row).map(|t| encoded(t).into())))
        }),
        Builtin::new("url_decode", &[Text], DataType::Utf8View, |args| {
            texts(args, |row| Ok(text(args, 0, row).and_then(decoded)))
        }),
    ]
}

/// A part of a URL, or a parameter of its query; NULL where there is none.
fn parse_url(args: &[ArrayRef]) -> Result<ArrayRef> {
    texts(args, |row| {
        let (Some(url), Some(part)) = (text(args, 0, row), text(args, 1, row)) else { return Ok(None) };
        if !PARTS.contains(&part) {
            return exec_err!("PARSE_URL: '{part}' is no part of a URL: they are {}", PARTS.join(", "));
        }
        let Some(url) = Url::read(url) else { return Ok(None) };
        let part = match args.len() {
            3 => match (part, text(args, 2, row)) {
                ("QUERY", Some(key)) => url.parameter(key),
                _ => None,
            },
            _ => url.part(part),
        };
        Ok(part.map(Into::into))
    })
}

fn check_part(args: &[Option<&ScalarValue>]) -> Result<()> {
    match args.get(1).copied().flatten().and_then(|p| p.try_as_str()).flatten() {
        Some(part) if !PARTS.contains(&part) => {
            plan_err!("PARSE_URL: '{part}' is no part of a URL: they are {}", PARTS.join(", "))
        }
        _ => Ok(()),
    }
}

/// `protocol://userinfo@host:port/path?query#ref`.
struct Url<'a> {
    protocol: &'a str,
    authority: Option<&'a str>,
    file: &'a str,
    reference: Option<&'a str>,
}

impl<'a> Url<'a> {
    fn read(url: &'a str) -> Option<Self> {
        let (protocol, rest) = url.trim().split_once(':')?;
        let word = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        if !protocol.starts_with(|c: char| c.is_ascii_alphabetic()) || !protocol.chars().all(word) {
            return None;
        }
        let (rest, reference) = match rest.split_once('#') {
            Some((rest, reference)) => (rest, Some(reference)),
            None => (rest, None),
        };
        let (authority, file) = match rest.strip_prefix("//") {
            Some(rest) => {
                let end = rest.find(['/', '?']).unwrap_or(rest.len());
                (rest.get(..end), rest.get(end..).unwrap_or_default())
            }
            None => (None, rest),
        };
        Some(Self { protocol, authority, file, reference })
    }

    fn part(&self, part: &str) -> Option<&'a str> {
        let authority = self.authority.filter(|a| !a.is_empty());
        match part {
            "PROTOCOL" => Some(self.protocol),
            "AUTHORITY" => authority,
            "USERINFO" => authority?.rsplit_once('@').map(|(user, _)| user),
            "HOST" => {
                let host = authority?.rsplit_once('@').map_or(authority?, |(_, host)| host);
                // The colons of an IPv6 address stand in brackets.
                let end = host.find(']').map_or(0, |n| n + 1);
                let port = host.get(end..)?.find(':').map_or(host.len(), |n| n + end);
                host.get(..port)
            }
            "PATH" => Some(self.file.split('?').next().unwrap_or_default()),
            "QUERY" => self.file.split_once('?').map(|(_, query)| query),
            "FILE" => Some(self.file),
            "REF" => self.reference,
            _ => None,
        }
    }

    fn parameter(&self, key: &str) -> Option<&'a str> {
        let parameters = self.part("QUERY")?.split('&').filter_map(|p| p.split_once('='));
        parameters.into_iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }
}

/// As an HTML form sends it: a space is `+`.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'*' | b'_' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            // Writing to a String can't fail.
            _ => _ = write!(out, "%{byte:02X}"),
        }
    }
    out
}

/// NULL where a percent sign is not followed by two digits, or the bytes are no UTF-8.
fn decoded(text: &str) -> Option<Cow<'_, str>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |b: Option<u8>| char::from(b?).to_digit(16);
                let value = digit(bytes.next())? * 16 + digit(bytes.next())?;
                u8::try_from(value).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}
