//! Made-up input, and which of its rows take part in an answer: worked out here in plain Rust, without the engine.

use std::collections::BTreeMap;
use std::fmt::Write;

/// 2026-01-01 00:00:00.
pub const BASE_MS: i64 = 1_767_225_600_000;

/// Splitmix64: a seed is a whole run.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// Once in `n` times.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone, Debug)]
pub struct Row {
    pub id: i64,
    pub key: String,
    pub value: i64,
    /// Milliseconds since 1970; none is a NULL.
    pub time_ms: Option<i64>,
}

/// One line of a file; without a row it is malformed.
#[derive(Clone, Debug)]
pub struct Line {
    pub text: String,
    pub row: Option<Row>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    Json,
    Csv,
}

/// Lines whose times go up by about 100 ms, some of them seconds behind, some malformed, some with a NULL time.
pub fn lines(rng: &mut Rng, syntax: Syntax, count: usize, ids_from: i64, begin_ms: &mut i64) -> Vec<Line> {
    let mut lines = Vec::with_capacity(count);
    for id in (ids_from..).take(count) {
        *begin_ms += i64::try_from(rng.below(200)).unwrap();
        let behind = if rng.once_in(40) { rng.below(30_000) } else { rng.below(2_500) };
        let time_ms = BASE_MS + (*begin_ms - i64::try_from(behind).unwrap()).max(0);
        let row = Row {
            id,
            key: format!("k{}", rng.below(6)),
            value: i64::try_from(rng.below(100)).unwrap() - 10,
            time_ms: (!rng.once_in(100)).then_some(time_ms),
        };
        let broken = rng.once_in(60).then(|| rng.below(3));
        lines.push(line(syntax, row, broken));
    }
    lines
}

fn line(syntax: Syntax, row: Row, broken: Option<u64>) -> Line {
    let Row { id, key, value, time_ms } = &row;
    let time = time_ms.map(spelled);
    let text = match (syntax, broken) {
        (Syntax::Json, None) => {
            let time = time.map_or("null".to_string(), |t| format!("\"{t}\""));
            format!(r#"{{"id":{id},"k":"{key}","v":{value},"ts":{time}}}"#)
        }
        (Syntax::Json, Some(0)) => format!(r#"{{"id":{id},"k":"#),
        (Syntax::Json, Some(1)) => format!(r#"{{"id":{id},"k":"{key}","v":"many","ts":null}}"#),
        (Syntax::Json, Some(_)) => format!(r#"{{"id":{id},"k":"{key}","v":{value},"ts":"the day after"}}"#),
        (Syntax::Csv, None) => format!("{id},{key},{value},{}", time.unwrap_or_default()),
        (Syntax::Csv, Some(0)) => format!("{id},{key}"),
        (Syntax::Csv, Some(1)) => format!("{id},{key},many,"),
        (Syntax::Csv, Some(_)) => format!("{id},\"{key},{value},"),
    };
    Line { text, row: broken.is_none().then_some(row) }
}

/// The file of these lines.
pub fn file(lines: &[Line]) -> String {
    lines.iter().fold(String::new(), |mut text, line| {
        text.push_str(&line.text);
        text.push('\n');
        text
    })
}

/// As an input spells it.
fn spelled(time_ms: i64) -> String {
    time(time_ms).format("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

fn time(time_ms: i64) -> chrono::NaiveDateTime {
    chrono::DateTime::from_timestamp_millis(time_ms).unwrap().naive_utc()
}

/// A timestamp as it is compared.
pub fn shown(time_ms: i64) -> String {
    time(time_ms).format("%Y-%m-%dT%H:%M:%S%.f").to_string()
}

/// A value as it is compared: a timestamp in one spelling, everything else as it is.
pub fn canonical(text: &str) -> String {
    let formats = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"];
    let time = formats.iter().find_map(|f| chrono::NaiveDateTime::parse_from_str(text, f).ok());
    time.map_or_else(|| text.to_string(), |t| shown(t.and_utc().timestamp_millis()))
}

/// Windows of `size` that begin every `slide` milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    pub slide_ms: i64,
    pub size_ms: i64,
    pub delay_ms: i64,
}

/// What becomes of the rows.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    pub rows: Vec<String>,
    pub read: u64,
    pub used: u64,
    pub rejected: u64,
    pub late: u64,
}

/// `k, window_start, window_end, count(*), sum(v)` of the windows that are closed: all of them where the input ended.
pub fn windowed<'a>(lines: impl Iterator<Item = &'a Line>, windows: Windows, ended: bool) -> Expected {
    let Windows { slide_ms, size_ms, delay_ms } = windows;
    let mut expected = Expected::default();
    let mut watermark = i64::MIN;
    let mut sums: BTreeMap<(String, i64), (i64, i64)> = BTreeMap::new();
    for line in lines {
        expected.read += 1;
        let Some((row, time_ms)) = line.row.as_ref().and_then(|row| Some((row, row.time_ms?))) else {
            expected.rejected += 1;
            continue;
        };
        // The last of the row's windows to begin is the one that holds its slide.
        let last_start = time_ms.div_euclid(slide_ms) * slide_ms;
        let first_end = last_start + slide_ms;
        let late = first_end <= watermark;
        watermark = watermark.max(time_ms - delay_ms);
        if late {
            expected.late += 1;
            continue;
        }
        expected.used += 1;
        for i in 0..size_ms / slide_ms {
            let sum = sums.entry((row.key.clone(), last_start - i * slide_ms)).or_default();
            *sum = (sum.0 + 1, sum.1 + row.value);
        }
    }
    for ((key, start), (count, sum)) in sums {
        if ended || start + size_ms <= watermark {
            expected.rows.push(format!("{key}|{}|{}|{count}|{sum}", shown(start), shown(start + size_ms)));
        }
    }
    expected.rows.sort();
    expected
}

/// One line of the answer for each row for which `answer` has one; the other rows fail and are rejected.
pub fn mapped(lines: &[Line], answer: impl Fn(&Row) -> Option<String>) -> Expected {
    let mut expected = Expected { read: lines.len() as u64, ..Expected::default() };
    expected.rows = lines.iter().filter_map(|line| answer(line.row.as_ref()?)).collect();
    expected.rows.sort();
    expected.used = expected.rows.len() as u64;
    expected.rejected = expected.read - expected.used;
    expected
}

/// `k, count(*), sum(v)`.
pub fn grouped<'a>(lines: impl Iterator<Item = &'a Line>) -> Expected {
    let mut expected = Expected::default();
    let mut sums: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    for line in lines {
        expected.read += 1;
        let Some(row) = &line.row else { continue };
        expected.used += 1;
        let sum = sums.entry(&row.key).or_default();
        *sum = (sum.0 + 1, sum.1 + row.value);
    }
    expected.rejected = expected.read - expected.used;
    expected.rows = sums.iter().map(|(key, (count, sum))| format!("{key}|{count}|{sum}")).collect();
    expected
}

/// The first lines of `a` that are not in `b`, each as often as it is missing.
pub fn difference(a: &[String], b: &[String]) -> String {
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    a.iter().for_each(|line| *counts.entry(line).or_default() += 1);
    b.iter().for_each(|line| *counts.entry(line).or_default() -= 1);
    let mut out = String::new();
    for (line, count) in counts.into_iter().filter(|(_, n)| *n > 0).take(8) {
        let _ = writeln!(out, "  {count} x {line}");
    }
    out
}
