//! A cron expression that was understood: which times of a clock it matches. No zones here, and no text: `parse` makes
//! it, `next` asks it.
//!
//! Sets of numbers are bits, so that the next match is found by counting zeros, and a search through all years ends
//! after 131 · 12 months.

use chrono::{DateTime, Datelike, NaiveDate, Timelike};

use super::{firing::LocalTime, spec::SECOND_MICROS};

/// The years in which an expression can match.
pub(super) const FIRST_YEAR: u32 = 1970;
/// The years in which an expression can match.
pub(super) const LAST_YEAR: u32 = 2100;

/// A set of numbers, as the bits of its members. Those of years are counted from [`FIRST_YEAR`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Values([u64; 3]);

impl Values {
    pub const ALL: Self = Self([u64::MAX; 3]);

    pub fn one(value: u32) -> Self {
        let mut values = Self::default();
        values.insert(value);
        values
    }

    pub fn insert(&mut self, value: u32) {
        self.0[value as usize / 64] |= 1 << (value % 64);
    }

    fn has(&self, value: u32) -> bool {
        self.0[value as usize / 64] >> (value % 64) & 1 == 1
    }

    /// The smallest member from `low` on, where all members are below 64.
    fn from(&self, low: u32) -> Option<u32> {
        let rest = self.0[0].checked_shr(low)?;
        (rest != 0).then(|| low + rest.trailing_zeros())
    }
}

/// How the two fields of days go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Days {
    /// A day matches if both fields match it.
    Both,
    /// A day matches if one of them does.
    Either,
}

/// Whether an expression means times of the day, or goes with the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Second, minute or hour begins with `*`.
    Wildcard,
    /// Anything else.
    Fixed,
}

/// What an expression matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cron {
    pub seconds: Values,
    pub minutes: Values,
    pub hours: Values,
    /// From 1.
    pub days_of_month: Values,
    /// From 1.
    pub months: Values,
    /// From 0, Sunday.
    pub days_of_week: Values,
    /// From 0, [`FIRST_YEAR`].
    pub years: Values,
    pub days: Days,
    pub class: Class,
}

impl Cron {
    /// The first time that matches, from the given one on. None: no clock shows such a time until the last year ends.
    pub fn at_or_after(&self, from: LocalTime) -> Option<LocalTime> {
        let whole = from.0.checked_add(SECOND_MICROS - 1)?.div_euclid(SECOND_MICROS);
        // 1970 begins at 0.
        let from = DateTime::from_timestamp(whole.max(0), 0)?.naive_utc();
        let mut date = self.date_from(from.date())?;
        if date == from.date() {
            if let Some(second) = self.second_of_day(from.time().num_seconds_from_midnight()) {
                return Some(local(date, second));
            }
            date = self.date_from(date.succ_opt()?)?;
        }
        Some(local(date, self.second_of_day(0)?))
    }

    /// The first second that matches in a day, from the given one on.
    fn second_of_day(&self, from: u32) -> Option<u32> {
        let (hour, minute, second) = (from / 3_600, from / 60 % 60, from % 60);
        let in_minute = |hour: u32, minute: u32, from: u32| {
            self.seconds.from(from).map(|second| hour * 3_600 + minute * 60 + second)
        };
        let in_hour = |hour: u32, from: u32| self.minutes.from(from).and_then(|minute| in_minute(hour, minute, 0));
        let this_hour = || {
            let this_minute = self.minutes.has(minute).then(|| in_minute(hour, minute, second)).flatten();
            this_minute.or_else(|| in_hour(hour, minute + 1))
        };
        let this_hour = self.hours.has(hour).then(this_hour).flatten();
        this_hour.or_else(|| self.hours.from(hour + 1).and_then(|hour| in_hour(hour, 0)))
    }

    fn date_from(&self, from: NaiveDate) -> Option<NaiveDate> {
        let (mut month, mut day) = (from.month(), from.day());
        for year in u32::try_from(from.year()).ok()?..=LAST_YEAR {
            let known = year.checked_sub(FIRST_YEAR).is_some_and(|year| self.years.has(year));
            while known && let Some(next) = self.months.from(month) {
                let low = if next == month { day } else { 1 };
                if let Some(day) = self.day_of(year, next, low) {
                    return NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, next, day);
                }
                (month, day) = (next + 1, 1);
            }
            (month, day) = (1, 1);
        }
        None
    }

    /// The first day that matches in a month, from the given one on.
    fn day_of(&self, year: u32, month: u32, from: u32) -> Option<u32> {
        let first = NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, month, 1)?;
        let weekday = first.weekday().num_days_from_sunday();
        // The bits of the week over and over, so that bit 1 is the weekday of the first.
        let week = self.days_of_week.0[0] & 0x7F;
        let weeks = (0..6).fold(0, |weeks, n| weeks | week << (7 * n)) >> weekday << 1;
        let days = match self.days {
            Days::Both => self.days_of_month.0[0] & weeks,
            Days::Either => self.days_of_month.0[0] | weeks,
        };
        let all = (1 << (u32::from(first.num_days_in_month()) + 1)) - 2;
        Values([days & all, 0, 0]).from(from)
    }
}

fn local(date: NaiveDate, second: u32) -> LocalTime {
    let midnight = date.and_time(chrono::NaiveTime::MIN).and_utc().timestamp();
    LocalTime((midnight + i64::from(second)) * SECOND_MICROS)
}
