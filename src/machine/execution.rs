//! One run of one version of a workflow, and how each event changes it.
//!
//! [`Execution::evolve`] cannot fail and chooses nothing: live running, recovery and reading history share it. What may
//! happen next is decided in `decide`; who may start is decided in `parallel`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    expected::Expected,
    ids::{Actor, Elapsed, ExecutionId, Revision, TaskIndex, Timestamp, WorkflowId},
    judgement,
    message::{Event, ExecutionEnd, Recorded, Reused, StopCause, TaskEnd, Trigger},
    progress::Counts,
    task::{TaskState, TaskStatus},
    workflow::{Action, Definition, RetrySpec, Role},
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
    /// What it was given: a JSON object.
    pub inputs: Arc<str>,
    /// When it started.
    pub started_at: Timestamp,
    /// When a cancel was asked for.
    pub cancel_requested_at: Option<Timestamp>,
    /// Whether a second cancel called off `finally` too.
    pub cancels_finally: bool,
    /// Why the rest of its ordinary tasks was called off, other than by a cancel.
    pub cut_short: Option<CutShort>,
    /// When its own time is up.
    pub deadline: Option<Elapsed>,
    /// Which of `on_failure` and `finally` have had their turn.
    pub handlers_started: Vec<Role>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Since when it is paused.
    pub paused_at: Option<Timestamp>,
    /// How long it was paused in all before, in microseconds.
    pub paused_micros: u64,
    /// Its tasks, by index.
    pub tasks: Vec<TaskState>,
    /// How long it and its tasks are expected to take; `None`: no execution of this version had ended when it began.
    pub expected: Option<Arc<Expected>>,
    /// When tasks are tried again that do not say so themselves.
    pub retry: Option<Arc<RetrySpec>>,
    /// What follows from its tasks.
    pub derived: Derived,
    /// The first failure that counts: which task, and the revision of its end.
    pub first_failure: Option<(TaskIndex, Revision)>,
    /// Its newest event.
    pub revision: Revision,
    /// Events since its snapshot, or since its start without one.
    pub events_since_snapshot: u32,
}

/// Why the rest of the ordinary tasks was called off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutShort {
    /// A task failed, and the workflow says FAIL_FAST.
    FailFast,
    /// `execution_timeout`.
    TimedOut {
        /// The limit in microseconds.
        timeout_micros: u64,
    },
}

/// What follows from the tasks of an execution: kept beside them, so that no transition costs as much as there are
/// tasks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Derived {
    /// How many are in each status.
    pub counts: Counts,
    /// How many have not ended, by role.
    open: [u32; Role::ALL.len()],
    /// How many failures make the execution FAILED.
    failures: u32,
    /// What the tasks weigh that have ended ([`Expected::weight_of`]).
    work_done: u128,
    /// Deadlines of tasks, and of the execution itself.
    timers: BTreeSet<(Elapsed, Option<TaskIndex>)>,
}

/// What an event moved: the indices of ready and of unjudged tasks follow from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Tasks that came into the queue.
    pub queued: Vec<TaskIndex>,
    /// Tasks that left the queue without an attempt.
    pub unqueued: Vec<TaskIndex>,
    /// PENDING tasks whose rule and conditions can be judged now.
    pub judgeable: Vec<TaskIndex>,
    /// Tasks that are not PENDING any more, and might have been waiting to be judged.
    pub judged: Vec<TaskIndex>,
}

/// What is to happen to an execution when its tasks leave nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// These handlers are to run.
    Start(Role),
    /// These handlers are not to run.
    Skip(Role),
    /// It is over.
    End(ExecutionEnd),
}

impl Execution {
    /// The execution that an `ExecutionStarted` begins.
    pub fn begin(recorded: &Recorded, definition: Arc<Definition>, moves: &mut Moves) -> Option<Self> {
        let Event::ExecutionStarted { version, labels, trigger, inputs, reused, expected, retry, .. } = &recorded.event
        else {
            return None;
        };
        let count = definition.task_count();
        let graph = definition.graph();
        let indices = || 0..TaskIndex::try_from(count).expect("bounded by MAX_TASKS");
        let dependencies = |task| u32::try_from(graph.dependencies(task).len()).expect("bounded by validation");
        let mut execution = Self {
            id: recorded.execution?,
            workflow: recorded.workflow.clone()?,
            version: *version,
            status: ExecutionStatus::Running,
            trigger: trigger.clone(),
            created_by: recorded.actor.clone(),
            labels: labels.clone(),
            inputs: Arc::clone(inputs),
            started_at: recorded.time,
            cancel_requested_at: None,
            cancels_finally: false,
            cut_short: None,
            deadline: definition.spec().execution_timeout_micros.map(|micros| Elapsed(recorded.elapsed.0 + micros)),
            handlers_started: Vec::new(),
            ended_at: None,
            paused_at: None,
            paused_micros: 0,
            tasks: indices().map(|task| TaskState::pending(dependencies(task))).collect(),
            expected: expected.clone(),
            retry: retry.clone(),
            derived: Derived::default(),
            first_failure: None,
            revision: recorded.revision,
            events_since_snapshot: 1,
            definition: Arc::clone(&definition),
        };
        for &Reused { task, status, attempts } in reused.iter() {
            let state = &mut execution.tasks[task as usize];
            state.status = status;
            state.attempt = attempts;
            state.reused = true;
            state.completed_at = Some(recorded.time);
        }
        execution.derive();
        if reused.is_empty() {
            let roots = graph.stages().first().map_or(&[][..], Vec::as_slice);
            roots.iter().for_each(|root| execution.consider(*root, recorded, moves));
        } else {
            indices().for_each(|task| execution.consider(task, recorded, moves));
        }
        Some(execution)
    }

    /// Computes what follows from the tasks anew: after a snapshot was read.
    pub fn derive(&mut self) {
        let definition = Arc::clone(&self.definition);
        let mut derived = Derived::default();
        derived.timers.extend(self.deadline.map(|at| (at, None)));
        for (task, state) in (0..).zip(&self.tasks) {
            derived.counts.add(state.status);
            if state.status.is_terminal() {
                derived.work_done += self.weight_of(task);
            } else {
                derived.open[definition.role(task) as usize] += 1;
            }
            derived.failures += u32::from(counts_as_failure(&definition, task, state.status));
            derived.timers.extend(state.deadline.map(|at| (at, Some(task))));
        }
        self.derived = derived;
        for task in 0..self.tasks.len() {
            let index = TaskIndex::try_from(task).expect("bounded by MAX_TASKS");
            let before = definition.graph().dependencies(index);
            let mut tally = TaskState::pending(u32::try_from(before.len()).expect("bounded by validation"));
            for (&before, status) in before.iter().map(|before| (before, self.tasks[*before as usize].status)) {
                if status.is_terminal() {
                    tally.dependency_ended(status, is_excused(&definition, before, status));
                }
            }
            let TaskState { remaining, skipped, failed, broken, .. } = tally;
            let state = &mut self.tasks[task];
            (state.remaining, state.skipped, state.failed, state.broken) = (remaining, skipped, failed, broken);
        }
    }

    /// Follows an event.
    ///
    /// # Panics
    /// Where an event breaks the table of task states: decisions keep to it, and a store that does not was not written
    /// by noxd. Going on would spread the fault.
    pub fn evolve(&mut self, recorded: &Recorded, moves: &mut Moves) {
        self.revision = recorded.revision;
        self.events_since_snapshot += 1;
        let now = recorded.time;
        match &recorded.event {
            Event::ExecutionPaused => {
                self.status = ExecutionStatus::Paused;
                self.paused_at = Some(now);
            }
            Event::ExecutionResumed => self.unpause(now),
            Event::ExecutionCancelRequested { finally_too, .. } => self.cancel_requested(now, *finally_too),
            Event::ExecutionFailFast { .. } => {
                self.cut_short = Some(CutShort::FailFast);
                self.stop_running(StopCause::Cancelled, |role| role == Role::Ordinary);
            }
            Event::ExecutionTimeoutReached { timeout_micros, .. } => {
                self.set_own_deadline(None);
                self.cut_short = Some(CutShort::TimedOut { timeout_micros: *timeout_micros });
                self.stop_running(StopCause::ExecutionTimedOut, |role| role == Role::Ordinary);
            }
            Event::HandlersStarted { role } => self.handlers_start(*role, recorded, moves),
            Event::ExecutionEnded { end } => {
                self.set_own_deadline(None);
                self.status = (*end).into();
                self.ended_at = Some(now);
            }
            Event::TaskReady { task } | Event::TaskRetryDue { task } => self.queue(*task, recorded, moves),
            Event::ApprovalRequested { task } => self.ask(*task, recorded, moves),
            Event::TaskStarted { task, attempt, .. } => self.started(*task, *attempt, recorded, moves),
            Event::TaskSpawned { task, process, .. } => self.tasks[*task as usize].pid = process.pid,
            Event::TaskTimeoutReached { task, limit, .. } => {
                self.set_deadline(*task, None, recorded);
                self.tasks[*task as usize].stopping = Some(StopCause::TimedOut(*limit));
            }
            Event::TaskEnded { task, end, .. } => self.ended(*task, *end, recorded, moves),
            Event::TasksBlocked { tasks, cause } => {
                for &task in tasks {
                    self.tasks[task as usize].blocked_by = Some(*cause);
                }
                self.end_together(tasks, TaskStatus::Blocked, recorded, moves);
            }
            Event::TasksSkipped { tasks, .. } => self.end_together(tasks, TaskStatus::Skipped, recorded, moves),
            Event::TasksCancelled { tasks } => self.end_together(tasks, TaskStatus::Cancelled, recorded, moves),
            Event::WorkflowChanged { .. }
            | Event::ExecutionStarted { .. }
            | Event::ConditionError { .. }
            | Event::ApprovalResolved { .. }
            | Event::TemplateChanged { .. }
            | Event::ScheduleChanged { .. }
            | Event::ScheduleAdvanced { .. }
            | Event::ConcurrencyLimitSet { .. } => {}
        }
    }

    /// Whose noxd is gone has no deadline any more: it is ended anyway, and does not count (S-RETRY-7).
    pub fn forget_attempt_deadlines(&mut self) {
        for (task, state) in (0..).zip(&mut self.tasks) {
            if state.status == TaskStatus::Running
                && let Some(at) = state.deadline.take()
            {
                self.derived.timers.remove(&(at, Some(task)));
            }
        }
    }

    /// How many tasks are in each status.
    pub fn counts(&self) -> &Counts {
        &self.derived.counts
    }

    /// What the tasks weigh that have ended, of what is expected; 0 where nothing is.
    pub fn work_done(&self) -> u128 {
        self.derived.work_done
    }

    fn weight_of(&self, task: TaskIndex) -> u128 {
        self.expected.as_ref().map_or(0, |expected| u128::from(expected.weight_of(task)))
    }

    /// Whether it ends FAILED, if it ends as it is now.
    pub fn is_failing(&self) -> bool {
        self.end() == ExecutionEnd::Failed
    }

    /// When its first deadline is due, on noxd's own clock, and what it is of; `None`: of the execution itself.
    pub fn first_timer(&self) -> Option<(Elapsed, Option<TaskIndex>)> {
        self.derived.timers.first().copied()
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

    /// Whether tasks of a role may start: handlers wait for their turn.
    pub fn has_turn(&self, role: Role) -> bool {
        role == Role::Ordinary || self.handlers_started.contains(&role)
    }

    /// Whether what is left of a role was called off: then nothing of it is tried again.
    pub fn is_called_off(&self, role: Role) -> bool {
        match role {
            Role::Ordinary => self.cancel_requested_at.is_some() || self.cut_short.is_some(),
            Role::OnFailure => self.cancel_requested_at.is_some(),
            Role::Finally => self.cancels_finally,
        }
    }

    /// What comes next when its tasks leave nothing to do; `None`: they do (S-STATE-5).
    pub fn turn(&self) -> Option<Turn> {
        let open = |role: Role| self.derived.open[role as usize] > 0;
        if self.status.is_terminal() || open(Role::Ordinary) {
            return None;
        }
        for role in [Role::OnFailure, Role::Finally] {
            if open(role) {
                return match (self.has_turn(role), role) {
                    (true, _) => None,
                    (false, Role::OnFailure) if self.end() != ExecutionEnd::Failed => Some(Turn::Skip(role)),
                    (false, _) => Some(Turn::Start(role)),
                };
            }
        }
        Some(Turn::End(self.end()))
    }

    /// How it ends, if it ends as it is now (S-STATE-3).
    fn end(&self) -> ExecutionEnd {
        if self.cancel_requested_at.is_some() {
            ExecutionEnd::Cancelled
        } else if self.derived.failures > 0 || matches!(self.cut_short, Some(CutShort::TimedOut { .. })) {
            ExecutionEnd::Failed
        } else {
            ExecutionEnd::Completed
        }
    }

    fn unpause(&mut self, now: Timestamp) {
        self.status = ExecutionStatus::Running;
        self.paused_micros = self.paused_in_all(now);
        self.paused_at = None;
    }

    fn cancel_requested(&mut self, now: Timestamp, finally_too: bool) {
        self.cancel_requested_at.get_or_insert(now);
        self.cancels_finally |= finally_too;
        self.set_own_deadline(None);
        if self.status == ExecutionStatus::Paused {
            // `finally` is to run.
            self.unpause(now);
        }
        self.stop_running(StopCause::Cancelled, |role| finally_too || role != Role::Finally);
    }

    /// Costs as much as there are tasks, like everything that concerns them all.
    fn stop_running(&mut self, cause: StopCause, concerns: impl Fn(Role) -> bool) {
        let definition = Arc::clone(&self.definition);
        for (task, state) in (0..).zip(&mut self.tasks) {
            if state.status == TaskStatus::Running && concerns(definition.role(task)) {
                state.stopping = Some(cause);
                if let Some(at) = state.deadline.take() {
                    self.derived.timers.remove(&(at, Some(task)));
                }
            }
        }
    }

    fn handlers_start(&mut self, role: Role, recorded: &Recorded, moves: &mut Moves) {
        self.handlers_started.push(role);
        // It was the time of the ordinary tasks, which are over.
        self.set_own_deadline(None);
        let definition = Arc::clone(&self.definition);
        definition.tasks_of(role).for_each(|task| self.consider(task, recorded, moves));
    }

    fn ask(&mut self, task: TaskIndex, recorded: &Recorded, moves: &mut Moves) {
        self.become_status(task, TaskStatus::Waiting, moves);
        self.tasks[task as usize].ready_at = recorded.time;
        if let Some(Action::Approval(approval)) = &self.definition.task(task).action {
            self.set_deadline(task, approval.timeout_micros, recorded);
        }
    }

    fn started(&mut self, task: TaskIndex, attempt: u32, recorded: &Recorded, moves: &mut Moves) {
        self.become_status(task, TaskStatus::Running, moves);
        self.set_deadline(task, self.definition.task(task).timeout_micros, recorded);
        let state = &mut self.tasks[task as usize];
        state.attempt = attempt;
        state.attempt_started_at = recorded.time;
        state.started_at.get_or_insert(recorded.time);
    }

    fn ended(&mut self, task: TaskIndex, end: TaskEnd, recorded: &Recorded, moves: &mut Moves) {
        let state = &mut self.tasks[task as usize];
        state.stopping = None;
        state.pid = 0;
        state.last_end = recorded.revision;
        let status = match end {
            TaskEnd::Completed => TaskStatus::Completed,
            TaskEnd::Failed => TaskStatus::Failed,
            TaskEnd::TimedOut => TaskStatus::TimedOut,
            TaskEnd::Cancelled => TaskStatus::Cancelled,
            TaskEnd::Interrupted => {
                state.interruptions += 1;
                state.backoff_micros = 0;
                return self.queue(task, recorded, moves);
            }
            TaskEnd::Retrying { delay_micros } => {
                state.backoff_micros = delay_micros;
                self.become_status(task, TaskStatus::Retrying, moves);
                return self.set_deadline(task, Some(delay_micros), recorded);
            }
        };
        self.end_together(&[task], status, recorded, moves);
    }

    /// Ends tasks that one event ends: all of them first, and only then what that means for those after them. It costs
    /// as much as they have dependents, whatever the size of the execution (S-DEP-4).
    fn end_together(&mut self, tasks: &[TaskIndex], status: TaskStatus, recorded: &Recorded, moves: &mut Moves) {
        let definition = Arc::clone(&self.definition);
        for &task in tasks {
            self.become_status(task, status, moves);
            self.tasks[task as usize].completed_at = Some(recorded.time);
            self.derived.open[definition.role(task) as usize] -= 1;
            self.derived.work_done += self.weight_of(task);
            if counts_as_failure(&definition, task, status) {
                self.derived.failures += 1;
                if status != TaskStatus::Blocked {
                    self.first_failure.get_or_insert((task, recorded.revision));
                }
            }
        }
        for &task in tasks {
            let excused = is_excused(&definition, task, status);
            for &dependent in definition.graph().dependents(task) {
                self.tasks[dependent as usize].dependency_ended(status, excused);
                self.consider(dependent, recorded, moves);
            }
        }
    }

    /// Whether a task's turn has come, now that something before it has changed.
    fn consider(&mut self, task: TaskIndex, recorded: &Recorded, moves: &mut Moves) {
        let state = &self.tasks[task as usize];
        if state.status != TaskStatus::Pending || !self.has_turn(self.definition.role(task)) {
            return;
        }
        if self.definition.is_plain(task) {
            if state.remaining == 0 && !state.broken {
                self.queue(task, recorded, moves);
            }
        } else if judgement::rule(&self.definition, task, state) != judgement::Rule::Open {
            moves.judgeable.push(task);
        }
    }

    fn queue(&mut self, task: TaskIndex, recorded: &Recorded, moves: &mut Moves) {
        let paused_before = self.paused_in_all(recorded.time);
        self.become_status(task, TaskStatus::Queued, moves);
        moves.queued.push(task);
        let state = &mut self.tasks[task as usize];
        state.queued_at = recorded.time;
        state.queued_since = recorded.elapsed;
        state.paused_before = paused_before;
        if state.attempt == 0 {
            state.ready_at = recorded.time;
            self.set_deadline(task, self.definition.task(task).queue_timeout_micros, recorded);
        }
    }

    fn set_deadline(&mut self, task: TaskIndex, micros: Option<u64>, recorded: &Recorded) {
        let state = &mut self.tasks[task as usize];
        if let Some(before) = state.deadline.take() {
            self.derived.timers.remove(&(before, Some(task)));
        }
        if let Some(micros) = micros {
            let at = Elapsed(recorded.elapsed.0.saturating_add(micros));
            state.deadline = Some(at);
            state.deadline_at = Timestamp(recorded.time.0.saturating_add_unsigned(micros));
            self.derived.timers.insert((at, Some(task)));
        }
    }

    fn set_own_deadline(&mut self, at: Option<Elapsed>) {
        if let Some(before) = std::mem::replace(&mut self.deadline, at) {
            self.derived.timers.remove(&(before, None));
        }
        self.derived.timers.extend(at.map(|at| (at, None)));
    }

    /// A deadline belongs to a status, and ends with it.
    fn become_status(&mut self, task: TaskIndex, next: TaskStatus, moves: &mut Moves) {
        let state = &mut self.tasks[task as usize];
        assert!(
            state.status.may_become(next),
            "task {task} of execution {} cannot become {next:?} from {:?}",
            self.id,
            state.status
        );
        if let Some(at) = state.deadline.take() {
            self.derived.timers.remove(&(at, Some(task)));
        }
        match (state.status, next) {
            (TaskStatus::Queued, TaskStatus::Running) => {}
            (TaskStatus::Queued, _) => moves.unqueued.push(task),
            (TaskStatus::Pending, _) if !self.definition.is_plain(task) => moves.judged.push(task),
            _ => {}
        }
        self.derived.counts.moved(state.status, next);
        state.status = next;
    }
}

/// Whether what came after may go on as if the task had succeeded (S-DEP-1).
pub fn is_excused(definition: &Definition, task: TaskIndex, status: TaskStatus) -> bool {
    matches!(status, TaskStatus::Failed | TaskStatus::TimedOut) && definition.task(task).allow_failure
}

/// Whether a task that ended so makes its execution FAILED (S-STATE-3).
pub fn counts_as_failure(definition: &Definition, task: TaskIndex, status: TaskStatus) -> bool {
    matches!(status, TaskStatus::Failed | TaskStatus::TimedOut | TaskStatus::Blocked)
        && !is_excused(definition, task, status)
}
