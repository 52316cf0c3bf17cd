//! Stories of what flows: inputs, outputs by placeholders, and conditions that look at them.

use crate::{
    calls::{output, reason, statuses},
    support::{Noxd, noop, shell},
};
use noxd::proto::v1::{self, TaskStatus, WorkflowStatus, event::Kind};
use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt as _;

/// Text that a shell, a template, a terminal or a careless join would take apart.
const HOSTILE: [&str; 8] = [
    "'; touch pwned; '",
    "\"quoted\" and `id` and $(id) and ${HOME}",
    "two\nlines\r\n\tand a tab",
    "{{ inputs.value }} {% raw %} {# no #}",
    "-rf *",
    "ünïcödé 東京 🎉",
    "\u{1b}[31mred\u{202e}",
    "trailing space \\",
];

fn command(id: &str, argv: &[&str], dependencies: &[&str]) -> v1::Task {
    let argv = argv.iter().map(ToString::to_string).collect();
    let action = v1::task::Action::Command(v1::CommandAction { argv, ..Default::default() });
    v1::Task { action: Some(action), ..noop(id, dependencies) }
}

fn input(name: &str, kind: v1::ParameterType) -> v1::WorkflowInput {
    v1::WorkflowInput { name: name.into(), parameter_type: kind as i32, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_values_reach_the_program_as_the_same_bytes_in_one_argument() {
    // S-DATA-2, S-DATA-3
    let noxd = Noxd::start().await;
    let leave = command("leave", &["printf", "%s", "{{ inputs.value }}"], &[]);
    let script = "printf %s $# > count; printf %s \"$1\" > argument; printf %s \"$VALUE\" > variable; cat > stdin";
    let mut take = command("take", &["sh", "-euc", script, "take", "{{ tasks.leave.output }}"], &["leave"]);
    let Some(v1::task::Action::Command(action)) = &mut take.action else { unreachable!() };
    action.env.insert("VALUE".into(), "{{ tasks.leave.output }}".into());
    action.stdin = "{{ tasks.leave.output }}".into();
    let inputs = vec![input("value", v1::ParameterType::String)];
    noxd.store(v1::Workflow { id: "w".into(), tasks: vec![leave, take], inputs, ..Default::default() }).await;
    for value in HOSTILE {
        let id = noxd.execute_with("w", json!({ "value": value })).await.expect("started");
        let ended = noxd.ended(&id).await;
        assert_eq!(ended.status(), WorkflowStatus::Completed, "{value:?}: {:?}", ended.error);
        let work = noxd.path("data").join("executions").join(&id).join("work");
        let read = |name: &str| std::fs::read(work.join(name)).expect("written");
        assert_eq!(read("count"), b"1", "one argument: {value:?}");
        for place in ["argument", "variable", "stdin"] {
            assert_eq!(read(place), value.as_bytes(), "{place}: {value:?}");
        }
        assert!(!work.join("pwned").exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_cannot_be_filled_in_fails_the_attempt_and_is_not_tried_again() {
    // S-DATA-2: kind TEMPLATE, never retried
    let noxd = Noxd::start().await;
    let retry_config = Some(v1::RetryConfig { max_attempts: 5, ..Default::default() });
    let nul = command("nul", &["printf", "a\\000b"], &[]);
    let taken = command("taken", &["echo", "{{ tasks.nul.output }}"], &["nul"]);
    let mut json = shell("json", "echo '{\"a\": 1}'", &[]);
    json.output_format = v1::OutputFormat::Json as i32;
    let missing = command("missing", &["echo", "{{ tasks.json.output.b }}"], &["json"]);
    let again = |task: v1::Task| v1::Task { retry_config: retry_config.clone(), ..task };
    noxd.create("w", vec![nul, again(taken), json, again(missing)]).await;
    let id = noxd.execute("w").await;
    let ended = noxd.ended(&id).await;
    let expected = [
        ("nul", TaskStatus::Completed),
        ("taken", TaskStatus::Failed),
        ("json", TaskStatus::Completed),
        ("missing", TaskStatus::Failed),
    ];
    assert_eq!(statuses(&ended), expected);
    for (task, words) in [(&ended.tasks[1], "NUL"), (&ended.tasks[3], "`b`")] {
        let error = task.error.as_ref().expect("an error");
        assert_eq!((error.kind.as_str(), task.attempts.len()), ("TEMPLATE", 1), "{error:?}");
        assert!(error.message.contains("command.argv[1]") && error.message.contains(words), "{}", error.message);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inputs_are_checked_defaulted_and_given_to_every_task() {
    // S-DATA-2, S-DATA-4
    let noxd = Noxd::start().await;
    let env = v1::WorkflowInput {
        required: true,
        validation_regex: "staging|production".into(),
        ..input("env", v1::ParameterType::String)
    };
    let replicas = v1::WorkflowInput {
        default_value: Some(serde_json::from_value(json!(3)).expect("a value")),
        ..input("replicas", v1::ParameterType::Integer)
    };
    let inputs = vec![env, replicas, input("dry", v1::ParameterType::Boolean)];
    let tasks = vec![
        command("say", &["echo", "{{ inputs.env }} {{ inputs.replicas + 1 }}"], &[]),
        shell("file", "cat \"$NOX_INPUTS\"", &[]),
    ];
    noxd.store(v1::Workflow { id: "w".into(), tasks, inputs, ..Default::default() }).await;

    let bad = json!({ "replicas": "three", "dry": 1, "colour": "red" });
    let status = noxd.execute_with("w", bad).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    let mut faults: Vec<(&str, &str)> = details
        .bad_request()
        .expect("fields")
        .field_violations
        .iter()
        .map(|fault| (fault.field.as_str(), fault.reason.as_str()))
        .collect();
    faults.sort_unstable();
    let expected = [
        ("inputs.colour", "INVALID_VALUE"),
        ("inputs.dry", "INVALID_VALUE"),
        ("inputs.env", "MISSING_VALUE"),
        ("inputs.replicas", "INVALID_VALUE"),
    ];
    assert_eq!(faults, expected);
    let status = noxd.execute_with("w", json!({ "env": "staging2" })).await.expect_err("the whole must match");
    assert_eq!(reason(&status), "INVALID_VALUE");
    let history = v1::ListExecutionsRequest::default();
    let started = noxd.executions().await.list_executions(history).await.expect("listed").into_inner().executions;
    assert!(started.is_empty(), "what is refused starts nothing");

    let id = noxd.execute_with("w", json!({ "env": "staging" })).await.expect("started");
    let ended = noxd.ended(&id).await;
    assert_eq!(output(&ended.tasks[0]), json!("staging 4"));
    assert_eq!(output(&ended.tasks[1]), json!("{\"env\":\"staging\",\"replicas\":3}"));
    assert_eq!(serde_json::to_value(&ended.inputs).expect("JSON"), json!({ "env": "staging", "replicas": 3.0 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_and_when_decide_what_runs_and_say_why_not() {
    // S-COND-1, S-COND-2, S-COND-3, S-COND-4
    let noxd = Noxd::start().await;
    let mut test = shell("test", "echo '{\"failed\": 0, \"names\": [\"a\", \"b\"]}'", &[]);
    test.output_format = v1::OutputFormat::Json as i32;
    test.metadata = [("team".to_string(), "core".to_string())].into();
    let when = |id: &str, when: &str| v1::Task { when: when.into(), ..noop(id, &["test"]) };
    let looks = |id: &str, kind: v1::ConditionType, path: &str, operator: v1::ComparisonOperator, expected: &str| {
        let condition = v1::TaskCondition {
            condition_type: kind as i32,
            target_task_id: "test".into(),
            path: path.into(),
            operator: operator as i32,
            expected_value: expected.into(),
        };
        v1::Task { conditions: vec![condition], ..noop(id, &["test"]) }
    };
    use v1::{ComparisonOperator as Is, ConditionType as Of};
    let tasks = vec![
        test,
        when("runs", "tasks.test.output.failed == 0 and 'a' in tasks.test.output.names and tasks.test.exit_code == 0"),
        when("not", "tasks.test.output.failed > 0"),
        when("broken", "tasks.test.output.missing > 0"),
        looks("status", Of::TaskStatus, "", Is::Equals, "COMPLETED"),
        looks("output", Of::TaskOutput, "/names", Is::Contains, "b"),
        looks("number", Of::TaskOutput, "/failed", Is::GreaterThan, "0"),
        looks("notes", Of::TaskMetadata, "team", Is::NotEquals, "core"),
        noop("after", &["not"]),
        v1::Task { trigger_rule: v1::TriggerRule::AllCompleted as i32, ..noop("strict", &["not"]) },
    ];
    noxd.create("w", tasks).await;
    let id = noxd.execute("w").await;
    let ended = noxd.ended(&id).await;
    assert_eq!(ended.status(), WorkflowStatus::Completed, "what is skipped is no failure");
    let skipped: Vec<&str> =
        statuses(&ended).iter().filter(|(_, status)| *status == TaskStatus::Skipped).map(|(id, _)| *id).collect();
    assert_eq!(skipped, ["not", "broken", "number", "notes", "strict"]);
    assert_eq!(ended.task_counts.expect("counts").completed, 5);
    let events = noxd.watch_to_end(&id, 0).await;
    let errors: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.kind {
            Some(Kind::ConditionError(error)) => Some((event.task_id.as_str(), error.expression.as_str())),
            _ => None,
        })
        .collect();
    assert_eq!(errors, [("broken", "tasks.test.output.missing > 0")]);
    let log = noxd.log();
    let told =
        log.lines().find(|line| line.contains("a condition could not be evaluated")).expect("noxd's log says so");
    assert!(told.contains("task=broken") && told.contains(&id), "{told}");
    let reasons: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.kind {
            Some(Kind::TasksSkipped(skipped)) => Some((skipped.task_ids.join(" "), skipped.reason.as_str())),
            _ => None,
        })
        .collect();
    let why = |task: &str| reasons.iter().find(|(tasks, _)| tasks == task).expect("skipped").1;
    assert!(why("not").contains("tasks.test.output.failed > 0"), "{}", why("not"));
    assert!(why("strict").contains("skipped"), "{}", why("strict"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_trigger_rule_decides_as_its_name_says() {
    // S-DEP-1, S-DEP-2, S-DEP-3
    let noxd = Noxd::start().await;
    let rule = |id: &str, rule: v1::TriggerRule, dependencies: &[&str]| v1::Task {
        trigger_rule: rule as i32,
        ..noop(id, dependencies)
    };
    use v1::TriggerRule as R;
    let excused = v1::Task { allow_failure: true, ..shell("excused", "exit 1", &[]) };
    let tasks = vec![
        noop("good", &[]),
        shell("bad", "exit 1", &[]),
        excused,
        v1::Task { when: "tasks.good.status == 'FAILED'".into(), ..noop("skipped", &["good"]) },
        rule("all-succeeded", R::AllSucceeded, &["good", "skipped", "excused"]),
        rule("all-succeeded-not", R::AllSucceeded, &["good", "bad"]),
        rule("all-completed", R::AllCompleted, &["good", "excused"]),
        rule("all-completed-not", R::AllCompleted, &["good", "skipped"]),
        rule("all-done", R::AllDone, &["good", "bad", "skipped"]),
        rule("one-succeeded", R::OneSucceeded, &["bad", "good"]),
        rule("one-succeeded-not", R::OneSucceeded, &["bad", "skipped"]),
        rule("one-failed", R::OneFailed, &["good", "bad"]),
        rule("one-failed-not", R::OneFailed, &["good", "skipped"]),
        rule("all-failed", R::AllFailed, &["bad", "excused"]),
        rule("all-failed-not", R::AllFailed, &["bad", "good"]),
    ];
    noxd.create("w", tasks).await;
    let id = noxd.execute("w").await;
    let ended = noxd.ended(&id).await;
    assert_eq!(ended.status(), WorkflowStatus::Failed);
    for (task, status) in &statuses(&ended)[4..] {
        let expected = match *task {
            "all-succeeded-not" => TaskStatus::Blocked,
            task if task.ends_with("-not") => TaskStatus::Skipped,
            _ => TaskStatus::Completed,
        };
        assert_eq!(*status, expected, "{task}");
    }
}
