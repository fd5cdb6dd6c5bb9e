//! Avro schemas as their writers declare them (Apache Avro 1.12, "Schema Declaration").

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema as ArrowSchema, TimeUnit};
use serde_json::Value;

/// A schema. Named types are kept once, and are referred to by number, so that a type may hold itself.
#[derive(Debug)]
pub struct Schema {
    pub(super) root: Type,
    pub(super) named: Vec<Named>,
}

/// A type of values.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Type {
    Null,
    Boolean,
    Int(Logical),
    Long(Logical),
    Float,
    Double,
    Bytes(Logical),
    String,
    Array(Arc<Type>),
    Map(Arc<Type>),
    Union(Arc<[Type]>),
    Named(usize),
}

/// What a value of a plain type means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Logical {
    None,
    Date,
    /// Digits of a second's fraction: 3, 6.
    Time(u32),
    /// Digits of a second's fraction: 3, 6, 9; in UTC.
    Timestamp(u32),
    /// The same, in nobody's zone.
    Local(u32),
    /// The digits behind the point.
    Decimal(u32),
}

/// A type with a name.
#[derive(Debug)]
pub(super) enum Named {
    Record(Vec<(String, Type)>),
    Enum(Vec<String>),
    Fixed(usize, Logical),
    /// While it is read.
    Open,
}

/// Types within types.
const DEPTH_MAX: usize = 64;

impl Schema {
    /// Reads a schema.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn parse(text: &str) -> Result<Self, String> {
        let json: Value = serde_json::from_str(text).map_err(|e| format!("it is no JSON: {e}"))?;
        let mut reader = Reader { named: vec![], by_name: HashMap::new() };
        let root = reader.read(&json, "", 0)?;
        Ok(Self { root, named: reader.named })
    }

    /// The columns that a record of this schema fills, for a table that declares none. Each may be NULL, as a record of
    /// another version of the schema may lack it.
    ///
    /// # Errors
    /// Which field is no column, for a person.
    pub fn columns(&self) -> Result<ArrowSchema, String> {
        let root = match &self.root {
            Type::Named(at) => self.named.get(*at),
            _ => None,
        };
        match root {
            Some(Named::Record(fields)) => Ok(ArrowSchema::new(self.fields(fields, 0)?)),
            _ => Err("its schema is no record".into()),
        }
    }

    fn fields(&self, fields: &[(String, Type)], depth: usize) -> Result<Fields, String> {
        let field = |(name, of): &(String, Type)| {
            let data_type = self.data_type(of, depth + 1).map_err(|why| format!("the field '{name}' {why}"))?;
            Ok(Field::new(name, data_type, true))
        };
        fields.iter().map(field).collect()
    }

    fn data_type(&self, of: &Type, depth: usize) -> Result<DataType, String> {
        if depth > DEPTH_MAX {
            return Err("holds itself, which no column can: declare the table without it".into());
        }
        let element = |of: &Type| self.data_type(of, depth + 1);
        Ok(match of {
            Type::Null => DataType::Utf8View,
            Type::Boolean => DataType::Boolean,
            Type::Int(logical) => meant(*logical).unwrap_or(DataType::Int32),
            Type::Long(logical) => meant(*logical).unwrap_or(DataType::Int64),
            Type::Float => DataType::Float32,
            Type::Double => DataType::Float64,
            Type::Bytes(logical) => meant(*logical).unwrap_or(DataType::Binary),
            Type::String => DataType::Utf8View,
            Type::Array(item) => DataType::List(Arc::new(Field::new("item", element(item)?, true))),
            Type::Map(value) => {
                let entries =
                    vec![Field::new("key", DataType::Utf8, false), Field::new("value", element(value)?, true)];
                let entries = Field::new("entries", DataType::Struct(entries.into()), false);
                DataType::Map(Arc::new(entries), false)
            }
            Type::Union(branches) => {
                let mut some = branches.iter().filter(|branch| **branch != Type::Null);
                match (some.next(), some.next()) {
                    (None, _) => DataType::Utf8View,
                    (Some(branch), None) => element(branch)?,
                    (Some(_), Some(_)) => {
                        return Err(
                            "is a union of several types: declare the table, with the one that is wanted".into()
                        );
                    }
                }
            }
            Type::Named(at) => match self.named.get(*at) {
                Some(Named::Record(fields)) => DataType::Struct(self.fields(fields, depth)?),
                Some(Named::Enum(_)) => DataType::Utf8View,
                Some(Named::Fixed(_, logical)) => meant(*logical).unwrap_or(DataType::Binary),
                Some(Named::Open) | None => return Err("has a type that is not there".into()),
            },
        })
    }
}

/// The type of what a plain value means, where it means more than itself.
fn meant(logical: Logical) -> Option<DataType> {
    let unit = |digits: u32| match digits {
        3 => TimeUnit::Millisecond,
        6 => TimeUnit::Microsecond,
        _ => TimeUnit::Nanosecond,
    };
    Some(match logical {
        Logical::None => return None,
        Logical::Date => DataType::Date32,
        Logical::Time(3) => DataType::Time32(TimeUnit::Millisecond),
        Logical::Time(digits) => DataType::Time64(unit(digits)),
        Logical::Timestamp(digits) => DataType::Timestamp(unit(digits), Some("UTC".into())),
        Logical::Local(digits) => DataType::Timestamp(unit(digits), None),
        Logical::Decimal(scale) => DataType::Decimal128(38, i8::try_from(scale).ok().filter(|scale| *scale <= 38)?),
    })
}

struct Reader {
    named: Vec<Named>,
    by_name: HashMap<String, usize>,
}

impl Reader {
    fn read(&mut self, json: &Value, space: &str, depth: usize) -> Result<Type, String> {
        if depth > DEPTH_MAX {
            return Err("its types are nested too deep".into());
        }
        match json {
            Value::String(name) => self.by_name(name, Logical::None, space),
            Value::Array(branches) => {
                let branches = branches.iter().map(|branch| self.read(branch, space, depth + 1));
                Ok(Type::Union(branches.collect::<Result<Vec<_>, _>>()?.into()))
            }
            Value::Object(_) => self.object(json, space, depth),
            other => Err(format!("{other} is no type")),
        }
    }

    fn by_name(&self, name: &str, logical: Logical, space: &str) -> Result<Type, String> {
        Ok(match name {
            "null" => Type::Null,
            "boolean" => Type::Boolean,
            "int" => Type::Int(logical),
            "long" => Type::Long(logical),
            "float" => Type::Float,
            "double" => Type::Double,
            "bytes" => Type::Bytes(logical),
            "string" => Type::String,
            other => {
                let known = self.by_name.get(&full_name(other, space)).or_else(|| self.by_name.get(other));
                Type::Named(*known.ok_or_else(|| format!("there is no type '{other}'"))?)
            }
        })
    }

    fn object(&mut self, json: &Value, space: &str, depth: usize) -> Result<Type, String> {
        let text = |key: &str| json.get(key).and_then(Value::as_str);
        let part = |key: &str| json.get(key).ok_or_else(|| format!("a type has no '{key}'"));
        let kind = part("type")?;
        let Some(name) = kind.as_str() else { return self.read(kind, space, depth + 1) };
        match name {
            "array" => Ok(Type::Array(Arc::new(self.read(part("items")?, space, depth + 1)?))),
            "map" => Ok(Type::Map(Arc::new(self.read(part("values")?, space, depth + 1)?))),
            "record" | "error" | "enum" | "fixed" => {
                let own = text("name").ok_or("a type has no name")?;
                let space = text("namespace").unwrap_or(space);
                let full = full_name(own, space);
                let space = full.rsplit_once('.').map_or("", |(space, _)| space).to_string();
                let at = self.named.len();
                self.named.push(Named::Open);
                self.by_name.insert(full, at);
                let named = match name {
                    "enum" => Named::Enum(texts(part("symbols")?)?),
                    "fixed" => {
                        let size = part("size")?.as_u64().and_then(|size| usize::try_from(size).ok());
                        Named::Fixed(size.ok_or("a fixed type has no size")?, logical(json))
                    }
                    _ => self.record(part("fields")?, &space, depth)?,
                };
                if let Some(slot) = self.named.get_mut(at) {
                    *slot = named;
                }
                Ok(Type::Named(at))
            }
            plain => self.by_name(plain, logical(json), space),
        }
    }

    fn record(&mut self, fields: &Value, space: &str, depth: usize) -> Result<Named, String> {
        let fields = fields.as_array().ok_or("the fields of a record are no list")?;
        let read = |field: &Value| {
            let name = field.get("name").and_then(Value::as_str).ok_or("a field has no name")?;
            let of = field.get("type").ok_or("a field has no type")?;
            Ok((name.to_string(), self.read(of, space, depth + 1)?))
        };
        Ok(Named::Record(fields.iter().map(read).collect::<Result<_, String>>()?))
    }
}

fn full_name(name: &str, space: &str) -> String {
    if name.contains('.') || space.is_empty() { name.to_string() } else { format!("{space}.{name}") }
}

fn texts(json: &Value) -> Result<Vec<String>, String> {
    let texts = json.as_array().map(|all| all.iter().filter_map(Value::as_str).map(str::to_string).collect());
    texts.ok_or_else(|| "the symbols of an enum are no list".to_string())
}

fn logical(json: &Value) -> Logical {
    match json.get("logicalType").and_then(Value::as_str) {
        Some("date") => Logical::Date,
        Some("time-millis") => Logical::Time(3),
        Some("time-micros") => Logical::Time(6),
        Some("timestamp-millis") => Logical::Timestamp(3),
        Some("timestamp-micros") => Logical::Timestamp(6),
        Some("timestamp-nanos") => Logical::Timestamp(9),
        Some("local-timestamp-millis") => Logical::Local(3),
        Some("local-timestamp-micros") => Logical::Local(6),
        Some("local-timestamp-nanos") => Logical::Local(9),
        Some("decimal") => {
            let scale = json.get("scale").map_or(Some(0), Value::as_u64);
            scale.and_then(|scale| u32::try_from(scale).ok()).map_or(Logical::None, Logical::Decimal)
        }
        _ => Logical::None,
    }
}
