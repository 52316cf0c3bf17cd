//! What goes in: what somebody wants, or what the executor saw.

use std::{collections::BTreeMap, sync::Arc};

use super::event::labels_weight;
use crate::machine::{
    ids::{Actor, AttemptKey, ExecutionId, ScheduleId, TemplateId, Timestamp, WorkflowId},
    schedule::{OverlapPolicy, Runs, ScheduleSpec},
    template::{TemplateOrigin, TemplateSpec},
    workflow::{Definition, RetrySpec, Violation, WorkflowSpec},
};

/// What somebody wants, or what the executor saw.
#[derive(Clone, Debug)]
pub enum Command {
    /// Store a definition under an id that is free.
    CreateWorkflow {
        /// Already checked.
        content: Content,
    },
    /// Store another version.
    UpdateWorkflow {
        /// Already checked.
        content: Content,
        /// Only if the stored one still has this etag.
        etag: Option<String>,
    },
    /// Forget a definition.
    DeleteWorkflow {
        /// Which.
        workflow: WorkflowId,
        /// Only if the stored one still has this etag.
        etag: Option<String>,
    },
    /// Store a template under an id that is free.
    CreateTemplate {
        /// Already checked.
        spec: Arc<TemplateSpec>,
    },
    /// Store another version of a template.
    UpdateTemplate {
        /// Already checked.
        spec: Arc<TemplateSpec>,
        /// Only if the stored one still has this etag.
        etag: Option<String>,
    },
    /// Forget a template; what was made of it stays.
    DeleteTemplate {
        /// Which.
        template: TemplateId,
        /// Only if the stored one still has this etag.
        etag: Option<String>,
    },
    /// Store what was made of a template under an id that is free, and perhaps run it, in one step.
    InstantiateTemplate {
        /// Already checked.
        definition: Arc<Definition>,
        /// What it was made of.
        origin: Arc<TemplateOrigin>,
        /// The execution; `None`: it is only stored.
        start: Option<Start>,
    },
    /// Store a schedule under an id that is free.
    CreateSchedule {
        /// When its times are counted from is the step's to say.
        spec: Arc<ScheduleSpec>,
        /// Whether it fires.
        enabled: bool,
        /// How often; `None`: without end.
        remaining_runs: Option<u64>,
    },
    /// Store another version of a schedule.
    UpdateSchedule {
        /// As at its creation.
        spec: Arc<ScheduleSpec>,
        /// Whether it fires; `None`: as before.
        enabled: Option<bool>,
        /// How often from here.
        runs: Runs,
        /// Only if the stored one still has this etag.
        etag: Option<String>,
    },
    /// Forget a schedule; what it started goes on.
    DeleteSchedule {
        /// Which.
        schedule: ScheduleId,
        /// Only if the stored one still has this etag.
        etag: Option<String>,
    },
    /// Let a schedule start nothing.
    PauseSchedule {
        /// Which.
        schedule: ScheduleId,
        /// Why, in a person's words.
        note: String,
    },
    /// Let it go on, from the next time on.
    ResumeSchedule {
        /// Which.
        schedule: ScheduleId,
    },
    /// Start an execution of a schedule now, beside its times.
    TriggerSchedule {
        /// Which.
        schedule: ScheduleId,
        /// The execution's id, made at the edge.
        execution: ExecutionId,
    },
    /// Start executions of a schedule for its times in a span of the past.
    BackfillSchedule {
        /// Which.
        schedule: ScheduleId,
        /// Times after this.
        from: Timestamp,
        /// Up to this one, and it.
        to: Timestamp,
        /// ALLOW_ALL or BUFFER_ALL; `None`: as the schedule's own policy allows.
        overlap: Option<OverlapPolicy>,
    },
    /// Forget the times of backfills that still wait.
    CancelBackfill {
        /// Of which schedule.
        schedule: ScheduleId,
    },
    /// Run the newest version.
    StartExecution {
        /// Its id, made at the edge.
        execution: ExecutionId,
        /// Of which workflow.
        workflow: WorkflowId,
        /// Over the workflow's own.
        labels: BTreeMap<String, String>,
        /// What it is given, by the names that the workflow declares.
        inputs: Inputs,
        /// What starts it.
        trigger: Trigger,
    },
    /// Run an execution that has ended again, keeping what was good of it.
    RerunExecution {
        /// The new one's id, made at the edge.
        execution: ExecutionId,
        /// The one that is repeated.
        source: ExecutionId,
        /// Ids of the tasks to do again, with all that comes after them; empty: those that did not succeed.
        tasks: Vec<String>,
    },
    /// A person's answer to an approval.
    ResolveApproval {
        /// Of which execution.
        execution: ExecutionId,
        /// Id of the task that waits for it.
        task: String,
        /// Yes or no.
        approved: bool,
        /// In the person's words.
        comment: String,
    },
    /// Change how many attempts may be alive at once.
    SetConcurrencyLimit {
        /// Of which agent; `None`: of all.
        agent: Option<Arc<str>>,
        /// How many; `None`: the agent has no limit of its own any more.
        limit: Option<u32>,
    },
    /// Pause, resume or cancel one execution.
    Control {
        /// What to do.
        operation: Operation,
        /// Of which workflow.
        workflow: WorkflowId,
        /// Which execution.
        execution: ExecutionId,
    },
    /// The process of an attempt exists.
    AttemptSpawned {
        /// Which attempt.
        attempt: AttemptKey,
        /// Which process.
        process: ProcessIdentity,
    },
    /// A live attempt has shown no sign of life for its task's `idle_timeout`.
    AttemptSilent {
        /// Which attempt.
        attempt: AttemptKey,
    },
    /// An attempt is over, and no process of it is left.
    AttemptEnded {
        /// Which attempt.
        attempt: AttemptKey,
        /// How it ended.
        outcome: Box<AttemptOutcome>,
    },
    /// Admit nothing more: noxd is shutting down.
    Drain,
}

impl Command {
    /// About how many bytes of text it carries: batches are bounded by it.
    pub fn weight(&self) -> usize {
        match self {
            Self::CreateWorkflow { content } | Self::UpdateWorkflow { content, .. } => content.weight(),
            Self::CreateTemplate { spec } | Self::UpdateTemplate { spec, .. } => spec.weight(),
            Self::InstantiateTemplate { definition, origin, start } => {
                let start = start.as_ref().map_or(0, |start| labels_weight(&start.labels) + start.inputs.weight());
                definition.spec().weight() + origin.parameters.len() + start
            }
            Self::CreateSchedule { spec, .. } | Self::UpdateSchedule { spec, .. } => spec.weight(),
            Self::PauseSchedule { note, .. } => note.len(),
            Self::StartExecution { labels, inputs, .. } => labels_weight(labels) + inputs.weight(),
            Self::ResolveApproval { comment, .. } => comment.len(),
            Self::AttemptEnded { outcome, .. } => {
                outcome.stderr_tail.len() + outcome.output.as_ref().map_or(0, |output| output.json.len())
            }
            _ => 0,
        }
    }
}

/// An execution that begins with its workflow.
#[derive(Clone, Debug)]
pub struct Start {
    /// Its id, made at the edge.
    pub execution: ExecutionId,
    /// Over the workflow's own.
    pub labels: BTreeMap<String, String>,
    /// What it is given, by the names that the workflow declares.
    pub inputs: Inputs,
    /// When tasks are tried again that do not say so themselves.
    pub retry: Option<Arc<RetrySpec>>,
}

/// What an execution is given, by name, as it came: it is checked against the declarations of the version that runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs(pub Arc<serde_json::Map<String, serde_json::Value>>);

impl Inputs {
    /// About how many bytes it has.
    pub(crate) fn weight(&self) -> usize {
        // A bound from above: what is not text takes less.
        fn of(value: &serde_json::Value) -> usize {
            match value {
                serde_json::Value::String(text) => text.len(),
                serde_json::Value::Array(values) => values.iter().map(of).sum::<usize>() + 8,
                serde_json::Value::Object(entries) => entries.iter().map(|(key, value)| key.len() + of(value)).sum(),
                _ => 24,
            }
        }
        self.0.iter().map(|(key, value)| key.len() + of(value)).sum()
    }
}

/// What is done with executions from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Start nothing more.
    Pause,
    /// Go on.
    Resume,
    /// End it.
    Cancel,
}

impl Operation {
    /// The verb, for words to people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
        }
    }
}

/// A definition on its way into the store.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// It can run.
    Ready(Arc<Definition>),
    /// It has faults and was stored all the same, on request.
    Draft {
        /// As given.
        spec: Arc<WorkflowSpec>,
        /// Why it cannot run.
        violations: Vec<Violation>,
    },
}

impl Content {
    /// About how many bytes of text it has.
    pub fn weight(&self) -> usize {
        let faults = match self {
            Self::Ready(_) => 0,
            Self::Draft { violations, .. } => {
                violations.iter().map(|fault| fault.field.len() + fault.description.len()).sum::<usize>()
            }
        };
        self.spec().weight() + faults
    }

    /// The definition as its author wrote it.
    pub fn spec(&self) -> &WorkflowSpec {
        match self {
            Self::Ready(definition) => definition.spec(),
            Self::Draft { spec, .. } => spec,
        }
    }
}

/// A workflow as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkflowRecord {
    /// Counts all versions under this id, from 1.
    pub version: u64,
    /// When the first version was stored.
    pub created_at: Timestamp,
    /// When this version was stored.
    pub updated_at: Timestamp,
    /// Who stored the first version.
    pub created_by: Actor,
    /// Whether it was deleted. The record stays, so that versions go on counting.
    pub deleted: bool,
    /// What its first version was made of, if of a template.
    pub origin: Option<Arc<TemplateOrigin>>,
    /// The definition.
    pub content: Content,
}

impl WorkflowRecord {
    /// Changes with the definition alone: a version is never stored twice.
    pub fn etag(&self) -> String {
        format!("v{}", self.version)
    }
}

/// What started an execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// A call.
    Manual,
    /// A rerun of this execution.
    Rerun(ExecutionId),
    /// A schedule.
    Schedule {
        /// Which.
        schedule: ScheduleId,
        /// The nominal time that it is for; `None`: somebody triggered it.
        nominal: Option<Timestamp>,
        /// Whether somebody had that time made up.
        backfill: bool,
    },
}

/// A process that cannot be taken for a later one with the same id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessIdentity {
    /// Its process id.
    pub pid: u32,
    /// Clock ticks after boot.
    pub start_time: u64,
    /// Which boot.
    pub boot_id: Arc<str>,
}

/// How an attempt ended, as the executor saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptOutcome {
    /// Its end.
    pub end: AttemptEnd,
    /// What it left, where it succeeded.
    pub output: Option<Output>,
    /// Last 4 KiB of standard error.
    pub stderr_tail: String,
    /// CPU time in microseconds.
    pub cpu_micros: Option<u64>,
    /// Most memory of one process, in bytes.
    pub peak_memory_bytes: Option<u64>,
}

impl AttemptOutcome {
    /// An end without anything measured.
    pub fn bare(end: AttemptEnd) -> Self {
        Self { end, output: None, stderr_tail: String::new(), cpu_micros: None, peak_memory_bytes: None }
    }
}

/// The end of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// It did its work.
    Succeeded,
    /// It exited with a code other than 0.
    ExitCode(i32),
    /// A signal that noxd did not send ended it.
    Signal(i32),
    /// It could not be started.
    NotSpawned(String),
    /// Its output cannot be taken.
    OutputRefused(String),
    /// A placeholder could not be filled.
    NotRendered(String),
    /// noxd ended it, since it was told to: by a cancel or a timeout.
    Stopped,
    /// noxd's own shutdown or crash ended it.
    Interrupted(&'static str),
}

/// What a task left: JSON text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The whole of it, or its beginning where `size` is greater.
    pub json: Arc<str>,
    /// Bytes of the whole.
    pub size: u64,
}
