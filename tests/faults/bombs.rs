//! Stories of tasks that fork without end, hide, and hear no signal: nobody of them is left soon after a cancel, nor
//! soon after noxd was killed and started again (S-STATE-8, S-SAFE-4). And of those that cannot be found: how many.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use noxd::proto::v1;

use crate::{
    daemon::Daemon,
    load,
    support::{eventually, is_alive, shell},
    tell,
};

/// How long after the end was asked for anybody may live. The grace is 0.1 s.
const SURVIVING: Duration = Duration::from_secs(5);

/// What a task does to be hard to end.
struct Bomb {
    name: &'static str,
    /// A script of the shell. `$PATH` and the working directory are all that it needs.
    script: &'static str,
    /// So many processes, or it is void.
    processes: usize,
}

/// Hears nothing that can be ignored, for ever.
macro_rules! deaf {
    () => {
        r#"trap "" TERM HUP INT; while :; do sleep 1; done"#
    };
}

/// Those that leave a sign of whose they are.
const BOMBS: &[Bomb] = &[
    Bomb { name: "500 children", script: "i=0; while [ $i -lt 500 ]; do sleep 600 & i=$((i+1)); done", processes: 500 },
    Bomb {
        name: "daemons that hear no SIGTERM",
        script: concat!(
            "i=0; while [ $i -lt 50 ]; do (setsid sh -c '",
            deaf!(),
            "' </dev/null >/dev/null 2>&1 &); i=$((i+1)); done"
        ),
        processes: 50,
    },
    Bomb {
        name: "daemons with an empty environment",
        script: concat!(
            "i=0; while [ $i -lt 50 ]; do (setsid env -i PATH=\"$PATH\" sh -c '(",
            deaf!(),
            ") &' </dev/null >/dev/null 2>&1 &); i=$((i+1)); done"
        ),
        processes: 50,
    },
    Bomb {
        name: "daemons that hold the pipes",
        script: concat!("i=0; while [ $i -lt 20 ]; do (setsid sh -c '", deaf!(), "' &); i=$((i+1)); done"),
        processes: 20,
    },
    Bomb {
        name: "daemons that stand still",
        script: "i=0; while [ $i -lt 20 ]; do (setsid env -i PATH=\"$PATH\" sh -c 'trap \"\" TERM; kill -STOP $$; sleep 600' \
                 </dev/null >/dev/null 2>&1 &); i=$((i+1)); done",
        processes: 20,
    },
    Bomb {
        name: "programs that execute themselves for ever",
        script: "echo 'trap \"\" TERM; sleep 0.02; exec env -i PATH=\"$PATH\" sh \"$0\"' > again; \
                 i=0; while [ $i -lt 20 ]; do (setsid sh \"$PWD/again\" </dev/null >/dev/null 2>&1 &); i=$((i+1)); done",
        processes: 20,
    },
    // The number of its processes is its bound: each that ends has made one other.
    Bomb {
        name: "a fork bomb of 20 that move on each 50 ms",
        script: "echo 'trap \"\" TERM; sleep 0.05; env -i PATH=\"$PATH\" setsid sh \"$0\" &' > hydra; \
                 i=0; while [ $i -lt 20 ]; do (setsid sh \"$PWD/hydra\" </dev/null >/dev/null 2>&1 &); i=$((i+1)); done",
        processes: 20,
    },
];

/// One that wears nothing of ours any more: no session, no environment, no limits, no parent.
const HIDDEN: Bomb = Bomb {
    name: "daemons that took everything off",
    script: concat!(
        "i=0; while [ $i -lt 10 ]; do (prlimit --locks=unlimited --rttime=unlimited setsid env -i PATH=\"$PATH\" sh -c '(",
        deaf!(),
        ") &' </dev/null >/dev/null 2>&1 &); i=$((i+1)); done"
    ),
    processes: 10,
};

/// A process that a stranger started, with another store's id in its environment.
struct Stranger(Child);

impl Stranger {
    fn start() -> Self {
        let mut command = Command::new("setsid");
        command.args(["sleep", "600"]).env("NOX_STORE_ID", "another").env("NOX_ATTEMPT", "1");
        Self(command.stdin(Stdio::null()).spawn().expect("it starts"))
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Who works below this directory: its tasks' processes, whatever they have taken off.
fn working_in(directory: &Path) -> Vec<u32> {
    let of_it = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.ok()?.path();
        let pid = path.file_name()?.to_str()?.parse().ok()?;
        (std::fs::read_link(path.join("cwd")).ok()?.starts_with(directory) && is_alive(pid)).then_some(pid)
    };
    std::fs::read_dir("/proc").expect("processes").filter_map(of_it).collect()
}

/// How long it took until nobody was left: not even between two looks, in which one that forks and ends can hide.
async fn nobody_works_in(directory: &Path) -> Duration {
    const LOOKS: u32 = 50;
    let since = Instant::now();
    let (mut empty, mut took) = (0, Duration::ZERO);
    let mut nobody = || {
        empty = if working_in(directory).is_empty() { empty + 1 } else { 0 };
        if empty == 1 {
            took = since.elapsed();
        }
        let all = empty == LOOKS;
        async move { all.then_some(()) }
    };
    eventually("nobody is left", &mut nobody).await;
    took
}

/// Starts a bomb and waits until it is all there.
async fn set_off(daemon: &Daemon, bomb: &Bomb, workflow: &str) -> String {
    // The next attempt is none.
    let script = format!(
        "[ \"$NOX_ATTEMPT\" = 1 ] || exit 0\n{}\necho > {}\nsleep 600",
        bomb.script,
        daemon.path("there").display()
    );
    load::create_with(daemon, workflow, vec![shell("t", &script, &[])]).await.expect("stored");
    let id = load::execute(&mut daemon.workflows().await, workflow, workflow).await.expect("started").id;
    // Once it has made the last of them, and they are what they are to be.
    eventually(bomb.name, || async { daemon.path("there").exists().then_some(()) }).await;
    let all = || async { (working_in(&daemon.path("")).len() >= bomb.processes).then_some(()) };
    eventually(bomb.name, all).await;
    std::fs::remove_file(daemon.path("there")).expect("it is there");
    id
}

async fn cancel(daemon: &Daemon, workflow: &str, id: &str) {
    let request =
        v1::CancelWorkflowRequest { workflow_id: workflow.into(), execution_id: id.into(), ..Default::default() };
    daemon.workflows().await.cancel_workflow(request).await.expect("cancelled");
}

async fn ends(daemon: &Daemon, id: &str, status: v1::WorkflowStatus) {
    let is = || async {
        let request = v1::GetExecutionRequest { execution_id: id.into(), wait: None };
        let execution = daemon.executions().await.get_execution(request).await.ok()?.into_inner().execution?;
        (execution.status() == status).then_some(())
    };
    eventually(&format!("the execution is {status:?}"), is).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_of_a_process_bomb_outlives_its_cancel() {
    let stranger = Stranger::start();
    let mut daemon = Daemon::new();
    daemon.start().await.expect("it serves");
    for (at, bomb) in BOMBS.iter().chain([&HIDDEN]).enumerate() {
        let workflow = format!("bomb-{at}");
        let id = set_off(&daemon, bomb, &workflow).await;
        let there = working_in(&daemon.path("")).len();
        cancel(&daemon, &workflow, &id).await;
        let took = nobody_works_in(&daemon.path("")).await;
        assert!(took < SURVIVING, "S-STATE-8: {}: somebody lived for {took:?}", bomb.name);
        ends(&daemon, &id, v1::WorkflowStatus::Cancelled).await;
        tell(&format!("bombs: {}: {there} processes, none {} ms after the cancel", bomb.name, took.as_millis()));
    }
    assert!(is_alive(stranger.0.id()), "S-SAFE-4: only our own are ended");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_of_a_process_bomb_outlives_the_restart_of_a_noxd_that_was_killed() {
    let stranger = Stranger::start();
    let mut daemon = Daemon::new();
    daemon.start().await.expect("it serves");
    for (at, bomb) in BOMBS.iter().enumerate() {
        let workflow = format!("bomb-{at}");
        let id = set_off(&daemon, bomb, &workflow).await;
        daemon.kill_now();
        let there = working_in(&daemon.path("")).len();
        let down = Instant::now();
        daemon.start().await.expect("it serves again");
        let took = down.elapsed() + nobody_works_in(&daemon.path("")).await;
        assert!(took < SURVIVING, "S-SAFE-4: {}: somebody lived for {took:?}", bomb.name);
        ends(&daemon, &id, v1::WorkflowStatus::Completed).await;
        tell(&format!("bombs: {}: {there} processes, none {} ms after the restart", bomb.name, took.as_millis()));
    }
    // What only a cgroup could find: said aloud, and counted.
    let id = set_off(&daemon, &HIDDEN, "hidden").await;
    daemon.kill_now();
    daemon.start().await.expect("it serves again");
    ends(&daemon, &id, v1::WorkflowStatus::Completed).await;
    let left = working_in(&daemon.path(""));
    tell(&format!("bombs: KNOWN DEFECT: {}: {} live on after a kill of noxd and its restart", HIDDEN.name, left.len()));
    for pid in &left {
        crate::support::signal(*pid, "KILL");
    }
    nobody_works_in(&daemon.path("")).await;
    assert!(is_alive(stranger.0.id()), "S-SAFE-4: only our own are ended");
    assert_eq!(daemon.stop().await, Some(0));
}
