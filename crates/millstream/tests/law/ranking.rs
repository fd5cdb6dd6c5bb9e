//! Generated window functions and rankings.
//!
//! Rows that tie could stand in any order: where that would show, the order goes on over every column that is
//! selected.

use super::{Late, PREDICATES, Query, ROWS, Window};
use crate::yardstick::Random;

/// The rows of `t` that the queries select, and an order of them that leaves nothing open.
const COLUMNS: &str = "k, n, d, b, ts";
const TOTAL: &str = "n, d, k, b, ts";

fn exact(sql: String, late: Late) -> Query {
    Query { sql, tables: 1, late, rounding: false, kinds: ROWS }
}

fn list(random: &mut Random, of: &[&str], over: &str) -> String {
    let functions = (0..1 + random.below(3)).map(|i| format!("{} OVER {over} AS f{i}", random.pick::<&str>(of)));
    functions.collect::<Vec<_>>().join(", ")
}

/// Window functions in event time.
pub fn over(random: &mut Random) -> Query {
    const ANY: [&str; 15] = [
        "count(*) FILTER (WHERE x > 0)",
        "row_number()",
        "rank()",
        "dense_rank()",
        "lag(n)",
        "lag(d, 3)",
        "lag(n, 2, 7)",
        "first_value(d)",
        "last_value(n)",
        "nth_value(n, 2)",
        "sum(n)",
        "count(*)",
        "min(d)",
        "max(n)",
        "count(n) FILTER (WHERE b)",
    ];
    // Over rows that tie together their order is not seen.
    const PEERS: [&str; 9] = [
        "sum(n) FILTER (WHERE x IS NULL)",
        "rank()",
        "dense_rank()",
        "sum(n)",
        "sum(d)",
        "count(*)",
        "min(n)",
        "max(d)",
        "sum(n) FILTER (WHERE n > 0)",
    ];
    const RUNNING: [&str; 6] = ["bool_or(b)", "count(DISTINCT n)", "bit_xor(n)", "sum(n)", "min(k)", "avg(d)"];
    let partition =
        random.pick::<&str>(&["", "PARTITION BY k ", "PARTITION BY b ", "PARTITION BY k, n ", "PARTITION BY n % 2 "]);
    let frame = match random.below(6) {
        0 => "ROWS BETWEEN 2 PRECEDING AND CURRENT ROW",
        1 => "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
        2 => "ROWS 1 PRECEDING",
        3 => "ROWS BETWEEN 3 PRECEDING AND 1 PRECEDING",
        _ => "",
    };
    let interval = *random.pick(&[1, 3, 10]);
    let functions = match random.below(4) {
        0 => list(
            random,
            &PEERS,
            &format!("({partition}ORDER BY ts RANGE BETWEEN INTERVAL '{interval}' SECOND PRECEDING AND CURRENT ROW)"),
        ),
        1 => list(random, &PEERS, &format!("({partition}ORDER BY ts)")),
        2 => list(random, &RUNNING, &format!("({partition}ORDER BY ts, {TOTAL})")),
        _ => list(random, &ANY, &format!("({partition}ORDER BY ts, {TOTAL} {frame})")),
    };
    let p = random.pick(&PREDICATES);
    let sql = match random.below(4) {
        0 => format!("SELECT {COLUMNS}, {functions} FROM (SELECT {COLUMNS}, x FROM t WHERE {p})"),
        // The rows that come out are in event time themselves.
        1 => format!(
            "SELECT window_end, count(*) AS c, count(f0) AS f, min(d) AS m FROM (SELECT window_end, d, f0 FROM \
             TUMBLE((SELECT {COLUMNS}, {functions} FROM t), ts, INTERVAL '5' SECOND)) GROUP BY window_end"
        ),
        _ => format!("SELECT {COLUMNS}, {functions} FROM t"),
    };
    exact(sql, Late::Instant)
}

/// The best rows of each key, over rows and over a changelog.
pub fn top_n(random: &mut Random) -> Query {
    let n = *random.pick(&[1, 1, 2, 5]);
    let down = random.pick::<&str>(&["", " DESC"]);
    let (rows, columns, by, keys): (String, &str, String, [&str; 3]) = match random.below(3) {
        0 => {
            let counted = "(SELECT k, n, count(*) AS c, max(d) AS m FROM t GROUP BY k, n)".to_string();
            (counted, "k, n, c, m", format!("c{down}, m, k, n"), ["k", "n", "k IS NULL"])
        }
        1 => {
            let p = random.pick(&PREDICATES);
            (
                format!("(SELECT {COLUMNS}, x FROM t WHERE {p})"),
                COLUMNS,
                format!("n{down}, {TOTAL}"),
                ["k", "b", "d > 0"],
            )
        }
        _ => ("t".to_string(), COLUMNS, format!("ts{down}, {TOTAL}"), ["k", "n", "n, b"]),
    };
    let key = random.pick::<&str>(&keys);
    let first = by.split(", ").next().unwrap_or_default().to_string();
    let sql = match random.below(6) {
        0 => format!("SELECT {columns} FROM {rows} ORDER BY {by} LIMIT {n} OFFSET {}", random.below(3)),
        1 => format!("SELECT DISTINCT ON ({key}) {columns} FROM {rows} ORDER BY {key}, {by}"),
        2 => {
            let rank = random.pick::<&str>(&["rank", "dense_rank"]);
            format!(
                "SELECT * FROM (SELECT {columns}, {rank}() OVER (PARTITION BY {key} ORDER BY {first}) AS r FROM {rows}) WHERE r <= {n}"
            )
        }
        kind => {
            let filter = match random.below(4) {
                0 => format!("r = {n}"),
                1 => format!("r < {}", n + 1),
                2 => format!("r BETWEEN 2 AND {}", n + 1),
                _ => format!("r <= {n}"),
            };
            let partition = if random.one_in(5) { String::new() } else { format!("PARTITION BY {key} ") };
            let select = if kind == 3 { columns } else { "*" };
            format!(
                "SELECT {select} FROM (SELECT {columns}, row_number() OVER ({partition}ORDER BY {by}) AS r FROM {rows}) WHERE {filter}"
            )
        }
    };
    exact(sql, Late::Never)
}

/// Window functions that are answered anew as their partitions change.
pub fn maintained(random: &mut Random) -> Query {
    const ANY: [&str; 9] = [
        "row_number()",
        "lead(n)",
        "lag(n)",
        "ntile(2)",
        "percent_rank()",
        "first_value(n)",
        "last_value(n)",
        "sum(n)",
        "count(*)",
    ];
    let frame = random.pick::<&str>(&[
        "",
        "ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING",
        "ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING",
        "ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING",
    ]);
    let changelog = random.one_in(2);
    let (rows, columns, by) = match changelog {
        true => ("(SELECT k, n, count(*) AS c FROM t GROUP BY k, n)", "k, n, c", "c, n, k"),
        false => ("t", COLUMNS, TOTAL),
    };
    let functions = match random.below(3) {
        0 => "count(*) OVER (PARTITION BY k) AS f0, max(n) OVER (PARTITION BY k) AS f1".to_string(),
        _ => list(random, &ANY, &format!("(PARTITION BY k ORDER BY {by} {frame})")),
    };
    let sql = format!("SELECT {columns}, {functions} FROM {rows}");
    exact(sql, Late::Never)
}

/// Rankings inside of windows, answered once.
pub fn in_windows(random: &mut Random) -> Query {
    let window = Window::random(random);
    let table = window.sql("t", random.one_in(2));
    let key = random.pick::<&str>(&["", ", k", ", n"]);
    let of_results = format!(
        "(SELECT window_start, window_end, k, n, count(*) AS c, sum(n) AS s FROM {table} GROUP BY window_start, window_end, k, n)"
    );
    let (rows, columns, by) = match random.below(2) {
        0 => (of_results, "k, n, c, s", "c DESC, k, n, s"),
        _ => (table, COLUMNS, TOTAL),
    };
    let over = format!("(PARTITION BY window_start, window_end{key} ORDER BY {by})");
    let sql = match random.below(3) {
        0 => format!(
            "SELECT window_start, window_end, {columns}, lead(n) OVER {over} AS f, sum(n) OVER {over} AS s1 FROM {rows}"
        ),
        _ => format!(
            "SELECT * FROM (SELECT window_start, window_end, {columns}, row_number() OVER {over} AS r FROM {rows}) WHERE r <= {}",
            1 + random.below(3)
        ),
    };
    exact(sql, Late::Window(window))
}

/// Rows without those that repeat an earlier one.
pub fn dedup(random: &mut Random) -> Query {
    let keys = random.pick::<&str>(&["k", "n", "n, b", "k, n", "b"]);
    let seconds = *random.pick(&[0, 1, 5, 60]);
    let p = random.pick(&PREDICATES);
    let once = format!(
        "DEDUP((SELECT {COLUMNS} FROM t WHERE {p}), DESCRIPTOR({keys}), DESCRIPTOR(ts), INTERVAL '{seconds}' SECOND)"
    );
    let sql = match random.below(3) {
        0 => format!("SELECT k, d FROM {once}"),
        1 => format!(
            "SELECT window_end, count(*) AS c, sum(n) AS s FROM TUMBLE((SELECT * FROM {once}), ts, INTERVAL '5' SECOND) GROUP BY window_end"
        ),
        _ => format!("SELECT * FROM {once} WHERE n > 0"),
    };
    exact(sql, Late::Instant)
}
