//! Stories of a full disk (S-SAFE-5).

use std::time::{Duration, Instant};

use noxd::proto::v1::{self, TaskStatus, WorkflowStatus};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::{
    can_mount,
    daemon::Daemon,
    load::{self, WORKFLOW},
    run,
    support::{eventually, shell},
    tell,
};

/// A file system in memory, mounted.
struct Memory(tempfile::TempDir);

impl Memory {
    fn mount(size: &str) -> Result<Self, String> {
        let place = tempfile::Builder::new().prefix("noxd-disk-").tempdir().map_err(|error| error.to_string())?;
        let options = format!("size={size}");
        run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", &place.path().to_string_lossy()])?;
        Ok(Self(place))
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// Takes all the space that is left, to the last page.
    fn fill(&self) {
        self.fill_the_rest(9);
    }

    /// The same, into another file.
    fn fill_the_rest(&self, number: u32) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.path(&format!("filler-{number}"))).expect("a file");
        let mut piece = vec![1; 1024 * 1024];
        while !piece.is_empty() {
            if file.write_all(&piece).is_err() {
                piece.truncate(piece.len() / 2);
            }
        }
    }

    /// Gives it back.
    fn empty(&self) {
        for entry in std::fs::read_dir(self.0.path()).expect("listed") {
            let path = entry.expect("an entry").path();
            if path.is_file() {
                std::fs::remove_file(path).expect("removed");
            }
        }
    }

    fn free(&self) -> u64 {
        let statistics = rustix::fs::statvfs(self.0.path()).expect("measured");
        statistics.f_bavail * statistics.f_frsize
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Err(error) = run("umount", &[&self.0.path().to_string_lossy()]) {
            tell(&error);
        }
    }
}

fn is_full(status: &tonic::Status) -> bool {
    let reason = status.get_details_error_info().map(|info| info.reason);
    status.code() == Code::ResourceExhausted && reason.as_deref() == Some("STORE_FULL")
}

async fn task_is(daemon: &Daemon, id: &str, wanted: TaskStatus) {
    eventually(&format!("the task becomes {wanted:?}"), || async {
        let execution = show(daemon, id).await;
        (execution.tasks[0].status() == wanted).then_some(())
    })
    .await;
}

async fn show(daemon: &Daemon, id: &str) -> v1::WorkflowExecution {
    let request = v1::GetExecutionRequest { execution_id: id.into(), wait: None };
    let answer = daemon.executions().await.get_execution(request).await.expect("reads go on");
    answer.into_inner().execution.expect("an execution")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_new_work_alone_and_only_while_it_is_full() {
    const STORY: &str = "a_full_disk";
    // An empty store takes 9 MiB and wants 6 MiB free before it takes new work.
    const SIZE: &str = "64m";
    if !can_mount(STORY) {
        return;
    }
    let disk = match Memory::mount(SIZE) {
        Ok(disk) => disk,
        Err(why) => return tell(&format!("SKIPPED {STORY}: no tmpfs here: {why}")),
    };
    let mut daemon = Daemon::on(disk.path("data"));
    daemon.start().await.expect("it serves");
    load::create(&daemon).await.expect("stored");
    let (gate, running) = (daemon.path("gate"), 8_u32);
    let script = format!("until [ -e {} ]; do sleep 0.05; done", gate.display());
    load::create_with(&daemon, "waits", vec![shell("t", &script, &[])]).await.expect("stored");
    let mut client = daemon.workflows().await;
    let done = load::execute(&mut client, WORKFLOW, "before").await.expect("there is room");
    let (mut waiting, mut finished) = (Vec::new(), Vec::new());
    for at in 0..running {
        let id = load::execute(&mut client, "waits", &format!("waits-{at}")).await.expect("there is room").id;
        task_is(&daemon, &id, TaskStatus::Running).await;
        waiting.push(id);
    }

    disk.fill();
    assert_eq!(disk.free(), 0, "void: there is space");
    let refused = load::execute(&mut client, WORKFLOW, "while full").await.expect_err("S-SAFE-5: new work is refused");
    assert!(is_full(&refused), "{refused}");
    let refused = load::create_with(&daemon, "new", vec![shell("t", "true", &[])]).await.expect_err("refused");
    assert!(is_full(&refused), "{refused}");
    assert_eq!(show(&daemon, &done.id).await.id, done.id, "reads go on");
    let cancelled = waiting.pop().expect("some wait");
    let cancel = v1::CancelWorkflowRequest {
        workflow_id: "waits".into(),
        execution_id: cancelled.clone(),
        ..Default::default()
    };
    client.cancel_workflow(cancel).await.expect("S-SAFE-5: a cancel uses the reserve");
    task_is(&daemon, &cancelled, TaskStatus::Cancelled).await;
    std::fs::write(&gate, "").expect("the gate is elsewhere");
    for id in waiting {
        task_is(&daemon, &id, TaskStatus::Completed).await;
        finished.push(id);
    }

    // The same again, as a noxd that is killed finds it, more than once: what a start takes, it gives back.
    for again in 0..3 {
        daemon.kill_now();
        disk.fill_the_rest(again);
        assert_eq!(disk.free(), 0, "void: there is space");
        if let Err(status) = daemon.start().await {
            panic!("S-SAFE-5: it does not start on a full disk: {status}");
        }
        let refused = load::execute(&mut daemon.workflows().await, WORKFLOW, "while full").await;
        assert!(is_full(&refused.expect_err("it is still full")));
        for id in &finished {
            assert_eq!(show(&daemon, id).await.status(), WorkflowStatus::Completed, "reads go on");
        }
    }

    disk.empty();
    let freed = Instant::now();
    for id in &finished {
        assert_eq!(show(&daemon, id).await.status(), WorkflowStatus::Completed, "S-SAFE-1");
    }
    let client = daemon.workflows().await;
    let again = || {
        let mut client = client.clone();
        async move { load::execute(&mut client, WORKFLOW, "while full").await.ok() }
    };
    eventually("new work is taken again", again).await;
    let recovered = freed.elapsed();
    assert!(recovered < Duration::from_secs(30), "S-SAFE-5: it recovers when space returns: {recovered:?}");
    assert_eq!(daemon.stop().await, Some(0));
    tell(&format!(
        "{STORY}: {SIZE}: refused while full, {} running tasks completed and 1 cancelled; new \
         work {} ms after space came back",
        finished.len(),
        recovered.as_millis()
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_on_which_the_reserve_runs_out_too_loses_nothing() {
    // S-SAFE-5: what ends while the disk is full may have more to say than the reserve holds.
    const STORY: &str = "reserve_runs_out";
    const RUNNING: usize = 60;
    if !can_mount(STORY) {
        return;
    }
    let disk = match Memory::mount("64m") {
        Ok(disk) => disk,
        Err(why) => return tell(&format!("SKIPPED {STORY}: no tmpfs here: {why}")),
    };
    let mut daemon = Daemon::on(disk.path("data"));
    // Logs are on a disk of their own here: there is no reserve for them, and they would take what comes back.
    std::fs::create_dir_all(disk.path("data")).expect("made");
    std::fs::create_dir_all(daemon.path("executions")).expect("made");
    std::os::unix::fs::symlink(daemon.path("executions"), disk.path("data").join("executions")).expect("linked");
    daemon.start().await.expect("it serves");
    load::create(&daemon).await.expect("stored");
    let gate = daemon.path("gate");
    let speak = r#"printf '"'; head -c 900000 /dev/zero | tr '\0' x; printf '"'"#;
    let script = format!("until [ -e {} ]; do sleep 0.1; done; {speak}", gate.display());
    let task = v1::Task { output_format: v1::OutputFormat::Json.into(), ..shell("t", &script, &[]) };
    load::create_with(&daemon, "speaks", vec![task]).await.expect("stored");
    let mut client = daemon.workflows().await;
    let done = load::execute(&mut client, WORKFLOW, "before").await.expect("there is room");
    let mut running = Vec::new();
    for at in 0..RUNNING {
        running.push(load::execute(&mut client, "speaks", &format!("speaks-{at}")).await.expect("there is room").id);
    }
    for id in &running {
        task_is(&daemon, id, TaskStatus::Running).await;
    }

    disk.fill();
    std::fs::write(&gate, "").expect("the gate is elsewhere");
    eventually("the reserve is used up", || async {
        daemon.log().contains("nothing can be recorded until there is space").then_some(())
    })
    .await;
    assert_eq!(show(&daemon, &done.id).await.id, done.id, "reads go on");
    daemon.kill_now();
    disk.fill_the_rest(0);
    daemon.start().await.expect("S-SAFE-5: it starts on the full disk");
    assert_eq!(show(&daemon, &done.id).await.id, done.id, "reads go on");
    let mut before = 0;
    for id in &running {
        before += usize::from(show(&daemon, id).await.status() == WorkflowStatus::Completed);
    }
    assert!(before < RUNNING, "void: the reserve held everything");

    disk.empty();
    let freed = Instant::now();
    for id in &running {
        task_is(&daemon, id, TaskStatus::Completed).await;
    }
    let client = daemon.workflows().await;
    let again = || {
        let mut client = client.clone();
        async move { load::execute(&mut client, WORKFLOW, "after").await.ok() }
    };
    eventually("new work is taken again", again).await;
    let recovered = freed.elapsed();
    assert!(recovered < Duration::from_secs(30), "S-SAFE-5: it recovers when space returns: {recovered:?}");
    assert_eq!(daemon.stop().await, Some(0));
    tell(&format!(
        "{STORY}: {before} of {RUNNING} ends were recorded from the reserve; the others {recovered:.1?} after space \
         came back"
    ));
}
