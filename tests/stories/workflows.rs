//! Stories of whole workflows, told to a real noxd over its socket.

use crate::support::{Noxd, noop, shell};
use noxd::proto::v1::{self, TaskStatus, WorkflowStatus};
use tonic::Code;
use tonic_types::StatusExt as _;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_tasks_fan_out_and_join() {
    // S-DEP-4, S-PAR-2
    let noxd = Noxd::start().await;
    let names: Vec<String> = (0..10_000).map(|i| format!("t{i}")).collect();
    let mut tasks = vec![noop("root", &[])];
    tasks.extend(names.iter().map(|name| noop(name, &["root"])));
    tasks.push(noop("join", &names.iter().map(String::as_str).collect::<Vec<_>>()));
    noxd.create("wide", tasks).await;
    let execution = noxd.execute("wide").await;
    let ended = noxd.ended(&execution).await;
    assert_eq!(ended.status(), WorkflowStatus::Completed);
    assert_eq!(ended.task_counts.expect("counts").completed, 10_002);
    assert!(ended.tasks.is_empty(), "above 1,000 tasks an execution shows counts");
    let mut listed = 0;
    let mut token = String::new();
    loop {
        let request = v1::ListTasksRequest {
            execution_id: execution.clone(),
            page_size: 1_000,
            page_token: token,
            ..Default::default()
        };
        let page = noxd.executions().await.list_tasks(request).await.expect("listed").into_inner();
        listed += page.tasks.len();
        assert!(page.tasks.iter().all(|task| task.status() == TaskStatus::Completed && task.attempts.len() == 1));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, 10_002);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_of_a_thousand_runs_in_order() {
    // S-DEP-1, S-DEP-4
    let noxd = Noxd::start().await;
    let names: Vec<String> = (0..1_000).map(|i| format!("t{i}")).collect();
    let tasks = (0..1_000).map(|i| if i == 0 { noop("t0", &[]) } else { noop(&names[i], &[&names[i - 1]]) });
    noxd.create("deep", tasks.collect()).await;
    let execution = noxd.execute("deep").await;
    let ended = noxd.ended(&execution).await;
    assert_eq!(ended.status(), WorkflowStatus::Completed);
    let events = noxd.watch_to_end(&execution, 0).await;
    let started: Vec<&str> = events
        .iter()
        .filter(|event| matches!(event.kind, Some(v1::event::Kind::TaskStarted(_))))
        .map(|event| event.task_id.as_str())
        .collect();
    assert_eq!(started, names);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_told_with_its_evidence_and_blocks_what_follows() {
    // S-DEP-2, S-RETRY-3, S-VIEW-4; R1.3, R5.4
    let noxd = Noxd::start().await;
    let tasks = vec![
        shell("bad", "echo some words; echo 'what went wrong' >&2; exit 3", &[]),
        noop("next", &["bad"]),
        noop("other", &[]),
    ];
    noxd.create("w", tasks).await;
    let id = noxd.execute("w").await;
    let ended = noxd.ended(&id).await;
    assert_eq!(ended.status(), WorkflowStatus::Failed);
    let error = ended.error.expect("an error");
    assert_eq!((error.task_id.as_str(), error.message.as_str()), ("bad", "task `bad` failed: exit code 3"));
    let [bad, next, other] = ended.tasks.as_slice() else { panic!("three tasks") };
    let evidence = bad.error.as_ref().expect("an error");
    assert_eq!((evidence.kind.as_str(), evidence.exit_code), ("EXIT_CODE", Some(3)));
    assert_eq!(evidence.stderr_tail.trim(), "what went wrong");
    assert!(!evidence.remedy.is_empty());
    assert!(bad.attempts[0].cpu_time.is_some());
    assert_eq!((next.status(), next.blocked_by.as_str()), (TaskStatus::Blocked, "bad"));
    assert_eq!(other.status(), TaskStatus::Completed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_come_from_stdout_or_from_the_file_named_by_nox_output() {
    // S-DATA-1
    let noxd = Noxd::start().await;
    let mut json = shell("json", "echo ignored; echo '{\"version\": [1, 2.5, \"ü\"]}' > \"$NOX_OUTPUT\"", &[]);
    json.output_format = v1::OutputFormat::Json as i32;
    let mut broken = shell("broken", "echo '{\"version\": '", &[]);
    broken.output_format = v1::OutputFormat::Json as i32;
    let long = shell("long", "head -c 50000 /dev/zero | tr '\\0' x; echo", &[]);
    noxd.create("w", vec![shell("text", "printf 'two\\nlines\\n'", &[]), json, broken, long]).await;
    let id = noxd.execute("w").await;
    let ended = noxd.ended(&id).await;
    let output = |task: &str| {
        let task = ended.tasks.iter().find(|other| other.task_id == task).expect("a task");
        serde_json::to_string(&task.output).expect("JSON")
    };
    assert_eq!(output("text"), "\"two\\nlines\"");
    assert_eq!(output("json"), "{\"version\":[1.0,2.5,\"ü\"]}");
    let broken = ended.tasks.iter().find(|task| task.task_id == "broken").expect("a task");
    assert_eq!(broken.error.as_ref().map(|error| error.kind.as_str()), Some("OUTPUT"));
    let long = ended.tasks.iter().find(|task| task.task_id == "long").expect("a task");
    assert!(long.output_truncated && output("long").len() < 5_000, "a preview");
    let request = v1::GetTaskRequest { execution_id: id, task_id: "long".into() };
    let whole = noxd.executions().await.get_task(request).await.expect("there").into_inner().task.expect("a task");
    assert_eq!(serde_json::to_string(&whole.output).expect("JSON"), format!("\"{}\"", "x".repeat(50_000)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timeout_ends_the_attempt_and_the_error_says_which_limit_it_was() {
    // S-RETRY-5; R3.5
    let noxd = Noxd::start().await;
    let slow = v1::Task {
        timeout: Some(pbjson_types::Duration { seconds: 0, nanos: 200_000_000 }),
        ..shell("slow", "exec tail -f /dev/null", &[])
    };
    noxd.create("w", vec![slow, noop("after", &["slow"])]).await;
    let id = noxd.execute("w").await;
    let ended = noxd.ended(&id).await;
    assert_eq!(ended.status(), WorkflowStatus::Failed);
    assert_eq!(ended.tasks[0].status(), TaskStatus::TimedOut);
    let error = ended.tasks[0].error.as_ref().expect("an error");
    assert_eq!(error.message, "the attempt ran into its `timeout` of 200 ms and was ended");
    assert_eq!(ended.tasks[1].status(), TaskStatus::Blocked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_definition_is_refused_as_a_whole_and_nothing_is_stored() {
    // S-DEF-1, S-DEF-2
    let noxd = Noxd::start().await;
    let tasks = vec![
        noop("a", &["b"]),
        noop("b", &["a"]),
        noop("a", &[]),
        noop("", &["ghost"]),
        v1::Task { when: "tasks.nobody.status == 'COMPLETED'".into(), ..noop("c", &[]) },
        v1::Task {
            retry_config: Some(v1::RetryConfig { max_attempts: 2, jitter: f64::NAN, ..Default::default() }),
            allow_failure: true,
            ..noop("d", &[])
        },
    ];
    let concurrency_limits = [("*".to_string(), 0)].into();
    let workflow = v1::Workflow { id: "bad".into(), tasks, concurrency_limits, ..v1::Workflow::default() };
    let request = v1::CreateWorkflowRequest { workflow: Some(workflow.clone()), ..Default::default() };
    let status = noxd.workflows().await.create_workflow(request).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    assert_eq!(
        details.error_info().map(|info| (info.domain.as_str(), info.reason.as_str())),
        Some(("nox.dev", "INVALID_VALUE"))
    );
    let fields: Vec<(&str, &str)> = details
        .bad_request()
        .expect("fields")
        .field_violations
        .iter()
        .map(|fault| (fault.field.as_str(), fault.reason.as_str()))
        .collect();
    let expected = [
        ("concurrency_limits[\"*\"]", "INVALID_VALUE"),
        ("tasks[0].dependencies[0]", "CIRCULAR_DEPENDENCY"),
        ("tasks[2].id", "DUPLICATE_TASK_ID"),
        ("tasks[3].dependencies[0]", "DEPENDENCY_NOT_FOUND"),
        ("tasks[3].id", "INVALID_ID"),
        ("tasks[4].when", "CONDITION_INVALID"),
        ("tasks[5].retry_config.jitter", "INVALID_VALUE"),
    ];
    assert_eq!(fields, expected);
    let get = v1::GetWorkflowRequest { workflow_id: "bad".into(), version: 0 };
    let status = noxd.workflows().await.get_workflow(get).await.expect_err("nothing is stored");
    assert_eq!(status.code(), Code::NotFound);
    // ValidateWorkflow answers the same, as an answer.
    let request = v1::ValidateWorkflowRequest { workflow: Some(workflow) };
    let answer = noxd.workflows().await.validate_workflow(request).await.expect("an answer").into_inner();
    let answered: Vec<(&str, &str)> =
        answer.violations.iter().map(|fault| (fault.field.as_str(), fault.reason.as_str())).collect();
    assert_eq!(answered, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_this_build_cannot_do_is_refused_with_its_path() {
    // S-DEF-2
    let noxd = Noxd::start().await;
    let no_action = v1::Task { action: None, ..noop("agent", &[]) };
    let workflow = v1::Workflow {
        tasks: vec![no_action, shell("filled", "echo {{ tasks.agent.output }}", &["agent"])],
        notification_config: Some(v1::NotificationConfig::default()),
        ..v1::Workflow::default()
    };
    let request = v1::CreateWorkflowRequest { workflow: Some(workflow), ..Default::default() };
    let status = noxd.workflows().await.create_workflow(request).await.expect_err("refused");
    assert_eq!(status.code(), Code::Unimplemented);
    let details = status.get_error_details();
    let fields = &details.bad_request().expect("fields").field_violations;
    let paths: Vec<&str> = fields.iter().map(|fault| fault.field.as_str()).collect();
    assert_eq!(paths, ["notification_config", "tasks[0].action"]);
    assert!(fields.iter().all(|fault| fault.reason == "NOT_SUPPORTED"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definition_is_read_back_whole_in_every_version() {
    // S-DEF-2, S-DEF-4
    let noxd = Noxd::start().await;
    let mut client = noxd.workflows().await;
    let first = v1::Workflow {
        id: "w".into(),
        tasks: vec![noop("a", &[]), noop("tell", &[]), noop("clean", &["tell"])],
        finally: vec!["tell".into(), "clean".into()],
        concurrency_limits: [("*".to_string(), 2)].into(),
        failure_policy: v1::FailurePolicy::FailFast as i32,
        execution_timeout: Some(pbjson_types::Duration { seconds: 60, nanos: 0 }),
        ..v1::Workflow::default()
    };
    let request = v1::ValidateWorkflowRequest { workflow: Some(first.clone()) };
    let plan = client.validate_workflow(request).await.expect("an answer").into_inner().plan.expect("a plan");
    let shown = |stages: &[v1::WorkflowStage]| stages.iter().map(|stage| stage.task_ids.join(" ")).collect::<Vec<_>>();
    assert_eq!(shown(&plan.stages), ["a"]);
    assert_eq!(shown(&plan.on_failure_stages), [""; 0]);
    assert_eq!(shown(&plan.finally_stages), ["tell", "clean"]);
    let request = v1::CreateWorkflowRequest { workflow: Some(first.clone()), ..Default::default() };
    let stored = client.create_workflow(request).await.expect("stored").into_inner().workflow.expect("a workflow");
    // A mask keeps what it does not name.
    let change = v1::Workflow { id: "w".into(), finally: vec![], tasks: vec![noop("b", &[])], ..Default::default() };
    let mask = pbjson_types::FieldMask { paths: vec!["finally".into(), "tasks".into()] };
    let update = v1::UpdateWorkflowRequest { workflow: Some(change), update_mask: Some(mask), ..Default::default() };
    let updated = client.update_workflow(update).await.expect("updated").into_inner().workflow.expect("one");
    assert_eq!((updated.version, updated.finally.len(), updated.tasks.len()), (2, 0, 1));
    assert_eq!(updated.concurrency_limits, first.concurrency_limits);
    assert_eq!(updated.execution_timeout, first.execution_timeout);
    // An older version is the older definition in every field.
    let get = v1::GetWorkflowRequest { workflow_id: "w".into(), version: 1 };
    let older = client.get_workflow(get).await.expect("there").into_inner().workflow.expect("one");
    assert_eq!((older.version, &older.finally, &older.tasks), (1, &first.finally, &stored.tasks));
    assert_eq!(older.failure_policy(), v1::FailurePolicy::FailFast);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draft_is_kept_with_its_faults_and_cannot_run_until_it_is_mended() {
    // S-DEF-3, S-DEF-4
    let noxd = Noxd::start().await;
    let mut client = noxd.workflows().await;
    let draft = v1::Workflow { id: "w".into(), tasks: vec![noop("a", &["a"])], ..v1::Workflow::default() };
    let request =
        v1::CreateWorkflowRequest { workflow: Some(draft.clone()), save_as_draft: true, ..Default::default() };
    let stored = client.create_workflow(request).await.expect("stored").into_inner().workflow.expect("a workflow");
    assert_eq!(stored.status(), WorkflowStatus::Draft);
    assert_eq!(stored.violations[0].reason, "CIRCULAR_DEPENDENCY");
    let execute = v1::ExecuteWorkflowRequest { workflow_id: "w".into(), ..Default::default() };
    let status = client.execute_workflow(execute.clone()).await.expect_err("a draft cannot run");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(status.get_details_error_info().expect("a reason").reason, "INVALID_WORKFLOW_STATE");

    let mended = v1::Workflow { tasks: vec![noop("a", &[])], ..draft };
    let update = v1::UpdateWorkflowRequest { workflow: Some(mended), etag: stored.etag.clone(), ..Default::default() };
    let updated = client.update_workflow(update.clone()).await.expect("updated").into_inner().workflow.expect("one");
    assert_eq!((updated.version, updated.status()), (2, WorkflowStatus::Ready));
    let status = client.update_workflow(update).await.expect_err("the etag is stale");
    assert_eq!(
        (status.code(), status.get_details_error_info().expect("a reason").reason.as_str()),
        (Code::Aborted, "ETAG_MISMATCH")
    );
    let execute =
        v1::ExecuteWorkflowRequest { wait: Some(pbjson_types::Duration { seconds: 30, nanos: 0 }), ..execute };
    let ended = client.execute_workflow(execute).await.expect("started").into_inner().execution.expect("one");
    assert_eq!((ended.status(), ended.workflow_version), (WorkflowStatus::Completed, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_reads_an_execution_can_wait_for_its_end() {
    let noxd = Noxd::start().await;
    let gate = noxd.path("gate");
    noxd.create("w", vec![shell("t", &format!("until [ -e {} ]; do sleep 0.02; done", gate.display()), &[])]).await;
    let id = noxd.execute("w").await;
    let client = noxd.executions().await;
    let get = async |seconds, nanos| {
        let wait = Some(pbjson_types::Duration { seconds, nanos });
        let request = v1::GetExecutionRequest { execution_id: id.clone(), wait };
        client.clone().get_execution(request).await.map(|answer| answer.into_inner().execution.expect("one"))
    };
    assert_eq!(get(0, 1_000_000).await.expect("as it stands").status(), WorkflowStatus::Running);
    let (ended, ()) = tokio::join!(get(30, 0), async { std::fs::write(&gate, "").expect("the gate opens") });
    let ended = ended.expect("as it ended");
    assert_eq!((ended.status(), ended.tasks[0].status()), (WorkflowStatus::Completed, TaskStatus::Completed));
    assert_eq!(get(30, 0).await.expect("at once, since it has ended"), ended);
    let status = get(3_601, 0).await.expect_err("an hour at most");
    assert_eq!(status.get_details_error_info().expect("a reason").reason, "INVALID_VALUE");
    let ghost = v1::GetExecutionRequest {
        execution_id: "01900000-0000-7000-8000-000000000001".into(),
        wait: Some(pbjson_types::Duration { seconds: 30, nanos: 0 }),
    };
    let status = client.clone().get_execution(ghost).await.expect_err("there is none to wait for");
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_one_commit_and_each_request_is_answered_for_itself() {
    let noxd = Noxd::start().await;
    noxd.create("w", vec![noop("a", &[])]).await;
    let request = |workflow: &str| v1::ExecuteWorkflowRequest { workflow_id: workflow.into(), ..Default::default() };
    let batch = v1::BatchExecuteWorkflowsRequest { requests: vec![request("w"), request("ghost"), request("w")] };
    let results = noxd.workflows().await.batch_execute_workflows(batch).await.expect("answered").into_inner().results;
    let shown: Vec<String> = results
        .iter()
        .map(|result| match result.result.as_ref().expect("a result") {
            v1::batch_execute_result::Result::Execution(execution) => execution.workflow_id.clone(),
            v1::batch_execute_result::Result::Error(error) => error.reason.clone(),
        })
        .collect();
    assert_eq!(shown, ["w", "WORKFLOW_NOT_FOUND", "w"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_page_through_everything_newest_first() {
    let noxd = Noxd::start().await;
    for i in 0..7 {
        noxd.create(&format!("w{i}"), vec![noop("a", &[])]).await;
    }
    let mut seen = Vec::new();
    let mut token = String::new();
    loop {
        let request = v1::ListWorkflowsRequest { page_size: 3, page_token: token, ..Default::default() };
        let page = noxd.workflows().await.list_workflows(request).await.expect("listed").into_inner();
        seen.extend(page.workflows.into_iter().map(|workflow| workflow.id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ["w6", "w5", "w4", "w3", "w2", "w1", "w0"]);
}
