//! Every text of a template's body, filled in: the one place that knows where texts are.
//!
//! Structure never changes: no value makes another task, dependency, argument, or entry of a map. The matches name
//! every field, so that a new one does not compile until it is said here how it is filled in.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    MAX_INSTANCE_BYTES, TemplateSpec,
    parameter::{Values, samples},
    text::{self, Kind},
};
use crate::machine::{
    input::fault,
    workflow::{
        Action, ApprovalAction, CommandAction, ConditionSpec, InputSpec, Reason, TaskSpec, Violation, WorkflowSpec,
    },
};

/// What became of a body.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Every fault.
    pub faults: Vec<Violation>,
    /// Fields that have parameters.
    pub touched: BTreeSet<String>,
    /// Names of the parameters that they have.
    pub used: BTreeSet<String>,
}

/// Fills in a body.
pub fn fill(spec: &mut WorkflowSpec, values: &Values) -> Outcome {
    let mut filling = Filling { values, room: MAX_INSTANCE_BYTES, outcome: Outcome::default() };
    filling.workflow(spec);
    filling.outcome
}

/// Names of the parameters that the body of a template has placeholders for.
pub fn used(template: &TemplateSpec) -> BTreeSet<String> {
    fill(&mut template.body.clone(), &samples(&template.parameters)).used
}

struct Filling<'a> {
    values: &'a Values,
    /// Bytes that may still be written: a long value in many places is many times as long.
    room: usize,
    outcome: Outcome,
}

/// The name of a field is only made when it is needed: most texts have no parameters.
type At<'a> = &'a dyn Fn() -> String;

impl Filling<'_> {
    fn workflow(&mut self, spec: &mut WorkflowSpec) {
        let WorkflowSpec {
            id: _,
            // These are about the template.
            name: _,
            description: _,
            tasks,
            metadata,
            labels,
            concurrency_limits,
            failure_policy: _,
            on_failure,
            finally,
            execution_timeout_micros: _,
            inputs,
        } = spec;
        self.notes("metadata", metadata);
        self.notes("labels", labels);
        self.map("concurrency_limits", concurrency_limits, |_, _, _| {});
        self.list(&|| "on_failure".into(), Kind::Plain, on_failure);
        self.list(&|| "finally".into(), Kind::Plain, finally);
        for (at, input) in inputs.iter_mut().enumerate() {
            self.input(at, input);
        }
        for (at, task) in tasks.iter_mut().enumerate() {
            self.task(at, task);
        }
    }

    fn task(&mut self, position: usize, task: &mut TaskSpec) {
        let TaskSpec {
            id,
            agent_id,
            title,
            description,
            priority: _,
            dependencies,
            trigger_rule: _,
            conditions,
            when,
            retry,
            timeout_micros: _,
            queue_timeout_micros: _,
            idle_timeout_micros: _,
            parallel_group,
            allow_failure: _,
            on_interrupt: _,
            metadata,
            output_format: _,
            action,
        } = task;
        let field = |name: &str| format!("tasks[{position}].{name}");
        // An approval has no attempt that would fill anything in.
        let shown = if matches!(action, Some(Action::Approval(_))) { Kind::Plain } else { Kind::Attempt };
        self.text(&|| field("id"), Kind::Plain, id);
        self.text(&|| field("agent_id"), Kind::Plain, agent_id);
        self.text(&|| field("title"), shown, title);
        self.text(&|| field("description"), shown, description);
        self.list(&|| field("dependencies"), Kind::Plain, dependencies);
        for (at, condition) in conditions.iter_mut().enumerate() {
            self.condition(&|| field(&format!("conditions[{at}]")), condition);
        }
        self.text(&|| field("when"), Kind::Expression, when);
        if let Some(retry) = retry {
            self.list(&|| field("retry_config.retry_on_errors"), Kind::Plain, &mut retry.retry_on_errors);
        }
        self.text(&|| field("parallel_group"), Kind::Plain, parallel_group);
        self.notes(&field("metadata"), metadata);
        match action {
            Some(Action::Command(command)) => self.command(&field, command),
            Some(Action::Approval(ApprovalAction { prompt, approvers, timeout_micros: _ })) => {
                self.text(&|| field("approval.prompt"), Kind::Plain, prompt);
                self.list(&|| field("approval.approvers"), Kind::Plain, approvers);
            }
            Some(Action::Noop { duration_micros: _ }) | None => {}
        }
    }

    fn command(&mut self, field: &dyn Fn(&str) -> String, command: &mut CommandAction) {
        let CommandAction { argv, env, working_dir, stdin } = command;
        self.list(&|| field("command.argv"), Kind::Attempt, argv);
        self.map(&field("command.env"), env, |filling, at, value| filling.text(at, Kind::Attempt, value));
        self.text(&|| field("command.working_dir"), Kind::Plain, working_dir);
        self.text(&|| field("command.stdin"), Kind::Attempt, stdin);
    }

    fn condition(&mut self, field: At<'_>, condition: &mut ConditionSpec) {
        let ConditionSpec { target_task_id, subject: _, operator: _, expected_value, path } = condition;
        self.text(&|| format!("{}.target_task_id", field()), Kind::Plain, target_task_id);
        self.text(&|| format!("{}.expected_value", field()), Kind::Plain, expected_value);
        self.text(&|| format!("{}.path", field()), Kind::Plain, path);
    }

    fn input(&mut self, position: usize, input: &mut InputSpec) {
        let InputSpec { name, kind: _, required: _, default_value, description, validation_regex } = input;
        let field = |name: &str| format!("inputs[{position}].{name}");
        self.text(&|| field("name"), Kind::Plain, name);
        self.text(&|| field("description"), Kind::Plain, description);
        self.text(&|| field("validation_regex"), Kind::Plain, validation_regex);
        if let Some(default) = default_value
            && default.contains("{{")
            && let Ok(mut json) = serde_json::from_str(default)
        {
            self.json(&|| field("default_value"), &mut json);
            *default = json.to_string();
        }
    }

    /// Texts within free JSON. One that is a parameter and nothing else becomes its value, with its type.
    fn json(&mut self, at: At<'_>, json: &mut serde_json::Value) {
        use serde_json::Value;
        match json {
            Value::String(text) => {
                let whole = text::whole_parameter(text).and_then(|name| self.values.get(name));
                let typed = whole.and_then(|value| serde_json::from_str::<Value>(&value.to_string()).ok());
                self.text(at, Kind::Plain, text);
                if let Some(typed) = typed.filter(|typed| !typed.is_string()) {
                    *json = typed;
                }
            }
            Value::Array(elements) => elements.iter_mut().for_each(|element| self.json(at, element)),
            Value::Object(members) => members.iter_mut().for_each(|(_, member)| self.json(at, member)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn list(&mut self, at: At<'_>, kind: Kind, texts: &mut [String]) {
        for (index, text) in texts.iter_mut().enumerate() {
            self.text(&|| format!("{}[{index}]", at()), kind, text);
        }
    }

    fn notes(&mut self, at: &str, notes: &mut BTreeMap<String, String>) {
        self.map(at, notes, |filling, at, value| filling.text(at, Kind::Plain, value));
    }

    /// Keys too. Two that become one are a fault: an entry would be lost.
    fn map<V>(&mut self, at: &str, map: &mut BTreeMap<String, V>, mut value: impl FnMut(&mut Self, At<'_>, &mut V)) {
        for (written, mut content) in std::mem::take(map) {
            let mut key = written.clone();
            self.text(&|| entry(at, &written), Kind::Plain, &mut key);
            let field = entry(at, &key);
            if key != written {
                self.outcome.touched.insert(field.clone());
            }
            value(self, &|| field.clone(), &mut content);
            if map.contains_key(&key) {
                let words =
                    format!("with these values two keys become `{}`; each must stay one of its own", brief(&key));
                self.outcome.faults.push(fault(&field, Reason::InvalidValue, words));
            }
            map.insert(key, content);
        }
    }

    fn text(&mut self, at: At<'_>, kind: Kind, text: &mut String) {
        match text::fill(text, kind, self.values) {
            Err(words) => {
                let reason =
                    if kind == Kind::Expression { Reason::ConditionInvalid } else { Reason::PlaceholderInvalid };
                self.outcome.faults.push(fault(&at(), reason, words));
            }
            Ok(filled) => {
                if !filled.used.is_empty() {
                    self.outcome.touched.insert(at());
                    self.outcome.used.extend(filled.used);
                }
                let Some(with_values) = filled.text else { return };
                if with_values.len() > self.room {
                    self.too_large();
                    return;
                }
                self.room -= with_values.len();
                *text = with_values;
            }
        }
    }

    fn too_large(&mut self) {
        if !self.outcome.faults.iter().any(|fault| fault.reason == Reason::LimitExceeded) {
            let words = format!("with these values the texts have more than {MAX_INSTANCE_BYTES} bytes in all");
            self.outcome.faults.push(fault("tasks", Reason::LimitExceeded, words));
        }
        self.room = 0;
    }
}

/// The field of an entry, as `validation` names it.
fn entry(at: &str, key: &str) -> String {
    format!("{at}[{:?}]", brief(key))
}

fn brief(key: &str) -> String {
    key.chars().take(40).collect()
}
