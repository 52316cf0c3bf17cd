//! An obvious admission, by linear scans, and random stories told to it and to the real one: both must choose the same.

use std::cmp::Reverse;

use proptest::prelude::*;

use super::{tests::definition, *};

/// Everything in plain lists.
struct Model {
    limit: u32,
    agent_limits: BTreeMap<&'static str, u32>,
    patience: u64,
    definitions: Vec<Arc<Definition>>,
    live: Vec<AttemptKey>,
    queued: Vec<(ExecutionId, TaskIndex, Elapsed)>,
    /// Executions with queued tasks of each class; the front is next.
    turns: [Vec<ExecutionId>; 4],
    ordinary: u8,
}

impl Model {
    fn definition(&self, execution: ExecutionId) -> &Arc<Definition> {
        &self.definitions[usize::try_from(execution.0).expect("few")]
    }

    /// Class, agent and group of a task.
    fn labels(&self, execution: ExecutionId, task: TaskIndex) -> (Priority, &str, &str) {
        let spec = self.definition(execution).task(task);
        (spec.priority, &spec.agent_id, &spec.parallel_group)
    }

    /// How many limits have no room for a task.
    fn full_limits(&self, execution: ExecutionId, task: TaskIndex) -> usize {
        let (_, agent, group) = self.labels(execution, task);
        let own = &self.definition(execution).spec().concurrency_limits;
        let count = |holds: &dyn Fn(&AttemptKey) -> bool| self.live.iter().filter(|key| holds(key)).count();
        let is_agent = |key: &AttemptKey| self.labels(key.execution, key.task).1 == agent;
        let is_group = |key: &AttemptKey| self.labels(key.execution, key.task).2 == group;
        let is_own = |key: &AttemptKey| key.execution == execution;
        let own_agent = own.get(agent).filter(|_| !agent.is_empty());
        let own_group = own.get(&format!("group:{group}")).filter(|_| !group.is_empty());
        let limits = [
            (Some(&self.limit), self.live.len()),
            (self.agent_limits.get(agent), count(&is_agent)),
            (own.get("*"), count(&is_own)),
            (own_agent, count(&|key| is_own(key) && is_agent(key))),
            (own_group, count(&|key| is_own(key) && is_group(key))),
        ];
        limits.into_iter().filter(|(most, held)| most.is_some_and(|most| *held >= *most as usize)).count()
    }

    fn admissible(&self) -> impl Iterator<Item = &(ExecutionId, TaskIndex, Elapsed)> {
        self.queued.iter().filter(|(execution, task, _)| self.full_limits(*execution, *task) == 0)
    }

    fn overdue(&self, now: Elapsed) -> Option<(ExecutionId, TaskIndex)> {
        let by_age = |(execution, task, since): &&(ExecutionId, TaskIndex, Elapsed)| {
            (*since, Reverse(self.labels(*execution, *task).0), *execution, *task)
        };
        let (execution, task, since) = self.admissible().min_by_key(by_age)?;
        (self.ordinary == 3 && now.0 - since.0 > self.patience).then_some((*execution, *task))
    }

    fn next(&self, now: Elapsed) -> Option<(ExecutionId, TaskIndex)> {
        let by_order = |(execution, task, _): &&(ExecutionId, TaskIndex, Elapsed)| {
            let class = self.labels(*execution, *task).0;
            (class, self.turns[class as usize].iter().position(|other| other == execution), *task)
        };
        let ordinary = || self.admissible().min_by_key(by_order).map(|(execution, task, _)| (*execution, *task));
        self.overdue(now).or_else(ordinary)
    }

    fn enqueue(&mut self, execution: ExecutionId, task: TaskIndex, since: Elapsed) {
        if self.queued.iter().all(|(of, other, _)| (*of, *other) != (execution, task)) {
            self.queued.push((execution, task, since));
            let class = self.labels(execution, task).0;
            let line = &mut self.turns[class as usize];
            if !line.contains(&execution) {
                line.push(execution);
            }
        }
    }

    fn admit(&mut self, attempt: AttemptKey, now: Elapsed) {
        let AttemptKey { execution, task, .. } = attempt;
        self.ordinary = if self.overdue(now) == Some((execution, task)) { 0 } else { 3.min(self.ordinary + 1) };
        self.withdraw(|of, other| (of, other) == (execution, task));
        let class = self.labels(execution, task).0 as usize;
        if let Some(position) = self.turns[class].iter().position(|other| *other == execution) {
            self.turns[class].remove(position);
            self.turns[class].push(execution);
        }
        self.live.push(attempt);
    }

    fn withdraw(&mut self, which: impl Fn(ExecutionId, TaskIndex) -> bool) {
        self.queued.retain(|(execution, task, _)| !which(*execution, *task));
        let left: Vec<_> =
            self.queued.iter().map(|(execution, task, _)| (self.labels(*execution, *task).0, *execution)).collect();
        for (class, line) in self.turns.iter_mut().enumerate() {
            line.retain(|execution| left.iter().any(|(of, other)| *of as usize == class && other == execution));
        }
    }
}

/// What may happen. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Operation {
    Enqueue { execution: usize, task: usize, ago: u64 },
    EnqueueAll { execution: usize },
    Admit { most: usize },
    FoundAlive { execution: usize, task: usize },
    Release { live: usize },
    Withdraw { execution: usize },
    WithdrawTask { execution: usize, task: usize },
    SetLimit { limit: u32 },
    SetAgentLimit { agent: &'static str, limit: Option<u32> },
    Pass { micros: u64 },
}

const AGENTS: [&str; 3] = ["claude", "codex", "nobody-else"];

fn operation() -> impl Strategy<Value = Operation> {
    let execution = || 0..4_usize;
    let agent = prop::sample::select(AGENTS.to_vec());
    prop_oneof![
        6 => (execution(), 0..64_usize, 0..30_u64)
            .prop_map(|(execution, task, ago)| Operation::Enqueue { execution, task, ago }),
        2 => execution().prop_map(|execution| Operation::EnqueueAll { execution }),
        8 => (1..6_usize).prop_map(|most| Operation::Admit { most }),
        1 => (execution(), 0..64_usize).prop_map(|(execution, task)| Operation::FoundAlive { execution, task }),
        8 => (0..64_usize).prop_map(|live| Operation::Release { live }),
        1 => execution().prop_map(|execution| Operation::Withdraw { execution }),
        2 => (execution(), 0..64_usize).prop_map(|(execution, task)| Operation::WithdrawTask { execution, task }),
        1 => (0..8_u32).prop_map(|limit| Operation::SetLimit { limit }),
        2 => (agent, prop::option::of(0..4_u32))
            .prop_map(|(agent, limit)| Operation::SetAgentLimit { agent, limit }),
        3 => (1..20_u64).prop_map(|micros| Operation::Pass { micros }),
    ]
}

fn any_definition() -> impl Strategy<Value = Arc<Definition>> {
    let class = prop::sample::select(vec!["critical", "high", "medium", "low"]);
    let agent = prop::sample::select(vec!["", "claude", "codex"]);
    let group = prop::sample::select(vec!["", "gpu", "disk", "unlimited"]);
    let tasks = prop::collection::vec((class, agent, group), 1..10);
    let key = prop::sample::select(vec!["*", "claude", "codex", "group:gpu", "group:disk"]);
    let limits = prop::collection::btree_map(key, 0..4_u32, 0..4);
    (tasks, limits).prop_map(|(tasks, limits)| {
        let tasks: Vec<_> = tasks.iter().map(|(class, agent, group)| format!("{class} {agent} {group}")).collect();
        let tasks: Vec<&str> = tasks.iter().map(String::as_str).collect();
        definition(&tasks, &limits.into_iter().collect::<Vec<_>>())
    })
}

/// The real one and the model, told the same.
struct Both {
    real: Admission,
    model: Model,
    now: Elapsed,
    attempts: u32,
}

impl Both {
    fn new(limit: u32, definitions: Vec<Arc<Definition>>) -> Self {
        const PATIENCE: u64 = 20;
        let mut real = Admission::new(limit);
        real.set_patience(PATIENCE);
        let model = Model {
            limit,
            agent_limits: BTreeMap::new(),
            patience: PATIENCE,
            definitions,
            live: Vec::new(),
            queued: Vec::new(),
            turns: Default::default(),
            ordinary: 0,
        };
        Self { real, model, now: Elapsed(1_000), attempts: 0 }
    }

    fn task(&self, execution: usize, task: usize) -> (ExecutionId, TaskIndex) {
        let tasks = self.model.definitions[execution].task_count();
        (ExecutionId(execution as u128), TaskIndex::try_from(task % tasks).expect("few"))
    }

    fn attempt(&mut self, (execution, task): (ExecutionId, TaskIndex)) -> AttemptKey {
        self.attempts += 1;
        AttemptKey { execution, task, attempt: self.attempts }
    }

    fn enqueue(&mut self, (execution, task): (ExecutionId, TaskIndex), since: Elapsed) {
        let definition = Arc::clone(self.model.definition(execution));
        self.real.enqueue(execution, task, &definition, since);
        self.model.enqueue(execution, task, since);
    }

    fn tell(&mut self, operation: Operation) {
        match operation {
            Operation::Enqueue { execution, task, ago } => {
                self.enqueue(self.task(execution, task), Elapsed(self.now.0 - ago));
            }
            Operation::EnqueueAll { execution } => {
                for task in 0..self.model.definitions[execution].task_count() {
                    self.enqueue(self.task(execution, task), self.now);
                }
            }
            Operation::Admit { most } => (0..most).for_each(|_| self.admit()),
            Operation::FoundAlive { execution, task } => {
                let attempt = self.attempt(self.task(execution, task));
                self.real.found_alive(attempt, self.model.definition(attempt.execution));
                self.model.live.push(attempt);
            }
            Operation::Release { live } if !self.model.live.is_empty() => {
                let attempt = self.model.live.swap_remove(live % self.model.live.len());
                self.real.release(attempt);
            }
            Operation::Release { .. } => {}
            Operation::Withdraw { execution } => {
                let id = ExecutionId(execution as u128);
                self.real.withdraw(id);
                self.model.withdraw(|of, _| of == id);
            }
            Operation::WithdrawTask { execution, task } => {
                let (id, task) = self.task(execution, task);
                self.real.withdraw_task(id, task);
                self.model.withdraw(|of, other| (of, other) == (id, task));
            }
            Operation::SetLimit { limit } => {
                self.real.set_limit(limit);
                self.model.limit = limit;
            }
            Operation::SetAgentLimit { agent, limit } => {
                self.real.set_agent_limit(agent, limit);
                self.model.agent_limits.remove(agent);
                self.model.agent_limits.extend(limit.map(|limit| (agent, limit)));
            }
            Operation::Pass { micros } => self.now.0 += micros,
        }
    }

    fn admit(&mut self) {
        let chosen = self.real.next(self.now);
        assert_eq!(chosen, self.model.next(self.now), "the same choice; none only if nothing has room");
        if let Some((execution, task)) = chosen {
            assert_eq!(self.model.full_limits(execution, task), 0, "no limit is exceeded");
            let attempt = self.attempt((execution, task));
            self.real.admit(attempt, self.now);
            self.model.admit(attempt, self.now);
        }
    }

    fn agree(&self) {
        let Self { real, model, now, .. } = self;
        assert_eq!(real.next(*now), model.next(*now));
        assert_eq!((real.queued(), real.running()), (model.queued.len(), model.live.len()));
        let limits: Vec<_> = model.agent_limits.iter().map(|(agent, limit)| (*agent, *limit)).collect();
        assert_eq!(real.agent_limits().collect::<Vec<_>>(), limits);
        for execution in (0..).map(ExecutionId).take(model.definitions.len()) {
            let queued = model.queued.iter().any(|(of, ..)| *of == execution);
            let live = model.live.iter().filter(|key| key.execution == execution).count();
            assert_eq!((real.concerns(execution), real.live_of(execution).count()), (queued || live > 0, live));
            let definition = model.definition(execution);
            for task in (0..).take(definition.task_count()) {
                let reached = real.blockers(execution, task, definition);
                assert_eq!(reached.len(), model.full_limits(execution, task), "{reached:?}");
                for LimitReached { most, holders, held, .. } in reached {
                    assert!(held >= most as usize && holders.len() == held.min(NAMED_HOLDERS));
                    assert!(holders.iter().all(|holder| model.live.contains(holder)));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_choice_is_that_of_an_obvious_model(
        limit in 1..8_u32,
        definitions in prop::collection::vec(any_definition(), 4),
        operations in prop::collection::vec(operation(), 1..120),
    ) {
        // S-PAR-1, S-PAR-3, S-PAR-4
        let mut both = Both::new(limit, definitions);
        for operation in operations {
            both.tell(operation);
            both.agree();
        }
        // Limits aside, everything that waits can start, and nothing is left behind.
        both.tell(Operation::SetLimit { limit: 1_000 });
        for agent in AGENTS {
            both.tell(Operation::SetAgentLimit { agent, limit: None });
        }
        while !both.model.live.is_empty() || both.model.next(both.now).is_some() {
            both.admit();
            both.tell(Operation::Release { live: 0 });
            both.agree();
        }
        for execution in 0..4 {
            both.tell(Operation::Withdraw { execution });
        }
        both.agree();
        let Admission { members, lanes, agents, .. } = both.real;
        assert!(members.is_empty() && lanes.is_empty() && agents.is_empty(), "{members:?} {lanes:?} {agents:?}");
    }
}
