//! The joins of two made streams: row `i` of each side comes at `i` ms, with a key out of `i`, and its number as value.
//!
//! Each takes the rows of both sides by turns, in the order of their times. The input says how many there are.

use std::collections::VecDeque;
use std::io::{Read, Write};

use hashbrown::HashMap;
use serde::Serialize;

use super::write_row;
use crate::Result;

const SPAN_MS: i64 = 10_000;

#[derive(Default, Serialize)]
struct Pairs {
    pairs: i64,
    lefts: i64,
    rights: i64,
}

impl Pairs {
    fn add(&mut self, left: i64, right: i64) {
        self.pairs += 1;
        self.lefts += left;
        self.rights += right;
    }
}

fn rows(mut input: impl Read) -> Result<i64> {
    let mut text = String::new();
    input.read_to_string(&mut text)?;
    Ok(text.trim().parse()?)
}

/// By key, each of which a side has once: both sides are kept.
pub fn inner(input: impl Read, out: &mut impl Write) -> Result<()> {
    let rows = rows(input)?;
    let mut left: HashMap<i64, (i64, i64)> = HashMap::new();
    let mut right: HashMap<i64, (i64, i64)> = HashMap::new();
    let mut pairs = Pairs::default();
    for i in 0..rows {
        let key = i * 7919 % rows;
        if let Some((value, _)) = right.get(&key) {
            pairs.add(i, *value);
        }
        left.insert(key, (i, i));
        let key = (i * 6007 + 12345) % rows;
        if let Some((value, _)) = left.get(&key) {
            pairs.add(*value, i);
        }
        right.insert(key, (i, i));
    }
    write_row(out, &pairs)
}

/// By key, where the right row comes up to 10 s after the left one: the left rows of 10 s are kept.
pub fn interval(input: impl Read, out: &mut impl Write) -> Result<()> {
    let rows = rows(input)?;
    let mut left: HashMap<i64, (i64, i64)> = HashMap::new();
    let mut order: VecDeque<(i64, i64)> = VecDeque::new();
    let mut pairs = Pairs::default();
    for i in 0..rows {
        left.insert(i, (i, i));
        order.push_back((i, i));
        while let Some((time, key)) = order.pop_front_if(|(time, _)| *time + SPAN_MS < i) {
            // A later row of the key would have its own time.
            if left.get(&key).is_some_and(|(_, at)| *at == time) {
                left.remove(&key);
            }
        }
        if let Some((value, time)) = left.get(&(i - i * 7919 % 10_000))
            && (*time..=*time + SPAN_MS).contains(&i)
        {
            pairs.add(*value, i);
        }
    }
    write_row(out, &pairs)
}

/// By key, in windows of 10 s: the rows of one window are kept.
pub fn window(input: impl Read, out: &mut impl Write) -> Result<()> {
    let rows = rows(input)?;
    let mut left: HashMap<i64, i64> = HashMap::new();
    let mut right: Vec<(i64, i64)> = Vec::new();
    let mut pairs = Pairs::default();
    for i in 0..rows {
        left.insert(i, i);
        right.push((i - i % 10_000 + i * 7919 % 10_000, i));
        if (i + 1) % SPAN_MS == 0 || i + 1 == rows {
            for (key, value) in right.drain(..) {
                if let Some(left) = left.get(&key) {
                    pairs.add(*left, value);
                }
            }
            left.clear();
        }
    }
    write_row(out, &pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Join = fn(&[u8], &mut Vec<u8>) -> Result<()>;

    fn answer(join: Join, rows: &str) -> [i64; 3] {
        let mut out = Vec::new();
        join(rows.as_bytes(), &mut out).unwrap();
        let pairs: serde_json::Value = serde_json::from_slice(&out).unwrap();
        ["pairs", "lefts", "rights"].map(|name| pairs[name].as_i64().unwrap())
    }

    #[test]
    fn each_right_row_finds_its_partner_where_there_is_one() {
        const ROWS: i64 = 20_000;
        let all = (0..ROWS).sum::<i64>();
        assert_eq!(answer(|i, o| inner(i, o), "20000\n"), [ROWS, all, all]);
        assert_eq!(answer(|i, o| window(i, o), "20000\n"), [ROWS, all, all]);
        let rights: Vec<i64> = (0..ROWS).filter(|i| i - i * 7919 % 10_000 >= 0).collect();
        let lefts = rights.iter().map(|i| i - i * 7919 % 10_000).sum();
        assert_eq!(answer(|i, o| interval(i, o), "20000\n"), [rights.len() as i64, lefts, rights.iter().sum()]);
    }
}
