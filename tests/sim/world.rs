//! Everything around the engine, in virtual time: people, clocks, programs and their executor, and the power.
//!
//! [`World::live`] is one story: faults of every kind for so many steps, and then none, until everything has ended.

use std::{collections::BTreeMap, sync::Arc};

use noxd::machine::{
    ids::{Actor, AttemptKey, Elapsed, ExecutionId, Tick, Timestamp, WorkflowId},
    message::{
        AttemptEnd, AttemptOutcome, Command, Content, Effect, Event, Inputs, Operation, Output, ProcessIdentity,
        Recorded, Trigger,
    },
    task::TaskStatus,
};

use crate::{
    chance::Chance,
    expect,
    ledger::Ledger,
    light::Engine,
    plan::{AGENTS, APPROVER, Features, Plan, SECOND, random_output},
    timetable::{DAY, EPOCHS, HOUR, SPAN},
};

/// Every kind of fault and disturbance; each must be reached.
pub const FAULTS: [&str; 36] = [
    "power cut in a batch",
    "power cut between batches",
    "restart in order",
    "down over and over",
    "wall clock steps back",
    "wall clock steps forward",
    "program fails",
    "program hangs",
    "program is silent",
    "program ends while it is told to",
    "report that comes late",
    "report that comes twice",
    "report of an old attempt",
    "report of nobody's attempt",
    "pause",
    "resume",
    "cancel",
    "answer",
    "answer by the wrong person",
    "rerun",
    "rerun of named tasks",
    "limit is changed",
    "new version",
    "template",
    "instance of a template",
    "schedule is stored",
    "schedule is changed",
    "schedule is deleted",
    "schedule is paused",
    "schedule is resumed",
    "schedule is started by hand",
    "draft",
    "down for a day",
    "machine sleeps",
    "wall clock steps ahead a day",
    "wall clock steps back an hour",
];

/// Steps of the quiet end after which a story does not end any more.
const PATIENCE: usize = 3_000;

/// Events of a story that shows something.
pub const ENOUGH: usize = 30;

/// A program that runs.
struct Program {
    /// When it ends by itself.
    ends: Option<u64>,
    outcome: AttemptOutcome,
    /// When its executor tells that it exists.
    spawned: Option<u64>,
    /// When its executor finds it silent.
    silent: Option<u64>,
    is_told: bool,
}

pub struct World<E> {
    pub engine: E,
    pub ledger: Ledger,
    pub chance: Chance,
    now: u64,
    /// The wall clock less noxd's own.
    offset: i64,
    /// So far it may be put ahead.
    until: i64,
    programs: BTreeMap<AttemptKey, Program>,
    past: Vec<AttemptKey>,
    born: u128,
    is_full: bool,
    /// No more faults: programs succeed, and soon.
    is_calm: bool,
    pub batches: u64,
}

impl<E: Engine> World<E> {
    pub fn new(engine: E, limit: u32, mut chance: Chance) -> Self {
        let epoch = chance.pick(&EPOCHS);
        // Often the night before the clocks of some zone are changed.
        let begin = epoch + chance.pick(&[8, 9, 14, 15]) * DAY + chance.below(24) as i64 * HOUR;
        Self {
            engine,
            ledger: Ledger::new(limit),
            chance,
            now: 0,
            offset: begin,
            until: epoch + SPAN - 4 * DAY,
            programs: BTreeMap::new(),
            past: Vec::new(),
            born: 0,
            is_full: false,
            is_calm: false,
            batches: 0,
        }
    }

    /// One story.
    pub fn live(&mut self, steps: usize) {
        for name in ["one", "two"] {
            self.store(name);
        }
        while self.ledger.runs.len() < 2 {
            self.start();
        }
        let mut told = 0;
        // A short story is told on: one that did too little shows nothing.
        while told < steps || self.ledger.log.len() < ENOUGH && told < 20 * steps {
            self.step();
            told += 1;
        }
        self.calm_down();
    }

    fn tick(&mut self) -> Tick {
        Tick { wall: Timestamp(self.offset + self.now as i64), elapsed: Elapsed(self.now), seed: self.chance.draw() }
    }

    /// What the clock of the machine shows.
    pub fn wall(&self) -> i64 {
        self.offset + self.now as i64
    }

    /// Puts the clock ahead, if the story may last so long.
    fn put_ahead(&mut self, by: i64) -> bool {
        let may = self.wall() + by < self.until;
        self.offset += if may { by } else { 0 };
        may
    }

    fn step(&mut self) {
        match self.chance.below(56) {
            0..=16 => self.pass_to_the_next(),
            17 => self.now += self.chance.below(3_000_000) as u64,
            18 | 19 => self.start(),
            20 | 21 => self.rerun(),
            22 | 23 => self.control(Operation::Pause),
            24..=27 => self.control(Operation::Resume),
            28 | 29 => self.control(Operation::Cancel),
            30..=33 => self.answer(),
            34 => self.set_limit(),
            35 => self.stale(),
            36 => self.step_the_clock(),
            37 => self.cut_power(),
            38 if self.chance.one_in(3) => self.restart_in_order(),
            39 if self.chance.one_in(2) => self.new_version(),
            40 if self.chance.one_in(8) => self.delete(),
            41 if self.engine.can_be_held() => self.fill_the_disk(),
            42 => self.many_at_once(),
            43 if self.chance.one_in(4) => self.go_down_over_and_over(),
            44 => self.template(),
            45 if self.chance.one_in(3) => self.instantiate(),
            46..=49 => self.schedule(),
            50 => self.unsteady(),
            51 if self.chance.one_in(2) => self.suspend(),
            52..=54 => self.pass_to_the_next(),
            55 if self.chance.one_in(2) => self.stay_down(),
            _ => {}
        }
        self.report();
    }

    /// Nobody disturbs any more; everything must end (and what is never answered or resumed is).
    fn calm_down(&mut self) {
        (self.is_calm, self.is_full) = (true, false);
        for program in self.programs.values_mut() {
            program.ends.get_or_insert(self.now + SECOND);
        }
        if self.wall() < self.ledger.schedules.clock {
            // Somebody puts it right.
            self.offset += self.ledger.schedules.clock - self.wall();
        }
        // All that is due has its fate by then: `punctual` sees to that.
        self.tell(Vec::new());
        while self.ledger.schedules.is_unfinished {
            self.tell(Vec::new());
        }
        self.end_schedules();
        for _ in 0..PATIENCE {
            let open = self.ledger.runs.iter().find(|(_, run)| !run.status.is_terminal());
            let Some((&id, run)) = open else { break };
            let paused = run.status == noxd::machine::execution::ExecutionStatus::Paused;
            let workflow = run.workflow.clone();
            let waits = (0..run.tasks.len()).find(|task| run.tasks[*task].status == TaskStatus::Waiting);
            let waits = waits.map(|task| run.plan.definition.spec().tasks[task].id.clone());
            if paused {
                self.tell(vec![(Command::Control { operation: Operation::Resume, workflow, execution: id }, person())]);
            } else if let Some(task) = waits {
                let comment = "fine".into();
                let command = Command::ResolveApproval { execution: id, task, approved: true, comment };
                self.tell(vec![(command, Actor::from_text(APPROVER))]);
            }
            self.pass_to_the_next();
            self.report();
        }
        let is_over = self.ledger.runs.values().all(|run| run.status.is_terminal());
        self.ledger.check(is_over, "liveness: the faults have stopped, and not everything ends");
        let waits = self.ledger.schedules.known.values().any(|schedule| !schedule.waiting.is_empty());
        self.ledger.check(!waits, "S-SCHED-4: everything has ended, and a time waits on");
    }

    fn pass_to_the_next(&mut self) {
        let deadline = self.engine.machine().state().next_deadline().map(|at| at.0);
        let of = |program: &Program| [program.ends, program.spawned, program.silent].into_iter().flatten().min();
        let firing = self.engine.machine().state().next_firing().filter(|at| at.0 < self.until);
        let firing = firing.map(|at| self.now + u64::try_from(at.0 - self.wall()).unwrap_or(0));
        let next = self.programs.values().filter_map(of).chain(deadline).chain(firing).min();
        self.now = next.unwrap_or(self.now + SECOND).max(self.now);
        if self.chance.one_in(6) {
            self.now += self.chance.below(20_000_000) as u64;
        }
    }

    pub fn store(&mut self, name: &str) {
        let id = WorkflowId::parse(name).expect("a name");
        let plan = Plan::random(&id, Features::All, &mut self.chance);
        let content = Content::Ready(Arc::clone(&plan.definition));
        let known = self.ledger.workflows.get(&id).copied();
        self.ledger.plans.insert((id, known.map_or(0, |(version, _)| version) + 1), plan);
        let command = match known {
            Some((_, false)) => Command::UpdateWorkflow { content, etag: None },
            _ => Command::CreateWorkflow { content },
        };
        self.tell(vec![(command, person())]);
    }

    fn new_version(&mut self) {
        self.ledger.coverage.reached("new version");
        let name = self.chance.pick(&["one", "two"]);
        self.store(name);
    }

    fn delete(&mut self) {
        let workflow = self.workflow();
        self.tell(vec![(Command::DeleteWorkflow { workflow, etag: None }, person())]);
    }

    fn workflow(&mut self) -> WorkflowId {
        WorkflowId::parse(self.chance.pick(&["one", "two", "one", "two", "none"])).expect("a name")
    }

    fn start(&mut self) {
        let command = self.start_command();
        self.tell(vec![(command, person())]);
    }

    fn start_command(&mut self) -> Command {
        let mut given = serde_json::Map::new();
        match self.chance.below(12) {
            0..=6 => {}
            7 => _ = given.insert("go".into(), "nonsense".into()),
            8 => _ = given.insert("go".into(), true.into()),
            _ => _ = given.insert("go".into(), false.into()),
        }
        Command::StartExecution {
            execution: self.new_id(),
            workflow: self.workflow(),
            labels: BTreeMap::new(),
            inputs: Inputs(given.into()),
            trigger: Trigger::Manual,
        }
    }

    pub fn new_id(&mut self) -> ExecutionId {
        self.born += 1;
        ExecutionId(self.born)
    }

    fn any_run(&mut self) -> Option<ExecutionId> {
        let ids: Vec<ExecutionId> = self.ledger.runs.keys().copied().collect();
        let open: Vec<ExecutionId> =
            ids.iter().copied().filter(|id| !self.ledger.runs[id].status.is_terminal()).collect();
        let from = if open.is_empty() || self.chance.one_in(8) { ids } else { open };
        (!from.is_empty()).then(|| self.chance.pick(&from))
    }

    fn rerun(&mut self) {
        let over = self.ledger.runs.iter().filter(|(_, run)| run.status.is_terminal());
        let over: Vec<ExecutionId> = over.map(|(id, _)| *id).collect();
        let source =
            if over.is_empty() || self.chance.one_in(8) { self.any_run() } else { Some(self.chance.pick(&over)) };
        let Some(source) = source else { return };
        let mut tasks = Vec::new();
        if self.chance.one_in(2) {
            let spec = self.ledger.runs[&source].plan.definition.spec();
            tasks.push(spec.tasks[self.chance.below(spec.tasks.len())].id.clone());
            if self.chance.one_in(10) {
                tasks.push("nobody".into());
            }
        }
        self.ledger.coverage.reached(if tasks.is_empty() { "rerun" } else { "rerun of named tasks" });
        let execution = self.new_id();
        self.tell(vec![(Command::RerunExecution { execution, source, tasks }, person())]);
    }

    fn control(&mut self, operation: Operation) {
        let Some(command) = self.control_command(operation) else { return };
        self.tell(vec![(command, person())]);
    }

    fn control_command(&mut self, operation: Operation) -> Option<Command> {
        let execution = self.any_run()?;
        self.ledger.coverage.reached(operation.as_str());
        let mut workflow = self.ledger.runs[&execution].workflow.clone();
        if self.chance.one_in(20) {
            workflow = self.workflow();
        }
        Some(Command::Control { operation, workflow, execution })
    }

    fn answer(&mut self) {
        let waiting = self.ledger.runs.iter().flat_map(|(id, run)| {
            let tasks = (0..run.tasks.len()).filter(|task| run.tasks[*task].status == TaskStatus::Waiting);
            tasks.map(|task| (*id, run.plan.definition.spec().tasks[task].id.clone()))
        });
        let waiting: Vec<_> = waiting.collect();
        let found = if waiting.is_empty() || self.chance.one_in(10) {
            self.any_run().map(|id| (id, self.chance.pick(&["t0", "t1", "nobody"]).to_string()))
        } else {
            Some(self.chance.pick(&waiting))
        };
        let Some((execution, task)) = found else { return };
        let actor = if self.chance.one_in(3) { person() } else { Actor::from_text(APPROVER) };
        let approved = !self.chance.one_in(3);
        let comment = self.chance.pick(&["", "because"]).to_string();
        let command = Command::ResolveApproval { execution, task, approved, comment };
        let expected = self.ledger.expected(&command, &actor);
        self.ledger.coverage.reached(if expected == "NotAnApprover" { "answer by the wrong person" } else { "answer" });
        self.tell(vec![(command, actor)]);
    }

    fn set_limit(&mut self) {
        self.ledger.coverage.reached("limit is changed");
        let agent = self.chance.pick(&AGENTS);
        let agent = (!agent.is_empty()).then(|| agent.into());
        let limit = self.chance.pick(&[Some(1), Some(2), Some(5), None, Some(0)]);
        self.tell(vec![(Command::SetConcurrencyLimit { agent, limit }, person())]);
    }

    /// Reports about attempts that are not live: nobody may be heard.
    fn stale(&mut self) {
        if self.past.is_empty() {
            return;
        }
        let mut key = self.chance.pick(&self.past);
        let what = match self.chance.below(4) {
            0 => "report that comes twice",
            1 if key.attempt > 1 => {
                key.attempt -= 1;
                "report of an old attempt"
            }
            2 => {
                key.attempt += 1;
                "report of nobody's attempt"
            }
            _ => "report that comes late",
        };
        if self.ledger.is_live(key) {
            return;
        }
        self.ledger.coverage.reached(what);
        let command = match self.chance.below(3) {
            0 => Command::AttemptSilent { attempt: key },
            1 => Command::AttemptSpawned { attempt: key, process: process() },
            _ => Command::AttemptEnded { attempt: key, outcome: Box::new(AttemptOutcome::bare(AttemptEnd::Succeeded)) },
        };
        self.tell(vec![(command, Actor::Noxd)]);
    }

    fn step_the_clock(&mut self) {
        let back = self.chance.one_in(2);
        self.ledger.coverage.reached(if back { "wall clock steps back" } else { "wall clock steps forward" });
        let by = if self.chance.one_in(2) { HOUR } else { self.chance.below(7_200_000_000) as i64 };
        if back {
            self.offset -= by;
            if by == HOUR {
                self.ledger.coverage.reached("wall clock steps back an hour");
            }
        } else if self.chance.one_in(3) && self.put_ahead(DAY) {
            self.ledger.coverage.reached("wall clock steps ahead a day");
            self.ledger.schedules.absence = Some("a clock that steps ahead a day");
        } else {
            self.put_ahead(by);
        }
    }

    /// The machine is suspended while noxd lives: all clocks go on, and programs do not.
    fn suspend(&mut self) {
        let by = self.chance.pick(&[HOUR / 12, 3 * HOUR, DAY + HOUR]);
        if self.wall() + by < self.until {
            self.ledger.coverage.reached("machine sleeps");
            self.ledger.schedules.absence = Some("a machine that slept");
            self.now += by.unsigned_abs();
        }
    }

    /// The power is gone for a day or two.
    fn stay_down(&mut self) {
        let by = DAY + self.chance.below(24) as i64 * HOUR;
        self.restart();
        if self.put_ahead(by) {
            self.ledger.coverage.reached("down for a day");
            self.ledger.schedules.absence = Some("a day down");
        }
    }

    fn fill_the_disk(&mut self) {
        self.is_full ^= true;
        if !self.is_full {
            self.ledger.schedules.absence.get_or_insert("a full disk");
        }
    }

    fn many_at_once(&mut self) {
        let mut wants = Vec::new();
        for _ in 0..2 + self.chance.below(3) {
            let operation = self.chance.pick(&[Operation::Pause, Operation::Resume, Operation::Cancel]);
            let command = match self.chance.below(2) {
                0 => Some(self.start_command()),
                _ => self.control_command(operation),
            };
            wants.extend(command.map(|command| (command, person())));
        }
        wants.extend(self.due().into_iter().map(|command| (command, Actor::Noxd)));
        self.tell(wants);
    }

    fn cut_power(&mut self) {
        if self.chance.one_in(2) {
            self.ledger.coverage.reached("power cut between batches");
            self.restart();
            return;
        }
        self.ledger.coverage.reached("power cut in a batch");
        self.engine.let_power_fail(&mut self.chance);
        let mut wants: Vec<_> = self.due().into_iter().map(|command| (command, Actor::Noxd)).collect();
        if self.chance.one_in(2) {
            wants.push((self.start_command(), person()));
        }
        self.tell(wants);
        self.restart();
    }

    /// SIGTERM: nothing more is admitted, what runs is ended, and all is told before the end.
    fn restart_in_order(&mut self) {
        self.ledger.coverage.reached("restart in order");
        self.ledger.draining = true;
        self.tell(vec![(Command::Drain, Actor::Noxd)]);
        if self.chance.one_in(2) {
            self.start();
        }
        if self.chance.one_in(2) {
            let keys: Vec<AttemptKey> = self.programs.keys().copied().collect();
            let ended = keys.into_iter().map(|key| self.interrupted(key)).collect();
            self.tell(ended);
        }
        self.restart();
    }

    /// More often than a task is started again (S-RETRY-7).
    fn go_down_over_and_over(&mut self) {
        self.ledger.coverage.reached("down over and over");
        for _ in 0..8 {
            self.restart();
            self.report();
        }
    }

    fn interrupted(&mut self, key: AttemptKey) -> (Command, Actor) {
        self.programs.remove(&key);
        self.past.push(key);
        let outcome = AttemptOutcome::bare(AttemptEnd::Interrupted("noxd stopped"));
        self.ledger.reports.entry(key).or_default().push(outcome.clone());
        (Command::AttemptEnded { attempt: key, outcome: Box::new(outcome) }, Actor::Noxd)
    }

    /// noxd is gone, and comes back: what was told must be there, and what was not told may be.
    fn restart(&mut self) {
        self.programs.clear();
        let found = self.engine.restart();
        let history = self.engine.history();
        let known = self.ledger.log.len();
        let same = history.iter().zip(&self.ledger.log).all(|(kept, told)| is_same(kept, told));
        if history.len() < known || !same {
            self.ledger.fail("S-SAFE-1: what was told is not what is kept");
        }
        for recorded in &history[known..] {
            self.ledger.follow(recorded);
        }
        self.ledger.restarted();
        self.ledger.as_before(&|id| self.engine.schedule(id));
        let newest = self.ledger.log.last().map_or((0, 0), |last| (last.elapsed.0, last.time.0));
        // Its own clock stood still meanwhile, and goes on from the newest fact; people's did not.
        let down = self.chance.below(60_000_000) as i64;
        let down = if self.chance.one_in(6) { self.chance.pick(&[HOUR / 12, 5 * HOUR]) } else { down };
        self.offset += self.now as i64 - newest.0 as i64;
        self.put_ahead(down);
        self.now = newest.0;
        let live = self.ledger.runs.iter().flat_map(|(id, run)| {
            run.live().map(|task| AttemptKey { execution: *id, task: task as u32, attempt: run.tasks[task].attempt })
        });
        let live: Vec<AttemptKey> = live.collect();
        if live != found {
            self.ledger.fail(format_args!("S-SAFE-4: {found:?} were found alive, not {live:?}"));
        }
        // Until all of them are known to be gone, nothing is admitted.
        self.ledger.held = true;
        for key in found {
            let ended = self.interrupted(key);
            self.batch(true, vec![ended]);
        }
    }

    /// What the executor has to say by now.
    fn due(&mut self) -> Vec<Command> {
        let mut said = Vec::new();
        let now = self.now;
        let mut over = Vec::new();
        for (&attempt, program) in &mut self.programs {
            if program.spawned.take_if(|at| *at <= now).is_some() {
                said.push(Command::AttemptSpawned { attempt, process: process() });
            }
            if program.silent.take_if(|at| *at <= now).is_some() {
                self.ledger.coverage.reached("program is silent");
                self.ledger.silent.insert(attempt);
                said.push(Command::AttemptSilent { attempt });
            }
            if program.ends.is_some_and(|at| at <= now) {
                over.push(attempt);
                self.ledger.reports.entry(attempt).or_default().push(program.outcome.clone());
                said.push(Command::AttemptEnded { attempt, outcome: Box::new(program.outcome.clone()) });
            }
        }
        for key in over {
            self.programs.remove(&key);
            self.past.push(key);
        }
        said
    }

    fn report(&mut self) {
        let said = self.due();
        // One by one, or all at once.
        if said.len() > 1 && self.chance.one_in(2) {
            for one in said {
                self.tell(vec![(one, Actor::Noxd)]);
            }
        } else {
            self.tell(said.into_iter().map(|one| (one, Actor::Noxd)).collect());
        }
    }

    pub fn tell(&mut self, wants: Vec<(Command, Actor)>) {
        self.batch(self.is_full, wants);
    }

    fn batch(&mut self, held: bool, wants: Vec<(Command, Actor)>) {
        self.batches += 1;
        let tick = self.tick();
        self.ledger.held = held;
        self.ledger.look_at_the_clock(tick);
        let may_fire = !held && !self.ledger.draining && self.ledger.schedules.has_come(&self.ledger);
        let expected = match &wants[..] {
            // What fires in the same batch fires first.
            [_] if may_fire => None,
            [(command, actor)] => Some(self.ledger.expected(command, actor)),
            _ => None,
        };
        let shown = expected.and_then(|_| wants.first().cloned());
        let Some(told) = self.engine.batch(tick, held, wants) else { return };
        if let Some(expected) = expected {
            let answer = expect::name_of(&told.answers[0]);
            if answer != expected {
                self.ledger.fail(format_args!("answered {answer}, not {expected}: {shown:?}"));
            }
            if answer != "Ok" && told.events.iter().any(|recorded| recorded.actor != Actor::Noxd) {
                self.ledger.fail("it was refused, and something happened");
            }
        }
        for recorded in &told.events {
            self.ledger.follow(recorded);
        }
        self.take_orders(&told.effects);
        self.ledger.settled(self.engine.machine(), tick);
        self.ledger.punctual(self.engine.machine(), told.is_unfinished, &|id| self.engine.schedule(id));
    }

    /// What the executor is told must be what follows from the events.
    fn take_orders(&mut self, effects: &[Effect]) {
        let told: Vec<_> = effects
            .iter()
            .map(|effect| match effect {
                Effect::StartAttempt { attempt, .. } => (*attempt, None),
                Effect::StopAttempt { attempt, cause } => (*attempt, Some(*cause)),
            })
            .collect();
        let expected = std::mem::take(&mut self.ledger.orders);
        if told != expected {
            self.ledger.fail(format_args!("the executor was told {told:?}, not {expected:?}"));
        }
        for (key, stop) in told {
            match stop {
                None => self.spawn(key),
                Some(_) => self.stop(key),
            }
        }
    }

    fn spawn(&mut self, key: AttemptKey) {
        let spec = &self.ledger.runs[&key.execution].plan.definition.spec().tasks[key.task as usize];
        let is_bounded = spec.idle_timeout_micros;
        let mut outcome = AttemptOutcome::bare(AttemptEnd::Succeeded);
        let mut ends = Some(self.now + self.chance.pick(&[0, 1, SECOND, 3 * SECOND, 9 * SECOND]));
        match self.chance.below(if self.is_calm { 1 } else { 20 }) {
            0..=9 => {
                outcome.output = random_output(&mut self.chance).map(|value| {
                    let json: Arc<str> = value.to_string().into();
                    Output { size: json.len() as u64, json }
                });
            }
            10..=16 => {
                self.ledger.coverage.reached("program fails");
                outcome.end = match self.chance.below(8) {
                    0 => AttemptEnd::Signal(9),
                    1 => AttemptEnd::NotSpawned("no such program".into()),
                    2 => AttemptEnd::OutputRefused("no JSON".into()),
                    3 => AttemptEnd::NotRendered("no such value".into()),
                    4 => AttemptEnd::ExitCode(75),
                    5 => AttemptEnd::ExitCode(3),
                    _ => AttemptEnd::ExitCode(1),
                };
            }
            _ => {
                self.ledger.coverage.reached("program hangs");
                ends = None;
            }
        }
        let spawned = self.chance.one_in(2).then_some(self.now);
        let silent = is_bounded.filter(|_| self.chance.one_in(2)).map(|micros| self.now + micros);
        let program = Program { ends, outcome, spawned, silent, is_told: false };
        if self.programs.insert(key, program).is_some() {
            self.ledger.fail("an attempt was started twice");
        }
    }

    fn stop(&mut self, key: AttemptKey) {
        let Some(program) = self.programs.get_mut(&key) else { return };
        if std::mem::replace(&mut program.is_told, true) {
            return;
        }
        let grace = self.now + self.chance.pick(&[0, SECOND, 10 * SECOND]);
        if self.chance.one_in(4) && program.ends.is_some() {
            self.ledger.coverage.reached("program ends while it is told to");
            return;
        }
        if self.chance.one_in(8) {
            // It heeds the signal in its own way.
            program.outcome = AttemptOutcome::bare(AttemptEnd::ExitCode(143));
        } else {
            program.outcome = AttemptOutcome::bare(AttemptEnd::Stopped);
        }
        program.ends = Some(grace);
    }
}

/// Whether a fact is the one that was told. The history keeps the definitions elsewhere.
fn is_same(kept: &Recorded, told: &Recorded) -> bool {
    match (&kept.event, &told.event) {
        (
            Event::WorkflowChanged { change, version, .. },
            Event::WorkflowChanged { change: other_change, version: other_version, .. },
        ) => {
            (change, version, &kept.workflow) == (other_change, other_version, &told.workflow)
                && (kept.revision, kept.time) == (told.revision, told.time)
        }
        (
            Event::TemplateChanged { template, change, version, .. },
            Event::TemplateChanged { template: other, change: other_change, version: other_version, .. },
        ) => {
            (template, change, version) == (other, other_change, other_version)
                && (kept.revision, kept.time) == (told.revision, told.time)
        }
        (
            Event::ScheduleChanged { schedule, change, version, .. },
            Event::ScheduleChanged { schedule: other, change: other_change, version: other_version, .. },
        ) => {
            (schedule, change, version) == (other, other_change, other_version)
                && (kept.revision, kept.time) == (told.revision, told.time)
        }
        _ => kept == told,
    }
}

pub fn person() -> Actor {
    Actor::from_text("uid:1")
}

fn process() -> ProcessIdentity {
    ProcessIdentity { pid: 7, start_time: 1, boot_id: "boot".into() }
}
