//! What becomes of the times of a schedule: what docs/schedules.md says of it, and what noxd tells in its events.
//!
//! Both are told in seconds of the story. The reference is written from the documentation, not from the machine: it knows
//! whether one runs and which wait, no executions and no rows.

use std::collections::BTreeMap;

use noxd::proto::v1::{self, CatchUpPolicy, OverlapPolicy, event::Kind};

/// When every story begins, in seconds after 1970: a full hour.
pub const ZERO: i64 = 1_800_000_000;
/// Seconds of an hour.
pub const HOUR: i64 = 3_600;
/// Seconds of a minute: a time that is later is late.
pub const MINUTE: i64 = 60;

/// What became of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Fired,
    Waiting,
    Skipped,
    Missed,
}

/// How many times had which fate: fired, waiting, skipped, missed.
pub type Counts = (u64, usize, u64, u64);

/// Times, in seconds of the story, and their fates.
pub type Fates = BTreeMap<i64, Fate>;

/// Counts fates.
pub fn counts(fates: &Fates) -> Counts {
    let of = |fate: Fate| fates.values().filter(|other| **other == fate).count();
    (of(Fate::Fired) as u64, of(Fate::Waiting), of(Fate::Skipped) as u64, of(Fate::Missed) as u64)
}

/// A schedule that begins to fire after an hour, as the documentation has it.
#[derive(Clone, Debug)]
pub struct Documented {
    /// Seconds from one time to the next.
    pub every: i64,
    pub overlap: OverlapPolicy,
    pub catch_up: CatchUpPolicy,
    pub window: Option<i64>,
    /// Whether its executions go on until somebody ends them.
    pub runs_on: bool,
    pub fates: Fates,
    running: bool,
}

impl Documented {
    pub fn new(
        every: i64,
        overlap: OverlapPolicy,
        catch_up: CatchUpPolicy,
        window: Option<i64>,
        runs_on: bool,
    ) -> Self {
        Self { every, overlap, catch_up, window, runs_on, fates: Fates::new(), running: false }
    }

    /// What noxd calls it.
    pub fn name(&self) -> String {
        let window = self.window.map_or("ever".into(), |seconds| format!("{seconds}s"));
        let kind = if self.runs_on { "runs-on" } else { "ends" };
        format!("{}s.{}.{}.{window}.{kind}", self.every, self.overlap.as_str_name(), self.catch_up.as_str_name())
    }

    /// Times that came together, and are not missed.
    pub fn come(&mut self, times: &[i64]) {
        for (at, time) in times.iter().enumerate() {
            let waits = self.fates.values().any(|fate| *fate == Fate::Waiting);
            let is_newest = at + 1 == times.len();
            let fate = match self.overlap {
                OverlapPolicy::AllowAll => Fate::Fired,
                // What runs is cancelled, ends, and this starts.
                OverlapPolicy::CancelOther if is_newest => Fate::Fired,
                OverlapPolicy::CancelOther => Fate::Skipped,
                _ if !self.running => Fate::Fired,
                OverlapPolicy::BufferAll => Fate::Waiting,
                OverlapPolicy::BufferOne if !waits => Fate::Waiting,
                _ => Fate::Skipped,
            };
            self.running |= fate == Fate::Fired;
            self.fates.insert(*time, fate);
        }
        if !self.runs_on {
            self.ended();
        }
    }

    /// All of it has ended, again and again, until nothing waits.
    pub fn ended(&mut self) {
        self.running = false;
        for fate in self.fates.values_mut().filter(|fate| **fate == Fate::Waiting) {
            *fate = Fate::Fired;
        }
    }

    /// Its times after one moment until another.
    pub fn times(&self, after: i64, until: i64) -> Vec<i64> {
        (1..=until / self.every).map(|count| count * self.every).filter(|at| *at > after && *at >= HOUR).collect()
    }

    /// Times that came while noxd was away, at least one of them late, as of now.
    pub fn was_away(&mut self, times: &[i64], now: i64) {
        let late = times.partition_point(|time| now - time > MINUTE);
        let too_old = times.partition_point(|time| self.window.is_some_and(|window| now - time > window));
        let by_policy = match self.catch_up {
            CatchUpPolicy::None => late,
            CatchUpPolicy::Last => times.len() - 1,
            _ => times.len().saturating_sub(100),
        };
        let (missed, made_up) = times.split_at(by_policy.max(too_old.min(late)));
        self.fates.extend(missed.iter().map(|time| (*time, Fate::Missed)));
        self.come(made_up);
    }
}

/// What events tell of one schedule.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub fates: Fates,
    /// The execution of each time that fired.
    pub executions: BTreeMap<i64, String>,
}

impl Told {
    /// One fate, once; what waited starts or is skipped later.
    fn fate(&mut self, schedule: &str, time: i64, fate: Fate) {
        let before = self.fates.insert(time, fate);
        let may = match before {
            None => true,
            Some(Fate::Waiting) => matches!(fate, Fate::Fired | Fate::Skipped),
            Some(_) => false,
        };
        assert!(may, "S-SCHED-5: {time} s of {schedule} was {before:?}, and then {fate:?}");
    }
}

/// A nominal time, in seconds of the story.
pub fn story_time(time: Option<&pbjson_types::Timestamp>) -> i64 {
    let time = time.expect("a nominal time");
    assert_eq!(time.nanos, 0, "no time of the story: {time:?}");
    time.seconds - ZERO
}

/// What all events tell, by schedule, each of which fires every so many seconds.
pub fn told(events: &[v1::Event], every: &BTreeMap<String, i64>) -> BTreeMap<String, Told> {
    let mut all: BTreeMap<String, Told> = BTreeMap::new();
    for event in events {
        let mut tells = |schedule: &str, time: i64, fate: Fate| {
            let told = all.entry(schedule.to_owned()).or_default();
            told.fate(schedule, time, fate);
        };
        match event.kind.as_ref().expect("a kind") {
            Kind::ScheduleFired(fired) => {
                let time = story_time(fired.time.as_ref());
                tells(&fired.schedule_id, time, Fate::Fired);
                let told = all.entry(fired.schedule_id.clone()).or_default();
                told.executions.insert(time, fired.execution_id.clone());
            }
            Kind::ScheduleBuffered(waits) => tells(&waits.schedule_id, story_time(waits.time.as_ref()), Fate::Waiting),
            Kind::ScheduleSkipped(skipped) => {
                assert!(!skipped.reason.is_empty(), "{skipped:?}");
                tells(&skipped.schedule_id, story_time(skipped.time.as_ref()), Fate::Skipped);
            }
            Kind::ScheduleMissed(missed) => {
                let step = usize::try_from(every[&missed.schedule_id]).expect("it is positive");
                let times = (story_time(missed.first.as_ref())..=story_time(missed.last.as_ref())).step_by(step);
                assert_eq!(times.clone().count() as u64, missed.count, "{missed:?}");
                times.for_each(|time| tells(&missed.schedule_id, time, Fate::Missed));
            }
            _ => {}
        }
    }
    all
}
