//! People and schedules: stored, changed, paused, resumed, started by hand and deleted at any moment, over workflows that
//! vanish or are drafts.

use std::{collections::BTreeMap, sync::Arc};

use noxd::{
    calendar::{FoldPolicy, GapPolicy, Kind, Spec},
    machine::{
        ids::{ScheduleId, Timestamp, WorkflowId},
        message::{Command, Content, Inputs},
        schedule::{CatchUp, OverlapPolicy, Runs, ScheduleSpec},
        workflow::{Definition, WorkflowSpec},
    },
};

use crate::{
    chance::Chance,
    firings::{Offer, Schedule},
    ledger::Ledger,
    light::Engine,
    timetable::{DAY, HOUR, MINUTE, Next, SECOND, Timetable, ZONES},
    world::{World, person},
};

pub const OVERLAPS: [OverlapPolicy; 5] = [
    OverlapPolicy::Skip,
    OverlapPolicy::BufferOne,
    OverlapPolicy::BufferAll,
    OverlapPolicy::CancelOther,
    OverlapPolicy::AllowAll,
];
pub const CATCH_UPS: [CatchUp; 3] = [CatchUp::None, CatchUp::Last, CatchUp::All];
/// A workflow that is now and then a draft, or gone.
const UNSTEADY: &str = "three";
const EXPRESSIONS: [&str; 8] = [
    "*/5 * * * *",
    "*/20 1-3 * * *",
    "0 */2 * * *",
    "30 2 * * *",
    "0,30 2,3 * * *",
    "30 30 2 * * MON-FRI",
    "@daily",
    "0 9 1 * *",
];
/// Waiting times that can start all at once and not take for ever.
const FEW: usize = 5;

impl<E: Engine> World<E> {
    /// Somebody does something about a schedule.
    pub fn schedule(&mut self) {
        let id = ScheduleId::parse(self.chance.pick(&["nightly", "hourly", "often"])).expect("a name");
        let lives = self.ledger.schedules.known.get(&id).is_some_and(|schedule| !schedule.deleted);
        let command = match self.chance.below(if lives { 12 } else { 3 }) {
            0 if lives => self.delete_schedule(id),
            0 | 1 | 9 if self.chance.one_in(12) => self.create_schedule(id),
            _ if !lives && self.chance.one_in(8) => self.update_schedule(id),
            0..=2 if !lives => self.create_schedule(id),
            1..=3 => self.update_schedule(id),
            4 | 5 => Command::PauseSchedule { schedule: id, note: self.chance.pick(&["", "holiday"]).into() },
            6..=8 => Command::ResumeSchedule { schedule: id },
            _ => Command::TriggerSchedule { schedule: id, execution: self.new_id() },
        };
        self.ledger.coverage.reached(match &command {
            Command::CreateSchedule { .. } => "schedule is stored",
            Command::UpdateSchedule { .. } => "schedule is changed",
            Command::DeleteSchedule { .. } => "schedule is deleted",
            Command::PauseSchedule { .. } => "schedule is paused",
            Command::ResumeSchedule { .. } => "schedule is resumed",
            _ => "schedule is started by hand",
        });
        self.tell(vec![(command, person())]);
    }

    fn delete_schedule(&mut self, schedule: ScheduleId) -> Command {
        Command::DeleteSchedule { schedule, etag: self.chance.pick(&[None, None, Some("v1".to_string())]) }
    }

    fn create_schedule(&mut self, id: ScheduleId) -> Command {
        let times = random_times(self.wall(), &mut self.chance);
        let spec = Arc::new(random_spec(id.clone(), times, true, &mut self.chance));
        let enabled = !self.chance.one_in(12);
        let remaining_runs = random_runs(&mut self.chance);
        let version = self.ledger.schedules.known.get(&id).map_or(0, |known| known.version) + 1;
        let offer = Offer { spec: Arc::clone(&spec), enabled: Some(enabled), remaining: remaining_runs };
        self.ledger.schedules.offers.insert((id, version), offer);
        Command::CreateSchedule { spec, enabled, remaining_runs }
    }

    fn update_schedule(&mut self, id: ScheduleId) -> Command {
        let known = self.ledger.schedules.known.get(&id);
        let may_start_all = known.is_none_or(|known| known.waiting.len() <= FEW);
        let before = known.map(|known| (known.spec.clone(), known.remaining));
        let mut spec = match before {
            Some((before, _)) if self.chance.one_in(2) => {
                random_spec(id.clone(), before.times, may_start_all, &mut self.chance)
            }
            _ => {
                let times = random_times(self.wall(), &mut self.chance);
                random_spec(id.clone(), times, may_start_all, &mut self.chance)
            }
        };
        // As a person sends it, who does not know when it was created.
        spec.times.created_at = Timestamp(0);
        let enabled = self.chance.pick(&[None, None, Some(true), Some(false)]);
        let etag = self.chance.pick(&[None, None, Some("v1".to_string())]);
        let remaining_runs = random_runs_of(&mut self.chance);
        self.offer_update(spec, enabled, remaining_runs, etag)
    }

    fn offer_update(
        &mut self,
        spec: ScheduleSpec,
        enabled: Option<bool>,
        remaining_runs: Option<u64>,
        etag: Option<String>,
    ) -> Command {
        let (id, spec) = (spec.id.clone(), Arc::new(spec));
        let version = self.ledger.schedules.known.get(&id).map_or(0, |known| known.version) + 1;
        let offer = Offer { spec: Arc::clone(&spec), enabled, remaining: remaining_runs };
        self.ledger.schedules.offers.insert((id, version), offer);
        Command::UpdateSchedule { spec, enabled, runs: Runs::Left(remaining_runs), etag }
    }

    /// The workflow that some schedules start becomes good, a draft, or nothing.
    pub fn unsteady(&mut self) {
        let id = WorkflowId::parse(UNSTEADY).expect("a name");
        let stored = self.ledger.workflows.get(&id).copied();
        let is_draft = stored
            .is_some_and(|(version, deleted)| !deleted && !self.ledger.plans.contains_key(&(id.clone(), version)));
        if is_draft && !self.chance.one_in(4) {
            // It is mended, and some schedules give it what it does not take.
            self.store(UNSTEADY);
        } else if self.chance.one_in(4) {
            self.tell(vec![(Command::DeleteWorkflow { workflow: id, etag: None }, person())]);
        } else if self.chance.one_in(3) {
            self.ledger.coverage.reached("draft");
            let spec = WorkflowSpec::named(id.clone());
            let violations = Definition::check(spec.clone()).expect_err("it has no tasks");
            let known = self.ledger.workflows.get(&id).copied();
            self.ledger.plans.remove(&(id, known.map_or(0, |(version, _)| version) + 1));
            let content = Content::Draft { spec: Arc::new(spec), violations };
            let command = match known {
                Some((_, false)) => Command::UpdateWorkflow { content, etag: None },
                _ => Command::CreateWorkflow { content },
            };
            self.tell(vec![(command, person())]);
            (0..3).for_each(|_| self.schedule());
        } else {
            self.store(UNSTEADY);
        }
    }

    /// Nobody wants more times: what waits is still to be done.
    pub fn end_schedules(&mut self) {
        if !matches!(self.ledger.workflows.get(&WorkflowId::parse("one").expect("a name")), Some((_, false))) {
            self.store("one");
        }
        let lives = |(id, schedule): (&ScheduleId, &Schedule)| (!schedule.deleted).then(|| id.clone());
        let ids: Vec<ScheduleId> = self.ledger.schedules.known.iter().filter_map(lives).collect();
        for id in ids {
            let known = &self.ledger.schedules.known[&id];
            let left = known.waiting.len();
            let command = if left > FEW {
                Command::DeleteSchedule { schedule: id, etag: None }
            } else {
                let mut spec = known.spec.clone();
                spec.workflow = WorkflowId::parse("one").expect("a name");
                spec.inputs = Inputs::default();
                self.offer_update(spec, Some(true), Some(left as u64), None)
            };
            self.tell(vec![(command, person())]);
        }
    }
}

fn random_runs(chance: &mut Chance) -> Option<u64> {
    chance.one_in(4).then(|| 1 + chance.below(5) as u64)
}

fn random_runs_of(chance: &mut Chance) -> Option<u64> {
    chance.one_in(3).then(|| chance.below(5) as u64)
}

fn random_times(now: i64, chance: &mut Chance) -> Spec {
    let kind = match chance.below(5) {
        0 => {
            let after = chance.pick(&[SECOND, 30 * SECOND, 10 * MINUTE, 5 * HOUR, 26 * HOUR, -MINUTE]);
            Kind::Once { execute_at: Timestamp(now + after) }
        }
        1 | 2 => {
            let spans = [6 * HOUR, HOUR, 10 * MINUTE, 2 * MINUTE, 25 * HOUR, 6 * HOUR];
            let often = chance.one_in(8);
            Kind::Interval { interval_micros: if often { 9 * SECOND } else { chance.pick(&spans) } }
        }
        _ => Kind::Cron { expression: chance.pick(&EXPRESSIONS).into() },
    };
    let is_cron = matches!(kind, Kind::Cron { .. });
    let mut times = Spec::new(kind, Timestamp(0));
    times.timezone = chance.pick(&ZONES).into();
    if is_cron && chance.one_in(4) {
        times.gap_policy = chance.pick(&[None, Some(GapPolicy::RunAfter), Some(GapPolicy::Skip)]);
        times.fold_policy = chance.pick(&[None, Some(FoldPolicy::Second), Some(FoldPolicy::Both)]);
    }
    let start = chance.one_in(4).then(|| now + chance.pick(&[-2 * HOUR, 10 * MINUTE, DAY]));
    times.start_at = start.map(Timestamp);
    let end = chance.one_in(4).then(|| start.unwrap_or(now).max(now) + chance.pick(&[HOUR, DAY, 3 * DAY]));
    times.end_at = end.map(Timestamp);
    times.jitter_micros = chance.pick(&[0, 0, 0, 5 * SECOND, 90 * SECOND, 2 * HOUR]);
    times
}

/// Whether so many come in a day that they cannot all start beside each other in a simulation.
fn is_dense(times: &Spec) -> bool {
    match &times.kind {
        Kind::Once { .. } => false,
        Kind::Cron { expression } => EXPRESSIONS[..3].contains(&expression.as_str()),
        Kind::Interval { interval_micros } => *interval_micros < 6 * HOUR,
    }
}

fn random_spec(id: ScheduleId, times: Spec, may_start_all: bool, chance: &mut Chance) -> ScheduleSpec {
    let overlaps = if is_dense(&times) || !may_start_all { &OVERLAPS[..4] } else { &OVERLAPS[..] };
    let workflow = match chance.below(15) {
        0 => "none",
        1..=4 => UNSTEADY,
        5..=9 => "two",
        _ => "one",
    };
    let mut given = serde_json::Map::new();
    // A draft takes anything, and may be mended before the time comes.
    if chance.one_in(if workflow == UNSTEADY { 3 } else { 12 }) {
        given.insert("go".into(), "nonsense".into());
    }
    let windows = [None, None, Some(90 * SECOND), Some(HOUR), Some(12 * HOUR)];
    ScheduleSpec {
        id,
        workflow: WorkflowId::parse(workflow).expect("a name"),
        description: String::new(),
        times,
        overlap: chance.pick(overlaps),
        catch_up: chance.pick(&CATCH_UPS),
        catch_up_window_micros: chance.pick(&windows).map(i64::cast_unsigned),
        inputs: Inputs(given.into()),
        labels: BTreeMap::new(),
        retry: None,
    }
}

impl Ledger {
    /// What a command about schedules must be answered.
    pub fn expected_of_schedule(&self, command: &Command) -> &'static str {
        let live = |id: &ScheduleId| self.schedules.known.get(id).filter(|schedule| !schedule.deleted);
        let etag_differs = |schedule: &Schedule, etag: &Option<String>| {
            etag.as_ref().is_some_and(|etag| *etag != format!("v{}", schedule.version))
        };
        match command {
            Command::CreateSchedule { .. } | Command::UpdateSchedule { .. } if self.draining => "Draining",
            Command::CreateSchedule { spec, .. } => match live(&spec.id) {
                Some(_) => "ScheduleExists",
                None => self.expected_of_spec(spec, None),
            },
            Command::UpdateSchedule { spec, etag, .. } => match live(&spec.id) {
                None => "ScheduleNotFound",
                Some(schedule) if etag_differs(schedule, etag) => "ScheduleEtagMismatch",
                Some(schedule) => self.expected_of_spec(spec, Some(schedule)),
            },
            Command::DeleteSchedule { schedule, etag } => match live(schedule) {
                None => "ScheduleNotFound",
                Some(schedule) if etag_differs(schedule, etag) => "ScheduleEtagMismatch",
                Some(_) => "Ok",
            },
            Command::TriggerSchedule { schedule, .. } => match live(schedule) {
                None => "ScheduleNotFound",
                Some(schedule) => match self.may_start(&schedule.spec) {
                    Some((refused, _)) if refused != "InvalidInputs" || !self.draining => refused,
                    _ if self.draining => "Draining",
                    _ => "Ok",
                },
            },
            Command::PauseSchedule { schedule, .. } | Command::ResumeSchedule { schedule } => {
                if live(schedule).is_some() { "Ok" } else { "ScheduleNotFound" }
            }
            _ => self.fail("no command of schedules"),
        }
    }

    fn expected_of_spec(&self, spec: &ScheduleSpec, before: Option<&Schedule>) -> &'static str {
        match self.may_start(spec) {
            // It may be mended until its first time comes.
            None | Some(("InvalidWorkflowState", _)) => {}
            Some((refused, _)) => return refused,
        }
        let now = self.schedules.clock;
        let created_at = before.map_or(Timestamp(now), |before| before.spec.times.created_at);
        let times = Spec { created_at, ..spec.times.clone() };
        let is_kept = before.is_some_and(|before| before.spec.times == times);
        if !is_kept && Timetable::of(&times).after(now) == Next::Never { "InvalidSchedule" } else { "Ok" }
    }
}
