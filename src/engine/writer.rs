//! The loop of the one writer: take what waits, decide it, make it durable, then answer, tell and do.
//!
//! Commands that arrive while a batch is being synced are the next batch: that is the group commit. Nothing leaves
//! before its own batch is durable. A failed commit is fatal: nothing more is acknowledged, and recovery decides.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::{
    AgentLimit, Answer, Message, Refusal, Request, Status, Stopped, Wanted,
    batch::{OpenRows, Rows},
    chain,
    clock::Clock,
    read::{ReadError, Reads},
    recent::{Followed, Recent, Shown},
    requests::{Known, Requests},
    watch::Hub,
};
use crate::{
    machine::{
        control,
        explain::{self, Blocker},
        ids::{Actor, ExecutionId, ScheduleId, TaskIndex, Tick, WorkflowId},
        judgement::TaskResult,
        message::{Command, Content, Effect, Event, Operation, Rejection, Reply, Trigger},
        parallel::Admission,
        step::{Machine, Step},
    },
    store::{Store, StoreError},
};

/// Commands in one batch: enough to fill a sync, few enough that a batch stays well under a hundred milliseconds.
const COMMANDS_AT_ONCE: usize = 2_048;
/// Bytes of text in one batch, beyond which no more is taken: with the largest single message it stays far below the
/// largest batch that the store takes.
const BYTES_AT_ONCE: usize = 32 * 1_024 * 1_024;
/// Bytes of events after which a batch is committed though more commands wait: some have much larger events than texts.
const EVENT_BYTES_AT_ONCE: usize = 32 * 1_024 * 1_024;
/// How long a full disk is left alone before it is looked at again.
const FULL_REST: Duration = Duration::from_millis(500);
/// Deadlines in one batch.
const DEADLINES_AT_ONCE: usize = 1_024;
/// Schedules in one batch: ten thousand that are due at once take some forty.
const SCHEDULES_AT_ONCE: usize = 256;
/// Longest wait without a look at the clock: after a suspend, deadlines are late by so much at most.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Everything that the writer owns.
pub(super) struct Writer {
    pub machine: Machine,
    pub store: Store,
    pub clock: Box<dyn Clock>,
    pub reads: Reads,
    pub hub: Arc<Hub>,
    pub messages: Receiver<Message>,
    pub room: Arc<Semaphore>,
    pub effects: mpsc::Sender<Vec<Effect>>,
    pub status: watch::Sender<Status>,
    pub requests: Requests,
    pub recent: Arc<Recent>,
    pub followed: Followed,
    /// Rows of events that the next events of their executions go into.
    pub open_rows: OpenRows,
    pub at_once: fn(&Effect) -> Option<Command>,
    /// Facts about what was over as soon as it was begun, for the next batch.
    pub begun_at_once: Vec<Command>,
    /// Executions loaded for commands of the batch that is being made.
    pub loaded: Vec<ExecutionId>,
    /// Whether work may be admitted: what a dead noxd left behind is ended.
    pub begun: bool,
    /// Whether the disk has room for new work, asked once a batch.
    pub has_room: bool,
}

/// Why the writer cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fatal {
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the store cannot be read")]
    Read(#[from] ReadError),
}

type Waiting = (oneshot::Sender<Vec<Result<Answer, Refusal>>>, Vec<Result<Answer, Refusal>>);
type Explained = Result<Vec<Blocker>, Rejection>;

impl Writer {
    /// Runs until it is told to stop, every handle is gone, or the store fails.
    pub fn run(mut self) -> Result<(), Stopped> {
        let outcome = self.turn_over();
        // Nobody waits for room in a queue that nobody empties.
        self.room.close();
        if let Err(fatal) = outcome {
            let reason = chain(&fatal);
            tracing::error!(%reason, "the engine stops: nothing more is acknowledged");
            return Err(Stopped { reason: reason.into() });
        }
        self.store.close().map_err(|error| Stopped { reason: chain(&error).into() })
    }

    fn turn_over(&mut self) -> Result<(), Fatal> {
        loop {
            let Some(messages) = self.take() else { return Ok(()) };
            let stop = messages.iter().any(|message| matches!(message, Message::Stop));
            self.batch(messages)?;
            if stop {
                return Ok(());
            }
        }
    }

    /// Waits for a message or the next deadline, then takes what is there.
    fn take(&mut self) -> Option<Vec<Message>> {
        let (mut commands, mut bytes) = (self.begun_at_once.len(), 0);
        let mut messages = Vec::new();
        if commands == 0 {
            let patience = self.patience();
            let first = match self.messages.recv_timeout(patience) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => return Some(Vec::new()),
                Err(RecvTimeoutError::Disconnected) => return None,
            };
            (commands, bytes) = (first.commands(), first.weight());
            messages.push(first);
        }
        while commands < COMMANDS_AT_ONCE
            && bytes < BYTES_AT_ONCE
            && let Ok(next) = self.messages.try_recv()
        {
            commands += next.commands();
            bytes += next.weight();
            messages.push(next);
        }
        if !messages.is_empty() {
            self.room.add_permits(messages.len());
        }
        Some(messages)
    }

    fn patience(&mut self) -> Duration {
        let (deadline, firing) = (self.machine.state().next_deadline(), self.machine.state().next_firing());
        if deadline.is_none() && firing.is_none() {
            return LONGEST_WAIT;
        }
        let now = self.clock.tick();
        let until_deadline = deadline.map(|at| at.0.saturating_sub(now.elapsed.0));
        // The clock of walls may be put: it is looked at again after LONGEST_WAIT.
        let until_firing = firing.map(|at| u64::try_from(at.0.saturating_sub(now.wall.0)).unwrap_or(0));
        let first = until_deadline.into_iter().chain(until_firing).min();
        first.map_or(LONGEST_WAIT, Duration::from_micros).min(LONGEST_WAIT)
    }

    /// One batch: decide, make durable, then let out. One whose events grow large is committed in parts.
    fn batch(&mut self, messages: Vec<Message>) -> Result<(), Fatal> {
        let mut batch = Batch::at(self.clock.tick());
        self.has_room = self.store.free_for_new_work();
        self.begun |= messages.iter().any(|message| matches!(message, Message::Begin));
        self.machine.state_mut().hold_admission(!self.begun || !self.has_room);
        // Before what was asked meanwhile: a change or a pause passes over no time that has come.
        self.fire(&mut batch)?;
        for fact in std::mem::take(&mut self.begun_at_once) {
            self.fact(fact, &mut batch);
            self.settle(&mut batch)?;
            self.part(&mut batch)?;
        }
        for message in messages {
            match message {
                Message::Requests { requests, reply } => {
                    let mut answers = Vec::with_capacity(requests.len());
                    for request in requests {
                        answers.push(self.request(request, &mut batch)?);
                    }
                    batch.waiting.push((reply, answers));
                }
                Message::Facts(facts) => {
                    for fact in facts {
                        self.fact(fact, &mut batch);
                        self.settle(&mut batch)?;
                        self.part(&mut batch)?;
                    }
                }
                Message::Explain { execution, task, reply } => {
                    let blockers = self.explain(execution, &task)?;
                    batch.explained.push((reply, blockers));
                }
                Message::Begin | Message::Stop => {}
            }
        }
        self.load_due(batch.tick)?;
        self.machine.apply_due(batch.tick, DEADLINES_AT_ONCE, &mut batch.step);
        self.settle(&mut batch)?;
        self.fire(&mut batch)?;
        self.commit(&mut batch)?;
        self.let_out(batch);
        Ok(())
    }

    /// Commits what there is, if it has grown large. Callers are answered at the end of their own message.
    fn part(&mut self, batch: &mut Batch) -> Result<(), Fatal> {
        if batch.weigh() < EVENT_BYTES_AT_ONCE {
            return Ok(());
        }
        self.commit(batch)?;
        let part = std::mem::replace(batch, Batch::at(self.clock.tick()));
        self.let_out(part);
        Ok(())
    }

    fn commit(&mut self, batch: &mut Batch) -> Result<(), Fatal> {
        let mut rows = Rows::of_events(&batch.step.events, self.machine.state(), &mut self.open_rows);
        let learnt = rows.learn(self.machine.state(), &self.reads)?;
        self.requests.write(&mut rows, &self.reads, batch.tick)?;
        let loaded = std::mem::take(&mut self.loaded);
        if rows.is_empty() {
            self.machine.state_mut().drop_idle(loaded);
            return Ok(());
        }
        let touched = std::mem::take(&mut rows.touched);
        for id in std::mem::take(&mut rows.snapshots) {
            self.machine.state_mut().snapshot_written(id);
        }
        for (id, mark) in std::mem::take(&mut rows.marks) {
            self.machine.state_mut().mark_written(id, mark);
        }
        for (workflow, version, durations) in learnt {
            self.machine.state_mut().load_durations(workflow, version, durations);
        }
        let rows = rows.into_batch(self.machine.state());
        self.wait_for_room(&rows)?;
        self.store.commit(rows)?;
        self.note(batch);
        self.show(batch);
        self.machine.state_mut().drop_idle(touched.into_iter().chain(loaded));
        Ok(())
    }

    /// Tells noxd's own log what a workflow's author should hear of (S-COND-4). The values that a condition looked at are
    /// in its event; they may be secret, and are not logged.
    fn note(&self, batch: &Batch) {
        for recorded in &batch.step.events {
            if let (Event::ConditionError { task, expression, .. }, Some(id)) = (&recorded.event, recorded.execution)
                && let Some(execution) = self.machine.state().execution(id)
            {
                let (workflow, task) = (&execution.workflow, &execution.definition.task(*task).id);
                let words = "a condition could not be evaluated, and is not met: the task is skipped";
                tracing::warn!(%workflow, execution = %id, %task, %expression, "{words}");
            }
        }
    }

    /// Takes hold of what answers show, while the machine has it.
    fn show(&mut self, batch: &mut Batch) {
        let state = self.machine.state();
        batch.ended = self.followed.follow(&batch.step.events, state);
        let ended: HashMap<ExecutionId, &Shown> =
            batch.ended.iter().filter_map(|(id, shown)| Some((*id, shown.as_ref()?))).collect();
        for answer in batch.waiting.iter_mut().flat_map(|(_, answers)| answers).flatten() {
            if let Reply::Executions(ids) = &answer.reply
                && let [id] = ids[..]
                && !answer.repeated
            {
                answer.shown = ended.get(&id).map(|shown| (*shown).clone()).or_else(|| self.followed.shown(id, state));
            }
        }
    }

    /// A full disk delays everybody's answer and loses nothing: reads go on, and so does this when there is space.
    fn wait_for_room(&mut self, rows: &crate::store::Batch) -> Result<(), Fatal> {
        let mut told = false;
        loop {
            match self.store.make_room(rows) {
                Err(StoreError::Full { .. }) => {
                    if !told {
                        tracing::error!("the disk is full: nothing can be recorded until there is space");
                        told = true;
                    }
                    std::thread::sleep(FULL_REST);
                    // It asks for the missing reserve to be made anew.
                    self.has_room = self.store.free_for_new_work();
                }
                other => return Ok(other?),
            }
        }
    }

    fn let_out(&mut self, batch: Batch) {
        let Batch { mut step, waiting, explained, ended, .. } = batch;
        for recorded in &step.events {
            if let Event::WorkflowChanged { record: Some(record), version, .. } = &recorded.event
                && let (Content::Ready(definition), Some(id)) = (&record.content, &recorded.workflow)
            {
                self.reads.remember(id, *version, definition);
            }
        }
        self.hub.publish(&step.events);
        self.recent.publish(ended);
        let state = self.machine.state();
        self.status.send_replace(Status {
            concurrency_limit: state.admission().limit(),
            running_tasks: state.admission().running(),
            queued_tasks: state.admission().queued(),
            active_executions: state.alive_count(),
            hot_executions: state.hot_count(),
            agent_limits: agent_limits(state.admission()),
        });
        let at_once = self.at_once;
        let facts = &mut self.begun_at_once;
        step.effects.retain(|effect| at_once(effect).map(|fact| facts.push(fact)).is_none());
        // Before the answers: who is told that nothing starts any more can rely on what was started being known.
        if !step.effects.is_empty() && self.effects.blocking_send(step.effects).is_err() {
            tracing::debug!("the executor is gone; its attempts will be recovered");
        }
        for (reply, blockers) in explained {
            // The same.
            let _ = reply.send(blockers);
        }
        for (reply, answers) in waiting {
            // A caller that went away meanwhile does not want its answer.
            let _ = reply.send(answers);
        }
    }

    fn request(&mut self, request: Request, batch: &mut Batch) -> Result<Result<Answer, Refusal>, Fatal> {
        if let Some(id) = &request.id {
            match self.requests.look_up(id, &self.reads, batch.tick)? {
                Known::New => {}
                Known::Repeated(reply) => return Ok(Ok(Answer { reply, repeated: true, shown: None })),
                Known::Reused => return Ok(Err(Refusal::RequestIdReused)),
            }
        }
        let done = match request.wanted {
            Wanted::Command(command) if is_new_work(&command) && !self.has_room => return Ok(Err(Refusal::StoreFull)),
            Wanted::Command(command) => self.apply(command, &request.actor, batch)?,
            Wanted::ControlAll { operation, workflow } => {
                self.control_all(operation, &workflow, &request.actor, batch)?
            }
        };
        let reply = match done {
            Ok(reply) => reply,
            Err(rejection) => return Ok(Err(rejection.into())),
        };
        if let Some(id) = &request.id {
            self.requests.succeeded(id, reply.clone(), batch.tick);
        }
        self.part(batch)?;
        Ok(Ok(Answer { reply, repeated: false, shown: None }))
    }

    fn apply(&mut self, command: Command, actor: &Actor, batch: &mut Batch) -> Result<Result<Reply, Rejection>, Fatal> {
        self.load(&command)?;
        let applied = self.machine.apply(command, actor, batch.tick, &mut batch.step);
        self.settle(batch)?;
        Ok(applied)
    }

    /// Gives the machine what its conditions look at, until the step is whole. What tasks of this batch left it has.
    fn settle(&mut self, batch: &mut Batch) -> Result<(), Fatal> {
        while !batch.step.needs.is_empty() {
            for (id, task) in std::mem::take(&mut batch.step.needs) {
                let result = self.result(id, task)?;
                self.machine.state_mut().load_result(id, task, result);
            }
            self.machine.settle(batch.tick, &mut batch.step);
        }
        Ok(())
    }

    fn result(&self, id: ExecutionId, task: TaskIndex) -> Result<TaskResult, ReadError> {
        let held = self.machine.state().execution(id).map(|held| (&held.trigger, &held.tasks[task as usize]));
        match held {
            Some((Trigger::Rerun(source), state)) if state.reused => self.reads.result(*source, task),
            Some((_, state)) => self.reads.result_at(id, task, state.last_end),
            None => self.reads.result(id, task),
        }
    }

    /// Loads executions whose first deadline has come.
    fn load_due(&mut self, tick: Tick) -> Result<(), Fatal> {
        for id in self.machine.state().due_elsewhere(tick, DEADLINES_AT_ONCE) {
            self.load_alive(id)?;
        }
        Ok(())
    }

    /// Decides about the times of schedules that have come, each with what follows at once: a schedule, its counters and
    /// its executions are one step, and so are in one commit.
    fn fire(&mut self, batch: &mut Batch) -> Result<(), Fatal> {
        for _ in 0..SCHEDULES_AT_ONCE {
            let Some(id) = self.machine.state().first_firing(batch.tick).cloned() else { break };
            self.load_schedule(&id)?;
            for execution in self.machine.state().needs_of_firing(&id) {
                self.load_alive(execution)?;
            }
            self.machine.fire(&id, batch.tick, &mut batch.step);
            self.settle(batch)?;
            self.part(batch)?;
        }
        Ok(())
    }

    /// Loads a schedule with what it starts.
    fn load_schedule(&mut self, id: &ScheduleId) -> Result<(), Fatal> {
        if self.machine.state().schedule(id).is_none() {
            let record = self.reads.schedule(id)?;
            let record = record.ok_or_else(|| ReadError::Missing(format!("schedule `{id}`")))?;
            self.machine.state_mut().load_schedule(record);
        }
        if let Some(workflow) = self.machine.state().schedule(id).map(|record| record.spec.workflow.clone()) {
            self.load_workflow(&workflow)?;
        }
        if let Some((id, version)) = self.machine.state().needs_durations_of(id) {
            let durations = self.reads.durations(&id, version)?;
            self.machine.state_mut().load_durations(id, version, durations);
        }
        Ok(())
    }

    fn load_alive(&mut self, id: ExecutionId) -> Result<(), Fatal> {
        let execution = self.reads.execution(id)?;
        let execution = execution.ok_or_else(|| ReadError::Missing(format!("the events of execution {id}")))?;
        self.machine.state_mut().load_execution(execution);
        self.loaded.push(id);
        Ok(())
    }

    /// One after the other, so that a batch stays bounded however many there are. One that is being cancelled, and so
    /// cannot be paused or resumed, does not keep the others from it.
    fn control_all(
        &mut self,
        operation: Operation,
        workflow: &WorkflowId,
        actor: &Actor,
        batch: &mut Batch,
    ) -> Result<Result<Reply, Rejection>, Fatal> {
        self.load_workflow(workflow)?;
        let active = match control::controlled(self.machine.state(), operation, workflow) {
            Ok(active) => active,
            Err(rejection) => return Ok(Err(rejection)),
        };
        let mut done = Vec::with_capacity(active.len());
        let mut refused = None;
        for execution in active {
            let one = Command::Control { operation, workflow: workflow.clone(), execution };
            match self.apply(one, actor, batch)? {
                Ok(_) => done.push(execution),
                Err(rejection) => refused = Some(rejection),
            }
            self.part(batch)?;
        }
        Ok(match refused {
            Some(rejection) if done.is_empty() => Err(rejection),
            _ => Ok(Reply::Executions(done)),
        })
    }

    /// Why a task does not run: only the machine itself knows what its limits say.
    fn explain(&mut self, id: ExecutionId, task: &str) -> Result<Explained, Fatal> {
        if self.machine.state().execution(id).is_none()
            && let Some(summary) = self.reads.summary(id)?
        {
            if summary.status.is_terminal() {
                self.machine.state_mut().note_ended(id, summary.workflow, summary.status);
            } else {
                self.load_alive(id)?;
            }
        }
        Ok(explain::explain(self.machine.state(), id, task))
    }

    fn fact(&mut self, fact: Command, batch: &mut Batch) {
        match self.machine.apply(fact, &Actor::Noxd, batch.tick, &mut batch.step) {
            Ok(Reply::Taken) => {}
            Ok(reply) => tracing::warn!(?reply, "a fact was answered like a request"),
            Err(Rejection::StaleAttempt(key)) => tracing::debug!(?key, "a report came too late and changes nothing"),
            Err(rejection) => tracing::warn!(%rejection, "a fact was refused"),
        }
    }

    /// Loads what the command needs and the machine does not hold.
    fn load(&mut self, command: &Command) -> Result<(), Fatal> {
        let needs = self.machine.state().needs(command);
        for id in needs.workflows {
            self.load_workflow(&id)?;
        }
        for id in needs.templates {
            if let Some(record) = self.reads.template(&id)? {
                self.machine.state_mut().load_template(record);
            }
        }
        for id in needs.schedules {
            if self.reads.schedule(&id)?.is_some() {
                self.load_schedule(&id)?;
            }
        }
        for id in needs.executions {
            let Some(summary) = self.reads.summary(id)? else { continue };
            if summary.status.is_terminal() {
                self.machine.state_mut().note_ended(id, summary.workflow, summary.status);
            } else {
                self.load_alive(id)?;
            }
        }
        for id in needs.sources {
            // One that runs is refused by the machine's own, newer state of it.
            let source = match self.machine.state().execution(id) {
                Some(held) => Some(held.clone()),
                None => self.reads.execution(id)?,
            };
            if let Some(source) = source {
                self.load_workflow(&source.workflow)?;
                self.machine.state_mut().load_source(source);
            }
        }
        if let Some((id, version)) = self.machine.state().needs_durations(command) {
            let durations = self.reads.durations(&id, version)?;
            self.machine.state_mut().load_durations(id, version, durations);
        }
        Ok(())
    }

    fn load_workflow(&mut self, id: &WorkflowId) -> Result<(), Fatal> {
        if !self.machine.state().holds_workflow(id)
            && let Some(record) = self.reads.workflow(id)?
        {
            self.machine.state_mut().load_workflow(id.clone(), Arc::new(record));
        }
        Ok(())
    }
}

fn agent_limits(admission: &Admission) -> Vec<AgentLimit> {
    let limits = admission.agent_limits();
    limits.map(|(agent, most)| AgentLimit { agent: agent.into(), most, running: admission.running_of(agent) }).collect()
}

/// A batch that is being made.
struct Batch {
    tick: Tick,
    step: Step,
    waiting: Vec<Waiting>,
    explained: Vec<(oneshot::Sender<Explained>, Explained)>,
    /// Executions that ended in it.
    ended: Vec<(ExecutionId, Option<Shown>)>,
    /// What the first so many events weigh.
    weighed: usize,
    weight: usize,
}

impl Batch {
    fn at(tick: Tick) -> Self {
        Self {
            tick,
            step: Step::default(),
            waiting: Vec::new(),
            explained: Vec::new(),
            ended: Vec::new(),
            weighed: 0,
            weight: 0,
        }
    }

    /// What its events weigh. Each is looked at once.
    fn weigh(&mut self) -> usize {
        let new = self.step.events.iter().skip(self.weighed);
        self.weight += new.map(|recorded| recorded.event.weight()).sum::<usize>();
        self.weighed = self.step.events.len();
        self.weight
    }
}

/// Refused without room on the disk; completions, controls and deletions have a reserve (S-SAFE-5).
fn is_new_work(command: &Command) -> bool {
    matches!(
        command,
        Command::CreateWorkflow { .. }
            | Command::UpdateWorkflow { .. }
            | Command::CreateTemplate { .. }
            | Command::UpdateTemplate { .. }
            | Command::InstantiateTemplate { .. }
            | Command::CreateSchedule { .. }
            | Command::UpdateSchedule { .. }
            | Command::TriggerSchedule { .. }
            | Command::BackfillSchedule { .. }
            | Command::StartExecution { .. }
            | Command::RerunExecution { .. }
    )
}
