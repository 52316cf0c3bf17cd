//! What is known of an execution from its events alone: a pure fold.
//!
//! [`Progress::apply`] takes one event and says what it means for a person, a [`Happening`]. It reads no clock and
//! draws nothing; `display.rs` does. It holds what runs and a bounded number of failures, so an execution of 100,000
//! tasks costs no more than its widest moment.

use std::collections::{BTreeMap, HashMap};

use pbjson_types::Timestamp;

use super::text;
use crate::proto::v1::{Event, TaskAttempt, TaskError, event::Kind};

/// The state of one execution, as its events tell it.
#[derive(Debug, Default)]
pub struct Progress {
    /// All tasks; 0 until it is known.
    pub total: u32,
    /// How many ended, and how.
    pub counts: Counts,
    /// The failures, first to last, at most [`MAX_FAILURES`] of them; `counts` has the number.
    pub failures: Vec<Failure>,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// No new attempt starts.
    pub paused: bool,
    /// A cancel was asked for.
    pub cancelling: bool,
    /// The newest revision that was applied.
    pub revision: u64,
    /// One sentence for why it failed.
    pub failure_message: String,
    running: BTreeMap<u64, Running>,
    // From a task's id to its key in `running`, which is the revision that started it: the oldest come first.
    started: HashMap<String, u64>,
    titles: HashMap<String, String>,
}

/// How many tasks ended in which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Well.
    pub completed: u32,
    /// Badly, a timeout included.
    pub failed: u32,
    /// Of those, by a timeout.
    pub timed_out: u32,
    /// Not run, since a task before failed.
    pub blocked: u32,
    /// On request.
    pub cancelled: u32,
}

impl Counts {
    /// All that ended.
    pub fn ended(&self) -> u32 {
        self.completed + self.failed + self.blocked + self.cancelled
    }
}

/// A task with a live attempt.
#[derive(Debug, Clone)]
pub struct Running {
    /// Its id.
    pub task_id: String,
    /// Its line for people, perhaps empty.
    pub title: String,
    /// When the attempt started.
    pub since: Option<Timestamp>,
    /// Which attempt.
    pub attempt: u32,
    /// Its time was up and its processes are being ended.
    pub timed_out: bool,
}

/// A task that ended badly.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Its id.
    pub task_id: String,
    /// The evidence.
    pub error: TaskError,
    /// How long its last attempt took.
    pub took: Option<std::time::Duration>,
}

impl Failure {
    /// The evidence in a few words: `exit code 3`, `signal 9`, or the kind.
    pub fn brief(&self) -> String {
        match (self.error.exit_code, self.error.signal, self.error.kind.as_str()) {
            (Some(code), _, "EXIT_CODE") => format!("exit code {code}"),
            (_, Some(signal), "SIGNAL") => format!("signal {signal}"),
            (_, _, "") => "failed".to_owned(),
            (_, _, kind) => kind.to_lowercase().replace('_', " "),
        }
    }
}

/// How an execution ended, or how watching it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Completed,
    /// Some task failed.
    Failed,
    /// On request.
    Cancelled,
    /// The person would not wait for the end of the cancel.
    Killed,
}

impl Outcome {
    /// The process's exit code: 0 completed, 1 failed, 3 cancelled.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Completed => 0,
            Self::Failed => 1,
            Self::Cancelled | Self::Killed => 3,
        }
    }

    /// `COMPLETED`, `FAILED` or `CANCELLED`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Cancelled | Self::Killed => "CANCELLED",
        }
    }
}

/// What an event means for a person.
#[derive(Debug, Clone)]
pub enum Happening {
    /// The execution began.
    Started,
    /// An attempt began.
    TaskStarted(Running),
    /// An attempt's time was up.
    TaskTimeUp(String),
    /// A task ended well, after so long.
    TaskCompleted(String, Option<std::time::Duration>),
    /// A task ended badly.
    TaskFailed(Failure),
    /// A running task was ended on request.
    TaskCancelled(String),
    /// noxd itself ended the attempt, and the task is queued again.
    TaskInterrupted(String, String),
    /// So many tasks cannot run any more, because of this one.
    Blocked(Vec<String>, String),
    /// Tasks that had not started were cancelled.
    Cancelled(Vec<String>),
    /// No new attempt starts.
    Paused,
    /// Attempts start again.
    Resumed,
    /// A cancel was asked for, and so many running tasks were told.
    CancelRequested(u32),
    /// It ended.
    Ended(Outcome),
}

impl Progress {
    /// With the lines for people that the definition has; events carry only ids.
    pub fn with_titles(titles: HashMap<String, String>) -> Self {
        Self { titles, ..Self::default() }
    }

    /// Takes an event in. One that was already taken, as after a resumed watch, means nothing.
    pub fn apply(&mut self, event: &Event) -> Option<Happening> {
        if event.revision != 0 && event.revision <= self.revision {
            return None;
        }
        self.revision = event.revision;
        let task = || event.task_id.clone();
        match event.kind.as_ref()? {
            Kind::ExecutionStarted(started) => {
                self.total = started.task_count;
                self.started_at = event.time;
                Some(Happening::Started)
            }
            Kind::TaskStarted(_) => Some(Happening::TaskStarted(self.start(event))),
            Kind::TaskTimeoutReached(_) => {
                let running = self.started.get(&event.task_id).and_then(|key| self.running.get_mut(key));
                running.map(|running| {
                    running.timed_out = true;
                    Happening::TaskTimeUp(task())
                })
            }
            Kind::TaskCompleted(completed) => {
                let took = self.end(event, completed.result.as_ref());
                self.counts.completed += 1;
                Some(Happening::TaskCompleted(task(), took))
            }
            Kind::TaskFailed(failed) => Some(self.fail(event, failed.result.as_ref())),
            Kind::TaskTimedOut(timed_out) => Some(self.fail(event, timed_out.result.as_ref())),
            Kind::TaskCancelled(cancelled) => {
                self.end(event, cancelled.result.as_ref());
                self.counts.cancelled += 1;
                Some(Happening::TaskCancelled(task()))
            }
            Kind::TaskInterrupted(interrupted) => {
                self.end(event, interrupted.result.as_ref());
                Some(Happening::TaskInterrupted(task(), interrupted.reason.clone()))
            }
            Kind::TasksBlocked(blocked) => {
                self.counts.blocked += count(&blocked.task_ids);
                Some(Happening::Blocked(blocked.task_ids.clone(), blocked.cause_task_id.clone()))
            }
            Kind::TasksCancelled(cancelled) => {
                self.counts.cancelled += count(&cancelled.task_ids);
                Some(Happening::Cancelled(cancelled.task_ids.clone()))
            }
            Kind::ExecutionPaused(_) => {
                self.paused = true;
                Some(Happening::Paused)
            }
            Kind::ExecutionResumed(_) => {
                self.paused = false;
                Some(Happening::Resumed)
            }
            Kind::ExecutionCancelRequested(request) => {
                self.cancelling = true;
                Some(Happening::CancelRequested(request.running_tasks))
            }
            Kind::ExecutionCompleted(_) => Some(self.finish(event, Outcome::Completed)),
            Kind::ExecutionFailed(failed) => {
                self.failure_message = failed.error.as_ref().map(|error| error.message.clone()).unwrap_or_default();
                Some(self.finish(event, Outcome::Failed))
            }
            Kind::ExecutionCancelled(_) => Some(self.finish(event, Outcome::Cancelled)),
            // A process id is for diagnosis; the workflow's own history is another story than its execution's.
            Kind::TaskSpawned(_)
            | Kind::WorkflowCreated(_)
            | Kind::WorkflowUpdated(_)
            | Kind::WorkflowDeleted(_)
            | Kind::ExecutionFailFast(_)
            | Kind::ExecutionTimeoutReached(_)
            | Kind::HandlersStarted(_)
            | Kind::TaskRetryScheduled(_)
            | Kind::TaskRetryDue(_)
            | Kind::TaskReady(_)
            | Kind::ConditionError(_)
            | Kind::TasksSkipped(_)
            | Kind::ApprovalRequested(_)
            | Kind::ApprovalResolved(_)
            | Kind::ConcurrencyLimitSet(_) => None,
        }
    }

    /// What runs now, the oldest first.
    pub fn running(&self) -> impl ExactSizeIterator<Item = &Running> {
        self.running.values()
    }

    /// How long it took, or has taken until `now`.
    pub fn elapsed(&self, now: &Timestamp) -> std::time::Duration {
        text::between(self.started_at.as_ref(), Some(self.ended_at.as_ref().unwrap_or(now))).unwrap_or_default()
    }

    /// Share of the tasks that have ended, in whole per cent: 100 only when all have.
    pub fn percent(&self) -> u32 {
        let ended = u64::from(self.counts.ended()) * 100;
        // A quotient of at most 100 unless events contradict the total; then 100 it is.
        ended.checked_div(u64::from(self.total)).map_or(0, |percent| u32::try_from(percent.min(100)).unwrap_or(100))
    }

    fn start(&mut self, event: &Event) -> Running {
        let running = Running {
            task_id: event.task_id.clone(),
            title: self.titles.get(&event.task_id).cloned().unwrap_or_default(),
            since: event.time,
            attempt: event.attempt,
            timed_out: false,
        };
        if let Some(stale) = self.started.insert(event.task_id.clone(), event.revision) {
            self.running.remove(&stale);
        }
        self.running.insert(event.revision, running.clone());
        running
    }

    /// Forgets a running attempt and tells how long it took.
    fn end(&mut self, event: &Event, result: Option<&TaskAttempt>) -> Option<std::time::Duration> {
        let running = self.started.remove(&event.task_id).and_then(|key| self.running.remove(&key));
        let recorded =
            result.and_then(|attempt| text::between(attempt.started_at.as_ref(), attempt.completed_at.as_ref()));
        recorded.or_else(|| text::between(running?.since.as_ref(), event.time.as_ref()))
    }

    fn fail(&mut self, event: &Event, result: Option<&TaskAttempt>) -> Happening {
        let took = self.end(event, result);
        let error = result.and_then(|attempt| attempt.error.clone()).unwrap_or_default();
        let failure = Failure { task_id: event.task_id.clone(), error, took };
        self.counts.failed += 1;
        self.counts.timed_out += u32::from(failure.error.kind == "TIMEOUT");
        if self.failures.len() < MAX_FAILURES {
            self.failures.push(failure.clone());
        }
        Happening::TaskFailed(failure)
    }

    fn finish(&mut self, event: &Event, outcome: Outcome) -> Happening {
        self.ended_at = event.time;
        self.outcome = Some(outcome);
        self.running.clear();
        self.started.clear();
        Happening::Ended(outcome)
    }
}

/// More failures than anybody reads; each may hold 4 KiB of standard error.
pub const MAX_FAILURES: usize = 100;

fn count(task_ids: &[String]) -> u32 {
    u32::try_from(task_ids.len()).expect("an execution has at most 100,000 tasks")
}

#[cfg(test)]
pub(super) mod tests {
    use crate::proto::v1::*;

    use super::*;

    /// An event `at` so many seconds, numbered by it.
    pub fn event(at: i64, task_id: &str, kind: Kind) -> Event {
        Event {
            revision: at as u64 + 1,
            time: Some(Timestamp { seconds: at, nanos: 0 }),
            task_id: task_id.into(),
            attempt: 1,
            kind: Some(kind),
            ..Event::default()
        }
    }

    pub fn started(tasks: u32) -> Kind {
        Kind::ExecutionStarted(ExecutionStarted { task_count: tasks, ..ExecutionStarted::default() })
    }

    pub fn failed(code: i32, stderr: &str) -> Kind {
        let error = TaskError {
            kind: "EXIT_CODE".into(),
            message: format!("the program exited with code {code}"),
            exit_code: Some(code),
            stderr_tail: stderr.into(),
            remedy: "read its log".into(),
            ..TaskError::default()
        };
        Kind::TaskFailed(TaskFailed { result: Some(TaskAttempt { error: Some(error), ..TaskAttempt::default() }) })
    }

    pub fn story() -> Vec<Event> {
        vec![
            event(0, "", started(5)),
            event(1, "build", Kind::TaskStarted(TaskStarted::default())),
            event(3, "build", Kind::TaskCompleted(TaskCompleted::default())),
            event(4, "test", Kind::TaskStarted(TaskStarted::default())),
            event(5, "lint", Kind::TaskStarted(TaskStarted::default())),
            event(6, "test", failed(3, "assertion\nfailed\n")),
            event(
                7,
                "",
                Kind::TasksBlocked(TasksBlocked {
                    task_ids: vec!["deploy".into(), "announce".into()],
                    cause_task_id: "test".into(),
                }),
            ),
            event(8, "lint", Kind::TaskCompleted(TaskCompleted::default())),
            event(
                9,
                "",
                Kind::ExecutionFailed(ExecutionFailed {
                    error: Some(ExecutionError {
                        task_id: "test".into(),
                        message: "task `test` failed".into(),
                        task_error: None,
                    }),
                }),
            ),
        ]
    }

    #[test]
    fn the_events_alone_tell_how_it_stands() {
        let mut progress = Progress::with_titles(HashMap::from([("lint".into(), "Look at it".into())]));
        for event in &story()[..6] {
            assert!(progress.apply(event).is_some());
        }
        assert_eq!(progress.percent(), 40);
        assert_eq!(progress.running().map(|task| task.title.as_str()).collect::<Vec<_>>(), ["Look at it"]);
        assert_eq!(progress.elapsed(&Timestamp { seconds: 60, nanos: 0 }).as_secs(), 60);
        for event in &story()[6..] {
            progress.apply(event);
        }
        assert_eq!(progress.outcome, Some(Outcome::Failed));
        assert_eq!(progress.counts, Counts { completed: 2, failed: 1, timed_out: 0, blocked: 2, cancelled: 0 });
        assert_eq!(progress.percent(), 100);
        assert_eq!(progress.failures[0].brief(), "exit code 3");
        assert_eq!(progress.failures[0].took.unwrap().as_secs(), 2);
        assert_eq!(progress.elapsed(&Timestamp { seconds: 60, nanos: 0 }).as_secs(), 9);
    }

    #[test]
    fn a_resumed_watch_counts_nothing_twice() {
        let mut progress = Progress::default();
        for event in story()[..4].iter().chain(&story()[2..]) {
            progress.apply(event);
        }
        assert_eq!(progress.counts.ended(), 5);
    }

    #[test]
    fn an_interrupted_task_runs_again() {
        let mut progress = Progress::default();
        progress.apply(&event(0, "", started(1)));
        progress.apply(&event(1, "a", Kind::TaskStarted(TaskStarted::default())));
        progress.apply(&event(2, "a", Kind::TaskInterrupted(TaskInterrupted::default())));
        assert_eq!((progress.running().len(), progress.counts.ended()), (0, 0));
        progress.apply(&event(3, "a", Kind::TaskStarted(TaskStarted::default())));
        assert_eq!(progress.running().len(), 1);
    }

    #[test]
    fn a_hundred_thousand_tasks_leave_nothing_behind() {
        let mut progress = Progress::default();
        progress.apply(&event(0, "", started(100_000)));
        for index in 0..100_000 {
            let id = format!("t{index}");
            progress.apply(&event(2 * index + 1, &id, Kind::TaskStarted(TaskStarted::default())));
            progress.apply(&event(2 * index + 2, &id, failed(1, "")));
        }
        assert_eq!((progress.running.len(), progress.started.len()), (0, 0));
        assert_eq!((progress.failures.len(), progress.counts.failed), (MAX_FAILURES, 100_000));
    }
}
