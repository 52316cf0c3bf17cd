//! When does this fire next? The evaluation of schedules (S-SCHED-1 to S-SCHED-3).
//!
//! Pure, as the machine is: the time is an argument, and the answer depends on the schedule, the time zone database that
//! is compiled in, and that time alone. So a restart, a preview and a recovery see the same firings. Nothing here
//! remembers what has fired, knows overlaps, or catches up: that is decided by who asks.
//!
//! Read [`Spec`] first (what people write), then [`Calendar`] (a spec that was found good, and its `next`), then
//! [`Firing`]. Inside, `cron` matches what clocks show, `zone` says when they show it, and `next` joins the two.
//! `parse`, `field` and `check` find every [`Fault`] at once.
//!
//! The `cron` crate is not used: docs/decisions/2026-11-23-cron-dialect.md says why.

mod check;
#[cfg(test)]
mod check_tests;
mod cron;
mod fault;
mod field;
mod firing;
mod next;
mod parse;
mod spec;
mod zone;

pub(crate) use self::check::utc;
pub use self::{
    fault::Fault,
    firing::{Firing, LocalTime, Note, UtcOffset},
    next::{Calendar, Firings},
    spec::{FoldPolicy, GapPolicy, Kind, LONGEST_SPAN_MICROS, MAX_EXPRESSION_BYTES, SECOND_MICROS, Spec},
    zone::tzdb_version,
};
