//! JSON as the text that it is: looked into, never rebuilt.
//!
//! A number keeps its digits and an object the order of its members, because what is answered is cut out of the
//! input. A document is read once, for its syntax, before any part of it is believed.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A value of a document.
#[derive(Clone, Copy, Debug)]
pub struct Json<'a>(&'a str);

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Null,
    Scalar,
    Array,
    Object,
}

impl<'a> Json<'a> {
    /// The document that a text is; `None` where it is none.
    pub fn read(text: &'a str) -> Option<Self> {
        serde_json::from_str::<&RawValue>(text).ok().map(Self::of_raw)
    }

    fn of_raw(raw: &'a RawValue) -> Self {
        Self(raw.get().trim_matches([' ', '\t', '\n', '\r']))
    }

    pub fn kind(self) -> Kind {
        match self.0.as_bytes().first() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'n') | None => Kind::Null,
            Some(_) => Kind::Scalar,
        }
    }

    /// The member of an object with this name; the last, where there are several.
    pub fn member(self, name: &str) -> Option<Self> {
        self.members().into_iter().rfind(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// The members of an object; none where it is no object.
    pub fn members(self) -> Vec<(String, Json<'a>)> {
        if self.kind() != Kind::Object {
            return vec![];
        }
        serde_json::from_str::<Members<'a>>(self.0).map(|m| m.0).unwrap_or_default()
    }

    /// The items of an array; none where it is no array.
    pub fn items(self) -> Vec<Json<'a>> {
        if self.kind() != Kind::Array {
            return vec![];
        }
        let items = serde_json::from_str::<Vec<&'a RawValue>>(self.0).unwrap_or_default();
        items.into_iter().map(Self::of_raw).collect()
    }

    /// A scalar as SQL's text: a string without its quotes and escapes, anything else as it is written.
    pub fn text(self) -> String {
        match self.0.starts_with('"') {
            true => serde_json::from_str(self.0).unwrap_or_default(),
            false => self.0.to_string(),
        }
    }

    /// Appends the value without white space between its parts.
    pub fn write(self, out: &mut String) {
        let mut quoted = false;
        let mut escaped = false;
        for c in self.0.chars() {
            if !quoted && matches!(c, ' ' | '\t' | '\n' | '\r') {
                continue;
            }
            out.push(c);
            match c {
                '"' if !escaped => quoted = !quoted,
                _ => {}
            }
            escaped = c == '\\' && !escaped;
        }
    }
}

struct Members<'a>(Vec<(String, Json<'a>)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = vec![];
                while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
                    members.push((key, Json::of_raw(value)));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}
