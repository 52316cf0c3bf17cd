//! Stories of tasks that ask people.

use std::time::Duration;

use crate::{
    calls::{approval, output, reason, span, statuses},
    support::{Noxd, noop},
};
use noxd::proto::v1::{self, TaskStatus, WorkflowStatus, event::Kind};
use serde_json::json;
use tonic::Code;

fn echo(id: &str, words: &str, dependencies: &[&str]) -> v1::Task {
    let action = v1::CommandAction { argv: vec!["echo".into(), words.into()], ..Default::default() };
    v1::Task { action: Some(v1::task::Action::Command(action)), ..noop(id, dependencies) }
}

/// Who these tests are to noxd.
fn myself() -> String {
    format!("uid:{}", rustix::process::getuid().as_raw())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_waits_without_a_slot_across_sigkill_until_it_is_answered() {
    // S-STATE-2, S-RETRY-4
    let mut noxd = Noxd::start_with(&["--concurrency-limit", "1"]).await;
    let next = echo("next", "{{ tasks.ask.output.by }}: {{ tasks.ask.output.comment }}", &["ask"]);
    noxd.create("w", vec![approval("ask", &[], &[]), next]).await;
    noxd.create("other", vec![noop("a", &[])]).await;
    let id = noxd.execute("w").await;
    noxd.task_becomes(&id, "ask", TaskStatus::Waiting).await;
    let other = noxd.execute("other").await;
    assert_eq!(noxd.ended(&other).await.status(), WorkflowStatus::Completed, "the only slot is free");

    noxd.kill_now();
    noxd.start_again().await;
    let waiting = noxd.execution(&id).await;
    assert_eq!(statuses(&waiting), [("ask", TaskStatus::Waiting), ("next", TaskStatus::Pending)]);
    assert_eq!(waiting.tasks[0].waiting_for, ["a person's answer"]);
    noxd.answer(&id, "ask", true, "looks good").await.expect("answered");
    let ended = noxd.ended(&id).await;
    assert_eq!(ended.status(), WorkflowStatus::Completed);
    assert_eq!(output(&ended.tasks[1]), json!(format!("{}: looks good", myself())));
    assert!(ended.tasks[0].attempts.is_empty(), "a question is no attempt");
    let events = noxd.watch_to_end(&id, 0).await;
    let answered = events.iter().find(|event| matches!(event.kind, Some(Kind::ApprovalResolved(_)))).expect("one");
    assert_eq!(answered.actor, myself());

    let status = noxd.answer(&id, "ask", true, "").await.expect_err("it is over");
    assert_eq!((status.code(), reason(&status)), (Code::FailedPrecondition, "NOT_WAITING".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_those_who_are_named_may_answer_and_a_no_fails_the_task() {
    // S-STATE-2, S-DEP-2
    let noxd = Noxd::start().await;
    let mine = myself();
    let tasks = vec![
        approval("theirs", &["uid:4294967294", "peer:10.0.0.1"], &[]),
        approval("mine", &["uid:4294967294", &mine], &[]),
        noop("after", &["mine"]),
    ];
    noxd.create("w", tasks).await;
    let id = noxd.execute("w").await;
    noxd.task_becomes(&id, "mine", TaskStatus::Waiting).await;
    let status = noxd.answer(&id, "theirs", true, "").await.expect_err("not mine to answer");
    assert_eq!((status.code(), reason(&status)), (Code::PermissionDenied, "NOT_AN_APPROVER".into()));
    let status = noxd.answer(&id, "after", true, "").await.expect_err("it asks nothing");
    assert_eq!((status.code(), reason(&status)), (Code::FailedPrecondition, "NOT_WAITING".into()));
    let status = noxd.answer(&id, "nobody", true, "").await.expect_err("there is no such task");
    assert_eq!((status.code(), reason(&status)), (Code::NotFound, "TASK_NOT_FOUND".into()));
    assert_eq!(noxd.task(&id, "theirs").await.status(), TaskStatus::Waiting, "what was refused changed nothing");

    noxd.answer(&id, "mine", false, "not on a Friday").await.expect("answered");
    noxd.cancel("w", &id).await;
    let ended = noxd.ended(&id).await;
    let expected = [("theirs", TaskStatus::Cancelled), ("mine", TaskStatus::Failed), ("after", TaskStatus::Blocked)];
    assert_eq!(statuses(&ended), expected);
    let error = ended.tasks[1].error.as_ref().expect("an error");
    assert_eq!(
        (error.kind.as_str(), error.message.as_str()),
        ("REJECTED", &*format!("{mine} said no: not on a Friday"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_nobody_answers_in_time_is_over() {
    // S-RETRY-5
    let noxd = Noxd::start().await;
    let mut ask = approval("ask", &[], &[]);
    let Some(v1::task::Action::Approval(action)) = &mut ask.action else { unreachable!() };
    action.timeout = span(Duration::from_millis(150));
    noxd.create("w", vec![ask, noop("after", &["ask"])]).await;
    let ended = noxd.ended(&noxd.execute("w").await).await;
    assert_eq!(statuses(&ended), [("ask", TaskStatus::TimedOut), ("after", TaskStatus::Blocked)]);
    let error = ended.tasks[0].error.as_ref().expect("an error");
    assert_eq!(error.message, "nobody answered within the `approval.timeout` of 150 ms");
}
