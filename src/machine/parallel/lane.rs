//! Queued tasks that the same limits hold up: those of one execution, one class, one agent and one limited group.
//!
//! A lane knows which of its tasks is next and which has waited longest. Whether it has room is not its business.

use std::collections::{BTreeMap, BTreeSet};

use crate::machine::ids::{Elapsed, TaskIndex};

/// The tasks of a lane.
///
/// Most come all at once, when an execution starts, is resumed or is recovered: those share one time and cost a few
/// bytes each. A task with a time of its own costs about 45 more.
#[derive(Clone, Debug, Default)]
pub(super) struct Lane {
    /// Since when all of `together` wait.
    since: Elapsed,
    together: BTreeSet<TaskIndex>,
    apart: Option<Box<Apart>>,
    /// Whether the limits of its execution have room for it, so that it stands in the lines of its agent.
    pub(super) listed: bool,
}

/// Tasks that came at other times.
#[derive(Clone, Debug, Default)]
struct Apart {
    since: BTreeMap<TaskIndex, Elapsed>,
    by_age: BTreeSet<(Elapsed, TaskIndex)>,
}

impl Lane {
    /// Nothing waits yet.
    pub(super) fn empty(listed: bool) -> Self {
        Self { listed, ..Self::default() }
    }

    /// Whether the task was not there before. One that was keeps its time.
    pub(super) fn insert(&mut self, task: TaskIndex, since: Elapsed) -> bool {
        if self.contains(task) {
            return false;
        }
        if self.together.is_empty() {
            self.since = since;
        }
        if since == self.since {
            return self.together.insert(task);
        }
        let apart = self.apart.get_or_insert_default();
        apart.since.insert(task, since);
        apart.by_age.insert((since, task))
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, task: TaskIndex) -> bool {
        if self.together.remove(&task) {
            return true;
        }
        let Some(apart) = &mut self.apart else { return false };
        let Some(since) = apart.since.remove(&task) else { return false };
        apart.by_age.remove(&(since, task));
        if apart.since.is_empty() {
            self.apart = None;
        }
        true
    }

    fn contains(&self, task: TaskIndex) -> bool {
        self.together.contains(&task) || self.apart.as_ref().is_some_and(|apart| apart.since.contains_key(&task))
    }

    /// The first in definition order. `None`: the lane is empty.
    pub(super) fn next(&self) -> Option<TaskIndex> {
        let apart = self.apart.as_ref().and_then(|apart| apart.since.first_key_value());
        self.together.first().copied().into_iter().chain(apart.map(|(task, _)| *task)).min()
    }

    /// The one that has waited longest, and since when; of several, the first in definition order.
    pub(super) fn oldest(&self) -> Option<(Elapsed, TaskIndex)> {
        let together = self.together.first().map(|task| (self.since, *task));
        let apart = self.apart.as_ref().and_then(|apart| apart.by_age.first());
        together.into_iter().chain(apart.copied()).min()
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.together.len() + self.apart.as_ref().map_or(0, |apart| apart.since.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_knows_the_next_and_the_oldest_whenever_its_tasks_came() {
        let mut lane = Lane::empty(true);
        for (task, since) in [(5, 20), (7, 20), (9, 10), (3, 30)] {
            assert!(lane.insert(task, Elapsed(since)));
            assert!(!lane.insert(task, Elapsed(0)), "a task waits once, since it came");
        }
        assert_eq!((lane.next(), lane.oldest(), lane.len()), (Some(3), Some((Elapsed(10), 9)), 4));
        assert!(lane.remove(9) && !lane.remove(9));
        assert_eq!(lane.oldest(), Some((Elapsed(20), 5)));
        assert!(lane.remove(5) && lane.remove(7));
        assert_eq!((lane.next(), lane.oldest(), lane.len()), (Some(3), Some((Elapsed(30), 3)), 1));
        assert!(lane.insert(8, Elapsed(40)), "a new group of tasks that came together");
        assert_eq!((lane.next(), lane.oldest(), lane.len()), (Some(3), Some((Elapsed(30), 3)), 2));
        assert!(lane.remove(3) && lane.remove(8));
        assert_eq!((lane.next(), lane.oldest(), lane.len()), (None, None, 0));
    }

    #[test]
    fn tasks_that_came_together_share_their_time() {
        let mut lane = Lane::empty(true);
        (0..9).for_each(|task| assert!(lane.insert(task, Elapsed(20))));
        assert!(lane.apart.is_none(), "a time of its own costs ten times as much");
        assert!(lane.insert(9, Elapsed(30)));
        assert_eq!(lane.apart.as_ref().map(|apart| apart.since.len()), Some(1));
    }
}
