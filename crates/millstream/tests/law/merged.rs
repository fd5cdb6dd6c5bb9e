//! Generated joins that merge columns: USING and NATURAL, each beside the join that it stands for.

use crate::queries::{Late, Query, ROWS};
use crate::yardstick::Random;

const KINDS: [&str; 4] = ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"];

/// Rows that share a few columns with those of [`RIGHTS`], and have some of their own.
const LEFTS: [&str; 3] = [
    "(SELECT k, n, b AS p, ts AS s FROM t)",
    "(SELECT k, n, b AS p, ts AS s FROM t WHERE b OR n > 0)",
    "(SELECT k, count(*) AS n, bool_or(b) AS p, max(ts) AS s FROM t GROUP BY k)",
];

const RIGHTS: [&str; 3] = [
    "(SELECT n, k, d FROM {})",
    "(SELECT n, k, d FROM {} WHERE k <> '' OR k IS NULL)",
    "(SELECT n, max(k) AS k, sum(d) AS d FROM {} GROUP BY n)",
];

/// What is asked of a join, and the same where the merged columns are written out.
const LISTS: [(&str, &str); 5] = [
    ("*", "{*}, a.p, a.s, b.d"),
    ("k, a.k AS ak, b.k AS bk, p, d", "{k}, a.k AS ak, b.k AS bk, a.p, b.d"),
    ("coalesce(k, 'none') AS c, a.n + b.n AS m, s", "coalesce({k}, 'none') AS c, a.n + b.n AS m, a.s"),
    ("a.*, d", "a.k, a.n, a.p, a.s, b.d"),
    ("b.*, k AS kk", "b.n, b.k, b.d, {k} AS kk"),
];

/// A query, and the same without a merged column.
pub fn pair(random: &mut Random) -> (Query, String) {
    let other = if random.one_in(3) { "t" } else { "u" };
    let kind = *random.pick(&KINDS);
    let (a, b) = (*random.pick(&LEFTS), random.pick(&RIGHTS).replace("{}", other));
    let both = random.one_in(2);
    let on = if both { "a.k = b.k AND a.n = b.n" } else { "a.k = b.k" };
    let merged = match (both, random.one_in(2)) {
        (true, true) => format!("{a} a NATURAL {kind} {b} b"),
        (true, false) => format!("{a} a {kind} {b} b USING (k, n)"),
        (false, _) => format!("{a} a {kind} {b} b USING (k)"),
    };
    let spelled = format!("{a} a {kind} {b} b ON {on}");
    let (k, n) = ("coalesce(a.k, b.k)", "coalesce(a.n, b.n)");
    let all = if both { format!("{k} AS k, {n} AS n") } else { format!("{k} AS k, a.n, b.n AS n2") };
    let third = "(SELECT k, x FROM t WHERE n = 1)";
    let (sql, plain) = match random.below(6) {
        0 => (
            format!("SELECT k, count(*) AS c, count(d) AS e FROM {merged} GROUP BY k"),
            format!("SELECT {k} AS k, count(*) AS c, count(b.d) AS e FROM {spelled} GROUP BY {k}"),
        ),
        1 => (
            format!("SELECT k, p, d FROM {merged} WHERE k IS NULL OR k <> 'a'"),
            format!("SELECT {k} AS k, a.p, b.d FROM {spelled} WHERE {k} IS NULL OR {k} <> 'a'"),
        ),
        // What is merged is merged once more.
        2 => {
            let kind = *random.pick(&KINDS);
            (
                format!("SELECT k, p, d, x FROM {merged} {kind} {third} c USING (k)"),
                format!("SELECT coalesce({k}, c.k) AS k, a.p, b.d, c.x FROM {spelled} {kind} {third} c ON {k} = c.k"),
            )
        }
        _ => {
            // Without a number of its own on each side, `*` has one name twice.
            let (list, plain) = match random.pick(&LISTS) {
                ("*", _) if !both => &LISTS[1],
                list => list,
            };
            let plain = plain.replace("{*}", &all).replace("{k}", k);
            (format!("SELECT {list} FROM {merged}"), format!("SELECT {plain} FROM {spelled}"))
        }
    };
    (Query { sql, tables: 2, late: Late::Never, rounding: false, kinds: ROWS }, plain)
}

pub fn random(random: &mut Random) -> Query {
    pair(random).0
}
