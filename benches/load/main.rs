//! A load driver from outside: a real noxd, called over its Unix socket, beside a raw append+fdatasync loop on the same
//! disk in the same run.
//!
//! `cargo bench --bench load` measures; `-- --seconds 5 --callers 64 --connections 2 --only two` changes how. Figures are
//! ratios first: absolute ones depend on the machine and on what else it does. See docs/performance.md.

mod client;
mod process;

use std::{
    fs,
    future::Future,
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use client::{Call, Connection, framed};
use hdrhistogram::Histogram;
use noxd::proto::v1;
use tokio::task::JoinSet;

/// How it measures.
struct Plan {
    seconds: u64,
    callers: usize,
    connections: usize,
    /// Only the phase whose name begins so.
    only: String,
}

fn main() {
    let mut plan = Plan { seconds: 5, callers: 64, connections: 2, only: String::new() };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse().ok()).expect("a number follows");
        match argument.as_str() {
            "--seconds" => plan.seconds = number(),
            "--callers" => plan.callers = usize::try_from(number()).expect("small"),
            "--connections" => plan.connections = usize::try_from(number()).expect("small"),
            "--only" => plan.only = arguments.next().expect("the name of a phase follows"),
            // What cargo adds by itself.
            _ => {}
        }
    }
    // One thread: the driver shall not take more of the machine than it needs.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(tokio::task::LocalSet::new().run_until(measure(&plan)));
}

async fn measure(plan: &Plan) {
    let directory = tempfile::Builder::new().prefix("noxd-load-").tempdir_in(".").expect("a directory on this disk");
    println!("load of the machine before: {}", process::load());
    let sync = raw_sync(directory.path());
    println!("raw append+fdatasync of 512 B: p50 {:.0} us, {:.0}/s", p50(&sync), 1e6 / p50(&sync));
    let mut noxd = start(directory.path()).await;
    println!("noxd at rest: {:.0} MB resident", process::megabytes(noxd.id(), "VmRSS"));
    let driver = Rc::new(Driver::new(&directory.path().join("noxd.sock"), plan.connections, noxd.id()).await);

    if plan.wants("one") {
        let one = closed_loop(&driver, 1, plan.seconds, Shape::Two).await;
        let (commits, latency) = (4.0, p50(&one.times));
        println!(
            "one at a time, two unary calls: {one}; p50 is {:.2} x its {commits} syncs",
            latency / commits / p50(&sync)
        );
        println!("one at a time, one call that waits: {}", closed_loop(&driver, 1, plan.seconds, Shape::Waiting).await);
    }
    let mut saturation = 0.0;
    if plan.wants("two") {
        let two = closed_loop(&driver, plan.callers, plan.seconds, Shape::Two).await;
        saturation = two.rate();
        println!("{} callers, two unary calls: {two}", plan.callers);
    }
    if plan.wants("waiting") {
        let waiting = closed_loop(&driver, plan.callers, plan.seconds, Shape::Waiting).await;
        println!("{} callers, one call that waits: {waiting}", plan.callers);
    }
    if plan.wants("batches") {
        println!("batches of 1,000: {}", batches(&driver, plan.seconds).await);
    }
    if plan.wants("open") && saturation > 0.0 {
        for share in [0.25, 0.5, 0.75] {
            let rate = saturation * share;
            let open = open_loop(&driver, rate, plan.seconds).await;
            println!("open loop at {rate:.0} workflows/s ({:.0} % of it), two unary calls: {open}", share * 100.0);
        }
    }
    let memory = |name| process::megabytes(noxd.id(), name);
    println!("noxd after it: {:.0} MB resident, {:.0} MB at most", memory("VmRSS"), memory("VmHWM"));
    println!("on the disk: {:.0} MB", process::disk_bytes(&directory.path().join("data")) as f64 / 1e6);
    println!("load of the machine after: {}", process::load());
    noxd.kill().expect("it can be killed");
    noxd.wait().expect("it can be waited for");
}

impl Plan {
    fn wants(&self, phase: &str) -> bool {
        self.only.is_empty() || self.only == phase
    }
}

/// How a workflow is asked for. All of them see it COMPLETED.
#[derive(Clone, Copy)]
enum Shape {
    /// One call that is answered at the end.
    Waiting,
    /// One that starts it and is answered at once, and one that is answered at its end.
    Two,
}

/// What a phase came to.
struct Outcome {
    times: Histogram<u64>,
    completed: u64,
    seconds: f64,
    noxd_micros: u64,
    driver_micros: u64,
    /// Of noxd, right after it.
    resident_megabytes: f64,
}

impl Outcome {
    fn rate(&self) -> f64 {
        self.completed as f64 / self.seconds
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let each = |micros: u64| micros as f64 / self.completed.max(1) as f64;
        write!(f, "{:.0} workflows/s", self.rate())?;
        if !self.times.is_empty() {
            let at = |quantile| self.times.value_at_quantile(quantile);
            write!(f, ", p50 {} us, p99 {} us, p99.9 {} us", at(0.5), at(0.99), at(0.999))?;
        }
        let (noxd, driver) = (each(self.noxd_micros), each(self.driver_micros));
        write!(
            f,
            "; CPU per workflow: noxd {noxd:.0} us, driver {driver:.0} us; noxd has {:.0} MB",
            self.resident_megabytes
        )
    }
}

/// Connections, and messages that are always the same.
struct Driver {
    connections: Vec<Connection>,
    pid: u32,
    execute: Call,
    get: Call,
    start: Bytes,
    start_and_wait: Bytes,
}

/// What is read of an answer; field numbers as in `nox.v1`.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(message, optional, tag = "1")]
    execution: Option<Brief>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Brief {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(enumeration = "v1::WorkflowStatus", tag = "4")]
    status: i32,
}

const PATIENCE: Option<pbjson_types::Duration> = Some(pbjson_types::Duration { seconds: 30, nanos: 0 });

impl Driver {
    /// Connects, and stores the workflow that is run.
    async fn new(socket: &Path, connections: usize, pid: u32) -> Self {
        let mut open = Vec::new();
        for _ in 0..connections {
            open.push(Connection::open(socket).await);
        }
        let request =
            |wait| framed(&v1::ExecuteWorkflowRequest { workflow_id: "three".into(), wait, ..Default::default() });
        let create = Call::new("WorkflowService", "CreateWorkflow");
        let _: v1::CreateWorkflowResponse = open[0].call(&create, framed(&definition())).await;
        Self {
            connections: open,
            pid,
            execute: Call::new("WorkflowService", "ExecuteWorkflow"),
            get: Call::new("ExecutionService", "GetExecution"),
            start: request(None),
            start_and_wait: request(PATIENCE),
        }
    }

    async fn workflow(&self, caller: usize, shape: Shape) {
        let connection = &self.connections[caller % self.connections.len()];
        let ended = match shape {
            Shape::Waiting => connection.call::<Answer>(&self.execute, self.start_and_wait.clone()).await,
            Shape::Two => {
                let started = connection.call::<Answer>(&self.execute, self.start.clone()).await;
                let execution_id = started.execution.expect("an execution").id;
                let request = v1::GetExecutionRequest { execution_id, wait: PATIENCE };
                connection.call::<Answer>(&self.get, framed(&request)).await
            }
        };
        assert_eq!(ended.execution.expect("an execution").status(), v1::WorkflowStatus::Completed);
    }

    /// Measures what a phase costs, which gives what its workflows took, and how many there were.
    async fn measured(&self, phase: impl Future<Output = (Histogram<u64>, u64)>) -> Outcome {
        let (began, noxd, driver) =
            (Instant::now(), process::cpu_micros(self.pid), process::cpu_micros(std::process::id()));
        let (times, completed) = phase.await;
        Outcome {
            times,
            completed,
            seconds: began.elapsed().as_secs_f64(),
            noxd_micros: process::cpu_micros(self.pid) - noxd,
            driver_micros: process::cpu_micros(std::process::id()) - driver,
            resident_megabytes: process::megabytes(self.pid, "VmRSS"),
        }
    }
}

/// Callers of which each begins its next workflow when its last one has ended.
async fn closed_loop(driver: &Rc<Driver>, callers: usize, seconds: u64, shape: Shape) -> Outcome {
    let all = async {
        let until = Instant::now() + Duration::from_secs(seconds);
        let mut running = JoinSet::new();
        for caller in 0..callers {
            let driver = Rc::clone(driver);
            running.spawn_local(async move {
                let mut times = histogram();
                while Instant::now() < until {
                    let began = Instant::now();
                    driver.workflow(caller, shape).await;
                    times.record(micros_since(began)).expect("in range");
                }
                times
            });
        }
        let mut all = histogram();
        while let Some(times) = running.join_next().await {
            all.add(times.expect("a caller ends")).expect("the same range");
        }
        let completed = all.len();
        (all, completed)
    };
    driver.measured(all).await
}

/// Workflows that begin at fixed times, whether those before have ended or not. Each counts from when it was due, so a
/// noxd that stands still is not spared what came due meanwhile (coordinated omission).
async fn open_loop(driver: &Rc<Driver>, rate: f64, seconds: u64) -> Outcome {
    let all = async {
        let began = Instant::now();
        let count = (rate * seconds as f64) as usize;
        let mut running = JoinSet::new();
        let mut begun = 0;
        while begun < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let due = ((began.elapsed().as_secs_f64() * rate) as usize).min(count);
            for number in begun..due {
                let driver = Rc::clone(driver);
                let due = began + Duration::from_secs_f64(number as f64 / rate);
                running.spawn_local(async move {
                    driver.workflow(number, Shape::Two).await;
                    micros_since(due)
                });
            }
            begun = due;
        }
        let mut times = histogram();
        while let Some(micros) = running.join_next().await {
            times.record(micros.expect("a workflow ends")).expect("in range");
        }
        let completed = times.len();
        (times, completed)
    };
    driver.measured(all).await
}

/// Batches one after the other, until the last execution of them has ended: before, nothing was completed.
async fn batches(driver: &Rc<Driver>, seconds: u64) -> Outcome {
    let connection = &driver.connections[0];
    let one = v1::ExecuteWorkflowRequest { workflow_id: "three".into(), ..Default::default() };
    let batch = framed(&v1::BatchExecuteWorkflowsRequest { requests: vec![one; 1_000] });
    let start = Call::new("WorkflowService", "BatchExecuteWorkflows");
    let info = Call::new("SystemService", "GetServerInfo");
    let all = async {
        let (began, mut completed) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(seconds) {
            let answer: v1::BatchExecuteWorkflowsResponse = connection.call(&start, batch.clone()).await;
            completed += answer.results.len() as u64;
        }
        loop {
            let server: v1::GetServerInfoResponse = connection.call(&info, framed(&v1::GetServerInfoRequest {})).await;
            if server.active_executions == 0 {
                return (histogram(), completed);
            }
        }
    };
    driver.measured(all).await
}

/// Three tasks that do nothing, in a chain.
fn definition() -> v1::CreateWorkflowRequest {
    let task = |id: &str, dependencies: &[&str]| v1::Task {
        id: id.into(),
        dependencies: dependencies.iter().map(ToString::to_string).collect(),
        action: Some(v1::task::Action::Noop(v1::NoopAction::default())),
        ..v1::Task::default()
    };
    let tasks = vec![task("a", &[]), task("b", &["a"]), task("c", &["b"])];
    let workflow = v1::Workflow { id: "three".into(), tasks, ..v1::Workflow::default() };
    v1::CreateWorkflowRequest { workflow: Some(workflow), ..Default::default() }
}

/// What the disk can do: append and sync, one after the other, into space that is allocated already.
fn raw_sync(directory: &Path) -> Histogram<u64> {
    const BLOCK: usize = 512;
    const SYNCS: usize = 2_000;
    let path = directory.join("raw");
    fs::write(&path, vec![0; BLOCK * SYNCS]).expect("written");
    let mut file = fs::File::options().write(true).open(&path).expect("opened");
    file.sync_all().expect("synced");
    let mut times = histogram();
    for _ in 0..SYNCS {
        let began = Instant::now();
        file.write_all(&[7; BLOCK]).expect("written");
        file.sync_data().expect("synced");
        times.record(micros_since(began)).expect("in range");
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

fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits")
}

fn micros_since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_micros()).expect("small")
}

fn p50(times: &Histogram<u64>) -> f64 {
    times.value_at_quantile(0.5) as f64
}
