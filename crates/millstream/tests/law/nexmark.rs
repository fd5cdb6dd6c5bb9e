//! Joins over auctions, worded anew after the published Nexmark queries: streamed in cuts and with a restart, and
//! compared with DataFusion in batch over the same events.

use std::sync::{Arc, Mutex};

use millstream::core::source::Limit;
use millstream::pipeline::emit_mode;
use millstream::plan::{compile, describe_state};
use millstream::sql::{BuiltIn, PlannedQuery, Planner};

use crate::model::difference;
use crate::stream::{LIMIT, added_up, batch_answer, run};

const EVENTS: &str = "
    CREATE TABLE events (
        event_type INT,
        person ROW<id BIGINT, name VARCHAR, `emailAddress` VARCHAR, `creditCard` VARCHAR, city VARCHAR, state VARCHAR,
            `dateTime` TIMESTAMP(3), extra VARCHAR>,
        auction ROW<id BIGINT, `itemName` VARCHAR, description VARCHAR, `initialBid` BIGINT, reserve BIGINT,
            `dateTime` TIMESTAMP(3), expires TIMESTAMP(3), seller BIGINT, category BIGINT, extra VARCHAR>,
        bid ROW<auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, `dateTime` TIMESTAMP(3),
            extra VARCHAR>,
        `dateTime` AS CASE
            WHEN event_type = 0 THEN person.`dateTime`
            WHEN event_type = 1 THEN auction.`dateTime`
            ELSE bid.`dateTime`
        END,
        WATERMARK FOR `dateTime` AS `dateTime` - INTERVAL '4' SECOND
    ) WITH ('connector' = 'nexmark', 'events.num' = '4000', 'first-event.rate' = '100', 'next-event.rate' = '100');
    CREATE VIEW person AS SELECT person.id, person.name, person.state, `dateTime` FROM events WHERE event_type = 0;
    CREATE VIEW auction AS
        SELECT auction.id, auction.expires, auction.seller, auction.category, `dateTime` FROM events WHERE event_type = 1;
    CREATE VIEW bid AS
        SELECT bid.auction, bid.bidder, bid.price, `dateTime` FROM events WHERE event_type = 2;
";

/// What it asks for, the query, and what `check` says of its state.
const QUERIES: [(&str, &str, &str); 9] = [
    (
        "sellers in some states",
        "SELECT p.name, p.state, a.id FROM auction a JOIN person p ON a.seller = p.id WHERE a.category = 10 AND p.state IN ('OR', 'ID', 'CA')",
        "inner join on a.seller = p.id: the rows of both sides, for ever",
    ),
    (
        "hot items",
        "SELECT hot.auction, hot.n, hot.e FROM (
            SELECT auction, count(*) AS n, window_start AS s, window_end AS e
            FROM TABLE(HOP(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '2' SECOND, INTERVAL '10' SECOND))
            GROUP BY auction, window_start, window_end
         ) hot JOIN (
            SELECT max(n) AS most, s, e FROM (
                SELECT count(*) AS n, window_start AS s, window_end AS e
                FROM TABLE(HOP(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '2' SECOND, INTERVAL '10' SECOND))
                GROUP BY auction, window_start, window_end
            ) GROUP BY s, e
         ) best ON hot.s = best.s AND hot.e = best.e AND hot.n >= best.most",
        "in each window of HOP(slide 2 s, size 10 s), until the watermark passes its end",
    ),
    (
        "new sellers in a window",
        "SELECT p.id, p.name, p.s FROM (
            SELECT id, name, window_start AS s, window_end AS e
            FROM TABLE(TUMBLE(TABLE person, DESCRIPTOR(`dateTime`), INTERVAL '10' SECOND)) GROUP BY id, name, window_start, window_end
         ) p JOIN (
            SELECT seller, window_start AS s, window_end AS e
            FROM TABLE(TUMBLE(TABLE auction, DESCRIPTOR(`dateTime`), INTERVAL '10' SECOND)) GROUP BY seller, window_start, window_end
         ) a ON p.id = a.seller AND p.s = a.s AND p.e = a.e",
        "in each window of TUMBLE(10 s), until the watermark passes its end",
    ),
    (
        "the dearest bid of each window",
        "SELECT b.auction, b.price, b.bidder, b.`dateTime` FROM bid b JOIN (
            SELECT max(price) AS most, window_end AS e
            FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '10' SECOND)) GROUP BY window_start, window_end
         ) m ON b.price = m.most WHERE b.`dateTime` BETWEEN m.e - INTERVAL '10' SECOND AND m.e",
        "inner join on b.price = m.most",
    ),
    (
        "bids while the auction was open",
        "SELECT a.id, a.category, b.bidder, b.price FROM auction a, bid b
         WHERE a.id = b.auction AND b.`dateTime` BETWEEN a.`dateTime` AND a.expires",
        "a left row until the watermark passes a.expires",
    ),
    (
        "auctions without a bid while they were open",
        "SELECT a.id, b.bidder FROM auction a LEFT JOIN bid b
         ON a.id = b.auction AND b.`dateTime` BETWEEN a.`dateTime` AND a.expires WHERE b.bidder IS NULL",
        "left join on a.id = b.auction",
    ),
    (
        "bids with their auction",
        "SELECT b.auction, b.bidder, b.price, a.seller, a.category, a.expires FROM bid b JOIN auction a ON b.auction = a.id WHERE a.category = 10",
        "inner join on b.auction = a.id",
    ),
    (
        "dear bids with their auction and its seller",
        "SELECT b.price, a.id, p.name FROM bid b JOIN auction a ON b.auction = a.id JOIN person p ON p.id = a.seller WHERE b.price > 1000",
        "inner join on a.seller = p.id",
    ),
    (
        "how far a bid is above the average of all",
        "SELECT auction, price FROM bid WHERE price > (SELECT avg(price) FROM bid)",
        "inner join of every row with every row, on",
    ),
];

fn plan(sql: &str) -> (Planner, PlannedQuery) {
    let mut planner = Planner::new(Arc::new(BuiltIn), ".").unwrap();
    let planned = planner.plan("nexmark", &format!("{EVENTS}{sql};")).unwrap().queries.pop().unwrap();
    (planner, planned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_over_auctions_stream_to_the_batch_answer() {
    for (name, sql, state) in QUERIES {
        let (planner, planned) = plan(sql);
        let expected = batch_answer(&planner, &planned, false).await.unwrap();
        assert!(!expected.is_empty(), "{name} has an answer");
        let compiled = compile(planned.plan.clone(), emit_mode(planned.emit), planner.state()).await;
        let compiled = compiled.map_err(|r| r.at(&planned)).unwrap();
        let lines = describe_state(&compiled.logical);
        assert!(lines.iter().any(|l| l.contains(state)), "{name}: {lines:#?}");
        for (rows, stop_after) in [(LIMIT.rows, None), (331, None), (450, Some(3))] {
            let dir = tempfile::tempdir().unwrap();
            let collected = Arc::new(Mutex::new(vec![]));
            let limit = Limit { rows, ..LIMIT };
            if stop_after.is_some() {
                run(&planner, &planned, dir.path(), limit, stop_after, &collected).await.unwrap();
            }
            let (planner, planned) = plan(sql);
            let late = run(&planner, &planned, dir.path(), limit, None, &collected).await.unwrap();
            assert_eq!(late, 0, "{name}: no event is out of order by more than the delay");
            let found = added_up(&collected, false).unwrap();
            assert_eq!(difference(&expected, &found), None, "{name}, {rows} rows a batch");
        }
    }
}
