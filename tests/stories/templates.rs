//! Stories of templates: stored, changed, made into workflows that run, over restarts and at a terminal.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    calls::{output, reason, statuses},
    command_line::{all_text, noxctl, text},
    support::{Noxd, noop, shell},
};
use noxd::{
    cli::connect,
    proto::v1::{self, TaskStatus, WorkflowStatus, template_service_client::TemplateServiceClient},
};
use serde_json::{Value, json};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

/// What a shell, a template, JSON, YAML or a careless join would take apart.
const HOSTILE: [&str; 9] = [
    "'; touch pwned; '",
    "\"quoted\" and `id` and $(id) and ${HOME}",
    "two\nlines\r\n\tand a tab",
    "{{ execution.id }} {{other}} {{{ }} {",
    "ends with {",
    "{\"a\": [1, \"x\"]}\n- b: &x [*x]",
    "ünïcödé 東京 🎉",
    "\u{1b}[31mred\u{202e}",
    "",
];

impl Noxd {
    async fn templates(&self) -> TemplateServiceClient<Channel> {
        connect::templates(self.channel().await)
    }

    async fn store_template(&self, template: v1::TaskTemplate) -> Result<v1::TaskTemplate, Status> {
        let request = v1::CreateTemplateRequest { template: Some(template), ..Default::default() };
        let response = self.templates().await.create_template(request).await?.into_inner();
        Ok(response.template.expect("a template"))
    }

    async fn change_template(
        &self,
        template: v1::TaskTemplate,
        mask: &[&str],
        etag: &str,
    ) -> Result<v1::TaskTemplate, Status> {
        let update_mask = Some(pbjson_types::FieldMask { paths: mask.iter().map(ToString::to_string).collect() });
        let request = v1::UpdateTemplateRequest {
            template: Some(template),
            update_mask,
            etag: etag.into(),
            ..Default::default()
        };
        Ok(self.templates().await.update_template(request).await?.into_inner().template.expect("a template"))
    }

    async fn found_template(&self, id: &str, version: u64) -> Result<v1::TaskTemplate, Status> {
        let request = v1::GetTemplateRequest { template_id: id.into(), version };
        Ok(self.templates().await.get_template(request).await?.into_inner().template.expect("a template"))
    }

    async fn instance(
        &self,
        request: v1::InstantiateTemplateRequest,
    ) -> Result<v1::InstantiateTemplateResponse, Status> {
        Ok(self.templates().await.instantiate_template(request).await?.into_inner())
    }

    async fn all_workflows(&self) -> Vec<v1::Workflow> {
        let request = v1::ListWorkflowsRequest::default();
        self.workflows().await.list_workflows(request).await.expect("listed").into_inner().workflows
    }

    async fn found_workflow(&self, id: &str) -> v1::Workflow {
        let request = v1::GetWorkflowRequest { workflow_id: id.into(), version: 0 };
        self.workflows().await.get_workflow(request).await.expect("there").into_inner().workflow.expect("a workflow")
    }
}

fn parameter(name: &str, kind: v1::ParameterType) -> v1::TemplateParameter {
    v1::TemplateParameter { name: name.into(), parameter_type: kind as i32, ..Default::default() }
}

fn required(name: &str) -> v1::TemplateParameter {
    v1::TemplateParameter { required: true, ..parameter(name, v1::ParameterType::String) }
}

/// Two tasks in a row; the second tells what it was given.
fn greeting() -> v1::TaskTemplate {
    let mut tell = shell("tell", "printf %s \"$1\"", &["{{who}}-first"]);
    let Some(v1::task::Action::Command(command)) = &mut tell.action else { unreachable!() };
    command.argv.extend(["tell".into(), "hello {{who}} at {{ inputs.place }}".into()]);
    let inputs = vec![v1::WorkflowInput { name: "place".into(), ..Default::default() }];
    v1::TaskTemplate {
        id: "greeting".into(),
        name: "Greeting".into(),
        description: "Says hello".into(),
        parameters: vec![required("who"), parameter("loud", v1::ParameterType::Boolean)],
        tasks: vec![noop("{{who}}-first", &[]), tell],
        inputs,
        labels: [("for".to_string(), "{{who}}".to_string())].into(),
        ..Default::default()
    }
}

fn wanted(parameters: Value) -> v1::InstantiateTemplateRequest {
    v1::InstantiateTemplateRequest {
        template_id: "greeting".into(),
        parameters: Some(serde_json::from_value(parameters).expect("an object")),
        ..Default::default()
    }
}

fn run(parameters: Value) -> v1::InstantiateTemplateRequest {
    v1::InstantiateTemplateRequest {
        execute: true,
        inputs: Some(serde_json::from_value(json!({ "place": "home" })).expect("an object")),
        ..wanted(parameters)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_becomes_a_workflow_that_runs_in_one_step_and_says_what_it_was_made_of() {
    // S-TPL-1, S-TPL-3, S-TPL-4
    let mut noxd = Noxd::start().await;
    let stored = noxd.store_template(greeting()).await.expect("stored");
    assert_eq!((stored.version, stored.etag.as_str(), stored.tasks.len()), (1, "v1", 2));
    let only = noxd.instance(wanted(json!({ "who": "ann" }))).await.expect("made");
    assert_eq!(only.tasks[1].dependencies, ["ann-first"]);
    assert!(only.workflow.is_none() && only.execution.is_none() && noxd.all_workflows().await.is_empty());

    let request = v1::InstantiateTemplateRequest { workflow_id: "hello-ann".into(), ..run(json!({ "who": "ann" })) };
    let made = noxd.instance(request).await.expect("made");
    assert_eq!(made.tasks, only.tasks);
    let id = made.execution.expect("an execution").id;
    let ended = noxd.ended(&id).await;
    assert_eq!(statuses(&ended), [("ann-first", TaskStatus::Completed), ("tell", TaskStatus::Completed)]);
    assert_eq!(output(&ended.tasks[1]), json!("hello ann at home"));
    assert_eq!(ended.labels["for"], "ann");
    let first = noxd.watch_to_end(&id, 0).await.first().expect("events").revision;
    assert_eq!(first, 3, "the template, the workflow, and at once its execution");

    noxd.kill_now();
    noxd.start_again().await;
    let kept = noxd.found_workflow("hello-ann").await;
    assert_eq!((kept.name.as_str(), kept.status()), ("Greeting", WorkflowStatus::Completed));
    let origin = kept.template.clone().expect("it was made of a template");
    assert_eq!((origin.template_id.as_str(), origin.version), ("greeting", 1));
    assert_eq!(serde_json::to_value(origin.parameters).expect("JSON"), json!({ "who": "ann" }));
    // Another version of the workflow keeps it, and lists name it.
    let update = v1::UpdateWorkflowRequest { workflow: Some(kept), ..Default::default() };
    let updated = noxd.workflows().await.update_workflow(update).await.expect("updated").into_inner();
    assert_eq!(updated.workflow.expect("one").template.expect("kept").template_id, "greeting");
    assert_eq!(noxd.all_workflows().await[0].template.as_ref().expect("named").version, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_is_told_at_once_and_nothing_is_stored() {
    // S-TPL-2, S-TPL-3
    let noxd = Noxd::start().await;
    let mut bad = greeting();
    bad.parameters[1].default_value = Some(serde_json::from_value(json!("perhaps")).expect("a value"));
    bad.tasks.push(noop("{{nobody}}", &["nothing"]));
    let status = noxd.store_template(bad).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    let faults = fields(&status);
    for (field, reason) in [
        ("parameters[1].default_value", "INVALID_VALUE"),
        ("tasks[2].id", "PLACEHOLDER_INVALID"),
        ("tasks[2].dependencies[0]", "DEPENDENCY_NOT_FOUND"),
    ] {
        assert!(faults.contains(&(field.into(), reason.into())), "{field}: {faults:#?}");
    }
    assert_eq!(reason(&noxd.found_template("greeting", 0).await.expect_err("not stored")), "TEMPLATE_NOT_FOUND");

    noxd.store_template(greeting()).await.expect("stored");
    let status = noxd.instance(run(json!({ "loud": "very", "whom": "x" }))).await.expect_err("refused");
    let mut faults = fields(&status);
    faults.sort();
    let expected = [
        ("parameters.loud", "INVALID_VALUE"),
        ("parameters.who", "MISSING_TEMPLATE_PARAMETER"),
        ("parameters.whom", "INVALID_VALUE"),
    ];
    assert_eq!(faults, expected.map(|(field, reason)| (field.to_string(), reason.to_string())));
    let status = noxd.instance(wanted(json!({}))).await.expect_err("refused");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "MISSING_TEMPLATE_PARAMETER"));
    let status = noxd.instance(run(json!({ "who": "not an id" }))).await.expect_err("refused");
    assert_eq!(fields(&status)[0], ("tasks[0].id".into(), "INVALID_ID".into()));
    // Both or neither: what the execution is given must fit too.
    let bad = json!({ "place": 3 });
    let request = v1::InstantiateTemplateRequest {
        inputs: Some(serde_json::from_value(bad).expect("an object")),
        ..run(json!({ "who": "ann" }))
    };
    assert_eq!(fields(&noxd.instance(request).await.expect_err("refused"))[0].0, "inputs.place");
    let request = v1::InstantiateTemplateRequest { execute: false, ..run(json!({ "who": "ann" })) };
    assert_eq!(fields(&noxd.instance(request).await.expect_err("refused"))[0].0, "inputs");
    assert!(noxd.all_workflows().await.is_empty(), "nothing was stored");
}

fn fields(status: &Status) -> Vec<(String, String)> {
    let details = status.get_error_details();
    let faults = &details.bad_request().expect("fields").field_violations;
    faults.iter().map(|fault| (fault.field.clone(), fault.reason.clone())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_never_change_and_go_on_counting() {
    // S-TPL-1, S-DEF-4
    let mut noxd = Noxd::start().await;
    noxd.store_template(greeting()).await.expect("stored");
    let status = noxd.store_template(greeting()).await.expect_err("taken");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "ALREADY_EXISTS"));
    let change = v1::TaskTemplate {
        id: "greeting".into(),
        tasks: vec![noop("only-{{who}}", &[])],
        parameters: vec![],
        ..Default::default()
    };
    let stale = noxd.change_template(change.clone(), &["tasks"], "v9").await.expect_err("stale");
    assert_eq!((stale.code(), reason(&stale).as_str()), (Code::Aborted, "ETAG_MISMATCH"));
    let unknown = noxd.change_template(change.clone(), &["version"], "").await.expect_err("no field of a client's");
    assert_eq!(reason(&unknown), "INVALID_UPDATE_MASK");
    let second = noxd.change_template(change, &["tasks"], "v1").await.expect("changed");
    assert_eq!((second.version, second.parameters.len(), second.tasks.len()), (2, 2, 1));
    noxd.kill_now();
    noxd.start_again().await;
    assert_eq!(noxd.found_template("greeting", 1).await.expect("kept").tasks, greeting_tasks_as_stored());
    assert_eq!(noxd.found_template("greeting", 0).await.expect("newest"), second);
    assert_eq!(reason(&noxd.found_template("greeting", 3).await.expect_err("none")), "TEMPLATE_NOT_FOUND");
    let newest = noxd.instance(wanted(json!({ "who": "bob" }))).await.expect("made");
    assert_eq!(newest.tasks[0].id, "only-bob");
    let request = v1::InstantiateTemplateRequest { version: 1, ..wanted(json!({ "who": "bob" })) };
    assert_eq!(noxd.instance(request).await.expect("made").tasks[0].id, "bob-first");

    let delete = v1::DeleteTemplateRequest { template_id: "greeting".into(), ..Default::default() };
    noxd.templates().await.delete_template(delete).await.expect("deleted");
    assert_eq!(reason(&noxd.found_template("greeting", 1).await.expect_err("gone")), "TEMPLATE_NOT_FOUND");
    assert_eq!(reason(&noxd.instance(run(json!({ "who": "x" }))).await.expect_err("gone")), "TEMPLATE_NOT_FOUND");
    assert_eq!(noxd.store_template(greeting()).await.expect("free again").version, 3);

    // The doctor knows templates too, and a copy has them.
    noxd.stop();
    let (data, copy) = (noxd.path("data"), noxd.path("copy"));
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_noxd"));
    let told = doctor.arg("doctor").arg(&data).arg("--copy-to").arg(&copy).output().expect("it runs");
    assert_eq!(told.status.code(), Some(0), "{}", all_text(&told));
    std::fs::rename(&data, noxd.path("before")).expect("moved");
    std::fs::rename(&copy, &data).expect("moved");
    noxd.start_again().await;
    assert_eq!(noxd.found_template("greeting", 1).await.expect("kept").tasks, greeting_tasks_as_stored());
    assert_eq!(noxd.found_template("greeting", 0).await.expect("kept").version, 3);
}

/// The defaults are said where nothing was.
fn greeting_tasks_as_stored() -> Vec<v1::Task> {
    let said = |task: v1::Task| v1::Task {
        priority: v1::TaskPriority::Medium as i32,
        trigger_rule: v1::TriggerRule::AllSucceeded as i32,
        output_format: v1::OutputFormat::Text as i32,
        on_interrupt: v1::OnInterrupt::Retry as i32,
        action: match task.action {
            Some(v1::task::Action::Noop(_)) => {
                Some(v1::task::Action::Noop(v1::NoopAction { duration: Some(Default::default()) }))
            }
            other => other,
        },
        ..task
    };
    greeting().tasks.into_iter().map(said).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_makes_one_workflow_though_the_template_is_gone() {
    // S-SAFE-3, S-TPL-4
    let mut noxd = Noxd::start().await;
    let create =
        v1::CreateTemplateRequest { template: Some(greeting()), request_id: "store".into(), ..Default::default() };
    for _ in 0..2 {
        let again = noxd.templates().await.create_template(create.clone()).await.expect("stored").into_inner();
        assert_eq!(again.template.expect("a template").version, 1);
    }
    let request = v1::InstantiateTemplateRequest { request_id: "make".into(), ..run(json!({ "who": "ann" })) };
    let first = noxd.instance(request.clone()).await.expect("made");
    let delete = v1::DeleteTemplateRequest { template_id: "greeting".into(), ..Default::default() };
    noxd.templates().await.delete_template(delete).await.expect("deleted");
    noxd.kill_now();
    noxd.start_again().await;
    let again = noxd.instance(request.clone()).await.expect("the same");
    let of = |made: &v1::InstantiateTemplateResponse| {
        (made.workflow.as_ref().map(|made| made.id.clone()), made.execution.as_ref().map(|made| made.id.clone()))
    };
    assert_eq!(of(&again), of(&first));
    assert_eq!(again.tasks, first.tasks);
    assert_eq!(noxd.all_workflows().await.len(), 1);
    noxd.store_template(greeting()).await.expect("stored again");
    let other = v1::InstantiateTemplateRequest {
        parameters: Some(serde_json::from_value(json!({ "who": "bob" })).expect("an object")),
        ..request
    };
    assert_eq!(reason(&noxd.instance(other).await.expect_err("another body")), "REQUEST_ID_REUSED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_reach_the_program_as_the_same_bytes_in_one_argument() {
    // S-TPL-3, S-DATA-3
    let noxd = Noxd::start().await;
    let script = "printf %s $# > count; printf %s \"$1\" > argument; printf %s \"$VALUE\" > variable; cat > stdin";
    let mut take = shell("take", script, &[]);
    let Some(v1::task::Action::Command(command)) = &mut take.action else { unreachable!() };
    command.argv.extend(["take".into(), "{{value}}".into()]);
    command.env.insert("VALUE".into(), "{{value}}".into());
    command.stdin = "{{value}}".into();
    take.title = "takes {{value}}".into();
    take.when = "{{value}} == inputs.value".into();
    let template = v1::TaskTemplate {
        id: "greeting".into(),
        parameters: vec![required("value")],
        inputs: vec![v1::WorkflowInput { name: "value".into(), ..Default::default() }],
        tasks: vec![take],
        ..Default::default()
    };
    noxd.store_template(template).await.expect("stored");
    for value in HOSTILE {
        let request = v1::InstantiateTemplateRequest {
            inputs: Some(serde_json::from_value(json!({ "value": value })).expect("an object")),
            ..run(json!({ "value": value }))
        };
        let id = noxd.instance(request).await.expect("made").execution.expect("started").id;
        let ended = noxd.ended(&id).await;
        assert_eq!(statuses(&ended), [("take", TaskStatus::Completed)], "{value:?}: {:?}", ended.error);
        let work = noxd.path("data").join("executions").join(&id).join("work");
        let read = |name: &str| std::fs::read(work.join(name)).expect("written");
        assert_eq!(read("count"), b"1", "one argument: {value:?}");
        for place in ["argument", "variable", "stdin"] {
            assert_eq!(read(place), value.as_bytes(), "{place}: {value:?}");
        }
        assert!(!work.join("pwned").exists());
    }
    let status = noxd.instance(run(json!({ "value": "a\u{0}b" }))).await.expect_err("NUL");
    assert_eq!(fields(&status)[0], ("parameters.value".into(), "INVALID_VALUE".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_page_and_say_what_is_needed_and_the_server_says_that_it_can() {
    // S-TPL-1
    let noxd = Noxd::start().await;
    for at in 0..5 {
        let description = if at == 3 { "Audits everything" } else { "Says hello" };
        let template = v1::TaskTemplate { id: format!("t{at}"), description: description.into(), ..greeting() };
        noxd.store_template(template).await.expect("stored");
    }
    let mut request = v1::ListTemplatesRequest { page_size: 2, ..Default::default() };
    let mut seen = Vec::new();
    loop {
        let page = noxd.templates().await.list_templates(request.clone()).await.expect("a page").into_inner();
        seen.extend(page.templates);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["t4", "t3", "t2", "t1", "t0"]);
    assert!(seen.iter().all(|one| one.tasks.is_empty() && one.parameters[0].required && !one.description.is_empty()));
    let request = v1::ListTemplatesRequest { text: "AUDIT".into(), ..Default::default() };
    let found = noxd.templates().await.list_templates(request).await.expect("found").into_inner().templates;
    assert_eq!(found.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["t3"]);
    let request = v1::ListTemplatesRequest { page_token: "00".into(), ..Default::default() };
    let refused = noxd.templates().await.list_templates(request).await.expect_err("no token");
    assert_eq!(reason(&refused), "INVALID_PAGE_TOKEN");
    let mut system = v1::system_service_client::SystemServiceClient::new(noxd.channel().await);
    let info = system.get_server_info(v1::GetServerInfoRequest {}).await.expect("told").into_inner();
    assert!(info.features.iter().any(|feature| feature == "templates"));
    let mut health = tonic_health::pb::health_client::HealthClient::new(noxd.channel().await);
    let service = tonic_health::pb::HealthCheckRequest { service: "nox.v1.TemplateService".into() };
    assert_eq!(health.check(service).await.expect("told").into_inner().status, 1, "SERVING");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_stores_lists_shows_tries_and_deletes_a_template() {
    // S-TPL-1, S-TPL-2, S-TPL-4
    let noxd = Noxd::start().await;
    let file = noxd.path("hello.yaml");
    let written = "id: hello\ndescription: Says hello to somebody\nparameters:\n\
                   - {name: who, required: true, description: To whom}\n\
                   - {name: times, parameter_type: integer, default_value: 2, validation_regex: '[1-9]'}\n\
                   tasks:\n- {id: say, command: {argv: [echo, 'hello {{who}} {{times}}']}}\n";
    std::fs::write(&file, written.replace("name: who,", "name: who, needed: true,")).expect("a file");
    let file = file.to_str().expect("a path").to_owned();
    let told = noxctl(&noxd, &["template", "create", "-f", &file]);
    assert_eq!(told.status.code(), Some(2));
    assert!(all_text(&told).contains("hello.yaml:4:15: there is no field `needed` here"), "{}", all_text(&told));
    std::fs::write(&file, written).expect("a file");
    let told = noxctl(&noxd, &["template", "create", "-f", &file]);
    assert_eq!(text(&told.stdout), "hello  version 1  2 parameters  1 tasks\n", "{}", all_text(&told));
    let told = text(&noxctl(&noxd, &["template", "list", "--text", "SOMEBODY"]).stdout);
    let row = told.lines().nth(1).expect("a row");
    assert!(row.starts_with("hello  who") && row.contains("Says hello to somebody"), "{told}");
    let told = text(&noxctl(&noxd, &["template", "show", "hello"]).stdout);
    assert!(told.contains("(required)") && told.contains("INTEGER") && told.contains("echo hello {{who}}"), "{told}");
    // What is shown can be given again.
    let shown = noxctl(&noxd, &["template", "show", "hello", "-o", "yaml"]);
    std::fs::write(&file, &shown.stdout).expect("a file");
    let told = noxctl(&noxd, &["template", "update", "-f", &file]);
    assert!(text(&told.stdout).starts_with("hello  version 2"), "{}", all_text(&told));
    let told = noxctl(&noxd, &["template", "update", "-f", &file]);
    assert!(all_text(&told).contains("etag v2 now, not v1"), "{}", all_text(&told));

    let told = noxctl(&noxd, &["template", "instantiate", "hello", "--parameter", "times=zero", "--create"]);
    assert_eq!(told.status.code(), Some(2));
    assert!(all_text(&told).contains("the template wants a whole number"), "{}", all_text(&told));
    let told = noxctl(&noxd, &["template", "instantiate", "hello", "-p", "times=0", "--create"]);
    let words = all_text(&told);
    assert_eq!(told.status.code(), Some(1));
    assert!(words.contains("parameters.who") && words.contains("To whom") && words.contains("times"), "{words}");
    let told = noxctl(&noxd, &["template", "instantiate", "hello", "-p", "who=ann"]);
    assert!(text(&told.stdout).contains("echo hello ann 2"), "{}", all_text(&told));
    let values = noxd.path("values.yaml");
    std::fs::write(&values, "who: bob\ntimes: 3\n").expect("a file");
    let values = values.to_str().expect("a path").to_owned();
    let arguments = ["template", "instantiate", "hello", "--parameters-file", &values, "-p", "who=ann"];
    let told = noxctl(&noxd, &[&arguments[..], &["--create", "--workflow-id", "w"]].concat());
    assert_eq!(text(&told.stdout), "w  version 1  READY  1 tasks\n", "{}", all_text(&told));
    let told = text(&noxctl(&noxd, &["workflow", "show", "w"]).stdout);
    assert!(told.contains("template hello, version 2") && told.contains(r#"{"times":3,"who":"ann"}"#), "{told}");
    let told = noxctl(&noxd, &[&arguments[..], &["--execute", "--watch"]].concat());
    assert_eq!(told.status.code(), Some(0), "{}", all_text(&told));
    assert!(all_text(&told).contains("COMPLETED"), "{}", all_text(&told));
    let told = noxctl(&noxd, &["template", "delete", "hello"]);
    assert_eq!(told.status.code(), Some(2), "it asks, and nobody is there");
    let told = noxctl(&noxd, &["template", "delete", "hello", "--yes"]);
    assert_eq!(told.status.code(), Some(0), "{}", all_text(&told));
    assert!(all_text(&noxctl(&noxd, &["template", "show", "hello"])).contains("does not exist"));
}

/// A git repository with two commits.
fn repository(path: &Path) {
    std::fs::create_dir(path).expect("a directory");
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.current_dir(path).args(["-c", "user.name=Ann", "-c", "user.email=ann@example.org"]).args(arguments);
        let done = command.output().expect("git runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    git(&["init", "--quiet"]);
    for (file, lines) in [("one.txt", "1\n2\n3\n"), ("two.txt", "4\n5\n")] {
        std::fs::write(path.join(file), lines).expect("a file");
        git(&["add", file]);
        git(&["commit", "--quiet", "-m", file]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_example_of_a_template_runs_and_ends_as_its_header_says() {
    // S-TPL-1, S-TPL-3
    let noxd = Noxd::start().await;
    let place = noxd.path("repository");
    repository(&place);
    let place = place.to_str().expect("a path");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/templates");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("examples").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert!(files.len() >= 4, "void: {files:?}");
    let mut left = Vec::new();
    for file in files {
        let source = std::fs::read_to_string(&file).expect("readable");
        let header = |words: &str| {
            let line = source.lines().find_map(|line| line.strip_prefix(words));
            line.unwrap_or_else(|| panic!("{}: say `{words}…` in its header", file.display())).trim().to_owned()
        };
        let id = file.file_stem().expect("a name").to_str().expect("text").to_owned();
        let told = noxctl(&noxd, &["template", "create", "-f", file.to_str().expect("a path")]);
        assert_eq!(told.status.code(), Some(0), "{}", all_text(&told));
        let given = header("# tried with ").replace("@repository", place);
        let mut arguments = vec!["template", "instantiate", &id, "--execute", "--wait", "-o", "json"];
        arguments.extend(given.split(' ').flat_map(|one| ["-p", one]));
        let told = noxctl(&noxd, &arguments);
        let expected: i32 = header("# exits with ").parse().expect("a number");
        assert_eq!(told.status.code(), Some(expected), "{}: {}", file.display(), all_text(&told));
        let shown: Value = serde_json::from_slice(&told.stdout).expect("JSON");
        let tasks = shown["tasks"].as_array().expect("tasks").iter();
        left.extend(tasks.filter_map(|task| {
            let task_id = task["taskId"].as_str()?;
            Some((format!("{id} {task_id}"), task["status"].as_str()?.to_owned(), task["output"].clone()))
        }));
    }
    let of = |task: &str| left.iter().find(|(name, ..)| name == task).unwrap_or_else(|| panic!("{task}: {left:#?}"));
    assert_eq!(of("code-review small").2, "read it: 2 lines, at most 200");
    assert_eq!(of("code-review large").1, "TASK_STATUS_SKIPPED");
    assert_eq!(of("fan-out join").2, "5 lines in files of type txt");
    assert_eq!(of("nightly-audit report").2, "keys COMPLETED, objects COMPLETED");
    assert_eq!(of("release tag").1, "TASK_STATUS_SKIPPED", "a dry run");
    assert!(of("release sum").2.as_str().expect("text").ends_with("release-1.2.3.tar"));
}
