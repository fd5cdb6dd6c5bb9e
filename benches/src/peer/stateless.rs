//! q0: every bid, five of its columns. q2: the bids for every 123rd auction.

use std::borrow::Cow;
use std::io::{Read, Write};

use serde::{Deserialize, Serialize};

use super::read::Lines;
use super::write_row;
use crate::Result;

#[derive(Deserialize, Serialize)]
struct Passed<'a> {
    auction: i64,
    bidder: i64,
    price: i64,
    #[serde(borrow, rename = "dateTime")]
    date_time: Cow<'a, str>,
    #[serde(borrow)]
    extra: Cow<'a, str>,
}

pub fn q0(mut bids: Lines<impl Read>, out: &mut impl Write) -> Result<()> {
    while let Some(bid) = bids.next::<Passed<'_>>()? {
        write_row(out, &bid)?;
    }
    Ok(())
}

#[derive(Deserialize, Serialize)]
struct Priced {
    auction: i64,
    price: i64,
}

pub fn q2(mut bids: Lines<impl Read>, out: &mut impl Write) -> Result<()> {
    while let Some(bid) = bids.next::<Priced>()? {
        if bid.auction % 123 == 0 {
            write_row(out, &bid)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BIDS: &str = r#"{"auction":123,"bidder":1,"price":5,"channel":"c","url":"u","dateTime":"2026-01-01 00:00:00.123","extra":"a\"b"}
{"auction":124,"bidder":2,"price":6,"channel":"c","url":"u","dateTime":"2026-01-01 00:00:00.124","extra":""}
"#;

    #[test]
    fn q0_passes_five_columns_through_unchanged() {
        let mut out = Vec::new();
        q0(Lines::new(BIDS.as_bytes()), &mut out).unwrap();
        let expected = r#"{"auction":123,"bidder":1,"price":5,"dateTime":"2026-01-01 00:00:00.123","extra":"a\"b"}
{"auction":124,"bidder":2,"price":6,"dateTime":"2026-01-01 00:00:00.124","extra":""}
"#;
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn q2_keeps_every_123rd_auction() {
        let mut out = Vec::new();
        q2(Lines::new(BIDS.as_bytes()), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "{\"auction\":123,\"price\":5}\n");
    }
}
