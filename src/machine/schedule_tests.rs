//! Schedules in the machine: every policy over an absence of a day, clocks that are put, and that no time is lost or
//! taken twice, whatever happens.

use std::{collections::BTreeSet, sync::Arc};

use super::*;
use crate::{
    calendar::Kind,
    machine::{
        ids::{AttemptKey, Elapsed, Tick},
        message::{
            AttemptEnd, AttemptOutcome, Command, Content, Event, Recorded, Rejection, Reply, ScheduleChange, Trigger,
        },
        state::State,
        step::{Machine, Step},
        workflow::{Action, Definition, RetrySpec, TaskSpec, WorkflowSpec},
    },
};

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// 2026 begins.
const BEGIN: i64 = 1_767_225_600 * SECOND;

fn workflow(id: &str) -> WorkflowId {
    WorkflowId::parse(id).expect("a name")
}

fn schedule(id: &str) -> ScheduleId {
    ScheduleId::parse(id).expect("a name")
}

/// Every so often, from the beginning on.
fn every(interval_micros: i64) -> ScheduleSpec {
    ScheduleSpec {
        id: schedule("s"),
        workflow: workflow("w"),
        description: String::new(),
        times: Spec::new(Kind::Interval { interval_micros }, Timestamp(0)),
        overlap: OverlapPolicy::Skip,
        catch_up: CatchUp::Last,
        catch_up_window_micros: None,
        inputs: Inputs::default(),
        labels: BTreeMap::new(),
        retry: None,
    }
}

/// A machine, a clock that the test puts, and everything that happened.
struct Story {
    machine: Machine,
    now: Tick,
    events: Vec<Arc<Recorded>>,
}

impl Story {
    fn new() -> Self {
        let now = Tick { wall: Timestamp(BEGIN), elapsed: Elapsed(0), seed: 7 };
        let mut story = Self { machine: Machine::new(State::new(100_000)), now, events: Vec::new() };
        let task =
            TaskSpec { id: "t".into(), action: Some(Action::Noop { duration_micros: 1 }), ..TaskSpec::default() };
        let spec = WorkflowSpec { tasks: vec![task], ..WorkflowSpec::named(workflow("w")) };
        let content = Content::Ready(Definition::check(spec).expect("no faults"));
        story.tell(Command::CreateWorkflow { content }).expect("stored");
        story
    }

    fn of(spec: ScheduleSpec) -> Self {
        let mut story = Self::new();
        story.create(spec, None);
        story
    }

    fn create(&mut self, spec: ScheduleSpec, remaining_runs: Option<u64>) {
        let command = Command::CreateSchedule { spec: Arc::new(spec), enabled: true, remaining_runs };
        self.tell(command).expect("stored");
    }

    fn tell(&mut self, command: Command) -> Result<Reply, Rejection> {
        let mut step = Step::default();
        let reply = self.machine.apply(command, &Actor::from_text("uid:1"), self.now, &mut step);
        self.events.extend(step.events);
        reply
    }

    /// Puts the clocks, and lets come what is due.
    fn at(&mut self, wall: i64) {
        self.now.elapsed.0 += 1_000;
        self.now.wall.0 = wall;
        self.now.seed += 1;
        for _ in 0..200_000 {
            let Some(id) = self.machine.state().first_firing(self.now).cloned() else { return };
            let mut step = Step::default();
            self.machine.fire(&id, self.now, &mut step);
            self.events.extend(step.events);
        }
        panic!("it goes on for ever");
    }

    fn after(&mut self, micros: i64) {
        self.at(BEGIN + micros);
    }

    fn record(&self) -> &ScheduleRecord {
        self.machine.state().schedule(&schedule("s")).expect("it is held until it is dropped")
    }

    fn running(&self) -> Vec<ExecutionId> {
        self.machine.state().active_of(&workflow("w"))
    }

    /// The oldest execution ends.
    fn end_one(&mut self) {
        let execution = self.running()[0];
        let outcome = Box::new(AttemptOutcome::bare(AttemptEnd::Succeeded));
        let attempt = AttemptKey { execution, task: 0, attempt: 1 };
        self.tell(Command::AttemptEnded { attempt, outcome }).expect("taken");
        let now = self.now.wall.0;
        self.at(now);
    }

    /// `fired 1h, skipped 2h, missed 3h-5h (3)`
    fn course(&self) -> String {
        let words = |at: Timestamp| match at.0 - BEGIN {
            micros if micros % HOUR == 0 => format!("{}h", micros / HOUR),
            micros if micros % MINUTE == 0 => format!("{}m", micros / MINUTE),
            micros => format!("{}s", micros / SECOND),
        };
        let told = self.events.iter().filter_map(|recorded| match &recorded.event {
            Event::ScheduleAdvanced { nominal, outcome, .. } => Some(match outcome {
                Outcome::Fired { cause: Cause::Time, .. } => format!("fired {}", words(*nominal)),
                Outcome::Fired { cause: Cause::Release, .. } => format!("released {}", words(*nominal)),
                Outcome::Fired { cause: Cause::Call, .. } => "triggered".to_owned(),
                Outcome::Fired { cause: Cause::Backfill, .. } => format!("backfilled {}", words(*nominal)),
                Outcome::Buffered => format!("buffered {}", words(*nominal)),
                Outcome::Skipped { cause: Cause::Release, .. } => format!("dropped {}", words(*nominal)),
                Outcome::Skipped { cause: Cause::Backfill, .. } => format!("not backfilled {}", words(*nominal)),
                Outcome::Skipped { .. } => format!("skipped {}", words(*nominal)),
                Outcome::Missed { first, count, .. } => {
                    format!("missed {}-{} ({count})", words(*first), words(*nominal))
                }
            }),
            _ => None,
        });
        told.collect::<Vec<_>>().join(", ")
    }

    /// S-SCHED-5: each time since the beginning has one fate, and the counters say what the events say.
    fn check(&self) {
        let record = self.record();
        let mut met: Vec<Timestamp> = Vec::new();
        let (mut fired, mut skipped, mut missed, mut backfilled) = (0, 0, 0, 0);
        let mut of_time = BTreeSet::new();
        for (recorded, next) in self.events.iter().zip(self.events.iter().skip(1).map(Some).chain([None])) {
            let Event::ScheduleAdvanced { nominal, outcome, .. } = &recorded.event else { continue };
            match outcome {
                Outcome::Fired { execution, cause } => {
                    fired += 1;
                    let started = next.expect("its execution begins with it");
                    assert_eq!(started.execution, Some(*execution));
                    let Event::ExecutionStarted { trigger, .. } = &started.event else { panic!("{started:?}") };
                    let time = (*cause != Cause::Call).then_some(*nominal);
                    let (schedule, backfill) = (record.spec.id.clone(), *cause == Cause::Backfill);
                    assert_eq!(*trigger, Trigger::Schedule { schedule, nominal: time, backfill });
                    backfilled += u64::from(backfill);
                    let time = time.filter(|_| !backfill);
                    assert!(time.is_none_or(|time| of_time.insert(time)), "two executions of {nominal:?}");
                    met.extend((*cause == Cause::Time).then_some(*nominal));
                }
                Outcome::Buffered => met.push(*nominal),
                Outcome::Skipped { cause, .. } => {
                    skipped += 1;
                    met.extend((*cause == Cause::Time).then_some(*nominal));
                }
                Outcome::Missed { first, count, .. } => {
                    missed += count;
                    let all = record.calendar.firings(Timestamp(first.0 - 1)).map(|firing| firing.at);
                    let all: Vec<_> = all.take_while(|at| at <= nominal).collect();
                    assert_eq!(all.len() as u64, *count);
                    met.extend(all);
                }
            }
        }
        let all = record.calendar.firings(Timestamp(BEGIN)).map(|firing| firing.at);
        let all: Vec<_> = all.take_while(|at| *at <= record.course.last).collect();
        assert_eq!(met, all, "each of its times has one fate, in order");
        let course = &record.course;
        assert_eq!((course.fired, course.skipped, course.missed), (fired, skipped, missed));
        assert_eq!(course.backfilled, backfilled);
        assert_eq!(course.next, record.upcoming());
    }
}

#[test]
fn each_time_starts_one_execution_which_knows_what_it_is_for() {
    // S-SCHED-7
    let mut story = Story::of(every(HOUR));
    for hour in 1..=3 {
        story.after(hour * HOUR - 1);
        assert_eq!(story.running().len(), 0, "not before its time");
        story.after(hour * HOUR + 5 * SECOND);
        story.after(hour * HOUR + 6 * SECOND);
        assert_eq!(story.running().len(), 1);
        story.end_one();
    }
    assert_eq!(story.course(), "fired 1h, fired 2h, fired 3h");
    assert_eq!(story.record().course.next.map(|next| next.nominal), Some(Timestamp(BEGIN + 4 * HOUR)));
    story.check();
}

#[test]
fn a_time_that_comes_while_one_runs_goes_by_the_overlap_policy() {
    // S-SCHED-4
    let told = |overlap| {
        let mut story = Story::of(ScheduleSpec { overlap, ..every(HOUR) });
        (1..=4).for_each(|hour| story.after(hour * HOUR));
        while !story.running().is_empty() {
            story.end_one();
        }
        story.after(5 * HOUR);
        story.check();
        story.course()
    };
    assert_eq!(told(OverlapPolicy::Skip), "fired 1h, skipped 2h, skipped 3h, skipped 4h, fired 5h");
    assert_eq!(told(OverlapPolicy::BufferOne), "fired 1h, buffered 2h, skipped 3h, skipped 4h, released 2h, fired 5h");
    assert_eq!(
        told(OverlapPolicy::BufferAll),
        "fired 1h, buffered 2h, buffered 3h, buffered 4h, released 2h, released 3h, released 4h, fired 5h"
    );
    assert_eq!(
        told(OverlapPolicy::CancelOther),
        "fired 1h, buffered 2h, dropped 2h, buffered 3h, dropped 3h, buffered 4h, released 4h, fired 5h"
    );
    assert_eq!(told(OverlapPolicy::AllowAll), "fired 1h, fired 2h, fired 3h, fired 4h, fired 5h");
}

#[test]
fn cancel_other_cancels_what_runs_once_and_never_has_two_at_once() {
    // S-SCHED-4
    let mut story = Story::of(ScheduleSpec { overlap: OverlapPolicy::CancelOther, ..every(HOUR) });
    (1..=3).for_each(|hour| story.after(hour * HOUR));
    let cancels =
        story.events.iter().filter(|recorded| matches!(recorded.event, Event::ExecutionCancelRequested { .. }));
    assert_eq!((cancels.count(), story.running().len()), (1, 1));
    story.end_one();
    assert_eq!(story.running().len(), 1, "the newest time starts when the cancelled one has ended");
    story.check();
}

#[test]
fn with_cancel_other_a_time_that_waited_is_not_started_beside_a_later_one() {
    // S-SCHED-4: the end and the later time come at once. Found by the simulation, seed 116.
    let mut story = Story::of(ScheduleSpec { overlap: OverlapPolicy::CancelOther, ..every(HOUR) });
    (1..=2).for_each(|hour| story.after(hour * HOUR));
    story.now.wall = Timestamp(BEGIN + 3 * HOUR);
    story.end_one();
    assert_eq!(story.course(), "fired 1h, buffered 2h, dropped 2h, fired 3h");
    story.check();
}

#[test]
fn what_waits_is_bounded() {
    // S-SCHED-4
    let mut story = Story::of(ScheduleSpec { overlap: OverlapPolicy::BufferAll, ..every(MINUTE) });
    (1..=120).for_each(|minute| story.after(minute * MINUTE));
    assert_eq!(story.record().course.buffered.len(), MAX_BUFFERED);
    assert_eq!(story.record().course.skipped, 120 - 1 - MAX_BUFFERED as u64);
    story.check();
}

#[test]
fn after_a_day_away_the_catch_up_policy_says_what_is_made_up() {
    // S-SCHED-5
    let told = |catch_up, window: Option<i64>| {
        let catch_up_window_micros = window.map(|micros| u64::try_from(micros).expect("positive"));
        let spec =
            ScheduleSpec { catch_up, catch_up_window_micros, overlap: OverlapPolicy::AllowAll, ..every(6 * HOUR) };
        let mut story = Story::of(spec);
        story.after(6 * HOUR);
        // Away from here on, for a day and a half hour.
        story.after(DAY + 6 * HOUR + HOUR / 2);
        story.after(DAY + 12 * HOUR);
        story.check();
        story.course()
    };
    assert_eq!(told(CatchUp::None, None), "fired 6h, missed 12h-30h (4), fired 36h");
    assert_eq!(told(CatchUp::Last, None), "fired 6h, missed 12h-24h (3), fired 30h, fired 36h");
    assert_eq!(told(CatchUp::All, None), "fired 6h, fired 12h, fired 18h, fired 24h, fired 30h, fired 36h");
    assert_eq!(told(CatchUp::All, Some(7 * HOUR)), "fired 6h, missed 12h-18h (2), fired 24h, fired 30h, fired 36h");
    assert_eq!(told(CatchUp::Last, Some(MINUTE)), "fired 6h, missed 12h-30h (4), fired 36h");
}

#[test]
fn a_day_of_minutes_is_gone_through_in_bounded_steps_and_each_is_counted() {
    // S-SCHED-5
    for (catch_up, fired) in [(CatchUp::None, 0), (CatchUp::Last, 1), (CatchUp::All, CATCH_UP_AT_MOST as u64)] {
        let spec = ScheduleSpec { catch_up, overlap: OverlapPolicy::AllowAll, ..every(MINUTE) };
        let mut story = Story::of(spec);
        story.after(DAY + MINUTE + MINUTE / 2);
        story.check();
        let course = &story.record().course;
        // With NONE, the last minute is not late enough to be missed.
        let met = u64::from(catch_up == CatchUp::None) + fired;
        assert_eq!((course.fired, course.missed), (met, 1_441 - met), "{catch_up:?}");
        assert!(!course.catching_up, "it is over");
    }
}

#[test]
fn a_clock_that_jumps_back_repeats_nothing_and_one_that_jumps_ahead_is_an_absence() {
    // S-SCHED-5
    let mut story = Story::of(every(HOUR));
    story.after(HOUR);
    story.end_one();
    story.after(2 * HOUR + SECOND);
    story.end_one();
    for wall in [HOUR, HOUR + SECOND, 2 * HOUR, 2 * HOUR + 2 * SECOND] {
        story.after(wall);
    }
    assert_eq!(story.course(), "fired 1h, fired 2h");
    story.after(6 * HOUR + 10 * MINUTE);
    story.end_one();
    story.after(3 * HOUR);
    assert_eq!(story.course(), "fired 1h, fired 2h, missed 3h-5h (3), fired 6h");
    story.check();
}

#[test]
fn paused_it_starts_nothing_and_resumed_it_looks_ahead() {
    // S-SCHED-6
    let mut story = Story::of(every(HOUR));
    story.tell(Command::PauseSchedule { schedule: schedule("s"), note: "holiday".into() }).expect("paused");
    assert_eq!((story.record().course.note.as_str(), story.record().course.next), ("holiday", None));
    story.after(3 * HOUR + MINUTE);
    assert_eq!(story.course(), "");
    story.tell(Command::ResumeSchedule { schedule: schedule("s") }).expect("resumed");
    assert_eq!(story.record().course.note, "");
    story.after(4 * HOUR);
    assert_eq!(story.course(), "fired 4h");
}

#[test]
fn a_trigger_starts_one_at_once_and_shifts_no_time() {
    // S-SCHED-6
    let mut story = Story::of(every(HOUR));
    story.after(MINUTE);
    let next = story.record().course.next;
    let trigger = Command::TriggerSchedule { schedule: schedule("s"), execution: ExecutionId(77) };
    assert_eq!(story.tell(trigger.clone()), Ok(Reply::Executions(vec![ExecutionId(77)])));
    assert_eq!(story.record().course.next, next);
    story.after(HOUR);
    assert_eq!(story.course(), "triggered, skipped 1h", "what was triggered counts as running");
    story.tell(Command::PauseSchedule { schedule: schedule("s"), note: String::new() }).expect("paused");
    let again = Command::TriggerSchedule { schedule: schedule("s"), execution: ExecutionId(78) };
    story.tell(again).expect("though it is paused, and one runs");
    assert_eq!(story.running().len(), 2);
}

impl Story {
    /// Asks for the times after one moment up to another.
    fn backfill(&mut self, from: i64, to: i64, overlap: Option<OverlapPolicy>) -> Result<Reply, Rejection> {
        let (from, to) = (Timestamp(BEGIN + from), Timestamp(BEGIN + to));
        let reply = self.tell(Command::BackfillSchedule { schedule: schedule("s"), from, to, overlap });
        let now = self.now.wall.0;
        self.at(now);
        reply
    }

    fn end_all(&mut self) {
        while !self.running().is_empty() {
            self.end_one();
        }
    }

    fn waiting(&self) -> usize {
        self.record().course.backfill.len()
    }
}

/// One that was away for a night: of six times it missed five.
fn after_a_night() -> Story {
    let mut story = Story::of(every(HOUR));
    story.after(6 * HOUR + MINUTE / 2);
    assert_eq!(story.course(), "missed 1h-5h (5), fired 6h");
    story.end_one();
    story
}

#[test]
fn a_backfill_starts_the_times_of_a_span_one_after_the_other_and_shifts_none() {
    // S-SCHED-6
    let mut story = after_a_night();
    let before = story.record().course.clone();
    // The span is without its begin and with its end.
    story.backfill(HOUR, 4 * HOUR, None).expect("taken");
    assert_eq!((story.running().len(), story.waiting()), (1, 2), "by default none is skipped and none runs beside");
    let course = story.record().course.clone();
    assert_eq!((course.next, course.last, course.last_execution), (before.next, before.last, before.last_execution));
    story.end_all();
    let told = "missed 1h-5h (5), fired 6h, backfilled 2h, backfilled 3h, backfilled 4h";
    assert_eq!(story.course(), told);
    // What had an execution has another when a person says so.
    story.backfill(5 * HOUR, 6 * HOUR, None).expect("taken");
    story.end_all();
    story.after(7 * HOUR);
    assert_eq!(story.course(), format!("{told}, backfilled 6h, fired 7h"));
    assert_eq!((story.record().course.fired, story.record().course.backfilled), (6, 4));
    story.check();
}

#[test]
fn a_backfill_beside_starts_all_of_them_at_once_and_uses_up_no_run() {
    // S-SCHED-6
    let mut story = Story::new();
    story.create(every(HOUR), Some(2));
    story.after(12 * HOUR + MINUTE / 2);
    story.backfill(0, 12 * HOUR, Some(OverlapPolicy::AllowAll)).expect("taken");
    assert_eq!((story.running().len(), story.waiting()), (13, 0), "and the last one, which was made up by itself");
    assert_eq!(story.record().course.remaining_runs, Some(1));
    let unless_told = |overlap| ScheduleSpec { overlap, ..every(HOUR) }.overlap_of_backfill(None);
    assert_eq!(unless_told(OverlapPolicy::AllowAll), OverlapPolicy::AllowAll);
    assert_eq!(unless_told(OverlapPolicy::CancelOther), OverlapPolicy::BufferAll);
    story.check();
}

#[test]
fn a_schedule_whose_runs_are_used_up_can_be_backfilled() {
    // S-SCHED-6
    let mut story = Story::new();
    story.create(every(HOUR), Some(1));
    story.after(HOUR);
    story.end_one();
    story.after(5 * HOUR + MINUTE);
    assert_eq!((story.course().as_str(), story.record().course.next), ("fired 1h", None));
    story.backfill(HOUR, 5 * HOUR, None).expect("taken");
    story.end_all();
    assert_eq!(story.course(), "fired 1h, backfilled 2h, backfilled 3h, backfilled 4h, backfilled 5h");
}

#[test]
fn no_more_run_beside_each_other_than_a_schedule_keeps_in_mind() {
    // S-SCHED-4, S-SCHED-6
    let mut story = Story::of(every(MINUTE));
    story.after(150 * MINUTE);
    story.end_one();
    story.backfill(0, 150 * MINUTE, Some(OverlapPolicy::AllowAll)).expect("taken");
    assert_eq!((story.running().len(), story.waiting()), (MAX_RUNNING, 50));
    let one_more = Command::TriggerSchedule { schedule: schedule("s"), execution: ExecutionId(7) };
    let busy = Rejection::ScheduleBusy { schedule: schedule("s"), running: MAX_RUNNING };
    assert_eq!(story.tell(one_more), Err(busy));
    for _ in 0..50 {
        story.end_one();
    }
    assert_eq!((story.running().len(), story.waiting()), (MAX_RUNNING, 0), "each end lets the next one start");
    // Whichever has not ended is known: what comes by itself finds it running.
    let youngest = story.record().course.running[MAX_RUNNING - 99..].to_vec();
    for execution in youngest {
        let outcome = Box::new(AttemptOutcome::bare(AttemptEnd::Succeeded));
        let attempt = AttemptKey { execution, task: 0, attempt: 1 };
        story.tell(Command::AttemptEnded { attempt, outcome }).expect("taken");
    }
    assert_eq!(story.running().len(), 1);
    story.after(151 * MINUTE);
    assert!(story.course().ends_with("skipped 151m"), "{}", story.course());
}

#[test]
fn a_backfill_ends_with_its_schedule_and_the_next_of_its_name_inherits_nothing() {
    // S-SCHED-6
    let mut story = after_a_night();
    story.backfill(0, 5 * HOUR, None).expect("taken");
    story.tell(Command::DeleteSchedule { schedule: schedule("s"), etag: None }).expect("deleted");
    story.end_all();
    assert!(story.course().ends_with("fired 6h, backfilled 1h"), "{}", story.course());
    story.create(every(HOUR), None);
    assert_eq!((story.waiting(), story.record().course.backfilled), (0, 0));
}

#[test]
fn what_a_schedule_says_of_retries_is_of_each_execution_that_it_starts_and_of_no_other() {
    // S-SCHED-8
    let policy = |max_attempts| Some(Arc::new(RetrySpec { max_attempts, ..RetrySpec::default() }));
    let mut story = Story::of(ScheduleSpec { retry: policy(3), ..every(HOUR) });
    story.after(3 * HOUR + MINUTE / 2);
    let fired = story.running()[0];
    let fail = |story: &mut Story, execution, attempt| {
        let outcome = Box::new(AttemptOutcome::bare(AttemptEnd::ExitCode(3)));
        story.tell(Command::AttemptEnded { attempt: AttemptKey { execution, task: 0, attempt }, outcome }).map(drop)
    };
    fail(&mut story, fired, 1).expect("taken");
    assert_eq!(story.running(), [fired], "it is tried again");
    let update =
        |spec: ScheduleSpec| Command::UpdateSchedule { spec: spec.into(), enabled: None, runs: Runs::Kept, etag: None };
    story.tell(update(every(HOUR))).expect("changed");
    let of = |story: &Story, id| story.machine.state().execution(id).expect("it runs").retry.clone();
    assert_eq!(of(&story, fired), policy(3), "it keeps what it was started with");
    let other = ExecutionId(9);
    story.tell(Command::TriggerSchedule { schedule: schedule("s"), execution: other }).expect("started");
    assert_eq!(of(&story, other), None);
    story.tell(update(ScheduleSpec { retry: policy(2), ..every(HOUR) })).expect("changed");
    story.backfill(0, HOUR, Some(OverlapPolicy::AllowAll)).expect("taken");
    let made_up = story.running().into_iter().find(|id| ![fired, other].contains(id)).expect("it started");
    assert_eq!(of(&story, made_up), policy(2));
}

#[test]
fn a_backfill_goes_on_though_its_schedule_be_paused_or_changed_until_it_is_cancelled() {
    // S-SCHED-6
    let mut story = after_a_night();
    story.tell(Command::PauseSchedule { schedule: schedule("s"), note: String::new() }).expect("paused");
    story.backfill(0, 5 * HOUR, None).expect("taken");
    story.end_one();
    let spec = Arc::new(every(7 * HOUR));
    story
        .tell(Command::UpdateSchedule { spec, enabled: None, runs: Runs::Left(None), etag: None })
        .expect("its times are others now");
    story.end_one();
    assert!(story.course().ends_with("backfilled 1h, backfilled 2h, backfilled 3h"), "{}", story.course());
    story.tell(Command::CancelBackfill { schedule: schedule("s") }).expect("cancelled");
    story.tell(Command::CancelBackfill { schedule: schedule("s") }).expect("there is none any more");
    story.end_all();
    assert!(story.course().ends_with("backfilled 3h"), "{}", story.course());
    let cancelled = |recorded: &&Arc<Recorded>| {
        matches!(recorded.event, Event::ScheduleChanged { change: ScheduleChange::BackfillCancelled { count: 2 }, .. })
    };
    assert_eq!(story.events.iter().filter(cancelled).count(), 1);
}

#[test]
fn times_that_come_by_themselves_go_before_those_that_are_made_up() {
    // S-SCHED-4, S-SCHED-6
    let mut story = Story::of(ScheduleSpec { overlap: OverlapPolicy::BufferOne, ..every(HOUR) });
    story.after(3 * HOUR + MINUTE / 2);
    story.end_one();
    story.backfill(0, 2 * HOUR, None).expect("taken");
    story.after(4 * HOUR);
    assert!(story.course().ends_with("backfilled 1h, buffered 4h"), "{}", story.course());
    story.end_all();
    assert!(story.course().ends_with("buffered 4h, released 4h, backfilled 2h"), "{}", story.course());
    story.check();
}

#[test]
fn a_backfill_that_cannot_be_is_refused_as_a_whole_and_says_what_can() {
    // S-SCHED-6
    let mut story = Story::of(every(MINUTE));
    story.after(DAY + MINUTE / 2);
    story.end_one();
    let faults = |refused: Result<Reply, Rejection>| match refused {
        Err(Rejection::InvalidBackfill { violations }) => {
            violations.iter().map(|fault| format!("{}: {}", fault.field, fault.description)).collect::<String>()
        }
        other => panic!("{other:?}"),
    };
    assert!(faults(story.backfill(0, DAY + HOUR, None)).starts_with("to: it is to come"));
    assert!(faults(story.backfill(DAY, DAY, None)).starts_with("from: it is not before `to`"));
    let many = faults(story.backfill(0, DAY, None));
    assert!(many.contains("has 1440 times") && many.contains("up to 2026-01-01T16:40:00Z first"), "{many}");
    assert_eq!(story.waiting(), 0);
    story.backfill(0, 16 * HOUR, None).expect("960 of them");
    let full = story.backfill(16 * HOUR, DAY, None);
    assert_eq!(full, Err(Rejection::BackfillFull { schedule: schedule("s"), waiting: 959 }));
    story.tell(Command::CancelBackfill { schedule: schedule("s") }).expect("cancelled");
    let events = story.events.len();
    story.backfill(MINUTE, MINUTE + SECOND, None).expect("there is no time in it");
    assert_eq!(story.events.len(), events, "so nothing is recorded");
    story.end_all();
    story.tell(Command::DeleteWorkflow { workflow: workflow("w"), etag: None }).expect("deleted");
    let nothing_to_start = story.backfill(0, HOUR, None);
    assert_eq!(nothing_to_start, Err(Rejection::WorkflowNotFound(workflow("w"))));
}

#[test]
fn a_time_that_jitter_still_delays_comes_by_itself_and_is_not_made_up() {
    // S-SCHED-5, S-SCHED-6
    let mut spec = every(HOUR);
    spec.times.jitter_micros = 50 * MINUTE;
    let mut story = Story::of(spec);
    let due = story.record().course.next.expect("a time to come").due.0 - BEGIN;
    assert!(due > HOUR + SECOND, "void: its chance is nothing");
    story.after(due - SECOND);
    story.backfill(0, due - SECOND, None).expect("taken");
    assert_eq!(story.course(), "");
    story.after(due);
    story.end_one();
    story.backfill(0, due, None).expect("taken");
    assert_eq!(story.course(), "fired 1h, backfilled 1h");
}

#[test]
fn a_backfill_whose_workflow_goes_meanwhile_says_so_for_each_time_and_ends() {
    // S-SCHED-4, S-SCHED-6
    let mut story = after_a_night();
    let (from, to) = (Timestamp(BEGIN), Timestamp(BEGIN + 2 * HOUR));
    let backfill = Command::BackfillSchedule { schedule: schedule("s"), from, to, overlap: None };
    story.tell(backfill).expect("taken, and nothing runs yet");
    story.tell(Command::DeleteWorkflow { workflow: workflow("w"), etag: None }).expect("deleted");
    let now = story.now.wall.0;
    story.at(now);
    assert!(story.course().ends_with("not backfilled 1h, not backfilled 2h"), "{}", story.course());
    assert_eq!((story.waiting(), story.record().course.skipped), (0, 2));
    story.check();
}

#[test]
fn runs_end_as_often_as_was_said() {
    // S-SCHED-1
    let mut story = Story::new();
    story.create(ScheduleSpec { overlap: OverlapPolicy::BufferAll, ..every(HOUR) }, Some(2));
    (1..=5).for_each(|hour| story.after(hour * HOUR));
    assert_eq!(story.course(), "fired 1h, buffered 2h");
    story.end_one();
    story.end_one();
    assert_eq!(story.course(), "fired 1h, buffered 2h, released 2h");
    let course = &story.record().course;
    assert_eq!((course.remaining_runs, course.next, course.fired), (Some(0), None, 2));
    story.check();
}

#[test]
fn runs_that_an_update_takes_back_are_not_started_by_times_that_wait() {
    // S-SCHED-1: found by the simulation, seed 1462.
    let mut story = Story::of(ScheduleSpec { overlap: OverlapPolicy::BufferAll, ..every(HOUR) });
    (1..=4).for_each(|hour| story.after(hour * HOUR));
    let spec = Arc::clone(&story.record().spec);
    story
        .tell(Command::UpdateSchedule { spec, enabled: None, runs: Runs::Left(Some(1)), etag: None })
        .expect("changed");
    story.end_one();
    story.end_one();
    assert_eq!(story.course(), "fired 1h, buffered 2h, buffered 3h, buffered 4h, released 2h, dropped 3h, dropped 4h");
    let course = &story.record().course;
    assert_eq!((course.remaining_runs, course.fired, course.skipped), (Some(0), 2, 2));
    story.check();
}

#[test]
fn a_schedule_is_changed_by_who_read_it_last_and_refused_with_its_faults() {
    // S-SCHED-1, S-SCHED-6
    let mut story = Story::of(every(HOUR));
    let again = Command::CreateSchedule { spec: every(HOUR).into(), enabled: true, remaining_runs: None };
    assert_eq!(story.tell(again), Err(Rejection::ScheduleExists(schedule("s"))));
    let update = |spec: ScheduleSpec, etag: &str| Command::UpdateSchedule {
        spec: spec.into(),
        enabled: None,
        runs: Runs::Left(None),
        etag: Some(etag.into()),
    };
    story.after(HOUR / 2);
    story.tell(update(every(2 * HOUR), "v1")).expect("changed");
    let stale = story.tell(update(every(HOUR), "v1"));
    assert!(matches!(stale, Err(Rejection::ScheduleEtagMismatch { .. })), "{stale:?}");
    story.after(2 * HOUR);
    assert_eq!(story.course(), "fired 2h", "intervals go on counting from its creation");
    let wrong = story.tell(update(every(-1), "v2"));
    assert!(matches!(wrong, Err(Rejection::InvalidSchedule { .. })), "{wrong:?}");
    let nowhere = story.tell(update(ScheduleSpec { workflow: workflow("x"), ..every(HOUR) }, "v2"));
    assert_eq!(nowhere, Err(Rejection::WorkflowNotFound(workflow("x"))));
    story.tell(Command::DeleteSchedule { schedule: schedule("s"), etag: None }).expect("deleted");
    story.after(9 * HOUR);
    assert_eq!(story.course(), "fired 2h");
    let gone = story.tell(Command::ResumeSchedule { schedule: schedule("s") });
    assert_eq!(gone, Err(Rejection::ScheduleNotFound(schedule("s"))));
    let last = story.events.iter().rev().find(|recorded| matches!(recorded.event, Event::ScheduleChanged { .. }));
    let Some(Event::ScheduleChanged { change, version, .. }) = last.map(|recorded| &recorded.event) else {
        panic!("{last:?}")
    };
    assert_eq!((change, *version), (&ScheduleChange::Deleted, 2));
}

#[test]
fn a_change_that_does_not_speak_of_runs_leaves_those_that_are_left() {
    // S-SCHED-1, S-SCHED-6
    let mut story = Story::new();
    story.create(every(HOUR), Some(3));
    story.after(HOUR);
    let update = |runs| Command::UpdateSchedule { spec: every(HOUR).into(), enabled: None, runs, etag: None };
    story.tell(update(Runs::Kept)).expect("changed");
    assert_eq!(story.record().course.remaining_runs, Some(2));
    story.tell(update(Runs::Left(Some(3)))).expect("changed");
    assert_eq!(story.record().course.remaining_runs, Some(3));
    story.tell(update(Runs::Left(None))).expect("changed");
    assert_eq!(story.record().course.remaining_runs, None);
}

#[test]
fn a_time_whose_workflow_cannot_start_is_skipped_and_says_why() {
    // S-SCHED-4
    let mut story = Story::of(every(HOUR));
    story.tell(Command::DeleteWorkflow { workflow: workflow("w"), etag: None }).expect("deleted");
    story.after(HOUR);
    let reason = story.events.iter().rev().find_map(|recorded| match &recorded.event {
        Event::ScheduleAdvanced { outcome: Outcome::Skipped { reason, .. }, .. } => Some(reason.clone()),
        _ => None,
    });
    assert!(reason.expect("skipped").contains("workflow `w` does not exist"));
    assert_eq!(story.record().course.next.map(|next| next.nominal), Some(Timestamp(BEGIN + 2 * HOUR)));
    story.check();
}

#[test]
fn many_that_are_due_at_once_start_in_the_order_of_their_times_and_idle_ones_are_not_held() {
    // S-SCHED-7
    let mut story = Story::new();
    for number in 0..2_000_i64 {
        // Their times are given in no order.
        let at = BEGIN + HOUR + number * 7_919 % 2_000 * 10;
        let times = Spec::new(Kind::Once { execute_at: Timestamp(at) }, Timestamp(0));
        story.create(ScheduleSpec { id: schedule(&format!("s-{number}")), times, ..every(HOUR) }, None);
    }
    story.machine.state_mut().drop_idle([]);
    assert!(story.machine.state().schedules.is_empty(), "of an idle one only its next time is known");
    // As the engine does, a schedule is loaded when its time comes.
    let records: BTreeMap<ScheduleId, ScheduleRecord> = story
        .events
        .iter()
        .filter_map(|recorded| match &recorded.event {
            Event::ScheduleChanged { schedule, record: Some(record), .. } => {
                Some((schedule.clone(), record.as_ref().clone()))
            }
            _ => None,
        })
        .collect();
    records.into_values().for_each(|record| story.machine.state_mut().load_schedule(record));
    story.after(HOUR + SECOND);
    let fired: Vec<Timestamp> = story
        .events
        .iter()
        .filter_map(|recorded| match &recorded.event {
            Event::ScheduleAdvanced { nominal, outcome: Outcome::Fired { .. }, .. } => Some(*nominal),
            _ => None,
        })
        .collect();
    assert_eq!(fired.len(), 2_000);
    assert!(fired.is_sorted(), "in the order of their times");
}

#[test]
fn whatever_happens_no_time_is_lost_or_taken_twice() {
    // S-SCHED-5, S-SCHED-6: clocks that are put, absences, ends, triggers, backfills, under every pair of policies.
    let overlaps = [
        OverlapPolicy::Skip,
        OverlapPolicy::BufferOne,
        OverlapPolicy::BufferAll,
        OverlapPolicy::CancelOther,
        OverlapPolicy::AllowAll,
    ];
    let mut backfilled = 0;
    for seed in 0..120_u64 {
        let mut chance = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut below = |bound: u64| {
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            chance % bound
        };
        let overlap = overlaps[usize::try_from(seed % 5).expect("small")];
        let catch_up = [CatchUp::None, CatchUp::Last, CatchUp::All][usize::try_from(seed / 5 % 3).expect("small")];
        let mut spec = ScheduleSpec { overlap, catch_up, ..every(MINUTE * (1 + below(3).cast_signed())) };
        spec.times.jitter_micros = below(2).cast_signed() * 90 * SECOND;
        spec.catch_up_window_micros = (below(3) == 0).then_some(3_600_000_000);
        let mut story = Story::of(spec);
        let mut wall = 0;
        for step in 0..60 {
            match below(12) {
                // An absence, or a clock that was put ahead.
                0 => wall += below(DAY.cast_unsigned()).cast_signed(),
                // A clock that was put back.
                1 => wall -= below((2 * HOUR).cast_unsigned()).cast_signed().min(wall),
                2..6 if !story.running().is_empty() => story.end_one(),
                7 if wall > 0 => {
                    let from = below(wall.cast_unsigned()).cast_signed();
                    let to = from + 1 + below((2 * HOUR).cast_unsigned()).cast_signed();
                    let overlap = (below(4) == 0).then_some(OverlapPolicy::AllowAll);
                    let taken = story.backfill(from, to.min(wall), overlap);
                    assert!(matches!(taken, Ok(_) | Err(Rejection::BackfillFull { .. })), "{taken:?}");
                }
                6 => {
                    let execution = ExecutionId(1_000 + step);
                    let taken = story.tell(Command::TriggerSchedule { schedule: schedule("s"), execution });
                    assert!(matches!(taken, Ok(_) | Err(Rejection::ScheduleBusy { .. })), "{taken:?}");
                }
                _ => wall += below((2 * MINUTE).cast_unsigned()).cast_signed(),
            }
            story.after(wall);
            if overlap != OverlapPolicy::AllowAll {
                let of_time = |id: &&ExecutionId| {
                    let run = story.machine.state().execution(**id).expect("held");
                    matches!(run.trigger, Trigger::Schedule { nominal: Some(_), backfill: false, .. })
                };
                assert!(story.running().iter().filter(of_time).count() <= 1, "seed {seed}: two at once");
            }
        }
        story.check();
        backfilled += story.record().course.backfilled;
    }
    assert!(backfilled > 1_000, "void: {backfilled} backfilled");
}
