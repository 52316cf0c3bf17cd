//! One field of a cron expression: `*`, `5`, `MON-FRI`, `*/15`, `8-18/2`, and lists of those.
//!
//! What the fields mean together is understood in `parse`.

use super::{
    cron::{FIRST_YEAR, LAST_YEAR, Values},
    fault::Fault,
    parse::EXPRESSION,
};

/// What a field counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Second,
    Minute,
    Hour,
    DayOfMonth,
    Month,
    /// Whose digits begin with 0 for Sunday, as in Unix.
    DayOfWeek,
    /// The same where digits mean different days in different dialects: names only.
    NamedDayOfWeek,
    Year,
}

const MONTHS: [&str; 12] = [
    "JANUARY",
    "FEBRUARY",
    "MARCH",
    "APRIL",
    "MAY",
    "JUNE",
    "JULY",
    "AUGUST",
    "SEPTEMBER",
    "OCTOBER",
    "NOVEMBER",
    "DECEMBER",
];
const WEEKDAYS: [&str; 7] = ["SUNDAY", "MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY"];

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::DayOfMonth => "day of month",
            Self::Month => "month",
            Self::DayOfWeek | Self::NamedDayOfWeek => "day of week",
            Self::Year => "year",
        }
    }

    fn is_weekday(self) -> bool {
        matches!(self, Self::DayOfWeek | Self::NamedDayOfWeek)
    }

    fn is_day(self) -> bool {
        self == Self::DayOfMonth || self.is_weekday()
    }

    /// The smallest and the largest number.
    fn bounds(self) -> (u32, u32) {
        match self {
            Self::Second | Self::Minute => (0, 59),
            Self::Hour => (0, 23),
            Self::DayOfMonth => (1, 31),
            Self::Month => (1, 12),
            Self::DayOfWeek | Self::NamedDayOfWeek => (0, 6),
            Self::Year => (FIRST_YEAR, LAST_YEAR),
        }
    }

    /// What may be written, for people.
    fn allowed(self) -> &'static str {
        match self {
            Self::Second | Self::Minute => "0 to 59",
            Self::Hour => "0 to 23",
            Self::DayOfMonth => "1 to 31",
            Self::Month => "1 to 12, or JAN to DEC",
            Self::DayOfWeek => "0 to 7, where 0 and 7 are Sunday, or SUN to SAT",
            Self::NamedDayOfWeek => "SUN to SAT",
            Self::Year => "1970 to 2100",
        }
    }

    /// The names of the numbers, from the smallest on.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Month => &MONTHS,
            Self::DayOfWeek | Self::NamedDayOfWeek => &WEEKDAYS,
            Self::Second | Self::Minute | Self::Hour | Self::DayOfMonth | Self::Year => &[],
        }
    }

    /// A number as people would write it beside `like`.
    fn written(self, value: u32, like: &str) -> String {
        let named = self.names().get(value.saturating_sub(self.bounds().0) as usize);
        match named {
            Some(name) if !like.starts_with(|c: char| c.is_ascii_digit()) => name[..3].to_string(),
            _ => value.to_string(),
        }
    }
}

/// A piece of the expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word<'a> {
    pub text: &'a str,
    /// Where it begins, in characters from 1.
    pub column: usize,
}

impl<'a> Word<'a> {
    /// The pieces between separators.
    fn split(self, separator: char) -> impl Iterator<Item = Word<'a>> {
        let mut column = self.column;
        self.text.split(separator).map(move |text| {
            let word = Word { text, column };
            column += text.chars().count() + 1;
            word
        })
    }

    pub fn fault(self, problem: impl Into<String>, remedy: impl Into<String>) -> Fault {
        Fault::new(EXPRESSION, self.text, problem, remedy).at(self.column)
    }
}

/// The values of a field; every fault of it goes to `faults`.
pub(super) fn values(unit: Unit, word: Word<'_>, faults: &mut Vec<Fault>) -> Values {
    let mut values = Values::default();
    for item in word.split(',') {
        match range(unit, item) {
            Ok(Range { low, high, step }) => {
                let base = if unit == Unit::Year { FIRST_YEAR } else { 0 };
                for value in (low..=high).step_by(step) {
                    // Sunday is 7 at the end of a range.
                    values.insert(if unit.is_weekday() { value % 7 } else { value - base });
                }
            }
            Err(fault) => faults.push(fault),
        }
    }
    values
}

/// Every `step`th number from `low` to `high`.
struct Range {
    low: u32,
    high: u32,
    step: usize,
}

fn range(unit: Unit, item: Word<'_>) -> Result<Range, Fault> {
    if item.text.is_empty() {
        let words = format!("an item of the {} is missing", unit.name());
        return Err(item.fault(words, "take out the comma, or write a value beside it"));
    }
    if item.text.starts_with('/') {
        return Err(item.fault("is no value", "write only when, not what: `*/5` for a step, and no command"));
    }
    let mut parts = item.split('/');
    let (Some(span), step, None) = (parts.next(), parts.next(), parts.next()) else {
        return Err(item.fault("has more than one step", "write one `/`, as in `*/15`"));
    };
    let (min, max) = unit.bounds();
    let (low, high) = match span.text {
        "*" => (min, max),
        "?" if !unit.is_day() => {
            return Err(span.fault("`?` belongs to the days of month and week only", "write `*`"));
        }
        "?" if step.is_some() => return Err(item.fault("`?` has no step", "write `*` in its place")),
        "?" => (min, max),
        text if text.contains('-') && !text.starts_with('-') => bounds(unit, span)?,
        _ => {
            let value = value(unit, span)?;
            (value, if step.is_some() { max.max(value) } else { value })
        }
    };
    let step = step.map_or(Ok(1), |step| self::step(unit, item, step, (low, high)))?;
    Ok(Range { low, high, step })
}

/// `a-b`.
fn bounds(unit: Unit, span: Word<'_>) -> Result<(u32, u32), Fault> {
    let mut ends = span.split('-');
    let (Some(first), Some(last), None) = (ends.next(), ends.next(), ends.next()) else {
        return Err(span.fault("is no range", format!("write two values of the {}, as in `a-b`", unit.name())));
    };
    if let (Unit::NamedDayOfWeek, [from @ b'0'..=b'7'], [to @ b'0'..=b'7']) =
        (unit, first.text.as_bytes(), last.text.as_bytes())
    {
        return Err(digits(span, &[u32::from(from - b'0'), u32::from(to - b'0')]));
    }
    let (low, mut high) = (value(unit, first)?, value(unit, last)?);
    if unit.is_weekday() && high == 0 && low > 0 && !last.text.starts_with('0') {
        high = 7;
    }
    if low <= high {
        return Ok((low, high));
    }
    let (min, max) = unit.bounds();
    let remedy = if unit == Unit::Year {
        format!("write `{}-{}`", last.text, first.text)
    } else {
        let (min, max) = (unit.written(min, last.text), unit.written(max, first.text));
        format!("a range does not wrap around: write two, `{}-{max},{min}-{}`", first.text, last.text)
    };
    Err(span.fault(format!("begins after it ends: this range of the {} is empty", unit.name()), remedy))
}

/// The step after the `/`.
fn step(unit: Unit, item: Word<'_>, step: Word<'_>, (low, high): (u32, u32)) -> Result<usize, Fault> {
    let every = format!("write a number, as in `*/15` for every 15th {}", unit.name());
    if step.text.is_empty() || !step.text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(step.fault("is no step", every));
    }
    match step.text.parse() {
        Ok(0) => Err(step.fault("is a step that goes nowhere", "write 1 or more, as in `*/15`")),
        Ok(step) if low == high || step <= (high - low) as usize => Ok(step),
        _ => {
            let only = unit.written(low, "").to_string();
            let problem = format!("steps out of the {} at once: it matches {only} alone", unit.name());
            let remedy = match unit {
                Unit::Second | Unit::Minute | Unit::Hour => {
                    format!("write `{only}`; for every {} {}s, use an `interval`", step.text, unit.name())
                }
                _ => format!("write `{only}`"),
            };
            Err(item.fault(problem, remedy))
        }
    }
}

/// One number or name.
fn value(unit: Unit, word: Word<'_>) -> Result<u32, Fault> {
    let text = word.text;
    let name = unit.name();
    let allowed = || format!("write {}", unit.allowed());
    if text.is_empty() {
        return Err(word.fault(format!("a value of the {name} is missing"), allowed()));
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        let (min, max) = unit.bounds();
        return match text.parse() {
            Ok(day) if unit == Unit::NamedDayOfWeek => Err(digits(word, &[day])),
            Ok(7) if unit == Unit::DayOfWeek => Ok(7),
            Ok(value) if (min..=max).contains(&value) => Ok(value),
            _ => Err(word.fault(format!("is out of range for the {name}"), allowed())),
        };
    }
    let upper = text.to_ascii_uppercase();
    let named = unit.names().iter().zip(unit.bounds().0..);
    let known = named.filter(|(known, _)| upper == known[..3] || upper == **known).map(|(_, value)| value).next();
    known.ok_or_else(|| {
        if let Some((problem, remedy)) = dialect(unit, &upper) {
            return word.fault(problem, remedy);
        }
        word.fault(format!("is no {name}"), allowed())
    })
}

/// A weekday, or a range of them, in digits where those of dialects differ.
fn digits(word: Word<'_>, days: &[u32]) -> Fault {
    const PROBLEM: &str = "with seconds, a digit means one day in Unix and another in Quartz";
    let written = |sunday: u32| {
        let names = days.iter().map(|day| WEEKDAYS.get((day + 7 - sunday) as usize % 7).map_or("", |name| &name[..3]));
        names.collect::<Vec<_>>().join("-")
    };
    let remedy = match (days.iter().min(), days.iter().max()) {
        (_, Some(8..)) => format!("write {}", Unit::NamedDayOfWeek.allowed()),
        // Quartz knows no 0.
        (Some(0), _) => format!("write {}", written(0)),
        _ => format!("write {} (Unix) or {} (Quartz)", written(0), written(1)),
    };
    word.fault(PROBLEM, remedy)
}

/// What other dialects have and this one does not.
fn dialect(unit: Unit, upper: &str) -> Option<(&'static str, &'static str)> {
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let last = upper.strip_suffix('L').is_some_and(|day| digits(day) || unit.is_weekday() && day.len() == 3);
    Some(if unit.is_day() && (last || upper == "LW") {
        ("`L`, the last day, is not supported", "write the days, such as `28-31` or `FRI`")
    } else if unit.is_day() && upper.strip_suffix('W').is_some_and(digits) {
        ("`W`, the nearest working day, is not supported", "write `MON-FRI` as the day of week, or the days")
    } else if unit.is_day() && upper.contains('#') {
        ("`#`, the n-th such day of a month, is not supported", "write the days: the second is one of `8-14`")
    } else if upper == "H" || upper.starts_with("H(") {
        ("`H`, a value by hash, is not supported", "write a value, and spread the firings by `jitter`")
    } else if upper.contains('~') {
        ("`~`, a value by chance, is not supported", "write a value, and spread the firings by `jitter`")
    } else if unit.is_weekday() && matches!(upper, "WEEKDAY" | "WEEKDAYS") {
        ("is no day of week", "write MON-FRI")
    } else if upper.contains(['\u{2013}', '\u{2014}']) {
        ("is written with a dash", "write a hyphen, `-`")
    } else if upper.starts_with('-') {
        ("is negative", "write numbers without a sign")
    } else {
        return None;
    })
}
