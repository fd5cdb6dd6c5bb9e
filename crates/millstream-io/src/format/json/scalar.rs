//! Scalars of JSON to values of a column: the plain forms in place, every other form with care.

use arrow::datatypes::DataType;

use super::cursor::{Cursor, Fail, Read};
use crate::format::leaf::{Kind, Leaf, sql_name};
use crate::format::scalar::{self, Misfit};

impl Leaf {
    /// Reads the plainest form of the type's values; stays where it is for any other.
    #[inline]
    pub(crate) fn read_plain(&mut self, cursor: &mut Cursor) -> bool {
        match &mut self.kind {
            Kind::Int { values, min, max } => {
                let start = cursor.at;
                match cursor.plain_integer() {
                    Some(value) if value >= *min && value <= *max => {
                        values.push(value);
                        true
                    }
                    _ => {
                        cursor.at = start;
                        false
                    }
                }
            }
            Kind::Text { values, .. } if cursor.peek() == Some(b'"') => {
                cursor.at += 1;
                match cursor.plain_string() {
                    Some(text) => {
                        values.push(text.as_bytes());
                        true
                    }
                    None => {
                        cursor.at -= 1;
                        false
                    }
                }
            }
            Kind::Timestamp { values, unit, epoch } => {
                let start = cursor.at;
                let value = match (cursor.peek(), epoch) {
                    (Some(b'"'), _) => {
                        cursor.at += 1;
                        cursor.plain_string().and_then(|text| scalar::timestamp(text.as_bytes(), *unit).ok())
                    }
                    (Some(_), Some(epoch)) => {
                        cursor.plain_integer().and_then(|value| scalar::convert(value, *epoch, *unit).ok())
                    }
                    _ => None,
                };
                match value {
                    Some(value) => {
                        values.push(value);
                        true
                    }
                    None => {
                        cursor.at = start;
                        false
                    }
                }
            }
            _ => false,
        }
    }

    /// Reads a value that is not null, or says why it is none of this type. Appends no validity.
    pub(crate) fn read(&mut self, cursor: &mut Cursor) -> Read {
        let first = cursor.peek();
        let number = matches!(first, Some(b'-' | b'0'..=b'9'));
        let start = cursor.at;
        let result = match (&mut self.kind, first) {
            (Kind::Boolean(values), Some(b't')) if cursor.take(b"true") => return push(values, true),
            (Kind::Boolean(values), Some(b'f')) if cursor.take(b"false") => return push(values, false),
            (Kind::Text { values, .. }, Some(b'"')) => {
                cursor.at += 1;
                values.push(cursor.string()?.as_bytes());
                return Ok(());
            }
            (Kind::Text { values, any: true }, Some(_)) => {
                cursor.skip()?;
                values.push(cursor.span(start..cursor.at).as_bytes());
                return Ok(());
            }
            (kind, Some(b'"')) => {
                cursor.at += 1;
                read_string(kind, cursor.string()?)
            }
            (kind, _) if number => read_number(kind, cursor)?,
            _ => Err(Misfit::Malformed),
        };
        let Err(reason) = result else { return Ok(()) };
        cursor.at = start;
        match (&self.kind, reason) {
            (Kind::Timestamp { epoch: None, .. }, Misfit::Malformed) if number => Err(Fail::value(format!(
                "wrong type: {} is declared, found {}; for epoch numbers declare their unit (the \
                 table's option 'json.epoch.<column>': 's', 'ms', 'us' or 'ns')",
                sql_name(&self.data_type),
                cursor.describe()
            ))),
            (_, Misfit::Malformed) => unexpected(cursor, &sql_name(&self.data_type)),
            (_, Misfit::OutOfRange) => misfit(reason, cursor, &self.data_type),
        }
    }
}

fn push<T>(values: &mut Vec<T>, value: T) -> Read {
    values.push(value);
    Ok(())
}

/// Appends what the text of a string stands for.
fn read_string(kind: &mut Kind, text: &str) -> Result<(), Misfit> {
    match kind {
        Kind::Timestamp { values, unit, .. } => values.push(scalar::timestamp(text.as_bytes(), *unit)?),
        Kind::Date(values) => values.push(scalar::date(text.as_bytes()).ok_or(Misfit::Malformed)?),
        Kind::Time { values, unit } => {
            values.push(scalar::time(text.as_bytes(), *unit).ok_or(Misfit::Malformed)?);
        }
        Kind::Decimal { values, precision, scale } => values.push(scalar::decimal(text, *precision, *scale)?),
        Kind::Float64(values) => values.push(scalar::not_a_number(text).ok_or(Misfit::Malformed)?),
        Kind::Float32(values) => values.push(scalar::not_a_number(text).ok_or(Misfit::Malformed)? as f32),
        Kind::Binary(values) => {
            let mut bytes = Vec::new();
            scalar::base64_decode(text.as_bytes(), &mut bytes).ok_or(Misfit::Malformed)?;
            values.push(&bytes);
        }
        _ => return Err(Misfit::Malformed),
    }
    Ok(())
}

/// Appends a number. The outer result is about the grammar, the inner one about the type.
fn read_number(kind: &mut Kind, cursor: &mut Cursor) -> Read<Result<(), Misfit>> {
    let number = cursor.number()?;
    let whole = number.simple.filter(|(_, fraction)| *fraction == 0).map(|(digits, _)| digits);
    Ok((|| {
        match kind {
            Kind::Int { values, min, max } => values.push(scalar::integer(number.text, *min, *max)?),
            Kind::UInt64(values) => match whole {
                Some(value) if !number.negative => values.push(value),
                _ => values.push(scalar::unsigned(number.text)?),
            },
            Kind::Float64(values) => {
                let exact = number.simple.and_then(|(digits, fraction)| scalar::exact_f64(digits, fraction));
                values.push(match exact {
                    Some(value) if number.negative => -value,
                    Some(value) => value,
                    None => scalar::float64(number.text)?,
                });
            }
            Kind::Float32(values) => values.push(scalar::float32(number.text)?),
            Kind::Decimal { values, precision, scale } => {
                values.push(scalar::decimal(number.text, *precision, *scale)?);
            }
            Kind::Timestamp { values, unit, epoch: Some(epoch) } => {
                values.push(scalar::epoch(number.text, *epoch, *unit)?);
            }
            _ => return Err(Misfit::Malformed),
        }
        Ok(())
    })())
}

/// What is said of a value that is none of the declared type.
pub(crate) fn unexpected<T>(cursor: &Cursor, declared: &str) -> Read<T> {
    match cursor.peek() {
        // Neither a value nor anything: what is wrong is the JSON.
        None => cursor.fail("the record ends where a value is expected"),
        Some(b'"' | b'{' | b'[' | b't' | b'f' | b'n' | b'-' | b'0'..=b'9') => {
            Err(Fail::value(format!("wrong type: {declared} is declared, found {}", cursor.describe())))
        }
        Some(_) => cursor.fail("a value is expected"),
    }
}

fn misfit<T>(misfit: Misfit, cursor: &Cursor, data_type: &DataType) -> Read<T> {
    let (name, found) = (sql_name(data_type), cursor.describe());
    Err(Fail::value(match misfit {
        Misfit::Malformed => format!("wrong type: {name} is declared, found {found}"),
        Misfit::OutOfRange => {
            let number = found.strip_prefix("the number ").or_else(|| found.strip_prefix("the string "));
            format!("number out of range: {} does not fit {name} exactly", number.unwrap_or(&found))
        }
    }))
}
