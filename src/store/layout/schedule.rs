//! Schedules as rows: a head with how far one has come, which each of its times writes anew, and apart from it what it
//! says.

use std::sync::Arc;

use prost::Message as _;

use super::{
    LayoutError,
    definition::{decode_retry, encode_retry},
    rows, unreadable,
};
use crate::{
    calendar::{Calendar, FoldPolicy, GapPolicy, Kind, Spec},
    machine::{
        ids::{Actor, ExecutionId, ScheduleId, Timestamp, WorkflowId},
        message::{Inputs, ScheduleChange},
        schedule::{Backfill, CatchUp, Cause, Course, Outcome, OverlapPolicy, ScheduleRecord, ScheduleSpec, Upcoming},
    },
};

/// A schedule's head.
pub fn encode_schedule_head(record: &ScheduleRecord) -> Vec<u8> {
    let course = &record.course;
    rows::ScheduleHead {
        version: record.version,
        created_at: record.created_at.0,
        updated_at: record.updated_at.0,
        created_by: record.created_by.as_str().into(),
        deleted: record.deleted,
        enabled: course.enabled,
        note: course.note.clone(),
        last: course.last.0,
        next: course.next.map(encode_upcoming),
        remaining_runs: course.remaining_runs,
        buffered: course.buffered.iter().map(|at| at.0).collect(),
        running: course.running.iter().map(|id| id.0.to_be_bytes().to_vec()).collect(),
        catching_up: course.catching_up,
        fired: course.fired,
        skipped: course.skipped,
        missed: course.missed,
        last_execution: course.last_execution.map(|(id, _)| id.0.to_be_bytes().to_vec()).unwrap_or_default(),
        last_fired: course.last_execution.map_or(0, |(_, at)| at.0),
        backfilled: course.backfilled,
        backfill_beside: course.backfill.beside.iter().map(|at| at.0).collect(),
        backfill_in_turn: course.backfill.in_turn.iter().map(|at| at.0).collect(),
    }
    .encode_to_vec()
}

/// What a schedule says.
pub fn encode_schedule(spec: &ScheduleSpec) -> Vec<u8> {
    let times = &spec.times;
    let (mut once, mut cron, mut interval) = (None, None, None);
    match &times.kind {
        Kind::Once { execute_at } => once = Some(execute_at.0),
        Kind::Cron { expression } => cron = Some(expression.clone()),
        Kind::Interval { interval_micros } => interval = Some(*interval_micros),
    }
    rows::ScheduleContent {
        workflow: spec.workflow.as_str().into(),
        description: spec.description.clone(),
        once,
        cron,
        interval,
        timezone: times.timezone.clone(),
        gap_policy: match times.gap_policy {
            None => 0,
            Some(GapPolicy::RunAfter) => 1,
            Some(GapPolicy::Skip) => 2,
        },
        fold_policy: match times.fold_policy {
            None => 0,
            Some(FoldPolicy::First) => 1,
            Some(FoldPolicy::Second) => 2,
            Some(FoldPolicy::Both) => 3,
        },
        start_at: times.start_at.map(|at| at.0),
        end_at: times.end_at.map(|at| at.0),
        jitter: times.jitter_micros,
        created_at: times.created_at.0,
        overlap: match spec.overlap {
            OverlapPolicy::Skip => 1,
            OverlapPolicy::BufferOne => 2,
            OverlapPolicy::BufferAll => 3,
            OverlapPolicy::CancelOther => 4,
            OverlapPolicy::AllowAll => 5,
        },
        catch_up: match spec.catch_up {
            CatchUp::None => 1,
            CatchUp::Last => 2,
            CatchUp::All => 3,
        },
        catch_up_window: spec.catch_up_window_micros,
        inputs: serde_json::Value::Object(spec.inputs.0.as_ref().clone()).to_string(),
        labels: spec.labels.clone().into_iter().collect(),
        retry: spec.retry.as_deref().map(encode_retry),
    }
    .encode_to_vec()
}

/// What a schedule's head says.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleHead {
    /// Whether it was deleted.
    pub deleted: bool,
    /// How far it has come.
    pub course: Course,
    row: rows::ScheduleHead,
}

impl ScheduleHead {
    /// Reads a head.
    ///
    /// # Errors
    /// Where the bytes are no head.
    pub fn decode(id: &ScheduleId, bytes: &[u8]) -> Result<Self, LayoutError> {
        let what = || format!("schedule `{id}`");
        let row = rows::ScheduleHead::decode(bytes).map_err(|error| unreadable(what(), error))?;
        let execution = |bytes: &[u8]| {
            let id = <[u8; 16]>::try_from(bytes).map_err(|error| unreadable(what(), error))?;
            Ok(ExecutionId(u128::from_be_bytes(id)))
        };
        let last_execution = match row.last_execution.as_slice() {
            [] => None,
            bytes => Some((execution(bytes)?, Timestamp(row.last_fired))),
        };
        let times = |times: &[i64]| times.iter().map(|at| Timestamp(*at)).collect();
        let course = Course {
            enabled: row.enabled,
            note: row.note.clone(),
            last: Timestamp(row.last),
            next: row.next.map(decode_upcoming),
            remaining_runs: row.remaining_runs,
            buffered: times(&row.buffered),
            running: row.running.iter().map(|id| execution(id)).collect::<Result<_, LayoutError>>()?,
            catching_up: row.catching_up,
            fired: row.fired,
            skipped: row.skipped,
            missed: row.missed,
            backfilled: row.backfilled,
            backfill: Backfill { beside: times(&row.backfill_beside), in_turn: times(&row.backfill_in_turn) },
            last_execution,
        };
        Ok(Self { deleted: row.deleted, course, row })
    }

    /// The newest version.
    pub fn version(&self) -> u64 {
        self.row.version
    }

    /// When the first version was stored.
    pub fn created_at(&self) -> Timestamp {
        Timestamp(self.row.created_at)
    }

    /// The whole record, with what it says.
    ///
    /// # Errors
    /// Where its times are none.
    pub fn record(self, spec: ScheduleSpec) -> Result<ScheduleRecord, LayoutError> {
        let calendar = Calendar::new(&spec.times).map_err(|faults| {
            let why = faults.first().map(ToString::to_string).unwrap_or_default();
            unreadable(format!("the times of schedule `{}`", spec.id), why)
        })?;
        Ok(ScheduleRecord {
            version: self.row.version,
            created_at: Timestamp(self.row.created_at),
            updated_at: Timestamp(self.row.updated_at),
            created_by: Actor::from_text(&self.row.created_by),
            deleted: self.deleted,
            spec: Arc::new(spec),
            calendar: Arc::new(calendar),
            course: self.course,
        })
    }
}

/// What a schedule says.
///
/// # Errors
/// Where the bytes are no schedule.
pub fn decode_schedule(id: &ScheduleId, bytes: &[u8]) -> Result<ScheduleSpec, LayoutError> {
    let what = || format!("what schedule `{id}` says");
    let row = rows::ScheduleContent::decode(bytes).map_err(|error| unreadable(what(), error))?;
    let unknown = |field: &str| unreadable(what(), format!("its {field} is unknown"));
    let kind = match (row.once, row.cron, row.interval) {
        (Some(at), None, None) => Kind::Once { execute_at: Timestamp(at) },
        (None, Some(expression), None) => Kind::Cron { expression },
        (None, None, Some(interval_micros)) => Kind::Interval { interval_micros },
        _ => return Err(unknown("kind")),
    };
    let times = Spec {
        timezone: row.timezone,
        gap_policy: match row.gap_policy {
            0 => None,
            1 => Some(GapPolicy::RunAfter),
            2 => Some(GapPolicy::Skip),
            _ => return Err(unknown("gap policy")),
        },
        fold_policy: match row.fold_policy {
            0 => None,
            1 => Some(FoldPolicy::First),
            2 => Some(FoldPolicy::Second),
            3 => Some(FoldPolicy::Both),
            _ => return Err(unknown("fold policy")),
        },
        start_at: row.start_at.map(Timestamp),
        end_at: row.end_at.map(Timestamp),
        jitter_micros: row.jitter,
        ..Spec::new(kind, Timestamp(row.created_at))
    };
    let inputs = serde_json::from_str(&row.inputs).map_err(|error| unreadable(what(), error))?;
    Ok(ScheduleSpec {
        id: id.clone(),
        workflow: WorkflowId::parse(&row.workflow).map_err(|why| unreadable(what(), why))?,
        description: row.description,
        times,
        overlap: match row.overlap {
            1 => OverlapPolicy::Skip,
            2 => OverlapPolicy::BufferOne,
            3 => OverlapPolicy::BufferAll,
            4 => OverlapPolicy::CancelOther,
            5 => OverlapPolicy::AllowAll,
            _ => return Err(unknown("overlap policy")),
        },
        catch_up: match row.catch_up {
            1 => CatchUp::None,
            2 => CatchUp::Last,
            3 => CatchUp::All,
            _ => return Err(unknown("catch-up policy")),
        },
        catch_up_window_micros: row.catch_up_window,
        inputs: Inputs(Arc::new(inputs)),
        labels: row.labels.into_iter().collect(),
        retry: row.retry.map(|retry| Arc::new(decode_retry(retry))),
    })
}

fn encode_upcoming(next: Upcoming) -> rows::Upcoming {
    rows::Upcoming { nominal: next.nominal.0, due: next.due.0 }
}

fn decode_upcoming(row: rows::Upcoming) -> Upcoming {
    Upcoming { nominal: Timestamp(row.nominal), due: Timestamp(row.due) }
}

pub(super) fn encode_schedule_change(
    schedule: &ScheduleId,
    change: &ScheduleChange,
    version: u64,
) -> rows::ScheduleChanged {
    let mut row = rows::ScheduleChanged { schedule: schedule.as_str().into(), version, ..Default::default() };
    row.change = match change {
        ScheduleChange::Created => 1,
        ScheduleChange::Updated => 2,
        ScheduleChange::Deleted => 3,
        ScheduleChange::Paused { note } => {
            row.note.clone_from(note);
            4
        }
        ScheduleChange::Resumed => 5,
        ScheduleChange::BackfillRequested { from, to, count, overlap } => {
            (row.from, row.to, row.count, row.beside) = (from.0, to.0, *count, *overlap == OverlapPolicy::AllowAll);
            6
        }
        ScheduleChange::BackfillCancelled { count } => {
            row.count = *count;
            7
        }
    };
    row
}

pub(super) fn decode_schedule_change(row: rows::ScheduleChanged) -> Option<ScheduleChange> {
    Some(match row.change {
        1 => ScheduleChange::Created,
        2 => ScheduleChange::Updated,
        3 => ScheduleChange::Deleted,
        4 => ScheduleChange::Paused { note: row.note },
        5 => ScheduleChange::Resumed,
        6 => ScheduleChange::BackfillRequested {
            from: Timestamp(row.from),
            to: Timestamp(row.to),
            count: row.count,
            overlap: if row.beside { OverlapPolicy::AllowAll } else { OverlapPolicy::BufferAll },
        },
        7 => ScheduleChange::BackfillCancelled { count: row.count },
        _ => return None,
    })
}

pub(super) fn encode_advance(
    schedule: &ScheduleId,
    nominal: Timestamp,
    outcome: &Outcome,
    next: Option<Upcoming>,
) -> rows::ScheduleAdvanced {
    let mut row = rows::ScheduleAdvanced {
        schedule: schedule.as_str().into(),
        nominal: nominal.0,
        next: next.map(encode_upcoming),
        ..rows::ScheduleAdvanced::default()
    };
    match outcome {
        Outcome::Fired { execution, cause } => {
            row.outcome = match cause {
                Cause::Time => 1,
                Cause::Release => 2,
                Cause::Call => 3,
                Cause::Backfill => 9,
            };
            row.execution = execution.0.to_be_bytes().to_vec();
        }
        Outcome::Buffered => row.outcome = 4,
        Outcome::Skipped { reason, cause } => {
            row.outcome = match cause {
                Cause::Time | Cause::Call => 5,
                Cause::Release => 6,
                Cause::Backfill => 10,
            };
            row.reason.clone_from(reason);
        }
        Outcome::Missed { first, count, more } => {
            row.outcome = if *more { 8 } else { 7 };
            (row.first, row.count) = (first.0, *count);
        }
    }
    row
}

pub(super) fn decode_advance(
    row: rows::ScheduleAdvanced,
) -> Option<(ScheduleId, Timestamp, Outcome, Option<Upcoming>)> {
    let fired = |cause| {
        let execution = <[u8; 16]>::try_from(row.execution.as_slice()).ok()?;
        Some(Outcome::Fired { execution: ExecutionId(u128::from_be_bytes(execution)), cause })
    };
    let missed = |more| Outcome::Missed { first: Timestamp(row.first), count: row.count, more };
    let outcome = match row.outcome {
        1 => fired(Cause::Time)?,
        2 => fired(Cause::Release)?,
        3 => fired(Cause::Call)?,
        4 => Outcome::Buffered,
        5 => Outcome::Skipped { reason: row.reason, cause: Cause::Time },
        6 => Outcome::Skipped { reason: row.reason, cause: Cause::Release },
        7 => missed(false),
        8 => missed(true),
        9 => fired(Cause::Backfill)?,
        10 => Outcome::Skipped { reason: row.reason, cause: Cause::Backfill },
        _ => return None,
    };
    Some((ScheduleId::parse(&row.schedule).ok()?, Timestamp(row.nominal), outcome, row.next.map(decode_upcoming)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{
        message::{Event, Recorded},
        workflow::RetrySpec,
    };

    #[test]
    fn a_schedule_reads_back_as_it_was_stored() {
        // S-SCHED-7
        let id = ScheduleId::parse("nightly").expect("an id");
        let kinds = [
            Kind::Once { execute_at: Timestamp(9) },
            Kind::Cron { expression: "0 9 * * 1-5".into() },
            Kind::Interval { interval_micros: 3_000_000 },
        ];
        let overlaps =
            [OverlapPolicy::BufferAll, OverlapPolicy::CancelOther, OverlapPolicy::AllowAll, OverlapPolicy::BufferOne];
        for (kind, overlap) in kinds.into_iter().zip(overlaps) {
            let is_cron = matches!(kind, Kind::Cron { .. });
            let times = Spec {
                timezone: "Europe/Berlin".into(),
                gap_policy: is_cron.then_some(GapPolicy::Skip),
                fold_policy: is_cron.then_some(FoldPolicy::Both),
                start_at: Some(Timestamp(4)),
                end_at: Some(Timestamp(4_000_000_000_000_000)),
                jitter_micros: 5,
                ..Spec::new(kind, Timestamp(3))
            };
            let inputs = [("env".to_string(), serde_json::json!({"a": [1, "x"]}))].into_iter().collect();
            let spec = ScheduleSpec {
                id: id.clone(),
                workflow: WorkflowId::parse("w").expect("an id"),
                description: "every night".into(),
                times,
                overlap,
                catch_up: CatchUp::All,
                catch_up_window_micros: Some(7),
                inputs: Inputs(Arc::new(inputs)),
                labels: [("a".to_string(), "b".to_string())].into(),
                retry: Some(Arc::new(RetrySpec { max_attempts: 7, jitter: 0.5, ..RetrySpec::default() })),
            };
            let course = Course {
                enabled: true,
                note: "why".into(),
                last: Timestamp(10),
                next: Some(Upcoming { nominal: Timestamp(11), due: Timestamp(12) }),
                remaining_runs: Some(13),
                buffered: vec![Timestamp(8), Timestamp(9)],
                running: vec![ExecutionId(14), ExecutionId(15)],
                catching_up: true,
                fired: 16,
                skipped: 17,
                missed: 18,
                backfilled: 21,
                backfill: Backfill { beside: vec![Timestamp(1)], in_turn: vec![Timestamp(5), Timestamp(2)] },
                last_execution: Some((ExecutionId(15), Timestamp(7))),
            };
            let record = ScheduleRecord {
                version: 19,
                created_at: Timestamp(3),
                updated_at: Timestamp(20),
                created_by: Actor::from_text("uid:1"),
                deleted: false,
                calendar: Arc::new(Calendar::new(&spec.times).expect("times")),
                spec: Arc::new(spec),
                course,
            };
            let read = decode_schedule(&id, &encode_schedule(&record.spec)).expect("what it says");
            let head = ScheduleHead::decode(&id, &encode_schedule_head(&record)).expect("a head");
            assert_eq!(head.record(read).expect("a record"), record);
        }
        assert!(decode_schedule(&id, &[]).is_err() && ScheduleHead::decode(&id, b"\xff nonsense").is_err());
    }

    #[test]
    fn events_of_schedules_read_back_as_they_happened() {
        // S-SCHED-7
        let schedule = ScheduleId::parse("nightly").expect("an id");
        let fired = |cause| Outcome::Fired { execution: ExecutionId(5), cause };
        let outcomes = [
            fired(Cause::Time),
            fired(Cause::Release),
            fired(Cause::Call),
            Outcome::Buffered,
            Outcome::Skipped { reason: "why".into(), cause: Cause::Time },
            Outcome::Skipped { reason: "why".into(), cause: Cause::Release },
            Outcome::Skipped { reason: "why".into(), cause: Cause::Backfill },
            fired(Cause::Backfill),
            Outcome::Missed { first: Timestamp(1), count: 2, more: false },
            Outcome::Missed { first: Timestamp(1), count: 2, more: true },
        ];
        let next = [None, Some(Upcoming { nominal: Timestamp(8), due: Timestamp(9) })];
        let advances = outcomes.into_iter().zip(next.into_iter().cycle()).map(|(outcome, next)| {
            Event::ScheduleAdvanced { schedule: schedule.clone(), nominal: Timestamp(7), outcome, next }
        });
        let paused = ScheduleChange::Paused { note: "why".into() };
        let requested = |overlap| {
            let (from, to) = (Timestamp(1), Timestamp(2));
            ScheduleChange::BackfillRequested { from, to, count: 3, overlap }
        };
        let changes = [
            ScheduleChange::Created,
            ScheduleChange::Updated,
            paused,
            ScheduleChange::Resumed,
            requested(OverlapPolicy::AllowAll),
            requested(OverlapPolicy::BufferAll),
            ScheduleChange::BackfillCancelled { count: 4 },
        ];
        let changes = changes.into_iter().chain([ScheduleChange::Deleted]).map(|change| Event::ScheduleChanged {
            schedule: schedule.clone(),
            change,
            version: 3,
            record: None,
        });
        let events: Vec<Recorded> = advances
            .chain(changes)
            .zip(1..)
            .map(|(event, revision)| Recorded {
                revision,
                time: Timestamp(1),
                elapsed: crate::machine::ids::Elapsed(2),
                actor: Actor::Noxd,
                workflow: None,
                execution: None,
                event,
            })
            .collect();
        let row = super::super::encode_events(&events);
        let subject = super::super::Subject::Noxd;
        assert_eq!(super::super::decode_events(&subject, None, &row).expect("events"), events);
    }
}
