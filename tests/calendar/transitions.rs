//! Every expression in every zone fires when the walk through time says.

use std::time::Instant;

use noxd::calendar::{Calendar, FoldPolicy, GapPolicy, Note, SECOND_MICROS};

use crate::{
    calendar,
    chance::Chance,
    expressions, moment,
    oracle::{Expected, Walk},
    zones::{ZONES, Zone},
};

const DAY: i64 = 86_400;

/// How much is compared.
struct Extent {
    /// One in so many pairs of an expression and a zone.
    one_in: usize,
    /// How many of the days without a change, of 730.
    days: usize,
    /// How far around a change, second by second, in seconds.
    around: i64,
}

const SAMPLE: Extent = Extent { one_in: 4, days: 6, around: 3 * 3_600 };
const WHOLE: Extent = Extent { one_in: 1, days: 730, around: DAY };

/// What was compared: too little is void.
#[derive(Default, Debug)]
struct Compared {
    pairs: usize,
    firings: usize,
    asked_again: usize,
    after_gap: usize,
    first_pass: usize,
    second_pass: usize,
}

#[test]
fn schedules_fire_when_a_walk_through_time_says() {
    // S-SCHED-1, S-SCHED-2, S-SCHED-3
    let whole = match std::env::var("NOXD_CALENDAR").as_deref() {
        Ok("whole") => true,
        Ok(other) => panic!("NOXD_CALENDAR={other}: it can be `whole`"),
        Err(_) => false,
    };
    let extent = if whole { WHOLE } else { SAMPLE };
    let expressions = expressions::all();
    assert!(expressions.len() >= expressions::COUNT, "void: {} expressions", expressions.len());
    let began = Instant::now();
    let mut compared = Compared::default();
    for (number, (zone, (.., changes))) in Zone::all().iter().zip(ZONES).enumerate() {
        let found = zone.changes();
        assert_eq!(found.len(), changes, "void: the clocks of {} are changed at {found:?}", zone.name);
        let walks = walks(zone, &found, &extent);
        for (at, expression) in expressions.iter().enumerate() {
            if (at + number).is_multiple_of(extent.one_in) {
                let other = [(at + number) / extent.one_in % OTHERS.len()].map(|other| OTHERS[other]);
                for (gap, fold) in [(None, None)].into_iter().chain(other) {
                    compare(expression, zone, (gap, fold), &walks, &mut compared);
                }
                compared.pairs += 1;
            }
        }
        let steps: usize = walks.iter().map(Walk::steps).sum();
        println!("{:20} {steps:9} steps, {:5.1} s: {compared:?}", zone.name, began.elapsed().as_secs_f64());
    }
    let Compared { pairs, firings, asked_again, after_gap, first_pass, second_pass } = compared;
    assert_eq!(pairs, expressions.len() * ZONES.len() / extent.one_in, "void");
    let enough = firings > 100_000 && asked_again > 10_000 && after_gap > 200 && first_pass > 200 && second_pass > 200;
    assert!(enough, "void: only {compared:?}");
}

/// Policies besides those of an expression's class.
const OTHERS: [(Option<GapPolicy>, Option<FoldPolicy>); 6] = [
    (Some(GapPolicy::Skip), Some(FoldPolicy::Both)),
    (Some(GapPolicy::RunAfter), Some(FoldPolicy::First)),
    (None, Some(FoldPolicy::Second)),
    (Some(GapPolicy::RunAfter), Some(FoldPolicy::Both)),
    (Some(GapPolicy::Skip), Some(FoldPolicy::Second)),
    (Some(GapPolicy::RunAfter), Some(FoldPolicy::Second)),
];

fn walks(zone: &Zone, changes: &[i64], extent: &Extent) -> Vec<Walk> {
    let (from, to) = zone.years();
    let mut walks = Vec::new();
    if extent.days >= 730 {
        walks.push(Walk::through(zone, from..to, 60));
    } else {
        // Changes are at full minutes, so that a day around them by minutes misses nothing but seconds.
        walks.extend(changes.iter().map(|change| Walk::through(zone, change - DAY..change + DAY, 60)));
        let mut chance = Chance::seeded(1);
        let days = (0..extent.days).map(|_| from + chance.below(729) as i64 * DAY);
        walks.extend(days.map(|day| Walk::through(zone, day..day + DAY, 60)));
    }
    walks.extend(changes.iter().map(|change| Walk::through(zone, change - extent.around..change + extent.around, 1)));
    walks
}

fn compare(
    expression: &str,
    zone: &Zone,
    (gap, fold): (Option<GapPolicy>, Option<FoldPolicy>),
    walks: &[Walk],
    compared: &mut Compared,
) {
    let words = || format!("{expression} in {} with {gap:?}, {fold:?}", zone.name);
    let expected = Expected::new(expression, gap, fold);
    let calendar = calendar(expression, zone.name, gap, fold);
    for walk in walks {
        let expected = expected.firings(walk);
        let mut firings = calendar.firings(moment(walk.span.start).before());
        for second in &expected {
            let firing = firings.next().unwrap_or_else(|| panic!("{} should fire at {second}: never again", words()));
            assert_eq!(firing.at, moment(*second), "{}: not {firing:?}", words());
            assert_eq!(firing.local.0, zone.local(*second) * SECOND_MICROS, "{}: {firing:?}", words());
            assert!(firing.meant == firing.local || firing.note == Note::AfterGap, "{}: {firing:?}", words());
            match firing.note {
                Note::Plain => {}
                Note::AfterGap => compared.after_gap += 1,
                Note::FirstPass => compared.first_pass += 1,
                Note::SecondPass => compared.second_pass += 1,
            }
        }
        let next = firings.next();
        assert!(next.is_none_or(|next| next.at >= moment(walk.span.end)), "{}: too often: {next:?}", words());
        compared.firings += expected.len();
        compared.asked_again += ask_again(&calendar, &expected, walk, &words);
    }
}

/// Asks from moments between two firings, as after a restart: the sequence goes on as it was.
fn ask_again(calendar: &Calendar, expected: &[i64], walk: &Walk, words: &dyn Fn() -> String) -> usize {
    const TIMES: usize = 12;
    let mut chance = Chance::seeded(expected.len() as u64);
    for _ in 0..TIMES.min(expected.len()) {
        let at = chance.below(expected.len());
        let next = moment(expected[at]);
        let last = if at == 0 { moment(walk.span.start).before() } else { moment(expected[at - 1]) };
        let between = noxd::machine::ids::Timestamp(last.0 + chance.below((next.0 - last.0) as usize) as i64);
        assert_eq!(calendar.next(between).map(|next| next.at), Some(next), "{}: asked again from {between:?}", words());
    }
    TIMES.min(expected.len())
}

/// The last moment before this one.
trait Before {
    fn before(self) -> Self;
}

impl Before for noxd::machine::ids::Timestamp {
    fn before(self) -> Self {
        Self(self.0 - 1)
    }
}
