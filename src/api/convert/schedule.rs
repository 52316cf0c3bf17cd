//! Schedules: what a client wrote to times that can be asked, or to every fault at once; and back.

use std::sync::Arc;

use super::{
    definition::{parse_retry, render_retry},
    duration,
    execution::inputs_of,
    micros_of, new_execution_id, time_of, timestamp,
};
use crate::{
    calendar::{Calendar, Firing, FoldPolicy, GapPolicy, Kind, Spec},
    machine::{
        ids::{ScheduleId, Timestamp, WorkflowId},
        message::Inputs,
        schedule::{CatchUp, OverlapPolicy, ScheduleRecord, ScheduleSpec, violation},
        validation,
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

/// Longest description in bytes.
const MAX_DESCRIPTION_BYTES: usize = 64 * 1_024;
/// Most bytes of inputs.
const MAX_INPUT_BYTES: usize = 256 * 1_024;

/// A schedule that can be stored, with what it is to be given. An empty id becomes a UUIDv7. That its times are some, and
/// that its workflow takes what it is given, the machine says.
///
/// # Errors
/// Every fault at once.
pub fn parse(
    given: &v1::ScheduledWorkflow,
    inputs: serde_json::Map<String, serde_json::Value>,
    now: Timestamp,
) -> Result<ScheduleSpec, Vec<Violation>> {
    let mut faults = Vec::new();
    let violation_of =
        |field: &str, reason, description: String| Violation { field: field.into(), reason, description };
    let id = if given.id.is_empty() { new_execution_id().to_string() } else { given.id.clone() };
    let id = ScheduleId::parse(&id).map_err(|words| faults.push(violation_of("id", Reason::InvalidId, words)));
    let workflow = WorkflowId::parse(&given.workflow_id);
    let workflow = workflow.map_err(|words| faults.push(violation_of("workflow_id", Reason::InvalidId, words)));
    let times = match &given.schedule {
        Some(schedule) => {
            let times = spec(schedule, now, &mut faults);
            let found = times.as_ref().map(Calendar::new);
            if let Some(Err(more)) = found {
                faults.extend(more.iter().map(violation));
            }
            times
        }
        None => {
            let words = "say when it shall fire".to_owned();
            faults.push(violation_of(FIELD, Reason::MissingValue, words));
            None
        }
    };
    let overlap = overlap_of(given.overlap_policy).map_err(|fault| faults.push(fault)).ok().flatten();
    let catch_up = match v1::CatchUpPolicy::try_from(given.catch_up) {
        Ok(v1::CatchUpPolicy::Unspecified | v1::CatchUpPolicy::Last) => CatchUp::Last,
        Ok(v1::CatchUpPolicy::None) => CatchUp::None,
        Ok(v1::CatchUpPolicy::All) => CatchUp::All,
        Err(_) => {
            let words = format!("{} is no value of it", given.catch_up);
            faults.push(violation_of("catch_up", Reason::InvalidValue, words));
            CatchUp::Last
        }
    };
    let window = given.catch_up_window.as_ref().map(|window| micros_of("catch_up_window", window)).transpose();
    let window = window.map_err(|fault| faults.push(fault));
    let labels = given.labels.clone().into_iter().collect();
    faults.extend(validation::notes("labels", &labels));
    if given.remaining_runs == Some(0) {
        let words = "0 runs are none; leave it out for runs without end, or set `enabled: false`".to_owned();
        faults.push(violation_of("remaining_runs", Reason::InvalidValue, words));
    }
    let retry = given.retry_config.clone().map(parse_retry);
    faults.extend(retry.iter().flat_map(|retry| validation::retry("retry_config", retry)));
    if given.notification_config.is_some() {
        let words = "this build of noxd cannot do it yet; leave it out".to_owned();
        faults.push(violation_of("notification_config", Reason::NotSupported, words));
    }
    let inputs = Inputs(Arc::new(inputs));
    for (field, bytes, most) in
        [("description", given.description.len(), MAX_DESCRIPTION_BYTES), ("inputs", inputs.weight(), MAX_INPUT_BYTES)]
    {
        if bytes > most {
            let words = format!("it has {bytes} bytes; the most is {most}");
            faults.push(violation_of(field, Reason::LimitExceeded, words));
        }
    }
    match (id, workflow, times, window) {
        (Ok(id), Ok(workflow), Some(times), Ok(catch_up_window_micros)) if faults.is_empty() => Ok(ScheduleSpec {
            id,
            workflow,
            description: given.description.clone(),
            times,
            overlap: overlap.unwrap_or_default(),
            catch_up,
            catch_up_window_micros,
            inputs,
            labels,
            retry: retry.map(Arc::new),
        }),
        _ => Err(faults),
    }
}

/// A stored schedule as clients see it.
pub fn render(record: &ScheduleRecord) -> v1::ScheduledWorkflow {
    let (spec, course) = (&record.spec, &record.course);
    let inputs = serde_json::Value::Object(spec.inputs.0.as_ref().clone()).to_string();
    v1::ScheduledWorkflow {
        id: spec.id.as_str().into(),
        workflow_id: spec.workflow.as_str().into(),
        schedule: Some(render_times(&spec.times)),
        enabled: Some(course.enabled),
        overlap_policy: overlap_policy(spec.overlap) as i32,
        catch_up: match spec.catch_up {
            CatchUp::None => v1::CatchUpPolicy::None,
            CatchUp::Last => v1::CatchUpPolicy::Last,
            CatchUp::All => v1::CatchUpPolicy::All,
        } as i32,
        catch_up_window: spec.catch_up_window_micros.map(duration),
        remaining_runs: course.remaining_runs,
        inputs: inputs_of(&inputs),
        labels: spec.labels.clone().into_iter().collect(),
        description: spec.description.clone(),
        note: course.note.clone(),
        last_execution: course.last_execution.map(|(_, at)| timestamp(at)),
        last_execution_id: course.last_execution.map(|(id, _)| id.to_string()).unwrap_or_default(),
        next_execution: course.next.map(|next| timestamp(next.nominal)),
        execution_count: course.fired,
        skipped_count: course.skipped,
        missed_count: course.missed,
        buffered: course.buffered.iter().map(|at| timestamp(*at)).collect(),
        version: record.version,
        created_at: Some(timestamp(record.created_at)),
        created_by: record.created_by.as_str().into(),
        updated_at: Some(timestamp(record.updated_at)),
        backfill_count: course.backfilled,
        backfill_waiting: u32::try_from(course.backfill.len()).unwrap_or(u32::MAX),
        etag: record.etag(),
        retry_config: spec.retry.as_deref().map(render_retry),
        notification_config: None,
    }
}

/// An overlap policy that a client named; `None`: none.
fn overlap_of(number: i32) -> Result<Option<OverlapPolicy>, Violation> {
    match v1::OverlapPolicy::try_from(number) {
        Ok(v1::OverlapPolicy::Unspecified) => Ok(None),
        Ok(v1::OverlapPolicy::Skip) => Ok(Some(OverlapPolicy::Skip)),
        Ok(v1::OverlapPolicy::BufferOne) => Ok(Some(OverlapPolicy::BufferOne)),
        Ok(v1::OverlapPolicy::BufferAll) => Ok(Some(OverlapPolicy::BufferAll)),
        Ok(v1::OverlapPolicy::CancelOther) => Ok(Some(OverlapPolicy::CancelOther)),
        Ok(v1::OverlapPolicy::AllowAll) => Ok(Some(OverlapPolicy::AllowAll)),
        Err(_) => {
            let description = format!("{number} is no value of it");
            Err(Violation { field: "overlap_policy".into(), reason: Reason::InvalidValue, description })
        }
    }
}

/// An overlap policy as clients see it.
pub fn overlap_policy(policy: OverlapPolicy) -> v1::OverlapPolicy {
    match policy {
        OverlapPolicy::Skip => v1::OverlapPolicy::Skip,
        OverlapPolicy::BufferOne => v1::OverlapPolicy::BufferOne,
        OverlapPolicy::BufferAll => v1::OverlapPolicy::BufferAll,
        OverlapPolicy::CancelOther => v1::OverlapPolicy::CancelOther,
        OverlapPolicy::AllowAll => v1::OverlapPolicy::AllowAll,
    }
}

/// The span of a backfill, and how its executions overlap; `None`: as the schedule says.
///
/// # Errors
/// Every fault at once.
pub fn backfill(
    given: &v1::BackfillScheduleRequest,
) -> Result<(Timestamp, Timestamp, Option<OverlapPolicy>), Vec<Violation>> {
    let mut faults = Vec::new();
    let mut time = |field: &str, at: Option<&pbjson_types::Timestamp>| match at {
        Some(at) => time_of(at),
        None => {
            let description = "a backfill is about the times after `from` up to `to`; give both".into();
            faults.push(Violation { field: field.into(), reason: Reason::MissingValue, description });
            Timestamp(0)
        }
    };
    let (from, to) = (time("from", given.from.as_ref()), time("to", given.to.as_ref()));
    let overlap = overlap_of(given.overlap_policy).map_err(|fault| faults.push(fault)).ok().flatten();
    if let Some(OverlapPolicy::Skip | OverlapPolicy::BufferOne | OverlapPolicy::CancelOther) = overlap {
        let description =
            "all times of a backfill come together, so that this policy would leave out all but one or two; \
                           use BUFFER_ALL for one after the other, or ALLOW_ALL for all at once"
                .into();
        faults.push(Violation { field: "overlap_policy".into(), reason: Reason::InvalidValue, description });
    }
    if faults.is_empty() { Ok((from, to, overlap)) } else { Err(faults) }
}

fn render_times(times: &Spec) -> v1::Schedule {
    use v1::schedule::ScheduleType;
    let micros = |span: i64| duration(u64::try_from(span).unwrap_or(0));
    v1::Schedule {
        schedule_type: Some(match &times.kind {
            Kind::Once { execute_at } => {
                ScheduleType::Once(v1::OnceSchedule { execute_at: Some(timestamp(*execute_at)) })
            }
            Kind::Cron { expression } => ScheduleType::Cron(v1::CronSchedule { expression: expression.clone() }),
            Kind::Interval { interval_micros } => {
                ScheduleType::Interval(v1::IntervalSchedule { interval: Some(micros(*interval_micros)) })
            }
        }),
        timezone: times.timezone.clone(),
        gap_policy: match times.gap_policy {
            None => v1::GapPolicy::Unspecified,
            Some(GapPolicy::RunAfter) => v1::GapPolicy::RunAfter,
            Some(GapPolicy::Skip) => v1::GapPolicy::Skip,
        } as i32,
        fold_policy: match times.fold_policy {
            None => v1::FoldPolicy::Unspecified,
            Some(FoldPolicy::First) => v1::FoldPolicy::First,
            Some(FoldPolicy::Second) => v1::FoldPolicy::Second,
            Some(FoldPolicy::Both) => v1::FoldPolicy::Both,
        } as i32,
        start_at: times.start_at.map(timestamp),
        end_at: times.end_at.map(timestamp),
        jitter: (times.jitter_micros > 0).then(|| micros(times.jitter_micros)),
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
