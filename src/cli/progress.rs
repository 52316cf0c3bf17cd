//! What is known of an execution from its events alone: a pure fold.
//!
//! [`Progress::apply`] takes one event and says what it means for a person, a [`Happening`]. It reads no clock and
//! draws nothing; `display.rs` does. It holds what runs and a bounded number of failures, so an execution of 100,000
//! tasks costs no more than its widest moment.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use pbjson_types::Timestamp;

use super::text;
use crate::proto::v1::{Event, ExecutionProgress, TaskAttempt, TaskError, event::Kind};

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
    /// Tasks whose next attempt waits for its backoff.
    pub retrying: BTreeSet<String>,
    /// Tasks that wait for a person.
    pub asking: BTreeSet<String>,
    /// How far noxd says it is, and when it is expected to end; it knows what tasks usually take.
    pub far: Option<ExecutionProgress>,
    /// Whether noxd goes by what earlier executions took: then counts say something else.
    is_weighed: bool,
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
    /// Not run, since a condition or rule does not hold.
    pub skipped: u32,
    /// Not run, since a task before failed.
    pub blocked: u32,
    /// On request.
    pub cancelled: u32,
    /// Not run, since their result is that of the execution which this one repeats.
    pub kept: u32,
}

impl Counts {
    /// All that ended.
    pub fn ended(&self) -> u32 {
        self.completed + self.failed + self.skipped + self.blocked + self.cancelled + self.kept
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
    pub took: Option<Duration>,
    /// Which attempt that was; 0: it ended without one, and has no log.
    pub attempt: u32,
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
    Started {
        /// The execution that it repeats; empty: none.
        rerun_of: String,
        /// How many tasks keep the result that they had there.
        kept: u32,
    },
    /// An attempt began.
    TaskStarted(Running),
    /// An attempt's time was up, by this limit.
    TaskTimeUp(String, String),
    /// A task ended well, after so long.
    TaskCompleted(String, Option<Duration>),
    /// A task ended badly.
    TaskFailed(Failure),
    /// An attempt ended badly, and the next one follows after the delay.
    RetryScheduled {
        /// The attempt's.
        failure: Failure,
        /// How long the next one waits.
        delay: Duration,
    },
    /// A condition could not be evaluated.
    ConditionError {
        /// Of which task.
        task: String,
        /// As it was written.
        expression: String,
        /// What is wrong.
        message: String,
    },
    /// Tasks that are not to run, for this reason.
    Skipped(Vec<String>, String),
    /// A person is asked.
    Asked {
        /// By which task.
        task: String,
        /// What.
        prompt: String,
        /// Who may answer; empty: anybody.
        approvers: Vec<String>,
    },
    /// A person answered.
    Answered {
        /// Which task.
        task: String,
        /// Yes or no.
        approved: bool,
        /// Who.
        by: String,
        /// In that person's words.
        comment: String,
    },
    /// `on_failure` or `finally` has its turn.
    HandlersStarted(String),
    /// A task failed under FAIL_FAST, and so many running tasks were told to end.
    FailFast(String, u32),
    /// The execution's time was up, and so many running tasks were told to end.
    ExecutionTimeUp(Option<Duration>, u32),
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
    /// A cancel was asked for, and so many running tasks were told; whether it ends `finally` too.
    CancelRequested(u32, bool),
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
                self.counts.kept = started.reused_tasks;
                self.is_weighed = started.estimated_from > 0;
                self.started_at = event.time;
                Some(Happening::Started { rerun_of: started.rerun_of.clone(), kept: started.reused_tasks })
            }
            Kind::TaskStarted(_) => Some(Happening::TaskStarted(self.start(event))),
            Kind::TaskTimeoutReached(reached) => {
                let running = self.started.get(&event.task_id).and_then(|key| self.running.get_mut(key));
                running.map(|running| {
                    running.timed_out = true;
                    Happening::TaskTimeUp(task(), reached.limit.clone())
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
            Kind::TaskRetryScheduled(scheduled) => {
                let result = scheduled.result.as_ref();
                let took = self.end(event, result);
                self.retrying.insert(task());
                let error = result.and_then(|attempt| attempt.error.clone()).unwrap_or_default();
                let failure = Failure { task_id: task(), error, took, attempt: event.attempt };
                let delay = scheduled.delay.as_ref().and_then(span).unwrap_or_default();
                Some(Happening::RetryScheduled { failure, delay })
            }
            Kind::TaskRetryDue(_) => {
                self.retrying.remove(&event.task_id);
                None
            }
            Kind::ConditionError(error) => Some(Happening::ConditionError {
                task: task(),
                expression: error.expression.clone(),
                message: error.message.clone(),
            }),
            Kind::TasksSkipped(skipped) => {
                self.counts.skipped += count(&skipped.task_ids);
                Some(Happening::Skipped(skipped.task_ids.clone(), skipped.reason.clone()))
            }
            Kind::ApprovalRequested(request) => {
                self.asking.insert(task());
                let (prompt, approvers) = (request.prompt.clone(), request.approvers.clone());
                Some(Happening::Asked { task: task(), prompt, approvers })
            }
            Kind::ApprovalResolved(answer) => {
                self.asking.remove(&event.task_id);
                let (by, comment) = (event.actor.clone(), answer.comment.clone());
                Some(Happening::Answered { task: task(), approved: answer.approved, by, comment })
            }
            Kind::HandlersStarted(handlers) => Some(Happening::HandlersStarted(handlers.kind.clone())),
            Kind::ExecutionFailFast(told) => Some(Happening::FailFast(task(), told.running_tasks)),
            Kind::ExecutionTimeoutReached(reached) => {
                let limit = reached.timeout.as_ref().and_then(span);
                Some(Happening::ExecutionTimeUp(limit, reached.running_tasks))
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
                for id in &cancelled.task_ids {
                    self.retrying.remove(id);
                    self.asking.remove(id);
                }
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
                Some(Happening::CancelRequested(request.running_tasks, request.finally_too))
            }
            Kind::ExecutionCompleted(_) => Some(self.finish(event, Outcome::Completed)),
            Kind::ExecutionFailed(failed) => {
                self.failure_message = failed.error.as_ref().map(|error| error.message.clone()).unwrap_or_default();
                Some(self.finish(event, Outcome::Failed))
            }
            Kind::ExecutionCancelled(_) => Some(self.finish(event, Outcome::Cancelled)),
            // A process id is for diagnosis; a task that is ready is told when it starts; the workflow's own history
            // and noxd's limits are other stories than the execution's.
            Kind::TaskSpawned(_)
            | Kind::WorkflowCreated(_)
            | Kind::WorkflowUpdated(_)
            | Kind::WorkflowDeleted(_)
            | Kind::TaskReady(_)
            | Kind::TemplateCreated(_)
            | Kind::TemplateUpdated(_)
            | Kind::TemplateDeleted(_)
            | Kind::ScheduleCreated(_)
            | Kind::ScheduleUpdated(_)
            | Kind::ScheduleDeleted(_)
            | Kind::SchedulePaused(_)
            | Kind::ScheduleResumed(_)
            | Kind::ScheduleFired(_)
            | Kind::ScheduleBuffered(_)
            | Kind::ScheduleSkipped(_)
            | Kind::ScheduleMissed(_)
            | Kind::ScheduleBackfillRequested(_)
            | Kind::ScheduleBackfillCancelled(_)
            | Kind::ConcurrencyLimitSet(_) => None,
        }
    }

    /// What runs now, the oldest first.
    pub fn running(&self) -> impl ExactSizeIterator<Item = &Running> {
        self.running.values()
    }

    /// How long it took, or has taken until `now`.
    pub fn elapsed(&self, now: &Timestamp) -> Duration {
        text::between(self.started_at.as_ref(), Some(self.ended_at.as_ref().unwrap_or(now))).unwrap_or_default()
    }

    /// Takes in how far noxd says it is.
    pub fn told(&mut self, far: ExecutionProgress) {
        self.far = Some(far);
    }

    /// How long it is expected to take still; none while that is not known.
    pub fn left(&self, now: &Timestamp) -> Option<Duration> {
        let eta = self.far.as_ref().filter(|_| self.outcome.is_none())?.eta.as_ref();
        text::between(Some(now), eta)
    }

    /// How far it is, in whole per cent: as noxd says, else the share of the tasks that have ended.
    pub fn percent(&self) -> u32 {
        if self.outcome.is_none() && self.is_weighed {
            let far = self.far.as_ref().map_or(0.0, |far| far.progress);
            return (1..=99).take_while(|percent| f64::from(*percent) <= far).last().unwrap_or(0);
        }
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
    fn end(&mut self, event: &Event, result: Option<&TaskAttempt>) -> Option<Duration> {
        let running = self.started.remove(&event.task_id).and_then(|key| self.running.remove(&key));
        // One that ends without an attempt, as an approval that nobody gave in time.
        self.asking.remove(&event.task_id);
        let recorded =
            result.and_then(|attempt| text::between(attempt.started_at.as_ref(), attempt.completed_at.as_ref()));
        recorded.or_else(|| text::between(running?.since.as_ref(), event.time.as_ref()))
    }

    fn fail(&mut self, event: &Event, result: Option<&TaskAttempt>) -> Happening {
        let took = self.end(event, result);
        let error = result.and_then(|attempt| attempt.error.clone()).unwrap_or_default();
        let failure = Failure { task_id: event.task_id.clone(), error, took, attempt: event.attempt };
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
        self.retrying.clear();
        self.asking.clear();
        Happening::Ended(outcome)
    }
}

/// More failures than anybody reads; each may hold 4 KiB of standard error.
pub const MAX_FAILURES: usize = 100;

fn span(span: &pbjson_types::Duration) -> Option<Duration> {
    Duration::try_from(*span).ok()
}

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
    fn what_noxd_says_of_how_far_it_is_goes_over_counts_and_ends_with_the_end() {
        // S-VIEW-1
        let mut progress = Progress::default();
        progress.apply(&event(
            0,
            "",
            Kind::ExecutionStarted(ExecutionStarted { task_count: 2, estimated_from: 3, ..Default::default() }),
        ));
        assert_eq!(progress.percent(), 0);
        progress.apply(&event(1, "quick", Kind::TaskCompleted(TaskCompleted::default())));
        assert_eq!(progress.percent(), 0, "not half of it: what it is, noxd knows");
        let eta = Some(Timestamp { seconds: 100, nanos: 0 });
        progress.told(ExecutionProgress { progress: 9.99, eta, ..ExecutionProgress::default() });
        assert_eq!(progress.percent(), 9);
        assert_eq!(progress.left(&Timestamp { seconds: 40, nanos: 0 }).map(|left| left.as_secs()), Some(60));
        progress.apply(&event(2, "slow", Kind::TaskCompleted(TaskCompleted::default())));
        progress.apply(&event(3, "", Kind::ExecutionCompleted(ExecutionCompleted {})));
        assert_eq!((progress.percent(), progress.left(&Timestamp::default())), (100, None));
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
        assert_eq!(progress.counts, Counts { completed: 2, failed: 1, blocked: 2, ..Counts::default() });
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

    /// An execution that repeats another one, with every way of waiting and of being called off.
    pub fn eventful() -> Vec<Event> {
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<String>>();
        let seconds = |seconds| Some(pbjson_types::Duration { seconds, nanos: 0 });
        let again = TaskAttempt {
            error: Some(TaskError { message: "exit code 75".into(), ..TaskError::default() }),
            ..TaskAttempt::default()
        };
        let begun = ExecutionStarted { task_count: 9, rerun_of: "E0".into(), reused_tasks: 2, ..Default::default() };
        let prompt = ApprovalRequested { prompt: "Ship it?".into(), approvers: ids(&["uid:1000"]) };
        let condition = ConditionError {
            expression: "tasks.a.output > 3".into(),
            message: "task `a` left no output".into(),
            ..ConditionError::default()
        };
        let skipped = TasksSkipped { task_ids: ids(&["c"]), reason: "a condition could not be evaluated".into() };
        let mut events = vec![
            event(0, "", Kind::ExecutionStarted(begun)),
            event(1, "fetch", Kind::TaskStarted(TaskStarted::default())),
            event(2, "ask", Kind::ApprovalRequested(prompt)),
            event(3, "fetch", Kind::TaskRetryScheduled(TaskRetryScheduled { result: Some(again), delay: seconds(2) })),
            event(4, "c", Kind::ConditionError(condition)),
            event(5, "", Kind::TasksSkipped(skipped)),
            event(6, "ask", Kind::ApprovalResolved(ApprovalResolved { approved: false, comment: "not now".into() })),
            event(6, "ask", failed(1, "")),
            event(7, "fetch", Kind::TaskRetryDue(TaskRetryDue {})),
            event(8, "ask", Kind::ExecutionFailFast(ExecutionFailFast { running_tasks: 1 })),
            event(9, "", Kind::TasksCancelled(TasksCancelled { task_ids: ids(&["fetch", "d"]) })),
            event(10, "", Kind::HandlersStarted(HandlersStarted { kind: "finally".into() })),
            event(
                11,
                "",
                Kind::ExecutionTimeoutReached(ExecutionTimeoutReached { timeout: seconds(60), running_tasks: 0 }),
            ),
        ];
        for (revision, event) in (1..).zip(&mut events) {
            event.revision = revision;
            event.actor = "uid:0".into();
        }
        events
    }

    #[test]
    fn what_waits_for_a_backoff_or_a_person_is_known_until_it_is_over() {
        let mut progress = Progress::default();
        let events = eventful();
        events[..4].iter().for_each(|event| drop(progress.apply(event)));
        assert_eq!((progress.retrying.len(), progress.asking.len(), progress.running().len()), (1, 1, 0));
        assert_eq!((progress.counts.ended(), progress.percent()), (2, 22), "what is kept has ended");
        events[4..].iter().for_each(|event| drop(progress.apply(event)));
        assert_eq!((progress.retrying.len(), progress.asking.len()), (0, 0));
        let counts = Counts { kept: 2, skipped: 1, failed: 1, cancelled: 2, ..Counts::default() };
        assert_eq!(progress.counts, counts);
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
