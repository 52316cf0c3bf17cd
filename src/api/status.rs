//! Errors as clients see them: a canonical code, a stable reason, the fields at fault, and what to do.
//!
//! One table of reasons ([`Reason`]); every error that leaves the API is made here.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::{
    engine::{Refusal, read::ReadError},
    machine::{
        message::Rejection,
        workflow::{self, Violation},
    },
};

/// Who gives the reasons.
pub const DOMAIN: &str = "nox.dev";

/// The stable reasons of errors that are not faults of a definition (those are [`workflow::Reason`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No workflow of that id.
    WorkflowNotFound,
    /// No template of that id.
    TemplateNotFound,
    /// No schedule of that id.
    ScheduleNotFound,
    /// No execution of that id.
    ExecutionNotFound,
    /// No task of that id.
    TaskNotFound,
    /// The attempt left no log.
    LogNotFound,
    /// The id is taken.
    AlreadyExists,
    /// The request id was used with another body.
    RequestIdReused,
    /// Somebody else changed it first.
    EtagMismatch,
    /// A report about an attempt that is not the live one.
    StaleAttempt,
    /// Not in this state.
    InvalidWorkflowState,
    /// The task waits for no answer.
    NotWaiting,
    /// Another person must answer.
    NotAnApprover,
    /// Above the newest revision.
    RevisionUnknown,
    /// No frame of the log begins there.
    LogOffsetUnknown,
    /// Not from this list, or of another filter.
    InvalidPageToken,
    /// A path that is no field, or not one that a client may set.
    InvalidUpdateMask,
    /// No room on the disk.
    StoreFull,
    /// No room in the queue.
    ConcurrencyLimitExceeded,
    /// The request did not arrive in time.
    RequestTimedOut,
    /// noxd is shutting down.
    Draining,
    /// noxd is at fault.
    Internal,
}

impl Reason {
    /// All of them, with their code and what they mean: the table in the docs is checked against it.
    pub const TABLE: [(Self, Code, &'static str); 22] = [
        (Self::WorkflowNotFound, Code::NotFound, "WORKFLOW_NOT_FOUND"),
        (Self::TemplateNotFound, Code::NotFound, "TEMPLATE_NOT_FOUND"),
        (Self::ScheduleNotFound, Code::NotFound, "SCHEDULE_NOT_FOUND"),
        (Self::ExecutionNotFound, Code::NotFound, "EXECUTION_NOT_FOUND"),
        (Self::TaskNotFound, Code::NotFound, "TASK_NOT_FOUND"),
        (Self::LogNotFound, Code::NotFound, "LOG_NOT_FOUND"),
        (Self::AlreadyExists, Code::AlreadyExists, "ALREADY_EXISTS"),
        (Self::RequestIdReused, Code::AlreadyExists, "REQUEST_ID_REUSED"),
        (Self::EtagMismatch, Code::Aborted, "ETAG_MISMATCH"),
        (Self::StaleAttempt, Code::Aborted, "STALE_ATTEMPT"),
        (Self::InvalidWorkflowState, Code::FailedPrecondition, "INVALID_WORKFLOW_STATE"),
        (Self::NotWaiting, Code::FailedPrecondition, "NOT_WAITING"),
        (Self::NotAnApprover, Code::PermissionDenied, "NOT_AN_APPROVER"),
        (Self::RevisionUnknown, Code::OutOfRange, "REVISION_UNKNOWN"),
        (Self::LogOffsetUnknown, Code::OutOfRange, "LOG_OFFSET_UNKNOWN"),
        (Self::InvalidPageToken, Code::InvalidArgument, "INVALID_PAGE_TOKEN"),
        (Self::InvalidUpdateMask, Code::InvalidArgument, "INVALID_UPDATE_MASK"),
        (Self::StoreFull, Code::ResourceExhausted, "STORE_FULL"),
        (Self::ConcurrencyLimitExceeded, Code::ResourceExhausted, "CONCURRENCY_LIMIT_EXCEEDED"),
        (Self::RequestTimedOut, Code::DeadlineExceeded, "REQUEST_TIMED_OUT"),
        (Self::Draining, Code::Unavailable, "DRAINING"),
        (Self::Internal, Code::Internal, "INTERNAL"),
    ];

    fn row(self) -> (Code, &'static str) {
        let row = Self::TABLE.iter().find(|(reason, ..)| *reason == self);
        row.map_or((Code::Internal, "INTERNAL"), |(_, code, name)| (*code, name))
    }

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        self.row().1
    }
}

/// An error with its reason.
pub fn status(reason: Reason, message: impl Into<String>) -> Status {
    let (code, name) = reason.row();
    detailed(code, name, message.into(), ErrorDetails::new())
}

/// A fault in one field of a request.
pub fn invalid_field(field: &str, reason: workflow::Reason, description: impl Into<String>) -> Status {
    invalid(&[Violation { field: field.into(), reason, description: description.into() }])
}

/// Faults of a request, all of them; the code is that of the first.
pub fn invalid(violations: &[Violation]) -> Status {
    let Some(first) = violations.first() else { return status(Reason::Internal, "a refusal without a fault") };
    let code = if first.reason == workflow::Reason::NotSupported { Code::Unimplemented } else { Code::InvalidArgument };
    let message = match violations.len() {
        1 => format!("{}: {}", first.field, first.description),
        more => format!("{more} faults; the first is {}: {}", first.field, first.description),
    };
    let mut details = ErrorDetails::new();
    let fields = violations.iter().map(|fault| FieldViolation {
        field: fault.field.clone(),
        description: fault.description.clone(),
        reason: fault.reason.as_str().into(),
        localized_message: None,
    });
    details.set_bad_request(fields.collect::<Vec<_>>());
    detailed(code, first.reason.as_str(), message, details)
}

/// A refusal of the engine.
pub fn refused(refusal: &Refusal) -> Status {
    let message = refusal.to_string();
    let reason = match refusal {
        Refusal::Rejected(rejection) => return rejected(rejection, message),
        Refusal::RequestIdReused => Reason::RequestIdReused,
        Refusal::StoreFull => Reason::StoreFull,
        Refusal::Stopped(_) => Reason::Draining,
    };
    let (code, name) = reason.row();
    let mut details = ErrorDetails::new();
    match reason {
        Reason::StoreFull => {
            details.set_quota_failure(vec![tonic_types::QuotaViolation::new("disk", message.clone())]);
            details.set_retry_info(Some(std::time::Duration::from_secs(30)));
        }
        Reason::Draining => {
            details.set_retry_info(Some(std::time::Duration::from_secs(1)));
        }
        _ => {}
    }
    detailed(code, name, message, details)
}

/// The store could not be read. What exactly is in the log, not in the answer.
pub fn unreadable(error: &ReadError) -> Status {
    tracing::error!(%error, cause = ?error, "a read failed");
    status(Reason::Internal, "the store could not be read; noxd's log says why")
}

/// No execution of that id.
pub fn no_execution(id: impl std::fmt::Display) -> Status {
    not_found(Reason::ExecutionNotFound, "execution", &id.to_string(), "`noxctl execution list` shows those that do")
}

/// No workflow of that id.
pub fn no_workflow(id: impl std::fmt::Display) -> Status {
    not_found(Reason::WorkflowNotFound, "workflow", &id.to_string(), "`noxctl workflow list` shows those that do")
}

/// No template of that id.
pub fn no_template(id: impl std::fmt::Display) -> Status {
    not_found(Reason::TemplateNotFound, "template", &id.to_string(), "`noxctl template list` shows those that do")
}

/// No schedule of that id.
pub fn no_schedule(id: impl std::fmt::Display) -> Status {
    not_found(Reason::ScheduleNotFound, "schedule", &id.to_string(), "`noxctl schedule list` shows those that do")
}

/// No task of that id in an execution.
pub fn no_task(id: &str) -> Status {
    not_found(Reason::TaskNotFound, "task", id, "`noxctl execution show` lists the tasks")
}

/// No such thing.
pub fn not_found(reason: Reason, kind: &str, id: &str, remedy: &str) -> Status {
    let (code, name) = reason.row();
    let message = format!("{kind} `{id}` does not exist; {remedy}");
    let mut details = ErrorDetails::new();
    details.set_resource_info(kind, id, "", message.clone());
    detailed(code, name, message, details)
}

fn rejected(rejection: &Rejection, message: String) -> Status {
    let mut details = ErrorDetails::new();
    let reason = match rejection {
        Rejection::WorkflowNotFound(id) => return no_workflow(id),
        Rejection::TemplateNotFound(id) => return no_template(id),
        Rejection::ScheduleNotFound(id) => return no_schedule(id),
        Rejection::InvalidSchedule { violations } | Rejection::InvalidBackfill { violations } => {
            return invalid(violations);
        }
        Rejection::BackfillFull { schedule, .. } | Rejection::ScheduleBusy { schedule, .. } => {
            details.set_quota_failure(vec![tonic_types::QuotaViolation::new(schedule.as_str(), message.clone())]);
            details.set_retry_info(Some(std::time::Duration::from_secs(10)));
            Reason::ConcurrencyLimitExceeded
        }
        Rejection::ScheduleExists(id) => {
            details.set_resource_info("schedule", id.as_str(), "", message.clone());
            Reason::AlreadyExists
        }
        Rejection::ScheduleEtagMismatch { schedule, .. } => {
            details.set_resource_info("schedule", schedule.as_str(), "", message.clone());
            Reason::EtagMismatch
        }
        Rejection::TooManyVersions(_) => {
            return invalid_field("template.id", workflow::Reason::LimitExceeded, message);
        }
        Rejection::TemplateExists(id) => {
            details.set_resource_info("template", id.as_str(), "", message.clone());
            Reason::AlreadyExists
        }
        Rejection::TemplateEtagMismatch { template, .. } => {
            details.set_resource_info("template", template.as_str(), "", message.clone());
            Reason::EtagMismatch
        }
        Rejection::ExecutionNotFound { execution, .. } => {
            details.set_resource_info("execution", execution.to_string(), "", message.clone());
            Reason::ExecutionNotFound
        }
        Rejection::NoSuchExecution(id) => return no_execution(id),
        Rejection::TaskNotFound { task, .. } => return no_task(task),
        Rejection::InvalidInputs { violations, .. } => return invalid(violations),
        Rejection::InvalidLimit(words) => return invalid_field("limit", workflow::Reason::InvalidValue, words),
        Rejection::NotWaiting { task, .. } => {
            let failure = tonic_types::PreconditionViolation::new("STATE", task, message.clone());
            details.set_precondition_failure(vec![failure]);
            Reason::NotWaiting
        }
        Rejection::NotAnApprover { .. } => Reason::NotAnApprover,
        Rejection::WorkflowExists(id) => {
            details.set_resource_info("workflow", id.as_str(), "", message.clone());
            Reason::AlreadyExists
        }
        Rejection::EtagMismatch { workflow, .. } => {
            details.set_resource_info("workflow", workflow.as_str(), "", message.clone());
            Reason::EtagMismatch
        }
        Rejection::InvalidWorkflowState { workflow, .. } => {
            let failure = tonic_types::PreconditionViolation::new("STATE", workflow.as_str(), message.clone());
            details.set_precondition_failure(vec![failure]);
            Reason::InvalidWorkflowState
        }
        Rejection::StaleAttempt(_) => Reason::StaleAttempt,
        Rejection::QueueFull { .. } => {
            details.set_quota_failure(vec![tonic_types::QuotaViolation::new("queue", message.clone())]);
            details.set_retry_info(Some(std::time::Duration::from_secs(10)));
            Reason::ConcurrencyLimitExceeded
        }
        Rejection::Draining => {
            details.set_retry_info(Some(std::time::Duration::from_secs(1)));
            Reason::Draining
        }
    };
    let (code, name) = reason.row();
    detailed(code, name, message, details)
}

fn detailed(code: Code, reason: &str, message: String, mut details: ErrorDetails) -> Status {
    details.set_error_info(reason, DOMAIN, HashMap::new());
    // Details travel in a header, whose size is bounded: a definition with thousands of faults shows the first ones.
    const SHOWN: usize = 32;
    if let Some(fields) = details.bad_request().map(|bad| bad.field_violations.len()).filter(|count| *count > SHOWN) {
        let shown: Vec<_> =
            details.bad_request().into_iter().flat_map(|bad| &bad.field_violations).take(SHOWN).cloned().collect();
        details.set_bad_request(shown);
        let message = format!("{message} ({SHOWN} of {fields} are listed; ValidateWorkflow lists all)");
        return Status::with_error_details(code, message, details);
    }
    Status::with_error_details(code, message, details)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::workflow::Reason as Fault;

    #[test]
    fn each_reason_has_one_row_and_one_name() {
        let mut names: Vec<&str> = Reason::TABLE.iter().map(|(.., name)| *name).collect();
        names.extend(Fault::ALL.iter().map(|fault| fault.as_str()));
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn faults_come_together_with_the_code_of_the_first() {
        // S-DEF-1
        let fault = |field: &str, reason| Violation { field: field.into(), reason, description: "words".into() };
        let status = invalid(&[fault("tasks[0].id", Fault::InvalidId), fault("inputs", Fault::NotSupported)]);
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        assert_eq!(details.error_info().map(|info| info.reason.as_str()), Some("INVALID_ID"));
        let fields = &details.bad_request().expect("fields").field_violations;
        let seen: Vec<_> = fields.iter().map(|field| (field.field.as_str(), field.reason.as_str())).collect();
        assert_eq!(seen, [("tasks[0].id", "INVALID_ID"), ("inputs", "NOT_SUPPORTED")]);
        assert_eq!(invalid(&[fault("inputs", Fault::NotSupported)]).code(), Code::Unimplemented);
    }

    #[test]
    fn many_faults_stay_within_a_header() {
        let faults: Vec<Violation> = (0..5_000)
            .map(|i| Violation {
                field: format!("tasks[{i}].id"),
                reason: Fault::InvalidId,
                description: "x".repeat(100),
            })
            .collect();
        let status = invalid(&faults);
        assert!(status.details().len() < 8_192, "{}", status.details().len());
        assert!(status.message().contains("32 of 5000 are listed"), "{}", status.message());
    }
}
