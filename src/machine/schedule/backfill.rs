//! Times of the past that somebody wants made up: which those are, and which of them has its turn (S-SCHED-6).
//!
//! A request only writes down the times, and says all that speaks against it; `schedule/course.rs` starts them one step
//! after the other, also after a restart. They are apart from the times that come by themselves, and shift none.

use super::{
    Cause, MAX_RUNNING, OverlapPolicy, ScheduleRecord, ScheduleSpec,
    change::{Answered, changed, stored},
    course::Steps,
};
use crate::{
    calendar::Firing,
    machine::{
        decide,
        ids::{ExecutionId, ScheduleId, Tick, Timestamp},
        message::{Content, Rejection, Reply, ScheduleChange},
        state::State,
        workflow::{Reason, Violation},
    },
};

/// Most times that one request makes up, and that wait of one schedule.
pub const BACKFILL_AT_MOST: usize = 1_000;
/// Times up to which they are counted, so that a person is told how many there are.
const COUNTED_AT_MOST: usize = 10_000;

/// Times of the past that are still to be made up, in the order in which they were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backfill {
    /// Those that start beside what runs.
    pub beside: Vec<Timestamp>,
    /// Those that wait until nothing of their schedule runs.
    pub in_turn: Vec<Timestamp>,
}

impl Backfill {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.beside.len() + self.in_turn.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.beside.is_empty() && self.in_turn.is_empty()
    }

    /// The time that has its turn while so many executions of its schedule have not ended. No more are started than it
    /// keeps in mind: of those beyond, no overlap policy would know.
    pub(super) fn next(&self, running: usize) -> Option<Timestamp> {
        match self.beside.first() {
            Some(beside) => Some(*beside).filter(|_| running < MAX_RUNNING),
            None => self.in_turn.first().copied().filter(|_| running == 0),
        }
    }

    /// A time has had its turn.
    pub(super) fn met(&mut self, nominal: Timestamp) {
        let queue = if self.beside.is_empty() { &mut self.in_turn } else { &mut self.beside };
        if queue.first() == Some(&nominal) {
            queue.remove(0);
        }
    }
}

impl ScheduleSpec {
    /// How executions of a backfill overlap: ALLOW_ALL or BUFFER_ALL. A person wants each of them, so none is skipped by
    /// default; but what never runs beside itself does not now.
    pub fn overlap_of_backfill(&self, wanted: Option<OverlapPolicy>) -> OverlapPolicy {
        match wanted.unwrap_or(self.overlap) {
            OverlapPolicy::AllowAll => OverlapPolicy::AllowAll,
            _ => OverlapPolicy::BufferAll,
        }
    }
}

impl ScheduleRecord {
    /// Its times in a span of the past, without those that are yet to come by themselves: jitter delays the last one.
    ///
    /// # Errors
    /// Where it is no such span, or has more than [`BACKFILL_AT_MOST`] times.
    pub fn past_firings(&self, from: Timestamp, to: Timestamp, now: Timestamp) -> Result<Vec<Firing>, Rejection> {
        let fault = |field: &str, reason, description: String| {
            let violations = vec![Violation { field: field.into(), reason, description }];
            Err(Rejection::InvalidBackfill { violations })
        };
        if to > now {
            return fault("to", Reason::InvalidValue, "it is to come; a backfill is about times of the past".into());
        }
        if from >= to {
            return fault("from", Reason::InvalidValue, "it is not before `to`; times after it are made up".into());
        }
        let to_come = self.course.next.map(|next| next.nominal);
        let is_past = |firing: &Firing| firing.at <= to && to_come.is_none_or(|next| firing.at < next);
        let mut firings = self.calendar.firings(from).take_while(is_past);
        let times: Vec<Firing> = firings.by_ref().take(BACKFILL_AT_MOST).collect();
        let more = firings.take(COUNTED_AT_MOST - BACKFILL_AT_MOST).count();
        match (more, times.last()) {
            (0, _) | (_, None) => Ok(times),
            (more, Some(last)) => {
                let all = if BACKFILL_AT_MOST + more >= COUNTED_AT_MOST { "at least " } else { "" };
                let words = format!(
                    "the schedule has {all}{} times in this span, and one request makes up {BACKFILL_AT_MOST} at most; ask \
                     up to {} first, and then from there",
                    BACKFILL_AT_MOST + more,
                    crate::calendar::utc(last.at),
                );
                fault("to", Reason::LimitExceeded, words)
            }
        }
    }
}

/// Has the times of a span of the past made up, though it be paused. All or none are taken.
pub fn backfill(
    state: &State,
    id: &ScheduleId,
    from: Timestamp,
    to: Timestamp,
    overlap: Option<OverlapPolicy>,
    tick: Tick,
) -> Answered {
    let mut record = stored(state, id)?.as_ref().clone();
    let times: Vec<Timestamp> = record.past_firings(from, to, tick.wall)?.iter().map(|firing| firing.at).collect();
    let overlap = record.spec.overlap_of_backfill(overlap);
    let Some(first) = times.first() else {
        return Ok((Vec::new(), Reply::Schedule { schedule: id.clone(), version: record.version }));
    };
    let waiting = record.course.backfill.len();
    if waiting + times.len() > BACKFILL_AT_MOST {
        return Err(Rejection::BackfillFull { schedule: id.clone(), waiting });
    }
    // What would keep the first from starting would keep all of them.
    Steps::new(state, &record, tick).start_as(ExecutionId(0), *first, Cause::Backfill)?;
    let queue = match overlap {
        OverlapPolicy::AllowAll => {
            let workflow = decide::stored(state, &record.spec.workflow)?;
            if let Content::Ready(definition) = &workflow.content {
                decide::has_room_for(state, definition.task_count() * times.len())?;
            }
            &mut record.course.backfill.beside
        }
        _ => &mut record.course.backfill.in_turn,
    };
    let count = times.len() as u64;
    queue.extend(times);
    Ok(changed(ScheduleChange::BackfillRequested { from, to, count, overlap }, record))
}

/// Forgets the times that still wait. What was started goes on.
pub fn cancel_backfill(state: &State, id: &ScheduleId) -> Answered {
    let mut record = stored(state, id)?.as_ref().clone();
    let count = std::mem::take(&mut record.course.backfill).len() as u64;
    if count == 0 {
        return Ok((Vec::new(), Reply::Schedule { schedule: id.clone(), version: record.version }));
    }
    Ok(changed(ScheduleChange::BackfillCancelled { count }, record))
}
