//! Stories of a noxd that is killed while many ask it for work (S-SAFE-1 to S-SAFE-4, S-VIEW-2).

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use noxd::{
    cli::connect,
    proto::v1::{self, event::Kind},
};

use crate::{
    Chance,
    daemon::Daemon,
    load::{self, Load, SharedBook, WORKFLOW},
    number, run,
    support::{eventually, is_alive, number_in, shell},
    tell,
};

/// Fewer answers before a kill make it void.
const LEAST: u64 = 100;

/// How long after the next start a child of the dead noxd may live.
const SURVIVING: Duration = Duration::from_secs(5);

/// One that hears no SIGTERM and never ends, at its first attempt.
const STUBBORN: &str = "stubborn";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_done_twice_though_noxd_is_killed_under_load() {
    let kills = number("NOXD_KILLS", 10);
    let mut chance = Chance::told("noxd_is_killed", &format!("NOXD_KILLS={kills}"));
    let began = Instant::now();
    let mut daemon = Daemon::new();
    daemon.start().await.expect("it serves");
    load::create(&daemon).await.expect("stored");
    // Its next attempt fails if it meets the one before.
    let script = format!(
        "child={}/child-$NOX_EXECUTION_ID; \
         if [ $NOX_ATTEMPT = 1 ]; then trap '' TERM; echo $$ > $child; while :; do sleep 1; done; fi; \
         if grep -qs '^State:[[:space:]]*[^ZX[:space:]]' /proc/$(cat $child)/status; then exit 9; fi",
        daemon.path("").display()
    );
    load::create_with(&daemon, STUBBORN, vec![shell("t", &script, &[])]).await.expect("stored");
    let book = SharedBook::default();
    let seen = Seen::default();
    let watcher = tokio::spawn(watch(daemon.socket(), Arc::clone(&seen)));
    let (mut stubborn, mut slowest) = (BTreeSet::new(), Duration::ZERO);

    for round in 0..kills {
        let before: BTreeSet<String> = book.lock().expect("no client panics").acknowledged.keys().cloned().collect();
        let id = load::execute(&mut daemon.workflows().await, STUBBORN, &format!("stubborn-{round}")).await;
        let id = id.expect("started").id;
        let child = number_in(&daemon.path(&format!("child-{id}"))).await;
        stubborn.insert(id);
        let work = Load::start(4, &daemon, &book);
        let goal = LEAST + chance.below(50);
        work.acknowledged(usize::try_from(goal).expect("small"), || false).await;
        // Any phase of a commit, not only right after an answer.
        let moment = Instant::now() + Duration::from_micros(chance.below(5_000));
        while Instant::now() < moment {
            tokio::task::yield_now().await;
        }
        daemon.kill_now();
        work.stop().await;
        assert!(is_alive(child), "void: the child that hears no SIGTERM ended with noxd");

        let down = Instant::now();
        daemon.start().await.expect("it serves again");
        slowest = slowest.max(down.elapsed());
        eventually("S-SAFE-4: the child of the dead noxd ends", || async { (!is_alive(child)).then_some(()) }).await;
        let over = down.elapsed();
        assert!(
            over <= SURVIVING,
            "S-SAFE-4: kill {round}: a child of the dead noxd lived for {over:?} after the start"
        );
        let mut recent = book.lock().expect("no client panics").acknowledged.clone();
        recent.retain(|request_id, _| !before.contains(request_id));
        assert!(recent.len() as u64 >= LEAST, "void: {} answers", recent.len());
        load::compare_these(&daemon, &recent).await.unwrap_or_else(|broken| panic!("kill {round}: {broken}"));
    }

    // The faults stop, and everything must finish. What nobody answered happens now, or had happened: once.
    let unknown = book.lock().expect("no client panics").unknown.clone();
    for request_id in &unknown {
        let execution = load::execute(&mut daemon.workflows().await, WORKFLOW, request_id).await.expect("no fault now");
        book.lock().expect("no client panics").acknowledged.insert(request_id.clone(), execution.id);
    }
    let compared = load::compare(&daemon, &book).await.unwrap_or_else(|broken| panic!("{broken}"));
    let asked: BTreeSet<String> = book.lock().expect("no client panics").acknowledged.values().cloned().collect();
    assert_eq!(asked.len(), compared, "no execution stands for two request ids");
    eventually("every execution has ended", || async {
        let all = daemon.executions().await;
        active(all).await.eq(&0).then_some(())
    })
    .await;
    assert_eq!(daemon.survivors(), Vec::<String>::new(), "no child survives");

    let newest = daemon.revision().await;
    let last = || seen.lock().expect("the watcher tells").last().map_or(0, |event| event.revision);
    eventually("the watcher has seen everything", || async {
        (last() >= newest || watcher.is_finished()).then_some(())
    })
    .await;
    assert!(!watcher.is_finished(), "the watcher ended: {:?}", watcher.await);
    watcher.abort();
    let union = std::mem::take(&mut *seen.lock().expect("the watcher tells"));
    assert_eq!(union.len() as u64, newest, "S-VIEW-2: every revision once");
    assert!(union == history(&daemon, newest).await, "S-VIEW-2: what was seen then is what is there now");
    let started = executions(&union, |kind| matches!(kind, Kind::ExecutionStarted(_)));
    let completed = executions(&union, |kind| matches!(kind, Kind::ExecutionCompleted(_)));
    let all: BTreeSet<String> = asked.union(&stubborn).cloned().collect();
    let distinct: BTreeSet<String> = started.iter().cloned().collect();
    assert_eq!(started.len(), all.len(), "S-SAFE-3: one execution for one request id");
    assert_eq!(distinct, all, "S-SAFE-3: none that nobody asked for");
    assert_eq!(completed.len(), all.len(), "every one ended once");
    assert_eq!(daemon.stop().await, Some(0));
    tell(&format!(
        "noxd_is_killed: {kills} kills, {} executions acknowledged, {} without an answer at the last kill, {newest} revisions \
         watched, slowest start {} ms, {} s",
        compared,
        unknown.len(),
        slowest.as_millis(),
        began.elapsed().as_secs()
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_goes_back_in_time_is_found_out() {
    // The negative control of the story before, whose comparison must find what is missing. Faked syncs show nothing
    // there: what a killed process wrote, the kernel still has.
    let mut daemon = Daemon::new();
    let (data, earlier) = (daemon.path("data"), daemon.path("earlier"));
    let book = SharedBook::default();
    daemon.start().await.expect("it serves");
    load::create(&daemon).await.expect("stored");
    for round in 0..2 {
        let work = Load::start(2, &daemon, &book);
        work.acknowledged(20, || false).await;
        daemon.kill_now();
        work.stop().await;
        if round == 0 {
            run("cp", &["-r", &data.to_string_lossy(), &earlier.to_string_lossy()]).expect("copied");
            daemon.start().await.expect("it serves");
            assert_eq!(load::compare(&daemon, &book).await.map(|all| all >= 20), Ok(true));
        }
    }
    std::fs::remove_dir_all(&data).expect("removed");
    std::fs::rename(&earlier, &data).expect("renamed");
    daemon.start().await.expect("it serves");
    let broken = load::compare(&daemon, &book).await.expect_err("acknowledged executions are missing");
    assert!(broken.contains("was acknowledged as"), "{broken}");
}

type Seen = Arc<Mutex<Vec<v1::Event>>>;

/// Watches all events, and goes on after the last one whenever noxd is there again.
async fn watch(socket: std::path::PathBuf, seen: Seen) {
    let mut interval = tokio::time::interval(Duration::from_millis(2));
    loop {
        interval.tick().await;
        let Ok(channel) = connect::socket_channel(&socket).await else { continue };
        let mut last = seen.lock().expect("nobody panics with it").last().map_or(0, |event| event.revision);
        let request = v1::WatchEventsRequest { after_revision: Some(last), ..Default::default() };
        let mut stream = match connect::executions(channel).watch_events(request).await {
            Ok(stream) => stream.into_inner(),
            Err(status) => {
                assert_ne!(
                    status.code(),
                    tonic::Code::OutOfRange,
                    "S-SAFE-1: revision {last} was seen, and is not there"
                );
                continue;
            }
        };
        while let Ok(Some(message)) = stream.message().await {
            let Some(event) = message.event else { continue };
            assert_eq!(event.revision, last + 1, "S-VIEW-2: no gap, and nothing twice");
            last = event.revision;
            seen.lock().expect("nobody panics with it").push(event);
        }
    }
}

async fn history(daemon: &Daemon, newest: u64) -> Vec<v1::Event> {
    let request = v1::WatchEventsRequest { after_revision: Some(0), ..Default::default() };
    let mut stream = daemon.executions().await.watch_events(request).await.expect("watched").into_inner();
    let mut events: Vec<v1::Event> = Vec::new();
    while events.last().is_none_or(|event| event.revision < newest) {
        events.extend(stream.message().await.expect("no error").expect("more").event);
    }
    events
}

fn executions(events: &[v1::Event], is: impl Fn(&Kind) -> bool) -> Vec<String> {
    let of = |event: &&v1::Event| event.kind.as_ref().is_some_and(&is);
    events.iter().filter(of).map(|event| event.execution_id.clone()).collect()
}

async fn active(mut client: v1::execution_service_client::ExecutionServiceClient<tonic::transport::Channel>) -> usize {
    let request = v1::ListExecutionsRequest {
        statuses: vec![v1::WorkflowStatus::Running.into(), v1::WorkflowStatus::Paused.into()],
        ..Default::default()
    };
    client.list_executions(request).await.expect("listed").into_inner().executions.len()
}
