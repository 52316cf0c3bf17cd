//! Every fault of a definition, at once (S-DEF-1, S-DEF-2).
//!
//! It looks at the definition alone; whether a workflow of that id exists, or an agent is known, is asked elsewhere.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    rc::Rc,
};

use super::{
    dependency::Graph,
    expression,
    ids::{TaskIndex, check_name},
    workflow::{
        Action, BackoffSpec, CommandAction, ConditionSpec, ConditionSubject, MAX_TASKS, Reason, RetrySpec, TaskSpec,
        Violation, WorkflowSpec,
    },
};

const MAX_DEPENDENCIES: usize = 1_000_000;
const MAX_NAME_CHARS: usize = 256;
const MAX_TITLE_BYTES: usize = 1_024;
const MAX_DESCRIPTION_BYTES: usize = 64 * 1_024;
const MAX_NOTES: usize = 64;
const MAX_NOTE_KEY_BYTES: usize = 128;
const MAX_NOTE_VALUE_BYTES: usize = 4_096;
const MAX_ARGV: usize = 4_096;
const MAX_ARGV_BYTES: usize = 1_024 * 1_024;
/// Linux refuses one longer argument, whatever the others.
const MAX_ARGUMENT_BYTES: usize = 128 * 1_024 - 1;
/// PATH_MAX of Linux.
const MAX_PATH_BYTES: usize = 4_096;
/// All notes of one kind together: labels go into every execution's rows.
const MAX_NOTES_BYTES: usize = 64 * 1_024;
const MAX_STDIN_BYTES: usize = 1_024 * 1_024;
/// A hundred years: longer spans are a mistake, and sums of shorter ones cannot overflow.
const MAX_SPAN_MICROS: u64 = 100 * 366 * 86_400 * 1_000_000;
const MIN_TIMEOUT_MICROS: u64 = 1_000;
/// Tasks looked at for references that skip a generation, over the whole definition.
const ANCESTRY_BUDGET: usize = 20_000_000;

/// Checks a spec and builds its graph.
///
/// # Errors
/// Every fault, in the order of the fields.
pub fn check(spec: &WorkflowSpec) -> Result<Graph, Vec<Violation>> {
    let mut faults = Faults::default();
    workflow_fields(spec, &mut faults);
    let index = task_ids(&spec.tasks, &mut faults);
    for (position, task) in spec.tasks.iter().enumerate() {
        task_fields(position, task, &mut faults);
    }
    if spec.tasks.iter().map(|task| task.dependencies.len()).sum::<usize>() > MAX_DEPENDENCIES {
        faults.add(
            "tasks",
            Reason::LimitExceeded,
            format!("at most {MAX_DEPENDENCIES} dependencies are allowed in all"),
        );
        return Err(faults.0);
    }
    let graph = Graph::build(&spec.tasks, &index);
    let mut references = References {
        spec,
        index: &index,
        graph: graph.as_ref().ok(),
        inputs: spec.inputs.iter().map(|input| input.name.as_str()).collect(),
        budget: ANCESTRY_BUDGET,
    };
    for position in 0..spec.tasks.len() {
        references.of_task(position, &mut faults);
    }
    match graph {
        Ok(graph) if faults.0.is_empty() => Ok(graph),
        Ok(_) => Err(faults.0),
        Err(more) => {
            faults.0.extend(more);
            Err(faults.0)
        }
    }
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
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

fn workflow_fields(spec: &WorkflowSpec, faults: &mut Faults) {
    faults.longer_than("name", spec.name.chars().count(), MAX_NAME_CHARS, "characters");
    faults.longer_than("description", spec.description.len(), MAX_DESCRIPTION_BYTES, "bytes");
    faults.0.extend(notes("metadata", &spec.metadata));
    faults.0.extend(notes("labels", &spec.labels));
    faults.longer_than("tasks", spec.tasks.len(), MAX_TASKS, "tasks");
    if spec.tasks.is_empty() {
        faults.add("tasks", Reason::MissingValue, "a workflow needs at least one task".into());
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

fn task_fields(position: usize, task: &TaskSpec, faults: &mut Faults) {
    let field = |name: &str| format!("tasks[{position}].{name}");
    faults.longer_than(&field("title"), task.title.len(), MAX_TITLE_BYTES, "bytes");
    faults.longer_than(&field("description"), task.description.len(), MAX_DESCRIPTION_BYTES, "bytes");
    faults.0.extend(notes(&field("metadata"), &task.metadata));
    if !task.agent_id.is_empty()
        && let Err(words) = check_name(&task.agent_id)
    {
        faults.add(&field("agent_id"), Reason::InvalidId, words);
    }
    if let Some(timeout) = task.timeout_micros {
        faults.span(&field("timeout"), timeout);
        if timeout < MIN_TIMEOUT_MICROS {
            faults.add(
                &field("timeout"),
                Reason::InvalidValue,
                "a timeout is at least 1 ms; leave it out for none".into(),
            );
        }
    }
    if let Some(retry) = &task.retry {
        retry_fields(&field("retry_config"), retry, faults);
    }
    match &task.action {
        Some(Action::Command(command)) => command_fields(&field("command"), command, faults),
        Some(Action::Noop { duration_micros }) => faults.span(&field("noop.duration"), *duration_micros),
        Some(Action::Approval(approval)) => {
            if let Some(timeout) = approval.timeout_micros {
                faults.span(&field("approval.timeout"), timeout);
            }
        }
        None => {}
    }
}

fn command_fields(field: &str, command: &CommandAction, faults: &mut Faults) {
    let argv = format!("{field}.argv");
    if command.argv.first().is_none_or(String::is_empty) {
        faults.add(&argv, Reason::MissingValue, "name the program to run, then its arguments".into());
    }
    faults.longer_than(&argv, command.argv.len(), MAX_ARGV, "elements");
    faults.longer_than(&argv, command.argv.iter().map(String::len).sum(), MAX_ARGV_BYTES, "bytes");
    for (at, element) in command.argv.iter().enumerate() {
        let field = format!("{argv}[{at}]");
        faults.longer_than(&field, element.len(), MAX_ARGUMENT_BYTES, "bytes");
        no_nul(&field, element, faults);
    }
    for (name, value) in &command.env {
        env_entry(&format!("{field}.env[{:?}]", shortened(name)), name, value, faults);
    }
    let directory = format!("{field}.working_dir");
    no_nul(&directory, &command.working_dir, faults);
    faults.longer_than(&directory, command.working_dir.len(), MAX_PATH_BYTES, "bytes");
    if !command.working_dir.is_empty() && !command.working_dir.starts_with('/') {
        let words = format!(
            "`{}` is relative, but the server has no directory of yours; give an absolute path, \
             or use `noxd run` or `noxctl -f`, which resolve it against the file",
            shortened(&command.working_dir)
        );
        faults.add(&directory, Reason::InvalidValue, words);
    }
    faults.longer_than(&format!("{field}.stdin"), command.stdin.len(), MAX_STDIN_BYTES, "bytes");
}

fn no_nul(field: &str, text: &str, faults: &mut Faults) {
    if text.contains('\0') {
        faults.add(field, Reason::InvalidValue, "a NUL byte cannot reach a program; remove it".into());
    }
}

fn env_entry(field: &str, name: &str, value: &str, faults: &mut Faults) {
    if name.is_empty() || name.contains(['=', '\0']) {
        faults.add(field, Reason::InvalidValue, "a variable's name is not empty and has no `=` and no NUL".into());
    }
    if name.starts_with("NOX_") {
        faults.add(field, Reason::InvalidValue, "names that begin with `NOX_` are noxd's own; choose another".into());
    }
    no_nul(field, value, faults);
    faults.longer_than(field, name.len() + value.len(), MAX_ARGUMENT_BYTES, "bytes");
}

fn retry_fields(field: &str, retry: &RetrySpec, faults: &mut Faults) {
    if retry.max_attempts == 0 {
        let words = "max_attempts counts the first try, so it is at least 1";
        faults.add(&format!("{field}.max_attempts"), Reason::InvalidValue, words.into());
    }
    let mut span = |name: &str, seconds: f64| {
        if !seconds.is_finite() || seconds < 0.0 {
            let words = format!("{seconds} s is no delay; it is finite and not negative");
            faults.add(&format!("{field}.{name}"), Reason::InvalidValue, words);
        }
    };
    match &retry.backoff {
        None => {}
        Some(BackoffSpec::Fixed { delay }) => span("fixed.delay", *delay),
        Some(BackoffSpec::Linear { initial_delay, increment }) => {
            span("linear.initial_delay", *initial_delay);
            span("linear.increment", *increment);
        }
        Some(BackoffSpec::Exponential { initial_delay, multiplier }) => {
            span("exponential.initial_delay", *initial_delay);
            if !multiplier.is_finite() || *multiplier < 1.0 {
                let words = format!("{multiplier} is no multiplier; it is finite and at least 1");
                faults.add(&format!("{field}.exponential.multiplier"), Reason::InvalidValue, words);
            }
        }
    }
    if let Some(seconds) = retry.max_delay_seconds
        && (!seconds.is_finite() || seconds < 0.0)
    {
        let words = format!("{seconds} s is no delay; it is finite and not negative");
        faults.add(&format!("{field}.max_delay"), Reason::InvalidValue, words);
    }
    if !(0.0..=1.0).contains(&retry.jitter) {
        let words = format!("{} is no jitter; it is between 0 and 1", retry.jitter);
        faults.add(&format!("{field}.jitter"), Reason::InvalidValue, words);
    }
    for (at, entry) in retry.retry_on_errors.iter().enumerate() {
        if let Err(words) = retry_entry(entry) {
            faults.add(&format!("{field}.retry_on_errors[{at}]"), Reason::InvalidValue, words);
        }
    }
}

/// An error kind, `EXIT_CODE=75`, or `/regex/` (S-RETRY-2).
fn retry_entry(entry: &str) -> Result<(), String> {
    const KINDS: [&str; 10] =
        ["TIMEOUT", "EXIT_CODE", "SIGNAL", "SPAWN", "LOST", "AGENT", "RATE_LIMITED", "OUTPUT", "TEMPLATE", "INTERNAL"];
    const MAX_REGEX_BYTES: usize = 64 * 1_024;
    if let Some(regex) = entry.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
        return match regex::RegexBuilder::new(regex).size_limit(MAX_REGEX_BYTES).build() {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("`{}` is no regular expression: {error}", shortened(entry))),
        };
    }
    let known = KINDS.contains(&entry)
        || entry.strip_prefix("EXIT_CODE=").is_some_and(|code| code.parse::<u8>().is_ok_and(|code| code > 0));
    if known {
        return Ok(());
    }
    Err(format!(
        "`{}` is no error kind; use one of {}, EXIT_CODE=1 to 255, or /regex/",
        shortened(entry),
        KINDS.join(", ")
    ))
}

/// What tasks read of other tasks: each must come before its reader.
struct References<'a> {
    spec: &'a WorkflowSpec,
    index: &'a BTreeMap<&'a str, TaskIndex>,
    /// Absent where the dependencies themselves have faults: then only the ids are checked.
    graph: Option<&'a Graph>,
    /// Names of the declared inputs.
    inputs: Rc<[&'a str]>,
    budget: usize,
}

impl References<'_> {
    fn of_task(&mut self, position: usize, faults: &mut Faults) {
        let spec = self.spec;
        let task = &spec.tasks[position];
        for (at, condition) in task.conditions.iter().enumerate() {
            self.condition(position, at, condition, faults);
        }
        let field = |name: &str| format!("tasks[{position}].{name}");
        if !task.when.is_empty() {
            let read = expression::check_expression(&task.when, &self.inputs);
            self.read(position, &field("when"), Reason::ConditionInvalid, read, faults);
        }
        let inputs = Rc::clone(&self.inputs);
        let mut text = |name: String, text: &str, faults: &mut Faults| {
            let read = expression::check_field(text, &inputs);
            self.read(position, &name, Reason::PlaceholderInvalid, read, faults);
        };
        text(field("title"), &task.title, faults);
        text(field("description"), &task.description, faults);
        if let Some(Action::Command(command)) = &task.action {
            for (at, element) in command.argv.iter().enumerate() {
                text(field(&format!("command.argv[{at}]")), element, faults);
            }
            for (name, value) in &command.env {
                text(field(&format!("command.env[{:?}]", shortened(name))), value, faults);
            }
            text(field("command.stdin"), &command.stdin, faults);
        }
    }

    fn condition(&mut self, position: usize, at: usize, condition: &ConditionSpec, faults: &mut Faults) {
        let field = |name: &str| format!("tasks[{position}].conditions[{at}].{name}");
        match condition.subject {
            None => {
                faults.add(&field("condition_type"), Reason::MissingValue, "say what the condition looks at".into());
            }
            Some(ConditionSubject::Metadata) if condition.path.is_empty() => {
                faults.add(&field("path"), Reason::MissingValue, "name the key of the metadata".into());
            }
            Some(ConditionSubject::Output) if !condition.path.is_empty() && !condition.path.starts_with('/') => {
                let words = format!("`{}` is no JSON Pointer; it begins with `/`", shortened(&condition.path));
                faults.add(&field("path"), Reason::ConditionInvalid, words);
            }
            Some(_) => {}
        }
        if condition.operator.is_none() {
            faults.add(&field("operator"), Reason::MissingValue, "say how the condition compares".into());
        }
        let read = Ok(vec![condition.target_task_id.clone()]);
        self.read(position, &field("target_task_id"), Reason::ConditionInvalid, read, faults);
    }

    fn read(
        &mut self,
        position: usize,
        field: &str,
        reason: Reason,
        read: Result<Vec<String>, String>,
        faults: &mut Faults,
    ) {
        match read {
            Err(words) => faults.add(field, reason, words),
            Ok(tasks) => {
                for id in tasks {
                    if let Err(words) = self.comes_before(&id, position) {
                        faults.add(field, reason, words);
                    }
                }
            }
        }
    }

    fn comes_before(&mut self, id: &str, position: usize) -> Result<(), String> {
        let reader = &self.spec.tasks[position].id;
        let Some(&before) = self.index.get(id) else {
            return Err(format!("it reads task `{id}`, but no task has that id"));
        };
        let Some(graph) = self.graph else { return Ok(()) };
        let task = TaskIndex::try_from(position).expect("bounded by MAX_TASKS");
        if graph.dependencies(task).contains(&before) {
            return Ok(());
        }
        // A reference over several generations walks the graph; a definition cannot make that quadratic.
        self.budget = self.budget.saturating_sub(self.spec.tasks.len());
        if self.budget == 0 {
            return Err(format!(
                "too many references to tasks far before; add `{id}` to the dependencies of `{reader}`"
            ));
        }
        if graph.is_ancestor(before, task) {
            return Ok(());
        }
        Err(format!(
            "it reads task `{id}`, which does not come before `{reader}`; add `{id}` to the dependencies of `{reader}`"
        ))
    }
}

#[cfg(test)]
#[path = "validation_tests.rs"]
mod tests;
