//! Two ends of a secure link under an adversary that owns the network and the clocks, in thousands of runs that differ by a
//! seed (`fuzz/checks/secure_pair.rs`). A run that fails is repeated, and tells what happens, with
//! `SIMPLETUN_ADVERSARY_SEED=<seed> cargo test --test secure_adversary -- --nocapture`.

use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

#[path = "../fuzz/checks/secure_pair.rs"]
mod secure_pair;

use secure_pair::{Script, Talk, check, run};

/// Names the one run that is to be repeated.
const SEED: &str = "SIMPLETUN_ADVERSARY_SEED";

/// Makes more runs than usual.
const SEEDS: &str = "SIMPLETUN_ADVERSARY_SEEDS";

const USUAL: u64 = 10_000;

/// Lives of a year, in days: over datagrams and over connections, with secrets and with keys.
const LIVES: u64 = 4;
const YEAR: u64 = 365;

/// Failures after which no more are looked for.
const ENOUGH: usize = 5;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value}")))
}

#[test]
fn no_adversary_alters_repeats_or_silences_a_link_for_longer_than_it_stays() {
    if let Some(seed) = variable(SEED) {
        return run(Script::new(None, seed), seed, Talk::Aloud, 1);
    }
    let (next, seeds) = (AtomicU64::new(0), variable(SEEDS).unwrap_or(USUAL));
    let failed = Mutex::new(Vec::new());
    let work = || {
        while failed.lock().expect("nobody panics with it").len() < ENOUGH {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return;
            }
            if catch_unwind(|| run(Script::new(None, seed), seed, Talk::Silent, 1)).is_err() {
                failed.lock().expect("nobody panics with it").push(seed);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner().expect("nobody panics with it");
    assert!(failed.is_empty(), "seeds that fail: {failed:?}; {SEED}=<seed> repeats one");
}

/// A link that is attacked, left alone and put to sleep each day works at the end of a year as it did at the beginning.
#[test]
fn a_year_of_bad_days_wears_nothing_out() {
    match variable(SEED) {
        Some(seed) => run(Script::new(None, seed), seed, Talk::Aloud, YEAR),
        None => (0..LIVES).for_each(|seed| run(Script::new(None, seed), seed, Talk::Silent, YEAR)),
    }
}

/// As a fuzzer would: the choices are bytes, and end where they end.
#[test]
fn choices_that_are_bytes_make_runs_that_end() {
    for length in [0, 1, 20, 400] {
        for byte in [0, 7, 0x5a, 0xff] {
            check(&vec![byte; length]);
        }
    }
}
