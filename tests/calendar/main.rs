//! Firings of schedules against a second mind: `oracle` walks through time step by step, with a matcher of its own, and
//! says what should have fired.
//!
//! By itself, `cargo test --test calendar` compares around every change of the clocks and on some other days, each
//! expression in some of the zones. `NOXD_CALENDAR=whole` compares all expressions in all zones over two years, minute
//! by minute, and second by second within a day of each change: with `--release`, some minutes.
//! `NOXD_CALENDAR_SEED=N` makes the expressions that come by chance other ones.

mod any_input;
mod chance;
mod croner;
mod expressions;
mod garbage;
mod laws;
mod oracle;
mod transitions;
mod zones;

use noxd::{
    calendar::{Calendar, FoldPolicy, GapPolicy, Kind, SECOND_MICROS, Spec},
    machine::ids::Timestamp,
};

/// A moment from seconds since 1970.
fn moment(seconds: i64) -> Timestamp {
    Timestamp(seconds * SECOND_MICROS)
}

/// The calendar of an expression in a zone.
#[track_caller]
fn calendar(expression: &str, zone: &str, gap: Option<GapPolicy>, fold: Option<FoldPolicy>) -> Calendar {
    let kind = Kind::Cron { expression: expression.into() };
    let spec =
        Spec { timezone: zone.into(), gap_policy: gap, fold_policy: fold, ..Spec::new(kind, Timestamp::default()) };
    Calendar::new(&spec).unwrap_or_else(|faults| panic!("{expression}: {}", faults[0]))
}
