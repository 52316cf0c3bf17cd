//! Stops processes that fork and end faster than a census comes by.
//!
//! A census lists all processes, reads each, and only then is somebody signalled: who lives for two milliseconds is
//! gone by then, and its child is not in the list. Here each is stopped as soon as it is seen, and what is known to be
//! a stranger is not read again, so that a round takes well below a millisecond. What stands still forks no more, and
//! keeps its place among the processes that a limit allows. They are killed by the caller.

use std::collections::BTreeSet;
use std::os::unix::fs::DirEntryExt;

use rustix::process::Signal;

use super::census::{Mark, Process, off_thread};
use super::termination::Roster;

/// Rounds in a row without anybody new after which nobody is left to be stopped.
const QUIET_ROUNDS: usize = 20;

/// Most rounds: then they fork faster than noxd looks, and killing what is caught is all that is left.
const ROUNDS: usize = 2_000;

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
    let mut stopped = BTreeSet::new();
    // The inode in /proc tells a process from an earlier one with its pid.
    let mut seen = BTreeSet::new();
    let mut quiet = 0;
    for _ in 0..ROUNDS {
        let before = stopped.len();
        for entry in std::fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let place: (u32, u64) = (pid, entry.ino());
            if seen.contains(&place) {
                continue;
            }
            // Whoever cannot be read has ended.
            let Ok(process) = Process::read(pid) else { continue };
            if process.alive && roster.is_shown_by(&process) {
                match process.mark.signal(Signal::STOP) {
                    Ok(true) => _ = stopped.insert(process.mark),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(pid, %error, "a process could not be stopped"),
                }
            }
            seen.insert(place);
        }
        quiet = if stopped.len() == before { quiet + 1 } else { 0 };
        if quiet == QUIET_ROUNDS {
            break;
        }
    }
    Ok(stopped.into_iter().collect())
}
