//! What one `next` of a schedule costs: `cargo bench --bench calendar`. With `--no-default-features` it builds in seconds.
//!
//! Each figure is the median of five runs, asked from 10,000 moments spread over two years, as if so many schedules were
//! due at once.

use std::{hint::black_box, time::Instant};

use noxd::{
    calendar::{Calendar, Kind, SECOND_MICROS, Spec},
    machine::ids::Timestamp,
};

const RUNS: usize = 5;
const MOMENTS: i64 = 10_000;
/// 2026-01-01T00:00:00Z.
const NEW_YEAR: i64 = 1_767_225_600 * SECOND_MICROS;
const TWO_YEARS: i64 = 730 * 86_400 * SECOND_MICROS;

fn main() {
    for zone in ["UTC", "Europe/Berlin"] {
        for expression in ["*/5 * * * *", "0 9 * * MON-FRI", "30 2 * * *", "0 0 1 1 *", "0 0 0 29 2 SUN"] {
            report(expression, zone, Kind::Cron { expression: expression.into() });
        }
        report("every 90 minutes", zone, Kind::Interval { interval_micros: 5_400 * SECOND_MICROS });
    }
    let spec = Spec::new(Kind::Cron { expression: "*/15 8-18 * * MON-FRI".into() }, Timestamp(NEW_YEAR));
    measure("to check a spec", || black_box(Calendar::upcoming(black_box(&spec), Timestamp(NEW_YEAR))).is_ok());
    let nowhere = Spec { timezone: "Europe/Berln".into(), ..spec };
    measure("to refuse an unknown zone", || black_box(Calendar::new(black_box(&nowhere))).is_err());
}

fn report(words: &str, zone: &str, kind: Kind) {
    let spec = Spec { timezone: zone.into(), ..Spec::new(kind, Timestamp(NEW_YEAR)) };
    let calendar = Calendar::new(&spec).expect("a good schedule");
    let mut moment = 0;
    measure(&format!("{words}, {zone}"), || {
        moment = (moment + 1) % MOMENTS;
        black_box(calendar.next(Timestamp(NEW_YEAR + TWO_YEARS / MOMENTS * moment))).is_some()
    });
}

fn measure(words: &str, mut once: impl FnMut() -> bool) {
    let mut runs: Vec<f64> = (0..RUNS)
        .map(|_| {
            let began = Instant::now();
            assert!((0..MOMENTS).all(|_| once()), "{words}: it does");
            began.elapsed().as_secs_f64() * 1e6 / MOMENTS as f64
        })
        .collect();
    runs.sort_by(f64::total_cmp);
    println!("{words:40} {:7.2} us ({:.2} to {:.2})", runs[RUNS / 2], runs[0], runs[RUNS - 1]);
}
