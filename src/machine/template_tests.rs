//! Stories of templates: what is refused, what values become, and that they stay values.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::machine::{
    condition,
    facts::tests::World,
    json::Json,
    placeholder,
    workflow::{Action, ApprovalAction, CommandAction, ParameterKind, Reason, TaskSpec},
};

/// What a shell, a template, JSON, YAML or a careless join would take apart.
const HOSTILE: [&str; 18] = [
    "'; touch pwned; '",
    "\"quoted\" and `id` and $(id) and ${HOME}",
    "two\nlines\r\n\tand a tab",
    "{{ inputs.env }}",
    "{{other}}",
    "}} {{ '{{' }} {{{ {",
    "{",
    "{{",
    "ends with {",
    "{% raw %} {# no #}",
    "' or true or '",
    "\\' or true or \\'",
    "\\",
    "{\"a\": [1, \"x\"]}",
    "- a: 1\n  b: &x [*x]",
    "🎉 ünïcödé 東京",
    "\u{1b}[31m\u{202e}",
    "",
];

fn parameter(name: &str, kind: ParameterKind) -> InputSpec {
    InputSpec { name: name.into(), kind, ..InputSpec::default() }
}

fn run(id: &str, argv: &[&str]) -> TaskSpec {
    let argv = argv.iter().map(ToString::to_string).collect();
    let action = Action::Command(CommandAction { argv, ..CommandAction::default() });
    TaskSpec { id: id.into(), action: Some(action), ..TaskSpec::default() }
}

fn template(parameters: Vec<InputSpec>, tasks: Vec<TaskSpec>) -> TemplateSpec {
    let body = WorkflowSpec { tasks, ..WorkflowSpec::named(WorkflowId::parse("t").expect("an id")) };
    TemplateSpec { id: TemplateId::parse("t").expect("an id"), parameters, body }
}

fn made(template: &TemplateSpec, given: Value) -> Result<WorkflowSpec, Vec<(String, Reason)>> {
    let Value::Object(given) = given else { panic!("values by name") };
    let workflow = WorkflowId::parse("made").expect("an id");
    let made = template.instantiate(workflow, &given);
    made.map(|(definition, _)| definition.spec().clone()).map_err(|faults| pairs(&faults))
}

fn pairs(faults: &[Violation]) -> Vec<(String, Reason)> {
    faults.iter().map(|fault| (fault.field.clone(), fault.reason)).collect()
}

fn faults(template: &TemplateSpec) -> Vec<(String, Reason)> {
    pairs(&template.check().expect_err("it has faults"))
}

fn argv(task: &TaskSpec) -> &[String] {
    match &task.action {
        Some(Action::Command(command)) => &command.argv,
        _ => panic!("a command"),
    }
}

#[test]
fn every_fault_of_the_values_is_told_at_once_and_nothing_is_made() {
    // S-TPL-2
    let parameters = vec![
        InputSpec { required: true, ..parameter("target", ParameterKind::String) },
        InputSpec { validation_regex: "v[0-9]+|main".into(), ..parameter("release", ParameterKind::String) },
        parameter("count", ParameterKind::Integer),
        parameter("dry", ParameterKind::Boolean),
        parameter("after", ParameterKind::TaskId),
        parameter("used", ParameterKind::String),
        parameter("unused", ParameterKind::String),
    ];
    let echo = run("a", &["echo", "{{target}} {{release}} {{count}} {{dry}} {{used}}"]);
    let template = template(parameters, vec![echo]);
    assert_eq!(template.check(), Ok(()));
    let given = json!({"release": "v1x", "count": "three", "dry": 1, "after": "a b", "colour": "red"});
    assert_eq!(
        made(&template, given).expect_err("refused"),
        [
            ("parameters.target".to_string(), Reason::MissingTemplateParameter),
            ("parameters.release".into(), Reason::InvalidValue),
            ("parameters.count".into(), Reason::InvalidValue),
            ("parameters.dry".into(), Reason::InvalidValue),
            ("parameters.after".into(), Reason::InvalidValue),
            ("parameters.used".into(), Reason::MissingTemplateParameter),
            ("parameters.colour".into(), Reason::InvalidValue),
        ]
    );
    let given = json!({"target": "x", "release": "v12", "count": -3, "dry": "true", "used": ""});
    let spec = made(&template, given).expect("made");
    assert_eq!(argv(&spec.tasks[0])[1], "x v12 -3 true ");
    let given = json!({"target": "x\u{0}", "release": "mainly", "count": 1.5, "dry": true, "used": ""});
    let refused = made(&template, given).expect_err("NUL, a part that matches, half a number");
    let fields: Vec<&str> = refused.iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(fields, ["parameters.target", "parameters.release", "parameters.count"]);
}

#[test]
fn a_template_is_checked_as_far_as_no_value_decides_it() {
    // S-TPL-2, S-TPL-3, S-DEF-1
    let bad_default = InputSpec {
        default_value: Some("\"x\"".into()),
        validation_regex: "[0-9]+".into(),
        ..parameter("port", ParameterKind::String)
    };
    let mut second = run("b", &["echo", "{{ nope }}", "{{ tasks.later.output }}", "{{ upper(port) }}"]);
    second.dependencies = vec!["a".into(), "{{after}}".into()];
    second.when = "tasks.a.status == 'x{{port}}'".into();
    second.metadata = [("k".to_string(), "{{mustache}}".to_string())].into();
    let mut third = run("c", &["echo"]);
    third.dependencies = vec!["c".into()];
    third.when = "tasks.{{after}}.status".into();
    let parameters = vec![
        bad_default,
        parameter("after", ParameterKind::TaskId),
        parameter("inputs", ParameterKind::String),
        parameter("and", ParameterKind::String),
        parameter("no-name", ParameterKind::String),
    ];
    let found = faults(&template(parameters, vec![run("a", &["echo"]), second, third]));
    for (field, reason) in [
        ("parameters[0].default_value", Reason::InvalidValue),
        ("parameters[2].name", Reason::InvalidId),
        ("parameters[3].name", Reason::InvalidId),
        ("parameters[4].name", Reason::InvalidId),
        ("tasks[1].command.argv[1]", Reason::PlaceholderInvalid),
        ("tasks[1].command.argv[2]", Reason::PlaceholderInvalid),
        ("tasks[1].command.argv[3]", Reason::PlaceholderInvalid),
        ("tasks[1].when", Reason::ConditionInvalid),
        ("tasks[1].metadata[\"k\"]", Reason::PlaceholderInvalid),
        ("tasks[2].when", Reason::ConditionInvalid),
    ] {
        assert!(found.contains(&(field.to_string(), reason)), "{field}: {found:#?}");
    }
    assert!(!found.iter().any(|(field, _)| field == "tasks[1].dependencies[1]"), "a value decides it: {found:#?}");
    let looped = {
        let mut task = run("c", &["echo"]);
        task.dependencies = vec!["c".into()];
        template(vec![], vec![task])
    };
    assert_eq!(faults(&looped)[0].1, Reason::CircularDependency);
    let many = template(vec![], (0..=MAX_TASKS).map(|i| run(&format!("t{i}"), &["true"])).collect());
    assert_eq!(faults(&many), [("tasks".to_string(), Reason::LimitExceeded)]);
}

#[test]
fn a_parameter_is_replaced_in_every_text() {
    // S-TPL-3
    let text = "{{p}}".to_string();
    let mut task = run("{{p}}-b", &["echo", "{{p}}"]);
    task.agent_id.clone_from(&text);
    task.title = "do {{ p }}".into();
    task.description.clone_from(&text);
    task.dependencies = vec!["{{p}}-a".into()];
    task.parallel_group.clone_from(&text);
    task.metadata = [("{{p}}".to_string(), text.clone())].into();
    task.conditions = vec![crate::machine::workflow::ConditionSpec {
        target_task_id: "{{p}}-a".into(),
        subject: Some(crate::machine::workflow::ConditionSubject::Output),
        operator: Some(crate::machine::workflow::Comparison::Equals),
        expected_value: text.clone(),
        path: "/{{p}}".into(),
    }];
    task.when = "tasks[{{ id }}].status == {{p}}".into();
    if let Some(Action::Command(command)) = &mut task.action {
        command.env = [("{{p}}".to_string(), text.clone())].into();
        command.working_dir = "/{{p}}".into();
        command.stdin.clone_from(&text);
    }
    let asks = ApprovalAction { prompt: "{{p}}?".into(), approvers: vec!["{{p}}".into()], timeout_micros: None };
    let approval = TaskSpec { id: "ask".into(), action: Some(Action::Approval(asks)), ..TaskSpec::default() };
    let mut template = template(
        vec![parameter("p", ParameterKind::String), parameter("id", ParameterKind::TaskId)],
        vec![run("{{p}}-a", &["true"]), task, approval],
    );
    template.body.labels = [("{{p}}".to_string(), text.clone())].into();
    template.body.concurrency_limits = [("group:{{p}}".to_string(), 1)].into();
    template.body.finally = vec!["{{p}}-c".into()];
    template.body.tasks.push(run("{{p}}-c", &["true"]));
    template.body.inputs = vec![InputSpec {
        default_value: Some("\"{{p}}\"".into()),
        description: text.clone(),
        ..parameter("i", ParameterKind::String)
    }];
    template.body.name = "{{p}} stays".into();
    assert_eq!(template.check(), Ok(()));
    let spec = made(&template, json!({"p": "v", "id": "v-a"})).expect("made");
    assert!(!format!("{:?}", WorkflowSpec { name: String::new(), ..spec.clone() }).contains("{{"), "{spec:#?}");
    assert_eq!(spec.name, "{{p}} stays", "it is about the template");
    assert_eq!(spec.tasks[1].when, "tasks['v-a'].status == 'v'");
    assert_eq!(spec.concurrency_limits.get("group:v"), Some(&1));
    assert_eq!(spec.id.as_str(), "made");
    let refused = made(&template, json!({"p": "not an id", "id": "x"})).expect_err("what the values make is checked");
    assert!(refused.contains(&("tasks[0].id".to_string(), Reason::InvalidId)), "{refused:?}");
}

#[test]
fn what_is_the_attempts_stays_and_what_is_literal_is_literal() {
    // S-TPL-3
    let mut task = run("a", &["echo", "{{ inputs.env }}{{p}}{{ execution.id }} {{ '{{p}}' }} {{ inputs }}"]);
    task.metadata = [("k".to_string(), "{{ '{{' }}p}} {{ tasks.a }} {{p}}".to_string())].into();
    let mut template = template(vec![parameter("p", ParameterKind::String)], vec![task]);
    template.body.inputs = vec![
        parameter("env", ParameterKind::String),
        InputSpec { default_value: Some("\"{{n}}\"".into()), ..parameter("n", ParameterKind::Integer) },
    ];
    template.parameters.push(parameter("n", ParameterKind::Integer));
    let spec = made(&template, json!({"p": "{", "n": 7})).expect("made");
    let stays = "{{ inputs.env }}{{ '{' }}{{ execution.id }} {{ '{{p}}' }} {{ inputs }}";
    assert_eq!(argv(&spec.tasks[0])[1], stays);
    assert_eq!(spec.tasks[0].metadata["k"], "{{p}} {{ tasks.a }} {");
    assert_eq!(spec.inputs[1].default_value.as_deref(), Some("7"), "a number where a number must be");
}

#[test]
fn keys_that_become_one_are_refused() {
    // S-TPL-3
    let mut task = run("a", &["true"]);
    task.metadata = [("{{p}}".to_string(), "1".to_string()), ("x".to_string(), "2".to_string())].into();
    let template = template(vec![parameter("p", ParameterKind::String)], vec![task]);
    assert_eq!(template.check(), Ok(()));
    assert!(made(&template, json!({"p": "y"})).is_ok());
    let refused = made(&template, json!({"p": "x"})).expect_err("one would be lost");
    assert_eq!(refused, [("tasks[0].metadata[\"x\"]".to_string(), Reason::InvalidValue)]);
}

#[test]
fn in_when_a_value_is_a_literal_of_its_type() {
    // S-TPL-3, S-COND-3
    let when = "inputs.env == {{text}} and {{count}} | abs in [1, {{count}}, 5] and not {{flag}} and {{count}} < 0";
    let task = TaskSpec { when: when.into(), ..run("a", &["true"]) };
    let mut template = template(
        vec![
            parameter("text", ParameterKind::String),
            parameter("count", ParameterKind::Integer),
            parameter("flag", ParameterKind::Boolean),
        ],
        vec![task],
    );
    template.body.inputs = vec![parameter("env", ParameterKind::String)];
    assert_eq!(template.check(), Ok(()));
    let spec = made(&template, json!({"text": "it's", "count": -5, "flag": false})).expect("made");
    assert_eq!(spec.tasks[0].when, "inputs.env == 'it\\'s' and (-5) | abs in [1, -5, 5] and not false and (-5) < 0");
    for text in HOSTILE {
        let spec = made(&template, json!({"text": text, "count": 1, "flag": false})).expect("made");
        let (compared, _) = spec.tasks[0].when.split_once(" and 1 | abs").expect("as it was written");
        let task = TaskSpec { when: compared.into(), ..TaskSpec::default() };
        for (env, expected) in [(text, true), ("something else", false)] {
            let given = json!({ "env": env }).to_string();
            let verdict = condition::evaluate(&task, &World::new().given(&given).facts());
            assert_eq!(verdict == condition::Verdict::Met, expected, "{text:?}: {compared}: {verdict:?}");
        }
    }
    for (when, words) in [
        ("inputs.env == 'a{{text}}'", "not for a part"),
        ("inputs.env == \"{{text}}\"", "not for a part"),
        ("inputs.e{{text}} == 1", "not for a part"),
        ("{{text}}.x == 1", "not for a part"),
        ("inputs.env == {{text", "no end"),
        ("inputs.env == {{ text | upper }}", "only the name"),
        ("{{ inputs.env }} == 1", "only the name"),
    ] {
        template.body.tasks[0].when = when.into();
        let faults = template.check().expect_err(when);
        assert!(faults.iter().any(|fault| fault.description.contains(words)), "{when}: {faults:?}");
    }
}

#[test]
fn a_long_value_in_many_places_is_bounded() {
    // S-TPL-3
    let tasks = (0..200).map(|i| TaskSpec { description: "{{p}}".into(), ..run(&format!("t{i}"), &["cat"]) });
    let mut template = template(vec![parameter("p", ParameterKind::String)], tasks.collect());
    for task in &mut template.body.tasks {
        if let Some(Action::Command(command)) = &mut task.action {
            command.stdin = "{{p}}".into();
        }
    }
    assert_eq!(template.check(), Ok(()));
    let refused = made(&template, json!({"p": "x".repeat(200_000)})).expect_err("too much");
    assert_eq!(refused, [("tasks".to_string(), Reason::LimitExceeded)]);
    let refused = made(&template, json!({"p": "x".repeat(300_000)})).expect_err("too long");
    assert_eq!(refused, [("parameters".to_string(), Reason::LimitExceeded)]);
}

/// What an attempt is given of the texts of a task.
fn rendered(spec: &WorkflowSpec) -> placeholder::RenderedTask {
    placeholder::render_task(&spec.tasks[0], &World::new().facts()).expect("it can be filled in")
}

fn two(first: &str, second: &str) -> Map<String, Value> {
    Map::from_iter([("first".to_string(), Value::from(first)), ("second".to_string(), Value::from(second))])
}

/// A task that uses two texts in all ways that an attempt fills in.
fn ways() -> TemplateSpec {
    let mut task =
        run("a", &["echo", "{{first}}", "{{first}}{{second}}", "x{{second}}{ y", "{{first}}{{ execution.id }}"]);
    task.title = "{{first}}!".into();
    if let Some(Action::Command(command)) = &mut task.action {
        command.env = [("V".to_string(), "{{second}}".to_string())].into();
        command.stdin = "{{second}}\n{{first}}".into();
    }
    template(vec![parameter("first", ParameterKind::String), parameter("second", ParameterKind::String)], vec![task])
}

fn holds(first: &str, second: &str) {
    let template = ways();
    let workflow = WorkflowId::parse("made").expect("an id");
    let (definition, object) = template.instantiate(workflow, &two(first, second)).expect("made");
    let task = rendered(definition.spec());
    let command = task.command.expect("a command");
    let id = "00000000-0000-0000-0000-000000000007";
    let expected = [
        "echo".into(),
        first.to_string(),
        format!("{first}{second}"),
        format!("x{second}{{ y"),
        format!("{first}{id}"),
    ];
    assert_eq!(command.argv, expected, "{:?}", definition.spec().tasks[0]);
    assert_eq!(command.env, BTreeMap::from([("V".to_string(), second.to_string())]));
    assert_eq!(command.stdin, format!("{second}\n{first}"));
    assert_eq!(task.title, format!("{first}!"));
    let object: Value = serde_json::from_str(&object).expect("JSON");
    assert_eq!(object, Value::Object(two(first, second)));
}

#[test]
fn hostile_values_reach_the_program_as_they_are() {
    // S-TPL-3, S-DATA-3
    for first in HOSTILE {
        for second in HOSTILE {
            holds(first, second);
        }
    }
}

fn value() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("{".to_string()),
        Just("{{".to_string()),
        Just("}}".to_string()),
        Just("'".to_string()),
        Just("\\".to_string()),
        Just("{{first}}".to_string()),
        Just("{{ inputs.x }}".to_string()),
        Just("\n".to_string()),
        "[ -~]{0,6}",
        "\\PC{0,3}",
    ];
    proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_value_changes_the_shape_or_its_own_bytes(first in value(), second in value()) {
        // S-TPL-3, S-DATA-3
        holds(&first, &second);
    }

    #[test]
    fn no_text_of_a_template_panics_or_is_filled_in_twice(
        text in "[{}'\"\\\\a-c .|~\\[\\](),0-9-]{0,40}",
        when in "[{}'\"\\\\a-c .|~\\[\\](),0-9-]{0,40}",
    ) {
        let mut task = run("a", &["echo", &text]);
        task.when.clone_from(&when);
        task.metadata = [("k".to_string(), text.clone())].into();
        let parameters = ["a", "b", "c"].map(|name| parameter(name, ParameterKind::String)).to_vec();
        let template = template(parameters, vec![task]);
        if template.check().is_ok() {
            // What passes the check passes with values that need no care, and has the same shape.
            let spec = made(&template, json!({"a": "x", "b": "y", "c": "z"})).expect("as with any values");
            prop_assert_eq!(argv(&spec.tasks[0]).len(), 2);
        }
        let _ = text::fill(&text, text::Kind::Plain, &[("a".to_string(), Json::text("{{b}}"))].into());
    }
}

#[test]
fn an_instance_and_its_execution_are_one_step_or_none() {
    // S-TPL-4
    use crate::machine::{
        ids::ExecutionId,
        message::{Command, Inputs, Start},
        step::{Machine, Step},
    };
    let spec = ways();
    let workflow = WorkflowId::parse("made").expect("an id");
    let (definition, parameters) = spec.instantiate(workflow, &two("a", "b")).expect("made");
    let origin = Arc::new(TemplateOrigin { template: spec.id, version: 3, parameters });
    let command = |inputs: Value| {
        let Value::Object(inputs) = inputs else { panic!("by name") };
        let start =
            Start { execution: ExecutionId(1), labels: BTreeMap::new(), inputs: Inputs(Arc::new(inputs)), retry: None };
        let (definition, origin) = (Arc::clone(&definition), Arc::clone(&origin));
        Command::InstantiateTemplate { definition, origin, start: Some(start) }
    };
    let mut machine = Machine::new(State::new(1));
    let (actor, tick, mut step) = (Actor::from_text("uid:1"), Tick::default(), Step::default());
    let refused = machine.apply(command(json!({"no": "input of that name"})), &actor, tick, &mut step);
    assert!(matches!(refused, Err(Rejection::InvalidInputs { .. })), "{refused:?}");
    assert!(step.events.is_empty() && !machine.state().holds_workflow(&definition.spec().id), "neither");
    let reply = machine.apply(command(json!({})), &actor, tick, &mut step).expect("taken");
    assert!(matches!(reply, Reply::Started { version: 1, execution: ExecutionId(1), .. }), "{reply:?}");
    let [stored, started, ..] = step.events.as_slice() else { panic!("both: {:?}", step.events) };
    let Event::WorkflowChanged { record: Some(record), .. } = &stored.event else { panic!("{stored:?}") };
    assert_eq!(record.origin.as_ref(), Some(&origin));
    assert!(matches!(started.event, Event::ExecutionStarted { version: 1, .. }), "{started:?}");
    assert!(machine.apply(command(json!({})), &actor, tick, &mut step).is_err(), "the id is taken");
}

#[test]
fn versions_are_bounded() {
    // S-TPL-1
    use crate::machine::{
        message::Command,
        step::{Machine, Step},
    };
    let spec = Arc::new(ways());
    let record = TemplateRecord {
        version: MAX_VERSIONS,
        created_at: Timestamp(0),
        updated_at: Timestamp(0),
        created_by: Actor::Noxd,
        deleted: false,
        spec: Arc::clone(&spec),
    };
    let mut machine = Machine::new(State::new(1));
    machine.state_mut().load_template(record);
    let update = Command::UpdateTemplate { spec: Arc::clone(&spec), etag: None };
    let refused = machine.apply(update, &Actor::Noxd, Tick::default(), &mut Step::default());
    assert_eq!(refused, Err(Rejection::TooManyVersions(spec.id.clone())));
    let delete = Command::DeleteTemplate { template: spec.id.clone(), etag: None };
    assert!(machine.apply(delete, &Actor::Noxd, Tick::default(), &mut Step::default()).is_ok());
}
