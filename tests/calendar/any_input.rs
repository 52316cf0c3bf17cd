//! What must hold of a schedule made of any bytes. The fuzz target `schedule` (fuzz/) calls the same function.

use noxd::{
    calendar::{Calendar, FoldPolicy, GapPolicy, Kind, MAX_EXPRESSION_BYTES, SECOND_MICROS, Spec},
    machine::ids::Timestamp,
};

/// Three lines: the expression, the zone, and what else there is. Bytes that are no text are replaced.
fn spec(data: &[u8]) -> Spec {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let mut text = || String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let (expression, timezone) = (text(), text());
    let rest = lines.next().unwrap_or_default();
    let mut chunks = rest.chunks(8).map(|chunk| {
        let mut bytes = [0; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        i64::from_le_bytes(bytes)
    });
    let mut number = || chunks.next().unwrap_or_default();
    let choice = number();
    let kind = match choice & 3 {
        0 | 1 => Kind::Cron { expression },
        2 => Kind::Interval { interval_micros: number() },
        _ => Kind::Once { execute_at: Timestamp(number()) },
    };
    let given = |bit: i64, value: i64| (choice >> bit & 1 == 1).then_some(Timestamp(value));
    Spec {
        kind,
        timezone,
        gap_policy: [None, Some(GapPolicy::RunAfter), Some(GapPolicy::Skip), None][(choice >> 2 & 3) as usize],
        fold_policy: [None, Some(FoldPolicy::First), Some(FoldPolicy::Second), Some(FoldPolicy::Both)]
            [(choice >> 4 & 3) as usize],
        start_at: given(6, number()),
        end_at: given(7, number()),
        jitter_micros: if choice >> 8 & 1 == 1 { number() } else { 0 },
        created_at: Timestamp(if choice >> 9 & 1 == 1 { number() } else { 0 }),
    }
}

/// Reads it and asks it; a schedule that is refused says why, and one that is not keeps the laws. True if it is one.
pub fn holds(data: &[u8]) -> bool {
    let spec = spec(data);
    let now = Timestamp(1_795_435_200 * SECOND_MICROS);
    if let Err(faults) = Calendar::upcoming(&spec, now) {
        assert!((1..=20).contains(&faults.len()));
        for fault in faults {
            let words = fault.to_string();
            assert!(
                words.chars().count() < 400
                    && fault.token.chars().count() <= 41
                    && !words.chars().any(char::is_control),
                "{words}"
            );
            assert!(fault.column.is_none_or(|column| (1..=MAX_EXPRESSION_BYTES + 1).contains(&column)), "{words}");
        }
    }
    let Ok(calendar) = Calendar::new(&spec) else { return false };
    for after in [now, Timestamp(i64::MIN), Timestamp(i64::MAX), spec.created_at] {
        let mut last = after;
        for firing in calendar.firings(after).take(20) {
            assert!(firing.at > last, "{spec:?}: {firing:?} after {last:?}");
            let between = Timestamp(firing.at.0 - 1 - (firing.at.0 - 1).saturating_sub(last.0).max(0) / 2);
            assert_eq!(calendar.next(between), Some(firing), "{spec:?}: asked again from {between:?}");
            let bounds = (spec.start_at.is_none_or(|at| at <= firing.at), spec.end_at.is_none_or(|at| at >= firing.at));
            assert_eq!(bounds, (true, true), "{spec:?}: {firing:?}");
            assert!(calendar.due(&firing, 1) >= firing.at);
            last = firing.at;
        }
    }
    true
}
