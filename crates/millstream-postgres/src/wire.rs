//! Which of PostgreSQL's types a column of a query can be stored as, without changing what its values mean.
//!
//! A type fits where every value can be stored as it is; wider is fine, narrower and rounding are not. What can only be
//! known row by row (a text that must be a UUID, nanoseconds that must be none) is checked row by row.

use arrow::datatypes::{DataType, TimeUnit};

use crate::numeric;

/// A type of the server, of a column or of the elements of an array.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PgType {
    /// The type, or what a domain is made of.
    pub(crate) oid: u32,
    /// The type of arrays of it.
    pub(crate) array_oid: u32,
    /// Its name in the catalog: `int8`, `_text`.
    pub(crate) name: String,
    /// Whether it is an enum.
    pub(crate) is_enum: bool,
    /// Its modifier; -1 where it has none.
    pub(crate) modifier: i32,
    /// What it is an array of.
    pub(crate) element: Option<Box<PgType>>,
}

/// The binary form of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric,
    Text,
    /// `jsonb` from text that is JSON.
    JsonbText,
    /// `json` or `jsonb` from a ROW, MAP or ARRAY.
    Nested {
        jsonb: bool,
    },
    Bytea,
    Uuid,
    Date,
    Time,
    Timestamp,
    Interval,
    Array {
        oid: u32,
        element: Box<Wire>,
    },
}

/// The binary form in which a column of this type is stored in one of that; `None` where it does not fit.
pub(crate) fn fit(data_type: &DataType, pg: &PgType) -> Option<Wire> {
    use DataType as D;
    let wire = match (data_type, pg.name.as_str()) {
        (D::Dictionary(_, value), _) => return fit(value, pg),
        (D::RunEndEncoded(_, value), _) => return fit(value.data_type(), pg),
        (D::Boolean, "bool") => Wire::Bool,
        (D::Int8 | D::Int16 | D::UInt8, "int2") => Wire::Int2,
        (D::Int8 | D::Int16 | D::Int32 | D::UInt8 | D::UInt16, "int4") => Wire::Int4,
        (D::Int8 | D::Int16 | D::Int32 | D::Int64 | D::UInt8 | D::UInt16 | D::UInt32, "int8") => Wire::Int8,
        (D::Float16 | D::Float32, "float4") => Wire::Float4,
        (D::Float16 | D::Float32 | D::Float64, "float8") => Wire::Float8,
        (_, "numeric") => return fits_numeric(data_type, pg.modifier).then_some(Wire::Numeric),
        (D::Utf8 | D::LargeUtf8 | D::Utf8View | D::Null, "text" | "varchar" | "bpchar" | "json") => Wire::Text,
        (D::Utf8 | D::LargeUtf8 | D::Utf8View, _) if pg.is_enum => Wire::Text,
        (D::Utf8 | D::LargeUtf8 | D::Utf8View, "jsonb") => Wire::JsonbText,
        (D::Utf8 | D::LargeUtf8 | D::Utf8View | D::FixedSizeBinary(16), "uuid") => Wire::Uuid,
        (D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_), "bytea") => Wire::Bytea,
        (D::Date32 | D::Date64, "date") => Wire::Date,
        (D::Time32(_) | D::Time64(_), "time") => return fits_time(pg.modifier, None).then_some(Wire::Time),
        (D::Timestamp(unit, None), "timestamp") | (D::Timestamp(unit, Some(_)), "timestamptz") => {
            return fits_time(pg.modifier, Some(*unit)).then_some(Wire::Timestamp);
        }
        (D::Interval(_) | D::Duration(_), "interval") if pg.modifier == -1 => Wire::Interval,
        (D::Struct(_) | D::Map(..), "json" | "jsonb") => Wire::Nested { jsonb: pg.name == "jsonb" },
        (list, "json" | "jsonb") if item(list).is_some() => Wire::Nested { jsonb: pg.name == "jsonb" },
        (list, _) => {
            let (item, element) = (item(list)?, pg.element.as_deref()?);
            // An array of arrays would have to be rectangular.
            if self::item(item).is_some() {
                return None;
            }
            Wire::Array { oid: element.oid, element: Box::new(fit(item, element)?) }
        }
    };
    Some(wire)
}

fn item(data_type: &DataType) -> Option<&DataType> {
    match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => Some(item.data_type()),
        _ => None,
    }
}

fn fits_numeric(data_type: &DataType, modifier: i32) -> bool {
    let Some((precision, scale)) = numeric::digits(data_type) else { return false };
    let Some((most, after_point)) = numeric::modifier(modifier) else { return true };
    i32::from(scale) <= after_point && i32::from(precision) - i32::from(scale) <= most - after_point
}

/// A column that keeps fewer digits of a second would round. Of a TIME the unit says nothing about its digits.
fn fits_time(modifier: i32, unit: Option<TimeUnit>) -> bool {
    let digits = match unit {
        Some(TimeUnit::Second) => 0,
        Some(TimeUnit::Millisecond) => 3,
        Some(TimeUnit::Microsecond | TimeUnit::Nanosecond) | None => 6,
    };
    modifier == -1 || modifier >= digits
}

/// The type of a column that is created for this one.
pub(crate) fn created(data_type: &DataType) -> Option<String> {
    use DataType as D;
    Some(match data_type {
        D::Dictionary(_, value) => return created(value),
        D::RunEndEncoded(_, value) => return created(value.data_type()),
        D::Boolean => "boolean".into(),
        D::Int8 | D::Int16 | D::UInt8 => "smallint".into(),
        D::Int32 | D::UInt16 => "integer".into(),
        D::Int64 | D::UInt32 => "bigint".into(),
        D::UInt64 => "numeric(20,0)".into(),
        D::Float16 | D::Float32 => "real".into(),
        D::Float64 => "double precision".into(),
        D::Decimal32(..) | D::Decimal64(..) | D::Decimal128(..) | D::Decimal256(..) => {
            let (precision, scale) = numeric::digits(data_type)?;
            format!("numeric({precision},{scale})")
        }
        D::Utf8 | D::LargeUtf8 | D::Utf8View | D::Null => "text".into(),
        D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_) => "bytea".into(),
        D::Date32 | D::Date64 => "date".into(),
        D::Time32(_) | D::Time64(_) => "time".into(),
        D::Timestamp(unit, zone) => {
            let name = if zone.is_some() { "timestamptz" } else { "timestamp" };
            match unit {
                TimeUnit::Second => format!("{name}(0)"),
                TimeUnit::Millisecond => format!("{name}(3)"),
                TimeUnit::Microsecond | TimeUnit::Nanosecond => name.into(),
            }
        }
        D::Interval(_) | D::Duration(_) => "interval".into(),
        D::Struct(_) | D::Map(..) => "jsonb".into(),
        list => {
            let item = item(list)?;
            match item {
                D::Struct(_) | D::Map(..) => "jsonb".into(),
                nested if self::item(nested).is_some() => "jsonb".into(),
                item => format!("{}[]", created(item)?),
            }
        }
    })
}

/// What a type is called in a query.
pub(crate) fn sql_name(data_type: &DataType) -> String {
    use DataType as D;
    let digits = |unit: &TimeUnit| match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    };
    match data_type {
        D::Boolean => "BOOLEAN".into(),
        D::Int8 => "TINYINT".into(),
        D::Int16 => "SMALLINT".into(),
        D::Int32 => "INT".into(),
        D::Int64 => "BIGINT".into(),
        D::Float32 => "FLOAT".into(),
        D::Float64 => "DOUBLE".into(),
        D::Decimal32(p, s) | D::Decimal64(p, s) | D::Decimal128(p, s) | D::Decimal256(p, s) => {
            format!("DECIMAL({p}, {s})")
        }
        D::Utf8 | D::LargeUtf8 | D::Utf8View => "STRING".into(),
        D::Binary | D::LargeBinary | D::BinaryView => "BYTES".into(),
        D::Date32 | D::Date64 => "DATE".into(),
        D::Time32(_) | D::Time64(_) => "TIME".into(),
        D::Timestamp(unit, None) => format!("TIMESTAMP({})", digits(unit)),
        D::Timestamp(unit, Some(_)) => format!("TIMESTAMP_LTZ({})", digits(unit)),
        D::Struct(fields) => {
            let fields = fields.iter().map(|field| format!("{} {}", field.name(), sql_name(field.data_type())));
            format!("ROW<{}>", fields.collect::<Vec<_>>().join(", "))
        }
        D::Dictionary(_, value) => sql_name(value),
        list => item(list).map_or_else(|| list.to_string(), |item| format!("ARRAY<{}>", sql_name(item))),
    }
}

/// The type by which a query means a column of the server, where there is one.
pub(crate) fn meant(pg: &PgType) -> Option<String> {
    Some(match pg.name.as_str() {
        "bool" => "BOOLEAN".into(),
        "int2" => "SMALLINT".into(),
        "int4" => "INT".into(),
        "int8" => "BIGINT".into(),
        "float4" => "FLOAT".into(),
        "float8" => "DOUBLE".into(),
        "numeric" => match numeric::modifier(pg.modifier) {
            Some((precision, scale)) if scale >= 0 && scale <= precision => format!("DECIMAL({precision}, {scale})"),
            _ => "DECIMAL(38, 18)".into(),
        },
        "text" | "varchar" | "bpchar" | "uuid" => "STRING".into(),
        "bytea" => "BYTES".into(),
        "date" => "DATE".into(),
        "time" => "TIME".into(),
        "timestamp" => {
            if pg.modifier >= 0 {
                format!("TIMESTAMP({})", pg.modifier)
            } else {
                "TIMESTAMP(6)".into()
            }
        }
        "timestamptz" if pg.modifier >= 0 => format!("TIMESTAMP_LTZ({})", pg.modifier),
        "timestamptz" => "TIMESTAMP_LTZ(6)".into(),
        "json" | "jsonb" => "STRING, ROW or MAP".into(),
        _ if pg.is_enum => "STRING".into(),
        _ => format!("ARRAY<{}>", meant(pg.element.as_deref()?)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pg(name: &str, modifier: i32) -> PgType {
        PgType { name: name.into(), modifier, ..PgType::default() }
    }

    #[test]
    fn wider_fits_and_narrower_does_not() {
        assert_eq!(fit(&DataType::Int32, &pg("int8", -1)), Some(Wire::Int8));
        assert_eq!(fit(&DataType::Int64, &pg("int4", -1)), None);
        assert_eq!(fit(&DataType::Float64, &pg("float4", -1)), None);
        assert_eq!(fit(&DataType::Int64, &pg("float8", -1)), None);
        assert_eq!(fit(&DataType::UInt64, &pg("int8", -1)), None);
    }

    #[test]
    fn a_numeric_that_would_round_or_overflow_does_not_fit() {
        let modifier = |precision: i32, scale: i32| ((precision << 16) | (scale & 0x7ff)) + 4;
        let decimal = DataType::Decimal128(10, 2);
        assert!(fit(&decimal, &pg("numeric", -1)).is_some());
        assert!(fit(&decimal, &pg("numeric", modifier(10, 2))).is_some());
        assert!(fit(&decimal, &pg("numeric", modifier(12, 4))).is_some());
        assert!(fit(&decimal, &pg("numeric", modifier(10, 4))).is_none(), "8 digits before the point become 6");
        assert!(fit(&decimal, &pg("numeric", modifier(10, 1))).is_none());
        assert!(fit(&DataType::Int64, &pg("numeric", modifier(10, 0))).is_none());
    }

    #[test]
    fn a_time_keeps_its_digits_and_its_zone() {
        let ms = DataType::Timestamp(TimeUnit::Millisecond, None);
        assert!(fit(&ms, &pg("timestamp", -1)).is_some());
        assert!(fit(&ms, &pg("timestamp", 3)).is_some());
        assert!(fit(&ms, &pg("timestamp", 0)).is_none());
        assert!(fit(&ms, &pg("timestamptz", -1)).is_none());
    }
}
