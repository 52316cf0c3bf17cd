//! What a batch of steps writes: events to rows, and the few index rows that follow from them.
//!
//! A transition writes its event into its execution's row of the batch and, where an execution starts, is controlled or
//! ends, small index rows; never the execution as a whole, but for a snapshot now and then. So the cost of a transition
//! does not grow with the number of tasks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    machine::{
        ids::{ExecutionId, Timestamp, WorkflowId},
        message::{Event, Recorded, WorkflowChange},
        state::{Mark, State},
    },
    store::{
        Batch, RowWrite,
        layout::{self, BatchRow, RequestRow, Subject, key},
    },
};

/// Events of an execution after which a snapshot is written; more in one with more tasks, so that a snapshot costs each
/// event the same whatever the size.
pub const SNAPSHOT_EVENTS: u32 = 256;

/// The rows of one batch.
#[derive(Default)]
pub struct Rows {
    rows: Vec<RowWrite>,
    /// Executions whose events are in it.
    pub touched: BTreeSet<ExecutionId>,
    /// Executions of which a snapshot is in it.
    pub snapshots: Vec<ExecutionId>,
    /// What the marks in it say.
    pub marks: Vec<(ExecutionId, Mark)>,
}

impl Rows {
    /// The rows of some events, which `state` has followed already.
    pub fn of_events(events: &[Arc<Recorded>], state: &State) -> Self {
        let mut rows = Self::default();
        let mut by_subject: BTreeMap<Subject, Vec<&Recorded>> = BTreeMap::new();
        let mut runs: Vec<(Subject, u32)> = Vec::new();
        for recorded in events {
            let subject = match (recorded.execution, &recorded.workflow) {
                (Some(id), _) => Subject::Execution(id),
                (None, Some(id)) => Subject::Workflow(id.clone()),
                (None, None) => Subject::Noxd,
            };
            match runs.last_mut() {
                Some((last, count)) if *last == subject => *count += 1,
                _ => runs.push((subject.clone(), 1)),
            }
            by_subject.entry(subject).or_default().push(recorded);
        }
        if let (Some(first), Some(last)) = (events.first(), events.last()) {
            let batch = BatchRow { runs, time: last.time, elapsed: last.elapsed };
            rows.put(key::batch(first.revision), batch.encode());
        }
        for (subject, events) in by_subject {
            rows.subject(&subject, &events, state);
        }
        rows
    }

    /// Remembers a request that succeeded.
    pub fn remember(&mut self, hash: &[u8; 16], request: &RequestRow) {
        self.put(key::request(hash), request.encode());
        self.put(key::request_by_age(request.time, hash), Vec::new());
    }

    /// Forgets a request whose time is over.
    pub fn forget(&mut self, time: Timestamp, hash: &[u8; 16]) {
        self.delete(key::request(hash));
        self.forget_age(time, hash);
    }

    /// Forgets only the age of a request, whose id was used again since.
    pub fn forget_age(&mut self, time: Timestamp, hash: &[u8; 16]) {
        self.delete(key::request_by_age(time, hash));
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// The batch to commit.
    pub fn into_batch(self, state: &State) -> Batch {
        Batch { revision: state.revision(), rows: self.rows }
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.rows.push(RowWrite { key, value: Some(value) });
    }

    fn delete(&mut self, key: Vec<u8>) {
        self.rows.push(RowWrite { key, value: None });
    }

    fn subject(&mut self, subject: &Subject, events: &[&Recorded], state: &State) {
        let Some(first) = events.first() else { return };
        let row = layout::encode_events(events.iter().copied());
        match subject {
            Subject::Workflow(id) => {
                self.put(key::workflow_events(id, first.revision), row);
                events.iter().for_each(|recorded| self.workflow(id, recorded));
            }
            Subject::Noxd => {
                self.put(key::own_events(first.revision), row);
                events.iter().for_each(|recorded| self.noxd(recorded));
            }
            Subject::Execution(id) => {
                self.put(key::events(*id, first.revision), row);
                self.touched.insert(*id);
                self.execution(*id, events, state);
            }
            // Nothing that happens is about nobody.
            Subject::Lost => {}
        }
    }

    fn noxd(&mut self, recorded: &Recorded) {
        let Event::ConcurrencyLimitSet { agent, limit } = &recorded.event else { return };
        let key = key::limit(agent.as_deref().unwrap_or_default());
        match limit {
            Some(limit) => self.put(key, layout::encode_limit(*limit)),
            None => self.delete(key),
        }
    }

    fn workflow(&mut self, id: &WorkflowId, recorded: &Recorded) {
        let Event::WorkflowChanged { change, version, record: Some(record) } = &recorded.event else { return };
        let (head, definition) = layout::encode_workflow(record);
        self.put(key::workflow(id), head);
        match change {
            WorkflowChange::Created => {
                self.put(key::definition(id, *version), definition);
                self.put(key::workflow_by_age(record.created_at, id), Vec::new());
            }
            WorkflowChange::Updated => self.put(key::definition(id, *version), definition),
            WorkflowChange::Deleted => self.delete(key::workflow_by_age(record.created_at, id)),
        }
    }

    fn execution(&mut self, id: ExecutionId, events: &[&Recorded], state: &State) {
        let Some(execution) = state.execution(id) else { return };
        let (mut summary, mut began) = (false, false);
        for recorded in events {
            match &recorded.event {
                Event::ExecutionStarted { .. } => {
                    (summary, began) = (true, true);
                    self.put(key::execution_of(&execution.workflow, id), Vec::new());
                }
                Event::ExecutionEnded { .. } => {
                    summary = true;
                    self.delete(key::alive(id));
                }
                Event::ExecutionPaused
                | Event::ExecutionResumed
                | Event::ExecutionCancelRequested { .. }
                | Event::ExecutionTimeoutReached { .. } => summary = true,
                event => {
                    if let Some((task, json)) = layout::whole_output(event) {
                        self.put(key::output(id, task), json.as_bytes().to_vec());
                    }
                }
            }
        }
        if summary {
            self.put(key::summary(id), layout::encode_summary(execution));
        }
        let mark = state.new_mark(id).or(began.then_some(Mark::Hot)).filter(|_| !execution.status.is_terminal());
        if let Some(mark) = mark {
            self.put(key::alive(id), layout::encode_mark(&execution.workflow, execution.status, mark));
            self.marks.push((id, mark));
        }
        let tasks = u32::try_from(execution.tasks.len()).unwrap_or(u32::MAX);
        if execution.events_since_snapshot >= SNAPSHOT_EVENTS.max(tasks) && !execution.status.is_terminal() {
            self.put(key::snapshot(id), layout::encode_snapshot(execution));
            self.snapshots.push(id);
        }
    }
}
