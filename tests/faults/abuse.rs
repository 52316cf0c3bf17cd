//! Stories of peers that abuse HTTP/2, and of a noxd without descriptors: it closes them, keeps its memory, and goes on
//! serving honest clients. How fast it serves meanwhile is measured by `cargo bench --bench abuse`.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use noxd::{
    cli::connect,
    proto::v1::{self, TaskStatus, WorkflowStatus, system_service_client::SystemServiceClient},
};

use crate::{
    abuses::{ABUSES, abuse},
    daemon::Daemon,
    frames::{DATA, HEADERS, PREFACE, Peer, SETTINGS, call_headers, frame, stream},
    load,
    support::{eventually, shell},
    tell,
};

/// How much memory an abuse may cost.
const GROWTH: u64 = 64 << 20;
/// How soon an abuser has to be closed: 5 s, and some for a busy machine.
const CLOSED: Duration = Duration::from_secs(10);
const CREATE: &str = "/nox.v1.WorkflowService/CreateWorkflow";

/// A client that calls and calls while others abuse.
struct Honest {
    answers: Arc<AtomicUsize>,
    slowest: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Honest {
    async fn start(socket: PathBuf) -> Self {
        let channel = connect::socket_channel(&socket).await.expect("it answers");
        let (answers, slowest) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (count, most) = (Arc::clone(&answers), Arc::clone(&slowest));
        let task = tokio::spawn(async move {
            let mut client = SystemServiceClient::new(channel);
            loop {
                let asked = Instant::now();
                client.get_server_info(v1::GetServerInfoRequest {}).await.expect("an honest client is served");
                count.fetch_add(1, Ordering::Relaxed);
                most.fetch_max(usize::try_from(asked.elapsed().as_millis()).expect("short"), Ordering::Relaxed);
            }
        });
        Self { answers, slowest, task }
    }

    /// Waits until it was served that often again.
    async fn served(&self, more: usize) {
        let goal = self.answers.load(Ordering::Relaxed) + more;
        eventually("an honest client is served", || async {
            assert!(!self.task.is_finished(), "an honest client was cut off");
            (self.answers.load(Ordering::Relaxed) >= goal).then_some(())
        })
        .await;
    }
}

impl Drop for Honest {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a resident set");
    kib.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_abuses_a_connection_is_closed_and_honest_clients_are_served() {
    const AGAIN: usize = 2;
    let mut daemon = Daemon::new();
    daemon.start().await.expect("it serves");
    let honest = Honest::start(daemon.socket()).await;
    honest.served(100).await;
    for name in ABUSES {
        let before = resident_bytes(daemon.pid());
        honest.slowest.store(0, Ordering::Relaxed);
        let began = Instant::now();
        for _ in 0..AGAIN {
            let mut peer = Peer::polite(&daemon.socket()).await;
            abuse(name, &mut peer).await;
            assert!(peer.is_closed_within(CLOSED).await, "{name}: it may go on");
        }
        honest.served(100).await;
        let grown = resident_bytes(daemon.pid()).saturating_sub(before);
        assert!(grown < GROWTH, "{name}: {grown} bytes more");
        tell(&format!(
            "abuse: {name}: {AGAIN} times closed in {} ms, {} KiB more, slowest honest call {} ms",
            began.elapsed().as_millis(),
            grown >> 10,
            honest.slowest.load(Ordering::Relaxed),
        ));
    }
    let said = daemon.log().lines().count();
    assert!(said < 10 * AGAIN * ABUSES.len(), "abuse fills the log: {said} lines");
    drop(honest);
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_does_not_come_to_the_point_is_closed() {
    let mut daemon = Daemon::new();
    daemon.start().await.expect("it serves");
    let says: [&[u8]; 5] = [
        b"",
        b"P",
        &PREFACE[..12],
        PREFACE,
        // Its settings, but never that it has seen the server's.
        &[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat(),
    ];
    let mut waiting = tokio::task::JoinSet::new();
    for said in says {
        let (socket, said) = (daemon.socket(), said.to_vec());
        waiting.spawn(async move {
            let mut peer = Peer::silent(&socket).await;
            peer.say(&said).await;
            let since = Instant::now();
            assert!(peer.is_closed_within(CLOSED).await, "{} bytes said: it may stay", said.len());
            tell(&format!("abuse: silent after {} bytes: closed after {} ms", said.len(), since.elapsed().as_millis()));
        });
    }
    while let Some(closed) = waiting.join_next().await {
        closed.expect("closed");
    }
    // One that has done its handshake may be idle.
    let mut idle = Peer::polite(&daemon.socket()).await;
    assert!(!idle.is_closed_within(Duration::from_secs(7)).await, "an idle client is cut off");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_never_end_cost_little_and_are_answered_in_the_end() {
    let mut daemon = Daemon::new();
    daemon.start().await.expect("it serves");
    let honest = Honest::start(daemon.socket()).await;
    let before = resident_bytes(daemon.pid());
    let mut peers = Vec::new();
    for _ in 0..4 {
        let mut peer = Peer::polite(&daemon.socket()).await;
        for at in 0..128 {
            // A message of 31 MiB is announced, and begun: together within the window that every connection has.
            let headers = frame(HEADERS, 4, stream(at), &call_headers(CREATE));
            let begun = frame(DATA, 0, stream(at), &[&[0, 1, 0xf0, 0, 0][..], &[10; 400]].concat());
            peer.say(&[headers, begun].concat()).await;
        }
        peers.push(peer);
    }
    honest.served(200).await;
    let grown = resident_bytes(daemon.pid()).saturating_sub(before);
    assert!(grown < GROWTH, "{grown} bytes more");
    // A definition that is whole is stored meanwhile.
    load::create(&daemon).await.expect("stored");
    // The time for a request is 30 s. Then each is answered, with an end of its stream.
    let peer = peers.first_mut().expect("some");
    assert!(peer.hears(frame(HEADERS, 5, stream(127), &[])[3..9].to_vec()).await, "the last request is answered");
    tell(&format!("abuse: 512 requests that never end: {} KiB more", grown >> 10));
    drop((honest, peers));
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_with_too_many_connections_gets_no_more_and_the_connected_are_served() {
    const MORE: usize = 600;
    let mut daemon = Daemon::new();
    daemon.start().await.expect("it serves");
    let honest = Honest::start(daemon.socket()).await;
    let before = resident_bytes(daemon.pid());
    let mut peers = Vec::new();
    for _ in 0..MORE {
        peers.push(Peer::polite(&daemon.socket()).await);
    }
    let mut last = peers.pop().expect("some");
    assert!(last.is_closed_within(CLOSED).await, "one too many is told at once");
    assert!(!peers[0].is_closed_within(Duration::from_millis(10)).await, "who has a place keeps it");
    honest.served(100).await;
    let grown = resident_bytes(daemon.pid()).saturating_sub(before);
    assert!(grown < GROWTH, "{grown} bytes more");
    tell(&format!("abuse: {MORE} idle connections asked for: {} KiB more", grown >> 10));
    assert_eq!(daemon.log().matches("too many connections").count(), 1, "said once");
    drop(peers);
    let socket = daemon.socket();
    eventually("a place is free again", || async {
        let mut peer = Peer::polite(&socket).await;
        (!peer.is_closed_within(Duration::from_millis(100)).await).then_some(())
    })
    .await;
    drop(honest);
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_descriptors_the_connected_are_served_and_tasks_wait_instead_of_failing() {
    const TASKS: usize = 60;
    let mut daemon = Daemon::new();
    daemon.within(&["prlimit", "--nofile=256:256"]);
    daemon.start().await.expect("it serves");
    let honest = Honest::start(daemon.socket()).await;
    let mut peers = Vec::new();
    for _ in 0..300 {
        peers.push(Peer::polite(&daemon.socket()).await);
    }
    // They are taken in their order: once the last is turned away, nobody waits for a place any more.
    assert!(peers.last_mut().expect("many").is_closed_within(CLOSED).await, "there is a place for everybody");
    // With those connections there is not room for all of these at once.
    let names: Vec<String> = (0..TASKS).map(|at| format!("t{at}")).collect();
    let tasks = names.iter().map(|name| shell(name, "sleep 1; echo done", &[])).collect();
    load::create_with_channel(honest_channel(&daemon.socket(), &mut peers).await, "many", tasks).await.expect("stored");
    let mut client = connect::workflows(honest_channel(&daemon.socket(), &mut peers).await);
    let id = load::execute(&mut client, "many", "many").await.expect("started").id;
    honest.served(100).await;
    let mut executions = connect::executions(honest_channel(&daemon.socket(), &mut peers).await);
    let mut most = 0;
    let execution = eventually("all tasks end", || {
        most = most.max(std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).map_or(0, Iterator::count));
        let mut executions = executions.clone();
        let request = v1::GetExecutionRequest { execution_id: id.clone(), wait: None };
        async move {
            let execution = executions.get_execution(request).await.ok()?.into_inner().execution?;
            (execution.status() != WorkflowStatus::Running).then_some(execution)
        }
    })
    .await;
    let _ = &mut executions;
    let why =
        || execution.tasks.iter().filter_map(|task| Some(task.error.as_ref()?.message.clone())).collect::<Vec<_>>();
    let done = execution.tasks.iter().filter(|task| task.status() == TaskStatus::Completed).count();
    assert_eq!((execution.status(), done), (WorkflowStatus::Completed, TASKS), "{:?}", why());
    honest.served(100).await;
    let again = daemon.log().matches("started again in a moment").count();
    assert!(again > 0, "void: {most} descriptors of 256 were in use, and nobody had to wait");
    tell(&format!("abuse: 256 descriptors: {most} in use, {TASKS} tasks completed, {again} starts tried again"));
    drop((honest, peers));
    assert_eq!(daemon.stop().await, Some(0));
}

/// A channel of its own, in the place of one of the peers.
async fn honest_channel(socket: &Path, peers: &mut Vec<Peer>) -> tonic::transport::Channel {
    peers.remove(0);
    let asked = || async {
        let channel = connect::socket_channel(socket).await.ok()?;
        SystemServiceClient::new(channel.clone()).get_server_info(v1::GetServerInfoRequest {}).await.ok()?;
        Some(channel)
    };
    eventually("a place is free", asked).await
}
