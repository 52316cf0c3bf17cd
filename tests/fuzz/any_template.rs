//! What must hold of a template made of any bytes, and of what any values make of it. The fuzz target `template` (fuzz/)
//! calls the same function.

use std::collections::BTreeMap;

use noxd::machine::{
    condition::{self, Verdict},
    expression::check_field,
    ids::{TemplateId, WorkflowId},
    placeholder,
    template::TemplateSpec,
    workflow::{Action, CommandAction, InputSpec, ParameterKind, TaskSpec, Violation, WorkflowSpec},
};
use serde_json::{Map, Value, json};

use crate::simple::{filled, is_sentence, with_facts};

/// What the execution is given, besides what its template gave it: it would do harm where it is read again.
const INPUT: &str = "{{ inputs.p }} {{p}} '}}";

/// A field that takes any text, a condition, a number, and a value of several lines.
struct Given {
    text: String,
    when: String,
    number: i64,
    value: String,
}

impl Given {
    fn read(data: &[u8]) -> Self {
        let mut parts = data.splitn(4, |byte| *byte == b'\n');
        let mut part = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
        let (text, when, number) = (part(), part(), part());
        Self { text, when, number: number.trim().parse().unwrap_or(-5), value: part() }
    }

    fn template(&self) -> TemplateSpec {
        let text = || self.text.clone();
        let command = CommandAction {
            argv: vec!["echo".into(), text(), "{{p}}".into()],
            env: BTreeMap::from([("K".into(), text())]),
            stdin: text(),
            ..CommandAction::default()
        };
        let first = TaskSpec {
            id: "first".into(),
            title: text(),
            metadata: BTreeMap::from([("note".into(), text()), (text(), "key".into())]),
            action: Some(Action::Command(command)),
            ..TaskSpec::default()
        };
        let second = TaskSpec {
            id: "second".into(),
            dependencies: vec!["first".into()],
            when: self.when.clone(),
            action: Some(Action::Noop { duration_micros: 0 }),
            ..TaskSpec::default()
        };
        let third = TaskSpec {
            id: "third".into(),
            when: "inputs.p == {{p}} and {{ n }} == inputs.n and {{p}} in [{{p}}, {{n}}]".into(),
            ..second.clone()
        };
        let input = |name: &str, kind, default: &str| InputSpec {
            name: name.into(),
            kind,
            default_value: Some(default.into()),
            ..InputSpec::default()
        };
        let parameter =
            |name: &str, kind| InputSpec { name: name.into(), kind, required: true, ..InputSpec::default() };
        let (string, integer) = (ParameterKind::String, ParameterKind::Integer);
        let body = WorkflowSpec {
            tasks: vec![first, second, third],
            inputs: vec![
                input("p", string, r#""{{p}}""#),
                input("n", integer, r#""{{n}}""#),
                input("x", string, &Value::from(INPUT.replace("{{", "{ {")).to_string()),
            ],
            ..WorkflowSpec::named(WorkflowId::parse("t").expect("a name"))
        };
        let parameters = vec![parameter("p", string), parameter("n", integer)];
        TemplateSpec { id: TemplateId::parse("t").expect("a name"), parameters, body }
    }
}

fn are_sentences(faults: &[Violation], about: &str) {
    assert!(!faults.is_empty(), "{about:?}: refused without a word");
    for fault in faults {
        assert!(!fault.field.is_empty(), "{fault:?}");
        is_sentence(&fault.description, about);
    }
}

/// True if it is a template, and makes a workflow.
pub fn holds(data: &[u8]) -> bool {
    let given = Given::read(data);
    let template = given.template();
    let about = String::from_utf8_lossy(data);
    if let Err(faults) = template.check() {
        are_sentences(&faults, &about);
        return false;
    }
    let values: Map<String, Value> =
        Map::from_iter([("p".to_owned(), given.value.clone().into()), ("n".to_owned(), given.number.into())]);
    let make = || template.instantiate(WorkflowId::parse("made").expect("a name"), &values);
    let made = make();
    assert_eq!(make(), made, "the same again");
    let (definition, parameters) = match made {
        Ok(made) => made,
        Err(faults) => {
            are_sentences(&faults, &about);
            return false;
        }
    };
    let read: Value = serde_json::from_str(&parameters).expect("the values are a JSON object");
    assert_eq!(read, Value::Object(values), "and the same that were given");
    is_of_the_same_form(&template.body, definition.spec());
    values_are_data(&given, definition.spec());
    true
}

/// No value makes another task, argument, variable, note or input.
fn is_of_the_same_form(template: &WorkflowSpec, made: &WorkflowSpec) {
    let form = |spec: &WorkflowSpec| {
        let of_task = |task: &TaskSpec| {
            let command = match &task.action {
                Some(Action::Command(command)) => (command.argv.len(), command.env.keys().cloned().collect()),
                _ => (0, Vec::new()),
            };
            (task.id.clone(), task.dependencies.clone(), task.metadata.len(), command)
        };
        let inputs: Vec<String> = spec.inputs.iter().map(|input| input.name.clone()).collect();
        (spec.tasks.iter().map(of_task).collect::<Vec<_>>(), inputs)
    };
    assert_eq!(form(made), form(template));
}

fn values_are_data(given: &Given, made: &WorkflowSpec) {
    let default = |at: usize| made.inputs[at].default_value.as_deref().map(|text| serde_json::from_str(text).ok());
    assert_eq!(default(0), Some(Some(json!(given.value))), "a default that is a parameter has its value and its type");
    assert_eq!(default(1), Some(Some(json!(given.number))));
    let inputs = json!({"p": given.value, "n": given.number, "x": INPUT}).to_string();
    let names: Vec<&str> = made.inputs.iter().map(|input| input.name.as_str()).collect();
    let number = given.number.to_string();
    let mut values = vec![("p", given.value.as_str()), ("n", number.as_str())];
    let first = &made.tasks[0];
    // What stays as it is from here on.
    if let Some(expected) = filled(&given.text, &values) {
        assert_eq!(first.metadata["note"], expected);
        assert_eq!(first.metadata.get(&expected).map(String::as_str), Some("key"));
    }
    // What an attempt fills in: the values of the template are not looked at again there.
    values.push(("inputs.x", INPUT));
    let Some(Action::Command(command)) = &first.action else { panic!("it ran a program") };
    let render = |text: &str| {
        let tasks = check_field(text, &names).unwrap_or_else(|words| panic!("{text:?}: it was checked: {words}"));
        with_facts(&inputs, &tasks, "{}", |facts| placeholder::render(text, facts))
    };
    assert_eq!(render(&command.argv[2]), Ok(given.value.clone()), "in an argument of its own");
    if let Some(expected) = filled(&given.text, &values) {
        for text in [&command.argv[1], &command.env["K"], &command.stdin, &first.title] {
            assert_eq!(render(text).as_ref(), Ok(&expected), "{:?} became {text:?}", given.text);
        }
    }
    // In a condition a value is a literal of its type.
    let verdict = with_facts(&inputs, &[], "{}", |facts| condition::evaluate(&made.tasks[2], facts));
    assert_eq!(verdict, Verdict::Met, "{:?}", made.tasks[2].when);
}
