//! Schedules in the ledger: what each has been told, and what became of its times, held against S-SCHED.
//!
//! Times are taken from the timetable one after the other, so that none is passed over and none comes twice. What an
//! absence may cost is in `absence`, what must be true between batches in `punctual`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use noxd::machine::{
    ids::{Actor, ExecutionId, ScheduleId, Timestamp},
    message::{Event, Recorded, ScheduleChange, Trigger},
    schedule::{Cause, Outcome, OverlapPolicy, ScheduleRecord, ScheduleSpec, Upcoming},
};

use crate::{
    absence::Pass,
    ledger::Ledger,
    timetable::{Next, Timetable},
};

/// S-SCHED-4.
const MOST_WAITING: usize = 100;

/// Words of the reasons for which a time is skipped.
const REASONS: [&str; 7] =
    ["has not ended", "waits already", "a later time has come", "does not exist", "DRAFT", "go", "no runs are left"];

/// What is known of schedules.
#[derive(Default)]
pub struct Schedules {
    /// Deleted ones too.
    pub known: BTreeMap<ScheduleId, Schedule>,
    /// What somebody wants a version to say.
    pub offers: BTreeMap<(ScheduleId, u64), Offer>,
    /// The wall clock, as far as noxd lets it go back.
    pub clock: i64,
    /// The clock of the machine stands before that, and nothing was left to do.
    pub stands_behind: bool,
    /// It stood there, and no time has come since.
    pub stood_behind: bool,
    /// Why times may come late.
    pub absence: Option<&'static str>,
    /// Not everything that was due had room in the last batch.
    pub is_unfinished: bool,
    /// Those that something became of in this batch.
    pub touched: BTreeSet<ScheduleId>,
    /// The execution of each time, for ever.
    of_time: BTreeMap<(ScheduleId, i64), ExecutionId>,
    /// An execution that must begin next.
    pub announced: Option<(ExecutionId, ScheduleId, Option<Timestamp>)>,
    /// Executions that must be cancelled next.
    to_cancel: Vec<ExecutionId>,
}

/// What somebody wants a schedule to say.
pub struct Offer {
    pub spec: Arc<ScheduleSpec>,
    pub enabled: Option<bool>,
    pub remaining: Option<u64>,
}

/// One schedule.
pub struct Schedule {
    pub version: u64,
    pub deleted: bool,
    pub spec: ScheduleSpec,
    pub times: Timetable,
    pub enabled: bool,
    pub note: String,
    /// The newest time that has a fate, or before which none is asked for.
    pub last: i64,
    pub next: Option<Upcoming>,
    /// Its jitter was not told: it is due then, or later.
    pub is_guess: bool,
    /// When each time was said to be due, which is the same for ever.
    dues: BTreeMap<i64, i64>,
    pub remaining: Option<u64>,
    pub waiting: Vec<i64>,
    /// All that it started since its creation.
    pub started: Vec<ExecutionId>,
    pub fired: u64,
    pub skipped: u64,
    pub missed: u64,
    pub last_execution: Option<(ExecutionId, Timestamp)>,
    pub is_catching_up: bool,
    pub pass: Option<Pass>,
    /// Whether times that waited were looked at in this batch.
    pub was_released: bool,
}

/// What must become of a time.
#[derive(Debug, PartialEq)]
enum Fate {
    Fired,
    Buffered,
    /// With a reason that has these words.
    Skipped(&'static str),
}

impl Schedule {
    /// Whether all of its runs are used up, or promised.
    pub fn is_spent(&self) -> bool {
        self.remaining.is_some_and(|left| left <= self.waiting.len() as u64)
    }

    pub fn asks(&self) -> Next {
        if !self.enabled || self.deleted || self.is_spent() { Next::Never } else { self.times.after(self.last) }
    }

    /// Looks ahead: what came until now is let go.
    fn look_ahead(&mut self, now: i64) {
        self.last = self.last.max(now);
        (self.is_catching_up, self.pass) = (false, None);
    }
}

impl Ledger {
    /// Its executions that have not ended.
    pub fn running_of(&self, schedule: &Schedule) -> Vec<ExecutionId> {
        let runs = schedule.started.iter().copied();
        runs.filter(|id| self.runs.get(id).is_some_and(|run| !run.status.is_terminal())).collect()
    }

    /// Before every event: what a schedule did must go on at once.
    pub fn follow_announced(&mut self, recorded: &Recorded) {
        let announced = self.schedules.announced.take();
        if let Event::ExecutionStarted { trigger: Trigger::Schedule { schedule, nominal, .. }, .. } = &recorded.event {
            let begun = recorded.execution.map(|id| (id, schedule.clone(), *nominal));
            self.check(announced == begun, "S-SCHED-7: an execution that no schedule started");
            let spec = &self.schedules.known[schedule].spec;
            self.check(recorded.workflow.as_ref() == Some(&spec.workflow), "S-SCHED-7: of another workflow");
        } else {
            self.check(announced.is_none(), "S-SCHED-7: a firing, and nothing starts");
        }
        match &recorded.event {
            Event::ExecutionCancelRequested { .. } if recorded.actor == Actor::Noxd => {
                let first = self.schedules.to_cancel.first().copied();
                self.check(first == recorded.execution, "S-SCHED-4: a schedule cancelled what it should not");
                self.schedules.to_cancel.remove(0);
            }
            Event::ScheduleAdvanced { .. } | Event::ScheduleChanged { .. } => self.all_cancelled(),
            _ => {}
        }
    }

    pub fn all_cancelled(&self) {
        self.check(self.schedules.to_cancel.is_empty(), "S-SCHED-4: CANCEL_OTHER did not cancel what runs");
    }

    /// S-SCHED-6: what a person changed.
    pub fn follow_schedule(
        &mut self,
        recorded: &Recorded,
        id: &ScheduleId,
        change: &ScheduleChange,
        version: u64,
        record: Option<&Arc<ScheduleRecord>>,
    ) {
        let now = recorded.time.0;
        self.schedules.touched.insert(id.clone());
        let before = self.schedules.known.get(id).map_or(0, |before| before.version);
        let lives = self.schedules.known.get(id).is_some_and(|before| !before.deleted);
        let is_new = *change == ScheduleChange::Created;
        self.check(lives != is_new, "S-SCHED-6: a schedule cannot be changed so now");
        let is_version = is_new || *change == ScheduleChange::Updated;
        self.check(version == before + u64::from(is_version), "versions count by one");
        if is_version {
            self.take_offer(id, version, now);
        }
        let schedule = self.schedules.known.get_mut(id).expect("it is there");
        match change {
            ScheduleChange::Created | ScheduleChange::Updated => {}
            ScheduleChange::Deleted => {
                (schedule.deleted, schedule.enabled) = (true, false);
                schedule.waiting.clear();
            }
            ScheduleChange::BackfillRequested { .. } | ScheduleChange::BackfillCancelled { .. } => {
                self.fail("nobody here makes up times")
            }
            ScheduleChange::Paused { note } => (schedule.enabled, schedule.note) = (false, note.clone()),
            ScheduleChange::Resumed => {
                (schedule.enabled, schedule.note) = (true, String::new());
                schedule.look_ahead(now);
            }
        }
        schedule.pass = None;
        if let Some(record) = record {
            self.as_stored(id, record);
        }
        match record {
            Some(record) => self.upcoming(id, record.course.next),
            // The history does not say it.
            None => {
                let schedule = self.schedules.known.get_mut(id).expect("it is there");
                schedule.is_guess = schedule.spec.times.jitter_micros > 0;
                schedule.next = match schedule.asks() {
                    Next::At(at) => Some(Upcoming { nominal: Timestamp(at), due: Timestamp(at) }),
                    _ => None,
                };
            }
        }
    }

    fn take_offer(&mut self, id: &ScheduleId, version: u64, now: i64) {
        let Some(offer) = self.schedules.offers.get(&(id.clone(), version)) else {
            self.fail("a schedule that nobody stored")
        };
        let mut spec = offer.spec.as_ref().clone();
        let (enabled, remaining) = (offer.enabled, offer.remaining);
        match self.schedules.known.get_mut(id).filter(|before| !before.deleted) {
            None => {
                spec.times.created_at = Timestamp(now);
                let schedule = Schedule {
                    version,
                    deleted: false,
                    times: Timetable::of(&spec.times),
                    spec,
                    enabled: enabled.unwrap_or(true),
                    note: String::new(),
                    last: now,
                    next: None,
                    is_guess: false,
                    dues: BTreeMap::new(),
                    remaining,
                    waiting: Vec::new(),
                    started: Vec::new(),
                    fired: 0,
                    skipped: 0,
                    missed: 0,
                    last_execution: None,
                    is_catching_up: false,
                    pass: None,
                    was_released: false,
                };
                self.schedules.known.insert(id.clone(), schedule);
            }
            Some(schedule) => {
                spec.times.created_at = schedule.spec.times.created_at;
                if spec.times != schedule.spec.times {
                    schedule.times = Timetable::of(&spec.times);
                    schedule.dues.clear();
                    schedule.look_ahead(now);
                }
                (schedule.version, schedule.spec, schedule.remaining) = (version, spec, remaining);
                if enabled == Some(true) && !schedule.enabled {
                    schedule.note.clear();
                    schedule.look_ahead(now);
                }
                schedule.enabled = enabled.unwrap_or(schedule.enabled);
            }
        }
    }

    /// S-SCHED-1: the next time is told, and its jitter is in its bounds and the same each time.
    pub fn upcoming(&mut self, id: &ScheduleId, told: Option<Upcoming>) {
        let schedule = &self.schedules.known[id];
        let asks = schedule.asks();
        let same = match (asks, told) {
            (Next::Never, None) => true,
            (Next::At(at), Some(told)) => told.nominal.0 == at,
            (Next::After(at), Some(told)) => told.nominal.0 > at,
            _ => false,
        };
        self.check(same, format_args!("S-SCHED-1: the next time of `{id}` is {told:?}, not {asks:?}"));
        if let Some(Upcoming { nominal: Timestamp(nominal), due: Timestamp(due) }) = told {
            let jitter = schedule.spec.times.jitter_micros;
            let before_next = match schedule.times.after(nominal) {
                Next::At(next) => due < next,
                _ => true,
            };
            let within = due == nominal || nominal < due && due < nominal + jitter;
            self.check(
                within && before_next,
                format_args!("S-SCHED-1: {nominal} with jitter {jitter} is due at {due}"),
            );
            let schedule = self.schedules.known.get_mut(id).expect("it is there");
            let known = *schedule.dues.entry(nominal).or_insert(due);
            self.check(known == due, format_args!("S-SCHED-1: {nominal} was due at {known}, and is at {due}"));
        }
        let schedule = self.schedules.known.get_mut(id).expect("it is there");
        (schedule.next, schedule.is_guess) = (told, false);
    }

    /// Something became of a time, or a call.
    pub fn follow_advance(&mut self, recorded: &Recorded, id: &ScheduleId, nominal: Timestamp, outcome: &Outcome) {
        self.schedules.touched.insert(id.clone());
        let Some(schedule) = self.schedules.known.get(id).filter(|schedule| !schedule.deleted) else {
            self.fail("S-SCHED-6: a time of no schedule")
        };
        match outcome {
            Outcome::Fired { cause: Cause::Call, .. } => {
                self.check(nominal == recorded.time, "S-SCHED-6: a call is of now");
                self.check(self.may_start(&schedule.spec).is_none(), "S-SCHED-6: a call for which nothing can start");
            }
            Outcome::Fired { cause: Cause::Release, .. } | Outcome::Skipped { cause: Cause::Release, .. } => {
                self.follow_waiting(schedule, nominal.0, outcome);
            }
            _ => self.follow_time(recorded, id, nominal.0, outcome),
        }
        let schedule = self.schedules.known.get_mut(id).expect("it is there");
        match outcome {
            Outcome::Fired { execution, cause } => {
                schedule.fired += 1;
                schedule.started.push(*execution);
                schedule.last_execution = Some((*execution, nominal));
                let of_time = (*cause != Cause::Call).then_some(nominal);
                if of_time.is_some() {
                    schedule.remaining = schedule.remaining.map(|left| left.saturating_sub(1));
                    let twice = self.schedules.of_time.insert((id.clone(), nominal.0), *execution).is_some();
                    self.check(!twice, "S-SCHED-5: two executions of one time");
                }
                self.schedules.announced = Some((*execution, id.clone(), of_time));
            }
            Outcome::Buffered => {
                schedule.waiting.push(nominal.0);
                self.check(self.schedules.known[id].waiting.len() <= MOST_WAITING, "S-SCHED-4: too many wait");
            }
            Outcome::Skipped { .. } => schedule.skipped += 1,
            Outcome::Missed { count, .. } => schedule.missed += count,
        }
        let schedule = self.schedules.known.get_mut(id).expect("it is there");
        match outcome {
            Outcome::Fired { cause: Cause::Call, .. } => {}
            Outcome::Fired { cause: Cause::Release, .. } | Outcome::Skipped { cause: Cause::Release, .. } => {
                schedule.waiting.retain(|waits| *waits != nominal.0);
                (schedule.was_released, schedule.pass) = (true, None);
            }
            _ => schedule.last = nominal.0,
        }
        match outcome {
            Outcome::Missed { more, .. } => schedule.is_catching_up = *more,
            Outcome::Buffered
            | Outcome::Fired { cause: Cause::Time, .. }
            | Outcome::Skipped { cause: Cause::Time, .. } => {
                schedule.is_catching_up = false;
            }
            _ => {}
        }
        if let Event::ScheduleAdvanced { next, .. } = &recorded.event {
            self.upcoming(id, *next);
        }
        self.cover(id, outcome);
    }

    /// A time that had waited.
    fn follow_waiting(&self, schedule: &Schedule, nominal: i64, outcome: &Outcome) {
        self.check(schedule.enabled && !self.held && !self.draining, "S-SCHED-6: a time of what does not fire");
        self.check(schedule.waiting.first() == Some(&nominal), "S-SCHED-4: another time waited longer");
        let overlap = schedule.spec.overlap;
        if let Outcome::Skipped { reason, .. } = outcome
            && reason.contains("a later time has come")
        {
            return self.check(overlap == OverlapPolicy::CancelOther, "S-SCHED-4: it need not make room");
        }
        let may = overlap == OverlapPolicy::AllowAll || self.running_of(schedule).is_empty();
        self.check(may, "S-SCHED-4: it waited for an end which has not come");
        let is_over = schedule.remaining == Some(0);
        let fate = if is_over { Fate::Skipped("no runs are left") } else { self.start_of(schedule) };
        self.as_fated(&fate, outcome);
    }

    /// The next time, of which something must become now.
    fn follow_time(&mut self, recorded: &Recorded, id: &ScheduleId, nominal: i64, outcome: &Outcome) {
        let (schedule, now) = (&self.schedules.known[id], recorded.time.0);
        self.check(schedule.enabled && !self.held && !self.draining, "S-SCHED-6: a time of what does not fire");
        self.check(!schedule.is_spent(), "S-SCHED-1: all of its runs are used up");
        self.check(!self.schedules.stands_behind, "S-SCHED-5: something fired while the clock stood behind");
        let stood_behind = self.schedules.stood_behind;
        let is_due = schedule.next.is_some_and(|next| next.due.0 <= now);
        self.check(is_due, "S-SCHED-1: it is not due yet");
        let first = match outcome {
            Outcome::Missed { first, .. } => first.0,
            _ => nominal,
        };
        let next = schedule.asks();
        let words = format_args!("S-SCHED-5: {first} of `{id}` was decided about, and {next:?} is next");
        self.check(next == Next::At(first), words);
        self.in_order(id, now);
        if stood_behind {
            self.schedules.stood_behind = false;
            self.coverage.reached("a time comes after a clock that was put back");
        }
        self.follow_absence(id, nominal, outcome, now);
        if matches!(outcome, Outcome::Missed { .. }) {
            return;
        }
        let Event::ScheduleAdvanced { next, .. } = &recorded.event else { return };
        let schedule = &self.schedules.known[id];
        let later = match schedule.times.after(nominal) {
            Next::At(at) if schedule.spec.times.jitter_micros == 0 => at <= now,
            _ => next.is_some_and(|next| next.due.0 <= now),
        };
        let fate = self.fate_of(schedule, !later);
        self.as_fated(&fate, outcome);
        if fate == Fate::Buffered && schedule.spec.overlap == OverlapPolicy::CancelOther {
            let to_cancel = self.running_of(schedule).into_iter().filter(|id| self.runs[id].cancels == 0);
            self.schedules.to_cancel = to_cancel.collect();
        }
    }

    /// S-SCHED-7: who is due first comes first; but who waited for an end, and has it, comes before all.
    fn in_order(&self, id: &ScheduleId, now: i64) {
        let schedule = &self.schedules.known[id];
        if schedule.was_released || !schedule.waiting.is_empty() || schedule.pass.is_some() {
            return;
        }
        let due = |schedule: &Schedule| schedule.next.map(|next| next.due.0);
        let others = self.schedules.known.values().filter(|other| due(other).is_some_and(|due| due <= now));
        let first = others.filter_map(due).min();
        self.check(due(schedule) == first, format_args!("S-SCHED-7: `{id}` came before what is due at {first:?}"));
    }

    /// S-SCHED-4, word by word.
    fn fate_of(&self, schedule: &Schedule, is_newest: bool) -> Fate {
        let waiting = schedule.waiting.len();
        match schedule.spec.overlap {
            OverlapPolicy::AllowAll => self.start_of(schedule),
            OverlapPolicy::CancelOther if !is_newest => Fate::Skipped("a later time has come"),
            _ if self.running_of(schedule).is_empty() && waiting == 0 => self.start_of(schedule),
            OverlapPolicy::Skip => Fate::Skipped("has not ended"),
            OverlapPolicy::BufferOne | OverlapPolicy::CancelOther if waiting > 0 => Fate::Skipped("waits already"),
            OverlapPolicy::BufferAll if waiting >= MOST_WAITING => Fate::Skipped("wait already"),
            _ => Fate::Buffered,
        }
    }

    fn start_of(&self, schedule: &Schedule) -> Fate {
        self.may_start(&schedule.spec).map_or(Fate::Fired, |(_, words)| Fate::Skipped(words))
    }

    /// Why nothing can start: how a call is refused, and words of the reason.
    pub fn may_start(&self, spec: &ScheduleSpec) -> Option<(&'static str, &'static str)> {
        let workflow = &spec.workflow;
        let Some((version, false)) = self.workflows.get(workflow) else {
            return Some(("WorkflowNotFound", "does not exist"));
        };
        if !self.plans.contains_key(&(workflow.clone(), *version)) {
            return Some(("InvalidWorkflowState", "DRAFT"));
        }
        let fits = spec.inputs.0.values().all(serde_json::Value::is_boolean);
        (!fits).then_some(("InvalidInputs", "go"))
    }

    fn as_fated(&self, fate: &Fate, outcome: &Outcome) {
        let same = match (fate, outcome) {
            (Fate::Fired, Outcome::Fired { .. }) | (Fate::Buffered, Outcome::Buffered) => true,
            (Fate::Skipped(words), Outcome::Skipped { reason, .. }) => reason.contains(words),
            _ => false,
        };
        self.check(same, format_args!("S-SCHED-4: {outcome:?}, not {fate:?}"));
    }

    fn cover(&mut self, id: &ScheduleId, outcome: &Outcome) {
        let what = match outcome {
            Outcome::Fired { cause: Cause::Time, .. } => "a time fires",
            Outcome::Fired { cause: Cause::Release, .. } => "a time fires that waited",
            Outcome::Fired { cause: Cause::Call, .. } => "a call fires",
            Outcome::Fired { cause: Cause::Backfill, .. } => self.fail("nobody here makes up times"),
            Outcome::Buffered => "a time waits",
            Outcome::Skipped { cause: Cause::Time, reason } if reason.contains("100 times wait") => "a full buffer",
            Outcome::Skipped { cause: Cause::Release, .. } => "a time that waited is skipped",
            Outcome::Skipped { .. } => "a time is skipped",
            Outcome::Missed { more: false, .. } => "times are missed",
            Outcome::Missed { more: true, .. } => "times are missed in several steps",
        };
        self.coverage.reached(what);
        if let Outcome::Skipped { reason, .. } = outcome
            && let Some(words) = REASONS.into_iter().find(|words| reason.contains(words))
        {
            self.coverage.reached(&format!("a time is skipped: {words}"));
        }
        if self.schedules.known[id].remaining == Some(0) {
            self.coverage.reached("the last run");
        }
    }
}
