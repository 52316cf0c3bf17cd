//! A firing, and the words in which clocks and people speak of it. Values only; `next` makes them.

use std::fmt;

use chrono::DateTime;

use crate::machine::ids::Timestamp;

/// One time at which a schedule fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Firing {
    /// The nominal time: it names the firing, and the next one is asked for by it. Jitter is not in it.
    pub at: Timestamp,
    /// What the clocks of the zone show then.
    pub local: LocalTime,
    /// What the schedule asked for: another time than `local` after a gap only.
    pub meant: LocalTime,
    /// How far the zone is ahead of UTC then.
    pub offset: UtcOffset,
    /// What daylight saving, or another change of the clocks, has to do with it.
    pub note: Note,
}

/// What a change of the clocks has to do with a firing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// Nothing.
    Plain,
    /// The clocks jumped over the time that was meant; this is the first moment after.
    AfterGap,
    /// The clocks will show this time again.
    FirstPass,
    /// The clocks have shown this time before.
    SecondPass,
}

impl Note {
    /// A few words for people; empty where there is nothing to say.
    pub fn words(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::AfterGap => "after the gap",
            Self::FirstPass => "first pass",
            Self::SecondPass => "second pass",
        }
    }
}

/// What a clock on the wall shows: microseconds since 1970 began on that clock, as if it had never been changed.
///
/// Written as `2026-03-29T02:30:00`, with a fraction if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalTime(pub i64);

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::from_timestamp_micros(self.0) {
            Some(time) => write!(f, "{:?}", time.naive_utc()),
            // Beyond the year 262142.
            None => write!(f, "{} µs", self.0),
        }
    }
}

/// How far clocks are ahead of UTC, in seconds; negative in the west. Written as `+02:00`, `-00:44:30`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UtcOffset(pub i32);

impl fmt::Display for UtcOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { '-' } else { '+' };
        let seconds = self.0.unsigned_abs();
        write!(f, "{sign}{:02}:{:02}", seconds / 3_600, seconds / 60 % 60)?;
        if seconds.is_multiple_of(60) { Ok(()) } else { write!(f, ":{:02}", seconds % 60) }
    }
}
