//! Who may start next: the queue of ready tasks, the limits, and the slots they need (S-PAR).
//!
//! A slot is a live attempt, never a counter, so that limits are exact after a restart. The order is: strict priority
//! classes; within one, round robin over executions; within one execution, definition order. Once tasks have waited
//! longer than the patience, every fourth admission goes to the longest-waiting one that has room.
//!
//! Queued tasks stand in *lanes* (`lane.rs`): those of one execution, class, agent and limited group, which the same
//! limits hold up. A lane whose execution has room for it (`limits.rs`) stands in the lines of its agent, and the heads
//! of all agents that have room in one line (`agents.rs`), whose first is the answer. So an operation costs the lanes of
//! the one execution it touches, and the logarithm of the rest. It does not know why a task is ready, nor what running
//! it means.

mod agents;
mod lane;
mod limits;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

pub use self::limits::{LimitName, LimitReached, NAMED_HOLDERS};
use self::{
    agents::{AgentIndex, Agents, Place, Turn},
    lane::Lane,
    limits::OwnLimits,
};
use super::{
    ids::{AttemptKey, Elapsed, ExecutionId, TaskIndex},
    workflow::{Definition, Priority},
};

/// How long a task waits before those that wait longest have every fourth admission, in microseconds: 10 minutes.
pub const DEFAULT_PATIENCE_MICROS: u64 = 10 * 60 * 1_000_000;

/// Admissions by the ordinary order between two that go to the longest-waiting task.
const ORDINARY_BETWEEN: u8 = 3;

/// Tasks that run and tasks that wait for a slot.
#[derive(Clone, Debug)]
pub struct Admission {
    /// Most attempts alive at once.
    limit: u32,
    patience_micros: u64,
    live: BTreeSet<AttemptKey>,
    /// When the limit last had room again.
    freed: Option<Elapsed>,
    members: BTreeMap<ExecutionId, Member>,
    lanes: BTreeMap<(ExecutionId, LaneKey), Lane>,
    agents: Agents,
    next_turn: Turn,
    /// Admissions by the ordinary order since the last by age; no more than [`ORDINARY_BETWEEN`] are counted.
    ordinary: u8,
    /// Tasks in all lanes.
    queued: usize,
}

/// An execution of which something is queued or alive.
#[derive(Clone, Debug)]
struct Member {
    definition: Arc<Definition>,
    limits: OwnLimits,
    /// Per class: whose turn it is. It means something only while tasks are queued in that class.
    turns: [Turn; 4],
    /// Per class: how many tasks are queued.
    queued: [u32; 4],
}

/// Which lane of an execution. The class comes first, so that the lanes of one class are neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LaneKey {
    class: Priority,
    agent: AgentIndex,
    /// See [`OwnLimits::group_of`]: groups without a limit are all alike.
    group: u32,
}

impl Admission {
    /// Nothing runs and nothing waits; at most `limit` attempts live at once.
    pub fn new(limit: u32) -> Self {
        Self {
            limit,
            patience_micros: DEFAULT_PATIENCE_MICROS,
            live: BTreeSet::new(),
            freed: None,
            members: BTreeMap::new(),
            lanes: BTreeMap::new(),
            agents: Agents::default(),
            next_turn: 0,
            ordinary: 0,
            queued: 0,
        }
    }

    /// Most attempts alive at once.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Changes that. It holds at once, and stops nothing that lives.
    pub fn set_limit(&mut self, limit: u32) {
        let had_room = self.has_room();
        self.limit = limit;
        self.note_room(had_room);
    }

    /// What time it is, of all that follows: when limits have room again is remembered.
    pub fn at(&mut self, now: Elapsed) {
        self.agents.now = now;
    }

    fn note_room(&mut self, had_room: bool) {
        if !had_room && self.has_room() {
            self.freed = Some(self.agents.now);
        }
    }

    /// Agents that have a limit of their own, by name.
    pub fn agent_limits(&self) -> impl Iterator<Item = (&str, u32)> {
        self.agents.limits()
    }

    /// Attempts of an agent that are alive.
    pub fn running_of(&self, agent: &str) -> usize {
        self.agents.live_of(agent)
    }

    /// Gives an agent a limit over all executions, or takes it away. It holds at once, and stops nothing that lives.
    pub fn set_agent_limit(&mut self, agent: &str, limit: Option<u32>) {
        let index = self.agents.enter(agent);
        self.agents.set_limit(index, limit);
        self.agents.leave_if_unused(index);
    }

    /// How long a task waits before those that wait longest have every fourth admission, in microseconds.
    pub fn set_patience(&mut self, micros: u64) {
        self.patience_micros = micros;
    }

    /// Attempts alive.
    pub fn running(&self) -> usize {
        self.live.len()
    }

    /// Tasks that wait for a slot.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// The task that starts next; `None` while nothing waits for which all limits have room.
    pub fn next(&self, now: Elapsed) -> Option<(ExecutionId, TaskIndex)> {
        if !self.has_room() {
            return None;
        }
        self.overdue(now).or_else(|| self.agents.next())
    }

    /// The task that starts next because of its age.
    fn overdue(&self, now: Elapsed) -> Option<(ExecutionId, TaskIndex)> {
        let (since, task) = self.agents.oldest()?;
        let waited = now.0.saturating_sub(since.0);
        (self.ordinary >= ORDINARY_BETWEEN && waited > self.patience_micros).then_some(task)
    }

    fn has_room(&self) -> bool {
        limits::has_room(self.limit, &self.live)
    }

    /// A task of an execution of this definition waits for a slot, `since` then. One that is queued already stays as it
    /// is.
    pub fn enqueue(&mut self, execution: ExecutionId, task: TaskIndex, definition: &Arc<Definition>, since: Elapsed) {
        let member = self.members.entry(execution).or_insert_with(|| Member::new(definition));
        let spec = member.definition.task(task);
        let class = spec.priority as usize;
        let agent = self.agents.enter(&spec.agent_id);
        let key = LaneKey { class: spec.priority, agent, group: member.limits.group_of(spec) };
        let lane = match self.lanes.entry((execution, key)) {
            Entry::Occupied(lane) => lane.into_mut(),
            Entry::Vacant(vacant) => {
                self.agents.add_lane(agent);
                vacant.insert(Lane::empty(member.limits.have_room(spec)))
            }
        };
        let before = Place::of(execution, key, member, lane);
        if !lane.insert(task, since) {
            return;
        }
        if member.queued[class] == 0 {
            member.turns[class] = self.next_turn;
            self.next_turn += 1;
        }
        member.queued[class] += 1;
        self.queued += 1;
        self.agents.replace(before, Place::of(execution, key, member, lane));
    }

    /// A task got its slot, and leaves its queue; the next turn is another execution's.
    pub fn admit(&mut self, attempt: AttemptKey, now: Elapsed) {
        let AttemptKey { execution, task, .. } = attempt;
        let by_age = self.overdue(now) == Some((execution, task));
        self.ordinary = if by_age { 0 } else { (self.ordinary + 1).min(ORDINARY_BETWEEN) };
        if let Some(key) = self.take(execution, task) {
            self.end_turn(execution, key.class);
        }
        self.occupy(attempt);
    }

    /// An attempt that lives already, found at recovery.
    pub fn found_alive(&mut self, attempt: AttemptKey, definition: &Arc<Definition>) {
        self.members.entry(attempt.execution).or_insert_with(|| Member::new(definition));
        self.occupy(attempt);
    }

    /// An attempt is over: its slots are free.
    pub fn release(&mut self, attempt: AttemptKey) {
        let AttemptKey { execution, task, .. } = attempt;
        let had_room = self.has_room();
        self.live.remove(&attempt);
        self.note_room(had_room);
        let now = self.agents.now;
        let Some(member) = self.members.get_mut(&execution) else { return };
        let spec = member.definition.task(task);
        let has_room = member.limits.release(spec, attempt, now);
        if let Some(agent) = self.agents.index_of(&spec.agent_id) {
            self.agents.release(agent, attempt);
            self.agents.leave_if_unused(agent);
        }
        if has_room {
            self.relist(execution);
        }
        self.leave_if_idle(execution);
    }

    /// No task of this execution waits any more: it is paused or cancelled. What lives of it keeps its slots.
    pub fn withdraw(&mut self, execution: ExecutionId) {
        let Some(member) = self.members.get_mut(&execution) else { return };
        let keys: Vec<LaneKey> = lanes_of(&self.lanes, execution).map(|(key, _)| key).collect();
        for key in keys {
            let Some(lane) = self.lanes.remove(&(execution, key)) else { continue };
            self.queued -= lane.len();
            self.agents.replace(Place::of(execution, key, member, &lane), None);
            self.agents.remove_lane(key.agent);
            self.agents.leave_if_unused(key.agent);
        }
        member.queued = [0; 4];
        self.leave_if_idle(execution);
    }

    /// A task waits no more, without having started.
    pub fn withdraw_task(&mut self, execution: ExecutionId, task: TaskIndex) {
        if let Some(key) = self.take(execution, task) {
            self.agents.leave_if_unused(key.agent);
            self.leave_if_idle(execution);
        }
    }

    /// The limits that have no room now for a task of an execution of this definition, queued or not. None: it waits
    /// only for its turn.
    pub fn blockers(&self, execution: ExecutionId, task: TaskIndex, definition: &Definition) -> Vec<LimitReached> {
        let spec = definition.task(task);
        let unused;
        let own = match self.members.get(&execution) {
            Some(member) => &member.limits,
            None => {
                unused = OwnLimits::of(definition);
                &unused
            }
        };
        let global = LimitReached::of(|| LimitName::Global, self.limit, &self.live);
        global.into_iter().chain(self.agents.reached(&spec.agent_id)).chain(own.reached(spec)).collect()
    }

    /// The limit that held up a task which has waited since then, and has room now: the one that was full the longest.
    /// Of several that had room again at once, the narrowest. `None`: no limit was full meanwhile.
    pub fn held_up_by(&self, execution: ExecutionId, task: TaskIndex, since: Elapsed) -> Option<LimitName> {
        let member = self.members.get(&execution)?;
        let spec = member.definition.task(task);
        let global = self.freed.map(|freed| (freed, LimitName::Global));
        let all = global.into_iter().chain(self.agents.freed(&spec.agent_id)).chain(member.limits.freed(spec));
        all.filter(|(freed, _)| *freed > since).max_by_key(|(freed, _)| *freed).map(|(_, name)| name)
    }

    /// Live attempts of an execution.
    pub fn live_of(&self, execution: ExecutionId) -> impl Iterator<Item = AttemptKey> + '_ {
        let from = AttemptKey { execution, task: 0, attempt: 0 };
        self.live.range(from..).take_while(move |key| key.execution == execution).copied()
    }

    /// All live attempts.
    pub fn live(&self) -> impl Iterator<Item = AttemptKey> + '_ {
        self.live.iter().copied()
    }

    /// Whether a task of this execution runs or waits for a slot.
    pub fn concerns(&self, execution: ExecutionId) -> bool {
        self.members.contains_key(&execution) || self.live_of(execution).next().is_some()
    }

    /// Takes a task from its lane, if it is queued, and says from which.
    fn take(&mut self, execution: ExecutionId, task: TaskIndex) -> Option<LaneKey> {
        let member = self.members.get_mut(&execution)?;
        let spec = member.definition.task(task);
        let agent = self.agents.index_of(&spec.agent_id)?;
        let key = LaneKey { class: spec.priority, agent, group: member.limits.group_of(spec) };
        let lane = self.lanes.get_mut(&(execution, key))?;
        let before = Place::of(execution, key, member, lane);
        if !lane.remove(task) {
            return None;
        }
        self.agents.replace(before, Place::of(execution, key, member, lane));
        if lane.len() == 0 {
            self.lanes.remove(&(execution, key));
            self.agents.remove_lane(agent);
        }
        member.queued[key.class as usize] -= 1;
        self.queued -= 1;
        Some(key)
    }

    /// What an execution has queued in a class stands at the end of the line.
    fn end_turn(&mut self, execution: ExecutionId, class: Priority) {
        let Some(member) = self.members.get_mut(&execution) else { return };
        if member.queued[class as usize] == 0 {
            return;
        }
        let turn = self.next_turn;
        self.next_turn += 1;
        let first = LaneKey { class, agent: 0, group: 0 };
        let lanes = self.lanes.range((execution, first)..);
        for (&(_, key), lane) in lanes.take_while(|((of, key), _)| *of == execution && key.class == class) {
            let before = Place::of(execution, key, member, lane);
            self.agents.replace(before, before.map(|place| Place { turn, ..place }));
        }
        member.turns[class as usize] = turn;
    }

    /// An attempt takes its slots.
    fn occupy(&mut self, attempt: AttemptKey) {
        self.live.insert(attempt);
        // Whoever was never queued nor found has no definition here. It is alive, and that is all that is known.
        let Some(member) = self.members.get_mut(&attempt.execution) else { return };
        let spec = member.definition.task(attempt.task);
        let agent = self.agents.enter(&spec.agent_id);
        self.agents.occupy(agent, attempt);
        if member.limits.occupy(spec, attempt, self.agents.now) {
            self.relist(attempt.execution);
        }
    }

    /// A limit of the execution has room now and had none, or the other way round: its lanes stand in line accordingly.
    fn relist(&mut self, execution: ExecutionId) {
        let Some(member) = self.members.get(&execution) else { return };
        let lanes = self.lanes.range_mut((execution, LaneKey::FIRST)..);
        for (&(_, key), lane) in lanes.take_while(|((of, _), _)| *of == execution) {
            let Some(task) = lane.next() else { continue };
            let before = Place::of(execution, key, member, lane);
            lane.listed = member.limits.have_room(member.definition.task(task));
            self.agents.replace(before, Place::of(execution, key, member, lane));
        }
    }

    /// Forgets an execution of which nothing is queued or alive.
    fn leave_if_idle(&mut self, execution: ExecutionId) {
        let idle = |member: &Member| member.queued == [0; 4];
        if self.members.get(&execution).is_some_and(idle) && self.live_of(execution).next().is_none() {
            self.members.remove(&execution);
        }
    }
}

impl Member {
    fn new(definition: &Arc<Definition>) -> Self {
        let limits = OwnLimits::of(definition);
        Self { definition: Arc::clone(definition), limits, turns: [0; 4], queued: [0; 4] }
    }
}

impl LaneKey {
    const FIRST: Self = Self { class: Priority::Critical, agent: 0, group: 0 };
}

impl Place {
    /// Where a lane stands; `None` where it is empty, or where its execution has no room for it.
    fn of(execution: ExecutionId, key: LaneKey, member: &Member, lane: &Lane) -> Option<Self> {
        if !lane.listed {
            return None;
        }
        let LaneKey { class, agent, .. } = key;
        let (next, oldest) = (lane.next()?, lane.oldest()?);
        Some(Self { agent, class, turn: member.turns[class as usize], execution, next, oldest })
    }
}

fn lanes_of(
    lanes: &BTreeMap<(ExecutionId, LaneKey), Lane>,
    execution: ExecutionId,
) -> impl Iterator<Item = (LaneKey, &Lane)> {
    let own = lanes.range((execution, LaneKey::FIRST)..).take_while(move |((of, _), _)| *of == execution);
    own.map(|((_, key), lane)| (*key, lane))
}
