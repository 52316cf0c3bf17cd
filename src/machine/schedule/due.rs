//! What the state knows of schedules: when the first of them is due, and which wait for an execution to end.
//!
//! These are the deadlines of the wall clock, beside those of noxd's own in the state. Of an idle schedule only its next
//! time is here, so that many cost little; its record is loaded when that comes, and dropped with the batch.

use std::sync::Arc;

use super::{Course, Outcome, OverlapPolicy, ScheduleRecord, Upcoming};
use crate::machine::{
    ids::{ExecutionId, ScheduleId, Tick, Timestamp, WorkflowId},
    message::Trigger,
    state::State,
};

impl State {
    /// The schedule whose time is due first, or that waited for an end which has come. None while nothing is admitted.
    pub fn first_firing(&self, tick: Tick) -> Option<&ScheduleId> {
        if self.draining || self.held {
            return None;
        }
        let due = self.firings.first().filter(|(at, _)| *at <= tick.wall.max(self.wall)).map(|(_, id)| id);
        self.released.first().or(due)
    }

    /// When [`first_firing`](Self::first_firing) has something, on the wall clock; none while nothing is admitted.
    pub fn next_firing(&self) -> Option<Timestamp> {
        if self.draining || self.held {
            return None;
        }
        if !self.released.is_empty() {
            return Some(self.wall);
        }
        self.firings.first().map(|(at, _)| *at)
    }

    /// What a schedule needs before its time is decided about: executions that it may cancel.
    pub fn needs_of_firing(&self, id: &ScheduleId) -> Vec<ExecutionId> {
        let Some(record) = self.schedules.get(id) else { return Vec::new() };
        if record.spec.overlap != OverlapPolicy::CancelOther {
            return Vec::new();
        }
        let running = record.course.running.iter().copied();
        running.filter(|id| self.alive.contains_key(id) && !self.executions.contains_key(id)).collect()
    }

    /// A schedule that is here.
    pub fn schedule(&self, id: &ScheduleId) -> Option<&Arc<ScheduleRecord>> {
        self.schedules.get(id)
    }

    /// Gives a schedule record that was needed.
    pub fn load_schedule(&mut self, record: ScheduleRecord) {
        self.schedules.entry(record.spec.id.clone()).or_insert_with(|| Arc::new(record));
    }

    /// Takes note of a schedule at recovery, when all that has not ended is known: of more than this nothing is kept.
    pub fn note_schedule(&mut self, id: &ScheduleId, deleted: bool, course: &Course) {
        if deleted {
            return;
        }
        self.firings.extend(course.next.map(|next| (next.due, id.clone())));
        if course.is_waiting() {
            self.buffering.insert(id.clone());
            // Its end may have been the last thing that was written.
            self.released.insert(id.clone());
        }
    }

    /// Takes note of a schedule for which nothing was to be done after an end.
    pub(in crate::machine) fn nothing_released(&mut self, id: &ScheduleId) {
        self.released.remove(id);
    }

    /// Follows what became of a nominal time.
    pub(in crate::machine) fn advance_schedule(
        &mut self,
        id: &ScheduleId,
        nominal: Timestamp,
        outcome: &Outcome,
        next: Option<Upcoming>,
    ) {
        let Some(mut record) = self.schedules.get(id).map(|record| record.as_ref().clone()) else { return };
        record.course.running.retain(|id| self.alive.contains_key(id));
        record.course.take(nominal, outcome, next);
        self.keep_schedule(Arc::new(record));
    }

    pub(in crate::machine) fn keep_schedule(&mut self, record: Arc<ScheduleRecord>) {
        let id = record.spec.id.clone();
        if let Some(at) = self.schedules.get(&id).and_then(|before| before.wake()) {
            self.firings.remove(&(at, id.clone()));
        }
        self.firings.extend(record.wake().map(|at| (at, id.clone())));
        self.released.remove(&id);
        if record.course.is_waiting() {
            self.buffering.insert(id.clone());
            let running = record.course.running.iter().filter(|run| self.alive.contains_key(run)).count();
            if running == 0 || record.course.backfill.next(running).is_some() {
                self.released.insert(id.clone());
            }
        } else {
            self.buffering.remove(&id);
        }
        self.schedules.insert(id, record);
    }

    /// An execution ends: times of its schedule may have waited for that.
    pub(in crate::machine) fn release(&mut self, id: ExecutionId) {
        if let Some(Trigger::Schedule { schedule, .. }) = self.executions.get(&id).map(|ended| &ended.trigger)
            && self.buffering.contains(schedule)
        {
            self.released.insert(schedule.clone());
        }
    }

    /// The version of a workflow that a schedule starts, where it is not known here how long its executions take.
    pub fn needs_durations_of(&self, schedule: &ScheduleId) -> Option<(WorkflowId, u64)> {
        let workflow = &self.schedules.get(schedule)?.spec.workflow;
        let started = (workflow.clone(), self.workflows.get(workflow)?.version);
        (!self.durations.contains_key(&started)).then_some(started)
    }
}
