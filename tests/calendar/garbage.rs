//! The fuzz target over its corpus and over what becomes of it by chance: a little of what `fuzz/` does, with stable Rust.

use std::{fs, path::Path};

use crate::{any_input::holds, chance::Chance};

/// How many inputs are made of each of the corpus.
const EACH: usize = 20;

#[test]
fn no_input_makes_a_schedule_panic_or_break_its_laws() {
    // S-SCHED-1, S-SCHED-2
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/schedule");
    let mut inputs: Vec<Vec<u8>> = fs::read_dir(&corpus)
        .expect("the corpus is in the repository")
        .map(|entry| fs::read(entry.expect("an entry").path()).expect("a file"))
        .collect();
    inputs.sort();
    assert!(inputs.len() > 50, "void: {} inputs in {}", inputs.len(), corpus.display());
    let good = inputs.iter().filter(|input| holds(input)).count();
    assert!(good > 20 && good < inputs.len(), "void: {good} of {} inputs are schedules", inputs.len());
    let seed = std::env::var("NOXD_CALENDAR_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let mut chance = Chance::seeded(seed);
    for at in 0..inputs.len() * EACH {
        let mut input = inputs[at % inputs.len()].clone();
        let other = &inputs[chance.below(inputs.len())];
        for _ in 0..=chance.below(4) {
            chance.mutate(&mut input, other, &PIECES);
        }
        holds(&input);
    }
}

/// Pieces that mean something.
const PIECES: [&str; 16] =
    ["*", "/", "-", ",", "?", " ", "\n", "0", "7", "59", "2100", "SUN", "L", "@daily", "TZ=", "99999999999999999999"];
