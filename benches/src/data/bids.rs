//! Bids with the proportions and distributions of the published Nexmark generator.
//!
//! Source: `BidGenerator`, `AuctionGenerator`, `PersonGenerator`, `PriceGenerator` of nexmark/nexmark
//! (Apache-2.0), read for their numbers. Of 50 events one is a person, three are auctions, 46 are bids; only
//! the bids are written. 10,000 events are a second. Unlike there one bid in ten is up to 500 ms older than
//! its neighbours, so that a watermark has something to wait for; with a delay of 4 s none is late.

use std::io::{Result, Write};

use crate::event_time::format_ms;
use crate::stats::Random;

const EVENTS_PER_EPOCH: u64 = 50;
const AUCTIONS_PER_EPOCH: u64 = 3;
const FIRST_BID_OF_EPOCH: u64 = 4;
const FIRST_ID: u64 = 1000;
const AUCTIONS_IN_FLIGHT: u64 = 100;
const AUCTION_ID_LEAD: u64 = 10;
const ACTIVE_PEOPLE: u64 = 1000;
const PERSON_ID_LEAD: u64 = 10;
const CHANNELS: u64 = 10_000;
const HOT_CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];
/// 2026-01-01 00:00:00 UTC.
const BEGIN_MS: i64 = 1_767_225_600_000;
const EVENTS_PER_MS: u64 = 10;
const LATEST_MS: u64 = 500;

pub struct Bids {
    random: Random,
    bid: u64,
    time: String,
}

impl Bids {
    pub fn new() -> Self {
        Self { random: Random::new(0x6e65_786d_6172_6b31), bid: 0, time: String::new() }
    }

    /// Appends the next bid, without its line end.
    pub fn line(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let bids_per_epoch = EVENTS_PER_EPOCH - FIRST_BID_OF_EPOCH;
        let epoch = self.bid / bids_per_epoch;
        let event = epoch * EVENTS_PER_EPOCH + FIRST_BID_OF_EPOCH + self.bid % bids_per_epoch;
        self.bid += 1;
        let auction = self.auction(epoch);
        let bidder = self.bidder(epoch);
        let price = (10f64.powf(self.random.unit() * 6.0) * 100.0).round() as u64;
        let (channel, url) = self.channel();
        let late = if self.random.below(10) == 0 { self.random.below(LATEST_MS) } else { 0 };
        let since_begin = (event / EVENTS_PER_MS).saturating_sub(late);
        format_ms(BEGIN_MS + i64::try_from(since_begin).unwrap_or(0), &mut self.time);
        write!(
            out,
            "{{\"auction\":{auction},\"bidder\":{bidder},\"price\":{price},\"channel\":\"{channel}\",\"url\":\"{url}\",\
             \"dateTime\":\"{}\",\"extra\":\"",
            self.time
        )?;
        let length = 54 + self.random.below(28);
        self.letters(length, out)?;
        out.write_all(b"\"}")
    }

    /// Half the bids are for the hot auction of the moment, the others for one of those in flight.
    fn auction(&mut self, epoch: u64) -> u64 {
        let newest = epoch * AUCTIONS_PER_EPOCH + AUCTIONS_PER_EPOCH - 1;
        if self.random.below(2) > 0 {
            return FIRST_ID + newest / 100 * 100;
        }
        let oldest = newest.saturating_sub(AUCTIONS_IN_FLIGHT);
        FIRST_ID + oldest + self.random.below(newest - oldest + 1 + AUCTION_ID_LEAD)
    }

    /// Three bids in four come from a hot bidder.
    fn bidder(&mut self, epoch: u64) -> u64 {
        if self.random.below(4) > 0 {
            return FIRST_ID + epoch / 100 * 100 + 1;
        }
        let people = epoch + 1;
        let active = people.min(ACTIVE_PEOPLE);
        FIRST_ID + people - active + self.random.below(active + PERSON_ID_LEAD)
    }

    fn channel(&mut self) -> (String, String) {
        if self.random.below(2) > 0 {
            let hot = self.random.below(HOT_CHANNELS.len() as u64);
            let name = HOT_CHANNELS.get(hot as usize).copied().unwrap_or_default();
            return (name.to_string(), url(hot, None));
        }
        let channel = self.random.below(CHANNELS);
        let id = (self.random.below(10) > 0).then_some(channel);
        (format!("channel-{channel}"), url(100 + channel, id))
    }

    fn letters(&mut self, length: u64, out: &mut Vec<u8>) -> Result<()> {
        for _ in 0..length {
            out.write_all(&[b'a' + self.random.below(26) as u8])?;
        }
        Ok(())
    }
}

fn url(seed: u64, channel_id: Option<u64>) -> String {
    let mut random = Random::new(seed);
    let mut part = || (0..5).map(|_| char::from(b'a' + random.below(26) as u8)).collect::<String>();
    let base = format!("https://www.nexmark.com/{}/{}/{}/item.htm?query=1", part(), part(), part());
    match channel_id {
        Some(id) => format!("{base}&channel_id={}", id.reverse_bits() >> 33),
        None => base,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::event_time::parse_ms;

    fn bids(n: usize) -> Vec<Value> {
        let mut bids = Bids::new();
        let mut line = || {
            let mut out = Vec::new();
            bids.line(&mut out).unwrap();
            serde_json::from_slice(&out).unwrap()
        };
        (0..n).map(|_| line()).collect()
    }

    #[test]
    fn no_bid_is_late_and_some_are_out_of_order() {
        let times: Vec<i64> = bids(20_000).iter().map(|b| parse_ms(b["dateTime"].as_str().unwrap()).unwrap()).collect();
        let mut newest = i64::MIN;
        let mut behind = 0;
        for time in times {
            assert!(time > newest.saturating_sub(4000), "beyond the delay");
            behind += usize::from(time < newest);
            newest = newest.max(time);
        }
        assert!((1000..3000).contains(&behind), "{behind} of 20000 bids are out of order");
    }

    #[test]
    fn half_the_bids_are_for_few_auctions_and_lines_are_long() {
        let bids = bids(4600);
        let hot = bids.iter().filter(|b| (b["auction"].as_u64().unwrap() - 1000) % 100 == 0).count();
        assert!((2200..2700).contains(&hot), "{hot} of 4600 bids are for a hot auction");
        let bytes: usize = bids.iter().map(|b| b.to_string().len()).sum();
        assert!((200..330).contains(&(bytes / 4600)), "{} bytes a line", bytes / 4600);
        assert!(bids.iter().any(|b| b["auction"].as_u64().unwrap() % 123 == 0));
    }
}
