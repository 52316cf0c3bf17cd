//! What a batch of steps writes: events to rows, and the few index rows that follow from them.
//!
//! A transition writes its event into its execution's row of the batch and, where an execution starts, is controlled or
//! ends, small index rows; never the execution as a whole, but for a snapshot now and then. So the cost of a transition
//! does not grow with the number of tasks.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry},
    sync::Arc,
};

use super::read::{ReadError, Reads};
use crate::{
    machine::{
        expected::Durations,
        ids::{ExecutionId, Revision, ScheduleId, TemplateId, Timestamp, WorkflowId},
        message::{Event, Recorded, ScheduleChange, WorkflowChange},
        schedule::ScheduleRecord,
        state::{Mark, State},
        template::TemplateRecord,
    },
    store::{
        Batch, RowWrite,
        layout::{self, BatchRow, RequestRow, Subject, key},
    },
};

/// Events of an execution after which a snapshot is written; more in one with more tasks, so that a snapshot costs each
/// event the same whatever the size.
pub const SNAPSHOT_EVENTS: u32 = 256;

/// How long executions of a version of a workflow have taken, with those of a batch.
pub type Learnt = (WorkflowId, u64, Durations);

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
    /// Executions that end in it.
    ended: Vec<ExecutionId>,
    /// Schedules whose heads are to be written: once a batch, however many of their times came.
    schedules: BTreeSet<ScheduleId>,
}

/// Rows of events that are not full: the next events of an execution go into the same row, which is written anew. So a
/// short execution is one row however many batches it takes, and only the last version of it is ever merged.
#[derive(Debug, Default)]
pub struct OpenRows(HashMap<ExecutionId, OpenRow>);

#[derive(Debug)]
struct OpenRow {
    /// The revision that names it.
    first: Revision,
    bytes: Vec<u8>,
}

/// Bytes that a row of events may come to by being written anew: what is written again and again stays small.
const OPEN_ROW_BYTES: usize = 512;
/// Open rows that are known; with more, all are left as they are and the next events begin new ones.
const OPEN_ROWS: usize = 4_096;

impl OpenRows {
    /// The row that some events of an execution go into: the revision that names it, and its value.
    fn join(&mut self, id: ExecutionId, first: Revision, events: Vec<u8>, ended: bool) -> (Revision, Vec<u8>) {
        let row = match self.0.remove(&id) {
            Some(mut open) if open.bytes.len() + events.len() <= OPEN_ROW_BYTES => {
                // Two messages of repeated fields, one after the other, are one with the fields of both.
                open.bytes.extend_from_slice(&events);
                open
            }
            _ => OpenRow { first, bytes: events },
        };
        let (first, bytes) = (row.first, row.bytes.clone());
        if !ended && row.bytes.len() < OPEN_ROW_BYTES {
            if self.0.len() >= OPEN_ROWS {
                self.0.clear();
            }
            self.0.insert(id, row);
        }
        (first, bytes)
    }
}

/// Whom an event is about.
fn subject_of(recorded: &Recorded) -> Subject {
    match (recorded.execution, &recorded.workflow) {
        (Some(id), _) => Subject::Execution(id),
        (None, Some(id)) => Subject::Workflow(id.clone()),
        (None, None) => Subject::Noxd,
    }
}

fn same_subject(one: &Recorded, other: &Recorded) -> bool {
    one.execution == other.execution && (one.execution.is_some() || one.workflow == other.workflow)
}

impl Rows {
    /// The rows of some events, which `state` has followed already.
    pub fn of_events(events: &[Arc<Recorded>], state: &State, open: &mut OpenRows) -> Self {
        let mut rows = Self::default();
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return rows };
        let mut runs: Vec<(Subject, u32)> = Vec::new();
        for run in events.chunk_by(|one, next| same_subject(one, next)) {
            runs.push((subject_of(&run[0]), u32::try_from(run.len()).expect("bounded by what a batch holds")));
        }
        let batch = BatchRow { runs, time: last.time, elapsed: last.elapsed };
        rows.put(key::batch(first.revision), batch.encode());
        // Stable: the events of one subject stay in their order.
        let mut by_subject: Vec<&Recorded> = events.iter().map(AsRef::as_ref).collect();
        by_subject.sort_by(|one, other| {
            let executions = one.execution.cmp(&other.execution);
            executions
                .then_with(|| if one.execution.is_none() { one.workflow.cmp(&other.workflow) } else { executions })
        });
        for events in by_subject.chunk_by(|one, next| same_subject(one, next)) {
            rows.subject(&subject_of(events[0]), events, state, open);
        }
        for id in std::mem::take(&mut rows.schedules) {
            if let Some(record) = state.schedule(&id) {
                rows.put(key::schedule(&id), layout::encode_schedule_head(record));
            }
        }
        rows
    }

    /// Takes what ended into what is known of how long executions take: one row per version, however many ended. It is
    /// read where the machine does not hold it, and to be given to it then.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn learn(&mut self, state: &State, reads: &Reads) -> Result<Vec<Learnt>, ReadError> {
        let mut learnt: BTreeMap<(&WorkflowId, u64), Durations> = BTreeMap::new();
        for execution in std::mem::take(&mut self.ended).into_iter().filter_map(|id| state.execution(id)) {
            let (id, version) = (&execution.workflow, execution.version);
            match learnt.entry((id, version)) {
                Entry::Occupied(known) => known.into_mut().add(execution),
                Entry::Vacant(new) => {
                    let held = state.durations(id, version).cloned();
                    new.insert(held.map_or_else(|| reads.durations(id, version), Ok)?).add(execution);
                }
            }
        }
        let of_version = |((id, version), durations): ((&WorkflowId, u64), Durations)| {
            self.put(key::durations(id, version), layout::encode_durations(&durations));
            (id.clone(), version, durations)
        };
        Ok(learnt.into_iter().map(of_version).collect())
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

    fn subject(&mut self, subject: &Subject, events: &[&Recorded], state: &State, open: &mut OpenRows) {
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
                let ended = events.iter().any(|recorded| matches!(recorded.event, Event::ExecutionEnded { .. }));
                let (first, row) = open.join(*id, first.revision, row, ended);
                self.put(key::events(*id, first), row);
                self.touched.insert(*id);
                self.execution(*id, events, state);
            }
            // Nothing that happens is about nobody.
            Subject::Lost => {}
        }
    }

    fn noxd(&mut self, recorded: &Recorded) {
        if let Event::TemplateChanged { template, change, version, record: Some(record) } = &recorded.event {
            return self.template(template, *change, *version, record);
        }
        match &recorded.event {
            Event::ScheduleChanged { schedule, change, record: Some(record), .. } => {
                return self.schedule(schedule, change, record);
            }
            Event::ScheduleAdvanced { schedule, .. } => {
                self.schedules.insert(schedule.clone());
            }
            _ => {}
        }
        let Event::ConcurrencyLimitSet { agent, limit } = &recorded.event else { return };
        let key = key::limit(agent.as_deref().unwrap_or_default());
        match limit {
            Some(limit) => self.put(key, layout::encode_limit(*limit)),
            None => self.delete(key),
        }
    }

    fn schedule(&mut self, id: &ScheduleId, change: &ScheduleChange, record: &ScheduleRecord) {
        self.schedules.insert(id.clone());
        match change {
            ScheduleChange::Created => {
                self.put(key::schedule_content(id), layout::encode_schedule(&record.spec));
                self.put(key::schedule_by_age(record.created_at, id), Vec::new());
            }
            ScheduleChange::Updated => self.put(key::schedule_content(id), layout::encode_schedule(&record.spec)),
            ScheduleChange::Deleted => self.delete(key::schedule_by_age(record.created_at, id)),
            ScheduleChange::Paused { .. }
            | ScheduleChange::Resumed
            | ScheduleChange::BackfillRequested { .. }
            | ScheduleChange::BackfillCancelled { .. } => {}
        }
    }

    fn template(&mut self, id: &TemplateId, change: WorkflowChange, version: u64, record: &TemplateRecord) {
        let (head, content) = layout::encode_template(record);
        self.put(key::template(id), head);
        match change {
            WorkflowChange::Created => {
                self.put(key::template_version(id, version), content);
                self.put(key::template_by_age(record.created_at, id), Vec::new());
            }
            WorkflowChange::Updated => self.put(key::template_version(id, version), content),
            WorkflowChange::Deleted => self.delete(key::template_by_age(record.created_at, id)),
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
                    self.ended.push(id);
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
