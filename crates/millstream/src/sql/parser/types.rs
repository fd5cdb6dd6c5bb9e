//! Flink's type names to Arrow's types.
//!
//! `TIMESTAMP(p)` counts in the coarsest unit that holds p digits: seconds, milliseconds, microseconds (also
//! without p), nanoseconds. `TIMESTAMP_LTZ` is the same, in UTC. Text is `Utf8View`.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use datafusion::sql::sqlparser::ast::{DataType as SqlType, ExactNumberInfo, TimezoneInfo};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Span, Token};

use super::statement::Parsing;
use super::words;
use crate::sql::diagnostic::{SqlError, did_you_mean};

const UTC: &str = "UTC";

const NAMES: [&str; 21] = [
    "BOOLEAN",
    "TINYINT",
    "SMALLINT",
    "INT",
    "INTEGER",
    "BIGINT",
    "FLOAT",
    "REAL",
    "DOUBLE",
    "DECIMAL",
    "NUMERIC",
    "CHAR",
    "VARCHAR",
    "STRING",
    "BYTES",
    "DATE",
    "TIME",
    "TIMESTAMP",
    "ARRAY",
    "MAP",
    "ROW",
];

/// Reads types. `>>` is one token that closes two of them: what is left of it is remembered here.
#[derive(Default)]
pub struct Types {
    half_closed: bool,
    depth: usize,
}

/// Types are nested no deeper: they are walked by recursion wherever they go.
const DEPTH_MAX: usize = 100;

impl Types {
    /// A type and whether it may be NULL.
    pub fn parse(&mut self, p: &mut Parser<'_>) -> Parsing<(DataType, bool)> {
        let start = p.next_token();
        let Token::Word(word) = &start.token else { return Ok(p.expected("a type", start)?) };
        if self.depth >= DEPTH_MAX {
            let reason = format!("types are nested {DEPTH_MAX} deep at the most: declare the inner part as STRING");
            return Err(SqlError::new(start.span, reason).into());
        }
        self.depth += 1;
        let data_type = self.named(p, &word.value.to_ascii_uppercase(), start.span)?;
        self.depth -= 1;
        if words::next_is(p, "ARRAY") || words::next_is(p, "MULTISET") {
            return Err(SqlError::new(p.peek_token().span, "write ARRAY<type> instead of type ARRAY").into());
        }
        let nullable = !words::take(p, &["NOT", "NULL"]);
        if nullable {
            words::take(p, &["NULL"]);
        }
        Ok((data_type, nullable))
    }

    fn named(&mut self, p: &mut Parser<'_>, name: &str, span: Span) -> Parsing<DataType> {
        Ok(match name {
            "BOOLEAN" | "BOOL" => DataType::Boolean,
            "TINYINT" => DataType::Int8,
            "SMALLINT" => DataType::Int16,
            "INT" | "INTEGER" => DataType::Int32,
            "BIGINT" => DataType::Int64,
            "FLOAT" | "REAL" => DataType::Float32,
            "DOUBLE" => {
                words::take(p, &["PRECISION"]);
                DataType::Float64
            }
            "DECIMAL" | "DEC" | "NUMERIC" => {
                let given = numbers(p)?;
                decimal(given.first().copied(), given.get(1).copied(), span)?
            }
            "CHAR" | "CHARACTER" | "VARCHAR" | "STRING" | "TEXT" => {
                numbers(p)?;
                DataType::Utf8View
            }
            "BINARY" | "VARBINARY" | "BYTES" => {
                numbers(p)?;
                DataType::Binary
            }
            "DATE" => DataType::Date32,
            "TIME" => {
                numbers(p)?;
                without_time_zone(p);
                DataType::Time64(TimeUnit::Nanosecond)
            }
            "TIMESTAMP" => {
                let unit = unit(numbers(p)?.first().copied(), span)?;
                let local =
                    words::take(p, &["WITH", "LOCAL", "TIME", "ZONE"]) || words::take(p, &["WITH", "TIME", "ZONE"]);
                if !local {
                    without_time_zone(p);
                }
                DataType::Timestamp(unit, local.then(|| UTC.into()))
            }
            "TIMESTAMP_LTZ" | "TIMESTAMPTZ" => {
                DataType::Timestamp(unit(numbers(p)?.first().copied(), span)?, Some(UTC.into()))
            }
            "ARRAY" => {
                self.open(p)?;
                let (item, nullable) = self.parse(p)?;
                self.close(p)?;
                DataType::List(Arc::new(Field::new_list_field(item, nullable)))
            }
            "MAP" => {
                self.open(p)?;
                let (key, _) = self.parse(p)?;
                p.expect_token(&Token::Comma)?;
                let (value, nullable) = self.parse(p)?;
                self.close(p)?;
                map(key, value, nullable)
            }
            "ROW" | "STRUCT" => DataType::Struct(self.row(p)?),
            _ => {
                let hint = did_you_mean(name, NAMES.into_iter());
                return Err(SqlError::new(span, format!("there is no type {name}{hint}")).into());
            }
        })
    }

    /// `<a INT, b ROW<..>>` or `(a INT, b ROW(..))`, with a comment after a field.
    fn row(&mut self, p: &mut Parser<'_>) -> Parsing<Fields> {
        let parenthesised = p.consume_token(&Token::LParen);
        if !parenthesised {
            self.open(p)?;
        }
        let mut fields = vec![];
        loop {
            let name = p.parse_identifier()?;
            let (data_type, nullable) = self.parse(p)?;
            if matches!(p.peek_token().token, Token::SingleQuotedString(_)) {
                p.next_token();
            }
            fields.push(Field::new(name.value, data_type, nullable));
            if self.half_closed || !p.consume_token(&Token::Comma) {
                break;
            }
        }
        if parenthesised {
            p.expect_token(&Token::RParen)?;
        } else {
            self.close(p)?;
        }
        Ok(fields.into())
    }

    fn open(&mut self, p: &mut Parser<'_>) -> Parsing<()> {
        p.expect_token(&Token::Lt)?;
        Ok(())
    }

    fn close(&mut self, p: &mut Parser<'_>) -> Parsing<()> {
        if std::mem::take(&mut self.half_closed) || p.consume_token(&Token::Gt) {
            return Ok(());
        }
        if p.consume_token(&Token::ShiftRight) {
            self.half_closed = true;
            return Ok(());
        }
        Ok(p.expected(">", p.peek_token())?)
    }
}

/// `(10)`, `(10, 2)` or nothing.
fn numbers(p: &mut Parser<'_>) -> Parsing<Vec<u64>> {
    if !p.consume_token(&Token::LParen) {
        return Ok(vec![]);
    }
    // VARCHAR(MAX) says no more than VARCHAR.
    if words::take(p, &["MAX"]) {
        p.expect_token(&Token::RParen)?;
        return Ok(vec![]);
    }
    let mut numbers = vec![p.parse_literal_uint()?];
    while p.consume_token(&Token::Comma) {
        numbers.push(p.parse_literal_uint()?);
    }
    p.expect_token(&Token::RParen)?;
    Ok(numbers)
}

fn without_time_zone(p: &mut Parser<'_>) {
    words::take(p, &["WITHOUT", "TIME", "ZONE"]);
}

fn unit(precision: Option<u64>, span: Span) -> Result<TimeUnit, SqlError> {
    match precision {
        Some(0) => Ok(TimeUnit::Second),
        Some(1..=3) => Ok(TimeUnit::Millisecond),
        None | Some(4..=6) => Ok(TimeUnit::Microsecond),
        Some(7..=9) => Ok(TimeUnit::Nanosecond),
        Some(p) => Err(SqlError::new(span, format!("TIMESTAMP({p}) has more digits than there are: 9 is nanoseconds"))),
    }
}

fn decimal(precision: Option<u64>, scale: Option<u64>, span: Span) -> Result<DataType, SqlError> {
    let (precision, scale) = (precision.unwrap_or(10), scale.unwrap_or(0));
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(p @ 1..=38), Ok(s)) if scale <= precision => Ok(DataType::Decimal128(p, s)),
        _ => Err(SqlError::new(
            span,
            format!(
                "DECIMAL({precision}, {scale}) is out of range: up to 38 digits, and no more after the point than in all"
            ),
        )),
    }
}

fn map(key: DataType, value: DataType, nullable: bool) -> DataType {
    let entries = Fields::from(vec![Field::new("key", key, false), Field::new("value", value, nullable)]);
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries), false)), false)
}

/// What a type in an expression (`CAST(x AS type)`) means here, where that differs from what DataFusion says.
pub fn from_sql_type(sql_type: &SqlType) -> Option<Result<DataType, SqlError>> {
    let zone = |tz: &TimezoneInfo| matches!(tz, TimezoneInfo::Tz | TimezoneInfo::WithTimeZone).then(|| UTC.into());
    Some(match sql_type {
        SqlType::Timestamp(precision, tz) => {
            unit(*precision, Span::empty()).map(|unit| DataType::Timestamp(unit, zone(tz)))
        }
        SqlType::Custom(name, modifiers) if name.to_string().eq_ignore_ascii_case("TIMESTAMP_LTZ") => {
            let precision = modifiers.first().and_then(|p| p.parse().ok());
            unit(precision, Span::empty()).map(|unit| DataType::Timestamp(unit, Some(UTC.into())))
        }
        SqlType::Decimal(info) | SqlType::Dec(info) | SqlType::Numeric(info) => {
            let (precision, scale) = match *info {
                ExactNumberInfo::None => (None, None),
                ExactNumberInfo::Precision(p) => (Some(p), None),
                ExactNumberInfo::PrecisionAndScale(p, s) => (Some(p), u64::try_from(s).ok()),
            };
            decimal(precision, scale, Span::empty())
        }
        SqlType::Bytes(_) | SqlType::Binary(_) | SqlType::Varbinary(_) => Ok(DataType::Binary),
        SqlType::Time(..) => Ok(DataType::Time64(TimeUnit::Nanosecond)),
        _ => return None,
    })
}
