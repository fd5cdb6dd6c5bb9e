//! Names as PostgreSQL reads them: `orders`, `shop.orders`, `"Shop"."Orders"`.

use std::fmt;

use millstream_core::{Error, Result};

/// The identifier in quotes, as it can stand in any statement.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A table's name, with its schema where that was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableName {
    pub(crate) schema: Option<String>,
    pub(crate) name: String,
}

impl TableName {
    /// Reads a name by PostgreSQL's rule: what is not in quotes is folded to lower case.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where it is none.
    pub(crate) fn parse(option: &str, text: &str) -> Result<Self> {
        let refused = || {
            Error::config(format!(
                "the option '{option}' = '{text}' names no table: write 'orders', 'shop.orders' or '\"Shop\".\"Orders\"'"
            ))
        };
        let mut parts = parts(text.trim()).ok_or_else(refused)?;
        let name = parts.pop().ok_or_else(refused)?;
        let schema = parts.pop();
        if !parts.is_empty() {
            return Err(refused());
        }
        Ok(Self { schema, name })
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{}.", quoted(schema))?;
        }
        f.write_str(&quoted(&self.name))
    }
}

/// The parts between the dots; `None` where quotes do not match or a part is empty.
fn parts(text: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut part = String::new();
    let mut was_quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if part.is_empty() && !was_quoted => {
                was_quoted = true;
                loop {
                    match chars.next()? {
                        '"' if chars.peek() == Some(&'"') => part.extend(chars.next()),
                        '"' => break,
                        c => part.push(c),
                    }
                }
            }
            '.' if part.is_empty() => return None,
            '.' => {
                parts.push(std::mem::take(&mut part));
                was_quoted = false;
            }
            '"' => return None,
            _ if was_quoted => return None,
            c => part.extend(c.to_lowercase()),
        }
    }
    if part.is_empty() {
        return None;
    }
    parts.push(part);
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> String {
        TableName::parse("table-name", text).map_or_else(|e| e.to_string(), |name| name.to_string())
    }

    #[test]
    fn names_are_folded_unless_they_stand_in_quotes() {
        assert_eq!(name("Orders"), "\"orders\"");
        assert_eq!(name("shop.Orders"), "\"shop\".\"orders\"");
        assert_eq!(name("\"Shop\".\"a.\"\"b\""), "\"Shop\".\"a.\"\"b\"");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", "a.", ".a", "a.b.c", "\"a", "a\"b\"", "\"a\"b"] {
            assert!(name(text).contains("names no table"), "{text}");
        }
    }
}
