//! Limits: what each is called, who holds its slots, and whether it has room. One answer for admitting and explaining.

use std::{array, collections::BTreeSet, iter::Flatten, sync::Arc};

use crate::machine::{
    ids::{AttemptKey, Elapsed},
    workflow::{Definition, TaskSpec},
};

/// Most holders that are named of one limit.
pub const NAMED_HOLDERS: usize = 10;

/// Which limit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LimitName {
    /// Of the whole daemon.
    Global,
    /// Of an agent, over all executions.
    Agent(String),
    /// Of all tasks of the execution: `*`.
    ExecutionAll,
    /// Of an agent's tasks in the execution.
    ExecutionAgent(String),
    /// Of a parallel group in the execution.
    ExecutionGroup(String),
}

/// A limit that has no room, and who holds its slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitReached {
    /// Which.
    pub limit: LimitName,
    /// Most attempts alive at once under it.
    pub most: u32,
    /// The first [`NAMED_HOLDERS`] of them, in the order of their keys.
    pub holders: Vec<AttemptKey>,
    /// How many there are: more than `most` where the limit was lowered.
    pub held: usize,
}

impl LimitReached {
    /// `None` where the limit has room.
    pub(super) fn of(name: impl FnOnce() -> LimitName, most: u32, live: &BTreeSet<AttemptKey>) -> Option<Self> {
        (!has_room(most, live)).then(|| Self {
            limit: name(),
            most,
            holders: live.iter().take(NAMED_HOLDERS).copied().collect(),
            held: live.len(),
        })
    }
}

/// Whether one more attempt may live.
pub(super) fn has_room(most: u32, live: &BTreeSet<AttemptKey>) -> bool {
    live.len() < most as usize
}

/// The limits that one execution has of its own, sorted by their keys.
#[derive(Clone, Debug)]
pub(super) struct OwnLimits(Box<[OwnLimit]>);

#[derive(Clone, Debug)]
struct OwnLimit {
    /// An agent id, `group:<name>` or `*`.
    key: Arc<str>,
    most: u32,
    live: BTreeSet<AttemptKey>,
    /// When it last had room again.
    freed: Option<Elapsed>,
}

const ALL: &str = "*";
const GROUP: &str = "group:";

impl OwnLimits {
    /// The limits of a definition, with nobody in them.
    pub(super) fn of(definition: &Definition) -> Self {
        let limits = definition.spec().concurrency_limits.iter();
        Self(
            limits
                .map(|(key, &most)| OwnLimit { key: key.as_str().into(), most, live: BTreeSet::new(), freed: None })
                .collect(),
        )
    }

    /// Which limit the group of a task has, counted from 1; 0: none.
    pub(super) fn group_of(&self, task: &TaskSpec) -> u32 {
        let position = self.position(GROUP, &task.parallel_group);
        position.map_or(0, |position| u32::try_from(position + 1).expect("fewer limits than bytes of a definition"))
    }

    /// Whether all of them have room for a task.
    pub(super) fn have_room(&self, task: &TaskSpec) -> bool {
        self.applying(task).all(|position| self.0[position].has_room())
    }

    /// Those that have no room for a task.
    pub(super) fn reached(&self, task: &TaskSpec) -> impl Iterator<Item = LimitReached> {
        self.applying(task).filter_map(|position| {
            let OwnLimit { key, most, live, .. } = &self.0[position];
            LimitReached::of(|| name(key), *most, live)
        })
    }

    /// Those that apply to a task and were full before, with when each last had room again.
    pub(super) fn freed(&self, task: &TaskSpec) -> impl Iterator<Item = (Elapsed, LimitName)> {
        self.applying(task).filter_map(|position| {
            let limit = &self.0[position];
            Some((limit.freed?, name(&limit.key)))
        })
    }

    /// Takes a slot of each that applies. Whether one of them is full by it.
    pub(super) fn occupy(&mut self, task: &TaskSpec, attempt: AttemptKey, now: Elapsed) -> bool {
        self.change(task, now, |limit| limit.live.insert(attempt))
    }

    /// Gives the slots back. Whether one of them has room by it.
    pub(super) fn release(&mut self, task: &TaskSpec, attempt: AttemptKey, now: Elapsed) -> bool {
        self.change(task, now, |limit| limit.live.remove(&attempt))
    }

    /// Whether one of those that apply has room now and had none, or the other way round.
    fn change(&mut self, task: &TaskSpec, now: Elapsed, mut change: impl FnMut(&mut OwnLimit) -> bool) -> bool {
        let mut toggled = false;
        for position in self.applying(task) {
            let limit = &mut self.0[position];
            let before = limit.has_room();
            change(limit);
            if !before && limit.has_room() {
                limit.freed = Some(now);
            }
            toggled |= limit.has_room() != before;
        }
        toggled
    }

    /// Positions of the limits that apply to a task.
    fn applying(&self, task: &TaskSpec) -> Flatten<array::IntoIter<Option<usize>, 3>> {
        // No agent id and no group looks like another's key: both have neither `*` nor `:`.
        let all = self.position("", ALL);
        let agent = self.position("", &task.agent_id);
        let group = self.position(GROUP, &task.parallel_group);
        [all, agent, group].into_iter().flatten()
    }

    /// Where the limit of a name is. Nobody is meant by an empty name.
    fn position(&self, prefix: &str, name: &str) -> Option<usize> {
        if self.0.is_empty() || name.is_empty() {
            return None;
        }
        let wanted = || prefix.bytes().chain(name.bytes());
        self.0.binary_search_by(|limit| limit.key.bytes().cmp(wanted())).ok()
    }
}

impl OwnLimit {
    fn has_room(&self) -> bool {
        has_room(self.most, &self.live)
    }
}

fn name(key: &str) -> LimitName {
    match key.strip_prefix(GROUP) {
        Some(group) => LimitName::ExecutionGroup(group.to_string()),
        None if key == ALL => LimitName::ExecutionAll,
        None => LimitName::ExecutionAgent(key.to_string()),
    }
}
