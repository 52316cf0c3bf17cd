//! What is wrong with a schedule is told all at once: where, what, and what would be right.

use super::{Calendar, FoldPolicy, GapPolicy, Kind, LONGEST_SPAN_MICROS, MAX_EXPRESSION_BYTES, SECOND_MICROS, Spec};
use crate::machine::ids::Timestamp;

/// 2026-11-23T12:00:00Z.
const NOW: Timestamp = Timestamp(1_795_435_200 * SECOND_MICROS);

fn cron(expression: &str) -> Spec {
    Spec::new(Kind::Cron { expression: expression.into() }, NOW)
}

fn every(interval_micros: i64) -> Spec {
    Spec::new(Kind::Interval { interval_micros }, NOW)
}

fn once(execute_at: i64) -> Spec {
    Spec::new(Kind::Once { execute_at: Timestamp(execute_at) }, NOW)
}

fn after(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp(NOW.0 + seconds * SECOND_MICROS))
}

#[track_caller]
fn faults(spec: &Spec) -> Vec<String> {
    let faults = Calendar::upcoming(spec, NOW).expect_err("the spec has a fault");
    faults.iter().map(ToString::to_string).collect()
}

/// Expressions, and what is said of each after the name of the field.
const EXPRESSIONS: &[(&str, &[&str])] = &[
    ("", &[": is empty; write five fields such as `0 9 * * MON-FRI`, or a macro such as `@daily`"]),
    (" ", &[": is empty; write five fields such as `0 9 * * MON-FRI`, or a macro such as `@daily`"]),
    (
        "0 9 * *",
        &[
            ", column 8: has 4 fields of at least five; write the day of week as well, `*` for any; or a macro such as `@daily`",
        ],
    ),
    (
        "* * * * * * * *",
        &[
            ", column 15: `*`: is one too many: there are 8 fields, at most 7; write only when, not what: five fields, or up to seven with the seconds first",
        ],
    ),
    (
        "0 9 * * 1-5 /usr/bin/backup",
        &[", column 13: `/usr/bin/backup`: is no value; write only when, not what: `*/5` for a step, and no command"],
    ),
    (
        "TZ=Europe/Berlin 0 9 * * *",
        &[
            ", column 1: `TZ=Europe/Berlin`: a zone is no part of the expression; take it out and write `timezone: Europe/Berlin`",
        ],
    ),
    (
        "CRON_TZ=Asia/Tokyo 60 9 * * *",
        &[
            ", column 1: `CRON_TZ=Asia/Tokyo`: a zone is no part of the expression; take it out and write `timezone: Asia/Tokyo`",
            ", column 20: `60`: is out of range for the minute; write 0 to 59",
        ],
    ),
    ("TZ=UTC", &[", column 1: `TZ=UTC`: a zone is no part of the expression; take it out and write `timezone: UTC`"]),
    ("0 0 31 2 *", &[", column 5: `31`: never fires: month `2` has no such day; write a day that the month has"]),
    (
        "0 0 0 29 2 ? 2025",
        &[
            ", column 7: `29`: never fires: no date has this day, month, weekday and year together; write days that these months have in these years",
        ],
    ),
    (
        "0 0 0 1 1 ? 2020",
        &[
            ": `0 0 0 1 1 ? 2020`: never fires after 2026-11-23T12:00:00Z; write days and years to come, or another `gap_policy`",
        ],
    ),
    ("60 * * * *", &[", column 1: `60`: is out of range for the minute; write 0 to 59"]),
    (
        "@every 5m",
        &[", column 1: `@every`: is not part of cron; use a schedule of kind `interval`, with `interval: 5m`"],
    ),
    ("@every", &[", column 1: `@every`: is not part of cron; use a schedule of kind `interval`, with `interval: 5m`"]),
    (
        "@fortnightly",
        &[
            ", column 1: `@fortnightly`: is no macro; write one of @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly",
        ],
    ),
    (
        "@reboot",
        &[", column 1: `@reboot`: a schedule has times only; start the workflow from whatever starts the machine"],
    ),
    ("@daily 5", &[", column 8: `5`: nothing may follow `@daily`; take it out, or write all the fields"]),
    (
        "0 0 9 * * 1-5",
        &[
            ", column 11: `1-5`: with seconds, a digit means one day in Unix and another in Quartz; write MON-FRI (Unix) or SUN-THU (Quartz)",
        ],
    ),
    (
        "0 0 9 * * 0,8",
        &[
            ", column 11: `0`: with seconds, a digit means one day in Unix and another in Quartz; write SUN",
            ", column 13: `8`: with seconds, a digit means one day in Unix and another in Quartz; write SUN to SAT",
        ],
    ),
    ("0 0 L * *", &[", column 5: `L`: `L`, the last day, is not supported; write the days, such as `28-31` or `FRI`"]),
    (
        "0 0 15W * *",
        &[
            ", column 5: `15W`: `W`, the nearest working day, is not supported; write `MON-FRI` as the day of week, or the days",
        ],
    ),
    (
        "0 0 * * 5#3",
        &[
            ", column 9: `5#3`: `#`, the n-th such day of a month, is not supported; write the days: the second is one of `8-14`",
        ],
    ),
    (
        "0 0 * * 5L",
        &[", column 9: `5L`: `L`, the last day, is not supported; write the days, such as `28-31` or `FRI`"],
    ),
    (
        "H * * * *",
        &[", column 1: `H`: `H`, a value by hash, is not supported; write a value, and spread the firings by `jitter`"],
    ),
    (
        "0~30 * * * *",
        &[
            ", column 1: `0~30`: `~`, a value by chance, is not supported; write a value, and spread the firings by `jitter`",
        ],
    ),
    ("*/0 * * * *", &[", column 3: `0`: is a step that goes nowhere; write 1 or more, as in `*/15`"]),
    (
        "*/90 * * * *",
        &[
            ", column 1: `*/90`: steps out of the minute at once: it matches 0 alone; write `0`; for every 90 minutes, use an `interval`",
        ],
    ),
    ("0 0 1/31 * *", &[", column 5: `1/31`: steps out of the day of month at once: it matches 1 alone; write `1`"]),
    ("*/x * * * *", &[", column 3: `x`: is no step; write a number, as in `*/15` for every 15th minute"]),
    ("*/ * * * *", &[", column 3: is no step; write a number, as in `*/15` for every 15th minute"]),
    ("1/2/3 * * * *", &[", column 1: `1/2/3`: has more than one step; write one `/`, as in `*/15`"]),
    (
        "22-2 * * * *",
        &[
            ", column 1: `22-2`: begins after it ends: this range of the minute is empty; a range does not wrap around: write two, `22-59,0-2`",
        ],
    ),
    (
        "0 22-2 * * *",
        &[
            ", column 3: `22-2`: begins after it ends: this range of the hour is empty; a range does not wrap around: write two, `22-23,0-2`",
        ],
    ),
    (
        "0 0 * * FRI-MON",
        &[
            ", column 9: `FRI-MON`: begins after it ends: this range of the day of week is empty; a range does not wrap around: write two, `FRI-SAT,SUN-MON`",
        ],
    ),
    (
        "0 0 * NOV-FEB *",
        &[
            ", column 7: `NOV-FEB`: begins after it ends: this range of the month is empty; a range does not wrap around: write two, `NOV-DEC,JAN-FEB`",
        ],
    ),
    (
        "0 0 * * 5-1",
        &[
            ", column 9: `5-1`: begins after it ends: this range of the day of week is empty; a range does not wrap around: write two, `5-6,0-1`",
        ],
    ),
    (
        "0 0 0 1 1 ? 2030-2026",
        &[", column 13: `2030-2026`: begins after it ends: this range of the year is empty; write `2026-2030`"],
    ),
    ("? 0 * * *", &[", column 1: `?`: `?` belongs to the days of month and week only; write `*`"]),
    (",5 * * * *", &[", column 1: an item of the minute is missing; take out the comma, or write a value beside it"]),
    ("5, * * * *", &[", column 3: an item of the minute is missing; take out the comma, or write a value beside it"]),
    ("5-- * * * *", &[", column 1: `5--`: is no range; write two values of the minute, as in `a-b`"]),
    ("-5 * * * *", &[", column 1: `-5`: is negative; write numbers without a sign"]),
    ("5- * * * *", &[", column 3: a value of the minute is missing; write 0 to 59"]),
    (
        "61,62,99-3,x 24 0 13 8",
        &[
            ", column 1: `61`: is out of range for the minute; write 0 to 59",
            ", column 4: `62`: is out of range for the minute; write 0 to 59",
            ", column 7: `99`: is out of range for the minute; write 0 to 59",
            ", column 12: `x`: is no minute; write 0 to 59",
            ", column 14: `24`: is out of range for the hour; write 0 to 23",
            ", column 17: `0`: is out of range for the day of month; write 1 to 31",
            ", column 19: `13`: is out of range for the month; write 1 to 12, or JAN to DEC",
            ", column 22: `8`: is out of range for the day of week; write 0 to 7, where 0 and 7 are Sunday, or SUN to SAT",
        ],
    ),
    (
        "0 0 * * MONDAY,TUES",
        &[", column 16: `TUES`: is no day of week; write 0 to 7, where 0 and 7 are Sunday, or SUN to SAT"],
    ),
    ("0 0 ?/2 * *", &[", column 5: `?/2`: `?` has no step; write `*` in its place"]),
    ("0 9 * * 1–5", &[", column 9: `1\\u{2013}5`: is written with a dash; write a hyphen, `-`"]),
    ("0 0 0 1 1 ? 2101", &[", column 13: `2101`: is out of range for the year; write 1970 to 2100"]),
    (
        "99999999999999999999 * * * *",
        &[", column 1: `99999999999999999999`: is out of range for the minute; write 0 to 59"],
    ),
    (
        "0 0 9 * * 0-6",
        &[", column 11: `0-6`: with seconds, a digit means one day in Unix and another in Quartz; write SUN-SAT"],
    ),
    (
        "0 0 9 * * 7",
        &[
            ", column 11: `7`: with seconds, a digit means one day in Unix and another in Quartz; write SUN (Unix) or SAT (Quartz)",
        ],
    ),
    (
        "0 0 9 * * 3/2",
        &[
            ", column 11: `3`: with seconds, a digit means one day in Unix and another in Quartz; write WED (Unix) or TUE (Quartz)",
        ],
    ),
];

#[test]
fn every_fault_of_an_expression_is_told_with_its_place_and_what_would_be_right() {
    // S-SCHED-2
    for (expression, expected) in EXPRESSIONS {
        let expected: Vec<String> = expected.iter().map(|words| format!("cron.expression{words}")).collect();
        assert_eq!(faults(&cron(expression)), expected, "{expression:?}");
    }
}

/// Names that are no zones, and what is said of each.
const ZONES: &[(&str, &str)] = &[
    ("Europe/Berln", "`Europe/Berln`: is no IANA time zone; did you mean `Europe/Berlin`?"),
    ("europe/berlin", "`europe/berlin`: is no IANA time zone; did you mean `Europe/Berlin`?"),
    ("Tokyo", "`Tokyo`: is no IANA time zone; did you mean `Asia/Tokyo`?"),
    ("New York", "`New York`: is no IANA time zone; did you mean `America/New_York`?"),
    ("US/Pacfic", "`US/Pacfic`: is no IANA time zone; did you mean `US/Pacific`?"),
    (
        "PST",
        "`PST`: is an abbreviation, and more than one zone may have it; write a zone such as `America/Los_Angeles`",
    ),
    (
        "+02:00",
        "`+02:00`: is an offset, not a zone; write `Etc/GMT-2` (where the sign is turned), or a region such as `Europe/Berlin`, whose clocks change as people's do",
    ),
    (
        "GMT-5",
        "`GMT-5`: is an offset, not a zone; write `Etc/GMT+5` (where the sign is turned), or a region such as `Europe/Berlin`, whose clocks change as people's do",
    ),
    (
        "+0530",
        "`+0530`: is an offset, not a zone; write a region such as `Europe/Berlin`, whose clocks change as people's do",
    ),
    ("local", "`local`: is no IANA time zone; write a name such as `Europe/Berlin`, `America/New_York` or `UTC`"),
    (
        "Mars/Olympus_Mons",
        "`Mars/Olympus_Mons`: is no IANA time zone; write a name such as `Europe/Berlin`, `America/New_York` or `UTC`",
    ),
    ("Europe/Berlin ", "`Europe/Berlin `: is no IANA time zone; did you mean `Europe/Berlin`?"),
    (
        "€\u{202e}",
        "`\\u{20ac}\\u{202e}`: is no IANA time zone; write a name such as `Europe/Berlin`, `America/New_York` or `UTC`",
    ),
];

#[test]
fn a_zone_that_does_not_exist_is_answered_with_one_that_does() {
    for (zone, expected) in ZONES {
        let spec = Spec { timezone: (*zone).into(), ..cron("@daily") };
        assert_eq!(faults(&spec), [format!("timezone: {expected}")], "{zone:?}");
    }
}

#[test]
fn spans_and_moments_are_within_bounds() {
    let cases = [
        (every(0), "interval.interval: `0 s`: is no time at all; write 1 s to 316224000 s (3,660 days)"),
        (every(-1_500_000), "interval.interval: `-1.5 s`: is negative; write 1 s to 316224000 s (3,660 days)"),
        (
            every(999_999),
            "interval.interval: `0.999999 s`: is shorter than a second; write 1 s to 316224000 s (3,660 days)",
        ),
        (
            every(LONGEST_SPAN_MICROS + 1),
            "interval.interval: `316224000.000001 s`: is too long; write 1 s to 316224000 s (3,660 days)",
        ),
        (once(NOW.0), "once.execute_at: `2026-11-23T12:00:00Z`: is in the past; it is 2026-11-23T12:00:00Z now"),
        (
            once(NOW.0 - 500_000),
            "once.execute_at: `2026-11-23T11:59:59.500Z`: is in the past; it is 2026-11-23T12:00:00Z now",
        ),
        (once(-1), "once.execute_at: `1969-12-31T23:59:59.999999Z`: is out of range; write a time from 1970 to 2100"),
        (once(i64::MAX), "once.execute_at: `9223372036854775807 µsZ`: is out of range; write a time from 1970 to 2100"),
        (
            Spec { start_at: after(120), end_at: after(60), ..cron("@daily") },
            "end_at: `2026-11-23T12:01:00Z`: is before `start_at`; write a time from `start_at` (2026-11-23T12:02:00Z) on",
        ),
        (
            Spec { end_at: after(60), ..cron("@daily") },
            "end_at: `2026-11-23T12:01:00Z`: leaves no firing; the first would be at 2026-11-24T00:00:00Z: write a later \
             `end_at`, or none",
        ),
        (
            Spec { end_at: after(-60), ..every(SECOND_MICROS) },
            "end_at: `2026-11-23T11:59:00Z`: leaves no firing; the first would be at 2026-11-23T12:00:01Z: write a later \
             `end_at`, or none",
        ),
        (
            Spec { start_at: after(120), ..once(NOW.0 + 60 * SECOND_MICROS) },
            "once.execute_at: never fires: it is before `start_at`; write a time from `start_at` (2026-11-23T12:02:00Z) on",
        ),
        (
            Spec { jitter_micros: -1, ..cron("@daily") },
            "jitter: `-0.000001 s`: is out of range; write 0 s to 316224000 s",
        ),
        (
            Spec { gap_policy: Some(GapPolicy::Skip), ..every(SECOND_MICROS) },
            "gap_policy: is for cron expressions: other schedules do not look at the clock of the zone; take it out",
        ),
        (
            Spec { fold_policy: Some(FoldPolicy::Both), ..once(NOW.0 + 1) },
            "fold_policy: is for cron expressions: other schedules do not look at the clock of the zone; take it out",
        ),
    ];
    for (spec, expected) in cases {
        assert_eq!(faults(&spec), [expected], "{spec:?}");
    }
}

#[test]
fn a_time_that_every_policy_skips_never_fires() {
    // In 2026 the clocks of New York jump from 2 to 3 on 8 March; in 2027, on another day.
    let spec = Spec {
        timezone: "America/New_York".into(),
        gap_policy: Some(GapPolicy::Skip),
        created_at: Timestamp(0),
        ..cron("0 30 2 8 3 ? 2026")
    };
    let faults = Calendar::upcoming(&spec, Timestamp(0)).expect_err("no clock shows it");
    assert_eq!(
        faults[0].to_string(),
        "cron.expression: `0 30 2 8 3 ? 2026`: never fires after 1970-01-01T00:00:00Z; write days and years to come, or \
         another `gap_policy`"
    );
    assert!(Calendar::upcoming(&Spec { gap_policy: None, ..spec }, Timestamp(0)).is_ok());
}

#[test]
fn faults_of_all_fields_come_together_and_not_without_end() {
    let spec = Spec {
        timezone: "Nowhere".into(),
        start_at: after(2),
        end_at: after(1),
        jitter_micros: -1,
        ..cron("TZ=UTC 60 24 * * *")
    };
    let fields: Vec<&str> =
        Calendar::upcoming(&spec, NOW).expect_err("it is full of faults").iter().map(|fault| fault.field).collect();
    let expression = "cron.expression";
    assert_eq!(fields, [expression, expression, expression, "timezone", "end_at", "jitter"]);

    let many = format!("{} * * * *", ["60"; 300].join(","));
    assert_eq!(faults(&cron(&many)).len(), 20);
    let long = "5,".repeat(MAX_EXPRESSION_BYTES);
    let [fault] = faults(&cron(&long)).try_into().expect("a long expression is not read");
    assert_eq!(
        fault,
        "cron.expression: `5,5,5,5,5,5,5,5,5,5,5,5,5,5,5,5,5,5,5,5,…`: has 2048 bytes; an expression has at most 1024; \
         use ranges and steps, or more than one schedule"
    );
}

#[test]
fn a_piece_of_input_does_nothing_to_a_terminal() {
    let faults = faults(&cron("\u{1b}[31m\u{202e} 0 * * *"));
    assert_eq!(faults, ["cron.expression, column 1: `\\u{1b}[31m\\u{202e}`: is no minute; write 0 to 59"]);
    // Escaped, it is as short as any other.
    let faults = Calendar::new(&cron(&format!("TZ={} 0 * * * *", "\0".repeat(500)))).expect_err("it has a zone");
    assert_eq!(faults[0].token, format!("TZ={}…", "\\u{0}".repeat(7)));
    assert!(faults[0].to_string().len() < 250, "{}", faults[0]);
}
