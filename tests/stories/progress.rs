//! How far an execution is and when it will be over, as clients and people see it.

use noxd::proto::v1::{self, EstimateBasis, TaskStatus};
use tokio_stream::StreamExt as _;

use super::{
    calls::gate,
    command_line::noxctl,
    support::{DEADLINE, Noxd, is_end, shell},
};

/// A task that takes a while.
fn slow(id: &str, dependencies: &[&str]) -> v1::Task {
    shell(id, "sleep 0.4", dependencies)
}

async fn status_of(noxd: &Noxd, workflow: &str) -> v1::GetWorkflowStatusResponse {
    let request = v1::GetWorkflowStatusRequest { workflow_id: workflow.into(), execution_id: String::new() };
    noxd.workflows().await.get_workflow_status(request).await.expect("there").into_inner()
}

fn told_by_noxctl(noxd: &Noxd, arguments: &[&str]) -> String {
    let output = noxctl(noxd, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_goes_by_count_at_first_and_then_by_how_long_tasks_took_whatever_restarts_between() {
    // S-VIEW-1
    let mut noxd = Noxd::start().await;
    let open = noxd.path("gate");
    noxd.create("w", vec![shell("quick", "true", &[]), slow("slow", &["quick"]), gate("last", &open, &["slow"])]).await;

    let first = noxd.execute("w").await;
    noxd.task_becomes(&first, "last", TaskStatus::Running).await;
    let seen = noxd.execution(&first).await;
    assert_eq!((seen.estimate_basis(), seen.estimated_from), (EstimateBasis::Count, 0));
    assert!((seen.progress - 66.6).abs() < 0.1 && seen.eta.is_some(), "two of three: {seen:?}");
    std::fs::write(&open, "").expect("the gate opens");
    let over = noxd.ended(&first).await;
    assert!((over.progress - 100.0).abs() < f64::EPSILON && over.eta.is_none());
    assert_eq!(over.estimate_basis(), EstimateBasis::Unspecified);

    noxd.kill_now();
    noxd.start_again().await;
    std::fs::remove_file(&open).expect("the gate closes");
    let second = noxd.execute("w").await;
    noxd.task_becomes(&second, "slow", TaskStatus::Running).await;
    let seen = noxd.execution(&second).await;
    assert_eq!((seen.estimate_basis(), seen.estimated_from), (EstimateBasis::History, 1));
    assert!(seen.progress < 20.0, "the quick one is not a third of the work: {}", seen.progress);
    assert!(seen.eta.is_some());
    // What ends meanwhile changes nothing for one that runs, nor does a restart.
    noxd.task_becomes(&second, "last", TaskStatus::Running).await;
    let before = noxd.execution(&second).await.progress;
    noxd.kill_now();
    noxd.start_again().await;
    let seen = noxd.execution(&second).await;
    assert!(seen.progress >= before && seen.progress <= 99.0, "{} after {before}", seen.progress);
    assert_eq!((seen.estimate_basis(), seen.estimated_from), (EstimateBasis::History, 1));

    let listed = noxd.executions().await.list_executions(v1::ListExecutionsRequest::default()).await.expect("listed");
    let listed = listed.into_inner().executions;
    assert_eq!((listed[0].id.as_str(), listed[0].estimated_from), (second.as_str(), 1));
    let status = status_of(&noxd, "w").await;
    assert_eq!((status.progress, status.estimate_basis()), (seen.progress, EstimateBasis::History));
    let told = told_by_noxctl(&noxd, &["workflow", "status", "w"]);
    assert!(told.contains("%, by how long tasks took in 1 earlier execution\n"), "{told}");
    assert!(told_by_noxctl(&noxd, &["execution", "show", &second]).contains("expected "), "it says when");
    std::fs::write(&open, "").expect("the gate opens");
    assert!((noxd.ended(&second).await.progress - 100.0).abs() < f64::EPSILON);
    let told = told_by_noxctl(&noxd, &["workflow", "status", "w"]);
    assert!(told.contains("COMPLETED") && !told.contains("progress"), "{told}");

    // Another version has other tasks, and knows nothing of these.
    let update = v1::Workflow { id: "w".into(), tasks: vec![slow("slow", &[])], ..v1::Workflow::default() };
    let update = v1::UpdateWorkflowRequest { workflow: Some(update), ..Default::default() };
    noxd.workflows().await.update_workflow(update).await.expect("updated");
    let third = noxd.execute("w").await;
    let events = noxd.watch_to_end(&third, 0).await;
    let Some(v1::event::Kind::ExecutionStarted(started)) = &events[0].kind else { panic!("{events:?}") };
    assert_eq!(started.estimated_from, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_how_far_it_is_between_events_and_never_less_than_before() {
    // S-VIEW-1, S-VIEW-2
    let noxd = Noxd::start().await;
    let retried = v1::Task {
        retry_config: Some(v1::RetryConfig { max_attempts: 2, ..v1::RetryConfig::default() }),
        ..shell("again", "if [ -e tried ]; then exit 0; fi; touch tried; exit 3", &["a"])
    };
    noxd.create("w", vec![slow("a", &[]), retried, slow("b", &["again"])]).await;
    noxd.ended(&noxd.execute("w").await).await;
    let id = noxd.execute("w").await;
    let request = v1::WatchExecutionRequest { execution_id: id.clone(), after_revision: Some(0), with_progress: true };
    let mut stream = noxd.executions().await.watch_execution(request).await.expect("watched").into_inner();
    let mut far = Vec::new();
    let (mut revision, mut ended) = (0, false);
    let watched = async {
        while let Some(message) = stream.next().await {
            let message = message.expect("no error");
            assert!(message.revision >= revision, "a place to resume from");
            revision = message.revision;
            far.extend(message.progress.map(|progress| progress.progress));
            ended |= message.event.and_then(|event| event.kind).is_some_and(|kind| is_end(&kind));
        }
    };
    tokio::time::timeout(DEADLINE, watched).await.expect("it ends");
    assert!(ended && !far.is_empty(), "{far:?}");
    assert!(far.is_sorted() && far.iter().all(|percent| *percent <= 100.0), "it never falls: {far:?}");
    assert!((noxd.execution(&id).await.progress - 100.0).abs() < f64::EPSILON);
}
