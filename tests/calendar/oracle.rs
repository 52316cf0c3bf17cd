//! What should fire, by walking through time: a step at a time it looks at the clock and asks the text of the expression
//! whether it means this. It knows nothing of how the calendar finds the same.

use std::ops::Range;

use chrono::{DateTime, Datelike};
use noxd::calendar::{FoldPolicy, GapPolicy};

use crate::zones::Zone;

/// How far before and after its span the oracle looks for times that clocks show twice: further than they are ever set.
const REACH: i64 = 26 * 3_600;

/// An expression, field by field: each says of every number whether it is meant.
pub struct Expected {
    second: Vec<bool>,
    minute: Vec<bool>,
    hour: Vec<bool>,
    day: Vec<bool>,
    month: Vec<bool>,
    weekday: Vec<bool>,
    year: Vec<bool>,
    either_day: bool,
    pub gap: GapPolicy,
    pub fold: FoldPolicy,
}

impl Expected {
    pub fn new(expression: &str, gap: Option<GapPolicy>, fold: Option<FoldPolicy>) -> Self {
        let expression = match expression {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let mut words: Vec<&str> = expression.split_whitespace().collect();
        let either_day = words.len() == 5 && [words[2], words[4]].iter().all(|word| !word.starts_with(['*', '?']));
        if words.len() == 5 {
            words.insert(0, "0");
        }
        words.resize(7, "*");
        let follows = words[..3].iter().any(|word| word.starts_with('*'));
        let (usual_gap, usual_fold) =
            if follows { (GapPolicy::Skip, FoldPolicy::Both) } else { (GapPolicy::RunAfter, FoldPolicy::First) };
        let mut weekday = meant(words[5], 0, 7, "SUN MON TUE WED THU FRI SAT");
        weekday[0] |= weekday[7] && words[5].contains(|c: char| c == '7' || c.is_alphabetic());
        Self {
            second: meant(words[0], 0, 59, ""),
            minute: meant(words[1], 0, 59, ""),
            hour: meant(words[2], 0, 23, ""),
            day: meant(words[3], 1, 31, ""),
            month: meant(words[4], 1, 12, "- JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC"),
            weekday,
            year: meant(words[6], 1970, 2100, ""),
            either_day,
            gap: gap.unwrap_or(usual_gap),
            fold: fold.unwrap_or(usual_fold),
        }
    }

    /// The seconds that are meant of what the clock shows for a step: of a minute, or of that second alone.
    fn meant_in(&self, local: i64, step: i64) -> impl Iterator<Item = i64> {
        let of_day = local.rem_euclid(86_400) as usize;
        let minute = self.minute[of_day / 60 % 60]
            && self.hour[of_day / 3_600]
            && (of_day.is_multiple_of(60) || step == 1)
            && self.means_date(local);
        let seconds = if minute { 0..step } else { 0..0 };
        seconds.filter(move |second| self.second[of_day % 60 + *second as usize])
    }

    fn means_date(&self, local: i64) -> bool {
        let date = DateTime::from_timestamp(local, 0).expect("it is in range").naive_utc();
        let day = self.day[date.day() as usize];
        let weekday = self.weekday[date.weekday().num_days_from_sunday() as usize];
        self.month[date.month() as usize]
            && self.year[date.year() as usize]
            && if self.either_day { day || weekday } else { day && weekday }
    }

    /// Every moment of a walk at which it should fire.
    pub fn firings(&self, walk: &Walk) -> Vec<i64> {
        let mut fired = Vec::new();
        for step in &walk.steps {
            let counts = match self.fold {
                FoldPolicy::Both => true,
                FoldPolicy::First => !step.shown_before,
                FoldPolicy::Second => !step.shown_again,
            };
            let mut skipped = (step.local - step.jumped..step.local).step_by(walk.step as usize);
            let after_gap = step.jumped > 0
                && self.gap == GapPolicy::RunAfter
                && skipped.any(|local| self.meant_in(local, walk.step).next().is_some());
            if after_gap {
                fired.push(step.moment);
            }
            if counts {
                let meant = self.meant_in(step.local, walk.step);
                fired.extend(meant.filter(|second| !after_gap || *second > 0).map(|second| step.moment + second));
            }
        }
        fired
    }
}

/// A walk through a span of time in one zone.
pub struct Walk {
    /// The first moment, and the first that is over.
    pub span: Range<i64>,
    /// Seconds: 1, or 60 where clocks are changed at full minutes.
    step: i64,
    steps: Vec<Step>,
}

struct Step {
    moment: i64,
    /// What the clock shows.
    local: i64,
    /// By how much it has just jumped ahead.
    jumped: i64,
    shown_before: bool,
    shown_again: bool,
}

impl Walk {
    pub fn through(zone: &Zone, span: Range<i64>, step: i64) -> Self {
        let moments: Vec<i64> = (span.start - REACH..span.end + REACH).step_by(step as usize).collect();
        let shown: Vec<i64> = moments.iter().map(|moment| zone.local(*moment)).collect();
        let mut earliest = vec![i64::MAX; shown.len()];
        for at in (1..shown.len()).rev() {
            earliest[at - 1] = earliest[at].min(shown[at]);
        }
        let mut latest = i64::MIN;
        let mut steps = Vec::new();
        for (at, (moment, local)) in moments.into_iter().zip(shown.iter().copied()).enumerate() {
            if span.contains(&moment) {
                let jumped = (local - shown[at - 1] - step).max(0);
                let (shown_before, shown_again) = (local <= latest, local >= earliest[at]);
                steps.push(Step { moment, local, jumped, shown_before, shown_again });
            }
            latest = latest.max(local);
        }
        Self { span, step, steps }
    }

    /// How many steps it has.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }
}

/// For every number up to the largest, whether the field means it.
fn meant(field: &str, least: usize, most: usize, names: &str) -> Vec<bool> {
    let names: Vec<&str> = names.split_whitespace().collect();
    let number = |text: &str| {
        let named = names.iter().position(|name| text.to_uppercase().starts_with(name) && *name != "-");
        named.unwrap_or_else(|| text.parse().expect("a number"))
    };
    let is_meant = |value: usize| {
        field.split(',').any(|item| {
            let (range, step) =
                item.split_once('/').map_or((item, None), |(range, step)| (range, step.parse::<usize>().ok()));
            let (low, high) = match range.split_once('-') {
                _ if range == "*" || range == "?" => (least, most),
                Some((low, high)) if number(high) < number(low) => (number(low), number(high) + 7),
                Some((low, high)) => (number(low), number(high)),
                None if step.is_some() => (number(range), if most == 7 { 6 } else { most }),
                None => (number(range), number(range)),
            };
            (low..=high).contains(&value) && (value - low).is_multiple_of(step.unwrap_or(1))
        })
    };
    (0..=most).map(|value| value >= least && is_meant(value)).collect()
}
