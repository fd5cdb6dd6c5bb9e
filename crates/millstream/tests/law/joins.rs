//! Generated joins: of every kind, over rows and over results that change, with and without time.

#[path = "derived.rs"]
mod derived;

use crate::queries::{Late, Query, ROWS, Window};
use crate::yardstick::Random;

const KINDS: [&str; 4] = ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"];

/// Equalities of a row of `a` and one of `b`; the last ones compare what is hard to compare.
const KEYS: [&str; 7] = [
    "a.k = b.k",
    "a.n = b.n",
    "a.k = b.k AND a.b = b.b",
    "a.n = b.n + 1",
    "a.x = b.x",
    "a.d = b.d",
    "a.k = upper(b.k)",
];

/// Conditions beside them.
const RESIDUALS: [&str; 6] =
    ["a.n < b.n", "a.ts <= b.ts", "a.n + b.n > 0 OR a.b", "a.n > 0", "b.n > 0", "a.k <> b.k OR a.n IS NULL"];

/// Rows of a table, as one side of a join.
const SIDES: [&str; 3] = ["{}", "(SELECT * FROM {} WHERE n > -2)", "(SELECT * FROM {} WHERE b OR k = 'a')"];

pub fn random(random: &mut Random) -> Query {
    any(random).with_kinds(random)
}

fn any(random: &mut Random) -> Query {
    match random.below(22) {
        0..3 => rows(random),
        3 => with_aggregate(random),
        4 => exists(random),
        5 => membership(random),
        6 => scalar(random),
        7 => three(random),
        8 => windows(random),
        9 => set_operation(random),
        10 => constants(random),
        11..13 => derived::aggregate(random),
        13..15 => derived::top_n(random),
        15..18 => derived::join(random),
        18 => derived::sets(random),
        19 => derived::semi(random),
        _ => interval(random),
    }
}

fn plain(sql: String) -> Query {
    Query { sql, tables: 2, late: Late::Never, rounding: false, kinds: ROWS }
}

/// The other table, or the same once more.
fn table(random: &mut Random) -> &'static str {
    if random.one_in(3) { "t" } else { "u" }
}

fn side(random: &mut Random, table: &str) -> String {
    random.pick(&SIDES).replace("{}", table)
}

fn condition(random: &mut Random) -> String {
    let key = *random.pick(&KEYS);
    match random.below(5) {
        0 => format!("{key} AND ({})", random.pick(&RESIDUALS)),
        1 => format!("{key} AND ({}) AND ({})", random.pick(&RESIDUALS), random.pick(&RESIDUALS)),
        2 if random.one_in(2) => random.pick(&RESIDUALS).to_string(),
        3 if random.one_in(3) => "a.k IS NOT DISTINCT FROM b.k".to_string(),
        _ => key.to_string(),
    }
}

fn rows(random: &mut Random) -> Query {
    let other = table(random);
    let (a, b, kind) = (side(random, "t"), side(random, other), *random.pick(&KINDS));
    let on = condition(random);
    let filter = random.pick::<&str>(&["", "", " WHERE a.n IS NOT NULL", " WHERE b.k IS NULL"]);
    let list = random.pick::<&str>(&[
        "a.k, a.n, b.k AS k2, b.n AS n2",
        "a.x, b.x AS x2, a.ts",
        "b.d, b.ts",
        "coalesce(a.n, b.n) AS n",
    ]);
    plain(format!("SELECT {list} FROM {a} a {kind} {b} b ON {on}{filter}"))
}

/// Results that change, on one side or on both.
fn with_aggregate(random: &mut Random) -> Query {
    let other = table(random);
    let kind = *random.pick(&KINDS);
    let counts = |table: &str| format!("(SELECT k, count(*) AS c, sum(n) AS s, max(ts) AS m FROM {table} GROUP BY k)");
    let counted = counts(other);
    match random.below(5) {
        0 => plain(format!("SELECT a.k, a.n, b.c FROM t a {kind} {counted} b ON a.k = b.k")),
        1 => plain(format!("SELECT a.k, a.c, b.n FROM {} a {kind} {other} b ON a.k = b.k AND a.s < b.n", counts("t"))),
        2 => plain(format!("SELECT a.k, a.c, b.c AS c2 FROM {} a {kind} {counted} b ON a.k = b.k", counts("t"))),
        3 => plain(format!(
            "SELECT a.k, b.k AS k2, a.c FROM {} a {kind} {counted} b ON a.c = b.c AND a.k <> b.k",
            counts("t")
        )),
        _ => plain(format!("SELECT a.k, b.c FROM (SELECT DISTINCT k FROM t) a {kind} {counted} b ON a.k = b.k")),
    }
}

fn exists(random: &mut Random) -> Query {
    let other = table(random);
    let (a, b, on) = (side(random, "t"), side(random, other), condition(random));
    let not = if random.one_in(2) { "NOT " } else { "" };
    match random.below(4) {
        0 => plain(format!("SELECT k, n FROM {a} a WHERE n > 1 OR {not}EXISTS (SELECT 1 FROM {b} b WHERE {on})")),
        1 => {
            let counted = format!("(SELECT k, n, count(*) AS c FROM {other} GROUP BY k, n)");
            plain(format!(
                "SELECT a.k, a.n FROM {a} a WHERE {not}EXISTS (SELECT 1 FROM {counted} b WHERE a.k = b.k AND b.c > 2)"
            ))
        }
        _ => plain(format!("SELECT k, n, ts FROM {a} a WHERE {not}EXISTS (SELECT 1 FROM {b} b WHERE {on})")),
    }
}

fn membership(random: &mut Random) -> Query {
    let other = table(random);
    let not = if random.one_in(2) { "NOT " } else { "" };
    let list = match random.below(5) {
        0 => format!("SELECT n FROM {other} WHERE n > 1"),
        1 => format!("SELECT n FROM {other} WHERE n IS NOT NULL AND k = 'a'"),
        2 => format!("SELECT max(n) FROM {other} GROUP BY k"),
        3 => format!("SELECT n FROM {other} WHERE k = 'none'"),
        _ => format!("SELECT n FROM {other} WHERE b"),
    };
    let (a, of) = (side(random, "t"), side(random, other));
    plain(match random.below(5) {
        0 => format!("SELECT k, n, n {not}IN ({list}) AS there FROM {a} a"),
        1 => format!("SELECT k, n FROM {a} a WHERE (a.k, a.n) {not}IN (SELECT k, n FROM {of} b)"),
        2 => format!("SELECT k, n, {not}EXISTS (SELECT 1 FROM {of} b WHERE b.k = a.k AND b.n > 0) AS there FROM {a} a"),
        _ => format!("SELECT k, n FROM {a} a WHERE n {not}IN ({list})"),
    })
}

fn scalar(random: &mut Random) -> Query {
    let other = table(random);
    match random.below(5) {
        0 => plain(format!("SELECT k, n FROM t WHERE n > (SELECT min(n) FROM {other} WHERE b)")),
        1 => plain(format!("SELECT k, (SELECT count(*) FROM {other} WHERE n > 1) AS c FROM t WHERE n = 2")),
        2 => plain(format!("SELECT a.k, a.n, (SELECT max(b.n) FROM {other} b WHERE b.k = a.k) AS m FROM t a")),
        3 => plain(format!("SELECT a.k, (SELECT count(*) FROM {other} b WHERE b.k = a.k AND b.n > 0) AS c FROM t a")),
        _ => plain(format!("SELECT a.k, a.n FROM t a WHERE a.n = (SELECT max(b.n) FROM {other} b WHERE b.k = a.k)")),
    }
}

fn three(random: &mut Random) -> Query {
    let (first, second) = (*random.pick(&KINDS), *random.pick(&KINDS));
    match random.below(3) {
        0 => plain("SELECT a.k, b.n, c.d FROM t a, u b, t c WHERE a.k = b.k AND b.n = c.n AND a.b AND c.b".to_string()),
        1 => plain(format!(
            "SELECT a.k, b.n, c.m FROM t a {first} (SELECT * FROM u WHERE b) b ON a.k = b.k AND a.n = b.n {second} (SELECT k, max(n) AS m FROM t GROUP BY k) c ON b.k = c.k"
        )),
        _ => plain("SELECT a.k, a.n, b.n AS n2 FROM (SELECT * FROM t WHERE n = 1) a CROSS JOIN (SELECT * FROM u WHERE n = 2) b".to_string()),
    }
}

fn set_operation(random: &mut Random) -> Query {
    let (op, other) = (*random.pick(&["INTERSECT", "EXCEPT"]), table(random));
    plain(format!("SELECT k, n FROM t {op} SELECT k, n FROM {other} WHERE n <> 1"))
}

/// Constants come once, however many batches there are.
fn constants(random: &mut Random) -> Query {
    let kind = *random.pick(&KINDS);
    match random.below(3) {
        0 => plain(format!("SELECT a.k, a.n, v.x FROM t a {kind} (VALUES (1), (2), (9)) AS v(x) ON a.n = v.x")),
        1 => plain("SELECT k, n FROM t WHERE n > 1 UNION ALL SELECT 'constant', 7".to_string()),
        _ => plain("SELECT k, n FROM t WHERE n IN (SELECT max(x) FROM (VALUES (1), (2)) AS v(x))".to_string()),
    }
}

fn windows(random: &mut Random) -> Query {
    let window = Window::random(random);
    let kind = *random.pick(&KINDS);
    let (a, b) = (window.sql("t", true), window.sql("u", true));
    let bounds = "a.window_start = b.window_start AND a.window_end = b.window_end";
    let count = |t: &str| {
        format!("(SELECT k, window_start, window_end, count(*) AS c FROM {t} GROUP BY k, window_start, window_end)")
    };
    let sql = match random.below(5) {
        0 => format!("SELECT a.k, a.n, b.n AS n2, a.window_end FROM {a} a {kind} {b} b ON a.k = b.k AND {bounds}"),
        1 => format!("SELECT a.k, a.n, b.n AS n2 FROM {a} a {kind} {b} b ON a.k = b.k AND {bounds} AND a.n < b.n"),
        2 => {
            let not = if random.one_in(2) { "NOT " } else { "" };
            format!("SELECT a.k, a.n FROM {a} a WHERE {not}EXISTS (SELECT 1 FROM {b} b WHERE a.k = b.k AND {bounds})")
        }
        3 => format!(
            "SELECT a.window_start, a.window_end, count(*) AS c FROM {a} a JOIN {b} b ON a.k = b.k AND {bounds} GROUP BY a.window_start, a.window_end"
        ),
        _ => format!(
            "SELECT a.k, a.c, b.c AS c2, a.window_end FROM {} a {kind} {} b ON a.k = b.k AND {bounds}",
            count(&a),
            count(&b)
        ),
    };
    Query { sql, tables: 2, late: Late::Window(window), rounding: false, kinds: ROWS }
}

fn interval(random: &mut Random) -> Query {
    let kind = *random.pick(&KINDS);
    let (a, b) = (side(random, "t"), side(random, "u"));
    let second = |random: &mut Random| format!("INTERVAL '{}' SECOND", random.pick(&[0, 1, 3, 10]));
    let (low, high) = (second(random), second(random));
    let own_end = random.one_in(5);
    let a = match own_end {
        // A bound that is a column.
        true => format!("(SELECT *, CASE WHEN b THEN ts + INTERVAL '4' SECOND ELSE ts + {high} END AS e FROM {a})"),
        false => a,
    };
    let within = match random.below(4) {
        _ if own_end => "b.ts BETWEEN a.ts AND a.e".to_string(),
        0 => format!("b.ts BETWEEN a.ts AND a.ts + {high}"),
        1 => format!("b.ts BETWEEN a.ts - {low} AND a.ts + {high}"),
        2 => format!("a.ts - {low} < b.ts AND b.ts - {high} < a.ts"),
        _ => "b.ts >= a.ts AND b.ts <= a.ts + INTERVAL '2' SECOND".to_string(),
    };
    let on = match random.below(4) {
        0 => within.clone(),
        1 => format!("a.k = b.k AND a.n <= b.n AND {within}"),
        _ => format!("a.k = b.k AND {within}"),
    };
    let sql = match random.below(6) {
        0 => {
            let not = if random.one_in(2) { "NOT " } else { "" };
            format!("SELECT a.k, a.n, a.ts FROM {a} a WHERE {not}EXISTS (SELECT 1 FROM {b} b WHERE {on})")
        }
        1 => format!(
            "SELECT k, window_start, window_end, count(*) AS c FROM {} GROUP BY k, window_start, window_end",
            Window::Tumble(5_000).sql("j", true)
        ),
        _ => format!("SELECT a.k, a.n, b.n AS n2, a.ts, b.ts AS ts2 FROM {a} a {kind} {b} b ON {on}"),
    };
    let sql = if sql.contains("(j,") || sql.contains("TABLE j") {
        format!("WITH j AS (SELECT a.k, a.ts, b.n FROM {a} a JOIN {b} b ON {on}) {sql}")
    } else {
        sql
    };
    Query { sql, tables: 2, late: Late::OwnTime, rounding: false, kinds: ROWS }
}
