//! The only source of chance here: a seed gives the same numbers each time.

/// Numbers by chance: SplitMix64 (Steele, Lea, Flood 2014).
pub struct Chance(u64);

impl Chance {
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.draw() % limit.max(1) as u64) as usize
    }

    /// One of them.
    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// Changes bytes in one place: cut, put in, turned over, a piece that means something, or the end of another.
    pub fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8], pieces: &[&str]) {
        let at = self.below(input.len() + 1);
        match self.below(5) {
            0 => input.truncate(at),
            1 => input.insert(at, self.draw() as u8),
            2 if at < input.len() => input[at] ^= 1 << self.below(8),
            3 => drop(input.splice(at..at, self.pick(pieces).bytes())),
            _ => input.extend_from_slice(&other[self.below(other.len() + 1)..]),
        }
    }
}
