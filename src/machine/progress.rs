//! How far an execution is, and when it will be over (S-VIEW-1): counts per status, and what earlier executions say of
//! how long each task takes.

use super::{
    execution::Execution,
    ids::{TaskIndex, Timestamp},
    task::TaskStatus,
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

/// How long each task of an execution is expected to take, in microseconds: from executions of the same workflow that
/// had ended before it began, so that it never changes while it runs, and its progress never falls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// By task; 0: nothing is known of it.
    micros: Vec<u64>,
    /// How many executions say so.
    executions: usize,
}

/// When an execution will be over, and how that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// When.
    pub at: Timestamp,
    /// How many earlier executions say so; 0: its own pace does.
    pub executions: usize,
}

impl Expected {
    /// What earlier executions say; they have the same tasks in the same order, and at least one is given.
    pub fn of(earlier: &[Execution]) -> Option<Self> {
        let tasks = earlier.first()?.tasks.len();
        let took = |execution: &Execution, task: usize| {
            let state = execution.tasks.get(task)?;
            let span = state.completed_at?.0 - state.started_at?.0;
            u64::try_from(span).ok()
        };
        let micros = (0..tasks).map(|task| {
            let known: Vec<u64> = earlier.iter().filter_map(|execution| took(execution, task)).collect();
            known.iter().sum::<u64>().checked_div(known.len() as u64).unwrap_or(0)
        });
        Some(Self { micros: micros.collect(), executions: earlier.len() })
    }

    /// Share of the expected work that is done, in per cent: at most 99 before the end.
    pub fn percent(&self, execution: &Execution) -> f64 {
        if execution.status.is_terminal() {
            return 100.0;
        }
        // A task that takes no time is still a task.
        let weight = |task: usize| u128::from(self.micros.get(task).copied().unwrap_or(0).max(1));
        let all: u128 = (0..execution.tasks.len()).map(weight).sum();
        let ended = execution.tasks.iter().enumerate().filter(|(_, state)| state.status.is_terminal());
        let done: u128 = ended.map(|(task, _)| weight(task)).sum();
        // In hundredths of a per cent, so that no large number has to fit into a float.
        let share = u32::try_from(done * 10_000 / all.max(1)).unwrap_or(10_000);
        (f64::from(share) / 100.0).min(99.0)
    }

    /// The longest way through what is left, each task as long as it is expected to take.
    fn left(&self, execution: &Execution, now: Timestamp) -> u64 {
        let graph = execution.definition.graph();
        let mut until = vec![0_u64; execution.tasks.len()];
        for &task in graph.stages().iter().flatten() {
            let state = &execution.tasks[task as usize];
            if state.status.is_terminal() {
                continue;
            }
            let before = graph.dependencies(task).iter().map(|before| until[*before as usize]).max().unwrap_or(0);
            let ran = match state.status {
                TaskStatus::Running => u64::try_from(now.0 - state.attempt_started_at.0).unwrap_or(0),
                _ => 0,
            };
            until[task as usize] = before + self.micros_of(task).saturating_sub(ran);
        }
        until.into_iter().max().unwrap_or(0)
    }

    fn micros_of(&self, task: TaskIndex) -> u64 {
        self.micros.get(task as usize).copied().unwrap_or(0)
    }
}

/// When an execution will be over: by what earlier ones say, else by its own pace. `None` while nothing is known, while
/// it is paused or waits for a person, and when it is over.
pub fn estimate(execution: &Execution, expected: Option<&Expected>, now: Timestamp) -> Option<Estimate> {
    let counts = execution.counts();
    let is_held = execution.paused_at.is_some() || counts.of(TaskStatus::Waiting) > 0;
    if execution.status.is_terminal() || is_held {
        return None;
    }
    let (left, executions) = match expected {
        Some(expected) => (expected.left(execution, now), expected.executions),
        None => {
            let ended = u64::from(counts.total() - counts.open());
            let passed = u64::try_from(now.0 - execution.started_at.0).unwrap_or(0);
            (passed.checked_div(ended)?.saturating_mul(u64::from(counts.open())), 0)
        }
    };
    Some(Estimate { at: Timestamp(now.0.saturating_add_unsigned(left)), executions })
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
