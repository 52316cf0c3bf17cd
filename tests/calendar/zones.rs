//! The zones of the comparison, each with the two years in which its clocks did, or will do, something worth a look.

use chrono::{DateTime, Offset, TimeZone};
use chrono_tz::Tz;

pub struct Zone {
    pub name: &'static str,
    /// The first of two years.
    pub year: i32,
    tz: Tz,
}

/// Name, first year, and how many changes the two years have: fewer would make the comparison void.
pub const ZONES: [(&str, i32, usize); 12] = [
    ("UTC", 2026, 0),
    // Around 2 at night: most of the world's cron jobs.
    ("America/New_York", 2026, 4),
    ("Europe/London", 2026, 4),
    // By half an hour.
    ("Australia/Lord_Howe", 2026, 4),
    // By two hours.
    ("Antarctica/Troll", 2026, 4),
    // At midnight: a day that begins at 1.
    ("America/Havana", 2026, 4),
    ("Asia/Beirut", 2026, 4),
    ("Africa/Cairo", 2026, 4),
    // Back for Ramadan, a month apart.
    ("Africa/Casablanca", 2026, 4),
    // Over the date line: 30 December 2011 did not exist.
    ("Pacific/Apia", 2011, 5),
    // At one minute past midnight.
    ("America/St_Johns", 2010, 4),
    // By an hour from an odd quarter.
    ("Pacific/Chatham", 2026, 4),
];

impl Zone {
    pub fn all() -> Vec<Self> {
        ZONES.iter().map(|(name, year, _)| Self { name, year: *year, tz: name.parse().expect("it exists") }).collect()
    }

    /// What clocks show, in seconds since 1970 began on them.
    pub fn local(&self, second: i64) -> i64 {
        let utc = DateTime::from_timestamp(second, 0).expect("it is in range").naive_utc();
        second + i64::from(self.tz.offset_from_utc_datetime(&utc).fix().local_minus_utc())
    }

    /// Two years, in seconds since 1970.
    pub fn years(&self) -> (i64, i64) {
        let new_year = |year| {
            chrono::NaiveDate::from_ymd_opt(year, 1, 1).expect("it exists").and_hms_opt(0, 0, 0).expect("it does")
        };
        (new_year(self.year).and_utc().timestamp(), new_year(self.year + 2).and_utc().timestamp())
    }

    /// The moments at which the clocks are changed, found minute by minute.
    pub fn changes(&self) -> Vec<i64> {
        let (from, to) = self.years();
        let offset = |second| self.local(second) - second;
        (from + 60..to).step_by(60).filter(|second| offset(*second) != offset(second - 60)).collect()
    }
}
