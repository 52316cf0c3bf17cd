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
    Answer, Message, Refusal, Request, Status, Stopped,
    batch::Rows,
    clock::Clock,
    read::{ReadError, Reads},
    requests::{Known, Requests},
    watch::Hub,
};
use crate::{
    machine::{
        execution::ExecutionStatus,
        ids::{Actor, ExecutionId, Tick},
        message::{Command, Content, Effect, Event, Rejection, Reply},
        step::{Machine, Step},
    },
    store::{Store, StoreError},
};

/// Commands in one batch: enough to fill a sync, few enough that a batch stays well under a hundred milliseconds.
const COMMANDS_AT_ONCE: usize = 2_048;
/// Bytes of text in one batch, beyond which no more is taken: with the largest single message it stays far below the
/// largest batch that the store takes.
const BYTES_AT_ONCE: usize = 32 * 1_024 * 1_024;
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
    /// Whether the disk has room for new work, asked at most once a batch.
    pub room_on_disk: Option<bool>,
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
        if let Err(fatal) = outcome {
            let reason = chain(&fatal);
            tracing::error!(%reason, "the engine stops: nothing more is acknowledged");
            return Err(Stopped { reason: reason.into() });
        }
        self.store.close().map_err(|error| Stopped { reason: chain(&error).into() })
    }

    fn turn_over(&mut self) -> Result<(), Fatal> {
        // What recovery found ready starts without waiting for a command.
        self.batch(Vec::new())?;
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

    /// One batch: decide, make durable, then let out.
    fn batch(&mut self, messages: Vec<Message>) -> Result<(), Fatal> {
        let tick = self.clock.tick();
        self.room_on_disk = None;
        let mut step = Step::default();
        let mut waiting: Vec<Waiting> = Vec::new();
        for message in messages {
            match message {
                Message::Requests { requests, reply } => {
                    let answers: Result<_, Fatal> =
                        requests.into_iter().map(|request| self.request(request, tick, &mut step)).collect();
                    waiting.push((reply, answers?));
                }
                Message::Facts(facts) => {
                    for fact in facts {
                        self.fact(fact, tick, &mut step);
                    }
                }
                Message::Stop => {}
            }
        }
        self.machine.apply_due(tick, DEADLINES_AT_ONCE, &mut step);
        self.commit(&step, tick)?;
        self.let_out(step, waiting);
        Ok(())
    }

    fn commit(&mut self, step: &Step, tick: Tick) -> Result<(), Fatal> {
        let mut rows = Rows::of_events(&step.events, self.machine.state());
        self.requests.write(&mut rows, &self.reads, tick)?;
        let loaded = std::mem::take(&mut self.loaded);
        if rows.is_empty() {
            self.machine.state_mut().drop_idle(loaded);
            return Ok(());
        }
        let touched = std::mem::take(&mut rows.touched);
        for id in std::mem::take(&mut rows.snapshots) {
            self.machine.state_mut().snapshot_written(id);
        }
        self.store.commit(rows.into_batch(self.machine.state()))?;
        self.machine.state_mut().drop_idle(touched.into_iter().chain(loaded));
        Ok(())
    }

    fn let_out(&mut self, step: Step, waiting: Vec<Waiting>) {
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
        for (reply, answers) in waiting {
            // A caller that went away meanwhile does not want its answer.
            let _ = reply.send(answers);
        }
        if !step.effects.is_empty() && self.effects.blocking_send(step.effects).is_err() {
            tracing::debug!("the executor is gone; its attempts will be recovered");
        }
    }

    fn request(&mut self, request: Request, tick: Tick, step: &mut Step) -> Result<Result<Answer, Refusal>, Fatal> {
        if let Some(id) = &request.id {
            match self.requests.look_up(id, &self.reads, tick)? {
                Known::New => {}
                Known::Repeated(reply) => return Ok(Ok(Answer { reply, repeated: true })),
                Known::Reused => return Ok(Err(Refusal::RequestIdReused)),
            }
        }
        if is_new_work(&request.command) && !self.has_room() {
            return Ok(Err(Refusal::StoreFull));
        }
        self.load(&request.command)?;
        let reply = match self.machine.apply(request.command, &request.actor, tick, step) {
            Ok(reply) => reply,
            Err(rejection) => return Ok(Err(rejection.into())),
        };
        if let Some(id) = &request.id {
            self.requests.succeeded(id, reply.clone(), tick);
        }
        Ok(Ok(Answer { reply, repeated: false }))
    }

    fn has_room(&mut self) -> bool {
        *self.room_on_disk.get_or_insert_with(|| self.store.free_for_new_work())
    }

    fn fact(&mut self, fact: Command, tick: Tick, step: &mut Step) {
        match self.machine.apply(fact, &Actor::Noxd, tick, step) {
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
            if let Some(record) = self.reads.workflow(&id)? {
                self.machine.state_mut().load_workflow(id, Arc::new(record));
            }
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
}

/// Refused without room on the disk; completions, controls and deletions have a reserve (S-SAFE-5).
fn is_new_work(command: &Command) -> bool {
    matches!(command, Command::CreateWorkflow { .. } | Command::UpdateWorkflow { .. } | Command::StartExecution { .. })
}

/// An error with everything behind it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        words.push_str(": ");
        words.push_str(&cause.to_string());
        source = cause.source();
    }
    words
}
