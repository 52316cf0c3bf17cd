//! How fast honest clients are served while somebody abuses HTTP/2.
//!
//! `cargo bench --bench abuse` starts a real noxd and an honest client that calls once each 2 ms, and takes turns: a
//! while in peace, a while beside a peer that does its worst on one connection after the other. Each call is counted
//! from when it was due. The peer shares the two cores with noxd and the client, so what it costs is partly its own
//! work; beside the abuse stands what a peer costs that is as busy and breaks nothing: one that calls as fast as it can
//! over one connection. `-- --seconds N` changes how long each turn takes. See docs/performance.md.

#[path = "../tests/faults/abuses.rs"]
mod abuses;
#[path = "../tests/faults/frames.rs"]
#[expect(dead_code, reason = "the stories say more than a bench does")]
mod frames;

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use noxd::{
    cli::connect,
    proto::v1::{GetServerInfoRequest, system_service_client::SystemServiceClient},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::{
    abuses::{ABUSES, abuse},
    frames::Peer,
};

/// How often the honest client calls.
const EACH: Duration = Duration::from_millis(2);
/// How often peace and abuse take turns.
const TURNS: usize = 3;

type Client = SystemServiceClient<Channel>;

fn main() {
    let mut seconds = 2;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--seconds" {
            seconds = arguments.next().and_then(|text| text.parse().ok()).expect("a number follows");
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(Duration::from_secs(seconds)));
}

async fn measure(turn: Duration) {
    let directory = tempfile::Builder::new().prefix("noxd-abuse-").tempdir_in(".").expect("a directory on this disk");
    let socket = directory.path().join("noxd.sock");
    let mut noxd = start(directory.path()).await;
    let client = Client::new(connect::socket_channel(&socket).await.expect("it answers"));
    called(&client, turn).await;
    println!("{:<36} {:>9} {:>9} {:>9} {:>9} {:>6} {:>9}", "", "p50", "p99", "in peace", "p99", "ratio", "memory");
    let names = ["one that calls as fast as it can"].into_iter().chain(ABUSES.iter().copied());
    for name in names {
        let (mut peace, mut war) = (histogram(), histogram());
        let before = resident_kib(noxd.id());
        let mut most = before;
        for _ in 0..TURNS {
            peace.add(called(&client, turn).await).expect("the same buckets");
            let beside = Beside::start(name, &socket);
            war.add(called(&client, turn).await).expect("the same buckets");
            most = most.max(resident_kib(noxd.id()));
            beside.end();
        }
        let micros = |times: &Histogram<u64>, quantile| times.value_at_quantile(quantile);
        let (good, bad) = (micros(&peace, 0.99), micros(&war, 0.99));
        println!(
            "{name:<36} {:>6} us {bad:>6} us {:>6} us {good:>6} us {:>6.2} {:>5} KiB",
            micros(&war, 0.5),
            micros(&peace, 0.5),
            bad as f64 / good as f64,
            most.saturating_sub(before),
        );
    }
    noxd.kill().expect("it runs");
    noxd.wait().expect("it ends");
}

/// A peer on a thread of its own, so that its work is not the honest client's.
struct Beside {
    stop: CancellationToken,
    thread: std::thread::JoinHandle<()>,
}

impl Beside {
    fn start(name: &'static str, socket: &Path) -> Self {
        let (stop, socket) = (CancellationToken::new(), socket.to_owned());
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    () = stopped.cancelled() => {}
                    () = peer(name, &socket, &stopped) => {}
                }
            });
        });
        Self { stop, thread }
    }

    fn end(self) {
        self.stop.cancel();
        self.thread.join().expect("it does its worst");
    }
}

/// Does it on one connection after the other.
async fn peer(name: &str, socket: &Path, stop: &CancellationToken) {
    if ABUSES.contains(&name) {
        while !stop.is_cancelled() {
            let mut peer = Peer::polite(socket).await;
            abuse(name, &mut peer).await;
            peer.is_closed_within(Duration::from_secs(5)).await;
        }
        return;
    }
    let mut client = Client::new(connect::socket_channel(socket).await.expect("it answers"));
    while !stop.is_cancelled() {
        client.get_server_info(GetServerInfoRequest {}).await.expect("it is served");
    }
}

/// How long calls took.
async fn called(client: &Client, turn: Duration) -> Histogram<u64> {
    let mut times = histogram();
    let began = Instant::now();
    let mut due = Duration::ZERO;
    while due < turn {
        let mut from = due;
        if began.elapsed() < due {
            tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
            from = began.elapsed();
        }
        let mut client = client.clone();
        client.get_server_info(GetServerInfoRequest {}).await.expect("an honest client is served");
        times.record(u64::try_from((began.elapsed() - from).as_micros()).expect("small")).expect("in bounds");
        due += EACH;
    }
    times
}

async fn start(directory: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_noxd"));
    command.args(["serve", "--listen", "none", "--data-dir"]).arg(directory.join("data"));
    command.arg("--socket").arg(directory.join("noxd.sock")).env("NOXD_LOG", "error").stdout(Stdio::null());
    let child = command.spawn().expect("noxd starts");
    while tokio::net::UnixStream::connect(directory.join("noxd.sock")).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    child
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits")
}
