//! Everything that an execution can do, by chance, in virtual time: the machine and the engine against checkers that
//! stand outside and know events and replies alone.
//!
//! Each seed is one story (`world`): workflows of every feature (`plan`), programs that fail, hang, are silent or answer
//! late, power cuts, clocks that step, people who pause, cancel, answer and rerun. Every event is held against
//! semantics.md (`ledger`), and every moment between batches too (`settled`). `light` goes through many seeds.
//!
//! `NOXD_SEEDS=N` sets how many stories are told, `NOXD_SEED=S` tells one of them alone.

mod absence;
mod chance;
#[cfg(feature = "daemon")]
mod conformance;
mod coverage;
mod expect;
mod firings;
mod ledger;
mod light;
mod model;
#[path = "../calendar/oracle.rs"]
#[expect(dead_code, reason = "the comparison of calendars asks for more")]
mod oracle;
mod plan;
mod punctual;
#[cfg(feature = "daemon")]
mod real;
mod schedules;
mod settled;
mod templates;
mod timetable;
mod world;
#[path = "../calendar/zones.rs"]
#[expect(dead_code, reason = "the same")]
mod zones;

use chance::Chance;
use coverage::Coverage;
use light::Light;
use world::{FAULTS, World};

/// From so many seeds on, everything must have been reached.
const ENOUGH: u64 = 2_000;

/// Says how to see a failing story again.
struct Replay {
    test: &'static str,
    seed: u64,
}

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { test, seed } = self;
            eprintln!("\nto see it again: NOXD_SEED={seed} cargo test --test sim -- {test} --nocapture\n");
        }
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Tells the stories of all seeds, and what they reached.
fn tell(test: &'static str, seeds: u64, story: impl Fn(u64) -> Coverage) {
    if let Some(seed) = number("NOXD_SEED") {
        let _replay = Replay { test, seed };
        story(seed);
        return;
    }
    let count = number("NOXD_SEEDS").unwrap_or(seeds);
    let first = number("NOXD_FIRST_SEED").unwrap_or(1);
    let mut coverage = Coverage::default();
    for seed in first..first + count {
        let _replay = Replay { test, seed };
        coverage.take_in(&story(seed));
    }
    println!("{test}: {count} seeds from {first} on");
    let missing = coverage.report(&FAULTS, &coverage::of_schedules());
    if count >= ENOUGH {
        assert!(missing.is_empty(), "void: {count} seeds never reached {missing:?}");
    } else {
        println!("not reached by so few seeds: {missing:?}");
    }
}

#[test]
fn the_machine_keeps_its_promises_whatever_happens() {
    // S-STATE-1 to S-STATE-8, S-DEP-1 to S-DEP-5, S-COND-1, S-COND-4, S-RETRY-1 to S-RETRY-7, S-PAR-1, S-PAR-4
    tell("the_machine_keeps_its_promises_whatever_happens", 300, |seed| {
        let mut chance = Chance::seeded(seed);
        let limit = 1 + chance.below(6) as u32;
        let mut world = World::new(Light::new(limit), limit, chance);
        world.live(60);
        let did = world.ledger.log.len();
        assert!(did >= world::ENOUGH, "void: seed {seed} gave {did} events");
        world.ledger.coverage
    });
}

#[cfg(feature = "daemon")]
#[test]
fn the_engine_and_its_store_keep_their_promises_whatever_happens() {
    // S-SAFE-1, S-SAFE-2, S-SAFE-4, S-VIEW-2
    tell("the_engine_and_its_store_keep_their_promises_whatever_happens", 100, |seed| {
        let mut chance = Chance::seeded(seed);
        let limit = 1 + chance.below(6) as u32;
        let mut world = World::new(real::Real::new(limit, seed), limit, chance);
        world.live(60);
        let did = world.ledger.log.len();
        assert!(did >= world::ENOUGH, "void: seed {seed} gave {did} events");
        world.ledger.coverage
    });
}
