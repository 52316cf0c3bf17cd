//! Which rows there are: their keys, and machine values to and from their bytes. This is the on-disk format.
//!
//! Row values are protobuf (`proto/nox/store/v1`), never the API's messages; their generated code is used nowhere else.
//! Fields are only ever added. Every decoder refuses what it cannot read with the row's name: nothing is guessed.
//!
//! | key | value |
//! |---|---|
//! | `w` workflow | the newest version's head |
//! | `d` workflow 0 version | one version's definition |
//! | `t` created-at workflow | nothing: workflows by age |
//! | `e` execution revision | an execution's events of one batch, or of several that follow each other |
//! | `v` workflow 0 revision | a workflow's own events of one batch |
//! | `m` template | the newest version's head |
//! | `g` template 0 version | one version of a template |
//! | `h` created-at template | nothing: templates by age |
//! | `c` schedule | a schedule's head, with how far it has come |
//! | `f` schedule | what it says |
//! | `k` created-at schedule | nothing: schedules by age |
//! | `n` revision | noxd's own events of one batch, those of templates and schedules too |
//! | `l` agent | a limit that was set; without an agent, of all |
//! | `r` revision | whose events a batch has, and the clocks |
//! | `s` execution | a snapshot |
//! | `u` workflow 0 version | how long executions of a version usually take |
//! | `x` execution | what lists show |
//! | `y` workflow 0 execution | nothing: executions by workflow |
//! | `a` execution | it has not ended; whether it has work |
//! | `o` execution task | a whole output, where the event has only its beginning |
//! | `q` hash | a request that succeeded |
//! | `p` time hash | nothing: requests by age |

mod definition;
mod durations;
mod event;
mod execution;
mod schedule;
mod template;

use std::sync::Arc;

use prost::Message as _;

pub use durations::{decode_durations, encode_durations};
pub use event::{OUTPUT_PREVIEW_BYTES, decode_events, encode_events, whole_output};
pub use execution::{
    Dormant, Summary, decode_mark, decode_snapshot, decode_summary, encode_mark, encode_snapshot, encode_summary,
};

pub use schedule::{ScheduleHead, decode_schedule, encode_schedule, encode_schedule_head};
pub use template::{TemplateHead, decode_template, encode_template};

use crate::machine::{
    ids::{Elapsed, ExecutionId, Revision, ScheduleId, TaskIndex, TemplateId, Timestamp, WorkflowId},
    message::{Content, Reply, Trigger, WorkflowRecord},
};

/// The generated code of `proto/nox/store/v1`.
mod rows {
    include!(concat!(env!("OUT_DIR"), "/nox.store.v1.rs"));
}

/// A row that cannot be read, though its checksum is right: another program wrote it, or a later noxd.
#[derive(Debug, thiserror::Error)]
#[error("the row of {what} cannot be read: {why}")]
pub struct LayoutError {
    /// Which row, in words.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
}

fn unreadable(what: impl Into<String>, why: impl ToString) -> LayoutError {
    LayoutError { what: what.into(), why: why.to_string() }
}

/// Keys of rows.
pub mod key {
    use super::{ExecutionId, Revision, ScheduleId, TaskIndex, TemplateId, Timestamp, WorkflowId};

    /// All heads of workflows.
    pub const WORKFLOWS: &[u8] = b"w";
    /// All workflows by age.
    pub const WORKFLOWS_BY_AGE: &[u8] = b"t";
    /// What lists show of all executions.
    pub const SUMMARIES: &[u8] = b"x";
    /// All executions that have not ended.
    pub const ALIVE: &[u8] = b"a";
    /// All batches.
    pub const BATCHES: &[u8] = b"r";
    /// All requests by age.
    pub const REQUESTS_BY_AGE: &[u8] = b"p";

    fn join(prefix: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        let mut key = Vec::with_capacity(prefix.len() + parts.iter().map(|part| part.len()).sum::<usize>());
        key.extend_from_slice(prefix);
        for part in parts {
            key.extend_from_slice(part);
        }
        key
    }

    /// A time, so that earlier ones sort first. Times before 1970 do not occur.
    fn time_bytes(time: Timestamp) -> [u8; 8] {
        u64::try_from(time.0).unwrap_or(0).to_be_bytes()
    }

    /// The head of a workflow.
    pub fn workflow(id: &WorkflowId) -> Vec<u8> {
        join(WORKFLOWS, &[id.as_str().as_bytes()])
    }

    /// One version's definition.
    pub fn definition(id: &WorkflowId, version: u64) -> Vec<u8> {
        join(b"d", &[id.as_str().as_bytes(), &[0], &version.to_be_bytes()])
    }

    /// How long all versions of all workflows usually take.
    pub const DURATIONS: &[u8] = b"u";

    /// How long executions of a version usually take.
    pub fn durations(id: &WorkflowId, version: u64) -> Vec<u8> {
        join(DURATIONS, &[id.as_str().as_bytes(), &[0], &version.to_be_bytes()])
    }

    /// The workflow and the version in a key of [`durations`].
    pub fn durations_in(key: &[u8]) -> Option<(WorkflowId, u64)> {
        let (id, version) = key.strip_prefix(DURATIONS)?.split_last_chunk::<8>()?;
        let id = std::str::from_utf8(id.strip_suffix(&[0])?).ok()?;
        Some((WorkflowId::parse(id).ok()?, u64::from_be_bytes(*version)))
    }

    /// A workflow by its age.
    pub fn workflow_by_age(created_at: Timestamp, id: &WorkflowId) -> Vec<u8> {
        join(WORKFLOWS_BY_AGE, &[&time_bytes(created_at), id.as_str().as_bytes()])
    }

    /// The workflow in a key of [`workflow_by_age`].
    pub fn workflow_of_age(key: &[u8]) -> Option<WorkflowId> {
        let id = std::str::from_utf8(key.get(9..)?).ok()?;
        WorkflowId::parse(id).ok()
    }

    /// All heads of templates.
    pub const TEMPLATES: &[u8] = b"m";
    /// All templates by age.
    pub const TEMPLATES_BY_AGE: &[u8] = b"h";
    /// All versions of all templates.
    pub const TEMPLATE_VERSIONS: &[u8] = b"g";

    /// The head of a template.
    pub fn template(id: &TemplateId) -> Vec<u8> {
        join(TEMPLATES, &[id.as_str().as_bytes()])
    }

    /// One version of a template.
    pub fn template_version(id: &TemplateId, version: u64) -> Vec<u8> {
        join(TEMPLATE_VERSIONS, &[id.as_str().as_bytes(), &[0], &version.to_be_bytes()])
    }

    /// A template by its age.
    pub fn template_by_age(created_at: Timestamp, id: &TemplateId) -> Vec<u8> {
        join(TEMPLATES_BY_AGE, &[&time_bytes(created_at), id.as_str().as_bytes()])
    }

    /// The template in a key of [`template_by_age`].
    pub fn template_of_age(key: &[u8]) -> Option<TemplateId> {
        TemplateId::parse(std::str::from_utf8(key.get(9..)?).ok()?).ok()
    }

    /// All heads of schedules.
    pub const SCHEDULES: &[u8] = b"c";
    /// All schedules by age.
    pub const SCHEDULES_BY_AGE: &[u8] = b"k";

    /// The head of a schedule.
    pub fn schedule(id: &ScheduleId) -> Vec<u8> {
        join(SCHEDULES, &[id.as_str().as_bytes()])
    }

    /// The schedule in a key of [`schedule`].
    pub fn schedule_in(key: &[u8]) -> Option<ScheduleId> {
        ScheduleId::parse(std::str::from_utf8(key.get(1..)?).ok()?).ok()
    }

    /// What a schedule says.
    pub fn schedule_content(id: &ScheduleId) -> Vec<u8> {
        join(b"f", &[id.as_str().as_bytes()])
    }

    /// A schedule by its age.
    pub fn schedule_by_age(created_at: Timestamp, id: &ScheduleId) -> Vec<u8> {
        join(SCHEDULES_BY_AGE, &[&time_bytes(created_at), id.as_str().as_bytes()])
    }

    /// The schedule in a key of [`schedule_by_age`].
    pub fn schedule_of_age(key: &[u8]) -> Option<ScheduleId> {
        ScheduleId::parse(std::str::from_utf8(key.get(9..)?).ok()?).ok()
    }

    /// All events of an execution.
    pub fn events_of(execution: ExecutionId) -> Vec<u8> {
        join(b"e", &[&execution.0.to_be_bytes()])
    }

    /// An execution's events of the batch in which its first has this revision.
    pub fn events(execution: ExecutionId, first: Revision) -> Vec<u8> {
        join(&events_of(execution), &[&first.to_be_bytes()])
    }

    /// All events of a workflow itself.
    pub fn workflow_events_of(id: &WorkflowId) -> Vec<u8> {
        join(b"v", &[id.as_str().as_bytes(), &[0]])
    }

    /// A workflow's own events of the batch in which its first has this revision.
    pub fn workflow_events(id: &WorkflowId, first: Revision) -> Vec<u8> {
        join(&workflow_events_of(id), &[&first.to_be_bytes()])
    }

    /// All limits of attempts that are alive at once.
    pub const LIMITS: &[u8] = b"l";

    /// noxd's own events of the batch in which its first has this revision.
    pub fn own_events(first: Revision) -> Vec<u8> {
        join(b"n", &[&first.to_be_bytes()])
    }

    /// The limit of an agent; of all where it is empty.
    pub fn limit(agent: &str) -> Vec<u8> {
        join(LIMITS, &[agent.as_bytes()])
    }

    /// The batch whose first event has this revision.
    pub fn batch(first: Revision) -> Vec<u8> {
        join(BATCHES, &[&first.to_be_bytes()])
    }

    /// The revision at the end of a key.
    pub fn revision_in(key: &[u8]) -> Option<Revision> {
        Some(u64::from_be_bytes(*key.last_chunk::<8>()?))
    }

    /// A snapshot.
    pub fn snapshot(execution: ExecutionId) -> Vec<u8> {
        join(b"s", &[&execution.0.to_be_bytes()])
    }

    /// What lists show of an execution.
    pub fn summary(execution: ExecutionId) -> Vec<u8> {
        join(SUMMARIES, &[&execution.0.to_be_bytes()])
    }

    /// All executions of a workflow.
    pub fn executions_of(id: &WorkflowId) -> Vec<u8> {
        join(b"y", &[id.as_str().as_bytes(), &[0]])
    }

    /// An execution of a workflow.
    pub fn execution_of(id: &WorkflowId, execution: ExecutionId) -> Vec<u8> {
        join(&executions_of(id), &[&execution.0.to_be_bytes()])
    }

    /// The mark of an execution that has not ended.
    pub fn alive(execution: ExecutionId) -> Vec<u8> {
        join(ALIVE, &[&execution.0.to_be_bytes()])
    }

    /// The execution at the end of a key.
    pub fn execution_in(key: &[u8]) -> Option<ExecutionId> {
        Some(ExecutionId(u128::from_be_bytes(*key.last_chunk::<16>()?)))
    }

    /// A whole output.
    pub fn output(execution: ExecutionId, task: TaskIndex) -> Vec<u8> {
        join(b"o", &[&execution.0.to_be_bytes(), &task.to_be_bytes()])
    }

    /// A request.
    pub fn request(hash: &[u8; 16]) -> Vec<u8> {
        join(b"q", &[hash])
    }

    /// A request by its age.
    pub fn request_by_age(time: Timestamp, hash: &[u8; 16]) -> Vec<u8> {
        join(REQUESTS_BY_AGE, &[&time_bytes(time), hash])
    }

    /// The time and the request in a key of [`request_by_age`].
    pub fn request_of_age(key: &[u8]) -> Option<(Timestamp, [u8; 16])> {
        let time = u64::from_be_bytes(*key.get(1..9)?.first_chunk::<8>()?);
        Some((Timestamp(i64::try_from(time).ok()?), *key.last_chunk::<16>()?))
    }
}

/// A workflow's head and definition as rows.
pub fn encode_workflow(record: &WorkflowRecord) -> (Vec<u8>, Vec<u8>) {
    let (draft, faults) = match &record.content {
        Content::Ready(_) => (false, Vec::new()),
        Content::Draft { violations, .. } => (true, violations.iter().map(definition::encode_fault).collect()),
    };
    let head = rows::WorkflowHead {
        version: record.version,
        created_at: record.created_at.0,
        updated_at: record.updated_at.0,
        created_by: record.created_by.as_str().into(),
        deleted: record.deleted,
        draft,
        faults,
        template: record.origin.as_deref().map(template::encode_origin),
    };
    (head.encode_to_vec(), definition::encode(record.content.spec()).encode_to_vec())
}

/// What a head says, without the definition.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkflowHead {
    row: rows::WorkflowHead,
}

impl WorkflowHead {
    /// Reads a head.
    ///
    /// # Errors
    /// Where the bytes are no head.
    pub fn decode(id: &WorkflowId, bytes: &[u8]) -> Result<Self, LayoutError> {
        let row = rows::WorkflowHead::decode(bytes).map_err(|error| unreadable(format!("workflow `{id}`"), error))?;
        Ok(Self { row })
    }

    /// The newest version.
    pub fn version(&self) -> u64 {
        self.row.version
    }

    /// The whole record, with the definition that goes with it.
    ///
    /// # Errors
    /// Where the definition cannot be read, or has faults that it must not have.
    pub fn record(&self, id: &WorkflowId, definition: &[u8]) -> Result<WorkflowRecord, LayoutError> {
        let content = if self.row.draft {
            let spec = Arc::new(definition::decode(id, definition)?);
            Content::Draft { spec, violations: self.row.faults.iter().filter_map(definition::decode_fault).collect() }
        } else {
            Content::Ready(definition::decode_checked(id, definition)?)
        };
        Ok(WorkflowRecord {
            version: self.row.version,
            created_at: Timestamp(self.row.created_at),
            updated_at: Timestamp(self.row.updated_at),
            created_by: crate::machine::ids::Actor::from_text(&self.row.created_by),
            deleted: self.row.deleted,
            origin: self.row.template.as_ref().map(template::decode_origin).transpose()?.map(Arc::new),
            content,
        })
    }
}

pub use definition::{decode as decode_spec, decode_checked as decode_definition};

/// What started an execution, as several rows have it.
#[derive(Default)]
struct TriggerFields {
    number: u32,
    rerun_of: Vec<u8>,
    schedule: String,
    nominal: Option<i64>,
    backfill: bool,
}

fn encode_trigger(trigger: &Trigger) -> TriggerFields {
    match trigger {
        Trigger::Manual => TriggerFields { number: 1, ..TriggerFields::default() },
        Trigger::Rerun(source) => {
            TriggerFields { number: 2, rerun_of: source.0.to_be_bytes().to_vec(), ..TriggerFields::default() }
        }
        Trigger::Schedule { schedule, nominal, backfill } => TriggerFields {
            number: 3,
            schedule: schedule.as_str().into(),
            nominal: nominal.map(|at| at.0),
            backfill: *backfill,
            ..TriggerFields::default()
        },
    }
}

fn decode_trigger(fields: &TriggerFields) -> Option<Trigger> {
    let TriggerFields { number, rerun_of, schedule, nominal, backfill } = fields;
    match number {
        1 => Some(Trigger::Manual),
        2 => Some(Trigger::Rerun(ExecutionId(u128::from_be_bytes(rerun_of.as_slice().try_into().ok()?)))),
        3 => Some(Trigger::Schedule {
            schedule: ScheduleId::parse(schedule).ok()?,
            nominal: nominal.map(Timestamp),
            backfill: *backfill,
        }),
        _ => None,
    }
}

/// Whose events a batch has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchRow {
    /// Runs of events of one subject, in the order of the revisions.
    pub runs: Vec<(Subject, u32)>,
    /// The newest time.
    pub time: Timestamp,
    /// The newest time on noxd's own clock.
    pub elapsed: Elapsed,
}

/// Whom events are about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A workflow itself.
    Workflow(WorkflowId),
    /// One of its executions.
    Execution(ExecutionId),
    /// noxd as a whole.
    Noxd,
    /// Nobody knows: `noxd doctor` could not save them from a damaged store.
    Lost,
}

impl BatchRow {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let run = |(subject, count): &(Subject, u32)| match subject {
            Subject::Workflow(id) => rows::Run { workflow: id.as_str().into(), count: *count, ..rows::Run::default() },
            Subject::Noxd => rows::Run { count: *count, ..rows::Run::default() },
            Subject::Execution(id) => {
                rows::Run { execution: id.0.to_be_bytes().to_vec(), count: *count, ..rows::Run::default() }
            }
            Subject::Lost => rows::Run { count: *count, lost: true, ..rows::Run::default() },
        };
        let runs = self.runs.iter().map(run).collect();
        rows::BatchRow { runs, time: self.time.0, elapsed: self.elapsed.0 }.encode_to_vec()
    }

    /// From bytes.
    ///
    /// # Errors
    /// Where they are no batch.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let row = rows::BatchRow::decode(bytes).map_err(|error| unreadable("a batch", error))?;
        let run = |run: &rows::Run| {
            let subject = match <[u8; 16]>::try_from(run.execution.as_slice()) {
                Ok(id) => Subject::Execution(ExecutionId(u128::from_be_bytes(id))),
                Err(_) if run.lost => Subject::Lost,
                Err(_) if run.execution.is_empty() && run.workflow.is_empty() => Subject::Noxd,
                Err(_) => {
                    Subject::Workflow(WorkflowId::parse(&run.workflow).map_err(|why| unreadable("a batch", why))?)
                }
            };
            Ok((subject, run.count))
        };
        let runs = row.runs.iter().map(run).collect::<Result<_, LayoutError>>()?;
        Ok(Self { runs, time: Timestamp(row.time), elapsed: Elapsed(row.elapsed) })
    }
}

/// The row of a limit.
pub fn encode_limit(limit: u32) -> Vec<u8> {
    rows::ConcurrencyLimit { agent: String::new(), limit: Some(limit) }.encode_to_vec()
}

/// A limit of attempts that are alive at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Of which agent; `None`: of all.
    pub agent: Option<Arc<str>>,
    /// How many.
    pub most: u32,
}

/// Reads the row of a limit.
///
/// # Errors
/// Where it is none.
pub fn decode_limit(key: &[u8], bytes: &[u8]) -> Result<Limit, LayoutError> {
    let row = rows::ConcurrencyLimit::decode(bytes).map_err(|error| unreadable("a limit", error))?;
    let agent = key.strip_prefix(key::LIMITS).and_then(|agent| std::str::from_utf8(agent).ok());
    match (agent, row.limit) {
        (Some(agent), Some(most)) => Ok(Limit { agent: (!agent.is_empty()).then(|| agent.into()), most }),
        _ => Err(unreadable("a limit", "it names no agent, or no number")),
    }
}

/// A request that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRow {
    /// Of its body.
    pub body_hash: [u8; 16],
    /// When.
    pub time: Timestamp,
    /// What it was answered.
    pub reply: Reply,
}

impl RequestRow {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let bytes = |id: &ExecutionId| id.0.to_be_bytes().to_vec();
        let mut row = rows::RequestRow { body_hash: self.body_hash.to_vec(), time: self.time.0, ..Default::default() };
        match &self.reply {
            Reply::Workflow { workflow, version } => (row.workflow, row.version) = (workflow.as_str().into(), *version),
            Reply::Started { workflow, version, execution } => {
                (row.workflow, row.version) = (workflow.as_str().into(), *version);
                row.executions = vec![bytes(execution)];
            }
            Reply::Template { template, version } => (row.template, row.version) = (template.as_str().into(), *version),
            Reply::Schedule { schedule, version } => (row.schedule, row.version) = (schedule.as_str().into(), *version),
            Reply::Executions(ids) => row.executions = ids.iter().map(bytes).collect(),
            Reply::Taken => {}
        }
        row.encode_to_vec()
    }

    /// From bytes.
    ///
    /// # Errors
    /// Where they are no request.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let row = rows::RequestRow::decode(bytes).map_err(|error| unreadable("a request", error))?;
        let hash = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).map_err(|error| unreadable("a request", error));
        let id = |bytes: &Vec<u8>| hash(bytes).map(|id| ExecutionId(u128::from_be_bytes(id)));
        let version = row.version;
        let reply = if !row.template.is_empty() {
            let template = TemplateId::parse(&row.template).map_err(|why| unreadable("a request", why))?;
            Reply::Template { template, version }
        } else if !row.schedule.is_empty() {
            let schedule = ScheduleId::parse(&row.schedule).map_err(|why| unreadable("a request", why))?;
            Reply::Schedule { schedule, version }
        } else if row.workflow.is_empty() {
            Reply::Executions(row.executions.iter().map(id).collect::<Result<_, _>>()?)
        } else {
            let workflow = WorkflowId::parse(&row.workflow).map_err(|why| unreadable("a request", why))?;
            match row.executions.first() {
                Some(execution) => Reply::Started { workflow, version, execution: id(execution)? },
                None => Reply::Workflow { workflow, version },
            }
        };
        Ok(Self { body_hash: hash(&row.body_hash)?, time: Timestamp(row.time), reply })
    }
}
