//! A load driver from outside: a real noxd, called over its Unix socket, beside a raw append+fdatasync loop on the same
//! disk in the same run.
//!
//! `cargo bench --bench load` measures, `-- --seconds 5 --callers 64` changes how. Figures are ratios first: absolute
//! ones depend on the machine and on what else it does. See docs/performance.md.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use noxd::{cli::connect, proto::v1};
use tonic::transport::Channel;

/// How it measures.
struct Plan {
    seconds: u64,
    callers: usize,
}

fn main() {
    let mut plan = Plan { seconds: 5, callers: 64 };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let number = |next: Option<String>| next.and_then(|text| text.parse().ok()).expect("a number follows");
        match argument.as_str() {
            "--seconds" => plan.seconds = number(arguments.next()),
            "--callers" => plan.callers = usize::try_from(number(arguments.next())).expect("small"),
            // What cargo adds by itself.
            _ => {}
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(&plan));
}

async fn measure(plan: &Plan) {
    let directory = tempfile::Builder::new().prefix("noxd-load-").tempdir_in(".").expect("a directory on this disk");
    let sync = raw_sync(directory.path());
    println!("raw append+fdatasync of 512 B:   p50 {:>7.0} us   {:>7.0}/s", micros(&sync), 1e6 / micros(&sync));
    let mut noxd = start(directory.path()).await;
    let socket = directory.path().join("noxd.sock");
    let channel = connect::socket_channel(&socket).await.expect("it answers");
    create(&channel).await;

    let one = closed_loop(&socket, 1, plan.seconds, Call::Waiting).await;
    let commits = 4.0;
    println!(
        "one at a time, one call that waits: p50 {:>6.0} us   p99 {:>6.0} us   {:.2} x its {commits} syncs",
        micros(&one.0),
        one.0.value_at_quantile(0.99) as f64,
        micros(&one.0) / (commits * micros(&sync)),
    );
    for (call, words) in [(Call::Waiting, "one call that waits"), (Call::StartThenAsk, "two unary calls")] {
        let many = closed_loop(&socket, plan.callers, plan.seconds, call).await;
        println!(
            "{} callers, {words}: {:>7.0} workflows/s   p50 {:>6.0} us   p99 {:>6.0} us",
            plan.callers,
            many.1,
            micros(&many.0),
            many.0.value_at_quantile(0.99) as f64,
        );
    }
    let batch = batches(&channel, plan.seconds).await;
    println!("batches of 1,000: {batch:>7.0} workflows/s");
    println!("noxd: {}", usage(noxd.id()));
    noxd.kill().expect("it can be killed");
    noxd.wait().expect("it can be waited for");
}

/// How a workflow is asked for.
#[derive(Clone, Copy)]
enum Call {
    /// One call that is answered at the end.
    Waiting,
    /// One that starts it, one that asks how it went.
    StartThenAsk,
}

async fn closed_loop(socket: &Path, callers: usize, seconds: u64, call: Call) -> (Histogram<u64>, f64) {
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut tasks = Vec::new();
    // A connection carries 128 streams: some connections share the callers.
    let mut channels = Vec::new();
    for _ in 0..callers.div_ceil(16) {
        channels.push(connect::socket_channel(socket).await.expect("it answers"));
    }
    for caller in 0..callers {
        let channel = channels[caller % channels.len()].clone();
        tasks.push(tokio::spawn(async move {
            let mut times = Histogram::<u64>::new(3).expect("a histogram");
            while Instant::now() < until {
                let began = Instant::now();
                one_workflow(&channel, call).await;
                times.record(u64::try_from(began.elapsed().as_micros()).expect("small")).expect("in range");
            }
            times
        }));
    }
    let mut all = Histogram::<u64>::new(3).expect("a histogram");
    for task in tasks {
        all.add(task.await.expect("a caller ends")).expect("the same range");
    }
    let rate = all.len() as f64 / seconds as f64;
    (all, rate)
}

async fn one_workflow(channel: &Channel, call: Call) {
    let wait = matches!(call, Call::Waiting).then_some(pbjson_types::Duration { seconds: 30, nanos: 0 });
    let request = v1::ExecuteWorkflowRequest { workflow_id: "three".into(), wait, ..Default::default() };
    let mut workflows = connect::workflows(channel.clone());
    let execution = workflows.execute_workflow(request).await.expect("started").into_inner().execution;
    let execution = execution.expect("an execution");
    if let Call::StartThenAsk = call {
        let request = v1::GetExecutionRequest { execution_id: execution.id };
        connect::executions(channel.clone()).get_execution(request).await.expect("there");
    } else {
        assert_eq!(execution.status(), v1::WorkflowStatus::Completed);
    }
}

async fn batches(channel: &Channel, seconds: u64) -> f64 {
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < Duration::from_secs(seconds) {
        let one = v1::ExecuteWorkflowRequest { workflow_id: "three".into(), ..Default::default() };
        let request = v1::BatchExecuteWorkflowsRequest { requests: vec![one; 1_000] };
        connect::workflows(channel.clone()).batch_execute_workflows(request).await.expect("started");
        count += 1_000;
    }
    // Until the last has ended, nothing was completed.
    let mut executions = connect::executions(channel.clone());
    loop {
        let request = v1::ListExecutionsRequest {
            page_size: 1,
            statuses: vec![v1::WorkflowStatus::Running as i32],
            ..Default::default()
        };
        if executions.list_executions(request).await.expect("listed").into_inner().executions.is_empty() {
            return f64::from(count) / began.elapsed().as_secs_f64();
        }
    }
}

async fn create(channel: &Channel) {
    let task = |id: &str, dependencies: &[&str]| v1::Task {
        id: id.into(),
        dependencies: dependencies.iter().map(ToString::to_string).collect(),
        action: Some(v1::task::Action::Noop(v1::NoopAction::default())),
        ..v1::Task::default()
    };
    let tasks = vec![task("a", &[]), task("b", &["a"]), task("c", &["b"])];
    let workflow = v1::Workflow { id: "three".into(), tasks, ..v1::Workflow::default() };
    let request = v1::CreateWorkflowRequest { workflow: Some(workflow), ..Default::default() };
    connect::workflows(channel.clone()).create_workflow(request).await.expect("stored");
}

/// What the disk can do: append and sync, one after the other, into space that is allocated already.
fn raw_sync(directory: &Path) -> Histogram<u64> {
    const BLOCK: usize = 512;
    const SYNCS: usize = 2_000;
    let path = directory.join("raw");
    fs::write(&path, vec![0; BLOCK * SYNCS]).expect("written");
    let mut file = fs::File::options().write(true).open(&path).expect("opened");
    file.sync_all().expect("synced");
    let mut times = Histogram::<u64>::new(3).expect("a histogram");
    for _ in 0..SYNCS {
        let began = Instant::now();
        file.write_all(&[7; BLOCK]).expect("written");
        file.sync_data().expect("synced");
        times.record(u64::try_from(began.elapsed().as_micros()).expect("small")).expect("in range");
    }
    times
}

async fn start(directory: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_noxd"));
    command.args(["serve", "--listen", "none", "--data-dir"]).arg(directory.join("data"));
    command.arg("--socket").arg(directory.join("noxd.sock")).env("NOXD_LOG", "warn").stdout(Stdio::null());
    let child = command.spawn().expect("noxd starts");
    while tokio::net::UnixStream::connect(directory.join("noxd.sock")).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    child
}

fn micros(times: &Histogram<u64>) -> f64 {
    times.value_at_quantile(0.5) as f64
}

/// Memory and CPU time of a process.
fn usage(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").trim().to_string();
    format!("resident {}, at most {}", line("VmRSS:"), line("VmHWM:"))
}
