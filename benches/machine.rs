//! How many steps a second the pure machine takes: no store, no thread, no clock. `cargo bench --bench machine`.
//!
//! A step is a command and everything that follows from it. Each figure is the median of five runs. A plain loop and not
//! a harness of statistics: a step changes the state that the next one begins with, so a run is a whole history.

use std::{collections::BTreeMap, time::Instant};

use noxd::machine::{
    ids::{Actor, AttemptKey, Elapsed, ExecutionId, Tick, Timestamp, WorkflowId},
    message::{AttemptEnd, AttemptOutcome, Command, Content, Effect, Inputs, Trigger},
    state::State,
    step::{Machine, Step},
    workflow::{Action, Definition, TaskSpec, WorkflowSpec},
};

const RUNS: usize = 5;

fn main() {
    report("1,000 executions at once of a chain of 3, 20 times", &chain(3), 1_000, 20);
    report("a chain of 1,000", &chain(1_000), 1, 20);
    report("a fan-out of 10,000 and its join", &fan_out(10_000), 1, 2);
}

fn report(words: &str, tasks: &[TaskSpec], at_once: u128, times: u128) {
    let mut rates: Vec<f64> = (0..RUNS).map(|_| steps_per_second(tasks, at_once, times)).collect();
    rates.sort_by(f64::total_cmp);
    let median = rates[RUNS / 2];
    println!("{words}: {median:.0} steps/s, {:.2} us each ({:.0} to {:.0})", 1e6 / median, rates[0], rates[RUNS - 1]);
}

fn steps_per_second(tasks: &[TaskSpec], at_once: u128, times: u128) -> f64 {
    let mut machine = Machine::new(State::new(u32::MAX));
    let id = WorkflowId::parse("w").expect("an id");
    let definition = Definition::check(WorkflowSpec { tasks: tasks.to_vec(), ..WorkflowSpec::named(id.clone()) });
    let content = Content::Ready(definition.expect("no faults"));
    let mut step = Step::default();
    let mut live = Vec::new();
    apply(&mut machine, Command::CreateWorkflow { content }, &mut step, &mut live);
    let (began, mut steps) = (Instant::now(), 0_u64);
    for round in 0..times {
        for number in 1..=at_once {
            let execution = ExecutionId(round * at_once + number);
            let start = Command::StartExecution {
                execution,
                workflow: id.clone(),
                labels: BTreeMap::new(),
                trigger: Trigger::Manual,
                inputs: Inputs::default(),
            };
            apply(&mut machine, start, &mut step, &mut live);
            steps += 1;
        }
        while !live.is_empty() {
            for attempt in std::mem::take(&mut live) {
                let outcome = Box::new(AttemptOutcome::bare(AttemptEnd::Succeeded));
                apply(&mut machine, Command::AttemptEnded { attempt, outcome }, &mut step, &mut live);
                machine.state_mut().drop_idle([attempt.execution]);
                steps += 1;
            }
        }
    }
    steps as f64 / began.elapsed().as_secs_f64()
}

/// Applies a command, and notes which attempts it begins.
fn apply(machine: &mut Machine, command: Command, step: &mut Step, live: &mut Vec<AttemptKey>) {
    let tick = Tick { wall: Timestamp(1), elapsed: Elapsed(1), seed: 1 };
    machine.apply(command, &Actor::Noxd, tick, step).expect("accepted");
    live.extend(step.effects.drain(..).filter_map(|effect| match effect {
        Effect::StartAttempt { attempt, .. } => Some(attempt),
        Effect::StopAttempt { .. } => None,
    }));
    step.events.clear();
}

fn task(id: String, dependencies: Vec<String>) -> TaskSpec {
    TaskSpec { id, dependencies, action: Some(Action::Noop { duration_micros: 0 }), ..TaskSpec::default() }
}

fn chain(length: usize) -> Vec<TaskSpec> {
    let before = |number: usize| number.checked_sub(1).map(|before| format!("t{before}"));
    (0..length).map(|number| task(format!("t{number}"), before(number).into_iter().collect())).collect()
}

fn fan_out(width: usize) -> Vec<TaskSpec> {
    let name = |number: usize| format!("t{number}");
    let mut tasks: Vec<TaskSpec> = (0..width).map(|number| task(name(number), Vec::new())).collect();
    tasks.push(task("join".into(), (0..width).map(name).collect()));
    tasks
}
