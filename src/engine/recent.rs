//! Executions that the writer has at hand: how they stood when a call was answered, those that ended of late, and who
//! waits for an end. What is here is answered without a row.
//!
//! Only small executions are here. One that ended does not change any more, so what is kept of it is never out of date;
//! one that is not here, or not any more, is read from its rows. The writer fills this after its commit, so nothing is
//! seen before it is durable (S-VIEW-7). Read [`Followed`] for how it is put together.

use std::{
    collections::{HashMap, VecDeque},
    mem::size_of,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::{
    machine::{
        execution::Execution,
        ids::ExecutionId,
        message::{AttemptResult, Event, Recorded},
        state::State,
        task::TaskState,
    },
    store::layout,
};

/// Tasks of an execution up to which it is small: more are not copied for an answer.
pub const SMALL_TASKS: usize = 64;
/// Bytes of executions that ended, about. The oldest go first.
const ENDED_BYTES: usize = 2 * 1_024 * 1_024;
/// Bytes of attempts of small executions that run, about. Beyond it none is followed anew.
const FOLLOWED_BYTES: usize = 4 * 1_024 * 1_024;
/// Attempts of one execution that are followed.
const FOLLOWED_ATTEMPTS: usize = 4 * SMALL_TASKS;
/// Entries of waiting callers from which on they are looked through for those that gave up.
const MANY_WAITING: usize = 4_096;

/// An execution as it stood after a durable batch, with everything that shows it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The execution.
    pub execution: Arc<Execution>,
    /// The ends of its attempts, oldest first.
    pub ends: Arc<[Arc<Recorded>]>,
}

impl Shown {
    /// Whether everything that shows it is here: a rerun has results of the execution that it repeats.
    pub fn is_alone(&self) -> bool {
        self.execution.tasks.iter().all(|task| !task.reused)
    }

    fn weight(&self) -> usize {
        let labels = self.execution.labels.iter().map(|(key, value)| key.len() + value.len() + 2 * size_of::<String>());
        size_of::<Execution>()
            + self.execution.tasks.len() * size_of::<TaskState>()
            + labels.sum::<usize>()
            + self.ends.iter().map(|recorded| weight(recorded)).sum::<usize>()
    }
}

fn weight(recorded: &Recorded) -> usize {
    size_of::<Recorded>() + size_of::<AttemptResult>() + recorded.event.weight()
}

/// The end of an execution, as somebody who asks for it finds it.
pub enum End {
    /// It has ended.
    Reached(Shown),
    /// Resolves when it ends from now on; with nothing where it is not at hand. Whether it has ended before, its rows
    /// tell.
    Ahead(oneshot::Receiver<Option<Shown>>),
}

/// Executions that ended of late, and who waits for others to end.
#[derive(Default)]
pub struct Recent {
    shelf: Mutex<Shelf>,
}

#[derive(Default)]
struct Shelf {
    ended: HashMap<ExecutionId, Shown>,
    /// From the oldest, with the weight of each.
    order: VecDeque<(ExecutionId, usize)>,
    bytes: usize,
    waiting: HashMap<ExecutionId, Vec<oneshot::Sender<Option<Shown>>>>,
}

impl Recent {
    /// An execution that ended of late.
    pub fn ended(&self, id: ExecutionId) -> Option<Shown> {
        self.shelf().ended.get(&id).cloned()
    }

    /// The end of an execution.
    pub fn end_of(&self, id: ExecutionId) -> End {
        let mut shelf = self.shelf();
        if let Some(shown) = shelf.ended.get(&id) {
            return End::Reached(shown.clone());
        }
        let (sender, receiver) = oneshot::channel();
        if shelf.waiting.len() > MANY_WAITING {
            // Whoever asked about an execution that had just ended left an entry that no event takes away.
            shelf.waiting.retain(|_, waiting| waiting.iter().any(|other| !other.is_closed()));
        }
        let waiting = shelf.waiting.entry(id).or_default();
        // Those that gave up waiting are not kept for a long execution.
        waiting.retain(|other| !other.is_closed());
        waiting.push(sender);
        End::Ahead(receiver)
    }

    /// Tells who waits, and keeps what is at hand.
    pub(super) fn publish(&self, ended: Vec<(ExecutionId, Option<Shown>)>) {
        if ended.is_empty() {
            return;
        }
        let mut shelf = self.shelf();
        for (id, shown) in ended {
            for waiting in shelf.waiting.remove(&id).into_iter().flatten() {
                // Whoever gave up waiting does not want to know.
                let _ = waiting.send(shown.clone());
            }
            if let Some(shown) = shown {
                shelf.keep(id, shown);
            }
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // A panic while it was held leaves at worst an entry too many or too few, and rows tell the rest.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn keep(&mut self, id: ExecutionId, shown: Shown) {
        let weight = shown.weight();
        self.bytes += weight;
        self.order.push_back((id, weight));
        self.ended.insert(id, shown);
        while self.bytes > ENDED_BYTES
            && let Some((oldest, weight)) = self.order.pop_front()
        {
            self.bytes -= weight;
            self.ended.remove(&oldest);
        }
    }
}

/// The writer's part: the attempts of small executions that began since noxd did.
#[derive(Default)]
pub(super) struct Followed {
    live: HashMap<ExecutionId, Ends>,
    bytes: usize,
}

#[derive(Default)]
struct Ends {
    recorded: Vec<Arc<Recorded>>,
    bytes: usize,
}

impl Followed {
    /// Follows the events of a durable batch, before idle executions are dropped. Returns the executions that ended.
    pub fn follow(&mut self, events: &[Arc<Recorded>], state: &State) -> Vec<(ExecutionId, Option<Shown>)> {
        let mut ended = Vec::new();
        for recorded in events {
            let Some(id) = recorded.execution else { continue };
            match &recorded.event {
                Event::ExecutionStarted { task_count, .. }
                    if *task_count as usize <= SMALL_TASKS && self.bytes < FOLLOWED_BYTES =>
                {
                    self.live.insert(id, Ends::default());
                }
                Event::TaskEnded { .. } => self.attempt_ended(id, recorded),
                Event::ExecutionEnded { .. } => {
                    let shown = self.shown(id, state);
                    self.forget(id);
                    ended.push((id, shown));
                }
                _ => {}
            }
        }
        ended
    }

    /// A small execution as it stands, where all of it is at hand.
    pub fn shown(&self, id: ExecutionId, state: &State) -> Option<Shown> {
        let ends = self.live.get(&id)?;
        let execution = state.execution(id)?;
        Some(Shown { execution: Arc::new(execution.clone()), ends: ends.recorded.as_slice().into() })
    }

    fn attempt_ended(&mut self, id: ExecutionId, recorded: &Arc<Recorded>) {
        let Some(ends) = self.live.get_mut(&id) else { return };
        // Rows show only the beginning of a long output; so must everything that stands for them.
        if ends.recorded.len() >= FOLLOWED_ATTEMPTS || layout::whole_output(&recorded.event).is_some() {
            self.forget(id);
            return;
        }
        let weight = weight(recorded);
        ends.bytes += weight;
        self.bytes += weight;
        ends.recorded.push(Arc::clone(recorded));
    }

    fn forget(&mut self, id: ExecutionId) {
        if let Some(ends) = self.live.remove(&id) {
            self.bytes -= ends.bytes;
        }
    }
}
