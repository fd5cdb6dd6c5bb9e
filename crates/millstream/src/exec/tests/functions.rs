//! Every aggregate function of DataFusion, with DISTINCT, FILTER and ORDER BY.

use datafusion::functions_aggregate::all_default_aggregate_functions;

use super::harness::*;
use super::{keyed, retract, windows};
use crate::exec::EmitMode;

/// Calls of every function that can be called on the test's columns.
fn calls(name: &str) -> Vec<(String, Tolerance)> {
    use Tolerance::{AnyOrder, Rounding, Spread};
    let call = |args: &str, tolerance| vec![(format!("{name}({args})"), tolerance)];
    match name {
        // Not an accumulator: the planner replaces it.
        "grouping" => vec![],
        "corr" | "covar_samp" | "covar_pop" => call("g, v", Rounding),
        name if name.starts_with("regr_") => call("g, v", Rounding),
        "bit_and" | "bit_or" | "bit_xor" => {
            vec![(format!("{name}(v)"), Rounding), (format!("{name}(DISTINCT v)"), Rounding)]
        }
        "bool_and" | "bool_or" => call("b", Rounding),
        "string_agg" => vec![
            (format!("{name}(s, ',')"), Rounding),
            (format!("{name}(s, ',' ORDER BY id DESC)"), Rounding),
            (format!("{name}(u, ',' ORDER BY v, id)"), Rounding),
            (format!("{name}(DISTINCT u, ',')"), AnyOrder),
        ],
        "nth_value" => vec![
            (format!("{name}(v, 2)"), Rounding),
            (format!("{name}(v, -2)"), Rounding),
            (format!("{name}(s, 3 ORDER BY id DESC)"), Rounding),
            (format!("{name}(s, -2 ORDER BY v NULLS FIRST, id)"), Rounding),
        ],
        "array_agg" => vec![
            (format!("{name}(v)"), Rounding),
            (format!("{name}(s) IGNORE NULLS"), Rounding),
            (format!("{name}(s ORDER BY v DESC, id)"), Rounding),
            (format!("{name}(DISTINCT v)"), AnyOrder),
            (format!("{name}(DISTINCT v ORDER BY v)"), Rounding),
        ],
        "first_value" | "last_value" => vec![
            (format!("{name}(s)"), Rounding),
            (format!("{name}(v) IGNORE NULLS"), Rounding),
            (format!("{name}(s ORDER BY id DESC)"), Rounding),
            (format!("{name}(d ORDER BY v NULLS FIRST, id)"), Rounding),
            (format!("{name}(v ORDER BY s, id) IGNORE NULLS"), Rounding),
        ],
        "approx_percentile_cont" => vec![
            (format!("{name}(0.3) WITHIN GROUP (ORDER BY g)"), Spread(60.0)),
            (format!("{name}(0.9) WITHIN GROUP (ORDER BY g DESC)"), Spread(60.0)),
        ],
        "approx_percentile_cont_with_weight" => {
            vec![(format!("{name}(CAST(id % 3 + 1 AS DOUBLE), 0.5) WITHIN GROUP (ORDER BY g)"), Spread(60.0))]
        }
        "approx_median" => call("g", Spread(60.0)),
        "approx_distinct" => vec![(format!("{name}(s)"), Spread(0.0)), (format!("{name}(v)"), Spread(0.0))],
        "percentile_cont" => vec![
            (format!("{name}(0.25) WITHIN GROUP (ORDER BY g)"), Rounding),
            (format!("{name}(0.75) WITHIN GROUP (ORDER BY g DESC)"), Rounding),
        ],
        "count" => ["*", "s", "f", "DISTINCT s", "DISTINCT v", "DISTINCT g"]
            .map(|args| (format!("{name}({args})"), Rounding))
            .to_vec(),
        "min" | "max" | "any_value" => {
            ["v", "s", "u", "g", "d", "b", "ts"].map(|args| (format!("{name}({args})"), Rounding)).to_vec()
        }
        "sum" | "avg" => {
            ["v", "g", "d", "DISTINCT v", "DISTINCT g"].map(|args| (format!("{name}({args})"), Rounding)).to_vec()
        }
        "median" => ["v", "g", "DISTINCT v"].map(|args| (format!("{name}({args})"), Rounding)).to_vec(),
        _ => call("g", Rounding),
    }
}

/// Each call, bare and with a FILTER.
fn all_calls() -> Vec<(String, Tolerance)> {
    let calls = all_default_aggregate_functions().into_iter().flat_map(|f| calls(f.name()));
    calls
        .flat_map(|(call, tolerance)| {
            if call.starts_with("bit_xor(DISTINCT") {
                // DataFusion answers it rightly where it is the only aggregate and has no FILTER; elsewhere its
                // grouped accumulator takes every value, and not the distinct ones.
                return vec![(call, tolerance)];
            }
            let (function, nulls) = match call.strip_suffix(" IGNORE NULLS") {
                Some(function) => (function.to_string(), " IGNORE NULLS"),
                None => (call.clone(), ""),
            };
            vec![(call, tolerance), (format!("{function} FILTER (WHERE v > 3){nulls}"), tolerance)]
        })
        .collect()
}

/// The calls in lists for a SELECT: planning a query takes longest here.
fn selects() -> Vec<(String, Tolerance)> {
    let mut selects: Vec<(Vec<String>, Tolerance)> = Vec::new();
    for (call, tolerance) in all_calls() {
        // DataFusion sorts its input for an ORDER BY, and then answers what the others find in that order.
        let alone = |call: &String| call.contains("ORDER BY") || call.starts_with("bit_xor(DISTINCT");
        match selects.last_mut() {
            Some((calls, same))
                if *same == tolerance && calls.len() < 6 && !alone(&call) && !calls.iter().any(alone) =>
            {
                calls.push(call);
            }
            _ => selects.push((vec![call], tolerance)),
        }
    }
    selects.into_iter().map(|(calls, tolerance)| (calls.join(", "), tolerance)).collect()
}

#[tokio::test]
async fn every_function_answers_by_key_as_in_a_batch() {
    for (i, (calls, tolerance)) in selects().into_iter().enumerate() {
        let sql = format!("SELECT k, {calls} FROM t GROUP BY k");
        keyed::check(&sql, 1, tolerance, i as u64, 200).await;
    }
}

#[tokio::test]
async fn every_function_answers_without_keys_as_in_a_batch() {
    for (i, (calls, tolerance)) in selects().into_iter().enumerate() {
        keyed::check(&format!("SELECT {calls} FROM t"), 0, tolerance, i as u64, 60).await;
    }
}

#[tokio::test]
async fn every_function_answers_by_window_as_in_a_batch() {
    for (i, (calls, tolerance)) in selects().into_iter().enumerate() {
        let sql = format!("SELECT ws, we, k, {calls} FROM t GROUP BY ws, we, k");
        let spec = windows::SPECS[i % windows::SPECS.len()]();
        windows::check(&sql, 1, spec, EmitMode::OnClose, tolerance, i as u64, 150).await;
        let spec = windows::SPECS[(i + 3) % windows::SPECS.len()]();
        windows::check(&sql, 1, spec, EmitMode::Changes, tolerance, i as u64, 80).await;
    }
}

#[tokio::test]
async fn every_function_answers_over_a_changelog_as_in_a_batch() {
    for (i, (call, tolerance)) in all_calls().into_iter().enumerate() {
        let ordered = call.contains("ORDER BY");
        let first = ["first_value", "last_value", "nth_value", "any_value"].iter().any(|f| call.starts_with(f));
        if first && !ordered {
            // Which row is the first of a changelog is not for anybody to say.
            continue;
        }
        let lists = ["array_agg", "string_agg"].iter().any(|f| call.starts_with(f));
        let tolerance = if lists && !ordered { Tolerance::AnyOrder } else { tolerance };
        retract::check(&format!("SELECT k, {call} FROM t GROUP BY k"), 1, tolerance, i as u64, 60).await;
    }
}

#[tokio::test]
async fn several_distinct_aggregates_share_what_they_have_seen() {
    let sql = "SELECT k, count(DISTINCT v), sum(DISTINCT v), avg(DISTINCT v) FILTER (WHERE b), count(DISTINCT s), \
               array_agg(DISTINCT v ORDER BY v) FROM t GROUP BY k";
    for seed in 0..6 {
        keyed::check(sql, 1, Tolerance::Rounding, seed, 300).await;
    }
}
