//! A value of Avro's binary form to JSON, as far as the declared columns ask for it.
//!
//! The JSON is what this workspace's JSON format reads to the same value, exactly: decimals with all their digits, times
//! as texts, bytes in base64. Where the declared type decides what a value means (bytes and texts), it is asked.

use arrow::datatypes::{DataType, Fields};

use super::schema::{Logical, Named, Schema, Type};
use crate::format::scalar::base64_encode;

/// Values within values.
const DEPTH_MAX: usize = 64;

/// Elements of no size (an array of nulls) in one record.
const EMPTY_ELEMENTS_MAX: usize = 1 << 16;

/// Reads the record that the bytes begin with, and writes those of its fields that are declared. Answers what follows it.
///
/// # Errors
/// Why it is no row, for a person.
pub(super) fn record<'a>(
    schema: &Schema,
    bytes: &'a [u8],
    declared: &Fields,
    out: &mut String,
) -> Result<&'a [u8], String> {
    let mut cursor = Cursor { bytes, schema };
    match &schema.root {
        Type::Named(at) if matches!(schema.named.get(*at), Some(Named::Record(_))) => {
            cursor.value(&schema.root, Wanted::Row(declared), out, 0)?;
        }
        _ => return Err("the writer's schema is no record".into()),
    }
    Ok(cursor.bytes)
}

/// What follows the record that the bytes begin with.
///
/// # Errors
/// Why it is not known where the record ends.
pub(super) fn skip<'a>(schema: &Schema, bytes: &'a [u8]) -> Result<&'a [u8], String> {
    let mut cursor = Cursor { bytes, schema };
    cursor.value(&schema.root, Wanted::Nothing, &mut String::new(), 0)?;
    Ok(cursor.bytes)
}

/// What the table wants of a value.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    Nothing,
    Row(&'a Fields),
    Value(&'a DataType),
}

impl<'a> Wanted<'a> {
    fn of(data_type: &'a DataType) -> Self {
        match data_type {
            DataType::Struct(fields) => Self::Row(fields),
            other => Self::Value(other),
        }
    }

    fn is_bytes(self) -> bool {
        matches!(self, Self::Value(DataType::Binary | DataType::LargeBinary | DataType::BinaryView))
    }

    fn is_text(self) -> bool {
        matches!(self, Self::Value(DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View))
    }

    fn is_nothing(self) -> bool {
        matches!(self, Self::Nothing)
    }
}

struct Cursor<'a, 's> {
    bytes: &'a [u8],
    schema: &'s Schema,
}

impl<'a> Cursor<'a, '_> {
    fn value(&mut self, of: &Type, wanted: Wanted<'_>, out: &mut String, depth: usize) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err("its values are nested too deep".into());
        }
        match of {
            Type::Null => text(wanted, "null", out),
            Type::Boolean => match self.take(1)? {
                [0] => text(wanted, "false", out),
                [1] => text(wanted, "true", out),
                other => return Err(format!("{other:?} is no boolean")),
            },
            Type::Int(logical) => {
                let value = self.long()?;
                let value = i32::try_from(value).map_err(|_| format!("{value} is no int"))?;
                number(value.into(), *logical, wanted, out)?;
            }
            Type::Long(logical) => {
                let value = self.long()?;
                number(value, *logical, wanted, out)?;
            }
            Type::Float => {
                let bytes = self.take(4)?.first_chunk::<4>().copied().unwrap_or_default();
                let value = f32::from_le_bytes(bytes);
                float(value.is_finite(), value.is_nan(), value > 0.0, || format!("{value:e}"), wanted, out);
            }
            Type::Double => {
                let bytes = self.take(8)?.first_chunk::<8>().copied().unwrap_or_default();
                let value = f64::from_le_bytes(bytes);
                float(value.is_finite(), value.is_nan(), value > 0.0, || format!("{value:e}"), wanted, out);
            }
            Type::Bytes(logical) => {
                let len = self.len()?;
                let bytes = self.take(len)?;
                binary(bytes, *logical, Convert::Allowed, wanted, out)?;
            }
            Type::String => {
                let len = self.len()?;
                let bytes = self.take(len)?;
                let value = std::str::from_utf8(bytes).map_err(|_| "a string is no UTF-8".to_string())?;
                match wanted {
                    Wanted::Nothing => {}
                    wanted if wanted.is_bytes() => quoted_base64(bytes, out),
                    _ => quoted(value, out),
                }
            }
            Type::Array(element) => self.array(element, wanted, out, depth)?,
            Type::Map(value) => self.map(value, wanted, out, depth)?,
            Type::Union(branches) => {
                let at = self.long()?;
                let branch = usize::try_from(at).ok().and_then(|at| branches.get(at));
                let branch = branch.ok_or_else(|| format!("a union has no branch {at}"))?;
                self.value(branch, wanted, out, depth + 1)?;
            }
            Type::Named(at) => self.named(*at, wanted, out, depth)?,
        }
        Ok(())
    }

    fn named(&mut self, at: usize, wanted: Wanted<'_>, out: &mut String, depth: usize) -> Result<(), String> {
        match self.schema.named.get(at) {
            Some(Named::Record(fields)) => {
                let columns = match wanted {
                    Wanted::Row(columns) => columns,
                    Wanted::Nothing => &Fields::empty(),
                    Wanted::Value(other) => return Err(format!("a record is no {other}")),
                };
                text(wanted, "{", out);
                let mut first = true;
                for (name, of) in fields {
                    let column = columns.iter().find(|column| column.name() == name);
                    let field = column.map_or(Wanted::Nothing, |column| Wanted::of(column.data_type()));
                    if !field.is_nothing() {
                        text(field, if first { "" } else { "," }, out);
                        first = false;
                        quoted(name, out);
                        out.push(':');
                    }
                    self.value(of, field, out, depth + 1).map_err(|e| format!("field '{name}': {e}"))?;
                }
                text(wanted, "}", out);
            }
            Some(Named::Enum(symbols)) => {
                let at = self.long()?;
                let symbol = usize::try_from(at).ok().and_then(|at| symbols.get(at));
                let symbol = symbol.ok_or_else(|| format!("an enum has no symbol {at}"))?;
                match wanted {
                    Wanted::Nothing => {}
                    wanted if wanted.is_bytes() => return Err("an enum is no BYTES".into()),
                    _ => quoted(symbol, out),
                }
            }
            Some(Named::Fixed(size, logical)) => {
                let bytes = self.take(*size)?;
                binary(bytes, *logical, Convert::Refused, wanted, out)?;
            }
            Some(Named::Open) | None => return Err("the writer's schema holds a type that is not there".into()),
        }
        Ok(())
    }

    fn array(&mut self, element: &Type, wanted: Wanted<'_>, out: &mut String, depth: usize) -> Result<(), String> {
        let inner = match wanted {
            Wanted::Value(DataType::List(field) | DataType::LargeList(field)) => Wanted::of(field.data_type()),
            Wanted::Nothing => Wanted::Nothing,
            _ => return Err("an array is declared as something else".into()),
        };
        text(wanted, "[", out);
        let mut first = true;
        self.blocks(|cursor| {
            text(wanted, if first { "" } else { "," }, out);
            first = false;
            cursor.value(element, inner, out, depth + 1)
        })?;
        text(wanted, "]", out);
        Ok(())
    }

    fn map(&mut self, value: &Type, wanted: Wanted<'_>, out: &mut String, depth: usize) -> Result<(), String> {
        let inner = match wanted {
            Wanted::Value(DataType::Map(entries, _)) => match entries.data_type() {
                DataType::Struct(fields) => {
                    fields.get(1).map_or(Wanted::Nothing, |field| Wanted::of(field.data_type()))
                }
                _ => Wanted::Nothing,
            },
            Wanted::Nothing => Wanted::Nothing,
            _ => return Err("a map is declared as something else".into()),
        };
        text(wanted, "{", out);
        let mut first = true;
        self.blocks(|cursor| {
            let len = cursor.len()?;
            let key = std::str::from_utf8(cursor.take(len)?).map_err(|_| "a key is no UTF-8".to_string())?;
            if !wanted.is_nothing() {
                text(wanted, if first { "" } else { "," }, out);
                first = false;
                quoted(key, out);
                out.push(':');
            }
            cursor.value(value, inner, out, depth + 1)
        })?;
        text(wanted, "}", out);
        Ok(())
    }

    /// The elements of an array or a map, which come in blocks.
    fn blocks(&mut self, mut each: impl FnMut(&mut Self) -> Result<(), String>) -> Result<(), String> {
        let mut empty = 0;
        loop {
            let mut count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                // The bytes of the block, for those who step over it.
                self.long()?;
                count = count.checked_neg().ok_or("a block has no size")?;
            }
            for _ in 0..count {
                let before = self.bytes.len();
                each(self)?;
                empty += usize::from(self.bytes.len() == before);
                if empty > EMPTY_ELEMENTS_MAX {
                    return Err("an array holds too many elements of no size".into());
                }
            }
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or("the record ends too early")?;
        self.bytes = rest;
        Ok(taken)
    }

    fn len(&mut self) -> Result<usize, String> {
        let len = self.long()?;
        usize::try_from(len).map_err(|_| format!("{len} is no length"))
    }

    /// A zigzag number of variable length.
    fn long(&mut self) -> Result<i64, String> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?.first().copied().unwrap_or_default();
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()));
            }
        }
        Err("a number is longer than ten bytes".into())
    }
}

fn text(wanted: Wanted<'_>, text: &str, out: &mut String) {
    if !wanted.is_nothing() {
        out.push_str(text);
    }
}

fn quoted(value: &str, out: &mut String) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

fn quoted_base64(bytes: &[u8], out: &mut String) {
    let mut text = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    base64_encode(bytes, &mut text);
    out.push('"');
    out.push_str(&String::from_utf8_lossy(&text));
    out.push('"');
}

fn float(finite: bool, nan: bool, positive: bool, shown: impl Fn() -> String, wanted: Wanted<'_>, out: &mut String) {
    match (wanted, finite, nan, positive) {
        (Wanted::Nothing, ..) => {}
        (_, true, ..) => out.push_str(&shown()),
        (_, _, true, _) => out.push_str("\"NaN\""),
        (_, _, _, true) => out.push_str("\"Infinity\""),
        _ => out.push_str("\"-Infinity\""),
    }
}

/// Whether a text may be read as bytes and bytes as a text, as Avro's own rules say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Convert {
    Allowed,
    Refused,
}

fn binary(
    bytes: &[u8],
    logical: Logical,
    convert: Convert,
    wanted: Wanted<'_>,
    out: &mut String,
) -> Result<(), String> {
    match (wanted, logical) {
        (Wanted::Nothing, _) => {}
        (wanted, _) if wanted.is_bytes() => quoted_base64(bytes, out),
        (_, Logical::Decimal(scale)) => {
            let value = decimal(bytes).ok_or_else(|| format!("a decimal of {} bytes is too long", bytes.len()))?;
            let text = decimal_text(value, scale);
            if wanted.is_text() { quoted(&text, out) } else { out.push_str(&text) }
        }
        (wanted, _) if wanted.is_text() && convert == Convert::Allowed => {
            quoted(std::str::from_utf8(bytes).map_err(|_| "bytes are no UTF-8, and declared STRING".to_string())?, out);
        }
        _ => return Err("bytes are declared as something else".into()),
    }
    Ok(())
}

/// A number of big-endian bytes in two's complement.
fn decimal(bytes: &[u8]) -> Option<i128> {
    let negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
    let fill = if negative { 0xff } else { 0 };
    let excess = bytes.len().saturating_sub(16);
    let (surplus, kept) = bytes.split_at(excess);
    let fits = surplus.iter().all(|byte| *byte == fill)
        && (excess == 0 || kept.first().is_some_and(|first| (first & 0x80 != 0) == negative));
    let mut wide = [fill; 16];
    wide.iter_mut().rev().zip(kept.iter().rev()).for_each(|(to, from)| *to = *from);
    fits.then(|| i128::from_be_bytes(wide))
}

fn decimal_text(value: i128, scale: u32) -> String {
    let scale = scale as usize;
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if value < 0 { "-" } else { "" };
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

fn number(value: i64, logical: Logical, wanted: Wanted<'_>, out: &mut String) -> Result<(), String> {
    if wanted.is_nothing() {
        return Ok(());
    }
    let integer = matches!(wanted, Wanted::Value(t) if t.is_integer());
    match logical {
        // A table may want the number itself.
        _ if integer => out.push_str(&value.to_string()),
        Logical::None | Logical::Decimal(_) => out.push_str(&value.to_string()),
        Logical::Date => quoted(&date(value), out),
        Logical::Time(digits) => quoted(&time(value, digits), out),
        Logical::Timestamp(digits) | Logical::Local(digits) => {
            let per_day = 86_400 * 10_i64.pow(digits);
            let (days, rest) = (value.div_euclid(per_day), value.rem_euclid(per_day));
            let zone = if matches!(logical, Logical::Timestamp(_)) { "Z" } else { "" };
            quoted(&format!("{}T{}{zone}", date(days), time(rest, digits)), out);
        }
    }
    Ok(())
}

fn time(value: i64, digits: u32) -> String {
    let unit = 10_i64.pow(digits);
    let (seconds, fraction) = (value.div_euclid(unit), value.rem_euclid(unit));
    let width = digits as usize;
    format!("{:02}:{:02}:{:02}.{fraction:0width$}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// A day counted from 1970-01-01 in the civil calendar (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn date(days: i64) -> String {
    let z = days.saturating_add(719_468);
    let (era, day_of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_times_are_what_a_calendar_says() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(-1), "1969-12-31");
        assert_eq!(date(19_782), "2024-02-29");
        assert_eq!(time(86_399_999, 3), "23:59:59.999");
    }

    #[test]
    fn decimals_keep_every_digit() {
        assert_eq!(decimal_text(decimal(&[0xff, 0x85]).unwrap(), 2), "-1.23");
        assert_eq!(decimal_text(decimal(&[5]).unwrap(), 3), "0.005");
        assert_eq!(decimal(&[0; 20]), Some(0));
        assert_eq!(decimal(&[1; 17]), None);
        assert_eq!(decimal(&[]), Some(0));
    }

    #[test]
    fn a_block_of_nothing_does_not_run_for_ever() {
        let schema = Schema::parse(
            r#"{"type":"record","name":"r","fields":[{"name":"a","type":{"type":"array","items":"null"}}]}"#,
        )
        .unwrap();
        let endless = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert!(record(&schema, &endless, &Fields::empty(), &mut String::new()).is_err());
    }
}
