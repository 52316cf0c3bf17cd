//! The fuzz targets over their corpora and over what becomes of those by chance.

use std::{fs, path::Path};

use crate::{any_placeholder, any_template, chance::Chance};

/// How many inputs are made of each of a corpus.
const EACH: usize = 40;

/// Pieces that mean something.
const PIECES: [&str; 20] = [
    "{{",
    "}}",
    "{",
    "}",
    "'",
    "\"",
    "\\",
    "\n",
    " ",
    "p",
    "n",
    "{{p}}",
    "{{ inputs.x }}",
    "tasks.a.output",
    "[0]",
    "|",
    "not ",
    " in ",
    "(",
    "\u{e9}",
];

#[test]
fn no_input_makes_a_template_panic_or_its_values_more_than_data() {
    // S-TPL-3
    over("template", any_template::holds);
}

#[test]
fn no_input_makes_a_placeholder_or_an_expression_panic_or_a_value_be_read_again() {
    // S-DATA-2, S-COND-3
    over("placeholder", any_placeholder::holds);
}

fn over(target: &str, holds: fn(&[u8]) -> bool) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs: Vec<Vec<u8>> = fs::read_dir(&corpus)
        .expect("the corpus is in the repository")
        .map(|entry| fs::read(entry.expect("an entry").path()).expect("a file"))
        .collect();
    inputs.sort();
    let good = inputs.iter().filter(|input| holds(input)).count();
    assert!(good > 15 && inputs.len() - good > 8, "void: {good} of {} inputs are sound", inputs.len());
    let seed = std::env::var("NOXD_FUZZ_SEED").map_or(1, |seed| seed.parse().expect("a number"));
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
