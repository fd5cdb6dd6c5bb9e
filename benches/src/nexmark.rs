//! Nexmark's questions, each over one file of persons, auctions and bids: CPU per event and peak memory of the engine,
//! for six of them beside a hand-written program.
//!
//! The words of the queries are ours; what they ask is what <https://github.com/nexmark/nexmark> asks. The answers of
//! q12 and q13 depend on the clock, so that only the number of their lines is shown, as for all without such a program.

use std::path::{Path, PathBuf};

use crate::args::Settings;
use crate::data::{self, Input};
use crate::engine::{Engine, json_table, run_directory};
use crate::events::{Measured, run_turns};
use crate::stats::median;
use crate::table::{Table, against, bytes, count};
use crate::{Result, Verdict};

const BUDGET: f64 = 3.0;

const EVENT: &str = "event_type INT, \
    person ROW<id BIGINT, name VARCHAR, emailAddress VARCHAR, creditCard VARCHAR, city VARCHAR, state VARCHAR, \
    `dateTime` TIMESTAMP(3), extra VARCHAR>, \
    auction ROW<id BIGINT, itemName VARCHAR, description VARCHAR, initialBid BIGINT, reserve BIGINT, \
    `dateTime` TIMESTAMP(3), expires TIMESTAMP(3), seller BIGINT, category BIGINT, extra VARCHAR>, \
    bid ROW<auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, `dateTime` TIMESTAMP(3), \
    extra VARCHAR>";

const TIME: &str = ", `dateTime` AS CASE WHEN event_type = 0 THEN person.`dateTime` \
    WHEN event_type = 1 THEN auction.`dateTime` ELSE bid.`dateTime` END, \
    WATERMARK FOR `dateTime` AS `dateTime` - INTERVAL '4' SECOND";

const VIEWS: &str = "\
CREATE VIEW person AS SELECT person.id, person.name, person.emailAddress, person.creditCard, person.city, person.state, \
`dateTime`, person.extra FROM event WHERE event_type = 0;
CREATE VIEW auction AS SELECT auction.id, auction.itemName, auction.description, auction.initialBid, auction.reserve, \
`dateTime`, auction.expires, auction.seller, auction.category, auction.extra FROM event WHERE event_type = 1;
CREATE VIEW bid AS SELECT bid.auction, bid.bidder, bid.price, bid.channel, bid.url, `dateTime`, bid.extra \
FROM event WHERE event_type = 2;
";

const WON: &str = "SELECT a.id, a.seller, a.category, b.price, b.`dateTime` AS bid_time, \
    ROW_NUMBER() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.`dateTime`) AS n \
    FROM auction a JOIN bid b ON a.id = b.auction AND b.`dateTime` BETWEEN a.`dateTime` AND a.expires";

const PAIR: &str = "a.id, a.itemName, a.description, a.initialBid, a.reserve, a.`dateTime`, a.expires, a.seller, \
    a.category, a.extra, b.bidder, b.price, b.channel, b.url, b.`dateTime` AS bidTime, b.extra AS bidExtra";

const PAIR_COLUMNS: &str = "id BIGINT, itemName VARCHAR, description VARCHAR, initialBid BIGINT, reserve BIGINT, `dateTime` TIMESTAMP(3), \
    expires TIMESTAMP(3), seller BIGINT, category BIGINT, extra VARCHAR, bidder BIGINT, \
    price BIGINT, channel VARCHAR, url VARCHAR, bidTime TIMESTAMP(3), bidExtra VARCHAR";

const BID_COLUMNS: &str = "auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, \
    `dateTime` TIMESTAMP(3), extra VARCHAR";

/// The tiers of prices that q15 to q17 count by.
const TIERS: &str = "count(*) AS bids, count(*) FILTER (WHERE price < 10000) AS low, \
    count(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS middle, \
    count(*) FILTER (WHERE price >= 1000000) AS high";

/// One question: its name, the hand-written program where there is one, and its SQL.
struct Case {
    name: &'static str,
    peer: Option<&'static str>,
    columns: String,
    query: String,
}

fn cases() -> Vec<Case> {
    let distinct = |column: &str| {
        format!(
            "count(DISTINCT {column}) AS {column}s, count(DISTINCT {column}) FILTER (WHERE price < 10000) AS low_{column}s, \
             count(DISTINCT {column}) FILTER (WHERE price >= 10000 AND price < 1000000) AS middle_{column}s, \
             count(DISTINCT {column}) FILTER (WHERE price >= 1000000) AS high_{column}s"
        )
    };
    let (bidders, auctions) = (distinct("bidder"), distinct("auction"));
    let counts = ["bids", "low", "middle", "high"].map(|name| format!("{name} BIGINT")).join(", ")
        + &["bidders", "auctions"]
            .map(|of| format!(", {of} BIGINT, low_{of} BIGINT, middle_{of} BIGINT, high_{of} BIGINT"))
            .concat();
    let hops = "SELECT auction, window_start, window_end, count(*) AS num \
                FROM HOP(bid, `dateTime`, INTERVAL '2' SECOND, INTERVAL '10' SECOND) GROUP BY auction, window_start, window_end";
    let channel = "REGEXP_EXTRACT(url, '(&|^)channel_id=([^&]*)', 2)";
    let queries: Vec<(&str, Option<&str>, String, String)> = vec![
        ("q0", None, "auction BIGINT, bidder BIGINT, price BIGINT, `dateTime` TIMESTAMP(3), extra VARCHAR".into(), "SELECT auction, bidder, price, `dateTime`, extra FROM bid".into()),
        ("q1", None, "auction BIGINT, bidder BIGINT, price DECIMAL(23, 3), `dateTime` TIMESTAMP(3), extra VARCHAR".into(), "SELECT auction, bidder, 0.908 * price AS price, `dateTime`, extra FROM bid".into()),
        ("q2", None, "auction BIGINT, price BIGINT".into(), "SELECT auction, price FROM bid WHERE auction % 123 = 0".into()),
        (
            "q3",
            Some("n3"), "name VARCHAR, city VARCHAR, state VARCHAR, id BIGINT".into(),
            "SELECT p.name, p.city, p.state, a.id FROM auction a JOIN person p ON a.seller = p.id \
             WHERE a.category = 10 AND p.state IN ('OR', 'ID', 'CA')"
                .into(),
        ),
        (
            "q4",
            Some("n4"), "category BIGINT, price DOUBLE".into(),
            "SELECT category, avg(best) AS price FROM (SELECT a.id, a.category, max(b.price) AS best \
             FROM auction a JOIN bid b ON a.id = b.auction AND b.`dateTime` BETWEEN a.`dateTime` AND a.expires \
             GROUP BY a.id, a.category) GROUP BY category"
                .into(),
        ),
        (
            "q5",
            None, "auction BIGINT, num BIGINT".into(),
            format!(
                "SELECT c.auction, c.num FROM ({hops}) c JOIN (SELECT window_start, window_end, max(num) AS most \
                 FROM ({hops}) GROUP BY window_start, window_end) m ON c.window_start = m.window_start \
                 AND c.window_end = m.window_end AND c.num >= m.most"
            ),
        ),
        (
            "q6",
            None, "seller BIGINT, price DOUBLE".into(),
            format!(
                "SELECT seller, avg(price) OVER (PARTITION BY seller ORDER BY bid_time ROWS BETWEEN 10 PRECEDING AND CURRENT ROW) \
                 AS price FROM ({WON}) WHERE n <= 1"
            ),
        ),
        (
            "q7",
            None, "auction BIGINT, price BIGINT, bidder BIGINT, `dateTime` TIMESTAMP(3), extra VARCHAR".into(),
            "SELECT b.auction, b.price, b.bidder, b.`dateTime`, b.extra FROM bid b JOIN (SELECT max(price) AS most, \
             window_end AS til FROM TUMBLE(bid, `dateTime`, INTERVAL '10' SECOND) GROUP BY window_start, window_end) m \
             ON b.price = m.most WHERE b.`dateTime` BETWEEN m.til - INTERVAL '10' SECOND AND m.til"
                .into(),
        ),
        (
            "q8",
            Some("n8"), "id BIGINT, name VARCHAR, starttime TIMESTAMP(3)".into(),
            "SELECT p.id, p.name, p.window_start AS starttime FROM (SELECT id, name, window_start, window_end \
             FROM TUMBLE(person, `dateTime`, INTERVAL '10' SECOND) GROUP BY id, name, window_start, window_end) p \
             JOIN (SELECT seller, window_start, window_end FROM TUMBLE(auction, `dateTime`, INTERVAL '10' SECOND) \
             GROUP BY seller, window_start, window_end) a ON p.id = a.seller AND p.window_start = a.window_start \
             AND p.window_end = a.window_end"
                .into(),
        ),
        (
            "q9",
            Some("n9"), PAIR_COLUMNS.into(),
            format!(
                "SELECT id, itemName, description, initialBid, reserve, `dateTime`, expires, seller, category, extra, bidder, \
                 price, channel, url, bidTime, bidExtra FROM (SELECT {PAIR}, ROW_NUMBER() OVER (PARTITION BY a.id \
                 ORDER BY b.price DESC, b.`dateTime`) AS n FROM auction a JOIN bid b ON a.id = b.auction \
                 AND b.`dateTime` BETWEEN a.`dateTime` AND a.expires) WHERE n <= 1"
            ),
        ),
        (
            "q10",
            None, "auction BIGINT, bidder BIGINT, price BIGINT, `dateTime` TIMESTAMP(3), extra VARCHAR, dt VARCHAR, hm VARCHAR".into(),
            "SELECT auction, bidder, price, `dateTime`, extra, DATE_FORMAT(`dateTime`, 'yyyy-MM-dd'), DATE_FORMAT(`dateTime`, 'HH:mm') \
             FROM bid"
                .into(),
        ),
        (
            "q11",
            None, "bidder BIGINT, bids BIGINT, starttime TIMESTAMP(3), endtime TIMESTAMP(3)".into(),
            "SELECT bidder, count(*) AS bids, window_start AS starttime, window_end AS endtime \
             FROM SESSION(bid PARTITION BY bidder, `dateTime`, INTERVAL '10' SECOND) GROUP BY bidder, window_start, window_end"
                .into(),
        ),
        (
            "q12",
            None, "bidder BIGINT, bids BIGINT, starttime TIMESTAMP_LTZ(3), endtime TIMESTAMP_LTZ(3)".into(),
            "SELECT bidder, count(*) AS bids, window_start AS starttime, window_end AS endtime \
             FROM TUMBLE((SELECT *, PROCTIME() AS p FROM bid), p, INTERVAL '10' SECOND) GROUP BY bidder, window_start, window_end"
                .into(),
        ),
        (
            "q13",
            None, "auction BIGINT, bidder BIGINT, price BIGINT, `dateTime` TIMESTAMP(3), named VARCHAR".into(),
            "SELECT b.auction, b.bidder, b.price, b.`dateTime`, s.named FROM (SELECT *, PROCTIME() AS p FROM bid) b \
             JOIN side FOR SYSTEM_TIME AS OF b.p AS s ON b.auction % 10000 = s.k"
                .into(),
        ),
        (
            "q14",
            None, "auction BIGINT, bidder BIGINT, price DECIMAL(23, 3), kind VARCHAR, `dateTime` TIMESTAMP(3), cs BIGINT".into(),
            "SELECT auction, bidder, 0.908 * price AS price, CASE WHEN extract(hour FROM `dateTime`) BETWEEN 8 AND 18 THEN 'day' \
             WHEN extract(hour FROM `dateTime`) <= 6 OR extract(hour FROM `dateTime`) >= 20 THEN 'night' ELSE 'other' END AS kind, \
             `dateTime`, count_char(extra, 'c') AS cs FROM bid WHERE 0.908 * price > 1000000 AND 0.908 * price < 50000000"
                .into(),
        ),
        (
            "q15",
            None, format!("`day` VARCHAR, {counts}"),
            format!(
                "SELECT DATE_FORMAT(`dateTime`, 'yyyy-MM-dd') AS `day`, {TIERS}, {bidders}, {auctions} FROM bid \
                 GROUP BY DATE_FORMAT(`dateTime`, 'yyyy-MM-dd')"
            ),
        ),
        (
            "q16",
            None, format!("channel VARCHAR, `day` VARCHAR, latest VARCHAR, {counts}"),
            format!(
                "SELECT channel, DATE_FORMAT(`dateTime`, 'yyyy-MM-dd') AS `day`, max(DATE_FORMAT(`dateTime`, 'HH:mm')) AS latest, \
                 {TIERS}, {bidders}, {auctions} FROM bid GROUP BY channel, DATE_FORMAT(`dateTime`, 'yyyy-MM-dd')"
            ),
        ),
        (
            "q17",
            None, "auction BIGINT, `day` VARCHAR, bids BIGINT, low BIGINT, middle BIGINT, high BIGINT, least BIGINT, most BIGINT, mean DOUBLE, total BIGINT".into(),
            format!(
                "SELECT auction, DATE_FORMAT(`dateTime`, 'yyyy-MM-dd') AS `day`, {TIERS}, min(price) AS least, max(price) AS most, \
                 avg(price) AS mean, sum(price) AS total FROM bid GROUP BY auction, DATE_FORMAT(`dateTime`, 'yyyy-MM-dd')"
            ),
        ),
        (
            "q18",
            Some("n18"), BID_COLUMNS.into(),
            "SELECT auction, bidder, price, channel, url, `dateTime`, extra FROM (SELECT *, ROW_NUMBER() OVER \
             (PARTITION BY bidder, auction ORDER BY `dateTime` DESC) AS n FROM bid) WHERE n <= 1"
                .into(),
        ),
        (
            "q19",
            None, format!("{BID_COLUMNS}, n BIGINT"),
            "SELECT * FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY auction ORDER BY price DESC) AS n FROM bid) WHERE n <= 10"
                .into(),
        ),
        (
            "q20",
            Some("n20"), PAIR_COLUMNS.into(),
            format!("SELECT {PAIR} FROM bid b JOIN auction a ON b.auction = a.id WHERE a.category = 10"),
        ),
        (
            "q21",
            None, "auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, channel_id VARCHAR".into(),
            format!(
                "SELECT auction, bidder, price, channel, CASE lower(channel) WHEN 'apple' THEN '0' WHEN 'google' THEN '1' \
                 WHEN 'facebook' THEN '2' WHEN 'baidu' THEN '3' ELSE {channel} END AS channel_id FROM bid \
                 WHERE {channel} IS NOT NULL OR lower(channel) IN ('apple', 'google', 'facebook', 'baidu')"
            ),
        ),
        (
            "q22",
            None, "auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, dir1 VARCHAR, dir2 VARCHAR, dir3 VARCHAR".into(),
            "SELECT auction, bidder, price, channel, SPLIT_INDEX(url, '/', 3) AS dir1, SPLIT_INDEX(url, '/', 4) AS dir2, \
             SPLIT_INDEX(url, '/', 5) AS dir3 FROM bid"
                .into(),
        ),
        (
            "q23",
            None, "bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, bidExtra VARCHAR, name VARCHAR, city VARCHAR, state VARCHAR, itemName VARCHAR, reserve BIGINT, category BIGINT".into(),
            "SELECT b.bidder, b.price, b.channel, b.url, b.extra AS bidExtra, p.name, p.city, p.state, a.itemName, a.reserve, \
             a.category FROM bid b JOIN person p ON p.id = b.bidder JOIN auction a ON a.seller = b.bidder"
                .into(),
        ),
    ];
    queries.into_iter().map(|(name, peer, columns, query)| Case { name, peer, columns, query }).collect()
}

/// Runs the questions and prints them.
///
/// # Errors
/// Where the events cannot be generated. A question that fails is a row of the table.
pub fn run(settings: &Settings, engine: &Engine) -> Result<Verdict> {
    let events = settings.sized(1_000_000, 100_000);
    let input = data::nexmark(settings, events, |path| generate(settings, engine, events, path))?;
    let side: String = (0..10_000).map(|k| format!("{{\"k\":{k},\"named\":\"value {k}\"}}\n")).collect();
    std::fs::write(side_path(&input.path), side)?;
    let mut table = Table::new(
        &format!("Nexmark over {} events, {} (median of {})", count(input.rows), bytes(input.bytes), settings.runs),
        &[
            "query",
            "engine us/event",
            "peer us/event",
            "ratio",
            "budget",
            "",
            "engine wall",
            "engine rss",
            "lines out",
            "answer",
        ],
    );
    let mut verdict = Verdict::Right;
    for case in cases() {
        if !settings.only.is_empty() && !settings.only.iter().any(|name| name == case.name) {
            continue;
        }
        eprintln!("{}: {} runs", case.name, settings.runs);
        let sql = |_: &Path, out: &Path| case.sql(&input.path, out);
        match run_turns(settings, engine, case.name, case.peer, &input.path, &sql) {
            Ok(measured) => {
                if measured.answer.is_err() {
                    verdict = Verdict::Wrong;
                }
                table.row(row(&case, &input, &measured));
            }
            Err(error) => {
                verdict = Verdict::Wrong;
                println!("{}: failed: {error}", case.name);
                table.row(vec![case.name.into(), "failed".into()]);
            }
        }
    }
    table.print();
    Ok(verdict)
}

impl Case {
    fn sql(&self, input: &Path, output: &Path) -> String {
        let source = json_table("event", &format!("{EVENT}{TIME}"), input, "");
        let side = json_table("side", "k BIGINT, named VARCHAR", &side_path(input), "");
        // q10 is about where rows go: a directory a minute.
        let partitions = if self.name == "q10" { ") PARTITIONED BY (dt, hm" } else { "" };
        let sink = json_table("answer", &format!("{}{partitions}", self.columns), output, "");
        format!("{source}{VIEWS}{side}{sink}INSERT INTO answer\n{};\n", self.query)
    }
}

/// The table that q13 looks names up in, beside the events.
fn side_path(input: &Path) -> PathBuf {
    input.with_file_name("nexmark-side.ndjson")
}

/// Lets the engine write the events into one file.
fn generate(settings: &Settings, engine: &Engine, events: u64, path: &Path) -> Result<()> {
    let dir = run_directory(settings, "nexmark-events")?;
    let source = format!("CREATE TABLE event ({EVENT}) WITH ('connector' = 'nexmark', 'events.num' = '{events}');\n");
    let sink = json_table("out", EVENT, path, ", 'sink.layout' = 'append'");
    engine.run(dir.path(), &format!("{source}{sink}INSERT INTO out SELECT * FROM event;\n"), &[])?;
    Ok(())
}

fn row(case: &Case, input: &Input, measured: &Measured) -> Vec<String> {
    let per_event = |usages: &[crate::process::Usage]| -> Vec<f64> {
        usages.iter().map(|usage| usage.cpu_s * 1e6 / input.rows.max(1) as f64).collect()
    };
    let (engine, peer) = (per_event(&measured.engine), per_event(&measured.peer));
    let mut cells = vec![case.name.to_string(), format!("{:.3}", median(&engine))];
    if peer.is_empty() {
        cells.extend(["", "", "", ""].map(String::from));
    } else {
        let ratios: Vec<f64> = engine.iter().zip(&peer).map(|(engine, peer)| engine / peer.max(1e-9)).collect();
        let ratio = median(&ratios);
        cells.extend([
            format!("{:.3}", median(&peer)),
            format!("{ratio:.2}x"),
            format!("{BUDGET:.1}x"),
            against(ratio, BUDGET),
        ]);
    }
    let wall = median(&measured.engine.iter().map(|usage| usage.wall_s).collect::<Vec<_>>());
    let rss = measured.engine.iter().map(|usage| usage.rss_bytes_max).max().unwrap_or(0);
    cells.extend([format!("{wall:.2} s"), bytes(rss)]);
    match &measured.answer {
        Ok(lines) => cells.extend([count(*lines), if peer.is_empty() { "" } else { "same" }.to_string()]),
        Err(what) => {
            println!("{}: the answers differ: {what}", case.name);
            cells.extend(["-".into(), "DIFFERENT".into()]);
        }
    }
    cells
}
