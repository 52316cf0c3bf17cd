//! What must be true of schedules between batches: everything that is due has its fate, what waits has a reason, and what
//! is stored of each is what its events say, also after a restart.

use noxd::machine::{
    ids::{ScheduleId, Tick, Timestamp},
    schedule::ScheduleRecord,
    step::Machine,
};

use crate::{
    firings::{Schedule, Schedules},
    ledger::Ledger,
    timetable::Next,
};

/// What an engine has stored of a schedule.
pub type Stored<'a> = &'a dyn Fn(&ScheduleId) -> Option<ScheduleRecord>;

impl Schedules {
    /// Whether something is decided about in the next batch, before anything else.
    pub fn has_come(&self, ledger: &Ledger) -> bool {
        let is_due = |schedule: &Schedule| schedule.next.is_some_and(|next| next.due.0 <= self.clock);
        let is_free = |schedule: &Schedule| {
            schedule.enabled && !schedule.waiting.is_empty() && ledger.running_of(schedule).is_empty()
        };
        self.is_unfinished || self.known.values().any(|schedule| is_due(schedule) || is_free(schedule))
    }
}

impl Ledger {
    fn newest(&self) -> i64 {
        self.log.last().map_or(0, |newest| newest.time.0)
    }

    /// Before a batch: where the clock stands.
    pub fn look_at_the_clock(&mut self, tick: Tick) {
        let newest = self.newest();
        let left = |schedule: &Schedule| {
            schedule.enabled && matches!(schedule.times.after(schedule.last), Next::At(at) if at <= newest)
        };
        let schedules = &mut self.schedules;
        let has_left = schedules.is_unfinished || schedules.known.values().any(left);
        schedules.clock = newest.max(tick.wall.0);
        schedules.stands_behind = tick.wall.0 < newest && !has_left;
        if schedules.stands_behind && schedules.known.values().any(|schedule| schedule.next.is_some()) {
            self.coverage.reached("the clock stands behind");
            self.schedules.stood_behind = true;
        }
    }

    /// After a batch.
    pub fn punctual(&mut self, machine: &Machine, is_unfinished: bool, stored: Stored<'_>) {
        let state = machine.state();
        self.all_cancelled();
        self.check(self.schedules.announced.is_none(), "S-SCHED-7: a firing, and nothing starts");
        self.absences_are_over();
        self.schedules.is_unfinished = is_unfinished;
        for id in std::mem::take(&mut self.schedules.touched) {
            self.as_kept(&id, stored);
        }
        for schedule in self.schedules.known.values_mut() {
            schedule.was_released = false;
        }
        if self.held || self.draining || is_unfinished {
            return;
        }
        self.schedules.absence = None;
        let clock = self.schedules.clock.max(self.newest());
        for (id, schedule) in &self.schedules.known {
            let is_due = schedule.next.is_some_and(|next| next.due.0 <= clock);
            self.check(!is_due, format_args!("S-SCHED-5: a time of `{id}` has come, and nothing became of it"));
            self.check(!schedule.is_catching_up, "S-SCHED-5: an absence is over, and is gone through on");
            let waits = schedule.enabled && !schedule.waiting.is_empty();
            let reason = !waits || !self.running_of(schedule).is_empty();
            self.check(reason, format_args!("S-SCHED-4: times of `{id}` wait, and nothing runs"));
        }
        let first = self.schedules.known.values().filter_map(|schedule| schedule.next).map(|next| next.due).min();
        let told = state.next_firing();
        self.check(told == first, format_args!("S-SCHED-1: the next firing is {told:?}, not {first:?}"));
    }

    /// After a restart: all of it is read anew.
    pub fn as_before(&mut self, stored: Stored<'_>) {
        self.absences_are_over();
        self.schedules.is_unfinished = true;
        self.schedules.touched.clear();
        let ids: Vec<ScheduleId> = self.schedules.known.keys().cloned().collect();
        ids.iter().for_each(|id| self.as_kept(id, stored));
    }

    fn as_kept(&mut self, id: &ScheduleId, stored: Stored<'_>) {
        let Some(record) = stored(id) else { self.fail(format_args!("S-SCHED-7: `{id}` is stored, and is not there")) };
        self.as_stored(id, &record);
        let next = record.course.next;
        if self.schedules.known[id].is_guess {
            self.upcoming(id, next);
        }
        let known = self.schedules.known[id].next;
        self.check(next == known, format_args!("S-SCHED-7: the next time kept is {next:?}, not {known:?}"));
    }

    /// S-SCHED-7: what is stored is what the events say.
    pub fn as_stored(&self, id: &ScheduleId, record: &ScheduleRecord) {
        let (known, course) = (&self.schedules.known[id], &record.course);
        let waiting: Vec<i64> = course.buffered.iter().map(|at| at.0).collect();
        let counters = (course.fired, course.skipped, course.missed, course.remaining_runs);
        let expected = (known.fired, known.skipped, known.missed, known.remaining);
        self.check(counters == expected, format_args!("S-SCHED-7: `{id}` counts {counters:?}, not {expected:?}"));
        self.check(waiting == known.waiting, format_args!("S-SCHED-4: {waiting:?} wait, not {:?}", known.waiting));
        self.check(*record.spec == known.spec, "S-SCHED-6: a schedule says something else");
        let is = (record.version, record.deleted, course.enabled, course.note.as_str(), course.last);
        let should = (known.version, known.deleted, known.enabled, known.note.as_str(), Timestamp(known.last));
        self.check(is == should, format_args!("S-SCHED-6: `{id}` is kept as {is:?}, not {should:?}"));
        self.check(course.last_execution == known.last_execution, "S-SCHED-7: another last execution");
        self.check(course.catching_up == known.is_catching_up, "S-SCHED-5: whether an absence is gone through");
        let running = self.running_of(known);
        let kept = running.iter().all(|id| course.running.contains(id));
        self.check(kept, format_args!("S-SCHED-4: {:?} run, not {running:?}", course.running));
    }
}
