//! Counts by key: of words, of the words of lines, and count and sum by number.

use std::borrow::Cow;
use std::io::{Read, Write};

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::read::Lines;
use super::write_row;
use crate::Result;

#[derive(Deserialize)]
struct WordRow<'a> {
    #[serde(borrow)]
    word: Cow<'a, str>,
}

#[derive(Deserialize)]
struct LineRow<'a> {
    #[serde(borrow)]
    line: Cow<'a, str>,
}

#[derive(Serialize)]
struct WordCount<'a> {
    word: &'a str,
    cnt: i64,
}

pub fn count_words(mut rows: Lines<impl Read>, out: &mut impl Write) -> Result<()> {
    let mut counts: HashMap<String, i64> = HashMap::new();
    while let Some(row) = rows.next::<WordRow<'_>>()? {
        *counts.entry_ref(row.word.as_ref()).or_insert(0) += 1;
    }
    write_counts(&counts, out)
}

pub fn count_words_of_lines(mut rows: Lines<impl Read>, out: &mut impl Write) -> Result<()> {
    let mut counts: HashMap<String, i64> = HashMap::new();
    while let Some(row) = rows.next::<LineRow<'_>>()? {
        for word in row.line.split(' ') {
            *counts.entry_ref(word).or_insert(0) += 1;
        }
    }
    write_counts(&counts, out)
}

fn write_counts(counts: &HashMap<String, i64>, out: &mut impl Write) -> Result<()> {
    for (word, &cnt) in counts {
        write_row(out, &WordCount { word, cnt })?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct KeyedRow {
    k: i64,
    v: i64,
}

/// Holds a count and a sum for every key, and writes only how many keys there were: the memory is the answer.
pub fn count_and_sum(mut rows: Lines<impl Read>, out: &mut impl Write) -> Result<()> {
    let mut sums: HashMap<i64, (i64, i64)> = HashMap::new();
    while let Some(row) = rows.next::<KeyedRow>()? {
        let (count, sum) = sums.entry(row.k).or_insert((0, 0));
        *count += 1;
        *sum += row.v;
    }
    writeln!(out, "{{\"keys\":{}}}", sums.len())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(out: Vec<u8>) -> Vec<String> {
        let mut lines: Vec<_> = String::from_utf8(out).unwrap().lines().map(String::from).collect();
        lines.sort();
        lines
    }

    #[test]
    fn words_are_counted_one_a_row_and_many_a_line() {
        let expected = [r#"{"word":"be","cnt":2}"#, r#"{"word":"not","cnt":1}"#];
        let mut out = Vec::new();
        let rows = "{\"word\":\"be\"}\n{\"word\":\"not\"}\n{\"word\":\"be\"}\n";
        count_words(Lines::new(rows.as_bytes()), &mut out).unwrap();
        assert_eq!(sorted(out), expected);
        let mut out = Vec::new();
        let rows = "{\"line\":\"be not\"}\n{\"line\":\"be\"}\n";
        count_words_of_lines(Lines::new(rows.as_bytes()), &mut out).unwrap();
        assert_eq!(sorted(out), expected);
    }

    #[test]
    fn keys_are_counted() {
        let mut out = Vec::new();
        let rows = "{\"k\":1,\"v\":2}\n{\"k\":3,\"v\":2}\n{\"k\":1,\"v\":5}";
        count_and_sum(Lines::new(rows.as_bytes()), &mut out).unwrap();
        assert_eq!(sorted(out), ["{\"keys\":2}"]);
    }

    #[test]
    fn a_row_that_is_no_row_is_an_error() {
        assert!(count_words(Lines::new("{\"word\":7}\n".as_bytes()), &mut Vec::new()).is_err());
    }
}
