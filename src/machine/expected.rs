//! What earlier executions say of how long tasks take (S-VIEW-1): a running mean per task of one version of a workflow,
//! and what an execution expects of it from its beginning to its end.
//!
//! [`Durations`] grow as executions end and are a row of the store. An execution gets what they say when it begins, as
//! [`Expected`], in its own first event: so that it never changes while the execution runs. What is made of it is in
//! `progress`.

use super::{
    execution::{Execution, ExecutionStatus},
    ids::TaskIndex,
    message::Trigger,
    task::TaskStatus,
};

/// Executions that a mean remembers, about: each newer one weighs a sixteenth at least, so that a workflow that became
/// slower is known to be after some ten.
const MEMORY: u32 = 16;

/// A mean of spans in which the newest weigh most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mean {
    /// In microseconds.
    pub micros: u64,
    /// How many spans it has seen, at most 16 of them.
    pub seen: u32,
}

impl Mean {
    fn add(&mut self, micros: u64) {
        self.seen = self.seen.saturating_add(1).min(MEMORY);
        let weight = i128::from(self.seen);
        let moved = i128::from(self.micros) + (i128::from(micros) - i128::from(self.micros)) / weight;
        self.micros = u64::try_from(moved).unwrap_or(0);
    }

    /// The mean; 0 where nothing is known. What is known takes a microsecond at least.
    fn known(self) -> u64 {
        if self.seen == 0 { 0 } else { self.micros.max(1) }
    }
}

/// How long the tasks of one version of a workflow take, by the executions of it that have ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    /// How many executions they rest on.
    pub executions: u64,
    /// From the start of an execution to its end, pauses left out: of those that were COMPLETED and repeated none.
    pub whole: Mean,
    /// From the start of a task's first attempt to its end: of those that were COMPLETED, by index.
    pub tasks: Vec<Mean>,
}

impl Durations {
    /// Takes in an execution that has ended. It costs as much as it has tasks.
    pub fn add(&mut self, execution: &Execution) {
        self.tasks.resize(execution.tasks.len(), Mean::default());
        let mut told = false;
        for (mean, state) in self.tasks.iter_mut().zip(&execution.tasks) {
            // A result that was kept tells again what the execution told in which the task ran.
            if state.status == TaskStatus::Completed
                && !state.reused
                && let (Some(from), Some(to)) = (state.started_at, state.completed_at)
            {
                mean.add(u64::try_from(to.0 - from.0).unwrap_or(0));
                told = true;
            }
        }
        self.executions += u64::from(told);
        let is_whole =
            execution.status == ExecutionStatus::Completed && !matches!(execution.trigger, Trigger::Rerun(_));
        if let (true, Some(ended_at)) = (told && is_whole, execution.ended_at) {
            let took = u64::try_from(ended_at.0 - execution.started_at.0).unwrap_or(0);
            self.whole.add(took.saturating_sub(execution.paused_micros));
        }
    }

    /// What an execution that begins now expects; `None` where nothing is known.
    pub fn expected(&self) -> Option<Expected> {
        let tasks = self.tasks.iter().map(|mean| mean.known()).collect();
        Expected::new(self.executions, self.whole.known(), tasks)
    }
}

/// How long an execution and its tasks are expected to take, in microseconds; fixed when it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    executions: u64,
    whole: u64,
    tasks: Box<[u64]>,
    /// What a task weighs of which nothing is known.
    typical: u64,
    total: u128,
}

impl Expected {
    /// From how many executions say so, and their means; 0: nothing is known of it. `None` where none says anything.
    pub fn new(executions: u64, whole: u64, tasks: Vec<u64>) -> Option<Self> {
        let known = tasks.iter().filter(|micros| **micros > 0).count() as u128;
        let sum: u128 = tasks.iter().map(|micros| u128::from(*micros)).sum();
        let typical = sum.checked_div(known).filter(|_| executions > 0)?;
        let typical = u64::try_from(typical).unwrap_or(u64::MAX).max(1);
        let total = sum + u128::from(typical) * (tasks.len() as u128 - known);
        Some(Self { executions, whole, tasks: tasks.into(), typical, total })
    }

    /// On how many executions it rests.
    pub fn executions(&self) -> u64 {
        self.executions
    }

    /// The whole execution; 0: nothing is known.
    pub fn whole_micros(&self) -> u64 {
        self.whole
    }

    /// Its tasks, by index; 0: nothing is known of that one.
    pub fn tasks_micros(&self) -> &[u64] {
        &self.tasks
    }

    /// A task; 0: nothing is known.
    pub fn micros_of(&self, task: TaskIndex) -> u64 {
        self.tasks.get(task as usize).copied().unwrap_or(0)
    }

    /// What a task is of the whole work: one of which nothing is known is like the others. At least 1: a task that takes
    /// no time is still a task.
    pub fn weight_of(&self, task: TaskIndex) -> u64 {
        match self.micros_of(task) {
            0 => self.typical,
            micros => micros,
        }
    }

    /// What all tasks weigh.
    pub fn total(&self) -> u128 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_follows_what_is_new_and_keeps_within_what_it_has_seen() {
        // S-VIEW-1
        let mut mean = Mean::default();
        assert_eq!(mean.known(), 0, "nothing is known");
        mean.add(0);
        assert_eq!(mean.known(), 1, "that it takes no time is known");
        for _ in 0..16 {
            mean.add(1_000_000);
        }
        assert!((600_000..1_000_000).contains(&mean.known()), "{mean:?}");
        for _ in 0..48 {
            mean.add(9_000_000);
        }
        assert!((8_500_000..=9_000_000).contains(&mean.known()), "it has become slower: {mean:?}");
    }

    #[test]
    fn a_task_of_which_nothing_is_known_weighs_as_much_as_the_others_do() {
        // S-VIEW-1
        let expected = Expected::new(2, 0, vec![10, 0, 30]).expect("known");
        assert_eq!([0, 1, 2].map(|task| expected.weight_of(task)), [10, 20, 30]);
        assert_eq!((expected.total(), expected.micros_of(1)), (60, 0));
        assert_eq!(Expected::new(0, 9, vec![9]), None, "no execution says so");
        assert_eq!(Expected::new(1, 0, vec![0, 0]), None, "they say nothing");
    }
}
