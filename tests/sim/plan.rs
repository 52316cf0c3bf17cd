//! Random workflows of every feature, and what their conditions mean, written down a second time.
//!
//! A [`Check`] is made into a condition or a `when` of the definition, and evaluated here by itself: the machine's
//! evaluation and this one have nothing in common but the clause.

use std::{collections::BTreeMap, sync::Arc};

use noxd::machine::{
    ids::WorkflowId,
    task::TaskStatus,
    workflow::{
        Action, ApprovalAction, BackoffSpec, CommandAction, Comparison, ConditionSpec, ConditionSubject, Definition,
        FailurePolicy, InputSpec, OnInterrupt, ParameterKind, Priority, RetrySpec, TaskSpec, TriggerRule, WorkflowSpec,
    },
};
use serde_json::Value;

use crate::chance::Chance;

pub const SECOND: u64 = 1_000_000;
/// Who may answer where not everybody may.
pub const APPROVER: &str = "uid:7";
pub const AGENTS: [&str; 3] = ["", "ann", "bob"];

/// A workflow, and what its tasks ask of those before them.
pub struct Plan {
    pub definition: Arc<Definition>,
    /// By task, in the order in which they are evaluated.
    pub checks: Vec<Vec<Check>>,
    /// By task, as the spec names them.
    pub dependencies: Vec<Vec<usize>>,
}

/// What a task asks.
#[derive(Clone, Debug)]
pub enum Check {
    StatusIs(usize, TaskStatus),
    StatusIsNot(usize, TaskStatus),
    OutputOver(usize, i64),
    OutputListHas(usize, &'static str),
    TierIs(usize, &'static str),
    WhenStatusIs(usize, TaskStatus),
    WhenOutputOver(usize, i64),
    WhenExitCode(usize, i32),
    WhenAttemptsOver(usize, u32),
    WhenGo,
}

/// What is known of a task, as a check looks at it.
pub struct Fact {
    pub status: TaskStatus,
    pub output: Option<Value>,
    pub exit_code: Option<i32>,
    pub attempts: u32,
    pub tier: String,
}

/// What the workflow may have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Features {
    /// All.
    All,
    /// Only what ends the same whatever comes first: nothing that is bounded by time, no FAIL_FAST, and conditions that
    /// look at what has surely ended.
    WithoutTime,
}

impl Features {
    fn most_tasks(self) -> usize {
        match self {
            Self::All => 8,
            Self::WithoutTime => 12,
        }
    }
}

impl Check {
    /// `None`: it cannot be evaluated.
    pub fn holds(&self, fact: &dyn Fn(usize) -> Fact, go: bool) -> Option<bool> {
        let number = |of: usize| fact(of).output?.get("n")?.as_i64();
        Some(match *self {
            Self::StatusIs(of, status) | Self::WhenStatusIs(of, status) => fact(of).status == status,
            Self::StatusIsNot(of, status) => fact(of).status != status,
            Self::OutputOver(of, least) | Self::WhenOutputOver(of, least) => number(of)? > least,
            Self::OutputListHas(of, what) => fact(of).output?.get("l")?.as_array()?.iter().any(|one| one == what),
            Self::TierIs(of, tier) => fact(of).tier == tier,
            Self::WhenExitCode(of, code) => fact(of).exit_code? == code,
            Self::WhenAttemptsOver(of, least) => fact(of).attempts > least,
            Self::WhenGo => go,
        })
    }

    fn write(&self, ids: &[String], task: &mut TaskSpec) {
        let mut condition = |of: usize, subject, operator, expected: String, path: &str| {
            task.conditions.push(ConditionSpec {
                target_task_id: ids[of].clone(),
                subject: Some(subject),
                operator: Some(operator),
                expected_value: expected,
                path: path.into(),
            });
        };
        use ConditionSubject::{Metadata, Output, Status};
        match self {
            Self::StatusIs(of, is) => condition(*of, Status, Comparison::Equals, is.as_str().into(), ""),
            Self::StatusIsNot(of, is) => condition(*of, Status, Comparison::NotEquals, is.as_str().into(), ""),
            Self::OutputOver(of, least) => condition(*of, Output, Comparison::GreaterThan, least.to_string(), "/n"),
            Self::OutputListHas(of, what) => condition(*of, Output, Comparison::Contains, (*what).into(), "/l"),
            Self::TierIs(of, tier) => condition(*of, Metadata, Comparison::Equals, (*tier).into(), "tier"),
            Self::WhenStatusIs(of, is) => task.when = format!("tasks.{}.status == '{}'", ids[*of], is.as_str()),
            Self::WhenOutputOver(of, least) => task.when = format!("tasks.{}.output.n > {least}", ids[*of]),
            Self::WhenExitCode(of, code) => task.when = format!("tasks.{}.exit_code == {code}", ids[*of]),
            Self::WhenAttemptsOver(of, least) => task.when = format!("tasks.{}.attempts > {least}", ids[*of]),
            Self::WhenGo => task.when = "inputs.go".into(),
        }
    }
}

impl Plan {
    /// A workflow by chance. It is valid by construction.
    pub fn random(id: &WorkflowId, features: Features, chance: &mut Chance) -> Arc<Self> {
        let count = 1 + chance.below(features.most_tasks());
        // Definition order is not the order of the graph.
        let mut order: Vec<usize> = (0..count).collect();
        for at in (1..count).rev() {
            let other = at - chance.below(at + 1);
            order.swap(at, other);
        }
        let ids: Vec<String> = (0..count).map(|task| format!("t{task}")).collect();
        let roles = roles(count, &order, chance);
        let mut spec = workflow(id, features, chance);
        let mut dependencies = vec![Vec::new(); count];
        let mut checks = vec![Vec::new(); count];
        let mut tasks = vec![TaskSpec::default(); count];
        for (place, &task) in order.iter().enumerate() {
            let before: Vec<usize> =
                order[..place].iter().copied().filter(|other| roles[*other] == roles[task]).collect();
            for &other in &before {
                if chance.one_in(3) {
                    dependencies[task].push(other);
                }
            }
            let mut one = task_spec(&ids[task], features, dependencies[task].is_empty(), chance);
            one.dependencies = dependencies[task].iter().map(|other| ids[*other].clone()).collect();
            let readable = readable(task, &one, &dependencies, &roles, features);
            for check in random_checks(&readable, chance) {
                check.write(&ids, &mut one);
                checks[task].push(check);
            }
            let is_program = matches!(one.action, Some(Action::Command(_)));
            if is_program && !readable.is_empty() && chance.one_in(4) {
                one.title = format!("after {{{{ tasks.{}.status }}}}", ids[readable[chance.below(readable.len())]]);
            }
            tasks[task] = one;
        }
        for (task, role) in roles.iter().enumerate() {
            match role {
                0 => {}
                1 => spec.on_failure.push(ids[task].clone()),
                _ => spec.finally.push(ids[task].clone()),
            }
        }
        if !tasks.iter().any(|task| task.parallel_group == "g") {
            spec.concurrency_limits.remove("group:g");
        }
        spec.tasks = tasks;
        let definition = Definition::check(spec).unwrap_or_else(|faults| panic!("a plan has faults: {faults:#?}"));
        Arc::new(Self { definition, checks, dependencies })
    }

    /// Where a task's checks end: `None` where one cannot be evaluated.
    pub fn conditions_hold(&self, task: usize, fact: &dyn Fn(usize) -> Fact, go: bool) -> Option<bool> {
        for check in &self.checks[task] {
            if !check.holds(fact, go)? {
                return Some(false);
            }
        }
        Some(true)
    }

    /// Whether it waits for its rule alone: then it is queued in the same event in which that comes to hold.
    pub fn is_plain(&self, task: usize) -> bool {
        let spec = &self.definition.spec().tasks[task];
        spec.trigger_rule == TriggerRule::AllSucceeded && self.checks[task].is_empty() && !self.is_approval(task)
    }

    pub fn is_approval(&self, task: usize) -> bool {
        matches!(self.definition.spec().tasks[task].action, Some(Action::Approval(_)))
    }

    /// 0: ordinary, 1: `on_failure`, 2: `finally`.
    pub fn role(&self, task: usize) -> usize {
        let spec = self.definition.spec();
        let id = &spec.tasks[task].id;
        if spec.on_failure.contains(id) { 1 } else { 2 * usize::from(spec.finally.contains(id)) }
    }
}

fn roles(count: usize, order: &[usize], chance: &mut Chance) -> Vec<usize> {
    let mut roles = vec![0; count];
    for &task in &order[1..] {
        if chance.one_in(6) {
            roles[task] = 1 + chance.below(2);
        }
    }
    roles
}

fn workflow(id: &WorkflowId, features: Features, chance: &mut Chance) -> WorkflowSpec {
    let mut spec = WorkflowSpec::named(id.clone());
    let go = InputSpec {
        name: "go".into(),
        kind: ParameterKind::Boolean,
        default_value: Some("true".into()),
        ..InputSpec::default()
    };
    spec.inputs = vec![go];
    for key in ["*", "ann", "group:g"] {
        if chance.one_in(4) {
            spec.concurrency_limits.insert(key.into(), 1 + chance.below(2) as u32);
        }
    }
    if features == Features::All {
        spec.failure_policy = chance.pick(&[FailurePolicy::Continue, FailurePolicy::Continue, FailurePolicy::FailFast]);
        spec.execution_timeout_micros = chance.one_in(6).then(|| (1 + chance.below(60) as u64) * SECOND);
    }
    spec
}

fn task_spec(id: &str, features: Features, is_root: bool, chance: &mut Chance) -> TaskSpec {
    use TriggerRule::{AllCompleted, AllDone, AllFailed, AllSucceeded, OneFailed, OneSucceeded};
    let mut task = TaskSpec {
        id: id.into(),
        agent_id: chance.pick(&AGENTS).into(),
        priority: chance.pick(&[Priority::Medium, Priority::Low, Priority::High, Priority::Critical]),
        parallel_group: chance.pick(&["", "", "g"]).into(),
        allow_failure: chance.one_in(5),
        metadata: BTreeMap::from([("tier".to_string(), chance.pick(&["1", "2"]).to_string())]),
        ..TaskSpec::default()
    };
    if !is_root && chance.one_in(2) {
        task.trigger_rule = chance.pick(&[AllSucceeded, AllCompleted, AllDone, OneSucceeded, OneFailed, AllFailed]);
    }
    let with_time = features == Features::All;
    if chance.one_in(8) {
        let timeout_micros = (with_time && chance.one_in(2)).then(|| (1 + chance.below(20) as u64) * SECOND);
        let approvers = if chance.one_in(2) { vec![APPROVER.to_string()] } else { Vec::new() };
        task.action = Some(Action::Approval(ApprovalAction { prompt: "so?".into(), approvers, timeout_micros }));
        return task;
    }
    task.action = Some(Action::Command(CommandAction { argv: vec!["true".into()], ..CommandAction::default() }));
    task.retry = chance.one_in(2).then(|| retry(chance));
    if with_time {
        task.timeout_micros = chance.one_in(3).then(|| (1 + chance.below(8) as u64) * SECOND);
        task.queue_timeout_micros = chance.one_in(6).then(|| (1 + chance.below(8) as u64) * SECOND);
        task.idle_timeout_micros = chance.one_in(4).then(|| (1 + chance.below(4) as u64) * SECOND);
        task.on_interrupt =
            chance.pick(&[OnInterrupt::Retry, OnInterrupt::Retry, OnInterrupt::Retry, OnInterrupt::Fail]);
    }
    task
}

fn retry(chance: &mut Chance) -> RetrySpec {
    let backoff = match chance.below(4) {
        0 => None,
        1 => Some(BackoffSpec::Fixed { delay: chance.pick(&[0.0, 0.5, 2.0]) }),
        2 => Some(BackoffSpec::Linear { initial_delay: 0.5, increment: 1.5 }),
        _ => Some(BackoffSpec::Exponential { initial_delay: 0.5, multiplier: 3.0 }),
    };
    let errors: &[&str] = match chance.below(6) {
        0 => &["TIMEOUT", "SIGNAL"],
        1 => &["EXIT_CODE=75"],
        2 => &["/(?i)code 1/"],
        3 => &["EXIT_CODE", "LOST", "TEMPLATE"],
        _ => &[],
    };
    RetrySpec {
        max_attempts: 1 + chance.below(4) as u32,
        backoff,
        retry_on_errors: errors.iter().map(ToString::to_string).collect(),
        max_delay_seconds: chance.one_in(3).then_some(2.0),
        jitter: chance.pick(&[0.0, 0.5, 1.0]),
    }
}

/// What a task's conditions may look at.
fn readable(
    task: usize,
    spec: &TaskSpec,
    dependencies: &[Vec<usize>],
    roles: &[usize],
    features: Features,
) -> Vec<usize> {
    let earlier = (0..roles.len()).filter(|other| roles[*other] < roles[task]);
    let mut found: Vec<usize> = earlier.chain(dependencies[task].iter().copied()).collect();
    if features == Features::All {
        let mut at = 0;
        while let Some(&next) = found.get(at) {
            let more: Vec<usize> = dependencies[next].iter().copied().filter(|other| !found.contains(other)).collect();
            found.extend(more);
            at += 1;
        }
    } else if matches!(spec.trigger_rule, TriggerRule::OneSucceeded | TriggerRule::OneFailed) {
        // It starts while others still run: what it reads of them is a matter of time.
        found.retain(|other| roles[*other] < roles[task]);
    }
    found
}

fn random_checks(readable: &[usize], chance: &mut Chance) -> Vec<Check> {
    let mut checks = Vec::new();
    const STATUSES: [TaskStatus; 5] =
        [TaskStatus::Completed, TaskStatus::Failed, TaskStatus::Skipped, TaskStatus::TimedOut, TaskStatus::Retrying];
    if !readable.is_empty() {
        for _ in 0..chance.pick(&[0, 0, 0, 1, 2]) {
            let of = chance.pick(readable);
            checks.push(match chance.below(5) {
                0 => Check::StatusIs(of, chance.pick(&STATUSES)),
                1 => Check::StatusIsNot(of, chance.pick(&STATUSES)),
                2 => Check::OutputOver(of, 2),
                3 => Check::OutputListHas(of, "x"),
                _ => Check::TierIs(of, "1"),
            });
        }
    }
    if chance.one_in(4) {
        let of = readable.get(chance.below(readable.len())).copied();
        checks.push(match (chance.below(5), of) {
            (0, _) | (_, None) => Check::WhenGo,
            (1, Some(of)) => Check::WhenStatusIs(of, chance.pick(&STATUSES)),
            (2, Some(of)) => Check::WhenOutputOver(of, 2),
            (3, Some(of)) => Check::WhenExitCode(of, chance.pick(&[0, 1])),
            (_, Some(of)) => Check::WhenAttemptsOver(of, 1),
        });
    }
    checks
}

/// Outputs that tasks leave.
pub fn random_output(chance: &mut Chance) -> Option<Value> {
    match chance.below(5) {
        0 => None,
        1 => Some(serde_json::json!({ "n": 3, "l": ["x", "y"] })),
        2 => Some(serde_json::json!({ "n": 1, "l": [] })),
        3 => Some(serde_json::json!("text")),
        _ => Some(serde_json::json!({ "n": "x" })),
    }
}
