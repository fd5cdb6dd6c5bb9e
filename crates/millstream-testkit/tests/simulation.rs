//! Thousands of lives of a query, each with other crashes and faults, each compared with the uninterrupted one.
//!
//! `MILLSTREAM_SEED=<n>` runs one seed; `MILLSTREAM_SCHEDULES=<n>` runs so many. The seed of a life that is not as
//! promised begins its error.

use std::sync::atomic::{AtomicU64, Ordering};

use millstream_core::{Error, Result};
use millstream_testkit::sim::schedule::{Came, Harm, schedule};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs schedules on two threads. Answers how many processes died, and how many queries refused to go on.
fn schedules(harm: Harm, count: u64) -> Result<(u64, u64)> {
    let (first, count) = match number("MILLSTREAM_SEED") {
        Some(seed) => (seed, seed + 1),
        None => (0, number("MILLSTREAM_SCHEDULES").unwrap_or(count)),
    };
    let next = AtomicU64::new(first);
    let work = || -> Result<(u64, u64)> {
        let (mut died, mut refusing) = (0, 0);
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= count {
                return Ok((died, refusing));
            }
            let Came { deaths, refused } = schedule(seed, harm)?;
            died += deaths;
            refusing += u64::from(refused);
        }
    };
    std::thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        threads.into_iter().try_fold((0, 0), |(died, refusing), thread| {
            let (d, r) = thread.join().map_err(|_| Error::bug("a simulation panicked"))??;
            Ok((died + d, refusing + r))
        })
    })
}

#[test]
fn ten_thousand_lives_with_crashes_and_faults_give_the_uninterrupted_answer() {
    let (deaths, refused) = schedules(Harm::Survivable, 10_000).unwrap();
    println!("{deaths} deaths");
    assert_eq!(refused, 0);
}

#[test]
fn with_flipped_bits_too_the_answer_is_the_same_or_a_clear_error_and_nothing_doubled() {
    let (deaths, refused) = schedules(Harm::BitFlips, 2_000).unwrap();
    println!("{deaths} deaths, {refused} refused");
}
