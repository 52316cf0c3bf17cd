//! Stories of what an execution can do beyond running its tasks in order: rules, conditions, handlers, retries, time,
//! people, reruns.

use std::sync::Arc;

use super::*;
use crate::machine::{
    execution::{Execution, ExecutionStatus, Moves},
    expected::Durations,
    explain,
    ids::{Elapsed, Timestamp, WorkflowId},
    message::{AttemptEnd, AttemptOutcome, Content, ErrorKind, ExecutionEnd, Inputs, Operation, Output, Trigger},
    progress::{estimate, percent},
    task::TaskStatus,
    workflow::{
        Action, ApprovalAction, BackoffSpec, Definition, FailurePolicy, InputSpec, RetrySpec, TaskSpec, TriggerRule,
        WorkflowSpec,
    },
};

const RUN: ExecutionId = ExecutionId(1);
const SECOND: u64 = 1_000_000;

struct Story {
    machine: Machine,
    now: Tick,
    events: Vec<Arc<Recorded>>,
    effects: Vec<Effect>,
}

impl Story {
    fn of(spec: WorkflowSpec) -> Self {
        let now = Tick { wall: Timestamp(1_000_000), elapsed: Elapsed(0), seed: 7 };
        let mut story = Self { machine: Machine::new(State::new(9)), now, events: Vec::new(), effects: Vec::new() };
        let content = Content::Ready(Definition::check(spec).expect("no faults"));
        story.tell(Command::CreateWorkflow { content }).expect("stored");
        story.start(RUN, serde_json::Map::new()).expect("started");
        story
    }

    fn start(
        &mut self,
        execution: ExecutionId,
        inputs: serde_json::Map<String, serde_json::Value>,
    ) -> Result<Reply, Rejection> {
        self.tell(Command::StartExecution {
            execution,
            workflow: name(),
            labels: std::collections::BTreeMap::new(),
            inputs: Inputs(Arc::new(inputs)),
            trigger: Trigger::Manual,
        })
    }

    fn tell(&mut self, command: Command) -> Result<Reply, Rejection> {
        self.tell_as("uid:1", command)
    }

    fn tell_as(&mut self, actor: &str, command: Command) -> Result<Reply, Rejection> {
        let mut step = Step::default();
        let reply = self.machine.apply(command, &Actor::from_text(actor), self.now, &mut step);
        assert!(step.needs.is_empty(), "what tasks of this story left is in memory");
        self.effects.extend(step.effects);
        self.events.extend(step.events);
        reply
    }

    fn control(&mut self, operation: Operation) {
        self.tell(Command::Control { operation, workflow: name(), execution: RUN }).expect("taken");
    }

    fn answer(&mut self, actor: &str, task: &str, approved: bool) -> Result<Reply, Rejection> {
        let command = Command::ResolveApproval { execution: RUN, task: task.into(), approved, comment: "seen".into() };
        self.tell_as(actor, command)
    }

    fn key(&self, task: &str) -> AttemptKey {
        let run = self.run();
        let index = run.definition.index_of(task).expect("a task of the story");
        AttemptKey { execution: RUN, task: index, attempt: run.tasks[index as usize].attempt }
    }

    fn ends(&mut self, task: &str, end: AttemptEnd) {
        self.report(self.key(task), end);
    }

    fn report(&mut self, attempt: AttemptKey, end: AttemptEnd) {
        let outcome = Box::new(AttemptOutcome::bare(end));
        self.tell(Command::AttemptEnded { attempt, outcome }).expect("taken");
    }

    fn succeeds(&mut self, task: &str) {
        self.ends(task, AttemptEnd::Succeeded);
    }

    fn fails(&mut self, task: &str) {
        self.ends(task, AttemptEnd::ExitCode(3));
    }

    fn leaves(&mut self, task: &str, json: &str) {
        let output = Some(Output { json: json.into(), size: json.len() as u64 });
        let outcome = AttemptOutcome { output, ..AttemptOutcome::bare(AttemptEnd::Succeeded) };
        let attempt = self.key(task);
        self.tell(Command::AttemptEnded { attempt, outcome: Box::new(outcome) }).expect("taken");
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
        let lines = run
            .tasks
            .iter()
            .zip(0..)
            .map(|(state, i)| format!("{} {}", run.definition.task(i).id, state.status.as_str()));
        lines.collect::<Vec<_>>().join(", ")
    }

    fn end(&self) -> Option<ExecutionEnd> {
        self.events.iter().find_map(|recorded| match recorded.event {
            Event::ExecutionEnded { end } if recorded.execution == Some(RUN) => Some(end),
            _ => None,
        })
    }

    fn error_of(&self, task: &str) -> Option<(ErrorKind, String)> {
        let index = self.key(task).task;
        self.events.iter().rev().find_map(|recorded| match &recorded.event {
            Event::TaskEnded { task, result, .. } if *task == index => {
                result.error.as_ref().map(|error| (error.kind, error.message.clone()))
            }
            _ => None,
        })
    }

    fn why(&self, task: &str) -> Vec<&'static str> {
        let blockers = explain::explain(self.machine.state(), RUN, task).expect("a task");
        blockers.iter().map(|blocker| blocker.kind.as_str()).collect()
    }
}

fn name() -> WorkflowId {
    WorkflowId::parse("w").expect("an id")
}

/// `"c: a b"` is a noop `c` after `a` and `b`.
fn noop(line: &str) -> TaskSpec {
    let (id, dependencies) = line.split_once(':').unwrap_or((line, ""));
    TaskSpec {
        id: id.into(),
        dependencies: dependencies.split_whitespace().map(Into::into).collect(),
        action: Some(Action::Noop { duration_micros: 0 }),
        ..TaskSpec::default()
    }
}

fn under(rule: TriggerRule, line: &str) -> TaskSpec {
    TaskSpec { trigger_rule: rule, ..noop(line) }
}

fn workflow(tasks: Vec<TaskSpec>) -> WorkflowSpec {
    WorkflowSpec { tasks, ..WorkflowSpec::named(name()) }
}

fn retry(max_attempts: u32, seconds: f64) -> Option<RetrySpec> {
    Some(RetrySpec { max_attempts, backoff: Some(BackoffSpec::Fixed { delay: seconds }), ..RetrySpec::default() })
}

#[test]
fn the_statuses_of_an_execution_have_the_names_that_are_promised() {
    // S-STATE-1
    use ExecutionStatus::{Cancelled, Completed, Failed, Paused, Running};
    let names = [Running, Paused, Completed, Failed, Cancelled].map(ExecutionStatus::as_str);
    assert_eq!(names, ["RUNNING", "PAUSED", "COMPLETED", "FAILED", "CANCELLED"]);
}

#[test]
fn a_failure_that_is_allowed_blocks_nothing_and_fails_nothing() {
    // S-DEP-1, S-STATE-3
    let mut story = Story::of(workflow(vec![TaskSpec { allow_failure: true, ..noop("lint") }, noop("build: lint")]));
    story.fails("lint");
    assert_eq!(story.tasks(), "lint FAILED, build RUNNING");
    story.succeeds("build");
    assert_eq!(story.end(), Some(ExecutionEnd::Completed));
    assert_eq!(story.run().first_failure, None);
}

#[test]
fn each_rule_says_when_its_task_runs() {
    // S-DEP-3
    let tasks = || {
        vec![
            noop("good"),
            noop("bad"),
            under(TriggerRule::AllDone, "done: good bad"),
            under(TriggerRule::OneSucceeded, "some: good bad"),
            under(TriggerRule::OneFailed, "alarm: good bad"),
            under(TriggerRule::AllFailed, "none: good bad"),
            noop("plain: good bad"),
            under(TriggerRule::AllCompleted, "strict: none"),
        ]
    };
    let mut story = Story::of(workflow(tasks()));
    story.succeeds("good");
    assert_eq!(
        story.tasks(),
        "good COMPLETED, bad RUNNING, done PENDING, some RUNNING, alarm PENDING, none SKIPPED, plain PENDING, \
         strict SKIPPED",
        "ONE_SUCCEEDED does not wait for the rest, and what can hold no more is skipped"
    );
    story.fails("bad");
    assert_eq!(
        story.tasks(),
        "good COMPLETED, bad FAILED, done RUNNING, some RUNNING, alarm RUNNING, none SKIPPED, plain BLOCKED, \
         strict SKIPPED"
    );
    for task in ["done", "some", "alarm"] {
        story.succeeds(task);
    }
    assert_eq!(story.end(), Some(ExecutionEnd::Failed));
}

#[test]
fn a_rule_hears_of_blocked_tasks_too() {
    // S-DEP-3: BLOCKED counts as failed.
    let tasks = vec![noop("a"), noop("b: a"), under(TriggerRule::AllFailed, "repair: b"), noop("after: repair")];
    let mut story = Story::of(workflow(tasks));
    story.fails("a");
    assert_eq!(story.tasks(), "a FAILED, b BLOCKED, repair RUNNING, after PENDING");
    story.succeeds("repair");
    assert_eq!(story.tasks(), "a FAILED, b BLOCKED, repair COMPLETED, after RUNNING");
}

#[test]
fn a_condition_looks_at_what_was_left_in_the_same_step() {
    // S-COND-1, S-COND-3, S-DEP-4
    let when = |line: &str, when: &str| TaskSpec { when: when.into(), ..noop(line) };
    let tasks = vec![
        noop("test"),
        when("deploy: test", "tasks.test.output.failed == 0"),
        when("report: test", "tasks.test.output.failed > 0"),
        when("broken: test", "tasks.test.output.nothing > 0"),
        noop("end: deploy report broken"),
    ];
    let mut story = Story::of(workflow(tasks));
    story.leaves("test", r#"{"failed":0}"#);
    assert_eq!(
        story.tasks(),
        "test COMPLETED, deploy RUNNING, report SKIPPED, broken SKIPPED, end PENDING",
        "a skipped task counts as fulfilled"
    );
    // S-COND-4
    let errors: Vec<&Event> =
        story.events.iter().map(|r| &r.event).filter(|event| matches!(event, Event::ConditionError { .. })).collect();
    assert!(matches!(errors[..], [Event::ConditionError { task: 3, .. }]), "{errors:?}");
    story.succeeds("deploy");
    story.succeeds("end");
    assert_eq!(story.end(), Some(ExecutionEnd::Completed));
}

fn with_handlers() -> WorkflowSpec {
    WorkflowSpec {
        on_failure: vec!["alert".into()],
        finally: vec!["clean".into(), "tell".into()],
        ..workflow(vec![noop("work"), noop("more: work"), noop("alert"), noop("clean"), noop("tell: clean")])
    }
}

#[test]
fn handlers_run_at_the_end_and_only_those_that_are_wanted() {
    // S-STATE-5
    let mut story = Story::of(with_handlers());
    assert_eq!((story.why("alert"), story.why("clean")), (vec!["HANDLER"], vec!["HANDLER"]));
    story.succeeds("work");
    story.succeeds("more");
    assert_eq!(story.tasks(), "work COMPLETED, more COMPLETED, alert SKIPPED, clean RUNNING, tell PENDING");
    story.succeeds("clean");
    story.fails("tell");
    assert_eq!(story.end(), Some(ExecutionEnd::Failed), "a failing `finally` makes a success FAILED");

    let mut story = Story::of(with_handlers());
    story.fails("work");
    assert_eq!(story.tasks(), "work FAILED, more BLOCKED, alert RUNNING, clean PENDING, tell PENDING");
    story.fails("alert");
    assert_eq!(story.tasks(), "work FAILED, more BLOCKED, alert FAILED, clean RUNNING, tell PENDING");
    story.succeeds("clean");
    story.succeeds("tell");
    assert_eq!(story.end(), Some(ExecutionEnd::Failed));
    assert_eq!(story.run().first_failure.map(|(task, _)| task), Some(0));
}

#[test]
fn a_cancel_spares_finally_and_a_second_one_does_not() {
    // S-STATE-5, S-STATE-8
    let mut story = Story::of(with_handlers());
    story.control(Operation::Pause);
    story.control(Operation::Cancel);
    assert_eq!(story.tasks(), "work RUNNING, more CANCELLED, alert CANCELLED, clean PENDING, tell PENDING");
    story.ends("work", AttemptEnd::Stopped);
    assert_eq!(story.tasks(), "work CANCELLED, more CANCELLED, alert CANCELLED, clean RUNNING, tell PENDING");
    assert_eq!(story.error_of("work"), Some((ErrorKind::Cancelled, "the execution was cancelled".into())));
    assert_eq!((story.run().status, story.run().cancel_requested_at.is_some()), (ExecutionStatus::Running, true));
    story.control(Operation::Cancel);
    assert_eq!(story.tasks(), "work CANCELLED, more CANCELLED, alert CANCELLED, clean RUNNING, tell CANCELLED");
    let told = story.events.len();
    story.control(Operation::Cancel);
    assert_eq!(story.events.len(), told, "a third one is nothing new");
    story.ends("clean", AttemptEnd::Stopped);
    assert_eq!(story.end(), Some(ExecutionEnd::Cancelled));
}

#[test]
fn fail_fast_calls_off_the_rest_but_not_the_handlers() {
    // S-STATE-4, S-STATE-5
    let spec = WorkflowSpec {
        failure_policy: FailurePolicy::FailFast,
        on_failure: vec!["alert".into()],
        ..workflow(vec![noop("a"), noop("b"), noop("c: b"), noop("d: a"), noop("alert")])
    };
    let mut story = Story::of(spec);
    story.effects.clear();
    story.fails("a");
    assert_eq!(story.tasks(), "a FAILED, b RUNNING, c CANCELLED, d BLOCKED, alert PENDING");
    assert!(matches!(story.effects[..], [Effect::StopAttempt { cause: StopCause::Cancelled, .. }]));
    story.ends("b", AttemptEnd::Stopped);
    assert_eq!(story.tasks(), "a FAILED, b CANCELLED, c CANCELLED, d BLOCKED, alert RUNNING");
    let (_, words) = story.error_of("b").expect("an error");
    assert_eq!(words, "another task failed, and the workflow is FAIL_FAST");
    story.succeeds("alert");
    assert_eq!(story.end(), Some(ExecutionEnd::Failed));
}

#[test]
fn a_failed_attempt_is_tried_again_after_its_delay_and_never_more_often_than_allowed() {
    // S-RETRY-1, S-RETRY-4, S-RETRY-6
    let mut story = Story::of(workflow(vec![TaskSpec { retry: retry(3, 2.0), ..noop("flaky") }, noop("next: flaky")]));
    story.fails("flaky");
    assert_eq!(story.tasks(), "flaky RETRYING, next PENDING");
    assert_eq!(story.why("flaky"), ["BACKOFF"]);
    assert_eq!(story.machine.state().admission().running(), 0, "a waiting task holds no slot");
    story.pass(SECOND);
    assert_eq!(story.tasks(), "flaky RETRYING, next PENDING");
    story.pass(SECOND);
    assert_eq!(story.tasks(), "flaky RUNNING, next PENDING");
    // An attempt that noxd itself ended does not count (S-RETRY-7).
    story.ends("flaky", AttemptEnd::Interrupted("noxd shut down"));
    story.fails("flaky");
    story.pass(2 * SECOND);
    story.fails("flaky");
    assert_eq!(story.tasks(), "flaky FAILED, next BLOCKED");
    assert_eq!(story.run().tasks[0].attempt, 4);
    assert_eq!(story.end(), Some(ExecutionEnd::Failed));
}

#[test]
fn a_pause_holds_what_a_backoff_releases() {
    // S-STATE-7
    let mut story = Story::of(workflow(vec![TaskSpec { retry: retry(2, 1.0), ..noop("flaky") }]));
    story.fails("flaky");
    story.control(Operation::Pause);
    story.pass(5 * SECOND);
    assert_eq!((story.tasks(), story.why("flaky")), ("flaky QUEUED".into(), vec!["PAUSE"]));
    story.control(Operation::Resume);
    assert_eq!(story.tasks(), "flaky RUNNING");
    story.fails("flaky");
    assert_eq!(story.end(), Some(ExecutionEnd::Failed));
}

#[test]
fn each_limit_of_time_ends_what_it_bounds_and_says_so() {
    // S-RETRY-5, S-STATE-7
    let spec = WorkflowSpec {
        execution_timeout_micros: Some(60 * SECOND),
        concurrency_limits: [("*".to_string(), 1)].into(),
        ..workflow(vec![
            noop("runs"),
            TaskSpec { queue_timeout_micros: Some(5 * SECOND), ..noop("queued") },
            noop("after: queued"),
        ])
    };
    let mut story = Story::of(spec);
    assert_eq!(story.why("queued"), ["LIMIT"]);
    story.pass(5 * SECOND);
    assert_eq!(story.tasks(), "runs RUNNING, queued TIMED_OUT, after BLOCKED");
    let (kind, words) = story.error_of("queued").expect("an error");
    assert!(kind == ErrorKind::Timeout && words.contains("`queue_timeout` of 5 s"), "{words}");
    story.effects.clear();
    story.pass(55 * SECOND);
    let [Effect::StopAttempt { cause: StopCause::ExecutionTimedOut, .. }] = story.effects[..] else {
        panic!("{:?}", story.effects)
    };
    story.ends("runs", AttemptEnd::Stopped);
    assert_eq!(
        (story.tasks(), story.end()),
        ("runs TIMED_OUT, queued TIMED_OUT, after BLOCKED".into(), Some(ExecutionEnd::Failed))
    );
    assert!(story.error_of("runs").expect("an error").1.contains("`execution_timeout` of 60 s"));
}

#[test]
fn silence_is_told_by_the_executor_and_ended_by_the_machine() {
    // S-RETRY-5
    let task = TaskSpec { idle_timeout_micros: Some(SECOND), retry: retry(2, 0.0), ..command("agent") };
    let mut story = Story::of(workflow(vec![task]));
    let attempt = story.key("agent");
    story.tell(Command::AttemptSilent { attempt }).expect("taken");
    story.tell(Command::AttemptSilent { attempt }).expect("taken");
    let stops = story.effects.iter().filter(|effect| matches!(effect, Effect::StopAttempt { .. })).count();
    assert_eq!(stops, 1);
    story.ends("agent", AttemptEnd::Stopped);
    assert!(story.error_of("agent").expect("an error").1.contains("`idle_timeout` of 1 s"));
    story.pass(0);
    assert_eq!((story.tasks(), story.run().tasks[0].attempt), ("agent RUNNING".into(), 2));
}

fn command(id: &str) -> TaskSpec {
    let command = crate::machine::workflow::CommandAction { argv: vec!["true".into()], ..Default::default() };
    TaskSpec { action: Some(Action::Command(command)), ..noop(id) }
}

fn approval(line: &str, approvers: &[&str], timeout_micros: Option<u64>) -> TaskSpec {
    let approvers = approvers.iter().map(ToString::to_string).collect();
    let action = Action::Approval(ApprovalAction { prompt: "go on?".into(), approvers, timeout_micros });
    TaskSpec { action: Some(action), ..noop(line) }
}

#[test]
fn an_approval_waits_without_a_slot_and_takes_one_answer() {
    // S-STATE-2, S-RETRY-4
    let tasks = vec![noop("build"), approval("ask: build", &["uid:7"], None), noop("ship: ask")];
    let mut story = Story::of(workflow(tasks));
    story.succeeds("build");
    assert_eq!(
        (story.tasks(), story.why("ask")),
        ("build COMPLETED, ask WAITING, ship PENDING".into(), vec!["APPROVAL"])
    );
    assert!(matches!(story.answer("uid:1", "ask", true), Err(Rejection::NotAnApprover { .. })));
    assert!(matches!(story.answer("uid:7", "ship", true), Err(Rejection::NotWaiting { .. })));
    assert!(matches!(story.answer("uid:7", "nope", true), Err(Rejection::TaskNotFound { .. })));
    story.answer("uid:7", "ask", true).expect("taken");
    assert!(matches!(story.answer("uid:7", "ask", false), Err(Rejection::NotWaiting { .. })));
    assert_eq!(story.tasks(), "build COMPLETED, ask COMPLETED, ship RUNNING");

    let tasks = vec![approval("ask", &[], Some(10 * SECOND)), approval("again", &[], None)];
    let mut story = Story::of(workflow(tasks));
    story.answer("uid:1", "again", false).expect("taken");
    story.pass(10 * SECOND);
    assert_eq!(story.tasks(), "ask TIMED_OUT, again FAILED");
    assert_eq!(story.error_of("again").expect("an error").0, ErrorKind::Rejected);
    assert_eq!(story.end(), Some(ExecutionEnd::Failed));
}

#[test]
fn an_execution_that_only_waits_is_not_held_and_wakes_in_time() {
    // S-SAFE-4: what waits costs an index entry.
    let mut story = Story::of(workflow(vec![approval("ask", &[], Some(3 * SECOND))]));
    let before = story.run().clone();
    story.machine.state_mut().drop_idle([RUN]);
    let state = story.machine.state();
    assert_eq!((state.hot_count(), state.alive_count()), (0, 1));
    story.now.elapsed.0 += 3 * SECOND;
    assert_eq!(story.machine.state().due_elsewhere(story.now, 9), [RUN]);
    story.machine.state_mut().load_execution(before);
    story.pass(0);
    assert_eq!((story.tasks(), story.end()), ("ask TIMED_OUT".into(), Some(ExecutionEnd::Failed)));
}

#[test]
fn inputs_are_checked_all_at_once_and_defaults_are_filled_in() {
    // S-COND-3, S-DEF-1
    let input = |name: &str, required, default: Option<&str>| InputSpec {
        name: name.into(),
        required,
        default_value: default.map(Into::into),
        ..InputSpec::default()
    };
    let spec = WorkflowSpec {
        inputs: vec![input("env", false, Some("\"dev\"")), input("who", false, None)],
        ..workflow(vec![TaskSpec { when: "inputs.env == 'prod'".into(), ..noop("ship") }])
    };
    let mut story = Story::of(spec);
    assert_eq!((story.tasks(), story.end()), ("ship SKIPPED".into(), Some(ExecutionEnd::Completed)));
    let given = |json: serde_json::Value| match json {
        serde_json::Value::Object(map) => map,
        _ => serde_json::Map::new(),
    };
    let faults = story.start(ExecutionId(2), given(serde_json::json!({"env": 3, "nope": 1})));
    let Err(Rejection::InvalidInputs { violations, .. }) = faults else { panic!("{faults:?}") };
    assert_eq!(violations.len(), 2, "{violations:?}");
    story.start(ExecutionId(3), given(serde_json::json!({"env": "prod"}))).expect("started");
    let started = story.machine.state().execution(ExecutionId(3)).expect("held");
    assert_eq!(started.tasks[0].status, TaskStatus::Running);
}

#[test]
fn a_rerun_keeps_what_was_good_and_redoes_what_comes_after_the_rest() {
    let spec = WorkflowSpec {
        finally: vec!["clean".into()],
        ..workflow(vec![noop("a"), noop("b: a"), noop("c: b"), noop("other"), noop("clean")])
    };
    let mut story = Story::of(spec);
    for task in ["a", "other"] {
        story.succeeds(task);
    }
    let source = |story: &Story| story.run().clone();
    let running = source(&story);
    assert!(matches!(crate::machine::rerun::plan(&running, &[]), Err(Rejection::InvalidWorkflowState { .. })));
    story.fails("b");
    story.succeeds("clean");
    assert_eq!(story.end(), Some(ExecutionEnd::Failed));
    let again = ExecutionId(9);
    let ended = source(&story);
    story.machine.state_mut().load_source(ended);
    let command = Command::RerunExecution { execution: again, source: RUN, tasks: vec!["other".into()] };
    story.tell(command).expect("started");
    let run = story.machine.state().execution(again).expect("held");
    let statuses: Vec<TaskStatus> = run.tasks.iter().map(|task| task.status).collect();
    use TaskStatus::{Completed, Pending, Running};
    assert_eq!(statuses, [Completed, Running, Pending, Running, Pending]);
    assert!(run.tasks[0].reused && !run.tasks[3].reused);
    let named = Command::RerunExecution { execution: ExecutionId(8), source: RUN, tasks: vec!["ghost".into()] };
    assert!(matches!(story.tell(named), Err(Rejection::TaskNotFound { .. })));
}

#[test]
fn a_limit_holds_at_once_and_stops_nothing() {
    // S-PAR-1, S-PAR-4
    let by = |agent: &str, line: &str| TaskSpec { agent_id: agent.into(), ..noop(line) };
    let tasks = (0..6).map(|i| by("coder", &format!("t{i}"))).collect();
    let mut story = Story::of(workflow(tasks));
    assert_eq!(story.machine.state().admission().running(), 6);
    let set = |limit| Command::SetConcurrencyLimit { agent: Some("coder".into()), limit };
    story.tell(set(Some(2))).expect("taken");
    assert_eq!(story.machine.state().admission().running(), 6);
    story.start(ExecutionId(2), serde_json::Map::new()).expect("started");
    for task in ["t0", "t1", "t2", "t3"] {
        story.succeeds(task);
        assert!(story.machine.state().admission().running() >= 2);
    }
    assert_eq!(story.machine.state().admission().running_of("coder"), 2);
    story.succeeds("t4");
    assert_eq!(story.machine.state().admission().running_of("coder"), 2, "a freed slot is used");
    story.tell(set(None)).expect("taken");
    assert_eq!(story.machine.state().admission().running(), 7);
    assert!(matches!(story.tell(set(Some(0))), Err(Rejection::InvalidLimit(_))));
}

#[test]
fn an_execution_with_everything_is_rebuilt_from_its_events() {
    // Recovery shares `evolve` with live running.
    let spec = WorkflowSpec {
        execution_timeout_micros: Some(100 * SECOND),
        on_failure: vec!["alert".into()],
        finally: vec!["clean".into()],
        ..workflow(vec![
            TaskSpec { retry: retry(2, 1.0), ..noop("flaky") },
            under(TriggerRule::OneFailed, "repair: flaky"),
            approval("ask: repair", &[], Some(9 * SECOND)),
            noop("next: ask flaky"),
            noop("alert"),
            noop("clean"),
        ])
    };
    let mut story = Story::of(spec);
    let check = |story: &Story| {
        let mut of_run = story.events.iter().filter(|recorded| recorded.execution == Some(RUN));
        let definition = Arc::clone(&story.run().definition);
        let start = of_run.next().expect("a start");
        let mut rebuilt = Execution::begin(start, definition, &mut Moves::default()).expect("a start");
        of_run.for_each(|recorded| rebuilt.evolve(recorded, &mut Moves::default()));
        assert_eq!(&rebuilt, story.run());
        let mut derived = rebuilt.clone();
        derived.derive();
        assert_eq!(derived, rebuilt, "what is kept beside the tasks follows from them");
    };
    check(&story);
    story.fails("flaky");
    check(&story);
    story.pass(SECOND);
    story.fails("flaky");
    check(&story);
    story.succeeds("repair");
    check(&story);
    assert_eq!(
        story.tasks(),
        "flaky FAILED, repair COMPLETED, ask WAITING, next BLOCKED, alert PENDING, clean PENDING"
    );
    story.answer("uid:1", "ask", true).expect("taken");
    check(&story);
    story.succeeds("alert");
    story.control(Operation::Cancel);
    check(&story);
    story.succeeds("clean");
    check(&story);
    assert_eq!(story.end(), Some(ExecutionEnd::Cancelled));
}

#[test]
fn progress_is_weighed_by_what_earlier_executions_say_and_the_longest_way_is_left() {
    // S-VIEW-1
    let mut story = Story::of(workflow(vec![noop("quick"), noop("slow: quick"), noop("last: slow")]));
    story.pass(SECOND);
    story.succeeds("quick");
    story.pass(8 * SECOND);
    story.succeeds("slow");
    story.pass(SECOND);
    story.succeeds("last");
    let mut durations = Durations::default();
    durations.add(story.run());
    assert!((percent(story.run()) - 100.0).abs() < f64::EPSILON);

    let plain = ExecutionId(2);
    story.start(plain, serde_json::Map::new()).expect("started");
    let again = ExecutionId(3);
    story.machine.state_mut().load_durations(name(), 1, durations);
    story.start(again, serde_json::Map::new()).expect("started");
    let end = |story: &mut Story, execution, task| {
        story.report(AttemptKey { execution, task, attempt: 1 }, AttemptEnd::Succeeded);
    };
    let far = |story: &Story, execution| percent(story.machine.state().execution(execution).expect("held"));
    let left = |story: &Story, execution| {
        let (run, now) = (story.machine.state().execution(execution).expect("held"), story.now.wall);
        estimate(run, now).map(|estimate| (estimate.at.0 - now.0, estimate.executions))
    };
    assert_eq!(left(&story, again), Some((10_000_000, 1)));
    assert_eq!(left(&story, plain), None, "nothing has ended yet, so it has no pace");
    end(&mut story, again, 0);
    story.pass(2 * SECOND);
    end(&mut story, plain, 0);
    assert!((far(&story, again) - 10.0).abs() < 0.01, "{}", far(&story, again));
    assert!((far(&story, plain) - 33.3).abs() < 0.1);
    assert_eq!(left(&story, again), Some((8_000_000, 1)), "as long as the whole usually takes");
    story.pass(3 * SECOND);
    assert_eq!(left(&story, again), Some((5_000_000, 1)));
    end(&mut story, again, 1);
    assert_eq!(left(&story, again), Some((5_000_000, 1)), "it was faster than usual, and limits may hold it up");
    story.pass(20 * SECOND);
    assert_eq!(left(&story, again), Some((0, 1)), "it takes longer than usual");
    assert!((far(&story, again) - 90.0).abs() < 0.01, "a task that runs long does not count more");
    end(&mut story, plain, 1);
    assert_eq!(left(&story, plain), Some((12_500_000, 0)), "one task at the pace of the others");
    story.tell(Command::Control { operation: Operation::Pause, workflow: name(), execution: plain }).expect("taken");
    assert_eq!(left(&story, plain), None, "nobody knows when it is resumed");
}

#[test]
fn an_estimate_counts_on_failure_only_once_something_has_failed() {
    // S-VIEW-1
    let spec =
        WorkflowSpec { on_failure: vec!["alert".into()], ..workflow(vec![noop("work"), noop("test"), noop("alert")]) };
    let mut story = Story::of(spec);
    story.pass(2 * SECOND);
    story.succeeds("work");
    story.fails("test");
    story.pass(4 * SECOND);
    story.succeeds("alert");
    assert_eq!(story.end(), Some(ExecutionEnd::Failed));
    let mut durations = Durations::default();
    durations.add(story.run());
    story.machine.state_mut().load_durations(name(), 1, durations);

    let again = ExecutionId(2);
    story.start(again, serde_json::Map::new()).expect("started");
    let left = |story: &Story| {
        let run = story.machine.state().execution(again).expect("held");
        estimate(run, story.now.wall).map(|estimate| estimate.at.0 - story.now.wall.0)
    };
    assert_eq!(left(&story), Some(2_000_000));
    story.report(AttemptKey { execution: again, task: 1, attempt: 1 }, AttemptEnd::ExitCode(3));
    assert_eq!(left(&story), Some(6_000_000));
}

#[test]
fn an_execution_counts_its_events_until_a_snapshot_is_due() {
    let mut story = Story::of(workflow(vec![noop("a"), noop("b: a")]));
    story.succeeds("a");
    story.control(Operation::Pause);
    let told = story.events.iter().filter(|recorded| recorded.execution == Some(RUN)).count();
    assert!(told >= 5, "void: {told}");
    assert_eq!(story.run().events_since_snapshot as usize, told);
}

#[test]
fn the_end_of_an_attempt_is_told_as_people_know_it() {
    // S-VIEW-4
    let result = |end: AttemptEnd| {
        let mut story = Story::of(workflow(vec![noop("a")]));
        story.ends("a", end);
        story.events.iter().find_map(|recorded| match &recorded.event {
            Event::TaskEnded { result, .. } => Some(result.clone()),
            _ => None,
        })
    };
    for (signal, name) in [
        (1, " (SIGHUP)"),
        (2, " (SIGINT)"),
        (3, " (SIGQUIT)"),
        (4, " (SIGILL)"),
        (6, " (SIGABRT)"),
        (7, " (SIGBUS)"),
        (8, " (SIGFPE)"),
        (9, " (SIGKILL)"),
        (11, " (SIGSEGV)"),
        (13, " (SIGPIPE)"),
        (15, " (SIGTERM)"),
        (24, " (SIGXCPU)"),
        (25, " (SIGXFSZ)"),
        (64, ""),
    ] {
        let result = result(AttemptEnd::Signal(signal)).expect("it ended");
        let error = result.error.expect("an error");
        assert_eq!((error.signal, error.message), (Some(signal), format!("ended by signal {signal}{name}")));
        assert_eq!(result.exit_code, None);
    }
    for (end, exit_code) in [
        (AttemptEnd::Succeeded, Some(0)),
        (AttemptEnd::OutputRefused("no JSON".into()), Some(0)),
        (AttemptEnd::ExitCode(3), Some(3)),
        (AttemptEnd::NotSpawned("no program".into()), None),
    ] {
        let result = result(end).expect("it ended");
        assert_eq!((result.exit_code, result.error.and_then(|error| error.signal)), (exit_code, None));
    }
}

#[test]
fn a_span_is_written_in_seconds_where_they_are_whole() {
    use crate::machine::attempt::seconds;
    assert_eq!([0, 5_000_000, 1_500_000, 999].map(seconds), ["0 s", "5 s", "1500 ms", "0 s"]);
}
