//! Generated queries, of every kind that a stream answers.

#[path = "ranking.rs"]
mod ranking;

use crate::data::Kind;
use crate::yardstick::Random;

/// A query over the table `t` and, where there are two, `u`.
#[derive(Clone, Debug)]
pub struct Query {
    pub sql: String,
    /// How many tables it has rows of.
    pub tables: usize,
    /// When a row is late.
    pub late: Late,
    /// Float sums compare to rounding.
    pub rounding: bool,
    /// How the rows of `t` and `u` come and go.
    pub kinds: [Kind; 2],
}

/// When a row is late.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Late {
    Never,
    /// When its first window has closed.
    Window(Window),
    /// When the watermark has passed its own time.
    OwnTime,
    /// When the watermark has reached it.
    Instant,
}

/// A window in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Window {
    Tumble(i64),
    Hop(i64, i64),
    Cumulate(i64, i64),
}

impl Window {
    pub fn random(random: &mut Random) -> Self {
        match random.below(3) {
            0 => Self::Tumble(*random.pick(&[1_000, 5_000, 10_000])),
            1 => {
                let (slide, size) = *random.pick(&[(2_000, 10_000), (1_000, 3_000), (4_000, 10_000), (5_000, 5_000)]);
                Self::Hop(slide, size)
            }
            _ => {
                let (step, size) = *random.pick(&[(2_000, 10_000), (5_000, 15_000)]);
                Self::Cumulate(step, size)
            }
        }
    }

    /// The end of the earliest window that a row of this time is in: written for itself, not shared with the engine.
    pub fn first_end(self, ts_ms: i64) -> i64 {
        let mut end = ts_ms + 1;
        // The earliest end of a window [end - size, end) that holds the row.
        loop {
            let holds = match self {
                Self::Tumble(size) => end.rem_euclid(size) == 0,
                Self::Hop(slide, size) => (end - size).rem_euclid(slide) == 0,
                Self::Cumulate(step, _) => end.rem_euclid(step) == 0,
            };
            if holds {
                return end;
            }
            end += 1;
        }
    }

    pub fn sql(self, table: &str, short: bool) -> String {
        let seconds = |ms: i64| format!("INTERVAL '{}' SECOND", ms / 1000);
        let (name, args) = match self {
            Self::Tumble(size) => ("TUMBLE", seconds(size)),
            Self::Hop(slide, size) => ("HOP", format!("{}, {}", seconds(slide), seconds(size))),
            Self::Cumulate(step, size) => ("CUMULATE", format!("{}, {}", seconds(step), seconds(size))),
        };
        match short {
            true => format!("{name}({table}, ts, {args})"),
            false => format!("TABLE({name}(TABLE {table}, DESCRIPTOR(ts), {args}))"),
        }
    }
}

/// Tables that only grow.
pub const ROWS: [Kind; 2] = [Kind::Rows; 2];

const EXACT: [&str; 24] = [
    "count(*)",
    "count(n)",
    "sum(n)",
    "sum(d)",
    "avg(d)",
    "min(k)",
    "max(k)",
    "min(n)",
    // DataFusion's grouped max is no order on NaN: its own answer follows the order of the rows.
    "max(CASE WHEN isnan(x) THEN NULL ELSE x END)",
    "min(ts)",
    "max(d)",
    "bool_and(b)",
    "bool_or(b)",
    "count(DISTINCT k)",
    "count(DISTINCT n)",
    "sum(DISTINCT n)",
    "bit_and(n)",
    "bit_xor(n)",
    "count(*) FILTER (WHERE n > 0)",
    "sum(n) FILTER (WHERE b)",
    "array_agg(n ORDER BY n, ts)",
    "string_agg(k, ',' ORDER BY k)",
    "median(n)",
    "count(DISTINCT k) FILTER (WHERE n > 0)",
];

const ROUNDED: [&str; 5] = ["avg(n)", "stddev(n)", "var_pop(n)", "corr(n, n)", "sum(n * 0.1)"];

const SCALARS: [&str; 8] = [
    "upper(k)",
    "coalesce(n, 0) + 1",
    "abs(n)",
    "k || '!'",
    "date_trunc('second', ts)",
    "x * 2",
    "round(d)",
    "b IS NULL",
];

const PREDICATES: [&str; 6] = ["n > 0", "k <> ''", "x IS NOT NULL", "n % 2 = 0 OR b", "k LIKE 'a%'", "TRUE"];

impl Query {
    pub fn random(random: &mut Random) -> Self {
        Self::any(random).with_kinds(random)
    }

    /// Where time has no part in it, the tables may change.
    pub fn with_kinds(mut self, random: &mut Random) -> Self {
        if self.late == Late::Never && random.one_in(3) {
            self.kinds = [(); 2].map(|()| *random.pick(&[Kind::Rows, Kind::Changes, Kind::Changes, Kind::Upserts]));
        }
        self
    }

    fn any(random: &mut Random) -> Self {
        match random.below(28) {
            9 | 26 | 27 => ranking::over(random),
            10 | 11 => ranking::top_n(random),
            12 => ranking::maintained(random),
            13 => ranking::in_windows(random),
            14 => ranking::dedup(random),
            15..17 => Self::over_changelog(random),
            17 => Self::over_changes_of_windows(random),
            18 => Self::sets(random),
            19 => Self::sets_of_windows(random),
            20 => Self::unnest_changelog(random),
            21..23 => Self::set_operation(random),
            23..26 => Self::session(random),
            0 => Self::stateless(random),
            1 => Self::unnest(random),
            2 => Self::union(random),
            3 => Self::keyed(random),
            4 => Self::global(random),
            5 => Self::window_of_window(random),
            6 => Self::changes(random),
            _ => Self::windowed(random),
        }
    }

    fn plain(sql: String) -> Self {
        Self { sql, tables: 1, late: Late::Never, rounding: false, kinds: ROWS }
    }

    fn stateless(random: &mut Random) -> Self {
        let (a, b, p) = (random.pick(&SCALARS), random.pick(&SCALARS), random.pick(&PREDICATES));
        Self::plain(format!("SELECT k, {a} AS a, {b} AS b FROM t WHERE {p}"))
    }

    fn unnest(random: &mut Random) -> Self {
        let p = random.pick(&PREDICATES);
        match random.below(2) {
            0 => Self::plain(format!("SELECT k, unnest(l) AS e FROM t WHERE {p}")),
            _ => {
                Self::plain(format!("SELECT e, count(*) AS c FROM (SELECT unnest(l) AS e FROM t WHERE {p}) GROUP BY e"))
            }
        }
    }

    fn union(random: &mut Random) -> Self {
        let p = random.pick(&PREDICATES);
        match random.below(2) {
            0 => Self::plain(format!("SELECT k, n FROM t WHERE {p} UNION ALL SELECT k, n + 1 FROM t")),
            _ => Self::plain(format!(
                "SELECT k, count(*) AS c, sum(n) AS s FROM (SELECT k, n FROM t WHERE {p} UNION ALL SELECT 'u', n FROM t) GROUP BY k"
            )),
        }
    }

    fn aggregates(random: &mut Random) -> (String, bool) {
        let mut rounding = false;
        let list: Vec<String> = (0..1 + random.below(3))
            .map(|i| {
                let rounded = random.one_in(4);
                rounding |= rounded;
                let function = if rounded { random.pick(&ROUNDED) } else { random.pick(&EXACT) };
                format!("{function} AS a{i}")
            })
            .collect();
        (list.join(", "), rounding)
    }

    fn having(random: &mut Random) -> &'static str {
        random.pick::<&str>(&["", "", " HAVING count(*) > 1", " HAVING min(n) < 2"])
    }

    fn keyed(random: &mut Random) -> Self {
        let (list, rounding) = Self::aggregates(random);
        let keys = random.pick(&["k", "n", "x", "k, b", "d", "n % 3"]);
        let (p, having) = (random.pick(&PREDICATES), Self::having(random));
        let sql = format!("SELECT {keys}, {list} FROM t WHERE {p} GROUP BY {keys}{having}");
        Self { sql, tables: 1, late: Late::Never, rounding, kinds: ROWS }
    }

    fn global(random: &mut Random) -> Self {
        let (list, rounding) = Self::aggregates(random);
        let p = random.pick(&PREDICATES);
        Self { sql: format!("SELECT {list} FROM t WHERE {p}"), tables: 1, late: Late::Never, rounding, kinds: ROWS }
    }

    fn windowed(random: &mut Random) -> Self {
        let window = Window::random(random);
        let (list, rounding) = Self::aggregates(random);
        let table = window.sql("t", random.one_in(2));
        let having = Self::having(random);
        let sql = match random.below(5) {
            0 => format!(
                "SELECT window_start, window_end, {list} FROM {table} GROUP BY window_start, window_end{having}"
            ),
            1 => format!("SELECT k, {list}, window_end FROM {table} GROUP BY window_end, k, window_start{having}"),
            2 => format!(
                "SELECT n, window_start AS s, {list} FROM {table} WHERE {} GROUP BY n, window_start, window_end, window_time{having}",
                random.pick(&PREDICATES)
            ),
            // A window column in an expression: the rows have to carry it.
            3 => format!(
                "SELECT window_start, window_end, g, {list} FROM (SELECT *, ts >= window_start + INTERVAL '1' SECOND AS g FROM {table}) GROUP BY window_start, window_end, g{having}"
            ),
            _ => format!(
                "SELECT k, n % 2 AS p, window_start, window_end, {list} FROM {table} GROUP BY k, n % 2, window_start, window_end{having}"
            ),
        };
        Self { sql, tables: 1, late: Late::Window(window), rounding, kinds: ROWS }
    }

    fn changes(random: &mut Random) -> Self {
        let query = Self::windowed(random);
        Self { sql: format!("{} EMIT CHANGES", query.sql), ..query }
    }

    fn window_of_window(random: &mut Random) -> Self {
        let window = Window::random(random);
        let inner = window.sql("t", true);
        let sql = match random.below(2) {
            0 => format!(
                "SELECT window_start, window_end, max(c) AS m, count(*) AS ks FROM (SELECT k, window_start, window_end, count(*) AS c FROM {inner} GROUP BY k, window_start, window_end) GROUP BY window_start, window_end"
            ),
            _ => format!(
                "WITH w AS (SELECT k, window_time AS ts, count(*) AS c, sum(n) AS s FROM {inner} GROUP BY k, window_start, window_end, window_time) \
                 SELECT k, window_start, window_end, sum(c) AS c, max(s) AS s FROM {} GROUP BY k, window_start, window_end",
                Window::Tumble(30_000).sql("w", true)
            ),
        };
        Self { sql, tables: 1, late: Late::Window(window), rounding: false, kinds: ROWS }
    }

    /// A table that changes, with the columns of `t`: rows of it come, change and go.
    fn changing(random: &mut Random) -> String {
        let (p, having) = (random.pick(&PREDICATES), Self::having(random));
        let keys = random.pick(&["k, b, n % 3", "n, b, k", "d, k, b", "k, b"]);
        format!(
            "(SELECT k, b, count(*) - 2 AS n, max(CASE WHEN isnan(x) THEN NULL ELSE x END) AS x, sum(d) AS d, \
             max(ts) AS ts, array_agg(DISTINCT n ORDER BY n) AS l FROM t WHERE {p} GROUP BY {keys}{having})"
        )
    }

    fn over_changelog(random: &mut Random) -> Self {
        let inner = Self::changing(random);
        let (mut list, mut rounding) = Self::aggregates(random);
        if random.one_in(3) {
            list += random.pick::<&str>(&[
                ", sum(x) AS x",
                ", avg(x) AS x",
                ", avg(n) FILTER (WHERE b) AS x",
                ", sum(DISTINCT d) AS x",
            ]);
            rounding = true;
        }
        let p = random.pick(&PREDICATES);
        let sql = match random.below(6) {
            0 => format!("SELECT {list} FROM {inner} WHERE {p}"),
            1 => format!("SELECT DISTINCT n, b FROM {inner}"),
            2 => {
                let having = Self::having(random);
                format!(
                    "SELECT c, count(*) AS n, max(m) AS m, min(m) AS l FROM (SELECT k, count(*) AS c, max(n) AS m FROM {inner} GROUP BY k{having}) GROUP BY c"
                )
            }
            _ => {
                let (keys, having) = (random.pick(&["k", "n", "b", "k, b", "n % 2"]), Self::having(random));
                format!("SELECT {keys}, {list} FROM {inner} WHERE {p} GROUP BY {keys}{having}")
            }
        };
        Self { sql, tables: 1, late: Late::Never, rounding, kinds: ROWS }
    }

    fn over_changes_of_windows(random: &mut Random) -> Self {
        let window = Window::random(random);
        let inner = format!(
            "(SELECT k, b, window_start, window_end, count(*) AS n, sum(d) AS d, min(x) FILTER (WHERE NOT isnan(x)) AS x, max(ts) AS ts \
             FROM {} GROUP BY window_end, window_start, k, b)",
            window.sql("t", true)
        );
        let (list, rounding) = Self::aggregates(random);
        let keys = random.pick(&[
            "window_start, window_end",
            "k",
            "window_end, b, window_start",
            "k, window_start, window_end",
            "n",
        ]);
        let sql = format!("SELECT {keys}, {list} FROM {inner} GROUP BY {keys}{} EMIT CHANGES", Self::having(random));
        Self { sql, tables: 1, late: Late::Window(window), rounding, kinds: ROWS }
    }

    fn sets(random: &mut Random) -> Self {
        let (list, rounding) = Self::aggregates(random);
        let p = random.pick(&PREDICATES);
        let changing = Self::changing(random);
        let table = if random.one_in(3) { changing.as_str() } else { "t" };
        let sets = random.pick(&[
            "ROLLUP (k, b)",
            "CUBE (k, b)",
            "GROUPING SETS ((k, b), (b), ())",
            "GROUPING SETS ((k), (b), (k))",
            "GROUPING SETS ((k, b), (k))",
            "b, ROLLUP (k)",
        ]);
        let sql = format!(
            "SELECT k, b, grouping(k) AS gk, grouping(b) AS gb, {list} FROM {table} WHERE {p} GROUP BY {sets}{}",
            Self::having(random)
        );
        Self { sql, tables: 1, late: Late::Never, rounding, kinds: ROWS }
    }

    fn sets_of_windows(random: &mut Random) -> Self {
        let window = Window::random(random);
        let (list, rounding) = Self::aggregates(random);
        let table = window.sql("t", random.one_in(2));
        let sets = random.pick(&[
            "window_start, window_end, ROLLUP (k, b)",
            "GROUPING SETS ((window_start, window_end, k), (window_start, window_end))",
            "GROUPING SETS ((k, window_end, window_start), (b, window_start, window_end), (window_end, window_start))",
        ]);
        let emit = random.pick(&["", " EMIT CHANGES"]);
        let b = if sets.contains('b') { "b, " } else { "" };
        let sql = format!(
            "SELECT window_end, k, {b}window_start, grouping(k) AS g, {list} FROM {table} GROUP BY {sets}{emit}"
        );
        Self { sql, tables: 1, late: Late::Window(window), rounding, kinds: ROWS }
    }

    fn unnest_changelog(random: &mut Random) -> Self {
        let inner = Self::changing(random);
        match random.below(2) {
            0 => Self::plain(format!("SELECT k, n, unnest(l) AS e FROM {inner}")),
            _ => Self::plain(format!(
                "SELECT e, count(*) AS c, max(d) AS d FROM (SELECT d, unnest(l) AS e FROM {inner}) GROUP BY e"
            )),
        }
    }

    fn set_operation(random: &mut Random) -> Self {
        let side = |random: &mut Random| {
            let p = random.pick(&PREDICATES);
            match random.below(3) {
                0 => format!("SELECT n, b FROM {} WHERE {p}", Self::changing(random)),
                _ => format!("SELECT {} AS n, b FROM t WHERE {p}", random.pick(&["n", "n % 2", "n + 1"])),
            }
        };
        let op = random.pick(&["UNION", "INTERSECT", "INTERSECT ALL", "EXCEPT", "EXCEPT ALL"]);
        let (left, right) = (side(random), side(random));
        let sql = format!("({left}) {op} ({right})");
        Self::plain(match random.below(4) {
            0 => {
                let third = side(random);
                format!("{sql} {} ({third})", random.pick(&["UNION ALL", "EXCEPT ALL", "INTERSECT", "EXCEPT"]))
            }
            1 => format!("SELECT n, count(*) AS c, max(b) AS m FROM ({sql}) AS s GROUP BY n"),
            _ => sql,
        })
    }

    fn session(random: &mut Random) -> Self {
        let gap = *random.pick(&[1_000, 3_000, 8_000]);
        let seconds = gap / 1000;
        let (list, rounding) = Self::aggregates(random);
        let by = *random.pick(&["", "k", "k, b"]);
        let table = match (by, random.below(3)) {
            ("", 0) => format!("SESSION(t, ts, INTERVAL '{seconds}' SECOND)"),
            ("", _) => format!("TABLE(SESSION(TABLE t, DESCRIPTOR(ts), INTERVAL '{seconds}' SECOND))"),
            (_, 0) => format!("SESSION(t PARTITION BY ({by}), ts, INTERVAL '{seconds}' SECOND)"),
            (_, _) => format!("TABLE(SESSION(TABLE t PARTITION BY {by}, DESCRIPTOR(ts), INTERVAL '{seconds}' SECOND))"),
        };
        let having = Self::having(random);
        let emit = random.pick(&["", "", " EMIT CHANGES"]);
        let sql = match random.below(6) {
            0 => format!(
                "SELECT k, n, window_start, window_end, window_time FROM {table} WHERE {}",
                random.pick(&PREDICATES)
            ),
            1 => format!(
                "SELECT window_end, {list}, window_start FROM {table} GROUP BY window_start, window_end{having}"
            ),
            2 => format!(
                "SELECT k, window_start, window_end, n, {list} FROM {table} GROUP BY k, n, window_start, window_end{having}"
            ),
            3 => format!(
                "SELECT k, count(*) AS sessions, max(c) AS longest FROM (SELECT k, count(*) AS c FROM {table} GROUP BY k, window_start, window_end) GROUP BY k"
            ),
            4 => format!(
                "SELECT k, b, SESSION_START(s.ts, INTERVAL '{seconds}' SECOND) AS f, {list}, SESSION_END(s.ts, INTERVAL '{seconds}' SECOND) AS e FROM t s GROUP BY k, SESSION(s.ts, INTERVAL '{seconds}' SECOND), s.b{having}"
            ),
            _ => format!(
                "SELECT k, b, {list}, window_start, window_end FROM {table} GROUP BY k, window_end, window_start, b{having}"
            ),
        };
        Self { sql: format!("{sql}{emit}"), tables: 1, late: Late::Instant, rounding, kinds: ROWS }
    }
}
