//! The loop of the one writer: take what waits, decide it, make it durable, then answer, tell and do.
//!
//! Commands that arrive while a batch is being synced are the next batch: that is the group commit. Nothing leaves
//! before its own batch is durable. A failed commit is fatal: nothing more is acknowledged, and recovery decides.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use tokio::sync::{Semaphore, mpsc, watch};

use super::{
    Answer, Message, Refusal, Request, Status, Stopped, Wanted,
    batch::Rows,
    chain,
    clock::Clock,
    read::{ReadError, Reads},
    requests::{Known, Requests},
    watch::Hub,
};
use crate::{
    machine::{
        decide,
        execution::ExecutionStatus,
        ids::{Actor, ExecutionId, Tick, WorkflowId},
        message::{Command, Content, Effect, Event, Operation, Rejection, Reply},
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

type Waiting = (tokio::sync::oneshot::Sender<Vec<Result<Answer, Refusal>>>, Vec<Result<Answer, Refusal>>);

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
        let patience = self.patience();
        let first = match self.messages.recv_timeout(patience) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => return Some(Vec::new()),
            Err(RecvTimeoutError::Disconnected) => return None,
        };
        let (mut commands, mut bytes) = (first.commands(), first.weight());
        let mut messages = vec![first];
        while commands < COMMANDS_AT_ONCE
            && bytes < BYTES_AT_ONCE
            && let Ok(next) = self.messages.try_recv()
        {
            commands += next.commands();
            bytes += next.weight();
            messages.push(next);
        }
        self.room.add_permits(messages.len());
        Some(messages)
    }

    fn patience(&mut self) -> Duration {
        let Some(deadline) = self.machine.state().next_deadline() else { return LONGEST_WAIT };
        let now = self.clock.tick().elapsed;
        Duration::from_micros(deadline.0.saturating_sub(now.0)).min(LONGEST_WAIT)
    }

    /// One batch: decide, make durable, then let out. One whose events grow large is committed in parts.
    fn batch(&mut self, messages: Vec<Message>) -> Result<(), Fatal> {
        let mut batch = Batch { tick: self.clock.tick(), step: Step::default(), waiting: Vec::new() };
        self.has_room = self.store.free_for_new_work();
        self.begun |= messages.iter().any(|message| matches!(message, Message::Begin));
        self.machine.state_mut().hold_admission(!self.begun || !self.has_room);
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
                        self.part(&mut batch)?;
                    }
                }
                Message::Begin | Message::Stop => {}
            }
        }
        self.machine.apply_due(batch.tick, DEADLINES_AT_ONCE, &mut batch.step);
        self.commit(&batch)?;
        self.let_out(batch);
        Ok(())
    }

    /// Commits what there is, if it has grown large. Callers are answered at the end of their own message.
    fn part(&mut self, batch: &mut Batch) -> Result<(), Fatal> {
        let weight: usize = batch.step.events.iter().map(|recorded| recorded.event.weight()).sum();
        if weight < EVENT_BYTES_AT_ONCE {
            return Ok(());
        }
        self.commit(batch)?;
        let next = Batch { tick: self.clock.tick(), step: Step::default(), waiting: Vec::new() };
        let part = std::mem::replace(batch, next);
        self.let_out(part);
        Ok(())
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), Fatal> {
        let mut rows = Rows::of_events(&batch.step.events, self.machine.state());
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
        let rows = rows.into_batch(self.machine.state());
        self.wait_for_room(&rows)?;
        self.store.commit(rows)?;
        self.machine.state_mut().drop_idle(touched.into_iter().chain(loaded));
        Ok(())
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
        let Batch { step, waiting, .. } = batch;
        for recorded in &step.events {
            if let Event::WorkflowChanged { record: Some(record), version, .. } = &recorded.event
                && let Content::Ready(definition) = &record.content
            {
                self.reads.remember(&recorded.workflow, *version, definition);
            }
        }
        self.hub.publish(&step.events);
        let state = self.machine.state();
        self.status.send_replace(Status {
            concurrency_limit: state.admission().limit(),
            running_tasks: state.admission().running(),
            queued_tasks: state.admission().queued(),
            active_executions: state.alive_count(),
            hot_executions: state.hot_count(),
        });
        // Before the answers: who is told that nothing starts any more can rely on what was started being known.
        if !step.effects.is_empty() && self.effects.blocking_send(step.effects).is_err() {
            tracing::debug!("the executor is gone; its attempts will be recovered");
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
                Known::Repeated(reply) => return Ok(Ok(Answer { reply, repeated: true })),
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
        Ok(Ok(Answer { reply, repeated: false }))
    }

    fn apply(&mut self, command: Command, actor: &Actor, batch: &mut Batch) -> Result<Result<Reply, Rejection>, Fatal> {
        self.load(&command)?;
        Ok(self.machine.apply(command, actor, batch.tick, &mut batch.step))
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
        let active = match decide::controlled(self.machine.state(), operation, workflow) {
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
        for id in needs.executions {
            let Some(summary) = self.reads.summary(id)? else { continue };
            if matches!(summary.status, ExecutionStatus::Running | ExecutionStatus::Paused) {
                if let Some(execution) = self.reads.execution(id)? {
                    self.machine.state_mut().load_execution(execution);
                    self.loaded.push(id);
                }
            } else {
                self.machine.state_mut().note_ended(id, summary.workflow, summary.status);
            }
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

/// A batch that is being made.
struct Batch {
    tick: Tick,
    step: Step,
    waiting: Vec<Waiting>,
}

/// Refused without room on the disk; completions, controls and deletions have a reserve (S-SAFE-5).
fn is_new_work(command: &Command) -> bool {
    matches!(command, Command::CreateWorkflow { .. } | Command::UpdateWorkflow { .. } | Command::StartExecution { .. })
}
