//! Stories of what follows a failure, a cancel or the end: handlers, FAIL_FAST, `execution_timeout`.

use std::time::Duration;

use crate::{
    calls::{gate, output, span, statuses},
    support::{Noxd, is_alive, noop, number_in, shell},
};
use noxd::proto::v1::{self, TaskStatus, WorkflowStatus, event::Kind};
use serde_json::json;

const FOR_EVER: &str = "exec tail -f /dev/null";

fn with_handlers(tasks: Vec<v1::Task>, on_failure: &[&str], finally: &[&str]) -> v1::Workflow {
    let ids = |ids: &[&str]| ids.iter().map(ToString::to_string).collect();
    v1::Workflow { id: "w".into(), tasks, on_failure: ids(on_failure), finally: ids(finally), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_run_after_everything_else_and_know_how_it_went() {
    // S-STATE-5
    let noxd = Noxd::start().await;
    let ok = noxd.path("ok");
    let mut tasks = vec![
        shell("deploy", &format!("[ -e {} ] || exit 3", ok.display()), &[]),
        noop("after", &["deploy"]),
        noop("aside", &[]),
        noop("roll-back", &[]),
        noop("tell", &[]),
    ];
    let argv = |argv: &[&str]| {
        let argv = argv.iter().map(ToString::to_string).collect();
        Some(v1::task::Action::Command(v1::CommandAction { argv, ..Default::default() }))
    };
    tasks[3].action = argv(&["echo", "undo exit {{ tasks.deploy.exit_code }}"]);
    tasks[4].action = argv(&["echo", "{{ tasks.deploy.status }} {{ tasks['roll-back'].status }}"]);
    noxd.store(with_handlers(tasks, &["roll-back"], &["tell"])).await;

    let failed = noxd.ended(&noxd.execute("w").await).await;
    let expected = [
        ("deploy", TaskStatus::Failed),
        ("after", TaskStatus::Blocked),
        ("aside", TaskStatus::Completed),
        ("roll-back", TaskStatus::Completed),
        ("tell", TaskStatus::Completed),
    ];
    assert_eq!((failed.status(), statuses(&failed)), (WorkflowStatus::Failed, expected.to_vec()));
    assert_eq!(output(&failed.tasks[3]), json!("undo exit 3"));
    assert_eq!(output(&failed.tasks[4]), json!("FAILED COMPLETED"));
    let events = noxd.watch_to_end(&failed.id, 0).await;
    let at = |is: &dyn Fn(&v1::Event) -> bool| events.iter().position(is).expect("it happened");
    let turn = |kind: &str| at(&|event| matches!(&event.kind, Some(Kind::HandlersStarted(it)) if it.kind == kind));
    let ended = |task: &str| at(&|event| event.task_id == task && matches!(event.kind, Some(Kind::TaskCompleted(_))));
    assert!(ended("aside") < turn("on_failure") && turn("on_failure") < ended("roll-back"));
    assert!(ended("roll-back") < turn("finally") && turn("finally") < ended("tell"));

    std::fs::write(&ok, "").expect("written");
    let good = noxd.ended(&noxd.execute("w").await).await;
    assert_eq!(good.status(), WorkflowStatus::Completed);
    assert_eq!(statuses(&good)[3], ("roll-back", TaskStatus::Skipped));
    assert_eq!(output(&good.tasks[4]), json!("COMPLETED SKIPPED"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_finally_fails_what_succeeded() {
    // S-STATE-3, S-STATE-5
    let noxd = Noxd::start().await;
    noxd.store(with_handlers(vec![noop("work", &[]), shell("clean", "exit 4", &[])], &[], &["clean"])).await;
    let ended = noxd.ended(&noxd.execute("w").await).await;
    assert_eq!(ended.status(), WorkflowStatus::Failed);
    assert_eq!(ended.error.expect("an error").task_id, "clean");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_spares_finally_and_a_second_one_does_not() {
    // S-STATE-5, S-STATE-8; across a SIGKILL
    let mut noxd = Noxd::start().await;
    let (worker, cleaner, gate) = (noxd.path("worker"), noxd.path("cleaner"), noxd.path("gate"));
    let say = |file: &std::path::Path| format!("echo $$ > {}; ", file.display());
    let wait = format!("until [ -e {} ]; do sleep 0.02; done", gate.display());
    let tasks = vec![
        shell("work", &(say(&worker) + FOR_EVER), &[]),
        noop("never", &["work"]),
        noop("undo", &[]),
        shell("clean", &(say(&cleaner) + &wait), &[]),
        noop("last", &["clean"]),
    ];
    noxd.store(with_handlers(tasks, &["undo"], &["clean", "last"])).await;
    let id = noxd.execute("w").await;
    let pid = number_in(&worker).await;
    noxd.cancel("w", &id).await;
    number_in(&cleaner).await;
    assert!(!is_alive(pid));
    let meanwhile = noxd.execution(&id).await;
    assert_eq!(meanwhile.status(), WorkflowStatus::Running);
    assert!(meanwhile.cancel_requested_at.is_some());
    // noxd goes down in the middle of `finally`, and goes on with it.
    noxd.kill_now();
    std::fs::remove_file(&cleaner).expect("removed");
    noxd.start_again().await;
    number_in(&cleaner).await;
    std::fs::write(&gate, "").expect("the gate opens");
    let ended = noxd.ended(&id).await;
    assert_eq!(ended.status(), WorkflowStatus::Cancelled);
    let expected = [
        ("work", TaskStatus::Cancelled),
        ("never", TaskStatus::Cancelled),
        ("undo", TaskStatus::Cancelled),
        ("clean", TaskStatus::Completed),
        ("last", TaskStatus::Completed),
    ];
    assert_eq!(statuses(&ended), expected);

    std::fs::remove_file(&gate).expect("removed");
    std::fs::remove_file(&worker).expect("removed");
    std::fs::remove_file(&cleaner).expect("removed");
    let id = noxd.execute("w").await;
    number_in(&worker).await;
    noxd.cancel("w", &id).await;
    let pid = number_in(&cleaner).await;
    noxd.cancel("w", &id).await;
    let ended = noxd.ended(&id).await;
    assert_eq!(ended.status(), WorkflowStatus::Cancelled);
    assert_eq!(&statuses(&ended)[3..], [("clean", TaskStatus::Cancelled), ("last", TaskStatus::Cancelled)]);
    assert!(!is_alive(pid));
    noxd.cancel("w", &id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fail_fast_calls_off_the_rest_at_the_first_failure() {
    // S-STATE-4
    let noxd = Noxd::start().await;
    let (marker, open) = (noxd.path("pid"), noxd.path("gate"));
    let failing = {
        let wait = gate("bad", &open, &[]);
        let Some(v1::task::Action::Command(mut action)) = wait.action.clone() else { unreachable!() };
        action.argv[2] += "; exit 1";
        v1::Task { action: Some(v1::task::Action::Command(action)), ..wait }
    };
    let long = shell("long", &format!("echo $$ > {}; {FOR_EVER}", marker.display()), &[]);
    let tasks = vec![failing, long, noop("blocked", &["bad"]), noop("rest", &["long"]), noop("clean", &[])];
    let policy = v1::FailurePolicy::FailFast as i32;
    noxd.store(v1::Workflow { failure_policy: policy, ..with_handlers(tasks, &[], &["clean"]) }).await;
    let id = noxd.execute("w").await;
    let pid = number_in(&marker).await;
    std::fs::write(&open, "").expect("the gate opens");
    let ended = noxd.ended(&id).await;
    assert_eq!(ended.status(), WorkflowStatus::Failed);
    let expected = [
        ("bad", TaskStatus::Failed),
        ("long", TaskStatus::Cancelled),
        ("blocked", TaskStatus::Blocked),
        ("rest", TaskStatus::Cancelled),
        ("clean", TaskStatus::Completed),
    ];
    assert_eq!(statuses(&ended), expected);
    assert!(!is_alive(pid));
    assert_eq!(ended.error.expect("an error").task_id, "bad");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_of_a_whole_execution_is_bounded_but_for_its_handlers() {
    // S-STATE-7, S-RETRY-5
    let noxd = Noxd::start().await;
    let tasks = vec![
        shell("long", FOR_EVER, &[]),
        noop("rest", &["long"]),
        noop("undo", &[]),
        v1::Task { action: Some(nap(Duration::from_millis(300))), ..noop("clean", &[]) },
    ];
    let bounded = v1::Workflow {
        execution_timeout: span(Duration::from_millis(200)),
        ..with_handlers(tasks, &["undo"], &["clean"])
    };
    noxd.store(bounded).await;
    let ended = noxd.ended(&noxd.execute("w").await).await;
    assert_eq!(ended.status(), WorkflowStatus::Failed);
    let expected = [
        ("long", TaskStatus::TimedOut),
        ("rest", TaskStatus::Blocked),
        ("undo", TaskStatus::Completed),
        ("clean", TaskStatus::Completed),
    ];
    let mut shown = statuses(&ended);
    // Whether it was called off or blocked, it never ran.
    if shown[1].1 == TaskStatus::Cancelled {
        shown[1].1 = TaskStatus::Blocked;
    }
    assert_eq!(shown, expected);
    let error = ended.error.expect("an error");
    assert_eq!(error.message, "the execution ran into its `execution_timeout` of 200 ms");
    assert_eq!(error.task_error.expect("one").kind, "TIMEOUT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_handler_does_not_make_a_success_run_out_of_time() {
    // S-STATE-5, S-STATE-7
    let noxd = Noxd::start().await;
    let slow = v1::Task { action: Some(nap(Duration::from_millis(500))), ..noop("clean", &[]) };
    let bounded = v1::Workflow {
        execution_timeout: span(Duration::from_millis(200)),
        ..with_handlers(vec![noop("work", &[]), noop("undo", &[]), slow], &["undo"], &["clean"])
    };
    noxd.store(bounded).await;
    let ended = noxd.ended(&noxd.execute("w").await).await;
    assert_eq!(ended.status(), WorkflowStatus::Completed, "{:?}", ended.error);
    let expected = [("work", TaskStatus::Completed), ("undo", TaskStatus::Skipped), ("clean", TaskStatus::Completed)];
    assert_eq!(statuses(&ended), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_that_is_allowed_holds_up_nothing_and_fails_nothing() {
    // S-DEP-1, S-STATE-3
    let noxd = Noxd::start().await;
    let lint = v1::Task { allow_failure: true, ..shell("lint", "exit 1", &[]) };
    noxd.create("w", vec![lint, noop("build", &["lint"])]).await;
    let ended = noxd.ended(&noxd.execute("w").await).await;
    assert_eq!(ended.status(), WorkflowStatus::Completed);
    assert_eq!(statuses(&ended), [("lint", TaskStatus::Failed), ("build", TaskStatus::Completed)]);
}

fn nap(duration: Duration) -> v1::task::Action {
    v1::task::Action::Noop(v1::NoopAction { duration: span(duration) })
}
