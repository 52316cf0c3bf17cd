//! The text of a cron expression: which dialect it is in, its macros, and its fields together (S-SCHED-2).
//!
//! One field by itself is read in `field`.

use super::{
    cron::{Class, Cron, Days, Values},
    fault::Fault,
    field::{self, Unit, Word},
    firing::LocalTime,
    next::EARLIEST,
    spec::MAX_EXPRESSION_BYTES,
};

/// The field that every fault here is in.
pub(super) const EXPRESSION: &str = "cron.expression";

const EXAMPLE: &str = "write five fields such as `0 9 * * MON-FRI`, or a macro such as `@daily`";

const MACROS: &[(&str, &str)] = &[
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// Reads an expression; every fault goes to `faults`. None if there is one.
pub(super) fn expression(text: &str, faults: &mut Vec<Fault>) -> Option<Cron> {
    if text.len() > MAX_EXPRESSION_BYTES {
        let problem = format!("has {} bytes; an expression has at most {MAX_EXPRESSION_BYTES}", text.len());
        faults.push(Fault::new(EXPRESSION, text, problem, "use ranges and steps, or more than one schedule"));
        return None;
    }
    let before = faults.len();
    let mut words = words(text);
    if let Some(zone) = words.first().copied().filter(|word| names_zone(word.text)) {
        let name = zone.text.split_once('=').map_or("", |(_, name)| name);
        faults.push(zone.fault(
            "a zone is no part of the expression",
            format!("take it out and write `timezone: {}`", super::fault::shown(name)),
        ));
        words.remove(0);
    }
    let cron = match words.first() {
        None if faults.len() > before => None,
        None => {
            faults.push(Fault::new(EXPRESSION, "", "is empty", EXAMPLE));
            None
        }
        Some(first) if first.text.starts_with('@') => shorthand(*first, &words[1..], faults),
        Some(_) => fields(&words, text, faults),
    };
    let cron = cron.filter(|_| faults.len() == before)?;
    if cron.at_or_after(LocalTime(EARLIEST.0)).is_none() {
        faults.push(never(&words));
        return None;
    }
    Some(cron)
}

fn names_zone(word: &str) -> bool {
    let name = word.split_once('=').map_or("", |(name, _)| name);
    name.eq_ignore_ascii_case("TZ") || name.eq_ignore_ascii_case("CRON_TZ")
}

/// The words between white space.
fn words(text: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut column = 1;
    for piece in text.split(|c: char| c.is_ascii_whitespace()) {
        if !piece.is_empty() {
            words.push(Word { text: piece, column });
        }
        column += piece.chars().count() + 1;
    }
    words
}

/// A word that begins with `@`, and what follows it.
fn shorthand(word: Word<'_>, rest: &[Word<'_>], faults: &mut Vec<Fault>) -> Option<Cron> {
    let lower = word.text.to_ascii_lowercase();
    let known = MACROS.iter().find(|(name, _)| *name == lower);
    let Some((_, expansion)) = known else {
        let span = rest.first().map_or("5m", |word| word.text);
        faults.push(match lower.as_str() {
            "@every" => word.fault(
                "is not part of cron",
                format!("use a schedule of kind `interval`, with `interval: {}`", super::fault::shown(span)),
            ),
            "@reboot" => word.fault("a schedule has times only", "start the workflow from whatever starts the machine"),
            _ => {
                let names: Vec<&str> = MACROS.iter().map(|(name, _)| *name).collect();
                word.fault("is no macro", format!("write one of {}", names.join(", ")))
            }
        });
        return None;
    };
    if let Some(next) = rest.first() {
        faults.push(next.fault(format!("nothing may follow `{lower}`"), "take it out, or write all the fields"));
        return None;
    }
    fields(&words(expansion), expansion, faults)
}

const UNIX: [Unit; 5] = [Unit::Minute, Unit::Hour, Unit::DayOfMonth, Unit::Month, Unit::DayOfWeek];
const WITH_SECONDS: [Unit; 7] =
    [Unit::Second, Unit::Minute, Unit::Hour, Unit::DayOfMonth, Unit::Month, Unit::NamedDayOfWeek, Unit::Year];

fn fields(words: &[Word<'_>], text: &str, faults: &mut Vec<Fault>) -> Option<Cron> {
    let units: &[Unit] = match words.len() {
        5 => &UNIX,
        6 | 7 => &WITH_SECONDS,
        count => {
            faults.push(count_fault(words, count, text));
            return None;
        }
    };
    let before = faults.len();
    // What is not written: at second 0, in any year.
    let mut cron = Cron {
        seconds: Values::one(0),
        minutes: Values::default(),
        hours: Values::default(),
        days_of_month: Values::default(),
        months: Values::default(),
        days_of_week: Values::default(),
        years: Values::ALL,
        days: Days::Both,
        class: Class::Fixed,
    };
    let mut stars = Vec::new();
    for (unit, word) in units.iter().zip(words) {
        let values = field::values(*unit, *word, faults);
        let starts_free = word.text.starts_with(['*', '?']);
        match unit {
            Unit::Second => cron.seconds = values,
            Unit::Minute => cron.minutes = values,
            Unit::Hour => cron.hours = values,
            Unit::DayOfMonth => cron.days_of_month = values,
            Unit::Month => cron.months = values,
            Unit::DayOfWeek | Unit::NamedDayOfWeek => cron.days_of_week = values,
            Unit::Year => cron.years = values,
        }
        if starts_free {
            stars.push(*unit);
        }
    }
    if [Unit::Second, Unit::Minute, Unit::Hour].iter().any(|unit| stars.contains(unit)) {
        cron.class = Class::Wildcard;
    }
    // As Vixie's cron has it, by the first character: `*/2` is free, too.
    if words.len() == 5 && !stars.contains(&Unit::DayOfMonth) && !stars.contains(&Unit::DayOfWeek) {
        cron.days = Days::Either;
    }
    (faults.len() == before).then_some(cron)
}

fn count_fault(words: &[Word<'_>], count: usize, text: &str) -> Fault {
    if let Some(extra) = words.get(WITH_SECONDS.len()) {
        let problem = format!("is one too many: there are {count} fields, at most 7");
        return extra.fault(problem, "write only when, not what: five fields, or up to seven with the seconds first");
    }
    let missing: Vec<&str> = UNIX.iter().skip(count).map(|unit| unit.name()).collect();
    let fields = if count == 1 { "1 field".into() } else { format!("{count} fields") };
    let problem = format!("has {fields} of at least five");
    let remedy = format!("write the {} as well, `*` for any; or a macro such as `@daily`", missing.join(", the "));
    Fault::new(EXPRESSION, "", problem, remedy).at(text.trim_ascii_end().chars().count() + 1)
}

/// No clock ever shows what the expression says. All values are in range, so it is the date that does not exist.
fn never(words: &[Word<'_>]) -> Fault {
    match words {
        [_, _, day, month, _] | [_, _, _, day, month, _] => {
            let problem = format!("never fires: month `{}` has no such day", super::fault::shown(month.text));
            day.fault(problem, "write a day that the month has")
        }
        [_, _, _, day, ..] => day.fault(
            "never fires: no date has this day, month, weekday and year together",
            "write days that these months have in these years",
        ),
        _ => Fault::new(EXPRESSION, "", "never fires", EXAMPLE),
    }
}
