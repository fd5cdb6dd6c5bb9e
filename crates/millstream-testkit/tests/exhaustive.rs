//! Death at every durable step, and at every pair of steps, on both sides of the step, with and without the power.

use std::time::Duration;

use millstream_core::Result;
use millstream_core::query::Trigger;
use millstream_core::sink::Guarantee;
use millstream_core::source::Limit;
use millstream_testkit::memory::{Event, Outside, POISON, SourceStore};
use millstream_testkit::sim::Fate;
use millstream_testkit::sim::schedule::{Answer, Life, Scenario, scenario, simulate, uninterrupted};

/// Two partitions, seven batches, a checkpoint after each, small segments; late, malformed and poisonous rows.
fn small() -> Scenario {
    let mut small = scenario(1);
    let row = Event::row;
    let a = vec![row(1, "k", 1), row(12, "l", 2), Event::Malformed("?".into()), row(25, "k", 4), row(2, "k", 8)];
    let b = vec![row(3, "k", 16), row(14, "l", POISON), row(15, "k", 32), row(41, "l", 64)];
    small.sources = vec![("s".into(), SourceStore::bounded([("a".into(), a), ("b".into(), b)]))];
    small.config.trigger = Trigger::AvailableNow;
    small.config.limit = Limit { rows: 2, bytes: 1 << 20 };
    small.config.checkpoint_work = Duration::ZERO;
    small.config.retention.log_segment_bytes = 2500;
    (small.delay_us, small.slow_ms) = (1, 0);
    small
}

/// The same, asking tables that answer otherwise each time.
fn asking() -> Scenario {
    Scenario { outside: Some(Outside::default()), ..small() }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    Stays,
    Fails,
}

/// Runs, dies at these steps of one process after the other, and runs to the end. Answers the steps of the last.
fn life(
    scenario: Scenario,
    deaths: &[(u64, Fate, Power)],
    seed: u64,
    guarantee: Guarantee,
    reference: &Answer,
) -> Result<u64> {
    simulate(async {
        let mut life = Life::new(scenario, seed, guarantee);
        for (step, fate, power) in deaths {
            let process = life.world.boot();
            life.world.die_at(*step, *fate);
            let done = match life.query(&process).start().await {
                Ok(handle) => handle.wait().await.map(|_| ()),
                Err(error) => Err(error),
            };
            assert!(done.is_ok() || life.world.is_dead(), "{deaths:?}: {done:?}");
            if *power == Power::Fails {
                life.lose_power();
            }
        }
        let before = life.world.steps();
        life.run().await.map_err(|e| e.at(format_args!("{deaths:?}")))?;
        let steps = life.world.steps() - before;
        match guarantee {
            Guarantee::ExactlyOnce => assert_eq!(&life.answer()?, reference, "{deaths:?}"),
            _ => {
                // At least once: every row, and the account as exact as ever.
                let rows = life.unchecked_answer()?.rows;
                let missing: Vec<_> = reference.rows.iter().filter(|row| !rows.contains(row)).collect();
                assert!(missing.is_empty(), "{deaths:?}: {missing:?} are missing");
                let answer = Answer { rows: reference.rows.clone(), ..life.unchecked_answer()? };
                assert_eq!(&answer, reference, "{deaths:?}");
            }
        }
        Ok(steps)
    })
}

fn ways() -> impl Iterator<Item = (Fate, Power)> {
    [Fate::DieBefore, Fate::DieAfter].into_iter().flat_map(|fate| [(fate, Power::Stays), (fate, Power::Fails)])
}

#[test]
fn death_at_every_step_changes_nothing() {
    let reference = uninterrupted(&asking()).unwrap();
    let steps = life(asking(), &[], 0, Guarantee::ExactlyOnce, &reference).unwrap();
    assert!(steps > 40, "only {steps} steps");
    for step in 0..steps {
        for (fate, power) in ways() {
            // What a lost power takes differs from seed to seed.
            for seed in 0..if power == Power::Fails { 8 } else { 1 } {
                life(asking(), &[(step, fate, power)], seed, Guarantee::ExactlyOnce, &reference).unwrap();
            }
        }
    }
}

#[test]
fn death_at_every_pair_of_steps_changes_nothing() {
    let reference = uninterrupted(&small()).unwrap();
    let steps = life(small(), &[], 0, Guarantee::ExactlyOnce, &reference).unwrap();
    // The four ways of the first death run beside each other.
    std::thread::scope(|scope| {
        for (n, way) in ways().enumerate() {
            let reference = &reference;
            scope.spawn(move || {
                for first in 0..steps {
                    let after =
                        life(small(), &[(first, way.0, way.1)], first, Guarantee::ExactlyOnce, reference).unwrap();
                    for second in 0..after {
                        let other = ways().nth((n + first as usize + second as usize) % 4).unwrap();
                        let deaths = [(first, way.0, way.1), (second, other.0, other.1)];
                        life(small(), &deaths, first * 1000 + second, Guarantee::ExactlyOnce, reference).unwrap();
                    }
                }
            });
        }
    });
}

#[test]
fn a_sink_without_a_marker_has_every_row_at_least_once_whatever_step_the_process_dies_at() {
    let reference = uninterrupted(&asking()).unwrap();
    let steps = life(asking(), &[], 0, Guarantee::AtLeastOnce, &reference).unwrap();
    for step in 0..steps {
        for fate in [Fate::DieBefore, Fate::DieAfter] {
            life(asking(), &[(step, fate, Power::Stays)], step, Guarantee::AtLeastOnce, &reference).unwrap();
        }
    }
}
