//! What is known, as everybody but the writer reads it: from rows that are durable.
//!
//! A batch is visible to readers only when it is durable, and before any caller is answered, so reads are linearizable
//! and a client reads its own writes (S-VIEW-7). Nothing here asks the writer or changes anything.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    machine::{
        execution::{Execution, Moves},
        expected::Durations,
        ids::{ExecutionId, Revision, ScheduleId, TaskIndex, TemplateId, Timestamp, WorkflowId},
        judgement::TaskResult,
        message::{Event, Recorded, Trigger, WorkflowRecord},
        schedule::ScheduleRecord,
        template::{TemplateRecord, TemplateSpec},
        workflow::{Definition, WorkflowSpec},
    },
    store::{
        Reader, StoreError,
        layout::{
            self, BatchRow, Dormant, LayoutError, Limit, RequestRow, ScheduleHead, Subject, Summary, TemplateHead,
            WorkflowHead, key,
        },
    },
};

/// Reads of the store in the machine's terms. Cheap to clone.
#[derive(Clone)]
pub struct Reads {
    rows: Reader,
    definitions: Arc<Mutex<VecDeque<CachedDefinition>>>,
}

type CachedDefinition = (WorkflowId, u64, Arc<Definition>);

/// Definitions kept beside those that running executions hold anyway.
const CACHED_DEFINITIONS: usize = 64;

/// Rows asked for at once while reading on.
const ROWS_AT_ONCE: usize = 256;

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store could not give the rows.
    #[error("reading the store failed")]
    Store(#[from] StoreError),
    /// A row is not what it should be.
    #[error("the store has a row that this noxd cannot read")]
    Layout(#[from] LayoutError),
    /// A row that others speak of is not there.
    #[error("the store has no row for {0}, which other rows speak of")]
    Missing(String),
}

impl Reads {
    /// Reads these rows.
    pub fn new(rows: Reader) -> Self {
        Self { rows, definitions: Arc::default() }
    }

    /// A workflow's newest version; deleted ones too.
    ///
    /// # Errors
    /// Where the store fails or a row cannot be read; so for all below.
    pub fn workflow(&self, id: &WorkflowId) -> Result<Option<WorkflowRecord>, ReadError> {
        let Some(head) = self.head(id)? else { return Ok(None) };
        let bytes = self.definition_row(id, head.version())?;
        Ok(Some(head.record(id, &bytes)?))
    }

    /// A version of a workflow, as its author wrote it.
    pub fn workflow_version(&self, id: &WorkflowId, version: u64) -> Result<Option<WorkflowSpec>, ReadError> {
        let bytes = self.rows.get(&key::definition(id, version))?;
        Ok(bytes.map(|bytes| layout::decode_spec(id, &bytes)).transpose()?)
    }

    /// The ids of workflows, newest first, deleted ones too, after a position (which is their key by age).
    pub fn workflows(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, WorkflowId)>, ReadError> {
        let through = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.rows.scan_back(key::WORKFLOWS_BY_AGE, through, limit)?;
        Ok(rows.into_iter().filter_map(|(key, _)| Some((key.to_vec(), key::workflow_of_age(&key)?))).collect())
    }

    /// A template's newest version; deleted ones too.
    pub fn template(&self, id: &TemplateId) -> Result<Option<TemplateRecord>, ReadError> {
        let Some(head) = self.rows.get(&key::template(id))? else { return Ok(None) };
        let head = TemplateHead::decode(id, &head)?;
        let spec = self.template_version(id, head.version())?;
        let spec = spec.ok_or_else(|| ReadError::Missing(format!("version {} of template `{id}`", head.version())))?;
        Ok(Some(head.record(Arc::new(spec))))
    }

    /// A version of a template, as its author wrote it.
    pub fn template_version(&self, id: &TemplateId, version: u64) -> Result<Option<TemplateSpec>, ReadError> {
        let bytes = self.rows.get(&key::template_version(id, version))?;
        Ok(bytes.map(|bytes| layout::decode_template(id, &bytes)).transpose()?)
    }

    /// The ids of templates, newest first, after a position (which is their key by age).
    pub fn templates(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, TemplateId)>, ReadError> {
        let through = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.rows.scan_back(key::TEMPLATES_BY_AGE, through, limit)?;
        Ok(rows.into_iter().filter_map(|(key, _)| Some((key.to_vec(), key::template_of_age(&key)?))).collect())
    }

    /// A schedule, with how far it has come; deleted ones too.
    pub fn schedule(&self, id: &ScheduleId) -> Result<Option<ScheduleRecord>, ReadError> {
        let Some(head) = self.rows.get(&key::schedule(id))? else { return Ok(None) };
        let head = ScheduleHead::decode(id, &head)?;
        let content = self.rows.get(&key::schedule_content(id))?;
        let content = content.ok_or_else(|| ReadError::Missing(format!("what schedule `{id}` says")))?;
        Ok(Some(head.record(layout::decode_schedule(id, &content)?)?))
    }

    /// The ids of schedules, newest first, after a position (which is their key by age).
    pub fn schedules(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, ScheduleId)>, ReadError> {
        let through = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.rows.scan_back(key::SCHEDULES_BY_AGE, through, limit)?;
        Ok(rows.into_iter().filter_map(|(key, _)| Some((key.to_vec(), key::schedule_of_age(&key)?))).collect())
    }

    /// The heads of all schedules, one after the other; deleted ones too.
    pub fn each_schedule(&self, mut visit: impl FnMut(ScheduleId, ScheduleHead)) -> Result<(), ReadError> {
        let mut from = key::SCHEDULES.to_vec();
        loop {
            let rows = self.rows.scan(key::SCHEDULES, &from, ROWS_AT_ONCE)?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            from = [last.as_ref(), &[0]].concat();
            for (key, value) in &rows {
                let id = key::schedule_in(key).ok_or_else(|| ReadError::Missing("a schedule's name".into()))?;
                let head = ScheduleHead::decode(&id, value)?;
                visit(id, head);
            }
        }
    }

    /// The definition that executions of a version run.
    pub fn definition(&self, id: &WorkflowId, version: u64) -> Result<Arc<Definition>, ReadError> {
        let found = |cache: &VecDeque<CachedDefinition>| {
            cache.iter().find(|(other, v, _)| other == id && *v == version).map(|(.., found)| Arc::clone(found))
        };
        if let Some(definition) = found(&self.cache()) {
            return Ok(definition);
        }
        let definition = layout::decode_definition(id, &self.definition_row(id, version)?)?;
        self.remember(id, version, &definition);
        Ok(definition)
    }

    /// Keeps a definition that was read or stored just now.
    pub fn remember(&self, id: &WorkflowId, version: u64, definition: &Arc<Definition>) {
        let mut cache = self.cache();
        if cache.len() >= CACHED_DEFINITIONS {
            cache.pop_front();
        }
        cache.push_back((id.clone(), version, Arc::clone(definition)));
    }

    /// How long executions of a version have taken so far.
    pub fn durations(&self, id: &WorkflowId, version: u64) -> Result<Durations, ReadError> {
        let row = self.rows.get(&key::durations(id, version))?;
        Ok(row.map(|bytes| layout::decode_durations(id, version, &bytes)).transpose()?.unwrap_or_default())
    }

    /// An execution as it stands, rebuilt from its snapshot and the events after it.
    pub fn execution(&self, id: ExecutionId) -> Result<Option<Execution>, ReadError> {
        let definition = |workflow: &WorkflowId, version| self.definition(workflow, version);
        let (mut execution, mut after) = match self.rows.get(&key::snapshot(id))? {
            Some(bytes) => {
                let execution = layout::decode_snapshot(id, &bytes, definition)?;
                let revision = execution.revision;
                (Some(execution), revision)
            }
            None => (None, 0),
        };
        let Some(summary) = self.summary(id)? else { return Ok(None) };
        loop {
            let events = self.events_of(id, &summary.workflow, after, ROWS_AT_ONCE)?;
            let Some(last) = events.last() else { break };
            after = last.revision;
            for recorded in &events {
                match (&mut execution, &recorded.event) {
                    (Some(execution), _) => execution.evolve(recorded, &mut Moves::default()),
                    (None, Event::ExecutionStarted { version, .. }) => {
                        let definition = self.definition(&summary.workflow, *version)?;
                        execution = Execution::begin(recorded, definition, &mut Moves::default());
                    }
                    (None, _) => return Err(ReadError::Missing(format!("the start of execution {id}"))),
                }
            }
        }
        Ok(execution)
    }

    /// What lists show of an execution.
    pub fn summary(&self, id: ExecutionId) -> Result<Option<Summary>, ReadError> {
        let bytes = self.rows.get(&key::summary(id))?;
        Ok(bytes.map(|bytes| layout::decode_summary(id, &bytes)).transpose()?)
    }

    /// Executions, newest first, of one workflow or of all, older than a given one.
    pub fn executions(
        &self,
        workflow: Option<&WorkflowId>,
        before: Option<ExecutionId>,
        limit: usize,
    ) -> Result<Vec<ExecutionId>, ReadError> {
        let (prefix, through) = match workflow {
            Some(id) => (key::executions_of(id), before.map(|before| key::execution_of(id, before))),
            None => (key::SUMMARIES.to_vec(), before.map(key::summary)),
        };
        let through = through.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.rows.scan_back(&prefix, through, limit)?;
        Ok(rows.iter().filter_map(|(key, _)| key::execution_in(key)).collect())
    }

    /// Executions that have not ended, oldest first, after a given one; with what is known of those that have nothing
    /// to do for now.
    pub fn alive(
        &self,
        after: Option<ExecutionId>,
        limit: usize,
    ) -> Result<Vec<(ExecutionId, Option<Dormant>)>, ReadError> {
        let mut from = after.map_or_else(|| key::ALIVE.to_vec(), key::alive);
        if after.is_some() {
            from.push(0);
        }
        let rows = self.rows.scan(key::ALIVE, &from, limit)?;
        let ids = rows.iter().filter_map(|(key, value)| Some((key::execution_in(key)?, value)));
        ids.map(|(id, value)| Ok((id, layout::decode_mark(id, value)?))).collect()
    }

    /// What a task left, as conditions and placeholders look at it. Of a task that kept its result, it is that of the
    /// execution which this one repeats.
    pub fn result(&self, id: ExecutionId, task: TaskIndex) -> Result<TaskResult, ReadError> {
        let Some(execution) = self.execution(id)? else {
            return Err(ReadError::Missing(format!("execution {id}")));
        };
        let state = execution.tasks.get(task as usize);
        let state = state.ok_or_else(|| ReadError::Missing(format!("task {task} of execution {id}")))?;
        if let (true, Trigger::Rerun(source)) = (state.reused, &execution.trigger) {
            return self.result(*source, task);
        }
        self.result_at(id, task, state.last_end)
    }

    /// What a task left with the event of this revision.
    pub fn result_at(&self, id: ExecutionId, task: TaskIndex, last_end: Revision) -> Result<TaskResult, ReadError> {
        let Some(recorded) = self.event_at(id, last_end)? else { return Ok(TaskResult::default()) };
        let Event::TaskEnded { result, .. } = recorded.event else { return Ok(TaskResult::default()) };
        let output = match result.output {
            Some(output) if output.size > output.json.len() as u64 => self.output(id, task)?.map(Into::into),
            output => output.map(|output| output.json),
        };
        Ok(TaskResult { output, exit_code: result.exit_code })
    }

    /// The limits that were set.
    pub fn limits(&self) -> Result<Vec<Limit>, ReadError> {
        let mut limits = Vec::new();
        let mut from = key::LIMITS.to_vec();
        loop {
            let rows = self.rows.scan(key::LIMITS, &from, ROWS_AT_ONCE)?;
            let Some((last, _)) = rows.last() else { return Ok(limits) };
            from = [last.as_ref(), &[0]].concat();
            for (key, value) in &rows {
                limits.push(layout::decode_limit(key, value)?);
            }
        }
    }

    /// Events of an execution after a revision, oldest first: at least one if there is one, about `limit` at most.
    pub fn events(&self, id: ExecutionId, after: Revision, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        match self.summary(id)? {
            Some(summary) => self.events_of(id, &summary.workflow, after, limit),
            None => Ok(Vec::new()),
        }
    }

    /// The event of an execution with this revision.
    pub fn event_at(&self, id: ExecutionId, revision: Revision) -> Result<Option<Recorded>, ReadError> {
        let Some(before) = revision.checked_sub(1) else { return Ok(None) };
        Ok(self.events(id, before, 1)?.into_iter().find(|recorded| recorded.revision == revision))
    }

    /// A whole output that is longer than its event shows.
    pub fn output(&self, id: ExecutionId, task: TaskIndex) -> Result<Option<String>, ReadError> {
        let Some(bytes) = self.rows.get(&key::output(id, task))? else { return Ok(None) };
        let text = String::from_utf8(bytes.to_vec()).map_err(|error| LayoutError {
            what: format!("the output of task {task} in execution {id}"),
            why: error.to_string(),
        })?;
        Ok(Some(text))
    }

    /// All events after a revision, oldest first: at least one if there is one, about `limit` at most.
    pub fn all_events(&self, after: Revision, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        let mut from = self.row_with(key::BATCHES, &key::batch(after.saturating_add(1)))?;
        let mut events = Vec::new();
        while events.len() < limit {
            let rows = self.rows.scan(key::BATCHES, &from, ROWS_AT_ONCE.min(limit))?;
            let Some((last, _)) = rows.last() else { break };
            from = [last.as_ref(), &[0]].concat();
            for (key, value) in &rows {
                if events.len() >= limit {
                    return Ok(events);
                }
                let first = key::revision_in(key).ok_or_else(|| ReadError::Missing("a batch's revision".into()))?;
                self.batch_events(first, &BatchRow::decode(value)?, after, &mut events)?;
            }
        }
        Ok(events)
    }

    /// The newest batch: the revision of its last event, and the clocks.
    pub fn newest_batch(&self) -> Result<Option<(Revision, BatchRow)>, ReadError> {
        let rows = self.rows.scan_back(key::BATCHES, Bound::Unbounded, 1)?;
        let Some((key, value)) = rows.first() else { return Ok(None) };
        let first = key::revision_in(key).ok_or_else(|| ReadError::Missing("a batch's revision".into()))?;
        let row = BatchRow::decode(value)?;
        let count: u64 = row.runs.iter().map(|(_, count)| u64::from(*count)).sum();
        Ok(Some(((first + count).saturating_sub(1), row)))
    }

    /// A request that succeeded.
    pub fn request(&self, hash: &[u8; 16]) -> Result<Option<RequestRow>, ReadError> {
        let bytes = self.rows.get(&key::request(hash))?;
        Ok(bytes.map(|bytes| RequestRow::decode(&bytes)).transpose()?)
    }

    /// Requests from before a time, oldest first.
    pub fn requests_before(&self, time: Timestamp, limit: usize) -> Result<Vec<(Timestamp, [u8; 16])>, ReadError> {
        let rows = self.rows.scan(key::REQUESTS_BY_AGE, key::REQUESTS_BY_AGE, limit)?;
        let all = rows.iter().filter_map(|(key, _)| key::request_of_age(key));
        Ok(all.take_while(|(at, _)| *at < time).collect())
    }

    /// How many rows or pages of rows were asked for so far.
    #[cfg(test)]
    pub(super) fn count(&self) -> u64 {
        self.rows.count()
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, VecDeque<CachedDefinition>> {
        // A panic while the cache was held leaves it whole: it is only ever pushed to and popped from.
        self.definitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn head(&self, id: &WorkflowId) -> Result<Option<WorkflowHead>, ReadError> {
        let bytes = self.rows.get(&key::workflow(id))?;
        Ok(bytes.map(|bytes| WorkflowHead::decode(id, &bytes)).transpose()?)
    }

    fn definition_row(&self, id: &WorkflowId, version: u64) -> Result<bytes::Bytes, ReadError> {
        let row = self.rows.get(&key::definition(id, version))?;
        row.ok_or_else(|| ReadError::Missing(format!("version {version} of workflow `{id}`")))
    }

    /// The key to begin at so that the row holding `wanted` is the first: rows are named by their first revision.
    fn row_with(&self, prefix: &[u8], wanted: &[u8]) -> Result<Vec<u8>, ReadError> {
        let before = self.rows.scan_back(prefix, Bound::Included(wanted), 1)?;
        Ok(before.first().map_or_else(|| prefix.to_vec(), |(key, _)| key.to_vec()))
    }

    fn events_of(
        &self,
        id: ExecutionId,
        workflow: &WorkflowId,
        after: Revision,
        limit: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        let prefix = key::events_of(id);
        let mut from = self.row_with(&prefix, &key::events(id, after.saturating_add(1)))?;
        let subject = Subject::Execution(id);
        let mut events: Vec<Recorded> = Vec::new();
        // The last row of a page is read again with the next, since it may have grown meanwhile: two at least.
        let page = ROWS_AT_ONCE.min(limit).max(2);
        loop {
            let rows = self.rows.scan(&prefix, &from, page)?;
            for (_, value) in &rows {
                let seen = events.last().map_or(after, |last| last.revision);
                let row = layout::decode_events(&subject, Some(workflow), value)?;
                events.extend(row.into_iter().filter(|recorded| recorded.revision > seen));
                if events.len() >= limit {
                    return Ok(events);
                }
            }
            match rows.last() {
                Some((last, _)) if rows.len() == page => from = last.to_vec(),
                _ => return Ok(events),
            }
        }
    }

    /// The events of a batch's subjects are in one row each, named by their first revision in it or by one before.
    fn batch_events(
        &self,
        first: Revision,
        batch: &BatchRow,
        after: Revision,
        events: &mut Vec<Recorded>,
    ) -> Result<(), ReadError> {
        let mut subjects: BTreeMap<&Subject, Revision> = BTreeMap::new();
        let mut revision = first;
        for (subject, count) in &batch.runs {
            subjects.entry(subject).or_insert(revision);
            revision += u64::from(*count);
        }
        let start = events.len();
        let of_batch = first.max(after.saturating_add(1))..revision;
        for (subject, first) in subjects {
            let (prefix, row_key, workflow) = match subject {
                Subject::Lost => continue,
                Subject::Workflow(id) => {
                    (key::workflow_events_of(id), key::workflow_events(id, first), Some(id.clone()))
                }
                Subject::Execution(id) => {
                    let summary = self.summary(*id)?.ok_or_else(|| ReadError::Missing(format!("execution {id}")))?;
                    (key::events_of(*id), key::events(*id, first), Some(summary.workflow))
                }
                Subject::Noxd => (key::own_events(first), key::own_events(first), None),
            };
            // The row may have been named by an earlier batch, and have events of later ones.
            let row = self.rows.scan_back(&prefix, Bound::Included(&row_key), 1)?;
            let missing = || ReadError::Missing(format!("the events of revision {first}"));
            let (_, row) = row.first().ok_or_else(missing)?;
            let read = layout::decode_events(subject, workflow.as_ref(), row)?;
            events.extend(read.into_iter().filter(|recorded| of_batch.contains(&recorded.revision)));
        }
        events[start..].sort_unstable_by_key(|recorded| recorded.revision);
        Ok(())
    }
}
