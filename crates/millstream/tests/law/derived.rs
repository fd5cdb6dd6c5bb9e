//! Generated queries of several layers: aggregates, rankings and set operations over joins, and joins over those.

use super::{KINDS, condition, plain, side, table};
use crate::queries::Query;
use crate::yardstick::Random;

/// The columns of a joined row, all of them: an order by them leaves nothing open.
const COLUMNS: &str = "a.k, a.n, a.d, a.ts, b.k AS k2, b.n AS n2, b.d AS d2, b.ts AS ts2";
const TOTAL: &str = "n, n2, k, k2, d, d2, ts, ts2";

fn joined(random: &mut Random) -> String {
    let other = table(random);
    let (a, b, kind) = (side(random, "t"), side(random, other), *random.pick(&KINDS));
    format!("SELECT {COLUMNS} FROM {a} a {kind} {b} b ON {}", condition(random))
}

/// An aggregate over a join: rows of it go again, where the join is an outer one or a side changes.
pub fn aggregate(random: &mut Random) -> Query {
    let functions = [
        "count(*)",
        "count(n2)",
        "sum(n)",
        "sum(d2)",
        "min(n2)",
        "max(k2)",
        "min(ts2)",
        "count(DISTINCT k2)",
        "sum(DISTINCT n2)",
        "count(*) FILTER (WHERE n2 > 0)",
        "string_agg(k2, ',' ORDER BY k2)",
    ];
    let list: Vec<String> = (0..1 + random.below(3)).map(|i| format!("{} AS a{i}", random.pick(&functions))).collect();
    let (list, from) = (list.join(", "), joined(random));
    let having = random.pick::<&str>(&["", "", " HAVING count(*) > 2", " HAVING max(n2) IS NULL"]);
    plain(match random.below(4) {
        0 => format!("SELECT {list} FROM ({from}){having}"),
        1 => format!("SELECT DISTINCT k, n2 FROM ({from})"),
        _ => {
            let keys = random.pick(&["k", "n", "k2", "k, n2", "n2 IS NULL"]);
            format!("SELECT {keys}, {list} FROM ({from}) GROUP BY {keys}{having}")
        }
    })
}

/// The best rows of a join.
pub fn top_n(random: &mut Random) -> Query {
    let from = joined(random);
    let (n, down) = (1 + random.below(3), random.pick::<&str>(&["", " DESC"]));
    let by = format!("ts{down}, {TOTAL}");
    let key = random.pick(&["k", "n", "k2", "k, n2"]);
    plain(match random.below(4) {
        0 => format!("SELECT * FROM ({from}) ORDER BY {by} LIMIT {n} OFFSET {}", random.below(2)),
        1 => format!("SELECT DISTINCT ON ({key}) * FROM ({from}) ORDER BY {key}, {by}"),
        2 => format!(
            "SELECT k, n, lag(n2) OVER w AS f0, sum(n) OVER w AS f1 FROM ({from}) WINDOW w AS (PARTITION BY {key} ORDER BY {TOTAL})"
        ),
        _ => format!(
            "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY {key} ORDER BY {by}) AS r FROM ({from})) WHERE r <= {n}"
        ),
    })
}

/// Rows with the columns `k`, `n`, `b` and `ts` that come and go for reasons of their own.
fn layer(random: &mut Random) -> String {
    let of = table(random);
    let total = "n, d, k, b, ts";
    match random.below(5) {
        0 => format!(
            "(SELECT k, n, b, ts FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY ts DESC, {total}) AS r FROM {of}) WHERE r <= 2)"
        ),
        1 => format!("(SELECT DISTINCT ON (k, n) k, n, b, ts FROM {of} ORDER BY k, n, ts, {total})"),
        2 => {
            let op = random.pick(&["UNION", "INTERSECT", "EXCEPT", "UNION ALL", "EXCEPT ALL"]);
            format!("(SELECT k, n, b, ts FROM t WHERE n > -2 {op} SELECT k, n, b, ts FROM {of} WHERE b)")
        }
        3 => format!("(SELECT k, b, max(n) AS n, max(ts) AS ts FROM {of} GROUP BY k, b)"),
        _ => {
            let kind = random.pick(&KINDS);
            format!("(SELECT x.k, y.n, x.b, y.ts FROM t x {kind} {of} y ON x.k = y.k AND x.n < y.n)")
        }
    }
}

/// A join, of any kind, of such rows.
pub fn join(random: &mut Random) -> Query {
    let a = if random.one_in(3) { "t".to_string() } else { layer(random) };
    let b = layer(random);
    let on = random.pick::<&str>(&["a.k = b.k", "a.n = b.n", "a.k = b.k AND a.n < b.n", "a.ts = b.ts"]);
    let not = if random.one_in(2) { "NOT " } else { "" };
    plain(match random.below(6) {
        0 => format!("SELECT a.k, a.n FROM {a} a WHERE {not}EXISTS (SELECT 1 FROM {b} b WHERE {on})"),
        1 => format!("SELECT a.k, a.n FROM {a} a WHERE a.n {not}IN (SELECT n FROM {b} b)"),
        2 => format!("SELECT a.k, a.n FROM {a} a WHERE a.n >= (SELECT avg(b.n) FROM {b} b)"),
        _ => {
            let kind = random.pick(&KINDS);
            format!("SELECT a.k, a.n, b.k AS k2, b.n AS n2 FROM {a} a {kind} {b} b ON {on}")
        }
    })
}

/// Joins as operands of set operations.
pub fn sets(random: &mut Random) -> Query {
    let op = random.pick(&["UNION", "UNION ALL", "INTERSECT", "INTERSECT ALL", "EXCEPT", "EXCEPT ALL"]);
    let (left, right) = (joined(random), table(random));
    plain(match random.below(2) {
        0 => format!("SELECT k, n2 FROM ({left}) {op} SELECT k, n FROM {right}"),
        _ => format!("SELECT k, n FROM {right} {op} SELECT k2, n FROM ({left})"),
    })
}

/// Semi and anti joins that are written as joins.
pub fn semi(random: &mut Random) -> Query {
    let other = table(random);
    let (a, b, on) = (side(random, "t"), side(random, other), condition(random));
    let (which, of) = *random.pick(&[("LEFT", "a"), ("RIGHT", "b")]);
    let kind = random.pick(&["SEMI", "ANTI"]);
    plain(format!("SELECT {of}.k, {of}.n, {of}.ts FROM {a} a {which} {kind} JOIN {b} b ON {on}"))
}
