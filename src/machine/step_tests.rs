//! Stories of the machine: commands in, events out, told through one helper.

use std::collections::BTreeMap;

use super::*;
use crate::machine::{
    execution::{Execution, ExecutionStatus, Moves},
    ids::{Elapsed, ExecutionId, Timestamp, WorkflowId},
    message::{AttemptEnd, AttemptOutcome, Content, ExecutionEnd, Inputs, Operation, TaskEnd, Trigger},
    task::TaskStatus,
    workflow::{Action, Definition, Priority, RetrySpec, TaskSpec, TriggerRule, WorkflowSpec},
};

const RUN: ExecutionId = ExecutionId(1);

/// A machine, a clock that the test moves, and everything that happened.
struct Story {
    machine: Machine,
    now: Tick,
    events: Vec<Arc<Recorded>>,
    effects: Vec<Effect>,
}

impl Story {
    fn new(limit: u32) -> Self {
        let now = Tick { wall: Timestamp(1_000_000), elapsed: Elapsed(0), seed: 7 };
        Self { machine: Machine::new(State::new(limit)), now, events: Vec::new(), effects: Vec::new() }
    }

    /// A workflow `w` of noops; `"c: a b"` is a task `c` after `a` and `b`.
    fn with_workflow(limit: u32, lines: &[&str]) -> Self {
        let mut story = Self::new(limit);
        story.tell(Command::CreateWorkflow { content: workflow(lines) }).expect("stored");
        story
    }

    fn tell(&mut self, command: Command) -> Result<Reply, Rejection> {
        let mut step = Step::default();
        let reply = self.machine.apply(command, &Actor::from_text("uid:1"), self.now, &mut step);
        self.effects.extend(step.effects);
        self.events.extend(step.events);
        reply
    }

    fn execute(&mut self, id: ExecutionId) -> Result<Reply, Rejection> {
        let workflow = name("w");
        self.tell(Command::StartExecution {
            execution: id,
            workflow,
            labels: BTreeMap::new(),
            inputs: Inputs::default(),
            trigger: Trigger::Manual,
        })
    }

    fn control(&mut self, operation: Operation) -> Result<Reply, Rejection> {
        self.tell(Command::Control { operation, workflow: name("w"), execution: RUN })
    }

    fn ends(&mut self, task: &str, end: AttemptEnd) -> Result<Reply, Rejection> {
        let execution = self.machine.state().execution(RUN).ok_or(Rejection::Draining)?;
        let index = execution.definition.index_of(task).expect("a task of the story");
        let attempt = AttemptKey { execution: RUN, task: index, attempt: execution.tasks[index as usize].attempt };
        self.report(attempt, end)
    }

    fn report(&mut self, attempt: AttemptKey, end: AttemptEnd) -> Result<Reply, Rejection> {
        self.tell(Command::AttemptEnded { attempt, outcome: Box::new(AttemptOutcome::bare(end)) })
    }

    fn pass(&mut self, micros: u64) {
        self.now.elapsed.0 += micros;
        self.now.wall.0 += i64::try_from(micros).expect("small");
        let mut step = Step::default();
        self.machine.apply_due(self.now, 100, &mut step);
        self.effects.extend(step.effects);
        self.events.extend(step.events);
    }

    fn run(&self) -> &Execution {
        self.machine.state().execution(RUN).expect("it is held until it is dropped")
    }

    /// `a COMPLETED, b RUNNING`
    fn tasks(&self) -> String {
        let run = self.run();
        let lines =
            run.tasks.iter().zip(0..).map(|(state, i)| format!("{} {:?}", run.definition.task(i).id, state.status));
        lines.collect::<Vec<_>>().join(", ")
    }

    fn take_effects(&mut self) -> Vec<String> {
        let name = |key: &AttemptKey| format!("{}#{}", self.run().definition.task(key.task).id, key.attempt);
        let words: Vec<String> = self
            .effects
            .iter()
            .map(|effect| match effect {
                Effect::StartAttempt { attempt, .. } => format!("start {}", name(attempt)),
                Effect::StopAttempt { attempt, cause } => format!("stop {} {cause:?}", name(attempt)),
            })
            .collect();
        self.effects.clear();
        words
    }

    fn end(&self) -> Option<ExecutionEnd> {
        self.events.iter().find_map(|recorded| match recorded.event {
            Event::ExecutionEnded { end } => Some(end),
            _ => None,
        })
    }
}

fn name(id: &str) -> WorkflowId {
    WorkflowId::parse(id).expect("an id")
}

fn workflow(lines: &[&str]) -> Content {
    let tasks = lines
        .iter()
        .map(|line| {
            let (id, dependencies) = line.split_once(':').unwrap_or((line, ""));
            TaskSpec {
                id: id.into(),
                dependencies: dependencies.split_whitespace().map(Into::into).collect(),
                action: Some(Action::Noop { duration_micros: 0 }),
                timeout_micros: id.starts_with("slow").then_some(5_000_000),
                priority: if id.starts_with("urgent") { Priority::Critical } else { Priority::Medium },
                ..TaskSpec::default()
            }
        })
        .collect();
    let spec = WorkflowSpec { tasks, ..WorkflowSpec::named(name("w")) };
    Content::Ready(Definition::check(spec).expect("no faults"))
}

#[test]
fn dependents_start_by_themselves_and_only_afterwards() {
    // S-DEP-1, S-DEP-4; R1.1, R1.2, R1.5
    let mut story = Story::with_workflow(9, &["a", "b", "c: a b"]);
    story.execute(RUN).expect("started");
    assert_eq!(story.take_effects(), ["start a#1", "start b#1"]);
    story.ends("a", AttemptEnd::Succeeded).expect("taken");
    assert_eq!(story.tasks(), "a Completed, b Running, c Pending");
    assert!(story.take_effects().is_empty());
    story.ends("b", AttemptEnd::Succeeded).expect("taken");
    // The same step: no command came between.
    assert_eq!(story.take_effects(), ["start c#1"]);
    story.ends("c", AttemptEnd::Succeeded).expect("taken");
    assert_eq!((story.end(), story.run().status), (Some(ExecutionEnd::Completed), ExecutionStatus::Completed));
}

#[test]
fn a_failure_blocks_what_comes_after_it_and_names_the_cause() {
    // S-DEP-2, S-STATE-3; R1.3
    let mut story = Story::with_workflow(9, &["bad", "next: bad", "last: next", "other"]);
    story.execute(RUN).expect("started");
    story.ends("bad", AttemptEnd::ExitCode(3)).expect("taken");
    assert_eq!(story.tasks(), "bad Failed, next Blocked, last Blocked, other Running");
    assert!(story.run().tasks[1..3].iter().all(|task| task.blocked_by == Some(0)));
    let blocked: Vec<&Event> =
        story.events.iter().map(|r| &r.event).filter(|e| matches!(e, Event::TasksBlocked { .. })).collect();
    assert_eq!(blocked, [&Event::TasksBlocked { tasks: vec![1, 2], cause: 0 }], "one event for all");
    // CONTINUE: the other branch goes on.
    story.ends("other", AttemptEnd::Succeeded).expect("taken");
    assert_eq!(story.end(), Some(ExecutionEnd::Failed));
    assert_eq!(story.run().first_failure.map(|(task, _)| task), Some(0));
}

#[test]
fn over_the_limit_tasks_queue_and_then_run() {
    // S-PAR-1, S-PAR-2; R4.1, R4.3, R4.5
    let mut story = Story::with_workflow(2, &["a", "b", "c", "urgent"]);
    story.execute(RUN).expect("started");
    assert_eq!(story.tasks(), "a Running, b Queued, c Queued, urgent Running");
    story.ends("urgent", AttemptEnd::Succeeded).expect("taken");
    assert_eq!(story.tasks(), "a Running, b Running, c Queued, urgent Completed");
    assert_eq!(story.machine.state().admission().running(), 2);
}

#[test]
fn a_condition_sees_nothing_of_an_attempt_that_was_not_the_last_whatever_is_in_the_same_batch() {
    // S-COND-2, S-COND-4
    let task = |id: &str, dependencies: &[&str]| TaskSpec {
        id: id.into(),
        dependencies: dependencies.iter().map(ToString::to_string).collect(),
        action: Some(Action::Noop { duration_micros: 0 }),
        ..TaskSpec::default()
    };
    let retry = Some(RetrySpec { max_attempts: 2, ..RetrySpec::default() });
    let reads = "tasks.flaky.exit_code == 1".to_string();
    let trigger_rule = TriggerRule::OneSucceeded;
    let early = TaskSpec { trigger_rule, when: reads, ..task("early", &["a", "flaky"]) };
    let tasks = vec![task("a", &[]), TaskSpec { retry, ..task("flaky", &[]) }, early];
    let spec = WorkflowSpec { tasks, ..WorkflowSpec::named(name("w")) };
    for same_batch in [true, false] {
        let mut story = Story::new(9);
        let content = Content::Ready(Definition::check(spec.clone()).expect("no faults"));
        story.tell(Command::CreateWorkflow { content }).expect("stored");
        story.execute(RUN).expect("started");
        story.ends("flaky", AttemptEnd::ExitCode(1)).expect("taken");
        if !same_batch {
            story.machine.state_mut().drop_idle([]);
        }
        story.ends("a", AttemptEnd::Succeeded).expect("taken");
        assert_eq!(story.tasks(), "a Completed, flaky Retrying, early Skipped", "same batch: {same_batch}");
    }
}

#[test]
fn a_pause_lets_running_tasks_finish_and_starts_none() {
    // S-STATE-7
    let mut story = Story::with_workflow(1, &["a", "b: a", "c"]);
    story.execute(RUN).expect("started");
    story.control(Operation::Pause).expect("paused");
    story.take_effects();
    story.ends("a", AttemptEnd::Succeeded).expect("taken");
    assert_eq!(story.tasks(), "a Completed, b Queued, c Queued");
    assert!(story.take_effects().is_empty(), "nothing starts while paused");
    let events = story.events.len();
    story.control(Operation::Pause).expect("pausing the paused succeeds");
    assert_eq!(story.events.len(), events, "and records nothing");
    story.pass(3_000_000);
    story.control(Operation::Resume).expect("resumed");
    assert_eq!(story.take_effects(), ["start b#1"]);
    let Some(Event::TaskStarted { waited, .. }) = story.events.last().map(|r| &r.event) else { panic!("started") };
    assert_eq!((waited.pause, waited.limit, waited.queue), (3_000_000, 0, 0), "the wait is put down to the pause");
}

#[test]
fn a_cancel_waits_until_no_attempt_is_left() {
    // S-STATE-8
    let mut story = Story::with_workflow(9, &["a", "slow", "b: a"]);
    story.execute(RUN).expect("started");
    story.take_effects();
    story.control(Operation::Cancel).expect("asked");
    assert_eq!(story.take_effects(), ["stop a#1 Cancelled", "stop slow#1 Cancelled"]);
    assert_eq!(story.tasks(), "a Running, slow Running, b Cancelled");
    assert_eq!(story.machine.state().next_deadline(), None, "a cancelled attempt has no timeout any more");
    // One was just done: its result counts, but nothing follows from it.
    story.ends("a", AttemptEnd::Succeeded).expect("taken");
    assert_eq!(story.end(), None);
    story.ends("slow", AttemptEnd::Stopped).expect("taken");
    assert_eq!(story.tasks(), "a Completed, slow Cancelled, b Cancelled");
    assert_eq!(story.end(), Some(ExecutionEnd::Cancelled));
    story.control(Operation::Cancel).expect("cancelling the cancelled succeeds");
    let refused = story.control(Operation::Resume).expect_err("terminal is for ever");
    assert!(matches!(refused, Rejection::InvalidWorkflowState { .. }), "{refused}");
}

#[test]
fn a_cancelled_execution_is_neither_paused_nor_resumed() {
    // S-STATE-7
    let mut story = Story::with_workflow(9, &["a"]);
    story.execute(RUN).expect("started");
    story.control(Operation::Cancel).expect("asked");
    assert!(story.control(Operation::Pause).is_err());
    assert!(story.control(Operation::Resume).is_err());
    story.control(Operation::Cancel).expect("asked again");
    // noxd went down meanwhile: the attempt is over, and it is not tried again.
    story.ends("a", AttemptEnd::Interrupted("noxd stopped")).expect("taken");
    assert_eq!(story.end(), Some(ExecutionEnd::Cancelled));
}

#[test]
fn a_timeout_ends_the_attempt_and_says_so() {
    // S-RETRY-5; R3.5
    let mut story = Story::with_workflow(9, &["slow", "after: slow"]);
    story.execute(RUN).expect("started");
    story.take_effects();
    story.pass(4_999_999);
    assert!(story.take_effects().is_empty(), "not yet");
    story.pass(1);
    assert_eq!(story.take_effects(), ["stop slow#1 TimedOut(Attempt)"]);
    assert_eq!(story.tasks(), "slow Running, after Pending", "until its processes are gone");
    story.ends("slow", AttemptEnd::Stopped).expect("taken");
    assert_eq!(story.tasks(), "slow TimedOut, after Blocked");
    let error = story.events.iter().find_map(|recorded| match &recorded.event {
        Event::TaskEnded { end: TaskEnd::TimedOut, result, .. } => result.error.clone(),
        _ => None,
    });
    assert_eq!(error.expect("an error").message, "the attempt ran into its `timeout` of 5 s and was ended");
}

#[test]
fn only_the_live_attempt_is_heard() {
    // S-SAFE-2
    let mut story = Story::with_workflow(9, &["a"]);
    story.execute(RUN).expect("started");
    let first = AttemptKey { execution: RUN, task: 0, attempt: 1 };
    story.report(first, AttemptEnd::Interrupted("noxd stopped")).expect("taken");
    assert_eq!(story.tasks(), "a Running", "queued and started again in one step");
    let stale = story.report(first, AttemptEnd::Succeeded);
    assert_eq!(stale, Err(Rejection::StaleAttempt(first)));
    story.report(AttemptKey { attempt: 2, ..first }, AttemptEnd::Succeeded).expect("taken");
    assert_eq!(story.run().tasks[0].counted_attempts(), 1, "the interrupted one does not count");
    let again = AttemptKey { attempt: 2, ..first };
    assert_eq!(story.report(again, AttemptEnd::Succeeded), Err(Rejection::StaleAttempt(again)));
}

#[test]
fn a_task_that_is_interrupted_too_often_is_given_up() {
    // S-RETRY-7
    let mut story = Story::with_workflow(9, &["a"]);
    story.execute(RUN).expect("started");
    for _ in 0..5 {
        story.ends("a", AttemptEnd::Interrupted("noxd stopped")).expect("taken");
        assert_eq!(story.tasks(), "a Running");
    }
    story.ends("a", AttemptEnd::Interrupted("noxd stopped")).expect("taken");
    assert_eq!(story.end(), Some(ExecutionEnd::Failed));
}

#[test]
fn while_held_nothing_starts_and_nothing_is_refused() {
    // S-SAFE-5: the disk is full; S-RETRY-7: leftovers are being ended
    let mut story = Story::with_workflow(1, &["a", "b: a"]);
    story.machine.state_mut().hold_admission(true);
    story.execute(RUN).expect("started");
    assert_eq!(story.tasks(), "a Queued, b Pending");
    story.machine.state_mut().hold_admission(false);
    story.pass(1);
    assert_eq!(story.take_effects(), ["start a#1"]);
}

#[test]
fn the_queue_has_a_hard_bound_and_room_again_when_work_ends() {
    // S-PAR-2
    let lines: Vec<String> = (0..100_000).map(|i| format!("t{i}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut story = Story::with_workflow(1, &lines);
    for id in 1..=20 {
        story.execute(ExecutionId(id)).expect("started");
    }
    assert_eq!(story.execute(ExecutionId(21)), Err(Rejection::QueueFull { tasks: 2_000_000 }));
    story.control(Operation::Cancel).expect("asked");
    story.ends("t0", AttemptEnd::Stopped).expect("taken");
    story.machine.state_mut().drop_idle([RUN]);
    story.execute(ExecutionId(21)).expect("there is room again");
}

#[test]
fn time_never_goes_back() {
    // S-VIEW-6, S-SCHED-5
    let mut story = Story::with_workflow(1, &["a"]);
    story.now.wall.0 -= 500_000;
    story.execute(RUN).expect("started");
    story.now.wall.0 -= 400_000;
    story.ends("a", AttemptEnd::Succeeded).expect("taken");
    let times: Vec<i64> = story.events.iter().map(|recorded| recorded.time.0).collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn a_mass_change_is_told_in_events_of_a_bounded_size() {
    // S-VIEW-2: each fits into a message of a stream.
    let mut lines = vec!["root".to_string()];
    lines.extend((0..12_000).map(|i| format!("t{i}: root")));
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut story = Story::with_workflow(1, &lines);
    story.execute(RUN).expect("started");
    story.ends("root", AttemptEnd::ExitCode(1)).expect("taken");
    let sizes: Vec<usize> = story
        .events
        .iter()
        .filter_map(|recorded| match &recorded.event {
            Event::TasksBlocked { tasks, .. } => Some(tasks.len()),
            _ => None,
        })
        .collect();
    assert_eq!(sizes, [5_000, 5_000, 2_000]);
    assert_eq!(story.end(), Some(ExecutionEnd::Failed));
}

#[test]
fn while_draining_nothing_starts_and_new_work_is_refused() {
    // S-RETRY-7
    let mut story = Story::with_workflow(1, &["a", "b"]);
    story.execute(RUN).expect("started");
    story.tell(Command::Drain).expect("draining");
    story.ends("a", AttemptEnd::Succeeded).expect("taken");
    assert_eq!(story.tasks(), "a Completed, b Queued");
    assert_eq!(story.execute(ExecutionId(2)), Err(Rejection::Draining));
}

#[test]
fn versions_go_on_counting_and_a_stale_etag_is_refused() {
    // S-DEF-4
    let mut story = Story::with_workflow(1, &["a"]);
    assert_eq!(
        story.tell(Command::CreateWorkflow { content: workflow(&["a"]) }),
        Err(Rejection::WorkflowExists(name("w")))
    );
    let update = |etag: &str| Command::UpdateWorkflow { content: workflow(&["a", "b"]), etag: Some(etag.into()) };
    story.tell(update("v1")).expect("the etag is the one that was read");
    assert!(matches!(story.tell(update("v1")), Err(Rejection::EtagMismatch { .. })));
    story.execute(RUN).expect("started");
    let delete = || Command::DeleteWorkflow { workflow: name("w"), etag: None };
    assert!(matches!(story.tell(delete()), Err(Rejection::InvalidWorkflowState { .. })), "an execution is active");
    story.control(Operation::Cancel).expect("asked");
    story.ends("a", AttemptEnd::Stopped).expect("taken");
    story.tell(delete()).expect("deleted");
    assert_eq!(story.execute(ExecutionId(2)), Err(Rejection::WorkflowNotFound(name("w"))));
    let reply = story.tell(Command::CreateWorkflow { content: workflow(&["a"]) }).expect("the id is free again");
    assert_eq!(reply, Reply::Workflow { workflow: name("w"), version: 3 });
}

#[test]
fn an_execution_rebuilt_from_its_events_is_the_same() {
    // Recovery shares `evolve` with live running.
    let mut story = Story::with_workflow(2, &["a", "bad", "c: a", "d: bad", "slow: a"]);
    story.execute(RUN).expect("started");
    story.control(Operation::Pause).expect("paused");
    story.ends("a", AttemptEnd::Succeeded).expect("taken");
    story.control(Operation::Resume).expect("resumed");
    story.ends("bad", AttemptEnd::ExitCode(1)).expect("taken");
    story.pass(6_000_000);
    let mut of_run = story.events.iter().filter(|recorded| recorded.execution == Some(RUN));
    let start = of_run.next().expect("a start");
    let definition = Arc::clone(&story.run().definition);
    let mut rebuilt = Execution::begin(start, definition, &mut Moves::default()).expect("a start");
    for recorded in of_run {
        rebuilt.evolve(recorded, &mut Moves::default());
    }
    assert_eq!(&rebuilt, story.run());

    // A state that loads it knows the same live attempts and queue; their noxd is gone, so they have no deadline.
    let mut state = State::new(2);
    state.load_execution(rebuilt);
    let live = story.machine.state();
    assert_eq!(state.admission().live().collect::<Vec<_>>(), live.admission().live().collect::<Vec<_>>());
    assert_eq!(state.admission().queued(), live.admission().queued());
    assert_eq!(state.next_deadline(), None);
}

#[test]
fn a_transition_costs_the_same_in_a_small_and_in_a_large_execution() {
    // One event per start and per end, whatever the number of tasks (S-DEP-4).
    for count in [10_u32, 2_000] {
        let mut lines = vec!["root".to_string()];
        lines.extend((0..count).map(|i| format!("t{i}: root")));
        let all: Vec<String> = (0..count).map(|i| format!("t{i}")).collect();
        lines.push(format!("join: {}", all.join(" ")));
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let mut story = Story::with_workflow(1, &lines);
        story.execute(RUN).expect("started");
        let mut most = 0;
        while story.end().is_none() {
            let key = story.machine.state().admission().live().next().expect("a live attempt");
            let before = story.events.len();
            story.report(key, AttemptEnd::Succeeded).expect("taken");
            most = most.max(story.events.len() - before);
        }
        assert_eq!(most, 2, "an end, and the next start or the execution's end, with {count} tasks");
        assert_eq!(story.events.len() as u32, 2 + 2 * (count + 2) + 1);
    }
}

#[test]
fn the_same_commands_give_the_same_events() {
    let tell = || {
        let mut story = Story::with_workflow(2, &["a", "b", "c: a b", "d: c"]);
        story.execute(RUN).expect("started");
        for task in ["b", "a", "c"] {
            story.ends(task, AttemptEnd::Succeeded).expect("taken");
        }
        story.events.iter().map(|recorded| format!("{recorded:?}")).collect::<Vec<_>>()
    };
    assert_eq!(tell(), tell());
}

#[test]
fn every_task_that_has_not_ended_has_an_attempt_or_a_reason_to_wait() {
    // S-STATE-6
    let mut story = Story::with_workflow(1, &["a", "b: a", "c", "d: b c"]);
    story.execute(RUN).expect("started");
    while story.end().is_none() {
        let run = story.run();
        for (state, task) in run.tasks.iter().zip(0..) {
            let waits_for_dependency = run
                .definition
                .graph()
                .dependencies(task)
                .iter()
                .any(|before| !run.tasks[*before as usize].status.is_terminal());
            match state.status {
                TaskStatus::Pending => assert!(waits_for_dependency, "{}", story.tasks()),
                TaskStatus::Queued => assert_eq!(story.machine.state().admission().running(), 1, "{}", story.tasks()),
                status => assert!(status.is_terminal() || status == TaskStatus::Running, "{}", story.tasks()),
            }
        }
        let key = story.machine.state().admission().live().next().expect("a live attempt");
        story.report(key, AttemptEnd::Succeeded).expect("taken");
    }
}
