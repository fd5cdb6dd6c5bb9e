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
