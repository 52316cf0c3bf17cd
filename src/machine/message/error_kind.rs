//! The kinds of what can go wrong with an attempt. Which of them are tried again is in `retry`, what a person can do
//! about them in `task`.

/// Kinds of error; each has one stable name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Its time was up.
    Timeout,
    /// It exited with a code other than 0.
    ExitCode,
    /// A signal ended it.
    Signal,
    /// It could not be started.
    Spawn,
    /// noxd's crash or shutdown ended it.
    Lost,
    /// Its output could not be taken.
    Output,
    /// It was cancelled.
    Cancelled,
    /// A placeholder could not be filled.
    Template,
    /// noxd itself went wrong.
    Internal,
    /// The agent reported a failure.
    Agent,
    /// The agent's provider takes no more for now.
    RateLimited,
    /// A person said no.
    Rejected,
}

impl ErrorKind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Timeout,
        Self::ExitCode,
        Self::Signal,
        Self::Spawn,
        Self::Lost,
        Self::Output,
        Self::Cancelled,
        Self::Template,
        Self::Internal,
        Self::Agent,
        Self::RateLimited,
        Self::Rejected,
    ];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "TIMEOUT",
            Self::ExitCode => "EXIT_CODE",
            Self::Signal => "SIGNAL",
            Self::Spawn => "SPAWN",
            Self::Lost => "LOST",
            Self::Output => "OUTPUT",
            Self::Cancelled => "CANCELLED",
            Self::Template => "TEMPLATE",
            Self::Internal => "INTERNAL",
            Self::Agent => "AGENT",
            Self::RateLimited => "RATE_LIMITED",
            Self::Rejected => "REJECTED",
        }
    }
}
