//! When a schedule is to fire, found the slow way: intervals by counting, expressions by the walk through time of
//! `tests/calendar/oracle.rs`. Nothing here asks the calendar of noxd.
//!
//! A walk is long, so one of each expression in each zone is kept for all stories; it goes as far as a story may.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock, Mutex},
};

use noxd::calendar::{FoldPolicy, GapPolicy, Kind, Spec};

use crate::{
    oracle::{Expected, Walk},
    zones::Zone,
};

pub const SECOND: i64 = 1_000_000;
pub const MINUTE: i64 = 60 * SECOND;
pub const HOUR: i64 = 60 * MINUTE;
pub const DAY: i64 = 24 * HOUR;

/// Stories begin some days after one of these: in 2026 before the clocks of London, Lord Howe and Havana are changed.
/// 20 March, 17 October.
pub const EPOCHS: [i64; 2] = [1_773_964_800 * SECOND, 1_792_195_200 * SECOND];
/// So long after it they have ended.
pub const SPAN: i64 = 40 * DAY;
pub const ZONES: [&str; 4] = ["", "Europe/London", "Australia/Lord_Howe", "America/Havana"];

/// The times of a schedule.
pub struct Timetable {
    table: Table,
    start: i64,
    end: i64,
}

enum Table {
    Once(i64),
    Every {
        anchor: i64,
        interval: i64,
    },
    /// All times before the second.
    Cron(Arc<Vec<i64>>, i64),
}

/// The first time after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    At(i64),
    Never,
    /// None that is known here: it is after this.
    After(i64),
}

impl Timetable {
    pub fn of(spec: &Spec) -> Self {
        let start = spec.start_at.map_or(i64::MIN, |at| at.0);
        let table = match &spec.kind {
            Kind::Once { execute_at } => Table::Once(execute_at.0),
            Kind::Interval { interval_micros } => {
                Table::Every { anchor: spec.start_at.unwrap_or(spec.created_at).0, interval: *interval_micros }
            }
            Kind::Cron { expression } => {
                let began = EPOCHS.into_iter().rev().find(|epoch| *epoch <= spec.created_at.0).expect("after an epoch");
                let times = walk(expression, &spec.timezone, spec.gap_policy, spec.fold_policy, began);
                Table::Cron(times, began + SPAN)
            }
        };
        Self { table, start, end: spec.end_at.map_or(i64::MAX, |at| at.0) }
    }

    pub fn after(&self, after: i64) -> Next {
        let after = after.max(self.start.saturating_sub(1));
        let next = match &self.table {
            Table::Once(at) if *at > after => *at,
            Table::Once(_) => return Next::Never,
            Table::Every { anchor, interval } if after >= *anchor => {
                anchor + ((after - anchor) / interval + 1) * interval
            }
            Table::Every { anchor, .. } => *anchor,
            Table::Cron(times, until) => match times.get(times.partition_point(|at| *at <= after)) {
                Some(at) => *at,
                None if self.end < *until => return Next::Never,
                None => return Next::After(*until - 1),
            },
        };
        if next <= self.end { Next::At(next) } else { Next::Never }
    }

    /// How many times there are after the first moment until the second.
    pub fn count(&self, after: i64, until: i64) -> usize {
        let (after, until) = (after.max(self.start.saturating_sub(1)), until.min(self.end));
        if until <= after {
            return 0;
        }
        match &self.table {
            Table::Once(at) => usize::from(*at > after && *at <= until),
            Table::Every { anchor, interval } => {
                let until_then = |moment: i64| if moment < *anchor { 0 } else { (moment - anchor) / interval + 1 };
                (until_then(until) - until_then(after)) as usize
            }
            Table::Cron(times, _) => {
                times.partition_point(|at| *at <= until) - times.partition_point(|at| *at <= after)
            }
        }
    }

    /// The longest delay of a time: it is due before the next one.
    pub fn longest_delay(&self, jitter: i64) -> i64 {
        match self.table {
            Table::Every { interval, .. } => jitter.min(interval),
            _ => jitter,
        }
    }

    /// All times after the first moment until the second.
    pub fn between(&self, after: i64, until: i64) -> Vec<i64> {
        let mut times = Vec::new();
        let mut last = after;
        while let Next::At(at) = self.after(last)
            && at <= until
        {
            times.push(at);
            last = at;
        }
        times
    }
}

/// An expression, its zone, its policies and where its times begin.
type Wanted = (String, String, u8, i64);
/// A walk, by its zone and where it begins.
type Walks = BTreeMap<(String, i64), Arc<Walk>>;

fn walk(expression: &str, zone: &str, gap: Option<GapPolicy>, fold: Option<FoldPolicy>, began: i64) -> Arc<Vec<i64>> {
    static KNOWN: LazyLock<Mutex<BTreeMap<Wanted, Arc<Vec<i64>>>>> = LazyLock::new(Mutex::default);
    static WALKS: LazyLock<Mutex<Walks>> = LazyLock::new(Mutex::default);
    let policies = 4 * gap.map_or(0, |gap| gap as u8 + 1) + fold.map_or(0, |fold| fold as u8 + 1);
    let wanted = (expression.to_owned(), zone.to_owned(), policies, began);
    if let Some(times) = KNOWN.lock().expect("nobody panics").get(&wanted) {
        return Arc::clone(times);
    }
    let name = if zone.is_empty() { "UTC" } else { zone };
    let walk = Arc::clone(WALKS.lock().expect("nobody panics").entry((name.to_owned(), began)).or_insert_with(|| {
        let zone = Zone::all().into_iter().find(|zone| zone.name == name).expect("it is one of the comparison");
        Arc::new(Walk::through(&zone, began / SECOND..(began + SPAN) / SECOND, 60))
    }));
    let fired = Expected::new(expression, gap, fold).firings(&walk);
    let times = Arc::new(fired.into_iter().map(|second| second * SECOND).collect::<Vec<_>>());
    KNOWN.lock().expect("nobody panics").insert(wanted, Arc::clone(&times));
    times
}
