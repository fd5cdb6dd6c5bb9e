//! Generated queries, of every kind that a stream answers.

use crate::random::Random;

/// A query over the table `t` and, for a union, `u`.
#[derive(Clone, Debug)]
pub struct Query {
    pub sql: String,
    /// The window whose close makes a row late: start of the first window's end is computed by the model.
    pub window: Option<Window>,
    /// Float sums compare to rounding.
    pub rounding: bool,
}

/// A window in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Window {
    Tumble(i64),
    Hop(i64, i64),
    Cumulate(i64, i64),
}

impl Window {
    fn random(random: &mut Random) -> Self {
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

    fn sql(self, table: &str, short: bool) -> String {
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
        match random.below(9) {
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
        Self { sql, window: None, rounding: false }
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
        Self { sql, window: None, rounding }
    }

    fn global(random: &mut Random) -> Self {
        let (list, rounding) = Self::aggregates(random);
        let p = random.pick(&PREDICATES);
        Self { sql: format!("SELECT {list} FROM t WHERE {p}"), window: None, rounding }
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
        Self { sql, window: Some(window), rounding }
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
        Self { sql, window: Some(window), rounding: false }
    }
}
