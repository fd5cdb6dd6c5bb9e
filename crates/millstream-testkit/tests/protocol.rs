//! What a query does when it is not alone, not welcome, or not what it was.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use millstream_core::batch::BatchId;
use millstream_core::log::{read_dropped, read_status};
use millstream_core::query::{OnError, QueryState, Trigger};
use millstream_core::runner::{Outcome, Runner, Task, UsedRow};
use millstream_core::sink::Guarantee;
use millstream_core::source::Limit;
use millstream_core::{ErrorKind, Result};
use millstream_testkit::memory::{Event, MemoryRunner, POISON, SPOILT, SinkFaults, SourceStore};
use millstream_testkit::sim::schedule::{Life, Scenario, scenario, simulate};
use millstream_testkit::sim::{Fate, SimDisk};

fn of(store: SourceStore, rows: u64) -> Scenario {
    let mut scenario = scenario(3);
    scenario.outside = None;
    scenario.sources = vec![("s".into(), store)];
    scenario.config.limit = Limit { rows, bytes: 1 << 20 };
    scenario.config.trigger = Trigger::Continuous;
    scenario.config.checkpoint_work = Duration::from_secs(1000);
    scenario.config.retry.give_up_after = Duration::from_secs(300);
    (scenario.delay_us, scenario.slow_ms) = (0, 0);
    scenario
}

fn ten() -> SourceStore {
    SourceStore::bounded([("p".into(), (0..10).map(|n| Event::row(n * 5, "k", n)).collect::<Vec<_>>())])
}

fn life(scenario: Scenario) -> Life {
    Life::new(scenario, 7, Guarantee::ExactlyOnce)
}

/// Dies after so many durable steps.
async fn die(life: &mut Life, step: u64) {
    let process = life.world.boot();
    life.world.die_at(step, Fate::DieAfter);
    if let Ok(handle) = life.query(&process).start().await {
        assert!(handle.wait().await.is_err());
    }
}

#[test]
fn a_second_owner_is_refused_by_name_and_the_first_goes_on() {
    simulate(async {
        let store = SourceStore::followed();
        let mut scenario = of(store.clone(), 5);
        scenario.config.idle_timeouts = BTreeMap::new();
        let life = life(scenario);
        let (process, first) = life.start().await;
        let first = first?;
        let error = life.query(&process).start().await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Owned);
        assert!(error.to_string().contains("simulated process 1"), "{error}");
        store.append("p", [Event::row(1, "k", 1)]);
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(life.sink.rows(), ["count k 1 0"]);
        first.stop().await?;
        Ok(())
    })
    .unwrap();
}

#[test]
fn where_locks_do_not_work_the_sink_fences_the_first_owner_and_no_row_is_doubled() {
    for seed in 0..200 {
        simulate(async {
            let store = SourceStore::followed();
            let mut scenario = of(store.clone(), 2);
            scenario.slow_ms = 3;
            scenario.sink_faults = SinkFaults { before: 0, after: 0, slow: 500 };
            let life = Life::new(scenario, seed, Guarantee::ExactlyOnce);
            life.platter.break_locks();
            let process = life.world.boot();
            let first = life.query(&process).start().await?;
            store.append("p", (0..8).map(|n| Event::row(n * 5, "k", 1)));
            tokio::time::sleep(Duration::from_millis(process.below(60))).await;
            let second = life.query(&process).start().await?;
            store.append("p", (8..20).map(|n| Event::row(n * 5, "k", 1)));
            store.finish();
            let (first, second) = (first.wait().await, second.wait().await);
            for done in [&first, &second] {
                let kind = done.as_ref().err().map(|e| e.kind());
                assert!(matches!(kind, None | Some(ErrorKind::Owned | ErrorKind::Corrupt)), "seed {seed}: {done:?}");
            }
            let rows = life.sink.rows();
            let mut once = rows.clone();
            once.dedup();
            assert_eq!(rows, once, "seed {seed}");
            if second.is_ok() {
                assert_eq!(rows.len(), 20 + 10, "seed {seed}: {rows:?}");
                life.answer()?;
            }
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn poisonous_rows_are_left_out_and_recorded_so_that_a_replay_leaves_them_out_too() {
    simulate(async {
        let mut events: Vec<_> = (0..40).map(|n| Event::row(n, "k", 1)).collect();
        for n in [0, 7, 8, 39] {
            events[n] = Event::row(n as i64, "k", POISON);
        }
        let mut life = life(of(SourceStore::bounded([("p".into(), events)]), 64));
        // Up to the sink: the batch is amended, and not yet published.
        die(&mut life, 9).await;
        life.run().await?;
        let answer = life.answer()?;
        assert_eq!((answer.totals[0].used, answer.totals[0].rejected), (36, 4));
        let rows: Vec<_> = answer.dropped.iter().map(|row| row.place.row).collect();
        assert_eq!(rows, [0, 7, 8, 39]);
        assert!(answer.dropped.iter().all(|row| row.reason == "the value is poison"));
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_query_that_stops_on_errors_names_the_row_and_publishes_nothing_of_its_batch() {
    simulate(async {
        let events = vec![Event::row(1, "k", 1), Event::row(2, "k", POISON)];
        let mut scenario = of(SourceStore::bounded([("p".into(), events)]), 64);
        scenario.config.on_error = OnError::Stop;
        let mut life = life(scenario);
        let error = life.run().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Row);
        assert!(error.to_string().contains("source \"s\", p, row 1, offset 1: the value is poison"), "{error}");
        assert!(life.sink.rows().is_empty());
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_result_that_fails_when_its_window_closes_stops_the_query_and_no_other_row_is_left_out_for_it() {
    // The window of the fourth row closes with the seventh, whose own and later rows are innocent.
    let at = [0, 1, 2, 12, 13, 19, 25, 26, 31, 55];
    for cut in 1..=at.len() as u64 {
        simulate(async {
            let event = |(n, ts): (usize, &i64)| Event::row(*ts, "k", if n == 3 { SPOILT } else { 1 });
            let events: Vec<_> = at.iter().enumerate().map(event).collect();
            let mut life = life(of(SourceStore::bounded([("p".into(), events)]), cut));
            match life.run().await {
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Query, "cut by {cut}");
                    assert!(error.to_string().contains("fails on a result"), "cut by {cut}: {error}");
                    let dropped = read_dropped(&*life.disk(&life.world.boot()), &life.dir(), BatchId(0))?;
                    assert!(dropped.is_empty(), "cut by {cut}: {dropped:?}");
                }
                // The row and what closes its window are in one batch.
                Ok(_) => {
                    let answer = life.answer()?;
                    let left_out: Vec<_> = answer.dropped.iter().map(|d| (d.place.row, d.reason.as_str())).collect();
                    assert_eq!(left_out, [(3, "the sum is spoilt")], "cut by {cut}");
                }
            }
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn a_row_that_fails_by_itself_is_found_beside_results_that_only_a_part_of_the_batch_spoils() {
    simulate(async {
        let mut events: Vec<_> = (0..30).map(|n| Event::row(n, "k", 1)).collect();
        (events[4], events[8]) = (Event::row(4, "k", SPOILT), Event::row(8, "k", POISON));
        let mut life = life(of(SourceStore::bounded([("p".into(), events)]), 64));
        life.run().await?;
        let answer = life.answer()?;
        let left_out: Vec<_> = answer.dropped.iter().map(|d| (d.place.row, d.reason.as_str())).collect();
        assert_eq!(left_out, [(4, "the sum is spoilt"), (8, "the value is poison")]);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_search_for_many_poisonous_rows_that_dies_anywhere_finds_each_of_them_once() {
    for step in 1..=12 {
        simulate(async {
            let events: Vec<_> = (0..200).map(|n| Event::row(n, "k", if n % 4 == 0 { 1 } else { POISON })).collect();
            let mut life = life(of(SourceStore::bounded([("p".into(), events)]), 500));
            die(&mut life, step).await;
            life.run().await?;
            let answer = life.answer()?;
            let left_out: Vec<_> = answer.dropped.iter().map(|d| d.place.row).collect();
            assert_eq!(left_out, (0..200).filter(|n| n % 4 != 0).collect::<Vec<u64>>(), "died at step {step}");
            assert_eq!((answer.totals[0].used, answer.totals[0].rejected), (50, 150));
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn more_poisonous_rows_than_bearable_are_an_error() {
    simulate(async {
        let events = vec![Event::row(1, "k", POISON); 20];
        let mut scenario = of(SourceStore::bounded([("p".into(), events)]), 64);
        scenario.config.poison_rows_max = 5;
        let error = life(scenario).run().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Row);
        assert!(error.to_string().contains("fails on more than 5 rows"), "{error}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_resting_partition_steps_aside_after_its_time_out_and_its_rows_are_late_when_it_returns() {
    simulate(async {
        let store = SourceStore::followed();
        let mut scenario = of(store.clone(), 100);
        scenario.config.idle_timeouts = BTreeMap::from([("s".to_string(), Duration::from_secs(10))]);
        let life = life(scenario);
        let (_, handle) = life.start().await;
        let handle = handle?;
        store.append("a", [Event::row(1, "k", 1)]);
        store.append("b", [Event::row(2, "k", 2)]);
        tokio::time::sleep(Duration::from_secs(8)).await;
        store.append("a", [Event::row(55, "k", 4)]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let windows = || life.sink.rows().into_iter().filter(|row| row.starts_with("window")).collect::<Vec<_>>();
        assert!(windows().is_empty(), "b holds the frontier at 2");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(windows(), ["window k 3 10"], "b steps aside");
        store.append("b", [Event::row(3, "k", 8), Event::row(56, "k", 16)]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        store.finish();
        handle.wait().await?;
        assert_eq!(windows(), ["window k 20 60", "window k 3 10"]);
        let answer = life.answer()?;
        assert_eq!((answer.totals[0].used, answer.totals[0].late), (4, 1));
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_source_that_no_partition_is_found_of_steps_aside_after_its_time_out() {
    simulate(async {
        let (store, empty) = (SourceStore::followed(), SourceStore::followed());
        let mut scenario = of(store.clone(), 100);
        scenario.sources.push(("none".into(), empty.clone()));
        scenario.config.idle_timeouts = BTreeMap::from([("none".to_string(), Duration::from_secs(10))]);
        let life = life(scenario);
        let (_, handle) = life.start().await;
        let handle = handle?;
        store.append("a", [Event::row(1, "k", 1), Event::row(55, "k", 4)]);
        let windows = || life.sink.rows().into_iter().filter(|row| row.starts_with("window")).collect::<Vec<_>>();
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert!(windows().is_empty(), "there may be a partition yet");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(windows(), ["window k 1 10"]);
        // One that is found then holds the frontier as any other, and its rows may be late.
        empty.append("b", [Event::row(56, "k", 8), Event::row(57, "k", 16)]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        store.finish();
        empty.finish();
        handle.wait().await?;
        assert_eq!(windows(), ["window k 1 10", "window k 28 60"]);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_source_without_a_row_ends_with_one_empty_batch() {
    simulate(async {
        for partitions in [vec![], vec![("p".into(), vec![])]] {
            let mut life = life(of(SourceStore::bounded(partitions), 5));
            for _ in 0..2 {
                assert_eq!(life.run().await?.state, QueryState::Ended);
                let disk = SimDisk::new(&life.platter, &life.world.boot());
                assert_eq!(read_status(&disk, &life.dir())?.unwrap().committed, BatchId(1));
            }
            assert!(life.sink.rows().is_empty());
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_replay_that_gives_other_rows_stops_and_says_so_until_it_is_accepted() {
    simulate(async {
        let mut life = life(of(ten(), 3));
        die(&mut life, 12).await;
        let before = life.sink.rows();
        assert!(!before.is_empty());
        // Another engine: windows close at another time.
        life.scenario.delay_us = 100;
        let error = life.run().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Diverged);
        assert!(error.to_string().contains("--accept-divergence"), "{error}");
        assert_eq!(life.sink.rows(), before);
        life.scenario.config.accept_divergence = true;
        life.run().await?;
        life.scenario.config.accept_divergence = false;
        life.run().await?;
        Ok(())
    })
    .unwrap();
}

#[test]
fn another_plan_or_name_is_refused_until_it_is_adopted() {
    simulate(async {
        let mut life = life(of(ten(), 3));
        die(&mut life, 12).await;
        life.scenario.config.epoch.plan = "another".into();
        assert_eq!(life.run().await.unwrap_err().kind(), ErrorKind::Query);
        life.scenario.config.epoch.plan.clear();
        life.scenario.config.name = "another".into();
        let error = life.run().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("--adopt"), "{error}");
        life.scenario.config.adopt = true;
        life.run().await?;
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_sink_that_has_more_than_the_log_or_less_than_can_be_run_again_is_an_error() {
    simulate(async {
        let mut life = life(of(ten(), 3));
        life.run().await?;
        // The log is gone, the sink is not.
        let full = std::mem::take(&mut life.platter);
        assert_eq!(life.run().await.unwrap_err().kind(), ErrorKind::Corrupt);
        // The sink is gone, the log has its checkpoint only.
        life.platter = full;
        life.sink = millstream_testkit::memory::SinkStore::new(Guarantee::ExactlyOnce);
        life.scenario.config.checkpoint_work = Duration::ZERO;
        let error = life.run().await;
        match error {
            // One checkpoint, and the whole log: everything is published again.
            Ok(_) => assert_eq!(life.sink.rows().len(), 10 + 5),
            Err(error) => panic!("{error}"),
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_sink_that_stays_away_is_waited_for_and_then_named() {
    simulate(async {
        let mut scenario = of(ten(), 3);
        scenario.sink_faults = SinkFaults { before: 1000, after: 0, slow: 0 };
        scenario.config.retry.give_up_after = Duration::from_secs(20);
        let mut life = life(scenario);
        let error = life.run().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Sink);
        assert!(error.to_string().contains("stayed away"), "{error}");
        life.scenario.sink_faults = SinkFaults::default();
        life.run().await?;
        assert_eq!(life.answer()?.rows.len(), 10 + 5);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_damaged_record_in_the_middle_of_the_log_is_named_with_file_and_byte() {
    simulate(async {
        let mut refused = 0;
        for seed in 0..40 {
            let mut life = Life::new(of(ten(), 3), seed, Guarantee::ExactlyOnce);
            die(&mut life, 14).await;
            let process = life.world.boot();
            let flipped = life.platter.flip_a_bit(&process);
            if let Err(error) = life.run().await {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{flipped:?}: {error}");
                refused += u64::from(error.to_string().contains("log-00000001.seg, byte "));
            }
        }
        assert!(refused > 20, "only {refused} of 40");
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_log_stays_small_over_thousands_of_batches() -> Result<()> {
    simulate(async {
        let store = SourceStore::bounded([("p".into(), (0..3000).map(|n| Event::row(n, "k", n)).collect::<Vec<_>>())]);
        let mut scenario = of(store, 1);
        scenario.config.checkpoint_work = Duration::ZERO;
        scenario.config.retention.log_segment_bytes = 20_000;
        let mut life = life(scenario);
        life.run().await?;
        assert_eq!(life.answer()?.totals[0].used, 3000);
        let disk = life.disk(&life.world.boot());
        let segments: Vec<_> = disk.list(&life.dir()).unwrap();
        assert!(segments.len() <= 5, "{segments:?}");
        assert!(read_dropped(&*disk, &life.dir(), BatchId(0))?.is_empty());
        Ok(())
    })
}

/// Begins anew with every batch, and counts them.
struct Forgetful(MemoryRunner, Arc<AtomicU64>);

#[async_trait]
impl Runner for Forgetful {
    async fn run(&mut self, task: Task<'_>) -> Result<Outcome> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.run(task).await
    }

    async fn used_row(&mut self, task: Task<'_>, n: u64) -> Result<Option<UsedRow>> {
        self.0.used_row(task, n).await
    }

    fn install(&mut self) {
        self.0.discard();
    }

    fn discard(&mut self) {
        self.0.discard();
    }
}

#[test]
fn a_runner_without_state_does_not_run_again_what_is_known() {
    simulate(async {
        let life = life(of(ten(), 1));
        let runs = Arc::new(AtomicU64::new(0));
        let query = |process| {
            let mut query = life.query(process);
            query.runner = Box::new(Forgetful(MemoryRunner::new(query.sources.clone(), 0), runs.clone()));
            query
        };
        let process = life.world.boot();
        life.world.die_at(20, Fate::DieAfter);
        query(&process).start().await?.wait().await.unwrap_err();
        let before = runs.load(Ordering::Relaxed);
        assert!(before >= 4);
        query(&life.world.boot()).start().await?.wait().await?;
        // At the most the batch whose commit was not written yet is run twice.
        assert!(runs.load(Ordering::Relaxed) <= 10 + 1);
        assert_eq!(life.answer()?.totals[0].used, 10);
        Ok(())
    })
    .unwrap();
}
