//! Stories of a noxd that is killed in the middle of its work.

use std::process::Stdio;

use crate::support::{Noxd, eventually, is_alive, noop, shell, signal};
use noxd::{
    cli::connect,
    proto::v1::{self, TaskStatus, WorkflowStatus},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_survives_sigkill() {
    // S-STATE-7
    let mut noxd = Noxd::start().await;
    let gate = noxd.path("gate");
    let wait = format!("until [ -e {} ]; do sleep 0.02; done", gate.display());
    noxd.create("w", vec![shell("first", &wait, &[]), noop("second", &["first"])]).await;
    let id = noxd.execute("w").await;
    noxd.task_becomes(&id, "first", TaskStatus::Running).await;
    let pause = v1::PauseWorkflowRequest { workflow_id: "w".into(), ..Default::default() };
    let paused = noxd.workflows().await.pause_workflow(pause).await.expect("paused").into_inner().executions;
    assert_eq!(paused[0].status(), WorkflowStatus::Paused);
    std::fs::write(&gate, "").expect("the gate opens");
    noxd.task_becomes(&id, "first", TaskStatus::Completed).await;

    noxd.kill_now();
    noxd.start_again().await;
    let found = noxd.execution(&id).await;
    assert_eq!(found.status(), WorkflowStatus::Paused);
    assert_eq!(found.tasks[1].status(), TaskStatus::Queued);
    assert_eq!(found.tasks[1].waiting_for, ["the execution is paused"]);
    let resume = v1::ResumeWorkflowRequest { workflow_id: "w".into(), ..Default::default() };
    noxd.workflows().await.resume_workflow(resume).await.expect("resumed");
    assert_eq!(noxd.ended(&id).await.status(), WorkflowStatus::Completed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_resumed_from_every_revision_gives_exactly_the_rest() {
    // S-VIEW-2, across a SIGKILL
    let mut noxd = Noxd::start().await;
    let once = "if [ $NOX_ATTEMPT = 1 ]; then exec tail -f /dev/null; fi";
    noxd.create("w", vec![noop("a", &[]), shell("b", once, &["a"]), noop("c", &["b"])]).await;
    let id = noxd.execute("w").await;
    noxd.task_becomes(&id, "b", TaskStatus::Running).await;
    noxd.kill_now();
    noxd.start_again().await;
    noxd.ended(&id).await;
    let everything = noxd.watch_to_end(&id, 0).await;
    assert!(everything.len() >= 9, "{everything:#?}");
    for after in 0..everything.last().expect("events").revision {
        let rest: Vec<v1::Event> = everything.iter().filter(|event| event.revision > after).cloned().collect();
        assert_eq!(noxd.watch_to_end(&id, after).await, rest, "after {after}");
    }
    let beyond = v1::WatchExecutionRequest { execution_id: id, after_revision: Some(u64::MAX), ..Default::default() };
    let status = noxd.executions().await.watch_execution(beyond).await.expect_err("there is no such revision");
    assert_eq!(status.code(), tonic::Code::OutOfRange);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_answered_from_memory_is_what_the_store_says_after_a_restart() {
    // S-VIEW-7
    let mut noxd = Noxd::start().await;
    let long = "head -c 9000 /dev/zero | tr '\\0' x";
    noxd.create("good", vec![shell("a", "echo out", &[]), noop("b", &["a"]), shell("c", long, &["b"])]).await;
    noxd.create("bad", vec![shell("a", "echo why >&2; exit 3", &[]), noop("b", &["a"]), shell("c", "kill -9 $$", &[])])
        .await;
    noxd.create("short", vec![noop("a", &[])]).await;
    let mut before = Vec::new();
    for workflow in ["good", "bad", "short"] {
        let id = noxd.execute(workflow).await;
        noxd.ended(&id).await;
        before.push(noxd.execution(&id).await);
    }
    assert_eq!(before[1].status(), WorkflowStatus::Failed);
    noxd.kill_now();
    noxd.start_again().await;
    for shown in before {
        assert_eq!(noxd.execution(&shown.id).await, shown);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_execution_ends_though_noxd_is_killed_again_and_again() {
    // S-SAFE-1, S-SAFE-2, S-SAFE-3
    let mut noxd = Noxd::start().await;
    noxd.create("w", vec![noop("a", &[]), noop("b", &["a"]), noop("c", &["b"])]).await;
    let mut acknowledged = Vec::new();
    let mut asked = 0_u32;
    for round in 0..8_u32 {
        let mut client = noxd.workflows().await;
        // Different moments: after so many answers, with the next request on its way.
        for _ in 0..20 + round * 7 {
            asked += 1;
            let request = v1::ExecuteWorkflowRequest {
                workflow_id: "w".into(),
                request_id: format!("request-{asked}"),
                ..Default::default()
            };
            let execution = client.execute_workflow(request).await.expect("started").into_inner().execution;
            acknowledged.push((asked, execution.expect("an execution").id));
        }
        noxd.kill_now();
        noxd.start_again().await;
    }
    assert!(acknowledged.len() >= 100, "a run that did too little is void");
    let mut client = noxd.workflows().await;
    for (asked, id) in &acknowledged {
        assert_eq!(noxd.ended(id).await.status(), WorkflowStatus::Completed);
        let repeat = v1::ExecuteWorkflowRequest {
            workflow_id: "w".into(),
            request_id: format!("request-{asked}"),
            ..Default::default()
        };
        let again = client.execute_workflow(repeat).await.expect("the same").into_inner().execution;
        assert_eq!(&again.expect("an execution").id, id, "no second effect");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_noxd_on_the_same_directory_is_refused() {
    let noxd = Noxd::start().await;
    let mut second = std::process::Command::new(env!("CARGO_BIN_EXE_noxd"));
    second.args(["serve", "--listen", "none", "--data-dir"]).arg(noxd.path("data"));
    second.arg("--socket").arg(noxd.path("other.sock"));
    let output = second.stdin(Stdio::null()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("noxd: ") && words.contains("another"), "{words}");
    assert!(!noxd.path("other.sock").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_the_last_child_of_a_killed_noxd_still_holds_is_waited_for() {
    // S-SAFE-4
    let mut noxd = Noxd::start().await;
    noxd.create("w", vec![noop("a", &[])]).await;
    noxd.kill_now();
    // The child, which has its parent's files until it runs its program: it lets go when the new noxd has come.
    std::fs::remove_file(noxd.socket()).expect("removed");
    let held = tokio::net::UnixListener::bind(noxd.socket()).expect("bound");
    let mut next = noxd.command().stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("noxd starts");
    let (_probe, _) = held.accept().await.expect("it looks whether the socket is taken");
    drop(held);
    eventually("it serves", || async {
        let channel = connect::socket_channel(&noxd.socket()).await;
        assert!(is_alive(next.id()), "it gave up");
        channel.ok()
    })
    .await;
    let id = noxd.execute("w").await;
    assert_eq!(noxd.ended(&id).await.status(), WorkflowStatus::Completed);
    signal(next.id(), "TERM");
    assert_eq!(next.wait().expect("it ends").code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_others_can_reach_is_refused_unless_said_aloud() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut noxd = std::process::Command::new(env!("CARGO_BIN_EXE_noxd"));
    noxd.args(["serve", "--socket", "none", "--listen", "0.0.0.0:0", "--data-dir"]).arg(directory.path());
    let output = noxd.stdin(Stdio::null()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("--insecure"), "{words}");
}
