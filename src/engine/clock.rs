//! The clocks: the one place of the engine that reads them.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::machine::ids::{Elapsed, Tick, Timestamp};

/// Gives the time. The simulation has another one.
pub trait Clock: Send {
    /// Now: the wall clock, and noxd's own.
    fn tick(&mut self) -> Tick;
}

/// The machine's clocks. noxd's own follows CLOCK_BOOTTIME, so it runs while the machine sleeps, and continues from
/// where it was before a restart.
#[derive(Debug)]
pub struct SystemClock {
    /// noxd's own clock when this one was made, less CLOCK_BOOTTIME then.
    offset: i128,
    seed: u64,
}

impl SystemClock {
    /// Continues noxd's own clock from `elapsed`. `seed` is where chance begins.
    pub fn continue_from(elapsed: Elapsed, seed: u64) -> Self {
        Self { offset: i128::from(elapsed.0) - i128::from(boot_micros()), seed }
    }
}

impl Clock for SystemClock {
    fn tick(&mut self) -> Tick {
        let elapsed = u64::try_from(i128::from(boot_micros()) + self.offset).unwrap_or(0);
        // SplitMix64's step: distinct seeds, reproducible from the first.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        Tick { wall: wall_now(), elapsed: Elapsed(elapsed), seed: self.seed }
    }
}

/// The wall clock in microseconds since the Unix epoch. It is asked through the C library, so that a test can put it.
#[expect(clippy::disallowed_methods, reason = "this is the place that reads clocks")]
pub fn wall_now() -> Timestamp {
    timestamp(SystemTime::now())
}

/// A clock may show any time: before 1970 it is negative.
fn timestamp(time: SystemTime) -> Timestamp {
    let (since, sign) = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (since, 1),
        Err(before) => (before.duration(), -1),
    };
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX) * sign)
}

#[expect(clippy::disallowed_methods, reason = "this is the place that reads clocks")]
fn boot_micros() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_that_shows_a_time_before_1970_is_read() {
        let second = Duration::from_secs(1);
        assert_eq!(timestamp(UNIX_EPOCH - second), Timestamp(-1_000_000));
        assert_eq!(timestamp(UNIX_EPOCH + second / 2), Timestamp(500_000));
    }

    #[test]
    fn noxds_own_clock_goes_on_from_where_it_was() {
        let mut clock = SystemClock::continue_from(Elapsed(5_000_000_000), 1);
        let (first, second) = (clock.tick(), clock.tick());
        assert!(first.elapsed.0 >= 5_000_000_000 && first.elapsed.0 < 5_060_000_000, "{first:?}");
        assert!(second.elapsed >= first.elapsed && second.seed != first.seed);
    }
}
