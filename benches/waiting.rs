//! What executions cost that only wait: many of them, each for a person's answer.
//!
//! `cargo bench --bench waiting` starts them on a real noxd, looks at its memory, kills it with SIGKILL, starts it again
//! and measures until it answers; `-- --executions 50000` changes how many. See docs/performance.md.

#[path = "load/started.rs"]
mod started;

use std::{fs, time::Instant};

use noxd::{cli::connect, proto::v1};
use tonic::transport::Channel;

use started::start;

/// Executions that are started in one call.
const AT_ONCE: usize = 1_000;

fn main() {
    let mut executions = 200_000;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--executions" {
            executions = arguments.next().and_then(|text| text.parse().ok()).expect("a number follows");
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(executions));
}

async fn measure(executions: usize) {
    let directory = tempfile::Builder::new().prefix("noxd-waiting-").tempdir_in(".").expect("a directory on this disk");
    let (mut noxd, channel, _) = start(directory.path()).await;
    create(&channel).await;
    let empty = resident_kib(noxd.id());
    let began = Instant::now();
    let mut last = String::new();
    for _ in 0..executions.div_ceil(AT_ONCE) {
        let one = v1::ExecuteWorkflowRequest { workflow_id: "ask".into(), ..Default::default() };
        let request = v1::BatchExecuteWorkflowsRequest { requests: vec![one; AT_ONCE] };
        let answer = connect::workflows(channel.clone()).batch_execute_workflows(request).await.expect("started");
        let result = answer.into_inner().results.pop().and_then(|result| result.result);
        if let Some(v1::batch_execute_result::Result::Execution(execution)) = result {
            last = execution.id;
        }
    }
    println!("{executions} executions wait after {:.1} s", began.elapsed().as_secs_f64());
    let full = resident_kib(noxd.id());
    let each = (full.saturating_sub(empty) * 1_024) as f64 / executions as f64;
    println!("resident: {empty} KiB empty, {full} KiB with them: {each:.0} bytes each");

    noxd.kill().expect("SIGKILL");
    noxd.wait().expect("it can be waited for");
    let (mut noxd, channel, ready) = start(directory.path()).await;
    println!("ready again {:.2} s after a SIGKILL", ready.as_secs_f64());
    let again = resident_kib(noxd.id());
    println!("resident after the start: {again} KiB: {:.0} bytes each", (again * 1_024) as f64 / executions as f64);

    let began = Instant::now();
    let request =
        v1::ResolveApprovalRequest { execution_id: last, task_id: "ask".into(), approved: true, ..Default::default() };
    let answer = connect::executions(channel).resolve_approval(request).await.expect("taken").into_inner();
    assert_eq!(answer.execution.expect("an execution").status(), v1::WorkflowStatus::Completed);
    println!("one answered in {:.1} ms", began.elapsed().as_secs_f64() * 1e3);
    noxd.kill().expect("it can be killed");
    noxd.wait().expect("it can be waited for");
}

async fn create(channel: &Channel) {
    let task = v1::Task {
        id: "ask".into(),
        action: Some(v1::task::Action::Approval(v1::ApprovalAction::default())),
        ..v1::Task::default()
    };
    let workflow = v1::Workflow { id: "ask".into(), tasks: vec![task], ..v1::Workflow::default() };
    let request = v1::CreateWorkflowRequest { workflow: Some(workflow), ..Default::default() };
    connect::workflows(channel.clone()).create_workflow(request).await.expect("stored");
}

fn resident_kib(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}
