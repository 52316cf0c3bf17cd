//! What commands do to schedules: create, change, pause, resume, start now, delete.
//!
//! A change of its times or a resume looks ahead: times before it that nothing was decided about are not asked for.

use std::sync::Arc;

use super::{Backfill, Cause, Course, MAX_RUNNING, OverlapPolicy, Runs, ScheduleRecord, ScheduleSpec, course::Steps};
use crate::{
    calendar::{Calendar, Fault, Spec},
    machine::{
        decide::{self, Decided},
        ids::{Actor, ExecutionId, ScheduleId, Tick, Timestamp},
        input,
        message::{Content, Event, Rejection, Reply, ScheduleChange},
        state::State,
        workflow::{Reason, Violation},
    },
};

pub(super) type Answered = Result<(Vec<Decided>, Reply), Rejection>;

/// A fault of the calendar, as one of a definition.
pub fn violation(found: &Fault) -> Violation {
    let reason = if found.field == "cron.expression" { Reason::InvalidCronExpression } else { Reason::InvalidValue };
    let column = found.column.map_or(String::new(), |column| format!("column {column}: "));
    let token = if found.token.is_empty() { String::new() } else { format!("`{}` ", found.token) };
    let description = format!("{column}{token}{}; {}", found.problem, found.remedy);
    Violation { field: format!("schedule.{}", found.field), reason, description }
}

pub(super) fn stored<'a>(state: &'a State, id: &ScheduleId) -> Result<&'a Arc<ScheduleRecord>, Rejection> {
    let record = state.schedules.get(id).filter(|record| !record.deleted);
    record.ok_or_else(|| Rejection::ScheduleNotFound(id.clone()))
}

fn check_etag(record: &ScheduleRecord, etag: Option<String>) -> Result<(), Rejection> {
    match etag {
        Some(given) if given != record.etag() => {
            let schedule = record.spec.id.clone();
            Err(Rejection::ScheduleEtagMismatch { schedule, current: record.etag(), given })
        }
        _ => Ok(()),
    }
}

/// The times of a schedule that somebody wants from now on.
fn upcoming(times: &Spec, now: Timestamp) -> Result<Arc<Calendar>, Rejection> {
    let found = Calendar::upcoming(times, now).map(Arc::new);
    found.map_err(|faults| Rejection::InvalidSchedule { violations: faults.iter().map(violation).collect() })
}

/// Its workflow exists, and takes what it is to be given.
fn check_workflow(state: &State, spec: &ScheduleSpec) -> Result<(), Rejection> {
    let record = decide::stored(state, &spec.workflow)?;
    // A draft may be mended before the first time comes.
    let Content::Ready(definition) = &record.content else { return Ok(()) };
    let checked = input::resolve(&definition.spec().inputs, &spec.inputs.0);
    checked.map(drop).map_err(|violations| Rejection::InvalidInputs { workflow: spec.workflow.clone(), violations })
}

pub(super) fn changed(change: ScheduleChange, mut record: ScheduleRecord) -> (Vec<Decided>, Reply) {
    record.course.next = record.upcoming();
    let (schedule, version) = (record.spec.id.clone(), record.version);
    let reply = Reply::Schedule { schedule: schedule.clone(), version };
    let event = Event::ScheduleChanged { schedule, change, version, record: Some(Arc::new(record)) };
    (vec![Decided { workflow: None, execution: None, event }], reply)
}

/// Stores a schedule under an id that is free.
pub fn create(
    state: &State,
    spec: Arc<ScheduleSpec>,
    enabled: bool,
    remaining_runs: Option<u64>,
    actor: &Actor,
    tick: Tick,
) -> Answered {
    let before = state.schedules.get(&spec.id);
    if before.is_some_and(|record| !record.deleted) {
        return Err(Rejection::ScheduleExists(spec.id.clone()));
    }
    check_workflow(state, &spec)?;
    let times = Spec { created_at: tick.wall, ..spec.times.clone() };
    let calendar = upcoming(&times, tick.wall)?;
    let record = ScheduleRecord {
        version: before.map_or(0, |record| record.version) + 1,
        created_at: tick.wall,
        updated_at: tick.wall,
        created_by: actor.clone(),
        deleted: false,
        spec: Arc::new(ScheduleSpec { times, ..spec.as_ref().clone() }),
        calendar,
        course: Course { enabled, remaining_runs, last: tick.wall, ..Course::default() },
    };
    Ok(changed(ScheduleChange::Created, record))
}

/// Stores another version. Times that stay as they were go on where they are.
pub fn update(
    state: &State,
    spec: Arc<ScheduleSpec>,
    enabled: Option<bool>,
    runs: Runs,
    etag: Option<String>,
    tick: Tick,
) -> Answered {
    let before = stored(state, &spec.id)?;
    check_etag(before, etag)?;
    check_workflow(state, &spec)?;
    let times = Spec { created_at: before.created_at, ..spec.times.clone() };
    let mut record = before.as_ref().clone();
    if times != before.spec.times {
        record.calendar = upcoming(&times, tick.wall)?;
        record.course.last = record.course.last.max(tick.wall);
        record.course.catching_up = false;
    }
    record.version += 1;
    record.updated_at = tick.wall;
    record.spec = Arc::new(ScheduleSpec { times, ..spec.as_ref().clone() });
    if let Runs::Left(remaining_runs) = runs {
        record.course.remaining_runs = remaining_runs;
    }
    match enabled {
        Some(true) if !record.course.enabled => enable(&mut record, tick),
        Some(false) => record.course.enabled = false,
        _ => {}
    }
    Ok(changed(ScheduleChange::Updated, record))
}

fn enable(record: &mut ScheduleRecord, tick: Tick) {
    record.course.enabled = true;
    record.course.note.clear();
    record.course.last = record.course.last.max(tick.wall);
    record.course.catching_up = false;
}

/// Forgets a schedule. What it started goes on; what waited does not start.
pub fn delete(state: &State, id: &ScheduleId, etag: Option<String>, tick: Tick) -> Answered {
    let before = stored(state, id)?;
    check_etag(before, etag)?;
    let course =
        Course { enabled: false, buffered: Vec::new(), backfill: Backfill::default(), ..before.course.clone() };
    let record = ScheduleRecord { deleted: true, updated_at: tick.wall, course, ..before.as_ref().clone() };
    Ok(changed(ScheduleChange::Deleted, record))
}

/// Starts nothing from here, and says why.
pub fn pause(state: &State, id: &ScheduleId, note: String) -> Answered {
    let mut record = stored(state, id)?.as_ref().clone();
    if !record.course.enabled && record.course.note == note {
        let reply = Reply::Schedule { schedule: id.clone(), version: record.version };
        return Ok((Vec::new(), reply));
    }
    record.course.enabled = false;
    record.course.note.clone_from(&note);
    Ok(changed(ScheduleChange::Paused { note }, record))
}

/// Goes on with the first time after now. What waited when it was paused waits again.
pub fn resume(state: &State, id: &ScheduleId, tick: Tick) -> Answered {
    let mut record = stored(state, id)?.as_ref().clone();
    if record.course.enabled {
        let reply = Reply::Schedule { schedule: id.clone(), version: record.version };
        return Ok((Vec::new(), reply));
    }
    enable(&mut record, tick);
    Ok(changed(ScheduleChange::Resumed, record))
}

/// Starts an execution now, whatever runs and though it be paused. Its times stay as they are.
pub fn trigger(state: &State, id: &ScheduleId, execution: ExecutionId, tick: Tick) -> Answered {
    let record = stored(state, id)?;
    let mut steps = Steps::new(state, record, tick);
    if steps.running >= MAX_RUNNING && record.spec.overlap != OverlapPolicy::AllowAll {
        return Err(Rejection::ScheduleBusy { schedule: id.clone(), running: steps.running });
    }
    steps.start_as(execution, tick.wall, Cause::Call)?;
    Ok((steps.decided, Reply::Executions(vec![execution])))
}
