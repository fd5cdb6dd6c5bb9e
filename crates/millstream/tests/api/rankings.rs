//! Window functions, rankings and DEDUP: what is said of them before they run, and what a stream emits when.

use super::*;

fn asked(query: &str) -> StreamFrame {
    session_over(MemoryTable::bounded(&Rows::of(clicks(10)))).sql(query).unwrap()
}

async fn state_of(query: &str) -> String {
    let explained = asked(query).explain().await.unwrap_or_else(|e| panic!("{query}: {e}"));
    let (_, state) = explained.split_once("state: ").unwrap();
    state.to_string()
}

#[tokio::test]
async fn what_is_kept_and_when_it_is_forgotten_is_said() {
    let cases = [
        (
            "SELECT n, sum(n) OVER (PARTITION BY user ORDER BY at) FROM clicks",
            "the functions so far for each (clicks.user), for ever",
        ),
        (
            "SELECT n, sum(n) OVER (PARTITION BY user ORDER BY at RANGE BETWEEN INTERVAL '2' SECOND PRECEDING AND CURRENT ROW) FROM clicks",
            "the rows of the last 2000 ms for each (clicks.user), until the watermark passes them",
        ),
        (
            "SELECT n, lag(n, 2) OVER (PARTITION BY user ORDER BY at) FROM clicks",
            "the last 2 rows for each (clicks.user), for ever",
        ),
        (
            "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY user ORDER BY at DESC) AS r FROM clicks) WHERE r = 1",
            "the best row for each (clicks.user), for ever",
        ),
        ("SELECT user, n FROM clicks ORDER BY n DESC LIMIT 3 OFFSET 2", "the best 5 rows for all rows together"),
        (
            "SELECT * FROM (SELECT user, count(*) AS c FROM clicks GROUP BY user) ORDER BY c LIMIT 3",
            "would bound it; a change looks at the first 3 rows for all rows together",
        ),
        (
            "SELECT n, lead(n) OVER (PARTITION BY user ORDER BY at) FROM clicks",
            "a change answers the whole partition anew",
        ),
        (
            "SELECT user, rank() OVER (PARTITION BY window_start, window_end ORDER BY n) FROM TUMBLE(clicks, at, INTERVAL '2' SECOND)",
            "the rows of open windows, until the watermark passes their end; answered once, on close",
        ),
        ("SELECT user FROM clicks LIMIT 3", "one number, how many rows came"),
        (
            "SELECT * FROM (SELECT *, rank() OVER (PARTITION BY user ORDER BY n DESC) AS r FROM clicks) WHERE r <= 5",
            "the best 5 rows and those that tie for each (clicks.user), for ever",
        ),
        (
            "SELECT user, median(n), sum(n), array_agg(n) FROM clicks GROUP BY user",
            "a row for each (clicks.user), with every value of array_agg, median, written anew with each batch",
        ),
        (
            "SELECT n FROM clicks c WHERE EXISTS (SELECT 1 FROM clicks o WHERE CAST(o.n AS DOUBLE) = CAST(c.n AS DOUBLE))",
            "the rows of the left side and, of the right side, how many there are of each key",
        ),
        (
            "SELECT n FROM DEDUP(clicks, DESCRIPTOR(user, n), DESCRIPTOR(at), INTERVAL '1' MINUTE)",
            "the last time of each (clicks.user, clicks.n), until the watermark is",
        ),
    ];
    for (query, expected) in cases {
        let state = state_of(query).await;
        assert!(state.contains(expected), "{query}:\n{state}");
    }
}

#[tokio::test]
async fn what_can_not_be_ranked_is_refused_with_what_works() {
    let cases = [
        ("SELECT n FROM clicks ORDER BY n", "add a LIMIT"),
        ("SELECT n FROM clicks ORDER BY n OFFSET 2", "OFFSET without a LIMIT"),
        ("SELECT n, row_number() OVER (PARTITION BY user ORDER BY PROCTIME()) FROM clicks", "order by the event time"),
        ("SELECT n FROM clicks ORDER BY PROCTIME(), n LIMIT 3", "order by the event time"),
        (
            "SELECT n, row_number() OVER (ORDER BY n DESC) AS r, sum(n * random()) OVER (ORDER BY n DESC) AS s FROM clicks",
            "in a ranking, whose rows can be taken back",
        ),
        ("SELECT n FROM clicks ORDER BY n LIMIT 2 EMIT ON WINDOW CLOSE", "PARTITION BY window_start, window_end"),
        (
            "SELECT n FROM DEDUP((SELECT user, max(n) AS n, max(at) AS at FROM clicks GROUP BY user), n, at, INTERVAL '1' SECOND)",
            "no event time",
        ),
    ];
    for (query, expected) in cases {
        let refused = match session_over(MemoryTable::bounded(&Rows::of(vec![]))).sql(query) {
            Ok(frame) => frame.explain().await.map(|plan| panic!("{query} is not refused: {plan}")).unwrap_err(),
            Err(error) => error,
        };
        assert!(refused.to_string().contains(expected), "{query}: {refused}");
    }
}

/// Everything that a query emitted over all rows, in batches of three, in order.
async fn emitted(query: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let stored = Stored::default();
    let writer = asked(query).write_stream().sink(Box::new(MemorySink::new(&stored)));
    writer.state_dir(dir.path()).max_batch_rows(3).start().await.unwrap().wait().await.unwrap();
    let row = |rows: &RecordBatch, n: usize| {
        let values: Vec<_> = rows.columns().iter().map(|c| array_value_to_string(c, n).unwrap()).collect();
        values.join(" ")
    };
    stored.rows().iter().flat_map(|rows| (0..rows.num_rows()).map(|n| row(rows, n)).collect::<Vec<_>>()).collect()
}

#[tokio::test]
async fn a_limit_without_an_order_passes_the_first_rows_on_and_takes_none_back() {
    assert_eq!(emitted("SELECT n FROM clicks LIMIT 5 OFFSET 2").await, ["2", "3", "4", "5", "6"]);
    assert_eq!(emitted("SELECT n FROM clicks WHERE n > 37 LIMIT 5").await, ["38", "39"]);
    assert!(emitted("SELECT n FROM clicks LIMIT 0").await.is_empty());
}

#[tokio::test]
async fn the_first_row_of_a_key_that_came_is_passed_on_and_never_taken_back() {
    let by_arrival = |order: &str| {
        format!(
            "SELECT n FROM (SELECT n, row_number() OVER (PARTITION BY user ORDER BY p{order}) AS r FROM \
             (SELECT *, PROCTIME() AS p FROM clicks)) WHERE r = 1"
        )
    };
    let rows = emitted(&by_arrival("")).await;
    assert!(!rows.is_empty() && rows.iter().all(|row| row.parse::<i64>().is_ok()), "{rows:?}");
    // The last one is taken back when another comes.
    let rows = emitted(&by_arrival(" DESC")).await;
    assert!(rows.iter().all(|row| row.parse::<i64>().is_err()), "{rows:?}");
}

#[tokio::test]
async fn window_functions_leave_in_the_order_of_time_without_a_changelog() {
    let rows = emitted("SELECT at, lag(n) OVER (PARTITION BY user ORDER BY at) FROM clicks").await;
    assert_eq!(rows.len(), 40);
    assert!(rows.is_sorted(), "{rows:?}");
}

#[tokio::test]
async fn only_ranks_that_changed_are_taken_back() {
    let rows = emitted(
        "SELECT n, r FROM (SELECT n, row_number() OVER (ORDER BY n DESC) AS r FROM clicks WHERE n < 3 OR n > 38) WHERE r <= 2",
    )
    .await;
    // The first batch that has rows brings 0, 1, 2; the last one 39.
    assert_eq!(rows, ["+I 2 1", "+I 1 2", "-U 2 1", "+U 39 1", "-U 1 2", "+U 2 2"]);
}
