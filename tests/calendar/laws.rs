//! What holds of every schedule, and some that people would ask about.

use chrono::{Offset, TimeZone};
use noxd::{
    calendar::{Calendar, Firing, FoldPolicy, GapPolicy, Kind, SECOND_MICROS, Spec, tzdb_version},
    machine::ids::Timestamp,
};
use proptest::prelude::*;

use crate::{calendar, moment};

/// A moment from UTC as people write it.
fn utc(text: &str) -> Timestamp {
    let time = chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").expect("a time");
    moment(time.and_utc().timestamp())
}

/// As `PreviewSchedule` could show it: what the clock shows, its offset, and a note.
fn told(firing: &Firing) -> String {
    format!("{}{} {}", firing.local, firing.offset, firing.note.words()).trim_end().to_string()
}

fn next_of(calendar: &Calendar, after: &str, count: usize) -> Vec<String> {
    calendar.firings(utc(after)).take(count).map(|firing| told(&firing)).collect()
}

fn interval(seconds: i64, start: Option<&str>) -> Calendar {
    let kind = Kind::Interval { interval_micros: seconds * SECOND_MICROS };
    let spec = Spec { start_at: start.map(utc), ..Spec::new(kind, utc("2026-01-01 00:00:00")) };
    Calendar::new(&spec).expect("a good interval")
}

#[test]
fn a_nightly_job_runs_once_in_spring_and_once_in_autumn() {
    // S-SCHED-3
    let nightly = calendar("30 2 * * *", "Europe/Berlin", None, None);
    assert_eq!(
        next_of(&nightly, "2026-03-28 00:00:00", 3),
        ["2026-03-28T02:30:00+01:00", "2026-03-29T03:00:00+02:00 after the gap", "2026-03-30T02:30:00+02:00"]
    );
    assert_eq!(
        next_of(&nightly, "2026-10-24 12:00:00", 2),
        ["2026-10-25T02:30:00+02:00 first pass", "2026-10-26T02:30:00+01:00"]
    );
    let spring = nightly.next(utc("2026-03-28 12:00:00")).expect("it fires");
    assert_eq!(spring.meant.to_string(), "2026-03-29T02:30:00");
    assert_eq!(nightly.abbreviation(spring.at).as_deref(), Some("CEST"));
    assert_eq!(calendar("@daily", "Antarctica/Troll", None, None).abbreviation(spring.at), None);
}

#[test]
fn what_goes_with_the_clock_follows_it_through_both_passes() {
    // S-SCHED-3
    let half_hourly = calendar("*/30 2 * * *", "Europe/Berlin", None, None);
    assert_eq!(
        next_of(&half_hourly, "2026-10-24 12:00:00", 5),
        [
            "2026-10-25T02:00:00+02:00 first pass",
            "2026-10-25T02:30:00+02:00 first pass",
            "2026-10-25T02:00:00+01:00 second pass",
            "2026-10-25T02:30:00+01:00 second pass",
            "2026-10-26T02:00:00+01:00",
        ]
    );
    assert_eq!(next_of(&half_hourly, "2026-03-28 12:00:00", 1), ["2026-03-30T02:00:00+02:00"]);
}

#[test]
fn the_page_on_schedules_tells_what_happens() {
    // S-SCHED-3, docs/schedules.md
    let pair = calendar("0 2,3 * * *", "Europe/Berlin", None, None);
    assert_eq!(
        next_of(&pair, "2026-03-28 12:00:00", 2),
        ["2026-03-29T03:00:00+02:00 after the gap", "2026-03-30T02:00:00+02:00"]
    );
    assert_eq!(
        next_of(&pair, "2026-10-24 12:00:00", 2),
        ["2026-10-25T02:00:00+02:00 first pass", "2026-10-25T03:00:00+01:00"]
    );
    let all_day = calendar("*/30 * * * *", "Europe/Berlin", None, None);
    assert_eq!(next_of(&all_day, "2026-03-29 00:00:00", 2), ["2026-03-29T01:30:00+01:00", "2026-03-29T03:00:00+02:00"]);
    let faults = Calendar::new(&Spec {
        timezone: "Europe/Berln".into(),
        ..Spec::new(Kind::Cron { expression: "60 22-2 * * *".into() }, Timestamp(0))
    });
    let page = include_str!("../../docs/schedules.md");
    for fault in faults.expect_err("it has three faults") {
        assert!(page.contains(&format!("\n{fault}\n")), "not on the page: {fault}");
    }
}

#[test]
fn policies_say_otherwise() {
    // S-SCHED-3
    let berlin = |expression, gap, fold| calendar(expression, "Europe/Berlin", gap, fold);
    let skipping = berlin("30 2 * * *", Some(GapPolicy::Skip), Some(FoldPolicy::Second));
    assert_eq!(next_of(&skipping, "2026-03-28 12:00:00", 1), ["2026-03-30T02:30:00+02:00"]);
    assert_eq!(next_of(&skipping, "2026-10-24 12:00:00", 1), ["2026-10-25T02:30:00+01:00 second pass"]);
    let both = berlin("30 2 * * *", None, Some(FoldPolicy::Both));
    assert_eq!(
        next_of(&both, "2026-10-24 12:00:00", 3),
        ["2026-10-25T02:30:00+02:00 first pass", "2026-10-25T02:30:00+01:00 second pass", "2026-10-26T02:30:00+01:00"]
    );
    let once = berlin("*/30 2 * * *", Some(GapPolicy::RunAfter), Some(FoldPolicy::First));
    assert_eq!(next_of(&once, "2026-03-28 12:00:00", 1), ["2026-03-29T03:00:00+02:00 after the gap"]);
    assert_eq!(next_of(&once, "2026-10-25 00:30:00", 1), ["2026-10-26T02:00:00+01:00"]);
}

#[test]
fn the_rarest_days_are_found_and_the_last_year_is_the_last() {
    let leap_sunday = calendar("0 0 12 29 2 SUN", "UTC", None, None);
    let days: Vec<_> = leap_sunday.firings(utc("2026-01-01 00:00:00")).map(|firing| told(&firing)).collect();
    assert_eq!(days, ["2032-02-29T12:00:00+00:00", "2060-02-29T12:00:00+00:00", "2088-02-29T12:00:00+00:00"]);
    for zone in ["UTC", "Pacific/Kiritimati", "Etc/GMT+12"] {
        let every_second = calendar("* * * * * *", zone, None, None);
        let last = every_second.next(utc("2100-12-31 09:00:00")).expect("the year is not over");
        assert_eq!(last.at, utc("2100-12-31 09:00:01"));
        assert_eq!(every_second.next(utc("2100-12-31 23:59:59")), None);
    }
    let daily = calendar("@daily", "UTC", None, None);
    assert_eq!(daily.next(Timestamp(i64::MAX)), None);
    assert_eq!(daily.next(Timestamp(i64::MIN)).map(|firing| firing.at), Some(Timestamp(0)));
}

#[test]
fn an_interval_counts_from_its_start_or_its_creation_and_never_drifts() {
    // S-SCHED-1
    let from_creation = interval(90 * 60, None);
    assert_eq!(
        next_of(&from_creation, "2026-01-01 00:00:00", 2),
        ["2026-01-01T01:30:00+00:00", "2026-01-01T03:00:00+00:00"]
    );
    let from_start = interval(90 * 60, Some("2026-01-02 00:10:00"));
    assert_eq!(
        next_of(&from_start, "2026-01-01 00:00:00", 2),
        ["2026-01-02T00:10:00+00:00", "2026-01-02T01:40:00+00:00"]
    );
    assert_eq!(next_of(&from_start, "2026-07-01 12:34:56", 1), ["2026-07-01T13:40:00+00:00"]);
}

#[test]
fn start_and_end_are_the_first_and_the_last_moment() {
    // S-SCHED-1
    let kind = Kind::Cron { expression: "0 9 * * *".into() };
    let spec = Spec {
        start_at: Some(utc("2026-05-02 09:00:00")),
        end_at: Some(utc("2026-05-04 09:00:00")),
        ..Spec::new(kind, utc("2026-01-01 00:00:00"))
    };
    let calendar = Calendar::upcoming(&spec, utc("2026-01-01 00:00:00")).expect("it fires");
    let days: Vec<_> = calendar.firings(utc("2026-01-01 00:00:00")).map(|firing| told(&firing)).collect();
    assert_eq!(days, ["2026-05-02T09:00:00+00:00", "2026-05-03T09:00:00+00:00", "2026-05-04T09:00:00+00:00"]);
}

#[test]
fn one_moment_fires_once() {
    // S-SCHED-1
    let kind = Kind::Once { execute_at: Timestamp(utc("2026-10-25 01:30:00").0 + 250_000) };
    let spec = Spec { timezone: "Europe/Berlin".into(), ..Spec::new(kind, Timestamp(0)) };
    let calendar = Calendar::new(&spec).expect("a good moment");
    assert_eq!(next_of(&calendar, "2026-01-01 00:00:00", 2), ["2026-10-25T02:30:00.250+01:00 second pass"]);
}

#[test]
fn the_database_of_zones_has_a_version() {
    assert_eq!(tzdb_version(), chrono_tz::IANA_TZDB_VERSION);
    let (year, letter) = tzdb_version().split_at(4);
    assert!(year.parse::<u32>().is_ok_and(|year| year >= 2025) && letter.len() == 1, "{}", tzdb_version());
}

#[test]
fn no_zone_leads_a_schedule_back_in_time() {
    // S-SCHED-1
    const STEP: i64 = 4_001 * 3_600;
    let mut changes = 0;
    for zone in chrono_tz::TZ_VARIANTS {
        let offset = |second: i64| {
            let utc = chrono::DateTime::from_timestamp(second, 0).expect("in range").naive_utc();
            zone.offset_from_utc_datetime(&utc).fix().local_minus_utc()
        };
        let hourly = calendar("30 * * * *", zone.name(), None, None);
        let nightly = calendar("0,30 0-4 * * *", zone.name(), None, Some(FoldPolicy::Both));
        // All years that a schedule can be in, half a year at a time.
        for from in (0..130 * 365 * 86_400).step_by(STEP as usize) {
            if offset(from) == offset(from + STEP) {
                continue;
            }
            let (mut before, mut change) = (from, from + STEP);
            while change - before > 1 {
                let middle = (before + change) / 2;
                if offset(middle) == offset(from) { before = middle } else { change = middle }
            }
            for calendar in [&hourly, &nightly] {
                let mut last = Timestamp(0);
                for minutes in [-61, -60, -1, 0, 1, 29, 59, 60, 61] {
                    let after = moment(change + minutes * 60);
                    let next = calendar.next(after).expect("it fires");
                    assert!(next.at > after && next.at >= last, "{zone}: {next:?} after {after:?}");
                    assert!(next.at.0 - after.0 <= 48 * 3_600 * SECOND_MICROS, "{zone}: {next:?} after {after:?}");
                    last = next.at;
                }
            }
            changes += 1;
        }
    }
    assert!(changes > 10_000, "void: only {changes} changes of a clock were met");
}

proptest! {
    #[test]
    fn jitter_delays_and_never_changes_the_order(seed: u64, jitter in 1..7_200_i64, at in 0..4_000_000_000_i64) {
        // S-SCHED-1
        let kind = Kind::Cron { expression: "*/10 * * * *".into() };
        let spec = Spec {
            timezone: "Europe/Berlin".into(),
            jitter_micros: jitter * SECOND_MICROS,
            ..Spec::new(kind, Timestamp(0))
        };
        let jittered = Calendar::new(&spec).expect("a good spec");
        let plain = Calendar::new(&Spec { jitter_micros: 0, ..spec }).expect("a good spec");
        let firings: Vec<Firing> = jittered.firings(moment(at)).take(20).collect();
        // Nominal times stay as they are.
        prop_assert_eq!(&firings, &plain.firings(moment(at)).take(20).collect::<Vec<_>>());
        for pair in firings.windows(2) {
            let due = jittered.due(&pair[0], seed);
            prop_assert!(due >= pair[0].at && due.0 < pair[0].at.0 + jitter * SECOND_MICROS && due < pair[1].at);
            prop_assert_eq!(due, jittered.due(&pair[0], seed));
        }
        let spread = firings.iter().any(|firing| jittered.due(firing, seed) != jittered.due(firing, !seed));
        prop_assert!(spread, "the seed does not matter");
        prop_assert!(firings.iter().all(|firing| plain.due(firing, seed) == firing.at));
    }

    #[test]
    fn intervals_are_restart_proof(seconds in 1..1_000_000_i64, at in 0..4_000_000_000_i64, between: u32) {
        // S-SCHED-1
        let every = interval(seconds, None);
        let anchor = utc("2026-01-01 00:00:00");
        let next = every.next(moment(at)).expect("it fires");
        prop_assert!(next.at > moment(at) && next.at >= anchor);
        prop_assert_eq!((next.at.0 - anchor.0) % (seconds * SECOND_MICROS), 0);
        // From any moment before it and after the one before, the same.
        let room = (next.at.0 - moment(at).0.max(anchor.0)).min(seconds * SECOND_MICROS);
        let asked = Timestamp(next.at.0 - 1 - i64::from(between) % room.max(1));
        prop_assert_eq!(every.next(asked), Some(next));
    }
}
