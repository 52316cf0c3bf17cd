//! Time zones: what clocks show at a moment, and at which moments they show a given time.
//!
//! The data is the IANA database as `chrono-tz` compiles it in, up to the year 2100. What a schedule does in gaps and
//! folds is decided in `next`.

use chrono::{DateTime, LocalResult, NaiveDateTime, Offset, TimeZone};
use chrono_tz::{GapInfo, OffsetName, TZ_VARIANTS, Tz, TzOffset};

use super::{
    fault::Fault,
    firing::{LocalTime, UtcOffset},
    spec::SECOND_MICROS,
};
use crate::machine::ids::Timestamp;

/// The version of the time zone database that is compiled in, such as `2025b`.
pub fn tzdb_version() -> &'static str {
    chrono_tz::IANA_TZDB_VERSION
}

/// A time zone. Moments and local times are within the years that `next` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Zone(Tz);

/// The moments at which clocks show a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occurrence {
    /// The usual case.
    Once(Timestamp),
    /// The clocks are set back over it.
    Twice(Fold),
    /// The clocks jump over it.
    Never(Gap),
}

/// Clocks are set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fold {
    /// When they show the time first.
    pub first: Timestamp,
    /// When they show it again.
    pub second: Timestamp,
    /// The first time that they show twice.
    pub begin: LocalTime,
    /// The first time after those that they show twice.
    pub end: LocalTime,
}

/// Clocks jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    /// The first moment after the jump.
    pub after: Timestamp,
    /// What they show then.
    pub end: LocalTime,
}

impl Zone {
    /// Takes an IANA name; empty is UTC.
    pub fn parse(name: &str) -> Result<Self, Fault> {
        if name.is_empty() {
            return Ok(Self(Tz::UTC));
        }
        name.parse().map(Self).map_err(|_| unknown(name))
    }

    /// What clocks show at a moment.
    pub fn local(self, at: Timestamp) -> LocalTime {
        LocalTime(at.0 + i64::from(self.offset(at).0) * SECOND_MICROS)
    }

    /// How far clocks are ahead of UTC at a moment.
    pub fn offset(self, at: Timestamp) -> UtcOffset {
        UtcOffset(self.0.offset_from_utc_datetime(&naive(at.0)).fix().local_minus_utc())
    }

    /// What people call the offset at a moment, such as `CEST`; none where they call it nothing.
    pub fn abbreviation(self, at: Timestamp) -> Option<String> {
        let offset = self.0.offset_from_utc_datetime(&naive(at.0));
        // Zones without a name for it have the number in its place.
        offset.abbreviation().filter(|name| name.starts_with(|c: char| c.is_ascii_alphabetic())).map(str::to_string)
    }

    /// When clocks show a time.
    pub fn occurrence(self, local: LocalTime) -> Occurrence {
        let shown = naive(local.0);
        let minus = |offset: UtcOffset| Timestamp(local.0 - i64::from(offset.0) * SECOND_MICROS);
        let seconds = |offset: &TzOffset| UtcOffset(offset.fix().local_minus_utc());
        match self.0.offset_from_local_datetime(&shown) {
            LocalResult::Single(offset) => Occurrence::Once(minus(seconds(&offset))),
            LocalResult::Ambiguous(before, after) => {
                let (before, after) = (seconds(&before), seconds(&after));
                let (first, second) = (minus(before), minus(after));
                let change = self.change_between(first, second);
                let shows = |offset: UtcOffset| LocalTime(change.0 + i64::from(offset.0) * SECOND_MICROS);
                Occurrence::Twice(Fold { first, second, begin: shows(after), end: shows(before) })
            }
            LocalResult::None => {
                let begin = GapInfo::new(&shown, &self.0).and_then(|gap| gap.begin);
                let after = match begin {
                    Some((begin, offset)) => begin.and_utc().timestamp() - i64::from(seconds(&offset).0),
                    // The database begins with an offset that holds since ever, so that a gap has something before it.
                    None => local.0.div_euclid(SECOND_MICROS),
                };
                let after = Timestamp(after * SECOND_MICROS);
                Occurrence::Never(Gap { after, end: self.local(after) })
            }
        }
    }

    /// The moment at which the offset changes, where it does so once after `from`, and at `to` at the latest.
    fn change_between(self, from: Timestamp, to: Timestamp) -> Timestamp {
        let before = self.offset(from);
        let (mut low, mut high) = (from.0, to.0);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.offset(Timestamp(middle)) == before { low = middle } else { high = middle }
        }
        Timestamp(high)
    }
}

/// Out of the years that chrono knows, 1970: `next` asks for none such.
fn naive(micros: i64) -> NaiveDateTime {
    DateTime::from_timestamp_micros(micros).unwrap_or_default().naive_utc()
}

/// Longest name that is compared with the known ones. The longest of those has 32.
const MAX_NAME_BYTES: usize = 64;

/// Abbreviations that people take for zones, and the zone that most of them mean.
const ABBREVIATIONS: &[(&str, &str)] = &[
    ("ACST", "Australia/Adelaide"),
    ("AEDT", "Australia/Sydney"),
    ("AEST", "Australia/Sydney"),
    ("AKST", "America/Anchorage"),
    ("AWST", "Australia/Perth"),
    ("BRT", "America/Sao_Paulo"),
    ("BST", "Europe/London"),
    ("CAT", "Africa/Maputo"),
    ("CDT", "America/Chicago"),
    ("CEST", "Europe/Berlin"),
    ("CST", "America/Chicago"),
    ("EAT", "Africa/Nairobi"),
    ("EDT", "America/New_York"),
    ("EEST", "Europe/Kyiv"),
    ("IST", "Asia/Kolkata"),
    ("JST", "Asia/Tokyo"),
    ("KST", "Asia/Seoul"),
    ("MDT", "America/Denver"),
    ("MSK", "Europe/Moscow"),
    ("NZDT", "Pacific/Auckland"),
    ("NZST", "Pacific/Auckland"),
    ("PDT", "America/Los_Angeles"),
    ("PST", "America/Los_Angeles"),
    ("SGT", "Asia/Singapore"),
    ("WEST", "Europe/Lisbon"),
    ("Z", "UTC"),
];

fn unknown(name: &str) -> Fault {
    let fault = |problem: &str, remedy: String| Fault::new("timezone", name, problem, remedy);
    const UNKNOWN: &str = "is no IANA time zone";
    if name.len() > MAX_NAME_BYTES {
        return fault(UNKNOWN, "write a name such as `Europe/Berlin`".into());
    }
    if let Some(hours) = fixed_offset(name) {
        let zone = match hours {
            Some(0) => "`UTC`".into(),
            // The sign in these names is that of POSIX: west is positive.
            Some(hours @ -12..=14) => format!("`Etc/GMT{:+}` (where the sign is turned)", -hours),
            _ => String::new(),
        };
        let or = if zone.is_empty() { "" } else { ", or " };
        let remedy = format!("write {zone}{or}a region such as `Europe/Berlin`, whose clocks change as people's do");
        return fault("is an offset, not a zone", remedy);
    }
    if let Some((_, zone)) = ABBREVIATIONS.iter().find(|(short, _)| short.eq_ignore_ascii_case(name)) {
        return fault(
            "is an abbreviation, and more than one zone may have it",
            format!("write a zone such as `{zone}`"),
        );
    }
    match nearest(name) {
        Some(near) => fault(UNKNOWN, format!("did you mean `{near}`?")),
        None => fault(UNKNOWN, "write a name such as `Europe/Berlin`, `America/New_York` or `UTC`".into()),
    }
}

/// Whether a name is an offset such as `+02:00`, `UTC-5` or `GMT+5:30`; inside, its hours where it has no minutes.
fn fixed_offset(name: &str) -> Option<Option<i32>> {
    let upper = name.to_ascii_uppercase();
    let rest = upper.strip_prefix("UTC").or_else(|| upper.strip_prefix("GMT")).unwrap_or(&upper);
    let (sign, digits) = match rest.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let (hours, minutes) = match digits.split_once(':') {
        Some((hours, minutes)) => (hours, minutes),
        None if digits.len() > 2 && digits.is_ascii() => digits.split_at(digits.len() - 2),
        None => (digits, ""),
    };
    if !minutes.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let hours: i32 = hours.parse().ok()?;
    Some(minutes.bytes().all(|b| b == b'0').then_some(sign * hours))
}

/// The name that somebody may have meant: the same but for case and spaces, the zone of a city, or one that is a few
/// letters away.
fn nearest(name: &str) -> Option<&'static str> {
    let meant: Vec<char> = name.to_lowercase().replace(' ', "_").chars().collect();
    let most = (meant.len() / 4).max(1);
    let ranked = TZ_VARIANTS.iter().filter_map(|zone| {
        let known = zone.name().to_lowercase();
        let city = known.rsplit('/').next().unwrap_or_default();
        // Names are ASCII. Lengths that are too far apart need no look at the letters.
        let near = |to: &str| (to.len().abs_diff(meant.len()) <= most).then(|| distance(&meant, to));
        let [whole, city] = [near(&known), near(city)];
        let least = whole.into_iter().chain(city).min().filter(|least| *least <= most)?;
        // The whole name is the better hint where both are as near.
        Some((least, city == Some(least), zone.name()))
    });
    ranked.min().map(|(.., name)| name)
}

/// How many letters have to be put in, taken out or changed (Levenshtein).
fn distance(from: &[char], to: &str) -> usize {
    let mut row: Vec<usize> = (0..=from.len()).collect();
    for (line, letter) in to.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for (column, other) in from.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[from.len()]
}
