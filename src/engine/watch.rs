//! Live events for whoever watches: [`Hub`] tells, [`Watch`] follows from any revision without gap or duplicate.
//!
//! The writer publishes a batch when it is durable and never waits for a watcher. A watcher that is behind reads the
//! store until it has caught up, so a slow one costs memory only up to its own channel (S-VIEW-2).

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{broadcast, watch};

use super::read::{ReadError, Reads};
use crate::machine::{
    ids::{ExecutionId, Revision, WorkflowId},
    message::{Event, Recorded},
};

/// Batches that a watcher may lag before it goes back to the store.
const LAG_BATCHES: usize = 64;
/// Events read from the store at once.
const EVENTS_AT_ONCE: usize = 512;

type Published = Arc<[Arc<Recorded>]>;

/// Where the writer tells what happened.
pub struct Hub {
    all: broadcast::Sender<Published>,
    /// Only executions that somebody watches have an entry.
    executions: Mutex<HashMap<ExecutionId, broadcast::Sender<Published>>>,
    revision: watch::Sender<Revision>,
}

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    All,
    /// A workflow and its executions.
    Workflow(WorkflowId),
    /// One execution, to its end.
    Execution(ExecutionId),
}

impl Hub {
    /// A hub whose newest durable revision is this.
    pub fn new(revision: Revision) -> Arc<Self> {
        Arc::new(Self {
            all: broadcast::channel(LAG_BATCHES).0,
            executions: Mutex::default(),
            revision: watch::channel(revision).0,
        })
    }

    /// The newest durable revision.
    pub fn revision(&self) -> Revision {
        *self.revision.borrow()
    }

    /// Tells a durable batch.
    #[expect(clippy::iter_over_hash_type, reason = "each has receivers of its own; within one the order stays")]
    pub fn publish(&self, events: &[Arc<Recorded>]) {
        let Some(last) = events.last() else { return };
        self.revision.send_replace(last.revision);
        if self.all.receiver_count() > 0 {
            // Without receivers there is nobody to tell, which is no error.
            let _ = self.all.send(events.into());
        }
        let mut watched = self.executions.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.is_empty() {
            return;
        }
        let mut by_execution: HashMap<ExecutionId, Vec<Arc<Recorded>>> = HashMap::new();
        for recorded in events {
            if let Some(id) = recorded.execution.filter(|id| watched.contains_key(id)) {
                by_execution.entry(id).or_default().push(Arc::clone(recorded));
            }
        }
        for (id, events) in by_execution {
            let ended = events.iter().any(|recorded| matches!(recorded.event, Event::ExecutionEnded { .. }));
            let told = watched.get(&id).is_some_and(|sender| sender.send(events.into()).is_ok());
            if ended || !told {
                watched.remove(&id);
            }
        }
    }

    fn subscribe(&self, scope: &Scope) -> broadcast::Receiver<Published> {
        let Scope::Execution(id) = scope else { return self.all.subscribe() };
        let mut watched = self.executions.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.len() > 1_024 {
            // Watchers that went away leave their entry behind until the execution's next event.
            watched.retain(|_, sender| sender.receiver_count() > 0);
        }
        watched.entry(*id).or_insert_with(|| broadcast::channel(LAG_BATCHES).0).subscribe()
    }
}

/// A watcher: every event after a revision, in order.
pub struct Watch {
    scope: Scope,
    reads: Reads,
    live: broadcast::Receiver<Published>,
    /// Everything up to here was given.
    cursor: Revision,
    /// Events read ahead.
    ahead: VecDeque<Arc<Recorded>>,
    /// Whether the store may have events after the cursor that `live` does not bring.
    behind: bool,
    ended: bool,
}

impl Watch {
    /// Watches from after a revision. It is subscribed before it reads, so nothing falls between.
    pub fn new(hub: &Hub, reads: Reads, scope: Scope, after: Revision) -> Self {
        let live = hub.subscribe(&scope);
        Self { scope, reads, live, cursor: after, ahead: VecDeque::new(), behind: true, ended: false }
    }

    /// Everything up to this revision was given: a watch resumes from here.
    pub fn cursor(&self) -> Revision {
        self.cursor
    }

    /// The next event. `None` after the last event of a watched execution, or when noxd stops.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn next(&mut self) -> Result<Option<Arc<Recorded>>, ReadError> {
        loop {
            if let Some(recorded) = self.ahead.pop_front() {
                // What the store gave already comes once more from the live channel.
                if recorded.revision <= self.cursor {
                    continue;
                }
                self.cursor = recorded.revision;
                if !self.concerns(&recorded) {
                    continue;
                }
                self.ended |=
                    matches!(self.scope, Scope::Execution(_)) && matches!(recorded.event, Event::ExecutionEnded { .. });
                return Ok(Some(recorded));
            }
            if self.ended {
                return Ok(None);
            }
            if self.behind {
                self.read_on().await?;
                continue;
            }
            match self.live.recv().await {
                Ok(events) => self.ahead.extend(events.iter().cloned()),
                Err(broadcast::error::RecvError::Lagged(_)) => self.behind = true,
                Err(broadcast::error::RecvError::Closed) => {
                    // The hub forgets a watched execution when it has told its end, or noxd stops. The store knows.
                    self.read_on().await?;
                    if self.ahead.is_empty() {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn concerns(&self, recorded: &Recorded) -> bool {
        match &self.scope {
            Scope::All => true,
            Scope::Workflow(id) => recorded.workflow.as_ref() == Some(id),
            Scope::Execution(id) => recorded.execution == Some(*id),
        }
    }

    /// Reads what the store has after the cursor; with nothing there, it has caught up.
    async fn read_on(&mut self) -> Result<(), ReadError> {
        let (reads, scope, after) = (self.reads.clone(), self.scope.clone(), self.cursor);
        let read = tokio::task::spawn_blocking(move || match scope {
            Scope::Execution(id) => {
                let events = reads.events(id, after, EVENTS_AT_ONCE)?;
                // Whoever comes after the last event of an execution that has ended waits for nothing.
                let over = events.is_empty()
                    && reads
                        .summary(id)?
                        .is_none_or(|summary| summary.status.is_terminal() && summary.revision <= after);
                Ok::<_, ReadError>((events, over))
            }
            Scope::All | Scope::Workflow(_) => Ok((reads.all_events(after, EVENTS_AT_ONCE)?, false)),
        });
        let (events, over) = match read.await {
            Ok(read) => read?,
            // Only a shutdown of the runtime cancels it.
            Err(_) => (Vec::new(), true),
        };
        self.behind = !events.is_empty();
        self.ended |= over;
        self.ahead.extend(events.into_iter().map(Arc::new));
        Ok(())
    }
}
