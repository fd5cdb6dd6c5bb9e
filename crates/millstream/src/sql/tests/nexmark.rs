//! The constructs of the Nexmark queries, over a wide table of tagged events as its generator makes them.
//!
//! The queries are worded anew; with NEXMARK_SQL set to the directory of the published files, those are tried too.

use std::fmt::Write;

use super::*;

const EVENTS: &str = "
    CREATE TABLE events (
        event_type INT,
        person ROW<id BIGINT, name VARCHAR, state VARCHAR, `dateTime` TIMESTAMP(3)>,
        auction ROW<id BIGINT, expires TIMESTAMP(3), seller BIGINT, category BIGINT, `dateTime` TIMESTAMP(3)>,
        bid ROW<auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, `dateTime` TIMESTAMP(3)>,
        `dateTime` AS CASE
            WHEN event_type = 0 THEN person.`dateTime`
            WHEN event_type = 1 THEN auction.`dateTime`
            ELSE bid.`dateTime`
        END,
        WATERMARK FOR `dateTime` AS `dateTime` - INTERVAL '4' SECOND
    ) WITH ('connector' = 'nexmark', 'events.num' = '1000');
    CREATE VIEW person AS SELECT person.id, person.name, person.state, `dateTime` FROM events WHERE event_type = 0;
    CREATE VIEW auction AS
        SELECT auction.id, auction.expires, auction.seller, auction.category, `dateTime` FROM events WHERE event_type = 1;
    CREATE VIEW bid AS
        SELECT bid.auction, bid.bidder, bid.price, bid.channel, bid.url, `dateTime` FROM events WHERE event_type = 2;
";

/// What each published query asks for, in other words.
const QUERIES: [(&str, &str); 18] = [
    ("pass through", "SELECT auction, bidder, price, `dateTime` FROM bid"),
    ("currency", "SELECT auction, 0.908 * price AS euros, `dateTime` FROM bid"),
    ("selection", "SELECT auction, price FROM bid WHERE MOD(auction, 7) = 0"),
    ("local items", "SELECT P.name, A.id FROM auction AS A JOIN person AS P ON A.seller = P.id WHERE P.state IN ('OR', 'ID')"),
    (
        "average of the winning bids",
        "SELECT w.category, AVG(w.final) FROM (
            SELECT MAX(B.price) AS final, A.category FROM auction A, bid B
            WHERE A.id = B.auction AND B.`dateTime` BETWEEN A.`dateTime` AND A.expires GROUP BY A.id, A.category
         ) w GROUP BY w.category",
    ),
    (
        "hot items",
        "SELECT hot.auction, hot.n FROM (
            SELECT auction, count(*) AS n, window_start AS s, window_end AS e
            FROM TABLE(HOP(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '2' SECOND, INTERVAL '10' SECOND))
            GROUP BY auction, window_start, window_end
         ) AS hot JOIN (
            SELECT max(counted.n) AS most, counted.s, counted.e FROM (
                SELECT count(*) AS n, window_start AS s, window_end AS e
                FROM TABLE(HOP(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '2' SECOND, INTERVAL '10' SECOND))
                GROUP BY auction, window_start, window_end
            ) AS counted GROUP BY counted.s, counted.e
         ) AS top ON hot.s = top.s AND hot.e = top.e AND hot.n >= top.most",
    ),
    (
        "highest bid",
        "SELECT B.auction, B.price FROM bid B JOIN (
            SELECT MAX(price) AS most, window_end AS `dateTime`
            FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '10' SECOND)) GROUP BY window_start, window_end
         ) M ON B.price = M.most WHERE B.`dateTime` BETWEEN M.`dateTime` - INTERVAL '10' SECOND AND M.`dateTime`",
    ),
    (
        "new sellers",
        "SELECT P.id, P.s FROM (
            SELECT id, window_start AS s, window_end AS e
            FROM TABLE(TUMBLE(TABLE person, DESCRIPTOR(`dateTime`), INTERVAL '10' SECOND)) GROUP BY id, window_start, window_end
         ) P JOIN (
            SELECT seller, window_start AS s, window_end AS e
            FROM TABLE(TUMBLE(TABLE auction, DESCRIPTOR(`dateTime`), INTERVAL '10' SECOND))
            GROUP BY seller, window_start, window_end
         ) A ON P.id = A.seller AND P.s = A.s AND P.e = A.e",
    ),
    (
        "winning bids",
        "SELECT id, category, auction, price FROM (
            SELECT A.*, B.auction, B.price, B.`dateTime` AS at,
                ROW_NUMBER() OVER (PARTITION BY A.id ORDER BY B.price DESC, B.`dateTime` ASC) AS place
            FROM auction A, bid B WHERE A.id = B.auction AND B.`dateTime` BETWEEN A.`dateTime` AND A.expires
         ) WHERE place <= 1",
    ),
    ("partitions", "SELECT auction, DATE_FORMAT(`dateTime`, 'yyyy-MM-dd'), DATE_FORMAT(`dateTime`, 'HH:mm') FROM bid"),
    (
        "calculation",
        "SELECT CASE WHEN HOUR(`dateTime`) >= 8 AND HOUR(`dateTime`) <= 18 THEN 'day' ELSE 'night' END AS half,
            count_char(url, 'c') AS c FROM bid WHERE 0.908 * price > 1000000 AND 0.908 * price < 50000000",
    ),
    (
        "statistics",
        "SELECT channel, DATE_FORMAT(`dateTime`, 'yyyy-MM-dd') AS `day`, max(DATE_FORMAT(`dateTime`, 'HH:mm')) AS `minute`,
            count(*) AS n, count(*) FILTER (WHERE price < 10000) AS cheap, count(DISTINCT bidder) AS bidders,
            count(DISTINCT bidder) FILTER (WHERE price >= 10000 AND price < 1000000) AS middle
         FROM bid GROUP BY channel, DATE_FORMAT(`dateTime`, 'yyyy-MM-dd')",
    ),
    (
        "per day",
        "SELECT auction, DATE_FORMAT(`dateTime`, 'yyyy-MM-dd') AS `day`, min(price), max(price), avg(price), sum(price)
         FROM bid GROUP BY auction, DATE_FORMAT(`dateTime`, 'yyyy-MM-dd')",
    ),
    (
        "newest",
        "SELECT auction, price FROM (
            SELECT *, ROW_NUMBER() OVER (PARTITION BY bidder, auction ORDER BY `dateTime` DESC) AS place FROM bid
         ) WHERE place <= 1",
    ),
    (
        "channels",
        "SELECT auction, CASE WHEN lower(channel) = 'apple' THEN '0'
            ELSE REGEXP_EXTRACT(url, '(&|^)channel_id=([^&]*)', 2) END AS channel_id FROM bid
         WHERE REGEXP_EXTRACT(url, '(&|^)channel_id=([^&]*)', 2) IS NOT NULL OR lower(channel) IN ('apple', 'google')",
    ),
    ("directories", "SELECT auction, SPLIT_INDEX(url, '/', 3) AS dir1, SPLIT_INDEX(url, '/', 4) AS dir2 FROM bid"),
    (
        "three ways",
        "SELECT bidder, P.id AS person_id, A.dateTime AS opened, name, expires
         FROM bid B JOIN person P ON P.id = B.bidder JOIN auction A ON A.seller = B.bidder",
    ),
    ("clock", "SELECT *, PROCTIME() AS p_time FROM bid"),
];

#[test]
fn every_construct_of_nexmark_plans() {
    for (name, sql) in QUERIES {
        let text = format!("{EVENTS} CREATE FUNCTION count_char AS 'com.example.CountChar'; {sql};");
        let pipeline = try_plan(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(pipeline.queries.len(), 1, "{name}");
    }
}

#[test]
fn every_construct_of_nexmark_survives_the_analyzer() {
    let state = session_state().unwrap();
    for (name, sql) in QUERIES {
        let query = plan(&format!("{EVENTS} {sql};")).queries.pop().unwrap();
        state.optimize(&query.plan).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn a_query_cut_off_anywhere_is_a_plan_or_an_error_with_its_place() {
    for (name, sql) in QUERIES {
        let mut planner = Planner::new(Arc::new(Nothing), "/data").unwrap();
        planner.plan("events.sql", EVENTS).unwrap();
        for (end, _) in sql.match_indices([' ', '\n', '(', ')', ',']) {
            if let Err(error) = planner.plan("q.sql", &sql[..end]) {
                let text = error.to_string();
                assert_eq!(error.kind(), millstream_core::ErrorKind::Query, "{name}: {text}");
                assert!(text.starts_with("q.sql:") && text.ends_with('^'), "{name}, cut at {end}: {text}");
            }
        }
    }
}

/// Prints how many of the published files parse and plan.
#[test]
#[ignore = "reads the published files: NEXMARK_SQL=<directory> cargo test published -- --ignored --nocapture"]
fn published_files_are_tried() {
    let dir = std::path::PathBuf::from(std::env::var("NEXMARK_SQL").expect("NEXMARK_SQL"));
    let read = |name: &str| {
        let mut text = std::fs::read_to_string(dir.join(name)).unwrap();
        text = text.replace("${NEXMARK_TABLE}", "datagen");
        text
    };
    let setup = format!("{};{};", read("ddl_gen.sql"), read("ddl_views.sql"));
    let (mut parsed, mut planned, mut report) = (0, 0, String::new());
    let mut files: Vec<_> =
        std::fs::read_dir(&dir).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    files.retain(|f| f.ends_with(".sql"));
    files.sort();
    for file in &files {
        let text = read(file);
        let source = SourceText::new(file.clone(), text.clone());
        match parser::parse(&source) {
            Ok(_) => parsed += 1,
            Err(e) => writeln!(report, "PARSE {}", source.error_of(&e)).unwrap(),
        }
        let mut planner = Planner::new(Arc::new(Nothing), "/data").unwrap();
        if file.starts_with('q') || file.starts_with("insert") || file == "ddl_views.sql" {
            let before = if file == "ddl_views.sql" { read("ddl_gen.sql") } else { setup.clone() };
            planner.plan("setup.sql", &before).unwrap();
        }
        if file.starts_with("insert") {
            planner.plan("kafka.sql", &read("ddl_kafka.sql")).unwrap();
        }
        match planner.plan(file, &text) {
            Ok(_) => planned += 1,
            Err(e) => writeln!(report, "PLAN {e}").unwrap(),
        }
    }
    println!("{parsed} of {} files parse, {planned} plan\n{report}", files.len());
}
