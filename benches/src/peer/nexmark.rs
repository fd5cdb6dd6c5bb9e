//! The joins and rankings of Nexmark over one stream of events: `{"event_type":2,"person":..,"auction":..,"bid":..}`.
//!
//! Each keeps in memory what its question needs of persons, auctions and bids, in maps by their numbers, and takes the
//! events in their order. Only q8 forgets: its windows, when the newest time less 4 s has passed their end.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::io::{Read, Write};

use hashbrown::HashMap;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::read::Lines;
use super::write_row;
use crate::Result;
use crate::event_time::{format_ms, parse_ms};

const SIZE_MS: i64 = 10_000;
const DELAY_MS: i64 = 4_000;

/// One event; what a query does not read is [`IgnoredAny`].
#[derive(Deserialize)]
struct Event<P, A, B> {
    #[serde(default = "none")]
    person: Option<P>,
    #[serde(default = "none")]
    auction: Option<A>,
    #[serde(default = "none")]
    bid: Option<B>,
}

fn none<T>() -> Option<T> {
    None
}

fn time_ms(text: &str) -> Result<i64> {
    parse_ms(text).ok_or_else(|| format!("'{text}' is no time").into())
}

#[derive(Deserialize)]
struct Place<'a> {
    id: i64,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    city: Cow<'a, str>,
    #[serde(borrow)]
    state: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Category {
    id: i64,
    seller: i64,
    category: i64,
}

#[derive(Serialize)]
struct Seller<'a> {
    name: &'a str,
    city: &'a str,
    state: &'a str,
    id: i64,
}

/// Who sells in category 10, of three states.
pub fn q3(mut events: Lines<impl Read>, out: &mut impl Write) -> Result<()> {
    let mut persons: HashMap<i64, [String; 3]> = HashMap::new();
    let mut auctions: HashMap<i64, Vec<i64>> = HashMap::new();
    while let Some(event) = events.next::<Event<Place<'_>, Category, IgnoredAny>>()? {
        if let Some(p) = event.person.filter(|p| matches!(p.state.as_ref(), "OR" | "ID" | "CA")) {
            for id in auctions.get(&p.id).into_iter().flatten() {
                write_row(out, &Seller { name: &p.name, city: &p.city, state: &p.state, id: *id })?;
            }
            persons.insert(p.id, [p.name, p.city, p.state].map(Cow::into_owned));
        }
        if let Some(a) = event.auction.filter(|a| a.category == 10) {
            if let Some([name, city, state]) = persons.get(&a.seller) {
                write_row(out, &Seller { name, city, state, id: a.id })?;
            }
            auctions.entry(a.seller).or_default().push(a.id);
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct Priced<'a> {
    id: i64,
    #[serde(borrow, rename = "dateTime")]
    date_time: Cow<'a, str>,
    #[serde(borrow)]
    expires: Cow<'a, str>,
    category: i64,
}

#[derive(Deserialize)]
struct Price<'a> {
    auction: i64,
    price: i64,
    #[serde(borrow, rename = "dateTime")]
    date_time: Cow<'a, str>,
}

#[derive(Serialize)]
struct Average {
    category: i64,
    price: f64,
}

struct Open {
    category: i64,
    from: i64,
    to: i64,
    best: Option<i64>,
}

impl Open {
    fn bid(&mut self, time: i64, price: i64) {
        if time >= self.from && time <= self.to {
            self.best = self.best.max(Some(price));
        }
    }
}

/// The average winning price of each category.
pub fn q4(mut events: Lines<impl Read>, out: &mut impl Write) -> Result<()> {
    let mut auctions: HashMap<i64, Open> = HashMap::new();
    let mut early: HashMap<i64, Vec<(i64, i64)>> = HashMap::new();
    while let Some(event) = events.next::<Event<IgnoredAny, Priced<'_>, Price<'_>>>()? {
        if let Some(a) = event.auction {
            let (from, to) = (time_ms(&a.date_time)?, time_ms(&a.expires)?);
            let mut open = Open { category: a.category, from, to, best: None };
            for (time, price) in early.remove(&a.id).into_iter().flatten() {
                open.bid(time, price);
            }
            auctions.insert(a.id, open);
        }
        if let Some(b) = event.bid {
            let time = time_ms(&b.date_time)?;
            match auctions.get_mut(&b.auction) {
                Some(open) => open.bid(time, b.price),
                None => early.entry(b.auction).or_default().push((time, b.price)),
            }
        }
    }
    let mut sums: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    for open in auctions.values() {
        if let Some(best) = open.best {
            let sum = sums.entry(open.category).or_default();
            *sum = (sum.0 + best, sum.1 + 1);
        }
    }
    for (category, (sum, count)) in sums {
        write_row(out, &Average { category, price: sum as f64 / count as f64 })?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct Registered<'a> {
    id: i64,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, rename = "dateTime")]
    date_time: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Sold<'a> {
    seller: i64,
    #[serde(borrow, rename = "dateTime")]
    date_time: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Timed<'a> {
    #[serde(borrow, rename = "dateTime")]
    date_time: Cow<'a, str>,
}

#[derive(Serialize)]
struct NewSeller<'a> {
    id: i64,
    name: &'a str,
    starttime: &'a str,
}

/// Who registered and sold within one window of 10 s.
pub fn q8(mut events: Lines<impl Read>, out: &mut impl Write) -> Result<()> {
    let mut windows: BTreeMap<i64, (HashMap<i64, String>, HashSet<i64>)> = BTreeMap::new();
    let mut newest = i64::MIN;
    let window = |time: i64| time.div_euclid(SIZE_MS) * SIZE_MS;
    while let Some(event) = events.next::<Event<Registered<'_>, Sold<'_>, Timed<'_>>>()? {
        let mut time = newest;
        if let Some(p) = event.person {
            time = time_ms(&p.date_time)?;
            windows.entry(window(time)).or_default().0.insert(p.id, p.name.into_owned());
        }
        if let Some(a) = event.auction {
            time = time_ms(&a.date_time)?;
            windows.entry(window(time)).or_default().1.insert(a.seller);
        }
        if let Some(b) = event.bid {
            time = time_ms(&b.date_time)?;
        }
        if time > newest {
            newest = time;
            close(&mut windows, newest - DELAY_MS, out)?;
        }
    }
    close(&mut windows, i64::MAX, out)
}

type Window = (HashMap<i64, String>, HashSet<i64>);

fn close(windows: &mut BTreeMap<i64, Window>, watermark: i64, out: &mut impl Write) -> Result<()> {
    let mut start = String::new();
    while let Some(window) = windows.first_entry().filter(|window| window.key() + SIZE_MS <= watermark) {
        format_ms(*window.key(), &mut start);
        let (persons, sellers) = window.remove();
        for (id, name) in persons.iter().filter(|(id, _)| sellers.contains(*id)) {
            write_row(out, &NewSeller { id: *id, name, starttime: &start })?;
        }
    }
    Ok(())
}

/// An auction with all its columns.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Auction<'a> {
    id: i64,
    #[serde(borrow)]
    item_name: Cow<'a, str>,
    #[serde(borrow)]
    description: Cow<'a, str>,
    initial_bid: i64,
    reserve: i64,
    #[serde(borrow)]
    date_time: Cow<'a, str>,
    #[serde(borrow)]
    expires: Cow<'a, str>,
    seller: i64,
    category: i64,
    #[serde(borrow)]
    extra: Cow<'a, str>,
}

impl Auction<'_> {
    fn into_owned(self) -> Auction<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        Auction {
            item_name: own(self.item_name),
            description: own(self.description),
            date_time: own(self.date_time),
            expires: own(self.expires),
            extra: own(self.extra),
            id: self.id,
            initial_bid: self.initial_bid,
            reserve: self.reserve,
            seller: self.seller,
            category: self.category,
        }
    }
}

/// A bid with all its columns.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Bid<'a> {
    auction: i64,
    bidder: i64,
    price: i64,
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    url: Cow<'a, str>,
    #[serde(borrow)]
    date_time: Cow<'a, str>,
    #[serde(borrow)]
    extra: Cow<'a, str>,
}

impl Bid<'_> {
    fn into_owned(self) -> Bid<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        Bid {
            channel: own(self.channel),
            url: own(self.url),
            date_time: own(self.date_time),
            extra: own(self.extra),
            auction: self.auction,
            bidder: self.bidder,
            price: self.price,
        }
    }
}

/// A bid with its auction.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pair<'a> {
    id: i64,
    item_name: &'a str,
    description: &'a str,
    initial_bid: i64,
    reserve: i64,
    date_time: &'a str,
    expires: &'a str,
    seller: i64,
    category: i64,
    extra: &'a str,
    bidder: i64,
    price: i64,
    channel: &'a str,
    url: &'a str,
    bid_time: &'a str,
    bid_extra: &'a str,
}

fn pair<'a>(auction: &'a Auction<'a>, bid: &'a Bid<'a>) -> Pair<'a> {
    Pair {
        id: auction.id,
        item_name: &auction.item_name,
        description: &auction.description,
        initial_bid: auction.initial_bid,
        reserve: auction.reserve,
        date_time: &auction.date_time,
        expires: &auction.expires,
        seller: auction.seller,
        category: auction.category,
        extra: &auction.extra,
        bidder: bid.bidder,
        price: bid.price,
        channel: &bid.channel,
        url: &bid.url,
        bid_time: &bid.date_time,
        bid_extra: &bid.extra,
    }
}

struct Bidding {
    auction: Auction<'static>,
    from: i64,
    to: i64,
    best: Option<(i64, i64, Bid<'static>)>,
}

impl Bidding {
    fn bid(&mut self, time: i64, bid: Bid<'_>) {
        let wins =
            self.best.as_ref().is_none_or(|(price, at, _)| bid.price > *price || bid.price == *price && time < *at);
        if time >= self.from && time <= self.to && wins {
            self.best = Some((bid.price, time, bid.into_owned()));
        }
    }
}

/// The winning bid of each auction.
pub fn q9(mut events: Lines<impl Read>, out: &mut impl Write) -> Result<()> {
    let mut auctions: HashMap<i64, Bidding> = HashMap::new();
    let mut early: HashMap<i64, Vec<(i64, Bid<'static>)>> = HashMap::new();
    while let Some(event) = events.next::<Event<IgnoredAny, Auction<'_>, Bid<'_>>>()? {
        if let Some(a) = event.auction {
            let (from, to) = (time_ms(&a.date_time)?, time_ms(&a.expires)?);
            let mut bidding = Bidding { auction: a.into_owned(), from, to, best: None };
            for (time, bid) in early.remove(&bidding.auction.id).into_iter().flatten() {
                bidding.bid(time, bid);
            }
            auctions.insert(bidding.auction.id, bidding);
        }
        if let Some(bid) = event.bid {
            let time = time_ms(&bid.date_time)?;
            match auctions.get_mut(&bid.auction) {
                Some(bidding) => bidding.bid(time, bid),
                None => early.entry(bid.auction).or_default().push((time, bid.into_owned())),
            }
        }
    }
    for bidding in auctions.values() {
        if let Some((_, _, bid)) = &bidding.best {
            write_row(out, &pair(&bidding.auction, bid))?;
        }
    }
    Ok(())
}

/// The last bid of each bidder on each auction.
pub fn q18(mut events: Lines<impl Read>, out: &mut impl Write) -> Result<()> {
    let mut last: HashMap<(i64, i64), (i64, Bid<'static>)> = HashMap::new();
    while let Some(event) = events.next::<Event<IgnoredAny, IgnoredAny, Bid<'_>>>()? {
        let Some(bid) = event.bid else { continue };
        let time = time_ms(&bid.date_time)?;
        let key = (bid.bidder, bid.auction);
        if last.get(&key).is_none_or(|(at, _)| time > *at) {
            last.insert(key, (time, bid.into_owned()));
        }
    }
    last.values().try_for_each(|(_, bid)| write_row(out, bid))
}

/// The bids on auctions of category 10, with their auctions.
pub fn q20(mut events: Lines<impl Read>, out: &mut impl Write) -> Result<()> {
    let mut auctions: HashMap<i64, Auction<'static>> = HashMap::new();
    let mut bids: HashMap<i64, Vec<Bid<'static>>> = HashMap::new();
    let mut other: HashSet<i64> = HashSet::new();
    while let Some(event) = events.next::<Event<IgnoredAny, Auction<'_>, Bid<'_>>>()? {
        if let Some(a) = event.auction {
            let early = bids.remove(&a.id).unwrap_or_default();
            if a.category == 10 {
                early.iter().try_for_each(|bid| write_row(out, &pair(&a, bid)))?;
                auctions.insert(a.id, a.into_owned());
            } else {
                other.insert(a.id);
            }
        }
        if let Some(bid) = event.bid {
            match auctions.get(&bid.auction) {
                Some(auction) => write_row(out, &pair(auction, &bid))?,
                None if other.contains(&bid.auction) => {}
                None => bids.entry(bid.auction).or_default().push(bid.into_owned()),
            }
        }
    }
    Ok(())
}
