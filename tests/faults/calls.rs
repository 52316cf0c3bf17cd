//! Stories of system calls: the syncs are made, and one that fails ends all acknowledgements (S-SAFE-1, S-SAFE-5).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use noxd::proto::v1;

use crate::{
    can_trace,
    daemon::{Daemon, tail},
    load::{self, Load, SharedBook},
    number,
    support::{noop, shell},
    tell,
};

/// A call as strace wrote it.
struct Call<'a> {
    /// Seconds since 1970.
    at: f64,
    words: &'a str,
}

fn calls<'a>(trace: &'a str, name: &'a str) -> impl Iterator<Item = Call<'a>> {
    trace.lines().filter_map(move |line| {
        let (_, rest) = line.split_once(' ')?;
        let (at, words) = rest.trim_start().split_once(' ')?;
        words.starts_with(name).then_some(Call { at: at.parse().ok()?, words })
    })
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledgement_follows_a_sync_of_the_journal() {
    const STORY: &str = "every_acknowledgement_follows_a_sync";
    const GROUPS: usize = 60;
    if !can_trace(STORY) {
        return;
    }
    let mut daemon = Daemon::new();
    daemon.traced(&["-y", "-e", "trace=fdatasync,fsync"]);
    daemon.start().await.expect("it serves");
    let mut spans = Vec::new();
    for at in 0..GROUPS {
        // One at a time, and nothing follows from it: each is a commit group of its own.
        let asked = SystemTime::now();
        load::create_with(&daemon, &format!("w{at}"), vec![noop("a", &[])]).await.expect("stored");
        spans.push((seconds(asked), seconds(SystemTime::now())));
    }
    assert_eq!(daemon.stop().await, Some(0));
    let trace = daemon.trace().await;
    // strace notes the time while the call waits to begin, so what it notes is before whatever follows from the call.
    let syncs: Vec<f64> =
        calls(&trace, "fdatasync(").filter(|call| call.words.contains(".segment>")).map(|call| call.at).collect();
    let synced = |span: &&(f64, f64)| syncs.iter().any(|at| (span.0..=span.1).contains(at));
    let with = spans.iter().filter(synced).count();
    assert_eq!(with, GROUPS, "S-SAFE-1: commit groups with a sync between question and answer");
    tell(&format!("{STORY}: {GROUPS} commit groups, {} syncs of the journal, each group has one", syncs.len()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_fails_with_eio_ends_noxd_and_nothing_is_lost() {
    fail("a_call_that_fails_with_eio", "EIO").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_fails_with_enospc_loses_nothing() {
    fail("a_call_that_fails_with_enospc", "ENOSPC").await;
}

/// The calls that fail, up to which one of a thread, and whether they are counted from when noxd serves.
const FAILING: [(&str, u64, bool); 5] = [
    ("fdatasync", 300, false),
    ("pwrite64", 300, false),
    ("fsync", 8, false),
    ("pwrite64", 40, true),
    ("fsync", 6, true),
];
/// How long noxd may take to end.
const LIMIT: Duration = Duration::from_secs(10);

/// A fault of one run.
struct Fault {
    call: &'static str,
    error: &'static str,
    when: u64,
    serving: bool,
}

impl Fault {
    fn options(&self) -> [String; 6] {
        let Self { call, error, when, .. } = self;
        let inject = format!("inject={call}:error={error}:when={when}");
        ["-y".into(), "--seccomp-bpf".into(), "-e".into(), format!("trace={call}"), "-e".into(), inject]
    }
}

#[derive(Default)]
struct Outcomes {
    refused: u32,
    ended: u32,
    went_on: u32,
    not_met: u32,
    acknowledged: usize,
    /// Seconds from the fault to the end.
    slowest: f64,
}

async fn fail(story: &str, error: &'static str) {
    if !can_trace(story) {
        return;
    }
    let runs = number("NOXD_FAULTS", 10);
    tell(&format!("{story}: again: NOXD_FAULTS={runs} cargo test --test faults {story}"));
    let (mut outcomes, mut broken) = (Outcomes::default(), Vec::new());
    let all: Vec<(&str, u64, bool)> =
        FAILING.iter().flat_map(|(call, most, serving)| (1..=*most).map(|when| (*call, when, *serving))).collect();
    for run in 0..runs {
        // So many of all, evenly: with 654 runs each of them.
        let at = (run * all.len() as u64 / runs.max(1)) % all.len() as u64;
        let (call, when, serving) = all[usize::try_from(at).expect("small")];
        let fault = Fault { call, error, when, serving };
        if let Err(promise) = fail_one(&fault, &mut outcomes).await {
            let since = if serving { ", counted from when it serves" } else { "" };
            let told = format!("{call} number {} fails with {error}{since}: {promise}", fault.when);
            tell(&format!("{story}: BROKEN: {told}"));
            broken.push(told);
        }
    }
    let Outcomes { refused, ended, went_on, not_met, acknowledged, slowest } = outcomes;
    tell(&format!(
        "{story}: {runs} runs: {refused} would not start, {ended} ended, {went_on} went on, {not_met} did not meet the \
         fault; {acknowledged} executions acknowledged; slowest end {slowest:.3} s after the fault"
    ));
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(u64::from(not_met) * 2 < runs, "void: {not_met} of {runs} runs did not meet their fault");
}

async fn fail_one(fault: &Fault, outcomes: &mut Outcomes) -> Result<(), String> {
    let mut daemon = Daemon::new();
    daemon.start().await.map_err(|status| format!("void: without a fault it ended with {status}"))?;
    load::create(&daemon).await.expect("stored");
    let book = SharedBook::default();
    let before = Load::start(2, &daemon, &book);
    before.acknowledged(10, || false).await;
    daemon.kill_now();
    before.stop().await;

    if !fault.serving {
        daemon.traced(&fault.options());
    }
    match daemon.start().await {
        Err(status) if status.code() == Some(1) => outcomes.refused += 1,
        Err(status) => return Err(format!("it did not start, and ended with {status}\n{}", tail(&daemon.log(), 5))),
        Ok(()) => meet(fault, &mut daemon, &book, outcomes).await?,
    }
    daemon.untraced();
    if let Err(status) = daemon.start().await {
        return Err(format!("without the fault it does not start again: {status}\n{}", tail(&daemon.log(), 5)));
    }
    outcomes.acknowledged += load::compare(&daemon, &book).await?;
    Ok(())
}

/// Work until the fault comes, and what came of it.
async fn meet(fault: &Fault, daemon: &mut Daemon, book: &SharedBook, outcomes: &mut Outcomes) -> Result<(), String> {
    let work = Load::start(3, daemon, book);
    if fault.serving {
        daemon.attach(&fault.options()).await;
        // Enough for the journal to need its next segment, and for a merge into sled.
        fill_a_segment(daemon).await;
    }
    let trace = daemon.path("trace");
    let is_met = || std::fs::read_to_string(&trace).unwrap_or_default().contains("(INJECTED)");
    work.acknowledged(2_000, || is_met() || daemon.has_ended()).await;
    // A lack of space may be survived where nothing was promised yet; then it goes on, and that is seen soon.
    let limit = if fault.error == "EIO" { LIMIT } else { Duration::from_millis(500) };
    let status = if is_met() { daemon.ends_within(limit).await } else { None };
    work.stop().await;
    match status {
        Some(status) if status.code() == Some(1) => outcomes.ended += 1,
        Some(status) => return Err(format!("it ended with {status}")),
        None if !is_met() => {
            outcomes.not_met += 1;
            daemon.kill_now();
            return Ok(());
        }
        None if fault.error == "EIO" => {
            let text = std::fs::read_to_string(&trace).unwrap_or_default();
            let injected: Vec<&str> = text.lines().filter(|line| line.contains("INJECTED")).collect();
            return Err(format!("it did not end within {LIMIT:?}: {injected:#?}\n{}", tail(&daemon.log(), 6)));
        }
        None => {
            daemon.revision().await;
            outcomes.went_on += 1;
            daemon.kill_now();
            return Ok(());
        }
    }
    let trace = daemon.trace().await;
    let end = trace.lines().filter(|line| line.contains("+++ exited")).filter_map(|line| {
        let (_, rest) = line.split_once(' ')?;
        rest.trim_start().split_once(' ')?.0.parse::<f64>().ok()
    });
    let end = end.fold(0.0, f64::max);
    for injected in calls(&trace, fault.call).filter(|call| call.words.contains("(INJECTED)")) {
        outcomes.slowest = outcomes.slowest.max(end - injected.at);
        // The writer knows at once; what another thread meets, the writer hears of a little later.
        let until = injected.at + if injected.words.contains(".segment>") { 0.0 } else { 0.2 };
        let book = book.lock().expect("no client panics");
        let late = book.asked.iter().filter(|asked| seconds(**asked) > until).count();
        if fault.error == "EIO" && late > 0 {
            return Err(format!("{late} acknowledgements were asked for after the failure: {}", injected.words));
        }
    }
    Ok(())
}

/// Stores definitions until a segment of the journal is full, or nobody takes them any more.
async fn fill_a_segment(daemon: &Daemon) {
    const SEGMENT: usize = 16 * 1024 * 1024;
    let words = "x".repeat(100 * 1024);
    let mut filled = 0;
    while filled < SEGMENT + SEGMENT / 2 {
        let tasks: Vec<v1::Task> = (0..4).map(|at| shell(&format!("t{at}"), &words, &[])).collect();
        if load::create_with(daemon, &format!("large-{filled}"), tasks).await.is_err() {
            return;
        }
        filled += 4 * words.len();
    }
}
