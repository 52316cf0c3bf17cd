//! The agents: how much room each has, and which queued task goes first among those of all agents that have room.
//!
//! Every lane whose execution has room for it stands in the lines of its agent, once by turn and once by age. Only the
//! head of an agent's line stands in the lines of all agents, and only while the agent has room. So an agent that is
//! full or free moves its heads and nothing else, however many wait behind them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::limits::{self, LimitName, LimitReached};
use crate::machine::{
    ids::{AttemptKey, Elapsed, ExecutionId, TaskIndex},
    workflow::Priority,
};

/// An agent's number, while it has a limit, a live attempt or a queued task.
pub(super) type AgentIndex = u32;

/// Whose turn it is: the lowest is next. No two executions of a class have the same.
pub(super) type Turn = u64;

/// Where a task stands among those that wait longest. Of the same age, the lower class is first, since the higher one has
/// all the other admissions; then the older execution, then definition order.
type Age = (Elapsed, Reverse<Priority>, ExecutionId, TaskIndex);

/// Where a lane stands in the lines of its agent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Place {
    pub(super) agent: AgentIndex,
    pub(super) class: Priority,
    pub(super) turn: Turn,
    pub(super) execution: ExecutionId,
    /// The lane's first task in definition order.
    pub(super) next: TaskIndex,
    /// The lane's longest-waiting task.
    pub(super) oldest: (Elapsed, TaskIndex),
}

/// All agents, and the lines of those that have room.
#[derive(Clone, Debug, Default)]
pub(super) struct Agents {
    names: BTreeMap<Arc<str>, AgentIndex>,
    agents: Vec<Agent>,
    /// Numbers that nobody has.
    unused: Vec<AgentIndex>,
    /// Heads by turn, of each class.
    by_turn: [BTreeSet<(Turn, TaskIndex, AgentIndex)>; CLASSES],
    /// Heads by age.
    by_age: BTreeSet<(Age, AgentIndex)>,
    /// What time it is.
    pub(super) now: Elapsed,
    /// How often something was moved in a line: what the tests hold the cost of an operation to.
    #[cfg(test)]
    pub(super) moves: u64,
}

/// An agent. Without a name it is nobody: the tasks that have none.
#[derive(Clone, Debug, Default)]
struct Agent {
    name: Arc<str>,
    limit: Option<u32>,
    live: BTreeSet<AttemptKey>,
    /// When it last had room again.
    freed: Option<Elapsed>,
    /// Lanes that are its own, listed or not.
    lanes: usize,
    by_turn: [BTreeMap<(Turn, TaskIndex), ExecutionId>; CLASSES],
    by_age: BTreeSet<Age>,
}

/// The first of each line; none while the agent has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Heads {
    by_turn: [Option<(Turn, TaskIndex)>; CLASSES],
    by_age: Option<Age>,
}

const CLASSES: usize = 4;

impl Agents {
    /// Whether nothing is known about any agent.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let Self { names, agents, unused, by_turn, by_age, .. } = self;
        names.is_empty() && unused.len() == agents.len() && by_turn.iter().all(BTreeSet::is_empty) && by_age.is_empty()
    }

    /// The number of an agent that has one.
    pub(super) fn index_of(&self, name: &str) -> Option<AgentIndex> {
        self.names.get(name).copied()
    }

    /// The number of an agent, which has one from now on.
    pub(super) fn enter(&mut self, name: &str) -> AgentIndex {
        if let Some(index) = self.index_of(name) {
            return index;
        }
        let name = Arc::<str>::from(name);
        let agent = Agent { name: Arc::clone(&name), ..Agent::default() };
        let index = match self.unused.pop() {
            Some(index) => {
                self.agents[index as usize] = agent;
                index
            }
            None => {
                self.agents.push(agent);
                AgentIndex::try_from(self.agents.len() - 1).expect("no more agents than tasks in memory")
            }
        };
        self.names.insert(name, index);
        index
    }

    /// Forgets an agent about whom there is nothing to know.
    pub(super) fn leave_if_unused(&mut self, index: AgentIndex) {
        let agent = &mut self.agents[index as usize];
        if agent.limit.is_none() && agent.live.is_empty() && agent.lanes == 0 {
            self.names.remove(&agent.name);
            *agent = Agent::default();
            self.unused.push(index);
        }
    }

    /// Agents that have a limit, by name.
    pub(super) fn limits(&self) -> impl Iterator<Item = (&str, u32)> {
        let limit = |index: AgentIndex| self.agents[index as usize].limit;
        self.names.iter().filter_map(move |(name, &index)| Some((&**name, limit(index)?)))
    }

    /// How many attempts of an agent live.
    pub(super) fn live_of(&self, name: &str) -> usize {
        self.index_of(name).map_or(0, |index| self.agents[index as usize].live.len())
    }

    /// Gives an agent a limit, or takes it away.
    pub(super) fn set_limit(&mut self, index: AgentIndex, limit: Option<u32>) {
        self.change(index, |agent| agent.limit = limit);
    }

    /// One more lane is the agent's.
    pub(super) fn add_lane(&mut self, index: AgentIndex) {
        self.agents[index as usize].lanes += 1;
    }

    /// One lane less.
    pub(super) fn remove_lane(&mut self, index: AgentIndex) {
        self.agents[index as usize].lanes -= 1;
    }

    /// An attempt of the agent lives.
    pub(super) fn occupy(&mut self, index: AgentIndex, attempt: AttemptKey) {
        self.change(index, |agent| agent.live.insert(attempt));
    }

    /// It is over.
    pub(super) fn release(&mut self, index: AgentIndex, attempt: AttemptKey) {
        self.change(index, |agent| agent.live.remove(&attempt));
    }

    /// A lane stands elsewhere in the lines of its agent, or not at all: `None`.
    pub(super) fn replace(&mut self, before: Option<Place>, after: Option<Place>) {
        if before == after {
            return;
        }
        let Some(agent) = before.or(after).map(|place| place.agent) else { return };
        self.change(agent, |agent| {
            if let Some(place) = before {
                agent.by_turn[place.class as usize].remove(&(place.turn, place.next));
                agent.by_age.remove(&place.age());
            }
            if let Some(place) = after {
                agent.by_turn[place.class as usize].insert((place.turn, place.next), place.execution);
                agent.by_age.insert(place.age());
            }
        });
    }

    /// The agent's limit, if it is what holds a task up.
    pub(super) fn reached(&self, name: &str) -> Option<LimitReached> {
        self.agents[self.index_of(name)? as usize].reached()
    }

    /// When an agent that was full last had room again.
    pub(super) fn freed(&self, name: &str) -> Option<(Elapsed, LimitName)> {
        let freed = self.agents[self.index_of(name)? as usize].freed?;
        Some((freed, LimitName::Agent(name.to_string())))
    }

    /// Of all lanes in line whose agent has room: the first task by class, turn and definition order.
    pub(super) fn next(&self) -> Option<(ExecutionId, TaskIndex)> {
        let class = self.by_turn.iter().position(|line| !line.is_empty())?;
        let &(turn, task, index) = self.by_turn[class].first()?;
        let execution = self.agents[index as usize].by_turn[class].get(&(turn, task))?;
        Some((*execution, task))
    }

    /// The same by age, and since when it waits.
    pub(super) fn oldest(&self) -> Option<(Elapsed, (ExecutionId, TaskIndex))> {
        let ((since, _, execution, task), _) = self.by_age.first()?;
        Some((*since, (*execution, *task)))
    }

    /// Changes an agent, and moves its heads if they are others than before.
    fn change<R>(&mut self, index: AgentIndex, change: impl FnOnce(&mut Agent) -> R) {
        let agent = &mut self.agents[index as usize];
        let (had_room, before) = (agent.has_room(), agent.heads());
        change(agent);
        if !had_room && agent.has_room() {
            agent.freed = Some(self.now);
        }
        let after = agent.heads();
        #[cfg(test)]
        {
            self.moves += 1;
        }
        if before == after {
            return;
        }
        for (line, (before, after)) in self.by_turn.iter_mut().zip(before.by_turn.into_iter().zip(after.by_turn)) {
            replace(
                line,
                before.map(|(turn, task)| (turn, task, index)),
                after.map(|(turn, task)| (turn, task, index)),
            );
        }
        replace(&mut self.by_age, before.by_age.map(|age| (age, index)), after.by_age.map(|age| (age, index)));
    }
}

fn replace<T: Ord + Copy>(line: &mut BTreeSet<T>, before: Option<T>, after: Option<T>) {
    if before != after {
        before.inspect(|head| _ = line.remove(head));
        line.extend(after);
    }
}

impl Agent {
    fn reached(&self) -> Option<LimitReached> {
        LimitReached::of(|| LimitName::Agent(self.name.to_string()), self.limit?, &self.live)
    }

    fn has_room(&self) -> bool {
        self.limit.is_none_or(|most| limits::has_room(most, &self.live))
    }

    fn heads(&self) -> Heads {
        if !self.has_room() {
            return Heads::default();
        }
        let mut by_turn = [None; CLASSES];
        for (head, line) in by_turn.iter_mut().zip(&self.by_turn) {
            *head = line.first_key_value().map(|(key, _)| *key);
        }
        Heads { by_turn, by_age: self.by_age.first().copied() }
    }
}

impl Place {
    fn age(&self) -> Age {
        (self.oldest.0, Reverse(self.class), self.execution, self.oldest.1)
    }
}
