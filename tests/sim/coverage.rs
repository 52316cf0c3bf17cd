//! What the seeds have reached: every kind of event, every transition of a task, every fault. What was never reached was
//! never checked.

use std::collections::BTreeMap;

use noxd::machine::{
    message::{Event, ExecutionEnd, TaskEnd},
    task::TaskStatus,
};

use crate::schedules::{CATCH_UPS, OVERLAPS};

use TaskStatus::{
    Blocked, Cancelled, Completed, Failed, Pending, Queued, Retrying, Running, Skipped, TimedOut, Waiting,
};

/// S-STATE-2, written down once more.
pub const TRANSITIONS: [(TaskStatus, TaskStatus); 20] = [
    (Pending, Queued),
    (Pending, Waiting),
    (Pending, Skipped),
    (Pending, Blocked),
    (Pending, Cancelled),
    (Waiting, Completed),
    (Waiting, Failed),
    (Waiting, TimedOut),
    (Waiting, Cancelled),
    (Queued, Running),
    (Queued, TimedOut),
    (Queued, Cancelled),
    (Running, Completed),
    (Running, Failed),
    (Running, TimedOut),
    (Running, Retrying),
    (Running, Queued),
    (Running, Cancelled),
    (Retrying, Queued),
    (Retrying, Cancelled),
];

const EVENTS: [&str; 27] = [
    "WorkflowChanged",
    "TemplateChanged",
    "ScheduleChanged",
    "ScheduleAdvanced",
    "ExecutionStarted",
    "ExecutionPaused",
    "ExecutionResumed",
    "ExecutionCancelRequested",
    "ExecutionFailFast",
    "ExecutionTimeoutReached",
    "HandlersStarted",
    "ExecutionEnded",
    "TaskReady",
    "ConditionError",
    "ApprovalRequested",
    "ApprovalResolved",
    "TaskRetryDue",
    "TaskStarted",
    "TaskSpawned",
    "TaskTimeoutReached",
    "TaskEnded",
    "TaskEnded Interrupted",
    "TasksBlocked",
    "TasksSkipped",
    "TasksCancelled",
    "ConcurrencyLimitSet",
    "a second cancel",
];

/// What becomes of the times of schedules.
const FATES: [&str; 24] = [
    "a time fires",
    "a time fires that waited",
    "a call fires",
    "a time waits",
    "a full buffer",
    "a time is skipped",
    "a time that waited is skipped",
    "times are missed",
    "times are missed in several steps",
    "the last run",
    "an absence beyond the window",
    "the clock stands behind",
    "times come after a day down",
    "times come after a clock that steps ahead a day",
    "times come after a machine that slept",
    "times come after a full disk",
    "a time comes after a clock that was put back",
    "a time is skipped: has not ended",
    "a time is skipped: waits already",
    "a time is skipped: a later time has come",
    "a time is skipped: does not exist",
    "a time is skipped: DRAFT",
    "a time is skipped: go",
    "a time is skipped: no runs are left",
];

/// S-SCHED-4, S-SCHED-5: each pair of policies over a day, and each fate of a time.
pub fn of_schedules() -> Vec<String> {
    let pairs = OVERLAPS.iter().flat_map(|overlap| CATCH_UPS.iter().map(move |catch_up| (overlap, catch_up)));
    let pairs = pairs.map(|(overlap, catch_up)| format!("{overlap:?} and {catch_up:?} after a day down"));
    pairs.chain(FATES.iter().map(ToString::to_string)).collect()
}

/// How often each thing was reached.
#[derive(Default)]
pub struct Coverage(BTreeMap<String, u64>);

impl Coverage {
    pub fn reached(&mut self, what: &str) {
        match self.0.get_mut(what) {
            Some(count) => *count += 1,
            None => _ = self.0.insert(what.into(), 1),
        }
    }

    pub fn event(&mut self, event: &Event) {
        self.reached(name_of(event));
        match event {
            Event::TaskEnded { end: TaskEnd::Interrupted, .. } => self.reached("TaskEnded Interrupted"),
            Event::ExecutionCancelRequested { finally_too: true, .. } => self.reached("a second cancel"),
            _ => {}
        }
    }

    pub fn transition(&mut self, from: TaskStatus, to: TaskStatus) {
        self.reached(&format!("{from:?} to {to:?}"));
    }

    pub fn ended(&mut self, end: ExecutionEnd) {
        self.reached(&format!("an execution {end:?}"));
    }

    pub fn take_in(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what.clone()).or_default() += count;
        }
    }

    /// One line each, and what of all that there is was never reached.
    pub fn report(&self, faults: &[&str], of_schedules: &[String]) -> Vec<String> {
        for (what, count) in &self.0 {
            println!("{count:>10}  {what}");
        }
        let transitions = TRANSITIONS.iter().map(|(from, to)| format!("{from:?} to {to:?}"));
        let ends = ["Completed", "Failed", "Cancelled"].map(|end| format!("an execution {end}"));
        let limits = ["Global", "Agent", "ExecutionAll", "ExecutionAgent", "ExecutionGroup"];
        let others = limits.map(|limit| format!("held up by {limit}"));
        let others =
            others.into_iter().chain(["an execution that knows earlier ones", "a task is given up"].map(str::to_owned));
        let of_schedules = of_schedules.iter().cloned();
        let all = transitions.chain(ends).chain(others).chain(of_schedules);
        let all = all.chain(EVENTS.iter().chain(faults).map(ToString::to_string));
        all.filter(|what| !self.0.contains_key(what)).collect()
    }
}

/// A new event does not compile here until the simulation has something to say about it.
fn name_of(event: &Event) -> &'static str {
    match event {
        Event::WorkflowChanged { .. } => "WorkflowChanged",
        Event::TemplateChanged { .. } => "TemplateChanged",
        Event::ScheduleChanged { .. } => "ScheduleChanged",
        Event::ScheduleAdvanced { .. } => "ScheduleAdvanced",
        Event::ExecutionStarted { .. } => "ExecutionStarted",
        Event::ExecutionPaused => "ExecutionPaused",
        Event::ExecutionResumed => "ExecutionResumed",
        Event::ExecutionCancelRequested { .. } => "ExecutionCancelRequested",
        Event::ExecutionFailFast { .. } => "ExecutionFailFast",
        Event::ExecutionTimeoutReached { .. } => "ExecutionTimeoutReached",
        Event::HandlersStarted { .. } => "HandlersStarted",
        Event::ExecutionEnded { .. } => "ExecutionEnded",
        Event::TaskReady { .. } => "TaskReady",
        Event::ConditionError { .. } => "ConditionError",
        Event::ApprovalRequested { .. } => "ApprovalRequested",
        Event::ApprovalResolved { .. } => "ApprovalResolved",
        Event::TaskRetryDue { .. } => "TaskRetryDue",
        Event::TaskStarted { .. } => "TaskStarted",
        Event::TaskSpawned { .. } => "TaskSpawned",
        Event::TaskTimeoutReached { .. } => "TaskTimeoutReached",
        Event::TaskEnded { .. } => "TaskEnded",
        Event::TasksBlocked { .. } => "TasksBlocked",
        Event::TasksSkipped { .. } => "TasksSkipped",
        Event::TasksCancelled { .. } => "TasksCancelled",
        Event::ConcurrencyLimitSet { .. } => "ConcurrencyLimitSet",
    }
}
