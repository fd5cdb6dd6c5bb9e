//! Engine, broker and database are killed while rows come; every answer is there exactly once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use millstream_core::disk::RealDisk;
use millstream_core::log::read_status;
use serde_json::Value;

use crate::answer::{Batch, Judged, Late};
use crate::broker::{Broker, Seen, script, unique};
use crate::data::{Rng, difference};
use crate::feed::{Feed, LOGIN_PARTITIONS, PAYMENT_PARTITIONS};
use crate::process::{Done, Millstream, Process};
use crate::services::{Postgres, mine_alone};

/// The broker and the database that this test kills: nobody else uses them.
const INSTANCE: &str = "pipeline";
const QUERIES: [&str; 7] = ["minutes", "paired", "busy", "balances", "devices", "tardy", "dead_letters"];
/// How long a run may take to decide its next batch before it is killed all the same: a service may be away.
const NO_PROGRESS: Duration = Duration::from_secs(6);
/// The exit code of an engine whose sink stayed away.
const SINK_AWAY: i32 = 7;
/// How long the last run may take to read what is left.
const CATCH_UP: Duration = Duration::from_secs(600);

/// Topics, tables and a directory of one run of the test.
struct Lab {
    dir: PathBuf,
    broker: Broker,
    postgres: Postgres,
    /// By the name in braces.
    names: BTreeMap<&'static str, String>,
}

impl Lab {
    fn new() -> Self {
        let (broker, postgres) = (Broker::start(INSTANCE), Postgres::start(INSTANCE));
        let dir = tempfile::tempdir().unwrap().keep();
        let mut names: BTreeMap<_, _> =
            ["payments", "logins", "paired", "devices", "letters"].map(|name| (name, unique(name))).into();
        let schema = unique("t").replace('-', "_");
        postgres.rows(&format!("CREATE SCHEMA {schema}"));
        for (name, partitions) in [
            ("payments", PAYMENT_PARTITIONS),
            ("logins", LOGIN_PARTITIONS),
            ("paired", 2),
            ("devices", 2),
            ("letters", 1),
        ] {
            broker.make_topic(&names[name], partitions as i32, &[]);
        }
        names.insert("schema", schema);
        names.insert("servers", broker.servers().to_string());
        names.insert("postgres", postgres.url.clone());
        let sql = names.iter().fold(include_str!("pipeline.sql").to_string(), |sql, (name, value)| {
            sql.replace(&format!("{{{name}}}"), value)
        });
        std::fs::write(dir.join("pipeline.sql"), sql).unwrap();
        Self { dir, broker, postgres, names }
    }

    fn command(&self, more: &[&str]) -> Process {
        let args = ["run", "pipeline.sql", "--state", "state", "--quiet", "--max-batch-rows", "2000"];
        Millstream::new(&self.dir, &[&args, more].concat()).spawn()
    }

    /// The batches that were decided, of all queries.
    fn intended(&self) -> u64 {
        let of = |query: &&str| {
            let status = read_status(&RealDisk, &self.dir.join("state").join(query).join("log")).ok().flatten();
            status.and_then(|status| status.last_intent).map_or(0, |intent| intent.batch.0)
        };
        QUERIES.iter().map(of).sum()
    }

    fn read(&self, topic: &str) -> Vec<Seen> {
        self.broker.read(&self.names[topic])
    }

    /// Nothing of it is needed any more.
    fn remove(self) {
        for topic in ["payments", "logins", "paired", "devices", "letters"] {
            self.broker.delete_topic(&self.names[topic]);
        }
        self.postgres.rows(&format!("SET client_min_messages = error; DROP SCHEMA {} CASCADE", self.names["schema"]));
        std::fs::remove_dir_all(&self.dir).unwrap();
    }
}

/// How far the kills have come.
#[derive(Default)]
struct Killed {
    engine: AtomicU64,
    broker: AtomicU64,
    database: AtomicU64,
    /// An engine ended by itself: there is no point in going on.
    failed: AtomicBool,
}

#[test]
fn killed_at_random_moments_with_broker_and_database_every_answer_is_there_exactly_once() {
    let kills = std::env::var("MILLSTREAM_KILLS").map_or(100, |n| n.parse::<u64>().unwrap());
    let asked = std::env::var("MILLSTREAM_SEED").ok().map(|text| text.parse().unwrap());
    let seed = asked.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
    let _alone = mine_alone("end-to-end");
    let lab = Lab::new();
    say(&format!("MILLSTREAM_SEED={seed}, {kills} kills, in {}", lab.dir.display()));
    let (begun, killed, fed_enough) = (Instant::now(), Killed::default(), AtomicBool::new(false));
    let mut rng = Rng(seed);
    let [feed_rng, broker_rng, database_rng] = [(); 3].map(|()| Rng(rng.next()));
    let fed = std::thread::scope(|scope| {
        let feed = Feed::new(&lab.broker, &lab.names["payments"], &lab.names["logins"], feed_rng);
        let feeding = scope.spawn(|| feed.until(&fed_enough));
        let killing_broker = scope.spawn(|| {
            kill_service(&killed, &killed.broker, kills, broker_rng, || {
                script(INSTANCE, &["kill"]);
                || drop(script(INSTANCE, &["start"]))
            });
        });
        let killing_database = scope.spawn(|| {
            kill_service(&killed, &killed.database, kills, database_rng, || {
                lab.postgres.kill();
                || lab.postgres.start_again()
            });
        });
        let died = kill_engine(&lab, &killed, kills, &mut rng, begun);
        killed.failed.store(died.is_some(), Ordering::Relaxed);
        let services = [killing_broker.join(), killing_database.join()];
        fed_enough.store(true, Ordering::Relaxed);
        let fed = feeding.join().unwrap();
        if let Some(died) = died {
            panic!("the engine ended by itself, in {}: {died:#?}", lab.dir.display());
        }
        services.into_iter().for_each(|done| done.unwrap());
        fed
    });
    say(&format!("the producer: {fed:?}; reading what is left after {:?}", begun.elapsed()));
    let mut last = lab.command(&["--trigger", "available-now"]);
    let until = Instant::now() + CATCH_UP;
    while !last.ended() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    last.wait().ok();
    check(&lab);
    say(&format!("{:?}: {kills} kills, all is there once", begun.elapsed()));
    lab.remove();
}

/// Test output is held back until a test ends; what takes minutes says where it is.
fn say(what: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// Kills the engine so often. `Some` where it ended by itself before.
fn kill_engine(lab: &Lab, killed: &Killed, kills: u64, rng: &mut Rng, begun: Instant) -> Option<Done> {
    for n in 1..=kills {
        let before = lab.intended();
        let mut engine = lab.command(&[]);
        let moment = rng.below(4);
        if moment == 0 {
            // While it starts and recovers.
            std::thread::sleep(Duration::from_millis(rng.below(900)));
        } else {
            let until = Instant::now() + NO_PROGRESS;
            while !engine.ended() && Instant::now() < until && lab.intended() <= before {
                // Looking reads seven logs: it must not keep the engine from its work.
                std::thread::sleep(Duration::from_millis(60));
            }
            std::thread::sleep(Duration::from_millis(rng.below(500)));
        }
        let asked = moment == 3 && rng.once_in(2);
        if asked {
            // A clean stop makes a checkpoint, and is killed in its midst.
            engine.signal("TERM");
            std::thread::sleep(Duration::from_millis(rng.below(80)));
        }
        let done = engine.kill();
        // Asked to stop while a service is away, it says that a batch could not be published yet.
        let gave_up = asked && done.code() == Some(SINK_AWAY) && done.stderr.contains("stopped while");
        if done.code().is_some_and(|code| code != 0) && !gave_up {
            return Some(done);
        }
        killed.engine.store(n, Ordering::Relaxed);
        if n % 10 == 0 || n == kills {
            let [broker, database] = [&killed.broker, &killed.database].map(|n| n.load(Ordering::Relaxed));
            let batches = lab.intended();
            say(&format!(
                "{n} kills, {broker} of the broker, {database} of the database, {batches} batches, {:?}",
                begun.elapsed()
            ));
        }
    }
    None
}

/// Kills a service a tenth as often, spread over the kills of the engine, and starts it again a moment later.
fn kill_service<S: FnOnce()>(killed: &Killed, count: &AtomicU64, kills: u64, mut rng: Rng, kill: impl Fn() -> S) {
    let share = kills.div_ceil(10);
    for n in 0..share {
        let due = (kills * n + kills / 2) / share;
        while killed.engine.load(Ordering::Relaxed) < due && !killed.failed.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        if killed.failed.load(Ordering::Relaxed) {
            return;
        }
        std::thread::sleep(Duration::from_millis(rng.below(900)));
        let start = kill();
        std::thread::sleep(Duration::from_millis(rng.below(700)));
        start();
        count.store(n + 1, Ordering::Relaxed);
    }
}

/// Everything is there once, and every account holds.
fn check(lab: &Lab) {
    let (payments, logins) = (lab.read("payments"), lab.read("logins"));
    let own = Judged::of(&payments, Late::Own);
    // An interval join answers for an instant when the watermark has passed it, DEDUP and its like when it is reached.
    let logins_own = Judged::of(&logins, Late::Passed);
    let windows = Judged::of(&payments, Late::Window(20_000));
    let logins_windows = Judged::of(&logins, Late::Window(20_000));
    let all_logins = Judged::of(&logins, Late::Never);
    let tables = [
        ("payments", &own),
        ("logins", &logins_own),
        ("payments_in_windows", &windows),
        ("logins_in_windows", &logins_windows),
        ("all_logins", &all_logins),
    ];
    let batch = Batch::new(&tables);
    let final_ms = own.frontier_ms().min(logins_own.frontier_ms());
    let once = format!(
        "once AS (SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY id ORDER BY ms) AS nth FROM payments) \
         WHERE nth = 1 AND ms < {final_ms})"
    );
    let expected = [
        (
            "minutes",
            batch.rows(&format!(
                "WITH {once} SELECT card, (ms / 10000 + slide) * 10000 AS window_end, count(*), sum(amount) \
                 FROM once CROSS JOIN (VALUES (1), (2), (3), (4), (5), (6)) AS slides(slide) GROUP BY 1, 2"
            )),
        ),
        (
            "paired",
            batch.rows(&format!(
                "WITH {once} SELECT p.id, l.id, p.card FROM once p LEFT JOIN logins l \
                 ON p.card = l.card AND l.ms BETWEEN p.ms - 5000 AND p.ms"
            )),
        ),
        (
            "busy",
            batch.rows(&format!(
                "WITH p AS (SELECT card, (ms / 20000 + 1) * 20000 AS e, count(*) AS n FROM payments_in_windows GROUP BY 1, 2), \
                 l AS (SELECT card, (ms / 20000 + 1) * 20000 AS e, count(*) AS n FROM logins_in_windows GROUP BY 1, 2) \
                 SELECT p.card, p.e, p.n, l.n FROM p JOIN l ON p.card = l.card AND p.e = l.e WHERE p.e <= {final_ms}"
            )),
        ),
        (
            "balances",
            batch.rows(&format!(
                "WITH {once} SELECT card, count(*), sum(amount) FROM once GROUP BY card HAVING count(*) % 3 <> 0"
            )),
        ),
        (
            "devices",
            batch.rows("SELECT device, count(*) FROM all_logins GROUP BY device HAVING count(*) % 2 = 0"),
        ),
        ("tardy", sorted(own.late())),
        ("dead_letters", sorted(own.rejected().iter().map(|raw| letter(raw)).collect())),
    ];
    let table =
        |columns: &str, name: &str| lab.postgres.rows(&format!("SELECT {columns} FROM {}.{name}", lab.names["schema"]));
    let end = "(extract(epoch FROM window_end) * 1000)::bigint";
    let found = [
        table(&format!("card, {end}, n, total"), "minutes"),
        sorted(lab.read("paired").iter().map(|seen| columns(seen.value(), &["payment", "login", "card"])).collect()),
        table(&format!("card, {end}, payments, logins"), "busy"),
        table("card, n, total", "balances"),
        upserted(&lab.read("devices")),
        table("substring(part from '[0-9]+$'), off, raw::json->>'id'", "tardy"),
        sorted(lab.read("letters").iter().map(|seen| letter(seen.value())).collect()),
    ];
    let mut wrong = String::new();
    for ((query, expected), found) in expected.iter().zip(&found) {
        say(&format!("{query}: {} rows, {} expected", found.len(), expected.len()));
        assert!(!expected.is_empty(), "{query} tests nothing");
        let (missing, surplus) = (difference(expected, found), difference(found, expected));
        if !missing.is_empty() || !surplus.is_empty() {
            wrong += &format!("{query}: missing:\n{missing}too many:\n{surplus}");
        }
    }
    let accounts = [
        ("minutes", "payments", own.account()),
        ("paired", "payments", own.account()),
        ("paired", "logins", logins_own.account()),
        ("busy", "payments", windows.account()),
        ("busy", "logins", logins_windows.account()),
        ("balances", "payments", own.account()),
        ("devices", "logins", all_logins.account()),
    ];
    wrong += &check_accounts(&lab.dir, &accounts);
    assert!(wrong.is_empty(), "in {}:\n{wrong}", lab.dir.display());
}

/// What is wrong with the accounts: of each query and source `read, used, rejected, late`.
fn check_accounts(dir: &Path, expected: &[(&str, &str, [u64; 4])]) -> String {
    let done = Millstream::new(dir, &["status", "state", "--json"]).run().ok();
    let status: Value = serde_json::from_str(&done.stdout).unwrap();
    let mut wrong = String::new();
    for query in status["queries"].as_array().unwrap() {
        for account in query["account"].as_array().unwrap() {
            let count = |name: &str| account[name].as_u64().unwrap();
            let [read, used, rejected, late] = ["read", "used", "rejected", "late"].map(count);
            if read != used + rejected + late || account["lost"].as_u64().unwrap_or(0) != 0 {
                wrong += &format!("{} does not add up: {account}\n", query["query"]);
            }
            let place = (query["query"].as_str().unwrap(), account["source"].as_str().unwrap());
            let known = expected.iter().find(|(query, source, _)| (*query, *source) == place);
            if known.is_some_and(|(_, _, expected)| *expected != [read, used, rejected, late]) {
                wrong += &format!("{place:?}: {account}, and expected was {known:?}\n");
            }
        }
    }
    let known = status["queries"].as_array().unwrap().len();
    if known != QUERIES.len() {
        wrong += &format!("{known} queries have a status\n");
    }
    wrong
}

/// Some fields of a JSON object, `~` for NULL.
fn columns(json: &str, names: &[&str]) -> String {
    let value: Value = serde_json::from_str(json).unwrap();
    let text = |name: &&str| match &value[*name] {
        Value::Null => "~".to_string(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    names.iter().map(text).collect::<Vec<_>>().join("|")
}

/// A dead letter as it is compared: bytes that could not be read as they came, a row without its time by its id.
fn letter(raw: &str) -> String {
    let id = serde_json::from_str::<Value>(raw).ok().and_then(|value| value["id"].as_str().map(str::to_string));
    id.unwrap_or_else(|| raw.to_string())
}

/// What is left of a topic of upserts: the last record of each key, which may end it.
fn upserted(records: &[Seen]) -> Vec<String> {
    let mut rows = BTreeMap::new();
    for record in records {
        match &record.value {
            Some(_) => rows.insert(record.key.clone(), columns(record.value(), &["device", "n"])),
            None => rows.remove(&record.key),
        };
    }
    sorted(rows.into_values().collect())
}

fn sorted(mut rows: Vec<String>) -> Vec<String> {
    rows.sort();
    rows
}
