//! A schedule that was found good, and its firings.
//!
//! Every time that an expression matches is mapped to moments, by what the clocks of the zone do then:
//!
//! | the clocks show it | it fires |
//! |---|---|
//! | once | then |
//! | twice | the first time, the second or both: `FoldPolicy` |
//! | never | at the first moment after, or not: `GapPolicy` |
//!
//! An expression of class *wildcard* is SKIP and BOTH where nothing else was said, which is every real moment whose
//! local time matches; one of class *fixed* is RUN_AFTER and FIRST, which is each match once (S-SCHED-3). A mapping to
//! the first passes alone never goes back in time, nor does one to the second passes alone. So each is a walk forward,
//! and both passes are the earlier of two walks.

use super::{
    cron::{Class, Cron},
    fault::Fault,
    firing::{Firing, LocalTime, Note},
    spec::{FoldPolicy, GapPolicy, SECOND_MICROS, Spec},
    zone::{Occurrence, Zone},
};
use crate::machine::ids::Timestamp;

/// When 1970 began.
pub(super) const EARLIEST: Timestamp = Timestamp(0);
/// When 2101 begins: no firing from here on.
pub(super) const END: Timestamp = Timestamp(4_133_980_800 * SECOND_MICROS);

/// A checked schedule. Between [`next`](Self::next) and another, nothing is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calendar {
    pub(super) timing: Timing,
    pub(super) zone: Zone,
    pub(super) start_at: Option<Timestamp>,
    pub(super) end_at: Option<Timestamp>,
    pub(super) jitter_micros: u64,
}

/// A [`Kind`](super::Kind), understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Timing {
    Once(Timestamp),
    Cron { cron: Cron, gap: GapPolicy, fold: FoldPolicy },
    Interval { anchor: Timestamp, interval_micros: i64 },
}

impl Calendar {
    /// Checks a spec by itself, whatever the time is: so one that was accepted once is read again after a restart.
    ///
    /// # Errors
    /// Every fault, at most 20.
    pub fn new(spec: &Spec) -> Result<Self, Vec<Fault>> {
        super::check::calendar(spec)
    }

    /// Checks a spec that somebody wants from `now` on: by itself, and that it will fire.
    ///
    /// # Errors
    /// Every fault, at most 20.
    pub fn upcoming(spec: &Spec, now: Timestamp) -> Result<Self, Vec<Fault>> {
        super::check::upcoming(spec, now)
    }

    /// The first firing with a nominal time after the given one; none if it never fires again, which no schedule does
    /// after the year 2100.
    ///
    /// A pure function: `next(after).at > after`, and asking again from any moment gives the same sequence. To go on,
    /// ask with the nominal time of the last firing ([`Firing::at`]), not with the time at which it ran.
    pub fn next(&self, after: Timestamp) -> Option<Firing> {
        let floor = self.start_at.unwrap_or(EARLIEST).max(EARLIEST);
        // One microsecond before the first moment that is allowed.
        let after = after.max(Timestamp(floor.0 - 1));
        if after >= END {
            return None;
        }
        let firing = match &self.timing {
            Timing::Once(at) => (*at > after).then(|| self.moment(*at)),
            Timing::Cron { cron, gap, fold } => {
                let pass = |pass| self.next_pass(cron, *gap, pass, after);
                match fold {
                    FoldPolicy::First => pass(Pass::First),
                    FoldPolicy::Second => pass(Pass::Second),
                    FoldPolicy::Both => {
                        [pass(Pass::First), pass(Pass::Second)].into_iter().flatten().min_by_key(|firing| firing.at)
                    }
                }
            }
            Timing::Interval { anchor, interval_micros } => {
                interval_after(*anchor, *interval_micros, after).map(|at| self.moment(at))
            }
        };
        firing.filter(|firing| firing.at < END && self.end_at.is_none_or(|end| firing.at <= end))
    }

    /// All firings with a nominal time after the given one, in order.
    pub fn firings(&self, after: Timestamp) -> Firings<'_> {
        Firings { calendar: self, after: Some(after) }
    }

    /// When a firing is due: its nominal time and its share of the jitter, which is the same for the same seed.
    ///
    /// A firing is due before the nominal time of the next one, however large the jitter is, so the order stays.
    pub fn due(&self, firing: &Firing, seed: u64) -> Timestamp {
        if self.jitter_micros == 0 {
            return firing.at;
        }
        let room = self.next(firing.at).map_or(u64::MAX, |next| next.at.0.abs_diff(firing.at.0));
        let most = u128::from(self.jitter_micros.min(room));
        let chance = u128::from(mix(seed ^ mix(firing.at.0.cast_unsigned())));
        // The upper half of the product: below `most`, which is less than 2^63.
        let share = i64::try_from((most * chance) >> 64).unwrap_or_default();
        Timestamp(firing.at.0.saturating_add(share))
    }

    /// What people call the zone's offset at a moment, such as `CEST`; none where they call it nothing.
    pub fn abbreviation(&self, at: Timestamp) -> Option<String> {
        self.zone.abbreviation(at)
    }

    /// The next firing of an expression, where of two passes only one counts.
    fn next_pass(&self, cron: &Cron, gap: GapPolicy, pass: Pass, after: Timestamp) -> Option<Firing> {
        let mut from = self.resume(pass, after);
        loop {
            let meant = cron.at_or_after(from)?;
            // Whatever the tables of zones say, this goes forward, and so it ends.
            let past = |end: LocalTime| end.max(LocalTime(meant.0 + 1));
            match self.zone.occurrence(meant) {
                Occurrence::Once(at) => return Some(self.firing(at, meant, Note::Plain)),
                Occurrence::Twice(fold) => match pass {
                    Pass::Second => return Some(self.firing(fold.second, meant, Note::SecondPass)),
                    Pass::First if fold.first > after => return Some(self.firing(fold.first, meant, Note::FirstPass)),
                    // `after` is in the second pass, and the first is over.
                    Pass::First => from = past(fold.end),
                },
                Occurrence::Never(jump) => match gap {
                    GapPolicy::RunAfter => return Some(self.firing(jump.after, meant, Note::AfterGap)),
                    GapPolicy::Skip => from = past(jump.end),
                },
            }
        }
    }

    /// The first local time whose moment can be after the given one.
    fn resume(&self, pass: Pass, after: Timestamp) -> LocalTime {
        let local = self.zone.local(after);
        match self.zone.occurrence(local) {
            // In the first pass, all of the second one is still to come.
            Occurrence::Twice(fold) if pass == Pass::Second && fold.first == after => fold.begin,
            _ => LocalTime(local.0 + 1),
        }
    }

    /// A firing at a moment that was asked for as such.
    fn moment(&self, at: Timestamp) -> Firing {
        let local = self.zone.local(at);
        let note = match self.zone.occurrence(local) {
            Occurrence::Twice(fold) if fold.first == at => Note::FirstPass,
            Occurrence::Twice(_) => Note::SecondPass,
            Occurrence::Once(_) | Occurrence::Never(_) => Note::Plain,
        };
        self.firing(at, local, note)
    }

    fn firing(&self, at: Timestamp, meant: LocalTime, note: Note) -> Firing {
        Firing { at, local: self.zone.local(at), meant, offset: self.zone.offset(at), note }
    }
}

impl Timing {
    /// An expression with the policies of its class, where nothing else was said.
    pub(super) fn cron(cron: Cron, gap: Option<GapPolicy>, fold: Option<FoldPolicy>) -> Self {
        let (usual_gap, usual_fold) = match cron.class {
            Class::Wildcard => (GapPolicy::Skip, FoldPolicy::Both),
            Class::Fixed => (GapPolicy::RunAfter, FoldPolicy::First),
        };
        Self::Cron { cron, gap: gap.unwrap_or(usual_gap), fold: fold.unwrap_or(usual_fold) }
    }
}

/// Which of two passes counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    First,
    Second,
}

/// The firings of a [`Calendar`], see [`Calendar::firings`]. At most those until 2100, which can be very many: take some.
#[derive(Clone, Debug)]
pub struct Firings<'a> {
    calendar: &'a Calendar,
    after: Option<Timestamp>,
}

impl Iterator for Firings<'_> {
    type Item = Firing;

    fn next(&mut self) -> Option<Firing> {
        let firing = self.calendar.next(self.after?);
        self.after = firing.map(|firing| firing.at);
        firing
    }
}

/// The first of anchor, anchor + interval, anchor + 2 · interval … after a moment.
fn interval_after(anchor: Timestamp, interval_micros: i64, after: Timestamp) -> Option<Timestamp> {
    if after < anchor {
        return Some(anchor);
    }
    let passed = (after.0.checked_sub(anchor.0)?).checked_div(interval_micros)?.checked_add(1)?;
    Some(Timestamp(anchor.0.checked_add(passed.checked_mul(interval_micros)?)?))
}

/// The step of SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).
fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}
