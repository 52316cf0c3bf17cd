//! How far an execution is: counts per status, and the per cent that follow from them (S-VIEW-1).

use super::task::TaskStatus;

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
