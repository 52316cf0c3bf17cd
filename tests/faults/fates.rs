//! What becomes of the hours of a schedule: what docs/schedules.md says of it, and what noxd tells in its events.
//!
//! Both are told in hours of the story. The reference is written from the documentation, not from the machine: it knows
//! whether one runs and which wait, no executions and no rows.

use std::collections::BTreeMap;

use noxd::proto::v1::{self, CatchUpPolicy, OverlapPolicy, event::Kind};

/// Hour 0 of every story, in seconds after 1970.
pub const ZERO: i64 = 1_800_000_000;
/// An hour.
pub const HOUR: i64 = 3_600;

/// What became of an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Fired,
    Waiting,
    Skipped,
    Missed,
}

/// How many hours had which fate: fired, waiting, skipped, missed.
pub type Counts = (u64, usize, u64, u64);

/// Hours and their fates.
pub type Fates = BTreeMap<i64, Fate>;

/// Counts fates.
pub fn counts(fates: &Fates) -> Counts {
    let of = |fate: Fate| fates.values().filter(|other| **other == fate).count();
    (of(Fate::Fired) as u64, of(Fate::Waiting), of(Fate::Skipped) as u64, of(Fate::Missed) as u64)
}

/// A schedule that fires every hour, as the documentation has it.
#[derive(Clone, Debug)]
pub struct Documented {
    pub overlap: OverlapPolicy,
    pub catch_up: CatchUpPolicy,
    pub window: Option<i64>,
    /// Whether its executions go on until somebody ends them.
    pub runs_on: bool,
    pub fates: Fates,
    running: bool,
}

impl Documented {
    pub fn new(overlap: OverlapPolicy, catch_up: CatchUpPolicy, window: Option<i64>, runs_on: bool) -> Self {
        Self { overlap, catch_up, window, runs_on, fates: Fates::new(), running: false }
    }

    /// What noxd calls it.
    pub fn name(&self) -> String {
        let window = self.window.map_or("ever".into(), |seconds| format!("{seconds}s"));
        let kind = if self.runs_on { "runs-on" } else { "ends" };
        format!("{}.{}.{window}.{kind}", self.overlap.as_str_name(), self.catch_up.as_str_name())
    }

    /// Hours that came together, and are not missed.
    pub fn come(&mut self, hours: &[i64]) {
        for (at, hour) in hours.iter().enumerate() {
            let waits = self.fates.values().any(|fate| *fate == Fate::Waiting);
            let is_newest = at + 1 == hours.len();
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
            self.fates.insert(*hour, fate);
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

    /// Hours that came while noxd was away, all of them late, as of now.
    pub fn was_away(&mut self, hours: &[i64], now: i64) {
        let kept = match self.catch_up {
            CatchUpPolicy::None => 0,
            CatchUpPolicy::Last => 1,
            _ => 100,
        };
        let by_policy = hours.len().saturating_sub(kept);
        let too_old = |hour: &i64| self.window.is_some_and(|window| now - (ZERO + hour * HOUR) > window);
        let (missed, made_up) = hours.split_at(by_policy.max(hours.partition_point(too_old)));
        self.fates.extend(missed.iter().map(|hour| (*hour, Fate::Missed)));
        self.come(made_up);
    }
}

/// What events tell of one schedule.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub fates: Fates,
    /// The execution of each hour that fired.
    pub executions: BTreeMap<i64, String>,
}

impl Told {
    /// One fate, once; what waited starts or is skipped later.
    fn fate(&mut self, schedule: &str, hour: i64, fate: Fate) {
        let before = self.fates.insert(hour, fate);
        let may = match before {
            None => true,
            Some(Fate::Waiting) => matches!(fate, Fate::Fired | Fate::Skipped),
            Some(_) => false,
        };
        assert!(may, "S-SCHED-5: hour {hour} of {schedule} was {before:?}, and then {fate:?}");
    }
}

/// The hour of a nominal time, which is a whole one.
pub fn hour_of(time: Option<&pbjson_types::Timestamp>) -> i64 {
    let time = time.expect("a nominal time");
    assert_eq!(((time.seconds - ZERO) % HOUR, time.nanos), (0, 0), "no hour of the story: {time:?}");
    (time.seconds - ZERO) / HOUR
}

/// What all events tell, by schedule.
pub fn told(events: &[v1::Event]) -> BTreeMap<String, Told> {
    let mut all: BTreeMap<String, Told> = BTreeMap::new();
    for event in events {
        let mut tells = |schedule: &str, hour: i64, fate: Fate| {
            let told = all.entry(schedule.to_owned()).or_default();
            told.fate(schedule, hour, fate);
        };
        match event.kind.as_ref().expect("a kind") {
            Kind::ScheduleFired(fired) => {
                let hour = hour_of(fired.time.as_ref());
                tells(&fired.schedule_id, hour, Fate::Fired);
                let told = all.entry(fired.schedule_id.clone()).or_default();
                told.executions.insert(hour, fired.execution_id.clone());
            }
            Kind::ScheduleBuffered(waits) => tells(&waits.schedule_id, hour_of(waits.time.as_ref()), Fate::Waiting),
            Kind::ScheduleSkipped(skipped) => {
                assert!(!skipped.reason.is_empty(), "{skipped:?}");
                tells(&skipped.schedule_id, hour_of(skipped.time.as_ref()), Fate::Skipped);
            }
            Kind::ScheduleMissed(missed) => {
                let hours = hour_of(missed.first.as_ref())..=hour_of(missed.last.as_ref());
                assert_eq!(hours.clone().count() as u64, missed.count, "{missed:?}");
                hours.for_each(|hour| tells(&missed.schedule_id, hour, Fate::Missed));
            }
            _ => {}
        }
    }
    all
}
