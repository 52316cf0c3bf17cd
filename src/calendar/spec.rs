//! A schedule as people write it: plain values, none of them checked. [`Calendar::new`](super::Calendar::new) checks.

use crate::machine::ids::Timestamp;

/// A second, in the unit of [`Timestamp`].
pub const SECOND_MICROS: i64 = 1_000_000;
/// Ten years: a longer interval or jitter is a mistake.
pub const LONGEST_SPAN_MICROS: i64 = 3_660 * 86_400 * SECOND_MICROS;
/// Longest cron expression that is read. Seven fields with every value written out are shorter.
pub const MAX_EXPRESSION_BYTES: usize = 1_024;

/// When something shall happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Once, by the clock, or every so often.
    pub kind: Kind,
    /// The IANA name of the zone whose clocks count, such as `Europe/Berlin`. Empty: UTC.
    pub timezone: String,
    /// What becomes of a time that clocks jump over. None: by the class of the expression (S-SCHED-3). Cron only.
    pub gap_policy: Option<GapPolicy>,
    /// What becomes of a time that clocks show twice. None: by the class of the expression (S-SCHED-3). Cron only.
    pub fold_policy: Option<FoldPolicy>,
    /// No firing before; intervals count from here.
    pub start_at: Option<Timestamp>,
    /// No firing after; one at this very moment still happens.
    pub end_at: Option<Timestamp>,
    /// Each firing is delayed by less than this many microseconds: 0 to [`LONGEST_SPAN_MICROS`].
    pub jitter_micros: i64,
    /// When the schedule was made: intervals without `start_at` count from here.
    pub created_at: Timestamp,
}

impl Spec {
    /// A schedule of a kind with nothing else said: in UTC, from its creation on, for ever.
    pub fn new(kind: Kind, created_at: Timestamp) -> Self {
        Self {
            kind,
            timezone: String::new(),
            gap_policy: None,
            fold_policy: None,
            start_at: None,
            end_at: None,
            jitter_micros: 0,
            created_at,
        }
    }
}

/// The three kinds of schedules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// At one moment.
    Once {
        /// The moment.
        execute_at: Timestamp,
    },
    /// Whenever the clocks of the zone show what the expression says.
    Cron {
        /// Five fields, six or seven with the seconds first, or a macro such as `@daily`.
        expression: String,
    },
    /// Every so often by elapsed time, whatever clocks show: anchor + n · interval, so that nothing drifts.
    Interval {
        /// The span in microseconds: [`SECOND_MICROS`] to [`LONGEST_SPAN_MICROS`].
        interval_micros: i64,
    },
}

/// What becomes of a time that the clocks jump over, as in spring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapPolicy {
    /// It fires at the first moment after the gap; several such times fire once.
    RunAfter,
    /// It does not fire on that day.
    Skip,
}

/// What becomes of a time that the clocks show twice, as in autumn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoldPolicy {
    /// It fires when they show it first.
    First,
    /// It fires when they show it again.
    Second,
    /// It fires both times.
    Both,
}
