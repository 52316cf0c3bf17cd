//! How far an execution is, and when it will be over (S-VIEW-1): by counts per status, and by what `expected` knows.

use super::{
    execution::Execution, expected::Expected, ids::Timestamp, message::Trigger, task::TaskStatus, workflow::Role,
};

/// How many tasks are in each status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts([u32; 12]);

impl Counts {
    /// All tasks PENDING.
    pub fn all_pending(tasks: usize) -> Self {
        let mut counts = Self::default();
        counts.0[TaskStatus::Pending as usize] = u32::try_from(tasks).expect("bounded by MAX_TASKS");
        counts
    }

    /// How many are in a status.
    pub fn of(&self, status: TaskStatus) -> u32 {
        self.0[status as usize]
    }

    /// Counts one more in a status.
    pub fn add(&mut self, status: TaskStatus) {
        self.add_many(status, 1);
    }

    /// Counts so many more in a status.
    pub fn add_many(&mut self, status: TaskStatus, count: u32) {
        self.0[status as usize] = self.0[status as usize].saturating_add(count);
    }

    /// One task went from a status to another.
    pub fn moved(&mut self, from: TaskStatus, to: TaskStatus) {
        self.0[from as usize] -= 1;
        self.0[to as usize] += 1;
    }

    /// All tasks.
    pub fn total(&self) -> u32 {
        self.0.iter().sum()
    }

    /// Tasks that have not ended.
    pub fn open(&self) -> u32 {
        TaskStatus::ALL.iter().filter(|status| !status.is_terminal()).map(|status| self.of(*status)).sum()
    }

    /// Tasks that make an execution FAILED.
    pub fn failed(&self) -> u32 {
        self.of(TaskStatus::Failed) + self.of(TaskStatus::TimedOut) + self.of(TaskStatus::Blocked)
    }

    /// Share of the tasks that have ended, in per cent: at most 99 before the end. It never falls, since an ended task
    /// stays ended.
    pub fn percent(&self, ended: bool) -> f64 {
        if ended {
            return 100.0;
        }
        let total = self.total();
        if total == 0 {
            return 0.0;
        }
        (f64::from(total - self.open()) * 100.0 / f64::from(total)).min(99.0)
    }
}

/// When an execution will be over, and how that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// When.
    pub at: Timestamp,
    /// How many earlier executions say so; 0: its own pace does.
    pub executions: u64,
}

/// Share of the expected work that is done, in per cent, by count where nothing is expected: at most 99 before the end.
/// It never falls: an ended task stays ended, a task that is tried again had not ended, and what is expected is fixed.
pub fn percent(execution: &Execution) -> f64 {
    let Some(expected) = &execution.expected else {
        return execution.counts().percent(execution.status.is_terminal());
    };
    if execution.status.is_terminal() {
        return 100.0;
    }
    // In hundredths of a per cent, so that no large number has to fit into a float.
    let share = execution.work_done().saturating_mul(10_000) / expected.total().max(1);
    (f64::from(u32::try_from(share).unwrap_or(10_000)) / 100.0).min(99.0)
}

/// When an execution will be over: by what earlier ones say, else by its own pace. `None` while nothing is known, while
/// it is paused or waits for a person, and when it is over.
pub fn estimate(execution: &Execution, now: Timestamp) -> Option<Estimate> {
    let counts = execution.counts();
    let is_held = execution.paused_at.is_some() || counts.of(TaskStatus::Waiting) > 0;
    if execution.status.is_terminal() || is_held {
        return None;
    }
    let ran = u64::try_from(now.0 - execution.started_at.0).unwrap_or(0).saturating_sub(execution.paused_micros);
    let (left, executions) = match &execution.expected {
        // What limits hold up does not show in the longest way, and does in what the whole usually takes. A rerun does
        // not do the whole.
        Some(expected) => {
            let is_whole = !matches!(execution.trigger, Trigger::Rerun(_));
            let usual = if is_whole { expected.whole_micros() } else { 0 };
            (longest_way(execution, expected, now).max(usual.saturating_sub(ran)), expected.executions())
        }
        None => {
            let kept = execution.tasks.iter().filter(|task| task.reused).count() as u64;
            let ended = u64::from(counts.total() - counts.open()).saturating_sub(kept);
            (ran.checked_div(ended)?.saturating_mul(u64::from(counts.open())), 0)
        }
    };
    Some(Estimate { at: Timestamp(now.0.saturating_add_unsigned(left)), executions })
}

/// The longest way through what is left, each task as long as it is expected to take; handlers follow when all else is
/// over. It costs as much as there are tasks and dependencies.
fn longest_way(execution: &Execution, expected: &Expected, now: Timestamp) -> u64 {
    let definition = &execution.definition;
    let mut until = vec![0_u64; execution.tasks.len()];
    let mut longest = [0_u64; Role::ALL.len()];
    for &task in definition.graph().stages().iter().flatten() {
        let (state, role) = (&execution.tasks[task as usize], definition.role(task));
        // Most executions do not fail.
        let is_unlikely = role == Role::OnFailure && !execution.is_failing();
        if state.status.is_terminal() || is_unlikely {
            continue;
        }
        let before = definition.graph().dependencies(task).iter().map(|before| until[*before as usize]);
        let ran = match state.status {
            TaskStatus::Running => u64::try_from(now.0 - state.attempt_started_at.0).unwrap_or(0),
            _ => 0,
        };
        let end = before.max().unwrap_or(0).saturating_add(expected.micros_of(task).saturating_sub(ran));
        until[task as usize] = end;
        longest[role as usize] = longest[role as usize].max(end);
    }
    longest.into_iter().fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_grows_with_what_has_ended_and_reaches_100_only_at_the_end() {
        // S-VIEW-1
        let mut counts = Counts::all_pending(4);
        assert!(counts.percent(false) < 1.0);
        counts.moved(TaskStatus::Pending, TaskStatus::Skipped);
        assert!((counts.percent(false) - 25.0).abs() < f64::EPSILON);
        for _ in 0..3 {
            counts.moved(TaskStatus::Pending, TaskStatus::Blocked);
        }
        assert!((counts.percent(false) - 99.0).abs() < f64::EPSILON);
        assert!((counts.percent(true) - 100.0).abs() < f64::EPSILON);
        assert_eq!((counts.total(), counts.open(), counts.failed()), (4, 0, 3));
    }
}
