//! One run of one version of a workflow, and how each event changes it.
//!
//! [`Execution::evolve`] cannot fail and chooses nothing: live running, recovery and reading history share it. What may
//! happen next is decided in `decide`; who may start is decided in `parallel`.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    ids::{Actor, Elapsed, ExecutionId, Revision, TaskIndex, Timestamp, WorkflowId},
    message::{Event, ExecutionEnd, Recorded, StopCause, TaskEnd, Trigger},
    progress::Counts,
    task::{TaskState, TaskStatus},
    workflow::Definition,
};

/// Where an execution stands (S-STATE-1).
///
/// ```text
/// RUNNING ⇄ PAUSED        both ─▶ COMPLETED | FAILED | CANCELLED
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecutionStatus {
    /// Tasks run or wait for their turn.
    Running,
    /// No new attempt starts.
    Paused,
    /// Ended well.
    Completed,
    /// Ended badly.
    Failed,
    /// Ended on request.
    Cancelled,
}

impl ExecutionStatus {
    /// Whether it is for ever.
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::Running | Self::Paused)
    }

    /// As people read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Paused => "PAUSED",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        }
    }
}

impl From<ExecutionEnd> for ExecutionStatus {
    fn from(end: ExecutionEnd) -> Self {
        match end {
            ExecutionEnd::Completed => Self::Completed,
            ExecutionEnd::Failed => Self::Failed,
            ExecutionEnd::Cancelled => Self::Cancelled,
        }
    }
}

/// An execution as the machine holds it while it has work, and as reads rebuild it from its events.
#[derive(Clone, Debug, PartialEq)]
pub struct Execution {
    /// Its id.
    pub id: ExecutionId,
    /// Of which workflow.
    pub workflow: WorkflowId,
    /// Of which version, for ever.
    pub version: u64,
    /// That version.
    pub definition: Arc<Definition>,
    /// Where it stands.
    pub status: ExecutionStatus,
    /// What started it.
    pub trigger: Trigger,
    /// Who asked for it.
    pub created_by: Actor,
    /// The workflow's labels and its own.
    pub labels: BTreeMap<String, String>,
    /// When it started.
    pub started_at: Timestamp,
    /// When a cancel was asked for.
    pub cancel_requested_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Since when it is paused.
    pub paused_at: Option<Timestamp>,
    /// How long it was paused in all before, in microseconds.
    pub paused_micros: u64,
    /// Its tasks, by index.
    pub tasks: Vec<TaskState>,
    /// How many are in each status.
    pub counts: Counts,
    /// The first failure: which task, and the revision of its end.
    pub first_failure: Option<(TaskIndex, Revision)>,
    /// Its newest event.
    pub revision: Revision,
    /// Events since its snapshot, or since its start without one.
    pub events_since_snapshot: u32,
}

impl Execution {
    /// The execution that an `ExecutionStarted` begins. The tasks without dependencies are named in `queued`.
    pub fn begin(recorded: &Recorded, definition: Arc<Definition>, queued: &mut Vec<TaskIndex>) -> Option<Self> {
        let Event::ExecutionStarted { version, labels, trigger, .. } = &recorded.event else { return None };
        let count = definition.task_count();
        let tasks = (0..count)
            .map(|task| {
                let task = TaskIndex::try_from(task).expect("bounded by MAX_TASKS");
                let dependencies = definition.graph().dependencies(task).len();
                TaskState::pending(u32::try_from(dependencies).expect("bounded by validation"))
            })
            .collect();
        let mut execution = Self {
            id: recorded.execution?,
            workflow: recorded.workflow.clone(),
            version: *version,
            definition,
            status: ExecutionStatus::Running,
            trigger: *trigger,
            created_by: recorded.actor.clone(),
            labels: labels.clone(),
            started_at: recorded.time,
            cancel_requested_at: None,
            ended_at: None,
            paused_at: None,
            paused_micros: 0,
            tasks,
            counts: Counts::all_pending(count),
            first_failure: None,
            revision: recorded.revision,
            events_since_snapshot: 1,
        };
        let definition = Arc::clone(&execution.definition);
        for &root in definition.graph().stages().first().map_or(&[][..], Vec::as_slice) {
            execution.queue(root, recorded.time);
            queued.push(root);
        }
        Some(execution)
    }

    /// Follows an event. Tasks that came into the queue by it are added to `queued`.
    ///
    /// # Panics
    /// Where an event breaks the table of task states: decisions keep to it, and a store that does not was not written
    /// by noxd. Going on would spread the fault.
    pub fn evolve(&mut self, recorded: &Recorded, queued: &mut Vec<TaskIndex>) {
        self.revision = recorded.revision;
        self.events_since_snapshot += 1;
        let now = recorded.time;
        match &recorded.event {
            Event::WorkflowChanged { .. } | Event::ExecutionStarted { .. } => {}
            Event::ExecutionPaused => {
                self.status = ExecutionStatus::Paused;
                self.paused_at = Some(now);
            }
            Event::ExecutionResumed => {
                self.status = ExecutionStatus::Running;
                self.paused_micros = self.paused_in_all(now);
                self.paused_at = None;
            }
            Event::ExecutionCancelRequested { .. } => self.cancel_requested(now),
            Event::ExecutionEnded { end } => {
                self.status = (*end).into();
                self.ended_at = Some(now);
            }
            Event::TaskStarted { task, attempt, .. } => self.started(*task, *attempt, now, recorded.elapsed),
            Event::TaskSpawned { task, process, .. } => self.tasks[*task as usize].pid = process.pid,
            Event::TaskTimeoutReached { task, .. } => {
                let state = &mut self.tasks[*task as usize];
                state.stopping = Some(StopCause::TimedOut);
                state.deadline = None;
            }
            Event::TaskEnded { task, end, .. } => self.ended(*task, *end, recorded, queued),
            Event::TasksBlocked { tasks, cause } => {
                for &task in tasks {
                    self.become_status(task, TaskStatus::Blocked);
                    self.tasks[task as usize].blocked_by = Some(*cause);
                    self.tasks[task as usize].completed_at = Some(now);
                }
            }
            Event::TasksCancelled { tasks } => {
                for &task in tasks {
                    self.become_status(task, TaskStatus::Cancelled);
                    self.tasks[task as usize].completed_at = Some(now);
                }
            }
        }
    }

    /// Tasks that have not ended.
    pub fn open_tasks(&self) -> u32 {
        self.counts.open()
    }

    /// How long it was paused in all, in microseconds.
    pub fn paused_in_all(&self, now: Timestamp) -> u64 {
        let current = self.paused_at.map_or(0, |since| u64::try_from(now.0 - since.0).unwrap_or(0));
        self.paused_micros + current
    }

    /// Tasks in a status, ascending. Costs as much as the execution has tasks: for cancel, recovery and reads.
    pub fn tasks_in(&self, status: TaskStatus) -> impl Iterator<Item = TaskIndex> + '_ {
        (0..).zip(&self.tasks).filter(move |(_, state)| state.status == status).map(|(task, _)| task)
    }

    fn cancel_requested(&mut self, now: Timestamp) {
        self.cancel_requested_at = Some(now);
        for state in &mut self.tasks {
            if state.status == TaskStatus::Running {
                state.stopping = Some(StopCause::Cancelled);
                state.deadline = None;
            }
        }
    }

    fn started(&mut self, task: TaskIndex, attempt: u32, now: Timestamp, elapsed: Elapsed) {
        self.become_status(task, TaskStatus::Running);
        let timeout = self.definition.task(task).timeout_micros;
        let state = &mut self.tasks[task as usize];
        state.attempt = attempt;
        state.attempt_started_at = now;
        state.started_at.get_or_insert(now);
        state.deadline = timeout.map(|micros| Elapsed(elapsed.0 + micros));
    }

    fn ended(&mut self, task: TaskIndex, end: TaskEnd, recorded: &Recorded, queued: &mut Vec<TaskIndex>) {
        let state = &mut self.tasks[task as usize];
        state.stopping = None;
        state.deadline = None;
        state.pid = 0;
        state.last_end = recorded.revision;
        let status = match end {
            TaskEnd::Completed => TaskStatus::Completed,
            TaskEnd::Failed => TaskStatus::Failed,
            TaskEnd::TimedOut => TaskStatus::TimedOut,
            TaskEnd::Cancelled => TaskStatus::Cancelled,
            TaskEnd::Interrupted => {
                state.interruptions += 1;
                self.queue(task, recorded.time);
                queued.push(task);
                return;
            }
        };
        state.completed_at = Some(recorded.time);
        self.become_status(task, status);
        if matches!(status, TaskStatus::Failed | TaskStatus::TimedOut) && self.first_failure.is_none() {
            self.first_failure = Some((task, recorded.revision));
        }
        if status.satisfies_dependents() {
            self.fulfil_dependents(task, recorded.time, queued);
        }
    }

    /// Costs as much as the task has dependents, whatever the size of the execution (S-DEP-4).
    fn fulfil_dependents(&mut self, task: TaskIndex, now: Timestamp, queued: &mut Vec<TaskIndex>) {
        let definition = Arc::clone(&self.definition);
        for &dependent in definition.graph().dependents(task) {
            let state = &mut self.tasks[dependent as usize];
            state.remaining -= 1;
            if state.remaining == 0 && state.status == TaskStatus::Pending {
                self.queue(dependent, now);
                queued.push(dependent);
            }
        }
    }

    fn queue(&mut self, task: TaskIndex, now: Timestamp) {
        let paused_before = self.paused_in_all(now);
        self.become_status(task, TaskStatus::Queued);
        let state = &mut self.tasks[task as usize];
        if state.attempt == 0 {
            state.ready_at = now;
        }
        state.queued_at = now;
        state.paused_before = paused_before;
    }

    fn become_status(&mut self, task: TaskIndex, next: TaskStatus) {
        let state = &mut self.tasks[task as usize];
        assert!(
            state.status.may_become(next),
            "task {task} of execution {} cannot become {next:?} from {:?}",
            self.id,
            state.status
        );
        self.counts.moved(state.status, next);
        state.status = next;
    }
}
