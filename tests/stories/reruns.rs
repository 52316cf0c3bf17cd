//! Stories of executions that are run again, and of why a task does not run.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    calls::{approval, gate, output, reason, span, statuses},
    support::{Noxd, eventually, noop, shell},
};
use noxd::proto::v1::{self, TaskStatus, WorkflowStatus};
use serde_json::json;
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rerun_keeps_what_succeeded_with_its_output_through_any_number_of_reruns() {
    // S-DATA-1, S-DATA-2, S-COND-2
    let noxd = Noxd::start().await;
    let ok = noxd.path("ok");
    let long = shell("long", "head -c 50000 /dev/zero | tr '\\0' x", &[]);
    let build = shell("build", "echo built $$; echo words for the log >&2", &[]);
    let test = v1::Task {
        when: "'built' in tasks.build.output and tasks.long.output | length == 50000".into(),
        ..shell("test", &format!("printf %s \"$1\"; [ -e {} ]", ok.display()), &["build", "long"])
    };
    let mut test = test;
    let Some(v1::task::Action::Command(action)) = &mut test.action else { unreachable!() };
    action.argv.extend(["test".into(), "{{ tasks.build.output }}".into()]);
    noxd.create("w", vec![build, long, test, noop("ship", &["test"])]).await;
    let first = noxd.ended(&noxd.execute("w").await).await;
    assert_eq!(first.status(), WorkflowStatus::Failed);

    let plan = v1::RerunExecutionRequest { execution_id: first.id.clone(), validate_only: true, ..Default::default() };
    let plan = noxd.executions().await.rerun_execution(plan).await.expect("planned").into_inner();
    assert!(plan.execution.is_none());
    assert_eq!(plan.reused_task_ids, ["build", "long"]);
    assert_eq!(plan.redone_task_ids, ["test", "ship"]);

    let mut last = first.clone();
    for round in 0..3 {
        if round == 2 {
            std::fs::write(&ok, "").expect("written");
        }
        let answer = noxd.rerun(&last.id, &[]).await.expect("started");
        assert_eq!(
            (answer.reused_task_ids, answer.redone_task_ids),
            (plan.reused_task_ids.clone(), plan.redone_task_ids.clone())
        );
        let next = noxd.ended(&answer.execution.expect("an execution").id).await;
        assert_eq!(next.rerun_of, last.id);
        last = next;
    }
    assert_eq!(last.status(), WorkflowStatus::Completed);
    assert_eq!(output(&last.tasks[2]), output(&first.tasks[0]), "the task that ran read what was kept");
    let reused: Vec<bool> = last.tasks.iter().map(|task| task.reused).collect();
    assert_eq!(reused, [true, true, false, false]);
    assert_eq!(last.tasks[0].output, first.tasks[0].output);
    assert_eq!(last.tasks[0].attempts, first.tasks[0].attempts);
    let whole = noxd.task(&last.id, "long").await;
    assert_eq!(output(&whole), json!("x".repeat(50_000)), "whole, though three reruns away");
    let request = v1::ListTasksRequest { execution_id: last.id.clone(), ..Default::default() };
    let listed = noxd.executions().await.list_tasks(request).await.expect("listed").into_inner().tasks;
    assert_eq!(listed, last.tasks);
    let request =
        v1::StreamTaskLogsRequest { execution_id: last.id.clone(), task_id: "build".into(), ..Default::default() };
    let mut log = noxd.executions().await.stream_task_logs(request).await.expect("a log").into_inner();
    let mut written = Vec::new();
    while let Some(piece) = log.message().await.expect("no error") {
        written.extend(piece.data);
    }
    assert!(String::from_utf8_lossy(&written).contains("words for the log"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rerun_does_named_tasks_again_with_what_comes_after_them() {
    let noxd = Noxd::start().await;
    let open = noxd.path("gate");
    noxd.create("w", vec![noop("a", &[]), noop("b", &["a"]), noop("c", &["b"]), noop("d", &[])]).await;
    noxd.create("slow", vec![gate("wait", &open, &[])]).await;
    let first = noxd.ended(&noxd.execute("w").await).await;
    let status = noxd.rerun(&first.id, &[]).await.expect_err("there is nothing to do");
    assert_eq!((status.code(), reason(&status)), (Code::FailedPrecondition, "INVALID_WORKFLOW_STATE".into()));
    let status = noxd.rerun(&first.id, &["nobody"]).await.expect_err("there is no such task");
    assert_eq!((status.code(), reason(&status)), (Code::NotFound, "TASK_NOT_FOUND".into()));
    let running = noxd.execute("slow").await;
    let status = noxd.rerun(&running, &[]).await.expect_err("it has not ended");
    assert_eq!(status.code(), Code::FailedPrecondition);
    std::fs::write(&open, "").expect("the gate opens");

    let answer = noxd.rerun(&first.id, &["b"]).await.expect("started");
    assert_eq!((answer.reused_task_ids.join(" "), answer.redone_task_ids.join(" ")), ("a d".into(), "b c".into()));
    let ended = noxd.ended(&answer.execution.expect("one").id).await;
    assert_eq!(ended.status(), WorkflowStatus::Completed);
    assert_eq!(ended.trigger(), v1::ExecutionTrigger::Rerun);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_took_as_many_attempts_as_it_took_through_any_number_of_reruns() {
    // S-COND-3, S-DATA-2
    let noxd = Noxd::start().await;
    let config = v1::RetryConfig {
        max_attempts: 2,
        backoff_strategy: Some(v1::retry_config::BackoffStrategy::Fixed(v1::FixedBackoff {
            delay: span(Duration::from_millis(1)),
        })),
        ..Default::default()
    };
    let flaky = shell("flaky", "if [ -e tried ]; then exit 0; fi; touch tried; exit 3", &[]);
    let flaky = v1::Task { retry_config: Some(config), ..flaky };
    let mut say = shell("say", "printf %s \"$1\"", &["flaky"]);
    let Some(v1::task::Action::Command(action)) = &mut say.action else { unreachable!() };
    action.argv.extend(["say".into(), "{{ tasks.flaky.attempts }}".into()]);
    let say = v1::Task { when: "tasks.flaky.attempts == 2".into(), ..say };
    noxd.create("w", vec![flaky, say]).await;
    let mut id = noxd.execute("w").await;
    for round in 0..3 {
        let ended = noxd.ended(&id).await;
        assert_eq!(ended.status(), WorkflowStatus::Completed);
        assert_eq!(output(&ended.tasks[1]), json!("2"), "round {round}");
        assert_eq!((ended.tasks[0].attempts.len(), ended.tasks[0].reused), (2, round > 0));
        id = noxd.rerun(&id, &["say"]).await.expect("started").execution.expect("an execution").id;
    }
    noxd.ended(&id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_task_waits_for_is_told_by_its_true_name() {
    // S-DEP-5
    let noxd = Noxd::start().await;
    let open = noxd.path("gate");
    let agent = |task: v1::Task, agent: &str| v1::Task { agent_id: agent.into(), ..task };
    let group = |task: v1::Task| v1::Task { parallel_group: "database".into(), ..task };
    let config = v1::RetryConfig {
        max_attempts: 2,
        backoff_strategy: Some(v1::retry_config::BackoffStrategy::Fixed(v1::FixedBackoff {
            delay: span(Duration::from_secs(3_600)),
        })),
        ..Default::default()
    };
    let flaky = v1::Task { retry_config: Some(config), ..shell("flaky", "exit 1", &[]) };
    let tasks = vec![
        agent(gate("holds-agent", &open, &[]), "coder"),
        agent(gate("by-agent", &open, &[]), "coder"),
        group(gate("holds-group", &open, &[])),
        group(gate("by-group", &open, &[])),
        noop("by-dependency", &["holds-agent", "holds-group"]),
        approval("by-person", &["uid:4294967294"], &[]),
        flaky,
        noop("handler", &[]),
    ];
    noxd.limit("coder", Some(1)).await;
    noxd.store(v1::Workflow {
        id: "w".into(),
        tasks,
        finally: vec!["handler".into()],
        concurrency_limits: [("group:database".to_string(), 1)].into(),
        ..Default::default()
    })
    .await;
    let id = noxd.execute("w").await;
    noxd.task_becomes(&id, "flaky", TaskStatus::Retrying).await;
    let explained = |task: &'static str| {
        let (noxd, id) = (&noxd, &id);
        async move {
            let blockers = noxd.explain(id, task).await;
            blockers.into_iter().map(|one| (one.kind, one.description)).collect::<Vec<_>>()
        }
    };
    let only = |blockers: Vec<(String, String)>| -> (String, String) {
        let [one] = blockers.as_slice() else { panic!("one reason: {blockers:?}") };
        one.clone()
    };
    let (kind, words) = only(explained("by-agent").await);
    assert_eq!(kind, "LIMIT");
    assert!(
        words.contains("agent `coder` of 1") && words.contains(&format!("`holds-agent` of execution {id}")),
        "{words}"
    );
    let (kind, words) = only(explained("by-group").await);
    assert_eq!(kind, "LIMIT");
    assert!(words.contains("group `database` of 1") && words.contains("`holds-group`"), "{words}");
    let blockers = explained("by-dependency").await;
    let expected = ["task `holds-agent` is RUNNING", "task `holds-group` is RUNNING"];
    assert_eq!(blockers, expected.map(|words| ("DEPENDENCY".to_string(), words.to_string())));
    let (kind, words) = only(explained("by-person").await);
    assert!(kind == "APPROVAL" && words.contains("uid:4294967294"), "{kind} {words}");
    assert_eq!(only(explained("handler").await).0, "HANDLER");
    let blockers = noxd.explain(&id, "flaky").await;
    assert_eq!(blockers[0].kind, "BACKOFF");
    let span = blockers[0].until.expect("known").seconds - blockers[0].since.expect("known").seconds;
    assert!((3_599..=3_601).contains(&span), "{span}");
    assert_eq!(explained("holds-agent").await, [], "what runs waits for nothing");

    let pause = v1::PauseWorkflowRequest { workflow_id: "w".into(), ..Default::default() };
    noxd.workflows().await.pause_workflow(pause).await.expect("paused");
    let kinds: BTreeSet<String> = explained("by-agent").await.into_iter().map(|(kind, _)| kind).collect();
    assert!(kinds.contains("PAUSE"), "{kinds:?}");

    // noxd's own limit, held by another execution.
    noxd.create("one", vec![noop("a", &[])]).await;
    noxd.limit("", Some(1)).await;
    let other = noxd.execute("one").await;
    let held = noxd.explain(&other, "a").await;
    assert_eq!(held[0].kind, "LIMIT");
    assert!(held[0].description.contains("noxd's concurrency limit of 1 is reached: 2 attempts"), "{held:?}");
    noxd.limit("", Some(8)).await;
    let ended = noxd.ended(&other).await;
    assert_eq!(noxd.explain(&ended.id, "a").await, [], "what is over waits for nothing");
    std::fs::write(&open, "").expect("the gate opens");
    eventually("its gates are over", || async {
        let execution = noxd.execution(&id).await;
        statuses(&execution)[0].1.eq(&TaskStatus::Completed).then_some(())
    })
    .await;
    noxd.cancel("w", &id).await;
    noxd.ended(&id).await;
}
