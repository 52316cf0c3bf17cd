//! What schedules cost: many of them idle, and many that are due at once.
//!
//! `cargo bench --bench schedules` stores idle ones on a real noxd, whose next times are hours away, looks at its memory
//! and, for a minute, at its CPU time, kills it with SIGKILL and measures until it answers again. Then it stores others
//! that are all due within ten milliseconds, and measures until each has started its execution. `-- --idle N --due N
//! --seconds N` changes how many, and how long it looks. See docs/performance.md.

#[path = "load/process.rs"]
mod process;
#[path = "load/started.rs"]
mod started;

use std::{
    collections::HashSet,
    fs,
    io::Write as _,
    path::Path,
    process::Child,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use noxd::{
    cli::connect,
    proto::v1::{self, event::Kind},
};
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;

use started::start;

/// Calls that are open at once while schedules are stored: there is no batch of them.
const AT_ONCE: usize = 128;
/// All that are due at once come within so many microseconds, each at one of its own.
const WITHIN_MICROS: usize = 10_000;

/// How much is measured.
struct Plan {
    idle: usize,
    due: usize,
    seconds: u64,
}

fn main() {
    let mut plan = Plan { idle: 100_000, due: 10_000, seconds: 60 };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse::<u64>().ok()).expect("a number follows");
        match argument.as_str() {
            "--idle" => plan.idle = usize::try_from(number()).expect("it fits"),
            "--due" => plan.due = usize::try_from(number()).expect("it fits").min(WITHIN_MICROS),
            "--seconds" => plan.seconds = number(),
            // What cargo adds by itself.
            _ => {}
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    println!("load of the machine before: {}", process::load());
    runtime.block_on(idle(&plan));
    runtime.block_on(due_at_once(&plan));
    println!("load of the machine after: {}", process::load());
}

async fn idle(plan: &Plan) {
    let directory =
        tempfile::Builder::new().prefix("noxd-schedules-").tempdir_in(".").expect("a directory on this disk");
    let (mut noxd, channel, _) = start(directory.path()).await;
    create_workflow(&channel).await;
    let empty = bytes(noxd.id());
    let first = now_micros() + 6 * 3_600 * 1_000_000;
    let began = Instant::now();
    store(&channel, plan.idle, |at| {
        let every = pbjson_types::Duration { seconds: 3_600, nanos: 0 };
        v1::Schedule {
            schedule_type: Some(v1::schedule::ScheduleType::Interval(v1::IntervalSchedule { interval: Some(every) })),
            start_at: Some(moment(first + at as i64 * 1_000)),
            ..v1::Schedule::default()
        }
    })
    .await;
    let took = began.elapsed().as_secs_f64();
    println!("{} idle schedules stored in {took:.1} s, {:.0}/s", plan.idle, plan.idle as f64 / took);
    each("resident with them", bytes(noxd.id()).saturating_sub(empty), plan.idle);
    look(&noxd, plan, "after they were stored").await;

    noxd.kill().expect("SIGKILL");
    noxd.wait().expect("it can be waited for");
    let (mut noxd, channel, ready) = start(directory.path()).await;
    println!("ready again {:.2} s after a SIGKILL", ready.as_secs_f64());
    each("resident after that start", bytes(noxd.id()).saturating_sub(empty), plan.idle);
    look(&noxd, plan, "after the restart").await;
    assert_eq!(stored(&channel).await, plan.idle, "each is there after the SIGKILL");
    println!("on the disk: {:.1} MB", process::disk_bytes(directory.path()) as f64 / 1e6);
    noxd.kill().expect("it can be killed");
    noxd.wait().expect("it can be waited for");
}

/// CPU time while nothing happens.
async fn look(noxd: &Child, plan: &Plan, when: &str) {
    // The merge of what was written before is no part of it.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (began, before) = (Instant::now(), process::cpu_micros(noxd.id()));
    tokio::time::sleep(Duration::from_secs(plan.seconds)).await;
    let used = process::cpu_micros(noxd.id()) - before;
    let percent = used as f64 * 100.0 / began.elapsed().as_micros() as f64;
    println!(
        "idle {when}: {percent:.3} % of a core in {} s; of the 1 % that is the aim: ratio {percent:.2}",
        plan.seconds
    );
}

async fn due_at_once(plan: &Plan) {
    let directory =
        tempfile::Builder::new().prefix("noxd-schedules-").tempdir_in(".").expect("a directory on this disk");
    let sync = raw_sync_micros(directory.path());
    let (mut noxd, channel, _) = start(directory.path()).await;
    create_workflow(&channel).await;
    // So far ahead that all are stored by then, on a busy machine too.
    let due = now_micros() + 10_000_000 + plan.due as i64 * 2_000;
    // In another order than that of their times.
    let at_micros = |at: usize| due + (at * 7_919 % WITHIN_MICROS) as i64;
    store(&channel, plan.due, |at| {
        let once = v1::OnceSchedule { execute_at: Some(moment(at_micros(at))) };
        v1::Schedule { schedule_type: Some(v1::schedule::ScheduleType::Once(once)), ..v1::Schedule::default() }
    })
    .await;
    assert!(now_micros() < due, "void: they were due before they were stored");
    let before = bytes(noxd.id());
    let told = watch(&channel, plan.due).await;
    let heard = (now_micros() - due) as f64 / 1e6;
    assert!(told.nominal.is_sorted_by(|a, b| a < b), "they fire in the order of their times, none twice");
    assert_eq!(told.nominal.len(), plan.due, "each fires once");
    let seconds = |at: i64| (at - due) as f64 / 1e6;
    let (fired, ended) = (seconds(told.last_started), seconds(told.last_ended));
    println!("{} schedules due within {} ms, in the order of their times", plan.due, WITHIN_MICROS / 1_000);
    println!(
        "last execution started {fired:.3} s after it was due, {:.0}/s; all ended and heard of {heard:.3} s after",
        plan.due as f64 / fired
    );
    println!("last execution ended {ended:.3} s after it was due");
    let per = fired * 1e6 / plan.due as f64;
    println!("raw append+fdatasync {sync:.0} us; a firing {per:.0} us: ratio {:.2}", per / sync);
    println!(
        "resident: {:.0} MB before, at most {:.0} MB",
        before as f64 / 1e6,
        process::megabytes(noxd.id(), "VmHWM")
    );
    noxd.kill().expect("it can be killed");
    noxd.wait().expect("it can be waited for");
}

/// What was told of the schedules.
#[derive(Default)]
struct Told {
    nominal: Vec<i64>,
    last_started: i64,
    last_ended: i64,
}

/// Listens until so many executions have ended.
async fn watch(channel: &Channel, count: usize) -> Told {
    let (mut told, mut ended, mut seen) = (Told::default(), HashSet::new(), 0);
    while ended.len() < count {
        let request = v1::WatchEventsRequest { after_revision: Some(seen), ..Default::default() };
        let mut stream =
            connect::executions(channel.clone()).watch_events(request).await.expect("watched").into_inner();
        // Whoever is too slow is told so, and goes on from where he was.
        while let Some(Ok(message)) = stream.next().await {
            seen = message.revision;
            let Some(event) = message.event else { continue };
            let time = event.time.as_ref().map(micros).unwrap_or_default();
            match event.kind {
                Some(Kind::ScheduleFired(fired)) => told.nominal.extend(fired.time.as_ref().map(micros)),
                Some(Kind::ExecutionStarted(_)) => told.last_started = time,
                Some(Kind::ExecutionCompleted(_)) => {
                    told.last_ended = time;
                    ended.insert(event.execution_id);
                }
                _ => {}
            }
            if ended.len() == count {
                break;
            }
        }
    }
    told
}

async fn create_workflow(channel: &Channel) {
    let action = Some(v1::task::Action::Noop(v1::NoopAction::default()));
    let task = v1::Task { id: "t".into(), action, ..v1::Task::default() };
    let workflow = v1::Workflow { id: "w".into(), tasks: vec![task], ..v1::Workflow::default() };
    let request = v1::CreateWorkflowRequest { workflow: Some(workflow), ..Default::default() };
    connect::workflows(channel.clone()).create_workflow(request).await.expect("stored");
}

async fn store(channel: &Channel, count: usize, of: impl Fn(usize) -> v1::Schedule) {
    let mut calls = JoinSet::new();
    for at in 0..count {
        if calls.len() >= AT_ONCE {
            calls.join_next().await.expect("one").expect("no panic");
        }
        let schedule = v1::ScheduledWorkflow {
            id: format!("s{at:06}"),
            workflow_id: "w".into(),
            schedule: Some(of(at)),
            ..Default::default()
        };
        let request = v1::CreateScheduleRequest { schedule: Some(schedule), ..Default::default() };
        let mut client = connect::schedules(channel.clone());
        calls.spawn(async move {
            client.create_schedule(request).await.expect("stored");
        });
    }
    calls.join_all().await;
}

/// How many there are, asked page by page.
async fn stored(channel: &Channel) -> usize {
    let mut client = connect::schedules(channel.clone());
    let mut request = v1::ListSchedulesRequest { page_size: 1_000, ..Default::default() };
    let mut ids = HashSet::new();
    loop {
        let page = client.list_schedules(request.clone()).await.expect("listed").into_inner();
        ids.extend(page.schedules.into_iter().map(|schedule| schedule.id));
        if page.next_page_token.is_empty() {
            return ids.len();
        }
        request.page_token = page.next_page_token;
    }
}

/// The median of appends of 512 bytes, each with its own fdatasync, in microseconds.
fn raw_sync_micros(directory: &Path) -> f64 {
    const ROUNDS: usize = 300;
    let mut file = fs::File::create(directory.join("raw")).expect("a file");
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            file.write_all(&[1; 512]).expect("written");
            file.sync_data().expect("synced");
            began.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

fn each(what: &str, bytes: u64, count: usize) {
    println!("{what}: {bytes} bytes more than empty, {:.0} bytes each", bytes as f64 / count.max(1) as f64);
}

fn bytes(pid: u32) -> u64 {
    (process::megabytes(pid, "VmRSS") * 1e6) as u64
}

fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_micros()).expect("it fits")
}

fn moment(micros: i64) -> pbjson_types::Timestamp {
    pbjson_types::Timestamp { seconds: micros / 1_000_000, nanos: (micros % 1_000_000 * 1_000) as i32 }
}

fn micros(time: &pbjson_types::Timestamp) -> i64 {
    time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000
}
