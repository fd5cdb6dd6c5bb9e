//! `SIMILAR TO`: the patterns of the SQL standard, as regular expressions.
//!
//! DataFusion takes the pattern for a regular expression as it stands, so that `'a%'` would match nothing. Here a
//! pattern matches the whole text, `%` is anything, `_` any character, and what the standard gives no meaning stands
//! for itself.

use datafusion::sql::sqlparser::ast::{Expr, Value, ValueWithSpan};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::sql::diagnostic::SqlError;

/// The regular expression of a pattern with its escape character.
///
/// # Errors
/// Where one of them is not a constant text.
pub fn constant(pattern: &Expr, escape: Option<&ValueWithSpan>, at: Span) -> Result<String, SqlError> {
    let refused = "the pattern of SIMILAR TO is a constant text, and its ESCAPE one character: use RLIKE for others";
    expression(pattern, escape).ok_or_else(|| SqlError::new(at, refused))
}

fn expression(pattern: &Expr, escape: Option<&ValueWithSpan>) -> Option<String> {
    let text = |value: &Value| match value {
        Value::SingleQuotedString(text) => Some(text.clone()),
        _ => None,
    };
    let Expr::Value(pattern) = pattern else { return None };
    let escape = escape.map_or(Some("\\".to_string()), |e| text(&e.value))?;
    let mut characters = escape.chars();
    let (escape, None) = (characters.next()?, characters.next()) else { return None };
    Some(regular_expression(&text(&pattern.value)?, escape))
}

fn regular_expression(pattern: &str, escape: char) -> String {
    let mut regex = String::from("^(?:");
    let mut in_class = false;
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        match character {
            c if c == escape => literal(characters.next().unwrap_or(c), &mut regex),
            '[' if !in_class => {
                in_class = true;
                regex.push('[');
            }
            ']' if in_class => {
                in_class = false;
                regex.push(']');
            }
            c if in_class => regex.push(c),
            '%' => regex.push_str("(?s:.*)"),
            '_' => regex.push_str("(?s:.)"),
            c @ ('|' | '*' | '+' | '?' | '(' | ')' | '{' | '}') => regex.push(c),
            c => literal(c, &mut regex),
        }
    }
    regex.push_str(")$");
    regex
}

fn literal(character: char, regex: &mut String) {
    regex.push_str(&regex::escape(&character.to_string()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_of_the_standard_is_a_regular_expression_of_the_whole_text() {
        let cases = [
            ("a%", "apple", true),
            ("a%", "banana", false),
            ("a_b", "axb", true),
            ("a\\_b", "axb", false),
            ("(a|A)pple( pie)?", "Apple pie", true),
            ("(a|b)", "ab", false),
            ("a.b", "axb", false),
            ("[a-c]{2}", "ab", true),
            ("^a$", "a", false),
            ("%", "two\nlines", true),
        ];
        for (pattern, text, matches) in cases {
            let regex = regex::Regex::new(&regular_expression(pattern, '\\')).unwrap();
            assert_eq!(regex.is_match(text), matches, "{text} SIMILAR TO {pattern}");
        }
    }
}
