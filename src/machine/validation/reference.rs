//! What tasks read of other tasks, in conditions, `when` and placeholders: each must have ended before its reader
//! starts (S-DEF-2). And what looks like a placeholder where nothing is filled in.

use std::collections::BTreeMap;

use super::{Faults, handler::Role, shortened};
use crate::machine::{
    dependency::Graph,
    expression,
    ids::TaskIndex,
    input::MAX_INPUTS,
    placeholder,
    workflow::{Action, ConditionSpec, ConditionSubject, Reason, TaskSpec, WorkflowSpec},
};

/// Tasks looked at for references that skip a generation, over the whole definition.
const ANCESTRY_BUDGET: usize = 20_000_000;

/// Checks what all tasks read. Without a graph, since the dependencies have faults, only the ids are checked.
pub(super) fn check(
    spec: &WorkflowSpec,
    index: &BTreeMap<&str, TaskIndex>,
    roles: &[Role],
    graph: Option<&Graph>,
    faults: &mut Faults,
) {
    let inputs: Vec<&str> = spec.inputs.iter().take(MAX_INPUTS).map(|input| input.name.as_str()).collect();
    let mut references = References { spec, index, roles, graph, inputs: &inputs, budget: ANCESTRY_BUDGET };
    for (position, task) in spec.tasks.iter().enumerate() {
        references.of_task(position, task, faults);
        literal_fields(position, task, faults);
    }
}

struct References<'a> {
    spec: &'a WorkflowSpec,
    index: &'a BTreeMap<&'a str, TaskIndex>,
    roles: &'a [Role],
    graph: Option<&'a Graph>,
    /// Names of the declared inputs.
    inputs: &'a [&'a str],
    budget: usize,
}

impl References<'_> {
    fn of_task(&mut self, position: usize, task: &TaskSpec, faults: &mut Faults) {
        for (at, condition) in task.conditions.iter().enumerate() {
            self.condition(position, at, condition, faults);
        }
        let field = |name: &str| format!("tasks[{position}].{name}");
        let inputs = self.inputs;
        if !task.when.is_empty() {
            let read = expression::check_expression(&task.when, inputs);
            self.read(position, &field("when"), Reason::ConditionInvalid, read, faults);
        }
        if matches!(task.action, Some(Action::Approval(_))) {
            return;
        }
        let mut text = |name: String, text: &str, faults: &mut Faults| {
            let read = expression::check_field(text, inputs);
            self.read(position, &name, Reason::PlaceholderInvalid, read, faults);
        };
        text(field("title"), &task.title, faults);
        text(field("description"), &task.description, faults);
        if let Some(Action::Command(command)) = &task.action {
            for (at, element) in command.argv.iter().enumerate() {
                text(field(&format!("command.argv[{at}]")), element, faults);
            }
            for (name, value) in &command.env {
                let at = field(&format!("command.env[{:?}]", shortened(name)));
                if expression::has_placeholder(value) && !placeholder::may_be_filled(name) {
                    let words = "a placeholder may not fill this variable, since its value can choose which code \
                                 runs; write it out, or pass the value by a variable of another name";
                    faults.add(&at, Reason::PlaceholderInvalid, words.into());
                }
                text(at, value, faults);
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
        let instead = "write the comparison as `when`, which can read `tasks` and `inputs`";
        literal(&field("path"), &condition.path, instead, faults);
        literal(&field("expected_value"), &condition.expected_value, instead, faults);
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
        let (role, other) = (self.roles[position], self.roles[before as usize]);
        if other < role {
            // All tasks of an earlier kind have ended when a handler starts.
            return Ok(());
        }
        if other > role {
            return Err(format!("it reads task `{id}`, a handler that runs after `{reader}`"));
        }
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

/// Fields that people may take for fields with placeholders: `{{` in one would stay as it is, without a word.
fn literal_fields(position: usize, task: &TaskSpec, faults: &mut Faults) {
    let field = |name: &str| format!("tasks[{position}].{name}");
    match &task.action {
        Some(Action::Command(command)) => {
            let instead = "write the directory out, or let the program change to one that `argv` or `env` names";
            literal(&field("command.working_dir"), &command.working_dir, instead, faults);
            for name in command.env.keys() {
                let at = field(&format!("command.env[{:?}]", shortened(name)));
                literal(&at, name, "a variable's name is written out; its value can be filled in", faults);
            }
        }
        Some(Action::Approval(approval)) => {
            let instead = "an approval has no attempt that could fill it in: write it out";
            literal(&field("title"), &task.title, instead, faults);
            literal(&field("description"), &task.description, instead, faults);
            literal(&field("approval.prompt"), &approval.prompt, instead, faults);
        }
        Some(Action::Noop { .. }) | None => {}
    }
}

fn literal(field: &str, text: &str, instead: &str, faults: &mut Faults) {
    if expression::has_placeholder(text) {
        faults.add(field, Reason::PlaceholderInvalid, format!("`{{{{` is not filled in here; {instead}"));
    }
}
