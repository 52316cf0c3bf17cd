//! What becomes of the nominal times that have come: catching up first, then overlaps.
//!
//! All of it is decided at once, in bounded pieces: a long absence of a schedule of seconds takes several steps, each of
//! which tells how many times were missed. Nothing here looks at a clock: the time is the step's.

use super::{CatchUp, Cause, Course, MAX_BUFFERED, Outcome, OverlapPolicy, ScheduleRecord, Upcoming};
use crate::machine::{
    control,
    decide::{self, Decided},
    ids::{ExecutionId, ScheduleId, Tick, Timestamp},
    message::{Content, Event, Operation, Rejection, Start, Trigger},
    state::State,
};

/// How late a time may be decided about and still count as met, in microseconds: a minute. Beyond it noxd was away, or
/// the clock was put forward, and `catch_up` says what becomes of it and of those after it.
pub const ON_TIME_MICROS: i64 = 60_000_000;
/// Most nominal times of an absence that are made up.
pub const CATCH_UP_AT_MOST: usize = 100;
/// Nominal times that one step goes past.
const PASSED_AT_ONCE: usize = 256;

/// What becomes of the times of a schedule that have come, and of those that wait for an end. Empty: there are none.
pub fn come(state: &State, id: &ScheduleId, tick: Tick) -> Vec<Decided> {
    let Some(record) = state.schedules.get(id).filter(|record| !record.deleted) else { return Vec::new() };
    let mut steps = Steps::new(state, record, tick);
    if record.course.enabled && record.spec.overlap == OverlapPolicy::CancelOther {
        // A time that has come takes the place of one that waited, and so is looked at before.
        steps.times();
        steps.release();
    } else if record.course.enabled {
        steps.release();
        steps.times();
    }
    steps.backfill();
    steps.decided
}

/// Decisions about one schedule, each made on what those before it left.
pub(super) struct Steps<'a> {
    state: &'a State,
    tick: Tick,
    record: ScheduleRecord,
    /// How many of its executions have not ended.
    pub running: usize,
    pub decided: Vec<Decided>,
}

impl<'a> Steps<'a> {
    pub fn new(state: &'a State, record: &ScheduleRecord, tick: Tick) -> Self {
        let running = running(state, &record.course).count();
        Self { state, tick, record: record.clone(), running, decided: Vec::new() }
    }

    /// Starts what waited, now that nothing runs.
    fn release(&mut self) {
        while let Some(nominal) = self.record.course.buffered.first().copied()
            && (self.running == 0 || self.record.spec.overlap == OverlapPolicy::AllowAll)
        {
            if self.record.course.remaining_runs == Some(0) {
                // An update took back what was promised to it.
                let reason = "no runs are left".to_owned();
                self.outcome(nominal, Outcome::Skipped { reason, cause: Cause::Release });
                continue;
            }
            self.start(nominal, Cause::Release);
        }
    }

    /// Makes up one time of the past, if it is its turn. One, since each may be as large as a workflow can be.
    fn backfill(&mut self) {
        if let Some(nominal) = self.record.course.backfill.next(self.running) {
            self.start(nominal, Cause::Backfill);
        }
    }

    fn times(&mut self) {
        let keep = match self.record.spec.catch_up {
            // As many as can be on time.
            CatchUp::None => 61,
            CatchUp::Last => 1,
            CatchUp::All => CATCH_UP_AT_MOST,
        };
        let times = self.come_until_now(PASSED_AT_ONCE + keep + 1);
        let Some(first) = times.first().copied() else { return };
        let was_away = self.record.course.catching_up || self.is_late(first);
        if was_away && times.len() > PASSED_AT_ONCE + keep {
            return self.missed(&times[..PASSED_AT_ONCE], true);
        }
        let met = if was_away { self.made_up(&times) } else { 0 };
        self.missed(&times[..met], false);
        for (index, time) in times.iter().enumerate().skip(met) {
            if self.record.is_spent() {
                return;
            }
            self.came(time.nominal, index + 1 == times.len());
        }
    }

    /// The first times that have come, at most so many.
    fn come_until_now(&self, most: usize) -> Vec<Upcoming> {
        let mut ahead = ScheduleRecord { course: self.record.course.clone(), ..self.record.clone() };
        let mut times = Vec::new();
        while times.len() < most
            && let Some(next) = ahead.upcoming().filter(|next| next.due <= self.tick.wall)
        {
            ahead.course.last = next.nominal;
            times.push(next);
        }
        times
    }

    fn is_late(&self, time: Upcoming) -> bool {
        self.tick.wall.0.saturating_sub(time.due.0) > ON_TIME_MICROS
    }

    /// The index of the first time of an absence that is not missed.
    fn made_up(&self, times: &[Upcoming]) -> usize {
        let spec = &self.record.spec;
        let too_old = |time: &Upcoming| {
            let ago = u64::try_from(self.tick.wall.0.saturating_sub(time.nominal.0)).unwrap_or(0);
            spec.catch_up_window_micros.is_some_and(|window| ago > window)
        };
        let by_policy = match spec.catch_up {
            CatchUp::None => times.partition_point(|time| self.is_late(*time)),
            CatchUp::Last => times.len() - 1,
            CatchUp::All => times.len().saturating_sub(CATCH_UP_AT_MOST),
        };
        // What is on time is not made up: no window keeps it from starting.
        by_policy.max(times.partition_point(|time| too_old(time) && self.is_late(*time)))
    }

    fn missed(&mut self, times: &[Upcoming], more: bool) {
        if let (Some(first), Some(last)) = (times.first(), times.last()) {
            let outcome = Outcome::Missed { first: first.nominal, count: times.len() as u64, more };
            self.outcome(last.nominal, outcome);
        }
    }

    fn came(&mut self, nominal: Timestamp, is_newest: bool) {
        let waiting = self.record.course.buffered.len();
        match self.record.spec.overlap {
            OverlapPolicy::AllowAll => self.start(nominal, Cause::Time),
            OverlapPolicy::CancelOther if !is_newest => self.skip(nominal, "a later time has come already"),
            _ if self.running == 0 && waiting == 0 => self.start(nominal, Cause::Time),
            OverlapPolicy::Skip => self.skip(nominal, "the execution before has not ended"),
            OverlapPolicy::BufferOne if waiting > 0 => self.skip(nominal, "another time waits already"),
            OverlapPolicy::BufferAll if waiting >= MAX_BUFFERED => {
                self.skip(nominal, &format!("{MAX_BUFFERED} times wait already"));
            }
            OverlapPolicy::BufferOne | OverlapPolicy::BufferAll => self.outcome(nominal, Outcome::Buffered),
            OverlapPolicy::CancelOther => self.cancel_others(nominal),
        }
    }

    /// What runs is cancelled, once; the time waits for its end, in the place of one that still waited.
    fn cancel_others(&mut self, nominal: Timestamp) {
        for before in self.record.course.buffered.clone() {
            let reason = "a later time has come already".to_owned();
            self.outcome(before, Outcome::Skipped { reason, cause: Cause::Release });
        }
        if self.running == 0 {
            return self.start(nominal, Cause::Time);
        }
        self.outcome(nominal, Outcome::Buffered);
        let others: Vec<ExecutionId> = running(self.state, &self.record.course).collect();
        for id in others {
            let Some(execution) = self.state.execution(id) else { continue };
            if execution.cancel_requested_at.is_none()
                && let Ok((cancelled, _)) =
                    control::decide(self.state, Operation::Cancel, execution.workflow.clone(), id)
            {
                self.decided.extend(cancelled);
            }
        }
    }

    fn skip(&mut self, nominal: Timestamp, reason: &str) {
        self.outcome(nominal, Outcome::Skipped { reason: reason.to_owned(), cause: Cause::Time });
    }

    /// Starts an execution for a time; where that cannot be, the time is skipped, and why is told.
    fn start(&mut self, nominal: Timestamp, cause: Cause) {
        let id = ExecutionId::born(self.tick, self.state.revision() + self.decided.len() as u64);
        if let Err(rejection) = self.start_as(id, nominal, cause) {
            let reason = match &rejection {
                Rejection::InvalidInputs { violations, .. } => {
                    let first = violations.first().map(|fault| format!(": {}: {}", fault.field, fault.description));
                    format!("{rejection}{}", first.unwrap_or_default())
                }
                _ => rejection.to_string(),
            };
            self.outcome(nominal, Outcome::Skipped { reason, cause });
        }
    }

    /// Starts an execution of this id.
    pub fn start_as(&mut self, execution: ExecutionId, nominal: Timestamp, cause: Cause) -> Result<(), Rejection> {
        let spec = &self.record.spec;
        let workflow = decide::stored(self.state, &spec.workflow)?;
        let Content::Ready(definition) = &workflow.content else {
            let why = "it is a DRAFT; an update mends it".to_owned();
            return Err(decide::invalid_state(spec.workflow.clone(), "execute", why));
        };
        let (labels, inputs) = (spec.labels.clone(), spec.inputs.clone());
        let start = Start { execution, labels, inputs, retry: spec.retry.clone() };
        let of_time = (cause != Cause::Call).then_some(nominal);
        let backfill = cause == Cause::Backfill;
        let trigger = Trigger::Schedule { schedule: spec.id.clone(), nominal: of_time, backfill };
        let started = decide::started(self.state, definition, workflow.version, start, trigger)?;
        self.outcome(nominal, Outcome::Fired { execution, cause });
        self.decided.push(started);
        self.running += 1;
        Ok(())
    }

    fn outcome(&mut self, nominal: Timestamp, outcome: Outcome) {
        self.record.course.take(nominal, &outcome, None);
        let next = self.record.upcoming();
        self.record.course.next = next;
        let schedule = self.record.spec.id.clone();
        let event = Event::ScheduleAdvanced { schedule, nominal, outcome, next };
        self.decided.push(Decided { workflow: None, execution: None, event });
    }
}

/// Its executions that have not ended.
fn running<'a>(state: &'a State, course: &'a Course) -> impl Iterator<Item = ExecutionId> + 'a {
    course.running.iter().copied().filter(|id| state.alive.contains_key(id))
}
