//! What is wrong with a schedule: where, what, and what would be right. One [`Fault`] each, all of them at once.

use std::fmt;

/// Most faults that are told of one schedule; nobody reads more.
pub(super) const MAX_FAULTS: usize = 20;
/// Longest piece of input that a fault repeats, in characters, as it is shown.
const MAX_TOKEN_CHARS: usize = 40;

/// One fault of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The field of the schedule, such as `timezone` or `cron.expression`.
    pub field: &'static str,
    /// Where in the field's text the piece begins, in characters from 1; none where the whole field is meant.
    pub column: Option<usize>,
    /// The piece that is wrong: 40 characters at most, control characters escaped. Empty: something is missing.
    pub token: String,
    /// What is wrong with it.
    pub problem: String,
    /// What would be right.
    pub remedy: String,
}

impl Fault {
    pub(super) fn new(
        field: &'static str,
        token: impl fmt::Display,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let token = shown(&token.to_string());
        Self { field, column: None, token, problem: problem.into(), remedy: remedy.into() }
    }

    pub(super) fn at(mut self, column: usize) -> Self {
        self.column = Some(column);
        self
    }
}

impl fmt::Display for Fault {
    /// On one line: `cron.expression, column 1: `60`: the minute is 0 to 59; write …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.field)?;
        if let Some(column) = self.column {
            write!(f, ", column {column}")?;
        }
        if !self.token.is_empty() {
            write!(f, ": `{}`", self.token)?;
        }
        write!(f, ": {}; {}", self.problem, self.remedy)
    }
}

/// A piece of input as it can stand in a message: short, on one line, and doing nothing to a terminal.
pub(super) fn shown(text: &str) -> String {
    let mut shown = String::new();
    let mut room = MAX_TOKEN_CHARS;
    for c in text.chars() {
        // Letters, digits and signs as they are; what moves a cursor or turns the direction of writing, escaped.
        let piece = if c == ' ' || c.is_ascii_graphic() || c.is_alphanumeric() {
            c.to_string()
        } else {
            c.escape_unicode().to_string()
        };
        let Some(rest) = room.checked_sub(piece.chars().count()) else {
            shown.push('…');
            break;
        };
        shown.push_str(&piece);
        room = rest;
    }
    shown
}
