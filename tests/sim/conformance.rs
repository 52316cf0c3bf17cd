//! The conformance cases, `tests/conformance/*.yaml`: workflows in the format of workflow files, each with a story of
//! what programs and people do, and of what must be so then. Each case names the clauses that it proves.
//!
//! A line of a story is an action or, after `=`, an expectation; `tests/conformance/README.md` has the list.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
};

use noxd::{
    api::convert::definition,
    cli::file,
    machine::{
        explain,
        ids::{Actor, AttemptKey, Elapsed, ExecutionId, TaskIndex, Tick, Timestamp, WorkflowId},
        judgement,
        message::{
            AttemptEnd, AttemptOutcome, Command, Content, Effect, Event, Inputs, Operation, Output, Recorded,
            StopCause, TaskEnd, Trigger,
        },
        placeholder,
        workflow::Definition,
    },
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    expect,
    light::{Engine, Light},
};

/// Cases below this number are a folder that was not found.
const FEWEST: usize = 40;

/// The sections of semantics.md of which every clause has a case or a test that cites it.
const SECTIONS: [&str; 8] = ["S-DEF-", "S-DEP-", "S-COND-", "S-DATA-", "S-STATE-", "S-RETRY-", "S-PAR-", "S-TPL-"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    clauses: Vec<String>,
    workflow: Value,
    /// Faults of the workflow, `FIELD REASON`, in order; then there is no story.
    #[serde(default)]
    faults: Vec<String>,
    #[serde(default)]
    story: String,
}

/// A story that is being told.
struct Teller {
    engine: Light,
    workflow: WorkflowId,
    definition: Arc<Definition>,
    now: u64,
    held: bool,
    run: ExecutionId,
    events: Vec<Arc<Recorded>>,
    /// Events before this one were spoken of.
    told: usize,
    /// What the executor was told and nobody spoke of.
    orders: Vec<String>,
    rendered: BTreeMap<String, Result<Vec<String>, String>>,
    error: String,
}

fn cases() -> Vec<(String, Case)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let mut files: Vec<_> =
        fs::read_dir(&folder).expect("the cases").map(|entry| entry.expect("a file").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let mut all = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).expect("a file of cases");
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let cases: Vec<Case> = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        all.extend(cases.into_iter().map(|case| (file.clone(), case)));
    }
    all
}

#[test]
fn every_case_goes_as_it_is_told() {
    let cases = cases();
    assert!(cases.len() >= FEWEST, "void: only {} cases were found", cases.len());
    let failed: Vec<String> = cases
        .iter()
        .filter_map(|(file, case)| Some((file, case, tell(case).err()?)))
        .map(|(file, case, why)| format!("{file}: {}\n    {why}", case.name))
        .collect();
    assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), cases.len(), failed.join("\n"));
}

#[test]
fn every_clause_is_cited_by_a_case_or_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let semantics = fs::read_to_string(root.join("docs/semantics.md")).expect("the clauses");
    let heads = semantics.lines().filter_map(|line| line.strip_prefix("**")?.split_once("**"));
    let clauses: BTreeSet<&str> =
        heads.map(|(head, _)| head).filter(|head| SECTIONS.iter().any(|section| head.starts_with(section))).collect();
    assert!(clauses.len() >= 30, "void: only {} clauses were found", clauses.len());
    let mut cited: BTreeSet<String> = cases().into_iter().flat_map(|(_, case)| case.clauses).collect();
    let unknown: Vec<&String> = cited.iter().filter(|clause| !semantics.contains(&format!("**{clause}**"))).collect();
    assert!(unknown.is_empty(), "cases cite what docs/semantics.md does not have: {unknown:?}");
    // A test names its clauses in a comment: `// S-DATA-4`.
    let mut open = vec![root.join("src"), root.join("tests")];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("a file").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with("tests/sim/conformance.rs")
        {
            let text = fs::read_to_string(&path).expect("a source");
            cited.extend(clauses.iter().filter(|clause| names(&text, clause)).map(ToString::to_string));
        }
    }
    let missing: Vec<&&str> = clauses.iter().filter(|clause| !cited.contains(**clause)).collect();
    assert!(missing.is_empty(), "no case and no test cites {missing:?}");
}

/// Whether a comment of a test names the clause: an ordinary comment, as documentation is for what it explains.
fn names(text: &str, clause: &str) -> bool {
    text.lines().map(str::trim_start).filter(|line| line.starts_with("// ")).any(|line| {
        line.match_indices(clause).any(|(at, _)| !line[at + clause.len()..].starts_with(|c: char| c.is_ascii_digit()))
    })
}

fn tell(case: &Case) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = folder.path().join("workflow.json");
    fs::write(&path, case.workflow.to_string()).map_err(|error| error.to_string())?;
    let mut workflow = file::read_workflow(&path).map_err(|error| error.to_string())?;
    if workflow.id.is_empty() {
        workflow.id = "w".into();
    }
    let content = match definition::parse(workflow).into_content(false) {
        Ok(content) => content,
        Err(faults) => {
            let found: Vec<String> =
                faults.iter().map(|fault| format!("{} {}", fault.field, fault.reason.as_str())).collect();
            let same = found == case.faults;
            return if same { Ok(()) } else { Err(format!("its faults are {found:#?}, {:?}", faults[0].description)) };
        }
    };
    if !case.faults.is_empty() {
        return Err("it has no faults".into());
    }
    let Content::Ready(definition) = &content else { return Err("it is a draft".into()) };
    let mut teller = Teller {
        engine: Light::new(100),
        workflow: definition.spec().id.clone(),
        definition: Arc::clone(definition),
        now: 0,
        held: false,
        run: ExecutionId(0),
        events: Vec::new(),
        told: 0,
        orders: Vec::new(),
        rendered: BTreeMap::new(),
        error: String::new(),
    };
    teller.want(Command::CreateWorkflow { content }, "uid:1", "")?;
    for (at, line) in case.story.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty()) {
        let outcome = match line.strip_prefix("= ") {
            Some(expectation) => teller.expect(expectation),
            None => teller.act(line),
        };
        outcome.map_err(|why| format!("line {}, `{line}`: {why}\n    {}", at + 1, teller.shown()))?;
    }
    if case.story.contains("= execution") { Ok(()) } else { Err("it does not say how the execution stands".into()) }
}

impl Teller {
    fn want(&mut self, command: Command, actor: &str, refused: &str) -> Result<(), String> {
        let tick = Tick { wall: Timestamp(1_000_000 + self.now as i64), elapsed: Elapsed(self.now), seed: 1 };
        let told = self.engine.batch(tick, self.held, vec![(command, Actor::from_text(actor))]).ok_or("no power")?;
        let answer = &told.answers[0];
        let name = expect::name_of(answer);
        let expected = if refused.is_empty() { "Ok" } else { refused };
        self.error = answer.as_ref().err().map(|rejection| format!("{rejection}: {rejection:?}")).unwrap_or_default();
        self.take(told.events, &told.effects);
        if name == expected { Ok(()) } else { Err(format!("answered {name}: {}", self.error)) }
    }

    fn take(&mut self, events: Vec<Arc<Recorded>>, effects: &[Effect]) {
        self.events.extend(events);
        for effect in effects {
            let (key, what) = match effect {
                Effect::StartAttempt { attempt, .. } => (attempt, "start".to_string()),
                Effect::StopAttempt { attempt, cause } => (
                    attempt,
                    match cause {
                        StopCause::Cancelled => "cancel".into(),
                        StopCause::TimedOut(limit) => limit.as_str().into(),
                        StopCause::ExecutionTimedOut => "execution_timeout".into(),
                    },
                ),
            };
            let id = self.definition.task(key.task).id.clone();
            self.orders.push(format!("{what} {id}#{}", key.attempt));
            if let Effect::StartAttempt { filling: Some(filling), .. } = effect {
                let rendered = self.render(key.task, &filling.reads.iter().map(|read| read.task).collect::<Vec<_>>());
                self.rendered.insert(id, rendered);
            }
        }
    }

    /// As the executor fills it in.
    fn render(&self, task: TaskIndex, reads: &[TaskIndex]) -> Result<Vec<String>, String> {
        let execution = self.engine.execution(self.run).ok_or("no execution")?;
        let results = reads.iter().map(|read| ((self.run, *read), self.engine.result(self.run, *read, &[]))).collect();
        let facts = judgement::facts(&execution, reads, &results);
        let rendered = placeholder::render_task(self.definition.task(task), &facts);
        let command = rendered.map_err(|failure| format!("{}: {}", failure.field, failure.message))?.command;
        Ok(command.map(|command| command.argv).unwrap_or_default())
    }

    fn pass(&mut self, micros: u64) {
        self.now += micros;
        let tick = Tick { wall: Timestamp(1_000_000 + self.now as i64), elapsed: Elapsed(self.now), seed: 1 };
        if let Some(told) = self.engine.batch(tick, self.held, Vec::new()) {
            self.take(told.events, &told.effects);
        }
    }

    fn act(&mut self, line: &str) -> Result<(), String> {
        let (line, refused) = match line.split_once(" !") {
            Some((line, refused)) => (line.trim(), refused.trim()),
            None => (line, ""),
        };
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        let operation = match first {
            "pause" => Some(Operation::Pause),
            "resume" => Some(Operation::Resume),
            "cancel" => Some(Operation::Cancel),
            _ => None,
        };
        if let Some(operation) = operation {
            let (workflow, execution) = (self.workflow.clone(), self.run);
            return self.want(Command::Control { operation, workflow, execution }, "uid:1", refused);
        }
        match first {
            "start" => self.start(rest, refused),
            "rerun" => {
                let source = self.run;
                self.run = ExecutionId(source.0 + 1);
                let tasks = rest.split_whitespace().map(Into::into).collect();
                let outcome =
                    self.want(Command::RerunExecution { execution: self.run, source, tasks }, "uid:1", refused);
                self.run = if refused.is_empty() { self.run } else { source };
                outcome
            }
            "pass" => {
                self.pass(micros(rest)?);
                Ok(())
            }
            "limit" => {
                let (agent, limit) = rest.split_once(' ').unwrap_or(("", rest));
                let agent = (!agent.is_empty()).then(|| agent.into());
                self.want(Command::SetConcurrencyLimit { agent, limit: limit.parse().ok() }, "uid:1", refused)
            }
            "restart" => self.restart(),
            "drain" => self.want(Command::Drain, "noxd", refused),
            "yes" | "no" => {
                let (task, by) = rest.split_once(" by ").unwrap_or((rest, "uid:1"));
                let (execution, task) = (self.run, task.into());
                let command =
                    Command::ResolveApproval { execution, task, approved: first == "yes", comment: String::new() };
                self.want(command, by, refused)
            }
            task => self.ends(task, rest, refused),
        }
    }

    fn start(&mut self, given: &str, refused: &str) -> Result<(), String> {
        let given = if given.is_empty() { "{}" } else { given };
        let given: serde_json::Map<String, Value> = serde_json::from_str(given).map_err(|error| error.to_string())?;
        let before = self.run;
        self.run = ExecutionId(before.0 + 1);
        let command = Command::StartExecution {
            execution: self.run,
            workflow: self.workflow.clone(),
            labels: BTreeMap::new(),
            inputs: Inputs(given.into()),
            trigger: Trigger::Manual,
        };
        let outcome = self.want(command, "uid:1", refused);
        self.run = if refused.is_empty() { self.run } else { before };
        outcome
    }

    /// The power fails; the new noxd finds what lived, and reports it when it is gone.
    fn restart(&mut self) -> Result<(), String> {
        for attempt in self.engine.restart() {
            let outcome = Box::new(AttemptOutcome::bare(AttemptEnd::Interrupted("noxd stopped")));
            self.want(Command::AttemptEnded { attempt, outcome }, "noxd", "")?;
        }
        Ok(())
    }

    fn ends(&mut self, task: &str, how: &str, refused: &str) -> Result<(), String> {
        let index = self.definition.index_of(task).ok_or("no such action, and no such task")?;
        let execution = self.engine.execution(self.run).ok_or("no execution")?;
        let attempt = execution.tasks[index as usize].attempt;
        let (how, attempt) = match how.strip_prefix('#').and_then(|rest| rest.split_once(' ')) {
            Some((number, how)) => (how, number.parse().map_err(|_| "no number")?),
            None => (how, attempt),
        };
        let attempt = AttemptKey { execution: self.run, task: index, attempt };
        let (verb, rest) = how.split_once(' ').unwrap_or((how, ""));
        let number = || rest.parse().map_err(|_| format!("`{rest}` is no number"));
        let end = match verb {
            "succeeds" => AttemptEnd::Succeeded,
            "exits" => AttemptEnd::ExitCode(number()?),
            "dies" => AttemptEnd::Signal(number()?),
            "stops" => AttemptEnd::Stopped,
            "is-interrupted" => AttemptEnd::Interrupted("noxd stopped"),
            "babbles" => AttemptEnd::OutputRefused("no JSON".into()),
            "cannot-start" => AttemptEnd::NotSpawned("no such program".into()),
            "cannot-render" => AttemptEnd::NotRendered("no such value".into()),
            "is-silent" => return self.want(Command::AttemptSilent { attempt }, "noxd", refused),
            _ => return Err(format!("`{verb}` is nothing that a program does")),
        };
        let output = (end == AttemptEnd::Succeeded && !rest.is_empty()).then(|| rest.to_string());
        let output = output.map(|json| Output { size: json.len() as u64, json: json.into() });
        let outcome = Box::new(AttemptOutcome { output, ..AttemptOutcome::bare(end) });
        self.want(Command::AttemptEnded { attempt, outcome }, "noxd", refused)
    }

    fn expect(&mut self, line: &str) -> Result<(), String> {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        let execution = self.engine.execution(self.run).ok_or("no execution")?;
        match first {
            "execution" => same(execution.status.as_str(), rest),
            "refused" => contains(&self.error, rest),
            "told" => {
                let orders = std::mem::take(&mut self.orders);
                same(&if orders.is_empty() { "nothing".into() } else { orders.join(", ") }, rest)
            }
            "event" => {
                let found = self.events[self.told..].iter().position(|recorded| {
                    let shown = format!("{:?}", recorded.event);
                    rest.split(" … ").all(|words| shown.contains(words))
                });
                self.told += found.ok_or("there is no such event")? + 1;
                Ok(())
            }
            "error" => {
                let (task, words) = rest.split_once(' ').unwrap_or((rest, ""));
                let index = self.definition.index_of(task).ok_or("no such task")?;
                let mut errors = self.events.iter().filter_map(|recorded| match &recorded.event {
                    Event::TaskEnded { task, result, .. } if *task == index => {
                        let error = result.error.as_ref()?;
                        Some((error.kind, error.message.clone()))
                    }
                    _ => None,
                });
                let (kind, message) = errors.next_back().ok_or("it has no error")?;
                let (expected, words) = words.split_once(' ').unwrap_or((words, ""));
                same(kind.as_str(), expected).and_then(|()| contains(&message, words))
            }
            "delay" => {
                let delay = self.events.iter().rev().find_map(|recorded| match recorded.event {
                    Event::TaskEnded { end: TaskEnd::Retrying { delay_micros }, .. } => Some(delay_micros),
                    _ => None,
                });
                let (least, most) = rest.split_once(" to ").unwrap_or((rest, rest));
                let found = delay.ok_or("nothing is tried again")?;
                let within = (micros(least)?..=micros(most)?).contains(&found);
                if within { Ok(()) } else { Err(format!("it is {found} us")) }
            }
            "renders" => {
                let (task, argv) = rest.split_once(' ').ok_or("renders WHAT as WHAT")?;
                match self.rendered.get(task).ok_or("it was not filled in")? {
                    Ok(found) => same(&serde_json::json!(found).to_string(), argv),
                    Err(why) => contains(&format!("fails {why}"), argv),
                }
            }
            "waits" => {
                let (task, kinds) = rest.split_once(' ').unwrap_or((rest, ""));
                let mut state = self.engine.machine().state().clone();
                if state.execution(self.run).is_none() {
                    state.load_execution(execution);
                }
                let found = explain::explain(&state, self.run, task).map_err(|rejection| rejection.to_string())?;
                same(&found.iter().map(|blocker| blocker.kind.as_str()).collect::<Vec<_>>().join(" "), kinds)
            }
            _ => {
                for one in line.split(", ") {
                    let (task, status) = one.split_once(' ').ok_or("TASK STATUS, TASK STATUS")?;
                    let index = self.definition.index_of(task).ok_or(format!("no task `{task}`"))?;
                    let found = execution.tasks[index as usize].status;
                    if found.as_str() != status {
                        return Err(format!("{task} is {}", found.as_str()));
                    }
                }
                Ok(())
            }
        }
    }

    fn shown(&self) -> String {
        let Some(execution) = self.engine.execution(self.run) else { return String::new() };
        let tasks = execution.tasks.iter().zip(0..);
        let tasks = tasks.map(|(state, task)| format!("{} {}", self.definition.task(task).id, state.status.as_str()));
        format!("{}: {}", execution.status.as_str(), tasks.collect::<Vec<_>>().join(", "))
    }
}

fn same(found: &str, expected: &str) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("it is `{found}`")) }
}

fn contains(found: &str, words: &str) -> Result<(), String> {
    if found.contains(words) { Ok(()) } else { Err(format!("it is `{found}`")) }
}

fn micros(span: &str) -> Result<u64, String> {
    let wrong = |_| format!("`{span}` is no span: 5s, 500ms");
    match span.strip_suffix("ms") {
        Some(millis) => millis.parse::<u64>().map(|millis| millis * 1_000).map_err(wrong),
        None => span.trim_end_matches('s').parse::<u64>().map(|seconds| seconds * 1_000_000).map_err(wrong),
    }
}
