//! Every kind of what a task waits for, with the words that a person reads.

use std::{collections::BTreeSet, sync::Arc};

use super::*;
use crate::machine::{
    ids::{Actor, Elapsed, Tick, WorkflowId},
    message::{AttemptEnd, AttemptOutcome, Command, Content, Inputs, Operation, Trigger},
    step::{Machine, Step},
    workflow::{ApprovalAction, BackoffSpec, Definition, RetrySpec, TaskSpec, WorkflowSpec},
};

const RUN: ExecutionId = ExecutionId(1);
const NOW: Tick = Tick { wall: Timestamp(1_000_000), elapsed: Elapsed(1_000_000), seed: 7 };

fn name() -> WorkflowId {
    WorkflowId::parse("w").expect("an id")
}

/// `"c coder: a b"` is a noop `c` of the agent `coder` after `a` and `b`.
fn noop(line: &str) -> TaskSpec {
    let (names, dependencies) = line.split_once(':').unwrap_or((line, ""));
    let mut names = names.split_whitespace().map(str::to_string);
    TaskSpec {
        id: names.next().expect("a name"),
        agent_id: names.next().unwrap_or_default(),
        dependencies: dependencies.split_whitespace().map(Into::into).collect(),
        action: Some(Action::Noop { duration_micros: 0 }),
        ..TaskSpec::default()
    }
}

fn tell(machine: &mut Machine, command: Command) {
    machine.apply(command, &Actor::from_text("uid:1"), NOW, &mut Step::default()).expect("taken");
}

/// An execution of these tasks, with these limits of its own, under so many slots in all.
fn running(slots: u32, tasks: Vec<TaskSpec>, limits: &[(&str, u32)]) -> Machine {
    let concurrency_limits = limits.iter().map(|(key, most)| ((*key).to_string(), *most)).collect();
    let spec = WorkflowSpec { tasks, concurrency_limits, ..WorkflowSpec::named(name()) };
    of(slots, spec)
}

fn of(slots: u32, spec: WorkflowSpec) -> Machine {
    let mut machine = Machine::new(State::new(slots));
    tell(
        &mut machine,
        Command::CreateWorkflow { content: Content::Ready(Definition::check(spec).expect("no faults")) },
    );
    let start = Command::StartExecution {
        execution: RUN,
        workflow: name(),
        labels: std::collections::BTreeMap::new(),
        inputs: Inputs::default(),
        trigger: Trigger::Manual,
    };
    tell(&mut machine, start);
    machine
}

fn ends(machine: &mut Machine, task: TaskIndex, end: AttemptEnd) {
    let attempt = AttemptKey { execution: RUN, task, attempt: 1 };
    tell(machine, Command::AttemptEnded { attempt, outcome: Box::new(AttemptOutcome::bare(end)) });
}

fn why(machine: &Machine, task: &str) -> Vec<(BlockerKind, String)> {
    let blockers = explain(machine.state(), RUN, task).expect("a task");
    blockers.into_iter().map(|blocker| (blocker.kind, blocker.description)).collect()
}

/// The same execution as a noxd finds it that has just begun, and has decided nothing yet.
fn found(machine: &Machine) -> Machine {
    let mut state = State::new(9);
    state.load_execution(machine.state().execution(RUN).expect("held").clone());
    Machine::new(state)
}

#[test]
fn every_kind_of_blocker_is_told_in_words_of_its_own() {
    // S-DEP-5
    let mut told = BTreeSet::new();
    let mut says = |machine: &Machine, task: &str, kind: BlockerKind, words: &str| {
        let why = why(machine, task);
        let [(is, description)] = why.as_slice() else { panic!("{task}: one reason, not {why:?}") };
        assert!((*is, description.contains(words)) == (kind, true), "{task}: {is:?}, {description}");
        told.insert(kind.as_str());
    };

    let machine = running(9, vec![noop("a"), noop("b: a")], &[]);
    says(&machine, "b", BlockerKind::Dependency, "task `a` is RUNNING");
    assert_eq!(why(&machine, "a"), [], "what runs waits for nothing");

    let held = ", such as `a` of execution ";
    let two = || vec![noop("a coder"), noop("b coder")];
    says(
        &running(1, two(), &[]),
        "b",
        BlockerKind::Limit,
        &format!("noxd's concurrency limit of 1 is reached: 1 attempts hold it{held}"),
    );
    let all = running(9, two(), &[("*", 1)]);
    says(
        &all,
        "b",
        BlockerKind::Limit,
        &format!("limit for one execution (`*`) of 1 is reached: 1 attempts hold it{held}"),
    );
    let own = running(9, two(), &[("coder", 1)]);
    says(&own, "b", BlockerKind::Limit, "the workflow's limit for agent `coder` of 1 is reached");
    let grouped = two().into_iter().map(|task| TaskSpec { parallel_group: "db".into(), ..task }).collect();
    let group = running(9, grouped, &[("group:db", 1)]);
    says(&group, "b", BlockerKind::Limit, "the workflow's limit for group `db` of 1 is reached");
    let mut agent = running(1, two(), &[]);
    tell(&mut agent, Command::SetConcurrencyLimit { agent: Some("coder".into()), limit: Some(1) });
    tell(&mut agent, Command::SetConcurrencyLimit { agent: None, limit: Some(9) });
    says(&agent, "b", BlockerKind::Limit, "the concurrency limit of agent `coder` of 1 is reached");

    let policy =
        RetrySpec { max_attempts: 2, backoff: Some(BackoffSpec::Fixed { delay: 60.0 }), ..RetrySpec::default() };
    let mut flaky = running(9, vec![TaskSpec { retry: Some(policy), ..noop("a") }], &[]);
    ends(&mut flaky, 0, AttemptEnd::ExitCode(1));
    says(&flaky, "a", BlockerKind::Backoff, "attempt 1 failed, and the delay before the next one is not over");

    let ask = ApprovalAction { approvers: vec!["uid:5".into()], ..ApprovalAction::default() };
    let asked = running(9, vec![TaskSpec { action: Some(Action::Approval(ask)), ..noop("a") }], &[]);
    says(&asked, "a", BlockerKind::Approval, "an answer by uid:5");

    let spec =
        WorkflowSpec { finally: vec!["b".into()], tasks: vec![noop("a"), noop("b")], ..WorkflowSpec::named(name()) };
    says(&of(9, spec), "b", BlockerKind::Handler, "it is a handler (`finally`)");

    let mut paused = running(9, vec![noop("a"), noop("b: a")], &[]);
    tell(&mut paused, Command::Control { operation: Operation::Pause, workflow: name(), execution: RUN });
    ends(&mut paused, 0, AttemptEnd::Succeeded);
    says(&paused, "b", BlockerKind::Pause, "`noxctl workflow resume w` lets it go on");

    let mut draining = running(1, vec![noop("a"), noop("b")], &[]);
    tell(&mut draining, Command::Drain);
    ends(&mut draining, 0, AttemptEnd::Succeeded);
    says(&draining, "b", BlockerKind::Noxd, "noxd is shutting down");

    // Between batches nothing waits that has room: only a noxd that has just begun shows the next two.
    let begun = found(&draining);
    says(&begun, "b", BlockerKind::Queue, "it has room, and waits for its turn among 1 queued tasks");
    let mut full = found(&draining);
    full.state_mut().hold_admission(true);
    says(&full, "b", BlockerKind::Noxd, "its disk is full");
    let judged = TaskSpec { when: "tasks.a.status == 'COMPLETED'".into(), ..noop("b: a") };
    let mut judging = running(9, vec![noop("a"), judged], &[]);
    let definition = Arc::clone(&judging.state().execution(RUN).expect("held").definition);
    let mut ended = Step::default();
    let attempt = AttemptKey { execution: RUN, task: 0, attempt: 1 };
    let outcome = Box::new(AttemptOutcome::bare(AttemptEnd::Succeeded));
    let before = judging.state().execution(RUN).expect("held").clone();
    judging.apply(Command::AttemptEnded { attempt, outcome }, &Actor::Noxd, NOW, &mut ended).expect("taken");
    let mut execution = before;
    execution.evolve(&ended.events[0], &mut crate::machine::execution::Moves::default());
    assert_eq!(execution.definition, definition);
    let mut state = State::new(9);
    state.load_execution(execution);
    says(&Machine::new(state), "b", BlockerKind::Condition, "its conditions are being looked at");

    assert_eq!(told, BlockerKind::ALL.iter().map(|kind| kind.as_str()).collect(), "a kind without a test");
}

#[test]
fn several_reasons_are_told_together_and_in_order() {
    // S-DEP-5
    let mut machine = running(2, vec![noop("a coder"), noop("b coder")], &[("coder", 1), ("*", 1)]);
    tell(&mut machine, Command::SetConcurrencyLimit { agent: None, limit: Some(1) });
    tell(&mut machine, Command::Control { operation: Operation::Pause, workflow: name(), execution: RUN });
    tell(&mut machine, Command::Drain);
    let kinds: Vec<BlockerKind> = why(&machine, "b").into_iter().map(|(kind, _)| kind).collect();
    let limits = [BlockerKind::Limit; 3];
    assert_eq!(kinds, [[BlockerKind::Pause, BlockerKind::Noxd].as_slice(), &limits].concat());
}
