//! The simulation's only source of chance: a seed gives the same story each time.
//!
//! A script instead of a seed makes a story that `proptest` can shrink: what the script does not say is 0, and 0 is the
//! plainest choice everywhere.

use std::collections::VecDeque;

/// Numbers by chance.
pub struct Chance {
    state: u64,
    script: Option<VecDeque<u32>>,
}

impl Chance {
    /// Everything follows from the seed.
    pub fn seeded(seed: u64) -> Self {
        Self { state: seed, script: None }
    }

    /// Everything follows from the script.
    pub fn scripted(script: Vec<u32>) -> Self {
        Self { state: 0, script: Some(script.into()) }
    }

    /// The next number: SplitMix64 (Steele, Lea, Flood 2014).
    pub fn draw(&mut self) -> u64 {
        if let Some(script) = &mut self.script {
            return script.pop_front().unwrap_or(0).into();
        }
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.draw() % limit.max(1) as u64) as usize
    }

    /// True once in so many times; never where the script is at its end.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) + 1 == times
    }

    /// One of them; the first where the script is at its end.
    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}
