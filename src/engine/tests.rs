//! Stories of the engine over a whole store: on the simulated disk, with an executor that answers at once.

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    batch::{OpenRows, Rows},
    *,
};
use crate::{
    machine::{
        execution::ExecutionStatus,
        ids::{Elapsed, ExecutionId, TaskIndex, Tick, Timestamp, WorkflowId},
        message::{AttemptEnd, AttemptOutcome, Content, Event, ExecutionEnd, Inputs, Operation, Recorded, Trigger},
        state::State,
        step::Step,
        workflow::{Action, Definition, TaskSpec, WorkflowSpec},
    },
    store::{StoreConfig, simulated::SimulatedDisk},
};

/// An engine on a disk that the test can crash.
struct World {
    disk: SimulatedDisk,
    engine: Option<Engine>,
}

impl World {
    async fn new(seed: u64) -> Self {
        let mut world = Self { disk: SimulatedDisk::new(seed), engine: None };
        world.open().await;
        world
    }

    async fn open(&mut self) {
        let config = StoreConfig {
            segment_bytes: 256 * 1_024,
            overlay_bytes: 1_024 * 1_024,
            ..StoreConfig::new(PathBuf::from("/store"), 7)
        };
        let store = Store::open_simulated(config, &self.disk).expect("a store opens");
        let engine = Engine::open(EngineConfig { concurrency_limit: 4, seed: 1, at_once: |_| None }, store)
            .expect("an engine opens");
        // Where attempts were interrupted, the test says when they have been reported.
        let begun = engine.interrupted.is_empty();
        self.engine = Some(engine);
        if begun {
            self.begin().await;
        }
    }

    async fn begin(&self) {
        self.handle().begin().await.expect("alive");
    }

    fn handle(&self) -> Handle {
        self.engine.as_ref().expect("open").handle.clone()
    }

    /// Takes the effects, so that a test can answer them.
    fn effects(&mut self) -> mpsc::Receiver<Vec<Effect>> {
        let engine = self.engine.as_mut().expect("open");
        std::mem::replace(&mut engine.effects, mpsc::channel(1).1)
    }

    /// Answers every start with success, in the background, until the engine stops.
    fn succeed_always(&mut self) {
        let (mut effects, handle) = (self.effects(), self.handle());
        tokio::spawn(async move {
            while let Some(batch) = effects.recv().await {
                let facts = batch.into_iter().filter_map(|effect| match effect {
                    Effect::StartAttempt { attempt, .. } => Some(succeeded(attempt)),
                    Effect::StopAttempt { .. } => None,
                });
                if handle.report(facts.collect()).await.is_err() {
                    return;
                }
            }
        });
    }

    /// Stops in order.
    async fn close(&mut self) {
        let mut engine = self.engine.take().expect("open");
        engine.handle.stop().await;
        (&mut engine.stopped).await.expect("the writer tells").expect("a clean end");
        engine.join();
    }

    /// The power fails; the next `open` finds what the disk kept.
    async fn crash(&mut self) {
        let mut engine = self.engine.take().expect("open");
        self.disk.fail_power_after(0);
        engine.handle.stop().await;
        // Whether the writer noticed before it was told to stop does not matter: the disk is gone.
        let _ = (&mut engine.stopped).await;
        engine.join();
        self.disk.crash();
    }
}

fn succeeded(attempt: crate::machine::ids::AttemptKey) -> Command {
    Command::AttemptEnded { attempt, outcome: Box::new(AttemptOutcome::bare(AttemptEnd::Succeeded)) }
}

fn one_live(machine: &Machine) -> Option<crate::machine::ids::AttemptKey> {
    machine.state().admission().live().next()
}

fn name(id: &str) -> WorkflowId {
    WorkflowId::parse(id).expect("an id")
}

/// `"c: a b"` is a task `c` after `a` and `b`.
fn content(id: &str, lines: &[String]) -> Content {
    let tasks = lines
        .iter()
        .map(|line| {
            let (task, dependencies) = line.split_once(':').unwrap_or((line, ""));
            TaskSpec {
                id: task.into(),
                dependencies: dependencies.split_whitespace().map(Into::into).collect(),
                action: Some(Action::Noop { duration_micros: 0 }),
                ..TaskSpec::default()
            }
        })
        .collect();
    let spec = WorkflowSpec { tasks, ..WorkflowSpec::named(name(id)) };
    Content::Ready(Definition::check(spec).expect("no faults"))
}

fn lines(lines: &[&str]) -> Vec<String> {
    lines.iter().map(ToString::to_string).collect()
}

fn wants(command: Command) -> Request {
    Request { wanted: Wanted::Command(command), actor: Actor::from_text("uid:1"), id: None }
}

fn start(workflow: &str, execution: u128) -> Command {
    Command::StartExecution {
        execution: ExecutionId(execution),
        workflow: name(workflow),
        labels: BTreeMap::new(),
        inputs: Inputs::default(),
        trigger: Trigger::Manual,
    }
}

fn control(operation: Operation, workflow: &str) -> Request {
    let wanted = Wanted::ControlAll { operation, workflow: name(workflow) };
    Request { wanted, ..wants(Command::Drain) }
}

async fn create(handle: &Handle, id: &str, tasks: &[&str]) {
    let command = Command::CreateWorkflow { content: content(id, &lines(tasks)) };
    handle.submit(wants(command)).await.expect("stored");
}

async fn end_of(handle: &Handle, execution: u128) -> ExecutionEnd {
    let mut watch = handle.watch(Scope::Execution(ExecutionId(execution)), 0);
    while let Some(recorded) = watch.next().await.expect("readable") {
        if let Event::ExecutionEnded { end } = recorded.event {
            return end;
        }
    }
    panic!("the watch ended before the execution");
}

async fn all(mut watch: Watch, through: Revision) -> Vec<Recorded> {
    let mut seen = Vec::new();
    while let Some(recorded) = watch.next().await.expect("readable") {
        seen.push(recorded.as_ref().clone());
        if recorded.revision >= through {
            break;
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_runs_and_its_history_can_be_read() {
    // S-DEP-4, S-VIEW-7
    let mut world = World::new(1).await;
    world.succeed_always();
    let handle = world.handle();
    create(&handle, "w", &["a", "b", "c: a b"]).await;
    handle.submit(wants(start("w", 1))).await.expect("started");
    assert_eq!(end_of(&handle, 1).await, ExecutionEnd::Completed);
    let execution = handle.reads().execution(ExecutionId(1)).expect("readable").expect("there");
    assert_eq!((execution.status, execution.counts().open()), (ExecutionStatus::Completed, 0));
    let events = handle.reads().events(ExecutionId(1), 0, 1_000).expect("readable");
    assert_eq!(events.len(), 1 + 2 * 3 + 1);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_any_revision_gives_exactly_the_rest() {
    // S-VIEW-2
    let mut world = World::new(2).await;
    world.succeed_always();
    let handle = world.handle();
    create(&handle, "w", &["a", "b: a", "c: a", "d: b c"]).await;
    // Two executions interleave, so that revisions of one have holes.
    let both = vec![wants(start("w", 1)), wants(start("w", 2))];
    handle.submit_all(both).await.expect("alive");
    for execution in [1, 2] {
        end_of(&handle, execution).await;
    }
    let newest = handle.revision();
    let everything = all(handle.watch(Scope::All, 0), newest).await;
    let revisions: Vec<Revision> = everything.iter().map(|recorded| recorded.revision).collect();
    assert_eq!(revisions, (1..=newest).collect::<Vec<_>>(), "gap-free");
    for after in 0..newest {
        let rest = |scope: &dyn Fn(&Recorded) -> bool| -> Vec<Recorded> {
            everything.iter().filter(|recorded| recorded.revision > after && scope(recorded)).cloned().collect()
        };
        assert_eq!(all(handle.watch(Scope::All, after), newest).await, rest(&|_| true), "all after {after}");
        let of_workflow = all(handle.watch(Scope::Workflow(name("w")), after), newest).await;
        assert_eq!(of_workflow, rest(&|_| true), "of the workflow after {after}");
        for execution in [1, 2] {
            let id = ExecutionId(execution);
            let expected = rest(&|recorded: &Recorded| recorded.execution == Some(id));
            if !expected.is_empty() {
                // A watch of an execution ends by itself after its last event.
                assert_eq!(all(handle.watch(Scope::Execution(id), after), u64::MAX).await, expected, "after {after}");
            }
        }
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_watcher_misses_nothing() {
    // S-VIEW-2: it lags behind what the channel holds and goes on from the store.
    let mut world = World::new(3).await;
    world.succeed_always();
    let handle = world.handle();
    create(&handle, "w", &["a"]).await;
    let mut slow = handle.watch(Scope::All, 0);
    let first = slow.next().await.expect("readable").expect("an event");
    assert_eq!(first.revision, 1);
    for execution in 1..=300 {
        handle.submit(wants(start("w", execution))).await.expect("started");
    }
    end_of(&handle, 300).await;
    let newest = handle.revision();
    let rest = all(slow, newest).await;
    assert_eq!(rest.iter().map(|recorded| recorded.revision).collect::<Vec<_>>(), (2..=newest).collect::<Vec<_>>());
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_has_no_second_effect() {
    // S-SAFE-3
    let mut world = World::new(4).await;
    let handle = world.handle();
    create(&handle, "w", &["a"]).await;
    let id = |body: u8| Some(RequestId { hash: [1; 16], body_hash: [body; 16] });
    let ask = |execution, body| Request { id: id(body), ..wants(start("w", execution)) };
    // In one batch, and again later.
    let twice = handle.submit_all(vec![ask(1, 1), ask(2, 1)]).await.expect("alive");
    let replies: Vec<_> = twice.into_iter().map(|answer| answer.expect("accepted")).collect();
    assert_eq!(replies[0].reply, Reply::Executions(vec![ExecutionId(1)]));
    assert_eq!((replies[1].reply.clone(), replies[1].repeated), (replies[0].reply.clone(), true));
    // A reader that outlives its store keeps the directory locked.
    drop(handle);
    world.close().await;
    world.open().await;
    let handle = world.handle();
    let again = handle.submit(ask(3, 1)).await.expect("accepted");
    assert_eq!((again.reply, again.repeated), (Reply::Executions(vec![ExecutionId(1)]), true));
    assert!(matches!(handle.submit(ask(4, 2)).await, Err(Refusal::RequestIdReused)));
    assert_eq!(handle.reads().executions(None, None, 10).expect("readable"), [ExecutionId(1)]);
    // Only successes are remembered.
    let failing = Request { id: Some(RequestId { hash: [9; 16], body_hash: [1; 16] }), ..wants(start("nope", 5)) };
    assert!(handle.submit(failing.clone()).await.is_err());
    assert!(matches!(handle.submit(failing).await, Err(Refusal::Rejected(Rejection::WorkflowNotFound(_)))));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_survives_a_power_cut_and_a_resume_completes() {
    // S-STATE-7, S-SAFE-1
    let mut world = World::new(5).await;
    let mut effects = world.effects();
    let handle = world.handle();
    create(&handle, "w", &["a", "b: a"]).await;
    handle.submit(wants(start("w", 1))).await.expect("started");
    let started = effects.recv().await.expect("an attempt");
    assert_eq!(started.len(), 1);
    handle.submit(control(Operation::Pause, "w")).await.expect("paused");
    world.crash().await;

    world.open().await;
    let lost = world.engine.as_ref().expect("open").interrupted.clone();
    assert_eq!(lost.len(), 1, "the attempt of `a` was alive");
    world.succeed_always();
    let handle = world.handle();
    let outcome = Box::new(AttemptOutcome::bare(AttemptEnd::Interrupted("noxd went down")));
    handle.report(vec![Command::AttemptEnded { attempt: lost[0].key, outcome }]).await.expect("taken");
    world.begin().await;
    // Pausing the paused changes nothing, and is answered after what was reported before it.
    handle.submit(control(Operation::Pause, "w")).await.expect("still paused");
    let paused = handle.reads().execution(ExecutionId(1)).expect("readable").expect("there");
    assert_eq!(paused.status, ExecutionStatus::Paused);
    assert_eq!(handle.status().running_tasks, 0, "nothing starts while paused");
    assert_eq!(handle.status().hot_executions, 0, "what only waits is not held in memory");
    handle.submit(control(Operation::Resume, "w")).await.expect("resumed");
    assert_eq!(end_of(&handle, 1).await, ExecutionEnd::Completed);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_power_cuts_and_ends() {
    // S-SAFE-1, S-SAFE-2. Replay a seed alone by setting NOXD_SEED.
    let seeds = match std::env::var("NOXD_SEED").ok().and_then(|seed| seed.parse::<u64>().ok()) {
        Some(seed) => seed..seed + 1,
        None => 100..130,
    };
    let mut acknowledged_in_all = 0;
    for seed in seeds {
        let mut world = World::new(seed).await;
        create(&world.handle(), "w", &["a", "b: a", "c: a b"]).await;
        let mut acknowledged: Vec<u128> = Vec::new();
        let mut next = 1;
        for _ in 0..3 {
            world.succeed_always();
            world.begin().await;
            let handle = world.handle();
            world.disk.fail_power_after(20 + (seed * 7 + next as u64 * 13) % 90);
            // The writer notices the power cut at its next write, and answers nobody after that.
            while handle.submit(wants(start("w", next))).await.is_ok() {
                acknowledged.push(next);
                next += 1;
                assert!(next < 10_000, "seed {seed}: the power never failed");
            }
            next += 1;
            world.crash().await;
            world.open().await;
        }
        world.succeed_always();
        let handle = world.handle();
        let lost = world.engine.as_ref().expect("open").interrupted.clone();
        let facts = lost.iter().map(|lost| Command::AttemptEnded {
            attempt: lost.key,
            outcome: Box::new(AttemptOutcome::bare(AttemptEnd::Interrupted("noxd went down"))),
        });
        handle.report(facts.collect()).await.expect("taken");
        world.begin().await;
        for execution in &acknowledged {
            let end = end_of(&handle, *execution).await;
            assert_eq!(end, ExecutionEnd::Completed, "replay with NOXD_SEED={seed} cargo test power_cuts_and_ends");
        }
        let newest = handle.revision();
        let revisions: Vec<Revision> =
            all(handle.watch(Scope::All, 0), newest).await.iter().map(|recorded| recorded.revision).collect();
        assert_eq!(revisions, (1..=newest).collect::<Vec<_>>(), "seed {seed}: gap-free");
        acknowledged_in_all += acknowledged.len();
        world.close().await;
    }
    assert!(acknowledged_in_all > 30, "a run that did too little is void: {acknowledged_in_all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_new_work_and_lets_what_runs_end() {
    // S-SAFE-5
    let mut world = World::new(7).await;
    let mut effects = world.effects();
    let handle = world.handle();
    create(&handle, "w", &["a", "b: a"]).await;
    handle.submit(wants(start("w", 1))).await.expect("started");
    let Some(Effect::StartAttempt { attempt, .. }) = effects.recv().await.expect("effects").pop() else {
        panic!("an attempt of `a`")
    };
    world.disk.limit_space(Some(world.disk.used_bytes()));
    assert!(matches!(handle.submit(wants(start("w", 2))).await, Err(Refusal::StoreFull)));
    // What runs ends and is recorded; what would follow waits for the space that it would need.
    handle.report(vec![succeeded(attempt)]).await.expect("taken");
    let mut watch = handle.watch(Scope::Execution(ExecutionId(1)), 0);
    while !matches!(watch.next().await.expect("readable").expect("more").event, Event::TaskEnded { .. }) {}
    assert_eq!(handle.reads().execution(ExecutionId(1)).expect("readable").expect("there").counts().open(), 1);
    assert!(effects.try_recv().is_err(), "`b` is held");
    handle.submit(control(Operation::Pause, "w")).await.expect("controls are taken");
    handle.submit(control(Operation::Resume, "w")).await.expect("controls are taken");
    assert!(effects.try_recv().is_err(), "`b` is held");
    world.disk.limit_space(None);
    let started = effects.recv().await.expect("effects");
    assert!(matches!(started[..], [Effect::StartAttempt { attempt, .. }] if attempt.task == 1), "{started:?}");
    handle.submit(wants(start("w", 2))).await.expect("there is room again");
    drop((handle, watch));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_large_message_is_committed_in_parts() {
    // Small requests whose events are large must not make a batch that the store cannot take.
    let world = World::new(8).await;
    let handle = world.handle();
    create(&handle, "w", &["a"]).await;
    let labels: BTreeMap<String, String> = (0..15).map(|i| (format!("k{i}"), "x".repeat(4_096))).collect();
    let large = |execution| {
        let Command::StartExecution { execution, workflow, trigger, .. } = start("w", execution) else {
            unreachable!()
        };
        wants(Command::StartExecution {
            execution,
            workflow,
            trigger,
            labels: labels.clone(),
            inputs: Inputs::default(),
        })
    };
    let syncs = world.disk.count(crate::store::simulated::Operation::Sync);
    let answers = handle.submit_all((1..=300).map(large).collect()).await.expect("alive");
    assert!(answers.iter().all(Result::is_ok));
    let syncs = world.disk.count(crate::store::simulated::Operation::Sync) - syncs;
    assert!(syncs >= 2, "{syncs}");
    assert_eq!(handle.reads().executions(None, None, 1_000).expect("readable").len(), 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_ends_all_acknowledgements() {
    // S-SAFE-5
    let mut world = World::new(6).await;
    let handle = world.handle();
    create(&handle, "w", &["a"]).await;
    world.disk.fail_nth(crate::store::simulated::Operation::Sync, 1, std::io::ErrorKind::Other);
    assert!(matches!(handle.submit(wants(start("w", 1))).await, Err(Refusal::Stopped(_))));
    assert!(matches!(handle.submit(wants(start("w", 2))).await, Err(Refusal::Stopped(_))));
    let mut engine = world.engine.take().expect("open");
    let reason = (&mut engine.stopped).await.expect("told").expect_err("an error").reason;
    assert!(reason.starts_with("the store failed"), "{reason}");
    engine.join();
}

#[test]
fn a_transition_writes_the_same_rows_in_a_small_and_in_a_large_execution() {
    // S-DEP-4: rows and events of each step, over whole executions that differ in size by a hundred.
    let most = |count: TaskIndex| {
        let mut tasks = vec!["root".to_string()];
        tasks.extend((0..count).map(|i| format!("t{i}: root")));
        let every: Vec<String> = (0..count).map(|i| format!("t{i}")).collect();
        tasks.push(format!("join: {}", every.join(" ")));
        let mut machine = Machine::new(State::new(1));
        let tick = Tick { wall: Timestamp(1), elapsed: Elapsed(1), seed: 1 };
        let apply = |machine: &mut Machine, command| {
            let mut step = Step::default();
            machine.apply(command, &Actor::Noxd, tick, &mut step).expect("accepted");
            let rows = Rows::of_events(&step.events, machine.state(), &mut OpenRows::default());
            for id in &rows.snapshots {
                machine.state_mut().snapshot_written(*id);
            }
            (step.events.len(), rows.len(), rows.snapshots.len())
        };
        apply(&mut machine, Command::CreateWorkflow { content: content("w", &tasks) });
        apply(&mut machine, start("w", 1));
        let (mut events, mut rows, mut snapshots) = (0, 0, 0);
        while let Some(attempt) = one_live(&machine) {
            let step = apply(&mut machine, succeeded(attempt));
            // A snapshot is one row more, now and then.
            (events, rows) = (events.max(step.0), rows.max(step.1 - step.2));
            snapshots += step.2;
        }
        (events, rows, snapshots)
    };
    let (small, large) = (most(50), most(5_000));
    assert_eq!((small.0, small.1), (large.0, large.1), "events and rows of the greatest step");
    assert_eq!((small.0, small.1), (2, 4), "an end and what follows; a batch, events, and at the end two index rows");
    assert!(large.2 <= 2, "a snapshot follows as many events as there are tasks: {}", large.2);
}

#[test]
fn a_short_execution_leaves_one_row_of_events_and_two_of_its_own() {
    // What is merged, and read back, is what there is to pay for an execution after its commits.
    let tasks = lines(&["a", "b: a", "c: b"]);
    let mut machine = Machine::new(State::new(1));
    let tick = Tick { wall: Timestamp(1_700_000_000_000_000), elapsed: Elapsed(86_400_000_000), seed: 1 };
    let (mut open, mut rows) = (OpenRows::default(), BTreeMap::new());
    let mut commits = 0;
    let mut apply = |machine: &mut Machine, command| {
        let mut step = Step::default();
        machine.apply(command, &Actor::Noxd, tick, &mut step).expect("accepted");
        let batch = Rows::of_events(&step.events, machine.state(), &mut open).into_batch(machine.state());
        commits += 1;
        for row in batch.rows {
            rows.insert(row.key, row.value.map(|value| value.len()));
        }
    };
    apply(&mut machine, Command::CreateWorkflow { content: content("w", &tasks) });
    apply(&mut machine, start("w", 1));
    while let Some(attempt) = one_live(&machine) {
        apply(&mut machine, succeeded(attempt));
    }
    assert_eq!(commits, 5, "a definition, a start, and three ends");
    let left = |kind: u8| rows.iter().filter(|(key, value)| key[0] == kind && value.is_some()).count();
    assert_eq!([b'e', b'x', b'y', b'a'].map(left), [1, 1, 1, 0], "{:?}", rows.keys());
    let events: usize = rows.iter().filter(|(key, _)| key[0] == b'e').filter_map(|(_, bytes)| *bytes).sum();
    assert!(events <= 512, "{events} bytes of events");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_executions_take_is_known_to_the_next_after_a_restart_too() {
    // S-VIEW-1
    let mut world = World::new(13).await;
    create(&world.handle(), "w", &["a", "b: a"]).await;
    for number in 1..=4 {
        if number == 3 {
            world.crash().await;
            world.open().await;
        }
        let handle = world.handle();
        if number % 2 == 1 {
            world.succeed_always();
        }
        handle.submit(wants(start("w", number))).await.expect("started");
        assert_eq!(end_of(&handle, number).await, ExecutionEnd::Completed);
        let execution = handle.reads().execution(ExecutionId(number)).expect("readable").expect("there");
        let rests_on = execution.expected.as_ref().map_or(0, |expected| expected.executions());
        assert_eq!(u128::from(rests_on), number - 1, "those that had ended before it began");
    }
    let durations = world.handle().reads().durations(&name("w"), 1).expect("readable");
    assert_eq!((durations.executions, durations.tasks.len()), (4, 2), "one row tells of all");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_about_a_small_execution_reads_no_row_and_says_what_the_rows_say() {
    // S-VIEW-7
    let mut world = World::new(11).await;
    let mut effects = world.effects();
    let handle = world.handle();
    create(&handle, "w", &["a", "b: a"]).await;
    let before = handle.reads().count();
    let answer = handle.submit(wants(start("w", 1))).await.expect("started");
    let started = answer.shown.expect("the writer has it at hand");
    assert_eq!((started.execution.status, started.execution.counts().open()), (ExecutionStatus::Running, 2));
    let End::Ahead(ended) = handle.end_of(ExecutionId(1)) else { panic!("it has not ended") };
    for _ in 0..2 {
        let Some(Effect::StartAttempt { attempt, .. }) = effects.recv().await.expect("effects").pop() else {
            panic!("an attempt")
        };
        handle.report(vec![succeeded(attempt)]).await.expect("taken");
    }
    let ended = ended.await.expect("told").expect("at hand");
    assert_eq!(ended.execution.status, ExecutionStatus::Completed);
    assert!(handle.ended(ExecutionId(1)).is_some());
    assert!(matches!(handle.end_of(ExecutionId(1)), End::Reached(_)));
    assert_eq!(handle.reads().count(), before, "rows were read");

    let from_rows = handle.reads().execution(ExecutionId(1)).expect("readable").expect("there");
    assert_eq!(*ended.execution, from_rows);
    let events = handle.reads().events(ExecutionId(1), 0, 100).expect("readable");
    let ends = events.into_iter().filter(|recorded| matches!(recorded.event, Event::TaskEnded { .. }));
    assert_eq!(
        ended.ends.iter().map(|recorded| recorded.as_ref().clone()).collect::<Vec<_>>(),
        ends.collect::<Vec<_>>()
    );
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_at_once_is_taken_with_the_next_batch_and_needs_no_executor() {
    // S-SAFE-2
    let disk = SimulatedDisk::new(12);
    let store = Store::open_simulated(StoreConfig::new(PathBuf::from("/store"), 7), &disk).expect("a store opens");
    let at_once = |effect: &Effect| match effect {
        Effect::StartAttempt { attempt, .. } => Some(succeeded(*attempt)),
        Effect::StopAttempt { .. } => None,
    };
    let engine = Engine::open(EngineConfig { concurrency_limit: 2, seed: 1, at_once }, store).expect("an engine opens");
    let handle = engine.handle.clone();
    handle.begin().await.expect("alive");
    create(&handle, "w", &["a", "b", "c: a b", "d: c"]).await;
    handle.submit(wants(start("w", 1))).await.expect("started");
    assert_eq!(end_of(&handle, 1).await, ExecutionEnd::Completed);
    let events = handle.reads().events(ExecutionId(1), 0, 100).expect("readable");
    let started = events.iter().filter(|recorded| matches!(recorded.event, Event::TaskStarted { .. })).count();
    assert_eq!(started, 4, "each was started once, durably, before it ended");
    handle.stop().await;
    drop(handle);
    engine.join();
}

#[test]
fn a_snapshot_and_the_events_after_it_give_the_same_execution() {
    let tasks: Vec<String> = (0..400).map(|i| if i == 0 { "t0".into() } else { format!("t{i}: t{}", i / 2) }).collect();
    let disk = SimulatedDisk::new(9);
    let mut store = Store::open_simulated(StoreConfig::new(PathBuf::from("/store"), 7), &disk).expect("a store");
    let reads = Reads::new(store.reader());
    let mut machine = Machine::new(State::new(3));
    let tick = Tick { wall: Timestamp(1), elapsed: Elapsed(1), seed: 1 };
    let mut apply = |machine: &mut Machine, command| {
        let mut step = Step::default();
        machine.apply(command, &Actor::Noxd, tick, &mut step).expect("accepted");
        let mut rows = Rows::of_events(&step.events, machine.state(), &mut OpenRows::default());
        let snapshots = std::mem::take(&mut rows.snapshots);
        snapshots.iter().for_each(|id| machine.state_mut().snapshot_written(*id));
        store.commit(rows.into_batch(machine.state())).expect("durable");
        !snapshots.is_empty()
    };
    apply(&mut machine, Command::CreateWorkflow { content: content("w", &tasks) });
    apply(&mut machine, start("w", 1));
    let mut snapshots = 0;
    while let Some(attempt) = one_live(&machine) {
        snapshots += u32::from(apply(&mut machine, succeeded(attempt)));
        let live = machine.state().execution(ExecutionId(1)).expect("hot").clone();
        let read = reads.execution(ExecutionId(1)).expect("readable").expect("there");
        // How far the last snapshot is, only the writer counts.
        let read = crate::machine::execution::Execution { events_since_snapshot: live.events_since_snapshot, ..read };
        assert_eq!(read, live);
    }
    assert!(snapshots >= 1, "no snapshot was ever taken");
}
