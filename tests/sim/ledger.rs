//! What happened, as somebody outside knows it: from events, replies and the definitions alone.
//!
//! [`Ledger::follow`] asks of every event whether semantics.md allows it there and then, by rules that are written here a
//! second time and the slow way. What must be true between batches is in `settled`, what a command must be answered in
//! `expect`. Of the machine's own code only [`Execution::evolve`] is used, to hold replay against what is held.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    sync::Arc,
};

use noxd::machine::{
    execution::{Execution, ExecutionStatus, Moves},
    expected::Expected,
    ids::{AttemptKey, ExecutionId, TaskIndex, TemplateId, Timestamp, WorkflowId},
    message::{
        AttemptEnd, AttemptOutcome, AttemptResult, Content, ErrorKind, Event, ExecutionEnd, Recorded, Reused,
        StopCause, TaskEnd, TimeLimit, Trigger, WorkflowChange,
    },
    parallel::LimitName,
    task::{TaskState, TaskStatus},
    workflow::{Action, BackoffSpec, FailurePolicy, OnInterrupt, RetrySpec, Role, TaskSpec, TriggerRule},
};
use serde_json::Value;

use crate::{
    coverage::Coverage,
    firings::Schedules,
    plan::{Fact, Plan},
};

/// Everything that is known.
pub struct Ledger {
    pub plans: BTreeMap<(WorkflowId, u64), Arc<Plan>>,
    /// The newest version of each workflow, and whether it is deleted.
    pub workflows: BTreeMap<WorkflowId, (u64, bool)>,
    /// The same of each template.
    pub templates: BTreeMap<TemplateId, (u64, bool)>,
    pub schedules: Schedules,
    pub runs: BTreeMap<ExecutionId, Run>,
    pub log: Vec<Arc<Recorded>>,
    pub limit: u32,
    pub agent_limits: BTreeMap<String, u32>,
    /// Admission is held from outside.
    pub held: bool,
    pub draining: bool,
    /// What was said of attempts, whether it was taken or not.
    pub reports: BTreeMap<AttemptKey, Vec<AttemptOutcome>>,
    /// Attempts that were said to be silent.
    pub silent: BTreeSet<AttemptKey>,
    /// What the executor must have been told since this was last emptied.
    pub orders: Vec<(AttemptKey, Option<StopCause>)>,
    pub coverage: Coverage,
    /// A condition that could not be evaluated; its task must be skipped next.
    failed_condition: Option<(ExecutionId, TaskIndex)>,
    /// An answer; its task must end next.
    answered: Option<(ExecutionId, TaskIndex, bool)>,
    /// Limits that have no room, and when others had room again.
    full: BTreeSet<Limit>,
    freed: BTreeMap<Limit, u64>,
}

/// A limit, and of which execution where it is one's own.
type Limit = (Option<ExecutionId>, LimitName);

/// One execution.
pub struct Run {
    pub plan: Arc<Plan>,
    pub workflow: WorkflowId,
    pub version: u64,
    pub trigger: Trigger,
    pub status: ExecutionStatus,
    pub tasks: Vec<Task>,
    /// How often a cancel was asked for, two at most.
    pub cancels: u32,
    pub fails_fast: bool,
    pub timed_out: bool,
    pub handlers: Vec<usize>,
    /// When its own time is up.
    pub timer: Option<u64>,
    pub go: bool,
    pub percent: f64,
    pub was_paused: bool,
    /// It has ended, and was looked at since.
    pub is_looked_at: bool,
    /// Its events, followed by the machine's own code.
    pub replayed: Execution,
}

/// One task.
#[derive(Clone, Debug)]
pub struct Task {
    pub status: TaskStatus,
    pub attempt: u32,
    pub interruptions: u32,
    pub stopping: Option<StopCause>,
    /// When what it waits for, or does, has taken long enough.
    pub timer: Option<u64>,
    pub output: Option<Value>,
    pub exit_code: Option<i32>,
    pub reused: bool,
    pub last_end: u64,
    pub delay: u64,
    pub queued_at: Timestamp,
    pub queued_since: u64,
}

/// What a rule says.
#[derive(Debug, PartialEq, Eq)]
pub enum Says {
    Open,
    Holds,
    Never(&'static str),
    Blocked,
}

impl Run {
    fn spec(&self, task: usize) -> &TaskSpec {
        &self.plan.definition.spec().tasks[task]
    }

    pub fn is_excused(&self, task: usize) -> bool {
        self.spec(task).allow_failure && matches!(self.tasks[task].status, TaskStatus::Failed | TaskStatus::TimedOut)
    }

    /// S-DEP-1 to S-DEP-3, word by word.
    pub fn says(&self, task: usize) -> Says {
        let before = &self.plan.dependencies[task];
        let is = |status: TaskStatus| before.iter().any(|other| self.tasks[*other].status == status);
        let failed = |other: &usize| {
            use TaskStatus::{Blocked, Cancelled, Failed, TimedOut};
            matches!(self.tasks[*other].status, Failed | TimedOut | Cancelled | Blocked)
        };
        let ended = before.iter().all(|other| self.tasks[*other].status.is_terminal());
        let bad = before.iter().any(|other| failed(other) && !self.is_excused(*other));
        match self.spec(task).trigger_rule {
            TriggerRule::AllSucceeded | TriggerRule::AllCompleted if bad => Says::Blocked,
            TriggerRule::AllSucceeded | TriggerRule::AllCompleted | TriggerRule::AllDone if !ended => Says::Open,
            TriggerRule::AllCompleted if is(TaskStatus::Skipped) => Says::Never("was skipped"),
            TriggerRule::AllSucceeded | TriggerRule::AllCompleted | TriggerRule::AllDone => Says::Holds,
            TriggerRule::OneSucceeded if is(TaskStatus::Completed) => Says::Holds,
            TriggerRule::OneSucceeded if ended => Says::Never("no task before it succeeded"),
            TriggerRule::OneFailed if before.iter().any(failed) => Says::Holds,
            TriggerRule::OneFailed if ended => Says::Never("no task before it failed"),
            TriggerRule::OneSucceeded | TriggerRule::OneFailed => Says::Open,
            TriggerRule::AllFailed if is(TaskStatus::Completed) || is(TaskStatus::Skipped) => {
                Says::Never("not all tasks before it failed")
            }
            TriggerRule::AllFailed if ended => Says::Holds,
            TriggerRule::AllFailed => Says::Open,
        }
    }

    pub fn has_turn(&self, task: usize) -> bool {
        let role = self.plan.role(task);
        role == 0 || self.handlers.contains(&role)
    }

    /// Whether what is left of tasks of a role is not to be done.
    pub fn is_called_off(&self, role: usize) -> bool {
        match role {
            0 => self.cancels > 0 || self.fails_fast || self.timed_out,
            1 => self.cancels > 0,
            _ => self.cancels > 1,
        }
    }

    pub fn is_open(&self, role: usize) -> bool {
        (0..self.tasks.len()).any(|task| self.plan.role(task) == role && !self.tasks[task].status.is_terminal())
    }

    fn counts_as_failure(&self, task: usize) -> bool {
        let status = self.tasks[task].status;
        matches!(status, TaskStatus::Failed | TaskStatus::TimedOut | TaskStatus::Blocked) && !self.is_excused(task)
    }

    /// S-STATE-3, if it ended now.
    pub fn end(&self) -> ExecutionEnd {
        if self.cancels > 0 {
            ExecutionEnd::Cancelled
        } else if self.timed_out || (0..self.tasks.len()).any(|task| self.counts_as_failure(task)) {
            ExecutionEnd::Failed
        } else {
            ExecutionEnd::Completed
        }
    }

    /// Tasks of these roles that have neither ended nor an attempt.
    fn idle(&self, roles: &[usize]) -> Vec<TaskIndex> {
        let idle = |task: &usize| {
            let status = self.tasks[*task].status;
            !status.is_terminal() && status != TaskStatus::Running && roles.contains(&self.plan.role(*task))
        };
        (0..self.tasks.len()).filter(idle).map(|task| task as TaskIndex).collect()
    }

    fn running(&self, roles: &[usize]) -> Vec<usize> {
        let runs =
            |task: &usize| self.tasks[*task].status == TaskStatus::Running && roles.contains(&self.plan.role(*task));
        (0..self.tasks.len()).filter(runs).collect()
    }

    pub fn live(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.tasks.len()).filter(|task| self.tasks[*task].status == TaskStatus::Running)
    }
}

impl Ledger {
    pub fn new(limit: u32) -> Self {
        Self {
            plans: BTreeMap::new(),
            workflows: BTreeMap::new(),
            templates: BTreeMap::new(),
            schedules: Schedules::default(),
            runs: BTreeMap::new(),
            log: Vec::new(),
            limit,
            agent_limits: BTreeMap::new(),
            held: false,
            draining: false,
            reports: BTreeMap::new(),
            silent: BTreeSet::new(),
            orders: Vec::new(),
            coverage: Coverage::default(),
            failed_condition: None,
            answered: None,
            full: BTreeSet::new(),
            freed: BTreeMap::new(),
        }
    }

    /// noxd ended and began anew: attempts have nobody any more who bounds them.
    pub fn restarted(&mut self) {
        self.draining = false;
        self.orders.clear();
        self.freed.clear();
        for run in self.runs.values_mut().filter(|run| !run.status.is_terminal()) {
            run.replayed.forget_attempt_deadlines();
            for task in run.tasks.iter_mut().filter(|task| task.status == TaskStatus::Running) {
                task.timer = None;
            }
        }
    }

    /// Ends the test, with the last events.
    pub fn fail(&self, why: impl Display) -> ! {
        for recorded in &self.log[self.log.len().saturating_sub(30)..] {
            let id = recorded.execution.map_or(0, |id| id.0);
            eprintln!("{:>5} at {:>12} in {id}: {:?}", recorded.revision, recorded.elapsed.0, recorded.event);
        }
        panic!("{why}");
    }

    pub fn check(&self, holds: bool, why: impl Display) {
        if !holds {
            self.fail(why);
        }
    }

    /// Follows an event, which must be allowed now.
    pub fn follow(&mut self, recorded: &Arc<Recorded>) {
        let last = self.log.last().map(Arc::clone);
        self.log.push(Arc::clone(recorded));
        // S-VIEW-2: the order has no gap. S-VIEW-6: times never decrease.
        self.check(recorded.revision == last.as_ref().map_or(0, |last| last.revision) + 1, "a gap in the revisions");
        if let Some(last) = last {
            self.check(last.time <= recorded.time && last.elapsed <= recorded.elapsed, "time went back");
        }
        self.coverage.event(&recorded.event);
        if let Some((id, task)) = self.failed_condition.take() {
            let skipped = matches!(&recorded.event, Event::TasksSkipped { tasks, .. } if *tasks == [task]);
            self.check(recorded.execution == Some(id) && skipped, "a condition failed, and its task was not skipped");
        }
        if let Some((id, answered, yes)) = self.answered {
            let end = if yes { TaskEnd::Completed } else { TaskEnd::Failed };
            let ended = matches!(&recorded.event, Event::TaskEnded { task, end: is, attempt: 0, .. } if *task == answered && *is == end);
            self.check(
                recorded.execution == Some(id) && ended,
                "an approval was answered, and its task did not end so",
            );
        }
        self.follow_announced(recorded);
        match (&recorded.event, recorded.execution) {
            (Event::WorkflowChanged { change, version, record }, None) => {
                let id = recorded.workflow.clone().expect("a change of a workflow has one");
                let before = self.workflows.get(&id).copied();
                let allowed = match change {
                    WorkflowChange::Created => before.is_none_or(|(_, deleted)| deleted),
                    WorkflowChange::Updated | WorkflowChange::Deleted => before.is_some_and(|(_, deleted)| !deleted),
                };
                self.check(allowed, "a workflow cannot be changed so now");
                let is_deleted = *change == WorkflowChange::Deleted;
                let next = before.map_or(0, |(version, _)| version) + u64::from(!is_deleted);
                self.check(*version == next, "versions count by one");
                if let Some(Content::Ready(definition)) = record.as_ref().map(|record| &record.content) {
                    let plan = self.plans.get(&(id.clone(), *version));
                    self.check(
                        plan.is_some_and(|plan| plan.definition.spec() == definition.spec()),
                        "another definition",
                    );
                }
                self.workflows.insert(id, (*version, is_deleted));
            }
            (Event::TemplateChanged { template, change, version, record }, None) => {
                self.follow_template(template, *change, *version, record.as_ref());
            }
            (Event::ScheduleChanged { schedule, change, version, record }, None) => {
                self.follow_schedule(recorded, schedule, change, *version, record.as_ref());
            }
            (Event::ScheduleAdvanced { schedule, nominal, outcome, .. }, None) => {
                self.follow_advance(recorded, schedule, *nominal, outcome);
            }
            (Event::ConcurrencyLimitSet { agent: None, limit }, None) => self.limit = limit.expect("noxd has a limit"),
            (Event::ConcurrencyLimitSet { agent: Some(agent), limit }, None) => {
                match limit {
                    Some(limit) => self.agent_limits.insert(agent.to_string(), *limit),
                    None => self.agent_limits.remove(&**agent),
                };
            }
            (Event::ExecutionStarted { .. }, Some(id)) => self.started(id, recorded),
            (_, Some(id)) => {
                self.check(self.runs.contains_key(&id), "an event of an execution that never began");
                self.check(!self.runs[&id].status.is_terminal(), "S-STATE-1: terminal is for ever");
                self.in_run(id, recorded);
                let run = self.runs.get_mut(&id).expect("it is there");
                run.replayed.evolve(recorded, &mut Moves::default());
            }
            _ => self.fail("an event of nobody"),
        }
        if let Some(id) = recorded.execution {
            self.queue_what_may(id, recorded);
        }
        if changes_room(&recorded.event) {
            self.note_room(recorded.elapsed.0);
        }
    }

    fn note_room(&mut self, now: u64) {
        let mut full = BTreeSet::new();
        for (&id, run) in self.runs.iter().filter(|(_, run)| !run.status.is_terminal()) {
            for task in 0..run.tasks.len() {
                full.extend(self.limits(id, task).into_iter().filter(|(_, most, held)| held >= most).map(|one| one.0));
            }
        }
        for limit in self.full.difference(&full) {
            self.freed.insert(limit.clone(), now);
        }
        self.full = full;
    }

    /// S-VIEW-6: the limit that held a task up, the last of several, the narrowest of those that had room at once.
    fn held_up_by(&self, id: ExecutionId, task: usize) -> Option<LimitName> {
        let since = self.runs[&id].tasks[task].queued_since;
        // A limit may be gone since.
        let of_agent = (None, LimitName::Agent(self.runs[&id].spec(task).agent_id.clone()));
        let mut limits: Vec<Limit> = self.limits(id, task).into_iter().map(|(limit, ..)| limit).collect();
        if !limits.contains(&of_agent) {
            limits.insert(1, of_agent);
        }
        let freed = limits.into_iter().filter_map(|limit| Some((*self.freed.get(&limit)?, limit.1)));
        freed.filter(|(freed, _)| *freed > since).max_by_key(|(freed, _)| *freed).map(|(_, name)| name)
    }

    /// Plain tasks come into the queue in the event that lets them (S-DEP-4).
    fn queue_what_may(&mut self, id: ExecutionId, recorded: &Recorded) {
        let run = &self.runs[&id];
        let may = |task: &usize| {
            run.tasks[*task].status == TaskStatus::Pending
                && run.plan.is_plain(*task)
                && run.has_turn(*task)
                && run.says(*task) == Says::Holds
        };
        let tasks: Vec<usize> = (0..run.tasks.len()).filter(may).collect();
        for task in tasks {
            self.queue(id, task, recorded);
        }
    }

    fn queue(&mut self, id: ExecutionId, task: usize, recorded: &Recorded) {
        self.become_status(id, task, TaskStatus::Queued);
        let run = self.runs.get_mut(&id).expect("it is there");
        let timeout = run.plan.definition.spec().tasks[task].queue_timeout_micros;
        let state = &mut run.tasks[task];
        (state.queued_at, state.queued_since) = (recorded.time, recorded.elapsed.0);
        // S-RETRY-5: it bounds the wait for the first attempt.
        state.timer = timeout.filter(|_| state.attempt == 0).map(|micros| recorded.elapsed.0 + micros);
    }

    /// S-VIEW-1: what is expected rests on executions of the version that have ended, and on nothing else.
    fn check_expected(&mut self, expected: &Expected, workflow: &WorkflowId, version: u64) {
        self.coverage.reached("an execution that knows earlier ones");
        let ended: Vec<&Run> = self.runs.values().filter(|run| run.status.is_terminal()).collect();
        let of_version = ended.iter().filter(|run| run.workflow == *workflow && run.version == version);
        let spans = |task: usize| {
            let ran = of_version.clone().map(move |run| &run.replayed.tasks[task]);
            let ran = ran.filter(|state| state.status == TaskStatus::Completed && !state.reused);
            ran.filter_map(|state| Some((state.completed_at?.0 - state.started_at?.0) as u64))
        };
        let ran = of_version.clone().filter(|run| {
            let ran = |state: &TaskState| state.started_at.is_some() && state.status == TaskStatus::Completed;
            run.replayed.tasks.iter().any(|state| ran(state) && !state.reused)
        });
        let (said, ran) = (expected.executions(), ran.count() as u64);
        self.check(said > 0 && said <= ran, format_args!("S-VIEW-1: {said} executions are said, and {ran} ended"));
        for (task, &micros) in expected.tasks_micros().iter().enumerate().filter(|(_, micros)| **micros > 0) {
            let (least, most) = (spans(task).min().unwrap_or(u64::MAX), spans(task).max().unwrap_or(0).max(1));
            let words = format_args!("S-VIEW-1: task {task} takes {micros}, not {least} to {most}");
            self.check((least..=most).contains(&micros), words);
        }
    }

    fn become_status(&mut self, id: ExecutionId, task: usize, next: TaskStatus) {
        let from = self.runs[&id].tasks[task].status;
        let allowed = crate::coverage::TRANSITIONS.contains(&(from, next));
        self.check(allowed, format_args!("S-STATE-2: task {task} went from {from:?} to {next:?}"));
        self.coverage.transition(from, next);
        let state = &mut self.runs.get_mut(&id).expect("it is there").tasks[task];
        state.status = next;
        state.timer = None;
    }

    fn started(&mut self, id: ExecutionId, recorded: &Arc<Recorded>) {
        let Event::ExecutionStarted { version, task_count, trigger, inputs, reused, expected, .. } = &recorded.event
        else {
            return;
        };
        self.check(!self.runs.contains_key(&id), "an execution began twice");
        self.check(!self.draining, "work was taken while noxd drains");
        let workflow = recorded.workflow.clone().expect("it has a workflow");
        let plan = match self.plans.get(&(workflow.clone(), *version)) {
            Some(plan) => Arc::clone(plan),
            None => self.fail("a version that nobody stored"),
        };
        let count = plan.definition.task_count();
        self.check(*task_count as usize == count, "the count of the tasks");
        match trigger {
            Trigger::Manual | Trigger::Schedule { .. } => {
                self.check(self.workflows.get(&workflow) == Some(&(*version, false)), "it runs the newest version");
                self.check(reused.is_empty(), "nothing is kept of nothing");
            }
            Trigger::Rerun(source) => self.check_reused(*source, &workflow, *version, reused),
        }
        if let Some(expected) = expected {
            self.check_expected(expected, &workflow, *version);
        }
        let given: Value = serde_json::from_str(inputs).expect("inputs are JSON");
        let timer = plan.definition.spec().execution_timeout_micros.map(|micros| recorded.elapsed.0 + micros);
        let task = Task {
            status: TaskStatus::Pending,
            attempt: 0,
            interruptions: 0,
            stopping: None,
            timer: None,
            output: None,
            exit_code: None,
            reused: false,
            last_end: 0,
            delay: 0,
            queued_at: Timestamp(0),
            queued_since: 0,
        };
        let mut tasks = vec![task; count];
        for kept in reused.iter() {
            let state = &mut tasks[kept.task as usize];
            (state.status, state.attempt, state.reused) = (kept.status, kept.attempts, true);
        }
        let replayed = Execution::begin(recorded, Arc::clone(&plan.definition), &mut Moves::default());
        let run = Run {
            workflow,
            version: *version,
            trigger: trigger.clone(),
            status: ExecutionStatus::Running,
            tasks,
            cancels: 0,
            fails_fast: false,
            timed_out: false,
            handlers: Vec::new(),
            timer,
            go: given["go"] == Value::Bool(true),
            percent: 0.0,
            was_paused: false,
            is_looked_at: false,
            replayed: replayed.expect("it begins"),
            plan,
        };
        self.runs.insert(id, run);
    }

    /// What a rerun keeps: what was good, and does not come after something that is done again; no handlers.
    fn check_reused(&self, source: ExecutionId, workflow: &WorkflowId, version: u64, reused: &[Reused]) {
        let Some(source) = self.runs.get(&source) else { self.fail("a rerun of nothing") };
        self.check(source.status.is_terminal(), "a rerun of what has not ended");
        self.check((&source.workflow, source.version) == (workflow, version), "a rerun of another version");
        let kept = |task: usize| reused.iter().any(|kept| kept.task as usize == task);
        for &Reused { task, status, attempts } in reused {
            let task = task as usize;
            self.check(source.tasks[task].attempt == attempts, "S-COND-3: how many attempts it took");
            let good = matches!(status, TaskStatus::Completed | TaskStatus::Skipped) || source.is_excused(task);
            self.check(source.tasks[task].status == status && good, "only what was good is kept");
            self.check(source.plan.role(task) == 0, "handlers are done again");
            self.check(
                source.plan.dependencies[task].iter().all(|before| kept(*before)),
                "kept after what is done again",
            );
        }
        self.check(reused.len() < source.tasks.len(), "a rerun of nothing");
    }

    fn in_run(&mut self, id: ExecutionId, recorded: &Recorded) {
        let now = recorded.elapsed.0;
        let run = &self.runs[&id];
        match &recorded.event {
            Event::ExecutionPaused => {
                self.run(id).was_paused = true;
                let run = &self.runs[&id];
                self.check(run.status == ExecutionStatus::Running && run.cancels == 0, "it cannot be paused");
                self.run(id).status = ExecutionStatus::Paused;
            }
            Event::ExecutionResumed => {
                self.check(run.status == ExecutionStatus::Paused && run.cancels == 0, "it cannot be resumed");
                self.run(id).status = ExecutionStatus::Running;
            }
            Event::ExecutionCancelRequested { running, finally_too } => {
                let has_finally = !run.plan.definition.spec().finally.is_empty();
                self.check(*finally_too == (run.cancels == 1), "S-STATE-5: the second cancel takes `finally` too");
                self.check(run.cancels == 0 || run.cancels == 1 && has_finally, "a cancel too many");
                let run = self.run(id);
                run.cancels += 1;
                run.status = ExecutionStatus::Running;
                run.timer = None;
                let roles: &[usize] = if *finally_too { &[0, 1, 2] } else { &[0, 1] };
                self.call_off(id, roles, StopCause::Cancelled, *running);
            }
            Event::ExecutionFailFast { cause, running } => {
                let cause = *cause as usize;
                let is_cause = run.counts_as_failure(cause) && run.tasks[cause].status != TaskStatus::Blocked;
                let says = run.plan.definition.spec().failure_policy == FailurePolicy::FailFast;
                self.check(says && is_cause && run.plan.role(cause) == 0, "S-STATE-4: nothing failed");
                self.check(!run.is_called_off(0), "S-STATE-4: it was called off before");
                self.run(id).fails_fast = true;
                self.call_off(id, &[0], StopCause::Cancelled, *running);
            }
            Event::ExecutionTimeoutReached { timeout_micros, running } => {
                self.check(run.timer.is_some_and(|at| at <= now), "the execution's time is not up");
                let limit = run.plan.definition.spec().execution_timeout_micros;
                self.check(limit == Some(*timeout_micros), "another limit");
                let run = self.run(id);
                run.timed_out = true;
                run.timer = None;
                self.call_off(id, &[0], StopCause::ExecutionTimedOut, *running);
            }
            Event::HandlersStarted { role } => {
                let role = *role as usize;
                self.check(!run.handlers.contains(&role) && run.is_open(role), "S-STATE-5: handlers start once");
                self.check((0..role).all(|before| !run.is_open(before)), "S-STATE-5: others come first");
                let fails = run.end() == ExecutionEnd::Failed;
                self.check(role != Role::OnFailure as usize || fails, "S-STATE-5: nothing failed");
                let run = self.run(id);
                run.handlers.push(role);
                // S-STATE-7: `execution_timeout` is the time of the ordinary tasks.
                run.timer = None;
            }
            Event::ExecutionEnded { end } => {
                self.check(run.tasks.iter().all(|task| task.status.is_terminal()), "S-STATE-8: not all has ended");
                self.check(run.end() == *end, format_args!("S-STATE-3: it ended {end:?}, not {:?}", run.end()));
                let finally_ran = |task: usize| {
                    let state = &run.tasks[task];
                    run.plan.role(task) != 2
                        || run.cancels > 1
                        || run.handlers.contains(&2) && state.status != TaskStatus::Cancelled
                };
                self.check((0..run.tasks.len()).all(finally_ran), "S-STATE-5: `finally` had no turn");
                let run = self.run(id);
                run.status = (*end).into();
                run.timer = None;
                self.coverage.ended(*end);
            }
            Event::TaskReady { task } => {
                self.may_run(id, *task as usize, false);
                self.queue(id, *task as usize, recorded);
            }
            Event::ApprovalRequested { task } => {
                let task = *task as usize;
                self.may_run(id, task, true);
                self.become_status(id, task, TaskStatus::Waiting);
                let run = self.run(id);
                if let Some(Action::Approval(approval)) = &run.plan.definition.spec().tasks[task].action {
                    run.tasks[task].timer = approval.timeout_micros.map(|micros| now + micros);
                }
            }
            Event::ConditionError { task, .. } => {
                let run = &self.runs[&id];
                self.check(run.says(*task as usize) == Says::Holds, "S-DEP-3: conditions are looked at after the rule");
                self.check(self.conditions(id, *task as usize).is_none(), "S-COND-4: its conditions can be evaluated");
                self.failed_condition = Some((id, *task));
            }
            Event::ApprovalResolved { task, approved, .. } => {
                self.check(run.tasks[*task as usize].status == TaskStatus::Waiting, "nobody was asked");
                self.answered = Some((id, *task, *approved));
            }
            Event::TaskRetryDue { task } => {
                let state = &run.tasks[*task as usize];
                self.check(state.status == TaskStatus::Retrying, "it does not wait for a retry");
                self.check(state.timer.is_some_and(|at| at <= now), "S-RETRY-1: its delay is not over");
                self.queue(id, *task as usize, recorded);
            }
            Event::TaskStarted { .. } => self.task_started(id, recorded),
            Event::TaskSpawned { task, attempt, .. } => {
                let state = &run.tasks[*task as usize];
                self.check(
                    (state.status, state.attempt) == (TaskStatus::Running, *attempt),
                    "S-SAFE-2: not the live attempt",
                );
            }
            Event::TaskTimeoutReached { task, attempt, limit, timeout_micros } => {
                let (spec, state) = (run.spec(*task as usize), &run.tasks[*task as usize]);
                let key = AttemptKey { execution: id, task: *task, attempt: *attempt };
                let live = (state.status, state.attempt) == (TaskStatus::Running, *attempt);
                self.check(live && state.stopping.is_none(), "S-RETRY-5: not of a live attempt");
                let due = match limit {
                    TimeLimit::Attempt => {
                        state.timer.is_some_and(|at| at <= now) && spec.timeout_micros == Some(*timeout_micros)
                    }
                    TimeLimit::Idle => self.silent.contains(&key) && spec.idle_timeout_micros == Some(*timeout_micros),
                };
                self.check(due, "S-RETRY-5: its time is not up");
                let state = &mut self.run(id).tasks[*task as usize];
                state.timer = None;
                state.stopping = Some(StopCause::TimedOut(*limit));
                self.orders.push((key, Some(StopCause::TimedOut(*limit))));
            }
            Event::TaskEnded { .. } => self.task_ended(id, recorded),
            Event::TasksBlocked { tasks, cause } => {
                let is_bad = |task: usize| run.tasks[task].status.is_terminal() && !run.is_excused(task);
                self.check(is_bad(*cause as usize), "S-DEP-2: the cause did not fail");
                let expected = blocked_after(run, *cause as usize);
                self.check(*tasks == expected, format_args!("S-DEP-2: {tasks:?} are blocked, not {expected:?}"));
                for task in tasks {
                    self.become_status(id, *task as usize, TaskStatus::Blocked);
                }
            }
            Event::TasksSkipped { tasks, reason } => {
                self.check_skipped(id, tasks, reason);
                for task in tasks {
                    self.become_status(id, *task as usize, TaskStatus::Skipped);
                }
            }
            Event::TasksCancelled { tasks } => {
                for task in tasks {
                    let run = &self.runs[&id];
                    self.check(run.is_called_off(run.plan.role(*task as usize)), "S-STATE-8: nobody called it off");
                    self.check(run.tasks[*task as usize].status != TaskStatus::Running, "S-STATE-8: it has an attempt");
                }
                for task in tasks {
                    self.become_status(id, *task as usize, TaskStatus::Cancelled);
                }
            }
            Event::WorkflowChanged { .. }
            | Event::TemplateChanged { .. }
            | Event::ScheduleChanged { .. }
            | Event::ScheduleAdvanced { .. }
            | Event::ExecutionStarted { .. }
            | Event::ConcurrencyLimitSet { .. } => {
                self.fail("an event of nobody");
            }
        }
        // What is called off is cancelled at once: but for what the same step blocks or ends.
        if !matches!(
            recorded.event,
            Event::ExecutionCancelRequested { .. }
                | Event::ExecutionFailFast { .. }
                | Event::ExecutionTimeoutReached { .. }
        ) {
            let run = &self.runs[&id];
            for role in 0..3 {
                let left = if run.is_called_off(role) { run.idle(&[role]) } else { Vec::new() };
                self.check(left.is_empty(), format_args!("S-STATE-8: {left:?} were called off and go on"));
            }
        }
    }

    fn run(&mut self, id: ExecutionId) -> &mut Run {
        self.runs.get_mut(&id).expect("it is there")
    }

    /// What runs of these roles is told to end.
    fn call_off(&mut self, id: ExecutionId, roles: &[usize], cause: StopCause, told: u32) {
        let running = self.runs[&id].running(roles);
        self.check(running.len() == told as usize, format_args!("{told} were told to end, and {} run", running.len()));
        for task in running {
            let state = &mut self.run(id).tasks[task];
            (state.stopping, state.timer) = (Some(cause), None);
            let key = AttemptKey { execution: id, task: task as TaskIndex, attempt: state.attempt };
            self.orders.push((key, Some(cause)));
        }
    }

    /// The rule holds, and the conditions are met.
    fn may_run(&self, id: ExecutionId, task: usize, is_approval: bool) {
        let run = &self.runs[&id];
        self.check(run.tasks[task].status == TaskStatus::Pending, "it was settled before");
        self.check(run.has_turn(task), "S-STATE-5: a handler before its turn");
        self.check(run.says(task) == Says::Holds, format_args!("S-DEP-1: its rule says {:?}", run.says(task)));
        self.check(self.conditions(id, task) == Some(true), "S-COND-1: its conditions do not hold");
        self.check(run.plan.is_approval(task) == is_approval, "S-STATE-2: only approvals wait for people");
    }

    pub fn conditions(&self, id: ExecutionId, task: usize) -> Option<bool> {
        let run = &self.runs[&id];
        run.plan.conditions_hold(task, &|of| self.fact(id, of), run.go)
    }

    fn fact(&self, id: ExecutionId, task: usize) -> Fact {
        let run = &self.runs[&id];
        let (spec, state) = (run.spec(task), &run.tasks[task]);
        let has_left = matches!(state.status, TaskStatus::Completed | TaskStatus::Failed | TaskStatus::TimedOut);
        let (output, exit_code) = match &run.trigger {
            Trigger::Rerun(source) if state.reused => {
                let kept = self.fact(*source, task);
                (kept.output, kept.exit_code)
            }
            _ if has_left => (state.output.clone(), state.exit_code),
            _ => (None, None),
        };
        Fact { status: state.status, output, exit_code, attempts: state.attempt, tier: spec.metadata["tier"].clone() }
    }

    fn check_skipped(&self, id: ExecutionId, tasks: &[TaskIndex], reason: &str) {
        let run = &self.runs[&id];
        if reason == "nothing failed" {
            let handlers: Vec<TaskIndex> =
                (0..run.tasks.len()).filter(|task| run.plan.role(*task) == 1).map(|task| task as TaskIndex).collect();
            self.check(tasks == handlers, "S-STATE-5: all of `on_failure` is skipped");
            self.check(!run.is_open(0) && run.end() != ExecutionEnd::Failed, "S-STATE-5: it will be FAILED");
            return;
        }
        self.check(tasks.len() == 1, "one task at a time is skipped");
        let task = tasks[0] as usize;
        self.check(run.has_turn(task) && !run.plan.is_plain(task), "there is nothing to skip it for");
        match run.says(task) {
            Says::Never(why) => self.check(reason.contains(why), format_args!("S-DEP-3: `{reason}`, not `{why}`")),
            Says::Holds => match self.conditions(id, task) {
                Some(true) => self.fail("S-COND-1: its conditions hold"),
                Some(false) => {
                    self.check(!reason.contains("could not be evaluated"), "S-COND-4: they can be evaluated");
                }
                None => self.check(reason.contains("could not be evaluated"), format_args!("S-COND-4: `{reason}`")),
            },
            says => self.fail(format_args!("S-DEP-3: its rule says {says:?}")),
        }
    }

    /// The limits that apply to a task: how many attempts may live under each, and how many do.
    pub fn limits(&self, id: ExecutionId, task: usize) -> Vec<(Limit, usize, usize)> {
        let run = &self.runs[&id];
        let spec = run.spec(task);
        let alive = || self.runs.values().filter(|run| !run.status.is_terminal());
        let everywhere = || alive().flat_map(|run| run.live().map(move |task| run.spec(task)));
        let here = || run.live().map(|task| run.spec(task));
        let is_agent = |other: &&TaskSpec| other.agent_id == spec.agent_id;
        let is_group = |other: &&TaskSpec| other.parallel_group == spec.parallel_group;
        let own = &run.plan.definition.spec().concurrency_limits;
        let (agent, group) = (spec.agent_id.clone(), spec.parallel_group.clone());
        let own_agent = own.get(&agent).filter(|_| !agent.is_empty());
        let own_group = own.get(&format!("group:{group}")).filter(|_| !group.is_empty());
        let all = [
            (None, LimitName::Global, Some(&self.limit), everywhere().count()),
            (
                None,
                LimitName::Agent(agent.clone()),
                self.agent_limits.get(&agent),
                everywhere().filter(is_agent).count(),
            ),
            (Some(id), LimitName::ExecutionAll, own.get("*"), here().count()),
            (Some(id), LimitName::ExecutionAgent(agent), own_agent, here().filter(is_agent).count()),
            (Some(id), LimitName::ExecutionGroup(group), own_group, here().filter(is_group).count()),
        ];
        all.into_iter().filter_map(|(of, name, most, held)| Some(((of, name), *most? as usize, held))).collect()
    }

    fn task_started(&mut self, id: ExecutionId, recorded: &Recorded) {
        let Event::TaskStarted { task, attempt, ready_at, queued_at, waited, held_up_by } = &recorded.event else {
            return;
        };
        let (run, at) = (&self.runs[&id], *task as usize);
        let state = &run.tasks[at];
        self.check(!self.held && !self.draining, "S-RETRY-7: nothing is admitted now");
        self.check(run.status == ExecutionStatus::Running, "S-STATE-7: no attempt starts while it is paused");
        self.check(!run.is_called_off(run.plan.role(at)), "S-STATE-8: it was called off");
        self.check(*attempt == state.attempt + 1, "attempts count by one");
        let full = self.limits(id, at).into_iter().find(|(_, most, held)| held >= most);
        self.check(full.is_none(), format_args!("S-PAR-1: a limit has no room: {full:?}"));
        let tries = attempt - state.interruptions;
        let most = run.spec(at).retry.as_ref().map_or(1, |retry| retry.max_attempts);
        self.check(tries <= most, format_args!("S-RETRY-1: {tries} counted attempts of {most}"));
        self.check(
            ready_at <= queued_at && *queued_at == state.queued_at && *queued_at <= recorded.time,
            "S-VIEW-6: when it waited",
        );
        // What a pause puts aside is not followed through it.
        if !run.was_paused {
            let expected = self.held_up_by(id, at);
            let words = format_args!("S-VIEW-6: it waited for {held_up_by:?}, not {expected:?}");
            self.check(*held_up_by == expected, words);
        }
        let by_limit = if held_up_by.is_some() { waited.queue } else { waited.limit };
        self.check(by_limit == 0, "S-VIEW-6: it waited for a limit, or for its turn");
        let queued = (recorded.time.0 - queued_at.0) as u64;
        let told = waited.limit + waited.queue + waited.pause;
        self.check(told == queued, format_args!("S-VIEW-6: {queued} in the queue, and {told} are told"));
        if let Some(name) = held_up_by {
            let name = format!("held up by {name:?}");
            self.coverage.reached(name.split('(').next().expect("a name"));
        }
        self.check(waited.backoff == self.runs[&id].tasks[at].delay, "S-VIEW-6: the backoff that it waited for");
        self.become_status(id, at, TaskStatus::Running);
        let run = self.run(id);
        let timeout = run.spec(at).timeout_micros;
        let state = &mut run.tasks[at];
        state.attempt = *attempt;
        state.timer = timeout.map(|micros| recorded.elapsed.0 + micros);
        self.orders.push((AttemptKey { execution: id, task: *task, attempt: *attempt }, None));
    }

    fn task_ended(&mut self, id: ExecutionId, recorded: &Recorded) {
        let Event::TaskEnded { task, attempt, end, result } = &recorded.event else { return };
        let (run, at) = (&self.runs[&id], *task as usize);
        let (spec, state) = (run.spec(at), &run.tasks[at]);
        self.check(result.previous == state.last_end, "the chain of the attempts");
        let kind = result.error.as_ref().map(|error| error.kind);
        if *attempt == 0 {
            self.ended_without_attempt(id, at, *end, kind, recorded.elapsed.0);
        } else {
            let key = AttemptKey { execution: id, task: *task, attempt: *attempt };
            let live = (state.status, state.attempt) == (TaskStatus::Running, *attempt);
            self.check(live, "S-SAFE-2: the result of an attempt that is not the live one");
            let said = self.reports.get(&key).map_or(&[][..], Vec::as_slice);
            let expected = said.iter().map(|outcome| (outcome, expected_end(run, at, outcome)));
            let found = expected.clone().find(|(_, (_, error))| *error == kind);
            let Some((outcome, (expected, _))) = found else {
                let all: Vec<_> = expected.collect();
                self.fail(format_args!("{end:?} with {kind:?}, but it was reported {all:?}"));
            };
            self.check_end(*end, expected, run, at);
            let is_given_up = state.interruptions > 0 && (*end, kind) == (TaskEnd::Failed, Some(ErrorKind::Lost));
            self.check(
                *end == TaskEnd::Completed || result.output.is_none(),
                "S-DATA-1: only success leaves an output",
            );
            if *end == TaskEnd::Completed {
                self.check(result.output == outcome.output, "S-DATA-1: another output");
            }
            if is_given_up {
                self.coverage.reached("a task is given up");
            }
        }
        let _ = spec;
        let status = match end {
            TaskEnd::Completed => TaskStatus::Completed,
            TaskEnd::Failed => TaskStatus::Failed,
            TaskEnd::TimedOut => TaskStatus::TimedOut,
            TaskEnd::Cancelled => TaskStatus::Cancelled,
            TaskEnd::Interrupted => TaskStatus::Queued,
            TaskEnd::Retrying { .. } => TaskStatus::Retrying,
        };
        self.answered = None;
        let state = &mut self.run(id).tasks[at];
        state.last_end = recorded.revision;
        state.stopping = None;
        state.exit_code = result.exit_code;
        state.output = output_of(result);
        match end {
            TaskEnd::Interrupted => {
                (state.interruptions, state.delay) = (state.interruptions + 1, 0);
                self.queue(id, at, recorded);
            }
            TaskEnd::Retrying { delay_micros } => {
                state.delay = *delay_micros;
                self.become_status(id, at, status);
                self.run(id).tasks[at].timer = Some(recorded.elapsed.0 + delay_micros);
            }
            _ => self.become_status(id, at, status),
        }
    }

    fn ended_without_attempt(&self, id: ExecutionId, task: usize, end: TaskEnd, kind: Option<ErrorKind>, now: u64) {
        let run = &self.runs[&id];
        let state = &run.tasks[task];
        let is_due = state.timer.is_some_and(|at| at <= now);
        let allowed = match (state.status, end, self.answered) {
            (TaskStatus::Waiting, TaskEnd::Completed, Some((_, _, true))) => kind.is_none(),
            (TaskStatus::Waiting, TaskEnd::Failed, Some((_, _, false))) => kind == Some(ErrorKind::Rejected),
            (TaskStatus::Waiting, TaskEnd::TimedOut, None) => is_due && kind == Some(ErrorKind::Timeout),
            (TaskStatus::Queued, TaskEnd::TimedOut, None) => {
                is_due && state.attempt == 0 && kind == Some(ErrorKind::Timeout)
            }
            _ => false,
        };
        self.check(allowed, format_args!("a task without an attempt cannot end so: {state:?} ended {end:?}"));
    }

    fn check_end(&self, end: TaskEnd, expected: TaskEnd, run: &Run, task: usize) {
        match (end, expected) {
            (TaskEnd::Retrying { delay_micros }, TaskEnd::Retrying { delay_micros: most }) => {
                let jitter = run.spec(task).retry.as_ref().map_or(0.0, |retry| retry.jitter);
                let least = most as f64 * (1.0 - jitter);
                let within = delay_micros <= most + 1 && delay_micros as f64 >= least - 1.0;
                self.check(within, format_args!("S-RETRY-1: a delay of {delay_micros}, not in {least}..={most}"));
            }
            _ => self.check(end == expected, format_args!("an attempt of task {task} ended {end:?}, not {expected:?}")),
        }
    }
}

/// Whether more or fewer attempts live after it, or may.
fn changes_room(event: &Event) -> bool {
    matches!(
        event,
        Event::ExecutionStarted { .. }
            | Event::ExecutionEnded { .. }
            | Event::TaskStarted { .. }
            | Event::TaskEnded { .. }
            | Event::ConcurrencyLimitSet { .. }
    )
}

/// All default and ALL_COMPLETED tasks after a failure that are still PENDING, through their like.
fn blocked_after(run: &Run, cause: usize) -> Vec<TaskIndex> {
    let mut blocked: BTreeSet<usize> = BTreeSet::new();
    loop {
        let before = blocked.len();
        for task in 0..run.tasks.len() {
            let rule = run.spec(task).trigger_rule;
            let passes_on = matches!(rule, TriggerRule::AllSucceeded | TriggerRule::AllCompleted);
            let after = run.plan.dependencies[task].iter().any(|other| *other == cause || blocked.contains(other));
            if passes_on && after && run.tasks[task].status == TaskStatus::Pending {
                blocked.insert(task);
            }
        }
        if blocked.len() == before {
            return blocked.into_iter().map(|task| task as TaskIndex).collect();
        }
    }
}

/// What the end of an attempt means, by S-RETRY and S-STATE-8; of a retry, the longest delay.
fn expected_end(run: &Run, task: usize, outcome: &AttemptOutcome) -> (TaskEnd, Option<ErrorKind>) {
    let (spec, state) = (run.spec(task), &run.tasks[task]);
    let by_itself = match &outcome.end {
        AttemptEnd::Succeeded => return (TaskEnd::Completed, None),
        AttemptEnd::ExitCode(_) => Some(ErrorKind::ExitCode),
        AttemptEnd::Signal(_) => Some(ErrorKind::Signal),
        AttemptEnd::NotSpawned(_) => Some(ErrorKind::Spawn),
        AttemptEnd::OutputRefused(_) => Some(ErrorKind::Output),
        AttemptEnd::NotRendered(_) => Some(ErrorKind::Template),
        AttemptEnd::Stopped | AttemptEnd::Interrupted(_) => None,
    };
    let (end, kind) = match (by_itself, state.stopping) {
        (Some(kind), _) => (TaskEnd::Failed, kind),
        (None, Some(StopCause::Cancelled)) => return (TaskEnd::Cancelled, Some(ErrorKind::Cancelled)),
        (None, Some(_)) => (TaskEnd::TimedOut, ErrorKind::Timeout),
        (None, None) if spec.on_interrupt == OnInterrupt::Fail || state.interruptions >= 5 => {
            return (TaskEnd::Failed, Some(ErrorKind::Lost));
        }
        (None, None) => return (TaskEnd::Interrupted, Some(ErrorKind::Lost)),
    };
    let tries = state.attempt - state.interruptions;
    let again = spec.retry.as_ref().filter(|retry| {
        tries < retry.max_attempts
            && !run.is_called_off(run.plan.role(task))
            && kind != ErrorKind::Template
            && (retry.retry_on_errors.is_empty()
                || retry.retry_on_errors.iter().any(|entry| names(entry, kind, &outcome.end)))
    });
    match again {
        Some(retry) => (TaskEnd::Retrying { delay_micros: longest_delay(retry, tries) }, Some(kind)),
        None => (end, Some(kind)),
    }
}

/// The entries that plans use, by hand.
pub fn names(entry: &str, kind: ErrorKind, end: &AttemptEnd) -> bool {
    match entry {
        "EXIT_CODE=75" => *end == AttemptEnd::ExitCode(75),
        "/(?i)code 1/" => matches!(end, AttemptEnd::ExitCode(code) if code.to_string().starts_with('1')),
        "LOST" | "TEMPLATE" => false,
        entry => entry == kind.as_str(),
    }
}

fn longest_delay(retry: &RetrySpec, tries: u32) -> u64 {
    let n = f64::from(tries - 1);
    let seconds = match &retry.backoff {
        None => 1.0,
        Some(BackoffSpec::Fixed { delay }) => *delay,
        Some(BackoffSpec::Linear { initial_delay, increment }) => initial_delay + n * increment,
        Some(BackoffSpec::Exponential { initial_delay, multiplier }) => initial_delay * multiplier.powf(n),
    };
    (seconds.min(retry.max_delay_seconds.unwrap_or(3_600.0)) * 1e6).round() as u64
}

fn output_of(result: &AttemptResult) -> Option<Value> {
    let output = result.output.as_ref()?;
    Some(serde_json::from_str(&output.json).expect("an output is JSON"))
}
