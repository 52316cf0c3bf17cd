//! Definitions: what a client wrote to a checked definition, or to every fault at once; and back.
//!
//! `definition/parse.rs` reads the messages and `definition/render.rs` writes them: each knows every field, so that what
//! is shown can be given again. `definition/words.rs` has the enums of both.

mod parse;
mod render;
mod words;

use std::collections::HashSet;

pub(super) use self::{parse::parameters, render::input};
pub use self::{
    parse::{parse, retry as parse_retry},
    render::{render, render_spec, retry as render_retry, status, tasks, violation},
};
use crate::machine::{
    input,
    message::Content,
    workflow::{Definition, Violation, WorkflowSpec},
};

/// Faults that are stored with a draft; ValidateWorkflow tells all.
const KEPT_FAULTS: usize = 1_000;

/// A definition on its way in.
#[derive(Debug)]
pub struct Parsed {
    /// As the machine takes it; absent where even the id is unusable.
    pub spec: Option<WorkflowSpec>,
    /// Values that are no values at all: they cannot stand in a draft either.
    pub(super) malformed: Vec<Violation>,
    /// Valid, but more than this build can do.
    pub(super) unsupported: Vec<Violation>,
}

impl Parsed {
    /// What can be stored: ready to run or, on request, a draft.
    ///
    /// # Errors
    /// Every fault at once; those that a client can mend before those that only another build can.
    pub fn into_content(self, save_as_draft: bool) -> Result<Content, Vec<Violation>> {
        let Self { spec, malformed, unsupported } = self;
        let Some(spec) = spec else { return Err(in_order(malformed, unsupported)) };
        let sound = malformed.is_empty() && unsupported.is_empty();
        match Definition::check(spec.clone()) {
            Ok(definition) if sound => Ok(Content::Ready(definition)),
            Err(violations) if sound && save_as_draft => {
                let mut violations = in_order(violations, Vec::new());
                violations.truncate(KEPT_FAULTS);
                Ok(Content::Draft { spec: spec.into(), violations })
            }
            Ok(_) => Err(in_order(malformed, unsupported)),
            Err(violations) => Err(in_order([malformed, violations].concat(), unsupported)),
        }
    }
}

/// Faults in the order of the fields, as a person goes through a file; what only another build can do comes last, and
/// not for a field that is at fault anyway.
pub(super) fn in_order(mut faults: Vec<Violation>, mut unsupported: Vec<Violation>) -> Vec<Violation> {
    let at_fault: HashSet<String> = faults.iter().map(|fault| fault.field.clone()).collect();
    unsupported.retain(|other| !at_fault.contains(&other.field));
    faults.sort_by_cached_key(|fault| place(&fault.field));
    faults.extend(unsupported);
    faults
}

/// Every fault of what an execution of a definition would be given: what ExecuteWorkflow would refuse. A draft cannot be
/// executed, and has no faults of this kind.
pub fn input_faults(content: &Content, given: &serde_json::Map<String, serde_json::Value>) -> Vec<Violation> {
    match content {
        Content::Ready(definition) => input::resolve(&definition.spec().inputs, given).err().unwrap_or_default(),
        Content::Draft { .. } => Vec::new(),
    }
}

/// Sorts `tasks[2]` before `tasks[10]`.
fn place(field: &str) -> Vec<(u64, String)> {
    let mut parts = Vec::new();
    let mut rest = field;
    while !rest.is_empty() {
        let words = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let digits = rest[words..].find(|c: char| !c.is_ascii_digit()).map_or(rest.len(), |end| words + end);
        let number = rest[words..digits].parse().unwrap_or(u64::MAX);
        parts.push((0, rest[..words].to_string()));
        parts.push((number, String::new()));
        rest = &rest[digits..];
    }
    parts
}

#[cfg(test)]
#[path = "definition_tests.rs"]
mod tests;
