//! What can go wrong for a person at the command line, how it is told, and the exit code it means.
//!
//! Read [`CliError`] first. The codes are a contract with scripts: 0 completed, 1 failed or refused, 2 usage,
//! 3 cancelled, 4 unreachable.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{file::FileError, text};

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A file does not hold what it should.
    #[error(transparent)]
    File(#[from] FileError),
    /// No daemon answers; the sentence says where it was sought.
    #[error("{0}")]
    Unreachable(String),
    /// The daemon refused the call.
    #[error("{}", describe(.0))]
    Refused(Box<Status>),
    /// The person said no, or the answer could not be asked for.
    #[error("{0}")]
    NotConfirmed(String),
    /// What was watched had not ended when the time that was given for it had passed.
    #[error("{0}")]
    NotYet(String),
    /// Writing the output failed.
    #[error("cannot write the output")]
    Output(#[source] std::io::Error),
    /// The daemon's answer lacks what its contract promises.
    #[error("noxd answered without {0}: it is perhaps of another version than noxctl")]
    Incomplete(&'static str),
}

impl CliError {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::File(_) => 2,
            Self::Unreachable(_) => 4,
            Self::Refused(status) if is_unreachable(status) => 4,
            // A reader that went away has what it wanted: `noxctl … | head` is no failure.
            Self::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe => 0,
            Self::Refused(_) | Self::NotConfirmed(_) | Self::NotYet(_) | Self::Output(_) | Self::Incomplete(_) => 1,
        }
    }

    /// Whether there is nothing to say: nobody reads any more.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

/// Whether the call never reached a daemon. A daemon's own UNAVAILABLE (it drains) has details or at least no source.
pub fn is_unreachable(status: &Status) -> bool {
    status.code() == Code::Unavailable && std::error::Error::source(status).is_some()
}

/// A refusal in lines: the message with its reason, each violation on a line of its own, and when to try again.
pub fn describe(status: &Status) -> String {
    if is_unreachable(status) {
        return format!("the connection to noxd broke: {}", text::escape(status.message()));
    }
    let details = status.get_error_details();
    let mut told = match status.message() {
        "" => format!("noxd refused the call: {}", status.code().description()),
        message => text::escape(message),
    };
    if let Some(info) = details.error_info() {
        told += &format!(" ({})", text::escape(&info.reason));
    }
    let fields = details.bad_request().map_or(&[][..], |request| &request.field_violations);
    let fields = fields.iter().map(|one| (&one.field, &one.description, one.reason.as_str()));
    let states = details.precondition_failure().map_or(&[][..], |failure| &failure.violations);
    let states = states.iter().map(|one| (&one.subject, &one.description, one.r#type.as_str()));
    let quotas = details.quota_failure().map_or(&[][..], |failure| &failure.violations);
    let quotas = quotas.iter().map(|one| (&one.subject, &one.description, ""));
    // What stands in the message already is not said twice.
    let said = |field: &str, description: &str| {
        status.message() == description || status.message() == format!("{field}: {description}")
    };
    for (field, description, reason) in fields.chain(states).chain(quotas) {
        if !said(field, description) {
            told += "\n  ";
            told += &violation_line(field, description, reason);
        }
    }
    if let Some(delay) = details.retry_info().and_then(|info| info.retry_delay) {
        told += &format!("\n  try again in {}", text::span(delay));
    }
    told
}

/// `tasks[3].dependencies[0]: there is no task `buld` (DEPENDENCY_NOT_FOUND)`.
pub fn violation_line(field: &str, description: &str, reason: &str) -> String {
    let mut line = match field {
        "" => text::escape(description),
        field => format!("{}: {}", text::escape(field), text::escape(description)),
    };
    if !reason.is_empty() {
        line += &format!(" ({})", text::escape(reason));
    }
    line
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Duration};

    use tonic_types::{ErrorDetails, FieldViolation};

    use super::*;

    #[test]
    fn every_fault_of_a_refused_workflow_has_its_own_line() {
        let mut details = ErrorDetails::new();
        details.set_error_info("DEPENDENCY_NOT_FOUND", "nox.dev", HashMap::new());
        details.set_bad_request(vec![
            FieldViolation {
                field: "tasks[3].dependencies[0]".into(),
                description: "there is no task `buld`; did you mean `build`?".into(),
                reason: "DEPENDENCY_NOT_FOUND".into(),
                localized_message: None,
            },
            FieldViolation {
                field: "tasks".into(),
                description: "a → b → a\x1b[2J".into(),
                reason: "CIRCULAR_DEPENDENCY".into(),
                localized_message: None,
            },
        ]);
        details.set_retry_info(Some(Duration::from_millis(1500)));
        let status = Status::with_error_details(Code::InvalidArgument, "the workflow has 2 faults", details);
        let error = CliError::from(status);
        assert_eq!(
            error.to_string(),
            "the workflow has 2 faults (DEPENDENCY_NOT_FOUND)\n  \
             tasks[3].dependencies[0]: there is no task `buld`; did you mean `build`? (DEPENDENCY_NOT_FOUND)\n  \
             tasks: a → b → a\\x1b[2J (CIRCULAR_DEPENDENCY)\n  \
             try again in 1.5s"
        );
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let error = CliError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert!(error.is_silent());
        assert_eq!(error.exit_code(), 0);
        assert_eq!(CliError::from(std::io::Error::other("full")).exit_code(), 1);
    }
}
