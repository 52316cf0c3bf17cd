//! Everything alive, as the machine holds it: a small index, and the *hot* executions that have work.
//!
//! Cold things are loaded before a command that needs them ([`State::needs`]) and dropped when idle
//! ([`State::drop_idle`]). [`State::evolve`] is the only thing that follows events.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    execution::{Execution, ExecutionStatus},
    ids::{AttemptKey, Elapsed, ExecutionId, Revision, TaskIndex, Timestamp, WorkflowId},
    message::{Command, Content, Event, Recorded, WorkflowRecord},
    parallel::Admission,
    task::TaskStatus,
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
    pub(super) executions: BTreeMap<ExecutionId, Execution>,
    /// Tasks of the executions that are held whole.
    pub(super) hot_tasks: usize,
    pub(super) alive: BTreeMap<ExecutionId, Alive>,
    pub(super) alive_of: BTreeMap<WorkflowId, BTreeSet<ExecutionId>>,
    /// Executions that have ended and that a command of this batch asks about.
    pub(super) ended: BTreeMap<ExecutionId, (WorkflowId, ExecutionStatus)>,
    pub(super) admission: Admission,
    /// Executions without open tasks, whose end is still to be decided.
    pub(super) finishing: BTreeSet<ExecutionId>,
    /// The one ordered structure for time: when it is due, and what.
    pub(super) deadlines: BTreeSet<(Elapsed, AttemptKey)>,
}

/// What is always known of an execution that has not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Alive {
    /// Of which workflow.
    pub workflow: WorkflowId,
    /// RUNNING or PAUSED.
    pub status: ExecutionStatus,
}

/// What must be loaded before a command can be decided.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Workflow records.
    pub workflows: Vec<WorkflowId>,
    /// Executions; alive ones whole, ended ones by their status.
    pub executions: Vec<ExecutionId>,
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
            executions: BTreeMap::new(),
            hot_tasks: 0,
            alive: BTreeMap::new(),
            alive_of: BTreeMap::new(),
            ended: BTreeMap::new(),
            admission: Admission::new(concurrency_limit),
            finishing: BTreeSet::new(),
            deadlines: BTreeSet::new(),
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
            Command::DeleteWorkflow { workflow: id, .. } | Command::StartExecution { workflow: id, .. } => workflow(id),
            Command::Control { workflow: id, execution, .. } => {
                workflow(id);
                needs.executions = vec![*execution];
                needs.executions.retain(|id| !self.executions.contains_key(id) && !self.ended.contains_key(id));
            }
            Command::AttemptSpawned { .. } | Command::AttemptEnded { .. } | Command::Drain => {}
        }
        needs
    }

    /// Whether a workflow's record is here.
    pub fn holds_workflow(&self, id: &WorkflowId) -> bool {
        self.workflows.contains_key(id)
    }

    /// Gives a workflow record that was needed.
    pub fn load_workflow(&mut self, id: WorkflowId, record: Arc<WorkflowRecord>) {
        self.workflows.entry(id).or_insert(record);
    }

    /// Tells how an execution that was needed had ended.
    pub fn note_ended(&mut self, id: ExecutionId, workflow: WorkflowId, status: ExecutionStatus) {
        self.ended.insert(id, (workflow, status));
    }

    /// Gives an execution that has not ended and was needed, or found at recovery.
    pub fn load_execution(&mut self, execution: Execution) {
        let id = execution.id;
        self.index_alive(id, execution.workflow.clone(), execution.status);
        for (task, state) in (0..).zip(&execution.tasks) {
            match state.status {
                // Whose noxd is gone has no deadline any more: it is ended anyway, and does not count (S-RETRY-7).
                TaskStatus::Running => {
                    let attempt = AttemptKey { execution: id, task, attempt: state.attempt };
                    self.admission.found_alive(attempt, &execution.definition);
                }
                TaskStatus::Queued if execution.status == ExecutionStatus::Running => {
                    self.admission.enqueue(id, task, &execution.definition, self.elapsed);
                }
                _ => {}
            }
        }
        if execution.open_tasks() == 0 {
            self.finishing.insert(id);
        }
        self.hold(execution);
    }

    /// Drops what no pending work concerns. Called between batches, when everything is in the store.
    pub fn drop_idle(&mut self, touched: impl IntoIterator<Item = ExecutionId>) {
        for id in touched {
            if !self.admission.concerns(id) && !self.finishing.contains(&id) {
                let dropped = self.executions.remove(&id);
                self.hot_tasks -= dropped.map_or(0, |execution| execution.tasks.len());
            }
        }
        self.ended.clear();
        // Records are cheap to load and definitions are shared with hot executions; only many are a burden.
        const KEPT_WORKFLOWS: usize = 1_024;
        while self.workflows.len() > KEPT_WORKFLOWS {
            self.workflows.pop_first();
        }
    }

    /// Follows an event.
    pub fn evolve(&mut self, recorded: &Recorded) {
        self.revision = recorded.revision;
        self.wall = recorded.time;
        self.elapsed = recorded.elapsed;
        if let Event::WorkflowChanged { record: Some(record), .. } = &recorded.event {
            self.workflows.insert(recorded.workflow.clone(), Arc::clone(record));
        }
        let Some(id) = recorded.execution else { return };
        let mut queued = Vec::new();
        if matches!(recorded.event, Event::ExecutionStarted { .. }) {
            self.begin(id, recorded, &mut queued);
        }
        self.clear_deadlines(id, &recorded.event);
        let Some(execution) = self.executions.get_mut(&id) else { return };
        if !matches!(recorded.event, Event::ExecutionStarted { .. }) {
            execution.evolve(recorded, &mut queued);
        }
        if execution.status == ExecutionStatus::Running {
            for &task in &queued {
                self.admission.enqueue(id, task, &execution.definition, self.elapsed);
            }
        }
        if execution.open_tasks() == 0 && !execution.status.is_terminal() {
            self.finishing.insert(id);
        }
        self.follow(id, recorded);
    }

    fn begin(&mut self, id: ExecutionId, recorded: &Recorded, queued: &mut Vec<TaskIndex>) {
        let Some(record) = self.workflows.get(&recorded.workflow) else { return };
        let Content::Ready(definition) = &record.content else { return };
        if let Some(execution) = Execution::begin(recorded, Arc::clone(definition), queued) {
            self.index_alive(id, execution.workflow.clone(), execution.status);
            self.hold(execution);
        }
    }

    fn hold(&mut self, execution: Execution) {
        self.hot_tasks += execution.tasks.len();
        let before = self.executions.insert(execution.id, execution);
        self.hot_tasks -= before.map_or(0, |execution| execution.tasks.len());
    }

    fn index_alive(&mut self, id: ExecutionId, workflow: WorkflowId, status: ExecutionStatus) {
        self.alive_of.entry(workflow.clone()).or_default().insert(id);
        self.alive.insert(id, Alive { workflow, status });
    }

    /// Keeps the index true to what the event did to the execution.
    fn follow(&mut self, id: ExecutionId, recorded: &Recorded) {
        match &recorded.event {
            Event::ExecutionPaused => {
                self.admission.withdraw(id);
                self.set_alive_status(id, ExecutionStatus::Paused);
            }
            Event::ExecutionResumed => {
                self.set_alive_status(id, ExecutionStatus::Running);
                let Some(execution) = self.executions.get(&id) else { return };
                for task in execution.tasks_in(TaskStatus::Queued) {
                    self.admission.enqueue(id, task, &execution.definition, self.elapsed);
                }
            }
            Event::ExecutionCancelRequested { .. } => self.admission.withdraw(id),
            Event::ExecutionEnded { .. } => self.forget(id),
            Event::TaskStarted { task, attempt, .. } => {
                let key = AttemptKey { execution: id, task: *task, attempt: *attempt };
                let Some(execution) = self.executions.get(&id) else { return };
                self.admission.admit(key, recorded.elapsed);
                self.deadlines.extend(execution.tasks[*task as usize].deadline.map(|at| (at, key)));
            }
            Event::TaskEnded { task, attempt, .. } => {
                self.admission.release(AttemptKey { execution: id, task: *task, attempt: *attempt });
            }
            Event::TaskTimeoutReached { .. }
            | Event::WorkflowChanged { .. }
            | Event::ExecutionStarted { .. }
            | Event::TaskSpawned { .. }
            | Event::TasksBlocked { .. }
            | Event::TasksCancelled { .. } => {}
        }
    }

    /// Deadlines of attempts that the event ends or tells to end.
    fn clear_deadlines(&mut self, id: ExecutionId, event: &Event) {
        let Some(execution) = self.executions.get(&id) else { return };
        let mut clear = |key: AttemptKey| {
            if let Some(at) = execution.tasks[key.task as usize].deadline {
                self.deadlines.remove(&(at, key));
            }
        };
        match event {
            Event::TaskTimeoutReached { task, attempt, .. } | Event::TaskEnded { task, attempt, .. } => {
                clear(AttemptKey { execution: id, task: *task, attempt: *attempt });
            }
            Event::ExecutionCancelRequested { .. } => self.admission.live_of(id).for_each(clear),
            _ => {}
        }
    }

    fn set_alive_status(&mut self, id: ExecutionId, status: ExecutionStatus) {
        if let Some(alive) = self.alive.get_mut(&id) {
            alive.status = status;
        }
    }

    fn forget(&mut self, id: ExecutionId) {
        self.finishing.remove(&id);
        let Some(alive) = self.alive.remove(&id) else { return };
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
