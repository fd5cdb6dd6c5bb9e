//! Bytes as text and back, and SHA-1.
//!
//! MD5 and the SHA-2 family are DataFusion's; the parser writes them as hexadecimal text, as Flink and Spark do.

use std::fmt::Write;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BinaryBuilder};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue, exec_err, internal_err, plan_err};

use super::Argument::{Any, Bytes, Integer, Text};
use super::Builtin;
use super::rows::{bytes, count, integer, text, texts};

const CHARSETS: &str = "UTF-8, US-ASCII, ISO-8859-1, UTF-16BE, UTF-16LE and UTF-16";

pub fn functions() -> Vec<Builtin> {
    vec![
        Builtin::new("sha1", &[Bytes], DataType::Utf8View, |args| {
            texts(args, |row| Ok(bytes(args, 0, row).map(|b| hexadecimal(&sha1(b), false).into())))
        }),
        Builtin::new("hex", &[Any], DataType::Utf8View, hex),
        Builtin::new("unhex", &[Text], DataType::Binary, unhex),
        Builtin::new("bin", &[Integer], DataType::Utf8View, |args| {
            texts(args, |row| Ok(integer(args, 0, row).map(|n| format!("{n:b}").into())))
        }),
        Builtin::new("encode_charset", &[Text, Text], DataType::Binary, encode).checked(check_charset),
        Builtin::new("decode_charset", &[Bytes, Text], DataType::Utf8View, decode).checked(check_charset),
    ]
}

fn hexadecimal(bytes: &[u8], upper: bool) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String can't fail.
        let _ = if upper { write!(out, "{byte:02X}") } else { write!(out, "{byte:02x}") };
    }
    out
}

/// A whole number or bytes in capital hexadecimal digits.
fn hex(args: &[ArrayRef]) -> Result<ArrayRef> {
    let [value] = args else { return internal_err!("HEX takes one argument") };
    if value.data_type().is_integer() {
        let numbers = [cast(value, &DataType::Int64)?];
        return texts(&numbers, |row| Ok(integer(&numbers, 0, row).map(|n| format!("{n:X}").into())));
    }
    if Bytes.coerce(value.data_type()).is_none() {
        return exec_err!("HEX takes a whole number, text or bytes, not {}", value.data_type());
    }
    let value = [cast(value, &DataType::BinaryView)?];
    texts(&value, |row| Ok(bytes(&value, 0, row).map(|b| hexadecimal(b, true).into())))
}

/// The bytes of hexadecimal digits; NULL where they are none. A first digit without another is a byte of its own.
fn unhex(args: &[ArrayRef]) -> Result<ArrayRef> {
    let mut out = BinaryBuilder::new();
    for row in 0..count(args) {
        out.append_option(text(args, 0, row).and_then(bytes_of_hex));
    }
    Ok(Arc::new(out.finish()))
}

fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<Vec<_>>>()?;
    let (first, pairs) = digits.split_at(digits.len() % 2);
    let pairs = pairs.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte * 16 + digit));
    Some(first.iter().copied().chain(pairs).collect())
}

fn check_charset(args: &[Option<&ScalarValue>]) -> Result<()> {
    match args.get(1).copied().flatten().and_then(|p| p.try_as_str()).flatten() {
        Some(charset) if Charset::read(charset).is_none() => {
            plan_err!("'{charset}' is no character set: they are {CHARSETS}")
        }
        _ => Ok(()),
    }
}

#[derive(Clone, Copy)]
enum Charset {
    Utf8,
    /// The characters below this number, a byte each.
    Narrow(u32),
    /// Two bytes each, the larger first or last; with a mark of the order before them or without.
    Wide {
        big: bool,
        mark: bool,
    },
}

impl Charset {
    fn read(name: &str) -> Option<Self> {
        Some(match name.to_ascii_uppercase().as_str() {
            "UTF-8" | "UTF8" => Self::Utf8,
            "US-ASCII" | "ASCII" => Self::Narrow(0x80),
            "ISO-8859-1" | "LATIN1" => Self::Narrow(0x100),
            "UTF-16BE" => Self::Wide { big: true, mark: false },
            "UTF-16LE" => Self::Wide { big: false, mark: false },
            "UTF-16" => Self::Wide { big: true, mark: true },
            _ => return None,
        })
    }

    fn encode(self, text: &str) -> Vec<u8> {
        match self {
            Self::Utf8 => text.as_bytes().to_vec(),
            Self::Narrow(end) => {
                let byte = |c: char| u8::try_from(u32::from(c)).ok().filter(|b| u32::from(*b) < end).unwrap_or(b'?');
                text.chars().map(byte).collect()
            }
            Self::Wide { big, mark } => {
                let units = mark.then_some(0xFEFF).into_iter().chain(text.encode_utf16());
                units.flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
            }
        }
    }

    /// Bytes that are none of its characters become the replacement character, as in Java.
    fn decode(self, bytes: &[u8]) -> String {
        match self {
            Self::Utf8 => String::from_utf8_lossy(bytes).into_owned(),
            Self::Narrow(end) => {
                let char = |b: &u8| if u32::from(*b) < end { char::from(*b) } else { char::REPLACEMENT_CHARACTER };
                bytes.iter().map(char).collect()
            }
            Self::Wide { big, mark } => {
                let (big, bytes) = match bytes {
                    [0xFE, 0xFF, rest @ ..] if mark => (true, rest),
                    [0xFF, 0xFE, rest @ ..] if mark => (false, rest),
                    _ => (big, bytes),
                };
                let unit = |pair: &[u8]| pair.iter().fold(0_u16, |unit, byte| (unit << 8) | u16::from(*byte));
                let units = bytes.chunks(2).map(|pair| if big { unit(pair) } else { unit(pair).swap_bytes() });
                char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
            }
        }
    }
}

fn charset(args: &[ArrayRef], row: usize) -> Result<Option<Charset>> {
    let Some(name) = text(args, 1, row) else { return Ok(None) };
    match Charset::read(name) {
        Some(charset) => Ok(Some(charset)),
        None => exec_err!("'{name}' is no character set: they are {CHARSETS}"),
    }
}

fn encode(args: &[ArrayRef]) -> Result<ArrayRef> {
    let mut out = BinaryBuilder::new();
    for row in 0..count(args) {
        let charset = charset(args, row)?;
        out.append_option(text(args, 0, row).zip(charset).map(|(text, charset)| charset.encode(text)));
    }
    Ok(Arc::new(out.finish()))
}

fn decode(args: &[ArrayRef]) -> Result<ArrayRef> {
    texts(args, |row| {
        let charset = charset(args, row)?;
        Ok(bytes(args, 0, row).zip(charset).map(|(bytes, charset)| charset.decode(bytes).into()))
    })
}

/// SHA-1, by FIPS 180-4.
fn sha1(message: &[u8]) -> [u8; 20] {
    let mut state: [u32; 5] = [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476, 0xC3D2_E1F0];
    let mut padded = message.to_vec();
    padded.push(0x80);
    padded.resize((padded.len() + 8).next_multiple_of(64) - 8, 0);
    padded.extend_from_slice(&(message.len() as u64 * 8).to_be_bytes());
    for block in padded.chunks_exact(64) {
        let mut words: Vec<u32> =
            block.chunks_exact(4).map(|w| w.iter().fold(0, |n, b| (n << 8) | u32::from(*b))).collect();
        for t in 16..80 {
            let word = [3, 8, 14, 16].iter().filter_map(|back| words.get(t - back)).fold(0, |x, w| x ^ w);
            words.push(word.rotate_left(1));
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (t, word) in words.iter().enumerate() {
            let (f, k) = match t {
                0..20 => ((b & c) | (!b & d), 0x5A82_7999),
                20..40 => (b ^ c ^ d, 0x6ED9_EBA1),
                40..60 => ((b & c) | (b & d) | (c & d), 0x8F1B_BCDC_u32),
                _ => (b ^ c ^ d, 0xCA62_C1D6),
            };
            let next = a.rotate_left(5).wrapping_add(f).wrapping_add(e).wrapping_add(k).wrapping_add(*word);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        }
        for (sum, add) in state.iter_mut().zip([a, b, c, d, e]) {
            *sum = sum.wrapping_add(add);
        }
    }
    let mut out = [0; 20];
    for (bytes, word) in out.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha1_gives_the_published_digests() {
        let digest = |text: &[u8]| hexadecimal(&sha1(text), false);
        assert_eq!(digest(b""), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        assert_eq!(digest(b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        let two_blocks = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
        assert_eq!(digest(two_blocks), "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
        assert_eq!(digest(&[b'a'; 1_000_000]), "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
    }

    #[test]
    fn texts_of_two_bytes_a_character_keep_their_order() {
        for name in ["UTF-16", "UTF-16LE", "UTF-16BE", "UTF-8"] {
            let charset = Charset::read(name).unwrap();
            assert_eq!(charset.decode(&charset.encode("a😀é")), "a😀é", "{name}");
        }
        assert_eq!(Charset::Narrow(0x80).encode("é"), b"?");
    }
}
