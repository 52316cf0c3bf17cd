//! Stops processes that fork and end faster than a census comes by.
//!
//! A census lists all processes, reads each, and only then is somebody signalled: who lives for two milliseconds is
//! gone by then, and its child is not in the list. Here each is stopped as soon as it is seen, and what is known to be
//! a stranger is not read again. Whoever was born since the last look has one of the pids given out since, which the
//! kernel tells, so that a look at the newborn costs as much as there are of them, however many processes (or zombies
//! that nobody reaps) the machine has. What stands still forks no more, and keeps its place among the processes that a
//! limit allows. They are killed by the caller.

use std::collections::BTreeSet;
use std::os::unix::fs::DirEntryExt;

use rustix::process::Signal;

use super::census::{Mark, Process, off_thread};
use super::termination::Roster;

/// Rounds in a row without anybody new after which nobody is left to be stopped: one that was being born is in no list
/// yet, and its parent is not any more.
const QUIET_ROUNDS: usize = 20;

/// Most rounds: then they fork faster than noxd looks, and killing what is caught is all that is left.
const ROUNDS: usize = 2_000;

/// Most looks at the newborn between two at all processes.
const LOOKS: usize = 1_000;

/// Stops everybody who shows that he is on the roster, until nobody new turns up. Returns who stands still.
pub(super) async fn stop_all(roster: &mut Roster) -> std::io::Result<Vec<Mark>> {
    let lent = std::mem::take(roster);
    let (lent, stopped) = off_thread(move || {
        let stopped = hunt(&lent);
        (lent, stopped)
    })
    .await;
    *roster = lent;
    stopped
}

fn hunt(roster: &Roster) -> std::io::Result<Vec<Mark>> {
    let mut hunt = Hunt { roster, stopped: BTreeSet::new(), seen: BTreeSet::new(), newest: newest_pid() };
    let mut quiet = 0;
    for _ in 0..ROUNDS {
        let before = hunt.stopped.len();
        hunt.look_at_all()?;
        hunt.follow_the_newborn();
        quiet = if hunt.stopped.len() == before { quiet + 1 } else { 0 };
        if quiet == QUIET_ROUNDS {
            break;
        }
    }
    Ok(hunt.stopped.into_iter().collect())
}

struct Hunt<'a> {
    roster: &'a Roster,
    stopped: BTreeSet<Mark>,
    /// Those known already. The inode in /proc tells a process from an earlier one with its pid.
    seen: BTreeSet<(u32, u64)>,
    /// The pid that was given out last when the newborn were last looked at.
    newest: Option<u32>,
}

impl Hunt<'_> {
    fn look_at_all(&mut self) -> std::io::Result<()> {
        for entry in std::fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let place: (u32, u64) = (pid, entry.ino());
            // Whoever cannot be read has ended.
            if !self.seen.contains(&place) && self.look_at(pid) {
                self.seen.insert(place);
            }
        }
        Ok(())
    }

    /// Looks at those born since the last look, until nobody new is among them.
    fn follow_the_newborn(&mut self) {
        for _ in 0..LOOKS {
            let (Some(last), Some(newest)) = (self.newest, newest_pid()) else { return };
            self.newest = Some(newest);
            let before = self.stopped.len();
            // Fewer than before: they begin again from the smallest. Whoever is missed now is found among all.
            for pid in last.saturating_add(1)..=newest {
                self.look_at(pid);
            }
            if self.stopped.len() == before {
                return;
            }
        }
    }

    /// Stops a process if it belongs. False if it is not there.
    fn look_at(&mut self, pid: u32) -> bool {
        let Ok(process) = Process::read(pid) else { return false };
        if process.alive && self.roster.is_shown_by(&process) {
            match process.mark.signal(Signal::STOP) {
                Ok(true) => _ = self.stopped.insert(process.mark),
                Ok(false) => {}
                Err(error) => tracing::warn!(pid, %error, "a process could not be stopped"),
            }
        }
        true
    }
}

/// The pid that the kernel gave out last, which `/proc/loadavg` ends with (proc_loadavg(5)).
fn newest_pid() -> Option<u32> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_ascii_whitespace().last()?.parse().ok()
}
