//! Which event has which number, and how its ids and values are distributed.

use super::super::random::Random;

/// Ids begin here, so that queries that ask for an id find one in a small stream.
const FIRST_AUCTION: u64 = 1000;
const FIRST_PERSON: u64 = 1000;
const FIRST_CATEGORY: u64 = 10;
const CATEGORIES: u64 = 5;

/// An event may name so many people or auctions that come only after it.
const LEAD: u64 = 10;

/// One in so many people is a hot seller or bidder, one in so many auctions a hot one.
const HOT_ONE_IN: u64 = 100;

const ACTIVE_PEOPLE: u64 = 1000;
const AUCTIONS_IN_FLIGHT: u64 = 100;

/// The original numbers events from here; ids and times follow from the number.
const FIRST_EVENT_ID: u64 = 1;
const FIRST_EVENT_NUMBER: u64 = 1;

/// What an event is. The numbers are those of the column `event_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventKind {
    Person = 0,
    Auction = 1,
    Bid = 2,
}

impl EventKind {
    pub(super) fn column(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Auction => "auction",
            Self::Bid => "bid",
        }
    }

    pub(super) fn of_column(name: &str) -> Option<Self> {
        [Self::Person, Self::Auction, Self::Bid].into_iter().find(|kind| kind.column() == name)
    }
}

/// What the generator was configured to.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub seed: u64,
    pub base_time_ms: i64,
    /// Event time between two events.
    pub delay_us: f64,
    pub people: u64,
    pub auctions: u64,
    pub bids: u64,
    pub person_bytes: u64,
    pub auction_bytes: u64,
    pub bid_bytes: u64,
    pub hot_auctions: u64,
    pub hot_bidders: u64,
    pub hot_sellers: u64,
}

impl Model {
    /// Events in a second of event time.
    pub(super) fn rate(&self) -> f64 {
        1e6 / self.delay_us
    }

    /// About how large an event is.
    pub(super) fn bytes(&self) -> u64 {
        let all = self.people * self.person_bytes + self.auctions * self.auction_bytes + self.bids * self.bid_bytes;
        (all / self.cycle()).max(1)
    }

    /// The id of the row of this number.
    pub(super) fn event_id(&self, row: u64) -> u64 {
        row.saturating_add(FIRST_EVENT_ID + FIRST_EVENT_NUMBER)
    }

    pub(super) fn kind(&self, event_id: u64) -> EventKind {
        match event_id % self.cycle() {
            n if n < self.people => EventKind::Person,
            n if n < self.people + self.auctions => EventKind::Auction,
            _ => EventKind::Bid,
        }
    }

    /// The random numbers of an event; each use has its own lane.
    pub(super) fn random(&self, event_id: u64, lane: u64) -> Random {
        Random::new(self.seed, event_id, lane)
    }

    pub(super) fn time_ms(&self, event_id: u64) -> i64 {
        self.base_time_ms.saturating_add(self.after_ms(event_id - FIRST_EVENT_ID))
    }

    fn after_ms(&self, events: u64) -> i64 {
        (events as f64 * self.delay_us) as i64 / 1000
    }

    /// The person of this event, or the last one before it.
    pub(super) fn last_person(&self, event_id: u64) -> u64 {
        let (epoch, offset) = (event_id / self.cycle(), event_id % self.cycle());
        FIRST_PERSON + epoch * self.people + offset.min(self.people - 1)
    }

    /// The auction of this event, or the last one before it.
    pub(super) fn last_auction(&self, event_id: u64) -> u64 {
        let (epoch, offset) = (event_id / self.cycle(), event_id % self.cycle());
        let last = match self.kind(event_id) {
            // The last one of the cycle before; the first cycle has none before.
            EventKind::Person => (epoch * self.auctions).saturating_sub(1),
            EventKind::Auction => epoch * self.auctions + offset - self.people,
            EventKind::Bid => epoch * self.auctions + self.auctions - 1,
        };
        FIRST_AUCTION + last
    }

    pub(super) fn seller(&self, event_id: u64, random: &mut Random) -> u64 {
        let last = self.last_person(event_id) - FIRST_PERSON;
        if random.below(self.hot_sellers) > 0 {
            return FIRST_PERSON + last / HOT_ONE_IN * HOT_ONE_IN;
        }
        FIRST_PERSON + Self::active_person(last, random)
    }

    /// The hot bidder is another person than the hot seller.
    ///
    /// The original adds the first id twice, so that a bidder's id lies 1000 above the person's: queries that
    /// join the two find what they find there only if this does the same.
    pub(super) fn bidder(&self, event_id: u64, random: &mut Random) -> u64 {
        let last = self.last_person(event_id) - FIRST_PERSON;
        if random.below(self.hot_bidders) > 0 {
            return 2 * FIRST_PERSON + last / HOT_ONE_IN * HOT_ONE_IN + 1;
        }
        2 * FIRST_PERSON + Self::active_person(last, random)
    }

    fn active_person(last: u64, random: &mut Random) -> u64 {
        let people = last + 1;
        let active = people.min(ACTIVE_PEOPLE);
        people - active + random.below(active + LEAD)
    }

    pub(super) fn auction_bid_on(&self, event_id: u64, random: &mut Random) -> u64 {
        let last = self.last_auction(event_id) - FIRST_AUCTION;
        if random.below(self.hot_auctions) > 0 {
            return FIRST_AUCTION + last / HOT_ONE_IN * HOT_ONE_IN;
        }
        let first = last.saturating_sub(AUCTIONS_IN_FLIGHT);
        FIRST_AUCTION + first + random.below(last - first + 1 + LEAD)
    }

    pub(super) fn category(random: &mut Random) -> u64 {
        FIRST_CATEGORY + random.below(CATEGORIES)
    }

    /// Log-uniform from 100 to 100,000,000.
    pub(super) fn price(random: &mut Random) -> u64 {
        (10f64.powf(random.unit() * 6.0) * 100.0).round() as u64
    }

    /// When an auction ends: on average when as many others as are in flight have begun.
    pub(super) fn expires_ms(&self, event_id: u64, random: &mut Random) -> i64 {
        let number = event_id - FIRST_EVENT_ID;
        let events = AUCTIONS_IN_FLIGHT * self.cycle() / self.auctions;
        let horizon = self.after_ms(number + events) - self.after_ms(number);
        let length = 1 + random.below(u64::try_from(horizon * 2).unwrap_or(0).max(1));
        self.time_ms(event_id).saturating_add_unsigned(length)
    }

    fn cycle(&self) -> u64 {
        self.people + self.auctions + self.bids
    }
}
