//! The life of a task in one execution: its states, and the one table that says which may follow which.

use super::{
    ids::{Elapsed, Revision, TaskIndex, Timestamp},
    message::{ErrorKind, StopCause, TaskError},
};

/// Where a task stands (S-STATE-2).
///
/// ```text
/// PENDING ─▶ QUEUED ─▶ RUNNING ─▶ COMPLETED | FAILED | TIMED_OUT
///    │          ▲         │  └──▶ RETRYING ─▶ QUEUED
///    │          └─────────┘ interrupted
///    ├─▶ WAITING ─▶ COMPLETED | FAILED | TIMED_OUT
///    └─▶ SKIPPED | BLOCKED             any that has not ended ─▶ CANCELLED
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TaskStatus {
    /// Waiting for dependencies.
    Pending = 1,
    /// Waiting for a person; no attempt, no slot.
    Waiting = 2,
    /// Ready, waiting for a slot.
    Queued = 3,
    /// With a live attempt.
    Running = 4,
    /// Waiting for the next try.
    Retrying = 5,
    /// Ended well.
    Completed = 6,
    /// Ended badly.
    Failed = 7,
    /// Ended by a timeout.
    TimedOut = 8,
    /// Not run: a condition did not hold.
    Skipped = 9,
    /// Not run: a task before it failed.
    Blocked = 10,
    /// Ended on request.
    Cancelled = 11,
}

impl TaskStatus {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 11] = [
        Self::Pending,
        Self::Waiting,
        Self::Queued,
        Self::Running,
        Self::Retrying,
        Self::Completed,
        Self::Failed,
        Self::TimedOut,
        Self::Skipped,
        Self::Blocked,
        Self::Cancelled,
    ];

    /// The status of that number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|status| *status as u8 == number)
    }

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Waiting => "WAITING",
            Self::Queued => "QUEUED",
            Self::Running => "RUNNING",
            Self::Retrying => "RETRYING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::TimedOut => "TIMED_OUT",
            Self::Skipped => "SKIPPED",
            Self::Blocked => "BLOCKED",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// Whether it is for ever.
    pub fn is_terminal(self) -> bool {
        self >= Self::Completed
    }

    /// Whether it counts as failed for trigger rules (S-DEP-3).
    pub fn has_failed(self) -> bool {
        matches!(self, Self::Failed | Self::TimedOut | Self::Blocked | Self::Cancelled)
    }

    /// The table: every pair that is not in it is a fault of noxd (S-STATE-2). What keeps an attempt from being started
    /// at all, as a placeholder or a program that is not there, fails the attempt: a task is RUNNING once it is admitted.
    pub fn may_become(self, next: Self) -> bool {
        use TaskStatus::{
            Blocked, Cancelled, Completed, Failed, Pending, Queued, Retrying, Running, Skipped, TimedOut, Waiting,
        };
        matches!(
            (self, next),
            (Pending, Queued | Waiting | Skipped | Blocked | Cancelled)
                | (Waiting, Completed | Failed | TimedOut | Cancelled)
                | (Queued, Running | TimedOut | Cancelled)
                | (Running, Completed | Failed | TimedOut | Retrying | Queued | Cancelled)
                | (Retrying, Queued | Cancelled)
        )
    }
}

/// A task as the machine needs it: small, since there are up to 100,000 in an execution.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskState {
    /// Where it stands.
    pub status: TaskStatus,
    /// Dependencies that have not ended.
    pub remaining: u32,
    /// Dependencies that were SKIPPED.
    pub skipped: u32,
    /// Dependencies that failed, whether that was allowed or not.
    pub failed: u32,
    /// Whether one failed of which that was not allowed.
    pub broken: bool,
    /// The newest attempt, from 1; 0 before the first.
    pub attempt: u32,
    /// Attempts that were interrupted and so do not count.
    pub interruptions: u32,
    /// Why the live attempt was told to end.
    pub stopping: Option<StopCause>,
    /// When what it does now, or waits for, has taken too long; while RETRYING, when the next attempt is due.
    pub deadline: Option<Elapsed>,
    /// The same on people's clocks, as it was foreseen.
    pub deadline_at: Timestamp,
    /// The task whose end blocked it.
    pub blocked_by: Option<TaskIndex>,
    /// When its last dependency ended.
    pub ready_at: Timestamp,
    /// When it came into the queue.
    pub queued_at: Timestamp,
    /// The same on noxd's own clock.
    pub queued_since: Elapsed,
    /// How long the backoff before its newest turn in the queue was, in microseconds.
    pub backoff_micros: u64,
    /// How long its execution had been paused in all when it came into the queue, in microseconds.
    pub paused_before: u64,
    /// When its first attempt was admitted.
    pub started_at: Option<Timestamp>,
    /// When its newest attempt was admitted.
    pub attempt_started_at: Timestamp,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// Process id of the live attempt.
    pub pid: u32,
    /// Whether its result is that of the execution which this one repeats.
    pub reused: bool,
    /// Revision of the end of its newest ended attempt; 0: none has ended.
    pub last_end: Revision,
}

impl TaskState {
    /// A task that waits for so many others.
    pub fn pending(remaining: u32) -> Self {
        Self {
            status: TaskStatus::Pending,
            remaining,
            skipped: 0,
            failed: 0,
            broken: false,
            attempt: 0,
            interruptions: 0,
            stopping: None,
            deadline: None,
            deadline_at: Timestamp(0),
            blocked_by: None,
            ready_at: Timestamp(0),
            queued_at: Timestamp(0),
            queued_since: Elapsed(0),
            backoff_micros: 0,
            paused_before: 0,
            started_at: None,
            attempt_started_at: Timestamp(0),
            completed_at: None,
            pid: 0,
            reused: false,
            last_end: 0,
        }
    }

    /// Takes note that a dependency ended so.
    pub fn dependency_ended(&mut self, status: TaskStatus, excused: bool) {
        self.remaining = self.remaining.saturating_sub(1);
        match status {
            TaskStatus::Skipped => self.skipped += 1,
            status if status.has_failed() => {
                self.failed += 1;
                self.broken |= !excused;
            }
            _ => {}
        }
    }

    /// Attempts that count towards `max_attempts`.
    pub fn counted_attempts(&self) -> u32 {
        self.attempt - self.interruptions
    }
}

/// What a person can do about an error; empty where nothing general is known (S-VIEW-4).
pub fn remedy(error: &TaskError, exit_code: Option<i32>) -> &'static str {
    match (error.kind, exit_code, error.signal) {
        (ErrorKind::ExitCode, Some(126), _) => "the program could not be run: check its permissions and its first line",
        (ErrorKind::ExitCode, Some(127), _) => "a program that the command calls was not found: check PATH",
        (ErrorKind::ExitCode, ..) => "the standard error above and the task's log say why; run the command by hand",
        (ErrorKind::Signal, _, Some(9)) => {
            "nobody asked noxd to end it: often the system ran out of memory; look for it in the kernel's log"
        }
        (ErrorKind::Signal, ..) => "the program crashed or somebody else ended it; its log and core dump say why",
        (ErrorKind::Spawn, ..) => "correct `command.argv`, `command.working_dir` or PATH, then execute again",
        (ErrorKind::Timeout, ..) => "raise the limit that the message names, or find what it waited for in its log",
        (ErrorKind::Output, ..) => "with `output_format: JSON` write one JSON document of at most 1 MiB",
        (ErrorKind::Lost, ..) => "noxd went down under it too often; see noxd's own log, then execute again",
        (ErrorKind::Template, ..) => {
            "correct the placeholder, or the task whose output it reads, then execute again; `| default(…)` fills in for \
             what may be missing"
        }
        (ErrorKind::Agent, ..) => {
            "the agent's own words are in the task's log; correct what it was asked, or the agent"
        }
        (ErrorKind::RateLimited, ..) => "wait until the agent's provider takes more, or give the task more attempts",
        (ErrorKind::Internal, ..) => "this is a fault of noxd: report it with noxd's own log",
        (ErrorKind::Rejected | ErrorKind::Cancelled, ..) => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_transitions_is_the_one_that_is_promised() {
        // S-STATE-2, written down a second time so that a slip in the code is seen.
        let table = "
            PENDING: QUEUED WAITING SKIPPED BLOCKED CANCELLED
            WAITING: COMPLETED FAILED TIMEDOUT CANCELLED
            QUEUED: RUNNING TIMEDOUT CANCELLED
            RUNNING: COMPLETED FAILED TIMEDOUT RETRYING QUEUED CANCELLED
            RETRYING: QUEUED CANCELLED";
        let name = |status: TaskStatus| format!("{status:?}").to_uppercase();
        for from in TaskStatus::ALL {
            let line = table.lines().find_map(|line| line.trim().strip_prefix(&format!("{}:", name(from))));
            let allowed: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
            for to in TaskStatus::ALL {
                assert_eq!(from.may_become(to), allowed.contains(&name(to).as_str()), "{from:?} → {to:?}");
            }
            assert_eq!(from.is_terminal(), allowed.is_empty(), "terminal is for ever: {from:?}");
            assert_eq!(TaskStatus::from_number(from as u8), Some(from));
        }
    }

    #[test]
    fn an_error_comes_with_what_a_person_can_do_about_it() {
        // S-VIEW-4
        let of = |kind, exit_code, signal| {
            remedy(&TaskError { kind, message: String::new(), signal, stderr_tail: String::new() }, exit_code)
        };
        for (kind, exit_code, signal, word) in [
            (ErrorKind::ExitCode, Some(126), None, "permissions"),
            (ErrorKind::ExitCode, Some(127), None, "was not found"),
            (ErrorKind::ExitCode, Some(1), None, "run the command by hand"),
            (ErrorKind::Signal, None, Some(9), "out of memory"),
            (ErrorKind::Signal, None, Some(11), "crashed"),
            (ErrorKind::Spawn, None, None, "command.argv"),
            (ErrorKind::Timeout, None, None, "raise the limit"),
            (ErrorKind::Output, Some(0), None, "one JSON document"),
            (ErrorKind::Lost, None, None, "execute again"),
            (ErrorKind::Template, None, None, "default("),
            (ErrorKind::Agent, None, None, "the agent's own words"),
            (ErrorKind::RateLimited, None, None, "wait until"),
            (ErrorKind::Internal, None, None, "report it"),
        ] {
            let words = of(kind, exit_code, signal);
            assert!(words.contains(word), "{kind:?} {exit_code:?} {signal:?}: {words}");
        }
        for kind in [ErrorKind::Rejected, ErrorKind::Cancelled] {
            assert_eq!(of(kind, None, None), "", "somebody meant it: {kind:?}");
        }
    }
}
