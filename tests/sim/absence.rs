//! What an absence may cost a schedule: S-SCHED-5, counted from the timetable.
//!
//! A pass is what is decided about one schedule at one moment; one that misses many times goes on in later batches. Which
//! of its times are late is known to the jitter of each, which nobody outside knows of those that were missed: so what
//! may be missed has a lower and an upper bound, which are the same without jitter.

use noxd::machine::{
    ids::ScheduleId,
    schedule::{CatchUp, Outcome},
};

use crate::{
    firings::Schedule,
    ledger::Ledger,
    timetable::{DAY, MINUTE},
};

/// S-SCHED-5.
const MADE_UP_AT_MOST: usize = 100;

/// What is decided about a schedule at one moment.
#[derive(Clone, Debug)]
pub struct Pass {
    /// The last time before it.
    from: i64,
    /// Whether its first time was late, if that is known.
    was_away: Option<bool>,
    missed: usize,
    /// How many times were not missed.
    met: usize,
    /// When that is.
    at: i64,
}

impl Schedule {
    /// How many times of a pass have to be missed by now: at least, and at most.
    fn to_miss(&self, pass: &Pass, now: i64) -> (usize, usize) {
        if pass.was_away == Some(false) {
            return (0, 0);
        }
        let count = |until: i64| self.times.count(pass.from, until);
        let jitter = self.spec.times.jitter_micros;
        // The newest time before this was late: surely, and at most.
        let late_least = now - MINUTE - 1 - self.times.longest_delay(jitter);
        let late_most = now - MINUTE - 1;
        // It was too old.
        let window = self.spec.catch_up_window_micros.map_or(i64::MAX, |window| i64::try_from(window).expect("small"));
        let old = now.saturating_sub(window).saturating_sub(1);
        let come = count(now);
        let by_policy = |come: usize, late: usize| match self.spec.catch_up {
            CatchUp::None => late,
            CatchUp::Last => come.saturating_sub(1),
            CatchUp::All => come.saturating_sub(MADE_UP_AT_MOST),
        };
        let least = by_policy(come.saturating_sub(usize::from(jitter > 0)), count(late_least));
        let most = by_policy(come, count(late_most));
        let (old_least, old_most) = (count(late_least.min(old)), count(late_most.min(old)));
        let least = if pass.was_away.is_none() { 0 } else { least.max(old_least) };
        (least, most.max(old_most))
    }
}

impl Ledger {
    /// A time was decided about that was next, or several up to it were missed.
    pub fn follow_absence(&mut self, id: &ScheduleId, nominal: i64, outcome: &Outcome, now: i64) {
        let schedule = &self.schedules.known[id];
        let lateness = schedule.next.map_or(0, |next| now - next.due.0);
        let is_new = schedule.pass.is_none();
        let mut pass = schedule.pass.clone().unwrap_or(Pass {
            from: schedule.last,
            was_away: match (schedule.is_catching_up, schedule.is_guess) {
                (true, _) => Some(true),
                (false, true) => None,
                (false, false) => Some(lateness > MINUTE),
            },
            missed: 0,
            met: 0,
            at: now,
        });
        pass.at = now;
        if let Outcome::Missed { first, count, .. } = outcome {
            let times = schedule.times.between(schedule.last, nominal);
            let same =
                times.len() as u64 == *count && times.first() == Some(&first.0) && times.last() == Some(&nominal);
            self.check(same, format_args!("S-SCHED-5: {count} misses from {first:?} to {nominal} are {times:?}"));
            self.check(pass.met == 0, "S-SCHED-5: a miss after what was made up");
            pass.missed += times.len();
        } else {
            pass.met += 1;
        }
        let (least, most) = schedule.to_miss(&pass, now);
        let within = pass.missed <= most && (pass.met == 0 || pass.missed >= least);
        let words = format_args!(
            "S-SCHED-5: {} times of `{id}` were missed, not {least} to {most}, with {:?} and {:?}",
            pass.missed, schedule.spec.catch_up, schedule.spec.catch_up_window_micros
        );
        self.check(within, words);
        if is_new && pass.was_away == Some(true) {
            self.cover_absence(id, lateness);
        }
        self.schedules.known.get_mut(id).expect("it is there").pass = Some(pass);
    }

    fn cover_absence(&mut self, id: &ScheduleId, lateness: i64) {
        let spec = &self.schedules.known[id].spec;
        let (overlap, catch_up) = (spec.overlap, spec.catch_up);
        if let Some(absence) = self.schedules.absence {
            self.coverage.reached(&format!("times come after {absence}"));
            if absence == "a day down" {
                self.coverage.reached(&format!("{overlap:?} and {catch_up:?} after a day down"));
            }
        }
        if spec.catch_up_window_micros.is_some() && lateness > DAY / 2 {
            self.coverage.reached("an absence beyond the window");
        }
    }

    /// At the end of a batch.
    pub fn absences_are_over(&mut self) {
        let mut known = std::mem::take(&mut self.schedules.known);
        for (id, schedule) in known.iter_mut().filter(|(_, schedule)| !schedule.is_catching_up) {
            let Some(pass) = schedule.pass.take() else { continue };
            let (least, _) = schedule.to_miss(&pass, pass.at);
            let words = format_args!("S-SCHED-5: {} times of `{id}` were missed, not {least}", pass.missed);
            self.check(pass.missed >= least, words);
        }
        self.schedules.known = known;
    }
}
