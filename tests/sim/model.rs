//! The reference model: how a workflow ends whose programs end as a script says, by semantics.md alone.
//!
//! It is a recursion over the graph, and knows no time, no order, no queue and no events: what [`Model::of`] gives must
//! come out whichever task runs first. So it is only for workflows in which nothing is a matter of time
//! ([`Features::WithoutTime`]); the rest is the ledger's.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use noxd::machine::{
    ids::{Actor, AttemptKey, Elapsed, ExecutionId, TaskIndex, Tick, Timestamp, WorkflowId},
    message::{AttemptEnd, AttemptOutcome, Command, Content, ErrorKind, ExecutionEnd, Inputs, Output, Trigger},
    task::TaskStatus,
    workflow::TriggerRule,
};
use proptest::prelude::*;
use serde_json::Value;

use crate::{
    chance::Chance,
    ledger::{Ledger, names},
    light::{Engine, Light},
    plan::{APPROVER, Fact, Features, Plan, SECOND, random_output},
};

/// How the attempts of each task end, one after the other; the last one again and again. An approval is answered as its
/// first one ends.
type Script = Vec<Vec<(AttemptEnd, Option<Value>)>>;

/// How a task ends.
#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    status: TaskStatus,
    attempts: u32,
    output: Option<Value>,
    exit_code: Option<i32>,
}

struct Model<'a> {
    plan: &'a Plan,
    script: &'a Script,
    go: bool,
    known: RefCell<BTreeMap<usize, Outcome>>,
}

impl Model<'_> {
    fn of(&self, task: usize) -> Outcome {
        if let Some(known) = self.known.borrow().get(&task) {
            return known.clone();
        }
        let outcome = self.by_clause(task);
        self.known.borrow_mut().insert(task, outcome.clone());
        outcome
    }

    fn by_clause(&self, task: usize) -> Outcome {
        let without = |status| Outcome { status, attempts: 0, output: None, exit_code: None };
        // S-STATE-5
        let fails = |task: &usize| self.plan.role(*task) == 0 && self.fails(*task);
        if self.plan.role(task) == 1 && !(0..self.plan.checks.len()).any(|task| fails(&task)) {
            return without(TaskStatus::Skipped);
        }
        // S-DEP-1 to S-DEP-3
        let before: Vec<usize> = self.plan.dependencies[task].clone();
        let all = |is: &dyn Fn(TaskStatus) -> bool| before.iter().all(|other| is(self.of(*other).status));
        let any = |is: &dyn Fn(TaskStatus) -> bool| before.iter().any(|other| is(self.of(*other).status));
        let failed = |status| {
            matches!(status, TaskStatus::Failed | TaskStatus::TimedOut | TaskStatus::Blocked | TaskStatus::Cancelled)
        };
        let is_broken = before.iter().any(|other| self.fails(*other));
        let holds = match self.plan.definition.spec().tasks[task].trigger_rule {
            TriggerRule::AllSucceeded | TriggerRule::AllCompleted if is_broken => return without(TaskStatus::Blocked),
            TriggerRule::AllSucceeded | TriggerRule::AllDone => true,
            TriggerRule::AllCompleted => !any(&|status| status == TaskStatus::Skipped),
            TriggerRule::OneSucceeded => any(&|status| status == TaskStatus::Completed),
            TriggerRule::OneFailed => any(&failed),
            TriggerRule::AllFailed => all(&failed),
        };
        // S-COND-1, S-COND-4
        let fact = |of: usize| {
            let Outcome { status, attempts, output, exit_code } = self.of(of);
            let tier = self.plan.definition.spec().tasks[of].metadata["tier"].clone();
            Fact { status, output, exit_code, attempts, tier }
        };
        if !holds || self.plan.conditions_hold(task, &fact, self.go) != Some(true) {
            return without(TaskStatus::Skipped);
        }
        if self.plan.is_approval(task) {
            let (status, output) = answer(self.is_approved(task));
            return Outcome { output: Some(output), ..without(status) };
        }
        self.tried(task)
    }

    /// S-RETRY-1, S-RETRY-2, S-RETRY-6
    fn tried(&self, task: usize) -> Outcome {
        let retry = self.plan.definition.spec().tasks[task].retry.as_ref();
        for attempts in 1.. {
            let (end, output) = &self.script[task][(attempts - 1).min(self.script[task].len() - 1)];
            let attempts = attempts as u32;
            let (kind, exit_code) = match end {
                AttemptEnd::Succeeded => {
                    let output = output.clone();
                    return Outcome { status: TaskStatus::Completed, attempts, output, exit_code: Some(0) };
                }
                AttemptEnd::ExitCode(code) => (ErrorKind::ExitCode, Some(*code)),
                AttemptEnd::Signal(_) => (ErrorKind::Signal, None),
                AttemptEnd::OutputRefused(_) => (ErrorKind::Output, Some(0)),
                AttemptEnd::NotRendered(_) => (ErrorKind::Template, None),
                other => unreachable!("no script says {other:?}"),
            };
            let again = retry.is_some_and(|retry| {
                let entries = &retry.retry_on_errors;
                attempts < retry.max_attempts
                    && kind != ErrorKind::Template
                    && (entries.is_empty() || entries.iter().any(|entry| names(entry, kind, end)))
            });
            if !again {
                return Outcome { status: TaskStatus::Failed, attempts, output: None, exit_code };
            }
        }
        unreachable!("max_attempts is a number")
    }

    fn is_approved(&self, task: usize) -> bool {
        self.script[task][0].0 == AttemptEnd::Succeeded
    }

    /// Whether it makes the execution FAILED (S-STATE-3).
    fn fails(&self, task: usize) -> bool {
        let excused = self.plan.definition.spec().tasks[task].allow_failure;
        match self.of(task).status {
            TaskStatus::Failed | TaskStatus::TimedOut => !excused,
            status => status == TaskStatus::Blocked,
        }
    }

    fn end(&self) -> ExecutionEnd {
        let fails = (0..self.plan.checks.len()).any(|task| self.fails(task));
        if fails { ExecutionEnd::Failed } else { ExecutionEnd::Completed }
    }
}

fn answer(approved: bool) -> (TaskStatus, Value) {
    let status = if approved { TaskStatus::Completed } else { TaskStatus::Failed };
    (status, serde_json::json!({ "approved": approved, "by": APPROVER, "comment": "" }))
}

fn script(plan: &Plan, chance: &mut Chance) -> Script {
    let ending = |chance: &mut Chance| match chance.below(10) {
        0..=4 => (AttemptEnd::Succeeded, random_output(chance)),
        5 => (AttemptEnd::ExitCode(75), None),
        6 => (AttemptEnd::Signal(9), None),
        7 => (AttemptEnd::OutputRefused("no JSON".into()), None),
        8 => (AttemptEnd::NotRendered("no such value".into()), None),
        _ => (AttemptEnd::ExitCode(1), None),
    };
    plan.checks.iter().map(|_| (0..1 + chance.below(3)).map(|_| ending(chance)).collect()).collect()
}

/// The machine runs it, in an order that chance chooses.
fn run(plan: &Arc<Plan>, script: &Script, go: bool, chance: &mut Chance) -> (Vec<Outcome>, ExecutionEnd) {
    let limit = 1 + chance.below(4) as u32;
    let (mut engine, mut ledger) = (Light::new(limit), Ledger::new(limit));
    let id = ExecutionId(1);
    let workflow = plan.definition.spec().id.clone();
    ledger.plans.insert((workflow.clone(), 1), Arc::clone(plan));
    let mut now = 0;
    let tell = |ledger: &mut Ledger, engine: &mut Light, now: u64, commands: Vec<Command>| {
        let tick = Tick { wall: Timestamp(now as i64), elapsed: Elapsed(now), seed: 0 };
        let wants = commands.into_iter().map(|command| (command, Actor::from_text(APPROVER))).collect();
        let told = engine.batch(tick, false, wants).expect("the power does not fail");
        told.events.iter().for_each(|recorded| ledger.follow(recorded));
        ledger.settled(engine.machine(), tick);
        told.answers.into_iter().for_each(|answer| _ = answer.expect("accepted"));
    };
    let inputs = Inputs(serde_json::Map::from_iter([("go".to_string(), Value::Bool(go))]).into());
    let content = Content::Ready(Arc::clone(&plan.definition));
    let (labels, trigger) = (BTreeMap::new(), Trigger::Manual);
    let start = Command::StartExecution { execution: id, workflow, labels, inputs, trigger };
    tell(&mut ledger, &mut engine, now, vec![Command::CreateWorkflow { content }, start]);
    while !ledger.runs[&id].status.is_terminal() {
        let run = &ledger.runs[&id];
        let next = |task: &usize| matches!(run.tasks[*task].status, TaskStatus::Running | TaskStatus::Waiting);
        let next: Vec<usize> = (0..run.tasks.len()).filter(next).collect();
        let is_due = engine.machine().state().next_deadline();
        if next.is_empty() || is_due.is_some() && chance.one_in(4) {
            now = is_due.map_or(now + SECOND, |at| at.0);
            tell(&mut ledger, &mut engine, now, Vec::new());
            continue;
        }
        let task = chance.pick(&next);
        if run.tasks[task].status == TaskStatus::Waiting {
            let approved = script[task][0].0 == AttemptEnd::Succeeded;
            let name = run.plan.definition.spec().tasks[task].id.clone();
            let command = Command::ResolveApproval { execution: id, task: name, approved, comment: String::new() };
            tell(&mut ledger, &mut engine, now, vec![command]);
            continue;
        }
        let attempt = run.tasks[task].attempt;
        let (end, output) = script[task][(attempt as usize - 1).min(script[task].len() - 1)].clone();
        let json = output.map(|value| Arc::<str>::from(value.to_string()));
        let output = json.map(|json| Output { size: json.len() as u64, json });
        let outcome = AttemptOutcome { output, ..AttemptOutcome::bare(end) };
        let key = AttemptKey { execution: id, task: task as TaskIndex, attempt };
        ledger.reports.entry(key).or_default().push(outcome.clone());
        tell(&mut ledger, &mut engine, now, vec![Command::AttemptEnded { attempt: key, outcome: Box::new(outcome) }]);
    }
    let run = &ledger.runs[&id];
    let outcomes = run.tasks.iter().map(|task| Outcome {
        status: task.status,
        attempts: task.attempt,
        output: task.output.clone(),
        exit_code: task.exit_code,
    });
    (outcomes.collect(), run.end())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_workflow_ends_as_the_model_says_whatever_comes_first(
        words in proptest::collection::vec(any::<u32>(), 0..400), seed in any::<u64>(), go in any::<bool>(),
    ) {
        // S-DEP-1, S-DEP-2, S-DEP-3, S-COND-1, S-COND-2, S-COND-4, S-STATE-3, S-STATE-5, S-RETRY-1, S-RETRY-2, S-RETRY-6
        let mut chance = Chance::scripted(words);
        let id = WorkflowId::parse("w").expect("a name");
        let plan = Plan::random(&id, Features::WithoutTime, &mut chance);
        let script = script(&plan, &mut chance);
        let model = Model { plan: &plan, script: &script, go, known: RefCell::default() };
        let expected: Vec<Outcome> = (0..plan.checks.len()).map(|task| model.of(task)).collect();
        let (found, end) = run(&plan, &script, go, &mut Chance::seeded(seed));
        prop_assert_eq!(&found, &expected, "{:#?}", plan.definition.spec());
        prop_assert_eq!(end, model.end());
    }
}
