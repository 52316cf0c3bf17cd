//! How the attempts of tasks ended, read from the history: of a task that kept its result, from the history of the
//! execution which this one repeats, however many reruns lie between.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    engine::read::{ReadError, Reads},
    machine::{
        execution::Execution,
        ids::{ExecutionId, TaskIndex},
        message::{Event, Recorded, Trigger},
    },
};

/// The ended attempts of some tasks of one execution, in order.
#[derive(Default)]
pub struct Ends {
    tasks: BTreeMap<TaskIndex, Vec<Arc<Recorded>>>,
    /// The executions that this one repeats, the nearest first, as far as they were needed.
    sources: Vec<Execution>,
}

impl Ends {
    /// Of all tasks of an execution.
    ///
    /// # Errors
    /// Where the store cannot be read; so for all below.
    pub fn read(execution: &Execution, reads: &Reads) -> Result<Self, ReadError> {
        let mut ends = Self::default();
        let mut after = 0;
        loop {
            let events = reads.events(execution.id, after, 1_024)?;
            let Some(last) = events.last() else { break };
            after = last.revision;
            for recorded in events {
                if let Event::TaskEnded { task, .. } = &recorded.event {
                    ends.tasks.entry(*task).or_default().push(Arc::new(recorded));
                }
            }
        }
        for (task, _) in (0..).zip(&execution.tasks).filter(|(_, state)| state.reused) {
            ends.read_one(execution, task, reads)?;
        }
        Ok(ends)
    }

    /// Of one task, following its ends backwards: it costs as much as the task has attempts. Gives the execution in
    /// which it ran.
    pub fn read_one(
        &mut self,
        execution: &Execution,
        task: TaskIndex,
        reads: &Reads,
    ) -> Result<ExecutionId, ReadError> {
        let origin = self.origin(execution, task, reads)?;
        let (id, mut revision) = (origin.id, origin.tasks[task as usize].last_end);
        let mut found = Vec::new();
        while revision != 0 {
            let Some(recorded) = reads.event_at(id, revision)? else { break };
            let Event::TaskEnded { result, .. } = &recorded.event else { break };
            revision = result.previous;
            found.push(Arc::new(recorded));
        }
        found.reverse();
        self.tasks.insert(task, found);
        Ok(id)
    }

    /// Those of all tasks of an execution that keeps no result of another one, in order.
    pub fn of_all(recorded: &[Arc<Recorded>]) -> Self {
        let mut ends = Self::default();
        for recorded in recorded {
            if let Event::TaskEnded { task, .. } = &recorded.event {
                ends.tasks.entry(*task).or_default().push(Arc::clone(recorded));
            }
        }
        ends
    }

    /// What was read of a task.
    pub fn of(&self, task: TaskIndex) -> &[Arc<Recorded>] {
        self.tasks.get(&task).map_or(&[], Vec::as_slice)
    }

    /// The execution in which a task has its own attempts: the given one, unless the task kept its result.
    pub fn origin<'a>(
        &'a mut self,
        execution: &'a Execution,
        task: TaskIndex,
        reads: &Reads,
    ) -> Result<&'a Execution, ReadError> {
        let mut depth = 0;
        loop {
            let current = if depth == 0 { execution } else { &self.sources[depth - 1] };
            let source = match current.trigger {
                Trigger::Rerun(source) if current.tasks[task as usize].reused => source,
                _ => break,
            };
            if depth == self.sources.len() {
                let read = reads.execution(source)?;
                self.sources.push(read.ok_or_else(|| ReadError::Missing(format!("execution {source}")))?);
            }
            depth += 1;
        }
        Ok(if depth == 0 { execution } else { &self.sources[depth - 1] })
    }
}
