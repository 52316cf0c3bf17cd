//! Everything alive, as the machine holds it: a small index, and the *hot* executions that have work.
//!
//! Cold things are loaded before a command that needs them ([`State::needs`]) and dropped when idle
//! ([`State::drop_idle`]). [`State::evolve`] is the only thing that follows events.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    execution::{Execution, ExecutionStatus, Moves},
    expected::{Durations, Expected},
    ids::{AttemptKey, Elapsed, ExecutionId, Revision, ScheduleId, TaskIndex, TemplateId, Tick, Timestamp, WorkflowId},
    judgement::{self, Results, TaskResult},
    message::{Command, Content, Event, Recorded, Trigger, WorkflowRecord},
    parallel::Admission,
    schedule::ScheduleRecord,
    task::TaskStatus,
    template::TemplateRecord,
    workflow::Definition,
};

/// What the machine knows. Ordered maps only: the same commands give the same events everywhere.
#[derive(Clone, Debug)]
pub struct State {
    pub(super) revision: Revision,
    pub(super) wall: Timestamp,
    pub(super) elapsed: Elapsed,
    pub(super) draining: bool,
    pub(super) held: bool,
    pub(super) workflows: BTreeMap<WorkflowId, Arc<WorkflowRecord>>,
    /// How long executions of a version have taken so far, and what those expect of it that begin now.
    pub(super) durations: BTreeMap<(WorkflowId, u64), Known>,
    /// Those that commands of this batch are about.
    pub(super) templates: BTreeMap<TemplateId, Arc<TemplateRecord>>,
    /// Those that commands and times of this batch are about.
    pub(super) schedules: BTreeMap<ScheduleId, Arc<ScheduleRecord>>,
    pub(super) executions: BTreeMap<ExecutionId, Execution>,
    /// Tasks of the executions that are held whole.
    pub(super) hot_tasks: usize,
    pub(super) alive: BTreeMap<ExecutionId, Alive>,
    pub(super) alive_of: BTreeMap<WorkflowId, BTreeSet<ExecutionId>>,
    /// Executions that have ended and that a command of this batch asks about.
    pub(super) ended: BTreeMap<ExecutionId, (WorkflowId, ExecutionStatus)>,
    /// Executions that have ended and that a command of this batch repeats.
    pub(super) sources: BTreeMap<ExecutionId, Arc<Execution>>,
    pub(super) admission: Admission,
    /// Tasks whose rule and conditions are to be judged.
    pub(super) judging: BTreeSet<(ExecutionId, TaskIndex)>,
    /// What tasks of this batch left, or was loaded for conditions.
    pub(super) results: Results,
    /// Executions whose tasks leave nothing to do: handlers have their turn, or it ends.
    pub(super) turning: BTreeSet<ExecutionId>,
    /// The one ordered structure for time: when the first deadline of an execution is due.
    pub(super) deadlines: BTreeSet<(Elapsed, ExecutionId)>,
    /// The same on the wall clock: when the next time of a schedule is due. All that is kept of one that is idle.
    pub(super) firings: BTreeSet<(Timestamp, ScheduleId)>,
    /// Schedules that have times which wait for an execution to end.
    pub(super) buffering: BTreeSet<ScheduleId>,
    /// Those of them of which one ended.
    pub(super) released: BTreeSet<ScheduleId>,
}

/// How long executions of a version have taken so far, and what those expect of it that begin now.
type Known = (Durations, Option<Arc<Expected>>);

/// What is always known of an execution that has not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Alive {
    /// Of which workflow.
    pub workflow: WorkflowId,
    /// RUNNING or PAUSED.
    pub status: ExecutionStatus,
    /// When its first deadline is due.
    pub wake: Option<Elapsed>,
    /// What its row says, so that it is written only when that changes.
    pub mark: Mark,
}

/// What the row of an execution that has not ended says to a noxd that starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mark {
    /// It has work: load it.
    #[default]
    Hot,
    /// It has nothing to do until its first deadline, or until somebody tells it.
    Dormant {
        /// When its first deadline is due.
        wake: Option<Elapsed>,
    },
}

/// What must be loaded before a command can be decided.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Workflow records.
    pub workflows: Vec<WorkflowId>,
    /// Template records.
    pub templates: Vec<TemplateId>,
    /// Schedule records.
    pub schedules: Vec<ScheduleId>,
    /// Executions; alive ones whole, ended ones by their status.
    pub executions: Vec<ExecutionId>,
    /// Executions, whole, whether they have ended or not.
    pub sources: Vec<ExecutionId>,
}

impl State {
    /// An empty state.
    pub fn new(concurrency_limit: u32) -> Self {
        Self {
            revision: 0,
            wall: Timestamp(0),
            elapsed: Elapsed(0),
            draining: false,
            held: false,
            workflows: BTreeMap::new(),
            durations: BTreeMap::new(),
            templates: BTreeMap::new(),
            executions: BTreeMap::new(),
            hot_tasks: 0,
            alive: BTreeMap::new(),
            alive_of: BTreeMap::new(),
            ended: BTreeMap::new(),
            sources: BTreeMap::new(),
            admission: Admission::new(concurrency_limit),
            judging: BTreeSet::new(),
            results: Results::new(),
            turning: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            firings: BTreeSet::new(),
            buffering: BTreeSet::new(),
            released: BTreeSet::new(),
            schedules: BTreeMap::new(),
        }
    }

    /// Goes on after these, at recovery.
    pub fn continue_after(&mut self, revision: Revision, wall: Timestamp, elapsed: Elapsed) {
        self.revision = revision;
        self.wall = wall;
        self.elapsed = elapsed;
    }

    /// Admits nothing while held: the disk is full, or what a dead noxd left behind is still being ended. What runs
    /// ends as ever, and nothing is refused.
    pub fn hold_admission(&mut self, held: bool) {
        self.held = held;
    }

    /// A limit that was set before the start.
    pub fn set_limit(&mut self, agent: Option<&str>, limit: Option<u32>) {
        match (agent, limit) {
            (Some(agent), limit) => self.admission.set_agent_limit(agent, limit),
            (None, Some(limit)) => self.admission.set_limit(limit),
            // noxd as a whole always has one.
            (None, None) => {}
        }
    }

    /// Active executions of a workflow, oldest first.
    pub fn active_of(&self, workflow: &WorkflowId) -> Vec<ExecutionId> {
        self.alive_of.get(workflow).into_iter().flatten().copied().collect()
    }

    /// The newest event.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// When the newest event was decided.
    pub fn newest_time(&self) -> (Timestamp, Elapsed) {
        (self.wall, self.elapsed)
    }

    /// Slots and queue.
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// How many executions have not ended.
    pub fn alive_count(&self) -> usize {
        self.alive.len()
    }

    /// How many executions are held whole.
    pub fn hot_count(&self) -> usize {
        self.executions.len()
    }

    /// An execution that is held whole.
    pub fn execution(&self, id: ExecutionId) -> Option<&Execution> {
        self.executions.get(&id)
    }

    /// Takes note of a snapshot that was written of a hot execution.
    pub fn snapshot_written(&mut self, id: ExecutionId) {
        if let Some(execution) = self.executions.get_mut(&id) {
            execution.events_since_snapshot = 0;
        }
    }

    /// When [`due`](super::decide::due) has something, on noxd's own clock.
    pub fn next_deadline(&self) -> Option<Elapsed> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// What a command needs that is not here. Costs as much as its answer.
    pub fn needs(&self, command: &Command) -> Needs {
        let mut needs = Needs::default();
        let mut workflow = |id: &WorkflowId| {
            if !self.workflows.contains_key(id) {
                needs.workflows.push(id.clone());
            }
        };
        match command {
            Command::CreateWorkflow { content } | Command::UpdateWorkflow { content, .. } => {
                workflow(&content.spec().id);
            }
            Command::InstantiateTemplate { definition, .. } => workflow(&definition.spec().id),
            Command::CreateTemplate { spec } | Command::UpdateTemplate { spec, .. } => {
                needs.templates.push(spec.id.clone());
            }
            Command::DeleteTemplate { template, .. } => needs.templates.push(template.clone()),
            Command::CreateSchedule { spec, .. } | Command::UpdateSchedule { spec, .. } => {
                workflow(&spec.workflow);
                needs.schedules.push(spec.id.clone());
            }
            Command::DeleteSchedule { schedule, .. }
            | Command::PauseSchedule { schedule, .. }
            | Command::ResumeSchedule { schedule }
            | Command::CancelBackfill { schedule } => needs.schedules.push(schedule.clone()),
            Command::TriggerSchedule { schedule, .. } | Command::BackfillSchedule { schedule, .. } => {
                match self.schedules.get(schedule) {
                    Some(found) => workflow(&found.spec.workflow),
                    None => needs.schedules.push(schedule.clone()),
                }
            }
            Command::DeleteWorkflow { workflow: id, .. } | Command::StartExecution { workflow: id, .. } => workflow(id),
            Command::Control { workflow: id, execution, .. } => {
                workflow(id);
                needs.executions.push(*execution);
            }
            Command::ResolveApproval { execution, .. } => needs.executions.push(*execution),
            Command::RerunExecution { source, .. } => match self.sources.get(source) {
                Some(found) => workflow(&found.workflow),
                None => needs.sources.push(*source),
            },
            Command::AttemptSpawned { .. }
            | Command::AttemptSilent { .. }
            | Command::AttemptEnded { .. }
            | Command::SetConcurrencyLimit { .. }
            | Command::Drain => {}
        }
        needs.schedules.retain(|id| !self.schedules.contains_key(id));
        needs.templates.retain(|id| !self.templates.contains_key(id));
        needs.executions.retain(|id| !self.executions.contains_key(id) && !self.ended.contains_key(id));
        needs
    }

    /// The version of a workflow that a command starts, where it is not known here how long its executions take. To be
    /// asked when all else that the command needs is here.
    pub fn needs_durations(&self, command: &Command) -> Option<(WorkflowId, u64)> {
        let started = match command {
            Command::StartExecution { workflow, .. } => (workflow.clone(), self.workflows.get(workflow)?.version),
            Command::RerunExecution { source, .. } => {
                let source = self.sources.get(source)?;
                (source.workflow.clone(), source.version)
            }
            Command::TriggerSchedule { schedule, .. } => return self.needs_durations_of(schedule),
            _ => return None,
        };
        (!self.durations.contains_key(&started)).then_some(started)
    }

    /// Gives how long executions of a version have taken so far: those that begin from now on go by it.
    pub fn load_durations(&mut self, workflow: WorkflowId, version: u64, durations: Durations) {
        let expected = durations.expected().map(Arc::new);
        self.durations.insert((workflow, version), (durations, expected));
    }

    /// How long executions of a version have taken so far, where that is here.
    pub fn durations(&self, workflow: &WorkflowId, version: u64) -> Option<&Durations> {
        self.durations.get(&(workflow.clone(), version)).map(|(durations, _)| durations)
    }

    pub(super) fn expected_of(&self, workflow: &WorkflowId, version: u64) -> Option<Arc<Expected>> {
        self.durations.get(&(workflow.clone(), version)).and_then(|(_, expected)| expected.clone())
    }

    /// Executions that are not here and whose first deadline has come, at most so many.
    pub fn due_elsewhere(&self, tick: Tick, most: usize) -> Vec<ExecutionId> {
        let due = self.deadlines.iter().take_while(|(at, _)| *at <= tick.elapsed).map(|(_, id)| *id);
        due.filter(|id| !self.executions.contains_key(id)).take(most).collect()
    }

    /// Whether a workflow's record is here.
    pub fn holds_workflow(&self, id: &WorkflowId) -> bool {
        self.workflows.contains_key(id)
    }

    /// Gives a workflow record that was needed.
    pub fn load_workflow(&mut self, id: WorkflowId, record: Arc<WorkflowRecord>) {
        self.workflows.entry(id).or_insert(record);
    }

    /// Gives a template record that was needed.
    pub fn load_template(&mut self, record: TemplateRecord) {
        self.templates.entry(record.spec.id.clone()).or_insert_with(|| Arc::new(record));
    }

    /// Tells how an execution that was needed had ended.
    pub fn note_ended(&mut self, id: ExecutionId, workflow: WorkflowId, status: ExecutionStatus) {
        self.ended.insert(id, (workflow, status));
    }

    /// Gives an execution that was asked for as the source of another one.
    pub fn load_source(&mut self, execution: Execution) {
        self.sources.insert(execution.id, Arc::new(execution));
    }

    /// Gives what a task left, which conditions need.
    pub fn load_result(&mut self, execution: ExecutionId, task: TaskIndex, result: TaskResult) {
        self.results.insert((execution, task), result);
    }

    /// Gives an execution that has not ended and was needed, or found at recovery.
    pub fn load_execution(&mut self, mut execution: Execution) {
        let id = execution.id;
        execution.forget_attempt_deadlines();
        self.index_alive(&execution);
        let definition = Arc::clone(&execution.definition);
        for (task, state) in (0..).zip(&execution.tasks) {
            match state.status {
                TaskStatus::Running => {
                    let attempt = AttemptKey { execution: id, task, attempt: state.attempt };
                    self.admission.found_alive(attempt, &definition);
                }
                TaskStatus::Queued if execution.status == ExecutionStatus::Running => {
                    self.admission.enqueue(id, task, &definition, state.queued_since);
                }
                TaskStatus::Pending if is_judgeable(&execution, task) => {
                    self.judging.insert((id, task));
                }
                _ => {}
            }
        }
        self.hold(execution);
        self.look_at(id);
    }

    /// Takes note of an execution that has not ended and has nothing to do for now: it is not loaded.
    pub fn note_dormant(
        &mut self,
        id: ExecutionId,
        workflow: WorkflowId,
        status: ExecutionStatus,
        wake: Option<Elapsed>,
    ) {
        let workflow = self.alive_of.get_key_value(&workflow).map_or(workflow, |(known, _)| known.clone());
        self.alive_of.entry(workflow.clone()).or_default().insert(id);
        self.deadlines.extend(wake.map(|at| (at, id)));
        self.alive.insert(id, Alive { workflow, status, wake, mark: Mark::Dormant { wake } });
    }

    /// What the row of an execution that has not ended is to say, where that is not what it says.
    pub fn new_mark(&self, id: ExecutionId) -> Option<Mark> {
        let alive = self.alive.get(&id)?;
        let mark = if self.has_work(id) { Mark::Hot } else { Mark::Dormant { wake: alive.wake } };
        (mark != alive.mark).then_some(mark)
    }

    /// Takes note of what the row of an execution says now.
    pub fn mark_written(&mut self, id: ExecutionId, mark: Mark) {
        if let Some(alive) = self.alive.get_mut(&id) {
            alive.mark = mark;
        }
    }

    fn has_work(&self, id: ExecutionId) -> bool {
        self.admission.concerns(id)
            || self.turning.contains(&id)
            || self.judging.range((id, 0)..).next().is_some_and(|(other, _)| *other == id)
    }

    /// Drops what no pending work concerns. Called between batches, when everything is in the store.
    pub fn drop_idle(&mut self, touched: impl IntoIterator<Item = ExecutionId>) {
        for id in touched {
            if !self.has_work(id) {
                let dropped = self.executions.remove(&id);
                self.hot_tasks -= dropped.map_or(0, |execution| execution.tasks.len());
            }
        }
        self.ended.clear();
        self.sources.clear();
        self.templates.clear();
        self.schedules.clear();
        self.results.clear();
        // Records are cheap to load and definitions are shared with hot executions; only many are a burden.
        const KEPT_WORKFLOWS: usize = 1_024;
        while self.workflows.len() > KEPT_WORKFLOWS {
            self.workflows.pop_first();
        }
        while self.durations.len() > KEPT_WORKFLOWS {
            self.durations.pop_first();
        }
    }

    /// Follows an event.
    pub fn evolve(&mut self, recorded: &Recorded) {
        self.revision = recorded.revision;
        self.wall = recorded.time;
        self.elapsed = recorded.elapsed;
        self.admission.at(recorded.elapsed);
        match (&recorded.event, &recorded.workflow, recorded.execution) {
            (Event::WorkflowChanged { record: Some(record), .. }, Some(id), _) => {
                // A version that is new has no history. One that is deleted is known or is not, as before.
                if !record.deleted {
                    self.load_durations(id.clone(), record.version, Durations::default());
                }
                self.workflows.insert(id.clone(), Arc::clone(record));
            }
            (Event::TemplateChanged { template, record: Some(record), .. }, ..) => {
                self.templates.insert(template.clone(), Arc::clone(record));
            }
            (Event::ScheduleChanged { record: Some(record), .. }, ..) => self.keep_schedule(Arc::clone(record)),
            (Event::ScheduleAdvanced { schedule, nominal, outcome, next }, ..) => {
                self.advance_schedule(schedule, *nominal, outcome, *next);
            }
            (Event::ConcurrencyLimitSet { agent, limit }, ..) => self.set_limit(agent.as_deref(), *limit),
            (_, _, Some(id)) => self.follow(id, recorded),
            _ => {}
        }
    }

    fn follow(&mut self, id: ExecutionId, recorded: &Recorded) {
        let mut moves = Moves::default();
        if matches!(recorded.event, Event::ExecutionStarted { .. }) {
            self.begin(recorded, &mut moves);
        } else if let Some(execution) = self.executions.get_mut(&id) {
            let was_paused = execution.status == ExecutionStatus::Paused;
            execution.evolve(recorded, &mut moves);
            let goes_on = was_paused && execution.status == ExecutionStatus::Running;
            if goes_on {
                // What was queued meanwhile is among them.
                moves.queued = execution.tasks_in(TaskStatus::Queued).collect();
            }
        }
        self.index_moves(id, moves);
        self.index_event(id, recorded);
        self.look_at(id);
    }

    fn begin(&mut self, recorded: &Recorded, moves: &mut Moves) {
        let Event::ExecutionStarted { trigger, .. } = &recorded.event else { return };
        let definition = match trigger {
            Trigger::Rerun(source) => self.sources.get(source).map(|source| Arc::clone(&source.definition)),
            Trigger::Manual | Trigger::Schedule { .. } => recorded.workflow.as_ref().and_then(|id| self.ready(id)),
        };
        let execution = definition.and_then(|definition| Execution::begin(recorded, definition, moves));
        if let Some(execution) = execution {
            self.index_alive(&execution);
            self.hold(execution);
        }
    }

    fn ready(&self, id: &WorkflowId) -> Option<Arc<Definition>> {
        match &self.workflows.get(id)?.content {
            Content::Ready(definition) => Some(Arc::clone(definition)),
            Content::Draft { .. } => None,
        }
    }

    fn hold(&mut self, execution: Execution) {
        self.hot_tasks += execution.tasks.len();
        let before = self.executions.insert(execution.id, execution);
        self.hot_tasks -= before.map_or(0, |execution| execution.tasks.len());
    }

    fn index_alive(&mut self, execution: &Execution) {
        let (id, workflow, status) = (execution.id, &execution.workflow, execution.status);
        if let Some(alive) = self.alive.get_mut(&id) {
            alive.status = status;
            return;
        }
        let workflow = self.alive_of.get_key_value(workflow).map_or(workflow, |(known, _)| known).clone();
        self.alive_of.entry(workflow.clone()).or_default().insert(id);
        self.alive.insert(id, Alive { workflow, status, wake: None, mark: Mark::Hot });
    }

    fn index_moves(&mut self, id: ExecutionId, moves: Moves) {
        let Some(execution) = self.executions.get(&id) else { return };
        for task in moves.unqueued {
            self.admission.withdraw_task(id, task);
        }
        if execution.status == ExecutionStatus::Running {
            for task in moves.queued {
                let state = &execution.tasks[task as usize];
                self.admission.enqueue(id, task, &execution.definition, state.queued_since);
            }
        }
        for task in moves.judged {
            self.judging.remove(&(id, task));
        }
        // A later part of the same event may have settled them.
        let open = moves.judgeable.into_iter().filter(|task| is_judgeable(execution, *task));
        self.judging.extend(open.map(|task| (id, task)));
    }

    /// Keeps the index true to what the event did to the execution.
    fn index_event(&mut self, id: ExecutionId, recorded: &Recorded) {
        match &recorded.event {
            Event::ExecutionPaused => {
                self.admission.withdraw(id);
                self.set_alive_status(id, ExecutionStatus::Paused);
            }
            Event::ExecutionResumed | Event::ExecutionCancelRequested { .. } => {
                self.set_alive_status(id, ExecutionStatus::Running);
            }
            Event::ExecutionEnded { .. } => {
                self.release(id);
                self.forget(id);
            }
            Event::TaskStarted { task, attempt, .. } => {
                self.admission.admit(AttemptKey { execution: id, task: *task, attempt: *attempt }, recorded.elapsed);
            }
            Event::TaskEnded { task, attempt, result, .. } => {
                self.admission.release(AttemptKey { execution: id, task: *task, attempt: *attempt });
                let looked_at = self.executions.get(&id).is_some_and(|held| held.definition.is_looked_at(*task));
                if looked_at {
                    let output = result.output.as_ref().map(|output| Arc::clone(&output.json));
                    self.results.insert((id, *task), TaskResult { output, exit_code: result.exit_code });
                }
            }
            _ => {}
        }
    }

    /// Keeps the execution's first deadline, and whether it has a turn to take, in the index.
    fn look_at(&mut self, id: ExecutionId) {
        let (Some(execution), Some(alive)) = (self.executions.get(&id), self.alive.get_mut(&id)) else { return };
        let wake = execution.first_timer().map(|(at, _)| at);
        if wake != alive.wake {
            if let Some(before) = std::mem::replace(&mut alive.wake, wake) {
                self.deadlines.remove(&(before, id));
            }
            self.deadlines.extend(wake.map(|at| (at, id)));
        }
        if execution.turn().is_some() {
            self.turning.insert(id);
        } else {
            self.turning.remove(&id);
        }
    }

    fn set_alive_status(&mut self, id: ExecutionId, status: ExecutionStatus) {
        if let Some(alive) = self.alive.get_mut(&id) {
            alive.status = status;
        }
    }

    fn forget(&mut self, id: ExecutionId) {
        self.turning.remove(&id);
        let Some(alive) = self.alive.remove(&id) else { return };
        if let Some(at) = alive.wake {
            self.deadlines.remove(&(at, id));
        }
        if let Some(of_workflow) = self.alive_of.get_mut(&alive.workflow) {
            of_workflow.remove(&id);
            if of_workflow.is_empty() {
                self.alive_of.remove(&alive.workflow);
            }
        }
        if let Some(execution) = self.executions.get(&id) {
            self.ended.insert(id, (alive.workflow, execution.status));
        }
    }
}

fn is_judgeable(execution: &Execution, task: TaskIndex) -> bool {
    let (definition, state) = (&execution.definition, &execution.tasks[task as usize]);
    state.status == TaskStatus::Pending
        && !definition.is_plain(task)
        && execution.has_turn(definition.role(task))
        && judgement::rule(definition, task, state) != judgement::Rule::Open
}
