//! q5: bids per auction in windows of 10 s every 2 s. q7: the highest price in windows of 10 s.
//!
//! Both keep what is open by event time, emit a window when the watermark (the newest time less 4 s) has
//! passed its end, and drop rows that come later than that. q5 counts in panes of 2 s and keeps the sum over
//! the last five: a window costs its rows, not five times its events.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{Read, Write};

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::read::Lines;
use super::write_row;
use crate::Result;
use crate::event_time::{format_ms, parse_ms};

const SIZE_MS: i64 = 10_000;
const SLIDE_MS: i64 = 2_000;
const DELAY_MS: i64 = 4_000;

fn time_ms(text: &str) -> Result<i64> {
    parse_ms(text).ok_or_else(|| format!("'{text}' is no time").into())
}

#[derive(Deserialize)]
struct AuctionBid<'a> {
    auction: i64,
    #[serde(borrow, rename = "dateTime")]
    date_time: Cow<'a, str>,
}

#[derive(Serialize)]
struct AuctionCount<'a> {
    auction: i64,
    num: i64,
    window_start: &'a str,
    window_end: &'a str,
}

pub fn q5(mut bids: Lines<impl Read>, out: &mut impl Write) -> Result<()> {
    let mut hops = Hops::default();
    while let Some(bid) = bids.next::<AuctionBid<'_>>()? {
        hops.take(&bid, out)?;
    }
    hops.end(out)
}

/// q5 while it runs, wherever its bids come from.
pub struct Hops {
    windows: HopCounts,
    watermark: i64,
}

impl Default for Hops {
    fn default() -> Self {
        Self { windows: HopCounts::default(), watermark: i64::MIN }
    }
}

impl Hops {
    /// Takes a bid, and writes the windows that it closes.
    #[inline]
    fn take(&mut self, bid: &AuctionBid<'_>, out: &mut impl Write) -> Result<()> {
        let time = time_ms(&bid.date_time)?;
        let pane = time.div_euclid(SLIDE_MS) * SLIDE_MS;
        // The earliest window of a row ends with its pane.
        if pane + SLIDE_MS > self.watermark {
            *self.windows.panes.entry(pane).or_default().entry(bid.auction).or_insert(0) += 1;
        }
        if time - DELAY_MS > self.watermark {
            self.watermark = time - DELAY_MS;
            self.windows.close(self.watermark, out)?;
        }
        Ok(())
    }

    /// Takes a bid as JSON.
    #[cfg(feature = "kafka")]
    pub fn take_json(&mut self, bid: &[u8], out: &mut impl Write) -> Result<()> {
        self.take(&serde_json::from_slice(bid)?, out)
    }

    /// Writes the windows that are still open.
    pub fn end(&mut self, out: &mut impl Write) -> Result<()> {
        self.windows.close(i64::MAX, out)
    }
}

/// Counts by pane of those that are open, and their sum over the newest closed window.
#[derive(Default)]
struct HopCounts {
    panes: BTreeMap<i64, HashMap<i64, i64>>,
    window: HashMap<i64, i64>,
    next_end: Option<i64>,
    start_text: String,
    end_text: String,
}

impl HopCounts {
    /// Emits the windows that end at or before the watermark.
    fn close(&mut self, watermark: i64, out: &mut impl Write) -> Result<()> {
        while let Some((&oldest, _)) = self.panes.first_key_value() {
            // Where the window is empty, the next one with rows is the one that ends with the oldest pane.
            let end = self.next_end.filter(|_| !self.window.is_empty()).unwrap_or(oldest + SLIDE_MS);
            if end > watermark {
                return Ok(());
            }
            if let Some(entering) = self.panes.get(&(end - SLIDE_MS)) {
                for (auction, num) in entering {
                    *self.window.entry(*auction).or_insert(0) += num;
                }
            }
            self.emit(end, out)?;
            if let Some(leaving) = self.panes.remove(&(end - SIZE_MS)) {
                for (auction, num) in leaving {
                    if let hashbrown::hash_map::Entry::Occupied(mut entry) = self.window.entry(auction) {
                        *entry.get_mut() -= num;
                        if *entry.get() == 0 {
                            entry.remove();
                        }
                    }
                }
            }
            self.next_end = Some(end + SLIDE_MS);
        }
        Ok(())
    }

    fn emit(&mut self, end: i64, out: &mut impl Write) -> Result<()> {
        format_ms(end - SIZE_MS, &mut self.start_text);
        format_ms(end, &mut self.end_text);
        for (&auction, &num) in &self.window {
            let row = AuctionCount { auction, num, window_start: &self.start_text, window_end: &self.end_text };
            write_row(out, &row)?;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct PriceBid<'a> {
    price: i64,
    #[serde(borrow, rename = "dateTime")]
    date_time: Cow<'a, str>,
}

#[derive(Serialize)]
struct Highest<'a> {
    window_start: &'a str,
    window_end: &'a str,
    price: i64,
}

pub fn q7(mut bids: Lines<impl Read>, out: &mut impl Write) -> Result<()> {
    let mut highest: BTreeMap<i64, i64> = BTreeMap::new();
    let mut watermark = i64::MIN;
    while let Some(bid) = bids.next::<PriceBid<'_>>()? {
        let time = time_ms(&bid.date_time)?;
        let start = time.div_euclid(SIZE_MS) * SIZE_MS;
        if start + SIZE_MS > watermark {
            let price = highest.entry(start).or_insert(bid.price);
            *price = bid.price.max(*price);
        }
        if time - DELAY_MS > watermark {
            watermark = time - DELAY_MS;
            emit_highest(&mut highest, watermark, out)?;
        }
    }
    emit_highest(&mut highest, i64::MAX, out)
}

fn emit_highest(highest: &mut BTreeMap<i64, i64>, watermark: i64, out: &mut impl Write) -> Result<()> {
    let (mut start_text, mut end_text) = (String::new(), String::new());
    while let Some(open) = highest.first_entry()
        && open.key() + SIZE_MS <= watermark
    {
        let (start, price) = open.remove_entry();
        format_ms(start, &mut start_text);
        format_ms(start + SIZE_MS, &mut end_text);
        write_row(out, &Highest { window_start: &start_text, window_end: &end_text, price })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::stats::Random;

    /// Bids at these milliseconds, each (time, auction, price).
    fn bids(rows: &[(i64, i64, i64)]) -> String {
        let (mut text, mut time) = (String::new(), String::new());
        for (ms, auction, price) in rows {
            format_ms(*ms, &mut time);
            writeln!(text, "{{\"auction\":{auction},\"price\":{price},\"dateTime\":\"{time}\",\"x\":null}}").unwrap();
        }
        text
    }

    fn rows(out: &[u8], columns: [&str; 2]) -> Vec<(i64, i64, i64)> {
        let mut rows: Vec<_> = std::str::from_utf8(out)
            .unwrap()
            .lines()
            .map(|line| {
                let row: serde_json::Value = serde_json::from_str(line).unwrap();
                let number = |name: &str| row.get(name).and_then(serde_json::Value::as_i64).unwrap_or(-1);
                let end = parse_ms(row["window_end"].as_str().unwrap()).unwrap();
                assert_eq!(parse_ms(row["window_start"].as_str().unwrap()).unwrap(), end - SIZE_MS);
                (end, number(columns[0]), number(columns[1]))
            })
            .collect();
        rows.sort_unstable();
        rows
    }

    /// Random bids with disorder within the delay, and gaps longer than a window.
    fn random_bids(seed: u64) -> Vec<(i64, i64, i64)> {
        let mut random = Random::new(seed);
        let mut now = 1_767_225_600_000;
        (0..400)
            .map(|_| {
                now += random.below(600) as i64;
                if random.below(60) == 0 {
                    now += 35_000;
                }
                (now - random.below(4000) as i64, random.below(7) as i64, random.below(1000) as i64)
            })
            .collect()
    }

    #[test]
    fn hopping_counts_equal_those_counted_window_by_window() {
        for seed in 0..20 {
            let input = random_bids(seed);
            let mut expected: BTreeMap<(i64, i64), i64> = BTreeMap::new();
            for (time, auction, _) in &input {
                let last_end = time.div_euclid(SLIDE_MS) * SLIDE_MS + SIZE_MS;
                for back in 0..SIZE_MS / SLIDE_MS {
                    *expected.entry((last_end - back * SLIDE_MS, *auction)).or_default() += 1;
                }
            }
            let expected: Vec<_> = expected.into_iter().map(|((end, auction), num)| (end, auction, num)).collect();
            let mut out = Vec::new();
            q5(Lines::new(bids(&input).as_bytes()), &mut out).unwrap();
            assert_eq!(rows(&out, ["auction", "num"]), expected, "seed {seed}");
        }
    }

    #[test]
    fn the_highest_price_of_each_window_is_emitted_once() {
        for seed in 0..20 {
            let input = random_bids(seed);
            let mut expected: BTreeMap<i64, i64> = BTreeMap::new();
            for (time, _, price) in &input {
                let end = time.div_euclid(SIZE_MS) * SIZE_MS + SIZE_MS;
                let highest = expected.entry(end).or_insert(*price);
                *highest = *price.max(highest);
            }
            let expected: Vec<_> = expected.into_iter().map(|(end, price)| (end, price, -1)).collect();
            let mut out = Vec::new();
            q7(Lines::new(bids(&input).as_bytes()), &mut out).unwrap();
            assert_eq!(rows(&out, ["price", "none"]), expected, "seed {seed}");
        }
    }

    #[test]
    fn a_row_behind_the_watermark_is_dropped() {
        let begin = 1_767_225_600_000;
        let input = bids(&[(begin, 1, 5), (begin + 60_000, 1, 6), (begin, 1, 900)]);
        let mut out = Vec::new();
        q7(Lines::new(input.as_bytes()), &mut out).unwrap();
        assert_eq!(rows(&out, ["price", "none"]), [(begin + 10_000, 5, -1), (begin + 70_000, 6, -1)]);
        let mut out = Vec::new();
        q5(Lines::new(input.as_bytes()), &mut out).unwrap();
        let counted: i64 = rows(&out, ["auction", "num"]).iter().map(|(_, _, num)| num).sum();
        assert_eq!(counted, 10, "two bids in five windows each");
    }
}
