//! Schedules: what a client wrote to times that can be asked, or to every fault at once; and back.

use super::{micros_of, time_of, timestamp};
use crate::{
    calendar::{Calendar, Fault, Firing, FoldPolicy, GapPolicy, Kind, Spec},
    machine::{
        ids::Timestamp,
        workflow::{Reason, Violation},
    },
    proto::v1,
};

/// The field of a request that has the schedule.
const FIELD: &str = "schedule";

fn fault(field: &str, reason: Reason, description: impl Into<String>) -> Violation {
    Violation { field: format!("{FIELD}.{field}"), reason, description: description.into() }
}

/// When a schedule shall fire, counted from its creation; what cannot be understood goes to `faults`.
pub fn spec(schedule: &v1::Schedule, created_at: Timestamp, faults: &mut Vec<Violation>) -> Option<Spec> {
    let kind = kind(schedule, faults);
    let jitter = schedule.jitter.as_ref().map_or(0, |jitter| span("jitter", jitter, faults));
    let unknown = |field, number: i32| fault(field, Reason::InvalidValue, format!("{number} is no value of it"));
    let gap_policy = match v1::GapPolicy::try_from(schedule.gap_policy) {
        Ok(v1::GapPolicy::Unspecified) => None,
        Ok(v1::GapPolicy::RunAfter) => Some(GapPolicy::RunAfter),
        Ok(v1::GapPolicy::Skip) => Some(GapPolicy::Skip),
        Err(_) => {
            faults.push(unknown("gap_policy", schedule.gap_policy));
            None
        }
    };
    let fold_policy = match v1::FoldPolicy::try_from(schedule.fold_policy) {
        Ok(v1::FoldPolicy::Unspecified) => None,
        Ok(v1::FoldPolicy::First) => Some(FoldPolicy::First),
        Ok(v1::FoldPolicy::Second) => Some(FoldPolicy::Second),
        Ok(v1::FoldPolicy::Both) => Some(FoldPolicy::Both),
        Err(_) => {
            faults.push(unknown("fold_policy", schedule.fold_policy));
            None
        }
    };
    Some(Spec {
        timezone: schedule.timezone.clone(),
        gap_policy,
        fold_policy,
        start_at: schedule.start_at.as_ref().map(time_of),
        end_at: schedule.end_at.as_ref().map(time_of),
        jitter_micros: jitter,
        ..Spec::new(kind?, created_at)
    })
}

fn kind(schedule: &v1::Schedule, faults: &mut Vec<Violation>) -> Option<Kind> {
    use v1::schedule::ScheduleType;
    let missing = |field: &str, words: &str| fault(field, Reason::MissingValue, words);
    match &schedule.schedule_type {
        Some(ScheduleType::Cron(cron)) => Some(Kind::Cron { expression: cron.expression.clone() }),
        Some(ScheduleType::Once(once)) => match &once.execute_at {
            Some(at) => Some(Kind::Once { execute_at: time_of(at) }),
            None => {
                faults.push(missing("once.execute_at", "say when it shall fire"));
                None
            }
        },
        Some(ScheduleType::Interval(interval)) => match &interval.interval {
            Some(every) => Some(Kind::Interval { interval_micros: span("interval.interval", every, faults) }),
            None => {
                faults.push(missing("interval.interval", "say how often it shall fire"));
                None
            }
        },
        None => {
            let words = "a schedule has one of `once`, `cron` and `interval`";
            faults.push(Violation { field: FIELD.into(), reason: Reason::MissingValue, description: words.into() });
            None
        }
    }
}

fn span(field: &'static str, span: &pbjson_types::Duration, faults: &mut Vec<Violation>) -> i64 {
    match micros_of(&format!("{FIELD}.{field}"), span) {
        Ok(micros) => i64::try_from(micros).unwrap_or(i64::MAX),
        Err(violation) => {
            faults.push(violation);
            // In range, so that it is not told of twice.
            crate::calendar::SECOND_MICROS
        }
    }
}

/// A fault of the calendar, as one of a request.
pub fn violation(found: &Fault) -> Violation {
    let reason = if found.field == "cron.expression" { Reason::InvalidCronExpression } else { Reason::InvalidValue };
    let column = found.column.map_or(String::new(), |column| format!("column {column}: "));
    let token = if found.token.is_empty() { String::new() } else { format!("`{}` ", found.token) };
    fault(found.field, reason, format!("{column}{token}{}; {}", found.problem, found.remedy))
}

/// The calendar of a schedule that somebody wants from a time on.
///
/// # Errors
/// Every fault at once.
pub fn upcoming(schedule: &v1::Schedule, now: Timestamp) -> Result<Calendar, Vec<Violation>> {
    let mut faults = Vec::new();
    let found = spec(schedule, now, &mut faults).map(|spec| Calendar::upcoming(&spec, now));
    match found {
        Some(Ok(calendar)) if faults.is_empty() => Ok(calendar),
        Some(Err(more)) => {
            faults.extend(more.iter().map(violation));
            Err(faults)
        }
        _ => Err(faults),
    }
}

/// A firing as clients see it.
pub fn firing(calendar: &Calendar, firing: &Firing) -> v1::ScheduleFiring {
    v1::ScheduleFiring {
        time: Some(timestamp(firing.at)),
        local_time: firing.local.to_string(),
        utc_offset: firing.offset.to_string(),
        note: firing.note.words().into(),
        abbreviation: calendar.abbreviation(firing.at).unwrap_or_default(),
    }
}
