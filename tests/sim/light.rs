//! The machine over a list of events in memory: as the engine's writer drives it, without rows, files and threads. So it
//! goes through many seeds, and finds what is wrong with the rules and with recovery; `real` is the engine itself.

use std::{collections::BTreeMap, sync::Arc};

use noxd::machine::{
    execution::{Execution, ExecutionStatus, Moves},
    expected::Durations,
    ids::{Actor, AttemptKey, ExecutionId, ScheduleId, TaskIndex, Tick, WorkflowId},
    judgement::TaskResult,
    message::{Command, Content, Effect, Event, Recorded, Rejection, Reply, Trigger, WorkflowRecord},
    schedule::ScheduleRecord,
    state::{Mark, State},
    step::{Machine, Step},
    workflow::Definition,
};

use crate::chance::Chance;

/// An engine whose batches are made one by one.
pub trait Engine {
    /// Takes what is wanted, and makes it durable. `None`: the power failed in it.
    fn batch(&mut self, tick: Tick, held: bool, wants: Vec<(Command, Actor)>) -> Option<Told>;
    /// Lets the power fail somewhere in the next batch, or soon after.
    fn let_power_fail(&mut self, chance: &mut Chance);
    /// Ends it, however it is, and recovers from what is durable. Gives the attempts that it found alive.
    fn restart(&mut self) -> Vec<AttemptKey>;
    /// Everything that is durable.
    fn history(&self) -> Vec<Arc<Recorded>>;
    fn machine(&self) -> &Machine;
    /// What is stored of a schedule.
    fn schedule(&self, id: &ScheduleId) -> Option<ScheduleRecord>;
    /// Whether admission can be held from outside while it runs.
    fn can_be_held(&self) -> bool;
}

/// What a batch let out.
pub struct Told {
    pub answers: Vec<Result<Reply, Rejection>>,
    pub events: Vec<Arc<Recorded>>,
    pub effects: Vec<Effect>,
    /// More schedules are due than one batch looks at.
    pub is_unfinished: bool,
}

/// Steps of schedules in one batch: far fewer than the engine takes, so that an absence goes on in later batches.
pub const SCHEDULES_AT_ONCE: usize = 24;

/// What becomes of the next batch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    /// The power fails before it is durable.
    Lost,
    /// It fails after, and before anybody hears of it.
    Unheard,
}

pub struct Light {
    machine: Machine,
    limit: u32,
    log: Vec<Arc<Recorded>>,
    marks: BTreeMap<ExecutionId, Mark>,
    durations: BTreeMap<(WorkflowId, u64), Durations>,
    schedules: BTreeMap<ScheduleId, ScheduleRecord>,
    fate: Fate,
}

impl Light {
    pub fn new(limit: u32) -> Self {
        let machine = Machine::new(State::new(limit));
        Self {
            machine,
            limit,
            log: Vec::new(),
            marks: BTreeMap::new(),
            durations: BTreeMap::new(),
            schedules: BTreeMap::new(),
            fate: Fate::Kept,
        }
    }

    fn load(&mut self, command: &Command, loaded: &mut Vec<ExecutionId>) {
        let needs = self.machine.state().needs(command);
        for id in needs.workflows {
            self.load_workflow(&id);
        }
        for id in needs.templates {
            let found = self.log.iter().rev().find_map(|recorded| match &recorded.event {
                Event::TemplateChanged { template, record: Some(record), .. } if *template == id => Some(record),
                _ => None,
            });
            if let Some(record) = found.map(|record| record.as_ref().clone()) {
                self.machine.state_mut().load_template(record);
            }
        }
        for id in needs.schedules {
            self.load_schedule(&id);
        }
        for id in needs.executions {
            let Some(execution) = self.execution(id) else { continue };
            if execution.status.is_terminal() {
                self.machine.state_mut().note_ended(id, execution.workflow, execution.status);
            } else {
                self.machine.state_mut().load_execution(execution);
                loaded.push(id);
            }
        }
        for id in needs.sources {
            let held = self.machine.state().execution(id).cloned();
            let Some(source) = held.or_else(|| self.execution(id)) else { continue };
            self.load_workflow(&source.workflow);
            self.machine.state_mut().load_source(source);
        }
        if let Some((id, version)) = self.machine.state().needs_durations(command) {
            let durations = self.durations.get(&(id.clone(), version)).cloned().unwrap_or_default();
            self.machine.state_mut().load_durations(id, version, durations);
        }
    }

    fn load_workflow(&mut self, id: &WorkflowId) {
        if !self.machine.state().holds_workflow(id)
            && let Some(record) = self.record(id, None)
        {
            self.machine.state_mut().load_workflow(id.clone(), record);
        }
    }

    fn load_schedule(&mut self, id: &ScheduleId) {
        let Some(record) = self.schedules.get(id).cloned() else { return };
        self.machine.state_mut().load_schedule(record);
        let workflow = self.machine.state().schedule(id).map(|record| record.spec.workflow.clone());
        self.load_workflow(&workflow.expect("it is here"));
        if let Some((id, version)) = self.machine.state().needs_durations_of(id) {
            let durations = self.durations.get(&(id.clone(), version)).cloned().unwrap_or_default();
            self.machine.state_mut().load_durations(id, version, durations);
        }
    }

    /// As `Writer::fire` does.
    fn fire(&mut self, tick: Tick, step: &mut Step, loaded: &mut Vec<ExecutionId>) {
        for _ in 0..SCHEDULES_AT_ONCE {
            let Some(id) = self.machine.state().first_firing(tick).cloned() else { return };
            self.load_schedule(&id);
            for running in self.machine.state().needs_of_firing(&id) {
                let execution = self.execution(running).expect("it is alive");
                self.machine.state_mut().load_execution(execution);
                loaded.push(running);
            }
            self.machine.fire(&id, tick, step);
            self.settle(tick, step);
        }
    }

    fn settle(&mut self, tick: Tick, step: &mut Step) {
        while !step.needs.is_empty() {
            for (id, task) in std::mem::take(&mut step.needs) {
                let result = self.result(id, task, &step.events);
                self.machine.state_mut().load_result(id, task, result);
            }
            self.machine.settle(tick, step);
        }
    }

    /// What a task left; of one that kept its result, in the execution that this one repeats.
    pub fn result(&self, id: ExecutionId, task: TaskIndex, newest: &[Arc<Recorded>]) -> TaskResult {
        let execution = self.machine.state().execution(id).cloned().or_else(|| self.execution(id));
        let execution = execution.expect("somebody waits for its result");
        let state = &execution.tasks[task as usize];
        if let (true, Trigger::Rerun(source)) = (state.reused, &execution.trigger) {
            return self.result(*source, task, newest);
        }
        let mut events = self.log.iter().chain(newest);
        let found = events.find(|recorded| recorded.revision == state.last_end && recorded.execution == Some(id));
        match found.map(|recorded| &recorded.event) {
            Some(Event::TaskEnded { result, .. }) => TaskResult {
                output: result.output.as_ref().map(|output| Arc::clone(&output.json)),
                exit_code: result.exit_code,
            },
            _ => TaskResult::default(),
        }
    }

    /// The newest version of a workflow, or a certain one.
    fn record(&self, id: &WorkflowId, version: Option<u64>) -> Option<Arc<WorkflowRecord>> {
        self.log.iter().rev().find_map(|recorded| match &recorded.event {
            Event::WorkflowChanged { version: is, record: Some(record), .. }
                if recorded.workflow.as_ref() == Some(id)
                    && version.is_none_or(|wanted| wanted == *is && !record.deleted) =>
            {
                Some(Arc::clone(record))
            }
            _ => None,
        })
    }

    fn definition(&self, id: &WorkflowId, version: u64) -> Arc<Definition> {
        match self.record(id, Some(version)).as_ref().map(|record| &record.content) {
            Some(Content::Ready(definition)) => Arc::clone(definition),
            _ => panic!("an execution of what was never stored"),
        }
    }

    /// An execution, rebuilt from its events.
    pub fn execution(&self, id: ExecutionId) -> Option<Execution> {
        let mut events = self.log.iter().filter(|recorded| recorded.execution == Some(id));
        let first = events.next()?;
        let Event::ExecutionStarted { version, .. } = first.event else { panic!("events before the start") };
        let definition = self.definition(first.workflow.as_ref()?, version);
        let mut execution = Execution::begin(first, definition, &mut Moves::default())?;
        events.for_each(|recorded| execution.evolve(recorded, &mut Moves::default()));
        Some(execution)
    }

    /// As `Rows::learn` does.
    fn learn(&mut self, id: ExecutionId) {
        let ended = self.machine.state().execution(id).expect("it ended in this batch");
        let of = (ended.workflow.clone(), ended.version);
        let known = self.durations.entry(of.clone()).or_default();
        known.add(ended);
        let known = known.clone();
        self.machine.state_mut().load_durations(of.0, of.1, known);
    }

    /// As `engine::batch` and `Writer::commit` do.
    fn commit(&mut self, events: &[Arc<Recorded>], loaded: Vec<ExecutionId>) {
        self.log.extend(events.iter().cloned());
        let mut touched = loaded;
        for recorded in events {
            if let Event::ScheduleChanged { schedule, .. } | Event::ScheduleAdvanced { schedule, .. } = &recorded.event
                && let Some(record) = self.machine.state().schedule(schedule)
            {
                self.schedules.insert(schedule.clone(), record.as_ref().clone());
            }
            let Some(id) = recorded.execution else { continue };
            if matches!(recorded.event, Event::ExecutionStarted { .. }) {
                self.marks.insert(id, Mark::Hot);
            }
            touched.push(id);
        }
        for recorded in events {
            let Some(id) = recorded.execution else { continue };
            if matches!(recorded.event, Event::ExecutionEnded { .. }) {
                self.marks.remove(&id);
                self.learn(id);
            } else if let Some(mark) = self.machine.state().new_mark(id) {
                self.marks.insert(id, mark);
                self.machine.state_mut().mark_written(id, mark);
            }
        }
        self.machine.state_mut().drop_idle(touched);
    }
}

impl Engine for Light {
    fn batch(&mut self, tick: Tick, held: bool, wants: Vec<(Command, Actor)>) -> Option<Told> {
        let mut step = Step::default();
        let mut loaded = Vec::new();
        let mut answers = Vec::new();
        self.machine.state_mut().hold_admission(held);
        self.fire(tick, &mut step, &mut loaded);
        for (command, actor) in wants {
            self.load(&command, &mut loaded);
            answers.push(self.machine.apply(command, &actor, tick, &mut step));
            self.settle(tick, &mut step);
        }
        for id in self.machine.state().due_elsewhere(tick, 1_024) {
            let execution = self.execution(id).expect("it is alive");
            self.machine.state_mut().load_execution(execution);
            loaded.push(id);
        }
        self.machine.apply_due(tick, 1_024, &mut step);
        self.settle(tick, &mut step);
        self.fire(tick, &mut step, &mut loaded);
        let is_unfinished = self.machine.state().first_firing(tick).is_some();
        let fate = std::mem::replace(&mut self.fate, Fate::Kept);
        if fate == Fate::Lost {
            return None;
        }
        self.commit(&step.events, loaded);
        (fate == Fate::Kept).then_some(Told { answers, events: step.events, effects: step.effects, is_unfinished })
    }

    fn let_power_fail(&mut self, chance: &mut Chance) {
        self.fate = chance.pick(&[Fate::Lost, Fate::Unheard]);
    }

    fn restart(&mut self) -> Vec<AttemptKey> {
        let mut state = State::new(self.limit);
        if let Some(last) = self.log.last() {
            state.continue_after(last.revision, last.time, last.elapsed);
        }
        for recorded in &self.log {
            if let Event::ConcurrencyLimitSet { agent, limit } = &recorded.event {
                state.set_limit(agent.as_deref(), *limit);
            }
        }
        let mut interrupted = Vec::new();
        for (&id, mark) in &self.marks {
            let execution = self.execution(id).expect("it is alive");
            if let Mark::Dormant { wake } = mark {
                // Its row says RUNNING or PAUSED; which, the last control says.
                let status = if execution.status == ExecutionStatus::Paused {
                    ExecutionStatus::Paused
                } else {
                    ExecutionStatus::Running
                };
                state.note_dormant(id, execution.workflow, status, *wake);
                continue;
            }
            for (task, of) in (0..).zip(&execution.tasks) {
                if of.status == noxd::machine::task::TaskStatus::Running {
                    interrupted.push(AttemptKey { execution: id, task, attempt: of.attempt });
                }
            }
            state.load_execution(execution);
            state.drop_idle([id]);
        }
        for (id, record) in &self.schedules {
            state.note_schedule(id, record.deleted, &record.course);
        }
        self.machine = Machine::new(state);
        interrupted
    }

    fn history(&self) -> Vec<Arc<Recorded>> {
        self.log.clone()
    }

    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn schedule(&self, id: &ScheduleId) -> Option<ScheduleRecord> {
        self.schedules.get(id).cloned()
    }

    fn can_be_held(&self) -> bool {
        true
    }
}
