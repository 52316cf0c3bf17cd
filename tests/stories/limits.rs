//! Stories of how many attempts live at once, and who goes first: told by the event stream alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    calls::{gate, span},
    support::{Noxd, eventually, noop},
};
use noxd::proto::v1::{self, WorkflowStatus, event::Kind};

/// The limits of the story: of one agent, of a group, and of all.
const AGENT: usize = 7;
const GROUP: usize = 3;
const ALL: usize = 11;

fn limited(at: usize) -> v1::Task {
    let (agent, group) = match at % 5 {
        0 | 1 => ("coder", ""),
        2 => ("", "database"),
        3 => ("coder", "database"),
        _ => ("", ""),
    };
    let duration = span(Duration::from_millis(5 + at as u64 * 7 % 40));
    v1::Task {
        agent_id: agent.into(),
        parallel_group: group.into(),
        action: Some(v1::task::Action::Noop(v1::NoopAction { duration })),
        ..noop(&format!("t{at}"), &[])
    }
}

/// Who lives and who waits, as the events tell it.
#[derive(Default)]
struct Watched {
    live: BTreeSet<String>,
    waiting: BTreeSet<String>,
    most: [usize; 3],
    full: usize,
}

impl Watched {
    fn counts(&self, tasks: &BTreeMap<String, v1::Task>) -> [usize; 3] {
        let of = |is: &dyn Fn(&v1::Task) -> bool| self.live.iter().filter(|id| is(&tasks[*id])).count();
        let coder = of(&|task| task.agent_id == "coder");
        [coder, of(&|task| task.parallel_group == "database"), self.live.len()]
    }

    fn see(&mut self, event: &v1::Event, tasks: &BTreeMap<String, v1::Task>) {
        let id = event.task_id.clone();
        match &event.kind {
            Some(Kind::ExecutionStarted(_)) => self.waiting = tasks.keys().cloned().collect(),
            Some(Kind::TaskStarted(_)) => {
                assert!(self.waiting.remove(&id), "{id} waited");
                self.live.insert(id);
            }
            Some(Kind::TaskCompleted(_)) => assert!(self.live.remove(&id), "{id} lived"),
            Some(Kind::TaskInterrupted(_)) => {
                assert!(self.live.remove(&id), "{id} lived");
                self.waiting.insert(id);
            }
            _ => {}
        }
        let counts = self.counts(tasks);
        assert!(counts[0] <= AGENT && counts[1] <= GROUP && counts[2] <= ALL, "never exceeded: {counts:?}");
        for (most, count) in self.most.iter_mut().zip(counts) {
            *most = (*most).max(count);
        }
    }

    /// Between two steps, whoever waits is held up by a limit that is full.
    fn all_used(&mut self, tasks: &BTreeMap<String, v1::Task>) {
        let [agent, group, all] = self.counts(tasks);
        for id in &self.waiting {
            let task = &tasks[id];
            let held = all == ALL
                || (task.agent_id == "coder" && agent == AGENT)
                || (task.parallel_group == "database" && group == GROUP);
            assert!(held, "{id} waits, and every limit of it has room: {agent} {group} {all}");
        }
        self.full += usize::from(!self.waiting.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_tasks_never_exceed_three_limits_and_always_use_them_across_sigkill() {
    // S-PAR-1, S-PAR-2, S-PAR-4; R4
    let mut noxd = Noxd::start().await;
    noxd.limit("coder", Some(AGENT as u32)).await;
    let all: Vec<v1::Task> = (0..200).map(limited).collect();
    let tasks: BTreeMap<String, v1::Task> = all.iter().map(|task| (task.id.clone(), task.clone())).collect();
    let limits = [("*", ALL as u32), ("group:database", GROUP as u32)];
    let concurrency_limits = limits.map(|(name, limit)| (name.to_string(), limit)).into();
    noxd.store(v1::Workflow { id: "w".into(), tasks: all, concurrency_limits, ..Default::default() }).await;
    let id = noxd.execute("w").await;
    eventually("it is in the middle", || async {
        let counts = noxd.execution(&id).await.task_counts.expect("counts");
        (counts.completed >= 60).then_some(())
    })
    .await;
    noxd.kill_now();
    noxd.start_again().await;
    assert!(noxd.limits().await.iter().any(|(agent, limit, _)| agent == "coder" && *limit == AGENT as u32));
    let ended = noxd.ended(&id).await;
    assert_eq!(ended.status(), WorkflowStatus::Completed);

    let events = noxd.watch_to_end(&id, 0).await;
    let interrupted = events.iter().filter(|event| matches!(event.kind, Some(Kind::TaskInterrupted(_)))).count();
    assert!(interrupted > 0, "void: nothing ran when noxd was killed");
    let mut watched = Watched::default();
    for (at, event) in events.iter().enumerate() {
        watched.see(event, &tasks);
        // One step of noxd has one time. While it starts, it takes stock before it admits anything.
        let step_ends = events.get(at + 1).is_none_or(|next| next.time != event.time);
        if step_ends && !matches!(event.kind, Some(Kind::TaskInterrupted(_))) {
            watched.all_used(&tasks);
        }
    }
    assert_eq!(watched.most, [AGENT, GROUP, ALL], "each limit was reached");
    assert!(watched.full > 50, "void: {} steps with somebody waiting", watched.full);
    assert!(watched.live.is_empty() && watched.waiting.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn urgent_work_behind_ten_thousand_queued_tasks_starts_next_and_the_others_still_run() {
    // S-PAR-3; R4
    let noxd = Noxd::start_with(&["--concurrency-limit", "4"]).await;
    let open = noxd.path("gate");
    let first = v1::TaskPriority::Critical as i32;
    let gates = (0..4).map(|at| v1::Task { priority: first, ..gate(&format!("gate{at}"), &open, &[]) });
    noxd.create("gates", gates.collect()).await;
    let low = v1::TaskPriority::Low as i32;
    let many = (0..10_000).map(|at| v1::Task { priority: low, ..noop(&format!("low{at}"), &[]) });
    noxd.create("low", many.collect()).await;
    noxd.create("high", vec![v1::Task { priority: v1::TaskPriority::High as i32, ..noop("high", &[]) }]).await;
    let held = noxd.execute("gates").await;
    let low = noxd.execute("low").await;
    let high = noxd.execute("high").await;
    let queued = noxd.execution(&low).await.task_counts.expect("counts");
    assert_eq!(queued.queued, 10_000, "all of them are before it in the queue");
    std::fs::write(&open, "").expect("the gates open");
    for id in [&held, &high, &low] {
        assert_eq!(noxd.ended(id).await.status(), WorkflowStatus::Completed);
    }
    let started = noxd.watch_to_end(&high, 0).await;
    let started = started.iter().find(|event| matches!(event.kind, Some(Kind::TaskStarted(_)))).expect("it started");
    let before = noxd.watch_to_end(&low, 0).await;
    let earlier = before.iter().filter(|event| event.revision < started.revision);
    let earlier = earlier.filter(|event| matches!(event.kind, Some(Kind::TaskStarted(_)))).count();
    assert_eq!(earlier, 0, "none of the ten thousand started before it");
    assert_eq!(noxd.execution(&low).await.task_counts.expect("counts").completed, 10_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_task_waited_for_and_which_limit_is_in_the_event_of_its_start() {
    // S-VIEW-6
    let noxd = Noxd::start().await;
    let open = noxd.path("gate");
    let of = |agent: &str, task: v1::Task| v1::Task { agent_id: agent.into(), ..task };
    let tasks = vec![of("coder", gate("one", &open, &[])), of("coder", noop("two", &[])), noop("three", &["one"])];
    noxd.create("w", tasks).await;
    noxd.limit("coder", Some(1)).await;
    let id = noxd.execute("w").await;
    noxd.task_becomes(&id, "one", v1::TaskStatus::Running).await;
    std::fs::write(&open, "").expect("the gate opens");
    let events = noxd.watch_to_end(&id, 0).await;
    assert!(events.iter().all(|event| !event.actor.is_empty()), "every event has an actor");
    let waited = |task: &str| {
        let started = events.iter().find_map(|event| match &event.kind {
            Some(Kind::TaskStarted(started)) if event.task_id == task => Some(started.waited.clone()),
            _ => None,
        });
        let causes = started.expect("it started").into_iter().map(|waited| (waited.cause, waited.limit));
        causes.collect::<Vec<_>>()
    };
    let words = |cause: &str, limit: &str| vec![(cause.to_string(), limit.to_string())];
    assert_eq!(waited("one"), []);
    assert_eq!(waited("two"), words("limit", "agent:coder"));
    assert_eq!(waited("three"), words("dependency", ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_is_changed_at_once_and_for_ever_and_stops_nothing() {
    // S-PAR-4
    let mut noxd = Noxd::start().await;
    let open = noxd.path("gate");
    let agent = |task: v1::Task| v1::Task { agent_id: "coder".into(), ..task };
    noxd.create("w", (0..4).map(|at| agent(gate(&format!("t{at}"), &open, &[]))).collect()).await;
    let running = || async { noxd.limits().await.into_iter().find(|(agent, ..)| agent == "coder") };
    noxd.limit("coder", Some(1)).await;
    let id = noxd.execute("w").await;
    assert_eq!(running().await, Some(("coder".into(), 1, 1)));
    noxd.limit("coder", Some(3)).await;
    assert_eq!(running().await, Some(("coder".into(), 3, 3)), "raised: more start at once");
    noxd.limit("coder", Some(2)).await;
    assert_eq!(running().await, Some(("coder".into(), 2, 3)), "lowered: nothing that runs is stopped");
    noxd.limit("coder", None).await;
    assert_eq!(running().await, None);
    let counts = noxd.execution(&id).await.task_counts.expect("counts");
    assert_eq!((counts.running, counts.queued), (4, 0));
    noxd.limit("coder", Some(2)).await;
    noxd.limit("", Some(9)).await;
    noxd.kill_now();
    noxd.start_again().await;
    let limits: Vec<(String, u32)> = noxd.limits().await.into_iter().map(|(agent, limit, _)| (agent, limit)).collect();
    assert_eq!(limits, [(String::new(), 9), ("coder".into(), 2)]);
    std::fs::write(&open, "").expect("the gate opens");
    assert_eq!(noxd.ended(&id).await.status(), WorkflowStatus::Completed);
}
