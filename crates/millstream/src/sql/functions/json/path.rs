//! Paths of SQL/JSON: `$.order.items[0]['sku']`, `lax $.a`, `$.items[*].sku`.
//!
//! As in Flink, a path is strict where it does not say `lax`: a part that is not there is an error of the path, and
//! not just empty. An array is never unwrapped by itself.

use super::document::Json;

/// A path, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    pub lax: bool,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Member(String),
    Item(usize),
    /// All items, or the values of all members.
    Each,
}

/// What a path leads to.
pub enum Reached<'a> {
    /// One value.
    One(Json<'a>),
    /// Those that `*` found, in their order.
    Many(Vec<Json<'a>>),
    /// Nothing is there.
    Nothing,
}

impl Path {
    /// Reads a path; the error says what is wrong with it.
    pub fn read(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("'{text}' is no path of JSON: {what}, as in '$.items[0].name'");
        let trimmed = text.trim();
        let (lax, rest) = match (trimmed.strip_prefix("lax "), trimmed.strip_prefix("strict ")) {
            (Some(rest), _) => (true, rest.trim_start()),
            (None, Some(rest)) => (false, rest.trim_start()),
            (None, None) => (false, trimmed),
        };
        let Some(mut rest) = rest.strip_prefix('$') else { return Err(wrong("it begins with $")) };
        let mut steps = vec![];
        while !rest.is_empty() {
            let (step, after) = step(rest).ok_or_else(|| wrong(&format!("'{rest}' is neither .name nor [n]")))?;
            steps.push(step);
            rest = after;
        }
        Ok(Self { lax, steps })
    }

    /// Follows the path from a value.
    pub fn follow<'a>(&self, from: Json<'a>) -> Reached<'a> {
        let mut many = false;
        let mut reached = vec![from];
        for step in &self.steps {
            many |= *step == Step::Each;
            reached = reached.into_iter().flat_map(|json| next(step, json)).collect();
        }
        match (many, reached.pop()) {
            (false, Some(one)) => Reached::One(one),
            (false, None) => Reached::Nothing,
            (true, last) => {
                reached.extend(last);
                Reached::Many(reached)
            }
        }
    }
}

fn next<'a>(step: &Step, json: Json<'a>) -> Vec<Json<'a>> {
    match step {
        Step::Member(name) => json.member(name).into_iter().collect(),
        Step::Item(n) => json.items().into_iter().nth(*n).into_iter().collect(),
        Step::Each => json.items().into_iter().chain(json.members().into_iter().map(|(_, value)| value)).collect(),
    }
}

/// The first step, and what follows it.
fn step(text: &str) -> Option<(Step, &str)> {
    if let Some(inner) = text.strip_prefix('[').or_else(|| text.strip_prefix(".[")) {
        let inner = inner.trim_start();
        if let Some(quote) = inner.chars().next().filter(|c| *c == '\'' || *c == '"') {
            let (name, rest) = inner.get(1..)?.split_once(quote)?;
            return Some((Step::Member(name.to_string()), rest.trim_start().strip_prefix(']')?));
        }
        let (index, rest) = inner.split_once(']')?;
        let step = if index.trim() == "*" { Step::Each } else { Step::Item(index.trim().parse().ok()?) };
        return Some((step, rest));
    }
    let rest = text.strip_prefix('.')?;
    if let Some(quoted) = rest.strip_prefix('"') {
        let (name, rest) = quoted.split_once('"')?;
        return Some((Step::Member(name.to_string()), rest));
    }
    let (name, rest) = rest.split_at_checked(rest.find(['.', '[']).unwrap_or(rest.len()))?;
    match name {
        "*" => Some((Step::Each, rest)),
        // Filters, functions and `..` are no names.
        name if name.is_empty() || name.contains(['(', ')', '?', '@', '*', ']', '\'', '"', ' ']) => None,
        name => Some((Step::Member(name.to_string()), rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reached(path: &str, json: &str) -> String {
        let show = |json: Json<'_>| {
            let mut out = String::new();
            json.write(&mut out);
            out
        };
        match Path::read(path).unwrap().follow(Json::read(json).unwrap()) {
            Reached::One(one) => show(one),
            Reached::Many(many) => many.into_iter().map(show).collect::<Vec<_>>().join(" "),
            Reached::Nothing => "nothing".to_string(),
        }
    }

    #[test]
    fn a_path_leads_to_members_items_and_all_of_them() {
        let json = r#" {"b": [1.50, {"c d": "x\"] ,"}], "a.b": {"é": null}, "b2": {"y": 1, "x": 2}} "#;
        assert_eq!(reached("$.b[0]", json), "1.50");
        assert_eq!(reached("$.b[1]['c d']", json), r#""x\"] ,""#);
        assert_eq!(reached("strict $.[\"a.b\"].é", json), "null");
        assert_eq!(reached("lax $.\"a.b\"", json), r#"{"é":null}"#);
        assert_eq!(reached("$.b2.*", json), "1 2");
        assert_eq!(reached("$.b[*]", json), r#"1.50 {"c d":"x\"] ,"}"#);
        assert_eq!(reached("$.b[2]", json), "nothing");
        assert_eq!(reached("$.b.c", json), "nothing");
        assert_eq!(reached("$", "[1, 2]"), "[1,2]");
        assert_eq!(reached("$.a", r#"{"a": 1, "a": 2}"#), "2");
    }

    #[test]
    fn what_is_no_path_is_named() {
        for path in ["a", "$a", "$..a", "$.a[", "$.a[x]", "$.a[?(@.b)]", "$.", ""] {
            assert!(Path::read(path).unwrap_err().contains("is no path of JSON"), "{path}");
        }
    }
}
