//! The options of a table: taken one by one, so that what nobody took is an error and not silence.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millstream_core::{Error, Result};

use crate::secret;

/// The `WITH` options of a table, by name. What of them may be a secret is never part of `Debug`.
#[derive(Clone, Default)]
pub struct Options {
    values: BTreeMap<String, String>,
    known: Arc<Mutex<BTreeSet<String>>>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.values.iter().map(|(name, text)| (name, secret::hidden(name, text)))).finish()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Options {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(iter: T) -> Self {
        Self { values: iter.into_iter().map(|(k, v)| (k.into(), v.into())).collect(), ..Self::default() }
    }
}

impl Options {
    /// The option's text, where it is set. Asking makes the name a known one.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.known().insert(name.to_string());
        self.values.get(name).map(String::as_str)
    }

    /// The option's text.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where it is not set.
    pub fn required(&self, name: &str) -> Result<&str> {
        if let Some(text) = self.get(name) {
            return Ok(text);
        }
        let known = self.known();
        let misspelt = nearest(name, self.values.keys().filter(|k| !known.contains(*k)).map(String::as_str));
        let remedy = match misspelt {
            Some(written) => format!("is it '{written}' that was meant for it?"),
            None => "add it to WITH (..)".to_string(),
        };
        Err(Error::config(format!("the option '{name}' is missing: {remedy}")))
    }

    /// The option's value, where it is set.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where its text is no such value.
    pub fn parsed<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>> {
        let Some(text) = self.get(name) else { return Ok(None) };
        text.trim().parse().map(Some).map_err(|e| Error::config(format!("the option '{name}' = '{text}': {e}")))
    }

    /// A length of time as Flink writes it: `500 ms`, `10s`, `1 min`, `2 h`, `1 d`; a bare number is milliseconds.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where it is none.
    pub fn duration(&self, name: &str) -> Result<Option<Duration>> {
        let Some(text) = self.get(name) else { return Ok(None) };
        parse_duration(text).map(Some).ok_or_else(|| {
            Error::config(format!(
                "the option '{name}' = '{text}' is no length of time: write '500 ms', '10 s', '1 min'"
            ))
        })
    }

    /// One of some words.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where it is another word.
    pub fn one_of<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Result<Option<T>> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, value)| *value);
        found.map(Some).ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| format!("'{word}'")).collect();
            Error::config(format!("the option '{name}' = '{text}': it is one of {}", words.join(", ")))
        })
    }

    /// The names of the options that begin so, with their texts.
    pub fn with_prefix(&self, prefix: &str) -> Vec<(&str, &str)> {
        let found: Vec<_> = self.values.iter().filter(|(k, _)| k.starts_with(prefix)).collect();
        self.known().extend(found.iter().map(|(k, _)| (*k).clone()));
        found.into_iter().map(|(k, v)| (k.as_str(), v.as_str())).collect()
    }

    fn known(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every option was asked for by somebody.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] that names the first one nobody knows, and the nearest known one.
    pub fn finish(&self) -> Result<()> {
        let known = self.known();
        let Some(unknown) = self.values.keys().find(|k| !known.contains(*k)) else { return Ok(()) };
        let nearest = nearest(unknown, known.iter().map(String::as_str));
        let hint = nearest.map(|n| format!("; did you mean '{n}'?")).unwrap_or_default();
        Err(Error::config(format!("the option '{unknown}' is not known here{hint}")))
    }
}

/// Reads a length of time: a number and a unit.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().ok()?;
    let seconds = match unit.trim().to_ascii_lowercase().as_str() {
        "ns" => 1e-9,
        "us" | "µs" | "micros" => 1e-6,
        "" | "ms" | "milli" | "millis" | "millisecond" | "milliseconds" => 1e-3,
        "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
        "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
        "h" | "hour" | "hours" => 3600.0,
        "d" | "day" | "days" => 86400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * seconds).ok()
}

/// The candidate that a person most likely meant, if one is near.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|c| (edit_distance(&word.to_lowercase(), &c.to_lowercase()), c))
        .filter(|(distance, c)| *distance <= (c.len().max(word.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_nobody_asked_for_is_named_with_its_neighbour() {
        let options: Options = [("path", "a"), ("fromat", "json")].into_iter().collect();
        options.get("path");
        options.get("format");
        let error = options.finish().unwrap_err().to_string();
        assert_eq!(error, "the option 'fromat' is not known here; did you mean 'format'?");
    }

    #[test]
    fn what_may_be_a_secret_is_not_shown() {
        let options: Options = [
            ("properties.sasl.password", "hunter2"),
            ("properties.ssl.key.pem", "-----BEGIN hunter2"),
            ("avro-confluent.basic-auth.user-info", "ann:hunter2"),
            ("avro-confluent.bearer-auth.token", "hunter2"),
            ("avro-confluent.url", "https://ann:hunter2@registry:8081/x"),
            ("url", "postgresql://h/db?user=ann&password=hunter2&sslmode=require"),
            ("properties.ssl.keystore.password", "${env:KEY}hunter2"),
            ("password", "${env:PASSWORD}"),
            ("properties.ssl.ca.location", "/etc/ca.pem"),
            ("topic", "orders"),
        ]
        .into_iter()
        .collect();
        let shown = format!("{options:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        for kept in ["${env:PASSWORD}", "https://***@registry:8081/x", "/etc/ca.pem", "orders", "sslmode=require"] {
            assert!(shown.contains(kept), "{kept} in {shown}");
        }
    }

    #[test]
    fn a_missing_option_that_was_misspelt_is_said_to_be() {
        let options: Options = [("pth", "a"), ("format", "json")].into_iter().collect();
        let error = options.required("path").unwrap_err().to_string();
        assert_eq!(error, "the option 'path' is missing: is it 'pth' that was meant for it?");
        let error = options.required("connector").unwrap_err().to_string();
        assert_eq!(error, "the option 'connector' is missing: add it to WITH (..)");
    }

    #[test]
    fn durations_read_as_flink_writes_them() {
        assert_eq!(parse_duration("500 ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("10"), Some(Duration::from_millis(10)));
        assert_eq!(parse_duration("1 min"), Some(Duration::from_secs(60)));
        assert_eq!(parse_duration("fast"), None);
    }
}
