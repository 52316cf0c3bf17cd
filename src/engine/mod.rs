//! The engine: one writer decides; everything else asks it, or reads what is durable.
//!
//! [`Engine::open`] recovers what is alive and starts the writer's thread; [`Handle`] is what the rest of noxd holds:
//! cheap to clone, with a bounded queue behind it. The engine knows no executor: it sends effects to a bounded channel,
//! and facts come back through the handle.
//!
//! Read [`writer`] for the loop, [`read`] for reads, [`watch`] for streams.

pub mod batch;
pub mod clock;
pub mod read;
pub mod recent;
pub mod recovery;
pub mod requests;
pub mod watch;
mod writer;

use std::{
    sync::{Arc, mpsc::SyncSender},
    thread::JoinHandle,
};

use tokio::sync::{Semaphore, mpsc, oneshot};

use self::{
    batch::OpenRows,
    clock::SystemClock,
    read::{ReadError, Reads},
    recent::{End, Followed, Recent, Shown},
    recovery::LostAttempt,
    requests::{RequestId, Requests},
    watch::{Hub, Scope, Watch},
    writer::Writer,
};
use crate::{
    machine::{
        explain::Blocker,
        ids::{Actor, ExecutionId, Revision, WorkflowId},
        message::{Command, Effect, Operation, Rejection, Reply},
        step::Machine,
    },
    store::Store,
};

/// Messages that may wait for the writer; who finds no room waits for it. One message has up to 1,000 commands.
const QUEUE: usize = 1_024;
/// Batches of effects that may wait for the executor, which takes them at once.
const EFFECT_BATCHES: usize = 64;

/// What the engine is opened with.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Most attempts alive at once.
    pub concurrency_limit: u32,
    /// Where chance begins.
    pub seed: u64,
    /// What is over as soon as it is begun: there is nothing to start and nothing to wait for. The writer takes such a
    /// fact with its next batch, without a way through other threads. Everything else goes to the executor.
    pub at_once: fn(&Effect) -> Option<Command>,
}

/// The engine, as its owner holds it.
pub struct Engine {
    /// For everybody else.
    pub handle: Handle,
    /// What the executor is to do.
    pub effects: mpsc::Receiver<Vec<Effect>>,
    /// Attempts that were alive when noxd went down: their processes are to be ended, then they are to be reported
    /// interrupted.
    pub interrupted: Vec<LostAttempt>,
    /// Resolves when the writer has stopped; an error says why it could not go on.
    pub stopped: oneshot::Receiver<Result<(), Stopped>>,
    thread: JoinHandle<()>,
}

/// Why an engine could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its rows cannot be read.
    #[error("recovery failed")]
    Recovery(#[from] ReadError),
    /// No thread.
    #[error("the writer's thread could not be started")]
    Thread(#[from] std::io::Error),
}

/// The engine has stopped: it takes nothing more.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the engine has stopped: {reason}")]
pub struct Stopped {
    /// Why.
    pub reason: Arc<str>,
}

/// What a caller wants.
#[derive(Clone, Debug)]
pub struct Request {
    /// What.
    pub wanted: Wanted,
    /// Who wants it.
    pub actor: Actor,
    /// So that a repeat has no second effect.
    pub id: Option<RequestId>,
}

/// What can be wanted.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// One thing.
    Command(Command),
    /// Pause, resume or cancel every active execution of a workflow, one after the other.
    ControlAll {
        /// What to do.
        operation: Operation,
        /// With which workflow.
        workflow: WorkflowId,
    },
}

impl Wanted {
    fn weight(&self) -> usize {
        match self {
            Self::Command(command) => command.weight(),
            Self::ControlAll { .. } => 0,
        }
    }
}

/// What a request is answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What was done.
    pub reply: Reply,
    /// Whether it had been done before.
    pub repeated: bool,
    /// The one execution that it is about, as it stood at the commit: a small one that the writer had at hand.
    pub shown: Option<Shown>,
}

/// Why a request was refused. Nothing changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// The machine refused it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The same request id came before with another body.
    #[error("this request_id was used before with another body; use a new one for a new request")]
    RequestIdReused,
    /// No room on the disk.
    #[error("the disk has no room for new work; running work goes on; free some space and try again")]
    StoreFull,
    /// The engine has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// How busy the engine is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Most attempts alive at once.
    pub concurrency_limit: u32,
    /// Attempts alive.
    pub running_tasks: usize,
    /// Tasks that wait for a slot.
    pub queued_tasks: usize,
    /// Executions that have not ended.
    pub active_executions: usize,
    /// Executions held in memory.
    pub hot_executions: usize,
    /// The limits of agents that have one of their own, by agent.
    pub agent_limits: Vec<AgentLimit>,
}

/// An agent's own limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentLimit {
    /// Which agent.
    pub agent: Arc<str>,
    /// Most attempts alive at once.
    pub most: u32,
    /// Attempts alive.
    pub running: usize,
}

/// What the writer is sent.
enum Message {
    Requests {
        requests: Vec<Request>,
        reply: oneshot::Sender<Vec<Result<Answer, Refusal>>>,
    },
    Facts(Vec<Command>),
    /// Tell why a task does not run.
    Explain {
        execution: ExecutionId,
        task: String,
        reply: oneshot::Sender<Result<Vec<Blocker>, Rejection>>,
    },
    /// Admit work from here on.
    Begin,
    Stop,
}

impl Message {
    fn commands(&self) -> usize {
        match self {
            Self::Requests { requests, .. } => requests.len(),
            Self::Facts(facts) => facts.len(),
            Self::Explain { .. } | Self::Begin | Self::Stop => 1,
        }
    }

    /// About how many bytes of text they carry.
    fn weight(&self) -> usize {
        match self {
            Self::Requests { requests, .. } => requests.iter().map(|request| request.wanted.weight()).sum(),
            Self::Facts(facts) => facts.iter().map(Command::weight).sum(),
            Self::Explain { .. } | Self::Begin | Self::Stop => 0,
        }
    }
}

/// The engine, as everybody but its owner holds it. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    sender: SyncSender<Message>,
    room: Arc<Semaphore>,
    reads: Reads,
    hub: Arc<Hub>,
    recent: Arc<Recent>,
    status: tokio::sync::watch::Receiver<Status>,
    store_id: u128,
}

impl Engine {
    /// Recovers what is alive in a store, and starts the writer over it. Nothing is admitted until
    /// [`Handle::begin`]: what a dead noxd left behind is ended first, so that no task runs twice at once.
    ///
    /// # Errors
    /// Where the store's rows cannot be read; it is unchanged then.
    pub fn open(config: EngineConfig, store: Store) -> Result<Self, OpenError> {
        let reads = Reads::new(store.reader());
        let recovered = recovery::recover(&reads, config.concurrency_limit)?;
        let clock = SystemClock::continue_from(recovered.elapsed, config.seed);
        let hub = Hub::new(recovered.state.revision());
        let recent = Arc::new(Recent::default());
        let (sender, messages) = std::sync::mpsc::sync_channel(QUEUE);
        let room = Arc::new(Semaphore::new(QUEUE));
        let (effects, effects_out) = mpsc::channel(EFFECT_BATCHES);
        let (status, status_out) = tokio::sync::watch::channel(Status::default());
        let handle = Handle {
            sender,
            room: Arc::clone(&room),
            reads: reads.clone(),
            hub: Arc::clone(&hub),
            recent: Arc::clone(&recent),
            status: status_out,
            store_id: store.store_id(),
        };
        let writer = Writer {
            machine: Machine::new(recovered.state),
            store,
            clock: Box::new(clock),
            reads,
            hub,
            messages,
            room,
            effects,
            status,
            requests: Requests::default(),
            recent,
            followed: Followed::default(),
            open_rows: OpenRows::default(),
            at_once: config.at_once,
            begun_at_once: Vec::new(),
            loaded: Vec::new(),
            begun: false,
            has_room: true,
        };
        let (stopped, stopped_out) = oneshot::channel();
        let thread = std::thread::Builder::new().name("noxd-writer".into()).spawn(move || {
            // Without a receiver nobody wants to know.
            let _ = stopped.send(writer.run());
        })?;
        Ok(Self { handle, effects: effects_out, interrupted: recovered.interrupted, stopped: stopped_out, thread })
    }

    /// Waits for the writer's thread, after it was told to stop.
    pub fn join(self) {
        drop(self.effects);
        drop(self.handle);
        if self.thread.join().is_err() {
            tracing::error!("the writer's thread panicked");
        }
    }
}

impl Handle {
    /// Asks for one thing. Answered when it is durable.
    ///
    /// # Errors
    /// Why it was refused.
    pub async fn submit(&self, request: Request) -> Result<Answer, Refusal> {
        let mut answers = self.submit_all(vec![request]).await?;
        answers.pop().unwrap_or_else(|| Err(gone().into()))
    }

    /// Asks for several things in one commit; each is answered for itself.
    ///
    /// # Errors
    /// Where the engine has stopped.
    pub async fn submit_all(&self, requests: Vec<Request>) -> Result<Vec<Result<Answer, Refusal>>, Stopped> {
        let (reply, answers) = oneshot::channel();
        self.send(Message::Requests { requests, reply }).await?;
        answers.await.map_err(|_| gone())
    }

    /// Why a task does not run, as the machine sees it.
    ///
    /// # Errors
    /// Where there is no such task, or the engine has stopped.
    pub async fn explain(&self, execution: ExecutionId, task: String) -> Result<Vec<Blocker>, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Explain { execution, task, reply }).await?;
        Ok(answer.await.map_err(|_| gone())??)
    }

    /// Reports what the executor saw. Taken when there is room; not waited for.
    ///
    /// # Errors
    /// Where the engine has stopped.
    pub async fn report(&self, facts: Vec<Command>) -> Result<(), Stopped> {
        self.send(Message::Facts(facts)).await
    }

    /// Lets the writer admit work: everything from before the start is ended and reported.
    ///
    /// # Errors
    /// Where the engine has stopped.
    pub async fn begin(&self) -> Result<(), Stopped> {
        self.send(Message::Begin).await
    }

    /// Tells the writer to stop after what is in its queue now.
    pub async fn stop(&self) {
        // An engine that has stopped needs no telling.
        let _ = self.send(Message::Stop).await;
    }

    /// What is durable, for reading.
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// The newest durable revision.
    pub fn revision(&self) -> Revision {
        self.hub.revision()
    }

    /// Watches from after a revision.
    pub fn watch(&self, scope: Scope, after: Revision) -> Watch {
        Watch::new(&self.hub, self.reads.clone(), scope, after)
    }

    /// The end of an execution: at hand, or told when it comes.
    pub fn end_of(&self, id: ExecutionId) -> End {
        self.recent.end_of(id)
    }

    /// An execution that ended of late, where it is at hand.
    pub fn ended(&self, id: ExecutionId) -> Option<Shown> {
        self.recent.ended(id)
    }

    /// How busy the engine is.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Which store this is.
    pub fn store_id(&self) -> u128 {
        self.store_id
    }

    async fn send(&self, message: Message) -> Result<(), Stopped> {
        let room = self.room.acquire().await.map_err(|_| gone())?;
        self.sender.try_send(message).map_err(|_| gone())?;
        // The writer gives the room back when it takes the message.
        room.forget();
        Ok(())
    }
}

fn gone() -> Stopped {
    Stopped { reason: "see noxd's log".into() }
}

/// An error with everything behind it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_words = cause.to_string();
        // Some errors tell their source themselves.
        if !words.contains(&cause_words) {
            words = format!("{words}: {cause_words}");
        }
        source = cause.source();
    }
    words
}

#[cfg(test)]
mod tests;
