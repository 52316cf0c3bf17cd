//! From rows back to a running machine: it costs as much as there is live work, whatever the history (S-SAFE-4).

use super::read::{ReadError, Reads};
use crate::machine::{
    ids::{AttemptKey, Elapsed, ExecutionId},
    message::{Event, ProcessIdentity},
    state::State,
    task::TaskStatus,
};

/// Events looked through at once.
const EVENTS_AT_ONCE: usize = 1_024;
/// Executions loaded at once.
const ALIVE_AT_ONCE: usize = 1_024;

/// What was found.
pub struct Recovered {
    /// Everything alive.
    pub state: State,
    /// noxd's own clock, to be continued.
    pub elapsed: Elapsed,
    /// Attempts that were alive when noxd went down.
    pub interrupted: Vec<LostAttempt>,
}

/// An attempt that was alive when noxd went down.
#[derive(Clone, Debug)]
pub struct LostAttempt {
    /// Which.
    pub key: AttemptKey,
    /// Its process, where that was recorded before the end.
    pub process: Option<ProcessIdentity>,
}

/// Loads everything alive.
///
/// # Errors
/// Where the store cannot be read; nothing is guessed.
pub fn recover(reads: &Reads, concurrency_limit: u32) -> Result<Recovered, ReadError> {
    let mut state = State::new(concurrency_limit);
    let mut elapsed = Elapsed(0);
    if let Some((revision, batch)) = reads.newest_batch()? {
        elapsed = batch.elapsed;
        state.continue_after(revision, batch.time, batch.elapsed);
    }
    for limit in reads.limits()? {
        state.set_limit(limit.agent.as_deref(), Some(limit.most));
    }
    let mut interrupted = Vec::new();
    let mut after: Option<ExecutionId> = None;
    loop {
        let page = reads.alive(after, ALIVE_AT_ONCE)?;
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        for (id, dormant) in page {
            if let Some(dormant) = dormant {
                state.note_dormant(id, dormant.workflow, dormant.status, dormant.wake);
                continue;
            }
            let execution =
                reads.execution(id)?.ok_or_else(|| ReadError::Missing(format!("the events of execution {id}")))?;
            for task in execution.tasks_in(TaskStatus::Running) {
                let attempt = execution.tasks[task as usize].attempt;
                interrupted.push(LostAttempt { key: AttemptKey { execution: id, task, attempt }, process: None });
            }
            state.load_execution(execution);
            state.drop_idle([id]);
        }
    }
    // When all is known that has not ended: times may wait for it.
    reads.each_schedule(|id, head| state.note_schedule(&id, head.deleted, &head.course))?;
    find_processes(reads, &mut interrupted)?;
    Ok(Recovered { state, elapsed, interrupted })
}

/// The processes of attempts are in the events of their executions, read page by page.
fn find_processes(reads: &Reads, attempts: &mut [LostAttempt]) -> Result<(), ReadError> {
    for of_one in attempts.chunk_by_mut(|a, b| a.key.execution == b.key.execution) {
        let Some(execution) = of_one.first().map(|lost| lost.key.execution) else { continue };
        let mut after = 0;
        loop {
            let events = reads.events(execution, after, EVENTS_AT_ONCE)?;
            let Some(last) = events.last() else { break };
            after = last.revision;
            for recorded in events {
                let Event::TaskSpawned { task, attempt, process } = recorded.event else { continue };
                let found = of_one.binary_search_by_key(&(task, attempt), |lost| (lost.key.task, lost.key.attempt));
                if let Ok(found) = found {
                    of_one[found].process = Some(process);
                }
            }
        }
    }
    Ok(())
}
