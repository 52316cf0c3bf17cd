//! Stories of processes: what a real noxd starts, it also ends.

use std::time::{Duration, Instant};

use crate::support::{Noxd, eventually, is_alive, noop, number_in, shell};
use noxd::proto::v1::{self, TaskStatus, WorkflowStatus};

/// A shell that ignores SIGTERM, with a child in a session of its own that ignores it too. Each writes its process id.
fn stubborn_family(directory: &std::path::Path) -> String {
    let at = directory.display();
    format!(
        "trap '' TERM; echo $$ > {at}/child; \
         setsid sh -c 'trap \"\" TERM; echo $$ > {at}/grandchild; while :; do read -t 1 _ < /dev/zero || :; sleep 1; done' & \
         while :; do sleep 1; done"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_ends_the_whole_tree_within_its_grace() {
    // S-STATE-8: a child that ignores SIGTERM, a grandchild that called setsid; the grace is 1 s here
    let noxd = Noxd::start().await;
    noxd.create("w", vec![shell("stubborn", &stubborn_family(&noxd.path("")), &[]), noop("next", &["stubborn"])]).await;
    let id = noxd.execute("w").await;
    let (child, grandchild) = (number_in(&noxd.path("child")).await, number_in(&noxd.path("grandchild")).await);
    assert!(is_alive(child) && is_alive(grandchild));
    let asked = Instant::now();
    noxd.cancel("w", &id).await;
    let asking = noxd.execution(&id).await;
    assert_eq!(asking.status(), WorkflowStatus::Running, "until no attempt is left alive");
    assert!(asking.cancel_requested_at.is_some());
    assert_eq!(asking.tasks[1].status(), TaskStatus::Cancelled, "what had not started is cancelled at once");
    let ended = noxd.ended(&id).await;
    let took = asked.elapsed();
    assert!(!is_alive(child) && !is_alive(grandchild), "the execution has ended, so nobody is left");
    assert_eq!((ended.status(), ended.tasks[0].status()), (WorkflowStatus::Cancelled, TaskStatus::Cancelled));
    assert!(took >= Duration::from_secs(1), "the grace was given: {took:?}");
    assert!(took <= Duration::from_secs(3), "grace + 2 s: {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_of_a_killed_noxd_are_ended_before_their_task_is_tried_again() {
    // S-RETRY-7, S-SAFE-4
    let mut noxd = Noxd::start().await;
    let directory = noxd.path("");
    let script = format!(
        "mkdir {at}/attempt-$NOX_ATTEMPT; \
         if [ $NOX_ATTEMPT = 1 ]; then {family}; fi; \
         for pid in $(cat {at}/child {at}/grandchild); do \
           case $(cut -d ' ' -f 3 /proc/$pid/stat 2>/dev/null) in ''|Z) ;; *) echo still there; exit 9;; esac; done",
        at = directory.display(),
        family = stubborn_family(&directory),
    );
    noxd.create("w", vec![shell("task", &script, &[])]).await;
    let id = noxd.execute("w").await;
    let grandchild = number_in(&noxd.path("grandchild")).await;
    noxd.kill_now();
    assert!(is_alive(grandchild), "it outlives noxd");
    noxd.start_again().await;
    let ended = noxd.ended(&id).await;
    assert_eq!(ended.status(), WorkflowStatus::Completed, "{:?}", ended.error);
    let attempts: Vec<(u32, TaskStatus)> =
        ended.tasks[0].attempts.iter().map(|attempt| (attempt.number, attempt.status())).collect();
    assert_eq!(attempts, [(1, TaskStatus::Cancelled), (2, TaskStatus::Completed)]);
    assert_eq!(ended.tasks[0].attempts[0].error.as_ref().map(|error| error.kind.as_str()), Some("LOST"));
    assert!(!is_alive(grandchild));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timeout_does_not_fire_for_an_attempt_whose_noxd_is_gone() {
    // S-RETRY-7: it does not count, though ending what was left of it takes longer than its timeout
    let mut noxd = Noxd::start().await;
    let directory = noxd.path("");
    let script = format!("if [ $NOX_ATTEMPT = 1 ]; then {}; fi", stubborn_family(&directory));
    let timeout = Some(pbjson_types::Duration { seconds: 0, nanos: 900_000_000 });
    noxd.create("w", vec![v1::Task { timeout, ..shell("task", &script, &[]) }]).await;
    let id = noxd.execute("w").await;
    number_in(&noxd.path("grandchild")).await;
    noxd.kill_now();
    noxd.start_again().await;
    let ended = noxd.ended(&id).await;
    assert_eq!(ended.status(), WorkflowStatus::Completed, "{:?}", ended.error);
    assert_eq!(ended.tasks[0].attempts.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_noxd_that_cannot_serve_starts_nothing() {
    // S-RETRY-7: or each try of a supervisor would start and interrupt what was running
    let mut noxd = Noxd::start().await;
    let at = noxd.path("");
    let script = format!(
        "mkdir {0}/attempt-$NOX_ATTEMPT; if [ $NOX_ATTEMPT = 1 ]; then exec tail -f /dev/null; fi",
        at.display()
    );
    noxd.create("w", vec![shell("task", &script, &[])]).await;
    let id = noxd.execute("w").await;
    eventually("the first attempt", || async { at.join("attempt-1").exists().then_some(()) }).await;
    noxd.kill_now();
    std::fs::remove_file(noxd.socket()).expect("left behind");
    let squatter = std::os::unix::net::UnixListener::bind(noxd.socket()).expect("the socket is taken");
    for _ in 0..6 {
        let refused = noxd.command().output().expect("it runs");
        assert_eq!(refused.status.code(), Some(1), "{}", String::from_utf8_lossy(&refused.stderr));
    }
    drop(squatter);
    noxd.start_again().await;
    let ended = noxd.ended(&id).await;
    assert_eq!(ended.status(), WorkflowStatus::Completed, "{:?}", ended.error);
    assert_eq!(ended.tasks[0].attempts.len(), 2);
    assert!(!at.join("attempt-3").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_ends_what_runs_and_the_next_start_goes_on() {
    // S-RETRY-7
    let mut noxd = Noxd::start().await;
    let marker = noxd.path("started");
    let script = format!("echo $$ > {0}; if [ $NOX_ATTEMPT = 1 ]; then exec tail -f /dev/null; fi", marker.display());
    noxd.create("w", vec![shell("task", &script, &[])]).await;
    let id = noxd.execute("w").await;
    let pid = number_in(&marker).await;
    assert_eq!(noxd.stop(), Some(0), "a clean end");
    assert!(!is_alive(pid));
    noxd.start_again().await;
    assert_eq!(noxd.ended(&id).await.status(), WorkflowStatus::Completed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arguments_and_variables_reach_the_program_as_they_are() {
    // S-DATA-3, S-DATA-4
    let noxd = Noxd::start().await;
    let nasty = "a 'b' \"c\" $(touch /tmp/no) `no` \n;|&> * \\ \u{1f980}";
    let command = v1::CommandAction {
        argv: vec!["sh".into(), "-c".into(), "printf '%s/%s' \"$1\" \"$VALUE\"".into(), "sh".into(), nasty.into()],
        env: [("VALUE".to_string(), nasty.to_string())].into(),
        ..Default::default()
    };
    let task = v1::Task { action: Some(v1::task::Action::Command(command)), ..noop("t", &[]) };
    let environment =
        shell("environment", "env | grep '^NOX_' | cut -d= -f1 | sort | tr '\\n' ' '; cat \"$NOX_INPUTS\"", &[]);
    noxd.create("w", vec![task, environment]).await;
    let id = noxd.execute("w").await;
    let ended = noxd.ended(&id).await;
    let text = |task: &v1::TaskExecution| match task.output.clone().and_then(|value| value.kind) {
        Some(pbjson_types::value::Kind::StringValue(text)) => text,
        other => panic!("{other:?}"),
    };
    assert_eq!(text(&ended.tasks[0]), format!("{nasty}/{nasty}"));
    assert_eq!(
        text(&ended.tasks[1]),
        "NOX_ATTEMPT NOX_EXECUTION_ID NOX_IDEMPOTENCY_KEY NOX_INPUTS NOX_OUTPUT NOX_SCRATCH_DIR NOX_STORE_ID NOX_TASK_ID NOX_WORKFLOW_ID {}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_can_be_followed_and_resumed_from_any_frame() {
    // S-VIEW-3
    let noxd = Noxd::start().await;
    let gate = noxd.path("gate");
    let script = format!("echo one; echo two >&2; until [ -e {} ]; do sleep 0.05; done; echo three", gate.display());
    noxd.create("w", vec![shell("t", &script, &[])]).await;
    let id = noxd.execute("w").await;
    noxd.task_becomes(&id, "t", TaskStatus::Running).await;
    let request =
        v1::StreamTaskLogsRequest { execution_id: id.clone(), task_id: "t".into(), follow: true, ..Default::default() };
    let mut stream = noxd.executions().await.stream_task_logs(request.clone()).await.expect("a log").into_inner();
    let mut frames = Vec::new();
    let bytes = |frames: &[v1::StreamTaskLogsResponse]| frames.iter().map(|frame| frame.data.len()).sum::<usize>();
    while bytes(&frames) < 8 {
        frames.push(stream.message().await.expect("no error").expect("more"));
    }
    std::fs::write(&gate, "").expect("the gate opens");
    while let Some(frame) = stream.message().await.expect("no error") {
        frames.push(frame);
    }
    let of = |frames: &[v1::StreamTaskLogsResponse], which: v1::LogStream| {
        let data = frames.iter().filter(|frame| frame.stream() == which).flat_map(|frame| frame.data.to_vec());
        String::from_utf8(data.collect()).expect("text")
    };
    assert_eq!(of(&frames, v1::LogStream::Stdout), "one\nthree\n");
    assert_eq!(of(&frames, v1::LogStream::Stderr), "two\n");
    noxd.ended(&id).await;
    for (at, frame) in frames.iter().enumerate() {
        let request = v1::StreamTaskLogsRequest { from_offset: frame.offset, follow: false, ..request.clone() };
        let mut stream = noxd.executions().await.stream_task_logs(request).await.expect("a log").into_inner();
        let mut rest = Vec::new();
        while let Some(frame) = stream.message().await.expect("no error") {
            rest.push(frame);
        }
        assert_eq!(rest, frames[at..]);
    }
    let request = v1::StreamTaskLogsRequest { from_offset: 1, follow: false, ..request };
    let status = noxd.executions().await.stream_task_logs(request).await.expect_err("no frame begins there");
    assert_eq!(status.code(), tonic::Code::OutOfRange);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_concurrency_limit_is_never_exceeded_and_always_used() {
    // S-PAR-1; R4.1, R4.2, R4.5
    let noxd = Noxd::start_with(&["--concurrency-limit", "3"]).await;
    let at = noxd.path("");
    let script = format!(
        "mkdir {0}/run-$NOX_TASK_ID; ls -d {0}/run-* | wc -l > {0}/seen-$NOX_TASK_ID; \
         until [ $(ls -d {0}/seen-* | wc -l) -ge 3 ]; do sleep 0.01; done; rmdir {0}/run-$NOX_TASK_ID",
        at.display()
    );
    let names: Vec<String> = (0..12).map(|i| format!("t{i}")).collect();
    noxd.create("w", names.iter().map(|name| shell(name, &script, &[])).collect()).await;
    let id = noxd.execute("w").await;
    assert_eq!(
        noxd.ended(&id).await.status(),
        WorkflowStatus::Completed,
        "three run at once, or it would wait for ever"
    );
    for name in &names {
        let seen = number_in(&at.join(format!("seen-{name}"))).await;
        assert!(seen <= 3, "{name} saw {seen} at once");
    }
    let events = noxd.watch_to_end(&id, 0).await.len();
    assert_eq!(events, 1 + 12 * 3 + 1, "a start, three events a task, an end");
}
