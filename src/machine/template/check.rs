//! Every fault that a template has whatever its values, at once, before it is stored (S-TPL-2, S-TPL-3).
//!
//! The body is checked as the workflow that it makes of values which stand for any. What is found in a field with
//! parameters hangs on the values, and is told when there are some.

use std::collections::BTreeMap;

use super::{
    TemplateSpec, instance,
    parameter::samples,
    text::{self, Kind, WORDS},
};
use crate::machine::{
    expression,
    input::{check_list, fault},
    lexer::ROOTS,
    workflow::{Definition, Reason, Violation},
};

/// Most tasks of one template.
pub const MAX_TASKS: usize = 10_000;

/// Every fault, in the order of the fields as far as they follow one another.
pub fn faults(template: &TemplateSpec) -> Vec<Violation> {
    let mut faults = check_list("parameters", "a parameter", &template.parameters);
    faults.extend(reserved_names(template));
    let tasks = template.body.tasks.len();
    if tasks > MAX_TASKS {
        let words = format!("{tasks} tasks; a template has at most {MAX_TASKS}");
        faults.push(fault("tasks", Reason::LimitExceeded, words));
        return faults;
    }
    let samples = samples(&template.parameters);
    let mut body = template.body.clone();
    let outcome = instance::fill(&mut body, &samples);
    faults.extend(outcome.faults.iter().cloned());
    faults.extend(expressions(template, &samples));
    let spoken_of = |field: &str| outcome.touched.contains(field) || faults.iter().any(|fault| fault.field == field);
    let more = Definition::check(body).err().unwrap_or_default();
    let more: Vec<Violation> = more.into_iter().filter(|fault| !spoken_of(&fault.field)).collect();
    faults.extend(more);
    faults
}

/// Names that mean something else where a placeholder would stand.
fn reserved_names(template: &TemplateSpec) -> Vec<Violation> {
    let reserved = |name: &str| ROOTS.contains(&name) || WORDS.contains(&name);
    let named = template.parameters.iter().enumerate().filter(|(_, parameter)| reserved(&parameter.name));
    let words = |name: &str| format!("`{name}` means something of its own in placeholders; choose another name");
    named.map(|(at, one)| fault(&format!("parameters[{at}].name"), Reason::InvalidId, words(&one.name))).collect()
}

/// A `when` with parameters is sound or not whatever their values, as these are literals: only which tasks it names
/// hangs on them.
fn expressions(template: &TemplateSpec, samples: &BTreeMap<String, crate::machine::json::Json>) -> Vec<Violation> {
    let inputs: Vec<&str> = template.body.inputs.iter().map(|input| input.name.as_str()).collect();
    let inputs_have_parameters = inputs.iter().any(|name| name.contains("{{"));
    let mut faults = Vec::new();
    for (at, task) in template.body.tasks.iter().enumerate() {
        let Ok(filled) = text::fill(&task.when, Kind::Expression, samples) else { continue };
        let Some(when) = filled.text.filter(|_| !inputs_have_parameters) else { continue };
        if let Err(words) = expression::check_expression(&when, &inputs) {
            faults.push(fault(&format!("tasks[{at}].when"), Reason::ConditionInvalid, words));
        }
    }
    faults
}
