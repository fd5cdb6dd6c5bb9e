//! Memory a key: the most memory with 10 million keys less that with a thousand, over the same number of rows.

use crate::args::Settings;
use crate::data;
use crate::engine::{Engine, json_table, run_directory, size_bytes, state};
use crate::events::peer;
use crate::table::{Table, against, bytes, count};
use crate::{Result, Verdict};

const BUDGET_BYTES: f64 = 250.0;
const FEW: u64 = 1000;

/// Measures and prints.
///
/// # Errors
/// Where the engine fails.
pub fn run(settings: &Settings, engine: &Engine) -> Result<Verdict> {
    let many = settings.sized(10_000_000, 500_000);
    let mut table = Table::new(
        "Memory a key: count and sum by a BIGINT",
        &["keys", "rows", "engine rss", "engine wall", "engine CPU", "state on disk", "peer rss"],
    );
    let (mut engine_rss, mut peer_rss) = (Vec::new(), Vec::new());
    for keys in [FEW, many] {
        let input = data::keyed(settings, keys, many)?;
        let dir = run_directory(settings, "keys")?;
        let sql = format!(
            "{}CREATE TABLE answer (k BIGINT, cnt BIGINT, total BIGINT) WITH ('connector' = 'blackhole');\n\
             INSERT INTO answer SELECT k, count(*) AS cnt, sum(v) AS total FROM event GROUP BY k;\n",
            json_table("event", "k BIGINT, v BIGINT", &input.path, ""),
        );
        let usage = engine.run(dir.path(), &sql, &[])?;
        let peer = peer("keys", &input.path, &dir.path().join("peer.ndjson"), dir.path(), engine)?;
        engine_rss.push(usage.rss_bytes_max);
        peer_rss.push(peer.rss_bytes_max);
        table.row(vec![
            count(keys),
            count(input.rows),
            bytes(usage.rss_bytes_max),
            format!("{:.2} s", usage.wall_s),
            format!("{:.2} s", usage.cpu_s),
            bytes(size_bytes(&state(dir.path()))),
            bytes(peer.rss_bytes_max),
        ]);
    }
    table.print();
    let (engine_bytes, peer_bytes) = (a_key(&engine_rss, many), a_key(&peer_rss, many));
    println!(
        "Bytes a key: engine {engine_bytes:.0}, hand-written map {peer_bytes:.0}; budget {BUDGET_BYTES}: {}.",
        against(engine_bytes, BUDGET_BYTES)
    );
    Ok(Verdict::Right)
}

/// What a key costs between the run with few and the run with many.
fn a_key(rss_bytes: &[u64], many: u64) -> f64 {
    let [few_rss, many_rss] = rss_bytes else { return 0.0 };
    many_rss.saturating_sub(*few_rss) as f64 / (many - FEW) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_costs_what_more_keys_add() {
        assert_eq!(a_key(&[50_000, 50_000 + 999_000 * 200], 1_000_000), 200.0);
        assert_eq!(a_key(&[50_000, 40_000], 1_000_000), 0.0);
    }
}
