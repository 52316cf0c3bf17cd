//! All faults of a schedule at once, and the calendar of one that has none.
//!
//! The text of expressions is read in `parse`, the names of zones in `zone`.

use super::{
    fault::{Fault, MAX_FAULTS},
    next::{Calendar, EARLIEST, END, Timing},
    parse,
    spec::{Kind, LONGEST_SPAN_MICROS, SECOND_MICROS, Spec},
    zone::Zone,
};
use crate::machine::ids::Timestamp;

const EXECUTE_AT: &str = "once.execute_at";
const INTERVAL: &str = "interval.interval";

/// What [`Calendar::new`] does.
pub(super) fn calendar(spec: &Spec) -> Result<Calendar, Vec<Fault>> {
    let mut faults = Vec::new();
    let timing = timing(spec, &mut faults);
    let zone = Zone::parse(&spec.timezone).map_err(|fault| faults.push(fault)).ok();
    let within = |field, at: Option<Timestamp>, faults: &mut Vec<Fault>| {
        faults.extend(at.filter(|at| !(EARLIEST..END).contains(at)).map(|at| out_of_time(field, at)));
    };
    within("start_at", spec.start_at, &mut faults);
    within("end_at", spec.end_at, &mut faults);
    if let (Some(start), Some(end)) = (spec.start_at, spec.end_at)
        && end < start
    {
        let remedy = format!("write a time from `start_at` ({}) on", utc(start));
        faults.push(Fault::new("end_at", utc(end), "is before `start_at`", remedy));
    }
    if !(0..=LONGEST_SPAN_MICROS).contains(&spec.jitter_micros) {
        let remedy = format!("write 0 s to {} s", LONGEST_SPAN_MICROS / SECOND_MICROS);
        faults.push(Fault::new("jitter", span(spec.jitter_micros), "is out of range", remedy));
    }
    faults.truncate(MAX_FAULTS);
    match (timing, zone, u64::try_from(spec.jitter_micros)) {
        (Some(timing), Some(zone), Ok(jitter_micros)) if faults.is_empty() => {
            Ok(Calendar { timing, zone, start_at: spec.start_at, end_at: spec.end_at, jitter_micros })
        }
        _ => Err(faults),
    }
}

/// What [`Calendar::upcoming`] does.
pub(super) fn upcoming(spec: &Spec, now: Timestamp) -> Result<Calendar, Vec<Fault>> {
    let past = match spec.kind {
        Kind::Once { execute_at } if execute_at <= now && execute_at >= EARLIEST => {
            Some(Fault::new(EXECUTE_AT, utc(execute_at), "is in the past", format!("it is {} now", utc(now))))
        }
        _ => None,
    };
    let calendar = match calendar(spec) {
        Ok(calendar) => calendar,
        Err(mut faults) => {
            faults.extend(past);
            faults.truncate(MAX_FAULTS);
            return Err(faults);
        }
    };
    if let Some(past) = past {
        return Err(vec![past]);
    }
    if calendar.next(now).is_some() {
        return Ok(calendar);
    }
    Err(vec![never_again(spec, calendar, now)])
}

/// Why a schedule that could fire does not do so any more.
fn never_again(spec: &Spec, calendar: Calendar, now: Timestamp) -> Fault {
    let field = match spec.kind {
        Kind::Once { .. } => EXECUTE_AT,
        Kind::Cron { .. } => parse::EXPRESSION,
        Kind::Interval { .. } => INTERVAL,
    };
    let unbounded = Calendar { end_at: None, ..calendar.clone() };
    match (spec.end_at, unbounded.next(now)) {
        (Some(end), Some(first)) => Fault::new(
            "end_at",
            utc(end),
            "leaves no firing",
            format!("the first would be at {}: write a later `end_at`, or none", utc(first.at)),
        ),
        (None, _) | (_, None) if matches!(spec.kind, Kind::Once { .. }) => {
            let start = spec.start_at.map_or(String::new(), |start| format!(" ({})", utc(start)));
            Fault::new(
                field,
                "",
                "never fires: it is before `start_at`",
                format!("write a time from `start_at`{start} on"),
            )
        }
        (None, _) | (_, None) => {
            let from = spec.start_at.map_or(now, |start| start.max(now));
            let text = match &spec.kind {
                Kind::Cron { expression } => expression.as_str(),
                _ => "",
            };
            let problem = format!("never fires after {}", utc(from));
            Fault::new(field, text, problem, "write days and years to come, or another `gap_policy`")
        }
    }
}

fn timing(spec: &Spec, faults: &mut Vec<Fault>) -> Option<Timing> {
    if !matches!(spec.kind, Kind::Cron { .. }) {
        let named = [("gap_policy", spec.gap_policy.is_some()), ("fold_policy", spec.fold_policy.is_some())];
        for (field, _) in named.into_iter().filter(|(_, given)| *given) {
            let problem = "is for cron expressions: other schedules do not look at the clock of the zone";
            faults.push(Fault::new(field, "", problem, "take it out"));
        }
    }
    match &spec.kind {
        Kind::Once { execute_at } if !(EARLIEST..END).contains(execute_at) => {
            faults.push(out_of_time(EXECUTE_AT, *execute_at));
            None
        }
        Kind::Once { execute_at } => Some(Timing::Once(*execute_at)),
        Kind::Cron { expression } => {
            let cron = parse::expression(expression, faults)?;
            Some(Timing::cron(cron, spec.gap_policy, spec.fold_policy))
        }
        Kind::Interval { interval_micros } => interval(spec, *interval_micros, faults),
    }
}

fn interval(spec: &Spec, interval_micros: i64, faults: &mut Vec<Fault>) -> Option<Timing> {
    let problem = match interval_micros {
        ..0 => "is negative",
        0 => "is no time at all",
        1..SECOND_MICROS => "is shorter than a second",
        SECOND_MICROS..=LONGEST_SPAN_MICROS => {
            let anchor = spec.start_at.unwrap_or(spec.created_at);
            return Some(Timing::Interval { anchor, interval_micros });
        }
        _ => "is too long",
    };
    let remedy = format!("write 1 s to {} s (3,660 days)", LONGEST_SPAN_MICROS / SECOND_MICROS);
    faults.push(Fault::new(INTERVAL, span(interval_micros), problem, remedy));
    None
}

fn out_of_time(field: &'static str, at: Timestamp) -> Fault {
    Fault::new(field, utc(at), "is out of range", "write a time from 1970 to 2100")
}

/// A moment for people.
pub(crate) fn utc(at: Timestamp) -> String {
    format!("{}Z", super::firing::LocalTime(at.0))
}

/// A span for people: in seconds, exactly.
fn span(micros: i64) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    let (whole, rest) = (micros.unsigned_abs() / 1_000_000, micros.unsigned_abs() % 1_000_000);
    match rest {
        0 => format!("{sign}{whole} s"),
        _ => format!("{sign}{whole}.{} s", format!("{rest:06}").trim_end_matches('0')),
    }
}
