//! Schedules: a workflow, when it is to run, and what becomes of a time that comes badly (S-SCHED-4 to S-SCHED-7).
//!
//! Here is what a schedule is, and how each event changes it. When it fires next says the calendar; `schedule/course.rs`
//! decides what becomes of the times that have come, `schedule/change.rs` what commands do, `schedule/backfill.rs` which
//! times of the past somebody may have made up, and `schedule/due.rs` knows when that is. Nominal times are of the wall
//! clock, which the machine never lets go back; each is decided about once, since only those after `last` are asked for.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    ids::{Actor, ExecutionId, ScheduleId, Timestamp, WorkflowId},
    message::Inputs,
    workflow::RetrySpec,
};
use crate::calendar::{Calendar, MAX_EXPRESSION_BYTES, Spec};

mod backfill;
mod change;
mod course;
mod due;
#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;

pub use backfill::{BACKFILL_AT_MOST, Backfill};
pub(super) use backfill::{backfill, cancel_backfill};
pub use change::violation;
pub(super) use change::{create, delete, pause, resume, trigger, update};
pub(super) use course::come;
pub use course::{CATCH_UP_AT_MOST, ON_TIME_MICROS};

/// Most nominal times of one schedule that wait for an execution to end.
pub const MAX_BUFFERED: usize = 100;
/// Executions of one schedule that are known to it; with ALLOW_ALL the oldest are forgotten beyond.
const MAX_RUNNING: usize = 100;

/// What becomes of a nominal time while an execution of the schedule has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OverlapPolicy {
    /// It is skipped.
    #[default]
    Skip,
    /// One waits for the end; others are skipped.
    BufferOne,
    /// All wait, [`MAX_BUFFERED`] at most; others are skipped.
    BufferAll,
    /// What runs is cancelled, and it starts when that has ended; one that still waits then is skipped.
    CancelOther,
    /// It starts beside.
    AllowAll,
}

/// What becomes of nominal times that came while noxd was away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CatchUp {
    /// They are missed.
    None,
    /// The last one is made up.
    #[default]
    Last,
    /// The last [`CATCH_UP_AT_MOST`] are made up, in order.
    All,
}

/// A schedule as its author wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleSpec {
    /// Its unique name.
    pub id: ScheduleId,
    /// What it starts: the version that is the newest then.
    pub workflow: WorkflowId,
    /// For people.
    pub description: String,
    /// When.
    pub times: Spec,
    /// What becomes of a time while an execution has not ended.
    pub overlap: OverlapPolicy,
    /// What becomes of times that came while noxd was away.
    pub catch_up: CatchUp,
    /// Only those are made up that are not longer ago, in microseconds; `None`: however long.
    pub catch_up_window_micros: Option<u64>,
    /// What its executions are given.
    pub inputs: Inputs,
    /// Over the workflow's own.
    pub labels: BTreeMap<String, String>,
    /// When tasks of its executions are tried again that do not say so themselves.
    pub retry: Option<Arc<RetrySpec>>,
}

/// How often a schedule is to start an execution after a change of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    /// As often as it was to.
    Kept,
    /// So often from here; `None`: without end.
    Left(Option<u64>),
}

/// A nominal time to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upcoming {
    /// By which it is named.
    pub nominal: Timestamp,
    /// With its jitter.
    pub due: Timestamp,
}

/// A schedule as it is stored, with how far it has come.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleRecord {
    /// Counts all versions under this id, from 1.
    pub version: u64,
    /// When the first version was stored.
    pub created_at: Timestamp,
    /// When this version was stored.
    pub updated_at: Timestamp,
    /// Who stored the first version.
    pub created_by: Actor,
    /// Whether it was deleted. The record stays, so that versions go on counting.
    pub deleted: bool,
    /// What it says.
    pub spec: Arc<ScheduleSpec>,
    /// Its times, checked.
    pub calendar: Arc<Calendar>,
    /// How far it has come.
    pub course: Course,
}

/// How far a schedule has come: what changes as it fires.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Course {
    /// Whether it fires.
    pub enabled: bool,
    /// Why it does not, in a person's words.
    pub note: String,
    /// The newest nominal time that was decided about: only later ones are asked for.
    pub last: Timestamp,
    /// The first later one.
    pub next: Option<Upcoming>,
    /// How often it is still to start an execution by its times; `None`: without end.
    pub remaining_runs: Option<u64>,
    /// Nominal times that wait for an execution to end, ascending.
    pub buffered: Vec<Timestamp>,
    /// Executions that had not ended when it last started one, and that one.
    pub running: Vec<ExecutionId>,
    /// Whether the times of an absence are being gone through.
    pub catching_up: bool,
    /// How many executions it started, on request too.
    pub fired: u64,
    /// How many of them are backfills.
    pub backfilled: u64,
    /// Times of the past that are still to be made up on request.
    pub backfill: Backfill,
    /// How many nominal times were skipped.
    pub skipped: u64,
    /// How many nominal times were missed.
    pub missed: u64,
    /// The newest execution that it started, other than a backfill, and of when.
    pub last_execution: Option<(ExecutionId, Timestamp)>,
}

/// What became of a nominal time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An execution started.
    Fired {
        /// Which.
        execution: ExecutionId,
        /// What made it start.
        cause: Cause,
    },
    /// It waits for an execution to end.
    Buffered,
    /// It starts nothing.
    Skipped {
        /// Why, in one sentence.
        reason: String,
        /// What would have made it start.
        cause: Cause,
    },
    /// It came while noxd was away, and is not made up; so are all from the first one on.
    Missed {
        /// The first of them.
        first: Timestamp,
        /// How many.
        count: u64,
        /// Whether more of the same absence are to be decided about.
        more: bool,
    },
}

/// What makes a schedule start an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its time.
    Time,
    /// The end of an execution that its time had waited for.
    Release,
    /// A call, which is no time of the schedule's.
    Call,
    /// A request to make up times of the past.
    Backfill,
}

impl ScheduleSpec {
    /// About how many bytes of text it has.
    pub fn weight(&self) -> usize {
        let labels = self.labels.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        let retry = self.retry.as_ref().map_or(0, |retry| retry.weight());
        self.description.len()
            + labels
            + self.inputs.weight()
            + self.times.timezone.len()
            + MAX_EXPRESSION_BYTES
            + retry
    }
}

impl ScheduleRecord {
    /// Changes with the definition alone: a version is never stored twice.
    pub fn etag(&self) -> String {
        format!("v{}", self.version)
    }

    /// When it wants to be asked next; none while it is paused, and when it is over.
    pub fn wake(&self) -> Option<Timestamp> {
        self.course.next.filter(|_| !self.deleted).map(|next| next.due)
    }

    /// The first nominal time that nothing was decided about.
    fn upcoming(&self) -> Option<Upcoming> {
        if !self.course.enabled || self.deleted || self.is_spent() {
            return None;
        }
        let firing = self.calendar.next(self.course.last)?;
        Some(Upcoming { nominal: firing.at, due: self.calendar.due(&firing, self.jitter_seed()) })
    }

    /// Whether all of its runs are used up, or promised to times that wait.
    fn is_spent(&self) -> bool {
        self.course.remaining_runs.is_some_and(|left| left <= self.course.buffered.len() as u64)
    }

    /// Where the chance of its jitter begins: the same for ever.
    fn jitter_seed(&self) -> u64 {
        let start = self.created_at.0.cast_unsigned();
        // FNV-1a's step.
        let step = |state: u64, byte: &u8| (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        self.spec.id.as_str().as_bytes().iter().fold(start, step)
    }
}

impl Course {
    /// About how many bytes its row has.
    pub fn weight(&self) -> usize {
        self.note.len() + 18 * self.running.len() + 10 * (self.buffered.len() + self.backfill.len())
    }

    /// Whether times wait for their turn: of a paused schedule, those of backfills alone.
    pub fn is_waiting(&self) -> bool {
        self.enabled && !self.buffered.is_empty() || !self.backfill.is_empty()
    }

    /// Follows what became of a nominal time.
    pub fn take(&mut self, nominal: Timestamp, outcome: &Outcome, next: Option<Upcoming>) {
        match outcome {
            Outcome::Fired { execution, cause } => {
                self.fired += 1;
                if self.running.len() >= MAX_RUNNING {
                    self.running.remove(0);
                }
                self.running.push(*execution);
                self.met(nominal, *cause);
                match cause {
                    Cause::Time | Cause::Release => {
                        self.remaining_runs = self.remaining_runs.map(|left| left.saturating_sub(1));
                    }
                    Cause::Call => {}
                    Cause::Backfill => self.backfilled += 1,
                }
                if *cause != Cause::Backfill {
                    self.last_execution = Some((*execution, nominal));
                }
            }
            Outcome::Buffered => {
                self.met(nominal, Cause::Time);
                self.buffered.push(nominal);
            }
            Outcome::Skipped { cause, .. } => {
                self.skipped += 1;
                self.met(nominal, *cause);
            }
            Outcome::Missed { count, more, .. } => {
                self.missed += count;
                self.last = nominal;
                self.catching_up = *more;
            }
        }
        self.next = next;
    }

    /// A time has had its fate: nothing waits for it any more.
    fn met(&mut self, nominal: Timestamp, cause: Cause) {
        match cause {
            Cause::Time => {
                self.last = nominal;
                self.catching_up = false;
            }
            Cause::Release => self.buffered.retain(|waiting| *waiting != nominal),
            Cause::Call => {}
            Cause::Backfill => self.backfill.met(nominal),
        }
    }
}
