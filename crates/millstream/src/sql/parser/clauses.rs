//! Clauses within the parentheses of a function that sqlparser does not know, put into arguments.
//!
//! `JSON_VALUE(j, '$.a' RETURNING INT DEFAULT 0 ON EMPTY)`, `JSON_OBJECT(KEY 'a' VALUE b)`, `x IS JSON OBJECT` and
//! `MAP['a', 1]`. What is put in has the place of what it stands for.

use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use super::words;
use crate::sql::diagnostic::SqlError;

/// What `x IS JSON OBJECT` is matched with, by RLIKE, until it is a call of `is_json`.
pub const IS_JSON: &str = "\u{1}IS JSON ";

/// The same tokens with these forms in sqlparser's.
pub fn tokens(tokens: &[TokenWithSpan]) -> Result<Vec<TokenWithSpan>, SqlError> {
    let mut out = Vec::with_capacity(tokens.len());
    let mut n = 0;
    while let Some(token) = tokens.get(n) {
        let rest = tokens.get(n..).unwrap_or_default();
        if let Some((test, length)) = is_json(rest) {
            out.extend(test);
            n += length;
            continue;
        }
        let opens = tokens.get(n + 1).map(|t| &t.token);
        let form = match opens {
            Some(Token::LParen) => Form::of(&token.token),
            Some(Token::LBracket) if words::is(&token.token, "MAP") => Some(Form::Map),
            _ => None,
        };
        let inner = form.and_then(|form| Some((form, inside(rest)?)));
        match inner {
            Some((form, length)) => {
                let inner = self::tokens(rest.get(2..2 + length).unwrap_or_default())?;
                out.extend(form.rewrite(token, inner, rest.get(1), rest.get(2 + length))?);
                n += length + 3;
            }
            None => {
                out.push(token.clone());
                n += 1;
            }
        }
    }
    Ok(out)
}

/// How many tokens stand between the brackets that begin with the second token.
fn inside(tokens: &[TokenWithSpan]) -> Option<usize> {
    let mut depth = Depth::default();
    tokens.iter().skip(1).position(|t| depth.after(&t.token) == 0).map(|n| n - 1)
}

/// How many brackets are open.
#[derive(Default)]
struct Depth(usize);

impl Depth {
    fn after(&mut self, token: &Token) -> usize {
        match token {
            Token::LParen | Token::LBracket | Token::LBrace => self.0 += 1,
            Token::RParen | Token::RBracket | Token::RBrace => self.0 = self.0.saturating_sub(1),
            _ => {}
        }
        self.0
    }
}

/// `IS [NOT] JSON [VALUE | SCALAR | ARRAY | OBJECT]`, and how many tokens it was.
fn is_json(tokens: &[TokenWithSpan]) -> Option<(Vec<TokenWithSpan>, usize)> {
    let is = |n: usize, word: &str| tokens.get(n).is_some_and(|t| words::is(&t.token, word));
    let negated = is(1, "NOT");
    let at = if negated { 2 } else { 1 };
    if !is(0, "IS") || !is(at, "JSON") {
        return None;
    }
    let kind = ["VALUE", "SCALAR", "ARRAY", "OBJECT"].into_iter().find(|kind| is(at + 1, kind));
    let span = Span::new(tokens.first()?.span.start, tokens.get(at)?.span.end);
    let text = Token::SingleQuotedString(format!("{IS_JSON}{}", kind.unwrap_or("VALUE")));
    let words: &[&str] = if negated { &["NOT", "RLIKE"] } else { &["RLIKE"] };
    let words = words.iter().map(|w| Token::make_word(w, None)).chain([text]);
    let test = words.map(|token| TokenWithSpan { token, span }).collect();
    Some((test, at + 1 + usize::from(kind.is_some())))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Value,
    Query,
    Exists,
    Object,
    Map,
}

impl Form {
    fn of(token: &Token) -> Option<Self> {
        const FORMS: [(&str, Form); 4] = [
            ("JSON_VALUE", Form::Value),
            ("JSON_QUERY", Form::Query),
            ("JSON_EXISTS", Form::Exists),
            ("JSON_OBJECT", Form::Object),
        ];
        FORMS.iter().find(|(name, _)| words::is(token, name)).map(|(_, form)| *form)
    }

    fn rewrite(
        self,
        name: &TokenWithSpan,
        inner: Vec<TokenWithSpan>,
        opens: Option<&TokenWithSpan>,
        closes: Option<&TokenWithSpan>,
    ) -> Result<Vec<TokenWithSpan>, SqlError> {
        let mut out = vec![name.clone()];
        let (mut open, mut close) = (opens.cloned(), closes.cloned());
        let inner = match self {
            Self::Object => object(inner),
            Self::Map => {
                // A column called map has one subscript, which is no list.
                let mut depth = Depth::default();
                let list =
                    inner.is_empty() || inner.iter().any(|t| depth.after(&t.token) == 0 && t.token == Token::Comma);
                if list {
                    out = vec![TokenWithSpan { token: Token::make_word("map_of", None), span: name.span }];
                    open = open.map(|t| TokenWithSpan { token: Token::LParen, ..t });
                    close = close.map(|t| TokenWithSpan { token: Token::RParen, ..t });
                }
                inner
            }
            _ => self.arguments(inner)?,
        };
        out.extend(open);
        out.extend(inner);
        out.extend(close);
        Ok(out)
    }

    /// The arguments of JSON_VALUE, JSON_QUERY or JSON_EXISTS with their clauses as arguments.
    fn arguments(self, inner: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>, SqlError> {
        let Some(start) = clauses_start(&inner) else { return Ok(inner) };
        let (arguments, clauses) = inner.split_at(start);
        let span = super::span_of(clauses);
        let clauses = Clauses::read(clauses)?;
        let mut out = arguments.to_vec();
        for argument in clauses.arguments(self, span)? {
            out.push(TokenWithSpan { token: Token::Comma, span });
            out.extend(argument);
        }
        Ok(out)
    }
}

/// `KEY 'a' VALUE b, ..` with a comma for each VALUE.
fn object(inner: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(inner.len());
    let mut depth = Depth::default();
    for (n, token) in inner.iter().enumerate() {
        let outside = depth.0 == 0;
        let top = depth.after(&token.token) == 0 && outside;
        let begins = out.last().is_none_or(|t| t.token == Token::Comma);
        let next = inner.get(n + 1).map(|t| &t.token);
        let ends =
            matches!(next, None | Some(Token::Comma | Token::Period)) || next.is_some_and(|t| words::is(t, "VALUE"));
        if top && begins && !ends && words::is(&token.token, "KEY") {
            continue;
        }
        if top && !begins && words::is(&token.token, "VALUE") {
            out.push(TokenWithSpan { token: Token::Comma, span: token.span });
            continue;
        }
        out.push(token.clone());
    }
    out
}

/// Where the clauses begin: at the first of their words that follows a whole second argument.
fn clauses_start(inner: &[TokenWithSpan]) -> Option<usize> {
    const WORDS: [&str; 10] =
        ["RETURNING", "DEFAULT", "NULL", "ERROR", "TRUE", "FALSE", "UNKNOWN", "EMPTY", "WITH", "WITHOUT"];
    let mut depth = Depth::default();
    let top: Vec<usize> =
        inner.iter().enumerate().filter(|(_, t)| depth.after(&t.token) == 0).map(|(n, _)| n).collect();
    let comma = top.iter().position(|n| inner.get(*n).is_some_and(|t| t.token == Token::Comma))?;
    let is_word = |n: &&usize| inner.get(**n).is_some_and(|t| WORDS.iter().any(|w| words::is(&t.token, w)));
    top.iter().skip(comma + 2).find(is_word).copied()
}

/// What the clauses ask for.
#[derive(Default)]
struct Clauses {
    returning: Option<Vec<TokenWithSpan>>,
    wrapper: Option<&'static str>,
    on_empty: Option<Behaviour>,
    on_error: Option<Behaviour>,
}

struct Behaviour {
    name: &'static str,
    default: Option<Vec<TokenWithSpan>>,
    span: Span,
}

impl Clauses {
    fn read(mut tokens: &[TokenWithSpan]) -> Result<Self, SqlError> {
        const BEHAVIOURS: [(&[&str], &str); 7] = [
            (&["NULL"], "null"),
            (&["ERROR"], "error"),
            (&["TRUE"], "true"),
            (&["FALSE"], "false"),
            (&["UNKNOWN"], "unknown"),
            (&["EMPTY", "ARRAY"], "array"),
            (&["EMPTY", "OBJECT"], "object"),
        ];
        const WRAPPERS: [(&[&str], &str); 8] = [
            (&["WITHOUT", "ARRAY", "WRAPPER"], "without"),
            (&["WITHOUT", "WRAPPER"], "without"),
            (&["WITH", "CONDITIONAL", "ARRAY", "WRAPPER"], "conditional"),
            (&["WITH", "CONDITIONAL", "WRAPPER"], "conditional"),
            (&["WITH", "UNCONDITIONAL", "ARRAY", "WRAPPER"], "unconditional"),
            (&["WITH", "UNCONDITIONAL", "WRAPPER"], "unconditional"),
            (&["WITH", "ARRAY", "WRAPPER"], "unconditional"),
            (&["WITH", "WRAPPER"], "unconditional"),
        ];
        let mut clauses = Self::default();
        while let Some(first) = tokens.first() {
            let begins = |words: &[&str]| words::begins(tokens, words);
            if begins(&["RETURNING"]) {
                let end = end_of(tokens, |rest| {
                    ["DEFAULT", "NULL", "ERROR", "EMPTY", "WITH", "WITHOUT"].iter().any(|w| words::begins(rest, &[w]))
                });
                clauses.returning = tokens.get(1..end).map(<[_]>::to_vec);
                tokens = tokens.get(end..).unwrap_or_default();
                continue;
            }
            if let Some((words, wrapper)) = WRAPPERS.iter().find(|(words, _)| begins(words)) {
                clauses.wrapper = Some(wrapper);
                tokens = tokens.get(words.len()..).unwrap_or_default();
                continue;
            }
            let (behaviour, length) = if begins(&["DEFAULT"]) {
                let end = end_of(tokens, |rest| words::begins(rest, &["ON"]));
                let default = tokens.get(1..end).map(<[_]>::to_vec);
                (Behaviour { name: "default", default, span: first.span }, end)
            } else if let Some((words, name)) = BEHAVIOURS.iter().find(|(words, _)| begins(words)) {
                (Behaviour { name, default: None, span: first.span }, words.len())
            } else {
                return Err(wrong(first));
            };
            tokens = tokens.get(length..).unwrap_or_default();
            let place = match () {
                () if words::begins(tokens, &["ON", "EMPTY"]) => &mut clauses.on_empty,
                () if words::begins(tokens, &["ON", "ERROR"]) => &mut clauses.on_error,
                () => return Err(wrong(tokens.first().unwrap_or(first))),
            };
            *place = Some(behaviour);
            tokens = tokens.get(2..).unwrap_or_default();
        }
        Ok(clauses)
    }

    /// The arguments that stand for the clauses.
    fn arguments(self, form: Form, span: Span) -> Result<Vec<Vec<TokenWithSpan>>, SqlError> {
        let at = |token: Token| TokenWithSpan { token, span };
        let word = |text: &str| at(Token::make_word(text, None));
        let text = |text: &str| vec![at(Token::SingleQuotedString(text.to_string()))];
        let allowed: &[&str] = match form {
            Form::Value => &["null", "error", "default"],
            Form::Query => &["null", "error", "array", "object"],
            _ => &["true", "false", "unknown", "error"],
        };
        for behaviour in self.on_empty.iter().chain(&self.on_error) {
            if !allowed.contains(&behaviour.name) {
                let reason = format!("this clause is not one of {form:?}'s: {}", allowed.join(", ").to_uppercase());
                return Err(SqlError::new(behaviour.span, reason));
            }
        }
        let name = |behaviour: &Option<Behaviour>| behaviour.as_ref().map_or("null", |b| b.name);
        let (empty, error) = (text(name(&self.on_empty)), text(name(&self.on_error)));
        match form {
            Form::Value if self.wrapper.is_none() => {
                let returning = self.returning.unwrap_or_else(|| vec![word("VARCHAR")]);
                let mut null = vec![word("CAST"), at(Token::LParen), word("NULL"), word("AS")];
                null.extend(returning);
                null.push(at(Token::RParen));
                let default = |b: Option<Behaviour>| b.and_then(|b| b.default).unwrap_or_else(|| vec![word("NULL")]);
                Ok(vec![empty, error, null, default(self.on_empty), default(self.on_error)])
            }
            Form::Query => {
                if let Some(returning) = &self.returning
                    && !matches!(returning.as_slice(), [t, ..] if ["VARCHAR", "STRING", "CHAR"].iter().any(|w| words::is(&t.token, w)))
                {
                    let reason = "JSON_QUERY answers text: take values of another type with JSON_VALUE";
                    return Err(SqlError::new(super::span_of(returning), reason));
                }
                Ok(vec![text(self.wrapper.unwrap_or("without")), empty, error])
            }
            Form::Exists if self.wrapper.is_none() && self.returning.is_none() && self.on_empty.is_none() => {
                Ok(vec![text(self.on_error.as_ref().map_or("false", |b| b.name))])
            }
            _ => Err(SqlError::new(span, "a clause here belongs to another function of JSON")),
        }
    }
}

fn wrong(token: &TokenWithSpan) -> SqlError {
    let reason = "this is no clause of a function of JSON: they are RETURNING type, {NULL | ERROR | DEFAULT value} ON \
                  {EMPTY | ERROR}, and {WITH | WITHOUT} WRAPPER";
    SqlError::new(token.span, reason)
}

/// Where a part ends: at the first token after the first, outside of brackets, that begins what follows it.
fn end_of(tokens: &[TokenWithSpan], follows: impl Fn(&[TokenWithSpan]) -> bool) -> usize {
    let mut depth = Depth::default();
    let ends = |n: &usize| {
        let Some(token) = tokens.get(*n) else { return true };
        let outside = depth.0 == 0;
        depth.after(&token.token);
        // A first token is part of it whatever it is: DEFAULT NULL ON EMPTY.
        *n > 1 && outside && follows(tokens.get(*n..).unwrap_or_default())
    };
    (0..=tokens.len()).find(ends).unwrap_or(tokens.len())
}
