//! Questions about auctions, worded anew after the published Nexmark queries: streamed in cuts and with a restart, and
//! compared with DataFusion in batch over the same events.

use std::sync::Arc;

use millstream::core::source::Limit;
use millstream::pipeline::asked;
use millstream::plan::{compile, describe_state};
use millstream::sql::{BuiltIn, PlannedQuery, Planner};

use crate::yardstick::{Floats, Interruption, LIMIT, Published, Rows, Run, added_up, batch_answer, difference, ran};

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
        SELECT bid.auction, bid.bidder, bid.price, bid.channel, bid.url, bid.extra, `dateTime` FROM events WHERE event_type = 2;
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

/// What the others ask for, and the query.
const OTHERS: [(&str, &str); 17] = [
    ("every bid", "SELECT auction, bidder, price, `dateTime`, extra FROM bid"),
    ("prices in another currency", "SELECT auction, bidder, 0.908 * price AS euros FROM bid"),
    ("bids on some auctions", "SELECT auction, price FROM bid WHERE MOD(auction, 123) = 0"),
    (
        "the average of the winning bids of a category",
        "SELECT w.category, avg(w.final) AS mean FROM (
            SELECT max(b.price) AS final, a.category FROM auction a, bid b
            WHERE a.id = b.auction AND b.`dateTime` BETWEEN a.`dateTime` AND a.expires GROUP BY a.id, a.category
         ) w GROUP BY w.category",
    ),
    (
        "the average of a seller's last winning bids",
        "SELECT seller, id, avg(price) OVER (PARTITION BY seller ORDER BY `dateTime`, id ROWS BETWEEN 10 PRECEDING AND CURRENT ROW) AS mean
         FROM (
            SELECT a.id, a.seller, b.price, b.`dateTime`,
                ROW_NUMBER() OVER (PARTITION BY a.id, a.seller ORDER BY b.price DESC, b.`dateTime`, b.bidder) AS place
            FROM auction a, bid b
            WHERE a.id = b.auction AND b.`dateTime` BETWEEN a.`dateTime` AND a.expires AND place <= 1
         )",
    ),
    (
        "the winning bid of each auction",
        "SELECT id, category, auction, price, bidder FROM (
            SELECT a.*, b.auction, b.price, b.bidder,
                ROW_NUMBER() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.`dateTime` ASC, b.bidder) AS place
            FROM auction a, bid b WHERE a.id = b.auction AND b.`dateTime` BETWEEN a.`dateTime` AND a.expires
         ) WHERE place <= 1",
    ),
    (
        "bids with their day and minute",
        "SELECT auction, price, DATE_FORMAT(`dateTime`, 'yyyy-MM-dd') AS `day`, DATE_FORMAT(`dateTime`, 'HH:mm') AS `minute` FROM bid",
    ),
    (
        "sessions of a bidder",
        "SELECT bidder, count(*) AS n, SESSION_START(`dateTime`, INTERVAL '10' SECOND) AS s, SESSION_END(`dateTime`, INTERVAL '10' SECOND) AS e
         FROM bid GROUP BY bidder, SESSION(`dateTime`, INTERVAL '10' SECOND)",
    ),
    (
        "a calculation for each bid",
        "SELECT auction, CASE WHEN HOUR(`dateTime`) BETWEEN 8 AND 18 THEN 'day' ELSE 'night' END AS half, COUNT_CHAR(extra, 'c') AS c
         FROM bid WHERE 0.908 * price > 1000000 AND 0.908 * price < 50000000",
    ),
    (
        "distinct bidders and auctions by price",
        "SELECT DATE_FORMAT(`dateTime`, 'yyyy-MM-dd') AS `day`, count(*) AS n, count(*) FILTER (WHERE price < 10000) AS cheap,
            count(DISTINCT bidder) AS bidders, count(DISTINCT bidder) FILTER (WHERE price >= 1000000) AS rich,
            count(DISTINCT auction) FILTER (WHERE price >= 10000 AND price < 1000000) AS auctions
         FROM bid GROUP BY DATE_FORMAT(`dateTime`, 'yyyy-MM-dd')",
    ),
    (
        "the same of each channel",
        "SELECT channel, max(DATE_FORMAT(`dateTime`, 'HH:mm')) AS `minute`, count(DISTINCT bidder) AS bidders,
            count(DISTINCT auction) FILTER (WHERE price < 10000) AS auctions
         FROM bid GROUP BY channel, DATE_FORMAT(`dateTime`, 'yyyy-MM-dd')",
    ),
    (
        "statistics of each auction",
        "SELECT auction, count(*) AS n, min(price) AS least, max(price) AS most, avg(price) AS mean, sum(price) AS s
         FROM bid GROUP BY auction, DATE_FORMAT(`dateTime`, 'yyyy-MM-dd')",
    ),
    (
        "the last bid of a bidder on an auction",
        "SELECT auction, bidder, price, `dateTime` FROM (
            SELECT *, ROW_NUMBER() OVER (PARTITION BY bidder, auction ORDER BY `dateTime` DESC, price DESC) AS place FROM bid
         ) WHERE place <= 1",
    ),
    (
        "the ten dearest bids of an auction",
        "SELECT auction, price, bidder, place FROM (
            SELECT *, ROW_NUMBER() OVER (PARTITION BY auction ORDER BY price DESC, `dateTime`, bidder) AS place FROM bid
         ) WHERE place <= 10",
    ),
    (
        "channels by their number",
        "SELECT auction, channel, CASE lower(channel) WHEN 'apple' THEN '0' WHEN 'google' THEN '1'
            ELSE REGEXP_EXTRACT(url, '(&|^)channel_id=([^&]*)', 2) END AS number FROM bid
         WHERE REGEXP_EXTRACT(url, '(&|^)channel_id=([^&]*)', 2) IS NOT NULL OR lower(channel) IN ('apple', 'google')",
    ),
    (
        "the directories of the address",
        "SELECT auction, SPLIT_INDEX(url, '/', 3) AS dir1, SPLIT_INDEX(url, '/', 4) AS dir2, SPLIT_INDEX(url, '/', 5) AS dir3 FROM bid",
    ),
    (
        "who bids, and what they sell themselves",
        "SELECT b.bidder, b.price, p.name, a.id FROM bid b LEFT JOIN person p ON p.id = b.bidder
         LEFT JOIN auction a ON a.seller = b.bidder AND a.category = 10 WHERE b.price > 5000000",
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
        let expected = batch_answer(&planner, &planned, Floats::Rounded).await.unwrap();
        assert!(!expected.is_empty(), "{name} has an answer");
        let compiled = compile(planned.plan.clone(), asked(&planned), planner.state()).await;
        let compiled = compiled.map_err(|r| r.at(&planned)).unwrap();
        let lines = describe_state(&compiled);
        assert!(lines.iter().any(|l| l.contains(state)), "{name}: {lines:#?}");
        holds(name, sql, &expected).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_questions_about_auctions_stream_to_the_batch_answer() {
    for (name, sql) in OTHERS {
        let (planner, planned) = plan(sql);
        let expected = batch_answer(&planner, &planned, Floats::Rounded).await;
        let expected = expected.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(!expected.is_empty(), "{name} has an answer");
        holds(name, sql, &expected).await;
    }
}

async fn holds(name: &str, sql: &str, expected: &Rows) {
    for (rows, stop_after) in [(LIMIT.rows, None), (331, None), (450, Some(3))] {
        let dir = tempfile::tempdir().unwrap();
        let published = Published::default();
        let stop = stop_after.map(|batches| Some(Interruption::Stop { batches }));
        let mut late = 0;
        for interruption in stop.into_iter().chain([None]) {
            let (planner, planned) = plan(sql);
            let mut run = Run::new(&planner, &planned, dir.path(), &published);
            run.config.limit = Limit { rows, ..LIMIT };
            late = ran(&run, interruption).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        assert_eq!(late, 0, "{name}: no event is out of order by more than the delay");
        let found = added_up(&published, Floats::Rounded).unwrap();
        assert_eq!(difference(expected, &found), None, "{name}, {rows} rows a batch");
    }
}

/// The queries that the project's own words above stand for, as they were published: each one streamed in cuts and
/// killed on the way, and compared with DataFusion in batch over the same events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "reads the published files: NEXMARK_SQL=<directory> cargo test --test law published -- --ignored --nocapture"]
async fn published_queries_stream_to_the_batch_answer() {
    let files = std::path::PathBuf::from(std::env::var("NEXMARK_SQL").unwrap());
    let only = std::env::var("NEXMARK_QUERY").ok();
    let mut wrong = 0;
    for number in 0..24 {
        if only.as_ref().is_some_and(|only| *only != number.to_string()) {
            continue;
        }
        match published(&files, number).await {
            Ok(rows) => println!("q{number}: {rows} rows, as in batch"),
            Err(why) => {
                wrong += 1;
                println!("q{number}: {why}");
            }
        }
    }
    assert_eq!(wrong, 0, "queries that do not run, or give other rows");
}

/// The rows of the answer, or what is wrong with it.
async fn published(files: &std::path::Path, number: u32) -> Result<usize, String> {
    let room = tempfile::tempdir().unwrap();
    let values = [
        ("${TPS}", "100"),
        ("${EVENTS_NUM}", "4000"),
        ("${PERSON_PROPORTION}", "1"),
        ("${AUCTION_PROPORTION}", "3"),
        ("${BID_PROPORTION}", "46"),
        ("${NEXMARK_TABLE}", "datagen"),
        ("${SUBMIT_TIME}", "now"),
        ("${NEXMARK_DIR}", room.path().to_str().unwrap()),
        ("${FLINK_HOME}", room.path().to_str().unwrap()),
    ];
    std::fs::create_dir(room.path().join("data")).unwrap();
    let side: String = (0..10_000).map(|key| format!("{key},value {key}\n")).collect();
    std::fs::write(room.path().join("data/side_input.txt"), side).unwrap();
    let read = |name: &str| {
        let text = std::fs::read_to_string(files.join(name)).unwrap();
        values.iter().fold(text, |text, (name, value)| text.replace(name, value))
    };
    let text = format!("{};\n{};\n{}", read("ddl_gen.sql"), read("ddl_views.sql"), read(&format!("q{number}.sql")));
    let planned = || -> millstream::Result<(Planner, PlannedQuery)> {
        let mut planner = Planner::new(Arc::new(BuiltIn), room.path())?;
        let planned = planner.plan(&format!("q{number}"), &text)?.queries.pop().unwrap();
        Ok((planner, planned))
    };
    let said = |e: millstream::Error| e.to_string();
    let (planner, first) = planned().map_err(said)?;
    let expected = batch_answer(&planner, &first, Floats::Rounded).await.map_err(said)?;
    let kill = Interruption::Kill { batches: 3, steps: 7 };
    for (rows, interruptions) in [(LIMIT.rows, vec![None]), (331, vec![None]), (450, vec![Some(kill), None])] {
        let (dir, published) = (tempfile::tempdir().unwrap(), Published::default());
        for interruption in interruptions {
            let (planner, planned) = planned().map_err(said)?;
            let mut run = Run::new(&planner, &planned, dir.path(), &published);
            run.config.limit = Limit { rows, ..LIMIT };
            let late = ran(&run, interruption).await.map_err(said)?;
            if late > 0 {
                return Err(format!("{late} rows are late"));
            }
        }
        let found = added_up(&published, Floats::Rounded).map_err(said)?;
        if number == 12 {
            // Which windows there are says the clock: the bids of a bidder are the same over all of them.
            let (in_all, streamed) = (over_all_windows(&expected), over_all_windows(&found));
            if in_all != streamed {
                return Err(format!("{rows} rows a batch: {in_all:?} in batch, {streamed:?} streamed"));
            }
            continue;
        }
        if let Some(difference) = difference(&expected, &found) {
            let lines: Vec<_> = difference.lines().take(8).collect();
            return Err(format!("{rows} rows a batch, of {} rows:\n{}", expected.len(), lines.join("\n")));
        }
    }
    Ok(expected.len())
}

/// The second column, added up by the first.
fn over_all_windows(rows: &Rows) -> std::collections::BTreeMap<&str, i64> {
    let mut sums = std::collections::BTreeMap::new();
    for (row, times) in rows {
        *sums.entry(row[0].as_str()).or_default() += times * row[1].parse::<i64>().unwrap();
    }
    sums
}

/// The published query 13, in its own words but for the options of the table, which are today's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bids_with_a_side_input_stream_to_the_batch_answer() {
    let base = tempfile::tempdir().unwrap();
    let side: String = (0..10_000).step_by(3).map(|n| format!("{n},value {n}\n")).collect();
    std::fs::write(base.path().join("side_input.txt"), side).unwrap();
    let sql = "
        CREATE TABLE side_input (key BIGINT, `value` VARCHAR)
        WITH ('connector' = 'filesystem', 'path' = 'side_input.txt', 'format' = 'csv');
        SELECT B.auction, B.bidder, B.price, B.`dateTime`, S.`value`
        FROM (SELECT *, PROCTIME() as p_time FROM bid) B
        JOIN side_input FOR SYSTEM_TIME AS OF B.p_time AS S ON mod(B.auction, 10000) = S.key";
    let plan = || {
        let mut planner = Planner::new(Arc::new(BuiltIn), base.path()).unwrap();
        let planned = planner.plan("q13", &format!("{EVENTS}{sql};")).unwrap().queries.pop().unwrap();
        (planner, planned)
    };
    let (planner, planned) = plan();
    let expected = batch_answer(&planner, &planned, Floats::Exactly).await.unwrap();
    assert!(expected.len() > 500, "{} rows", expected.len());
    let kill = Interruption::Kill { batches: 3, steps: 7 };
    for (rows, interruptions) in [(LIMIT.rows, vec![None]), (450, vec![Some(kill), None])] {
        let (dir, published) = (tempfile::tempdir().unwrap(), Published::default());
        for interruption in interruptions {
            let (planner, planned) = plan();
            let mut run = Run::new(&planner, &planned, dir.path(), &published);
            run.config.limit = Limit { rows, ..LIMIT };
            ran(&run, interruption).await.unwrap();
        }
        let found = added_up(&published, Floats::Exactly).unwrap();
        assert_eq!(difference(&expected, &found), None, "{rows} rows a batch");
    }
}
