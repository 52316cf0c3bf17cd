//! Every fault of a definition, at once (S-DEF-1, S-DEF-2).
//!
//! It looks at the definition alone; whether a workflow of that id exists, or an agent is known, is asked elsewhere.
//! Here is what concerns the workflow as a whole; `validation/task.rs` looks at one task, `validation/handler.rs` at
//! what `on_failure` and `finally` mean for the graph, `validation/reference.rs` at what tasks read of each other.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use super::{
    dependency::Graph,
    ids::{TaskIndex, check_name},
    input,
    workflow::{MAX_TASKS, Reason, RetrySpec, TaskSpec, Violation, WorkflowSpec},
};

mod handler;
mod reference;
mod task;

const MAX_DEPENDENCIES: usize = 1_000_000;
const MAX_NAME_CHARS: usize = 256;
const MAX_DESCRIPTION_BYTES: usize = 64 * 1_024;
const MAX_NOTES: usize = 64;
const MAX_NOTE_KEY_BYTES: usize = 128;
const MAX_NOTE_VALUE_BYTES: usize = 4_096;
/// All notes of one kind together: labels go into every execution's rows.
const MAX_NOTES_BYTES: usize = 64 * 1_024;
/// More agents and groups than a person tells apart; each is looked at when a task is admitted.
const MAX_LIMITS: usize = 256;
/// A hundred years: longer spans are a mistake, and sums of shorter ones cannot overflow.
const MAX_SPAN_MICROS: u64 = 100 * 366 * 86_400 * 1_000_000;
const MIN_TIMEOUT_MICROS: u64 = 1_000;

/// Checks a spec and builds its graph.
///
/// # Errors
/// Every fault, in the order of the fields.
pub fn check(spec: &WorkflowSpec) -> Result<Graph, Vec<Violation>> {
    let mut faults = Faults::default();
    workflow_fields(spec, &mut faults);
    limits(spec, &mut faults);
    faults.0.extend(input::check_declarations(&spec.inputs));
    let index = task_ids(&spec.tasks, &mut faults);
    let roles = handler::roles(spec, &index, &mut faults);
    for (position, task) in spec.tasks.iter().enumerate() {
        task::fields(position, task, &mut faults);
    }
    if spec.tasks.iter().map(|task| task.dependencies.len()).sum::<usize>() > MAX_DEPENDENCIES {
        let words = format!("at most {MAX_DEPENDENCIES} dependencies are allowed in all");
        faults.add("tasks", Reason::LimitExceeded, words);
        return Err(faults.0);
    }
    handler::dependencies(spec, &index, &roles, &mut faults);
    let graph = Graph::build(&spec.tasks, &index);
    reference::check(spec, &index, &roles, graph.as_ref().ok(), &mut faults);
    match graph {
        Ok(graph) if faults.0.is_empty() => Ok(graph),
        Ok(_) => Err(faults.0),
        Err(more) => {
            faults.0.extend(more);
            Err(faults.0)
        }
    }
}

/// Checks a retry policy that is no task's.
pub fn retry(field: &str, retry: &RetrySpec) -> Vec<Violation> {
    let mut faults = Faults::default();
    task::retry_fields(field, retry, &mut faults);
    faults.0
}

/// Checks notes of people: bounded in number and size, no NUL.
pub fn notes(field: &str, notes: &BTreeMap<String, String>) -> Vec<Violation> {
    let mut faults = Faults::default();
    if notes.len() > MAX_NOTES {
        faults.add(field, Reason::LimitExceeded, format!("{} entries; at most {MAX_NOTES} are allowed", notes.len()));
    }
    let bytes = notes.iter().map(|(key, value)| key.len() + value.len()).sum();
    faults.longer_than(field, bytes, MAX_NOTES_BYTES, "bytes in all");
    for (key, value) in notes {
        let at = format!("{field}[{:?}]", shortened(key));
        if key.is_empty() {
            faults.add(&at, Reason::MissingValue, "the key is empty".into());
        }
        if key.len() > MAX_NOTE_KEY_BYTES || value.len() > MAX_NOTE_VALUE_BYTES {
            let words = format!("keys have at most {MAX_NOTE_KEY_BYTES} bytes and values {MAX_NOTE_VALUE_BYTES}");
            faults.add(&at, Reason::LimitExceeded, words);
        }
    }
    faults.0
}

#[derive(Default)]
struct Faults(Vec<Violation>);

impl Faults {
    fn add(&mut self, field: &str, reason: Reason, description: String) {
        self.0.push(Violation { field: field.into(), reason, description });
    }

    fn longer_than(&mut self, field: &str, length: usize, limit: usize, unit: &str) {
        if length > limit {
            self.add(field, Reason::LimitExceeded, format!("{length} {unit}; at most {limit} are allowed"));
        }
    }

    fn span(&mut self, field: &str, micros: u64) {
        if micros > MAX_SPAN_MICROS {
            self.add(field, Reason::InvalidValue, "longer than a hundred years; leave it out for no bound".into());
        }
    }

    fn timeout(&mut self, field: &str, micros: Option<u64>) {
        let Some(micros) = micros else { return };
        self.span(field, micros);
        if micros < MIN_TIMEOUT_MICROS {
            self.add(field, Reason::InvalidValue, "a timeout is at least 1 ms; leave it out for none".into());
        }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

fn workflow_fields(spec: &WorkflowSpec, faults: &mut Faults) {
    faults.longer_than("name", spec.name.chars().count(), MAX_NAME_CHARS, "characters");
    faults.longer_than("description", spec.description.len(), MAX_DESCRIPTION_BYTES, "bytes");
    faults.0.extend(notes("metadata", &spec.metadata));
    faults.0.extend(notes("labels", &spec.labels));
    faults.timeout("execution_timeout", spec.execution_timeout_micros);
    faults.longer_than("tasks", spec.tasks.len(), MAX_TASKS, "tasks");
    if spec.tasks.is_empty() {
        faults.add("tasks", Reason::MissingValue, "a workflow needs at least one task".into());
    }
}

/// Limits on tasks alive at once (S-PAR-1). An agent that no task names is no fault: one block of limits may serve many
/// workflows, and agents are known elsewhere. A group is known here alone, so an unknown one is a slip.
fn limits(spec: &WorkflowSpec, faults: &mut Faults) {
    const FIELD: &str = "concurrency_limits";
    faults.longer_than(FIELD, spec.concurrency_limits.len(), MAX_LIMITS, "entries");
    let groups: BTreeSet<&str> = spec.tasks.iter().map(|task| task.parallel_group.as_str()).collect();
    for (key, limit) in &spec.concurrency_limits {
        let field = format!("{FIELD}[{:?}]", shortened(key));
        if *limit == 0 {
            let words = "a limit of 0 would let nothing run; it is at least 1";
            faults.add(&field, Reason::InvalidValue, words.into());
        }
        let group = key.strip_prefix("group:");
        let known = key == "*" || check_name(group.unwrap_or(key)).is_ok();
        if !known {
            let words = format!(
                "`{}` names nothing that can be limited; use `*` for all tasks, an agent's id, or \
                 `group:<parallel_group>`",
                shortened(key).escape_debug()
            );
            faults.add(&field, Reason::InvalidValue, words);
        } else if let Some(group) = group.filter(|group| !groups.contains(group)) {
            let words = format!("no task has `parallel_group: {group}`; give it to the tasks that this limit is for");
            faults.add(&field, Reason::InvalidValue, words);
        }
    }
}

/// Tasks by id; the first of several with one id.
fn task_ids<'a>(tasks: &'a [TaskSpec], faults: &mut Faults) -> BTreeMap<&'a str, TaskIndex> {
    let mut index = BTreeMap::new();
    for (task, position) in tasks.iter().zip(0..) {
        let field = format!("tasks[{position}].id");
        if let Err(words) = check_name(&task.id) {
            faults.add(&field, Reason::InvalidId, words);
            continue;
        }
        match index.entry(task.id.as_str()) {
            Entry::Vacant(entry) => {
                entry.insert(position);
            }
            Entry::Occupied(first) => {
                let words = format!("tasks[{}] has the id `{}` already; ids are unique", first.get(), task.id);
                faults.add(&field, Reason::DuplicateTaskId, words);
            }
        }
    }
    index
}

#[cfg(test)]
#[path = "validation_tests.rs"]
mod tests;
