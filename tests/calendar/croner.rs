//! A second opinion: the `croner` crate, where both are documented to agree. That is the Unix dialect, and with seconds
//! where one of the fields of days is free (else it means OR and noxd AND; so it does where one is like `*/2`).
//!
//! Where clocks are changed they agree on single times of the day and on what goes with the clock: croner's fixed jobs
//! are those of single numbers only, and lists and ranges are something else to it.

use chrono::{DateTime, TimeZone, Utc};
use croner::parser::{CronParser, Seconds, Year};
use noxd::calendar::SECOND_MICROS;

use crate::{calendar, expressions, moment, zones::Zone};

/// The firings of both, some from each of these moments on.
#[track_caller]
fn agree(expression: &str, zone: &str, from: i64, count: usize) {
    let tz: chrono_tz::Tz = zone.parse().expect("it exists");
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Optional).build();
    let theirs = parser.parse(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    let mut after = tz.from_utc_datetime(&DateTime::from_timestamp(from, 0).expect("in range").naive_utc());
    let calendar = calendar(expression, zone, None, None);
    for firing in calendar.firings(moment(from)).take(count) {
        let next = theirs.find_next_occurrence(&after, false);
        after = next.unwrap_or_else(|error| panic!("{expression} in {zone}: not {firing:?}, but {error}"));
        let ours = DateTime::from_timestamp(firing.at.0 / SECOND_MICROS, 0).expect("in range");
        assert_eq!(ours, after.with_timezone(&Utc), "{expression} in {zone}: {firing:?}");
    }
}

/// What croner refuses: `a/n`, `*` in a list, and whole names.
fn only_here(word: &str) -> bool {
    let step_of_one = |item: &str| item.split_once('/').is_some_and(|(range, _)| !range.contains(['*', '-']));
    word.split(',').any(step_of_one) || word.contains(',') && word.contains('*') || word.contains("day")
}

/// The longest gap that croner gets over.
const LONGEST_GAP: i64 = 2 * 3_600;

#[test]
fn croner_agrees_on_a_clock_that_is_never_changed() {
    // S-SCHED-2
    let mut asked = 0;
    for expression in expressions::all() {
        let words: Vec<&str> = expression.split_whitespace().collect();
        // Macros are other words for expressions that are asked about, and it does not know all of them.
        if words.len() < 5 {
            continue;
        }
        let days: Vec<&str> = if words.len() == 5 { vec![words[2], words[4]] } else { vec![words[3], words[5]] };
        let both = days.iter().all(|word| !["*", "?"].contains(word));
        if both && (words.len() > 5 || days.iter().any(|word| word.starts_with('*')))
            || words.iter().any(|w| only_here(w))
        {
            continue;
        }
        agree(&expression, "UTC", 1_767_225_600, 60);
        asked += 1;
    }
    assert!(asked > 150, "void: only {asked} expressions were asked about");
}

#[test]
fn croner_agrees_on_single_times_and_on_what_goes_with_the_clock() {
    // S-SCHED-3
    let mut asked = 0;
    for zone in Zone::all() {
        let small = |change: &i64| zone.local(*change) - zone.local(change - 1) <= LONGEST_GAP + 1;
        for change in zone.changes().into_iter().filter(small) {
            for minute in ["0", "15", "30", "59"] {
                for hour in ["0", "1", "2", "3"] {
                    agree(&format!("{minute} {hour} * * *"), zone.name, change - 2 * 86_400, 5);
                    asked += 1;
                }
            }
            for expression in ["*/5 * * * *", "0 * * * *", "*/15 2 * * *", "30 */2 * * *", "* 1 * * *"] {
                agree(expression, zone.name, change - 6 * 3_600, 150);
                asked += 1;
            }
        }
    }
    assert!(asked > 500, "void: only {asked} times");
}
