//! Functions of the clock: what they may be applied to, and what is said of it.

use super::*;

async fn explained(query: &str) -> Result<String, Error> {
    let session = session_over(MemoryTable::bounded(&Rows::of(clicks(5))));
    let others = Arc::new(MemoryTable::bounded(&Rows::of(clicks(5))));
    session.register_source("others", others, Some(("at", Duration::from_secs(1)))).unwrap();
    session.sql(query)?.explain().await
}

#[tokio::test]
async fn a_row_that_can_be_taken_back_is_not_compared_or_shown_with_the_clock() {
    let counts = "(SELECT user, count(*) AS c, max(at) AS last FROM clicks GROUP BY user)";
    for query in [
        format!("SELECT * FROM {counts} WHERE last > now() - INTERVAL '1' HOUR"),
        "SELECT user, count(*) AS c, now() AS seen FROM clicks GROUP BY user".to_string(),
        format!("SELECT user, random() AS dice FROM {counts}"),
        format!("SELECT c, count(*) FILTER (WHERE last < now()) AS n FROM {counts} GROUP BY c"),
        format!(
            "SELECT c.user, o.n FROM {counts} c JOIN others o ON c.user = o.user AND o.at < c.last + (now() - o.at)"
        ),
        "SELECT c.user, o.n FROM clicks c LEFT JOIN others o ON c.user = o.user AND o.at > now() - (c.at - o.at)"
            .to_string(),
        "SELECT window_end, count(*) AS c, uuid() AS id FROM TUMBLE(clicks, at, INTERVAL '2' SECOND)
         GROUP BY window_start, window_end EMIT CHANGES"
            .to_string(),
    ] {
        let error = match explained(&query).await {
            Ok(plan) => panic!("{query} is not refused:\n{plan}"),
            Err(error) => error.to_string(),
        };
        assert!(error.contains("can be taken back") && error.contains("before"), "{query}: {error}");
    }
}

#[tokio::test]
async fn rows_that_stay_are_compared_and_shown_with_the_clock() {
    for query in [
        "SELECT user, now() AS seen, uuid() AS id FROM clicks WHERE at < now()",
        "SELECT user, count(*) AS c FROM clicks WHERE at < now() GROUP BY user",
        "SELECT user, max(now()) AS last FROM clicks GROUP BY user",
        "SELECT window_end, count(*) AS c, now() AS seen FROM TUMBLE(clicks, at, INTERVAL '2' SECOND)
         GROUP BY window_start, window_end",
        "SELECT c.user, o.n FROM clicks c JOIN others o ON c.user = o.user AND o.at > now() - (c.at - o.at)",
    ] {
        let plan = explained(query).await.unwrap_or_else(|e| panic!("{query}: {e}"));
        assert!(plan.contains("answer: clock"), "{query}: {plan}");
    }
}

#[tokio::test]
async fn an_answer_is_called_exact_only_where_the_order_of_arrival_has_no_say_in_it() {
    for (query, exactness) in [
        ("SELECT user FROM clicks LIMIT 3", "order"),
        ("SELECT user, n FROM clicks ORDER BY n LIMIT 3", "order"),
        ("SELECT n, row_number() OVER (PARTITION BY user ORDER BY at) AS r FROM clicks", "order"),
        ("SELECT n, rank() OVER (PARTITION BY user ORDER BY at) AS r FROM clicks", "exact"),
        ("SELECT n, lag(n) OVER (PARTITION BY user ORDER BY at) AS l FROM clicks", "order"),
        ("SELECT user, array_agg(n) AS ns FROM clicks GROUP BY user", "order"),
        ("SELECT user, array_agg(n ORDER BY n) AS ns FROM clicks GROUP BY user", "exact"),
        ("SELECT user, first_value(n ORDER BY at) AS f FROM clicks GROUP BY user", "order"),
        ("SELECT user, count(*) AS c, max(n) AS m FROM clicks GROUP BY user", "exact"),
        (
            "SELECT user, c FROM (SELECT user, count(*) AS c FROM clicks GROUP BY user) ORDER BY c, user LIMIT 3",
            "exact",
        ),
        ("SELECT user, c FROM (SELECT user, count(*) AS c FROM clicks GROUP BY user) ORDER BY c LIMIT 3", "order"),
        (
            "SELECT n, avg(CAST(n AS DOUBLE)) OVER (PARTITION BY user ORDER BY at ROWS 2 PRECEDING) AS a FROM clicks",
            "order",
        ),
        ("SELECT user, avg(CAST(n AS DOUBLE)) AS a FROM clicks GROUP BY user", "rounding"),
        ("SELECT user, 10 / sum(n) AS a FROM clicks GROUP BY user", "order"),
        ("SELECT user, sum(n) / 10 AS a FROM clicks GROUP BY user", "exact"),
        ("SELECT user, 10 / n AS a FROM clicks", "exact"),
    ] {
        let plan = explained(query).await.unwrap_or_else(|e| panic!("{query}: {e}"));
        assert!(plan.contains(&format!("answer: {exactness}")), "{query}: not {exactness}: {plan}");
    }
}
