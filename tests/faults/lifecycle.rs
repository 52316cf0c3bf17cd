//! Stories of how noxd begins and ends under a supervisor: ready when it serves, alive while its writer is, and gone in
//! the time that was given, whatever its tasks do.

use std::{
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    path::Path,
    time::{Duration, Instant},
};

use noxd::cli::connect;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    daemon::Daemon,
    load,
    support::{eventually, is_alive, number_in, shell, signal},
};

/// A supervisor that listens.
struct Supervisor(UnixDatagram);

impl Supervisor {
    fn at(address: &SocketAddr) -> Self {
        let socket = UnixDatagram::bind_addr(address).expect("a socket");
        socket.set_nonblocking(true).expect("a socket");
        Self(socket)
    }

    /// Waits until it is told something.
    async fn hears(&self, wanted: &str) -> String {
        eventually(&format!("noxd says {wanted}"), || async {
            let mut words = [0; 1_024];
            let length = self.0.recv(&mut words).ok()?;
            let said = String::from_utf8_lossy(&words[..length]).into_owned();
            said.lines().any(|line| line.starts_with(wanted)).then_some(said)
        })
        .await
    }
}

async fn health(socket: &Path) -> Option<ServingStatus> {
    let channel = connect::socket_channel(socket).await.ok()?;
    let request = HealthCheckRequest { service: "nox.v1.WorkflowService".into() };
    let answer = HealthClient::new(channel).check(request).await.ok()?;
    Some(answer.into_inner().status())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_supervisor_is_told_when_noxd_recovers_serves_lives_and_stops() {
    let mut daemon = Daemon::new();
    let path = daemon.path("notify");
    let name = format!("noxd-test-{}", std::process::id());
    let addresses = [
        (path.display().to_string(), SocketAddr::from_pathname(&path).expect("a path")),
        (format!("@{name}"), SocketAddr::from_abstract_name(&name).expect("a name")),
    ];
    for (variable, address) in addresses {
        let supervisor = Supervisor::at(&address);
        let environment = format!("NOTIFY_SOCKET={variable}");
        daemon.within(&["env", &environment, "WATCHDOG_USEC=200000"]);
        let start = daemon.start();
        let ready = async {
            supervisor.hears("STATUS=recovering").await;
            let said = supervisor.hears("READY=1").await;
            assert!(!said.contains("STOPPING"), "{said}");
        };
        let (started, ()) = tokio::join!(start, ready);
        started.expect("it serves");
        assert_eq!(health(&daemon.socket()).await, Some(ServingStatus::Serving));
        supervisor.hears("WATCHDOG=1").await;
        supervisor.hears("WATCHDOG=1").await;
        signal(daemon.pid(), "TERM");
        supervisor.hears("STOPPING=1").await;
        assert_eq!(daemon.ends_within(Duration::from_secs(20)).await.and_then(|status| status.code()), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_noxd_that_serves_is_ready_at_once() {
    // The other way round: whoever hears READY=1 first is served at its first call.
    let mut daemon = Daemon::new();
    let path = daemon.path("notify");
    let supervisor = Supervisor::at(&SocketAddr::from_pathname(&path).expect("a path"));
    let environment = format!("NOTIFY_SOCKET={}", path.display());
    daemon.within(&["env", &environment]);
    let socket = daemon.socket();
    let ready = async {
        supervisor.hears("READY=1").await;
        assert_eq!(health(&socket).await, Some(ServingStatus::Serving));
    };
    let (started, ()) = tokio::join!(daemon.start(), ready);
    started.expect("it serves");
    assert_eq!(daemon.stop().await, Some(0));
}

// S-STATE-8
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_hears_no_sigterm_does_not_hold_up_the_end() {
    // As `Daemon` starts it: 1 s to end by itself, 0.1 s from SIGTERM to SIGKILL.
    const DRAIN_AND_GRACE: Duration = Duration::from_millis(1_100);
    let mut daemon = Daemon::new();
    daemon.start().await.expect("it serves");
    let script = format!(
        "trap '' TERM; (setsid sh -c 'trap \"\" TERM; echo $$ > {0}/far; while :; do sleep 1; done' &); \
         echo $$ > {0}/near; while :; do sleep 1; done",
        daemon.path("").display()
    );
    load::create_with(&daemon, "deaf", vec![shell("t", &script, &[])]).await.expect("stored");
    load::execute(&mut daemon.workflows().await, "deaf", "deaf").await.expect("started");
    let (near, far) = (number_in(&daemon.path("near")).await, number_in(&daemon.path("far")).await);
    let asked = Instant::now();
    assert_eq!(daemon.stop().await, Some(0), "an orderly end");
    let took = asked.elapsed();
    assert!(took >= DRAIN_AND_GRACE && took < DRAIN_AND_GRACE + Duration::from_secs(10), "{took:?}");
    assert!(!is_alive(near) && !is_alive(far), "nobody is left");
    crate::tell(&format!("lifecycle: a task that hears no SIGTERM: ended in {} ms", took.as_millis()));
}
